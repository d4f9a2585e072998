// UnregisterBroker (key 64), version 0: forgets a broker that is gone for good. It must be stopped, and hold no replica any more;
// `broker cluster remove` sees to that first.

package broker

import (
	"context"
	"fmt"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/balsamq/balsa/raft"
)

func (s *server) unregisterBroker(r *request) {
	req := r.msg.(*kmsg.UnregisterBrokerRequest)
	resp := kmsg.NewPtrUnregisterBrokerResponse()
	if req.BrokerID <= 0 || s.b.Image().Broker(raft.NodeID(req.BrokerID)) == nil {
		err := refuse(kerr.BrokerIDNotRegistered, fmt.Sprintf("there is no broker %d", req.BrokerID))
		resp.ErrorCode, resp.ErrorMessage = codeOf(err), messageOf(err)
		r.respond(resp)
		return
	}
	ctx, cancel := context.WithTimeout(r.c.ctx, adminTimeout(30_000))
	s.b.UnregisterBroker(ctx, raft.NodeID(req.BrokerID), func(err error) {
		cancel()
		resp.ErrorCode, resp.ErrorMessage = codeOf(err), messageOf(err)
		r.respond(resp)
	})
}

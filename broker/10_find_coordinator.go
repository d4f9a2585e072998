// FindCoordinator (key 10), versions 0 to 6: which broker coordinates a group or a transactional id. v1 brought the type of key, v4 many keys at once.
//
// The internal topic is created when somebody first asks; until it has leaders the answer is COORDINATOR_NOT_AVAILABLE, on which
// every client asks again.

package broker

import (
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/balsamq/balsa/coordinator"
)

const (
	coordinatesGroup = 0
	coordinatesTxn   = 1
)

func (s *server) findCoordinators(r *request) {
	req := r.msg.(*kmsg.FindCoordinatorRequest)
	resp := kmsg.NewPtrFindCoordinatorResponse()
	resp.NodeID = -1
	keys := req.CoordinatorKeys
	if req.Version < 4 {
		keys = []string{req.CoordinatorKey}
	}
	for _, key := range keys {
		c := kmsg.NewFindCoordinatorResponseCoordinator()
		c.Key, c.NodeID, c.Port = key, -1, -1
		var b *coordinator.Broker
		var err error
		switch req.CoordinatorType {
		case coordinatesGroup:
			b, err = s.findCoordinator(key)
		case coordinatesTxn:
			b, err = s.findTxnCoordinator(key)
		default:
			err = refuse(kerr.InvalidRequest, "this broker coordinates consumer groups and transactions only")
		}
		if err == nil {
			if ep, ok := b.Endpoint(r.c.listener); ok {
				c.NodeID, c.Host, c.Port = int32(b.ID), ep.Host, ep.Port
			} else {
				err = refuse(kerr.ListenerNotFound, "the coordinator has no listener "+r.c.listener)
			}
		}
		c.ErrorCode, c.ErrorMessage = codeOf(err), messageOf(err)
		resp.Coordinators = append(resp.Coordinators, c)
	}
	if req.Version < 4 {
		c := &resp.Coordinators[0]
		resp.ErrorCode, resp.ErrorMessage, resp.NodeID, resp.Host, resp.Port = c.ErrorCode, c.ErrorMessage, c.NodeID, c.Host, c.Port
	}
	r.respond(resp)
}

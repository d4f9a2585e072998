// InitProducerId (key 22), versions 0 to 5: an id under which a producer numbers its batches, so that a repeat is
// recognised. Ids are unique in the cluster for ever, so an idempotent producer that comes again just gets a new one.
//
// There are no transactions yet. A transactional id is refused with TRANSACTIONAL_ID_AUTHORIZATION_FAILED, the one code
// that the Java client, librdkafka and franz-go all take as final here and report as being about the transactional id;
// anything that they retry would let a producer hang in its start.

package broker

import (
	"context"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// errTransactions refuses a transactional id, here and in FindCoordinator.
var errTransactions = refuse(kerr.TransactionalIDAuthorizationFailed,
	"this broker has no transactions yet: remove transactional.id; idempotence works without")

// producerIDTimeout bounds the wait for a block of ids from the metadata group.
const producerIDTimeout = 10 * time.Second

func (s *server) initProducerID(r *request) {
	req := r.msg.(*kmsg.InitProducerIDRequest)
	resp := kmsg.NewPtrInitProducerIDResponse()
	resp.ProducerID, resp.ProducerEpoch = -1, -1
	if req.TransactionalID != nil {
		resp.ErrorCode = codeOf(errTransactions)
		if *req.TransactionalID == "" {
			resp.ErrorCode = kerr.InvalidRequest.Code
		}
		r.respond(resp)
		return
	}
	ctx, cancel := context.WithTimeout(r.c.ctx, producerIDTimeout)
	s.b.NextProducerID(ctx, func(id int64, err error) {
		cancel()
		switch {
		case err != nil:
			// Whatever it is, it passes: the metadata group changes its leader, or this broker does not see it.
			resp.ErrorCode = kerr.CoordinatorNotAvailable.Code
			s.log.Debug("no producer id", "error", err)
		default:
			resp.ProducerID, resp.ProducerEpoch = id, 0
		}
		r.respond(resp)
	})
}

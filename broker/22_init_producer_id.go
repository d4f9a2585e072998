// InitProducerId (key 22), versions 0 to 5: an id under which a producer numbers its batches, so that a repeat is
// recognised. Ids are unique in the cluster for ever, so an idempotent producer that comes again just gets a new one.
//
// One with a transactional id gets that id's producer, in a new epoch; whoever had it before is fenced, and its open transaction aborted.
// v3 says what the producer believes to have (KIP-360), v4 brought PRODUCER_FENCED. Version 6, by which a client would commit in two
// phases (KIP-939), is not served.

package broker

import (
	"context"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/balsamq/balsa/coordinator"
)

// producerIDTimeout bounds the wait for a block of ids from the metadata group.
const producerIDTimeout = 10 * time.Second

func (s *server) initProducerID(r *request) {
	req := r.msg.(*kmsg.InitProducerIDRequest)
	resp := kmsg.NewPtrInitProducerIDResponse()
	resp.ProducerID, resp.ProducerEpoch = -1, -1
	if req.TransactionalID != nil {
		s.initTxn(r, req, resp)
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

// initTxn answers a transactional producer.
func (s *server) initTxn(r *request, req *kmsg.InitProducerIDRequest, resp *kmsg.InitProducerIDResponse) {
	q := coordinator.InitRequest{TransactionalID: *req.TransactionalID, Timeout: time.Duration(req.TransactionTimeoutMillis) * time.Millisecond,
		ProducerID: -1, ProducerEpoch: -1}
	if req.Version >= 3 {
		q.ProducerID, q.ProducerEpoch = req.ProducerID, req.ProducerEpoch
	}
	err := s.transactions()
	if q.TransactionalID == "" || (q.ProducerID < 0) != (q.ProducerEpoch < 0) {
		err = kerr.InvalidRequest
	}
	if err != nil {
		resp.ErrorCode = codeOf(err)
		r.respond(resp)
		return
	}
	s.b.Txns().Init(q, func(id int64, epoch int16, err error) {
		resp.ProducerID, resp.ProducerEpoch, resp.ErrorCode = id, epoch, fencedCode(err, req.Version >= 4)
		r.respond(resp)
	})
}

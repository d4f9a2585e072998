// EndTxn (key 26), versions 0 to 5: commits or aborts a transaction. It is answered when the decision is on the disks of a quorum; the markers
// follow by themselves. v2 brought PRODUCER_FENCED, v5 the epoch, or the producer id, for the next transaction (KIP-890).

package broker

import (
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/balsamq/balsa/coordinator"
)

func (s *server) endTxn(r *request) {
	req := r.msg.(*kmsg.EndTxnRequest)
	resp := kmsg.NewPtrEndTxnResponse()
	resp.ProducerID, resp.ProducerEpoch = -1, -1
	if err := s.transactions(); err != nil {
		resp.ErrorCode = codeOf(err)
		r.respond(resp)
		return
	}
	s.b.Txns().End(coordinator.EndRequest{
		TransactionalID: req.TransactionalID, ProducerID: req.ProducerID, ProducerEpoch: req.ProducerEpoch, Commit: req.Commit, Bump: req.Version >= 5,
	}, func(id int64, epoch int16, err error) {
		resp.ErrorCode = fencedCode(err, req.Version >= 2)
		if err == nil && req.Version >= 5 {
			resp.ProducerID, resp.ProducerEpoch = id, epoch
		}
		r.respond(resp)
	})
}

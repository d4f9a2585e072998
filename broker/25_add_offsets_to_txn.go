// AddOffsetsToTxn (key 25), versions 0 to 4: a group whose offsets a transaction is about to commit. The partition of __consumer_offsets
// that holds them becomes one of the transaction's. v2 brought PRODUCER_FENCED.

package broker

import (
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/balsamq/balsa/coordinator"
)

func (s *server) addOffsetsToTxn(r *request) {
	req := r.msg.(*kmsg.AddOffsetsToTxnRequest)
	resp := kmsg.NewPtrAddOffsetsToTxnResponse()
	answer := func(err error) {
		resp.ErrorCode = fencedCode(err, req.Version >= 2)
		r.respond(resp)
	}
	if err := s.transactions(); err != nil {
		answer(err)
		return
	}
	t := s.b.Image().Topic(coordinator.ConsumerOffsetsTopic)
	if t == nil {
		s.b.EnsureOffsetsTopic()
		answer(kerr.CoordinatorNotAvailable)
		return
	}
	s.b.Txns().Add(coordinator.AddRequest{
		TransactionalID: req.TransactionalID, ProducerID: req.ProducerID, ProducerEpoch: req.ProducerEpoch, Version: 1,
		Partitions: []coordinator.TopicPartition{{Topic: t.Name, Partition: coordinator.PartitionOf(req.Group, len(t.Partitions))}},
	}, answer)
}

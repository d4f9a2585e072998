// AddPartitionsToTxn (key 24), versions 0 to 5: partitions that a transaction is about to write to. v2 brought PRODUCER_FENCED, v4 many
// transactions at once and the mere question whether partitions are in them, by which Kafka's brokers verify (ours have a call of their own);
// clients of transaction.version 2 need neither, as they add a partition by writing to it.

package broker

import (
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/balsamq/balsa/coordinator"
)

func (s *server) addPartitionsToTxn(r *request) {
	req := r.msg.(*kmsg.AddPartitionsToTxnRequest)
	resp := kmsg.NewPtrAddPartitionsToTxnResponse()
	txns := req.Transactions
	if req.Version < 4 {
		t := kmsg.NewAddPartitionsToTxnRequestTransaction()
		t.TransactionalID, t.ProducerID, t.ProducerEpoch = req.TransactionalID, req.ProducerID, req.ProducerEpoch
		for i := range req.Topics {
			rt := kmsg.NewAddPartitionsToTxnRequestTransactionTopic()
			rt.Topic, rt.Partitions = req.Topics[i].Topic, req.Topics[i].Partitions
			t.Topics = append(t.Topics, rt)
		}
		txns = []kmsg.AddPartitionsToTxnRequestTransaction{t}
	}
	answers := make([]kmsg.AddPartitionsToTxnResponseTransaction, len(txns))
	f := newFanIn(func() {
		if req.Version >= 4 {
			resp.Transactions = answers
		} else {
			for _, t := range answers[0].Topics {
				rt := kmsg.NewAddPartitionsToTxnResponseTopic()
				rt.Topic = t.Topic
				for _, p := range t.Partitions {
					rp := kmsg.NewAddPartitionsToTxnResponseTopicPartition()
					rp.Partition, rp.ErrorCode = p.Partition, p.ErrorCode
					rt.Partitions = append(rt.Partitions, rp)
				}
				resp.Topics = append(resp.Topics, rt)
			}
		}
		r.respond(resp)
	})
	for i := range txns {
		f.add()
		s.addToTxn(req.Version, &txns[i], &answers[i], f.done)
	}
	f.done()
}

// addToTxn answers for one transaction: all of its partitions are added, or none.
func (s *server) addToTxn(version int16, t *kmsg.AddPartitionsToTxnRequestTransaction, place *kmsg.AddPartitionsToTxnResponseTransaction, done func()) {
	im := s.b.Image()
	place.Default()
	place.TransactionalID = t.TransactionalID
	q := coordinator.AddRequest{TransactionalID: t.TransactionalID, ProducerID: t.ProducerID, ProducerEpoch: t.ProducerEpoch, Verify: t.VerifyOnly, Version: 1}
	if version >= 4 {
		q.Version = 2
	}
	unknown := false
	for i := range t.Topics {
		rt := kmsg.NewAddPartitionsToTxnResponseTransactionTopic()
		rt.Topic = t.Topics[i].Topic
		topic := im.Topic(rt.Topic)
		for _, p := range t.Topics[i].Partitions {
			rp := kmsg.NewAddPartitionsToTxnResponseTransactionTopicPartition()
			rp.Partition, rp.ErrorCode = p, kerr.OperationNotAttempted.Code
			if topic == nil || p < 0 || int(p) >= len(topic.Partitions) {
				rp.ErrorCode, unknown = kerr.UnknownTopicOrPartition.Code, true
			}
			rt.Partitions = append(rt.Partitions, rp)
			q.Partitions = append(q.Partitions, coordinator.TopicPartition{Topic: rt.Topic, Partition: p})
		}
		place.Topics = append(place.Topics, rt)
	}
	if unknown {
		done()
		return
	}
	answer := func(err error) {
		code := fencedCode(err, version >= 2)
		if version < 4 && code == kerr.TransactionAbortable.Code {
			code = kerr.InvalidTxnState.Code
		}
		for i := range place.Topics {
			for j := range place.Topics[i].Partitions {
				place.Topics[i].Partitions[j].ErrorCode = code
			}
		}
		done()
	}
	if err := s.transactions(); err != nil {
		answer(err)
		return
	}
	s.b.Txns().Add(q, answer)
}

// DescribeTransactions (key 65), version 0: the transactions of the named ids, as their coordinator has them.

package broker

import (
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/balsamq/balsa/coordinator"
)

func (s *server) describeTransactions(r *request) {
	req := r.msg.(*kmsg.DescribeTransactionsRequest)
	resp := kmsg.NewPtrDescribeTransactionsResponse()
	resp.TransactionStates = make([]kmsg.DescribeTransactionsResponseTransactionState, len(req.TransactionalIDs))
	f := newFanIn(func() { r.respond(resp) })
	for i, id := range req.TransactionalIDs {
		place := &resp.TransactionStates[i]
		place.Default()
		place.TransactionalID = id
		f.add()
		s.b.Txns().Describe(id, func(t coordinator.TxnInfo, err error) {
			defer f.done()
			if place.ErrorCode = codeOf(err); err != nil {
				return
			}
			place.State, place.ProducerID, place.ProducerEpoch = t.State.String(), t.ProducerID, t.ProducerEpoch
			place.TimeoutMillis, place.StartTimestamp = int32(t.Timeout.Milliseconds()), t.Start
			for j, p := range t.Partitions {
				if j == 0 || p.Topic != t.Partitions[j-1].Topic {
					rt := kmsg.NewDescribeTransactionsResponseTransactionStateTopic()
					rt.Topic = p.Topic
					place.Topics = append(place.Topics, rt)
				}
				rt := &place.Topics[len(place.Topics)-1]
				rt.Partitions = append(rt.Partitions, p.Partition)
			}
		})
	}
	f.done()
}

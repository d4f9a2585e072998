// DescribeProducers (key 61), version 0: the idempotent and transactional producers that a partition knows, and where their open
// transactions began. Any replica answers, as in Kafka, so that tools can look for transactions that hang on one of them: the leader with all
// that was acknowledged, a follower with what it has applied.

package broker

import (
	"errors"
	"sync/atomic"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/balsamq/balsa/partition"
)

// maxDescribedProducers bounds one answer: a partition may know thousands.
const maxDescribedProducers = 1 << 18

func (s *server) describeProducers(r *request) {
	req := r.msg.(*kmsg.DescribeProducersRequest)
	resp := kmsg.NewPtrDescribeProducersResponse()
	resp.Topics = make([]kmsg.DescribeProducersResponseTopic, len(req.Topics))
	g := newGather(confirmTimeout, func() { r.respond(resp) })
	im := s.b.Image()
	var left atomic.Int64
	left.Store(maxDescribedProducers)
	for i := range req.Topics {
		t, rt := &req.Topics[i], &resp.Topics[i]
		rt.Default()
		rt.Topic = t.Topic
		rt.Partitions = make([]kmsg.DescribeProducersResponseTopicPartition, len(t.Partitions))
		topic, topicErr := findTopic(im, false, t.Topic, [16]byte{})
		for j, p := range t.Partitions {
			place := &rt.Partitions[j]
			place.Default()
			place.Partition = p
			fail := func(err error) { place.ErrorCode, place.ErrorMessage = codeOf(err), messageOf(err) }
			if topicErr != nil {
				fail(topicErr)
				continue
			}
			rep, err := s.findReplica(topic, p)
			if err != nil {
				fail(err)
				continue
			}
			fail(partition.ErrUnavailable) // if nothing comes in time
			g.confirm(rep, func(err error) {
				var ps []partition.ProducerState
				if _, follower := errors.AsType[*partition.NotLeaderError](err); err == nil || follower {
					ps, err = rep.Producers()
				}
				if err == nil && left.Add(-int64(len(ps))) < 0 {
					err = partition.ErrOverloaded
				}
				fail(err)
				for _, p := range ps {
					if err != nil {
						break
					}
					a := kmsg.NewDescribeProducersResponseTopicPartitionActiveProducer()
					a.ProducerID, a.ProducerEpoch, a.LastSequence, a.LastTimestamp = p.ProducerID, int32(p.Epoch), p.LastSequence, p.LastTimestamp
					a.CoordinatorEpoch, a.CurrentTxnStartOffset = p.CoordinatorEpoch, p.TxnStart
					place.ActiveProducers = append(place.ActiveProducers, a)
				}
			})
		}
	}
	g.ready()
}

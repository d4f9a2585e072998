// DeleteRecords (key 21), versions 0 to 2: moves the start of partitions up to an offset; -1 is the high watermark. The leader
// answers with the start that is in force then, once a quorum has it on disk and it is applied there. An offset at or below the
// start is no error, one above the high watermark is OFFSET_OUT_OF_RANGE.

package broker

import (
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// deleteRecordsTimeout is how long the answer waits. Who gives it no time asks, in Kafka, for what the leader does itself before it looks at the
// time, and that is all where there is one replica. Here a quorum's sync belongs to it, for which there must be time.
func deleteRecordsTimeout(ms int32) time.Duration { return max(adminTimeout(ms), 5*time.Second) }

func (s *server) deleteRecords(r *request) {
	req := r.msg.(*kmsg.DeleteRecordsRequest)
	resp := kmsg.NewPtrDeleteRecordsResponse()
	resp.Topics = make([]kmsg.DeleteRecordsResponseTopic, len(req.Topics))
	g := newGather(deleteRecordsTimeout(req.TimeoutMillis), func() { r.respond(resp) })
	im := s.b.Image()
	for i := range req.Topics {
		t, rt := &req.Topics[i], &resp.Topics[i]
		rt.Topic = t.Topic
		rt.Partitions = make([]kmsg.DeleteRecordsResponseTopicPartition, len(t.Partitions))
		topic, topicErr := findTopic(im, false, t.Topic, [16]byte{})
		if topicErr == nil && topic.Internal() {
			topicErr = refuse(kerr.InvalidTopicException, fmt.Sprintf("topic %s belongs to the brokers", topic.Name))
		}
		if topicErr == nil && compacts(topic.Configs["cleanup.policy"]) && !deletes(topic.Configs) {
			topicErr = refuse(kerr.PolicyViolation, fmt.Sprintf("topic %s is compacted, and its cleanup.policy does not let records be deleted", topic.Name))
		}
		for j := range t.Partitions {
			p, place := &t.Partitions[j], &rt.Partitions[j]
			place.Default()
			place.Partition, place.LowWatermark = p.Partition, -1
			if topicErr != nil {
				place.ErrorCode = codeOf(topicErr)
				continue
			}
			rep, err := s.findReplica(topic, p.Partition)
			if err != nil {
				place.ErrorCode = codeOf(err)
				continue
			}
			place.ErrorCode = kerr.RequestTimedOut.Code // if nothing comes in time
			var low int64
			g.await(func(done func(error)) {
				rep.DeleteBefore(p.Offset, func(start int64, err error) {
					low = start
					done(err)
				})
			}, func(err error) {
				place.ErrorCode, place.LowWatermark = codeOf(err), -1
				if err == nil {
					place.LowWatermark = low
				}
			})
		}
	}
	g.ready()
}

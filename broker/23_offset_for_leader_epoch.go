// OffsetForLeaderEpoch (key 23), versions 0 to 4: where an epoch's records end. A consumer asks after a change of leader,
// to find out whether what it has read is still there (KIP-320).

package broker

import (
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/balsamq/balsa/partition"
)

func (s *server) offsetForLeaderEpoch(r *request) {
	req := r.msg.(*kmsg.OffsetForLeaderEpochRequest)
	resp := kmsg.NewPtrOffsetForLeaderEpochResponse()
	resp.Topics = make([]kmsg.OffsetForLeaderEpochResponseTopic, len(req.Topics))
	g := newGather(confirmTimeout, func() { r.respond(resp) })
	im := s.b.Image()
	for i := range req.Topics {
		t, rt := &req.Topics[i], &resp.Topics[i]
		rt.Topic = t.Topic
		rt.Partitions = make([]kmsg.OffsetForLeaderEpochResponseTopicPartition, len(t.Partitions))
		topic, topicErr := findTopic(im, false, t.Topic, [16]byte{})
		for j := range t.Partitions {
			p, place := &t.Partitions[j], &rt.Partitions[j]
			place.Default()
			place.Partition = p.Partition
			place.LeaderEpoch, place.EndOffset = -1, -1
			if topicErr != nil {
				place.ErrorCode = codeOf(topicErr)
				continue
			}
			rep, err := s.findReplica(topic, p.Partition)
			if err != nil {
				place.ErrorCode = codeOf(err)
				continue
			}
			place.ErrorCode = codeOf(partition.ErrUnavailable)
			g.confirm(rep, func(err error) {
				if err == nil {
					place.LeaderEpoch, place.EndOffset, err = rep.OffsetForLeaderEpoch(p.LeaderEpoch, p.CurrentLeaderEpoch, false)
				}
				place.ErrorCode = codeOf(err)
				if err != nil {
					place.LeaderEpoch, place.EndOffset = -1, -1
				}
			})
		}
	}
	g.ready()
}

// OffsetCommit (key 8), versions 1 to 10: remembers how far a group has read. v2 to v4 may say for how long, v6 brought leader
// epochs, v10 topic ids. It is answered when a quorum has it.

package broker

import (
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/balsamq/balsa/coordinator"
)

func (s *server) offsetCommit(r *request) {
	req := r.msg.(*kmsg.OffsetCommitRequest)
	resp := kmsg.NewPtrOffsetCommitResponse()
	q := &coordinator.CommitRequest{Group: req.Group, MemberID: req.MemberID, Instance: req.InstanceID, Generation: req.Generation, Retention: -1,
		Modern: req.Version >= 9}
	if req.Version >= 2 && req.Version <= 4 && req.RetentionTimeMillis >= 0 {
		q.Retention = time.Duration(min(req.RetentionTimeMillis, maxRetentionMillis)) * time.Millisecond
	}
	im := s.b.Image()
	var places []*int16 // where the error of each of q.Offsets goes
	resp.Topics = make([]kmsg.OffsetCommitResponseTopic, len(req.Topics))
	for i := range req.Topics {
		t, rt := &req.Topics[i], &resp.Topics[i]
		rt.Default()
		rt.Topic, rt.TopicID = t.Topic, t.TopicID
		topic, err := findTopic(im, req.Version >= 10, t.Topic, t.TopicID)
		rt.Partitions = make([]kmsg.OffsetCommitResponseTopicPartition, len(t.Partitions))
		for j := range t.Partitions {
			p, place := &t.Partitions[j], &rt.Partitions[j]
			place.Default()
			place.Partition = p.Partition
			switch {
			case err != nil:
				place.ErrorCode = codeOf(err)
			case p.Partition < 0 || int(p.Partition) >= len(topic.Partitions):
				place.ErrorCode = kerr.UnknownTopicOrPartition.Code
			default:
				epoch := p.LeaderEpoch
				if req.Version < 6 {
					epoch = -1
				}
				q.Offsets = append(q.Offsets, coordinator.CommittedOffset{Topic: topic.Name, TopicID: topic.ID, Partition: p.Partition,
					Offset: p.Offset, LeaderEpoch: epoch, Metadata: textOf(p.Metadata)})
				places = append(places, &place.ErrorCode)
			}
		}
	}
	if len(q.Offsets) == 0 {
		r.respond(resp)
		return
	}
	s.b.Groups().Commit(q, func(errs []error, err error) {
		for i, place := range places {
			e := err
			if e == nil {
				e = errs[i]
			}
			*place = codeOf(e)
		}
		r.respond(resp)
	})
}

// maxRetentionMillis is about a century.
const maxRetentionMillis = 100 * 365 * 24 * 3600 * 1000

// OffsetDelete (key 47), version 0: forgets what a group has committed for some partitions (KIP-496).

package broker

import (
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/balsamq/balsa/coordinator"
)

func (s *server) offsetDelete(r *request) {
	req := r.msg.(*kmsg.OffsetDeleteRequest)
	resp := kmsg.NewPtrOffsetDeleteResponse()
	resp.Topics = make([]kmsg.OffsetDeleteResponseTopic, len(req.Topics))
	im := s.b.Image()
	var parts []coordinator.TopicPartition
	var places []*int16
	for i := range req.Topics {
		t, rt := &req.Topics[i], &resp.Topics[i]
		rt.Default()
		rt.Topic = t.Topic
		rt.Partitions = make([]kmsg.OffsetDeleteResponseTopicPartition, len(t.Partitions))
		_, err := findTopic(im, false, t.Topic, [16]byte{})
		for j := range t.Partitions {
			place := &rt.Partitions[j]
			place.Default()
			place.Partition = t.Partitions[j].Partition
			if place.ErrorCode = codeOf(err); err == nil {
				parts = append(parts, coordinator.TopicPartition{Topic: t.Topic, Partition: place.Partition})
				places = append(places, &place.ErrorCode)
			}
		}
	}
	s.b.Groups().DeleteOffsets(req.Group, parts, func(errs []error, err error) {
		resp.ErrorCode = codeOf(err)
		if err != nil {
			resp.Topics = nil
		} else {
			for i := range places {
				*places[i] = codeOf(errs[i])
			}
		}
		r.respond(resp)
	})
}

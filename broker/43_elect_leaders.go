// ElectLeaders (key 43), versions 0 to 2: makes preferred replicas lead (KIP-183), by transfer, so that nobody loses
// anything. v1 brought the type of the election (KIP-460).
//
// An unclean election, of a replica that may lack acknowledged records, is not something that a group does: ELECTION_NOT_NEEDED
// where there is a leader, as in Kafka, and else ELIGIBLE_LEADERS_NOT_AVAILABLE with what to do. Null for the topics means all
// partitions, of which the answer leaves out those that need no election.

package broker

import (
	"context"
	"fmt"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/balsamq/balsa/coordinator"
)

// The types of an election.
const (
	electPreferred = 0
	electUnclean   = 1
)

func (s *server) electLeaders(r *request) {
	req := r.msg.(*kmsg.ElectLeadersRequest)
	resp := kmsg.NewPtrElectLeadersResponse()
	im := s.b.Image()
	topics := req.Topics
	all := topics == nil
	if all {
		for _, t := range im.Topics() {
			q := kmsg.ElectLeadersRequestTopic{Topic: t.Name}
			for p := range t.Partitions {
				q.Partitions = append(q.Partitions, int32(p))
			}
			topics = append(topics, q)
		}
	}
	var parts []topicPartition
	var places []*kmsg.ElectLeadersResponseTopicPartition
	refuse := func(place *kmsg.ElectLeadersResponseTopicPartition, err error) {
		place.ErrorCode, place.ErrorMessage = codeOf(err), messageOf(err)
	}
	resp.Topics = make([]kmsg.ElectLeadersResponseTopic, len(topics))
	for i := range topics {
		rt := &resp.Topics[i]
		rt.Topic = topics[i].Topic
		rt.Partitions = make([]kmsg.ElectLeadersResponseTopicPartition, len(topics[i].Partitions))
		topic, err := findTopic(im, false, topics[i].Topic, [16]byte{})
		for j, p := range topics[i].Partitions {
			place := &rt.Partitions[j]
			place.Partition = p
			switch {
			case err != nil:
				refuse(place, err)
			case p < 0 || int(p) >= len(topic.Partitions):
				refuse(place, fmt.Errorf("%w: topic %s has no partition %d", coordinator.ErrUnknownTopic, topic.Name, p))
			case req.ElectionType == electUnclean:
				refuse(place, s.refuseUnclean(topic, p))
			case req.ElectionType != electPreferred:
				refuse(place, fmt.Errorf("%w: election type %d", kerr.InvalidRequest, req.ElectionType))
			default:
				parts, places = append(parts, topicPartition{topic, p}), append(places, place)
			}
		}
	}
	answer := func() {
		if all {
			leaveOutNotNeeded(resp)
		}
		r.respond(resp)
	}
	if len(parts) == 0 {
		answer()
		return
	}
	ctx, cancel := context.WithTimeout(r.c.ctx, adminTimeout(req.TimeoutMillis))
	s.b.ElectPreferred(ctx, parts, func(errs []error) {
		cancel()
		for k, place := range places {
			refuse(place, errs[k])
		}
		answer()
	})
}

func (s *server) refuseUnclean(t *coordinator.Topic, p int32) error {
	if s.b.HasLeader(t.ID, p) {
		return refuse(kerr.ElectionNotNeeded, "the partition has a leader")
	}
	return refuse(kerr.EligibleLeadersNotAvailable, fmt.Sprintf("%s-%d has no leader, and a replica that may lack acknowledged records is not elected: "+
		"bring a majority of its replicas back; if that is not possible, 'broker partition reset-peers' says what would be lost", t.Name, p))
}

// leaveOutNotNeeded is for who asked for all.
func leaveOutNotNeeded(resp *kmsg.ElectLeadersResponse) {
	topics := resp.Topics[:0]
	for _, t := range resp.Topics {
		parts := t.Partitions[:0]
		for _, p := range t.Partitions {
			if p.ErrorCode != kerr.ElectionNotNeeded.Code {
				parts = append(parts, p)
			}
		}
		if t.Partitions = parts; len(parts) > 0 {
			topics = append(topics, t)
		}
	}
	resp.Topics = topics
}

// ConsumerGroupDescribe (key 69), versions 0 and 1: a group of the new protocol (KIP-848), its epochs, members and assignments. v1 says which
// members speak the classic protocol.

package broker

import (
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/balsamq/balsa/coordinator"
)

func (s *server) consumerGroupDescribe(r *request) {
	req := r.msg.(*kmsg.ConsumerGroupDescribeRequest)
	resp := kmsg.NewPtrConsumerGroupDescribeResponse()
	resp.Groups = make([]kmsg.ConsumerGroupDescribeResponseGroup, len(req.Groups))
	im := s.b.Image()
	for i, name := range req.Groups {
		place := &resp.Groups[i]
		place.Default()
		place.Group = name
		d, err := s.b.Groups().DescribeConsumer(name)
		if place.ErrorCode, place.ErrorMessage = codeOf(err), messageOf(err); err != nil {
			continue
		}
		if req.IncludeAuthorizedOperations {
			place.AuthorizedOperations = groupOperations
		}
		place.State, place.Epoch, place.AssignmentEpoch, place.AssignorName = d.State, d.Epoch, d.AssignmentEpoch, d.Assignor
		place.Members = make([]kmsg.ConsumerGroupDescribeResponseGroupMember, len(d.Members))
		for j := range d.Members {
			m, pm := &d.Members[j], &place.Members[j]
			pm.Default()
			pm.MemberID, pm.InstanceID, pm.RackID, pm.MemberEpoch = m.ID, m.Instance, m.Rack, m.Epoch
			pm.ClientID, pm.ClientHost, pm.SubscribedTopics = m.ClientID, m.ClientHost, m.Topics
			if m.Regex != "" {
				pm.SubscribedTopicRegex = &m.Regex
			}
			pm.Assignment, pm.TargetAssignment = namedAssignment(im, m.Assignment), namedAssignment(im, m.Target)
			if pm.MemberType = 1; m.Classic {
				pm.MemberType = 0
			}
		}
	}
	r.respond(resp)
}

// namedAssignment adds the topics' names. Partitions of topics that are gone are left out, as Kafka does.
func namedAssignment(im *coordinator.Image, parts []coordinator.TopicPartitions) kmsg.Assignment {
	a := kmsg.NewAssignment()
	for _, tp := range parts {
		t := im.TopicByID(tp.Topic)
		if t == nil {
			continue
		}
		at := kmsg.NewAssignmentTopicPartition()
		at.TopicID, at.Topic, at.Partitions = t.ID, t.Name, tp.Partitions
		a.TopicPartitions = append(a.TopicPartitions, at)
	}
	return a
}

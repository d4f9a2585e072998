// ConsumerGroupHeartbeat (key 68), versions 0 and 1: a member of a group of the new protocol (KIP-848) joins, says what it wants and owns,
// learns what to consume, and leaves. An expression matches only topics that the member may describe. v1 brought regular expressions, and members that choose their own ids.
//
// A heartbeat that changes anything is answered when a quorum has the change.

package broker

import (
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/balsamq/balsa/coordinator"
)

func (s *server) consumerGroupHeartbeat(r *request) {
	req := r.msg.(*kmsg.ConsumerGroupHeartbeatRequest)
	q := &coordinator.ConsumerHeartbeatRequest{
		Group: req.Group, MemberID: req.MemberID, Epoch: req.MemberEpoch, Instance: req.InstanceID, Rack: req.RackID,
		ClientID: string(r.header.ClientID), ClientHost: "/" + r.c.ip, Rebalance: time.Duration(req.RebalanceTimeoutMillis) * time.Millisecond,
		Topics: req.SubscribedTopicNames, Regex: req.SubscribedTopicRegex, Assignor: req.ServerAssignor, OwnID: req.Version >= 1,
	}
	if s.o.Security.Authorizer != nil {
		q.MayDescribe = func(topic string) bool { return r.mayQuietly(coordinator.OpDescribe, onTopic, topic) }
	}
	if req.Topics != nil {
		q.Owned = make([]coordinator.TopicPartitions, len(req.Topics))
	}
	for i := range req.Topics {
		q.Owned[i] = coordinator.TopicPartitions{Topic: req.Topics[i].TopicID, Partitions: req.Topics[i].Partitions}
	}
	r.surrender() // the member's rack, names and expression are copies: kmsg's strings do not look into the frame
	s.b.Groups().ConsumerHeartbeat(q, func(res coordinator.ConsumerHeartbeatResult) {
		resp := kmsg.NewPtrConsumerGroupHeartbeatResponse()
		if resp.ErrorCode, resp.ErrorMessage = codeOf(res.Err), messageOf(res.Err); res.Err != nil {
			r.respond(resp)
			return
		}
		resp.MemberID, resp.MemberEpoch, resp.HeartbeatIntervalMillis = &res.MemberID, res.Epoch, int32(res.Interval.Milliseconds())
		if res.Assigned {
			a := kmsg.NewConsumerGroupHeartbeatResponseAssignment()
			a.Topics = make([]kmsg.ConsumerGroupHeartbeatResponseAssignmentTopic, len(res.Assignment))
			for i := range res.Assignment {
				a.Topics[i].TopicID, a.Topics[i].Partitions = res.Assignment[i].Topic, res.Assignment[i].Partitions
			}
			resp.Assignment = &a
		}
		r.respond(resp)
	})
}

// ListPartitionReassignments (key 46), version 0: the partitions that are on their way to other brokers, from this broker's Image.
// No list of topics means all of them. A partition that is not moving is left out, whether it exists or not.
//
// A move that was cancelled is listed until it is taken back: nothing is being added any more, and what had been added is
// being removed.

package broker

import (
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/balsamq/balsa/coordinator"
	"github.com/balsamq/balsa/raft"
)

func (s *server) listPartitionReassignments(r *request) {
	req := r.msg.(*kmsg.ListPartitionReassignmentsRequest)
	resp := kmsg.NewPtrListPartitionReassignmentsResponse()
	im := s.b.Image()
	list := func(t *coordinator.Topic, wanted func(int32) bool) {
		out := kmsg.NewListPartitionReassignmentsResponseTopic()
		out.Topic = t.Name
		for i := range t.Partitions {
			p := &t.Partitions[i]
			if !p.Moving() || !wanted(int32(i)) {
				continue
			}
			m := kmsg.NewListPartitionReassignmentsResponseTopicPartition()
			m.Partition = int32(i)
			m.Replicas, m.AddingReplicas, m.RemovingReplicas = kafkaIDs(p.Nodes()), kafkaIDs(p.Adding()), kafkaIDs(p.Removing())
			out.Partitions = append(out.Partitions, m)
		}
		if len(out.Partitions) > 0 {
			resp.Topics = append(resp.Topics, out)
		}
	}
	if req.Topics == nil {
		if len(im.Moving()) > 0 {
			for _, t := range im.Topics() {
				list(t, func(int32) bool { return true })
			}
		}
		r.respond(resp)
		return
	}
	for i := range req.Topics {
		t := im.Topic(req.Topics[i].Topic)
		if t == nil {
			continue
		}
		asked := make(map[int32]bool, len(req.Topics[i].Partitions))
		for _, p := range req.Topics[i].Partitions {
			asked[p] = true
		}
		list(t, func(p int32) bool { return asked[p] })
	}
	r.respond(resp)
}

// kafkaIDs is never nil: clients that do not expect null are not to be surprised.
func kafkaIDs(ids []raft.NodeID) []int32 {
	out := make([]int32, len(ids))
	for i, id := range ids {
		out[i] = int32(id)
	}
	return out
}

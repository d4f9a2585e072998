// AlterPartitionReassignments (key 45), versions 0 and 1: says where partitions are to be, or (null) that they shall stay where
// they were. It is answered when that is decided; the move itself takes as long as it takes, and ListPartitionReassignments
// shows it. A move under way is replaced by another target, and a number of replicas other than before is allowed, unless the
// client forbids it (v1, KIP-860).

package broker

import (
	"context"
	"fmt"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/balsamq/balsa/coordinator"
	"github.com/balsamq/balsa/raft"
)

func (s *server) alterPartitionReassignments(r *request) {
	req := r.msg.(*kmsg.AlterPartitionAssignmentsRequest)
	resp := kmsg.NewPtrAlterPartitionAssignmentsResponse()
	resp.Topics = make([]kmsg.AlterPartitionAssignmentsResponseTopic, len(req.Topics))
	im := s.b.Image()
	type place struct{ topic, partition int }
	var (
		moves  []coordinator.Move
		places []place
	)
	fail := func(at place, err error) {
		p := &resp.Topics[at.topic].Partitions[at.partition]
		p.ErrorCode, p.ErrorMessage = codeOf(err), messageOf(err)
	}
	type key struct {
		topic     string
		partition int32
	}
	named := make(map[key]int)
	for i := range req.Topics {
		for k := range req.Topics[i].Partitions {
			named[key{req.Topics[i].Topic, req.Topics[i].Partitions[k].Partition}]++
		}
	}
	for i := range req.Topics {
		t := &req.Topics[i]
		out := &resp.Topics[i]
		out.Default()
		out.Topic = t.Topic
		out.Partitions = make([]kmsg.AlterPartitionAssignmentsResponseTopicPartition, len(t.Partitions))
		for k := range t.Partitions {
			p := &t.Partitions[k]
			out.Partitions[k].Default()
			out.Partitions[k].Partition = p.Partition
			at, name := place{i, k}, key{t.Topic, p.Partition}
			move, err := moveOf(im, t.Topic, p)
			switch {
			case err != nil:
				fail(at, err)
				continue
			case named[name] > 1:
				fail(at, refuse(kerr.InvalidRequest, "the request names the partition more than once"))
				continue
			case len(moves) == coordinator.MaxMovesPerCommand:
				fail(at, refuse(kerr.InvalidRequest, fmt.Sprintf("more than %d partitions in one request", coordinator.MaxMovesPerCommand)))
				continue
			}
			move.KeepCount = req.Version >= 1 && !req.AllowReplicationFactorChange && !move.Cancel
			moves, places = append(moves, move), append(places, at)
		}
	}
	if len(moves) == 0 {
		r.respond(resp)
		return
	}
	ctx, cancel := context.WithTimeout(r.c.ctx, adminTimeout(req.TimeoutMillis))
	s.b.Reassign(ctx, moves, func(errs []error) {
		cancel()
		for k, at := range places {
			if errs[k] != nil {
				fail(at, errs[k])
			}
		}
		r.respond(resp)
	})
}

func moveOf(im *coordinator.Image, topic string, p *kmsg.AlterPartitionAssignmentsRequestTopicPartition) (m coordinator.Move, err error) {
	t := im.Topic(topic)
	if t == nil || p.Partition < 0 || int(p.Partition) >= len(t.Partitions) {
		return m, refuse(kerr.UnknownTopicOrPartition, fmt.Sprintf("there is no %s-%d", topic, p.Partition))
	}
	m.Topic, m.Partition, m.Cancel = t.ID, p.Partition, p.Replicas == nil
	for _, id := range p.Replicas {
		if id <= 0 {
			return m, refuse(kerr.InvalidReplicaAssignment, fmt.Sprintf("%d is no broker id", id))
		}
		m.Replicas = append(m.Replicas, raft.NodeID(id))
	}
	if !m.Cancel && len(m.Replicas) == 0 {
		return m, refuse(kerr.InvalidReplicaAssignment, "the list of replicas is empty")
	}
	return m, nil
}

package broker

// Reassignments, log directories and unregistered brokers, as Kafka's tools ask about them.

import (
	"slices"
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/balsamq/balsa/coordinator"
	"github.com/balsamq/balsa/raft"
)

func alterRequest(version int16, topic string, partition int32, replicas ...int32) *kmsg.AlterPartitionAssignmentsRequest {
	req := kmsg.NewPtrAlterPartitionAssignmentsRequest()
	req.Version = version
	t := kmsg.NewAlterPartitionAssignmentsRequestTopic()
	t.Topic = topic
	p := kmsg.NewAlterPartitionAssignmentsRequestTopicPartition()
	p.Partition, p.Replicas = partition, replicas
	t.Partitions = append(t.Partitions, p)
	req.Topics = append(req.Topics, t)
	return req
}

func TestReassignments(t *testing.T) {
	h := newHarness(t, serverOptions{})
	h.back.addTopic("a", 2, nil)
	h.back.addTopic("b", 1, nil)
	c := h.dial()
	code := func(req *kmsg.AlterPartitionAssignmentsRequest) int16 {
		t.Helper()
		resp := ask[*kmsg.AlterPartitionAssignmentsResponse](c, req)
		if resp.ErrorCode != 0 || len(resp.Topics) != 1 || len(resp.Topics[0].Partitions) != 1 || resp.Topics[0].Partitions[0].Partition != req.Topics[0].Partitions[0].Partition {
			t.Fatalf("%+v", resp)
		}
		return resp.Topics[0].Partitions[0].ErrorCode
	}
	list := func(topics map[string][]int32) []kmsg.ListPartitionReassignmentsResponseTopic {
		t.Helper()
		req := kmsg.NewPtrListPartitionReassignmentsRequest()
		for name, ps := range topics {
			rt := kmsg.NewListPartitionReassignmentsRequestTopic()
			rt.Topic, rt.Partitions = name, ps
			req.Topics = append(req.Topics, rt)
		}
		resp := ask[*kmsg.ListPartitionReassignmentsResponse](c, req)
		if resp.ErrorCode != 0 {
			t.Fatalf("%+v", resp)
		}
		return resp.Topics
	}
	if got := list(nil); len(got) != 0 {
		t.Fatalf("nothing moves: %+v", got)
	}
	for _, tc := range []struct {
		req  *kmsg.AlterPartitionAssignmentsRequest
		want *kerr.Error
	}{
		{alterRequest(0, "missing", 0, 1), kerr.UnknownTopicOrPartition},
		{alterRequest(0, "a", 2, 1), kerr.UnknownTopicOrPartition},
		{alterRequest(1, "a", -1, 1), kerr.UnknownTopicOrPartition},
		{alterRequest(0, "a", 0), kerr.NoReassignmentInProgress},
		{alterRequest(1, "a", 0, 1, 1), kerr.InvalidReplicaAssignment},
		{alterRequest(1, "a", 0, 1, -1), kerr.InvalidReplicaAssignment},
		{alterRequest(1, "a", 0, 77), kerr.InvalidReplicaAssignment},
	} {
		if got := code(tc.req); got != tc.want.Code {
			t.Errorf("%+v: %v, want %v", tc.req.Topics, kerr.ErrorForCode(got), tc.want)
		}
	}
	empty := alterRequest(0, "a", 0)
	empty.Topics[0].Partitions[0].Replicas = []int32{}
	if got := code(empty); got != kerr.InvalidReplicaAssignment.Code {
		t.Errorf("no replicas at all: %v", kerr.ErrorForCode(got))
	}
	same := alterRequest(1, "a", 0, 1, 2)
	same.AllowReplicationFactorChange = false
	if got := code(same); got != kerr.InvalidReplicationFactor.Code {
		t.Errorf("another number of replicas, forbidden: %v", kerr.ErrorForCode(got))
	}
	twice := alterRequest(0, "a", 0, 2)
	twice.Topics[0].Partitions = append(twice.Topics[0].Partitions, twice.Topics[0].Partitions[0])
	if resp := ask[*kmsg.AlterPartitionAssignmentsResponse](c, twice); resp.Topics[0].Partitions[0].ErrorCode != kerr.InvalidRequest.Code ||
		resp.Topics[0].Partitions[1].ErrorCode != kerr.InvalidRequest.Code {
		t.Errorf("named twice: %+v", resp)
	}
	if got := code(alterRequest(0, "a", 1, 2)); got != 0 {
		t.Fatal(kerr.ErrorForCode(got))
	}
	for what, topics := range map[string]map[string][]int32{"all": nil, "asked for": {"a": {1, 0}, "b": {0}, "missing": {0}}} {
		got := list(topics)
		if len(got) != 1 || got[0].Topic != "a" {
			t.Fatalf("%s: %+v", what, got)
		}
		i := slices.IndexFunc(got[0].Partitions, func(p kmsg.ListPartitionReassignmentsResponseTopicPartition) bool { return p.Partition == 1 })
		if i < 0 {
			t.Fatalf("%s: %+v", what, got)
		}
		if p := got[0].Partitions[i]; !slices.Equal(p.Replicas, []int32{2, 1}) || !slices.Equal(p.AddingReplicas, []int32{2}) || !slices.Equal(p.RemovingReplicas, []int32{1}) {
			t.Fatalf("%s: %+v", what, p)
		}
	}
	// Metadata shows the replicas of both ends; what is being added is not in sync.
	h.back.moveLeader(h.back.Image().Topic("a").ID, 1)
	md := ask[*kmsg.MetadataResponse](c, metadataRequest(12, "a")).Topics[0].Partitions[1]
	if !slices.Equal(md.Replicas, []int32{2, 1}) {
		t.Fatalf("metadata while it moves: %+v", md)
	}
	if got := code(alterRequest(1, "a", 1)); got != 0 {
		t.Fatalf("cancel: %v", kerr.ErrorForCode(got))
	}
	if got := list(nil); len(got) != 1 || len(got[0].Partitions[0].AddingReplicas) != 0 || !slices.Equal(got[0].Partitions[0].RemovingReplicas, []int32{2}) {
		t.Fatalf("being taken back: %+v", got)
	}
	p := h.back.Image().Topic("a").Partitions[1]
	h.back.apply(&coordinator.Command{Settle: &coordinator.Settle{Groups: []coordinator.Settled{{Group: p.Group, Voters: p.Replicas, Index: 3}}}})
	if got := list(nil); len(got) != 0 {
		t.Fatalf("taken back: %+v", got)
	}
}

func TestDescribeLogDirs(t *testing.T) {
	h := newHarness(t, serverOptions{})
	h.back.addTopic("a", 2, nil)
	h.back.addTopic("b", 1, nil)
	c := h.dial()
	for v := int16(1); v <= 4; v++ {
		req := kmsg.NewPtrDescribeLogDirsRequest()
		req.Version = v
		resp := ask[*kmsg.DescribeLogDirsResponse](c, req)
		if len(resp.Dirs) != 1 || resp.Dirs[0].Dir != "/data" || resp.ErrorCode != 0 || len(resp.Dirs[0].Topics) != 2 {
			t.Fatalf("v%d: %+v", v, resp)
		}
		if d := resp.Dirs[0]; v >= 4 && (d.TotalBytes != 1000 || d.UsableBytes != 400) {
			t.Fatalf("v%d: %+v", v, d)
		}
		ps := resp.Dirs[0].Topics[0].Partitions
		if resp.Dirs[0].Topics[0].Topic != "a" || len(ps) != 2 || ps[1].Partition != 1 || ps[1].Size != 101 || ps[1].OffsetLag != 1 || ps[1].IsFuture {
			t.Fatalf("v%d: %+v", v, ps)
		}
		rt := kmsg.NewDescribeLogDirsRequestTopic()
		rt.Topic, rt.Partitions = "a", []int32{1, 9}
		req.Topics = append(req.Topics, rt)
		if resp = ask[*kmsg.DescribeLogDirsResponse](c, req); len(resp.Dirs[0].Topics) != 1 || len(resp.Dirs[0].Topics[0].Partitions) != 1 {
			t.Fatalf("v%d, one partition: %+v", v, resp)
		}
	}
}

func TestUnregisterBroker(t *testing.T) {
	h := newHarness(t, serverOptions{})
	c := h.dial()
	code := func(id int32) int16 {
		req := kmsg.NewPtrUnregisterBrokerRequest()
		req.BrokerID = id
		return ask[*kmsg.UnregisterBrokerResponse](c, req).ErrorCode
	}
	if got := code(99); got != kerr.BrokerIDNotRegistered.Code {
		t.Error(kerr.ErrorForCode(got))
	}
	if got := code(int32(otherNode)); got != kerr.InvalidRequest.Code {
		t.Errorf("a live one: %v", kerr.ErrorForCode(got))
	}
	b := h.back.Image().Broker(otherNode)
	h.back.apply(&coordinator.Command{Fence: &coordinator.FenceBroker{Node: otherNode, Epoch: b.Epoch, Fenced: true}})
	if got := code(int32(otherNode)); got != 0 || h.back.Image().Broker(raft.NodeID(otherNode)) != nil {
		t.Errorf("a dead one: %v", kerr.ErrorForCode(got))
	}
}

package broker

// Metadata, offsets, topics, configs and the rest of the handlers that answer from the cluster's state.

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/balsamq/balsa/coordinator"
	"github.com/balsamq/balsa/partition"
)

func metadataRequest(version int16, names ...string) *kmsg.MetadataRequest {
	req := kmsg.NewPtrMetadataRequest()
	req.Version = version
	for _, n := range names {
		t := kmsg.NewMetadataRequestTopic()
		t.Topic = &n
		req.Topics = append(req.Topics, t)
	}
	return req
}

func TestMetadataInEveryVersion(t *testing.T) {
	h := newHarness(t, serverOptions{})
	a := h.back.addTopic("a", 2, nil)
	h.back.addTopic("b", 1, nil)
	h.back.addTopic(coordinator.ConsumerOffsetsTopic, 1, nil)
	h.back.moveLeader(a, 1)
	c := h.dial()
	for v := int16(0); v <= 13; v++ {
		resp := ask[*kmsg.MetadataResponse](c, metadataRequest(v, "b", "a"))
		if len(resp.Brokers) != 2 || resp.Brokers[0].NodeID != 1 || resp.Brokers[0].Host != "broker-1.example" || resp.Brokers[1].Port != 9092 ||
			v >= 1 && (*resp.Brokers[1].Rack != "rack-2" || resp.ControllerID != 2) || v >= 2 && *resp.ClusterID != "test-cluster" {
			t.Fatalf("v%d: %+v", v, resp)
		}
		if len(resp.Topics) != 2 || *resp.Topics[0].Topic != "b" || *resp.Topics[1].Topic != "a" || v >= 10 && resp.Topics[1].TopicID != a {
			t.Fatalf("v%d: the answer has another order than the request: %+v", v, resp.Topics)
		}
		p := resp.Topics[1].Partitions
		if len(p) != 2 || p[0].Leader != 1 || p[1].Leader != 2 || p[1].Partition != 1 || v >= 7 && (p[0].LeaderEpoch != 5 || p[1].LeaderEpoch != 6) ||
			!slices.Equal(p[0].Replicas, []int32{1}) || !slices.Equal(p[0].ISR, []int32{1}) {
			t.Fatalf("v%d: %+v", v, p)
		}

		// All topics: an empty list in v0, null later; an empty list is none then.
		all := metadataRequest(v)
		if v == 0 {
			all.Topics = []kmsg.MetadataRequestTopic{}
		}
		resp = ask[*kmsg.MetadataResponse](c, all)
		if len(resp.Topics) != 3 || v >= 1 && !resp.Topics[0].IsInternal {
			t.Fatalf("v%d, all topics: %+v", v, resp.Topics)
		}
		if v >= 1 {
			none := metadataRequest(v)
			none.Topics = []kmsg.MetadataRequestTopic{}
			if resp = ask[*kmsg.MetadataResponse](c, none); len(resp.Topics) != 0 || len(resp.Brokers) != 2 {
				t.Fatalf("v%d, no topics: %+v", v, resp)
			}
		}
		// An unknown name, not to be created, is an error of its own.
		if v >= 4 {
			resp = ask[*kmsg.MetadataResponse](c, metadataRequest(v, "missing", "a"))
			if resp.Topics[0].ErrorCode != kerr.UnknownTopicOrPartition.Code || resp.Topics[1].ErrorCode != 0 || *resp.Topics[0].Topic != "missing" {
				t.Fatalf("v%d: %+v", v, resp.Topics)
			}
		}
	}
	byID := func(v int16, id [16]byte) kmsg.MetadataResponseTopic {
		req := metadataRequest(v)
		rt := kmsg.NewMetadataRequestTopic()
		rt.TopicID = id
		if v < 12 {
			rt.Topic = new(string)
		}
		req.Topics = append(req.Topics, rt)
		return ask[*kmsg.MetadataResponse](c, req).Topics[0]
	}
	if got := byID(12, a); got.ErrorCode != 0 || *got.Topic != "a" {
		t.Errorf("%+v", got)
	}
	if got := byID(12, [16]byte{9}); got.ErrorCode != kerr.UnknownTopicID.Code || got.Topic != nil || got.TopicID != [16]byte{9} {
		t.Errorf("%+v", got)
	}
	if got := byID(10, a); got.ErrorCode != kerr.InvalidRequest.Code {
		t.Errorf("%+v", got)
	}
	ops := metadataRequest(8, "a")
	ops.IncludeTopicAuthorizedOperations, ops.IncludeClusterAuthorizedOperations = true, true
	if resp := ask[*kmsg.MetadataResponse](c, ops); resp.AuthorizedOperations != clusterOperations || resp.Topics[0].AuthorizedOperations != topicOperations {
		t.Errorf("%+v", resp)
	}
	if resp := ask[*kmsg.MetadataResponse](c, metadataRequest(8, "a")); resp.AuthorizedOperations != -2147483648 || resp.Topics[0].AuthorizedOperations != -2147483648 {
		t.Errorf("%+v", resp)
	}
}

// A broker that is not alive is neither listed nor led by.
func TestMetadataOfADeadLeader(t *testing.T) {
	h := newHarness(t, serverOptions{})
	id := h.back.addTopic("a", 1, nil)
	h.back.moveLeader(id, 0)
	h.back.apply(&coordinator.Command{Fence: &coordinator.FenceBroker{Node: otherNode, Epoch: h.back.Image().Broker(otherNode).Epoch, Fenced: true}})
	c := h.dial()
	resp := ask[*kmsg.MetadataResponse](c, metadataRequest(9, "a"))
	if p := resp.Topics[0].Partitions[0]; len(resp.Brokers) != 1 || p.ErrorCode != kerr.LeaderNotAvailable.Code || p.Leader != -1 {
		t.Fatalf("%+v", resp)
	}
	// The last epoch stays, as in Kafka: clients that were told -1 would forget theirs, and believe who has older news.
	for _, nobody := range []bool{false, true} {
		if nobody {
			h.back.loseLeader(id, 0)
		}
		for v := int16(7); v <= 13; v++ {
			if p := ask[*kmsg.MetadataResponse](c, metadataRequest(v, "a")).Topics[0].Partitions[0]; p.Leader != -1 || p.LeaderEpoch != 6 || p.ErrorCode != kerr.LeaderNotAvailable.Code {
				t.Fatalf("v%d, nobody leads (%v): %+v", v, nobody, p)
			}
		}
		dreq := kmsg.NewPtrDescribeTopicPartitionsRequest()
		dt := kmsg.NewDescribeTopicPartitionsRequestTopic()
		dt.Topic, dreq.ResponsePartitionLimit = "a", 10
		dreq.Topics = append(dreq.Topics, dt)
		if p := ask[*kmsg.DescribeTopicPartitionsResponse](c, dreq).Topics[0].Partitions[0]; p.LeaderID != -1 || p.LeaderEpoch != 6 {
			t.Fatalf("nobody leads (%v): %+v", nobody, p)
		}
	}
	req := kmsg.NewPtrDescribeClusterRequest()
	req.Version, req.IncludeFencedBrokers = 2, true
	if got := ask[*kmsg.DescribeClusterResponse](c, req); len(got.Brokers) != 2 || !got.Brokers[1].IsFenced || got.Brokers[0].IsFenced {
		t.Fatalf("%+v", got)
	}
}

func TestTopicsAreCreatedOnDemand(t *testing.T) {
	h := newHarness(t, serverOptions{})
	h.back.set("num.partitions", "3")
	h.back.addTopic("with.dot", 1, nil)
	c := h.dial()
	auto := func(v int16, names ...string) []kmsg.MetadataResponseTopic {
		req := metadataRequest(v, names...)
		req.AllowAutoTopicCreation = true
		return ask[*kmsg.MetadataResponse](c, req).Topics
	}
	got := auto(9, "new", "in/valid", "with_dot", "new")
	if got[0].ErrorCode != 0 || len(got[0].Partitions) != 3 || got[3].ErrorCode != 0 {
		t.Errorf("%+v", got[0])
	}
	for i, name := range []string{1: "in/valid", 2: "with_dot"} {
		if name != "" && got[i].ErrorCode != kerr.InvalidTopicException.Code {
			t.Errorf("%s: error %d", name, got[i].ErrorCode)
		}
	}
	// Before v4 nobody could forbid it.
	if got := ask[*kmsg.MetadataResponse](c, metadataRequest(1, "old-style")).Topics; got[0].ErrorCode != 0 || len(got[0].Partitions) != 3 {
		t.Errorf("%+v", got)
	}
	if got := auto(9, coordinator.ConsumerOffsetsTopic); got[0].ErrorCode != kerr.UnknownTopicOrPartition.Code {
		t.Errorf("%+v", got)
	}
	h.back.set("auto.create.topics.enable", "false")
	if got := auto(9, "another"); got[0].ErrorCode != kerr.UnknownTopicOrPartition.Code || h.back.Image().Topic("another") != nil {
		t.Errorf("%+v", got)
	}
}

func listOffsetsRequest(v int16, topic string, ts ...int64) *kmsg.ListOffsetsRequest {
	req := kmsg.NewPtrListOffsetsRequest()
	req.Version, req.ReplicaID = v, -1
	rt := kmsg.NewListOffsetsRequestTopic()
	rt.Topic = topic
	for _, at := range ts {
		p := kmsg.NewListOffsetsRequestTopicPartition()
		p.Timestamp = at
		rt.Partitions = append(rt.Partitions, p)
	}
	req.Topics = append(req.Topics, rt)
	return req
}

func TestListOffsetsInEveryVersion(t *testing.T) {
	h := newHarness(t, serverOptions{})
	id := h.back.addTopic("t", 1, nil)
	c := h.dial()
	for range 3 {
		ask[*kmsg.ProduceResponse](c, produceRequest(9, 1, "t", id, 0, testBatch("a", "b")))
	}
	lowest := map[int16]int64{1: -2, 2: -2, 3: -2, 4: -2, 5: -2, 6: -2, 7: -3, 8: -4, 9: -5, 10: -5, 11: -6}
	for v := int16(1); v <= 11; v++ {
		resp := ask[*kmsg.ListOffsetsResponse](c, listOffsetsRequest(v, "t", -1, -2, 1_700_000_000_001, 1_800_000_000_000, -3, -4, -5, -6, -7))
		p := resp.Topics[0].Partitions
		for i, want := range []struct{ offset, ts int64 }{{6, -1}, {0, -1}, {0, 1_700_000_000_001}, {-1, -1}} {
			if p[i].ErrorCode != 0 || p[i].Offset != want.offset || p[i].Timestamp != want.ts || i < 3 && v >= 4 && p[i].LeaderEpoch != 5 {
				t.Errorf("v%d: %+v, want %+v", v, p[i], want)
			}
		}
		for i := 4; i < 9; i++ {
			ts := int64(1 - i)
			if refused := p[i].ErrorCode == kerr.UnsupportedVersion.Code; refused != (ts < lowest[v]) {
				t.Errorf("v%d, timestamp %d: error %d", v, ts, p[i].ErrorCode)
			}
		}
	}
	req := listOffsetsRequest(7, "t", -1, -1)
	req.Topics[0].Partitions[0].CurrentLeaderEpoch = 4
	req.Topics[0].Partitions[1].Partition = 9
	p := ask[*kmsg.ListOffsetsResponse](c, req).Topics[0].Partitions
	if p[0].ErrorCode != kerr.FencedLeaderEpoch.Code || p[1].ErrorCode != kerr.UnknownTopicOrPartition.Code || p[0].Offset != -1 {
		t.Errorf("%+v", p)
	}
	if p := ask[*kmsg.ListOffsetsResponse](c, listOffsetsRequest(7, "nope", -1)).Topics[0].Partitions; p[0].ErrorCode != kerr.UnknownTopicOrPartition.Code {
		t.Errorf("%+v", p)
	}
}

// The end of the log is only told once it is confirmed, and not guessed when nobody confirms it.
func TestListOffsetsIsLinearizable(t *testing.T) {
	h := newHarness(t, serverOptions{})
	id := h.back.addTopic("t", 1, nil)
	r := h.back.replica(id, 0)
	asked := make(chan func(error), 1)
	r.linear = func(done func(error)) { asked <- done }
	c := h.dial()
	n := c.send(listOffsetsRequest(10, "t", -1))
	done := <-asked
	// A produce that is acknowledged before the confirmation is in the answer.
	r.Append(&partition.AppendRequest{Batch: testBatch("x"), Acks: -1, Done: func(partition.AppendResult) {}})
	done(nil)
	got, body := c.receive()
	if p := decodeAnswer[*kmsg.ListOffsetsResponse](t, listOffsetsRequest(10, "t"), body).Topics[0].Partitions[0]; got != n || p.Offset != 1 {
		t.Fatalf("%+v", p)
	}
	req := listOffsetsRequest(10, "t", -1)
	req.TimeoutMillis = 10
	c.send(req)
	done = <-asked
	_, body = c.receive()
	if p := decodeAnswer[*kmsg.ListOffsetsResponse](t, req, body).Topics[0].Partitions[0]; p.ErrorCode != kerr.NotLeaderForPartition.Code || p.Offset != -1 {
		t.Fatalf("%+v", p)
	}
	done(nil) // too late, and harmless
	c.send(listOffsetsRequest(10, "t", -1))
	(<-asked)(partition.ErrUnavailable)
	_, body = c.receive()
	if p := decodeAnswer[*kmsg.ListOffsetsResponse](t, req, body).Topics[0].Partitions[0]; p.ErrorCode != kerr.NotLeaderForPartition.Code {
		t.Fatalf("%+v", p)
	}
}

func TestOffsetForLeaderEpochInEveryVersion(t *testing.T) {
	h := newHarness(t, serverOptions{})
	id := h.back.addTopic("t", 1, nil)
	c := h.dial()
	ask[*kmsg.ProduceResponse](c, produceRequest(9, 1, "t", id, 0, testBatch("a", "b")))
	for v := int16(0); v <= 4; v++ {
		req := kmsg.NewPtrOffsetForLeaderEpochRequest()
		req.Version = v
		rt := kmsg.NewOffsetForLeaderEpochRequestTopic()
		rt.Topic = "t"
		for i, epoch := range []int32{5, 7, 4, 5, 5} {
			p := kmsg.NewOffsetForLeaderEpochRequestTopicPartition()
			p.LeaderEpoch, p.CurrentLeaderEpoch = epoch, -1
			switch i {
			case 3:
				p.CurrentLeaderEpoch = 9
			case 4:
				p.Partition = 3
			}
			rt.Partitions = append(rt.Partitions, p)
		}
		req.Topics = append(req.Topics, rt)
		p := ask[*kmsg.OffsetForLeaderEpochResponse](c, req).Topics[0].Partitions
		if p[0].EndOffset != 2 || p[1].EndOffset != 2 || p[2].EndOffset != -1 || v >= 1 && (p[0].LeaderEpoch != 5 || p[1].LeaderEpoch != 5 || p[2].LeaderEpoch != -1) {
			t.Errorf("v%d: %+v", v, p)
		}
		if v >= 2 && p[3].ErrorCode != kerr.UnknownLeaderEpoch.Code || p[4].ErrorCode != kerr.UnknownTopicOrPartition.Code {
			t.Errorf("v%d: %+v", v, p)
		}
	}
}

func TestInitProducerID(t *testing.T) {
	h := newHarness(t, serverOptions{})
	c := h.dial()
	seen := map[int64]bool{}
	for v := int16(0); v <= 5; v++ {
		req := kmsg.NewPtrInitProducerIDRequest()
		req.Version, req.ProducerID, req.ProducerEpoch = v, -1, -1
		resp := ask[*kmsg.InitProducerIDResponse](c, req)
		if resp.ErrorCode != 0 || resp.ProducerEpoch != 0 || seen[resp.ProducerID] {
			t.Errorf("v%d: %+v", v, resp)
		}
		seen[resp.ProducerID] = true
		req.TransactionTimeoutMillis = 1000
		for id, want := range map[string]int16{"tx": kerr.NotCoordinator.Code, "": kerr.InvalidRequest.Code} {
			req.TransactionalID = &id
			if resp := ask[*kmsg.InitProducerIDResponse](c, req); resp.ErrorCode != want || resp.ProducerID != -1 {
				t.Errorf("v%d: transactional id %q: %+v", v, id, resp)
			}
		}
	}
}

func TestDescribeCluster(t *testing.T) {
	h := newHarness(t, serverOptions{})
	c := h.dial()
	for v := int16(0); v <= 2; v++ {
		req := kmsg.NewPtrDescribeClusterRequest()
		req.Version, req.IncludeClusterAuthorizedOperations = v, true
		resp := ask[*kmsg.DescribeClusterResponse](c, req)
		if resp.ErrorCode != 0 || resp.ClusterID != "test-cluster" || resp.ControllerID != 2 || len(resp.Brokers) != 2 || resp.Brokers[1].Host != "broker-2.example" ||
			resp.ClusterAuthorizedOperations != clusterOperations {
			t.Errorf("v%d: %+v", v, resp)
		}
		if v >= 1 {
			req.EndpointType = 2
			if resp := ask[*kmsg.DescribeClusterResponse](c, req); resp.ErrorCode != kerr.MismatchedEndpointType.Code || resp.ErrorMessage == nil {
				t.Errorf("v%d: %+v", v, resp)
			}
		}
	}
}

func createTopic(name string, partitions int32, rf int16, configs ...string) kmsg.CreateTopicsRequestTopic {
	t := kmsg.NewCreateTopicsRequestTopic()
	t.Topic, t.NumPartitions, t.ReplicationFactor = name, partitions, rf
	for i := 0; i < len(configs); i += 2 {
		c := kmsg.NewCreateTopicsRequestTopicConfig()
		c.Name, c.Value = configs[i], &configs[i+1]
		t.Configs = append(t.Configs, c)
	}
	return t
}

func assigned(name string, replicas ...[]int32) kmsg.CreateTopicsRequestTopic {
	t := createTopic(name, -1, -1)
	for i, r := range replicas {
		a := kmsg.NewCreateTopicsRequestTopicReplicaAssignment()
		a.Partition, a.Replicas = int32(i), r
		t.ReplicaAssignment = append(t.ReplicaAssignment, a)
	}
	return t
}

func TestCreateTopics(t *testing.T) {
	h := newHarness(t, serverOptions{})
	h.back.set("num.partitions", "4")
	h.back.addTopic("exists", 1, nil)
	h.back.addTopic("a.b", 1, nil)
	c := h.dial()
	gap := assigned("gap", []int32{1}, []int32{2})
	gap.ReplicaAssignment[1].Partition = 2
	both := assigned("both", []int32{1})
	both.NumPartitions = 1
	null := createTopic("null-config", 1, 1, "retention.ms", "1")
	null.Configs[0].Value = nil
	cases := []struct {
		topic kmsg.CreateTopicsRequestTopic
		want  *kerr.Error
		says  string
	}{
		{createTopic("plain", 2, 1), nil, ""},
		{createTopic("exists", 1, 1), kerr.TopicAlreadyExists, "exists"},
		{createTopic("defaults", -1, -1), nil, ""},
		{createTopic("bad name", 1, 1), kerr.InvalidTopicException, "bad name"},
		{createTopic("", 1, 1), kerr.InvalidTopicException, ""},
		{createTopic(strings.Repeat("x", 250), 1, 1), kerr.InvalidTopicException, "249"},
		{createTopic("a_b", 1, 1), kerr.InvalidTopicException, "a.b"},
		{createTopic(coordinator.ConsumerOffsetsTopic, 1, 1), kerr.InvalidTopicException, ""},
		{createTopic("none", 0, 1), kerr.InvalidPartitions, ""},
		{createTopic("minus", -2, 1), kerr.InvalidPartitions, ""},
		{createTopic("many", 1<<30, 1), kerr.InvalidPartitions, ""},
		{createTopic("replicas", 1, 3), kerr.InvalidReplicationFactor, "2 brokers"},
		{createTopic("noreplicas", 1, 0), kerr.InvalidReplicationFactor, ""},
		{createTopic("twice", 1, 1), kerr.InvalidRequest, "more than once"},
		{createTopic("twice", 2, 1), kerr.InvalidRequest, "more than once"},
		{createTopic("configured", 1, 1, "max.message.bytes", "1000", "message.timestamp.type", "LogAppendTime"), nil, ""},
		{createTopic("unknown-config", 1, 1, "no.such", "1"), kerr.InvalidConfig, "no.such"},
		{createTopic("bad-value", 1, 1, "max.message.bytes", "many"), kerr.InvalidConfig, "max.message.bytes"},
		{createTopic("out-of-range", 1, 1, "min.insync.replicas", "0"), kerr.InvalidConfig, "allowed"},
		{createTopic("bad-enum", 1, 1, "message.timestamp.type", "Never"), kerr.InvalidConfig, "LogAppendTime"},
		{createTopic("unsupported", 1, 1, "remote.storage.enable", "true"), kerr.InvalidConfig, "tiered"},
		{createTopic("supported", 1, 1, "remote.storage.enable", "false", "retention.ms", "-1", "flush.messages", "1"), nil, ""},
		{null, kerr.InvalidConfig, "no value"},
		{createTopic("config-twice", 1, 1, "retention.ms", "1", "retention.ms", "2"), kerr.InvalidConfig, "more than once"},
		{assigned("placed", []int32{2, 1}, []int32{1, 2}), nil, ""},
		{gap, kerr.InvalidReplicaAssignment, ""},
		{both, kerr.InvalidRequest, ""},
		{assigned("unknown-broker", []int32{7}), kerr.InvalidReplicaAssignment, "7"},
		{assigned("negative-broker", []int32{-1}), kerr.InvalidReplicaAssignment, ""},
		{assigned("same-broker", []int32{1, 1}), kerr.InvalidReplicaAssignment, ""},
		{assigned("uneven", []int32{1, 2}, []int32{1}), kerr.InvalidReplicaAssignment, ""},
		{assigned("empty", []int32{}), kerr.InvalidReplicaAssignment, ""},
	}
	req := kmsg.NewPtrCreateTopicsRequest()
	req.Version, req.TimeoutMillis = 7, 10_000
	for _, tc := range cases {
		req.Topics = append(req.Topics, tc.topic)
	}
	for _, validate := range []bool{true, false} {
		req.ValidateOnly = validate
		resp := ask[*kmsg.CreateTopicsResponse](c, req)
		for i, tc := range cases {
			got := resp.Topics[i]
			if got.Topic != tc.topic.Topic {
				t.Fatalf("answer %d is for %q, want %q", i, got.Topic, tc.topic.Topic)
			}
			if tc.want != nil {
				if got.ErrorCode != tc.want.Code || got.ErrorMessage == nil || !strings.Contains(*got.ErrorMessage, tc.says) {
					t.Errorf("%s: %v (%v), want %v saying %q", got.Topic, kerr.ErrorForCode(got.ErrorCode), got.ErrorMessage, tc.want, tc.says)
				}
				continue
			}
			topic := h.back.Image().Topic(got.Topic)
			if got.ErrorCode != 0 || (topic == nil) != validate || len(got.Configs) != len(topicConfigDefs) {
				t.Errorf("%s: error %d, in the image: %v, %d configs", got.Topic, got.ErrorCode, topic != nil, len(got.Configs))
				continue
			}
			if !validate && got.TopicID != topic.ID {
				t.Errorf("%s: id %x, want %x", got.Topic, got.TopicID, topic.ID)
			}
			switch got.Topic {
			case "defaults":
				if got.NumPartitions != 4 || got.ReplicationFactor != 1 {
					t.Errorf("%+v", got)
				}
			case "placed":
				if got.NumPartitions != 2 || got.ReplicationFactor != 2 || topic != nil && topic.Partitions[0].Replicas[0].ID != 2 {
					t.Errorf("%+v", got)
				}
			case "configured":
				for _, cfg := range got.Configs {
					if cfg.Name == "max.message.bytes" && (*cfg.Value != "1000" || kmsg.ConfigSource(cfg.Source) != kmsg.ConfigSourceDynamicTopicConfig) {
						t.Errorf("%+v", cfg)
					}
				}
			}
		}
	}
	for v := int16(0); v <= 7; v++ {
		req := kmsg.NewPtrCreateTopicsRequest()
		req.Version, req.TimeoutMillis = v, 10_000
		req.Topics = append(req.Topics, createTopic(fmt.Sprintf("v%d", v), 1, 1), createTopic("exists", 1, 1), createTopic(fmt.Sprintf("d%d", v), -1, -1))
		resp := ask[*kmsg.CreateTopicsResponse](c, req)
		if resp.Topics[0].ErrorCode != 0 || resp.Topics[1].ErrorCode != kerr.TopicAlreadyExists.Code || resp.Topics[2].ErrorCode != 0 { // kafkajs, at v3, leaves counts to the broker
			t.Errorf("v%d: %+v", v, resp.Topics)
		}
	}
	// At the time-out the answer comes, and says so.
	h.back.hang.Store(true)
	slow := kmsg.NewPtrCreateTopicsRequest()
	slow.Version, slow.TimeoutMillis = 7, 5
	slow.Topics = append(slow.Topics, createTopic("slow", 1, 1))
	if resp := ask[*kmsg.CreateTopicsResponse](c, slow); resp.Topics[0].ErrorCode != kerr.RequestTimedOut.Code {
		t.Errorf("%+v", resp.Topics)
	}
}

func TestDeleteTopics(t *testing.T) {
	h := newHarness(t, serverOptions{})
	c := h.dial()
	for v := int16(0); v <= 6; v++ {
		a, b := h.back.addTopic("a", 1, nil), h.back.addTopic("b", 1, nil)
		req := kmsg.NewPtrDeleteTopicsRequest()
		req.Version, req.TimeoutMillis = v, 10_000
		req.TopicNames = []string{"a", "nope"}
		if v >= 6 {
			name := "nope"
			byID, unknown, byName, neither, both := kmsg.NewDeleteTopicsRequestTopic(), kmsg.NewDeleteTopicsRequestTopic(), kmsg.NewDeleteTopicsRequestTopic(),
				kmsg.NewDeleteTopicsRequestTopic(), kmsg.NewDeleteTopicsRequestTopic()
			byID.TopicID, unknown.TopicID, byName.Topic = a, [16]byte{9}, &name
			both.TopicID, both.Topic = b, &name
			req.Topics = append(req.Topics, byID, byName, unknown, neither, both)
		}
		resp := ask[*kmsg.DeleteTopicsResponse](c, req)
		if resp.Topics[0].ErrorCode != 0 || *resp.Topics[0].Topic != "a" || resp.Topics[1].ErrorCode != kerr.UnknownTopicOrPartition.Code {
			t.Fatalf("v%d: %+v", v, resp.Topics)
		}
		if v >= 6 && (resp.Topics[2].ErrorCode != kerr.UnknownTopicID.Code || resp.Topics[3].ErrorCode != kerr.InvalidRequest.Code ||
			resp.Topics[4].ErrorCode != kerr.InvalidRequest.Code || resp.Topics[0].TopicID != a) {
			t.Fatalf("v%d: %+v", v, resp.Topics)
		}
		if im := h.back.Image(); im.Topic("a") != nil || im.TopicByID(b) == nil {
			t.Fatalf("v%d deleted the wrong ones", v)
		}
		// Named twice, it is not deleted; then it is.
		req = kmsg.NewPtrDeleteTopicsRequest()
		req.Version, req.TimeoutMillis, req.TopicNames = min(v, 5), 10_000, []string{"b", "b"}
		resp = ask[*kmsg.DeleteTopicsResponse](c, req)
		if resp.Topics[0].ErrorCode != kerr.InvalidRequest.Code || resp.Topics[1].ErrorCode != kerr.InvalidRequest.Code || h.back.Image().Topic("b") == nil {
			t.Fatalf("v%d: %+v", v, resp.Topics)
		}
		req.TopicNames = []string{"b"}
		if resp = ask[*kmsg.DeleteTopicsResponse](c, req); resp.Topics[0].ErrorCode != 0 {
			t.Fatalf("v%d: %+v", v, resp.Topics)
		}
	}
	h.back.addTopic("kept", 1, nil)
	h.back.addTopic(coordinator.ConsumerOffsetsTopic, 1, nil)
	req := kmsg.NewPtrDeleteTopicsRequest()
	req.Version, req.TopicNames = 5, []string{coordinator.ConsumerOffsetsTopic}
	if resp := ask[*kmsg.DeleteTopicsResponse](c, req); resp.Topics[0].ErrorCode != kerr.TopicAuthorizationFailed.Code || resp.Topics[0].ErrorMessage == nil {
		t.Fatalf("%+v", resp.Topics)
	}
	h.back.set("delete.topic.enable", "false")
	req.TopicNames = []string{"kept"}
	if resp := ask[*kmsg.DeleteTopicsResponse](c, req); resp.Topics[0].ErrorCode != kerr.TopicDeletionDisabled.Code {
		t.Fatalf("%+v", resp.Topics)
	}
}

func TestDescribeConfigs(t *testing.T) {
	h := newHarness(t, serverOptions{})
	h.back.addTopic("t", 1, map[string]string{"max.message.bytes": "1000", "retention.ms": "5"})
	h.back.set("min.insync.replicas", "2")
	h.back.set("ssl.key.password", "secret")
	c := h.dial()
	for v := int16(0); v <= 4; v++ {
		req := kmsg.NewPtrDescribeConfigsRequest()
		req.Version, req.IncludeSynonyms, req.IncludeDocumentation = v, true, true
		resource := func(typ kmsg.ConfigResourceType, name string, keys ...string) {
			r := kmsg.NewDescribeConfigsRequestResource()
			r.ResourceType, r.ResourceName, r.ConfigNames = typ, name, keys
			req.Resources = append(req.Resources, r)
		}
		resource(kmsg.ConfigResourceTypeTopic, "t")
		resource(kmsg.ConfigResourceTypeBroker, "1")
		resource(kmsg.ConfigResourceTypeTopic, "t", "max.message.bytes", "no.such")
		resource(kmsg.ConfigResourceTypeTopic, "nope")
		resource(kmsg.ConfigResourceTypeBroker, "2")
		resource(kmsg.ConfigResourceTypeBroker, "")
		resource(kmsg.ConfigResourceTypeBrokerLogger, "1")
		resource(kmsg.ConfigResourceTypeGroupConfig, "g")
		resource(99, "x")
		resource(kmsg.ConfigResourceTypeTopic, "in/valid")
		resp := ask[*kmsg.DescribeConfigsResponse](c, req)
		want := []int16{0, 0, 0, kerr.UnknownTopicOrPartition.Code, kerr.InvalidRequest.Code, 0, 0, 0, kerr.InvalidRequest.Code, kerr.InvalidTopicException.Code}
		for i, r := range resp.Resources {
			if r.ErrorCode != want[i] || r.ResourceName != req.Resources[i].ResourceName || r.ResourceType != req.Resources[i].ResourceType {
				t.Fatalf("v%d: resource %d: %d %v", v, i, r.ErrorCode, r.ErrorMessage)
			}
		}
		topic, broker := byName(resp.Resources[0].Configs), byName(resp.Resources[1].Configs)
		if len(topic) != len(topicConfigDefs) || len(broker) != len(kafkaConfigs)+len(balsaConfigs) || len(resp.Resources[2].Configs) != 1 {
			t.Fatalf("v%d: %d topic configs, %d broker configs", v, len(topic), len(broker))
		}
		if got := topic["max.message.bytes"]; *got.Value != "1000" || v >= 1 && (got.Source != kmsg.ConfigSourceDynamicTopicConfig || len(got.ConfigSynonyms) != 2 ||
			got.ConfigSynonyms[1].Name != "message.max.bytes") || v == 0 && got.IsDefault || v >= 3 && (got.ConfigType != kmsg.ConfigTypeInt || *got.Documentation == "") {
			t.Errorf("v%d: %+v", v, got)
		}
		if got := topic["min.insync.replicas"]; *got.Value != "2" || v >= 1 && (got.Source != kmsg.ConfigSourceStaticBrokerConfig || len(got.ConfigSynonyms) != 2) {
			t.Errorf("v%d: %+v", v, got)
		}
		if got := topic["cleanup.policy"]; *got.Value != "delete" || v >= 1 && got.Source != kmsg.ConfigSourceDefaultConfig || v == 0 && !got.IsDefault || got.ReadOnly {
			t.Errorf("v%d: %+v", v, got)
		}
		if got := broker["ssl.key.password"]; got.Value != nil || !got.IsSensitive || !got.ReadOnly || v >= 1 && got.ConfigSynonyms[0].Value != nil {
			t.Errorf("v%d: a password is shown: %+v", v, got)
		}
		if got := broker["broker.rack"]; got.Value != nil {
			t.Errorf("v%d: %+v", v, got)
		}
	}
}

func byName(list []kmsg.DescribeConfigsResponseResourceConfig) map[string]kmsg.DescribeConfigsResponseResourceConfig {
	m := make(map[string]kmsg.DescribeConfigsResponseResourceConfig, len(list))
	for _, c := range list {
		m[c.Name] = c
	}
	return m
}

// The table must not contradict itself: sorted, every default valid, every synonym there.
func TestConfigTable(t *testing.T) {
	if !slices.IsSortedFunc(topicConfigDefs, func(a, b configDef) int { return strings.Compare(a.name, b.name) }) {
		t.Error("topic configs are not sorted")
	}
	for i := range topicConfigDefs {
		d := &topicConfigDefs[i]
		if err := checkTopicConfig(d.name, d.def); err != nil {
			t.Errorf("%s: %v", d.name, err)
		}
		if d.doc == "" || (d.does == fixed) != (d.why != "") {
			t.Errorf("%s lacks its documentation, or the reason why it is fixed", d.name)
		}
		if d.broker != "" && brokerConfigs()[d.broker] == nil {
			t.Errorf("%s: there is no broker config %s", d.name, d.broker)
		}
	}
	if !slices.IsSortedFunc(kafkaConfigs, func(a, b struct {
		name string
		typ  kmsg.ConfigType
		def  string
	}) int {
		return strings.Compare(a.name, b.name)
	}) {
		t.Error("broker configs are not sorted")
	}
	for name := range obeyedBrokerConfigs {
		if brokerConfigs()[name] == nil {
			t.Errorf("there is no broker config %s", name)
		}
	}
	for _, k := range kafkaConfigs {
		d := configDef{typ: k.typ, least: -1 << 63, most: 1<<63 - 1}
		if k.def != unset && k.typ != kmsg.ConfigTypeDouble {
			if err := d.check(k.def); err != nil {
				t.Errorf("%s=%q: %v", k.name, k.def, err)
			}
		}
	}
}

// fullFetch and incremental build session requests over partitions of one topic.
func sessionRequest(version int16, sessionID, epoch int32, topic string, id [16]byte, offsets map[int32]int64) *kmsg.FetchRequest {
	req := fetchRequest(version, topic, id, 0, 0, 0)
	req.SessionID, req.SessionEpoch = sessionID, epoch
	req.Topics[0].Partitions = nil
	for p := range int32(10) {
		if offset, ok := offsets[p]; ok {
			req.Topics[0].Partitions = append(req.Topics[0].Partitions, fetchRequest(version, topic, id, p, offset, 0).Topics[0].Partitions...)
		}
	}
	if len(offsets) == 0 {
		req.Topics = nil
	}
	return req
}

func answered(resp *kmsg.FetchResponse) []int32 {
	var ps []int32
	for _, t := range resp.Topics {
		for _, p := range t.Partitions {
			ps = append(ps, p.Partition)
		}
	}
	return ps
}

func TestFetchSessions(t *testing.T) {
	for _, v := range []int16{7, 12, 13, 18} {
		t.Run(fmt.Sprint("v", v), func(t *testing.T) {
			h := newHarness(t, serverOptions{})
			id := h.back.addTopic("t", 4, nil)
			c := h.dial()
			put := func(p int32) {
				ask[*kmsg.ProduceResponse](c, produceRequest(9, 1, "t", id, p, testBatch("x")))
			}
			full := ask[*kmsg.FetchResponse](c, sessionRequest(v, 0, 0, "t", id, map[int32]int64{0: 0, 1: 0, 2: 0}))
			if full.SessionID == 0 || !slices.Equal(answered(full), []int32{0, 1, 2}) {
				t.Fatalf("a full fetch answers every partition: %+v", full)
			}
			epoch := int32(0)
			next := func(offsets map[int32]int64) *kmsg.FetchResponse {
				epoch++
				return ask[*kmsg.FetchResponse](c, sessionRequest(v, full.SessionID, epoch, "t", id, offsets))
			}
			if got := next(nil); got.ErrorCode != 0 || len(got.Topics) != 0 || got.SessionID != full.SessionID {
				t.Fatalf("nothing changed: %+v", got)
			}
			put(1)
			if got := next(nil); !slices.Equal(answered(got), []int32{1}) || len(got.Topics[0].Partitions[0].RecordBatches) == 0 {
				t.Fatalf("one partition has records: %+v", got)
			}
			put(0)
			put(2)
			// 1 is told again (its offset did not move), and comes last: it has had its turn.
			if got := next(nil); !slices.Equal(answered(got), []int32{0, 2, 1}) {
				t.Fatalf("order %v", answered(got))
			}
			// Offsets move on, a partition is added, another forgotten.
			req := sessionRequest(v, full.SessionID, epoch+1, "t", id, map[int32]int64{0: 1, 1: 1, 3: 0})
			forget := kmsg.NewFetchRequestForgottenTopic()
			forget.Topic, forget.TopicID, forget.Partitions = "t", id, []int32{2}
			req.ForgottenTopics = append(req.ForgottenTopics, forget)
			epoch++
			if got := ask[*kmsg.FetchResponse](c, req); !slices.Equal(answered(got), []int32{3}) {
				t.Fatalf("only the new one has something to say: %v", answered(got))
			}
			// The wrong epoch, an unknown session, ids and names mixed.
			if got := ask[*kmsg.FetchResponse](c, sessionRequest(v, full.SessionID, epoch+5, "t", id, nil)); got.ErrorCode != kerr.InvalidFetchSessionEpoch.Code {
				t.Fatalf("%+v", got)
			}
			if got := ask[*kmsg.FetchResponse](c, sessionRequest(v, full.SessionID+1, 1, "t", id, nil)); got.ErrorCode != kerr.FetchSessionIDNotFound.Code {
				t.Fatalf("%+v", got)
			}
			other := int16(12)
			if v < 13 {
				other = 13
			}
			if got := ask[*kmsg.FetchResponse](c, sessionRequest(other, full.SessionID, epoch+1, "t", id, nil)); got.ErrorCode != kerr.FetchSessionTopicIDError.Code {
				t.Fatalf("%+v", got)
			}
			// An error is told each time it is met.
			h.back.moveLeader(id, 3)
			for range 2 {
				if got := next(nil); !slices.Equal(answered(got), []int32{3}) || got.Topics[0].Partitions[0].ErrorCode != kerr.NotLeaderForPartition.Code {
					t.Fatalf("%+v", got)
				}
			}
			// A full fetch with epoch -1 ends it.
			if got := ask[*kmsg.FetchResponse](c, sessionRequest(v, full.SessionID, -1, "t", id, map[int32]int64{0: 0})); got.SessionID != 0 || got.ErrorCode != 0 {
				t.Fatalf("%+v", got)
			}
			if got := next(nil); got.ErrorCode != kerr.FetchSessionIDNotFound.Code {
				t.Fatalf("%+v", got)
			}
		})
	}
}

func TestFetchSessionsAreBounded(t *testing.T) {
	sc := newSessionCache(2)
	now := time.Unix(1_700_000_000, 0)
	sc.now = func() time.Time { return now }
	open := func(partitions int) int32 {
		offsets := map[int32]int64{}
		for p := range int32(partitions) {
			offsets[p] = 0
		}
		ctx, err := sc.begin(sessionRequest(12, 0, 0, "t", [16]byte{}, offsets))
		if err != nil {
			t.Fatal(err)
		}
		if ctx.session == nil {
			return 0
		}
		return ctx.session.id
	}
	known := func(id int32) bool { sc.mu.Lock(); defer sc.mu.Unlock(); return sc.sessions[id] != nil }
	a, b := open(3), open(3)
	if a == 0 || b == 0 || open(3) != 0 {
		t.Fatal("two sessions fit, and a third finds no place while both are young")
	}
	now = now.Add(sessionMinAge / 2)
	if _, err := sc.begin(sessionRequest(12, a, 1, "t", [16]byte{}, nil)); err != nil {
		t.Fatal(err)
	}
	now = now.Add(sessionMinAge/2 + time.Second)
	if c := open(1); c == 0 || known(b) || !known(a) {
		t.Fatal("the one that was idle for longest makes room")
	}
	if sc.partitions != 4 {
		t.Fatalf("%d partitions are accounted for", sc.partitions)
	}
	// A request that names more partitions than all sessions may have goes without one.
	huge := kmsg.NewPtrFetchRequest()
	huge.Version, huge.SessionEpoch = 12, 0
	rt := kmsg.NewFetchRequestTopic()
	rt.Partitions = make([]kmsg.FetchRequestTopicPartition, maxSessionPartitions+1)
	for i := range rt.Partitions {
		rt.Partitions[i].Partition = int32(i)
	}
	huge.Topics = append(huge.Topics, rt)
	if ctx, err := sc.begin(huge); err != nil || ctx.session != nil || len(ctx.parts) != maxSessionPartitions+1 {
		t.Fatal("no room, yet a session")
	}
}

package broker

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/balsamq/balsa/coordinator"
	"github.com/balsamq/balsa/partition"
	"github.com/balsamq/balsa/raft"
)

func lookupRequest(v int16, topic, key string) *kmsg.ListOffsetsRequest {
	req := listOffsetsRequest(v, topic, -1)
	req.Topics[0].Partitions[0].UnknownTags.Set(tagKey, []byte(key))
	return req
}

// A key is looked up by a tagged field, in the versions that have such; whoever sends none gets none, and what is asked beside it is answered as ever.
func TestLookup(t *testing.T) {
	h := newHarness(t, serverOptions{})
	id := h.back.addTopic("m", 1, map[string]string{coordinator.ConditionalAppend: "true", "cleanup.policy": "compact"})
	h.back.addTopic("plain", 1, nil)
	h.back.replica(id, 0).keys = map[string]partition.KeyResult{"k": {Offset: 7, Timestamp: 1234, LeaderEpoch: 3, Value: []byte("v")}, "empty": {Offset: 8, Timestamp: 5, LeaderEpoch: 4}}
	c := h.dial()
	for v := int16(6); v <= 11; v++ {
		for key, want := range map[string]struct {
			offset, ts int64
			epoch      int32
			tag        string
		}{"k": {7, 1234, 3, "\x00v"}, "empty": {8, 5, 4, "\x00"}, "none": {-1, -1, -1, "\x00"}, "": {-1, -1, -1, "\x00"}} {
			p := ask[*kmsg.ListOffsetsResponse](c, lookupRequest(v, "m", key)).Topics[0].Partitions[0]
			var got []byte
			p.UnknownTags.Each(func(tag uint32, b []byte) {
				if tag == tagKey {
					got = b
				}
			})
			if p.ErrorCode != 0 || p.Offset != want.offset || p.Timestamp != want.ts || p.LeaderEpoch != want.epoch || string(got) != want.tag {
				t.Errorf("v%d, %q: %+v, %q", v, key, p, got)
			}
		}
		if p := ask[*kmsg.ListOffsetsResponse](c, listOffsetsRequest(v, "m", -1)).Topics[0].Partitions[0]; p.UnknownTags.Len() != 0 || p.Offset != 0 {
			t.Errorf("v%d without the tag: %+v", v, p)
		}
		other := listOffsetsRequest(v, "m", -1)
		other.Topics[0].Partitions[0].UnknownTags.Set(tagTopic+1, []byte("k"))
		if p := ask[*kmsg.ListOffsetsResponse](c, other).Topics[0].Partitions[0]; p.UnknownTags.Len() != 0 || p.Offset != 0 {
			t.Errorf("v%d with another tag: %+v", v, p)
		}
	}
	if p := ask[*kmsg.ListOffsetsResponse](c, lookupRequest(5, "m", "k")).Topics[0].Partitions[0]; p.Offset != 0 {
		t.Errorf("a version without tags: %+v", p)
	}
	code := func(req *kmsg.ListOffsetsRequest) *kerr.Error {
		p := ask[*kmsg.ListOffsetsResponse](c, req).Topics[0].Partitions[0]
		if p.Offset != -1 || p.UnknownTags.Len() != 0 {
			t.Errorf("an error with an answer: %+v", p)
		}
		return kerr.TypedErrorForCode(p.ErrorCode)
	}
	if got := code(lookupRequest(9, "plain", "k")); got != kerr.InvalidRequest {
		t.Errorf("an ordinary topic: %v", got)
	}
	fenced := lookupRequest(9, "m", "k")
	fenced.Topics[0].Partitions[0].CurrentLeaderEpoch = 4
	if got := code(fenced); got != kerr.FencedLeaderEpoch {
		t.Errorf("an old epoch: %v", got)
	}
	named := lookupRequest(9, "m", "k")
	named.Topics[0].Partitions[0].UnknownTags.Set(tagTopic, id[:])
	if p := ask[*kmsg.ListOffsetsResponse](c, named).Topics[0].Partitions[0]; p.Offset != 7 {
		t.Errorf("with the topic's id: %+v", p)
	}
	for _, other := range [][]byte{make([]byte, 16), id[:15], nil} {
		named.Topics[0].Partitions[0].UnknownTags.Set(tagTopic, other)
		if got := code(named); got != kerr.UnknownTopicID {
			t.Errorf("with the id %x: %v", other, got)
		}
	}
	two := lookupRequest(9, "m", "k")
	two.Topics[0].Partitions = append(two.Topics[0].Partitions, lookupRequest(9, "m", "k").Topics[0].Partitions[0])
	if got := code(two); got != kerr.InvalidRequest {
		t.Errorf("two look-ups: %v", got)
	}
	mixed := lookupRequest(9, "m", "k")
	mixed.Topics[0].Partitions = append(mixed.Topics[0].Partitions, listOffsetsRequest(9, "m", -2).Topics[0].Partitions[0])
	if p := ask[*kmsg.ListOffsetsResponse](c, mixed).Topics[0].Partitions; p[0].Offset != 7 || p[1].Offset != 0 || p[1].UnknownTags.Len() != 0 {
		t.Errorf("a key and a start: %+v", p)
	}
	r := h.back.replica(id, 0)
	r.mu.Lock()
	r.notLeader = true
	r.mu.Unlock()
	if got := code(lookupRequest(9, "m", "k")); got != kerr.NotLeaderForPartition {
		t.Errorf("not the leader: %v", got)
	}
}

// The key is looked up as of a moment after the question, when the request's bytes may be another's already.
func TestLookupIsLinearizable(t *testing.T) {
	h := newHarness(t, serverOptions{})
	id := h.back.addTopic("m", 1, map[string]string{coordinator.ConditionalAppend: "true", "cleanup.policy": "compact"})
	r := h.back.replica(id, 0)
	r.keys = map[string]partition.KeyResult{}
	asked := make(chan func(error), 1)
	r.linear = func(done func(error)) { asked <- done }
	c := h.dial()
	req := lookupRequest(10, "m", strings.Repeat("key", 100))
	n := c.send(req)
	done := <-asked
	r.mu.Lock()
	r.linear, r.keys[strings.Repeat("key", 100)] = nil, partition.KeyResult{Offset: 3}
	r.mu.Unlock()
	other := h.dial()
	for range 20 {
		ask[*kmsg.ListOffsetsResponse](other, lookupRequest(10, "m", string(bytes.Repeat([]byte("x"), 300))))
	}
	done(nil)
	got, body := c.receive()
	if p := decodeAnswer[*kmsg.ListOffsetsResponse](t, req, body).Topics[0].Partitions[0]; got != n || p.ErrorCode != 0 || p.Offset != 3 {
		t.Errorf("%+v", p)
	}
	r.mu.Lock()
	r.linear = func(done func(error)) { done(partition.ErrUnavailable) }
	r.mu.Unlock()
	if p := ask[*kmsg.ListOffsetsResponse](c, req).Topics[0].Partitions[0]; p.ErrorCode != kerr.NotLeaderForPartition.Code || p.UnknownTags.Len() != 0 {
		t.Errorf("without a quorum: %+v", p)
	}
}

// balsa.conditional.append is given when a topic is created, or never; what goes with it stays; and all brokers must know it.
func TestConditionalAppendConfig(t *testing.T) {
	h := newHarness(t, serverOptions{})
	c := h.dial()
	create := func(name string, configs ...string) *kerr.Error {
		t.Helper()
		req := kmsg.NewPtrCreateTopicsRequest()
		req.Version, req.TimeoutMillis = 7, 5000
		rt := kmsg.NewCreateTopicsRequestTopic()
		rt.Topic, rt.NumPartitions, rt.ReplicationFactor = name, 1, 1
		for i := 0; i < len(configs); i += 2 {
			cf := kmsg.NewCreateTopicsRequestTopicConfig()
			cf.Name, cf.Value = configs[i], &configs[i+1]
			rt.Configs = append(rt.Configs, cf)
		}
		req.Topics = append(req.Topics, rt)
		return kerr.TypedErrorForCode(ask[*kmsg.CreateTopicsResponse](c, req).Topics[0].ErrorCode)
	}
	const name = coordinator.ConditionalAppend
	for i, x := range []struct {
		configs []string
		want    *kerr.Error
	}{
		{[]string{name, "true"}, kerr.InvalidConfig},
		{[]string{name, "true", "cleanup.policy", "delete"}, kerr.InvalidConfig},
		{[]string{name, "maybe", "cleanup.policy", "compact"}, kerr.InvalidConfig},
		{[]string{name, "true", "cleanup.policy", "compact,delete"}, nil},
		{[]string{name, " TRUE"}, kerr.InvalidConfig},
		{[]string{name, "false"}, nil},
	} {
		if got := create(fmt.Sprint("t", i), x.configs...); got != x.want {
			t.Errorf("%v: %v, want %v", x.configs, got, x.want)
		}
	}
	if err := create("m", name, " True ", "cleanup.policy", " compact "); err != nil {
		t.Fatal(err)
	}
	if err := create("plain", "cleanup.policy", "compact"); err != nil {
		t.Fatal(err)
	}
	for _, x := range []struct {
		topic string
		op    configOp
		want  *kerr.Error
	}{
		{"m", setTo(name, "false"), kerr.InvalidConfig},
		{"m", unsetOp(name), kerr.InvalidConfig},
		{"m", setTo(name, "true"), nil},
		{"m", setTo("cleanup.policy", "delete"), kerr.InvalidConfig},
		{"m", unsetOp("cleanup.policy"), kerr.InvalidConfig},
		{"m", setTo("cleanup.policy", "compact,delete"), nil},
		{"m", setTo("retention.ms", "1000"), nil},
		{"plain", setTo(name, "true"), kerr.InvalidConfig},
		{"plain", setTo(name, "false"), nil},
	} {
		resp := ask[*kmsg.IncrementalAlterConfigsResponse](c, incrementalAlter(1, kmsg.ConfigResourceTypeTopic, x.topic, x.op))
		if got := kerr.TypedErrorForCode(resp.Resources[0].ErrorCode); got != x.want {
			t.Errorf("%s: %+v: %v, want %v", x.topic, x.op, got, x.want)
		}
	}
	grow := kmsg.NewPtrCreatePartitionsRequest()
	grow.Version, grow.TimeoutMillis = 3, 5000
	gt := kmsg.NewCreatePartitionsRequestTopic()
	gt.Topic, gt.Count = "m", 2
	grow.Topics = append(grow.Topics, gt)
	if got := ask[*kmsg.CreatePartitionsResponse](c, grow).Topics[0].ErrorCode; got != kerr.InvalidRequest.Code {
		t.Errorf("more partitions: %d", got)
	}

	// The level cannot be lowered while there is such a topic, and without the level there can be none.
	if h.back.Image().Topic("m") == nil {
		t.Fatal("no topic")
	}
	lower := &coordinator.Command{SetFeature: &coordinator.SetFeature{Name: metadataVersion, Level: coordinator.LevelAdmin}}
	if err := h.back.apply(lower).Err(); err == nil || !strings.Contains(err.Error(), name) {
		t.Errorf("lowered: %v", err)
	}
	old := newHarness(t, serverOptions{})
	if err := old.back.apply(lower).Err(); err != nil {
		t.Fatal(err)
	}
	c = old.dial()
	if got := create("m", name, "true", "cleanup.policy", "compact"); got != kerr.UnsupportedVersion {
		t.Errorf("with an older level: %v", got)
	}
	body := &coordinator.Command{CreateTopics: &coordinator.CreateTopics{Topics: []coordinator.NewTopic{{Name: "m", ID: coordinator.TopicID{9}, Replicas: [][]raft.NodeID{{selfNode}}, Configs: map[string]string{name: "true"}}}}}
	if err := old.back.apply(body).Err(); codeOf(err) != kerr.UnsupportedVersion.Code {
		t.Errorf("a command with an older level: %v", err)
	}
}

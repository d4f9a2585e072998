package broker

import (
	"maps"
	"reflect"
	"testing"

	"github.com/balsamq/balsa/coordinator"
	"github.com/balsamq/balsa/raft"
	"github.com/balsamq/balsa/raft/multi"
)

// A follower's rate is what it takes in from all leaders together, and counts for the replicas of its own that the topic names.
func TestReplicationRates(t *testing.T) {
	h := newFakeBackend(t)
	h.apply(&coordinator.Command{Register: &coordinator.RegisterBroker{Node: 3, Incarnation: 13, Endpoints: []coordinator.Endpoint{{Listener: "PLAINTEXT", Host: "c", Port: 1}}, RPC: "c:1"}})
	set := func(kind, name string, topic coordinator.TopicID, configs map[string]string) {
		t.Helper()
		c := coordinator.ConfigChange{Kind: kind, Name: name, Topic: topic, Set: map[string]*string{}}
		for k, v := range configs {
			c.Set[k] = &v
		}
		if r := h.apply(&coordinator.Command{SetConfigs: &coordinator.SetConfigs{Changes: []coordinator.ConfigChange{c}}}); r.Err() != nil || r.Items[0].Err() != nil {
			t.Fatal(r.Err(), r.Items)
		}
	}
	leaders := map[int32]raft.NodeID{}
	rates := func(self raft.NodeID, lead int64, followers map[raft.NodeID]int64) {
		t.Helper()
		l, f := replicationRates(h.Image(), self, func(_ coordinator.TopicID, p int32) raft.NodeID { return leaders[p] })
		if l != lead || !maps.Equal(f, followers) {
			t.Errorf("broker %d: %d as a leader, followers %v; want %d, %v", self, l, f, lead, followers)
		}
	}
	rates(1, 0, nil)
	set(coordinator.ConfigBroker, "1", coordinator.TopicID{}, map[string]string{leaderRate: "1000", followerRate: "100"})
	set(coordinator.ConfigBroker, "3", coordinator.TopicID{}, map[string]string{leaderRate: " 0", followerRate: "+0600"})
	rates(1, 1000, map[raft.NodeID]int64{3: 600})
	rates(2, 0, map[raft.NodeID]int64{1: 100, 3: 600})
	rates(3, 1, map[raft.NodeID]int64{1: 100})
	id := h.addTopic("t", 4, map[string]string{followerThrottled: "0:3, 1:3,3:3,2:1"})
	for p := range int32(4) {
		if r := h.apply(&coordinator.Command{Reassign: &coordinator.Reassign{Brokers: []raft.Member{{ID: 3, Incarnation: 13}}, Moves: []coordinator.Move{{Topic: id, Partition: p, Replicas: []raft.NodeID{3}}}}}); r.Err() != nil || r.Moves[0].Err() != nil {
			t.Fatal(r.Err(), r.Moves)
		}
	}
	rates(2, 0, map[raft.NodeID]int64{1: 100, 3: 600}) // no leaders yet
	leaders = map[int32]raft.NodeID{0: 1, 1: 1, 2: 2, 3: 1}
	rates(1, 1000, map[raft.NodeID]int64{3: 600}) // partition 2, whose leader is another, is not named
	leaders[3] = 2
	rates(1, 1000, map[raft.NodeID]int64{3: 300})
	rates(2, 0, map[raft.NodeID]int64{1: 100, 3: 300})
	leaders[3] = 3
	rates(1, 1000, map[raft.NodeID]int64{3: 600})

	p := &h.Image().Topic("t").Partitions[0]
	for _, tc := range []struct {
		leaders, followers string
		self               raft.NodeID
		want               multi.Throttled
	}{
		{"", "", 1, multi.Throttled{}},
		{"0:1", "", 1, multi.Throttled{Leader: true}},
		{"0:2, 1:1", "", 1, multi.Throttled{}},
		{"", "0:3", 1, multi.Throttled{Followers: []raft.NodeID{3}}},
		{"", "0:2,1:3", 1, multi.Throttled{}},
		{" * ", "*", 1, multi.Throttled{Leader: true, Followers: []raft.NodeID{3}}},
		{"0:1", "*", 3, multi.Throttled{Followers: []raft.NodeID{1}}},
	} {
		if got := throttled(map[string]string{leaderThrottled: tc.leaders, followerThrottled: tc.followers}, tc.self, 0, p); !reflect.DeepEqual(got, tc.want) {
			t.Errorf("leaders %q, followers %q, on broker %d: %+v, want %+v", tc.leaders, tc.followers, tc.self, got, tc.want)
		}
	}
}

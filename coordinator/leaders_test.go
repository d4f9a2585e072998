package coordinator

import (
	"slices"
	"testing"

	"github.com/balsamq/balsa/raft"
)

func TestWhoShallLead(t *testing.T) {
	l := newLog(t)
	l.found(3)
	l.create("", "t", topicID(1), []raft.NodeID{1, 2, 3}, []raft.NodeID{2, 3, 1}, []raft.NodeID{1})
	bar := func(ids ...raft.NodeID) *Image {
		for id := raft.NodeID(1); id <= 3; id++ {
			r := register(id, raft.Incarnation(100+id), "r").Register
			r.NeverLead = slices.Contains(ids, id)
			if res := l.do(&Command{Register: r}); res.Err() != nil {
				t.Fatal(res.Err())
			}
		}
		return l.md.Image()
	}
	check := func(im *Image, want ...raft.NodeID) {
		t.Helper()
		for i, w := range want {
			if got := im.Preferred(&im.TopicByID(topicID(1)).Partitions[i]); got != w {
				t.Errorf("partition %d: %d is preferred, want %d", i, got, w)
			}
		}
	}
	check(bar(), 1, 2, 1)
	im := bar(1)
	check(im, 2, 2, 1) // the sole replica leads, whatever is said of its broker
	p := &im.TopicByID(topicID(1)).Partitions[0]
	if im.MayLead(p, 1) || !im.MayLead(p, 3) {
		t.Error("who may lead is wrong")
	}
	want := []raft.NodePriority{{ID: 2, Priority: raft.PreferredPriority}, {ID: 1, Priority: raft.NeverLeads}}
	if got := im.Priorities(p); !slices.Equal(got, want) {
		t.Errorf("priorities %v, want %v", got, want)
	}
	if got := im.Priorities(&im.TopicByID(topicID(1)).Partitions[2]); got != nil {
		t.Errorf("priorities of a sole replica: %v", got)
	}
	check(bar(1, 2, 3), 1, 2, 1) // where all are barred, none is
	// A new partition prefers none that never leads.
	for _, r := range must(bar(2).PlaceTopic(12, 3, 5))(t) {
		if r[0] == 2 {
			t.Errorf("placement prefers a broker that never leads: %v", r)
		}
	}
}

func must(v [][]raft.NodeID, err error) func(*testing.T) [][]raft.NodeID {
	return func(t *testing.T) [][]raft.NodeID {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

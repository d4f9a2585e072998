package coordinator

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"testing"

	"github.com/balsamq/balsa/raft"
	"pgregory.net/rapid"
)

func imageOf(racks ...string) *Image {
	d := newImage().draft()
	d.clusterID = "c"
	for i, r := range racks {
		d.putBroker(&Broker{ID: raft.NodeID(i + 1), Incarnation: raft.Incarnation(i + 100), Rack: r})
	}
	return d.Image
}

func spread(counts map[raft.NodeID]int, brokers int) int {
	lo, hi := 1<<30, 0
	for i := range brokers {
		n := counts[raft.NodeID(i+1)]
		lo, hi = min(lo, n), max(hi, n)
	}
	return hi - lo
}

func TestPlacementIsEven(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		n := rapid.IntRange(1, 9).Draw(rt, "brokers")
		rf := rapid.IntRange(1, min(n, 5)).Draw(rt, "rf")
		parts := rapid.IntRange(1, 40).Draw(rt, "partitions")
		seed := rapid.Uint64().Draw(rt, "seed")
		im := imageOf(make([]string, n)...)
		got, err := im.PlaceTopic(parts, rf, seed)
		if err != nil {
			rt.Fatal(err)
		}
		if again, _ := im.PlaceTopic(parts, rf, seed); !reflect.DeepEqual(got, again) {
			rt.Fatal("the same question has two answers")
		}
		leaders, replicas := map[raft.NodeID]int{}, map[raft.NodeID]int{}
		for _, r := range got {
			leaders[r[0]]++
			for i, id := range r {
				replicas[id]++
				if slices.Contains(r[:i], id) {
					rt.Fatalf("broker %d twice in %v", id, r)
				}
			}
		}
		if s := spread(leaders, n); s > 1 {
			rt.Fatalf("leaders differ by %d: %v", s, leaders)
		}
		if s := spread(replicas, n); s > 1 {
			rt.Fatalf("replicas differ by %d: %v in %v", s, replicas, got)
		}
	})
}

func TestPlacementUsesAllRacks(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		racks := rapid.IntRange(1, 4).Draw(rt, "racks")
		n := rapid.IntRange(racks, 9).Draw(rt, "brokers")
		rf := rapid.IntRange(1, n).Draw(rt, "rf")
		names := make([]string, n)
		size := map[string]int{}
		for i := range names {
			names[i] = fmt.Sprint("r", i%racks)
			size[names[i]]++
		}
		got, err := imageOf(names...).PlaceTopic(20, rf, 3)
		if err != nil {
			rt.Fatal(err)
		}
		for _, r := range got {
			used := map[string]bool{}
			for _, id := range r {
				used[names[id-1]] = true
			}
			if len(used) != min(rf, racks) {
				rt.Fatalf("%d replicas in %d of %d racks: %v", rf, len(used), racks, r)
			}
		}
	})
}

// Many topics of one partition must spread as one topic of many partitions does.
func TestPlacementOverTopics(t *testing.T) {
	l := newLog(t)
	l.found(5)
	leaders, replicas := map[raft.NodeID]int{}, map[raft.NodeID]int{}
	for i := range 50 {
		p, err := l.md.Image().PlaceTopic(1, 3, 0)
		if err != nil {
			t.Fatal(err)
		}
		l.create("", fmt.Sprint("t", i), topicID(i+1), p...)
		leaders[p[0][0]]++
		for _, id := range p[0] {
			replicas[id]++
		}
	}
	if spread(leaders, 5) > 1 || spread(replicas, 5) > 1 {
		t.Fatalf("leaders %v, replicas %v", leaders, replicas)
	}
}

func TestPlacementRefuses(t *testing.T) {
	im := imageOf("", "", "")
	d := im.draft()
	b := *d.Broker(3)
	b.Fenced = true
	d.putBroker(&b)
	im = d.Image
	if _, err := im.PlaceTopic(1, 3, 0); !errors.Is(err, ErrInvalidReplicationFactor) {
		t.Errorf("three replicas on two live brokers: %v", err)
	}
	if _, err := im.PlaceTopic(0, 1, 0); !errors.Is(err, ErrInvalidPartitions) {
		t.Error(err)
	}
	if _, err := im.PlaceTopic(MaxPartitionsPerTopic+1, 1, 0); !errors.Is(err, ErrInvalidPartitions) {
		t.Error(err)
	}
	for _, bad := range [][][]raft.NodeID{{{3}}, {{4}}, {{1, 1}}, {{1, 2}, {1}}, {{1}, {}}, {}} {
		if err := im.CheckAssignment(0, bad); err == nil {
			t.Errorf("%v was accepted", bad)
		}
	}
	if err := im.CheckAssignment(0, [][]raft.NodeID{{1, 2}, {2, 1}}); err != nil {
		t.Error(err)
	}
}

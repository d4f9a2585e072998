// Majorities against their definition, over many memberships: what etcd's quorum/testdata lists case by case.

package raft

import (
	"math/rand/v2"
	"testing"
)

// atLeast: a majority of members has reached v.
func atLeast(members []Member, f func(Member) Index, v Index) bool {
	n := 0
	for _, m := range members {
		if f(m) >= v {
			n++
		}
	}
	return n > len(members)/2
}

func randomConf(rng *rand.Rand) ConfState {
	pick := func(max int) []Member {
		var ids []NodeID
		for id := NodeID(1); id <= 12 && len(ids) < max; id++ {
			if rng.IntN(2) == 0 {
				ids = append(ids, id)
			}
		}
		return members(ids...)
	}
	c := ConfState{Voters: pick(1 + rng.IntN(11))} // more than fit into majorityValue's own array, too
	for len(c.Voters) == 0 {
		c.Voters = pick(3)
	}
	if rng.IntN(2) == 0 {
		c.Outgoing = pick(1 + rng.IntN(7))
	}
	return c
}

// TestQuorumValue: what is committed is the largest index that a majority of each half has reached.
func TestQuorumValue(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 3))
	for range 20000 {
		c := randomConf(rng)
		reached := map[NodeID]Index{}
		for id := NodeID(1); id <= 12; id++ {
			reached[id] = Index(rng.IntN(6))
		}
		f := func(m Member) Index { return reached[m.ID] }
		holds := func(v Index) bool {
			return atLeast(c.Voters, f, v) && (!c.Joint() || atLeast(c.Outgoing, f, v))
		}
		got := quorumValue(&c, f)
		if !holds(got) || holds(got+1) {
			t.Fatalf("%v with %v: %d", c, reached, got)
		}
	}
	if got := quorumValue(&ConfState{}, func(Member) Index { return 7 }); got != 0 {
		t.Fatalf("nobody has reached %d (etcd: everything)", got)
	}
}

// TestTally: an election is won when a majority of each half has said yes, lost when that cannot come about any more whatever the
// others say, and open in between.
func TestTally(t *testing.T) {
	rng := rand.New(rand.NewPCG(4, 4))
	for range 20000 {
		c := randomConf(rng)
		var votes []ballot
		said := map[NodeID]int{} // 1: yes, -1: no
		for id := NodeID(1); id <= 12; id++ {
			if k := rng.IntN(3); k > 0 {
				votes = append(votes, ballot{id, k == 1})
				said[id] = 3 - 2*k
			}
		}
		won := func(rest Index) bool { // if those who have not said anything said so
			f := func(m Member) Index {
				switch said[m.ID] {
				case 1:
					return 1
				case -1:
					return 0
				}
				return rest
			}
			return atLeast(c.Voters, f, 1) && (!c.Joint() || atLeast(c.Outgoing, f, 1))
		}
		want := votePending
		if won(0) {
			want = voteWon
		} else if !won(1) {
			want = voteLost
		}
		if got := tally(&c, votes); got != want {
			t.Fatalf("%v with %v: %d, want %d", c, votes, got, want)
		}
	}
}

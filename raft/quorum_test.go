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

// Lacks counts the reports that a commit takes, whoever they come from, also while a configuration is joint; and none of fewer commits.
func TestLacks(t *testing.T) {
	for _, c := range []struct {
		conf  ConfState
		lacks int
	}{
		{ConfState{Voters: members(1)}, 1},
		{ConfState{Voters: members(1, 2, 3)}, 2},
		{ConfState{Voters: members(1, 2, 3, 4, 5)}, 3},
		{ConfState{Voters: members(1, 2, 3), Outgoing: members(1, 2, 3, 4, 5)}, 3},
		{ConfState{Voters: members(1, 2, 3), Learners: members(4)}, 0}, // whoever catches up is sent more at each answer
	} {
		w := newCluster(1)
		var ids []NodeID
		for _, ms := range [][]Member{c.conf.Voters, c.conf.Outgoing, c.conf.Learners} {
			for _, m := range ms {
				if w.node(m.ID) == nil {
					w.add(m.ID, c.conf, true)
					ids = append(ids, m.ID)
				}
			}
		}
		if !w.run(testET*10, func() bool { l := w.leader(); return l != nil && l.r.applied >= l.r.termStart }) {
			t.Fatalf("%v: no leader", ids)
		}
		l := w.leader()
		if c.conf.Joint() { // left by itself as soon as something of the term is committed
			l.r.confs = append(l.r.confs, confAt{l.r.last, c.conf})
			l.r.confChanged()
			for _, p := range l.r.peers {
				p.Match = l.r.last
				p.becomeReplicate()
			}
		}
		if n := l.r.Lacks(); n != 0 {
			t.Fatalf("%v: lacks %d with all committed", ids, n)
		}
		if err := l.propose("x"); err != nil {
			t.Fatal(err)
		}
		l.process()
		if n := l.r.Lacks(); n != c.lacks {
			t.Fatalf("%v: lacks %d, want %d", ids, n, c.lacks)
		}
		if c.lacks == 0 {
			continue
		}
		before := l.r.commit
		for reports := 1; l.r.commit == before; reports++ {
			lacked := l.r.Lacks()
			if reports == 1 {
				l.syncLog()
			} else if reports <= len(ids) {
				p := l.r.peers[reports-2]
				ack := Message{Type: MsgAppResp, Group: l.r.cfg.Group, From: p.Member.ID, FromIncarnation: p.Member.Incarnation, FromBoot: p.boot,
					To: l.id, ToIncarnation: l.inc, Term: l.r.term, Index: l.r.last, SentAt: l.r.now, Epoch: l.r.epoch}
				if err := l.r.Step(l.now(), &ack); err != nil {
					t.Fatal(err)
				}
			} else {
				t.Fatalf("%v: nothing committed by all reports", ids)
			}
			if l.r.commit != before && lacked > 1 {
				t.Fatalf("%v: report %d committed, and %d were lacking", ids, reports, lacked)
			}
		}
	}
}

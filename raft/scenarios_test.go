// The scenarios that others hold their consensus to, played on the clusters of random_test.go, with every rule of
// invariants_test.go checked at each step: partitions each way (TigerBeetle's replica_test, Cloudflare's incident of 2020), and
// the seven of KRaft's RaftEventSimulationTest. Which is which is in docs/design/raft-scenarios.md.

package raft

import (
	"fmt"
	"testing"
	"time"
)

// scenario is a cluster on which nothing goes wrong by itself.
type scenario struct {
	*world
	t *testing.T
}

func newScenario(t *testing.T, seed uint64, voters, learners int) *scenario {
	w := emptyWorld(seed)
	w.quiet = true
	for id := NodeID(1); id <= NodeID(voters+learners); id++ {
		if int(id) <= voters {
			w.first.Voters = append(w.first.Voters, members(id)...)
		} else {
			w.first.Learners = append(w.first.Learners, members(id)...)
		}
	}
	w.populate(NodeID(voters + learners))
	w.after(0, w.client)
	return &scenario{w, t}
}

func (s *scenario) run(d time.Duration) {
	s.t.Helper()
	for end := s.c.now + Time(d); s.c.now < end; {
		if err := s.step(); err != nil {
			s.t.Fatal(err)
		}
	}
}

// until runs until cond holds, which it must within 30 s.
func (s *scenario) until(what string, cond func() bool) {
	s.t.Helper()
	for end := s.c.now + Time(30*time.Second); !cond(); {
		if s.c.now >= end {
			state := ""
			for _, n := range s.c.nodes {
				state += fmt.Sprintf("\n%+v", n.r.Status())
			}
			s.t.Fatalf("does not come to it: %s%s", what, state)
		}
		if err := s.step(); err != nil {
			s.t.Fatal(err)
		}
	}
}

func (s *scenario) electedOf(ids ...NodeID) *memNode {
	s.t.Helper()
	var l *memNode
	s.until("a leader that has opened its term", func() bool {
		l = nil
		for _, id := range ids {
			if n := s.c.node(id); !n.down && n.r.role == Leader && n.r.commit >= n.r.termStart && (l == nil || n.r.term > l.r.term) {
				l = n
			}
		}
		return l != nil
	})
	return l
}

func (s *scenario) all() []NodeID {
	var ids []NodeID
	for _, n := range s.c.nodes {
		ids = append(ids, n.id)
	}
	return ids
}

func (s *scenario) others(than ...NodeID) []NodeID {
	var ids []NodeID
next:
	for _, n := range s.c.nodes {
		for _, id := range than {
			if n.id == id {
				continue next
			}
		}
		ids = append(ids, n.id)
	}
	return ids
}

// reach waits until the given nodes have applied up to i.
func (s *scenario) reach(i Index, ids ...NodeID) {
	s.t.Helper()
	s.until(fmt.Sprintf("%v have applied %d", ids, i), func() bool {
		for _, id := range ids {
			if n := s.c.node(id); n.down || n.upTo < i {
				return false
			}
		}
		return true
	})
}

func (s *scenario) cut(from, to []NodeID) {
	for _, a := range from {
		for _, b := range to {
			if a != b {
				s.c.cut[[2]NodeID{a, b}] = true
			}
		}
	}
}

func (s *scenario) cutBoth(a, b []NodeID) {
	s.cut(a, b)
	s.cut(b, a)
}

func one(id NodeID) []NodeID { return []NodeID{id} }

// seeds is how many times a scenario is played.
func seeds(n uint64) uint64 {
	if testing.Short() {
		return 2
	}
	return n
}

// TestPartitions: who is cut off how, and who leads then. A leader that a quorum hears and that hears a quorum is not unseated, by
// nobody who is cut off, nor when that one comes back; any other is replaced.
func TestPartitions(t *testing.T) {
	for _, tc := range []struct {
		name   string
		voters int
		cut    func(s *scenario, l, f NodeID) // f: some follower
		stays  bool
	}{
		{"2-1 backup, symmetric", 3, func(s *scenario, l, f NodeID) { s.cutBoth(one(f), s.all()) }, true},
		{"2-1 backup, send-only", 3, func(s *scenario, l, f NodeID) { s.cut(s.all(), one(f)) }, true},
		{"2-1 backup, receive-only", 3, func(s *scenario, l, f NodeID) { s.cut(one(f), s.all()) }, true},
		{"1-2 primary, symmetric", 3, func(s *scenario, l, f NodeID) { s.cutBoth(one(l), s.all()) }, false},
		{"1-2 primary, send-only", 3, func(s *scenario, l, f NodeID) { s.cut(s.all(), one(l)) }, false},
		{"1-2 primary, receive-only", 3, func(s *scenario, l, f NodeID) { s.cut(one(l), s.all()) }, false},
		{"primary and one backup, symmetric", 3, func(s *scenario, l, f NodeID) { s.cutBoth(one(l), one(f)) }, true},
		{"primary not heard by one backup", 3, func(s *scenario, l, f NodeID) { s.cut(one(l), one(f)) }, true},
		{"primary does not hear one backup", 3, func(s *scenario, l, f NodeID) { s.cut(one(f), one(l)) }, true},
		{"backups do not hear each other", 3, func(s *scenario, l, f NodeID) { s.cutBoth(one(f), s.others(l)) }, true},
		{"bridge, primary on a side", 5, func(s *scenario, l, f NodeID) {
			side := append(one(l), f)
			rest := s.others(l, f)
			s.cutBoth(side, rest[1:]) // rest[0] is the bridge
		}, true},
		{"bridge is the primary", 5, func(s *scenario, l, f NodeID) {
			rest := s.others(l)
			s.cutBoth(rest[:2], rest[2:])
		}, true},
		{"3-2, primary with the three", 5, func(s *scenario, l, f NodeID) { s.cutBoth(s.others(l)[:2], append(s.others(l)[2:], l)) }, true},
		{"2-3, primary with the two", 5, func(s *scenario, l, f NodeID) { s.cutBoth(append(one(l), f), s.others(l, f)) }, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for seed := range seeds(4) {
				s := newScenario(t, seed, tc.voters, 0)
				l := s.electedOf(s.all()...)
				term := l.r.term
				s.reach(l.r.commit+5, s.all()...)
				before := s.maxCommit()
				tc.cut(s, l.id, s.others(l.id)[int(seed)%2])
				s.run(8 * time.Second)
				now := s.electedOf(s.all()...)
				if (now == l && now.r.term == term) != tc.stays {
					t.Fatalf("seed %d: node %d led term %d, now %d leads term %d", seed, l.id, term, now.id, now.r.term)
				}
				if now.r.commit < before+20 {
					t.Fatalf("seed %d: no progress: %d after %d", seed, now.r.commit, before)
				}
				if !tc.stays && l.r.role == Leader && l.r.term == term {
					t.Fatalf("seed %d: node %d goes on leading without a quorum", seed, l.id)
				}
				kept, term := now, now.r.term
				clear(s.c.cut)
				s.run(4 * time.Second)
				if tc.stays && (kept.r.role != Leader || kept.r.term != term) {
					t.Fatalf("seed %d: node %d is unseated by who came back: %+v", seed, kept.id, kept.r.Status())
				}
				s.reach(s.maxCommit()+5, s.all()...)
			}
		})
	}
}

// TestDuellingLeaders: of three, 3 is cut off; then 1, the leader, is, and 2 takes over with 3; then 2 is cut off in its turn and 1
// and 3 are together again. Whoever thinks that it leads at any moment, the group goes on, and nothing is lost.
func TestDuellingLeaders(t *testing.T) {
	for seed := range seeds(20) {
		s := newScenario(t, seed, 3, 0)
		a := s.electedOf(s.all()...)
		b, c := s.c.node(s.others(a.id)[0]), s.c.node(s.others(a.id)[1])
		s.reach(5, s.all()...)
		s.cutBoth(one(c.id), s.all())
		s.reach(s.maxCommit()+5, a.id, b.id)
		clear(s.c.cut)
		s.cutBoth(one(a.id), s.all())
		if l := s.electedOf(b.id, c.id); l != b && l.r.last < s.maxCommit() {
			t.Fatalf("seed %d: node %d leads without what was committed", seed, l.id)
		}
		l := s.electedOf(b.id, c.id)
		o := s.c.node(s.others(a.id, l.id)[0])
		clear(s.c.cut)
		s.cutBoth(one(l.id), s.all())
		now := s.electedOf(a.id, o.id)
		for now.r.term <= l.r.term {
			s.run(100 * time.Millisecond)
			now = s.electedOf(a.id, o.id)
		}
		s.reach(s.maxCommit()+5, a.id, o.id)
		clear(s.c.cut)
		s.reach(s.maxCommit()+10, s.all()...)
	}
}

// TestKRaftScenarios: the seven properties of Kafka's RaftEventSimulationTest, under their names.
func TestKRaftScenarios(t *testing.T) {
	each := func(name string, minVoters, maxVoters int, f func(s *scenario, seed uint64)) {
		t.Run(name, func(t *testing.T) {
			for seed := range seeds(15) {
				s := newScenario(t, seed, 1, 0)
				voters := minVoters + s.c.rng.IntN(maxVoters-minVoters+1)
				f(newScenario(t, seed, voters, s.c.rng.IntN(3)), seed)
			}
		})
	}
	each("canElectInitialLeader", 1, 5, func(s *scenario, _ uint64) {
		s.electedOf(s.all()...)
		s.reach(10, s.all()...)
	})
	each("canElectNewLeaderAfterOldLeaderFailure", 3, 5, func(s *scenario, seed uint64) {
		l := s.electedOf(s.all()...)
		s.reach(10, s.all()...)
		if seed%2 == 0 { // gracefully: leadership leaves first
			if err := l.r.Transfer(l.now(), s.voterBut(l.id)); err != nil {
				s.t.Fatal(err)
			}
			s.settle(l)
			s.until("leadership has left", func() bool { return l.r.role != Leader })
		}
		s.kill(l)
		s.reach(s.maxCommit()+10, s.others(l.id)...)
		s.start(l)
		s.reach(s.maxCommit()+10, s.all()...)
	})
	each("canRecoverAfterAllNodesKilled", 1, 5, func(s *scenario, _ uint64) {
		s.electedOf(s.all()...)
		s.reach(10, s.all()...)
		top := s.maxCommit()
		for _, n := range s.c.nodes {
			s.kill(n)
		}
		majority := s.all()[:len(s.first.Voters)/2+1]
		for _, id := range majority {
			s.start(s.c.node(id))
		}
		s.reach(top+10, majority...)
	})
	each("canElectNewLeaderAfterOldLeaderPartitionedAway", 3, 5, func(s *scenario, _ uint64) {
		l := s.electedOf(s.all()...)
		s.reach(10, s.all()...)
		s.cutBoth(one(l.id), s.all())
		s.reach(s.maxCommit()+10, s.others(l.id)...)
	})
	each("canMakeProgressIfMajorityIsReachable", 5, 5, func(s *scenario, _ uint64) {
		s.electedOf(s.all()...)
		s.reach(10, s.all()...)
		minority, majority := []NodeID{1, 2}, []NodeID{3, 4, 5}
		s.cutBoth(minority, s.others(minority...))
		s.reach(2*s.maxCommit(), majority...)
		for _, id := range minority {
			if n := s.c.node(id); n.r.commit >= s.c.node(3).r.commit {
				s.t.Fatalf("node %d has committed %d with the minority", id, n.r.commit)
			}
		}
		clear(s.c.cut)
		s.reach(s.maxCommit()+10, s.all()...)
	})
	each("canMakeProgressAfterBackToBackLeaderFailures", 3, 5, func(s *scenario, _ uint64) {
		l := s.electedOf(s.all()...)
		s.reach(10, s.all()...)
		s.cutBoth(one(l.id), s.all())
		next := s.electedOf(s.others(l.id)...)
		clear(s.c.cut)
		s.cutBoth(one(next.id), s.all())
		s.reach(s.maxCommit()+10, s.others(next.id)...)
	})
	// KRaft's lets the node come back under its old identity and counts on a leader elected before. Here it is another incarnation,
	// which counts for nothing until the membership names it.
	each("canRecoverFromSingleNodeCommittedDataLoss", 3, 5, func(s *scenario, seed uint64) {
		l := s.electedOf(s.all()...)
		s.reach(10, s.all()...)
		lost := s.c.node(s.voterBut(NodeID(0)))
		if seed%2 == 0 {
			lost = l
		}
		old := Member{lost.id, lost.inc}
		s.kill(lost)
		s.lose(lost)
		s.start(lost)
		s.reach(s.maxCommit()+10, s.others(lost.id)...)
		if lost.r.last != 0 {
			s.t.Fatal("a replica that nobody has added has entries")
		}
		for _, step := range []ConfStep{{Remove, old}, {AddLearner, Member{lost.id, lost.inc}}, {Promote, Member{lost.id, lost.inc}}} {
			s.until(step.Op.String(), func() bool {
				l := s.c.leader()
				if l == nil {
					return false
				}
				_, err := l.r.ProposeConf(l.now(), ConfChange{Steps: []ConfStep{step}})
				s.settle(l)
				return err == nil
			})
		}
		s.reach(s.maxCommit()+10, s.all()...)
		if !s.c.leader().r.conf().isVoter(lost.id) {
			s.t.Fatal("not a voter again")
		}
	})
}

// voterBut is a voter other than id.
func (s *scenario) voterBut(id NodeID) NodeID {
	for _, m := range s.first.Voters {
		if m.ID != id {
			return m.ID
		}
	}
	panic("no other voter")
}

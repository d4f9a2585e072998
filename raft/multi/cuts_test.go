// Cuts that leave a leader with a majority, at the level of the runtime: pair heartbeats, coverage and rest included.

package multi

import (
	"fmt"
	"testing"
	"time"

	"github.com/balsamq/balsa/raft"
)

func TestPartialCutsUnseatNobody(t *testing.T) {
	// Nodes 0 to 4; l leads group 1, and the others follow in the order of a, b, c, d.
	type edge struct{ from, to int }
	both := func(x, y int) []edge { return []edge{{x, y}, {y, x}} }
	for name, cut := range map[string]func(l, a, b, c, d int) []edge{
		"a follower is cut off": func(l, a, b, c, d int) (e []edge) {
			for _, o := range []int{l, a, b, c} {
				e = append(e, both(o, d)...)
			}
			return e
		},
		"a follower does not hear the leader": func(l, a, b, c, d int) []edge { return []edge{{l, d}} },
		"the leader does not hear a follower": func(l, a, b, c, d int) []edge { return []edge{{d, l}} },
		"a follower hears nobody":             func(l, a, b, c, d int) []edge { return []edge{{l, d}, {a, d}, {b, d}, {c, d}} },
		"nobody hears a follower":             func(l, a, b, c, d int) []edge { return []edge{{d, l}, {d, a}, {d, b}, {d, c}} },
		"a bridge between two halves": func(l, a, b, c, d int) (e []edge) { // {l a} and {c d}, and b hears and is heard by all
			for _, x := range []int{l, a} {
				for _, y := range []int{c, d} {
					e = append(e, both(x, y)...)
				}
			}
			return e
		},
		"the leader is the bridge": func(l, a, b, c, d int) (e []edge) {
			for _, x := range []int{a, b} {
				for _, y := range []int{c, d} {
					e = append(e, both(x, y)...)
				}
			}
			return e
		},
	} {
		for _, idle := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, idle=%v", name, idle), func(t *testing.T) {
				s := newSim(t, 41, 5, 1, func(o *Options, _ *GroupConfig) {
					if !idle {
						o.CoverAfter = time.Hour
					}
				})
				l := s.waitLeader(1)
				if idle {
					s.until("the group to be covered", func() bool { return s.group(l, 1).Status().CoveredPeers == 4 })
				}
				term := s.group(l, 1).Status().Term
				for _, e := range cut(l, (l+1)%5, (l+2)%5, (l+3)%5, (l+4)%5) {
					s.cut[[2]raft.NodeID{raft.NodeID(e.from + 1), raft.NodeID(e.to + 1)}] = true
				}
				check := func() {
					t.Helper()
					s.checkLeases()
					if st := s.group(l, 1).Status(); st.Role != raft.Leader || st.Term != term {
						t.Fatalf("the leader is %v in term %d now, it led in term %d", st.Role, st.Term, term)
					}
				}
				s.run(20*simET, check)
				r := s.propose(s.group(l, 1), "goes on")
				s.until("a proposal to commit", r.ended)
				if r.o.Err != nil {
					t.Fatal(r.o.Err)
				}
				clear(s.cut)
				s.run(5*simET, check)
				s.until("all to follow again", func() bool {
					for i := range s.nodes {
						if st := s.group(i, 1).Status(); st.Leader != raft.NodeID(l+1) || st.Term != term || st.Applied != s.group(l, 1).Status().Applied {
							return false
						}
					}
					return true
				})
				check()
			})
		}
	}
}

// The preferred replica of each group leads it, and a group goes on when that one is lost, without a wait.
func TestPrioritiesDecide(t *testing.T) {
	s := newSim(t, 42, 3, 6, nil)
	for i := range s.nodes {
		for _, id := range s.ids {
			s.group(i, id).SetPriorities([]raft.NodePriority{{ID: raft.NodeID(int(id)%3 + 1), Priority: raft.PreferredPriority}})
		}
	}
	s.waitLeaders()
	for _, id := range s.ids {
		if l := s.leader(id); l != int(id)%3 {
			t.Errorf("node %d leads group %d", l+1, id)
		}
	}
	gone := s.leader(1)
	s.crash(s.nodes[gone])
	at := s.clock.now
	s.waitLeaders()
	if d := s.clock.now - at; d > raft.Time(2*simET) {
		t.Errorf("leaders came back after %v", time.Duration(d))
	}
}

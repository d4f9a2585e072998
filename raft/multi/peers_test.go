// What a leader knows of the other members, and that whoever wants to know hears of each change and of nothing else.

package multi

import (
	"reflect"
	"testing"

	"github.com/balsamq/balsa/raft"
)

func TestPeersMovedAreNoted(t *testing.T) {
	called := 0
	s := newSim(t, 51, 3, 5, func(o *Options, _ *GroupConfig) { o.OnPeersMoved = func() { called++ } })
	type place struct {
		node int
		id   raft.GroupID
	}
	type sight struct {
		commit raft.Index
		peers  []raft.PeerStatus
	}
	look := func(g *Group) (out sight, leads bool) {
		st, ps := g.Look(nil)
		for _, p := range ps {
			out.peers = append(out.peers, p.PeerStatus) // what time alone changes is left out
		}
		out.commit = st.Commit
		return out, st.Role == raft.Leader
	}
	seen := make(map[place]sight)
	check := func() {
		t.Helper()
		for i, n := range s.nodes {
			if n.down {
				continue
			}
			before := called
			for _, id := range n.host.TakeMoved(nil) {
				if sees, leads := look(s.group(i, id)); leads {
					seen[place{i, id}] = sees
				}
			}
			for _, id := range s.ids {
				if sees, leads := look(s.group(i, id)); leads && !reflect.DeepEqual(sees, seen[place{i, id}]) {
					t.Fatalf("group %d of node %d sees %+v, and nobody was told; it saw %+v", id, n.id, sees, seen[place{i, id}])
				}
			}
			if called != before {
				t.Fatal("called for nothing")
			}
		}
	}
	s.waitLeaders()
	s.run(simET, check)
	s.until("all groups to be covered", s.allCovered)
	check()
	before := called
	if before == 0 {
		t.Fatal("never called")
	}
	s.run(20*simET, nil)
	for _, n := range s.nodes {
		if ids := n.host.TakeMoved(nil); len(ids) > 0 || called != before {
			t.Fatalf("groups %v at rest have moved, as %d calls say", ids, called-before)
		}
	}
	l := s.leader(1)
	dead := s.nodes[(l+1)%3]
	r := s.propose(s.group(l, 1), "x")
	s.run(simET, check)
	if !r.ended() {
		t.Fatal("not proposed")
	}
	s.crash(dead)
	s.run(3*simET, check)
	s.waitLeaders()
	for _, id := range s.ids {
		s.propose(s.group(s.leader(id), id), "without one")
	}
	s.run(3*simET, check)
	s.start(dead, false)
	s.run(5*simET, check)
	s.until("all groups to be covered", s.allCovered)
	check()
}

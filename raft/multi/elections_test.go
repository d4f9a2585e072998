// How many groups stand for election at once, in which order, and that a turn always ends: by leading, by following, by failing, by time,
// and with the group.

package multi

import (
	"errors"
	"fmt"
	"testing"

	"github.com/balsamq/balsa/raft"
)

// checkElections: the count is what it counts, never above its bound; each that waits stands in one queue, once; and nobody waits
// while there is a place.
func (s *sim) checkElections() {
	s.t.Helper()
	for _, n := range s.nodes {
		if n.down {
			continue
		}
		e := &n.host.elections
		queued := make(map[*Group]int)
		for _, q := range [2][]*Group{e.first, e.again} {
			for _, g := range q {
				queued[g]++
			}
		}
		granted := 0
		for _, g := range n.host.sorted(all) {
			switch g.elect {
			case electGranted:
				granted++
			case electWaiting:
				if queued[g] != 1 {
					s.t.Fatalf("node %d: group %d waits, and stands %d times in a queue", n.id, g.id, queued[g])
				}
				delete(queued, g)
			}
			if g.campaignUntil != 0 && g.elect != electGranted {
				s.t.Fatalf("node %d: group %d campaigns without a turn", n.id, g.id)
			}
		}
		switch {
		case len(queued) > 0:
			s.t.Fatalf("node %d: %d groups stand in a queue and do not wait", n.id, len(queued))
		case granted != e.active || e.active > n.host.o.Campaigns:
			s.t.Fatalf("node %d: %d groups have a turn, %d are counted, at most %d may", n.id, granted, e.active, n.host.o.Campaigns)
		case e.active < n.host.o.Campaigns && len(e.first)+len(e.again) > 0:
			s.t.Fatalf("node %d: %d wait, and %d of %d places are taken", n.id, len(e.first)+len(e.again), e.active, n.host.o.Campaigns)
		}
	}
}

// turnsAreOver: nobody has a turn or waits for one.
func (s *sim) turnsAreOver() bool {
	for _, n := range s.nodes {
		if e := &n.host.elections; !n.down && e.active+len(e.first)+len(e.again) > 0 {
			return false
		}
	}
	return true
}

func TestElectionsAreBounded(t *testing.T) {
	for _, campaigns := range []int{1, 3, 64} {
		t.Run(fmt.Sprint(campaigns), func(t *testing.T) {
			s := newSim(t, 60, 3, 100, func(o *Options, _ *GroupConfig) { o.Campaigns = campaigns })
			s.waitLeaders()
			dead := s.nodes[s.leader(1)]
			s.crash(dead)
			most := 0
			s.run(simET*3/2, func() {
				s.checkElections()
				for _, n := range s.nodes {
					if !n.down {
						most = max(most, n.host.elections.active)
					}
				}
			})
			if most != campaigns && campaigns < 64 {
				t.Errorf("at most %d groups had a turn, of %d places", most, campaigns)
			}
			s.waitLeaders()
			s.start(dead, false)
			s.until("all groups to be covered", func() bool { s.checkElections(); return s.allCovered() })
			if !s.turnsAreOver() {
				t.Error("all groups are led, and some have a turn, or wait for one")
			}
			s.checkEqual()
		})
	}
}

// The same while messages are lost and processes die, so that turns end in all ways that there are.
func TestElectionsUnderFaults(t *testing.T) {
	seeds := uint64(20)
	if testing.Short() {
		seeds = 4
	}
	for seed := range seeds {
		s := newSim(t, 100+seed, 3, 12, func(o *Options, _ *GroupConfig) { o.Campaigns = 2 })
		s.loss, s.dup = 0.1, 0.1
		check := func() { s.checkElections(); s.checkLeases() }
		for range 12 {
			n := s.nodes[s.rng.IntN(3)]
			switch {
			case n.down:
				s.start(n, false)
			case s.rng.IntN(2) == 0:
				s.crash(n)
			default:
				n.slow = !n.slow
			}
			s.run(simET*2, check)
		}
		s.loss, s.dup = 0, 0
		for _, n := range s.nodes {
			if n.slow = false; n.down {
				s.start(n, false)
			}
		}
		s.waitLeaders()
		s.until("all groups to be covered", func() bool { check(); return s.allCovered() })
		if !s.turnsAreOver() {
			t.Fatalf("seed %d: all groups are led, and some have a turn, or wait for one", seed)
		}
	}
}

// Who has had a turn in vain comes behind those that have not; within each queue the order is that of coming.
func TestElectionsFirstTriesGoFirst(t *testing.T) {
	s := newSim(t, 61, 1, 6, func(o *Options, _ *GroupConfig) { o.Campaigns = 1 })
	h := s.nodes[0].host
	g := func(i raft.GroupID) *Group { return h.Group(i) }
	for range 2 {
		if !h.mayCampaign(g(1), false) {
			t.Fatal("the only one may not campaign")
		}
	}
	for _, x := range []struct {
		id    raft.GroupID
		again bool
	}{{2, true}, {3, false}, {4, true}, {5, false}, {6, false}, {3, true}} {
		if h.mayCampaign(g(x.id), x.again) {
			t.Fatalf("group %d has a turn beside group 1", x.id)
		}
		s.checkElections()
	}
	h.endCampaign(g(5)) // it has heard a leader
	for _, want := range []raft.GroupID{3, 6, 2, 4} {
		for _, o := range h.sorted(all) {
			if h.electState(o) == electGranted {
				h.endCampaign(o)
				break
			}
		}
		s.checkElections()
		if h.electState(g(want)) != electGranted {
			t.Fatalf("it is not group %d's turn", want)
		}
	}
	h.endCampaign(g(4))
	h.endCampaign(g(4)) // it has none: nothing happens
	if h.elections.active != 0 {
		t.Fatalf("%d turns are left", h.elections.active)
	}
}

// A group that fails or is closed takes no turn with it.
func TestElectionsGoOnWithoutAGroup(t *testing.T) {
	s := newSim(t, 62, 3, 12, func(o *Options, _ *GroupConfig) { o.Campaigns = 1 })
	s.crash(s.nodes[1])
	s.crash(s.nodes[2])
	h := s.nodes[0].host
	turn := func() (g *Group) {
		s.until("a turn for which others wait", func() bool {
			s.checkElections()
			for _, o := range h.sorted(all) {
				if h.electState(o) == electGranted {
					g = o
				}
			}
			return g != nil && len(h.elections.first)+len(h.elections.again) >= 2
		})
		return g
	}
	g := turn()
	if err := g.Close(); err != nil {
		t.Fatal(err)
	}
	s.checkElections()
	waits := h.elections.again
	if len(waits) == 0 {
		waits = h.elections.first
	}
	last := waits[len(waits)-1]
	if err := last.Close(); err != nil { // one that waits
		t.Fatal(err)
	}
	s.checkElections()
	g = turn()
	g.Fail(errors.New("the disk is gone"))
	h.run()
	s.checkElections()
	if len(h.sorted(all)) != len(s.ids)-2 || h.elections.active != 1 {
		t.Fatalf("%d groups are left, %d have a turn", len(h.sorted(all)), h.elections.active)
	}
}

// A leader that cannot commit its no-op, as its followers' disks hang or are far behind, does not keep the others from leading, who
// may be better off.
func TestElectionsDoNotWaitForCommits(t *testing.T) {
	s := newSim(t, 63, 3, 12, func(o *Options, c *GroupConfig) {
		o.Campaigns = 1
		c.Priorities = []raft.NodePriority{{ID: 2, Priority: raft.NeverLeads}, {ID: 3, Priority: raft.NeverLeads}}
	})
	s.nodes[1].slow, s.nodes[2].slow = true, true
	s.until("all groups to be led", func() bool {
		s.checkElections()
		for _, id := range s.ids {
			st := s.group(0, id).Status()
			if st.Ready {
				t.Fatalf("group %d has committed on one disk", id)
			}
			if st.Role != raft.Leader {
				return false
			}
		}
		return true
	})
	s.nodes[1].slow, s.nodes[2].slow = false, false
	s.waitLeaders()
	s.until("all turns to be over", func() bool { s.checkElections(); return s.turnsAreOver() })
}

// A candidate that may lead no more, by an order that came meanwhile, has no timer that would end its turn.
func TestElectionsDoNotWaitForWhoNeverLeads(t *testing.T) {
	s := newSim(t, 64, 3, 2, func(o *Options, _ *GroupConfig) { o.Campaigns = 1 })
	n := s.nodes[0]
	// The others answer pre-votes, and no votes.
	var barred *Group
	s.message = func(m *raft.Message) bool { return m.Type != raft.MsgVoteResp }
	for _, o := range s.nodes[1:] {
		for _, id := range s.ids {
			o.host.Group(id).SetPriorities([]raft.NodePriority{{ID: o.id, Priority: raft.NeverLeads}})
		}
	}
	s.until("a candidate", func() bool {
		for _, g := range n.host.sorted(all) {
			if g.r.Status().Role == raft.Candidate {
				barred = g
			}
		}
		return barred != nil
	})
	barred.SetPriorities([]raft.NodePriority{{ID: n.id, Priority: raft.NeverLeads}})
	other := n.host.Group(s.ids[0])
	if other == barred {
		other = n.host.Group(s.ids[1])
	}
	s.message = func(m *raft.Message) bool { return m.Type != raft.MsgVoteResp || m.Group != barred.id }
	s.until("the other group to be led", func() bool { s.checkElections(); return other.Status().Ready })
}

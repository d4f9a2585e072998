// Dead peers: probed once per pair, counted for nothing, taken up again when they answer. And long queues of syncs, which are no
// hanging disks.

package multi

import (
	"testing"
	"time"

	"github.com/balsamq/balsa/raft"
)

// parked: every group of the live nodes has a leader at rest, which asks nothing of the dead node.
func (s *sim) parked(dead int) bool {
	for _, id := range s.ids {
		l := s.leader(id)
		if l < 0 || s.group(l, id).Status().CoveredPeers != len(s.nodes)-2 {
			return false
		}
		if !s.nodes[l].host.pairs.isParked(s.group(l, id), raft.NodeID(dead+1)) {
			return false
		}
	}
	return true
}

// While a broker is dead the others' groups rest all the same: one opening of the pair is all that it is asked. They keep their
// leases, and when it is back all is as before.
func TestDeadPeerIsProbedOncePerPair(t *testing.T) {
	groups := 600
	if testing.Short() {
		groups = 60
	}
	s := newSim(t, 50, 3, groups, nil)
	s.waitLeaders()
	s.until("all groups to be covered", s.allCovered)
	dead := s.leader(1)
	s.crash(s.nodes[dead])
	s.until("the groups to rest", func() bool { s.checkLeases(); return s.parked(dead) })
	s.run(2*simET, nil) // timers that were armed before
	before := make([]Stats, 3)
	for i, n := range s.nodes {
		if i != dead {
			before[i] = n.host.Stats()
		}
	}
	const idle = 30
	s.run(idle*simET, nil)
	for i, n := range s.nodes {
		if i == dead {
			continue
		}
		a, b := n.host.Stats(), before[i]
		if a.Turns != b.Turns || a.Ticks != b.Ticks || a.MsgsOut != b.MsgsOut {
			t.Errorf("node %d: %d turns, %d ticks, %d messages while idle beside a dead broker", n.id, a.Turns-b.Turns, a.Ticks-b.Ticks, a.MsgsOut-b.MsgsOut)
		}
		if hb := a.PairHeartbeats - b.PairHeartbeats; hb > idle*25 {
			t.Errorf("node %d: %d pair heartbeats in %d election timeouts", n.id, hb, idle)
		}
	}
	l := s.leader(2)
	g := s.group(l, 2)
	for _, p := range g.Peers() {
		if dead := p.Member.ID == raft.NodeID(dead+1); p.Active == dead || p.Covered == dead {
			t.Errorf("the leader shows %+v", p)
		}
	}
	sent, done := s.nodes[l].host.Stats().MsgsOut, false
	g.Read(func(_ raft.Index, err error) { done = err == nil })
	s.nodes[l].host.Run()
	if !done || s.nodes[l].host.Stats().MsgsOut != sent {
		t.Fatalf("read by lease: %v", done)
	}
	r := s.propose(g, "without the dead one")
	s.until("the proposal's end", r.ended)
	if r.o.Err != nil {
		t.Fatalf("%+v", r.o)
	}
	s.until("the group to rest again", func() bool { return s.parked(dead) })
	s.start(s.nodes[dead], false)
	s.until("all groups to be covered", func() bool { s.checkLeases(); return s.allCovered() })
	s.checkEqual()
}

// A leader that rests on one follower, the other being parked, notices when that one is lost too: it asks both again, steps down,
// and comes back with whoever answers first.
func TestParkedPeerIsAskedWhenTheOtherIsLost(t *testing.T) {
	s := newSim(t, 51, 3, 4, nil)
	s.waitLeaders()
	s.until("all groups to be covered", s.allCovered)
	l := s.leader(1)
	dead := (l + 1) % 3
	s.crash(s.nodes[dead])
	s.until("the groups to rest", func() bool { s.checkLeases(); return s.parked(dead) })
	l = s.leader(1)
	other := 3 - dead - l
	g := s.group(l, 1)
	term := g.Status().Term
	s.crash(s.nodes[other])
	s.until("the leader to step down", func() bool { s.checkLeases(); return g.Status().Role != raft.Leader })
	s.start(s.nodes[dead], false) // the one that was parked, and nobody else
	s.until("a leader", func() bool { s.checkLeases(); return s.leader(1) >= 0 })
	if now := s.group(s.leader(1), 1).Status().Term; now <= term {
		t.Fatalf("term %d after %d", now, term)
	}
	s.start(s.nodes[other], false)
	s.until("all groups to be covered", func() bool { s.checkLeases(); return s.allCovered() })
}

// A follower whose process answers its groups but not the pair's heartbeats, as one whose disk hangs does, is not parked: that
// would be a heartbeat for every answer.
func TestSlowPeerIsNotParked(t *testing.T) {
	s := newSim(t, 52, 3, 8, nil)
	s.waitLeaders()
	s.until("all groups to be covered", s.allCovered)
	l := s.leader(1)
	slow := s.nodes[(l+1)%3]
	slow.slow = true
	s.propose(s.group(l, 1), "not synced there")
	s.run(3*simET, s.checkLeases)
	before := s.nodes[l].host.Stats()
	const idle = 10
	s.run(idle*simET, s.checkLeases)
	// A heartbeat per group and interval at most, and as much again for whatever else.
	if sent := s.nodes[l].host.Stats().MsgsOut - before.MsgsOut; sent > 2*idle*10*uint64(len(s.ids)) {
		t.Fatalf("%d messages in %d election timeouts", sent, idle)
	}
	slow.slow = false
	s.until("all groups to be covered", func() bool { s.checkLeases(); return s.allCovered() })
}

// A queue of syncs that moves is no hanging disk, however long it is; one that does not move is.
func TestLongQueueOfSyncsIsNoHangingDisk(t *testing.T) {
	s := newSim(t, 53, 1, 40, nil)
	n := s.nodes[0]
	h := n.host
	s.clock.now += raft.Time(10 * simET)
	n.slow = true
	for _, id := range s.ids {
		h.requestSync(h.Group(id), h.now())
	}
	const each = simET / 4
	for range 20 { // five election timeouts for the last one of them
		s.clock.now += raft.Time(each)
		h.Run() // the groups' own timers are not what this is about
		if h.stalled(s.clock.now) || h.OldestSync() > each {
			t.Fatalf("a queue that moves counts as a disk that has been hanging for %v", h.OldestSync())
		}
		if last := h.Group(s.ids[len(s.ids)-1]); h.syncRunsFor(last, s.clock.now) > raft.Time(each) {
			t.Fatal("the last one in the queue counts as hanging")
		}
		if !h.Flush() {
			t.Fatal("nothing to flush")
		}
	}
	s.clock.now += raft.Time(simET + time.Millisecond)
	h.Run()
	if !h.stalled(s.clock.now) {
		t.Fatal("a queue that does not move counts as working")
	}
	f := &h.flusher
	f.mu.Lock()
	g, _, _ := f.popLocked(0, s.clock.Now())
	f.mu.Unlock()
	for range 3 { // others end, this one hangs
		s.clock.now += raft.Time(simET / 2)
		h.Flush()
	}
	h.Run()
	if !h.stalled(s.clock.now) || h.syncRunsFor(g, s.clock.now) <= raft.Time(simET) {
		t.Fatal("a sync that hangs beside others that do not counts as working")
	}
	f.mu.Lock()
	f.finishLocked(g, s.clock.now)
	f.mu.Unlock()
}

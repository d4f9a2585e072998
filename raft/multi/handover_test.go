// Leadership given away: for the disk's sake, before a group stops, and what becomes of proposals meanwhile.

package multi

import (
	"errors"
	"fmt"
	"testing"

	"github.com/balsamq/balsa/raft"
)

// ledBy another: there is a ready leader, and it is not that node.
func (s *sim) ledBy(not int) func() bool {
	return func() bool { s.checkLeases(); i := s.leader(1); return i >= 0 && i != not }
}

// A leader whose sync hangs hands over to a follower that has more on its disk, long before it falls silent, and its disk takes
// it out of the elections until it works again.
func TestHangingDiskHandsOver(t *testing.T) {
	s := newSim(t, 31, 3, 1, nil)
	l := s.waitLeader(1)
	n := s.nodes[l]
	n.slow = true
	r := s.propose(s.group(l, 1), "never synced here")
	at := s.clock.now
	s.until("another leader", s.ledBy(l))
	if d := s.clock.now - at; d > raft.Time(2*simET) {
		t.Fatalf("handed over after %d ns", d)
	}
	if n.host.Stats().HandedOver != 1 || n.host.Stats().Muted != 0 {
		t.Fatalf("%+v", n.host.Stats())
	}
	s.until("the proposal's end", r.ended)
	r2 := s.propose(s.group(s.leader(1), 1), "goes on")
	s.until("produce to go on", r2.ended)
	if r2.o.Err != nil {
		t.Fatalf("%+v", r2.o)
	}
	heir := s.leader(1)
	s.run(5*simET, s.checkLeases)
	if s.leader(1) != heir {
		t.Fatal("leadership did not stay")
	}
	if st := s.group(l, 1).Status(); !st.Impaired {
		t.Fatal("a hanging disk is not noticed on a follower")
	}
	n.slow = false
	s.until("the disk to be found well again", func() bool { return !s.group(l, 1).Status().Impaired })
	s.checkEqual()
}

// A leader whose disk is full hands over to where there is room, once: a full heir does not hand back, nor on.
func TestFullDiskHandsOver(t *testing.T) {
	s := newSim(t, 32, 3, 1, nil)
	l := s.waitLeader(1)
	s.nodes[l].logs[1].setSyncErr(errNoSpace)
	s.propose(s.group(l, 1), "a")
	s.until("another leader", s.ledBy(l))
	heir := s.leader(1)
	r := s.propose(s.group(heir, 1), "b")
	s.until("produce to go on", r.ended)
	if r.o.Err != nil {
		t.Fatalf("%+v", r.o)
	}
	for _, n := range s.nodes {
		n.logs[1].setSyncErr(errNoSpace)
	}
	r = s.propose(s.group(heir, 1), "c")
	s.run(20*simET, s.checkLeases)
	if r.ended() || s.leader(1) != heir {
		t.Fatalf("leader %d, was %d; %+v", s.leader(1), heir, r.o)
	}
	for _, n := range s.nodes {
		n.logs[1].setSyncErr(nil)
	}
	s.until("room again", r.ended)
	s.until("the full ones to catch up", func() bool {
		for i := range s.nodes {
			if st := s.group(i, 1).Status(); st.Applied != s.group(heir, 1).Status().Applied || st.Impaired {
				return false
			}
		}
		return true
	})
	s.checkEqual()
}

// A leader whose log fails tells a follower to lead before it goes, so that nobody waits for an election timeout.
func TestFailedLogHandsOver(t *testing.T) {
	s := newSim(t, 33, 3, 1, nil)
	l := s.waitLeader(1)
	s.run(simET, nil)
	s.nodes[l].logs[1].setSyncErr(errors.New("EIO"))
	r := s.propose(s.group(l, 1), "a")
	at := s.clock.now
	s.until("another leader", s.ledBy(l))
	if d := s.clock.now - at; d >= raft.Time(simET) {
		t.Fatalf("another leader only after %d ns", d)
	}
	s.until("the proposal's end", r.ended)
	if !errors.Is(r.o.Err, ErrLeadershipLost) || s.group(l, 1).Status().Err == nil {
		t.Fatalf("%+v", r.o)
	}
}

// Across a hand-over nobody is refused who need not be: what is in the log ends with its commit under the next leader, and
// what comes meanwhile waits until that one is known, or is ready.
func TestHandOverHoldsProposalsBack(t *testing.T) {
	s := newSim(t, 34, 3, 1, nil)
	l := s.waitLeader(1)
	to := (l + 1) % 3
	g := s.group(l, 1)
	inLog := s.propose(g, "in the log")
	s.nodes[l].host.Run()
	begun := make(chan error, 1)
	g.Transfer(raft.NodeID(to+1), func(err error) { begun <- err })
	s.settle()
	if err := <-begun; err != nil {
		t.Fatal(err)
	}
	var late []*result
	for i := 0; g.Status().Role == raft.Leader || g.Status().Leader == 0; i++ {
		late = append(late, s.propose(g, fmt.Sprint("late ", i)))
		if !s.next(s.clock.now + raft.Time(simET)) {
			t.Fatal("no new leader")
		}
	}
	early := s.propose(s.group(to, 1), "to the heir, which is not ready")
	if s.group(to, 1).Status().Ready {
		t.Fatal("setup: the heir is ready already")
	}
	s.until("all to end", func() bool {
		for _, r := range append(late, inLog, early) {
			if !r.ended() {
				return false
			}
		}
		return true
	})
	if inLog.o.Err != nil || early.o.Err != nil {
		t.Fatalf("in the log: %v; to the heir: %v", inLog.o.Err, early.o.Err)
	}
	if len(late) < 2 {
		t.Fatal("setup: nothing came during the hand-over")
	}
	for i, r := range late {
		e, ok := errors.AsType[*NotLeaderError](r.o.Err)
		if !ok || e.Leader != raft.NodeID(to+1) {
			t.Fatalf("late proposal %d: %+v", i, r.o)
		}
	}
	s.checkEqual()
}

// Where no heir appears (the order is lost), what was held back is taken by the old leader when the transfer's time is over.
func TestHandOverThatFails(t *testing.T) {
	s := newSim(t, 35, 3, 1, nil)
	l := s.waitLeader(1)
	to := (l + 1) % 3
	g := s.group(l, 1)
	s.run(simET, nil)
	s.cut[[2]raft.NodeID{raft.NodeID(l + 1), raft.NodeID(to + 1)}] = true
	g.Transfer(raft.NodeID(to+1), func(err error) {
		if err != nil {
			t.Error(err)
		}
	})
	s.settle()
	r := s.propose(g, "held back")
	s.run(simET/2, nil)
	if r.ended() {
		t.Fatalf("%+v", r.o)
	}
	s.until("the proposal's end", r.ended)
	if r.o.Err != nil || s.leader(1) != l {
		t.Fatalf("%+v, leader %d", r.o, s.leader(1))
	}
}

// Proposals that waited for an heir which never came are given back in the end, with what is known.
func TestHandOverWithoutHeir(t *testing.T) {
	s := newSim(t, 36, 3, 1, nil)
	l := s.waitLeader(1)
	to := (l + 1) % 3
	g := s.group(l, 1)
	g.Transfer(raft.NodeID(to+1), func(error) {})
	s.until("the old leader to step down", func() bool { return g.Status().Role != raft.Leader })
	s.crash(s.nodes[to])
	s.net = nil
	r := s.propose(g, "nobody there")
	s.until("the proposal's end", r.ended)
	if !errors.Is(r.o.Err, ErrNotLeader) {
		t.Fatalf("%+v", r.o)
	}
}

// What waits for the heir's commits is still waiting when a snapshot of the heir's jumps over it.
func TestSnapshotDuringHandOver(t *testing.T) {
	s := newSim(t, 63, 3, 2, func(o *Options, c *GroupConfig) {
		o.SnapshotRate = -1
		c.KeepEntries = 0
	})
	l := s.waitLeader(2)
	a, b := (l+1)%3, (l+2)%3
	s.fill(l, 0, 5)
	s.settle()
	s.nodes[l].slow = true // its own disk is not in the quorum
	for _, e := range [][2]int{{l, b}, {b, l}} {
		s.cut[[2]raft.NodeID{s.nodes[e[0]].id, s.nodes[e[1]].id}] = true
	}
	late := s.propose(s.group(l, 2), "late")
	s.nodes[l].host.Run() // it is staged
	s.group(l, 2).Transfer(s.nodes[a].id, func(err error) {
		if err != nil {
			t.Error(err)
		}
	})
	s.until("the hand-over", func() bool { return s.group(l, 2).Status().Role != raft.Leader })
	s.isolate(l, true)
	if s.group(l, 2).waiting.first() == nil || s.group(l, 2).heirUntil == 0 {
		t.Fatal("nothing waits for the heir")
	}
	s.until("the heir", func() bool { return s.leader(2) == a })
	s.fill(a, 5, 5)
	s.group(a, 2).Snapshot()
	s.until("a cut log", func() bool { return s.nodes[a].logs[2].FirstIndex() > s.nodes[l].logs[2].LastIndex()+1 })
	s.nodes[l].slow = false
	s.isolate(l, false)
	s.until("an installation", func() bool { return s.nodes[l].host.Stats().SnapshotsInstalled == 1 })
	if s.group(l, 2).heirUntil == 0 {
		t.Fatal("the heir's snapshot came too late")
	}
	s.fill(a, 10, 1)
	s.until("the end of what waited", late.ended)
	if !errors.Is(late.o.Err, ErrLeadershipLost) {
		t.Errorf("what the snapshot jumped over: %+v", late.o)
	}
	s.run(2*simET, nil)
	s.checkEqual()
}

// A disk that hangs in the middle of snapshot work is as bad for a leader as one that hangs in a sync: what is proposed
// meanwhile waits behind it.
func TestHangingJobEndsLeadership(t *testing.T) {
	s := newSim(t, 64, 3, 2, nil)
	l := s.waitLeader(2)
	n, g := s.nodes[l], s.group(l, 2)
	s.fill(l, 0, 5)
	s.settle()
	begun, goOn, done := make(chan struct{}), make(chan struct{}), make(chan struct{})
	n.logs[2].saving = func() { close(begun); <-goOn }
	g.Snapshot()
	n.host.Run()
	go func() { // a flusher that does not come back
		defer close(done)
		n.host.FlushGroup(2)
	}()
	<-begun
	defer func() { close(goOn); <-done }()
	s.propose(g, "waits")
	s.run(jobPatience*simET/2, nil)
	if st := g.Status(); st.Role != raft.Leader {
		t.Error("work that takes its time is no hanging disk")
	}
	s.run(30*simET, nil)
	if st := g.Status(); st.Role == raft.Leader {
		t.Errorf("it leads after 30 election timeouts, with entries up to %d of %d on its disk; its sync has been wanted for %v", st.Stable, st.Last, n.host.OldestSync())
	}
}

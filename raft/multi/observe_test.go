// Tests of what a host shows of itself: elections counted, sums over groups, inspections, the observer.

package multi

import (
	"errors"
	"testing"
	"time"

	"github.com/balsamq/balsa/raft"
)

// seenBy is an Observer that keeps what it is told.
type seenBy struct {
	committed, synced, found int
	bytes                    int64
	longest                  time.Duration // without a leader
	syncErr                  error
}

func (o *seenBy) Committed(d time.Duration) {
	if d >= 0 {
		o.committed++
	}
}

func (o *seenBy) Synced(_ raft.GroupID, d time.Duration, bytes int64, err error) {
	if d >= 0 {
		o.synced++
	}
	o.bytes += bytes
	o.syncErr = errors.Join(o.syncErr, err)
}

func (o *seenBy) LeaderFound(_ raft.GroupID, leader raft.NodeID, _ raft.Term, d time.Duration) {
	if leader != 0 {
		o.found++
	}
	o.longest = max(o.longest, d)
}

func TestObserver(t *testing.T) {
	seen := new(seenBy) // of all three nodes
	s := newSim(t, 11, 3, 4, func(o *Options, _ *GroupConfig) { o.Observer = seen })
	s.waitLeaders()
	const n = 20
	for i := range n {
		id := s.ids[i%4]
		r := s.propose(s.group(s.leader(id), id), "payload")
		s.until("the proposal's end", r.ended)
	}
	s.run(simET, nil)
	if seen.committed != n || seen.found < 3*4 || seen.longest <= 0 || seen.synced < 3*n || seen.bytes < 3*n*int64(len("payload")) || seen.syncErr != nil {
		t.Errorf("seen was %+v", *seen)
	}
	// A failed sync is told too.
	l := s.leader(1)
	s.nodes[l].logs[1].setSyncErr(errors.New("no disk"))
	s.propose(s.group(l, 1), "x")
	s.run(simET/10, nil)
	if seen.syncErr == nil {
		t.Error("a failed sync was kept from the observer")
	}
}

func TestElectionsAreCounted(t *testing.T) {
	s := newSim(t, 12, 3, 1, nil)
	total := func() (st Stats) {
		for _, n := range s.nodes {
			h := n.host.Stats()
			st.Elections += h.Elections
			st.ElectionsWon += h.ElectionsWon
			st.StepDowns += h.StepDowns
			st.LeaderChanges += h.LeaderChanges
			st.PreVotes += h.PreVotes
		}
		return st
	}
	l := s.waitLeader(1)
	s.run(simET, nil)
	before := total()
	if before.ElectionsWon != 1 || before.StepDowns != 0 || before.LeaderChanges != 3 || before.Elections < 1 {
		t.Fatalf("after the first election: %+v", before)
	}
	if got := s.group(l, 1).Status().Elections; got < 1 {
		t.Errorf("the leader stood %d times", got)
	}
	// A transfer: one more election, won, without a pre-vote; the old leader steps down; all three learn of the new one.
	to := (l + 1) % 3
	s.group(l, 1).Transfer(raft.NodeID(to+1), func(error) {})
	s.until("the transfer", func() bool { return s.leader(1) == to })
	s.run(simET, nil)
	after := total()
	if after.ElectionsWon-before.ElectionsWon != 1 || after.StepDowns-before.StepDowns != 1 || after.LeaderChanges-before.LeaderChanges != 3 || after.PreVotes != before.PreVotes {
		t.Errorf("a transfer: %+v, then %+v", before, after)
	}
}

func TestSummaryAndInspect(t *testing.T) {
	s := newSim(t, 13, 3, 6, nil)
	s.waitLeaders()
	s.until("all groups to be covered", s.allCovered)
	all := func() (sum Summary) {
		for _, n := range s.nodes {
			x := n.host.Summarize()
			sum.Leaders += x.Leaders
			sum.Followers += x.Followers
			sum.Ready += x.Ready
			sum.Leaseless += x.Leaseless
			sum.Covered += x.Covered
			sum.Resting += x.Resting
			sum.Leaderless += x.Leaderless
			sum.CommitLag += x.CommitLag
		}
		return sum
	}
	s.run(20*simET, nil) // leases of groups at rest are renewed by the pair
	if got := all(); got != (Summary{Leaders: 6, Followers: 12, Ready: 6, Covered: 6, Resting: 12}) {
		t.Errorf("at rest: %+v", got)
	}
	inspect := func(node int, id raft.GroupID) (in Inspection, err error) {
		t.Helper()
		called := 0
		s.group(node, id).Inspect(func(x Inspection, e error) { in, err = x, e; called++ })
		s.nodes[node].host.Run()
		if called != 1 {
			t.Fatalf("Inspect called back %d times", called)
		}
		return in, err
	}
	l := s.leader(1)
	in, err := inspect(l, 1)
	if err != nil || in.Role != raft.Leader || in.Lease <= 0 || len(in.Peers) != 2 || !in.Peers[0].Active || !in.Peers[0].Covered || in.Leaderless != 0 {
		t.Errorf("the leader: %v %+v", err, in)
	}
	if f, err := inspect((l+1)%3, 1); err != nil || f.Role != raft.Follower || f.Lease != 0 || f.Peers != nil || !f.Resting {
		t.Errorf("a follower: %v %+v", err, f)
	}
	// Cut off, the leader still has its lease for a while, then none; what is proposed to it waits.
	for i := range s.nodes {
		if i != l {
			s.cut[[2]raft.NodeID{raft.NodeID(l + 1), raft.NodeID(i + 1)}] = true
			s.cut[[2]raft.NodeID{raft.NodeID(i + 1), raft.NodeID(l + 1)}] = true
		}
	}
	s.propose(s.group(l, 1), "alone")
	s.settle()
	if in, _ := inspect(l, 1); in.Waiting != 1 || in.Last != in.Commit+1 {
		t.Errorf("with a proposal on its way: %+v", in)
	}
	s.run(2*simET, nil)
	if in, _ := inspect(l, 1); in.Role == raft.Leader || in.Lease != 0 || in.Leaderless == 0 {
		t.Errorf("cut off: %+v", in)
	}
	// A closed group answers with its last status, and why.
	g := s.group((l+1)%3, 2)
	if err := g.Close(); err != nil {
		t.Fatal(err)
	}
	called := false
	g.Inspect(func(x Inspection, err error) {
		called = errors.Is(err, ErrClosed) && x.Group == 2
	})
	if !called {
		t.Error("a closed group did not say so")
	}
}

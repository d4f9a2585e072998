// Tests of gathering: that proposals wait where many groups do, for as long as they should and no longer, and nowhere else.

package multi

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/balsamq/balsa/raft"
)

// gatherSim is a cluster of three whose leader of group 1 has a round on its way: its own sync, which stays undone, makes a crowd of one.
func gatherSim(t *testing.T, crowd int) (s *sim, g *Group, first *result) {
	s = newSim(t, 5, 3, 1, func(o *Options, _ *GroupConfig) { o.Crowd, o.HandOverAfter = crowd, 10*simET })
	l := s.waitLeader(1)
	s.run(simET, nil)
	g = s.group(l, 1)
	s.nodes[l].slow = true
	first = s.propose(g, "first")
	g.h.Run()
	if got := g.log.LastIndex(); got != g.r.Status().Last || got == g.r.Status().Commit {
		t.Fatalf("the first proposal is not on its way: last %d, commit %d", got, g.r.Status().Commit)
	}
	return s, g, first
}

func TestGathering(t *testing.T) {
	s, g, first := gatherSim(t, 1)
	last := g.log.LastIndex()
	var rest []*result
	for i := range 5 {
		rest = append(rest, s.propose(g, fmt.Sprintf("rest %d", i)))
		if turns := g.h.Run(); turns != 0 {
			t.Fatalf("proposal %d of those that gather took %d turns", i, turns)
		}
	}
	if got := g.log.LastIndex(); got != last || g.h.Stats().Gathered != 5 {
		t.Fatalf("last index %d while a round is on its way, want %d; %d proposals gathered", got, last, g.h.Stats().Gathered)
	}
	messages := 0
	s.message = func(m *raft.Message) bool {
		if m.Type == raft.MsgApp && len(m.Entries) > 0 && m.Entries[0].Index > last {
			messages++
		}
		return true
	}
	s.nodes[g.h.o.Self.ID-1].slow = false
	s.until("the end of all", func() bool {
		for _, r := range rest {
			if !r.ended() {
				return false
			}
		}
		return true
	})
	for i, r := range append(rest, first) {
		if r.o.Err != nil || i < len(rest) && r.o.Index != last+1+raft.Index(i) {
			t.Fatalf("proposal %d ended with %+v", i, r.o)
		}
	}
	if messages != 2 {
		t.Fatalf("%d messages with what had gathered, want one for each follower", messages)
	}
}

// Of the reports that a round ends with, the first and the last take no turn.
func TestLazyReports(t *testing.T) {
	s, g, first := gatherSim(t, 1)
	n := s.nodes[g.h.o.Self.ID-1]
	turns := g.h.Stats().Turns
	if !n.host.Flush() || g.h.Run() != 0 || first.ended() {
		t.Fatalf("the leader's own sync took %d turns", g.h.Stats().Turns-turns)
	}
	acks := 0
	s.message = func(m *raft.Message) bool {
		if m.Type == raft.MsgAppResp && m.To == n.id {
			acks++
		}
		return m.Type != raft.MsgAppResp || acks == 1
	}
	s.until("the commit", func() bool { return first.ended() })
	if first.o.Err != nil || acks == 0 {
		t.Fatalf("%+v after %d answers", first.o, acks)
	}
	// The other one's answer waits for the next round.
	s.message = nil
	n.slow = true
	second := s.propose(g, "second")
	s.until("the second commit's answers, and no sync", func() bool { return g.in.b != nil || second.ended() })
	if second.ended() {
		t.Fatalf("committed without this leader's disk: %+v", second.o)
	}
	n.slow = false
	s.until("the second commit", func() bool { return second.ended() })
	if second.o.Err != nil {
		t.Fatalf("%+v", second.o)
	}
}

// A few groups wait for nothing.
func TestNoCrowdNoGathering(t *testing.T) {
	s, g, _ := gatherSim(t, 0)
	last := g.log.LastIndex()
	s.propose(g, "second")
	if g.h.Run(); g.log.LastIndex() != last+1 || g.h.Stats().Gathered != 0 {
		t.Fatalf("last index %d, want %d", g.log.LastIndex(), last+1)
	}
}

// A round that does not end is not waited for.
func TestGatheringEnds(t *testing.T) {
	s, g, _ := gatherSim(t, 1)
	last := g.log.LastIndex()
	s.propose(g, "second")
	s.run(time.Duration(gatherPatience)/2, nil)
	if got := g.log.LastIndex(); got != last {
		t.Fatalf("last index %d after half of its patience, want %d", got, last)
	}
	s.run(time.Duration(gatherPatience), nil)
	if got := g.log.LastIndex(); got != last+1 {
		t.Fatalf("last index %d after its patience, want %d", got, last+1)
	}
}

// What is a round by itself does not wait.
func TestGatheredEnough(t *testing.T) {
	s, g, _ := gatherSim(t, 1)
	last := g.log.LastIndex()
	s.propose(g, "small")
	g.h.Run()
	s.propose(g, strings.Repeat("x", gatherBytes))
	if g.h.Run(); g.log.LastIndex() != last+2 {
		t.Fatalf("last index %d with enough bytes, want %d", g.log.LastIndex(), last+2)
	}
	for range gatherProposals - 1 {
		s.propose(g, "one of many")
		g.h.Run()
	}
	if got := g.log.LastIndex(); got != last+2 {
		t.Fatalf("last index %d with not quite enough proposals, want %d", got, last+2)
	}
	s.propose(g, "the last of many")
	if g.h.Run(); g.log.LastIndex() != last+2+gatherProposals {
		t.Fatalf("last index %d with enough proposals, want %d", g.log.LastIndex(), last+2+gatherProposals)
	}
}

// Nobody waits for ever for a leader that is deposed.
func TestGatheredOnDeposedLeader(t *testing.T) {
	s, g, first := gatherSim(t, 1)
	old := g.h.o.Self.ID
	gathered := s.propose(g, "gathered")
	for _, n := range s.nodes {
		if n.id != old {
			s.cut[[2]raft.NodeID{old, n.id}], s.cut[[2]raft.NodeID{n.id, old}] = true, true
		}
	}
	s.until("another leader", func() bool {
		l := s.leader(1)
		return l >= 0 && s.nodes[l].id != old && g.r.Status().Role != raft.Leader
	})
	clear(s.cut)
	s.nodes[old-1].slow = false
	s.until("the end of both", func() bool { return first.ended() && gathered.ended() })
	if first.o.Err == nil || gathered.o.Err == nil {
		t.Fatalf("proposals that nobody but a deposed leader has seen ended with %+v and %+v", first.o, gathered.o)
	}
}

// A member that is behind is sent more with each of its answers, though what it answers for is committed: the others may need it.
func TestAnswersOfWhoIsBehindAreNotLate(t *testing.T) {
	s := newSim(t, 5, 3, 1, func(o *Options, _ *GroupConfig) {
		o.Crowd, o.HandOverAfter, o.MaxInflightMsgs, o.MaxMessageBytes = 1, 10*simET, 1, 1
	})
	l := s.waitLeader(1)
	s.run(simET, nil)
	g, behind := s.group(l, 1), s.nodes[(l+1)%3]
	s.message = func(m *raft.Message) bool { return m.To != behind.id || len(m.Entries) == 0 }
	for i := range 50 {
		r := s.propose(g, fmt.Sprint("missed ", i))
		s.until("a commit without the one that is behind", r.ended)
	}
	s.message = nil
	s.until("entries go there again", func() bool { return behind.host.Group(1).r.Status().Last > g.r.Status().Last-50 })
	s.nodes[l].slow = true
	s.propose(g, "needs it")
	began := s.clock.now
	s.until("a commit without the leader's disk", func() bool { return g.r.Commit() == g.r.Status().Last })
	if took := s.clock.now - began; took > raft.Time(simET) { // 50 answers
		t.Fatalf("it took %v", time.Duration(took))
	}
}

// An answer that commits nothing takes a turn where somebody waits to see it.
func TestWatchedPeers(t *testing.T) {
	s, g, first := gatherSim(t, 1)
	n, index := s.nodes[g.h.o.Self.ID-1], g.log.LastIndex()
	var sooner raft.NodeID
	var late *raft.Message
	s.message = func(m *raft.Message) bool {
		switch {
		case len(m.Entries) > 0: // the second round gets nowhere
			return m.Entries[0].Index <= index
		case m.Type != raft.MsgAppResp || m.Index != index:
		case sooner == 0:
			sooner = m.From
		case m.From != sooner:
			c := *m
			late = &c
			return false
		}
		return true
	}
	n.host.Flush()
	s.propose(g, "second")
	s.until("the first commit", func() bool { return first.ended() && late != nil })
	match := func() raft.Index {
		for _, p := range g.Peers() {
			if p.Member.ID == late.From {
				return p.Match
			}
		}
		return 0
	}
	g.h.Deliver([]raft.Message{*late})
	if turns := g.h.Run(); turns != 0 || match() != index-1 {
		t.Fatalf("%d turns for what nobody waits for; %d is seen to be there", turns, match())
	}
	g.WatchPeers()
	if g.h.Run(); match() != index {
		t.Fatalf("%d is seen to be there, want %d", match(), index)
	}
	g.WatchPeers()
	if turns := g.h.Run(); turns != 0 {
		t.Fatalf("%d turns by looking once more", turns)
	}
	g.h.Deliver([]raft.Message{*late})
	if turns := g.h.Run(); turns == 0 {
		t.Fatal("no turn for what somebody waits for")
	}
	s.clock.now += watchFor
	g.h.schedule(g)
	g.h.Run()
	g.h.Deliver([]raft.Message{*late})
	if turns := g.h.Run(); turns != 0 {
		t.Fatalf("%d turns for what nobody waits for any more", turns)
	}
}

// Entries leave in the order of the turns, also where messages are collected over several turns, and the turns are those of several workers.
func TestEntriesDoNotOvertake(t *testing.T) {
	s, g, _ := gatherSim(t, 1)
	s.run(simET/20, nil)
	var workers []*worker
	for i := range 3 {
		w := &worker{h: g.h}
		s.propose(g, strings.Repeat(fmt.Sprint(i), gatherBytes))
		w.turn(g.h.runq.pop(false))
		if last := g.r.Status().Last; last != g.r.Status().Commit+raft.Index(1+i) {
			t.Fatalf("not staged: last %d", last)
		}
		workers = append(workers, w)
	}
	seen := make(map[raft.NodeID]raft.Index)
	s.message = func(m *raft.Message) bool {
		if len(m.Entries) > 0 {
			if last := seen[m.To]; last != 0 && m.Entries[0].Index != last+1 {
				t.Errorf("%d gets entries from %d on after %d", m.To, m.Entries[0].Index, last)
			}
			seen[m.To] = m.Entries[len(m.Entries)-1].Index
		}
		return true
	}
	for i := range workers {
		workers[len(workers)-1-i].flushOut()
	}
	s.run(simET/50, nil)
	if len(seen) != 2 {
		t.Fatalf("entries came to %v", seen)
	}
}

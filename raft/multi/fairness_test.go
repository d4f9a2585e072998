// Fairness between groups that always have work and ten thousand others: counted in turns, syncs and elections, never in time.

package multi

import (
	"fmt"
	"testing"

	"github.com/balsamq/balsa/raft"
)

const (
	fairHot  = 6 // more than there are workers
	fairCold = 10_000
)

// crowd is one manual host with groups of their own, all led by it: the hot ones first.
type crowd struct {
	t    testing.TB
	h    *Host
	hot  []*Group
	cold []*Group
	sent map[raft.GroupID]int // messages that have left, by group
}

// crowdPort counts what leaves.
type crowdPort struct{ c *crowd }

func (p crowdPort) Send(_ raft.NodeID, msgs []raft.Message) {
	for i := range msgs {
		p.c.sent[msgs[i].Group]++
	}
}
func (crowdPort) SendPair(raft.NodeID, *PairMessage)   {}
func (crowdPort) SendChunk(raft.NodeID, *ChunkMessage) {}

// hotStager finds new work for its group whenever some of it is done.
type hotStager struct {
	*memSM
	again func()
}

func (s *hotStager) Stage(p *Proposal, e *raft.Entry) (raft.Index, error) {
	if s.again != nil {
		s.again()
	}
	return s.memSM.Stage(p, e)
}

func newCrowd(t testing.TB, hot, cold int, clock *fakeClock, tweak func(*Options)) *crowd {
	c := &crowd{t: t, sent: make(map[raft.GroupID]int)}
	self := raft.Member{ID: 1, Incarnation: 1}
	o := Options{Self: self, Boot: 1, Workers: -1, Clock: clock, Transport: crowdPort{c}, HardStates: newMemStates()}
	if tweak != nil {
		tweak(&o)
	}
	var err error
	if c.h, err = NewHost(o); err != nil {
		t.Fatal(err)
	}
	for i := range hot + cold {
		id := raft.GroupID(i + 1)
		sm := &memSM{group: id}
		st := &hotStager{memSM: sm}
		g, err := c.h.CreateGroup(GroupConfig{ID: id, Log: newMemLog(id), Stager: st, StateMachine: sm, Bootstrap: raft.ConfState{Voters: []raft.Member{self}},
			Fresh: true, Campaign: true, KeepEntries: -1})
		if err != nil {
			t.Fatal(err)
		}
		if i < hot {
			c.hot = append(c.hot, g)
		} else {
			c.cold = append(c.cold, g)
		}
	}
	for again := true; again; {
		again = c.h.Run() > 0
		for c.flush() != nil {
			again = true
		}
	}
	for _, g := range append(c.hot, c.cold...) {
		if !g.Status().Ready {
			t.Fatalf("group %d does not lead", g.id)
		}
	}
	return c
}

// flush syncs the log whose turn it is.
func (c *crowd) flush() *Group {
	f := &c.h.flusher
	f.mu.Lock()
	if len(f.queue) == 0 {
		f.mu.Unlock()
		return nil
	}
	g, sync, jobs := f.popLocked(0, c.h.now())
	f.mu.Unlock()
	c.h.flushOne(nil, g, sync, jobs)
	return g
}

// turn lets the group process whose turn it is.
func (c *crowd) turn() *Group {
	g := c.h.runq.pop(false)
	if g != nil {
		c.h.manualW.turn(g)
	}
	return g
}

// heat makes the hot groups have work at the end of each turn that they take, for ever.
func (c *crowd) heat() {
	for _, g := range c.hot {
		again := func() { g.Propose(&Proposal{Type: raft.EntryRecords, Payload: []byte("hot"), Done: func(Outcome) {}}) }
		g.cfg.Stager.(*hotStager).again = again
		again()
	}
}

func (c *crowd) propose(g *Group, done func(Outcome)) {
	g.Propose(&Proposal{Type: raft.EntryRecords, Payload: []byte("cold"), Done: done})
}

// Groups that have work again at the end of each turn take one turn for each that the others take, at most.
func TestHotGroupsTakeTurns(t *testing.T) {
	c := newCrowd(t, fairHot, fairCold, &fakeClock{now: 1000}, nil)
	c.heat()
	waits := make(map[*Group]bool, len(c.cold))
	for _, g := range c.cold {
		c.propose(g, func(Outcome) {})
		waits[g] = true
	}
	turns := 0
	for ; len(waits) > 0; turns++ {
		if turns > fairCold+2*fairHot {
			t.Fatalf("%d of %d groups have had no turn after %d", len(waits), fairCold, turns)
		}
		delete(waits, c.turn())
	}
	for _, g := range c.hot { // it is no proof if they were not hot
		if c.h.runq.empty() || g.sched != schedQueued {
			t.Fatalf("group %d has run out of work", g.id)
		}
	}
}

// The same for syncs: a log that is written all the time shares each with whatever came meanwhile, and then goes to the back.
func TestHotGroupsTakeTurnsAtTheDisk(t *testing.T) {
	c := newCrowd(t, fairHot, fairCold, &fakeClock{now: 1000}, nil)
	for _, g := range c.cold {
		c.propose(g, func(Outcome) {})
	}
	for c.turn() != nil {
	}
	c.heat()
	waits := make(map[*Group]bool, len(c.cold))
	for _, g := range c.cold {
		waits[g] = true
	}
	hot := 0
	for syncs := 0; len(waits) > 0; syncs++ {
		if syncs > fairCold+2*fairHot {
			t.Fatalf("%d of %d groups wait for their sync after %d, %d of which were the hot groups'", len(waits), fairCold, syncs, hot)
		}
		for range 2 * fairHot { // the workers are faster than the disk: what was hot is written again
			c.turn()
		}
		g := c.flush()
		if g != nil && !waits[g] {
			hot++
		}
		delete(waits, g)
	}
	for range 2 * fairHot {
		c.turn()
	}
	for _, g := range c.hot { // it is no proof if they were not hot
		if !g.fl.queued {
			t.Fatalf("group %d does not wait for a sync", g.id)
		}
	}
}

// One turn of a group has an end, however much waits for it; and nothing is lost or comes out of order for it.
func TestTurnOfAFullInboxIsBounded(t *testing.T) {
	c := newCrowd(t, 1, 1, &fakeClock{now: 1000}, func(o *Options) { o.MaxMessageBytes = 8 << 10 })
	hot, cold := c.hot[0], c.cold[0]
	var done []int
	const many = 16_000
	for i := range many {
		hot.Propose(&Proposal{Type: raft.EntryRecords, Payload: []byte(fmt.Sprintf("%0100d", i)), Done: func(o Outcome) {
			if o.Err != nil {
				t.Errorf("%d: %v", i, o.Err)
			}
			done = append(done, i)
		}})
	}
	c.propose(cold, func(Outcome) {})
	most := uint64(maxStageBatches * (c.h.o.MaxMessageBytes + 200)) // each batch may exceed its bound by one entry
	turns := 0
	for len(done) < many {
		before := c.h.stats.appendBytes.Load()
		g := c.turn()
		for g == nil && c.flush() != nil {
			g = c.turn()
		}
		if g == nil {
			t.Fatalf("nothing is left to do, and %d of %d have ended", len(done), many)
		}
		if took := c.h.stats.appendBytes.Load() - before; took > most {
			t.Fatalf("one turn of group %d appended %d bytes, at most %d are its share", g.id, took, most)
		}
		if turns++; turns == 2 && g != cold {
			t.Fatal("the second turn was not the other group's")
		}
	}
	for i, n := range done {
		if i != n {
			t.Fatalf("proposal %d ended in place %d", n, i)
		}
	}
}

// What a worker has collected to be sent leaves after so many turns, though it never runs out of groups that have work.
func TestMessagesLeaveABusyWorker(t *testing.T) {
	c := newCrowd(t, fairHot, 0, &fakeClock{now: 1000}, nil)
	c.heat()
	self := raft.Member{ID: 1, Incarnation: 1}
	sm := &memSM{group: 999}
	if _, err := c.h.CreateGroup(GroupConfig{ID: 999, Log: newMemLog(999), Stager: sm, StateMachine: sm, Fresh: true, Campaign: true,
		Bootstrap: raft.ConfState{Voters: []raft.Member{self, {ID: 2, Incarnation: 1}, {ID: 3, Incarnation: 1}}}}); err != nil {
		t.Fatal(err)
	}
	for turns := 0; c.sent[999] == 0; turns++ {
		// Its own turns, with those of the hot ones between, and then those for which it may be collected.
		if turns > 4*(fairHot+1)+maxTurnsPerFlush {
			t.Fatalf("no message of the group that stands for election has left after %d turns", turns)
		}
		if g := c.turn(); g == nil {
			t.Fatal("the hot groups have run out of work")
		}
	}
}

// Groups whose timers end at once stand for election in a bounded number, first those that have not tried; one that has no quorum
// keeps none of the others from theirs.
func TestElectionsTakeTurns(t *testing.T) {
	const groups, at = 2000, 16
	clock := &fakeClock{now: 1000}
	c := newCrowd(t, 0, 0, clock, func(o *Options) { o.Campaigns = at })
	members := []raft.Member{{ID: 1, Incarnation: 1}, {ID: 2, Incarnation: 1}, {ID: 3, Incarnation: 1}}
	for i := range groups {
		id := raft.GroupID(i + 1)
		sm := &memSM{group: id}
		if _, err := c.h.CreateGroup(GroupConfig{ID: id, Log: newMemLog(id), Stager: sm, StateMachine: sm, Fresh: true,
			Bootstrap: raft.ConfState{Voters: members}}); err != nil {
			t.Fatal(err)
		}
	}
	// Nobody answers: each has a fifth of a timeout, so that a round of all takes so many of them.
	tried := func() (n int) {
		for i := range groups {
			if c.sent[raft.GroupID(i+1)] > 0 {
				n++
			}
		}
		return n
	}
	limit := clock.now + 3*raft.Time(c.h.o.ElectionTimeout) + groups/at*raft.Time(c.h.o.ElectionTimeout/5)
	for tried() < groups {
		c.h.Run()
		if n := c.h.elections.active; n > at {
			t.Fatalf("%d groups stand for election at once, with a bound of %d", n, at)
		}
		if clock.now > limit {
			t.Fatalf("after so long %d of %d groups have not tried", groups-tried(), groups)
		}
		clock.now = max(clock.now, min(c.h.Deadline(), limit+1))
	}
}

// An idle log's mark waits while other logs wait for the disk, but not for ever.
func TestMarksLetOthersPass(t *testing.T) {
	clock := &fakeClock{now: 1000}
	c := newCrowd(t, 0, 200, clock, nil)
	calm := func() { // everything is synced and marked
		t.Helper()
		pending := func() bool {
			for _, g := range c.cold {
				if g.log.MarkPending() {
					return true
				}
			}
			return false
		}
		for limit := clock.now + 2*raft.Time(markPatience); pending(); clock.now += raft.Time(markDelay) {
			if clock.now > limit {
				t.Fatal("a log has no mark after twice the time")
			}
			for c.h.Run() > 0 || c.flush() != nil {
			}
		}
	}
	// Of one log the last entry is synced, and all others wait for their sync.
	first := c.cold[0]
	crowd := func() {
		c.propose(first, func(Outcome) {})
		c.h.Run()
		if c.flush() != first {
			t.Fatal("another log was synced")
		}
		c.h.Run()
		for _, g := range c.cold[1:] {
			c.propose(g, func(Outcome) {})
		}
		c.h.Run()
	}
	calm()
	crowd()
	clock.now += raft.Time(markDelay)
	c.h.Run()
	if first.fl.queued || !first.log.MarkPending() {
		t.Fatal("the mark was to be written while others waited")
	}
	calm()
	crowd()
	clock.now += raft.Time(markPatience)
	c.h.Run()
	if !first.fl.queued {
		t.Fatal("the mark was not to be written though it was time")
	}
	calm()
}

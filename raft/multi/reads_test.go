package multi

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/balsamq/balsa/raft"
)

// readResult is how a read ended.
type readResult struct {
	calls int
	at    raft.Index
	err   error
}

func (r *readResult) done(i raft.Index, err error) { r.calls, r.at, r.err = r.calls+1, i, err }

func read(g *Group) *readResult {
	r := new(readResult)
	g.Read(r.done)
	return r
}

func readIndex(g *Group) *readResult {
	r := new(readResult)
	g.ReadIndex(r.done)
	return r
}

// With a lease a read is answered in the turn that finds it; a ReadIndex is not, whatever the lease.
func TestReadIndexAsksInSpiteOfALease(t *testing.T) {
	s := newSim(t, 1, 3, 1, nil)
	l := s.waitLeader(1)
	s.until("a proposal's end", s.propose(s.group(l, 1), "a").ended)
	g := s.group(l, 1)
	before := s.nodes[l].host.Stats()
	byLease, byRound := read(g), readIndex(g)
	s.settle()
	if byLease.calls != 1 || byLease.err != nil {
		t.Fatalf("the read by lease: %+v", byLease)
	}
	if byRound.calls != 0 {
		t.Fatalf("the ReadIndex was answered without asking: %+v", byRound)
	}
	s.until("the ReadIndex's end", func() bool { return byRound.calls > 0 })
	if byRound.err != nil || byRound.at < byLease.at {
		t.Fatalf("the ReadIndex: %+v, by lease %+v", byRound, byLease)
	}
	after := s.nodes[l].host.Stats()
	if n := after.Reads - before.Reads; n != 2 {
		t.Errorf("%d reads counted", n)
	}
	if n := after.LeaseReads - before.LeaseReads; n != 1 {
		t.Errorf("%d lease reads counted", n)
	}
	if n := after.ReadRounds - before.ReadRounds; n != 1 {
		t.Errorf("%d rounds counted", n)
	}
	f := readIndex(s.group((l+1)%3, 1))
	s.settle()
	if !errors.Is(f.err, ErrNotLeader) {
		t.Fatalf("a ReadIndex on a follower: %+v", f)
	}
}

// However many reads come while a round is on its way, they share the next one; and the one that is on its way answers
// none of them.
func TestReadsShareARound(t *testing.T) {
	s := newSim(t, 2, 3, 1, nil)
	l := s.waitLeader(1)
	g := s.group(l, 1)
	s.until("a proposal's end", s.propose(g, "a").ended)
	heartbeats := func() (n int) {
		for _, p := range s.net {
			if p.from == raft.NodeID(l+1) && p.pair == nil && p.msgs[0].Type == raft.MsgHeartbeat {
				n++
			}
		}
		return n
	}
	s.until("silence", func() bool { return heartbeats() == 0 })
	first := readIndex(g)
	s.settle()
	if n := heartbeats(); n != 2 {
		t.Fatalf("a round of %d messages on its way", n)
	}
	const many = 1000
	var rest []*readResult
	for i := range many {
		rest = append(rest, readIndex(g))
		if i%10 == 0 {
			s.settle() // turns of their own
		}
	}
	s.settle()
	if n := heartbeats(); n != 2 {
		t.Fatalf("%d reads began %d more messages while a round was on its way", many, n-2)
	}
	for first.calls == 0 {
		for _, r := range rest {
			if r.calls != 0 {
				t.Fatal("a round answered a read that came after it was sent")
			}
		}
		s.next(s.clock.now + raft.Time(simET))
		s.settle()
	}
	if n := heartbeats(); first.err != nil || n != 2 {
		t.Fatalf("after the first round (%v) %d messages are on their way, of one round for all the others", first.err, n)
	}
	s.until("the others' end", func() bool { return rest[many-1].calls > 0 })
	for i, r := range rest {
		if r.calls != 1 || r.err != nil {
			t.Fatalf("read %d: %+v", i, r)
		}
	}
}

// Reads beyond the bound are refused, not kept.
func TestReadsAreBounded(t *testing.T) {
	s := newSim(t, 3, 3, 1, func(o *Options, _ *GroupConfig) { o.MaxReads = 8 })
	l := s.waitLeader(1)
	g := s.group(l, 1)
	var rs []*readResult
	for i := range 20 {
		rs = append(rs, readIndex(g))
		if i%4 == 3 {
			s.settle()
		}
	}
	s.until("the end of all", func() bool {
		for _, r := range rs {
			if r.calls == 0 {
				return false
			}
		}
		return true
	})
	served := 0
	for _, r := range rs {
		if r.err == nil {
			served++
		} else if !errors.Is(r.err, ErrOverloaded) {
			t.Fatal(r.err)
		}
	}
	if served != 8 {
		t.Fatalf("%d of 20 reads were kept, with a bound of 8", served)
	}
}

// A leader whose process was stopped while others went on answers nothing by its lease when it runs again, although nobody
// has told it yet that its term is over.
func TestStoppedLeaderAnswersNothingStale(t *testing.T) {
	s := newSim(t, 4, 3, 1, nil)
	l := s.waitLeader(1)
	old := s.group(l, 1)
	s.until("a proposal's end", s.propose(old, "a").ended)
	if r := read(old); true {
		s.settle()
		if r.calls != 1 || r.err != nil {
			t.Fatalf("no lease to begin with: %+v", r)
		}
	}
	s.nodes[l].down = true // it is not run, and what is sent to it is lost
	n := s.waitLeader(1)
	s.until("the new leader's proposal", s.propose(s.group(n, 1), "b").ended)
	s.nodes[l].down = false
	if s.group(l, 1).Status().Role != raft.Leader {
		t.Fatal("the stopped leader knows already")
	}
	r := read(old)
	s.settle()
	if r.calls != 0 && r.err == nil {
		t.Fatalf("a stale answer: %+v", r)
	}
	s.until("the read's end", func() bool { return r.calls > 0 })
	if !errors.Is(r.err, ErrNotLeader) {
		t.Fatalf("the read ended with %+v", r)
	}
}

// The lease ends by the drift bound before the promises that it rests on, and it is held against a clock read at the check:
// at its end the leader still leads, and asks.
func TestLeaseEndsBeforeThePromises(t *testing.T) {
	s := newSim(t, 7, 3, 1, nil)
	l := s.waitLeader(1)
	g, h := s.group(l, 1), s.nodes[l].host
	s.until("a proposal's end", s.propose(g, "a").ended)
	g.feedAcks(s.clock.now)
	end := g.r.LeaseUntil()
	s.clock.now = end - 1
	last := read(g)
	h.Run()
	s.clock.now = end
	late := read(g)
	h.Run()
	if last.calls != 1 || last.err != nil || late.calls != 0 || g.Status().Role != raft.Leader {
		t.Fatalf("before the end %+v, at the end %+v, as %v", last, late, g.Status().Role)
	}
}

// After a suspend no lease is believed that rests on a round from before, not even one that is not over yet.
func TestSuspendGivesUpLeases(t *testing.T) {
	s := newSim(t, 5, 3, 1, nil)
	l := s.waitLeader(1)
	g, h := s.group(l, 1), s.nodes[l].host
	s.until("a proposal's end", s.propose(g, "a").ended)
	nap := raft.Time(20 * time.Millisecond)
	s.clock.now += nap
	s.clock.slept += nap
	if until := g.r.LeaseUntil(); until <= s.clock.now {
		t.Fatalf("the lease is over (%d at %d): this tests nothing", until, s.clock.now)
	}
	h.Run() // fires timers, and so notices
	before := h.Stats()
	r := read(g)
	s.settle()
	if r.calls != 0 {
		t.Fatalf("answered by a lease from before the suspend: %+v", r)
	}
	s.until("the read's end", func() bool { return r.calls > 0 })
	if r.err != nil {
		t.Fatal(r.err)
	}
	if again := read(g); true {
		s.settle()
		if again.calls != 1 || again.err != nil {
			t.Fatalf("a round after the suspend gives no lease: %+v", again)
		}
	}
	after := h.Stats()
	if after.Suspends != 1 || after.LeaseReads-before.LeaseReads != 1 || after.ReadRounds-before.ReadRounds != 1 {
		t.Fatalf("suspends %d, lease reads %d, rounds %d", after.Suspends, after.LeaseReads-before.LeaseReads, after.ReadRounds-before.ReadRounds)
	}
}

// twoClocks are readings in the order in which they are taken.
type twoClocks struct{ readings []raft.Time }

func (c *twoClocks) Now() raft.Time {
	t := c.readings[0]
	c.readings = c.readings[1:]
	return t
}
func (c *twoClocks) Monotonic() raft.Time { return c.Now() }

// A process that is stopped between its readings of the two clocks sees them apart; that is no suspend.
func TestSuspendIsNotAStopBetweenTwoReadings(t *testing.T) {
	const ms = raft.Time(time.Millisecond)
	var w wakeWatch
	steps := []struct {
		name             string
		boot, mono, then raft.Time
		slept            raft.Time
	}{
		{"the first look says nothing", 5000 * ms, 1000 * ms, 5000 * ms, 0},
		{"both go on", 6000 * ms, 2000 * ms, 6000 * ms, 0},
		{"stopped before the second reading", 7000 * ms, 8000 * ms, 12000 * ms, 0},
		{"on again", 13000 * ms, 9000 * ms, 13000 * ms, 0},
		{"stopped after the second reading", 14000 * ms, 10000 * ms, 19000 * ms, 0},
		{"on again", 20000 * ms, 16000 * ms, 20000 * ms, 0},
		{"suspended for 700 ms", 22000 * ms, 17300 * ms, 22000 * ms, 700 * ms},
		{"and no more", 23000 * ms, 18300 * ms, 23000 * ms, 0},
		{"too short to matter", 24005 * ms, 19300 * ms, 24005 * ms, 0},
	}
	for _, st := range steps {
		if got := w.slept(&twoClocks{[]raft.Time{st.boot, st.mono, st.then}}); got != st.slept {
			t.Fatalf("%s: slept %d, want %d", st.name, got, st.slept)
		}
	}
}

// The timer loop tells a process that did not run from one that was woken early, late by little, or asleep with its machine.
func TestPauseIsCounted(t *testing.T) {
	s := newSim(t, 6, 3, 1, nil)
	h := s.nodes[0].host
	const due = 10 * raft.Time(simET)
	h.watchPause(due, due-5, 0)
	h.watchPause(due, due+raft.Time(simET), 0)
	h.watchPause(due, due+3*raft.Time(simET), 3*raft.Time(simET))
	if n := h.Stats().Pauses; n != 0 {
		t.Fatalf("%d pauses", n)
	}
	now := due + 2*raft.Time(simET)
	h.watchPause(due, now, 0)
	if n := h.Stats().Pauses; n != 1 || h.wokeAt.Load() != int64(now) {
		t.Fatalf("%d pauses, woke at %d", n, h.wokeAt.Load())
	}
}

// The real clocks differ by what was slept, and go on together.
func TestBootClock(t *testing.T) {
	c, ok := any(BootClock{}).(MonotonicClock)
	if !ok {
		t.Skip("this system has one clock")
	}
	var w wakeWatch
	for range 1000 {
		if d := w.slept(c); d != 0 {
			t.Fatalf("slept %v", time.Duration(d))
		}
	}
}

// Where the news of a commit waits for entries to ride on, the messages for it alone are saved; and a follower that has asked for a read
// index has applied as much as soon as messages travel, then and for a while.
func TestFollowersAreToldWhenSomebodyReadsThere(t *testing.T) {
	s := newSim(t, 3, 3, 1, func(_ *Options, g *GroupConfig) { g.CommitDelay = simET / 20 })
	l := s.waitLeader(1)
	g := s.group(l, 1)
	s.until("a proposal's end", s.propose(g, "a").ended)
	told := func() bool {
		for n := range 3 {
			if s.group(n, 1).Status().Applied < g.Status().Applied {
				return false
			}
		}
		return true
	}
	s.until("followers that know", told)
	alone := func() (n int) { // messages that only tell
		for _, p := range s.net {
			if p.from == raft.NodeID(l+1) && p.pair == nil && p.msgs[0].Type == raft.MsgApp && len(p.msgs[0].Entries) == 0 {
				n++
			}
		}
		return n
	}
	one := func() { s.until("a proposal's end", s.propose(g, "b").ended) }
	for range 20 {
		if one(); alone() > 0 {
			t.Fatal("a message of its own for a commit")
		}
	}
	if told() {
		t.Fatal("followers know already: nothing was saved")
	}
	g.ReadElsewhere()
	r := read(g)
	s.settle()
	if r.calls != 1 || r.err != nil || alone() != 2 {
		t.Fatalf("the read: %+v, and %d messages tell of the commit", r, alone())
	}
	s.until("followers that know", told)
	for range 3 {
		one()
		if alone() == 0 {
			t.Fatal("while it is read elsewhere the news waits")
		}
		s.until("followers that know", told)
	}
	s.run(time.Duration(tellFor), func() {})
	one()
	if alone() > 0 {
		t.Fatal("nobody reads elsewhere any more, and the news is in a hurry")
	}
}

// A read by a lease that holds takes no turn, and one by a lease that has ended is not answered by it.
func TestReadByLeaseTakesNoTurn(t *testing.T) {
	s := newSim(t, 5, 3, 1, nil)
	l := s.waitLeader(1)
	s.until("a proposal's end", s.propose(s.group(l, 1), "a").ended)
	g := s.group(l, 1)
	s.until("a lease", func() bool { r := read(g); s.settle(); return r.calls == 1 && r.err == nil })
	h := s.nodes[l].host
	before := h.Stats()
	for range 100 {
		if r := read(g); r.calls != 1 || r.err != nil || r.at < g.Status().Commit {
			t.Fatalf("%+v, committed %d", r, g.Status().Commit)
		}
	}
	if after := h.Stats(); after.Turns != before.Turns || after.LeaseReads-before.LeaseReads != 100 || after.Reads-before.Reads != 100 {
		t.Fatalf("%d turns, %d reads, %d by lease", after.Turns-before.Turns, after.Reads-before.Reads, after.LeaseReads-before.LeaseReads)
	}
	s.isolate(l, true)
	s.clock.now += raft.Time(simET) // without a turn: what the last one left says that there is a lease
	if r := read(g); r.calls != 0 {
		t.Fatalf("answered by a lease that has ended: %+v", r)
	}
}

// An order to campaign ends the lease before it is sent: whoever is elected by it waits for no lease.
func TestOrderToCampaignEndsTheLease(t *testing.T) {
	s := newSim(t, 6, 3, 1, nil)
	l := s.waitLeader(1)
	s.until("a proposal's end", s.propose(s.group(l, 1), "a").ended)
	g := s.group(l, 1)
	s.until("a lease", func() bool { r := read(g); s.settle(); return r.calls == 1 && r.err == nil })
	ordered := false
	s.nodes[l].host.o.Transport = watchOrders{s.nodes[l].host.o.Transport, func() {
		ordered = true
		if _, ok := g.readByLease(); ok {
			t.Error("there is a lease still when the order goes out")
		}
	}}
	g.Transfer(raft.NodeID((l+1)%3+1), func(error) {})
	s.until("the order", func() bool { return ordered })
}

// watchOrders sees each order to campaign before it is sent.
type watchOrders struct {
	Transport
	order func()
}

func (w watchOrders) Send(to raft.NodeID, msgs []raft.Message) {
	if slices.ContainsFunc(msgs, func(m raft.Message) bool { return m.Type == raft.MsgTimeoutNow }) {
		w.order()
	}
	w.Transport.Send(to, msgs)
}

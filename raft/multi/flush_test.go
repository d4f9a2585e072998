package multi

import (
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/balsamq/balsa/raft"
)

type handClock struct{ now raft.Time }

func (c *handClock) Now() raft.Time { return c.now }

// The eager flushers take whatever waits; the others only what has waited for as long as a Sync takes.
func TestExtraFlushersWaitTheirTurn(t *testing.T) {
	clock := &handClock{now: raft.Time(time.Hour)}
	ms := func(n float64) raft.Time { return raft.Time(n * float64(time.Millisecond)) }
	f := &flusher{}
	f.init(16)
	f.eager, f.typical = 2, ms(1)
	g := &Group{}
	g.fl.since = clock.now
	f.queue = []*Group{g}
	due := func(running int) raft.Time {
		f.running = make([]*Group, running)
		return f.dueLocked(clock.Now())
	}
	for _, c := range []struct {
		what    string
		running int
		set     func()
		want    raft.Time
	}{
		{"nothing runs", 0, func() {}, 0},
		{"one runs", 1, func() {}, 0},
		{"the eager ones run", 2, func() {}, ms(1)},
		{"for a while", 2, func() { clock.now += ms(0.75) }, ms(0.25)},
		{"for long", 2, func() { clock.now += ms(0.25) }, 0},
		{"the disk is slow", 5, func() { f.typical = ms(5) }, ms(4)},
		{"the disk hangs", 5, func() { f.typical = ms(5000) }, maxPatience - ms(1)},
		{"the disk is memory", 5, func() { f.typical, clock.now = 0, g.fl.since }, minPatience},
		{"snapshot work", 5, func() { g.fl.since = 0 }, 0},
		{"the end", 5, func() { g.fl.since, f.closed = clock.now, true }, 0},
	} {
		c.set()
		if got := due(c.running); got != c.want {
			t.Errorf("%s: due in %v, want %v", c.what, time.Duration(got), time.Duration(c.want))
		}
	}
}

// hangLog is a log on a disk that may hang.
type hangLog struct {
	*memLog
	mu   sync.Mutex
	hang chan struct{} // nil: it does not
	in   int           // Syncs that hang
}

func (l *hangLog) Sync() (raft.Ticket, error) {
	l.mu.Lock()
	hang := l.hang
	if hang != nil {
		l.in++
	}
	l.mu.Unlock()
	if hang != nil {
		<-hang
	}
	return l.memLog.Sync()
}

// Logs whose Sync hangs keep the others from theirs no longer than a Sync takes, though all eager flushers hang with them.
func TestHangingSyncsHoldUpNobodyElse(t *testing.T) {
	const groups, hanging = 6, 4
	net := newThreadNet(1, 0)
	self := raft.Member{ID: 1, Incarnation: 1}
	states := newAsyncStates()
	h, err := NewHost(Options{Self: self, Boot: 1, Workers: 2, Flushers: hanging + 1, ElectionTimeout: 100 * time.Millisecond, Transport: threadPort{net, 1}, HardStates: states})
	if err != nil {
		t.Fatal(err)
	}
	h.flusher.eager = 2
	h.Start()
	logs := make([]*hangLog, groups)
	gs := make([]*Group, groups)
	for i := range groups {
		id := raft.GroupID(i + 1)
		sm := &memSM{group: id}
		logs[i] = &hangLog{memLog: newMemLog(id)}
		gs[i], err = h.CreateGroup(GroupConfig{ID: id, Log: logs[i], Stager: sm, StateMachine: sm, Bootstrap: raft.ConfState{Voters: []raft.Member{self}}, Fresh: true, Campaign: true})
		if err != nil {
			t.Fatal(err)
		}
	}
	propose := func(i int) <-chan error {
		done := make(chan error, 1)
		gs[i].Propose(&Proposal{Type: raft.EntryRecords, Payload: []byte("x"), Done: func(o Outcome) { done <- o.Err }})
		return done
	}
	for i := range groups {
		poll(t, "a leader", func() bool { return gs[i].Status().Ready })
	}
	release := make(chan struct{})
	var held []<-chan error
	for i := range hanging {
		logs[i].mu.Lock()
		logs[i].hang = release
		logs[i].mu.Unlock()
		held = append(held, propose(i))
		poll(t, "a Sync that hangs", func() bool {
			logs[i].mu.Lock()
			defer logs[i].mu.Unlock()
			return logs[i].in == 1
		})
	}
	for i := hanging; i < groups; i++ {
		select {
		case err := <-propose(i):
			if err != nil {
				t.Errorf("group %d: %v", i+1, err)
			}
		case <-time.After(time.Minute):
			t.Fatalf("group %d waits behind disks that hang", i+1)
		}
	}
	for _, l := range logs[:hanging] {
		l.mu.Lock()
		l.hang = nil
		l.mu.Unlock()
	}
	close(release)
	for i, done := range held {
		if err := <-done; err != nil {
			t.Errorf("group %d, released: %v", i+1, err)
		}
	}
	if err := h.Close(); err != nil {
		t.Error(err)
	}
	net.close()
	close(states.c)
	states.wg.Wait()
}

// lateLog is a log with relaxed durability: what it vouches for it syncs when it is told to.
type lateLog struct {
	*memLog
	mu      sync.Mutex // guards what follows
	behind  int64
	settled int
	err     error
}

func (l *lateLog) Behind() int64 { l.mu.Lock(); defer l.mu.Unlock(); return l.behind }

func (l *lateLog) Settle() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err == nil {
		l.behind = 0
	}
	l.settled++
	return l.err
}

func (l *lateLog) set(behind int64, err error) {
	l.mu.Lock()
	l.behind, l.err = behind, err
	l.mu.Unlock()
}

// A log with relaxed durability is synced when much is behind, or something for long, counted from when the log was last all on the disk.
func TestLateLogsAreSettled(t *testing.T) {
	clock := &handClock{now: raft.Time(time.Hour)}
	h := &Host{o: Options{Clock: clock}}
	l := &lateLog{memLog: newMemLog(1)}
	g := &Group{id: 1, log: l}
	for _, c := range []struct {
		what   string
		behind int64
		after  time.Duration
		want   int // Settles so far
	}{
		{"nothing is behind", 0, time.Minute, 0},
		{"something is", 1, 0, 0},
		{"for a while", 2, RelaxedDelay - 1, 0},
		{"for long", 3, 1, 1},
		{"again something", 1, RelaxedDelay - 1, 1},
		{"all is on the disk", 0, RelaxedDelay, 1},
		{"something anew", 1, 0, 1},
		{"not for long yet", 2, RelaxedDelay - 1, 1},
		{"much", relaxedBytes, 0, 2},
	} {
		l.set(c.behind, nil)
		clock.now += raft.Time(c.after)
		if h.settles(g) {
			h.settle(g)
		}
		if l.settled != c.want {
			t.Fatalf("%s: settled %d times, want %d", c.what, l.settled, c.want)
		}
	}
}

// A Settle that fails is as bad as a Sync that does: the group stops.
func TestFailedSettleStopsTheGroup(t *testing.T) {
	net := newThreadNet(1, 0)
	self := raft.Member{ID: 1, Incarnation: 1}
	h, err := NewHost(Options{Self: self, Boot: 1, Workers: 1, Flushers: 2, ElectionTimeout: 100 * time.Millisecond, Transport: threadPort{net, 1}, HardStates: newAsyncStates()})
	if err != nil {
		t.Fatal(err)
	}
	h.Start()
	defer h.Close()
	sm := &memSM{group: 1}
	l := &lateLog{memLog: newMemLog(1)}
	g, err := h.CreateGroup(GroupConfig{ID: 1, Log: l, Stager: sm, StateMachine: sm, Bootstrap: raft.ConfState{Voters: []raft.Member{self}}, Fresh: true, Campaign: true})
	if err != nil {
		t.Fatal(err)
	}
	poll(t, "a leader", func() bool { return g.Status().Ready })
	bad := errors.New("the disk has lost it")
	l.set(relaxedBytes, bad)
	g.Propose(&Proposal{Type: raft.EntryRecords, Payload: []byte("x"), Done: func(Outcome) {}})
	poll(t, "the group stops", func() bool { return errors.Is(g.Status().Err, bad) })
}

// Where groups do not wait for workers, whoever has synced a log has the group's turn. This host has no goroutine of its own.
func TestTurnWhereTheLogWasSynced(t *testing.T) {
	net := newThreadNet(1, 0)
	self := raft.Member{ID: 1, Incarnation: 1}
	h, err := NewHost(Options{Self: self, Boot: 1, Workers: 1, Flushers: 1, ElectionTimeout: 100 * time.Millisecond, Transport: threadPort{net, 1}, HardStates: newAsyncStates()})
	if err != nil {
		t.Fatal(err)
	}
	sm := &memSM{group: 1}
	g, err := h.CreateGroup(GroupConfig{ID: 1, Log: newMemLog(1), Stager: sm, StateMachine: sm, Bootstrap: raft.ConfState{Voters: []raft.Member{self}}, Fresh: true, Campaign: true})
	if err != nil {
		t.Fatal(err)
	}
	w := &worker{h: h}
	turns := func() {
		for g := h.runq.pop(false); g != nil; g = h.runq.pop(false) {
			w.turn(g)
		}
	}
	flush := func() {
		f := &h.flusher
		f.mu.Lock()
		if len(f.queue) == 0 {
			f.mu.Unlock()
			return
		}
		g, sync, jobs := f.popLocked(0, h.now())
		f.mu.Unlock()
		h.flushOne(w, g, sync, jobs)
	}
	poll(t, "a leader", func() bool {
		turns()
		flush()
		return g.Status().Ready
	})
	for _, c := range []struct {
		what  string
		wait  raft.Time
		other bool // group waits for a worker
		here  bool
	}{
		{"it is calm", 0, false, true},
		{"groups wait for processors", 2 * calmBelow, false, false},
		{"calm again", calmBelow / 2, false, true},
		{"another group waits", 0, true, false},
	} {
		done := make(chan error, 1)
		g.Propose(&Proposal{Type: raft.EntryRecords, Payload: []byte("x"), Done: func(o Outcome) { done <- o.Err }})
		turns()
		if c.other {
			h.schedule(&Group{h: h, stopped: true})
		}
		h.wait.Store(int64(c.wait))
		flush()
		if here := len(done) == 1; here != c.here {
			t.Errorf("%s: the turn was here %v, want %v", c.what, here, c.here)
		}
		turns()
		if err := <-done; err != nil {
			t.Fatalf("%s: %v", c.what, err)
		}
	}
}

func TestCalm(t *testing.T) {
	h := &Host{}
	for range 100 {
		h.waited(calmBelow / 2)
	}
	if !h.calm() {
		t.Fatal("groups wait for as long as a processor takes to wake, and it is not calm")
	}
	for range 10 {
		h.waited(10 * calmBelow)
	}
	if h.calm() {
		t.Fatal("groups wait for a processor, and it is calm")
	}
	for range 100 {
		h.waited(0)
	}
	if !h.calm() {
		t.Fatal("it is not calm again")
	}
}

// The host: the groups of one process, the run queue, and the workers that drive them.
//
// A group is driven by Group.process, one turn at a time. Whatever happens to a group (a message, a proposal, a sync
// report, a deadline) is put into its inbox or noted on it, and the group is put into the run queue, in which it
// stands at most once; while a worker has it, a note is taken that it must run again. So a group is processed by at
// most one worker at a time, and everything inside the core, the state machine and the stager needs no lock.
//
// Order of locks: Host.mu, then pairs.mu, then a group's inbox.mu, then runQueue.mu, timers.mu, flusher.mu or
// elections.mu (leaves).

package multi

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/balsamq/balsa/raft"
)

// Host drives all groups of a process.
type Host struct {
	o      Options
	manual bool

	mu     sync.RWMutex // protects groups, closed
	groups map[raft.GroupID]*Group
	closed bool

	runq      runQueue
	timers    timers
	flusher   flusher
	pairs     pairs
	moves     moves
	elections elections
	wg        sync.WaitGroup
	manualW   *worker         // manual mode: the one worker
	prompt    PromptTransport // o.Transport, if it is one
	started   atomic.Bool     // not in manual mode: there are goroutines
	lives     atomic.Uint64   // groups created, below 1<<32: see CreateGroup

	pacer    pacer
	throttle *throttle // nil: none
	// replication is for replicas that are throttled beyond that.
	replication *replicationRates

	wake   wakeWatch    // of whoever fires timers
	wait   atomic.Int64 // how long groups have waited for their turns of late, on average, in raft.Time
	wokeAt atomic.Int64 // raft.Time at which this process was last seen to wake: no lease rests on a round from before

	snapshotSends int // guarded by flusher.mu: sends that have a place
	bulk          *Limiter
	fetches       atomic.Int64 // snapshots being taken in
	fatal         atomic.Pointer[error]
	stats         counters
}

type counters struct {
	turns, ticks, timerFires, syncs, syncErrors, noSpace, proposals, applied, reads, leaseReads atomic.Uint64
	readRounds, suspends, pauses                                                                atomic.Uint64
	msgsIn, msgsOut, msgsDropped, badFrames, throttled, muted, handedOver                       atomic.Uint64
	pairHeartbeats, pairAnswers, pairRefused, pairStalled, pairLost, woken                      atomic.Uint64
	snapTaken, snapSent, snapInstalled, snapResumed, snapBroken                                 atomic.Uint64
	snapBytesOut, snapBytesIn, badChunks                                                        atomic.Uint64
	overloaded, gathered, appended, appendBytes, behindBytes                                    atomic.Uint64
	preVotes, elections, electionsWon, leaderChanges, stepDowns                                 atomic.Uint64
}

// NewHost validates the options and makes a host without groups.
func NewHost(o Options) (*Host, error) {
	if err := o.setDefaults(); err != nil {
		return nil, err
	}
	h := &Host{o: o, manual: o.Workers < 0, groups: make(map[raft.GroupID]*Group), bulk: NewLimiter(o.SnapshotRate)}
	h.runq.init()
	if flushers := h.o.Flushers; h.manual {
		h.flusher.init(0)
	} else {
		h.flusher.init(flushers)
	}
	h.timers.init()
	h.pairs.init(h)
	h.pacer.init()
	h.manualW = &worker{h: h}
	h.prompt, _ = o.Transport.(PromptTransport)
	h.replication = newReplicationRates(raft.Time(o.HeartbeatInterval))
	if o.LearnerRate > 0 {
		h.throttle = newThrottle(o.LearnerRate, raft.Time(o.HeartbeatInterval))
	}
	return h, nil
}

// Start starts the workers, the flushers and the timer goroutine. In manual mode there are none.
func (h *Host) Start() {
	if h.manual || h.started.Swap(true) {
		return
	}
	for range h.o.Workers {
		h.wg.Go(func() { (&worker{h: h}).loop() })
	}
	for range h.o.Flushers {
		h.wg.Go(h.flushLoop)
	}
	h.wg.Go(h.timerLoop)
}

// Close closes all groups, then stops the goroutines. Groups complete what is pending with [ErrClosed].
func (h *Host) Close() error {
	h.mu.Lock()
	if h.closed {
		h.mu.Unlock()
		return nil
	}
	h.closed = true
	h.mu.Unlock()
	var errs []error
	gs := h.sorted(all)
	for _, g := range gs {
		g.beginClose()
	}
	for _, g := range gs {
		if err := g.Close(); err != nil {
			errs = append(errs, err)
		}
	}
	h.runq.close()
	h.flusher.close()
	h.timers.close()
	h.wg.Wait()
	return errors.Join(errs...)
}

// Group returns a group of this host, or nil.
func (h *Host) Group(id raft.GroupID) *Group {
	h.mu.RLock()
	defer h.mu.RUnlock()
	return h.groups[id]
}

func all(*Group) bool { return true }

// sorted lists the groups that are wanted by id: nothing may depend on the order of a map.
func (h *Host) sorted(wanted func(*Group) bool) []*Group {
	h.mu.RLock()
	var gs []*Group
	for _, g := range h.groups {
		if wanted(g) {
			gs = append(gs, g)
		}
	}
	h.mu.RUnlock()
	slices.SortFunc(gs, func(a, b *Group) int {
		if a.id < b.id {
			return -1
		}
		return 1
	})
	return gs
}

// Deliver takes messages from other brokers. The slice is the caller's again afterwards. It never blocks: what does
// not fit a group's inbox, or is for no group of this host, is dropped and counted.
//
// Entries are verified here, by whoever has just read them from the network, and not by a worker some time later: the bytes are still
// in the processor's cache, and the groups' turns stay short.
func (h *Host) Deliver(msgs []raft.Message) {
	now := h.now()
	for i := range msgs {
		m := &msgs[i]
		h.stats.msgsIn.Add(1)
		g := h.Group(m.Group)
		if g == nil || m.To != h.o.Self.ID {
			h.stats.msgsDropped.Add(1)
			continue
		}
		if len(m.Entries) > 0 {
			whole := *m
			if m = &whole; !g.verify(m) {
				h.stats.badFrames.Add(1)
				continue
			}
		}
		if !g.in.pushMessage(h, g, m, now) {
			h.stats.msgsDropped.Add(1)
		}
	}
}

// verify checks and decodes the frames of m, which only MsgApps have, into entries of its own: the slice that came may be shared. A path
// that damages each message is logged once a minute; Stats counts them all.
func (g *Group) verify(m *raft.Message) bool {
	if m.Type != raft.MsgApp {
		return false
	}
	es := make([]raft.Entry, len(m.Entries))
	for i := range m.Entries {
		es[i].Frame = m.Entries[i].Frame
		if err := g.log.DecodeFrame(&es[i]); err != nil {
			now, last := g.h.now(), raft.Time(g.damagedAt.Load())
			if (last == 0 || now-last >= raft.Time(time.Minute)) && g.damagedAt.CompareAndSwap(int64(last), int64(now)) {
				g.h.o.Logger.Warn("damaged entry from a peer", "group", uint64(g.id), "from", uint64(m.From), "err", err)
			}
			return false
		}
		if es[i].Index != m.Index+1+raft.Index(i) {
			return false
		}
	}
	m.Entries = es
	return true
}

// DeliverChunk takes a request for a piece of a snapshot, or a piece, from another broker. m is the host's from then on. It
// never blocks; what does not fit is dropped.
func (h *Host) DeliverChunk(from raft.NodeID, m *ChunkMessage) {
	if g := h.Group(m.Group); g == nil || !g.in.pushChunk(h, g, from, m) {
		h.stats.msgsDropped.Add(1)
	}
}

// Stats reads the counters.
func (h *Host) Stats() Stats {
	h.mu.RLock()
	n := len(h.groups)
	h.mu.RUnlock()
	c := &h.stats
	return Stats{
		Groups: n, Covered: h.pairs.covered(),
		Turns: c.turns.Load(), Ticks: c.ticks.Load(), TimerFires: c.timerFires.Load(),
		Syncs: c.syncs.Load(), SyncErrors: c.syncErrors.Load(), NoSpace: c.noSpace.Load(),
		Proposals: c.proposals.Load(), Applied: c.applied.Load(), Reads: c.reads.Load(), LeaseReads: c.leaseReads.Load(),
		ReadRounds: c.readRounds.Load(), Suspends: c.suspends.Load(), Pauses: c.pauses.Load(),
		MsgsIn: c.msgsIn.Load(), MsgsOut: c.msgsOut.Load(), MsgsDropped: c.msgsDropped.Load(),
		BadFrames: c.badFrames.Load(), Throttled: c.throttled.Load(), Muted: c.muted.Load(), HandedOver: c.handedOver.Load(),
		PairHeartbeats: c.pairHeartbeats.Load(), PairAnswers: c.pairAnswers.Load(), PairRefused: c.pairRefused.Load(),
		PairStalled: c.pairStalled.Load(), PairSessionLost: c.pairLost.Load(), GroupsWoken: c.woken.Load(),
		Overloaded: c.overloaded.Load(), Gathered: c.gathered.Load(), Appended: c.appended.Load(), AppendBytes: c.appendBytes.Load(),
		BehindBytes: c.behindBytes.Load(),
		PreVotes:    c.preVotes.Load(), Elections: c.elections.Load(), ElectionsWon: c.electionsWon.Load(),
		LeaderChanges: c.leaderChanges.Load(), StepDowns: c.stepDowns.Load(),
		SnapshotsTaken: c.snapTaken.Load(), SnapshotsSent: c.snapSent.Load(), SnapshotsInstalled: c.snapInstalled.Load(),
		SnapshotsResumed: c.snapResumed.Load(), SnapshotsBroken: c.snapBroken.Load(), SnapshotBytesOut: c.snapBytesOut.Load(),
		SnapshotBytesIn: c.snapBytesIn.Load(), BadChunks: c.badChunks.Load(),
	}
}

func (h *Host) now() raft.Time { return h.o.Clock.Now() }

// failHost stops every group: without hard states there is no vote, and none that was promised may be forgotten.
func (h *Host) failHost(err error) {
	err = fmt.Errorf("%w: %w", ErrHostFailed, err)
	if !h.fatal.CompareAndSwap(nil, &err) {
		return
	}
	h.o.Logger.Error("hard-state store failed; no group of this broker votes any more", "err", err)
	for _, g := range h.sorted(all) {
		g.in.pushEvent(h, g, event{kind: evFailed, err: err})
	}
	if h.o.OnFatal != nil {
		h.o.OnFatal(err)
	}
}

// ---- the run queue

// Scheduling states of a group (Group.sched), guarded by runQueue.mu.
const (
	schedIdle    uint8 = iota
	schedQueued        // stands in the queue
	schedRunning       // a worker has it
	schedAgain         // a worker has it, and it must run once more
)

// runQueue is a FIFO of groups with work.
type runQueue struct {
	mu     sync.Mutex // protects all below, Group.sched and Group.queuedAt
	cond   sync.Cond
	ring   []*Group // ring[head:] then wraps; len is a power of two
	head   int
	n      int
	closed bool

	waiting atomic.Int64 // n, for who looks in passing
}

func (q *runQueue) init() {
	q.cond.L = &q.mu
	q.ring = make([]*Group, 64)
}

func (q *runQueue) pushLocked(g *Group, now raft.Time) {
	if q.n == len(q.ring) { // bounded by the number of groups: each stands here at most once
		bigger := make([]*Group, 2*len(q.ring))
		for i := range q.n {
			bigger[i] = q.ring[(q.head+i)&(len(q.ring)-1)]
		}
		q.ring, q.head = bigger, 0
	}
	q.ring[(q.head+q.n)&(len(q.ring)-1)] = g
	q.n++
	q.waiting.Store(int64(q.n))
	g.sched = schedQueued
	g.queuedAt = now
}

// schedule puts g into the run queue unless it is there.
func (h *Host) schedule(g *Group) { h.scheduleAt(g, 0) }

// scheduleAt is schedule for who has just read the clock: that is a system call.
func (h *Host) scheduleAt(g *Group, now raft.Time) {
	q := &h.runq
	q.mu.Lock()
	switch g.sched {
	case schedIdle:
		if now == 0 {
			now = h.now()
		}
		q.pushLocked(g, now)
		q.cond.Signal()
	case schedRunning:
		g.sched = schedAgain
	}
	q.mu.Unlock()
}

// take has g's turn on this goroutine, which has news for it and nothing else to do, if no other group waits for one; else a worker has it.
func (h *Host) take(w *worker, g *Group) {
	q := &h.runq
	q.mu.Lock()
	if h.manual || q.n > 0 || q.closed || g.sched != schedIdle {
		q.mu.Unlock()
		h.schedule(g)
		return
	}
	g.sched, g.queued = schedRunning, 0
	q.mu.Unlock()
	w.turn(g)
	w.flushOut()
}

// pop takes the next group; nil if there is none (manual mode) or the queue is closed.
func (q *runQueue) pop(wait bool) *Group {
	q.mu.Lock()
	defer q.mu.Unlock()
	for q.n == 0 {
		if !wait || q.closed {
			return nil
		}
		q.cond.Wait()
	}
	g := q.ring[q.head]
	q.ring[q.head] = nil
	q.head = (q.head + 1) & (len(q.ring) - 1)
	q.n--
	q.waiting.Store(int64(q.n))
	g.sched, g.queued = schedRunning, g.queuedAt
	return g
}

// done gives a group back after its turn.
func (q *runQueue) done(g *Group, more bool, clock Clock) {
	q.mu.Lock()
	if g.sched == schedAgain || more {
		q.pushLocked(g, clock.Now())
		q.cond.Signal()
	} else {
		g.sched = schedIdle
	}
	q.mu.Unlock()
}

func (q *runQueue) empty() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.n == 0
}

// calmBelow is how long groups wait for their turn at most, on average, where processors are idle: what it takes to wake one.
const calmBelow = raft.Time(100 * time.Microsecond)

// waited takes note of how long a group has waited for a worker.
func (h *Host) waited(d raft.Time) {
	was := h.wait.Load() // two that do so at once: one is not counted
	h.wait.Store(was + (int64(d)-was)/8)
}

// calm reports whether a goroutine that has news had better act on it than wake another one. Where processors have a lot to do it costs nothing
// to leave it to others, who then do much at once.
func (h *Host) calm() bool { return raft.Time(h.wait.Load()) < calmBelow }

// oldest is when the group at the head was queued; 0 if there is none.
func (q *runQueue) oldest() raft.Time {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.n == 0 {
		return 0
	}
	return q.ring[q.head].queuedAt
}

func (q *runQueue) close() {
	q.mu.Lock()
	q.closed = true
	q.mu.Unlock()
	q.cond.Broadcast()
}

// worker is what one worker keeps between turns: messages that wait to be sent, and scratch space.
type worker struct {
	h       *Host
	mu      sync.Mutex    // protects out, which another worker may have to send: see turn
	out     []outbox      // per destination, few
	flushes atomic.Uint64 // of out
	turns   int           // since the last one of its own
	unsent  bool          // entries of this turn may be in out
	entries []raft.Entry
	staged  []*Proposal
}

type outbox struct {
	to   raft.NodeID
	msgs []raft.Message
}

func (w *worker) loop() {
	for {
		g := w.h.runq.pop(false)
		if g == nil {
			w.flushOut() // about to sleep: nothing may wait with us
			if g = w.h.runq.pop(true); g == nil {
				return
			}
		}
		w.turn(g)
	}
}

func (w *worker) turn(g *Group) {
	w.h.stats.turns.Add(1)
	if o := g.unsent; o != nil && o != w && o.flushes.Load() == g.unsentAt {
		o.sendOut() // entries that overtake others are refused, and all are sent again
	}
	g.unsent, w.unsent = nil, false
	more := g.process(w)
	w.turns++
	if w.turns >= maxTurnsPerFlush {
		w.flushOut()
	} else if w.unsent {
		g.unsent, g.unsentAt = w, w.flushes.Load()
	}
	w.h.runq.done(g, more, w.h.o.Clock)
}

// send collects m for its destination. Entries and their answers leave at the end of the turn, all else, and these where many groups wait
// and a few turns more make no difference, when this worker has nothing more to do, or has taken maxTurnsPerFlush turns.
func (w *worker) send(m *raft.Message) {
	w.h.stats.msgsOut.Add(1)
	if (len(m.Entries) > 0 || m.Type == raft.MsgAppResp) && !w.h.crowded() {
		w.turns = maxTurnsPerFlush // somebody waits for these
	}
	w.unsent = w.unsent || len(m.Entries) > 0
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := range w.out {
		if o := &w.out[i]; o.to == m.To {
			o.msgs = append(o.msgs, *m)
			if len(o.msgs) >= maxOutMessages {
				w.hand(o)
			}
			return
		}
	}
	w.out = append(w.out, outbox{to: m.To, msgs: append(make([]raft.Message, 0, 4), *m)})
}

// flushOut hands everything collected to the transport.
func (w *worker) flushOut() {
	w.turns = 0
	w.sendOut()
}

// sendOut does so, for whichever worker.
func (w *worker) sendOut() {
	w.mu.Lock()
	defer w.mu.Unlock()
	defer w.flushes.Add(1)
	for i := range w.out {
		if o := &w.out[i]; len(o.msgs) > 0 {
			w.hand(o)
		}
	}
}

// hand, under mu, gives one destination's messages to the transport. Their memory, of at most maxOutMessages, is used for the next ones.
func (w *worker) hand(o *outbox) {
	if h := w.h; h.prompt != nil && h.calm() {
		h.prompt.SendNow(o.to, o.msgs)
	} else {
		h.o.Transport.Send(o.to, o.msgs)
	}
	clear(o.msgs)
	o.msgs = o.msgs[:0]
}

// ---- manual mode

// maxManualTurns bounds Run: a cluster that never comes to rest within one instant is our own fault.
const maxManualTurns = 1 << 20

// Run, in manual mode, fires the timers that are due and processes groups until none is ready. It returns the number
// of turns taken. The order is that in which groups became ready; nothing in it depends on chance.
func (h *Host) Run() int {
	if !h.manual {
		panic("multi: Host.Run outside manual mode")
	}
	return h.run()
}

func (h *Host) run() int {
	turns := 0
	for {
		h.fireTimers(h.now())
		g := h.runq.pop(false)
		if g == nil {
			h.manualW.flushOut()
			if h.runq.empty() {
				return turns
			}
			continue
		}
		h.manualW.turn(g)
		if turns++; turns > maxManualTurns {
			panic(fmt.Sprintf("multi: group %d does not come to rest", g.id))
		}
	}
}

// Deadline is when the next timer of the host is due; [raft] time's far future if there is none.
func (h *Host) Deadline() raft.Time { return h.timers.next() }

func durationUntil(at, now raft.Time) time.Duration { return time.Duration(max(at-now, 0)) }

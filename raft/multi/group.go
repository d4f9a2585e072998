// A group as its users see it: created, asked, closed. What happens inside a turn is in process.go.

package multi

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/balsamq/balsa/raft"
)

// Group is one Raft group of a host.
type Group struct {
	h   *Host
	id  raft.GroupID
	cfg GroupConfig
	log Log
	sm  StateMachine

	sched    uint8      // guarded by runQueue.mu
	queuedAt raft.Time  // guarded by runQueue.mu
	timer    timerItem  // guarded by timers.mu
	fl       flushState // guarded by flusher.mu
	elect    electState // guarded by elections.mu
	in       inbox
	closing  atomic.Bool
	// readElsewhere is when a follower last asked for a read index, until the worker has seen it; else 0.
	readElsewhere atomic.Int64
	// watched is when WatchPeers was last called; 0: never.
	watched atomic.Int64
	// moved: it is among Host.moves.
	moved atomic.Bool
	// snapshotEvery is GroupConfig.SnapshotEvery, changeable.
	snapshotEvery atomic.Int64
	throttle      groupThrottle
	// damagedAt is when an entry from a peer that came damaged was last logged.
	damagedAt atomic.Int64

	closeMu  sync.Mutex // protects closed, closeErr
	closed   chan struct{}
	closeErr error

	// follower is this replica's coverage as a follower; guarded by pairs.mu. followerHint says that there is any, so
	// that a group without needs no lock.
	follower     followerCoverage
	followerHint atomic.Bool

	// statusMu guards status, members and lease, which the worker alone changes, and so reads without it. A leaf.
	statusMu sync.Mutex
	lease    raft.Time         // of a ready leader, with this status; 0: none
	status   Status            // what the last turn left
	members  []raft.PeerStatus // leader: see Peers

	// All below belongs to the worker that has the group.
	r          *raft.Raft
	unsent     *worker // entries may be in its outbox, unless it has flushed that since …
	unsentAt   uint64  // … for the so many-th time; nil: they are not
	failed     error
	stopped    bool // shut down: everything is completed, the log is closed
	blocked    bool // a snapshot is being installed: the core and the log are left alone
	ready      bool // leader, own no-op applied
	peersMoved bool // a leader heard from members since Status was last published
	resting    bool // SetResting(true) is in force
	full       bool
	heldBack   bool // proposals wait in the inbox, see holdsBack
	gather     gathering
	waiting    pendingQueue
	local      pendingQueue
	repeats    []pendingProposal // waiting for an earlier entry's application
	reads      []readBatch
	readCtx    uint64
	applied    raft.Index

	seen       seenRole
	leaderless raft.Time // since when no leader is known; 0: one is
	elections  uint32

	campaignedAt  raft.Time // for want of a leader, the last time
	campaignUntil raft.Time // it has a turn to campaign, as a pre-candidate until then (see turnEnds); 0: it has none
	awaitsTurn    bool      // its election timer has ended, and it waits for its turn
	tried         bool      // it had one since it last had a leader

	pace   groupPace
	queued raft.Time // when this turn's place in the run queue was taken
	waited raft.Time // how long the last turn that staged proposals stood in the run queue

	// The term and leader for which this follower was last covered.
	restsIn   raft.Term
	restsWith raft.NodeID

	covers   []leaderCoverage
	ticked   bool      // since coverage was last considered
	restFrom raft.Time // leader: when it may be covered, unless something is proposed before

	lazy      int       // bytes that were appended since a sync was last asked for
	syncAt    raft.Time // when it is at the latest; 0: it was
	markAt    raft.Time // when the log shall have its synced mark; 0: it has
	markBy    raft.Time // and when it must, however many other logs wait for the disk
	retryAt   raft.Time // when a sync that found no space is tried again; 0: none
	retryWait raft.Time
	mute      bool      // leader whose disk hangs: nothing is sent, see Options.HangBound
	muteUntil raft.Time // looked at again

	impaired   bool      // the core was told that the disk is full or hangs
	handedOver raft.Time // when leadership was last given away for that; 0: never
	handUntil  raft.Time // a transfer may be under way until then
	heirUntil  raft.Time // handed over; the next leader is not heard yet, or what waits is not applied; 0: no

	appliedBytes int64
	snapshotting bool
	snapAgain    bool // another one was asked for meanwhile
	pruning      bool
	cutLater     bool          // when no snapshot is being sent any more
	opening      []raft.NodeID // followers whose sends wait for a place, or for their file
	sends        []*snapshotSend
	fetch        *fetch         // nil: none
	installed    raft.Index     // of the last snapshot that a leader sent
	conf         raft.ConfState // from the snapshot or bootstrap: in effect before any EntryConfig in the log
}

// CreateGroup loads the snapshot, restores the state machine and starts the core. On an error the caller keeps the log.
func (h *Host) CreateGroup(c GroupConfig) (*Group, error) {
	if c.ID == 0 || c.Log == nil || c.Stager == nil || c.StateMachine == nil {
		return nil, errors.New("multi: GroupConfig needs ID, Log, Stager and StateMachine")
	}
	if err := h.fatal.Load(); err != nil {
		return nil, *err
	}
	g := &Group{h: h, id: c.ID, cfg: c, log: c.Log, sm: c.StateMachine, conf: c.Bootstrap}
	g.timer.group = g
	g.snapshotEvery.Store(c.SnapshotEvery)
	fail := func(what string, err error) (*Group, error) {
		return nil, fmt.Errorf("create group %d: %s: %w", c.ID, what, err)
	}
	snap, err := c.Log.LoadSnapshot()
	if err != nil {
		return fail("load snapshot", err)
	}
	if snap != nil {
		state, err := c.Log.DecodeSnapshot(snap.Data)
		if err != nil {
			return fail("decode snapshot", err)
		}
		if err := c.StateMachine.Restore(snap.Meta, state); err != nil {
			return fail("restore snapshot", err)
		}
		g.applied, g.conf = snap.Meta.Index, snap.Meta.Conf
	}
	hs, known := h.o.HardStates.Load(c.ID)
	if !known { // also of one that has run, and had nothing to save yet
		hs.Epoch = c.Epoch
	}
	now := h.now()
	// To its peers, a group that is closed and created again in one process is as good as restarted: its log was opened
	// anew and may hold less, and it has forgotten the commit index. Its leader must not go by what it was told before.
	boot := h.o.Boot<<32 | h.lives.Add(1)
	g.throttle.all, g.throttle.rates = h.throttle, h.replication
	var throttle raft.Throttle
	var pacer raft.Pacer
	if c.Throttle {
		throttle, pacer = &g.throttle, &g.pace
	}
	g.r, err = raft.New(raft.Config{
		Group: c.ID, Self: h.o.Self, Boot: boot, VoteAfter: c.VoteAfter,
		ElectionTimeout: h.o.ElectionTimeout, HeartbeatInterval: h.o.HeartbeatInterval, ClockDrift: h.o.ClockDrift,
		MaxMessageBytes: h.o.MaxMessageBytes, MaxInflightMsgs: h.o.MaxInflightMsgs, MaxInflightBytes: h.o.MaxInflightBytes,
		MaxUncommitted: h.o.MaxUncommitted, MaxApplyBytes: h.o.MaxApplyBytes, CommitDelay: c.CommitDelay, BusyFor: h.o.ElectionTimeout / 4,
		Log: c.Log, HardState: hs, Bootstrap: g.conf, Applied: g.applied, Now: now, Fresh: c.Fresh, Priorities: c.Priorities,
		Rand:          rand.New(rand.NewPCG(h.o.Seed^uint64(h.o.Self.ID)<<32, uint64(c.ID))),
		FrameInternal: c.Stager.StageInternal, Throttle: throttle, Pacer: pacer,
	})
	if err != nil {
		return fail("start", err)
	}
	if c.Log.MarkPending() {
		g.markSoon(now)
	}
	g.leaderless = now
	g.publish()
	h.mu.Lock()
	switch {
	case h.closed:
		err = ErrClosed
	case h.groups[c.ID] != nil:
		err = ErrGroupExists
	default:
		h.groups[c.ID] = g
	}
	h.mu.Unlock()
	if err != nil {
		return fail("register", err)
	}
	if err := h.fatal.Load(); err != nil { // failed meanwhile, and may have missed this group
		_ = g.in.pushEvent(h, g, event{kind: evFailed, err: *err})
	}
	if c.Campaign {
		g.Campaign()
	}
	h.schedule(g)
	return g, nil
}

// ID of the group.
func (g *Group) ID() raft.GroupID { return g.id }

// Propose hands a proposal over. It never blocks. Done is called exactly once: by a worker, or, when the proposal is
// refused at the door (overload, closed, failed), before Propose returns.
func (g *Group) Propose(p *Proposal) {
	if err := g.in.pushProposal(g.h, g, p); err != nil {
		g.h.countRefusal(err)
		p.Done(Outcome{Err: err})
	}
}

// ProposeConf proposes a membership change; done is called when its entry has been applied, or with an error.
func (g *Group) ProposeConf(c raft.ConfChange, done func(Outcome)) {
	if err := g.in.pushEvent(g.h, g, event{kind: evConf, conf: &c, done: done}); err != nil {
		done(Outcome{Err: err})
	}
}

// Read asks for a linearizable read point: done is called with an index that is applied by then, and that is at least
// the commit index of any proposal that had been completed when Read was called. The leader's lease answers it; without
// one it is a ReadIndex.
func (g *Group) Read(done func(raft.Index, error)) {
	if at, ok := g.readByLease(); ok {
		g.h.stats.reads.Add(1)
		g.h.stats.leaseReads.Add(1)
		done(at, nil)
		return
	}
	if err := g.in.pushRead(g.h, g, false, done); err != nil {
		g.h.countRefusal(err)
		done(0, err)
	}
}

// ReadIndex is Read without the lease: a quorum is asked in any case, once for all that wait. It needs no clock to be right.
func (g *Group) ReadIndex(done func(raft.Index, error)) {
	if err := g.in.pushRead(g.h, g, true, done); err != nil {
		g.h.countRefusal(err)
		done(0, err)
	}
}

// tellFor is how long followers are told of commits at once after one of them was read: longer than a consumer waits before it
// asks again.
const tellFor = 5 * time.Second

// ReadElsewhere says that the next Read or ReadIndex is for a follower, which waits until it has applied as much. It is told of what
// is committed at once, now and for a while: see GroupConfig.CommitDelay.
func (g *Group) ReadElsewhere() { g.readElsewhere.Store(int64(g.h.now())) }

// WatchPeers says that somebody waits for what [Group.Peers] tells next: answers that are for nobody else, and would wait for another turn, take one now
// and for watchFor.
func (g *Group) WatchPeers() {
	now := g.h.now()
	if was := raft.Time(g.watched.Swap(int64(now))); was == 0 || now-was >= watchFor {
		g.h.schedule(g) // there may be some already
	}
}

// Prune lets the log drop what nobody wants any more; see Log.Prune.
func (g *Group) Prune() { _ = g.in.pushEvent(g.h, g, event{kind: evPrune}) }

// SetSnapshotEvery changes GroupConfig.SnapshotEvery.
func (g *Group) SetSnapshotEvery(bytes int64) { g.snapshotEvery.Store(bytes) }

// Snapshot takes a snapshot now; if one is being taken, another one after it.
func (g *Group) Snapshot() { _ = g.in.pushEvent(g.h, g, event{kind: evSnapshot}) }

// Campaign tries to lead now.
func (g *Group) Campaign() { _ = g.in.pushEvent(g.h, g, event{kind: evCampaign}) }

// SetPriorities says who shall lead from now on. The list is the group's from then on.
func (g *Group) SetPriorities(ps []raft.NodePriority) {
	_ = g.in.pushEvent(g.h, g, event{kind: evPriorities, priorities: ps})
}

// Transfer asks the leader to hand leadership to another voter. done learns whether that was begun, not how it ends.
func (g *Group) Transfer(to raft.NodeID, done func(error)) {
	if err := g.in.pushEvent(g.h, g, event{kind: evTransfer, peer: to, reply: done}); err != nil {
		done(err)
	}
}

// Reset takes this replica into a new epoch of its group: see [raft.Reset]. done learns whether the core took it; Status
// tells when it is done.
func (g *Group) Reset(s raft.Reset, done func(error)) {
	if err := g.in.pushEvent(g.h, g, event{kind: evReset, reset: &s, reply: done}); err != nil {
		done(err)
	}
}

// Fail stops the group as if its log had failed: whoever owns the log knows that it cannot go on. OnFatal is called.
func (g *Group) Fail(err error) { _ = g.in.pushEvent(g.h, g, event{kind: evFailed, err: err}) }

// Status is what the group's last turn left. It is a copy, and waits for no turn; slices in it are shared and immutable.
func (g *Group) Status() Status {
	g.statusMu.Lock()
	defer g.statusMu.Unlock()
	return g.status
}

// beginClose refuses new work and lets a worker shut the group down.
func (g *Group) beginClose() {
	g.closeMu.Lock()
	if g.closed == nil {
		g.closed = make(chan struct{})
	}
	g.closeMu.Unlock()
	g.closing.Store(true)
	g.h.schedule(g)
}

// Close stops the group: what is pending completes with [ErrClosed], and the log is closed. It waits for the worker and
// the flusher that may have the group, so it must not be called from one of its callbacks. The caller removes the
// files, and then lets the hard-state store forget the group.
func (g *Group) Close() error {
	g.beginClose()
	if g.h.manual || !g.h.started.Load() {
		for !g.isClosed() {
			g.h.run()
			if g.isClosed() {
				break
			}
			if !g.h.flushGroup(g.id) {
				panic("multi: a closing group waits for nothing")
			}
		}
	} else {
		<-g.closed
	}
	g.closeMu.Lock()
	defer g.closeMu.Unlock()
	return g.closeErr
}

func (g *Group) isClosed() bool {
	select {
	case <-g.closed:
		return true
	default:
		return false
	}
}

// shutdown is a closing group's last turn, once no flusher has its log.
func (g *Group) shutdown() {
	if g.stopped || !g.h.flushIdle(g) {
		return // flushOne schedules the group again
	}
	g.stopped = true
	g.h.timers.disarm(&g.timer)
	g.h.pairs.dropGroup(g)
	g.h.endCampaign(g)
	b, held := g.in.close(ErrClosed)
	g.failPending(ErrClosed, ErrClosed)
	g.failBatch(b, held, ErrClosed)
	g.dropSends()
	g.endFetch()
	g.endPace()
	err := g.log.Close()
	g.h.mu.Lock()
	if g.h.groups[g.id] == g {
		delete(g.h.groups, g.id)
	}
	g.h.mu.Unlock()
	g.statusMu.Lock()
	s := &g.status
	s.Role, s.Ready, s.Err, s.Leader = raft.Follower, false, ErrClosed, 0
	g.lease = 0
	g.statusMu.Unlock()
	g.closeMu.Lock()
	g.closeErr = err
	close(g.closed)
	g.closeMu.Unlock()
}

// fail stops the group after its log or state machine failed: it answers nobody, so that its peers go on without it.
func (g *Group) fail(err error) {
	if g.failed != nil {
		return
	}
	g.failed = err
	g.resign()
	g.h.o.Logger.Error("group has failed and stops", "group", uint64(g.id), "err", err)
	g.h.pairs.dropGroup(g)
	g.h.endCampaign(g)
	g.h.timers.disarm(&g.timer)
	g.covers, g.ready = nil, false
	g.dropSends()
	g.endFetch()
	g.endPace()
	stop := failedError(err)
	b, held := g.in.close(stop)
	g.failPending(fmt.Errorf("%w: %w", ErrLeadershipLost, stop), stop)
	g.failBatch(b, held, stop)
	g.publish()
	g.sm.LeadershipChanged(g.status)
	if g.cfg.OnFatal != nil {
		g.cfg.OnFatal(err)
	}
}

// publish stores the status for everybody, if it is another than the last. In place: this is what each turn ends with.
func (g *Group) publish() {
	s := Status{Status: g.r.Status(), Ready: g.ready, Full: g.full, Elections: g.elections}
	for i := range g.covers {
		if g.covers[i].state == coverOn {
			s.CoveredPeers++
		}
	}
	if g.failed != nil {
		s.Err = failedError(g.failed)
		s.Role, s.Leader, s.Ready = raft.Follower, 0, false
	}
	old := &g.status
	first := old.Group == 0
	if !first && old.VoteAfter != s.VoteAfter && (old.VoteAfter == raft.UntilTold || s.VoteAfter == 0 && s.Stable < old.VoteAfter) {
		upTo, why := s.VoteAfter, "a leader has told how far the lost log went"
		if upTo == 0 { // it was that far already, or is a survivor of a reset
			upTo = s.Stable
		}
		if s.Role == raft.Leader || s.Epoch > s.Conf.Epoch {
			why = "a reset goes on without what the damaged log lacks"
		}
		g.log.Told(upTo)
		g.h.o.Logger.Info(why, "group", uint64(g.id), "upTo", uint64(upTo))
		if g.markAt == 0 && g.log.MarkPending() {
			g.markSoon(g.h.now())
		}
	}
	lease := raft.Time(0)
	if s.Ready {
		lease = g.r.LeaseUntil()
	}
	if !first && !g.peersMoved && lease == g.lease && sameStatus(old, &s) {
		return
	}
	g.statusMu.Lock()
	g.lease = lease
	switch {
	case s.Role != raft.Leader:
		g.members = nil
	case g.peersMoved || old.Role != raft.Leader || old.CoveredPeers != s.CoveredPeers:
		g.members = g.peers(g.members[:0])
	}
	*old = s
	g.statusMu.Unlock()
	g.peersMoved = false
	if s.Role == raft.Leader {
		g.h.noteMove(g)
	}
}

// sameStatus compares what moves; Conf moves with ConfIndex or Applied.
func sameStatus(a, b *Status) bool {
	return a.Role == b.Role && a.Term == b.Term && a.Vote == b.Vote && a.Leader == b.Leader && a.Commit == b.Commit &&
		a.Applied == b.Applied && a.Stable == b.Stable && a.Last == b.Last && a.LastTerm == b.LastTerm && a.Epoch == b.Epoch && a.ConfIndex == b.ConfIndex &&
		a.Resting == b.Resting && a.Installing == b.Installing && a.Transferee == b.Transferee &&
		a.Uncommitted == b.Uncommitted && a.VoteAfter == b.VoteAfter && a.TermStart == b.TermStart &&
		a.Ready == b.Ready && a.Full == b.Full && a.CoveredPeers == b.CoveredPeers && (a.Err == nil) == (b.Err == nil)
}

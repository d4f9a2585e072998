// The state machine: committed entries become the high watermark, the producers' state and woken waiters.

package partition

import (
	"fmt"
	"sync"

	"github.com/balsamq/balsa/protocol"
	"github.com/balsamq/balsa/raft"
	"github.com/balsamq/balsa/raft/multi"
	"github.com/balsamq/balsa/segment"
)

// machine is one life of a replica: from the opening of its log to the close or failure of its group. It implements
// [multi.Stager] and [multi.StateMachine]. Except where said, its fields belong to the worker that holds the group.
type machine struct {
	r   *Replica
	log *segment.Log // has its own locks

	// look is held for writing while the fold changes, so that others can look at it; the worker itself reads it without. A leaf.
	look    sync.RWMutex
	fold    *fold
	applied raft.Index
	staging staging
	keys    keyTable // has its own lock

	ready      bool // this node leads and serves
	trimming   bool // a move of the start is on its way that retention has asked for; guarded by Replica.mu
	clockAsked bool // a clock command is on its way

	// Guarded by Replica.mu.
	group *multi.Group // nil until CreateGroup has returned
	dead  bool         // the group has failed
}

// Apply implements [multi.StateMachine].
func (m *machine) Apply(entries []raft.Entry) ([]any, error) {
	start := m.fold.start
	if err := m.foldAll(entries); err != nil {
		return nil, err
	}
	m.log.Applied(m.applied)
	m.forgetCleaned()
	m.publish()
	if m.fold.start > start {
		m.keys.below(m.fold.start)
		m.cut()
	}
	m.askClock()
	return nil, nil
}

func (m *machine) foldAll(entries []raft.Entry) error {
	m.look.Lock()
	defer m.look.Unlock()
	for i := range entries {
		e := &entries[i]
		switch e.Type {
		case raft.EntryRecords:
			if err := m.fold.records(e.Index, e.Payload); err != nil {
				return err
			}
			if len(m.staging.over) > 0 {
				m.staging.over.applied(protocol.Batch(e.Payload).ProducerID(), e.Index)
			}
			m.foldKeys(e)
		case raft.EntryCommand:
			if err := m.fold.command(e.Index, e.Payload); err != nil {
				return err
			}
			if id, ok := refusedProducer(e.Payload); ok && len(m.staging.over) > 0 {
				m.staging.over.applied(id, e.Index)
			}
		case raft.EntryPrefix:
			if err := m.fold.prefix(e.Index, e.Payload); err != nil {
				return err
			}
		}
		m.applied = e.Index
	}
	return nil
}

// cut lets the log drop what is below the start. If nothing is left above it, a snapshot of this moment covers all of it.
func (m *machine) cut() {
	m.log.Forget(segment.Offset(m.fold.start))
	_, g := m.r.current()
	switch {
	case g == nil: // not yet: Housekeep will find it
	case m.fold.start == m.fold.next:
		g.Snapshot()
	default:
		g.Prune()
	}
}

// publish moves the high watermark, the last stable offset and the start, and calls the waiters that waited for the one, or all of them for the
// other: what they wait to read may be gone.
func (m *machine) publish() {
	r := m.r
	// A log that was installed begins where its leader's files did, perhaps above a start that later entries move on.
	start := min(max(m.fold.start, int64(m.log.StartOffset())), m.fold.next)
	r.mu.Lock()
	if r.m != m {
		r.mu.Unlock()
		return
	}
	moved := start > r.pub.start
	r.pub = published{applied: m.applied, start: start, hw: m.fold.next, stable: max(min(m.fold.stable(), m.fold.next), start)}
	r.committedBytes, r.stableBytes = m.fold.bytes, m.fold.stableBytes
	r.producers, r.openTxns, r.abortedTxns = len(m.fold.byID), len(m.fold.open), len(m.fold.aborted)
	fns, waits := r.due(moved), r.catching.upTo(m.applied)
	r.mu.Unlock()
	for _, w := range waits {
		w.done(nil)
	}
	fire(fns)
}

// clockShare is the part of the producers' expiry that passes between two clock commands. A partition that is not
// written to gets none.
const clockShare = 8

// askClock proposes the leader's clock when it has moved on enough to matter to a producer's expiry.
func (m *machine) askClock() {
	if !m.ready || m.clockAsked || m.fold.newest == nil {
		return
	}
	now, expiry := m.r.now().UnixMilli(), m.r.settings.Load().ProducerExpiry.Milliseconds()
	if now < m.fold.clock || now-m.fold.clock < expiry/clockShare {
		return
	}
	_, g := m.r.current()
	if g == nil {
		return
	}
	m.clockAsked = true
	g.Propose(&multi.Proposal{
		Type:    raft.EntryCommand,
		Payload: encodeClock(now, expiry),
		// From the same worker; whatever came of it, the next batch asks again if it is still due.
		Done: func(multi.Outcome) { m.clockAsked = false },
	})
}

// Snapshot implements [multi.StateMachine].
func (m *machine) Snapshot() ([]byte, error) {
	m.forgetCleaned()
	return m.fold.encode(), nil
}

// Restore implements [multi.StateMachine].
func (m *machine) Restore(meta raft.SnapshotMeta, state []byte) error {
	f, err := decodeFold(state)
	if err != nil {
		return fmt.Errorf("restore at index %d: %w", meta.Index, err)
	}
	f.count(m.fold.bytes)
	f.most = m.fold.most
	f.trim(max(f.start, int64(m.log.CleanedEnd())))
	// Leadership and a snapshot from another leader exclude each other, so nothing staged can be pending.
	m.look.Lock()
	m.fold, m.applied, m.staging = f, meta.Index, staging{}
	m.look.Unlock()
	m.log.Applied(m.applied)
	m.keys.drop()
	m.log.Forget(segment.Offset(f.start))
	m.publish()
	return nil
}

// leadershipOf is what a status says about who leads.
func leadershipOf(s multi.Status) Leadership {
	self := s.Role == raft.Leader
	return Leadership{Leader: s.Leader, Epoch: int32(s.Term), Self: self, Ready: self && s.Ready}
}

// LeadershipChanged implements [multi.StateMachine].
func (m *machine) LeadershipChanged(s multi.Status) {
	l := leadershipOf(s)
	m.ready = l.Serving()
	switch {
	case !l.Self:
		m.staging = staging{} // the overlays go with leadership
		m.keys.lead(false)
	case m.ready:
		if m.keys.lead(true); m.r.settings.Load().Conditional {
			_ = m.wantKeys() // so that they are read by the time that somebody needs them
		}
	}
	r := m.r
	r.mu.Lock()
	if r.m != m || r.lead == l {
		r.mu.Unlock()
		return
	}
	r.lead = l
	fns := r.due(true)
	r.mu.Unlock()
	fire(fns)
	if r.cfg.OnLeadership != nil {
		r.cfg.OnLeadership(r, l)
	}
}

// failed is the group's OnFatal.
func (m *machine) failed(err error) {
	r := m.r
	r.mu.Lock()
	if r.m != m || m.dead {
		r.mu.Unlock()
		return
	}
	m.dead = true
	r.state, r.err, r.lead = StateFailed, err, Leadership{Epoch: r.lead.Epoch}
	fns, reqs, waits := r.due(true), r.parked.take(), r.catching.take()
	r.mu.Unlock()
	m.keys.lead(false)
	for _, w := range waits {
		w.done(fmt.Errorf("%w: %w", ErrFailed, err))
	}
	for _, req := range reqs {
		req.answer(ErrNotEnoughReplicasAfterAppend)
	}
	r.cfg.Logger.Error("replica failed", "topic", r.cfg.Topic, "partition", r.cfg.Partition, "group", r.cfg.Group, "err", err)
	fire(fns)
	if r.cfg.OnFailed != nil {
		r.cfg.OnFailed(r, err)
	}
}

// Snapshots: taking one, compacting behind it, sending it to a follower that fell behind, installing one.
//
// The state is encoded on the worker, so that it is the state as of exactly the last applied entry; reading and writing
// happens on a flusher, in the group's own slot: never beside a Sync of the same log.

package multi

import (
	"errors"
	"fmt"

	"github.com/balsamq/balsa/internal/vfs"
	"github.com/balsamq/balsa/raft"
)

// snapshotSend is a snapshot that waits to be read and sent, over the bound of Options.SnapshotSends.
type snapshotSend struct {
	g  *Group
	to raft.NodeID
}

// installResult is what InstallSnapshot left.
type installResult struct {
	meta  raft.SnapshotMeta
	state []byte
	err   error
}

func (g *Group) takeSnapshot() {
	if g.snapshotting {
		g.snapAgain = true
		return
	}
	if g.applied == 0 || g.blocked {
		return
	}
	g.appliedBytes = 0
	term, err := g.log.Term(g.applied)
	if err != nil {
		g.fail(fmt.Errorf("read term of applied entry %d: %w", g.applied, err))
		return
	}
	conf, err := g.confAt(g.applied)
	if err != nil {
		g.fail(fmt.Errorf("read membership at %d: %w", g.applied, err))
		return
	}
	meta := raft.SnapshotMeta{Index: g.applied, Term: term, Conf: conf}
	state, err := g.sm.Snapshot()
	if err != nil {
		g.h.o.Logger.Error("state machine took no snapshot", "group", uint64(g.id), "err", err)
		return
	}
	data, err := g.log.EncodeSnapshot(meta.Index, state)
	if err != nil {
		g.fail(fmt.Errorf("encode snapshot at %d: %w", meta.Index, err))
		return
	}
	// Compaction behind it. What is cut may hold the last membership entry; what stands for it then is conf as of there.
	var upTo raft.Index
	cutConf := g.conf
	if keep := g.cfg.KeepEntries; keep >= 0 && raft.Index(keep) < meta.Index && meta.Index-raft.Index(keep) >= g.log.FirstIndex() {
		upTo = meta.Index - raft.Index(keep)
		if cutConf, err = g.confAt(upTo); err != nil {
			g.fail(fmt.Errorf("read membership at %d: %w", upTo, err))
			return
		}
	}
	g.snapshotting = true
	g.h.addJob(g, func(g *Group) {
		e := event{kind: evSnapshotSaved, meta: meta}
		e.err = g.log.SaveSnapshot(meta, data)
		switch {
		case e.err != nil:
		case g.cfg.KeepEntries < 0:
			e.cut, e.err = pruneLog(g.log)
		case upTo > 0:
			if e.err = g.log.TruncatePrefix(upTo); e.err == nil {
				e.cut = &cutConf
			}
		}
		_ = g.in.pushEvent(g.h, g, e) // refused: the group has stopped
	})
}

// pruneLog returns the membership in effect where the log was cut; nil if it was not.
func pruneLog(l Log) (*raft.ConfState, error) {
	m, err := l.Prune()
	if m == nil || err != nil {
		return nil, err
	}
	return &m.Conf, nil
}

// prune lets the log drop what nobody wants any more.
func (g *Group) prune() {
	if g.pruning || g.cfg.KeepEntries >= 0 || g.blocked {
		return
	}
	g.pruning = true
	at := g.applied
	g.h.addJob(g, func(g *Group) {
		e := event{kind: evPruned, meta: raft.SnapshotMeta{Index: at}}
		e.cut, e.err = pruneLog(g.log)
		_ = g.in.pushEvent(g.h, g, e) // refused: the group has stopped
	})
}

func (g *Group) pruned(e *event) {
	g.pruning = false
	switch {
	case errors.Is(e.err, vfs.ErrNoSpace):
		g.h.o.Logger.Warn("no space to cut the log", "group", uint64(g.id), "err", e.err)
	case e.err != nil:
		g.fail(fmt.Errorf("cut log: %w", e.err))
	case e.cut != nil && e.meta.Index >= g.installed:
		g.conf = *e.cut
	}
}

// confAt is the membership in effect at index i.
func (g *Group) confAt(i raft.Index) (raft.ConfState, error) {
	e, ok, err := g.log.LastConfig(i)
	if err != nil || !ok {
		return g.conf, err
	}
	return raft.DecodeConfState(e.Payload)
}

func (g *Group) snapshotSaved(e *event) {
	g.snapshotting = false
	if g.snapAgain {
		g.snapAgain = false
		defer func() {
			if g.failed == nil {
				g.takeSnapshot()
			}
		}()
	}
	switch {
	case errors.Is(e.err, vfs.ErrNoSpace):
		g.h.o.Logger.Warn("no space for a snapshot", "group", uint64(g.id), "err", e.err)
	case e.err != nil:
		g.fail(fmt.Errorf("snapshot at %d: %w", e.meta.Index, e.err))
	default:
		g.h.stats.snapTaken.Add(1)
		if e.cut != nil && e.meta.Index > g.installed { // else a leader's snapshot has overtaken this one, with its membership
			g.conf = *e.cut
		}
	}
}

// sendSnapshot reads the stored snapshot for a follower, at most Options.SnapshotSends at once.
func (h *Host) sendSnapshot(g *Group, to raft.NodeID) {
	f := &h.flusher
	f.mu.Lock()
	for _, s := range f.waiting {
		if s.g == g && s.to == to {
			f.mu.Unlock()
			return
		}
	}
	if h.snapshotSends >= h.o.SnapshotSends {
		f.waiting = append(f.waiting, snapshotSend{g, to})
		f.mu.Unlock()
		return
	}
	h.snapshotSends++
	f.mu.Unlock()
	h.readSnapshot(g, to)
}

func (h *Host) readSnapshot(g *Group, to raft.NodeID) {
	h.addJob(g, func(g *Group) {
		snap, err := readWhole(g.log, h.o.MaxSnapshotBytes)
		_ = g.in.pushEvent(h, g, event{kind: evSnapshotRead, peer: to, snap: snap, err: err})
		h.nextSnapshotSend()
	})
}

func readWhole(l Log, limit int64) (*raft.Snapshot, error) {
	f, err := l.OpenSnapshot()
	if err != nil {
		return nil, err
	}
	if f == nil {
		return nil, errors.New("there is none")
	}
	s := f.Snapshot()
	if s.Size > limit {
		err = fmt.Errorf("its %d bytes are above the bound of %d", s.Size, limit)
	} else {
		s.Data = make([]byte, s.Size)
		err = f.ReadAt(s.Data, 0)
	}
	return &s, errors.Join(err, f.Close())
}

// nextSnapshotSend gives the place of a finished read to the next that waits.
func (h *Host) nextSnapshotSend() {
	f := &h.flusher
	f.mu.Lock()
	if len(f.waiting) == 0 {
		h.snapshotSends--
		f.mu.Unlock()
		return
	}
	s := f.waiting[0]
	f.waiting = append(f.waiting[:0], f.waiting[1:]...)
	f.mu.Unlock()
	h.readSnapshot(s.g, s.to)
}

// dropSnapshotSends forgets what a closed group still wanted to send.
func (h *Host) dropSnapshotSends(g *Group) {
	f := &h.flusher
	f.mu.Lock()
	kept := f.waiting[:0]
	for _, s := range f.waiting {
		if s.g != g {
			kept = append(kept, s)
		}
	}
	clear(f.waiting[len(kept):])
	f.waiting = kept
	f.mu.Unlock()
}

func (g *Group) snapshotRead(now raft.Time, e *event) {
	if e.err != nil {
		g.h.o.Logger.Error("snapshot for a follower cannot be sent", "group", uint64(g.id), "to", uint64(e.peer), "err", e.err)
		g.r.SnapshotFailed(now, e.peer)
		return
	}
	if err := g.r.StepSnapshot(now, e.peer, e.snap); err != nil {
		return // no longer the leader, or the follower no longer needs one
	}
	g.h.stats.snapSent.Add(1)
	g.r.SnapshotSent(now, e.peer) // the transport takes it whole in this turn, or drops it: then silence tells
}

// install hands a received snapshot to the flusher. Until it is in, the log is the flusher's and the core rests.
func (g *Group) install(s *raft.Snapshot) {
	g.blocked = true
	g.h.addJob(g, func(g *Group) {
		state, err := g.log.InstallSnapshot(s)
		g.in.mu.Lock()
		g.in.installed = &installResult{meta: s.Meta, state: state, err: err}
		g.in.mu.Unlock()
		g.h.schedule(g)
	})
}

// finishInstall goes on after an installation; false while it is under way.
func (g *Group) finishInstall(now raft.Time) bool {
	res := g.in.takeInstalled()
	if res == nil {
		return false
	}
	g.blocked = false
	err := res.err
	if err == nil {
		err = g.sm.Restore(res.meta, res.state)
	}
	if err != nil {
		g.fail(fmt.Errorf("install snapshot at %d: %w", res.meta.Index, err))
		return true
	}
	g.h.stats.snapInstalled.Add(1)
	g.applied, g.conf, g.installed = res.meta.Index, res.meta.Conf, res.meta.Index
	g.appliedBytes = 0
	g.r.SnapshotInstalled(now, res.meta)
	g.publish()
	return true
}

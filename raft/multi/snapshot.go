// Snapshots: taking one, compacting behind it, installing one that has been fetched. How it travels is in snapshot_send.go and
// snapshot_fetch.go.
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
	// Of the core, and not of the log: while the flusher cuts that, the entry may be gone already, and g.conf older than it.
	meta := raft.SnapshotMeta{Index: g.applied, Term: term, Conf: g.r.ConfAt(g.applied)}
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
	pinned := g.pinned()
	if pinned && g.cfg.KeepEntries < 0 {
		g.cutLater = true
	}
	if keep := g.cfg.KeepEntries; keep >= 0 && !pinned && raft.Index(keep) < meta.Index && meta.Index-raft.Index(keep) >= g.log.FirstIndex() {
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
		case g.cfg.KeepEntries < 0 && !pinned:
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
	if g.pinned() {
		g.cutLater = true
		return
	}
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

// confAt is the membership in effect at index i, which may be below what is applied. Nothing may be cutting the log meanwhile:
// one that keeps entries is cut behind snapshots only, and those are taken one after the other.
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

// install hands a snapshot that has been received to the flusher. Until it is in, the log is the flusher's and the core rests.
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
	g.endFetch()
	g.applied, g.conf, g.installed = res.meta.Index, res.meta.Conf, res.meta.Index
	g.appliedBytes = 0
	g.r.SnapshotInstalled(now, res.meta)
	g.publish()
	g.passedOver(res.meta.Index)
	return true
}

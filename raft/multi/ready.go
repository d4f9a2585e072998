// Carrying out what the core wants done.

package multi

import (
	"fmt"

	"github.com/balsamq/balsa/raft"
)

// drainReady carries out Readys until there is none; true if it stopped at its bound.
func (g *Group) drainReady(w *worker, now raft.Time) (more bool) {
	for range maxReadyPerTurn {
		if g.blocked {
			return false
		}
		rd, ok := g.r.Ready()
		if !ok {
			return false
		}
		if g.carryOut(w, now, &rd); g.failed != nil {
			return false
		}
	}
	return true
}

func (g *Group) carryOut(w *worker, now raft.Time, rd *raft.Ready) {
	if rd.Err != nil {
		g.fail(fmt.Errorf("read log: %w", rd.Err))
		return
	}
	if len(rd.Entries) > 0 {
		g.coverEntries(now, rd.Entries)
		if _, err := g.log.Append(rd.Term, rd.Entries); err != nil {
			g.fail(fmt.Errorf("append to log: %w", err))
			return
		}
		g.h.stats.appended.Add(uint64(len(rd.Entries)))
		bytes := 0
		for i := range rd.Entries {
			bytes += rd.Entries[i].Size()
		}
		g.h.stats.appendBytes.Add(uint64(bytes))
		g.markAt = 0
		if g.retryAt == 0 { // with a full disk, the retry syncs these too
			g.syncAppended(now, bytes)
		}
	}
	if rd.HardState != nil {
		hs := *rd.HardState
		g.h.o.HardStates.Save(g.id, hs, func(err error) {
			if err != nil {
				g.h.failHost(err)
				return
			}
			_ = g.in.pushEvent(g.h, g, event{kind: evHardState, hs: hs}) // refused: the group has stopped
		})
	}
	g.dropLease()
	for i := range rd.Messages {
		if g.mute && rd.Messages[i].Type != raft.MsgVoteResp && g.r.Status().Role == raft.Leader {
			g.h.stats.muted.Add(1)
			continue
		}
		w.send(&rd.Messages[i])
	}
	if len(rd.Committed) > 0 {
		if g.apply(rd.Committed); g.failed != nil {
			return
		}
	}
	if rd.Changed {
		g.roleChanged(now)
	} else if ready := g.isReady(); ready != g.ready {
		g.ready = ready
		g.publish()
		g.sm.LeadershipChanged(g.status)
	}
	if len(rd.Reads) > 0 {
		g.readConfirmed(rd.Reads)
	}
	for _, to := range rd.SendSnapshot {
		g.wantSend(now, to)
	}
	if rd.Offer != nil {
		g.offered(now, rd.Offer)
	}
	if rd.Snapshot != nil {
		g.install(rd.Snapshot)
	}
}

// syncAppended asks for the Sync that what was appended waits for. Nobody waits for who lacks what others have committed: then it comes when there
// is enough for it, since it costs about as much whatever it writes.
func (g *Group) syncAppended(now raft.Time, bytes int) {
	g.lazy += bytes
	switch {
	case g.lazy >= behindSyncBytes || !g.r.Behind():
		g.syncNow(now)
	case g.syncAt == 0:
		g.syncAt = now + behindSyncDelay
	}
}

func (g *Group) syncNow(now raft.Time) {
	g.lazy, g.syncAt = 0, 0
	g.h.requestSync(g, now)
}

// apply folds committed entries into the state machine, and completes what waited for them.
func (g *Group) apply(entries []raft.Entry) {
	last := entries[len(entries)-1].Index
	if entries[0].Index != g.applied+1 {
		panic(fmt.Sprintf("multi: group %d: entry %d committed after %d was applied", g.id, entries[0].Index, g.applied))
	}
	results, err := g.sm.Apply(entries)
	if err == nil && results != nil && len(results) != len(entries) {
		err = fmt.Errorf("%d results for %d entries", len(results), len(entries))
	}
	if err != nil {
		g.fail(fmt.Errorf("apply entries from %d on: %w", entries[0].Index, err))
		return
	}
	g.applied = last
	g.r.AppliedTo(last)
	g.h.stats.applied.Add(uint64(len(entries)))
	for i := range entries {
		g.appliedBytes += int64(entries[i].Size())
	}
	// Published before anybody learns of an outcome: who has seen it finds the commit index in Status.
	g.publish()
	g.completeApplied(entries, results)
	g.answerReads()
	if every := g.snapshotEvery.Load(); every > 0 && g.appliedBytes >= every {
		g.takeSnapshot()
	}
	if g.heldBack || g.gather.until != 0 {
		g.h.schedule(g) // there may be room now for what was held back
	}
}

// isReady: leader, with the no-op of its own term applied, so that the state machine's state is complete.
func (g *Group) isReady() bool {
	s := g.r.Status()
	return s.Role == raft.Leader && s.Applied >= s.TermStart
}

// roleChanged follows a change of role, term or leader.
func (g *Group) roleChanged(now raft.Time) {
	g.ready = g.isReady()
	s := g.r.Status()
	g.observeRole(now, &s)
	if s.Role != raft.Leader {
		g.uncoverAll(now)
	}
	lost := s.Role != raft.Leader
	if p := g.waiting.first(); p != nil && p.term != s.Term {
		lost = true
	}
	if p := g.local.first(); p != nil && p.term != s.Term {
		lost = true
	}
	g.publish()
	switch {
	case s.Role == raft.Leader:
		g.heirUntil = 0
	case g.handUntil > now:
		g.heirUntil = now + raft.Time(g.h.o.ElectionTimeout/2)
	}
	if g.heirUntil != 0 && g.impaired && s.Leader != 0 {
		g.heirUntil = 0 // what waits can be applied only when it is on this disk: its clients better ask the heir
	}
	if g.handUntil = 0; lost && g.heirUntil == 0 {
		g.failPending(ErrLeadershipLost, g.notLeader())
	} else if lost {
		g.failReads(g.notLeader())
	}
	if g.heldBack || g.gather.until != 0 {
		g.h.schedule(g)
	}
	if s.Role == raft.Leader {
		g.restFrom = now + raft.Time(g.h.o.CoverAfter)
	}
	g.sm.LeadershipChanged(g.status)
}

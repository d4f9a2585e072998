// A turn: everything that a group does on a worker (or where its log has been synced: Host.take).
//
// Order within a turn: reports of the disk and orders, then time, then messages, then proposals as one batch, then
// reads; after each of these the core's Readys are carried out (ready.go). Work per turn is bounded: what the inbox held
// at its beginning (itself bounded), maxStageBatches batches of proposals and maxReadyPerTurn Readys; the rest goes to the back of
// the run queue.

package multi

import (
	"errors"
	"fmt"

	"github.com/balsamq/balsa/internal/vfs"
	"github.com/balsamq/balsa/raft"
)

// process takes one turn; true if there is more to do at once.
func (g *Group) process(w *worker) (more bool) {
	if g.stopped {
		return false
	}
	if g.blocked && !g.finishInstall(g.h.now()) {
		return false // the flusher has the log; its report schedules the group
	}
	if g.closing.Load() {
		g.shutdown()
		return false
	}
	b, held := g.in.take()
	g.gather.until = 0 // what was gathered is judged anew
	if g.failed != nil {
		g.failBatch(b, held, failedError(g.failed))
		return false
	}
	now := g.h.now()
	if g.queued != 0 {
		g.h.waited(now - g.queued)
	}
	if b != nil {
		g.peersMoved = len(b.msgs) > 0
		for i := range b.events {
			if g.failed == nil {
				g.handleEvent(w, now, &b.events[i])
			} else {
				b.events[i].refuse(g, failedError(g.failed))
			}
		}
	}
	if g.failed == nil && b != nil {
		for i := range b.msgs {
			g.step(w, now, &b.msgs[i])
			if i&63 == 63 { // a long run of messages must not pile up in the core
				if more = g.drainReady(w, now) || more; g.failed != nil || g.blocked {
					break
				}
			}
		}
	}
	if g.failed == nil && !g.blocked {
		g.tick(now)
	}
	if g.failed == nil {
		more = g.drainReady(w, now) || more
	}
	if at := raft.Time(g.readElsewhere.Load()); at != 0 && g.failed == nil {
		g.readElsewhere.Store(0) // what is stored meanwhile is of the same moment
		g.r.TellAtOnce(now, at+raft.Time(tellFor))
	}
	var fresh []*Proposal
	if b != nil {
		fresh = b.props
	}
	if len(held)+len(fresh) > 0 {
		switch {
		case g.failed != nil:
			for _, p := range held {
				p.Done(Outcome{Err: failedError(g.failed)})
			}
			for _, p := range fresh {
				p.Done(Outcome{Err: failedError(g.failed)})
			}
		default:
			more = g.stageAll(w, now, held, fresh) || more
		}
	}
	if b != nil {
		if g.failed == nil && !g.blocked {
			g.read(now, b)
		} else {
			err := error(ErrNotLeader)
			if g.failed != nil {
				err = failedError(g.failed)
			}
			failReads(b, err)
		}
		b.release()
	}
	if g.failed == nil {
		more = g.drainReady(w, now) || more
	}
	if g.failed != nil {
		return false
	}
	if len(g.opening)+len(g.sends) > 0 {
		g.reviewSends(now)
		more = g.drainReady(w, now) || more
	}
	if g.fetch != nil && !g.blocked {
		g.reviewFetch(now)
	}
	if g.failed != nil {
		return false
	}
	g.paceTurn(now)
	g.campaignOver(now)
	g.coverIdle(now)
	g.publish()
	g.beLazy(now)
	g.arm()
	return more && !g.blocked
}

// tick does what time has made due.
func (g *Group) tick(now raft.Time) {
	if g.retryAt != 0 && now >= g.retryAt {
		g.retryAt = 0
		g.h.requestSync(g, now)
	}
	if g.syncAt != 0 && now >= g.syncAt {
		g.syncNow(now)
	}
	if g.markAt != 0 && now >= g.markAt {
		switch {
		case !g.log.MarkPending():
			g.markAt = 0
		case now < g.markBy && g.h.flusher.crowded(g.h.o.Flushers):
			g.markAt = min(now+raft.Time(markDelay), g.markBy)
		default:
			g.markAt = 0
			g.h.requestSync(g, now)
		}
	}
	if g.heirUntil != 0 && now >= g.heirUntil {
		g.endHandOver()
	}
	if g.r.Deadline() > now || g.awaitsTurn && g.h.electState(g) == electWaiting {
		return
	}
	g.lookAfterDisk(now)
	s := g.r.Status()
	if g.mute = s.Role == raft.Leader && s.Stable < s.Last && g.h.syncRunsFor(g, now) > raft.Time(g.h.o.HangBound); g.mute {
		g.h.stats.muted.Add(1)
		g.muteUntil = now + raft.Time(g.h.o.HeartbeatInterval)
		return
	}
	g.h.stats.ticks.Add(1)
	g.ticked, g.peersMoved = true, true
	g.feedPromise(now)
	g.feedAcks(now)
	if g.r.Deadline() <= now && !g.campaignDue(now) {
		return
	}
	g.r.Tick(now)
	g.afterStep(now)
}

// markSoon: the log has been synced, and does not say so yet. When thousands of groups elect leaders at once each log is
// written once, and the marks would be as many syncs again: they come when the others have had theirs.
func (g *Group) markSoon(now raft.Time) {
	g.markAt, g.markBy = now+raft.Time(markDelay), now+raft.Time(markPatience)
}

// arm sets the timer for the earliest thing that this group waits for. A covered group waits for nothing.
func (g *Group) arm() {
	at := never
	if !g.blocked {
		switch at = g.r.Deadline(); {
		case g.mute:
			at = max(at, g.muteUntil)
		case g.awaitsTurn:
			at = never // whoever ends a campaign schedules it
		}
		if g.campaignUntil != 0 {
			at = min(at, g.turnEnds(g.r.Status().Role))
		}
	}
	if g.retryAt != 0 {
		at = min(at, g.retryAt)
	}
	if g.markAt != 0 {
		at = min(at, g.markAt)
	}
	if g.syncAt != 0 {
		at = min(at, g.syncAt)
	}
	if g.gather.until != 0 {
		at = min(at, g.gather.until)
	}
	if g.heirUntil != 0 {
		at = min(at, g.heirUntil)
	}
	if len(g.sends) > 0 {
		at = min(at, g.sendDeadline())
	}
	if g.fetch != nil && !g.blocked {
		at = min(at, g.fetch.at)
	}
	g.h.timers.arm(&g.timer, at)
}

func (g *Group) handleEvent(w *worker, now raft.Time, e *event) {
	switch e.kind {
	case evSynced:
		g.synced(now, e)
	case evHardState:
		g.r.HardStateSynced(now, e.hs)
	case evConf:
		index, err := g.r.ProposeConf(now, *e.conf)
		if err != nil {
			e.done(Outcome{Err: g.coreError(err)})
			return
		}
		g.proposedAt(now)
		g.waiting.push(pendingProposal{term: g.r.Status().Term, index: index, done: e.done})
	case evTransfer:
		e.reply(g.transfer(now, e.peer))
	case evPriorities:
		g.r.SetPriorities(now, e.priorities)
	case evReset:
		// It ends a term, so that nothing may be covered any more; the promise of the last pair heartbeat counts.
		g.leaveCoverage(now)
		g.feedAcks(now)
		e.reply(g.r.Reset(now, *e.reset))
		g.afterStep(now)
	case evCampaign:
		g.leaveCoverage(now)
		g.r.Campaign(now)
	case evSnapshot:
		g.takeSnapshot()
	case evPrune:
		g.prune()
	case evPruned:
		g.pruned(e)
	case evSnapshotSaved:
		g.snapshotSaved(e)
	case evSnapshotOpened:
		g.snapshotOpened(now, e)
	case evChunk:
		if e.chunk.Response {
			g.chunkCame(now, e.peer, e.chunk)
		} else {
			g.chunkAsked(now, e.peer, e.chunk)
		}
	case evChunkRead:
		g.chunkRead(now, e)
	case evFetchOpened:
		g.fetchOpened(now, e)
	case evChunkWritten:
		g.chunkWritten(now, e)
	case evPairOut:
		g.leaderCoverageChanged(now, e.peer)
	case evPairIn:
		g.followerCoverageChanged(now)
	case evPaced:
		g.paceGranted(now, e)
	case evUnreachable:
		g.r.Unreachable(now, e.peer)
	case evFailed:
		g.fail(e.err)
	case evInspect:
		g.inspect(now, e.inspect)
	}
}

// synced takes the flush loop's report.
func (g *Group) synced(now raft.Time, e *event) {
	switch {
	case e.err == nil:
		if g.full {
			g.h.o.Logger.Info("log has room again", "group", uint64(g.id))
		}
		g.full, g.retryWait, g.retryAt = false, 0, 0
		g.r.AppendSynced(now, e.ticket)
		g.completeLocal(e.ticket)
		g.lookAfterDisk(now)
		if g.heldBack {
			g.heldBack = false
			g.h.schedule(g) // there may be room for what was held back
		}
		if g.log.MarkPending() {
			g.markSoon(now)
		} else {
			g.markAt = 0
		}
	case errors.Is(e.err, vfs.ErrNoSpace):
		if !g.full {
			g.h.o.Logger.Warn("no space for the log; produce is refused until there is", "group", uint64(g.id), "err", e.err)
		}
		g.full = true
		g.retryWait = min(max(2*g.retryWait, raft.Time(noSpaceRetryMin)), raft.Time(noSpaceRetryMax))
		g.retryAt = now + g.retryWait
	default:
		// fsync tells of a failure once, and the pages are gone afterwards (fsyncgate): never retried.
		g.fail(fmt.Errorf("sync log: %w", e.err))
	}
}

// step hands one message, whose entries Deliver has verified, to the core, minding what this replica has promised.
func (g *Group) step(w *worker, now raft.Time, m *raft.Message) {
	if len(m.Entries) > 0 && g.log.Unsynced() > g.h.o.MaxUnsynced {
		g.h.stats.throttled.Add(1) // the leader finds out by the missing answer, and sends again
		return
	}
	if m.Type == raft.MsgSnap && m.Snapshot == nil {
		g.h.stats.badFrames.Add(1)
		return
	}
	g.heardFrom(now, m.From)
	g.guardPromise(now, m)
	if err := g.r.Step(now, m); err != nil {
		g.h.o.Logger.Debug("message dropped", "group", uint64(g.id), "type", m.Type, "from", uint64(m.From), "err", err)
	}
	g.afterStep(now)
}

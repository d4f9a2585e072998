// Giving leadership away: by order, because this replica's disk hangs or is full, or because its log has failed.
//
// A hand-over should cost those who write no more than the moment that it takes. So proposals that come while it is under way
// are not refused, which would send clients away to look for a leader that there is not yet: they are held back in the
// inbox until the next leader is known (or this one goes on), and so are those that reach a new leader before it is ready.
// What is in the log already most likely commits under the next leader; its outcome waits for that. A transfer that comes to
// nothing is given up after an election timeout, and once leadership has ended all that waits ends after half of one.

package multi

import (
	"errors"

	"github.com/balsamq/balsa/raft"
)

// handOverAgain times ElectionTimeout is the least time between two hand-overs of a group for its disk's sake: where the
// followers' disks are no better, leadership must not go round.
const handOverAgain = 10

// transfer begins to hand leadership to a voter.
func (g *Group) transfer(now raft.Time, to raft.NodeID) error {
	g.uncoverAll(now)
	if err := g.r.Transfer(now, to); err != nil {
		return g.coreError(err)
	}
	if to != g.h.o.Self.ID {
		g.handUntil = now + raft.Time(g.h.o.ElectionTimeout)
	}
	return nil
}

// holdsBack: proposals that the core refuses with err have an answer soon, and better wait for it.
func (g *Group) holdsBack(err error) bool {
	switch {
	case errors.Is(err, raft.ErrOverloaded), errors.Is(err, raft.ErrTransferring), errors.Is(err, raft.ErrNotReady):
		return true
	case errors.Is(err, raft.ErrNotLeader):
		return g.heirUntil != 0 && g.r.Status().Leader == 0
	}
	return false
}

// endHandOver gives up what still waits for the next leader.
func (g *Group) endHandOver() {
	g.heirUntil = 0
	if g.r.Status().Role != raft.Leader {
		g.failPending(ErrLeadershipLost, g.notLeader())
	}
}

// lookAfterDisk tells the core whether this replica's disk is fit for a leader's, and gives leadership away if it is not and a
// follower is better off. That a follower has on its disk what this one has not is the proof that its disk works and has
// room.
func (g *Group) lookAfterDisk(now raft.Time) {
	if impaired := g.h.syncRunsFor(g, now) > raft.Time(g.h.o.HandOverAfter) || g.full || g.log.Full(); impaired != g.impaired {
		g.impaired = impaired
		g.r.SetImpaired(now, impaired)
	}
	s := g.r.Status()
	if !g.impaired || s.Role != raft.Leader || s.Transferee != 0 || s.Stable == s.Last ||
		g.handedOver != 0 && now-g.handedOver < handOverAgain*raft.Time(g.h.o.ElectionTimeout) {
		return
	}
	to, match := g.r.Successor()
	if to == 0 || match <= s.Stable {
		return
	}
	g.handedOver = now
	g.h.stats.handedOver.Add(1)
	g.h.o.Logger.Warn("leadership is handed over, as the disk is full or hangs", "group", uint64(g.id), "to", uint64(to), "full", g.full)
	_ = g.transfer(now, to) // refused: it goes on leading, and looks again later
}

// Hangs reports whether a sync of this replica's log has been running for longer than [Options.HandOverAfter].
func (g *Group) Hangs() bool { return g.h.syncRunsFor(g, g.h.now()) > raft.Time(g.h.o.HandOverAfter) }

// resign orders the best follower to campaign when this group has failed and will answer nobody: so that its leader's
// death need not be found out.
func (g *Group) resign() {
	now := g.h.now()
	if g.r.Status().Role != raft.Leader {
		return
	}
	g.feedAcks(now)
	g.r.Resign(now)
	g.dropLease()
	rd, _ := g.r.Ready() // the last one: of what is in it, only the order matters
	for i := range rd.Messages {
		if rd.Messages[i].Type == raft.MsgTimeoutNow {
			g.h.stats.handedOver.Add(1)
			g.h.o.Transport.Send(rd.Messages[i].To, rd.Messages[i:i+1:i+1])
		}
	}
}

// Gathering proposals, by Nagle's rule. What a commit costs (a turn and a sync at each of three brokers, two messages and their answers) hardly
// depends on how many entries it is for. Where hundreds of groups are written to at once, all of them wait for processors and disks, and a group that
// has its entries committed one by one only lengthens the queues that it stands in itself. So where many groups wait (Options.Crowd), each takes
// what is proposed in rounds: while one is on its way, and for as long again, up to roundRest, what comes waits in the inbox. Where they do not,
// nothing waits: an entry more in the pipeline then costs nobody anything, and somebody waits for it.

package multi

import (
	"time"

	"github.com/balsamq/balsa/raft"
)

const (
	// gatherBytes and gatherProposals are a round that is worth its price: more is not waited for.
	gatherBytes     = 256 << 10
	gatherProposals = maxStageBatch
	// gatherPatience bounds the wait for a round: a commit that takes longer may take for ever.
	gatherPatience = raft.Time(250 * time.Millisecond)
	// roundRest bounds the rest between two rounds: below what a broker has for CommitDelay, so that the news of a commit ride on the next round.
	// One that is shorter than gatherTick is not worth a timer.
	roundRest  = raft.Time(40 * time.Millisecond)
	gatherTick = raft.Time(4 * time.Millisecond)
	// watchFor: see Group.WatchPeers. Whoever waits looks more often.
	watchFor = raft.Time(100 * time.Millisecond)
)

// gathering is what a group knows of its rounds.
type gathering struct {
	until raft.Time // proposals wait in the inbox until then at most; 0: none do
	ended raft.Time // the last round
	took  raft.Time
}

// lazy is what a turn leaves in the inbox of a leader that gathers: what is no reason for the next one.
type lazy struct {
	spare  int        // so many reports of progress, answers and own syncs, cannot commit anything yet
	commit raft.Index // answers up to here are late; 0: none are
}

// gathers decides whether the proposals in the inbox wait for others.
func (g *Group) gathers(now raft.Time) bool {
	p := g.waiting.first()
	if q := g.local.first(); p == nil || q != nil && q.staged < p.staged {
		p = q
	}
	var until raft.Time
	switch {
	case g.full || g.in.worthARound():
	case p != nil && p.staged != 0:
		until = p.staged + gatherPatience
	case p == nil && g.gather.took >= gatherTick:
		until = g.gather.ended + min(g.gather.took, roundRest)
		until = (until + gatherTick - 1) / gatherTick * gatherTick // with those of other groups: one wake-up
	}
	if now >= until || !g.h.crowded() {
		return false
	}
	g.gather.until = until
	return true
}

// crowded: as many groups wait for a worker, or for a sync, as make gathering worth while.
func (h *Host) crowded() bool {
	return h.runq.waiting.Load()+h.flusher.logs.Load() >= int64(h.o.Crowd)
}

// worthARoundLocked: there are as many proposals as are worth one.
func (in *inbox) worthARoundLocked() bool {
	return in.propBytes >= gatherBytes || in.props >= gatherProposals
}

func (in *inbox) worthARound() bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.worthARoundLocked()
}

// beLazy ends the turn of a leader that waits for a round, its own or the next: of three members' reports the second one
// commits, so that the first and the third are no reason for a turn, nor is what is proposed meanwhile.
func (g *Group) beLazy(now raft.Time) {
	p := g.waiting.first()
	if p == nil && g.gather.until == 0 || g.local.first() != nil || g.heldBack || g.full || g.retryAt != 0 || !g.h.crowded() {
		return
	}
	var l lazy
	at := raft.Time(g.watched.Load())
	if commit := g.r.Commit(); g.r.SentAll() && (at == 0 || now-at >= watchFor) { // else a late answer, too, makes room for more, or is waited for
		if l.commit = commit; g.applied == commit {
			l.spare = max(0, g.r.Lacks()-1)
		}
	}
	if p != nil && p.staged != 0 && g.gather.until == 0 && now < p.staged+gatherPatience {
		g.gather.until = p.staged + gatherPatience
	}
	g.in.mu.Lock()
	if b := g.in.b; b == nil || len(b.props) == 0 {
		g.in.gathers = g.gather.until != 0
	}
	if g.in.b == nil {
		g.in.lazy = l
	}
	g.in.mu.Unlock()
}

// progressLocked: a report is no reason for a turn.
func (in *inbox) progressLocked() bool {
	if in.lazy.spare == 0 {
		return false
	}
	in.lazy.spare--
	return true
}

// lateLocked: an answer is no reason for a turn.
func (in *inbox) lateLocked(m *raft.Message) bool {
	if in.lazy.commit == 0 || m.Type != raft.MsgAppResp || m.Reject {
		return false
	}
	return m.Index <= in.lazy.commit || in.progressLocked()
}

// gather puts back what a turn has taken out. More of it is no reason for another turn, until there is enough.
func (in *inbox) gather(held, fresh []*Proposal) {
	in.mu.Lock()
	in.held, in.gathers = append(held, fresh...), true
	in.mu.Unlock()
}

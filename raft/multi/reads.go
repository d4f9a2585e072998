// Linearizable reads of a group: by the leader's lease, or by a round of ReadIndex that many of them share.
//
// Where the lease that the last turn left still holds, and nothing is committed that is not applied, a read is answered where it is asked for. A consumer
// asks for as many partitions at once as it likes, most of which have nothing new: a turn for each of them would be most of what it costs.
// All other reads that a turn finds are one batch, with one lease check or one ReadIndex. The core has one round on its way at a time,
// and what comes meanwhile shares the next: so the more reads there are, the more of them a round answers, and a round
// never answers a read that came after it was sent.

package multi

import (
	"errors"
	"fmt"

	"github.com/balsamq/balsa/raft"
)

// readBatch are reads that wait for a confirmation (index 0) and then for index to be applied.
type readBatch struct {
	ctx   uint64
	index raft.Index
	done  []func(raft.Index, error)
}

// leased reports whether a lease holds by a clock that is read now, and rests on a round sent since this machine was
// last seen to wake: how long it slept is known no better than its clocks kept count of it.
func (g *Group) leased(until raft.Time) bool {
	sent := until - raft.Time(g.h.o.ElectionTimeout-g.h.o.ClockDrift)
	return until != 0 && sent >= raft.Time(g.h.wokeAt.Load()) && g.h.now() < until
}

// readByLease is a read without a turn. What the last one left belongs together: whatever this leader has acknowledged is in it, as it is published before
// (apply), and nobody else has acknowledged anything before that lease ends, which is looked at last.
func (g *Group) readByLease() (raft.Index, bool) {
	g.statusMu.Lock()
	until, at, commit := g.lease, g.status.Applied, g.status.Commit
	g.statusMu.Unlock()
	return at, until != 0 && at >= commit && g.readElsewhere.Load() == 0 && g.leased(until) // who reads elsewhere is to be told of commits: by a turn
}

// dropLease is called before anybody can hear of what ends this leader's lease early: an order to campaign.
func (g *Group) dropLease() {
	if g.lease == 0 || g.r.LeaseUntil() != 0 {
		return
	}
	g.statusMu.Lock()
	g.lease = 0
	g.statusMu.Unlock()
}

// read answers reads by lease where they allow it and there is one; all others share a round of confirmation.
func (g *Group) read(now raft.Time, b *batch) {
	n := len(b.reads) + len(b.rounds)
	if n == 0 {
		return
	}
	waiting := n
	for i := range g.reads {
		waiting += len(g.reads[i].done)
	}
	if waiting > g.h.o.MaxReads {
		g.h.stats.overloaded.Add(uint64(n))
		failReads(b, ErrOverloaded)
		return
	}
	g.h.stats.reads.Add(uint64(n))
	g.feedAcks(now)
	s := g.r.Status()
	if s.Role != raft.Leader {
		failReads(b, g.notLeader())
		return
	}
	// The commit index is taken before the clock is read: had another leader committed something that this one does not
	// know, then after the lease's end.
	if commit := s.Commit; len(b.reads) > 0 && g.leased(g.r.LeaseUntil()) {
		g.h.stats.leaseReads.Add(uint64(len(b.reads)))
		if g.applied >= commit {
			for _, done := range b.reads {
				done(g.applied, nil)
			}
			clear(b.reads)
			b.reads = b.reads[:0]
		} else {
			g.reads = append(g.reads, readBatch{index: commit, done: b.reads})
			b.reads = nil
		}
	}
	if len(b.reads)+len(b.rounds) == 0 {
		return
	}
	g.readCtx++
	g.h.stats.readRounds.Add(1)
	if err := g.r.ReadIndex(now, g.readCtx); err != nil {
		failReads(b, g.coreError(err))
		return
	}
	done := b.rounds
	b.rounds = nil
	if len(done) == 0 {
		done, b.reads = b.reads, nil
	} else {
		done = append(done, b.reads...)
	}
	g.reads = append(g.reads, readBatch{ctx: g.readCtx, done: done})
}

// readConfirmed takes the core's answers to ReadIndex.
func (g *Group) readConfirmed(states []raft.ReadState) {
	for _, rs := range states {
		for i := range g.reads {
			b := &g.reads[i]
			if b.ctx != rs.Ctx || b.ctx == 0 {
				continue
			}
			if rs.Err == nil {
				b.index, b.ctx = max(rs.Index, 1), 0
				break
			}
			err := fmt.Errorf("%w: %w", ErrNoLease, rs.Err)
			if errors.Is(rs.Err, raft.ErrNotLeader) {
				err = g.notLeader()
			}
			done := b.done
			g.reads = append(g.reads[:i], g.reads[i+1:]...)
			for _, d := range done {
				d(0, err)
			}
			break
		}
	}
	g.answerReads()
}

// answerReads ends the confirmed reads whose index is applied.
func (g *Group) answerReads() {
	for i := 0; i < len(g.reads); {
		b := &g.reads[i]
		if b.index == 0 || b.index > g.applied {
			i++
			continue
		}
		done := b.done
		g.reads = append(g.reads[:i], g.reads[i+1:]...)
		for _, d := range done {
			d(g.applied, nil)
		}
	}
}

// Proposals on their way: what waits for which index, and how each of them ends exactly once.

package multi

import (
	"errors"
	"fmt"
	"time"

	"github.com/balsamq/balsa/raft"
)

// pendingProposal waits for the entry at index, which was appended under term.
type pendingProposal struct {
	term   raft.Term
	index  raft.Index
	staged raft.Time
	done   func(Outcome)
}

// pendingQueue is a FIFO in index order. It is bounded by raft's MaxUncommitted: a leader stages no more.
type pendingQueue struct {
	q    []pendingProposal
	head int
}

func (p *pendingQueue) push(x pendingProposal) {
	if p.head > 0 && p.head == len(p.q) {
		p.q, p.head = p.q[:0], 0
	} else if p.head > 256 && p.head > len(p.q)/2 {
		n := copy(p.q, p.q[p.head:])
		clear(p.q[n:])
		p.q, p.head = p.q[:n], 0
	}
	p.q = append(p.q, x)
}

func (p *pendingQueue) first() *pendingProposal {
	if p.head == len(p.q) {
		return nil
	}
	return &p.q[p.head]
}

func (p *pendingQueue) pop() (x pendingProposal) {
	x = p.q[p.head]
	p.q[p.head] = pendingProposal{}
	p.head++
	if p.head == len(p.q) {
		p.head = 0
		if cap(p.q) > maxPooledMessages {
			p.q = nil
		} else {
			p.q = p.q[:0]
		}
	}
	return x
}

func (g *Group) notLeader() error {
	s := g.r.Status()
	leader := s.Leader
	if leader == g.h.o.Self.ID {
		leader = 0
	}
	return &NotLeaderError{Leader: leader, Term: s.Term}
}

// coreError translates what the core says to a refused proposal, read or order.
func (g *Group) coreError(err error) error {
	switch {
	case errors.Is(err, raft.ErrNotLeader):
		return g.notLeader()
	case errors.Is(err, raft.ErrNotReady):
		return ErrNotReady
	case errors.Is(err, raft.ErrTransferring):
		return fmt.Errorf("%w: leadership is being transferred", ErrNotReady)
	case errors.Is(err, raft.ErrOverloaded):
		return ErrOverloaded
	}
	return err
}

// stageAll stages and proposes what waits, in batches, until the core takes no more or the turn has had its share: then it reports
// that there is more. What it does not take stays in the inbox, whose bound is the producers' backpressure.
func (g *Group) stageAll(w *worker, now raft.Time, held, fresh []*Proposal) (more bool) {
	taken, bytes := 0, int64(0)
	next := func() *Proposal {
		if len(held) > 0 {
			return held[0]
		}
		if len(fresh) > 0 {
			return fresh[0]
		}
		return nil
	}
	advance := func(p *Proposal) {
		taken++
		bytes += int64(len(p.Payload))
		if len(held) > 0 {
			held = held[1:]
		} else {
			fresh = fresh[1:]
		}
	}
	g.heldBack = false
	for batches := 0; g.failed == nil && next() != nil; batches++ {
		if more = batches == maxStageBatches; more {
			break
		}
		term, index, err := g.r.NextProposal()
		if err == nil && !g.full && g.log.Unsynced() > g.h.o.MaxUnsynced {
			err = raft.ErrOverloaded // followers may commit what this disk is behind with; that must not pile up here
		}
		if g.heldBack = g.holdsBack(err); g.heldBack {
			break
		}
		if err != nil {
			err = g.coreError(err)
			for p := next(); p != nil; p = next() {
				advance(p)
				p.Done(Outcome{Err: err})
			}
			break
		}
		if batches == 0 && g.gathers(now) {
			g.in.gather(held, fresh)
			return false
		}
		g.stageBatch(w, now, term, index, next, advance)
	}
	var rest []*Proposal
	if n := len(held) + len(fresh); n > 0 {
		rest = append(append(make([]*Proposal, 0, n), held...), fresh...)
	}
	g.in.consumed(taken, bytes, rest)
	if rest != nil && g.failed != nil { // the inbox was closed under our hands
		err := failedError(g.failed)
		_, again := g.in.take()
		for _, p := range again {
			p.Done(Outcome{Err: err})
		}
	}
	return more
}

func (g *Group) stageBatch(w *worker, now raft.Time, term raft.Term, index raft.Index, next func() *Proposal, advance func(*Proposal)) {
	entries, size := w.entries[:0], 0
	w.staged = w.staged[:0]
	for p := next(); p != nil && len(entries) < maxStageBatch && size < g.h.o.MaxMessageBytes; p = next() {
		advance(p)
		g.h.stats.proposals.Add(1)
		if g.full && p.Type == raft.EntryRecords {
			p.Done(Outcome{Err: ErrFull})
			continue
		}
		n := len(entries)
		entries = append(entries, raft.Entry{Term: term, Index: index + raft.Index(n), Type: p.Type, Payload: p.Payload})
		e := &entries[n]
		waitFor, err := g.cfg.Stager.Stage(p, e)
		if err != nil || waitFor > 0 {
			*e = raft.Entry{}
			entries = entries[:n]
		}
		switch {
		case err != nil:
			p.Done(Outcome{Err: err})
		case waitFor > 0 && waitFor <= g.applied:
			p.Done(Outcome{Term: term, Index: waitFor})
		case waitFor > 0:
			g.repeats = append(g.repeats, pendingProposal{term: term, index: waitFor, done: p.Done})
		default:
			size += e.Size()
			w.staged = append(w.staged, p)
		}
	}
	if len(entries) > 0 {
		if err := g.r.Propose(now, entries); err != nil {
			// The core named this very place in this very turn. The stager's state is ahead of the log now.
			err = fmt.Errorf("the core refused entries at (%d,%d) that it had asked for: %w", term, index, err)
			for _, p := range w.staged {
				p.Done(Outcome{Err: failedError(err)})
			}
			g.fail(err)
		} else {
			g.proposedAt(now)
			g.h.pacer.proposed.Add(int64(size))
			g.waited = 0
			if g.queued != 0 {
				g.waited = max(0, now-g.queued)
			}
			for i, p := range w.staged {
				q := &g.waiting
				if p.AckLocal {
					q = &g.local
				}
				q.push(pendingProposal{term: term, index: entries[i].Index, staged: now, done: p.Done})
			}
		}
	}
	clear(entries)
	clear(w.staged)
	w.entries, w.staged = entries[:0], w.staged[:0]
}

// completeLocal ends the proposals that asked only for this replica's own sync. Once leadership is handed over, a sync says
// nothing of them any more: the ticket may be that of entries which have taken their places. They wait for the commit.
func (g *Group) completeLocal(t raft.Ticket) {
	if g.heirUntil != 0 {
		return
	}
	for p := g.local.first(); p != nil && p.index <= t.Index && p.term <= t.Term; p = g.local.first() {
		x := g.local.pop()
		x.done(Outcome{Term: x.term, Index: x.index})
	}
}

// completeApplied ends what waited for the entries just applied. results may be nil.
func (g *Group) completeApplied(entries []raft.Entry, results []any) {
	last := entries[len(entries)-1].Index
	at := func(i raft.Index) (e *raft.Entry, result any) {
		n := int(i - entries[0].Index)
		if results != nil {
			result = results[n]
		}
		return &entries[n], result
	}
	var now raft.Time
	if p := g.waiting.first(); p != nil && p.index <= last {
		now = g.h.now()
		if p.staged != 0 {
			g.h.paceLive(now, now-p.staged+g.waited)
			g.gather.ended, g.gather.took = now, now-p.staged
		}
	}
	for p := g.waiting.first(); p != nil && p.index <= last; p = g.waiting.first() {
		x := g.waiting.pop()
		e, result := at(x.index)
		if g.h.o.Observer != nil && x.staged != 0 {
			g.h.o.Observer.Committed(time.Duration(now - x.staged))
		}
		o := Outcome{Term: x.term, Index: x.index, Result: result}
		if e.Term != x.term {
			o = Outcome{Err: ErrLeadershipLost} // another leader's entry took the place: it is certain that ours is gone
		}
		x.done(o)
	}
	for p := g.local.first(); p != nil && p.index <= last; p = g.local.first() {
		x := g.local.pop()
		if e, _ := at(x.index); e.Term == x.term {
			x.done(Outcome{Term: x.term, Index: x.index})
		} else {
			x.done(Outcome{Err: ErrLeadershipLost})
		}
	}
	if len(g.repeats) > 0 {
		kept := g.repeats[:0]
		var due []pendingProposal
		for _, x := range g.repeats {
			if x.index <= last {
				due = append(due, x)
			} else {
				kept = append(kept, x)
			}
		}
		clear(g.repeats[len(kept):])
		g.repeats = kept
		for _, x := range due {
			o := Outcome{Term: x.term, Index: x.index}
			var e *raft.Entry
			if e, o.Result = at(x.index); e.Term != x.term {
				o = Outcome{Err: ErrLeadershipLost} // what it repeats has never been committed
			}
			x.done(o)
		}
	}
}

// passedOver ends what waited for entries up to i, in whose place a leader's snapshot has come. (What is handed over waits on
// after leadership.) Whether they are in it, it does not say.
func (g *Group) passedOver(i raft.Index) {
	lost := func(x pendingProposal) { x.done(Outcome{Term: x.term, Index: x.index, Err: ErrLeadershipLost}) }
	for p := g.waiting.first(); p != nil && p.index <= i; p = g.waiting.first() {
		lost(g.waiting.pop())
	}
	for p := g.local.first(); p != nil && p.index <= i; p = g.local.first() {
		lost(g.local.pop())
	}
	repeats := g.repeats
	g.repeats = nil
	for _, x := range repeats {
		if x.index <= i {
			lost(x)
		} else {
			g.repeats = append(g.repeats, x)
		}
	}
}

// failPending ends everything that waits: proposals that are in the log with inLog, all else with err.
func (g *Group) failPending(inLog, err error) {
	for g.waiting.first() != nil {
		x := g.waiting.pop()
		x.done(Outcome{Term: x.term, Index: x.index, Err: inLog})
	}
	for g.local.first() != nil {
		x := g.local.pop()
		x.done(Outcome{Term: x.term, Index: x.index, Err: inLog})
	}
	repeats := g.repeats
	g.repeats = nil
	for _, x := range repeats {
		x.done(Outcome{Index: x.index, Err: inLog})
	}
	g.failReads(err)
}

func (g *Group) failReads(err error) {
	reads := g.reads
	g.reads = nil
	for _, b := range reads {
		for _, done := range b.done {
			done(0, err)
		}
	}
}

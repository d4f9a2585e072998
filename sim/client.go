// The clients: writes and reads at random times through random or believed leaders, and what they were promised.

package sim

import (
	"errors"
	"time"

	"github.com/balsamq/balsa/raft"
	"github.com/balsamq/balsa/raft/multi"
	"github.com/balsamq/balsa/segment"
)

const (
	readShare   = 0.25
	burstChance = 0.05
	burstOps    = 40
	trimChance  = 0.06 // instead of a write, of the groups whose records are their data
	maxOpBytes  = 1200
	retries     = 8
)

// startClients spreads at least n operations over d.
func startClients(w *world, n int, d time.Duration) {
	for range n {
		w.after(w.between(0, d), func() {
			w.operation(w.newOp(), retries)
			if w.chance(burstChance) {
				w.burst(w.rng.IntN(burstOps))
			}
		})
	}
}

// newOp numbers operations.
func (w *world) newOp() uint64 {
	w.ops++
	return w.ops
}

func (w *world) burst(n int) {
	w.rep.reach("burst of writes")
	for range n {
		w.operation(w.newOp(), 0)
	}
}

// operation runs one write or read against a node that may lead.
func (w *world) operation(op uint64, left int) {
	w.rep.Ops++
	g := w.rng.IntN(w.opts.Groups)
	if w.chance(readShare) {
		if n := w.pick(g); n != nil {
			w.read(n, g)
		}
		return
	}
	if w.shape.data[g] && w.chance(trimChance) {
		w.trim(g)
		return
	}
	w.write(g, op, left)
}

// trim moves the start of the records to somewhere below their end, or, often, to the end.
func (w *world) trim(g int) {
	n := w.pick(g)
	if n == nil {
		return
	}
	n.inLife(n.life, func() {
		n.step(func() {
			r := n.replica(g)
			if r == nil {
				return
			}
			to := r.state.records
			if w.chance(0.6) {
				to -= segment.Offset(w.rng.Int64N(int64(to-r.state.start) + 1))
			}
			r.group.Propose(&multi.Proposal{Type: raft.EntryPrefix, Payload: trimPayload(to), Done: func(multi.Outcome) {}})
		})
	})
}

// pick is a node that thinks it leads g, else any; nil if that one is down.
func (w *world) pick(g int) *node {
	off := w.rng.IntN(len(w.nodes))
	for i := range w.nodes {
		if n := w.nodes[(i+off)%len(w.nodes)]; n.leads(g) && w.chance(0.9) {
			return n
		}
	}
	if n := w.anyNode(); n.replica(g) != nil {
		return n
	}
	return nil
}

func (w *world) write(g int, op uint64, left int) {
	n := w.pick(g)
	if n == nil {
		w.retry(g, op, left)
		return
	}
	w.writeTo(n, g, op, left)
}

func (w *world) writeTo(n *node, g int, op uint64, left int) {
	if w.late.quiet(g) {
		return
	}
	w.history[g].called(op, w.now)
	n.inLife(n.life, func() { n.step(w.proposal(n, g, op, left)) })
}

// proposal is what a node does with a write that has arrived.
func (w *world) proposal(n *node, g int, op uint64, left int) func() {
	local := w.chance(0.1)
	size := w.rng.IntN(maxOpBytes)
	h := w.history[g]
	life := n.life
	return func() {
		r := n.replica(g)
		if r == nil {
			h.refused(op)
			w.retry(g, w.newOp(), left)
			return
		}
		done := func(o multi.Outcome) {
			if n.life != life || n.dead() {
				return // the process died before it could answer
			}
			switch {
			case o.Err != nil:
				w.rep.Refused++
				if errors.Is(o.Err, multi.ErrLeadershipLost) {
					w.rep.reach("proposal outcome unknown")
				} else if !errors.Is(o.Err, multi.ErrClosed) && !errors.Is(o.Err, multi.ErrFailed) {
					h.refused(op)
				}
				w.retry(g, w.newOp(), left)
			case local:
				w.rep.reach("acknowledged after the leader's own sync")
				w.check.ackedLocal(r, o.Index)
			default:
				w.rep.Acked++
				h.acked(op, w.now)
				w.check.acked(n, g, op, o.Term, o.Index)
				w.askOthers(n, g)
			}
		}
		r.group.Propose(&multi.Proposal{Type: raft.EntryRecords, Payload: opBatch(op, size), AckLocal: local, Done: done})
	}
}

// askOthers reads from whoever else believes to lead: that is where a lease that lasts too long would tell.
func (w *world) askOthers(n *node, g int) {
	for _, o := range w.nodes {
		if o != n && o.leads(g) {
			w.rep.reach("two nodes that believe to lead")
			w.after(0, func() { w.read(o, g) })
		}
	}
}

// retry repeats an operation under a number of its own: whether the first one stands in the log is not known.
func (w *world) retry(g int, op uint64, left int) {
	if left > 0 {
		w.after(w.between(20*time.Millisecond, 600*time.Millisecond), func() { w.write(g, op, left-1) })
	}
}

// read asks for a linearizable read point: it must cover all that was acknowledged, or read, before it was asked for.
func (w *world) read(n *node, g int) {
	if n.preempted {
		w.rep.reach("read that came while a turn stood still")
		w.reading(n, g)()
		return
	}
	n.inLife(n.life, func() { n.step(w.reading(n, g)) })
}

func (w *world) reading(n *node, g int) func() {
	life := n.life
	return func() {
		r := n.replica(g)
		if r == nil {
			return
		}
		floor, called := w.check.floor[g], w.now
		done := func(i raft.Index, err error) {
			if n.life != life || n.dead() || err != nil {
				return
			}
			w.rep.Reads++
			w.check.readAt(r, floor, i)
			w.history[g].read(called, w.now, i)
		}
		if w.chance(0.2) { // as with read.consistency=quorum
			r.group.ReadIndex(done)
			return
		}
		r.group.Read(done)
	}
}

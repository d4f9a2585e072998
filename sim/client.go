// The clients: writes and reads at random times through random or believed leaders, and what they were promised.

package sim

import (
	"errors"
	"time"

	"github.com/balsamq/balsa/raft"
	"github.com/balsamq/balsa/raft/multi"
)

const (
	readShare   = 0.25
	burstChance = 0.05
	burstOps    = 40
	maxOpBytes  = 1200
	retries     = 8
)

// startClients spreads at least n operations over d.
func startClients(w *world, n int, d time.Duration) {
	var id uint64
	for range n {
		w.after(w.between(0, d), func() {
			id++
			w.operation(id<<16, retries)
			if w.chance(burstChance) {
				w.rep.reach("burst of writes")
				for i := range w.rng.IntN(burstOps) {
					w.operation(id<<16|uint64(i+1), 0)
				}
			}
		})
	}
}

// operation runs one write or read against a node that may lead.
func (w *world) operation(op uint64, left int) {
	w.rep.Ops++
	g := w.rng.IntN(w.opts.Groups)
	if w.chance(readShare) {
		w.read(g)
		return
	}
	w.write(g, op, left)
}

// pick is a node that thinks it leads g, else any; nil if that one is down.
func (w *world) pick(g int) *node {
	off := w.rng.IntN(len(w.nodes))
	for i := range w.nodes {
		if n := w.nodes[(i+off)%len(w.nodes)]; n.leads(g) && w.chance(0.9) {
			return n
		}
	}
	if n := w.anyNode(); n.up && g < len(n.replicas) {
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
	local := w.chance(0.1)
	n.inLife(n.life, func() {
		r := n.replicas[g]
		r.group.Propose(&multi.Proposal{Type: raft.EntryRecords, Payload: opBatch(op, w.rng.IntN(maxOpBytes)), AckLocal: local,
			Done: func(o multi.Outcome) {
				if n.diskDead || !n.up {
					return // the process died before it could answer
				}
				switch {
				case o.Err != nil:
					w.rep.Refused++
					if errors.Is(o.Err, multi.ErrLeadershipLost) {
						w.rep.reach("proposal outcome unknown")
					}
					w.retry(g, op, left)
				case local:
					w.rep.reach("acknowledged after the leader's own sync")
				default:
					w.rep.Acked++
					w.check.acked(n, g, op, o.Term, o.Index)
				}
			}})
		n.run()
	})
}

// retry repeats an operation whose outcome is unknown; it may then stand twice in the log, which is the client's affair.
func (w *world) retry(g int, op uint64, left int) {
	if left > 0 {
		w.after(w.between(20*time.Millisecond, 600*time.Millisecond), func() { w.write(g, op, left-1) })
	}
}

// read asks for a linearizable read point: it must cover all that was acknowledged, or read, before it was asked for.
func (w *world) read(g int) {
	n := w.pick(g)
	if n == nil {
		return
	}
	floor := w.check.floor[g]
	n.inLife(n.life, func() {
		n.replicas[g].group.Read(func(i raft.Index, err error) {
			if n.diskDead || !n.up || err != nil {
				return
			}
			w.rep.Reads++
			w.check.readAt(n, g, floor, i)
		})
		n.run()
	})
}

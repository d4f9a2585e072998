// The simulated network: every message takes its own time, and may be lost, delivered twice, or overtaken.

package sim

import (
	"time"

	"github.com/balsamq/balsa/raft"
	"github.com/balsamq/balsa/raft/multi"
)

const (
	minDelay = 200 * time.Microsecond
	maxDelay = 3 * time.Millisecond
	// strayDelay is how late a message may come that took a detour: longer than an election, so that answers of an
	// earlier term, round or coverage session arrive in a later one.
	strayDelay  = 3 * time.Second
	strayChance = 0.002
)

type network struct {
	w        *world
	cut      [][]bool // cut[from][to], by node index
	loss     float64
	dup      float64
	slowFrom []time.Duration // extra delay of what a node sends
}

func newNetwork(w *world) *network {
	n := &network{w: w, slowFrom: make([]time.Duration, w.opts.Nodes)}
	n.cut = make([][]bool, w.opts.Nodes)
	for i := range n.cut {
		n.cut[i] = make([]bool, w.opts.Nodes)
	}
	return n
}

func (n *network) heal() {
	for i := range n.cut {
		clear(n.cut[i])
	}
	clear(n.slowFrom)
}

func (n *network) lossy(loss, dup float64) { n.loss, n.dup = loss, dup }

// carry delivers by calling fn on the far side, if the message gets there; the cut is looked at on both ends.
func (n *network) carry(from, to raft.NodeID, fn func(dst *node)) {
	w := n.w
	w.rep.Messages++
	if int(to) > len(w.nodes) || to == 0 {
		return
	}
	copies := 1
	if n.dup > 0 && w.chance(n.dup) {
		copies = 2
		w.rep.Duplicated++
	}
	for range copies {
		if n.loss > 0 && w.chance(n.loss) {
			w.rep.Lost++
			continue
		}
		d := w.between(minDelay, maxDelay) + n.slowFrom[from-1]
		if w.chance(strayChance) {
			d += w.between(0, strayDelay)
		}
		w.after(d, func() {
			dst := w.nodes[to-1]
			if !dst.up || n.cut[from-1][to-1] {
				w.rep.Lost++
				return
			}
			fn(dst)
		})
	}
}

// link is one node's multi.Transport.
type link struct {
	net  *network
	node *node
	life int // a dead process sends nothing
}

func (l *link) Send(to raft.NodeID, msgs []raft.Message) {
	if !l.node.up || l.life != l.node.life {
		return
	}
	for i := range msgs {
		m := msgs[i]
		l.net.w.check.sent(l.node, &m)
		l.net.carry(l.node.id, to, func(dst *node) { dst.deliver(onTheWire(&m)) })
	}
}

func (l *link) SendPair(to raft.NodeID, m *multi.PairMessage) {
	if !l.node.up || l.life != l.node.life {
		return
	}
	c := *m
	c.Cover = append([]multi.CoveredGroup(nil), m.Cover...)
	c.Uncover = append([]raft.GroupID(nil), m.Uncover...)
	c.Except = append([]raft.GroupID(nil), m.Except...)
	l.net.carry(l.node.id, to, func(dst *node) { dst.deliverPair(l.node.id, c) })
}

// onTheWire is what the receiver gets: entries are their frames alone, everything else is a copy.
func onTheWire(m *raft.Message) raft.Message {
	c := *m
	if len(m.Entries) > 0 {
		c.Entries = make([]raft.Entry, len(m.Entries))
		for i := range m.Entries {
			c.Entries[i].Frame = m.Entries[i].Frame
		}
	}
	if m.Snapshot != nil {
		s := *m.Snapshot
		c.Snapshot = &s
	}
	return c
}

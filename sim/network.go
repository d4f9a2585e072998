// The simulated network: every message takes its own time, and may be lost, delivered twice, or overtaken.

package sim

import (
	"slices"
	"time"

	"github.com/balsamq/balsa/internal/vfs"
	"github.com/balsamq/balsa/raft"
	"github.com/balsamq/balsa/raft/multi"
	"github.com/balsamq/balsa/raft/transport"
)

const (
	minDelay = 200 * time.Microsecond
	maxDelay = 3 * time.Millisecond
	// strayDelay is how late a message may come that took a detour: longer than an election, so that answers of an
	// earlier term, round or coverage session arrive in a later one.
	strayDelay  = 3 * time.Second
	strayChance = 0.002
)

// network has links between nodes. A link may be cut by several faults at once, and heals when the last of them ends.
type network struct {
	w        *world
	cut      [][]int // cut[from][to], by node index: how many faults cut it
	epoch    int     // of the last healing: faults begun before it end nothing
	loss     float64
	dup      float64
	slowFrom []time.Duration // extra delay of what a node sends
	jitter   time.Duration   // up to so much more delay, of everything
}

func newNetwork(w *world) *network {
	n := &network{w: w, slowFrom: make([]time.Duration, w.opts.Nodes)}
	n.cut = make([][]int, w.opts.Nodes)
	for i := range n.cut {
		n.cut[i] = make([]int, w.opts.Nodes)
	}
	return n
}

func (n *network) heal() {
	for i := range n.cut {
		clear(n.cut[i])
	}
	clear(n.slowFrom)
	n.jitter = 0
	n.epoch++
}

func (n *network) lossy(loss, dup float64) { n.loss, n.dup = loss, dup }

// carry delivers by calling fn on the far side, if the message gets there; the cut is looked at on both ends. what, if not
// empty, is counted when it is lost or doubled.
func (n *network) carry(what string, from, to raft.NodeID, fn func(dst *node)) {
	w := n.w
	w.rep.Messages++
	if int(to) > len(w.nodes) || to == 0 {
		return
	}
	copies := 1
	lost := func() {
		w.rep.Lost++
		if what != "" {
			w.rep.reach(what + " lost")
		}
	}
	if n.dup > 0 && w.chance(n.dup) {
		copies = 2
		w.rep.Duplicated++
		if what != "" {
			w.rep.reach(what + " doubled")
		}
	}
	for range copies {
		if n.loss > 0 && w.chance(n.loss) {
			lost()
			continue
		}
		d := w.between(minDelay, maxDelay) + n.slowFrom[from-1]
		if n.jitter > 0 {
			d += w.between(0, n.jitter)
		}
		if w.chance(strayChance) {
			d += w.between(0, strayDelay)
		}
		w.after(d, func() {
			dst := w.nodes[to-1]
			if !dst.up || n.cut[from-1][to-1] > 0 {
				lost()
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

// Send implements multi.Transport. Every message passes the real encoding.
func (l *link) Send(to raft.NodeID, msgs []raft.Message) {
	if !l.node.up || l.life != l.node.life {
		return
	}
	w := l.net.w
	for i := range msgs {
		m := &msgs[i]
		w.check.sent(l.node, m)
		w.rep.Types[m.Type]++
		c, err := transport.Carry(m)
		if err != nil {
			w.fail(err)
			return
		}
		carry := func() { l.net.carry("", l.node.id, to, func(dst *node) { dst.deliver(w.ofItsOwn(&c)) }) }
		if d := w.late.delay(w, l.node, to, m); d > 0 {
			w.after(d, carry)
		} else {
			carry()
		}
	}
}

// SendPair implements multi.Transport.
func (l *link) SendPair(to raft.NodeID, m *multi.PairMessage) {
	if !l.node.up || l.life != l.node.life {
		return
	}
	l.net.w.rep.PairMessages++
	c, err := transport.CarryPair(m)
	if err != nil {
		l.net.w.fail(err)
		return
	}
	l.net.carry("", l.node.id, to, func(dst *node) {
		d := *c
		dst.deliverPair(l.node.id, &d)
	})
}

// SendChunk implements multi.Transport.
func (l *link) SendChunk(to raft.NodeID, m *multi.ChunkMessage) {
	if !l.node.up || l.life != l.node.life {
		return
	}
	l.net.w.rep.Chunks++
	c, err := transport.CarryChunk(m)
	if err != nil {
		l.net.w.fail(err)
		return
	}
	l.net.carry("chunk", l.node.id, to, func(dst *node) {
		d := *c
		dst.deliverChunk(l.node.id, &d)
	})
}

// memory is n bytes for frames. Where they begin decides how they are written, and so is a matter of what they are for and not of the machine.
func (w *world) memory(n int, i raft.Index) []byte {
	if !w.shape.pads {
		return make([]byte, n)
	}
	mem := vfs.Aligned((n + 2*vfs.DirectUnit) &^ (vfs.DirectUnit - 1))
	return mem[i*97%vfs.DirectUnit:][:n]
}

// ofItsOwn copies what the receiver may change: a doubled message is two. Frames lie one behind the other, as they were read.
func (w *world) ofItsOwn(m *raft.Message) raft.Message {
	c := *m
	c.Entries = slices.Clone(m.Entries)
	if w.shape.pads {
		size := 0
		for i := range c.Entries {
			size += len(c.Entries[i].Frame)
		}
		mem := w.memory(size, m.Index)
		for i := range c.Entries {
			e := &c.Entries[i]
			n := copy(mem, e.Frame)
			e.Frame, mem = mem[:n], mem[n:]
		}
	}
	if m.Snapshot != nil {
		s := *m.Snapshot
		c.Snapshot = &s
	}
	return c
}

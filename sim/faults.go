// The fault schedule: what goes wrong, drawn from the seed. Every run has at least minFaults of them.

package sim

import (
	"time"
)

const minFaults = 5

// startFaults spreads faults over the run. Each one undoes itself after a while, so that the cluster is sometimes
// healthy, and faults overlap.
func startFaults(w *world, d time.Duration) {
	n := minFaults + w.rng.IntN(11)
	for range n {
		w.after(w.between(d/60, d*19/20), w.fault)
	}
}

func (w *world) fault() {
	kinds := []struct {
		weight int
		name   string
		fn     func()
	}{
		{3, "power cut", w.faultPowerCut},
		{2, "kill", w.faultKill},
		{2, "power cut of all", w.faultPowerCutAll},
		{3, "isolate", w.faultIsolate},
		{3, "one-way cut", w.faultOneWay},
		{2, "bridge", w.faultBridge},
		{2, "lossy network", w.faultLossy},
		{2, "slow disk", w.faultSlowDisk},
		{1, "slow sender", w.faultSlowSender},
		{2, "stall", w.faultStall},
		{1, "flapping", w.faultFlap},
		{3, "power cut at a vote", w.faultCutAtVote},
	}
	total := 0
	for _, k := range kinds {
		total += k.weight
	}
	pick := w.rng.IntN(total)
	for _, k := range kinds {
		if pick < k.weight {
			w.rep.Faults++
			w.rep.reach("fault: " + k.name)
			w.tracef("fault: %s", k.name)
			k.fn()
			return
		}
		pick -= k.weight
	}
}

func (w *world) anyNode() *node { return w.nodes[w.rng.IntN(len(w.nodes))] }

// target is a leader of some group half of the time: that is where faults tell.
func (w *world) target() *node {
	if w.chance(0.5) {
		g := w.rng.IntN(w.opts.Groups)
		for _, n := range w.nodes {
			if n.up && n.leads(g) {
				return n
			}
		}
	}
	return w.anyNode()
}

func (w *world) faultPowerCut() {
	n := w.target()
	n.powerCut()
	w.after(w.between(10*time.Millisecond, 8*time.Second), n.start)
}

func (w *world) faultKill() {
	n := w.target()
	n.kill()
	w.after(w.between(10*time.Millisecond, 6*time.Second), n.start)
}

func (w *world) faultPowerCutAll() {
	for _, n := range w.nodes {
		n.powerCut()
		w.after(w.between(10*time.Millisecond, 4*time.Second), n.start)
	}
}

func (w *world) faultIsolate() {
	n := w.target()
	for _, o := range w.nodes {
		if o != n {
			w.cutLink(n, o, true)
			w.cutLink(o, n, true)
		}
	}
	w.after(w.between(300*time.Millisecond, 8*time.Second), func() {
		for _, o := range w.nodes {
			w.cutLink(n, o, false)
			w.cutLink(o, n, false)
		}
	})
}

// faultOneWay cuts what a node sends, or what it hears, to one peer or to all.
func (w *world) faultOneWay() {
	n := w.target()
	hears, all := w.chance(0.5), w.chance(0.5)
	peer := w.anyNode()
	set := func(cut bool) {
		for _, o := range w.nodes {
			if o == n || !all && o != peer {
				continue
			}
			if hears {
				w.cutLink(o, n, cut)
			} else {
				w.cutLink(n, o, cut)
			}
		}
	}
	set(true)
	w.after(w.between(300*time.Millisecond, 8*time.Second), func() { set(false) })
}

// faultBridge leaves one node that both halves can reach, while they cannot reach each other.
func (w *world) faultBridge() {
	b := w.anyNode()
	var left, right []*node
	for _, n := range w.nodes {
		switch {
		case n == b:
		case len(left) <= len(right):
			left = append(left, n)
		default:
			right = append(right, n)
		}
	}
	set := func(cut bool) {
		for _, l := range left {
			for _, r := range right {
				w.cutLink(l, r, cut)
				w.cutLink(r, l, cut)
			}
		}
	}
	set(true)
	w.after(w.between(300*time.Millisecond, 8*time.Second), func() { set(false) })
}

func (w *world) cutLink(from, to *node, cut bool) { w.net.cut[from.id-1][to.id-1] = cut }

func (w *world) faultLossy() {
	w.net.lossy(w.rng.Float64()*0.3, w.rng.Float64()*0.3)
	w.after(w.between(time.Second, 10*time.Second), func() { w.net.lossy(0, 0) })
}

func (w *world) faultSlowDisk() {
	n := w.target()
	n.syncSlow = w.between(20*time.Millisecond, 800*time.Millisecond)
	w.after(w.between(time.Second, 8*time.Second), func() { n.syncSlow = 0 })
}

func (w *world) faultSlowSender() {
	n := w.target()
	w.net.slowFrom[n.id-1] = w.between(10*time.Millisecond, 1500*time.Millisecond)
	w.after(w.between(time.Second, 8*time.Second), func() { w.net.slowFrom[n.id-1] = 0 })
}

// faultStall stops a process without killing it, as SIGSTOP or a long pause of the machine would: messages pile up, its
// disk goes on with what was under way, and it wakes with old ideas.
func (w *world) faultStall() {
	n := w.target()
	n.stall(w.between(50*time.Millisecond, 5*time.Second))
}

// faultFlap cuts and heals one link many times in short order.
func (w *world) faultFlap() {
	a, b := w.target(), w.anyNode()
	if a == b {
		return
	}
	var flip func(left int)
	flip = func(left int) {
		w.cutLink(a, b, left%2 == 0 && left > 0)
		if left > 0 {
			w.after(w.between(20*time.Millisecond, 500*time.Millisecond), func() { flip(left - 1) })
		}
	}
	flip(4 + 2*w.rng.IntN(8))
}

// faultCutAtVote forces elections and cuts the power of nodes that have just voted: what they promised must be on disk.
func (w *world) faultCutAtVote() {
	w.cutAtVote = 1 + w.rng.IntN(3)
	n := w.target()
	n.kill()
	w.after(w.between(2*time.Second, 6*time.Second), n.start)
}

// voted is told of every vote that leaves a node.
func (w *world) voted(n *node) {
	if w.cutAtVote == 0 {
		return
	}
	w.cutAtVote--
	w.rep.reach("power cut after a vote")
	life := n.life
	w.after(w.between(0, 4*time.Millisecond), func() {
		if n.up && n.life == life {
			n.lose()
			w.after(w.between(10*time.Millisecond, 400*time.Millisecond), n.start)
		}
	})
}

// The fault schedule: what goes wrong, drawn from the seed. Every run has at least minFaults of them.

package sim

import (
	"time"
)

const minFaults = 5

// startFaults spreads faults over the run. Each one undoes itself after a while, so that the cluster is sometimes
// healthy, and faults overlap.
func startFaults(w *world, d time.Duration) {
	n := minFaults + w.rng.IntN(16)
	for range n {
		w.after(w.between(d/60, d*19/20), w.fault)
	}
	w.after(w.between(0, clockSpacing), w.disturbClock)
	w.after(w.between(0, operatorSpacing), w.operate)
}

// faultKinds are drawn by weight.
var faultKinds = []struct {
	weight int
	name   string
	fn     func(*world)
}{
	{3, "power cut", (*world).faultPowerCut},
	{2, "kill", (*world).faultKill},
	{2, "power cut of all", (*world).faultPowerCutAll},
	{3, "isolate", (*world).faultIsolate},
	{3, "one-way cut", (*world).faultOneWay},
	{2, "bridge", (*world).faultBridge},
	{3, "bridge that restarts", (*world).faultBridgeRestart},
	{2, "lossy network", (*world).faultLossy},
	{3, "slow disk", (*world).faultSlowDisk},
	{1, "slow sender", (*world).faultSlowSender},
	{2, "stall", (*world).faultStall},
	{3, "suspend inside a turn", (*world).faultSuspend},
	{1, "flapping", (*world).faultFlap},
	{3, "clocks apart", (*world).faultClocksApart},
	{3, "power cut at a vote", (*world).faultCutAtVote},
	{3, "leaders struck", (*world).faultStrikeLeaders},
	{3, "failing disk", (*world).faultFailedIO},
	{1, "full disk", (*world).faultFullDisk},
	{4, "rot", (*world).faultRot},
	{4, "rot before an election", (*world).faultRotElection},
	{1, "disk lost", (*world).faultWipe},
	{2, "majority lost", (*world).faultLoseMajority},
}

func (w *world) fault() {
	total := 0
	for _, k := range faultKinds {
		total += k.weight
	}
	pick := w.rng.IntN(total)
	for _, k := range faultKinds {
		if pick < k.weight {
			w.rep.Faults++
			w.rep.reach("fault: " + k.name)
			w.tracef("fault: %s", k.name)
			k.fn(w)
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
			if n.leads(g) {
				return n
			}
		}
	}
	return w.anyNode()
}

// powerCut arms a cut that strikes within the next disk operations, or soon.
func (n *node) powerCut() {
	if !n.up || n.disks.cutIn >= 0 {
		return
	}
	n.disks.cutIn = n.rng.IntN(cutWithinOps)
	// Give it something to strike.
	for range n.w.rng.IntN(cutBurst) {
		n.w.after(n.w.between(0, cutWithinTime), func() { n.w.operation(n.w.newOp(), 0) })
	}
	life := n.life
	n.w.after(n.w.between(0, cutWithinTime), func() {
		if n.life == life {
			n.lose()
		}
	})
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
	w.isolate(w.target(), w.between(300*time.Millisecond, 8*time.Second))
}

func (w *world) isolate(n *node, d time.Duration) {
	w.untilHealed(d, func(cut bool) {
		for _, o := range w.nodes {
			if o != n {
				w.cutLink(n, o, cut)
				w.cutLink(o, n, cut)
			}
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
	w.untilHealed(w.between(300*time.Millisecond, 8*time.Second), set)
}

// faultBridge leaves one node that both halves can reach, while they cannot reach each other.
func (w *world) faultBridge() {
	w.bridge(w.anyNode(), w.between(300*time.Millisecond, 8*time.Second))
}

// faultBridgeRestart restarts the bridge once the far half would like to vote: what it promised before, it promised the leader.
func (w *world) faultBridgeRestart() {
	b := w.anyNode()
	w.bridge(b, w.between(3*time.Second, 6*time.Second))
	for range 1 + w.rng.IntN(4) {
		w.after(w.between(time.Second, 3*time.Second), func() {
			if w.chance(0.5) {
				b.kill()
			} else {
				b.lose()
			}
			b.startLater(0, 50*time.Millisecond)
		})
	}
}

func (w *world) bridge(b *node, d time.Duration) {
	var left, right []*node
	for _, i := range w.rng.Perm(len(w.nodes)) {
		switch n := w.nodes[i]; {
		case n == b:
		case len(left) <= len(right):
			left = append(left, n)
		default:
			right = append(right, n)
		}
	}
	w.untilHealed(d, func(cut bool) {
		for _, l := range left {
			for _, r := range right {
				w.cutLink(l, r, cut)
				w.cutLink(r, l, cut)
			}
		}
	})
}

// cutLink cuts one direction of a link, or takes that back. Faults overlap: the link works when nobody cuts it.
func (w *world) cutLink(from, to *node, cut bool) {
	c := &w.net.cut[from.id-1][to.id-1]
	if cut {
		*c++
	} else {
		*c--
	}
}

// untilHealed runs set(true) now and set(false) after d, unless everything is healed before.
func (w *world) untilHealed(d time.Duration, set func(bool)) {
	set(true)
	epoch := w.net.epoch
	w.after(d, func() {
		if w.net.epoch == epoch {
			set(false)
		}
	})
}

func (w *world) faultLossy() {
	w.net.lossy(w.rng.Float64()*0.3, w.rng.Float64()*0.3)
	w.after(w.between(time.Second, 10*time.Second), func() { w.net.lossy(0, 0) })
}

func (w *world) faultSlowSender() {
	n := w.target()
	w.net.slowFrom[n.id-1] = w.between(10*time.Millisecond, 1500*time.Millisecond)
	w.after(w.between(time.Second, 8*time.Second), func() { w.net.slowFrom[n.id-1] = 0 })
}

// faultStall stops a process without killing it, as SIGSTOP or a suspend of the machine would: messages pile up or are lost, its
// clock goes on, and it wakes with old ideas.
func (w *world) faultStall() {
	n := w.target()
	n.loseStalled = w.chance(0.3)
	n.stall(w.between(50*time.Millisecond, 5*time.Second))
}

// faultSuspend stops a process in the middle of a turn, at one of its next readings of the clock: between looking at its lease
// and answering by it, say.
func (w *world) faultSuspend() {
	n := w.target()
	for range 1 + w.rng.IntN(4) {
		w.after(w.between(0, 3*time.Second), func() {
			if n.up && n.turn == nil {
				n.pauseIn, n.pauseFor, n.pauseAfter = 1+w.rng.IntN(30), w.between(50*time.Millisecond, 3*time.Second), w.chance(0.5)
				w.mixed(n)
				w.burst(w.rng.IntN(20))
			}
		})
	}
}

// mixed brings writes and reads of one group in one turn.
func (w *world) mixed(n *node) {
	for g := range w.opts.Groups {
		if !n.leads(g) {
			continue
		}
		var all []func()
		for range 1 + w.rng.IntN(6) {
			op := w.newOp()
			w.history[g].called(op, w.now)
			all = append(all, w.proposal(n, g, op, 0), w.reading(n, g))
		}
		n.inLife(n.life, func() {
			n.step(func() {
				for _, fn := range all {
					fn()
				}
			})
		})
	}
}

// faultClocksApart sets a leader's clock to its slowest and all others to their fastest, and cuts it off: its lease must end before
// their promises do.
func (w *world) faultClocksApart() {
	n := w.target()
	for _, o := range w.nodes {
		if o == n {
			o.clock.setRate(w.now, -maxRate)
		} else {
			o.clock.setRate(w.now, maxRate)
		}
	}
	for range 1 + w.rng.IntN(3) {
		w.after(w.between(0, 6*time.Second), func() { w.isolate(n, w.between(1100*time.Millisecond, 1800*time.Millisecond)) })
	}
}

// faultFlap cuts and heals one link many times in short order.
func (w *world) faultFlap() {
	a, b := w.target(), w.anyNode()
	if a == b {
		return
	}
	var flip func(left int)
	flip = func(left int) {
		if left == 0 {
			return
		}
		w.untilHealed(w.between(20*time.Millisecond, 500*time.Millisecond), func(cut bool) { w.cutLink(a, b, cut) })
		w.after(w.between(40*time.Millisecond, time.Second), func() { flip(left - 1) })
	}
	flip(2 + w.rng.IntN(8))
}

// faultStrikeLeaders strikes each of the next leaders soon after it was elected, while writes come: logs grow apart, and what an
// earlier leader has left is taken up by a later one (figure 8).
func (w *world) faultStrikeLeaders() {
	w.strikes, w.strikeGroup = 3+w.rng.IntN(6), w.rng.IntN(w.opts.Groups)
	w.net.jitter = []time.Duration{0, 10 * time.Millisecond, 40 * time.Millisecond}[w.rng.IntN(3)]
	n := w.check.leader(w.strikeGroup)
	if n == nil {
		n = w.anyNode()
	}
	w.burst(w.rng.IntN(30))
	w.after(w.between(0, 3*time.Millisecond), func() { w.strike(n) })
}

// strike cuts a node off, or ends it, for long enough that another is elected.
func (w *world) strike(n *node) {
	d := w.between(1200*time.Millisecond, 3500*time.Millisecond)
	switch w.rng.IntN(4) {
	case 0, 1:
		w.isolate(n, d)
	case 2:
		n.kill()
		w.after(d, n.start)
	case 3:
		n.lose()
		w.after(d, n.start)
	}
}

// elected is told of every new leader, once it takes proposals too.
func (w *world) elected(n *node, g int, ready bool) {
	if w.calm {
		return
	}
	life := n.life
	if ready {
		// What it commits at once is what an older leader's lease must not hide.
		w.after(w.between(0, 20*time.Millisecond), func() {
			if n.life == life && n.leads(g) {
				w.writeTo(n, g, w.newOp(), 0)
			}
		})
		return
	}
	if w.strikes == 0 || g != w.strikeGroup {
		return
	}
	if w.strikes--; w.strikes == 0 {
		w.net.jitter = 0
	}
	if w.chance(0.4) { // too early, by the rules: it has committed nothing in its term
		w.after(w.between(0, 20*time.Millisecond), func() {
			if n.life == life && n.leads(g) {
				w.changeConf(n, g)
			}
		})
	}
	w.rep.reach("leader struck after its election")
	for range w.rng.IntN(8) {
		w.after(w.between(0, 30*time.Millisecond), func() {
			if n.life == life && n.leads(g) {
				w.writeTo(n, g, w.newOp(), 0)
			}
		})
	}
	// Before it has told anybody, while it finds out what the others have, or later.
	soon := []time.Duration{time.Millisecond, 10 * time.Millisecond, 60 * time.Millisecond}[w.rng.IntN(3)]
	w.after(w.between(0, soon+w.net.jitter/4), func() {
		if n.life == life {
			w.strike(n)
		}
	})
}

const clockSpacing = 3 * time.Second

// disturbClock changes the rate of a clock, or steps one forward, every now and then.
func (w *world) disturbClock() {
	if w.calm {
		return
	}
	n := w.target()
	if w.chance(0.5) {
		n.drawRate()
		w.rep.reach("clock: new rate")
	} else if n.clock.step(w.now, w.between(0, maxStep)) {
		w.rep.reach("clock: step")
	}
	n.timerAt = 0 // timers are set by what clocks show
	n.inLife(n.life, n.run)
	w.after(w.between(0, clockSpacing), w.disturbClock)
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
		if n.life == life && n.up {
			n.lose()
			w.after(w.between(10*time.Millisecond, 400*time.Millisecond), n.start)
		}
	})
}

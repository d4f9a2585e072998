// The end of a run: the faults stop, first in a majority only, then everywhere, and progress must follow in bounded time.

package sim

import (
	"slices"
	"time"

	"github.com/balsamq/balsa/raft"
)

// settle ends the schedule and requires progress.
func (w *world) settle() {
	w.calm = true
	w.strikes, w.cutAtVote = 0, 0
	w.net.heal()
	w.net.lossy(0, 0)
	for g := range w.opts.Groups {
		w.setPriorities(g, false)
	}
	left := w.chooseFaulty()
	w.tracef("heal all but %v", ids(left))
	for _, n := range w.nodes {
		if !slices.Contains(left, n) {
			n.heal()
		}
	}
	if len(left) > 0 {
		for _, n := range left {
			w.leaveFaulty(n)
		}
		w.requireProgress(left)
		if w.err != nil {
			return
		}
		w.tracef("heal everything")
		w.net.heal()
		for _, n := range left {
			n.heal()
		}
	}
	w.requireAgreement()
}

func ids(ns []*node) (out []raft.NodeID) {
	for _, n := range ns {
		out = append(out, n.id)
	}
	return out
}

func (n *node) heal() {
	n.syncSlow, n.pauseIn = 0, 0
	n.disks.failIn, n.disks.cutIn = 0, -1
	n.makeRoom()
	n.held = false
	n.start()
}

// chooseFaulty draws the nodes that stay broken: at most one, and one that is a minority of the voters of every group. In a group
// whose weak node cannot vote nobody else may be missing.
func (w *world) chooseFaulty() []*node {
	if w.chance(0.3) {
		return nil
	}
	n := w.anyNode()
	if w.shape.weak != nil {
		n = w.shape.weak
	}
	for g := range w.opts.Groups {
		if w.resetting(g) || !w.canSpare(n, g) {
			return nil
		}
	}
	return []*node{n}
}

// canSpare reports that the others are a majority without n, by every membership of the group that is seen.
func (w *world) canSpare(n *node, g int) bool {
	ok := true
	w.eachConf(g, func(c *raft.ConfState) {
		for _, half := range [2][]raft.Member{c.Voters, c.Outgoing} {
			if slices.ContainsFunc(half, func(m raft.Member) bool { return m.ID == n.id }) && len(half) < 3 {
				ok = false
			}
		}
	})
	return ok
}

// leaveFaulty breaks a node for good, or in turns.
func (w *world) leaveFaulty(n *node) {
	others := func(fn func(*node)) {
		for _, o := range w.nodes {
			if o != n {
				fn(o)
			}
		}
	}
	epoch := w.net.epoch
	kind := []string{"dead", "isolated", "deaf", "mute", "slow", "flapping", "restarting", "slow disk"}[w.rng.IntN(8)]
	w.rep.reach("progress beside a node that is " + kind)
	if kind != "dead" {
		n.start()
	}
	switch kind {
	case "dead":
		n.kill()
	case "isolated":
		others(func(o *node) { w.cutLink(n, o, true); w.cutLink(o, n, true) })
	case "deaf":
		others(func(o *node) { w.cutLink(o, n, true) })
	case "mute":
		others(func(o *node) { w.cutLink(n, o, true) })
	case "slow":
		w.net.slowFrom[n.id-1] = w.between(200*time.Millisecond, 2*time.Second)
	case "flapping":
		cut := false
		var flip func()
		flip = func() {
			if w.net.epoch != epoch {
				return
			}
			cut = !cut
			others(func(o *node) { w.cutLink(n, o, cut) })
			w.after(w.between(100*time.Millisecond, 2*time.Second), flip)
		}
		flip()
	case "restarting":
		var restart func()
		restart = func() {
			if w.net.epoch != epoch {
				return
			}
			n.kill()
			n.startLater(0, 500*time.Millisecond)
			w.after(w.between(time.Second, 3*time.Second), restart)
		}
		restart()
	case "slow disk":
		n.syncSlow = w.between(time.Second, 5*time.Second)
	}
}

// requireProgress: a new write is acknowledged in every group, beside the nodes that stay broken.
func (w *world) requireProgress(left []*node) {
	before := make([]int, w.opts.Groups)
	for g := range before {
		before[g] = len(w.check.acks[g])
	}
	done := func() bool {
		for g := range before {
			if len(w.check.acks[g]) == before[g] {
				return false
			}
		}
		return true
	}
	began := w.now
	w.every(100*time.Millisecond, done, func() {
		for g := range before {
			if len(w.check.acks[g]) == before[g] {
				w.write(g, w.newOp(), 0)
			}
		}
	})
	w.runUntil(w.now+raft.Time(progressLimit), done)
	// A replica that was down when the broken node was chosen may have had a membership in its log in which that one is
	// needed after all: two voters, and it is one of them.
	spared := func() bool {
		for g := range before {
			needed := slices.ContainsFunc(left, func(n *node) bool { return !w.canSpare(n, g) })
			if len(w.check.acks[g]) == before[g] && !needed {
				return false
			}
		}
		return true
	}
	if w.err == nil && !done() && spared() {
		w.rep.reach("no progress: the broken node was needed after all")
		return
	}
	if w.err == nil && !done() {
		w.fail(&LivenessError{"no new acknowledgement in a group within " + progressLimit.String(), w.check.describe()})
	}
	w.rep.noteProgress(time.Duration(w.now - began))
}

// requireAgreement: with all healed, all members apply the same.
func (w *world) requireAgreement() {
	agreed := false
	w.every(50*time.Millisecond, func() bool { return agreed }, func() {
		agreed = w.check.agreed()
	})
	w.every(time.Second, func() bool { return agreed }, w.mend)
	w.runUntil(w.now+raft.Time(settleLimit), func() bool { return agreed })
	if w.err == nil && !agreed {
		w.fail(&LivenessError{"no agreement within " + settleLimit.String(), w.check.describe()})
	}
	if w.err == nil {
		w.check.final()
	}
}

// every calls fn now and again until stop says so.
func (w *world) every(d time.Duration, stop func() bool, fn func()) {
	if stop() {
		return
	}
	fn()
	w.after(d, func() { w.every(d, stop, fn) })
}

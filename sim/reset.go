// Losing a majority for good, and going on without it: what an operator does with reset-peers, in the way in which brokers carry
// it out (docs/design/0014-reset-peers.md).
//
// The promise is weakened as the design says: what the lost majority alone had acknowledged is lost, what the chosen survivor had and
// nobody knew to be committed is committed. The checker is told, see checker.reset. Everything else goes on to hold.

package sim

import (
	"slices"
	"time"

	"github.com/balsamq/balsa/raft"
)

// mayReset: nothing else is wrong with the group's disks, and nobody is in the middle of a change.
func (w *world) mayReset(g int) bool {
	if w.shape.weak != nil && !w.shape.weak.sound(g) || w.resetting(g) {
		return false
	}
	ok := true
	w.eachConf(g, func(c *raft.ConfState) {
		if c.Joint() {
			ok = false
		}
	})
	return ok
}

// resetting: a majority is taken for lost, and what is left of the group is all that it has.
func (w *world) resetting(g int) bool {
	return w.losing[g] || w.resets[g] != nil && !w.resets[g].done
}

// reset is the cluster's record of the latest one of a group.
type reset struct {
	raft.Reset
	done bool // something was committed in its epoch
}

// faultLoseMajority takes a majority of a group's voters away for good, as everybody believes, and resets the group to the
// others. Later the lost ones come back after all.
func (w *world) faultLoseMajority() {
	g := w.rng.IntN(w.opts.Groups)
	leader := w.check.leader(g)
	if leader == nil || !w.mayReset(g) {
		return
	}
	voters := leader.replicas[g].group.Status().Conf.Voters
	if len(voters) < 3 {
		return
	}
	var lost []*node
	for _, i := range w.rng.Perm(len(voters))[:len(voters)/2+1] {
		n := w.nodes[voters[i].ID-1]
		if n.inc != voters[i].Incarnation || n.held {
			return
		}
		lost = append(lost, n)
	}
	w.losing[g] = true
	w.burst(w.rng.IntN(10))
	w.after(w.between(0, 10*time.Millisecond), func() {
		for _, n := range lost {
			n.kill()
			n.held = true
		}
	})
	w.after(w.between(2500*time.Millisecond, 4*time.Second), func() { w.planReset(g, lost, 10) })
	w.after(w.between(6*time.Second, 12*time.Second), func() {
		for _, n := range lost {
			n.held = false
			n.start()
		}
	})
}

// planReset chooses who goes on: the survivors that are there, led by the one with the longest log.
func (w *world) planReset(g int, lost []*node, left int) {
	for _, n := range lost {
		if !n.held || w.calm {
			w.losing[g] = false
			return // they are back before anything was done
		}
	}
	r := reset{}
	var best raft.Status
	var bestTerm raft.Term
	for _, n := range w.nodes {
		p := n.replica(g)
		if p == nil {
			continue
		}
		s := p.group.Status().Status
		r.Epoch, r.Term = max(r.Epoch, s.Epoch), max(r.Term, s.Term)
		if s.Role == raft.Leader || !slices.Contains(s.Conf.Voters, raft.Member{ID: n.id, Incarnation: n.inc}) {
			continue
		}
		term, err := p.log.Term(s.Last)
		if err != nil {
			continue
		}
		if len(r.Survivors) == 0 || term > bestTerm || term == bestTerm && s.Last > best.Last {
			best, bestTerm, r.Leader = s, term, n.id
		}
		r.Survivors = append(r.Survivors, raft.Member{ID: n.id, Incarnation: n.inc})
	}
	if len(r.Survivors) == 0 {
		if w.losing[g] = left > 0; left > 0 {
			w.after(500*time.Millisecond, func() { w.planReset(g, lost, left-1) })
		}
		return
	}
	if before := w.resets[g]; before != nil {
		r.Epoch = max(r.Epoch, before.Epoch)
	}
	r.Epoch++
	r.Term++
	w.resets[g], w.losing[g] = &r, false
	w.rep.reach("group reset to its survivors")
	w.tracef("group %d reset: %+v", g, r.Reset)
	for _, n := range w.nodes {
		n.follow(g, n.life)
	}
}

// follow takes an open replica into its group's epoch, as often as it takes.
func (n *node) follow(g, life int) {
	r := n.w.resets[g]
	p := n.replica(g)
	if r == nil || p == nil || n.life != life {
		return // opening it follows
	}
	again := func() { n.w.after(200*time.Millisecond, func() { n.inLife(life, func() { n.follow(g, life) }) }) }
	switch s := p.group.Status(); {
	case s.Epoch == r.Epoch && s.Conf.Epoch == r.Epoch:
	case !slices.Contains(r.Survivors, raft.Member{ID: n.id, Incarnation: n.inc}):
		if s.Epoch == r.Epoch {
			return // an empty one, which waits for its leader
		}
		if n.flushing[groupID(g)] || n.hardFlushing || n.turn != nil {
			again()
			return
		}
		n.w.rep.reach("replica of an earlier epoch set aside")
		n.reopen(g, p) // which sets it aside
	default:
		n.step(func() {
			p.group.Reset(r.Reset, func(err error) {
				if err != nil {
					n.w.tracef("n%d group %d reset refused: %v", n.id, g, err)
				}
			})
		})
		again()
	}
}

// outlived: what this node has of the group belongs to an earlier epoch, which goes on without it.
func (n *node) outlived(g int) bool {
	r := n.w.resets[g]
	if r == nil {
		return false
	}
	hs, _ := n.hard.Load(groupID(g))
	return hs.Epoch < r.Epoch && !slices.Contains(r.Survivors, raft.Member{ID: n.id, Incarnation: n.inc})
}

// setAside makes room for a replica of the new epoch.
func (n *node) setAside(g int) error {
	var failed error
	n.hard.Delete(groupID(g), func(err error) { failed = err })
	n.hard.Flush()
	if failed != nil {
		return failed
	}
	if err := n.fs.RemoveAll(groupDir(g)); err != nil {
		return err
	}
	if err := n.fs.MkdirAll("groups"); err != nil {
		return err
	}
	return n.fs.SyncDir("groups")
}

// reset is told that a group goes on, in a new epoch, with what r has below its new membership at conf. From there on a term may
// be one that the lost majority knew as well, with other entries in it: replicas of the two epochs never meet. Until the epoch has
// committed something it may begin anew with less, as a power cut takes from the one to lead what it had not synced.
func (c *checker) reset(r *replica, epoch raft.GroupEpoch, conf raft.Index) {
	g := r.g
	h := c.history[g]
	cut := min(raft.Index(len(h)), conf)
	for i := r.log.FirstIndex(); i < cut; i++ {
		if t, err := r.log.Term(i); h[i].seen && (err != nil || t != h[i].term) {
			cut = i
		}
	}
	c.w.tracef("group %d goes on in epoch %d from %d on", g, epoch, cut)
	if int(cut) < len(h) {
		c.w.rep.reach("committed entries lost with their majority")
		for _, e := range h[cut:] {
			c.forgotten[g] = max(c.forgotten[g], e.from)
		}
	}
	c.history[g] = h[:min(int(cut), len(h))]
	c.top[g] = min(c.top[g], max(cut, 1)-1)
	c.floor[g] = min(c.floor[g], c.top[g])
	c.acks[g] = slices.DeleteFunc(c.acks[g], func(a ack) bool { return a.index >= cut })
	c.conf[g], c.confAt[g] = nil, 0
	c.epoch[g], c.opened[g], c.led[g] = epoch, false, 0
	c.w.history[g].broken = true
}

// openedEpoch: what the group goes on with is committed in its epoch.
func (c *checker) openedEpoch(g int) {
	c.opened[g] = true
	if s := c.w.resets[g]; s != nil && s.Epoch == c.epoch[g] {
		s.done = true
	}
}

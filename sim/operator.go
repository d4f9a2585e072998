// The operator: leadership transfers and membership changes at random, brokers replaced by empty ones.

package sim

import (
	"slices"
	"time"

	"github.com/balsamq/balsa/internal/vfs"
	"github.com/balsamq/balsa/raft"
	"github.com/balsamq/balsa/raft/multi"
)

const operatorSpacing = 6 * time.Second

// operate does something every now and then, in busy phases more often.
func (w *world) operate() {
	if w.calm {
		return
	}
	g := w.rng.IntN(w.opts.Groups)
	if n := w.pick(g); n != nil {
		switch k := w.rng.IntN(10); {
		case k < 3:
			w.transfer(n, g)
		case k == 3:
			w.setPriorities(g, true)
		case k < 6 && w.opts.Nodes > 3:
			w.replaceNode()
		default:
			w.changeConf(n, g)
		}
	}
	next := w.between(0, operatorSpacing)
	if w.chance(0.4) {
		next = w.between(0, 100*time.Millisecond) // one upon another
	}
	w.after(next, w.operate)
}

func (w *world) transfer(n *node, g int) {
	r := n.replica(g)
	to := w.anyNode()
	n.inLife(n.life, func() {
		if n.replica(g) != r || r == nil {
			return
		}
		n.step(func() {
			r.group.Transfer(to.id, func(err error) {
				if err == nil {
					w.rep.reach("leadership transfer begun")
					w.deafen(n)
				}
			})
		})
	})
}

// setPriorities says anew who shall lead a group, not to all replicas at once.
func (w *world) setPriorities(g int, any bool) {
	var ps []raft.NodePriority
	for _, n := range w.nodes {
		if any && w.chance(0.5) {
			ps = append(ps, raft.NodePriority{ID: n.id, Priority: []raft.Priority{raft.NeverLeads, raft.LastResort, 50, 200}[w.rng.IntN(4)]})
		}
	}
	w.prefer[g] = ps
	w.rep.reach("priorities set")
	for _, n := range w.nodes {
		w.after(w.between(0, 50*time.Millisecond), func() {
			n.inLife(n.life, func() {
				if r := n.replica(g); r != nil {
					n.step(func() { r.group.SetPriorities(slices.Clone(w.prefer[g])) })
				}
			})
		})
	}
}

// deafen sometimes lets a leader that hands over hear nothing more: it must not go on reading by its lease.
func (w *world) deafen(n *node) {
	if !w.chance(0.3) || w.calm {
		return
	}
	w.after(w.between(0, 6*time.Millisecond), func() {
		w.untilHealed(w.between(300*time.Millisecond, 2*time.Second), func(cut bool) {
			for _, o := range w.nodes {
				if o != n {
					w.cutLink(o, n, cut)
				}
			}
		})
	})
}

// changeConf proposes one change of membership, sensible or not, but one that leaves enough voters.
func (w *world) changeConf(n *node, g int) {
	r := n.replica(g)
	if r == nil {
		return
	}
	conf := r.group.Status().Conf
	if conf.Joint() {
		if w.chance(0.3) {
			w.propose(n, g, raft.ConfChange{Revert: true})
		}
		return
	}
	if change, ok := w.drawChange(&conf); ok {
		w.propose(n, g, change)
	}
}

func (w *world) propose(n *node, g int, change raft.ConfChange) {
	n.inLife(n.life, func() {
		r := n.replica(g)
		if r == nil {
			return
		}
		if w.outlived(&change) {
			w.rep.reach("membership: order that came after its replica's disk was replaced")
			return
		}
		w.tracef("n%d group %d change %+v", n.id, g, change)
		w.reconsider(n, g)
		n.step(func() {
			r.group.ProposeConf(change, func(o multi.Outcome) {
				if n.dead() || o.Err != nil {
					return
				}
				if change.Revert {
					w.rep.reach("membership: taken back by order")
				}
				for _, s := range change.Steps {
					w.rep.reach("membership: " + s.Op.String())
				}
			})
		})
	})
}

// outlived: the change brings in a replica that is gone by now, as the node that was to carry it out stood still meanwhile. Whoever
// gives an order looks who is there when it is carried out: a voter that does not exist may be all that a majority lacks.
func (w *world) outlived(change *raft.ConfChange) bool {
	return slices.ContainsFunc(change.Steps, func(s raft.ConfStep) bool {
		return s.Op != raft.Remove && w.nodes[s.Member.ID-1].inc != s.Member.Incarnation
	})
}

// reconsider takes a change back while it is still joint, sometimes.
func (w *world) reconsider(n *node, g int) {
	if w.chance(0.1) && !w.calm {
		w.after(w.between(0, 8*time.Millisecond), func() { w.changeConf(n, g) })
	}
}

// drawChange draws a change that this membership allows and that leaves the weak node a minority.
func (w *world) drawChange(conf *raft.ConfState) (raft.ConfChange, bool) {
	var outside, voters, learners []raft.Member
	for _, n := range w.nodes {
		m := raft.Member{ID: n.id, Incarnation: n.inc}
		if !slices.ContainsFunc(slices.Concat(conf.Voters, conf.Learners, conf.Outgoing), func(o raft.Member) bool { return o.ID == m.ID }) {
			outside = append(outside, m)
		}
	}
	voters, learners = slices.Clone(conf.Voters), slices.Clone(conf.Learners)
	draw := func(ms []raft.Member) raft.Member { return ms[w.rng.IntN(len(ms))] }
	change := raft.ConfChange{Joint: w.chance(0.3)}
	size := len(voters)
	add := func(op raft.ConfOp, m raft.Member) {
		change.Steps = append(change.Steps, raft.ConfStep{Op: op, Member: m})
	}
	for range 1 + w.rng.IntN(2) {
		switch k := w.rng.IntN(5); {
		case k == 0 && len(outside) > 0:
			add(raft.AddLearner, draw(outside))
		case k == 1 && len(outside) > 0:
			add(raft.AddVoter, draw(outside))
			size++
		case k == 2 && len(learners) > 0:
			add(raft.Promote, draw(learners))
			size++
		case k == 3 && len(learners) > 0:
			add(raft.Remove, draw(learners))
		case len(voters) > 0:
			m := draw(voters)
			add(raft.Remove, m)
			if w.nodes[m.ID-1].inc == m.Incarnation { // else it is no loss
				size--
			}
		}
	}
	if _, err := change.Apply(conf); err != nil || size < w.shape.minVoters || size < 1 {
		return change, false
	}
	return change, true
}

// expel takes a node, in any incarnation, out of a group that it is a member of, and another in if the group would become too
// small; true if it is no member.
func (w *world) expel(id raft.NodeID, g int) bool {
	leader := w.check.leader(g)
	if leader == nil {
		return false
	}
	conf := leader.replicas[g].group.Status().Conf
	is := func(m raft.Member) bool { return m.ID == id }
	if !slices.ContainsFunc(slices.Concat(conf.Voters, conf.Outgoing, conf.Learners), is) {
		return true
	}
	change := raft.ConfChange{Steps: []raft.ConfStep{{Op: raft.Remove, Member: raft.Member{ID: id}}}}
	if slices.ContainsFunc(conf.Voters, is) && len(conf.Voters) <= w.shape.minVoters {
		for _, n := range w.nodes {
			if n.up && !slices.ContainsFunc(slices.Concat(conf.Voters, conf.Learners), func(m raft.Member) bool { return m.ID == n.id }) {
				change.Steps = append(change.Steps, raft.ConfStep{Op: raft.AddVoter, Member: raft.Member{ID: n.id, Incarnation: n.inc}})
				break
			}
		}
		if len(change.Steps) == 1 {
			return false
		}
	}
	if !conf.Joint() {
		w.propose(leader, g, change)
	}
	return false
}

// replaceNode takes a node out of every group and, once nobody counts on it any more, gives it an empty disk.
func (w *world) replaceNode() {
	n := w.anyNode()
	w.rep.reach("node is being replaced")
	var try func(left int)
	try = func(left int) {
		out := true
		for g := range w.opts.Groups {
			if !w.expel(n.id, g) {
				out = false
			}
		}
		if out && w.nobodyCountsOn(n) {
			w.rep.reach("node replaced in order")
			n.wipe()
		} else if left > 0 && !w.calm {
			w.after(w.between(200*time.Millisecond, 2*time.Second), func() { try(left - 1) })
		}
	}
	try(12)
}

// nobodyCountsOn: every node is up, and none holds a membership with n in it.
func (w *world) nobodyCountsOn(n *node) bool {
	ok := true
	for g := range w.opts.Groups {
		for _, o := range w.nodes {
			if o.replica(g) == nil {
				return false
			}
		}
		w.eachConf(g, func(c *raft.ConfState) {
			if slices.ContainsFunc(slices.Concat(c.Voters, c.Outgoing, c.Learners), func(m raft.Member) bool { return m.ID == n.id }) {
				ok = false
			}
		})
	}
	return ok
}

// faultWipe gives the weak node an empty disk while groups count on it.
func (w *world) faultWipe() {
	n := w.shape.weak
	if n == nil {
		return
	}
	for g := range w.opts.Groups {
		if !w.mayDamage(g) {
			return
		}
	}
	for g := range n.disks.rotten {
		n.disks.rotten[g], n.disks.found[g], n.disks.late[g] = true, false, false
	}
	w.rep.reach("disk lost")
	n.wipe()
}

// wipe replaces the disk. What comes back under the old name is another replica.
func (n *node) wipe() {
	n.kill()
	n.w.tracef("n%d has an empty disk", n.id)
	n.disk = vfs.NewMem(n.rng.Uint64())
	n.inc += 1000
	n.boot = 0
	for g := range n.disks.rotten {
		n.w.check.nodes[n.id-1][g] = watched{}
	}
	n.reboot()
	n.startLater(100*time.Millisecond, 3*time.Second)
}

// mend is what operators do when the faults are over: they take dead incarnations out of the groups. And what clients do: a replica
// that found something behind its damage waits for the log to reach that far, even if it never was committed.
func (w *world) mend() {
	for g := range w.opts.Groups {
		leader := w.check.leader(g)
		if leader == nil {
			continue
		}
		s := leader.replicas[g].group.Status()
		conf := s.Conf
		for _, m := range slices.Concat(conf.Voters, conf.Learners) {
			if r := w.nodes[m.ID-1].replica(g); r != nil && r.group.Status().VoteAfter > s.Last {
				w.rep.reach("damaged replica waits for more than the log has")
				w.writeTo(leader, g, w.newOp(), 0)
			}
			if w.nodes[m.ID-1].inc != m.Incarnation && !conf.Joint() {
				w.rep.reach("dead incarnation taken out")
				w.propose(leader, g, raft.ConfChange{Steps: []raft.ConfStep{{Op: raft.Remove, Member: m}}})
				break
			}
		}
	}
}

// What goes wrong in a random run. Survived must be: any loss, delay, repetition and reordering of messages; the crash of any
// number of replicas, each losing what it had not synced; clocks that drift within the bound; disks and processes that stand
// still; and, of one replica at a time, the damage or loss of what it *had* synced.

package raft

import "time"

// fault begins something, and plans when it ends and what is next. Faults overlap.
func (w *world) fault() {
	if w.quiet {
		return
	}
	w.after(w.between(20*time.Millisecond, 700*time.Millisecond), w.fault)
	n := w.target()
	long := w.between(50*time.Millisecond, 3*time.Second)
	switch k := w.c.rng.IntN(100); {
	case k < 10:
		w.crash(n)
		w.restartAfter(n)
	case k < 14:
		w.forget()
	case k < 16:
		for _, n := range w.c.nodes {
			w.crash(n)
			w.restartAfter(n)
		}
	case k < 32:
		w.isolate(n, w.c.rng.IntN(3), long)
	case k < 38:
		w.cutFor(n, w.pick(), long)
	case k < 42:
		w.bridge(n, long)
	case k < 50:
		w.slowLinks(n, long)
	case k < 56:
		d := w.between(20*time.Millisecond, 1500*time.Millisecond)
		w.tracef("slow disk of %d: %v", n.id, d)
		w.slowDisk[n.id] = d
		w.after(long, func() { delete(w.slowDisk, n.id) })
	case k < 59:
		w.loss = 100 + w.c.rng.IntN(300)
		w.after(long, func() { w.loss = 5 })
	case k < 60:
		w.lull = w.c.now + Time(w.between(time.Second, 6*time.Second))
	case k < 63:
		w.tracef("stall of %d for %v", n.id, long)
		w.did[stalls]++
		w.asleep[n.id] = w.c.now + Time(long)
	case k < 75:
		w.transfer()
	case k < 88:
		w.reconfigure(w.pick())
	case k < 94:
		w.compact(w.pick())
	case k < 97:
		w.damage(w.pick())
	case k < 98:
		w.wipe(w.pick())
	default:
		if n.down || w.stalled(n) {
			return
		}
		switch w.c.rng.IntN(4) {
		case 0:
			n.r.Campaign(n.now())
		case 1:
			w.prioritise(n, NeverLeads)
		case 2:
			n.r.SetImpaired(n.now(), w.chance(50))
		case 3:
			n.r.Resign(n.now())
		}
		w.settle(n)
	}
}

// prioritise tells one replica priorities that the others need not share.
func (w *world) prioritise(n *memNode, least Priority) {
	var ps []NodePriority
	for _, o := range w.c.nodes {
		if !w.chance(25) {
			ps = append(ps, NodePriority{o.id, max(least, Priority(w.c.rng.IntN(4)))})
		}
	}
	n.r.SetPriorities(n.now(), ps)
}

// target is the leader half of the time: that is where faults tell.
func (w *world) target() *memNode {
	if l := w.c.leader(); l != nil && w.chance(50) {
		return l
	}
	return w.pick()
}

// watch strikes where it hurts: at the moment of an election, a commit, a vote.
func (w *world) watch(n *memNode) {
	role, commit := w.roles[n.id], w.commits[n.id]
	w.roles[n.id], w.commits[n.id] = n.r.role, n.r.commit
	if w.quiet {
		return
	}
	soon := func(do func()) { w.after(w.between(0, 12*time.Millisecond), do) }
	switch {
	case role != Leader && n.r.role == Leader && w.chance(15):
		if w.chance(60) {
			soon(func() { w.crash(n); w.restartAfter(n) })
		} else {
			soon(func() { w.isolate(n, w.c.rng.IntN(3), w.between(time.Second, 4*time.Second)) })
		}
	case n.r.role == Leader && n.r.commit > commit && n.r.commit == n.r.termStart && w.chance(10):
		soon(func() { w.isolate(n, w.c.rng.IntN(3), w.between(time.Second, 4*time.Second)) })
	case role != Candidate && n.r.role == Candidate && w.chance(40):
		// What it may do now was decided a while ago when its vote is on its disk at last; and it is not alone.
		w.slowDisk[n.id] = w.between(100*time.Millisecond, 900*time.Millisecond)
		w.after(w.between(100*time.Millisecond, 1200*time.Millisecond), func() { delete(w.slowDisk, n.id) })
		for _, o := range w.c.nodes {
			if o != n && w.chance(60) {
				soon(func() {
					if !o.down && !w.stalled(o) {
						o.r.Campaign(o.now())
						w.settle(o)
					}
				})
			}
		}
	case role == Leader && n.r.role == Leader && n.r.commit > commit && w.c.rng.IntN(1000) < 5:
		soon(func() { w.crash(n); w.restartAfter(n) })
	}
}

// crash loses what was not synced, except for some of what was on its way.
func (w *world) crash(n *memNode) {
	if !n.down && !w.quiet {
		w.kill(n)
	}
}

func (w *world) kill(n *memNode) {
	w.tracef("crash of %d", n.id)
	w.did[crashes]++
	n.voteAfter = n.r.voteAfter
	before := n.log.LastIndex()
	n.crash(w.c.rng.IntN)
	if n.log.LastIndex() < before {
		w.did[lostTails]++
	}
}

func (w *world) restartAfter(n *memNode) {
	d := w.between(time.Millisecond, 100*time.Millisecond)
	if w.chance(50) {
		d = w.between(100*time.Millisecond, 4*time.Second)
	}
	w.after(d, func() { w.start(n) })
}

func (w *world) start(n *memNode) {
	if !n.down {
		return
	}
	w.tracef("start of %d", n.id)
	delete(w.asleep, n.id)
	delete(w.ticking, n.id)
	w.roles[n.id], w.commits[n.id], w.ends[n.id] = Follower, 0, n.log.LastIndex()
	n.start(false)
	w.settle(n)
}

func (w *world) cutFor(from, to *memNode, d time.Duration) {
	if from == to {
		return
	}
	w.tracef("cut %d->%d for %v", from.id, to.id, d)
	w.c.cut[[2]NodeID{from.id, to.id}] = true
	w.after(d, func() { delete(w.c.cut, [2]NodeID{from.id, to.id}) })
}

// isolate cuts what a node sends, what it hears, or both; from all, or now and then from all but one.
func (w *world) isolate(n *memNode, how int, d time.Duration) {
	spare := w.pick()
	if w.chance(60) {
		spare = n
	}
	for _, o := range w.c.nodes {
		if o == n || o == spare {
			continue
		}
		if how != 1 {
			w.cutFor(n, o, d)
		}
		if how != 2 {
			w.cutFor(o, n, d)
		}
	}
}

// bridge leaves one node that both halves reach, which cannot reach each other.
func (w *world) bridge(b *memNode, d time.Duration) {
	side := 0
	sides := map[NodeID]int{}
	for _, n := range w.c.nodes {
		if n != b {
			sides[n.id] = side % 2
			side++
		}
	}
	for _, x := range w.c.nodes {
		for _, y := range w.c.nodes {
			if x != b && y != b && sides[x.id] != sides[y.id] {
				w.cutFor(x, y, d)
			}
		}
	}
}

func (w *world) slowLinks(n *memNode, d time.Duration) {
	late := w.between(30*time.Millisecond, 2500*time.Millisecond)
	how := w.c.rng.IntN(3)
	w.tracef("slow links of %d: %v", n.id, late)
	for _, o := range w.c.nodes {
		if o == n || w.chance(30) {
			continue
		}
		for _, l := range [2][2]NodeID{{n.id, o.id}, {o.id, n.id}} {
			if how == 0 && l[0] != n.id || how == 1 && l[0] == n.id {
				continue
			}
			w.slowLink[l] = late
			w.after(d, func() { delete(w.slowLink, l) })
		}
	}
}

func (w *world) heal() {
	clear(w.c.cut)
	clear(w.slowLink)
	clear(w.slowDisk)
	clear(w.asleep)
	w.loss = 0
}

// transfer, now and then over a link that fails just then: the order, or the election that it leads to, comes late.
func (w *world) transfer() {
	l, to := w.c.leader(), w.pick()
	if l == nil || w.stalled(l) || l.r.Transfer(l.now(), to.id) != nil {
		return
	}
	w.tracef("transfer from %d to %d", l.id, to.id)
	w.did[transfers]++
	w.settle(l)
	switch w.c.rng.IntN(4) {
	case 0:
		w.slowLink[[2]NodeID{l.id, to.id}] = w.between(500*time.Millisecond, 3*time.Second)
		w.after(w.between(time.Millisecond, 300*time.Millisecond), func() { delete(w.slowLink, [2]NodeID{l.id, to.id}) })
	case 1:
		w.cutFor(to, l, w.between(time.Second, 3*time.Second))
		for _, o := range w.c.nodes { // what the others have promised meanwhile reaches it late
			if o != to && o != l && w.chance(50) {
				link := [2]NodeID{o.id, l.id}
				w.slowLink[link] = w.between(20*time.Millisecond, 900*time.Millisecond)
				w.after(w.between(time.Second, 2*time.Second), func() { delete(w.slowLink, link) })
			}
		}
	}
}

// forget lets one node lose sight of the leader until it campaigns again and again; then all others restart at once and do
// not hear the leader any more, which still has their promise of a moment ago.
func (w *world) forget() {
	l, c := w.c.leader(), w.pick()
	if l == nil || l == c || c.down {
		return
	}
	w.lull = w.c.now + Time(5*time.Second)
	w.cutFor(l, c, 4*time.Second)
	w.after(w.between(1100*time.Millisecond, 2500*time.Millisecond), func() {
		if l.down || l.r.role != Leader {
			return
		}
		for _, n := range w.c.nodes {
			if n == l || n == c || n.down {
				continue
			}
			w.cutFor(l, n, 1200*time.Millisecond)
			w.crash(n)
			w.after(w.between(time.Millisecond, 20*time.Millisecond), func() { w.start(n) })
		}
	})
}

// reconfigure asks the leader for a change about n, and maybe another node; or whoever leads to take a joint membership back, also
// one that does not know that it is deposed: that is what the proof in ProposeConf is about.
func (w *world) reconfigure(n *memNode) {
	for _, o := range w.c.nodes {
		if !o.down && !w.stalled(o) && o.r.role == Leader && o.r.conf().Joint() && w.chance(30) {
			if _, err := o.r.ProposeConf(o.now(), ConfChange{Revert: true}); err == nil {
				w.tracef("membership taken back at %d", o.id)
				w.did[confReverts]++
				w.settle(o)
			}
			return
		}
	}
	l := w.c.leader()
	if l == nil || w.stalled(l) {
		return
	}
	cur := l.r.conf()
	var ch ConfChange
	step := func(n *memNode) {
		m := Member{n.id, n.inc}
		v := findMember(cur.Voters, m.ID)
		switch {
		case v >= 0 && cur.Voters[v] != m: // its disk was lost: out with the old incarnation
			ch.Steps = append(ch.Steps, ConfStep{Remove, cur.Voters[v]})
		case findMember(cur.Learners, m.ID) >= 0:
			ch.Steps = append(ch.Steps, ConfStep{Promote, cur.Learners[findMember(cur.Learners, m.ID)]})
		case v < 0 && w.chance(50):
			ch.Steps = append(ch.Steps, ConfStep{AddLearner, m})
		case v < 0:
			ch.Steps = append(ch.Steps, ConfStep{AddVoter, m})
		case len(cur.Voters) > 2 && !w.hurt():
			ch.Steps = append(ch.Steps, ConfStep{Remove, m})
		}
	}
	step(n)
	if o := w.pick(); o != n && w.chance(50) {
		step(o)
	}
	ch.Joint = w.chance(25)
	if _, err := l.r.ProposeConf(l.now(), ch); err == nil {
		w.tracef("membership change at %d: %+v", l.id, ch)
		w.did[confChanges]++
		if l.r.conf().Joint() {
			w.did[jointConfs]++
		}
		w.settle(l)
	}
}

func (w *world) compact(n *memNode) {
	if n.down || n.upTo <= n.snap.Meta.Index {
		return
	}
	w.did[snapshots]++
	n.snapshotAndCompact(Index(w.c.rng.IntN(8)))
}

// hurt: somebody has lost what it had synced, and has not got it back or been replaced.
func (w *world) hurt() bool {
	for _, n := range w.c.nodes {
		if n.down && n.voteAfter != 0 || !n.down && n.r.voteAfter != 0 {
			return true
		}
	}
	conf := w.lastConf()
	for _, ms := range [3][]Member{conf.Voters, conf.Outgoing, conf.Learners} {
		for _, m := range ms {
			if n := w.c.node(m.ID); n.inc != m.Incarnation {
				return true
			}
		}
	}
	return false
}

// lastConf is the newest membership in any log. It may come to be, so that it counts for what may be lost.
func (w *world) lastConf() *ConfState {
	conf, at := &w.first, Ticket{}
	for _, n := range w.c.nodes {
		var c *ConfState
		var t Ticket
		if e, ok, _ := n.log.LastConfig(n.log.LastIndex()); ok {
			d, err := decodeEntryConf(&e)
			if err != nil {
				panic(err)
			}
			c, t = &d, Ticket{e.Term, e.Index}
		} else if n.snap.Meta.Index > 0 {
			c, t = &n.snap.Meta.Conf, Ticket{n.snap.Meta.Term, n.snap.Meta.Index}
		} else {
			continue
		}
		if t.Index > at.Index {
			conf, at = c, t
		}
	}
	return conf
}

// mayLose: one more disk may be hurt without a majority of any membership in sight being gone for good.
func (w *world) mayLose() bool {
	if w.hurt() {
		return false
	}
	conf := w.lastConf()
	if len(conf.Voters) < 3 || conf.Joint() {
		return false
	}
	for _, n := range w.c.nodes { // all know it, and nobody is on the way to another one
		if n.down {
			return false
		}
		if i := findMember(conf.Voters, n.id); i >= 0 && (!n.r.conf().Equal(conf) || n.r.confIndex() > n.r.commit) {
			return false
		}
	}
	return true
}

// damage crashes a replica and takes from the end of its log what had been synced: recovery tells, and it does not vote.
func (w *world) damage(n *memNode) {
	if n.down || !w.mayLose() {
		return
	}
	w.crash(n)
	l := n.log
	if have := len(l.ents); have > 0 && l.LastIndex() > n.snap.Meta.Index {
		keep := max(n.snap.Meta.Index, l.base.Index) + Index(w.c.rng.IntN(int(l.LastIndex()-max(n.snap.Meta.Index, l.base.Index))))
		w.tracef("damage of %d: keeps %d of %d", n.id, keep, l.LastIndex())
		w.did[damages]++
		n.voteAfter = max(n.voteAfter, l.LastIndex())
		n.had = max(n.had, l.LastIndex())
		if keep == max(n.snap.Meta.Index, l.base.Index) {
			// Nothing is left, and nothing tells what there was.
			w.did[lostLogs]++
			n.log, n.snap, n.state, n.upTo, n.voteAfter = &memLog{}, Snapshot{}, 0, 0, UntilTold
			w.restartAfter(n)
			return
		}
		l.ents = l.ents[: keep-l.base.Index : keep-l.base.Index]
		l.durable = l.image()
	}
	w.restartAfter(n)
}

// wipe loses a replica's disk for good; it comes back under its id in a new incarnation.
func (w *world) wipe(n *memNode) {
	if n.down || !w.mayLose() {
		return
	}
	w.crash(n)
	w.lose(n)
	w.restartAfter(n)
}

func (w *world) lose(n *memNode) {
	w.tracef("wipe of %d", n.id)
	w.did[wipes]++
	w.wiped[Member{n.id, n.inc}] = n.log.durable.last()
	n.inc += 1000
	n.log, n.disk, n.snap, n.initial, n.voteAfter = &memLog{}, HardState{}, Snapshot{}, ConfState{}, 0
	n.state, n.upTo = 0, 0
}

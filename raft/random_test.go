// Whole clusters under random faults: loss, delay, repetition, reordering, one-way cuts, crashes that lose what was not
// synced, drifting clocks, membership changes, snapshots, transfers, reads. After every step the promises of the paper
// (figure 3) and those about reads are checked.

package raft

import (
	"flag"
	"fmt"
	"slices"
	"testing"
	"time"
)

var (
	flagSeed  = flag.Uint64("seed", 0, "run only this seed of TestRandomCluster")
	flagSeeds = flag.Int("seeds", 60, "how many seeds TestRandomCluster runs")
)

// world is what an omniscient observer knows of a cluster.
type world struct {
	c         *cluster
	leaders   map[Term]NodeID
	committed []Entry // by index-1; payloads as committed
	hashes    []uint64
	commitOf  map[NodeID]Index // high-water mark in the node's current life
	lifeOf    map[NodeID]uint64
	promised  map[NodeID]HardState
	reads     map[uint64]Index // read ctx → what it must see
	nextRead  uint64
	proposals int
	readsDone int
	leases    int
	snapshots int
	confs     int
	reverts   int
}

func newWorld(c *cluster) *world {
	return &world{c: c, leaders: map[Term]NodeID{}, commitOf: map[NodeID]Index{}, lifeOf: map[NodeID]uint64{},
		reads: map[uint64]Index{}, hashes: []uint64{0}, promised: map[NodeID]HardState{}}
}

func (w *world) maxCommit() Index { return Index(len(w.committed)) }

// check verifies every invariant. Committed entries are learnt from whoever knows them first.
func (w *world) check() error {
	before := w.maxCommit()
	for _, n := range w.c.nodes {
		if n.down {
			continue
		}
		r := n.r
		// Term and vote never go back, and no vote changes within a term, over all lives.
		if p := w.promised[n.id]; n.disk.Term < p.Term || n.disk.Term == p.Term && p.Vote != 0 && n.disk.Vote != p.Vote {
			return fmt.Errorf("HardStateMonotonic: node %d: %v after %v", n.id, n.disk, p)
		}
		w.promised[n.id] = n.disk
		if r.role == Leader {
			if other, ok := w.leaders[r.term]; ok && other != n.id {
				return fmt.Errorf("ElectionSafety: %d and %d lead term %d", other, n.id, r.term)
			}
			_, old := w.leaders[r.term]
			w.leaders[r.term] = n.id
			if !old {
				for i := Index(1); i <= w.maxCommit(); i++ {
					if t, ok := r.termAt(i); i > n.log.base.Index && (!ok || t != w.committed[i-1].Term) {
						return fmt.Errorf("LeaderCompleteness: leader %d of term %d lacks committed (%d,%d)", n.id, r.term, w.committed[i-1].Term, i)
					}
				}
			}
		}
		if w.lifeOf[n.id] == n.boot && r.commit < w.commitOf[n.id] {
			return fmt.Errorf("CommitMonotonic: node %d: %d after %d", n.id, r.commit, w.commitOf[n.id])
		}
		w.lifeOf[n.id], w.commitOf[n.id] = n.boot, r.commit
		if r.commit > r.last || r.matched > r.last || r.stable > r.last || r.applied > r.commit {
			return fmt.Errorf("Bounds: node %d: %+v", n.id, r.Status())
		}
		for i := w.maxCommit() + 1; i <= r.commit; i++ {
			var e Entry
			ok := false
			for _, o := range w.c.nodes { // n may have it in a snapshot only
				if !ok && !o.down && o.r.commit >= i {
					e, ok = o.entry(i)
				}
			}
			if !ok {
				return fmt.Errorf("node %d committed %d, which nobody can read", n.id, i)
			}
			w.committed = append(w.committed, e)
			w.hashes = append(w.hashes, hashEntry(w.hashes[i-1], &e))
		}
		if n.state != w.hashes[n.upTo] {
			return fmt.Errorf("StateMachineSafety: node %d differs at %d", n.id, n.upTo)
		}
		for i := max(n.log.base.Index+1, 1); i <= r.commit; i++ {
			if t, ok := r.termAt(i); !ok || t != w.committed[i-1].Term {
				return fmt.Errorf("LogMatching: node %d has term %d at committed %d, not %d", n.id, t, i, w.committed[i-1].Term)
			}
		}
	}
	for _, n := range w.c.nodes {
		if n.down {
			continue
		}
		// Whoever holds a lease knows of everything that was committed before this moment.
		if n.r.role == Leader && n.r.LeaseUntil() > n.now() {
			w.leases++
			if n.r.commit < before {
				return fmt.Errorf("LeaseSafety: node %d, term %d, until %d at %d: commit %d, but %d is committed", n.id, n.r.term, n.r.LeaseUntil(), n.now(), n.r.commit, before)
			}
		}
		for _, rs := range n.reads {
			if rs.Err == nil && rs.Index < w.reads[rs.Ctx] {
				return fmt.Errorf("ReadSafety: node %d: read sees %d, but %d was committed when it began", n.id, rs.Index, w.reads[rs.Ctx])
			}
			if rs.Err == nil {
				w.readsDone++
			}
		}
		n.reads = nil
	}
	return w.logMatching()
}

// logMatching: if two logs have an entry of the same index and term, they agree up to there (§5.3).
func (w *world) logMatching() error {
	for a, x := range w.c.nodes {
		for _, y := range w.c.nodes[a+1:] {
			agree := false
			for i := min(x.r.last, y.r.last); i > max(x.log.base.Index, y.log.base.Index); i-- {
				if x.down || y.down {
					break
				}
				ex, ok1 := x.entry(i)
				ey, ok2 := y.entry(i)
				if !ok1 || !ok2 {
					break // installing
				}
				if ex.Term == ey.Term {
					if string(ex.Payload) != string(ey.Payload) {
						return fmt.Errorf("LogMatching: %d and %d differ at (%d,%d)", x.id, y.id, ex.Term, i)
					}
					agree = true
				} else if agree {
					return fmt.Errorf("LogMatching: %d and %d agree above %d and differ there", x.id, y.id, i)
				}
			}
		}
	}
	return nil
}

func (n *memNode) entry(i Index) (Entry, bool) {
	if p := n.r.pending; len(p) > 0 && i >= p[0].Index {
		if k := i - p[0].Index; k < Index(len(p)) {
			return p[k], true
		}
		return Entry{}, false
	}
	es, err := n.log.Entries(i, i+1, 1)
	if err != nil {
		return Entry{}, false
	}
	return es[0], true
}

// step does one random thing.
func (w *world) step(faulty bool) {
	c := w.c
	n := c.nodes[c.rng.IntN(len(c.nodes))]
	switch k := c.rng.IntN(1000); {
	case k < 420:
		if len(c.net) == 0 {
			return
		}
		i := 0
		if faulty && c.rng.IntN(4) == 0 {
			i = c.rng.IntN(len(c.net)) // out of order
		}
		m := c.net[i]
		switch p := c.rng.IntN(100); {
		case faulty && p < 4:
			c.net = slices.Delete(c.net, i, i+1) // lost
			return
		case faulty && p < 8: // stays: comes again
		default:
			c.net = slices.Delete(c.net, i, i+1)
		}
		_ = c.deliver(m)
	case k < 560:
		n.process()
	case k < 700:
		n.syncLog()
	case k < 790:
		n.syncHardState()
	case k < 850:
		c.now += Time(c.rng.IntN(int(30 * time.Millisecond)))
		for _, n := range c.nodes {
			n.tick()
		}
	case k < 920:
		if l := c.leader(); l != nil && l.propose(fmt.Sprintf("p%d", w.proposals)) == nil {
			w.proposals++
		}
	case k < 940:
		for _, l := range c.nodes {
			if !l.down && l.r.role == Leader { // deposed ones that do not know it, too
				w.nextRead++
				w.reads[w.nextRead] = w.maxCommit()
				_ = l.r.ReadIndex(l.now(), w.nextRead)
			}
		}
	case k < 944:
		if l := c.leader(); l != nil {
			_ = l.r.Transfer(l.now(), n.id)
		}
	case k < 950:
		w.reconfigure(n)
	case k < 957:
		if !n.down {
			n.process()
			if n.upTo > n.snap.Meta.Index {
				w.snapshots++
				n.snapshotAndCompact(Index(c.rng.IntN(5)))
			}
		}
	case k < 960:
		if !n.down {
			n.r.Campaign(n.now())
		}
	case !faulty:
	case k < 965:
		if !n.down && c.rng.IntN(2) == 0 {
			n.crash(c.rng.IntN)
		}
	case k < 985:
		if n.down {
			n.start(false)
		}
	case k < 987:
		c.cut[[2]NodeID{n.id, c.nodes[c.rng.IntN(len(c.nodes))].id}] = true
	case k < 989: // a node cut off, in one direction or both
		for _, o := range c.nodes {
			c.cut[[2]NodeID{n.id, o.id}] = true
			if k == 987 {
				c.cut[[2]NodeID{o.id, n.id}] = true
			}
		}
	case k < 993:
		clear(c.cut)
	case k == 993: // a queue that stood still: everything on the way is lost
		c.net = nil
	case k == 994:
		w.prioritise(n, NeverLeads)
	case k == 995:
		n.r.SetImpaired(n.now(), c.rng.IntN(2) == 0)
	case k == 996:
		if c.rng.IntN(4) == 0 {
			n.r.Resign(n.now())
		}
	}
	for len(c.net) > 400 {
		c.net = slices.Delete(c.net, 0, 100)
	}
}

// prioritise tells one replica priorities that the others need not share.
func (w *world) prioritise(n *memNode, least Priority) {
	var ps []NodePriority
	for _, o := range w.c.nodes {
		if w.c.rng.IntN(4) > 0 {
			ps = append(ps, NodePriority{o.id, max(least, Priority(w.c.rng.IntN(4)))})
		}
	}
	n.r.SetPriorities(n.now(), ps)
}

// reconfigure asks the leader for a random change.
func (w *world) reconfigure(n *memNode) {
	l := w.c.leader()
	if l == nil {
		return
	}
	// A leader that does not know that it is none takes back as well: that is what the proof in ProposeConf is about.
	for _, o := range w.c.nodes {
		if !o.down && o.r.role == Leader && o.r.conf().Joint() && w.c.rng.IntN(3) == 0 {
			if _, err := o.r.ProposeConf(o.now(), ConfChange{Revert: true}); err == nil {
				w.reverts++
			}
			return
		}
	}
	cur := l.r.conf()
	m := Member{n.id, n.inc}
	other := w.c.nodes[w.c.rng.IntN(len(w.c.nodes))]
	var ch ConfChange
	step := func(m Member) {
		switch {
		case findMember(cur.Learners, m.ID) >= 0:
			ch.Steps = append(ch.Steps, ConfStep{Promote, m})
		case findMember(cur.Voters, m.ID) < 0 && w.c.rng.IntN(2) == 0:
			ch.Steps = append(ch.Steps, ConfStep{AddLearner, m})
		case findMember(cur.Voters, m.ID) < 0:
			ch.Steps = append(ch.Steps, ConfStep{AddVoter, m})
		case len(cur.Voters) > 2:
			ch.Steps = append(ch.Steps, ConfStep{Remove, m})
		}
	}
	step(m)
	if other != n && w.c.rng.IntN(2) == 0 {
		step(Member{other.id, other.inc})
	}
	ch.Joint = w.c.rng.IntN(4) == 0
	if _, err := l.r.ProposeConf(l.now(), ch); err == nil {
		w.confs++
	}
}

func runRandom(seed uint64, steps int) (*world, error) {
	c := newCluster(seed)
	w := newWorld(c)
	initial := ConfState{Voters: members(1, 2, 3)}
	for id := NodeID(1); id <= 5; id++ {
		boot := initial
		if id > 3 {
			boot = ConfState{}
		}
		n := c.add(id, boot, true)
		// Two clocks together drift by less than ClockDrift over a lease.
		n.rate = 1 + (c.rng.Float64()-0.5)*0.04
		n.skew = Time(c.rng.Int64N(int64(time.Hour)))
		n.start(true)
	}
	for i := range steps {
		w.step(true)
		if err := w.check(); err != nil {
			return w, fmt.Errorf("step %d: %w", i, err)
		}
	}
	// Then the faults end, and the group must come back: whatever happened, nothing is stuck.
	clear(c.cut)
	for _, n := range c.nodes {
		if n.down {
			n.start(false)
		}
		w.prioritise(n, LastResort)
	}
	target := w.maxCommit()
	done := func() bool {
		l := c.leader()
		if l == nil || w.check() != nil {
			return false
		}
		if l.r.commit <= target || l.r.commit < l.r.termStart || l.r.conf().Joint() {
			_ = l.propose("end")
			return false
		}
		for _, p := range l.r.peers {
			if n := c.node(p.Member.ID); n.r.commit < l.r.commit || n.upTo < l.r.commit {
				return false
			}
		}
		return true
	}
	if !c.run(time.Minute, done) {
		if err := w.check(); err != nil {
			return w, err
		}
		s := ""
		for _, n := range c.nodes {
			s += fmt.Sprintf("\n%+v\n  %+v", n.r.Status(), n.r.Peers())
		}
		return w, fmt.Errorf("liveness: the group does not recover: target %d%s", target, s)
	}
	return w, w.check()
}

func TestRandomCluster(t *testing.T) {
	first, last := uint64(1), uint64(*flagSeeds)
	if *flagSeed != 0 {
		first, last = *flagSeed, *flagSeed
	}
	var entries, terms, reads, leases, snaps, confs, reverts int
	for seed := first; seed <= last; seed++ {
		w, err := runRandom(seed, 6000)
		if err != nil {
			t.Fatalf("seed %d: %v\nreplay: go test ./raft -run TestRandomCluster -seed %d", seed, err, seed)
		}
		entries += len(w.committed)
		terms += len(w.leaders)
		reads += w.readsDone
		leases += w.leases
		snaps += w.snapshots
		confs += w.confs
		reverts += w.reverts
	}
	t.Logf("committed %d entries in %d led terms; %d reads, %d lease checks, %d snapshots, %d membership changes, %d taken back", entries, terms, reads, leases, snaps, confs, reverts)
	if *flagSeed == 0 && (entries == 0 || terms == 0 || reads == 0 || leases == 0 || snaps == 0 || confs == 0 || reverts == 0) {
		t.Fatal("some of it never happened: the test tests nothing there")
	}
}

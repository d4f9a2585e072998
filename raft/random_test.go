// Whole clusters under random faults, driven on the bare core: events in the order of a simulated time, so that messages,
// syncs and timers race as they do in earnest. What goes wrong is in random_faults_test.go, what must hold at each step in
// invariants_test.go, and how long it takes to notice a broken rule in mutants_test.go.

package raft

import (
	"container/heap"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

var (
	flagSeed  = flag.Uint64("seed", 0, "run only this seed of TestRandomCluster")
	flagSeeds = flag.Int("seeds", 200, "how many seeds TestRandomCluster runs")
	flagFrom  = flag.Uint64("from", 1, "and the first of them")
	flagSteps = flag.Int("steps", 6000, "events per seed, before the faults end")
	flagShow  = flag.Bool("show", false, "with -seed: print every event")
	flagBlind = flag.String("blind", "", "an invariant that is not checked, to see what else would notice")
)

// event is something that happens at a time, to a node in one of its lives or to the world.
type event struct {
	at   Time
	seq  uint64
	n    *memNode
	boot uint64 // of n; 0: whichever
	do   func()
}

type events []event

func (q events) Len() int { return len(q) }
func (q events) Less(i, j int) bool {
	return q[i].at < q[j].at || q[i].at == q[j].at && q[i].seq < q[j].seq
}
func (q events) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *events) Push(e any)   { *q = append(*q, e.(event)) }
func (q *events) Pop() any {
	old := *q
	e := old[len(old)-1]
	old[len(old)-1] = event{}
	*q = old[:len(old)-1]
	return e
}

// deeds counts what a run has reached: a schedule that reaches nothing proves nothing.
type deeds [len(deedNames)]int

var deedNames = [...]string{"reads", "lease checks", "snapshots", "installed snapshots", "membership changes", "joint memberships",
	"transfers", "crashes", "lost tails", "damaged disks", "lost logs", "wiped disks", "stalls", "truncations", "memberships rolled back", "memberships taken back"}

const (
	readsServed = iota
	leaseChecks
	snapshots
	installs
	confChanges
	jointConfs
	transfers
	crashes
	lostTails
	damages
	lostLogs
	wipes
	stalls
	truncations
	confRollbacks
	confReverts
)

func (d *deeds) add(o *deeds) {
	for i := range d {
		d[i] += o[i]
	}
}

func (d *deeds) String() string {
	var b strings.Builder
	for i, v := range d {
		fmt.Fprintf(&b, ", %d %s", v, deedNames[i])
	}
	return b.String()[2:]
}

// world is a cluster, what is to happen to it, and what an omniscient observer knows of it.
type world struct {
	c     *cluster
	queue events
	seq   uint64
	quiet bool // the faults have ended
	show  bool

	rules     []invariant
	err       error
	committed []Entry  // by index-1
	inTerm    []Term   // in which each was committed: that of the leader, not of the entry
	hashes    []uint64 // of the state after each
	reads     map[uint64]Index
	nextRead  uint64
	wiped     map[Member]Index // what a disk held that is gone

	proposals int
	terms     int  // that had a leader
	newest    Term // of them
	did       deeds

	first    ConfState
	loss     int // messages lost, of 1000
	slowLink map[[2]NodeID]time.Duration
	slowDisk map[NodeID]time.Duration
	lull     Time            // until then nobody proposes, so that all logs are equal
	asleep   map[NodeID]Time // until then a node does nothing
	ticking  map[NodeID]Time // when its next Tick is planned
	syncing  map[NodeID]uint64
	saving   map[NodeID]uint64 // life in which a sync is under way
	roles    map[NodeID]Role
	commits  map[NodeID]Index
	ends     map[NodeID]Index // of the logs, when last seen
	confAt   map[NodeID]Index
}

// newWorld is a cluster of 3 or 5 voters, and up to two strangers that may be added, on which everything goes wrong.
func newWorld(seed uint64) *world {
	w := emptyWorld(seed)
	rng := w.c.rng
	msgBytes := []int{1, 64, 1 << 10}[rng.IntN(3)] // 1: one entry per message
	commitDelay := []time.Duration{0, testHB / 2, 2 * testHB}[seed%3]
	busyFor := []time.Duration{0, testET / 4}[seed/3%2]
	w.c.cfg = func(cfg *Config) { cfg.MaxMessageBytes, cfg.CommitDelay, cfg.BusyFor = msgBytes, commitDelay, busyFor }
	voters := NodeID(3 + 2*rng.IntN(2))
	for id := NodeID(1); id <= voters; id++ {
		w.first.Voters = append(w.first.Voters, members(id)...)
	}
	w.populate(voters + NodeID(rng.IntN(3)))
	w.after(0, w.client)
	w.after(w.between(200*time.Millisecond, 2*time.Second), w.fault)
	return w
}

func emptyWorld(seed uint64) *world {
	return &world{c: newCluster(seed), rules: invariants(), hashes: []uint64{0}, reads: map[uint64]Index{}, wiped: map[Member]Index{},
		slowLink: map[[2]NodeID]time.Duration{}, slowDisk: map[NodeID]time.Duration{}, asleep: map[NodeID]Time{},
		ticking: map[NodeID]Time{}, syncing: map[NodeID]uint64{}, saving: map[NodeID]uint64{}, roles: map[NodeID]Role{},
		commits: map[NodeID]Index{}, ends: map[NodeID]Index{}, confAt: map[NodeID]Index{}}
}

// populate starts nodes 1 to last. Those that are not in the first membership know of none.
func (w *world) populate(last NodeID) {
	for id := NodeID(1); id <= last; id++ {
		conf := w.first
		if !w.first.isVoter(id) && findMember(w.first.Learners, id) < 0 {
			conf = ConfState{}
		}
		n := w.c.add(id, conf, true)
		// Two clocks together drift by less than ClockDrift over a lease.
		n.rate = 1 + (w.c.rng.Float64()-0.5)*0.04
		n.skew = Time(w.c.rng.Int64N(int64(time.Hour)))
		n.start(true)
		n.onReady = w.onReady
	}
	for _, n := range w.c.nodes {
		w.settle(n)
	}
}

func (w *world) between(lo, hi time.Duration) time.Duration {
	return lo + time.Duration(w.c.rng.Int64N(int64(hi-lo)+1))
}

func (w *world) chance(percent int) bool { return w.c.rng.IntN(100) < percent }

func (w *world) pick() *memNode { return w.c.nodes[w.c.rng.IntN(len(w.c.nodes))] }

func (w *world) tracef(format string, args ...any) {
	if w.show {
		fmt.Fprintf(os.Stderr, "%8.3f  %s\n", float64(w.c.now)/1e9, fmt.Sprintf(format, args...))
	}
}

func (w *world) plan(at Time, n *memNode, boot uint64, do func()) {
	w.seq++
	heap.Push(&w.queue, event{max(at, w.c.now), w.seq, n, boot, do})
}

func (w *world) after(d time.Duration, do func()) { w.plan(w.c.now+Time(d), nil, 0, do) }

func (w *world) stalled(n *memNode) bool { return w.c.now < w.asleep[n.id] }

// step does what is next.
func (w *world) step() error {
	e := heap.Pop(&w.queue).(event)
	w.c.now = e.at
	if e.n == nil {
		e.do()
		return w.err
	}
	if e.n.down || e.boot != 0 && e.boot != e.n.boot {
		return w.err
	}
	if w.stalled(e.n) {
		w.plan(w.asleep[e.n.id], e.n, e.boot, e.do)
		return w.err
	}
	e.do()
	w.settle(e.n)
	return w.err
}

// settle lets a node do what the core wants done, plans what that leads to, and checks what must hold.
func (w *world) settle(n *memNode) {
	n.process()
	for _, m := range w.c.net {
		w.post(m)
	}
	w.c.net = nil
	if !n.down {
		w.planSyncs(n)
		w.planTick(n)
	}
	w.learn(n)
	for _, v := range w.rules {
		if w.err == nil {
			w.fail(v, v.check(w, n))
		}
	}
	if !n.down && w.err == nil {
		w.watch(n)
	}
}

func (w *world) fail(v invariant, err error) {
	if err == nil || w.err != nil || fmt.Sprintf("*raft.%s", *flagBlind) == fmt.Sprintf("%T", v) {
		return
	}
	w.err = fmt.Errorf("%T: %w", v, err)
}

func (w *world) onReady(n *memNode, rd *Ready) {
	if w.show {
		if rd.Changed {
			st := n.r.Status()
			w.tracef("  %d: %v T%d leader=%d %v", n.id, st.Role, st.Term, st.Leader, st.Conf)
		}
		if len(rd.Entries) > 0 {
			w.tracef("  %d: append %s", n.id, describeEntries(rd.Entries))
		}
		if len(rd.Committed) > 0 {
			w.tracef("  %d: apply %s", n.id, describeEntries(rd.Committed))
		}
	}
	if rd.Snapshot != nil {
		w.did[installs]++
	}
	if len(rd.Entries) > 0 {
		if rd.Entries[0].Index <= w.ends[n.id] {
			w.did[truncations]++
			if w.confAt[n.id] >= rd.Entries[0].Index {
				w.did[confRollbacks]++
			}
		}
		w.ends[n.id] = n.log.LastIndex()
	}
	w.confAt[n.id] = n.r.confIndex()
	w.learn(n)
	for _, v := range w.rules {
		if w.err == nil {
			w.fail(v, v.ready(w, n, rd))
		}
	}
}

func (w *world) maxCommit() Index { return Index(len(w.committed)) }

// learn takes note of what is committed from whoever knows it first.
func (w *world) learn(n *memNode) {
	if n.down {
		return
	}
	for i := w.maxCommit() + 1; i <= n.r.commit; i++ {
		e, ok := n.entry(i)
		if !ok {
			w.err = fmt.Errorf("node %d has committed %d, which nobody can read", n.id, i)
			return
		}
		w.committed = append(w.committed, e)
		w.inTerm = append(w.inTerm, n.r.term)
		w.hashes = append(w.hashes, hashEntry(w.hashes[i-1], &e))
	}
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

// post sends a message on its way, where it may be lost, repeated, late and overtaken.
func (w *world) post(m Message) {
	if w.c.cut[[2]NodeID{m.From, m.To}] || w.c.rng.IntN(1000) < w.loss {
		w.tracef("  lost %s", describe(&m))
		return
	}
	to := w.c.node(m.To)
	if to == nil {
		return
	}
	copies := 1
	if !w.quiet && w.chance(1) {
		copies = 2
	}
	for range copies {
		d := w.between(100*time.Microsecond, 3*time.Millisecond)
		if s := w.slowLink[[2]NodeID{m.From, m.To}]; s > 0 {
			d += w.between(s/4, s)
		}
		w.plan(w.c.now+Time(d), to, 0, func() {
			w.tracef("%s", describe(&m))
			if err := to.r.Step(to.now(), &m); err != nil {
				w.tracef("  refused: %v", err)
			}
		})
	}
}

func (w *world) diskTime(n *memNode) Time {
	d := w.between(100*time.Microsecond, 5*time.Millisecond)
	if s := w.slowDisk[n.id]; s > 0 {
		d += w.between(s/4, s)
	}
	return w.c.now + Time(d)
}

// planSyncs: one sync of each kind is under way at a time, as on a real disk; the two are independent.
func (w *world) planSyncs(n *memNode) {
	if len(n.log.syncing) > 0 && w.syncing[n.id] != n.boot {
		w.syncing[n.id] = n.boot
		w.plan(w.diskTime(n), n, n.boot, func() {
			w.syncing[n.id] = 0
			n.syncLog()
		})
	}
	if len(n.saves) > 0 && w.saving[n.id] != n.boot {
		w.saving[n.id] = n.boot
		w.plan(w.diskTime(n), n, n.boot, func() {
			w.saving[n.id] = 0
			n.syncHardState()
		})
	}
}

// planTick: the node is woken at its deadline, by its own clock.
func (w *world) planTick(n *memNode) {
	d := n.r.Deadline()
	if d == Forever {
		return
	}
	at := max(Time(float64(d-n.skew)/n.rate)+1, w.c.now+1)
	if was := w.ticking[n.id]; was > w.c.now && was <= at {
		return
	}
	w.ticking[n.id] = at
	w.plan(at, n, n.boot, func() {
		w.ticking[n.id] = 0
		n.tick()
	})
}

// client proposes and reads, at whoever thinks that it leads.
func (w *world) client() {
	for _, n := range w.c.nodes {
		if n.down || w.stalled(n) || n.r.role != Leader {
			continue
		}
		if w.c.now >= w.lull && w.chance(60) {
			for range 1 + w.c.rng.IntN(3) {
				if n.propose(fmt.Sprintf("p%0*d", 1+w.c.rng.IntN(30), w.proposals)) == nil {
					w.proposals++
				}
			}
		}
		if w.chance(30) {
			w.nextRead++
			w.reads[w.nextRead] = w.maxCommit()
			_ = n.r.ReadIndex(n.now(), w.nextRead)
		}
		w.settle(n)
	}
	w.after(w.between(time.Millisecond, 60*time.Millisecond), w.client)
}

func runRandom(seed uint64, steps int, show bool) (w *world, err error) {
	w = newWorld(seed)
	w.show = show
	i := 0
	defer func() {
		if p := recover(); p != nil { // an assertion of the core, or of the cluster in memory
			err = fmt.Errorf("event %d: panic: %v", i, p)
		}
	}()
	for ; i < steps; i++ {
		if err := w.step(); err != nil {
			return w, fmt.Errorf("event %d: %w", i, err)
		}
	}
	return w, w.comeBack()
}

// recoverWithin is generous: several elections, a snapshot that must be sent again, and memberships to be left.
const recoverWithin = 60 * time.Second

// maxEvents bounds a run whose clock stands still because somebody's deadline is always past.
const maxEvents = 1 << 20

// comeBack ends the faults; then the group must come back, by itself and in bounded time, whatever happened.
func (w *world) comeBack() error {
	w.quiet = true
	w.heal()
	for _, n := range w.c.nodes {
		if n.down {
			w.start(n)
		}
		w.prioritise(n, LastResort) // somebody must be willing
		n.r.SetImpaired(n.now(), false)
		w.settle(n)
	}
	target := w.maxCommit()
	for end, left := w.c.now+Time(recoverWithin), maxEvents; w.c.now < end && left > 0; left-- {
		if err := w.step(); err != nil {
			return err
		}
		if l := w.c.leader(); l != nil && l.r.commit > target && l.r.commit >= l.r.termStart && !l.r.conf().Joint() && w.allAt(l) {
			return nil
		}
	}
	s := ""
	for _, n := range w.c.nodes {
		s += fmt.Sprintf("\n%+v\n  %+v", n.r.Status(), n.r.Peers())
	}
	return fmt.Errorf("liveness: the group does not recover: target %d%s", target, s)
}

// allAt: every member has applied what was committed before the end.
func (w *world) allAt(l *memNode) bool {
	for _, p := range l.r.peers {
		if n := w.c.node(p.Member.ID); n.inc == p.Member.Incarnation && n.upTo+50 < l.r.commit {
			return false
		}
	}
	return true
}

func TestRandomCluster(t *testing.T) {
	if testing.Short() {
		*flagSeeds = min(*flagSeeds, 30)
	}
	first, last := *flagFrom, *flagFrom+uint64(*flagSeeds)-1
	if *flagSeed != 0 {
		first, last = *flagSeed, *flagSeed
	}
	var all deeds
	entries, terms := 0, 0
	for seed := first; seed <= last; seed++ {
		w, err := runRandom(seed, *flagSteps, *flagShow && *flagSeed != 0)
		if err != nil {
			t.Fatalf("seed %d: %v\nreplay: go test ./raft -run TestRandomCluster -seed %d -steps %d -show", seed, err, seed, *flagSteps)
		}
		entries += len(w.committed)
		terms += w.terms
		all.add(&w.did)
	}
	t.Logf("committed %d entries in %d led terms; %v", entries, terms, &all)
	if *flagSeed == 0 && *flagSeeds >= 150 && *flagSteps >= 6000 {
		if i := slices.Index(all[:], 0); i >= 0 || entries == 0 || terms == 0 {
			t.Fatalf("some of it never happened: the test tests nothing there")
		}
	}
}

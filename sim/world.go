// Package sim runs whole clusters of the real raft, raft/multi and segment code on one goroutine, over a fake clock, a
// fake network and fake disks, all drawn from one seed: the same seed gives the same run, event for event. What must
// always hold is checked while it runs (see invariants.go); a failure names the seed.
//
// What goes wrong is in faults.go (processes, network, clocks), faults_disk.go (disks, with the fault model) and operator.go
// (membership). docs/simulation.md is the overview.
package sim

import (
	"container/heap"
	"fmt"
	"io"
	"math/rand/v2"
	"runtime/debug"
	"time"

	"github.com/balsamq/balsa/internal/vfs"
	"github.com/balsamq/balsa/raft"
)

// Options describe a run. The zero value of a field means its default.
type Options struct {
	Seed     uint64
	Nodes    int           // brokers; default 3 to 5, drawn from the seed
	Groups   int           // Raft groups, each on every broker; default 3
	Duration time.Duration // simulated time under faults; default 60 s. Healing and the final check come on top
	Ops      int           // client operations at least; default 240
	Paced    bool          // whoever is behind catches up at the pace of multi.GroupConfig.Throttle
	Relaxed  bool          // all groups have relaxed durability, instead of those of some runs
	Trace    io.Writer     // nil: no trace
	// History, if set, gets what the clients of each group saw, and may object.
	History func(group int, ops []Op) error
	// Disk, if set, is asked before every disk operation of every node, as by vfs.Inject: a way to break a disk, or the
	// code's use of it, on purpose.
	Disk func(op vfs.Op, name string) error
}

func (o *Options) setDefaults() {
	if o.Groups == 0 {
		o.Groups = 3
	}
	if o.Duration == 0 {
		o.Duration = 60 * time.Second
	}
	if o.Ops == 0 {
		o.Ops = 240
	}
}

// Timing of the simulated cluster; the same ratios as a real one's defaults.
const (
	electionTimeout   = 1000 * time.Millisecond
	heartbeatInterval = 150 * time.Millisecond
	clockDrift        = 50 * time.Millisecond
	// progressLimit bounds the time in which a majority that can talk must acknowledge something new, in every group;
	// settleLimit that in which a healed cluster must agree again.
	progressLimit = 30 * time.Second
	settleLimit   = 60 * time.Second
)

// event is something that happens at a time. Events at the same time happen in the order of their making.
type event struct {
	at  raft.Time
	seq uint64
	fn  func()
}

type eventQueue []event

func (q eventQueue) Len() int { return len(q) }
func (q eventQueue) Less(i, j int) bool {
	return q[i].at < q[j].at || q[i].at == q[j].at && q[i].seq < q[j].seq
}
func (q eventQueue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *eventQueue) Push(x any)   { *q = append(*q, x.(event)) }
func (q *eventQueue) Pop() any {
	old := *q
	e := old[len(old)-1]
	old[len(old)-1] = event{}
	*q = old[:len(old)-1]
	return e
}

// world is one run.
type world struct {
	opts    Options
	shape   shape
	rng     *rand.Rand
	now     raft.Time // true time, which no node knows
	queue   eventQueue
	seq     uint64
	nodes   []*node
	initial [][]raft.NodeID // by group: its first voters
	net     *network
	check   *checker
	history []*history // by group
	resets  []*reset   // by group: the latest, nil if there was none
	losing  []bool     // by group: a majority is taken for lost, and a reset is to follow
	prefer  [][]raft.NodePriority
	ops     uint64
	rep     Report
	// cutAtVote is the number of nodes that lose power when they next vote, strikes the number of leaders that are struck
	// when they are elected.
	cutAtVote, strikes int
	strikeGroup        int       // of this group
	calm               bool      // the schedule is over
	late               *lateVote // under way
	err                error     // first violation
}

// after schedules fn.
func (w *world) after(d time.Duration, fn func()) {
	if d < 0 {
		d = 0
	}
	w.seq++
	heap.Push(&w.queue, event{at: w.now + raft.Time(d), seq: w.seq, fn: fn})
}

// between draws a duration from [lo, hi).
func (w *world) between(lo, hi time.Duration) time.Duration {
	return lo + time.Duration(w.rng.Int64N(int64(hi-lo)))
}

func (w *world) chance(p float64) bool { return w.rng.Float64() < p }

// fail records the first violation; the run ends after the current event.
func (w *world) fail(err error) {
	if w.err == nil && err != nil {
		w.err = err
		w.tracef("VIOLATION %v", err)
	}
}

func (w *world) tracef(format string, args ...any) {
	if w.opts.Trace != nil {
		fmt.Fprintf(w.opts.Trace, "%10.4f ", float64(w.now)/1e9)
		fmt.Fprintf(w.opts.Trace, format+"\n", args...)
	}
}

// maxEvents bounds a run; an ordinary one has some ten thousands.
const maxEvents = 5_000_000

// runUntil processes events up to the given time, or until stop says so.
func (w *world) runUntil(end raft.Time, stop func() bool) {
	for w.err == nil && len(w.queue) > 0 && w.queue[0].at <= end && (stop == nil || !stop()) {
		e := heap.Pop(&w.queue).(event)
		w.now = e.at
		if w.rep.Events++; w.rep.Events > maxEvents {
			w.fail(fmt.Errorf("%d events: the cluster does not come to rest", maxEvents))
			return
		}
		e.fn()
	}
	if w.err == nil && w.now < end && (stop == nil || !stop()) {
		w.now = end
	}
}

// Run simulates one seed. The error is nil or a [Violation]; the report is filled in either case.
func Run(opts Options) (rep Report, err error) {
	opts.setDefaults()
	w := &world{opts: opts, rng: newRand(opts.Seed, 0x62616c7361), now: raft.Time(time.Hour)}
	w.rep.Seed = opts.Seed
	w.drawShape()
	w.check = newChecker(w)
	w.net = newNetwork(w)
	for i := range w.opts.Nodes {
		w.nodes = append(w.nodes, newNode(w, raft.NodeID(i+1)))
	}
	for range w.opts.Groups {
		w.history = append(w.history, newHistory())
		w.resets, w.losing, w.prefer = append(w.resets, nil), append(w.losing, false), append(w.prefer, nil)
	}
	if w.shape.minVoters >= 3 && w.chance(0.6) {
		w.shape.weak = w.anyNode()
	}
	begin := w.now
	defer func() {
		if p := recover(); p != nil { // an assertion of the code under test
			rep, err = w.rep, &Violation{Seed: opts.Seed, At: time.Duration(w.now - begin), Err: &PanicError{p, string(debug.Stack())}}
		}
	}()
	for _, n := range w.nodes {
		n.start()
	}
	startClients(w, w.opts.Ops, w.opts.Duration)
	startFaults(w, w.opts.Duration)
	startRareFaults(w, w.opts.Duration)
	w.after(time.Second, w.check.periodic)
	w.runUntil(begin+raft.Time(w.opts.Duration), nil)
	if w.err == nil {
		w.settle()
	}
	w.rep.Simulated = time.Duration(w.now - begin)
	for _, n := range w.nodes {
		n.kill()
	}
	if w.err != nil {
		return w.rep, &Violation{Seed: opts.Seed, At: time.Duration(w.now - begin), Err: w.err}
	}
	return w.rep, nil
}

// A Violation is a broken invariant, with what it takes to see it again.
type Violation struct {
	Seed uint64
	At   time.Duration // simulated time since the start
	Err  error         // one of the invariant types of invariants.go
}

func (v *Violation) Error() string {
	return fmt.Sprintf("seed %d, %.3f s into the run: %v\nreplay: go test ./sim -run TestSeed$ -seed %d -args -trace", v.Seed, v.At.Seconds(), v.Err, v.Seed)
}

func (v *Violation) Unwrap() error { return v.Err }

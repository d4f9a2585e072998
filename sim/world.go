// Package sim runs whole clusters of the real raft, raft/multi and segment code on one goroutine, over a fake clock, a
// fake network and fake disks, all drawn from one seed: the same seed gives the same run, event for event. What must
// always hold is checked while it runs (see invariants.go); a failure names the seed.
//
// What is simulated and must be survived: message loss, delay, reordering and duplication; symmetric and one-way
// partitions; a process killed (its disk keeps what the kernel had) and a power cut (unsynced bytes and names are lost
// or torn), of one node or of all; slow disks; slow and stalled nodes.
package sim

import (
	"container/heap"
	"fmt"
	"io"
	"math/rand/v2"
	"time"

	"github.com/balsamq/balsa/internal/vfs"
	"github.com/balsamq/balsa/raft"
)

// Options describe a run. The zero value of a field means its default.
type Options struct {
	Seed     uint64
	Nodes    int           // brokers; default 3
	Groups   int           // Raft groups, each on every broker; default 3
	Duration time.Duration // simulated time under faults; default 60 s. Healing and the final check come on top
	Ops      int           // client operations at least; default 240
	Trace    io.Writer     // nil: no trace
	// Disk, if set, is asked before every disk operation of every node, as by vfs.Inject: a way to break a disk, or the
	// code's use of it, on purpose.
	Disk func(op vfs.Op, name string) error
}

func (o *Options) setDefaults() {
	if o.Nodes == 0 {
		o.Nodes = 3
	}
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
	// settleLimit bounds the time in which a healed cluster must agree again.
	settleLimit = 60 * time.Second
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
	opts  Options
	rng   *rand.Rand
	now   raft.Time
	queue eventQueue
	seq   uint64
	nodes []*node
	net   *network
	check *checker
	rep   Report
	// cutAtVote is the number of nodes that lose power when they next vote.
	cutAtVote int
	err       error // first violation
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

// runUntil processes events up to the given time, or until stop says so.
func (w *world) runUntil(end raft.Time, stop func() bool) {
	for w.err == nil && len(w.queue) > 0 && w.queue[0].at <= end {
		e := heap.Pop(&w.queue).(event)
		w.now = e.at
		w.rep.Events++
		e.fn()
		if stop != nil && stop() {
			return
		}
	}
	if w.err == nil && w.now < end {
		w.now = end
	}
}

// Run simulates one seed. The error is nil or a [Violation]; the report is filled in either case.
func Run(opts Options) (Report, error) {
	opts.setDefaults()
	w := &world{opts: opts, rng: rand.New(rand.NewPCG(opts.Seed, 0x62616c7361)), now: raft.Time(time.Hour)}
	w.rep.Seed = opts.Seed
	w.check = newChecker(w)
	w.net = newNetwork(w)
	for i := range opts.Nodes {
		w.nodes = append(w.nodes, newNode(w, raft.NodeID(i+1)))
	}
	for _, n := range w.nodes {
		n.start()
	}
	begin := w.now
	startClients(w, opts.Ops, opts.Duration)
	startFaults(w, opts.Duration)
	w.after(time.Second, w.check.periodic)
	w.runUntil(begin+raft.Time(opts.Duration), nil)
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

// settle heals everything and requires that the cluster agrees again: liveness in a bounded time, then the last checks.
func (w *world) settle() {
	w.tracef("heal everything")
	w.net.heal()
	w.net.lossy(0, 0)
	for _, n := range w.nodes {
		n.healDisk()
		if !n.up {
			n.start()
		}
	}
	end := w.now + raft.Time(settleLimit)
	next := w.now
	w.runUntil(end, func() bool {
		if w.now < next {
			return false
		}
		next = w.now + raft.Time(50*time.Millisecond)
		return w.check.agreed()
	})
	if w.err == nil && !w.check.agreed() {
		w.fail(&LivenessError{w.check.describe()})
		return
	}
	w.check.final()
}

// A Violation is a broken invariant, with what it takes to see it again.
type Violation struct {
	Seed uint64
	At   time.Duration // simulated time since the start
	Err  error         // one of the invariant types of invariants.go
}

func (v *Violation) Error() string {
	return fmt.Sprintf("seed %d, %.3f s into the run: %v\nreplay: go test ./sim -run TestSeed -seed %d -trace", v.Seed, v.At.Seconds(), v.Err, v.Seed)
}

func (v *Violation) Unwrap() error { return v.Err }

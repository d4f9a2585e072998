// M2: what partitions cost that nobody uses, and how long they are without a leader when a broker dies that led a third of them.
//
// One run of a system: three nodes without partitions (memory), the partitions made (time), at rest (CPU, memory), all nodes
// stopped and started again (time until each partition has a leader), one node killed with -9 (time until each of its partitions has
// another leader), the survivors at rest (CPU). "Has a leader" means that a node says of itself that it leads; who is asked
// are the nodes that live, at a pace that leaves them most of the machine.

package bench

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Many is what one system did with so many partitions in one round.
type Many struct {
	Scenario   string `json:"scenario"`
	System     string `json:"system"`
	Partitions int    `json:"partitions"`
	Wanted     int    `json:"wanted"` // more than Partitions: a bound was set for this system
	Round      int    `json:"round"`

	LoadBefore float64 `json:"load_before"` // of the machine, over a minute
	LoadAfter  float64 `json:"load_after"`

	CreateSec  float64   `json:"create_seconds"`       // until all have a leader
	IdleCPU    []float64 `json:"idle_cpu_percent"`     // of one core, by node
	RSSEmpty   []float64 `json:"rss_empty_mb"`         // by node, before there are partitions
	RSS        []float64 `json:"rss_mb"`               // by node, at rest
	PerKB      float64   `json:"rss_per_partition_kb"` // what a node grew by for each partition, mean of the nodes
	StartSec   float64   `json:"start_seconds"`        // all nodes on their data, until all partitions have a leader
	Orphaned   int       `json:"orphaned"`             // partitions that the killed node led
	RecoverP50 float64   `json:"recover_p50_seconds"`  // from the kill until an orphan has a leader
	RecoverP99 float64   `json:"recover_p99_seconds"`
	RecoverMax float64   `json:"recover_max_seconds"`
	Curve      []Left    `json:"recover_curve,omitempty"`
	Disturbed  int       `json:"disturbed"`         // partitions of the others that changed or lost their leader meanwhile
	LeftCPU    []float64 `json:"left_cpu_percent"`  // the survivors at rest
	Failed     string    `json:"failed,omitempty"`  // what could not be done; figures of later steps are missing
	Notes      []string  `json:"notes,omitempty"`   // what a reader must know
	Skipped    string    `json:"skipped,omitempty"` // why there is no figure
	Wall       []Spent   `json:"wall,omitempty"`    // where the time went, whether it was measured or not
}

// Left is how many orphans had no leader, so long after the kill.
type Left struct {
	Seconds float64 `json:"seconds"`
	Left    int     `json:"left"`
}

// ManyOptions say how to run M2.
type ManyOptions struct {
	Partitions []int // default 0, 1,000 and 10,000
	// PeerMax bounds the partitions of a peer; 0: none.
	PeerMax int
	Rounds  int           // default 1
	Measure time.Duration // of CPU at rest; default 20 s
	Limit   time.Duration // of each step; default 10 min
	Dir     string        // data goes below it
	Log     func(format string, args ...any)
	Status  func(format string, args ...any) // shows how it stands; nil: nobody wants to know

	poll, window, settle time.Duration // defaults pollLeast, settleWindow, settleMost; tests have no time
}

const (
	manyReplicas = 3
	pollShare    = 4                      // or as many times what the look took, so that looking takes a fifth of the time …
	pollMost     = 500 * time.Millisecond // … but no longer than this: it is what the figures are sharp to
	settleWindow = 2 * time.Second
	settleMost   = time.Minute
	killed       = 2 // the node that dies
)

// RunMany takes all systems through all numbers of partitions, in turns. What a system cannot do is a result, too.
func RunMany(ctx context.Context, o ManyOptions, clusters func() []Cluster, each func(Many)) error {
	if len(o.Partitions) == 0 {
		o.Partitions = []int{0, 1000, 10000}
	}
	for d, v := range map[*time.Duration]time.Duration{&o.Measure: 20 * time.Second, &o.Limit: 10 * time.Minute, &o.poll: pollLeast, &o.window: settleWindow, &o.settle: settleMost} {
		if *d == 0 {
			*d = v
		}
	}
	o.Rounds = max(o.Rounds, 1)
	if o.Status == nil {
		o.Status = func(string, ...any) {}
	}
	done := make(map[string]bool)
	for _, wanted := range o.Partitions {
		for round := range o.Rounds {
			for i, h := range clusters() {
				m := Many{Scenario: manyScenario, System: h.Name(), Partitions: wanted, Wanted: wanted, Round: round + 1}
				if i > 0 && o.PeerMax > 0 && wanted > o.PeerMax {
					m.Partitions = o.PeerMax
					m.Notes = append(m.Notes, fmt.Sprintf("bounded to %d of %d partitions by --peer-partitions", o.PeerMax, wanted))
				}
				key := fmt.Sprint(m.System, m.Partitions, round)
				if done[key] {
					m.Skipped = fmt.Sprintf("bounded to %d partitions, which were measured already", m.Partitions)
					each(m)
					continue
				}
				done[key] = true
				o.Log("M2, %d partitions: %s, round %d of %d", m.Partitions, m.System, round+1, o.Rounds)
				if err := runMany(ctx, o, h, &m); err != nil {
					return fmt.Errorf("M2, %d partitions, %s: %w", m.Partitions, m.System, err)
				}
				each(m)
			}
		}
	}
	return nil
}

// runMany fills m. Its error is one that ends the run; what the system could not do is in m.
func runMany(ctx context.Context, o ManyOptions, h Cluster, m *Many) (err error) {
	dir, err := os.MkdirTemp(o.Dir, "bench-"+h.Name()+"-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	began := time.Now()
	spent := func(step string) {
		m.Wall = append(m.Wall, Spent{step, time.Since(began).Seconds()})
		began = time.Now()
	}
	defer func() {
		h.Disconnect()
		err = errors.Join(err, h.Stop())
		spent("stop")
	}()
	r := &manyRun{o: o, h: h, m: m, dir: filepath.Join(dir, "data")}
	m.LoadBefore = loadAverage()
	for _, step := range []struct {
		what string
		do   func(context.Context) error
	}{{"start", r.empty}, {"create the partitions", r.create}, {"measure them at rest", r.idle}, {"start again", r.restart}, {"kill a node", r.kill}, {"measure the survivors", r.left}} {
		o.Status("M2, %d partitions, %s: %s", m.Partitions, h.Name(), step.what)
		limited, cancel := context.WithTimeout(ctx, o.Limit)
		err := step.do(limited)
		cancel()
		spent(step.what)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			m.Failed = fmt.Sprintf("cannot %s: %v", step.what, err)
			o.Log("  %s", m.Failed)
			break
		}
	}
	m.LoadAfter = loadAverage()
	return nil
}

// manyRun is one system's way through the steps.
type manyRun struct {
	o   ManyOptions
	h   Cluster
	m   *Many
	dir string // that nodes have below
}

// cell is what there shall be.
func (r *manyRun) cell() Cell {
	return Cell{Scenario: manyScenario, Class: ClassB, Replicas: manyReplicas, Partitions: r.m.Partitions}
}

// empty starts the nodes and weighs them.
func (r *manyRun) empty(ctx context.Context) error {
	if err := r.h.Start(ctx, r.dir, r.cell()); err != nil {
		return err
	}
	if _, err := r.allLed(ctx, 0, time.Now()); err != nil {
		return err
	}
	r.settled(ctx)
	r.m.RSSEmpty = r.weigh()
	return ctx.Err()
}

func (r *manyRun) create(ctx context.Context) error {
	if r.m.Partitions == 0 {
		return nil
	}
	begin, told := time.Now(), time.Now()
	made := 0
	if err := r.h.Create(ctx, r.cell(), func(n int) {
		if made = n; time.Since(told) > 10*time.Second {
			told = time.Now()
			r.o.Log("  %d of %d made after %.0f s", n, r.m.Partitions, time.Since(begin).Seconds())
		}
	}); err != nil {
		return fmt.Errorf("%d of %d after %.0f s: %w", made, r.m.Partitions, time.Since(begin).Seconds(), err)
	}
	took, err := r.allLed(ctx, r.m.Partitions, begin)
	r.m.CreateSec = took.Seconds()
	return err
}

func (r *manyRun) idle(ctx context.Context) error {
	r.settled(ctx)
	r.m.IdleCPU = r.cpu(ctx)
	r.m.RSS = r.weigh()
	if r.m.Partitions > 0 {
		sum := 0.0
		for i := range r.m.RSS {
			sum += r.m.RSS[i] - r.m.RSSEmpty[i]
		}
		r.m.PerKB = sum * 1000 / float64(len(r.m.RSS)) / float64(r.m.Partitions)
	}
	return ctx.Err()
}

func (r *manyRun) restart(ctx context.Context) error {
	if err := r.h.Stop(); err != nil {
		r.m.Notes = append(r.m.Notes, "started after an unclean stop: "+err.Error())
	}
	begin := time.Now()
	if err := r.h.Start(ctx, r.dir, r.cell()); err != nil {
		return err
	}
	took, err := r.allLed(ctx, r.m.Partitions, begin)
	r.m.StartSec = took.Seconds()
	return err
}

// allLed waits until each partition has a leader.
func (r *manyRun) allLed(ctx context.Context, n int, begin time.Time) (time.Duration, error) {
	var leaders []int
	var last error
	for {
		asked := time.Now()
		if leaders, last = r.h.Leaders(ctx, n); last == nil && !slices.Contains(leaders, -1) {
			return time.Since(begin), nil
		}
		if errors.Is(last, errEnded) {
			return 0, last
		}
		if r.wait(ctx, asked); ctx.Err() != nil {
			missing := 0
			for _, l := range leaders {
				if l < 0 {
					missing++
				}
			}
			if last == nil {
				last = fmt.Errorf("%d of %d partitions have no leader", missing, n)
			}
			return 0, fmt.Errorf("after %.0f s: %w", time.Since(begin).Seconds(), last)
		}
	}
}

// wait pauses between two looks.
func (r *manyRun) wait(ctx context.Context, asked time.Time) {
	pause(ctx, max(r.o.poll, min(pollShare*time.Since(asked), pollMost)))
}

func (r *manyRun) kill(ctx context.Context) error {
	r.settled(ctx)
	before, err := r.h.Leaders(ctx, r.m.Partitions)
	if err != nil {
		return err
	}
	begin := time.Now()
	if err := r.h.Kill(killed); err != nil {
		return err
	}
	w := newRecovery(before, killed)
	for {
		asked := time.Now()
		now, err := r.h.Leaders(ctx, r.m.Partitions)
		if err == nil {
			w.look(now, time.Since(begin))
		}
		if err == nil && w.left == 0 || ctx.Err() != nil {
			break
		}
		if errors.Is(err, errEnded) {
			return err
		}
		r.wait(ctx, asked)
	}
	w.fill(r.m)
	if w.left > 0 {
		return fmt.Errorf("%d of %d partitions of the dead node have no leader after %.0f s", w.left, w.orphans, time.Since(begin).Seconds())
	}
	return nil
}

func (r *manyRun) left(ctx context.Context) error {
	r.settled(ctx)
	r.m.LeftCPU = r.cpu(ctx)
	return ctx.Err()
}

// recovery follows the partitions of a node that has died.
type recovery struct {
	before    []int
	dead      int
	orphans   int
	left      int             // orphans without a leader
	since     []time.Duration // by partition: when it was first seen to have one again; 0: not yet, or no orphan
	disturbed []bool
	curve     []Left // bounded by the step's limit, a tenth of a second apart
}

func newRecovery(before []int, dead int) *recovery {
	w := &recovery{before: before, dead: dead, since: make([]time.Duration, len(before)), disturbed: make([]bool, len(before))}
	for _, l := range before {
		if l == dead {
			w.orphans++
		}
	}
	w.left = w.orphans
	return w
}

func (w *recovery) look(now []int, at time.Duration) {
	for p, l := range now {
		switch {
		case w.before[p] != w.dead:
			w.disturbed[p] = w.disturbed[p] || l != w.before[p]
		case w.since[p] == 0 && l >= 0 && l != w.dead:
			w.since[p] = at
			w.left--
		}
	}
	w.curve = append(w.curve, Left{at.Seconds(), w.left})
}

func (w *recovery) fill(m *Many) {
	m.Orphaned, m.Curve = w.orphans, w.curve
	for _, d := range w.disturbed {
		if d {
			m.Disturbed++
		}
	}
	var took []float64
	for _, d := range w.since {
		if d > 0 {
			took = append(took, d.Seconds())
		}
	}
	slices.Sort(took)
	m.RecoverP50, m.RecoverP99 = rank(took, 0.5), rank(took, 0.99)
	if w.left == 0 {
		m.RecoverMax = rank(took, 1)
	}
}

// rank is the smallest value that a share of q is not above; sorted.
func rank(sorted []float64, q float64) float64 {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[max(int(math.Ceil(q*float64(len(sorted))))-1, 0)]
}

// settled waits until the nodes' CPU falls no more.
func (r *manyRun) settled(ctx context.Context) {
	begin := time.Now()
	last, calm := math.Inf(1), 0
	for calm < 2 && ctx.Err() == nil {
		if time.Since(begin) > r.o.settle {
			r.m.Notes = append(r.m.Notes, fmt.Sprintf("not at rest after %v", r.o.settle))
			return
		}
		used := cpuSeconds(r.h.Pids())
		pause(ctx, r.o.window)
		used = cpuSeconds(r.h.Pids()) - used
		if used >= last*3/4-3./clockTicks {
			calm++
		} else {
			calm = 0
		}
		last = used
	}
}

// cpu is what each running node uses, in per cent of a core.
func (r *manyRun) cpu(ctx context.Context) (percent []float64) {
	var before []float64
	pids := r.running()
	for _, pid := range pids {
		before = append(before, cpuSeconds([]int{pid}))
	}
	begin := time.Now()
	pause(ctx, r.o.Measure)
	took := time.Since(begin).Seconds()
	for i, pid := range pids {
		percent = append(percent, 100*(cpuSeconds([]int{pid})-before[i])/took)
	}
	return percent
}

func (r *manyRun) weigh() (mb []float64) {
	for _, pid := range r.running() {
		mb = append(mb, rssBytes(pid)/1e6)
	}
	return mb
}

func (r *manyRun) running() (pids []int) {
	for _, pid := range r.h.Pids() {
		if pid != 0 {
			pids = append(pids, pid)
		}
	}
	return pids
}

// loadAverage is the machine's, over a minute (Linux; elsewhere 0).
func loadAverage() float64 {
	b, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return 0
	}
	first, _, _ := strings.Cut(string(b), " ")
	v, _ := strconv.ParseFloat(first, 64)
	return v
}

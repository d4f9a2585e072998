// Taking systems through cells: in turns within every round, each turn on nodes and data of its own. What a system cannot do, or does wrongly,
// is a result too; only what would make all further figures worthless ends the run: an interrupt, a full disk.

package bench

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

const (
	pollLeast = 100 * time.Millisecond // between two looks at a system
	// readRate is what reading back takes for granted, in bytes a second, beside readLimit.
	readRate  = 10_000_000
	readLimit = 5 * time.Minute
	// startLimit and startEach bound how long a system takes to be there, and to make a partition.
	startLimit = 3 * time.Minute
	startEach  = 250 * time.Millisecond
	// generatorGC is the load generator's GOGC: its memory counts for nobody, and the time that it takes to collect it comes off all.
	generatorGC = 800
	// readersGC is GOGC while a group reads as fast as it can. Each answer is megabytes of memory taken anew; until the heap is as large as GOGC lets
	// it be, the system has to find and clear all of that first, which costs more than the collector does.
	readersGC = 200
)

// turn is one system under one cell in one round, or under several that follow each other on the same data (together.go).
type turn struct {
	o    Options
	cell Cell
	sys  System
	dir  string
	load *load
	res  *Result
	used *usage // nil: not measuring

	at, of  int   // which one of how many cells it is
	refused int64 // records of the cells before it

	step  string // that is under way, of Result.Wall
	since time.Time
}

// Run takes all systems through all cells. Results come in the order of running.
func Run(ctx context.Context, o Options, cells []Cell, systems func(Cell) []System, each func(Result)) error {
	o.setDefaults()
	defer debug.SetGCPercent(debug.SetGCPercent(generatorGC))
	rates := make(map[Cell]int)
	began, done := time.Now(), 0
	turns := o.turns(cells)
	total := 0
	for _, cells := range turns {
		total += o.Rounds * len(systems(cells[0]))
	}
	for _, cells := range turns {
		c := &cells[len(cells)-1] // with the largest backlog
		if free := freeBytes(o.dataDir()); free > 0 && c.DiskBytes() > free {
			return fmt.Errorf("%s needs about %s of the disk, %s has %s: give it less with --backlog, or another --dir", c, gigabytes(c.DiskBytes()), o.dataDir(), gigabytes(free))
		}
		for i := range cells {
			s, err := scenarioOf(cells[i])
			if err != nil {
				return err
			}
			if s.Open && cells[i].Rate == 0 {
				if cells[i].Rate, err = o.calibrate(ctx, cells[i], systems(cells[i]), rates); err != nil {
					return err
				}
			}
		}
		for round := range o.Rounds {
			for _, sys := range systems(cells[0]) {
				left := ""
				if done > 0 {
					left = fmt.Sprintf(" · about %v left", (time.Since(began) / time.Duration(done) * time.Duration(total-done)).Round(time.Second))
				}
				o.Log("%s: %s, round %d of %d%s", titles(cells), title(sys), round+1, o.Rounds, left)
				results, err := o.turn(ctx, cells, sys)
				done++
				if err != nil {
					return fmt.Errorf("%s, %s: %w", titles(cells), title(sys), err)
				}
				for _, r := range results {
					if r.Round = round + 1; r.Failed != "" {
						o.Log("  failed: %s", r.Failed)
					}
					each(r)
				}
			}
		}
	}
	return nil
}

func (o *Options) dataDir() string {
	if o.Dir == "" {
		return os.TempDir()
	}
	return o.Dir
}

func title(s System) string {
	if s.Mode() == "" {
		return s.Name()
	}
	return s.Name() + " " + s.Mode()
}

// calibrate finds the rate of an open loop: half of what the slowest system manages in a closed one, with two significant digits. Cells
// that differ only in what a closed loop does not have share it.
func (o *Options) calibrate(ctx context.Context, c Cell, systems []System, known map[Cell]int) (int, error) {
	c.Scenario, c.Backlog, c.Consumers, c.InflightBytes = "T1", 0, 0, closedWindow
	if rate := known[c]; rate > 0 {
		return rate, nil
	}
	short := *o
	short.Verify, short.Warmup, short.Measure = false, min(o.Warmup, 2*time.Second), min(o.Measure, 4*time.Second)
	slowest := math.Inf(1)
	for _, sys := range systems {
		o.Log("%s: %s, to find the rate of the open loop", c, title(sys))
		results, err := short.turn(ctx, []Cell{c}, sys)
		if err != nil {
			return 0, fmt.Errorf("find the rate of the open loop, %s: %w", title(sys), err)
		}
		r := results[0]
		if r.Failed != "" {
			o.Log("  %s does not count: %s", title(sys), r.Failed)
			continue
		}
		if r.Skipped == "" {
			o.Log("  %.0f records/s", r.RecordsSec)
			slowest = min(slowest, r.RecordsSec)
		}
	}
	if math.IsInf(slowest, 1) {
		return 1, nil // nobody offers the cell, or nobody can do it: the turns will say so
	}
	rate := openRate(slowest)
	o.Log("  the rate is %d records/s, half of the slowest", rate)
	known[c] = rate
	return rate, nil
}

// openRate is half of what the slowest does, with two significant digits.
func openRate(slowest float64) int {
	half := max(slowest/2, 1)
	unit := math.Pow(10, max(0, math.Floor(math.Log10(half))-1))
	return max(1, int(math.Floor(half/unit)*unit))
}

// turn takes a system through cells, one result for each. Its error is one that ends the run.
func (o *Options) turn(ctx context.Context, cells []Cell, s System) (results []Result, err error) {
	results = make([]Result, len(cells))
	for i, c := range cells {
		results[i] = Result{Cell: c, System: s.Name(), Mode: s.Mode(), Began: time.Now().UTC()}
	}
	dir, err := os.MkdirTemp(o.Dir, "bench-"+s.Name()+"-")
	if err != nil {
		return results, err
	}
	t := &turn{o: *o, cell: cells[0], sys: s, dir: filepath.Join(dir, "data"), load: newLoad(cells[0], s), res: &results[0], of: len(cells)}
	defer func() {
		err = errors.Join(err, os.RemoveAll(dir))
		t.spend("")
	}()
	defer func() {
		t.spend("stop")
		s.Disconnect()
		// What the nodes have is thrown away: there is nothing to wait for, and in a short run a stop in order is most of a turn.
		for node, pid := range s.Pids() {
			if pid == 0 {
				continue
			}
			if kill := s.Kill(node); kill != nil {
				t.note("while stopping node %d: %v", node+1, kill)
			}
		}
		if stop := s.Stop(); stop != nil { // it waits for their end
			t.note("while stopping: %v", stop)
		}
	}()
	defer t.load.end() // before the nodes stop
	fail := t.whole(ctx, cells, results)
	if ctx.Err() != nil {
		return results, ctx.Err()
	}
	if fail == nil {
		return results, nil
	}
	for i := range results[t.at:] { // those before it have their figures
		switch r := &results[t.at+i]; {
		case errors.Is(fail, ErrNotOffered):
			r.Skipped = fail.Error()
		case i == 0:
			r.Failed = fail.Error()
		default:
			r.Failed = fmt.Sprintf("not tried, as %s failed before it on the same data", t.cell.Scenario)
		}
	}
	return results, nil
}

// whole is a turn from the start of the nodes to the verification.
func (t *turn) whole(ctx context.Context, cells []Cell, results []Result) error {
	if t.cell.RecordBytes < recordHeader {
		return fmt.Errorf("records have %d bytes at least: they say who sent them when", recordHeader)
	}
	limited, cancel := context.WithTimeout(ctx, startLimit+time.Duration(t.cell.Partitions)*startEach)
	defer cancel()
	t.status("starting")
	t.spend("start")
	if err := t.sys.Start(limited, t.dir, allOf(cells)); err != nil {
		return fmt.Errorf("start: %w", err)
	}
	t.spend("create")
	if err := t.sys.Create(limited, t.cell, func(n int) { t.status("%d of %d partitions made", n, t.cell.Partitions) }); err != nil {
		return fmt.Errorf("create the partitions: %w", err)
	}
	if err := t.allLed(limited); err != nil {
		return err
	}
	for i, c := range cells {
		t.spend("load")
		t.at, t.cell, t.res = i, c, &results[i]
		if err := t.under(ctx); err != nil {
			if t.res.Verified != nil { // what is wrong may be of any of them
				for j := range results[:i] {
					results[j].Verified, results[j].Failed = t.res.Verified, fmt.Sprintf("read back once, in the end, after %s: %v", t.cell.Scenario, err)
				}
			}
			return err
		}
	}
	for i := range results[:len(results)-1] {
		r := &results[i]
		r.Verified = t.res.Verified
		r.Notes = append(r.Notes, fmt.Sprintf("read back once, in the end, after %s", t.cell.Scenario))
	}
	return nil
}

// under loads the system as its cell says.
func (t *turn) under(ctx context.Context) error {
	s, err := scenarioOf(t.cell)
	if err != nil {
		return err
	}
	r := t.res
	r.WarmupSec = t.warmup().Seconds()
	if t.at > 0 {
		r.Began = time.Now().UTC()
		t.load.again()
	}
	watched, done := context.WithCancel(ctx)
	var watching sync.WaitGroup
	watching.Go(func() { t.watchNodes(watched) })
	err = s.run(ctx, t) // the producers outlive it
	done()
	watching.Wait()
	if t.at == t.of-1 || err != nil {
		t.load.end()
	}
	if t.used != nil {
		t.used.end()
		t.used = nil
	}
	all := t.load.refused.Load()
	r.Errors, t.refused = all-t.refused, all
	r.Series, r.Marks = t.load.series()
	if err == nil {
		if t.load.totalAck() == 0 {
			return errors.Join(errors.New("nothing was acknowledged"), t.load.failure())
		}
		if r.Errors > 0 {
			t.note("%d records were refused, the first: %v", r.Errors, t.load.failure())
		}
	}
	return err
}

// watchNodes shows how it stands, each second.
func (t *turn) watchNodes(ctx context.Context) {
	last, at := int64(0), time.Now()
	for ctx.Err() == nil {
		pause(ctx, time.Second)
		now := t.load.totalAck()
		took := time.Since(at).Seconds()
		rate := float64(now-last) / took
		last, at = now, time.Now()
		t.load.mu.Lock()
		name := t.load.phase.name
		t.load.mu.Unlock()
		t.status("%s · %.0f records/s, %.1f MB/s · %s acknowledged", name, rate, rate*float64(t.cell.RecordBytes)/1e6, gigabytes(now*int64(t.cell.RecordBytes)))
	}
}

func (t *turn) status(format string, args ...any) {
	t.o.Status("%s %s: "+format, append([]any{t.cell.Scenario, title(t.sys)}, args...)...)
}

// spend begins a step of the turn; an empty one ends the last.
func (t *turn) spend(step string) {
	if t.step != "" {
		t.res.Wall = append(t.res.Wall, Spent{t.step, time.Since(t.since).Seconds()})
	}
	t.step, t.since = step, time.Now()
}

func (t *turn) note(format string, args ...any) {
	t.res.Notes = append(t.res.Notes, fmt.Sprintf(format, args...))
}

// allLed waits until each partition has a leader.
func (t *turn) allLed(ctx context.Context) error {
	return t.await(ctx, "leaders of all partitions", func() (bool, error) {
		leaders, err := t.sys.Leaders(ctx, t.cell.Partitions)
		return err == nil && !slices.Contains(leaders, -1), err
	})
}

// await asks again and again whether something is so. An error is reported only if it stays; that a node has ended is one at once.
func (t *turn) await(ctx context.Context, what string, is func() (bool, error)) error {
	return t.awaitEvery(ctx, t.o.poll, what, is)
}

// awaitEvery is await with another time between two looks.
func (t *turn) awaitEvery(ctx context.Context, every time.Duration, what string, is func() (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, t.o.Limit)
	defer cancel()
	for {
		ok, err := is()
		if ok {
			return nil
		}
		if errors.Is(err, errEnded) {
			return fmt.Errorf("waiting for %s: %w", what, err)
		}
		if pause(ctx, every); ctx.Err() != nil {
			return fmt.Errorf("waiting for %s: %w", what, errors.Join(err, ctx.Err()))
		}
	}
}

// measure begins to account for what the nodes use.
func (t *turn) measure() { t.used = watch(t.sys.Pids) }

// fill puts the measured phase into the result. moved is what the servers moved, in bytes of records.
func (t *turn) fill(p Phase, moved float64) {
	r := t.res
	used := t.used.end()
	t.used = nil
	r.Seconds, r.Records, r.RecordsSec, r.Latency = p.Seconds, p.Records, p.RecordsSec, p.Latency
	r.MBSec = r.RecordsSec * float64(t.cell.RecordBytes) / 1e6
	r.CPUSec, r.ClientCPU, r.RSSMax, r.RSSSum = used.cpu, used.client, used.rssMax/1e6, used.rssSum/1e6
	if moved > 0 {
		r.CPUSecGB = used.cpu / (moved / gigabyte)
	}
}

func (t *turn) bytes(records int64) float64 { return float64(records) * float64(t.cell.RecordBytes) }

// verify reads everything back, if that is asked for. Lost, duplicated and disordered records fail the turn; but where nodes are killed
// they are, of a peer, what the scenario is there to show.
func (t *turn) verify(ctx context.Context) (err error) {
	if t.at < t.of-1 { // all is read back once
		t.load.setPace(-1)
		return t.load.settle(ctx)
	}
	t.load.end()
	if !t.o.Verify {
		return nil
	}
	t.load.mu.Lock()
	t.load.phase.name = "reading everything back"
	t.load.mu.Unlock()
	t.spend("read back")
	ctx, cancel := context.WithTimeout(ctx, readLimit+time.Duration(t.bytes(t.load.totalAck())/readRate*float64(time.Second)))
	defer cancel()
	t.res.Verified, err = t.load.verify(ctx)
	if err == nil && !t.res.Verified.OK() {
		err = fmt.Errorf("verification failed: %+v", *t.res.Verified)
		if t.cell.Faults() && t.sys.Name() != OurName {
			t.note("%v", err)
			return nil
		}
	}
	return err
}

// begin makes the producers, and lets them go at a rate once each partition has acknowledged a record: what a system takes to hand out
// producer ids and to load its code is not what is measured.
func (t *turn) begin(ctx context.Context, rate int) error {
	if t.at > 0 {
		t.load.setPace(rate)
		return nil
	}
	if err := t.load.start(ctx, -1); err != nil {
		return err
	}
	limited, cancel := context.WithTimeout(ctx, t.o.Limit)
	defer cancel()
	if err := t.load.probe(limited); err != nil {
		return fmt.Errorf("the first record of each partition: %w", err)
	}
	t.load.setPace(rate)
	return nil
}

// afterWarmup is how long a schedule has been under way when its measurement begins.
const afterWarmup = 500 * time.Millisecond

// warmUp lets the load run for a while. A schedule begins anew then: what a system that is not warm has left behind shall not be waited for
// by what is measured.
func (t *turn) warmUp(ctx context.Context) error {
	t.spend("warm-up")
	pause(ctx, t.warmup())
	if t.cell.Rate > 0 {
		t.load.setPace(-1)
		if err := t.load.settle(ctx); err != nil {
			return err
		}
		t.load.setPace(t.cell.Rate)
		pause(ctx, min(t.warmup(), afterWarmup))
	}
	return ctx.Err()
}

func (t *turn) warmup() time.Duration {
	if w, ok := t.sys.(warmer); ok && t.o.Warmup > 0 && t.at == 0 {
		return max(t.o.Warmup, w.LeastWarmup())
	}
	return t.o.Warmup
}

// steady is T1, T2, L1, L2 and M1: a warm-up, and a measurement.
func steady(ctx context.Context, t *turn) error {
	consumers, err := t.consumers(ctx)
	if err != nil {
		return err
	}
	defer consumers.stop()
	if err := t.begin(ctx, t.cell.Rate); err != nil {
		return err
	}
	if err := t.warmUp(ctx); err != nil {
		return err
	}
	t.spend("measure")
	t.load.next("measuring")
	t.measure()
	if err := t.lasts(ctx); err != nil {
		return err
	}
	p, endToEnd := t.load.next("ending")
	t.fill(p, t.bytes(p.Records))
	if t.cell.Consumers > 0 {
		t.res.EndToEnd = endToEndOf(endToEnd)
	}
	t.load.end()
	if err := consumers.stop(); err != nil {
		return err
	}
	return t.verify(ctx)
}

// lasts waits for as long as a phase is measured, and longer if nothing was acknowledged, or read where somebody reads along.
func (t *turn) lasts(ctx context.Context) error {
	pause(ctx, t.o.Measure)
	return t.await(ctx, "a record that is acknowledged, and read", func() (bool, error) {
		acked, read := t.load.soFar()
		return acked > 0 && (read > 0 || t.cell.Scenario != "L2"), t.load.failure()
	})
}

func endToEndOf(h *hdrhistogram.Histogram) *Latency {
	l := latencyOf(h)
	return &l
}

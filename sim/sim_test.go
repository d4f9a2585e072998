package sim

import (
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

var (
	seeds   = flag.Int("seeds", coverageSeeds, "how many seeds TestSeeds runs, from -from on")
	from    = flag.Uint64("from", 1, "first seed of TestSeeds")
	fresh   = flag.Int("fresh", 0, "how many seeds drawn afresh TestFreshSeeds runs; they are printed")
	seconds = flag.Int("seconds", 0, "run TestSoak for that long on fresh seeds")
	seed    = flag.Uint64("seed", 0, "the seed of TestSeed")
	trace   = flag.Bool("trace", false, "TestSeed prints every step")
	paced   = flag.Bool("paced", false, "whoever is behind catches up at the pace of multi.GroupConfig.Throttle, as a broker's partitions do")
	relaxed = flag.Bool("relaxed", false, "all groups have relaxed durability")
)

// A run leaves much garbage and keeps little: collecting less often is a third less work.
func TestMain(m *testing.M) {
	debug.SetGCPercent(400)
	os.Exit(m.Run())
}

// sweep runs seeds on all processors until next is exhausted or one fails, and adds up what they did.
func sweep(t *testing.T, next func() (uint64, bool)) Report {
	t.Helper()
	var (
		mu    sync.Mutex
		total Report
		fails int
		stop  atomic.Bool
		wg    sync.WaitGroup
	)
	begin := time.Now()
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for !stop.Load() {
				mu.Lock()
				s, ok := next()
				mu.Unlock()
				if !ok {
					return
				}
				rep, err := Run(Options{Seed: s, History: linearizable, Paced: *paced, Relaxed: *relaxed})
				mu.Lock()
				total.Add(rep)
				if err != nil {
					t.Error(err)
					if fails++; fails >= 5 {
						stop.Store(true)
					}
				} else if rep.Faults < minFaults || rep.Ops < 200 || rep.Simulated < 60*time.Second {
					t.Errorf("seed %d did too little: %v", s, rep)
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	took := time.Since(begin)
	t.Logf("%s  %.0f seeds a minute, %.0f events a second", total, float64(total.Runs)/took.Minutes(), float64(total.Events)/took.Seconds())
	return total
}

// TestSeeds runs fixed seeds: -seeds of them, from -from on. Together they must reach what the schedule is there for.
func TestSeeds(t *testing.T) {
	n, s := *seeds, *from
	if testing.Short() {
		n = min(n, 10)
	}
	total := sweep(t, func() (uint64, bool) {
		if n == 0 {
			return 0, false
		}
		n--
		s++
		return s - 1, true
	})
	if total.Runs >= coverageSeeds && !*relaxed && !t.Failed() { // where all groups are relaxed few disks may fail: see faults_disk.go
		for _, what := range total.missing() {
			t.Errorf("%d seeds never reached: %s", total.Runs, what)
		}
	}
}

// TestFreshSeeds runs -fresh seeds that nobody has seen before, and prints them.
func TestFreshSeeds(t *testing.T) {
	n := *fresh
	if n == 0 {
		t.Skip("-fresh N asks for fresh seeds")
	}
	base := rand.Uint64() >> 16
	t.Logf("fresh seeds %d to %d", base, base+uint64(n)-1)
	sweep(t, func() (uint64, bool) {
		if n == 0 {
			return 0, false
		}
		n--
		base++
		return base - 1, true
	})
}

// TestSoak runs fresh seeds for -seconds.
func TestSoak(t *testing.T) {
	if *seconds == 0 {
		t.Skip("-seconds S asks for a soak")
	}
	s := rand.Uint64() >> 16
	t.Logf("soak from seed %d on", s)
	end := time.Now().Add(time.Duration(*seconds) * time.Second)
	sweep(t, func() (uint64, bool) {
		s++
		return s - 1, time.Now().Before(end)
	})
}

// TestSeed replays one seed, with -trace step by step.
func TestSeed(t *testing.T) {
	if *seed == 0 {
		t.Skip("-seed N asks for one seed")
	}
	var out io.Writer
	if *trace {
		out = os.Stdout
	}
	rep, err := Run(Options{Seed: *seed, Trace: out, History: linearizable, Paced: *paced, Relaxed: *relaxed})
	t.Log(rep)
	if err != nil {
		t.Error(err)
	}
}

// TestSameSeedSameRun guards determinism: everything else here stands on it.
func TestSameSeedSameRun(t *testing.T) {
	for _, seed := range []uint64{7, 5} { // 5: where memory lies is a part of it
		a, errA := Run(Options{Seed: seed})
		b, errB := Run(Options{Seed: seed})
		if fmt.Sprint(a, errA) != fmt.Sprint(b, errB) {
			t.Fatalf("seed %d gave two runs:\n%v%v\n%v%v", seed, a, errA, b, errB)
		}
	}
}

//go:build linux

// Package campaign_test runs real brokers, each in a network namespace of its own, under faults that a seed draws, and checks what they promise
// meanwhile: acknowledged records are there, once, in order, with one value at each offset whoever reads it; readers get no gap; no answer of any
// broker is older than an acknowledgement before the question; committed offsets do not go back; transactions are seen whole or not at all; and
// when the faults are over all partitions are written to again, replicas hold the same, and brokers have given back what the load took. `kill -9`
// keeps the page cache: power losses are package broker's and the simulator's.
//
// It takes minutes, root, `ip` and /dev/net/tun, so it is run by hand: HACKING.md has the command.
package campaign_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
)

var (
	minutes  = flag.Float64("minutes", 0, "how long there are faults; 0: the campaign is not run")
	seed     = flag.Uint64("seed", 0, "what draws the faults; 0: drawn afresh, and printed")
	kinds    = flag.String("kinds", "net,proc,admin", "which faults: groups (net, proc, admin, disk) or single ones, see faultGroups")
	brokers  = flag.Int("brokers", 3, "how many brokers")
	replicas = flag.Int("replicas", 3, "of each partition")
	binary   = flag.String("binary", "", "run this broker; default: the one that is built from here")
	keep     = flag.String("keep", "", "an empty directory for the brokers' logs and, of the time after the load, heap profiles; default: logs go with the test")
)

const (
	// parts is how many partitions each topic has.
	parts = 8
	// recovery bounds the time from the end of faults until all partitions have acknowledged something.
	recovery = 2 * time.Minute
	// wholeAgain bounds the time until all replicas are in sync.
	wholeAgain = 4 * time.Minute
	// slow is what is said of both.
	slow = 5 * time.Second
	// maxPrinted bounds the violations that are printed.
	maxPrinted = 40
)

// campaign is one run.
type campaign struct {
	t            *testing.T
	c            *cluster
	w            *work
	rng          *rand.Rand // the faults' alone
	adm          *kadm.Client
	counts       map[string]int // of faults
	slowest      time.Duration  // recovery
	slowestWhole time.Duration  // until all replicas were in sync
	churned      int            // topics
	wg           sync.WaitGroup // faults that go on
	stalled      atomic.Int64   // the longest that this process stood still lately, in nanoseconds: brokers are not better off
}

// report takes violations, and lines for who watches.
type report struct {
	t *testing.T
	n atomic.Int64 // violations
}

func (r *report) violation(format string, args ...any) {
	if n := r.n.Add(1); n <= maxPrinted {
		r.t.Errorf("%s VIOLATION: "+format, append([]any{time.Now().UTC().Format("15:04:05.000")}, args...)...)
	}
}

func (r *report) say(format string, args ...any) {
	r.t.Logf("%s "+format, append([]any{time.Now().UTC().Format("15:04:05.000")}, args...)...) // as in the brokers' logs
}

func TestCampaign(t *testing.T) {
	if *minutes == 0 {
		t.Skip("give it -minutes")
	}
	if os.Getuid() != 0 {
		t.Skip("network namespaces want root")
	}
	for _, what := range []string{tunDevice, "/proc/self/ns/net"} {
		if _, err := os.Stat(what); err != nil {
			t.Skip(err)
		}
	}
	if *seed == 0 {
		*seed = rand.Uint64N(1e9)
	}
	t.Logf("-seed %d -kinds %s -brokers %d -replicas %d -minutes %v", *seed, *kinds, *brokers, *replicas, *minutes)
	rep := &report{t: t}
	c := newCluster(rep, build(t), *brokers)
	w := newWork(rep, c)
	cl := w.client()
	defer cl.Close()
	m := &campaign{t: t, c: c, w: w, rng: rand.New(rand.NewPCG(*seed, 5)), adm: kadm.NewClient(cl), counts: make(map[string]int)}
	relaxed := "relaxed"
	for _, topic := range w.all() {
		configs := make(map[string]*string)
		if topic == relaxedTopic {
			configs["balsa.durability"] = &relaxed
		}
		m.create(topic, configs)
	}
	go m.watchStalls()
	before := c.usage()
	stop := w.start()
	m.run(time.Duration(*minutes * float64(time.Minute)))
	stop()
	c.checkUsage(before)
	m.whole() // also the topics that come and go
	groups := m.describe()
	for what, n := range map[string]int64{"acknowledged": w.acks.Load(), "read": w.reads.Load(), "answered by single brokers": w.answers.Load(), "committed": w.commits.Load(), "done in transactions": w.transactions.Load()} {
		if n == 0 {
			rep.violation("nothing was %s: nothing is proved", what)
		}
	}
	for _, n := range c.nodes {
		if _, err := c.terminate(n); err != nil {
			rep.violation("%v", err)
		}
		n.checkLog(rep)
	}
	m.compareReplicas(groups)
	t.Logf("acknowledged %d, read %d, answers of single brokers %d, commits %d, transactions %d; faults %v; slowest recovery %v, all in sync %v; %d violations",
		w.acks.Load(), w.reads.Load(), w.answers.Load(), w.commits.Load(), w.transactions.Load(), m.counts, m.slowest.Round(time.Millisecond), m.slowestWhole.Round(time.Millisecond), rep.n.Load())
}

// build makes the broker that is tested.
func build(t *testing.T) string {
	t.Helper()
	if *binary != "" {
		path, err := filepath.Abs(*binary)
		if err != nil {
			t.Fatal(err)
		}
		return path
	}
	path := filepath.Join(t.TempDir(), "broker")
	if out, err := exec.Command("go", "build", "-o", path, "github.com/balsamq/balsa/cmd/broker").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return path
}

// create makes a topic, however often that must be tried.
func (m *campaign) create(topic string, configs map[string]*string) {
	deadline := time.Now().Add(recovery)
	for {
		ctx, cancel := context.WithTimeout(m.t.Context(), 10*time.Second)
		r, err := m.adm.CreateTopic(ctx, parts, int16(*replicas), configs, topic)
		cancel()
		if err == nil {
			err = r.Err
		}
		if err == nil || errors.Is(err, kerr.TopicAlreadyExists) { // by an attempt whose answer was late
			return
		}
		if time.Now().After(deadline) {
			m.t.Fatalf("topic %s cannot be made: %v", topic, err)
		}
		m.pause(100 * time.Millisecond)
	}
}

// watchStalls notices when this process does not run, as on a crowded machine.
func (m *campaign) watchStalls() {
	for last := time.Now(); m.t.Context().Err() == nil; {
		m.pause(50 * time.Millisecond)
		now := time.Now()
		m.stalled.Store(max(m.stalled.Load(), int64(now.Sub(last))))
		last = now
	}
}

// since says how long something has taken, and what of that the machine may be to blame for.
func (m *campaign) since(from time.Time) string {
	return fmt.Sprintf("%v (this process stood still for up to %v)", time.Since(from).Round(time.Millisecond), time.Duration(m.stalled.Load()).Round(time.Millisecond))
}

func (m *campaign) pause(d time.Duration) { pause(m.t.Context(), d) }

// pause lets faults last, and keeps loads from spinning: nothing is waited for that way.
func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

func (m *campaign) duration(least, most time.Duration) time.Duration {
	return least + time.Duration(m.rng.Int64N(int64(most-least)+1))
}

// run brings faults, one to three at a time, and heals them, for so long.
func (m *campaign) run(d time.Duration) {
	var names []string
	for _, k := range strings.Split(*kinds, ",") {
		if g := faultGroups[k]; g != nil {
			names = append(names, g...)
		} else if faults[k] != nil {
			names = append(names, k)
		} else {
			m.t.Fatalf("-kinds: there is no fault %q", k)
		}
	}
	m.pause(3 * time.Second)
	for end := time.Now().Add(d); time.Now().Before(end); {
		n := 1 + m.rng.IntN(3)
		for range min(n, len(names)) {
			name := names[m.rng.IntN(len(names))]
			m.counts[name]++
			v := m.victims()
			m.w.rep.say("%s: broker %d, %d, leader %d", name, v.a.id, v.b.id, v.leader.id)
			faults[name](m, v)
			m.pause(m.duration(0, 3*time.Second))
		}
		m.pause(m.duration(500*time.Millisecond, 12*time.Second))
		m.heal()
		if m.rng.IntN(3) > 0 {
			m.recovered()
		}
		if m.rng.IntN(4) == 0 {
			m.whole()
		}
	}
	m.heal()
	m.recovered()
	m.whole()
}

// heal ends all faults.
func (m *campaign) heal() {
	m.c.net.heal()
	m.revive()
	m.wg.Wait()
	m.revive() // what such a fault has stopped
}

// revive starts brokers that are down, and lets go on those that are stopped.
func (m *campaign) revive() {
	type starting struct {
		n     *node
		ready <-chan error
	}
	var all []starting
	for _, n := range m.c.nodes {
		n.signalContinue()
		if !n.runs() {
			all = append(all, starting{n, m.c.start(n)})
		}
	}
	for _, s := range all {
		select {
		case err := <-s.ready:
			if err != nil {
				m.w.rep.violation("%v; its log ends with\n%s", err, s.n.logEnd())
			}
		case <-time.After(recovery):
			m.w.rep.violation("broker %d is not ready after %v", s.n.id, recovery)
		}
	}
}

// recovered waits until all partitions have acknowledged what was sent from now on.
func (m *campaign) recovered() {
	from := time.Now()
	m.stalled.Store(0)
	for {
		missing := m.w.silentSince(from)
		if len(missing) == 0 {
			break
		}
		if time.Since(from) > recovery {
			m.w.rep.violation("%s after the faults nothing new was acknowledged in %v\n%s", m.since(from), missing, m.cli("cluster", "status"))
			return
		}
		m.pause(20 * time.Millisecond)
	}
	took := time.Since(from)
	if took > slow {
		m.w.rep.say("all partitions are written to again after %s", m.since(from))
	}
	m.slowest = max(m.slowest, took)
}

// whole waits until all replicas are in sync, and says whether they are.
func (m *campaign) whole() bool {
	from := time.Now()
	m.stalled.Store(0)
	for deadline := from.Add(wholeAgain); ; m.pause(100 * time.Millisecond) {
		lacks := m.w.lacking()
		if lacks == "" {
			took := time.Since(from)
			if took > slow {
				m.w.rep.say("all replicas are in sync after %s", m.since(from))
			}
			m.slowestWhole = max(m.slowestWhole, took)
			return true
		}
		if time.Now().After(deadline) {
			m.w.rep.violation("not all replicas are in sync after %s: %s", m.since(from), lacks)
			return false
		}
	}
}

// cli runs a command of the broker's, and returns what it says.
func (m *campaign) cli(args ...string) string {
	ctx, cancel := context.WithTimeout(m.t.Context(), 40*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, m.c.binary, append(args, "-b", strings.Join(m.c.seeds(), ","), "--timeout", "20s")...).CombinedOutput()
	if err != nil {
		return fmt.Sprintf("%v: %s", err, out)
	}
	return string(out)
}

package broker

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"golang.org/x/sync/errgroup"

	"github.com/balsamq/balsa/internal/vfs"
	"github.com/balsamq/balsa/raft"
	"github.com/balsamq/balsa/sim"
)

// Power loss of the whole cluster: three brokers in this process, on file systems that forget whatever was not synced, all
// cut off in the same instant while a stock client writes. What the client was told is written must be there afterwards,
// once, in its place.
//
//	go test ./broker -run PowerLoss -crashes 1000 -seed 1

var (
	crashes   = flag.Int("crashes", 4, "power losses in TestPowerLoss")
	crashSeed = flag.Uint64("seed", 0, "of TestPowerLoss; 0: by chance")
	skipSync  = flag.String("skip-sync", "", "a kind of sync, of lostSyncs, that TestPowerLoss leaves out")
	loseSyncs = flag.Bool("lose-syncs", false, "run TestLostSyncsAreSeen, which takes minutes")
)

// lostSyncs are all syncs that a broker does, by what they make durable (digits stand as N), and who sees it when one is
// left out: this test, the simulator (which takes snapshots and drops old segments all the time), or nobody, because
// nothing is promised on it.
var lostSyncs = map[string]string{
	"sync hardstates":        "here",
	"sync N-N.log":           "here",
	"sync meta.json.tmp":     "here",
	"syncdir /":              "here",
	"syncdir /data":          "here",
	"syncdir /data/groups":   "here",
	"syncdir /data/groups/N": "here",
	"sync N-N.idx":           "segment: TestDamage; it takes a file that vanishes, too",
	"sync meta.tmp":          "sim: TestLostSyncsAreSeen",
	"sync snapshot.tmp":      "sim: TestLostSyncsAreSeen",
	"sync peers.json.tmp":    "nobody: a cache of addresses",
	"sync scrub.json.tmp":    "nobody: where a walk has come to",
}

var digits = regexp.MustCompile(`[0-9a-f]*[0-9][0-9a-f]*`)

// syncKind names a sync; "" is any other operation.
func syncKind(op vfs.Op, name string) string {
	switch op {
	case vfs.OpSync:
		return "sync " + digits.ReplaceAllString(path.Base(name), "N")
	case vfs.OpSyncDir:
		return "syncdir " + digits.ReplaceAllString(path.Join("/", name), "N")
	}
	return ""
}

// TestLostSyncsAreSeen shows that TestPowerLoss can fail: it does without any one kind of sync.
func TestLostSyncsAreSeen(t *testing.T) {
	if !*loseSyncs {
		t.Skip("-lose-syncs asks for it")
	}
	for kind, where := range lostSyncs {
		if where != "here" {
			continue
		}
		t.Run(kind, func(t *testing.T) {
			for try := range 4 {
				out, err := exec.Command(os.Args[0], "-test.run", "^TestPowerLoss$", "-test.v", "-crashes", "60", "-skip-sync", kind).CombinedOutput()
				if err != nil {
					for line := range strings.SplitSeq(string(out), "\n") {
						if strings.Contains(line, "_test.go:") {
							t.Logf("seen in try %d: %.300s", try+1, strings.TrimSpace(line))
							return
						}
					}
					t.Logf("seen in try %d: %v", try+1, err)
					return
				}
			}
			t.Errorf("240 power losses without this sync, and nothing noticed")
		})
	}
}

var errPowerLoss = errors.New("the power is out")

// mains is the power supply of several file systems: every operation happens wholly before the cut or not at all.
type mains struct {
	mu  sync.RWMutex
	out bool
}

func (m *mains) do(f func() error) error {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if m.out {
		return errPowerLoss
	}
	return f()
}

// poweredFS is a file system that works as long as there is power.
type poweredFS struct {
	inner vfs.FS
	m     *mains
}

type poweredFile struct {
	inner vfs.File
	m     *mains
}

func (p poweredFS) file(open func() (vfs.File, error)) (f vfs.File, err error) {
	err = p.m.do(func() error { f, err = open(); return err })
	if err != nil {
		return nil, err
	}
	return poweredFile{f, p.m}, nil
}

func (p poweredFS) Create(n string) (vfs.File, error) {
	return p.file(func() (vfs.File, error) { return p.inner.Create(n) })
}
func (p poweredFS) Open(n string) (vfs.File, error) {
	return p.file(func() (vfs.File, error) { return p.inner.Open(n) })
}
func (p poweredFS) Remove(n string) error { return p.m.do(func() error { return p.inner.Remove(n) }) }
func (p poweredFS) RemoveAll(n string) error {
	return p.m.do(func() error { return p.inner.RemoveAll(n) })
}
func (p poweredFS) Rename(o, n string) error {
	return p.m.do(func() error { return p.inner.Rename(o, n) })
}
func (p poweredFS) MkdirAll(n string) error {
	return p.m.do(func() error { return p.inner.MkdirAll(n) })
}
func (p poweredFS) SyncDir(n string) error { return p.m.do(func() error { return p.inner.SyncDir(n) }) }
func (p poweredFS) ReadDir(n string) (names []string, err error) {
	err = p.m.do(func() error { names, err = p.inner.ReadDir(n); return err })
	return names, err
}
func (p poweredFS) Stat(n string) (fi fs.FileInfo, err error) {
	err = p.m.do(func() error { fi, err = p.inner.Stat(n); return err })
	return fi, err
}
func (p poweredFS) Lock(n string) (unlock func() error, err error) {
	err = p.m.do(func() error { unlock, err = p.inner.Lock(n); return err })
	return unlock, err
}
func (p poweredFS) Free(n string) (free int64, err error) {
	err = p.m.do(func() error { free, err = p.inner.Free(n); return err })
	return free, err
}
func (p poweredFS) Total(n string) (total int64, err error) {
	err = p.m.do(func() error { total, err = p.inner.Total(n); return err })
	return total, err
}

func (p poweredFS) Boot() string { return p.inner.Boot() }

func (p poweredFile) SetDirect() bool { return p.inner.SetDirect() }

func (p poweredFile) ReadAt(b []byte, off int64) (n int, err error) {
	err = p.m.do(func() error { n, err = p.inner.ReadAt(b, off); return err })
	return n, err
}
func (p poweredFile) WriteAt(b []byte, off int64) (n int, err error) {
	err = p.m.do(func() error { n, err = p.inner.WriteAt(b, off); return err })
	return n, err
}
func (p poweredFile) WriteSync(b [][]byte, off int64) error {
	if _, err := p.WritevAt(b, off); err != nil {
		return err
	}
	return p.m.do(func() error { return p.inner.WriteSync(b, off) })
}
func (p poweredFile) WritevAt(b [][]byte, off int64) (n int64, err error) {
	err = p.m.do(func() error { n, err = p.inner.WritevAt(b, off); return err })
	return n, err
}
func (p poweredFile) WriteCached(b [][]byte, off int64) (n int64, err error) {
	err = p.m.do(func() error { n, err = p.inner.WriteCached(b, off); return err })
	return n, err
}
func (p poweredFile) Allocate(off, n int64) error {
	return p.m.do(func() error { return p.inner.Allocate(off, n) })
}
func (p poweredFile) Truncate(n int64) error {
	return p.m.do(func() error { return p.inner.Truncate(n) })
}
func (p poweredFile) Size() (n int64, err error) {
	err = p.m.do(func() error { n, err = p.inner.Size(); return err })
	return n, err
}
func (p poweredFile) Sync() error  { return p.m.do(p.inner.Sync) }
func (p poweredFile) Close() error { return p.inner.Close() }

// durableStates is sim's journal with a goroutine that flushes it.
type durableStates struct {
	*sim.HardStates
	mu         sync.Mutex
	reported   map[raft.GroupID]raft.HardState // guarded by mu: reported durable, in this life or an earlier one
	wake, stop chan struct{}
	wg         sync.WaitGroup
}

// Save notes what is reported durable: votes and terms must be there after the next power loss.
func (d *durableStates) Save(g raft.GroupID, hs raft.HardState, done func(error)) {
	d.HardStates.Save(g, hs, func(err error) {
		if err == nil {
			d.mu.Lock()
			d.reported[g] = hs
			d.mu.Unlock()
		}
		done(err)
	})
}

func (d *durableStates) Delete(g raft.GroupID, done func(error)) {
	d.mu.Lock()
	delete(d.reported, g)
	d.mu.Unlock()
	d.HardStates.Delete(g, done)
}

// check wants everything that was reported durable in earlier lives.
func (d *durableStates) check() error {
	for g, want := range d.reported {
		if got, ok := d.Load(g); !ok || got.Term < want.Term || got.Term == want.Term && got.Vote != want.Vote && want.Vote != 0 {
			return fmt.Errorf("group %d: %+v was reported durable, %+v is on the disk", g, want, got)
		}
	}
	return nil
}

func newDurableStates(fsys vfs.FS, reported map[raft.GroupID]raft.HardState) (*durableStates, error) {
	h, err := sim.OpenHardStates(fsys, "hardstates")
	if err != nil {
		return nil, err
	}
	d := &durableStates{HardStates: h, reported: reported, wake: make(chan struct{}, 1), stop: make(chan struct{})}
	h.OnPending(func() {
		select {
		case d.wake <- struct{}{}:
		default:
		}
	})
	d.wg.Go(func() {
		for {
			select {
			case <-d.wake:
				h.Flush()
			case <-d.stop:
				h.Flush() // nobody waits for ever
				return
			}
		}
	})
	return d, nil
}

func (d *durableStates) close() {
	close(d.stop)
	d.wg.Wait()
}

// disks are the brokers' file systems through their lives.
type disks struct {
	power  *mains
	mems   []*vfs.Mem
	states []*durableStates
}

// plugIn connects the brokers to their disks.
func (d *disks) plugIn(c *testCluster) {
	d.power = new(mains)
	before := d.states
	d.states = nil
	for i, n := range c.nodes {
		n.cfg.FS = vfs.Inject(poweredFS{d.mems[i], d.power}, func(op vfs.Op, name string) error {
			kind := syncKind(op, name)
			if _, ok := lostSyncs[kind]; !ok && kind != "" && *skipSync == "" {
				c.t.Errorf("%s %s is a sync that lostSyncs does not know: %q", op, name, kind)
			}
			if kind != "" && kind == *skipSync {
				return vfs.ErrSkip
			}
			return nil
		})
		reported := map[raft.GroupID]raft.HardState{}
		if before != nil {
			reported = before[i].reported
		}
		s, err := newDurableStates(n.cfg.FS, reported)
		if err == nil {
			err = s.check()
		}
		if err != nil {
			c.t.Fatal(err)
		}
		d.states = append(d.states, s)
		n.cfg.HardStates = s
	}
}

// cut takes the power away from everyone at once, and keeps what a power loss leaves.
func (d *disks) cut(rng *rand.Rand) {
	d.power.mu.Lock()
	defer d.power.mu.Unlock()
	d.power.out = true
	for i := range d.mems {
		d.mems[i] = d.mems[i].CrashClone(rng)
	}
}

func TestPowerLoss(t *testing.T) {
	t.Parallel()
	seed := *crashSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	defer func() {
		if t.Failed() {
			t.Logf("seed %d: go test ./broker -run PowerLoss -crashes %d -seed %d", seed, *crashes, seed)
		}
	}()
	rng := rand.New(rand.NewPCG(seed, 1))
	c := newCluster(t, 3, true)
	d := new(disks)
	for i, n := range c.nodes {
		n.cfg.ElectionTimeout = 150 * time.Millisecond
		d.mems = append(d.mems, vfs.NewMem(seed+uint64(i)))
	}
	d.plugIn(c)
	c.start(c.nodes...)
	c.awaitVoters(3)
	const partitions = 3
	c.nodes[0].mustCreate(t, "a", partitions, 3)
	var seeds []string
	for _, n := range c.nodes {
		n.cfg.Listen = n.KafkaAddr()
		seeds = append(seeds, n.KafkaAddr())
	}
	cl, err := kgo.NewClient(kgo.SeedBrokers(seeds...), kgo.DefaultProduceTopic("a"), kgo.MetadataMinAge(20*time.Millisecond),
		kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.RetryBackoffFn(func(int) time.Duration { return 20 * time.Millisecond }),
		kgo.RecordRetries(1<<30), kgo.ProducerBatchMaxBytes(4<<10), kgo.MaxBufferedRecords(200))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()

	type place struct {
		partition int32
		offset    int64
	}
	var mu sync.Mutex // guards acked, failed
	acked := make(map[string]place)
	var failed error
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var writer errgroup.Group
	writer.Go(func() error {
		for n := 0; ctx.Err() == nil; n++ {
			cl.Produce(ctx, &kgo.Record{Value: fmt.Appendf(nil, "%d", n), Partition: int32(n % partitions)}, func(r *kgo.Record, err error) {
				mu.Lock()
				defer mu.Unlock()
				switch {
				case err == nil:
					acked[string(r.Value)] = place{r.Partition, r.Offset}
				case errors.As(err, new(*kgo.ErrFirstReadEOF)):
					// Its connection met the dying broker's listener; the client takes that for a missing TLS and does
					// not try again. Whether the record is written is open.
				case ctx.Err() == nil && failed == nil:
					failed = err
				}
			})
		}
		return nil
	})
	count := func() int {
		mu.Lock()
		defer mu.Unlock()
		if failed != nil {
			t.Fatalf("the client gave up: %v", failed)
		}
		return len(acked)
	}
	for crash := range *crashes {
		goal := count() + rng.IntN(500)
		soon(t, fmt.Sprintf("writes go on before power loss %d", crash), func() bool { return count() >= goal })
		d.cut(rng)
		for _, s := range d.states {
			s.close()
		}
		for _, n := range c.nodes {
			_ = n.Close() // of a broker whose disk is gone, something is bound to complain
			n.Broker = nil
		}
		d.plugIn(c)
		c.start(c.nodes...)
	}
	goal := count() + 100
	soon(t, "writes go on after the last power loss", func() bool { return count() >= goal })
	cancel()
	_ = writer.Wait()

	mu.Lock()
	defer mu.Unlock()
	rd, err := kgo.NewClient(kgo.SeedBrokers(seeds...), kgo.ConsumeTopics("a"), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		t.Fatal(err)
	}
	defer rd.Close()
	rctx, rcancel := context.WithTimeout(t.Context(), patience)
	defer rcancel()
	seen, next := make(map[string]place), map[int32]int64{}
	missing := len(acked)
	for missing > 0 {
		fetches := rd.PollFetches(rctx)
		if rctx.Err() != nil {
			t.Errorf("%d of %d acknowledged records are not there", missing, len(acked))
			break
		}
		fetches.EachRecord(func(r *kgo.Record) {
			if r.Offset != next[r.Partition] {
				t.Errorf("partition %d: offset %d after %d", r.Partition, r.Offset, next[r.Partition]-1)
			}
			next[r.Partition] = r.Offset + 1
			at := place{r.Partition, r.Offset}
			if old, twice := seen[string(r.Value)]; twice {
				t.Errorf("record %s is at %v and at %v", r.Value, old, at)
			}
			seen[string(r.Value)] = at
			if want, ok := acked[string(r.Value)]; ok {
				if want != at {
					t.Errorf("record %s is at %v and was acknowledged at %v", r.Value, at, want)
				}
				missing--
			}
		})
	}
	t.Logf("%d power losses, %d acknowledged records, seed %d", *crashes, len(acked), seed)
}

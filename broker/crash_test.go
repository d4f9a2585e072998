package broker

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"golang.org/x/sync/errgroup"

	"github.com/balsamq/balsa/internal/vfs"
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
)

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

func (p poweredFile) ReadAt(b []byte, off int64) (n int, err error) {
	err = p.m.do(func() error { n, err = p.inner.ReadAt(b, off); return err })
	return n, err
}
func (p poweredFile) WriteAt(b []byte, off int64) (n int, err error) {
	err = p.m.do(func() error { n, err = p.inner.WriteAt(b, off); return err })
	return n, err
}
func (p poweredFile) WritevAt(b [][]byte, off int64) (n int64, err error) {
	err = p.m.do(func() error { n, err = p.inner.WritevAt(b, off); return err })
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
	wake, stop chan struct{}
	wg         sync.WaitGroup
}

func newDurableStates(fsys vfs.FS) (*durableStates, error) {
	h, err := sim.OpenHardStates(fsys, "hardstates")
	if err != nil {
		return nil, err
	}
	d := &durableStates{HardStates: h, wake: make(chan struct{}, 1), stop: make(chan struct{})}
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
	d.states = nil
	for i, n := range c.nodes {
		n.cfg.FS = poweredFS{d.mems[i], d.power}
		s, err := newDurableStates(n.cfg.FS)
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
	rctx, rcancel := context.WithTimeout(t.Context(), time.Minute)
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

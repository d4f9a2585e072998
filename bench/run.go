// Running a cell: warm-up, measurement, resources, verification.

package bench

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// ErrNotOffered is returned by System.Start for a cell that the system has no mode for.
var ErrNotOffered = errors.New("not offered by this system")

const (
	startLimit = 60 * time.Second
	flushLimit = 60 * time.Second
	readLimit  = 5 * time.Minute
)

// Run takes all systems through all cells, in turns within every round. Results come in the order of running.
func Run(ctx context.Context, o Options, cells []Cell, systems func(Cell) []System, each func(Result)) error {
	if o.Rounds == 0 {
		o.Rounds = 5
	}
	if o.Warmup == 0 {
		o.Warmup = 2 * time.Second
	}
	if o.Measure == 0 {
		o.Measure = 8 * time.Second
	}
	for _, c := range cells {
		for round := range o.Rounds {
			for _, s := range systems(c) {
				o.Log("%s: %s %s, round %d of %d", c, s.Name(), s.Mode(), round+1, o.Rounds)
				r, err := runOne(ctx, o, c, s)
				if err != nil {
					return fmt.Errorf("%s, %s %s: %w", c, s.Name(), s.Mode(), err)
				}
				r.Round = round + 1
				each(r)
			}
		}
	}
	return nil
}

func runOne(ctx context.Context, o Options, c Cell, s System) (r Result, err error) {
	r = Result{Cell: c, System: s.Name(), Mode: s.Mode(), Began: time.Now().UTC()}
	dir, err := os.MkdirTemp(o.Dir, "bench-"+s.Name()+"-")
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	defer func() { err = errors.Join(err, s.Stop()) }()
	startCtx, cancel := context.WithTimeout(ctx, startLimit)
	err = s.Start(startCtx, filepath.Join(dir, "data"), c)
	cancel()
	if errors.Is(err, ErrNotOffered) {
		r.Skipped = err.Error()
		return r, nil
	}
	if err != nil {
		return r, err
	}
	l := &load{cell: c, system: s, acked: make([]atomic.Uint64, c.Producers*c.Partitions), failed: make([]sync.Map, c.Producers*c.Partitions)}
	if err := l.run(ctx, o, &r); err != nil {
		return r, err
	}
	if o.Verify {
		readCtx, cancel := context.WithTimeout(ctx, readLimit)
		defer cancel()
		r.Verified, err = l.verify(readCtx)
		if err == nil && !r.Verified.OK() {
			err = fmt.Errorf("verification failed: %+v", *r.Verified)
		}
	}
	return r, err
}

// load is one run of one cell.
type load struct {
	cell   Cell
	system System
	// By producer and partition: how many records were sent so far, and which of them failed.
	acked  []atomic.Uint64 // count of acknowledged records
	sent   []uint64        // owned by the producer's goroutine until it ends
	failed []sync.Map
}

// Record header: producer, partition, sequence within the two.
const recordHeader = 4 + 4 + 8

func (l *load) run(ctx context.Context, o Options, r *Result) error {
	var (
		wg        sync.WaitGroup
		measuring atomic.Bool
		stop      atomic.Bool
		records   atomic.Int64
		failures  atomic.Int64
		mu        sync.Mutex
		hist      = newHistogram()
		firstErr  error
	)
	l.sent = make([]uint64, l.cell.Producers*l.cell.Partitions)
	producers := make([]Producer, l.cell.Producers)
	for i := range producers {
		p, err := l.system.Producer(ctx, i)
		if err != nil {
			return fmt.Errorf("producer %d: %w", i, err)
		}
		producers[i] = p
		defer p.Close()
	}
	filler := make([]byte, 1<<20) // what compression cannot shrink
	rng := rand.NewChaCha8([32]byte{1})
	_, _ = rng.Read(filler)
	for i, p := range producers {
		wg.Go(func() {
			local := newHistogram()
			var localMu sync.Mutex
			n := 0
			for !stop.Load() && ctx.Err() == nil {
				part := (n + i) % l.cell.Partitions
				slot := i*l.cell.Partitions + part
				rec := make([]byte, l.cell.RecordBytes)
				binary.BigEndian.PutUint32(rec, uint32(i))
				binary.BigEndian.PutUint32(rec[4:], uint32(part))
				seq := l.sent[slot]
				binary.BigEndian.PutUint64(rec[8:], seq)
				off := (n * 131) % (len(filler) - l.cell.RecordBytes)
				copy(rec[recordHeader:], filler[off:])
				l.sent[slot]++
				n++
				begin := time.Now()
				p.Send(ctx, part, rec, func(err error) {
					if err != nil {
						failures.Add(1)
						l.failed[slot].Store(seq, struct{}{})
						mu.Lock()
						if firstErr == nil {
							firstErr = err
						}
						mu.Unlock()
						return
					}
					l.acked[slot].Add(1)
					if measuring.Load() {
						records.Add(1)
						localMu.Lock()
						_ = local.RecordValue(min(int64(time.Since(begin)), maxLatency))
						localMu.Unlock()
					}
				})
			}
			flushCtx, cancel := context.WithTimeout(ctx, flushLimit)
			defer cancel()
			if err := p.Flush(flushCtx); err != nil {
				mu.Lock()
				firstErr = errors.Join(firstErr, fmt.Errorf("flush: %w", err))
				mu.Unlock()
			}
			localMu.Lock()
			mu.Lock()
			hist.Merge(local)
			mu.Unlock()
			localMu.Unlock()
		})
	}
	pause(ctx, o.Warmup)
	usage := watch(l.system.Pids)
	measuring.Store(true)
	begin := time.Now()
	pause(ctx, o.Measure)
	measuring.Store(false)
	r.Seconds = time.Since(begin).Seconds()
	used := usage.end()
	stop.Store(true)
	wg.Wait()
	r.Records = records.Load()
	r.Errors = failures.Load()
	l.fill(r, hist, used)
	if r.Records == 0 {
		return errors.Join(errors.New("nothing was acknowledged"), firstErr, ctx.Err())
	}
	return ctx.Err()
}

func (l *load) fill(r *Result, h *hdrhistogram.Histogram, used spent) {
	bytes := float64(r.Records) * float64(l.cell.RecordBytes)
	r.RecordsSec = float64(r.Records) / r.Seconds
	r.MBSec = bytes / 1e6 / r.Seconds
	r.Latency = latencyOf(h)
	r.CPUSec, r.ClientCPU, r.RSSMax, r.RSSSum = used.cpu, used.client, used.rssMax/1e6, used.rssSum/1e6
	if bytes > 0 {
		r.CPUSecGB = used.cpu / (bytes / 1e9)
	}
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// verify reads everything back. A record that was refused may be there or not; one that was acknowledged must be there
// once, and records of one producer must be in order within their partition.
func (l *load) verify(ctx context.Context) (*Verification, error) {
	v := &Verification{}
	seen := make([][]uint8, len(l.acked))
	last := make([]int64, len(l.acked))
	for i := range seen {
		seen[i] = make([]uint8, l.sent[i])
		last[i] = -1
		v.Acked += int64(l.acked[i].Load())
	}
	var broken error
	err := l.system.ReadBack(ctx, func(partition int, rec []byte) {
		v.Read++
		if len(rec) != l.cell.RecordBytes {
			broken = fmt.Errorf("a record of %d bytes came back, %d were sent", len(rec), l.cell.RecordBytes)
			return
		}
		producer, part, seq := int(binary.BigEndian.Uint32(rec)), int(binary.BigEndian.Uint32(rec[4:])), binary.BigEndian.Uint64(rec[8:])
		slot := producer*l.cell.Partitions + part
		if part != partition || slot >= len(seen) || seq >= uint64(len(seen[slot])) {
			broken = fmt.Errorf("partition %d holds a record that was never sent there: producer %d, partition %d, sequence %d", partition, producer, part, seq)
			return
		}
		if seen[slot][seq] > 0 {
			v.Duplicated++
		} else if int64(seq) < last[slot] {
			v.OutOfOrder++
		}
		seen[slot][seq] = 1
		last[slot] = max(last[slot], int64(seq))
	})
	if err = errors.Join(err, broken); err != nil {
		return v, fmt.Errorf("read back: %w", err)
	}
	for slot := range seen {
		for seq, n := range seen[slot] {
			if n == 0 {
				if _, failed := l.failed[slot].Load(uint64(seq)); !failed {
					v.Lost++
				}
			}
		}
	}
	return v, nil
}

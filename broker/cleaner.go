// The cleaner: compacts the logs of this broker, one at a time, the dirtiest first, on one goroutine, at a bounded pace and with bounded
// memory. What is to be compacted, and how far, is for each replica to say (partition/compact.go).

package broker

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"math"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"

	"github.com/balsamq/balsa/coordinator"
	"github.com/balsamq/balsa/internal/vfs"
	"github.com/balsamq/balsa/partition"
)

const (
	// cleanerBurst bounds what is read or written between two looks at the pace.
	cleanerBurst = 1 << 20
	// maxCleanedSnapshot bounds the snapshot of a compacted partition, which has all that has been cleaned in it.
	maxCleanedSnapshot = 1 << 42
)

// cleanerMetrics are what the cleaner counts.
type cleanerMetrics struct {
	runs, failed, read, written, removed, tombstones prometheus.Counter
	dirtiest                                         atomic.Uint64 // a float64's bits
}

func newCleanerMetrics() *cleanerMetrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
	}
	return &cleanerMetrics{
		runs:       counter("balsa_compaction_runs_total", "Compactions of a partition's log that ended well."),
		failed:     counter("balsa_compaction_failures_total", "Compactions that failed, for lack of space for example; they are tried again."),
		read:       counter("balsa_compaction_read_bytes_total", "Bytes of batches that compactions have read; those that were read twice count twice."),
		written:    counter("balsa_compaction_written_bytes_total", "Bytes of batches that compactions have written."),
		removed:    counter("balsa_compaction_removed_records_total", "Records that compactions have left out: superseded, deleted or aborted."),
		tombstones: counter("balsa_compaction_removed_tombstones_total", "Of these, tombstones whose delete.retention.ms was over."),
	}
}

func (m *cleanerMetrics) collectors() []prometheus.Collector {
	return []prometheus.Collector{m.runs, m.failed, m.read, m.written, m.removed, m.tombstones}
}

// cleaner compacts logs.
type cleaner struct {
	replicas func() []*partition.Replica
	ready    func() bool   // every broker can take in what has been compacted
	pause    atomic.Int64  // between two looks, when there was nothing left to do
	repaused chan struct{} // pause has changed
	memory   int64
	limit    *rate.Limiter // bytes a second, read and written together; nil: none
	met      *cleanerMetrics
	log      *slog.Logger

	failed map[*partition.Replica]time.Time // when each may be tried again
}

// cleanerRest is how long a log rests whose compaction has failed.
const cleanerRest = 5 * time.Minute

func (b *Broker) newCleaner() *cleaner {
	c := &cleaner{replicas: b.rec.replicas, ready: b.canCompact, repaused: make(chan struct{}, 1), memory: b.cfg.CleanerMemory, met: b.met.cleaner, log: b.log,
		failed: make(map[*partition.Replica]time.Time)}
	c.pause.Store(int64(b.cfg.CleanerPause))
	if r := b.cfg.CleanerRate; r > 0 {
		c.limit = rate.NewLimiter(rate.Limit(r), cleanerBurst)
	}
	return c
}

// canCompact: a broker of an earlier version could neither take in a snapshot with a cleaned part nor, started on its directory, read one.
func (b *Broker) canCompact() bool {
	return b.Image().Feature(coordinator.MetadataVersion) >= coordinator.LevelAdmin
}

// mayPad: a broker of an earlier version, started on this one's directory, could not open a log with padding.
func (b *Broker) mayPad() bool {
	return b.Image().Feature(coordinator.MetadataVersion) >= coordinator.LevelPadded
}

// run cleans until ctx ends.
func (c *cleaner) run(ctx context.Context) {
	timer := time.NewTimer(time.Duration(c.pause.Load()))
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.repaused:
		case <-timer.C:
			if c.ready() {
				c.round(ctx)
			}
		}
		timer.Reset(time.Duration(c.pause.Load()))
	}
}

// setPause changes how long the cleaner rests, and begins the rest anew.
func (c *cleaner) setPause(d time.Duration) {
	c.pause.Store(int64(d))
	select {
	case c.repaused <- struct{}{}:
	default:
	}
}

// round cleans what is due, each log once.
func (c *cleaner) round(ctx context.Context) {
	done := make(map[*partition.Replica]bool)
	maps.DeleteFunc(c.failed, func(_ *partition.Replica, until time.Time) bool { return time.Now().After(until) })
	for ctx.Err() == nil {
		var next *partition.Replica
		var worst, top float64
		for _, r := range c.replicas() {
			d := r.Dirt()
			top = max(top, d.Ratio)
			if _, rests := c.failed[r]; d.Due && !rests && !done[r] && (next == nil || d.Ratio > worst) {
				next, worst = r, d.Ratio
			}
		}
		c.met.dirtiest.Store(math.Float64bits(top))
		if next == nil {
			return
		}
		done[next] = true
		c.clean(ctx, next)
	}
}

func (c *cleaner) clean(ctx context.Context, r *partition.Replica) {
	began := time.Now()
	s, err := r.Compact(partition.CompactOptions{MapBytes: c.memory, Pace: func(n int) error { return c.wait(ctx, n) }})
	c.met.read.Add(float64(s.Read))
	c.met.written.Add(float64(s.Written))
	topic, p := r.Name()
	l := c.log.With("topic", topic, "partition", p)
	switch {
	case ctx.Err() != nil:
	case partition.CompactionOvertaken(err):
		l.Debug("a compaction came to nothing", "err", err)
	case err != nil:
		c.met.failed.Inc()
		c.failed[r] = time.Now().Add(cleanerRest)
		l.Warn("cannot compact a log; it will be tried again", "full", errors.Is(err, vfs.ErrNoSpace), "err", err)
	default:
		c.met.runs.Inc()
		c.met.removed.Add(float64(s.Records - s.Kept))
		c.met.tombstones.Add(float64(s.Tombstones))
		if s.Unreadable > 0 {
			l.Warn("batches that cannot be read were left as they are by compaction", "batches", s.Unreadable)
		}
		l.Info("compacted a log", "from", int64(s.Start), "to", int64(s.Next), "records", s.Records, "kept", s.Kept, "tombstones removed", s.Tombstones,
			"bytes", s.Written, "files", s.Files, "left alone", s.Untouched, "whole", s.Clean == s.Next, "took", time.Since(began))
	}
}

// wait keeps the pace.
func (c *cleaner) wait(ctx context.Context, n int) error {
	if c.limit == nil {
		return ctx.Err()
	}
	for n > 0 {
		part := min(n, cleanerBurst)
		if err := c.limit.WaitN(ctx, part); err != nil {
			return err
		}
		n -= part
	}
	return nil
}

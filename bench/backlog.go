// C1 and R1, which begin with much on the disks: a group catches up with it, all nodes start again on it.

package bench

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"
)

// fillBacklog sends as fast as it goes until so many bytes were acknowledged since some number of records was, and stands still then.
func (t *turn) fillBacklog(ctx context.Context, begin int64) error {
	want := t.cell.Backlog / int64(t.cell.RecordBytes)
	if t.load.totalAck()-begin >= want {
		t.load.setPace(-1)
		return t.load.settle(ctx)
	}
	t.load.setPace(0)
	defer t.load.setPace(-1)
	last, at := t.load.totalAck(), time.Now()
	for {
		pause(ctx, t.o.poll)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		now := t.load.totalAck()
		if now-begin >= want {
			break
		}
		if now > last {
			last, at = now, time.Now()
		} else if time.Since(at) > t.o.Limit {
			return fmt.Errorf("no record was acknowledged for %v, %s before the backlog was whole: %w", t.o.Limit, gigabytes((want-(now-begin))*int64(t.cell.RecordBytes)),
				errors.Join(errStuck, t.load.failure()))
		}
		for i := range t.sys.Pids() {
			if err := t.ended(i); err != nil {
				return err
			}
		}
	}
	t.load.setPace(-1)
	return t.load.settle(ctx)
}

var errStuck = errors.New("the system does not go on")

// ended is an error if a node that should run has ended.
func (t *turn) ended(node int) error {
	if n, ok := t.sys.(interface{ node(int) (*process, error) }); ok {
		_, err := n.node(node)
		return err
	}
	return nil
}

// backlog follows how much of what was sent before has been read.
type backlog struct {
	upTo []uint64        // by slot: sequence + 1 of the last record of the backlog
	at   []atomic.Uint64 // by slot: sequence + 1 of the furthest that was read
	left atomic.Int64    // slots not read to the end
	all  int64           // records
	done chan struct{}
}

func newBacklog(l *load) *backlog {
	b := &backlog{at: make([]atomic.Uint64, len(l.lastAcked)), done: make(chan struct{})}
	for i := range l.lastAcked {
		last := l.lastAcked[i].Load()
		b.upTo = append(b.upTo, last)
		b.all += int64(l.acked[i].Load())
		if last > 0 {
			b.left.Add(1)
		}
	}
	return b
}

// read takes note of a record; while a group hands its partitions on two members may read the same.
func (b *backlog) read(slot int, seq uint64) {
	for {
		at := b.at[slot].Load()
		if seq+1 <= at {
			return
		}
		if !b.at[slot].CompareAndSwap(at, seq+1) {
			continue
		}
		if at < b.upTo[slot] && seq+1 >= b.upTo[slot] && b.left.Add(-1) == 0 {
			close(b.done)
		}
		return
	}
}

// catchUp is C1. The producers go on at a fixed rate; a group reads from the start what had been sent before.
func catchUp(ctx context.Context, t *turn) error {
	if err := t.begin(ctx, t.cell.Rate); err != nil {
		return err
	}
	if err := t.warmUp(ctx); err != nil {
		return err
	}
	t.spend("backlog")
	t.load.next("backlog")
	if err := t.fillBacklog(ctx, t.load.totalAck()); err != nil {
		return err
	}
	b := newBacklog(t.load)
	t.spend("measure")
	t.status("taking the data out of the page cache")
	cache, err := dropCache(t.dir)
	if err != nil {
		return err
	}
	t.load.setPace(t.cell.Rate)
	pause(ctx, t.o.Warmup)
	t.phase("producers alone")
	if err := t.lasts(ctx); err != nil {
		return err
	}
	alone := t.phase("catching up")
	t.measure()
	c := &CatchUp{BacklogRecords: b.all, Cache: cache}
	began := time.Now()
	t.load.mark("the group starts")
	var strange atomic.Int64
	cs, err := t.members(ctx, func(rec []byte) {
		slot, seq, ok := slotOf(t.cell, rec)
		if !ok {
			strange.Add(1)
			return
		}
		b.read(slot, seq)
	})
	if err != nil {
		return err
	}
	defer cs.stop()
	err = t.await(ctx, "the group to have read the backlog", func() (bool, error) {
		select {
		case <-b.done:
			return true, nil
		default:
			return false, cs.failure()
		}
	})
	took := time.Since(began)
	during := t.phase("caught up")
	t.load.mark("the backlog is read")
	t.fill(during, t.bytes(during.Records+during.Consumed))
	if err != nil {
		return err
	}
	joined := time.Duration(0)
	if first := cs.first.Load(); first != nil {
		joined = first.Sub(began)
	}
	c.Seconds, c.JoinSec, c.Read = took.Seconds(), joined.Seconds(), during.Consumed
	if s := (took - joined).Seconds(); s > 0 {
		c.RecordsSec = float64(c.Read) / s
		c.MBSec = t.bytes(c.Read) / 1e6 / s
	}
	if alone.RecordsSec > 0 {
		c.Kept = during.RecordsSec / alone.RecordsSec
	}
	t.res.CatchUp = c
	if n := strange.Load(); n > 0 {
		return fmt.Errorf("the group read %d records that were never sent", n)
	}
	if err := cs.stop(); err != nil {
		return err
	}
	return t.verify(ctx)
}

// openPoll is between two looks at whether logs are open, which is over in tenths of a second.
const openPoll = 10 * time.Millisecond

// restart is R1. All nodes are stopped in order and started again, then killed under load and started again.
func restart(ctx context.Context, t *turn) error {
	if err := t.begin(ctx, 0); err != nil {
		return err
	}
	t.spend("backlog")
	t.load.next("backlog")
	if err := t.fillBacklog(ctx, 0); err != nil { // what scenarios before it have left counts, too
		return err
	}
	r := &Restart{}
	t.res.Restart = r
	t.spend("measure")
	t.load.next("clean restart")
	t.status("stopping all nodes")
	t.load.mark("all nodes are stopped")
	begin := time.Now()
	if err := t.sys.Stop(); err != nil {
		return fmt.Errorf("stop: %w", err)
	}
	r.Clean.StopSec = time.Since(begin).Seconds()
	r.DiskBytes = usedBytes(t.dir)
	if err := t.startAgain(ctx, &r.Clean); err != nil {
		return fmt.Errorf("start after a clean stop: %w", err)
	}
	t.load.next("load before kill -9")
	t.load.setPace(0)
	pause(ctx, max(t.o.Warmup, t.o.poll))
	t.load.next("unclean restart")
	begin = time.Now()
	t.load.mark("kill -9 of all nodes")
	for node := range t.cell.Nodes() {
		if err := t.sys.Kill(node); err != nil {
			return err
		}
	}
	t.load.setPace(-1)
	r.Unclean.StopSec = time.Since(begin).Seconds()
	if err := t.startAgain(ctx, &r.Unclean); err != nil {
		return fmt.Errorf("start after kill -9: %w", err)
	}
	if err := t.load.settle(ctx); err != nil { // what was on its way is sent again by its producer
		return err
	}
	t.load.next("ending")
	return t.verify(ctx)
}

// startAgain starts all nodes on what they have left, with a cold page cache, and times their way back.
func (t *turn) startAgain(ctx context.Context, r *Recovery) (err error) {
	t.status("taking the data out of the page cache")
	if t.res.Restart.Cache, err = dropCache(t.dir); err != nil {
		return err
	}
	t.status("starting all nodes")
	t.load.mark("all nodes are started")
	begin := time.Now()
	if err := t.sys.Start(ctx, t.dir, t.cell); err != nil {
		return err
	}
	// The first record of each partition is sent at once, and gets through when it can.
	type outcome struct {
		took time.Duration
		err  error
	}
	probed := make(chan outcome, 1)
	go func() {
		err := t.load.probe(ctx)
		probed <- outcome{time.Since(begin), err}
	}()
	open := make([]bool, t.cell.Nodes())
	if err := t.awaitEvery(ctx, min(t.o.poll, openPoll), "all logs to be open", func() (bool, error) {
		all := true
		for i := range open {
			if !open[i] {
				open[i], r.Opened, err = t.sys.Opened(ctx, i)
			}
			if err != nil {
				return false, err
			}
			all = all && open[i]
		}
		return all, nil
	}); err != nil {
		return err
	}
	r.OpenSec = time.Since(begin).Seconds()
	if err := t.allLed(ctx); err != nil {
		return err
	}
	r.LedSec = time.Since(begin).Seconds()
	select {
	case o := <-probed:
		r.AckSec, err = o.took.Seconds(), o.err
	case <-ctx.Done():
		err = ctx.Err()
	case <-time.After(t.o.Limit):
		err = fmt.Errorf("not every partition has acknowledged a record after %v: %w", t.o.Limit, errors.Join(errStuck, t.load.failure()))
	}
	return err
}

// The load: producers that send records by a schedule or as fast as they may, and the account of what became of each record.
//
// A load has a pace, which may change while it runs: as fast as the bytes in flight allow (a closed loop), a fixed rate (an open loop), or
// still. At a rate, record k of a producer is due at a moment that does not depend on the system, and its latency counts from
// then, however late it could be sent: a stall shows in all records that were due in it (no coordinated omission). In a
// closed loop it counts from when the producer had the record ready, before it waits for its turn in the window.
//
// It shares the machine with what it measures: what a record costs here comes off every system's figures alike. So the memory of records
// is used again, filled once with what compression cannot shrink, and one clock is read where two would do no better.

package bench

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// Record header: producer, partition, sequence within the two, when it was due (ns since the load began).
const recordHeader = 4 + 4 + 8 + 8

const (
	flushLimit = 2 * time.Minute
	// stillPoll is how often producers that stand still look whether to go on.
	stillPoll = 10 * time.Millisecond
)

// pacing is how fast to send.
type pacing struct {
	begin time.Time
	rate  int // of all producers, a second; 0: closed loop; below 0: still
}

// load is one run of one cell.
type load struct {
	cell   Cell
	system System
	epoch  time.Time
	pace   atomic.Pointer[pacing]
	stop   atomic.Bool

	producers []Producer
	shards    []*shard
	filler    []byte // what compression cannot shrink
	wg        sync.WaitGroup

	// By producer and partition: how many records were sent so far, acknowledged, which was the last of those, and which failed.
	acked     []atomic.Uint64
	lastAcked []atomic.Uint64 // sequence + 1
	sent      []atomic.Uint64 // written under the shard's sending
	failed    []sync.Map

	gaps atomic.Pointer[gaps] // nil: nobody watches

	mu       sync.Mutex // guards what follows
	firstErr error
	phase    *phase
	origin   time.Time // of the series; zero: there is none yet
	readers  []*reader
	marks    []Mark

	refused atomic.Int64
}

// phase is a part of the run that is being accounted for.
type phase struct {
	name  string
	begin time.Time
}

// shard is one producer's part of the account, so that producers do not wait for each other.
type shard struct {
	sending sync.Mutex // held while a record is sent: a probe may come between; guards spare
	spare   []*outRecord

	mu      sync.Mutex // guards the rest
	hist    *hdrhistogram.Histogram
	records int64
	total   int64 // acknowledged since the load began
	begun   bool  // the series has, at origin
	origin  time.Duration
	series  []step
	back    []*outRecord // acknowledged: spare, as soon as there is no other
}

// reader is one consumer's part of the account.
type reader struct {
	l *load

	mu       sync.Mutex    // guards what follows; l.mu comes before it
	begun    bool          // the series has, at origin
	origin   time.Duration // as l's, since its epoch
	endToEnd *hdrhistogram.Histogram
	consumed []int64 // by step of the series
	read     int64   // records consumed in this phase
}

// outRecord is a record on its way, and the memory for the next one: there are as many as were ever on their way at once.
type outRecord struct {
	l          *load
	bytes      []byte
	i, part    int
	seq        uint64
	due        time.Duration // since the load's epoch
	after      func(error)
	answeredBy func(error) // answered, made once
}

type step struct {
	acked int64
	worst time.Duration
}

func newLoad(c Cell, s System) *load {
	slots := c.Producers * c.Partitions
	filler := make([]byte, max(1<<20, 2*c.RecordBytes))
	rng := rand.NewChaCha8([32]byte{1})
	_, _ = rng.Read(filler)
	l := &load{filler: filler, cell: c, system: s, epoch: time.Now(), acked: make([]atomic.Uint64, slots), lastAcked: make([]atomic.Uint64, slots), sent: make([]atomic.Uint64, slots),
		failed: make([]sync.Map, slots), phase: &phase{name: "warming up", begin: time.Now()}}
	for range c.Producers {
		l.shards = append(l.shards, &shard{hist: newHistogram()})
	}
	return l
}

// setPace is for rate as in pacing.
func (l *load) setPace(rate int) { l.pace.Store(&pacing{begin: time.Now(), rate: rate}) }

// start makes the producers, and lets them go at a rate.
func (l *load) start(ctx context.Context, rate int) error {
	for i := range l.cell.Producers {
		p, err := l.system.Producer(ctx, i)
		if err != nil {
			return fmt.Errorf("producer %d: %w", i, err)
		}
		l.producers = append(l.producers, p)
	}
	l.setPace(rate)
	for i := range l.producers {
		l.wg.Go(func() { l.produce(ctx, i) })
	}
	return nil
}

// produce is the i-th producer.
func (l *load) produce(ctx context.Context, i int) {
	var pace *pacing
	k := 0 // records sent at this pace
	for n := 0; !l.stop.Load() && ctx.Err() == nil; {
		if now := l.pace.Load(); now != pace {
			pace, k = now, 0
		}
		due := l.now()
		switch {
		case pace.rate < 0:
			pause(ctx, stillPoll)
			continue
		case pace.rate > 0:
			due = pace.begin.Add(time.Duration(float64(k*l.cell.Producers+i) / float64(pace.rate) * float64(time.Second))).Sub(l.epoch)
			k++
			if wait := due - l.now(); wait > 0 {
				pause(ctx, wait)
			}
		}
		l.send(ctx, i, (n+i)%l.cell.Partitions, due, nil)
		n++
	}
	ctx, cancel := context.WithTimeout(ctx, flushLimit)
	defer cancel()
	if err := l.producers[i].Flush(ctx); err != nil {
		l.fail(fmt.Errorf("flush: %w", err))
	}
}

// now is since the load began.
func (l *load) now() time.Duration { return time.Since(l.epoch) }

// send sends one record. after, if it is not nil, is told its fate.
func (l *load) send(ctx context.Context, i, part int, due time.Duration, after func(error)) {
	l.shards[i].sending.Lock()
	defer l.shards[i].sending.Unlock()
	slot := i*l.cell.Partitions + part
	r := l.take(i)
	r.i, r.part, r.seq, r.due, r.after = i, part, l.sent[slot].Load(), due, after
	binary.BigEndian.PutUint32(r.bytes, uint32(i))
	binary.BigEndian.PutUint32(r.bytes[4:], uint32(part))
	binary.BigEndian.PutUint64(r.bytes[8:], r.seq)
	binary.BigEndian.PutUint64(r.bytes[16:], uint64(due))
	l.sent[slot].Store(r.seq + 1)
	l.producers[i].Send(ctx, part, r.bytes, r.answeredBy)
}

// take finds a record of producer i that is not on its way, or makes one; sending is held.
func (l *load) take(i int) *outRecord {
	s := l.shards[i]
	if len(s.spare) == 0 {
		s.mu.Lock()
		s.spare, s.back = s.back, s.spare
		s.mu.Unlock()
	}
	if n := len(s.spare); n > 0 {
		r := s.spare[n-1]
		s.spare = s.spare[:n-1]
		return r
	}
	r := &outRecord{l: l, bytes: make([]byte, l.cell.RecordBytes)}
	r.answeredBy = r.answered
	copy(r.bytes[recordHeader:], l.filler[rand.IntN(len(l.filler)-l.cell.RecordBytes):])
	return r
}

// answered learns the record's fate. One that was refused is not used again: who knows whether it still waits somewhere.
func (r *outRecord) answered(err error) {
	l, after := r.l, r.after
	if err != nil {
		l.refused.Add(1)
		l.failed[r.i*l.cell.Partitions+r.part].Store(r.seq, struct{}{})
		l.fail(err)
	} else {
		l.ack(r)
	}
	if after != nil {
		after(err)
	}
}

func (l *load) fail(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.firstErr == nil {
		l.firstErr = err
	}
}

// failure is the first error there was.
func (l *load) failure() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.firstErr
}

// ack counts an acknowledged record, whose memory is another one's afterwards.
func (l *load) ack(r *outRecord) {
	now := l.now()
	took := now - r.due
	slot, part, due := r.i*l.cell.Partitions+r.part, r.part, r.due
	l.acked[slot].Add(1)
	for {
		last := l.lastAcked[slot].Load()
		if last > r.seq || l.lastAcked[slot].CompareAndSwap(last, r.seq+1) {
			break
		}
	}
	s := l.shards[r.i]
	s.mu.Lock()
	s.back = append(s.back, r)
	_ = s.hist.RecordValue(min(int64(took), maxLatency)) // it is in range
	s.records++
	s.total++
	if s.begun {
		// One that was held up between its clock and here may be of before the series began.
		if n := max(int((now-s.origin)/SeriesStep), 0); n < maxPoints {
			for len(s.series) <= n {
				s.series = append(s.series, step{})
			}
			s.series[n].acked++
			s.series[n].worst = max(s.series[n].worst, took)
		}
	}
	s.mu.Unlock()
	if g := l.gaps.Load(); g != nil {
		g.ack(part, l.epoch.Add(due), l.epoch.Add(now))
	}
}

// totalAck is how many records have been acknowledged.
func (l *load) totalAck() (n int64) {
	for _, s := range l.shards {
		s.mu.Lock()
		n += s.total
		s.mu.Unlock()
	}
	return n
}

// slotOf says which record of a load it is; ok is false for one that no load of the cell can have sent.
func slotOf(c Cell, rec []byte) (slot int, seq uint64, ok bool) {
	if len(rec) < recordHeader {
		return 0, 0, false
	}
	producer, part := int(binary.BigEndian.Uint32(rec)), int(binary.BigEndian.Uint32(rec[4:]))
	if producer >= c.Producers || part >= c.Partitions {
		return 0, 0, false
	}
	return producer*c.Partitions + part, binary.BigEndian.Uint64(rec[8:]), true
}

// reader is for one more consumer.
func (l *load) reader() *reader {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := &reader{l: l, endToEnd: newHistogram()}
	if !l.origin.IsZero() {
		r.begun, r.origin = true, l.origin.Sub(l.epoch)
	}
	l.readers = append(l.readers, r)
	return r
}

// consume takes a record that the consumer has read.
func (r *reader) consume(rec []byte) {
	now := r.l.now() // one clock: time.Now reads two
	if len(rec) < recordHeader {
		return // it is found when everything is read back
	}
	took := now - time.Duration(binary.BigEndian.Uint64(rec[16:]))
	r.mu.Lock()
	defer r.mu.Unlock()
	_ = r.endToEnd.RecordValue(max(0, min(int64(took), maxLatency))) // it is in range
	r.read++
	if r.begun {
		if n := max(int((now-r.origin)/SeriesStep), 0); n < maxPoints { // as in ack
			for len(r.consumed) <= n {
				r.consumed = append(r.consumed, 0)
			}
			r.consumed[n]++
		}
	}
}

// next ends a phase, and begins the next one. What is acknowledged counts in the phase in which it is. The first phase is what has to be
// done before there is something to measure: the series begins with the second.
func (l *load) next(name string) (ended Phase, endToEnd *hdrhistogram.Histogram) {
	now := time.Now()
	since, hist := now.Sub(l.epoch), newHistogram()
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range l.shards {
		s.mu.Lock()
		hist.Merge(s.hist)
		s.hist.Reset()
		ended.Records += s.records
		s.records = 0
		if l.origin.IsZero() {
			s.begun, s.origin = true, since
		}
		s.mu.Unlock()
	}
	if l.origin.IsZero() {
		l.origin = now
	}
	endToEnd = newHistogram()
	for _, r := range l.readers {
		r.mu.Lock()
		endToEnd.Merge(r.endToEnd)
		r.endToEnd.Reset()
		ended.Consumed += r.read
		r.read, r.begun, r.origin = 0, true, l.origin.Sub(l.epoch)
		r.mu.Unlock()
	}
	ended.Name, ended.Seconds, ended.Latency = l.phase.name, now.Sub(l.phase.begin).Seconds(), latencyOf(hist)
	if ended.Seconds > 0 {
		ended.RecordsSec = float64(ended.Records) / ended.Seconds
	}
	l.phase = &phase{name: name, begin: now}
	return ended, endToEnd
}

// again: what follows is accounted for anew, as if the load had just begun, but for what has been acknowledged.
func (l *load) again() {
	l.next("warming up")
	l.mu.Lock()
	defer l.mu.Unlock()
	l.origin, l.marks = time.Time{}, nil
	for _, r := range l.readers {
		r.mu.Lock()
		r.begun, r.consumed = false, nil
		r.mu.Unlock()
	}
	for _, s := range l.shards {
		s.mu.Lock()
		s.begun, s.series = false, nil
		s.mu.Unlock()
	}
	l.gaps.Store(nil)
}

// soFar counts what this phase has seen.
func (l *load) soFar() (acked, read int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range l.shards {
		s.mu.Lock()
		acked += s.records
		s.mu.Unlock()
	}
	for _, r := range l.readers {
		r.mu.Lock()
		read += r.read
		r.mu.Unlock()
	}
	return acked, read
}

// mark notes that something happens now.
func (l *load) mark(what string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.origin.IsZero() {
		l.marks = append(l.marks, Mark{Seconds: time.Since(l.origin).Seconds(), What: what})
	}
}

// series is what happened over time.
func (l *load) series() (points []Point, marks []Mark) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := 0
	for _, r := range l.readers {
		r.mu.Lock()
		n = max(n, len(r.consumed))
		r.mu.Unlock()
	}
	for _, s := range l.shards {
		s.mu.Lock()
		n = max(n, len(s.series))
		s.mu.Unlock()
	}
	for i := range n {
		p := Point{Seconds: (time.Duration(i+1) * SeriesStep).Seconds()}
		for _, r := range l.readers {
			r.mu.Lock()
			if i < len(r.consumed) {
				p.Consumed += r.consumed[i]
			}
			r.mu.Unlock()
		}
		for _, s := range l.shards {
			s.mu.Lock()
			if i < len(s.series) {
				p.Acked += s.series[i].acked
				p.MaxLatency = max(p.MaxLatency, float64(s.series[i].worst)/1e6)
			}
			s.mu.Unlock()
		}
		points = append(points, p)
	}
	return points, l.marks
}

// outstanding counts the records whose fate is not known yet.
func (l *load) outstanding() int64 {
	var sent int64
	for i := range l.sent {
		sent += int64(l.sent[i].Load())
	}
	return sent - l.totalAck() - l.refused.Load()
}

// settle waits until the fate of all that was sent is known; the pace must be still.
func (l *load) settle(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, flushLimit)
	defer cancel()
	for l.outstanding() > 0 {
		if pause(ctx, stillPoll); ctx.Err() != nil {
			return fmt.Errorf("%d records have had no answer: %w", l.outstanding(), errors.Join(ctx.Err(), l.failure()))
		}
	}
	return nil
}

// probe sends one record to each partition, and waits until each was acknowledged. The pace must be still.
func (l *load) probe(ctx context.Context) error {
	fates := make(chan error, l.cell.Partitions)
	for part := range l.cell.Partitions {
		l.send(ctx, part%l.cell.Producers, part, l.now(), func(err error) { fates <- err })
	}
	var errs []error
	for n := range l.cell.Partitions {
		select {
		case err := <-fates:
			errs = append(errs, err)
		case <-ctx.Done():
			return fmt.Errorf("%d of %d have had no answer: %w", l.cell.Partitions-n, l.cell.Partitions, errors.Join(append(errs, ctx.Err())...))
		}
	}
	return errors.Join(errs...)
}

// end stops the producers, which flush, and closes them.
func (l *load) end() {
	l.stop.Store(true)
	l.wg.Wait()
	for _, p := range l.producers {
		p.Close()
	}
	l.producers = nil
}

// verify reads everything back. A record that was refused may be there or not; one that was acknowledged must be there
// once, and records of one producer must be in order within their partition.
func (l *load) verify(ctx context.Context) (*Verification, error) {
	v := &Verification{}
	seen := make([][]uint8, len(l.acked))
	last := make([]int64, len(l.acked))
	for i := range seen {
		seen[i] = make([]uint8, l.sent[i].Load())
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

// gaps watches how long partitions go without an acknowledgement.
type gaps struct {
	from  time.Time // what was due before does not count as the first one after
	parts []gap
}

type gap struct {
	mu      sync.Mutex
	last    time.Time
	longest time.Duration // between two acknowledgements, the later one after from
	first   time.Duration // from from until one that was due after it; 0: not yet
}

func newGaps(partitions int) *gaps {
	g := &gaps{from: time.Now(), parts: make([]gap, partitions)}
	for p := range g.parts {
		g.parts[p].last = g.from
	}
	return g
}

func (g *gaps) ack(part int, due, now time.Time) {
	p := &g.parts[part]
	p.mu.Lock()
	defer p.mu.Unlock()
	p.longest = max(p.longest, now.Sub(p.last))
	p.last = now
	if p.first == 0 && due.After(g.from) {
		p.first = now.Sub(g.from)
	}
}

// of is what it has seen of a partition; a silence that still lasts counts.
func (g *gaps) of(part int) (longest, first time.Duration) {
	p := &g.parts[part]
	p.mu.Lock()
	defer p.mu.Unlock()
	return max(p.longest, time.Since(p.last)), p.first
}

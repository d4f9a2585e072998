// One transaction of a Transform: its records to the handlers, in order per key, their outputs to the producer, in order of the inputs.

package client

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// errTooLong aborts a transaction that would be aborted by the cluster before long.
var errTooLong = errors.New("the transaction takes too long")

// refused is why a transaction cannot be committed: the cluster does not want one of the outputs.
type refused struct{ error }

func (r refused) Unwrap() error { return r.error }

// blame is a record that has made transactions fail of which it was the only one.
type blame struct {
	topic     string
	partition int32
	offset    int64
	err       error
}

func (b *blame) is(r *kgo.Record) bool {
	return b != nil && b.offset == r.Offset && b.partition == r.Partition && b.topic == r.Topic
}

// transact makes a transaction of records. An error ends the session. Not committed and no error: they come again.
func (t *transformer) transact(s *kgo.GroupTransactSession, records []*kgo.Record) (committed bool, err error) {
	began := time.Now()
	defer func() {
		failure := err
		if err == errStopped { // an abort as any other
			failure = nil
		}
		hooks(t.cfg.Hooks).transactionEnd(committed, began, failure)
	}()
	if err := s.Begin(); err != nil {
		return false, wrap("begin a transaction of group", t.cfg.Group, err)
	}
	ctx, fail := context.WithCancelCause(t.base)
	defer fail(nil)
	t.current.Store(&fail)
	defer t.current.Store(nil)
	if t.moved.Load() { // since the poll
		fail(errMoved)
	}
	// A quarter is left for the commit.
	work, cancel := context.WithTimeoutCause(ctx, t.cfg.TransactionTimeout*3/4, errTooLong)
	defer cancel()
	t.process(work, s.Client(), fail, records)
	if work.Err() == nil {
		if err := s.Client().Flush(work); err != nil && work.Err() == nil {
			fail(err)
		}
	}
	why := context.Cause(work)
	if why == nil {
		t.moved.Store(false)
		if committed, err = t.end(s, kgo.TryCommit); committed {
			t.blame = nil
			t.limit = min(2*t.limit, t.cfg.MaxRecords)
		} else if err == nil {
			t.log.Info("a transaction was aborted because the group changed: its records come again", "group", t.cfg.Group, "records", len(records))
		}
		return committed, err
	}
	if _, err := t.end(s, kgo.TryAbort); err != nil {
		return false, errors.Join(why, err)
	}
	return false, t.aborted(records, why)
}

// aborted decides what follows from why a transaction was.
func (t *transformer) aborted(records []*kgo.Record, why error) error {
	_, unwanted := errors.AsType[refused](why)
	late := errors.Is(why, errTooLong)
	switch {
	case errors.Is(why, errMoved):
		t.log.Info("a transaction was aborted because the group changed: its records come again", "group", t.cfg.Group, "records", len(records))
	case (unwanted || late) && len(records) > 1: // one of them is it
		t.limit = 1
		if late {
			t.limit = max(len(records)/2, 1)
		}
		t.log.Warn("a transaction was aborted and is tried again with fewer records", "group", t.cfg.Group, "records", len(records), "err", why)
	case (unwanted || late) && !t.blame.is(records[0]):
		r := records[0]
		t.blame = &blame{topic: r.Topic, partition: r.Partition, offset: r.Offset, err: why}
	case unwanted || late: // it cannot be put aside either
		return &ProcessingError{Record: records[0], Attempts: 1, Err: why}
	default:
		return why
	}
	return nil
}

// process calls the handlers and hands over what they return. What fails ends ctx, by fail with the reason. No handler runs when it returns.
func (t *transformer) process(ctx context.Context, cl *kgo.Client, fail context.CancelCauseFunc, records []*kgo.Record) {
	written := func(_ *kgo.Record, err error) {
		if err == nil {
			return
		}
		if err = wrap("write an output of group", t.cfg.Group, err); kindOf(err) == ErrInvalid {
			err = refused{err}
		}
		fail(err)
	}
	produce := func(in *kgo.Record, outs []*kgo.Record) {
		for _, out := range outs {
			if out.Context == nil {
				out.Context = in.Context
			}
			cl.Produce(ctx, out, written)
		}
	}
	if t.cfg.Concurrency == 1 {
		for _, r := range records {
			outs, err := t.handle(ctx, r)
			if err != nil {
				fail(err)
				return
			}
			produce(r, outs)
		}
		return
	}
	b := newBatch(records)
	var workers sync.WaitGroup
	for range min(t.cfg.Concurrency, len(b.ready)) {
		workers.Go(func() {
			b.work(func(r *kgo.Record) ([]*kgo.Record, error) {
				outs, err := t.handle(ctx, r)
				if err != nil {
					fail(err)
				}
				return outs, err
			})
		})
	}
	for i, r := range records {
		outs, ok := b.outputs(i)
		if !ok {
			break
		}
		produce(r, outs)
	}
	workers.Wait()
}

// handle calls the handler until a record is processed, put aside, or the transaction cannot go on.
func (t *transformer) handle(ctx context.Context, r *kgo.Record) ([]*kgo.Record, error) {
	p := &t.cfg.Retry
	for attempts := 1; ; attempts++ {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		var (
			outs     []*kgo.Record
			err      error
			hopeless bool
		)
		if t.blame.is(r) {
			err, hopeless = t.blame.err, true
		} else if outs, err = t.fn(ctx, r); err != nil {
			_, hopeless = errors.AsType[permanent](err)
		}
		switch {
		case err == nil:
			return outs, nil
		case errors.Is(err, ErrStop):
			t.stopped.Store(true)
			return outs, nil
		case ctx.Err() != nil: // it was told to give up, and did
			return nil, context.Cause(ctx)
		}
		if told := t.ctx.Err(); told != nil && errors.Is(err, told) { // it went by Transform's context: the record has not failed
			return nil, errStopped
		}
		hooks(t.cfg.Hooks).attemptFailed(r, attempts, err)
		switch {
		case attempts < p.Attempts && !hopeless:
			d := p.backoff(attempts)
			t.log.Debug("a record could not be processed and will be tried again", "topic", r.Topic, "partition", r.Partition, "offset", r.Offset,
				"attempt", attempts, "in", d, "err", err)
			pause := time.NewTimer(d)
			select {
			case <-pause.C:
			case <-ctx.Done():
				pause.Stop()
			}
		case p.DeadLetter == "":
			return nil, &ProcessingError{Record: r, Attempts: attempts, Err: err}
		default:
			logAside(t.log, r, p.DeadLetter, attempts, err)
			hooks(t.cfg.Hooks).putAside(r, p.DeadLetter, attempts, err)
			return []*kgo.Record{aside(r, p.DeadLetter, attempts, err)}, nil
		}
	}
}

// batch is the records of a transaction on their way through the workers.
type batch struct {
	mu     sync.Mutex // guards what follows
	cond   *sync.Cond // somebody may go on
	jobs   []job
	ready  []int // those that may be begun, in order
	left   int   // that have not ended
	failed bool  // nothing is begun any more
}

type job struct {
	r    *kgo.Record
	next int // the next record with the same key of the same partition; 0: there is none
	outs []*kgo.Record
	done bool
}

type keyOfPartition struct {
	tp  topicPartition
	key string
}

func newBatch(records []*kgo.Record) *batch {
	b := &batch{jobs: make([]job, len(records)), left: len(records)}
	b.cond = sync.NewCond(&b.mu)
	last := make(map[keyOfPartition]int)
	for i, r := range records {
		b.jobs[i].r = r
		if len(r.Key) > 0 {
			k := keyOfPartition{topicPartition{r.Topic, r.Partition}, string(r.Key)}
			before, ok := last[k]
			last[k] = i
			if ok {
				b.jobs[before].next = i
				continue
			}
		}
		b.ready = append(b.ready, i)
	}
	return b
}

// work is a worker.
func (b *batch) work(handle func(*kgo.Record) ([]*kgo.Record, error)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for {
		for len(b.ready) == 0 && b.left > 0 && !b.failed {
			b.cond.Wait()
		}
		if b.left == 0 || b.failed {
			return
		}
		j := &b.jobs[b.ready[0]]
		b.ready = b.ready[1:]
		b.mu.Unlock()
		outs, err := handle(j.r)
		b.mu.Lock()
		if err != nil {
			b.failed = true
		} else {
			j.outs, j.done = outs, true
			b.left--
			if j.next > 0 {
				b.ready = append(b.ready, j.next)
			}
		}
		b.cond.Broadcast()
	}
}

// outputs waits for those of a record; false: there will be none.
func (b *batch) outputs(i int) ([]*kgo.Record, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for !b.jobs[i].done && !b.failed {
		b.cond.Wait()
	}
	if b.failed {
		return nil, false
	}
	outs := b.jobs[i].outs
	b.jobs[i].outs = nil
	return outs, true
}

// forgetEnd is how long a partition may be without a position before it is taken for one that has gone unnoticed: franz-go reports one
// revocation for each transaction.
const forgetEnd = 30 * time.Second

// transformEnds is how far StopAtEnd goes.
type transformEnds struct {
	mu    sync.Mutex // guards what follows; the group's callbacks write it
	begun bool       // there was an assignment
	m     map[topicPartition]*transformEnd
}

// transformEnd is of a partition that has records to come, or may have.
type transformEnd struct {
	known bool // end is meaningful
	end   int64
	had   bool // franz-go had a position
	since time.Time
}

func (e *transformEnds) reset() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.begun = false
	clear(e.m)
}

func (e *transformEnds) assigned(parts map[string][]int32) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.begun = true
	for t, ps := range parts {
		for _, p := range ps {
			e.m[topicPartition{t, p}] = &transformEnd{since: time.Now()}
		}
	}
}

func (e *transformEnds) gone(parts map[string][]int32) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for t, ps := range parts {
		for _, p := range ps {
			delete(e.m, topicPartition{t, p})
		}
	}
}

// set is for a partition that is read from at.
func (e *transformEnds) set(tp topicPartition, at, end int64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if at >= end {
		delete(e.m, tp)
	} else if m := e.m[tp]; m != nil {
		m.known, m.end = true, end
	}
}

// advance is for what is committed.
func (e *transformEnds) advance(fetches kgo.Fetches) {
	e.mu.Lock()
	defer e.mu.Unlock()
	fetches.EachPartition(func(p kgo.FetchTopicPartition) {
		tp := topicPartition{p.Topic, p.Partition}
		if m := e.m[tp]; m != nil && m.known && len(p.Records) > 0 && p.Records[len(p.Records)-1].Offset+1 >= m.end {
			delete(e.m, tp)
		}
	})
}

// reached says whether nothing is left.
func (e *transformEnds) reached(cl *kgo.Client) bool {
	have := cl.CommittedOffsets()
	e.mu.Lock()
	defer e.mu.Unlock()
	for tp, m := range e.m {
		if _, ok := have[tp.topic][tp.partition]; ok {
			m.had = true
		} else if m.had || time.Since(m.since) > forgetEnd {
			delete(e.m, tp)
		}
	}
	return e.begun && len(e.m) == 0
}

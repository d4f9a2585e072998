// Run: records to a handler, in order per key, several keys at a time, committed after success. docs/design/0025-sdk.md has the reasons.
//
// The naive version is a loop over Poll that calls the handler and commits. It is wrong three times: a slow record stops all others; with a
// goroutine per record the order is gone, and committing the newest offset loses those before it that are not done; and a partition that
// moves in the middle of a batch is worked on by two members. So the goroutine of Run polls and fills flows, one per partition, which know
// what is in flight in order of offsets; a key that has something to do is in the ready queue once, with its oldest record; workers take
// from there. What is committed of a partition is all below its oldest record in flight. Rebalances wait while records are between the poll
// and their flow, and a partition goes only when nothing of it is running any more.
//
// With one worker none of this is needed, and none of it is done: see sequential.go.

package client

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// Defaults of a [RunConfig].
const (
	DefaultMaxInFlight = 1000
	DefaultStopGrace   = 10 * time.Second
	DefaultRevokeGrace = 20 * time.Second
)

// RunConfig is how [Consumer.Run] works. The zero value is one record at a time, and [RetryPolicy]'s zero value.
type RunConfig struct {
	// Concurrency is how many records are processed at a time. Records with the same key of the same partition are processed one after the other,
	// in order; those without a key in any order if this is above one. Zero: 1, which is in order for all.
	Concurrency int
	// MaxInFlight bounds the records that the program has got and not processed, those that wait for another attempt included: also how many a
	// crash can repeat. Zero: [DefaultMaxInFlight].
	MaxInFlight int
	// Retry says what happens to a record whose handler fails.
	Retry RetryPolicy
	// StopGrace is how long handlers that are running may go on when Run ends, before their contexts do. Zero: [DefaultStopGrace].
	StopGrace time.Duration
	// RevokeGrace is the same when their partition goes to another member, which waits for that. Zero: [DefaultRevokeGrace].
	RevokeGrace time.Duration
}

func (o *RunConfig) check(cfg *ConsumerConfig) error {
	if o.Concurrency < 0 || o.MaxInFlight < 0 {
		return fmt.Errorf("concurrency %d and at most %d records in flight: neither can be negative", o.Concurrency, o.MaxInFlight)
	}
	return o.Retry.check(cfg)
}

func (o RunConfig) withDefaults() RunConfig {
	o.Concurrency = orInt(o.Concurrency, 1)
	o.MaxInFlight = max(orInt(o.MaxInFlight, DefaultMaxInFlight), o.Concurrency)
	o.Retry.Attempts = orInt(o.Retry.Attempts, DefaultAttempts)
	if o.StopGrace <= 0 {
		o.StopGrace = DefaultStopGrace
	}
	if o.RevokeGrace <= 0 {
		o.RevokeGrace = DefaultRevokeGrace
	}
	return o
}

// Handler processes a record. Nil: it is done. [ErrStop]: it is done, and Run shall end. Another error: it is not, and [RetryPolicy] says what
// happens. The context ends when the record is not this program's business any more: some time after its partition was given to another
// member, or after Run was told to end. The record must not be kept.
type Handler func(ctx context.Context, r *kgo.Record) error

var errSpent = &Error{Op: "consume", Kind: ErrClosed, Err: errors.New("a Run of this consumer ended before all records that it had were processed: close it and make a new one")}

// Run calls handler for every record, until ctx ends, handler returns [ErrStop], StopAtEnd is reached, or a record cannot be processed
// ([*ProcessingError]). A record counts as processed, and is committed, only when handler has returned nil for it or it has been put aside;
// nothing is committed beyond one that is not. RunConfig in ConsumerConfig.Run says how many at a time.
//
// That ctx ends is how a program tells Run to end, and no failure: Run then returns nil, as it does after [ErrStop] and at the end. With
// StopAtEnd it returns the context's error, since there were records left. An error that it returns is always worth a line in a log.
//
// All goroutines that Run starts have ended when it returns. What was processed is committed then, or the error says that it is not.
func (c *Consumer) Run(ctx context.Context, handler Handler) error {
	if handler == nil {
		return &Error{Op: "consume", Kind: ErrInvalid, Err: errors.New("Run needs a handler")}
	}
	if c.spent {
		return errSpent
	}
	c.countLast()
	r := newRunner(ctx, c, handler)
	c.mu.Lock()
	busy := c.run != nil
	if !busy {
		c.run = r
	}
	c.mu.Unlock()
	if busy {
		return &Error{Op: "consume", Kind: ErrInvalid, Err: errors.New("the consumer runs already")}
	}
	stopHalt := context.AfterFunc(ctx, r.stop)
	defer stopHalt()
	asking, enough := context.WithCancel(ctx)
	defer enough()
	r.enough = enough
	var err error
	if r.o.Concurrency > 1 {
		for range r.o.Concurrency {
			r.workers.Go(r.work)
		}
		err = r.poll(asking, r.dispatch)
	} else {
		err = r.poll(asking, r.process)
	}
	return r.end(ctx, err)
}

// stop is for when ctx ends.
func (r *runner) stop() {
	r.halted.Store(true)
	close(r.halt)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cond.Broadcast()
}

// runner is one Run.
type runner struct {
	c       *Consumer
	handler Handler
	o       RunConfig
	ctx     context.Context // Run's
	base    context.Context // of handlers; does not end with Run's
	cancel  context.CancelFunc
	enough  context.CancelFunc // ends the wait for more records
	workers sync.WaitGroup
	halted  atomic.Bool   // ctx has ended, or a handler said ErrStop: a quick look
	halt    chan struct{} // closed when ctx ends

	mu       sync.Mutex // guards what follows, and flows' own; never held while a handler runs or a broker is asked
	cond     *sync.Cond // for whoever waits for room, or for something to end
	jobs     *sync.Cond // for workers: something is ready
	flows    map[topicPartition]*flow
	ready    []*task // each key at most once, with its oldest record
	keys     map[keyOf]*task
	inFlight int              // records in flows' queues; at most MaxInFlight
	resume   []topicPartition // to be read again: see release
	stopping bool             // no record is begun any more
	stopped  bool             // … because a handler said ErrStop
	failed   error            // … because of this
}

type keyOf struct {
	f   *flow
	key string
}

// task is a record in a flow.
type task struct {
	f        *flow
	r        *kgo.Record
	next     *task // with the same key
	attempts int
	done     bool
}

func newRunner(ctx context.Context, c *Consumer, handler Handler) *runner {
	r := &runner{c: c, handler: handler, ctx: ctx, o: c.cfg.Run.withDefaults(), flows: make(map[topicPartition]*flow), keys: make(map[keyOf]*task),
		halt: make(chan struct{})}
	r.cond, r.jobs = sync.NewCond(&r.mu), sync.NewCond(&r.mu)
	r.base, r.cancel = context.WithCancel(context.Background())
	return r
}

// poll asks for records and hands them on, until there is a reason to end; the error is that reason, nil if it is none.
func (r *runner) poll(ctx context.Context, take func(context.Context, *flow, []*kgo.Record)) error {
	type batch struct {
		f  *flow
		rs []*kgo.Record
	}
	c := r.c
	var batches []batch
	for {
		if err := r.room(ctx); err != nil {
			return err
		}
		r.mu.Lock()
		if r.stopping {
			r.mu.Unlock()
			return nil
		}
		limit := r.o.MaxInFlight - r.inFlight
		wait := r.parkedFor()
		idle := r.inFlight == 0
		r.mu.Unlock()
		if end, err := c.atEnd(); err != nil {
			return err
		} else if end {
			if idle {
				return nil
			}
			if err := r.drained(ctx); err != nil {
				return err
			}
			continue
		}
		if c.stopAtEnd {
			wait = min(endWait, orDuration(wait, time.Hour))
		}
		batches = batches[:0]
		fetches := c.fetch(ctx, wait, limit)
		err := c.take(ctx, fetches, func(tp topicPartition, rs []*kgo.Record) { batches = append(batches, batch{r.flow(tp), rs}) })
		nothing := len(batches) == 0
		for i := range batches {
			if b := &batches[i]; b.f.delay > 0 {
				r.park(b.f, b.rs)
				b.rs = nil
			}
		}
		if r.o.Concurrency > 1 { // into the flows before anybody may take partitions away
			for _, b := range batches {
				take(ctx, b.f, b.rs)
			}
			batches = batches[:0]
		}
		if c.group {
			c.cl.AllowRebalance()
		}
		for _, b := range batches {
			take(ctx, b.f, b.rs)
		}
		clear(batches)
		r.unpark(ctx, take)
		if c.stopAtEnd && nothing {
			c.checkEnds(ctx)
		}
		if err != nil {
			if lost, ok := errors.AsType[*kgo.ErrGroupSession](err); ok { // franz-go joins again by itself
				c.log.Warn("the group's session failed; it is begun again", "group", c.cfg.Group, "err", lost.Err)
				continue
			}
			return err
		}
	}
}

func orDuration(v, def time.Duration) time.Duration {
	if v > 0 {
		return v
	}
	return def
}

// room waits until it is worth while to ask for records: a quarter of what may be in flight, so that answers are not cut into slices.
func (r *runner) room(ctx context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for r.o.MaxInFlight-r.inFlight < max(r.o.MaxInFlight/4, 1) && !r.stopping && ctx.Err() == nil {
		r.cond.Wait()
	}
	return ctx.Err()
}

// drained waits until nothing is in flight.
func (r *runner) drained(ctx context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for r.inFlight > 0 && !r.stopping && ctx.Err() == nil {
		r.cond.Wait()
	}
	return ctx.Err()
}

// dispatch queues a partition's records.
func (r *runner) dispatch(_ context.Context, f *flow, rs []*kgo.Record) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if f.gone.Load() {
		return
	}
	for _, rec := range rs {
		t := &task{f: f, r: rec}
		f.queue = append(f.queue, t)
		r.inFlight++
		if len(rec.Key) > 0 {
			k := keyOf{f, string(rec.Key)}
			last := r.keys[k]
			r.keys[k] = t
			if last != nil {
				last.next = t
				continue
			}
		}
		r.readyLocked(t)
	}
}

func (r *runner) readyLocked(t *task) {
	r.ready = append(r.ready, t)
	r.jobs.Signal()
}

// work is a worker.
func (r *runner) work() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for {
		for len(r.ready) == 0 && !r.stopping {
			r.jobs.Wait()
		}
		if r.stopping {
			return
		}
		t := r.ready[0]
		r.ready[0], r.ready = nil, r.ready[1:]
		if t.f.gone.Load() {
			continue // dropped: its flow has let go of it
		}
		t.f.running++
		r.mu.Unlock()
		again, err := r.attempt(t.f.ctx, t)
		r.mu.Lock()
		t.f.running--
		switch {
		case err != nil:
			r.failLocked(t.f, err)
		case again > 0:
			time.AfterFunc(again, func() { r.again(t) })
		default:
			r.finishLocked(t)
		}
		if t.f.gone.Load() || r.stopping || r.o.MaxInFlight-r.inFlight >= max(r.o.MaxInFlight/4, 1) {
			r.cond.Broadcast()
		}
	}
}

// again is for a record whose pause is over.
func (r *runner) again(t *task) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !t.f.gone.Load() {
		r.readyLocked(t)
	}
}

// attempt calls the handler once. again > 0: it failed, and shall be called again after that; err: the Run cannot go on.
func (r *runner) attempt(ctx context.Context, t *task) (again time.Duration, err error) {
	t.attempts++
	err = r.handler(ctx, t.r)
	if err == nil {
		return 0, nil
	}
	return r.failure(ctx, t, err)
}

// failure decides about a record whose handler returned an error.
func (r *runner) failure(ctx context.Context, t *task, err error) (again time.Duration, fatal error) {
	p := &r.o.Retry
	if errors.Is(err, ErrStop) {
		r.mu.Lock()
		r.stopping, r.stopped = true, true
		r.jobs.Broadcast()
		r.mu.Unlock()
		r.halted.Store(true)
		r.enough()
		return 0, nil
	}
	if ctx.Err() != nil { // it was told to give up, and did
		return 0, context.Cause(ctx)
	}
	if told := r.ctx.Err(); told != nil && errors.Is(err, told) { // it went by Run's context: the record has not failed
		return 0, errInterrupted
	}
	hooks(r.c.cfg.Hooks).attemptFailed(t.r, t.attempts, err)
	_, hopeless := errors.AsType[permanent](err)
	if t.attempts < p.Attempts && !hopeless {
		d := p.backoff(t.attempts)
		r.c.log.Debug("a record could not be processed and will be tried again", "topic", t.r.Topic, "partition", t.r.Partition, "offset", t.r.Offset,
			"attempt", t.attempts, "in", d, "err", err)
		return d, nil
	}
	to := p.next(t.r.Topic)
	if hopeless {
		to = p.DeadLetter
	}
	if to == "" {
		return 0, &ProcessingError{Record: t.r, Attempts: t.attempts, Err: err}
	}
	return 0, r.c.putAside(ctx, t.r, to, t.attempts, err)
}

// failLocked ends the Run, unless the failure is only that the partition has gone.
func (r *runner) failLocked(f *flow, err error) {
	if f.gone.Load() || errors.Is(err, errInterrupted) {
		return
	}
	r.stopping = true
	r.jobs.Broadcast()
	r.enough()
	if r.failed == nil && r.base.Err() == nil {
		r.failed = err
	}
}

// finishLocked is for a record that counts as processed.
func (r *runner) finishLocked(t *task) {
	t.done = true
	if len(t.r.Key) > 0 {
		k := keyOf{t.f, string(t.r.Key)}
		if t.next != nil {
			if !t.f.gone.Load() {
				r.readyLocked(t.next)
			}
		} else if r.keys[k] == t {
			delete(r.keys, k)
		}
	}
	if t.f.gone.Load() {
		// Its flow waits for what runs, and counts this one if it is not too late: see revoke.
		t.f.advance()
		return
	}
	r.inFlight -= t.f.advance()
	r.markLocked(t.f, len(t.f.queue) == 0)
}

// end stops what runs, commits and says why.
func (r *runner) end(ctx context.Context, err error) error {
	c := r.c
	r.mu.Lock()
	r.stopping = true
	r.jobs.Broadcast()
	r.mu.Unlock()
	grace := time.AfterFunc(r.o.StopGrace, r.cancel)
	r.workers.Wait()
	grace.Stop()
	r.cancel()
	c.mu.Lock()
	c.run = nil
	c.mu.Unlock()
	r.mu.Lock()
	for _, f := range r.flows {
		if f.gone.Load() { // a seek is about to come
			continue
		}
		r.markLocked(f, true)
		c.spent = c.spent || len(f.queue) > 0 || len(f.parked) > 0 || f.left > 0
		if len(f.parked) > 0 {
			r.resume = append(r.resume, f.tp)
		}
		f.gone.Store(true) // timers that are left find nothing
	}
	failed, stopped := r.failed, r.stopped
	r.mu.Unlock()
	r.release()
	switch told := ctx.Err(); {
	case failed != nil:
		err = failed
	case stopped, told != nil && !c.stopAtEnd && errors.Is(err, told):
		err = nil
	}
	if c.group {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), r.o.StopGrace)
		defer cancel()
		if cerr := c.cl.CommitMarkedOffsets(ctx); cerr != nil {
			err = errors.Join(err, wrap("commit offsets of group", c.cfg.Group, cerr))
		}
	}
	return err
}

// A bridge at work: one goroutine that carries it, begins anew after every failure from what is committed, and asks first whether it still may.

package bridge

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/balsamq/balsa/client"
)

const (
	// Pauses before a bridge begins anew: after a failure, twice as long each time; and when somebody has to do something first.
	retryMin   = 100 * time.Millisecond
	retryMax   = 10 * time.Second
	retryStuck = 15 * time.Second
	// lookEvery is how often the lag is asked for, and whether source and target are still those that they were.
	lookEvery = 2 * time.Second
	// maxBatch and maxBatchBytes bound what is in one transaction, and what is read ahead of it.
	maxBatch      = 5000
	maxBatchBytes = 4 << 20
)

// Job is a bridge to be run.
type Job struct {
	// ID is the bridge's, for good; Name is what people call it, and Cluster the id of the cluster that it belongs to.
	ID, Name, Cluster string
	Spec              *Spec
	// Position is where it begins, and Number how often that was said: a larger one than the progress has makes it begin there.
	Position string
	Number   int64
	// Kafka is how to reach the cluster, Secrets the directory with the files that the definition names; it may be empty.
	Kafka   client.Config
	Secrets string
	// Owns says whether the bridge is (still) this process's to run, as of now. Nil: it is.
	Owns   func(context.Context) error
	Logger *slog.Logger

	tries int  // a test's, in place of refusedTries
	blind bool // a test's: which records a topic takes is not looked at before it is asked
}

// Bridge is one that runs.
type Bridge struct {
	job    Job
	conv   *converter
	stats  *stats
	log    *slog.Logger
	cancel context.CancelFunc
	done   chan struct{}

	refused refusals
}

// stuckError is why a bridge cannot go on by itself.
type stuckError struct{ err error }

func (e *stuckError) Error() string { return e.err.Error() }
func (e *stuckError) Unwrap() error { return e.err }

func stuck(format string, a ...any) error { return &stuckError{fmt.Errorf(format, a...)} }

// Start begins to carry a bridge, until Close.
func Start(job Job) (*Bridge, error) {
	if err := job.Spec.Check(); err != nil {
		return nil, err
	}
	if err := CheckPosition(job.Spec, job.Position); err != nil {
		return nil, err
	}
	conv, err := newConverter(job.Spec, job.Cluster+"/"+job.Name)
	if err != nil {
		return nil, err
	}
	if job.Owns == nil {
		job.Owns = func(context.Context) error { return nil }
	}
	if job.tries == 0 {
		job.tries = refusedTries
	}
	if job.Logger == nil {
		job.Logger = slog.New(slog.DiscardHandler)
	}
	if job.Kafka.ClientID == "" {
		job.Kafka.ClientID = "balsa-bridge-" + job.Name
	}
	ctx, cancel := context.WithCancel(context.Background())
	b := &Bridge{job: job, conv: conv, stats: newStats(), log: job.Logger.With("bridge", job.Name), cancel: cancel, done: make(chan struct{})}
	go b.run(ctx)
	return b, nil
}

// Close stops it, and returns when it writes no more.
func (b *Bridge) Close() {
	b.cancel()
	<-b.done
}

// Status is the bridge now.
func (b *Bridge) Status() Status { return b.stats.status() }

func (b *Bridge) run(ctx context.Context) {
	defer close(b.done)
	wait := retryMin
	for {
		before := b.stats.records.Load()
		err := b.job.Owns(ctx)
		if err == nil {
			err = b.carry(ctx)
		}
		if ctx.Err() != nil {
			return
		}
		if b.stats.records.Load() != before {
			wait = retryMin // it had been well
		}
		var (
			state State
			pause time.Duration
		)
		state, pause, wait = b.after(err, wait)
		if b.stats.enter(state, err) {
			b.log.Warn("the bridge has stopped and will begin anew from what is committed", "state", state, "in", pause, "err", err)
		}
		b.stats.restarts.Add(1)
		t := time.NewTimer(pause)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return
		}
	}
}

// after says what a bridge is after a failure, and how long it pauses; wait is what the last failure left for this one, and next for the next one.
func (b *Bridge) after(err error, wait time.Duration) (state State, pause, next time.Duration) {
	if _, ok := errors.AsType[*stuckError](err); ok {
		return StateStuck, retryStuck, wait
	}
	if r, ok := errors.AsType[*topicRefusal](err); ok && r.topic == b.job.Spec.ToTopic {
		return StateWaiting, retryMin, wait // each time it knows more
	}
	return StateWaiting, wait, min(2*wait, retryMax)
}

// carry connects to both sides and goes on until something fails.
func (b *Bridge) carry(ctx context.Context) error {
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	conn, err := connect(ctx, b.job.Spec, secrets(b.job.Secrets), b.job.Name, maxWindow, b.log, func(err error) {
		fail(fmt.Errorf("the connection to NATS is gone: %w", err))
	})
	if err != nil {
		return err
	}
	defer conn.close()
	if b.job.Spec.FromSubject == "" { // else what has been received is taken over first
		defer context.AfterFunc(ctx, conn.close)() // nats.go waits for some answers whatever happens to ctx
	}
	switch {
	case b.job.Spec.FromStream != "":
		err = b.streamToTopic(ctx, conn)
	case b.job.Spec.FromSubject != "":
		err = b.subjectToTopic(ctx, conn)
	default:
		err = b.topicToStream(ctx, conn)
	}
	if denied := conn.denied.some(); err != nil && denied != nil { // a question that is not allowed has no answer, and no error but that
		err = fmt.Errorf("%w (%w)", err, denied)
	}
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.Canceled) {
		return cause
	}
	return err
}

// running notes that all is well.
func (b *Bridge) running() {
	if b.stats.enter(StateRunning, nil) {
		b.log.Info("the bridge is running", "from", b.job.Spec.Source(), "to", b.job.Spec.Target())
	}
}

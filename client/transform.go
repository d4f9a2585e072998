// Transform: records of topics to a function, what it returns to other topics, exactly once. docs/design/0025-sdk.md has the reasons.
//
// A transaction holds the records of one poll: their outputs, and how far the group has come. Either all of it becomes visible or nothing,
// and then the same records come again. It is aborted when a partition goes to another member meanwhile, as soon as that happens: handlers'
// contexts end. What fails otherwise ends the session with the cluster, and a new one is begun; it finds out from the group where it is.

package client

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

const (
	// DefaultTransformRecords bounds the records of a transaction when the configuration does not say.
	DefaultTransformRecords = 2000
	// maxSessions is how many sessions in a row may fail without a commit before Transform does.
	maxSessions = 10
	// maxSessionPause is the longest pause before the next one.
	maxSessionPause = 5 * time.Second
)

// TransformConfig is how [Transform] works. Group and Topics must be set.
type TransformConfig struct {
	Config
	// Topics are read whole, and only what is committed of them; each must exist.
	Topics []string
	// Group shares Topics among all programs that call Transform with it, and remembers how far it came.
	Group string
	// From is where to begin in partitions where the group has not been before.
	From Start
	// Topic is where outputs go that name no topic themselves. It must exist.
	Topic string
	// Concurrency is how many records are processed at a time. Those with the same key of the same partition are processed one after the
	// other, in order. Outputs are written in the order of their inputs in any case. Zero: 1.
	Concurrency int
	// MaxRecords bounds the records of a transaction, and so what is held in memory and done again after a failure. Zero:
	// [DefaultTransformRecords].
	MaxRecords int
	// Retry says what happens to a record whose handler fails. The dead-letter topic is written in the transaction that the record is part
	// of. Delayed is not for Transform.
	Retry RetryPolicy
	// TransactionalID is the name under which this program writes, which no other running program may have. One that is the same after a
	// restart (the host's name, say) lets the new one go on at once where the old one has died in a transaction; otherwise its partitions wait
	// until TransactionTimeout is over. Empty: one made of Group and chance.
	TransactionalID string
	// TransactionTimeout is how long a transaction may take. One that threatens to take longer is aborted and tried again with fewer
	// records. Zero: [DefaultTransactionTimeout].
	TransactionTimeout time.Duration
	// StopGrace is how long the transaction that is under way may go on when ctx ends, before it is aborted. Zero: [DefaultStopGrace].
	StopGrace time.Duration
	// StopAtEnd makes Transform return nil once it has processed all that was there when each partition was assigned. One that gets none,
	// because others have them all, returns at once.
	StopAtEnd bool
	// OnAssigned and OnRevoked are for what the function remembers of partitions, to load it and to forget it. OnAssigned is called with
	// partitions before the function gets a record of theirs; OnRevoked when they are another member's, when Transform ends, and when a
	// transaction was aborted: what the function has made of its records has not happened then, and OnAssigned follows. So what was remembered
	// since the last OnAssigned is always what is committed, and that of the transaction under way. Both are called between
	// transactions, one at a time, by the goroutine of Transform. An error of OnAssigned is a failure like that of a broker: Transform begins again,
	// and returns it when it does not go away, or at once if it is [Permanent]; OnRevoked is not called for those partitions. What another member has
	// written in its last transaction may become visible some moments after OnAssigned. Nil: not called.
	OnAssigned func(ctx context.Context, partitions map[string][]int32) error
	OnRevoked  func(partitions map[string][]int32)
	// Compression of what is written.
	Compression Compression
	// ClassicGroup uses Kafka's older group protocol though the cluster has the new one: see [ConsumerConfig].
	ClassicGroup bool
	// Rack names where this program runs: see [ConsumerConfig].
	Rack string
}

func (cfg *TransformConfig) check() error {
	invalid := func(format string, a ...any) error {
		return &Error{Op: "set up the transformation", Kind: ErrInvalid, Err: fmt.Errorf(format, a...)}
	}
	switch {
	case len(cfg.Topics) == 0:
		return invalid("Topics are not set")
	case cfg.Group == "":
		return invalid("Group is not set: it remembers how far the transformation came")
	case cfg.Concurrency < 0 || cfg.MaxRecords < 0:
		return invalid("concurrency %d and at most %d records in a transaction: neither can be negative", cfg.Concurrency, cfg.MaxRecords)
	case len(cfg.Retry.Delayed) > 0:
		return invalid("delayed retries are not for a transformation: its order would be gone")
	}
	if err := cfg.Retry.check(&ConsumerConfig{Topics: cfg.Topics, Group: cfg.Group}); err != nil {
		return invalid("%w", err)
	}
	return nil
}

// TransformFunc makes records out of one. Those that name no topic go to the configured one; none at all is fine. They belong to Transform
// once they are returned, and r must not be kept or changed. What else the function does may happen more than once. [ErrStop] ends Transform
// after the transaction that the record is part of, which comprises what was returned with it; another error is up to [RetryPolicy].
type TransformFunc func(ctx context.Context, r *kgo.Record) ([]*kgo.Record, error)

// Transform calls fn for every record of the topics and writes what it returns, exactly once: to a consumer that reads what is committed it
// looks as if fn had been called once for each record, whatever fails, restarts or moves. It goes on until ctx ends (the transaction under way
// is finished first), fn returns [ErrStop], StopAtEnd is reached, a record cannot be processed ([*ProcessingError]), or an error does not go
// away: [ErrFenced] if another program has taken TransactionalID.
//
// That ctx ends is how a program tells Transform to end, and no failure: it then returns nil, as it does after [ErrStop] and at the end. With
// StopAtEnd it returns the context's error, since there were records left. An error that it returns is always worth a line in a log.
//
// It runs on the caller's goroutine and Concurrency others (none with 1) while there are records; all have ended when it returns, and those of the
// franz-go client under it.
func Transform(ctx context.Context, cfg TransformConfig, fn TransformFunc) error {
	if err := cfg.check(); err != nil {
		return err
	}
	if fn == nil {
		return &Error{Op: "set up the transformation", Kind: ErrInvalid, Err: errors.New("there is no function")}
	}
	codec, err := cfg.Compression.codec()
	if err != nil {
		return err
	}
	cfg.Retry.Attempts = orInt(cfg.Retry.Attempts, DefaultAttempts)
	cfg.Concurrency = orInt(cfg.Concurrency, 1)
	cfg.MaxRecords = orInt(cfg.MaxRecords, DefaultTransformRecords)
	cfg.TransactionTimeout = orDuration(cfg.TransactionTimeout, DefaultTransactionTimeout)
	t := &transformer{cfg: cfg, fn: fn, log: cfg.logger(), codec: codec, limit: cfg.MaxRecords, id: cfg.TransactionalID, state: newState(&cfg), ends: transformEnds{m: make(map[topicPartition]*transformEnd)}}
	if t.id == "" {
		t.id = cfg.Group + "-" + rand.Text()
	}
	told := func(err error) error { // as it connects
		if err != nil && !cfg.StopAtEnd && ctx.Err() != nil && errors.Is(err, ctx.Err()) {
			return nil
		}
		return err
	}
	if t.admin, err = NewAdmin(ctx, cfg.Config); err != nil {
		return told(err)
	}
	defer t.admin.Close()
	names := append(cfg.Retry.deadLetters(), cfg.Topics...)
	if cfg.Topic != "" {
		names = append(names, cfg.Topic)
	}
	if _, err := t.admin.partitionsOf(ctx, names); err != nil {
		return told(err)
	}
	base, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	defer cancel(context.Canceled)
	t.ctx, t.base = ctx, base
	stop := context.AfterFunc(ctx, func() {
		grace := time.AfterFunc(orDuration(cfg.StopGrace, DefaultStopGrace), func() { cancel(errStopped) })
		context.AfterFunc(base, func() { grace.Stop() })
	})
	defer stop()
	switch err = t.run(ctx); {
	case err == errStopped && cfg.StopAtEnd:
		return ctx.Err()
	case err == errStopped:
		return nil
	}
	return err
}

// transformer is one Transform.
type transformer struct {
	cfg   TransformConfig
	fn    TransformFunc
	log   *slog.Logger
	admin *Admin
	codec kgo.CompressionCodec
	id    string
	ctx   context.Context // Transform's
	base  context.Context // of transactions: it ends some time after that
	limit int             // records of the next transaction
	blame *blame
	ends  transformEnds
	state *state

	moved   atomic.Bool                             // partitions have gone since the last look
	current atomic.Pointer[context.CancelCauseFunc] // of the transaction that runs
	stopped atomic.Bool                             // fn said ErrStop
}

// errStopped: Transform's context has ended. By itself, and not wrapped, it says that nothing else has gone wrong.
var errStopped = errors.New("told to end")

// run begins sessions until there is a reason to end.
func (t *transformer) run(ctx context.Context) error {
	var last error // of the session before, if it did not commit anything
	for failed := 0; ; {
		committed, err := t.session(ctx)
		if committed {
			failed, last = 0, nil
		}
		failed++
		switch told := ctx.Err(); {
		case err == nil, err == errStopped:
			return err
		case told != nil && errors.Is(err, told): // while it connected
			return cmp.Or(last, errStopped)
		case told != nil:
			return err
		case failed >= maxSessions || !t.passing(err):
			return err
		}
		last = err
		pause := min(100*time.Millisecond<<(failed-1), maxSessionPause)
		t.log.Warn("a transformation failed and is begun again where its group is", "group", t.cfg.Group, "in", pause, "err", err)
		select {
		case <-ctx.Done():
			return err
		case <-time.After(pause):
		}
	}
}

// passing says whether it is worth while to begin again after an error.
func (t *transformer) passing(err error) bool {
	if _, ok := errors.AsType[*ProcessingError](err); ok {
		return false
	}
	if _, ok := errors.AsType[permanent](err); ok {
		return false
	}
	switch kindOf(err) {
	case ErrInvalid, ErrNotFound, ErrDenied, ErrClosed:
		return false
	case ErrFenced: // it took too long: nobody else can know a name of our own making
		return t.cfg.TransactionalID == ""
	}
	return true
}

// session joins the group and works until it fails, or is done (nil).
func (t *transformer) session(ctx context.Context) (committed bool, err error) {
	var s *kgo.GroupTransactSession
	t.ends.reset()
	t.state.reset()
	_, err = t.cfg.connectBy(ctx, func(opts ...kgo.Opt) (*kgo.Client, error) {
		var err error
		if s, err = kgo.NewGroupTransactSession(opts...); err != nil {
			return nil, err
		}
		return s.Client(), nil
	}, t.options()...)
	if err != nil {
		return false, err
	}
	defer s.Close()
	defer t.state.forgetAll()
	// First of all: a transaction that an earlier session has left open holds up the offsets that this one begins with.
	if err := takeOver(ctx, s.Client(), t.id); err != nil {
		return false, err
	}
	for {
		if t.moved.Swap(false) { // between two transactions: the next one shall not be aborted for that
			if _, err := t.end(s, kgo.TryAbort); err != nil {
				return committed, err
			}
		}
		if t.stopped.Load() || t.cfg.StopAtEnd && t.ends.reached(s.Client()) {
			return committed, nil
		}
		fetches, err := t.poll(ctx, s)
		if err != nil {
			return committed, err
		}
		if err := t.state.tell(ctx); err != nil {
			if told := ctx.Err(); told != nil && errors.Is(err, told) {
				err = errStopped
			}
			return committed, err
		}
		records := t.dataOf(fetches)
		if len(records) == 0 {
			t.ends.advance(fetches)
			continue
		}
		ok, err := t.transact(s, records)
		if err != nil {
			return committed, err
		}
		if !ok {
			t.state.forgetAll()
			continue
		}
		committed = true
		t.ends.advance(fetches)
	}
}

func (t *transformer) options() []kgo.Opt {
	cfg := &t.cfg
	opts := []kgo.Opt{
		kgo.TransactionalID(t.id),
		kgo.TransactionTimeout(cfg.TransactionTimeout),
		kgo.ConsumerGroup(cfg.Group),
		kgo.ConsumeTopics(cfg.Topics...),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.ConsumeStartOffset(cfg.From.offset()),
		kgo.FetchMaxWait(500 * time.Millisecond),
		kgo.FetchMaxBytes(16 << 20),
		kgo.RequiredAcks(kgo.AllISRAcks()),
		kgo.ProducerBatchCompression(t.codec),
		kgo.ProducerLinger(0),
		kgo.MaxBufferedRecords(DefaultMaxBufferedRecords),
		kgo.MaxBufferedBytes(DefaultMaxBufferedBytes),
		kgo.UnknownTopicRetries(6),
		kgo.AdjustFetchOffsetsFn(t.starts),
		kgo.OnPartitionsAssigned(func(_ context.Context, _ *kgo.Client, parts map[string][]int32) {
			t.log.Debug("partitions assigned", "group", cfg.Group, "partitions", parts)
			t.ends.assigned(parts)
			t.state.came(parts)
		}),
		kgo.OnPartitionsRevoked(t.gone),
		kgo.OnPartitionsLost(t.gone),
	}
	if cfg.Topic != "" {
		opts = append(opts, kgo.DefaultProduceTopic(cfg.Topic))
	}
	if cfg.StopAtEnd {
		opts = append(opts, kgo.KeepControlRecords()) // a partition may end in one
	}
	if cfg.Rack != "" {
		opts = append(opts, kgo.Rack(cfg.Rack), kgo.RecheckPreferredReplicaInterval(recheckRack))
	}
	if !cfg.ClassicGroup {
		opts = append(opts, kgo.ServerSideBalancer(), kgo.Balancers(kgo.StickyBalancer(), kgo.CooperativeStickyBalancer()))
	}
	return opts
}

// errMoved aborts a transaction.
var errMoved = errors.New("partitions have gone to another member")

// gone is for partitions that are taken away.
func (t *transformer) gone(_ context.Context, _ *kgo.Client, parts map[string][]int32) {
	t.log.Debug("partitions gone", "group", t.cfg.Group, "partitions", parts)
	t.ends.gone(parts)
	t.state.went(parts)
	t.moved.Store(true)
	if cancel := t.current.Load(); cancel != nil {
		(*cancel)(errMoved)
	}
}

// starts replaces starts by offsets: to abort is to go back to a position, so there must be one.
func (t *transformer) starts(ctx context.Context, offsets map[string]map[int32]kgo.Offset) (map[string]map[int32]kgo.Offset, error) {
	if err := t.admin.resolveStarts(ctx, t.cfg.From, true, offsets); err != nil {
		return nil, err
	}
	if t.cfg.StopAtEnd {
		for topic, ps := range offsets {
			_, ends, err := t.admin.bounds(ctx, topic, true)
			if err != nil {
				return nil, err
			}
			for p, o := range ps {
				t.ends.set(topicPartition{topic, p}, o.EpochOffset().Offset, ends[p])
			}
		}
	}
	return offsets, nil
}

// poll waits for records.
func (t *transformer) poll(ctx context.Context, s *kgo.GroupTransactSession) (kgo.Fetches, error) {
	asking, cancel := context.WithCancel(ctx)
	defer cancel()
	defer t.state.waiting(cancel)()
	if t.cfg.StopAtEnd { // no record wakes us when there turns out to be nothing to read
		var end context.CancelFunc
		asking, end = context.WithTimeout(asking, 100*time.Millisecond)
		defer end()
	}
	fetches := s.PollRecords(asking, t.limit)
	if ctx.Err() != nil {
		return nil, errStopped
	}
	var first error
	fetches.EachError(func(topic string, partition int32, err error) {
		lost, session := errors.AsType[*kgo.ErrGroupSession](err)
		_, loss := errors.AsType[*kgo.ErrDataLoss](err)
		switch {
		case loss: // mostly it is none: see Consumer.gotNone. franz-go goes on where the log does
			t.log.Warn("records of an input may have been lost", "group", t.cfg.Group, "err", err)
		case asking.Err() != nil && errors.Is(err, asking.Err()):
		case session: // franz-go joins again by itself
			t.log.Warn("the group's session failed; it is begun again", "group", t.cfg.Group, "err", lost.Err)
		case first == nil:
			subject := ""
			if topic != "" {
				subject = partitionName(topic, partition)
			}
			first = wrap("consume", subject, err)
		}
	})
	return fetches, first
}

// dataOf are the records that are no markers.
func (t *transformer) dataOf(fetches kgo.Fetches) []*kgo.Record {
	records := make([]*kgo.Record, 0, fetches.NumRecords())
	fetches.EachRecord(func(r *kgo.Record) {
		if !r.Attrs.IsControl() {
			records = append(records, r)
		}
	})
	return records
}

// end ends a transaction. It does not end with Transform's context: it would not be known what came of it.
func (t *transformer) end(s *kgo.GroupTransactSession, how kgo.TransactionEndTry) (committed bool, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), endTimeout)
	defer cancel()
	committed, err = s.End(ctx, how)
	return committed, wrap("end a transaction of group", t.cfg.Group, err)
}

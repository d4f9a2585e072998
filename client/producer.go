// The producer: records to partitions, each acknowledged by a majority's disks unless asked otherwise.

package client

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

// Acks says when a broker answers a produce request.
type Acks int8

const (
	// AcksAll waits until the records are on the disks of a majority of the replicas: the default, and the only level
	// at which an acknowledged record survives the loss of any one broker. It makes the producer idempotent.
	AcksAll Acks = iota
	// AcksLeader waits for the leader's disk only. A record acknowledged so is lost if that broker fails too early.
	AcksLeader
	// AcksNone waits for nothing; an error is not reported either.
	AcksNone
)

// Compression names a codec for record batches.
type Compression string

// The codecs. The empty value is [CompressionNone].
const (
	CompressionNone   Compression = "none"
	CompressionGzip   Compression = "gzip"
	CompressionSnappy Compression = "snappy"
	CompressionLz4    Compression = "lz4"
	CompressionZstd   Compression = "zstd"
)

func (c Compression) codec() (kgo.CompressionCodec, error) {
	switch c {
	case "", CompressionNone:
		return kgo.NoCompression(), nil
	case CompressionGzip:
		return kgo.GzipCompression(), nil
	case CompressionSnappy:
		return kgo.SnappyCompression(), nil
	case CompressionLz4:
		return kgo.Lz4Compression(), nil
	case CompressionZstd:
		return kgo.ZstdCompression(), nil
	}
	return kgo.CompressionCodec{}, &Error{Op: "set up the producer", Kind: ErrInvalid,
		Err: fmt.Errorf("compression %q is not known; use none, gzip, snappy, lz4 or zstd", string(c))}
}

// Bounds of what a producer buffers, when its configuration says nothing else.
const (
	DefaultMaxBufferedRecords = 50_000
	DefaultMaxBufferedBytes   = 64 << 20
)

// ProducerConfig is how a [Producer] works. The zero value is safe: all acks, idempotent, no lingering.
type ProducerConfig struct {
	Config
	// Topic is where records go that name no topic themselves.
	Topic string
	// Acks says what counts as written.
	Acks Acks
	// Compression of batches. A batch that does not get smaller is sent as it is.
	Compression Compression
	// Linger is how long a partition waits for more records before a batch leaves. Zero: not at all, the best latency;
	// while requests are under way records gather into batches all the same.
	Linger time.Duration
	// ManualPartitions sends each record to its Partition field. Otherwise the key's hash decides, as in every Kafka
	// client, and records without a key go to one partition after the other.
	ManualPartitions bool
	// AllowAutoCreate lets a produce to an unknown topic create it, if the brokers do that.
	AllowAutoCreate bool
	// MaxBufferedRecords and MaxBufferedBytes bound what waits for an acknowledgement; producing blocks beyond them.
	// Zero: [DefaultMaxBufferedRecords], [DefaultMaxBufferedBytes].
	MaxBufferedRecords int
	MaxBufferedBytes   int
	// TransactionalID makes the producer one that writes by [Producer.Transact] only. It must be one that no other running producer has, and
	// should be the same after a restart: the new one then aborts what the old one has left open, and fences it.
	TransactionalID string
	// TransactionTimeout is how long a transaction may take before the cluster aborts it. Until then, readers of what is committed wait behind
	// the open transaction of a program that has died. Zero: [DefaultTransactionTimeout].
	TransactionTimeout time.Duration
}

// Producer writes records. It is safe for concurrent use.
//
// Records of one partition are written in the order in which they were handed over, without gaps: if one fails, so do
// those after it that were buffered with it. A record is tried until it is written, refused, or its context ends: bound
// the contexts. (franz-go's RecordDeliveryTimeout is no substitute: it counts from the record's Timestamp, so that a
// record with an old one would fail at once.)
type Producer struct {
	cl    *kgo.Client
	txn   chan struct{} // has an element while a transaction runs; nil: the producer has no transactional id
	hooks hooks
	clock stamps

	manual bool // records name their partitions

	silent callback              // of records without a function
	usual  atomic.Pointer[usual] // of records with the context that many have
	seen   bool                  // records are seen on their way by others than franz-go: its options may have hooks, and a partitioner

	// The way of a record takes no lock, and writes nothing that those who hand records over and franz-go, which settles them, would both
	// write. Who hands one over counts it and then looks at closed; who closes does it the other way round. So do who settles one and who
	// waits for it, with settled and waiting.
	closed  atomic.Bool // no more records are taken
	waiting atomic.Bool // drained is not nil
	_       cacheLine
	handed  atomic.Int64 // records taken, those waiting for room in the buffer included
	_       cacheLine
	settled atomic.Int64 // records whose outcome is known
	_       cacheLine

	mu      sync.Mutex    // protects what follows; never held while calling out
	drained chan struct{} // closed when pending falls to 0; nil unless somebody waits
	failed  int           // records without a callback that failed since the last Flush …
	failure error         // … and the first of their errors
}

// cacheLine keeps apart what different processors write.
type cacheLine [64]byte

// NewProducer connects to the cluster. Close it when done.
func NewProducer(ctx context.Context, cfg ProducerConfig) (*Producer, error) {
	codec, err := cfg.Compression.codec()
	if err != nil {
		return nil, err
	}
	opts := []kgo.Opt{
		kgo.ProducerBatchCompression(codec),
		kgo.ProducerLinger(cfg.Linger),
		kgo.MaxBufferedRecords(orInt(cfg.MaxBufferedRecords, DefaultMaxBufferedRecords)),
		kgo.MaxBufferedBytes(orInt(cfg.MaxBufferedBytes, DefaultMaxBufferedBytes)),
		// A topic made a moment ago is not known to every broker yet; one that does not exist is not worth minutes.
		kgo.UnknownTopicRetries(6),
	}
	if cfg.Topic != "" {
		opts = append(opts, kgo.DefaultProduceTopic(cfg.Topic))
	}
	switch cfg.Acks {
	case AcksAll:
		opts = append(opts, kgo.RequiredAcks(kgo.AllISRAcks()))
	case AcksLeader:
		opts = append(opts, kgo.RequiredAcks(kgo.LeaderAck()), kgo.DisableIdempotentWrite())
	case AcksNone:
		opts = append(opts, kgo.RequiredAcks(kgo.NoAck()), kgo.DisableIdempotentWrite())
	default:
		return nil, &Error{Op: "set up the producer", Kind: ErrInvalid, Err: fmt.Errorf("acks %d is not one of AcksAll, AcksLeader, AcksNone", cfg.Acks)}
	}
	if cfg.ManualPartitions {
		opts = append(opts, kgo.RecordPartitioner(kgo.ManualPartitioner()))
	}
	if cfg.AllowAutoCreate {
		opts = append(opts, kgo.AllowAutoTopicCreation())
	}
	if cfg.TransactionalID != "" {
		if cfg.Acks != AcksAll {
			return nil, &Error{Op: "set up the producer", Kind: ErrInvalid, Err: errors.New("a transaction needs AcksAll")}
		}
		opts = append(opts, kgo.TransactionalID(cfg.TransactionalID), kgo.TransactionTimeout(orDuration(cfg.TransactionTimeout, DefaultTransactionTimeout)))
	}
	cl, err := cfg.connect(ctx, opts...)
	if err != nil {
		return nil, err
	}
	p := &Producer{cl: cl, hooks: cfg.Hooks, manual: cfg.ManualPartitions, seen: len(cfg.Hooks)+len(cfg.Options) > 0}
	p.silent = p.wrap(nil)
	if cfg.TransactionalID != "" {
		p.txn = make(chan struct{}, 1)
		if err := takeOver(ctx, cl, cfg.TransactionalID); err != nil {
			cl.Close()
			return nil, err
		}
	}
	return p, nil
}

func orInt(v, def int) int {
	if v > 0 {
		return v
	}
	return def
}

// Produce writes records and waits for all of them. Each record's Partition, Offset and Timestamp are set when it was
// written. If some were not, the error is that of the first and says how many they are; a record whose error is
// [ErrTimeout], or the context's, may have been written all the same. For each record's own fate use ProduceAsync.
func (p *Producer) Produce(ctx context.Context, records ...*kgo.Record) error {
	var (
		wg     sync.WaitGroup
		mu     sync.Mutex
		failed int
		first  error
	)
	wg.Add(len(records))
	done := func(_ *kgo.Record, err error) {
		if err != nil {
			mu.Lock()
			if failed++; first == nil {
				first = err
			}
			mu.Unlock()
		}
		wg.Done()
	}
	c := p.wrap(done)
	for _, r := range records {
		p.produce(ctx, r, c)
	}
	wg.Wait()
	return failures(failed, first)
}

// failures is the first of n errors, with their number if there are more.
func failures(n int, first error) error {
	if n > 1 {
		return fmt.Errorf("%d records were not written; the first: %w", n, first)
	}
	return first
}

// ProduceAsync hands a record over and returns; it blocks only while the buffer is full. The record must not be changed
// before done is called, which happens exactly once, on a goroutine of the client, in order within a partition: it must
// not block. (For a record that is not taken at all, as the producer is closed, it is the caller's.) The context bounds the record's whole way. done may be nil: then a failure is reported by the next Flush or Close.
func (p *Producer) ProduceAsync(ctx context.Context, r *kgo.Record, done func(*kgo.Record, error)) {
	if ctx == nil {
		ctx = context.Background() // as franz-go has it
	}
	c := p.silent
	if done != nil {
		c = callback{done: done}
	}
	p.produce(ctx, r, c)
}

func (p *Producer) produce(ctx context.Context, r *kgo.Record, c callback) {
	if p.txn != nil && r != nil {
		err := &Error{Op: "produce to", Subject: r.Topic, Kind: ErrInvalid, Err: errors.New("a producer with a transactional id writes by Transact")}
		p.report(r, err, c.done)
		return
	}
	p.hand(ctx, r, c)
}

// hand hands a record over to franz-go.
func (p *Producer) hand(ctx context.Context, r *kgo.Record, c callback) {
	if r == nil {
		p.report(r, &Error{Op: "produce", Kind: ErrInvalid, Err: errors.New("a record is nil")}, c.done)
		return
	}
	p.handed.Add(1)
	if p.closed.Load() {
		err := &Error{Op: "produce to", Subject: r.Topic, Kind: ErrClosed, Err: errors.New("the producer is closed")}
		p.report(r, err, c.done)
		p.count()
		return
	}
	if r.Timestamp.IsZero() {
		r.Timestamp = p.clock.now()
	}
	if c.promise == nil {
		c.promise = p.promise(ctx, r, c.done)
	}
	p.cl.Produce(ctx, r, c.promise)
}

// settle is for a record whose outcome is known.
func (p *Producer) settle(r *kgo.Record, err error, done func(*kgo.Record, error)) {
	switch {
	case err == nil:
	case r.Topic == "":
		err = &Error{Op: "produce", Kind: ErrInvalid, Err: fmt.Errorf("the record names no topic, and neither does the producer's configuration (%w)", err)}
	case errors.Is(err, kerr.InvalidTopicException), errors.Is(err, kerr.UnknownTopicOrPartition) && !p.manual: // no partition was chosen
		err = wrap("produce to", r.Topic, err)
	default:
		err = wrap("produce to", partitionName(r.Topic, r.Partition), err)
	}
	p.report(r, err, done)
	p.count()
}

// count is for a record whose outcome has been told.
func (p *Producer) count() {
	if p.settled.Add(1); p.waiting.Load() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.wakeLocked()
	}
}

// pending is how many records have no outcome yet.
func (p *Producer) pending() int64 {
	settled := p.settled.Load() // first: it never overtakes the other
	return p.handed.Load() - settled
}

// wakeLocked lets those go on who wait, if nothing is pending.
func (p *Producer) wakeLocked() {
	if p.drained != nil && p.pending() == 0 {
		close(p.drained)
		p.drained = nil
		p.waiting.Store(false)
	}
}

func (p *Producer) report(r *kgo.Record, err error, done func(*kgo.Record, error)) {
	if done != nil {
		done(r, err)
		return
	}
	if err != nil {
		p.mu.Lock()
		p.failed++
		if p.failure == nil {
			p.failure = err
		}
		p.mu.Unlock()
	}
}

// Flush waits until the outcome of every record handed over before is known, and returns an error if one without a
// callback failed since the last Flush, or if ctx ended first.
func (p *Producer) Flush(ctx context.Context) error {
	if err := p.drain(ctx); err != nil {
		return wrap("flush", "the producer", err)
	}
	return p.takeFailure()
}

func (p *Producer) drain(ctx context.Context) error {
	if p.pending() == 0 {
		return nil
	}
	p.mu.Lock()
	if p.drained == nil {
		p.drained = make(chan struct{})
		p.waiting.Store(true)
	}
	drained := p.drained
	p.wakeLocked() // the last one may have been settled by who has not seen that somebody waits
	p.mu.Unlock()
	// This one ends lingering. Records that still wait for room in the buffer get in as it empties, hence the channel.
	if err := p.cl.Flush(ctx); err != nil {
		return err
	}
	select {
	case <-drained:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (p *Producer) takeFailure() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	n, err := p.failed, p.failure
	p.failed, p.failure = 0, nil
	return failures(n, err)
}

// Close takes no more records and transactions, waits for those under way and disconnects. If ctx ends first, the records that are left
// fail with [ErrClosed] (their callbacks run before Close returns) and the error says how many they were. Closing twice is harmless.
func (p *Producer) Close(ctx context.Context) error {
	if p.closed.Swap(true) {
		return nil
	}
	var left error
	if p.txn != nil {
		select {
		case p.txn <- struct{}{}: // for good
		case <-ctx.Done():
			left = &Error{Op: "close", Subject: "the producer", Kind: kindOf(ctx.Err()), Err: fmt.Errorf("a transaction was not over: %w", ctx.Err())}
		}
	}
	if err := p.drain(ctx); err != nil && left == nil {
		n := p.pending()
		left = &Error{Op: "close", Subject: "the producer", Kind: kindOf(err), Err: fmt.Errorf("%d records had no answer yet and may be lost: %w", n, err)}
	}
	p.cl.Close() // fails what is still buffered, and runs the callbacks
	if left != nil {
		_ = p.drain(context.Background())
	}
	return errors.Join(left, p.takeFailure())
}

// Client is the franz-go client underneath, for what this package does not offer. It is closed with the producer.
func (p *Producer) Client() *kgo.Client { return p.cl }

func partitionName(topic string, partition int32) string {
	if partition < 0 {
		return topic
	}
	return fmt.Sprintf("%s/%d", topic, partition)
}

// The consumer: records of topics or of chosen partitions, alone or as a member of a group.

package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// Start says where a consumer begins in a partition. The zero value is [FromBeginning].
type Start struct {
	kind startKind
	n    int64 // an offset, a count of records, or milliseconds since 1970
}

type startKind uint8

const (
	startBeginning startKind = iota
	startEnd
	startOffset
	startTail
	startTime
)

// FromBeginning starts at the oldest record that is kept.
func FromBeginning() Start { return Start{} }

// FromEnd starts with what is written from now on.
func FromEnd() Start { return Start{kind: startEnd} }

// FromOffset starts at an offset, or at the nearest one that exists.
func FromOffset(offset int64) Start { return Start{kind: startOffset, n: max(offset, 0)} }

// FromTail starts n records before the end of each partition.
func FromTail(n int64) Start { return Start{kind: startTail, n: max(n, 0)} }

// FromTime starts at the first record whose timestamp is t or later, or at the end if there is none.
func FromTime(t time.Time) Start { return Start{kind: startTime, n: t.UnixMilli()} }

func (s Start) offset() kgo.Offset {
	switch s.kind {
	case startEnd:
		return kgo.NewOffset().AtEnd()
	case startOffset:
		return kgo.NewOffset().At(s.n)
	case startTail:
		return kgo.NewOffset().AtEnd().Relative(-s.n)
	case startTime:
		return kgo.NewOffset().AfterMilli(s.n)
	}
	return kgo.NewOffset().AtStart()
}

// DefaultPollRecords is the most records that one Poll returns when it is asked for no particular number.
const DefaultPollRecords = 10_000

// ErrStop, returned by the function given to [Consumer.Each], ends the loop without an error; the record counts as processed.
var ErrStop = errors.New("stop consuming")

// ConsumerConfig says what to consume and how. Topics or Partitions must be set, not both.
type ConsumerConfig struct {
	Config
	// Topics are consumed whole; each must exist. Partitions added later are noticed.
	Topics []string
	// Partitions are consumed without a group, each from its own start.
	Partitions map[string]map[int32]Start
	// Group makes this consumer a member of a consumer group, which shares Topics among its members and remembers how
	// far it came. Not with Partitions.
	Group string
	// From is where to begin in Topics; in a group, only where the group has not been before.
	From Start
	// ReadUncommitted also returns records of transactions that are open or were aborted.
	ReadUncommitted bool
	// StopAtEnd makes Poll return [io.EOF] once it has returned all that was there when the consumer was made (in a
	// group: when the partition was assigned).
	StopAtEnd bool
	// MaxWait is the longest that a broker holds back an answer when there is nothing new. Zero: 500 ms.
	MaxWait time.Duration
	// MaxBytes bounds one fetch over all partitions of a broker. Zero: 16 MiB.
	MaxBytes int32
	// Rack names where this program runs. Records are then read from a replica in the same rack, if there is one that is in
	// sync, instead of from the leader. What is promised is the same; what it costs is a little delay at the end of the log.
	Rack string
}

// recheckRack is how often a consumer that reads from a follower asks the leader where to read. It is also how long it may go on
// trying a follower whose broker has died: franz-go comes back by no other way.
const recheckRack = 15 * time.Second

type topicPartition struct {
	topic     string
	partition int32
}

// Consumer reads records. Poll, Each and Commit are for one goroutine; Close may be called from another.
//
// In a group, a record counts as processed when the program asks for more by the next Poll, calls Commit, or when the
// function given to Each has returned. Only processed records are committed: every five seconds, when partitions move
// to another member, and by Close. A crash therefore repeats records and never skips one.
type Consumer struct {
	cl        *kgo.Client
	admin     *Admin
	group     bool
	last      []*kgo.Record // returned by the last Poll, not yet counted as processed
	deferred  error         // to be returned by the next Poll
	stopAtEnd bool

	mu       sync.Mutex               // protects what follows; the group's callbacks write it
	ends     map[topicPartition]int64 // with stopAtEnd: where each partition still being read ended
	assigned bool                     // ends is meaningful: always without a group, after the first assignment with one
	broken   error                    // finding out an end failed
	closed   bool
}

// NewConsumer connects to the cluster, and to the group if there is one. Close it when done.
func NewConsumer(ctx context.Context, cfg ConsumerConfig) (*Consumer, error) {
	invalid := func(format string, a ...any) error {
		return &Error{Op: "set up the consumer", Kind: ErrInvalid, Err: fmt.Errorf(format, a...)}
	}
	switch {
	case len(cfg.Topics) == 0 && len(cfg.Partitions) == 0:
		return nil, invalid("neither Topics nor Partitions are set")
	case len(cfg.Topics) > 0 && len(cfg.Partitions) > 0:
		return nil, invalid("Topics and Partitions exclude each other")
	case cfg.Group != "" && len(cfg.Partitions) > 0:
		return nil, invalid("a group assigns partitions itself: set Group or Partitions")
	}
	c := &Consumer{group: cfg.Group != "", stopAtEnd: cfg.StopAtEnd, ends: make(map[topicPartition]int64)}
	// What to consume is told to franz-go only after the topics were seen to exist and their ends are known: it would
	// otherwise wait for ever for a topic whose name was mistyped.
	admin, err := NewAdmin(ctx, cfg.Config)
	if err != nil {
		return nil, err
	}
	c.admin = admin
	opts, err := c.options(ctx, &cfg)
	if err == nil {
		c.cl, err = cfg.connect(ctx, opts...)
	}
	if err != nil {
		admin.Close()
		return nil, err
	}
	return c, nil
}

func (c *Consumer) options(ctx context.Context, cfg *ConsumerConfig) ([]kgo.Opt, error) {
	wait, bytes := cfg.MaxWait, cfg.MaxBytes
	if wait <= 0 {
		wait = 500 * time.Millisecond
	}
	if bytes <= 0 {
		bytes = 16 << 20
	}
	reset := kgo.NewOffset().AtStart()
	if cfg.From.kind == startEnd {
		reset = kgo.NewOffset().AtEnd()
	}
	opts := []kgo.Opt{
		kgo.FetchMaxWait(wait),
		kgo.FetchMaxBytes(bytes),
		kgo.ConsumeStartOffset(cfg.From.offset()),
		kgo.ConsumeResetOffset(reset),
	}
	if cfg.Rack != "" {
		opts = append(opts, kgo.Rack(cfg.Rack), kgo.RecheckPreferredReplicaInterval(recheckRack))
	}
	if !cfg.ReadUncommitted {
		opts = append(opts, kgo.FetchIsolationLevel(kgo.ReadCommitted()))
	}
	if cfg.StopAtEnd {
		// A partition may end in a transaction's marker, which is no record but does take an offset.
		opts = append(opts, kgo.KeepControlRecords())
	}
	names := cfg.Topics
	if len(cfg.Partitions) > 0 {
		names = nil
		for t := range cfg.Partitions {
			names = append(names, t)
		}
	}
	partitions, err := c.admin.partitionsOf(ctx, names)
	if err != nil {
		return nil, err
	}
	direct := make(map[string]map[int32]kgo.Offset)
	for t, ps := range cfg.Partitions {
		direct[t] = make(map[int32]kgo.Offset)
		for p, start := range ps {
			if !slices.Contains(partitions[t], p) {
				return nil, &Error{Op: "consume", Subject: partitionName(t, p), Kind: ErrNotFound,
					Err: fmt.Errorf("the topic has %d partitions, 0 to %d", len(partitions[t]), len(partitions[t])-1)}
			}
			direct[t][p] = start.offset()
		}
	}
	switch {
	case c.group:
		opts = append(opts, kgo.ConsumerGroup(cfg.Group), kgo.ConsumeTopics(cfg.Topics...), kgo.AutoCommitMarks())
		if cfg.StopAtEnd {
			opts = append(opts, c.trackGroup(cfg)...)
		}
	case cfg.StopAtEnd:
		starts := cfg.Partitions
		if len(starts) == 0 {
			starts = make(map[string]map[int32]Start)
			for t, ps := range partitions {
				starts[t] = make(map[int32]Start)
				for _, p := range ps {
					starts[t][p] = cfg.From
				}
			}
		}
		direct, err = c.resolve(ctx, starts, !cfg.ReadUncommitted)
		if err != nil {
			return nil, err
		}
		c.assigned = true
		if len(direct) == 0 {
			return opts, nil // nothing to read: the first Poll says so
		}
		opts = append(opts, kgo.ConsumePartitions(direct))
	case len(cfg.Partitions) > 0:
		opts = append(opts, kgo.ConsumePartitions(direct))
	default:
		opts = append(opts, kgo.ConsumeTopics(cfg.Topics...))
	}
	return opts, nil
}

// resolve turns starts into offsets, notes where each partition ends, and leaves out those with nothing to read.
func (c *Consumer) resolve(ctx context.Context, starts map[string]map[int32]Start, committed bool) (map[string]map[int32]kgo.Offset, error) {
	out := make(map[string]map[int32]kgo.Offset)
	for topic, ps := range starts {
		begins, ends, err := c.admin.bounds(ctx, topic, committed)
		if err != nil {
			return nil, err
		}
		for p, start := range ps {
			begin, end := begins[p], ends[p]
			at := begin
			switch start.kind {
			case startEnd:
				at = end
			case startOffset:
				at = start.n
			case startTail:
				at = end - start.n
			case startTime:
				if at, err = c.admin.OffsetAt(ctx, topic, p, time.UnixMilli(start.n)); err != nil {
					return nil, err
				}
			}
			at = max(at, begin)
			if at >= end {
				continue
			}
			c.ends[topicPartition{topic, p}] = end
			if out[topic] == nil {
				out[topic] = make(map[int32]kgo.Offset)
			}
			out[topic][p] = kgo.NewOffset().At(at)
		}
	}
	return out, nil
}

// trackGroup notes the ends of partitions as the group hands them out. The callbacks run before the first record of an
// assignment is returned, and after the last one of a revocation.
func (c *Consumer) trackGroup(cfg *ConsumerConfig) []kgo.Opt {
	gone := func(parts map[string][]int32) {
		c.mu.Lock()
		defer c.mu.Unlock()
		for t, ps := range parts {
			for _, p := range ps {
				delete(c.ends, topicPartition{t, p})
			}
		}
	}
	return []kgo.Opt{
		kgo.OnPartitionsAssigned(func(ctx context.Context, _ *kgo.Client, parts map[string][]int32) {
			ends, err := c.groupEnds(ctx, cfg, parts)
			c.mu.Lock()
			defer c.mu.Unlock()
			if err != nil {
				c.broken = err
			}
			for tp, end := range ends {
				c.ends[tp] = end
			}
			c.assigned = true
		}),
		kgo.OnPartitionsRevoked(func(ctx context.Context, cl *kgo.Client, parts map[string][]int32) {
			_ = cl.CommitMarkedOffsets(ctx) // a failure means that the next owner repeats records, which is allowed
			gone(parts)
		}),
		kgo.OnPartitionsLost(func(_ context.Context, _ *kgo.Client, parts map[string][]int32) { gone(parts) }),
	}
}

func (c *Consumer) groupEnds(ctx context.Context, cfg *ConsumerConfig, parts map[string][]int32) (map[topicPartition]int64, error) {
	done, err := c.admin.raw.FetchOffsets(ctx, cfg.Group)
	if err != nil {
		return nil, wrap("read the committed offsets of group", cfg.Group, err)
	}
	out := make(map[topicPartition]int64)
	for topic, ps := range parts {
		begins, ends, err := c.admin.bounds(ctx, topic, !cfg.ReadUncommitted)
		if err != nil {
			return nil, err
		}
		for _, p := range ps {
			at := begins[p]
			if o, ok := done.Lookup(topic, p); ok && o.At >= 0 {
				at = max(at, o.At)
			} else {
				switch cfg.From.kind {
				case startEnd:
					at = ends[p]
				case startOffset:
					at = max(at, cfg.From.n)
				case startTail:
					at = max(at, ends[p]-cfg.From.n)
				case startTime:
					if at, err = c.admin.OffsetAt(ctx, topic, p, time.UnixMilli(cfg.From.n)); err != nil {
						return nil, err
					}
				}
			}
			if at < ends[p] {
				out[topicPartition{topic, p}] = ends[p]
			}
		}
	}
	return out, nil
}

// Poll waits for records and returns at most limit of them ([DefaultPollRecords] if it is not positive): in order within
// each partition. It returns the context's error when ctx ends first and [io.EOF] as StopAtEnd says. The records
// that the previous Poll returned count as processed from here on.
func (c *Consumer) Poll(ctx context.Context, limit int) ([]*kgo.Record, error) {
	if limit <= 0 {
		limit = DefaultPollRecords
	}
	if c.group && len(c.last) > 0 {
		c.cl.MarkCommitRecords(c.last...)
	}
	c.last = nil
	if err := c.deferred; err != nil {
		c.deferred = nil
		return nil, err
	}
	for {
		if done, err := c.atEnd(); err != nil {
			return nil, err
		} else if done {
			return nil, io.EOF
		}
		// In a group with nothing to read yet, no record would wake us when the assignment turns out to be empty.
		pollCtx, cancel := ctx, context.CancelFunc(func() {})
		if c.stopAtEnd && c.group {
			pollCtx, cancel = context.WithTimeout(ctx, 100*time.Millisecond)
		}
		fetches := c.cl.PollRecords(pollCtx, limit)
		cancel()
		records, err := c.take(fetches)
		if err != nil && ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded) {
			err = nil // our own short wait
		}
		switch {
		case len(records) > 0:
			c.last, c.deferred = records, err
			return records, nil
		case err != nil:
			return nil, err
		}
	}
}

// take sorts a fetch into records and the first error, and advances the ends.
func (c *Consumer) take(fetches kgo.Fetches) ([]*kgo.Record, error) {
	var first error
	fetches.EachError(func(t string, p int32, err error) {
		if first != nil {
			return
		}
		if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
			first = err
			return
		}
		subject := ""
		if t != "" {
			subject = partitionName(t, p)
		}
		first = wrap("consume", subject, err)
	})
	records := make([]*kgo.Record, 0, fetches.NumRecords())
	c.mu.Lock()
	defer c.mu.Unlock()
	for r := range fetches.RecordsAll() {
		if c.stopAtEnd {
			tp := topicPartition{r.Topic, r.Partition}
			if end, ok := c.ends[tp]; ok && r.Offset+1 >= end {
				delete(c.ends, tp)
			}
			if r.Attrs.IsControl() {
				continue
			}
		}
		records = append(records, r)
	}
	return records, first
}

func (c *Consumer) atEnd() (bool, error) {
	if !c.stopAtEnd {
		return false, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.assigned && len(c.ends) == 0, c.broken
}

// Each calls fn for every record until ctx ends, fn fails, or StopAtEnd is reached: then it returns nil. A record counts
// as processed when fn has returned nil or [ErrStop] for it.
func (c *Consumer) Each(ctx context.Context, fn func(*kgo.Record) error) error {
	for {
		records, err := c.Poll(ctx, 0)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		c.last = nil // counted one by one
		for _, r := range records {
			if err := ctx.Err(); err != nil {
				return err
			}
			err := fn(r)
			if c.group && (err == nil || errors.Is(err, ErrStop)) {
				c.cl.MarkCommitRecords(r)
			}
			if errors.Is(err, ErrStop) {
				return nil
			}
			if err != nil {
				return err
			}
		}
	}
}

// Commit counts all records returned so far as processed, and tells the group so at once. Without a group it does nothing.
func (c *Consumer) Commit(ctx context.Context) error {
	if !c.group {
		return nil
	}
	if len(c.last) > 0 {
		c.cl.MarkCommitRecords(c.last...)
		c.last = nil
	}
	return wrap("commit offsets", "", c.cl.CommitMarkedOffsets(ctx))
}

// Close commits what counts as processed, leaves the group and disconnects. Closing twice is harmless.
func (c *Consumer) Close(ctx context.Context) error {
	c.mu.Lock()
	again := c.closed
	c.closed = true
	c.mu.Unlock()
	if again {
		return nil
	}
	var err error
	if c.group {
		err = wrap("commit offsets", "", c.cl.CommitMarkedOffsets(ctx))
	}
	c.cl.Close()
	c.admin.Close()
	return err
}

// Client is the franz-go client underneath, for what this package does not offer. It is closed with the consumer.
func (c *Consumer) Client() *kgo.Client { return c.cl }

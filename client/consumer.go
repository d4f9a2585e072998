// The consumer: records of topics or of chosen partitions, alone or as a member of a group.

package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
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
	// Run is how [Consumer.Run] works.
	Run RunConfig
	// ClassicGroup uses Kafka's older group protocol though the cluster has the new one (KIP-848), for groups with members that cannot
	// do otherwise. With the new one the brokers assign, and nobody stops because somebody else joins.
	ClassicGroup bool
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

// Consumer reads records: by [Consumer.Run], which is for work, by the iterator [Consumer.Records], or by Poll and Each. These and Commit are
// for one goroutine; everything else may be called from others.
//
// In a group, a record counts as processed when the program asks for more by the next Poll, calls Commit, or when the
// function given to Each or Run has returned. Only processed records are committed: every five seconds, when partitions move
// to another member, and by Close. A crash therefore repeats records and never skips one. Partitions do not move to another member
// between a Poll and the next call: a program that takes longer than a minute there loses its place in the group.
type Consumer struct {
	cl        *kgo.Client
	admin     *Admin
	cfg       ConsumerConfig
	log       *slog.Logger
	group     bool
	spent     bool          // a Run ended with records that it had not processed
	rest      []*kgo.Record // of the last Poll, that Each did not come to
	last      []*kgo.Record // returned by the last Poll, not yet counted as processed
	deferred  error         // to be returned by the next Poll
	stopAtEnd bool
	endCheck  time.Time // when it may be asked next whether the ends are reached, and
	endPause  time.Duration
	direct    map[topicPartition]bool // without a group: what is read, if it is not whole topics
	sought    atomic.Bool             // seeks is not empty: a quick look

	mu       sync.Mutex              // protects what follows; the group's callbacks write it
	ends     map[topicPartition]span // with stopAtEnd: of each partition still being read; see ends.go
	assigned bool                    // ends is meaningful: always without a group, after the first assignment with one
	broken   error                   // finding out an end failed
	closed   bool
	run      *runner                   // that is running
	owned    map[topicPartition]bool   // in a group: what this member has
	at       map[topicPartition]int64  // where the next record that is handed out comes from; only of partitions that had one
	seeks    map[topicPartition]int64  // asked for, not yet done
	seeker   seeker                    // what became of them
	paused   map[string]map[int32]bool // by the program; -1: the whole topic
	wake     context.CancelFunc        // of the wait for records, if there is one
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
	if err := cfg.Run.check(&cfg); err != nil {
		return nil, invalid("%w", err)
	}
	c := &Consumer{cfg: cfg, log: cfg.logger(), group: cfg.Group != "", stopAtEnd: cfg.StopAtEnd, ends: make(map[topicPartition]span),
		owned: make(map[topicPartition]bool), at: make(map[topicPartition]int64), seeks: make(map[topicPartition]int64),
		paused: make(map[string]map[int32]bool)}
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
	topics := slices.Concat(cfg.Topics, cfg.Run.Retry.topics())
	names := slices.Concat(topics, cfg.Run.Retry.deadLetters())
	for t := range cfg.Partitions {
		names = append(names, t)
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
					Err: &NoPartitionError{Topic: t, Partitions: len(partitions[t])}}
			}
			direct[t][p] = start.offset()
		}
	}
	if len(cfg.Partitions) > 0 {
		c.reads(direct)
	}
	switch {
	case c.group:
		opts = append(opts, kgo.ConsumerGroup(cfg.Group), kgo.ConsumeTopics(topics...), kgo.AutoCommitMarks(), kgo.BlockRebalanceOnPoll())
		if !cfg.ClassicGroup {
			// The first one asks the brokers for their sticky assignor. Where they have none, members agree on one of the two.
			opts = append(opts, kgo.ServerSideBalancer(), kgo.Balancers(kgo.StickyBalancer(), kgo.CooperativeStickyBalancer()))
		}
		opts = append(opts, c.trackGroup(cfg)...)
	case cfg.StopAtEnd:
		starts := cfg.Partitions
		if len(starts) == 0 {
			starts = make(map[string]map[int32]Start)
			for _, t := range topics {
				ps := partitions[t]
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
		c.reads(direct)
		if len(direct) == 0 {
			return opts, nil // nothing to read: the first Poll says so
		}
		opts = append(opts, kgo.ConsumePartitions(direct))
	case len(cfg.Partitions) > 0:
		opts = append(opts, kgo.ConsumePartitions(direct))
	default:
		opts = append(opts, kgo.ConsumeTopics(topics...))
	}
	return opts, nil
}

// reads notes which partitions are read without a group.
func (c *Consumer) reads(direct map[string]map[int32]kgo.Offset) {
	c.direct = make(map[topicPartition]bool)
	for t, ps := range direct {
		for p := range ps {
			c.direct[topicPartition{t, p}] = true
		}
	}
}

// resolve turns starts into offsets, notes where each partition ends, and leaves out those with nothing to read.
func (c *Consumer) resolve(ctx context.Context, starts map[string]map[int32]Start, committed bool) (map[string]map[int32]kgo.Offset, error) {
	out := make(map[string]map[int32]kgo.Offset)
	for topic, ps := range starts {
		all := slices.Collect(maps.Keys(ps))
		begins, ends, err := c.admin.bounds(ctx, topic, committed, all...)
		if err != nil {
			return nil, err
		}
		where := c.admin.locate(topic, all...)
		for p, start := range ps {
			end := ends[p]
			at, err := where.position(ctx, p, start, begins[p], end)
			if err != nil {
				return nil, err
			}
			if at >= end {
				continue
			}
			c.ends[topicPartition{topic, p}] = span{at, end}
			if out[topic] == nil {
				out[topic] = make(map[int32]kgo.Offset)
			}
			out[topic][p] = kgo.NewOffset().At(at)
		}
	}
	return out, nil
}

// trackGroup notes which partitions are this member's and, where that is asked for, their ends. The callbacks run before the first record
// of an assignment is returned, and after the last one of a revocation, never while records are between a poll and their place.
func (c *Consumer) trackGroup(cfg *ConsumerConfig) []kgo.Opt {
	gone := func(ctx context.Context, parts map[string][]int32, lost bool) {
		c.mu.Lock()
		run := c.run
		c.mu.Unlock()
		if run != nil {
			run.revoke(ctx, parts, lost)
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		for t, ps := range parts {
			for _, p := range ps {
				tp := topicPartition{t, p}
				delete(c.ends, tp)
				delete(c.owned, tp)
				delete(c.at, tp)
				delete(c.seeks, tp)
				c.seeker.forget(tp)
			}
		}
	}
	return []kgo.Opt{
		kgo.AdjustFetchOffsetsFn(c.adjustStarts),
		kgo.OnPartitionsAssigned(func(ctx context.Context, _ *kgo.Client, parts map[string][]int32) {
			c.log.Debug("partitions assigned", "group", cfg.Group, "partitions", parts)
			var ends map[topicPartition]span
			var err error
			if cfg.StopAtEnd {
				ends, err = c.groupEnds(ctx, cfg, parts)
			}
			c.mu.Lock()
			defer c.mu.Unlock()
			for t, ps := range parts {
				for _, p := range ps {
					c.owned[topicPartition{t, p}] = true
				}
			}
			if err != nil {
				c.broken = err
			}
			for tp, end := range ends {
				c.ends[tp] = end
			}
			c.assigned = true
		}),
		kgo.OnPartitionsRevoked(func(ctx context.Context, cl *kgo.Client, parts map[string][]int32) {
			c.log.Debug("partitions revoked", "group", cfg.Group, "partitions", parts)
			gone(ctx, parts, false)
			if err := cl.CommitMarkedOffsets(ctx); err != nil { // the next owner repeats records, which is allowed
				c.log.Warn("offsets could not be committed as partitions were given up", "group", cfg.Group, "err", err)
			}
		}),
		kgo.OnPartitionsLost(func(ctx context.Context, _ *kgo.Client, parts map[string][]int32) {
			c.log.Warn("partitions lost", "group", cfg.Group, "partitions", parts)
			gone(ctx, parts, true)
		}),
	}
}

func (c *Consumer) groupEnds(ctx context.Context, cfg *ConsumerConfig, parts map[string][]int32) (map[topicPartition]span, error) {
	done, err := c.admin.raw.FetchOffsets(ctx, cfg.Group)
	if err != nil {
		return nil, c.admin.wrap("read the committed offsets of group", cfg.Group, err)
	}
	out := make(map[topicPartition]span)
	for topic, ps := range parts {
		begins, ends, err := c.admin.bounds(ctx, topic, !cfg.ReadUncommitted)
		if err != nil {
			return nil, err
		}
		where := c.admin.locate(topic, ps...)
		for _, p := range ps {
			at, err := where.position(ctx, p, cfg.From, begins[p], ends[p])
			if err != nil {
				return nil, err
			}
			if o, ok := done.Lookup(topic, p); ok && o.At >= 0 {
				at = max(begins[p], o.At)
			}
			if at < ends[p] {
				out[topicPartition{topic, p}] = span{at, ends[p]}
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
	if c.spent {
		return nil, errSpent
	}
	c.countLast()
	if c.sought.Load() {
		c.rest = c.wanted(c.rest)
	}
	if n := min(len(c.rest), limit); n > 0 {
		c.last, c.rest = c.rest[:n:n], c.rest[n:]
		return c.last, nil
	}
	if c.group {
		c.cl.AllowRebalance()
	}
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
		// No record may come to wake us: in a group whose assignment turns out to be empty, and at an end without one.
		var wait time.Duration
		if c.stopAtEnd {
			wait = endWait
		}
		fetches := c.fetch(ctx, wait, limit)
		var records []*kgo.Record
		err := c.take(ctx, fetches, func(_ topicPartition, rs []*kgo.Record) {
			switch {
			case records != nil:
			case len(rs) == fetches.NumRecords():
				records = slices.Clip(rs) // what lies behind is not ours
				return
			default:
				records = make([]*kgo.Record, 0, fetches.NumRecords())
			}
			records = append(records, rs...)
		})
		switch {
		case len(records) > 0:
			c.last, c.deferred = records, err
			return records, nil
		case err != nil:
			return nil, err
		}
		if c.group {
			c.cl.AllowRebalance() // markers were all that came
		}
		if c.stopAtEnd {
			c.checkEnds(ctx)
		}
	}
}

// countLast counts what the last Poll has returned as processed.
func (c *Consumer) countLast() {
	c.mark(c.last)
	c.last = nil
}

// mark notes records as processed, for the next commit. Of records of one partition that stand together the last one says it for all:
// franz-go sorts what it is given.
func (c *Consumer) mark(rs []*kgo.Record) {
	if !c.group {
		return
	}
	for i, r := range rs {
		if i+1 == len(rs) || rs[i+1].Partition != r.Partition || rs[i+1].Topic != r.Topic {
			c.cl.MarkCommitRecords(r)
		}
	}
}

// fetch waits for records: for as long as wait, if that is positive. A Seek wakes it.
func (c *Consumer) fetch(ctx context.Context, wait time.Duration, limit int) kgo.Fetches {
	var cancel context.CancelFunc
	if wait > 0 {
		ctx, cancel = context.WithTimeout(ctx, wait)
	} else {
		ctx, cancel = context.WithCancel(ctx)
	}
	defer cancel()
	c.mu.Lock()
	c.wake = cancel
	if len(c.seeks) > 0 {
		cancel()
	}
	doubt := c.seeker.doubt()
	c.mu.Unlock()
	if doubt > 0 {
		var end context.CancelFunc
		ctx, end = context.WithTimeout(ctx, doubt)
		defer end()
	}
	fetches := c.cl.PollRecords(ctx, limit)
	c.mu.Lock()
	c.wake = nil
	c.mu.Unlock()
	return fetches
}

// take hands each partition's records of a fetch to fn, advances positions and ends, does what was asked of Seek, and returns the first
// error. That the wait for records was cut short by fetch's own doing is none.
func (c *Consumer) take(ctx context.Context, fetches kgo.Fetches, fn func(topicPartition, []*kgo.Record)) error {
	var first error
	fetches.EachError(func(t string, p int32, err error) {
		if first != nil {
			return
		}
		if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
			first = ctx.Err()
			return
		}
		if loss, ok := errors.AsType[*kgo.ErrDataLoss](err); ok && c.gotNone(loss, fetches) {
			c.log.Debug("franz-go took markers of transactions for records that are lost", "topic", t, "partition", p, "err", err)
			return
		}
		subject := ""
		if t != "" {
			subject = partitionName(t, p)
		}
		first = wrap("consume", subject, err)
	})
	sought := c.seek(ctx, fetches)
	c.mu.Lock()
	defer c.mu.Unlock()
	fetches.EachPartition(func(p kgo.FetchTopicPartition) {
		tp := topicPartition{p.Topic, p.Partition}
		if _, again := c.seeks[tp]; len(p.Records) == 0 || sought[tp] || again {
			return
		}
		rs := p.Records
		next := rs[len(rs)-1].Offset + 1
		c.at[tp] = next
		if c.stopAtEnd {
			if end, ok := c.ends[tp]; ok && next >= end.to {
				delete(c.ends, tp)
			}
			rs = slices.DeleteFunc(rs, func(r *kgo.Record) bool { return r.Attrs.IsControl() })
		}
		if len(rs) > 0 {
			fn(tp, rs)
		}
	})
	return first
}

// gotNone says whether the program has got no record that a loss is about. franz-go remembers the epoch of the last record that it has kept, and
// how far it has read: where a marker of a transaction, or an aborted record, of a later epoch stands between, it finds its place gone after the
// next change of leader. It goes on behind the last record that it has kept.
func (c *Consumer) gotNone(loss *kgo.ErrDataLoss, fetches kgo.Fetches) bool {
	c.mu.Lock()
	got := c.at[topicPartition{loss.Topic, loss.Partition}]
	c.mu.Unlock()
	fetches.EachPartition(func(p kgo.FetchTopicPartition) {
		if p.Topic == loss.Topic && p.Partition == loss.Partition && len(p.Records) > 0 {
			got = max(got, p.Records[len(p.Records)-1].Offset+1)
		}
	})
	return loss.ResetTo >= got
}

func (c *Consumer) atEnd() (bool, error) {
	if !c.stopAtEnd {
		return false, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.assigned && len(c.ends) == 0, c.broken
}

// Commit counts all records returned so far as processed, and tells the group so at once. Without a group it does nothing.
func (c *Consumer) Commit(ctx context.Context) error {
	if !c.group {
		return nil
	}
	c.countLast()
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
		c.seeksCommitted(ctx)
		err = wrap("commit offsets", "", c.cl.CommitMarkedOffsets(ctx))
	}
	c.cl.CloseAllowingRebalance()
	c.admin.Close()
	return err
}

// Client is the franz-go client underneath, for what this package does not offer. It is closed with the consumer.
func (c *Consumer) Client() *kgo.Client { return c.cl }

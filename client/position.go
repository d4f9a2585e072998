// Where a consumer is, and how a program changes that: seek, pause, lag, and records as an iterator.

package client

import (
	"cmp"
	"context"
	"errors"
	"io"
	"iter"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// Records are all records, one after the other, until ctx ends (which is an error, as any other failure is) or StopAtEnd is reached. A record
// counts as processed when the loop asks for the next one, or breaks.
//
//	for r, err := range c.Records(ctx) {
//		if err != nil {
//			return err
//		}
//		…
//	}
func (c *Consumer) Records(ctx context.Context) iter.Seq2[*kgo.Record, error] {
	return func(yield func(*kgo.Record, error) bool) {
		stopped := false
		err := c.Each(ctx, func(r *kgo.Record) error {
			if !yield(r, nil) {
				stopped = true
				return ErrStop
			}
			return nil
		})
		if err != nil && !stopped {
			yield(nil, err)
		}
	}
}

// Pause stops reading partitions, or with none named the whole topic, until Resume. Records that the program has got already are not
// affected. In a group a pause outlives that the partition goes away and comes back.
func (c *Consumer) Pause(topic string, partitions ...int32) {
	if len(partitions) == 0 {
		c.cl.PauseFetchTopics(topic)
		return
	}
	c.cl.PauseFetchPartitions(map[string][]int32{topic: partitions})
}

// Resume ends a Pause of the same partitions, or of the topic.
func (c *Consumer) Resume(topic string, partitions ...int32) {
	if len(partitions) == 0 {
		c.cl.ResumeFetchTopics(topic)
		return
	}
	c.cl.ResumeFetchPartitions(map[string][]int32{topic: partitions})
}

// Seek makes the next record of a partition the one at start. Records that are being processed are finished; those that wait in a [Consumer.Run]
// are dropped, and what is committed follows: forwards at once, backwards as soon as the first record after the seek has been processed.
// The error is of kind [ErrInvalid] if the consumer does not have the partition.
func (c *Consumer) Seek(ctx context.Context, topic string, partition int32, start Start) error {
	subject := partitionName(topic, partition)
	tp := topicPartition{topic, partition}
	c.mu.Lock()
	owned := !c.group || c.owned[tp]
	c.mu.Unlock()
	if !owned {
		return &Error{Op: "seek in", Subject: subject, Kind: ErrInvalid, Err: errors.New("the partition is not this member's")}
	}
	begins, ends, err := c.admin.bounds(ctx, topic, !c.cfg.ReadUncommitted)
	if err != nil {
		return err
	}
	begin, ok := begins[partition]
	if !ok {
		return c.admin.PartitionExists(ctx, topic, partition)
	}
	at := begin
	switch start.kind {
	case startEnd:
		at = ends[partition]
	case startOffset:
		at = start.n
	case startTail:
		at = ends[partition] - start.n
	case startTime:
		if at, err = c.admin.OffsetAt(ctx, topic, partition, time.UnixMilli(start.n)); err != nil {
			return err
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.seeks[tp] = min(max(at, begin), max(ends[partition], begin))
	if c.wake != nil {
		c.wake()
	}
	return nil
}

// seek does what Seek was asked for, between a poll and the use of what it gave, which is when franz-go allows it. It returns the partitions
// whose records of that poll are from where nobody wants to read any more.
func (c *Consumer) seek() map[topicPartition]bool {
	c.mu.Lock()
	seeks, run := c.seeks, c.run
	if len(seeks) == 0 {
		c.mu.Unlock()
		return nil
	}
	c.seeks = make(map[topicPartition]int64)
	for tp, at := range seeks {
		c.at[tp] = at
	}
	c.mu.Unlock()
	to := make(map[string]map[int32]kgo.EpochOffset)
	out := make(map[topicPartition]bool)
	for tp, at := range seeks {
		out[tp] = true
		if run != nil {
			run.drop(tp)
		}
		if to[tp.topic] == nil {
			to[tp.topic] = make(map[int32]kgo.EpochOffset)
		}
		to[tp.topic][tp.partition] = kgo.EpochOffset{Epoch: -1, Offset: at}
	}
	c.cl.SetOffsets(to)
	return out
}

// Lag is how far a consumer is behind in one partition.
type Lag struct {
	Topic     string
	Partition int32
	// Next is the offset of the next record that the program gets, End the one after the last record that it could get.
	Next, End int64
}

// Records is how many records there are still to come. Markers of transactions, and what compaction took, count.
func (l Lag) Records() int64 { return max(l.End-l.Next, 0) }

// Lag asks how far behind the consumer is, in each of its partitions: in a group in those that this member has now. Records that the program
// has got and not processed yet count as read.
func (c *Consumer) Lag(ctx context.Context) ([]Lag, error) {
	topics := slices.Concat(c.cfg.Topics, c.cfg.Run.Retry.topics())
	for t := range c.cfg.Partitions {
		topics = append(topics, t)
	}
	var out []Lag
	for _, topic := range topics {
		begins, ends, err := c.admin.bounds(ctx, topic, !c.cfg.ReadUncommitted)
		if err != nil {
			return nil, err
		}
		for p, end := range ends {
			tp := topicPartition{topic, p}
			c.mu.Lock()
			at, known := c.at[tp]
			mine := c.owned[tp]
			c.mu.Unlock()
			if !c.group {
				_, mine = c.cfg.Partitions[topic][p]
				mine = mine || len(c.cfg.Partitions) == 0
			}
			if !mine {
				continue
			}
			if !known {
				if at, err = c.first(ctx, tp, begins[p], end); err != nil {
					return nil, err
				}
			}
			out = append(out, Lag{Topic: topic, Partition: p, Next: at, End: end})
		}
	}
	slices.SortFunc(out, func(a, b Lag) int {
		return cmp.Or(cmp.Compare(a.Topic, b.Topic), cmp.Compare(a.Partition, b.Partition))
	})
	return out, nil
}

// first is where the consumer begins in a partition that it has not had a record of.
func (c *Consumer) first(ctx context.Context, tp topicPartition, begin, end int64) (int64, error) {
	if c.group {
		done, err := c.admin.raw.FetchOffsets(ctx, c.cfg.Group)
		if err != nil {
			return 0, wrap("read the committed offsets of group", c.cfg.Group, err)
		}
		if o, ok := done.Lookup(tp.topic, tp.partition); ok && o.At >= 0 {
			return max(o.At, begin), nil
		}
	}
	start := c.cfg.From
	if s, ok := c.cfg.Partitions[tp.topic][tp.partition]; ok {
		start = s
	}
	switch start.kind {
	case startEnd:
		return end, nil
	case startOffset:
		return max(start.n, begin), nil
	case startTail:
		return max(end-start.n, begin), nil
	case startTime:
		return c.admin.OffsetAt(ctx, tp.topic, tp.partition, time.UnixMilli(start.n))
	}
	return begin, nil
}

// Each calls fn for every record until ctx ends, fn fails, or StopAtEnd is reached: then it returns nil. A record counts
// as processed when fn has returned nil or [ErrStop] for it; who asks for more afterwards gets the next one, or the one that failed.
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
		for i, r := range records {
			if err := ctx.Err(); err != nil {
				c.rest = records[i:]
				return err
			}
			err := fn(r)
			switch {
			case err == nil:
			case errors.Is(err, ErrStop):
				c.rest = records[i+1:]
				if c.group {
					c.cl.MarkCommitRecords(r)
				}
				return nil
			default:
				c.rest = records[i:]
				return err
			}
			if c.group {
				c.cl.MarkCommitRecords(r)
			}
		}
	}
}

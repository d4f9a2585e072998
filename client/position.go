// Where a consumer is, and what it reads: lag, pause, and records one after the other. Seek is in seek.go.

package client

import (
	"cmp"
	"context"
	"errors"
	"io"
	"iter"
	"slices"

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
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.paused[topic] == nil {
		c.paused[topic] = make(map[int32]bool)
	}
	if len(partitions) == 0 {
		c.paused[topic][-1] = true
		c.cl.PauseFetchTopics(topic)
		return
	}
	for _, p := range partitions {
		c.paused[topic][p] = true
	}
	c.cl.PauseFetchPartitions(map[string][]int32{topic: partitions})
}

// Resume ends a Pause: of these partitions, or with none named of the whole topic and of each of its partitions.
func (c *Consumer) Resume(topic string, partitions ...int32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(partitions) == 0 {
		for p := range c.paused[topic] {
			if p >= 0 {
				partitions = append(partitions, p)
			}
		}
		delete(c.paused, topic)
		c.cl.ResumeFetchTopics(topic)
	}
	for _, p := range partitions {
		delete(c.paused[topic], p)
	}
	c.cl.ResumeFetchPartitions(map[string][]int32{topic: partitions})
}

// release ends the pause that a Run has made for a partition, unless the program wants one, too.
func (c *Consumer) release(tp topicPartition) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.paused[tp.topic][tp.partition] {
		c.cl.ResumeFetchPartitions(map[string][]int32{tp.topic: {tp.partition}})
	}
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
			mine := c.mineLocked(tp)
			c.mu.Unlock()
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
			return 0, c.admin.wrap("read the committed offsets of group", c.cfg.Group, err)
		}
		if o, ok := done.Lookup(tp.topic, tp.partition); ok && o.At >= 0 {
			return max(o.At, begin), nil
		}
	}
	start := c.cfg.From
	if s, ok := c.cfg.Partitions[tp.topic][tp.partition]; ok {
		start = s
	}
	return c.admin.position(ctx, tp, start, begin, end)
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
		c.last = nil // counted as they come
		done := 0
		for done < len(records) {
			if err = ctx.Err(); err != nil {
				break
			}
			if err = fn(records[done]); err != nil && !errors.Is(err, ErrStop) {
				break
			}
			done++
			if done == markEvery || c.sought.Load() {
				c.mark(records[:done])
				records, done = c.wanted(records[done:]), 0
			}
			if err != nil {
				break
			}
		}
		c.mark(records[:done])
		switch c.rest = records[done:]; {
		case errors.Is(err, ErrStop):
			return nil
		case err != nil:
			return err
		}
	}
}

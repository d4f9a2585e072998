// Seek: what a program asks for from any goroutine is done by the one that polls, between two polls, which is when franz-go allows it.
//
// franz-go sets the position of a partition only once it has begun to read it, and says nothing where it has not. So the first seek in a
// partition that has never given a record is in doubt: it is repeated, less and less often, until records come; if they do not begin where
// they should, they are dropped and the position, which can be set for certain now, is set once more.

package client

import (
	"context"
	"errors"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// Between two tries of a seek that is in doubt.
const (
	minDoubt = 20 * time.Millisecond
	maxDoubt = 5 * time.Second
)

// seeker's fields are guarded by the consumer's mu.
type seeker struct {
	live     map[topicPartition]bool  // has given records
	doubtful map[topicPartition]int64 // where its next record shall come from
	again    time.Time                // when those are set again
	pause    time.Duration

	committing int           // commits of where a seek went, which are not answered yet
	answered   chan struct{} // closed when there are none; nil: nobody waits
}

// forget is for a partition that has gone.
func (s *seeker) forget(tp topicPartition) {
	delete(s.live, tp)
	delete(s.doubtful, tp)
}

// committed waits until where seeks went is committed: a client that is closed before has not sent it, or does not hear that it failed.
func (c *Consumer) seeksCommitted(ctx context.Context) {
	s := &c.seeker
	c.mu.Lock()
	if s.committing == 0 {
		c.mu.Unlock()
		return
	}
	if s.answered == nil {
		s.answered = make(chan struct{})
	}
	answered := s.answered
	c.mu.Unlock()
	select {
	case <-answered:
	case <-ctx.Done():
	}
}

// doubt is how long it is until a seek must be repeated; 0: none.
func (s *seeker) doubt() time.Duration {
	if len(s.doubtful) == 0 {
		return 0
	}
	return max(time.Until(s.again), time.Millisecond)
}

// Seek makes the next record of a partition the one at start. Records that are being processed are finished; those that wait in a
// [Consumer.Run] or behind the one that [Consumer.Each] is at are dropped. What is committed follows, backwards, too. With StopAtEnd the
// partition is read to where it ends now. The error is of kind [ErrInvalid] if the consumer does not have the partition.
func (c *Consumer) Seek(ctx context.Context, topic string, partition int32, start Start) error {
	subject := partitionName(topic, partition)
	tp := topicPartition{topic, partition}
	c.mu.Lock()
	mine := c.mineLocked(tp)
	c.mu.Unlock()
	if !mine {
		return &Error{Op: "seek in", Subject: subject, Kind: ErrInvalid, Err: errors.New("the consumer does not have the partition")}
	}
	begins, ends, err := c.admin.bounds(ctx, topic, !c.cfg.ReadUncommitted)
	if err != nil {
		return err
	}
	begin, ok := begins[partition]
	if !ok {
		return c.admin.PartitionExists(ctx, topic, partition)
	}
	end := max(ends[partition], begin)
	at, err := c.admin.position(ctx, tp, start, begin, end)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.mineLocked(tp) {
		return &Error{Op: "seek in", Subject: subject, Kind: ErrInvalid, Err: errors.New("the partition has just gone to another member")}
	}
	if c.stopAtEnd {
		if delete(c.ends, tp); at < end {
			c.ends[tp] = span{at, end}
		}
	}
	c.seeks[tp] = at
	c.sought.Store(true)
	if c.run != nil {
		c.run.forget(tp)
	}
	if c.wake != nil {
		c.wake()
	}
	return nil
}

// mineLocked says whether the consumer reads a partition.
func (c *Consumer) mineLocked(tp topicPartition) bool {
	switch {
	case c.group:
		return c.owned[tp]
	case c.direct != nil:
		return c.direct[tp]
	}
	return true
}

// position is the offset that start means in a partition.
func (a *Admin) position(ctx context.Context, tp topicPartition, start Start, begin, end int64) (at int64, err error) {
	return a.locate(tp.topic, tp.partition).position(ctx, tp.partition, start, begin, end)
}

// locator finds the positions of many partitions of a topic. What has to be asked for is asked of all of them at once, the first time that it is
// needed: an answer has every partition, so that a question for each would be as much work as the square of their number.
type locator struct {
	a          *Admin
	topic      string
	partitions []int32
	times      map[int64]map[int32]int64 // by milliseconds: the first offset from then on
	ends       map[int32]int64           // high watermarks
}

func (a *Admin) locate(topic string, partitions ...int32) *locator {
	return &locator{a: a, topic: topic, partitions: partitions, times: make(map[int64]map[int32]int64)}
}

func (l *locator) position(ctx context.Context, partition int32, start Start, begin, end int64) (at int64, err error) {
	at = begin
	switch start.kind {
	case startEnd:
		at = end
	case startOffset:
		if at = start.n; at > end { // behind what is committed there may be more
			if l.ends == nil {
				if l.ends, err = l.a.offsetsOf(ctx, l.topic, l.a.raw.ListEndOffsets, l.partitions...); err != nil {
					return 0, err
				}
			}
			at = min(at, max(end, l.ends[partition]))
		}
	case startTail:
		at = end - start.n
	case startTime:
		if l.times[start.n] == nil {
			if l.times[start.n], err = l.a.offsetsAt(ctx, l.topic, time.UnixMilli(start.n), l.partitions...); err != nil {
				return 0, err
			}
		}
		at = l.times[start.n][partition]
	}
	return max(at, begin), nil
}

// wanted are the records that no seek has made unwanted.
func (c *Consumer) wanted(rs []*kgo.Record) []*kgo.Record {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.seeks) == 0 {
		return rs
	}
	var out []*kgo.Record
	for _, r := range rs {
		if _, ok := c.seeks[topicPartition{r.Topic, r.Partition}]; !ok {
			out = append(out, r)
		}
	}
	return out
}

// seek does what Seek was asked for, between a poll and the use of what it gave. It returns the partitions whose records of that poll are
// from where nobody wants to read any more.
func (c *Consumer) seek(ctx context.Context, fetches kgo.Fetches) map[topicPartition]bool {
	c.mu.Lock()
	s := &c.seeker
	if s.live == nil {
		s.live, s.doubtful = make(map[topicPartition]bool), make(map[topicPartition]int64)
	}
	if len(c.seeks) == 0 && len(s.doubtful) == 0 {
		fetches.EachPartition(func(p kgo.FetchTopicPartition) {
			if tp := (topicPartition{p.Topic, p.Partition}); len(p.Records) > 0 && !s.live[tp] {
				s.live[tp] = true
			}
		})
		c.mu.Unlock()
		return nil
	}
	var (
		run     = c.run
		asked   = c.seeks
		set     = make(map[topicPartition]int64)
		dropped = make(map[topicPartition]bool)
	)
	c.seeks = make(map[topicPartition]int64)
	c.sought.Store(false)
	for tp, at := range asked {
		set[tp], dropped[tp] = at, true
		c.at[tp] = at
		if delete(s.doubtful, tp); !s.live[tp] {
			s.doubtful[tp] = at
			s.again, s.pause = time.Now().Add(minDoubt), minDoubt
		}
	}
	fetches.EachPartition(func(p kgo.FetchTopicPartition) {
		tp := topicPartition{p.Topic, p.Partition}
		at, doubtful := s.doubtful[tp]
		if len(p.Records) == 0 || dropped[tp] {
			return
		}
		s.live[tp] = true
		if doubtful {
			if delete(s.doubtful, tp); p.Records[0].Offset != at {
				set[tp], dropped[tp] = at, true
			}
		}
	})
	if len(s.doubtful) > 0 && time.Now().After(s.again) {
		for tp, at := range s.doubtful {
			set[tp] = at
		}
		s.pause = min(2*s.pause, maxDoubt)
		s.again = time.Now().Add(s.pause)
	}
	c.mu.Unlock()
	if run != nil {
		for tp := range asked {
			run.drop(tp)
		}
	}
	if len(set) == 0 {
		return dropped
	}
	to := make(map[string]map[int32]kgo.EpochOffset)
	for tp, at := range set {
		if to[tp.topic] == nil {
			to[tp.topic] = make(map[int32]kgo.EpochOffset)
		}
		to[tp.topic][tp.partition] = kgo.EpochOffset{Epoch: -1, Offset: at}
	}
	c.cl.SetOffsets(to)
	if c.group && len(asked) > 0 { // franz-go takes what was set for committed
		c.mu.Lock()
		s.committing++
		c.mu.Unlock()
		c.cl.CommitOffsets(context.WithoutCancel(ctx), to, func(_ *kgo.Client, _ *kmsg.OffsetCommitRequest, _ *kmsg.OffsetCommitResponse, err error) {
			if err != nil {
				c.log.Warn("where a seek went could not be committed", "group", c.cfg.Group, "err", err)
			}
			c.mu.Lock()
			if s.committing--; s.committing == 0 && s.answered != nil {
				close(s.answered)
				s.answered = nil
			}
			c.mu.Unlock()
		})
	}
	return dropped
}

// adjustStarts turns the start of partitions that the group has not been in before into offsets. franz-go can set the position only of
// partitions that have one.
func (c *Consumer) adjustStarts(ctx context.Context, offsets map[string]map[int32]kgo.Offset) (map[string]map[int32]kgo.Offset, error) {
	if err := c.admin.resolveStarts(ctx, c.cfg.From, !c.cfg.ReadUncommitted, offsets); err != nil {
		c.log.Warn("where to start could not be looked up", "group", c.cfg.Group, "err", err) // franz-go does it then
	}
	return offsets, nil
}

// resolveStarts replaces start where it stands among offsets.
func (a *Admin) resolveStarts(ctx context.Context, start Start, committed bool, offsets map[string]map[int32]kgo.Offset) error {
	unknown := start.offset()
	for topic, ps := range offsets {
		var begins, ends map[int32]int64
		var new []int32
		for p, o := range ps {
			if o == unknown {
				new = append(new, p)
			}
		}
		where := a.locate(topic, new...)
		for _, p := range new {
			if begins == nil {
				var err error
				if begins, ends, err = a.bounds(ctx, topic, committed); err != nil {
					return err
				}
			}
			begin, ok := begins[p]
			if !ok {
				continue
			}
			at, err := where.position(ctx, p, start, begin, ends[p])
			if err != nil {
				return err
			}
			ps[p] = kgo.NewOffset().At(at)
		}
	}
	return nil
}

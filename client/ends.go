// Where a consumer with StopAtEnd is done. It is when it has had the last record below the end, or the marker of a transaction there. But there may be neither: what
// compaction has taken, or an abort has undone, leaves an end with no record before it, and franz-go, which passes over that, says nothing. So a consumer that gets
// nothing for a while asks whether anything is to come.

package client

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

const (
	// endWait is how long a consumer that shall stop at the end waits for records before it asks whether there are any.
	endWait = 100 * time.Millisecond
	// maxEndPause is the longest time between two such questions; it doubles from endWait on.
	maxEndPause = 2 * time.Second
	// endBytes is what such a question asks for at a time.
	endBytes = 64 << 10
)

// span is what is to be read of a partition: from an offset, as long as nothing else is known, to the one behind the last.
type span struct{ from, to int64 }

// checkEnds takes those partitions off the list in which no record is left below the end. What cannot be asked now is asked again.
func (c *Consumer) checkEnds(ctx context.Context) {
	if time.Now().Before(c.endCheck) {
		return
	}
	c.endPause = min(max(2*c.endPause, endWait), maxEndPause)
	defer func() { c.endCheck = time.Now().Add(c.endPause) }()
	c.mu.Lock()
	if len(c.ends) == 0 || len(c.seeks) > 0 || len(c.seeker.doubtful) > 0 {
		c.mu.Unlock()
		return
	}
	left := make(map[topicPartition]span, len(c.ends))
	for tp, s := range c.ends {
		if at, ok := c.at[tp]; ok {
			s.from = max(s.from, at)
		}
		left[tp] = s
	}
	c.mu.Unlock()
	topics := make(map[string]bool)
	for tp := range left {
		topics[tp.topic] = true
	}
	details, err := c.admin.raw.ListTopicsWithInternal(fresh(ctx), slices.Collect(maps.Keys(topics))...)
	if err != nil {
		return
	}
	for tp, s := range left {
		t := details[tp.topic]
		p, ok := t.Partitions[tp.partition]
		if !ok || t.Err != nil || p.Err != nil || p.Leader < 0 {
			continue
		}
		none, err := c.noneIn(ctx, tp, t.ID, p.Leader, s)
		if err != nil {
			c.log.Debug("cannot tell yet whether the end of a partition is reached", "topic", tp.topic, "partition", tp.partition, "err", err)
		}
		if !none {
			continue
		}
		c.mu.Lock()
		if now, ok := c.ends[tp]; ok && now.to == s.to && len(c.seeks) == 0 {
			delete(c.ends, tp)
		}
		c.mu.Unlock()
	}
}

// noneIn asks a partition's leader whether there is no record in s that the program would get.
func (c *Consumer) noneIn(ctx context.Context, tp topicPartition, id kadm.TopicID, leader int32, s span) (bool, error) {
	opts := kgo.ProcessFetchPartitionOpts{Topic: tp.topic, Partition: tp.partition}
	if !c.cfg.ReadUncommitted {
		opts.IsolationLevel = kgo.ReadCommitted()
	}
	for at := s.from; at < s.to; {
		req := kmsg.NewPtrFetchRequest()
		req.MaxBytes, req.SessionEpoch = endBytes, -1
		if !c.cfg.ReadUncommitted {
			req.IsolationLevel = 1
		}
		t, rp := kmsg.NewFetchRequestTopic(), kmsg.NewFetchRequestTopicPartition()
		t.Topic, t.TopicID = tp.topic, id
		rp.Partition, rp.FetchOffset, rp.PartitionMaxBytes = tp.partition, at, endBytes
		t.Partitions = append(t.Partitions, rp)
		req.Topics = append(req.Topics, t)
		answer, err := c.admin.cl.Broker(int(leader)).Request(ctx, req)
		if err != nil {
			return false, err
		}
		resp, ok := answer.(*kmsg.FetchResponse)
		if !ok || len(resp.Topics) != 1 || len(resp.Topics[0].Partitions) != 1 {
			return false, fmt.Errorf("an answer about something else: %T", answer)
		}
		place := &resp.Topics[0].Partitions[0]
		err = errors.Join(kerr.ErrorForCode(resp.ErrorCode), kerr.ErrorForCode(place.ErrorCode))
		if errors.Is(err, kerr.OffsetOutOfRange) && place.LogStartOffset > at { // what was there has been deleted
			at = place.LogStartOffset
			continue
		}
		if err != nil {
			return false, err
		}
		opts.Offset = at
		got, next := kgo.ProcessFetchPartition(opts, place, kgo.DefaultDecompressor(), nil)
		switch {
		case got.Err != nil:
			return false, got.Err
		case len(got.Records) > 0:
			return got.Records[0].Offset >= s.to, nil
		case next <= at: // nothing at all: where the log ends
			return len(place.RecordBatches) == 0 && place.HighWatermark >= s.to, nil
		}
		at = next
	}
	return true, nil
}

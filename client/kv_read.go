// The reads of a map: Get asks the leader for a key, List reads the topic up to its end as of now.

package client

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// keyTag is the tagged field of ListOffsets that asks for a key, and answers with a zero byte and its value; topicTag the one that says in which topic.
const keyTag, topicTag = 10001, 10002

// Get returns a key's value: [ErrNotFound] if the key does not exist, [ErrNoTopic] if there is no map any more. It sees every write that was acknowledged before the call.
func (kv *KV) Get(ctx context.Context, key string) (KVEntry, error) {
	const op = "get"
	if err := kv.checkKey(op, key); err != nil {
		return KVEntry{}, err
	}
	var e KVEntry
	p := kv.partitionOf(key)
	err := kv.attempts(ctx, p, func(ctx context.Context, node int32, id [16]byte, wait time.Duration) (done bool, err error) {
		e, done, err = kv.lookUp(ctx, node, id, p, key, wait)
		return done, err
	})
	return e, wrapKV(op, strconv.Quote(key), err)
}

// lookUp is one attempt.
func (kv *KV) lookUp(ctx context.Context, node int32, id [16]byte, p int32, key string, wait time.Duration) (e KVEntry, done bool, err error) {
	req := kmsg.NewPtrListOffsetsRequest()
	req.ReplicaID, req.TimeoutMillis = -1, milliseconds(wait)
	t, rp := kmsg.NewListOffsetsRequestTopic(), kmsg.NewListOffsetsRequestTopicPartition()
	t.Topic = kv.cfg.Topic
	rp.Partition, rp.Timestamp = p, -1
	rp.UnknownTags.Set(keyTag, []byte(key))
	rp.UnknownTags.Set(topicTag, id[:])
	t.Partitions = append(t.Partitions, rp)
	req.Topics = append(req.Topics, t)
	answer, err := kv.cl.Broker(int(node)).Request(ctx, req)
	if err != nil {
		return e, false, err
	}
	resp, ok := answer.(*kmsg.ListOffsetsResponse)
	if !ok || len(resp.Topics) != 1 || len(resp.Topics[0].Partitions) != 1 {
		return e, true, fmt.Errorf("an answer about something else: %T", answer)
	}
	place := &resp.Topics[0].Partitions[0]
	if err := kerr.ErrorForCode(place.ErrorCode); err != nil {
		return e, !kerr.IsRetriable(err), err
	}
	var value []byte
	place.UnknownTags.Each(func(tag uint32, v []byte) {
		if tag == keyTag {
			value = v
		}
	})
	switch {
	case len(value) == 0 || value[0] != 0:
		return e, true, fmt.Errorf("%w: the broker does not know how to look a key up", ErrInvalid)
	case place.Offset < 0:
		return e, true, fmt.Errorf("%w: the key does not exist", ErrNotFound)
	}
	return KVEntry{Key: key, Value: value[1:], Revision: place.Offset, Time: time.UnixMilli(place.Timestamp)}, true, nil
}

// List yields the keys that begin with prefix (all, if it is empty) and their values, by key. It reads the topic from its start up to its end as of the call, before the first is yielded: it sees every write
// that was acknowledged before the call; of those that come meanwhile, some. It ends with the first error.
func (kv *KV) List(ctx context.Context, prefix string) iter.Seq2[KVEntry, error] {
	return func(yield func(KVEntry, error) bool) {
		found, _, err := kv.read(ctx, "list", prefix, false)
		if err != nil {
			yield(KVEntry{}, err)
			return
		}
		for _, key := range slices.Sorted(maps.Keys(found)) {
			if !yield(found[key], nil) {
				return
			}
		}
	}
}

// Keys is List without the values.
func (kv *KV) Keys(ctx context.Context, prefix string) ([]string, error) {
	found, _, err := kv.read(ctx, "list the keys of", prefix, true)
	if err != nil {
		return nil, err
	}
	return slices.Sorted(maps.Keys(found)), nil
}

// read is the map as of the ends of its partitions, which it returns.
func (kv *KV) read(ctx context.Context, op, prefix string, onlyKeys bool) (map[string]KVEntry, map[int32]int64, error) {
	starts, ends, err := kv.bounds(ctx)
	if err != nil {
		return nil, nil, wrapKV(op, kv.cfg.Topic, err)
	}
	most := kv.cfg.MaxListBytes
	if most <= 0 {
		most = DefaultKVListBytes
	}
	found, held := make(map[string]KVEntry), int64(0)
	for _, p := range slices.Sorted(maps.Keys(ends)) {
		for at := starts[p]; at < ends[p]; {
			records, next, err := kv.fetch(ctx, p, at)
			if err != nil {
				return nil, nil, wrapKV(op, partitionName(kv.cfg.Topic, p), err)
			}
			if next <= at {
				break // what was there has been compacted away: what stands for it lies behind the end
			}
			at = next
			for _, r := range records {
				if r.Offset >= ends[p] {
					break
				}
				key := string(r.Key)
				if !strings.HasPrefix(key, prefix) {
					continue
				}
				if old, ok := found[key]; ok {
					held -= sizeOf(&old)
					delete(found, key)
				}
				if r.Value == nil {
					continue
				}
				e := KVEntry{Key: key, Revision: r.Offset, Time: r.Timestamp}
				if !onlyKeys {
					e.Value = slices.Clone(r.Value) // the batch that it lies in may be large
				}
				found[key] = e
				if held += sizeOf(&e); held > most {
					return nil, nil, &Error{Op: op, Subject: kv.cfg.Topic, Kind: ErrInvalid, Err: fmt.Errorf("the keys that begin with %q take more than MaxListBytes, %d", prefix, most)}
				}
			}
		}
	}
	return found, ends, nil
}

// bounds are where the partitions begin and end, of the topic that was opened.
func (kv *KV) bounds(ctx context.Context) (starts, ends map[int32]int64, err error) {
	if starts, ends, err = kv.admin.bounds(ctx, kv.cfg.Topic, false); err != nil {
		return nil, nil, err
	}
	// They were asked for by name. An id never comes back, so that who is there now was there before.
	return starts, ends, kv.route.verify(ctx)
}

// entryOverhead is about what an entry takes beside its key and value.
const entryOverhead = 128

func sizeOf(e *KVEntry) int64 { return int64(len(e.Key)+len(e.Value)) + entryOverhead }

// fetchBytes is what List asks for at a time.
const fetchBytes = 4 << 20

// fetch reads records from an offset on, and where to go on; none if there are none.
func (kv *KV) fetch(ctx context.Context, p int32, at int64) (records []*kgo.Record, next int64, err error) {
	next = at
	err = kv.attempts(ctx, p, func(ctx context.Context, node int32, id [16]byte, _ time.Duration) (done bool, err error) {
		req := kmsg.NewPtrFetchRequest()
		req.MaxBytes, req.SessionEpoch = fetchBytes, -1
		t, rp := kmsg.NewFetchRequestTopic(), kmsg.NewFetchRequestTopicPartition()
		t.Topic, t.TopicID = kv.cfg.Topic, id
		rp.Partition, rp.FetchOffset, rp.PartitionMaxBytes = p, at, fetchBytes
		t.Partitions = append(t.Partitions, rp)
		req.Topics = append(req.Topics, t)
		answer, err := kv.cl.Broker(int(node)).Request(ctx, req)
		if err != nil {
			return false, err
		}
		resp, ok := answer.(*kmsg.FetchResponse)
		if !ok {
			return true, fmt.Errorf("an answer about something else: %T", answer)
		}
		if err := kerr.ErrorForCode(resp.ErrorCode); err != nil {
			return !kerr.IsRetriable(err), err
		}
		if len(resp.Topics) != 1 || len(resp.Topics[0].Partitions) != 1 {
			return true, errors.New("an answer about something else")
		}
		place := &resp.Topics[0].Partitions[0]
		switch err := kerr.ErrorForCode(place.ErrorCode); {
		case errors.Is(err, kerr.OffsetOutOfRange) && place.LogStartOffset > at: // retention has come in between
			next = place.LogStartOffset
			return true, nil
		case err != nil:
			return !kerr.IsRetriable(err), err
		}
		fp, after := kgo.ProcessFetchPartition(kgo.ProcessFetchPartitionOpts{Offset: at, Topic: kv.cfg.Topic, Partition: p}, place, kgo.DefaultDecompressor(), nil)
		records, next = fp.Records, after
		return true, fp.Err
	})
	return records, next, err
}

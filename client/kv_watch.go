// Watching a map: what is written from now on.

package client

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// WatchOptions say what to watch.
type WatchOptions struct {
	// Prefix of the keys; empty: all.
	Prefix string
	// Initial returns what is there first.
	Initial bool
}

// KVEvent is something that has happened to a key.
type KVEvent struct {
	KVEntry
	// Deleted: the key does not exist any more. The entry has no value.
	Deleted bool
	// Initial: the entry was there when the watch began.
	Initial bool
}

// KVWatch is a watch. It is for one goroutine; Close may be called from others.
type KVWatch struct {
	cl      *kgo.Client
	topic   string
	prefix  string
	initial []KVEntry
	events  []KVEvent
	route   kvRoute // knows which topic it was
	looked  time.Time
}

// watchLook is how often a watch looks whether the topic is still there: franz-go waits for one that is gone.
const watchLook = 5 * time.Second

// Watch begins to watch: every write that is acknowledged after it has returned is seen. Per key events come in order; of writes that a slow watcher comes late for,
// compaction may have left only the last of a key. It reads on a connection of its own: close it.
func (kv *KV) Watch(ctx context.Context, o WatchOptions) (*KVWatch, error) {
	w := &KVWatch{topic: kv.cfg.Topic, prefix: o.Prefix}
	var ends map[int32]int64
	if o.Initial {
		found, at, err := kv.read(ctx, "watch", o.Prefix, false)
		if err != nil {
			return nil, err
		}
		for _, e := range found {
			w.initial = append(w.initial, e)
		}
		slices.SortFunc(w.initial, func(a, b KVEntry) int { return strings.Compare(a.Key, b.Key) })
		ends = at
	} else {
		_, at, err := kv.bounds(ctx)
		if err != nil {
			return nil, wrapKV("watch", kv.cfg.Topic, err)
		}
		ends = at
	}
	from := make(map[int32]kgo.Offset, len(ends))
	for p, at := range ends {
		from[p] = kgo.NewOffset().At(at)
	}
	cl, err := kv.cfg.connect(ctx, kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{kv.cfg.Topic: from}), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.FetchMaxBytes(fetchBytes), kgo.FetchMaxWait(5*time.Second))
	if err != nil {
		return nil, err
	}
	w.cl = cl
	kv.route.mu.Lock()
	defer kv.route.mu.Unlock()
	w.route = kvRoute{cl: cl, topic: kv.cfg.Topic, turn: make(chan struct{}, 1), id: kv.route.id, leaders: kv.route.leaders}
	return w, nil
}

// Next waits for the next event. It returns the context's error when ctx ends first, [ErrClosed] after Close, and [ErrNoTopic] some seconds after the topic
// was deleted, or made anew: of the new one there may be events before.
func (w *KVWatch) Next(ctx context.Context) (KVEvent, error) {
	if len(w.initial) > 0 {
		e := w.initial[0]
		w.initial = w.initial[1:]
		return KVEvent{KVEntry: e, Initial: true}, nil
	}
	for len(w.events) == 0 {
		if time.Since(w.looked) > watchLook {
			one, cancel := context.WithTimeout(ctx, kvFirstAttempt)
			err := w.route.verify(one)
			cancel()
			if noTopic(err) {
				return KVEvent{}, wrapKV("watch", w.topic, err)
			}
			w.looked = time.Now()
		}
		one, cancel := context.WithTimeout(ctx, watchLook)
		fetches := w.cl.PollRecords(one, DefaultPollRecords)
		cancel()
		if err := fetches.Err0(); err != nil && (errors.Is(err, kgo.ErrClientClosed) || ctx.Err() != nil) {
			if ctx.Err() != nil {
				err = ctx.Err()
			}
			return KVEvent{}, wrap("watch", w.topic, err)
		}
		var failed error
		fetches.EachError(func(_ string, p int32, err error) {
			if failed == nil && !errors.Is(err, context.DeadlineExceeded) {
				failed = wrapKV("watch", partitionName(w.topic, p), err)
			}
		})
		fetches.EachRecord(func(r *kgo.Record) {
			if key := string(r.Key); strings.HasPrefix(key, w.prefix) {
				w.events = append(w.events, KVEvent{KVEntry: KVEntry{Key: key, Value: r.Value, Revision: r.Offset, Time: r.Timestamp}, Deleted: r.Value == nil})
			}
		})
		if failed != nil && len(w.events) == 0 {
			return KVEvent{}, failed
		}
	}
	e := w.events[0]
	w.events = w.events[1:]
	return e, nil
}

// Close ends the watch and disconnects. Closing twice is harmless.
func (w *KVWatch) Close() { w.cl.Close() }

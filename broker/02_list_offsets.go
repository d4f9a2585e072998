// ListOffsets (key 2), versions 1 to 11: where a partition begins and ends, and the first offset at or after a time.
//
// Linearizable: every answer comes after Replica.Linearize, so that after an acknowledged produce each client sees at
// least that end. -1 is the end (the high watermark, or for readers of committed records the last stable offset), -2 and -4 the start, -3 the largest timestamp (v7), -5 and -6 concern tiered storage, which there is none of.
// With a tagged field of ours it asks for a key instead of a time: lookup.go.

package broker

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/balsamq/balsa/partition"
)

// earliestPendingUpload is v11's -6: without tiered storage nothing is ever to be uploaded.
const earliestPendingUpload = -6

// confirmTimeout is how long an answer waits for a quorum to confirm a read point, where the request says nothing.
const confirmTimeout = 10 * time.Second

func (s *server) listOffsets(r *request) {
	req := r.msg.(*kmsg.ListOffsetsRequest)
	resp := kmsg.NewPtrListOffsetsResponse()
	resp.Topics = make([]kmsg.ListOffsetsResponseTopic, len(req.Topics))
	timeout := confirmTimeout
	if req.Version >= 10 && req.TimeoutMillis > 0 {
		timeout = min(timeout, time.Duration(req.TimeoutMillis)*time.Millisecond)
	}
	g := newGather(timeout, func() { r.respond(resp) })
	im := s.b.Image()
	lookups := lookupsIn(req)
	for i := range req.Topics {
		t, rt := &req.Topics[i], &resp.Topics[i]
		rt.Topic = t.Topic
		rt.Partitions = make([]kmsg.ListOffsetsResponseTopicPartition, len(t.Partitions))
		topic, topicErr := findTopic(im, false, t.Topic, [16]byte{})
		for j := range t.Partitions {
			p, place := &t.Partitions[j], &rt.Partitions[j]
			place.Default()
			place.Partition = p.Partition
			place.Timestamp, place.Offset, place.LeaderEpoch = -1, -1, -1
			if topicErr != nil {
				place.ErrorCode = codeOf(topicErr)
				continue
			}
			rep, err := s.findReplica(topic, p.Partition)
			key, byKey := keyTag(p)
			switch {
			case byKey:
				if no := r.mayLookUp(topic, p, lookups); no != nil {
					err = no
				}
			case err == nil:
				err = timestampAllowed(req.Version, p.Timestamp)
			}
			if err != nil {
				place.ErrorCode = codeOf(err)
				continue
			}
			place.ErrorCode = codeOf(partition.ErrUnavailable) // if nothing comes in time
			if byKey {
				r.lookUp(g, rep, slices.Clone(key), p.CurrentLeaderEpoch, place) // the frame is gone by the time of the answer
				continue
			}
			g.confirm(rep, func(err error) {
				var res partition.OffsetResult
				if err == nil && p.Timestamp == earliestPendingUpload {
					res = partition.OffsetResult{Offset: -1, Timestamp: -1, LeaderEpoch: -1}
				} else if err == nil {
					res, err = rep.ListOffset(p.Timestamp, p.CurrentLeaderEpoch, req.IsolationLevel == readCommitted)
				}
				place.ErrorCode = codeOf(err)
				if err == nil {
					place.Timestamp, place.Offset, place.LeaderEpoch = res.Timestamp, res.Offset, res.LeaderEpoch
				}
			})
		}
	}
	g.ready()
}

// timestampAllowed refuses what a version does not know yet.
func timestampAllowed(version int16, ts int64) error {
	lowest := int64(partition.EarliestTimestamp)
	switch {
	case version >= 11:
		lowest = earliestPendingUpload
	case version >= 9:
		lowest = partition.LastTieredTimestamp
	case version == 8:
		lowest = partition.EarliestLocalTimestamp
	case version == 7:
		lowest = partition.MaxTimestamp
	}
	if ts < lowest {
		return kerr.UnsupportedVersion
	}
	return nil
}

// gather waits for the read points of many replicas, and then answers once: when all have come, or at the time-out with
// what has.
type gather struct {
	waiting atomic.Int64 // confirmations that have not come, and one for the handler itself
	timeout time.Duration
	answer  func()

	mu    sync.Mutex // guards the places of the answer once the handler has returned, and what follows
	over  bool
	timer *time.Timer
}

// newGather starts one. The handler calls confirm for each replica, and ready at the end.
func newGather(timeout time.Duration, answer func()) *gather {
	g := &gather{timeout: timeout, answer: answer}
	g.waiting.Store(1)
	return g
}

// confirm calls fn once the replica's high watermark is at least what any acknowledged produce had reached, or with the
// error that prevents it; never after the answer. Calls to fn exclude each other.
func (g *gather) confirm(rep replica, fn func(error)) { g.await(rep.Linearize, fn) }

// await starts something that ends by calling done, once, and then calls fn, under the same rules.
func (g *gather) await(start func(done func(error)), fn func(error)) {
	g.waiting.Add(1)
	start(func(err error) {
		g.mu.Lock()
		if !g.over {
			fn(err)
		}
		g.mu.Unlock()
		g.leave()
	})
}

// ready says that the handler has laid out the answer and asked for everything. The clock starts only here, so that a
// short time-out cannot answer what is still being written.
func (g *gather) ready() {
	if g.waiting.Load() > 1 {
		g.mu.Lock()
		if !g.over {
			g.timer = time.AfterFunc(g.timeout, g.finish)
		}
		g.mu.Unlock()
	}
	g.leave()
}

func (g *gather) leave() {
	if g.waiting.Add(-1) == 0 {
		g.finish()
	}
}

func (g *gather) finish() {
	g.mu.Lock()
	over := g.over
	g.over = true
	if g.timer != nil {
		g.timer.Stop()
	}
	g.mu.Unlock()
	if !over {
		g.answer()
	}
}

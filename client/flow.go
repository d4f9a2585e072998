// A flow is a partition in a Run, from the moment this member has it until it gives it up.

package client

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

const (
	// markEvery is how many records of a partition may be done before that is noted for the next commit.
	markEvery = 32
	// giveUpGrace is how long handlers of a partition that has gone are waited for after their context has ended.
	giveUpGrace = 2 * time.Second
)

// flow's fields are guarded by the runner's mu, but for gone and what does not change.
type flow struct {
	tp     topicPartition
	delay  time.Duration // of a retry topic
	ctx    context.Context
	cancel context.CancelFunc
	gone   atomic.Bool   // the partition is not ours any more, or its records are not wanted
	taken  chan struct{} // closed then

	queue   []*task     // in flight, by offset; the first one is not done
	last    *kgo.Record // that is done, and all before it
	since   int         // records done since the last mark
	running int
	left    int           // records that Run did not come to, with one worker
	parked  []*kgo.Record // not due yet
}

// flow is the one of a partition; it begins with the first record.
func (r *runner) flow(tp topicPartition) *flow {
	r.mu.Lock()
	defer r.mu.Unlock()
	f := r.flows[tp]
	if f == nil {
		f = &flow{tp: tp, delay: r.o.Retry.delay(tp.topic), taken: make(chan struct{})}
		f.ctx, f.cancel = context.WithCancel(r.base)
		r.flows[tp] = f
	}
	return f
}

// advance takes what is done off the front of the queue.
func (f *flow) advance() (n int) {
	for n < len(f.queue) && f.queue[n].done {
		f.last = f.queue[n].r
		n++
	}
	clear(f.queue[:n])
	f.queue = f.queue[n:]
	f.since += n
	return n
}

// markLocked notes how far a partition has come, for the next commit: when enough has come together, or now.
func (r *runner) markLocked(f *flow, now bool) {
	if f.last == nil || !now && f.since < markEvery {
		return
	}
	if r.c.group && f.since > 0 {
		r.c.cl.MarkCommitRecords(f.last)
	}
	f.since = 0
}

// takeFlow removes a partition: what waits is dropped, what runs may end.
func (r *runner) takeFlow(tp topicPartition) *flow {
	f := r.flows[tp]
	if f == nil {
		return nil
	}
	delete(r.flows, tp)
	r.emptyFlow(f)
	return f
}

// emptyFlow drops what waits.
func (r *runner) emptyFlow(f *flow) {
	if f.gone.Swap(true) {
		return
	}
	close(f.taken)
	r.inFlight -= len(f.queue)
	for _, t := range f.queue {
		if len(t.r.Key) > 0 {
			delete(r.keys, keyOf{f, string(t.r.Key)})
		}
	}
	if len(f.parked) > 0 {
		f.parked = nil
		r.resume = append(r.resume, f.tp)
	}
	r.cond.Broadcast()
}

// forget drops what waits of a partition, for a seek that is about to come.
func (r *runner) forget(tp topicPartition) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if f := r.flows[tp]; f != nil {
		r.emptyFlow(f)
	}
}

// drop makes a new beginning with a partition, for a seek. What runs is finished, and does not count.
func (r *runner) drop(tp topicPartition) {
	defer r.release()
	r.mu.Lock()
	defer r.mu.Unlock()
	if f := r.takeFlow(tp); f != nil {
		for f.running > 0 && !r.stopping {
			r.cond.Wait()
		}
	}
}

// revoke gives partitions up. It is called by the group, which waits for it: nobody else has them before it returns.
func (r *runner) revoke(ctx context.Context, parts map[string][]int32, lost bool) {
	defer r.release()
	r.mu.Lock()
	defer r.mu.Unlock()
	var flows []*flow
	for t, ps := range parts {
		for _, p := range ps {
			if f := r.takeFlow(topicPartition{t, p}); f != nil {
				flows = append(flows, f)
			}
		}
	}
	idle := func() bool {
		for _, f := range flows {
			if f.running > 0 {
				return false
			}
		}
		return true
	}
	grace := r.o.RevokeGrace
	if lost { // somebody else may have them already
		grace = 0
	}
	deadline := time.Now().Add(grace)
	stop := context.AfterFunc(ctx, func() { r.mu.Lock(); defer r.mu.Unlock(); r.cond.Broadcast() })
	defer stop()
	for _, limit := range []time.Time{deadline, deadline.Add(giveUpGrace)} {
		timer := time.AfterFunc(time.Until(limit), func() { r.mu.Lock(); defer r.mu.Unlock(); r.cond.Broadcast() })
		for !idle() && time.Now().Before(limit) && ctx.Err() == nil {
			r.cond.Wait()
		}
		timer.Stop()
		if limit == deadline {
			for _, f := range flows {
				if !idle() {
					f.cancel()
				}
			}
		}
	}
	for _, f := range flows {
		if !lost {
			r.markLocked(f, true)
		}
		f.cancel()
		f.last = nil // what ends now is too late
	}
}

// park keeps records of a retry topic until they are due. The partition is not read meanwhile, so that this is at most one poll's worth.
func (r *runner) park(f *flow, rs []*kgo.Record) {
	r.c.cl.PauseFetchPartitions(map[string][]int32{f.tp.topic: {f.tp.partition}})
	r.mu.Lock()
	defer r.mu.Unlock()
	f.parked = append(f.parked, rs...)
}

// parkedFor is how long it is until a record is due; 0: none waits.
func (r *runner) parkedFor() (d time.Duration) {
	for _, f := range r.flows {
		if len(f.parked) > 0 {
			if w := max(time.Until(f.parked[0].Timestamp.Add(f.delay)), time.Millisecond); d == 0 || w < d {
				d = w
			}
		}
	}
	return d
}

// unpark hands on what is due, within what may be in flight.
func (r *runner) unpark(ctx context.Context, take func(context.Context, *flow, []*kgo.Record)) {
	if len(r.o.Retry.Delayed) == 0 {
		return
	}
	type due struct {
		f  *flow
		rs []*kgo.Record
	}
	var all []due
	r.mu.Lock()
	now, room := time.Now(), r.o.MaxInFlight-r.inFlight
	for _, f := range r.flows {
		n := 0
		for n < min(len(f.parked), room) && !f.parked[n].Timestamp.Add(f.delay).After(now) {
			n++
		}
		if n > 0 {
			all = append(all, due{f, f.parked[:n:n]})
			room -= n
			if f.parked = f.parked[n:]; len(f.parked) == 0 {
				r.resume = append(r.resume, f.tp)
			}
		}
	}
	r.mu.Unlock()
	r.release()
	for _, d := range all {
		take(ctx, d.f, d.rs)
	}
}

// release lets partitions be read again that were not while records of theirs were parked. The caller does not hold mu: the consumer's comes first.
func (r *runner) release() {
	r.mu.Lock()
	resume := r.resume
	r.resume = nil
	r.mu.Unlock()
	for _, tp := range resume {
		r.c.release(tp)
	}
}

// The one timer heap behind all session, rebalance and sweep time-outs of all groups on a broker. A heartbeat does not move anything in
// it: a session's timer that fires too early looks at the member's deadline and is set again.

package coordinator

import (
	"container/heap"
	"sync"
	"time"
)

// timer is one entry; its owner embeds it. The zero value with a fire function is ready. Only timers looks at at and index, with its
// lock held: moving one timer in the heap changes others' indexes.
type timer struct {
	at    time.Time
	index int    // in the heap, counted from 1; 0: not set
	fire  func() // called with no lock held; must check that it is still wanted
}

// timers is the heap. Its mutex is a leaf, below every shard's.
type timers struct {
	mu   sync.Mutex
	heap timerHeap
	wake chan struct{} // capacity 1: the earliest one has changed
}

type timerHeap []*timer

func (h timerHeap) Len() int           { return len(h) }
func (h timerHeap) Less(i, j int) bool { return h[i].at.Before(h[j].at) }
func (h timerHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i+1, j+1
}
func (h *timerHeap) Push(x any) {
	t := x.(*timer)
	*h = append(*h, t)
	t.index = len(*h)
}
func (h *timerHeap) Pop() any {
	old := *h
	t := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	t.index = 0
	return t
}

// set makes t fire at the given time, and at no other.
func (ts *timers) set(t *timer, at time.Time) {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	ts.setLocked(t, at)
}

// by makes t fire at the given time at the latest; a timer that is set for earlier stays as it is.
func (ts *timers) by(t *timer, at time.Time) {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	if t.index == 0 || t.at.After(at) {
		ts.setLocked(t, at)
	}
}

func (ts *timers) setLocked(t *timer, at time.Time) {
	t.at = at
	if t.index > 0 {
		heap.Fix(&ts.heap, t.index-1)
	} else {
		heap.Push(&ts.heap, t)
	}
	if ts.heap[0] == t {
		select {
		case ts.wake <- struct{}{}:
		default:
		}
	}
}

// stop takes t out. It may be firing at this moment.
func (ts *timers) stop(t *timer) {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	if t.index > 0 {
		heap.Remove(&ts.heap, t.index-1)
	}
}

// due takes out the earliest timer if its time has come, else says when that will be (zero: there is none).
func (ts *timers) due(now time.Time) (t *timer, next time.Time) {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	if len(ts.heap) == 0 {
		return nil, time.Time{}
	}
	if t := ts.heap[0]; t.at.After(now) {
		return nil, t.at
	}
	return heap.Pop(&ts.heap).(*timer), time.Time{}
}

// run fires what is due until stop is closed. now is the clock.
func (ts *timers) run(now func() time.Time, stop <-chan struct{}) {
	t := time.NewTimer(time.Hour)
	defer t.Stop()
	for {
		wait := time.Hour
		if next := ts.fireDue(now); !next.IsZero() {
			wait = max(next.Sub(now()), 0)
		}
		t.Reset(wait)
		select {
		case <-t.C:
		case <-ts.wake:
		case <-stop:
			return
		}
	}
}

// fireDue fires what is due, and says when the next one is.
func (ts *timers) fireDue(now func() time.Time) time.Time {
	for {
		t, next := ts.due(now())
		if t == nil {
			return next
		}
		t.fire()
	}
}

// count is the number of timers that are set.
func (ts *timers) count() int {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	return len(ts.heap)
}

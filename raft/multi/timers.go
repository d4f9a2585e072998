// Timers: one heap of deadlines for the whole host, and one goroutine that sleeps until the first (none in manual
// mode). An idle group that is covered by a pair heartbeat stands nowhere in it.

package multi

import (
	"math"
	"sync"
	"time"

	"github.com/balsamq/balsa/raft"
)

// never is a deadline that does not come.
const never = raft.Time(math.MaxInt64)

// timerItem is embedded in what can have a deadline: a group, a pair session, or the pacer. Guarded by timers.mu.
type timerItem struct {
	at    raft.Time // 0: not armed
	pos   int       // in the heap, if armed
	order uint64    // ties are broken by the order of arming, so that manual mode is deterministic
	group *Group
	peer  *peer
	pacer bool
}

type timers struct {
	mu     sync.Mutex
	heap   []*timerItem
	count  uint64
	wake   chan struct{}
	closed bool
	due    []*timerItem // scratch of fireTimers, which runs on one goroutine
}

func (t *timers) init() { t.wake = make(chan struct{}, 1) }

func (t *timers) less(i, j int) bool {
	a, b := t.heap[i], t.heap[j]
	return a.at < b.at || a.at == b.at && a.order < b.order
}

func (t *timers) swap(i, j int) {
	t.heap[i], t.heap[j] = t.heap[j], t.heap[i]
	t.heap[i].pos, t.heap[j].pos = i, j
}

func (t *timers) up(i int) {
	for i > 0 {
		p := (i - 1) / 2
		if !t.less(i, p) {
			return
		}
		t.swap(i, p)
		i = p
	}
}

func (t *timers) down(i int) {
	for {
		c := 2*i + 1
		if c >= len(t.heap) {
			return
		}
		if c+1 < len(t.heap) && t.less(c+1, c) {
			c++
		}
		if !t.less(c, i) {
			return
		}
		t.swap(i, c)
		i = c
	}
}

// arm makes it fire at or before `at`. An earlier deadline that is already armed stays: firing early is harmless, and a
// busy group pushes its deadline on with every message.
func (t *timers) arm(it *timerItem, at raft.Time) {
	if at == never {
		return
	}
	at = max(at, 1)
	t.mu.Lock()
	if it.at != 0 && it.at <= at || t.closed {
		t.mu.Unlock()
		return
	}
	t.count++
	it.order = t.count
	if it.at != 0 {
		it.at = at
		t.up(it.pos)
	} else {
		it.at, it.pos = at, len(t.heap)
		t.heap = append(t.heap, it)
		t.up(it.pos)
	}
	first := t.heap[0] == it
	t.mu.Unlock()
	if first {
		select {
		case t.wake <- struct{}{}:
		default:
		}
	}
}

func (t *timers) removeLocked(it *timerItem) {
	i, last := it.pos, len(t.heap)-1
	t.swap(i, last)
	t.heap[last] = nil
	t.heap = t.heap[:last]
	if i < last {
		t.up(i)
		t.down(i)
	}
	it.at = 0
}

// disarm forgets a deadline.
func (t *timers) disarm(it *timerItem) {
	t.mu.Lock()
	if it.at != 0 {
		t.removeLocked(it)
	}
	t.mu.Unlock()
}

func (t *timers) next() raft.Time {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.heap) == 0 {
		return never
	}
	return t.heap[0].at
}

func (t *timers) close() {
	t.mu.Lock()
	t.closed = true
	t.mu.Unlock()
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

// fireTimers schedules every group, and runs every pair, whose deadline has come.
func (h *Host) fireTimers(now raft.Time) (slept raft.Time) {
	slept = h.watchSuspend()
	t := &h.timers
	t.mu.Lock()
	due := t.due[:0]
	for len(t.heap) > 0 && t.heap[0].at <= now {
		it := t.heap[0]
		t.removeLocked(it)
		due = append(due, it)
	}
	t.due = due
	t.mu.Unlock()
	for i, it := range due {
		h.stats.timerFires.Add(1)
		switch {
		case it.group != nil:
			h.scheduleAt(it.group, now)
		case it.pacer:
			h.paceNext(now)
		default:
			h.pairs.fire(it.peer, now)
		}
		due[i] = nil
	}
	return slept
}

// timerLoop is the one goroutine that waits for time. Its invariant: it sleeps at most until the first deadline.
func (h *Host) timerLoop() {
	const longest = time.Hour
	sleep := time.NewTimer(longest)
	defer sleep.Stop()
	wake := h.now() // when it means to wake at the latest
	for {
		now := h.now()
		h.watchPause(wake, now, h.fireTimers(now))
		h.timers.mu.Lock()
		closed := h.timers.closed
		h.timers.mu.Unlock()
		if closed {
			return
		}
		// CLOCK_BOOTTIME and Go's timers part during a suspend, so the sleep is bounded by looking at the clock again.
		d := longest
		if at := h.timers.next(); at != never {
			d = min(d, durationUntil(at, now))
		}
		wake = now + raft.Time(d)
		sleep.Reset(d)
		select {
		case <-sleep.C:
		case <-h.timers.wake:
		}
	}
}

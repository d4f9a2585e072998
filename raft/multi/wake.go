// Noticing that this process has not run: the machine was suspended, or the process stopped or starved.
//
// Nothing depends on it. Leases and promises are measured by CLOCK_BOOTTIME, which counts a suspend, and are looked at
// with a clock read at that moment. But the count of a suspend is only as good as the machine's other clock (an RTC that
// ticks in seconds, a hypervisor's word), so that after one no lease is believed that began before it; and whoever
// looks for the reason of an election finds it here.

package multi

import (
	"time"

	"github.com/balsamq/balsa/raft"
)

const (
	// minSuspend is the shortest suspend that is noticed. The two clocks run alike otherwise.
	minSuspend = 10 * time.Millisecond
	// pauseSilence is how long nothing more is said of pauses after a line about one: on a machine that is too small they come
	// in rows.
	pauseSilence = 10 * time.Second
)

// wakeWatch is how far CLOCK_BOOTTIME was ahead of CLOCK_MONOTONIC.
type wakeWatch struct {
	known bool
	ahead raft.Time // at most this much

	silentUntil raft.Time // about pauses
}

// slept is how long the machine has slept since the last call. Reading two clocks takes time, in which this process may
// itself be stopped: the lowest that the distance can be now is compared with the highest that it can have been.
func (w *wakeWatch) slept(c MonotonicClock) raft.Time {
	before := c.Now()
	mono := c.Monotonic()
	low, high := before-mono, c.Now()-mono
	d := low - w.ahead
	switch {
	case !w.known:
		w.known, w.ahead = true, high
	case d >= raft.Time(minSuspend):
		w.ahead = high
		return d
	default:
		w.ahead = min(w.ahead, high)
	}
	return 0
}

// watchSuspend is called by whoever fires timers.
func (h *Host) watchSuspend() (slept raft.Time) {
	c, ok := h.o.Clock.(MonotonicClock)
	if !ok {
		return 0
	}
	if slept = h.wake.slept(c); slept > 0 {
		h.stats.suspends.Add(1)
		h.wokeAt.Store(int64(h.now()))
		h.o.Logger.Warn("this machine was suspended; leases from before are not used", "for", time.Duration(slept))
	}
	return slept
}

// watchPause compares when the timer loop meant to wake with when it did, less what the machine has slept.
func (h *Host) watchPause(due, now, slept raft.Time) {
	if late := now - due - slept; late > raft.Time(h.o.ElectionTimeout) {
		n := h.stats.pauses.Add(1)
		h.wokeAt.Store(int64(now))
		if now >= h.wake.silentUntil {
			h.wake.silentUntil = now + raft.Time(pauseSilence)
			h.o.Logger.Warn("this process did not run: it was stopped, or starved of CPU or memory; leases from before are not used",
				"for", time.Duration(late), "times", n)
		}
	}
}

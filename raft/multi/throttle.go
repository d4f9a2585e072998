// How fast learners are caught up: one token bucket for all groups of a host that ask for it, and a second one, whose rate changes while
// the host runs, for those of them that are throttled beyond that.
//
// A message is let through while there is anything in the bucket, and its size may leave the bucket in debt: so a rate below
// one message a second still moves. What was held back is asked about again at the learner's next answer, a heartbeat
// later at most, and the bucket holds what comes in meanwhile.

package multi

import (
	"sync"
	"sync/atomic"

	"github.com/balsamq/balsa/raft"
)

type throttle struct {
	heartbeat raft.Time

	mu    sync.Mutex // protects what follows; a leaf, taken inside the core
	rate  float64    // bytes per second; 0: no bound
	burst float64
	left  float64   // not a whole number, or a low rate that is asked for often would never fill the bucket
	at    raft.Time // when left was last brought up to date
}

var _ raft.Throttle = (*throttle)(nil)

func newThrottle(rate int64, heartbeat raft.Time) *throttle {
	t := &throttle{heartbeat: heartbeat}
	t.setRate(rate)
	t.left = t.burst
	return t
}

// setRate changes the rate; 0: no bound.
func (t *throttle) setRate(rate int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.rate, t.burst = float64(rate), max(float64(rate)*float64(2*t.heartbeat)/1e9, 1)
	t.left = min(t.left, t.burst)
}

// Allow implements raft.Throttle.
func (t *throttle) Allow(now raft.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.rate == 0 {
		t.left, t.at = t.burst, now
		return true
	}
	if now > t.at {
		t.left = min(t.left+t.rate*float64(now-t.at)/1e9, t.burst)
		t.at = now
	}
	return t.left > 0
}

// Sent implements raft.Throttle.
func (t *throttle) Sent(bytes int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.left -= float64(bytes)
}

// groupThrottle is a group's: by its host's rate for all, and where it is on, by that for those that are throttled.
type groupThrottle struct {
	all    *throttle // nil: no bound
	listed *throttle
	on     atomic.Bool
}

var _ raft.Throttle = (*groupThrottle)(nil)

// Allow implements raft.Throttle.
func (t *groupThrottle) Allow(now raft.Time) bool {
	return (t.all == nil || t.all.Allow(now)) && (!t.on.Load() || t.listed.Allow(now))
}

// Sent implements raft.Throttle.
func (t *groupThrottle) Sent(bytes int64) {
	if t.all != nil {
		t.all.Sent(bytes)
	}
	if t.on.Load() {
		t.listed.Sent(bytes)
	}
}

// SetReplicationRate bounds, in bytes per second, what this host sends to learners that are being caught up, over all groups with
// Group.SetThrottled, and within Options.LearnerRate; 0: no bound of its own.
func (h *Host) SetReplicationRate(rate int64) { h.replication.setRate(rate) }

// SetThrottled says whether Host.SetReplicationRate counts for the group. It has GroupConfig.Throttle.
func (g *Group) SetThrottled(on bool) { g.throttle.on.Store(on) }

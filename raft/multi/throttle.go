// How fast learners are caught up: one token bucket for all groups of a host that ask for it.
//
// A message is let through while there is anything in the bucket, and its size may leave the bucket in debt: so a rate below
// one message a second still moves. What was held back is asked about again at the learner's next answer, a heartbeat
// later at most, and the bucket holds what comes in meanwhile.

package multi

import (
	"sync"

	"github.com/balsamq/balsa/raft"
)

type throttle struct {
	rate  float64 // bytes per second
	burst float64

	mu   sync.Mutex // protects what follows; a leaf, taken inside the core
	left float64    // not a whole number, or a low rate that is asked for often would never fill the bucket
	at   raft.Time  // when left was last brought up to date
}

var _ raft.Throttle = (*throttle)(nil)

func newThrottle(rate int64, heartbeat raft.Time) *throttle {
	burst := max(float64(rate)*float64(2*heartbeat)/1e9, 1)
	return &throttle{rate: float64(rate), burst: burst, left: burst}
}

// Allow implements raft.Throttle.
func (t *throttle) Allow(now raft.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
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

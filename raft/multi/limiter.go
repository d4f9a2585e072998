// The pace of bulk transfers: one token bucket for all snapshots that a host sends, so that live replication keeps its share
// of disk and network.

package multi

import (
	"sync"
	"time"

	"github.com/balsamq/balsa/raft"
)

// Limiter is a token bucket of bytes. It may be overdrawn by what is taken at once; who comes next waits until that is
// made up for.
type Limiter struct {
	rate  int64 // bytes per second; <= 0: no limit
	burst int64

	mu    sync.Mutex // guards level, at
	level int64
	at    raft.Time
}

// burstTime is how much of the rate may have gathered while nobody asked.
const burstTime = 100 * time.Millisecond

// NewLimiter makes a full bucket. rate is in bytes per second; not positive: no limit.
func NewLimiter(rate int64) *Limiter {
	burst := max(rate/int64(time.Second/burstTime), 1)
	return &Limiter{rate: rate, burst: burst, level: burst}
}

// Take takes n bytes and returns 0, or takes nothing and returns how long to wait before asking again. urgent takes in any
// case, at the expense of who comes next.
func (l *Limiter) Take(now raft.Time, n int64, urgent bool) time.Duration {
	if l.rate <= 0 {
		return 0
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if since := now - l.at; since > 0 {
		if time.Duration(since) >= time.Second {
			since = raft.Time(time.Second) // more than the burst either way, and nothing overflows
		}
		l.level = min(l.level+int64(float64(since)*float64(l.rate)/float64(time.Second)), l.burst)
		l.at = now
	}
	if l.level > 0 || urgent {
		l.level -= n
		return 0
	}
	return max(time.Duration(float64(1-l.level)/float64(l.rate)*float64(time.Second)), time.Millisecond)
}

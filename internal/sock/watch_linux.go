//go:build linux && (amd64 || arm64)

// While all of the process is idle, sysmon sleeps, until a call is announced or the next timer that it knew of is due: a minute at most. Who is woken by the
// poller and makes no announced call leaves it asleep. It is sysmon, though, that takes the processor from who has computed for 10 ms, and polls the network
// where all processors are busy. So from time to time a Read announces a call, and sets a timer, by which sysmon looks again if it has gone to sleep meanwhile.

package sock

import (
	"sync/atomic"
	"syscall"
	"time"
)

// watchEvery is how often, at most, sysmon is woken, and how long it may sleep after a Read.
const watchEvery = 10 * time.Millisecond

var (
	watchBegin = time.Now()
	watchedAt  atomic.Int64                   // when it was last woken: ns since watchBegin
	watchTimer = time.AfterFunc(0, func() {}) // nobody waits for it: the runtime does no more than know of it
)

// watched is called after a Read. What it costs must not count: mostly it looks at the time.
func watched() {
	now, last := int64(time.Since(watchBegin)), watchedAt.Load()
	if d := now - last; last != 0 && 0 <= d && d < int64(watchEvery) || !watchedAt.CompareAndSwap(last, now) {
		return
	}
	watchTimer.Reset(watchEvery)
	_, _, _ = syscall.Syscall(syscall.SYS_GETPID, 0, 0, 0)
}

//go:build !linux

// The clock of systems on which Balsa is developed but not run in earnest: Go's monotonic clock, which may stop during
// a suspend. There, use `read.consistency=quorum`.

package multi

import (
	"time"

	"github.com/balsamq/balsa/raft"
)

var processStart = time.Now()

// BootClock reads Go's monotonic clock.
type BootClock struct{}

// Now reads the clock.
func (BootClock) Now() raft.Time { return raft.Time(time.Since(processStart)) + 1 }

// Monotonic reads the same clock: what was slept is not told here.
func (c BootClock) Monotonic() raft.Time { return c.Now() }

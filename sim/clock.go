// A node's CLOCK_BOOTTIME. It runs at its own rate, which changes now and then, and steps forward a little; it goes on while
// the process is stopped, and begins anew with the machine.
//
// What the lease rests on (Config.ClockDrift, 5 % of the election timeout here): within one election timeout no two clocks part
// by more. A rate within 2 % and one step of 8 ms stay just inside: a lease of 950 ms on the slowest clock ends after 970 ms, a
// promise of 1000 ms on the fastest after 972 ms.

package sim

import (
	"time"

	"github.com/balsamq/balsa/raft"
)

const (
	maxRate     = 20_000 // parts per million
	maxStep     = 8 * time.Millisecond
	stepSpacing = 1200 * time.Millisecond // at least, between two steps of one clock
)

type clock struct {
	real, local raft.Time // one reading
	rate        int64     // parts per million over true time
	stepped     raft.Time // true time of the last step
}

func (c *clock) at(now raft.Time) raft.Time {
	d := now - c.real
	return c.local + d + d*raft.Time(c.rate)/1_000_000
}

// until is how long it truly takes until the clock shows at.
func (c *clock) until(now, at raft.Time) time.Duration {
	d := at - c.at(now)
	if d <= 0 {
		return 0
	}
	return time.Duration(d/raft.Time(1_000_000+c.rate)*1_000_000+d%raft.Time(1_000_000+c.rate)*1_000_000/raft.Time(1_000_000+c.rate)) + 1
}

func (c *clock) setRate(now raft.Time, ppm int64) {
	c.real, c.local, c.rate = now, c.at(now), ppm
}

// step jumps forward, unless the last jump is too young.
func (c *clock) step(now raft.Time, d time.Duration) bool {
	if now-c.stepped < raft.Time(stepSpacing) {
		return false
	}
	c.real, c.local, c.stepped = now, c.at(now)+raft.Time(d), now
	return true
}

// reboot begins anew at a time that has nothing to do with the last.
func (n *node) reboot() {
	n.clock = clock{real: n.w.now, local: raft.Time(n.w.between(time.Second, time.Hour)), rate: n.clock.rate, stepped: n.w.now}
}

// drawRate gives the clock a new rate: often one of the two extremes, where leases and promises part most.
func (n *node) drawRate() {
	ppm := n.w.rng.Int64N(2*maxRate+1) - maxRate
	if n.w.chance(0.4) {
		ppm = []int64{-maxRate, maxRate}[n.w.rng.IntN(2)]
	}
	n.clock.setRate(n.w.now, ppm)
}

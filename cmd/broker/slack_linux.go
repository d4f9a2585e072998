// Timers that may be a little late. While Go's scheduler has something to do, a thread of each process (sysmon) sleeps for 20 µs at a time, and
// wakes to look whether a system call holds up others. With the kernel's default slack of 50 µs that is thousands of timers and switches a
// second in each broker, a tenth of what a busy one costs where processors are few (docs/design/0024-produce-speed.md).

package main

import (
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// kernelSlack is what a process has if nobody has said anything.
	kernelSlack = 50 * time.Microsecond
	// timerSlack is how late a timer of a broker may be. What a broker itself waits for is told in milliseconds.
	timerSlack = 300 * time.Microsecond
)

// A thread has the slack of the one that made it, and sysmon is there before any of our code. So the program is executed once more, by its main thread, which is
// where init runs: what holds for that one alone (how it ends with its parent) is kept, and so are pid and files.
func init() {
	if len(os.Args) > 1 && os.Args[1] == "start" {
		slackenTimers()
	}
}

// slackenTimers does nothing where somebody has chosen another slack (systemd's TimerSlackNSec, or we a moment ago), and nothing that a failure of would keep a broker from starting.
func slackenTimers() {
	if now, err := unix.PrctlRetInt(unix.PR_GET_TIMERSLACK, 0, 0, 0, 0); err != nil || time.Duration(now) != kernelSlack {
		return
	}
	if unix.Prctl(unix.PR_SET_TIMERSLACK, uintptr(timerSlack.Nanoseconds()), 0, 0, 0) != nil {
		return
	}
	if now, err := unix.PrctlRetInt(unix.PR_GET_TIMERSLACK, 0, 0, 0, 0); err != nil || time.Duration(now) != timerSlack {
		return // it would be executed for ever
	}
	if self, err := os.Executable(); err == nil {
		_ = syscall.Exec(self, os.Args, os.Environ()) // comes back only if it failed
	}
}

// The real clock: CLOCK_BOOTTIME, which goes on while the machine is suspended.

package multi

import (
	"fmt"
	"syscall"
	"unsafe"

	"github.com/balsamq/balsa/raft"
)

// BootClock reads CLOCK_BOOTTIME. A lease measured with a clock that stops during a suspend would outlive it.
type BootClock struct{}

// linux/time.h; package syscall does not name them.
const (
	clockMonotonic = 1
	clockBoottime  = 7 // since Linux 2.6.39
)

func readClock(id uintptr) raft.Time {
	var ts syscall.Timespec
	if _, _, errno := syscall.RawSyscall(syscall.SYS_CLOCK_GETTIME, id, uintptr(unsafe.Pointer(&ts)), 0); errno != 0 {
		panic(fmt.Sprintf("multi: clock %d cannot be read: %v", id, errno))
	}
	return raft.Time(ts.Nano())
}

// Now reads the clock.
func (BootClock) Now() raft.Time { return readClock(clockBoottime) }

// Monotonic reads CLOCK_MONOTONIC, which stands still during a suspend.
func (BootClock) Monotonic() raft.Time { return readClock(clockMonotonic) }

// The real clock: CLOCK_BOOTTIME, which goes on while the machine is suspended.

package multi

import (
	"syscall"
	"unsafe"

	"github.com/balsamq/balsa/raft"
)

// BootClock reads CLOCK_BOOTTIME. A lease measured with a clock that stops during a suspend would outlive it.
type BootClock struct{}

// Now reads the clock.
func (BootClock) Now() raft.Time {
	const clockBoottime = 7 // linux/time.h; package syscall does not name it
	var ts syscall.Timespec
	_, _, errno := syscall.RawSyscall(syscall.SYS_CLOCK_GETTIME, clockBoottime, uintptr(unsafe.Pointer(&ts)), 0)
	if errno != 0 {
		panic("multi: CLOCK_BOOTTIME cannot be read: " + errno.Error()) // it is there since Linux 2.6.39
	}
	return raft.Time(ts.Nano())
}

// Direct I/O, fdatasync and CPU accounting, as Linux has them.

package limit

import (
	"os"
	"time"

	"golang.org/x/sys/unix"
)

const (
	directFlag = unix.O_DIRECT
	dsyncFlag  = unix.O_DSYNC
)

func dataSync(f *os.File) error {
	for {
		if err := unix.Fdatasync(int(f.Fd())); err != unix.EINTR {
			return err
		}
	}
}

// processCPU is what all threads of this process have used.
func processCPU() time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

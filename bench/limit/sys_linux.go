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

// readable waits until one of the files can be read, and says which.
func readable(files []*os.File) (int, error) {
	fds := make([]unix.PollFd, len(files))
	for i, f := range files {
		fds[i] = unix.PollFd{Fd: int32(f.Fd()), Events: unix.POLLIN}
	}
	for {
		if _, err := unix.Poll(fds, -1); err != nil && err != unix.EINTR {
			return 0, err
		}
		for i := range fds {
			if fds[i].Revents != 0 {
				return i, nil
			}
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

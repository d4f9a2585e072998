// Linux: the calls that make appends cheap and syncs honest.

package vfs

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// iovMax is Linux's bound on buffers per pwritev (IOV_MAX).
const iovMax = 1024

func (o *osFile) Sync() error {
	for {
		err := unix.Fdatasync(int(o.f.Fd()))
		runtime.KeepAlive(o.f)
		if err != unix.EINTR {
			return spaceErr(err)
		}
	}
}

// WriteSync asks the system once: a disk that can write through its cache (FUA) then needs no flush, and the thread sleeps once.
func (o *osFile) WriteSync(bufs [][]byte, off int64) error {
	n := 0
	for o.direct && len(bufs) <= iovMax {
		var err error
		n, err = unix.Pwritev2(int(o.f.Fd()), bufs, off, unix.RWF_DSYNC)
		runtime.KeepAlive(o.f)
		switch {
		case err == unix.EINTR:
			continue
		case err == unix.EINVAL || err == unix.EOPNOTSUPP || err == unix.ENOSYS:
			n = 0 // refused as it stands, before anything happened
		case err != nil:
			return spaceErr(fmt.Errorf("pwritev2 %s: %w", o.f.Name(), err)) // never again: see Sync
		case int64(n) == lengthOf(bufs):
			return nil
		}
		break
	}
	return o.writeRest(bufs, off, int64(n))
}

// writeRest does what is left of a WriteSync of which the system took the first n bytes: it says what is wrong when asked for the rest.
func (o *osFile) writeRest(bufs [][]byte, off, n int64) error {
	if _, err := o.WritevAt(after(bufs, n), off+n); err != nil {
		return err
	}
	return o.Sync()
}

func (o *osFile) WritevAt(bufs [][]byte, off int64) (int64, error) {
	var total int64
	iov := make([][]byte, 0, min(len(bufs), iovMax))
	skip := 0 // bytes of bufs[0] that are already written
	for {
		iov = append(iov[:0], bufs[:min(len(bufs), iovMax)]...)
		if len(iov) == 0 {
			return total, nil
		}
		iov[0] = iov[0][skip:]
		n, err := unix.Pwritev(int(o.f.Fd()), iov, off+total)
		runtime.KeepAlive(o.f)
		if err == unix.EINTR {
			continue
		}
		if o.direct && err == unix.EINVAL && o.setDirect(false) == nil {
			o.direct = false // see WriteAt
			continue
		}
		if err != nil {
			return total, spaceErr(fmt.Errorf("pwritev %s: %w", o.f.Name(), err))
		}
		total += int64(n)
		// A short write is not an error yet: the system says what is wrong when asked for the rest.
		n += skip
		for len(bufs) > 0 && n >= len(bufs[0]) {
			n -= len(bufs[0])
			bufs = bufs[1:]
		}
		skip = n
	}
}

func (o *osFile) Allocate(off, length int64) error {
	size, err := o.Size()
	if err != nil {
		return err
	}
	for {
		err = unix.Fallocate(int(o.f.Fd()), 0, off, length)
		runtime.KeepAlive(o.f)
		if err != unix.EINTR {
			break
		}
	}
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS):
		return zeroFill(o, off, length)
	}
	err = spaceErr(fmt.Errorf("fallocate %s: %w", o.f.Name(), err))
	// A failed call may have laid out a part; give it back, so that the promise "nothing has changed" holds.
	if off+length > size {
		return errors.Join(err, o.f.Truncate(size))
	}
	return err
}

// SetDirect asks the system first what direct writes it takes (statx, since Linux 6.1): a file system that does not say is
// left alone, for it may refuse the writes and not the flag. One that wants more than DirectUnit likewise.
func (o *osFile) SetDirect() bool {
	fd := int(o.f.Fd())
	defer runtime.KeepAlive(o.f)
	var st unix.Statx_t
	if unix.Statx(fd, "", unix.AT_EMPTY_PATH, unix.STATX_DIOALIGN, &st) != nil || st.Mask&unix.STATX_DIOALIGN == 0 {
		return false
	}
	if a := st.Dio_offset_align; a == 0 || DirectUnit%a != 0 || DirectUnit%max(st.Dio_mem_align, 1) != 0 {
		return false
	}
	o.direct = o.setDirect(true) == nil
	return o.direct
}

// setDirect sets or clears the open file's O_DIRECT.
func (o *osFile) setDirect(on bool) error {
	defer runtime.KeepAlive(o.f)
	flags, err := unix.FcntlInt(o.f.Fd(), unix.F_GETFL, 0)
	if err != nil {
		return err
	}
	if flags &^= unix.O_DIRECT; on {
		flags |= unix.O_DIRECT
	}
	_, err = unix.FcntlInt(o.f.Fd(), unix.F_SETFL, flags)
	return err
}

// pread is one call to the system.
func pread(f *os.File, p []byte, off int64) (int, error) {
	defer runtime.KeepAlive(f)
	for {
		n, err := unix.Pread(int(f.Fd()), p, off)
		if err != unix.EINTR {
			return max(n, 0), err
		}
	}
}

func (osFS) Lock(name string) (func() error, error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = ErrLocked
		}
		return nil, errors.Join(fmt.Errorf("lock %s: %w", name, err), f.Close())
	}
	return f.Close, nil
}

func (osFS) Free(dir string) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, fmt.Errorf("statfs %s: %w", dir, err)
	}
	return int64(st.Bavail) * st.Bsize, nil
}

func (osFS) Total(dir string) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, fmt.Errorf("statfs %s: %w", dir, err)
	}
	return int64(st.Blocks) * st.Bsize, nil
}

func (o *osFile) forget(off, length int64) {
	_ = unix.Fadvise(int(o.f.Fd()), off, length, unix.FADV_DONTNEED) // only advice
	runtime.KeepAlive(o.f)
}

func (o *osFile) nextData(off int64) int64 {
	at, err := unix.Seek(int(o.f.Fd()), off, unix.SEEK_DATA) // nobody here goes by the file's own position
	runtime.KeepAlive(o.f)
	switch {
	case err == unix.ENXIO: // none
		if size, err := o.Size(); err == nil {
			return max(off, size)
		}
		return off
	case err != nil:
		return off
	}
	return at
}

// bootID is the kernel's name for the life that it is in; a container sees its host's.
var bootID = sync.OnceValue(func() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	id := strings.TrimSpace(string(b))
	if err != nil || len(id) > MaxBoot {
		return ""
	}
	return id
})

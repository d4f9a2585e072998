// What only Linux tells and does: children that end with their parent, free space, the page cache.

package bench

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// procAttr gives a child a process group of its own, so that a Ctrl-C in the terminal reaches only this process, which stops the
// children in order; and has the kernel kill it when the parent dies without having done so.
func procAttr() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}

// terminalWidth is how many columns the terminal has that f is; 0 if it is none.
func terminalWidth(f *os.File) int {
	size, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
	if err != nil {
		return 0
	}
	return int(size.Col)
}

// freeBytes is the space for data below dir; 0 if it is not known.
func freeBytes(dir string) int64 {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0
	}
	return int64(st.Bavail) * st.Bsize
}

// usedBytes is what files below dir take on the disk.
func usedBytes(dir string) (sum int64) {
	_ = filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error { // a file that goes meanwhile counts nothing
		if err != nil || !e.Type().IsRegular() {
			return nil
		}
		var st unix.Stat_t
		if unix.Lstat(path, &st) == nil {
			sum += st.Blocks * 512
		}
		return nil
	})
	return sum
}

// dropCache takes what files below dir have in the page cache out of it, after writing back what is dirty, and says so. Only these
// files: it needs no privileges, and leaves the rest of the machine warm.
func dropCache(dir string) (what string, err error) {
	files, sum := 0, int64(0)
	err = filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if os.IsNotExist(err) || err == nil && !e.Type().IsRegular() {
			return nil
		}
		if err != nil {
			return err
		}
		f, err := os.Open(path)
		if os.IsNotExist(err) {
			return nil
		}
		if err != nil {
			return err
		}
		defer f.Close()
		info, err := f.Stat()
		if err != nil {
			return err
		}
		// Dirty pages stay. A file that was only read has none, and this costs nothing then.
		if err := unix.Fdatasync(int(f.Fd())); err != nil {
			return fmt.Errorf("sync %s: %w", path, err)
		}
		if err := unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
			return fmt.Errorf("drop %s from the page cache: %w", path, err)
		}
		files++
		sum += info.Size()
		return nil
	})
	return fmt.Sprintf("the page cache of all data files was dropped (posix_fadvise on %d files, %.2f GB)", files, float64(sum)/1e9), err
}

// A write that really fails, without a full disk: the descriptor is replaced beneath whoever writes.

package journal

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// breakDescriptor makes writes to this process's open file fail until restore.
func breakDescriptor(t *testing.T, path string) (restore func()) {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Skip("no /proc/self/fd here:", err)
	}
	path, err = filepath.EvalSymlinks(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range fds {
		var fd int
		if _, err := fmt.Sscan(e.Name(), &fd); err != nil {
			continue
		}
		if to, err := os.Readlink("/proc/self/fd/" + e.Name()); err != nil || to != path {
			continue
		}
		saved, err := syscall.Dup(fd)
		if err != nil {
			t.Fatal(err)
		}
		ro, err := os.Open(path) // a descriptor for reading only: write says EBADF
		if err != nil {
			t.Fatal(err)
		}
		if err := syscall.Dup3(int(ro.Fd()), fd, 0); err != nil {
			t.Fatal(err)
		}
		_ = ro.Close()
		return func() {
			if err := errors.Join(syscall.Dup3(saved, fd, 0), syscall.Close(saved)); err != nil {
				t.Fatal(err)
			}
		}
	}
	t.Fatal("no open descriptor of", path)
	return nil
}

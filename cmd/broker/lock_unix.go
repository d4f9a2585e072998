//go:build unix

// The lock that keeps a directory to one `broker dev`.

package main

import (
	"os"
	"syscall"
)

// lockFile takes a lock that goes with the process. Children do not inherit it: Go opens files close-on-exec.
func lockFile(name string) (unlock func(), err error) {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = f.Close()
		return nil, err
	}
	return func() { _ = f.Close() }, nil
}

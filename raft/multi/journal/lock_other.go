//go:build !unix

// The lock file where there is no flock: a file that must not exist. After a crash it must be removed by hand.

package journal

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/balsamq/balsa/internal/vfs"
)

func lockFile(path string) (unlock func() error, err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o640)
	if errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("lock %s (remove it if no broker runs): %w", path, ErrLocked)
	}
	if err != nil {
		return nil, err
	}
	return func() error { return errors.Join(f.Close(), os.Remove(path)) }, nil
}

func isNoSpace(err error) bool { return errors.Is(err, vfs.ErrNoSpace) }

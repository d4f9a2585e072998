//go:build !linux

// Systems other than Linux: correct, for development, not tuned.

package vfs

import (
	"errors"
	"fmt"
	"math"
	"os"
)

func (o *osFile) Sync() error { return spaceErr(o.f.Sync()) }

func (o *osFile) WriteSync(bufs [][]byte, off int64) error {
	if _, err := o.WritevAt(bufs, off); err != nil {
		return err
	}
	return o.Sync()
}

func (o *osFile) WritevAt(bufs [][]byte, off int64) (int64, error) {
	var total int64
	for _, b := range bufs {
		n, err := o.WriteAt(b, off+total)
		total += int64(n)
		if err != nil {
			return total, err
		}
	}
	return total, nil
}

func (o *osFile) Allocate(off, length int64) error { return zeroFill(o, off, length) }

func (o *osFile) SetDirect() bool { return false }

func (o *osFile) setDirect(bool) error { return errors.ErrUnsupported }

func pread(*os.File, []byte, int64) (int, error) { return 0, errors.ErrUnsupported } // nothing is direct here

// Lock creates the file exclusively: a file left behind by a crash must be removed by hand.
func (osFS) Lock(name string) (func() error, error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w: %w", name, ErrLocked, err)
	}
	return func() error {
		if err := f.Close(); err != nil {
			return err
		}
		return os.Remove(name)
	}, nil
}

func (osFS) Free(string) (int64, error)  { return math.MaxInt64, nil }
func (osFS) Total(string) (int64, error) { return math.MaxInt64, nil }

func (o *osFile) forget(int64, int64) {}

func (o *osFile) nextData(off int64) int64 { return off }

// bootID: no name for the machine's life is known here.
func bootID() string { return "" }

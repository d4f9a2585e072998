// The real file system: a thin skin over package os that adds what a log needs and os lacks (fdatasync, fallocate,
// pwritev, flock), and turns a full disk into ErrNoSpace whatever the system calls it.

package vfs

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// OS is the operating system's file system. Names are used as they are: absolute, or relative to the process.
func OS() FS { return osFS{} }

type osFS struct{}

type osFile struct {
	f      *os.File
	direct bool // see SetDirect; of the handle's owner
}

// spaceErr marks errors that mean "disk full", so that callers test for one sentinel.
func spaceErr(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return fmt.Errorf("%w (%w)", ErrNoSpace, err)
	}
	return err
}

// Boot implements [FS].
func (osFS) Boot() string { return bootID() }

func (osFS) Create(name string) (File, error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return nil, spaceErr(err)
	}
	return &osFile{f: f}, nil
}

func (osFS) Open(name string) (File, error) {
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	return &osFile{f: f}, nil
}

func (osFS) Remove(name string) error    { return os.Remove(name) }
func (osFS) RemoveAll(name string) error { return os.RemoveAll(name) }
func (osFS) Rename(o, n string) error    { return spaceErr(os.Rename(o, n)) }
func (osFS) MkdirAll(dir string) error   { return spaceErr(os.MkdirAll(dir, 0o755)) }

func (osFS) ReadDir(dir string) ([]string, error) {
	des, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	names := make([]string, len(des))
	for i, de := range des {
		names[i] = de.Name()
	}
	return names, nil
}

func (osFS) Stat(name string) (fs.FileInfo, error) { return os.Stat(name) }

func (osFS) SyncDir(dir string) error {
	d, err := os.Open(filepath.Clean(dir))
	if err != nil {
		return err
	}
	err = spaceErr(d.Sync())
	return errors.Join(err, d.Close())
}

func (o *osFile) ReadAt(p []byte, off int64) (int, error) {
	if !o.direct {
		return o.f.ReadAt(p, off)
	}
	// Past the cache the system takes no odd lengths, so that what the file's end has cut short must not be asked for again.
	n := 0
	for n < len(p) {
		got, err := pread(o.f, p[n:], off+int64(n))
		if errors.Is(err, syscall.EINVAL) && o.setDirect(false) == nil { // as in WriteAt
			o.direct = false
			more, err := o.f.ReadAt(p[n:], off+int64(n))
			return n + more, err
		}
		if err != nil {
			return n, &fs.PathError{Op: "read", Path: o.f.Name(), Err: err}
		}
		if n += got; got == 0 || got&(DirectUnit-1) != 0 {
			break
		}
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (o *osFile) WriteAt(p []byte, off int64) (int, error) {
	n, err := o.f.WriteAt(p, off)
	if o.direct && errors.Is(err, syscall.EINVAL) && o.setDirect(false) == nil {
		// It said that it takes direct writes, and refuses this one: then all go through its cache from here on.
		var more int
		o.direct = false
		more, err = o.f.WriteAt(p[n:], off+int64(n))
		n += more
	}
	return n, spaceErr(err)
}

// WriteCached implements [File]. O_DIRECT is the open file's, not the write's; nobody else writes through this handle meanwhile.
func (o *osFile) WriteCached(bufs [][]byte, off int64) (int64, error) {
	if !o.direct {
		return o.WritevAt(bufs, off)
	}
	if err := o.setDirect(false); err != nil {
		return 0, err
	}
	n, err := o.WritevAt(bufs, off)
	o.direct = o.setDirect(true) == nil // else all go through the cache from here on
	return n, err
}

func (o *osFile) Truncate(size int64) error { return spaceErr(o.f.Truncate(size)) }
func (o *osFile) Close() error              { return o.f.Close() }

func (o *osFile) Size() (int64, error) {
	st, err := o.f.Stat()
	if err != nil {
		return 0, err
	}
	return st.Size(), nil
}

// zeroFill extends a file with written zeros, for file systems without fallocate. Bytes below the old size stay.
func zeroFill(f File, off, length int64) error {
	size, err := f.Size()
	if err != nil {
		return err
	}
	zeros := make([]byte, 64<<10)
	for at := max(off, size); at < off+length; {
		n, err := f.WriteAt(zeros[:min(int64(len(zeros)), off+length-at)], at)
		at += int64(n)
		if err != nil {
			return errors.Join(err, f.Truncate(size))
		}
	}
	return nil
}

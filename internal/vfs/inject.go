// Faults on purpose: Inject asks a function before each operation whether it may happen.

package vfs

import (
	"errors"
	"fmt"
	"io/fs"
)

// Op names an operation of [FS] or [File] for [Inject].
type Op string

// The operations that [Inject] asks about, with the name that it passes: the file's, the directory's, and for a
// rename the new one.
const (
	OpCreate    Op = "create"
	OpOpen      Op = "open"
	OpRemove    Op = "remove"
	OpRemoveAll Op = "removeall"
	OpRename    Op = "rename"
	OpMkdir     Op = "mkdir"
	OpReadDir   Op = "readdir"
	OpStat      Op = "stat"
	OpSyncDir   Op = "syncdir"
	OpLock      Op = "lock"
	OpRead      Op = "read"
	OpWrite     Op = "write"
	OpAllocate  Op = "allocate"
	OpTruncate  Op = "truncate"
	OpSync      Op = "sync"
	OpClose     Op = "close"
)

// ErrSkip, returned by an injection function, makes the operation a lie: it is not done, and reported as done. It
// means something for syncs, removals, truncations and closes; elsewhere it is an error like any other.
var ErrSkip = errors.New("operation skipped")

// ShortWriteError, returned by an injection function for OpWrite, lets N bytes through and then fails with Err.
type ShortWriteError struct {
	N   int
	Err error
}

func (e *ShortWriteError) Error() string {
	return fmt.Sprintf("short write after %d bytes: %v", e.N, e.Err)
}
func (e *ShortWriteError) Unwrap() error { return e.Err }

// Inject wraps inner so that fault is asked before each operation; a non-nil error is returned in its place. fault
// may be called from many goroutines.
func Inject(inner FS, fault func(op Op, name string) error) FS { return &injectFS{inner, fault} }

type injectFS struct {
	inner FS
	fault func(Op, string) error
}

type injectFile struct {
	inner  File
	fs     *injectFS
	name   string
	direct bool
}

// ask says whether to go on (nil, false), to pretend (nil, true), or to fail.
func (i *injectFS) ask(op Op, name string) (skip bool, err error) {
	err = i.fault(op, name)
	if errors.Is(err, ErrSkip) {
		switch op {
		case OpSync, OpSyncDir, OpRemove, OpRemoveAll, OpTruncate, OpClose:
			return true, nil
		}
	}
	return false, err
}

func (i *injectFS) do(op Op, name string, f func() error) error {
	if skip, err := i.ask(op, name); skip || err != nil {
		return err
	}
	return f()
}

func (i *injectFS) open(op Op, name string, f func(string) (File, error)) (File, error) {
	if _, err := i.ask(op, name); err != nil {
		return nil, err
	}
	file, err := f(name)
	if err != nil {
		return nil, err
	}
	return &injectFile{inner: file, fs: i, name: name}, nil
}

// Boot is not asked about: it cannot fail.
func (i *injectFS) Boot() string { return i.inner.Boot() }

func (i *injectFS) Create(name string) (File, error) { return i.open(OpCreate, name, i.inner.Create) }
func (i *injectFS) Open(name string) (File, error)   { return i.open(OpOpen, name, i.inner.Open) }

func (i *injectFS) Remove(name string) error {
	return i.do(OpRemove, name, func() error { return i.inner.Remove(name) })
}

func (i *injectFS) RemoveAll(name string) error {
	return i.do(OpRemoveAll, name, func() error { return i.inner.RemoveAll(name) })
}

func (i *injectFS) Rename(oldname, newname string) error {
	return i.do(OpRename, newname, func() error { return i.inner.Rename(oldname, newname) })
}

func (i *injectFS) MkdirAll(dir string) error {
	return i.do(OpMkdir, dir, func() error { return i.inner.MkdirAll(dir) })
}

func (i *injectFS) SyncDir(dir string) error {
	return i.do(OpSyncDir, dir, func() error { return i.inner.SyncDir(dir) })
}

func (i *injectFS) ReadDir(dir string) ([]string, error) {
	if _, err := i.ask(OpReadDir, dir); err != nil {
		return nil, err
	}
	return i.inner.ReadDir(dir)
}

func (i *injectFS) Stat(name string) (fs.FileInfo, error) {
	if _, err := i.ask(OpStat, name); err != nil {
		return nil, err
	}
	return i.inner.Stat(name)
}

func (i *injectFS) Lock(name string) (func() error, error) {
	if _, err := i.ask(OpLock, name); err != nil {
		return nil, err
	}
	return i.inner.Lock(name)
}

func (i *injectFS) Free(dir string) (int64, error)  { return i.inner.Free(dir) }
func (i *injectFS) Total(dir string) (int64, error) { return i.inner.Total(dir) }

func (f *injectFile) ReadAt(p []byte, off int64) (int, error) {
	if _, err := f.fs.ask(OpRead, f.name); err != nil {
		return 0, err
	}
	return f.inner.ReadAt(p, off)
}

func (f *injectFile) WriteAt(p []byte, off int64) (int, error) {
	n, err := f.WritevAt([][]byte{p}, off)
	return int(n), err
}

func (f *injectFile) WritevAt(bufs [][]byte, off int64) (int64, error) {
	return f.writev(bufs, off, f.direct, f.inner.WritevAt)
}

func (f *injectFile) writev(bufs [][]byte, off int64, direct bool, write func([][]byte, int64) (int64, error)) (int64, error) {
	_, err := f.fs.ask(OpWrite, f.name)
	if err == nil {
		return write(bufs, off)
	}
	short, ok := errors.AsType[*ShortWriteError](err)
	if !ok {
		return 0, err
	}
	var some [][]byte
	left := short.N
	if direct {
		left -= left % DirectUnit
	}
	for _, b := range bufs {
		b = b[:min(left, len(b))]
		some, left = append(some, b), left-len(b)
	}
	n, werr := write(some, off)
	return n, errors.Join(err, werr)
}

// WriteCached is a write like any other.
func (f *injectFile) WriteCached(bufs [][]byte, off int64) (int64, error) {
	return f.writev(bufs, off, false, f.inner.WriteCached)
}

func (f *injectFile) Allocate(off, length int64) error {
	return f.fs.do(OpAllocate, f.name, func() error { return f.inner.Allocate(off, length) })
}

func (f *injectFile) Truncate(size int64) error {
	return f.fs.do(OpTruncate, f.name, func() error { return f.inner.Truncate(size) })
}

func (f *injectFile) SetDirect() bool {
	f.direct = f.inner.SetDirect()
	return f.direct
}

func (f *injectFile) Size() (int64, error) { return f.inner.Size() }

func (f *injectFile) Sync() error { return f.fs.do(OpSync, f.name, f.inner.Sync) }

// WriteSync asks twice, and may fail between the two.
func (f *injectFile) WriteSync(bufs [][]byte, off int64) error {
	if _, err := f.WritevAt(bufs, off); err != nil {
		return err
	}
	return f.fs.do(OpSync, f.name, func() error { return f.inner.WriteSync(bufs, off) })
}

func (f *injectFile) Close() error {
	return errors.Join(f.fs.do(OpClose, f.name, func() error { return nil }), f.inner.Close())
}

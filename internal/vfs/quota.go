// A disk that runs full: Quota counts the bytes of the files below it and refuses growth beyond a limit that can be
// moved while the files are in use.

package vfs

import (
	"fmt"
	"io/fs"
	"path"
	"sync"
)

// QuotaFS is a file system with a bound on the sum of its file sizes. Sizes stand for blocks: a preallocated extent
// counts when it is allocated, and writing inside it is free, as on a real disk.
type QuotaFS struct {
	FS
	mu    sync.Mutex
	limit int64
	used  int64
}

// Quota bounds the files made through it, and those that are already below dirs, to limit bytes in all.
func Quota(inner FS, limit int64, dirs ...string) *QuotaFS {
	q := &QuotaFS{FS: inner, limit: limit}
	for _, d := range dirs {
		q.used += treeSize(inner, d)
	}
	return q
}

// treeSize is the sum of the sizes of the files at or below name; 0 if there are none.
func treeSize(f FS, name string) int64 {
	st, err := f.Stat(name)
	if err != nil {
		return 0
	}
	if !st.IsDir() {
		return st.Size()
	}
	names, err := f.ReadDir(name)
	if err != nil {
		return 0
	}
	var sum int64
	for _, n := range names {
		sum += treeSize(f, path.Join(name, n))
	}
	return sum
}

// SetLimit moves the bound; files already there stay, even when they are over it.
func (q *QuotaFS) SetLimit(limit int64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.limit = limit
}

// Used is the number of bytes that count.
func (q *QuotaFS) Used() int64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.used
}

// Free implements [FS].
func (q *QuotaFS) Free(string) (int64, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return max(0, q.limit-q.used), nil
}

// Total implements [FS].
func (q *QuotaFS) Total(string) (int64, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.limit, nil
}

// Create implements [FS]. An empty file costs nothing.
func (q *QuotaFS) Create(name string) (File, error) {
	f, err := q.FS.Create(name)
	if err != nil {
		return nil, err
	}
	return &quotaFile{f, q, name}, nil
}

// Open implements [FS].
func (q *QuotaFS) Open(name string) (File, error) {
	f, err := q.FS.Open(name)
	if err != nil {
		return nil, err
	}
	return &quotaFile{f, q, name}, nil
}

// Remove implements [FS].
func (q *QuotaFS) Remove(name string) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	size := treeSize(q.FS, name)
	if err := q.FS.Remove(name); err != nil {
		return err
	}
	q.used -= size
	return nil
}

// RemoveAll implements [FS].
func (q *QuotaFS) RemoveAll(name string) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	size := treeSize(q.FS, name)
	err := q.FS.RemoveAll(name)
	q.used -= size - treeSize(q.FS, name)
	return err
}

// Rename implements [FS]: a file that is replaced gives its bytes back.
func (q *QuotaFS) Rename(oldname, newname string) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	var replaced int64
	if st, err := q.FS.Stat(newname); err == nil && !st.IsDir() && path.Clean(oldname) != path.Clean(newname) {
		replaced = st.Size()
	}
	if err := q.FS.Rename(oldname, newname); err != nil {
		return err
	}
	q.used -= replaced
	return nil
}

// Stat implements [FS].
func (q *QuotaFS) Stat(name string) (fs.FileInfo, error) { return q.FS.Stat(name) }

type quotaFile struct {
	File
	q    *QuotaFS
	name string
}

// to runs grow, which brings the file's size up to at least end, if the quota has room for that.
func (f *quotaFile) to(end int64, grow func() error) error {
	f.q.mu.Lock()
	defer f.q.mu.Unlock()
	before, err := f.File.Size()
	if err != nil {
		return err
	}
	if extra := end - before; extra > 0 && f.q.used+extra > f.q.limit {
		return &fs.PathError{Op: "write", Path: f.name,
			Err: fmt.Errorf("%w (quota: %d of %d bytes used, %d more asked)", ErrNoSpace, f.q.used, f.q.limit, extra)}
	}
	err = grow()
	if after, serr := f.File.Size(); serr == nil {
		f.q.used += after - before
	}
	return err
}

func (f *quotaFile) WriteAt(p []byte, off int64) (n int, err error) {
	err = f.to(off+int64(len(p)), func() error {
		n, err = f.File.WriteAt(p, off)
		return err
	})
	return n, err
}

func (f *quotaFile) WritevAt(bufs [][]byte, off int64) (int64, error) {
	return f.writev(bufs, off, f.File.WritevAt)
}

func (f *quotaFile) WriteCached(bufs [][]byte, off int64) (int64, error) {
	return f.writev(bufs, off, f.File.WriteCached)
}

func (f *quotaFile) writev(bufs [][]byte, off int64, write func([][]byte, int64) (int64, error)) (n int64, err error) {
	err = f.to(off+lengthOf(bufs), func() error {
		n, err = write(bufs, off)
		return err
	})
	return n, err
}

func (f *quotaFile) WriteSync(bufs [][]byte, off int64) error {
	return f.to(off+lengthOf(bufs), func() error { return f.File.WriteSync(bufs, off) })
}

func (f *quotaFile) Allocate(off, length int64) error {
	return f.to(off+length, func() error { return f.File.Allocate(off, length) })
}

func (f *quotaFile) Truncate(size int64) error {
	return f.to(size, func() error { return f.File.Truncate(size) })
}

// Package vfs is the seam between Balsa and the file system. The real one is [OS]; [NewMem] is a crashable in-memory
// one, which forgets what was not synced and tears what was half written; [Inject] wraps either to fail on purpose and
// [Quota] to run full.
//
// Durability follows POSIX at its most forgetful: a file's bytes are durable after its Sync, and its name only after
// SyncDir of the directory that holds it.
package vfs

import (
	"errors"
	"io/fs"
	"slices"
	"strings"
	"unsafe"
)

// ErrNoSpace is what a full disk gives (ENOSPC, EDQUOT); test with errors.Is.
var ErrNoSpace = errors.New("no space left on device")

// ErrLocked is what Lock gives while somebody else holds the lock.
var ErrLocked = errors.New("locked by another process")

// FS is a tree of files. Paths are slash-separated, below the root that the FS was made for, or absolute for [OS].
type FS interface {
	// Create makes a new file and opens it for reading and writing; fs.ErrExist if the name is taken.
	Create(name string) (File, error)
	// Open opens a file for reading and writing.
	Open(name string) (File, error)
	Remove(name string) error
	RemoveAll(name string) error
	Rename(oldname, newname string) error
	MkdirAll(dir string) error
	// ReadDir lists names in dir, sorted.
	ReadDir(dir string) ([]string, error)
	Stat(name string) (fs.FileInfo, error)
	// SyncDir makes creations, removals and renames in dir durable.
	SyncDir(dir string) error
	// Lock takes an exclusive lock on name for this process's life or until the returned function is called.
	Lock(name string) (unlock func() error, err error)
	// Free is the number of bytes that can still be written, and Total that of the whole volume; math.MaxInt64 if that is not known.
	Free(dir string) (int64, error)
	Total(dir string) (int64, error)
	// Boot names the life of the memory that keeps what was written and not synced: it outlives processes, and another one begins when the
	// machine does. At most [MaxBoot] bytes; empty: that is not known.
	Boot() string
}

// MaxBoot bounds [FS.Boot].
const MaxBoot = 64

// File is an open file. ReadAt and WriteAt may be called concurrently.
type File interface {
	ReadAt(p []byte, off int64) (int, error)
	WriteAt(p []byte, off int64) (int, error)
	// WritevAt writes the buffers one after another from off on, as one call where the system can.
	WritevAt(bufs [][]byte, off int64) (int64, error)
	// Allocate makes sure that [off, off+length) has blocks on disk and reads as zero where nothing was written. With
	// ErrNoSpace nothing has changed.
	Allocate(off, length int64) error
	Truncate(size int64) error
	Size() (int64, error)
	// Sync makes the file's bytes and size durable (fdatasync).
	Sync() error
	// WriteSync is WritevAt, and makes what it writes durable, as one call where the system can. What was written before may need a
	// Sync of its own. After an error nothing is known of either.
	WriteSync(bufs [][]byte, off int64) error
	// SetDirect asks that what is written and read through this handle from now on goes to the disk, and comes from it, without a
	// copy in the system's cache, and reports whether it does; if not, nothing has changed. The offset of each write and read, and length and memory of
	// each of its buffers must then be multiples of [DirectUnit]; the file may end in the middle of what is read. What is written is durable
	// after Sync, as ever: the disk has a cache of its own. A system that agrees and refuses a write or a read all the same gets that
	// one and those after it through its cache.
	SetDirect() bool
	// WriteCached is WritevAt through the system's cache, where SetDirect was agreed to as well: of any length, at any place. The two may
	// follow each other in the same unit.
	WriteCached(bufs [][]byte, off int64) (int64, error)
	Close() error
}

// DirectUnit is what direct writes come in: the block of the file systems in use, and a multiple of any disk's sector.
const DirectUnit = 4096

// Aligned makes n bytes (a multiple of DirectUnit) that can be written directly.
func Aligned(n int) []byte {
	b := make([]byte, n+DirectUnit-1)
	at := int(-uintptr(unsafe.Pointer(unsafe.SliceData(b))) & (DirectUnit - 1)) // the collector does not move what it allocates
	return b[at : at+n : at+n]
}

// unclearedFrom is the size from which clearing memory costs more than a detour.
const unclearedFrom = 4 << 10

// Uncleared makes n bytes to read into: there may be anything in them. Package strings knows memory that is not cleared, and nobody
// else has the string.
func Uncleared(n int) []byte {
	if n < unclearedFrom {
		return make([]byte, n)
	}
	var b strings.Builder
	b.Grow(n)
	_ = b.WriteByte(0) // never fails
	return unsafe.Slice(unsafe.StringData(b.String()), n)
}

// AlignedUncleared is Aligned for bytes to read into: there may be anything in them.
func AlignedUncleared(n int) []byte {
	b := Uncleared(n + DirectUnit - 1)
	at := int(-uintptr(unsafe.Pointer(unsafe.SliceData(b))) & (DirectUnit - 1))
	return b[at : at+n : at+n]
}

// aligned reports whether a write or a read may be direct.
func aligned(bufs [][]byte, off int64) bool {
	for _, b := range bufs {
		if len(b)&(DirectUnit-1) != 0 || uintptr(unsafe.Pointer(unsafe.SliceData(b)))&(DirectUnit-1) != 0 {
			return false
		}
	}
	return off&(DirectUnit-1) == 0
}

// after is bufs without the first n bytes.
func after(bufs [][]byte, n int64) [][]byte {
	for len(bufs) > 0 && n >= int64(len(bufs[0])) {
		n -= int64(len(bufs[0]))
		bufs = bufs[1:]
	}
	if n == 0 || len(bufs) == 0 {
		return bufs
	}
	bufs = slices.Clone(bufs)
	bufs[0] = bufs[0][n:]
	return bufs
}

// lengthOf is how long bufs are together.
func lengthOf(bufs [][]byte) (n int64) {
	for _, b := range bufs {
		n += int64(len(b))
	}
	return n
}

// Forget tells the system that it need not keep a part of a file in memory: before a read that shall come from the disk itself,
// or after one that nobody will repeat. Advice: where it means nothing, nothing happens.
func Forget(f File, off, length int64) {
	if o, ok := f.(*osFile); ok && length > 0 {
		o.forget(off, length)
	}
}

// NextData is where at or after off a file may hold anything but zeros, or where it ends: what was laid out and never written need not
// be read. A system that cannot tell, or another file system's File, says off.
func NextData(f File, off int64) int64 {
	if o, ok := f.(*osFile); ok {
		return o.nextData(off)
	}
	return off
}

package segment

import (
	"bytes"
	"fmt"
	"path/filepath"
	"testing"

	"github.com/balsamq/balsa/internal/vfs"
	"github.com/balsamq/balsa/raft"
)

// indirect is a file system that knows no direct writes.
type indirect struct{ vfs.FS }

type indirectFile struct{ vfs.File }

func (f indirect) Create(name string) (vfs.File, error) { return f.wrap(f.FS.Create(name)) }
func (f indirect) Open(name string) (vfs.File, error)   { return f.wrap(f.FS.Open(name)) }

func (indirect) wrap(f vfs.File, err error) (vfs.File, error) {
	if err != nil {
		return nil, err
	}
	return indirectFile{f}, nil
}

func (indirectFile) SetDirect() bool { return false }

// Direct writes leave the same bytes as others: on the real disk, on the simulated one, and where they are not to be had. Blocks end
// anywhere, some are larger than a direct write, and the log is closed and opened in between.
func TestDirectWritesTheSame(t *testing.T) {
	sizes := []int{1, 200, 3000, 4096, 9000, 70_000, 1, directBytes - 50, directBytes, 2*directBytes + 77, 300}
	fill := func(f vfs.FS, dir string, o Options) (files map[string][]byte) {
		t.Helper()
		o.SegmentBytes = 4 << 20
		next := raft.Index(1)
		for round, size := range sizes {
			l := mustOpenAt(t, f, dir, o)
			if round > 0 && l.LastIndex() != next-1 {
				t.Fatalf("opened at %d, wrote up to %d: %+v", l.LastIndex(), next-1, l.Recovery())
			}
			for range 3 {
				es := records(l, 1, next, 1, size)
				mustAppend(t, l, 1, es)
				mustSync(t, l)
				got, err := l.Entries(next, next+1, 1<<30)
				if err != nil || !bytes.Equal(got[0].Frame, es[0].Frame) {
					t.Fatalf("entry %d: %v", next, err)
				}
				next++
			}
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
		}
		l := mustOpenAt(t, f, dir, o)
		defer l.Close()
		if batches, err := l.ReadOffsets(0, l.LastIndex(), 1<<30); err != nil || len(batches) != 3*len(sizes) {
			t.Fatalf("%d batches, %v", len(batches), err)
		}
		files = make(map[string][]byte)
		for _, s := range l.segs {
			file, err := f.Open(filepath.Join(dir, s.name))
			if err != nil {
				t.Fatal(err)
			}
			b := make([]byte, s.size)
			if n, err := file.ReadAt(b, 0); n < len(b) {
				t.Fatal(n, err)
			}
			files[s.name] = b
			if err := file.Close(); err != nil {
				t.Fatal(err)
			}
		}
		return files
	}
	want := fill(vfs.NewMem(1), "data/group", Options{})
	if len(want) < 2 {
		t.Fatalf("%d files: none was rolled", len(want))
	}
	for name, got := range map[string]map[string][]byte{
		"mem":            fill(vfs.NewMem(1), "data/group", Options{Direct: true}),
		"mem, zeroed":    fill(vfs.NewMem(1), "data/group", Options{Direct: true, ZeroAhead: 10_000}),
		"disk":           fill(vfs.OS(), t.TempDir(), Options{Direct: true, ZeroAhead: 128 << 10}),
		"disk, buffered": fill(vfs.OS(), t.TempDir(), Options{ZeroAhead: 128 << 10}),
		"refused":        fill(indirect{vfs.OS()}, t.TempDir(), Options{Direct: true}),
	} {
		if len(got) != len(want) {
			t.Errorf("%s: %d files, want %d", name, len(got), len(want))
		}
		for file, b := range want {
			if !bytes.Equal(got[file], b) {
				t.Errorf("%s: %s has other bytes", name, file)
			}
		}
	}
}

// What takes several direct writes is as durable as what takes one.
func TestLargeDirectWritesAreDurable(t *testing.T) {
	for seed := range uint64(8) {
		m := vfs.NewMem(seed)
		o := Options{Direct: true, ZeroAhead: 8192}
		l := mustOpen(t, m, o)
		next := raft.Index(1)
		for _, size := range []int{100, directBytes - 500, directBytes + 5000, 300, 2*directBytes + 77, 2000} {
			mustAppend(t, l, 1, records(l, 1, next, 1, size))
			mustSync(t, l)
			found := mustOpen(t, m.CrashClone(nil), o)
			if found.LastIndex() != next || found.Recovery().Corrupt {
				t.Fatalf("seed %d: %d bytes synced as entry %d, reopened at %d: %+v", seed, size, next, found.LastIndex(), found.Recovery())
			}
			if _, err := found.Entries(1, next+1, 1<<30); err != nil {
				t.Fatal(err)
			}
			next++
		}
	}
}

// Zeros go ahead of what is written by no more than the file has: an idle log stays small.
func TestZeroAheadIsBounded(t *testing.T) {
	for _, direct := range []bool{false, true} {
		m := vfs.NewMem(1)
		written := make(map[int64]bool) // units
		watched := watch{m, func(off int64, n int) {
			for at := unitBelow(off); at < off+int64(n); at += vfs.DirectUnit {
				written[at] = true
			}
		}}
		l := mustOpen(t, watched, Options{Direct: direct, ZeroAhead: 128 << 10, FirstExtent: 1 << 20, MaxExtent: 1 << 20})
		for i := range 40 {
			mustAppend(t, l, 1, records(l, 1, raft.Index(i+1), 1, 1000))
			mustSync(t, l)
			if have, most := int64(len(written))*vfs.DirectUnit, 2*unitAbove(l.w.pos)+vfs.DirectUnit; have > most {
				t.Fatalf("direct=%v: %d bytes written of a file with %d", direct, have, l.w.pos)
			}
		}
		if l.w.zeroed <= l.w.pos {
			t.Errorf("direct=%v: nothing is zeroed ahead of %d", direct, l.w.pos)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// watch reports what is written.
type watch struct {
	vfs.FS
	wrote func(off int64, n int)
}

type watchedFile struct {
	vfs.File
	w watch
}

func (f watch) Create(name string) (vfs.File, error) {
	file, err := f.FS.Create(name)
	return watchedFile{file, f}, err
}

func (f watchedFile) WriteAt(p []byte, off int64) (int, error) {
	f.w.wrote(off, len(p))
	return f.File.WriteAt(p, off)
}

func (f watchedFile) WriteSync(p []byte, off int64) error {
	f.w.wrote(off, len(p))
	return f.File.WriteSync(p, off)
}

func (f watchedFile) WritevAt(bufs [][]byte, off int64) (int64, error) {
	n, err := f.File.WritevAt(bufs, off)
	f.w.wrote(off, int(n))
	return n, err
}

func BenchmarkSyncDirect(b *testing.B) {
	for _, direct := range []bool{false, true} {
		for _, size := range []int{1 << 10, 64 << 10, 1 << 20} {
			b.Run(fmt.Sprintf("direct=%v/bytes=%d", direct, size), func(b *testing.B) {
				benchmarkSync(b, Options{Direct: direct, ZeroAhead: 128 << 10, SegmentBytes: 256 << 20}, 1, size)
			})
		}
	}
}

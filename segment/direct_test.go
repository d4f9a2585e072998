package segment

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
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

// A direct write and its sync are one call, and whether it was the disk's room that either lacked is not told apart: the log goes on in a
// new file, and neither what was durable before nor what comes after depends on what became of the failed one.
func TestDirectWriteWithoutSpaceLosesNothing(t *testing.T) {
	for seed := range uint64(40) {
		rng := rand.New(rand.NewPCG(seed, 7))
		m := vfs.NewMem(seed)
		fail := false
		f := vfs.Inject(m, func(op vfs.Op, name string) error {
			if !fail || op != vfs.OpSync {
				return nil
			}
			if err := m.FailSync(name, rng); err != nil {
				t.Fatal(err)
			}
			return vfs.ErrNoSpace
		})
		o := Options{Direct: true, ZeroAhead: 8192, SegmentBytes: 64 << 10}
		l := mustOpen(t, f, o)
		next, durable := raft.Index(1), raft.Index(0)
		for range 40 {
			n := 1 + rng.IntN(3)
			mustAppend(t, l, 1, records(l, 1, next, n, 1+rng.IntN(6000)))
			next += raft.Index(n)
			fail = rng.IntN(3) == 0
			_, err := l.Sync()
			switch {
			case err == nil:
				durable = next - 1
			case !fail:
				t.Fatalf("seed %d: %v", seed, err)
			case errors.Is(err, ErrFailed): // a sync of its own
				fail = false
				_ = l.Close()
				l = mustOpen(t, f, o)
				if l.LastIndex() < durable || l.LastIndex() >= next || l.Recovery().Corrupt {
					t.Fatalf("seed %d: %d were synced and up to %d written, reopened at %d: %+v", seed, durable, next-1, l.LastIndex(), l.Recovery())
				}
				durable, next = l.LastIndex(), l.LastIndex()+1
			}
			fail = false
			if durable != l.SyncedIndex() {
				t.Fatalf("seed %d: synced up to %d, want %d", seed, l.SyncedIndex(), durable)
			}
			found := mustOpen(t, m.CrashClone(rng), o)
			if found.LastIndex() < durable || found.LastIndex() >= next || found.Recovery().Corrupt {
				t.Fatalf("seed %d: %d were synced and up to %d written, reopened at %d: %+v", seed, durable, next-1, found.LastIndex(), found.Recovery())
			}
			if durable > 0 {
				if _, err := found.Entries(1, durable+1, 1<<30); err != nil {
					t.Fatalf("seed %d: %v", seed, err)
				}
			}
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

func (f watchedFile) WriteSync(bufs [][]byte, off int64) error {
	for at, b := off, bufs; len(b) > 0; at, b = at+int64(len(b[0])), b[1:] {
		f.w.wrote(at, len(b[0]))
	}
	return f.File.WriteSync(bufs, off)
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

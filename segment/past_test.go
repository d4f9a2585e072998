// Reads past the page cache, into lent memory. All tests of this package have it spoilt when it is given back, and lend and read directly
// whatever the size.

package segment

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"path"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/balsamq/balsa/internal/vfs"
	"github.com/balsamq/balsa/protocol"
	"github.com/balsamq/balsa/raft"
)

func init() {
	SpoilLent()
	lendFrom, leastPast = 1, 1
}

func TestLentClasses(t *testing.T) {
	last := -1
	for n := 1; n <= mostLent; n += 1 + n/1000 {
		class, size := lentClass(n)
		if class < last || class > last+1 || class >= lentClasses || size < n {
			t.Fatalf("%d bytes are of class %d, %d bytes, after class %d", n, class, size, last)
		}
		if same, again := lentClass(size); same != class || again != size {
			t.Fatalf("memory of class %d would be given back to %d", class, same)
		}
		last = class
	}
	if _, size := lentClass(mostLent); last != lentClasses-1 || size != mostLent {
		t.Fatalf("the largest is of class %d, %d bytes", last, size)
	}
}

// What is read into lent memory is what is read otherwise, from any offset, with any limit, across files, with frames larger than any
// piece that is lent; and it is spoilt once it is given back.
func TestLentReads(t *testing.T) {
	for name, f := range map[string]vfs.FS{"disk": vfs.OS(), "mem": vfs.NewMem(1), "refused": indirect{vfs.OS()}} {
		t.Run(name, func(t *testing.T) {
			dir := testDir
			if name != "mem" {
				dir = t.TempDir()
			}
			l := mustOpenAt(t, f, dir, Options{SegmentBytes: 3 << 20, Cache: NewCache(0), Direct: true})
			defer l.Close()
			rng := rand.New(rand.NewPCG(1, 2))
			next := raft.Index(1)
			for _, size := range []int{100, 70_000, 1 << 20, 3, 4000, mostLent - 4096, mostLent, 5 << 20, 1, 1, 300_000} {
				n := 1 + rng.IntN(2)
				mustAppend(t, l, 1, records(l, 1, next, n, size))
				mustSync(t, l)
				next += raft.Index(n)
			}
			var loan Loan
			for range 30 {
				from, maxBytes := Offset(rng.Int64N(int64(l.NextOffset()))), rng.IntN(8<<20)
				want, err := l.ReadOffsets(from, l.LastIndex(), maxBytes)
				if err != nil {
					t.Fatal(err)
				}
				got, err := l.ReadLent(from, l.LastIndex(), maxBytes, &loan)
				if err != nil || len(got) != len(want) {
					t.Fatalf("from %d, %d bytes: %d batches, %v; want %d", from, maxBytes, len(got), err, len(want))
				}
				bytesRead := 0
				for i := range want {
					if !bytes.Equal(got[i], want[i]) {
						t.Fatalf("from %d, %d bytes: batch %d differs", from, maxBytes, i)
					}
					bytesRead += len(want[i])
				}
				if len(got) > 0 && loan.Size() < bytesRead || loan.Size() > 2*bytesRead+2*(maxBytes+len(want[0]))+(1<<20) {
					t.Fatalf("from %d, %d bytes: %d are lent for %d", from, maxBytes, loan.Size(), bytesRead)
				}
				loan.Return()
				if loan.Size() != 0 || len(got) > 0 && bytes.Equal(got[0], want[0]) {
					t.Fatalf("from %d: nothing was given back", from)
				}
			}
		})
	}
}

// counted counts the files that are read past the cache, and otherwise.
type counted struct {
	vfs.FS
	direct, all atomic.Int64
}

type countedFile struct {
	vfs.File
	fs *counted
}

func (c *counted) Open(name string) (vfs.File, error) {
	f, err := c.FS.Open(name)
	if err != nil {
		return nil, err
	}
	c.all.Add(1)
	return countedFile{f, c}, nil
}

func (f countedFile) SetDirect() bool {
	f.fs.direct.Add(1)
	return f.File.SetDirect()
}

// Who reads on reads past the cache. Where something is read again, that log is read through it for a while, by those ahead, too: they
// fill it for those behind.
func TestPastCache(t *testing.T) {
	keepOnward(t, time.Hour)
	defer func(n int64) { sharedReads = n }(sharedReads)
	sharedReads = 4 << 20
	f := &counted{FS: vfs.NewMem(1)}
	l := mustOpen(t, f, Options{SegmentBytes: 1 << 20, IndexBytes: 4 << 10, Cache: NewCache(0), Direct: true})
	defer l.Close()
	const size, step = 20_000, 100_000
	for i := range raft.Index(3 * sharedReads / size) {
		mustAppend(t, l, 1, records(l, 1, i+1, 1, size))
		mustSync(t, l)
	}
	var loan Loan
	read := func(from Offset) (next Offset, direct bool) { // some of it
		t.Helper()
		f.all.Store(0)
		f.direct.Store(0)
		batches, err := l.ReadLent(from, l.LastIndex(), step, &loan)
		if err != nil || len(batches) == 0 {
			t.Fatal(len(batches), err)
		}
		next = Offset(protocol.Batch(batches[len(batches)-1]).NextOffset())
		loan.Return()
		l.onward.wg.Wait()
		return next, f.direct.Load() == f.all.Load()
	}
	ahead, behind, direct := Offset(0), Offset(0), false
	for ahead < 100 {
		if ahead, direct = read(ahead); !direct {
			t.Fatalf("up to %d the first reader goes through the cache", ahead)
		}
	}
	if behind, direct = read(behind); direct {
		t.Fatal("what was read before is read past the cache")
	}
	if ahead, direct = read(ahead); !direct {
		t.Fatal("what has been read already is read again")
	}
	through := int64(0)
	for {
		from := ahead
		if ahead, direct = read(from); direct {
			break
		}
		through += int64(ahead-from) / 2 * size
	}
	if through < sharedReads*9/10 || through > sharedReads*11/10 {
		t.Fatalf("%d bytes were read through the cache, want %d", through, sharedReads)
	}
	if _, direct = read(behind); direct {
		t.Fatal("what was read before is read past the cache")
	}
	ahead, _ = read(ahead) // what has been read already
	if _, direct = read(ahead); direct {
		t.Fatal("after that the reader ahead goes past the cache")
	}
}

// Small reads, and those of logs that are not written directly, go through the cache; and small ones take memory of their own.
func TestPastCacheNot(t *testing.T) {
	f := &counted{FS: vfs.NewMem(1)}
	o := Options{Cache: NewCache(0), Direct: true}
	l := mustOpen(t, f, o)
	mustAppend(t, l, 1, records(l, 1, 1, 10, 1000))
	mustSync(t, l)
	from, least := lendFrom, leastPast
	defer func() { lendFrom, leastPast = from, least }()
	lendFrom, leastPast = leastLent, leastPast*(256<<10)
	var loan Loan
	f.direct.Store(0)
	if got, err := l.ReadLent(0, 10, 1<<20, &loan); err != nil || len(got) != 10 || loan.Size() != 0 || f.direct.Load() != 0 {
		t.Fatalf("%d batches, %v; %d bytes lent, %d files direct", len(got), err, loan.Size(), f.direct.Load())
	}
	leastPast = 1
	if got, err := l.ReadLent(0, 10, 1<<20, &loan); err != nil || len(got) != 10 || f.direct.Load() != 1 {
		t.Fatalf("%d batches, %v; %d files direct", len(got), err, f.direct.Load())
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	o.Direct = false
	l = mustOpen(t, f, o)
	defer l.Close()
	f.direct.Store(0)
	if got, err := l.ReadLent(0, 10, 1<<20, &loan); err != nil || len(got) != 10 || f.direct.Load() != 0 {
		t.Fatalf("%d batches, %v; %d files direct", len(got), err, f.direct.Load())
	}
}

// A flipped bit anywhere in what is read directly is damage, or lies behind what was handed out; nothing is handed out that is not as it was
// written.
func TestLentDamage(t *testing.T) {
	m := vfs.NewMem(1)
	l := mustOpen(t, m, Options{Cache: NewCache(0), Direct: true})
	for i := range raft.Index(8) {
		mustAppend(t, l, 1, records(l, 1, i+1, 1, 3000))
		mustSync(t, l)
	}
	want, err := l.ReadOffsets(0, 8, 1<<20)
	if err != nil || len(want) != 8 {
		t.Fatal(len(want), err)
	}
	s := l.segs[0]
	name, size := path.Join(testDir, s.name), s.size
	var loan Loan
	for at := s.index[0].pos; at < size; at += 97 {
		damaged := m.CrashClone(nil)
		x := mustOpen(t, damaged, Options{Cache: NewCache(0), Direct: true})
		f, err := damaged.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		var b [1]byte
		if _, err := f.ReadAt(b[:], at); err != nil {
			t.Fatal(err)
		}
		overwrite(t, damaged, name, at, []byte{b[0] ^ 0x10})
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		for _, maxBytes := range []int{1, 10_000, 1 << 20} {
			got, err := x.ReadLent(0, 8, maxBytes, &loan)
			if err != nil && !errors.Is(err, ErrCorrupt) || err == nil && maxBytes == 1<<20 {
				t.Fatalf("bit at %d, %d bytes: %d batches, %v", at, maxBytes, len(got), err)
			}
			for i := range got {
				if !bytes.Equal(got[i], want[i]) {
					t.Fatalf("bit at %d, %d bytes: batch %d is handed out damaged", at, maxBytes, i)
				}
			}
			loan.Return()
		}
		_ = x.Close() // it may say what it has met
	}
}

// Many readers of a growing log borrow and give back, each at its own pace, while its files are cut off in front of them. Run with -race.
func TestLentConcurrently(t *testing.T) {
	l := mustOpenAt(t, vfs.OS(), t.TempDir(), Options{SegmentBytes: 256 << 10, Cache: NewCache(64 << 10), Direct: true})
	defer l.Close()
	const rounds, each = 40, 4
	var sums sync.Map // of batches, by their offset
	var done atomic.Bool
	var wg sync.WaitGroup
	for k := range 3 {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(k), 1))
			var held [3]Loan // answers on their way to a slow reader
			var batches [3][][]byte
			at := Offset(0)
			check := func(i int) {
				for _, b := range batches[i] {
					if sum, ok := sums.Load(binary.BigEndian.Uint64(b)); !ok || sum != crc32.Checksum(b, castagnoli) {
						t.Errorf("batch at %d is not what was written", binary.BigEndian.Uint64(b))
					}
				}
				held[i].Return()
				batches[i] = nil
			}
			for turn := 0; !done.Load() || at < l.NextOffset(); turn++ {
				i := turn % len(held)
				check(i)
				var err error
				batches[i], err = l.ReadLent(at, l.LastIndex(), rng.IntN(300_000), &held[i])
				switch {
				case errors.Is(err, ErrOffsetOutOfRange) || errors.Is(err, raft.ErrCompacted):
					at = max(at, l.StartOffset())
				case err != nil:
					t.Errorf("read at %d: %v", at, err)
					return
				case len(batches[i]) == 0:
					runtime.Gosched() // it has all that there is
				default:
					at = Offset(protocol.Batch(batches[i][len(batches[i])-1]).NextOffset())
				}
				if rng.IntN(50) == 0 {
					at = l.StartOffset()
				}
			}
			for i := range held {
				check(i)
			}
		})
	}
	rng := rand.New(rand.NewPCG(9, 9))
	for i := range rounds {
		es := records(l, 1, raft.Index(i*each+1), each, rng.IntN(60_000))
		for _, e := range es {
			sums.Store(binary.BigEndian.Uint64(e.Payload), crc32.Checksum(e.Payload, castagnoli))
		}
		mustAppend(t, l, 1, es)
		mustSync(t, l)
		if i%10 == 9 {
			cut := l.FirstIndex() + (l.LastIndex()-l.FirstIndex())/2
			data, err := l.EncodeSnapshot(cut, nil)
			if err == nil {
				err = l.SaveSnapshot(raft.SnapshotMeta{Index: cut, Term: 1}, data)
			}
			if err == nil {
				err = l.TruncatePrefix(cut)
			}
			if err != nil {
				t.Error(fmt.Errorf("cut at %d: %w", cut, err))
				break
			}
		}
	}
	done.Store(true)
	wg.Wait()
}

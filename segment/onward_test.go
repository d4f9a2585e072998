// Pieces that are read ahead of consumers.

package segment

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"path"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/balsamq/balsa/internal/vfs"
	"github.com/balsamq/balsa/protocol"
	"github.com/balsamq/balsa/raft"
)

// onwardLog is a log of n entries in files of 1 MiB, all of them on the disk only.
func onwardLog(t *testing.T, f vfs.FS, n int) *Log {
	t.Helper()
	l := mustOpen(t, f, Options{SegmentBytes: 1 << 20, IndexBytes: 4 << 10, Cache: NewCache(0), Direct: true})
	for i := range raft.Index(n) {
		mustAppend(t, l, 1, records(l, 1, i+1, 1, onwardSize))
		mustSync(t, l)
	}
	return l
}

const (
	onwardSize = 20_000
	onwardStep = 100_000
)

// reads reads some of l from offset from on, and checks it.
func reads(t *testing.T, l *Log, from Offset) (next Offset) {
	t.Helper()
	var loan Loan
	got, err := l.ReadLent(from, l.LastIndex(), onwardStep, &loan)
	want, err2 := l.ReadOffsets(from, l.LastIndex(), onwardStep)
	if err != nil || err2 != nil || len(got) != len(want) || len(got) == 0 {
		t.Fatalf("from %d: %d batches, %v; want %d, %v", from, len(got), err, len(want), err2)
	}
	for i := range got {
		if !bytes.Equal(got[i], want[i]) {
			t.Fatalf("from %d: batch %d differs", from, i)
		}
	}
	next = Offset(protocol.Batch(got[len(got)-1]).NextOffset())
	loan.Return()
	return next
}

// pieceFor is what has been read ahead in l, and for whom.
func pieceFor(l *Log) (next Offset, size int64) {
	l.onward.wg.Wait()
	l.onward.mu.Lock()
	defer l.onward.mu.Unlock()
	if l.onward.next != nil {
		next = l.onward.next.offset
	}
	return next, l.opt.Cache.onward.Load()
}

// keepOnward has pieces of any size read ahead, and kept for so long, until the test is over.
func keepOnward(t *testing.T, d time.Duration) {
	old, least := onwardKept, leastOnward
	onwardKept, leastOnward = d, 1
	t.Cleanup(func() { onwardKept, leastOnward = old, least })
}

// becomes waits until it is so.
func becomes(t *testing.T, what string, so func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !so(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within a minute: %s", what)
		}
	}
}

// Nothing is read ahead for a reader that comes once; who has come back finds the next piece, through all files; and when it has read all, or the log is
// closed, nothing is left.
func TestOnward(t *testing.T) {
	keepOnward(t, time.Hour)
	l := onwardLog(t, vfs.NewMem(1), 200)
	at := reads(t, l, 20)
	if next, size := pieceFor(l); next != 0 || size != 0 {
		t.Fatalf("%d bytes are read for %d, who has not come back yet", size, next)
	}
	found := 0
	for at < l.NextOffset() {
		before := at
		at = reads(t, l, at)
		if next, size := pieceFor(l); next == at && size > 0 {
			found++
		} else if next != 0 || size != 0 {
			t.Fatalf("who came from %d and goes on at %d finds %d bytes for %d", before, at, size, next)
		}
	}
	if pieces := 180 * onwardSize / onwardStep; found < pieces/2 {
		t.Fatalf("%d of about %d pieces were read ahead", found, pieces)
	}
	if next, size := pieceFor(l); next != 0 || size != 0 {
		t.Fatalf("at the end %d bytes are there for %d", size, next)
	}
	reads(t, l, reads(t, l, 0)) // through the cache: they were read before
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if size := l.opt.Cache.onward.Load(); size != 0 {
		t.Fatalf("%d bytes are left of a closed log", size)
	}
}

// Who does not come back, whatever the reason, costs its memory for a moment.
func TestOnwardIsGivenBack(t *testing.T) {
	keepOnward(t, time.Hour)
	l := onwardLog(t, vfs.NewMem(1), 100)
	defer l.Close()
	at := reads(t, l, reads(t, l, 20))
	if next, size := pieceFor(l); next != at || size == 0 {
		t.Fatalf("%d bytes are there for %d", size, next)
	}
	keepOnward(t, time.Millisecond)
	at = reads(t, l, at)
	becomes(t, "nothing is held", func() bool { _, size := pieceFor(l); return size == 0 })
	keepOnward(t, time.Hour)
	at = reads(t, l, at)
	_, size := pieceFor(l)
	if size == 0 {
		t.Fatal("nothing is read ahead for who comes late")
	}
	// Another one, further on, takes the place when it comes back.
	other := reads(t, l, reads(t, l, at+40))
	if next, now := pieceFor(l); next != other || now != size {
		t.Fatalf("%d bytes are there for %d, want %d for %d", now, next, size, other)
	}
}

// All logs of a cache hold no more than they may; with that much held nothing more is read ahead, and reads go on.
func TestOnwardIsBounded(t *testing.T) {
	keepOnward(t, time.Hour)
	l := onwardLog(t, vfs.NewMem(1), 60)
	defer l.Close()
	l.opt.Cache.onward.Add(onwardBytes)
	at := reads(t, l, reads(t, l, 20))
	if next, size := pieceFor(l); next != 0 || size != onwardBytes {
		t.Fatalf("%d bytes are there for %d", size-onwardBytes, next)
	}
	l.opt.Cache.onward.Add(-onwardBytes)
	if at = reads(t, l, at); l.opt.Cache.onward.Load() == 0 {
		t.Fatal("nothing is read ahead where there is room again")
	}
	if next, _ := pieceFor(l); next != at {
		t.Fatalf("it is there for %d, want %d", next, at)
	}
}

// What was read ahead is checked when it is handed out: damage in it is told, and reported, as any other.
func TestOnwardDamage(t *testing.T) {
	keepOnward(t, time.Hour)
	m := vfs.NewMem(1)
	l := onwardLog(t, m, 40)
	defer l.Close()
	at := reads(t, l, 4)
	// The piece after the next one; both are on the disk only.
	s := l.segs[0]
	hit := s.index[len(s.index)-1]
	overwrite(t, m, path.Join(testDir, s.name), hit.pos+FrameHeaderSize+100, []byte{0xff, 0, 0xff, 0})
	var loan Loan
	defer loan.Return()
	for ahead := false; ; {
		got, err := l.ReadLent(at, l.LastIndex(), onwardStep, &loan)
		if len(got) > 0 {
			at = Offset(protocol.Batch(got[len(got)-1]).NextOffset())
		}
		if at > hit.base {
			t.Fatalf("read up to %d over damage at %d", at, hit.base)
		}
		if err != nil {
			if !errors.Is(err, ErrCorrupt) || !ahead {
				t.Fatalf("%v, read ahead %v", err, ahead)
			}
			break
		}
		next, _ := pieceFor(l)
		ahead = next == at
		loan.Return()
	}
	if l.Health().ReadErr == nil {
		t.Fatal("nobody has been told")
	}
}

// A piece of what retention takes away, of an end that is cut off, or of a file that is gone is not handed out as something else.
func TestOnwardIsOvertaken(t *testing.T) {
	keepOnward(t, time.Hour)
	ready := func(t *testing.T) (*Log, Offset) {
		l := onwardLog(t, vfs.NewMem(1), 80)
		t.Cleanup(func() { _ = l.Close() })
		at := reads(t, l, reads(t, l, 20))
		if next, size := pieceFor(l); next != at || size == 0 {
			t.Fatalf("%d bytes are there for %d", size, next)
		}
		return l, at
	}
	var loan Loan
	t.Run("cut", func(t *testing.T) {
		l, at := ready(t)
		// The entries from the second one of the piece on are replaced by others, of another term.
		from := l.onward.next.index + 1
		mustAppend(t, l, 2, records(l, 2, from, 30, onwardSize))
		mustSync(t, l)
		if next := reads(t, l, at); next <= at {
			t.Fatal(next)
		}
	})
	t.Run("cut whole", func(t *testing.T) {
		l, at := ready(t)
		from := l.onward.next.index
		mustAppend(t, l, 2, records(l, 2, from, 30, onwardSize))
		mustSync(t, l)
		reads(t, l, at)
		loan.Return()
	})
	t.Run("shorter", func(t *testing.T) {
		l, at := ready(t)
		from := l.onward.next.index - 1
		mustAppend(t, l, 2, records(l, 2, from, 1, onwardSize))
		mustSync(t, l)
		if at > l.NextOffset() {
			t.Skip("the offset is gone")
		}
		if got, err := l.ReadLent(at, l.LastIndex(), onwardStep, &loan); err != nil || len(got) != 0 {
			t.Fatal(len(got), err)
		}
		loan.Return()
	})
	t.Run("other places", func(t *testing.T) {
		l, at := ready(t)
		// What the piece is for is in an entry before it now.
		from := l.onward.next.index - 3
		base, err := l.OffsetAfter(from - 1)
		if err != nil {
			t.Fatal(err)
		}
		rng, n := rand.New(rand.NewPCG(1, 1)), uint32(at-base)+2
		for i := range raft.Index(8) {
			e := raft.Entry{Term: 2, Index: from + i, Type: raft.EntryRecords}
			e.Payload = testBatch(rng, base, n, 1, onwardSize)
			AppendFrame(nil, l.group, &e, base, n)
			base += Offset(n)
			mustAppend(t, l, 2, []raft.Entry{e})
		}
		mustSync(t, l)
		if next := reads(t, l, at); next <= at {
			t.Fatal(next)
		}
	})
	t.Run("retention", func(t *testing.T) {
		l, at := ready(t)
		cut := l.LastIndex() - 10
		data, err := l.EncodeSnapshot(cut, nil)
		if err == nil {
			err = l.SaveSnapshot(raft.SnapshotMeta{Index: cut, Term: 1}, data)
		}
		if err == nil {
			err = l.TruncatePrefix(cut)
		}
		if err != nil {
			t.Fatal(err)
		}
		if got, err := l.ReadLent(at, l.LastIndex(), onwardStep, &loan); !errors.Is(err, ErrOffsetOutOfRange) {
			t.Fatal(len(got), err)
		}
		loan.Return()
		reads(t, l, l.StartOffset())
	})
}

// slowDisk has reads wait until they may go on.
type slowDisk struct {
	vfs.FS
	gate    atomic.Pointer[sync.RWMutex]
	waiting atomic.Int32
}

type slowFile struct {
	vfs.File
	d *slowDisk
}

func (d *slowDisk) Open(name string) (vfs.File, error) {
	f, err := d.FS.Open(name)
	if err != nil {
		return nil, err
	}
	return slowFile{f, d}, nil
}

func (f slowFile) ReadAt(p []byte, off int64) (int, error) {
	if g := f.d.gate.Load(); g != nil {
		f.d.waiting.Add(1)
		g.RLock()
		defer g.RUnlock()
	}
	return f.File.ReadAt(p, off)
}

// A log that is closed while a piece is being read waits for that, and keeps nothing.
func TestCloseWaitsForOnward(t *testing.T) {
	keepOnward(t, time.Hour)
	d := &slowDisk{FS: vfs.NewMem(1)}
	l := onwardLog(t, d, 80)
	at := reads(t, l, 20)
	var loan Loan
	if _, err := l.ReadLent(at, l.LastIndex(), onwardStep, &loan); err != nil {
		t.Fatal(err)
	}
	loan.Return()
	if next, _ := pieceFor(l); next == 0 {
		t.Fatal("nothing is read ahead")
	}
	var gate sync.RWMutex
	gate.Lock()
	d.gate.Store(&gate)
	// The piece that is there is taken, and the next one hangs.
	next, _ := pieceFor(l)
	if _, err := l.ReadLent(next, l.LastIndex(), onwardStep, &loan); err != nil {
		t.Fatal(err)
	}
	loan.Return()
	becomes(t, "the next piece is being read", func() bool { return d.waiting.Load() > 0 }) // one that nobody has begun to read is not read at all
	closed := make(chan error)
	go func() { closed <- l.Close() }()
	becomes(t, "the piece is given up", func() bool {
		l.onward.mu.Lock()
		defer l.onward.mu.Unlock()
		return l.onward.closed
	})
	select {
	case err := <-closed:
		t.Fatal("closed while a piece is being read:", err)
	default:
	}
	gate.Unlock()
	if err := <-closed; err != nil {
		t.Fatal(err)
	}
	if size := l.opt.Cache.onward.Load(); size != 0 {
		t.Fatalf("%d bytes are left", size)
	}
}

// tallied counts the bytes that are read from files.
type tallied struct {
	vfs.FS
	bytes atomic.Int64
}

type talliedFile struct {
	vfs.File
	fs *tallied
}

func (c *tallied) Open(name string) (vfs.File, error) {
	f, err := c.FS.Open(name)
	if err != nil {
		return nil, err
	}
	return talliedFile{f, c}, nil
}

func (f talliedFile) ReadAt(p []byte, off int64) (int, error) {
	f.fs.bytes.Add(int64(len(p)))
	return f.File.ReadAt(p, off)
}

// What a reader has of a frame that it had no room for is not read again: the disk gives each byte once.
func TestOnwardReadsOnce(t *testing.T) {
	keepOnward(t, time.Hour)
	for _, size := range []int{700, onwardSize, 45_000} {
		f := &tallied{FS: vfs.NewMem(1)}
		l := mustOpen(t, f, Options{SegmentBytes: 64 << 20, IndexBytes: 4 << 10, Cache: NewCache(0), Direct: true})
		const all = 8 << 20
		for i := range raft.Index(all / size) {
			mustAppend(t, l, 1, records(l, 1, i+1, 1, size))
			if i%3 == 0 || size > 1000 {
				mustSync(t, l)
			}
		}
		mustSync(t, l)
		size0 := l.segs[len(l.segs)-1].size
		var loan Loan
		f.bytes.Store(0)
		for at := Offset(0); at < l.NextOffset(); {
			got, err := l.ReadLent(at, l.LastIndex(), onwardStep, &loan)
			if err != nil || len(got) == 0 {
				t.Fatal(len(got), err)
			}
			for _, b := range got {
				if first := Offset(protocol.Batch(b).BaseOffset()); first != at {
					t.Fatalf("a batch from %d on where %d was wanted", first, at)
				}
				at = Offset(protocol.Batch(b).NextOffset())
			}
			loan.Return()
			l.onward.wg.Wait()
		}
		// The first two reads are by a reader that nobody knows yet, and an answer may end behind what was read ahead for it.
		if got := f.bytes.Load(); got > size0+size0/10 {
			t.Errorf("batches of %d bytes: %d bytes were read of %d", size, got, size0)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

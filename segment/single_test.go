package segment

import (
	"errors"
	"math/rand/v2"
	"testing"

	"github.com/balsamq/balsa/internal/vfs"
	"github.com/balsamq/balsa/raft"
)

// begun opens a log with a durable entry, appends one more, and begins its Sync.
func begun(t *testing.T, f vfs.FS, buf []byte) (*Log, vfs.SyncWrite) {
	t.Helper()
	l := mustOpen(t, f, Options{Direct: true})
	mustAppend(t, l, 1, records(l, 1, l.LastIndex()+1, 1, 100))
	mustSync(t, l)
	mustAppend(t, l, 1, records(l, 1, l.LastIndex()+1, 3, 100))
	w, _, ok := l.BeginSync(buf)
	if !ok {
		t.Fatal("a small write to a file that is there cannot begin")
	}
	return l, w
}

// What is not one write to a file that is there is not begun, and costs nothing: Sync does it.
func TestBeginSyncRefuses(t *testing.T) {
	buf := vfs.Aligned(64 << 10)
	o := Options{Direct: true, SegmentBytes: 1 << 20, FirstExtent: 256 << 10}
	for _, c := range []struct {
		what  string
		o     Options
		bring func(l *Log)
	}{
		{"nothing", o, func(l *Log) { mustSync(t, l) }}, // it was the mark
		{"too much for the buffer", o, func(l *Log) { mustAppend(t, l, 1, records(l, 1, l.LastIndex()+1, 1, len(buf))) }},
		{"a new extent", o, func(l *Log) {
			for l.w.alloc-l.w.pos > reserveBytes+20_000 {
				mustAppend(t, l, 1, records(l, 1, l.LastIndex()+1, 1, 10_000))
				mustSync(t, l)
			}
			mustAppend(t, l, 1, records(l, 1, l.LastIndex()+1, 1, 20_000))
		}},
		{"a new file", o, func(l *Log) {
			for l.w.pos < 1<<20-20_000 {
				mustAppend(t, l, 1, records(l, 1, l.LastIndex()+1, 1, 10_000))
				mustSync(t, l)
			}
			mustAppend(t, l, 1, records(l, 1, l.LastIndex()+1, 1, 20_000))
		}},
		{"a new generation", o, func(l *Log) { mustAppend(t, l, 2, records(l, 2, l.LastIndex(), 1, 100)) }},
		{"a file in the page cache", Options{}, func(l *Log) { mustAppend(t, l, 1, records(l, 1, l.LastIndex()+1, 1, 100)) }},
		{"a log that somebody cleans", o, func(l *Log) {
			mustAppend(t, l, 1, records(l, 1, l.LastIndex()+1, 1, 100))
			l.io.Lock()
			t.Cleanup(l.io.Unlock)
		}},
		{"a closed log", o, func(l *Log) {
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		t.Run(c.what, func(t *testing.T) {
			l := mustOpen(t, vfs.NewMem(1), c.o)
			mustAppend(t, l, 1, records(l, 1, 1, 1, 100))
			mustSync(t, l)
			c.bring(l)
			synced, last := l.SyncedIndex(), l.LastIndex()
			if w, _, ok := l.BeginSync(buf); ok {
				t.Fatalf("it begins, with %d pieces at %d", len(w.Bufs), w.Off)
			}
			if l.io.TryLock() {
				l.io.Unlock()
				if l.SyncedIndex() != synced || l.LastIndex() != last {
					t.Errorf("synced %d of %d, was %d of %d", l.SyncedIndex(), l.LastIndex(), synced, last)
				}
			}
		})
	}
}

// Nothing is published before the second half, and a power loss then leaves what was durable before.
func TestEndSyncPublishes(t *testing.T) {
	m := vfs.NewMem(1)
	l, w := begun(t, m, vfs.Aligned(directBytes))
	if l.SyncedIndex() != 1 {
		t.Errorf("synced up to %d before the write", l.SyncedIndex())
	}
	if _, err := l.ReadOffsets(2, 4, 1<<20); err != nil {
		t.Errorf("pending entries cannot be read: %v", err)
	}
	if err := w.File.WriteSync(w.Bufs, w.Off); err != nil {
		t.Fatal(err)
	}
	if l.SyncedIndex() != 1 {
		t.Errorf("synced up to %d before it is said to be", l.SyncedIndex())
	}
	ticket, err := l.EndSync(nil)
	if err != nil || ticket != (raft.Ticket{Term: 1, Index: 4}) || l.SyncedIndex() != 4 {
		t.Errorf("%+v, %v, synced up to %d", ticket, err, l.SyncedIndex())
	}
	if found := mustOpen(t, m.CrashClone(rand.New(rand.NewPCG(1, 1))), Options{Direct: true}); found.LastIndex() != 4 {
		t.Errorf("a power loss leaves %d", found.LastIndex())
	}
}

// A mark is such a write, too; one that finds no room is no error, and one of a log that is cut meanwhile does not count.
func TestMarkInHalves(t *testing.T) {
	for _, what := range []string{"written", "no room", "cut"} {
		m := vfs.NewMem(1)
		l, w := begun(t, m, vfs.Aligned(directBytes))
		end := func(err error) {
			t.Helper()
			if err == nil {
				err = w.File.WriteSync(w.Bufs, w.Off)
			}
			if ticket, err := l.EndSync(err); err != nil || ticket.Index != 4 {
				t.Fatalf("%s: %+v, %v", what, ticket, err)
			}
		}
		end(nil)
		var ok bool
		if w, _, ok = l.BeginSync(vfs.Aligned(vfs.DirectUnit)); !ok || !l.MarkPending() {
			t.Fatal("a mark cannot begin, or is not due")
		}
		switch what {
		case "no room":
			end(vfs.ErrNoSpace)
			if !l.full || l.marked != 1 {
				t.Errorf("full %v, marked %d", l.full, l.marked)
			}
			continue
		case "cut":
			mustAppend(t, l, 2, records(l, 2, 4, 1, 50))
			end(nil)
			if l.marked != 1 {
				t.Errorf("marked %d, and cut at 4", l.marked)
			}
			continue
		}
		end(nil)
		if l.MarkPending() || l.marked != 4 {
			t.Errorf("marked %d", l.marked)
		}
		name := l.segs[0].name
		if err := m.Damage("data/group/"+name, l.w.pos-2*blockHeaderSize, []byte("rot")); err != nil { // in the last entry
			t.Fatal(err)
		}
		if found := mustOpen(t, m, Options{Direct: true}); !found.Recovery().Corrupt {
			t.Errorf("what a mark vouched for is gone, and it is no damage: %+v", found.Recovery())
		}
	}
}

// What a truncation voids between the halves is not published, and stays void, whatever is on the disk.
func TestTruncateBetweenHalves(t *testing.T) {
	for _, from := range []raft.Index{1, 2, 3, 4} {
		m := vfs.NewMem(1)
		l, w := begun(t, m, vfs.Aligned(directBytes))
		mustAppend(t, l, 2, records(l, 2, from, 1, 50))
		if err := w.File.WriteSync(w.Bufs, w.Off); err != nil {
			t.Fatal(err)
		}
		ticket, err := l.EndSync(nil)
		if err != nil || ticket.Term != 1 || l.SyncedIndex() != from-1 {
			t.Errorf("cut at %d: %+v, %v, synced up to %d", from, ticket, err, l.SyncedIndex())
		}
		if ticket := mustSync(t, l); ticket != (raft.Ticket{Term: 2, Index: from}) {
			t.Errorf("cut at %d: then %+v", from, ticket)
		}
		found := mustOpen(t, m.CrashClone(rand.New(rand.NewPCG(1, 1))), Options{Direct: true})
		if term, err := found.Term(from); err != nil || term != 2 || found.LastIndex() != from {
			t.Errorf("cut at %d: a power loss leaves %d, term %d, %v", from, found.LastIndex(), term, err)
		}
	}
}

// An error of the write ends the log, but for a full disk: what is pending then goes to a new file.
func TestEndSyncWithAnError(t *testing.T) {
	l, _ := begun(t, vfs.NewMem(1), vfs.Aligned(directBytes))
	if _, err := l.EndSync(errors.New("bad disk")); !errors.Is(err, ErrFailed) {
		t.Errorf("after an error: %v", err)
	}
	if _, err := l.Sync(); !errors.Is(err, ErrFailed) {
		t.Errorf("and then: %v", err)
	}

	m := vfs.NewMem(1)
	l, w := begun(t, m, vfs.Aligned(directBytes))
	if _, err := w.File.WriteAt(w.Bufs[0][:vfs.DirectUnit], w.Off); err != nil { // a part of it
		t.Fatal(err)
	}
	if _, err := l.EndSync(vfs.ErrNoSpace); !errors.Is(err, vfs.ErrNoSpace) || l.SyncedIndex() != 1 || l.Unsynced() == 0 {
		t.Errorf("on a full disk: %v, synced up to %d, %d bytes are pending", err, l.SyncedIndex(), l.Unsynced())
	}
	if ticket := mustSync(t, l); ticket.Index != 4 || l.Segments() != 2 {
		t.Errorf("with room again: %+v in %d files", ticket, l.Segments())
	}
	if found := mustOpen(t, m.CrashClone(rand.New(rand.NewPCG(1, 1))), Options{Direct: true}); found.LastIndex() != 4 || found.Recovery().Corrupt {
		t.Errorf("a power loss leaves %d, %+v", found.LastIndex(), found.Recovery())
	}
}

// Directed tests: each names the fault it is about.

package segment

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"math/rand/v2"
	"path"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/balsamq/balsa/internal/vfs"
	"github.com/balsamq/balsa/raft"
)

// records frames n record entries of the given term from index on, with bodies of size bytes.
func records(l *Log, term raft.Term, from raft.Index, n, size int) []raft.Entry {
	rng := rand.New(rand.NewPCG(uint64(from), uint64(term)))
	base := l.NextOffset()
	if from <= l.LastIndex() {
		base, _ = l.OffsetAfter(from - 1)
	}
	out := make([]raft.Entry, n)
	for i := range out {
		e := raft.Entry{Term: term, Index: from + raft.Index(i), Type: raft.EntryRecords}
		e.Payload = testBatch(rng, base, 2, int64(1000*e.Index), size)
		AppendFrame(nil, l.group, &e, base, 2)
		out[i] = e
		base += 2
	}
	return out
}

func mustAppend(t testing.TB, l *Log, term raft.Term, es []raft.Entry) raft.Ticket {
	t.Helper()
	tk, err := l.Append(term, es)
	if err != nil {
		t.Fatal(err)
	}
	return tk
}

func mustSync(t testing.TB, l *Log) raft.Ticket {
	t.Helper()
	tk, err := l.Sync()
	if err != nil {
		t.Fatal(err)
	}
	return tk
}

func mustOpen(t testing.TB, f vfs.FS, o Options) *Log {
	t.Helper()
	l, err := Open(f, testDir, testGroup, o)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func crash(m *vfs.Mem) *vfs.Mem { return m.CrashClone(rand.New(rand.NewPCG(1, 1))) }

func TestFrameRoundTrip(t *testing.T) {
	for _, typ := range []raft.EntryType{raft.EntryRecords, raft.EntryNoop, raft.EntryConfig, raft.EntryPrefix, raft.EntryCommand} {
		e := raft.Entry{Term: 9, Index: 1234, Type: typ, Payload: []byte("payload")}
		var n uint32
		if typ == raft.EntryRecords {
			n = 3
		}
		b := AppendFrame([]byte("before"), testGroup, &e, 55, n)
		if string(b[:6]) != "before" || !bytes.Equal(b[6:], e.Frame) || string(e.Payload) != "payload" || &e.Payload[0] != &e.Frame[FrameHeaderSize] {
			t.Fatalf("%s: frame is not what was appended", typ)
		}
		r, err := decodeFrame(testGroup, e.Frame)
		if err != nil || r.Term != 9 || r.Index != 1234 || r.Type != typ || r.base != 55 || r.records != n || string(r.Payload) != "payload" {
			t.Fatalf("%s: decoded as %+v, %v", typ, r, err)
		}
		if _, err := decodeFrame(testGroup+1, e.Frame); !errors.Is(err, ErrBadFrame) {
			t.Fatalf("%s: valid in another group: %v", typ, err)
		}
		for bit := range len(e.Frame) * 8 {
			f := bytes.Clone(e.Frame)
			f[bit/8] ^= 1 << (bit % 8)
			if _, err := decodeFrame(testGroup, f); !errors.Is(err, ErrBadFrame) {
				t.Fatalf("%s: accepted with bit %d flipped", typ, bit)
			}
		}
	}
}

// What stands in the checksums of frames and headers, whichever way it is computed.
func TestChecksumSeeds(t *testing.T) {
	for _, group := range []raft.GroupID{0, 1, testGroup, 1<<40 + 7, math.MaxUint64} {
		b := binary.LittleEndian.AppendUint64(nil, uint64(group))
		if got, want := groupSeed(group), crc32.Checksum(b, castagnoli); got != want {
			t.Fatalf("group %d: seed %#x, expected %#x", group, got, want)
		}
		e := raft.Entry{Term: 1, Index: 1, Type: raft.EntryRecords, Payload: []byte("payload")}
		AppendFrame(nil, group, &e, 0, 1)
		b = binary.LittleEndian.AppendUint32(append(b, frameVersion), uint32(len(e.Frame)))
		if got, want := binary.LittleEndian.Uint32(e.Frame[4:]), crc32.Checksum(append(b, e.Frame[8:]...), castagnoli); got != want {
			t.Fatalf("group %d: checksum %#x, expected %#x", group, got, want)
		}
	}
}

func TestAppendFrameInPlace(t *testing.T) {
	buf := make([]byte, FrameHeaderSize, 200)
	buf = append(buf, "the batch"...)
	e := raft.Entry{Term: 1, Index: 1, Type: raft.EntryRecords, Payload: buf[FrameHeaderSize:]}
	p := &e.Payload[0]
	AppendFrame(buf[:0], testGroup, &e, 0, 1)
	if &e.Payload[0] != p || &e.Frame[0] != &buf[0] || string(e.Payload) != "the batch" {
		t.Fatal("a payload that stood in place was moved")
	}
	// Overlapping, but not in place: moved as a whole.
	e = raft.Entry{Term: 1, Index: 1, Type: raft.EntryRecords, Payload: buf[FrameHeaderSize-3 : FrameHeaderSize+6]}
	want := bytes.Clone(e.Payload)
	AppendFrame(buf[:0], testGroup, &e, 0, 1)
	if !bytes.Equal(e.Payload, want) {
		t.Fatalf("payload is %q, want %q", e.Payload, want)
	}
}

// PITFALLS.md: "a torn tail and a damaged middle treated alike". One bit is flipped at every byte of a log of three
// syncs whose last is not marked: below the last mark it is corruption, above it the tail is cut.
func TestFlipEveryByte(t *testing.T) {
	m := vfs.NewMem(1)
	l := mustOpen(t, m, Options{})
	for k := range 3 {
		mustAppend(t, l, 1, records(l, 1, raft.Index(1+2*k), 2, 40))
		mustSync(t, l)
	}
	size, name := l.segs[0].size, path.Join(testDir, l.segs[0].name)
	full := contents(t, m, testDir)[name]
	lastBlock := bytes.LastIndex(full[:size], binary.LittleEndian.AppendUint32(nil, blockMagic))
	torn, corrupt := 0, 0
	for at := range size {
		c := crash(m)
		overwrite(t, c, name, at, []byte{full[at] ^ 1<<(at%8)})
		l, err := Open(c, testDir, testGroup, Options{})
		if err != nil {
			t.Fatalf("byte %d: %v", at, err)
		}
		r := l.Health().Recovery
		switch {
		case at >= int64(lastBlock):
			torn++
			if !r.Torn || r.Corrupt || r.DamagedUpTo != 0 || l.LastIndex() != 4 || r.TornIndex != 5 || r.TornAt != int64(lastBlock) {
				t.Fatalf("byte %d of the tail: [.., %d], %+v", at, l.LastIndex(), r)
			}
		default:
			corrupt++
			// A flip in the first block leaves nothing, in the second one entries 1 and 2. The last mark says 4; but 5 and 6 stand
			// behind the damage, were synced, and may have been acknowledged.
			if !r.Corrupt || r.DamagedUpTo != 6 || l.LastIndex() != 0 && l.LastIndex() != 2 || r.CorruptFrom != l.LastIndex()+1 {
				t.Fatalf("byte %d of the middle: [.., %d], %+v", at, l.LastIndex(), r)
			}
		}
		for i := l.FirstIndex(); i <= l.LastIndex(); i++ {
			if _, err := l.Entries(i, i+1, 0); err != nil {
				t.Fatalf("byte %d: entry %d: %v", at, i, err)
			}
		}
	}
	t.Logf("%d bytes torn, %d corrupt", torn, corrupt)
	// With the mark, the tail is not a torn one either.
	if !l.MarkPending() {
		t.Fatal("no mark is pending after a sync")
	}
	mustSync(t, l)
	if l.MarkPending() {
		t.Fatal("a mark is pending after it was written")
	}
	overwrite(t, m, name, int64(lastBlock)+60, []byte{full[lastBlock+60] ^ 4})
	if r := mustOpen(t, crash(m), Options{}).Health().Recovery; !r.Corrupt || r.DamagedUpTo != 6 {
		t.Fatalf("damage below the mark: %+v", r)
	}
}

// A tail cut at every length, and one that is zero-filled from any point on, is a torn tail: what is before is intact.
func TestTornAtEveryByte(t *testing.T) {
	m := vfs.NewMem(1)
	l := mustOpen(t, m, Options{})
	mustAppend(t, l, 1, records(l, 1, 1, 2, 30))
	mustSync(t, l)
	start := l.segs[0].size
	mustAppend(t, l, 1, records(l, 1, 3, 3, 30))
	mustSync(t, l)
	end, name := l.segs[0].size, path.Join(testDir, l.segs[0].name)
	for at := start; at < end; at++ {
		for _, zero := range []bool{false, true} {
			c := crash(m)
			if zero {
				overwrite(t, c, name, at, make([]byte, end-at))
			} else {
				f, err := c.Open(name)
				if err = errors.Join(err, f.Truncate(at), f.Sync(), f.Close()); err != nil {
					t.Fatal(err)
				}
			}
			l := mustOpen(t, c, Options{})
			last := raft.Index(2)
			if h := l.Health(); h.Recovery.Corrupt || l.LastIndex() != last || h.Recovery.Torn != (at > start) {
				t.Fatalf("cut at %d of %d..%d, zero %v: [.., %d], %+v", at, start, end, zero, l.LastIndex(), h.Recovery)
			}
			// It goes on, and nothing of the old tail comes back.
			mustAppend(t, l, 2, records(l, 2, last+1, 1, 10))
			mustSync(t, l)
			c = crash(c)
			l = mustOpen(t, c, Options{})
			if tm, err := l.Term(last + 1); l.LastIndex() != last+1 || tm != 2 || err != nil {
				t.Fatalf("cut at %d: after going on [.., %d], term %d", at, l.LastIndex(), tm)
			}
		}
	}
}

// PITFALLS.md: "an append acknowledged after a truncation took it away". The truncation arrives while the Sync that
// writes what it voids is inside fdatasync.
func TestTruncateDuringSync(t *testing.T) {
	m := vfs.NewMem(1)
	var l *Log
	inSync := func() {}
	f := vfs.Inject(m, func(op vfs.Op, _ string) error {
		if op == vfs.OpSync {
			hook := inSync
			inSync = func() {}
			hook()
		}
		return nil
	})
	l = mustOpen(t, f, Options{Cache: NewCache(0)})
	mustAppend(t, l, 5, records(l, 5, 1, 20, 50))
	inSync = func() {
		es := records(l, 6, 15, 3, 50)
		if tk := mustAppend(t, l, 6, es); tk != (raft.Ticket{Term: 6, Index: 17}) {
			t.Errorf("ticket %+v", tk)
		}
		if l.LastIndex() != 17 || l.SyncedIndex() != 0 {
			t.Errorf("in mid-sync: [.., %d], synced %d", l.LastIndex(), l.SyncedIndex())
		}
		if got, err := l.Entries(14, 16, 1<<20); err != nil || got[0].Term != 5 || got[1].Term != 6 {
			t.Errorf("in mid-sync: %v", err)
		}
	}
	if tk := mustSync(t, l); tk != (raft.Ticket{Term: 5, Index: 20}) {
		t.Fatalf("the overtaken sync says %+v: the core drops it by its term", tk)
	}
	if l.SyncedIndex() != 14 {
		t.Fatalf("synced %d, the rest was void when its sync returned", l.SyncedIndex())
	}
	if l.MarkPending() {
		t.Fatal("a mark must not be written while a cut is pending")
	}
	if tk := mustSync(t, l); tk != (raft.Ticket{Term: 6, Index: 17}) || l.SyncedIndex() != 17 {
		t.Fatalf("ticket %+v, synced %d", tk, l.SyncedIndex())
	}
	l2 := mustOpen(t, crash(m), Options{})
	if tm, _ := l2.Term(15); l2.LastIndex() != 17 || tm != 6 {
		t.Fatalf("after a crash: [.., %d], entry 15 of term %d", l2.LastIndex(), tm)
	}
}

func TestFailedSyncIsFatal(t *testing.T) {
	m := vfs.NewMem(1)
	fail := false
	syncs := 0
	f := vfs.Inject(m, func(op vfs.Op, _ string) error {
		if op == vfs.OpSync && fail {
			syncs++
			return fmt.Errorf("EIO, and pages dropped: %w", vfs.ErrNoSpace) // even a "full disk" from fsync is fatal
		}
		return nil
	})
	l := mustOpen(t, f, Options{})
	mustAppend(t, l, 1, records(l, 1, 1, 2, 10))
	mustSync(t, l)
	mustAppend(t, l, 1, records(l, 1, 3, 2, 10))
	fail = true
	if _, err := l.Sync(); !errors.Is(err, ErrFailed) || errors.Is(err, vfs.ErrNoSpace) {
		t.Fatalf("failed sync: %v", err)
	}
	fail = false
	if _, err := l.Sync(); !errors.Is(err, ErrFailed) || syncs != 1 {
		t.Fatalf("retried: %v, %d syncs", err, syncs)
	}
	if _, err := l.Append(1, records(l, 1, 5, 1, 10)); !errors.Is(err, ErrFailed) {
		t.Fatalf("append to a failed log: %v", err)
	}
	if l.Health().Err == nil {
		t.Fatal("health says nothing")
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	l = mustOpen(t, m, Options{})
	if l.LastIndex() < 2 || l.LastIndex() > 4 {
		t.Fatalf("reopened at %d", l.LastIndex())
	}
}

// A full disk: nothing that was taken is lost, Full says so before the last bytes are gone, small entries still fit, and
// it goes on when there is room.
func TestFullDisk(t *testing.T) {
	m := vfs.NewMem(1)
	q := vfs.Quota(m, 128<<10)
	l := mustOpen(t, q, Options{FirstExtent: 32 << 10})
	n := raft.Index(0)
	for !l.Full() {
		mustAppend(t, l, 1, records(l, 1, n+1, 1, 3000))
		mustSync(t, l)
		if n++; n > 100 {
			t.Fatal("128 KiB took 300 KiB")
		}
	}
	// Internal entries, which retention needs, still fit.
	for range 20 {
		e := raft.Entry{Term: 1, Index: n + 1, Type: raft.EntryPrefix, Payload: []byte("to")}
		AppendFrame(nil, testGroup, &e, l.NextOffset(), 0)
		mustAppend(t, l, 1, []raft.Entry{e})
		mustSync(t, l)
		n++
	}
	// What was taken nevertheless stays pending.
	es := records(l, 1, n+1, 20, 3000)
	mustAppend(t, l, 1, es)
	for range 3 {
		if _, err := l.Sync(); !errors.Is(err, vfs.ErrNoSpace) || errors.Is(err, ErrFailed) {
			t.Fatalf("sync on a full disk: %v", err)
		}
	}
	if !l.Full() || !l.Health().Full || l.Unsynced() == 0 {
		t.Fatal("full, and does not say so")
	}
	for _, e := range es {
		if got, err := l.Entries(e.Index, e.Index+1, 0); err != nil || !bytes.Equal(got[0].Frame, e.Frame) {
			t.Fatalf("entry %d on a full disk: %v", e.Index, err)
		}
	}
	q.SetLimit(1 << 20)
	if l.Full() {
		t.Fatal("there is room, and the log does not see it")
	}
	if tk := mustSync(t, l); tk.Index != n+20 {
		t.Fatalf("ticket %+v", tk)
	}
	if l = mustOpen(t, crash(m), Options{}); l.LastIndex() != n+20 || l.Health().Recovery.Corrupt {
		t.Fatalf("after a crash: %d, want %d", l.LastIndex(), n+20)
	}
}

func TestMissingSegment(t *testing.T) {
	m := vfs.NewMem(1)
	l := mustOpen(t, m, Options{SegmentBytes: 2000})
	for i := range raft.Index(40) {
		mustAppend(t, l, 1, records(l, 1, i+1, 1, 100))
		mustSync(t, l)
	}
	mustSync(t, l)
	if len(l.segs) < 4 {
		t.Fatalf("%d segments", len(l.segs))
	}
	gone := l.segs[1]
	if err := m.Remove(path.Join(testDir, gone.name)); err != nil {
		t.Fatal(err)
	}
	r := mustOpen(t, m, Options{}).Health()
	if !r.Recovery.Corrupt || r.Recovery.CorruptFrom != gone.first || r.DamagedUpTo != 40 {
		t.Fatalf("%+v", r)
	}
	names, err := m.ReadDir(r.Recovery.SetAside)
	if err != nil || len(names) != len(l.segs)-2 {
		t.Fatalf("set aside: %v, %v", names, err)
	}
}

// Opening a large log reads index files, the newest segment and nothing else.
func TestOpenReadsNewestOnly(t *testing.T) {
	m := vfs.NewMem(1)
	l := mustOpen(t, m, Options{SegmentBytes: 4000})
	for i := range raft.Index(60) {
		mustAppend(t, l, raft.Term(1+i/10), records(l, raft.Term(1+i/10), i+1, 1, 200))
		mustSync(t, l)
	}
	segs := len(l.segs)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	reads := map[string]int{}
	f := vfs.Inject(m, func(op vfs.Op, name string) error {
		if op == vfs.OpRead && strings.HasSuffix(name, segmentSuffix) {
			reads[name]++
		}
		return nil
	})
	l = mustOpen(t, f, Options{})
	more := 0
	for _, n := range reads {
		if n > 1 { // each header is read
			more++
		}
	}
	if len(reads) != segs || more > 1 {
		t.Fatalf("of %d segments, %d were read beyond their headers", segs, more)
	}
	for i := range raft.Index(60) {
		if tm, err := l.Term(i + 1); err != nil || tm != raft.Term(1+i/10) {
			t.Fatalf("term of %d: %d, %v", i+1, tm, err)
		}
	}
	if got, err := l.ReadOffsets(0, 60, 1<<20); err != nil || len(got) != 60 {
		t.Fatalf("%d batches, %v", len(got), err)
	}
}

// Readers of every kind run beside appends, truncations, syncs and prefix truncation. Run with -race.
func TestConcurrentReads(t *testing.T) {
	m := vfs.NewMem(1)
	l := mustOpen(t, m, Options{SegmentBytes: 8000, IndexBytes: 500, Cache: NewCache(4000), Direct: true})
	mustAppend(t, l, 1, records(l, 1, 1, 50, 100))
	mustSync(t, l)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	running := func() bool {
		select {
		case <-stop:
			return false
		default:
			return true
		}
	}
	for k := range 3 {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(k), 3))
			var loan Loan
			for running() {
				lo, hi := l.StartOffset(), l.NextOffset()
				if hi <= lo {
					continue
				}
				from := lo + Offset(rng.Int64N(int64(hi-lo)))
				loan.Return()
				got, err := l.ReadLent(from, l.LastIndex(), 2000, &loan)
				if err != nil && !errors.Is(err, ErrOffsetOutOfRange) && !errors.Is(err, raft.ErrCompacted) {
					t.Errorf("read from %d: %v", from, err)
					return
				}
				next := Offset(-1)
				for _, b := range got {
					base := Offset(binary.BigEndian.Uint64(b))
					if next >= 0 && base != next || next < 0 && (base > from || base+2 <= from) {
						t.Errorf("read from %d: batch at %d, expected %d", from, base, next)
						return
					}
					next = base + 2
				}
				first, last := l.FirstIndex(), l.LastIndex()
				if i := first + raft.Index(rng.Uint64N(uint64(last-first+1))); i > 0 {
					for _, err := range []error{
						func() error { _, err := l.OffsetAfter(i); return err }(),
						func() error { _, err := l.Entries(i, i+1, 0); return err }(),
						func() error { _, _, _, _, err := l.OffsetForTime(int64(i*1000), 0, last); return err }(),
					} {
						if err != nil && !errors.Is(err, raft.ErrCompacted) && !errors.Is(err, raft.ErrUnavailable) {
							t.Errorf("read at %d: %v", i, err)
							return
						}
					}
				}
				l.EpochEnd(1, last)
				l.Health()
			}
		})
	}
	wg.Go(func() {
		for running() {
			if _, err := l.Sync(); err != nil {
				t.Error(err)
				return
			}
		}
	})
	rng := rand.New(rand.NewPCG(9, 9))
	term := raft.Term(1)
	for k := range 400 {
		from := l.LastIndex() + 1
		if rng.IntN(5) == 0 {
			term++
			if lo := max(l.FirstIndex(), l.snap.index+1); from > lo {
				from = max(lo, from-raft.Index(rng.IntN(4)))
			}
		}
		mustAppend(t, l, term, records(l, term, from, 1+rng.IntN(3), 100))
		if k%50 == 49 {
			i := l.FirstIndex() + (l.LastIndex()-l.FirstIndex())/2
			tm, err := l.Term(i)
			if err != nil {
				t.Fatal(err)
			}
			data, err := l.EncodeSnapshot(i, nil)
			if err == nil {
				err = l.SaveSnapshot(raft.SnapshotMeta{Index: i, Term: tm}, data)
			}
			if err == nil {
				err = l.TruncatePrefix(i)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	close(stop)
	wg.Wait()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

// The shared cache keeps to its budget over many logs, and what is durable leaves it first.
func TestCacheBudget(t *testing.T) {
	m := vfs.NewMem(1)
	c := NewCache(100 << 10)
	var logs []*Log
	for i := range 10 {
		l, err := Open(m, fmt.Sprintf("data/%d", i), raft.GroupID(i+1), Options{Cache: c})
		if err != nil {
			t.Fatal(err)
		}
		logs = append(logs, l)
	}
	for k := range raft.Index(50) {
		for _, l := range logs {
			mustAppend(t, l, 1, records(l, 1, k+1, 1, 1000))
			mustSync(t, l)
			if c.Used() > 102<<10 {
				t.Fatalf("the cache holds %d bytes", c.Used())
			}
		}
	}
	for _, l := range logs {
		if !l.inTail(50) {
			t.Error("the newest entry is not in memory")
		}
		if got, err := l.ReadOffsets(0, 50, 1<<20); err != nil || len(got) != 50 {
			t.Fatalf("%d batches, %v", len(got), err)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if c.Used() != 0 || len(c.queue) != c.head {
		t.Errorf("closed logs left %d bytes and %d tokens", c.Used(), len(c.queue)-c.head)
	}
}

// What waits to be applied stays in memory, though it is durable and the budget is used up: up to a bound.
func TestCacheKeepsUnapplied(t *testing.T) {
	m := vfs.NewMem(1)
	c := NewCache(100 << 10)
	open := func(g raft.GroupID) *Log {
		l, err := Open(m, fmt.Sprintf("data/%d", g), g, Options{Cache: c})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := l.Close(); err != nil {
				t.Error(err)
			}
		})
		return l
	}
	slow, busy := open(1), open(2)
	grow := func(l *Log, n int) {
		for range n {
			mustAppend(t, l, 1, records(l, 1, l.LastIndex()+1, 1, 1000))
			mustSync(t, l)
		}
	}
	slow.Applied(1)
	grow(slow, 20)
	grow(busy, 120) // whatever this one appends is applied, as it says nothing
	if slow.inTail(1) || !slow.inTail(2) {
		t.Errorf("of a log of 20 entries, the first one applied, %d are in memory", len(slow.tail))
	}
	if c.Used() > 102<<10 {
		t.Errorf("the cache holds %d bytes", c.Used())
	}
	slow.Applied(20)
	grow(busy, 120)
	if len(slow.tail) != 0 {
		t.Errorf("%d entries stay after all have been applied", len(slow.tail))
	}
	busy.Applied(busy.LastIndex())
	grow(busy, 400)
	if c.Used() > unappliedFactor*100<<10+2<<10 {
		t.Errorf("the cache holds %d bytes of what is not applied", c.Used())
	}
	if !busy.inTail(busy.LastIndex() - 100) {
		t.Error("what is not applied has left memory below the bound")
	}
}

// Kafka's ListOffsets by time names a record, not a batch.
func TestTimeInsideBatch(t *testing.T) {
	l := mustOpen(t, vfs.NewMem(1), Options{Cache: NewCache(0)})
	var es []raft.Entry
	for k := range 3 {
		base, first := Offset(4*k), int64(1000*k)
		b := testBatch(rand.New(rand.NewPCG(1, 1)), base, 4, first+303, 0)
		binary.BigEndian.PutUint64(b[27:], uint64(first))
		binary.BigEndian.PutUint16(b[21:], 0)
		binary.BigEndian.PutUint32(b[57:], 4)
		for i := range int64(4) { // times 0, 101, 303, 202 past the first
			body := []byte{0}
			body = binary.AppendVarint(body, []int64{0, 101, 303, 202}[i])
			body = binary.AppendVarint(body, i)
			body = append(body, 1, 2, 'v', 0) // no key, one byte, no headers
			b = append(binary.AppendVarint(b, int64(len(body))), body...)
		}
		binary.BigEndian.PutUint32(b[8:], uint32(len(b)-12))
		e := raft.Entry{Term: 3, Index: raft.Index(k + 1), Type: raft.EntryRecords, Payload: b}
		AppendFrame(nil, testGroup, &e, base, 4)
		es = append(es, e)
	}
	mustAppend(t, l, 3, es)
	for range 2 { // once from memory, once from disk
		for ts, want := range map[int64][2]int64{-5: {0, 0}, 0: {0, 0}, 1: {1, 101}, 102: {2, 303}, 304: {4, 1000}, 1303: {6, 1303}, 2203: {10, 2303}} {
			off, at, term, ok, err := l.OffsetForTime(ts, 0, 3)
			if int64(off) != want[0] || at != want[1] || term != 3 || !ok || err != nil {
				t.Errorf("time %d: offset %d, time %d, %v, %v; want %v", ts, off, at, ok, err, want)
			}
		}
		if _, _, _, ok, err := l.OffsetForTime(1304, 0, 2); ok || err != nil {
			t.Errorf("beyond the committed: %v, %v", ok, err)
		}
		if off, ts, _, ok, err := l.MaxTimestamp(0, 2); off != 6 || ts != 1303 || !ok || err != nil {
			t.Errorf("largest: %d, %d, %v, %v", off, ts, ok, err)
		}
		mustSync(t, l)
	}
}

func TestAppendRefuses(t *testing.T) {
	l := mustOpen(t, vfs.NewMem(1), Options{})
	mustAppend(t, l, 2, records(l, 2, 1, 5, 10))
	good := records(l, 2, 6, 2, 10)
	for name, es := range map[string][]raft.Entry{
		"gap":         records(l, 2, 7, 1, 10),
		"older term":  records(l, 1, 6, 1, 10),
		"no frame":    {{Term: 2, Index: 6, Type: raft.EntryNoop}},
		"hole inside": {good[0], good[0]},
		"index 0":     {{Term: 2, Frame: good[0].Frame}},
		"other frame": {{Term: 2, Index: 6, Type: raft.EntryRecords, Frame: good[1].Frame}},
	} {
		if _, err := l.Append(2, es); err == nil || l.LastIndex() != 5 {
			t.Errorf("%s: %v, log ends at %d", name, err, l.LastIndex())
		}
	}
	mustAppend(t, l, 2, good)
}

func TestDump(t *testing.T) {
	m := vfs.NewMem(1)
	l := mustOpen(t, m, Options{SegmentBytes: 2000})
	for i := range raft.Index(20) {
		mustAppend(t, l, 1, records(l, 1, i+1, 1, 200))
		mustSync(t, l)
	}
	mustSync(t, l)
	data, err := l.EncodeSnapshot(4, []byte("x"))
	if err := errors.Join(err, l.SaveSnapshot(raft.SnapshotMeta{Index: 4, Term: 1}, data), l.TruncatePrefix(3)); err != nil {
		t.Fatal(err)
	}
	dump := func(p string, o DumpOptions) (string, error) {
		var b strings.Builder
		f := vfs.Inject(m, func(op vfs.Op, name string) error {
			switch op {
			case vfs.OpOpen, vfs.OpRead, vfs.OpStat, vfs.OpReadDir, vfs.OpClose:
				return nil
			}
			return fmt.Errorf("dump does %s on %s", op, name)
		})
		err := Dump(f, p, &b, o)
		return b.String(), err
	}
	out, err := dump(testDir, DumpOptions{Frames: true, Payload: 4})
	for _, want := range []string{"group 77", "mark: synced 20", "first index 4", "term 1 begins at index 1", "index 20, offset 38", "preallocated zeros"} {
		if !strings.Contains(out, want) {
			t.Errorf("dump does not say %q", want)
		}
	}
	if err != nil || strings.Contains(out, "DAMAGED") {
		t.Fatalf("%v\n%s", err, out)
	}
	name := path.Join(testDir, l.segs[1].name)
	b := contents(t, m, testDir)[name]
	at := bytes.Index(b, records(l, 1, l.segs[1].first, 1, 200)[0].Payload[:30])
	if at < 0 {
		at = SegmentHeaderSize + blockHeaderSize + 60
	}
	overwrite(t, m, name, int64(at), []byte{b[at] ^ 1})
	out, err = dump(name, DumpOptions{})
	if !errors.Is(err, ErrDamaged) || !strings.Contains(out, fmt.Sprintf("DAMAGED: at %d", SegmentHeaderSize)) {
		t.Fatalf("%v\n%s", err, out)
	}
	// Without a header that can be read the meta file says whose log it is.
	for _, s := range l.segs {
		overwrite(t, m, path.Join(testDir, s.name), 0, make([]byte, SegmentHeaderSize))
	}
	if out, err = dump(testDir, DumpOptions{}); errors.Is(err, ErrNoGroup) || !strings.Contains(out, "group 77") || !strings.Contains(out, "first index 4") {
		t.Fatalf("%v\n%s", err, out)
	}
	// Behind the damage this file has nothing more that would show it: the files after it do.
	last := mustOpenOneBlockFiles(t)
	name = path.Join(testDir, last.log.segs[1].name)
	b = contents(t, last.mem, testDir)[name]
	overwrite(t, last.mem, name, int64(len(b)-8), []byte{b[len(b)-8] ^ 1})
	var text strings.Builder
	if err := Dump(last.mem, testDir, &text, DumpOptions{}); !errors.Is(err, ErrDamaged) {
		t.Fatalf("the last block of a closed file is damaged: %v\n%s", err, text.String())
	}
	// The same in the newest file is how a power loss looks.
	overwrite(t, last.mem, name, int64(len(b)-8), []byte{b[len(b)-8]})
	name = path.Join(testDir, last.log.segs[2].name)
	if b = contents(t, last.mem, testDir)[name]; len(b) < SegmentHeaderSize+blockHeaderSize+80 {
		t.Fatalf("the newest file has %d bytes", len(b))
	}
	at = SegmentHeaderSize + blockHeaderSize + 70
	overwrite(t, last.mem, name, int64(at), []byte{b[at] ^ 1})
	text.Reset()
	if err := Dump(last.mem, testDir, &text, DumpOptions{}); err != nil || !strings.Contains(text.String(), "torn tail") {
		t.Fatalf("a torn tail: %v\n%s", err, text.String())
	}
	if _, err := dump("data", DumpOptions{}); err == nil {
		t.Error("a directory without a log was dumped")
	}
}

type dumpedLog struct {
	mem *vfs.Mem
	log *Log
}

// mustOpenOneBlockFiles is a log of three files with one block each, and no marks.
func mustOpenOneBlockFiles(t *testing.T) dumpedLog {
	m := vfs.NewMem(1)
	l := mustOpen(t, m, Options{SegmentBytes: 400})
	for i := range raft.Index(3) {
		mustAppend(t, l, 1, records(l, 1, i+1, 1, 300))
		mustSync(t, l)
	}
	if len(l.segs) != 3 {
		t.Fatalf("%d files", len(l.segs))
	}
	return dumpedLog{m, l}
}

// A truncation cuts the index of the file that a Sync is writing. Run with -race.
func TestTruncateWhileEncoding(t *testing.T) {
	l := mustOpen(t, vfs.NewMem(1), Options{IndexBytes: 200})
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			default:
			}
			if _, err := l.Sync(); err != nil {
				t.Error(err)
				return
			}
		}
	}()
	for term := raft.Term(1); term <= 150; term++ {
		mustAppend(t, l, term, records(l, term, l.LastIndex()+1, 20, 100))
		for l.SyncedIndex() < l.LastIndex() {
			runtime.Gosched()
		}
		mustAppend(t, l, term, records(l, term, l.LastIndex()+1, 1, 100))
		mustAppend(t, l, term+1, records(l, term+1, l.LastIndex()-8, 1, 100))
	}
	close(stop)
	<-done
	mustSync(t, l)
	if got, err := l.ReadOffsets(0, l.LastIndex(), 1<<30); err != nil || len(got) != int(l.LastIndex()) {
		t.Errorf("%d batches of %d, %v", len(got), l.LastIndex(), err)
	}
}

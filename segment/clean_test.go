// Directed tests of compaction: damage at every byte, what a full map leaves, what is not a batch, and the readers of its formats.

package segment

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"path"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/balsamq/balsa/internal/vfs"
	"github.com/balsamq/balsa/protocol"
	"github.com/balsamq/balsa/raft"
)

// keyedEntries frames n batches of two records each, keys in turn.
func keyedEntries(l *Log, term raft.Term, from raft.Index, n, keys int) []raft.Entry {
	base := l.NextOffset()
	out := make([]raft.Entry, n)
	for i := range out {
		var recs []protocol.Record
		for k := range 2 {
			o := int(base) + k
			recs = append(recs, protocol.Record{Offset: int64(base), Timestamp: int64(1000 + o), Key: fmt.Append(nil, "key", o%keys), Value: fmt.Append(nil, "value ", o)})
		}
		e := raft.Entry{Term: term, Index: from + raft.Index(i), Type: raft.EntryRecords, Payload: protocol.BuildBatch(recs, protocol.NewBatchOptions())}
		AppendFrame(nil, l.group, &e, base, 2)
		out[i], base = e, base+2
	}
	return out
}

func mustCheckpoint(t testing.TB, l *Log) {
	t.Helper()
	last := l.LastIndex()
	term, err := l.Term(last)
	if err != nil {
		t.Fatal(err)
	}
	l.WantCheckpoint()
	data, err := l.EncodeSnapshot(last, []byte("state"))
	if err == nil {
		err = l.SaveSnapshot(raft.SnapshotMeta{Index: last, Term: term, Conf: raft.ConfState{Voters: []raft.Member{{ID: 1}}}}, data)
	}
	if err != nil {
		t.Fatal(err)
	}
}

var everything = CleanBound{Index: maxIndex, Offset: Offset(maxOffset), Before: math.MaxInt64}

func mustClean(t testing.TB, l *Log, o CleanOptions) CleanStats {
	t.Helper()
	o.UpTo = l.Cleanable(everything).UpTo
	if o.MapBytes == 0 {
		o.MapBytes = 1 << 20
	}
	s, err := l.Clean(o)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.Prune(); err != nil {
		t.Fatal(err)
	}
	if l.CleanedEnd() != s.Next {
		t.Fatalf("cleaned up to %d, want %d", l.CleanedEnd(), s.Next)
	}
	return s
}

func mustCompacted(t testing.TB, f vfs.FS, o Options) *Log {
	t.Helper()
	o.Checkpoints = true
	l := mustOpen(t, f, o)
	mustAppend(t, l, 1, keyedEntries(l, 1, 1, 30, 7))
	mustSync(t, l)
	mustCheckpoint(t, l)
	mustClean(t, l, CleanOptions{})
	mustAppend(t, l, 1, keyedEntries(l, 1, l.LastIndex()+1, 3, 7))
	mustSync(t, l)
	mustSync(t, l)
	return l
}

func readAll(t testing.TB, l *Log) (offsets []int64, err error) {
	t.Helper()
	for at := l.StartOffset(); at < l.NextOffset(); {
		last := l.LastIndex()
		batches, err := l.ReadOffsets(at, last, 300)
		if err == nil && len(batches) == 0 && l.LastIndex() > last {
			continue // the next batch that is left lies above what was the end
		}
		if err != nil || len(batches) == 0 {
			return offsets, errors.Join(err, fmt.Errorf("%d batches at %d", len(batches), at))
		}
		for _, raw := range batches {
			for r, err := range protocol.Batch(raw).Records(nil) {
				if err != nil {
					return offsets, err
				}
				offsets = append(offsets, r.Offset)
			}
			at = Offset(protocol.Batch(raw).NextOffset())
		}
	}
	return offsets, nil
}

// One bit flips at each byte of a cleaned file in turn, or the file is cut, or gone: the open, a read or scrubbing notices, nothing
// that is wrong is ever read, and the next open puts the damage on record and keeps the bytes.
func TestCleanedFlips(t *testing.T) {
	m := vfs.NewMem(1)
	o := Options{IndexBytes: 200, FirstExtent: 4096, Checkpoints: true, Past: NeverRan}
	l := mustCompacted(t, m, o)
	o.Past = RanBefore
	want, err := readAll(t, l)
	if err != nil || len(l.cleaned) != 1 || want[0] == 0 || want[0] > 60 {
		t.Fatal(err, len(l.cleaned), want)
	}
	name := path.Join(testDir, l.cleaned[0].name())
	size := l.cleaned[0].size
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	for at := int64(-2); at < size; at++ {
		m := crash(m)
		f, err := m.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		switch at {
		case -2:
			err = errors.Join(f.Close(), m.Remove(name))
		case -1:
			err = errors.Join(f.Truncate(size-1), f.Close())
		default:
			b := make([]byte, 1)
			if _, err = f.ReadAt(b, at); err == nil {
				b[0] ^= 1 << (at % 8)
				_, err = f.WriteAt(b, at)
			}
			err = errors.Join(err, f.Close())
		}
		if err != nil {
			t.Fatal(err)
		}
		l := mustOpen(t, m, o)
		if h := l.Health(); !h.Recovery.Corrupt {
			got, err := readAll(t, l)
			if err == nil && !slices.Equal(got, want) {
				t.Fatalf("byte %d: read %v, want %v", at, got, want)
			}
			if _, serr := walkAll(t, l.Scrub(0), 1); err == nil && !errors.Is(serr, ErrCorrupt) {
				t.Fatalf("byte %d of %d: nobody has noticed", at, size)
			}
			if l.Health().ReadErr == nil {
				t.Fatalf("byte %d: the damage was not reported", at)
			}
			_ = l.Close()
			l = mustOpen(t, m, o)
		}
		h := l.Health()
		if !h.Recovery.Corrupt || h.DamagedUpTo < 33 || h.DamagedUpTo == raft.UntilTold || l.LastIndex() != 0 || h.Recovery.SetAside == "" || len(l.cleaned) != 0 {
			t.Fatalf("byte %d: %+v, last %d", at, h, l.LastIndex())
		}
		if at != -2 {
			if _, err := m.Stat(path.Join(h.Recovery.SetAside, path.Base(name))); err != nil {
				t.Fatalf("byte %d: the damaged file is not kept: %v", at, err)
			}
		}
	}
}

// Damage on the sender is not handed on: the snapshot cannot be read to its end, and who receives parts of it takes none of it.
func TestRottenCleanedPartIsNotSent(t *testing.T) {
	m := vfs.NewMem(1)
	l := mustCompacted(t, m, Options{})
	f, err := m.Open(path.Join(testDir, l.cleaned[0].name()))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte{0xff}, l.cleaned[0].frames-3); err != nil {
		t.Fatal(err)
	}
	s, err := l.OpenSnapshot()
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, s.Snapshot().Size)
	if err := s.ReadAt(b, 0); !errors.Is(err, ErrCorrupt) || l.Health().ReadErr == nil {
		t.Fatalf("a rotten file was sent: %v", err)
	}
	dst := mustOpenAt(t, m, "data/other", Options{Checkpoints: true})
	snap := s.Snapshot()
	if _, err := dst.ReceiveSnapshot(&snap); err != nil {
		t.Fatal(err)
	}
	if err := dst.WriteSnapshot(0, b); !errors.Is(err, ErrBadSnapshot) {
		t.Fatalf("a rotten file was taken in: %v", err)
	}
	if _, err := dst.InstallSnapshot(&snap); !errors.Is(err, ErrBadSnapshot) || dst.LastIndex() != 0 {
		t.Fatalf("installed: %v", err)
	}
}

func mustOpenAt(t testing.TB, f vfs.FS, dir string, o Options) *Log {
	t.Helper()
	l, err := Open(f, dir, testGroup, o)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// A map without room for all keys cleans a part, and says up to where; the next cleanings go on there, until all is clean.
func TestCleanWithASmallMap(t *testing.T) {
	m := vfs.NewMem(1)
	l := mustOpen(t, m, Options{Checkpoints: true})
	mustAppend(t, l, 1, keyedEntries(l, 1, 1, 100, 50))
	mustSync(t, l)
	mustCheckpoint(t, l)
	var seen Offset
	for rounds := 0; ; rounds++ {
		s := mustClean(t, l, CleanOptions{MapBytes: 8 * slotSize})
		if s.Clean <= seen || rounds > 100 {
			t.Fatalf("cleaned up to %d, then up to %d", seen, s.Clean)
		}
		if seen = s.Clean; s.Clean == s.Next {
			break
		}
		l = mustOpen(t, crash(m), Options{Checkpoints: true}) // what is clean is remembered
		if l.dirty != s.Clean {
			t.Fatalf("cleaned up to %d, reopened at %d", s.Clean, l.dirty)
		}
		m = l.fs.(*vfs.Mem)
	}
	offsets, err := readAll(t, l)
	if err != nil || len(offsets) != 50 || offsets[0] != 150 {
		t.Fatal(offsets, err)
	}
	if c := l.Cleanable(everything); c.UpTo != 0 || c.Dirty != 0 {
		t.Fatalf("all is clean, and to be cleaned is %+v", c)
	}
}

// What the map has no room for is not copied, as far as a checkpoint allows it.
func TestCleanCopiesNoMoreThanItCleans(t *testing.T) {
	l := mustOpen(t, vfs.NewMem(1), Options{Checkpoints: true})
	for range 3 {
		mustAppend(t, l, 1, keyedEntries(l, 1, l.LastIndex()+1, 10, 50))
		mustSync(t, l)
		mustCheckpoint(t, l)
	}
	for round, want := range []Offset{20, 20, 20, 40, 40} {
		s := mustClean(t, l, CleanOptions{MapBytes: 8 * slotSize}) // six keys
		if s.Next != want {
			t.Fatalf("cleaning %d went up to %d, want %d: %+v", round, s.Next, want, s)
		}
	}
	if l.FirstIndex() != 21 {
		t.Fatalf("entries begin at %d", l.FirstIndex())
	}
}

// What is no batch, or cannot be read, stays.
func TestUnreadableBatchesStay(t *testing.T) {
	m := vfs.NewMem(1)
	l := mustOpen(t, m, Options{Checkpoints: true})
	mustAppend(t, l, 1, keyedEntries(l, 1, 1, 3, 1))
	mustAppend(t, l, 1, records(l, 1, 4, 2, 50)) // a header, and garbage behind it
	mustAppend(t, l, 1, keyedEntries(l, 1, 6, 3, 1))
	mustSync(t, l)
	mustCheckpoint(t, l)
	s := mustClean(t, l, CleanOptions{})
	if s.Unreadable != 2 || s.Kept != 1 {
		t.Fatalf("%+v", s)
	}
	batches, err := l.ReadOffsets(0, l.LastIndex(), 1<<20)
	if err != nil || len(batches) != 3 || protocol.Batch(batches[0]).BaseOffset() != 6 || protocol.Batch(batches[2]).NextOffset() != 16 {
		t.Fatalf("%d batches, %v", len(batches), err)
	}
}

// A cleaning that was overtaken by retention, by a read's damage, or by a disk without room changes nothing.
func TestCleaningOvertaken(t *testing.T) {
	m := vfs.NewMem(1)
	l := mustOpen(t, m, Options{Checkpoints: true, SegmentBytes: 2000})
	for range 10 {
		mustAppend(t, l, 1, keyedEntries(l, 1, l.LastIndex()+1, 5, 7))
		mustSync(t, l)
		mustCheckpoint(t, l)
	}
	if _, err := l.Clean(CleanOptions{UpTo: l.Cleanable(everything).UpTo, MapBytes: 1 << 20}); err != nil {
		t.Fatal(err)
	}
	l.life++ // what any change of the front does
	if meta, err := l.Prune(); meta != nil || err != nil || l.FirstIndex() != 1 || l.CleaningWaits() {
		t.Fatalf("%+v, %v, first %d", meta, err, l.FirstIndex())
	}
	names, err := m.ReadDir(testDir)
	if err != nil || slices.ContainsFunc(names, func(n string) bool { return strings.HasSuffix(n, cleanedSuffix) }) {
		t.Fatal(names, err)
	}
	stop := errors.New("stop")
	n := 0
	_, err = l.Clean(CleanOptions{UpTo: l.Cleanable(everything).UpTo, MapBytes: 1 << 20, Pace: func(int) error {
		if n++; n > 70 {
			return stop
		}
		return nil
	}})
	if !errors.Is(err, stop) {
		t.Fatal(err)
	}
	if again, err := m.ReadDir(testDir); err != nil || !slices.Equal(again, names) {
		t.Fatal(again, err)
	}
	full := vfs.Quota(m, 0, "data")
	full.SetLimit(full.Used() + 1000)
	l = mustOpen(t, full, Options{Checkpoints: true, SegmentBytes: 2000})
	if _, err := l.Clean(CleanOptions{UpTo: l.Cleanable(everything).UpTo, MapBytes: 1 << 20}); !errors.Is(err, vfs.ErrNoSpace) {
		t.Fatal(err)
	}
	if l.Health().Err != nil {
		t.Fatal(l.Health().Err)
	}
}

// Readers, scrubbing and retention's questions go on while the log is written to and cleaned. Run with -race.
func TestReadsWhileCleaning(t *testing.T) {
	l := mustOpen(t, vfs.NewMem(1), Options{Checkpoints: true, SegmentBytes: 4000, IndexBytes: 300, Cache: NewCache(2000)})
	var wg sync.WaitGroup
	stop := make(chan struct{})
	for _, read := range []func() error{
		func() error { _, err := readAll(t, l); return err },
		func() error { _, err := walkAll(t, l.Scrub(0), 1000); return err },
		func() error {
			l.Expired(Expiry{MaxAge: 1, MaxBytes: -1, Now: 1 << 40, End: l.NextOffset()})
			l.Cleanable(everything)
			_, _, _, _, err := l.MaxTimestamp(0, l.LastIndex())
			return err
		},
		func() error {
			_, _, _, _, err := l.OffsetForTime(1500, 0, l.LastIndex())
			return err
		},
	} {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if err := read(); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for range 40 {
		mustAppend(t, l, 1, keyedEntries(l, 1, l.LastIndex()+1, 10, 7))
		mustSync(t, l)
		mustCheckpoint(t, l)
		mustClean(t, l, CleanOptions{})
	}
	close(stop)
	wg.Wait()
	if offsets, err := readAll(t, l); err != nil || len(offsets) != 7 {
		t.Fatal(offsets, err)
	}
}

// compact,delete: cleaned files go before segments, by age and by size, and Prune drops them.
func TestCleanedFilesExpire(t *testing.T) {
	m := vfs.NewMem(1)
	l := mustOpen(t, m, Options{Checkpoints: true, SegmentBytes: 1500})
	mustAppend(t, l, 1, keyedEntries(l, 1, 1, 60, 1000)) // no key twice, times 1000 to 1119
	mustSync(t, l)
	mustCheckpoint(t, l)
	mustClean(t, l, CleanOptions{})
	mustAppend(t, l, 1, keyedEntries(l, 1, 61, 5, 1000))
	mustSync(t, l)
	n := len(l.cleaned)
	if n < 4 {
		t.Fatalf("%d cleaned files", n)
	}
	q := Expiry{MaxAge: -1, MaxBytes: -1, Now: 1 << 40, Start: l.StartOffset(), End: l.NextOffset()}
	if o := l.Expired(q); o != q.Start {
		t.Fatalf("without limits everything below %d goes", o)
	}
	q.MaxAge, q.Now = 10, l.cleaned[1].maxTime+11
	if o := l.Expired(q); o != l.cleaned[1].end {
		t.Fatalf("by age all below %d goes, want %d", o, l.cleaned[1].end)
	}
	q.MaxAge, q.MaxBytes = -1, 0
	for _, f := range l.cleaned[1:] { // what is not cleaned is less than one of them
		q.MaxBytes += f.size
	}
	if o := l.Expired(q); o != l.cleaned[0].end {
		t.Fatalf("by size all below %d goes, want %d", o, l.cleaned[0].end)
	}
	start := l.cleaned[1].end
	l.Forget(start)
	if !l.PruneDue() {
		t.Fatal("nothing is due")
	}
	if meta, err := l.Prune(); meta != nil || err != nil || l.StartOffset() != start || len(l.cleaned) != n-2 {
		t.Fatalf("%+v, %v: %d files from %d on", meta, err, len(l.cleaned), l.StartOffset())
	}
	l = mustOpen(t, crash(m), Options{Checkpoints: true})
	if offsets, err := readAll(t, l); err != nil || offsets[0] != int64(start) || len(offsets) != 130-int(start) {
		t.Fatal(offsets, err)
	}
	if _, err := l.ReadOffsets(start-1, l.LastIndex(), 1); !errors.Is(err, ErrOffsetOutOfRange) {
		t.Fatal(err)
	}
	q = Expiry{MaxAge: 0, MaxBytes: -1, Now: 1 << 40, Start: l.StartOffset(), End: l.NextOffset()}
	if o := l.Expired(q); o != q.End {
		t.Fatalf("all is too old, and what is below %d goes of %d", o, q.End)
	}
}

// A log that is not compacted is written as it always was.
func TestPlainMetaIsUnchanged(t *testing.T) {
	m := meta{first: 5, prevTerm: 2, start: 9, floor: 3, epochs: []epoch{{1, 1, 0}}}
	b := m.encode(testGroup)
	if b[8] != fileVersion || len(b) != metaHeaderSize+epochSize {
		t.Fatalf("version %d, %d bytes", b[8], len(b))
	}
	m.cleaned, m.dirty = []cleanedRef{{base: 0, end: 9, generation: 1, size: 200, crc: 7}}, 9
	b = m.encode(testGroup)
	if got, err := decodeMeta(testGroup, b); err != nil || b[8] != cleanedMeta || got.dirty != 9 || !slices.Equal(got.cleaned, m.cleaned) {
		t.Fatalf("%+v, %v", got, err)
	}
}

func FuzzCleanedFormats(f *testing.F) {
	refs := []cleanedRef{{base: 3, end: 9, generation: 1, size: 200, crc: 7}, {base: 9, end: 12, generation: 2, size: 300, crc: 8}}
	m := meta{first: 5, prevTerm: 2, start: 12, floor: 3, epochs: []epoch{{1, 1, 0}}, cleaned: refs, dirty: 4}
	f.Add(m.encode(testGroup))
	w := whole{stateSize: 10, stateSum: 5, dirty: 4, refs: refs}
	f.Add(w.encode(testGroup))
	c := &cleanedFile{cleanedRef: refs[0], frames: 500, index: []stretch{{3, cleanedHeaderSize, 5}, {6, 100, 9}}}
	f.Add(c.encodeEnd(testGroup))
	f.Add(encodeInstall(testGroup, 3, &washed{files: []*cleanedFile{c}, dirty: 4}))
	f.Add(encodeCleanedHeader(testGroup, 3))
	f.Fuzz(func(t *testing.T, b []byte) {
		if m, err := decodeMeta(testGroup, b); err == nil && !bytes.Equal(m.encode(testGroup), b) {
			t.Fatal("a meta file that is not what would be written")
		}
		if n := wholeLength(b); n > 0 && int64(len(b)) >= n {
			sum := uint32(b[4]) | uint32(b[5])<<8 | uint32(b[6])<<16 | uint32(b[7])<<24
			for _, size := range []int64{n + 510, int64(len(b))} {
				if w, err := decodeWhole(testGroup, b, size, sum); err == nil && !bytes.Equal(w.encode(testGroup), b[:n]) {
					t.Fatal("a header that is not what would be written")
				}
			}
		}
		if refs, _, err := decodeInstall(testGroup, b, 3); err == nil && len(refs) == 0 {
			t.Fatal("an empty list")
		}
		_ = decodeCleanedHeader(testGroup, b, 3)
		if len(b) >= cleanedTrailerSize {
			t1 := b[len(b)-cleanedTrailerSize:]
			ref := cleanedRef{base: 3, end: 9, size: c.size, crc: uint32(t1[4]) | uint32(t1[5])<<8 | uint32(t1[6])<<16 | uint32(t1[7])<<24}
			if got, err := decodeEnd(testGroup, &ref, b); err == nil && len(got.index) == 0 {
				t.Fatal("a file without an index")
			}
		}
	})
}

// A million small records over a tenth as many keys, from memory: what the cleaner costs itself.
func BenchmarkClean(b *testing.B) {
	m := vfs.NewMem(1)
	l := mustOpen(b, m, Options{Checkpoints: true, SegmentBytes: 16 << 20})
	const batches = 2000
	for i := range batches {
		var recs []protocol.Record
		base := l.NextOffset()
		for k := range 100 {
			recs = append(recs, protocol.Record{Offset: int64(base), Timestamp: int64(i), Key: fmt.Appendf(nil, "key-%08d", (int(base)+k)*7919%20_000), Value: make([]byte, 100)})
		}
		e := raft.Entry{Term: 1, Index: raft.Index(i + 1), Type: raft.EntryRecords, Payload: protocol.BuildBatch(recs, protocol.NewBatchOptions())}
		AppendFrame(nil, l.group, &e, base, 100)
		mustAppend(b, l, 1, []raft.Entry{e})
		mustSync(b, l)
	}
	mustCheckpoint(b, l)
	up := l.Cleanable(everything)
	b.SetBytes(up.Dirty)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := l.Clean(CleanOptions{UpTo: up.UpTo, MapBytes: 1 << 30}); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(batches*100)*float64(b.N)/b.Elapsed().Seconds(), "records/s")
}

// The marker of a transaction stays as long as a record of the transaction does, and its time begins when none is left.
func TestMarkerStaysWithItsRecords(t *testing.T) {
	l := mustOpen(t, vfs.NewMem(1), Options{IndexBytes: 200, FirstExtent: 4096, Checkpoints: true, Past: NeverRan})
	defer l.Close()
	add := func(payload protocol.Batch) {
		payload.SetBaseOffset(int64(l.NextOffset()))
		e := raft.Entry{Term: 1, Index: l.LastIndex() + 1, Type: raft.EntryRecords, Payload: payload}
		AppendFrame(nil, l.group, &e, l.NextOffset(), 1)
		mustAppend(t, l, 1, []raft.Entry{e})
		mustSync(t, l)
	}
	record := func(producer int64, key string) {
		o := protocol.NewBatchOptions()
		if producer >= 0 {
			o.ProducerID, o.ProducerEpoch, o.BaseSequence, o.Transactional = producer, 0, 0, true
		}
		add(protocol.BuildBatch([]protocol.Record{{Timestamp: 1000, Key: []byte(key), Value: []byte("value")}}, o))
	}
	now := int64(10_000)
	clean := func() {
		record(-1, "another") // a cleaning needs something new
		mustCheckpoint(t, l)
		now += 1000
		mustClean(t, l, CleanOptions{Now: now, DeleteRetention: 500})
	}
	marker := func() bool {
		offsets, err := readAll(t, l)
		if err != nil {
			t.Fatal(err)
		}
		return slices.Contains(offsets, 1)
	}
	record(7, "key")
	add(protocol.BuildMarker(7, 0, protocol.Marker{Commit: true, CoordinatorEpoch: 1}, 1000))
	for range 4 {
		if clean(); !marker() {
			t.Fatal("the marker has gone, and its record has not")
		}
	}
	record(-1, "key")
	if clean(); !marker() {
		t.Fatal("the marker has gone before its time")
	}
	if clean(); marker() {
		t.Fatal("the marker is still there")
	}
}

// A cleaned file that somebody has removed is an error of every look-up, and not one that never ends.
func TestCleanedFileMissing(t *testing.T) {
	m := vfs.NewMem(1)
	l := mustCompacted(t, m, Options{IndexBytes: 200, FirstExtent: 4096, Past: NeverRan})
	defer l.Close()
	if err := m.Remove(path.Join(testDir, l.cleaned[0].name())); err != nil {
		t.Fatal(err)
	}
	if _, _, _, _, err := l.OffsetForTime(0, 0, l.LastIndex()); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	if _, found, err := l.cleanedMax(noTimestamp, 0); !errors.Is(err, fs.ErrNotExist) {
		t.Error(found, err)
	}
	if _, err := l.ReadOffsets(0, l.LastIndex(), 1); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}

// Neither the snapshot nor a checkpoint is left that the log could go on with: all of it is set aside, the cleaned part too, once.
func TestCleanedSetAsideWithDamage(t *testing.T) {
	m := vfs.NewMem(1)
	o := Options{IndexBytes: 200, FirstExtent: 4096, Checkpoints: true, Past: NeverRan}
	l := mustCompacted(t, m, o)
	mustCheckpoint(t, l)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	names, err := m.ReadDir(testDir)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		at := int64(-1)
		switch {
		case strings.HasPrefix(name, checkpoints):
			at = 20
		case strings.HasSuffix(name, segmentSuffix):
			at = SegmentHeaderSize + 2
		case strings.HasSuffix(name, indexSuffix):
			at = 10
		}
		if at < 0 {
			continue
		}
		f, err := m.Open(path.Join(testDir, name))
		if err == nil {
			_, err = f.WriteAt([]byte{0xff, 0xff, 0xff, 0xff}, at)
		}
		if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
			t.Fatal(err)
		}
	}
	o.Past = RanBefore
	l = mustOpen(t, m, o)
	defer l.Close()
	if r := l.Recovery(); !r.Corrupt || len(l.cleaned) != 0 || l.FirstIndex() != 1 {
		t.Fatalf("%+v, %d cleaned files, first %d", r, len(l.cleaned), l.FirstIndex())
	}
}

// What the cleaned part stands for does not count twice, though the file that it came from is still there.
func TestRetentionCountsOnce(t *testing.T) {
	l := mustOpen(t, vfs.NewMem(1), Options{IndexBytes: 200, FirstExtent: 4096, Checkpoints: true, Past: NeverRan})
	defer l.Close()
	mustAppend(t, l, 1, keyedEntries(l, 1, 1, 30, 60))
	mustSync(t, l)
	mustCheckpoint(t, l)
	mustClean(t, l, CleanOptions{})
	if len(l.segs) != 1 {
		t.Fatalf("%d segments: the file that is written to stays", len(l.segs))
	}
	q := Expiry{MaxAge: -1, MaxBytes: 1, End: l.NextOffset()}
	if got := l.Expired(q); got != 0 {
		t.Errorf("retention.bytes lets all of the log go up to %d: only the file that it was cleaned from is larger", got)
	}
	mustAppend(t, l, 1, keyedEntries(l, 1, l.LastIndex()+1, 1, 60))
	mustSync(t, l)
	q.End = l.NextOffset()
	if got := l.Expired(q); got != l.CleanedEnd() {
		t.Errorf("records up to %d may go, %d is the first that is not cleaned", got, l.CleanedEnd())
	}
	if q.MaxBytes = l.segs[0].size; l.Expired(q) != 0 {
		t.Errorf("what is not cleaned takes less than the file that it is in")
	}
}

// A cleaning writes the files from which something goes, and those that are dirty, and leaves the others as they are.
func TestCleanLeavesFilesAlone(t *testing.T) {
	m := vfs.NewMem(1)
	o := Options{SegmentBytes: 4096, IndexBytes: 200, FirstExtent: 4096, Checkpoints: true}
	l := mustOpen(t, m, o)
	const keys = 1000
	mustAppend(t, l, 1, keyedEntries(l, 1, 1, keys/2, keys))
	mustSync(t, l)
	mustCheckpoint(t, l)
	mustClean(t, l, CleanOptions{})
	before := slices.Clone(l.cleaned)
	if len(before) < 10 {
		t.Fatalf("%d files prove nothing", len(before))
	}
	// Records over those of one file in the middle, and a new one.
	hit := len(before) / 2
	base := l.NextOffset()
	recs := []protocol.Record{{Offset: int64(base), Timestamp: 1, Key: fmt.Append(nil, "key", before[hit].base+9), Value: []byte("newer")}, {Offset: int64(base) + 1, Timestamp: 1, Key: []byte("new"), Value: []byte("new")}}
	e := raft.Entry{Term: 1, Index: l.LastIndex() + 1, Type: raft.EntryRecords, Payload: protocol.BuildBatch(recs, protocol.NewBatchOptions())}
	AppendFrame(nil, l.group, &e, base, 2)
	mustAppend(t, l, 1, []raft.Entry{e})
	mustSync(t, l)
	mustCheckpoint(t, l)
	s := mustClean(t, l, CleanOptions{})
	if s.Records != keys+2 || s.Kept != keys+1 || s.Untouched < len(before)-2 || s.Written > 3*4096 {
		t.Errorf("of %d files: %+v", len(before), s)
	}
	for i, f := range before {
		want := i != hit && 4*f.size >= 3*4096 // but for the last one they are about full
		if got := slices.Contains(l.cleaned, f); got != want {
			t.Errorf("file %d of %d bytes: left alone: %v", i, f.size, got)
		}
	}
	check := func(l *Log) {
		t.Helper()
		var want []int64
		for o := range int64(keys + 2) {
			if o != int64(before[hit].base)+9 {
				want = append(want, o)
			}
		}
		if got, err := readAll(t, l); err != nil || !slices.Equal(got, want) {
			t.Errorf("%d records, want %d: %v", len(got), len(want), err)
		}
	}
	check(l)
	// What is left alone belongs to the part that there is: a cleaning that comes to nothing removes its own files only.
	files := func() (n int) {
		names, err := m.ReadDir(l.dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			if strings.HasSuffix(name, cleanedSuffix) {
				n++
			}
		}
		return n
	}
	mustAppend(t, l, 1, keyedEntries(l, 1, l.LastIndex()+1, 1, 1))
	mustSync(t, l)
	mustCheckpoint(t, l)
	up := l.Cleanable(everything).UpTo
	if _, err := l.Clean(CleanOptions{UpTo: up, MapBytes: 1 << 20, Pace: func(int) error { return errKilled }}); !errors.Is(err, errKilled) {
		t.Fatal(err)
	}
	for range 2 { // the second takes the place of the first, which has not taken effect
		if s, err := l.Clean(CleanOptions{UpTo: up, MapBytes: 1 << 20}); err != nil || s.Untouched == 0 {
			t.Fatal(s, err)
		}
	}
	if got, want := files(), len(l.cleaned)+len(l.washed.made); got != want {
		t.Errorf("%d files, want %d", got, want)
	}
	l.dropWashed()
	if got := files(); got != len(l.cleaned) {
		t.Errorf("%d files, want %d", got, len(l.cleaned))
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	l = mustOpen(t, crash(m), o)
	if l.CleanedEnd() != keys+2 {
		t.Fatalf("cleaned up to %d", l.CleanedEnd())
	}
}

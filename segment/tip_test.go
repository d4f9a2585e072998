// The tip of the newest segment: with it a log opens as without it, but for what has to be read; and nothing that happens to a tip, or to
// what it hides, may pass for a log.

package segment

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/balsamq/balsa/internal/vfs"
	"github.com/balsamq/balsa/raft"
)

// known is what a log knows of its entries without reading them. Where index entries stand may differ.
func known(t *testing.T, l *Log) string {
	t.Helper()
	var b strings.Builder
	fmt.Fprintln(&b, l.first, l.last, l.start, l.next, l.synced, l.marked, l.epochs, l.configs)
	for _, s := range l.segs {
		fmt.Fprintln(&b, s.name, s.segmentHeader, s.last, s.next, s.size, s.maxTime)
		for k, e := range s.index {
			if k > 0 && (e.index <= s.index[k-1].index || e.pos <= s.index[k-1].pos) {
				t.Fatalf("index of %s: %v", s.name, s.index)
			}
		}
	}
	return b.String()
}

// eachEntry reads every entry, each for itself, so that each is looked up.
func eachEntry(t *testing.T, l *Log) []raft.Entry {
	t.Helper()
	var out []raft.Entry
	for i := l.FirstIndex(); i <= l.LastIndex(); i++ {
		es, err := l.Entries(i, i+1, 0)
		if err != nil {
			t.Fatalf("entry %d of [%d, %d]: %v", i, l.FirstIndex(), l.LastIndex(), err)
		}
		out = append(out, es...)
	}
	return out
}

func removeAll(t *testing.T, m vfs.FS, suffix string) (n int) {
	t.Helper()
	names, err := m.ReadDir(testDir)
	for _, name := range names {
		if strings.HasSuffix(name, suffix) && err == nil {
			n++
			err = m.Remove(path.Join(testDir, name))
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// A log is written to in lives of random length, with truncations, and each ends with a kill, a close or a power loss. What the next one
// makes of it is the same with the tip as without.
func TestTipEqualsScan(t *testing.T) {
	tips, spared := 0, int64(0)
	for seed := range seeds() {
		rng := rand.New(rand.NewPCG(seed, 7))
		m := vfs.NewMem(seed)
		o := Options{SegmentBytes: 32 << 10, IndexBytes: int64(64 << rng.IntN(6)), ScanBytes: int64(64 << rng.IntN(7)), FirstExtent: 4096, MaxExtent: 16384, Direct: seed%2 == 1}
		term := raft.Term(1)
		for range 12 {
			l := mustOpen(t, m, o)
			for range rng.IntN(20) {
				from := l.LastIndex() + 1
				if rng.IntN(8) == 0 && from > 3 {
					from -= raft.Index(rng.IntN(3))
					term++
				}
				es := records(l, term, from, 1+rng.IntN(4), rng.IntN(700))
				if rng.IntN(4) == 0 {
					base := es[0]
					es = es[:1]
					es[0] = raft.Entry{Term: term, Index: base.Index, Type: raft.EntryConfig, Payload: []byte("members")}
					AppendFrame(nil, testGroup, &es[0], Offset(binary.LittleEndian.Uint64(base.Frame[32:])), 0)
				}
				mustAppend(t, l, term, es)
				mustSync(t, l)
				if rng.IntN(3) == 0 && l.MarkPending() {
					mustSync(t, l)
				}
			}
			switch rng.IntN(3) {
			case 0:
				if err := l.Close(); err != nil {
					t.Fatal(err)
				}
			case 1:
				m = m.CrashClone(rng)
			}
			with := m.CrashClone(rng) // everything that was synced is there, and a tip perhaps by half
			without := with.CrashClone(rng)
			tips += removeAll(t, without, tipSuffix)
			a, b := mustOpen(t, with, o), mustOpen(t, without, o)
			if got, want := known(t, a), known(t, b); got != want {
				t.Fatalf("seed %d: with the tip\n%s\nwithout\n%s", seed, got, want)
			}
			mustBeSound(t, a)
			spared += b.Scanned().Bytes - a.Scanned().Bytes
			if !slices.EqualFunc(eachEntry(t, a), eachEntry(t, b), func(x, y raft.Entry) bool { return bytes.Equal(x.Frame, y.Frame) }) {
				t.Fatalf("seed %d: other entries with the tip", seed)
			}
		}
	}
	if tips == 0 || spared == 0 {
		t.Errorf("%d tips, which spared %d bytes", tips, spared)
	}
}

// However long the newest segment is, Open reads about Options.ScanBytes of it, after a kill; and after an idle moment next to nothing.
func TestTipBoundsTheScan(t *testing.T) {
	for _, direct := range []bool{false, true} {
		m := vfs.NewMem(1)
		o := Options{ScanBytes: 64 << 10, Direct: direct}
		l := mustOpen(t, m, o)
		const write = 5 * 1100 // of each sync, at most
		for l.LastIndex() < 2000 {
			mustAppend(t, l, 1, records(l, 1, l.LastIndex()+1, 5, 1000))
			mustSync(t, l)
			if l.LastIndex()%250 == 0 {
				k := mustOpen(t, m.CrashClone(rand.New(rand.NewPCG(1, 2))), o) // names were synced with the segment's: a tip may be missing
				mustBeSound(t, k)
			}
		}
		l = mustOpen(t, m, o) // killed
		if got := l.Scanned(); got.Segments != 1 || got.Bytes > o.ScanBytes+2*write {
			t.Errorf("direct=%v: after a kill %+v of %d bytes were read", direct, got, l.Size())
		}
		mustAppend(t, l, 1, records(l, 1, l.LastIndex()+1, 5, 1000))
		mustSync(t, l)
		if !l.MarkPending() {
			t.Fatal("no mark is due")
		}
		mustSync(t, l)
		l = mustOpen(t, m, o)
		if got := l.Scanned(); got.Bytes > o.ScanBytes/tipIdle+2*write {
			t.Errorf("direct=%v: after a kill of an idle log %+v of %d bytes were read", direct, got, l.Size())
		}
		if n := len(eachEntry(t, l)); n != 2005 {
			t.Errorf("%d entries", n)
		}
	}
}

// tipped is a log with a tip that ends where the last write begins.
func tipped(t *testing.T, m *vfs.Mem, o Options) (l *Log, segment, tip string) {
	t.Helper()
	l = mustOpen(t, m, o)
	for range 8 {
		mustAppend(t, l, 1, records(l, 1, l.LastIndex()+1, 3, 200))
		mustSync(t, l)
	}
	segment = path.Join(testDir, l.segs[0].name)
	tip = tipName(segment)
	if contents(t, m, testDir)[tip] == nil || l.w.tip.last < 20 {
		t.Fatalf("the tip goes up to %+v", l.w.tip)
	}
	return l, segment, tip
}

// A tip that is damaged is of less use, and no more than that.
func TestDamagedTip(t *testing.T) {
	o := Options{ScanBytes: 500, IndexBytes: 300}
	m := vfs.NewMem(1)
	l, _, name := tipped(t, m, o)
	want, entries := known(t, l), eachEntry(t, l)
	tip := contents(t, m, testDir)[name]
	for at := range tip {
		m := m.CrashClone(rand.New(rand.NewPCG(1, 1)))
		b := bytes.Clone(tip)
		b[at] ^= 1 << (at % 8)
		if at%2 == 0 {
			b = b[:at]
		}
		_ = m.Remove(name) // it may not have survived
		f, err := m.Create(name)
		if err == nil {
			_, err = f.WriteAt(b, 0)
		}
		if err != nil {
			t.Fatal(err)
		}
		l := mustOpen(t, m, o)
		mustBeSound(t, l)
		if got := known(t, l); got != want {
			t.Fatalf("byte %d: %s\nwant %s", at, got, want)
		}
		for range 4 { // the chain goes on where it was good
			mustAppend(t, l, 1, records(l, 1, l.LastIndex()+1, 3, 200))
			mustSync(t, l)
		}
		again := mustOpen(t, m, o)
		if got := eachEntry(t, again); len(got) != len(entries)+12 {
			t.Fatalf("byte %d: %d entries, want %d", at, len(got), len(entries)+12)
		}
		if again.w.tip.last < l.LastIndex()-6 {
			t.Fatalf("byte %d: the tip goes up to %d only", at, again.w.tip.last)
		}
	}
}

// The tip proves that what it speaks of was durable, and the write after it: a segment that has lost that is damaged, not torn.
func TestTipIsEvidence(t *testing.T) {
	o := Options{ScanBytes: 500, IndexBytes: 300}
	for _, c := range []struct {
		what  string
		spoil func(b []byte, pos int64) []byte
	}{
		{"cut short below the tip", func(b []byte, pos int64) []byte { return b[:pos-100] }},
		{"cut at the tip", func(b []byte, pos int64) []byte { return b[:pos] }},
		{"zeros from the tip on", func(b []byte, pos int64) []byte { clear(b[pos:]); return b }},
		{"the write after it damaged", func(b []byte, pos int64) []byte { b[pos+blockHeaderSize+50] ^= 1; return b }},
	} {
		m := vfs.NewMem(1)
		l, segment, _ := tipped(t, m, o)
		b := c.spoil(contents(t, m, testDir)[segment], l.w.tip.pos)
		overwrite(t, m, segment, 0, b)
		f, err := m.Open(segment)
		if err == nil {
			err = f.Truncate(int64(len(b)))
		}
		if err != nil {
			t.Fatal(err)
		}
		k := mustOpen(t, m, o)
		if h := k.Health(); !h.Recovery.Corrupt || h.DamagedUpTo < l.LastIndex() {
			t.Errorf("%s: opened as [%d, %d] of [%d, %d]: %+v", c.what, k.FirstIndex(), k.LastIndex(), l.FirstIndex(), l.LastIndex(), h)
		}
	}
}

// Damage in what the tip covers is met by reads. The read takes the tip away, and the next open puts the damage on record.
func TestDamageBelowTheTip(t *testing.T) {
	o := Options{ScanBytes: 500, IndexBytes: 300}
	m := vfs.NewMem(1)
	_, segment, tip := tipped(t, m, o)
	at := int64(SegmentHeaderSize + blockHeaderSize + 100)
	overwrite(t, m, segment, at, []byte{contents(t, m, testDir)[segment][at] ^ 1})
	l := mustOpen(t, m, o)
	mustBeSound(t, l)
	if _, err := l.Entries(1, 2, 0); err == nil {
		t.Fatal("damage was read")
	}
	if contents(t, m, testDir)[tip] != nil {
		t.Fatal("the tip still hides the damage")
	}
	mustAppend(t, l, 1, records(l, 1, l.LastIndex()+1, 20, 200))
	mustSync(t, l)
	if contents(t, m, testDir)[tip] != nil {
		t.Fatal("a new tip hides the damage")
	}
	if h := mustOpen(t, m, o).Health(); !h.Recovery.Corrupt || h.DamagedUpTo < l.LastIndex() {
		t.Errorf("%+v", h)
	}
}

// FuzzTip decodes a tip of which all checksums are right: whatever it says, it must be something that a scan could have found.
func FuzzTip(f *testing.F) {
	h := segmentHeader{generation: 3, first: 10, base: 100, prevTerm: 2}
	seed := noTip(testGroup, &h)
	one := tip{tipEnd: tipEnd{pos: 9000, last: 14}, next: 120, term: 3, synced: 16, maxTime: 77,
		index: []indexEntry{{10, 100, 4200, 70}, {13, 110, 6000, 77}}, epochs: []epoch{{3, 12, 105}}, configs: []raft.Index{11}}
	b, crc := encodeTip(&one, seed.crc)
	f.Add(b, uint64(100))
	two := tip{tipEnd: tipEnd{pos: 12000, last: 20}, next: 120, term: 3, synced: 20, maxTime: 78, index: []indexEntry{{13, 110, 6000, 78}}}
	more, _ := encodeTip(&two, crc)
	f.Add(append(bytes.Clone(b), more...), uint64(15))
	f.Add(append(bytes.Clone(b), more...), uint64(maxIndex))
	f.Fuzz(func(t *testing.T, b []byte, upTo uint64) {
		b = bytes.Clone(b)
		crc, at := seed.crc, 0
		for at+tipHeaderSize <= len(b) {
			le := binary.LittleEndian
			n := tipHeaderSize + int(le.Uint32(b[at+8:])%1000)*indexEntrySize + int(le.Uint32(b[at+12:])%1000)*epochSize + int(le.Uint32(b[at+16:])%1000)*8
			if n > len(b)-at {
				break
			}
			crc = crc32.Update(crc, castagnoli, b[at+8:at+n])
			le.PutUint32(b[at+4:], crc)
			at += n
		}
		got := decodeTip(testGroup, &h, b, raft.Index(upTo))
		if got.size > int64(len(b)) || got.pos < SegmentHeaderSize || got.last < h.first-1 || got.last > max(raft.Index(upTo), h.first-1) || got.last > maxIndex ||
			got.next < h.base || got.term < h.prevTerm || (got.size == 0) != (len(got.index) == 0) {
			t.Fatalf("%+v", got)
		}
		for k, e := range got.index {
			if k == 0 && e.index != h.first || e.index > got.last || e.pos >= got.pos || k > 0 && (e.index <= got.index[k-1].index || e.pos <= got.index[k-1].pos) {
				t.Fatalf("entry %d of %+v", k, got)
			}
		}
		for k, e := range got.epochs {
			if e.term <= h.prevTerm || e.term > got.term || e.first > got.last || k > 0 && e.term <= got.epochs[k-1].term {
				t.Fatalf("term %d of %+v", k, got)
			}
		}
		if !slices.IsSorted(got.configs) {
			t.Fatalf("memberships of %+v", got)
		}
	})
}

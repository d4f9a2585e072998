package segment

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"path"
	"path/filepath"
	"strings"
	"testing"
	"unsafe"

	"github.com/balsamq/balsa/internal/vfs"
	"github.com/balsamq/balsa/raft"
)

func always() bool { return true }

// inside reports whether b is a part of the memory of whole.
func inside(b, whole []byte) bool {
	at, from := uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(unsafe.Pointer(unsafe.SliceData(whole)))
	return at >= from && at+uintptr(len(b)) <= from+uintptr(len(whole))
}

// sideBySide moves frames to one memory that begins at off behind a multiple of the unit, as those of a message are.
func sideBySide(es []raft.Entry, off int) []byte {
	size := 0
	for i := range es {
		size += len(es[i].Frame)
	}
	mem := vfs.Aligned(int(unitAbove(int64(off+size)) + vfs.DirectUnit))[off : off+size]
	for at, i := 0, 0; i < len(es); i++ {
		n := copy(mem[at:], es[i].Frame)
		es[i].Frame = mem[at : at+n]
		es[i].Payload = mem[at+FrameHeaderSize : at+n : at+n]
		at += n
	}
	return mem
}

// Whatever is gathered, wherever it lies: the pieces together are the same bytes, each is one that the disk takes, what the log ends in is in the
// buffer, and of what lies as it must only the ends are copied.
func TestGather(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	lent := 0
	for round := range 3000 {
		w := &writer{base: rng.Int64N(5) * vfs.DirectUnit}
		w.part = make([]byte, rng.IntN(vfs.DirectUnit))
		want := bytes.Clone(w.part)
		pos := w.base + int64(len(w.part))
		var bufs [][]byte
		copied := 0
		for range rng.IntN(6) {
			n := 1 + rng.IntN(5*vfs.DirectUnit)
			mem := vfs.Aligned(7 * vfs.DirectUnit)
			fits := rng.IntN(2) == 0
			b := mem[rng.IntN(vfs.DirectUnit):][:n]
			if fits {
				b = mem[pos&(vfs.DirectUnit-1):][:n]
			}
			fill(rng, b)
			bufs, want, pos = append(bufs, b), append(want, b...), pos+int64(n)
			if !fits || n < inPlaceFrom {
				copied += n
			} else {
				copied += 2 * vfs.DirectUnit
			}
		}
		g := w.gather(vfs.Aligned(1<<20), pos)
		for _, b := range append([][]byte{w.part}, bufs...) {
			if rest := g.add(b); len(rest) > 0 {
				t.Fatalf("round %d: no room for %d bytes", round, len(rest))
			}
		}
		rest := bytes.Clone(g.rest())
		if used := g.n - len(w.part); used > copied+vfs.DirectUnit {
			t.Fatalf("round %d: %d bytes are copied, at most %d must be", round, used, copied)
		}
		zeros := rng.IntN(3) * vfs.DirectUnit
		var got []byte
		for _, p := range g.end(zeros) {
			if len(p)%vfs.DirectUnit != 0 || uintptr(unsafe.Pointer(unsafe.SliceData(p)))%vfs.DirectUnit != 0 {
				t.Fatalf("round %d: a piece of %d bytes at %p", round, len(p), p)
			}
			if !inside(p, g.buf) {
				lent++
			}
			got = append(got, p...)
		}
		if !bytes.Equal(rest, want[unitBelow(int64(len(want))):]) {
			t.Fatalf("round %d: the last unit is %d bytes, want %d", round, len(rest), len(want)%vfs.DirectUnit)
		}
		if end := int(unitAbove(int64(len(want)))) + zeros; len(got) != end || !bytes.Equal(got[:len(want)], want) || len(bytes.Trim(got[len(want):], "\x00")) > 0 {
			t.Fatalf("round %d: other bytes, %d of them, want %d and zeros up to %d", round, len(got), len(want), end)
		}
	}
	if lent < 1000 {
		t.Errorf("only %d pieces were written from where they lie", lent)
	}
}

// Runs of frames are written from their own memory, on the disk as in memory, by one write or several, whole or by halves, and read as ever, by all
// ways of reading.
func TestRunsAreWrittenFromWhereTheyLie(t *testing.T) {
	for name, f := range map[string]vfs.FS{"mem": vfs.NewMem(1), "disk": vfs.OS()} {
		t.Run(name, func(t *testing.T) {
			dir := "data/group"
			if name == "disk" {
				dir = t.TempDir()
			}
			o := Options{Direct: true, Pads: always, SegmentBytes: 16 << 20, ZeroAhead: 10_000}
			l := mustOpenAt(t, f, dir, o)
			rng := rand.New(rand.NewPCG(3, 4))
			var want [][]byte
			lent, most := 0, 0
			for round := range 60 {
				n, size := 1+rng.IntN(12), []int{50, 3000, 20_000, 70_000, 400_000}[round%5]
				es := records(l, 1, l.LastIndex()+1, n, size)
				var mem []byte
				if round%2 == 0 {
					mem = sideBySide(es, rng.IntN(2*vfs.DirectUnit))
				}
				for i := range es {
					want = append(want, bytes.Clone(es[i].Frame))
				}
				mustAppend(t, l, 1, es)
				if w, _, ok := l.BeginSync(vfs.Aligned(4 << 20)); ok {
					for _, p := range w.Bufs {
						most += len(p)
						in := mem != nil && inside(p, mem)
						for i := range es {
							in = in || inside(p, es[i].Frame)
						}
						if in {
							lent += len(p)
						}
					}
					if _, err := l.EndSync(w.File.WriteSync(w.Bufs, w.Off)); err != nil {
						t.Fatal(err)
					}
				} else {
					mustSync(t, l)
				}
			}
			if !l.segs[0].padded || l.w.direct && lent*3 < most*2 {
				t.Errorf("padded %v; %d of %d bytes were written from where they lie", l.segs[0].padded, lent, most)
			}
			check := func(what string, l *Log) {
				t.Helper()
				for i := 0; i < len(want); {
					es, err := l.Entries(raft.Index(i+1), raft.Index(len(want)+1), 1<<20)
					if err != nil {
						t.Fatalf("%s: entry %d: %v", what, i+1, err)
					}
					for _, e := range es {
						if !bytes.Equal(e.Frame, want[i]) {
							t.Fatalf("%s: entry %d is another", what, i+1)
						}
						i++
					}
				}
			}
			check("from memory", l)
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
			o.Cache = NewCache(0)
			l = mustOpenAt(t, f, dir, o)
			check("from the files", l)
			for i := 0; i < len(want); {
				es, err := l.EntriesBehind(raft.Index(i+1), raft.Index(len(want)+1), 1<<20)
				if err != nil || len(es) == 0 || !bytes.Equal(es[0].Frame, want[i]) {
					t.Fatalf("behind: entry %d: %v", i+1, err)
				}
				i += len(es)
			}
			var out strings.Builder
			if err := Dump(f, dir, &out, DumpOptions{Frames: true}); err != nil || strings.Contains(out.String(), "damage") {
				t.Errorf("%v\n%s", err, out.String())
			}
			s := l.Scrub(1)
			for n := int64(1); n > 0; {
				var err error
				if n, err = s.Step(1 << 20); err != nil {
					t.Fatal(err)
				}
			}
			if s.At() <= l.LastIndex() && s.At() <= l.marked {
				t.Errorf("verified up to %d of %d", s.At(), l.LastIndex())
			}
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
			for _, s := range l.segs { // the index is believed: have all of it scanned
				_ = f.Remove(filepath.Join(dir, indexName(s.name)))
				_ = f.Remove(filepath.Join(dir, tipName(s.name)))
			}
			l = mustOpenAt(t, f, dir, o)
			if r := l.Recovery(); r.Torn || r.Corrupt || l.LastIndex() != raft.Index(len(want)) {
				t.Errorf("opened at %d of %d: %+v", l.LastIndex(), len(want), r)
			}
			check("scanned", l)
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// A log that has written keeps none of the frames alive that it has written from where they lay, and no more than a little memory for the next write.
func TestPiecesAreForgotten(t *testing.T) {
	l := mustOpen(t, vfs.NewMem(1), Options{Direct: true, Pads: always, PadShare: 1, SegmentBytes: 32 << 20})
	defer l.Close()
	for _, n := range []int{1, 40, 400} { // one write, several buffers full of ends
		var es []raft.Entry
		for i := range n {
			es = append(es, records(l, 1, l.LastIndex()+1, 1, 16<<10)...)
			sideBySide(es[i:], 1+i%(vfs.DirectUnit-1))
			mustAppend(t, l, 1, es[i:])
		}
		mustSync(t, l)
		if k := cap(l.w.pieces); k > 64 {
			t.Errorf("after %d frames there is memory for %d pieces", n, k)
		}
		for _, p := range l.w.pieces[:cap(l.w.pieces)] {
			if p != nil {
				t.Fatalf("after %d frames a piece of %d bytes is kept", n, len(p))
			}
		}
	}
}

// A segment without padding goes on without, one that has some goes on with it, and what is begun is as the owner says.
func TestPaddedFromTheNextSegmentOn(t *testing.T) {
	m := vfs.NewMem(1)
	padded := func(l *Log) (out []bool) {
		for _, s := range l.segs {
			b := contents(t, m, testDir)[path.Join(testDir, s.name)]
			if v := binary.LittleEndian.Uint16(b[8:]); s.padded != (v == paddedVersion) || !s.padded && v != segmentVersion {
				t.Fatalf("%s: version %d, padded %v", s.name, v, s.padded)
			}
			out = append(out, s.padded)
		}
		return out
	}
	for step, pads := range []bool{false, true, true, false, false} {
		o := Options{Direct: true, Pads: func() bool { return pads }, PadFrom: 100, PadShare: 1, SegmentBytes: 64 << 10}
		l := mustOpen(t, m, o)
		for range 5 {
			mustAppend(t, l, 1, records(l, 1, l.LastIndex()+1, 1, 10_000))
			mustSync(t, l)
		}
		if got := padded(l); got[0] {
			t.Fatalf("step %d: %v", step, got)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
	l := mustOpen(t, m, Options{})
	if got := fmt.Sprint(padded(l)); l.LastIndex() != 25 || got != "[false true true false false]" {
		t.Errorf("%d entries in files that are padded: %v", l.LastIndex(), got)
	}
	if es, err := l.Entries(1, 26, 1<<30); err != nil || len(es) != 25 {
		t.Errorf("%d entries, %v", len(es), err)
	}
}

// paddedLog is a log of three syncs, each a run behind padding and a small frame, and what it has written.
func paddedLog(t testing.TB) (m *vfs.Mem, l *Log, name string, written []byte) {
	m = vfs.NewMem(1)
	l = mustOpen(t, m, Options{Direct: true, Pads: always, PadFrom: 400, PadShare: 1})
	for range 3 {
		es := records(l, 1, l.LastIndex()+1, 2, 300)
		sideBySide(es, int(l.w.pos+blockHeaderSize+500)%vfs.DirectUnit)
		mustAppend(t, l, 1, es)
		mustAppend(t, l, 1, records(l, 1, l.LastIndex()+1, 1, 10))
		mustSync(t, l)
	}
	name = path.Join(testDir, l.segs[0].name)
	return m, l, name, contents(t, m, testDir)[name][:l.segs[0].size]
}

// One bit is flipped at every byte of a padded log. In the padding it changes nothing; elsewhere it is damage, or the end of the log is torn.
func TestFlipEveryPaddedByte(t *testing.T) {
	m, l, name, full := paddedLog(t)
	inPadding := make([]bool, len(full))
	blocks, last := 0, int64(0)
	for pos := int64(SegmentHeaderSize); pos < int64(len(full)); {
		h, err := decodeBlockHeader(l.group, full[pos:])
		if err != nil {
			t.Fatal(err)
		}
		for i := range h.pad {
			inPadding[pos+blockHeaderSize+int64(i)] = true
		}
		if h.pad > 0 {
			blocks++
			last = pos
		}
		pos += int64(h.body()) + int64(h.length)
	}
	if blocks != 3 {
		t.Fatalf("%d blocks have padding", blocks)
	}
	for at := range int64(len(full)) {
		if inPadding[at] && at%64 != 0 {
			continue
		}
		c := crash(m)
		overwrite(t, c, name, at, []byte{full[at] ^ 1<<(at%8)})
		o, err := Open(c, testDir, testGroup, Options{})
		if err != nil {
			t.Fatalf("byte %d: %v", at, err)
		}
		r := o.Health().Recovery
		switch {
		case inPadding[at]:
			if r.Torn || r.Corrupt || o.LastIndex() != 9 {
				t.Fatalf("byte %d of padding: [.., %d], %+v", at, o.LastIndex(), r)
			}
		case at >= last:
			if !r.Torn || r.Corrupt || o.LastIndex() < 6 || o.LastIndex() == 9 {
				t.Fatalf("byte %d of the tail: [.., %d], %+v", at, o.LastIndex(), r)
			}
		default:
			if !r.Corrupt || r.DamagedUpTo != 9 || o.LastIndex() >= 6 {
				t.Fatalf("byte %d of the middle: [.., %d], %+v", at, o.LastIndex(), r)
			}
		}
		if n := o.LastIndex(); n > 0 {
			if es, err := o.Entries(1, n+1, 1<<30); err != nil || len(es) != int(n) {
				t.Fatalf("byte %d: %d entries of %d, %v", at, len(es), n, err)
			}
		}
	}
}

// The last sync cut at every byte, or zeros from any byte on: a torn tail, and all before it is intact.
func TestPaddedTornAtEveryByte(t *testing.T) {
	m, l, name, full := paddedLog(t)
	start := l.segs[0].size
	es := records(l, 1, l.LastIndex()+1, 2, 300)
	sideBySide(es, int(start+blockHeaderSize+500)%vfs.DirectUnit)
	mustAppend(t, l, 1, es)
	mustSync(t, l)
	if start != int64(len(full)) {
		t.Fatal(start, len(full))
	}
	end := l.segs[0].size
	for at := start; at < end; at++ {
		if at > start+100 && at < end-700 && at%64 != 0 {
			continue // padding
		}
		c := crash(m)
		overwrite(t, c, name, at, make([]byte, end-at))
		l := mustOpen(t, c, Options{})
		if h := l.Health(); h.Recovery.Corrupt || l.LastIndex() != 9 || h.Recovery.Torn != (at > start) {
			t.Fatalf("zeros from %d of %d..%d: [.., %d], %+v", at, start, end, l.LastIndex(), h.Recovery)
		}
	}
}

func TestBlockHeaderPadding(t *testing.T) {
	for _, c := range []struct {
		h    blockHeader
		good bool
	}{
		{blockHeader{count: 1, length: 100, generation: 1, first: 5, synced: 4}, true},
		{blockHeader{pad: 1, count: 1, length: 100, generation: 1, first: 5, synced: 4}, true},
		{blockHeader{pad: maxPad, count: 1, length: 100, generation: 1, first: 5, synced: 4}, true},
		{blockHeader{pad: maxPad + 1, count: 1, length: 100, generation: 1, first: 5, synced: 4}, false},
		{blockHeader{generation: 1, first: 5, synced: 4}, true},
		{blockHeader{pad: 1, generation: 1, first: 5, synced: 4}, false},
	} {
		b := make([]byte, blockHeaderSize)
		c.h.encode(testGroup, b)
		if h, err := decodeBlockHeader(testGroup, b); (err == nil) != c.good || c.good && h != c.h {
			t.Errorf("%+v: decoded %+v, %v", c.h, h, err)
		}
	}
}

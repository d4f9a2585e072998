// What a direct write is made of: frames where they lie, if they are large, and the rest copied into an aligned buffer.
//
// The disk takes memory and places that are multiples of vfs.DirectUnit. Frames are anywhere in memory, and blocks end anywhere in the file; but
// where the two are off by the same, all whole units in between can be written from the frames' own memory. So what is large (a run: frames that lie side by
// side, as those of one message do, or a single one) gets a block of its own, with as much padding behind its header as that takes. Only both
// ends of a run are copied:
//
//	file     | whole units .. | header, padding, run ............................... | header, padding, run ...
//	units    |                         |           |           |           |                       |
//	buffer   [part, header, padding, begin]                                [end, header, padding, b]
//	lent                               [run, where it lies ................]                       [run ...
//
// The unit that the log ends in is always in the buffer, for it is kept and written again. A frame is never changed once it is appended, and whoever
// writes it keeps it alive, so nothing else has to know.

package segment

import (
	"unsafe"

	"github.com/balsamq/balsa/internal/vfs"
)

// inPlaceFrom is from how many bytes on what happens to lie as it must is written from there.
const inPlaceFrom = 2 * vfs.DirectUnit

// maxKeptPieces bounds the pieces whose memory a log keeps for the next write.
const maxKeptPieces = 64

// gather makes the pieces of one direct write, each of whole units.
type gather struct {
	buf    []byte
	n      int   // of buf: used
	from   int   // of buf: what is in no piece yet
	at     int64 // in the file: where the next byte goes
	last   int64 // in the file: the unit that the log will end in
	pieces [][]byte
}

// gather is for a write from base on, after which the log ends at end.
func (w *writer) gather(buf []byte, end int64) gather {
	return gather{buf: buf, at: w.base, last: unitBelow(end), pieces: w.pieces[:0]}
}

// forgetPieces lets go of the frames of a write that is over, those of its earlier parts included: the log may write nothing more for long. What a
// large one has made large is not kept.
func (w *writer) forgetPieces() {
	if w.pieces = w.pieces[:cap(w.pieces)]; len(w.pieces) > maxKeptPieces {
		w.pieces = nil
	}
	clear(w.pieces)
}

func (g *gather) full() bool { return g.n == len(g.buf) }

// add takes b, and returns what it has no room for.
func (g *gather) add(b []byte) []byte {
	if len(b) >= inPlaceFrom && padding(b, g.at) == 0 {
		from, to := unitAbove(g.at), min(unitBelow(g.at+int64(len(b))), g.last)
		if skip := int(from - g.at); from < to && skip < len(g.buf)-g.n {
			g.copy(b[:skip])
			g.cut(g.n)
			g.pieces = append(g.pieces, b[skip:skip+int(to-from)])
			g.at = to
			b = b[skip+int(to-from):]
		}
	}
	return b[g.copy(b):]
}

func (g *gather) copy(b []byte) int {
	c := copy(g.buf[g.n:], b)
	g.n, g.at = g.n+c, g.at+int64(c)
	return c
}

// cut makes a piece of what is in buf up to to.
func (g *gather) cut(to int) {
	if to > g.from {
		g.pieces = append(g.pieces, g.buf[g.from:to])
	}
	g.from = to
}

// rest is what stands in the unit that the log ends in.
func (g *gather) rest() []byte { return g.buf[unitBelow(int64(g.n)):g.n] }

// end fills the last unit with zeros, and appends so many more.
func (g *gather) end(zeros int) [][]byte {
	end := int(unitAbove(int64(g.n))) + zeros
	clear(g.buf[g.n:end])
	g.cut(end)
	g.n = end
	return g.pieces
}

// padding is by how much pos in the file must grow so that b can be written to there from where it lies.
func padding(b []byte, pos int64) uint32 {
	return uint32(int64(uintptr(unsafe.Pointer(unsafe.SliceData(b))))-pos) & (vfs.DirectUnit - 1)
}

// padFrom is from how many bytes on a run gets a block of its own; 0: there is no such.
func (l *Log) padFrom() int {
	if w := &l.w; w.seg.padded && w.direct {
		return l.opt.PadFrom
	}
	return 0
}

// together is how many of recs lie side by side in the same memory, and that memory, up to a block's worth.
func together(recs []record) (n int, run []byte) {
	run = recs[0].Frame
	for n = 1; n < len(recs); n++ {
		f, end := recs[n].Frame, len(run)+len(recs[n].Frame)
		if end > min(cap(run), maxBlockBytes) || unsafe.SliceData(run[len(run):end]) != unsafe.SliceData(f) {
			break
		}
		run = run[:end]
	}
	return n, run
}

// nextBlock is how many of recs are one block, and how many bytes these are: a run of padFrom bytes and more, or what comes before the next one.
func nextBlock(recs []record, padFrom int) (n, bytes int, run []byte) {
	fits := func() bool { return n == 0 || n < len(recs) && bytes+len(recs[n].Frame) <= maxBlockBytes }
	for fits() {
		k := 1
		if padFrom > 0 {
			if k, run = together(recs[n:]); len(run) >= padFrom {
				if n == 0 {
					return k, len(run), run
				}
				break
			}
		}
		for ; k > 0 && fits(); k-- {
			bytes += len(recs[n].Frame)
			n++
		}
	}
	return n, bytes, nil
}

// Putting bytes into the file that is being written: as they come, or past the page cache.
//
// A buffered append is copied into the page cache, which has to find, lock, dirty and write back each page: more work for
// the processor than all else that is done for a record. A direct write costs a copy into an aligned buffer, and less of what is large:
// see gather.go. It must begin and end at a multiple of vfs.DirectUnit, and blocks end anywhere, so the last unit is written again with what
// follows it:
//
//	file     | whole units ............. | unit that pos is in     | zeros of the extent
//	                                     ^ base         ^ pos
//	part                                 [part..........]
//	write                                [part..........|blocks.........................|0000]
//
// The bytes of part are on the disk already, durable perhaps, and the same bytes are written over them: a power loss in
// the middle leaves each sector old or new, and both hold them. (The page cache does no different: it writes whole pages.)
//
// A direct write waits for the disk, as does what is acknowledged by it. So where no sync follows (relaxed.go) small ones go to the page cache, in
// the same file: what is written directly to a unit afterwards goes to the disk behind them.

package segment

import (
	"sync"

	"github.com/balsamq/balsa/internal/vfs"
)

// directBytes bounds one direct write, and is the size of the buffers that they are made in. Each Sync that runs holds one.
const directBytes = 1 << 20

// smallRun is after how many small writes, one after the other, the next goes to the page cache, which takes it in a tenth of the time that a disk
// does. Where large ones come in between each of them would first have to wait for what the cache has of its first unit.
const smallRun = 8

var directBuffers = sync.Pool{New: func() any {
	b := vfs.Aligned(directBytes)
	return &b
}}

func unitBelow(n int64) int64 { return n &^ (vfs.DirectUnit - 1) }
func unitAbove(n int64) int64 { return unitBelow(n + vfs.DirectUnit - 1) }

// setDirect switches a file to direct writes, if that is wanted and possible. part are the bytes before pos from base on.
func (w *writer) setDirect(base int64, part []byte) bool {
	if w.direct = w.file.SetDirect(); w.direct {
		w.base, w.part = base, part
	}
	return w.direct
}

// put writes bufs, length bytes together, at pos and moves pos behind them. A new file's header goes out with its first bytes. After
// an error some of it may be there: never write over it, for a shorter block would leave valid ones behind its end. alone says that a
// sync is due next, and that nothing else waits for it: then the two may be one call. cached says that no sync is: then the page cache gets it, if it is
// as little as what came before it.
func (l *Log) put(bufs [][]byte, length int64, alone, cached bool) error {
	w := &l.w
	var err error
	if w.small++; !cached || length > smallWrite {
		w.small = 0
	}
	w.ahead = w.ahead || cached
	switch w.synced = false; {
	case w.direct && w.small > smallRun:
		err = w.putCached(bufs, length)
	case w.direct:
		err = w.putDirect(bufs, length, alone)
	case w.fresh && w.pos == SegmentHeaderSize:
		_, err = w.file.WritevAt(append([][]byte{w.seg.encode(l.group)}, bufs...), 0)
	default:
		_, err = w.file.WritevAt(bufs, w.pos)
	}
	if err != nil {
		w.seal = true
		return err
	}
	w.pos += length
	return nil
}

func (w *writer) putDirect(bufs [][]byte, length int64, alone bool) error {
	pooled := directBuffers.Get().(*[]byte)
	defer directBuffers.Put(pooled)
	g := w.gather(*pooled, w.pos+length)
	defer w.forgetPieces()
	at := w.base
	add := func(b []byte) error {
		for b = g.add(b); g.full(); b = g.add(b) {
			w.pieces = g.end(0)
			if _, err := w.file.WritevAt(w.pieces, at); err != nil {
				return err
			}
			at, alone = g.at, false
			g = w.gather(*pooled, w.pos+length)
			g.at = at
		}
		return nil
	}
	if err := add(w.part); err != nil {
		return err
	}
	for _, b := range bufs {
		if err := add(b); err != nil {
			return err
		}
	}
	rest := g.rest()
	if w.pieces = g.end(0); len(w.pieces) > 0 {
		if alone {
			if err := w.file.WriteSync(w.pieces, at); err != nil {
				return err
			}
			w.synced = true
		} else if _, err := w.file.WritevAt(w.pieces, at); err != nil {
			return err
		}
	}
	w.base, w.part = unitBelow(w.pos+length), append(w.part[:0], rest...)
	return nil
}

// putCached is putDirect through the page cache. The last unit is kept as well: what comes next may be direct again.
func (w *writer) putCached(bufs [][]byte, length int64) error {
	if _, err := w.file.WriteCached(bufs, w.pos); err != nil {
		return err
	}
	skip := int64(0)
	if base := unitBelow(w.pos + length); base > w.base {
		skip = base - w.pos
		w.base, w.part = base, w.part[:0]
	}
	for _, b := range bufs {
		n := min(skip, int64(len(b)))
		w.part, skip = append(w.part, b[n:]...), skip-n
	}
	return nil
}

// zeroDirect overwrites [from, to), whole units of the extent, with zeros.
func (w *writer) zeroDirect(from, to int64) error {
	pooled := directBuffers.Get().(*[]byte)
	defer directBuffers.Put(pooled)
	buf := (*pooled)[:min(to-from, directBytes)]
	clear(buf)
	for from < to {
		n, err := w.file.WriteAt(buf[:min(to-from, int64(len(buf)))], from)
		if err != nil {
			return err
		}
		from += int64(n)
	}
	return nil
}

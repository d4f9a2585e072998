// Reading a segment file from end to end, trusting nothing: for recovery and for the inspector.

package segment

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/balsamq/balsa/internal/vfs"
	"github.com/balsamq/balsa/raft"
)

// scanWindow is how much of a file is read at once.
const scanWindow = 1 << 20

// fileWindow reads a file through a buffer that follows the reader.
type fileWindow struct {
	f    vfs.File
	size int64
	buf  []byte
	off  int64
}

// bytes returns n bytes at pos, or fewer at the end of the file. They are valid until the next call.
func (w *fileWindow) bytes(pos int64, n int) ([]byte, error) {
	n = int(min(int64(n), w.size-pos))
	if n <= 0 {
		return nil, nil
	}
	if pos < w.off || pos+int64(n) > w.off+int64(len(w.buf)) {
		want := int(min(int64(max(n, scanWindow)), w.size-pos))
		if cap(w.buf) < want {
			w.buf = make([]byte, want)
		}
		w.buf, w.off = w.buf[:want], pos
		got, err := w.f.ReadAt(w.buf, pos)
		w.buf = w.buf[:got]
		if err != nil && !errors.Is(err, io.EOF) {
			return nil, err
		}
		n = min(n, got)
	}
	at := int(pos - w.off)
	return w.buf[at : at+n], nil
}

// zeroFrom reports whether there are only zeros from pos to the end of the file.
func (w *fileWindow) zeroFrom(pos int64) (bool, error) {
	for pos < w.size {
		if pos = vfs.NextData(w.f, pos); pos >= w.size {
			return true, nil
		}
		b, err := w.bytes(pos, scanWindow)
		if err != nil {
			return false, err
		}
		if len(b) == 0 {
			return true, nil
		}
		if b[0] != 0 || !bytes.Equal(b[1:], b[:len(b)-1]) { // each like the one before
			return false, nil
		}
		pos += int64(len(b))
	}
	return true, nil
}

// findBlock finds the first believable block header of the generation at or after pos; false if there is none.
func (w *fileWindow) findBlock(group raft.GroupID, generation uint64, pos int64) (int64, blockHeader, bool, error) {
	var magic [4]byte
	binary.LittleEndian.PutUint32(magic[:], blockMagic)
	for pos < w.size {
		pos = vfs.NextData(w.f, pos)
		b, err := w.bytes(pos, scanWindow)
		if err != nil || len(b) < blockHeaderSize {
			return 0, blockHeader{}, false, err
		}
		k := bytes.Index(b, magic[:])
		if k < 0 || len(b)-k < blockHeaderSize {
			if int64(len(b)) >= w.size-pos {
				return 0, blockHeader{}, false, nil
			}
			if k < 0 {
				k = len(b) - (len(magic) - 1)
			}
			pos += int64(k)
			continue
		}
		if h, err := decodeBlockHeader(group, b[k:]); err == nil && h.generation == generation {
			return pos + int64(k), h, true, nil
		}
		pos += int64(k) + 1
	}
	return 0, blockHeader{}, false, nil
}

// blockRef is a block and its last index.
type blockRef struct {
	pos  int64
	last raft.Index
}

// segmentScan is what reading a segment file found.
type segmentScan struct {
	end  int64      // behind the last good block
	last raft.Index // of the good entries
	next Offset
	term raft.Term // of the last good entry
	// mark is the highest synced index that a good block notes; lateMark that of believable block headers behind the
	// first bad one.
	mark, lateMark raft.Index
	// lateEnd is the last index that a believable header behind the first bad block speaks of, marked or not.
	lateEnd raft.Index
	// behindMark: a believable block stands there behind one that is a mark and nothing else. Such a one is a write of its own, and
	// synced before the next: so are the file's header and all else before it.
	behindMark bool
	// bad is why the block at end was not accepted; nil at the limit and at the end of what was written.
	bad error
	// unmarked are blocks with entries above mark.
	unmarked []blockRef
	// markAt is where the last good block stands if it is a mark, without entries; else 0.
	markAt int64
}

// scanSegment reads the blocks of a segment file up to entry upTo, and yields its entries. If it meets a block that
// is not good it looks for believable ones behind it.
func scanSegment(w *fileWindow, group raft.GroupID, h *segmentHeader, upTo raft.Index, yield func(pos int64, r *record),
) (segmentScan, error) {
	t := noTip(group, h)
	return scanFrom(&t, w, group, h, upTo, yield)
}

// scanFrom is scanSegment for a file of which t is known to be so.
func scanFrom(t *tip, w *fileWindow, group raft.GroupID, h *segmentHeader, upTo raft.Index, yield func(pos int64, r *record)) (segmentScan, error) {
	s := segmentScan{end: t.pos, last: t.last, next: t.next, term: t.term}
	for s.last < upTo {
		b, err := w.bytes(s.end, blockHeaderSize)
		if err != nil {
			return s, err
		}
		if len(b) == 0 {
			return s, nil
		}
		if len(b) < 4 || frameWord(b) != blockMagic {
			zero, err := w.zeroFrom(s.end)
			if err != nil {
				return s, err
			}
			if zero {
				return s, nil
			}
		}
		s.bad = s.block(w, group, h, b, upTo, yield)
		if s.bad != nil {
			if ioErr, ok := errors.AsType[*scanIOError](s.bad); ok {
				return s, ioErr.err
			}
			return s, s.lookBehind(w, group, h.generation)
		}
	}
	return s, nil
}

// scanIOError tells "could not be read" from "is not good".
type scanIOError struct{ err error }

func (e *scanIOError) Error() string { return e.err.Error() }

func (s *segmentScan) block(w *fileWindow, group raft.GroupID, h *segmentHeader, b []byte, upTo raft.Index, yield func(int64, *record)) error {
	bh, err := decodeBlockHeader(group, b)
	switch {
	case err != nil:
		return err
	case bh.generation != h.generation:
		return fmt.Errorf("%w: generation %d in a file of %d", errBadBlock, bh.generation, h.generation)
	case bh.first != s.last+1:
		return fmt.Errorf("%w: begins at %d where %d belongs", errBadBlock, bh.first, s.last+1)
	}
	at := s.end + int64(bh.body())
	body, err := w.bytes(at, int(bh.length))
	if err != nil {
		return &scanIOError{err}
	}
	if len(body) < int(bh.length) {
		return fmt.Errorf("%w: file ends %d bytes early", errBadBlock, int(bh.length)-len(body))
	}
	err = decodeBlock(group, &bh, body, s.term, s.next, upTo, func(off int, r *record) {
		s.last, s.next, s.term = r.Index, r.next(), r.Term
		yield(at+int64(off), r)
	})
	if err != nil {
		return err
	}
	start := s.end
	if s.markAt = 0; bh.length == 0 {
		s.markAt = start
	}
	s.end = at + int64(bh.length)
	s.mark = max(s.mark, bh.synced)
	for len(s.unmarked) > 0 && s.unmarked[0].last <= s.mark {
		s.unmarked = s.unmarked[1:]
	}
	if s.last > s.mark {
		s.unmarked = append(s.unmarked, blockRef{start, s.last})
	}
	return nil
}

// lookBehind collects the evidence behind a bad block.
func (s *segmentScan) lookBehind(w *fileWindow, group raft.GroupID, generation uint64) error {
	marked := false
	for pos := s.end + 1; ; {
		at, h, ok, err := w.findBlock(group, generation, pos)
		if err != nil || !ok {
			return err
		}
		s.behindMark = s.behindMark || marked
		marked = marked || h.count == 0
		s.lateMark = max(s.lateMark, h.synced)
		if h.count > 0 {
			s.lateEnd = max(s.lateEnd, h.first+raft.Index(h.count)-1)
		}
		pos = at + 1
	}
}

// The Sync that is one direct write to a file that is there already: nearly every one of a log that is written to. It comes apart into what
// precedes the write and what follows it, so that whoever syncs many logs can have the disk do their writes side by side (multi.SplitLog). Sync
// itself goes the same way. What it does not cover (new files and generations, a disk that runs full, what is too large) is in sync.go.

package segment

import (
	"errors"
	"fmt"
	"sync"

	"github.com/balsamq/balsa/internal/vfs"
	"github.com/balsamq/balsa/raft"
)

// single is such a Sync between its two halves.
type single struct {
	job    job    // without entries: all are durable, and a mark that says so is due
	next   Offset // after the entry that job.mark is
	pub    publication
	ticket raft.Ticket
	length int64  // of the blocks
	rest   []byte // what stands in the unit that they end in; in buf
	zeroed int64  // the extent is overwritten with zeros up to here; 0: nothing is new
}

var singles = sync.Pool{New: func() any { return new(single) }}

// BeginSync implements multi.SplitLog: it makes ready what a Sync would write, with memory from the beginning of buf, and returns the rest of that.
// false: it cannot, or somebody else changes files at this moment. After true the log is busy until EndSync.
func (l *Log) BeginSync(buf []byte) (w vfs.SyncWrite, rest []byte, ok bool) {
	if !l.io.TryLock() {
		return vfs.SyncWrite{}, buf, false
	}
	s := l.takeSingle(len(buf))
	if s == nil {
		l.io.Unlock()
		return vfs.SyncWrite{}, buf, false
	}
	l.single = s
	w, used := l.encodeSingle(s, buf)
	return w, buf[used:], true
}

// EndSync implements multi.SplitLog: err is what became of the write.
func (l *Log) EndSync(err error) (raft.Ticket, error) {
	s := l.single
	l.single = nil
	t, err := l.endSingle(s, err)
	l.io.Unlock()
	if err == nil {
		l.opt.Cache.evict()
	}
	return t, err
}

// takeSingle takes on what is pending, if that can be written with one direct write of room bytes at most; else nil. The caller holds io.
func (l *Log) takeSingle(room int) *single {
	w := &l.w
	if w.seg == nil || !w.direct || w.fresh || w.seal || w.redo != 0 || l.empty {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.relaxed.Load() || l.noted || l.durable < l.synced { // what is behind needs a sync of its own, and the note its turn
		return nil
	}
	if l.usable() != nil || l.synced == l.last && l.marked == l.synced || l.cut != 0 || len(l.dead) > 0 || l.damaged != 0 {
		return nil
	}
	// A block is not begun for less than half of what it may hold, unless a frame is larger than that, or it is a run's, or follows one.
	most := l.pendingBytes + (2*l.pendingBytes/maxBlockBytes+1)*blockHeaderSize
	if from := int64(l.padFrom()); from > 0 {
		most += l.pendingBytes / from * (2*blockHeaderSize + maxPad)
	}
	if end := w.pos + most; end+reserveBytes > w.alloc || end+blockHeaderSize > l.segmentBytes.Load() || unitAbove(end)-w.base > int64(room) || most > maxWriteBytes {
		return nil
	}
	prev, err := l.termLocked(l.synced)
	if err != nil {
		return nil
	}
	s := singles.Get().(*single)
	s.ticket, s.pub.seg = l.ticket, w.seg
	s.job, s.next = job{mark: l.synced, prev: prev}, l.next
	if l.synced == l.last {
		return s
	}
	s.job.recs = l.tail[l.synced+1-l.tail[0].Index:]
	s.next = s.job.recs[0].base
	l.handed = l.last
	return s
}

// encodeSingle makes the write of s: what stands in the unit that it begins in, the blocks, and zeros ahead if they are due. What is not written from
// where it lies is in buf, of which it says how much it has used.
func (l *Log) encodeSingle(s *single, buf []byte) (vfs.SyncWrite, int) {
	w := &l.w
	bufs, length := l.encodeBlocks(&s.job, s.job.recs, &s.pub)
	defer s.pub.release()
	if len(s.job.recs) == 0 {
		bufs, length = [][]byte{l.encodeMark(s.job.mark)}, blockHeaderSize
	}
	s.length = length
	g := w.gather(buf, w.pos+length)
	g.add(w.part)
	for _, b := range bufs {
		g.add(b)
	}
	zeros := int64(0)
	if from, to := l.ahead(w.pos+length, length); from < to && to > unitAbove(w.pos+length) && to-w.base <= int64(len(buf)) {
		zeros, s.zeroed = to-unitAbove(w.pos+length), to
	}
	s.rest = g.rest()
	w.pieces = g.end(int(zeros))
	return vfs.SyncWrite{File: w.file, Bufs: w.pieces, Off: w.base}, g.n
}

// endSingle publishes what is durable now. After an error of the write nothing is known of what it left behind: never write over it.
func (l *Log) endSingle(s *single, err error) (raft.Ticket, error) {
	w := &l.w
	defer func() {
		w.forgetPieces()
		*s = single{} // it may wait long for the next Sync
		singles.Put(s)
	}()
	if err == nil {
		start := w.pos
		w.pos += s.length
		w.base, w.part = unitBelow(w.pos), append(w.part[:0], s.rest...)
		w.zeroed = max(w.zeroed, s.zeroed)
		if len(s.job.recs) == 0 {
			l.publishMark(s.job.mark)
			l.extendTip(start, s.job.mark, s.next, s.job.prev, l.opt.ScanBytes/tipIdle)
		} else {
			s.pub.commit(s.job.recs, w.pos)
			s.pub.mark = s.job.mark
			l.publish(&s.pub)
			l.extendTip(start, s.job.mark, s.next, s.job.prev, l.opt.ScanBytes)
		}
	} else {
		err = fmt.Errorf("write %s at %d: %w", w.seg.name, w.pos, err)
		w.seal = true
	}
	l.mu.Lock()
	l.handed = l.synced
	l.mu.Unlock()
	if err == nil {
		return s.ticket, nil
	}
	if err = l.syncError(err); len(s.job.recs) == 0 && errors.Is(err, vfs.ErrNoSpace) {
		return s.ticket, nil // a disk without room for a mark is no error
	}
	return raft.Ticket{}, err
}

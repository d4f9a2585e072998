// Reading: by raft index for replication, by Kafka offset for consumers, by timestamp, by term. Reads take the lock
// only to find out where something is; files are opened for the read and closed after it, so that ten thousand logs
// hold no descriptors for what nobody reads, and a file that retention removes in between is simply looked up again.

package segment

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"sort"

	"github.com/balsamq/balsa/internal/vfs"
	"github.com/balsamq/balsa/raft"
)

const (
	// readAhead is what a read of a single entry takes from the file at once.
	readAhead = 16 << 10
	// readOn is what is read at once when more is wanted than was expected.
	readOn = 64 << 10
	// maxReadChunk bounds one read call, unless a single frame is larger.
	maxReadChunk = 1 << 20
	// maxReadHint bounds what a read may expect to take: who asks for more goes on in pieces of readOn.
	maxReadHint = 64 << 20
	// tailChunk bounds the entries that are copied out of the tail under the lock.
	tailChunk = 256
	// maxRelocate bounds how often a read looks up a place again because its file was removed meanwhile.
	maxRelocate = 16
)

// Term implements raft.LogReader.
func (l *Log) Term(i raft.Index) (raft.Term, error) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.termLocked(i)
}

func (l *Log) termLocked(i raft.Index) (raft.Term, error) {
	switch {
	case i+1 < l.first:
		return 0, raft.ErrCompacted
	case i > l.last:
		return 0, raft.ErrUnavailable
	}
	n := sort.Search(len(l.epochs), func(k int) bool { return l.epochs[k].first > i })
	if n == 0 {
		return 0, nil // before the first entry of all
	}
	return l.epochs[n-1].term, nil
}

// view is a stretch of a file: frames from index on, at pos, up to last.
type view struct {
	seg   *seg // nil: of nobody's interest
	name  string
	pos   int64
	size  int64
	index raft.Index
	last  raft.Index
}

// reading is how a reader wants to read.
type reading struct {
	hint int   // about how many bytes of a file are wanted
	loan *Loan // lends memory; nil: what is read is the reader's to keep
	// full says that the records of a frame of so many bytes are not wanted, nor what follows them; nil: all are.
	full func(frame int) bool
	done bool // it has said so
	// next is what has been read already, from the entry on that the reader begins with; nil: nothing.
	next *nextPiece
	stop place  // where it has stopped because of full
	rest []byte // what it has of the file from the unit on that stop is in: whole units, in memory that loan lends
}

// inTail says whether the entry at i is in memory.
func (l *Log) inTail(i raft.Index) bool {
	return len(l.tail) > 0 && i >= l.tail[0].Index && i <= l.last
}

// locate finds the entry at i on disk. The caller holds mu.
func (l *Log) locate(i raft.Index) (view, error) {
	n := sort.Search(len(l.segs), func(k int) bool { return l.segs[k].first > i })
	if n == 0 || i > l.segs[n-1].last {
		return view{}, fmt.Errorf("group %d: %w: no file holds entry %d of [%d, %d]", l.group, ErrCorrupt, i, l.first, l.last)
	}
	s := l.segs[n-1]
	k := sort.Search(len(s.index), func(k int) bool { return s.index[k].index > i }) - 1
	return view{seg: s, name: s.name, pos: s.index[k].pos, size: s.size, index: s.index[k].index, last: s.last}, nil
}

// walk yields the entries from index from to upTo, wherever they are, until yield returns false. hint is about how
// many bytes of a file are wanted. The records are the callee's to keep.
func (l *Log) walk(from, upTo raft.Index, hint int, yield func(*record) bool) error {
	return l.walkAs(from, upTo, &reading{hint: hint}, yield)
}

// walkAs is walk for a reader with wishes of its own, which yield may change.
func (l *Log) walkAs(from, upTo raft.Index, want *reading, yield func(*record) bool) error {
	var chunk []record
	for tries := 0; from <= upTo; {
		l.mu.RLock()
		if l.closed {
			l.mu.RUnlock()
			return ErrClosed
		}
		if from < l.first {
			l.mu.RUnlock()
			return raft.ErrCompacted
		}
		if upTo > l.last { // truncated meanwhile
			upTo = l.last
		}
		if from > upTo {
			l.mu.RUnlock()
			return nil
		}
		if l.inTail(from) {
			at := from - l.tail[0].Index
			end := min(at+tailChunk, upTo-l.tail[0].Index+1)
			chunk = append(chunk[:0], l.tail[at:end]...)
			l.mu.RUnlock()
			for i := range chunk {
				if !yield(&chunk[i]) {
					return nil
				}
			}
			from += raft.Index(len(chunk))
			continue
		}
		v, err := l.locate(from)
		l.mu.RUnlock()
		if err != nil {
			return err
		}
		v.last = min(v.last, upTo)
		if a := want.next; a != nil && a.seg == v.seg && a.index == from && a.pos <= v.size {
			v.pos, v.index = a.pos, a.index
		}
		more := true
		err = l.scan(v, want, func(r *record) bool {
			if r.Index < from {
				return true
			}
			from = r.Index + 1
			more = yield(r)
			return more
		})
		switch {
		case errors.Is(err, fs.ErrNotExist) && tries < maxRelocate:
			tries++ // removed by a truncation: what is there instead is found by looking again
			continue
		case err != nil:
			return l.readError(v.name, err)
		case !more || want.done:
			return nil
		}
	}
	return nil
}

// readError notes damage that a read has met in a file, and takes that file's index away: Open believes an index and does
// not look into the file, so that without this a log could be opened and fail again for ever. Now the next Open scans
// the file, puts the damage on record, and the log can be refilled. (A crash that brings the index back costs another
// round, no more.)
func (l *Log) readError(file string, err error) error {
	err = fmt.Errorf("group %d: %w", l.group, err)
	if errors.Is(err, ErrCorrupt) {
		l.removeShortcuts(file)
		l.noteReadDamage(err)
	}
	return err
}

// noteReadDamage keeps the first damage that a read has met, and tells the owner.
func (l *Log) noteReadDamage(err error) {
	l.mu.Lock()
	first := l.readDamage == nil
	if first {
		l.readDamage = err
	}
	l.mu.Unlock()
	if first && l.opt.OnDamage != nil {
		l.opt.OnDamage(err)
	}
}

// scan reads the frames of v in order, verifies each, and yields them until yield returns false. Frames are slices of
// buffers that are never written again, or that want.loan lends.
func (l *Log) scan(v view, want *reading, yield func(*record) bool) error {
	direct := l.pastCache(&v, want)
	most := maxReadChunk
	if want.loan != nil {
		most = mostLent - 2*vfs.DirectUnit
	}
	var buf []byte
	at := 0 // of the next unread byte in buf
	// What was read directly last, from rawAt on, where a unit begins, without what is not published; buf is part of it.
	var raw []byte
	var rawAt int64
	pos := v.pos
	left := want.hint // of it, not read yet
	if a := want.next; a != nil {
		want.next = nil
		want.loan.adopt(a.piece) // also if it is of no use: then the next piece takes its place
		if a.seg == v.seg && a.index == v.index && a.pos == pos {
			raw, rawAt = a.raw, unitBelow(pos)
			buf = raw[min(pos-rawAt, int64(len(raw))):]
			buf = buf[:min(int64(len(buf)), v.size-pos)]
			left -= len(buf)
		}
	}
	var f vfs.File // nil: nothing of it was needed yet
	defer func() {
		if f != nil {
			f.Close()
		}
	}()
	// have makes n bytes available at buf[at:].
	have := func(n int) error {
		kept := len(buf) - at
		if kept >= n {
			return nil
		}
		if int64(n) > v.size-pos {
			return fmt.Errorf("%w: %s at %d: %d bytes where %d are left", ErrCorrupt, v.name, pos, n, v.size-pos)
		}
		if f == nil {
			var err error
			if f, err = l.fs.Open(path.Join(l.dir, v.name)); err != nil {
				return err
			}
			direct = direct && f.SetDirect()
		}
		length := max(n, min(kept+max(left, readOn), most))
		length = int(min(int64(length), v.size-pos))
		left -= length - kept
		// Direct reads begin and end with a unit. Those of what is there in part are read again: it costs less than to copy it.
		start, stop := pos, pos+int64(length)
		if direct {
			start, stop, kept = unitBelow(start), unitAbove(stop), 0
		}
		var next []byte
		switch size := int(stop - start); {
		case want.loan != nil && size >= lendFrom:
			next = want.loan.take(size, buf[at:at+kept])
		case direct:
			next = vfs.AlignedUncleared(size)
		default:
			next = vfs.Uncleared(size)
			copy(next, buf[at:])
		}
		read := f.ReadAt
		if direct {
			read = func(p []byte, off int64) (int, error) { return readDirect(f, p, off) }
		}
		got, err := read(next[kept:], start+int64(kept))
		if direct {
			raw, rawAt = next[:min(int64(got), v.size-start)], start
		}
		if got += kept - int(pos-start); got < n {
			if err == nil || errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			if errors.Is(err, io.ErrUnexpectedEOF) {
				return fmt.Errorf("%w: %s at %d: %w", ErrCorrupt, v.name, pos, err)
			}
			return fmt.Errorf("read %s at %d: %w", v.name, pos, err)
		}
		buf, at = next[pos-start:][:min(got, length)], 0
		return nil
	}
	for v.index <= v.last {
		if err := have(4); err != nil {
			return err
		}
		word := frameWord(buf[at:])
		if word == blockMagic {
			if err := have(blockHeaderSize); err != nil {
				return err
			}
			h, err := decodeBlockHeader(l.group, buf[at:])
			if err != nil {
				return fmt.Errorf("%w: %s at %d: %w", ErrCorrupt, v.name, pos, err)
			}
			if err := have(h.body()); err != nil {
				return err
			}
			at, pos = at+h.body(), pos+int64(h.body())
			continue
		}
		if word < FrameHeaderSize || word > MaxFrameSize {
			return fmt.Errorf("%w: %s at %d: no frame begins with %#08x", ErrCorrupt, v.name, pos, word)
		}
		n := int(word)
		if want.full != nil && want.full(n) {
			if err := have(FrameHeaderSize); err != nil {
				return err
			}
			if want.done = frameType(buf[at:]) == raft.EntryRecords; want.done {
				if direct {
					want.stop = place{v.seg, v.index, pos, v.size}
					if from, upTo := unitBelow(pos)-rawAt, unitBelow(rawAt+int64(len(raw)))-rawAt; from < upTo {
						want.rest = raw[from:upTo]
					}
				}
				break // without a look at the rest: it may lie in no buffer yet
			}
		}
		if err := have(n); err != nil {
			return err
		}
		r, err := decodeFrame(l.group, buf[at:at+n])
		if err != nil {
			return fmt.Errorf("%w: %s at %d: %w", ErrCorrupt, v.name, pos, err)
		}
		if r.Index != v.index {
			return fmt.Errorf("%w: %s at %d: entry %d where %d belongs", ErrCorrupt, v.name, pos, r.Index, v.index)
		}
		at, pos = at+n, pos+int64(n)
		v.index++
		if !yield(&r) {
			break
		}
	}
	if want.loan != nil && v.seg != nil {
		l.noteRead(&v, pos, direct)
	}
	return nil
}

// readHint is what a read of maxBytes takes from a file, that before the place which the index knows included.
func (l *Log) readHint(maxBytes int) int {
	return int(min(int64(max(maxBytes, 0)), maxReadHint) + l.opt.IndexBytes)
}

// Entries implements raft.LogReader.
func (l *Log) Entries(lo, hi raft.Index, maxBytes int) ([]raft.Entry, error) {
	l.mu.RLock()
	switch {
	case lo < l.first:
		l.mu.RUnlock()
		return nil, raft.ErrCompacted
	case hi > l.last+1 || lo > hi:
		l.mu.RUnlock()
		return nil, raft.ErrUnavailable
	case lo == hi:
		l.mu.RUnlock()
		return nil, nil
	}
	if l.inTail(lo) {
		defer l.mu.RUnlock()
		l.opt.Cache.hits.Add(1)
		recs := l.tail[lo-l.tail[0].Index : hi-l.tail[0].Index]
		n, bytes := 1, len(recs[0].Frame)
		for n < len(recs) && bytes+len(recs[n].Frame) <= maxBytes {
			bytes += len(recs[n].Frame)
			n++
		}
		out := make([]raft.Entry, n)
		for i := range out {
			out[i] = recs[i].Entry
		}
		return out, nil
	}
	l.mu.RUnlock()
	l.opt.Cache.misses.Add(1)
	var out []raft.Entry
	bytes := 0
	hint := l.readHint(maxBytes)
	if hi == lo+1 {
		hint = readAhead
	}
	err := l.walk(lo, hi-1, hint, func(r *record) bool {
		if len(out) > 0 && bytes+len(r.Frame) > maxBytes {
			return false
		}
		out = append(out, r.Entry)
		bytes += len(r.Frame)
		return true
	})
	if err == nil && len(out) == 0 {
		err = raft.ErrUnavailable
	}
	return out, err
}

// LastConfig implements raft.LogReader.
func (l *Log) LastConfig(upTo raft.Index) (raft.Entry, bool, error) {
	l.mu.RLock()
	n := sort.Search(len(l.configs), func(k int) bool { return l.configs[k] > upTo })
	if n == 0 || l.configs[n-1] < l.first {
		l.mu.RUnlock()
		return raft.Entry{}, false, nil
	}
	i := l.configs[n-1]
	l.mu.RUnlock()
	es, err := l.Entries(i, i+1, 0)
	if errors.Is(err, raft.ErrCompacted) {
		return raft.Entry{}, false, nil // cut since we looked, and with it all that were below
	}
	if err != nil {
		return raft.Entry{}, false, fmt.Errorf("membership at %d: %w", i, err)
	}
	return es[0], true, nil
}

// OffsetAfter is the next offset once the entry at i is in: the high watermark when i is the commit index.
// raft.ErrCompacted and raft.ErrUnavailable as for Term.
func (l *Log) OffsetAfter(i raft.Index) (Offset, error) {
	l.mu.RLock()
	switch {
	case i+1 < l.first:
		l.mu.RUnlock()
		return 0, raft.ErrCompacted
	case i > l.last:
		l.mu.RUnlock()
		return 0, raft.ErrUnavailable
	case i == l.last:
		defer l.mu.RUnlock()
		return l.next, nil
	case i+1 == l.first:
		defer l.mu.RUnlock()
		return l.start, nil
	}
	if l.inTail(i + 1) { // the next entry's base is this one's end
		defer l.mu.RUnlock()
		return l.tail[i+1-l.tail[0].Index].base, nil
	}
	n := sort.Search(len(l.segs), func(k int) bool { return l.segs[k].first > i })
	if n > 0 && l.segs[n-1].last == i {
		defer l.mu.RUnlock()
		return l.segs[n-1].next, nil
	}
	l.mu.RUnlock()
	off, found := Offset(0), false
	err := l.walk(i, i, int(l.opt.IndexBytes)+readAhead, func(r *record) bool {
		off, found = r.next(), true
		return false
	})
	if err == nil && !found {
		err = raft.ErrUnavailable
	}
	return off, err
}

// ReadOffsets returns the payloads of record entries from the one that contains offset from on, in order, none above
// index upTo: at least one however large, and then as many as fit into maxBytes together. Nothing at or above from up
// to upTo: nil. [ErrOffsetOutOfRange] if from is below StartOffset or above NextOffset. The slices are shared and
// immutable. Safe for any goroutine, also while the log is appended to or truncated.
func (l *Log) ReadOffsets(from Offset, upTo raft.Index, maxBytes int) (batches [][]byte, err error) {
	return l.ReadLent(from, upTo, maxBytes, nil)
}

// ReadLent is ReadOffsets for a reader that knows when it has done with what it gets: that may lie in memory which loan lends, and is not to be
// looked at after loan.Return. nil: it may be kept.
func (l *Log) ReadLent(from Offset, upTo raft.Index, maxBytes int, loan *Loan) ([][]byte, error) {
	l.mu.RLock()
	if l.closed {
		l.mu.RUnlock()
		return nil, ErrClosed
	}
	if start := l.startLocked(); from < start || from > l.next {
		defer l.mu.RUnlock()
		return nil, fmt.Errorf("%w: %d, log holds [%d, %d)", ErrOffsetOutOfRange, from, start, l.next)
	}
	if from < l.start {
		l.mu.RUnlock()
		c := collector{from: from, upTo: upTo, room: maxBytes}
		end, more, err := l.readCleaned(from, maxBytes, c.collect)
		if err != nil || !more || len(c.batches) > 0 {
			return c.batches, err
		}
		return l.ReadLent(end, upTo, maxBytes, loan) // the part has given way to what follows it
	}
	upTo = min(upTo, l.last)
	if from == l.next || upTo < l.first {
		l.mu.RUnlock()
		return nil, nil
	}
	if len(l.tail) > 0 && from >= l.tail[0].base {
		defer l.mu.RUnlock()
		l.opt.Cache.hits.Add(1)
		n := sort.Search(len(l.tail), func(k int) bool { return l.tail[k].next() > from })
		c := collector{from: from, upTo: upTo, room: maxBytes}
		for n < len(l.tail) && c.collect(&l.tail[n]) {
			n++
		}
		return c.batches, nil
	}
	at := l.indexOf(from)
	l.mu.RUnlock()
	l.opt.Cache.misses.Add(1)
	c := collector{from: from, upTo: upTo, room: maxBytes}
	want := reading{hint: l.readHint(maxBytes), loan: loan, full: c.full}
	at = max(at, 1)
	if loan != nil {
		if want.next = l.onward.take(from); want.next != nil && l.holds(&want.next.place) {
			at = want.next.index
		}
	}
	err := l.walkAs(at, upTo, &want, func(r *record) bool {
		had := len(c.batches)
		more := c.collect(r)
		if len(c.batches) > had {
			want.hint = l.readHint(c.room) // of the next file, if it comes to that
			if loan != nil {
				loan.keep()
			}
		}
		return more
	})
	if want.next != nil { // of an end that has been cut off
		loan.adopt(want.next.piece)
	}
	if want.stop.seg != nil && err == nil {
		l.readOn(from, c.next, want.stop, want.rest, l.readHint(maxBytes))
	}
	if errors.Is(err, raft.ErrCompacted) && from >= l.StartOffset() { // cleaned meanwhile, and so in another place
		if len(c.batches) > 0 {
			return c.batches, nil
		}
		return l.ReadLent(from, upTo, maxBytes, loan)
	}
	return c.batches, err
}

// holds reports whether the entry at p is still the one that a reader has stopped at: else the offset that it was to go on with may be in another.
func (l *Log) holds(p *place) bool {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if p.index < l.first || l.inTail(p.index) {
		return false
	}
	v, err := l.locate(p.index)
	return err == nil && v.seg == p.seg
}

// collector takes batches from offset from on, none above index upTo: one, and then as many as there is room for.
type collector struct {
	from    Offset
	upTo    raft.Index
	room    int // bytes, what is in batches taken off
	batches [][]byte
	next    Offset // behind the last of batches
}

// full says that there is no room for the records of a frame of n bytes.
func (c *collector) full(n int) bool { return len(c.batches) > 0 && n-FrameHeaderSize > c.room }

func (c *collector) collect(r *record) bool {
	if r.Index > c.upTo {
		return false
	}
	if r.records == 0 || r.next() <= c.from {
		return true
	}
	if len(c.batches) > 0 && len(r.Payload) > c.room {
		return false
	}
	c.batches = append(c.batches, r.Payload)
	c.room -= len(r.Payload)
	c.next = r.next()
	return true
}

// indexOf is an index at or below that of the entry that contains offset o, and at or above first. The caller holds mu.
func (l *Log) indexOf(o Offset) raft.Index {
	n := sort.Search(len(l.segs), func(k int) bool { return l.segs[k].base > o })
	if n == 0 {
		return l.first
	}
	s := l.segs[n-1]
	k := sort.Search(len(s.index), func(k int) bool { return s.index[k].base > o }) - 1
	if k < 0 {
		return max(l.first, s.first)
	}
	return max(l.first, s.index[k].index)
}

// bucket is a stretch of entries with an upper bound of their timestamps.
type bucket struct {
	from, upTo raft.Index
	maxTime    int64
}

// buckets lists, oldest first, the stretches from offset from up to upTo whose bound is at least ts; what is not on disk yet
// is one.
func (l *Log) buckets(ts int64, from Offset, upTo raft.Index) []bucket {
	l.mu.RLock()
	defer l.mu.RUnlock()
	upTo = min(upTo, l.last)
	var out []bucket
	for _, s := range l.segs {
		if s.next <= from || s.maxTime < ts || s.last < l.first || s.first > upTo {
			continue
		}
		for k := range s.index {
			e := &s.index[k]
			end := s.last
			if k+1 < len(s.index) {
				end = s.index[k+1].index - 1
			}
			if e.maxTime >= ts && end >= l.first && e.index <= upTo {
				out = append(out, bucket{max(e.index, l.first), min(end, upTo), e.maxTime})
			}
		}
	}
	if upTo > l.synced {
		b := bucket{l.synced + 1, upTo, noTimestamp}
		for i := b.from; i <= upTo; i++ {
			b.maxTime = max(b.maxTime, l.tail[i-l.tail[0].Index].maxTimestamp())
		}
		if b.maxTime >= ts {
			out = append(out, b)
		}
	}
	return out
}

// OffsetForTime finds the first record from offset from on, up to index upTo, with a timestamp at or after ts
// (milliseconds): its offset, timestamp and term. false: there is none. Of a batch whose records cannot be read it names the
// first offset.
func (l *Log) OffsetForTime(ts int64, from Offset, upTo raft.Index) (off Offset, at int64, term raft.Term, found bool, err error) {
	err = l.undisturbed(func() error {
		off, at, term, found, err = l.offsetForTime(max(ts, 0), from, upTo)
		return err
	})
	return off, at, term, found, err
}

func (l *Log) offsetForTime(ts int64, from Offset, upTo raft.Index) (Offset, int64, raft.Term, bool, error) {
	if off, at, r, ok, err := l.cleanedSince(ts, from); ok || err != nil {
		return off, at, r.Term, ok, err
	}
	for _, b := range l.buckets(ts, from, upTo) {
		off, at, term, ok, err := l.firstSince(b, from, ts)
		if ok || err != nil {
			return off, at, term, ok, err
		}
	}
	return 0, 0, 0, false, nil
}

func (l *Log) firstSince(b bucket, from Offset, ts int64) (off Offset, at int64, term raft.Term, ok bool, err error) {
	err = l.walk(b.from, b.upTo, int(l.opt.IndexBytes)+readAhead, func(r *record) bool {
		if t := r.maxTimestamp(); t >= ts && r.next() > from {
			off, at, ok = r.firstSince(from, ts)
			term = r.Term
		}
		return !ok
	})
	if errors.Is(err, raft.ErrCompacted) {
		err = nil // retention took it meanwhile: the answer lies further on
	}
	return off, at, term, ok, err
}

// MaxTimestamp finds the record with the largest timestamp from offset from on, up to index upTo (the first of several): its
// offset, that timestamp and its term. false: there is none with a timestamp.
func (l *Log) MaxTimestamp(from Offset, upTo raft.Index) (off Offset, ts int64, term raft.Term, found bool, err error) {
	err = l.undisturbed(func() error {
		off, ts, term, found, err = l.maxTimestamp(from, upTo)
		return err
	})
	return off, ts, term, found, err
}

func (l *Log) maxTimestamp(from Offset, upTo raft.Index) (off Offset, ts int64, term raft.Term, found bool, err error) {
	ts = noTimestamp
	bs := l.buckets(0, from, upTo)
	// Timestamps mostly rise: from the end, nearly every other stretch is ruled out by its bound.
	for i := len(bs) - 1; i >= 0; i-- {
		if bs[i].maxTime < ts || bs[i].maxTime == noTimestamp {
			continue
		}
		best := noTimestamp
		var r record
		err = l.walk(bs[i].from, bs[i].upTo, int(l.opt.IndexBytes)+readAhead, func(c *record) bool {
			if t := c.maxTimestamp(); t > best && c.next() > from {
				best, r = t, *c
			}
			return true
		})
		if err != nil && !errors.Is(err, raft.ErrCompacted) {
			return 0, 0, 0, false, err
		}
		err = nil
		if best >= ts && best != noTimestamp { // an equal one further down is the first
			ts, term, found = best, r.Term, true
			if o, _, ok := r.firstSince(from, best); ok {
				off = o
			} else {
				off = max(r.base, from)
			}
		}
	}
	r, ok, err := l.cleanedMax(ts, from)
	if err != nil {
		return 0, 0, 0, false, err
	}
	if ok { // of equal ones the first
		ts, term, found = r.maxTimestamp(), r.Term, true
		if off, _, ok = r.keptSince(from, ts); !ok {
			off = max(r.base, from)
		}
	}
	return off, ts, term, found, nil
}

// EpochEnd answers OffsetForLeaderEpoch: the largest term at or below t that has entries up to index upTo, and the
// offset at which it ends: where the next term begins, or for the last one, what follows upTo. A t below every known
// term is answered with itself and the offset where the known ones begin; a log without entries with 0 and its end.
// A t above every known term is answered with the last one.
func (l *Log) EpochEnd(t raft.Term, upTo raft.Index) (raft.Term, Offset) {
	end, err := l.OffsetAfter(upTo)
	l.mu.RLock()
	defer l.mu.RUnlock()
	if err != nil {
		end = l.next
	}
	n := sort.Search(len(l.epochs), func(k int) bool { return l.epochs[k].first > upTo })
	es := l.epochs[:n]
	k := sort.Search(len(es), func(k int) bool { return es[k].term > t })
	switch {
	case len(es) == 0:
		return 0, end
	case k == 0:
		return t, es[0].start
	case k == len(es):
		return es[k-1].term, end
	}
	return es[k-1].term, es[k].start
}

// EpochAt is the term of the record at offset o; for NextOffset the last term. false: the log holds no such offset, or
// knows no term for it.
func (l *Log) EpochAt(o Offset) (raft.Term, bool) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if o < l.startLocked() || o > l.next {
		return 0, false
	}
	n := sort.Search(len(l.epochs), func(k int) bool { return l.epochs[k].start > o })
	if n == 0 {
		return 0, false
	}
	return l.epochs[n-1].term, true
}

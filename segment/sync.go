// Sync: writes what is pending as blocks, syncs, and only then publishes it.
//
// The naive way writes in Append and syncs in Sync. Here Append only takes entries and Sync does all I/O, so that one
// write and one sync serve all that came meanwhile, and the worker never waits for a disk. What makes it delicate is a
// truncation that arrives while a Sync is writing the very entries that it voids:
//
//	Append 10..20 (term 5)   Sync takes 10..20 ──────── write, fdatasync ────────▶ publishes up to 14 only
//	                              Append 15..17 (term 6): cut = 15
//	                                                                              next Sync: new generation at 15
//
// So a Sync takes the pending entries and the cut together, and when it publishes, looks whether a newer cut stands. The
// ticket that it returns still says (term 5, index 20); the core knows that term 5 is older than its last truncation.

package segment

import (
	"encoding/binary"
	"errors"
	"fmt"
	"path"
	"sync"

	"github.com/balsamq/balsa/internal/vfs"
	"github.com/balsamq/balsa/raft"
)

const (
	// reserveBytes is kept free at the end of the current extent: when the next extent cannot be had, records are
	// refused (Full) and internal entries, which retention needs, still fit.
	reserveBytes = 16 << 10
	// maxWriteBytes bounds one write call, unless a single frame is larger.
	maxWriteBytes = 8 << 20
)

// writer is the state of the file that is being written.
type writer struct {
	gen   uint64 // highest generation in use
	seg   *seg   // nil: the next entry begins a new file
	file  vfs.File
	pos   int64 // where the next block goes
	alloc int64 // preallocated up to here
	// zeroed: the extent has been overwritten with zeros up to here; see Options.ZeroAhead.
	zeroed int64
	// direct: the file is written past the page cache; part are the bytes in [base, pos), where base is a multiple of the unit.
	direct bool
	base   int64
	part   []byte
	pieces [][]byte // memory for those of one write
	small  int      // so many small writes that no sync follows were the last ones
	// synced: what was put last was made durable with it.
	synced bool
	// ahead: something was put that no sync was to follow, and none has yet. It may be void by now, but blocks behind it, and files, say that all
	// before them is durable.
	ahead bool
	// fresh: the file's name and header are not durable, and nothing of it is published.
	fresh bool
	// seal: what stands behind pos is not zeros (a torn tail, a write that failed half-way): never write there, go on in
	// a new generation.
	seal bool
	// redo, if not 0, is where the mark stands that a recovery found last before pos. What it says is so, but nothing proves that it is
	// itself on the disk: its sync may have failed, and its page be clean. It is written again together with what follows it,
	// which would else have a hole before it. (In a direct file it is in part, which is written again anyway.)
	redo int64
	// tip is how far the file's tip goes, and settled how far the file went when it was last settled (pos 0: it was not).
	tip     tipEnd
	settled settledEnd
	// left are files before this one whose indexes are to be written when this one is durable.
	left []closedFile
}

// Sync implements multi.Log.
func (l *Log) Sync() (raft.Ticket, error) {
	l.io.Lock()
	defer l.io.Unlock()
	t, err := l.syncLocked()
	if err == nil {
		l.opt.Cache.evict()
	}
	return t, err
}

// job is what one Sync has taken on.
type job struct {
	recs []record
	cut  raft.Index
	mark raft.Index // durable before the next block is written
	// ahead: a relaxed log's. What goes to a file that is durable itself is not synced.
	ahead bool
	prev  raft.Term // of the entry before recs[0]
	seg   *seg      // the file that holds it; nil if there is none
	dead  []string
}

// header is that of a file that begins with the job's next entry.
func (j *job) header() segmentHeader {
	h := segmentHeader{first: j.recs[0].Index, base: j.recs[0].base, prevTerm: j.prev}
	return h.after(j.seg)
}

// after names the file before.
func (h segmentHeader) after(s *seg) segmentHeader {
	if s != nil {
		h.prevGeneration, h.prevFirst = s.generation, s.first
	}
	return h
}

// lastSeg is the file that holds the last durable entry, nil if there is none. The caller holds mu.
func (l *Log) lastSeg() *seg {
	if n := len(l.segs); n > 0 {
		return l.segs[n-1]
	}
	return nil
}

func (l *Log) syncLocked() (raft.Ticket, error) {
	if s := l.takeSingle(directBytes); s != nil {
		pooled := directBuffers.Get().(*[]byte)
		defer directBuffers.Put(pooled)
		w, _ := l.encodeSingle(s, *pooled)
		return l.endSingle(s, w.File.WriteSync(w.Bufs, w.Off))
	}
	l.mu.Lock()
	if err := l.usable(); err != nil {
		l.mu.Unlock()
		return raft.Ticket{}, err
	}
	ticket := l.ticket
	if l.synced == l.last {
		due := l.markDue() && l.marked < l.synced
		h := segmentHeader{first: l.last + 1, base: l.next}.after(l.lastSeg())
		var err error
		h.prevTerm, err = l.termLocked(l.last)
		l.mu.Unlock()
		if err == nil {
			err = l.settle()
		}
		if due && err == nil {
			err = l.writeMark(h)
		}
		if err == nil {
			err = l.heal()
		}
		if err == nil {
			err = l.rest()
		}
		if err != nil {
			return raft.Ticket{}, l.failSync(err)
		}
		return ticket, nil
	}
	l.mu.Unlock()
	ahead, err := l.mayRunAhead()
	if err != nil {
		return raft.Ticket{}, l.failSync(err)
	}
	l.mu.Lock()
	ticket = l.ticket
	prev, err := l.termLocked(l.synced)
	if err != nil {
		l.mu.Unlock()
		return raft.Ticket{}, l.fail(err)
	}
	j := job{recs: l.tail[l.synced+1-l.tail[0].Index:], cut: l.cut, mark: l.durable, ahead: ahead, prev: prev, dead: l.dead, seg: l.lastSeg()}
	l.handed, l.cut, l.dead = l.last, 0, nil
	l.mu.Unlock()

	cut := j.cut
	err = l.write(&j)

	l.mu.Lock()
	l.handed = l.synced
	if err != nil && (cut == 0 || j.cut != 0) {
		// The file that overrules them is not there yet: the cut still stands, or a lower one that came meanwhile.
		if cut != 0 && (l.cut == 0 || cut < l.cut) {
			l.cut = cut
		}
		l.dead = append(j.dead, l.dead...)
		j.dead = nil
	}
	l.mu.Unlock()
	for _, name := range j.dead {
		l.removeSegment(name) // overruled by a durable generation: what stays behind goes at the next open
	}
	if err == nil {
		err = l.heal()
	}
	if err != nil {
		return raft.Ticket{}, l.syncError(err)
	}
	l.busy = true
	if l.noted && !l.relaxed.Load() { // no longer; all of it was synced by this
		if err := l.rest(); err != nil {
			return raft.Ticket{}, l.failSync(err)
		}
	}
	return ticket, nil
}

// syncError is what Sync makes of an error: all but a full disk end the log.
func (l *Log) syncError(err error) error {
	if !errors.Is(err, vfs.ErrNoSpace) {
		return l.failSync(err)
	}
	l.mu.Lock()
	l.full = true
	l.mu.Unlock()
	return fmt.Errorf("sync of group %d: %w", l.group, err)
}

// heal takes damage off the record once the log has been refilled: a later, legitimate truncation must not look like
// that damage.
func (l *Log) heal() error {
	l.mu.RLock()
	healed := l.healed()
	m := meta{}
	if healed {
		term, err := l.termLocked(l.first - 1)
		if err != nil {
			l.mu.RUnlock()
			return err
		}
		m = l.metaLocked(l.first, term, l.start)
	}
	l.mu.RUnlock()
	if !healed {
		return nil
	}
	m.damaged = 0
	if err := l.writeMeta(&m); err != nil {
		if errors.Is(err, vfs.ErrNoSpace) {
			return nil // with the next sync, then
		}
		return err
	}
	l.mu.Lock()
	l.damaged = 0
	l.mu.Unlock()
	return nil
}

// write writes the job's entries, in as many files as they need. It sets j.cut to 0 once the cut is durable. An error
// that is vfs.ErrNoSpace leaves everything that is not published pending.
func (l *Log) write(j *job) error {
	w := &l.w
	if j.cut != 0 || w.seal {
		if err := l.settle(); err != nil {
			return err
		}
		l.leave()
	}
	for len(j.recs) > 0 {
		if w.seg == nil {
			if err := l.begin(j.header()); err != nil {
				return err
			}
		} else if w.pos+blockHeaderSize+int64(len(j.recs[0].Frame)) > l.segmentBytes.Load() && w.seg.first < j.recs[0].Index {
			if err := l.roll(j); err != nil {
				return err
			}
		}
		n, err := l.writeFile(j)
		if err != nil {
			if w.fresh {
				l.abandon()
			}
			return err
		}
		j.recs = j.recs[n:]
		j.cut = 0
	}
	return nil
}

// writeFile writes entries to the current file until that is full, syncs it and publishes them. It returns how many
// there were.
func (l *Log) writeFile(j *job) (int, error) {
	w := &l.w
	p := publication{seg: w.seg}
	start := w.pos
	ahead := j.ahead && !w.fresh
	done := 0
	defer p.release()
	for done < len(j.recs) {
		// One write: as many entries as fit in the file and in maxWriteBytes.
		n, bytes := 0, int64(0)
		for done+n < len(j.recs) {
			size := int64(len(j.recs[done+n].Frame))
			if n > 0 && bytes+size > maxWriteBytes {
				break
			}
			if w.pos+bytes+size+2*blockHeaderSize > l.segmentBytes.Load() && done+n > 0 {
				break
			}
			bytes += size
			n++
		}
		if n == 0 {
			break // the file is full
		}
		bufs, length := l.encodeBlocks(j, j.recs[done:done+n], &p)
		if err := l.reserve(length); err != nil {
			if done == 0 {
				return 0, err
			}
			break // publish what is written; the rest meets the full disk again
		}
		if err := l.redoMark(); err != nil {
			return 0, err
		}
		if !ahead {
			if err := l.zeroAhead(w.pos+length, length); err != nil {
				return 0, err
			}
		}
		if err := l.put(bufs, length, done == 0 && n == len(j.recs) && !ahead && !w.ahead, ahead); err != nil {
			return 0, fmt.Errorf("write %s at %d: %w", w.seg.name, w.pos, err)
		}
		done += n
		p.commit(j.recs[:done], w.pos)
	}
	if w.pos == start {
		return 0, fmt.Errorf("nothing of %d entries fits into %s", len(j.recs), w.seg.name)
	}
	if !ahead {
		if err := l.syncFile(); err != nil {
			return 0, err
		}
	}
	last, next, term := j.mark, j.recs[0].base, j.prev
	tip := !ahead && last == j.recs[0].Index-1 // all before this write was durable already
	p.mark, p.ahead = j.mark, ahead
	if !ahead {
		j.mark = j.recs[done-1].Index
	}
	// Once published the records may leave the cache, which wipes them.
	j.prev, j.seg = j.recs[done-1].Term, w.seg
	l.publish(&p)
	if tip {
		l.extendTip(start, last, next, term, l.opt.ScanBytes)
	}
	return done, nil
}

// smallWrite is the write size up to which zeroing ahead pays: beyond it the data costs more than the journal.
const smallWrite = 32 << 10

// zeroAhead overwrites what comes behind pos, where so much written now will end, with zeros. They need no sync, and mostly share the
// next: never more than the file has already, for most of ten thousand logs are written once or twice.
func (l *Log) zeroAhead(pos, written int64) error {
	w := &l.w
	from, to := l.ahead(pos, written)
	if from >= to {
		return nil
	}
	var err error
	if w.direct {
		err = w.zeroDirect(from, to)
	} else {
		_, err = w.file.WriteAt(make([]byte, to-from), from)
	}
	if err != nil {
		w.seal = true
		return fmt.Errorf("zero %s at %d: %w", w.seg.name, from, err)
	}
	w.zeroed = to
	return nil
}

// ahead is what zeroAhead is to overwrite.
func (l *Log) ahead(pos, written int64) (from, to int64) {
	w := &l.w
	if l.opt.ZeroAhead <= 0 || written > smallWrite || pos+written <= w.zeroed {
		return 0, 0
	}
	from, to = max(pos, w.zeroed), min(pos+min(l.opt.ZeroAhead, pos), w.alloc)
	if w.direct {
		from, to = unitAbove(from), unitBelow(to)
	}
	return from, to
}

// publication is what a Sync has made durable in one file and is about to show to readers.
type publication struct {
	seg     *seg
	recs    []record // written so far
	size    int64
	index   []indexEntry // for recs, and what is being written
	lastAt  int64        // position of the last index entry
	started bool
	indexed bool // seg has index entries already
	mark    raft.Index
	parts   *parts // of what is being written; nil: nothing is
	ahead   bool   // written, and not synced
}

func (p *publication) commit(recs []record, size int64) { p.recs, p.size = recs, size }

// parts are what one write is made of: headers of blocks, and frames where they lie.
type parts struct {
	bufs  [][]byte
	heads []byte // the memory of the headers in bufs
}

// writeParts are used by one Sync after the other. Those that a large write has made large are not kept.
var writeParts = sync.Pool{New: func() any { return new(parts) }}

// maxKeptParts bounds the pieces whose memory is used again.
const maxKeptParts = 1024

// release gives back the memory of what was written.
func (p *publication) release() {
	out := p.parts
	p.parts = nil
	if out == nil || cap(out.bufs) > maxKeptParts || cap(out.heads) > maxKeptParts*blockHeaderSize {
		return
	}
	clear(out.bufs[:cap(out.bufs)]) // frames of a log that may be closed long before the next Sync
	writeParts.Put(out)
}

// encodeBlocks wraps recs into blocks that will stand at w.pos. The frames are not copied. bufs is good until the next call for p, or its
// release.
func (l *Log) encodeBlocks(j *job, recs []record, p *publication) (bufs [][]byte, length int64) {
	w := &l.w
	if p.parts == nil {
		p.parts = writeParts.Get().(*parts)
	}
	out := p.parts
	out.bufs, out.heads = out.bufs[:0], out.heads[:0]
	if !p.started {
		p.started = true
		p.lastAt = -l.opt.IndexBytes // an index entry at the first frame of each sync that is far enough from the last
		l.mu.RLock()                 // a truncation may cut the index at this moment; its first entry stays
		if n := len(p.seg.index); n > 0 {
			p.lastAt, p.indexed = p.seg.index[n-1].pos, true
		}
		l.mu.RUnlock()
	}
	pos, padFrom := w.pos, l.padFrom()
	for len(recs) > 0 {
		n, bytes, run := nextBlock(recs, padFrom)
		h := blockHeader{count: uint32(n), length: uint32(bytes), generation: p.seg.generation, first: recs[0].Index, synced: j.mark}
		if pad := padding(run, pos+blockHeaderSize); int(pad)*l.opt.PadShare <= len(run) {
			h.pad = pad
		}
		at := len(out.heads)
		out.heads = append(out.heads, emptyHead[:]...) // if this moves it, the headers before stay where they were
		head := out.heads[at:]
		out.bufs = append(out.bufs, head)
		if run != nil {
			out.bufs = append(out.bufs, noFrames[:h.pad], run)
		}
		pos += int64(h.body())
		for i := range recs[:n] {
			r := &recs[i]
			h.digest = digestFrame(h.digest, r.Frame)
			if run == nil {
				out.bufs = append(out.bufs, r.Frame)
			}
			t := r.maxTimestamp()
			if pos-p.lastAt >= l.opt.IndexBytes || (!p.indexed && len(p.index) == 0) {
				p.index = append(p.index, indexEntry{r.Index, r.base, pos, t})
				p.lastAt = pos
			} else if k := len(p.index); k > 0 {
				p.index[k-1].maxTime = max(p.index[k-1].maxTime, t)
			}
			pos += int64(len(r.Frame))
		}
		h.encode(l.group, head)
		recs = recs[n:]
	}
	return out.bufs, pos - w.pos
}

var (
	emptyHead [blockHeaderSize]byte
	noFrames  [maxPad]byte // what padding is of
)

// publish shows durable entries to readers, except those that a truncation has voided meanwhile.
func (l *Log) publish(p *publication) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := p.seg
	last := p.recs[len(p.recs)-1].Index
	next := p.recs[len(p.recs)-1].next()
	limit := last
	if l.cut != 0 && l.cut <= limit {
		limit = l.cut - 1
	}
	s.size = p.size
	shown := l.lastSeg() == s
	if s.first > limit {
		// All that this file added is void already. If the file is not dead yet, it is now.
		if s.last < s.first {
			l.dead = append(l.dead, s.name)
		}
		return
	}
	first := p.recs[0].Index
	if limit < first {
		return // s was cut below what this Sync added
	}
	if !shown {
		l.segs = append(l.segs, s)
	}
	if limit < last {
		next = p.recs[limit-first].next()
	}
	k := 0
	for i := range p.recs {
		r := &p.recs[i]
		if r.Index > limit {
			break
		}
		t := r.maxTimestamp()
		s.maxTime = max(s.maxTime, t)
		if k < len(p.index) && p.index[k].index == r.Index {
			s.index = append(s.index, p.index[k])
			k++
		} else if n := len(s.index); n > 0 {
			s.index[n-1].maxTime = max(s.index[n-1].maxTime, t)
		}
		l.pendingBytes -= int64(len(r.Frame))
		l.behind += int64(len(r.Frame))
	}
	s.last, s.next = limit, next
	l.synced = limit
	if !p.ahead {
		l.durable, l.behind = limit, 0
	}
	l.marked = max(l.marked, min(p.mark, limit))
}

// begin makes a new segment file, whose header goes out with its first block.
func (l *Log) begin(h segmentHeader) error {
	w := &l.w
	w.gen++
	h.generation = w.gen
	h.padded = l.opt.Direct && l.opt.Pads != nil && l.opt.Pads()
	name := segmentName(h.first, h.generation)
	f, err := l.fs.Create(path.Join(l.dir, name))
	if err != nil {
		return fmt.Errorf("create segment: %w", err)
	}
	w.file, w.fresh, w.seal = f, true, false
	w.seg = &seg{name: name, segmentHeader: h, last: h.first - 1, next: h.base, maxTime: noTimestamp}
	w.pos, w.alloc, w.zeroed, w.redo, w.direct = SegmentHeaderSize, 0, 0, 0, false
	w.tip, w.settled = noTip(l.group, &h).tipEnd, settledEnd{}
	if l.opt.Direct {
		w.setDirect(0, w.seg.encode(l.group)) // the header is part of what is written first
	}
	if err := l.reserve(0); err != nil {
		l.abandon()
		return err
	}
	return nil
}

// abandon removes a file that nothing was published of.
func (l *Log) abandon() {
	w := &l.w
	name := w.seg.name
	_ = w.file.Close()
	// If it stays: it begins where the next generation will begin or above, and is overruled by that.
	_ = l.fs.Remove(path.Join(l.dir, name))
	*w = writer{gen: w.gen, left: w.left}
}

// leave closes the current file: entries go on in a new one. Everything published in it is durable (settle).
func (l *Log) leave() {
	w := &l.w
	if w.seg == nil {
		w.seal = false
		return
	}
	s := w.seg
	if !w.seal && w.pos < w.alloc {
		_ = w.file.Truncate(w.pos) // gives back what was preallocated; nothing depends on it
	}
	_ = w.file.Close() // all of it has been synced
	*w = writer{gen: w.gen, left: w.left}
	l.mu.Lock()
	live := l.lastSeg() == s
	if s.last < s.first {
		l.dead = append(l.dead, s.name) // it held a mark and nothing else
	}
	var img []byte
	if live {
		img = l.encodeIndexLocked(s)
	}
	l.mu.Unlock()
	if live {
		w.left = append(w.left, closedFile{s.name, img})
	}
}

// roll closes the current file and begins the next, unless the disk is too full for that and the entry still fits.
func (l *Log) roll(j *job) error {
	if err := l.settle(); err != nil {
		return err
	}
	l.mu.RLock()
	j.mark = max(j.mark, l.durable)
	l.mu.RUnlock()
	w := &l.w
	old := *w
	w.seg, w.file = nil, nil
	err := l.begin(j.header())
	if err == nil {
		fresh := *w
		*w = old
		w.gen = fresh.gen
		l.leave()
		fresh.left = w.left
		*w = fresh
		return nil
	}
	gen := w.gen
	*w = old
	w.gen = gen
	if errors.Is(err, vfs.ErrNoSpace) && w.pos+2*blockHeaderSize+maxPad+int64(len(j.recs[0].Frame)) <= w.alloc {
		l.mu.Lock()
		l.full = true
		l.mu.Unlock()
		return nil
	}
	return err
}

// reserve makes sure that length bytes fit at w.pos, with reserveBytes to spare if the disk has them.
func (l *Log) reserve(length int64) error {
	w := &l.w
	need := w.pos + length
	if need+reserveBytes <= w.alloc {
		return nil
	}
	target := w.alloc
	for target < need+reserveBytes {
		target += min(max(target, l.opt.FirstExtent), l.opt.MaxExtent)
	}
	target = unitAbove(max(min(target, l.segmentBytes.Load()), need+reserveBytes))
	err := w.file.Allocate(w.alloc, target-w.alloc)
	if err == nil {
		w.alloc = target
		l.mu.Lock()
		l.full = false
		l.mu.Unlock()
		return nil
	}
	if !errors.Is(err, vfs.ErrNoSpace) {
		return fmt.Errorf("allocate %s: %w", w.seg.name, err)
	}
	l.mu.Lock()
	l.full = true
	l.mu.Unlock()
	if need <= w.alloc {
		return nil
	}
	if target = unitAbove(need); w.file.Allocate(w.alloc, target-w.alloc) == nil {
		w.alloc = target
		return nil
	}
	return fmt.Errorf("allocate %s: %w", w.seg.name, err)
}

// writeMark writes an empty block that notes h.first-1 as durable, to a new file (which h describes) if there is none to
// write to. A disk without room for it is no error: Full suppresses the mark until there is.
func (l *Log) writeMark(h segmentHeader) error {
	w := &l.w
	if w.seal {
		l.leave()
	}
	var err error
	if w.seg == nil {
		err = l.begin(h)
	} else {
		err = l.reserve(blockHeaderSize)
	}
	if errors.Is(err, vfs.ErrNoSpace) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := l.redoMark(); err != nil {
		return err
	}
	mark := h.first - 1
	if err := l.put([][]byte{l.encodeMark(mark)}, blockHeaderSize, true, false); err != nil {
		if errors.Is(err, vfs.ErrNoSpace) {
			if w.fresh {
				l.abandon()
			}
			l.mu.Lock()
			l.full = true
			l.mu.Unlock()
			return nil
		}
		return fmt.Errorf("write mark to %s: %w", w.seg.name, err)
	}
	if err := l.syncFile(); err != nil {
		return err
	}
	l.publishMark(mark)
	l.extendTip(w.pos-blockHeaderSize, mark, h.base, h.prevTerm, l.opt.ScanBytes/tipIdle)
	return nil
}

func (l *Log) encodeMark(mark raft.Index) []byte {
	h := blockHeader{generation: l.w.seg.generation, first: mark + 1, synced: mark}
	b := make([]byte, blockHeaderSize)
	h.encode(l.group, b)
	return b
}

// publishMark notes that a mark is on the disk.
func (l *Log) publishMark(mark raft.Index) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.w.seg.size = l.w.pos
	if l.cut == 0 {
		l.marked = max(l.marked, mark)
	}
}

// redoMark writes what stands from w.redo on once more.
func (l *Log) redoMark() error {
	w := &l.w
	if w.redo == 0 {
		return nil
	}
	if err := rewrite(w.file, w.redo, w.pos); err != nil {
		w.seal = true
		return fmt.Errorf("rewrite the mark of %s: %w", w.seg.name, err)
	}
	w.redo = 0
	return nil
}

// syncFile makes what was written to the current file durable, and its name with it. Its errors are fatal even if they
// say "no space". (Where put syncs, too, the two are not told apart: then "no space" seals the file, and what is not published goes to
// the next one whole.)
func (l *Log) syncFile() error {
	w := &l.w
	if !w.synced {
		if err := w.file.Sync(); err != nil {
			return fmt.Errorf("sync %s: %v", w.seg.name, err)
		}
		w.ahead = false
	}
	if w.fresh {
		if err := l.fs.SyncDir(l.dir); err != nil {
			return fmt.Errorf("sync directory %s: %v", l.dir, err)
		}
		w.fresh = false
		l.writeIndexes()
	}
	if l.empty {
		l.empty = false
		_ = l.fs.Remove(path.Join(l.dir, emptyName)) // if it comes back, the next open removes it
	}
	return nil
}

// removeSegment removes a file, its index and its tip. Names that stay behind are removed by the next Open.
func (l *Log) removeSegment(name string) {
	l.removeShortcuts(name)
	_ = l.fs.Remove(path.Join(l.dir, name))
}

// Close implements multi.Log. What is pending is synced first, if that is still possible.
func (l *Log) Close() error {
	l.io.Lock()
	defer l.io.Unlock()
	l.mu.RLock()
	closed, healthy := l.closed, l.failed == nil
	l.mu.RUnlock()
	if closed {
		return nil
	}
	var err error
	if healthy {
		if _, err = l.syncLocked(); err == nil {
			_, err = l.syncLocked() // the mark, and what a relaxed log has not synced
		}
	}
	if l.w.file != nil {
		err = errors.Join(err, l.w.file.Close())
	}
	l.w = writer{gen: l.w.gen}
	l.closePart()
	l.mu.Lock()
	l.closed = true
	l.dropTail(l.last)
	l.mu.Unlock()
	l.onward.close()
	l.opt.Cache.forget(l)
	return err
}

// frameWord tells at a boundary inside a segment file what stands there.
func frameWord(b []byte) uint32 { return binary.LittleEndian.Uint32(b) }

// Compaction (cleanup.policy=compact): of each key the newest record stays, and offsets never move.
//
// The log of a compacted partition has two parts. Above, from the first index on, are segments, as in every log. Below is the cleaned
// part: files of record batches (clean_file.go), with gaps where records have gone. A checkpoint stands between them:
//
//	 offsets    0                                         start
//	            ├─────────────┤├──────┤├─────────────────┤├───────────────┤├────────────┤├──── …
//	            cleaned files                             │   segments, Raft's entries from first on
//	                                           checkpoint c, first = c + 1
//
// For Raft what is below first is compacted, and stands in a snapshot: the checkpoint with the cleaned files behind it, which is
// what a follower gets that is behind (clean_ship.go). The core knows nothing of it. Each replica cleans for itself.
//
// A cleaning reads all of the cleaned part and the entries up to a newer checkpoint, which is committed and applied, and writes new files
// that stand for all of it, but for those of which nothing goes (clean_keep.go). It holds no lock, and changes nothing: the log goes on meanwhile. What it has made takes effect in Prune, where
// the log's front is moved for other reasons, too, and only if nothing has moved it since:
//
//	1. the new files are durable, and their names          a crash: they are named nowhere, and removed
//	2. the meta file names them, and says the new first     ← the step that counts: one rename
//	3. the old files and segments are removed               a crash: the next open removes what is named nowhere
//
// There is no moment in which a crash leaves half of it, and no moment in which an old and a new part are mixed: so a tombstone can
// never go before what it has deleted.

package segment

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"slices"
	"sort"

	"github.com/balsamq/balsa/internal/vfs"
	"github.com/balsamq/balsa/protocol"
	"github.com/balsamq/balsa/raft"
)

var (
	// ErrNothingToClean: no checkpoint lies where one is needed, or all is clean.
	ErrNothingToClean = errors.New("nothing to clean")
	// ErrOvertaken: the log's front has moved while it was being cleaned.
	ErrOvertaken = errors.New("the log has moved on")
)

// CleanBound says how far a log may be cleaned.
type CleanBound struct {
	Index  raft.Index // applied, and not above
	Offset Offset     // nothing at or above: the last stable offset
	Before int64      // no entry from the first one on with a timestamp (milliseconds) above this; math.MaxInt64: no bound
}

// Cleanable is what could be cleaned.
type Cleanable struct {
	// UpTo is the checkpoint to clean up to, and Next the offset there; 0: there is none that helps.
	UpTo raft.Index
	Next Offset
	// Clean and Dirty are bytes: of what has been cleaned, and of what lies between that and Next.
	Clean, Dirty int64
	// Beyond are the bytes in closed files that could be cleaned, if only there were a checkpoint (WantCheckpoint) behind them.
	Beyond int64
	// Open are those in the file that is written to, if there is no checkpoint behind them either.
	Open int64
	// Oldest is the timestamp of about the first dirty record; -1: it has none, or there is none.
	Oldest int64
}

// Cleanable looks at what is in memory only.
func (l *Log) Cleanable(q CleanBound) Cleanable {
	l.io.Lock()
	kept, active := slices.Clone(l.kept), l.w.seg
	l.io.Unlock()
	l.mu.RLock()
	defer l.mu.RUnlock()
	c := Cleanable{Oldest: noTimestamp, Next: l.start}
	bound := min(q.Offset, l.boundByTime(q.Before))
	n := sort.Search(len(kept), func(k int) bool {
		return kept[k].next > bound || kept[k].index > q.Index || kept[k].index > l.snap.index
	})
	if n > 0 && kept[n-1].index >= l.first && kept[n-1].next > l.start {
		c.UpTo, c.Next = kept[n-1].index, kept[n-1].next
	} else if l.dirty < l.start && len(l.cleaned) > 0 {
		c.UpTo = l.first - 1 // what the map had no room for
	}
	covered := c.Next // a later checkpoint, too, will be of use one day
	if n := len(kept); n > 0 {
		covered = max(covered, kept[n-1].next)
	}
	for _, f := range l.cleaned {
		if f.end <= l.dirty {
			c.Clean += f.size
		} else {
			c.Dirty += f.size
		}
	}
	for _, s := range l.segs {
		if s.next <= l.start || s.base >= bound {
			continue
		}
		if c.Oldest == noTimestamp && len(s.index) > 0 {
			c.Oldest = s.index[0].maxTime
		}
		dirty := s.posOf(c.Next) - s.posOf(l.start)
		c.Dirty += dirty
		if s != active && s.next <= bound && s.last <= q.Index && s.next > covered {
			c.Beyond += s.posOf(s.next) - s.posOf(l.start) - dirty
		}
		if s == active && bound > covered {
			c.Open = s.posOf(bound) - s.posOf(covered)
		}
	}
	return c
}

// posOf is about where offset o is in the file, within the file: between the entries of the index it is guessed.
func (s *seg) posOf(o Offset) int64 {
	if o >= s.next || len(s.index) == 0 {
		return s.size
	}
	k := sort.Search(len(s.index), func(k int) bool { return s.index[k].base > o }) - 1
	if k < 0 {
		return SegmentHeaderSize
	}
	e, next, end := &s.index[k], s.next, s.size
	if k+1 < len(s.index) {
		next, end = s.index[k+1].base, s.index[k+1].pos
	}
	return e.pos + int64(float64(end-e.pos)*float64(o-e.base)/float64(max(next-e.base, 1)))
}

// boundByTime is the offset of the first stretch with a timestamp above before. The caller holds mu.
func (l *Log) boundByTime(before int64) Offset {
	if before == math.MaxInt64 {
		return l.next
	}
	for _, s := range l.segs {
		if s.maxTime <= before {
			continue
		}
		for k := range s.index {
			if s.index[k].maxTime > before {
				return s.index[k].base
			}
		}
	}
	for i := range l.tail {
		if l.tail[i].Index > l.synced {
			return l.tail[i].base
		}
	}
	return l.next
}

// WantCheckpoint has the next snapshot that is saved kept as a checkpoint.
func (l *Log) WantCheckpoint() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.wanted = true
}

// CleanOptions are those of one cleaning.
type CleanOptions struct {
	UpTo raft.Index // a checkpoint, as Cleanable said
	// Start is the first offset that is not deleted.
	Start Offset
	// Now is the wall clock, and DeleteRetention how long tombstones and markers stay after they have first been cleaned;
	// both milliseconds; math.MaxInt64: for ever.
	Now, DeleteRetention int64
	// MapBytes bounds the memory for keys. What finds no room in it is cleaned next time.
	MapBytes int64
	// Aborted reports that a batch of a transaction was aborted; nil: there are none.
	Aborted func(b protocol.Batch) bool
	// Pace is called for what is read and written, and waits as it likes; an error ends the cleaning. nil: no pace.
	Pace func(bytes int) error
}

// CleanStats is what a cleaning did.
type CleanStats struct {
	Read, Written      int64 // bytes; what is read twice counts twice
	Records, Kept      int64
	Tombstones         int64 // that have gone
	Unreadable         int64 // batches that were left as they are
	Files              int   // of the new part; Untouched are those that were files of the old one
	Untouched          int
	Start, Clean, Next Offset // of the part that it made; cleaned up to Clean
}

// washed is a cleaning that is done and has not taken effect.
type washed struct {
	life  uint64
	upTo  raft.Index
	files []*cleanedFile
	made  []*cleanedFile // those of files that no meta file names yet
	dirty Offset
}

// cleaning is one in progress.
type cleaning struct {
	*Log
	o       CleanOptions
	stats   CleanStats
	life    uint64
	first   raft.Index
	begins  Offset // of the part that there is
	start   Offset // of the segments
	dirty   Offset
	next    Offset // at UpTo
	old     []*cleanedFile
	kept    []checkpoint
	keys    *offsetMap
	mapped  Offset // keys of records below it are in the map
	out     *cleanedWriter
	done    []*cleanedFile
	made    []*cleanedFile // those of done that it has written itself
	same    *cleanedFile   // the file at hand, as long as nothing goes from it; nothing of it is written then
	gen     uint64
	target  int64
	written Offset // behind the last batch that was written
	last    record // the last batch that was met
	keeps   []bool // which records of the batch at hand stay
	// held are the producers of whose transaction, at the place at hand, records stay: its marker must stay as well. No more than
	// there were open transactions at once.
	held map[int64]bool
}

// Clean prepares a cleaning, which the next Prune lets take effect. It reads and writes files, at its pace, and may be called beside
// anything but itself. [ErrNothingToClean], [ErrOvertaken], [vfs.ErrNoSpace] and others leave the log as it was.
func (l *Log) Clean(o CleanOptions) (CleanStats, error) {
	c := cleaning{Log: l, o: o}
	if o.Pace == nil {
		c.o.Pace = func(int) error { return nil }
	}
	if err := c.prepare(); err != nil {
		return c.stats, fmt.Errorf("clean group %d: %w", l.group, err)
	}
	err := c.gather()
	if err == nil {
		c.narrow()
		err = c.write()
	}
	if err == nil {
		err = l.fs.SyncDir(l.dir)
	}
	l.io.Lock()
	defer l.io.Unlock()
	if err == nil {
		err = c.current()
	}
	if err != nil {
		c.abandon()
		if errors.Is(err, raft.ErrCompacted) {
			err = fmt.Errorf("%w: %w", ErrOvertaken, err)
		}
		return c.stats, fmt.Errorf("clean group %d: %w", l.group, err)
	}
	l.dropWashed()
	l.washed = &washed{life: c.life, upTo: c.o.UpTo, files: c.done, made: c.made, dirty: c.mapped}
	c.stats.Files, c.stats.Start, c.stats.Clean, c.stats.Next = len(c.done), c.done[0].base, c.mapped, c.next
	return c.stats, nil
}

// prepare looks at what there is.
func (c *cleaning) prepare() error {
	c.io.Lock()
	defer c.io.Unlock()
	c.mu.RLock()
	defer c.mu.RUnlock()
	if err := c.usable(); err != nil {
		return err
	}
	c.life, c.first, c.start, c.dirty, c.old = c.Log.life, c.Log.first, c.Log.start, c.Log.dirty, c.Log.cleaned
	c.begins, c.kept = c.startLocked(), slices.Clone(c.Log.kept)
	if len(c.old) == 0 {
		c.dirty = c.start
	}
	switch i := slices.IndexFunc(c.kept, func(k checkpoint) bool { return k.index == c.o.UpTo }); {
	case c.o.UpTo == c.first-1 && len(c.old) > 0:
		c.next = c.start
	case i >= 0 && c.o.UpTo >= c.first && c.o.UpTo <= c.snap.index && c.kept[i].next > c.start:
		c.next = c.kept[i].next
	default:
		return fmt.Errorf("%w: up to entry %d", ErrNothingToClean, c.o.UpTo)
	}
	c.o.Start = min(max(c.o.Start, c.begins), c.next)
	if c.o.Start == c.next {
		return fmt.Errorf("%w: all of it is deleted", ErrNothingToClean)
	}
	// A size that keeps the number of files far from its bound.
	var size int64
	for _, f := range c.old {
		size += f.size
		c.gen = max(c.gen, f.generation)
	}
	for _, s := range c.segs {
		size += s.size
	}
	c.gen = max(c.gen+1, c.cleanGen)
	c.cleanGen = c.gen + 1
	c.target = max(c.segmentBytes.Load(), size/(maxCleanedFiles/4))
	// Produce needs room more than this does.
	free, err := c.fs.Free(c.dir)
	if err != nil {
		return err
	}
	if free < size+2*c.opt.MaxExtent {
		return fmt.Errorf("%d bytes are free, and it may take %d: %w", free, size+2*c.opt.MaxExtent, vfs.ErrNoSpace)
	}
	return nil
}

// errEnough ends each, eachIn and eachAbove: no more is wanted.
var errEnough = errors.New("enough")

// each yields all batches that end behind from, up to the checkpoint.
func (c *cleaning) each(from Offset, yield func(r *record) error) error {
	for _, f := range c.old {
		if f.end <= from {
			continue
		}
		if err := c.eachIn(f, from, yield); err != nil {
			return err
		}
	}
	return c.eachAbove(from, yield)
}

// visitor has yield called for batches that end behind from, at the cleaning's pace, until there is an error, which is in err then.
func (c *cleaning) visitor(from Offset, yield func(r *record) error, err *error) func(r *record) bool {
	return func(r *record) bool {
		if r.records == 0 || r.next() <= from {
			return true
		}
		c.stats.Read += int64(len(r.Frame))
		if *err = c.current(); *err == nil {
			*err = c.o.Pace(len(r.Frame))
		}
		if *err == nil {
			*err = yield(r)
		}
		return *err == nil
	}
}

// eachIn is each for a file of the cleaned part.
func (c *cleaning) eachIn(f *cleanedFile, from Offset, yield func(r *record) error) error {
	var err error
	rerr := c.scanCleaned(f, f.stretchOf(from), len(f.index), maxReadChunk, c.visitor(from, yield, &err))
	switch {
	case errors.Is(rerr, fs.ErrNotExist):
		return fmt.Errorf("%w: %w", ErrOvertaken, rerr)
	case rerr != nil:
		return c.cleanedError(f, rerr)
	case errors.Is(err, errEnough):
		return nil
	}
	return err
}

// eachAbove is each for the segments.
func (c *cleaning) eachAbove(from Offset, yield func(r *record) error) error {
	if c.o.UpTo < c.first {
		return nil
	}
	at := c.first
	if from > c.start {
		c.mu.RLock()
		at = max(c.indexOf(from), c.first)
		c.mu.RUnlock()
	}
	var err error
	if werr := c.walk(at, c.o.UpTo, math.MaxInt, c.visitor(from, yield, &err)); werr != nil {
		return werr
	}
	return err
}

// current is an error once the log is closed, or its front has moved: the directory may be another log's by now.
func (c *cleaning) current() error {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if c.Log.life != c.life {
		return ErrOvertaken
	}
	return c.usable()
}

// gather maps the keys of the dirty part to their last offsets.
func (c *cleaning) gather() error {
	c.mapped = c.next
	from := max(c.dirty, c.o.Start)
	c.keys = newOffsetMap(int64(c.next-from), c.o.MapBytes)
	errFull := errors.New("full")
	err := c.each(from, func(r *record) error {
		b, raw, ok := c.look(r)
		if !ok || b.Control() {
			return nil
		}
		for rec, err := range b.RecordsIn(raw) {
			switch {
			case err != nil:
				return nil // it stays as it is, whatever came of it: a newer record of a key is there all the same
			case rec.Key == nil || Offset(rec.Offset) < from:
			case !c.keys.put(rec.Key, Offset(rec.Offset)):
				c.mapped = Offset(rec.Offset)
				return errFull
			}
		}
		return nil
	})
	if err == errFull {
		return nil
	}
	return err
}

// narrow: what lies above the first checkpoint behind what is in the map is not cleaned this time, and so need not be copied.
func (c *cleaning) narrow() {
	if c.mapped <= c.start && len(c.old) > 0 {
		c.o.UpTo, c.next = c.first-1, c.start
		return
	}
	for _, k := range c.kept {
		if k.index >= c.first && k.next >= c.mapped && k.next < c.next {
			c.o.UpTo, c.next = k.index, k.next
			return
		}
	}
}

// look opens a batch. false: there is nothing in it to go by; it cannot be read, or a transaction that was aborted wrote it.
func (c *cleaning) look(r *record) (b protocol.Batch, raw []byte, ok bool) {
	b, err := protocol.ParseBatch(r.Payload)
	if err != nil || b.BaseOffset() != int64(r.base) || b.NextOffset() != int64(r.next()) {
		return nil, nil, false
	}
	if !b.Control() && b.Transactional() && c.o.Aborted != nil && c.o.Aborted(b) {
		return b, nil, false
	}
	if raw, err = b.Inflate(inflater()); err != nil {
		return nil, nil, false
	}
	return b, raw, true
}

// write writes what is left.
func (c *cleaning) write() error {
	c.written, c.held = c.o.Start, make(map[int64]bool)
	for _, f := range c.old {
		if err := c.washFile(f); err != nil {
			return err
		}
	}
	if err := c.eachAbove(c.o.Start, c.wash); err != nil {
		return err
	}
	if c.last.records == 0 {
		return fmt.Errorf("%w: no batch up to entry %d", ErrNothingToClean, c.o.UpTo)
	}
	if c.last.next() != c.next {
		return fmt.Errorf("%w: the last batch up to entry %d ends at %d, the checkpoint at %d", ErrCorrupt, c.o.UpTo, c.last.next(), c.next)
	}
	if c.written < c.next {
		// A reader in the last gap must find a batch, or it would take the gap for the log's end.
		if err := c.put(c.framed(&c.last, protocol.Batch(c.last.Payload).Emptied())); err != nil {
			return err
		}
	}
	if c.out == nil {
		return nil // it ends with a file that was left alone
	}
	return c.rotate(c.next)
}

// wash writes what is left of a batch.
func (c *cleaning) wash(r *record) error {
	b, raw, ok := c.look(r)
	c.last = *r
	switch {
	case ok:
		return c.filter(r, b, raw)
	case b != nil: // aborted
		c.stats.Records += int64(b.RecordCount())
		return c.differs(r)
	}
	c.stats.Unreadable++
	if b, err := protocol.ParseBatch(r.Payload); err == nil {
		c.hold(b)
	}
	return c.stays(r)
}

// filter is wash for a batch that can be read.
func (c *cleaning) filter(r *record, b protocol.Batch, raw []byte) error {
	count, kept, gone := int64(0), int64(0), int64(0)
	held := b.Control() && c.held[b.ProducerID()]
	if b.Control() {
		delete(c.held, b.ProducerID())
	}
	expired := b.DeleteHorizon() && c.o.Now >= b.BaseTimestamp() && !held
	tombstones, broken := false, false
	c.keeps = c.keeps[:0]
	keep := func(rec *protocol.Record) bool {
		count++
		o := Offset(rec.Offset)
		switch {
		case o < c.o.Start || b.Control() && expired:
			return false
		case b.Control():
			tombstones = !held // as Kafka: its time begins when nothing of its transaction is left
		case rec.Key == nil:
			return false // from a time when the topic was not compacted
		default:
			if last, ok := c.keys.last(rec.Key); ok && last > o {
				return false
			}
			if rec.Value == nil && expired {
				gone++
				return false
			}
			tombstones = tombstones || rec.Value == nil
		}
		kept++
		return true
	}
	for rec, err := range b.RecordsIn(raw) {
		if broken = err != nil; broken {
			break
		}
		c.keeps = append(c.keeps, keep(rec))
	}
	if broken {
		c.stats.Unreadable++
		c.hold(b)
		return c.stays(r)
	}
	if kept > 0 {
		c.hold(b)
	}
	c.stats.Records, c.stats.Kept, c.stats.Tombstones = c.stats.Records+count, c.stats.Kept+kept, c.stats.Tombstones+gone
	// The time begins when all that a tombstone deletes is gone: once its key is in the map.
	horizon := int64(-1)
	if tombstones && !b.DeleteHorizon() && r.next() <= c.mapped && c.o.DeleteRetention < math.MaxInt64-c.o.Now {
		horizon = c.o.Now + c.o.DeleteRetention
	}
	if kept == count && horizon < 0 && kept > 0 {
		return c.stays(r)
	}
	if err := c.differs(r); err != nil || kept == 0 {
		return err
	}
	i := -1
	left, err := b.Retain(raw, horizon, func(*protocol.Record) bool { i++; return c.keeps[i] })
	if err != nil {
		return err
	}
	return c.put(c.framed(r, left))
}

// hold notes that something of a transaction stays. Who folds the log, and not only reads it, needs the marker then: to a group coordinator offsets
// without one are pending for ever.
func (c *cleaning) hold(b protocol.Batch) {
	if b.Transactional() && !b.Control() {
		c.held[b.ProducerID()] = true
	}
}

// framed is r with another payload.
func (c *cleaning) framed(r *record, b protocol.Batch) *record {
	e := raft.Entry{Term: r.Term, Index: r.Index, Type: r.Type, Payload: b}
	AppendFrame(nil, c.group, &e, r.base, r.records)
	return &record{Entry: e, base: r.base, records: r.records}
}

// put appends a batch to the file that is being written, or to the next.
func (c *cleaning) put(r *record) error {
	if c.out != nil && c.out.pos+int64(len(r.Frame)) > c.target && c.out.f.batches > 0 {
		if err := c.rotate(r.base); err != nil {
			return err
		}
	}
	if c.out == nil {
		base := c.o.Start
		if n := len(c.done); n > 0 {
			base = c.done[n-1].end
		}
		var err error
		if c.out, err = c.createCleaned(base, c.gen); err != nil {
			return err
		}
	}
	c.stats.Written += int64(len(r.Frame))
	if err := c.o.Pace(len(r.Frame)); err != nil {
		return err
	}
	if err := c.out.add(r); err != nil {
		return err
	}
	c.written = r.next()
	return nil
}

// rotate ends the file that is being written.
func (c *cleaning) rotate(end Offset) error {
	f, err := c.out.finish(end)
	c.out = nil
	if err != nil {
		return err
	}
	c.done, c.made = append(c.done, f), append(c.made, f)
	return nil
}

// abandon removes what was written.
func (c *cleaning) abandon() {
	if c.out != nil {
		c.out.abandon()
	}
	for _, f := range c.made {
		c.removeCleaned(f)
	}
}

// CleaningWaits reports that a cleaning is done, and waits for Prune.
func (l *Log) CleaningWaits() bool {
	l.io.Lock()
	defer l.io.Unlock()
	return l.washed != nil
}

// dropWashed drops a cleaning that was not let take effect. The caller holds io.
func (l *Log) dropWashed() {
	if l.washed != nil {
		for _, f := range l.washed.made {
			l.removeCleaned(f)
		}
		l.washed = nil
	}
}

// adopt lets a cleaning take effect, if the log is still what it was made of; it returns the checkpoint behind which the log begins now,
// nil if that has not changed. The caller holds io.
func (l *Log) adopt() (*raft.SnapshotMeta, error) {
	w := l.washed
	if w == nil {
		return nil, nil
	}
	l.mu.RLock()
	first, overtaken := l.first, l.life != w.life || l.readDamage != nil
	l.mu.RUnlock()
	if overtaken {
		l.dropWashed()
		return nil, nil
	}
	if w.upTo < first {
		return nil, l.exchange(w)
	}
	// Before the cut, not after: a log that begins behind a rotten checkpoint has nothing to give its followers.
	f, err := l.openSnapshotFile(checkpointName(w.upTo))
	if errors.Is(err, ErrBadSnapshot) || errors.Is(err, fs.ErrNotExist) || errors.Is(err, errUnreadable) {
		if k := slices.IndexFunc(l.kept, func(c checkpoint) bool { return c.index == w.upTo }); k >= 0 {
			l.giveUpCheckpoint(k, !errors.Is(err, errUnreadable))
		}
		l.dropWashed()
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("adopt the cleaned part of group %d: checkpoint at %d: %w", l.group, w.upTo, err)
	}
	meta := f.snap.Meta
	if err := f.Close(); err != nil {
		return nil, err
	}
	if err := l.truncatePrefix(w.upTo, w); err != nil {
		l.spoilt(err)
		return nil, err
	}
	l.washed = nil
	l.dropCheckpoints(w.upTo)
	return &meta, nil
}

// spoilt: a cleaning could not take effect. The meta file may name the new files all the same, and then they stay until the next open has seen
// which it is; unless there was no room for it.
func (l *Log) spoilt(err error) {
	if errors.Is(err, vfs.ErrNoSpace) {
		l.dropWashed()
	}
	l.washed = nil
}

// exchange puts other files in the place of the cleaned part; the segments stay as they are.
func (l *Log) exchange(w *washed) error {
	l.mu.RLock()
	term, err := l.termLocked(l.first - 1)
	m := l.metaLocked(l.first, term, l.start)
	l.mu.RUnlock()
	if err != nil {
		return err
	}
	m.clean(w.files, w.dirty)
	if err := l.writeMeta(&m); err != nil {
		if w == l.washed {
			l.spoilt(err)
		}
		return err
	}
	if w == l.washed {
		l.washed = nil
	}
	l.mu.Lock()
	old := l.setCleaned(w)
	l.mu.Unlock()
	for _, f := range old {
		l.removeCleaned(f)
	}
	return nil
}

// setCleaned makes w the cleaned part, nil for none, and returns the files that are no longer wanted. The caller holds mu.
func (l *Log) setCleaned(w *washed) []*cleanedFile {
	var files []*cleanedFile
	l.dirty = 0
	if w != nil {
		files, l.dirty = w.files, w.dirty
	}
	var old []*cleanedFile
	for _, f := range l.cleaned {
		if !slices.Contains(files, f) {
			old = append(old, f)
		}
	}
	l.cleaned = files
	l.life++
	return old
}

// forgetCleaned drops cleaned files of which nothing is wanted any more. The caller holds io.
func (l *Log) forgetCleaned() error {
	l.mu.RLock()
	n := sort.Search(len(l.cleaned), func(k int) bool { return l.cleaned[k].end > l.forget })
	w := &washed{files: l.cleaned[n:], dirty: l.dirty}
	l.mu.RUnlock()
	if n == 0 {
		return nil
	}
	return l.exchange(w)
}

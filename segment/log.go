// Log: what is in memory of one group's log, its locks, and Append. Nothing here touches the disk: sync.go writes,
// read.go reads, recover.go opens.

package segment

import (
	"encoding/binary"
	"fmt"
	"slices"
	"sort"
	"sync"
	"sync/atomic"

	"github.com/balsamq/balsa/internal/vfs"
	"github.com/balsamq/balsa/raft"
)

// Options of a log. The zero value is usable.
type Options struct {
	// SegmentBytes is the size at which a segment file is closed and the next one begun. Default 1 GiB.
	SegmentBytes int64
	// IndexBytes is the distance between entries of the sparse index. Default 32 KiB.
	IndexBytes int64
	// FirstExtent and MaxExtent bound the steps in which a file is preallocated: each step doubles the file, from the
	// first to the second. Defaults 64 KiB and 16 MiB.
	FirstExtent, MaxExtent int64
	// ZeroAhead, if positive, is how far ahead of small writes the preallocated extent is overwritten with zeros. On ext4
	// and xfs a sync that finds its blocks written once before need not journal their conversion: about half the latency
	// of a small sync, for up to twice the bytes. 128 KiB is a good value for disks; default 0, off.
	ZeroAhead int64
	// ScanBytes is about how much of the newest segment Open reads at most, whatever its size: so often its tip is written. Default 8 MiB.
	ScanBytes int64
	// Direct writes segments past the system's page cache, where the file system can: a buffered, growing append costs more of a
	// core than all else that happens to a record. What is read again soon is in Cache; the rest is read through the page cache, but
	// where it is read once: see past.go.
	Direct bool
	// Pads is asked whenever a segment is begun: whether its blocks may have padding, so that large runs of frames are written from where they
	// lie. A program before that cannot open such a log. Default: no.
	Pads func() bool
	// PadFrom is how many bytes of frames side by side get a block of their own in such a segment, and PadShare the part of them that its padding may
	// be: one in so many. Defaults 16 KiB, 8.
	PadFrom, PadShare int
	// Checkpoints keeps earlier snapshots, behind which Prune may cut: for a log whose records are the data.
	Checkpoints bool
	// Past is what the owner of the log knows of the replica's life before, from its hard state.
	Past Past
	// OnDamage is called once, when a read meets damage: the log must be opened again, which puts it on record. It must not block.
	OnDamage func(err error)
	// Cache is the budget that the hot tail lives under, shared between logs. Default: one of 4 MiB of its own.
	Cache *Cache
}

// Past tells an empty log from one that was lost: after its first Open a log's directory is never without a file.
type Past uint8

const (
	PastUnknown Past = iota // an empty directory, or none, is an empty log
	NeverRan                // likewise; what has been opened so can be told from a lost log later
	RanBefore               // an empty directory, or none, is a lost log: see Recovery.DamagedUpTo
)

func (o *Options) setDefaults() {
	def := func(p *int64, v int64) {
		if *p <= 0 {
			*p = v
		}
	}
	def(&o.SegmentBytes, 1<<30)
	def(&o.IndexBytes, 32<<10)
	def(&o.FirstExtent, 64<<10)
	def(&o.MaxExtent, 16<<20)
	def(&o.ScanBytes, 8<<20)
	if o.PadFrom <= 0 {
		o.PadFrom = 16 << 10
	}
	if o.PadShare <= 0 {
		o.PadShare = 8
	}
	o.MaxExtent = max(o.MaxExtent, o.FirstExtent)
	if o.Cache == nil {
		o.Cache = NewCache(4 << 20)
	}
}

// Log is one group's log. Append, the truncations and the snapshot methods are called by one goroutine at a time (the
// worker that holds the group); Sync by one at a time, concurrently with those; everything that reads by anyone.
//
// What is where:
//
//	index:   first                    tail[0]            synced        handed            last
//	          |------- segs (disk) -------|---- segs and tail ----|- being written -|- pending -|
//	                                      |------------------------- tail (memory) -------------|
//
//	first-1 <= synced <= handed <= last, and tail covers at least (synced, last].
//
// Entries are published (synced moves) only after the sync that they depend on has returned, so "on disk" and
// "durable" are one thing here; but for a relaxed log, see relaxed.go.
type Log struct {
	fs    vfs.FS
	dir   string
	group raft.GroupID
	opt   Options

	// io is held by whoever changes files: Sync, truncation of the prefix, snapshots, Close. Lock order: io, mu, cache.
	io     sync.Mutex
	w      writer       // guarded by io
	single *single      // guarded by io; between BeginSync and EndSync
	kept   []checkpoint // guarded by io; ascending
	recv   *receiving   // guarded by io; nil: none
	washed *washed      // guarded by io; a cleaning that waits for Prune, or nil
	// cleanGen is a generation that no cleaned file has; guarded by io.
	cleanGen uint64

	segmentBytes atomic.Int64 // Options.SegmentBytes, changeable
	relaxed      atomic.Bool  // see SetRelaxed
	busy         bool         // guarded by io: something was written since the log was last at rest
	readAgain    atomic.Int64 // how many bytes more are read through the page cache; see pastCache
	onward       onward
	applied      atomic.Uint64 // entries up to here have been applied; 0: nobody says

	// mu guards what follows. It is never held across I/O.
	mu     sync.RWMutex
	closed bool
	failed error // sticky

	first  raft.Index
	last   raft.Index
	start  Offset // of the first record at or after first
	next   Offset // after last
	synced raft.Index
	// durable <= synced: what no power loss can take. The two differ only in a relaxed log, by the last entries of the file that is written.
	durable raft.Index
	behind  int64 // bytes of frames between the two
	noted   bool  // the note that says that they may differ is in the directory; changed with io held, too
	// handed is the last index that a Sync has been given to write: what is at or below it may be on disk.
	handed raft.Index
	// cut > 0: entries at and above it that are on disk, or on their way there, are void; the next Sync begins a new
	// generation at it. All pending entries are at or above it.
	cut raft.Index
	// dead are files whose entries are all void; removed once the generation that overrules them is durable.
	dead []string

	tail         []record
	pendingBytes int64 // frames above synced
	ticket       raft.Ticket

	segs    []*seg // ascending, contiguous up to synced
	epochs  []epoch
	configs []raft.Index // EntryConfig entries that the log holds

	marked raft.Index // highest synced index that a block on disk notes
	full   bool       // the next extent could not be allocated

	// cleaned are the files of the cleaned part, ascending, without a gap between them, up to start: see clean.go. The slice is never
	// changed in place.
	cleaned []*cleanedFile
	dirty   Offset // up to where the cleaned part has been cleaned
	life    uint64 // counts changes of cleaned and of first: what was prepared before is void
	// wanted: the next snapshot is to be kept as a checkpoint.
	wanted bool

	forget Offset // what is below it may go; see Prune
	grown  int64  // bytes appended since the last checkpoint

	snap    snapshotInfo
	floor   uint64     // files of a smaller generation are dead (see meta)
	damaged raft.Index // see Recovery.DamagedUpTo
	empty   bool       // guarded by io: a file says that there is no segment for a good reason

	scanned    Scanned // by Open, which alone sets it
	recovery   Recovery
	readDamage error // the first damage that a read met
}

// seg is a segment file as readers see it. name, generation, first, base and prevTerm never change; the rest is
// guarded by Log.mu.
type seg struct {
	name string
	segmentHeader
	last    raft.Index // first-1: empty
	next    Offset
	size    int64 // of the part that holds blocks; there may be void ones at its end
	index   []indexEntry
	maxTime int64 // upper bound of the entries' timestamps

	read atomic.Int64 // up to where it has been read with lent memory; see pastCache
}

// indexEntry is one entry of the sparse index: a frame, and the largest timestamp from there to the next entry.
type indexEntry struct {
	index   raft.Index
	base    Offset
	pos     int64
	maxTime int64
}

// epoch is where a term begins. Terms and first indexes strictly rise, start offsets never fall.
type epoch struct {
	term  raft.Term
	first raft.Index
	start Offset
}

// maxEpochs bounds the epoch table; beyond it the oldest terms are forgotten.
const maxEpochs = 1 << 16

// DecodeFrame implements multi.Log: it verifies e.Frame, which came from a peer, and sets e's other fields from it.
func (l *Log) DecodeFrame(e *raft.Entry) error {
	r, err := decodeFrame(l.group, e.Frame)
	if err != nil {
		return fmt.Errorf("group %d: %w", l.group, err)
	}
	whole := e.Frame
	*e = r.Entry
	e.Frame = whole // with what lies behind it in the same memory: see together
	return nil
}

// Append implements multi.Log. Entries at or above entries[0].Index that the log holds are void from here on.
func (l *Log) Append(term raft.Term, entries []raft.Entry) (raft.Ticket, error) {
	t, err := l.append(term, entries)
	if err == nil {
		l.opt.Cache.evict()
	}
	return t, err
}

func (l *Log) append(term raft.Term, entries []raft.Entry) (raft.Ticket, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.usable(); err != nil {
		return raft.Ticket{}, err
	}
	if len(entries) == 0 {
		return l.ticket, nil
	}
	from := entries[0].Index
	if from < l.first || from > l.last+1 {
		return raft.Ticket{}, fmt.Errorf("group %d: append at %d, log is [%d, %d]", l.group, from, l.first, l.last)
	}
	prev, err := l.termLocked(from - 1)
	if err != nil {
		return raft.Ticket{}, err
	}
	next, known := l.next, true
	if from <= l.last {
		if next, known = l.baseInTail(from); !known {
			next = Offset(binary.LittleEndian.Uint64(entries[0].Frame[32:]))
		}
	}
	// Everything is checked before anything is changed.
	var bytes int64
	base := next
	for i := range entries {
		e := &entries[i]
		if len(e.Frame) < FrameHeaderSize {
			return raft.Ticket{}, fmt.Errorf("group %d: entry %d has no frame", l.group, e.Index)
		}
		r := recordOf(e)
		if e.Index != from+raft.Index(i) || e.Term < prev || e.Term > raft.MaxTerm || r.base != next ||
			binary.LittleEndian.Uint64(e.Frame[24:]) != uint64(e.Index) || binary.LittleEndian.Uint64(e.Frame[16:]) != uint64(e.Term) ||
			int(binary.LittleEndian.Uint32(e.Frame)) != len(e.Frame) {
			return raft.Ticket{}, fmt.Errorf("group %d: %w: entry (term %d, index %d, offset %d) where (≥%d, %d, %d) belongs",
				l.group, ErrBadFrame, e.Term, e.Index, r.base, prev, from+raft.Index(i), next)
		}
		prev, next = e.Term, r.next()
		bytes += int64(len(e.Frame))
	}
	if from <= l.last {
		l.truncateLocked(from, base)
	}
	l.tail = slices.Grow(l.tail, len(entries))
	for i := range entries {
		l.tail = append(l.tail, recordOf(&entries[i]))
		l.noteEntry(&l.tail[len(l.tail)-1])
	}
	l.last, l.next = entries[len(entries)-1].Index, next
	l.pendingBytes += bytes
	l.grown += bytes
	l.ticket = raft.Ticket{Term: term, Index: l.last}
	l.opt.Cache.note(l, l.last, bytes+int64(len(entries))*entryOverhead)
	return l.ticket, nil
}

// noteEntry enters an appended or recovered entry in the tables that are kept for the whole log.
func (l *Log) noteEntry(r *record) {
	if n := len(l.epochs); n == 0 || l.epochs[n-1].term < r.Term {
		l.addEpoch(epoch{r.Term, r.Index, r.base})
	}
	if r.Type == raft.EntryConfig {
		l.configs = append(l.configs, r.Index)
	}
}

func (l *Log) addEpoch(e epoch) {
	l.epochs = append(l.epochs, e)
	if len(l.epochs) > maxEpochs {
		l.epochs = slices.Clone(l.epochs[len(l.epochs)-maxEpochs:])
	}
}

// truncateLocked makes entries from index from on void; base is the offset that the entry at from had.
func (l *Log) truncateLocked(from raft.Index, base Offset) {
	if from <= l.handed {
		// On disk, or being written at this moment: only a new generation can overrule it.
		if l.cut == 0 || from < l.cut {
			l.cut = from
		}
		l.synced, l.durable = min(l.synced, from-1), min(l.durable, from-1)
		l.handed = min(l.handed, from-1)
		for len(l.segs) > 0 && l.segs[len(l.segs)-1].first >= from {
			n := len(l.segs) - 1
			l.dead = append(l.dead, l.segs[n].name)
			l.segs[n] = nil
			l.segs = l.segs[:n]
		}
		if n := len(l.segs); n > 0 {
			l.segs[n-1].cutAt(from, base)
		}
		l.marked = min(l.marked, from-1)
	}
	if n := len(l.tail); n > 0 && from <= l.tail[n-1].Index {
		keep := 0
		if from > l.tail[0].Index {
			keep = int(from - l.tail[0].Index)
		}
		var freed int64
		for i := keep; i < n; i++ {
			freed += int64(len(l.tail[i].Frame)) + entryOverhead
			// Never counted twice: what is above synced is exactly what pendingBytes holds.
		}
		l.opt.Cache.release(freed)
		// A Sync in flight reads the old array: never write into it again.
		l.tail = slices.Clip(l.tail[:keep])
	}
	l.last, l.next = from-1, base
	l.recountPending()
	l.epochs = cutEpochs(l.epochs, from)
	l.configs = cutIndexes(l.configs, from)
}

// recountPending sets pendingBytes from the tail.
func (l *Log) recountPending() {
	l.pendingBytes = 0
	for i := len(l.tail) - 1; i >= 0 && l.tail[i].Index > l.synced; i-- {
		l.pendingBytes += int64(len(l.tail[i].Frame))
	}
}

// cutAt makes the entries from index from on invisible; base is the offset at from.
func (s *seg) cutAt(from raft.Index, base Offset) {
	if from > s.last {
		return
	}
	s.last, s.next = from-1, base
	n := sort.Search(len(s.index), func(i int) bool { return s.index[i].index >= from })
	s.index = slices.Clip(s.index[:n]) // readers may hold the longer slice
}

func cutEpochs(es []epoch, from raft.Index) []epoch {
	n := sort.Search(len(es), func(i int) bool { return es[i].first >= from })
	return slices.Clip(es[:n])
}

func cutIndexes(is []raft.Index, from raft.Index) []raft.Index {
	n := sort.Search(len(is), func(i int) bool { return is[i] >= from })
	return is[:n]
}

// baseInTail is the base offset of the entry at i if the entry is in memory.
func (l *Log) baseInTail(i raft.Index) (Offset, bool) {
	if len(l.tail) == 0 || i < l.tail[0].Index || i > l.last {
		return 0, false
	}
	return l.tail[i-l.tail[0].Index].base, true
}

// Applied says that entries up to i have been applied, and will be from there on: what is above stays in memory a while longer.
func (l *Log) Applied(i raft.Index) { l.applied.Store(uint64(i)) }

// evict drops durable and applied entries up to upTo from memory; false if some of them are not yet. far: it does not matter whether
// they are applied.
func (l *Log) evict(upTo raft.Index, far bool) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return true
	}
	limit := l.synced
	if applied := raft.Index(l.applied.Load()); applied != 0 && !far {
		limit = min(limit, applied)
	}
	l.dropTail(min(upTo, limit))
	return upTo <= limit || upTo > l.last // above last: truncated since, nothing to wait for
}

// dropTail drops entries up to upTo from memory.
func (l *Log) dropTail(upTo raft.Index) {
	var freed int64
	n := 0
	for n < len(l.tail) && l.tail[n].Index <= upTo {
		freed += int64(len(l.tail[n].Frame)) + entryOverhead
		l.tail[n] = record{}
		n++
	}
	l.tail = l.tail[n:]
	if len(l.tail) == 0 {
		l.tail = nil
	}
	l.opt.Cache.release(freed)
}

// usable is the error that every change gets once the log is closed or failed.
func (l *Log) usable() error {
	switch {
	case l.failed != nil:
		return l.failed
	case l.closed:
		return fmt.Errorf("group %d: %w", l.group, ErrClosed)
	}
	return nil
}

// fail makes err sticky and returns it.
func (l *Log) fail(err error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.failed == nil {
		// Not wrapped: whatever the cause was (a full disk, say), this is not an error that one may wait out.
		l.failed = fmt.Errorf("group %d: %w: %v", l.group, ErrFailed, err)
	}
	return l.failed
}

// FirstIndex implements raft.LogReader.
func (l *Log) FirstIndex() raft.Index {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.first
}

// LastIndex implements raft.LogReader.
func (l *Log) LastIndex() raft.Index {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.last
}

// SyncedIndex is the last index that a Sync has vouched for: durable, if the log is not relaxed.
func (l *Log) SyncedIndex() raft.Index {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.synced
}

// NextOffset is the offset after the last appended entry, durable or not.
func (l *Log) NextOffset() Offset {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.next
}

// StartOffset is the first offset that the log still holds, or NextOffset if it holds none.
func (l *Log) StartOffset() Offset {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.startLocked()
}

// Unsynced implements multi.Log.
func (l *Log) Unsynced() int64 {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.pendingBytes
}

// Size is the number of bytes of the log on disk and on their way there, preallocated space and void blocks aside.
func (l *Log) Size() int64 {
	l.mu.RLock()
	defer l.mu.RUnlock()
	sum := l.pendingBytes
	for _, s := range l.segs {
		sum += s.size
	}
	for _, f := range l.cleaned {
		sum += f.size
	}
	return sum
}

// SnapshotIndex is the last entry that the stored snapshot stands for; 0 if there is none.
func (l *Log) SnapshotIndex() raft.Index {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.snap.index
}

// Segments is the number of files that the log consists of.
func (l *Log) Segments() int {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return len(l.segs) + len(l.cleaned)
}

// MarkPending implements multi.Log. A full disk has no room for a mark either.
func (l *Log) MarkPending() bool {
	l.mu.RLock()
	due, behind := l.markDue(), l.restDue()
	l.mu.RUnlock()
	return behind || due && !l.Full()
}

// Told implements multi.Log.
func (l *Log) Told(upTo raft.Index) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if upTo = max(upTo, 1); upTo < l.damaged {
		l.damaged = upTo // off the record, which still says more, or that it is not known, as soon as the log is durable up to there
	}
}

func (l *Log) markDue() bool {
	return l.failed == nil && !l.closed && l.cut == 0 && l.synced == l.last && (l.marked < l.synced || l.healed())
}

// restDue: a relaxed log has nothing to write, and is not all durable, or still has its note. The caller holds mu.
func (l *Log) restDue() bool {
	return l.failed == nil && !l.closed && l.synced == l.last && (l.durable < l.synced || l.noted)
}

// healed: damage is on record that is refilled. The caller holds mu.
func (l *Log) healed() bool {
	return l.damaged != 0 && l.durable >= l.damaged
}

// Full says that the disk has no room for the next extent: records should be refused now, while what is left of the
// current extent still takes internal entries. It becomes false again when there is room.
func (l *Log) Full() bool {
	l.mu.RLock()
	full := l.full
	l.mu.RUnlock()
	if !full {
		return false
	}
	free, err := l.fs.Free(l.dir)
	if err != nil || free < 2*l.opt.FirstExtent {
		return true
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.full = false
	return false
}

// Health is a log's condition.
type Health struct {
	Err         error      // the failure that made the log unusable, or nil
	ReadErr     error      // the first damage that a read met, or nil
	Full        bool       // see Log.Full
	DamagedUpTo raft.Index // see Recovery.DamagedUpTo; 0 once a leader has refilled the log up to there
	Behind      int64      // see Log.Behind
	Recovery    Recovery   // what Open found
}

// Recovery is what Open found. The zero value is a clean log.
type Recovery struct {
	// Torn: the tail of the last write was cut, the ordinary trace of a power loss.
	Torn      bool
	TornFile  string
	TornAt    int64 // position in the file
	TornIndex raft.Index
	// Corrupt: bytes that were durable once are damaged or gone, from CorruptFrom on.
	Corrupt     bool
	CorruptFrom raft.Index
	Reason      string
	SetAside    string // directory with the damaged files
	// DamagedUpTo is the last index known to have been durable that the log does not hold, now or at an earlier open;
	// 0 if none is missing; raft.UntilTold if entries are lost and nothing tells how many (until Told). The replica must neither vote nor campaign (raft.Config.VoteAfter) until a leader's log
	// matched this one up to there.
	DamagedUpTo raft.Index
	// RanAhead: the log had acknowledged entries ahead of their sync (SetRelaxed), and this is why they may be lost. DamagedUpTo is
	// raft.UntilTold.
	RanAhead string
	// SnapshotLost: the stored snapshot was damaged, or spoke of entries that corruption took, and was set aside.
	SnapshotLost bool
}

// Scanned is what Open had to read of segment files, beside headers: the end of the newest, and whatever of others no index speaks of.
type Scanned struct {
	Segments int
	Bytes    int64
}

// Scanned is what Open read.
func (l *Log) Scanned() Scanned { return l.scanned }

// Recovery is what Open found.
func (l *Log) Recovery() Recovery {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.recovery
}

// Health reports the log's condition.
func (l *Log) Health() Health {
	l.mu.RLock()
	defer l.mu.RUnlock()
	h := Health{Err: l.failed, ReadErr: l.readDamage, Full: l.full, Behind: l.behind, Recovery: l.recovery}
	if l.durable < l.damaged {
		h.DamagedUpTo = l.damaged
	}
	return h
}

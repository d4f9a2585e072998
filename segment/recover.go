// Open: from what a crash, a killed process or a bad disk left behind to a log that can be trusted. The rules are in
// doc.go; the order of steps matters, because a recovery can be interrupted by the next crash.
//
//	1. the directory is synced: whatever it shows is durable from here on
//	2. meta and snapshot are read; an interrupted installation is finished. Before that, if a relaxed log may have lost its end, that goes on record
//	3. files are ordered: which are live, up to where; the rest are dead
//	4. live files are loaded (index file) or scanned (the newest, and those without one, from where their tip ends)
//	5. damage is judged: torn tail or corruption; corruption goes on record before anything moves
//	6. what was found without a mark is synced: after a mere process crash it may be in the page cache only
//	7. dead files are removed, and the note of a relaxed log

package segment

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/balsamq/balsa/internal/vfs"
	"github.com/balsamq/balsa/raft"
)

// Open opens the log of a group in dir, and makes the directory if there is none. Errors are the file system's, or
// [ErrVersion]; damaged files are not an error but are reported by [Log.Health] and [Log.Recovery].
func Open(f vfs.FS, dir string, group raft.GroupID, o Options) (*Log, error) {
	o.setDefaults()
	l := &Log{fs: f, dir: path.Clean(dir), group: group, opt: o}
	l.onward.used = &o.Cache.onward
	l.segmentBytes.Store(o.SegmentBytes)
	if err := makeDir(f, l.dir); err != nil {
		return nil, fmt.Errorf("open log of group %d: %w", group, err)
	}
	r := recoverer{Log: l}
	err := r.run()
	if err == nil && l.noted { // what it stood for is durable now, or its loss is on record
		err = l.dropNote()
		l.noted = false
	}
	if err != nil {
		if l.w.file != nil {
			_ = l.w.file.Close()
		}
		return nil, fmt.Errorf("open log of group %d in %s: %w", group, dir, err)
	}
	return l, nil
}

// makeDir makes dir and the directories above it, each durable before the next is made in it: so one that exists proves
// that all above it are durable, and only its own name is in doubt (a crash may have come before its sync).
func makeDir(f vfs.FS, dir string) error {
	var missing []string
	d := dir
	for ; d != path.Dir(d); d = path.Dir(d) {
		if _, err := f.Stat(d); err == nil {
			break
		} else if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		missing = append(missing, d)
	}
	if err := f.SyncDir(path.Dir(d)); err != nil {
		return err
	}
	for _, d := range slices.Backward(missing) {
		if err := f.MkdirAll(d); err != nil {
			return err
		}
		if err := f.SyncDir(path.Dir(d)); err != nil {
			return err
		}
	}
	return nil
}

// found is a segment file that recovery looks at.
type found struct {
	name       string
	first      raft.Index
	generation uint64
	upTo       raft.Index // entries above it are overruled by a later generation
	size       int64
	header     segmentHeader
	headerErr  error
}

type recoverer struct {
	*Log
	meta    meta
	snapIdx raft.Index
	// snapFloor is the floor of the stored snapshot; meta's must not be lower, or the snapshot would be installed again.
	snapFloor uint64
	state     logState // the log's part of the snapshot, if there is one
	files     []*found // by generation, newest first
	live      []*found // ascending
	dead      []string
	orphans   []string        // index and tip files without a segment
	saysEmpty bool            // there is the file that says that no segment need be there
	aside     string          // directory for damaged files, once there is one
	suspect   map[string]bool // cleaned files that a read has found damaged
	newest    *segmentScan
	mark      raft.Index // highest index that anything proves to have been durable
}

func (r *recoverer) run() error {
	names, err := r.fs.ReadDir(r.dir)
	if err != nil {
		return err
	}
	if err := r.fs.SyncDir(r.dir); err != nil {
		return err
	}
	if err := r.list(names); err != nil {
		return err
	}
	whole, err := r.readSmallFiles()
	if err != nil || whole {
		return err
	}
	if err := r.order(); err != nil {
		return err
	}
	if err := r.judgeEmptiness(); err != nil {
		return err
	}
	if err := r.load(); err != nil {
		return err
	}
	if err := r.removeDead(); err != nil {
		return err
	}
	if err := r.cleanCleaned(names); err != nil {
		return err
	}
	if err := r.loadCheckpoints(names); err != nil {
		return err
	}
	if err := r.cleanPart(); err != nil {
		return err
	}
	if r.empty && len(r.segs) > 0 {
		r.empty = false
		if err := r.fs.Remove(path.Join(r.dir, emptyName)); err != nil { // not synced: the next open does it again
			return err
		}
	}
	return r.heal() // last: what is on record also says that nothing may be removed
}

// list reads the directory and the segment files' headers.
func (r *recoverer) list(names []string) error {
	for _, name := range names {
		first, gen, ok := parseSegmentName(name)
		switch {
		case ok:
			r.files = append(r.files, &found{name: name, first: first, generation: gen})
			r.w.gen = max(r.w.gen, gen)
		case name == emptyName:
			r.empty, r.saysEmpty = true, true
		case strings.HasSuffix(name, tempSuffix):
			if err := r.fs.Remove(path.Join(r.dir, name)); err != nil {
				return err
			}
		case strings.HasSuffix(name, badSuffix):
			if r.suspect == nil {
				r.suspect = make(map[string]bool)
			}
			r.suspect[strings.TrimSuffix(name, badSuffix)] = true
		case strings.HasSuffix(name, indexSuffix):
			if _, found := slices.BinarySearch(names, strings.TrimSuffix(name, indexSuffix)+segmentSuffix); !found {
				r.orphans = append(r.orphans, name)
			}
		case strings.HasSuffix(name, tipSuffix):
			segment := strings.TrimSuffix(name, tipSuffix) + segmentSuffix
			_, found := slices.BinarySearch(names, segment)
			_, closed := slices.BinarySearch(names, indexName(segment)) // which says more
			if !found || closed {
				r.orphans = append(r.orphans, name)
			}
		}
	}
	slices.SortFunc(r.files, func(a, b *found) int { return cmp.Compare(b.generation, a.generation) })
	limit := maxIndex + 1
	for _, f := range r.files {
		if err := r.readHeader(f); err != nil {
			return err
		}
		f.upTo = limit - 1 // as far as headers tell; order says it again for those that are live
		if f.headerErr == nil {
			limit = min(limit, f.first)
		}
	}
	return nil
}

func (r *recoverer) readHeader(f *found) error {
	file, err := r.fs.Open(path.Join(r.dir, f.name))
	if err != nil {
		return err
	}
	defer file.Close()
	if f.size, err = file.Size(); err != nil {
		return err
	}
	w := fileWindow{f: file, size: min(f.size, SegmentHeaderSize)}
	b, err := w.bytes(0, SegmentHeaderSize)
	if err != nil {
		return err
	}
	if f.header, f.headerErr = decodeSegmentHeader(r.group, b); errors.Is(f.headerErr, ErrVersion) {
		return fmt.Errorf("%s: %w", f.name, f.headerErr)
	}
	if f.headerErr == nil && (f.header.first != f.first || f.header.generation != f.generation) {
		f.headerErr = fmt.Errorf("bad segment header: first index %d, generation %d", f.header.first, f.header.generation)
	}
	return nil
}

// readSmallFiles reads meta and snapshot. It reports true if they are so damaged that the log had to start anew; then
// everything is done.
func (r *recoverer) readSmallFiles() (bool, error) {
	r.meta = meta{first: 1}
	if err := r.readNote(); err != nil {
		return false, err
	}
	var metaErr, snapErr error
	b, err := readFile(r.fs, path.Join(r.dir, metaName), maxMetaFile)
	switch {
	case err == nil:
		if r.meta, metaErr = decodeMeta(r.group, b); errors.Is(metaErr, ErrVersion) {
			return false, metaErr
		} else if metaErr != nil {
			r.meta = meta{first: 1}
		}
	case !errors.Is(err, fs.ErrNotExist):
		return false, err
	}
	snap, floor, err := r.readSnapshot()
	r.snapFloor = floor
	switch {
	case err == nil:
		if r.state, snapErr = decodeLogState(r.group, snap.Data); snapErr == nil {
			r.snapIdx = snap.Meta.Index
			r.snap = snapshotInfo{index: snap.Meta.Index, term: snap.Meta.Term}
		}
	case errors.Is(err, ErrBadSnapshot):
		snapErr = err
	case !errors.Is(err, fs.ErrNotExist):
		return false, err
	}
	if errors.Is(snapErr, ErrVersion) {
		return false, snapErr
	}
	if metaErr == nil {
		if err := r.noteLoss(); err != nil {
			return false, err
		}
	}
	needed := r.meta.first > 1
	switch {
	case metaErr != nil:
		// With it goes the record of damage, so that nothing tells what this log once held. And the snapshot is not enough to
		// go on behind it: what lies below may be what readers want.
		r.meta.damaged = raft.UntilTold
		return true, r.startAnew(metaErr, nil)
	case snapErr != nil && needed:
		return true, r.startAnew(snapErr, nil)
	case snap == nil && needed:
		return true, r.startAnew(errors.New("the snapshot that the log begins behind is missing"), nil)
	case snapErr != nil:
		// The log still begins at the beginning: the state can be folded anew.
		r.recovery.SnapshotLost, r.recovery.Reason = true, snapErr.Error()
		if err := r.setAside(snapshotName); err != nil {
			return false, err
		}
	case snap != nil && floor > r.meta.floor:
		m := installedMeta(&snap.Meta, &r.state, floor)
		if snap.Meta.Index < r.meta.damaged {
			m.damaged = r.meta.damaged
		}
		if err := r.cameWith(&m); errors.Is(err, ErrCorrupt) {
			return true, r.startAnew(err, snap)
		} else if err != nil {
			return false, err
		}
		if err := r.writeMeta(&m); err != nil {
			return false, err
		}
		r.meta = m
	}
	if r.snapIdx+1 < r.meta.first {
		return true, r.startAnew(fmt.Errorf("the stored snapshot ends at %d, the log begins at %d", r.snapIdx, r.meta.first), snap)
	}
	r.mark = r.snapIdx // SaveSnapshot syncs the log first; an installed snapshot is where the log begins
	r.adoptMeta(&r.meta)
	r.w.gen = max(r.w.gen, max(r.meta.floor, 1)-1)
	if err := r.loadCleaned(); errors.Is(err, ErrCorrupt) {
		return true, r.startAnew(err, snap)
	} else if err != nil {
		return false, err
	}
	return false, nil
}

// evidence is, of a log that is damaged, the highest index that may have been durable: that anything proves to have been, and
// whatever else was written behind the damage. The last block has no mark yet, and what it holds may have been acknowledged all
// the same: a replica that had it and votes without it would let a majority form that never saw it. (If it never was durable, to
// wait for a leader to bring that much costs a vote for a while.)
func (r *recoverer) evidence(fs ...*found) (raft.Index, error) {
	mark := max(r.mark, r.meta.damaged)
	for _, f := range fs {
		mark = max(mark, min(f.first-1, f.upTo))
		s, err := r.marksIn(f)
		if err != nil {
			return 0, err
		}
		mark = max(mark, s.lateMark, s.lateEnd)
	}
	return mark, nil
}

// marksIn is what all believable block headers in f say, as far as f has a say.
func (r *recoverer) marksIn(f *found) (segmentScan, error) {
	s := segmentScan{end: SegmentHeaderSize - 1}
	file, err := r.fs.Open(path.Join(r.dir, f.name))
	if err != nil {
		return s, err
	}
	defer file.Close()
	w := fileWindow{f: file, size: f.size}
	err = s.lookBehind(&w, r.group, f.generation)
	s.lateMark, s.lateEnd = min(s.lateMark, f.upTo), min(s.lateEnd, f.upTo)
	return s, err
}

// startAnew is for a log whose beginning is lost: everything is set aside, and a leader must fill it again.
func (r *recoverer) startAnew(why error, snap *raft.Snapshot) error {
	mark, err := r.evidence(r.files...)
	if err != nil {
		return err
	}
	if snap != nil {
		mark = max(mark, snap.Meta.Index)
	}
	if r.opt.Checkpoints {
		snap = nil // behind it this replica would lack records that the others have, and whoever it led would lose them
	}
	m := meta{first: 1, floor: max(r.nextFloor(), r.snapFloor), damaged: max(mark, 1)}
	if snap != nil && r.snapIdx > 0 {
		m = installedMeta(&snap.Meta, &r.state, m.floor)
		m.damaged = max(mark, 1)
	}
	if err := r.copyAside(metaName); err != nil {
		return err
	}
	if err := r.sayEmpty(); err != nil {
		return err
	}
	if m.first == 1 {
		r.snap, r.recovery.SnapshotLost = snapshotInfo{}, true
		if err := r.setAside(snapshotName); err != nil {
			return err
		}
	}
	// Also says that nothing may be removed: see removeDead.
	if err := r.writeMeta(&m); err != nil {
		return err
	}
	r.adoptMeta(&m)
	r.cleaned, r.dirty = nil, 0
	r.w.gen = m.floor - 1
	r.report(m.first, why)
	for _, f := range r.files {
		if err := r.setAside(f.name); err != nil {
			return err
		}
	}
	names, err := r.fs.ReadDir(r.dir)
	if err != nil {
		return err
	}
	return r.cleanCleaned(names)
}

func (r *recoverer) report(from raft.Index, why error) {
	r.recovery.Corrupt, r.recovery.CorruptFrom, r.recovery.Reason = true, from, why.Error()
	r.recovery.SetAside, r.recovery.DamagedUpTo = r.aside, r.damaged
}

// order decides which files are live.
//
// A file with a bad header has no say unless one of its blocks proves that it was durable once. Else its making was
// interrupted, or it was given up for lack of space and its removal undone by the power loss. Were it more than that, what
// it held is now missing between the others, and load sees that: if older void entries took its place, the next file's
// previous term would not match theirs (an index and a term name one entry, §5.3).
func (r *recoverer) order() error {
	limit := maxIndex + 1
	for _, f := range r.files {
		switch {
		case f.generation < r.meta.floor || f.first >= limit || limit <= r.meta.first:
			r.dead = append(r.dead, f.name)
			continue
		case f.headerErr != nil:
			s, err := r.marksIn(f)
			if err != nil {
				return err
			}
			if s.lateMark >= f.first || s.behindMark {
				break // it was durable once, header and all: live, and damaged
			}
			if err := r.dropTorn(f); err != nil {
				return err
			}
			continue
		}
		f.upTo = limit - 1
		limit = f.first
		r.live = append(r.live, f)
	}
	slices.Reverse(r.live)
	return nil
}

// dropTorn takes away a file whose making a power loss interrupted.
func (r *recoverer) dropTorn(f *found) error {
	r.recovery.Torn, r.recovery.TornFile, r.recovery.TornAt, r.recovery.TornIndex = true, f.name, 0, f.first
	file, err := r.fs.Open(path.Join(r.dir, f.name))
	if err != nil {
		return err
	}
	w := fileWindow{f: file, size: f.size}
	zero, err := w.zeroFrom(0)
	err = errors.Join(err, file.Close())
	if err != nil {
		return err
	}
	if !zero {
		return r.setAside(f.name)
	}
	return r.fs.Remove(path.Join(r.dir, f.name)) // if it comes back it is as empty as before
}

// load reads the live files in order and judges what it meets.
func (r *recoverer) load() error {
	cutShort := false
	if n := len(r.live); n > 0 {
		// The index of a file is written when the file after it is durable.
		if si, ok := r.loadIndex(r.live[n-1].name); ok && si.generation == r.live[n-1].generation {
			cutShort, r.meta.damaged = true, raft.UntilTold
		}
	}
	for i, f := range r.live {
		at := r.first // where the next entry belongs
		if i > 0 {
			at = r.segs[i-1].last + 1
		}
		var why error
		switch {
		case f.headerErr != nil:
			why = fmt.Errorf("%s: %w", f.name, f.headerErr)
		case i == 0 && f.first > r.first:
			why = fmt.Errorf("the first file begins at %d, the log at %d", f.first, r.first)
		case i > 0 && f.first != r.segs[i-1].last+1: // never below: order has cut the one before
			why = fmt.Errorf("entries %d to %d are missing", r.segs[i-1].last+1, f.first-1)
		case i > 0 && (f.header.base != r.segs[i-1].next || f.header.prevTerm != r.lastTerm()):
			why = fmt.Errorf("%s does not continue what comes before it", f.name)
		}
		if why == nil {
			var err error
			if why, err = r.loadFile(f, i == len(r.live)-1); err != nil {
				return err
			}
			s := r.segs[len(r.segs)-1]
			if i < len(r.live)-1 {
				if h := &r.live[i+1].header; r.live[i+1].headerErr == nil && h.prevGeneration != f.generation {
					return r.corrupt(i+1, max(r.first, min(s.last+1, h.prevFirst)),
						fmt.Errorf("the file of generation %d, from %d on, is missing", h.prevGeneration, h.prevFirst))
				}
			}
			if why != nil {
				at = s.last + 1
			} else if i < len(r.live)-1 && s.last < f.upTo {
				why, at = fmt.Errorf("%s ends at %d, the next file begins at %d", f.name, s.last, f.upTo+1), s.last+1
			}
		}
		if why != nil {
			return r.corrupt(i, at, why)
		}
	}
	last := r.first - 1
	if n := len(r.segs); n > 0 {
		last = max(last, r.segs[n-1].last)
	}
	if cutShort {
		return r.corrupt(len(r.live), last+1, fmt.Errorf("the files behind %s are missing", r.live[len(r.live)-1].name))
	}
	if r.mark > last {
		return r.corrupt(len(r.live), last+1, fmt.Errorf("the log ends at %d, and was durable up to %d", last, r.mark))
	}
	return r.finish(nil)
}

// lastTerm is the term of the last entry loaded so far.
func (r *recoverer) lastTerm() raft.Term {
	if n := len(r.epochs); n > 0 {
		return r.epochs[n-1].term
	}
	return 0
}

// loadFile loads one file into r.segs. why is damage that is not a torn tail.
func (r *recoverer) loadFile(f *found, newest bool) (why, err error) {
	s := &seg{name: f.name, segmentHeader: f.header, last: f.first - 1, next: f.header.base, size: SegmentHeaderSize, maxTime: noTimestamp}
	if len(r.segs) == 0 && len(r.epochs) == 0 && f.header.prevTerm > 0 {
		// Only when the epoch table was cut short; the term of the entry before the first must be known.
		r.addEpoch(epoch{f.header.prevTerm, f.first - 1, f.header.base})
	}
	if !newest {
		if si, ok := r.loadIndex(f.name); ok && si.generation == f.generation && si.first == f.first && si.last >= f.upTo && si.size <= f.size {
			s.last, s.next, s.size, s.index, s.maxTime = si.last, si.next, si.size, si.index, si.maxTime
			next := r.live[slices.Index(r.live, f)+1]
			if next.headerErr == nil {
				s.cutAt(f.upTo+1, next.header.base)
			} else if si.last > f.upTo {
				ok = false // where the next file begins is not known from its header: scan
			}
			if ok {
				for _, e := range si.epochs {
					if e.first <= f.upTo && e.term > r.lastTerm() {
						r.addEpoch(e)
					}
				}
				for _, c := range si.configs {
					if c <= f.upTo {
						r.configs = append(r.configs, c)
					}
				}
				r.segs = append(r.segs, s)
				return nil, nil
			}
			s = &seg{name: f.name, segmentHeader: f.header, last: f.first - 1, next: f.header.base, maxTime: noTimestamp}
		}
	}
	file, err := r.fs.Open(path.Join(r.dir, f.name))
	if err != nil {
		return nil, err
	}
	defer file.Close()
	t := r.loadTip(f)
	if newest {
		r.mark = max(r.mark, t.synced)
	}
	if t.pos > f.size {
		t = noTip(r.group, &f.header) // the file has lost its end
	}
	s.index, s.maxTime = t.index, t.maxTime
	for _, e := range t.epochs {
		if e.term > r.lastTerm() {
			r.addEpoch(e)
		}
	}
	r.configs = append(r.configs, t.configs...)
	w := fileWindow{f: file, size: f.size}
	scan, err := scanFrom(&t, &w, r.group, &f.header, f.upTo, func(pos int64, rec *record) {
		t := rec.maxTimestamp()
		s.maxTime = max(s.maxTime, t)
		if n := len(s.index); n == 0 || pos-s.index[n-1].pos >= r.opt.IndexBytes {
			s.index = append(s.index, indexEntry{rec.Index, rec.base, pos, t})
		} else {
			s.index[n-1].maxTime = max(s.index[n-1].maxTime, t)
		}
		r.noteEntry(rec)
	})
	if err != nil {
		return nil, fmt.Errorf("scan %s: %w", f.name, err)
	}
	s.last, s.next, s.size = scan.last, scan.next, scan.end
	r.scanned.Segments++
	r.scanned.Bytes += scan.end - t.pos
	r.segs = append(r.segs, s)
	if newest {
		r.newest = &scan
		r.w.tip = t.tipEnd
	}
	if scan.bad == nil {
		if !newest && s.last >= s.first {
			// It was lost: the next open shall not scan again. Not before the newest file is durable, see writeIndexes.
			r.w.left = append(r.w.left, closedFile{s.name, r.encodeIndexLocked(s)})
		}
		return nil, nil
	}
	known := max(min(scan.lateMark, f.upTo), r.mark)
	if r.only(f) && scan.end == SegmentHeaderSize {
		known = max(known, f.first) // a mark may have been all that was; nothing is not
	}
	if !newest || known > scan.last {
		r.mark = known
		return fmt.Errorf("%s at %d: %w", f.name, scan.end, scan.bad), nil
	}
	r.recovery.Torn, r.recovery.TornFile, r.recovery.TornAt, r.recovery.TornIndex = true, f.name, scan.end, scan.last+1
	return nil, nil
}

// corrupt opens the log with what is intact before from, which is in the i-th live file or behind all of them. The
// damaged files are kept.
func (r *recoverer) corrupt(i int, from raft.Index, why error) error {
	mark, err := r.evidence(r.live[min(i, len(r.live)):]...)
	if err != nil {
		return err
	}
	from = max(from, r.first)
	r.damaged = max(mark, from)
	if from, err = r.trim(from); err != nil {
		return err
	}
	last := from - 1
	r.last, r.synced, r.durable = last, last, last
	var standIn *SnapshotFile
	switch {
	case r.snapIdx <= last || r.meta.first == 1:
	case r.opt.Checkpoints:
		if standIn, err = r.standIn(last); err != nil {
			return err
		}
		if standIn == nil {
			r.segs, r.configs = nil, nil
			return r.startAnew(why, nil)
		}
		defer standIn.Close()
	default:
		// The state at the log's end is lost, the state of the snapshot is not: the log goes on behind the snapshot, and
		// what it held below is set aside with the rest.
		return r.restartAtSnapshot(from, why)
	}
	// On record before anything moves: the next open must know it even if the proof is out of its sight.
	m := r.meta
	m.damaged = r.damaged
	if err := r.writeMeta(&m); err != nil {
		return err
	}
	if r.snapIdx > last {
		r.recovery.SnapshotLost = true
		r.snap, r.snapIdx = snapshotInfo{}, 0
		if standIn == nil {
			err = r.setAside(snapshotName)
		} else {
			err = r.stepIn(standIn)
		}
		if err != nil {
			return err
		}
	}
	for k, f := range r.live {
		kept := slices.ContainsFunc(r.segs, func(s *seg) bool { return s.name == f.name })
		switch {
		case !kept:
			if err := r.setAside(f.name); err != nil {
				return err
			}
		case k == i:
			// Its beginning is still the log. The damaged end stays behind the cut, and a copy of it all aside.
			if err := r.copyAside(f.name); err != nil && !errors.Is(err, vfs.ErrNoSpace) {
				return err
			}
		}
	}
	r.epochs, r.configs = cutEpochs(r.epochs, from), cutIndexes(r.configs, from)
	r.report(from, why)
	return r.finish(why)
}

// trim takes the entries from index from on, and files that then hold none, out of what was loaded. If the place cannot
// be read either, it takes more: it returns from where on.
func (r *recoverer) trim(from raft.Index) (raft.Index, error) {
	for n := len(r.segs); n > 0 && (r.segs[n-1].first >= from || r.segs[n-1].last < max(r.first, r.segs[n-1].first)); n-- {
		r.segs = r.segs[:n-1]
	}
	s := r.lastSeg()
	if s == nil || s.last < from {
		return from, nil
	}
	v, err := r.locate(from - 1)
	if err != nil {
		return 0, err
	}
	v.last = from - 1
	next := s.base
	err = r.scan(v, &reading{hint: int(r.opt.IndexBytes) + readAhead}, func(rec *record) bool {
		next = rec.next()
		return true
	})
	switch {
	case errors.Is(err, ErrCorrupt):
		return r.trim(max(s.first, r.first))
	case err != nil:
		return 0, err
	}
	s.cutAt(from, next)
	return from, nil
}

// restartAtSnapshot sets every file aside and begins an empty log behind the stored snapshot.
func (r *recoverer) restartAtSnapshot(from raft.Index, why error) error {
	sm := raft.SnapshotMeta{Index: r.snap.index, Term: r.snap.term}
	m := installedMeta(&sm, &r.state, r.nextFloor())
	m.damaged = r.damaged
	if err := r.sayEmpty(); err != nil {
		return err
	}
	if err := r.writeMeta(&m); err != nil {
		return err
	}
	r.segs, r.configs = nil, nil
	r.adoptMeta(&m)
	r.w.gen = m.floor - 1
	r.report(from, why)
	for _, f := range r.live {
		if err := r.setAside(f.name); err != nil {
			return err
		}
	}
	return nil
}

// finish sets the log's state from what was loaded and makes it durable.
func (r *recoverer) finish(damage error) error {
	r.recovery.DamagedUpTo = 0
	if n := len(r.segs); n > 0 {
		s := r.segs[n-1]
		if s.last+1 > r.first {
			r.last, r.next = s.last, s.next
		}
	}
	r.last = max(r.last, r.first-1)
	if r.last == r.first-1 {
		r.next = r.start
	}
	r.synced, r.durable, r.handed = r.last, r.last, r.last
	r.epochs = cutEpochs(r.epochs, r.last+1)
	for len(r.configs) > 0 && r.configs[0] < r.first {
		r.configs = r.configs[1:]
	}
	if r.last < r.damaged {
		r.recovery.DamagedUpTo = r.damaged
	}
	r.ticket = raft.Ticket{Term: r.lastTerm(), Index: r.last}
	if damage != nil {
		return r.sealDamage()
	}
	if len(r.live) > 0 {
		if err := r.resume(r.live[len(r.live)-1]); err != nil {
			return err
		}
	}
	return nil
}

// resume makes the newest file durable as it was found, and the one that is written on if its end is clean.
func (r *recoverer) resume(f *found) error {
	s, scan := r.segs[len(r.segs)-1], r.newest
	file, err := r.fs.Open(path.Join(r.dir, f.name))
	if err != nil {
		return err
	}
	r.w.file = file // closed by Open if anything fails from here on
	if scan.mark < s.last || s.last < s.first {
		// Not known to be durable. After a failed fsync the kernel may hold clean pages that never reached the disk
		// (fsyncgate): write them again, so that this sync means something.
		from := int64(0)
		if len(scan.unmarked) > 0 && scan.mark >= s.first {
			from = scan.unmarked[0].pos
		}
		if err := rewrite(file, from, scan.end); err != nil {
			return r.failResume(fmt.Errorf("rewrite the tail of %s: %w", f.name, err))
		}
	}
	if err := file.Sync(); err != nil { // always: the last mark, too, may be in the page cache only
		return r.failResume(fmt.Errorf("sync %s: %w", f.name, err))
	}
	r.writeIndexes()
	r.marked = scan.mark
	if scan.bad != nil {
		r.w.file = nil
		r.w.seal = true
		r.leftBehind(s)
		r.dropEmpty(s)
		return file.Close()
	}
	r.w.seg, r.w.pos, r.w.alloc = s, scan.end, f.size
	r.w.redo = scan.markAt
	if r.opt.Direct {
		if err := r.resumeDirect(); err != nil {
			return fmt.Errorf("read the end of %s: %w", f.name, err)
		}
	}
	r.dropEmpty(s)
	return nil
}

// resumeDirect goes on with direct writes in the newest file. What the first one repeats begins with the mark that is to be written
// once more.
func (r *recoverer) resumeDirect() error {
	w := &r.w
	base := unitBelow(w.pos)
	if w.redo != 0 {
		base = min(base, unitBelow(w.redo))
	}
	part := make([]byte, w.pos-base)
	if got, err := w.file.ReadAt(part, base); got < len(part) {
		return err
	}
	if w.setDirect(base, part) {
		w.redo, w.alloc = 0, unitBelow(w.alloc)
	}
	return nil
}

// dropEmpty takes a file without entries out of the readers' sight.
func (r *recoverer) dropEmpty(s *seg) {
	if s.last < s.first {
		r.segs = r.segs[:len(r.segs)-1]
	}
}

// rewrite writes what a file holds in [from, to) once more.
func rewrite(f vfs.File, from, to int64) error {
	buf := make([]byte, min(to-from, scanWindow))
	for from < to {
		n := int(min(int64(len(buf)), to-from))
		if got, err := f.ReadAt(buf[:n], from); got < n {
			return err
		}
		if _, err := f.WriteAt(buf[:n], from); err != nil {
			return err
		}
		from += int64(n)
	}
	return nil
}

// sealDamage ends the damaged file where it is intact, with a new generation, so that the next open does not judge the
// same damage again. Without room for that, the next Sync does it. The intact part needs no sync: it lies below what is
// proven to have been durable.
func (r *recoverer) sealDamage() error {
	r.w.seal = true
	if s := r.lastSeg(); s != nil {
		r.leftBehind(s)
	} else if err := r.sayEmpty(); err != nil {
		return err
	}
	err := r.begin(segmentHeader{first: r.last + 1, base: r.next, prevTerm: r.lastTerm()}.after(r.lastSeg()))
	if errors.Is(err, vfs.ErrNoSpace) {
		r.w.seal = true
		return nil
	}
	if err != nil {
		return err
	}
	if err := r.put(nil, 0, false, false); err != nil {
		return err
	}
	if err := r.w.file.Sync(); err != nil {
		return err
	}
	if err := r.fs.SyncDir(r.dir); err != nil {
		return err
	}
	r.w.fresh = false
	r.writeIndexes()
	return nil
}

// removeDead removes files that are overruled or superseded. While damage is on record they are kept instead.
func (r *recoverer) removeDead() error {
	for _, name := range r.orphans {
		if err := r.fs.Remove(path.Join(r.dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) { // gone with a segment, since
			return err
		}
	}
	if len(r.dead) > 0 && r.lastSeg() == nil && r.w.seg == nil {
		// The file that overrules them all is torn at its first entry. Without them nothing tells that it was never durable: see only.
		if err := r.sayEmpty(); err != nil {
			return err
		}
	}
	for _, name := range r.dead {
		if r.damaged != 0 {
			if err := r.setAside(name); err != nil {
				return err
			}
			continue
		}
		r.removeSegment(name)
	}
	return nil
}

// Snapshots: saving one, installing a leader's in place of the log, and dropping the prefix that one stands for.

package segment

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"path"
	"slices"
	"sort"

	"github.com/balsamq/balsa/internal/vfs"
	"github.com/balsamq/balsa/raft"
)

const (
	snapshotMagic      = 0xBA535301
	snapshotHeaderSize = 72
	// MaxSnapshotSize bounds a snapshot's data.
	MaxSnapshotSize = 1 << 30
	// maxMembers bounds each part of a membership.
	maxMembers = 1 << 12
	memberSize = 12
	// maxSnapshotHead bounds what stands before the data.
	maxSnapshotHead = snapshotHeaderSize + 3*maxMembers*memberSize

	stateMagic      = 0xBA535401
	stateHeaderSize = 32
)

// ErrBadSnapshot: a snapshot's bytes are not what they must be.
var ErrBadSnapshot = errors.New("bad snapshot")

// snapshotInfo is what the log remembers of the stored snapshot.
type snapshotInfo struct {
	index raft.Index // 0: none
	term  raft.Term
}

// snapshotVersion is that of the snapshot file: 2 gave the data a checksum of its own, which names a snapshot on its way.
const (
	snapshotVersion      = 2
	firstSnapshotVersion = 1 // one checksum over the whole file
)

// otherVersion is the error of a snapshot, or of its data, that is whole and of another version.
func otherVersion(got, known uint16) error {
	return fmt.Errorf("%w: %w: version %d, this program knows %d", ErrBadSnapshot, ErrVersion, got, known)
}

// snapshotSum is the checksum of a snapshot's data.
func snapshotSum(group raft.GroupID, data []byte) uint32 {
	return crc32.Update(groupSeed(group)^snapshotMagic, castagnoli, data)
}

// encodeSnapshotHeader returns all that stands before the data.
//
//	magic | crc | ver, flags | data crc | group | index | term | floor | data length | n voters, outgoing, learners | epoch | members | data
func encodeSnapshotHeader(group raft.GroupID, meta *raft.SnapshotMeta, floor uint64, size int64, sum uint32) []byte {
	le := binary.LittleEndian
	b := make([]byte, snapshotHeaderSize)
	le.PutUint32(b[0:], snapshotMagic)
	le.PutUint16(b[8:], snapshotVersion)
	le.PutUint64(b[16:], uint64(group))
	le.PutUint64(b[24:], uint64(meta.Index))
	le.PutUint64(b[32:], uint64(meta.Term))
	le.PutUint64(b[40:], floor)
	le.PutUint64(b[48:], uint64(size))
	le.PutUint32(b[56:], uint32(len(meta.Conf.Voters)))
	le.PutUint32(b[60:], uint32(len(meta.Conf.Outgoing)))
	le.PutUint32(b[64:], uint32(len(meta.Conf.Learners)))
	le.PutUint32(b[12:], sum)
	le.PutUint32(b[68:], uint32(meta.Conf.Epoch))
	for _, ms := range [][]raft.Member{meta.Conf.Voters, meta.Conf.Outgoing, meta.Conf.Learners} {
		for _, m := range ms {
			b = le.AppendUint32(b, uint32(m.ID))
			b = le.AppendUint64(b, uint64(m.Incarnation))
		}
	}
	le.PutUint32(b[4:], crc32.Update(groupSeed(group)^snapshotMagic, castagnoli, b[8:]))
	return b
}

// encodeSnapshotFile returns the file in parts; data is not copied.
func encodeSnapshotFile(group raft.GroupID, meta *raft.SnapshotMeta, floor uint64, data []byte) [][]byte {
	return [][]byte{encodeSnapshotHeader(group, meta, floor, int64(len(data)), snapshotSum(group, data)), data}
}

// dataAt is where the data begins in the file of a snapshot with this membership.
func dataAt(c *raft.ConfState) int64 {
	return snapshotHeaderSize + memberSize*int64(len(c.Voters)+len(c.Outgoing)+len(c.Learners))
}

// decodeSnapshotHeader verifies what stands before the data; b is the file's beginning, at least as long as that.
func decodeSnapshotHeader(group raft.GroupID, b []byte) (s raft.Snapshot, floor uint64, err error) {
	le := binary.LittleEndian
	switch {
	case len(b) < snapshotHeaderSize || le.Uint32(b) != snapshotMagic:
		return s, 0, fmt.Errorf("%w: no header", ErrBadSnapshot)
	case le.Uint64(b[16:]) != uint64(group):
		return s, 0, fmt.Errorf("%w: group %d, expected %d", ErrBadSnapshot, le.Uint64(b[16:]), group)
	}
	whole := func(end int) bool {
		return le.Uint32(b[4:]) == crc32.Update(groupSeed(group)^snapshotMagic, castagnoli, b[8:end])
	}
	counts := [3]uint32{le.Uint32(b[56:]), le.Uint32(b[60:]), le.Uint32(b[64:])}
	end := snapshotHeaderSize
	for _, n := range counts {
		if n > maxMembers {
			return s, 0, fmt.Errorf("%w: %d members", ErrBadSnapshot, n)
		}
		end += int(n) * memberSize
	}
	switch {
	case le.Uint16(b[8:]) == firstSnapshotVersion && whole(len(b)):
		return s, 0, otherVersion(le.Uint16(b[8:]), snapshotVersion)
	case len(b) < end:
		return s, 0, fmt.Errorf("%w: range", ErrBadSnapshot)
	case !whole(end):
		return s, 0, fmt.Errorf("%w: checksum of the header", ErrBadSnapshot)
	case le.Uint16(b[8:]) != snapshotVersion:
		return s, 0, otherVersion(le.Uint16(b[8:]), snapshotVersion)
	case le.Uint16(b[snapshotFlagsPos:])&^flagWithCleaned != 0:
		return s, 0, fmt.Errorf("%w: unknown flags", ErrBadSnapshot)
	}
	s.Meta.Index, s.Meta.Term = raft.Index(le.Uint64(b[24:])), raft.Term(le.Uint64(b[32:]))
	floor = le.Uint64(b[40:])
	length := le.Uint64(b[48:])
	if s.Meta.Index == 0 || s.Meta.Index > maxIndex || s.Meta.Term == 0 || s.Meta.Term > raft.MaxTerm || length > MaxSnapshotSize {
		return s, 0, fmt.Errorf("%w: range", ErrBadSnapshot)
	}
	s.Size, s.Sum = int64(length), le.Uint32(b[12:])
	s.Meta.Conf.Epoch = raft.GroupEpoch(le.Uint32(b[68:]))
	rest := b[snapshotHeaderSize:]
	for i, dst := range []*[]raft.Member{&s.Meta.Conf.Voters, &s.Meta.Conf.Outgoing, &s.Meta.Conf.Learners} {
		for range counts[i] {
			*dst = append(*dst, raft.Member{ID: raft.NodeID(le.Uint32(rest)), Incarnation: raft.Incarnation(le.Uint64(rest[4:]))})
			rest = rest[memberSize:]
		}
	}
	return s, floor, nil
}

// decodeSnapshotFile verifies a snapshot file. Data is a part of b.
func decodeSnapshotFile(group raft.GroupID, b []byte) (raft.Snapshot, uint64, error) {
	s, floor, err := decodeSnapshotHeader(group, b)
	if err != nil {
		return s, 0, err
	}
	s.Data = b[dataAt(&s.Meta.Conf):]
	switch {
	case int64(len(s.Data)) != s.Size:
		return s, 0, fmt.Errorf("%w: %d bytes of data, the header says %d", ErrBadSnapshot, len(s.Data), s.Size)
	case snapshotSum(group, s.Data) != s.Sum:
		return s, 0, fmt.Errorf("%w: checksum of the data", ErrBadSnapshot)
	}
	return s, floor, nil
}

// logState is the log's own part of a snapshot's data.
type logState struct {
	next   Offset
	epochs []epoch
	state  []byte
}

// EncodeSnapshot implements multi.Log: the log's own state as of index upTo, then the state machine's.
//
//	magic | crc | ver, flags | n epochs | next offset | state length | epochs | state
func (l *Log) EncodeSnapshot(upTo raft.Index, state []byte) ([]byte, error) {
	next, err := l.OffsetAfter(upTo)
	if err != nil {
		return nil, fmt.Errorf("group %d: snapshot at %d: %w", l.group, upTo, err)
	}
	l.mu.RLock()
	n := sort.Search(len(l.epochs), func(k int) bool { return l.epochs[k].first > upTo })
	es := slices.Clone(l.epochs[:n])
	l.mu.RUnlock()
	st := logState{next: next, epochs: es, state: state}
	b := st.encode(l.group)
	if len(b) > MaxSnapshotSize {
		return nil, fmt.Errorf("group %d: snapshot of %d bytes, at most %d can be stored", l.group, len(b), MaxSnapshotSize)
	}
	return b, nil
}

func (st *logState) encode(group raft.GroupID) []byte {
	le := binary.LittleEndian
	b := make([]byte, stateHeaderSize, stateHeaderSize+len(st.epochs)*epochSize+len(st.state))
	le.PutUint32(b[0:], stateMagic)
	le.PutUint16(b[8:], fileVersion)
	le.PutUint32(b[12:], uint32(len(st.epochs)))
	le.PutUint64(b[16:], uint64(st.next))
	le.PutUint64(b[24:], uint64(len(st.state)))
	b = append(appendEpochs(b, st.epochs), st.state...)
	le.PutUint32(b[4:], crc32.Update(groupSeed(group)^stateMagic, castagnoli, b[8:]))
	return b
}

func decodeLogState(group raft.GroupID, b []byte) (logState, error) {
	le := binary.LittleEndian
	var st logState
	switch {
	case len(b) < stateHeaderSize || le.Uint32(b) != stateMagic:
		return st, fmt.Errorf("%w: data has no header", ErrBadSnapshot)
	case le.Uint32(b[4:]) != crc32.Update(groupSeed(group)^stateMagic, castagnoli, b[8:]):
		return st, fmt.Errorf("%w: data checksum", ErrBadSnapshot)
	case le.Uint16(b[8:]) != fileVersion:
		return st, fmt.Errorf("data: %w", otherVersion(le.Uint16(b[8:]), fileVersion))
	case le.Uint16(b[10:]) != 0:
		return st, fmt.Errorf("%w: data has flags %#x", ErrBadSnapshot, le.Uint16(b[10:]))
	}
	n, length := uint64(le.Uint32(b[12:])), le.Uint64(b[24:])
	st.next = Offset(le.Uint64(b[16:]))
	rest := b[stateHeaderSize:]
	if n > maxEpochs || length > MaxSnapshotSize || n*epochSize+length != uint64(len(rest)) || st.next < 0 || uint64(st.next) > maxOffset {
		return logState{}, fmt.Errorf("%w: data range", ErrBadSnapshot)
	}
	es, rest, err := decodeEpochs(rest, int(n))
	if err != nil {
		return logState{}, fmt.Errorf("%w: data: %w", ErrBadSnapshot, err)
	}
	if len(es) > 0 && es[len(es)-1].start > st.next {
		return logState{}, fmt.Errorf("%w: data: a term begins behind the end", ErrBadSnapshot)
	}
	st.epochs, st.state = es, rest
	return st, nil
}

// DecodeSnapshot implements multi.Log.
func (l *Log) DecodeSnapshot(data []byte) ([]byte, error) {
	st, err := decodeLogState(l.group, data)
	if err != nil {
		return nil, fmt.Errorf("group %d: %w", l.group, err)
	}
	return st.state, nil
}

// SaveSnapshot implements multi.Log. It first makes durable what the snapshot stands for: a stored snapshot is thereby
// proof to the next recovery that the log reached it.
func (l *Log) SaveSnapshot(sm raft.SnapshotMeta, data []byte) error {
	l.io.Lock()
	defer l.io.Unlock()
	if err := l.syncUpTo(sm.Index); err != nil {
		return err
	}
	st, err := decodeLogState(l.group, data)
	if err != nil {
		return fmt.Errorf("group %d: save snapshot at %d: %w", l.group, sm.Index, err)
	}
	l.mu.RLock()
	term, err := l.termLocked(sm.Index)
	stored := l.snap.index
	l.mu.RUnlock()
	switch {
	case err != nil:
		return fmt.Errorf("group %d: save snapshot at %d: %w", l.group, sm.Index, err)
	case term != sm.Term:
		return fmt.Errorf("group %d: save snapshot at %d of term %d, the log's entry is of term %d", l.group, sm.Index, sm.Term, term)
	case sm.Index < stored:
		return fmt.Errorf("group %d: save snapshot at %d behind the stored one at %d", l.group, sm.Index, stored)
	}
	if l.opt.Checkpoints {
		if err := l.keepBase(); err != nil {
			return err
		}
		if err := l.keepCheckpoint(&sm, st.next, data); err != nil {
			return err
		}
	}
	if err := replaceFile(l.fs, l.dir, snapshotName, encodeSnapshotFile(l.group, &sm, 0, data)...); err != nil {
		return fmt.Errorf("save snapshot of group %d: %w", l.group, err)
	}
	l.mu.Lock()
	l.snap.index, l.snap.term = sm.Index, sm.Term
	l.mu.Unlock()
	return nil
}

// syncUpTo makes the log durable up to i. The caller holds io.
func (l *Log) syncUpTo(i raft.Index) error {
	l.mu.RLock()
	err := l.usable()
	durable, last := l.durable, l.last
	l.mu.RUnlock()
	switch {
	case err != nil:
		return err
	case i > last:
		return fmt.Errorf("group %d: %d is behind the log's end %d: %w", l.group, i, last, raft.ErrUnavailable)
	case i <= durable:
		return nil
	}
	if _, err = l.syncLocked(); err != nil {
		return err
	}
	if err = l.settle(); err != nil { // syncLocked may have run ahead
		return l.failSync(err)
	}
	return nil
}

// LoadSnapshot implements multi.Log.
func (l *Log) LoadSnapshot() (*raft.Snapshot, error) {
	l.io.Lock()
	defer l.io.Unlock()
	s, _, err := l.readSnapshot()
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("load snapshot of group %d: %w", l.group, err)
	}
	return s, nil
}

func (l *Log) readSnapshot() (*raft.Snapshot, uint64, error) {
	name := path.Join(l.dir, snapshotName)
	size, err := l.snapshotSize(name)
	if err != nil {
		return nil, 0, err
	}
	b, err := readFile(l.fs, name, size)
	if err != nil {
		return nil, 0, err
	}
	s, floor, err := decodeSnapshotFile(l.group, b)
	if err != nil {
		return nil, 0, err
	}
	return &s, floor, nil
}

// snapshotSize is how long a snapshot's file is, which must be what its header says: before memory is taken for all of it.
func (l *Log) snapshotSize(name string) (int64, error) {
	file, err := l.fs.Open(name)
	if err != nil {
		return 0, err
	}
	defer file.Close()
	size, err := file.Size()
	if err != nil {
		return 0, err
	}
	head := make([]byte, min(size, maxSnapshotHead))
	if n, err := file.ReadAt(head, 0); n < len(head) {
		return 0, fmt.Errorf("read %s: %w", name, err)
	}
	s, _, err := decodeSnapshotHeader(l.group, head)
	switch {
	case size > maxSnapshotHead+MaxSnapshotSize:
		return 0, fmt.Errorf("%w: %s is %d bytes long", ErrBadSnapshot, name, size)
	case err != nil && len(head) >= snapshotHeaderSize && binary.LittleEndian.Uint16(head[8:]) == firstSnapshotVersion:
		return size, nil // whether it is a whole one of that version can only be told by reading it
	case err != nil:
		return 0, err
	case size != dataAt(&s.Meta.Conf)+s.Size:
		return 0, fmt.Errorf("%w: %s is %d bytes long, its header says %d", ErrBadSnapshot, name, size, dataAt(&s.Meta.Conf)+s.Size)
	}
	return size, nil
}

// TruncatePrefix implements multi.Log.
func (l *Log) TruncatePrefix(upTo raft.Index) error {
	l.io.Lock()
	defer l.io.Unlock()
	return l.truncatePrefix(upTo, nil)
}

// truncatePrefix drops what is at or below upTo; with clean, that takes its place, and the place of the cleaned part that there was.
// The caller holds io.
func (l *Log) truncatePrefix(upTo raft.Index, clean *washed) error {
	l.mu.RLock()
	first, snap := l.first, l.snap.index
	l.mu.RUnlock()
	if upTo < first {
		return nil
	}
	if upTo > snap {
		return fmt.Errorf("group %d: truncate the prefix up to %d, the stored snapshot is at %d", l.group, upTo, snap)
	}
	if err := l.syncUpTo(upTo); err != nil {
		return err
	}
	start, err := l.OffsetAfter(upTo)
	if err != nil {
		return fmt.Errorf("group %d: truncate the prefix up to %d: %w", l.group, upTo, err)
	}
	l.mu.RLock()
	term, err := l.termLocked(upTo)
	m := l.metaLocked(upTo+1, term, start)
	l.mu.RUnlock()
	if err != nil {
		return err
	}
	if clean != nil {
		m.clean(clean.files, clean.dirty)
	}
	// The index files of what is about to go can be rebuilt: removing them first makes room for the new meta on a disk
	// that is full to the last block, which is when retention is needed most.
	var gone []string
	l.mu.RLock()
	for i, s := range l.segs {
		if s.last > upTo || s == l.w.seg || l.cut != 0 && i == len(l.segs)-1 {
			// With a cut that is not durable yet, the last file still holds more than it seems, and what lies above it
			// on disk must not come to stand behind a gap.
			break
		}
		gone = append(gone, s.name)
	}
	all := len(gone) > 0 && len(gone) == len(l.segs) && l.w.seg == nil
	l.mu.RUnlock()
	if all {
		switch err := l.sayEmpty(); {
		case errors.Is(err, vfs.ErrNoSpace):
			gone, all = gone[:len(gone)-1], false // a log without a file would be taken for one that has lost it
		case err != nil:
			return err
		}
	}
	if all {
		// No file is left to say which generations have been in use: were one made again, and a removal undone by a power
		// loss, the old file would overrule the new one.
		l.mu.RLock()
		m.floor = l.nextFloor()
		l.mu.RUnlock()
	}
	for _, name := range gone {
		l.removeShortcuts(name)
	}
	if err := l.writeMeta(&m); err != nil {
		return err
	}
	l.mu.Lock()
	l.first, l.start, l.floor = upTo+1, start, m.floor
	old := l.setCleaned(clean)
	l.segs = slices.Clone(l.segs[len(gone):])
	l.dropTail(min(upTo, l.synced))
	k := sort.Search(len(l.configs), func(k int) bool { return l.configs[k] > upTo })
	l.configs = slices.Clone(l.configs[k:])
	l.mu.Unlock()
	for _, name := range gone {
		l.removeSegment(name)
	}
	for _, f := range old {
		l.removeCleaned(f)
	}
	return nil
}

// InstallSnapshot implements multi.Log: of what has been received. The step that counts is the snapshot's rename: its floor
// makes every file of the old log dead, and the next open finishes what a crash interrupts after it. Whatever needs room comes
// before that: with [vfs.ErrNoSpace] nothing has changed.
func (l *Log) InstallSnapshot(s *raft.Snapshot) ([]byte, error) {
	l.io.Lock()
	defer l.io.Unlock()
	l.mu.RLock()
	err := l.usable()
	l.mu.RUnlock()
	if err != nil {
		return nil, err
	}
	floor := l.nextFloor()
	a, err := l.finishPart(s, floor)
	switch {
	case errors.Is(err, ErrBadSnapshot) || errors.Is(err, vfs.ErrNoSpace):
		return nil, fmt.Errorf("install snapshot: %w", err) // nothing has changed
	case err != nil:
		return nil, l.fail(fmt.Errorf("install snapshot: %w", err))
	}
	if err := l.sayEmpty(); err != nil && !errors.Is(err, vfs.ErrNoSpace) {
		return nil, l.fail(fmt.Errorf("install snapshot: %w", err))
	}
	err = l.fs.Rename(path.Join(l.dir, a.name), path.Join(l.dir, snapshotName))
	if err == nil {
		err = l.fs.SyncDir(l.dir)
	}
	if err != nil {
		// Whether the rename is durable is not known: only a new open can tell which log this is.
		return nil, l.fail(fmt.Errorf("install snapshot: %w", err))
	}
	if err := l.adoptStaged(); err != nil {
		return nil, l.fail(err)
	}
	if l.w.file != nil {
		_ = l.w.file.Close()
	}
	l.w = writer{gen: floor - 1}
	l.mu.Lock()
	names := l.dead
	for _, sg := range l.segs {
		names = append(names, sg.name)
	}
	var freed int64
	for i := range l.tail {
		freed += int64(len(l.tail[i].Frame)) + entryOverhead
	}
	l.opt.Cache.release(freed)
	l.tail, l.segs, l.dead, l.configs = nil, nil, nil, nil
	old := l.setCleaned(a.clean)
	l.adoptMeta(&a.meta)
	l.floor, l.snap = floor, snapshotInfo{index: s.Meta.Index, term: s.Meta.Term}
	l.ticket = raft.Ticket{Term: s.Meta.Term, Index: s.Meta.Index}
	l.grown = 0
	l.mu.Unlock()
	l.dropCheckpoints(maxIndex) // of what is no longer here; the snapshot itself is the base now
	for _, name := range names {
		l.removeSegment(name)
	}
	for _, f := range old {
		l.removeCleaned(f)
	}
	l.dropWashed()
	_ = l.rest() // nothing is behind any more
	if a.clean != nil {
		_ = l.dropPart() // what stays behind of both goes at the next open
		_ = l.fs.Remove(path.Join(l.dir, installName))
	}
	return a.state.state, nil
}

// nextFloor is a generation above all files and above the floor that is in force. The caller holds io.
func (l *Log) nextFloor() uint64 { return max(l.w.gen, l.floor) + 1 }

// installedMeta is the meta file of a log that was replaced by a snapshot.
func installedMeta(sm *raft.SnapshotMeta, st *logState, floor uint64) meta {
	es := slices.Clone(st.epochs)
	for len(es) > 0 && (es[len(es)-1].first > sm.Index || es[len(es)-1].term > sm.Term) {
		es = es[:len(es)-1]
	}
	if n := len(es); n == 0 || es[n-1].term < sm.Term && es[n-1].first < sm.Index {
		es = append(es, epoch{sm.Term, sm.Index, st.next})
	}
	return meta{first: sm.Index + 1, prevTerm: sm.Term, start: st.next, floor: floor, epochs: es}
}

// adoptMeta makes the log an empty one that starts where m says. The caller holds mu.
func (l *Log) adoptMeta(m *meta) {
	l.first, l.last, l.synced, l.handed, l.marked = m.first, m.first-1, m.first-1, m.first-1, m.first-1
	l.durable, l.behind = l.synced, 0
	l.start, l.next = m.start, m.start
	l.cut, l.pendingBytes = 0, 0
	l.epochs = slices.Clone(m.epochs)
	l.floor = m.floor
	l.damaged = m.damaged
}

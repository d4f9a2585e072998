// Receiving a leader's snapshot: chunk by chunk into a file of its own, which a broken connection or a crash leaves behind,
// and which is gone on with where it ends.
//
//	 0        4        8    10   12               16          24          32          40        48      52     56
//	+--------+--------+----+----+----------------+-----------+-----------+-----------+---------+-------+------+--------+- - -
//	| magic  | crc    |ver |flag| reserved       | group     | index     | term      | size    | sum   | at   | so far | room
//	+--------+--------+----+----+----------------+-----------+-----------+-----------+---------+-------+------+--------+- - -
//
// The data stands where it will stand in the snapshot file. How far it has come is noted after that much is durable, so
// that the note can be believed after a power loss; the note itself may be lost, and then a chunk comes once more. When all
// is there and its checksum holds, the snapshot's own header takes this one's place, and the file its name.

package segment

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"path"

	"github.com/balsamq/balsa/internal/vfs"
	"github.com/balsamq/balsa/raft"
)

const (
	partMagic      = 0xBA535501
	partHeaderSize = 64
)

// receiving is a snapshot that is coming in.
type receiving struct {
	snap raft.Snapshot // Meta, Size and Sum
	at   int64         // of the data
	got  int64
	file vfs.File // nil: not open
}

func (p *receiving) encode(group raft.GroupID) []byte {
	le := binary.LittleEndian
	b := make([]byte, partHeaderSize)
	le.PutUint32(b[0:], partMagic)
	le.PutUint16(b[8:], fileVersion)
	le.PutUint64(b[16:], uint64(group))
	le.PutUint64(b[24:], uint64(p.snap.Meta.Index))
	le.PutUint64(b[32:], uint64(p.snap.Meta.Term))
	le.PutUint64(b[40:], uint64(p.snap.Size))
	le.PutUint32(b[48:], p.snap.Sum)
	le.PutUint32(b[52:], uint32(p.at))
	le.PutUint64(b[56:], uint64(p.got))
	le.PutUint32(b[4:], crc32.Update(groupSeed(group)^partMagic, castagnoli, b[8:]))
	return b
}

func decodePart(group raft.GroupID, b []byte) (p receiving, err error) {
	le := binary.LittleEndian
	switch {
	case len(b) < partHeaderSize || le.Uint32(b) != partMagic:
		return p, fmt.Errorf("%w: part without header", ErrBadSnapshot)
	case le.Uint32(b[4:]) != crc32.Update(groupSeed(group)^partMagic, castagnoli, b[8:partHeaderSize]):
		return p, fmt.Errorf("%w: checksum of the part's header", ErrBadSnapshot)
	case le.Uint16(b[8:]) != fileVersion || le.Uint16(b[10:]) != 0 || le.Uint32(b[12:]) != 0 || le.Uint64(b[16:]) != uint64(group):
		return p, fmt.Errorf("%w: part of another version or group", ErrBadSnapshot)
	}
	p.snap.Meta.Index, p.snap.Meta.Term = raft.Index(le.Uint64(b[24:])), raft.Term(le.Uint64(b[32:]))
	p.snap.Size, p.snap.Sum = int64(le.Uint64(b[40:])), le.Uint32(b[48:])
	p.at, p.got = int64(le.Uint32(b[52:])), int64(le.Uint64(b[56:]))
	if !validMeta(&p.snap.Meta) || p.snap.Size < 0 || p.snap.Size > maxWholeSize || p.got < 0 || p.got > p.snap.Size ||
		p.at < snapshotHeaderSize || p.at > maxSnapshotHead {
		return receiving{}, fmt.Errorf("%w: range of the part's header", ErrBadSnapshot)
	}
	return p, nil
}

func validMeta(m *raft.SnapshotMeta) bool {
	return m.Index != 0 && m.Index <= maxIndex && m.Term != 0 && m.Term <= raft.MaxTerm
}

// ReceiveSnapshot implements multi.Log: it begins to take s in, or goes on with it, and returns how many bytes of it are
// there. What there was of another is dropped.
func (l *Log) ReceiveSnapshot(s *raft.Snapshot) (int64, error) {
	l.io.Lock()
	defer l.io.Unlock()
	l.mu.RLock()
	err := l.usable()
	l.mu.RUnlock()
	switch {
	case err != nil:
		return 0, err
	case !validMeta(&s.Meta) || s.Size < 0 || s.Size > maxWholeSize || len(s.Meta.Conf.Voters) > maxMembers ||
		len(s.Meta.Conf.Outgoing) > maxMembers || len(s.Meta.Conf.Learners) > maxMembers:
		return 0, fmt.Errorf("receive snapshot of group %d: %w: index %d, term %d, %d bytes", l.group, ErrBadSnapshot, s.Meta.Index, s.Meta.Term, s.Size)
	}
	p := &receiving{snap: raft.Snapshot{Meta: s.Meta, Size: s.Size, Sum: s.Sum}, at: dataAt(&s.Meta.Conf)}
	if l.recv != nil && l.recv.file != nil && l.recv.snap.Same(s) && l.recv.at == p.at {
		return l.recv.got, nil
	}
	l.closePart()
	name := path.Join(l.dir, partName)
	if p.file, p.got = l.resumePart(name, p); p.file == nil {
		if err := l.dropPart(); err != nil {
			return 0, err
		}
		if p.file, err = l.fs.Create(name); err != nil {
			return 0, fmt.Errorf("receive snapshot of group %d: %w", l.group, err)
		}
	}
	l.recv = p
	if err := l.verifyPart(); err != nil {
		return 0, err
	}
	return p.got, nil
}

// verifyPart holds what was received against its checksum, once all of it is there. What does not match is dropped: it must be
// fetched anew, and not be taken for the whole by anybody.
func (l *Log) verifyPart() error {
	p := l.recv
	if p.got < p.snap.Size {
		return nil
	}
	w, err := l.wholeOf(p)
	if w != nil {
		err = l.verifyWhole(p, w)
	}
	var sum uint32
	if w == nil && err == nil {
		if sum, err = fileSum(p.file, p.at, p.at+p.snap.Size, groupSeed(l.group)^snapshotMagic); err == nil && sum != p.snap.Sum {
			err = ErrBadSnapshot
		}
	}
	if err == nil {
		return nil
	}
	_ = l.dropPart()
	if err != ErrBadSnapshot {
		return fmt.Errorf("verify the snapshot that was received for group %d: %w", l.group, err)
	}
	return fmt.Errorf("group %d: %w: what was received does not match its checksum", l.group, ErrBadSnapshot)
}

// resumePart opens what an earlier connection or process has left of the same snapshot; nil if there is nothing of use.
func (l *Log) resumePart(name string, want *receiving) (vfs.File, int64) {
	f, err := l.fs.Open(name)
	if err != nil {
		return nil, 0
	}
	b := make([]byte, partHeaderSize)
	n, _ := f.ReadAt(b, 0)
	size, serr := f.Size()
	if had, err := decodePart(l.group, b[:n]); err == nil && serr == nil && had.snap.Same(&want.snap) && had.at == want.at && size >= had.at+had.got {
		return f, had.got
	}
	_ = f.Close()
	return nil, 0
}

// WriteSnapshot implements multi.Log: the next bytes of the snapshot that is being received, durable when it returns.
// [vfs.ErrNoSpace] leaves what was there.
func (l *Log) WriteSnapshot(off int64, data []byte) error {
	l.io.Lock()
	defer l.io.Unlock()
	p := l.recv
	l.mu.RLock()
	err := l.usable()
	l.mu.RUnlock()
	switch {
	case err != nil:
		return err
	case p == nil || p.file == nil:
		return fmt.Errorf("group %d: %w: no snapshot is being received", l.group, ErrBadSnapshot)
	case off != p.got || int64(len(data)) > p.snap.Size-off:
		return fmt.Errorf("group %d: %w: bytes %d to %d of a snapshot of %d, of which %d are here", l.group, ErrBadSnapshot, off, off+int64(len(data)), p.snap.Size, p.got)
	}
	_, err = p.file.WriteAt(data, p.at+off)
	if err == nil {
		err = p.file.Sync()
	}
	if err == nil {
		p.got += int64(len(data))
		_, err = p.file.WriteAt(p.encode(l.group), 0) // durable with the next sync, or lost: both are good
	}
	if err == nil {
		return l.verifyPart()
	}
	if errors.Is(err, vfs.ErrNoSpace) {
		return fmt.Errorf("receive snapshot of group %d: %w", l.group, err)
	}
	// After a failed sync nobody knows what of it is on the disk. Nothing of the log is: it may begin again.
	_ = l.dropPart()
	return fmt.Errorf("receive snapshot of group %d: %v", l.group, err)
}

// DropReceived implements multi.Log: nobody wants the rest.
func (l *Log) DropReceived() error {
	l.io.Lock()
	defer l.io.Unlock()
	return l.dropPart()
}

// dropPart removes what has been received. The caller holds io.
func (l *Log) dropPart() error {
	l.closePart()
	if err := l.fs.Remove(path.Join(l.dir, partName)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("drop a part of a snapshot of group %d: %w", l.group, err)
	}
	return nil
}

func (l *Log) closePart() {
	if l.recv != nil && l.recv.file != nil {
		_ = l.recv.file.Close()
	}
	l.recv = nil
}

// arrival is a snapshot that is ready to take the log's place.
type arrival struct {
	state *logState
	name  string  // of its file, which is to be renamed
	clean *washed // the cleaned part that has come with it, in files of its own
	meta  meta    // of the log that begins behind it: staged
}

// finishPart verifies what was received, as a whole, and makes a snapshot's file of it, and a meta file that waits for that to be
// renamed. The caller holds io. After [vfs.ErrNoSpace] the log is what it was, and what has been received is still here.
func (l *Log) finishPart(s *raft.Snapshot, floor uint64) (*arrival, error) {
	p := l.recv
	if p == nil || p.file == nil || !p.snap.Same(s) || p.got != p.snap.Size {
		return nil, fmt.Errorf("group %d: %w: it has not been received", l.group, ErrBadSnapshot)
	}
	switch w, err := l.wholeOf(p); {
	case err != nil:
		return nil, fmt.Errorf("read what was received for group %d: %w", l.group, err)
	case w != nil:
		return l.finishWhole(s, p, w, floor)
	case p.snap.Size > MaxSnapshotSize:
		_ = l.dropPart()
		return nil, fmt.Errorf("group %d: %w: %d bytes", l.group, ErrBadSnapshot, p.snap.Size)
	}
	return l.finishPlain(s, p, floor)
}

// stage stages the meta file of the log that begins behind s.
func (l *Log) stage(a *arrival, s *raft.Snapshot, floor uint64) error {
	a.meta = installedMeta(&s.Meta, a.state, floor)
	if a.clean != nil {
		a.meta.clean(a.clean.files, a.clean.dirty)
	}
	l.mu.RLock()
	if s.Meta.Index < l.damaged {
		a.meta.damaged = l.damaged
	}
	l.mu.RUnlock()
	return l.stageMeta(&a.meta)
}

// finishWhole takes a whole log apart.
func (l *Log) finishWhole(s *raft.Snapshot, p *receiving, w *whole, floor uint64) (*arrival, error) {
	data := make([]byte, w.stateSize)
	if err := readFull(p.file, data, p.at+w.headerSize()); err != nil {
		return nil, fmt.Errorf("read what was received for group %d: %w", l.group, err)
	}
	st, err := decodeLogState(l.group, data)
	if err == nil && snapshotSum(l.group, data) != w.stateSum {
		err = fmt.Errorf("%w: what was received does not match its checksum", ErrBadSnapshot)
	}
	if end := w.refs[len(w.refs)-1].end; err == nil && end != st.next {
		err = fmt.Errorf("%w: the cleaned part ends at %d, the state at %d", ErrBadSnapshot, end, st.next)
	}
	if err != nil {
		_ = l.dropPart()
		return nil, fmt.Errorf("group %d: %w", l.group, err)
	}
	a := &arrival{state: &st, name: snapshotName + tempSuffix}
	if a.clean, err = l.unpack(p, w, floor); err == nil {
		err = l.stage(a, s, floor)
	}
	if err == nil {
		head := flagged(l.group, encodeSnapshotHeader(l.group, &s.Meta, floor, w.stateSize, w.stateSum))
		err = writeFile(l.fs, path.Join(l.dir, snapshotName+tempSuffix), head, data)
	}
	if errors.Is(err, vfs.ErrNoSpace) {
		l.dropStaged()
		if a.clean != nil {
			for _, f := range a.clean.files {
				l.removeCleaned(f)
			}
		}
		return nil, fmt.Errorf("finish the snapshot of group %d: %w", l.group, err)
	}
	if err != nil {
		return nil, fmt.Errorf("finish the snapshot of group %d: %v", l.group, err)
	}
	l.closePart()
	return a, nil
}

func (l *Log) finishPlain(s *raft.Snapshot, p *receiving, floor uint64) (*arrival, error) {
	data := make([]byte, p.snap.Size)
	if n, err := p.file.ReadAt(data, p.at); n < len(data) {
		return nil, fmt.Errorf("read what was received for group %d: %w", l.group, err)
	}
	bad := func(err error) (*arrival, error) {
		_ = l.dropPart()
		return nil, err
	}
	if snapshotSum(l.group, data) != p.snap.Sum {
		return bad(fmt.Errorf("group %d: %w: what was received does not match its checksum", l.group, ErrBadSnapshot))
	}
	st, err := decodeLogState(l.group, data)
	if err != nil {
		return bad(fmt.Errorf("group %d: %w", l.group, err))
	}
	a := &arrival{state: &st, name: partName}
	if err := l.stage(a, s, floor); errors.Is(err, vfs.ErrNoSpace) {
		return nil, fmt.Errorf("finish the snapshot of group %d: %w", l.group, err)
	} else if err != nil {
		return nil, fmt.Errorf("finish the snapshot of group %d: %v", l.group, err)
	}
	_, err = p.file.WriteAt(encodeSnapshotHeader(l.group, &s.Meta, floor, p.snap.Size, p.snap.Sum), 0)
	if err == nil {
		err = p.file.Truncate(p.at + p.snap.Size)
	}
	if err == nil {
		err = p.file.Sync()
	}
	if err != nil {
		_ = l.dropPart()
		l.dropStaged()
		if errors.Is(err, vfs.ErrNoSpace) {
			return nil, fmt.Errorf("finish the snapshot of group %d: %w", l.group, err)
		}
		return nil, fmt.Errorf("finish the snapshot of group %d: %v", l.group, err)
	}
	l.closePart()
	return a, nil
}

// cleanPart removes what was received of a snapshot that the log is past, or that no offer can be compared with.
func (r *recoverer) cleanPart() error {
	name := path.Join(r.dir, partName)
	f, err := r.fs.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	b := make([]byte, partHeaderSize)
	n, _ := f.ReadAt(b, 0)
	p, err := decodePart(r.group, b[:n])
	if cerr := f.Close(); cerr != nil {
		return cerr
	}
	if err == nil && p.snap.Meta.Index > r.snap.index {
		return nil
	}
	return r.fs.Remove(name)
}

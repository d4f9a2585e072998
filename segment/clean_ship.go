// The cleaned part on its way to a follower: behind the checkpoint, in one snapshot.
//
//	magic | crc | ver, flags | n | group | state size | state sum | 0 | cleaned up to | n × name | state | n × cleaned file
//
// The checksum that names the snapshot is that of what stands before the state: it holds the state's, and each file's trailer's, which
// holds the file's. So nobody has to read a large log to offer it. Who receives it verifies all, and makes its own files of it.

package segment

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"path"
	"slices"

	"github.com/balsamq/balsa/internal/vfs"
	"github.com/balsamq/balsa/raft"
)

const (
	wholeMagic      = 0xBA535701
	wholeVersion    = 1
	wholeHeaderSize = 48
	// maxWholeSize bounds a snapshot with a cleaned part.
	maxWholeSize = int64(1) << 42

	// installName is the file that names the cleaned part of a snapshot that is about to be installed.
	installName      = "snapshot.cleaned"
	installMagic     = 0xBA535801
	installSize      = 48
	flagWithCleaned  = 1 // of a snapshot file that was installed with a cleaned part
	snapshotFlagsPos = 10
)

// whole is what stands before the state.
type whole struct {
	stateSize int64
	stateSum  uint32
	dirty     Offset
	refs      []cleanedRef
}

func (w *whole) headerSize() int64 { return wholeHeaderSize + int64(len(w.refs))*cleanedRefSize }

func (w *whole) size() int64 {
	n := w.headerSize() + w.stateSize
	for i := range w.refs {
		n += w.refs[i].size
	}
	return n
}

// encode returns the header; its bytes 4 to 8 are the snapshot's sum.
func (w *whole) encode(group raft.GroupID) []byte {
	le := binary.LittleEndian
	b := make([]byte, wholeHeaderSize)
	le.PutUint32(b[0:], wholeMagic)
	le.PutUint16(b[8:], wholeVersion)
	le.PutUint32(b[12:], uint32(len(w.refs)))
	le.PutUint64(b[16:], uint64(group))
	le.PutUint64(b[24:], uint64(w.stateSize))
	le.PutUint32(b[32:], w.stateSum)
	le.PutUint64(b[40:], uint64(w.dirty))
	b = appendCleanedRefs(b, w.refs)
	le.PutUint32(b[4:], crc32.Update(groupSeed(group)^wholeMagic, castagnoli, b[8:]))
	return b
}

// wholeLength is how long the header is that b begins with; 0: it is none.
func wholeLength(b []byte) int64 {
	if len(b) < wholeHeaderSize || binary.LittleEndian.Uint32(b) != wholeMagic {
		return 0
	}
	if n := binary.LittleEndian.Uint32(b[12:]); n > 0 && n <= maxCleanedFiles {
		return wholeHeaderSize + int64(n)*cleanedRefSize
	}
	return 0
}

func decodeWhole(group raft.GroupID, b []byte, size int64, sum uint32) (*whole, error) {
	le := binary.LittleEndian
	n := wholeLength(b)
	switch {
	case n == 0 || int64(len(b)) < n:
		return nil, fmt.Errorf("%w: header of a whole log", ErrBadSnapshot)
	case le.Uint32(b[4:]) != sum || sum != crc32.Update(groupSeed(group)^wholeMagic, castagnoli, b[8:n]):
		return nil, fmt.Errorf("%w: checksum of a whole log's header", ErrBadSnapshot)
	case le.Uint16(b[8:]) != wholeVersion:
		return nil, otherVersion(le.Uint16(b[8:]), wholeVersion)
	case le.Uint16(b[10:]) != 0 || le.Uint64(b[16:]) != uint64(group) || le.Uint32(b[36:]) != 0:
		return nil, fmt.Errorf("%w: header of another log", ErrBadSnapshot)
	}
	w := &whole{stateSize: int64(le.Uint64(b[24:])), stateSum: le.Uint32(b[32:]), dirty: Offset(le.Uint64(b[40:]))}
	var err error
	if w.refs, _, err = decodeCleanedRefs(b[wholeHeaderSize:n], uint64(le.Uint32(b[12:]))); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBadSnapshot, err)
	}
	for i := range w.refs {
		if w.refs[i].size > maxWholeSize {
			return nil, fmt.Errorf("%w: size of a cleaned file", ErrBadSnapshot)
		}
	}
	if w.stateSize < 0 || w.stateSize > MaxSnapshotSize || w.size() != size || w.dirty < 0 || w.dirty > w.refs[len(w.refs)-1].end {
		return nil, fmt.Errorf("%w: range of a whole log", ErrBadSnapshot)
	}
	return w, nil
}

// wholeFile is an open checkpoint with the cleaned part. It stays readable as long as nothing is pruned, which is not done while it is sent.
type wholeFile struct {
	l     *Log
	state *SnapshotFile
	files []*cleanedFile
	snap  raft.Snapshot
	head  []byte

	open vfs.File // of files[at]
	at   int
	// What has been read of the open file, if from its beginning on: rot is noticed at its end.
	upTo int64
	sum  uint32
}

// withCleaned adds the cleaned part, if there is one, to a checkpoint that has been opened. The caller holds io.
func (l *Log) withCleaned(f *SnapshotFile) (raft.SnapshotReader, error) {
	l.mu.RLock()
	files, dirty, start := l.cleaned, l.dirty, l.start
	l.mu.RUnlock()
	if len(files) == 0 {
		return f, nil
	}
	if f.next != start {
		return nil, errors.Join(fmt.Errorf("group %d: %w: the checkpoint ends at offset %d, the cleaned part at %d", l.group, ErrBadSnapshot, f.next, start), f.Close())
	}
	var m meta
	m.clean(files, dirty)
	w := whole{stateSize: f.snap.Size, stateSum: f.snap.Sum, dirty: dirty, refs: m.cleaned}
	out := &wholeFile{l: l, state: f, files: files, head: w.encode(l.group), at: -1}
	out.snap = raft.Snapshot{Meta: f.snap.Meta, Size: w.size(), Sum: binary.LittleEndian.Uint32(out.head[4:])}
	return out, nil
}

// Snapshot implements raft.SnapshotReader.
func (f *wholeFile) Snapshot() raft.Snapshot { return f.snap }

// ReadAt implements raft.SnapshotReader.
func (f *wholeFile) ReadAt(p []byte, off int64) error {
	if off < 0 || int64(len(p)) > f.snap.Size-off {
		return fmt.Errorf("%w: bytes %d to %d of %d", ErrBadSnapshot, off, off+int64(len(p)), f.snap.Size)
	}
	at := int64(0)
	// take fills the beginning of p from a part of the snapshot, if that is where it lies.
	take := func(size int64, read func(b []byte, from int64) error) error {
		from := off - at
		at += size
		if from >= size || len(p) == 0 {
			return nil
		}
		b := p[:min(int64(len(p)), size-from)]
		p, off = p[len(b):], off+int64(len(b))
		return read(b, from)
	}
	if err := take(int64(len(f.head)), func(b []byte, from int64) error { copy(b, f.head[from:]); return nil }); err != nil {
		return err
	}
	if err := take(f.state.snap.Size, f.state.ReadAt); err != nil {
		return err
	}
	for i, c := range f.files {
		if err := take(c.size, func(b []byte, from int64) error { return f.readCleaned(i, b, from) }); err != nil {
			return fmt.Errorf("read snapshot at %d: %w", off, err)
		}
	}
	return nil
}

func (f *wholeFile) readCleaned(i int, b []byte, from int64) error {
	c := f.files[i]
	if f.at != i {
		f.shut()
		file, err := f.l.fs.Open(path.Join(f.l.dir, c.name()))
		if err != nil {
			return err
		}
		f.open, f.at, f.upTo, f.sum = file, i, 0, groupSeed(f.l.group)^cleanedMagic
	}
	if err := readFull(f.open, b, from); err != nil {
		return f.l.cleanedError(c, err)
	}
	if from != f.upTo {
		f.upTo = -1 // not from the beginning on
		return nil
	}
	f.upTo += int64(len(b))
	if from < c.frames {
		f.sum = crc32.Update(f.sum, castagnoli, b[:min(int64(len(b)), c.frames-from)])
		if f.upTo >= c.frames && f.sum != c.sum {
			return f.l.cleanedError(c, fmt.Errorf("%w: checksum of %s", ErrCorrupt, c.name()))
		}
	}
	return nil
}

func (f *wholeFile) shut() {
	if f.open != nil {
		_ = f.open.Close() // only read
		f.open, f.at = nil, -1
	}
}

// Close implements raft.SnapshotReader.
func (f *wholeFile) Close() error {
	f.shut()
	return f.state.Close()
}

// wholeOf reads the header of what has been received, if it is a whole log; nil if it is a plain snapshot.
func (l *Log) wholeOf(p *receiving) (*whole, error) {
	b := make([]byte, min(wholeHeaderSize, p.snap.Size))
	if err := readFull(p.file, b, p.at); err != nil {
		return nil, err
	}
	n := wholeLength(b)
	if n == 0 || n > p.snap.Size {
		return nil, nil
	}
	b = make([]byte, n)
	if err := readFull(p.file, b, p.at); err != nil {
		return nil, err
	}
	return decodeWhole(l.group, b, p.snap.Size, p.snap.Sum)
}

// verifyWhole holds a whole log that has been received against its checksums.
func (l *Log) verifyWhole(p *receiving, w *whole) error {
	at := p.at + w.headerSize()
	sum, err := fileSum(p.file, at, at+w.stateSize, groupSeed(l.group)^snapshotMagic)
	if err != nil {
		return err
	}
	if sum != w.stateSum {
		return fmt.Errorf("%w: state of a whole log", ErrBadSnapshot)
	}
	at += w.stateSize
	for i := range w.refs {
		f, err := readCleanedEnds(p.file, l.group, &w.refs[i], at)
		if err != nil {
			return fmt.Errorf("%w: %w", ErrBadSnapshot, err)
		}
		if sum, err = fileSum(p.file, at, at+f.frames, groupSeed(l.group)^cleanedMagic); err != nil {
			return err
		}
		if sum != f.sum {
			return fmt.Errorf("%w: checksum of a cleaned file", ErrBadSnapshot)
		}
		at += f.size
	}
	return nil
}

// unpack makes files of the cleaned part that has come, durable with their names, and the list of them for a recovery. What it leaves
// behind after an error goes at the next open. The caller holds io.
func (l *Log) unpack(p *receiving, w *whole, floor uint64) (*washed, error) {
	out := &washed{dirty: w.dirty}
	l.cleanGen = max(l.cleanGen, 1)
	l.mu.RLock()
	for _, f := range l.cleaned {
		l.cleanGen = max(l.cleanGen, f.generation+1)
	}
	l.mu.RUnlock()
	at := p.at + w.headerSize() + w.stateSize
	for i := range w.refs {
		ref := w.refs[i]
		ref.generation = l.cleanGen
		if err := l.copyCleaned(&ref, p.file, at); err != nil {
			return nil, err
		}
		f, err := l.openCleaned(&ref)
		if err != nil {
			return nil, err
		}
		out.files = append(out.files, f)
		at += ref.size
	}
	l.cleanGen++
	// Which also makes the names of the files durable.
	if err := replaceFile(l.fs, l.dir, installName, encodeInstall(l.group, floor, out)); err != nil {
		return nil, err
	}
	return out, nil
}

func (l *Log) copyCleaned(ref *cleanedRef, src vfs.File, at int64) error {
	name := path.Join(l.dir, ref.name())
	if err := l.fs.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	dst, err := l.fs.Create(name)
	if err != nil {
		return err
	}
	buf := make([]byte, min(ref.size, scanWindow))
	for pos := int64(0); pos < ref.size && err == nil; pos += int64(len(buf)) {
		buf = buf[:min(int64(len(buf)), ref.size-pos)]
		if err = readFull(src, buf, at+pos); err == nil {
			_, err = dst.WriteAt(buf, pos)
		}
	}
	if err == nil {
		err = dst.Sync()
	}
	return errors.Join(err, dst.Close())
}

// encodeInstall is the list of the files that belong to the snapshot with this floor.
//
//	magic | crc | ver, flags | n | group | floor | cleaned up to | 0 | n × name
func encodeInstall(group raft.GroupID, floor uint64, w *washed) []byte {
	le := binary.LittleEndian
	b := make([]byte, installSize)
	var m meta
	m.clean(w.files, w.dirty)
	le.PutUint32(b[0:], installMagic)
	le.PutUint16(b[8:], wholeVersion)
	le.PutUint32(b[12:], uint32(len(m.cleaned)))
	le.PutUint64(b[16:], uint64(group))
	le.PutUint64(b[24:], floor)
	le.PutUint64(b[32:], uint64(m.dirty))
	b = appendCleanedRefs(b, m.cleaned)
	le.PutUint32(b[4:], crc32.Update(groupSeed(group)^installMagic, castagnoli, b[8:]))
	return b
}

func decodeInstall(group raft.GroupID, b []byte, floor uint64) (refs []cleanedRef, dirty Offset, err error) {
	le := binary.LittleEndian
	switch {
	case len(b) < installSize || le.Uint32(b) != installMagic || le.Uint32(b[4:]) != crc32.Update(groupSeed(group)^installMagic, castagnoli, b[8:]):
		return nil, 0, fmt.Errorf("%w: list of the files of a snapshot", ErrCorrupt)
	case le.Uint16(b[8:]) != wholeVersion:
		return nil, 0, fmt.Errorf("%s: %w: version %d, this program knows %d", installName, ErrVersion, le.Uint16(b[8:]), wholeVersion)
	case le.Uint16(b[10:]) != 0 || le.Uint64(b[16:]) != uint64(group) || le.Uint64(b[24:]) != floor:
		return nil, 0, fmt.Errorf("%w: list of the files of another snapshot", ErrCorrupt)
	}
	refs, rest, err := decodeCleanedRefs(b[installSize:], uint64(le.Uint32(b[12:])))
	dirty = Offset(le.Uint64(b[32:]))
	if err != nil || len(rest) != 0 || len(refs) == 0 || dirty < 0 || dirty > refs[len(refs)-1].end {
		return nil, 0, errors.Join(fmt.Errorf("%w: range of the list of a snapshot's files", ErrCorrupt), err)
	}
	return refs, dirty, nil
}

// flagged is a snapshot file's header that says that a cleaned part belongs to it.
func flagged(group raft.GroupID, header []byte) []byte {
	h := slices.Clone(header)
	binary.LittleEndian.PutUint16(h[snapshotFlagsPos:], flagWithCleaned)
	binary.LittleEndian.PutUint32(h[4:], crc32.Update(groupSeed(group)^snapshotMagic, castagnoli, h[8:]))
	return h
}

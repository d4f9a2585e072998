// The meta file: where the log starts, and what a recovery must not forget. Also how small files are replaced so that
// a crash leaves the old or the new one.

package segment

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"path"
	"sort"

	"github.com/balsamq/balsa/internal/vfs"
	"github.com/balsamq/balsa/raft"
)

const (
	metaMagic      = 0xBA534D01
	metaHeaderSize = 72
	maxMetaFile    = metaHeaderSize + maxEpochs*epochSize + cleanedTable + maxCleanedFiles*cleanedRefSize
	fileVersion    = 1
	// cleanedMeta is the version of a meta file that names cleaned files: a program that does not know them must not open the log.
	cleanedMeta = 2
	// cleanedTable is the size of what stands before the names.
	cleanedTable = 16
)

// meta is the content of the meta file; its zero value, with first 1, is that of a log that never had one.
type meta struct {
	first    raft.Index
	prevTerm raft.Term // of the entry before first
	start    Offset    // next offset before first
	floor    uint64    // files of a smaller generation are dead
	damaged  raft.Index
	epochs   []epoch // that begin before first
	cleaned  []cleanedRef
	dirty    Offset // see Log.dirty; 0 without cleaned files
}

func (m *meta) encode(group raft.GroupID) []byte {
	le := binary.LittleEndian
	b := make([]byte, metaHeaderSize, metaHeaderSize+len(m.epochs)*epochSize)
	le.PutUint32(b[0:], metaMagic)
	le.PutUint16(b[8:], fileVersion)
	if len(m.cleaned) > 0 {
		le.PutUint16(b[8:], cleanedMeta)
	}
	le.PutUint64(b[16:], uint64(group))
	le.PutUint64(b[24:], uint64(m.first))
	le.PutUint64(b[32:], uint64(m.prevTerm))
	le.PutUint64(b[40:], uint64(m.start))
	le.PutUint64(b[48:], m.floor)
	le.PutUint64(b[56:], uint64(m.damaged))
	le.PutUint64(b[64:], uint64(len(m.epochs)))
	b = appendEpochs(b, m.epochs)
	if len(m.cleaned) > 0 {
		b = le.AppendUint64(b, uint64(m.dirty))
		b = le.AppendUint64(b, uint64(len(m.cleaned)))
		b = appendCleanedRefs(b, m.cleaned)
	}
	le.PutUint32(b[4:], crc32.Update(groupSeed(group)^metaMagic, castagnoli, b[8:]))
	return b
}

func decodeMeta(group raft.GroupID, b []byte) (meta, error) {
	le := binary.LittleEndian
	var m meta
	switch {
	case len(b) < metaHeaderSize || le.Uint32(b) != metaMagic:
		return m, errors.New("bad meta file: no header")
	case le.Uint64(b[16:]) != uint64(group):
		return m, fmt.Errorf("bad meta file: group %d, expected %d", le.Uint64(b[16:]), group)
	case le.Uint32(b[4:]) != crc32.Update(groupSeed(group)^metaMagic, castagnoli, b[8:]):
		return m, errors.New("bad meta file: checksum")
	case le.Uint16(b[8:]) != fileVersion && le.Uint16(b[8:]) != cleanedMeta:
		return m, fmt.Errorf("meta file: %w: version %d, this program knows %d", ErrVersion, le.Uint16(b[8:]), cleanedMeta)
	case le.Uint16(b[10:]) != 0 || le.Uint32(b[12:]) != 0:
		return m, errors.New("bad meta file: unknown flags")
	}
	m = meta{
		first: raft.Index(le.Uint64(b[24:])), prevTerm: raft.Term(le.Uint64(b[32:])), start: Offset(le.Uint64(b[40:])),
		floor: le.Uint64(b[48:]), damaged: raft.Index(le.Uint64(b[56:])),
	}
	n, hasCleaned := le.Uint64(b[64:]), le.Uint16(b[8:]) == cleanedMeta
	if m.first == 0 || m.first > maxIndex || m.prevTerm > raft.MaxTerm || m.start < 0 || uint64(m.start) > maxOffset ||
		m.damaged > maxIndex || n > maxEpochs || !hasCleaned && uint64(len(b)) != metaHeaderSize+n*epochSize {
		return meta{}, errors.New("bad meta file: range")
	}
	var err error
	rest := b[metaHeaderSize:]
	if m.epochs, rest, err = decodeEpochs(rest, int(n)); err != nil {
		return meta{}, fmt.Errorf("bad meta file: %w", err)
	}
	if !hasCleaned {
		return m, nil
	}
	if len(rest) < cleanedTable {
		return meta{}, errors.New("bad meta file: no table of cleaned files")
	}
	m.dirty = Offset(le.Uint64(rest))
	if m.cleaned, rest, err = decodeCleanedRefs(rest[cleanedTable:], le.Uint64(rest[8:])); err != nil {
		return meta{}, fmt.Errorf("bad meta file: %w", err)
	}
	if len(rest) != 0 || len(m.cleaned) == 0 || m.cleaned[len(m.cleaned)-1].end != m.start || m.dirty < 0 || m.dirty > m.start {
		return meta{}, errors.New("bad meta file: range of the cleaned files")
	}
	return m, nil
}

// metaLocked is the meta file that describes the log once it starts at first. The caller holds mu.
func (l *Log) metaLocked(first raft.Index, prevTerm raft.Term, start Offset) meta {
	n := sort.Search(len(l.epochs), func(k int) bool { return l.epochs[k].first >= first })
	m := meta{first: first, prevTerm: prevTerm, start: start, floor: l.floor, epochs: l.epochs[:n]}
	if l.durable < l.damaged {
		m.damaged = l.damaged
	}
	if first == l.first { // else the cleaned part has gone, or is another one: see truncatePrefix
		m.clean(l.cleaned, l.dirty)
	}
	return m
}

// clean makes files the cleaned part of the log that m describes.
func (m *meta) clean(files []*cleanedFile, dirty Offset) {
	m.cleaned, m.dirty = nil, 0
	for _, f := range files {
		m.cleaned = append(m.cleaned, f.cleanedRef)
	}
	if len(files) > 0 {
		m.dirty = dirty
	}
}

// writeMeta replaces the meta file durably.
func (l *Log) writeMeta(m *meta) error {
	if err := l.stageMeta(m); err != nil {
		return err
	}
	return l.adoptStaged()
}

// stageMeta writes what the meta file is to be, durably, under another name: all that needs room. Who changes something else before
// the meta file stages it first, so that a full disk cannot stop it halfway.
func (l *Log) stageMeta(m *meta) error {
	if err := writeFile(l.fs, path.Join(l.dir, metaName+tempSuffix), m.encode(l.group)); err != nil {
		return fmt.Errorf("write meta of group %d: %w", l.group, err)
	}
	return nil
}

// dropStaged gives its room back.
func (l *Log) dropStaged() { _ = l.fs.Remove(path.Join(l.dir, metaName+tempSuffix)) }

// adoptStaged makes the staged file the meta file, durably.
func (l *Log) adoptStaged() error {
	if err := rename(l.fs, l.dir, metaName); err != nil {
		return fmt.Errorf("write meta of group %d: %w", l.group, err)
	}
	return nil
}

// replaceFile writes the parts to dir/name, so that after a crash the file is either the old or the new one, and after
// a return without error the new one.
func replaceFile(f vfs.FS, dir, name string, parts ...[]byte) error {
	if err := writeFile(f, path.Join(dir, name+tempSuffix), parts...); err != nil {
		return err
	}
	return rename(f, dir, name)
}

// rename gives what was written beside dir/name that name, durably.
func rename(f vfs.FS, dir, name string) error {
	tmp := path.Join(dir, name+tempSuffix)
	if err := f.Rename(tmp, path.Join(dir, name)); err != nil {
		_ = f.Remove(tmp)
		return err
	}
	if err := f.SyncDir(dir); err != nil {
		return fmt.Errorf("sync directory %s: %v", dir, err) // not wrapped: never one to wait out
	}
	return nil
}

// writeFile writes the parts to a new file, durably except for its name. What was there of an earlier try is replaced.
func writeFile(f vfs.FS, name string, parts ...[]byte) error {
	return putFile(f, name, vfs.File.Sync, parts...)
}

// putFile writes the parts to a new file, and ends with last. What was there of an earlier try is replaced.
func putFile(f vfs.FS, name string, last func(vfs.File) error, parts ...[]byte) error {
	if err := f.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	file, err := f.Create(name)
	if err != nil {
		return err
	}
	_, err = file.WritevAt(parts, 0)
	if err == nil {
		err = last(file)
	}
	if err = errors.Join(err, file.Close()); err != nil {
		_ = f.Remove(name)
	}
	return err
}

// readFile reads a whole file of at most limit bytes.
func readFile(f vfs.FS, name string, limit int64) ([]byte, error) {
	file, err := f.Open(name)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	size, err := file.Size()
	if err != nil {
		return nil, err
	}
	if size > limit {
		return nil, fmt.Errorf("%s is %d bytes long, at most %d belong there", name, size, limit)
	}
	b := make([]byte, size)
	if n, err := file.ReadAt(b, 0); err != nil && !(errors.Is(err, io.EOF) && int64(n) == size) {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	return b, nil
}

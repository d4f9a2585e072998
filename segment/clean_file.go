// The cleaned file: a stretch of a compacted log's records, immutable from the moment in which it is a part of the log.
//
//	 0        4        8    10   12               16               24               32
//	+--------+--------+----+----+----------------+----------------+----------------+- - -
//	| magic  | crc    |ver |flag| reserved       | group          | base offset    | frames
//	+--------+--------+----+----+----------------+----------------+----------------+- - -
//
// The frames are those of the log (doc.go), with the term, index and offsets of the entries that they were; of a batch that lost
// records the payload is what is left, in a frame made anew. Entries that lost all of them, and internal ones, are not there: indexes
// and offsets rise, with gaps. Behind the frames stand a sparse index and a trailer:
//
//	index    n × (base offset, position, largest timestamp from there to the next)
//	trailer  magic | crc | end of the frames | end offset | n | sum | batches | records | max time | horizon | reserved
//
// The trailer's crc covers the index and the trailer; sum is over all before the index. The meta file names each cleaned file with
// its trailer's crc, so that no other file can be taken for it.

package segment

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"path"
	"strconv"
	"strings"

	"github.com/balsamq/balsa/internal/vfs"
	"github.com/balsamq/balsa/raft"
)

const (
	cleanedSuffix = ".cln"
	// badSuffix marks a cleaned file that a read has found damaged, until the next open has looked at all of it.
	badSuffix = ".bad"

	cleanedMagic       = 0xBA534301
	trailerMagic       = 0xBA534501
	cleanedVersion     = 1
	cleanedHeaderSize  = 32
	cleanedTrailerSize = 72
	stretchSize        = 24

	// maxCleanedFiles bounds those of one log; files are made larger before it is reached.
	maxCleanedFiles = 1 << 14
	// cleanedBuffer is what is written at once.
	cleanedBuffer = 1 << 20
)

// cleanedRef names a cleaned file in the meta file.
type cleanedRef struct {
	base, end  Offset // the next one's base, or where the log's first segment begins
	generation uint64 // of its name
	size       int64
	crc        uint32 // of its trailer
}

const cleanedRefSize = 40

func (c *cleanedRef) name() string {
	return fmt.Sprintf("%020d-%08x%s", uint64(c.base), c.generation, cleanedSuffix)
}

func parseCleanedName(name string) (generation uint64, ok bool) {
	name, ok = strings.CutSuffix(name, cleanedSuffix)
	a, b, ok2 := strings.Cut(name, "-")
	if !ok || !ok2 || len(a) != 20 || len(b) < 8 {
		return 0, false
	}
	g, err := strconv.ParseUint(b, 16, 64)
	return g, err == nil
}

// cleanedFile is one as readers see it. Nothing of it changes.
type cleanedFile struct {
	cleanedRef
	index            []stretch
	frames           int64 // where they end
	sum              uint32
	batches, records int64
	maxTime          int64
	horizon          int64 // the earliest at which something in it may go; noTimestamp: nothing waits for its time
}

// stretch is an entry of the sparse index.
type stretch struct {
	base    Offset
	pos     int64
	maxTime int64
}

func appendCleanedRefs(b []byte, refs []cleanedRef) []byte {
	le := binary.LittleEndian
	for i := range refs {
		c := &refs[i]
		b = le.AppendUint64(b, uint64(c.base))
		b = le.AppendUint64(b, uint64(c.end))
		b = le.AppendUint64(b, c.generation)
		b = le.AppendUint64(b, uint64(c.size))
		b = le.AppendUint32(b, c.crc)
		b = le.AppendUint32(b, 0)
	}
	return b
}

// decodeCleanedRefs reads n of them, which must follow each other without a gap.
func decodeCleanedRefs(b []byte, n uint64) ([]cleanedRef, []byte, error) {
	if n > maxCleanedFiles || uint64(len(b)) < n*cleanedRefSize {
		return nil, nil, fmt.Errorf("%d cleaned files in %d bytes", n, len(b))
	}
	le := binary.LittleEndian
	refs := make([]cleanedRef, n)
	for i := range refs {
		c := cleanedRef{base: Offset(le.Uint64(b)), end: Offset(le.Uint64(b[8:])), generation: le.Uint64(b[16:]), size: int64(le.Uint64(b[24:])), crc: le.Uint32(b[32:])}
		if c.base < 0 || c.end <= c.base || uint64(c.end) > maxOffset || c.size < cleanedHeaderSize+cleanedTrailerSize || le.Uint32(b[36:]) != 0 ||
			i > 0 && c.base != refs[i-1].end {
			return nil, nil, fmt.Errorf("cleaned file of [%d, %d), %d bytes", c.base, c.end, c.size)
		}
		refs[i], b = c, b[cleanedRefSize:]
	}
	return refs, b, nil
}

func encodeCleanedHeader(group raft.GroupID, base Offset) []byte {
	b := make([]byte, cleanedHeaderSize)
	le := binary.LittleEndian
	le.PutUint32(b[0:], cleanedMagic)
	le.PutUint16(b[8:], cleanedVersion)
	le.PutUint64(b[16:], uint64(group))
	le.PutUint64(b[24:], uint64(base))
	le.PutUint32(b[4:], crc32.Update(groupSeed(group)^cleanedMagic, castagnoli, b[8:]))
	return b
}

func decodeCleanedHeader(group raft.GroupID, b []byte, base Offset) error {
	le := binary.LittleEndian
	switch {
	case len(b) < cleanedHeaderSize || le.Uint32(b) != cleanedMagic:
		return fmt.Errorf("%w: cleaned file without header", ErrCorrupt)
	case le.Uint32(b[4:]) != crc32.Update(groupSeed(group)^cleanedMagic, castagnoli, b[8:cleanedHeaderSize]):
		return fmt.Errorf("%w: header of a cleaned file", ErrCorrupt)
	case le.Uint16(b[8:]) != cleanedVersion:
		return fmt.Errorf("cleaned file: %w: version %d, this program knows %d", ErrVersion, le.Uint16(b[8:]), cleanedVersion)
	case le.Uint16(b[10:]) != 0 || le.Uint32(b[12:]) != 0 || Offset(le.Uint64(b[24:])) != base:
		return fmt.Errorf("%w: header of another cleaned file", ErrCorrupt)
	}
	return nil
}

// encodeEnd returns the index and the trailer, and sets the file's crc and size.
func (f *cleanedFile) encodeEnd(group raft.GroupID) []byte {
	le := binary.LittleEndian
	var b []byte
	for _, s := range f.index {
		b = le.AppendUint64(b, uint64(s.base))
		b = le.AppendUint64(b, uint64(s.pos))
		b = le.AppendUint64(b, uint64(s.maxTime))
	}
	at := len(b)
	b = append(b, make([]byte, cleanedTrailerSize)...)
	t := b[at:]
	le.PutUint32(t[0:], trailerMagic)
	le.PutUint64(t[8:], uint64(f.frames))
	le.PutUint64(t[16:], uint64(f.end))
	le.PutUint32(t[24:], uint32(len(f.index)))
	le.PutUint32(t[28:], f.sum)
	le.PutUint64(t[32:], uint64(f.batches))
	le.PutUint64(t[40:], uint64(f.records))
	le.PutUint64(t[48:], uint64(f.maxTime))
	le.PutUint64(t[56:], uint64(f.horizon))
	f.crc = trailerCRC(group, b[:at], t)
	le.PutUint32(t[4:], f.crc)
	f.size = f.frames + int64(len(b))
	return b
}

func trailerCRC(group raft.GroupID, index, trailer []byte) uint32 {
	return crc32.Update(crc32.Update(groupSeed(group)^trailerMagic, castagnoli, index), castagnoli, trailer[8:cleanedTrailerSize])
}

// decodeEnd reads the end of the file that ref names; b is the last bytes of it, all or more of the index among them.
func decodeEnd(group raft.GroupID, ref *cleanedRef, b []byte) (*cleanedFile, error) {
	bad := func(format string, args ...any) (*cleanedFile, error) {
		return nil, fmt.Errorf("%w: end of a cleaned file: "+format, append([]any{ErrCorrupt}, args...)...)
	}
	le := binary.LittleEndian
	if len(b) < cleanedTrailerSize || le.Uint32(b[len(b)-cleanedTrailerSize:]) != trailerMagic {
		return bad("none")
	}
	t := b[len(b)-cleanedTrailerSize:]
	n := int64(le.Uint32(t[24:]))
	if n*stretchSize > int64(len(b)-cleanedTrailerSize) {
		return bad("%d index entries in %d bytes", n, len(b))
	}
	index := b[int64(len(b)-cleanedTrailerSize)-n*stretchSize : len(b)-cleanedTrailerSize]
	if crc := trailerCRC(group, index, t); crc != le.Uint32(t[4:]) || crc != ref.crc {
		return bad("checksum")
	}
	f := &cleanedFile{cleanedRef: *ref, frames: int64(le.Uint64(t[8:])), sum: le.Uint32(t[28:]), batches: int64(le.Uint64(t[32:])),
		records: int64(le.Uint64(t[40:])), maxTime: int64(le.Uint64(t[48:])), horizon: int64(le.Uint64(t[56:]))}
	if f.frames+n*stretchSize+cleanedTrailerSize != ref.size || Offset(le.Uint64(t[16:])) != ref.end || f.frames < cleanedHeaderSize || f.batches < 0 || f.records < 0 || n == 0 {
		return bad("range")
	}
	f.index = make([]stretch, n)
	for i := range f.index {
		s := stretch{Offset(le.Uint64(index)), int64(le.Uint64(index[8:])), int64(le.Uint64(index[16:]))}
		index = index[stretchSize:]
		if s.base < ref.base && i > 0 || s.base >= ref.end || s.pos < cleanedHeaderSize || s.pos >= f.frames ||
			i > 0 && (s.base <= f.index[i-1].base || s.pos <= f.index[i-1].pos) || i == 0 && s.pos != cleanedHeaderSize {
			return bad("index entry %d", i)
		}
		f.index[i] = s
	}
	return f, nil
}

// openCleaned reads the header and the end of a cleaned file.
func (l *Log) openCleaned(ref *cleanedRef) (*cleanedFile, error) {
	file, err := l.fs.Open(path.Join(l.dir, ref.name()))
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return readCleanedEnds(file, l.group, ref, 0)
}

// readCleanedEnds is openCleaned for a file that begins at a place within another.
func readCleanedEnds(file vfs.File, group raft.GroupID, ref *cleanedRef, at int64) (*cleanedFile, error) {
	size, err := file.Size()
	if err != nil {
		return nil, err
	}
	if size < at+ref.size || at == 0 && size != ref.size {
		return nil, fmt.Errorf("%w: cleaned file of %d bytes, %d belong there", ErrCorrupt, size-at, ref.size)
	}
	head := make([]byte, cleanedHeaderSize)
	if err := readFull(file, head, at); err != nil {
		return nil, err
	}
	if err := decodeCleanedHeader(group, head, ref.base); err != nil {
		return nil, err
	}
	trailer := make([]byte, cleanedTrailerSize)
	if err := readFull(file, trailer, at+ref.size-cleanedTrailerSize); err != nil {
		return nil, err
	}
	n := int64(binary.LittleEndian.Uint32(trailer[24:]))
	if n*stretchSize > ref.size-cleanedHeaderSize-cleanedTrailerSize || n*stretchSize > maxIndexFile {
		return nil, fmt.Errorf("%w: end of a cleaned file: %d index entries in %d bytes", ErrCorrupt, n, ref.size)
	}
	end := make([]byte, n*stretchSize+cleanedTrailerSize)
	if err := readFull(file, end, at+ref.size-int64(len(end))); err != nil {
		return nil, err
	}
	return decodeEnd(group, ref, end)
}

// readFull fills b; a file that ends before is corrupt.
func readFull(file vfs.File, b []byte, at int64) error {
	n, err := file.ReadAt(b, at)
	switch {
	case n == len(b):
		return nil
	case err == nil || errors.Is(err, io.EOF):
		return fmt.Errorf("%w: %d bytes where %d belong", ErrCorrupt, n, len(b))
	}
	return err
}

// refOf is what a meta file would say of a cleaned file, by its own word.
func refOf(f vfs.FS, name string) (*cleanedRef, error) {
	file, err := f.Open(name)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	gen, ok := parseCleanedName(path.Base(name))
	base, _ := strconv.ParseInt(path.Base(name)[:20], 10, 64)
	ref := &cleanedRef{base: Offset(base), generation: gen}
	if ref.size, err = file.Size(); err != nil {
		return nil, err
	}
	if !ok || ref.size < cleanedHeaderSize+cleanedTrailerSize {
		return nil, fmt.Errorf("%s is no cleaned file", name)
	}
	t := make([]byte, cleanedTrailerSize)
	if err := readFull(file, t, ref.size-cleanedTrailerSize); err != nil {
		return nil, err
	}
	ref.crc, ref.end = binary.LittleEndian.Uint32(t[4:]), Offset(binary.LittleEndian.Uint64(t[16:]))
	return ref, nil
}

// verifyCleaned reads all of a cleaned file, whose ends have been read, and holds it against its checksum.
func (l *Log) verifyCleaned(f *cleanedFile) error {
	file, err := l.fs.Open(path.Join(l.dir, f.name()))
	if err != nil {
		return err
	}
	defer file.Close()
	sum, err := fileSum(file, 0, f.frames, groupSeed(l.group)^cleanedMagic)
	if err != nil {
		return err
	}
	if sum != f.sum {
		return fmt.Errorf("%w: checksum of %s", ErrCorrupt, f.name())
	}
	return nil
}

// cleanedWriter makes a cleaned file.
type cleanedWriter struct {
	l      *Log
	f      *cleanedFile
	file   vfs.File
	buf    []byte
	pos    int64 // behind what is in buf
	lastAt int64 // of the last index entry
	last   Offset
}

func (l *Log) createCleaned(base Offset, generation uint64) (*cleanedWriter, error) {
	f := &cleanedFile{cleanedRef: cleanedRef{base: base, generation: generation}, maxTime: noTimestamp, horizon: noTimestamp}
	file, err := l.fs.Create(path.Join(l.dir, f.name()))
	if err != nil {
		return nil, err
	}
	w := &cleanedWriter{l: l, f: f, file: file, lastAt: -l.opt.IndexBytes, last: base}
	w.f.sum = groupSeed(l.group) ^ cleanedMagic
	w.put(encodeCleanedHeader(l.group, base))
	return w, nil
}

func (w *cleanedWriter) put(b []byte) {
	w.f.sum = crc32.Update(w.f.sum, castagnoli, b)
	w.buf = append(w.buf, b...)
	w.pos += int64(len(b))
}

// add appends a frame.
func (w *cleanedWriter) add(r *record) error {
	if r.next() <= w.last {
		return fmt.Errorf("%w: cleaned batch of [%d, %d) behind offset %d", ErrCorrupt, r.base, r.next(), w.last)
	}
	w.last = r.next()
	t := r.maxTimestamp()
	if w.pos-w.lastAt >= w.l.opt.IndexBytes {
		w.f.index = append(w.f.index, stretch{r.base, w.pos, t})
		w.lastAt = w.pos
	} else if k := len(w.f.index) - 1; k >= 0 {
		w.f.index[k].maxTime = max(w.f.index[k].maxTime, t)
	}
	w.f.batches++
	w.f.maxTime = max(w.f.maxTime, t)
	if b, ok := batchOf(r.Payload); ok {
		w.f.records += int64(b.RecordCount())
		if b.DeleteHorizon() && (w.f.horizon == noTimestamp || b.BaseTimestamp() < w.f.horizon) {
			w.f.horizon = b.BaseTimestamp()
		}
	}
	w.put(r.Frame)
	if len(w.buf) >= cleanedBuffer {
		return w.flush()
	}
	return nil
}

func (w *cleanedWriter) flush() error {
	if len(w.buf) == 0 {
		return nil
	}
	_, err := w.file.WriteAt(w.buf, w.pos-int64(len(w.buf)))
	w.buf = w.buf[:0]
	return err
}

// finish makes the file durable; not yet its name.
func (w *cleanedWriter) finish(end Offset) (*cleanedFile, error) {
	w.f.end, w.f.frames = end, w.pos
	w.buf = append(w.buf, w.f.encodeEnd(w.l.group)...)
	w.pos = w.f.size
	err := w.flush()
	if err == nil {
		err = w.file.Sync()
	}
	if err = errors.Join(err, w.file.Close()); err != nil {
		w.l.removeCleaned(w.f)
		return nil, err
	}
	return w.f, nil
}

// abandon drops the file.
func (w *cleanedWriter) abandon() {
	_ = w.file.Close()
	w.l.removeCleaned(w.f)
}

// removeCleaned removes a file that no meta file names, or will. What stays behind goes at the next open.
func (l *Log) removeCleaned(f *cleanedFile) {
	_ = l.fs.Remove(path.Join(l.dir, f.name()))
}

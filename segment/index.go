// The sparse index file of a closed segment: what a scan of the segment would find out. It is written without a sync
// and believed only if its checksum holds; otherwise the segment is scanned.

package segment

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"path"
	"strings"

	"github.com/balsamq/balsa/raft"
)

const (
	indexMagic      = 0xBA534901
	indexHeaderSize = 80
	indexEntrySize  = 32
	epochSize       = 24
	// maxIndexFile bounds what is read as an index file.
	maxIndexFile = 256 << 20
)

func indexName(segment string) string {
	return strings.TrimSuffix(segment, segmentSuffix) + indexSuffix
}

// segmentIndex is the content of an index file.
type segmentIndex struct {
	generation uint64
	first      raft.Index
	last       raft.Index
	next       Offset
	size       int64
	maxTime    int64
	index      []indexEntry
	epochs     []epoch // that begin in this segment
	configs    []raft.Index
}

// encodeIndexLocked encodes what is known of s. The caller holds mu.
//
//	magic | crc | group | generation | first | last | next | size | max time | n index | n epochs | n configs | 0 | …
func (l *Log) encodeIndexLocked(s *seg) []byte {
	si := segmentIndex{generation: s.generation, first: s.first, last: s.last, next: s.next, size: s.size, maxTime: s.maxTime, index: s.index}
	for _, e := range l.epochs {
		if e.first >= s.first && e.first <= s.last {
			si.epochs = append(si.epochs, e)
		}
	}
	for _, i := range l.configs {
		if i >= s.first && i <= s.last {
			si.configs = append(si.configs, i)
		}
	}
	return si.encode(l.group)
}

func (si *segmentIndex) encode(group raft.GroupID) []byte {
	b := make([]byte, indexHeaderSize, indexHeaderSize+len(si.index)*indexEntrySize+len(si.epochs)*epochSize+len(si.configs)*8)
	le := binary.LittleEndian
	le.PutUint32(b[0:], indexMagic)
	le.PutUint64(b[8:], uint64(group))
	le.PutUint64(b[16:], si.generation)
	le.PutUint64(b[24:], uint64(si.first))
	le.PutUint64(b[32:], uint64(si.last))
	le.PutUint64(b[40:], uint64(si.next))
	le.PutUint64(b[48:], uint64(si.size))
	le.PutUint64(b[56:], uint64(si.maxTime))
	le.PutUint32(b[64:], uint32(len(si.index)))
	le.PutUint32(b[68:], uint32(len(si.epochs)))
	le.PutUint32(b[72:], uint32(len(si.configs)))
	b = appendIndexEntries(b, si.index)
	b = appendEpochs(b, si.epochs)
	for _, i := range si.configs {
		b = le.AppendUint64(b, uint64(i))
	}
	le.PutUint32(b[4:], crc32.Update(groupSeed(group)^indexMagic, castagnoli, b[8:]))
	return b
}

func appendIndexEntries(b []byte, es []indexEntry) []byte {
	le := binary.LittleEndian
	for i := range es {
		b = le.AppendUint64(b, uint64(es[i].index))
		b = le.AppendUint64(b, uint64(es[i].base))
		b = le.AppendUint64(b, uint64(es[i].pos))
		b = le.AppendUint64(b, uint64(es[i].maxTime))
	}
	return b
}

// decodeIndexEntry reads the entry at the beginning of b, which is long enough. Nothing is checked.
func decodeIndexEntry(b []byte) indexEntry {
	le := binary.LittleEndian
	return indexEntry{raft.Index(le.Uint64(b)), Offset(le.Uint64(b[8:])), int64(le.Uint64(b[16:])), int64(le.Uint64(b[24:]))}
}

func appendEpochs(b []byte, es []epoch) []byte {
	for _, e := range es {
		b = binary.LittleEndian.AppendUint64(b, uint64(e.term))
		b = binary.LittleEndian.AppendUint64(b, uint64(e.first))
		b = binary.LittleEndian.AppendUint64(b, uint64(e.start))
	}
	return b
}

// decodeEpochs reads n epochs and checks that they rise.
func decodeEpochs(b []byte, n int) ([]epoch, []byte, error) {
	if n > maxEpochs || len(b) < n*epochSize {
		return nil, nil, fmt.Errorf("%d epochs in %d bytes", n, len(b))
	}
	es := make([]epoch, n)
	for i := range es {
		e := epoch{raft.Term(binary.LittleEndian.Uint64(b)), raft.Index(binary.LittleEndian.Uint64(b[8:])), Offset(binary.LittleEndian.Uint64(b[16:]))}
		b = b[epochSize:]
		if e.term == 0 || e.term > raft.MaxTerm || e.first == 0 || e.first > maxIndex || e.start < 0 || uint64(e.start) > maxOffset {
			return nil, nil, fmt.Errorf("epoch (%d, %d, %d)", e.term, e.first, e.start)
		}
		if i > 0 && (e.term <= es[i-1].term || e.first <= es[i-1].first || e.start < es[i-1].start) {
			return nil, nil, fmt.Errorf("epoch (%d, %d, %d) after (%d, %d, %d)", e.term, e.first, e.start,
				es[i-1].term, es[i-1].first, es[i-1].start)
		}
		es[i] = e
	}
	return es, b, nil
}

func decodeIndex(group raft.GroupID, b []byte) (segmentIndex, error) {
	var si segmentIndex
	le := binary.LittleEndian
	if len(b) < indexHeaderSize || le.Uint32(b) != indexMagic {
		return si, fmt.Errorf("bad index file: no header")
	}
	if le.Uint32(b[4:]) != crc32.Update(groupSeed(group)^indexMagic, castagnoli, b[8:]) {
		return si, fmt.Errorf("bad index file: checksum")
	}
	si = segmentIndex{
		generation: le.Uint64(b[16:]), first: raft.Index(le.Uint64(b[24:])), last: raft.Index(le.Uint64(b[32:])),
		next: Offset(le.Uint64(b[40:])), size: int64(le.Uint64(b[48:])), maxTime: int64(le.Uint64(b[56:])),
	}
	ni, ne, nc := uint64(le.Uint32(b[64:])), uint64(le.Uint32(b[68:])), uint64(le.Uint32(b[72:]))
	rest := b[indexHeaderSize:]
	if ni*indexEntrySize+ne*epochSize+nc*8 != uint64(len(rest)) || le.Uint64(b[8:]) != uint64(group) || le.Uint32(b[76:]) != 0 {
		return si, fmt.Errorf("bad index file: lengths")
	}
	if si.first == 0 || si.first > maxIndex || si.last < si.first || si.last > maxIndex || si.next < 0 || uint64(si.next) > maxOffset ||
		si.size < SegmentHeaderSize || ni == 0 {
		return si, fmt.Errorf("bad index file: range")
	}
	si.index = make([]indexEntry, ni)
	for i := range si.index {
		e := decodeIndexEntry(rest)
		rest = rest[indexEntrySize:]
		if e.index < si.first || e.index > si.last || e.base < 0 || e.base > si.next || e.pos < SegmentHeaderSize+blockHeaderSize || e.pos >= si.size ||
			i == 0 && e.index != si.first ||
			i > 0 && (e.index <= si.index[i-1].index || e.base < si.index[i-1].base || e.pos <= si.index[i-1].pos) {
			return si, fmt.Errorf("bad index file: entry %d", i)
		}
		si.index[i] = e
	}
	var err error
	if si.epochs, rest, err = decodeEpochs(rest, int(ne)); err != nil {
		return si, fmt.Errorf("bad index file: %w", err)
	}
	for range nc {
		i := raft.Index(le.Uint64(rest))
		rest = rest[8:]
		if i < si.first || i > si.last || len(si.configs) > 0 && i <= si.configs[len(si.configs)-1] {
			return si, fmt.Errorf("bad index file: membership at %d", i)
		}
		si.configs = append(si.configs, i)
	}
	return si, nil
}

// writeIndex stores a closed segment's index, durably. It is a shortcut for the next Open, and tells it that the file is not the last. It
// may fail: then neither.
func (l *Log) writeIndex(segment string, img []byte) {
	name := path.Join(l.dir, indexName(segment))
	_ = l.fs.Remove(name)
	f, err := l.fs.Create(name)
	if err != nil {
		return
	}
	_, err = f.WriteAt(img, 0)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		_ = l.fs.Remove(name)
		return
	}
	_ = l.fs.SyncDir(l.dir)
}

// loadIndex reads a segment's index file, if there is a good one.
func (l *Log) loadIndex(segment string) (segmentIndex, bool) {
	b, err := readFile(l.fs, path.Join(l.dir, indexName(segment)), maxIndexFile)
	if err != nil {
		return segmentIndex{}, false
	}
	si, err := decodeIndex(l.group, b)
	return si, err == nil
}

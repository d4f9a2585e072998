// The frame: an entry as it stands on every disk and travels between brokers. Diagram and reasons: doc.go.

package segment

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"slices"
	"unsafe"

	"github.com/balsamq/balsa/raft"
)

const (
	// FrameHeaderSize is the length of a frame without its payload.
	FrameHeaderSize = 40
	// MaxFrameSize bounds a frame; a length beyond it is garbage, and no memory is taken for it.
	MaxFrameSize = 128 << 20

	frameVersion = 1
)

// Offset is a Kafka offset: the place of a record in its partition, from 0, without gaps. Internal entries take none.
type Offset int64

// Errors about bytes and about the log's state. All are wrapped with where they were met.
var (
	// ErrBadFrame: a frame's length, version, flags, type or checksum is not what it must be. DecodeFrame returns it
	// for what a peer sent.
	ErrBadFrame = errors.New("bad frame")
	// ErrCorrupt: bytes on disk that were once durable are damaged or gone.
	ErrCorrupt = errors.New("log is corrupt")
	// ErrVersion: a file is whole, and of another format version. That is no damage: Open refuses the log, and touches nothing.
	ErrVersion = errors.New("format of another version of Balsa")
	// ErrFailed: a write or a sync of this log failed. What it appended may or may not be durable; it must be closed
	// and opened anew. A failed fsync is never retried: the kernel may have dropped the pages it could not write.
	ErrFailed = errors.New("log failed")
	// ErrClosed: the log was closed.
	ErrClosed = errors.New("log is closed")
	// ErrOffsetOutOfRange: an offset below StartOffset or above NextOffset.
	ErrOffsetOutOfRange = errors.New("offset out of range")
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// groupSeed starts a checksum that is valid in one group only: that of the eight bytes of its id, little endian.
func groupSeed(group raft.GroupID) uint32 {
	sum := ^uint32(0)
	for i := range 8 {
		sum = sumByte(sum, byte(group>>(8*i)))
	}
	return ^sum
}

// sumByte adds a byte to an inverted checksum. For the few that seed one: crc32.Update would have them allocated.
func sumByte(sum uint32, b byte) uint32 { return castagnoli[byte(sum)^b] ^ sum>>8 }

// frameCRC is the checksum of a whole frame; its version and its length, which must be that in its header, are part of the seed.
func frameCRC(group raft.GroupID, frame []byte) uint32 {
	seed := ^sumByte(^groupSeed(group), frameVersion)
	return crc32.Update(crc32.Update(seed, castagnoli, frame[:4]), castagnoli, frame[8:])
}

// AppendFrame frames e (its Term, Index, Type and Payload) and appends the frame to dst. base and records are the
// entry's Kafka offsets: for an internal entry base is the next offset and records 0. On return e.Frame is the frame and
// e.Payload a part of it.
//
// e.Payload may already stand where it goes, FrameHeaderSize bytes behind the end of dst in the same array: then
// nothing is copied. The payload must fit MaxFrameSize; the caller has checked that long before.
func AppendFrame(dst []byte, group raft.GroupID, e *raft.Entry, base Offset, records uint32) []byte {
	at, size := len(dst), FrameHeaderSize+len(e.Payload)
	if size > MaxFrameSize {
		panic(fmt.Sprintf("segment: a frame of %d bytes was let through (MaxFrameSize is %d)", size, MaxFrameSize))
	}
	dst = slices.Grow(dst, size)[:at+size]
	f := dst[at:]
	if len(e.Payload) > 0 && unsafe.SliceData(e.Payload) != unsafe.SliceData(f[FrameHeaderSize:]) {
		copy(f[FrameHeaderSize:], e.Payload)
	}
	binary.LittleEndian.PutUint32(f[0:], uint32(size))
	f[8], f[9], f[10], f[11] = frameVersion, 0, byte(e.Type), 0
	binary.LittleEndian.PutUint32(f[12:], records)
	binary.LittleEndian.PutUint64(f[16:], uint64(e.Term))
	binary.LittleEndian.PutUint64(f[24:], uint64(e.Index))
	binary.LittleEndian.PutUint64(f[32:], uint64(base))
	binary.LittleEndian.PutUint32(f[4:], frameCRC(group, f))
	e.Frame = f[:size:size]
	e.Payload = e.Frame[FrameHeaderSize:]
	return dst
}

// record is a decoded frame: the entry and the offsets that it takes.
type record struct {
	raft.Entry
	base    Offset
	records uint32
}

// recordOf is an entry that has a frame (its header at least) with the offsets that the frame says.
func recordOf(e *raft.Entry) record {
	return record{Entry: *e, base: Offset(binary.LittleEndian.Uint64(e.Frame[32:])), records: binary.LittleEndian.Uint32(e.Frame[12:])}
}

// next is the next offset once the entry is in.
func (r *record) next() Offset { return r.base + Offset(r.records) }

// frameType is what a frame says of itself, of which nothing is verified.
func frameType(frame []byte) raft.EntryType { return raft.EntryType(frame[10]) }

// decodeFrame verifies frame, which must be exactly one frame, and takes it apart. The parts are slices of frame.
func decodeFrame(group raft.GroupID, frame []byte) (record, error) {
	var r record
	switch {
	case len(frame) < FrameHeaderSize || len(frame) > MaxFrameSize:
		return r, fmt.Errorf("%w: %d bytes long", ErrBadFrame, len(frame))
	case binary.LittleEndian.Uint32(frame) != uint32(len(frame)):
		return r, fmt.Errorf("%w: says %d bytes, is %d", ErrBadFrame, binary.LittleEndian.Uint32(frame), len(frame))
	case frame[8] != frameVersion:
		return r, fmt.Errorf("%w: version %d, this program knows %d", ErrBadFrame, frame[8], frameVersion)
	case binary.LittleEndian.Uint32(frame[4:]) != frameCRC(group, frame):
		return r, fmt.Errorf("%w: checksum", ErrBadFrame)
	case frame[9] != 0 || frame[11] != 0:
		return r, fmt.Errorf("%w: unknown flags %#x %#x", ErrBadFrame, frame[9], frame[11])
	}
	frame = frame[:len(frame):len(frame)]
	r.Type = raft.EntryType(frame[10])
	r.records = binary.LittleEndian.Uint32(frame[12:])
	r.Term = raft.Term(binary.LittleEndian.Uint64(frame[16:]))
	r.Index = raft.Index(binary.LittleEndian.Uint64(frame[24:]))
	base := binary.LittleEndian.Uint64(frame[32:])
	r.base = Offset(base)
	r.Payload, r.Frame = frame[FrameHeaderSize:], frame
	switch {
	case r.Type < raft.EntryRecords || r.Type > raft.EntryCommand:
		return r, fmt.Errorf("%w: unknown entry type %d", ErrBadFrame, uint8(r.Type))
	case r.Term == 0 || r.Term > raft.MaxTerm:
		return r, fmt.Errorf("%w: term %d", ErrBadFrame, r.Term)
	case r.Index == 0 || r.Index > maxIndex:
		return r, fmt.Errorf("%w: index %d", ErrBadFrame, r.Index)
	case base > maxOffset:
		return r, fmt.Errorf("%w: base offset %d", ErrBadFrame, base)
	case r.Type != raft.EntryRecords && r.records != 0:
		return r, fmt.Errorf("%w: %s entry takes %d offsets", ErrBadFrame, r.Type, r.records)
	}
	return r, nil
}

const (
	// maxIndex and maxOffset keep sums of one index or offset and one count from wrapping around.
	maxIndex  = raft.Index(1) << 62
	maxOffset = uint64(1) << 62
)

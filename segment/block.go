// The block, which wraps the frames of one write, and the header of a segment file. Diagrams and reasons: doc.go.

package segment

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"strconv"
	"strings"

	"github.com/balsamq/balsa/internal/vfs"
	"github.com/balsamq/balsa/raft"
)

const (
	blockHeaderSize = 48
	blockMagic      = 0xBA4B4C01 // above MaxFrameSize on purpose: see doc.go
	// maxPad bounds the padding between a block's header and its frames.
	maxPad = vfs.DirectUnit - 1
	// SegmentHeaderSize is where a segment file's first block begins.
	SegmentHeaderSize = 72
	segmentMagic      = 0xBA534701
	segmentVersion    = 1
	paddedVersion     = 2 // its blocks may have padding

	// maxBlockBytes bounds the frames of a block, unless a single frame is larger.
	maxBlockBytes = 1 << 20
	// maxBlockLength is what a reader accepts as a block's length.
	maxBlockLength = maxBlockBytes + MaxFrameSize
)

var errBadBlock = errors.New("bad block")

type blockHeader struct {
	pad        uint32
	count      uint32
	length     uint32
	digest     uint32
	generation uint64
	first      raft.Index
	synced     raft.Index
}

func (h *blockHeader) encode(group raft.GroupID, b []byte) {
	_ = b[blockHeaderSize-1]
	binary.LittleEndian.PutUint32(b[0:], blockMagic)
	binary.LittleEndian.PutUint32(b[8:], h.pad)
	binary.LittleEndian.PutUint32(b[12:], h.count)
	binary.LittleEndian.PutUint32(b[16:], h.length)
	binary.LittleEndian.PutUint32(b[20:], h.digest)
	binary.LittleEndian.PutUint64(b[24:], h.generation)
	binary.LittleEndian.PutUint64(b[32:], uint64(h.first))
	binary.LittleEndian.PutUint64(b[40:], uint64(h.synced))
	binary.LittleEndian.PutUint32(b[4:], crc32.Update(groupSeed(group)^blockMagic, castagnoli, b[8:blockHeaderSize]))
}

func decodeBlockHeader(group raft.GroupID, b []byte) (blockHeader, error) {
	var h blockHeader
	if len(b) < blockHeaderSize {
		return h, fmt.Errorf("%w: header cut short", errBadBlock)
	}
	b = b[:blockHeaderSize]
	if m := binary.LittleEndian.Uint32(b); m != blockMagic {
		return h, fmt.Errorf("%w: magic %#08x", errBadBlock, m)
	}
	if binary.LittleEndian.Uint32(b[4:]) != crc32.Update(groupSeed(group)^blockMagic, castagnoli, b[8:]) {
		return h, fmt.Errorf("%w: header checksum", errBadBlock)
	}
	h = blockHeader{
		pad:        binary.LittleEndian.Uint32(b[8:]),
		count:      binary.LittleEndian.Uint32(b[12:]),
		length:     binary.LittleEndian.Uint32(b[16:]),
		digest:     binary.LittleEndian.Uint32(b[20:]),
		generation: binary.LittleEndian.Uint64(b[24:]),
		first:      raft.Index(binary.LittleEndian.Uint64(b[32:])),
		synced:     raft.Index(binary.LittleEndian.Uint64(b[40:])),
	}
	switch {
	case h.pad > maxPad || h.pad != 0 && h.count == 0:
		return h, fmt.Errorf("%w: padding of %d bytes before %d frames", errBadBlock, h.pad, h.count)
	case h.length > maxBlockLength || uint64(h.count)*FrameHeaderSize > uint64(h.length) || (h.count == 0) != (h.length == 0):
		return h, fmt.Errorf("%w: %d frames in %d bytes", errBadBlock, h.count, h.length)
	case h.first == 0 || h.first > maxIndex || h.synced >= h.first:
		return h, fmt.Errorf("%w: first index %d, synced %d", errBadBlock, h.first, h.synced)
	}
	return h, nil
}

// body is where the frames are, from the header's first byte on.
func (h *blockHeader) body() int { return blockHeaderSize + int(h.pad) }

// digestFrame adds a frame to a block's digest.
func digestFrame(d uint32, frame []byte) uint32 { return crc32.Update(d, castagnoli, frame[:8]) }

// decodeBlock verifies the frames of the block whose header is h and hands them out in order. Terms never fall, and
// indexes and offsets go on from prev without a gap. body is exactly h.length bytes. Entries above upTo are void: what
// stands there is neither looked at nor handed out.
func decodeBlock(group raft.GroupID, h *blockHeader, body []byte, term raft.Term, next Offset, upTo raft.Index,
	yield func(at int, r *record),
) error {
	var digest uint32
	at := 0
	index := h.first
	recs := make([]record, 0, h.count)
	for range h.count {
		if index > upTo {
			break
		}
		if len(body)-at < FrameHeaderSize {
			return fmt.Errorf("%w: frames end early", errBadBlock)
		}
		n := int(binary.LittleEndian.Uint32(body[at:]))
		if n < FrameHeaderSize || n > len(body)-at {
			return fmt.Errorf("%w: frame of %d bytes in the last %d of the block", errBadBlock, n, len(body)-at)
		}
		r, err := decodeFrame(group, body[at:at+n])
		if err != nil {
			return err
		}
		if r.Index != index || r.Term < term || r.base != next {
			return fmt.Errorf("%w: frame (term %d, index %d, offset %d) where (≥%d, %d, %d) belongs",
				errBadBlock, r.Term, r.Index, r.base, term, index, next)
		}
		digest = digestFrame(digest, r.Frame)
		recs = append(recs, r)
		index, term, next = index+1, r.Term, r.next()
		at += n
	}
	if index <= upTo && (at != len(body) || digest != h.digest) {
		return fmt.Errorf("%w: frames are not those that the header names", errBadBlock)
	}
	at = 0
	for i := range recs {
		yield(at, &recs[i])
		at += len(recs[i].Frame)
	}
	return nil
}

type segmentHeader struct {
	padded     bool // of paddedVersion
	generation uint64
	first      raft.Index
	base       Offset
	prevTerm   raft.Term
	// The file that holds the entry before first; 0, 0 if there is none.
	prevGeneration uint64
	prevFirst      raft.Index
}

func (h *segmentHeader) encode(group raft.GroupID) []byte {
	b := make([]byte, SegmentHeaderSize)
	binary.LittleEndian.PutUint32(b[0:], segmentMagic)
	version := uint16(segmentVersion)
	if h.padded {
		version = paddedVersion
	}
	binary.LittleEndian.PutUint16(b[8:], version)
	binary.LittleEndian.PutUint64(b[16:], uint64(group))
	binary.LittleEndian.PutUint64(b[24:], h.generation)
	binary.LittleEndian.PutUint64(b[32:], uint64(h.first))
	binary.LittleEndian.PutUint64(b[40:], uint64(h.base))
	binary.LittleEndian.PutUint64(b[48:], uint64(h.prevTerm))
	binary.LittleEndian.PutUint64(b[56:], h.prevGeneration)
	binary.LittleEndian.PutUint64(b[64:], uint64(h.prevFirst))
	binary.LittleEndian.PutUint32(b[4:], crc32.Update(groupSeed(group)^segmentMagic, castagnoli, b[8:]))
	return b
}

func decodeSegmentHeader(group raft.GroupID, b []byte) (segmentHeader, error) {
	var h segmentHeader
	bad := func(format string, args ...any) (segmentHeader, error) {
		return h, fmt.Errorf("bad segment header: "+format, args...)
	}
	if len(b) < SegmentHeaderSize {
		return bad("%d bytes", len(b))
	}
	b = b[:SegmentHeaderSize]
	if m := binary.LittleEndian.Uint32(b); m != segmentMagic {
		return bad("magic %#08x", m)
	}
	if g := binary.LittleEndian.Uint64(b[16:]); g != uint64(group) {
		return bad("group %d, expected %d", g, group)
	}
	if binary.LittleEndian.Uint32(b[4:]) != crc32.Update(groupSeed(group)^segmentMagic, castagnoli, b[8:]) {
		return bad("checksum")
	}
	v := binary.LittleEndian.Uint16(b[8:])
	if v != segmentVersion && v != paddedVersion {
		return bad("%w: version %d, this program knows %d and %d", ErrVersion, v, segmentVersion, paddedVersion)
	}
	if f := binary.LittleEndian.Uint16(b[10:]); f != 0 || binary.LittleEndian.Uint32(b[12:]) != 0 {
		return bad("unknown flags %#x", f)
	}
	h = segmentHeader{
		padded:     v == paddedVersion,
		generation: binary.LittleEndian.Uint64(b[24:]),
		first:      raft.Index(binary.LittleEndian.Uint64(b[32:])),
		base:       Offset(binary.LittleEndian.Uint64(b[40:])),
		prevTerm:   raft.Term(binary.LittleEndian.Uint64(b[48:])),

		prevGeneration: binary.LittleEndian.Uint64(b[56:]),
		prevFirst:      raft.Index(binary.LittleEndian.Uint64(b[64:])),
	}
	if h.first == 0 || h.first > maxIndex || h.base < 0 || uint64(h.base) > maxOffset || h.prevTerm > raft.MaxTerm ||
		h.prevFirst >= h.first || h.prevGeneration >= h.generation && h.prevFirst != 0 {
		return bad("first index %d, base offset %d, previous term %d", h.first, h.base, h.prevTerm)
	}
	return h, nil
}

const (
	segmentSuffix = ".log"
	indexSuffix   = ".idx"
	tipSuffix     = ".tip"
	tempSuffix    = ".tmp"
	damagedPrefix = "damaged-"
	metaName      = "meta"
	emptyName     = "empty"
	snapshotName  = "snapshot"
	partName      = "snapshot.part"
	checkpoints   = "checkpoint-" // and the index
)

func segmentName(first raft.Index, generation uint64) string {
	return fmt.Sprintf("%020d-%08x%s", uint64(first), generation, segmentSuffix)
}

func parseSegmentName(name string) (first raft.Index, generation uint64, ok bool) {
	name, ok = strings.CutSuffix(name, segmentSuffix)
	a, b, ok2 := strings.Cut(name, "-")
	if !ok || !ok2 || len(a) != 20 || len(b) < 8 {
		return 0, 0, false
	}
	f, err1 := strconv.ParseUint(a, 10, 64)
	g, err2 := strconv.ParseUint(b, 16, 64)
	if err1 != nil || err2 != nil || f == 0 || raft.Index(f) > maxIndex {
		return 0, 0, false
	}
	return raft.Index(f), g, true
}

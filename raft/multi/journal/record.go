// The journal's record format: what each payload of the underlying tidwall/wal file carries, so that a record can be
// trusted by itself. tidwall/wal frames an entry with nothing but a length; everything that tells a whole record from a
// torn, zeroed, stale or foreign one is in here.

package journal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"github.com/balsamq/balsa/raft"
)

// A payload, little endian:
//
//	 0  magic "BHJ"
//	 3  version (1)
//	 4  kind
//	 5  flags, reserved: 0
//	 6  reserved: 0 (2 bytes)
//	 8  length of the body (4)
//	12  journal id (8): random, made with the journal; a file of another journal never passes
//	20  sequence (8): equal to the entry's index in tidwall/wal, which is nowhere in its files but in their names
//	28  synced (8): the last sequence known to be durable when this record was written
//	36  CRC32C over bytes 0..36 and the body (4)
//	40  body
//
// The synced mark is what tells a torn tail from damage: bad bytes where a later, good record says "that was durable"
// are damage; bad bytes that nobody vouches for are a write that never finished.
const (
	recordMagic   = "BHJ"
	recordVersion = 1
	headerLen     = 40
	stateLen      = 20 // group (8), term (4: it fits an int32), group epoch (4), vote (4)

	// MaxChunkStates bounds the states in one record of a checkpoint.
	MaxChunkStates = 1024
	// MaxPayload bounds a payload; anything larger in a file is not ours.
	MaxPayload = headerLen + 4 + MaxChunkStates*stateLen
)

type recordKind uint8

const (
	kindState  recordKind = 1 // body: one state
	kindDelete recordKind = 2 // body: a group
	kindBegin  recordKind = 3 // a checkpoint begins; body: number of states in all (4)
	kindChunk  recordKind = 4 // body: count (4), states
	kindEnd    recordKind = 5 // a checkpoint is complete; body: number of states in all (4)
	kindMark   recordKind = 6 // nothing but its synced mark, written when the journal falls idle
)

type record struct {
	kind   recordKind
	id     uint64
	seq    uint64
	synced uint64
	body   []byte // aliases what it was decoded from
}

type groupState struct {
	group raft.GroupID
	hs    raft.HardState
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

var (
	errBadRecord  = errors.New("not a record")
	errNewVersion = errors.New("written by a newer version")
)

func recordCRC(p []byte) uint32 {
	return crc32.Update(crc32.Checksum(p[:36], castagnoli), castagnoli, p[headerLen:])
}

func appendRecord(dst []byte, r record) []byte {
	start := len(dst)
	dst = append(dst, recordMagic...)
	dst = append(dst, recordVersion, byte(r.kind), 0, 0, 0)
	dst = binary.LittleEndian.AppendUint32(dst, uint32(len(r.body)))
	dst = binary.LittleEndian.AppendUint64(dst, r.id)
	dst = binary.LittleEndian.AppendUint64(dst, r.seq)
	dst = binary.LittleEndian.AppendUint64(dst, r.synced)
	dst = append(dst, 0, 0, 0, 0)
	dst = append(dst, r.body...)
	p := dst[start:]
	binary.LittleEndian.PutUint32(p[36:], recordCRC(p))
	return dst
}

// decodeRecord reads one record from the front of p, which may go on behind it, and returns its length.
// errNewVersion: the checksum is right, but the record means something that this version does not know; such bytes are
// neither torn nor damaged and must never be cut.
func decodeRecord(p []byte) (record, int, error) {
	if len(p) < headerLen || string(p[:3]) != recordMagic {
		return record{}, 0, errBadRecord
	}
	n := binary.LittleEndian.Uint32(p[8:])
	if n > MaxPayload-headerLen || int(n) > len(p)-headerLen {
		return record{}, 0, errBadRecord
	}
	p = p[:headerLen+int(n)]
	if binary.LittleEndian.Uint32(p[36:]) != recordCRC(p) {
		return record{}, 0, errBadRecord
	}
	r := record{
		kind:   recordKind(p[4]),
		id:     binary.LittleEndian.Uint64(p[12:]),
		seq:    binary.LittleEndian.Uint64(p[20:]),
		synced: binary.LittleEndian.Uint64(p[28:]),
		body:   p[headerLen:],
	}
	if p[3] != recordVersion || p[5] != 0 || p[6] != 0 || p[7] != 0 {
		return r, len(p), fmt.Errorf("%w: version %d, flags %x", errNewVersion, p[3], p[5:8])
	}
	want := -1
	switch r.kind {
	case kindState:
		want = stateLen
	case kindDelete:
		want = 8
	case kindBegin, kindEnd:
		want = 4
	case kindMark:
		want = 0
	case kindChunk:
		if n < 4 {
			return record{}, 0, errBadRecord
		}
		count := binary.LittleEndian.Uint32(r.body)
		if count > MaxChunkStates {
			return record{}, 0, errBadRecord
		}
		want = 4 + int(count)*stateLen
	default:
		return r, len(p), fmt.Errorf("%w: record kind %d", errNewVersion, r.kind)
	}
	if int(n) != want || r.seq == 0 || r.synced >= r.seq {
		return record{}, 0, errBadRecord
	}
	return r, len(p), nil
}

func appendState(dst []byte, s groupState) []byte {
	dst = binary.LittleEndian.AppendUint64(dst, uint64(s.group))
	dst = binary.LittleEndian.AppendUint32(dst, uint32(s.hs.Term))
	dst = binary.LittleEndian.AppendUint32(dst, uint32(s.hs.Epoch))
	return binary.LittleEndian.AppendUint32(dst, uint32(s.hs.Vote))
}

// decodeState reads stateLen bytes.
func decodeState(p []byte) groupState {
	return groupState{
		group: raft.GroupID(binary.LittleEndian.Uint64(p)),
		hs: raft.HardState{
			Term:  raft.Term(binary.LittleEndian.Uint32(p[8:])),
			Epoch: raft.GroupEpoch(binary.LittleEndian.Uint32(p[12:])),
			Vote:  raft.NodeID(binary.LittleEndian.Uint32(p[16:])),
		},
	}
}

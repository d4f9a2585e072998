// The record batch, format v2 (magic 2), as a view over its bytes. Nothing is decoded that is not asked for.
//
//	offset size field
//	     0    8 base offset                 stamped by the leader ┐ before the CRC's range, so that stamping
//	     8    4 length of what follows                            │ costs no CRC
//	    12    4 partition leader epoch      stamped by the leader ┘
//	    16    1 magic = 2
//	    17    4 CRC32C of everything from 21 on
//	    21    2 attributes: 0-2 codec, 3 timestamp type, 4 transactional, 5 control, 6 delete horizon
//	    23    4 last offset delta
//	    27    8 base timestamp
//	    35    8 max timestamp
//	    43    8 producer id                 -1: none
//	    51    2 producer epoch
//	    53    4 base sequence
//	    57    4 record count
//	    61      records, compressed as a whole if there is a codec
//
// The older formats (magic 0 and 1) place their magic at the same byte, which is how they are recognised and refused.

package protocol

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"iter"
	"math"
)

// BatchHeaderSize is the size of a batch without records, and so the smallest there is.
const BatchHeaderSize = 61

// batchPrefix is what stands before the range that the length field counts.
const batchPrefix = 12

const (
	offLength      = 8
	offEpoch       = 12
	offMagic       = 16
	offCRC         = 17
	offAttributes  = 21
	offLastDelta   = 23
	offBaseTime    = 27
	offMaxTime     = 35
	offProducerID  = 43
	offProdEpoch   = 51
	offSequence    = 53
	offRecordCount = 57
)

const (
	attrCodec         = 0x07
	attrLogAppendTime = 0x08
	attrTransactional = 0x10
	attrControl       = 0x20
	attrDeleteHorizon = 0x40
)

var (
	// ErrTruncated: the bytes end within a batch or a record.
	ErrTruncated = errors.New("record batch is truncated")
	// ErrMagic: not format v2. Magic 0 and 1 are what clients before Kafka 0.11 write.
	ErrMagic = errors.New("unsupported record format")
	// ErrCRC: the batch's bytes are not the ones that the producer sent.
	ErrCRC = errors.New("record batch CRC does not match")
	// ErrBatch: a batch whose fields contradict each other.
	ErrBatch = errors.New("invalid record batch")
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Batch is exactly one record batch: len(b) is the size that its own length field names. Get one from NextBatch or
// ParseBatch; on other bytes the methods may panic.
type Batch []byte

// NextBatch splits the first batch off blob; both parts alias it. It checks the length and the magic, so that the
// fields can be read, and nothing else: see Check and CheckCRC.
func NextBatch(blob []byte) (b Batch, rest []byte, err error) {
	if len(blob) <= offMagic {
		return nil, nil, fmt.Errorf("%w: %d bytes", ErrTruncated, len(blob))
	}
	// The magic comes first: in the old formats what follows is laid out differently.
	if m := blob[offMagic]; m != 2 {
		return nil, nil, fmt.Errorf("%w: magic %d", ErrMagic, int8(m))
	}
	n := int64(int32(binary.BigEndian.Uint32(blob[offLength:]))) + batchPrefix
	if n < BatchHeaderSize {
		return nil, nil, fmt.Errorf("%w: length field gives %d bytes", ErrBatch, n)
	}
	if n > int64(len(blob)) {
		return nil, nil, fmt.Errorf("%w: %d bytes of %d", ErrTruncated, len(blob), n)
	}
	return Batch(blob[:n:n]), blob[n:], nil
}

// ParseBatch is NextBatch for bytes that must hold one batch and nothing else.
func ParseBatch(blob []byte) (Batch, error) {
	b, rest, err := NextBatch(blob)
	if err != nil {
		return nil, err
	}
	if len(rest) != 0 {
		return nil, fmt.Errorf("%w: %d bytes after the batch", ErrBatch, len(rest))
	}
	return b, nil
}

// Batches iterates over the batches in blob without copying. It ends after the first error.
func Batches(blob []byte) iter.Seq2[Batch, error] {
	return func(yield func(Batch, error) bool) {
		for len(blob) > 0 {
			b, rest, err := NextBatch(blob)
			if !yield(b, err) || err != nil {
				return
			}
			blob = rest
		}
	}
}

func (b Batch) BaseOffset() int64  { return int64(binary.BigEndian.Uint64(b)) }
func (b Batch) LeaderEpoch() int32 { return int32(binary.BigEndian.Uint32(b[offEpoch:])) }
func (b Batch) CRC() uint32        { return binary.BigEndian.Uint32(b[offCRC:]) }
func (b Batch) Attributes() int16  { return int16(binary.BigEndian.Uint16(b[offAttributes:])) }
func (b Batch) LastOffsetDelta() int32 {
	return int32(binary.BigEndian.Uint32(b[offLastDelta:]))
}
func (b Batch) BaseTimestamp() int64 { return int64(binary.BigEndian.Uint64(b[offBaseTime:])) }

// MaxTimestamp is the largest timestamp of any record, in milliseconds; under LogAppendTime it is every record's.
func (b Batch) MaxTimestamp() int64  { return int64(binary.BigEndian.Uint64(b[offMaxTime:])) }
func (b Batch) ProducerID() int64    { return int64(binary.BigEndian.Uint64(b[offProducerID:])) }
func (b Batch) ProducerEpoch() int16 { return int16(binary.BigEndian.Uint16(b[offProdEpoch:])) }
func (b Batch) BaseSequence() int32  { return int32(binary.BigEndian.Uint32(b[offSequence:])) }
func (b Batch) RecordCount() int32   { return int32(binary.BigEndian.Uint32(b[offRecordCount:])) }

// RecordBytes are the records as they stand in the batch, compressed if it has a codec.
func (b Batch) RecordBytes() []byte { return b[BatchHeaderSize:] }

func (b Batch) Codec() Codec        { return Codec(b.Attributes() & attrCodec) }
func (b Batch) LogAppendTime() bool { return b.Attributes()&attrLogAppendTime != 0 }
func (b Batch) Transactional() bool { return b.Attributes()&attrTransactional != 0 }

// Control says that the batch is a marker (end of a transaction, a leader change), which only brokers write.
func (b Batch) Control() bool { return b.Attributes()&attrControl != 0 }

// DeleteHorizon says that the base timestamp holds the time at which compaction may drop the tombstones (KIP-534).
func (b Batch) DeleteHorizon() bool { return b.Attributes()&attrDeleteHorizon != 0 }

// HasProducer says that the batch takes part in duplicate detection.
func (b Batch) HasProducer() bool { return b.ProducerID() >= 0 }

// LastOffset and NextOffset count by the last offset delta, which compaction keeps, not by the number of records.
func (b Batch) LastOffset() int64 { return b.BaseOffset() + int64(b.LastOffsetDelta()) }
func (b Batch) NextOffset() int64 { return b.LastOffset() + 1 }

// LastSequence is the sequence of the last record. Sequences wrap from 2³¹-1 to 0.
func (b Batch) LastSequence() int32 { return AddSequence(b.BaseSequence(), b.LastOffsetDelta()) }

// AddSequence is seq+n in producer sequence arithmetic, n >= 0.
func AddSequence(seq, n int32) int32 {
	return int32((int64(seq) + int64(n)) & math.MaxInt32)
}

// SetBaseOffset and SetLeaderEpoch are what the leader stamps; the CRC stays valid.
func (b Batch) SetBaseOffset(o int64)  { binary.BigEndian.PutUint64(b, uint64(o)) }
func (b Batch) SetLeaderEpoch(e int32) { binary.BigEndian.PutUint32(b[offEpoch:], uint32(e)) }
func (b Batch) setAttributes(a int16)  { binary.BigEndian.PutUint16(b[offAttributes:], uint16(a)) }
func (b Batch) SetProducer(id int64, epoch int16, sequence int32) {
	binary.BigEndian.PutUint64(b[offProducerID:], uint64(id))
	binary.BigEndian.PutUint16(b[offProdEpoch:], uint16(epoch))
	binary.BigEndian.PutUint32(b[offSequence:], uint32(sequence))
	b.UpdateCRC()
}

// SetLogAppendTime makes ts (milliseconds) the time of every record and renews the CRC.
func (b Batch) SetLogAppendTime(ts int64) {
	b.setAttributes(b.Attributes() | attrLogAppendTime)
	binary.BigEndian.PutUint64(b[offMaxTime:], uint64(ts))
	b.UpdateCRC()
}

// SetCreateTime clears the client's LogAppendTime bit, if it set it: the type of timestamps is the topic's to decide.
// max becomes the maximum timestamp. The CRC is renewed only if something changed.
func (b Batch) SetCreateTime(max int64) {
	if !b.LogAppendTime() && b.MaxTimestamp() == max {
		return
	}
	b.setAttributes(b.Attributes() &^ attrLogAppendTime)
	binary.BigEndian.PutUint64(b[offMaxTime:], uint64(max))
	b.UpdateCRC()
}

// ComputeCRC is what the CRC field should hold.
func (b Batch) ComputeCRC() uint32 { return crc32.Checksum(b[offAttributes:], castagnoli) }

// UpdateCRC renews the CRC field after a change within its range.
func (b Batch) UpdateCRC() { binary.BigEndian.PutUint32(b[offCRC:], b.ComputeCRC()) }

// CheckCRC returns ErrCRC if the bytes are not what the producer sent.
func (b Batch) CheckCRC() error {
	if want, got := b.CRC(), b.ComputeCRC(); want != got {
		return fmt.Errorf("%w: stored %08x, computed %08x", ErrCRC, want, got)
	}
	return nil
}

// Check holds the header's fields against each other, as a broker does for a batch from a client: it costs nothing
// that grows with the batch. It does not look at the records, the CRC, or what depends on the topic. Errors wrap
// ErrBatch or ErrCodec.
func (b Batch) Check() error {
	count, last := b.RecordCount(), b.LastOffsetDelta()
	switch {
	case count <= 0:
		// Only compaction leaves empty batches behind; a client has no reason to send one.
		return fmt.Errorf("%w: %d records", ErrBatch, count)
	case last != count-1:
		return fmt.Errorf("%w: %d records with last offset delta %d", ErrBatch, count, last)
	case b.Codec() > CodecZstd:
		return fmt.Errorf("%w: %d", ErrCodec, b.Codec())
	case b.Codec() == CodecNone && int64(count)*minRecord > int64(len(b.RecordBytes())):
		return fmt.Errorf("%w: %d records in %d bytes", ErrBatch, count, len(b.RecordBytes()))
	case b.Transactional() && !b.HasProducer():
		return fmt.Errorf("%w: transactional without a producer id", ErrBatch)
	case b.HasProducer() && (b.ProducerEpoch() < 0 || b.BaseSequence() < 0) && !b.Control():
		return fmt.Errorf("%w: producer %d with epoch %d and sequence %d", ErrBatch, b.ProducerID(), b.ProducerEpoch(), b.BaseSequence())
	case b.BaseOffset() < 0 || b.BaseOffset() > math.MaxInt64-int64(last)-1:
		// Clients send 0. (A mirroring producer may send others; they are overwritten.)
		return fmt.Errorf("%w: base offset %d", ErrBatch, b.BaseOffset())
	}
	return nil
}

// Batches made of batches: with another codec, or with fewer records. Offsets, times, producer and sequences stay.

package protocol

import (
	"encoding/binary"
	"fmt"
	"math"
)

// WithRecords is a new batch with b's header and the given record bytes, compressed anew. raw must be what [Batch.Inflate]
// returned: what the header says of the records must stay true.
func (b Batch) WithRecords(raw []byte, c Compression) Batch {
	body := c.Deflate(raw)
	out := Batch(append(append(make([]byte, 0, BatchHeaderSize+len(body)), b[:BatchHeaderSize]...), body...))
	binary.BigEndian.PutUint32(out[offLength:], uint32(len(out)-batchPrefix))
	out.setAttributes(out.Attributes()&^attrCodec | int16(c.Codec))
	out.UpdateCRC()
	return out
}

// Retain is b with only those of its records that keep wants, in its own codec; raw is what [Batch.Inflate] returned. As after
// Kafka's cleaner the offsets of what is left are what they were, and the batch still spans those of what is not; a batch
// without records is a header. The maximum timestamp is that of what is left, -1 for nothing.
//
// horizon, unless negative, becomes the time (milliseconds) after which tombstones and markers in the batch may go, for those
// who clean next: KIP-534. It takes the place of the base timestamp, and the records' times are counted from there.
func (b Batch) Retain(raw []byte, horizon int64, keep func(*Record) bool) (Batch, error) {
	var (
		body, one []byte
		count     int32
		newest    = int64(-1)
		base      = b.BaseTimestamp()
	)
	if horizon >= 0 {
		base = horizon
	}
	rest := raw
	for r, err := range b.RecordsIn(raw) {
		if err != nil {
			return nil, err
		}
		size, n := varint(rest)
		whole := rest[:n+int(size)] // RecordsIn has been through it
		rest = rest[len(whole):]
		if !keep(r) {
			continue
		}
		count++
		newest = max(newest, r.Timestamp)
		if base == b.BaseTimestamp() {
			body = append(body, whole...)
			continue
		}
		delta, m := varint(whole[n+1:])
		one = append(one[:0], whole[n])
		one = binary.AppendVarint(one, b.BaseTimestamp()+delta-base)
		one = append(one, whole[n+1+m:]...)
		body = append(binary.AppendVarint(body, int64(len(one))), one...)
	}
	header := Batch(append([]byte(nil), b[:BatchHeaderSize]...))
	c := Compression{Codec: b.Codec()}
	if count == 0 {
		return b.Emptied(), nil
	}
	if horizon >= 0 {
		header.setAttributes(header.Attributes() | attrDeleteHorizon)
	}
	if b.LogAppendTime() {
		newest = b.MaxTimestamp()
	}
	binary.BigEndian.PutUint64(header[offBaseTime:], uint64(base))
	binary.BigEndian.PutUint64(header[offMaxTime:], uint64(newest))
	binary.BigEndian.PutUint32(header[offRecordCount:], uint32(count))
	out := header.WithRecords(body, c)
	if len(out) > len(b) && horizon < 0 {
		// Compression may do worse on less. The bound on a batch's size is the topic's, and b was within it.
		if plain := header.WithRecords(body, Compression{}); len(plain) < len(out) {
			out = plain
		}
	}
	if err := out.checkRetained(b); err != nil {
		return nil, err
	}
	return out, nil
}

// Emptied is b without its records: the offsets that they took are still spanned, and the producer's sequence is still said.
func (b Batch) Emptied() Batch {
	out := Batch(append([]byte(nil), b[:BatchHeaderSize]...))
	out.setAttributes(out.Attributes() &^ attrDeleteHorizon)
	binary.BigEndian.PutUint64(out[offBaseTime:], math.MaxUint64) // -1: no time
	binary.BigEndian.PutUint64(out[offMaxTime:], math.MaxUint64)
	binary.BigEndian.PutUint32(out[offRecordCount:], 0)
	return out.WithRecords(nil, Compression{})
}

// checkRetained asserts what must be so whatever is taken out of a batch.
func (b Batch) checkRetained(of Batch) error {
	if b.BaseOffset() != of.BaseOffset() || b.NextOffset() != of.NextOffset() || b.RecordCount() > of.RecordCount() || b.ProducerID() != of.ProducerID() {
		return fmt.Errorf("%w: %d records of offsets [%d, %d) became %d of [%d, %d)", ErrBatch, of.RecordCount(), of.BaseOffset(), of.NextOffset(),
			b.RecordCount(), b.BaseOffset(), b.NextOffset())
	}
	return nil
}

// Records inside a batch: reading them one by one, for the features that ask for keys, times or values, and building a
// batch from records, for what the broker itself writes. Produce and fetch do neither.

package protocol

import (
	"encoding/binary"
	"fmt"
	"iter"
	"math"
)

// minRecord is the shortest record: length, attributes, timestamp delta, offset delta, key length, value length and
// header count of one byte each.
const minRecord = 7

// Header is a record's header. A nil Value is null.
type Header struct {
	Key   string
	Value []byte
}

// Record is one record. A nil Key or Value is null, an empty one is empty. From a batch, the slices alias the
// (decompressed) batch.
type Record struct {
	Offset    int64
	Timestamp int64 // milliseconds since 1970
	Key       []byte
	Value     []byte
	Headers   []Header
}

// Records iterates over the batch's records. inf decompresses and may be nil if the codec is none. The record is
// reused from step to step; its slices are not. It ends after the first error, which wraps ErrTruncated, ErrBatch,
// ErrCodec or ErrInflate; if count and content differ, that is an error too.
func (b Batch) Records(inf *Inflater) iter.Seq2[*Record, error] {
	return func(yield func(*Record, error) bool) {
		p, err := b.Inflate(inf)
		if err != nil {
			yield(nil, err)
			return
		}
		for r, err := range b.RecordsIn(p) {
			if !yield(r, err) {
				return
			}
		}
	}
}

// Inflate returns the record bytes as they were before they were compressed: to look at them more than once. Without a codec
// they are the batch's own. inf may be nil then.
func (b Batch) Inflate(inf *Inflater) ([]byte, error) {
	c := b.Codec()
	switch {
	case c == CodecNone:
		return b.RecordBytes(), nil
	case inf == nil:
		return nil, fmt.Errorf("%w: %v without an inflater", ErrCodec, c)
	}
	return inf.Inflate(c, b.RecordBytes())
}

// RecordsIn is Records over what Inflate returned.
func (b Batch) RecordsIn(p []byte) iter.Seq2[*Record, error] {
	return func(yield func(*Record, error) bool) {
		var r Record
		for i := range b.RecordCount() {
			rest, err := b.readRecord(p, &r)
			if err != nil {
				yield(nil, fmt.Errorf("record %d: %w", i, err))
				return
			}
			if b.LogAppendTime() {
				r.Timestamp = b.MaxTimestamp()
			}
			if !yield(&r, nil) {
				return
			}
			p = rest
		}
		if len(p) != 0 {
			yield(nil, fmt.Errorf("%w: %d bytes after the last record", ErrBatch, len(p)))
		}
	}
}

func (b Batch) readRecord(p []byte, r *Record) (rest []byte, err error) {
	size, n := varint(p)
	if n <= 0 || size < minRecord-1 || size > math.MaxInt32 {
		return nil, fmt.Errorf("%w: record length", ErrBatch)
	}
	if size > int64(len(p)-n) {
		return nil, fmt.Errorf("%w: record of %d bytes in %d", ErrTruncated, size, len(p)-n)
	}
	rest = p[n+int(size):]
	d := decoder{p: p[n : n+int(size)]}
	d.skip(1) // attributes: unused
	r.Timestamp = b.BaseTimestamp() + d.varlong()
	r.Offset = b.BaseOffset() + d.varlong()
	r.Key = d.bytes()
	r.Value = d.bytes()
	headers := d.varlong()
	r.Headers = r.Headers[:0]
	// A header takes two bytes at least.
	if headers < 0 || headers*2 > int64(len(d.p)) {
		d.bad = true
		headers = 0
	}
	for range headers {
		k := d.bytes()
		if k == nil {
			d.bad = true // a header's key is never null
		}
		v := d.bytes()
		if d.bad {
			break
		}
		r.Headers = append(r.Headers, Header{Key: string(k), Value: v})
	}
	if d.bad || len(d.p) != 0 {
		return nil, fmt.Errorf("%w: malformed record", ErrBatch)
	}
	return rest, nil
}

// decoder reads a record's fields; after a fault it stays bad and gives zeros.
type decoder struct {
	p   []byte
	bad bool
}

func (d *decoder) skip(n int) {
	if len(d.p) < n {
		d.bad, d.p = true, nil
		return
	}
	d.p = d.p[n:]
}

func (d *decoder) varlong() int64 {
	v, n := varint(d.p)
	if n <= 0 {
		d.bad, d.p = true, nil
		return 0
	}
	d.p = d.p[n:]
	return v
}

func (d *decoder) bytes() []byte {
	n := d.varlong()
	switch {
	case n == -1:
		return nil
	case n < 0 || n > int64(len(d.p)):
		d.bad, d.p = true, nil
		return nil
	}
	v := d.p[:n:n]
	d.p = d.p[n:]
	return v
}

// varint is a zigzag varint, as encoding/binary writes it.
func varint(p []byte) (int64, int) { return binary.Varint(p) }

// BatchOptions are the fields of a batch that its records do not determine.
type BatchOptions struct {
	ProducerID    int64 // -1: none. Beware that the zero value is a producer id: start from NewBatchOptions
	ProducerEpoch int16
	BaseSequence  int32
	LeaderEpoch   int32
	Codec         Codec
	Transactional bool
	Control       bool
}

// NewBatchOptions are those of a plain batch: no producer, no codec.
func NewBatchOptions() BatchOptions {
	return BatchOptions{ProducerID: -1, ProducerEpoch: -1, BaseSequence: -1, LeaderEpoch: -1}
}

// BuildBatch makes a batch of records, with a valid CRC. Offsets count up from the first record's; the records' own
// Offset fields after the first are not looked at. There must be a record.
func BuildBatch(records []Record, o BatchOptions) Batch {
	if len(records) == 0 {
		panic("protocol: a batch without records")
	}
	b := make([]byte, BatchHeaderSize, BatchHeaderSize+estimate(records))
	base, maxTime := records[0].Timestamp, records[0].Timestamp
	var body []byte
	for i := range records {
		r := &records[i]
		maxTime = max(maxTime, r.Timestamp)
		body = appendRecord(body[:0], r, r.Timestamp-base, int64(i))
		b = binary.AppendVarint(b, int64(len(body)))
		b = append(b, body...)
	}
	if o.Codec != CodecNone {
		b = append(b[:BatchHeaderSize:BatchHeaderSize], Compression{Codec: o.Codec}.Deflate(b[BatchHeaderSize:])...)
	}
	attr := int16(o.Codec)
	if o.Transactional {
		attr |= attrTransactional
	}
	if o.Control {
		attr |= attrControl
	}
	v := Batch(b)
	v.SetBaseOffset(records[0].Offset)
	v.SetLeaderEpoch(o.LeaderEpoch)
	binary.BigEndian.PutUint32(b[offLength:], uint32(len(b)-batchPrefix))
	b[offMagic] = 2
	v.setAttributes(attr)
	binary.BigEndian.PutUint32(b[offLastDelta:], uint32(len(records)-1))
	binary.BigEndian.PutUint64(b[offBaseTime:], uint64(base))
	binary.BigEndian.PutUint64(b[offMaxTime:], uint64(maxTime))
	binary.BigEndian.PutUint32(b[offRecordCount:], uint32(len(records)))
	v.SetProducer(o.ProducerID, o.ProducerEpoch, o.BaseSequence) // renews the CRC, last
	return v
}

func estimate(records []Record) int {
	n := 0
	for i := range records {
		n += 24 + len(records[i].Key) + len(records[i].Value)
		for _, h := range records[i].Headers {
			n += 8 + len(h.Key) + len(h.Value)
		}
	}
	return n
}

func appendRecord(dst []byte, r *Record, timeDelta, offsetDelta int64) []byte {
	dst = append(dst, 0)
	dst = binary.AppendVarint(dst, timeDelta)
	dst = binary.AppendVarint(dst, offsetDelta)
	dst = appendBytes(dst, r.Key)
	dst = appendBytes(dst, r.Value)
	dst = binary.AppendVarint(dst, int64(len(r.Headers)))
	for _, h := range r.Headers {
		dst = binary.AppendVarint(dst, int64(len(h.Key)))
		dst = append(dst, h.Key...)
		dst = appendBytes(dst, h.Value)
	}
	return dst
}

func appendBytes(dst, v []byte) []byte {
	if v == nil {
		return binary.AppendVarint(dst, -1)
	}
	return append(binary.AppendVarint(dst, int64(len(v))), v...)
}

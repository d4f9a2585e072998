package protocol

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"reflect"
	"slices"
	"testing"

	"github.com/klauspost/compress/s2"
	"github.com/twmb/franz-go/pkg/kmsg"
)

func deflate(c Codec, src []byte) []byte { return Compression{Codec: c}.Deflate(src) }

var someRecords = []Record{
	{Offset: 100, Timestamp: 1_700_000_000_000, Key: []byte("k"), Value: []byte("v"), Headers: []Header{{Key: "h", Value: []byte("x")}, {Key: "null"}}},
	{Offset: 101, Timestamp: 1_700_000_000_009, Value: []byte{}},
	{Offset: 102, Timestamp: 1_700_000_000_003, Key: []byte{}},
	{Offset: 103, Timestamp: 1_700_000_000_003, Value: bytes.Repeat([]byte("payload "), 30)},
}

func collect(t *testing.T, b Batch) ([]Record, error) {
	t.Helper()
	inf := NewInflater(1 << 20)
	defer inf.Close()
	var out []Record
	for r, err := range b.Records(inf) {
		if err != nil {
			return out, err
		}
		c := *r
		c.Headers = slices.Clone(r.Headers)
		if len(c.Headers) == 0 {
			c.Headers = nil
		}
		out = append(out, c)
	}
	return out, nil
}

func TestBatchRoundTrip(t *testing.T) {
	for codec := CodecNone; codec <= CodecZstd; codec++ {
		t.Run(codec.String(), func(t *testing.T) {
			o := NewBatchOptions()
			o.Codec, o.ProducerID, o.ProducerEpoch, o.BaseSequence, o.LeaderEpoch = codec, 9, 2, 40, 7
			b, err := ParseBatch(BuildBatch(someRecords, o))
			if err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(b.Check(), b.CheckCRC()); err != nil {
				t.Fatal(err)
			}
			got, err := collect(t, b)
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got, someRecords) {
				t.Fatalf("got  %+v\nwant %+v", got, someRecords)
			}
			// kmsg reads the same fields in the same places.
			var k kmsg.RecordBatch
			if err := k.ReadFrom(b); err != nil {
				t.Fatal(err)
			}
			if k.FirstOffset != b.BaseOffset() || k.Length != int32(len(b)-12) || k.PartitionLeaderEpoch != b.LeaderEpoch() || k.Magic != 2 ||
				uint32(k.CRC) != b.CRC() || k.Attributes != b.Attributes() || k.LastOffsetDelta != b.LastOffsetDelta() ||
				k.FirstTimestamp != b.BaseTimestamp() || k.MaxTimestamp != b.MaxTimestamp() || k.ProducerID != b.ProducerID() ||
				k.ProducerEpoch != b.ProducerEpoch() || k.FirstSequence != b.BaseSequence() || k.NumRecords != b.RecordCount() ||
				!bytes.Equal(k.Records, b.RecordBytes()) {
				t.Fatalf("kmsg reads %+v", k)
			}
			if b.MaxTimestamp() != 1_700_000_000_009 || b.NextOffset() != 104 || b.LastSequence() != 43 || b.Codec() != codec {
				t.Fatalf("max %d next %d last sequence %d codec %v", b.MaxTimestamp(), b.NextOffset(), b.LastSequence(), b.Codec())
			}
		})
	}
}

func TestStampingKeepsTheCRC(t *testing.T) {
	b := BuildBatch(someRecords, NewBatchOptions())
	b.SetBaseOffset(1 << 40)
	b.SetLeaderEpoch(12)
	if err := b.CheckCRC(); err != nil {
		t.Fatal(err)
	}
	if b.LastOffset() != 1<<40+3 || b.LeaderEpoch() != 12 {
		t.Fatal(b.LastOffset(), b.LeaderEpoch())
	}
	before := b.CRC()
	b.SetLogAppendTime(5)
	if err := b.CheckCRC(); err != nil || b.CRC() == before || !b.LogAppendTime() || b.MaxTimestamp() != 5 {
		t.Fatal(err, b.LogAppendTime(), b.MaxTimestamp())
	}
	got, err := collect(t, b)
	if err != nil || got[0].Timestamp != 5 || got[3].Timestamp != 5 {
		t.Fatalf("%v: LogAppendTime is every record's: %+v", err, got)
	}
	b.SetCreateTime(1_700_000_000_009)
	if err := b.CheckCRC(); err != nil || b.CRC() != before {
		t.Fatal("back to CreateTime, the CRC should be the producer's again", err)
	}
}

func TestCorruptBytesAreFound(t *testing.T) {
	b := BuildBatch(someRecords, NewBatchOptions())
	for i := offCRC; i < len(b); i++ {
		b[i] ^= 0x10
		if err := b.CheckCRC(); !errors.Is(err, ErrCRC) {
			t.Fatalf("a flipped bit at %d: %v", i, err)
		}
		b[i] ^= 0x10
	}
}

func TestBatchRefusals(t *testing.T) {
	good := func() Batch { return BuildBatch(someRecords, NewBatchOptions()) }
	set32 := func(b Batch, at int, v int32) Batch { binary.BigEndian.PutUint32(b[at:], uint32(v)); return b }
	for _, c := range []struct {
		name string
		b    []byte
		want error
	}{
		{"nothing", nil, ErrTruncated},
		{"a header's half", good()[:30], ErrTruncated},
		{"no records at the end", good()[:len(good())-1], ErrTruncated},
		{"bytes after it", append(good(), 0), ErrBatch},
		{"length below a header", set32(good(), offLength, 48), ErrBatch},
		{"negative length", set32(good(), offLength, -1), ErrBatch},
		{"length of 2 GiB", set32(good(), offLength, math.MaxInt32), ErrTruncated},
		{"magic 0", func() []byte { b := good(); b[offMagic] = 0; return b }(), ErrMagic},
		{"magic 1", func() []byte { b := good(); b[offMagic] = 1; return b }(), ErrMagic},
		{"magic 3", func() []byte { b := good(); b[offMagic] = 3; return b }(), ErrMagic},
	} {
		if _, err := ParseBatch(c.b); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
	}
	for _, c := range []struct {
		name string
		b    Batch
		want error
	}{
		{"no records", set32(good(), offRecordCount, 0), ErrBatch},
		{"count and delta differ", set32(good(), offRecordCount, 5), ErrBatch},
		{"negative count", set32(set32(good(), offRecordCount, -4), offLastDelta, -5), ErrBatch},
		{"more records than bytes", set32(set32(good(), offRecordCount, 1<<30), offLastDelta, 1<<30-1), ErrBatch},
		{"codec 5", func() Batch { b := good(); b.setAttributes(5); return b }(), ErrCodec},
		{"transactional without a producer", func() Batch { b := good(); b.setAttributes(attrTransactional); return b }(), ErrBatch},
		{"producer without a sequence", func() Batch { b := good(); b.SetProducer(1, 0, -1); return b }(), ErrBatch},
		{"producer without an epoch", func() Batch { b := good(); b.SetProducer(1, -1, 0); return b }(), ErrBatch},
		{"base offset beyond reason", func() Batch { b := good(); b.SetBaseOffset(math.MaxInt64); return b }(), ErrBatch},
	} {
		if err := c.b.Check(); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
	}
}

func TestBatchesIteratesWithoutCopying(t *testing.T) {
	var blob []byte
	for i := range 5 {
		blob = append(blob, BuildBatch([]Record{{Offset: int64(i), Value: []byte("v")}}, NewBatchOptions())...)
	}
	n := 0
	for b, err := range Batches(blob) {
		if err != nil || b.BaseOffset() != int64(n) {
			t.Fatal(n, err)
		}
		if b.SetLeaderEpoch(3); blob[n*len(b)+offEpoch+3] != 3 {
			t.Fatal("a copy")
		}
		n++
	}
	if n != 5 {
		t.Fatal(n)
	}
	n = 0
	for _, err := range Batches(blob[:len(blob)-1]) {
		if n++; (err != nil) != (n == 5) {
			t.Fatal(n, err)
		}
	}
}

func TestSequenceWraps(t *testing.T) {
	if got := AddSequence(math.MaxInt32, 1); got != 0 {
		t.Error(got)
	}
	if got := AddSequence(math.MaxInt32-1, 3); got != 1 {
		t.Error(got)
	}
	if got := AddSequence(5, 6); got != 11 {
		t.Error(got)
	}
}

func TestInflateBounds(t *testing.T) {
	const limit = 1 << 16
	inf := NewInflater(limit)
	defer inf.Close()
	for codec := CodecGzip; codec <= CodecZstd; codec++ {
		t.Run(codec.String(), func(t *testing.T) {
			fits := bytes.Repeat([]byte("a"), limit)
			got, err := inf.Inflate(codec, deflate(codec, fits))
			if err != nil || !bytes.Equal(got, fits) {
				t.Fatalf("%d bytes at the limit: %v", len(got), err)
			}
			bomb := deflate(codec, make([]byte, 64<<20))
			if _, err := inf.Inflate(codec, bomb); !errors.Is(err, ErrInflate) {
				t.Fatalf("a bomb of %d bytes: %v", len(bomb), err)
			}
			if _, err := inf.Inflate(codec, []byte("this is not compressed")); !errors.Is(err, ErrInflate) {
				t.Fatal(err)
			}
			half := deflate(codec, []byte(fmt.Sprint(t.Name(), make([]byte, 500))))
			if _, err := inf.Inflate(codec, half[:len(half)/2]); !errors.Is(err, ErrInflate) {
				t.Fatal("half a stream:", err)
			}
		})
	}
	if _, err := inf.Inflate(5, nil); !errors.Is(err, ErrCodec) {
		t.Error(err)
	}
}

// The Java client's snappy is framed by xerial's library.
func TestXerialSnappy(t *testing.T) {
	framed := append(slices.Clone(xerial), 0, 0, 0, 1, 0, 0, 0, 1)
	var want []byte
	for i := range 3 {
		part := bytes.Repeat([]byte{byte('a' + i)}, 1000)
		want = append(want, part...)
		block := s2.EncodeSnappy(nil, part)
		framed = binary.BigEndian.AppendUint32(framed, uint32(len(block)))
		framed = append(framed, block...)
	}
	inf := NewInflater(len(want))
	defer inf.Close()
	if got, err := inf.Inflate(CodecSnappy, framed); err != nil || !bytes.Equal(got, want) {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
	if _, err := inf.Inflate(CodecSnappy, framed[:len(framed)-3]); !errors.Is(err, ErrInflate) {
		t.Fatal(err)
	}
	small := NewInflater(len(want) - 1)
	defer small.Close()
	if _, err := small.Inflate(CodecSnappy, framed); !errors.Is(err, ErrInflate) {
		t.Fatal("blocks together exceed the limit:", err)
	}
}

func TestRecordRefusals(t *testing.T) {
	rec := func(body ...byte) []byte { return append(binary.AppendVarint(nil, int64(len(body))), body...) }
	good := rec(0, 0, 0, 1, 1, 0) // null key, null value, no headers
	for name, p := range map[string][]byte{
		"empty":              {},
		"truncated":          good[:4],
		"bytes after":        append(slices.Clone(good), 0),
		"length zero":        {0},
		"negative length":    {1},
		"key beyond the end": rec(0, 0, 0, 100, 1, 0),
		"key length -2":      rec(0, 0, 0, 3, 1, 0),
		"headers -1":         rec(0, 0, 0, 1, 1, 1),
		"headers many":       rec(0, 0, 0, 1, 1, 0x7e),
		"null header key":    rec(0, 0, 0, 1, 1, 2, 1, 1),
		"bytes in record":    rec(0, 0, 0, 1, 1, 0, 0),
	} {
		b := append(BuildBatch([]Record{{}}, NewBatchOptions())[:BatchHeaderSize:BatchHeaderSize], p...)
		binary.BigEndian.PutUint32(b[offLength:], uint32(len(b)-batchPrefix))
		if got, err := collect(t, b); err == nil {
			t.Errorf("%s: read as %+v", name, got)
		}
	}
	b := append(BuildBatch([]Record{{}}, NewBatchOptions())[:BatchHeaderSize:BatchHeaderSize], good...)
	if got, err := collect(t, b); err != nil || len(got) != 1 {
		t.Fatal(got, err) // the pattern that the others break is a good one
	}
}

func FuzzBatch(f *testing.F) {
	for codec := CodecNone; codec <= CodecZstd; codec++ {
		o := NewBatchOptions()
		o.Codec = codec
		f.Add([]byte(BuildBatch(someRecords, o)))
	}
	f.Add(append([]byte(BuildBatch(someRecords[:1], NewBatchOptions())), BuildBatch(someRecords[1:2], NewBatchOptions())...))
	inf := NewInflater(1 << 20)
	f.Fuzz(func(t *testing.T, blob []byte) {
		seen := 0
		for b, err := range Batches(blob) {
			if err != nil {
				break
			}
			seen += len(b)
			valid := b.Check() == nil
			_ = b.CheckCRC()
			n := int32(0)
			var readErr error
			for _, err := range b.Records(inf) {
				if readErr = err; err != nil {
					break
				}
				n++
			}
			if readErr == nil && valid && n != b.RecordCount() {
				t.Fatalf("%d records of %d without an error", n, b.RecordCount())
			}
		}
		if seen > len(blob) {
			t.Fatal("batches larger than the blob")
		}
	})
}

func FuzzInflate(f *testing.F) {
	for codec := CodecGzip; codec <= CodecZstd; codec++ {
		f.Add(int8(codec), deflate(codec, []byte("some words, some words, some words")))
	}
	f.Add(int8(CodecSnappy), append(slices.Clone(xerial), 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0))
	const limit = 1 << 16
	inf := NewInflater(limit)
	f.Fuzz(func(t *testing.T, codec int8, src []byte) {
		out, err := inf.Inflate(Codec(codec), src)
		if err == nil && codec != 0 && len(out) > limit {
			t.Fatalf("%d bytes, the limit is %d", len(out), limit)
		}
	})
}

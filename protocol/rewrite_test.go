package protocol

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
)

// Every level of every codec can be read again, and is what Kafka's own broker would write where that shows.
func TestCompression(t *testing.T) {
	inf := NewInflater(1 << 20)
	defer inf.Close()
	words := make([]byte, 0, 200_000)
	rng := rand.New(rand.NewPCG(1, 2))
	for len(words) < 200_000 {
		words = fmt.Appendf(words, "word%d ", rng.IntN(5000))
	}
	for _, c := range []Compression{{}, {CodecGzip, 0}, {CodecGzip, -1}, {CodecGzip, 1}, {CodecGzip, 9}, {CodecSnappy, 0}, {CodecLZ4, 0}, {CodecLZ4, 1}, {CodecLZ4, 9},
		{CodecLZ4, 17}, {CodecZstd, 0}, {CodecZstd, -131072}, {CodecZstd, 3}, {CodecZstd, 22}} {
		for _, src := range [][]byte{{}, []byte("short"), words} {
			for range 2 { // also with a used writer
				got, err := inf.Inflate(c.Codec, c.Deflate(src))
				if err != nil || !bytes.Equal(got, src) {
					t.Fatalf("%v: %d bytes came back as %d: %v", c, len(src), len(got), err)
				}
			}
		}
		if n := len(c.Deflate(words)); c.Codec != CodecNone && n > len(words)*2/3 {
			t.Errorf("%v: %d of %d bytes", c, n, len(words))
		}
	}
	if best, fast := len(Compression{CodecGzip, 9}.Deflate(words)), len(Compression{CodecGzip, 1}.Deflate(words)); best >= fast {
		t.Errorf("gzip: %d bytes at its best, %d at its fastest", best, fast)
	}
	if !bytes.HasPrefix(Compression{Codec: CodecSnappy}.Deflate(words), xerial) {
		t.Error("snappy without xerial's frame: the Java client's first versions read no other")
	}
	if b := (Compression{Codec: CodecLZ4}).Deflate(words); b[5]>>4&7 != 4 || b[4]&0x20 == 0 || b[4]&4 != 0 {
		t.Errorf("lz4: flags %#x, block size %#x; Kafka reads independent blocks of 64 KiB", b[4], b[5])
	}
}

func TestWithRecords(t *testing.T) {
	for from := CodecNone; from <= CodecZstd; from++ {
		for to := CodecNone; to <= CodecZstd; to++ {
			o := NewBatchOptions()
			o.Codec, o.ProducerID, o.ProducerEpoch, o.BaseSequence, o.Transactional = from, 9, 2, 40, true
			b := BuildBatch(someRecords, o)
			before := slices.Clone(b)
			raw, err := b.Inflate(theInflater(t))
			if err != nil {
				t.Fatal(err)
			}
			got := b.WithRecords(raw, Compression{Codec: to})
			if _, err := ParseBatch(got); err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(got.Check(), got.CheckCRC()); err != nil || got.Codec() != to || !got.Transactional() || got.ProducerID() != 9 || got.BaseSequence() != 40 {
				t.Fatalf("%v to %v: %v, %v, producer %d", from, to, err, got.Codec(), got.ProducerID())
			}
			if records, err := collect(t, got); err != nil || !reflect.DeepEqual(records, someRecords) {
				t.Fatalf("%v to %v: %v %+v", from, to, err, records)
			}
			if !bytes.Equal(b, before) {
				t.Fatalf("%v to %v: the original has changed", from, to)
			}
		}
	}
}

func theInflater(t *testing.T) *Inflater {
	inf := NewInflater(1 << 20)
	t.Cleanup(inf.Close)
	return inf
}

// Any subset, twice, with and without a horizon: what is left is as it was, at the offsets that it had.
func TestRetain(t *testing.T) {
	for codec := CodecNone; codec <= CodecZstd; codec++ {
		for set := range 1 << len(someRecords) {
			for _, horizon := range []int64{-1, 1_700_000_123_456, 5} {
				o := NewBatchOptions()
				o.Codec, o.ProducerID, o.ProducerEpoch, o.BaseSequence, o.LeaderEpoch = codec, 9, 2, 40, 7
				b := BuildBatch(someRecords, o)
				raw, err := b.Inflate(theInflater(t))
				if err != nil {
					t.Fatal(err)
				}
				var want []Record
				newest := int64(-1)
				for i := range someRecords {
					if set>>i&1 != 0 {
						want = append(want, someRecords[i])
						newest = max(newest, someRecords[i].Timestamp)
					}
				}
				got, err := b.Retain(raw, horizon, func(r *Record) bool { return set>>(r.Offset-100)&1 != 0 })
				if err != nil {
					t.Fatal(err)
				}
				check := func(got Batch) {
					t.Helper()
					if _, err := ParseBatch(got); err != nil {
						t.Fatal(err)
					}
					records, err := collect(t, got)
					if err != nil || len(records)+len(want) > 0 && !reflect.DeepEqual(records, want) {
						t.Fatalf("%v, %04b: %v\ngot  %+v\nwant %+v", codec, set, err, records, want)
					}
					if got.CheckCRC() != nil || got.BaseOffset() != 100 || got.NextOffset() != 104 || got.MaxTimestamp() != newest || got.ProducerID() != 9 ||
						got.ProducerEpoch() != 2 || got.LastSequence() != 43 || got.LeaderEpoch() != 7 || int(got.RecordCount()) != len(want) {
						t.Fatalf("%v, %04b: offsets [%d, %d), newest %d of %d, producer %d/%d/%d, %d records", codec, set, got.BaseOffset(), got.NextOffset(),
							got.MaxTimestamp(), newest, got.ProducerID(), got.ProducerEpoch(), got.LastSequence(), got.RecordCount())
					}
					if got.DeleteHorizon() != (horizon >= 0 && len(want) > 0) || got.DeleteHorizon() && got.BaseTimestamp() != horizon {
						t.Fatalf("%v, %04b: horizon %v at %d, want %d", codec, set, got.DeleteHorizon(), got.BaseTimestamp(), horizon)
					}
				}
				check(got)
				// Once more, of what is left one less.
				if raw, err = got.Inflate(theInflater(t)); err != nil {
					t.Fatal(err)
				}
				if len(want) > 0 {
					first := want[0].Offset
					want, newest = want[1:], -1
					for i := range want {
						newest = max(newest, want[i].Timestamp)
					}
					if got, err = got.Retain(raw, -1, func(r *Record) bool { return r.Offset != first }); err != nil {
						t.Fatal(err)
					}
					check(got)
				}
			}
		}
	}
}

// A batch whose records are not what its header says is no batch to take records out of.
func TestRetainOfNonsense(t *testing.T) {
	b := BuildBatch(someRecords, NewBatchOptions())
	if _, err := b.Retain(b.RecordBytes()[:20], -1, func(*Record) bool { return true }); err == nil {
		t.Fatal("half of the records were taken for all")
	}
}

func FuzzRetain(f *testing.F) {
	for codec := CodecNone; codec <= CodecZstd; codec++ {
		o := NewBatchOptions()
		o.Codec = codec
		f.Add([]byte(BuildBatch(someRecords, o)), uint64(5), int64(77))
	}
	inf := NewInflater(1 << 20)
	f.Fuzz(func(t *testing.T, blob []byte, set uint64, horizon int64) {
		b, err := ParseBatch(blob)
		if err != nil || b.Check() != nil {
			return
		}
		raw, err := b.Inflate(inf)
		if err != nil {
			return
		}
		n, kept := 0, 0
		got, err := b.Retain(raw, horizon, func(r *Record) bool {
			n++
			keep := set>>(n%64)&1 != 0
			if keep {
				kept++
			}
			return keep
		})
		if err != nil {
			return
		}
		if _, err := ParseBatch(got); err != nil {
			t.Fatal(err)
		}
		again := 0
		for _, err := range got.Records(inf) {
			if err != nil {
				t.Fatal(err)
			}
			again++
		}
		if again != kept || got.CheckCRC() != nil {
			t.Fatalf("%d records where %d were kept", again, kept)
		}
	})
}

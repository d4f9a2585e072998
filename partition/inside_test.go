package partition

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/balsamq/balsa/protocol"
)

func withCodec(codec protocol.Codec, records ...protocol.Record) protocol.Batch {
	o := protocol.NewBatchOptions()
	o.Codec = codec
	return protocol.BuildBatch(records, o)
}

func keyed(ts int64, key, value string) protocol.Record {
	return protocol.Record{Timestamp: ts, Key: []byte(key), Value: []byte(value)}
}

func TestLookInside(t *testing.T) {
	const now = int64(1_700_000_000_000)
	compact := Settings{Compact: true}.withDefaults()
	bounded := Settings{TimestampBefore: time.Minute}.withDefaults()
	both := Settings{Compact: true, TimestampBefore: time.Minute}.withDefaults()
	gzip := Settings{Compression: Recompression{Enabled: true, Compression: protocol.Compression{Codec: protocol.CodecGzip}}}.withDefaults()
	plainOut := Settings{Compression: Recompression{Enabled: true}, MaxMessageBytes: 2000}.withDefaults()
	null := protocol.Record{Timestamp: now, Value: []byte("v")}
	old := keyed(now-60_001, "k", "v")
	good := keyed(now, "k", "v")
	many := make([]protocol.Record, maxRecordErrors+7)
	for i := range many {
		many[i] = null
	}
	lying := withCodec(protocol.CodecNone, good, good)
	lying[len(lying)-1] ^= 1 // a header that is not there
	gapped := withCodec(protocol.CodecNone, good, good)
	gapped[protocol.BatchHeaderSize+3] = 2 // the offset delta of the first record
	for _, x := range []struct {
		name    string
		b       protocol.Batch
		s       Settings
		want    error
		blamed  []int32
		becomes protocol.Codec
	}{
		{"keys", withCodec(protocol.CodecZstd, good, good), compact, nil, nil, protocol.CodecZstd},
		{"an empty key is a key", withCodec(protocol.CodecNone, keyed(now, "", "v")), compact, nil, nil, protocol.CodecNone},
		{"a tombstone", withCodec(protocol.CodecNone, protocol.Record{Timestamp: now, Key: []byte("k")}), compact, nil, nil, protocol.CodecNone},
		{"null keys", withCodec(protocol.CodecLZ4, good, null, good, null), compact, ErrInvalidRecord, []int32{1, 3}, 0},
		{"null keys, many", withCodec(protocol.CodecGzip, many...), compact, ErrInvalidRecord, nil, 0},
		{"too old in the middle", withCodec(protocol.CodecSnappy, good, old, good), bounded, ErrInvalidTimestamp, []int32{1}, 0},
		{"both faults", withCodec(protocol.CodecNone, old, null), both, ErrInvalidRecord, []int32{0, 1}, 0},
		{"no time at all", withCodec(protocol.CodecNone, keyed(-1, "k", "v")), bounded, nil, nil, protocol.CodecNone},
		{"another codec", withCodec(protocol.CodecSnappy, good, null), gzip, nil, nil, protocol.CodecGzip},
		{"no codec", withCodec(protocol.CodecZstd, good, null), plainOut, nil, nil, protocol.CodecNone},
		{"no codec, and too large so", withCodec(protocol.CodecZstd, keyed(now, "k", strings.Repeat("v", 3000))), plainOut, ErrTooLarge, nil, 0},
		{"not what the header says", lying, compact, ErrInvalidRecord, nil, 0},
		{"offsets out of order", gapped, compact, ErrInvalidRecord, nil, 0},
	} {
		got, _, err := lookInside(x.b, &x.s, now)
		if !errors.Is(err, x.want) {
			t.Errorf("%s: %v, want %v", x.name, err, x.want)
			continue
		}
		re, ok := errors.AsType[*RecordsError](err)
		if x.blamed != nil {
			if !ok || re.Total != len(x.blamed) || len(re.Records) != len(x.blamed) {
				t.Errorf("%s: %+v", x.name, re)
				continue
			}
			for i, r := range re.Records {
				if r.Index != x.blamed[i] || r.Message == "" {
					t.Errorf("%s: %+v", x.name, re)
				}
			}
		}
		if x.name == "null keys, many" && (len(re.Records) != maxRecordErrors || re.Total != len(many)) {
			t.Errorf("%s: %d named of %d", x.name, len(re.Records), re.Total)
		}
		if err != nil {
			continue
		}
		if got.Codec() != x.becomes || got.CheckCRC() != nil || got.RecordCount() != x.b.RecordCount() {
			t.Errorf("%s: %v, %d records", x.name, got.Codec(), got.RecordCount())
		}
		if x.b.Codec() == x.becomes && !bytes.Equal(got, x.b) {
			t.Errorf("%s: the batch has changed", x.name)
		}
	}
}

// KAFKA.md: no record is decoded unless a feature needs it.
func TestOrdinaryBatchesAreNotLookedInto(t *testing.T) {
	gzip := Recompression{Enabled: true, Compression: protocol.Compression{Codec: protocol.CodecGzip}}
	for _, x := range []struct {
		s        Settings
		codec    protocol.Codec
		internal bool
		want     bool
	}{
		{Settings{}, protocol.CodecGzip, false, false},
		{Settings{TimestampType: LogAppendTime, TimestampBefore: time.Minute}, protocol.CodecZstd, false, false},
		{Settings{Compression: gzip}, protocol.CodecGzip, false, false},
		{Settings{Compression: gzip}, protocol.CodecNone, false, true},
		{Settings{Compression: gzip}, protocol.CodecNone, true, false},
		{Settings{Compact: true}, protocol.CodecNone, false, true},
		{Settings{Compact: true}, protocol.CodecNone, true, false},
		{Settings{TimestampBefore: time.Minute}, protocol.CodecNone, false, true},
	} {
		x.s = x.s.withDefaults()
		b := withCodec(x.codec, keyed(1, "k", "v"))
		if got := x.s.looksInside(b, x.internal); got != x.want {
			t.Errorf("%+v, %v: %v", x.s, x.codec, got)
		}
	}
	s := Settings{}.withDefaults()
	b := withCodec(protocol.CodecGzip, keyed(1, "k", "v"))
	if n := testing.AllocsPerRun(100, func() {
		if checkBatch(b, &s, false, time.Now) != nil || s.looksInside(b, false) {
			t.Fatal("an ordinary batch")
		}
	}); n != 0 {
		t.Errorf("the check of an ordinary batch allocates %v times", n)
	}
}

// The leader's decision is in the log, and so on each replica: the same bytes everywhere, whatever the codec and time type.
func TestRecompression(t *testing.T) {
	for codec := protocol.CodecNone; codec <= protocol.CodecZstd; codec++ {
		c := newCluster(t, 3, func(c *Config) {
			c.Settings.Compression = Recompression{Enabled: true, Compression: protocol.Compression{Codec: codec}}
			c.Settings.TimestampType = LogAppendTime
		})
		l := c.leader()
		for from := protocol.CodecNone; from <= protocol.CodecZstd; from++ {
			b := withCodec(from, keyed(5, "k", fmt.Sprint("from ", from)), keyed(6, "k", strings.Repeat("and more ", 100)))
			b.SetProducer(9, 0, 2*int32(from))
			if r := l.produce(b, -1); r.Err != nil || r.LogAppendTime <= 0 || r.BaseOffset != 2*int64(from) {
				t.Fatalf("%v: %+v", from, r)
			}
		}
		c.pass(2 * time.Second)
		var first [][]byte
		for _, n := range c.nodes {
			r, err := n.rep.Read(ReadQuery{MaxBytes: 1 << 20, LeaderEpoch: -1, AnyReplica: true})
			if err != nil || len(r.Batches) != 5 {
				t.Fatalf("%d batches, %v", len(r.Batches), err)
			}
			if first == nil {
				first = r.Batches
			}
			for i, raw := range r.Batches {
				b := protocol.Batch(raw)
				if b.Codec() != codec || !b.LogAppendTime() || b.CheckCRC() != nil || b.ProducerID() != 9 || !bytes.Equal(raw, first[i]) {
					t.Fatalf("%v: codec %v, append time %v, crc %v, the same everywhere: %v", codec, b.Codec(), b.LogAppendTime(), b.CheckCRC(), bytes.Equal(raw, first[i]))
				}
			}
		}
		var values []string
		for _, raw := range first {
			for rec, err := range protocol.Batch(raw).Records(inflater()) {
				if err != nil {
					t.Fatal(err)
				}
				values = append(values, string(rec.Value[:6]))
			}
		}
		wantValues(t, values, "from n", "and mo", "from g", "and mo", "from s", "and mo", "from l", "and mo", "from z", "and mo")
	}
}

func FuzzLookInside(f *testing.F) {
	for codec := protocol.CodecNone; codec <= protocol.CodecZstd; codec++ {
		f.Add([]byte(withCodec(codec, keyed(1, "k", "v"), keyed(2, "l", "w"))), int8(codec))
	}
	f.Fuzz(func(t *testing.T, data []byte, to int8) {
		s := Settings{Compact: true, Compression: Recompression{Enabled: true, Compression: protocol.Compression{Codec: protocol.Codec(uint8(to) % 5)}}}.withDefaults()
		if checkBatch(data, &s, false, time.Now) != nil {
			return
		}
		b, _, err := lookInside(data, &s, 0)
		if err != nil {
			return
		}
		if err := checkBatch(b, &s, false, time.Now); err != nil {
			t.Fatalf("what has been looked into does not pass the first check: %v", err)
		}
	})
}

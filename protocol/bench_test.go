package protocol

import (
	"bytes"
	"testing"
)

// oneKiB are so many records of 1 KiB in a batch.
func oneKiB(n int) Batch {
	rs := make([]Record, n)
	for i := range rs {
		rs[i] = Record{Offset: int64(i), Timestamp: 1_700_000_000_000, Value: bytes.Repeat([]byte{byte(i)}, 1024)}
	}
	return BuildBatch(rs, NewBatchOptions())
}

// view is what is done to a producer's batch on its way to the log: found, checked, stamped; never decoded.
func view(tb testing.TB, blob []byte) {
	for b, err := range Batches(blob) {
		if err == nil {
			err = b.Check()
		}
		if err == nil {
			err = b.CheckCRC()
		}
		if err != nil {
			tb.Fatal(err)
		}
		b.SetBaseOffset(7)
		b.SetLeaderEpoch(3)
	}
}

func BenchmarkBatchView(b *testing.B) {
	blob := []byte(oneKiB(100))
	b.SetBytes(int64(len(blob)))
	b.ReportAllocs()
	for b.Loop() {
		view(b, blob)
	}
}

func BenchmarkBatchRecords(b *testing.B) {
	batch := oneKiB(100)
	inf := NewInflater(1 << 20)
	defer inf.Close()
	b.SetBytes(int64(len(batch)))
	b.ReportAllocs()
	for b.Loop() {
		n := 0
		for _, err := range batch.Records(inf) {
			if n++; err != nil {
				b.Fatal(err)
			}
		}
		if n != 100 {
			b.Fatal(n)
		}
	}
}

// A batch is never copied nor decoded, so that however many records it has cost nothing.
func TestBatchViewAllocatesNothing(t *testing.T) {
	for _, records := range []int{1, 1000} {
		blob := []byte(oneKiB(records))
		if n := testing.AllocsPerRun(100, func() { view(t, blob) }); n != 0 {
			t.Errorf("%v allocations for a batch of %d records", n, records)
		}
	}
}

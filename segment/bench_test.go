package segment

import (
	"fmt"
	"testing"

	"github.com/balsamq/balsa/internal/vfs"
	"github.com/balsamq/balsa/raft"
)

func BenchmarkAppendSync(b *testing.B) {
	for _, ahead := range []int64{0, 128 << 10} {
		b.Run(fmt.Sprintf("zeroAhead=%d", ahead), func(b *testing.B) { benchmarkAppendSync(b, ahead) })
	}
}

func benchmarkAppendSync(b *testing.B, ahead int64) {
	for _, n := range []int{1, 64} {
		for _, size := range []int{1 << 10, 64 << 10} {
			b.Run(fmt.Sprintf("entries=%d/bytes=%d", n, size), func(b *testing.B) {
				benchmarkSync(b, Options{SegmentBytes: 256 << 20, ZeroAhead: ahead}, n, size)
			})
		}
	}
}

// benchmarkSync appends n entries of so many bytes and syncs, on the real disk.
func benchmarkSync(b *testing.B, o Options, n, size int) {
	o.Cache = NewCache(8 << 20)
	l, err := Open(vfs.OS(), b.TempDir(), testGroup, o)
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	b.SetBytes(int64(n * size))
	// Only the index and base of a frame change: framing is the stager's time, not the log's.
	es := records(l, 1, 1, n, size)
	next, base := raft.Index(1), Offset(0)
	for b.Loop() {
		b.StopTimer()
		fresh := make([]raft.Entry, n)
		for i := range es {
			e := raft.Entry{Term: 1, Index: next, Type: raft.EntryRecords, Payload: es[i].Payload}
			AppendFrame(nil, testGroup, &e, base, 2)
			fresh[i] = e
			next, base = next+1, base+2
		}
		b.StartTimer()
		mustAppend(b, l, 1, fresh)
		mustSync(b, l)
	}
}

func BenchmarkReadOffsets(b *testing.B) {
	for _, budget := range []int64{0, 256 << 20} {
		name := "disk"
		if budget > 0 {
			name = "tail"
		}
		b.Run(name, func(b *testing.B) {
			l, err := Open(vfs.OS(), b.TempDir(), testGroup, Options{Cache: NewCache(budget)})
			if err != nil {
				b.Fatal(err)
			}
			defer l.Close()
			const n = 2000
			for i := range raft.Index(n) {
				mustAppend(b, l, 1, records(l, 1, i+1, 1, 16<<10))
			}
			mustSync(b, l)
			b.SetBytes(1 << 20)
			from := Offset(0)
			for b.Loop() {
				got, err := l.ReadOffsets(from, n, 1<<20)
				if err != nil {
					b.Fatal(err)
				}
				if from += Offset(2 * len(got)); from >= 2*n-200 {
					from = 0
				}
			}
		})
	}
}

package segment

import (
	"fmt"
	"testing"

	"github.com/balsamq/balsa/internal/vfs"
	"github.com/balsamq/balsa/raft"
)

// What an append with its sync, and a read, allocate; an entry more costs an append nothing more, but a read its place in the answer. Lower
// the bounds with what you save.
func TestLogAllocations(t *testing.T) {
	for _, x := range []struct {
		cache       int64
		entries     int
		write, read float64 // the most
	}{{64 << 20, 1, 7, 2}, {64 << 20, 16, 14, 8}, {0, 1, 8, 34}, {0, 16, 15, 80}} {
		t.Run(fmt.Sprintf("cache=%d/entries=%d", x.cache, x.entries), func(t *testing.T) {
			l, err := Open(vfs.OS(), t.TempDir(), testGroup, Options{Cache: NewCache(x.cache), SegmentBytes: 256 << 20})
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			const runs = 100
			next := 0
			batches := make([][]raft.Entry, runs+2)
			base := Offset(0)
			for i := range batches {
				es := records(l, 1, raft.Index(i*x.entries+1), x.entries, 1024)
				for j := range es {
					AppendFrame(nil, testGroup, &es[j], base, 2)
					base += 2
				}
				batches[i] = es
			}
			write := testing.AllocsPerRun(runs, func() {
				mustAppend(t, l, 1, batches[next])
				mustSync(t, l)
				next++
			})
			read := testing.AllocsPerRun(runs, func() {
				got, err := l.ReadOffsets(10, l.LastIndex(), x.entries*1500)
				if err != nil || len(got) < min(x.entries, 2) {
					t.Fatalf("%d entries: %v", len(got), err)
				}
			})
			t.Logf("%v allocations an append, %v a read", write, read)
			if write > x.write {
				t.Errorf("%v allocations an append, more than %v", write, x.write)
			}
			if read > x.read {
				t.Errorf("%v allocations a read, more than %v", read, x.read)
			}
		})
	}
}

// Tests of reading for members that were away: the same entries as ever, and damage that is met as ever.

package segment

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"github.com/balsamq/balsa/internal/vfs"
	"github.com/balsamq/balsa/raft"
)

// What is read past the page cache is what is read through it, from each place on, across files, up to the end, also of a file that
// is being written.
func TestEntriesBehind(t *testing.T) {
	check := func(t *testing.T, f vfs.FS, dir string) {
		rng := rand.New(rand.NewPCG(1, 2))
		l := mustOpenAt(t, f, dir, Options{SegmentBytes: 1 << 20, IndexBytes: 8 << 10, Direct: true, Cache: NewCache(0)})
		defer l.Close()
		next := raft.Index(1)
		for range 120 {
			n := 1 + rng.IntN(3)
			es := records(l, 1, next, n, 1+rng.IntN(60_000))
			mustAppend(t, l, 1, es)
			mustSync(t, l)
			next += raft.Index(n)
		}
		if l.Segments() < 3 || l.inTail(next-1) {
			t.Fatalf("%d files, and in memory: %v", l.Segments(), l.inTail(next-1))
		}
		for lo := raft.Index(1); lo < next; lo++ {
			hi := min(next, lo+1+raft.Index(rng.IntN(50)))
			most := rng.IntN(400_000)
			got, err := l.EntriesBehind(lo, hi, most)
			if err != nil || len(got) == 0 {
				t.Fatalf("from %d on: %d entries, %v", lo, len(got), err)
			}
			size := 0
			want, err := l.Entries(lo, lo+raft.Index(len(got)), 1<<30)
			if err != nil {
				t.Fatal(err)
			}
			for i := range got {
				size += len(got[i].Frame)
				if got[i].Index != lo+raft.Index(i) || got[i].Term != want[i].Term || !bytes.Equal(got[i].Frame, want[i].Frame) || !bytes.Equal(got[i].Payload, want[i].Payload) {
					t.Fatalf("entry %d of those from %d on", got[i].Index, lo)
				}
			}
			if got[len(got)-1].Index >= hi || len(got) > 1 && size > most {
				t.Fatalf("%d entries, %d bytes from %d on: wanted below %d, %d bytes", len(got), size, lo, hi, most)
			}
		}
		for _, r := range [][2]raft.Index{{0, 1}, {next, next + 1}, {5, 4}} {
			_, err := l.EntriesBehind(r[0], r[1], 1)
			if _, other := l.Entries(r[0], r[1], 1); err == nil || err.Error() != other.Error() {
				t.Fatalf("%v: %v, %v", r, err, other)
			}
		}
	}
	t.Run("disk", func(t *testing.T) { check(t, vfs.OS(), t.TempDir()) })
	t.Run("memory", func(t *testing.T) { check(t, vfs.NewMem(1), "/log") })
}

// Damage that a piece meets is found by whoever reads it through the cache, and put on record as ever.
func TestEntriesBehindMeetDamage(t *testing.T) {
	dir := t.TempDir()
	l := mustOpenAt(t, vfs.OS(), dir, Options{Cache: NewCache(0), Direct: true})
	defer l.Close()
	mustAppend(t, l, 1, records(l, 1, 1, 10, 10_000))
	mustSync(t, l)
	f, err := vfs.OS().Open(dir + "/" + l.segs[0].name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte("damage"), l.segs[0].size-15_000); err != nil {
		t.Fatal(err)
	}
	es, err := l.EntriesBehind(1, 11, 1<<20)
	if err != nil || len(es) == 0 || len(es) > 9 {
		t.Fatalf("%d entries, %v", len(es), err)
	}
	if _, err := l.EntriesBehind(1+raft.Index(len(es)), 11, 1<<20); err == nil || l.Health().ReadErr == nil {
		t.Fatalf("%v, on record: %v", err, l.Health().ReadErr)
	}
}

// Checkpoints and snapshots that the disk does not give back, or gives back longer than they were.

package segment

import (
	"errors"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/balsamq/balsa/internal/vfs"
	"github.com/balsamq/balsa/raft"
)

func mustSave(t *testing.T, l *Log, i raft.Index) {
	t.Helper()
	data, err := l.EncodeSnapshot(i, []byte("the state machine's part"))
	if err == nil {
		err = l.SaveSnapshot(raft.SnapshotMeta{Index: i, Term: 1}, data)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// A checkpoint that cannot be read is as good as none, for as long as that lasts: the log is cut at the one below, opened
// without it, and has it again when the disk gives it back.
func TestUnreadableCheckpointCostsNoMoreThanRoom(t *testing.T) {
	unreadable := ""
	m := vfs.Inject(vfs.NewMem(1), func(op vfs.Op, name string) error {
		if op == vfs.OpRead && unreadable != "" && strings.HasSuffix(name, unreadable) {
			return errors.New("the disk does not answer")
		}
		return nil
	})
	o := Options{SegmentBytes: 4096, FirstExtent: 4096, Checkpoints: true}
	l := mustOpen(t, m, o)
	for k := range 10 {
		mustAppend(t, l, 1, records(l, 1, l.LastIndex()+1, 10, 300))
		mustSync(t, l)
		if k > 0 {
			mustSave(t, l, l.LastIndex())
		}
	}
	kept := len(l.kept)
	if kept < 4 {
		t.Fatalf("%d checkpoints", kept)
	}
	below, c := l.kept[1], l.kept[2]
	unreadable = checkpointName(c.index)
	l.Forget(c.next)
	if cut, err := l.Prune(); err != nil || cut == nil || cut.Index != below.index {
		t.Fatalf("prune: %+v, %v; want a cut at %d", cut, err, below.index)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	l = mustOpen(t, m, o)
	for _, k := range l.kept {
		if k.index == c.index {
			t.Fatal("what cannot be read is counted among the checkpoints")
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	unreadable = ""
	l = mustOpen(t, m, o)
	l.Forget(c.next)
	if cut, err := l.Prune(); err != nil || cut == nil || cut.Index != c.index {
		t.Fatalf("prune with all of them: %+v, %v; want a cut at %d", cut, err, c.index)
	}
}

// The same of the snapshot that the log begins behind, of which a copy is due before the next takes its place.
func TestUnreadableBaseIsReplaced(t *testing.T) {
	broken := false
	m := vfs.Inject(vfs.NewMem(1), func(op vfs.Op, name string) error {
		if op == vfs.OpRead && broken && path.Base(name) == snapshotName {
			return errors.New("the disk does not answer")
		}
		return nil
	})
	l := mustOpen(t, m, Options{SegmentBytes: 1 << 20, FirstExtent: 4096, Checkpoints: true})
	mustAppend(t, l, 1, records(l, 1, 1, 20, 300))
	mustSync(t, l)
	mustSave(t, l, 10)
	if err := l.TruncatePrefix(10); err != nil {
		t.Fatal(err)
	}
	broken = true
	mustSave(t, l, 15)
	broken = false
	if s, err := l.LoadSnapshot(); err != nil || s.Meta.Index != 15 {
		t.Fatal(s, err)
	}
}

// A snapshot that is longer than any can be is a damaged one, and no reason to take that much memory, or to refuse the log.
func TestSnapshotOfAnyLengthIsBounded(t *testing.T) {
	dir := t.TempDir()
	l, err := Open(vfs.OS(), dir, testGroup, Options{})
	if err != nil {
		t.Fatal(err)
	}
	mustAppend(t, l, 1, records(l, 1, 1, 5, 300))
	mustSync(t, l)
	mustSave(t, l, 3)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	for _, size := range []int64{MaxSnapshotSize / 2, maxSnapshotHead + MaxSnapshotSize + 1} {
		name := filepath.Join(dir, snapshotName)
		if err := os.Truncate(name, size); err != nil { // sparse
			t.Fatal(err)
		}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		if _, _, err := l.readSnapshot(); !errors.Is(err, ErrBadSnapshot) {
			t.Fatal(err)
		}
		runtime.ReadMemStats(&after)
		allocs := after.TotalAlloc - before.TotalAlloc
		if allocs > 4*maxSnapshotHead {
			t.Errorf("%d bytes of memory for a snapshot of %d with a header that says otherwise", allocs, size)
		}
	}
	l, err = Open(vfs.OS(), dir, testGroup, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if r := l.Recovery(); !r.SnapshotLost || l.LastIndex() != 5 {
		t.Errorf("[%d, %d], %+v", l.FirstIndex(), l.LastIndex(), r)
	}
}

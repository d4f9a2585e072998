// Crashes that a recovery once took for damage, which costs a replica its vote until a leader has told it what it lacks: after a power
// cut of all replicas, for ever.

package segment

import (
	"errors"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/balsamq/balsa/internal/vfs"
	"github.com/balsamq/balsa/raft"
)

func mustBeSound(t *testing.T, l *Log) {
	t.Helper()
	if h := l.Health(); h.Recovery.Corrupt || h.DamagedUpTo != 0 {
		t.Fatalf("nothing was damaged, and recovery says %+v", h.Recovery)
	}
}

// A mark's sync fails: the cache shows the mark, the disk has a hole. What is written behind it must not come to stand behind that hole.
func TestLostMarkIsNoDamage(t *testing.T) {
	t.Run("buffered", func(t *testing.T) { lostMarkIsNoDamage(t, false) })
	t.Run("direct", func(t *testing.T) { lostMarkIsNoDamage(t, true) })
}

func lostMarkIsNoDamage(t *testing.T, direct bool) {
	for seed := range uint64(300) {
		rng := rand.New(rand.NewPCG(seed, 2))
		m := vfs.NewMem(seed)
		fail := ""
		f := vfs.Inject(m, func(op vfs.Op, name string) error {
			if op == vfs.OpSync && fail != "" && strings.HasSuffix(name, fail) {
				if err := m.FailSync(name, rng); err != nil {
					return err
				}
				return errors.New("input/output error")
			}
			return nil
		})
		l := mustOpen(t, f, Options{Direct: direct})
		// The hole is one where the mark ends a page: the next block would write the page, and with it the mark, again. Written
		// directly, it is one where the mark does not end in the page that it begins in.
		mustAppend(t, l, 1, records(l, 1, 1, 4, 750+int(seed)))
		mustSync(t, l)
		if !l.MarkPending() {
			t.Fatal("no mark is due")
		}
		fail = segmentSuffix
		if _, err := l.Sync(); !errors.Is(err, ErrFailed) {
			t.Fatalf("sync of the mark: %v", err)
		}
		fail = ""
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		l = mustOpen(t, f, Options{Direct: direct})
		for range 3 {
			mustAppend(t, l, 1, records(l, 1, l.LastIndex()+1, 2, 1000))
			mustSync(t, l)
		}
		l = mustOpen(t, m.CrashClone(rng), Options{})
		mustBeSound(t, l)
		if l.LastIndex() != 10 {
			t.Fatalf("seed %d: synced up to 10, reopened at %d", seed, l.LastIndex())
		}
	}
}

// Retention removes the last file, and the power goes before there is another: the log is empty, not lost.
func TestLogPrunedToNothingIsNotLost(t *testing.T) {
	m := vfs.NewMem(1)
	o := Options{Past: RanBefore}
	l := mustOpen(t, m, Options{Past: NeverRan})
	mustAppend(t, l, 1, records(l, 1, 1, 3, 100))
	mustSync(t, l)
	data, err := l.EncodeSnapshot(3, nil)
	if err != nil {
		t.Fatal(err)
	}
	meta := raft.SnapshotMeta{Index: 3, Term: 1, Conf: raft.ConfState{Voters: []raft.Member{{ID: 1}}}}
	if err := l.SaveSnapshot(meta, data); err != nil {
		t.Fatal(err)
	}
	if !l.RollOlder(1 << 60) {
		t.Fatal("the file was not closed")
	}
	if err := l.TruncatePrefix(3); err != nil {
		t.Fatal(err)
	}
	if n := l.Segments(); n != 0 {
		t.Fatalf("%d files are left", n)
	}
	m = crash(m)
	l = mustOpen(t, m, o)
	mustBeSound(t, l)
	mustAppend(t, l, 2, records(l, 2, 4, 1, 100))
	mustSync(t, l)
	mustBeSound(t, mustOpen(t, crash(m), o))
}

// The first write to a file that stands behind a closed one fails. The closed one's index says that it is not the last.
func TestEmptyFileBehindAnIndexStays(t *testing.T) {
	m := vfs.NewMem(1)
	fail := false
	f := vfs.Inject(m, func(op vfs.Op, name string) error {
		if fail && op == vfs.OpWrite && strings.HasSuffix(name, segmentSuffix) {
			return errors.New("input/output error")
		}
		return nil
	})
	l := mustOpen(t, f, Options{})
	mustAppend(t, l, 1, records(l, 1, 1, 3, 100))
	mustSync(t, l)
	if !l.MarkPending() {
		t.Fatal("no mark is due")
	}
	if !l.RollOlder(1 << 60) {
		t.Fatal("the file was not closed")
	}
	mustSync(t, l) // the mark, in a file of its own
	l = mustOpen(t, f, Options{})
	fail = true
	mustAppend(t, l, 1, records(l, 1, 4, 1, 100))
	if _, err := l.Sync(); !errors.Is(err, ErrFailed) {
		t.Fatalf("sync: %v", err)
	}
	fail = false
	_ = l.Close()
	mustBeSound(t, mustOpen(t, m, Options{}))
	l = mustOpen(t, crash(m), Options{})
	mustBeSound(t, l)
	if l.LastIndex() != 3 {
		t.Fatalf("reopened at %d", l.LastIndex())
	}
}

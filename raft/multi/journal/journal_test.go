// What callers see: saves, loads, order, bounds, checkpoints, errors that stay.

package journal

import (
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/balsamq/balsa/raft"
)

func mustOpen(t testing.TB, dir string, o Options) *Journal {
	t.Helper()
	j, err := Open(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = j.Close() })
	return j
}

// save waits for one Save.
func save(t testing.TB, j *Journal, g raft.GroupID, term raft.Term, vote raft.NodeID) {
	t.Helper()
	if err := trySave(j, g, term, vote); err != nil {
		t.Fatal(err)
	}
}

func trySave(j *Journal, g raft.GroupID, term raft.Term, vote raft.NodeID) error {
	c := make(chan error, 1)
	j.Save(g, raft.HardState{Term: term, Vote: vote}, func(err error) { c <- err })
	return <-c
}

func remove(t testing.TB, j *Journal, g raft.GroupID) {
	t.Helper()
	c := make(chan error, 1)
	j.Delete(g, func(err error) { c <- err })
	if err := <-c; err != nil {
		t.Fatal(err)
	}
}

func closeIt(t testing.TB, j *Journal) {
	t.Helper()
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
}

func want(t testing.TB, j *Journal, g raft.GroupID, term raft.Term, vote raft.NodeID) {
	t.Helper()
	hs, ok := j.Load(g)
	if !ok || hs.Term != term || hs.Vote != vote {
		t.Fatalf("group %d: have %+v, %v; want term %d vote %d", g, hs, ok, term, vote)
	}
}

func TestSaveLoadDelete(t *testing.T) {
	dir := t.TempDir()
	j := mustOpen(t, dir, Options{})
	save(t, j, 1, 5, 2)
	save(t, j, 2, 7, 0)
	save(t, j, 1, 6, 3)
	save(t, j, 3, 1, 1)
	remove(t, j, 3)
	want(t, j, 1, 6, 3)
	closeIt(t, j)
	for range 3 { // also through files that were only ever read back
		j = mustOpen(t, dir, Options{})
		want(t, j, 1, 6, 3)
		want(t, j, 2, 7, 0)
		if _, ok := j.Load(3); ok {
			t.Fatal("a deleted group came back")
		}
		if g := j.Groups(); len(g) != 2 || g[0] != 1 || g[1] != 2 {
			t.Fatalf("groups %v", g)
		}
		closeIt(t, j)
	}
}

func TestClosed(t *testing.T) {
	j := mustOpen(t, t.TempDir(), Options{})
	closeIt(t, j)
	if err := trySave(j, 1, 1, 1); !errors.Is(err, ErrClosed) {
		t.Fatal(err)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
}

// Thousands of saves from many goroutines, with a small queue and a callback that saves again: order per group holds,
// nothing deadlocks, few syncs are spent.
func TestGroupCommitBounded(t *testing.T) {
	dir := t.TempDir()
	var l *faultyLog
	j := mustOpen(t, dir, Options{MaxQueued: 64, openWAL: faulty(&l)})
	const groups, each = 50, 40
	var wg, again sync.WaitGroup
	last := make([]raft.Term, groups)
	again.Add(groups)
	for g := range groups {
		wg.Go(func() {
			for i := range each {
				term := raft.Term(i + 1)
				wg.Add(1)
				j.Save(raft.GroupID(g+1), raft.HardState{Term: term}, func(err error) {
					defer wg.Done()
					if err != nil || last[g] != term-1 {
						t.Errorf("group %d: term %d after %d: %v", g, term, last[g], err)
					}
					last[g] = term
					if term == each {
						j.Save(raft.GroupID(g+1), raft.HardState{Term: each + 1}, func(error) { again.Done() })
					}
				})
			}
		})
	}
	wg.Wait()
	again.Wait()
	if n := l.syncs.Load(); n > groups*each/4 {
		t.Fatalf("%d syncs for %d saves", n, groups*each)
	}
	for g := range groups {
		want(t, j, raft.GroupID(g+1), each+1, 0)
	}
}

func TestCheckpointsKeepTheFileShort(t *testing.T) {
	dir := t.TempDir()
	j := mustOpen(t, dir, Options{CheckpointBytes: 8 << 10})
	const groups, rounds = 1500, 12 // more than one chunk
	var largest int64
	for r := range rounds {
		var wg sync.WaitGroup
		for g := range groups {
			wg.Add(1)
			j.Save(raft.GroupID(g+1), raft.HardState{Term: raft.Term(r + 1), Vote: raft.NodeID(g)}, func(err error) {
				if err != nil {
					t.Error(err)
				}
				wg.Done()
			})
		}
		wg.Wait()
		save(t, j, 1, raft.Term(r+1), 0) // behind any checkpoint that the round led to
		largest = max(largest, fileSize(t, dir))
	}
	if limit := 5*checkpointLen(groups) + 2*groups*61 + 8<<10; largest > limit {
		t.Fatalf("the file grew to %d bytes, expected at most %d", largest, limit)
	}
	closeIt(t, j)
	if m, _ := filepath.Glob(filepath.Join(dir, guardPrefix+"*")); len(m) > 0 {
		t.Fatalf("guards left: %v", m)
	}
	j = mustOpen(t, dir, Options{})
	for g := 1; g < groups; g++ {
		want(t, j, raft.GroupID(g+1), rounds, raft.NodeID(g))
	}
}

func walFile(t testing.TB, dir string) string {
	t.Helper()
	m, err := filepath.Glob(filepath.Join(dir, walName, "*"))
	if err != nil || len(m) != 1 {
		t.Fatalf("files in the wal directory: %v, %v", m, err)
	}
	return m[0]
}

func fileSize(t testing.TB, dir string) int64 {
	t.Helper()
	fi, err := os.Stat(walFile(t, dir))
	if err != nil {
		t.Fatal(err)
	}
	return fi.Size()
}

// A write that fails is the last thing that the journal does: every later Save reports it, and Load goes on to say
// what was durable.
func TestErrorIsSticky(t *testing.T) {
	for _, what := range []string{"write", "sync", "truncate"} {
		t.Run(what, func(t *testing.T) {
			var l *faultyLog
			dir := t.TempDir()
			j := mustOpen(t, dir, Options{openWAL: faulty(&l), CheckpointBytes: 1 << 10})
			save(t, j, 1, 1, 1)
			broken := errors.New("broken disk")
			var err error
			switch what {
			case "write":
				l.write.Store(&broken)
				err = trySave(j, 1, 2, 2)
				l.write.Store(nil)
			case "sync":
				l.sync.Store(&broken)
				err = trySave(j, 1, 2, 2)
				l.sync.Store(nil)
			case "truncate":
				l.truncate.Store(&broken)
				for term := raft.Term(2); err == nil && term < 1000; term++ {
					err = trySave(j, 2, term, 2)
				}
				l.truncate.Store(nil)
			}
			for range 3 {
				if !errors.Is(err, ErrFailed) || !errors.Is(err, broken) {
					t.Fatal(err)
				}
				want(t, j, 1, 1, 1)
				err = trySave(j, 1, 3, 3)
			}
			if err := j.Close(); !errors.Is(err, broken) {
				t.Fatal(err)
			}
			j = mustOpen(t, dir, Options{})
			if hs, _ := j.Load(1); hs.Term == 3 {
				t.Fatal("a save that was refused is on disk")
			}
		})
	}
}

// The idle mark follows the last save without another call.
func TestMarkWhenIdle(t *testing.T) {
	dir := t.TempDir()
	j := mustOpen(t, dir, Options{MarkAfter: time.Millisecond})
	save(t, j, 1, 1, 1)
	deadline := time.Now().Add(2 * time.Minute)
	for {
		data, err := os.ReadFile(walFile(t, dir))
		if err != nil {
			t.Fatal(err)
		}
		var last record
		if _, err := scan("", data, 1, 0, func(r record) error { last = r; return nil }); err != nil {
			t.Fatal(err)
		}
		if last.kind == kindMark && last.synced == last.seq-1 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("last record %+v", last)
		}
		time.Sleep(time.Millisecond)
	}
}

func BenchmarkSave(b *testing.B) {
	j := mustOpen(b, b.TempDir(), Options{})
	const groups = 10_000
	for b.Loop() { // one round: ten thousand votes
		var wg sync.WaitGroup
		wg.Add(groups)
		for g := range groups {
			j.Save(raft.GroupID(g+1), raft.HardState{Term: 1, Vote: 1}, func(error) { wg.Done() })
		}
		wg.Wait()
	}
	b.ReportMetric(float64(b.N)*groups/b.Elapsed().Seconds(), "saves/s")
}

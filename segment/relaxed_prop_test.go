// Random histories (prop_test.go) of a log that is relaxed by turns. A killed process loses nothing that a Sync has vouched for; a power
// loss, or a sync that fails, may, down to what was durable, and then the log must know it.

package segment

import (
	"errors"
	"path"
	"strings"
	"testing"

	"github.com/balsamq/balsa/internal/vfs"
	"github.com/balsamq/balsa/raft"
)

// lateWorld is what a history of a relaxed log has besides; nil: of another.
type lateWorld struct {
	w       *world
	relaxed bool
	base    version // as of when all was last durable
	since   []version
	cuts    []raft.Index
	failed  bool // an operation has failed in this life
	record  bool // a loss may be on record
}

func newRelaxedWorld(seed uint64, steps int, fault func(vfs.Op, string) error) *world {
	w := newWorld(seed, steps, fault)
	w.late = &lateWorld{w: w, relaxed: true, base: w.cur}
	return w
}

func (l *lateWorld) appended(v version, low raft.Index) {
	if l == nil {
		return
	}
	if len(l.cuts) > 0 {
		low = min(low, l.cuts[len(l.cuts)-1])
	}
	l.since, l.cuts = append(l.since, v), append(l.cuts, low)
}

// synced: up to now all is vouched for.
func (l *lateWorld) synced() {
	if l == nil || l.w.log == nil || l.w.log.DurableIndex() != l.w.cur.last() {
		return
	}
	if len(l.since) > 0 {
		l.w.count["all durable"]++
	}
	l.base, l.since, l.cuts = l.w.cur, nil, nil
}

// step settles the log, or changes its durability, now and then.
func (l *lateWorld) step() bool {
	if l == nil {
		return false
	}
	w := l.w
	switch k := w.rng.IntN(30); {
	case k < 3:
		w.note("settle, %d of %d durable", w.log.DurableIndex(), w.log.SyncedIndex())
		err := w.log.Settle()
		switch {
		case err == nil:
			if d := w.log.DurableIndex(); d != w.log.SyncedIndex() || w.log.Behind() != 0 {
				w.failf("settled, and durable up to %d of %d, %d bytes are behind", d, w.log.SyncedIndex(), w.log.Behind())
			}
			l.synced()
		case !w.dead && !errors.Is(err, ErrFailed):
			w.failf("settle: %v", err)
		}
	case k == 3:
		l.relaxed = !l.relaxed
		w.note("relaxed: %v", l.relaxed)
		w.log.SetRelaxed(l.relaxed)
		if !l.relaxed && len(w.pending) > 0 {
			w.sync()
			if w.log.Health().Err == nil && !w.dead && w.log.DurableIndex() != w.log.SyncedIndex() {
				w.failf("no longer relaxed, synced up to %d, and durable up to %d", w.log.SyncedIndex(), w.log.DurableIndex())
			}
		}
	default:
		if w.log.DurableIndex() < w.log.SyncedIndex() {
			w.count["ahead"]++
		}
		return false
	}
	if w.dead || w.log.Health().Err != nil {
		w.reopen()
		return true
	}
	w.trap, w.failAt = 0, 0
	w.checkState()
	return true
}

// trim follows a cut of the prefix, which is durable up to there: what ends below is no longer possible.
func (l *lateWorld) trim(upTo raft.Index) {
	if l == nil {
		return
	}
	if l.base.last() < upTo {
		l.base = l.w.cur.cut(upTo)
	}
	l.base = l.base.from(max(l.base.first, upTo+1))
	var since []version
	var cuts []raft.Index
	for i, v := range l.since {
		if v.last() >= upTo {
			since, cuts = append(since, v.from(max(v.first, upTo+1))), append(cuts, l.cuts[i])
		}
	}
	l.since, l.cuts = since, cuts
}

// possibles is what may be found that is less than what was vouched for.
func (l *lateWorld) possibles(power bool) []possible {
	if l == nil {
		return nil
	}
	l.failed = l.w.log != nil && l.w.log.Health().Err != nil && !l.w.dead
	if !power && !l.failed {
		return nil
	}
	ps := []possible{{l.base, l.base.last()}}
	for i, v := range l.since {
		ps = append(ps, possible{v, max(min(l.base.last(), l.cuts[i]), v.first-1)})
	}
	return ps
}

// excuses: what a recovery says is of a loss that may have been.
func (l *lateWorld) excuses(h *Health) bool {
	return l != nil && h.DamagedUpTo == raft.UntilTold && (h.Recovery.RanAhead != "" || l.record)
}

// reopened: the log has been opened, and has lost something that was vouched for, or not.
func (l *lateWorld) reopened(lost bool) {
	if l == nil {
		return
	}
	w := l.w
	h := w.log.Health()
	if lost {
		w.count["lost"]++
		if h.DamagedUpTo != raft.UntilTold {
			w.failf("opened as [%d, %d], which is less than was vouched for, and it does not know: %+v", w.log.FirstIndex(), w.log.LastIndex(), h)
		}
	}
	if h.DamagedUpTo != 0 {
		l.record = true
		w.count["may have lost"]++
		if w.rng.IntN(2) == 0 { // else the next open says it again
			w.log.Told(w.log.LastIndex())
			if _, err := w.log.Sync(); err != nil || w.log.Health().DamagedUpTo != 0 {
				w.failf("told, and still damaged: %+v, %v", w.log.Health(), err)
			}
			l.record = false
		}
	}
	w.log.SetRelaxed(l.relaxed)
}

func TestRelaxedProperty(t *testing.T) {
	from, to := uint64(1), seeds()
	if *flagSeed != 0 {
		from, to = *flagSeed, *flagSeed
	}
	total := map[string]int{}
	for seed := from; seed <= to; seed++ {
		w := newRelaxedWorld(seed, *flagSteps, nil)
		if err := w.run(); err != nil {
			t.Fatalf("seed %d: %v\nreplay: go test ./segment -run TestRelaxedProperty -seed %d -steps %d", seed, err, seed, *flagSteps)
		}
		for k, n := range w.count {
			total[k] += n
		}
	}
	t.Logf("%d seeds of %d steps: %v", to-from+1, *flagSteps, total)
	if *flagSeed == 0 {
		for _, k := range []string{"ahead", "all durable", "lost", "may have lost", "power loss", "kill", "torn tail", "crash in recovery", "fsyncgate"} {
			if total[k] == 0 {
				t.Errorf("%q never happened", k)
			}
		}
	}
}

// A log through its lives: it begins with a sync, runs ahead when it is busy, and is told by the next open apart from one that may have lost
// something.
func TestRelaxedLives(t *testing.T) {
	m := vfs.NewMem(1)
	note := path.Join(testDir, relaxedName)
	noted := func() bool {
		_, err := m.Stat(note)
		return err == nil
	}
	more := func(l *Log) {
		t.Helper()
		mustAppend(t, l, 1, records(l, 1, l.LastIndex()+1, 1, 200))
		mustSync(t, l)
	}
	l := mustOpen(t, m, Options{})
	l.SetRelaxed(true)
	more(l)
	if noted() || l.DurableIndex() != 1 || l.Behind() != 0 {
		t.Fatalf("a log that was at rest is durable up to %d, %d bytes behind", l.DurableIndex(), l.Behind())
	}
	more(l)
	more(l)
	if !noted() || l.SyncedIndex() != 3 || l.DurableIndex() != 1 || l.Behind() == 0 || !l.MarkPending() {
		t.Fatalf("a busy log has vouched for %d, is durable up to %d, %d bytes behind", l.SyncedIndex(), l.DurableIndex(), l.Behind())
	}
	var out strings.Builder
	if err := Dump(m, testDir, &out, DumpOptions{}); err != nil || !strings.Contains(out.String(), "boot of the machine: "+m.Boot()) {
		t.Errorf("%v\n%s", err, &out)
	}

	mustSync(t, l) // nothing is to be written: it has been idle
	if noted() || l.DurableIndex() != 3 || l.Behind() != 0 || l.MarkPending() {
		t.Fatalf("an idle log is durable up to %d, %d bytes behind", l.DurableIndex(), l.Behind())
	}
	more(l)
	more(l)
	l.SetRelaxed(false)
	more(l)
	if noted() || l.DurableIndex() != 6 {
		t.Fatalf("no longer relaxed, and durable up to %d", l.DurableIndex())
	}

	// The process is killed: its memory is gone, the machine's is not.
	l.SetRelaxed(true)
	more(l)
	l = mustOpen(t, m, Options{})
	if h := l.Health(); noted() || l.LastIndex() != 7 || l.DurableIndex() != 7 || h.DamagedUpTo != 0 || h.Recovery.RanAhead != "" {
		t.Fatalf("killed, and opened up to %d: %+v", l.LastIndex(), h)
	}

	// The machine loses its power: not before a leader has told is the log whole.
	l.SetRelaxed(true)
	more(l)
	more(l)
	m.Crash(nil)
	l = mustOpen(t, m, Options{})
	if h := l.Health(); noted() || l.LastIndex() < 8 || h.DamagedUpTo != raft.UntilTold || h.Recovery.RanAhead == "" {
		t.Fatalf("power lost, and opened up to %d: %+v", l.LastIndex(), h)
	}
	l = mustOpen(t, m, Options{})
	if h := l.Health(); h.DamagedUpTo != raft.UntilTold {
		t.Fatalf("forgotten by the next open: %+v", h)
	}
	l.Told(9)
	for l.SyncedIndex() < 9 {
		more(l)
	}
	mustSync(t, l)
	if h := l.Health(); h.DamagedUpTo != 0 {
		t.Fatalf("refilled: %+v", h)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

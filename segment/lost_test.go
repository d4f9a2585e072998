// More crashes that are not to be taken for damage (false_damage_test.go): those of a log of which nothing was wanted any more, and those
// in a recovery itself.

package segment

import (
	"errors"
	"io/fs"
	"math/rand/v2"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/balsamq/balsa/internal/vfs"
	"github.com/balsamq/balsa/raft"
)

var forgetting = Options{SegmentBytes: 1 << 20, FirstExtent: 4096, Checkpoints: true, Past: NeverRan}

// forgotten is a log of 20 entries of which none is wanted any more, nor there.
func forgotten(t *testing.T, f vfs.FS) *Log {
	l := mustOpen(t, f, forgetting)
	mustAppend(t, l, 1, records(l, 1, 1, 20, 300))
	mustSync(t, l)
	l.Forget(l.NextOffset())
	data, err := l.EncodeSnapshot(20, []byte("the state machine's part"))
	if err == nil {
		err = l.SaveSnapshot(raft.SnapshotMeta{Index: 20, Term: 1}, data)
	}
	if err != nil {
		t.Fatal(err)
	}
	if cut, err := l.Prune(); err != nil || cut == nil {
		t.Fatalf("pruned to %v: %v", cut, err)
	}
	if n := l.Segments(); n != 0 {
		t.Fatalf("%d segments are left", n)
	}
	return l
}

// wantForgotten opens what the power loss has left.
func wantForgotten(t *testing.T, f vfs.FS) {
	t.Helper()
	o := forgetting
	o.Past = RanBefore
	l := mustOpen(t, f, o)
	if r := l.Recovery(); r.Corrupt || r.DamagedUpTo != 0 || l.FirstIndex() != 21 || l.LastIndex() != 20 {
		t.Errorf("opened as [%d, %d]: %+v", l.FirstIndex(), l.LastIndex(), r)
	}
}

// There is a file again, with a mark of what is gone, and the first entry in it is torn.
func TestFirstEntryBehindAMarkMayTear(t *testing.T) {
	m := vfs.NewMem(1)
	var arm bool
	l := forgotten(t, vfs.Inject(m, func(op vfs.Op, name string) error {
		if arm && op == vfs.OpSync {
			return vfs.ErrNoSpace // whatever it is: the write is not durable
		}
		return nil
	}))
	mustSync(t, l)
	if l.w.seg == nil || l.w.pos != SegmentHeaderSize+blockHeaderSize {
		t.Fatal("there is no file with a mark and nothing else")
	}
	arm = true
	mustAppend(t, l, 1, records(l, 1, 21, 1, 300))
	if _, err := l.Sync(); err == nil {
		t.Fatal("the sync did not fail")
	}
	name := testDir + "/" + l.w.seg.name
	overwrite(t, m, name, SegmentHeaderSize+2*blockHeaderSize+100, []byte{1, 2, 3})
	wantForgotten(t, m)
}

// All that a log held is overruled by a file of whose first write the power loss leaves the header and no block. Recovery removes the
// overruled ones, and then nothing but that file is there; it was never durable all the same.
func TestTornSuccessorOfAllIsNotLost(t *testing.T) {
	m := vfs.NewMem(1)
	o := Options{FirstExtent: 4096, Past: NeverRan}
	dead := false // the process has ended
	l := mustOpen(t, vfs.Inject(m, func(op vfs.Op, name string) error {
		if dead = dead || op == vfs.OpSync && strings.HasSuffix(name, segmentName(1, 2)); dead {
			return errKilled
		}
		return nil
	}), o)
	mustAppend(t, l, 1, records(l, 1, 1, 5, 300))
	mustSync(t, l)
	mustAppend(t, l, 2, records(l, 2, 1, 1, 300))
	if _, err := l.Sync(); err == nil {
		t.Fatal("the process did not end")
	}
	overwrite(t, m, testDir+"/"+segmentName(1, 2), SegmentHeaderSize, make([]byte, blockHeaderSize))
	o.Past = RanBefore
	for range 3 {
		l = mustOpen(t, m, o)
		mustBeSound(t, l)
		if l.LastIndex() != 0 || !l.Recovery().Torn {
			t.Fatalf("opened up to %d: %+v", l.LastIndex(), l.Recovery())
		}
	}
	mustAppend(t, l, 3, records(l, 3, 1, 2, 300))
	mustSync(t, l)
	l = mustOpen(t, m.CrashClone(nil), o)
	mustBeSound(t, l)
	if l.LastIndex() != 2 {
		t.Fatalf("opened up to %d", l.LastIndex())
	}
}

// The file with a mark and nothing else is given up, and there is no room for the next.
func TestFullDiskKeepsTheLastFile(t *testing.T) {
	m := vfs.NewMem(1)
	full := false
	l := forgotten(t, vfs.Inject(m, func(op vfs.Op, name string) error {
		if full && (op == vfs.OpWrite || op == vfs.OpCreate) {
			return vfs.ErrNoSpace
		}
		return nil
	}))
	mustSync(t, l)
	full = true
	mustAppend(t, l, 1, records(l, 1, 21, 1, 300))
	for range 4 {
		if _, err := l.Sync(); err == nil {
			t.Fatal("there was room")
		}
	}
	if l.w.seg != nil {
		t.Fatal("the file was not given up")
	}
	wantForgotten(t, m)
}

// A recovery that makes lost indexes anew makes none durable before the newest file is: after a mere process crash that may be in the
// page cache only, and a power loss then takes it away.
func TestRebuiltIndexComesAfterTheNewestFile(t *testing.T) {
	m := vfs.NewMem(1)
	o := Options{SegmentBytes: 4096, FirstExtent: 4096, Past: NeverRan}
	last, dead := "", false // the process ends before the last file's first sync
	l := mustOpen(t, vfs.Inject(m, func(op vfs.Op, name string) error {
		if op == vfs.OpCreate && strings.HasSuffix(name, segmentSuffix) {
			last = name
		}
		if dead = dead || op == vfs.OpSync && name == last && !strings.Contains(name, segmentName(1, 1)); dead {
			return errKilled
		}
		return nil
	}), o)
	mustAppend(t, l, 1, records(l, 1, 1, 30, 300))
	if _, err := l.Sync(); err == nil {
		t.Fatal("the process did not end")
	}
	names, err := m.ReadDir(testDir)
	if err != nil {
		t.Fatal(err)
	}
	names = slices.DeleteFunc(names, func(name string) bool { return !strings.HasSuffix(name, segmentSuffix) })
	if len(names) < 2 {
		t.Fatalf("%v is all that there is", names)
	}
	o.Past = RanBefore
	for k := 0; ; k++ {
		left, killed := k, false
		disk := m.CrashClone(rand.New(rand.NewPCG(1, uint64(k))))
		for _, name := range names { // not the power has gone, but the process
			b, err := readFile(m, path.Join(testDir, name), 1<<20)
			if err != nil {
				t.Fatal(err)
			}
			f, err := disk.Open(path.Join(testDir, name))
			if errors.Is(err, fs.ErrNotExist) {
				f, err = disk.Create(path.Join(testDir, name))
			}
			if err == nil {
				_, err = f.WriteAt(b, 0)
			}
			if err = errors.Join(err, f.Close()); err != nil {
				t.Fatal(err)
			}
		}
		_, _ = Open(vfs.Inject(disk, func(op vfs.Op, _ string) error {
			if op != vfs.OpRead && op != vfs.OpStat && op != vfs.OpReadDir && op != vfs.OpOpen && op != vfs.OpClose {
				if left--; left < 0 {
					killed = true
					return errKilled
				}
			}
			return nil
		}), testDir, testGroup, o)
		for seed := range uint64(20) {
			l, err := Open(disk.CrashClone(rand.New(rand.NewPCG(2, seed))), testDir, testGroup, o)
			if err != nil {
				t.Fatal(err)
			}
			if r := l.Recovery(); r.Corrupt {
				t.Fatalf("power lost %d operations into the recovery: %+v", k, r)
			}
		}
		if !killed {
			return
		}
	}
}

// damagedInTheMiddle is the disk of a log of 30 entries with a bit flipped halfway, and how to open it.
func damagedInTheMiddle(t *testing.T) (*vfs.Mem, Options) {
	m := vfs.NewMem(1)
	o := Options{SegmentBytes: 1 << 20, FirstExtent: 4096, Past: NeverRan}
	l := mustOpen(t, m, o)
	for range 3 {
		mustAppend(t, l, 1, records(l, 1, l.LastIndex()+1, 10, 300))
		mustSync(t, l)
	}
	name := path.Join(testDir, l.w.seg.name)
	b := contents(t, m, testDir)[name]
	overwrite(t, m, name, l.w.pos/2, []byte{b[l.w.pos/2] ^ 1})
	o.Past = RanBefore
	return m, o
}

// A recovery has begun a new file behind damage, whose extent it knows; the first write to that file fails, and it must be there all
// the same: else the damage's extent would not be known any more.
func TestFailedWriteBehindDamage(t *testing.T) {
	m, o := damagedInTheMiddle(t)
	fails := false
	l := mustOpen(t, vfs.Inject(crash(m), func(op vfs.Op, _ string) error {
		if fails && op == vfs.OpWrite {
			return errors.New("input/output error")
		}
		return nil
	}), o)
	want := l.Health().DamagedUpTo
	if want == 0 || want == raft.UntilTold {
		t.Fatalf("damaged up to %d", want)
	}
	fails = true
	mustAppend(t, l, 1, records(l, 1, l.LastIndex()+1, 1, 300))
	if _, err := l.Sync(); err == nil {
		t.Fatal("the sync did not fail")
	}
	fails = false
	if got := mustOpen(t, l.fs, o).Health().DamagedUpTo; got != want {
		t.Errorf("damaged up to %d, and after a failed write up to %d", want, got)
	}
}

// A reset of the group goes on without what the damage took, the extent of which is known: when that is on the disk, the log is sound.
func TestToldThatLessMatters(t *testing.T) {
	m, o := damagedInTheMiddle(t)
	l := mustOpen(t, crash(m), o)
	was := l.Health().DamagedUpTo
	if was <= l.LastIndex() || was == raft.UntilTold {
		t.Fatalf("damaged up to %d of a log up to %d", was, l.LastIndex())
	}
	mustSync(t, l) // what the recovery has begun
	l.Told(was + 1)
	if l.MarkPending() {
		t.Error("more than was there is no news, and yet to be noted")
	}
	l.Told(l.LastIndex())
	if !l.MarkPending() {
		t.Error("nothing to be noted")
	}
	if got := mustOpen(t, crash(l.fs.(*vfs.Mem)), o).Health().DamagedUpTo; got != was {
		t.Errorf("damaged up to %d, and after a crash before that was noted up to %d", was, got)
	}
	mustSync(t, l)
	if got := mustOpen(t, crash(l.fs.(*vfs.Mem)), o).Health().DamagedUpTo; got != 0 {
		t.Errorf("noted, and damaged up to %d all the same", got)
	}
}

// A file was begun with a mark and nothing else, and its header rots; then it takes an entry, which has no mark yet. What stands behind
// the mark shows that the header was durable: a power loss in the making of the file leaves nothing there.
func TestHeaderRotsBeforeTheFirstEntry(t *testing.T) {
	for _, entries := range []int{0, 3} {
		m := vfs.NewMem(1)
		l := forgotten(t, m)
		mustSync(t, l)
		if l.w.seg == nil || l.w.pos != SegmentHeaderSize+blockHeaderSize {
			t.Fatal("there is no file with a mark and nothing else")
		}
		name := testDir + "/" + l.w.seg.name
		overwrite(t, m, name, 15, []byte{contents(t, m, testDir)[name][15] ^ 1})
		if entries > 0 {
			mustAppend(t, l, 1, records(l, 1, 21, entries, 300))
			mustSync(t, l)
		}
		o := forgetting
		o.Past = RanBefore
		r := mustOpen(t, crash(m), o).Recovery()
		if want := raft.Index(20 + entries); entries > 0 && (!r.Corrupt || r.DamagedUpTo != want) {
			t.Errorf("entries up to %d were acknowledged: %+v", want, r)
		} else if entries == 0 && (r.Corrupt || r.DamagedUpTo != 0) {
			t.Errorf("nothing was lost: %+v", r)
		}
	}
}

// Damage: bits flip and files vanish in what was durable. Recovery must not take it for a torn tail, must keep the bytes,
// must say up to where the log was durable, and must go on saying so through crashes until a leader has refilled it.

package segment

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"maps"
	"math/rand/v2"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/balsamq/balsa/internal/vfs"
	"github.com/balsamq/balsa/raft"
)

const testDir = "data/group"

// contents reads every file below dir of a file system, without its locks and handles.
func contents(t interface{ Fatal(...any) }, m vfs.FS, dir string) map[string][]byte {
	out := map[string][]byte{}
	names, err := m.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		p := path.Join(dir, name)
		if st, err := m.Stat(p); err != nil {
			t.Fatal(err)
		} else if st.IsDir() {
			for k, v := range contents(t, m, p) {
				out[k] = v
			}
			continue
		}
		b, err := readFile(m, p, 1<<40)
		if err != nil {
			t.Fatal(err)
		}
		out[p] = b
	}
	return out
}

// overwrite puts b into a file, durably.
func overwrite(t interface{ Fatal(...any) }, m vfs.FS, name string, at int64, b []byte) {
	f, err := m.Open(name)
	if err == nil {
		_, err = f.WriteAt(b, at)
	}
	if err == nil {
		err = errors.Join(f.Sync(), f.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
}

type fatal struct{ w *world }

func (f fatal) Fatal(args ...any) { f.w.failf("%s", fmt.Sprint(args...)) }

// damage breaks something that was durable and checks the recovery. It leaves the log healed.
func (w *world) damage() {
	w.trap, w.failAt = 0, 0
	w.quota.SetLimit(1 << 40)
	for range 2 {
		if _, err := w.log.Sync(); err != nil {
			w.failf("sync: %v", err)
		}
	}
	w.synced()
	if w.log.MarkPending() {
		w.failf("a mark is pending after it was written")
	}
	if w.cur.last() < w.cur.first {
		return
	}
	good, snap := w.cur, w.snap
	segs := w.log.segs
	s := segs[w.rng.IntN(len(segs))]
	name := path.Join(testDir, s.name)
	before := contents(fatal{w}, w.mem, testDir)
	kind := w.rng.IntN(8)
	switch {
	case kind == 0 && (s != segs[len(segs)-1] || w.tellsLast(before, segs)):
		w.note("damage: remove %s", s.name)
		w.keepIndex(before) // which may be the one that tells of this file
		if err := errors.Join(w.mem.Remove(name), w.mem.SyncDir(testDir)); err != nil {
			w.failf("%v", err)
		}
		delete(before, name)
		w.count["file removed"]++
	case kind == 1 && before[path.Join(testDir, metaName)] != nil:
		name = path.Join(testDir, metaName)
		w.flip(name, before[name], 0, int64(len(before[name])))
	case kind == 2 && before[path.Join(testDir, snapshotName)] != nil:
		name = path.Join(testDir, snapshotName)
		w.flip(name, before[name], 0, int64(len(before[name])))
	case kind == 3:
		w.flip(name, before[name], 0, SegmentHeaderSize)
	default:
		w.flip(name, before[name], 0, s.size)
	}
	// Index files hide damage in closed segments until it is read, the tip that in most of the newest: then the read must fail, and without them recovery
	// must find it.
	lastGone := before[name] == nil && s == segs[len(segs)-1] // what the index before it tells
	if w.voidFrom = maxIndex; lastGone {
		w.voidFrom = s.first // entries of an earlier generation may come back in its place, until a leader cuts them
	}
	if w.rng.IntN(3) > 0 && !lastGone {
		for p := range before {
			if strings.HasSuffix(p, indexSuffix) || strings.HasSuffix(p, tipSuffix) {
				if err := w.mem.Remove(p); err != nil {
					w.failf("%v", err)
				}
			}
		}
		if err := w.mem.SyncDir(testDir); err != nil {
			w.failf("%v", err)
		}
	}
	w.openDamaged(before)
	if w.noticed(&good) {
		w.afterDamage(&good, &snap, before, name)
		return
	}
	// Not noticed: then every entry reads, or the one that does not says that it is damaged.
	var bad error
	for i := good.first; i <= good.last(); i++ {
		es, err := w.log.Entries(i, i+1, 0)
		if err == nil && !bytes.Equal(es[0].Frame, good.at(i).Frame) {
			w.failf("damage was read as entry %d", i)
		}
		if err != nil && !errors.Is(err, ErrCorrupt) {
			w.failf("read of damaged entry %d: %v", i, err)
		}
		bad = errors.Join(bad, err)
	}
	w.checkLost(&snap)
	w.cur = good
	w.synced()
	if bad == nil {
		// It hit nothing that is read: void entries, a mark, the header of a block. Mended, so that a later scan of the file
		// does not meet it; and opened again, since a log that is written directly has the unit in memory that it ends in.
		if _, err := w.mem.Stat(name); err == nil {
			overwrite(fatal{w}, w.mem, name, w.flipped, []byte{w.mend})
		}
		w.reopen()
		return
	}
	if w.log.Health().ReadErr == nil {
		w.failf("a read met damage and health does not say so")
	}
	// The read has taken the index away that hid the damage. A power loss may bring it back: then the next read does it.
	const patience = 50
	for tries := 0; ; tries++ {
		w.openDamaged(before)
		if w.noticed(&good) {
			break
		}
		if tries == patience {
			w.failf("damage was met by reads but not by the recoveries after them")
		}
		for i := good.first; i <= good.last(); i++ {
			_, _ = w.log.Entries(i, i+1, 0)
		}
	}
	w.afterDamage(&good, &snap, before, name)
}

// keepIndex makes the index file durable whose sync a crash has cut short.
func (w *world) keepIndex(files map[string][]byte) {
	if files[w.unkept] == nil {
		return
	}
	f, err := w.mem.Open(w.unkept)
	if err == nil {
		err = errors.Join(f.Sync(), f.Close())
	}
	if err != nil {
		w.failf("%v", err)
	}
}

// tellsLast: if the last file vanishes, something tells: the index of the file before it, or that there must be one.
func (w *world) tellsLast(files map[string][]byte, segs []*seg) bool {
	if len(segs) == 1 {
		return w.opt.Past != PastUnknown
	}
	return files[path.Join(testDir, indexName(segs[len(segs)-2].name))] != nil
}

// flip flips one bit of a file within [from, to).
func (w *world) flip(name string, b []byte, from, to int64) {
	at := from + w.rng.Int64N(to-from)
	w.note("damage: %s at %d of %d", path.Base(name), at, len(b))
	w.flipped, w.mend = at, b[at]
	b[at] ^= 1 << w.rng.IntN(8) // from here on the file as it must be kept
	overwrite(fatal{w}, w.mem, name, at, b[at:at+1])
}

// openDamaged reopens, through crashes in the recovery.
func (w *world) openDamaged(map[string][]byte) {
	if w.rng.IntN(2) == 0 {
		w.mem = w.mem.CrashClone(w.rng)
	}
	for tries := 0; ; tries++ {
		w.reopens++
		f := w.fs()
		if tries < 4 && w.rng.IntN(2) == 0 {
			w.trap, w.power = 1+w.rng.IntN(24), w.rng.IntN(3) > 0
		}
		if w.verbose {
			w.listDir()
		}
		log, err := Open(f, testDir, testGroup, w.opt)
		w.trap = 0
		if w.dead {
			w.count["crash in repair"]++
			if w.after != nil {
				w.mem, w.after = w.after, nil
			}
			continue
		}
		if err != nil {
			w.failf("open after damage: %v", err)
		}
		w.log = log
		w.note("reopened: [%d, %d], %+v", log.FirstIndex(), log.LastIndex(), log.Health())
		return
	}
}

// noticed reports whether recovery says that something is damaged.
func (w *world) noticed(good *version) bool {
	h := w.log.Health()
	if w.log.FirstIndex() == good.first && w.log.LastIndex() == good.last() && !h.Recovery.Corrupt && h.DamagedUpTo == 0 {
		return false
	}
	return true
}

// checkLost takes note of a snapshot that was set aside, which may only be when the log can do without.
func (w *world) checkLost(snap *raft.Snapshot) {
	s, err := w.log.LoadSnapshot()
	if err != nil {
		w.failf("load snapshot after damage: %v", err)
	}
	switch {
	case s == nil && w.log.FirstIndex() > 1:
		w.failf("no snapshot, and the log begins at %d", w.log.FirstIndex())
	case s == nil:
		w.snap = raft.Snapshot{}
	case w.opt.Checkpoints && s.Meta.Index < snap.Meta.Index && s.Meta.Index <= w.log.LastIndex():
		w.snap = *s // an earlier one, which stands in
		w.count["checkpoint stood in"]++
	case s.Meta.Index != snap.Meta.Index || !bytes.Equal(s.Data, snap.Data):
		w.failf("another snapshot after damage: at %d, was at %d", s.Meta.Index, snap.Meta.Index)
	}
}

// afterDamage checks what a recovery made of damage that it noticed, lets the log be refilled, and goes on.
func (w *world) afterDamage(good *version, snap *raft.Snapshot, before map[string][]byte, broken string) {
	w.count["damage"]++
	check := func() {
		w.checkLost(snap)
		h := w.log.Health()
		first, last := w.trusted()
		switch {
		case first == good.first && last <= good.last() || first == 1 && last == 0 ||
			first == w.snap.Meta.Index+1 && last == first-1 && !w.opt.Checkpoints: // else what others have from good.first on would be missing here
		default:
			w.failf("damaged log is [%d, %d], was [%d, %d], snapshot at %d", first, last, good.first, good.last(), snap.Meta.Index)
		}
		if last < good.last() && h.DamagedUpTo < good.last() {
			w.failf("damaged log is [%d, %d], was durable up to %d, and may vote from %d on", first, last, good.last(), h.DamagedUpTo)
		}
		// What was written and never durable may stand behind damage, and be believed.
		if h.DamagedUpTo > max(w.ever, good.last())+1 && h.DamagedUpTo != raft.UntilTold {
			w.failf("damaged up to %d, the log never had more than %d", h.DamagedUpTo, w.ever)
		}
		for i := max(first, good.first); i <= last; i++ {
			es, err := w.log.Entries(i, i+1, 0)
			if err != nil || !bytes.Equal(es[0].Frame, good.at(i).Frame) {
				w.failf("entry %d of the intact part [%d, %d]: %v", i, first, last, err)
			}
		}
	}
	check()
	// Once more, after a power loss: damage stays on record, the bytes are kept.
	w.mem = w.mem.CrashClone(w.rng)
	w.openDamaged(before)
	check()
	now := contents(fatal{w}, w.mem, testDir)
	kept := func(now map[string][]byte) {
		b, ok := before[broken]
		if ok && !slices.ContainsFunc(mapValues(now), func(v []byte) bool { return bytes.HasPrefix(v, bytes.TrimRight(b, "\x00")) }) {
			w.failf("nothing holds the bytes of the damaged %s any more", broken)
		}
	}
	kept(now)
	had, have := join(before), join(now)
	for i := good.first; i <= good.last(); i++ {
		frame := good.at(i).Frame
		if bytes.Contains(had, frame) && !bytes.Contains(have, frame) {
			w.failf("entry %d was there beside the damage and is gone", i)
		}
	}
	// A leader fills the log again.
	first, last := w.trusted()
	if first >= good.first && last < good.last() || first == good.first {
		if first == good.first {
			w.cur = good.cut(last)
		} else {
			w.cur = good.from(first)
			w.cur = w.cur.cut(last)
		}
		w.synced()
		if last < good.last() {
			t, err := w.log.Append(w.term, entriesOf(good.ents[last+1-good.first:]))
			if err != nil || t.Index != good.last() {
				w.failf("refill from %d: %v", last+1, err)
			}
		}
		w.cur = *good
		w.cur = good.from(first)
	} else {
		w.cur = version{first: first, prev: 0, start: w.log.StartOffset()}
		if first == w.snap.Meta.Index+1 && first > 1 {
			w.cur.prev = w.snap.Meta.Term
		}
		for w.cur.last() < good.last()+1 {
			w.append(w.cur.last()+1, 3)
		}
	}
	if d := w.log.Health().DamagedUpTo; d != raft.UntilTold {
		for w.cur.last() < d {
			w.append(w.cur.last()+1, 1)
		}
	}
	if w.rng.IntN(2) == 0 { // told before, or after
		w.log.Told(good.last())
	}
	if _, err := w.log.Sync(); err != nil {
		w.failf("sync of the refilled log: %v", err)
	}
	if w.log.Told(good.last()); w.log.MarkPending() {
		if _, err := w.log.Sync(); err != nil {
			w.failf("sync of the refilled log: %v", err)
		}
	}
	w.synced()
	if d := w.log.Health().DamagedUpTo; d != 0 {
		w.failf("refilled up to %d, still damaged up to %d", w.cur.last(), d)
	}
	w.checkState()
	w.checkReads()
	if w.rng.IntN(2) == 0 {
		// Retention takes the file whose beginning was still good; the copy that was set aside stays.
		i := w.cur.last()
		data, err := w.log.EncodeSnapshot(i, nil)
		s := raft.Snapshot{Meta: raft.SnapshotMeta{Index: i, Term: w.cur.term(i)}, Data: data}
		if err = errors.Join(err, w.log.SaveSnapshot(s.Meta, s.Data), w.log.TruncatePrefix(i)); err != nil {
			w.failf("truncate the refilled log: %v", err)
		}
		w.snap, w.cur = s, w.cur.from(i+1)
		w.synced()
	}
	w.after = w.mem.CrashClone(w.rng)
	w.reopen()
	kept(contents(fatal{w}, w.mem, testDir))
}

// trusted is the log without what may have come back in place of a file that vanished.
func (w *world) trusted() (first, last raft.Index) {
	first, last = w.log.FirstIndex(), w.log.LastIndex()
	return first, min(last, max(w.voidFrom, first)-1)
}

func mapValues(m map[string][]byte) [][]byte {
	var out [][]byte
	for _, v := range m {
		out = append(out, v)
	}
	return out
}

func join(m map[string][]byte) []byte { return bytes.Join(mapValues(m), nil) }

func TestDamage(t *testing.T) {
	from, to := uint64(1), seeds()/3
	if *flagSeed != 0 {
		from, to = *flagSeed, *flagSeed
	}
	total := map[string]int{}
	for seed := from; seed <= to; seed++ {
		w := newDamageWorld(seed, *flagSteps, nil)
		if err := w.run(); err != nil {
			t.Fatalf("seed %d: %v\nreplay: go test ./segment -run TestDamage -seed %d -steps %d", seed, err, seed, *flagSteps)
		}
		for k, n := range w.count {
			total[k] += n
		}
	}
	t.Logf("%v", total)
	if total["damage"] == 0 || total["crash in repair"] == 0 {
		t.Errorf("too little happened: %v", total)
	}
}

// newDamageWorld is a world in which durable bytes are damaged too.
func newDamageWorld(seed uint64, steps int, fault func(vfs.Op, string) error) *world {
	w := newWorld(seed, steps, fault)
	w.rng = rand.New(rand.NewPCG(seed, 2))
	w.damaging = true
	return w
}

// A checkpoint is a copy that makes room; one that has rotted must cost some room, and not the replica: neither now nor after
// each reopening.
func TestRottenCheckpointDoesNotStopPrune(t *testing.T) {
	m := vfs.NewMem(1)
	o := Options{SegmentBytes: 4096, FirstExtent: 4096, Checkpoints: true}
	l := mustOpen(t, m, o)
	save := func(i raft.Index) {
		t.Helper()
		data, err := l.EncodeSnapshot(i, []byte("the state machine's part"))
		if err == nil {
			err = l.SaveSnapshot(raft.SnapshotMeta{Index: i, Term: 1}, data)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for k := range 10 {
		mustAppend(t, l, 1, records(l, 1, l.LastIndex()+1, 10, 300))
		mustSync(t, l)
		if k > 0 {
			save(l.LastIndex())
		}
	}
	if len(l.kept) < 3 {
		t.Fatalf("%d checkpoints", len(l.kept))
	}
	c := l.kept[1]
	name := path.Join(testDir, checkpointName(c.index))
	full := contents(t, m, testDir)[name]
	overwrite(t, m, name, int64(len(full)-1), []byte{full[len(full)-1] ^ 1})
	for range 2 {
		l.Forget(c.next)
		if m, err := l.Prune(); err != nil {
			t.Errorf("prune: %v", err)
		} else if m != nil && m.Index >= c.index {
			t.Errorf("cut at the checkpoint at %d, the one at %d has rotted", m.Index, c.index)
		}
		if contents(t, m, testDir)[name] != nil {
			t.Error("the rotten checkpoint is where it was")
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		l = mustOpen(t, m, o)
	}
}

// The same of the snapshot that the log begins behind, when the next one is about to take its place.
func TestRottenBaseIsReplaced(t *testing.T) {
	m := vfs.NewMem(1)
	o := Options{SegmentBytes: 1 << 20, FirstExtent: 4096, Checkpoints: true}
	l := mustOpen(t, m, o)
	save := func(i raft.Index) {
		t.Helper()
		data, err := l.EncodeSnapshot(i, []byte("the state machine's part"))
		if err == nil {
			err = l.SaveSnapshot(raft.SnapshotMeta{Index: i, Term: 1}, data)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	mustAppend(t, l, 1, records(l, 1, 1, 20, 300))
	mustSync(t, l)
	save(10)
	if err := l.TruncatePrefix(10); err != nil {
		t.Fatal(err)
	}
	if len(l.kept) != 0 {
		t.Fatal("there is a checkpoint")
	}
	name := path.Join(testDir, snapshotName)
	full := contents(t, m, testDir)[name]
	overwrite(t, m, name, int64(len(full)-1), []byte{full[len(full)-1] ^ 1})
	save(20)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	l = mustOpen(t, m, o)
	if r := l.Recovery(); r.Corrupt || r.SnapshotLost || l.FirstIndex() != 11 || l.LastIndex() != 20 {
		t.Errorf("opened as [%d, %d]: %+v", l.FirstIndex(), l.LastIndex(), r)
	}
}

// A file of another version is not a damaged one: whoever starts an older program by mistake must not find the log set aside.
func TestOtherVersionIsNoDamage(t *testing.T) {
	o := Options{SegmentBytes: 4096, FirstExtent: 4096, Checkpoints: true}
	reseal := func(b []byte, magic uint32, end int) {
		binary.LittleEndian.PutUint32(b[4:], crc32.Update(groupSeed(testGroup)^magic, castagnoli, b[8:end]))
	}
	for _, c := range []struct {
		what, prefix string
		version      uint16
		magic        uint32
		end          func(b []byte) int // of what the checksum is over
	}{
		{"a later snapshot", snapshotName, snapshotVersion + 1, snapshotMagic, func([]byte) int { return snapshotHeaderSize }},
		{"a snapshot of the first version", snapshotName, firstSnapshotVersion, snapshotMagic, func(b []byte) int { return len(b) }},
		{"a later checkpoint", checkpoints, snapshotVersion + 1, snapshotMagic, func([]byte) int { return snapshotHeaderSize }},
		{"a later meta file", metaName, cleanedMeta + 1, metaMagic, func(b []byte) int { return len(b) }},
		{"a later segment", "0", paddedVersion + 1, segmentMagic, func([]byte) int { return SegmentHeaderSize }},
	} {
		t.Run(c.what, func(t *testing.T) {
			m := vfs.NewMem(1)
			l := mustOpen(t, m, o)
			mustAppend(t, l, 1, records(l, 1, 1, 40, 300))
			mustSync(t, l)
			data, err := l.EncodeSnapshot(30, []byte("state"))
			if err == nil {
				err = l.SaveSnapshot(raft.SnapshotMeta{Index: 30, Term: 1}, data)
			}
			if err == nil {
				err = l.TruncatePrefix(30)
			}
			if err == nil {
				err = l.Close()
			}
			if err != nil {
				t.Fatal(err)
			}
			name := ""
			for k := range contents(t, m, testDir) {
				if strings.HasPrefix(path.Base(k), c.prefix) && !strings.HasSuffix(k, indexSuffix) && k > name {
					name = k
				}
			}
			if name == "" {
				t.Fatal("there is no such file")
			}
			b := contents(t, m, testDir)[name]
			was := slices.Clone(b[:16])
			binary.LittleEndian.PutUint16(b[8:], c.version)
			reseal(b, c.magic, c.end(b))
			overwrite(t, m, name, 0, b[:16])
			before := contents(t, m, testDir)
			if l, err := Open(m, testDir, testGroup, o); err == nil {
				t.Fatalf("opened as [%d, %d]: %+v", l.FirstIndex(), l.LastIndex(), l.Health().Recovery)
			} else if !errors.Is(err, ErrVersion) {
				t.Error(err)
			}
			if !maps.EqualFunc(before, contents(t, m, testDir), bytes.Equal) {
				t.Error("files have changed")
			}
			overwrite(t, m, name, 0, was)
			l = mustOpen(t, m, o) // nothing is lost
			if r := l.Recovery(); r.Corrupt || r.SnapshotLost || l.FirstIndex() != 31 || l.LastIndex() != 40 {
				t.Errorf("opened as [%d, %d]: %+v", l.FirstIndex(), l.LastIndex(), r)
			}
		})
	}
}

// The property test: random histories of one log on the crashable file system, checked against a model. Faults that must
// be survived: power loss at any I/O operation (unsynced bytes and names kept, lost or torn), a killed process at any I/O
// operation, a full disk, a failed sync. The checker is a value of its own, so that sync_mutation_test.go can show that
// it notices every single sync that is taken out.

package segment

import (
	"bytes"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"runtime/debug"
	"slices"
	"sort"
	"strings"
	"testing"

	"github.com/balsamq/balsa/internal/vfs"
	"github.com/balsamq/balsa/protocol"
	"github.com/balsamq/balsa/raft"
)

var (
	flagSeed  = flag.Uint64("seed", 0, "run only this seed of the property test")
	flagSeeds = flag.Int("seeds", 60, "number of seeds of the property test")
	flagSteps = flag.Int("steps", 400, "steps per seed of the property test")
)

// seeds is how many of them the property tests take: with -short a third, if none are asked for. What is run once more with the race detector has
// been run in full without, and is mostly one goroutine.
func seeds() uint64 {
	asked := false
	flag.Visit(func(f *flag.Flag) { asked = asked || f.Name == "seeds" })
	if testing.Short() && !asked {
		return uint64(*flagSeeds / 3)
	}
	return uint64(*flagSeeds)
}

const testGroup raft.GroupID = 77

var errKilled = errors.New("the process is dead")

// failure is how the checker reports: it is panicked and recovered at the edge, so that the mutation test can expect it.
type failure struct{ msg string }

// version is a state that the log may be in.
type version struct {
	first raft.Index
	prev  raft.Term // of the entry before first
	start Offset
	ents  []record
}

func (v *version) last() raft.Index { return v.first + raft.Index(len(v.ents)) - 1 }
func (v *version) next() Offset {
	if n := len(v.ents); n > 0 {
		return v.ents[n-1].next()
	}
	return v.start
}
func (v *version) at(i raft.Index) *record { return &v.ents[i-v.first] }

// at0 is the offset after entry i, which may be the one before the first.
func (v *version) at0(i raft.Index) Offset {
	if i == v.first-1 {
		return v.start
	}
	return v.at(i).next()
}

func (v *version) term(i raft.Index) raft.Term {
	if i == v.first-1 {
		return v.prev
	}
	return v.at(i).Term
}

// cut is v without what is above last.
func (v *version) cut(last raft.Index) version {
	c := *v
	c.ents = slices.Clip(v.ents[:last+1-v.first])
	return c
}

// from is v without what is below first.
func (v *version) from(first raft.Index) version {
	if first == v.first {
		return *v
	}
	c := version{first: first, prev: v.term(first - 1), start: v.at(first - 1).next(), ents: v.ents[first-v.first:]}
	return c
}

// possible is a state that may be found after a crash: v, or v without some of its end, down to min.
type possible struct {
	v   version
	min raft.Index
}

type world struct {
	rng   *rand.Rand
	steps int
	opt   Options
	mem   *vfs.Mem
	quota *vfs.QuotaFS
	fault func(op vfs.Op, name string) error // beneath the trap: what the mutation test takes out
	log   *Log

	// The trap: after so many operations the process dies; with a power loss, snap is what the disk then holds.
	trap   int
	power  bool
	dead   bool
	after  *vfs.Mem
	failAt int // operations until a sync fails

	cur     version   // what the log must show
	durable version   // as of the last successful sync
	pending []version // appended since, oldest first, with the lowest cut up to then
	cuts    []raft.Index
	late    *lateWorld // of a relaxed log; see relaxed_prop_test.go
	extra   []possible // what an interrupted operation may have led to
	term    raft.Term
	snap    raft.Snapshot // stored; Index 0: none
	snapAlt []raft.Snapshot
	saved   []checkpoint   // snapshots that were saved, or may have been, and their next offsets
	forget  Offset         // what the log was told in this life
	coming  *raft.Snapshot // on its way from a leader
	came    int64          // of it
	serial  uint64
	reopens int
	count   map[string]int
	trace   []string
	verbose bool

	damaging bool
	ever     raft.Index // the highest index that was ever appended
	voidFrom raft.Index // beyond the log, or where the last file began that was removed
	unkept   string     // the last index file whose sync was cut short by a crash
	flipped  int64      // where the last bit was flipped, and the byte before
	mend     byte
}

// listDir notes what is in the log's directory.
func (w *world) listDir() {
	names, _ := w.mem.ReadDir("data/group")
	for _, name := range names {
		st, _ := w.mem.Stat("data/group/" + name)
		w.note("    %s %d", name, st.Size())
	}
}

func newWorld(seed uint64, steps int, fault func(vfs.Op, string) error) *world {
	rng := rand.New(rand.NewPCG(seed, 1))
	w := &world{rng: rng, steps: steps, mem: vfs.NewMem(seed), fault: fault, term: 1, count: map[string]int{}}
	w.cur = version{first: 1}
	w.durable = w.cur
	w.opt = Options{
		SegmentBytes: int64(2048 << rng.IntN(6)), IndexBytes: int64(128 << rng.IntN(6)),
		ZeroAhead: int64(rng.IntN(2)) * 2000, FirstExtent: 4096 << rng.IntN(3), MaxExtent: 16384, Cache: NewCache(int64(rng.IntN(3)) * 4096),
		Checkpoints: seed%2 == 1, Direct: seed/4%2 == 1, ScanBytes: 64 << (seed / 8 % 8),
	}
	if seed/4%4 == 3 {
		w.opt.Pads, w.opt.PadFrom, w.opt.PadShare = func() bool { return w.serial%8 != 0 }, 64<<(seed/16%8), 1
	}
	w.opt.Past = Past(seed / 2 % 2) // unknown, or as the owner of a journal says
	return w
}

func (w *world) failf(format string, args ...any) {
	tail := w.trace
	if len(tail) > 40 {
		tail = tail[len(tail)-40:]
	}
	panic(failure{fmt.Sprintf(format, args...) + "\nlast steps:\n  " + strings.Join(tail, "\n  ")})
}

func (w *world) note(format string, args ...any) {
	w.trace = append(w.trace, fmt.Sprintf(format, args...))
}

// fs is the file system that the log of the current process sees.
func (w *world) fs() vfs.FS {
	limit := int64(1 << 40)
	if w.quota != nil {
		limit = 1 << 40
	}
	w.quota = vfs.Quota(w.mem, limit, "data")
	w.dead, w.trap, w.failAt = false, 0, 0
	inner := vfs.FS(w.quota)
	if w.fault != nil {
		inner = vfs.Inject(inner, w.fault)
	}
	life := w.reopens
	return vfs.Inject(inner, func(op vfs.Op, name string) error {
		if w.dead || life != w.reopens {
			return errKilled
		}
		if w.trap > 0 && op != vfs.OpRead && op != vfs.OpStat && op != vfs.OpReadDir {
			if w.trap--; w.trap == 0 {
				w.dead = true
				if w.power {
					w.after = w.mem.CrashClone(w.rng)
				}
				if op == vfs.OpSync && strings.HasSuffix(name, indexSuffix) {
					w.unkept = name
				}
				w.note("  trap: power=%v at %s %s", w.power, op, name)
				return errKilled
			}
		}
		if w.failAt > 0 && (op == vfs.OpSync || op == vfs.OpWrite || op == vfs.OpSyncDir) {
			if w.failAt--; w.failAt == 0 {
				w.note("  failed %s %s", op, name)
				if op == vfs.OpSync && w.rng.IntN(4) > 0 {
					w.count["fsyncgate"]++
					if err := w.mem.FailSync(name, w.rng); err != nil {
						return err
					}
				}
				return errors.New("injected I/O error")
			}
		}
		return nil
	})
}

// entry makes the next entry of the log.
func (w *world) entry(index raft.Index, base Offset) record {
	w.serial++
	e := raft.Entry{Term: w.term, Index: index}
	var records uint32
	switch w.rng.IntN(10) {
	case 0:
		e.Type = raft.EntryNoop
	case 1:
		e.Type, e.Payload = raft.EntryConfig, binary.AppendUvarint([]byte("conf"), w.serial)
	case 2:
		e.Type, e.Payload = raft.EntryCommand, binary.AppendUvarint([]byte("command"), w.serial)
	default:
		e.Type, records = raft.EntryRecords, uint32(1+w.rng.IntN(5))
		size := w.rng.IntN(200)
		if w.rng.IntN(20) == 0 {
			size = w.rng.IntN(6000)
		}
		e.Payload = testBatch(w.rng, base, records, int64(w.serial*10)+w.rng.Int64N(200), size)
	}
	AppendFrame(nil, testGroup, &e, base, records)
	return record{Entry: e, base: base, records: records}
}

// testBatch is a batch header of the given range and time, and some bytes.
func testBatch(rng *rand.Rand, base Offset, records uint32, ts int64, size int) []byte {
	b := make([]byte, protocol.BatchHeaderSize+size)
	binary.BigEndian.PutUint64(b, uint64(base))
	b[batchMagicAt] = 2
	binary.BigEndian.PutUint32(b[23:], records-1)
	binary.BigEndian.PutUint64(b[27:], uint64(ts-3))
	binary.BigEndian.PutUint64(b[35:], uint64(ts))
	fill(rng, b[protocol.BatchHeaderSize:])
	return b
}

// fill fills b with random bytes, of megabytes eight at a time: one by one takes seconds under the race detector.
func fill(rng *rand.Rand, b []byte) {
	for ; len(b) >= 8; b = b[8:] {
		binary.LittleEndian.PutUint64(b, rng.Uint64())
	}
	for i := range b {
		b[i] = byte(rng.Uint32())
	}
}

// placeFrames moves frames to where those of a message are, one behind the other, or each to a place of its own. Where they lie decides how they are
// written, so it must not be chance.
func placeFrames(recs []record, salt int) {
	var mem []byte
	for i := range recs {
		r := &recs[i]
		n := len(r.Frame)
		if len(mem) < n || salt%5 == 0 {
			mem = vfs.Aligned(64 << 10)[salt*97%vfs.DirectUnit:]
			salt++
		}
		copy(mem, r.Frame)
		r.Frame, mem = mem[:n], mem[n:]
		r.Payload = r.Frame[FrameHeaderSize:n:n]
	}
}

func entriesOf(recs []record) []raft.Entry {
	out := make([]raft.Entry, len(recs))
	for i := range recs {
		out[i] = recs[i].Entry
	}
	return out
}

// append appends n entries at from.
func (w *world) append(from raft.Index, n int) {
	v := w.cur.cut(from - 1)
	next := v.next()
	var recs []record
	for i := range n {
		r := w.entry(from+raft.Index(i), next)
		recs, next = append(recs, r), r.next()
	}
	if w.opt.Pads != nil {
		placeFrames(recs, int(w.serial))
	}
	t, err := w.log.Append(w.term, entriesOf(recs))
	if err != nil {
		if w.dead || errors.Is(err, ErrFailed) {
			return
		}
		w.failf("append at %d: %v", from, err)
	}
	v.ents = append(v.ents, recs...)
	if want := (raft.Ticket{Term: w.term, Index: v.last()}); t != want {
		w.failf("append returned %+v, want %+v", t, want)
	}
	low := from - 1
	if len(w.cuts) > 0 {
		low = min(low, w.cuts[len(w.cuts)-1])
	}
	w.cur, w.pending, w.cuts = v, append(w.pending, v), append(w.cuts, low)
	w.late.appended(v, from-1)
	w.ever = max(w.ever, v.last())
}

// synced notes that all up to now is durable.
func (w *world) synced() {
	w.durable, w.pending, w.cuts = w.cur, nil, nil
	w.late.synced()
}

// possibles is what a crash now may leave.
func (w *world) possibles() []possible {
	ps := []possible{{w.durable, w.durable.last()}}
	for i, v := range w.pending {
		ps = append(ps, possible{v, max(min(w.durable.last(), w.cuts[i]), v.first-1)})
	}
	return append(ps, w.extra...)
}

func (w *world) step() {
	if w.rng.IntN(6) == 0 {
		w.trap, w.power = 1+w.rng.IntN(24), w.rng.IntN(3) > 0
		if w.rng.IntN(4) == 0 {
			w.trap = 1 + w.rng.IntN(3)
		}
	} else if w.rng.IntN(60) == 0 {
		w.failAt = 1 + w.rng.IntN(4)
	}
	if w.late.step() {
		return
	}
	w.extra, w.snapAlt = nil, nil
	if w.damaging && w.rng.IntN(25) == 0 {
		w.damage()
		return
	}
	lo := max(w.cur.first-1, w.snap.Meta.Index) // never cut at or below: committed
	switch k := w.rng.IntN(100); {
	case k < 40:
		n := 1 + w.rng.IntN(6)
		w.note("append %d at %d, term %d", n, w.cur.last()+1, w.term)
		w.append(w.cur.last()+1, n)
	case k < 50 && w.cur.last() > lo:
		w.term += raft.Term(1 + w.rng.IntN(2))
		from := lo + 1 + raft.Index(w.rng.Uint64N(uint64(w.cur.last()-lo)))
		if w.rng.IntN(2) == 0 { // mostly near the end, where syncs are in flight
			from = max(from, w.cur.last()-min(w.cur.last()-1, 4))
		}
		n := 1 + w.rng.IntN(5)
		w.note("append %d at %d (last %d), term %d", n, from, w.cur.last(), w.term)
		w.append(from, n)
	case k < 75:
		w.note("sync up to %d", w.cur.last())
		w.sync()
	case k < 80:
		w.saveSnapshot()
	case k < 84 && w.opt.Checkpoints:
		w.prune()
	case k < 84 && w.snap.Meta.Index >= w.cur.first:
		w.truncatePrefix()
	case k < 85:
		w.installSnapshot()
	case k < 86:
		w.receive()
	case k < 88:
		limit := w.quota.Used() + int64(w.rng.IntN(9000))
		if w.rng.IntN(2) == 0 {
			limit = 1 << 40
		}
		w.note("disk has room for %d", limit-w.quota.Used())
		w.quota.SetLimit(limit)
	case k < 94:
		w.note("read")
		w.checkReads()
	case k < 96:
		w.note("close")
		if err := w.log.Close(); err == nil {
			w.synced()
		}
		w.reopen()
		return
	default:
		w.trap, w.power = 1, w.rng.IntN(2) == 0
		w.note("crash at rest, power %v", w.power)
		if w.power {
			w.after = w.mem.CrashClone(w.rng)
		}
		w.reopen()
		return
	}
	if w.dead || w.log.Health().Err != nil {
		w.reopen()
		return
	}
	w.trap, w.failAt = 0, 0
	w.checkState()
}

// syncLog is a Sync, every other time as a flusher with many logs does it.
func (w *world) syncLog() (raft.Ticket, error) {
	if w.serial%2 == 0 {
		if write, _, ok := w.log.BeginSync(vfs.Aligned(directBytes)); ok {
			w.count["halves"]++
			return w.log.EndSync(write.File.WriteSync(write.Bufs, write.Off))
		}
	}
	return w.log.Sync()
}

func (w *world) sync() {
	t, err := w.syncLog()
	switch {
	case err == nil:
		if t.Index != w.cur.last() && !(w.cur.last() == w.cur.first-1) {
			w.failf("sync returned %+v, the log ends at %d", t, w.cur.last())
		}
		w.synced()
	case w.dead, errors.Is(err, ErrFailed):
	case errors.Is(err, vfs.ErrNoSpace):
		w.count["no space"]++
		if s := w.log.SyncedIndex(); len(w.cuts) > 0 && s > w.cuts[len(w.cuts)-1] {
			// A part was written, and is promised: more than the lowest cut means that the cut is durable too.
			w.durable = w.cur.cut(s)
			w.pending, w.cuts = []version{w.cur}, []raft.Index{s}
		}
		if !w.log.Full() && w.quota.Used() < 1<<30 {
			if free, _ := w.quota.Free(""); free < 4096 {
				w.failf("sync found no space, and the log is not full")
			}
		}
	default:
		w.failf("sync: %v", err)
	}
}

func (w *world) saveSnapshot() {
	lo := max(w.cur.first-1, w.snap.Meta.Index)
	if lo == 0 {
		lo = 1
	}
	if w.cur.last() < lo {
		return
	}
	i := lo + raft.Index(w.rng.Uint64N(uint64(w.cur.last()-lo+1)))
	w.note("save snapshot at %d", i)
	w.serial++
	data, err := w.log.EncodeSnapshot(i, binary.AppendUvarint([]byte("state"), w.serial))
	if err != nil {
		if w.dead {
			return
		}
		w.failf("encode snapshot at %d: %v", i, err)
	}
	s := raft.Snapshot{Meta: raft.SnapshotMeta{Index: i, Term: w.cur.term(i), Conf: raft.ConfState{Voters: []raft.Member{{ID: 1, Incarnation: 5}, {ID: 2}}}}, Data: data}
	had := w.log.SyncedIndex()
	w.saved = append(w.saved, checkpoint{i, w.cur.at0(i)})
	err = w.log.SaveSnapshot(s.Meta, s.Data)
	switch {
	case err == nil:
		w.snap = s
		if i > had || w.late != nil && w.log.SyncedIndex() == w.cur.last() {
			w.synced()
		}
	case w.dead || errors.Is(err, ErrFailed) || strings.Contains(err.Error(), "injected") || errors.Is(err, vfs.ErrNoSpace):
		w.snapAlt = append(w.snapAlt, s)
		if w.log.SyncedIndex() == w.cur.last() && i > had {
			w.synced()
		}
		if !w.dead && w.log.Health().Err == nil {
			w.afterSoftFailure()
		}
	default:
		w.failf("save snapshot at %d: %v", i, err)
	}
}

// afterSoftFailure is for a small file that could not be replaced: which one is on disk is not known. The process is
// killed, and must cope with either.
func (w *world) afterSoftFailure() { w.dead = true }

func (w *world) truncatePrefix() {
	upTo := w.cur.first + raft.Index(w.rng.Uint64N(uint64(w.snap.Meta.Index-w.cur.first+1)))
	w.note("truncate prefix up to %d", upTo)
	had := w.log.SyncedIndex()
	err := w.log.TruncatePrefix(upTo)
	if upTo > had && w.log.SyncedIndex() == w.cur.last() {
		w.synced()
	}
	trim := func(v version) version { return v.from(max(v.first, upTo+1)) }
	switch {
	case err == nil:
		w.late.trim(upTo)
		w.cur, w.durable = trim(w.cur), trim(w.durable)
		for i := range w.pending {
			w.pending[i] = trim(w.pending[i])
		}
	case w.dead || errors.Is(err, ErrFailed) || strings.Contains(err.Error(), "injected") || errors.Is(err, vfs.ErrNoSpace):
		for _, p := range w.possibles() {
			if p.v.last() >= upTo {
				w.extra = append(w.extra, possible{trim(p.v), max(p.min, upTo)})
			}
		}
		if !w.dead && w.log.Health().Err == nil {
			w.afterSoftFailure()
		}
	default:
		w.failf("truncate prefix up to %d: %v", upTo, err)
	}
}

// reopen is a new process: after a power loss on what the disk kept, else on the same file system.
func (w *world) reopen() {
	ps := w.possibles()
	acked := len(ps)
	ps = append(ps, w.late.possibles(w.after != nil)...)
	if w.after != nil {
		w.count["power loss"]++
		w.mem, w.after = w.after, nil
	} else {
		w.count["kill"]++
	}
	for tries := 0; ; tries++ {
		w.reopens++
		if w.verbose {
			w.listDir()
		}
		f := w.fs()
		if tries < 5 && w.rng.IntN(4) == 0 {
			w.trap, w.power = 1+w.rng.IntN(8), w.rng.IntN(2) == 0
		}
		log, err := Open(f, "data/group", testGroup, w.opt)
		if w.dead {
			w.count["crash in recovery"]++
			if w.after != nil {
				w.mem, w.after = w.after, nil
				ps = append(ps[:acked], w.late.possibles(true)...)
			}
			continue
		}
		if err != nil {
			w.failf("open: %v", err)
		}
		w.trap = 0
		w.log, w.forget = log, 0
		if w.opt.Past == NeverRan {
			w.opt.Past = RanBefore
		}
		break
	}
	if h := w.log.Health(); h.Recovery.Corrupt || h.DamagedUpTo != 0 && !w.late.excuses(&h) || h.Recovery.SnapshotLost {
		w.failf("nothing was damaged, and recovery says %+v", h.Recovery)
	} else if h.Recovery.Torn {
		w.count["torn tail"]++
	}
	w.checkSnapshot()
	first, last := w.log.FirstIndex(), w.log.LastIndex()
	w.note("reopened: [%d, %d]", first, last)
	var why []string
	for i, p := range ps {
		if reason := w.matches(&p, first, last); reason != "" {
			why = append(why, reason)
			continue
		}
		w.late.reopened(i >= acked)
		w.cur = p.v.cut(last)
		w.synced()
		w.extra, w.snapAlt = nil, nil
		w.term++ // whoever leads next
		w.checkState()
		w.checkBase()
		w.checkReads()
		return
	}
	w.failf("reopened as [%d, %d], which is none of %d possible states:\n  %s", first, last, len(ps), strings.Join(why, "\n  "))
}

// matches says why the reopened log is not p, or "".
func (w *world) matches(p *possible, first, last raft.Index) string {
	v := &p.v
	if first != v.first || last > v.last() || last < p.min {
		return fmt.Sprintf("[%d, %d], down to %d", v.first, v.last(), p.min)
	}
	for i := first; i <= last; i++ {
		es, err := w.log.Entries(i, i+1, 0)
		if err != nil {
			w.failf("read entry %d of [%d, %d] after reopening: %v", i, first, last, err)
		}
		if !bytes.Equal(es[0].Frame, v.at(i).Frame) {
			return fmt.Sprintf("[%d, %d], down to %d: entry %d differs: term %d, want %d", v.first, v.last(), p.min, i, es[0].Term, v.at(i).Term)
		}
	}
	return ""
}

func (w *world) checkSnapshot() {
	s, err := w.log.LoadSnapshot()
	if err != nil {
		w.failf("load snapshot: %v", err)
	}
	got := raft.Snapshot{}
	if s != nil {
		got = *s
	}
	for _, want := range append([]raft.Snapshot{w.snap}, w.snapAlt...) {
		if got.Meta.Index == want.Meta.Index && got.Meta.Term == want.Meta.Term && bytes.Equal(got.Data, want.Data) &&
			slices.Equal(got.Meta.Conf.Voters, want.Meta.Conf.Voters) {
			w.snap = want
			if want.Data != nil {
				if _, err := w.log.DecodeSnapshot(got.Data); err != nil {
					w.failf("decode snapshot: %v", err)
				}
			}
			return
		}
	}
	w.failf("stored snapshot is at %d of term %d, want the one at %d of term %d, or %d others", got.Meta.Index, got.Meta.Term,
		w.snap.Meta.Index, w.snap.Meta.Term, len(w.snapAlt))
}

// checkState compares what costs no I/O.
func (w *world) checkState() {
	l, v := w.log, &w.cur
	if l.FirstIndex() != v.first || l.LastIndex() != v.last() || l.NextOffset() != v.next() || l.StartOffset() != v.start {
		w.failf("log is [%d, %d], offsets [%d, %d), want [%d, %d], [%d, %d)", l.FirstIndex(), l.LastIndex(), l.StartOffset(), l.NextOffset(),
			v.first, v.last(), v.start, v.next())
	}
	for i := v.first - 1; i <= v.last(); i++ {
		if t, err := l.Term(i); err != nil || t != v.term(i) {
			w.failf("term of %d is %d (%v), want %d", i, t, err, v.term(i))
		}
	}
	if v.first > 1 {
		if _, err := l.Term(v.first - 2); !errors.Is(err, raft.ErrCompacted) {
			w.failf("term below the log: %v", err)
		}
	}
	if _, err := l.Term(v.last() + 1); !errors.Is(err, raft.ErrUnavailable) {
		w.failf("term above the log: %v", err)
	}
	if u := l.Unsynced(); (u == 0) != (l.SyncedIndex() == v.last()) || u < 0 {
		w.failf("unsynced %d, synced up to %d of %d", u, l.SyncedIndex(), v.last())
	}
}

// checkReads compares all kinds of reads.
func (w *world) checkReads() {
	l, v, rng := w.log, &w.cur, w.rng
	w.trap, w.failAt = 0, 0
	if v.last() < v.first {
		return
	}
	pick := func() raft.Index { return v.first + raft.Index(rng.Uint64N(uint64(len(v.ents)))) }
	// Raft's way.
	lo := pick()
	hi := lo + 1 + raft.Index(rng.Uint64N(uint64(v.last()-lo+1)))
	maxBytes := rng.IntN(4000)
	es, err := l.Entries(lo, hi, maxBytes)
	if err != nil || len(es) == 0 {
		w.failf("entries [%d, %d): %v", lo, hi, err)
	}
	sum := 0
	for i := range es {
		if !bytes.Equal(es[i].Frame, v.at(lo+raft.Index(i)).Frame) || es[i].Index != lo+raft.Index(i) {
			w.failf("entries [%d, %d): the %d. differs", lo, hi, i)
		}
		sum += len(es[i].Frame)
	}
	if len(es) > 1 && sum > maxBytes {
		w.failf("entries of %d bytes, at most %d asked", sum, maxBytes)
	}
	if lo+raft.Index(len(es)) < hi && sum+len(v.at(lo+raft.Index(len(es))).Frame) <= maxBytes {
		w.failf("entries [%d, %d): only %d returned though more fit", lo, hi, len(es))
	}
	i := pick()
	if off, err := l.OffsetAfter(i); err != nil || off != v.at(i).next() {
		w.failf("offset after %d is %d (%v), want %d", i, off, err, v.at(i).next())
	}
	upTo := pick()
	want := sort.Search(len(v.ents), func(k int) bool { return v.ents[k].Index > upTo })
	var conf *record
	for k := range v.ents[:want] {
		if v.ents[k].Type == raft.EntryConfig {
			conf = &v.ents[k]
		}
	}
	if e, ok, err := l.LastConfig(upTo); err != nil || ok != (conf != nil) || ok && !bytes.Equal(e.Frame, conf.Frame) {
		w.failf("last membership up to %d: %d, %v, %v", upTo, e.Index, ok, err)
	}
	w.checkOffsets(upTo)
	w.checkTimes(upTo)
}

func (w *world) checkOffsets(upTo raft.Index) {
	l, v, rng := w.log, &w.cur, w.rng
	from := v.start + Offset(rng.Int64N(int64(v.next()-v.start)+1))
	maxBytes := rng.IntN(4000)
	var loan *Loan
	if rng.IntN(2) == 0 {
		loan = new(Loan)
		defer loan.Return()
	}
	got, err := l.ReadLent(from, upTo, maxBytes, loan)
	if err != nil {
		w.failf("read from offset %d up to %d: %v", from, upTo, err)
	}
	var want [][]byte
	sum := 0
	for k := range v.ents {
		r := &v.ents[k]
		if r.Index > upTo || r.records > 0 && r.next() > from && len(want) > 0 && sum+len(r.Payload) > maxBytes {
			break
		}
		if r.records > 0 && r.next() > from {
			want, sum = append(want, r.Payload), sum+len(r.Payload)
		}
	}
	if !slices.EqualFunc(got, want, bytes.Equal) {
		w.failf("read from offset %d up to %d, %d bytes: %d batches, want %d", from, upTo, maxBytes, len(got), len(want))
	}
	if _, err := l.ReadOffsets(v.next()+1, upTo, 1); !errors.Is(err, ErrOffsetOutOfRange) {
		w.failf("read above the end: %v", err)
	}
	if v.start > 0 {
		if _, err := l.ReadOffsets(v.start-1, upTo, 1); !errors.Is(err, ErrOffsetOutOfRange) {
			w.failf("read below the start: %v", err)
		}
	}
	// Terms.
	t := raft.Term(rng.Uint64N(uint64(w.term + 2)))
	term, end := l.EpochEnd(t, upTo)
	if t >= v.term(v.first) { // below, what prefix truncations and snapshots carried on counts too
		wantTerm, wantEnd := raft.Term(0), v.at(upTo).next()
		for k := range v.ents[:upTo+1-v.first] {
			r := &v.ents[k]
			if r.Term <= t {
				wantTerm = r.Term
			} else {
				wantEnd = r.base
				break
			}
		}
		if term != wantTerm || end != wantEnd {
			w.failf("term %d up to %d ends as (%d, %d), want (%d, %d)", t, upTo, term, end, wantTerm, wantEnd)
		}
	}
	for k := range v.ents {
		if r := &v.ents[k]; r.records > 0 && from >= r.base && from < r.next() {
			if got, ok := l.EpochAt(from); !ok || got != r.Term {
				w.failf("offset %d is of term %d (%v), want %d", from, got, ok, r.Term)
			}
		}
	}
}

func (w *world) checkTimes(upTo raft.Index) {
	l, v := w.log, &w.cur
	var best *record
	probe := int64(w.rng.Uint64N(w.serial*10 + 300))
	var first *record
	for k := range v.ents[:upTo+1-v.first] {
		r := &v.ents[k]
		t := r.maxTimestamp()
		if t == noTimestamp {
			continue
		}
		if best == nil || t > best.maxTimestamp() {
			best = r
		}
		if first == nil && t >= probe {
			first = r
		}
	}
	off, ts, term, ok, err := l.OffsetForTime(probe, 0, upTo)
	if err != nil || ok != (first != nil) || ok && (off != first.base || ts != first.maxTimestamp() || term != first.Term) {
		w.failf("offset for time %d up to %d: %d, %d, %d, %v, %v; want %+v", probe, upTo, off, ts, term, ok, err, first)
	}
	off, ts, term, ok, err = l.MaxTimestamp(0, upTo)
	if err != nil || ok != (best != nil) || ok && (off != best.base || ts != best.maxTimestamp() || term != best.Term) {
		w.failf("largest timestamp up to %d: %d, %d, %d, %v, %v", upTo, off, ts, term, ok, err)
	}
}

// checkDir fails if files pile up that the log has no use for.
func (w *world) checkDir() {
	names, err := w.mem.ReadDir("data/group")
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	if err != nil {
		w.failf("%v", err)
	}
	segs := 0
	for _, name := range names {
		if strings.HasSuffix(name, segmentSuffix) {
			segs++
		}
	}
	if live := w.log.Segments() + len(w.log.dead); segs > live+8 {
		w.failf("%d segment files for a log of %d: %v", segs, live, names)
	}
}

func (w *world) run() (err error) {
	defer func() {
		if r := recover(); r != nil {
			f, ok := r.(failure)
			if !ok {
				f = failure{fmt.Sprintf("panic: %v\n%s\nlast steps:\n  %s", r, debug.Stack(), strings.Join(w.trace[max(0, len(w.trace)-30):], "\n  "))}
			}
			err = errors.New(f.msg)
		}
	}()
	w.reopen()
	for range w.steps {
		w.step()
	}
	w.checkReads()
	w.checkDir()
	if e := w.log.Close(); e != nil && w.log.Health().Err == nil && !errors.Is(e, vfs.ErrNoSpace) {
		w.failf("close: %v", e)
	}
	return nil
}

func TestProperty(t *testing.T) {
	from, to := uint64(1), seeds()
	if *flagSeed != 0 {
		from, to = *flagSeed, *flagSeed
	}
	total := map[string]int{}
	for seed := from; seed <= to; seed++ {
		w := newWorld(seed, *flagSteps, nil)
		if err := w.run(); err != nil {
			t.Fatalf("seed %d: %v\nreplay: go test ./segment -run TestProperty -seed %d -steps %d", seed, err, seed, *flagSteps)
		}
		for k, n := range w.count {
			total[k] += n
		}
	}
	t.Logf("%d seeds of %d steps: %v", to-from+1, *flagSteps, total)
	if *flagSeed == 0 {
		for _, k := range []string{"power loss", "kill", "torn tail", "crash in recovery", "no space"} {
			if total[k] == 0 {
				t.Errorf("%q never happened", k)
			}
		}
	}
}

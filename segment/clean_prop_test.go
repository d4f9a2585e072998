// The property test of compaction: random histories of keys on the crashable file system, cleaned again and again, cut, shipped to another
// replica, with a crash at any I/O operation of it all. Whatever happens: offsets do not move, what is read is what was written, the
// newest record of each key is there, what was deleted does not come back, and a tombstone stays as long as it must.

package segment

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"runtime/debug"
	"slices"
	"strings"
	"testing"

	"github.com/balsamq/balsa/internal/vfs"
	"github.com/balsamq/balsa/protocol"
	"github.com/balsamq/balsa/raft"
)

// kept is one record of the model.
type keptRecord struct {
	key     string // "": none
	value   []byte // nil: a tombstone
	ts      int64
	aborted bool
	control bool
	cleaned int64 // when a cleaning first may have taken effect that had it in its map; -1: never
}

type cleanWorld struct {
	rng     *rand.Rand
	steps   int
	mem     *vfs.Mem
	fault   func(op vfs.Op, name string) error // beneath the trap: what the mutation test takes out
	dir     string
	opt     Options
	log     *Log
	retain  int64
	keys    int
	now     int64
	term    raft.Term
	history []keptRecord // by offset
	frames  [][]byte     // by index, from 1
	ends    []Offset     // by index: the offset behind
	terms   []raft.Term
	synced  raft.Index
	start   Offset // deleted below

	lives int
	ships int
	trap  int
	power bool
	dead  bool
	after *vfs.Mem
	count map[string]int
	trace []string
}

func newCleanWorld(seed uint64, steps int, fault func(vfs.Op, string) error) *cleanWorld {
	rng := rand.New(rand.NewPCG(seed, 7))
	w := &cleanWorld{rng: rng, steps: steps, fault: fault, mem: vfs.NewMem(seed), dir: "data/group", term: 1, now: 1_000_000, count: map[string]int{}}
	w.retain = int64(rng.IntN(3)) * 5_000
	w.keys = 3 + rng.IntN(20)
	w.opt = Options{SegmentBytes: int64(2048 << rng.IntN(4)), IndexBytes: int64(128 << rng.IntN(5)), FirstExtent: 4096, MaxExtent: 8192,
		Cache: NewCache(int64(rng.IntN(3)) * 4096), Checkpoints: true, Past: NeverRan, Direct: seed/2%2 == 1, Pads: func() bool { return seed/4%2 == 1 }, PadFrom: 512, PadShare: 1}
	if seed%3 == 0 { // so many files that cleanings leave some alone
		w.keys, w.opt.SegmentBytes = 50*w.keys, 2048
	}
	return w
}

func (w *cleanWorld) failf(format string, args ...any) {
	tail := w.trace
	if len(tail) > 30 {
		tail = tail[len(tail)-30:]
	}
	panic(failure{fmt.Sprintf(format, args...) + "\nlast steps:\n  " + strings.Join(tail, "\n  ")})
}

func (w *cleanWorld) note(format string, args ...any) {
	w.trace = append(w.trace, fmt.Sprintf(format, args...))
}

func (w *cleanWorld) fs() vfs.FS {
	w.dead, w.trap = false, 0
	life := w.lives
	inner := vfs.FS(w.mem)
	if w.fault != nil {
		inner = vfs.Inject(inner, w.fault)
	}
	return vfs.Inject(inner, func(op vfs.Op, name string) error {
		if w.dead || life != w.lives {
			return errKilled
		}
		if w.trap > 0 && op != vfs.OpRead && op != vfs.OpStat && op != vfs.OpReadDir {
			if w.trap--; w.trap == 0 {
				w.dead = true
				if w.power {
					w.after = w.mem.CrashClone(w.rng)
				}
				w.note("  trap: power=%v at %s %s", w.power, op, name)
				return errKilled
			}
		}
		return nil
	})
}

// open opens logs in a new process, perhaps after some that die of it.
func (w *cleanWorld) open(dirs ...string) []*Log {
	for tries := 0; ; tries++ {
		w.lives++
		if w.after != nil {
			w.mem, w.after = w.after, nil
			w.count["power loss"]++
		}
		f := w.fs()
		if tries < 4 && w.rng.IntN(4) == 0 {
			w.trap, w.power = 1+w.rng.IntN(10), w.rng.IntN(2) == 0
		}
		var logs []*Log
		for i, dir := range dirs {
			opt := w.opt
			if i > 0 {
				opt.Past = NeverRan // a new replica
			}
			l, err := Open(f, dir, testGroup, opt)
			if w.dead {
				break
			}
			if err != nil {
				w.failf("open: %v", err)
			}
			if h := l.Health(); h.Recovery.Corrupt || h.DamagedUpTo != 0 || h.Recovery.SnapshotLost {
				w.failf("nothing was damaged, and recovery of %s says %+v", dir, h.Recovery)
			}
			logs = append(logs, l)
		}
		if w.dead {
			w.count["crash in recovery"]++
			continue
		}
		w.trap = 0
		return logs
	}
}

func (w *cleanWorld) reopen() {
	w.log = w.open(w.dir)[0]
	w.opt.Past = RanBefore
	last := w.log.LastIndex()
	w.note("reopened: [%d, %d], offsets from %d, cleaned up to %d", w.log.FirstIndex(), last, w.log.StartOffset(), w.log.CleanedEnd())
	if last < w.synced {
		w.failf("the log ends at %d, %d was durable", last, w.synced)
	}
	w.cut(last)
	w.term++
	w.check()
}

// cut: what is above last was lost in a crash.
func (w *cleanWorld) cut(last raft.Index) {
	w.frames, w.ends, w.terms = w.frames[:last], w.ends[:last], w.terms[:last]
	next := Offset(0)
	if last > 0 {
		next = w.ends[last-1]
	}
	w.history = w.history[:next]
	w.synced = last
}

const abortedProducer = 666

func (w *cleanWorld) batch(base Offset) (protocol.Batch, []keptRecord) {
	w.now += int64(w.rng.IntN(500))
	o := protocol.NewBatchOptions()
	o.Codec = protocol.Codec(w.rng.IntN(5))
	n := 1 + w.rng.IntN(5)
	var model []keptRecord
	var recs []protocol.Record
	switch w.rng.IntN(12) {
	case 0:
		o.Control, o.Codec, n = true, protocol.CodecNone, 1
		o.ProducerID, o.ProducerEpoch, o.Transactional = 5, 0, true
	case 1:
		o.ProducerID, o.ProducerEpoch, o.BaseSequence, o.Transactional = abortedProducer, 0, 0, true
	case 2:
		o.ProducerID, o.ProducerEpoch, o.BaseSequence = 7, 0, 0
	}
	for i := range n {
		k := keptRecord{key: fmt.Sprint("key", w.rng.IntN(w.keys)), value: fmt.Appendf(nil, "value %d at %d", w.rng.IntN(1000), base+Offset(i)),
			ts: w.now - int64(w.rng.IntN(300)), aborted: o.ProducerID == abortedProducer, control: o.Control, cleaned: -1}
		if w.rng.IntN(4) == 0 && !o.Control {
			k.value = nil
		}
		if w.rng.IntN(30) == 0 {
			k.value = bytes.Repeat([]byte("long "), w.rng.IntN(500))
		}
		r := protocol.Record{Offset: int64(base), Timestamp: k.ts, Key: []byte(k.key), Value: k.value}
		if o.Control {
			k.key, r.Key, r.Value, k.value = "", []byte{0, 0, 0, 1}, []byte{0, 0, 0, 0, 0, 0}, []byte{0, 0, 0, 0, 0, 0}
		}
		model, recs = append(model, k), append(recs, r)
	}
	return protocol.BuildBatch(recs, o), model
}

func (w *cleanWorld) append() {
	var es []raft.Entry
	next := w.log.NextOffset()
	first := len(w.history)
	for range 1 + w.rng.IntN(8) {
		e := raft.Entry{Term: w.term, Index: w.log.LastIndex() + 1 + raft.Index(len(es)), Type: raft.EntryRecords}
		records := uint32(0)
		if w.rng.IntN(8) == 0 {
			e.Type = raft.EntryNoop
		} else {
			b, model := w.batch(next)
			e.Payload, records = b, uint32(len(model))
			w.history = append(w.history, model...)
		}
		AppendFrame(nil, testGroup, &e, next, records)
		next += Offset(records)
		es = append(es, e)
		w.frames, w.ends, w.terms = append(w.frames, e.Frame), append(w.ends, next), append(w.terms, e.Term)
	}
	w.note("append %d entries, offsets [%d, %d)", len(es), first, next)
	if _, err := w.log.Append(w.term, es); err != nil {
		if !w.dead {
			w.failf("append: %v", err)
		}
		return
	}
	if _, err := w.log.Sync(); err == nil {
		w.synced = w.log.LastIndex()
	} else if !w.dead {
		w.failf("sync: %v", err)
	}
}

func (w *cleanWorld) meta(i raft.Index) raft.SnapshotMeta {
	return raft.SnapshotMeta{Index: i, Term: w.terms[i-1], Conf: raft.ConfState{Voters: []raft.Member{{ID: 1, Incarnation: 5}}}}
}

func (w *cleanWorld) snapshot() {
	last := w.log.LastIndex()
	if last == 0 || last < w.log.FirstIndex() || last <= w.log.SnapshotIndex() {
		return
	}
	if w.rng.IntN(2) == 0 {
		w.log.WantCheckpoint()
	}
	data, err := w.log.EncodeSnapshot(last, fmt.Appendf(nil, "state at %d", last))
	if err == nil {
		err = w.log.SaveSnapshot(w.meta(last), data)
	}
	w.note("snapshot at %d: %v", last, err)
	if err != nil && !w.dead {
		w.failf("snapshot: %v", err)
	}
}

// clean cleans, and mostly lets it take effect.
func (w *cleanWorld) clean() {
	q := CleanBound{Index: w.log.LastIndex(), Offset: w.log.NextOffset(), Before: math.MaxInt64}
	if w.rng.IntN(3) == 0 {
		q.Offset = Offset(w.rng.Int64N(int64(q.Offset) + 1))
	}
	c := w.log.Cleanable(q)
	if c.UpTo == 0 {
		w.count["nothing to clean"]++
		return
	}
	if c.Next > q.Offset && c.UpTo >= w.log.FirstIndex() {
		w.failf("may be cleaned up to %d, the bound is %d", c.Next, q.Offset)
	}
	w.now += int64(w.rng.IntN(4000))
	o := CleanOptions{UpTo: c.UpTo, Start: w.start, Now: w.now, DeleteRetention: w.retain, MapBytes: 1 << 20,
		Aborted: func(b protocol.Batch) bool { return b.ProducerID() == abortedProducer }}
	if w.rng.IntN(3) == 0 {
		o.MapBytes = int64(slotSize * (8 + w.rng.IntN(10)))
	}
	s, err := w.log.Clean(o)
	w.note("clean up to entry %d, map of %d: %+v: %v", o.UpTo, o.MapBytes, s, err)
	switch {
	case w.dead:
		return
	case errors.Is(err, ErrNothingToClean):
		return
	case err != nil:
		w.failf("clean: %v", err)
	}
	w.count["cleaned"]++
	if s.Untouched > 0 {
		w.count["left files alone"]++
	}
	if s.Clean < s.Next {
		w.count["map full"]++
	}
	if s.Unreadable != 0 {
		w.failf("%d batches could not be read", s.Unreadable)
	}
	if w.rng.IntN(6) == 0 {
		return // it waits for somebody's Prune, or for a crash
	}
	for o := range w.history[:s.Clean] {
		if k := &w.history[o]; k.cleaned < 0 {
			k.cleaned = w.now
		}
	}
	if w.prune(); !w.dead && w.log.washed == nil && w.log.CleanedEnd() == s.Next && w.log.dirty == s.Clean {
		w.trap = 0
		w.thorough(s.Clean)
	}
}

// thorough: after a cleaning up to there, no key is there twice, and nothing that was aborted.
func (w *cleanWorld) thorough(upTo Offset) {
	seen := map[string]Offset{}
	for _, o := range w.present(w.log.StartOffset()) {
		k := &w.history[o]
		if o >= upTo || k.control {
			continue
		}
		if k.aborted {
			w.failf("offset %d was aborted, and is there after a cleaning up to %d", o, upTo)
		}
		if other, ok := seen[k.key]; ok {
			w.failf("%s is at %d and at %d after a cleaning up to %d", k.key, other, o, upTo)
		}
		seen[k.key] = o
	}
}

func (w *cleanWorld) prune() {
	first := w.log.FirstIndex()
	// What waits was perhaps made long ago.
	if p := w.log.washed; p != nil {
		for o := range w.history[:p.dirty] {
			if k := &w.history[o]; k.cleaned < 0 {
				k.cleaned = 0
			}
		}
	}
	m, err := w.log.Prune()
	w.note("prune: %v, %v; [%d, %d], offsets from %d, cleaned up to %d", m, err, w.log.FirstIndex(), w.log.LastIndex(), w.log.StartOffset(), w.log.CleanedEnd())
	switch {
	case w.dead:
	case err != nil:
		w.failf("prune: %v", err)
	case m == nil && w.log.FirstIndex() != first || m != nil && (m.Index+1 != w.log.FirstIndex() || m.Term != w.terms[m.Index-1]):
		w.failf("prune says %+v, the log began at %d and begins at %d", m, first, w.log.FirstIndex())
	}
}

// forget deletes records.
func (w *cleanWorld) forget() {
	w.start = max(w.start, min(w.start+Offset(w.rng.IntN(40)), w.log.NextOffset()))
	w.note("forget below %d", w.start)
	w.log.Forget(w.start)
	w.prune()
}

// ship gives the log to a new replica, which becomes the one that the test goes on with.
func (w *cleanWorld) ship() {
	if w.log.FirstIndex() == 1 {
		return
	}
	w.ships++
	to := fmt.Sprint("data/replica", w.ships)
	w.note("ship to %s", to)
	w.dead = true
	for tries := 0; ; tries++ {
		logs := w.open(w.dir, to)
		w.log = logs[0]
		w.log.Forget(w.start)
		w.cut(w.log.LastIndex())
		dst := logs[1]
		if dst.FirstIndex() > 1 {
			w.count["installed, and then a crash"]++
		} else {
			if tries < 6 && w.rng.IntN(2) == 0 {
				w.trap, w.power = 1+w.rng.IntN(60), w.rng.IntN(2) == 0
			}
			err := w.send(dst)
			if w.dead {
				continue
			}
			if err != nil {
				w.failf("ship: %v", err)
			}
		}
		w.trap = 0
		w.catchUp(dst)
		w.log, w.dir = dst, to
		w.log.Forget(w.start)
		return
	}
}

// catchUp gives the entries behind the snapshot, as a leader does.
func (w *cleanWorld) catchUp(dst *Log) {
	first, last := dst.FirstIndex(), w.log.LastIndex()
	if first != w.log.FirstIndex() || dst.StartOffset() != w.log.StartOffset() {
		w.failf("the replica begins at %d, offset %d; the log is [%d, %d], from offset %d", first, dst.StartOffset(), w.log.FirstIndex(), last, w.log.StartOffset())
	}
	if last >= first {
		es, err := w.log.Entries(first, last+1, math.MaxInt)
		if err != nil {
			w.failf("entries [%d, %d]: %v", first, last, err)
		}
		if _, err := dst.Append(w.term, es); err != nil {
			w.failf("append to the replica: %v", err)
		}
	}
	if _, err := dst.Sync(); err != nil {
		w.failf("sync of the replica: %v", err)
	}
	w.count["shipped"]++
	if len(dst.cleaned) > 0 {
		w.count["shipped with a cleaned part"]++
	}
}

// send has dst take in the snapshot that the log begins with, piece by piece, and install it.
func (w *cleanWorld) send(dst *Log) error {
	src, err := w.log.OpenSnapshot()
	if err != nil {
		return err
	}
	defer src.Close()
	s := src.Snapshot()
	got, err := dst.ReceiveSnapshot(&s)
	if err != nil {
		return err
	}
	if got > 0 {
		w.count["resumed"]++
	}
	for got < s.Size {
		b := make([]byte, min(1+w.rng.Int64N(4000), s.Size-got))
		if err := src.ReadAt(b, got); err != nil {
			return err
		}
		if err := dst.WriteSnapshot(got, b); err != nil {
			return err
		}
		got += int64(len(b))
	}
	state, err := dst.InstallSnapshot(&s)
	if err != nil {
		return err
	}
	if want := fmt.Sprint("state at ", s.Meta.Index); string(state) != want {
		w.failf("installed %q, want %q", state, want)
	}
	return nil
}

// present reads everything, and returns the offsets of the records that are there.
func (w *cleanWorld) present(from Offset) (offsets []Offset) {
	l := w.log
	at, last := from, l.LastIndex()
	for at < l.NextOffset() {
		batches, err := l.ReadOffsets(at, last, w.rng.IntN(3000))
		if err != nil {
			w.failf("read at %d: %v", at, err)
		}
		if len(batches) == 0 {
			w.failf("nothing at %d, the log ends at %d", at, l.NextOffset())
		}
		for _, raw := range batches {
			b, err := protocol.ParseBatch(raw)
			if err != nil || b.CheckCRC() != nil {
				w.failf("batch at %d: %v, %v", at, err, b.CheckCRC())
			}
			if Offset(b.NextOffset()) <= at {
				w.failf("batch of [%d, %d) where %d was read", b.BaseOffset(), b.NextOffset(), at)
			}
			for rec, err := range b.Records(inflater()) {
				if err != nil {
					w.failf("records at %d: %v", at, err)
				}
				o := Offset(rec.Offset)
				if o < at {
					if len(offsets) > 0 && o <= offsets[len(offsets)-1] {
						w.failf("offset %d after %d", o, offsets[len(offsets)-1])
					}
					continue
				}
				k := &w.history[o]
				if rec.Timestamp != k.ts || !k.control && string(rec.Key) != k.key || !bytes.Equal(rec.Value, k.value) || (rec.Value == nil) != (k.value == nil) {
					w.failf("offset %d is (%d, %q, %q), written was %+v", o, rec.Timestamp, rec.Key, rec.Value, k)
				}
				offsets = append(offsets, o)
			}
			at = Offset(b.NextOffset())
		}
	}
	return offsets
}

func (w *cleanWorld) check() {
	l := w.log
	w.trap = 0
	if int(l.NextOffset()) != len(w.history) || l.LastIndex() != raft.Index(len(w.frames)) {
		w.failf("the log ends at offset %d, entry %d; want %d, %d", l.NextOffset(), l.LastIndex(), len(w.history), len(w.frames))
	}
	start := l.StartOffset()
	if start > w.start && start > 0 {
		// A log begins where its files do, which is at or below what is deleted; a part of one that was begun anew not.
		w.failf("the log begins at %d, deleted is what is below %d", start, w.start)
	}
	offsets := w.present(start)
	there := make(map[Offset]bool, len(offsets))
	for _, o := range offsets {
		there[o] = true
	}
	cleanedEnd := l.CleanedEnd()
	for o := max(cleanedEnd, w.start); int(o) < len(w.history); o++ {
		if !there[o] {
			w.failf("offset %d is in the segments, and is not there", o)
		}
	}
	// By key, newest first.
	type state struct {
		newest Offset
		gone   bool // the newest is a tombstone that has gone
	}
	keys := map[string]*state{}
	for i := len(w.history) - 1; i >= int(max(w.start, start)); i-- {
		o, k := Offset(i), &w.history[i]
		if k.control || k.aborted {
			continue
		}
		s := keys[k.key]
		if s == nil {
			s = &state{newest: o, gone: !there[o]}
			keys[k.key] = s
			switch {
			case there[o]:
			case k.value != nil:
				w.failf("%s: the newest record, at %d, is not there", k.key, o)
			case o >= cleanedEnd || k.cleaned < 0 || w.now < k.cleaned+w.retain:
				w.failf("%s: the tombstone at %d has gone at %d; first cleaned at %d, to stay %d ms", k.key, o, w.now, k.cleaned, w.retain)
			}
			continue
		}
		if s.gone && there[o] {
			w.failf("%s: the tombstone at %d has gone, and offset %d is there again", k.key, s.newest, o)
		}
	}
	w.checkTimes(offsets)
	// What is left of Raft's log is as it was.
	for i := l.FirstIndex(); i <= l.LastIndex(); i++ {
		es, err := l.Entries(i, i+1, 0)
		if err != nil || !bytes.Equal(es[0].Frame, w.frames[i-1]) {
			w.failf("entry %d: %v, or another frame", i, err)
		}
	}
	if f := l.FirstIndex(); f > 1 {
		if term, err := l.Term(f - 1); err != nil || term != w.terms[f-2] {
			w.failf("term of %d: %d, %v; want %d", f-1, term, err, w.terms[f-2])
		}
		if off, err := l.OffsetAfter(f - 1); err != nil || off != w.ends[f-2] {
			w.failf("offset after %d: %d, %v; want %d", f-1, off, err, w.ends[f-2])
		}
	}
}

func (w *cleanWorld) checkTimes(offsets []Offset) {
	from := w.log.StartOffset()
	probe := w.now - w.rng.Int64N(20_000)
	first, best := Offset(-1), Offset(-1)
	for _, o := range offsets {
		if o < from {
			continue
		}
		if ts := w.history[o].ts; first < 0 && ts >= probe {
			first = o
		}
		if best < 0 || w.history[o].ts > w.history[best].ts {
			best = o
		}
	}
	off, ts, term, ok, err := w.log.OffsetForTime(probe, from, w.log.LastIndex())
	if err != nil || ok != (first >= 0) || ok && (off != first || ts != w.history[first].ts) {
		w.failf("offset for time %d from %d: %d, %d, %v, %v; want %d", probe, from, off, ts, ok, err, first)
	}
	if ok {
		if at, known := w.log.EpochAt(off); !known || at != term {
			w.failf("offset %d is of term %d (%v), the batch says %d", off, at, known, term)
		}
	}
	off, ts, _, ok, err = w.log.MaxTimestamp(from, w.log.LastIndex())
	if err != nil || ok != (best >= 0) || ok && (ts != w.history[best].ts || off != best) {
		w.failf("largest timestamp from %d: %d at %d, %v, %v; want %d", from, ts, off, ok, err, best)
	}
}

func (w *cleanWorld) step() {
	if w.rng.IntN(4) == 0 {
		w.trap, w.power = 1+w.rng.IntN(30), w.rng.IntN(3) > 0
	}
	switch k := w.rng.IntN(100); {
	case k < 40:
		w.append()
	case k < 60:
		w.snapshot()
	case k < 82:
		w.clean()
	case k < 86:
		w.prune()
	case k < 89:
		w.forget()
	case k < 93:
		w.trap = 0
		w.ship()
	case k < 95:
		w.log.RollOlder(w.now)
	case k < 97:
		_ = w.log.Close()
		w.dead = true
	default:
		w.dead = true
		if w.power = w.rng.IntN(2) == 0; w.power {
			w.after = w.mem.CrashClone(w.rng)
		}
		w.note("crash at rest, power %v", w.power)
	}
	if w.dead || w.log.Health().Err != nil {
		w.reopen()
		w.log.Forget(w.start)
		return
	}
	w.check()
}

func (w *cleanWorld) run() (err error) {
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
	w.checkFiles()
	return nil
}

// checkFiles: what is named nowhere does not stay.
func (w *cleanWorld) checkFiles() {
	w.dead = true
	w.reopen()
	names, err := w.mem.ReadDir(w.dir)
	if err != nil {
		w.failf("%v", err)
	}
	for _, name := range names {
		if strings.HasSuffix(name, cleanedSuffix) && !slices.ContainsFunc(w.log.cleaned, func(f *cleanedFile) bool { return f.name() == name }) || name == installName ||
			strings.HasSuffix(name, tempSuffix) || strings.HasSuffix(name, badSuffix) {
			w.failf("%s is left behind: %v", name, names)
		}
	}
}

func TestCleanProperty(t *testing.T) {
	from, to := uint64(1), max(seeds()/8, 1) // each takes several times what one of TestProperty does
	if *flagSeed != 0 {
		from, to = *flagSeed, *flagSeed
	}
	total := map[string]int{}
	for seed := from; seed <= to; seed++ {
		w := newCleanWorld(seed, *flagSteps, nil)
		if err := w.run(); err != nil {
			t.Fatalf("seed %d: %v\nreplay: go test ./segment -run TestCleanProperty -seed %d -steps %d", seed, err, seed, *flagSteps)
		}
		for k, n := range w.count {
			total[k] += n
		}
	}
	t.Logf("%d seeds of %d steps: %v", to-from+1, *flagSteps, total)
	if to-from > 4 {
		for _, k := range []string{"power loss", "crash in recovery", "cleaned", "map full", "left files alone", "shipped with a cleaned part", "resumed"} {
			if total[k] == 0 {
				t.Errorf("the histories had no %s: they prove less than they should", k)
			}
		}
	}
}

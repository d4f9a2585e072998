package partition

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/balsamq/balsa/internal/vfs"
	"github.com/balsamq/balsa/protocol"
	"github.com/balsamq/balsa/raft"
	"github.com/balsamq/balsa/segment"
)

// newAborting is a cluster with a compacted partition whose index of aborted transactions has room for so many.
func newAborting(t *testing.T, n, most int, change func(*Config)) (*cluster, *txnBroker) {
	b := new(txnBroker)
	return newCluster(t, n, func(c *Config) {
		c.Verify, c.maxAborted = b.verify, most
		c.Settings = Settings{Compact: true, SegmentBytes: 64 << 10, RetentionAge: -1, TimestampAfter: -1, Compaction: Compaction{MinDirtyRatio: 0.5}}
		if change != nil {
			change(c)
		}
	}), b
}

// abortOne writes a transaction of one record and aborts it; the error is that of the record.
func (n *node) abortOne(id int64, seq int32) error {
	n.c.t.Helper()
	if r := n.appendTxnWait(keyedTxn(n, id, seq, strings.Repeat("never", 200), fmt.Sprint("k", seq))); r.Err != nil {
		return r.Err
	}
	if r := n.mark(MarkerRequest{ProducerID: id, CoordinatorEpoch: 1}); r.Err != nil {
		n.c.t.Fatal(r.Err)
	}
	return nil
}

// A partition that is compacted takes transactions for ever, however many are aborted; what was aborted and cleaned away is forgotten by each replica, and
// by a restart of it. One that is not cleaned takes no more when its index is full, until it is.
func TestAbortedAreForgotten(t *testing.T) {
	const most = 40
	c, _ := newAborting(t, 3, most, nil)
	l := c.leader()
	l.mustProduce(withCodec(protocol.CodecNone, keyed(l.rep.now().UnixMilli(), "k", "kept")))
	seq := int32(0)
	for i := range 10 * most {
		if err := l.abortOne(1, seq); err != nil {
			t.Fatalf("after %d aborted transactions: %v", i, err)
		}
		seq++
		if i%10 == 0 {
			c.pass(100 * time.Millisecond)
			for _, n := range c.nodes {
				n.compact() // when it is due; the log is far from a segment
			}
		}
		for _, n := range c.nodes {
			if d := n.rep.Describe(); d.AbortedTxns > most {
				t.Fatalf("node %d holds %d aborted transactions", n.id, d.AbortedTxns)
			}
		}
	}
	for _, n := range c.nodes {
		f := n.rep.m.fold
		if at := int64(n.rep.m.log.CleanedEnd()); at == 0 || f.lost != 0 || len(f.aborted) > most || len(f.aborted) > 0 && f.aborted[0].last < at {
			t.Errorf("node %d: cleaned up to %d, %d aborted transactions, lost up to %d", n.id, at, len(f.aborted), f.lost)
		}
	}

	full := false
	for range most {
		if err := l.abortOne(1, seq); err != nil {
			wantErr(t, "a full index", err, ErrOverloaded)
			full = true
			break
		}
		seq++
	}
	if !full {
		t.Fatal("a full index takes more")
	}
	if !l.compact() {
		t.Fatal("a full index makes no compaction due")
	}
	if err := l.abortOne(1, seq); err != nil {
		t.Fatalf("there is room again: %v", err)
	}
	wantValues(t, l.committed(1000), "kept")
	before := l.rep.Describe().AbortedTxns
	l.rep.Raft().Snapshot()
	c.pass(100 * time.Millisecond)
	l.stop()
	l.start()
	c.pass(time.Second)
	if d := l.rep.Describe(); d.AbortedTxns > before || l.rep.m.log.CleanedEnd() == 0 {
		t.Errorf("after a restart %d aborted transactions, before %d", d.AbortedTxns, before)
	}
	wantValues(t, c.leader().committed(1000), "kept")
}

// The leader waits for a member that is away, but not until it can take no transaction any more.
func TestAbortedDoNotWaitForTheAbsent(t *testing.T) {
	const most = 40
	c, _ := newAborting(t, 3, most, nil)
	l := c.leader()
	l.abortOne(1, 0)
	c.isolate(c.nodes[(slices.Index(c.nodes, l)+1)%3].id)
	for seq := range int32(4 * most) {
		if err := l.abortOne(1, seq+1); err != nil {
			t.Fatalf("after %d aborted transactions: %v", seq, err)
		}
		if seq%10 == 0 {
			l.compact()
		}
	}
	c.heal()
	c.pass(20 * time.Second)
	for _, n := range c.nodes {
		if d := n.rep.Describe(); d.HighWatermark != l.rep.Describe().HighWatermark || d.AbortedTxns > most {
			t.Errorf("node %d: %+v", n.id, d)
		}
	}
}

// Between a read of the log and the look at the index a cleaning may take effect.
func TestReadBesideCleaning(t *testing.T) {
	c, _ := newAborting(t, 1, 1000, func(c *Config) { c.Settings.Compaction.MinDirtyRatio = -1 })
	l := c.leader()
	for seq := range int32(20) {
		if err := l.abortOne(1, seq); err != nil {
			t.Fatal(err)
		}
	}
	m, hw := l.rep.m, l.rep.Describe().HighWatermark
	read := func() [][]byte {
		batches, err := m.log.ReadOffsets(0, l.rep.pub.applied, 1<<20)
		if err != nil || protocol.Batch(batches[len(batches)-1]).NextOffset() != hw {
			t.Fatal(err)
		}
		return batches
	}
	batches := read()
	if got, err := m.abortedIn(batches, 0); err != nil || len(got) != 20 {
		t.Fatalf("%d aborted transactions, %v", len(got), err)
	}
	m.log.WantCheckpoint()
	l.rep.Raft().Snapshot()
	c.pass(100 * time.Millisecond)
	if _, err := l.rep.Compact(CompactOptions{MapBytes: 1 << 20}); err != nil {
		t.Fatal(err)
	}
	c.pass(100 * time.Millisecond)
	if int64(m.log.CleanedEnd()) != hw {
		t.Fatalf("cleaned up to %d of %d", m.log.CleanedEnd(), hw)
	}
	// The worker may not have forgotten yet, and then the answer is right.
	if got, err := m.abortedIn(batches, 0); err == nil && len(got) != 20 {
		t.Fatalf("%d aborted transactions of 20 that were read", len(got))
	}
	l.mustProduce(withCodec(protocol.CodecNone, keyed(l.rep.now().UnixMilli(), "k", "v")))
	if _, err := m.abortedIn(batches, 0); !errors.Is(err, errForgotten) {
		t.Fatalf("what was read before, and is cleaned: %v", err)
	}
	wantValues(t, l.committed(1000), "v")

	// The same through Read: the cleaning comes while it reads the files, of which none is in memory after a restart.
	for seq := range int32(20) {
		if err := l.abortOne(1, 20+seq); err != nil {
			t.Fatal(err)
		}
	}
	from := int64(m.log.CleanedEnd())
	l.stop()
	cleanNow := false
	l.fs = vfs.Inject(l.mem, func(op vfs.Op, _ string) error {
		if cleanNow && op == vfs.OpRead {
			cleanNow = false
			if _, err := l.rep.Compact(CompactOptions{MapBytes: 1 << 20}); err != nil {
				t.Error(err)
			}
			c.settle()
			l.rep.Raft().Snapshot() // which forgets
			c.settle()
		}
		return nil
	})
	l.start()
	c.leader()
	l.rep.m.log.WantCheckpoint()
	l.rep.Raft().Snapshot()
	c.pass(100 * time.Millisecond)
	m, cleanNow = l.rep.m, true
	r, err := l.rep.Read(ReadQuery{Offset: from, MaxBytes: 1 << 20, LeaderEpoch: -1, Committed: true})
	if err != nil || cleanNow || len(r.Aborted) != 0 || len(r.Batches) == 0 || int64(m.log.CleanedEnd()) < from+40 || m.fold.trimmed != int64(m.log.CleanedEnd()) {
		t.Fatalf("read from %d beside a cleaning up to %d: %d batches, aborted %v, %v", from, m.log.CleanedEnd(), len(r.Batches), r.Aborted, err)
	}
	for _, raw := range r.Batches {
		if b := protocolBatch(t, raw); !b.Control() && b.Transactional() {
			t.Fatalf("a record at %d that was aborted", b.BaseOffset())
		}
	}
}

// A replica that has lost much of its index, and finds no more of it at once than that has room for, cleans in steps.
func TestRecallInSteps(t *testing.T) {
	const most = 16
	c, _ := newAborting(t, 3, most, func(c *Config) {
		c.SnapshotEvery, c.Settings.Compaction.MinDirtyRatio = 1<<10, -1
	})
	l := c.leader()
	late := c.nodes[(slices.Index(c.nodes, l)+1)%3]
	for seq := range int32(10 * most) {
		if err := l.abortOne(int64(1+seq%3), seq/3); err != nil {
			t.Fatalf("after %d: %v", seq, err)
		}
		switch seq % 10 { // a longer one spans others
		case 1:
			l.mustAppendTxn(keyedTxn(l, 9, seq/10, "never", "long"))
		case 6:
			if r := l.mark(MarkerRequest{ProducerID: 9, CoordinatorEpoch: 1}); r.Err != nil {
				t.Fatal(r.Err)
			}
		case 8:
			l.mustProduce(withCodec(protocol.CodecNone, keyed(l.rep.now().UnixMilli(), fmt.Sprint("kept", seq), fmt.Sprint(seq))))
		}
		c.pass(20 * time.Millisecond)
		l.compact()
	}
	c.pass(time.Second)
	end := late.rep.Describe().HighWatermark
	want := l.committed(1000)
	late.rep.m.log.WantCheckpoint()
	late.rep.Raft().Snapshot()
	c.pass(100 * time.Millisecond)
	steps := 0
	for ; late.rep.m.fold.lost > 0; steps++ {
		if steps > 20*most {
			t.Fatalf("cleaned up to %d of %d, and knows from %d on", late.rep.m.log.CleanedEnd(), end, late.rep.m.fold.lost)
		}
		if _, err := late.rep.Compact(CompactOptions{MapBytes: 1 << 20}); err != nil {
			t.Fatal(err)
		}
		c.pass(100 * time.Millisecond)
		late.rep.Raft().Snapshot()
		c.pass(100 * time.Millisecond)
	}
	if steps < 3 {
		t.Errorf("all at once: %d steps", steps)
	}
	var got []string
	for at := int64(0); at < end; {
		r, err := late.rep.Read(ReadQuery{Offset: at, MaxBytes: 1000, LeaderEpoch: -1, AnyReplica: true, Committed: true})
		if err != nil || len(r.Batches) == 0 {
			t.Fatalf("at %d of %d: %v", at, end, err)
		}
		for _, raw := range r.Batches {
			b := protocolBatch(t, raw)
			if at = b.NextOffset(); b.Control() || slices.ContainsFunc(r.Aborted, func(a AbortedTxn) bool { return a.ProducerID == b.ProducerID() && a.First <= b.BaseOffset() }) {
				continue
			}
			for rec := range b.Records(nil) {
				got = append(got, string(rec.Value))
			}
		}
	}
	wantValues(t, got, want...)
}

// What an index has lost is found by reading on to the markers, however far they are.
func TestRecallReadsOn(t *testing.T) {
	c, _ := newAborting(t, 1, 1000, nil)
	l := c.leader()
	l.mustAppendTxn(keyedTxn(l, 1, 0, "aborted", "a"))
	l.mustAppendTxn(keyedTxn(l, 2, 0, "committed", "b"))
	l.mustAppendTxn(keyedTxn(l, 3, 0, "aborted above", "c"))
	for range 4 {
		l.mustProduce(withCodec(protocol.CodecNone, keyed(l.rep.now().UnixMilli(), "pad", strings.Repeat("p", recallChunk*2/3))))
	}
	for id := range int64(3) {
		if r := l.mark(MarkerRequest{ProducerID: id + 1, CoordinatorEpoch: 1, Commit: id == 1}); r.Err != nil {
			t.Fatal(r.Err)
		}
	}
	// What ends at or above 9 is in the index.
	found, known, err := l.rep.m.recall(0, 1, 9, nil, func(int) error { return nil })
	if want := []abortedTxn{{producer: 1, first: 0, last: 7}}; err != nil || known != math.MaxInt64 || !slices.Equal(found, want) {
		t.Fatalf("%+v, known below %d, %v", found, known, err)
	}
	if found, _, err = l.rep.m.recall(1, 7, 9, nil, func(int) error { return nil }); err != nil || len(found) != 0 {
		t.Fatalf("%+v, %v", found, err)
	}
	if found, _, err = l.rep.m.recall(7, 8, 9, nil, func(int) error { return nil }); err != nil || !slices.Equal(found, []abortedTxn{{producer: 1, first: 7, last: 7}}) {
		t.Fatalf("a reader that begins at a marker: %+v, %v", found, err)
	}
	if _, _, err = l.rep.m.recall(0, 1, 1000, nil, func(int) error { return nil }); err != nil {
		t.Fatalf("all is decided before the log ends: %v", err)
	}
	if _, _, err = l.rep.m.recall(0, 1000, 1000, nil, func(int) error { return nil }); err == nil {
		t.Fatal("the log ends before that")
	}
}

// An index that loses more while what it had lost is looked for must not have that cleaned as if it were committed.
func TestLostWhileRecalling(t *testing.T) {
	c, _ := newAborting(t, 1, 8, nil)
	m := c.leader().rep.m
	_, _, lost, err := m.recallAborted(nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.abortedBelow(100, nil, lost); err != nil {
		t.Fatal(err)
	}
	m.look.Lock()
	for i := range int64(9) {
		m.fold.addAborted(abortedTxn{producer: 1, first: 2 * i, last: 2*i + 1, stable: 2*i + 2})
	}
	m.look.Unlock()
	if _, err := m.abortedBelow(100, nil, lost); !errors.Is(err, segment.ErrOvertaken) {
		t.Fatalf("the first one is unknown: %v", err)
	}
}

// truth is all that was ever committed to a log, as it was before it was compacted.
type truth struct {
	t       *testing.T
	next    int64
	records []truthRecord
	at      map[int64]int    // by offset, of records
	open    map[int64][]int  // by producer, what is undecided
	newest  map[string]int64 // by key, the last committed offset
}

type truthRecord struct {
	offset     int64
	key, value string
	aborted    bool
	decided    bool
}

// learn takes in what a replica has and the truth has not yet.
func (w *truth) learn(n *node) {
	w.t.Helper()
	for hw, _ := n.rep.HighWatermark(); w.next < hw; {
		r, err := n.rep.Read(ReadQuery{Offset: w.next, MaxBytes: 1 << 20, LeaderEpoch: -1, AnyReplica: true})
		if errors.Is(err, ErrNotReady) || err == nil && len(r.Batches) == 0 {
			return
		}
		if err != nil {
			w.t.Fatalf("node %d at %d: %v", n.id, w.next, err)
		}
		for _, raw := range r.Batches {
			b := protocolBatch(w.t, raw)
			if b.BaseOffset() != w.next {
				w.t.Fatalf("node %d: batch at %d where %d was to be learnt", n.id, b.BaseOffset(), w.next)
			}
			w.next = b.NextOffset()
			if b.Control() {
				m, err := b.Marker()
				if err != nil {
					w.t.Fatal(err)
				}
				for _, i := range w.open[b.ProducerID()] {
					w.decide(i, m.Commit)
				}
				delete(w.open, b.ProducerID())
				continue
			}
			for rec, err := range b.Records(nil) {
				if err != nil {
					w.t.Fatal(err)
				}
				i := len(w.records)
				w.at[rec.Offset] = i
				w.records = append(w.records, truthRecord{offset: rec.Offset, key: string(rec.Key), value: string(rec.Value)})
				if b.Transactional() {
					w.open[b.ProducerID()] = append(w.open[b.ProducerID()], i)
				} else {
					w.decide(i, true)
				}
			}
		}
	}
}

func (w *truth) decide(i int, commit bool) {
	r := &w.records[i]
	r.decided, r.aborted = true, !commit
	if commit {
		w.newest[r.key] = max(w.newest[r.key], r.offset)
	}
}

// read is one fetch of a reader of committed records, from any replica; it returns where it goes on. Of what lies between it must have seen each record
// that is committed and not superseded, nothing that was aborted, and all as it was.
func (w *truth) read(n *node, from int64, maxBytes int) int64 {
	w.t.Helper()
	r, err := n.rep.Read(ReadQuery{Offset: from, MaxBytes: maxBytes, LeaderEpoch: -1, AnyReplica: true, Committed: true})
	if err != nil || len(r.Batches) == 0 {
		var out *RangeError
		if err != nil && !errors.As(err, &out) && !errors.Is(err, ErrNotReady) {
			w.t.Fatalf("node %d: read at %d: %v", n.id, from, err)
		}
		if err == nil {
			w.complete(n, &r, from, r.LastStable, nil) // all that is between may have been cleaned away, with nothing stable behind it yet
		}
		return from
	}
	seen := map[int64]bool{}
	// As franz-go does, the strictest of clients: each entry holds from its first offset up to its producer's next marker. So a marker that ends nothing, as the
	// second one of a client without KIP-890, does not count for an entry that begins behind it.
	aborting := map[int64][]int64{}
	for _, a := range r.Aborted {
		aborting[a.ProducerID] = append(aborting[a.ProducerID], a.First)
	}
	to := from
	for _, raw := range r.Batches {
		b := protocolBatch(w.t, raw)
		if b.NextOffset() > r.LastStable {
			w.t.Fatalf("node %d: batch up to %d, last stable offset %d", n.id, b.NextOffset(), r.LastStable)
		}
		to = b.NextOffset()
		firsts := aborting[b.ProducerID()]
		if b.Control() {
			if m, err := b.Marker(); err == nil && !m.Commit && len(firsts) > 0 && firsts[0] <= b.BaseOffset() {
				aborting[b.ProducerID()] = firsts[1:]
			}
			continue
		}
		if b.Transactional() && len(firsts) > 0 && firsts[0] <= b.BaseOffset() {
			continue
		}
		for rec, err := range b.Records(nil) {
			if err != nil {
				w.t.Fatal(err)
			}
			if rec.Offset < from {
				continue
			}
			seen[rec.Offset] = true
			i, known := w.at[rec.Offset]
			if !known || w.records[i].key != string(rec.Key) || w.records[i].value != string(rec.Value) {
				w.t.Fatalf("node %d: %s=%s at %d was never written", n.id, rec.Key, rec.Value, rec.Offset)
			}
			if !w.records[i].decided || w.records[i].aborted {
				w.t.Fatalf("node %d: a reader from %d to %d, cleaned below %d, is shown %s at %d, which is not committed (%+v); aborted are %v", n.id, from, r.LastStable,
					n.rep.m.log.CleanedEnd(), rec.Key, rec.Offset, w.records[i], r.Aborted)
			}
		}
	}
	w.complete(n, &r, from, to, seen)
	return to
}

// complete: a reader that goes on at to has seen each record that is committed and not superseded.
func (w *truth) complete(n *node, r *ReadResult, from, to int64, seen map[int64]bool) {
	w.t.Helper()
	for _, rec := range w.records {
		if rec.offset >= from && rec.offset < to && rec.decided && !rec.aborted && w.newest[rec.key] == rec.offset && !seen[rec.offset] {
			w.t.Fatalf("node %d: a reader from %d to %d is not shown %s at %d; aborted are %v", n.id, from, to, rec.key, rec.offset, r.Aborted)
		}
	}
}

// abortedCounts say what a random history has come to.
type abortedCounts struct{ cleanings, lost, recalled, installed, full int }

// Readers of committed records on any replica, at any time, see all committed records and no other, while each replica cleans for itself and forgets what it
// has cleaned away, one never cleans, and brokers crash, lose power, are cut off, and get each other's logs. The index never has more entries than it may.
func TestRandomAborted(t *testing.T) {
	seeds := 40
	if testing.Short() {
		seeds = 8
	}
	var all abortedCounts
	for seed := range seeds {
		t.Run(fmt.Sprint("seed", seed), func(t *testing.T) {
			n := randomAborted(t, uint64(seed))
			all.cleanings, all.lost, all.recalled, all.installed, all.full = all.cleanings+n.cleanings, all.lost+n.lost, all.recalled+n.recalled, all.installed+n.installed, all.full+n.full
		})
	}
	t.Logf("%+v", all)
	if !t.Failed() && (all.cleanings == 0 || all.lost == 0 || all.recalled == 0 || all.installed == 0 || all.full == 0) {
		t.Errorf("the histories lack something: %+v", all)
	}
}

func randomAborted(t *testing.T, seed uint64) (counts abortedCounts) {
	rng := rand.New(rand.NewPCG(seed, 202))
	most := 12 + rng.IntN(20)
	c, b := newAborting(t, 3, most, func(c *Config) {
		c.SnapshotEvery = 2 << 10
		c.Settings.SegmentBytes = 8 << 10
		c.Settings.Compaction = Compaction{MinDirtyRatio: -1, DeleteRetention: time.Duration(1+rng.IntN(20)) * time.Second}
	})
	lazy := rng.IntN(5) // a node that does not clean; 3 and 4: none
	var ps []*txnClient
	for i := range 4 {
		p := &txnClient{id: int64(i + 1), bumped: i%2 == 0, keyed: true}
		p.begin(rng)
		ps = append(ps, p)
	}
	b.verdict = func(v Verification) error {
		if p := ps[v.ProducerID-1]; p.epoch != int64(v.ProducerEpoch) || p.ending {
			return ErrTxnUnverified
		}
		return nil
	}
	w := &truth{t: t, at: map[int64]int{}, open: map[int64][]int{}, newest: map[string]int64{}}
	anyLeader := func() *node {
		for _, i := range rng.Perm(3) {
			if n := c.nodes[i]; n.host != nil {
				if _, _, ready := n.rep.Leader(); ready {
					return n
				}
			}
		}
		return nil
	}
	clean := func(n *node) {
		w.learn(n)
		n.rep.Dirt()
		c.settle()
		lost := n.rep.m != nil && n.rep.m.fold.lost > 0
		switch _, err := n.rep.Compact(CompactOptions{MapBytes: 1 << 12}); {
		case err == nil:
			counts.cleanings++
			if lost {
				counts.recalled++
			}
		case !CompactionOvertaken(err):
			t.Fatalf("node %d: clean: %v", n.id, err)
		}
		if rng.IntN(2) == 0 {
			c.settle()
		}
	}
	readers := make([]int64, 3)
	firsts := map[*node]raft.Index{}
	look := func() {
		for _, n := range c.nodes {
			if n.host == nil || n.rep.m == nil {
				continue
			}
			f := n.rep.m.fold
			if len(f.aborted) > most {
				t.Fatalf("node %d: %d aborted transactions, %d at most", n.id, len(f.aborted), most)
			}
			if f.lost > 0 {
				counts.lost++
			}
			if d := n.rep.Describe(); d.First > firsts[n] {
				if firsts[n] = d.First; int(n.id) == lazy+1 && d.First > 1 {
					counts.installed++
				}
			}
		}
	}
	hot := 0
	for range 600 {
		b.held = rng.IntN(3) == 0
		if rng.IntN(3) == 0 {
			b.release()
		}
		switch n := c.nodes[rng.IntN(3)]; rng.IntN(40) {
		case 0:
			if n.host != nil {
				n.crash(rng)
			}
		case 1, 2, 3:
			if n.host == nil {
				n.start()
			}
		case 4:
			c.isolate(n.id)
		case 5, 6, 7:
			c.heal()
		case 8:
			if n.host != nil {
				n.rep.Raft().Transfer(c.nodes[rng.IntN(3)].id, func(error) {})
			}
		case 9:
			if n.host != nil {
				n.rep.Raft().Snapshot()
			}
		case 10:
			if n.host != nil {
				n.rep.m.log.WantCheckpoint()
				n.rep.Raft().Snapshot()
			}
		case 11, 12, 13:
			if n.host != nil && int(n.id) != lazy+1 {
				clean(n)
			}
		case 14:
			if n.host != nil {
				n.stop()
			}
		case 15, 16, 17:
			if l := anyLeader(); l != nil {
				hot++
				l.append(withCodec(protocol.CodecNone, keyed(l.rep.now().UnixMilli(), fmt.Sprint("hot", rng.IntN(3)), fmt.Sprint(hot, strings.Repeat("h", 100)))), -1)
			}
		}
		p := ps[rng.IntN(len(ps))]
		if p.busy && p.res != nil && errors.Is(p.res.Err, ErrOverloaded) {
			counts.full++
		}
		p.step(t, anyLeader(), rng)
		c.pass(time.Duration(rng.IntN(20)) * 10 * time.Millisecond)
		look()
		for i := range readers {
			n := c.nodes[rng.IntN(3)]
			if n.host == nil {
				continue
			}
			w.learn(n)
			if rng.IntN(10) == 0 {
				readers[i] = rng.Int64N(w.next + 1)
			}
			readers[i] = w.read(n, readers[i], []int{1, 400, 4000}[rng.IntN(3)])
		}
	}
	c.heal()
	b.held = false
	for _, n := range c.nodes {
		if n.host == nil {
			n.start()
		}
	}
	b.release()
	for _, p := range ps {
		p.last = true
	}
	c.until("all transactions have ended", func() bool {
		b.release()
		ended := true
		for _, p := range ps {
			if !p.ended {
				p.step(t, anyLeader(), rng)
				ended = false
			}
		}
		for _, n := range c.nodes {
			if !ended && n.rep.m != nil && rng.IntN(20) == 0 {
				n.rep.m.log.WantCheckpoint()
				n.rep.Raft().Snapshot()
				clean(n) // also the one that did not: it may lead now
			}
		}
		return ended
	})
	c.pass(20 * time.Second)
	for round := range 3 {
		for _, n := range c.nodes {
			w.learn(n)
			var got []string
			for at := n.rep.LogStart(); at < w.next; {
				next := w.read(n, at, 1000)
				if next == at {
					t.Fatalf("node %d: nothing at %d of %d", n.id, at, w.next)
				}
				at = next
			}
			for _, rec := range w.records {
				if !rec.aborted && !strings.HasPrefix(rec.key, "hot") {
					got = append(got, rec.key)
				}
			}
			for _, p := range ps {
				has := slices.DeleteFunc(slices.Clone(got), func(v string) bool { return !strings.HasPrefix(v, fmt.Sprint(p.id, ".")) })
				if !slices.Equal(has, p.want) {
					t.Errorf("producer %d: readers see %v, committed were %v, aborted %v", p.id, has, p.want, p.never)
				}
			}
			if round > 0 {
				n.rep.m.log.WantCheckpoint()
				n.rep.Raft().Snapshot()
				c.pass(time.Second)
				clean(n)
				c.pass(time.Second)
				look()
				n.rep.Raft().Snapshot()
				c.pass(time.Second)
				n.stop()
				n.start()
				c.pass(5 * time.Second)
			}
		}
	}
	return counts
}

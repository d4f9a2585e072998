package partition

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/balsamq/balsa/protocol"
	"github.com/balsamq/balsa/raft"
	"github.com/balsamq/balsa/segment"
)

// newCompacted is a cluster whose partition is compacted, in segments of 64 KiB.
func newCompacted(t *testing.T, change func(*Settings)) *cluster {
	return newCluster(t, 3, func(c *Config) {
		c.Settings = Settings{Compact: true, SegmentBytes: 64 << 10, RetentionAge: -1, TimestampAfter: -1, Compaction: Compaction{MinDirtyRatio: 0.3}}
		if change != nil {
			change(&c.Settings)
		}
	})
}

// fill produces n batches of 20 records over ten keys, about 10 KiB each, and waits until everybody has them.
func (c *cluster) fill(l *node, n int) {
	c.t.Helper()
	for range n {
		records := make([]protocol.Record, 20)
		for i := range records {
			records[i] = keyed(l.rep.now().UnixMilli(), fmt.Sprint("key", i%10), strings.Repeat("v", 500))
		}
		l.mustProduce(withCodec(protocol.CodecNone, records...))
	}
	c.pass(time.Second)
}

// compact does what the broker's cleaner does, and reports whether the log was cleaned.
func (n *node) compact() bool {
	n.c.t.Helper()
	n.rep.Dirt()
	n.c.pass(100 * time.Millisecond) // a checkpoint
	if !n.rep.Dirt().Due {
		return false
	}
	if _, err := n.rep.Compact(CompactOptions{MapBytes: 1 << 20}); err != nil {
		n.c.t.Fatal(err)
	}
	n.c.pass(100 * time.Millisecond)
	return true
}

// left is the offsets of the records that are read, from the start to the high watermark.
func (n *node) left() (offsets []int64) {
	n.c.t.Helper()
	hw, _ := n.rep.HighWatermark()
	for at := n.rep.LogStart(); at < hw; {
		r, err := n.rep.Read(ReadQuery{Offset: at, MaxBytes: 20_000, LeaderEpoch: -1, AnyReplica: true})
		if err != nil || len(r.Batches) == 0 {
			n.c.t.Fatalf("read at %d of %d: %d batches, %v", at, hw, len(r.Batches), err)
		}
		for _, raw := range r.Batches {
			for rec, err := range protocol.Batch(raw).Records(inflater()) {
				if err != nil {
					n.c.t.Fatal(err)
				}
				offsets = append(offsets, rec.Offset)
			}
			at = protocol.Batch(raw).NextOffset()
		}
	}
	return offsets
}

// Each replica compacts for itself; a member that lacks what is compacted gets it with the snapshot, and the leader has waited for it a while.
func TestCompact(t *testing.T) {
	c := newCompacted(t, nil)
	l := c.leader()
	c.fill(l, 40)
	for _, n := range c.nodes {
		if !n.compact() {
			t.Fatalf("node %d: nothing is due: %+v", n.id, n.rep.Dirt())
		}
		if d := n.rep.Describe(); d.First == 1 || d.LogStart != 0 || d.HighWatermark != 800 {
			t.Errorf("node %d: entries from %d, offsets [%d, %d)", n.id, d.First, d.LogStart, d.HighWatermark)
		}
		if got := n.left(); len(got) >= 800 || got[len(got)-1] != 799 {
			t.Errorf("node %d: %d records, the last at %d", n.id, len(got), got[len(got)-1])
		}
		if n.compact() {
			t.Errorf("node %d: compacted twice", n.id)
		}
	}

	// One is away.
	var away *node
	for _, n := range c.nodes {
		if n != l {
			away = n
		}
	}
	c.cut = func(from, to raft.NodeID) bool { return from == away.id || to == away.id }
	first := l.rep.Describe().First
	c.fill(l, 10) // less than two segments
	l.compact()
	if got := l.rep.Describe().First; got != first {
		t.Errorf("compacted up to %d, which node %d has not got yet", got, away.id)
	}
	c.fill(l, 40)
	if !l.compact() || l.rep.Describe().First == first {
		t.Errorf("the leader waits too long: entries from %d", first)
	}
	before := away.rep.Describe().HighWatermark
	c.cut = nil
	c.pass(20 * time.Second)
	if d := away.rep.Describe(); d.HighWatermark != 1800 || d.First < l.rep.Describe().First || d.LogStart != 0 {
		t.Fatalf("it was at %d, and is at %d with entries from %d, offsets from %d; the leader has entries from %d", before, d.HighWatermark, d.First, d.LogStart, l.rep.Describe().First)
	}
	if a, b := fmt.Sprint(away.left()), fmt.Sprint(l.left()); a != b {
		t.Errorf("node %d has %v\nthe leader %v", away.id, a, b)
	}
}

// min.compaction.lag.ms protects what is young, max.compaction.lag.ms makes what is old due.
func TestCompactionLags(t *testing.T) {
	c := newCompacted(t, func(s *Settings) { s.Compaction = Compaction{MinLag: time.Hour} })
	l := c.leader()
	c.fill(l, 40)
	if l.compact() {
		t.Fatal("young records were compacted")
	}
	if _, err := l.rep.Compact(CompactOptions{MapBytes: 1 << 20}); !errors.Is(err, segment.ErrNothingToClean) || !CompactionOvertaken(err) {
		t.Fatal(err)
	}
	s := l.rep.Settings()
	s.Compaction.MinLag = 0
	if err := l.rep.UpdateSettings(s); err != nil {
		t.Fatal(err)
	}
	if !l.compact() {
		t.Fatal("nothing is due any more")
	}
	// Little is dirty, but it is old, and in the file that is written to.
	c.fill(l, 1)
	if l.compact() {
		t.Fatal("too little is dirty")
	}
	s.Compaction.MaxLag, s.SegmentAge = time.Minute, 24*time.Hour
	if err := l.rep.UpdateSettings(s); err != nil {
		t.Fatal(err)
	}
	first := l.rep.Describe().First
	c.pass(2 * time.Minute)
	for range 3 {
		l.compact()
	}
	if l.rep.Describe().First == first || len(l.left()) != 10 {
		t.Errorf("entries from %d, %d records: what is old was not compacted", l.rep.Describe().First, len(l.left()))
	}
}

// Without bound is for ever, and not no time at all.
func TestCompactionUnbounded(t *testing.T) {
	c := newCompacted(t, func(s *Settings) { s.Compaction = Compaction{MinDirtyRatio: -1, MinLag: -1, DeleteRetention: -1} })
	l := c.leader()
	gone := keyed(l.rep.now().UnixMilli(), "gone", "")
	gone.Value = nil
	l.mustProduce(withCodec(protocol.CodecNone, gone))
	c.fill(l, 20)
	if l.compact() {
		t.Fatal("records were compacted that are never old enough")
	}
	s := l.rep.Settings()
	s.Compaction.MinLag = 0
	if err := l.rep.UpdateSettings(s); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		c.fill(l, 20)
		if !l.compact() {
			t.Fatal("nothing is due")
		}
		c.pass(time.Minute)
	}
	if got := l.left(); got[0] != 0 {
		t.Fatalf("the tombstone has gone: %d is the first record", got[0])
	}
}

// keyedTxn is a transactional batch of one producer with a record for each key.
func keyedTxn(l *node, id int64, first int32, value string, keys ...string) protocol.Batch {
	records := make([]protocol.Record, len(keys))
	for i, k := range keys {
		records[i] = keyed(l.rep.now().UnixMilli(), k, value)
	}
	o := protocol.NewBatchOptions()
	o.ProducerID, o.ProducerEpoch, o.BaseSequence, o.Transactional = id, 0, first, true
	return protocol.BuildBatch(records, o)
}

// What was aborted goes, and does not take the place of what was committed before; what is undecided stays, and all above it. A reader of committed
// records sees the same before and after, also once the markers have gone.
func TestCompactTransactions(t *testing.T) {
	b := new(txnBroker)
	c := newCluster(t, 3, func(c *Config) {
		c.Verify = b.verify
		c.Settings = Settings{Compact: true, SegmentBytes: 64 << 10, RetentionAge: -1, TimestampAfter: -1, Compaction: Compaction{MinDirtyRatio: -1, DeleteRetention: time.Minute}}
	})
	l := c.leader()
	seq := map[int64]int32{}
	txn := func(id int64, value string, keys ...string) {
		l.mustAppendTxn(keyedTxn(l, id, seq[id], value, keys...))
		seq[id] += int32(len(keys))
	}
	end := func(id int64, commit bool) {
		if r := l.mark(MarkerRequest{ProducerID: id, CoordinatorEpoch: 1, Commit: commit}); r.Err != nil {
			t.Fatal(r.Err)
		}
	}
	pad := strings.Repeat("p", 40_000)
	txn(1, "committed", "a", "b")
	end(1, true)
	txn(2, "aborted", "a", "c")
	end(2, false)
	txn(2, "then committed", "d")
	end(2, true)
	for i := range 4 {
		l.mustProduce(withCodec(protocol.CodecNone, keyed(l.rep.now().UnixMilli(), "pad", fmt.Sprint(i, pad))))
	}
	txn(3, "undecided", "a", "b")
	for i := range 4 {
		l.mustProduce(withCodec(protocol.CodecNone, keyed(l.rep.now().UnixMilli(), "pad", fmt.Sprint(4+i, pad))))
	}
	c.pass(time.Second)
	state := func() string {
		var out []string
		for _, v := range l.committed(1000) {
			if !strings.HasSuffix(v, "p") {
				out = append(out, v)
			}
		}
		return strings.Join(out, ", ")
	}
	before := state()
	stable := l.rep.Describe().LastStable
	for range 3 {
		l.compact()
	}
	if at := int64(l.rep.m.log.CleanedEnd()); at == 0 || at > stable {
		t.Fatalf("compacted up to %d, stable is what is below %d", at, stable)
	}
	if got := state(); got != before || got != "committed, committed, then committed" {
		t.Fatalf("committed records are %s, they were %s", got, before)
	}
	end(3, false)
	txn(2, "last", "e")
	end(2, true)
	for i := range 4 {
		l.mustProduce(withCodec(protocol.CodecNone, keyed(l.rep.now().UnixMilli(), "pad", fmt.Sprint(8+i, pad))))
	}
	for range 4 { // the markers' time comes
		c.pass(2 * time.Minute)
		l.mustProduce(withCodec(protocol.CodecNone, keyed(l.rep.now().UnixMilli(), "pad", fmt.Sprint("again", pad)), keyed(l.rep.now().UnixMilli(), "pad2", fmt.Sprint("again", pad))))
		for range 3 {
			l.compact()
		}
	}
	if got := state(); got != "committed, committed, then committed, last" {
		t.Fatalf("committed records are %s", got)
	}
	r, err := l.rep.Read(ReadQuery{Offset: 0, MaxBytes: 1 << 20, LeaderEpoch: -1, Committed: true})
	if err != nil || len(r.Aborted) != 0 {
		t.Fatalf("a reader of the cleaned part is told of %v, %v", r.Aborted, err)
	}
	var markers []int64
	for _, raw := range r.Batches {
		if b := protocol.Batch(raw); b.Control() && b.BaseOffset() < 10 {
			markers = append(markers, b.BaseOffset())
		}
	}
	if fmt.Sprint(markers) != "[2 7]" { // whose records are there; what ended at 5 was aborted
		t.Errorf("markers are left at %d", markers)
	}
}

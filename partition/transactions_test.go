package partition

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/balsamq/balsa/protocol"
	"github.com/balsamq/balsa/raft"
)

// txnBatch is a transactional batch of one producer, one record per value; first -1: without a sequence.
func txnBatch(id int64, epoch int16, first int32, values ...string) protocol.Batch {
	recs := make([]protocol.Record, len(values))
	for i, v := range values {
		recs[i] = protocol.Record{Timestamp: 1_700_000_000_000 + int64(i), Value: []byte(v)}
	}
	o := protocol.NewBatchOptions()
	o.ProducerID, o.ProducerEpoch, o.BaseSequence, o.Transactional = id, epoch, first, true
	return protocol.BuildBatch(recs, o)
}

func markerAt(base, id int64, epoch int16, coordinator int32, commit bool) protocol.Batch {
	b := protocol.BuildMarker(id, epoch, protocol.Marker{Commit: commit, CoordinatorEpoch: coordinator}, 5000)
	b.SetBaseOffset(base)
	return b
}

// logEntry is what the model keeps of a committed batch.
type logEntry struct {
	base, next int64
	producer   int64
	txn        bool
	marker     bool
	commit     bool
}

// modelStable and modelAborted say by the definition, from the whole log, what the fold keeps count of.
func modelStable(log []logEntry, start int64) int64 {
	open := map[int64]int64{}
	next := int64(0)
	for _, e := range log {
		next = e.next
		switch _, is := open[e.producer]; {
		case e.marker:
			delete(open, e.producer)
		case e.txn && !is:
			open[e.producer] = e.base
		}
	}
	for _, first := range open {
		next = min(next, first)
	}
	return max(next, start)
}

func modelAborted(log []logEntry, from, to int64) []AbortedTxn {
	out := []AbortedTxn{}
	open := map[int64]int64{}
	for _, e := range log {
		first, is := open[e.producer]
		switch {
		case e.marker:
			delete(open, e.producer)
			if is && !e.commit && first < to && e.base >= from {
				out = append(out, AbortedTxn{ProducerID: e.producer, First: first})
			}
		case e.txn && !is:
			open[e.producer] = e.base
		}
	}
	slices.SortFunc(out, func(a, b AbortedTxn) int { return int(a.First - b.First) })
	return out
}

// The last stable offset and the aborted transactions of any range are what the definition says, at every moment of a random history,
// also after a snapshot and its restore, and above a start that moves.
func TestTransactionsEqualTheirDefinition(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := newFold()
		var log []logEntry
		seqs := map[int64]int32{}
		for i := range rapid.IntRange(1, 80).Draw(t, "entries") {
			id := int64(rapid.IntRange(0, 3).Draw(t, "producer"))
			e := logEntry{base: f.next, producer: id}
			var b protocol.Batch
			switch rapid.IntRange(0, 9).Draw(t, "kind") {
			case 0:
				b, e.producer = batchOf(f.next, -1, -1, -1, 2), -1
			case 1, 2, 3:
				e.marker, e.commit = true, rapid.Bool().Draw(t, "commit")
				b = markerAt(f.next, id, 0, 3, e.commit)
			case 4:
				if err := f.prefix(raft.Index(i+1), encodePrefix(rapid.Int64Range(0, f.next).Draw(t, "start"))); err != nil {
					t.Fatal(err)
				}
			case 5:
				g, err := decodeFold(f.encode())
				if err != nil {
					t.Fatal(err)
				}
				g.count(f.bytes)
				if !bytes.Equal(f.encode(), g.encode()) {
					t.Fatal("a snapshot of a snapshot differs")
				}
				f = g
			default:
				e.txn = true
				b = txnBatch(id, 0, seqs[id], "x", "y")
				b.SetBaseOffset(f.next)
				seqs[id] += 2
			}
			if b != nil {
				if err := f.records(raft.Index(i+1), b); err != nil {
					t.Fatal(err)
				}
				e.next = f.next
				log = append(log, e)
			}
			if got, want := f.stable(), modelStable(log, f.start); got != want {
				t.Fatalf("last stable offset %d, by definition %d of %+v", got, want, log)
			}
			to := rapid.Int64Range(f.start, f.stable()).Draw(t, "to")
			from := rapid.Int64Range(f.start, to).Draw(t, "from")
			if got, want := f.abortedIn(from, to), modelAborted(log, from, to); from < to && !slices.Equal(got, want) {
				t.Fatalf("aborted in [%d, %d): %v, by definition %v of %+v", from, to, got, want, log)
			}
			if f.stableBytes > f.bytes || len(f.open) == 0 && f.stableBytes != f.bytes {
				t.Fatalf("%d stable bytes of %d", f.stableBytes, f.bytes)
			}
		}
	})
}

func TestOpenTransactionsAreNotForgotten(t *testing.T) {
	f := newFold()
	fold := func(i raft.Index, b protocol.Batch) {
		t.Helper()
		b.SetBaseOffset(f.next)
		if err := f.records(i, b); err != nil {
			t.Fatal(err)
		}
	}
	fold(1, txnBatch(1, 0, 0, "x"))
	f.tick(1000, 500)
	f.tick(100_000, 500)
	for i := range maxProducers + 3 {
		fold(raft.Index(i+2), seq(int64(i+10), 0, 0, "v"))
	}
	if f.byID[1] == nil || f.stable() != 0 {
		t.Fatal("a producer with an open transaction was forgotten")
	}
	n := raft.Index(maxProducers + 10)
	fold(n, markerAt(0, 1, 0, 1, false))
	fold(n+1, seq(99_999, 0, 0, "v"))
	f.forget(f.byID[1])
	if f.forgotten != n {
		t.Fatalf("the marker of a forgotten producer: %d, want %d", f.forgotten, n)
	}
}

// txnBroker is a Verify that answers when it is told to, with the verdict of the moment of the question.
type txnBroker struct {
	verdict func(Verification) error
	held    bool
	asked   []Verification
	waiting []func()
}

func (b *txnBroker) verify(v Verification, done func(error)) {
	b.asked = append(b.asked, v)
	err := error(nil)
	if b.verdict != nil {
		err = b.verdict(v)
	}
	if b.held {
		b.waiting = append(b.waiting, func() { done(err) })
		return
	}
	done(err)
}

func (b *txnBroker) release() {
	waiting := b.waiting
	b.waiting = nil
	for _, fn := range waiting {
		fn()
	}
}

func (n *node) appendTxn(b protocol.Batch) **AppendResult {
	res := new(*AppendResult)
	n.rep.Append(&AppendRequest{Batch: b, Acks: -1, TransactionalID: "tx", Done: func(r AppendResult) { *res = &r }})
	return res
}

func (n *node) mustAppendTxn(b protocol.Batch) int64 {
	n.c.t.Helper()
	res := n.appendTxn(b)
	n.c.until("an answer", func() bool { return *res != nil })
	if (*res).Err != nil {
		n.c.t.Fatalf("produce: %v", (*res).Err)
	}
	return (*res).BaseOffset
}

func (n *node) mark(m MarkerRequest) AppendResult {
	n.c.t.Helper()
	var res *AppendResult
	m.Done = func(r AppendResult) { res = &r }
	n.rep.WriteMarker(&m)
	n.c.until("a marker", func() bool { return res != nil })
	return *res
}

// committed reads as a consumer of committed records does.
func (n *node) committed(maxBytes int) []string {
	n.c.t.Helper()
	if err := n.linearize(); err != nil {
		n.c.t.Fatal(err)
	}
	var out []string
	aborting := map[int64]bool{}
	next := max(n.rep.LogStart(), 0)
	for {
		r, err := n.rep.Read(ReadQuery{Offset: next, MaxBytes: maxBytes, LeaderEpoch: -1, Committed: true})
		if err != nil {
			n.c.t.Fatal(err)
		}
		if len(r.Batches) == 0 {
			if next < r.LastStable {
				n.c.t.Fatalf("nothing at %d, last stable offset %d", next, r.LastStable)
			}
			return out
		}
		todo := slices.Clone(r.Aborted)
		for _, raw := range r.Batches {
			b := protocolBatch(n.c.t, raw)
			if b.NextOffset() > r.LastStable {
				n.c.t.Fatalf("batch up to %d, last stable offset %d", b.NextOffset(), r.LastStable)
			}
			for len(todo) > 0 && todo[0].First <= b.LastOffset() {
				aborting[todo[0].ProducerID] = true
				todo = todo[1:]
			}
			next = b.NextOffset()
			if b.Control() {
				delete(aborting, b.ProducerID())
				continue
			}
			if b.Transactional() && aborting[b.ProducerID()] {
				continue
			}
			for rec, err := range b.Records(nil) {
				if err != nil {
					n.c.t.Fatal(err)
				}
				out = append(out, string(rec.Value))
			}
		}
	}
}

func txnCluster(t *testing.T, n int) (*cluster, *txnBroker) {
	b := new(txnBroker)
	return newCluster(t, n, func(c *Config) { c.Verify = b.verify }), b
}

// KAFKA.md, Fetch: never past the last stable offset, with every aborted transaction in the answer; a marker wakes waiters.
func TestReadCommitted(t *testing.T) {
	c, _ := txnCluster(t, 3)
	l := c.leader()
	l.mustProduce(plain("p0"))
	l.mustAppendTxn(txnBatch(1, 0, 0, "a1"))
	l.mustAppendTxn(txnBatch(2, 0, 0, "b1"))
	l.mustProduce(plain("p1"))
	l.mustAppendTxn(txnBatch(1, 0, 1, "a2"))

	res, err := l.rep.Read(ReadQuery{Offset: 0, MaxBytes: 1 << 20, LeaderEpoch: -1})
	if err != nil || res.LastStable != 1 || res.HighWatermark != 5 || len(res.Batches) != 5 || res.Aborted != nil {
		t.Fatalf("read of everything: %+v %v", res, err)
	}
	res, err = l.rep.Read(ReadQuery{Offset: 0, MaxBytes: 1 << 20, LeaderEpoch: -1, Committed: true})
	if err != nil || len(res.Batches) != 1 || res.Aborted == nil || len(res.Aborted) != 0 {
		t.Fatalf("read of what is committed: %+v %v", res, err)
	}
	if o, err := l.rep.ListOffset(LatestTimestamp, -1, true); err != nil || o.Offset != 1 {
		t.Errorf("the end of what is committed: %+v %v", o, err)
	}
	if o, err := l.rep.ListOffset(LatestTimestamp, -1, false); err != nil || o.Offset != 5 {
		t.Errorf("the end: %+v %v", o, err)
	}

	fired := 0
	w := &Waiter{After: 1, Epoch: -1, Committed: true, Fire: func() { fired++ }}
	if !l.rep.Subscribe(w) {
		t.Fatal("there is nothing new yet")
	}
	l.mustProduce(plain("p2"))
	if fired != 0 {
		t.Fatal("a record above the last stable offset woke a reader of committed ones")
	}
	if r := l.mark(MarkerRequest{ProducerID: 2, CoordinatorEpoch: 1}); r.Err != nil || r.BaseOffset != 6 {
		t.Fatalf("abort: %+v", r)
	}
	if fired != 0 {
		t.Fatal("producer 1's transaction began before, and is still open")
	}
	if r := l.mark(MarkerRequest{ProducerID: 1, CoordinatorEpoch: 1, Commit: true}); r.Err != nil || r.BaseOffset != 7 {
		t.Fatalf("commit: %+v", r)
	}
	if fired != 1 {
		t.Fatal("the marker has not woken the reader")
	}
	for _, size := range []int{1, 150, 1 << 20} {
		wantValues(t, l.committed(size), "p0", "a1", "p1", "a2", "p2")
	}
	res, err = l.rep.Read(ReadQuery{Offset: 0, MaxBytes: 1 << 20, LeaderEpoch: -1, Committed: true})
	if err != nil || !slices.Equal(res.Aborted, []AbortedTxn{{ProducerID: 2, First: 2}}) || res.LastStable != 8 {
		t.Fatalf("aborted: %+v %v", res.Aborted, err)
	}
	c.pass(time.Second)
	for _, n := range c.nodes {
		res, err = n.rep.Read(ReadQuery{Offset: 3, MaxBytes: 1 << 20, LeaderEpoch: -1, Committed: true, AnyReplica: true})
		if err != nil || len(res.Batches) != 5 || len(res.Aborted) != 1 {
			t.Errorf("node %d: %+v %v", n.id, res, err)
		}
	}
	ps, err := l.rep.Producers()
	if err != nil || len(ps) != 2 || ps[0].LastSequence != 1 || ps[0].TxnStart != -1 || ps[1].CoordinatorEpoch != 1 {
		t.Errorf("producers: %+v %v", ps, err)
	}
	// Retention takes the aborted transaction's records away, and the word on them.
	start := int64(-1)
	l.rep.DeleteBefore(7, func(at int64, err error) { start = at })
	c.until("the start to move", func() bool { return start == 7 })
	if d := l.rep.Describe(); d.AbortedTxns != 0 || d.OpenTxns != 0 || d.LastStable != 8 {
		t.Errorf("%+v", d)
	}
}

// A marker that comes twice, late, or from a coordinator or of an epoch that is over.
func TestMarkersAreFenced(t *testing.T) {
	c, _ := txnCluster(t, 1)
	l := c.leader()
	l.mustAppendTxn(txnBatch(1, 5, 0, "a"))
	first := l.mark(MarkerRequest{ProducerID: 1, ProducerEpoch: 6, CoordinatorEpoch: 3, Commit: true, Bumped: true})
	if first.Err != nil || first.BaseOffset != 1 {
		t.Fatalf("%+v", first)
	}
	again := l.mark(MarkerRequest{ProducerID: 1, ProducerEpoch: 6, CoordinatorEpoch: 4, Commit: true, Bumped: true})
	if again.Err != nil || !again.Repeated {
		t.Errorf("a repeat: %+v", again)
	}
	wantErr(t, "an old epoch", (*l.appendTxnWait(txnBatch(1, 5, 1, "late"))).Err, ErrInvalidProducerEpoch)
	l.mustAppendTxn(txnBatch(1, 6, 0, "b"))
	wantErr(t, "the last transaction's end, late", l.mark(MarkerRequest{ProducerID: 1, ProducerEpoch: 6, CoordinatorEpoch: 3, Bumped: true}).Err, ErrInvalidProducerEpoch)
	wantErr(t, "an old producer epoch", l.mark(MarkerRequest{ProducerID: 1, ProducerEpoch: 5, CoordinatorEpoch: 3}).Err, ErrInvalidProducerEpoch)
	wantErr(t, "an old coordinator", l.mark(MarkerRequest{ProducerID: 1, ProducerEpoch: 7, CoordinatorEpoch: 2, Bumped: true}).Err, ErrCoordinatorFenced)
	wantErr(t, "outside of the transaction", l.produce(seq(1, 6, 1, "plain"), -1).Err, ErrInvalidTxnState)
	wantValues(t, l.committed(100), "a")
	if r := l.mark(MarkerRequest{ProducerID: 1, ProducerEpoch: 7, CoordinatorEpoch: 3, Bumped: true}); r.Err != nil {
		t.Fatal(r.Err)
	}
	wantErr(t, "an epoch begins at 0", (*l.appendTxnWait(txnBatch(1, 7, 3, "gap"))).Err, ErrOutOfOrderSequence)
	wantValues(t, l.committed(100), "a")
}

func (n *node) appendTxnWait(b protocol.Batch) *AppendResult {
	n.c.t.Helper()
	res := n.appendTxn(b)
	n.c.until("an answer", func() bool { return *res != nil })
	return *res
}

// KIP-890: the batches of a transaction wait for its verification in their order, and one whose transaction has ended meanwhile does
// not enter.
func TestVerification(t *testing.T) {
	c, b := txnCluster(t, 1)
	l := c.leader()
	b.held = true
	var res []**AppendResult
	for i := range 4 {
		res = append(res, l.appendTxn(txnBatch(1, 0, int32(i), fmt.Sprint("v", i))))
		if i%2 == 0 {
			c.settle() // two are on their way to the log when the first one is refused, others come after
		}
	}
	c.settle()
	if len(b.asked) != 1 || *res[0] != nil {
		t.Fatalf("asked %d times", len(b.asked))
	}
	if v := b.asked[0]; v.TransactionalID != "tx" || v.ProducerID != 1 || v.Topic != "orders" || v.Partition != 0 || v.Add {
		t.Errorf("%+v", v)
	}
	b.release()
	c.settle()
	for i, r := range res {
		if *r == nil || (*r).Err != nil || (*r).BaseOffset != int64(i) {
			t.Fatalf("batch %d: %+v", i, *r)
		}
	}
	if r := l.appendTxnWait(txnBatch(1, 0, 4, "v4")); r.Err != nil || len(b.asked) != 1 {
		t.Fatalf("an open transaction needs no question: %+v, %d questions", r, len(b.asked))
	}
	l.mark(MarkerRequest{ProducerID: 1, CoordinatorEpoch: 1, Commit: true})
	if r := l.appendTxnWait(txnBatch(1, 0, 4, "v4")); r.Err != nil || !r.Repeated {
		t.Fatalf("nor does a repeat: %+v", r)
	}

	// The coordinator says yes; then the transaction ends, without a record here; then the batch arrives at the log.
	verdict := error(nil)
	b.verdict = func(Verification) error { return verdict }
	late := l.appendTxn(txnBatch(1, 0, 5, "late"))
	c.settle()
	l.mark(MarkerRequest{ProducerID: 1, CoordinatorEpoch: 1})
	verdict = ErrInvalidTxnState // from now on
	b.release()
	c.settle()
	b.release()
	c.until("an answer", func() bool { return *late != nil })
	wantErr(t, "late", (*late).Err, ErrInvalidTxnState)
	if d := l.rep.Describe(); d.OpenTxns != 0 || len(b.asked) != 3 {
		t.Fatalf("%d open transactions, %d questions", d.OpenTxns, len(b.asked))
	}
	// A verdict against it reaches all who wait.
	x, y := l.appendTxn(txnBatch(2, 0, 0, "x")), l.appendTxn(txnBatch(2, 0, 1, "y"))
	c.settle()
	b.release()
	c.settle()
	if *x == nil || *y == nil || !errors.Is((*x).Err, ErrInvalidTxnState) || !errors.Is((*y).Err, ErrInvalidTxnState) {
		t.Fatalf("%+v %+v", *x, *y)
	}
	wantValues(t, l.committed(100), "v0", "v1", "v2", "v3", "v4")
}

// txnClient is a transactional producer with its coordinator: it writes, ends, and goes on to the next; both repeat until they have an
// answer without an error.
type txnClient struct {
	id, epoch   int64
	bumped      bool // transaction.version 2
	seq         int32
	n           int // transactions so far
	values      []string
	at          int // next value to write
	committing  bool
	ending      bool
	ended       bool // and of the next one nothing was sent
	last        bool // it begins no more
	keyed       bool // its records have their values as keys, and what makes them long
	res         *AppendResult
	busy        bool
	target      *node
	boot        uint64
	want, never []string
}

func (p *txnClient) begin(rng *rand.Rand) {
	p.n++
	p.values, p.at, p.ending = nil, 0, false
	for i := range 1 + rng.IntN(4) {
		p.values = append(p.values, fmt.Sprintf("%d.%d.%d", p.id, p.n, i))
	}
	p.committing = rng.IntN(2) == 0
}

// step sends what is next to a leader.
func (p *txnClient) step(t *testing.T, leader *node, rng *rand.Rand) {
	if p.busy && p.res == nil && p.target.host != nil && p.target.boot == p.boot {
		return
	}
	if r := p.res; p.busy && r != nil {
		if errors.Is(r.Err, ErrOutOfOrderSequence) || errors.Is(r.Err, ErrInvalidProducerEpoch) || errors.Is(r.Err, ErrInvalidTxnState) {
			t.Errorf("producer %d, transaction %d, value %d, ending %v: %v", p.id, p.n, p.at, p.ending, r.Err)
		}
		switch {
		case r.Err != nil:
		case p.ending:
			if p.committing {
				p.want = append(p.want, p.values...)
			} else {
				p.never = append(p.never, p.values...)
			}
			if p.bumped {
				p.epoch, p.seq = p.epoch+1, 0
			}
			p.begin(rng)
			p.ended = true
		default:
			p.at, p.seq = p.at+1, p.seq+1
			p.ending = p.at == len(p.values)
		}
	}
	p.busy, p.res = false, nil
	if leader == nil || p.last && p.ended {
		return
	}
	p.busy, p.ended, p.target, p.boot = true, false, leader, leader.boot
	done := func(r AppendResult) { p.res = &r }
	if p.ending {
		m := &MarkerRequest{ProducerID: p.id, ProducerEpoch: int16(p.epoch), CoordinatorEpoch: 1, Commit: p.committing, Bumped: p.bumped, Done: done}
		if p.bumped {
			m.ProducerEpoch++
		}
		leader.rep.WriteMarker(m)
		return
	}
	batch := txnBatch(p.id, int16(p.epoch), p.seq, p.values[p.at])
	if p.keyed {
		batch = keyedTxn(leader, p.id, p.seq, p.values[p.at]+strings.Repeat("/", 200), p.values[p.at])
		batch.SetProducer(p.id, int16(p.epoch), p.seq)
	}
	leader.rep.Append(&AppendRequest{Batch: batch, Acks: -1, TransactionalID: fmt.Sprint(p.id), Done: done})
}

// Transactions under crashes, power losses, partitions and changes of leadership: readers of committed records see each record of a
// committed transaction once and in order, and none of an aborted one; all replicas have the same state.
func TestRandomTransactions(t *testing.T) {
	seeds := 30
	if testing.Short() {
		seeds = 6
	}
	for seed := range seeds {
		t.Run(fmt.Sprint("seed", seed), func(t *testing.T) { randomTransactions(t, uint64(seed)) })
	}
}

func randomTransactions(t *testing.T, seed uint64) {
	rng := rand.New(rand.NewPCG(seed, 101))
	b := new(txnBroker)
	c := newCluster(t, 3, func(c *Config) { c.SnapshotEvery, c.Verify = 2<<10, b.verify })
	var ps []*txnClient
	for i := range 4 {
		p := &txnClient{id: int64(i + 1), bumped: i%2 == 0}
		p.begin(rng)
		ps = append(ps, p)
	}
	b.verdict = func(v Verification) error {
		if p := ps[v.ProducerID-1]; p.epoch != int64(v.ProducerEpoch) || p.ending {
			return ErrTxnUnverified
		}
		return nil
	}
	for range 500 {
		b.held = rng.IntN(3) == 0
		if rng.IntN(3) == 0 {
			b.release()
		}
		switch n := c.nodes[rng.IntN(3)]; rng.IntN(30) {
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
			if rng.IntN(4) == 0 {
				for _, n := range c.nodes {
					if n.host != nil {
						n.crash(rng)
					}
				}
			}
		}
		ps[rng.IntN(len(ps))].step(t, c.anyLeader(rng), rng)
		c.pass(time.Duration(rng.IntN(20)) * 10 * time.Millisecond)
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
		all := true
		for _, p := range ps {
			if !p.ended {
				p.step(t, c.anyLeader(rng), rng)
				all = false
			}
		}
		return all
	})
	l := c.leader()
	got := l.committed(400)
	perProducer := map[string][]string{}
	for _, v := range got {
		perProducer[v[:1]] = append(perProducer[v[:1]], v)
	}
	for _, p := range ps {
		if has := perProducer[fmt.Sprint(p.id)]; !slices.Equal(has, p.want) {
			t.Errorf("producer %d: readers see %v, committed were %v, aborted %v", p.id, has, p.want, p.never)
		}
	}
	c.pass(2 * time.Second)
	for _, n := range c.nodes {
		if a, b := n.rep.m.fold.encode(), l.rep.m.fold.encode(); !bytes.Equal(a, b) {
			t.Errorf("seed %d: node %d folded to %x, the leader to %x", seed, n.id, a, b)
		}
	}
	if d := l.rep.Describe(); d.OpenTxns != 0 || d.LastStable != d.HighWatermark {
		t.Errorf("%d transactions are open, %+v", d.OpenTxns, d)
	}
}

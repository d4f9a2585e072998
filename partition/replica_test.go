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

	"github.com/balsamq/balsa/protocol"
	"github.com/balsamq/balsa/raft"
)

// DESIGN.md, "The log": the first record of a topic is offset 0, and internal entries take no offset.
func TestProduceAndConsume(t *testing.T) {
	c := newCluster(t, 3, nil)
	l := c.leader()
	if off := l.mustProduce(plain("a", "b", "c")); off != 0 {
		t.Fatalf("first offset %d", off)
	}
	if off := l.mustProduce(plain("d")); off != 3 {
		t.Fatalf("second batch at %d", off)
	}
	for _, acks := range []int16{0, 1} {
		if r := l.produce(plain(fmt.Sprint("acks", acks)), acks); r.Err != nil || r.BaseOffset != int64(4+acks) || r.LogAppendTime != -1 {
			t.Fatalf("acks=%d: %+v", acks, r)
		}
	}
	wantValues(t, l.values(), "a", "b", "c", "d", "acks0", "acks1")

	// An offset within a batch returns that batch; the limit is soft; only the epoch and the offset were stamped.
	r, err := l.rep.Read(ReadQuery{Offset: 1, MaxBytes: 1, LeaderEpoch: -1})
	if err != nil || len(r.Batches) != 1 {
		t.Fatalf("%+v %v", r, err)
	}
	b := protocol.Batch(r.Batches[0])
	_, epoch, _ := l.rep.Leader()
	if b.BaseOffset() != 0 || b.LeaderEpoch() != epoch || r.LeaderEpoch != epoch || r.Bytes != len(b) {
		t.Errorf("base %d, epoch %d of %d", b.BaseOffset(), b.LeaderEpoch(), epoch)
	}
	if want := plain("a", "b", "c"); !bytes.Equal(b[16:], want[16:]) {
		t.Error("bytes after the stamped fields changed")
	}

	// Followers have the same, and serve it only when asked to.
	c.pass(2 * time.Second)
	for _, n := range c.nodes {
		if n == l {
			continue
		}
		_, err := n.rep.Read(ReadQuery{Offset: 0, MaxBytes: 1 << 20, LeaderEpoch: -1})
		var nl *NotLeaderError
		if !errors.As(err, &nl) || nl.Leader != l.id || nl.Epoch != epoch {
			t.Errorf("follower %d: %v", n.id, err)
		}
		r, err := n.rep.Read(ReadQuery{Offset: 0, MaxBytes: 1 << 20, LeaderEpoch: epoch, AnyReplica: true})
		if err != nil || r.HighWatermark != 6 || len(r.Batches) != 4 {
			t.Errorf("follower %d: %+v %v", n.id, r, err)
		}
		wantErr(t, "produce on a follower", n.produce(plain("x"), -1).Err, ErrNotLeader)
		wantErr(t, "linearize on a follower", n.linearize(), ErrNotLeader)
	}
}

func TestReadRefusals(t *testing.T) {
	c := newCluster(t, 1, nil)
	l := c.leader()
	l.mustProduce(plain("a", "b"))
	_, epoch, _ := l.rep.Leader()
	for _, x := range []struct {
		q    ReadQuery
		want error
	}{
		{ReadQuery{Offset: 3, LeaderEpoch: -1}, ErrOffsetOutOfRange},
		{ReadQuery{Offset: -1, LeaderEpoch: -1}, ErrOffsetOutOfRange},
		{ReadQuery{Offset: 0, LeaderEpoch: epoch - 1}, ErrFencedLeaderEpoch},
		{ReadQuery{Offset: 0, LeaderEpoch: epoch + 1}, ErrUnknownLeaderEpoch},
		{ReadQuery{Offset: 2, LeaderEpoch: epoch, MaxBytes: 100}, nil},
	} {
		r, err := l.rep.Read(x.q)
		if !errors.Is(err, x.want) || len(r.Batches) != 0 {
			t.Errorf("%+v: %+v %v", x.q, r, err)
		}
		if x.want == nil && r.HighWatermark != 2 {
			t.Errorf("high watermark %d", r.HighWatermark)
		}
	}
}

// KAFKA.md, Produce: what is checked before anything is appended.
func TestBatchChecks(t *testing.T) {
	now := time.UnixMilli(1_700_000_000_000)
	base := Settings{MaxMessageBytes: 1000}.withDefaults()
	edit := func(f func(b protocol.Batch)) protocol.Batch {
		b := plain("v", "w")
		f(b)
		b.UpdateCRC()
		return b
	}
	put := func(at int, v ...byte) func(protocol.Batch) { return func(b protocol.Batch) { copy(b[at:], v) } }
	bounded := base
	bounded.TimestampBefore = time.Minute
	logAppend := bounded
	logAppend.TimestampType = LogAppendTime
	at := func(ms int64) protocol.Batch {
		return protocol.BuildBatch([]protocol.Record{{Timestamp: ms, Value: []byte("x")}}, protocol.NewBatchOptions())
	}
	nowMs := now.UnixMilli()
	flipped := plain("v", "w")
	flipped[len(flipped)-1] ^= 1
	for _, x := range []struct {
		name  string
		batch []byte
		s     Settings
		want  error
	}{
		{"good", plain("v", "w"), base, nil},
		{"empty", nil, base, ErrCorrupt},
		{"header only", plain("v")[:40], base, ErrCorrupt},
		{"cut", plain("v")[:62], base, ErrCorrupt},
		{"flipped bit", flipped, base, ErrCorrupt},
		{"magic 1", edit(put(16, 1)), base, ErrInvalidRecord},
		{"two batches", append(plain("v"), plain("w")...), base, ErrInvalidRecord},
		{"count without delta", edit(put(57, 0, 0, 0, 3)), base, ErrInvalidRecord},
		{"negative length", edit(put(8, 255, 255, 255, 255)), base, ErrInvalidRecord},
		{"codec 5", edit(put(22, 5)), base, ErrUnsupportedCompression},
		{"control", edit(put(22, 0x20)), base, ErrInvalidRecord},

		{"negative sequence", seq(1, 0, -1, "x"), base, ErrInvalidRecord},
		{"too large", plain(strings.Repeat("x", 1000)), base, ErrTooLarge},
		{"an hour and more ahead", at(nowMs + 3_600_001), base, ErrInvalidTimestamp},
		{"an hour ahead", at(nowMs + 3_600_000), base, nil},
		{"long ago", at(5), base, nil},
		{"too long ago", at(nowMs - 60_001), bounded, ErrInvalidTimestamp},
		{"none", at(-1), bounded, nil},
		{"too long ago, and not asked", at(5), logAppend, nil},
	} {
		if err := checkBatch(x.batch, &x.s, false, func() time.Time { return now }); !errors.Is(err, x.want) {
			t.Errorf("%s: %v, want %v", x.name, err, x.want)
		}
	}
}

func FuzzCheckBatch(f *testing.F) {
	f.Add([]byte(plain("a", "b")))
	f.Add([]byte(seq(1, 2, 3, "x")))
	s := Settings{}.withDefaults()
	f.Fuzz(func(t *testing.T, data []byte) {
		if err := checkBatch(data, &s, false, time.Now); err != nil {
			return
		}
		// What is let through can be stamped and folded.
		b := protocol.Batch(bytes.Clone(data))
		b.SetBaseOffset(9)
		st := newFold()
		st.next = 9
		if err := st.records(1, b); err != nil || st.next <= 9 {
			t.Fatalf("passes the check, and folds to %d, %v", st.next, err)
		}
		if _, err := decodeFold(st.encode()); err != nil {
			t.Fatal(err)
		}
	})
}

func TestLogAppendTime(t *testing.T) {
	c := newCluster(t, 1, func(c *Config) { c.Settings.TimestampType = LogAppendTime })
	l := c.leader()
	b := seq(5, 0, 0, "a", "b")
	again := bytes.Clone(b)
	r := l.produce(b, -1)
	if r.Err != nil || r.LogAppendTime < 1_700_000_000_000 {
		t.Fatalf("%+v", r)
	}
	c.pass(time.Second)
	if rep := l.produce(again, -1); rep.LogAppendTime != r.LogAppendTime || !rep.Repeated || rep.BaseOffset != 0 {
		t.Errorf("a repeat gets %+v, the original got %+v", rep, r)
	}
	res, err := l.rep.Read(ReadQuery{MaxBytes: 1000, LeaderEpoch: -1})
	if err != nil {
		t.Fatal(err)
	}
	got := protocol.Batch(res.Batches[0])
	if !got.LogAppendTime() || got.MaxTimestamp() != r.LogAppendTime || got.CheckCRC() != nil {
		t.Errorf("stored: append time %v, max %d, crc %v", got.LogAppendTime(), got.MaxTimestamp(), got.CheckCRC())
	}

	// The other way round: the client's bit is not the topic's.
	if err := l.rep.UpdateSettings(Settings{}); err != nil {
		t.Fatal(err)
	}
	lying := plain("c")
	lying.SetLogAppendTime(1_700_000_000_000)
	if r := l.produce(lying, -1); r.Err != nil || r.LogAppendTime != -1 {
		t.Fatalf("%+v", r)
	}
	if res, err = l.rep.Read(ReadQuery{Offset: 2, MaxBytes: 1000, LeaderEpoch: -1}); err != nil {
		t.Fatal(err)
	}
	if got := protocol.Batch(res.Batches[0]); got.LogAppendTime() || got.CheckCRC() != nil {
		t.Error("a client's LogAppendTime bit was kept")
	}
	if err := l.rep.UpdateSettings(Settings{MinInsync: -1}); err == nil {
		t.Error("min.insync.replicas -1 is taken")
	}
}

// KAFKA.md: a repeat of any of the last five gets its original offset and no error, across leaders and restarts.
func TestDuplicates(t *testing.T) {
	c := newCluster(t, 3, nil)
	l := c.leader()
	batches := make([]protocol.Batch, 7)
	for i := range batches {
		batches[i] = seq(9, 0, int32(2*i), fmt.Sprint("a", i), fmt.Sprint("b", i))
		if off := l.mustProduce(bytes.Clone(batches[i])); off != int64(2*i) {
			t.Fatalf("batch %d at %d", i, off)
		}
	}
	check := func(when string, l *node) {
		t.Helper()
		for i := range batches {
			r := l.produce(bytes.Clone(batches[i]), -1)
			if i < 2 {
				wantErr(t, fmt.Sprintf("%s: batch %d, older than the window", when, i), r.Err, ErrOutOfOrderSequence)
			} else if r.Err != nil || r.BaseOffset != int64(2*i) || !r.Repeated {
				t.Errorf("%s: batch %d: %+v", when, i, r)
			}
		}
		wantErr(t, when+": gap", l.produce(seq(9, 0, 15, "gap"), -1).Err, ErrOutOfOrderSequence)
		if hw, ok := l.rep.HighWatermark(); hw != 14 || !ok {
			t.Errorf("%s: high watermark %d %v", when, hw, ok)
		}
	}
	check("same leader", l)

	c.isolate(l.id)
	l2 := c.leader(l.id)
	check("next leader", l2)
	c.heal()
	c.pass(3 * time.Second)

	rng := rand.New(rand.NewPCG(1, 2))
	for _, n := range c.nodes {
		n.crash(rng)
	}
	for _, n := range c.nodes {
		n.start()
	}
	l3 := c.leader()
	check("after a power loss of all", l3)
	l3.mustProduce(seq(9, 0, 14, "next"))
	wantErr(t, "an old epoch", func() error { l3.mustProduce(seq(9, 3, 0, "e3")); return l3.produce(seq(9, 2, 0, "e2"), -1).Err }(), ErrInvalidProducerEpoch)
}

// DESIGN.md: a duplicate of an uncommitted batch waits for the original's commit.
func TestDuplicateOfUncommitted(t *testing.T) {
	c := newCluster(t, 3, nil)
	l := c.leader()
	l.mustProduce(plain("x"))
	c.isolate(l.id)
	first := l.append(seq(4, 0, 0, "a"), -1)
	second := l.append(seq(4, 0, 1, "b"), -1) // in sequence after what is only staged
	repeat := l.append(seq(4, 0, 0, "a"), -1)
	c.settle()
	if *first != nil || *repeat != nil || *second != nil {
		t.Fatalf("answered without a quorum: %+v %+v %+v", *first, *second, *repeat)
	}
	if hw, _ := l.rep.HighWatermark(); hw != 1 {
		t.Fatalf("high watermark %d", hw)
	}
	gap := l.append(seq(4, 0, 3, "gap"), -1)
	c.settle()
	if *gap == nil {
		t.Fatal("a gap is refused at once")
	}
	wantErr(t, "gap after staged batches", (*gap).Err, ErrOutOfOrderSequence)
	c.heal()
	c.until("all are answered", func() bool { return *first != nil && *second != nil && *repeat != nil })
	if a, b, r := **first, **second, **repeat; a.Err != nil || a.BaseOffset != 1 || b.BaseOffset != 2 || r.Err != nil || r.BaseOffset != 1 || !r.Repeated {
		t.Errorf("%+v %+v %+v", a, b, r)
	}
	wantValues(t, l.values(), "x", "a", "b")
}

// PITFALLS.md: producer state not rolled back on truncation. What a deposed leader staged must leave no trace.
func TestOverlayIsDroppedWithLeadership(t *testing.T) {
	c := newCluster(t, 3, nil)
	old := c.leader()
	old.mustProduce(seq(4, 0, 0, "a"))
	c.isolate(old.id)
	lost := old.append(seq(4, 0, 1, "lost1"), -1)
	local := old.append(seq(4, 0, 2, "lost2"), 1)
	other := old.append(seq(5, 0, 0, "lost3"), -1) // of whom no other leader ever hears
	c.settle()
	if *local == nil || (*local).Err != nil || (*local).BaseOffset != 2 {
		t.Fatalf("acks=1 answers after the leader's own sync: %+v", *local)
	}
	next := c.leader(old.id)
	// The same sequence numbers, other records: for the new leader they never happened.
	if off := next.mustProduce(seq(4, 0, 1, "kept1")); off != 1 {
		t.Fatalf("offset %d", off)
	}
	c.heal()
	c.until("the old leader's produce ends", func() bool { return *lost != nil && *other != nil })
	var nl *NotLeaderError
	if !errors.As((*lost).Err, &nl) || !nl.MayCommit {
		t.Errorf("lost with leadership: %+v", **lost)
	}
	c.pass(3 * time.Second)

	// Make the old one lead again: its state must be what is committed.
	c.isolate(next.id)
	for {
		l := c.leader(next.id)
		if l == old {
			break
		}
		l.rep.Raft().Transfer(old.id, func(error) {})
		c.pass(500 * time.Millisecond)
	}
	wantErr(t, "sequence after what was truncated", old.produce(seq(4, 0, 3, "no"), -1).Err, ErrOutOfOrderSequence)
	if r := old.produce(seq(4, 0, 1, "kept1"), -1); r.Err != nil || !r.Repeated || r.BaseOffset != 1 {
		t.Errorf("%+v", r)
	}
	if off := old.mustProduce(seq(4, 0, 2, "kept2")); off != 2 {
		t.Errorf("offset %d", off)
	}
	if r := old.produce(seq(5, 0, 0, "kept3"), -1); r.Err != nil || r.Repeated || r.BaseOffset != 3 {
		t.Errorf("what was truncated is taken for a repeat: %+v", r)
	}
	wantValues(t, old.values(), "a", "kept1", "kept2", "kept3")
}

// PITFALLS.md: "A follower's or deposed leader's stale high watermark served as truth. Records visible to a consumer
// and truncated afterwards."
func TestHighWatermark(t *testing.T) {
	c := newCluster(t, 3, nil)
	old := c.leader()
	old.mustProduce(plain("a"))
	c.isolate(old.id)
	old.append(plain("never committed"), 1)
	c.settle()
	r, err := old.rep.Read(ReadQuery{Offset: 1, MaxBytes: 1000, LeaderEpoch: -1})
	if err != nil || len(r.Batches) != 0 || r.HighWatermark != 1 {
		t.Fatalf("uncommitted is readable: %+v %v", r, err)
	}
	res, err := old.rep.ListOffset(LatestTimestamp, -1, false)
	if err != nil || res.Offset != 1 {
		t.Fatalf("%+v %v", res, err)
	}

	// A new leader that cannot commit yet shows nothing: cut it off as soon as it is elected.
	var heir *node
	c.until("a new leader, not ready", func() bool {
		for _, n := range c.nodes {
			if id, _, ready := n.rep.Leader(); n != old && id == n.id && !ready {
				heir = n
				c.cut = func(from, to raft.NodeID) bool { return true }
				return true
			}
			if n == old {
				continue
			}
			// Election messages pass, entries do not: the no-op stays uncommitted.
			c.cut = func(from, to raft.NodeID) bool {
				if from == old.id || to == old.id {
					return true
				}
				if l, _, _ := c.nodes[from-1].rep.Leader(); l == from {
					return true
				}
				return false
			}
		}
		return false
	})
	if _, ok := heir.rep.HighWatermark(); ok {
		t.Error("a leader shows a high watermark before its no-op is applied")
	}
	_, err = heir.rep.Read(ReadQuery{Offset: 0, MaxBytes: 100, LeaderEpoch: -1})
	wantErr(t, "read", err, ErrNotReady)
	_, err = heir.rep.ListOffset(LatestTimestamp, -1, false)
	wantErr(t, "list offset", err, ErrNotReady)
	wantErr(t, "linearize", heir.linearize(), ErrNotReady)
	if heir.rep.Subscribe(&Waiter{Epoch: -1, Fire: func() {}}) {
		t.Error("somebody can wait on a leader that is not ready")
	}
	// A batch waits for it to become ready, or until it gives up.
	wantErr(t, "produce", heir.produce(plain("x"), -1).Err, ErrNotLeader)

	// The deposed one never confirms a read again.
	c.isolate(old.id)
	c.leader(old.id)
	if err := old.linearize(); !errors.Is(err, ErrNotLeader) && !errors.Is(err, ErrUnavailable) {
		t.Errorf("a deposed leader confirms a read: %v", err)
	}
}

func TestWaiters(t *testing.T) {
	c := newCluster(t, 3, nil)
	l := c.leader()
	l.mustProduce(plain("a"))
	fired := map[string]int{}
	waiter := func(name string, after, minBytes int64) *Waiter {
		return &Waiter{After: after, MinBytes: minBytes, Epoch: -1, Fire: func() { fired[name]++ }}
	}
	sub := func(w *Waiter) *Waiter {
		t.Helper()
		if !l.rep.Subscribe(w) {
			t.Fatal("there is nothing new, and Subscribe says there is")
		}
		return w
	}
	if l.rep.Subscribe(waiter("missed", 0, 1)) {
		t.Error("something is there already")
	}
	one, gone := sub(waiter("one", 1, 0)), sub(waiter("gone", 1, 0))
	size := int64(len(plain("b")))
	sub(waiter("two batches", 1, size+1))
	sub(waiter("far", 3, 0))
	if !l.rep.Unsubscribe(gone) || l.rep.Unsubscribe(gone) {
		t.Error("Unsubscribe: once true, then false")
	}
	l.mustProduce(plain("b"))
	if fired["one"] != 1 || fired["gone"]+fired["two batches"]+fired["far"] != 0 {
		t.Errorf("after one batch: %v", fired)
	}
	if l.rep.Unsubscribe(one) {
		t.Error("it has fired")
	}
	l.mustProduce(plain("c"))
	if fired["two batches"] != 1 || fired["far"] != 0 {
		t.Errorf("after two: %v", fired)
	}
	// Again from within Fire, by the same Waiter.
	again := waiter("", 3, 0)
	count := 0
	again.Fire = func() {
		if count++; count < 3 {
			again.After, _ = l.rep.HighWatermark()
			if !l.rep.Subscribe(again) {
				t.Error("nothing new after what was just seen")
			}
		}
	}
	sub(again)
	for range 5 {
		l.mustProduce(plain("d"))
	}
	if count != 3 || fired["far"] != 1 {
		t.Errorf("fired %d times, %v", count, fired)
	}
	if l.rep.Waiting() != 0 {
		t.Errorf("%d still wait", l.rep.Waiting())
	}

	// Leadership lost, and the close, fire everything.
	_, epoch, _ := l.rep.Leader()
	hw, _ := l.rep.HighWatermark()
	sub(&Waiter{After: hw, Epoch: epoch, MinBytes: 1 << 40, Fire: func() { fired["lost"]++ }})
	if l.rep.Subscribe(&Waiter{After: hw, Epoch: epoch - 1, Fire: func() { fired["stale"]++ }}) {
		t.Error("a waiter of an older epoch")
	}
	c.isolate(l.id)
	c.until("the old leader gives up", func() bool { return fired["lost"] == 1 })
	l = c.leader(l.id)
	sub(&Waiter{After: hw, Epoch: -1, Fire: func() { fired["closed"]++ }})
	if err := l.rep.Close(); err != nil {
		t.Fatal(err)
	}
	if fired["closed"] != 1 || fired["stale"] != 0 {
		t.Errorf("at the close: %v", fired)
	}
	_, err := l.rep.Read(ReadQuery{LeaderEpoch: -1})
	wantErr(t, "read after close", err, ErrClosed)
	wantErr(t, "produce after close", l.produce(plain("x"), -1).Err, ErrClosed)
}

// A restart from a snapshot in the middle of the log ends in the state of a replica that replayed all of it.
func TestSnapshotThenRestart(t *testing.T) {
	c := newCluster(t, 3, func(c *Config) { c.Settings.ProducerExpiry = 8 * time.Second })
	rng := rand.New(rand.NewPCG(3, 4))
	next := map[int64]int32{}
	write := func(l *node) {
		t.Helper()
		id, n := rng.Int64N(6), 1+rng.IntN(3)
		l.mustProduce(seq(id, 0, next[id], slices.Repeat([]string{"v"}, n)...))
		next[id] += int32(n)
	}
	snapped := c.nodes[1]
	for round := range 8 {
		l := c.leader()
		for range 12 {
			write(l)
			c.pass(time.Duration(rng.IntN(300)) * time.Millisecond)
		}
		c.pass(time.Second)
		if round == 3 {
			snapped.rep.Raft().Snapshot()
			c.pass(100 * time.Millisecond)
		}
		if round == 4 {
			snapped.crash(rng)
			snapped.start()
		}
		if round == 6 {
			c.nodes[2].crash(rng)
			c.nodes[2].start()
		}
	}
	// Nobody is forgotten while it writes, though several expiry periods have passed (expiry itself: TestExpiry).
	c.pass(3 * time.Second)
	want := c.nodes[0].rep.m.fold.encode()
	for _, n := range c.nodes[1:] {
		if got := n.rep.m.fold.encode(); !bytes.Equal(got, want) {
			t.Errorf("node %d folded to\n%x, node 1 to\n%x", n.id, got, want)
		}
	}
	if c.nodes[0].rep.m.fold.clock == 0 {
		t.Error("no clock command was ever applied")
	}
}

// producer.id.expiration.ms by the leader's clock, the same on every replica.
func TestExpiry(t *testing.T) {
	c := newCluster(t, 3, func(c *Config) { c.Settings.ProducerExpiry = 8 * time.Second })
	l := c.leader()
	l.mustProduce(seq(1, 0, 0, "a"))
	l.mustProduce(seq(2, 0, 0, "a"))
	for i := range 12 { // producer 2 goes on, 1 is silent
		c.pass(time.Second)
		l.mustProduce(seq(2, 0, int32(i+1), "b"))
	}
	c.pass(time.Second)
	for _, n := range c.nodes {
		f := n.rep.m.fold
		if f.byID[1] != nil || f.byID[2] == nil {
			t.Errorf("node %d remembers %d producers", n.id, len(f.byID))
		}
	}
	// Forgotten: any sequence is accepted.
	if r := l.produce(seq(1, 0, 77, "late"), -1); r.Err != nil {
		t.Error(r.Err)
	}
}

func TestListOffsetsAndEpochs(t *testing.T) {
	c := newCluster(t, 3, nil)
	l := c.leader()
	_, e1, _ := l.rep.Leader()
	empty, err := l.rep.ListOffset(EarliestTimestamp, -1, false)
	if err != nil || empty != (OffsetResult{0, -1, e1}) {
		t.Errorf("earliest of nothing: %+v %v", empty, err)
	}
	at := func(ts ...int64) protocol.Batch {
		var recs []protocol.Record
		for _, x := range ts {
			recs = append(recs, protocol.Record{Timestamp: x, Value: []byte("v")})
		}
		return protocol.BuildBatch(recs, protocol.NewBatchOptions())
	}
	l.mustProduce(at(1000))
	l.mustProduce(at(2000))
	c.isolate(l.id)
	l2 := c.leader(l.id)
	_, e2, _ := l2.rep.Leader()
	l2.mustProduce(at(8000, 9000, 8500))
	l2.mustProduce(at(3000))
	c.heal()
	c.pass(time.Second)
	for _, x := range []struct {
		ts   int64
		want OffsetResult
	}{
		{LatestTimestamp, OffsetResult{6, -1, e2}},
		{EarliestTimestamp, OffsetResult{0, -1, e1}},
		{EarliestLocalTimestamp, OffsetResult{0, -1, e1}},
		{LastTieredTimestamp, OffsetResult{-1, -1, -1}},
		{MaxTimestamp, OffsetResult{3, 9000, e2}},
		{0, OffsetResult{0, 1000, e1}},
		{1500, OffsetResult{1, 2000, e1}},
		{2001, OffsetResult{2, 8000, e2}},
		{8400, OffsetResult{3, 9000, e2}},
		{9001, OffsetResult{-1, -1, -1}},
	} {
		if got, err := l2.rep.ListOffset(x.ts, e2, false); err != nil || got != x.want {
			t.Errorf("ListOffset(%d): %+v %v, want %+v", x.ts, got, err, x.want)
		}
	}
	_, err = l2.rep.ListOffset(LatestTimestamp, e1, false)
	wantErr(t, "an older epoch", err, ErrFencedLeaderEpoch)
	for _, x := range []struct {
		epoch, found int32
		end          int64
	}{
		{e2, e2, 6}, {e1, e1, 2}, {e2 - 1, max(e1, e2-1), 2}, {e2 + 1, -1, -1}, {-1, -1, -1}, {e1 - 1, e1 - 1, 0},
	} {
		found, end, err := l2.rep.OffsetForLeaderEpoch(x.epoch, -1, false)
		if err != nil || end != x.end || found > x.epoch || (x.found >= 0) != (found >= 0) {
			t.Errorf("OffsetForLeaderEpoch(%d): %d %d %v, want %d", x.epoch, found, end, err, x.end)
		}
	}
}

// min.insync.replicas above the quorum.
func TestMinInsync(t *testing.T) {
	c := newCluster(t, 3, func(c *Config) { c.Settings.MinInsync = 3 })
	l := c.leader()
	c.until("all are in sync", func() bool { return len(l.rep.ISR()) == 3 })
	// The answer is looked for by a timer of the replica's own: the fake clock must stand still meanwhile.
	answer := make(chan AppendResult, 1)
	l.rep.Append(&AppendRequest{Batch: plain("all three"), Acks: -1, Done: func(r AppendResult) { answer <- r }})
	c.settle()
	select {
	case r := <-answer:
		if r.Err != nil || r.BaseOffset != 0 {
			t.Fatalf("%+v", r)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("no answer, though all three have it")
	}
	d := l.rep.Describe()
	if len(d.Replicas) != 3 || d.HighWatermark != 1 || d.NextOffset != 1 || len(d.Voters) != 3 {
		t.Errorf("%+v", d)
	}
	slow := c.nodes[l.id%3]
	c.isolate(slow.id)
	c.until("the ISR shrinks", func() bool { return len(l.rep.ISR()) == 2 && !contains(l.rep.ISR(), slow.id) })
	wantErr(t, "one is away", l.produce(plain("x"), -1).Err, ErrNotEnoughReplicas)
	if r := l.produce(plain("acks=1 does not ask"), 1); r.Err != nil {
		t.Error(r.Err)
	}
	if err := l.rep.UpdateSettings(Settings{MinInsync: 2}); err != nil {
		t.Fatal(err)
	}
	if r := l.produce(plain("a quorum is enough now"), -1); r.Err != nil {
		t.Error(r.Err)
	}
	if isr := slow.rep.ISR(); isr != nil {
		t.Errorf("a follower's ISR: %v", isr)
	}
	if _, _, _, ok := slow.rep.InSync(nil); ok {
		t.Error("a follower says who is in sync")
	}
	_, epoch, _ := l.rep.Leader()
	ms, term, _, ok := l.rep.InSync([]raft.Member{{ID: 9}})
	if !ok || term != raft.Term(epoch) || len(ms) != 3 || ms[0].ID != 9 || !slices.Equal(raft.NodeIDs(ms[1:]), l.rep.ISR()) {
		t.Errorf("in sync in %d: %v %v, want %v in %d", term, ms, ok, l.rep.ISR(), epoch)
	}
	c.heal()
	c.until("it comes back", func() bool { return len(l.rep.ISR()) == 3 })
}

// An answer that waits for more than the quorum: given when the last one has it, or when that one is out of sync.
func TestMinInsyncWaits(t *testing.T) {
	for _, comesBack := range []bool{true, false} {
		c := newCluster(t, 3, func(c *Config) { c.Settings.MinInsync = 3 })
		l := c.leader()
		c.until("all are in sync", func() bool { return len(l.rep.ISR()) == 3 })
		c.isolate(c.nodes[l.id%3].id) // nobody has noticed yet
		answer := make(chan AppendResult, 1)
		l.rep.Append(&AppendRequest{Batch: plain("x"), Acks: -1, Done: func(r AppendResult) { answer <- r }})
		c.settle()
		if hw, _ := l.rep.HighWatermark(); hw != 1 {
			t.Fatalf("not committed by the other two: %d", hw)
		}
		select {
		case r := <-answer:
			t.Fatalf("answered before the third has it: %+v", r)
		case <-time.After(4 * parkedCheck):
		}
		var want error
		if comesBack {
			c.heal()
		} else {
			want = ErrNotEnoughReplicasAfterAppend
		}
		c.pass(1500 * time.Millisecond)
		select {
		case r := <-answer:
			if !errors.Is(r.Err, want) || want == nil && r.BaseOffset != 0 {
				t.Errorf("comes back %v: %+v", comesBack, r)
			}
		case <-time.After(2 * time.Minute):
			t.Fatalf("comes back %v: no answer", comesBack)
		}
	}
}

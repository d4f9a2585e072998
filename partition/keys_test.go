package partition

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/balsamq/balsa/protocol"
	"github.com/balsamq/balsa/raft"
	"github.com/balsamq/balsa/raft/multi"
	"github.com/balsamq/balsa/segment"
)

// newKeyed is a cluster whose partition takes conditional appends. Tables are read at once, unless tasks is given: then the test runs them.
func newKeyed(t testing.TB, n int, tasks *[]func(), change func(*Config)) *cluster {
	run := func(f func()) { f() }
	if tasks != nil {
		run = func(f func()) { *tasks = append(*tasks, f) }
	}
	return newCluster(t, n, func(c *Config) {
		c.Settings = Settings{Compact: true, Conditional: true, SegmentBytes: 64 << 10, RetentionAge: -1, TimestampAfter: -1, Compaction: Compaction{MinDirtyRatio: 0.01, DeleteRetention: 1}}
		c.Keys = NewKeyMemory(0)
		if change != nil {
			change(c)
		}
		c.Keys.run = run
	})
}

// on is a record with a condition; of none, if expect is empty. A nil value is a tombstone.
func on(key string, value []byte, expect string) protocol.Record {
	r := protocol.Record{Timestamp: 1_700_000_000_000, Key: []byte(key), Value: value}
	if expect != "" {
		r.Headers = []protocol.Header{{Key: "other", Value: []byte("x")}, {Key: ExpectHeader, Value: []byte(expect)}}
	}
	return r
}

func recordsOf(records ...protocol.Record) protocol.Batch {
	return protocol.BuildBatch(records, protocol.NewBatchOptions())
}

// conflicts are the records that were refused, as index:message.
func conflicts(t *testing.T, err error) string {
	t.Helper()
	e, ok := errors.AsType[*RecordsError](err)
	if !ok || !errors.Is(err, ErrConditionFailed) {
		t.Errorf("%v, want a failed condition", err)
		return ""
	}
	var out []string
	for _, r := range e.Records {
		out = append(out, fmt.Sprintf("%d:%s", r.Index, strings.TrimPrefix(r.Message, ExpectHeader+": ")))
	}
	if e.Total != len(e.Records) {
		t.Errorf("%d of %d", len(e.Records), e.Total)
	}
	return strings.Join(out, " ")
}

func (n *node) lookUp(key string) (KeyResult, error) {
	n.c.t.Helper()
	if err := n.linearize(); err != nil {
		return KeyResult{}, err
	}
	return n.rep.LookupKey([]byte(key), -1)
}

func (n *node) wantKey(key, value string, offset int64) {
	n.c.t.Helper()
	if r, err := n.lookUp(key); err != nil || r.Offset != offset || string(r.Value) != value {
		n.c.t.Errorf("%s is %q at %d, %v; want %q at %d", key, r.Value, r.Offset, err, value, offset)
	}
}

func TestConditions(t *testing.T) {
	c := newKeyed(t, 3, nil, nil)
	l := c.leader()
	v := []byte("v")
	for _, x := range []struct {
		name  string
		batch protocol.Batch
		want  string // "" : it goes in
	}{
		{"a new key", recordsOf(on("a", []byte("1"), "none")), ""}, // 0
		{"which is there then", recordsOf(on("a", v, "none")), "0:current=0"},
		{"at another offset", recordsOf(on("a", v, "7")), "0:current=0"},
		{"another key", recordsOf(on("b", v, "0")), "0:current=none"},
		{"at its offset", recordsOf(on("a", []byte("2"), "0")), ""}, // 1
		{"all or nothing", recordsOf(on("c", v, "none"), on("a", v, "0"), on("d", v, ""), on("b", v, "5")), "1:current=1 3:current=none"},
		{"nothing was written of it", recordsOf(on("c", v, "none"), on("d", v, "none")), ""}, // 2, 3
		{"a tombstone", recordsOf(on("c", nil, "2")), ""},                                    // 4
		{"is as good as nothing", recordsOf(on("c", v, "4")), "0:current=none"},
		{"and so it can be made", recordsOf(on("c", []byte("5"), "none")), ""}, // 5
		{"a key twice", recordsOf(on("e", v, "none"), on("e", v, "none")), "1:current=6"},
		{"a key after itself", recordsOf(on("e", v, "none"), on("e", []byte("7"), "6")), ""},        // 6, 7
		{"deleted and made in one", recordsOf(on("e", nil, "7"), on("e", []byte("9"), "none")), ""}, // 8, 9
		{"without a condition", recordsOf(on("a", []byte("10"), "")), ""},                           // 10
	} {
		r := l.produce(x.batch, -1)
		switch {
		case x.want == "" && r.Err != nil:
			t.Fatalf("%s: %v", x.name, r.Err)
		case x.want != "":
			if got := conflicts(t, r.Err); got != x.want {
				t.Errorf("%s: %s, want %s", x.name, got, x.want)
			}
		}
	}
	check := func(l *node) {
		t.Helper()
		l.wantKey("a", "10", 10)
		l.wantKey("b", "", -1)
		l.wantKey("c", "5", 5)
		l.wantKey("d", "v", 3)
		l.wantKey("e", "9", 9)
		if n, ready := l.rep.KeyCount(); n != 4 || !ready || l.rep.cfg.Keys.Used() != 4 {
			t.Errorf("%d keys, %v, %d counted", n, ready, l.rep.cfg.Keys.Used())
		}
	}
	check(l)
	for _, bad := range []string{"", "x", "-1", "+1", "01", "1 ", "9223372036854775808", "None"} {
		r := on("z", v, "none")
		r.Headers[1].Value = []byte(bad)
		res := l.produce(recordsOf(r), -1)
		if e, ok := errors.AsType[*RecordsError](res.Err); !ok || !errors.Is(res.Err, ErrInvalidRecord) || !strings.Contains(e.Records[0].Message, "malformed") {
			t.Errorf("expect %q: %v", bad, res.Err)
		}
	}
	twice := on("z", v, "none")
	twice.Headers = append(twice.Headers, twice.Headers[1])
	wantErr(t, "a condition twice", l.produce(recordsOf(twice), -1).Err, ErrInvalidRecord)
	wantErr(t, "without a key", l.produce(recordsOf(protocol.Record{Value: v}), -1).Err, ErrInvalidRecord)

	// Whoever leads next knows the same.
	l.stop()
	next := c.leader(l.id)
	check(next)
	wantErr(t, "a condition elsewhere", next.anyFollower(next).produce(recordsOf(on("a", v, "10")), -1).Err, ErrNotLeader)
	if got := conflicts(t, next.produce(recordsOf(on("a", v, "1")), -1).Err); got != "0:current=10" {
		t.Error(got)
	}
}

// anyFollower is a running node that is not l.
func (n *node) anyFollower(l *node) *node {
	for _, f := range n.c.nodes {
		if f != l && f.host != nil {
			return f
		}
	}
	n.c.t.Fatal("no follower runs")
	return nil
}

// The repeat of a batch that was written is no conflict, on whichever leader; a refused batch takes no sequence.
func TestConditionsAndSequences(t *testing.T) {
	c := newKeyed(t, 3, nil, nil)
	l := c.leader()
	keyed := func(seq int32, expect string) protocol.Batch {
		b := recordsOf(on("k", []byte(fmt.Sprint(seq)), expect))
		b.SetProducer(7, 0, seq)
		b.UpdateCRC()
		return b
	}
	if r := l.produce(keyed(0, "none"), -1); r.Err != nil || r.BaseOffset != 0 {
		t.Fatalf("%+v", r)
	}
	if got := conflicts(t, l.produce(keyed(1, "none"), -1).Err); got != "0:current=0" {
		t.Error(got)
	}
	if r := l.produce(keyed(1, "0"), -1); r.Err != nil || r.BaseOffset != 1 {
		t.Fatalf("after a refusal: %+v", r)
	}
	for _, when := range []string{"with the same leader", "with the next one"} {
		for seq, expect := range []string{"none", "0"} {
			if r := l.produce(keyed(int32(seq), expect), -1); r.Err != nil || r.BaseOffset != int64(seq) || !r.Repeated {
				t.Errorf("%s, the repeat of %d: %+v", when, seq, r)
			}
		}
		if when == "with the same leader" {
			l.stop()
			l = c.leader(l.id)
		}
	}
	// Both on their way: the repeat of what is not committed yet waits for it, and is none.
	first, again, other := l.append(keyed(2, "1"), -1), l.append(keyed(2, "1"), -1), l.append(recordsOf(on("k", nil, "1")), -1)
	c.until("all answers", func() bool { return *first != nil && *again != nil && *other != nil })
	if (*first).BaseOffset != 2 || (*again).BaseOffset != 2 || (*again).Err != nil {
		t.Errorf("%+v, %+v", **first, **again)
	}
	if got := conflicts(t, (*other).Err); got != "0:current=2" {
		t.Error(got)
	}
}

// A refusal that rests on an entry which is not committed says nothing before that is; and nothing at all if it never is.
func TestConflictWithPending(t *testing.T) {
	c := newKeyed(t, 3, nil, nil)
	l := c.leader()
	l.mustProduce(recordsOf(on("k", []byte("0"), "none")))
	c.pass(time.Second)
	c.isolate(l.id)
	pending := l.append(recordsOf(on("k", []byte("1"), "0")), -1)
	refused := l.append(recordsOf(on("k", []byte("2"), "0")), -1)
	c.settle()
	if *pending != nil || *refused != nil {
		t.Fatalf("answers without a quorum: %+v, %+v", *pending, *refused)
	}
	c.heal()
	c.until("answers", func() bool { return *pending != nil && *refused != nil })
	if (*pending).Err != nil {
		t.Fatalf("%+v", **pending)
	}
	if got := conflicts(t, (*refused).Err); got != "0:current=1" {
		t.Error(got)
	}

	c.pass(time.Second)
	c.isolate(l.id)
	pending = l.append(recordsOf(on("k", []byte("3"), "1")), -1)
	refused = l.append(recordsOf(on("k", []byte("4"), "1")), -1)
	next := c.leader(l.id)
	next.mustProduce(recordsOf(on("k", []byte("5"), "1")))
	c.heal()
	c.until("answers", func() bool { return *pending != nil && *refused != nil })
	wantErr(t, "what was pending", (*pending).Err, ErrNotLeader)
	wantErr(t, "what was refused by it", (*refused).Err, ErrNotLeader)
	next.wantKey("k", "5", 2)
}

// A leader that has been deposed while it stood still, and does not know it, refuses nothing by what was true once.
func TestConflictOnDeposedLeader(t *testing.T) {
	c := newKeyed(t, 3, nil, nil)
	l := c.leader()
	l.mustProduce(recordsOf(on("k", []byte("0"), "none")))
	c.pass(time.Second)
	host := l.host
	l.host = nil // nothing of it runs
	next := c.leader(l.id)
	next.mustProduce(recordsOf(on("k", []byte("1"), "0")))
	if _, _, ready := l.rep.Leader(); !ready {
		t.Fatal("it knows")
	}
	// It stood still in the middle of a turn, just before it judged the batch: had it looked at the clock first, it would have known.
	var stale *AppendResult
	req := &AppendRequest{Batch: recordsOf(on("k", []byte("2"), "1")), Acks: -1, r: l.rep, m: l.rep.m, Done: func(r AppendResult) { stale = &r }}
	var err error
	if _, req.keys, err = lookInside(req.Batch, l.rep.settings.Load(), 0); err != nil {
		t.Fatal(err)
	}
	_, epoch, _ := l.rep.Leader()
	if _, err := l.rep.m.judgeKeys(req, raft.Term(epoch)); !errors.Is(err, errRefused) {
		t.Fatal(err)
	}
	req.done(multi.Outcome{Err: errRefused})
	l.host = host
	c.until("an answer", func() bool { return stale != nil })
	wantErr(t, "what was true once", stale.Err, ErrNotLeader)
	if got := conflicts(t, c.leader().produce(recordsOf(on("k", nil, "0")), -1).Err); got != "0:current=1" {
		t.Error(got)
	}
}

// While the table is read, unconditional records go in, conditions and look-ups wait outside, nothing is cleaned; and what came meanwhile is in it.
func TestKeysAreRead(t *testing.T) {
	var tasks []func()
	run := func() {
		for len(tasks) > 0 {
			f := tasks[0]
			tasks = tasks[1:]
			f()
		}
	}
	c := newKeyed(t, 3, &tasks, nil)
	l := c.leader()
	run()
	l.mustProduce(recordsOf(on("a", []byte("0"), ""), on("b", []byte("1"), ""), on("c", []byte("2"), "")))
	l.stop()
	l = c.leader(l.id)
	if len(tasks) != 1 {
		t.Fatalf("%d tables are to be read", len(tasks))
	}
	wantErr(t, "a condition", l.produce(recordsOf(on("a", nil, "0")), -1).Err, ErrKeysLoading)
	_, err := l.lookUp("a")
	wantErr(t, "a look-up", err, ErrKeysLoading)
	wantErr(t, "a compaction", func() error { _, err := l.rep.Compact(CompactOptions{MapBytes: 1 << 20}); return err }(), segment.ErrNothingToClean)
	l.mustProduce(recordsOf(on("a", nil, ""), on("b", []byte("4"), ""), on("d", []byte("5"), ""), on("e", []byte("6"), ""), on("e", nil, "")))
	run()
	l.wantKey("a", "", -1)
	l.wantKey("b", "4", 4)
	l.wantKey("c", "2", 2)
	l.wantKey("d", "5", 5)
	l.wantKey("e", "", -1)
	if n, ready := l.rep.KeyCount(); n != 3 || !ready || l.rep.cfg.Keys.Used() != 3 {
		t.Errorf("%d keys, %v, %d counted", n, ready, l.rep.cfg.Keys.Used())
	}
	// A table whose time is over by when it is read.
	wantErr(t, "no more than one", l.rep.m.wantKeys(), ErrKeysLoading)
	l.rep.m.keys.drop()
	wantErr(t, "dropped", l.rep.m.wantKeys(), ErrKeysLoading)
	l.rep.m.keys.drop()
	run()
	if n, ready := l.rep.KeyCount(); n != 0 || ready || l.rep.cfg.Keys.Used() != 0 {
		t.Errorf("%d keys, %v, %d counted", n, ready, l.rep.cfg.Keys.Used())
	}
}

// Who leads no more has no table, and gets none from somebody who has asked for a key just before: it would be there until the next record.
func TestKeysGoWithLeadership(t *testing.T) {
	var tasks []func()
	c := newKeyed(t, 3, &tasks, func(c *Config) { c.Keys = NewKeyMemory(0) })
	run := func() {
		for len(tasks) > 0 {
			f := tasks[0]
			tasks = tasks[1:]
			f()
		}
	}
	l := c.leader()
	run()
	l.mustProduce(recordsOf(on("a", []byte("0"), ""), on("b", []byte("1"), "")))
	keys := l.rep.cfg.Keys
	if used := keys.Used(); used != 2 {
		t.Fatalf("%d keys are counted", used)
	}
	c.pass(time.Second)
	c.isolate(l.id)
	next := c.leader(l.id)
	c.heal()
	c.until("it follows", func() bool { _, _, ready := l.rep.Leader(); return !ready })
	wantErr(t, "after leadership", l.rep.m.wantKeys(), ErrKeysLoading) // as LookupKey does, which has looked who leads before
	run()
	if n, ready := l.rep.KeyCount(); n != 0 || ready {
		t.Errorf("who follows has a table of %d keys", n)
	}
	if used := keys.Used(); used != 0 {
		t.Errorf("%d keys are counted", used)
	}
	next.wantKey("b", "1", 1)
}

// No more keys than there is memory for: new ones are refused, those that are there are not; and who leads with less memory says so.
func TestKeyMemoryIsBounded(t *testing.T) {
	most := int64(4)
	c := newKeyed(t, 1, nil, func(c *Config) { c.Keys = &KeyMemory{most: most} })
	l := c.leader()
	for i := range 4 {
		l.mustProduce(recordsOf(on(fmt.Sprint(i), []byte("v"), "none")))
	}
	wantErr(t, "one more", l.produce(recordsOf(on("4", []byte("v"), "")), -1).Err, ErrKeyMemory)
	wantErr(t, "one more among others", l.produce(recordsOf(on("3", []byte("v"), ""), on("4", []byte("v"), "none")), -1).Err, ErrKeyMemory)
	l.mustProduce(recordsOf(on("3", []byte("w"), ""), on("5", nil, "")))
	l.mustProduce(recordsOf(on("2", nil, "2")))
	l.mustProduce(recordsOf(on("4", []byte("v"), "none")))
	l.wantKey("4", "v", 7)
	l.stop()
	most = 3
	l.start()
	l = c.leader()
	_, err := l.lookUp("4")
	wantErr(t, "with less memory", err, ErrKeyMemory)
	wantErr(t, "with less memory", l.produce(recordsOf(on("4", nil, "7")), -1).Err, ErrKeyMemory)
	if used := l.rep.cfg.Keys.Used(); used != 0 {
		t.Errorf("%d keys are counted", used)
	}
}

// What retention and DeleteRecords have taken does not exist.
func TestKeysBelowTheStart(t *testing.T) {
	c := newKeyed(t, 1, nil, nil)
	l := c.leader()
	for _, k := range []string{"a", "b", "c"} {
		l.mustProduce(recordsOf(on(k, []byte(k), "none")))
	}
	done := false
	l.rep.DeleteBefore(2, func(start int64, err error) { done = err == nil && start == 2 })
	c.until("the start has moved", func() bool { return done })
	l.wantKey("b", "", -1)
	l.wantKey("c", "c", 2)
	l.mustProduce(recordsOf(on("a", []byte("A"), "none")))
	if got := conflicts(t, l.produce(recordsOf(on("b", nil, "1")), -1).Err); got != "0:current=none" {
		t.Error(got)
	}
	if n, _ := l.rep.KeyCount(); n != 2 {
		t.Errorf("%d keys", n)
	}
	l.stop()
	l.start()
	l = c.leader()
	l.wantKey("a", "A", 3)
	l.wantKey("b", "", -1)
}

// Compaction between the table and the record: the newer one is found. A table is read from what compaction has left, tombstones gone.
func TestKeysAndCompaction(t *testing.T) {
	c := newKeyed(t, 3, nil, nil)
	l := c.leader()
	want := make(map[string]int64)
	for i := range 400 {
		k := fmt.Sprint("k", i%37)
		if i%5 == 4 {
			l.mustProduce(recordsOf(on(k, nil, "")))
			delete(want, k)
			continue
		}
		want[k] = l.mustProduce(recordsOf(on(k, bytes.Repeat([]byte("v"), 1000), "")))
	}
	c.pass(time.Second)
	check := func() {
		t.Helper()
		for i := range 37 {
			k := fmt.Sprint("k", i)
			offset, ok := want[k]
			if !ok {
				offset = -1
			}
			if r, err := l.lookUp(k); err != nil || r.Offset != offset {
				t.Errorf("%s is at %d, %v; want %d", k, r.Offset, err, offset)
			}
		}
	}
	for range 3 {
		for _, n := range c.nodes {
			n.compact()
			c.clock.Add(int64(10 * time.Second))
		}
		l = c.leader()
		check()
	}
	if d := l.rep.Describe(); d.First == 1 {
		t.Fatal("nothing was compacted")
	}
	old := l
	l.stop()
	l = c.leader(l.id)
	check()
	old.start()
}

// Transactions are refused; an ordinary topic knows nothing of conditions, and has no look-ups.
func TestConditionalTopics(t *testing.T) {
	c := newKeyed(t, 1, nil, func(c *Config) { c.Verify = func(_ Verification, done func(error)) { done(nil) } })
	l := c.leader()
	b := recordsOf(on("k", []byte("v"), ""))
	b.SetProducer(5, 0, 0)
	b[22] |= 0x10
	b.UpdateCRC()
	var res *AppendResult
	l.rep.Append(&AppendRequest{Batch: b, Acks: -1, TransactionalID: "t", Done: func(r AppendResult) { res = &r }})
	c.until("an answer", func() bool { return res != nil })
	wantErr(t, "a transaction", res.Err, ErrInvalidRecord)

	c = newCompacted(t, nil)
	l = c.leader()
	l.mustProduce(recordsOf(on("k", []byte("1"), "none")))
	l.mustProduce(recordsOf(on("k", []byte("2"), "none")))
	_, err := l.lookUp("k")
	wantErr(t, "a look-up", err, ErrNoKeys)
}

func FuzzExpect(f *testing.F) {
	for _, v := range []string{"none", "0", "1", "17", "9223372036854775807", "9223372036854775808", "00", "-1", ""} {
		f.Add([]byte(v))
	}
	f.Fuzz(func(t *testing.T, v []byte) {
		offset, ok := parseExpect(v)
		if ok != (string(v) == ExpectNone || offset >= 0 && fmt.Sprint(offset) == string(v)) {
			t.Fatalf("%q is %d, %v", v, offset, ok)
		}
		if ok && conflictText(offset) != ExpectHeader+": current="+string(v) {
			t.Fatalf("%q is told as %s", v, conflictText(offset))
		}
	})
}

// FuzzConditions: whatever a batch holds, it is refused or each of its records has its key.
func FuzzConditions(f *testing.F) {
	f.Add([]byte(recordsOf(on("a", []byte("1"), "none"), on("b", nil, "12"), on("c", []byte("v"), ""))))
	f.Add([]byte(recordsOf(on("a", []byte("1"), "nonsense"))))
	f.Fuzz(func(t *testing.T, data []byte) {
		b, err := protocol.ParseBatch(data)
		if err != nil || b.Check() != nil || len(data) > 1<<20 {
			return
		}
		s := Settings{Conditional: true, Compact: true}.withDefaults()
		got, keys, err := lookInside(b, &s, 0)
		if err != nil {
			return
		}
		i := 0
		for r, err := range got.Records(inflater()) {
			if err != nil {
				t.Fatal(err)
			}
			if k := keys[i]; k.hash != hashOf(r.Key) || k.dead != (r.Value == nil) || int(k.delta) != i || k.expect < noCondition {
				t.Fatalf("record %d: %+v", i, k)
			}
			i++
		}
		if i != len(keys) {
			t.Fatalf("%d keys of %d records", len(keys), i)
		}
	})
}

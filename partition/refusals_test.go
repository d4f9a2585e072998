package partition

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/balsamq/balsa/protocol"
	"github.com/balsamq/balsa/raft"
)

// A copy of a refused batch that comes late is refused like the first, though its condition holds by then: with the same leader, the next one, and one that knows
// of it by a snapshot. The producer goes on with the same number, and then the copy is a repeat.
func TestRefusalIsFinal(t *testing.T) {
	c := newKeyed(t, 3, nil, func(c *Config) { c.SnapshotEvery = 1 << 10 })
	l := c.leader()
	of := func(seq int32, key, value, expect string) protocol.Batch {
		b := recordsOf(on("other", []byte("x"), ""), on(key, []byte(value), expect))
		b.SetProducer(7, 0, seq)
		b.UpdateCRC()
		return b
	}
	end := func() int64 { hw, _ := l.rep.HighWatermark(); return hw }
	l.mustProduce(recordsOf(on("k", []byte("0"), "none")))
	late := of(0, "k", "late", "none")
	copyOf := func() []byte { return bytes.Clone(late) }
	if got := conflicts(t, l.produce(copyOf(), -1).Err); got != "1:current=0" {
		t.Error(got)
	}
	l.mustProduce(recordsOf(on("k", nil, "0"))) // now it would hold
	for _, when := range []string{"the same leader", "the next one", "after snapshots"} {
		switch when {
		case "the next one":
			l.stop()
			old := l
			l = c.leader(l.id)
			old.start()
		case "after snapshots":
			for range 40 {
				l.mustProduce(recordsOf(on("fill", bytes.Repeat([]byte("v"), 200), "")))
			}
			c.settle()
			for _, n := range c.nodes {
				n.stop()
				n.start()
			}
			l = c.leader()
			if len(l.rep.m.fold.byID[7].refused) != 1 {
				t.Fatal("it is not remembered")
			}
		}
		before := end()
		if got := conflicts(t, l.produce(copyOf(), -1).Err); got != "1:was refused when current=0" || end() != before {
			t.Errorf("%s: %s, and the log has %d records more", when, got, end()-before)
		}
	}
	// Both on their way: the copy comes before the refusal is committed.
	b := of(0, "k", "twice", "17")
	first, again := l.append(bytes.Clone(b), -1), l.append(bytes.Clone(b), -1)
	c.until("both answers", func() bool { return *first != nil && *again != nil })
	for _, r := range []*AppendResult{*first, *again} {
		if got := conflicts(t, r.Err); got != "1:current=none" {
			t.Error(got)
		}
	}
	next := l.produce(of(0, "k", "next", "none"), -1)
	if next.Err != nil {
		t.Fatalf("the next batch takes the number: %+v", next)
	}
	before := end()
	if r := l.produce(copyOf(), -1); !r.Repeated || r.BaseOffset != next.BaseOffset || end() != before {
		t.Errorf("the copy, behind the batch that has its number: %+v", r)
	}
	l.wantKey("k", "next", next.BaseOffset+1)
	if n := len(l.rep.m.fold.byID[7].refused); n != 0 {
		t.Errorf("%d refusals are remembered of a number that is taken", n)
	}

	// Who is not known begins with any number, and keeps it after a refusal.
	stranger := func(expect string) protocol.Batch {
		b := recordsOf(on("k", []byte(expect), expect))
		b.SetProducer(8, 3, 17)
		b.UpdateCRC()
		return b
	}
	for i := range 2 * maxRefusals {
		if got := conflicts(t, l.produce(stranger(fmt.Sprint(100_000+i)), -1).Err); got == "" {
			t.Fatal(i)
		}
	}
	if n := len(l.rep.m.fold.byID[8].refused); n != maxRefusals {
		t.Errorf("%d refusals are remembered", n)
	}
	if r := l.produce(stranger(fmt.Sprint(next.BaseOffset+1)), -1); r.Err != nil {
		t.Errorf("%+v", r)
	}
	// What is pipelined behind a refused batch is out of order, as behind every other refusal: clients are made for that.
	if got := conflicts(t, l.produce(of(2, "k", "a", "1"), -1).Err); got == "" {
		t.Error("it was not refused")
	}
	wantErr(t, "behind a refused batch", l.produce(of(4, "k", "b", ""), -1).Err, ErrOutOfOrderSequence)
}

// A snapshot holds refusals, and no others than make sense.
func TestRefusalsInSnapshot(t *testing.T) {
	f := newFold()
	if err := f.records(1, seq(5, 0, 0, "a", "b")); err != nil {
		t.Fatal(err)
	}
	x := refusal{first: 2, last: 3, crc: 77, delta: 1, current: 1}
	for i, id := range []int64{5, 6, 6} {
		x.crc++
		if err := f.command(raft.Index(2+i), encodeRefusal(id, 0, &x, 9)); err != nil {
			t.Fatal(err)
		}
	}
	data := f.encode()
	g, err := decodeFold(data)
	if err != nil || !bytes.Equal(g.encode(), data) {
		t.Fatalf("%v", err)
	}
	if a, b := g.byID[5].refused, g.byID[6].refused; len(a) != 1 || len(b) != 2 || b[1] != (refusal{2, 3, 80, 1, 1, 4}) {
		t.Errorf("%+v, %+v", a, b)
	}
	for n := range data {
		if _, err := decodeFold(data[:n]); err == nil {
			t.Errorf("%d of %d bytes are taken", n, len(data))
		}
	}
	bad := x
	bad.current = 2 // where the log ends
	if err := f.command(9, encodeRefusal(5, 0, &bad, 9)); err == nil {
		t.Error("a record that is not there is to blame")
	}
}

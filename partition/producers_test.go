package partition

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"testing"

	"pgregory.net/rapid"

	"github.com/balsamq/balsa/protocol"
	"github.com/balsamq/balsa/raft"
)

// batchOf makes a batch of n records from a producer (id -1: none), stamped with base.
func batchOf(base, id int64, epoch int16, seq int32, n int) protocol.Batch {
	recs := make([]protocol.Record, n)
	for i := range recs {
		recs[i] = protocol.Record{Timestamp: 1000 + int64(i), Value: fmt.Appendf(nil, "v%d.%d.%d", id, seq, i)}
	}
	o := protocol.NewBatchOptions()
	o.ProducerID, o.ProducerEpoch, o.BaseSequence = id, epoch, seq
	b := protocol.BuildBatch(recs, o)
	b.SetBaseOffset(base)
	return b
}

// KAFKA.md, Produce: the table of verdicts.
func TestWindowDecides(t *testing.T) {
	var w window
	if _, err := w.decide(3, 77, 79); err != nil {
		t.Fatalf("no state takes any sequence: %v", err)
	}
	seq := int32(math.MaxInt32 - 4)
	for i := range 7 { // two records each: wraps after the third
		b := seqBatch{first: seq, last: protocol.AddSequence(seq, 1), base: int64(100 + 2*i), index: raft.Index(10 + i)}
		if rep, err := w.decide(3, b.first, b.last); rep != nil || err != nil {
			t.Fatalf("batch %d (sequence %d) refused: %v %v", i, seq, rep, err)
		}
		w.push(3, b)
		seq = protocol.AddSequence(seq, 2)
	}
	if w.batches[0].base != 104 || w.last().base != 112 {
		t.Fatalf("window holds %d..%d", w.batches[0].base, w.last().base)
	}
	for _, b := range w.batches {
		if rep, err := w.decide(3, b.first, b.last); err != nil || rep == nil || rep.base != b.base {
			t.Errorf("repeat of %d: %v %v", b.first, rep, err)
		}
	}
	for _, c := range []struct {
		name        string
		epoch       int16
		first, last int32
		want        error
	}{
		{"older than the window", 3, math.MaxInt32 - 4, math.MaxInt32 - 3, ErrOutOfOrderSequence},
		{"gap", 3, seq + 1, seq + 1, ErrOutOfOrderSequence},
		{"same first, another length", 3, w.last().first, w.last().first, ErrOutOfOrderSequence},
		{"old epoch", 2, seq, seq, ErrInvalidProducerEpoch},
		{"new epoch not from 0", 4, seq, seq, ErrOutOfOrderSequence},
		{"new epoch from 0", 4, 0, 9, nil},
		{"next", 3, seq, seq + 4, nil},
	} {
		rep, err := w.decide(c.epoch, c.first, c.last)
		if rep != nil || !errors.Is(err, c.want) {
			t.Errorf("%s: %v %v", c.name, rep, err)
		}
	}
	w.push(4, seqBatch{first: 0, last: 9})
	if w.n != 1 || w.epoch != 4 {
		t.Errorf("a new epoch keeps %d batches of the old one", w.n)
	}
}

// step is one committed entry of a random history.
type step struct {
	clock   bool
	now     int64
	expiry  int64
	payload []byte
}

func drawHistory(t *rapid.T) []step {
	n := rapid.IntRange(1, 60).Draw(t, "entries")
	var out []step
	now, next := int64(1000), int64(0)
	seqs := map[int64]int32{}
	for range n {
		if rapid.IntRange(0, 9).Draw(t, "kind") < 2 {
			now += int64(rapid.IntRange(-50, 2000).Draw(t, "pass"))
			out = append(out, step{clock: true, now: now, expiry: 3000})
			continue
		}
		id := int64(rapid.IntRange(-1, 6).Draw(t, "producer"))
		count := rapid.IntRange(1, 4).Draw(t, "records")
		b := batchOf(next, id, int16(rapid.IntRange(0, 1).Draw(t, "epoch")), seqs[id], count)
		if id < 0 {
			b = batchOf(next, -1, -1, -1, count)
		}
		if id >= 0 {
			switch rapid.IntRange(0, 3).Draw(t, "transaction") {
			case 0:
				b, count = markerAt(next, id, int16(rapid.IntRange(0, 1).Draw(t, "marker epoch")), 1, rapid.Bool().Draw(t, "commit")), 1
			case 1:
				b, count = txnBatch(id, int16(rapid.IntRange(0, 1).Draw(t, "txn epoch")), seqs[id], "t"), 1
				b.SetBaseOffset(next)
			}
		}
		if rapid.Bool().Draw(t, "append time") {
			b.SetLogAppendTime(now)
		}
		seqs[id] += int32(count)
		next += int64(count)
		out = append(out, step{payload: b})
	}
	return out
}

func (s step) fold(t interface{ Fatal(...any) }, f *fold, i raft.Index) {
	var err error
	if s.clock {
		err = f.command(i, encodeClock(s.now, s.expiry))
	} else {
		err = f.records(i, s.payload)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// A snapshot taken anywhere, restored, and followed by the rest of the log is the state that the whole log gives.
func TestSnapshotEqualsReplay(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		history := drawHistory(t)
		cut := rapid.IntRange(0, len(history)).Draw(t, "cut")
		whole, first := newFold(), newFold()
		for i, s := range history {
			s.fold(t, whole, raft.Index(i+1))
			if i < cut {
				s.fold(t, first, raft.Index(i+1))
			}
		}
		restored, err := decodeFold(first.encode())
		if err != nil {
			t.Fatal(err)
		}
		for i := cut; i < len(history); i++ {
			history[i].fold(t, restored, raft.Index(i+1))
		}
		if a, b := whole.encode(), restored.encode(); !bytes.Equal(a, b) {
			t.Fatalf("cut %d: replay %x, snapshot then replay %x", cut, a, b)
		}
	})
}

// The overlay judges as a fold would that had everything staged applied at once, wherever the applied index is.
func TestOverlayIsTheFoldAhead(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f, ahead, o := newFold(), newFold(), overlay{}
		var staged []protocol.Batch
		applied := 0
		for range rapid.IntRange(1, 80).Draw(t, "steps") {
			if applied < len(staged) && rapid.Bool().Draw(t, "apply") {
				b := staged[applied]
				applied++
				if err := f.records(raft.Index(applied), b); err != nil {
					t.Fatal(err)
				}
				o.applied(b.ProducerID(), raft.Index(applied))
				continue
			}
			id, epoch := int64(rapid.IntRange(0, 2).Draw(t, "id")), int16(rapid.IntRange(0, 1).Draw(t, "epoch"))
			b := batchOf(ahead.next, id, epoch, int32(rapid.IntRange(0, 7).Draw(t, "seq")), rapid.IntRange(1, 2).Draw(t, "n"))
			if rapid.IntRange(0, 3).Draw(t, "marker") == 0 {
				b = markerAt(ahead.next, id, epoch, 1, true)
				m := &MarkerRequest{ProducerID: id, ProducerEpoch: epoch, CoordinatorEpoch: 1, Bumped: rapid.Bool().Draw(t, "bumped")}
				var model *window
				if p := ahead.byID[id]; p != nil {
					model = &p.window
				}
				rep, err := o.windowOf(f, id).judgeMarker(m)
				if mrep, merr := model.judgeMarker(m); rep != mrep || fmt.Sprint(err) != fmt.Sprint(merr) {
					t.Fatalf("a marker: overlay says %v %v, a fold of everything %v %v", rep, err, mrep, merr)
				}
				if rep == 0 && err == nil {
					staged = append(staged, b)
					o.staged(f, b, raft.Index(len(staged)))
					if err := ahead.records(raft.Index(len(staged)), b); err != nil {
						t.Fatal(err)
					}
				}
				continue
			}
			var model *window
			if p := ahead.byID[id]; p != nil {
				model = &p.window
			}
			rep, err := o.windowOf(f, id).decide(epoch, b.BaseSequence(), b.LastSequence())
			mrep, merr := model.decide(epoch, b.BaseSequence(), b.LastSequence())
			if (rep == nil) != (mrep == nil) || fmt.Sprint(err) != fmt.Sprint(merr) || rep != nil && *rep != *mrep {
				t.Fatalf("overlay says %v %v, a fold of everything %v %v", rep, err, mrep, merr)
			}
			if rep == nil && err == nil {
				staged = append(staged, b)
				o.staged(f, b, raft.Index(len(staged)))
				if err := ahead.records(raft.Index(len(staged)), b); err != nil {
					t.Fatal(err)
				}
			}
		}
		for applied < len(staged) {
			b := staged[applied]
			applied++
			if err := f.records(raft.Index(applied), b); err != nil {
				t.Fatal(err)
			}
			o.applied(b.ProducerID(), raft.Index(applied))
		}
		if len(o) != 0 {
			t.Fatalf("all is applied, and the overlay still holds %d producers", len(o))
		}
	})
}

func TestProducersAreForgotten(t *testing.T) {
	f := newFold()
	write := func(i raft.Index, id int64) {
		t.Helper()
		if err := f.records(i, batchOf(f.next, id, 0, 0, 1)); err != nil {
			t.Fatal(err)
		}
	}
	write(1, 1)
	f.tick(1000, 500) // producer 1 wrote at the latest now
	write(2, 2)
	f.tick(1499, 500)
	if len(f.byID) != 2 {
		t.Fatal("forgotten early")
	}
	f.tick(1500, 500)
	if f.byID[1] != nil || f.byID[2] == nil {
		t.Fatal("producer 1 was silent for the whole period, 2 was not")
	}
	f.tick(100, 500) // a clock that went back moves nothing
	if f.clock != 1500 || f.byID[2] == nil {
		t.Fatal("the clock went back")
	}

	f = newFold()
	for i := range maxProducers + 3 {
		write(raft.Index(i+1), int64(i))
	}
	if len(f.byID) != maxProducers || f.byID[2] != nil || f.byID[3] == nil || f.oldest.id != 3 {
		t.Fatalf("%d producers, oldest %d", len(f.byID), f.oldest.id)
	}
	if _, err := decodeFold(f.encode()); err != nil {
		t.Fatal(err)
	}
}

func FuzzDecodeFold(f *testing.F) {
	s := newFold()
	f.Add(s.encode())
	for i := range 9 {
		b := batchOf(s.next, int64(i%3), 0, int32(i), 1)
		if i%2 == 0 {
			b.SetLogAppendTime(5000)
		}
		if err := s.records(raft.Index(i+1), b); err != nil {
			f.Fatal(err)
		}
		s.tick(int64(1000+i), 500)
		f.Add(s.encode())
	}
	for i, b := range []protocol.Batch{txnBatch(7, 1, 0, "a"), txnBatch(8, 1, -1, "b"), markerAt(0, 7, 2, 1, false), txnBatch(7, 2, 0, "c")} {
		b.SetBaseOffset(s.next)
		if err := s.records(raft.Index(i+20), b); err != nil {
			f.Fatal(err)
		}
		f.Add(s.encode())
	}
	s.most = 2
	for i := range 4 {
		s.addAborted(abortedTxn{producer: 7, first: int64(2 * i), last: int64(2*i + 1), stable: int64(2*i + 2)})
	}
	f.Add(s.encode())
	if _, err := decodeFold(s.encode()); err != nil || s.lost == 0 {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := decodeFold(data)
		if err != nil {
			if !errors.Is(err, errSnapshot) {
				t.Fatalf("error without a sentinel: %v", err)
			}
			return
		}
		if again := s.encode(); !bytes.Equal(again, data) {
			t.Fatalf("not canonical: %x decodes and encodes to %x", data, again)
		}
	})
}

func FuzzFoldEntries(f *testing.F) {
	f.Add([]byte(batchOf(0, 1, 0, 0, 2)), encodeClock(5, 6))
	f.Add([]byte(batchOf(0, 1, 0, 0, 2)), encodeRefusal(1, 0, &refusal{first: 2, last: 3, crc: 9, delta: 1, current: 1}, 6))
	f.Fuzz(func(t *testing.T, rec, cmd []byte) {
		s := newFold()
		_ = s.records(1, rec)
		_ = s.command(2, cmd)
		if s.next < 0 || len(s.byID) > 2 { // each of the two entries may be another producer's
			t.Fatalf("next %d, %d producers", s.next, len(s.byID))
		}
	})
}

package coordinator

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"testing"
	"time"

	"github.com/balsamq/balsa/protocol"
)

var (
	partA = TopicPartition{"a", 0}
	partB = TopicPartition{"b", 3}
)

// The first protocol: partitions are announced, and the epoch stays from one transaction to the next.
func TestTxnVersion1(t *testing.T) {
	h := newTxnHarness(t, TxnConfig{})
	h.want("an end without a producer", h.end(owner{5, 0}, true, false).err, ErrInvalidProducerIDMapping)
	p := h.mustInit(newcomer)
	if p.epoch != 0 {
		t.Fatalf("the first epoch is %v", p)
	}
	h.wantState(TxnEmpty)
	h.want("an end without a transaction", h.end(p, true, false).err, ErrTxnState)
	h.want("a partition that nobody added", h.verify(p, partA), ErrTxnAbortable)
	h.want("add", h.add(p, 1, partB, partA), nil)
	h.want("add again", h.add(p, 1, partA), nil)
	h.want("verify", h.verify(p, partA, partB), nil)
	h.want("another's", h.verify(owner{p.id + 1, 0}, partA), ErrInvalidProducerIDMapping)
	h.want("another epoch", h.verify(owner{p.id, 1}, partA), ErrProducerFenced)
	if i := h.info(); i.State != TxnOngoing || !reflect.DeepEqual(i.Partitions, []TopicPartition{partA, partB}) || i.Start != h.now.UnixMilli() {
		t.Fatalf("%+v", i)
	}
	h.hold = true
	if r := h.end(p, true, false); r.err != nil || r.owner != p {
		t.Fatalf("commit: %+v", r)
	}
	h.want("the same, before the markers", h.end(p, true, false).err, ErrConcurrentTransactions)
	h.want("the contrary", h.end(p, false, false).err, ErrTxnState)
	h.want("the next transaction", h.add(p, 1, partA), ErrConcurrentTransactions)
	h.want("a batch that comes late", h.verify(p, partA), ErrConcurrentTransactions)
	h.want("a new instance", h.init(newcomer).err, ErrConcurrentTransactions)
	h.wantState(TxnPrepareCommit)
	h.release()
	h.wantState(TxnCompleteCommit)
	h.wantMarker(partA, Marker{ProducerID: p.id, ProducerEpoch: 0, Commit: true})
	h.wantMarker(partB, Marker{ProducerID: p.id, ProducerEpoch: 0, Commit: true})
	h.want("a repeat", h.end(p, true, false).err, nil)
	h.want("the contrary", h.end(p, false, false).err, ErrTxnState)

	h.want("the next transaction", h.add(p, 1, partA), nil)
	if i := h.info(); len(i.Partitions) != 1 {
		t.Fatalf("partitions of the last transaction are in the next: %v", i.Partitions)
	}
	h.want("abort", h.end(p, false, false).err, nil)
	h.wantMarker(partA, Marker{ProducerID: p.id})
	h.wantState(TxnCompleteAbort)
	if st := h.c.Stats(); st.Committed != 1 || st.Aborted != 1 || st.States["CompleteAbort"] != 1 {
		t.Errorf("%+v", st)
	}
}

// KIP-890: each end raises the epoch, which tells a repeat from the next end.
func TestTxnVersion2(t *testing.T) {
	h := newTxnHarness(t, TxnConfig{})
	p := h.mustInit(newcomer)
	h.want("add", h.add(p, 2, partA), nil)
	h.hold = true
	r := h.end(p, true, true)
	if r.err != nil || r.owner != (owner{p.id, 1}) {
		t.Fatalf("commit: %+v", r)
	}
	h.want("a repeat, before the markers", h.end(p, true, true).err, ErrConcurrentTransactions)
	h.want("the contrary", h.end(p, false, true).err, ErrTxnState)
	h.want("with the new epoch", h.end(r.owner, false, true).err, ErrConcurrentTransactions)
	h.release()
	h.wantMarker(partA, Marker{ProducerID: p.id, ProducerEpoch: 1, Commit: true, Bumped: true})
	if again := h.end(p, true, true); again != r {
		t.Fatalf("a repeat: %+v, first %+v", again, r)
	}
	h.want("the contrary", h.end(p, false, true).err, ErrTxnState)
	h.want("a late batch", h.verify(p, partA), ErrProducerFenced)
	h.want("a commit of nothing", h.end(r.owner, true, true).err, ErrTxnState)
	// An abort of nothing raises the epoch.
	r2 := h.end(r.owner, false, true)
	if r2.err != nil || r2.epoch != 2 {
		t.Fatalf("abort of nothing: %+v", r2)
	}
	h.wantState(TxnCompleteAbort)
	if again := h.end(r.owner, false, true); again != r2 {
		t.Fatalf("a repeat: %+v", again)
	}
	h.want("the old one", h.end(p, true, true).err, ErrProducerFenced)
	h.want("the next transaction", h.add(r2.owner, 2, partB), nil)
	h.want("abort", h.end(r2.owner, false, true).err, nil)
	h.wantMarker(partB, Marker{ProducerID: p.id, ProducerEpoch: 3, Bumped: true})
}

// A new instance fences the old one and aborts what it has begun; an instance that comes back with what it has (KIP-360) goes on.
func TestTxnInit(t *testing.T) {
	h := newTxnHarness(t, TxnConfig{})
	for _, timeout := range []time.Duration{0, -time.Second, 15*time.Minute + 1} {
		a := newAnswer[error](t)
		h.c.Init(InitRequest{TransactionalID: "tx", Timeout: timeout, ProducerID: -1, ProducerEpoch: -1}, func(_ int64, _ int16, err error) { a.set(err) })
		h.want(fmt.Sprint("timeout ", timeout), a.get(), ErrInvalidTxnTimeout)
	}
	h.failPID = errors.New("no metadata leader")
	h.want("without a producer id", h.init(newcomer).err, ErrCoordinatorUnavailable)
	h.failPID = nil
	old := h.mustInit(newcomer)
	h.want("add", h.add(old, 1, partA), nil)
	h.want("a new instance", h.init(newcomer).err, ErrConcurrentTransactions)
	h.wantMarker(partA, Marker{ProducerID: old.id, ProducerEpoch: 1, Bumped: true})
	young := h.mustInit(newcomer)
	if young != (owner{old.id, 2}) {
		t.Fatalf("the new instance is %v", young)
	}
	h.want("the old one's commit", h.end(old, true, false).err, ErrProducerFenced)
	h.want("the old one's commit, version 2", h.end(old, true, true).err, ErrProducerFenced)
	h.want("the old one's partition", h.add(old, 1, partA), ErrProducerFenced)
	h.want("the old one coming back", h.init(old).err, ErrProducerFenced)

	raised := h.mustInit(young)
	if raised.epoch != 3 {
		t.Fatalf("%v came back as %v", young, raised)
	}
	if again := h.mustInit(young); again != raised {
		t.Fatalf("a repeat: %v, first %v", again, raised)
	}
	if next := h.mustInit(raised); next.epoch != 4 {
		t.Fatalf("%v came back as %v", raised, next)
	}
	h.want("from before", h.init(young).err, ErrProducerFenced)
}

// Two instances of an id that nobody has had: one of them is sent away until the other's record is written. Were both on their way, the
// second could replace a transaction that the first has begun, and nobody would end it.
func TestTxnInitOfNewIDIsOneAtATime(t *testing.T) {
	h := newTxnHarness(t, TxnConfig{})
	h.log.waitForCommit()
	a := newAnswer[ownerAnswer](t)
	h.c.Init(InitRequest{TransactionalID: "tx", Timeout: time.Minute, ProducerID: -1, ProducerEpoch: -1}, func(id int64, epoch int16, err error) {
		a.set(ownerAnswer{owner{id, epoch}, err})
	})
	h.want("the second", h.init(newcomer).err, ErrConcurrentTransactions)
	h.log.commit()
	first := a.get()
	h.want("the first", first.err, nil)
	if next := h.mustInit(newcomer); next != (owner{first.id, 1}) {
		t.Fatalf("after %v came %v", first.owner, next)
	}
}

func TestTxnTimesOut(t *testing.T) {
	h := newTxnHarness(t, TxnConfig{})
	p := h.mustInit(newcomer)
	h.want("add", h.add(p, 1, partA), nil)
	h.advance(59 * time.Second)
	h.want("add another", h.add(p, 1, partB), nil)
	h.wantState(TxnOngoing)
	h.advance(time.Second)
	h.wantState(TxnCompleteAbort)
	h.wantMarker(partA, Marker{ProducerID: p.id, ProducerEpoch: 1, Bumped: true})
	h.wantMarker(partB, Marker{ProducerID: p.id, ProducerEpoch: 1, Bumped: true})
	h.want("commit", h.end(p, true, false).err, ErrProducerFenced)
	h.want("commit, version 2", h.end(p, true, true).err, ErrProducerFenced)
	if st := h.c.Stats(); st.TimedOut != 1 {
		t.Errorf("%+v", st)
	}
	// A transaction that ended in time leaves no time-out to the next.
	p = h.mustInit(newcomer)
	h.want("add", h.add(p, 1, partA), nil)
	h.advance(50 * time.Second)
	h.want("commit", h.end(p, true, false).err, nil)
	h.want("add", h.add(p, 1, partA), nil)
	h.advance(50 * time.Second)
	h.wantState(TxnOngoing)
	h.move()
	h.wantState(TxnOngoing)
	h.advance(10 * time.Second)
	h.wantState(TxnCompleteAbort)
	// One of version 2 may have raised its epoch by an end of its own; yet it was not the end that the producer asks for.
	p = h.mustInit(newcomer)
	h.want("add", h.add(p, 2, partA), nil)
	h.advance(time.Minute)
	h.want("commit, of version 2", h.end(p, true, true).err, ErrTxnState)
}

// An instance that was fenced must not take the end of its successor's transaction, which raised no epoch, for its own.
func TestTxnEndOfFencedInstanceIsNoRepeat(t *testing.T) {
	h := newTxnHarness(t, TxnConfig{})
	old := h.mustInit(newcomer)
	young := h.mustInit(newcomer)
	h.want("add", h.add(young, 1, partA), nil)
	h.hold = true
	h.want("commit", h.end(young, true, false).err, nil)
	h.want("the old one's commit, while markers are sent", h.end(old, true, true).err, ErrProducerFenced)
	h.release()
	h.wantState(TxnCompleteCommit)
	h.want("the old one's commit", h.end(old, true, true).err, ErrProducerFenced)
	h.move()
	h.want("the old one's commit, at another coordinator", h.end(old, true, true).err, ErrProducerFenced)
}

// A producer id whose epochs are used up is followed by another one, by Init or at an end.
func TestTxnEpochsAreUsedUp(t *testing.T) {
	put := func(h *txnHarness, state TxnState, parts ...TopicPartition) owner {
		o := owner{7, finalEpoch}
		r := txnRecord{id: "tx", data: &txnData{producer: o.id, epoch: o.epoch, prev: -1, next: -1, lastEpoch: -1, timeout: time.Minute, state: state,
			parts: parts, start: h.now.UnixMilli(), updated: h.now.UnixMilli()}}
		h.log.put(protocol.Record{Key: r.key(), Value: r.value()})
		h.move()
		return o
	}
	h := newTxnHarness(t, TxnConfig{})
	old := put(h, TxnCompleteCommit)
	p := h.mustInit(newcomer)
	if p.id == old.id || p.epoch != 0 {
		t.Fatalf("after the last epoch: %v", p)
	}

	h = newTxnHarness(t, TxnConfig{})
	old = put(h, TxnCompleteCommit)
	p = h.mustInit(old)
	if again := h.mustInit(old); again != p || p.id == old.id {
		t.Fatalf("it came back as %v, and with a repeat as %v", p, again)
	}

	h = newTxnHarness(t, TxnConfig{})
	old = put(h, TxnOngoing, partA)
	h.hold = true
	r := h.end(old, true, true)
	if r.err != nil || r.id == old.id || r.epoch != 0 {
		t.Fatalf("the end of the last epoch: %+v", r)
	}
	for _, state := range []string{"decided", "found decided"} { // what comes next is stored
		h.want(state+": the next transaction's partition", h.add(r.owner, 2, partA), ErrConcurrentTransactions)
		h.want(state+": the next transaction's verification", h.verify(r.owner, partA), ErrConcurrentTransactions)
		h.want(state+": the next transaction's end", h.end(r.owner, false, true).err, ErrConcurrentTransactions)
		h.want(state+": a repeat", h.end(old, true, true).err, ErrConcurrentTransactions)
		if state == "decided" {
			h.move()
		}
	}
	h.release()
	h.advance(time.Minute)
	h.wantMarker(partA, Marker{ProducerID: old.id, ProducerEpoch: finalEpoch + 1, Commit: true, Bumped: true})
	if again := h.end(old, true, true); again != r {
		t.Fatalf("a repeat: %+v, first %+v", again, r)
	}
	h.want("the next transaction", h.add(r.owner, 2, partA), nil)

	// Aborted from outside there is an epoch for the marker, and none for the producer.
	h = newTxnHarness(t, TxnConfig{})
	old = put(h, TxnOngoing, partA)
	h.advance(2 * time.Minute)
	h.wantMarker(partA, Marker{ProducerID: old.id, ProducerEpoch: finalEpoch + 1, Bumped: true})
	h.want("abort", h.end(old, false, true).err, ErrProducerFenced)
	h.want("with the marker's epoch", h.end(owner{old.id, finalEpoch + 1}, false, true).err, ErrProducerFenced)
	if p := h.mustInit(newcomer); p.id == old.id {
		t.Fatalf("the next one is %v", p)
	}
}

// Markers are written until each partition has its own: past partitions that cannot be reached, coordinators that are replaced, and topics
// that are deleted.
func TestTxnMarkersAreRepeated(t *testing.T) {
	h := newTxnHarness(t, TxnConfig{})
	gone := TopicPartition{"gone", 0}
	p := h.mustInit(newcomer)
	h.want("add", h.add(p, 2, partA, partB, gone), nil)
	h.refuse[partB], h.refuse[gone] = errUnreached, ErrUnknownPartition
	h.want("commit", h.end(p, true, true).err, nil)
	h.wantState(TxnPrepareCommit)
	if i := h.info(); !reflect.DeepEqual(i.Partitions, []TopicPartition{partB}) {
		t.Fatalf("left: %v", i.Partitions)
	}
	h.advance(30 * time.Second)
	h.wantState(TxnPrepareCommit)
	if n := len(h.markers[partA]); n != 1 {
		t.Fatalf("%d markers for a partition that had its own", n)
	}
	h.move()
	h.wantState(TxnPrepareCommit)
	if n := len(h.markers[partA]); n != 2 || h.markers[partA][1].CoordinatorEpoch <= h.markers[partA][0].CoordinatorEpoch {
		t.Fatalf("the new coordinator: %+v", h.markers[partA])
	}
	delete(h.refuse, partB)
	h.advance(markerRetryMax)
	h.wantState(TxnCompleteCommit)
	h.wantMarker(partB, Marker{ProducerID: p.id, ProducerEpoch: 1, Commit: true, Bumped: true})
	// A partition that has seen a later epoch has had the marker.
	q := owner{p.id, 1}
	h.want("add", h.add(q, 2, partA), nil)
	h.refuse[partA] = ErrMarkerFenced
	h.want("abort", h.end(q, false, true).err, nil)
	h.wantState(TxnCompleteAbort)
}

// What was answered holds for the next coordinator; what was not is decided anew.
func TestTxnCoordinatorMoves(t *testing.T) {
	h := newTxnHarness(t, TxnConfig{})
	p := h.mustInit(newcomer)
	h.move()
	h.want("add", h.add(p, 2, partA), nil)
	h.move()
	h.want("verify", h.verify(p, partA), nil)
	h.log.waitForCommit()
	a := newAnswer[error](t)
	h.c.End(EndRequest{TransactionalID: "tx", ProducerID: p.id, ProducerEpoch: p.epoch, Commit: true, Bump: true}, func(_ int64, _ int16, err error) { a.set(err) })
	if !a.waits() {
		t.Fatal("answered before the commit")
	}
	h.want("meanwhile", h.add(p, 2, partB), ErrConcurrentTransactions)
	h.want("a batch of the transaction, meanwhile", h.verify(p, partA), nil) // it holds a ticket against the marker
	h.move()
	h.log.commit() // of the old epoch: refused
	h.want("the end", a.get(), ErrNotCoordinator)
	h.wantState(TxnOngoing)
	r := h.end(p, true, true)
	h.want("again", r.err, nil)
	h.move()
	if again := h.end(p, true, true); again != r {
		t.Fatalf("a repeat: %+v, first %+v", again, r)
	}
	// Whoever does not know that it was replaced answers nothing from its memory.
	h.log.depose()
	h.want("verify", h.verify(r.owner, partA), ErrNotCoordinator) // a refusal might end the client
	h.want("a repeat", h.end(p, true, true).err, ErrNotCoordinator)
}

// Partitions that are added while others are on their way go together with the next record.
func TestTxnAdditionsWait(t *testing.T) {
	h := newTxnHarness(t, TxnConfig{})
	p := h.mustInit(newcomer)
	h.log.waitForCommit()
	var as []*answer[error]
	for i := range int32(5) {
		a := newAnswer[error](t)
		as = append(as, a)
		h.c.Add(AddRequest{TransactionalID: "tx", ProducerID: p.id, ProducerEpoch: p.epoch, Partitions: []TopicPartition{{"t", i}}, Version: 2}, a.set)
	}
	before := len(h.log.batches)
	h.log.commit()
	for _, a := range as {
		h.want("add", a.get(), nil)
	}
	if n := len(h.log.batches) - before; n != 2 {
		t.Errorf("%d records for one and four that waited", n)
	}
	if i := h.info(); len(i.Partitions) != 5 {
		t.Errorf("%v", i.Partitions)
	}
}

func TestTxnIDsExpire(t *testing.T) {
	h := newTxnHarness(t, TxnConfig{Expiration: 24 * time.Hour, Sweep: time.Hour})
	p := h.mustInit(newcomer)
	h.advance(23 * time.Hour)
	h.wantState(TxnEmpty)
	h.want("add", h.add(p, 1, partA), nil)
	h.want("commit", h.end(p, true, false).err, nil)
	h.advance(23 * time.Hour)
	h.wantState(TxnCompleteCommit)
	h.advance(3 * time.Hour)
	a := newAnswer[error](t)
	h.c.Describe("tx", func(_ TxnInfo, err error) { a.set(err) })
	h.want("describe", a.get(), ErrTxnNotFound)
	h.move()
	h.want("after the next load", h.add(p, 1, partA), ErrInvalidProducerIDMapping)
}

// txnModelClient is a producer that follows the protocol, over a network that loses answers.
type txnModelClient struct {
	o      owner
	open   bool
	ending bool
	commit bool
	parts  map[TopicPartition]bool
}

// Whatever the order of moves, losses, time-outs and instances: a transaction has one outcome in all of its partitions, a commit that was
// acknowledged is a commit everywhere, and in the end all markers are there.
func TestTxnsRandomly(t *testing.T) {
	seeds := 300
	if testing.Short() {
		seeds = 40
	}
	for seed := range seeds {
		t.Run(fmt.Sprint("seed", seed), func(t *testing.T) { randomTxns(t, uint64(seed)) })
	}
}

func randomTxns(t *testing.T, seed uint64) {
	rng := rand.New(rand.NewPCG(seed, 17))
	h := newTxnHarness(t, TxnConfig{})
	all := []TopicPartition{{"t", 0}, {"t", 1}, {"u", 0}}
	type ended struct {
		o      owner
		commit bool
		parts  map[TopicPartition]bool
	}
	var acked []ended // commits and aborts that were acknowledged
	c := &txnModelClient{o: newcomer}
	begin := func() { c.open, c.ending, c.parts = false, false, map[TopicPartition]bool{} }
	begin()
	restart := func() { c.o = newcomer; begin() }
	for range 200 {
		switch rng.IntN(20) {
		case 0:
			h.move()
		case 1:
			h.refuse[all[rng.IntN(3)]] = errUnreached
		case 2, 3:
			clear(h.refuse)
		case 4:
			h.hold = true
		case 5, 6:
			h.release()
		case 7:
			h.advance(time.Duration(rng.IntN(40)) * time.Second)
		case 8:
			if rng.IntN(3) == 0 {
				restart()
			}
		}
		lost := rng.IntN(8) == 0 // the answer does not arrive
		switch {
		case c.o.id < 0:
			if r := h.init(newcomer); r.err == nil && !lost {
				c.o = r.owner
			} else if r.err != nil && !errors.Is(r.err, ErrConcurrentTransactions) {
				t.Fatalf("init: %v", r.err)
			}
		case c.ending:
			r := h.end(c.o, c.commit, true)
			switch {
			case lost:
			case r.err == nil:
				acked = append(acked, ended{owner{c.o.id, c.o.epoch + 1}, c.commit, c.parts})
				c.o = r.owner
				begin()
			case errors.Is(r.err, ErrProducerFenced), errors.Is(r.err, ErrTxnState):
				restart() // timed out
			case !errors.Is(r.err, ErrConcurrentTransactions):
				t.Fatalf("end: %v", r.err)
			}
		case c.open && rng.IntN(3) == 0:
			c.ending, c.commit = true, rng.IntN(2) == 0
		default:
			p := all[rng.IntN(3)]
			err := h.add(c.o, 2, p)
			switch {
			case err == nil:
				// An answer that is lost leaves the client with a partition that it may or may not have; it asks again before it ends.
				c.open = true
				c.parts[p] = true
			case errors.Is(err, ErrProducerFenced):
				restart()
			case !errors.Is(err, ErrConcurrentTransactions):
				t.Fatalf("add: %v", err)
			}
		}
	}
	clear(h.refuse)
	h.release()
	h.advance(2 * time.Minute)
	if i := h.info(); i.State.preparing() || i.State == TxnOngoing {
		t.Fatalf("at rest: %+v", i)
	}
	outcome := map[owner]bool{}
	for p, ms := range h.markers {
		for _, m := range ms {
			o := owner{m.ProducerID, m.ProducerEpoch}
			if commit, ok := outcome[o]; ok && commit != m.Commit {
				t.Errorf("%v: the transaction that ends with %v has two outcomes", p, o)
			}
			outcome[o] = m.Commit
		}
	}
	for _, e := range acked {
		for p := range e.parts {
			found := false
			for _, m := range h.markers[p] {
				found = found || m.ProducerID == e.o.id && m.ProducerEpoch == e.o.epoch && m.Commit == e.commit
			}
			if !found {
				t.Errorf("%v was told that the transaction ending with %v is committed (%v), and %v has no such marker", e.o.id, e.o, e.commit, p)
			}
		}
	}
}

func FuzzDecodeTxnRecord(f *testing.F) {
	r := txnRecord{id: "tx", data: &txnData{producer: 4, epoch: 2, prev: 3, next: 9, lastEpoch: -1, timeout: time.Minute, state: TxnPrepareCommit,
		parts: []TopicPartition{partA, partB}, start: 5, updated: 6, version: 2}}
	f.Add(r.key(), r.value())
	f.Add((&txnRecord{id: "x"}).key(), []byte(nil))
	f.Fuzz(func(t *testing.T, key, value []byte) {
		r, err := decodeTxnRecord(key, value)
		if err != nil {
			if !errors.Is(err, ErrMalformed) && !errors.Is(err, errForeignRecord) {
				t.Fatalf("error without a sentinel: %v", err)
			}
			return
		}
		again, err := decodeTxnRecord(r.key(), r.value())
		if err != nil || !reflect.DeepEqual(again, r) {
			t.Fatalf("%+v encodes to what decodes as %+v, %v", r.data, again.data, err)
		}
		if r.data != nil && !bytes.Equal(r.value(), again.value()) {
			t.Fatal("not canonical")
		}
	})
}

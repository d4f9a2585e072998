// Idempotent producers (KIP-98): which batches were already appended, as replicated state. What transactions add is in
// transactions.go.
//
// The naive way, which other brokers took, is one table that is changed at the append and rolled back at a truncation; the
// rollback is where it went wrong. Here there are two tables, and nothing is ever rolled back:
//
//   - [fold] is a pure function of the committed entries: each replica computes the same, a snapshot holds it, a restart
//     computes it again. It never refuses: what is committed is true.
//   - [overlay] belongs to the leader: per producer, the fold's window plus what was staged since, in this term. A leader
//     stages nothing before its own no-op is applied, so at the first Stage fold equals log, and fold plus overlay equals
//     log ever after. When leadership goes, the overlay is dropped as a whole.
//
// A producer's window holds its last five batches, since a client has at most five requests in flight.

package partition

import (
	"errors"
	"fmt"

	"github.com/balsamq/balsa/protocol"
	"github.com/balsamq/balsa/raft"
)

const (
	// windowBatches is how many batches per producer are remembered: max.in.flight.requests.per.connection of an
	// idempotent client is at most 5.
	windowBatches = 5
	// maxProducers bounds the fold's table. Above it the producer that has been silent for the most entries is forgotten.
	// It is a constant and not a setting: replicas that disagreed about it would fold to different states.
	maxProducers = 1 << 14
)

// seqBatch is one remembered batch.
type seqBatch struct {
	first, last int32 // sequences
	base        int64 // offset
	time        int64 // LogAppendTime, or -1
	index       raft.Index
}

// window is what is known about a producer. Invariant: n <= windowBatches, batches[:n] oldest first, all of epoch. Of one that is
// known by the end of a transaction only, n is 0.
type window struct {
	epoch   int16
	n       uint8
	batches [windowBatches]seqBatch
	at      raft.Index // its last entry, a batch, a marker or a refusal; 0: there is none
	refused []refusal  // of the number that comes next, oldest first, at most maxRefusals; never changed in place

	// Transactions.
	open        bool       // one is open, and
	first       int64      // its first offset; 0 without
	coordinator int32      // epoch of the coordinator that wrote the last marker; 0: none did
	marker      raft.Index // of the last marker; 0: there is none
}

func (w *window) last() *seqBatch { return &w.batches[w.n-1] }

// decide judges a batch against the window, as Kafka 4's ProducerAppendInfo does: repeat is the original of a batch that
// is already there; nil and no error mean that it may be appended. A batch older than the window is indistinguishable
// from a gap, and gets OUT_OF_ORDER_SEQUENCE_NUMBER as in Kafka 4 (DUPLICATE_SEQUENCE_NUMBER is never sent); a correct
// client cannot be waiting for it, as it has five in flight at most.
func (w *window) decide(epoch int16, first, last int32) (repeat *seqBatch, err error) {
	if !w.known() {
		return nil, nil // nothing known, or forgotten: any sequence is taken (KIP-360)
	}
	if err := w.fence(epoch); err != nil {
		return nil, err
	}
	if epoch > w.epoch || w.n == 0 {
		if first != 0 && (epoch > w.epoch || len(w.refused) == 0 || first != w.refused[0].first) {
			return nil, fmt.Errorf("%w: epoch %d begins with sequence %d", ErrOutOfOrderSequence, epoch, first)
		}
		return nil, nil
	}
	if b := w.repeated(epoch, first, last); b != nil {
		return b, nil
	}
	if want := protocol.AddSequence(w.last().last, 1); first != want {
		return nil, fmt.Errorf("%w: got %d, expected %d", ErrOutOfOrderSequence, first, want)
	}
	return nil, nil
}

func (w *window) known() bool { return w != nil && (w.n > 0 || w.at > 0) }

// fence refuses an epoch that is over.
func (w *window) fence(epoch int16) error {
	if w.known() && epoch < w.epoch {
		return fmt.Errorf("%w: %d, current %d", ErrInvalidProducerEpoch, epoch, w.epoch)
	}
	return nil
}

// repeated is the batch of the window that has these sequences, or nil.
func (w *window) repeated(epoch int16, first, last int32) *seqBatch {
	if w == nil || w.epoch != epoch {
		return nil
	}
	for i := range w.batches[:w.n] {
		if b := &w.batches[i]; b.first == first && b.last == last {
			return b
		}
	}
	return nil
}

// enter makes epoch the producer's. Another one starts the window anew.
func (w *window) enter(epoch int16) {
	if epoch != w.epoch {
		w.n, w.refused = 0, nil
	}
	w.epoch = epoch
}

// push remembers b; of another epoch, it starts the window anew.
func (w *window) push(epoch int16, b seqBatch) {
	w.enter(epoch)
	if w.n == windowBatches {
		copy(w.batches[:], w.batches[1:])
		w.n--
	}
	w.batches[w.n] = b
	w.n++
	w.refused = nil
}

// take folds b, a batch or a marker that was stamped and has its place at i, into what is known of its producer.
func (w *window) take(b protocol.Batch, i raft.Index) {
	w.at = i
	switch {
	case b.Control():
		w.end(b, i)
		return
	case b.BaseSequence() < 0: // a coordinator's own, which has no sequence
		w.enter(b.ProducerEpoch())
	default:
		w.push(b.ProducerEpoch(), remembered(b, i))
	}
	if b.Transactional() && !w.open {
		w.open, w.first = true, b.BaseOffset()
	}
}

// remembered is what b, stamped with its offset, leaves in a window.
func remembered(b protocol.Batch, i raft.Index) seqBatch {
	s := seqBatch{first: b.BaseSequence(), last: b.LastSequence(), base: b.BaseOffset(), time: -1, index: i}
	if b.LogAppendTime() {
		s.time = b.MaxTimestamp()
	}
	return s
}

// producer is a producer in the fold, linked by the order of its last batches.
type producer struct {
	id int64
	window
	stamp int64 // timestamp of its last batch or marker, for people
	// seen is the fold's clock at the first clock command after its last batch, which is not earlier than that batch;
	// touched says that this command has not come yet.
	seen       int64
	touched    bool
	before     int64 // fold.bytes at its open transaction's first offset
	prev, next *producer
}

// fold is the state machine proper: a pure function of the committed entries (but for aborted transactions whose records this replica has
// cleaned away: it forgets them), and what a snapshot holds. It is touched only by the worker that holds the group.
type fold struct {
	start int64 // first Kafka offset that is not deleted; start <= next
	next  int64 // next Kafka offset: the high watermark once published
	clock int64 // leader's wall clock in milliseconds as of the last clock command; never goes back
	byID  map[int64]*producer
	// oldest and newest end the list in order of window.at.
	oldest, newest *producer

	open []*producer // those with an open transaction, in order of its first offset
	// aborted is in order of the markers, all of which are at or above trimmed and lost; at most most entries. See aborted.go.
	aborted       []abortedTxn
	trimmed, lost int64
	most          int
	// forgotten is the largest index of a marker of any producer that was forgotten: see [AppendRequest.TransactionalID].
	forgotten raft.Index

	// Counted by each replica for itself.
	bytes       int64 // of records since its start
	stableBytes int64 // of those below the last stable offset
}

func newFold() *fold { return &fold{byID: map[int64]*producer{}, most: maxAborted} }

var errBadEntry = errors.New("partition: committed entry does not make sense")

// records folds one committed batch in.
func (f *fold) records(i raft.Index, payload []byte) error {
	b, err := protocol.ParseBatch(payload)
	if err != nil {
		return fmt.Errorf("%w: index %d: %w", errBadEntry, i, err)
	}
	if b.BaseOffset() < f.next || b.LastOffsetDelta() < 0 || b.NextOffset() < 0 {
		return fmt.Errorf("%w: index %d: base offset %d, last delta %d, expected offset %d", errBadEntry, i,
			b.BaseOffset(), b.LastOffsetDelta(), f.next)
	}
	if b.Control() {
		if _, err := b.Marker(); err != nil {
			return fmt.Errorf("%w: index %d: %w", errBadEntry, i, err)
		}
	}
	before := f.bytes
	f.bytes += int64(len(payload))
	f.next = b.NextOffset()
	if b.HasProducer() {
		if b.ProducerEpoch() < 0 || b.BaseSequence() < 0 && !b.Transactional() {
			return fmt.Errorf("%w: index %d: producer epoch %d, sequence %d", errBadEntry, i, b.ProducerEpoch(), b.BaseSequence())
		}
		p := f.touch(b.ProducerID(), b.MaxTimestamp())
		open, first := p.open, p.first
		p.take(b, i)
		switch {
		case p.open && !open:
			p.before = before
			f.open = append(f.open, p)
		case open && !p.open:
			f.close(p, first, b)
		}
	}
	f.settle()
	return nil
}

// touch is a producer whose entry is being folded in, which makes it the newest.
func (f *fold) touch(id, stamp int64) *producer {
	p := f.byID[id]
	if p == nil {
		if len(f.byID) >= maxProducers {
			f.forgetOldest()
		}
		p = &producer{id: id}
		f.byID[p.id] = p
	} else {
		f.unlink(p)
	}
	f.link(p)
	p.touched, p.stamp = true, stamp
	return p
}

// tick folds a clock command in: the leader's clock, and how long a producer may be silent. Producers that wrote since
// the last command are taken to have written now, so that none is forgotten early; the two-step makes the state a function of
// the entries alone, where Kafka's depends on each broker's clock and on what timestamps clients put into records.
func (f *fold) tick(clock, expiry int64) {
	f.clock = max(f.clock, clock)
	for p := f.oldest; p != nil; {
		next := p.next
		switch {
		case p.touched:
			p.touched, p.seen = false, f.clock
		case f.clock-p.seen >= expiry && !p.open:
			f.forget(p)
		}
		p = next
	}
}

// forgetOldest makes room for one more. Who has a transaction open stays: its end is still to come.
func (f *fold) forgetOldest() {
	for p := f.oldest; p != nil; p = p.next {
		if !p.open {
			f.forget(p)
			return
		}
	}
}

func (f *fold) forget(p *producer) {
	f.forgotten = max(f.forgotten, p.marker)
	f.unlink(p)
	delete(f.byID, p.id)
}

func (f *fold) unlink(p *producer) {
	if p.prev != nil {
		p.prev.next = p.next
	} else {
		f.oldest = p.next
	}
	if p.next != nil {
		p.next.prev = p.prev
	} else {
		f.newest = p.prev
	}
	p.prev, p.next = nil, nil
}

// link makes p the newest.
func (f *fold) link(p *producer) {
	p.prev, p.next = f.newest, nil
	if f.newest != nil {
		f.newest.next = p
	} else {
		f.oldest = p
	}
	f.newest = p
}

// overlay is the leader's view of its producers ahead of the fold. nil until the first batch of the term.
// It is touched only by the worker that holds the group; its size is bounded by what raft lets be uncommitted.
type overlay map[int64]*window

// windowOf is what a new batch of the producer is judged by.
func (o overlay) windowOf(f *fold, id int64) *window {
	if w := o[id]; w != nil {
		return w
	}
	if p := f.byID[id]; p != nil {
		return &p.window
	}
	return nil
}

// staged remembers a batch that was staged at i.
func (o overlay) staged(f *fold, b protocol.Batch, i raft.Index) { o.own(f, b.ProducerID()).take(b, i) }

// own is a producer's window in the overlay.
func (o overlay) own(f *fold, id int64) *window {
	w := o[id]
	if w == nil {
		w = new(window)
		if p := f.byID[id]; p != nil {
			*w = p.window
		}
		o[id] = w
	}
	return w
}

// applied drops a producer whose last staged batch is in the fold.
func (o overlay) applied(id int64, i raft.Index) {
	if w := o[id]; w != nil && w.at <= i {
		delete(o, id)
	}
}

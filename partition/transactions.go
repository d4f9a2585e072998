// Transactions in one partition (KIP-98, KIP-890): which are open, where they began, and which were aborted.
//
// Like the producers' windows all of it is a function of the committed entries. A transaction begins with its producer's first
// transactional batch and ends with a marker: a control batch that the leader writes when the transaction's coordinator tells it to.
// What lies below the first offset of every open transaction is stable; readers of committed records see nothing above, and
// are told which transactions below were aborted, so that they can leave those records out.

package partition

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/balsamq/balsa/protocol"
	"github.com/balsamq/balsa/raft"
)

// maxOpenTxns bounds the open transactions of a partition. They hold back the last stable offset anyway.
const maxOpenTxns = maxProducers / 2

// end folds a marker into what is known of its producer.
func (w *window) end(b protocol.Batch, i raft.Index) {
	m, err := b.Marker()
	if err != nil {
		panic("partition: a marker that was checked: " + err.Error())
	}
	w.enter(b.ProducerEpoch())
	w.open, w.first, w.marker = false, 0, i
	w.coordinator = max(w.coordinator, m.CoordinatorEpoch)
}

// close takes p's transaction, which began at first, off the open ones; marker has ended it.
func (f *fold) close(p *producer, first int64, marker protocol.Batch) {
	i := slices.Index(f.open, p)
	f.open = slices.Delete(f.open, i, i+1)
	if m, _ := marker.Marker(); !m.Commit {
		f.addAborted(abortedTxn{producer: p.id, first: first, last: marker.BaseOffset(), stable: f.stable()})
	}
}

// stable is the last stable offset: everything below is decided.
func (f *fold) stable() int64 {
	if len(f.open) == 0 {
		return f.next
	}
	// Records were deleted from under an open transaction: what is left of it is undecided still.
	return max(f.open[0].first, f.start)
}

// settle brings the replica's own count of stable bytes up to date.
func (f *fold) settle() {
	f.stableBytes = f.bytes
	if len(f.open) > 0 {
		f.stableBytes = f.open[0].before
	}
}

// count goes on with another fold's count of bytes.
func (f *fold) count(bytes int64) {
	f.bytes = bytes
	for _, p := range f.open {
		p.before = bytes
	}
	f.settle()
}

// MarkerRequest ends a producer's transaction in this partition.
type MarkerRequest struct {
	ProducerID    int64
	ProducerEpoch int16
	// CoordinatorEpoch fences coordinators that were replaced.
	CoordinatorEpoch int32
	Commit           bool
	// Bumped: the transaction's own epoch was a lower one (KIP-890, transaction.version 2). Then a marker that comes twice, or much too
	// late, is recognised; without, it would end whatever the producer has begun since.
	Bumped bool
	// Done is called exactly once, by a worker or from within WriteMarker; it must not block. Calls for committed batches and markers of
	// a partition come in the order of its log. Errors, beside those of Append: ErrInvalidProducerEpoch, ErrCoordinatorFenced.
	Done func(AppendResult)
}

func (m *MarkerRequest) batch(now int64) protocol.Batch {
	return protocol.BuildMarker(m.ProducerID, m.ProducerEpoch, protocol.Marker{Commit: m.Commit, CoordinatorEpoch: m.CoordinatorEpoch}, now)
}

// WriteMarker writes the marker, and is done when it is committed. It never blocks.
func (r *Replica) WriteMarker(m *MarkerRequest) {
	r.Append(&AppendRequest{Batch: m.batch(r.now().UnixMilli()), Acks: -1, Done: m.Done, marker: m})
}

// judgeMarker decides on a marker by what the log says of its producer. repeat is the index of the marker that it repeats, or 0.
func (w *window) judgeMarker(m *MarkerRequest) (repeat raft.Index, err error) {
	if !w.known() {
		return 0, nil // it was added to the transaction, and nothing written
	}
	if m.CoordinatorEpoch < w.coordinator {
		return 0, fmt.Errorf("%w: its epoch is %d, and %d has written a marker", ErrCoordinatorFenced, m.CoordinatorEpoch, w.coordinator)
	}
	if err := w.fence(m.ProducerEpoch); err != nil {
		return 0, err
	}
	if m.Bumped && m.ProducerEpoch == w.epoch {
		if w.open {
			// The end of a transaction that has ended; the open one is the next.
			return 0, fmt.Errorf("%w: %d is the epoch of the transaction that is open", ErrInvalidProducerEpoch, m.ProducerEpoch)
		}
		return w.marker, nil
	}
	// Without Bumped it is written again even if there is nothing to end: it keeps out what was checked before it.
	return 0, nil
}

// OpenTxns is the number of open transactions, if this node leads.
func (r *Replica) OpenTxns() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.lead.Self {
		return 0
	}
	return r.openTxns
}

// ProducerState is what a partition knows of a producer: DescribeProducers.
type ProducerState struct {
	ProducerID       int64
	Epoch            int16
	LastSequence     int32 // -1: none
	LastTimestamp    int64
	CoordinatorEpoch int32 // -1: none
	TxnStart         int64 // -1: no transaction is open
}

// Producers are the producers that this replica knows, in order of their ids: on a follower, by what it has applied.
func (r *Replica) Producers() ([]ProducerState, error) {
	v, err := r.view(-1, true)
	if err != nil {
		return nil, err
	}
	m := v.m
	m.look.RLock()
	defer m.look.RUnlock()
	out := make([]ProducerState, 0, len(m.fold.byID))
	for p := m.fold.oldest; p != nil; p = p.next {
		s := ProducerState{ProducerID: p.id, Epoch: p.epoch, LastSequence: -1, LastTimestamp: p.stamp, CoordinatorEpoch: -1, TxnStart: -1}
		if p.n > 0 {
			s.LastSequence = p.last().last
		}
		if p.coordinator > 0 {
			s.CoordinatorEpoch = p.coordinator
		}
		if p.open {
			s.TxnStart = p.first
		}
		out = append(out, s)
	}
	slices.SortFunc(out, func(a, b ProducerState) int { return cmp.Compare(a.ProducerID, b.ProducerID) })
	return out, nil
}

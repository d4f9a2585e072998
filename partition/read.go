// Fetch, ListOffsets and OffsetForLeaderEpoch: reads below the high watermark. None of them waits.

package partition

import (
	"errors"
	"fmt"
	"sync"

	"github.com/balsamq/balsa/protocol"
	"github.com/balsamq/balsa/raft"
	"github.com/balsamq/balsa/raft/multi"
	"github.com/balsamq/balsa/segment"
)

// ReadQuery asks for batches from Offset on.
type ReadQuery struct {
	Offset int64
	// MaxBytes is soft: the first batch is returned whole, however large. <= 0: only checks, no batches.
	MaxBytes int
	// LeaderEpoch is the epoch the client believes in; -1: it does not say.
	LeaderEpoch int32
	// AnyReplica also reads on a follower, up to what it knows to be committed.
	AnyReplica bool
	// Committed reads only what is below the last stable offset, and tells of the aborted transactions in it.
	Committed bool
	// Loan lends the memory that batches lie in, so that it can be used again after Loan.Return; nil: they may be kept.
	Loan *segment.Loan
}

// ReadResult is what there is. Also with an error, LogStart, HighWatermark and LeaderEpoch are set as far as known (-1).
type ReadResult struct {
	// Batches are whole record batches, the first one contains Offset (it may begin below it). Shared and immutable, but for ReadQuery.Loan.
	Batches [][]byte
	// Bytes is their total length.
	Bytes         int
	HighWatermark int64
	LastStable    int64 // what lies below is decided
	LogStart      int64
	LeaderEpoch   int32
	// Aborted, with Committed, are the transactions whose records in Batches do not count, in order of their first offsets.
	Aborted []AbortedTxn
}

// Special timestamps of ListOffset.
const (
	LatestTimestamp        int64 = -1 // the high watermark, or the last stable offset
	EarliestTimestamp      int64 = -2 // the log start
	MaxTimestamp           int64 = -3 // the first offset that carries the largest timestamp
	EarliestLocalTimestamp int64 = -4 // as -2: there is no tiered storage
	LastTieredTimestamp    int64 = -5 // always -1
)

// OffsetResult answers ListOffset. Offset -1: there is none, which is no error.
type OffsetResult struct {
	Offset      int64
	Timestamp   int64 // -1 where Kafka says so
	LeaderEpoch int32 // of the record at Offset, or the leader's; -1 if there is none
}

// Read returns what is there, without waiting, and never anything at or above the high watermark. The records that it
// returns are committed and immutable, so they need no lease. Two answers do speak of where the log ends, an empty one
// and an ErrOffsetOutOfRange above the end: for these the caller must call [Replica.Linearize] (with AnyReplica:
// [Replica.LinearizeAny]) and then Read again before it believes them, as a deposed leader, or a follower, could not know
// better. The pattern:
//
//	Read → batches: answer. Empty or out of range → Linearize → Read again → still empty: Subscribe or answer.
//
// Errors: ErrNotLeader, ErrNotReady, ErrFencedLeaderEpoch, ErrUnknownLeaderEpoch, ErrOffsetOutOfRange, ErrFailed (also
// for damage in just what was to be read), ErrClosed.
func (r *Replica) Read(q ReadQuery) (ReadResult, error) {
	v, err := r.view(q.LeaderEpoch, q.AnyReplica)
	res := ReadResult{HighWatermark: -1, LastStable: -1, LogStart: -1, LeaderEpoch: v.lead.Epoch}
	if err != nil {
		return res, err
	}
	res.HighWatermark, res.LastStable, res.LogStart = v.pub.hw, v.pub.stable, v.pub.start
	if q.Offset < res.LogStart || q.Offset > res.HighWatermark {
		return res, &RangeError{Offset: q.Offset, Start: res.LogStart, HighWatermark: res.HighWatermark}
	}
	if q.Offset >= v.pub.end(q.Committed) || q.MaxBytes <= 0 {
		return res, nil
	}
	cleaned := v.m.log.CleanedEnd() // before the read: see there
	batches, err := v.m.log.ReadLent(segment.Offset(q.Offset), v.pub.applied, q.MaxBytes, q.Loan)
	if err != nil {
		if start := r.LogStart(); q.Offset < start { // retention overtook us
			res.LogStart = start
			return res, &RangeError{Offset: q.Offset, Start: start, HighWatermark: res.HighWatermark}
		}
		return res, fmt.Errorf("%w: read offset %d: %w", ErrFailed, q.Offset, err)
	}
	if q.Committed {
		batches = below(batches, v.pub.stable)
		// What ends in the cleaned part has left no record there, and perhaps no marker.
		res.Aborted, err = v.m.abortedIn(batches, max(q.Offset, int64(cleaned)))
		switch {
		case errors.Is(err, errTrimmed):
			res.LogStart = r.LogStart()
			return res, &RangeError{Offset: q.Offset, Start: res.LogStart, HighWatermark: res.HighWatermark}
		case v.m.log.CleanedEnd() > cleaned:
			return r.readAgain(q) // cleaned meanwhile: what was aborted in batches may be forgotten
		case err != nil:
			return res, fmt.Errorf("%w: read offset %d: %w", ErrFailed, q.Offset, err)
		}
	}
	if len(batches) == 0 && r.appliedBeyond(v.pub.applied) {
		// Compaction has come in between, and what is left at or after the offset lies above what was the end. Empty must mean the end.
		return r.readAgain(q)
	}
	res.Batches = batches
	for _, b := range batches {
		res.Bytes += len(b)
	}
	return res, nil
}

// readAgain is Read instead of one whose batches nobody has seen.
func (r *Replica) readAgain(q ReadQuery) (ReadResult, error) {
	if q.Loan != nil {
		q.Loan.Return()
	}
	return r.Read(q)
}

// appliedBeyond: the end that a reader knows is no longer the end.
func (r *Replica) appliedBeyond(i raft.Index) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.pub.applied > i
}

// below are the batches below the last stable offset, at which one begins.
func below(batches [][]byte, stable int64) [][]byte {
	for len(batches) > 0 && protocol.Batch(batches[len(batches)-1]).NextOffset() > stable {
		batches = batches[:len(batches)-1]
	}
	return batches
}

// end is where a reader's log ends.
func (p published) end(committed bool) int64 {
	if committed {
		return p.stable
	}
	return p.hw
}

// view is a consistent look at what a reader needs.
type view struct {
	m     *machine
	group *multi.Group
	lead  Leadership
	pub   published
}

// serving is the view if this node leads and serves.
func (r *Replica) serving() (view, error) { return r.view(-1, false) }

// view checks state, leadership and the client's leader epoch (-1: none), in Kafka's order: epochs first, so that a
// client that is ahead of us is told so (KIP-320).
func (r *Replica) view(epoch int32, anyReplica bool) (view, error) {
	r.mu.Lock()
	v := view{m: r.m, lead: r.lead, pub: r.pub}
	if r.m != nil {
		v.group = r.m.group
	}
	state, cause := r.state, r.err
	r.mu.Unlock()
	switch {
	case state == StateClosed:
		return v, ErrClosed
	case state == StateFailed:
		return v, fmt.Errorf("%w: %w", ErrFailed, cause)
	case v.group == nil:
		return v, &NotLeaderError{Epoch: v.lead.Epoch}
	case epoch >= 0 && epoch != v.lead.Epoch:
		return v, &EpochError{Asked: epoch, Current: v.lead.Epoch}
	case v.lead.Self && !v.lead.Ready:
		return v, ErrNotReady
	case !v.lead.Self && !anyReplica:
		return v, &NotLeaderError{Leader: v.lead.Leader, Epoch: v.lead.Epoch}
	}
	return v, nil
}

// ListOffset answers by timestamp (or one of the special ones): the first offset whose record is at or after ts. With committed
// nothing at or above the last stable offset counts. It speaks of the end of the log: call Linearize first. leaderEpoch is the
// client's, -1 if it does not say.
func (r *Replica) ListOffset(ts int64, leaderEpoch int32, committed bool) (OffsetResult, error) {
	none := OffsetResult{Offset: -1, Timestamp: -1, LeaderEpoch: -1}
	v, err := r.view(leaderEpoch, false)
	if err != nil {
		return none, err
	}
	var off segment.Offset
	var term raft.Term
	ok, asked := true, ts
	switch ts {
	case LatestTimestamp:
		return OffsetResult{Offset: v.pub.end(committed), Timestamp: -1, LeaderEpoch: v.lead.Epoch}, nil
	case EarliestTimestamp, EarliestLocalTimestamp:
		start := v.pub.start
		epoch := v.lead.Epoch // of an empty log: the leader's
		if t, ok := v.m.log.EpochAt(segment.Offset(start)); ok && start < v.pub.hw {
			epoch = int32(t)
		}
		return OffsetResult{Offset: start, Timestamp: -1, LeaderEpoch: epoch}, nil
	case MaxTimestamp:
		off, ts, term, ok, err = v.m.log.MaxTimestamp(segment.Offset(v.pub.start), v.pub.applied)
	case LastTieredTimestamp:
		return none, nil
	default:
		off, ts, term, ok, err = v.m.log.OffsetForTime(ts, segment.Offset(v.pub.start), v.pub.applied)
	}
	if err != nil {
		return none, fmt.Errorf("%w: list offset: %w", ErrFailed, err)
	}
	if !ok {
		return none, nil
	}
	if int64(off) >= v.pub.end(committed) {
		return none, nil // that a later time may be there says nothing: it is not decided yet
	}
	if b := v.batchAt(off); b != nil {
		off, ts = firstRecordSince(b, wanted(asked, ts), off, ts)
	}
	return OffsetResult{Offset: int64(off), Timestamp: ts, LeaderEpoch: int32(term)}, nil
}

// maxInflated bounds what one batch may inflate to when ListOffset has to look for a record in it; beyond, and for a
// damaged one, the batch's first offset is the answer, from which a consumer finds the record as well.
const maxInflated = 2 * MaxBatchBytes

var inflater = sync.OnceValue(func() *protocol.Inflater { return protocol.NewInflater(maxInflated) })

// wanted is the timestamp to look for within the batch that the log has found: the one asked for, or the largest.
func wanted(asked, found int64) int64 {
	if asked == MaxTimestamp {
		return found
	}
	return asked
}

// batchAt is the batch that begins at off; nil if it cannot be read (any more).
func (v view) batchAt(off segment.Offset) protocol.Batch {
	raw, err := v.m.log.ReadOffsets(off, v.pub.applied, 1)
	if err != nil || len(raw) == 0 {
		return nil
	}
	b, err := protocol.ParseBatch(raw[0])
	if err != nil || b.BaseOffset() != int64(off) {
		return nil
	}
	return b
}

// firstRecordSince is the first record of b at or after ts; off and at, if there is none to be seen.
func firstRecordSince(b protocol.Batch, ts int64, off segment.Offset, at int64) (segment.Offset, int64) {
	if b.LogAppendTime() {
		return off, b.MaxTimestamp()
	}
	for r, err := range b.Records(inflater()) {
		if err != nil {
			break
		}
		if r.Timestamp >= ts {
			return segment.Offset(r.Offset), r.Timestamp
		}
	}
	return off, at
}

// OffsetForLeaderEpoch returns the largest epoch at or below epoch that has records here, and the offset at which it ends;
// -1, -1 if there is none. Call Linearize first, or with anyReplica LinearizeAny: a follower that lags knows less. leaderEpoch
// is the client's current one, -1 if it does not say.
func (r *Replica) OffsetForLeaderEpoch(epoch, leaderEpoch int32, anyReplica bool) (foundEpoch int32, end int64, err error) {
	v, err := r.view(leaderEpoch, anyReplica)
	switch {
	case err != nil:
		return -1, -1, err
	case epoch < 0 || epoch > v.lead.Epoch:
		return -1, -1, nil // Kafka: UNDEFINED_EPOCH for what this leader has not seen
	case epoch == v.lead.Epoch:
		// Also without a record of this term: whatever comes, begins there.
		return epoch, v.pub.hw, nil
	}
	term, off := v.m.log.EpochEnd(raft.Term(epoch), v.pub.applied)
	if term == 0 && epoch > 0 {
		return -1, -1, nil // no entries at all
	}
	return int32(term), min(max(int64(off), v.pub.start), v.pub.hw), nil
}

// HighWatermark is the offset below which everything is committed, as far as this node knows. false: this node is a
// new leader that has not applied its own no-op, or the replica is not open; the number must then not be shown. On a
// follower it is a lower bound.
func (r *Replica) HighWatermark() (int64, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.pub.hw, r.state == StateOpen && (!r.lead.Self || r.lead.Ready)
}

// LastStable is HighWatermark for readers of committed records: the offset below which every transaction is decided.
func (r *Replica) LastStable() (int64, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.pub.stable, r.state == StateOpen && (!r.lead.Self || r.lead.Ready)
}

// LogStart is the first offset that is there; -1 if the replica is closed.
func (r *Replica) LogStart() int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.m == nil {
		return -1
	}
	return r.pub.start
}

// Leader is who leads, as far as this node knows (0: nobody), and in which epoch. ready: it is this node, and it
// serves.
func (r *Replica) Leader() (node raft.NodeID, epoch int32, ready bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.lead.Leader, r.lead.Epoch, r.lead.Serving()
}

// Fetch, ListOffsets and OffsetForLeaderEpoch: reads below the high watermark. None of them waits.

package partition

import "github.com/balsamq/balsa/raft"

// ReadQuery asks for batches from Offset on.
type ReadQuery struct {
	Offset int64
	// MaxBytes is soft: the first batch is returned whole, however large. <= 0: only checks, no batches.
	MaxBytes int
	// LeaderEpoch is the epoch the client believes in; -1: it does not say.
	LeaderEpoch int32
	// AnyReplica also reads on a follower, up to what it knows to be committed.
	AnyReplica bool
}

// ReadResult is what there is. Also with an error, LogStart, HighWatermark and LeaderEpoch are set as far as known (-1).
type ReadResult struct {
	// Batches are whole record batches, the first one contains Offset (it may begin below it). Shared and immutable.
	Batches [][]byte
	// Bytes is their total length.
	Bytes         int
	HighWatermark int64
	LastStable    int64 // equal to HighWatermark: no transactions yet
	LogStart      int64
	LeaderEpoch   int32
}

// Special timestamps of ListOffset.
const (
	LatestTimestamp        int64 = -1 // the high watermark
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
// and an ErrOffsetOutOfRange above the end: for these the caller must call [Replica.Linearize] and then Read again
// before it believes them, as a deposed leader could not know better. The pattern:
//
//	Read → batches: answer. Empty or out of range → Linearize → Read again → still empty: Subscribe or answer.
func (r *Replica) Read(q ReadQuery) (ReadResult, error) {
	return ReadResult{HighWatermark: -1, LastStable: -1, LogStart: -1, LeaderEpoch: -1}, ErrClosed
}

// Linearize calls done, at once where the leader's lease allows it, when the high watermark is at least what any
// acknowledged produce had reached at the call. done may be called before Linearize returns; otherwise a worker calls
// it, and it must not block. Errors: ErrNotLeader, ErrNotReady, ErrUnavailable, ErrFailed, ErrClosed.
func (r *Replica) Linearize(done func(error)) { done(ErrClosed) }

// ListOffset answers by timestamp (or one of the special ones): the first offset whose record is at or after ts. It
// speaks of the end of the log: call Linearize first. leaderEpoch is the client's, -1 if it does not say.
func (r *Replica) ListOffset(ts int64, leaderEpoch int32) (OffsetResult, error) {
	return OffsetResult{Offset: -1, Timestamp: -1, LeaderEpoch: -1}, ErrClosed
}

// OffsetForLeaderEpoch returns the largest epoch at or below epoch that has records here, and the offset at which it ends;
// -1, -1 if there is none. Call Linearize first. leaderEpoch is the client's current one, -1 if it does not say.
func (r *Replica) OffsetForLeaderEpoch(epoch, leaderEpoch int32) (foundEpoch int32, end int64, err error) {
	return -1, -1, ErrClosed
}

// HighWatermark is the offset below which everything is committed, as far as this node knows. false: this node is a
// new leader that has not applied its own no-op, or the replica is not open; the number must then not be shown. On a
// follower it is a lower bound.
func (r *Replica) HighWatermark() (int64, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.pub.hw, r.state == StateOpen && (!r.lead.Self || r.lead.Ready)
}

// Leader is who leads, as far as this node knows (0: nobody), and in which epoch. ready: it is this node, and it
// serves.
func (r *Replica) Leader() (node raft.NodeID, epoch int32, ready bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.lead.Leader, r.lead.Epoch, r.lead.Serving()
}

// The errors of a replica. Each sentinel stands for one Kafka error code, which the broker chooses in one place; the
// text says what happened to whom. Test with errors.Is; [NotLeaderError], [RangeError] and [EpochError] carry more.

package partition

import (
	"errors"
	"fmt"

	"github.com/balsamq/balsa/raft"
)

// What [Replica.Append] reports, beside ErrNotLeader and the states of the replica.
var (
	// ErrCorrupt: length or CRC of the batch do not fit its bytes. CORRUPT_MESSAGE.
	ErrCorrupt = errors.New("corrupt record batch")
	// ErrInvalidRecord: an intact batch that says something impossible: magic, counts, a control batch from a client,
	// more than one batch. INVALID_RECORD.
	ErrInvalidRecord = errors.New("invalid record batch")
	// ErrTooLarge: above max.message.bytes. MESSAGE_TOO_LARGE.
	ErrTooLarge = errors.New("record batch larger than max.message.bytes")
	// ErrInvalidTimestamp: outside message.timestamp.before/after.max.ms. INVALID_TIMESTAMP.
	ErrInvalidTimestamp = errors.New("timestamp out of range")
	// ErrUnsupportedCompression: a codec that Kafka does not know. UNSUPPORTED_COMPRESSION_TYPE.
	ErrUnsupportedCompression = errors.New("unknown compression codec")
	// ErrConditionFailed: a key's last record is not what a record expects; see [RecordsError]. INVALID_RECORD.
	ErrConditionFailed = errors.New("condition failed")
	// ErrKeysLoading: the leader is still reading which keys there are. NOT_LEADER_OR_FOLLOWER, which every client retries.
	ErrKeysLoading = errors.New("the keys of the partition are being read")
	// ErrKeyMemory: there are more keys than the broker may keep a table of (--key-memory). POLICY_VIOLATION.
	ErrKeyMemory = errors.New("the broker's memory for keys (--key-memory) is full")
	// ErrNoKeys: a key is looked up in a topic without conditional appends. INVALID_REQUEST.
	ErrNoKeys = errors.New("the topic is without balsa.conditional.append, and has no table of keys")
	// ErrInvalidAcks: not 0, 1 or -1. INVALID_REQUIRED_ACKS.
	ErrInvalidAcks = errors.New("acks is not 0, 1 or -1 (all)")
	// ErrOutOfOrderSequence: a gap in a producer's sequence. OUT_OF_ORDER_SEQUENCE_NUMBER.
	ErrOutOfOrderSequence = errors.New("out of order sequence number")
	// ErrInvalidProducerEpoch: an epoch older than the producer's current one. INVALID_PRODUCER_EPOCH.
	ErrInvalidProducerEpoch = errors.New("producer epoch is older than the current one")
	// ErrInvalidTxnState: a transactional batch of which nobody can say what transaction it belongs to, or a plain one of a
	// producer whose transaction is open here. INVALID_TXN_STATE.
	ErrInvalidTxnState = errors.New("the batch does not fit the transaction")
	// ErrTxnUnverified: the transaction ended while the batch was verified, again and again; nothing was appended.
	// NOT_ENOUGH_REPLICAS, which every client retries.
	ErrTxnUnverified = errors.New("cannot verify that the partition has been added to the transaction")
	// ErrCoordinatorFenced: a marker of a coordinator that another one has replaced. TRANSACTION_COORDINATOR_FENCED.
	ErrCoordinatorFenced = errors.New("the transaction's coordinator was replaced")
	// ErrNotEnoughReplicas: min.insync.replicas is above what is alive; nothing was appended. NOT_ENOUGH_REPLICAS.
	ErrNotEnoughReplicas = errors.New("fewer replicas in sync than min.insync.replicas")
	// ErrNotEnoughReplicasAfterAppend: committed by a quorum, yet min.insync.replicas was not reached before the replica
	// stopped leading. NOT_ENOUGH_REPLICAS_AFTER_APPEND.
	ErrNotEnoughReplicasAfterAppend = errors.New("fewer replicas in sync than min.insync.replicas after the append")
	// ErrStorageFull: the disk is full; reads go on, and produce does as soon as there is room. KAFKA_STORAGE_ERROR.
	ErrStorageFull = errors.New("storage is full")
	// ErrOverloaded: a bounded queue is full; nothing was appended, try again. THROTTLING_QUOTA_EXCEEDED or
	// REQUEST_TIMED_OUT, as the broker likes: both are retriable.
	ErrOverloaded = errors.New("replica is overloaded")
	// ErrTimedOut is for the broker's own request timer: the batch may still commit. REQUEST_TIMED_OUT.
	ErrTimedOut = errors.New("timed out waiting for the commit")
)

// What every call may report.
var (
	// ErrNotLeader: another node leads, or none does. NOT_LEADER_OR_FOLLOWER; see [NotLeaderError].
	ErrNotLeader = errors.New("not the leader")
	// ErrNotReady: this node leads but has not yet committed in its own term, so that it does not know where the log
	// ends. OFFSET_NOT_AVAILABLE or NOT_LEADER_OR_FOLLOWER (both retriable); a [Waiter] is called when that changes.
	ErrNotReady = errors.New("the leader has not committed in its own term yet")
	// ErrFailed: the log failed (a failed sync, damage found while reading); the owner reopens it. KAFKA_STORAGE_ERROR.
	ErrFailed = errors.New("replica failed")
	// ErrClosed: closed or removed. UNKNOWN_TOPIC_OR_PARTITION after a removal, NOT_LEADER_OR_FOLLOWER else.
	ErrClosed = errors.New("replica is closed")
)

// What reads report.
var (
	// ErrOffsetOutOfRange: outside [log start, high watermark]; see [RangeError]. OFFSET_OUT_OF_RANGE.
	ErrOffsetOutOfRange = errors.New("offset out of range")
	// ErrFencedLeaderEpoch: the client's leader epoch is older than ours; see [EpochError]. FENCED_LEADER_EPOCH.
	ErrFencedLeaderEpoch = errors.New("client's leader epoch is fenced")
	// ErrUnknownLeaderEpoch: the client's leader epoch is newer than ours. UNKNOWN_LEADER_EPOCH.
	ErrUnknownLeaderEpoch = errors.New("client's leader epoch is not known here yet")
	// ErrLagging: a follower has not applied yet what its leader's read index asks for, or has not heard of it. The record may
	// be there, and the end farther away. OFFSET_NOT_AVAILABLE: the client asks the leader.
	ErrLagging = errors.New("the follower has not caught up with its leader's read index")
	// ErrUnavailable: a read point could not be confirmed (no quorum answers). LEADER_NOT_AVAILABLE or
	// REQUEST_TIMED_OUT. It is never answered by stale data.
	ErrUnavailable = errors.New("no quorum to read by")
)

// NotLeaderError is ErrNotLeader with what this node knows about who leads (KIP-951).
type NotLeaderError struct {
	Leader raft.NodeID // 0: nobody known
	Epoch  int32
	// MayCommit says that the batch was appended before leadership was lost, and that nobody can say yet whether it
	// will commit. A client that is idempotent just retries.
	MayCommit bool
}

func (e *NotLeaderError) Error() string {
	if e.Leader == 0 {
		return fmt.Sprintf("%v: no leader known in epoch %d", ErrNotLeader, e.Epoch)
	}
	return fmt.Sprintf("%v: node %d leads in epoch %d", ErrNotLeader, e.Leader, e.Epoch)
}

// Is makes errors.Is(err, ErrNotLeader) true.
func (e *NotLeaderError) Is(target error) bool { return target == ErrNotLeader }

// RangeError is ErrOffsetOutOfRange with the range that there is.
type RangeError struct{ Offset, Start, HighWatermark int64 }

func (e *RangeError) Error() string {
	return fmt.Sprintf("%v: %d is outside [%d, %d]", ErrOffsetOutOfRange, e.Offset, e.Start, e.HighWatermark)
}

// Is makes errors.Is(err, ErrOffsetOutOfRange) true.
func (e *RangeError) Is(target error) bool { return target == ErrOffsetOutOfRange }

// EpochError is ErrFencedLeaderEpoch (Asked < Current) or ErrUnknownLeaderEpoch (Asked > Current).
type EpochError struct{ Asked, Current int32 }

func (e *EpochError) Error() string {
	return fmt.Sprintf("%v: asked %d, current %d", e.sentinel(), e.Asked, e.Current)
}

func (e *EpochError) sentinel() error {
	if e.Asked < e.Current {
		return ErrFencedLeaderEpoch
	}
	return ErrUnknownLeaderEpoch
}

// Is makes errors.Is true for the sentinel that fits.
func (e *EpochError) Is(target error) bool { return target == e.sentinel() }

// The one place where an error of ours becomes a Kafka error code. The choice is made for the client at the other
// end: what it retries, what it refreshes, and what it gives up on.

package broker

import (
	"context"
	"errors"
	"strings"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/balsamq/balsa/coordinator"
	"github.com/balsamq/balsa/partition"
	"github.com/balsamq/balsa/protocol"
	"github.com/balsamq/balsa/raft/multi"
)

// refusal is an error that was made for a client: it has its code, and a message for the user.
type refusal struct {
	code *kerr.Error
	msg  string
}

func (e *refusal) Error() string { return e.msg }
func (e *refusal) Unwrap() error { return e.code }

// refuse makes a refusal. errors.Is finds the kerr sentinel in it.
func refuse(code *kerr.Error, msg string) error { return &refusal{code, msg} }

// kafkaErrors is searched in order: the first sentinel that err wraps decides.
var kafkaErrors = []struct {
	err  error
	code *kerr.Error
}{
	// Groups, first: their errors wrap what the log said.
	{coordinator.ErrNotCoordinator, kerr.NotCoordinator},
	{coordinator.ErrCoordinatorLoading, kerr.CoordinatorLoadInProgress},
	{coordinator.ErrCoordinatorUnavailable, kerr.CoordinatorNotAvailable},
	{coordinator.ErrInvalidGroupID, kerr.InvalidGroupID},
	{coordinator.ErrInvalidSessionTimeout, kerr.InvalidSessionTimeout},
	{coordinator.ErrInconsistentProtocol, kerr.InconsistentGroupProtocol},
	{coordinator.ErrUnknownMember, kerr.UnknownMemberID},
	{coordinator.ErrMemberIDRequired, kerr.MemberIDRequired},
	{coordinator.ErrFencedInstance, kerr.FencedInstanceID},
	{coordinator.ErrIllegalGeneration, kerr.IllegalGeneration},
	{coordinator.ErrRebalanceInProgress, kerr.RebalanceInProgress},
	{coordinator.ErrGroupFull, kerr.GroupMaxSizeReached},
	{coordinator.ErrOffsetMetadataTooLarge, kerr.OffsetMetadataTooLarge},
	{coordinator.ErrCommitTooLarge, kerr.InvalidCommitOffsetSize},
	{coordinator.ErrGroupNotFound, kerr.GroupIDNotFound},
	{coordinator.ErrGroupNotEmpty, kerr.NonEmptyGroup},
	{coordinator.ErrTopicSubscribed, kerr.GroupSubscribedToTopic},
	{coordinator.ErrInvalidRequest, kerr.InvalidRequest},
	{coordinator.ErrFencedEpoch, kerr.FencedMemberEpoch},
	{coordinator.ErrStaleEpoch, kerr.StaleMemberEpoch},
	{coordinator.ErrUnreleasedInstance, kerr.UnreleasedInstanceID},
	{coordinator.ErrUnsupportedAssignor, kerr.UnsupportedAssignor},
	{coordinator.ErrInvalidRegex, kerr.InvalidRegularExpression},
	{coordinator.ErrProtocolDisabled, kerr.UnsupportedVersion},
	// Users and ACLs.
	{coordinator.ErrUnknownUser, kerr.ResourceNotFound},
	{coordinator.ErrTooManyUsers, kerr.UnacceptableCredential},
	{coordinator.ErrTooManyACLs, kerr.PolicyViolation},
	// Transactions.
	{coordinator.ErrInvalidTxnID, kerr.InvalidRequest},
	{coordinator.ErrInvalidTxnTimeout, kerr.InvalidTransactionTimeout},
	{coordinator.ErrConcurrentTransactions, kerr.ConcurrentTransactions},
	{coordinator.ErrInvalidProducerIDMapping, kerr.InvalidProducerIDMapping},
	{coordinator.ErrProducerFenced, kerr.ProducerFenced}, // see fencedCode for older versions
	{coordinator.ErrTxnState, kerr.InvalidTxnState},
	{coordinator.ErrTxnAbortable, kerr.TransactionAbortable},
	{coordinator.ErrTxnNotFound, kerr.TransactionalIDNotFound},
	// Produce.
	{partition.ErrCorrupt, kerr.CorruptMessage},
	{partition.ErrInvalidRecord, kerr.InvalidRecord},
	{partition.ErrConditionFailed, kerr.InvalidRecord},     // which no client retries
	{partition.ErrKeysLoading, kerr.NotLeaderForPartition}, // which every client does, for Produce and ListOffsets alike
	{partition.ErrKeyMemory, kerr.PolicyViolation},
	{partition.ErrNoKeys, kerr.InvalidRequest},
	{partition.ErrTooLarge, kerr.MessageTooLarge},
	{partition.ErrInvalidTimestamp, kerr.InvalidTimestamp},
	{partition.ErrUnsupportedCompression, kerr.UnsupportedCompressionType},
	{partition.ErrInvalidAcks, kerr.InvalidRequiredAcks},
	{partition.ErrOutOfOrderSequence, kerr.OutOfOrderSequenceNumber},
	{partition.ErrInvalidProducerEpoch, kerr.InvalidProducerEpoch},
	{partition.ErrInvalidTxnState, kerr.InvalidTxnState},
	{partition.ErrTxnUnverified, kerr.NotEnoughReplicas}, // as Kafka: every client retries it
	{partition.ErrCoordinatorFenced, kerr.TransactionCoordinatorFenced},
	{partition.ErrNotEnoughReplicasAfterAppend, kerr.NotEnoughReplicasAfterAppend},
	{partition.ErrNotEnoughReplicas, kerr.NotEnoughReplicas},
	// A full disk is not the client's fault and passes; every client retries this one.
	{partition.ErrStorageFull, kerr.KafkaStorageError},
	// Retried by every client, with its back-off. THROTTLING_QUOTA_EXCEEDED would be nearer, but librdkafka gives up on it.
	{partition.ErrOverloaded, kerr.RequestTimedOut},
	{partition.ErrTimedOut, kerr.RequestTimedOut},
	// States of a replica. A leader that is not ready, or that finds no quorum to read by, may have been replaced without
	// knowing: the client should ask around, and that is what this code makes every client do.
	{partition.ErrNotLeader, kerr.NotLeaderForPartition},
	{partition.ErrNotReady, kerr.NotLeaderForPartition},
	{partition.ErrUnavailable, kerr.NotLeaderForPartition},
	{partition.ErrClosed, kerr.NotLeaderForPartition},
	{partition.ErrLagging, kerr.OffsetNotAvailable},
	{partition.ErrFailed, kerr.KafkaStorageError},
	// Reads.
	{partition.ErrOffsetOutOfRange, kerr.OffsetOutOfRange},
	{partition.ErrFencedLeaderEpoch, kerr.FencedLeaderEpoch},
	{partition.ErrUnknownLeaderEpoch, kerr.UnknownLeaderEpoch},
	// Batches on the wire.
	{protocol.ErrCRC, kerr.CorruptMessage},
	{protocol.ErrTruncated, kerr.CorruptMessage},
	{protocol.ErrMagic, kerr.UnsupportedForMessageFormat},
	{protocol.ErrCodec, kerr.UnsupportedCompressionType},
	{protocol.ErrInflate, kerr.CorruptMessage},
	{protocol.ErrBatch, kerr.InvalidRecord},
	// Metadata.
	{coordinator.ErrInvalidTopic, kerr.InvalidTopicException},
	{coordinator.ErrTopicExists, kerr.TopicAlreadyExists},
	{coordinator.ErrUnknownTopic, kerr.UnknownTopicOrPartition},
	{coordinator.ErrInvalidPartitions, kerr.InvalidPartitions},
	{coordinator.ErrInvalidReplicationFactor, kerr.InvalidReplicationFactor},
	{coordinator.ErrInvalidAssignment, kerr.InvalidReplicaAssignment},
	{coordinator.ErrUnknownBroker, kerr.InvalidReplicaAssignment},
	{coordinator.ErrNoMove, kerr.NoReassignmentInProgress},
	{coordinator.ErrFeatureUpdate, kerr.InvalidUpdateVersion},
	{coordinator.ErrFeatureLevel, kerr.UnsupportedVersion},
	{coordinator.ErrBrokerAlive, kerr.InvalidRequest},
	{coordinator.ErrOtherDisk, kerr.InvalidRequest},
	{coordinator.ErrBrokerInUse, kerr.InvalidRequest},
	{coordinator.ErrNotFounded, kerr.CoordinatorNotAvailable},
	{coordinator.ErrTooMany, kerr.PolicyViolation},
	{coordinator.ErrStale, kerr.RequestTimedOut},
	// The metadata group has no leader at the moment, or lost it midway.
	{multi.ErrNotLeader, kerr.NotController},
	{multi.ErrLeadershipLost, kerr.RequestTimedOut},
	{multi.ErrOverloaded, kerr.RequestTimedOut},
	{context.DeadlineExceeded, kerr.RequestTimedOut},
	{context.Canceled, kerr.RequestTimedOut},
}

// kafkaError is the Kafka error for err: UNKNOWN_SERVER_ERROR only for what nobody thought of, nil for nil.
func kafkaError(err error) *kerr.Error {
	if err == nil {
		return nil
	}
	if k, ok := errors.AsType[*kerr.Error](err); ok {
		return k
	}
	for i := range kafkaErrors {
		if errors.Is(err, kafkaErrors[i].err) {
			return kafkaErrors[i].code
		}
	}
	return kerr.UnknownServerError
}

// codeOf is kafkaError's number, 0 for nil.
func codeOf(err error) int16 {
	if k := kafkaError(err); k != nil {
		return k.Code
	}
	return 0
}

// messageOf is the text that goes with codeOf where the protocol has room for one; nil for nil.
func messageOf(err error) *string {
	if err == nil {
		return nil
	}
	m := strings.TrimPrefix(err.Error(), coordinator.ErrMalformed.Error()+": ") // a request is meant; what follows says how
	return &m
}

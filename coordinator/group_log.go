// What a group coordinator needs of the partition that it folds over, and the errors that it answers with.

package coordinator

import "errors"

// ReplicatedLog is one partition of __consumer_offsets, led by this node, in one leader epoch. Once that epoch is over,
// every call ends with an error: a coordinator that was deposed can neither write nor answer, also if its node is elected
// again later, for then it has another ReplicatedLog. All methods are safe for concurrent use, and none blocks, Read excepted,
// which may wait for the disk.
type ReplicatedLog interface {
	// Append appends one record batch, of which the log becomes the owner. done is called exactly once, with the error
	// nil if the batch is committed, perhaps before Append returns; the calls for committed batches come in the order of
	// the log. Errors: [ErrNotCoordinator] (the epoch is over; the batch may still commit), [ErrCoordinatorUnavailable]
	// and [ErrCommitTooLarge] (nothing was appended).
	Append(batch []byte, done func(err error))
	// AppendTxn is Append for a batch of a transaction (with a producer, and no sequence): it is appended once the transaction's
	// coordinator has the partition in the transaction, or with add has put it there. Errors, beside those of Append: whatever that
	// coordinator, or the partition, has against the producer.
	AppendTxn(batch []byte, transactionalID string, add bool, done func(err error))
	// Read returns committed batches from offset on, none at the end. maxBytes is soft.
	Read(offset int64, maxBytes int) (batches [][]byte, err error)
	// Start is the first offset that there is.
	Start() int64
	// Linearize calls done with nil if, at the call, no later epoch could have acknowledged anything.
	Linearize(done func(error))
}

// What the coordinator answers. Each stands for the Kafka error of the same meaning.
var (
	// ErrNotCoordinator: another broker coordinates the group, or none does. NOT_COORDINATOR.
	ErrNotCoordinator = errors.New("this broker does not coordinate the group")
	// ErrCoordinatorLoading: the coordinator has just been elected and reads its log. COORDINATOR_LOAD_IN_PROGRESS.
	ErrCoordinatorLoading = errors.New("the group's coordinator is loading")
	// ErrCoordinatorUnavailable: not now; ask again. COORDINATOR_NOT_AVAILABLE.
	ErrCoordinatorUnavailable = errors.New("the group's coordinator is not available")
	// ErrInvalidGroupID: an empty or overlong group id. INVALID_GROUP_ID.
	ErrInvalidGroupID = errors.New("invalid group id")
	// ErrInvalidSessionTimeout: outside the broker's limits. INVALID_SESSION_TIMEOUT.
	ErrInvalidSessionTimeout = errors.New("session timeout is out of range")
	// ErrInconsistentProtocol: no protocol that all members know, or another one than the group's.
	// INCONSISTENT_GROUP_PROTOCOL.
	ErrInconsistentProtocol = errors.New("inconsistent group protocol")
	// ErrUnknownMember: UNKNOWN_MEMBER_ID.
	ErrUnknownMember = errors.New("unknown member of the group")
	// ErrMemberIDRequired: join again with the id that comes with this (KIP-394). MEMBER_ID_REQUIRED.
	ErrMemberIDRequired = errors.New("a member id is required to join")
	// ErrFencedInstance: another client has taken the place of this static member (KIP-345). FENCED_INSTANCE_ID.
	ErrFencedInstance = errors.New("the static member was replaced by another client")
	// ErrIllegalGeneration: ILLEGAL_GENERATION.
	ErrIllegalGeneration = errors.New("not the group's generation")
	// ErrRebalanceInProgress: REBALANCE_IN_PROGRESS.
	ErrRebalanceInProgress = errors.New("the group is rebalancing")
	// ErrGroupFull: group.max.size, or what one group may hold of our memory. GROUP_MAX_SIZE_REACHED.
	ErrGroupFull = errors.New("the group is full")
	// ErrOffsetMetadataTooLarge: OFFSET_METADATA_TOO_LARGE.
	ErrOffsetMetadataTooLarge = errors.New("the metadata of a committed offset is too large")
	// ErrCommitTooLarge: the record is larger than the log takes. INVALID_COMMIT_OFFSET_SIZE.
	ErrCommitTooLarge = errors.New("too large for the group's log")
	// ErrGroupNotFound: GROUP_ID_NOT_FOUND.
	ErrGroupNotFound = errors.New("there is no such group")
	// ErrGroupNotEmpty: NON_EMPTY_GROUP.
	ErrGroupNotEmpty = errors.New("the group has members")
	// ErrInvalidRequest: a field is missing or contradicts another. INVALID_REQUEST, with the text.
	ErrInvalidRequest = errors.New("invalid request")
	// ErrFencedEpoch: not the member's epoch: it must give up its partitions and join again. FENCED_MEMBER_EPOCH.
	ErrFencedEpoch = errors.New("the member's epoch is not the coordinator's")
	// ErrStaleEpoch: a commit or a fetch of offsets in another epoch than the member's. STALE_MEMBER_EPOCH.
	ErrStaleEpoch = errors.New("the member's epoch is out of date")
	// ErrUnreleasedInstance: another member has this instance id, and has not left. UNRELEASED_INSTANCE_ID.
	ErrUnreleasedInstance = errors.New("another member has this instance id")
	// ErrUnsupportedAssignor: UNSUPPORTED_ASSIGNOR.
	ErrUnsupportedAssignor = errors.New("the coordinator has no such assignor")
	// ErrInvalidRegex: INVALID_REGULAR_EXPRESSION.
	ErrInvalidRegex = errors.New("invalid regular expression")
	// ErrProtocolDisabled: the cluster does not speak the new protocol, or the request is too old for it. UNSUPPORTED_VERSION.
	ErrProtocolDisabled = errors.New("the new group protocol is not available")
	// ErrTopicSubscribed: GROUP_SUBSCRIBED_TO_TOPIC.
	ErrTopicSubscribed = errors.New("a member of the group is subscribed to the topic")
)

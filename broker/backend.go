// What the Kafka handlers need from the rest of the broker. Handlers see the cluster through the Image (immutable, no
// lock), replicas of this broker, the leader table that brokers tell each other, and a few calls that end at the metadata
// group. The wiring satisfies backend; tests bring a small one of their own.

package broker

import (
	"context"

	"github.com/balsamq/balsa/coordinator"
	"github.com/balsamq/balsa/partition"
	"github.com/balsamq/balsa/raft"
)

// backend is the broker behind the Kafka server. All methods are safe for any goroutine. Those with a done callback
// return at once and call it exactly once, from any goroutine, also when ctx ends first.
type backend interface {
	NodeID() raft.NodeID
	Image() *coordinator.Image
	// Controller is a live broker to show as the controller; 0 if none is known.
	Controller() raft.NodeID
	// Replica is this broker's replica, or nil (not a typed one) if it holds none or has not opened it yet.
	Replica(topic coordinator.TopicID, partition int32) replica
	// Leader is who leads, by the highest epoch that any broker has told of; ok is false if nobody is known to. The epoch is known all the same
	// where there was one: 0 is none.
	Leader(topic coordinator.TopicID, partition int32) (node raft.NodeID, epoch int32, ok bool)
	// InSync is who is in sync, by node, as the leader sees it or has last told: never more than is known. nil: nothing is.
	InSync(topic coordinator.TopicID, partition int32) []raft.NodeID
	// HasLeader reports whether a leader is known and heard from.
	HasLeader(topic coordinator.TopicID, partition int32) bool
	// CreateTopics creates topics, or with validateOnly only says what would come of it. It is done when every topic has
	// leaders and every live Image has it, or when ctx ends: then the topics may still come. results are in the order
	// of topics. All that is in topics has been checked as far as one request can be; the metadata group decides.
	CreateTopics(ctx context.Context, topics []newTopic, validateOnly bool, done func(results []topicResult))
	// DeleteTopics deletes by id; done when they are gone from every live Image, or when ctx ends. One error (or nil) per id.
	DeleteTopics(ctx context.Context, ids []coordinator.TopicID, done func(errs []error))
	// Reassign sets where partitions are to be; done when that is decided. One error (or nil) per move.
	Reassign(ctx context.Context, moves []coordinator.Move, done func(errs []error))
	// UnregisterBroker forgets a broker that is stopped and holds nothing.
	UnregisterBroker(ctx context.Context, node raft.NodeID, done func(err error))
	// UpdateFeatures finalizes other levels of features; done when every live Image has them, or with why not: about each
	// update, or about all of them.
	UpdateFeatures(ctx context.Context, in *coordinator.FeatureUpdates, done func(errs []error, err error))
	// Change has a command on users or ACLs carried out; done when every live broker knows, or with why it was not.
	Change(ctx context.Context, c *coordinator.Command, done func(r *coordinator.Result, err error))
	// LogDir is what this broker's replicas take on its disk, those that are wanted.
	LogDir(ctx context.Context, wanted func(topic string, partition int32) bool, done func(d logDir, err error))
	// ElectPreferred makes the preferred replicas of partitions lead; done when they do and this broker knows, or when ctx
	// ends. One error (or nil) per partition.
	ElectPreferred(ctx context.Context, parts []topicPartition, done func(errs []error))
	// NextProducerID hands out an id that no other producer of the cluster has or gets.
	NextProducerID(ctx context.Context, done func(id int64, err error))
	// Groups coordinates the consumer groups that are this broker's.
	Groups() *coordinator.Groups
	// Txns coordinates the transactions that are this broker's.
	Txns() *coordinator.Txns
	// EnsureTxnTopic has __transaction_state created if it is not there, and does not wait for it.
	EnsureTxnTopic()
	// EnsureBridgesTopic has __balsa_bridges created if it is not there, and does not wait for it.
	EnsureBridgesTopic()
	// EnsureOffsetsTopic has __consumer_offsets created if it is not there, and does not wait for it.
	EnsureOffsetsTopic()
	// Quorum describes the metadata group as its leader sees it; an error says that there is none to ask.
	Quorum(ctx context.Context, done func(q *replicaState, err error))
	// GrowTopics adds partitions to topics; done when they have leaders and every live Image has them, or when ctx ends. One error (or
	// nil) per topic.
	GrowTopics(ctx context.Context, g *coordinator.Growth, done func(errs []error))
	// SetConfigs changes configs; done when every live Image has them. One error (or nil) per change.
	SetConfigs(ctx context.Context, changes []coordinator.ConfigChange, done func(errs []error))
	// AlterQuotas changes client quotas, likewise.
	AlterQuotas(ctx context.Context, entries []coordinator.QuotaChange, done func(errs []error))
	// Loggers are this broker's.
	Loggers() *loggers
	// Config is a broker config that was set explicitly (file, flag, environment), by its Kafka name.
	Config(name string) (value string, ok bool)
}

// replica is the part of [partition.Replica] that the handlers use.
type replica interface {
	Append(*partition.AppendRequest)
	Read(partition.ReadQuery) (partition.ReadResult, error)
	Linearize(done func(error))
	LinearizeAny(done func(error))
	ListOffset(ts int64, leaderEpoch int32, committed bool) (partition.OffsetResult, error)
	LookupKey(key []byte, leaderEpoch int32) (partition.KeyResult, error)
	OffsetForLeaderEpoch(epoch, leaderEpoch int32, anyReplica bool) (foundEpoch int32, end int64, err error)
	HighWatermark() (int64, bool)
	LastStable() (int64, bool)
	Producers() ([]partition.ProducerState, error)
	DeleteBefore(offset int64, done func(start int64, err error))
	Subscribe(*partition.Waiter) bool
	Unsubscribe(*partition.Waiter) bool
	ISR() []raft.NodeID
	InSyncFollowers() []partition.Follower
}

var _ replica = (*partition.Replica)(nil)

// topicPartition is a partition that there is.
type topicPartition struct {
	topic     *coordinator.Topic
	partition int32
}

// newTopic is a topic to be created.
type newTopic struct {
	Name              string
	Partitions        int             // at least 1; without Assignment
	ReplicationFactor int             // at least 1; without Assignment
	Assignment        [][]raft.NodeID // by partition, the preferred leader first; nil: the broker places them
	Configs           map[string]string
}

// topicResult is what became of one. With Err nil the rest is set; also under validateOnly, where ID is zero.
type topicResult struct {
	ID                coordinator.TopicID
	Partitions        int
	ReplicationFactor int
	Err               error
}

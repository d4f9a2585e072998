// The errors of the metadata commands. The broker's edge turns each into a Kafka error code in one place.

package coordinator

import "errors"

var (
	// ErrMalformed: bytes that are no command or snapshot of a version that we know.
	ErrMalformed = errors.New("malformed metadata")
	// ErrInvalidTopic: the name breaks Kafka's rules.
	ErrInvalidTopic = errors.New("invalid topic name")
	// ErrTopicExists: the name is taken, or differs from an existing one only in '.' and '_'.
	ErrTopicExists = errors.New("topic already exists")
	// ErrUnknownTopic: no topic of that name or id.
	ErrUnknownTopic = errors.New("unknown topic")
	// ErrInvalidPartitions: a partition count out of range.
	ErrInvalidPartitions = errors.New("invalid number of partitions")
	// ErrInvalidReplicationFactor: no replica asked for, or more than there are live brokers.
	ErrInvalidReplicationFactor = errors.New("invalid replication factor")
	// ErrInvalidAssignment: a manual assignment with unknown or repeated brokers, gaps or uneven sizes.
	ErrInvalidAssignment = errors.New("invalid replica assignment")
	// ErrUnknownBroker: no broker of that id is registered, or it is there in another incarnation.
	ErrUnknownBroker = errors.New("unknown broker")
	// ErrBrokerIDTaken: the node id belongs to another data directory.
	ErrBrokerIDTaken = errors.New("node id is taken by another broker")
	// ErrWrongCluster: the sender belongs to another cluster.
	ErrWrongCluster = errors.New("broker belongs to another cluster")
	// ErrNotFounded: the cluster has no identity yet.
	ErrNotFounded = errors.New("cluster is not founded yet")
	// ErrBrokerAlive: the broker that has the node id is being heard from, so that nothing can take its place.
	ErrBrokerAlive = errors.New("broker is alive")
	// ErrOtherDisk: a broker that is not heard from has the node id, with another data directory, and nobody has said that this one is to
	// take its place.
	ErrOtherDisk = errors.New("node id belongs to another data directory")
	// ErrBrokerInUse: the broker still holds replicas, or is to.
	ErrBrokerInUse = errors.New("broker still holds replicas")
	// ErrNoMove: the partition is where it belongs, and there is nothing to cancel.
	ErrNoMove = errors.New("no reassignment in progress")
	// ErrFeatureLevel: the command needs a level of metadata.version that is not finalized: brokers of an older version may be there.
	ErrFeatureLevel = errors.New("metadata.version is too low")
	// ErrFeatureUpdate: a feature cannot have the level that is asked for.
	ErrFeatureUpdate = errors.New("the feature's level cannot be changed")
	// ErrTooMany: a bound of the metadata is reached.
	ErrTooMany = errors.New("too many")
	// ErrStale: the command was made for a state that is gone; make it anew.
	ErrStale = errors.New("metadata changed meanwhile")
)

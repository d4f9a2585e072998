// Settings of `broker start` for consumer groups and transactions: Kafka has most of them under the names that the comments give. What is left
// at its default is not handed on, so that DescribeConfigs shows it as a default.

package main

import (
	"errors"
	"fmt"
	"time"

	"github.com/spf13/pflag"

	"github.com/balsamq/balsa/broker"
)

// What the brokers do without these flags (broker.Config).
var usualGroups = broker.Config{
	GroupInitialRebalanceDelay: 3 * time.Second, GroupMinSession: 6 * time.Second, GroupMaxSession: 30 * time.Minute, OffsetsRetention: 7 * 24 * time.Hour,
	TxnMaxTimeout: 15 * time.Minute, TxnIDExpiration: 7 * 24 * time.Hour, ProducerIDExpiration: 24 * time.Hour, OffsetsPartitions: 16, TxnPartitions: 16,
}

func groupFlags(f *pflag.FlagSet, c *broker.Config) {
	u := &usualGroups
	f.DurationVar(&c.GroupInitialRebalanceDelay, "group-initial-rebalance-delay", u.GroupInitialRebalanceDelay, "how long an empty consumer group waits for more members after the first; 0: it does not") // group.initial.rebalance.delay.ms
	f.DurationVar(&c.GroupMinSession, "group-min-session-timeout", u.GroupMinSession, "the shortest session timeout that a group's member may ask for")                                                    // group.min.session.timeout.ms
	f.DurationVar(&c.GroupMaxSession, "group-max-session-timeout", u.GroupMaxSession, "the longest session timeout that a group's member may ask for")                                                     // group.max.session.timeout.ms
	f.IntVar(&c.GroupMaxSize, "group-max-size", u.GroupMaxSize, "members that a group may have; 0: as many as fit into 8 MiB")                                                                             // group.max.size
	f.DurationVar(&c.OffsetsRetention, "offsets-retention", u.OffsetsRetention, "how long committed offsets are kept after their group became empty")                                                      // offsets.retention.minutes
	f.Int32Var(&c.OffsetsPartitions, "offsets-partitions", u.OffsetsPartitions, "partitions of __consumer_offsets, when it is made")                                                                       // offsets.topic.num.partitions
	f.Int32Var(&c.TxnPartitions, "txn-partitions", u.TxnPartitions, "partitions of __transaction_state, when it is made")                                                                                  // transaction.state.log.num.partitions
	f.DurationVar(&c.TxnMaxTimeout, "txn-max-timeout", u.TxnMaxTimeout, "the longest timeout that a transactional producer may ask for")                                                                   // transaction.max.timeout.ms
	f.DurationVar(&c.TxnIDExpiration, "txn-id-expiration", u.TxnIDExpiration, "how long a transactional id without a transaction is remembered")                                                           // transactional.id.expiration.ms
	f.DurationVar(&c.ProducerIDExpiration, "producer-id-expiration", u.ProducerIDExpiration, "how long an idle producer's sequence numbers are remembered")                                                // producer.id.expiration.ms
}

// unusualGroups takes out of a configuration what groupFlags has left as usual. A 0, which would mean that to the broker, is refused, but for the delay.
func unusualGroups(c *broker.Config) error {
	u := &usualGroups
	err := errors.Join(
		unusual("group-min-session-timeout", &c.GroupMinSession, u.GroupMinSession), unusual("group-max-session-timeout", &c.GroupMaxSession, u.GroupMaxSession),
		unusual("offsets-retention", &c.OffsetsRetention, u.OffsetsRetention), unusual("offsets-partitions", &c.OffsetsPartitions, u.OffsetsPartitions),
		unusual("txn-partitions", &c.TxnPartitions, u.TxnPartitions), unusual("txn-max-timeout", &c.TxnMaxTimeout, u.TxnMaxTimeout),
		unusual("txn-id-expiration", &c.TxnIDExpiration, u.TxnIDExpiration), unusual("producer-id-expiration", &c.ProducerIDExpiration, u.ProducerIDExpiration))
	if delay := &c.GroupInitialRebalanceDelay; *delay == 0 {
		*delay = -1
	} else {
		err = errors.Join(err, unusual("group-initial-rebalance-delay", delay, u.GroupInitialRebalanceDelay))
	}
	return err
}

func unusual[T ~int32 | ~int64](flag string, value *T, usual T) error {
	if *value == usual {
		*value = 0
	} else if *value <= 0 {
		return fmt.Errorf("%w: --%s %v is not positive", broker.ErrConfig, flag, *value)
	}
	return nil
}

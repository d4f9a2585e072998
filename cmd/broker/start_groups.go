// Settings of `broker start` for consumer groups and transactions: Kafka has most of them under the names that the comments give. What is left
// at its default is not handed on, so that DescribeConfigs shows it as a default.

package main

import (
	"time"

	"github.com/spf13/pflag"

	"github.com/balsamq/balsa/broker"
)

type startGroups struct {
	delay, minSession, maxSession, retention, txnTimeout, txnID, producerID time.Duration

	maxSize       int
	offsets, txns int32
}

// What the brokers do without these flags (broker.Config).
var usualGroups = startGroups{
	delay: 3 * time.Second, minSession: 6 * time.Second, maxSession: 30 * time.Minute, retention: 7 * 24 * time.Hour,
	txnTimeout: 15 * time.Minute, txnID: 7 * 24 * time.Hour, producerID: 24 * time.Hour, offsets: 16, txns: 16,
}

func (g *startGroups) flags(f *pflag.FlagSet) {
	u := &usualGroups
	f.DurationVar(&g.delay, "group-initial-rebalance-delay", u.delay, "how long an empty consumer group waits for more members after the first; 0: it does not") // group.initial.rebalance.delay.ms
	f.DurationVar(&g.minSession, "group-min-session-timeout", u.minSession, "the shortest session timeout that a group's member may ask for")                    // group.min.session.timeout.ms
	f.DurationVar(&g.maxSession, "group-max-session-timeout", u.maxSession, "the longest session timeout that a group's member may ask for")                     // group.max.session.timeout.ms
	f.IntVar(&g.maxSize, "group-max-size", u.maxSize, "members that a group may have; 0: as many as fit into 8 MiB")                                             // group.max.size
	f.DurationVar(&g.retention, "offsets-retention", u.retention, "how long committed offsets are kept after their group became empty")                          // offsets.retention.minutes
	f.Int32Var(&g.offsets, "offsets-partitions", u.offsets, "partitions of __consumer_offsets, when it is made")                                                 // offsets.topic.num.partitions
	f.Int32Var(&g.txns, "txn-partitions", u.txns, "partitions of __transaction_state, when it is made")                                                          // transaction.state.log.num.partitions
	f.DurationVar(&g.txnTimeout, "txn-max-timeout", u.txnTimeout, "the longest timeout that a transactional producer may ask for")                               // transaction.max.timeout.ms
	f.DurationVar(&g.txnID, "txn-id-expiration", u.txnID, "how long a transactional id without a transaction is remembered")                                     // transactional.id.expiration.ms
	f.DurationVar(&g.producerID, "producer-id-expiration", u.producerID, "how long an idle producer's sequence numbers are remembered")                          // producer.id.expiration.ms
}

func (g *startGroups) apply(cfg *broker.Config) {
	u := &usualGroups
	unusual(&cfg.GroupInitialRebalanceDelay, g.delay, u.delay)
	unusual(&cfg.GroupMinSession, g.minSession, u.minSession)
	unusual(&cfg.GroupMaxSession, g.maxSession, u.maxSession)
	unusual(&cfg.GroupMaxSize, g.maxSize, u.maxSize)
	unusual(&cfg.OffsetsRetention, g.retention, u.retention)
	unusual(&cfg.OffsetsPartitions, g.offsets, u.offsets)
	unusual(&cfg.TxnPartitions, g.txns, u.txns)
	unusual(&cfg.TxnMaxTimeout, g.txnTimeout, u.txnTimeout)
	unusual(&cfg.TxnIDExpiration, g.txnID, u.txnID)
	unusual(&cfg.ProducerIDExpiration, g.producerID, u.producerID)
}

// unusual hands a value on that is not the usual one. A 0 would mean that to the broker: it gets -1, which is no delay, or refused.
func unusual[T ~int | ~int32 | ~int64](to *T, value, usual T) {
	switch {
	case value == usual:
	case value == 0:
		*to = -1
	default:
		*to = value
	}
}

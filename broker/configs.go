// Kafka's configs: which there are, what this broker does with each, and which values it takes. The one table behind
// CreateTopics, DescribeConfigs, AlterConfigs and the handlers' own defaults. See docs/design/0020-configs-and-quotas.md.

package broker

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/balsamq/balsa/coordinator"
	"github.com/balsamq/balsa/partition"
)

// unset stands for a default of null.
const unset = "\x00"

// obedience is what this broker does with a config.
type obedience uint8

const (
	// fixed, the zero value: another value than the default would promise something that is not there, so it is refused, with why.
	fixed obedience = iota
	// obeyed: it does what it says.
	obeyed
)

// configDef is one config.
type configDef struct {
	name string
	typ  kmsg.ConfigType
	def  string // unset: null
	doc  string
	does obedience
	why  string // fixed: what is missing
	// broker is, for a topic config, the broker config that gives the default.
	broker string
	// dynamic: a broker config that can be set while the broker runs, for one broker or for all.
	dynamic bool
	// valid is a check that type, range and enumeration cannot express; nil: none.
	valid func(value string) error
	// allowed are the values of an enumeration; least and most bound a number.
	allowed     []string
	least, most int64
}

// readConsistency is the config of that name, of topics and, as their default, of brokers.
const readConsistency = "balsa.read.consistency"

// untiered is what is missing for some configs.
const untiered = "there is no tiered storage"

// topicConfigDefs are the topic configs, sorted by name.
var topicConfigDefs = []configDef{
	{name: coordinator.ConditionalAppend, typ: kmsg.ConfigTypeBoolean, def: "false", does: obeyed,
		doc: "Whether a record may carry a condition on its key's last record (header balsa.expect), and keys can be looked up. Given when the topic is created; needs cleanup.policy=compact."},
	{name: coordinator.Durability, typ: kmsg.ConfigTypeString, def: "quorum", does: obeyed, allowed: []string{"quorum", coordinator.DurabilityRelaxed},
		doc: "quorum: acks=all means on the disks of a majority of the replicas. relaxed: written by a majority, on their disks a second or two later. Killed processes lose nothing; should the machines of a majority crash within that time, the partition waits for 'broker partition reset-peers'."},
	{name: readConsistency, typ: kmsg.ConfigTypeString, def: ReadLease, broker: readConsistency, does: obeyed, allowed: []string{ReadLease, ReadQuorum},
		doc: "What confirms an answer that speaks of the log's end. lease: the leader's lease, and a quorum only without one. quorum: a quorum each time, so that no clock matters."},
	{name: "cleanup.policy", typ: kmsg.ConfigTypeList, def: "delete", broker: "log.cleanup.policy", does: obeyed, allowed: []string{"delete", "compact"},
		doc: "What becomes of old records: delete drops whole segments, compact keeps the newest record of each key; both may be given. Neither, the empty list, keeps all."},
	{name: "compression.gzip.level", typ: kmsg.ConfigTypeInt, def: "-1", broker: "compression.gzip.level", does: obeyed, least: -1, most: 9, valid: checkGzipLevel,
		doc: "The level that compression.type=gzip compresses at, 1 to 9. -1: gzip's own."},
	{name: "compression.lz4.level", typ: kmsg.ConfigTypeInt, def: "9", broker: "compression.lz4.level", does: obeyed, least: 1, most: 17,
		doc: "The level that compression.type=lz4 compresses at. 9 is the fast one, as in Kafka."},
	{name: "compression.type", typ: kmsg.ConfigTypeString, def: "producer", broker: "compression.type", does: obeyed,
		allowed: []string{"uncompressed", "zstd", "lz4", "snappy", "gzip", "producer"},
		doc:     "producer: batches stay as the producer compressed them. Else the leader compresses those anew that came with another codec."},
	{name: "compression.zstd.level", typ: kmsg.ConfigTypeInt, def: "3", broker: "compression.zstd.level", does: obeyed, least: -131072, most: 22,
		doc: "The level that compression.type=zstd compresses at."},
	{name: "delete.retention.ms", typ: kmsg.ConfigTypeLong, def: "86400000", broker: "log.cleaner.delete.retention.ms", does: obeyed, most: math.MaxInt64,
		doc: "How long compaction keeps tombstones after all that they delete is gone. No effect without compaction."},
	{name: "file.delete.delay.ms", typ: kmsg.ConfigTypeLong, def: "60000", broker: "log.segment.delete.delay.ms", does: obeyed, most: math.MaxInt64,
		doc: "How long the files of dropped segments are kept for those who still read them. Here until their last reader is done, whatever this says."},
	{name: "flush.messages", typ: kmsg.ConfigTypeLong, def: "9223372036854775807", broker: "log.flush.interval.messages", least: 1, most: math.MaxInt64,
		doc: "After how much a log is synced at the latest. What is acknowledged with acks=all is on the disks of a majority, which is sooner than any interval.", does: obeyed},
	{name: "flush.ms", typ: kmsg.ConfigTypeLong, def: "9223372036854775807", broker: "log.flush.interval.ms", most: math.MaxInt64,
		doc: "After how much a log is synced at the latest. What is acknowledged with acks=all is on the disks of a majority, which is sooner than any interval.", does: obeyed},
	{name: "follower.replication.throttled.replicas", typ: kmsg.ConfigTypeList, def: "", does: obeyed, valid: checkThrottledReplicas,
		doc: "Which replicas, as PARTITION:BROKER,... or *, are filled within their broker's follower.replication.throttled.rate while they do not keep up."},
	{name: "index.interval.bytes", typ: kmsg.ConfigTypeInt, def: "4096", broker: "log.index.interval.bytes", does: obeyed, most: math.MaxInt32,
		doc: "The distance between entries of the sparse index, which has its own spacing here, whatever this says."},
	{name: "leader.replication.throttled.replicas", typ: kmsg.ConfigTypeList, def: "", does: obeyed, valid: checkThrottledReplicas,
		doc: "Which leaders, as PARTITION:BROKER,... or *, fill replicas that do not keep up within the broker's leader.replication.throttled.rate."},
	{name: "local.retention.bytes", typ: kmsg.ConfigTypeLong, def: "-2", broker: "log.local.retention.bytes", least: -2, most: math.MaxInt64,
		doc: "For tiered storage, which there is none of.", why: untiered},
	{name: "local.retention.ms", typ: kmsg.ConfigTypeLong, def: "-2", broker: "log.local.retention.ms", least: -2, most: math.MaxInt64,
		doc: "For tiered storage, which there is none of.", why: untiered},
	{name: "max.compaction.lag.ms", typ: kmsg.ConfigTypeLong, def: "9223372036854775807", broker: "log.cleaner.max.compaction.lag.ms", does: obeyed, least: 1,
		most: math.MaxInt64, doc: "Records older than this are compacted however little of the log is dirty. No effect without compaction."},
	{name: "max.message.bytes", typ: kmsg.ConfigTypeInt, def: strconv.Itoa(partition.DefaultMaxMessageBytes), broker: "message.max.bytes", does: obeyed,
		most: partition.MaxBatchBytes, doc: "The largest record batch that is accepted, in bytes, as compressed by the producer."},
	{name: "message.timestamp.after.max.ms", typ: kmsg.ConfigTypeLong, def: "3600000", broker: "log.message.timestamp.after.max.ms", does: obeyed,
		most: math.MaxInt64, doc: "How far a record's timestamp may be ahead of the broker's clock. CreateTime only."},
	{name: "message.timestamp.before.max.ms", typ: kmsg.ConfigTypeLong, def: "9223372036854775807", broker: "log.message.timestamp.before.max.ms",
		does: obeyed, most: math.MaxInt64, doc: "How far a record's timestamp may be behind the broker's clock. CreateTime only."},
	{name: "message.timestamp.type", typ: kmsg.ConfigTypeString, def: "CreateTime", broker: "log.message.timestamp.type", does: obeyed,
		allowed: []string{"CreateTime", "LogAppendTime"}, doc: "CreateTime keeps the producer's timestamps, LogAppendTime takes the leader's clock at the append."},
	{name: "min.cleanable.dirty.ratio", typ: kmsg.ConfigTypeDouble, def: "0.5", broker: "log.cleaner.min.cleanable.ratio", does: obeyed, most: 1,
		doc: "The part of the log that must be dirty before it is compacted. No effect without compaction."},
	{name: "min.compaction.lag.ms", typ: kmsg.ConfigTypeLong, def: "0", broker: "log.cleaner.min.compaction.lag.ms", does: obeyed, most: math.MaxInt64,
		doc: "Younger records are not compacted. No effect without compaction."},
	{name: "min.insync.replicas", typ: kmsg.ConfigTypeInt, def: "1", broker: "min.insync.replicas", does: obeyed, least: 1, most: coordinator.MaxReplicationFactor,
		doc: "How many replicas must have a batch before acks=all is answered. A majority is the floor, whatever the value."},
	{name: "preallocate", typ: kmsg.ConfigTypeBoolean, def: "false", broker: "log.preallocate", doc: "Whether segment files are laid out ahead. They are in either case.", does: obeyed},
	{name: "remote.log.copy.disable", typ: kmsg.ConfigTypeBoolean, def: "false", doc: "For tiered storage, which there is none of.", why: untiered},
	{name: "remote.log.delete.on.disable", typ: kmsg.ConfigTypeBoolean, def: "false", doc: "For tiered storage, which there is none of.", why: untiered},
	{name: "remote.storage.enable", typ: kmsg.ConfigTypeBoolean, def: "false", why: untiered, doc: "Whether old segments go to tiered storage, which there is none of."},
	{name: "retention.bytes", typ: kmsg.ConfigTypeLong, def: "-1", broker: "log.retention.bytes", does: obeyed, least: -1, most: math.MaxInt64,
		doc: "How large a partition may grow before its oldest segments are dropped, in bytes. -1: no limit."},
	{name: "retention.ms", typ: kmsg.ConfigTypeLong, def: "604800000", broker: "log.retention.ms", does: obeyed, least: -1, most: math.MaxInt64,
		doc: "How long records are kept, by the largest timestamp of their segment. -1: for ever."},
	{name: "segment.bytes", typ: kmsg.ConfigTypeInt, def: "134217728", broker: "log.segment.bytes", does: obeyed, least: 14, most: math.MaxInt32,
		doc: "The size at which a segment file is closed; at least 64 KiB, whatever the value. Records are dropped by whole segments."},
	{name: "segment.index.bytes", typ: kmsg.ConfigTypeInt, def: "10485760", broker: "log.index.size.max.bytes", does: obeyed, least: 4, most: math.MaxInt32,
		doc: "The size of a segment's index, which is as large as it must be here, whatever this says."},
	{name: "segment.jitter.ms", typ: kmsg.ConfigTypeLong, def: "0", broker: "log.roll.jitter.ms", does: obeyed, most: math.MaxInt64,
		doc: "By how much segment.ms is shortened at most, for each partition by another part of it, so that not all roll at once."},
	{name: "segment.ms", typ: kmsg.ConfigTypeLong, def: "604800000", broker: "log.roll.ms", does: obeyed, least: 1, most: math.MaxInt64,
		doc: "The age at which a segment file is closed, so that retention can drop it."},
	{name: "unclean.leader.election.enable", typ: kmsg.ConfigTypeBoolean, def: "false", broker: "unclean.leader.election.enable",
		why: "a replica that may lack acknowledged records never leads by itself; 'broker partition reset-peers' is for a majority that is gone for good",
		doc: "Whether a replica that may lack acknowledged records may lead."},
}

// obeyedBrokerConfigs are the broker configs that do what they say. The others of kafkaConfigs are listed only.
var obeyedBrokerConfigs = map[string]string{
	"advertised.listeners":                           "The addresses that clients are told to connect to.",
	"auto.leader.rebalance.enable":                   "Whether leadership goes back to the preferred replicas by itself.",
	"auto.create.topics.enable":                      "Whether a topic that a client asks for, and that does not exist, is created.",
	readConsistency:                                  "Default of the topic config balsa.read.consistency; also of the cluster's metadata and of committed offsets.",
	"broker.rack":                                    "The rack of this broker: replicas of a partition avoid to share one.",
	"connections.max.idle.ms":                        "How long a connection may be idle before it is closed.",
	"default.replication.factor":                     "Replicas of a topic whose creator says nothing. Without a value: 3, or as many as there are live brokers.",
	"delete.topic.enable":                            "Whether topics may be deleted.",
	"fetch.max.bytes":                                "The most that one fetch answers, in bytes, whatever the client asks for.",
	"group.consumer.heartbeat.interval.ms":           "How often members of groups of the new protocol heartbeat.",
	"group.consumer.max.size":                        "How many members a group of the new protocol may have.",
	"group.consumer.migration.policy":                "Which groups may change their protocol while they have members.",
	"group.consumer.session.timeout.ms":              "How long a member of a group of the new protocol may be silent.",
	"group.initial.rebalance.delay.ms":               "How long an empty consumer group waits for more members after the first.",
	"group.max.session.timeout.ms":                   "The longest session timeout that a member may ask for.",
	"group.max.size":                                 "How many members a group may have.",
	"group.min.session.timeout.ms":                   "The shortest session timeout that a member may ask for.",
	"leader.imbalance.check.interval.seconds":        "How often leadership is looked at, and how long a broker must have been back before it gets any.",
	"listeners":                                      "The addresses that this broker listens on for clients.",
	"log.cleaner.backoff.ms":                         "How long the cleaner rests when nothing is left to compact.",
	"log.cleaner.dedupe.buffer.size":                 "The cleaner's memory for keys, in bytes: 24 for each.",
	"log.cleaner.enable":                             "Whether logs are compacted.",
	"log.cleaner.io.max.bytes.per.second":            "How many bytes the cleaner reads and writes in a second.",
	"log.dirs":                                       "The data directory.",
	"log.message.timestamp.after.max.ms":             "Default of the topic config message.timestamp.after.max.ms.",
	"log.message.timestamp.before.max.ms":            "Default of the topic config message.timestamp.before.max.ms.",
	"log.message.timestamp.type":                     "Default of the topic config message.timestamp.type.",
	"log.retention.check.interval.ms":                "How often old records are looked for.",
	"log.segment.bytes":                              "Default of the topic config segment.bytes.",
	"max.connections":                                "How many client connections may be open.",
	"max.connections.per.ip":                         "How many client connections one address may have open.",
	"max.incremental.fetch.session.cache.slots":      "How many fetch sessions are kept.",
	"message.max.bytes":                              "Default of the topic config max.message.bytes.",
	"min.insync.replicas":                            "Default of the topic config min.insync.replicas.",
	"node.id":                                        "This broker's id.",
	"num.partitions":                                 "Partitions of a topic whose creator says nothing.",
	"offset.metadata.max.bytes":                      "The longest metadata that may be committed with an offset.",
	"offsets.retention.minutes":                      "How long committed offsets are kept after their group became empty.",
	"offsets.topic.num.partitions":                   "Partitions of __consumer_offsets.",
	"replica.selector.class":                         "Which replica a consumer that names its rack is sent to.",
	"follower.replication.throttled.rate":            "How many bytes a second leaders send to this broker's replicas that do not keep up, of those that follower.replication.throttled.replicas of their topic names.",
	"leader.replication.throttled.rate":              "How many bytes a second this broker sends to replicas that do not keep up, of partitions that it leads and for which leader.replication.throttled.replicas of their topic names it.",
	"log.flush.interval.messages":                    "Default of the topic config flush.messages.",
	"log.flush.interval.ms":                          "Default of the topic config flush.ms.",
	"log.preallocate":                                "Default of the topic config preallocate.",
	"log.retention.bytes":                            "Default of the topic config retention.bytes.",
	"log.retention.ms":                               "Default of the topic config retention.ms. Without a value: 7 days.",
	"log.roll.jitter.ms":                             "Default of the topic config segment.jitter.ms.",
	"log.roll.ms":                                    "Default of the topic config segment.ms. Without a value: 7 days.",
	"max.connection.creation.rate":                   "How many client connections a second this broker accepts.",
	"max.connections.per.ip.overrides":               "Bounds for single addresses, as HOST:NUMBER,..., in place of max.connections.per.ip.",
	"replica.alter.log.dirs.io.max.bytes.per.second": "How fast replicas move between the data directories of a broker. There is one directory, so none ever does.",
	"sasl.kerberos.min.time.before.relogin":          "How often Kerberos is asked for a new ticket. There is no Kerberos, so nobody ever does.",
	"sasl.kerberos.ticket.renew.jitter":              "As sasl.kerberos.min.time.before.relogin.",
	"sasl.kerberos.ticket.renew.window.factor":       "As sasl.kerberos.min.time.before.relogin.",
	"socket.request.max.bytes":                       "The largest request that is read.",
	"producer.id.expiration.ms":                      "How long an idle producer's sequence numbers are remembered.",
	"transaction.max.timeout.ms":                     "The longest timeout that a transactional producer may ask for.",
	"transaction.state.log.num.partitions":           "Partitions of __transaction_state.",
	"transactional.id.expiration.ms":                 "How long a transactional id without a transaction is remembered.",
}

// topicConfigByName finds a topic config; nil if there is none.
func topicConfigByName(name string) *configDef {
	i, ok := slices.BinarySearchFunc(topicConfigDefs, name, func(d configDef, name string) int { return strings.Compare(d.name, name) })
	if !ok {
		return nil
	}
	return &topicConfigDefs[i]
}

// checkTopicConfig refuses a topic config that does not exist, a value that is none of its type, and a value that would
// promise what is not there.
func checkTopicConfig(name, value string) error {
	d := topicConfigByName(name)
	if d == nil {
		return refuse(kerr.InvalidConfig, fmt.Sprintf("unknown topic config %q", name))
	}
	if err := d.check(value); err != nil {
		return refuse(kerr.InvalidConfig, fmt.Sprintf("invalid value %q for %s: %v", value, name, err))
	}
	return d.possible(value)
}

// possible refuses a value that would promise what is not there.
func (d *configDef) possible(value string) error {
	if d.does != fixed || d.canonical(value) == d.canonical(d.def) {
		return nil
	}
	def := d.def
	if def == unset {
		def = "unset"
	}
	return refuse(kerr.InvalidConfig, fmt.Sprintf("%s=%s is not supported: %s; leave it at %s", d.name, value, d.why, cmp.Or(def, "its default, empty")))
}

// check holds a value against the config's type and range.
func (d *configDef) check(value string) error {
	value = d.canonical(value)
	if d.valid != nil {
		return d.valid(value)
	}
	switch d.typ {
	case kmsg.ConfigTypeBoolean:
		if value != "true" && value != "false" {
			return fmt.Errorf("it is true or false")
		}
	case kmsg.ConfigTypeInt, kmsg.ConfigTypeShort, kmsg.ConfigTypeLong:
		bits := map[kmsg.ConfigType]int{kmsg.ConfigTypeShort: 16, kmsg.ConfigTypeInt: 32, kmsg.ConfigTypeLong: 64}[d.typ]
		n, err := strconv.ParseInt(value, 10, bits)
		if err != nil {
			return fmt.Errorf("it is a whole number of %d bits", bits)
		}
		if n < d.least || n > d.most {
			return fmt.Errorf("allowed are %d to %d", d.least, d.most)
		}
	case kmsg.ConfigTypeDouble:
		f, err := parseDouble(value)
		if err != nil || math.IsNaN(f) || f < float64(d.least) || f > float64(d.most) {
			return fmt.Errorf("it is a number from %d to %d", d.least, d.most)
		}
	case kmsg.ConfigTypeList:
		if len(d.allowed) > 0 && value != "" { // the empty list has no elements
			for v := range strings.SplitSeq(value, ",") {
				if !slices.Contains(d.allowed, strings.TrimSpace(v)) {
					return fmt.Errorf("its elements are %s", strings.Join(d.allowed, ", "))
				}
			}
		}
	case kmsg.ConfigTypeString:
		if len(d.allowed) > 0 && !slices.Contains(d.allowed, value) {
			return fmt.Errorf("it is one of %s", strings.Join(d.allowed, ", "))
		}
	}
	return nil
}

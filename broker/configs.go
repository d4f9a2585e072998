// Kafka's configs: which there are, what this broker does with each, and which values it takes. The one table behind
// CreateTopics, DescribeConfigs and the handlers' own defaults.

package broker

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"

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
	// The zero value, listed: Kafka's, without a meaning here; it is there so that tools find it. A topic may set it to
	// anything valid, as nothing that was promised depends on it.
	_ obedience = iota
	// obeyed: it does what it says.
	obeyed
	// fixed: another value than the default would promise something that is not there, so it is refused, with why.
	fixed
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
	// allowed are the values of an enumeration; least and most bound a number.
	allowed     []string
	least, most int64
}

// readConsistency is the config of that name, of topics and, as their default, of brokers.
const readConsistency = "balsa.read.consistency"

// topicConfigDefs are the topic configs, sorted by name.
var topicConfigDefs = []configDef{
	{name: "balsa.durability", typ: kmsg.ConfigTypeString, def: "quorum", does: fixed, allowed: []string{"quorum", "relaxed"},
		why: "relaxed durability is not there yet",
		doc: "quorum: acks=all means on the disks of a majority of the replicas. relaxed would acknowledge from memory."},
	{name: readConsistency, typ: kmsg.ConfigTypeString, def: ReadLease, broker: readConsistency, does: obeyed, allowed: []string{ReadLease, ReadQuorum},
		doc: "What confirms an answer that speaks of the log's end. lease: the leader's lease, and a quorum only without one. quorum: a quorum each time, so that no clock matters."},
	{name: "cleanup.policy", typ: kmsg.ConfigTypeList, def: "delete", broker: "log.cleanup.policy", does: fixed, allowed: []string{"delete", "compact"},
		why: "compaction of user topics is not there yet", doc: "What becomes of old records: delete drops whole segments."},
	{name: "compression.gzip.level", typ: kmsg.ConfigTypeInt, def: "-1", broker: "compression.gzip.level", does: obeyed, least: -1, most: 9,
		doc: "The level that compression.type=gzip compresses at, 1 to 9. -1: gzip's own."},
	{name: "compression.lz4.level", typ: kmsg.ConfigTypeInt, def: "9", broker: "compression.lz4.level", does: obeyed, least: 1, most: 17,
		doc: "The level that compression.type=lz4 compresses at. 9 is the fast one, as in Kafka."},
	{name: "compression.type", typ: kmsg.ConfigTypeString, def: "producer", broker: "compression.type", does: obeyed,
		allowed: []string{"uncompressed", "zstd", "lz4", "snappy", "gzip", "producer"},
		doc:     "producer: batches stay as the producer compressed them. Else the leader compresses those anew that came with another codec."},
	{name: "compression.zstd.level", typ: kmsg.ConfigTypeInt, def: "3", broker: "compression.zstd.level", does: obeyed, least: -131072, most: 22,
		doc: "The level that compression.type=zstd compresses at."},
	{name: "delete.retention.ms", typ: kmsg.ConfigTypeLong, def: "86400000", broker: "log.cleaner.delete.retention.ms", most: math.MaxInt64,
		doc: "How long compaction keeps tombstones. No effect without compaction."},
	{name: "file.delete.delay.ms", typ: kmsg.ConfigTypeLong, def: "60000", broker: "log.segment.delete.delay.ms", most: math.MaxInt64,
		doc: "No effect: dropped segments are deleted when their last reader is done."},
	{name: "flush.messages", typ: kmsg.ConfigTypeLong, def: "9223372036854775807", broker: "log.flush.interval.messages", least: 1, most: math.MaxInt64,
		doc: "No effect: what is acknowledged with acks=all is on the disks of a majority, whatever the interval."},
	{name: "flush.ms", typ: kmsg.ConfigTypeLong, def: "9223372036854775807", broker: "log.flush.interval.ms", most: math.MaxInt64,
		doc: "No effect: what is acknowledged with acks=all is on the disks of a majority, whatever the interval."},
	{name: "follower.replication.throttled.replicas", typ: kmsg.ConfigTypeList, def: "", doc: "No effect: replication is not throttled."},
	{name: "index.interval.bytes", typ: kmsg.ConfigTypeInt, def: "4096", broker: "log.index.interval.bytes", most: math.MaxInt32,
		doc: "No effect: the sparse index has its own spacing."},
	{name: "leader.replication.throttled.replicas", typ: kmsg.ConfigTypeList, def: "", doc: "No effect: replication is not throttled."},
	{name: "local.retention.bytes", typ: kmsg.ConfigTypeLong, def: "-2", broker: "log.local.retention.bytes", least: -2, most: math.MaxInt64,
		doc: "No effect: there is no tiered storage."},
	{name: "local.retention.ms", typ: kmsg.ConfigTypeLong, def: "-2", broker: "log.local.retention.ms", least: -2, most: math.MaxInt64,
		doc: "No effect: there is no tiered storage."},
	{name: "max.compaction.lag.ms", typ: kmsg.ConfigTypeLong, def: "9223372036854775807", broker: "log.cleaner.max.compaction.lag.ms", least: 1,
		most: math.MaxInt64, doc: "No effect without compaction."},
	{name: "max.message.bytes", typ: kmsg.ConfigTypeInt, def: strconv.Itoa(partition.DefaultMaxMessageBytes), broker: "message.max.bytes", does: obeyed,
		most: partition.MaxBatchBytes, doc: "The largest record batch that is accepted, in bytes, as compressed by the producer."},
	{name: "message.timestamp.after.max.ms", typ: kmsg.ConfigTypeLong, def: "3600000", broker: "log.message.timestamp.after.max.ms", does: obeyed,
		most: math.MaxInt64, doc: "How far a record's timestamp may be ahead of the broker's clock. CreateTime only."},
	{name: "message.timestamp.before.max.ms", typ: kmsg.ConfigTypeLong, def: "9223372036854775807", broker: "log.message.timestamp.before.max.ms",
		does: obeyed, most: math.MaxInt64, doc: "How far a record's timestamp may be behind the broker's clock. CreateTime only."},
	{name: "message.timestamp.type", typ: kmsg.ConfigTypeString, def: "CreateTime", broker: "log.message.timestamp.type", does: obeyed,
		allowed: []string{"CreateTime", "LogAppendTime"}, doc: "CreateTime keeps the producer's timestamps, LogAppendTime takes the leader's clock at the append."},
	{name: "min.cleanable.dirty.ratio", typ: kmsg.ConfigTypeDouble, def: "0.5", broker: "log.cleaner.min.cleanable.ratio", most: 1,
		doc: "No effect without compaction."},
	{name: "min.compaction.lag.ms", typ: kmsg.ConfigTypeLong, def: "0", broker: "log.cleaner.min.compaction.lag.ms", most: math.MaxInt64,
		doc: "No effect without compaction."},
	{name: "min.insync.replicas", typ: kmsg.ConfigTypeInt, def: "1", broker: "min.insync.replicas", does: obeyed, least: 1, most: coordinator.MaxReplicationFactor,
		doc: "How many replicas must have a batch before acks=all is answered. A majority is the floor, whatever the value."},
	{name: "preallocate", typ: kmsg.ConfigTypeBoolean, def: "false", broker: "log.preallocate", doc: "No effect: segment files always are laid out ahead."},
	{name: "remote.log.copy.disable", typ: kmsg.ConfigTypeBoolean, def: "false", doc: "No effect: there is no tiered storage."},
	{name: "remote.log.delete.on.disable", typ: kmsg.ConfigTypeBoolean, def: "false", doc: "No effect: there is no tiered storage."},
	{name: "remote.storage.enable", typ: kmsg.ConfigTypeBoolean, def: "false", does: fixed, why: "there is no tiered storage", doc: "There is no tiered storage."},
	{name: "retention.bytes", typ: kmsg.ConfigTypeLong, def: "-1", does: obeyed, least: -1, most: math.MaxInt64,
		doc: "How large a partition may grow before its oldest segments are dropped, in bytes. -1: no limit."},
	{name: "retention.ms", typ: kmsg.ConfigTypeLong, def: "604800000", does: obeyed, least: -1, most: math.MaxInt64,
		doc: "How long records are kept, by the largest timestamp of their segment. -1: for ever."},
	{name: "segment.bytes", typ: kmsg.ConfigTypeInt, def: "1073741824", broker: "log.segment.bytes", does: obeyed, least: 14, most: math.MaxInt32,
		doc: "The size at which a segment file is closed; at least 64 KiB, whatever the value. Records are dropped by whole segments."},
	{name: "segment.index.bytes", typ: kmsg.ConfigTypeInt, def: "10485760", broker: "log.index.size.max.bytes", least: 4, most: math.MaxInt32,
		doc: "No effect: the index is as large as it must be."},
	{name: "segment.jitter.ms", typ: kmsg.ConfigTypeLong, def: "0", broker: "log.roll.jitter.ms", most: math.MaxInt64, doc: "No effect."},
	{name: "segment.ms", typ: kmsg.ConfigTypeLong, def: "604800000", does: obeyed, least: 1, most: math.MaxInt64,
		doc: "The age at which a segment file is closed, so that retention can drop it."},
	{name: "unclean.leader.election.enable", typ: kmsg.ConfigTypeBoolean, def: "false", broker: "unclean.leader.election.enable",
		doc: "No effect: a replica that may lack acknowledged records never leads."},
}

// obeyedBrokerConfigs are the broker configs that do what they say. The others of kafkaConfigs are listed only.
var obeyedBrokerConfigs = map[string]string{
	"advertised.listeners":                      "The addresses that clients are told to connect to.",
	"auto.leader.rebalance.enable":              "Whether leadership goes back to the preferred replicas by itself.",
	"auto.create.topics.enable":                 "Whether a topic that a client asks for, and that does not exist, is created.",
	readConsistency:                             "Default of the topic config balsa.read.consistency; also of the cluster's metadata and of committed offsets.",
	"broker.rack":                               "The rack of this broker: replicas of a partition avoid to share one.",
	"connections.max.idle.ms":                   "How long a connection may be idle before it is closed.",
	"default.replication.factor":                "Replicas of a topic whose creator says nothing. Without a value: 3, or as many as there are live brokers.",
	"delete.topic.enable":                       "Whether topics may be deleted.",
	"fetch.max.bytes":                           "The most that one fetch answers, in bytes, whatever the client asks for.",
	"group.consumer.heartbeat.interval.ms":      "How often members of groups of the new protocol heartbeat.",
	"group.consumer.max.size":                   "How many members a group of the new protocol may have.",
	"group.consumer.migration.policy":           "Which groups may change their protocol while they have members.",
	"group.consumer.session.timeout.ms":         "How long a member of a group of the new protocol may be silent.",
	"group.initial.rebalance.delay.ms":          "How long an empty consumer group waits for more members after the first.",
	"group.max.session.timeout.ms":              "The longest session timeout that a member may ask for.",
	"group.max.size":                            "How many members a group may have.",
	"group.min.session.timeout.ms":              "The shortest session timeout that a member may ask for.",
	"leader.imbalance.check.interval.seconds":   "How often leadership is looked at, and how long a broker must have been back before it gets any.",
	"listeners":                                 "The addresses that this broker listens on for clients.",
	"log.dirs":                                  "The data directory.",
	"log.message.timestamp.after.max.ms":        "Default of the topic config message.timestamp.after.max.ms.",
	"log.message.timestamp.before.max.ms":       "Default of the topic config message.timestamp.before.max.ms.",
	"log.message.timestamp.type":                "Default of the topic config message.timestamp.type.",
	"log.retention.check.interval.ms":           "How often old records are looked for.",
	"log.segment.bytes":                         "Default of the topic config segment.bytes.",
	"max.connections":                           "How many client connections may be open.",
	"max.connections.per.ip":                    "How many client connections one address may have open.",
	"max.incremental.fetch.session.cache.slots": "How many fetch sessions are kept.",
	"message.max.bytes":                         "Default of the topic config max.message.bytes.",
	"min.insync.replicas":                       "Default of the topic config min.insync.replicas.",
	"node.id":                                   "This broker's id.",
	"num.partitions":                            "Partitions of a topic whose creator says nothing.",
	"offset.metadata.max.bytes":                 "The longest metadata that may be committed with an offset.",
	"offsets.retention.minutes":                 "How long committed offsets are kept after their group became empty.",
	"offsets.topic.num.partitions":              "Partitions of __consumer_offsets.",
	"producer.id.expiration.ms":                 "How long an idle producer's sequence numbers are remembered.",
	"replica.selector.class":                    "Which replica a consumer that names its rack is sent to.",
	"socket.request.max.bytes":                  "The largest request that is read.",
	"transaction.max.timeout.ms":                "The longest timeout that a transactional producer may ask for.",
	"transaction.state.log.num.partitions":      "Partitions of __transaction_state.",
	"transactional.id.expiration.ms":            "How long a transactional id without a transaction is remembered.",
}

// sensitiveConfigs are never shown.
func sensitive(d *configDef) bool { return d.typ == kmsg.ConfigTypePassword }

// brokerConfigs is kafkaConfigs as definitions, with balsaConfigs, by name.
var brokerConfigs = sync.OnceValue(func() map[string]*configDef {
	m := make(map[string]*configDef, len(kafkaConfigs)+len(balsaConfigs))
	for i := range balsaConfigs {
		m[balsaConfigs[i].name] = &balsaConfigs[i]
	}
	for _, k := range kafkaConfigs {
		d := &configDef{name: k.name, typ: k.typ, def: k.def, doc: "A config of Apache Kafka. This broker lists it, and does not use it."}
		if doc, ok := obeyedBrokerConfigs[k.name]; ok {
			d.doc, d.does = doc, obeyed
		}
		m[k.name] = d
	}
	return m
})

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
	if d.does == fixed && value != d.def {
		return refuse(kerr.InvalidConfig, fmt.Sprintf("%s=%s is not supported: %s; leave it at %s", name, value, d.why, d.def))
	}
	return nil
}

// check holds a value against the config's type and range.
func (d *configDef) check(value string) error {
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
		f, err := strconv.ParseFloat(value, 64)
		if err != nil || math.IsNaN(f) || f < float64(d.least) || f > float64(d.most) {
			return fmt.Errorf("it is a number from %d to %d", d.least, d.most)
		}
	case kmsg.ConfigTypeList:
		if len(d.allowed) > 0 {
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

// configValue is a config with the value in force and where that comes from.
type configValue struct {
	def      *configDef
	value    string // unset: null
	source   kmsg.ConfigSource
	synonyms []kmsg.DescribeConfigsResponseResourceConfigConfigSynonym // all that could give it, the one in force first
}

func (v *configValue) add(name, value string, source kmsg.ConfigSource) {
	s := kmsg.NewDescribeConfigsResponseResourceConfigConfigSynonym()
	s.Name, s.Source = name, source
	if value != unset && !sensitive(v.def) {
		s.Value = &value
	}
	if len(v.synonyms) == 0 {
		v.value, v.source = value, source
	}
	v.synonyms = append(v.synonyms, s)
}

// brokerConfig is the value of a broker config in force.
func (s *server) brokerConfig(d *configDef) configValue {
	v := configValue{def: d}
	if set, ok := s.b.Config(d.name); ok {
		v.add(d.name, set, kmsg.ConfigSourceStaticBrokerConfig)
	}
	if d.def != unset || len(v.synonyms) == 0 {
		v.add(d.name, d.def, kmsg.ConfigSourceDefaultConfig)
	}
	return v
}

// topicConfigs are all topic configs of a topic, given what was set for it.
func (s *server) topicConfigs(set map[string]string) []configValue {
	list := make([]configValue, 0, len(topicConfigDefs))
	for i := range topicConfigDefs {
		d := &topicConfigDefs[i]
		v := configValue{def: d}
		if value, ok := set[d.name]; ok {
			v.add(d.name, value, kmsg.ConfigSourceDynamicTopicConfig)
		}
		if d.broker != "" {
			if value, ok := s.b.Config(d.broker); ok {
				v.add(d.broker, value, kmsg.ConfigSourceStaticBrokerConfig)
			}
		}
		name := d.name
		if d.broker != "" {
			name = d.broker
		}
		v.add(name, d.def, kmsg.ConfigSourceDefaultConfig)
		list = append(list, v)
	}
	return list
}

// configBool is a boolean broker config in force.
func (s *server) configBool(name string) bool { return s.configText(name) == "true" }

// configInt is a numeric broker config in force.
func (s *server) configInt(name string) int {
	n, err := strconv.Atoi(s.configText(name))
	if err != nil {
		// What the owner has set was checked when it was read; this is for a default that is not a number.
		panic(fmt.Sprintf("broker: config %s=%q is not a number", name, s.configText(name)))
	}
	return n
}

func (s *server) configText(name string) string {
	if v, ok := s.b.Config(name); ok {
		return v
	}
	return brokerConfigs()[name].def
}

// defaultReplication is the replication factor of a topic whose creator says nothing.
func (s *server) defaultReplication(im *coordinator.Image) int {
	if v, ok := s.b.Config("default.replication.factor"); ok {
		if n, err := strconv.Atoi(v); err == nil && n > 0 {
			return n
		}
	}
	return max(1, min(usualReplication, len(im.LiveBrokers())))
}

// usualReplication survives the loss of one broker.
const usualReplication = 3

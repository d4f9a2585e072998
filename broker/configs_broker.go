// The brokers' own configs: Kafka's list with what this broker makes of it, and which of them can be set while it runs.

package broker

import (
	"fmt"
	"math"
	"net"
	"strconv"
	"strings"
	"sync"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/balsamq/balsa/coordinator"
)

// dynamicBrokerConfigs can be set while a broker runs, for one broker or for all; so can those that give a topic config its default.
// What is not there has no range but its type's.
var dynamicBrokerConfigs = map[string]configDef{
	"auto.create.topics.enable":                      {},
	"auto.leader.rebalance.enable":                   {},
	readConsistency:                                  {allowed: []string{ReadLease, ReadQuorum}},
	"connections.max.idle.ms":                        {least: 1000, most: math.MaxInt64 / 1_000_000},
	"default.replication.factor":                     {least: 1, most: coordinator.MaxReplicationFactor},
	"delete.topic.enable":                            {},
	"fetch.max.bytes":                                {least: 1024, most: math.MaxInt32},
	"follower.replication.throttled.rate":            {most: math.MaxInt64},
	"group.consumer.heartbeat.interval.ms":           {least: 1, most: math.MaxInt32},
	"group.consumer.session.timeout.ms":              {least: 1, most: math.MaxInt32},
	"leader.replication.throttled.rate":              {most: math.MaxInt64},
	"log.cleaner.backoff.ms":                         {least: 1, most: math.MaxInt64 / 1_000_000},
	"log.retention.check.interval.ms":                {least: 1, most: math.MaxInt64 / 1_000_000},
	"max.connection.creation.rate":                   {least: 1, most: math.MaxInt32},
	"max.connections":                                {least: 1, most: math.MaxInt32},
	"max.connections.per.ip":                         {most: math.MaxInt32},
	"max.connections.per.ip.overrides":               {valid: func(v string) error { _, err := connectionOverrides(v); return err }},
	"num.partitions":                                 {least: 1, most: coordinator.MaxPartitionsPerTopic},
	"producer.id.expiration.ms":                      {least: 1000, most: math.MaxInt32},
	"replica.alter.log.dirs.io.max.bytes.per.second": {most: math.MaxInt64},
	"sasl.kerberos.min.time.before.relogin":          {most: math.MaxInt64},
	"sasl.kerberos.ticket.renew.jitter":              {most: 1},
	"sasl.kerberos.ticket.renew.window.factor":       {most: 1},
}

// brokerConfigs are kafkaConfigs as definitions, with balsaConfigs, by name.
var brokerConfigs = sync.OnceValue(func() map[string]*configDef {
	m := make(map[string]*configDef, len(kafkaConfigs)+len(balsaConfigs))
	for i := range balsaConfigs {
		m[balsaConfigs[i].name] = &balsaConfigs[i]
	}
	for _, k := range kafkaConfigs {
		d := &configDef{name: k.name, typ: k.typ, def: k.def, doc: "A config of Apache Kafka. This broker lists it, and does not use it.", why: "this broker has no use for it"}
		if doc, ok := obeyedBrokerConfigs[k.name]; ok {
			d.doc, d.does = doc, obeyed
		}
		if dyn, ok := dynamicBrokerConfigs[k.name]; ok {
			d.dynamic, d.allowed, d.least, d.most, d.valid = true, dyn.allowed, dyn.least, dyn.most, dyn.valid
		}
		m[k.name] = d
	}
	for i := range topicConfigDefs {
		t := &topicConfigDefs[i]
		d := m[t.broker]
		if d == nil || t.broker == readConsistency {
			continue
		}
		d.dynamic, d.allowed, d.least, d.most, d.valid, d.does, d.why = true, t.allowed, t.least, t.most, t.valid, t.does, t.why
		if _, ok := obeyedBrokerConfigs[d.name]; !ok {
			d.doc = fmt.Sprintf("Default of the topic config %s. %s", t.name, t.doc)
		}
	}
	return m
})

// sensitive configs are never shown.
func sensitive(d *configDef) bool { return d.typ == kmsg.ConfigTypePassword }

// checkBrokerConfig refuses a broker config that does not exist or cannot be set while the broker runs, and a value that it cannot have.
func checkBrokerConfig(name, value string) error {
	d := brokerConfigs()[name]
	switch {
	case d == nil:
		return refuse(kerr.InvalidConfig, fmt.Sprintf("unknown broker config %q", name))
	case !d.dynamic && d.does == obeyed:
		return refuse(kerr.InvalidConfig, fmt.Sprintf("%s cannot be set while a broker runs: it is a setting of its start ('broker start --help')", name))
	}
	switch {
	case d.typ == kmsg.ConfigTypePassword: // whose value is nobody's to read, not even in an error
		return refuse(kerr.InvalidConfig, fmt.Sprintf("%s is not supported: %s", name, d.why))
	case !d.dynamic:
		return d.possible(value)
	}
	if err := d.check(value); err != nil {
		return refuse(kerr.InvalidConfig, fmt.Sprintf("invalid value %q for %s: %v", value, name, err))
	}
	return d.possible(value)
}

// checkThrottledReplicas holds a value against Kafka's form: * for all, or PARTITION:BROKER,...
func checkThrottledReplicas(value string) error {
	if value == "" || value == "*" {
		return nil
	}
	for v := range strings.SplitSeq(value, ",") {
		p, b, ok := strings.Cut(strings.TrimSpace(v), ":")
		_, err1 := strconv.ParseUint(p, 10, 31)
		_, err2 := strconv.ParseUint(b, 10, 31)
		if !ok || err1 != nil || err2 != nil {
			return fmt.Errorf("it is * or PARTITION:BROKER,...; found %q", v)
		}
	}
	return nil
}

// throttles reports whether a list of throttled replicas names one.
func throttles(list string, partition int32, broker string) bool {
	if list == "*" {
		return true
	}
	want := strconv.Itoa(int(partition)) + ":" + broker
	for v := range strings.SplitSeq(list, ",") {
		if strings.TrimSpace(v) == want {
			return true
		}
	}
	return false
}

// connectionOverrides reads max.connections.per.ip.overrides: HOST:NUMBER,... A host is an address.
func connectionOverrides(value string) (map[string]int, error) {
	if strings.TrimSpace(value) == "" {
		return nil, nil
	}
	m := make(map[string]int)
	for v := range strings.SplitSeq(value, ",") {
		i := strings.LastIndexByte(v, ':')
		if i < 0 {
			return nil, fmt.Errorf("it is ADDRESS:NUMBER,...; found %q", v)
		}
		ip := net.ParseIP(strings.Trim(strings.TrimSpace(v[:i]), "[]"))
		n, err := strconv.ParseUint(strings.TrimSpace(v[i+1:]), 10, 31)
		if ip == nil || err != nil {
			return nil, fmt.Errorf("it is ADDRESS:NUMBER,...; found %q", v)
		}
		m[ip.String()] = int(n)
	}
	return m, nil
}

// Which value of a config is in force, and where it comes from: what was set for the topic, for this broker, for all brokers, at this
// broker's start, or nowhere.

package broker

import (
	"fmt"
	"strconv"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/balsamq/balsa/coordinator"
	"github.com/balsamq/balsa/raft"
)

// configValue is a config with the value in force and where that comes from.
type configValue struct {
	def      *configDef
	value    string // unset: null
	source   kmsg.ConfigSource
	synonyms []kmsg.DescribeConfigsResponseResourceConfigConfigSynonym // all that could give it, the one in force first
}

func (v *configValue) add(name, value string, source kmsg.ConfigSource) {
	value = v.def.canonical(value)
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

// setBroker adds what is set for this broker and for all, dynamically, and at its start.
func (s *server) setBroker(im *coordinator.Image, v *configValue, name string) {
	if set, ok := im.BrokerConfigs(brokerName(s.b.NodeID()))[name]; ok {
		v.add(name, set, kmsg.ConfigSourceDynamicBrokerConfig)
	}
	if set, ok := im.BrokerConfigs("")[name]; ok {
		v.add(name, set, kmsg.ConfigSourceDynamicDefaultBrokerConfig)
	}
	if set, ok := s.b.Config(name); ok {
		v.add(name, set, kmsg.ConfigSourceStaticBrokerConfig)
	}
}

// brokerName is a broker as the name of a config resource.
func brokerName(id raft.NodeID) string { return strconv.FormatUint(uint64(id), 10) }

// brokerConfig is the value of a broker config in force.
func (s *server) brokerConfig(im *coordinator.Image, d *configDef) configValue {
	v := configValue{def: d}
	s.setBroker(im, &v, d.name)
	if d.def != unset || len(v.synonyms) == 0 {
		v.add(d.name, d.def, kmsg.ConfigSourceDefaultConfig)
	}
	return v
}

// topicConfigs are all topic configs of a topic, given what was set for it.
func (s *server) topicConfigs(im *coordinator.Image, set map[string]string) []configValue {
	list := make([]configValue, 0, len(topicConfigDefs))
	for i := range topicConfigDefs {
		list = append(list, s.topicConfig(im, &topicConfigDefs[i], set))
	}
	return list
}

func (s *server) topicConfig(im *coordinator.Image, d *configDef, set map[string]string) configValue {
	v := configValue{def: d}
	if value, ok := set[d.name]; ok {
		v.add(d.name, value, kmsg.ConfigSourceDynamicTopicConfig)
	}
	name := d.name
	if d.broker != "" {
		name = d.broker
		s.setBroker(im, &v, d.broker)
	}
	v.add(name, d.def, kmsg.ConfigSourceDefaultConfig)
	return v
}

// groupConfigs are all configs of a consumer group, given what was set for it.
func (s *server) groupConfigs(im *coordinator.Image, set map[string]string) []configValue {
	list := make([]configValue, 0, len(groupConfigDefs))
	for i := range groupConfigDefs {
		d := &groupConfigDefs[i]
		v := configValue{def: d}
		if value, ok := set[d.name]; ok {
			v.add(d.name, value, kmsg.ConfigSourceGroupConfig)
		}
		name, def := d.name, d.def
		if d.broker != "" {
			name, def = d.broker, brokerConfigs()[d.broker].def
			s.setBroker(im, &v, d.broker)
		}
		v.add(name, def, kmsg.ConfigSourceDefaultConfig)
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
	if v, ok := setForBroker(s.b.Image(), s.b.NodeID(), name); ok {
		return v
	}
	if v, ok := s.b.Config(name); ok {
		return v
	}
	return brokerConfigs()[name].def
}

// defaultReplication is the replication factor of a topic whose creator says nothing.
func (s *server) defaultReplication(im *coordinator.Image) int {
	if n, err := strconv.Atoi(s.configText("default.replication.factor")); err == nil && n > 0 {
		return n
	}
	return max(1, min(usualReplication, len(im.LiveBrokers())))
}

// usualReplication survives the loss of one broker.
const usualReplication = 3

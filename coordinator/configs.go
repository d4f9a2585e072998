// Dynamic configs as metadata: what was set for a topic, for one broker or for all, and for a consumer group. Which configs there
// are, and what their values may be, the broker knows that takes the request; here they are names and texts.

package coordinator

import (
	"fmt"
	"maps"
	"slices"
	"strconv"

	"github.com/balsamq/balsa/raft"
)

// The kinds of resources that have configs. They are part of the log's format.
const (
	ConfigTopic  = "topic"
	ConfigBroker = "broker" // the name is a node id; empty: all brokers
	ConfigGroup  = "group"
)

const (
	// MaxConfigsPerResource bounds what is set for one resource, MaxConfigBytes one value.
	MaxConfigsPerResource = 500
	MaxConfigBytes        = 32 << 10
	// MaxConfiguredGroups bounds the groups that have configs.
	MaxConfiguredGroups = 10_000
	// MaxChangesPerCommand bounds SetConfigs, AlterQuotas and AddPartitions.
	MaxChangesPerCommand = 10_000
)

// SetConfigs changes configs, those of each resource on their own.
type SetConfigs struct {
	Changes []ConfigChange `json:"changes"`
}

// ConfigChange is one resource's part.
type ConfigChange struct {
	Kind  string  `json:"kind"`
	Topic TopicID `json:"topic,omitzero"` // of a topic
	Name  string  `json:"name,omitempty"` // of a broker or group
	// Set are the new values; null: as if it had never been set.
	Set map[string]*string `json:"set"`
	// Was are the values from which those of Set were made. If they are others now, nothing is changed: ErrStale.
	Was map[string]*string `json:"was,omitempty"`
}

func (c *SetConfigs) check() error {
	if len(c.Changes) == 0 || len(c.Changes) > MaxChangesPerCommand {
		return fmt.Errorf("%w: configs of %d resources", ErrMalformed, len(c.Changes))
	}
	for i := range c.Changes {
		ch := &c.Changes[i]
		if len(ch.Set) > MaxConfigsPerResource || len(ch.Was) > MaxConfigsPerResource || len(ch.Name) > maxText {
			return fmt.Errorf("%w: %d configs of %s %q", ErrMalformed, len(ch.Set), ch.Kind, ch.Name)
		}
		for name, value := range ch.Set {
			if name == "" || len(name) > maxText || value != nil && len(*value) > MaxConfigBytes {
				return fmt.Errorf("%w: config %q of %s %q", ErrMalformed, name, ch.Kind, ch.Name)
			}
		}
		switch ch.Kind {
		case ConfigTopic:
			if ch.Topic.IsZero() || ch.Name != "" {
				return fmt.Errorf("%w: configs of a topic without an id", ErrMalformed)
			}
		case ConfigBroker, ConfigGroup:
			if !ch.Topic.IsZero() || ch.Kind == ConfigGroup && ch.Name == "" {
				return fmt.Errorf("%w: configs of a %s", ErrMalformed, ch.Kind)
			}
		default:
			return fmt.Errorf("%w: configs of a %q", ErrMalformed, ch.Kind)
		}
	}
	return nil
}

func (d *draft) setConfigs(c *SetConfigs) *Result {
	r := &Result{Items: make([]Failure, len(c.Changes))}
	for i := range c.Changes {
		r.Items[i] = FailureOf(d.setConfig(&c.Changes[i]))
	}
	return r
}

func (d *draft) setConfig(c *ConfigChange) error {
	switch c.Kind {
	case ConfigTopic:
		t := d.TopicByID(c.Topic)
		if t == nil {
			return fmt.Errorf("%w: id %s", ErrUnknownTopic, c.Topic)
		}
		configs, err := c.change(t.Configs)
		if err != nil {
			return err
		}
		nt := *t
		nt.Configs = configs
		d.putTopic(&nt)
	case ConfigBroker:
		if id, err := strconv.ParseUint(c.Name, 10, 31); c.Name != "" && (err != nil || d.Broker(raft.NodeID(id)) == nil) {
			return fmt.Errorf("%w: %s", ErrUnknownBroker, c.Name)
		}
		d.configVersion = d.version + 1
		return c.changeIn(own(&d.brokerConfigs, &d.ownBrokerConfigs))
	case ConfigGroup:
		all := own(&d.groupConfigs, &d.ownGroupConfigs)
		if _, ok := all[c.Name]; !ok && len(all) >= MaxConfiguredGroups {
			return fmt.Errorf("%w: %d groups have configs, which is the most", ErrTooMany, len(all))
		}
		return c.changeIn(all)
	}
	return nil
}

// changeIn makes the change in a map that is the draft's own.
func (c *ConfigChange) changeIn(all map[string]map[string]string) error {
	configs, err := c.change(all[c.Name])
	if err != nil {
		return err
	}
	if len(configs) == 0 {
		delete(all, c.Name)
	} else {
		all[c.Name] = configs
	}
	return nil
}

// change returns the configs after the change; old is left alone.
func (c *ConfigChange) change(old map[string]string) (map[string]string, error) {
	for _, name := range slices.Sorted(maps.Keys(c.Was)) { // in order: the error is part of the state
		was := c.Was[name]
		if now, ok := old[name]; ok != (was != nil) || ok && now != *was {
			return nil, fmt.Errorf("%w: %s was changed by somebody else", ErrStale, name)
		}
	}
	configs := maps.Clone(old)
	if configs == nil {
		configs = make(map[string]string, len(c.Set))
	}
	for name, value := range c.Set {
		if value == nil {
			delete(configs, name)
		} else {
			configs[name] = *value
		}
	}
	if len(configs) > MaxConfigsPerResource {
		return nil, fmt.Errorf("%w: %d configs of one resource, at most %d", ErrTooMany, len(configs), MaxConfigsPerResource)
	}
	if len(configs) == 0 {
		configs = nil
	}
	return configs, nil
}

// ConfigVersion differs between images whose brokers' configs differ.
func (im *Image) ConfigVersion() uint64 { return uint64(im.configVersion) }

// BrokerConfigs are the configs that were set for a broker by name, or with the empty name for all.
func (im *Image) BrokerConfigs(name string) map[string]string { return im.brokerConfigs[name] }

// GroupConfigs are the configs that were set for a consumer group.
func (im *Image) GroupConfigs(group string) map[string]string { return im.groupConfigs[group] }

// ConfiguredGroups are the groups that have configs, by name.
func (im *Image) ConfiguredGroups() []string { return slices.Sorted(maps.Keys(im.groupConfigs)) }

// BrokerConfig is the value that was set for a broker, or else for all.
func (im *Image) BrokerConfig(node raft.NodeID, name string) (string, bool) {
	if len(im.brokerConfigs) == 0 {
		return "", false
	}
	if v, ok := im.brokerConfigs[strconv.FormatUint(uint64(node), 10)][name]; ok {
		return v, true
	}
	v, ok := im.brokerConfigs[""][name]
	return v, ok
}

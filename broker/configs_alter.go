// Altering configs: what IncrementalAlterConfigs and AlterConfigs ask for becomes a change of the metadata, after all that can
// be said against it has been said. The names and values are checked here, by the broker that takes the request; the metadata group
// makes sure that a list that was appended to is the list that was read.

package broker

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/balsamq/balsa/coordinator"
	"github.com/balsamq/balsa/raft"
)

// maxAlterAttempts bounds how often an alteration is made anew because somebody else altered the same list meanwhile.
const maxAlterAttempts = 10

// alteration is what a request wants of one resource.
type alteration struct {
	kind kmsg.ConfigResourceType
	name string
	ops  []configOp
	// replace: what is not named goes back to its default (AlterConfigs).
	replace bool
}

// configOp is what a request wants of one config.
type configOp struct {
	name  string
	op    kmsg.IncrementalAlterConfigOp
	value *string
}

type resourceKey struct {
	kind kmsg.ConfigResourceType
	name string
}

// alterConfigs carries out alterations; done gets an error or nil for each.
func (s *server) alterConfigs(ctx context.Context, alts []alteration, validateOnly bool, done func([]error)) {
	errs := make([]error, len(alts))
	named := make(map[resourceKey]int, len(alts))
	for i := range alts {
		named[resourceKey{alts[i].kind, alts[i].name}]++
	}
	var left []int
	for i := range alts {
		a := &alts[i]
		switch {
		case named[resourceKey{a.kind, a.name}] > 1:
			errs[i] = refuse(kerr.InvalidRequest, "the request names the resource more than once")
		case a.kind == kmsg.ConfigResourceTypeBrokerLogger:
			errs[i] = s.alterLoggers(a, validateOnly)
		default:
			left = append(left, i)
		}
	}
	s.alterMetadata(ctx, alts, left, errs, validateOnly, 0, done)
}

// alterMetadata does those of alts whose indexes are in left.
func (s *server) alterMetadata(ctx context.Context, alts []alteration, left []int, errs []error, validateOnly bool, attempt int, done func([]error)) {
	im := s.b.Image()
	var changes []coordinator.ConfigChange
	var places []int
	for _, i := range left {
		c, err := s.planAlteration(im, &alts[i])
		errs[i] = err
		if err == nil && len(c.Set) > 0 {
			changes, places = append(changes, c), append(places, i)
		}
	}
	if len(changes) == 0 || validateOnly {
		done(errs)
		return
	}
	s.b.SetConfigs(ctx, changes, func(results []error) {
		var again []int
		for k, i := range places {
			errs[i] = results[k]
			if isStale(results[k]) && attempt+1 < maxAlterAttempts {
				again = append(again, i)
			}
		}
		if len(again) == 0 {
			done(errs)
			return
		}
		s.alterMetadata(ctx, alts, again, errs, false, attempt+1, done)
	})
}

// planAlteration is an alteration as a change from what the image has.
func (s *server) planAlteration(im *coordinator.Image, a *alteration) (c coordinator.ConfigChange, err error) {
	var (
		have  map[string]string
		known func(name string) (*configDef, string) // with the value that is inherited where none is set
		check func(name, value string) error
		whole = func(map[string]string) error { return nil }
	)
	brokerDefault := func(d *configDef) string {
		v := configValue{def: d}
		if d.broker != "" {
			s.setBroker(im, &v, d.broker)
		}
		if len(v.synonyms) == 0 {
			return d.def
		}
		return v.value
	}
	switch a.kind {
	case kmsg.ConfigResourceTypeTopic:
		t, err := metadataTopic(im, 0, &kmsg.MetadataRequestTopic{Topic: &a.name}, nil)
		if err != nil {
			return c, err
		}
		c.Kind, c.Topic, have, check = coordinator.ConfigTopic, t.ID, t.Configs, checkTopicConfig
		whole = func(after map[string]string) error {
			if err := checkConditional(im, t.Configs, after, false); err != nil {
				return err
			}
			if err := checkDurability(im, t.Name, t.Configs, after); err != nil {
				return err
			}
			return s.checkTopicConfigs(after)
		}
		if t.Internal() {
			check = checkInternalConfig
		}
		known = func(name string) (*configDef, string) {
			d := topicConfigByName(name)
			if d == nil {
				return nil, ""
			}
			return d, brokerDefault(d)
		}
	case kmsg.ConfigResourceTypeBroker:
		if id, err := strconv.ParseUint(a.name, 10, 31); a.name != "" && (err != nil || im.Broker(raft.NodeID(id)) == nil) {
			return c, refuse(kerr.InvalidRequest, fmt.Sprintf("there is no broker %q", a.name))
		}
		c.Kind, c.Name, have, check = coordinator.ConfigBroker, a.name, im.BrokerConfigs(a.name), checkBrokerConfig
		known = func(name string) (*configDef, string) {
			d := brokerConfigs()[name]
			if d == nil || d.def == unset {
				return d, ""
			}
			return d, d.def
		}
	case resourceGroup:
		if a.name == "" {
			return c, refuse(kerr.InvalidRequest, "a group's name cannot be empty")
		}
		c.Kind, c.Name, have, check, whole = coordinator.ConfigGroup, a.name, im.GroupConfigs(a.name), s.checkGroupConfig, s.checkGroupConfigs
		known = func(name string) (*configDef, string) { return groupConfigByName(name), "" }
	case resourceClientMetrics:
		return c, errNoClientMetrics
	default:
		return c, refuse(kerr.InvalidRequest, fmt.Sprintf("there are no configs of resource type %d", a.kind))
	}
	after, err := a.apply(&c, have, known, check)
	if err != nil {
		return c, err
	}
	return c, whole(after)
}

// errNoClientMetrics: KIP-714's subscriptions.
var errNoClientMetrics = refuse(kerr.InvalidRequest, "this broker collects no metrics of clients (KIP-714), so there is nothing to configure")

// apply fills in c.Set and c.Was from the operations, and returns the configs that the resource has afterwards.
func (a *alteration) apply(c *coordinator.ConfigChange, have map[string]string, known func(string) (*configDef, string), check func(name, value string) error) (map[string]string, error) {
	c.Set = make(map[string]*string, len(a.ops))
	after := make(map[string]string, len(have)+len(a.ops))
	for k, v := range have {
		after[k] = v
	}
	if len(a.ops) > coordinator.MaxConfigsPerResource {
		return nil, refuse(kerr.InvalidRequest, fmt.Sprintf("%d configs of one resource, at most %d", len(a.ops), coordinator.MaxConfigsPerResource))
	}
	named := make(map[string]bool, len(a.ops))
	for i := range a.ops {
		op := &a.ops[i]
		if named[op.name] {
			return nil, refuse(kerr.InvalidRequest, fmt.Sprintf("the request names %s more than once", op.name))
		}
		named[op.name] = true
		if op.op == kmsg.IncrementalAlterConfigOpDelete {
			if _, ok := have[op.name]; ok {
				if err := check(op.name, have[op.name]); err != nil && isKept(err) {
					return nil, err
				}
				c.Set[op.name] = nil
			}
			delete(after, op.name)
			continue
		}
		if op.value == nil {
			return nil, refuse(kerr.InvalidRequest, fmt.Sprintf("%s has no value", op.name))
		}
		value := *op.value
		switch op.op {
		case kmsg.IncrementalAlterConfigOpSet:
		case kmsg.IncrementalAlterConfigOpAppend, kmsg.IncrementalAlterConfigOpSubtract:
			d, inherited := known(op.name)
			if d != nil && d.typ != kmsg.ConfigTypeList {
				return nil, refuse(kerr.InvalidConfig, fmt.Sprintf("%s is no list, so nothing can be appended or subtracted", op.name))
			}
			was, ok := have[op.name]
			if c.Was == nil {
				c.Was = make(map[string]*string)
			}
			c.Was[op.name] = nil
			if ok {
				c.Was[op.name] = &was
			} else {
				was = inherited
			}
			value = changeList(was, value, op.op == kmsg.IncrementalAlterConfigOpAppend)
		default:
			return nil, refuse(kerr.InvalidRequest, fmt.Sprintf("unknown operation %d on %s", op.op, op.name))
		}
		if len(value) > coordinator.MaxConfigBytes {
			return nil, refuse(kerr.InvalidConfig, fmt.Sprintf("the value of %s is %d bytes long, at most %d", op.name, len(value), coordinator.MaxConfigBytes))
		}
		if err := check(op.name, value); err != nil {
			return nil, err
		}
		c.Set[op.name] = &value
		after[op.name] = value
	}
	if a.replace {
		for name, value := range have {
			if named[name] {
				continue
			}
			if err := check(name, value); err != nil && isKept(err) {
				continue // AlterConfigs leaves it, as nobody can have meant it
			}
			c.Set[name] = nil
			delete(after, name)
		}
	}
	return after, nil
}

// changeList appends elements to a list, those that are not in it, or takes them out.
func changeList(list, elements string, add bool) string {
	var out []string
	if list != "" {
		out = strings.Split(list, ",")
	}
	for i := range out {
		out[i] = strings.TrimSpace(out[i])
	}
	for e := range strings.SplitSeq(elements, ",") {
		e = strings.TrimSpace(e)
		switch {
		case e == "":
		case !add:
			out = slices.DeleteFunc(out, func(x string) bool { return x == e })
		case !slices.Contains(out, e):
			out = append(out, e)
		}
	}
	return strings.Join(out, ",")
}

// keptConfig refuses what the brokers need of their own topics.
type keptConfig struct{ error }

func (k keptConfig) Unwrap() error { return k.error }

func isKept(err error) bool { _, ok := err.(keptConfig); return ok }

// checkInternalConfig is checkTopicConfig for the brokers' own topics, which stay compacted and take the records that the brokers write.
func checkInternalConfig(name, value string) error {
	switch name {
	case "cleanup.policy", "compression.type", "max.message.bytes", "message.timestamp.type", "retention.ms", "retention.bytes":
		return keptConfig{refuse(kerr.InvalidConfig, fmt.Sprintf("%s of a topic of the brokers' own cannot be changed", name))}
	}
	return checkTopicConfig(name, value)
}

// checkDurability refuses relaxed durability where more than the topic's own records depends on it, and where an older broker may be. was are the
// configs that the topic has.
func checkDurability(im *coordinator.Image, topic string, was, set map[string]string) error {
	switch {
	case !coordinator.Relaxed(set) || coordinator.Relaxed(was):
		return nil
	case strings.HasPrefix(topic, "__"):
		return refuse(kerr.InvalidConfig, fmt.Sprintf("%s=%s is not for %s: names that begin with __ are for what other data depends on", coordinator.Durability, coordinator.DurabilityRelaxed, topic))
	case im.Feature(coordinator.MetadataVersion) < coordinator.LevelRelaxed:
		return refuse(kerr.UnsupportedVersion, fmt.Sprintf("%s=%s needs %s %d, which is at %d: 'broker cluster upgrade', once all brokers run this version", coordinator.Durability,
			coordinator.DurabilityRelaxed, coordinator.MetadataVersion, coordinator.LevelRelaxed, im.Feature(coordinator.MetadataVersion)))
	}
	return nil
}

// checkTopicConfigs holds a topic's configs against one another.
func (s *server) checkTopicConfigs(set map[string]string) error {
	im := s.b.Image()
	number := func(name string) int64 {
		v := s.topicConfig(im, topicConfigByName(name), set)
		n, _ := strconv.ParseInt(v.value, 10, 64) // checked when it was set
		return n
	}
	if least, most := number("min.compaction.lag.ms"), number("max.compaction.lag.ms"); least > most {
		return refuse(kerr.InvalidConfig, fmt.Sprintf("min.compaction.lag.ms=%d must not be above max.compaction.lag.ms=%d", least, most))
	}
	return nil
}

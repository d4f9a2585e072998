// Configs: what is set for topics, brokers, consumer groups and loggers, and changing it while the brokers run.

package client

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// The kinds of resources that have configs.
const (
	TopicConfigs  = "topic"
	BrokerConfigs = "broker" // the name is a broker's id; empty: of all brokers
	LoggerConfigs = "logger" // the levels of a broker's loggers; the name is its id
	GroupConfigs  = "group"
)

var configKinds = map[string]kmsg.ConfigResourceType{TopicConfigs: kmsg.ConfigResourceTypeTopic, BrokerConfigs: kmsg.ConfigResourceTypeBroker,
	LoggerConfigs: kmsg.ConfigResourceTypeBrokerLogger, GroupConfigs: kmsg.ConfigResourceTypeGroupConfig}

// ConfigResource is something that has configs.
type ConfigResource struct {
	Kind string `json:"kind" yaml:"kind"`
	Name string `json:"name" yaml:"name"`
}

// String is how it is shown.
func (r ConfigResource) String() string {
	if r.Kind == BrokerConfigs && r.Name == "" {
		return "brokers"
	}
	return r.Kind + "/" + r.Name
}

// ConfigValue is a config with the value in force.
type ConfigValue struct {
	Name  string  `json:"name" yaml:"name"`
	Value *string `json:"value" yaml:"value"` // nil: none, or not shown
	// Source is where the value comes from, as Kafka names it: DYNAMIC_TOPIC_CONFIG, DEFAULT_CONFIG and so on.
	Source    string `json:"source" yaml:"source"`
	Default   bool   `json:"default" yaml:"default"` // set nowhere
	ReadOnly  bool   `json:"readOnly" yaml:"readOnly"`
	Sensitive bool   `json:"sensitive" yaml:"sensitive"`
	Type      string `json:"type" yaml:"type"`
	Doc       string `json:"doc,omitempty" yaml:"doc,omitempty"`
	// Synonyms are all values that could be in force, the one that is first.
	Synonyms []ConfigSynonym `json:"synonyms,omitempty" yaml:"synonyms,omitempty"`
}

// ConfigSynonym is a value that could be in force.
type ConfigSynonym struct {
	Name   string  `json:"name" yaml:"name"`
	Value  *string `json:"value" yaml:"value"`
	Source string  `json:"source" yaml:"source"`
}

// ConfigOp is what is done with a config.
type ConfigOp int8

// The operations. Append and Subtract are for lists.
const (
	SetConfig      ConfigOp = 0
	DeleteConfig   ConfigOp = 1 // back to what is inherited
	AppendConfig   ConfigOp = 2
	SubtractConfig ConfigOp = 3
)

// ConfigChange is one config's change.
type ConfigChange struct {
	Op    ConfigOp
	Name  string
	Value string // of DeleteConfig: ignored
}

// ConfigResources lists what has configs, of these kinds or of all: every topic, every live broker with its loggers, and the groups for which something was set.
func (a *Admin) ConfigResources(ctx context.Context, kinds ...string) ([]ConfigResource, error) {
	const op = "list the resources that have configs"
	req := kmsg.NewPtrListConfigResourcesRequest()
	if len(kinds) == 0 {
		kinds = []string{TopicConfigs, BrokerConfigs, LoggerConfigs, GroupConfigs}
	}
	for _, k := range kinds {
		t, ok := configKinds[k]
		if !ok {
			return nil, &Error{Op: op, Subject: k, Kind: ErrInvalid, Err: fmt.Errorf("there are no configs of a %q", k)}
		}
		req.ResourceTypes = append(req.ResourceTypes, int8(t))
	}
	resp, err := req.RequestWith(ctx, a.cl)
	if err == nil {
		err = kerr.ErrorForCode(resp.ErrorCode)
	}
	if err != nil {
		return nil, a.wrap(op, "", err)
	}
	out := make([]ConfigResource, 0, len(resp.ConfigResources))
	for _, r := range resp.ConfigResources {
		for kind, t := range configKinds {
			if int8(t) == r.Type {
				out = append(out, ConfigResource{kind, r.Name})
			}
		}
	}
	slices.SortStableFunc(out, func(x, y ConfigResource) int { return cmp.Compare(x.Kind, y.Kind) })
	return out, nil
}

// Configs are the configs of a resource by name, all or those that are named.
func (a *Admin) Configs(ctx context.Context, r ConfigResource, names ...string) ([]ConfigValue, error) {
	const op = "show the configs of"
	kind, err := kindOfConfigs(op, r)
	if err != nil {
		return nil, err
	}
	req := kmsg.NewPtrDescribeConfigsRequest()
	req.IncludeSynonyms, req.IncludeDocumentation = true, true
	q := kmsg.NewDescribeConfigsRequestResource()
	q.ResourceType, q.ResourceName = kind, r.Name
	if len(names) > 0 {
		q.ConfigNames = names
	}
	req.Resources = append(req.Resources, q)
	resp, err := req.RequestWith(ctx, a.cl)
	if err != nil {
		return nil, a.wrap(op, r.String(), err)
	}
	if len(resp.Resources) != 1 {
		return nil, a.wrap(op, r.String(), fmt.Errorf("%d answers to one question", len(resp.Resources)))
	}
	rr := &resp.Resources[0]
	if err := kerr.ErrorForCode(rr.ErrorCode); err != nil {
		return nil, a.explain(op, r.String(), err, text(rr.ErrorMessage))
	}
	out := make([]ConfigValue, 0, len(rr.Configs))
	for i := range rr.Configs {
		c := &rr.Configs[i]
		v := ConfigValue{Name: c.Name, Value: c.Value, Source: c.Source.String(), Default: c.Source == kmsg.ConfigSourceDefaultConfig, ReadOnly: c.ReadOnly,
			Sensitive: c.IsSensitive, Type: c.ConfigType.String(), Doc: text(c.Documentation)}
		for _, s := range c.ConfigSynonyms {
			v.Synonyms = append(v.Synonyms, ConfigSynonym{s.Name, s.Value, s.Source.String()})
		}
		out = append(out, v)
	}
	slices.SortFunc(out, func(x, y ConfigValue) int { return cmp.Compare(x.Name, y.Name) })
	return out, nil
}

// AlterConfigs changes configs of a resource, all or none, and returns when every broker that is there knows. With validateOnly it only says
// whether that could be done.
func (a *Admin) AlterConfigs(ctx context.Context, r ConfigResource, changes []ConfigChange, validateOnly bool) error {
	const op = "change the configs of"
	kind, err := kindOfConfigs(op, r)
	if err != nil {
		return err
	}
	req := kmsg.NewPtrIncrementalAlterConfigsRequest()
	req.ValidateOnly = validateOnly
	q := kmsg.NewIncrementalAlterConfigsRequestResource()
	q.ResourceType, q.ResourceName = kind, r.Name
	for i := range changes {
		c := kmsg.NewIncrementalAlterConfigsRequestResourceConfig()
		c.Name, c.Op = changes[i].Name, kmsg.IncrementalAlterConfigOp(changes[i].Op)
		if changes[i].Op != DeleteConfig {
			c.Value = &changes[i].Value
		}
		q.Configs = append(q.Configs, c)
	}
	req.Resources = append(req.Resources, q)
	resp, err := req.RequestWith(ctx, a.cl)
	if err != nil {
		return a.wrap(op, r.String(), err)
	}
	for _, rr := range resp.Resources {
		if err := kerr.ErrorForCode(rr.ErrorCode); err != nil {
			return a.explain(op, r.String(), err, text(rr.ErrorMessage))
		}
	}
	return nil
}

func kindOfConfigs(op string, r ConfigResource) (kmsg.ConfigResourceType, error) {
	kind, ok := configKinds[r.Kind]
	if !ok || r.Name == "" && r.Kind != BrokerConfigs {
		return 0, &Error{Op: op, Subject: r.String(), Kind: ErrInvalid, Err: fmt.Errorf("there is no such resource")}
	}
	return kind, nil
}

// AddPartitions gives a topic that is there more partitions: count in all. assignment, if not nil, names the brokers of each that is new, the preferred
// leader first. It returns when they can be written to.
func (a *Admin) AddPartitions(ctx context.Context, topic string, count int32, assignment [][]int32, validateOnly bool) (Topic, error) {
	const op = "add partitions to topic"
	req := kmsg.NewPtrCreatePartitionsRequest()
	req.ValidateOnly = validateOnly
	t := kmsg.NewCreatePartitionsRequestTopic()
	t.Topic, t.Count = topic, count
	for _, replicas := range assignment {
		as := kmsg.NewCreatePartitionsRequestTopicAssignment()
		as.Replicas = replicas
		t.Assignment = append(t.Assignment, as)
	}
	req.Topics = append(req.Topics, t)
	resp, err := req.RequestWith(ctx, a.cl)
	if err != nil {
		return Topic{}, a.wrap(op, topic, err)
	}
	for _, rt := range resp.Topics {
		if err := kerr.ErrorForCode(rt.ErrorCode); err != nil {
			return Topic{}, a.explain(op, topic, err, text(rt.ErrorMessage))
		}
	}
	if validateOnly {
		return a.Topic(ctx, topic)
	}
	return a.WaitForTopic(ctx, topic, nil)
}

// DescribeConfigs (key 32), versions 0 to 4: the configs of topics and brokers, each with its source, the values that
// could stand in for it (synonyms), type and documentation (v3). Every config of Kafka's is listed; its documentation says
// whether this broker obeys it. Of all brokers (an empty name) what was set for all is listed, and nothing else. So are groups' configs, and the
// levels of this broker's loggers.

package broker

import (
	"fmt"
	"maps"
	"slices"
	"strconv"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/balsamq/balsa/coordinator"
)

// Resource types beyond kmsg's names.
const (
	resourceClientMetrics = 16
	resourceGroup         = 32
)

func (s *server) describeConfigs(r *request) {
	req := r.msg.(*kmsg.DescribeConfigsRequest)
	resp := kmsg.NewPtrDescribeConfigsResponse()
	resp.Resources = make([]kmsg.DescribeConfigsResponseResource, len(req.Resources))
	for i := range req.Resources {
		q, place := &req.Resources[i], &resp.Resources[i]
		place.Default()
		place.ResourceType, place.ResourceName = q.ResourceType, q.ResourceName
		values, err := s.configsOf(q)
		if err != nil {
			place.ErrorCode, place.ErrorMessage = codeOf(err), messageOf(err)
			continue
		}
		for k := range values {
			v := &values[k]
			if q.ConfigNames != nil && !slices.Contains(q.ConfigNames, v.def.name) {
				continue
			}
			place.Configs = append(place.Configs, describedConfig(req, q, v))
		}
	}
	r.respond(resp)
}

// configsOf lists the configs of a resource.
func (s *server) configsOf(q *kmsg.DescribeConfigsRequestResource) ([]configValue, error) {
	im := s.b.Image()
	switch q.ResourceType {
	case kmsg.ConfigResourceTypeTopic:
		topic, err := metadataTopic(im, 0, &kmsg.MetadataRequestTopic{Topic: &q.ResourceName}, nil)
		if err != nil {
			return nil, err
		}
		return s.topicConfigs(im, topic.Configs), nil
	case kmsg.ConfigResourceTypeBroker:
		if q.ResourceName == "" {
			return s.defaultBrokerConfigs(im), nil
		}
		if err := s.isThisBroker(q.ResourceName); err != nil {
			return nil, err
		}
		list := make([]configValue, 0, len(kafkaConfigs)+len(balsaConfigs))
		for i := range balsaConfigs {
			list = append(list, s.brokerConfig(im, &balsaConfigs[i]))
		}
		for i := range kafkaConfigs {
			list = append(list, s.brokerConfig(im, brokerConfigs()[kafkaConfigs[i].name]))
		}
		return list, nil
	case kmsg.ConfigResourceTypeBrokerLogger:
		if err := s.isThisBroker(q.ResourceName); err != nil {
			return nil, err
		}
		return s.loggerConfigs(), nil
	case resourceGroup:
		if q.ResourceName == "" {
			return nil, refuse(kerr.InvalidRequest, "a group's name cannot be empty")
		}
		return s.groupConfigs(im, im.GroupConfigs(q.ResourceName)), nil
	case resourceClientMetrics:
		return nil, errNoClientMetrics
	}
	return nil, refuse(kerr.InvalidRequest, fmt.Sprintf("there are no configs of resource type %d", q.ResourceType))
}

// defaultBrokerConfigs are the configs that were set for all brokers.
func (s *server) defaultBrokerConfigs(im *coordinator.Image) []configValue {
	set := im.BrokerConfigs("")
	list := make([]configValue, 0, len(set))
	for _, name := range slices.Sorted(maps.Keys(set)) {
		d := brokerConfigs()[name]
		if d == nil {
			continue // a newer broker knows it
		}
		v := configValue{def: d}
		v.add(name, set[name], kmsg.ConfigSourceDynamicDefaultBrokerConfig)
		if static, ok := s.b.Config(name); ok {
			v.add(name, static, kmsg.ConfigSourceStaticBrokerConfig)
		}
		if d.def != unset {
			v.add(name, d.def, kmsg.ConfigSourceDefaultConfig)
		}
		list = append(list, v)
	}
	return list
}

func (s *server) isThisBroker(name string) error {
	id, err := strconv.ParseInt(name, 10, 32)
	if err != nil || id != int64(s.b.NodeID()) {
		return refuse(kerr.InvalidRequest, fmt.Sprintf("this is broker %d; ask broker %q for its configs", s.b.NodeID(), name))
	}
	return nil
}

func describedConfig(req *kmsg.DescribeConfigsRequest, q *kmsg.DescribeConfigsRequestResource, v *configValue) kmsg.DescribeConfigsResponseResourceConfig {
	c := kmsg.NewDescribeConfigsResponseResourceConfig()
	c.Name, c.Source, c.ConfigType, c.IsSensitive = v.def.name, v.source, v.def.typ, sensitive(v.def)
	if v.value != unset && !c.IsSensitive {
		value := v.value
		c.Value = &value
	}
	c.IsDefault = v.source == kmsg.ConfigSourceDefaultConfig
	// What is not dynamic a file, flags or the environment say, and a restart changes it.
	c.ReadOnly = q.ResourceType == kmsg.ConfigResourceTypeBroker && !v.def.dynamic
	if req.IncludeSynonyms {
		c.ConfigSynonyms = v.synonyms
	}
	if req.IncludeDocumentation {
		doc := v.def.doc
		c.Documentation = &doc
	}
	return c
}

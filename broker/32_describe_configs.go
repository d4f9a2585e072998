// DescribeConfigs (key 32), versions 0 to 4: the configs of topics and brokers, each with its source, the values that
// could stand in for it (synonyms), type and documentation (v3). Every config of Kafka's is listed; its documentation says
// whether this broker obeys it. Group resources have no dynamic configs yet; broker loggers are named and all INFO.

package broker

import (
	"fmt"
	"slices"
	"strconv"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
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
	switch q.ResourceType {
	case kmsg.ConfigResourceTypeTopic:
		topic, err := metadataTopic(s.b.Image(), 0, &kmsg.MetadataRequestTopic{Topic: &q.ResourceName}, nil)
		if err != nil {
			return nil, err
		}
		return s.topicConfigs(topic.Configs), nil
	case kmsg.ConfigResourceTypeBroker:
		if q.ResourceName == "" {
			return nil, nil // the cluster-wide dynamic defaults: there are none yet
		}
		if err := s.isThisBroker(q.ResourceName); err != nil {
			return nil, err
		}
		list := make([]configValue, 0, len(kafkaConfigs)+len(balsaConfigs))
		for i := range balsaConfigs {
			list = append(list, s.brokerConfig(&balsaConfigs[i]))
		}
		for i := range kafkaConfigs {
			list = append(list, s.brokerConfig(brokerConfigs()[kafkaConfigs[i].name]))
		}
		return list, nil
	case kmsg.ConfigResourceTypeBrokerLogger:
		if err := s.isThisBroker(q.ResourceName); err != nil {
			return nil, err
		}
		v := configValue{def: &rootLogger}
		v.add(rootLogger.name, rootLogger.def, kmsg.ConfigSourceDynamicBrokerLoggerConfig)
		return []configValue{v}, nil
	case resourceGroup, resourceClientMetrics:
		return nil, nil
	}
	return nil, refuse(kerr.InvalidRequest, fmt.Sprintf("there are no configs of resource type %d", q.ResourceType))
}

var rootLogger = configDef{name: "root", typ: kmsg.ConfigTypeString, def: "INFO", doc: "The level of the broker's log."}

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
	// Broker configs are static here: a file, flags or the environment say them, and a restart changes them.
	c.ReadOnly = q.ResourceType == kmsg.ConfigResourceTypeBroker
	if req.IncludeSynonyms {
		c.ConfigSynonyms = v.synonyms
	}
	if req.IncludeDocumentation {
		doc := v.def.doc
		c.Documentation = &doc
	}
	return c
}

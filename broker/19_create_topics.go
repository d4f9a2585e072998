// CreateTopics (key 19), versions 0 to 7: creates topics, each on its own: one may fail and the next succeed.
//
// Everything that one request can show to be wrong is refused here, by name and with the reason; what depends on the rest
// of the cluster is decided by the metadata group. The answer comes when the topics have leaders and every live broker
// knows them, or at the request's time-out. v1 may only validate, counts may default (-1), v5 answers with counts and
// configs, v7 with the id.

package broker

import (
	"context"
	"fmt"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/balsamq/balsa/coordinator"
	"github.com/balsamq/balsa/raft"
)

func (s *server) createTopics(r *request) {
	req := r.msg.(*kmsg.CreateTopicsRequest)
	resp := kmsg.NewPtrCreateTopicsResponse()
	resp.Topics = make([]kmsg.CreateTopicsResponseTopic, len(req.Topics))
	im := s.b.Image()
	count := make(map[string]int, len(req.Topics))
	for i := range req.Topics {
		count[req.Topics[i].Topic]++
	}
	var topics []newTopic
	var places []int
	for i := range req.Topics {
		t, place := &req.Topics[i], &resp.Topics[i]
		place.Default()
		place.Topic, place.NumPartitions, place.ReplicationFactor = t.Topic, -1, -1
		spec, err := s.newTopicOf(im, t)
		if err == nil && count[t.Topic] > 1 {
			err = refuse(kerr.InvalidRequest, "the request names the topic more than once")
		}
		if err == nil && !req.ValidateOnly {
			err = r.mutates(spec.Partitions, req.Version >= 6)
		}
		if err != nil {
			place.ErrorCode, place.ErrorMessage = codeOf(err), messageOf(err)
			continue
		}
		topics, places = append(topics, spec), append(places, i)
	}
	if len(topics) == 0 {
		r.respond(resp)
		return
	}
	ctx, cancel := context.WithTimeout(r.c.ctx, adminTimeout(req.TimeoutMillis))
	s.b.CreateTopics(ctx, topics, req.ValidateOnly, func(results []topicResult) {
		cancel()
		for k, i := range places {
			place, res := &resp.Topics[i], &results[k]
			if res.Err != nil {
				place.ErrorCode, place.ErrorMessage = codeOf(res.Err), messageOf(res.Err)
				continue
			}
			place.TopicID = res.ID
			place.NumPartitions, place.ReplicationFactor = int32(res.Partitions), int16(res.ReplicationFactor)
			for _, c := range s.topicConfigs(im, topics[k].Configs) {
				rc := kmsg.NewCreateTopicsResponseTopicConfig()
				rc.Name, rc.Value, rc.Source, rc.IsSensitive = c.def.name, &c.value, int8(c.source), false
				place.Configs = append(place.Configs, rc)
			}
		}
		r.respond(resp)
	})
}

// newTopicOf checks one topic of a request.
func (s *server) newTopicOf(im *coordinator.Image, t *kmsg.CreateTopicsRequestTopic) (newTopic, error) {
	spec := newTopic{Name: t.Topic}
	if err := im.CheckNewTopic(t.Topic); err != nil {
		return spec, err
	}
	if coordinator.IsInternalTopic(t.Topic) {
		return spec, refuse(kerr.InvalidTopicException, fmt.Sprintf("%s is created by the brokers themselves", t.Topic))
	}
	if len(t.ReplicaAssignment) > 0 {
		if t.NumPartitions != -1 || t.ReplicationFactor != -1 {
			return spec, refuse(kerr.InvalidRequest, "with a replica assignment, partitions and replication factor must be -1")
		}
		assignment, err := assignmentOf(t.ReplicaAssignment)
		if err != nil {
			return spec, err
		}
		if err := im.CheckAssignment(0, assignment); err != nil {
			return spec, err
		}
		spec.Assignment = assignment
		spec.Partitions, spec.ReplicationFactor = len(assignment), len(assignment[0])
	} else {
		spec.Partitions, spec.ReplicationFactor = int(t.NumPartitions), int(t.ReplicationFactor)
		// -1 means the broker's default. By KIP-464 it does so since v4, but Kafka looks at the version in its own client only, and kafkajs, which
		// knows no later one than v3, sends it for whoever names no number.
		if spec.Partitions == -1 {
			spec.Partitions = s.configInt("num.partitions")
		}
		if spec.ReplicationFactor == -1 {
			spec.ReplicationFactor = s.defaultReplication(im)
		}
		if spec.Partitions < 1 || spec.Partitions > coordinator.MaxPartitionsPerTopic {
			return spec, refuse(kerr.InvalidPartitions, fmt.Sprintf("%d partitions: allowed are 1 to %d", spec.Partitions, coordinator.MaxPartitionsPerTopic))
		}
		if live := len(im.LiveBrokers()); spec.ReplicationFactor < 1 || spec.ReplicationFactor > live {
			return spec, refuse(kerr.InvalidReplicationFactor, fmt.Sprintf("replication factor %d: %d brokers are alive", spec.ReplicationFactor, live))
		}
	}
	configs, err := newTopicConfigs(t.Configs)
	if err == nil {
		err = checkConditional(im, nil, configs, true)
	}
	if err == nil {
		err = checkDurability(im, t.Topic, nil, configs)
	}
	if err == nil {
		err = s.checkTopicConfigs(configs)
	}
	spec.Configs = configs
	return spec, err
}

// assignmentOf turns the wire's list into one by partition number: complete, and without repeats.
func assignmentOf(list []kmsg.CreateTopicsRequestTopicReplicaAssignment) ([][]raft.NodeID, error) {
	if len(list) > coordinator.MaxPartitionsPerTopic {
		return nil, refuse(kerr.InvalidPartitions, fmt.Sprintf("%d partitions: at most %d", len(list), coordinator.MaxPartitionsPerTopic))
	}
	out := make([][]raft.NodeID, len(list))
	for i := range list {
		a := &list[i]
		if a.Partition < 0 || int(a.Partition) >= len(list) || out[a.Partition] != nil {
			return nil, refuse(kerr.InvalidReplicaAssignment, fmt.Sprintf("partitions must be 0 to %d, each once; found %d", len(list)-1, a.Partition))
		}
		if len(a.Replicas) == 0 {
			return nil, refuse(kerr.InvalidReplicaAssignment, fmt.Sprintf("partition %d has no replicas", a.Partition))
		}
		nodes := make([]raft.NodeID, len(a.Replicas))
		for j, id := range a.Replicas {
			if id <= 0 {
				return nil, refuse(kerr.InvalidReplicaAssignment, fmt.Sprintf("there is no broker %d", id))
			}
			nodes[j] = raft.NodeID(id)
		}
		out[a.Partition] = nodes
	}
	return out, nil
}

// newTopicConfigs checks a new topic's configs against the table.
func newTopicConfigs(list []kmsg.CreateTopicsRequestTopicConfig) (map[string]string, error) {
	if len(list) == 0 {
		return nil, nil
	}
	out := make(map[string]string, len(list))
	for i := range list {
		c := &list[i]
		if c.Value == nil {
			return nil, refuse(kerr.InvalidConfig, fmt.Sprintf("config %s has no value", c.Name))
		}
		if _, ok := out[c.Name]; ok {
			return nil, refuse(kerr.InvalidConfig, fmt.Sprintf("config %s is given more than once", c.Name))
		}
		if err := checkTopicConfig(c.Name, *c.Value); err != nil {
			return nil, err
		}
		out[c.Name] = *c.Value
	}
	return out, nil
}

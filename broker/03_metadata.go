// Metadata (key 3), versions 0 to 13: brokers, topics, partitions, and who leads them.
//
// Answered from this broker's Image and leader table, without asking anyone. No list of topics means all (an empty one
// in v0, null after), an empty list none. v4 lets the client forbid the creation of topics, v10 names ids, v12 may ask by
// id alone, v13 has an error for the whole answer.
//
// A partition without a leader keeps its last epoch, as in Kafka: -1 has clients forget the one that they know (Java's do), and take what a
// broker tells that has not heard of the change yet; librdkafka takes -1 for old news, and goes on asking who leads no more.
//
// A topic that is asked for by name and does not exist is created, where the client and auto.create.topics.enable
// allow it. The answer waits a little for its leaders, so that clients need not come again.

package broker

import (
	"context"
	"errors"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/balsamq/balsa/coordinator"
	"github.com/balsamq/balsa/raft"
)

// autoCreateTimeout bounds the wait for topics being created; after it they are LEADER_NOT_AVAILABLE, which clients
// ask again about.
const autoCreateTimeout = 3 * time.Second

// What a client may do without an authorizer, as bits by Kafka's numbers of operations (KIP-430).
const (
	topicOperations   = 1<<3 | 1<<4 | 1<<5 | 1<<6 | 1<<7 | 1<<8 | 1<<10 | 1<<11
	clusterOperations = 1<<5 | 1<<7 | 1<<8 | 1<<9 | 1<<10 | 1<<11 | 1<<12
)

func (s *server) metadata(r *request) {
	req := r.msg.(*kmsg.MetadataRequest)
	im := s.b.Image()
	var missing []string
	if (req.Version < 4 || req.AllowAutoTopicCreation) && s.configBool("auto.create.topics.enable") {
		missing = missingTopics(im, req)
	}
	if len(missing) == 0 {
		r.respond(s.metadataAnswer(r, req, nil))
		return
	}
	topics := make([]newTopic, len(missing))
	for i, name := range missing {
		topics[i] = newTopic{Name: name, Partitions: s.configInt("num.partitions"), ReplicationFactor: s.defaultReplication(im)}
	}
	_ = r.mutates(len(topics)*topics[0].Partitions, false) // charged, and not refused: clients know nothing of that here
	ctx, cancel := context.WithTimeout(r.c.ctx, autoCreateTimeout)
	s.b.CreateTopics(ctx, topics, false, func(results []topicResult) {
		cancel()
		created := make(map[string]error, len(missing))
		for i, name := range missing {
			created[name] = results[i].Err
		}
		r.respond(s.metadataAnswer(r, req, created))
	})
}

// missingTopics are the valid names asked for that no topic has, once each.
func missingTopics(im *coordinator.Image, req *kmsg.MetadataRequest) []string {
	var names []string
	seen := make(map[string]struct{})
	for i := range req.Topics {
		t := &req.Topics[i]
		if t.Topic == nil || t.TopicID != ([16]byte{}) || im.Topic(*t.Topic) != nil || im.CheckNewTopic(*t.Topic) != nil || coordinator.IsInternalTopic(*t.Topic) {
			continue
		}
		if _, ok := seen[*t.Topic]; !ok {
			seen[*t.Topic] = struct{}{}
			names = append(names, *t.Topic)
		}
	}
	return names
}

// metadataAnswer builds the answer. created says how the creation of missing topics ended, by name.
func (s *server) metadataAnswer(r *request, req *kmsg.MetadataRequest, created map[string]error) *kmsg.MetadataResponse {
	im := s.b.Image()
	resp := kmsg.NewPtrMetadataResponse()
	resp.Version = req.Version
	if id := im.ClusterID(); id != "" {
		resp.ClusterID = &id
	}
	resp.ControllerID = controllerID(s.b)
	if req.IncludeClusterAuthorizedOperations {
		resp.AuthorizedOperations = clusterOperations
	}
	for _, b := range s.visibleBrokers(im) {
		ep, ok := b.Endpoint(r.c.listener)
		if !ok {
			continue
		}
		n := kmsg.NewMetadataResponseBroker()
		n.NodeID, n.Host, n.Port, n.Rack = int32(b.ID), ep.Host, ep.Port, optional(b.Rack)
		resp.Brokers = append(resp.Brokers, n)
	}
	if req.Topics == nil || req.Version == 0 && len(req.Topics) == 0 {
		all := im.Topics()
		resp.Topics = make([]kmsg.MetadataResponseTopic, len(all))
		for i, t := range all {
			s.describeTopic(&resp.Topics[i], im, t, req, r.c.listener)
		}
		return resp
	}
	resp.Topics = make([]kmsg.MetadataResponseTopic, len(req.Topics))
	for i := range req.Topics {
		t, place := &req.Topics[i], &resp.Topics[i]
		place.Default()
		place.Topic, place.TopicID = t.Topic, t.TopicID
		if place.Topic == nil && req.Version < 12 {
			place.Topic = new(string) // null is not possible yet
		}
		topic, err := metadataTopic(im, req.Version, t, created)
		if err != nil {
			place.ErrorCode = codeOf(err)
			continue
		}
		s.describeTopic(place, im, topic, req, r.c.listener)
	}
	return resp
}

// metadataTopic finds a topic asked for.
func metadataTopic(im *coordinator.Image, version int16, t *kmsg.MetadataRequestTopic, created map[string]error) (*coordinator.Topic, error) {
	if t.TopicID != ([16]byte{}) {
		if version < 12 {
			return nil, kerr.InvalidRequest // v10 and v11 have the field, and no right to use it (KAFKA-10774)
		}
		return findTopic(im, true, "", t.TopicID)
	}
	if t.Topic == nil {
		return nil, kerr.InvalidTopicException
	}
	if topic := im.Topic(*t.Topic); topic != nil {
		return topic, nil
	}
	if err := coordinator.CheckTopicName(*t.Topic); err != nil {
		return nil, err
	}
	err, tried := created[*t.Topic]
	switch {
	case !tried:
		// A name that collides with another topic's was never tried: say so rather than let the client wait for it.
		if err := im.CheckNewTopic(*t.Topic); err != nil && created != nil {
			return nil, err
		}
		return nil, kerr.UnknownTopicOrPartition
	case err == nil, errors.Is(err, coordinator.ErrTopicExists), errors.Is(err, context.DeadlineExceeded):
		return nil, kerr.LeaderNotAvailable // on its way
	}
	return nil, err
}

// visibleBrokers are those that clients may be sent to: the live ones, and this one, whatever the controller thinks of it.
func (s *server) visibleBrokers(im *coordinator.Image) []*coordinator.Broker {
	live := im.LiveBrokers()
	for _, b := range live {
		if b.ID == s.b.NodeID() {
			return live
		}
	}
	if self := im.Broker(s.b.NodeID()); self != nil {
		live = append(append([]*coordinator.Broker(nil), live...), self)
	}
	return live
}

func controllerID(b backend) int32 {
	if id := b.Controller(); id != 0 {
		return int32(id)
	}
	return -1
}

func (s *server) describeTopic(place *kmsg.MetadataResponseTopic, im *coordinator.Image, t *coordinator.Topic, req *kmsg.MetadataRequest, listener string) {
	place.Default()
	name := t.Name
	place.Topic, place.TopicID, place.IsInternal = &name, t.ID, t.Internal()
	if req.IncludeTopicAuthorizedOperations {
		place.AuthorizedOperations = topicOperations
	}
	place.Partitions = make([]kmsg.MetadataResponseTopicPartition, len(t.Partitions))
	for i := range t.Partitions {
		p := &place.Partitions[i]
		p.Default()
		p.Partition, p.Leader, p.LeaderEpoch = int32(i), -1, -1
		p.Replicas, p.ISR, p.OfflineReplicas = s.replicasOf(im, t, int32(i))
		leader, epoch, ok := s.b.Leader(t.ID, int32(i))
		if epoch > 0 {
			p.LeaderEpoch = epoch
		}
		// A leader that is not alive, or cannot be reached by way of this listener, is none: the client could not find it in the list of brokers.
		switch {
		case !ok || leader != s.b.NodeID() && !alive(im, leader):
			p.ErrorCode = kerr.LeaderNotAvailable.Code
		case !listens(im, leader, listener):
			p.ErrorCode = kerr.ListenerNotFound.Code
		default:
			p.Leader = int32(leader)
		}
	}
}

func listens(im *coordinator.Image, id raft.NodeID, listener string) bool {
	b := im.Broker(id)
	if b == nil {
		return false
	}
	_, ok := b.Endpoint(listener)
	return ok
}

func alive(im *coordinator.Image, id raft.NodeID) bool {
	b := im.Broker(id)
	return b != nil && !b.Fenced
}

// replicasOf lists a partition's replicas: all (while it moves those that it has and those that it gets, as Kafka does), those in sync, by the leader's word, and those
// whose broker is not alive.
func (s *server) replicasOf(im *coordinator.Image, t *coordinator.Topic, p int32) (all, isr, offline []int32) {
	all, isr, offline = []int32{}, []int32{}, []int32{}
	for _, id := range t.Partitions[p].Nodes() {
		all = append(all, int32(id))
		if id != s.b.NodeID() && !alive(im, id) {
			offline = append(offline, int32(id))
		}
	}
	for _, id := range s.b.InSync(t.ID, p) {
		isr = append(isr, int32(id))
	}
	return all, isr, offline
}

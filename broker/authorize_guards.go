// The guards of those APIs that are like no other: metadata, topics by name or id, coordinators, offsets, transactions.

package broker

import (
	"slices"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/balsamq/balsa/coordinator"
)

// mayCreate: a topic, by a right on the cluster or on the topic.
func (r *request) mayCreate(name string) bool {
	return r.mayQuietly(coordinator.OpCreate, onCluster, coordinator.ClusterResource) || r.may(coordinator.OpCreate, onTopic, name)
}

// metadataGuard: of all topics those are shown that may be described; one that is asked for by name is refused, by id unknown.
func metadataGuard(s *server, r *request) kmsg.Response {
	req := r.msg.(*kmsg.MetadataRequest)
	im := s.b.Image()
	everything := req.Topics == nil || req.Version == 0 && len(req.Topics) == 0
	var refused []kmsg.MetadataResponseTopic
	creates := (req.Version < 4 || req.AllowAutoTopicCreation) && s.configBool("auto.create.topics.enable")
	req.Topics = slices.DeleteFunc(req.Topics, func(t kmsg.MetadataRequestTopic) bool {
		e := kmsg.NewMetadataResponseTopic()
		e.Topic = t.Topic
		if e.Topic == nil && req.Version < 12 {
			e.Topic = new(string)
		}
		name := ""
		switch {
		case t.TopicID != [16]byte{}:
			topic := im.TopicByID(t.TopicID)
			if topic == nil {
				return false
			}
			name, e.TopicID, e.ErrorCode = topic.Name, t.TopicID, kerr.UnknownTopicID.Code
		case t.Topic == nil:
			return false
		default:
			name, e.ErrorCode = *t.Topic, kerr.TopicAuthorizationFailed.Code
		}
		if r.may(coordinator.OpDescribe, onTopic, name) && (!creates || e.TopicID != [16]byte{} || im.Topic(name) != nil || r.mayCreate(name)) {
			return false
		}
		refused = append(refused, e)
		return true
	})
	if !everything && len(req.Topics) == 0 {
		req.Topics = []kmsg.MetadataRequestTopic{} // none, which is not all
		if req.Version == 0 {
			req.Version = 1 // where an empty list does not mean all; the answer has the header's
		}
	}
	r.amendWith(func(resp kmsg.Response) {
		m := resp.(*kmsg.MetadataResponse)
		if everything {
			m.Topics = slices.DeleteFunc(m.Topics, func(t kmsg.MetadataResponseTopic) bool {
				return !r.mayQuietly(coordinator.OpDescribe, onTopic, *t.Topic)
			})
		}
		if req.IncludeTopicAuthorizedOperations {
			for i := range m.Topics {
				if t := &m.Topics[i]; t.ErrorCode == 0 && t.Topic != nil {
					t.AuthorizedOperations = r.operations(onTopic, *t.Topic)
				}
			}
		}
		if req.IncludeClusterAuthorizedOperations {
			m.AuthorizedOperations = r.clusterOperations()
		}
		m.Topics = append(m.Topics, refused...)
	})
	return nil
}

func (r *request) clusterOperations() int32 {
	if !r.mayQuietly(coordinator.OpDescribe, onCluster, coordinator.ClusterResource) {
		return 0
	}
	return r.operations(onCluster, coordinator.ClusterResource)
}

func describeClusterGuard(_ *server, r *request) kmsg.Response {
	if r.msg.(*kmsg.DescribeClusterRequest).IncludeClusterAuthorizedOperations {
		r.amendWith(func(resp kmsg.Response) {
			if d := resp.(*kmsg.DescribeClusterResponse); d.ErrorCode == 0 {
				d.ClusterAuthorizedOperations = r.clusterOperations()
			}
		})
	}
	return nil
}

func topicPartitionsGuard(s *server, r *request) kmsg.Response {
	req := r.msg.(*kmsg.DescribeTopicPartitionsRequest)
	if len(req.Topics) == 0 {
		// All are those that may be described, and are named to the handler: its pages and their cursors are to know of no other.
		for _, t := range s.b.Image().Topics() {
			if r.mayQuietly(coordinator.OpDescribe, onTopic, t.Name) {
				req.Topics = append(req.Topics, kmsg.DescribeTopicPartitionsRequestTopic{Topic: t.Name})
			}
		}
		if len(req.Topics) == 0 {
			return req.ResponseKind()
		}
	}
	var refused []kmsg.DescribeTopicPartitionsResponseTopic
	req.Topics = slices.DeleteFunc(req.Topics, func(t kmsg.DescribeTopicPartitionsRequestTopic) bool {
		if r.may(coordinator.OpDescribe, onTopic, t.Topic) {
			return false
		}
		e := kmsg.NewDescribeTopicPartitionsResponseTopic()
		e.Topic, e.ErrorCode = &t.Topic, kerr.TopicAuthorizationFailed.Code
		refused = append(refused, e)
		return true
	})
	if len(req.Topics) == 0 { // none, which would mean all
		resp := req.ResponseKind().(*kmsg.DescribeTopicPartitionsResponse)
		resp.Topics = refused
		return resp
	}
	r.amendWith(func(resp kmsg.Response) {
		d := resp.(*kmsg.DescribeTopicPartitionsResponse)
		for i := range d.Topics {
			if t := &d.Topics[i]; t.ErrorCode == 0 && t.Topic != nil {
				t.AuthorizedOperations = r.operations(onTopic, *t.Topic)
			}
		}
		d.Topics = append(d.Topics, refused...)
	})
	return nil
}

func createTopicsGuard(_ *server, r *request) kmsg.Response {
	req := r.msg.(*kmsg.CreateTopicsRequest)
	var refused []kmsg.CreateTopicsResponseTopic
	req.Topics = slices.DeleteFunc(req.Topics, func(t kmsg.CreateTopicsRequestTopic) bool {
		if r.mayCreate(t.Topic) {
			return false
		}
		e := kmsg.NewCreateTopicsResponseTopic()
		e.Topic, e.NumPartitions, e.ReplicationFactor = t.Topic, -1, -1
		setError(&e, kerr.TopicAuthorizationFailed)
		refused = append(refused, e)
		return true
	})
	r.amendWith(func(resp kmsg.Response) {
		c := resp.(*kmsg.CreateTopicsResponse)
		for i := range c.Topics {
			if t := &c.Topics[i]; t.ErrorCode == 0 && !r.mayQuietly(coordinator.OpDescribeConfigs, onTopic, t.Topic) {
				t.Configs, t.ConfigErrorCode, t.NumPartitions, t.ReplicationFactor = nil, kerr.TopicAuthorizationFailed.Code, -1, -1
			}
		}
		c.Topics = append(c.Topics, refused...)
	})
	return nil
}

func deleteTopicsGuard(s *server, r *request) kmsg.Response {
	req := r.msg.(*kmsg.DeleteTopicsRequest)
	im := s.b.Image()
	var refused []kmsg.DeleteTopicsResponseTopic
	drop := func(name *string, id coordinator.TopicID) bool {
		e := kmsg.NewDeleteTopicsResponseTopic()
		e.Topic, e.TopicID = name, id
		if name == nil {
			t := im.TopicByID(id)
			if t == nil {
				return false
			}
			// The id is no secret to whoever has it; the name may be.
			if name = &t.Name; r.mayQuietly(coordinator.OpDescribe, onTopic, t.Name) {
				e.Topic = name
			}
		}
		if r.may(coordinator.OpDelete, onTopic, *name) {
			return false
		}
		setError(&e, kerr.TopicAuthorizationFailed)
		refused = append(refused, e)
		return true
	}
	req.Topics = slices.DeleteFunc(req.Topics, func(t kmsg.DeleteTopicsRequestTopic) bool { return drop(t.Topic, t.TopicID) })
	req.TopicNames = slices.DeleteFunc(req.TopicNames, func(name string) bool { return drop(&name, coordinator.TopicID{}) })
	r.amendWith(func(resp kmsg.Response) {
		d := resp.(*kmsg.DeleteTopicsResponse)
		d.Topics = append(d.Topics, refused...)
	})
	return nil
}

func findCoordinatorGuard(_ *server, r *request) kmsg.Response {
	req := r.msg.(*kmsg.FindCoordinatorRequest)
	t := onGroup
	switch req.CoordinatorType {
	case coordinatesTxn:
		t = onTxn
	case coordinatesGroup:
	default:
		return nil // the handler refuses it
	}
	no := func(key string) *kmsg.FindCoordinatorResponseCoordinator {
		if r.may(coordinator.OpDescribe, t, key) {
			return nil
		}
		c := kmsg.NewFindCoordinatorResponseCoordinator()
		c.Key, c.NodeID, c.Port = key, -1, -1
		setError(&c, refusedCode(t))
		return &c
	}
	if req.Version < 4 {
		c := no(req.CoordinatorKey)
		if c == nil {
			return nil
		}
		resp := req.ResponseKind().(*kmsg.FindCoordinatorResponse)
		resp.ErrorCode, resp.ErrorMessage, resp.NodeID, resp.Port = c.ErrorCode, c.ErrorMessage, c.NodeID, c.Port
		return resp
	}
	var refused []kmsg.FindCoordinatorResponseCoordinator
	req.CoordinatorKeys = slices.DeleteFunc(req.CoordinatorKeys, func(key string) bool {
		c := no(key)
		if c != nil {
			refused = append(refused, *c)
		}
		return c != nil
	})
	r.amendWith(func(resp kmsg.Response) {
		f := resp.(*kmsg.FindCoordinatorResponse)
		f.Coordinators = append(f.Coordinators, refused...)
	})
	return nil
}

// groupOperationsGuard tells what may be done to the groups of DescribeGroups and ConsumerGroupDescribe.
func groupOperationsGuard(_ *server, r *request) kmsg.Response {
	switch req := r.msg.(type) {
	case *kmsg.DescribeGroupsRequest:
		if req.IncludeAuthorizedOperations {
			r.amendWith(func(resp kmsg.Response) {
				d := resp.(*kmsg.DescribeGroupsResponse)
				for i := range d.Groups {
					if g := &d.Groups[i]; g.ErrorCode == 0 {
						g.AuthorizedOperations = r.operations(onGroup, g.Group)
					}
				}
			})
		}
	case *kmsg.ConsumerGroupDescribeRequest:
		r.amendWith(func(resp kmsg.Response) {
			d := resp.(*kmsg.ConsumerGroupDescribeResponse)
			for i := range d.Groups {
				g := &d.Groups[i]
				switch {
				case g.ErrorCode != 0:
				case r.hidesTopics(g):
					*g = kmsg.ConsumerGroupDescribeResponseGroup{Group: g.Group}
					setError(g, kerr.TopicAuthorizationFailed)
				case req.IncludeAuthorizedOperations:
					g.AuthorizedOperations = r.operations(onGroup, g.Group)
				}
			}
		})
	}
	return nil
}

// hidesTopics: the members of a group read topics that the principal may not see. Then it is shown none of the group, as in Kafka.
func (r *request) hidesTopics(g *kmsg.ConsumerGroupDescribeResponseGroup) bool {
	hidden := func(name string) bool { return !r.mayQuietly(coordinator.OpDescribe, onTopic, name) }
	return slices.ContainsFunc(g.Members, func(m kmsg.ConsumerGroupDescribeResponseGroupMember) bool {
		assigned := func(tp kmsg.AssignmentTopicPartition) bool { return hidden(tp.Topic) }
		return slices.ContainsFunc(m.SubscribedTopics, hidden) || slices.ContainsFunc(m.Assignment.TopicPartitions, assigned) ||
			slices.ContainsFunc(m.TargetAssignment.TopicPartitions, assigned)
	})
}

// offsetFetchGuard: a group is refused as a whole; of its topics those that are asked for are refused, and of all the others left out.
func offsetFetchGuard(s *server, r *request) kmsg.Response {
	req := r.msg.(*kmsg.OffsetFetchRequest)
	im := s.b.Image()
	topicName := func(name string, id [16]byte) string {
		if t := im.TopicByID(id); req.Version >= 10 && t != nil {
			return t.Name
		}
		return name
	}
	if req.Version < 8 {
		if !r.may(coordinator.OpDescribe, onGroup, req.Group) {
			if req.Version < 2 {
				return perPartition(r, kerr.GroupAuthorizationFailed)
			}
			return topLevel(r, kerr.GroupAuthorizationFailed)
		}
		if req.Topics != nil {
			return topics(coordinator.OpDescribe)(s, r)
		}
		r.amendWith(func(resp kmsg.Response) {
			dropElements(resp, "Topics", func(e any) bool { return r.mayQuietly(coordinator.OpDescribe, onTopic, textField(e, "Topic")) })
		})
		return nil
	}
	var groups []kmsg.OffsetFetchResponseGroup // refused
	refused := make(map[string][]askedTopic)   // of the others, by group
	all := make(map[string]bool)
	req.Groups = slices.DeleteFunc(req.Groups, func(g kmsg.OffsetFetchRequestGroup) bool {
		if r.may(coordinator.OpDescribe, onGroup, g.Group) {
			return false
		}
		e := kmsg.NewOffsetFetchResponseGroup()
		e.Group = g.Group
		setError(&e, kerr.GroupAuthorizationFailed)
		groups = append(groups, e)
		return true
	})
	for i := range req.Groups {
		g := &req.Groups[i]
		if all[g.Group] = g.Topics == nil; g.Topics == nil {
			continue
		}
		g.Topics = slices.DeleteFunc(g.Topics, func(t kmsg.OffsetFetchRequestGroupTopic) bool {
			if req.Version >= 10 && im.TopicByID(t.TopicID) == nil || r.may(coordinator.OpDescribe, onTopic, topicName(t.Topic, t.TopicID)) {
				return false
			}
			refused[g.Group] = append(refused[g.Group], topicOf(&t))
			return true
		})
	}
	r.amendWith(func(resp kmsg.Response) {
		f := resp.(*kmsg.OffsetFetchResponse)
		for i := range f.Groups {
			g := &f.Groups[i]
			if all[g.Group] {
				g.Topics = slices.DeleteFunc(g.Topics, func(t kmsg.OffsetFetchResponseGroupTopic) bool {
					return !r.mayQuietly(coordinator.OpDescribe, onTopic, topicName(t.Topic, t.TopicID))
				})
			}
			for _, t := range refused[g.Group] {
				appendTopic(g, t, kerr.TopicAuthorizationFailed)
			}
		}
		f.Groups = append(f.Groups, groups...)
	})
	return nil
}

func initProducerIDGuard(_ *server, r *request) kmsg.Response {
	req := r.msg.(*kmsg.InitProducerIDRequest)
	switch {
	case req.TransactionalID != nil:
		if !r.may(coordinator.OpWrite, onTxn, *req.TransactionalID) {
			return topLevel(r, kerr.TransactionalIDAuthorizationFailed)
		}
	case !r.mayAny(coordinator.OpWrite, onTopic) && !r.may(coordinator.OpIdempotentWrite, onCluster, coordinator.ClusterResource):
		return topLevel(r, kerr.ClusterAuthorizationFailed)
	}
	return nil
}

// addPartitionsGuard: what brokers send to each other (v4 and later, for many transactions) takes a right on the cluster.
func addPartitionsGuard(_ *server, r *request) kmsg.Response {
	req := r.msg.(*kmsg.AddPartitionsToTxnRequest)
	if req.Version >= 4 {
		if !r.may(coordinator.OpClusterAction, onCluster, coordinator.ClusterResource) {
			return topLevel(r, kerr.ClusterAuthorizationFailed)
		}
		return nil
	}
	if !r.may(coordinator.OpWrite, onTxn, req.TransactionalID) {
		return perPartition(r, kerr.TransactionalIDAuthorizationFailed)
	}
	// It is all partitions or none.
	if slices.ContainsFunc(req.Topics, func(t kmsg.AddPartitionsToTxnRequestTopic) bool {
		return !r.mayQuietly(coordinator.OpWrite, onTopic, t.Topic)
	}) {
		resp := r.msg.ResponseKind()
		for _, t := range allTopics(r.msg) {
			code := kerr.OperationNotAttempted
			if !r.may(coordinator.OpWrite, onTopic, t.name) {
				code = kerr.TopicAuthorizationFailed
			}
			appendTopic(resp, t, code)
		}
		return resp
	}
	return nil
}

// subscriptionGuard: a member of a group must be able to see what it subscribes to.
func subscriptionGuard(_ *server, r *request) kmsg.Response {
	for _, name := range r.msg.(*kmsg.ConsumerGroupHeartbeatRequest).SubscribedTopicNames {
		if !r.may(coordinator.OpDescribe, onTopic, name) {
			return topLevel(r, kerr.TopicAuthorizationFailed)
		}
	}
	return nil
}

// Refusals of whole requests whose answers have no place for one.

func electionRefused(r *request, code *kerr.Error) kmsg.Response {
	if r.header.Version > 0 {
		return topLevel(r, code)
	}
	return perPartition(r, code)
}

func quotasRefused(r *request, code *kerr.Error) kmsg.Response {
	resp := r.msg.ResponseKind().(*kmsg.AlterClientQuotasResponse)
	for _, q := range r.msg.(*kmsg.AlterClientQuotasRequest).Entries {
		e := kmsg.NewAlterClientQuotasResponseEntry()
		setError(&e, code)
		for _, p := range q.Entity {
			e.Entity = append(e.Entity, kmsg.AlterClientQuotasResponseEntryEntity{Type: p.Type, Name: p.Name})
		}
		resp.Entries = append(resp.Entries, e)
	}
	return resp
}

func usersRefused(r *request, code *kerr.Error) kmsg.Response {
	req := r.msg.(*kmsg.AlterUserSCRAMCredentialsRequest)
	resp := req.ResponseKind().(*kmsg.AlterUserSCRAMCredentialsResponse)
	seen := make(map[string]bool)
	add := func(user string) {
		if !seen[user] {
			seen[user] = true
			e := kmsg.NewAlterUserSCRAMCredentialsResponseResult()
			e.User = user
			setError(&e, code)
			resp.Results = append(resp.Results, e)
		}
	}
	for i := range req.Deletions {
		add(req.Deletions[i].Name)
	}
	for i := range req.Upsertions {
		add(req.Upsertions[i].Name)
	}
	return resp
}

func logDirsRefused(r *request, code *kerr.Error) kmsg.Response {
	resp := r.msg.ResponseKind()
	for _, d := range r.msg.(*kmsg.AlterReplicaLogDirsRequest).Dirs {
		for i := range d.Topics {
			appendTopic(resp, topicOf(&d.Topics[i]), code)
		}
	}
	return resp
}

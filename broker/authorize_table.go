// What each API takes: operation and resource, as Kafka documents it ("Authorization primitives"). A guard stands before the
// handler. It answers for it, or takes out of the request what may not be asked for and puts that into the answer as errors.
//
// The table has lines for all APIs of Kafka that this broker may come to serve; one that is served without a line does not start.

package broker

import (
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/balsamq/balsa/coordinator"
)

const (
	onTopic   = coordinator.ResourceTopic
	onGroup   = coordinator.ResourceGroup
	onCluster = coordinator.ResourceCluster
	onTxn     = coordinator.ResourceTransactionalID
)

// guard decides about a request. With an answer the handler is not called. Without one it is, and r.amend, if the guard has set
// it, completes the handler's answer.
type guard func(s *server, r *request) (answer kmsg.Response)

// guards are the table, by key.
var guards = [lastAPIKey]guard{
	0:  asksItself, // WRITE topic, WRITE transactional id
	1:  asksItself, // READ topic
	2:  topics(coordinator.OpDescribe),
	3:  metadataGuard, // DESCRIBE topic; CREATE cluster or topic to create one
	8:  all(ofGroup(coordinator.OpRead, perPartition), topics(coordinator.OpRead)),
	9:  offsetFetchGuard,     // DESCRIBE group, DESCRIBE topic
	10: findCoordinatorGuard, // DESCRIBE group or transactional id
	11: ofGroup(coordinator.OpRead, topLevel),
	12: ofGroup(coordinator.OpRead, topLevel),
	13: ofGroup(coordinator.OpRead, topLevel),
	14: ofGroup(coordinator.OpRead, topLevel),
	15: all(names("Groups", "Groups", "Group", coordinator.OpDescribe, onGroup), groupOperationsGuard),
	16: listGuard("Groups", "Group", coordinator.OpDescribe, onGroup),
	17: free,
	18: free,
	19: createTopicsGuard, // CREATE cluster or topic; DESCRIBE_CONFIGS topic to be told them
	20: deleteTopicsGuard, // DELETE topic; DESCRIBE topic to be told its name
	21: topics(coordinator.OpDelete),
	22: initProducerIDGuard, // WRITE transactional id; IDEMPOTENT_WRITE cluster, or WRITE on any topic
	23: topics(coordinator.OpDescribe),
	24: all(addPartitionsGuard, topics(coordinator.OpWrite)),
	25: all(ofTxn(coordinator.OpWrite, topLevel), ofGroup(coordinator.OpRead, topLevel)),
	26: ofTxn(coordinator.OpWrite, topLevel),
	28: all(ofTxn(coordinator.OpWrite, perPartition), ofGroup(coordinator.OpRead, perPartition), topics(coordinator.OpRead)),
	29: ofCluster(coordinator.OpDescribe, topLevel),
	30: ofCluster(coordinator.OpAlter, each("Creations", "Results")),
	31: ofCluster(coordinator.OpAlter, each("Filters", "Results")),
	32: configs(coordinator.OpDescribeConfigs),
	33: configs(coordinator.OpAlterConfigs),
	34: ofCluster(coordinator.OpAlter, logDirsRefused),
	35: ofCluster(coordinator.OpDescribe, topLevel),
	36: free,
	37: topics(coordinator.OpAlter),
	42: names("Groups", "Groups", "Group", coordinator.OpDelete, onGroup),
	43: ofCluster(coordinator.OpAlter, electionRefused),
	44: configs(coordinator.OpAlterConfigs),
	45: ofCluster(coordinator.OpAlter, topLevel),
	46: ofCluster(coordinator.OpDescribe, topLevel),
	47: all(ofGroup(coordinator.OpDelete, topLevel), topics(coordinator.OpRead)),
	48: ofCluster(coordinator.OpDescribeConfigs, topLevel),
	49: ofCluster(coordinator.OpAlterConfigs, quotasRefused),
	50: ofCluster(coordinator.OpDescribe, topLevel),
	51: ofCluster(coordinator.OpAlter, usersRefused),
	55: ofCluster(coordinator.OpDescribe, topLevel),
	57: ofCluster(coordinator.OpAlter, topLevel),
	60: describeClusterGuard, // nothing; what may be done is told to those who may DESCRIBE cluster
	61: topics(coordinator.OpRead),
	64: ofCluster(coordinator.OpAlter, topLevel),
	65: names("TransactionalIDs", "TransactionStates", "TransactionalID", coordinator.OpDescribe, onTxn),
	66: listGuard("TransactionStates", "TransactionalID", coordinator.OpDescribe, onTxn),
	68: all(ofGroup(coordinator.OpRead, topLevel), subscriptionGuard), // and DESCRIBE topic
	69: all(names("Groups", "Groups", "Group", coordinator.OpDescribe, onGroup), groupOperationsGuard),
	74: ofCluster(coordinator.OpDescribeConfigs, topLevel),
	75: topicPartitionsGuard, // DESCRIBE topic
}

func init() {
	for _, a := range apis {
		if a != nil && guards[a.key] == nil {
			panic("broker: nobody has said who may ask for " + kmsg.NameForKey(a.key))
		}
	}
}

// dispatch runs a request's guard, and its handler if the guard lets it. There is no other way to a handler.
func (s *server) dispatch(r *request) {
	if s.o.Security.Authorizer != nil {
		if answer := guards[r.header.Key](s, r); answer != nil {
			r.respond(answer)
			return
		}
	}
	findAPI(r.header.Key).serve(s, r)
}

func free(*server, *request) kmsg.Response       { return nil }
func asksItself(*server, *request) kmsg.Response { return nil }

// all are several guards, of which the first that answers ends it.
func all(list ...guard) guard {
	return func(s *server, r *request) kmsg.Response {
		for _, g := range list {
			if answer := g(s, r); answer != nil {
				return answer
			}
		}
		return nil
	}
}

// refusal of a whole request.
type refuser func(r *request, code *kerr.Error) kmsg.Response

func ofCluster(op coordinator.Operation, no refuser) guard {
	return func(_ *server, r *request) kmsg.Response {
		if r.may(op, onCluster, coordinator.ClusterResource) {
			return nil
		}
		return no(r, kerr.ClusterAuthorizationFailed)
	}
}

// ofGroup is for requests with one field Group, ofTxn with one field TransactionalID.
func ofGroup(op coordinator.Operation, no refuser) guard {
	return byField("Group", op, onGroup, no)
}

func ofTxn(op coordinator.Operation, no refuser) guard {
	return byField("TransactionalID", op, onTxn, no)
}

func byField(field string, op coordinator.Operation, t coordinator.ResourceType, no refuser) guard {
	return func(_ *server, r *request) kmsg.Response {
		if r.may(op, t, textField(r.msg, field)) {
			return nil
		}
		return no(r, refusedCode(t))
	}
}

func refusedCode(t coordinator.ResourceType) *kerr.Error {
	switch t {
	case onTopic:
		return kerr.TopicAuthorizationFailed
	case onGroup:
		return kerr.GroupAuthorizationFailed
	case onTxn:
		return kerr.TransactionalIDAuthorizationFailed
	}
	return kerr.ClusterAuthorizationFailed
}

// Kinds of refusal.

func topLevel(r *request, code *kerr.Error) kmsg.Response {
	resp := r.msg.ResponseKind()
	setError(resp, code)
	switch resp := resp.(type) {
	case *kmsg.JoinGroupResponse:
		resp.Generation = -1
		if resp.Version < 7 {
			resp.Protocol = new(string) // null is not possible yet
		}
	case *kmsg.InitProducerIDResponse:
		resp.ProducerID, resp.ProducerEpoch = -1, -1
	}
	return resp
}

// perPartition answers the same for all partitions of a request.
func perPartition(r *request, code *kerr.Error) kmsg.Response {
	resp := r.msg.ResponseKind()
	for _, t := range allTopics(r.msg) {
		appendTopic(resp, t, code)
	}
	return resp
}

// each answers the same for each element of a list.
func each(asked, answered string) refuser {
	return func(r *request, code *kerr.Error) kmsg.Response {
		resp := r.msg.ResponseKind()
		for range listLen(r.msg, asked) {
			setError(appendElement(resp, answered), code)
		}
		return resp
	}
}

// Kinds of guards for what a request names.

// topics takes the topics out that op may not be done to.
func topics(op coordinator.Operation) guard {
	return func(s *server, r *request) kmsg.Response {
		im := s.b.Image()
		refused := dropTopics(r.msg, func(name string, id coordinator.TopicID) bool {
			if name == "" && !id.IsZero() {
				t := im.TopicByID(id)
				if t == nil {
					return true // the handler's to say
				}
				name = t.Name
			}
			return r.may(op, onTopic, name)
		})
		if len(refused) > 0 {
			r.amendWith(func(resp kmsg.Response) {
				for _, t := range refused {
					appendTopic(resp, t, kerr.TopicAuthorizationFailed)
				}
			})
		}
		return nil
	}
}

// names is topics for a list of names of another type.
func names(asked, answered, field string, op coordinator.Operation, t coordinator.ResourceType) guard {
	return func(_ *server, r *request) kmsg.Response {
		refused := dropNames(r.msg, asked, func(name string) bool { return r.may(op, t, name) })
		if len(refused) > 0 {
			r.amendWith(func(resp kmsg.Response) {
				for _, name := range refused {
					e := appendElement(resp, answered)
					setText(e, field, name)
					setError(e, refusedCode(t))
				}
			})
		}
		return nil
	}
}

// listGuard leaves out of the answer what may not be seen. Whoever may describe the cluster sees all.
func listGuard(answered, field string, op coordinator.Operation, t coordinator.ResourceType) guard {
	return func(_ *server, r *request) kmsg.Response {
		if t == onGroup && r.mayQuietly(coordinator.OpDescribe, onCluster, coordinator.ClusterResource) {
			return nil
		}
		r.amendWith(func(resp kmsg.Response) {
			dropElements(resp, answered, func(e any) bool { return r.mayQuietly(op, t, textField(e, field)) })
		})
		return nil
	}
}

// configs is for the configs of topics, groups, brokers and what else has any.
func configs(op coordinator.Operation) guard {
	return func(_ *server, r *request) kmsg.Response {
		refused := dropConfigs(r.msg, func(kind kmsg.ConfigResourceType, name string) (coordinator.ResourceType, bool) {
			switch kind {
			case kmsg.ConfigResourceTypeTopic:
				return onTopic, r.may(op, onTopic, name)
			case resourceGroup:
				return onGroup, r.may(op, onGroup, name)
			}
			return onCluster, r.may(op, onCluster, coordinator.ClusterResource)
		})
		if len(refused) > 0 {
			r.amendWith(func(resp kmsg.Response) {
				for _, c := range refused {
					appendConfig(resp, c, refusedCode(c.on))
				}
			})
		}
		return nil
	}
}

// amendWith adds to what completes the handler's answer.
func (r *request) amendWith(fn func(kmsg.Response)) {
	if before := r.amend; before != nil {
		r.amend = func(resp kmsg.Response) {
			before(resp)
			fn(resp)
		}
		return
	}
	r.amend = fn
}

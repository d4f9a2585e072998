package broker

// Who may do what: every API in every version as somebody who may do nothing, as somebody who may do just that, and as a super user.

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/balsamq/balsa/coordinator"
)

// aclHarness is a server with an authorizer, whose clients are User:ANONYMOUS.
type aclHarness struct {
	*kafkaHarness
	audit *lockedBuffer
}

func newACLHarness(t testing.TB, everyone bool, supers ...string) *aclHarness {
	audit := new(lockedBuffer)
	h := newHarnessOn(t, serverOptions{}, Listener{Name: ProtocolPlaintext, Protocol: ProtocolPlaintext}, func(b *fakeBackend, o *serverOptions) {
		o.Security.Authorizer = newAuthorizer(b.Image, everyone, textLog(audit))
		o.Security.Audit = textLog(audit)
		o.Security.Supers = make(map[string]struct{})
		for _, s := range supers {
			o.Security.Supers[s] = struct{}{}
		}
	})
	return &aclHarness{h, audit}
}

func allow(op coordinator.Operation, t coordinator.ResourceType, name string) coordinator.ACL {
	return coordinator.ACL{Type: t, Name: name, Pattern: coordinator.PatternLiteral, Principal: anonymous, Host: "*", Operation: op, Permission: coordinator.PermissionAllow}
}

func (h *aclHarness) grant(acls ...coordinator.ACL) {
	h.t.Helper()
	if r := h.back.apply(&coordinator.Command{AlterACLs: &coordinator.AlterACLs{Create: acls}}); r.Err() != nil {
		h.t.Fatal(r.Err())
	}
}

func (h *aclHarness) revokeAll() {
	h.back.apply(&coordinator.Command{AlterACLs: &coordinator.AlterACLs{Delete: []coordinator.ACLFilter{{Type: coordinator.ResourceAny, Pattern: coordinator.PatternAny, Operation: coordinator.OpAny, Permission: coordinator.PermissionAny}}}})
}

// secret names everything in the requests of these tests.
const secret = "secret"

// secretRequest is a request of an API that names one secret of each kind.
func secretRequest(key, version int16, topicID [16]byte) kmsg.Request {
	req := kmsg.RequestForKey(key)
	fillSecret(reflect.ValueOf(req).Elem(), topicID)
	req.SetVersion(version)
	switch r := req.(type) {
	case *kmsg.ProduceRequest:
		r.TransactionID, r.Acks = nil, 1
	case *kmsg.InitProducerIDRequest:
		r.TransactionalID, r.ProducerID, r.ProducerEpoch = nil, -1, -1
	case *kmsg.MetadataRequest:
		if version < 12 {
			r.Topics[0].TopicID = [16]byte{}
		}
	case *kmsg.DeleteTopicsRequest:
		r.Topics[0].Topic = nil
	case *kmsg.FetchRequest:
		r.SessionEpoch = -1
	case *kmsg.ListGroupsRequest:
		r.StatesFilter, r.TypesFilter = nil, nil
	}
	return req
}

func fillSecret(v reflect.Value, topicID [16]byte) {
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			switch f := v.Field(i); v.Type().Field(i).Name {
			case "Version", "UnknownTags":
			case "ResourceType":
				f.SetInt(2) // a topic, for configs and ACLs alike
			case "ResourcePatternType", "PermissionType", "Operation":
				f.SetInt(3)
			case "TopicID":
				f.Set(reflect.ValueOf(topicID))
			default:
				fillSecret(f, topicID)
			}
		}
	case reflect.String:
		v.SetString(secret)
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fillSecret(v.Elem(), topicID)
	case reflect.Slice:
		if v.Type().Elem().Kind() != reflect.Uint8 {
			v.Set(reflect.MakeSlice(v.Type(), 1, 1))
			fillSecret(v.Index(0), topicID)
		}
	}
}

// errorCodes are all in an answer.
func errorCodesOf(v reflect.Value) (codes []int16) {
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			return errorCodesOf(v.Elem())
		}
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).Name == "ErrorCode" {
				codes = append(codes, int16(v.Field(i).Int()))
			} else if v.Type().Field(i).IsExported() {
				codes = append(codes, errorCodesOf(v.Field(i))...)
			}
		}
	case reflect.Slice:
		for i := range v.Len() {
			codes = append(codes, errorCodesOf(v.Index(i))...)
		}
	}
	return codes
}

func refusedBy(resp kmsg.Response) bool {
	return slices.ContainsFunc(errorCodesOf(reflect.ValueOf(resp)), func(c int16) bool {
		return c == kerr.TopicAuthorizationFailed.Code || c == kerr.GroupAuthorizationFailed.Code || c == kerr.ClusterAuthorizationFailed.Code || c == kerr.TransactionalIDAuthorizationFailed.Code
	})
}

// rights are what each API takes, as Kafka documents it: the test's own list, beside the table's.
var rights = map[int16][]coordinator.ACL{
	0:  {allow(coordinator.OpWrite, onTopic, secret)},
	1:  {allow(coordinator.OpRead, onTopic, secret)},
	2:  {allow(coordinator.OpDescribe, onTopic, secret)},
	3:  {allow(coordinator.OpDescribe, onTopic, secret)},
	8:  {allow(coordinator.OpRead, onGroup, secret), allow(coordinator.OpRead, onTopic, secret)},
	9:  {allow(coordinator.OpDescribe, onGroup, secret), allow(coordinator.OpDescribe, onTopic, secret)},
	10: {allow(coordinator.OpDescribe, onGroup, secret)},
	11: {allow(coordinator.OpRead, onGroup, secret)},
	12: {allow(coordinator.OpRead, onGroup, secret)},
	13: {allow(coordinator.OpRead, onGroup, secret)},
	14: {allow(coordinator.OpRead, onGroup, secret)},
	15: {allow(coordinator.OpDescribe, onGroup, secret)},
	19: {allow(coordinator.OpCreate, onTopic, secret)},
	20: {allow(coordinator.OpDelete, onTopic, secret)},
	21: {allow(coordinator.OpDelete, onTopic, secret)},
	22: {allow(coordinator.OpIdempotentWrite, onCluster, coordinator.ClusterResource)},
	23: {allow(coordinator.OpDescribe, onTopic, secret)},
	24: {allow(coordinator.OpWrite, onTxn, secret), allow(coordinator.OpWrite, onTopic, secret), allow(coordinator.OpClusterAction, onCluster, coordinator.ClusterResource)},
	25: {allow(coordinator.OpWrite, onTxn, secret), allow(coordinator.OpRead, onGroup, secret)},
	26: {allow(coordinator.OpWrite, onTxn, secret)},
	28: {allow(coordinator.OpWrite, onTxn, secret), allow(coordinator.OpRead, onGroup, secret), allow(coordinator.OpRead, onTopic, secret)},
	29: {allow(coordinator.OpDescribe, onCluster, coordinator.ClusterResource)},
	30: {allow(coordinator.OpAlter, onCluster, coordinator.ClusterResource)},
	31: {allow(coordinator.OpAlter, onCluster, coordinator.ClusterResource)},
	32: {allow(coordinator.OpDescribeConfigs, onTopic, secret)},
	33: {allow(coordinator.OpAlterConfigs, onTopic, secret)},
	34: {allow(coordinator.OpAlter, onCluster, coordinator.ClusterResource)},
	35: {allow(coordinator.OpDescribe, onCluster, coordinator.ClusterResource)},
	37: {allow(coordinator.OpAlter, onTopic, secret)},
	42: {allow(coordinator.OpDelete, onGroup, secret)},
	43: {allow(coordinator.OpAlter, onCluster, coordinator.ClusterResource)},
	44: {allow(coordinator.OpAlterConfigs, onTopic, secret)},
	45: {allow(coordinator.OpAlter, onCluster, coordinator.ClusterResource)},
	46: {allow(coordinator.OpDescribe, onCluster, coordinator.ClusterResource)},
	47: {allow(coordinator.OpDelete, onGroup, secret), allow(coordinator.OpRead, onTopic, secret)},
	48: {allow(coordinator.OpDescribeConfigs, onCluster, coordinator.ClusterResource)},
	49: {allow(coordinator.OpAlterConfigs, onCluster, coordinator.ClusterResource)},
	50: {allow(coordinator.OpDescribe, onCluster, coordinator.ClusterResource)},
	51: {allow(coordinator.OpAlter, onCluster, coordinator.ClusterResource)},
	55: {allow(coordinator.OpDescribe, onCluster, coordinator.ClusterResource)},
	57: {allow(coordinator.OpAlter, onCluster, coordinator.ClusterResource)},
	61: {allow(coordinator.OpRead, onTopic, secret)},
	64: {allow(coordinator.OpAlter, onCluster, coordinator.ClusterResource)},
	65: {allow(coordinator.OpDescribe, onTxn, secret)},
	68: {allow(coordinator.OpRead, onGroup, secret), allow(coordinator.OpDescribe, onTopic, secret)},
	69: {allow(coordinator.OpDescribe, onGroup, secret)},
	74: {allow(coordinator.OpDescribeConfigs, onCluster, coordinator.ClusterResource)},
	75: {allow(coordinator.OpDescribe, onTopic, secret)},
}

// needNothing are those that anybody may ask, and those whose answers only leave out.
var needNothing = map[int16]bool{16: true, 17: true, 18: true, 36: true, 60: true, 66: true}

func TestGuards(t *testing.T) {
	for _, a := range apiByKey {
		if a == nil || needNothing[a.key] {
			continue
		}
		t.Run(kmsg.NameForKey(a.key), func(t *testing.T) {
			if rights[a.key] == nil {
				t.Fatal("what it takes is not in this test's list")
			}
			for v := a.min; v <= a.max; v++ {
				h := newACLHarness(t, false)
				id := h.back.addTopic(secret, 1, nil)
				if a.key == int16(kmsg.FindCoordinator) {
					h.back.coordinate(1) // with none to be found it waits for one
				}
				before := h.back.Image().Version()
				c := h.dial()
				try := func(grants ...coordinator.ACL) kmsg.Response {
					h.revokeAll()
					if len(grants) > 0 {
						h.grant(grants...)
					}
					before = h.back.Image().Version()
					return ask[kmsg.Response](c, secretRequest(a.key, v, id))
				}
				// Nothing, all but one of the rights, and the rights for something else are not enough.
				other := slices.Clone(rights[a.key])
				for i := range other {
					if other[i].Name == secret {
						other[i].Name = "other"
					} else {
						other[i].Operation = coordinator.OpDescribe
					}
				}
				poor := [][]coordinator.ACL{nil, other}
				if rights[a.key][0].Operation == coordinator.OpDescribe && rights[a.key][0].Type == onCluster {
					poor = poor[:1]
				}
				for i := range rights[a.key] {
					if len(rights[a.key]) > 1 && a.key != 24 {
						poor = append(poor, slices.Delete(slices.Clone(rights[a.key]), i, i+1))
					}
				}
				for _, grants := range poor {
					resp := try(grants...)
					unknown := slices.Contains(errorCodesOf(reflect.ValueOf(resp)), kerr.UnknownTopicID.Code) && a.key == 3
					empty := false
					if d, ok := resp.(*kmsg.DescribeLogDirsResponse); ok && v < 3 {
						empty = len(d.Dirs) == 0
					}
					if !refusedBy(resp) && !unknown && !empty {
						t.Errorf("v%d with %v: %+v", v, grants, resp)
					}
					if h.back.Image().Version() != before {
						t.Errorf("v%d with %v: something was changed", v, grants)
					}
					if h.back.Image().Topic(secret) == nil {
						t.Fatalf("v%d with %v: the topic is gone", v, grants)
					}
				}
				if log := h.audit.String(); !strings.Contains(log, "msg=denied") || !strings.Contains(log, "api="+apiName(a.key)) {
					t.Errorf("v%d: audit log: %s", v, log)
				}
				if resp := try(rights[a.key]...); refusedBy(resp) {
					t.Errorf("v%d is refused with all that it takes: %+v", v, resp)
				}
				h = newACLHarness(t, false, anonymous)
				id = h.back.addTopic(secret, 1, nil)
				if a.key == int16(kmsg.FindCoordinator) {
					h.back.coordinate(1)
				}
				if resp := ask[kmsg.Response](h.dial(), secretRequest(a.key, v, id)); refusedBy(resp) {
					t.Errorf("v%d is refused to a super user: %+v", v, resp)
				}
				if h.audit.String() != "" {
					t.Errorf("v%d: audit log of a super user: %s", v, h.audit)
				}
			}
		})
	}
}

func metadataFor(version int16, create bool, names ...string) *kmsg.MetadataRequest {
	req := kmsg.NewPtrMetadataRequest()
	req.SetVersion(version)
	req.AllowAutoTopicCreation = create
	for _, n := range names {
		t := kmsg.NewMetadataRequestTopic()
		t.Topic = &n
		req.Topics = append(req.Topics, t)
	}
	return req
}

func shown(m *kmsg.MetadataResponse) string {
	var out []string
	for _, t := range m.Topics {
		name := "-"
		if t.Topic != nil {
			name = *t.Topic
		}
		out = append(out, fmt.Sprintf("%s:%d", name, t.ErrorCode))
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

func TestMetadataIsFiltered(t *testing.T) {
	h := newACLHarness(t, false)
	h.back.addTopic("a", 1, nil)
	hidden := h.back.addTopic("b", 1, nil)
	h.grant(allow(coordinator.OpRead, onTopic, "a"))
	c := h.dial()
	for v := int16(0); v <= 13; v++ {
		if got := shown(ask[*kmsg.MetadataResponse](c, metadataFor(v, false))); got != "a:0" {
			t.Errorf("v%d of all topics shows %s", v, got)
		}
		if got := shown(ask[*kmsg.MetadataResponse](c, metadataFor(v, true, "a", "b", "new"))); got != "a:0 b:29 new:29" {
			t.Errorf("v%d shows %s", v, got)
		}
		if got := shown(ask[*kmsg.MetadataResponse](c, metadataFor(v, true, "b"))); got != "b:29" {
			t.Errorf("v%d of one that is hidden shows %s", v, got)
		}
	}
	byID := metadataFor(12, false)
	byID.Topics = []kmsg.MetadataRequestTopic{{TopicID: hidden}}
	if got := shown(ask[*kmsg.MetadataResponse](c, byID)); got != fmt.Sprintf("-:%d", kerr.UnknownTopicID.Code) {
		t.Errorf("by id: %s", got)
	}
	// To see a topic is not to make one.
	h.grant(allow(coordinator.OpDescribe, onTopic, "new"))
	if got := shown(ask[*kmsg.MetadataResponse](c, metadataFor(9, true, "new"))); got != "new:29" || h.back.Image().Topic("new") != nil {
		t.Errorf("made without a right to: %s", got)
	}
	h.grant(allow(coordinator.OpCreate, onTopic, "new"))
	ask[*kmsg.MetadataResponse](c, metadataFor(9, true, "new"))
	if h.back.Image().Topic("new") == nil {
		t.Error("not made with the right to")
	}
	// What may be done is told.
	req := metadataFor(9, false, "a")
	req.IncludeTopicAuthorizedOperations, req.IncludeClusterAuthorizedOperations = true, true
	resp := ask[*kmsg.MetadataResponse](c, req)
	if got, want := resp.Topics[0].AuthorizedOperations, int32(1<<coordinator.OpRead|1<<coordinator.OpDescribe); got != want {
		t.Errorf("operations on a: %b, want %b", got, want)
	}
	if resp.AuthorizedOperations != 0 {
		t.Errorf("operations on the cluster: %b", resp.AuthorizedOperations)
	}
	h.grant(allow(coordinator.OpAlter, onCluster, coordinator.ClusterResource))
	if got, want := ask[*kmsg.MetadataResponse](c, req).AuthorizedOperations, int32(1<<coordinator.OpAlter|1<<coordinator.OpDescribe); got != want {
		t.Errorf("operations on the cluster: %b, want %b", got, want)
	}
}

// A right that is taken back ends what a fetch session may read.
func TestFetchSessionIsAuthorized(t *testing.T) {
	h := newACLHarness(t, false)
	id := h.back.addTopic("a", 1, nil)
	h.grant(allow(coordinator.OpRead, onTopic, "a"))
	c := h.dial()
	fetch := func(session, epoch int32, topics ...[16]byte) *kmsg.FetchResponse {
		req := kmsg.NewPtrFetchRequest()
		req.SetVersion(13)
		req.MaxBytes, req.SessionID, req.SessionEpoch = 1<<20, session, epoch
		for _, id := range topics {
			ft := kmsg.NewFetchRequestTopic()
			ft.TopicID = id
			fp := kmsg.NewFetchRequestTopicPartition()
			fp.PartitionMaxBytes, fp.CurrentLeaderEpoch = 1<<20, -1
			ft.Partitions = append(ft.Partitions, fp)
			req.Topics = append(req.Topics, ft)
		}
		return ask[*kmsg.FetchResponse](c, req)
	}
	first := fetch(0, 0, id)
	if first.ErrorCode != 0 || first.SessionID == 0 || first.Topics[0].Partitions[0].ErrorCode != 0 {
		t.Fatalf("%+v", first)
	}
	if next := fetch(first.SessionID, 1); len(next.Topics) != 0 {
		t.Errorf("%+v", next)
	}
	h.revokeAll()
	if next := fetch(first.SessionID, 2); len(next.Topics) != 1 || next.Topics[0].Partitions[0].ErrorCode != kerr.TopicAuthorizationFailed.Code {
		t.Errorf("after the right was taken back: %+v", next)
	}
}

// What may be written is written, though the same request has what may not.
func TestProduceIsAuthorized(t *testing.T) {
	h := newACLHarness(t, false)
	h.back.addTopic("a", 1, nil)
	h.back.addTopic("b", 1, nil)
	h.grant(allow(coordinator.OpWrite, onTopic, "a"), allow(coordinator.OpDescribe, onTopic, "b"))
	c := h.dial()
	req := produceRequest(9, 1, "a", [16]byte{}, 0, testBatch("x"))
	for _, topic := range []string{"b", "nowhere"} {
		req.Topics = append(req.Topics, produceRequest(9, 1, topic, [16]byte{}, 0, testBatch("x")).Topics...)
	}
	resp := ask[*kmsg.ProduceResponse](c, req)
	for i, want := range []int16{0, 29, 29} {
		if got := resp.Topics[i].Partitions[0].ErrorCode; got != want {
			t.Errorf("%s: %d, want %d", resp.Topics[i].Topic, got, want)
		}
	}
	txn := "t"
	req.TransactionID = &txn
	for _, rt := range ask[*kmsg.ProduceResponse](c, req).Topics {
		if rt.Partitions[0].ErrorCode != kerr.TransactionalIDAuthorizationFailed.Code {
			t.Errorf("in a transaction: %+v", rt)
		}
	}
	init := kmsg.NewPtrInitProducerIDRequest()
	init.SetVersion(4)
	if resp := ask[*kmsg.InitProducerIDResponse](c, init); resp.ErrorCode != 0 { // for who may write to any topic
		t.Errorf("a producer id: %d", resp.ErrorCode)
	}
}

// ACLs by Kafka's own requests.
func TestACLRequests(t *testing.T) {
	plain := newHarness(t, serverOptions{}).dial()
	if resp := ask[*kmsg.DescribeACLsResponse](plain, kmsg.NewPtrDescribeACLsRequest()); resp.ErrorCode != kerr.SecurityDisabled.Code {
		t.Errorf("without an authorizer: %d", resp.ErrorCode)
	}
	for v := int16(0); v <= 3; v++ {
		h := newACLHarness(t, false, anonymous)
		c := h.dial()
		create := kmsg.NewPtrCreateACLsRequest()
		create.SetVersion(v)
		add := func(name string, p kmsg.ACLResourcePatternType, host string, op kmsg.ACLOperation) {
			create.Creations = append(create.Creations, kmsg.CreateACLsRequestCreation{ResourceType: kmsg.ACLResourceTypeTopic, ResourceName: name, ResourcePatternType: p,
				Principal: "User:a", Host: host, Operation: op, PermissionType: kmsg.ACLPermissionTypeAllow})
		}
		add("t", kmsg.ACLResourcePatternTypeLiteral, "*", kmsg.ACLOperationRead)
		add("t", kmsg.ACLResourcePatternTypePrefixed, "10.0.0.0/8", kmsg.ACLOperationWrite)
		add("t", kmsg.ACLResourcePatternTypeLiteral, "nonsense", kmsg.ACLOperationRead)
		add("t", kmsg.ACLResourcePatternTypeLiteral, "*", kmsg.ACLOperationClusterAction)
		var codes []int16
		for _, r := range ask[*kmsg.CreateACLsResponse](c, create).Results {
			codes = append(codes, r.ErrorCode)
		}
		if want := []int16{0, 0, kerr.InvalidRequest.Code, kerr.InvalidRequest.Code}; !slices.Equal(codes, want) {
			t.Errorf("v%d: created: %v, want %v", v, codes, want)
		}
		name := "t"
		describe := kmsg.NewPtrDescribeACLsRequest()
		describe.SetVersion(v)
		describe.ResourceType, describe.ResourceName, describe.ResourcePatternType = kmsg.ACLResourceTypeTopic, &name, kmsg.ACLResourcePatternTypeAny
		describe.Operation, describe.PermissionType = kmsg.ACLOperationAny, kmsg.ACLPermissionTypeAny
		count := func() (n int) {
			for _, r := range ask[*kmsg.DescribeACLsResponse](c, describe).Resources {
				n += len(r.ACLs)
			}
			return n
		}
		if n := count(); n != 2 {
			t.Errorf("v%d: %d ACLs", v, n)
		}
		del := kmsg.NewPtrDeleteACLsRequest()
		del.SetVersion(v)
		del.Filters = []kmsg.DeleteACLsRequestFilter{{ResourceType: kmsg.ACLResourceTypeTopic, ResourceName: &name, ResourcePatternType: kmsg.ACLResourcePatternTypeMatch,
			Operation: kmsg.ACLOperationRead, PermissionType: kmsg.ACLPermissionTypeAny}}
		res := ask[*kmsg.DeleteACLsResponse](c, del).Results[0]
		if res.ErrorCode != 0 || len(res.MatchingACLs) != 1 || res.MatchingACLs[0].ResourceName != "t" {
			t.Errorf("v%d: deleted %+v", v, res)
		}
		if n := count(); n != 1 && !(v == 0 && n == 1) {
			t.Errorf("v%d: %d ACLs are left", v, n)
		}
		if log := h.audit.String(); !strings.Contains(log, "ACL created") || !strings.Contains(log, "ACL deleted") {
			t.Errorf("v%d: audit log: %s", v, log)
		}
	}
}

// Groups that may not be seen are not listed; who may describe the cluster sees all.
func TestAllowEveryone(t *testing.T) {
	h := newACLHarness(t, true)
	h.back.addTopic("a", 1, nil)
	h.back.addTopic("b", 1, nil)
	h.grant(coordinator.ACL{Type: onTopic, Name: "b", Pattern: coordinator.PatternLiteral, Principal: "User:x", Host: "*", Operation: coordinator.OpRead, Permission: coordinator.PermissionAllow})
	if got := shown(ask[*kmsg.MetadataResponse](h.dial(), metadataFor(9, false, "a", "b"))); got != "a:0 b:29" {
		t.Errorf("%s: a has no ACL at all, b has one for somebody else", got)
	}
}

// A page's cursor names the topic with which the next one begins: never one that may not be seen.
func TestCursorHidesTopics(t *testing.T) {
	h := newACLHarness(t, false)
	for _, name := range []string{"a", "b", "c", "d"} {
		h.back.addTopic(name, 1, nil)
	}
	page := func(from string) (topics []string, next string) {
		t.Helper()
		req := kmsg.NewPtrDescribeTopicPartitionsRequest()
		req.ResponsePartitionLimit = 1
		if from != "" {
			req.Cursor = &kmsg.DescribeTopicPartitionsRequestCursor{Topic: from}
		}
		resp := ask[*kmsg.DescribeTopicPartitionsResponse](h.dial(), req)
		for i := range resp.Topics {
			topics = append(topics, *resp.Topics[i].Topic)
		}
		if resp.NextCursor != nil {
			next = resp.NextCursor.Topic
		}
		return topics, next
	}
	if got, next := page(""); len(got) != 0 || next != "" {
		t.Errorf("without a right: %v, then %q", got, next)
	}
	h.grant(allow(coordinator.OpDescribe, onTopic, "a"), allow(coordinator.OpDescribe, onTopic, "c"))
	if got, next := page(""); !slices.Equal(got, []string{"a"}) || next != "c" {
		t.Errorf("the first page: %v, then %q", got, next)
	}
	if got, next := page("c"); !slices.Equal(got, []string{"c"}) || next != "" {
		t.Errorf("the second page: %v, then %q", got, next)
	}
}

// A group of the new protocol is shown only to those who may see all that its members read.
func TestGroupsHideTopics(t *testing.T) {
	h := newACLHarness(t, false)
	h.grant(allow(coordinator.OpDescribe, onTopic, "a"))
	r := &request{c: newConn(h.server, nil, "127.0.0.1", Listener{Name: ProtocolPlaintext, Protocol: ProtocolPlaintext})}
	assigned := func(topic string) kmsg.Assignment {
		return kmsg.Assignment{TopicPartitions: []kmsg.AssignmentTopicPartition{{Topic: topic}}}
	}
	for _, tc := range []struct {
		m      kmsg.ConsumerGroupDescribeResponseGroupMember
		hidden bool
	}{
		{kmsg.ConsumerGroupDescribeResponseGroupMember{SubscribedTopics: []string{"a"}, Assignment: assigned("a"), TargetAssignment: assigned("a")}, false},
		{kmsg.ConsumerGroupDescribeResponseGroupMember{SubscribedTopics: []string{"a", "b"}}, true},
		{kmsg.ConsumerGroupDescribeResponseGroupMember{Assignment: assigned("b")}, true},
		{kmsg.ConsumerGroupDescribeResponseGroupMember{TargetAssignment: assigned("b")}, true},
	} {
		g := &kmsg.ConsumerGroupDescribeResponseGroup{Members: []kmsg.ConsumerGroupDescribeResponseGroupMember{tc.m}}
		if got := r.hidesTopics(g); got != tc.hidden {
			t.Errorf("%+v: %v", tc.m, got)
		}
	}
}

// The same refusal over and over is one line in the log, with a count.
func TestAuditIsReadable(t *testing.T) {
	var l auditLog
	now := time.Now()
	k := auditKey{1, coordinator.OpRead, onTopic, "t"}
	logged := 0
	for range 1000 {
		if ok, _ := l.note(k, now); ok {
			logged++
		}
	}
	if logged != 1 {
		t.Errorf("%d of a thousand were logged", logged)
	}
	if ok, more := l.note(k, now.Add(auditRepeat)); !ok || more != 999 {
		t.Errorf("later: %v, %d more", ok, more)
	}
	// Many different ones, as of a request that names a hundred thousand topics, are bounded, and counted in the next line.
	logged = 0
	for i := range 10 * maxAuditKeys {
		k.name = fmt.Sprint(i)
		if ok, _ := l.note(k, now); ok {
			logged++
		}
	}
	if want := maxAuditKeys - 1; logged != want {
		t.Errorf("%d different ones were logged, want %d", logged, want)
	}
	if len(l.keys) > maxAuditKeys {
		t.Errorf("%d refusals are counted", len(l.keys))
	}
	k.name = "another"
	if ok, more := l.note(k, now.Add(2*auditRepeat)); !ok || more != 10*maxAuditKeys-logged {
		t.Errorf("another, later: %v, %d more", ok, more)
	}
	if len(l.keys) != 1 {
		t.Errorf("%d refusals are counted still", len(l.keys))
	}
}

// A super user's and an ordinary user's decision on the produce path take no memory.
func TestDecisionsTakeNoMemory(t *testing.T) {
	h := newACLHarness(t, false)
	id := h.back.addTopic("a", 1, nil)
	h.grant(allow(coordinator.OpWrite, onTopic, "a"))
	topic := h.back.Image().TopicByID(id)
	for _, super := range []bool{false, true} {
		c := newConn(h.server, nil, "127.0.0.1", Listener{Name: ProtocolPlaintext, Protocol: ProtocolPlaintext})
		c.session.Store(&session{principal: anonymous, super: super})
		r := &request{c: c}
		if n := testing.AllocsPerRun(100, func() {
			if r.mayTopic(coordinator.OpWrite, topic) != nil {
				t.Fatal("refused")
			}
		}); n != 0 {
			t.Errorf("super %v: %v allocations", super, n)
		}
	}
}

func BenchmarkMayTopic(b *testing.B) {
	for name, mode := range map[string]int{"none": 0, "super": 1, "acl": 2} {
		b.Run(name, func(b *testing.B) {
			h := newACLHarness(b, false)
			id := h.back.addTopic("a", 1, nil)
			h.grant(allow(coordinator.OpWrite, onTopic, "a"))
			topic := h.back.Image().TopicByID(id)
			if mode == 0 {
				h.server.o.Security.Authorizer = nil
			}
			c := newConn(h.server, nil, "127.0.0.1", Listener{Name: ProtocolPlaintext, Protocol: ProtocolPlaintext})
			c.session.Store(&session{principal: anonymous, super: mode == 1})
			r := &request{c: c}
			b.ReportAllocs()
			for b.Loop() {
				if r.mayTopic(coordinator.OpWrite, topic) != nil {
					b.Fatal("refused")
				}
			}
		})
	}
}

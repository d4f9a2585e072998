package broker

import (
	"fmt"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// Who has changed users, configs and quotas is in the audit log, with or without ACLs; what is secret and what was not changed is not.
func TestChangesAreAudited(t *testing.T) {
	audit := new(lockedBuffer)
	h := newHarnessOn(t, serverOptions{}, Listener{Name: ProtocolPlaintext, Protocol: ProtocolPlaintext}, func(_ *fakeBackend, o *serverOptions) {
		o.Security.Audit = textLog(audit)
	})
	h.back.addTopic("t", 1, nil)
	c := h.dial()
	const salt, key = "somesalt", "the salted password of 32 bytes."
	user := kmsg.NewPtrAlterUserSCRAMCredentialsRequest()
	user.Upsertions = []kmsg.AlterUserSCRAMCredentialsRequestUpsertion{
		{Name: "alice", Mechanism: 1, Iterations: 4096, Salt: []byte(salt), SaltedPassword: []byte(key)},
		{Name: "weak", Mechanism: 1, Iterations: 1, Salt: []byte(salt), SaltedPassword: []byte(key)},
	}
	gone := kmsg.NewPtrAlterUserSCRAMCredentialsRequest()
	gone.Deletions = []kmsg.AlterUserSCRAMCredentialsRequestDeletion{{Name: "alice", Mechanism: 1}}
	replace := kmsg.NewPtrAlterConfigsRequest()
	rr := kmsg.NewAlterConfigsRequestResource()
	rr.ResourceType, rr.ResourceName = kmsg.ConfigResourceTypeTopic, "t"
	replace.Resources = append(replace.Resources, rr)
	dry := incrementalAlter(1, kmsg.ConfigResourceTypeTopic, "t", setTo("segment.ms", "4711"))
	dry.ValidateOnly = true
	long := strings.Repeat("1:1,", 1000) + "1:1"
	for _, tc := range []struct {
		req  kmsg.Request
		want []string // one line each
		not  string
	}{
		{user, []string{`msg="user set" principal=User:ANONYMOUS host=127.0.0.1 listener=PLAINTEXT api=AlterUserSCRAMCredentials user=alice mechanism=SCRAM-SHA-256 iterations=4096`}, "weak"},
		{gone, []string{`msg="user deleted" principal=User:ANONYMOUS host=127.0.0.1 listener=PLAINTEXT api=AlterUserSCRAMCredentials user=alice mechanism=SCRAM-SHA-256`}, "iterations"},
		{incrementalAlter(1, kmsg.ConfigResourceTypeTopic, "t", setTo("retention.ms", "5"), appendOp("follower.replication.throttled.replicas", "0:1"), unsetOp("segment.ms")),
			[]string{`msg="configs altered" principal=User:ANONYMOUS host=127.0.0.1 listener=PLAINTEXT api=IncrementalAlterConfigs resource=topic name=t changes="[retention.ms=5 follower.replication.throttled.replicas+=0:1 -segment.ms]"`}, "replace"},
		{incrementalAlter(1, kmsg.ConfigResourceTypeTopic, "t", setTo("follower.replication.throttled.replicas", long)), []string{"...]"}, long},
		{incrementalAlter(1, kmsg.ConfigResourceTypeBrokerLogger, "1", setTo("raft", "DEBUG")), []string{`resource=broker_logger name=1 changes="[raft=DEBUG]"`}, "replace"},
		{replace, []string{`resource=topic name=t replace=true changes=[]`}, "retention"},
		{dry, nil, "4711"},
		{incrementalAlter(1, kmsg.ConfigResourceTypeTopic, "t", setTo("retention.ms", "no number")), nil, "no number"},
		{incrementalAlter(1, kmsg.ConfigResourceTypeBroker, "", setTo("ssl.key.password", "secret")), nil, "secret"},
		{alterQuotas(1, testQuota{map[string]string{"user": "u", "client-id": ""}, quotaProduce, 1e9}),
			[]string{`msg="quotas altered" principal=User:ANONYMOUS host=127.0.0.1 listener=PLAINTEXT api=AlterClientQuotas user=u client-id=(default) producer_byte_rate=1e+09`}, "consumer"},
	} {
		before := len(audit.String())
		id := c.send(tc.req)
		if got, _ := c.receive(); got != id {
			t.Fatalf("answer to %d", got)
		}
		said := audit.String()[before:]
		if lines := strings.Count(said, "\n"); lines != len(tc.want) {
			t.Errorf("%s: %d lines, want %d: %s", apiName(tc.req.Key()), lines, len(tc.want), said)
		}
		for _, w := range tc.want {
			if !strings.Contains(said, w) {
				t.Errorf("%s: the log lacks %s: %s", apiName(tc.req.Key()), w, said)
			}
		}
		if strings.Contains(said, tc.not) || strings.Contains(said, salt) || strings.Contains(said, "salted password") {
			t.Errorf("%s: the log says %s", apiName(tc.req.Key()), said)
		}
	}
	// One request cannot fill the log.
	before := strings.Count(audit.String(), "\n")
	var list []testQuota
	for i := range 3 * maxAuditLines {
		list = append(list, testQuota{map[string]string{"user": fmt.Sprint(i)}, quotaProduce, 1e6})
	}
	ask[*kmsg.AlterClientQuotasResponse](c, alterQuotas(1, list...))
	if n := strings.Count(audit.String(), "\n") - before; n != maxAuditLines || !strings.Contains(audit.String(), fmt.Sprintf("more_not_logged=%d", 2*maxAuditLines)) {
		t.Errorf("%d lines", n)
	}
}

// What a request does to ACLs is a line for each, of a bounded length and number.
func TestACLChangesAreAudited(t *testing.T) {
	h := newACLHarness(t, false, anonymous)
	c := h.dial()
	create := kmsg.NewPtrCreateACLsRequest()
	create.SetVersion(3)
	add := func(name, user string) {
		create.Creations = append(create.Creations, kmsg.CreateACLsRequestCreation{ResourceType: kmsg.ACLResourceTypeTopic, ResourceName: name, ResourcePatternType: kmsg.ACLResourcePatternTypePrefixed,
			Principal: "User:" + user, Host: "10.0.0.0/8", Operation: kmsg.ACLOperationRead, PermissionType: kmsg.ACLPermissionTypeAllow})
	}
	drop := kmsg.NewPtrDeleteACLsRequest()
	drop.SetVersion(3)
	drop.Filters = []kmsg.DeleteACLsRequestFilter{{ResourceType: kmsg.ACLResourceTypeAny, ResourcePatternType: kmsg.ACLResourcePatternTypeAny, Operation: kmsg.ACLOperationAny, PermissionType: kmsg.ACLPermissionTypeAny}}
	say := func(req kmsg.Request) string {
		before := len(h.audit.String())
		id := c.send(req)
		if got, _ := c.receive(); got != id {
			t.Fatalf("answer to %d", got)
		}
		return h.audit.String()[before:]
	}
	const who, acl = "principal=User:ANONYMOUS host=127.0.0.1 listener=PLAINTEXT", "acl.type=topic acl.name=orders- acl.pattern=prefixed acl.principal=User:alice acl.host=10.0.0.0/8 acl.operation=read acl.permission=allow"
	add("orders-", "alice")
	if said := say(create); strings.Count(said, "\n") != 1 || !strings.Contains(said, `msg="ACL created" `+who+" api=CreateACLs "+acl) {
		t.Errorf("created: %s", said)
	}
	if said := say(drop); strings.Count(said, "\n") != 1 || !strings.Contains(said, `msg="ACL deleted" `+who+" api=DeleteACLs "+acl) {
		t.Errorf("deleted: %s", said)
	}
	create.Creations = nil
	for i := range 3 * maxAuditLines {
		add(fmt.Sprint(i, strings.Repeat("n", 1000)), strings.Repeat("u", 1000))
	}
	for _, req := range []kmsg.Request{create, drop} {
		lines := strings.Split(strings.TrimSuffix(say(req), "\n"), "\n")
		if len(lines) != maxAuditLines || !strings.Contains(lines[len(lines)-1], fmt.Sprintf("more_not_logged=%d", 2*maxAuditLines)) {
			t.Errorf("%s: %d lines, the last one: %s", apiName(req.Key()), len(lines), lines[len(lines)-1])
		}
		for _, l := range lines {
			if len(l) > 1000 {
				t.Fatalf("%s: a line of %d bytes: %s", apiName(req.Key()), len(l), l)
			}
		}
	}
}

package coordinator

import (
	"errors"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"strings"
	"testing"

	"github.com/balsamq/balsa/raft"
)

func acl(t ResourceType, p PatternType, name, principal, host string, op Operation, perm Permission) ACL {
	return ACL{Type: t, Name: name, Pattern: p, Principal: principal, Host: host, Operation: op, Permission: perm}
}

func requester(user, addr string) *Requester {
	q := &Requester{Principal: "User:" + user}
	if addr != "" {
		q.Addr = netip.MustParseAddr(addr)
	}
	return q
}

// Kafka's rules, one by one (KIP-11, KIP-290, StandardAuthorizer).
func TestACLRules(t *testing.T) {
	const topic, lit, pre, allow, deny = ResourceTopic, PatternLiteral, PatternPrefixed, PermissionAllow, PermissionDeny
	for _, tc := range []struct {
		name string
		acls []ACL
		q    *Requester
		op   Operation
		of   string
		want Decision
	}{
		{"none", nil, requester("a", ""), OpRead, "t", NoACL},
		{"another resource's", []ACL{acl(topic, lit, "u", "User:a", "*", OpRead, allow)}, requester("a", ""), OpRead, "t", NoACL},
		{"literal", []ACL{acl(topic, lit, "t", "User:a", "*", OpRead, allow)}, requester("a", ""), OpRead, "t", Allowed},
		{"another user's", []ACL{acl(topic, lit, "t", "User:a", "*", OpRead, allow)}, requester("b", ""), OpRead, "t", Refused},
		{"another operation", []ACL{acl(topic, lit, "t", "User:a", "*", OpRead, allow)}, requester("a", ""), OpWrite, "t", Refused},
		{"everybody", []ACL{acl(topic, lit, "t", AnyUser, "*", OpRead, allow)}, requester("b", ""), OpRead, "t", Allowed},
		{"all operations", []ACL{acl(topic, lit, "t", "User:a", "*", OpAll, allow)}, requester("a", ""), OpAlterConfigs, "t", Allowed},
		{"wildcard", []ACL{acl(topic, lit, "*", "User:a", "*", OpRead, allow)}, requester("a", ""), OpRead, "anything", Allowed},
		{"prefix", []ACL{acl(topic, pre, "pay", "User:a", "*", OpRead, allow)}, requester("a", ""), OpRead, "payments", Allowed},
		{"the prefix itself", []ACL{acl(topic, pre, "pay", "User:a", "*", OpRead, allow)}, requester("a", ""), OpRead, "pay", Allowed},
		{"shorter than the prefix", []ACL{acl(topic, pre, "pay", "User:a", "*", OpRead, allow)}, requester("a", ""), OpRead, "pa", NoACL},
		{"a literal is no prefix", []ACL{acl(topic, lit, "pay", "User:a", "*", OpRead, allow)}, requester("a", ""), OpRead, "payments", NoACL},
		{"a prefix called * is none of all", []ACL{acl(topic, pre, "*", "User:a", "*", OpRead, allow)}, requester("a", ""), OpRead, "t", NoACL},
		{"deny over allow", []ACL{acl(topic, lit, "t", "User:a", "*", OpRead, allow), acl(topic, lit, "t", AnyUser, "*", OpRead, deny)}, requester("a", ""), OpRead, "t", Denied},
		{"deny by prefix over a literal allow", []ACL{acl(topic, lit, "t1", "User:a", "*", OpRead, allow), acl(topic, pre, "t", "User:a", "*", OpAll, deny)}, requester("a", ""), OpRead, "t1", Denied},
		{"deny by wildcard", []ACL{acl(topic, pre, "t", "User:a", "*", OpRead, allow), acl(topic, lit, "*", "User:a", "*", OpRead, deny)}, requester("a", ""), OpRead, "t1", Denied},
		{"a denied operation denies no other", []ACL{acl(topic, lit, "t", "User:a", "*", OpDescribe, allow), acl(topic, lit, "t", "User:a", "*", OpRead, deny)}, requester("a", ""), OpDescribe, "t", Allowed},
		{"read brings describe", []ACL{acl(topic, lit, "t", "User:a", "*", OpRead, allow)}, requester("a", ""), OpDescribe, "t", Allowed},
		{"write brings describe", []ACL{acl(topic, lit, "t", "User:a", "*", OpWrite, allow)}, requester("a", ""), OpDescribe, "t", Allowed},
		{"delete brings describe", []ACL{acl(topic, lit, "t", "User:a", "*", OpDelete, allow)}, requester("a", ""), OpDescribe, "t", Allowed},
		{"alter brings describe", []ACL{acl(topic, lit, "t", "User:a", "*", OpAlter, allow)}, requester("a", ""), OpDescribe, "t", Allowed},
		{"create does not", []ACL{acl(topic, lit, "t", "User:a", "*", OpCreate, allow)}, requester("a", ""), OpDescribe, "t", Refused},
		{"alter configs brings describe configs", []ACL{acl(topic, lit, "t", "User:a", "*", OpAlterConfigs, allow)}, requester("a", ""), OpDescribeConfigs, "t", Allowed},
		{"describe brings nothing", []ACL{acl(topic, lit, "t", "User:a", "*", OpDescribe, allow)}, requester("a", ""), OpRead, "t", Refused},
		{"host", []ACL{acl(topic, lit, "t", "User:a", "10.0.0.1", OpRead, allow)}, requester("a", "10.0.0.1"), OpRead, "t", Allowed},
		{"another host", []ACL{acl(topic, lit, "t", "User:a", "10.0.0.1", OpRead, allow)}, requester("a", "10.0.0.2"), OpRead, "t", Refused},
		{"network", []ACL{acl(topic, lit, "t", "User:a", "10.0.0.0/8", OpRead, allow)}, requester("a", "10.9.8.7"), OpRead, "t", Allowed},
		{"another network", []ACL{acl(topic, lit, "t", "User:a", "10.0.0.0/8", OpRead, deny), acl(topic, lit, "t", "User:a", "*", OpRead, allow)}, requester("a", "11.0.0.1"), OpRead, "t", Allowed},
		{"a denied network", []ACL{acl(topic, lit, "t", "User:a", "10.0.0.0/8", OpRead, deny), acl(topic, lit, "t", "User:a", "*", OpRead, allow)}, requester("a", "10.0.0.1"), OpRead, "t", Denied},
		{"network of version 6", []ACL{acl(topic, lit, "t", "User:a", "fd00::/8", OpRead, allow)}, requester("a", "fd00::1"), OpRead, "t", Allowed},
		{"no address", []ACL{acl(topic, lit, "t", "User:a", "10.0.0.1", OpRead, allow)}, requester("a", ""), OpRead, "t", Refused},
	} {
		d := newImage().draft()
		if r := d.alterACLs(&AlterACLs{Create: tc.acls}); r.Err() != nil {
			t.Fatal(r.Err())
		}
		if got := d.ACLs().Decide(tc.q, tc.op, ResourceTopic, tc.of); got != tc.want {
			t.Errorf("%s: %d, want %d", tc.name, got, tc.want)
		}
		if got := d.ACLs().Decide(tc.q, tc.op, ResourceGroup, tc.of); got != NoACL {
			t.Errorf("%s: of a group: %d", tc.name, got)
		}
	}
}

// authorizeByResourceType's cases (KIP-679).
func TestACLDecideAny(t *testing.T) {
	const topic, lit, pre, allow, deny = ResourceTopic, PatternLiteral, PatternPrefixed, PermissionAllow, PermissionDeny
	for _, tc := range []struct {
		name string
		acls []ACL
		want Decision
	}{
		{"none", nil, NoACL},
		{"one topic", []ACL{acl(topic, lit, "t", "User:a", "*", OpWrite, allow)}, Allowed},
		{"one topic, denied", []ACL{acl(topic, lit, "t", "User:a", "*", OpWrite, allow), acl(topic, lit, "t", AnyUser, "*", OpWrite, deny)}, Refused},
		{"a prefix denied that covers it", []ACL{acl(topic, lit, "t1", "User:a", "*", OpWrite, allow), acl(topic, pre, "t", "User:a", "*", OpAll, deny)}, Refused},
		{"a prefix denied that covers the prefix", []ACL{acl(topic, pre, "t1", "User:a", "*", OpWrite, allow), acl(topic, pre, "t", "User:a", "*", OpAll, deny)}, Refused},
		{"a longer prefix denied", []ACL{acl(topic, pre, "t", "User:a", "*", OpWrite, allow), acl(topic, pre, "t1", "User:a", "*", OpAll, deny)}, Allowed},
		{"all denied", []ACL{acl(topic, lit, "t", "User:a", "*", OpWrite, allow), acl(topic, lit, "*", "User:a", "*", OpWrite, deny)}, Denied},
		{"all allowed, one denied", []ACL{acl(topic, lit, "*", "User:a", "*", OpWrite, allow), acl(topic, lit, "t", "User:a", "*", OpWrite, deny)}, Allowed},
		{"somebody else's", []ACL{acl(topic, lit, "t", "User:b", "*", OpWrite, allow)}, Refused},
	} {
		d := newImage().draft()
		d.alterACLs(&AlterACLs{Create: tc.acls})
		if got := d.ACLs().DecideAny(requester("a", ""), OpWrite, ResourceTopic); got != tc.want {
			t.Errorf("%s: %d, want %d", tc.name, got, tc.want)
		}
	}
}

// The index says what a walk over all ACLs says.
func TestACLIndexIsTheList(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	pick := func(s ...string) string { return s[rng.IntN(len(s))] }
	for range 2000 {
		d := newImage().draft()
		var list []ACL
		for range rng.IntN(12) {
			a := acl(ResourceTopic, PatternType(3+rng.IntN(2)), pick("a", "ab", "abc", "b", "*"), "User:"+pick("x", "y", "*"), pick("*", "10.0.0.1", "10.0.0.0/24"),
				operationsOf[ResourceTopic][rng.IntN(8)], Permission(2+rng.IntN(2)))
			if rng.IntN(4) == 0 {
				a.Operation = OpAll
			}
			list = append(list, a)
		}
		d.alterACLs(&AlterACLs{Create: list})
		q, op, name := requester(pick("x", "y"), pick("10.0.0.1", "10.0.0.9", "11.0.0.1")), operationsOf[ResourceTopic][rng.IntN(8)], pick("a", "ab", "abc", "abcd", "b", "c")
		want := NoACL
		for i := range list {
			a := &list[i]
			if a.Pattern == PatternPrefixed && !strings.HasPrefix(name, a.Name) || a.Pattern == PatternLiteral && a.Name != name && a.Name != "*" {
				continue
			}
			if want == NoACL {
				want = Refused
			}
			if a.Principal != q.Principal && a.Principal != AnyUser {
				continue
			}
			if h, err := parseHost(a.Host); err == nil && !h.Contains(q.Addr) {
				continue
			}
			if a.Permission == PermissionDeny && (a.Operation == op || a.Operation == OpAll) {
				want = Denied
			} else if a.Permission == PermissionAllow && brings(a.Operation, op) && want != Denied {
				want = Allowed
			}
		}
		if got := d.ACLs().Decide(q, op, ResourceTopic, name); got != want {
			t.Fatalf("%+v: %s of %s by %s: %d, want %d", list, op, name, q.Principal, got, want)
		}
	}
}

func TestAlterACLs(t *testing.T) {
	name, other := "t", "u"
	d := newImage().draft()
	a := acl(ResourceTopic, PatternLiteral, name, "User:a", "*", OpRead, PermissionAllow)
	b := acl(ResourceTopic, PatternPrefixed, name, "User:b", "*", OpRead, PermissionAllow)
	c := acl(ResourceGroup, PatternLiteral, "*", "User:a", "*", OpRead, PermissionAllow)
	d.alterACLs(&AlterACLs{Create: []ACL{a, b, c, a}})
	if got := d.ACLs().All(); !reflect.DeepEqual(got, []ACL{a, b, c}) {
		t.Fatalf("%+v", got)
	}
	filter := func(t ResourceType, p PatternType, name *string) ACLFilter {
		return ACLFilter{Type: t, Pattern: p, Name: name, Operation: OpAny, Permission: PermissionAny}
	}
	for _, tc := range []struct {
		f    ACLFilter
		want []ACL
	}{
		{filter(ResourceAny, PatternAny, nil), []ACL{a, b, c}},
		{filter(ResourceTopic, PatternMatch, &[]string{"tx"}[0]), []ACL{b}},
		{filter(ResourceTopic, PatternMatch, &name), []ACL{a, b}},
		{filter(ResourceTopic, PatternLiteral, &name), []ACL{a}},
		{filter(ResourceGroup, PatternMatch, &other), []ACL{c}},
		{filter(ResourceGroup, PatternLiteral, &other), []ACL{}},
	} {
		now := d.Image.draft()
		if got := now.alterACLs(&AlterACLs{Delete: []ACLFilter{tc.f}}).ACLs[0]; !reflect.DeepEqual(got, tc.want) {
			t.Errorf("%+v: %+v", tc.f, got)
		}
		if n := len(now.ACLs().All()); n != 3-len(tc.want) {
			t.Errorf("%+v leaves %d", tc.f, n)
		}
	}
	for _, bad := range []ACL{
		acl(ResourceAny, PatternLiteral, "t", "User:a", "*", OpRead, PermissionAllow),
		acl(ResourceTopic, PatternMatch, "t", "User:a", "*", OpRead, PermissionAllow),
		acl(ResourceTopic, PatternLiteral, "", "User:a", "*", OpRead, PermissionAllow),
		acl(ResourceTopic, PatternLiteral, "t", "Group:a", "*", OpRead, PermissionAllow),
		acl(ResourceTopic, PatternLiteral, "t", "User:a", "host.example", OpRead, PermissionAllow),
		acl(ResourceTopic, PatternLiteral, "t", "User:a", "*", OpClusterAction, PermissionAllow),
		acl(ResourceTopic, PatternLiteral, "t", "User:a", "*", OpAny, PermissionAllow),
		acl(ResourceTopic, PatternLiteral, "t", "User:a", "*", OpRead, PermissionAny),
		acl(ResourceCluster, PatternLiteral, "t", "User:a", "*", OpCreate, PermissionAllow),
	} {
		if err := bad.Check(); !errors.Is(err, ErrMalformed) {
			t.Errorf("%+v is accepted", bad)
		}
	}
}

func credential(user, mechanism string) ScramCredential {
	n := 32
	if mechanism == ScramSHA512 {
		n = 64
	}
	return ScramCredential{UserMechanism: UserMechanism{user, mechanism}, Salt: []byte("salt"), StoredKey: make([]byte, n), ServerKey: make([]byte, n), Iterations: 4096}
}

// Users and ACLs go into the log and into snapshots, and come back as they were.
func TestSecurityIsState(t *testing.T) {
	m := NewMetadata()
	index := raft.Index(0)
	apply := func(c *Command) *Result {
		t.Helper()
		b, err := c.Encode()
		if err != nil {
			t.Fatal(err)
		}
		index++
		r, err := m.Apply([]raft.Entry{{Term: 1, Index: index, Type: raft.EntryCommand, Payload: b}})
		if err != nil {
			t.Fatal(err)
		}
		return r[0].(*Result)
	}
	apply(&Command{Found: &FoundCluster{ClusterID: "c", Founder: raft.Member{ID: 1, Incarnation: 1}, Features: FoundingFeatures()}})
	secret := make([]byte, loginSecretBytes)
	secret[0] = 1
	if r := apply(&Command{AlterUsers: &AlterUsers{First: true, Secret: secret, Set: []ScramCredential{credential("a", ScramSHA256), credential("a", ScramSHA512)}}}); r.Err() != nil {
		t.Fatal(r.Err())
	}
	if r := apply(&Command{AlterUsers: &AlterUsers{First: true, Secret: make([]byte, loginSecretBytes), Set: []ScramCredential{credential("b", ScramSHA256)}}}); !errors.Is(r.Err(), ErrHasUsers) {
		t.Errorf("a second first user: %v", r.Err())
	}
	r := apply(&Command{AlterUsers: &AlterUsers{Secret: make([]byte, loginSecretBytes), Delete: []UserMechanism{{"a", ScramSHA256}, {"b", ScramSHA256}}}})
	if r.Err() != nil || r.Users[0].Err() != nil || !errors.Is(r.Users[1].Err(), ErrUnknownUser) {
		t.Errorf("deleting: %+v", r)
	}
	apply(&Command{AlterACLs: &AlterACLs{Create: []ACL{acl(ResourceTopic, PatternPrefixed, "t", "User:a", "10.0.0.0/8", OpRead, PermissionDeny)}}})
	snapshot, err := m.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	other := NewMetadata()
	if err := other.Restore(raft.SnapshotMeta{Index: index}, snapshot); err != nil {
		t.Fatal(err)
	}
	im := other.Image()
	if im.UserCount() != 1 || im.User("a", ScramSHA512) == nil || im.LoginSecret()[0] != 1 || im.ACLs().Decide(requester("a", "10.1.1.1"), OpRead, ResourceTopic, "t1") != Denied {
		t.Errorf("users %+v, ACLs %+v", im.Users(), im.ACLs().All())
	}
	if err := im.checkLowered(LevelMoves); err == nil {
		t.Error("a level without users can be had while there are some")
	}
}

func BenchmarkACLDecide(b *testing.B) {
	d := newImage().draft()
	var list []ACL
	for i := range 1000 {
		list = append(list, acl(ResourceTopic, PatternType(3+i%2), "topic-"+strings.Repeat("x", i%20)+string(rune('a'+i%26)), "User:a", "*", OpWrite, PermissionAllow))
	}
	list = append(list, acl(ResourceTopic, PatternPrefixed, "orders", "User:a", "10.0.0.0/8", OpWrite, PermissionAllow))
	d.alterACLs(&AlterACLs{Create: list[:1000]})
	d.alterACLs(&AlterACLs{Create: list[1000:]})
	q := requester("a", "10.0.0.1")
	b.ReportAllocs()
	for b.Loop() {
		if d.acls.Decide(q, OpWrite, ResourceTopic, "orders-of-today") != Allowed {
			b.Fatal("refused")
		}
	}
}

// A network of IPv4 in IPv6's words is the network that it means: a denial for it must not be taken and then match nobody.
func TestMappedNetwork(t *testing.T) {
	p, err := parseHost("::ffff:10.0.0.0/104")
	if err != nil || !p.Contains(netip.MustParseAddr("10.1.2.3")) || p.Contains(netip.MustParseAddr("11.1.2.3")) {
		t.Errorf("%v, %v", p, err)
	}
	if p, err := parseHost("::/64"); err != nil || p.Contains(netip.MustParseAddr("10.1.2.3")) {
		t.Errorf("%v, %v", p, err)
	}
}

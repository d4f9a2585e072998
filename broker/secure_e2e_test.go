package broker

// Three brokers of which nothing is open, and stock clients: TLS, each mechanism, ACLs, and the death of a broker.

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl"
	"github.com/twmb/franz-go/pkg/sasl/oauth"
	"github.com/twmb/franz-go/pkg/sasl/plain"
)

func TestSecureCluster(t *testing.T) {
	t.Parallel()
	ca := newTestCA(t)
	issuer := newTokenIssuer(t, "k1")
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Write(issuer.jwks()) }))
	defer web.Close()
	c := newCluster(t, 3, true)
	ca.secure(c, ProtocolSASLSSL)
	for _, n := range c.nodes {
		n.cfg.SASLMechanisms = everyMechanism
		n.cfg.OAuth = OAuth{JWKS: web.URL, Issuer: "https://issuer.example", Audience: []string{"balsa"}}
		n.cfg.ACLs, n.cfg.SuperUsers = true, []string{"User:admin"}
		n.cfg.BootstrapUser, n.cfg.BootstrapPassword = "admin", "root-pw"
	}
	c.start(c.nodes...)
	c.awaitVoters(3)
	var seeds []string
	for _, n := range c.nodes {
		addr := n.listenerAddr(t, ProtocolSASLSSL)
		seeds = append(seeds, addr)
		n.cfg.Listeners[0].Listen = addr // clients must find it again
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	connect := func(m sasl.Mechanism, opts ...kgo.Opt) *kgo.Client {
		t.Helper()
		cl, err := kgo.NewClient(append(opts, kgo.SeedBrokers(seeds...), kgo.DialTLSConfig(ca.client("")), kgo.SASL(m), kgo.MetadataMinAge(50*time.Millisecond))...)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(cl.Close)
		return cl
	}
	token := func(user string) sasl.Mechanism {
		return oauth.Oauth(func(context.Context) (oauth.Auth, error) { return oauth.Auth{Token: issuer.token(user)}, nil })
	}
	admin := kadm.NewClient(connect(scram512("admin", "root-pw")))
	if _, err := admin.CreateTopic(ctx, 3, 3, nil, "orders"); err != nil {
		t.Fatal(err)
	}
	if _, err := admin.CreateTopic(ctx, 1, 3, nil, "secret"); err != nil {
		t.Fatal(err)
	}
	altered, err := admin.AlterUserSCRAMs(ctx, nil, []kadm.UpsertSCRAM{{User: "alice", Mechanism: kadm.ScramSha256, Iterations: 4096, Password: "wonder"}})
	if err != nil || altered["alice"].Err != nil {
		t.Fatal(err, altered)
	}
	created, err := admin.CreateACLs(ctx, kadm.NewACLs().Topics("ord").ResourcePatternType(kadm.ACLPatternPrefixed).Groups("g").Allow("User:alice", "User:robot").AllowHosts("127.0.0.0/8").
		Operations(kadm.OpRead, kadm.OpWrite))
	if err == nil {
		for _, r := range created {
			if r.Err != nil && !strings.Contains(r.ErrMessage, "group has no operation write") {
				err = errors.Join(err, r.Err)
			}
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := admin.CreateACLs(ctx, kadm.NewACLs().Groups("g").ResourcePatternType(kadm.ACLPatternPrefixed).Allow("User:alice", "User:robot").AllowHosts().Operations(kadm.OpRead)); err != nil {
		t.Fatal(err)
	}

	// Each mechanism writes, also while a broker is away.
	writers := map[string]*kgo.Client{}
	for name, m := range map[string]sasl.Mechanism{"scram": scram256("alice", "wonder"), "plain": plain.Auth{User: "alice", Pass: "wonder"}.AsMechanism(), "token": token("robot")} {
		writers[name] = connect(m, kgo.DefaultProduceTopic("orders"), kgo.RecordPartitioner(kgo.RoundRobinPartitioner()))
	}
	written := 0
	write := func() {
		t.Helper()
		for name, cl := range writers {
			for range 6 {
				if err := cl.ProduceSync(ctx, kgo.StringRecord(name)).FirstErr(); err != nil {
					t.Fatalf("%s: %v", name, err)
				}
				written++
			}
		}
	}
	write()
	c.stop(c.nodes[2])
	write()
	c.start(c.nodes[2])
	write()

	reader := connect(scram256("alice", "wonder"), kgo.ConsumeTopics("orders"), kgo.ConsumerGroup("g-1"))
	for n := 0; n < written; {
		fs := reader.PollFetches(ctx)
		if err := fs.Err(); err != nil {
			t.Fatal(err)
		}
		n += fs.NumRecords()
	}

	// What is not hers is refused, or not to be seen.
	alice := connect(scram256("alice", "wonder"))
	if err := alice.ProduceSync(ctx, &kgo.Record{Topic: "secret", Value: []byte("x")}).FirstErr(); !errors.Is(err, kerr.TopicAuthorizationFailed) {
		t.Errorf("writing to a topic that is not hers: %v", err)
	}
	topics, err := kadm.NewClient(alice).ListTopicsWithInternal(ctx)
	if err != nil || topics.Has("secret") || !topics.Has("orders") {
		t.Errorf("she sees %v, %v", topics.Names(), err)
	}
	acls, err := kadm.NewClient(alice).DescribeACLs(ctx, kadm.NewACLs().AnyResource().Allow().AllowHosts().Deny().DenyHosts().Operations())
	if err != nil || len(acls) == 0 {
		t.Error(err, acls)
	}
	for _, r := range acls {
		if !errors.Is(r.Err, kerr.ClusterAuthorizationFailed) || len(r.Described) > 0 {
			t.Errorf("she asks for the ACLs: %+v", r)
		}
	}
	denied := false
	for _, n := range c.nodes {
		denied = denied || n.log.contains("msg=denied") && n.log.contains("principal=User:alice")
	}
	if !denied {
		t.Error("no broker's log says that she was refused")
	}
	for name, m := range map[string]sasl.Mechanism{"a wrong password": scram256("alice", "x"), "nobody": scram256("bob", "wonder"), "no credential for it": scram512("alice", "wonder")} {
		if err := connect(m, kgo.RequestRetries(0)).Ping(ctx); !errors.Is(err, kerr.SaslAuthenticationFailed) {
			t.Errorf("%s: %v", name, err)
		}
	}

	// All of it is there after a restart of all; and the first user is not made again once it has another password.
	if altered, err := admin.AlterUserSCRAMs(ctx, nil, []kadm.UpsertSCRAM{{User: "admin", Mechanism: kadm.ScramSha512, Iterations: 4096, Password: "changed"}}); err != nil || altered["admin"].Err != nil {
		t.Fatal(err, altered)
	}
	c.stop(c.nodes...)
	c.start(c.nodes...)
	write()
	if err := connect(scram512("admin", "changed")).Ping(ctx); err != nil {
		t.Error(err)
	}
	if err := connect(scram512("admin", "root-pw"), kgo.RequestRetries(0)).Ping(ctx); !errors.Is(err, kerr.SaslAuthenticationFailed) {
		t.Errorf("the password of before: %v", err)
	}
}

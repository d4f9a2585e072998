// Bridges as a cluster has them: defined at an admin listener, carried by a broker, by another one once that is dead.

package bridge

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/balsamq/balsa/broker"
	"github.com/balsamq/balsa/brokertest"
	"github.com/balsamq/balsa/client"
)

// withBridges makes brokers carry bridges.
func withBridges(r *Runner) brokertest.Option {
	return brokertest.Configure(func(_ int, cfg *broker.Config) { cfg.Bridges, cfg.AdminListen = r, "127.0.0.1:0" })
}

// control reaches the admin listeners of those that run.
func control(t testing.TB, cl *brokertest.Brokers) *client.Control {
	t.Helper()
	var addrs []string
	for _, b := range cl.All() {
		if b.Running() {
			addrs = append(addrs, b.Raw().AdminAddr())
		}
	}
	ctl, err := client.NewControl(addrs...)
	if err != nil {
		t.Fatal(err)
	}
	return ctl
}

// shown is what the tests look at.
type shown struct {
	Name   string
	Owner  int
	Term   int64
	Paused bool
	Status broker.BridgeStatus
}

func show(t testing.TB, cl *brokertest.Brokers, name string) (s shown) {
	t.Helper()
	soon(t, "the bridge is shown", func() error {
		ctl := control(t, cl)
		defer ctl.Close()
		return ctl.Get(t.Context(), "/v1/bridges/"+name, &s)
	})
	return s
}

func order(t testing.TB, cl *brokertest.Brokers, path string, body any) (shown, error) {
	t.Helper()
	var s shown
	ctl := control(t, cl)
	defer ctl.Close()
	err := ctl.Post(t.Context(), path, body, &s)
	return s, err
}

func mustOrder(t testing.TB, cl *brokertest.Brokers, path string, body any) shown {
	t.Helper()
	s, err := order(t, cl, path, body)
	if err != nil {
		t.Fatalf("POST %s: %v", path, err)
	}
	return s
}

// kindOf is the kind of a refusal, and what it says.
func kindOf(err error) (string, string) {
	if ce, ok := errors.AsType[*client.ControlError](err); ok {
		return ce.Kind, ce.Message
	}
	return fmt.Sprint(err), ""
}

func countRecords(t testing.TB, cfg client.Config, topic string) (n int) {
	for _, recs := range records(t, cfg, topic) {
		n += len(recs)
	}
	return n
}

func awaitRecords(t testing.TB, cfg client.Config, topic string, n int) {
	t.Helper()
	soon(t, fmt.Sprintf("topic %s has %d records", topic, n), func() error {
		if got := countRecords(t, cfg, topic); got != n {
			return fmt.Errorf("it has %d", got)
		}
		return nil
	})
}

func TestBridgesMove(t *testing.T) {
	t.Parallel()
	nc := startNATS(t, 1, "")
	cl := brokertest.Cluster(t, 3, brokertest.Topic("t", 2), withBridges(&Runner{}))
	_, js := nc.dial()
	nc.stream(js, jetstream.StreamConfig{Name: "S", Subjects: []string{"s.>"}})
	sent := 0
	send := func(n int) {
		publish(t, js, n, func(i int) *nats.Msg {
			m := nats.NewMsg(fmt.Sprintf("s.%d", i%5))
			m.Data = fmt.Append(nil, sent+i)
			return m
		})
		sent += n
	}
	add := map[string]any{"name": "in", "kind": "nats", "spec": &Spec{Servers: nc.urls(), FromStream: "S", ToTopic: "t"}}
	with := func(changes ...any) map[string]any {
		out := map[string]any{}
		for k, v := range add {
			out[k] = v
		}
		for i := 0; i < len(changes); i += 2 {
			out[changes[i].(string)] = changes[i+1]
		}
		return out
	}
	for _, tc := range []struct {
		body       map[string]any
		kind, says string
	}{
		{with("name", "a/b"), "invalid", "name"},
		{with("kind", "amqp"), "invalid", "kind"},
		{with("spec", json.RawMessage(`{"servers":["nats://h"],"x":1}`)), "invalid", "unknown field"},
		{with("begin", "0:1"), "invalid", "position"},
		{with("spec", &Spec{Servers: nc.urls(), FromStream: "NONE", ToTopic: "t"}), "invalid", "no stream NONE"},
		{with("spec", &Spec{Servers: nc.urls(), FromStream: "S", ToTopic: "none"}), "invalid", "no topic none"},
		{with("spec", &Spec{Servers: []string{"nats://127.0.0.1:1"}, FromStream: "S", ToTopic: "t"}), "invalid", "connect to NATS"},
		{with("spec", &Spec{Servers: nc.urls(), FromStream: "S", ToTopic: "t", Auth: Auth{TokenFile: "none"}}), "invalid", "directory of secrets"},
	} {
		if kind, says := kindOf(second(order(t, cl, "/v1/bridges", tc.body))); kind != tc.kind || !strings.Contains(says, tc.says) {
			t.Errorf("%v: %s: %s", tc.body, kind, says)
		}
	}
	mustOrder(t, cl, "/v1/bridges", with("dryRun", true))
	if kind, _ := kindOf(second(order(t, cl, "/v1/bridges/in/pause", map[string]any{}))); kind != "not_found" {
		t.Errorf("after a dry run: %s", kind)
	}
	mustOrder(t, cl, "/v1/bridges", add)
	if kind, says := kindOf(second(order(t, cl, "/v1/bridges", add))); kind != "conflict" {
		t.Errorf("twice: %s: %s", kind, says)
	}
	send(100)
	awaitRecords(t, cl.Config(), "t", 100)

	owner := show(t, cl, "in").Owner
	cl.Broker(owner).Kill()
	soon(t, "another broker has the bridge", func() error {
		if s := show(t, cl, "in"); s.Owner == owner || s.Owner == 0 || s.Status.State != string(StateRunning) {
			return fmt.Errorf("%+v", s)
		}
		return nil
	})
	more := func(from, n int) {
		for i := from; i < from+n; i++ {
			m := nats.NewMsg("s.x")
			m.Data = fmt.Append(nil, i)
			soon(t, "a message is published", func() error { _, err := js.PublishMsg(t.Context(), m); return err })
		}
	}
	more(100, 20)
	awaitRecords(t, cl.Config(), "t", 120)
	if err := cl.Broker(owner).Restart(t.Context()); err != nil {
		t.Fatal(err)
	}

	// A broker that stops in order gives the bridge away.
	owner = show(t, cl, "in").Owner
	if err := cl.Broker(owner).Stop(); err != nil {
		t.Fatal(err)
	}
	soon(t, "another broker has the bridge", func() error {
		if s := show(t, cl, "in"); s.Owner == owner || s.Status.State != string(StateRunning) {
			return fmt.Errorf("%+v", s)
		}
		return nil
	})
	if err := cl.Broker(owner).Restart(t.Context()); err != nil {
		t.Fatal(err)
	}

	if s := mustOrder(t, cl, "/v1/bridges/in/pause", map[string]any{}); !s.Paused || s.Status.State != "paused" {
		t.Errorf("%+v", s)
	}
	more(120, 5)
	mustOrder(t, cl, "/v1/bridges/in/resume", map[string]any{"dryRun": true})
	if s := show(t, cl, "in"); !s.Paused {
		t.Errorf("a dry run has resumed it: %+v", s)
	}
	if n := countRecords(t, cl.Config(), "t"); n != 120 {
		t.Errorf("%d records while it is paused", n)
	}
	mustOrder(t, cl, "/v1/bridges/in/resume", map[string]any{})
	awaitRecords(t, cl.Config(), "t", 125)
	if kind, _ := kindOf(second(order(t, cl, "/v1/bridges/in/seek", map[string]any{"to": "nowhere"}))); kind != "invalid" {
		t.Errorf("seek to nowhere: %s", kind)
	}
	mustOrder(t, cl, "/v1/bridges/in/seek", map[string]any{"to": "121"})
	awaitRecords(t, cl.Config(), "t", 130)
	soon(t, "the lag is 0", func() error {
		if s := show(t, cl, "in"); s.Status.Lag != 0 || s.Status.Position != "126" {
			return fmt.Errorf("%+v", s)
		}
		return nil
	})
	mustOrder(t, cl, "/v1/bridges/in/remove", map[string]any{})
	var table struct{ Bridges []shown }
	ctl := control(t, cl)
	defer ctl.Close()
	if err := ctl.Get(t.Context(), "/v1/bridges", &table); err != nil || len(table.Bridges) != 0 {
		t.Errorf("%+v, %v", table, err)
	}
}

// The topic where bridges keep their places is the brokers' own: they make it, clients may read it, and only bridges write there.
func TestLedgerIsInternal(t *testing.T) {
	t.Parallel()
	cl := brokertest.Cluster(t, 3)
	adm, err := client.NewAdmin(t.Context(), cl.Config())
	if err != nil {
		t.Fatal(err)
	}
	defer adm.Close()
	if _, err := adm.CreateTopic(t.Context(), client.TopicSpec{Name: LedgerTopic, Partitions: 1}); !errors.Is(err, kerr.InvalidTopicException) {
		t.Errorf("made by a client: %v", err)
	}
	l, _, err := openLedger(t.Context(), cl.Config(), "6f1c", new(targets))
	if err != nil {
		t.Fatal(err)
	}
	defer l.close()
	topic, err := adm.DescribeTopic(t.Context(), LedgerTopic)
	if err != nil {
		t.Fatal(err)
	}
	if !topic.Internal || len(topic.Partitions[0].Replicas) != 3 {
		t.Errorf("%+v", topic)
	}
	for _, c := range topic.Configs {
		if c.Name == "cleanup.policy" && c.Value != "compact" {
			t.Errorf("its cleanup.policy is %s", c.Value)
		}
	}
	if err := adm.DeleteTopic(t.Context(), LedgerTopic); !errors.Is(err, kerr.TopicAuthorizationFailed) {
		t.Errorf("deleted: %v", err)
	}
	for _, id := range []string{"", "mine"} {
		cfg := cl.Config()
		if id != "" {
			cfg = withOptions(cfg, kgo.TransactionalID(id))
		}
		other, err := client.NewAdmin(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		if id != "" {
			if err := other.Client().BeginTransaction(); err != nil {
				t.Fatal(err)
			}
		}
		if err := other.Client().ProduceSync(t.Context(), &kgo.Record{Topic: LedgerTopic, Key: []byte("6f1c"), Value: []byte("{}")}).FirstErr(); !errors.Is(err, kerr.InvalidTopicException) {
			t.Errorf("written by %q: %v", id, err)
		}
		other.Close()
	}
}

func second[A any](_ A, err error) error { return err }

// A bridge of a secured cluster is the user that it is told to be, and may do what that may.
func TestBridgesAreSubjectToACLs(t *testing.T) {
	t.Parallel()
	nc := startNATS(t, 1, "")
	r := &Runner{}
	cl := brokertest.Cluster(t, 1, brokertest.Secure(), brokertest.Topic("t", 1), withBridges(r))
	adm, err := client.NewAdmin(t.Context(), cl.Config())
	if err != nil {
		t.Fatal(err)
	}
	defer adm.Close()
	if err := adm.CreateUser(t.Context(), "bridge", "bridge-password"); err != nil {
		t.Fatal(err)
	}
	r.Security = cl.ConfigFor("bridge", "bridge-password").Security
	_, js := nc.dial()
	nc.stream(js, jetstream.StreamConfig{Name: "S", Subjects: []string{"s.>"}})
	if _, err := js.Publish(t.Context(), "s.x", []byte("v")); err != nil {
		t.Fatal(err)
	}
	b := start(t, job(t, cl.ConfigFor("bridge", "bridge-password"), &Spec{Servers: nc.urls(), FromStream: "S", ToTopic: "t"}))
	defer b.Close()
	soon(t, "it is refused", func() error {
		if s := b.Status(); s.State == StateRunning || s.Error == "" {
			return fmt.Errorf("%+v", s)
		}
		return nil
	})
	allow := func(resource, name, pattern string, ops ...string) {
		for _, op := range ops {
			if err := adm.CreateACLs(t.Context(), client.ACL{Principal: "User:bridge", Permission: "allow", Operation: op, Resource: resource, Name: name, Pattern: pattern, Host: "*"}); err != nil {
				t.Fatal(err)
			}
		}
	}
	allow("topic", "t", "literal", "write", "describe_configs")
	allow("topic", LedgerTopic, "literal", "read", "write")
	allow("transactional_id", TransactionalPrefix, "prefixed", "write")
	var one []*kgo.Record
	soon(t, "it is allowed", func() error {
		one = records(t, cl.Config(), "t")[0]
		if len(one) != 1 {
			return fmt.Errorf("%+v", b.Status())
		}
		return nil
	})
}

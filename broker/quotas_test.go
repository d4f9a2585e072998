package broker

import (
	"context"
	"fmt"
	"math"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// quota is a limit as a request sets it. A name of "" is the default.
type testQuota struct {
	entity map[string]string
	limit  string
	value  float64 // 0: take it away
}

func alterQuotas(version int16, list ...testQuota) *kmsg.AlterClientQuotasRequest {
	req := kmsg.NewPtrAlterClientQuotasRequest()
	req.Version = version
	for _, q := range list {
		e := kmsg.NewAlterClientQuotasRequestEntry()
		for _, kind := range []string{"user", "client-id", "ip", "nonsense"} {
			if name, ok := q.entity[kind]; ok {
				ee := kmsg.NewAlterClientQuotasRequestEntryEntity()
				ee.Type, ee.Name = kind, optional(name)
				e.Entity = append(e.Entity, ee)
			}
		}
		op := kmsg.NewAlterClientQuotasRequestEntryOp()
		op.Key, op.Value, op.Remove = q.limit, q.value, q.value == 0
		e.Ops = append(e.Ops, op)
		req.Entries = append(req.Entries, e)
	}
	return req
}

func describeQuotas(t testing.TB, c *kafkaClient, version int16, strict bool, components ...kmsg.DescribeClientQuotasRequestComponent) ([]string, *kerr.Error) {
	t.Helper()
	req := kmsg.NewPtrDescribeClientQuotasRequest()
	req.Version, req.Strict, req.Components = version, strict, components
	resp := ask[*kmsg.DescribeClientQuotasResponse](c, req)
	if (resp.Entries == nil) != (resp.ErrorCode != 0) {
		t.Errorf("v%d: code %d, and entries %v: they are null with an error only", version, resp.ErrorCode, resp.Entries)
	}
	var out []string
	for _, e := range resp.Entries {
		var parts []string
		for _, p := range e.Entity {
			name := "<default>"
			if p.Name != nil {
				name = *p.Name
			}
			parts = append(parts, p.Type+"="+name)
		}
		for _, v := range e.Values {
			out = append(out, fmt.Sprintf("%s %s=%v", strings.Join(parts, "+"), v.Key, v.Value))
		}
	}
	if resp.ErrorCode == 0 {
		return out, nil
	}
	return out, kerr.TypedErrorForCode(resp.ErrorCode)
}

func component(kind string, match int8, name ...string) kmsg.DescribeClientQuotasRequestComponent {
	c := kmsg.NewDescribeClientQuotasRequestComponent()
	c.EntityType, c.MatchType = kind, kmsg.QuotasMatchType(match)
	if len(name) > 0 {
		c.Match = &name[0]
	}
	return c
}

func TestClientQuotasAreSetAndShown(t *testing.T) {
	h := newHarness(t, serverOptions{})
	c := h.dial()
	for i, tc := range []struct {
		q    testQuota
		want *kerr.Error
	}{
		{testQuota{map[string]string{"user": "u"}, quotaProduce, 1000}, nil},
		{testQuota{map[string]string{"user": ""}, quotaConsume, 2000}, nil},
		{testQuota{map[string]string{"user": "u", "client-id": "c"}, quotaRequest, 12.5}, nil},
		{testQuota{map[string]string{"user": "u", "client-id": ""}, quotaMutation, 0.5}, nil},
		{testQuota{map[string]string{"client-id": ""}, quotaProduce, 3000}, nil},
		{testQuota{map[string]string{"ip": "10.0.0.1"}, quotaConnection, 5}, nil},
		{testQuota{map[string]string{"ip": ""}, quotaConnection, 7}, nil},
		{testQuota{map[string]string{"ip": "nowhere"}, quotaConnection, 5}, kerr.InvalidRequest},
		{testQuota{map[string]string{"ip": "10.0.0.1", "user": "u"}, quotaConnection, 5}, kerr.InvalidRequest},
		{testQuota{map[string]string{"ip": "10.0.0.1"}, quotaProduce, 5}, kerr.InvalidRequest},
		{testQuota{map[string]string{"user": "u"}, quotaConnection, 5}, kerr.InvalidRequest},
		{testQuota{map[string]string{"user": "u"}, "no_such_rate", 5}, kerr.InvalidRequest},
		{testQuota{map[string]string{"user": "u"}, quotaProduce, -1}, kerr.InvalidRequest},
		{testQuota{map[string]string{"user": "u"}, quotaProduce, 1.5}, kerr.InvalidRequest},
		{testQuota{map[string]string{"nonsense": "u"}, quotaProduce, 1}, kerr.InvalidRequest},
		{testQuota{map[string]string{}, quotaProduce, 1}, kerr.InvalidRequest},
	} {
		req := alterQuotas(int16(i%2), tc.q)
		req.ValidateOnly = true
		for range 2 {
			before := h.back.Image().QuotaVersion()
			resp := ask[*kmsg.AlterClientQuotasResponse](c, req)
			got := kerr.TypedErrorForCode(resp.Entries[0].ErrorCode)
			if resp.Entries[0].ErrorCode == 0 {
				got = nil
			}
			if got != tc.want || len(resp.Entries[0].Entity) != len(req.Entries[0].Entity) {
				t.Errorf("%+v: %v, want %v", tc.q, got, tc.want)
			}
			if changed := h.back.Image().QuotaVersion() != before; changed != (!req.ValidateOnly && tc.want == nil) {
				t.Errorf("%+v: validate %v, changed %v", tc.q, req.ValidateOnly, changed)
			}
			req.ValidateOnly = false
		}
	}
	all := []string{"client-id=<default> producer_byte_rate=3000", "ip=<default> connection_creation_rate=7", "ip=10.0.0.1 connection_creation_rate=5",
		"user=<default> consumer_byte_rate=2000", "user=u producer_byte_rate=1000", "user=u+client-id=<default> controller_mutation_rate=0.5", "user=u+client-id=c request_percentage=12.5"}
	for _, tc := range []struct {
		strict     bool
		components []kmsg.DescribeClientQuotasRequestComponent
		want       []string
		err        *kerr.Error
	}{
		{false, nil, all, nil},
		{true, nil, nil, nil},
		{false, []kmsg.DescribeClientQuotasRequestComponent{component("user", matchExact, "u")}, all[4:], nil},
		{true, []kmsg.DescribeClientQuotasRequestComponent{component("user", matchExact, "u")}, all[4:5], nil},
		{false, []kmsg.DescribeClientQuotasRequestComponent{component("user", matchAny)}, all[3:], nil},
		{true, []kmsg.DescribeClientQuotasRequestComponent{component("user", matchDefault)}, all[3:4], nil},
		{true, []kmsg.DescribeClientQuotasRequestComponent{component("client-id", matchDefault), component("user", matchExact, "u")}, all[5:6], nil},
		{false, []kmsg.DescribeClientQuotasRequestComponent{component("ip", matchAny)}, all[1:3], nil},
		{false, []kmsg.DescribeClientQuotasRequestComponent{component("", matchAny)}, nil, kerr.InvalidRequest},
		{false, []kmsg.DescribeClientQuotasRequestComponent{component("custom", matchAny)}, nil, kerr.UnsupportedVersion},
		{false, []kmsg.DescribeClientQuotasRequestComponent{component("user", matchAny), component("user", matchAny)}, nil, kerr.InvalidRequest},
		{false, []kmsg.DescribeClientQuotasRequestComponent{component("user", matchExact)}, nil, kerr.InvalidRequest},
		{false, []kmsg.DescribeClientQuotasRequestComponent{component("user", 3)}, nil, kerr.InvalidRequest},
		{false, []kmsg.DescribeClientQuotasRequestComponent{component("ip", matchAny), component("user", matchAny)}, nil, kerr.InvalidRequest},
	} {
		for v := int16(0); v <= 1; v++ {
			got, err := describeQuotas(t, c, v, tc.strict, tc.components...)
			if err != tc.err || !slices.Equal(got, tc.want) {
				t.Errorf("v%d strict %v %+v:\n%v %v, want\n%v %v", v, tc.strict, tc.components, got, err, tc.want, tc.err)
			}
		}
	}
	ask[*kmsg.AlterClientQuotasResponse](c, alterQuotas(1, testQuota{map[string]string{"user": "u"}, quotaProduce, 0}))
	if got, _ := describeQuotas(t, c, 1, false); !slices.Equal(got, slices.Delete(slices.Clone(all), 4, 5)) {
		t.Errorf("%v", got)
	}
}

// Kafka's order, from the most particular to the default of all client ids.
func TestQuotaPrecedence(t *testing.T) {
	h := newHarness(t, serverOptions{})
	c := h.dial()
	order := []map[string]string{{"client-id": ""}, {"client-id": "c"}, {"user": ""}, {"user": "", "client-id": ""}, {"user": "", "client-id": "c"}, {"user": "u"},
		{"user": "u", "client-id": ""}, {"user": "u", "client-id": "c"}}
	if _, ok := h.back.Image().ClientQuota(quotaProduce, "u", "c"); ok {
		t.Fatal("a quota before there is one")
	}
	for i, entity := range order {
		ask[*kmsg.AlterClientQuotasResponse](c, alterQuotas(1, testQuota{entity, quotaProduce, float64(i + 1)}))
		m, ok := h.back.Image().ClientQuota(quotaProduce, "u", "c")
		_, byUser := entity["user"]
		_, byClient := entity["client-id"]
		if !ok || m.Limit != float64(i+1) || m.ByUser != byUser || m.ByClientID != byClient {
			t.Errorf("with %v: %+v, %v", entity, m, ok)
		}
		if _, ok := h.back.Image().ClientQuota(quotaConsume, "u", "c"); ok {
			t.Errorf("a limit that nobody set")
		}
	}
	if m, _ := h.back.Image().ClientQuota(quotaProduce, "v", "d"); m.Limit != 4 {
		t.Errorf("another client of another user: %+v", m)
	}
}

// In the long run it is the rate; what is owed is waited for; a pause saves up one window.
func TestBucketKeepsItsRate(t *testing.T) {
	now := time.Unix(1000, 0)
	q := newQuotas(newMetrics())
	q.now = func() time.Time { return now }
	a := account{limit: quotaProduce, user: "u"}
	const rate = 1000.0
	taken, begun := 0.0, now
	for now.Sub(begun) < 1000*time.Second {
		wait, ok := q.charge(a, rate, 700, false)
		if !ok {
			t.Fatal("not strict, and refused")
		}
		taken += 700
		now = now.Add(max(wait, time.Millisecond))
	}
	if most := rate*(1000+quotaWindow.Seconds()) + 700; taken > most || taken < rate*999 {
		t.Errorf("%v in 1000 s at %v a second", taken, rate)
	}
	now = now.Add(time.Hour)
	if wait, _ := q.charge(a, rate, rate*quotaWindow.Seconds(), false); wait != 0 {
		t.Errorf("a window's worth after a pause: wait %v", wait)
	}
	if wait, ok := q.charge(a, rate, 2*rate, true); !ok || wait != 2*time.Second {
		t.Errorf("%v, %v", wait, ok)
	}
	if wait, ok := q.charge(a, rate, 1, true); ok || wait != 2*time.Second {
		t.Errorf("strict, in debt: %v, %v", wait, ok)
	}
	if wait, _ := q.charge(a, 1e-9, 1, false); wait != maxThrottle {
		t.Errorf("a tiny rate: %v", wait)
	}
}

func TestQuotaAccountsAreBounded(t *testing.T) {
	now := time.Unix(1000, 0)
	q := newQuotas(newMetrics())
	q.now = func() time.Time { return now }
	for i := range 3 * maxQuotaAccounts {
		q.charge(account{limit: quotaProduce, clientID: fmt.Sprint(i)}, 1, 100, false)
	}
	if n := q.size(); n > maxQuotaAccounts+1 {
		t.Fatalf("%d accounts", n)
	}
	// They share one then, and share its debt.
	if wait, _ := q.charge(account{limit: quotaProduce, clientID: "new"}, 1, 0, false); wait == 0 {
		t.Error("one more has none of the debt")
	}
	// But not that of another user.
	if wait, _ := q.charge(account{limit: quotaProduce, user: "alice", clientID: "new"}, 1, 1, false); wait != 0 {
		t.Errorf("alice pays for clients without a user: wait %v", wait)
	}
	for i := range 3 * maxQuotaAccounts {
		q.charge(account{limit: quotaProduce, user: fmt.Sprint(i), clientID: "c"}, 1, 100, false)
	}
	if n := q.size(); n > 2*maxQuotaAccounts+1 {
		t.Errorf("%d accounts", n)
	}
	now = now.Add(2 * maxThrottle)
	if wait, _ := q.charge(account{limit: quotaProduce, clientID: "new"}, 1, 1, false); wait != 0 {
		t.Errorf("after a long time: wait %v", wait)
	}
	if n := q.size(); n > 2 {
		t.Errorf("%d accounts are left", n)
	}
}

// A client id may be 32 KiB long; ten thousand of them in the accounts must not be.
func TestAccountNamesAreBounded(t *testing.T) {
	long := strings.Repeat("x", 32<<10)
	a, b := accountName(long), accountName(long+"y")
	if len(a) > maxAccountName || len(b) > maxAccountName || a == b || accountName("short") != "short" {
		t.Errorf("%d and %d bytes, the same: %v", len(a), len(b), a == b)
	}
}

// A connection that is muted reads nothing, and then goes on. Time is fake.
func TestMutedConnectionWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		c := &conn{s: &server{quotas: newQuotas(newMetrics())}, ctx: ctx}
		c.mute(3 * time.Second)
		c.mute(2 * time.Second) // the longest counts
		begun := time.Now()
		if err := c.awaitUnmuted(); err != nil || time.Since(begun) != 3*time.Second {
			t.Errorf("%v after %v", err, time.Since(begun))
		}
		if err := c.awaitUnmuted(); err != nil || time.Since(begun) != 3*time.Second {
			t.Errorf("%v after %v", err, time.Since(begun))
		}
		c.mute(time.Hour)
		time.AfterFunc(time.Second, cancel)
		if err := c.awaitUnmuted(); err == nil || time.Since(begun) != 4*time.Second {
			t.Errorf("a connection that closes: %v after %v", err, time.Since(begun))
		}
	})
}

// The answers say how long to wait, and what is asked before that is answered after it.
func TestClientsAreThrottled(t *testing.T) {
	h := newHarness(t, serverOptions{})
	id := h.back.addTopic("t", 1, nil)
	admin := h.dial()
	now := time.Unix(1_000_000, 0)
	h.server.quotas.now = func() time.Time { return now } // it does not go on: what is in debt stays so
	set := func(limit string, value float64) {
		t.Helper()
		if resp := ask[*kmsg.AlterClientQuotasResponse](admin, alterQuotas(1, testQuota{map[string]string{"client-id": "test"}, limit, value})); resp.Entries[0].ErrorCode != 0 {
			t.Fatalf("%+v", resp)
		}
	}
	batch := testBatch(strings.Repeat("x", 1000))

	set(quotaProduce, 100) // 1,000 bytes in a window
	c := h.dial()
	resp := ask[*kmsg.ProduceResponse](c, produceRequest(9, -1, "t", id, 0, slices.Clone(batch)))
	if resp.Topics[0].Partitions[0].ErrorCode != 0 || resp.ThrottleMillis < 500 || resp.ThrottleMillis > 5000 {
		t.Fatalf("produce: %+v", resp)
	}
	// Muted: what comes now is not read. Its connection is, as the bytes are waited for only.
	c.send(apiVersionsRequest(0))
	if until := h.mutedUntil(); until.Sub(now) < 500*time.Millisecond {
		t.Errorf("muted until %v", until)
	}
	set(quotaProduce, 0)

	set(quotaConsume, 100)
	c = h.dial()
	fr := fetchRequest(11, "t", id, 0, 0, 1)
	fresp := ask[*kmsg.FetchResponse](c, fr)
	if len(fresp.Topics) != 1 || len(fresp.Topics[0].Partitions[0].RecordBatches) != len(batch) || fresp.ThrottleMillis < 100 {
		t.Fatalf("fetch: throttle %d", fresp.ThrottleMillis)
	}
	set(quotaConsume, 0)

	// Changes of the cluster: strict versions are refused while in debt.
	set(quotaMutation, 0.1) // one in a window
	for i, want := range []*kerr.Error{nil, nil, kerr.ThrottlingQuotaExceeded} {
		c = h.dial()
		req := kmsg.NewPtrCreateTopicsRequest()
		req.Version, req.TimeoutMillis = 6, 5000
		req.Topics = append(req.Topics, createTopic(fmt.Sprint("new", i), 1, 1))
		resp := ask[*kmsg.CreateTopicsResponse](c, req)
		if got := kerr.ErrorForCode(resp.Topics[0].ErrorCode); want == nil && got != nil || want != nil && got != want || (i > 0) != (resp.ThrottleMillis > 0) {
			t.Errorf("topic %d: %v, throttle %d", i, got, resp.ThrottleMillis)
		}
	}
	set(quotaMutation, 0)
	set(quotaMutation, 100)
	c = h.dial()
	grow := kmsg.NewPtrCreatePartitionsRequest()
	grow.Version, grow.TimeoutMillis = 3, 5000
	grow.Topics = append(grow.Topics, kmsg.CreatePartitionsRequestTopic{Topic: "t", Count: math.MaxInt32})
	if resp := ask[*kmsg.CreatePartitionsResponse](c, grow); resp.Topics[0].ErrorCode != kerr.InvalidPartitions.Code || resp.ThrottleMillis > 1000 {
		t.Errorf("more partitions than there can be: %d, throttle %d: a debt of years for nothing", resp.Topics[0].ErrorCode, resp.ThrottleMillis)
	}
	set(quotaMutation, 0)

	// Work: 1e-7 per cent of a core is less than any request takes; the second request says so.
	set(quotaRequest, 1e-7)
	c = h.dial()
	ask[*kmsg.MetadataResponse](c, metadataRequest(9, "t"))
	soonThrottled := h.dial()
	if resp := ask[*kmsg.MetadataResponse](soonThrottled, metadataRequest(9, "t")); resp.ThrottleMillis == 0 {
		t.Error("request_percentage is not obeyed")
	}
	if got := h.server.quotas.size(); got == 0 {
		t.Error("no account is kept")
	}
}

// mutedUntil is the latest time until which a connection is muted.
func (h *kafkaHarness) mutedUntil() (last time.Time) {
	h.server.mu.Lock()
	defer h.server.mu.Unlock()
	for c := range h.server.conns {
		if m := c.muted.Load(); m != 0 && time.Unix(0, m).After(last) {
			last = time.Unix(0, m)
		}
	}
	return last
}

func TestConnectionRateOfAnAddress(t *testing.T) {
	h := newHarness(t, serverOptions{})
	c := h.dial()
	now := time.Unix(1_000_000, 0)
	h.server.quotas.now = func() time.Time { return now }
	if resp := ask[*kmsg.AlterClientQuotasResponse](c, alterQuotas(1, testQuota{map[string]string{"ip": "127.0.0.1"}, quotaConnection, 1})); resp.Entries[0].ErrorCode != 0 {
		t.Fatalf("%+v", resp)
	}
	// A window's worth, one that goes into debt, and then none.
	for range 11 {
		ask[*kmsg.ApiVersionsResponse](h.dial(), apiVersionsRequest(0))
	}
	h.dial().closed()
}

// comesFrom is a connection from an address.
type comesFrom struct {
	net.Conn
	addr string
}

func (c comesFrom) RemoteAddr() net.Addr {
	return net.TCPAddrFromAddrPort(netip.MustParseAddrPort(c.addr))
}

// The quota for all addresses counts the networks of version 6 that one customer has: with addresses of his own making he would use up the accounts, and
// the others would share what is left. An address that has a quota of its own is counted by itself.
func TestConnectionRateOfANetwork(t *testing.T) {
	h := newHarness(t, serverOptions{})
	c := h.dial()
	now := time.Unix(1_000_000, 0)
	h.server.quotas.now = func() time.Time { return now }
	resp := ask[*kmsg.AlterClientQuotasResponse](c, alterQuotas(1, testQuota{map[string]string{"ip": ""}, quotaConnection, 1}, testQuota{map[string]string{"ip": "2001:db8::1"}, quotaConnection, 1}))
	if resp.Entries[0].ErrorCode != 0 || resp.Entries[1].ErrorCode != 0 {
		t.Fatalf("%+v", resp)
	}
	admitted := func(addr string) bool {
		nc, far := net.Pipe()
		defer nc.Close()
		defer far.Close()
		return h.server.admitIP(comesFrom{nc, addr}, h.back.Image())
	}
	n := 0
	for i := range 1000 {
		if admitted(fmt.Sprintf("[2001:db8::%x]:1000", i+2)) {
			n++
		}
	}
	if n == 0 || n > 50 {
		t.Errorf("%d of a thousand connections from one network are admitted", n)
	}
	for _, addr := range []string{"[2001:db8::1]:1000", "[2001:db8:0:1::2]:1000", "192.0.2.1:1000"} {
		if !admitted(addr) {
			t.Errorf("%s pays for them", addr)
		}
	}
	if n := h.server.quotas.size(); n > 4 {
		t.Errorf("%d accounts", n)
	}
}

// A real producer and consumer on a real broker: they come through, and are slowed down.
func TestQuotasOnAClient(t *testing.T) {
	c := newCluster(t, 1, true)
	c.start(c.nodes...)
	n := c.nodes[0]
	n.mustCreate(t, "t", 1, 1)
	waits := make(chan time.Duration, 100)
	cl, err := kgo.NewClient(kgo.SeedBrokers(n.KafkaAddr()), kgo.ClientID("slow"), kgo.DefaultProduceTopic("t"), kgo.ProducerBatchCompression(kgo.NoCompression()),
		kgo.WithHooks(throttleHook{waits}))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	resp, err := alterQuotas(1, testQuota{map[string]string{"user": "", "client-id": "slow"}, quotaProduce, 20_000}).RequestWith(t.Context(), cl)
	if err != nil || resp.Entries[0].ErrorCode != 0 {
		t.Fatalf("%+v %v", resp, err)
	}
	if m, ok := n.Image().ClientQuota(quotaProduce, "ANONYMOUS", "slow"); !ok || m.Limit != 20_000 || !m.ByUser {
		t.Fatalf("%+v %v", m, ok)
	}
	// A window's worth is 200,000 bytes; what is beyond it is paid for by waiting.
	for range 3 {
		if err := cl.ProduceSync(t.Context(), &kgo.Record{Value: make([]byte, 70_000)}).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	select {
	case wait := <-waits:
		if wait <= 0 {
			t.Errorf("wait %v", wait)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("the producer was never throttled")
	}
}

type throttleHook struct{ waits chan time.Duration }

func (h throttleHook) OnBrokerThrottle(_ kgo.BrokerMetadata, wait time.Duration, _ bool) {
	select {
	case h.waits <- wait:
	default:
	}
}

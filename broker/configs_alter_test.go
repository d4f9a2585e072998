package broker

// Altering configs: the table against Kafka's list, the operations, the resources, and that what is set takes effect.

import (
	"bytes"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/balsamq/balsa/coordinator"
)

// kafkaTopicConfigs are those that Apache Kafka 4.1 documents.
var kafkaTopicConfigs = []string{"cleanup.policy", "compression.gzip.level", "compression.lz4.level", "compression.type", "compression.zstd.level", "delete.retention.ms",
	"file.delete.delay.ms", "flush.messages", "flush.ms", "follower.replication.throttled.replicas", "index.interval.bytes", "leader.replication.throttled.replicas",
	"local.retention.bytes", "local.retention.ms", "max.compaction.lag.ms", "max.message.bytes", "message.timestamp.after.max.ms", "message.timestamp.before.max.ms",
	"message.timestamp.type", "min.cleanable.dirty.ratio", "min.compaction.lag.ms", "min.insync.replicas", "preallocate", "remote.log.copy.disable",
	"remote.log.delete.on.disable", "remote.storage.enable", "retention.bytes", "retention.ms", "segment.bytes", "segment.index.bytes", "segment.jitter.ms", "segment.ms",
	"unclean.leader.election.enable"}

// No topic config is silently ignored: it is there, its default is a value that it takes, and it is obeyed or says why not.
func TestEveryTopicConfigWorksOrIsRefused(t *testing.T) {
	if !slices.IsSortedFunc(topicConfigDefs, func(a, b configDef) int { return strings.Compare(a.name, b.name) }) {
		t.Error("the table is not sorted, and is searched as if it were")
	}
	for _, name := range kafkaTopicConfigs {
		if topicConfigByName(name) == nil {
			t.Errorf("%s is missing", name)
		}
	}
	for i := range topicConfigDefs {
		d := &topicConfigDefs[i]
		if err := checkTopicConfig(d.name, d.def); err != nil {
			t.Errorf("%s: its default is refused: %v", d.name, err)
		}
		if d.doc == "" || d.does == fixed == (d.why == "") {
			t.Errorf("%s: documentation %q, obedience %d, reason %q", d.name, d.doc, d.does, d.why)
		}
		if d.broker != "" {
			b := brokerConfigs()[d.broker]
			if b == nil || !b.dynamic || b.does != d.does {
				t.Errorf("%s: its default %s is no broker config that can be set alike", d.name, d.broker)
			}
		}
		if d.does != fixed {
			continue
		}
		other := map[kmsg.ConfigType]string{kmsg.ConfigTypeBoolean: "true", kmsg.ConfigTypeInt: "7", kmsg.ConfigTypeLong: "7", kmsg.ConfigTypeDouble: "0.25"}[d.typ]
		if len(d.allowed) > 0 {
			other = d.allowed[slices.IndexFunc(d.allowed, func(v string) bool { return v != d.def })]
		}
		if err := checkTopicConfig(d.name, other); codeOf(err) != kerr.InvalidConfig.Code || !strings.Contains(err.Error(), d.why) {
			t.Errorf("%s=%s: %v", d.name, other, err)
		}
	}
}

func incrementalAlter(version int16, kind kmsg.ConfigResourceType, name string, ops ...configOp) *kmsg.IncrementalAlterConfigsRequest {
	req := kmsg.NewPtrIncrementalAlterConfigsRequest()
	req.Version = version
	rr := kmsg.NewIncrementalAlterConfigsRequestResource()
	rr.ResourceType, rr.ResourceName = kind, name
	for _, op := range ops {
		c := kmsg.NewIncrementalAlterConfigsRequestResourceConfig()
		c.Name, c.Op, c.Value = op.name, op.op, op.value
		rr.Configs = append(rr.Configs, c)
	}
	req.Resources = append(req.Resources, rr)
	return req
}

func setTo(name, value string) configOp {
	return configOp{name, kmsg.IncrementalAlterConfigOpSet, &value}
}
func unsetOp(name string) configOp {
	return configOp{name: name, op: kmsg.IncrementalAlterConfigOpDelete}
}
func appendOp(name, value string) configOp {
	return configOp{name, kmsg.IncrementalAlterConfigOpAppend, &value}
}
func subtractOp(name, value string) configOp {
	return configOp{name, kmsg.IncrementalAlterConfigOpSubtract, &value}
}

// describedConfigs is what a broker says of one resource.
func describedConfigs(t testing.TB, c *kafkaClient, kind kmsg.ConfigResourceType, name string) map[string]kmsg.DescribeConfigsResponseResourceConfig {
	t.Helper()
	req := kmsg.NewPtrDescribeConfigsRequest()
	req.Version, req.IncludeSynonyms, req.IncludeDocumentation = 4, true, true
	r := kmsg.NewDescribeConfigsRequestResource()
	r.ResourceType, r.ResourceName = kind, name
	req.Resources = append(req.Resources, r)
	resp := ask[*kmsg.DescribeConfigsResponse](c, req)
	if resp.Resources[0].ErrorCode != 0 {
		t.Fatalf("describe %d %q: %v", kind, name, kerr.ErrorForCode(resp.Resources[0].ErrorCode))
	}
	return byName(resp.Resources[0].Configs)
}

func TestIncrementalAlterConfigs(t *testing.T) {
	h := newHarness(t, serverOptions{})
	h.back.addTopic("t", 1, map[string]string{"retention.ms": "1000"})
	h.back.addTopic(coordinator.ConsumerOffsetsTopic, 1, map[string]string{"cleanup.policy": "compact"})
	c := h.dial()
	const topic, br, group = kmsg.ConfigResourceTypeTopic, kmsg.ConfigResourceTypeBroker, kmsg.ConfigResourceType(resourceGroup)
	null := configOp{name: "retention.ms", op: kmsg.IncrementalAlterConfigOpSet}
	for i, tc := range []struct {
		kind kmsg.ConfigResourceType
		name string
		ops  []configOp
		want *kerr.Error
	}{
		{topic, "t", []configOp{setTo("retention.ms", "5000"), setTo("min.insync.replicas", "2")}, nil},
		{topic, "missing", []configOp{setTo("retention.ms", "5000")}, kerr.UnknownTopicOrPartition},
		{topic, "bad/name", []configOp{setTo("retention.ms", "5000")}, kerr.InvalidTopicException},
		{topic, "t", []configOp{setTo("retention.ms", "x")}, kerr.InvalidConfig},
		{topic, "t", []configOp{setTo("retention.ms", "-2")}, kerr.InvalidConfig},
		{topic, "t", []configOp{setTo("no.such.config", "1")}, kerr.InvalidConfig},
		{topic, "t", []configOp{setTo("unclean.leader.election.enable", "true")}, kerr.InvalidConfig},
		{topic, "t", []configOp{setTo("unclean.leader.election.enable", "false")}, nil},
		{topic, "t", []configOp{setTo("retention.ms", "1"), setTo("retention.ms", "2")}, kerr.InvalidRequest},
		{topic, "t", []configOp{null}, kerr.InvalidRequest},
		{topic, "t", []configOp{{"retention.ms", 9, null.value}}, kerr.InvalidRequest},
		{topic, "t", []configOp{appendOp("retention.ms", "1")}, kerr.InvalidConfig},
		{topic, "t", []configOp{unsetOp("no.such.config")}, nil},
		{topic, "t", []configOp{setTo("leader.replication.throttled.replicas", "0:1,1:2")}, nil},
		{topic, "t", []configOp{setTo("leader.replication.throttled.replicas", "0-1")}, kerr.InvalidConfig},
		{topic, coordinator.ConsumerOffsetsTopic, []configOp{setTo("cleanup.policy", "delete")}, kerr.InvalidConfig},
		{topic, coordinator.ConsumerOffsetsTopic, []configOp{unsetOp("cleanup.policy")}, kerr.InvalidConfig},
		{topic, coordinator.ConsumerOffsetsTopic, []configOp{setTo("compression.type", "gzip")}, kerr.InvalidConfig},
		{topic, coordinator.ConsumerOffsetsTopic, []configOp{setTo("segment.bytes", "1048576")}, nil},
		{br, "", []configOp{setTo("message.max.bytes", "2000000")}, nil},
		{br, "2", []configOp{setTo("message.max.bytes", "3000000")}, nil},
		{br, "9", []configOp{setTo("message.max.bytes", "3000000")}, kerr.InvalidRequest},
		{br, "x", []configOp{setTo("message.max.bytes", "3000000")}, kerr.InvalidRequest},
		{br, "", []configOp{setTo("node.id", "3")}, kerr.InvalidConfig},
		{br, "", []configOp{setTo("num.io.threads", "99")}, kerr.InvalidConfig},
		{br, "", []configOp{setTo("num.io.threads", "8")}, nil},
		{br, "", []configOp{setTo("ssl.keystore.password", "secret")}, kerr.InvalidConfig},
		{br, "", []configOp{setTo("log.cleanup.policy", "delete")}, nil},
		{br, "", []configOp{setTo("max.connections.per.ip.overrides", "127.0.0.1:5,::1:7")}, nil},
		{br, "", []configOp{setTo("max.connections.per.ip.overrides", "somewhere:5")}, kerr.InvalidConfig},
		{group, "g", []configOp{setTo(groupSession, "50000")}, nil},
		{group, "g", []configOp{setTo(groupSession, "1000")}, kerr.InvalidConfig},
		{group, "g", []configOp{setTo("share.session.timeout.ms", "50000")}, kerr.InvalidConfig},
		{group, "", []configOp{setTo(groupSession, "50000")}, kerr.InvalidRequest},
		{group, "g", []configOp{setTo("retention.ms", "50000")}, kerr.InvalidConfig},
		{resourceClientMetrics, "m", []configOp{setTo("interval.ms", "1000")}, kerr.InvalidRequest},
		{99, "m", []configOp{setTo("interval.ms", "1000")}, kerr.InvalidRequest},
	} {
		req := incrementalAlter(int16(i%2), tc.kind, tc.name, tc.ops...)
		before := h.back.Image().Version()
		req.ValidateOnly = true
		for range 2 {
			resp := ask[*kmsg.IncrementalAlterConfigsResponse](c, req)
			r := resp.Resources[0]
			if got := kerr.ErrorForCode(r.ErrorCode); len(resp.Resources) != 1 || tc.want == nil && got != nil || tc.want != nil && got != tc.want {
				t.Errorf("%d %q %+v (validate %v): %v %v, want %v", tc.kind, tc.name, tc.ops, req.ValidateOnly, got, deref(r.ErrorMessage), tc.want)
			}
			if r.ResourceType != tc.kind || r.ResourceName != tc.name {
				t.Errorf("%+v", r)
			}
			if req.ValidateOnly && h.back.Image().Version() != before {
				t.Errorf("%+v: validating changed something", tc.ops)
			}
			req.ValidateOnly = false
		}
	}

	got := describedConfigs(t, c, topic, "t")
	if v := got["retention.ms"]; deref(v.Value) != "5000" || v.Source != kmsg.ConfigSourceDynamicTopicConfig || v.IsDefault || v.ReadOnly {
		t.Errorf("%+v", v)
	}
	// The default for all, with what else could give it.
	v := got["max.message.bytes"]
	if deref(v.Value) != "2000000" || v.Source != kmsg.ConfigSourceDynamicDefaultBrokerConfig || len(v.ConfigSynonyms) != 2 || v.ConfigSynonyms[0].Name != "message.max.bytes" ||
		v.ConfigSynonyms[1].Source != kmsg.ConfigSourceDefaultConfig {
		t.Errorf("%+v", v)
	}
	if v := describedConfigs(t, c, br, "")["message.max.bytes"]; deref(v.Value) != "2000000" || v.Source != kmsg.ConfigSourceDynamicDefaultBrokerConfig || v.ReadOnly {
		t.Errorf("%+v", v)
	}
	if v := describedConfigs(t, c, br, "1")["message.max.bytes"]; deref(v.Value) != "2000000" || v.ReadOnly {
		t.Errorf("%+v", v)
	}
	if v := describedConfigs(t, c, br, "1")["node.id"]; !v.ReadOnly {
		t.Errorf("%+v", v)
	}
	if n := len(describedConfigs(t, c, br, "")); n != len(h.back.Image().BrokerConfigs("")) {
		t.Errorf("%d configs for all brokers", n)
	}
	if v := describedConfigs(t, c, group, "g")[groupSession]; deref(v.Value) != "50000" || v.Source != kmsg.ConfigSourceGroupConfig {
		t.Errorf("%+v", v)
	}
	if v := describedConfigs(t, c, group, "never seen")[groupSession]; deref(v.Value) != "45000" || v.Source != kmsg.ConfigSourceDefaultConfig {
		t.Errorf("%+v", v)
	}
	// A resource that is named twice is not altered at all.
	req := incrementalAlter(1, topic, "t", setTo("retention.ms", "1"))
	req.Resources = append(req.Resources, req.Resources[0], incrementalAlter(1, group, "g", unsetOp(groupSession)).Resources[0])
	resp := ask[*kmsg.IncrementalAlterConfigsResponse](c, req)
	if resp.Resources[0].ErrorCode != kerr.InvalidRequest.Code || resp.Resources[1].ErrorCode != kerr.InvalidRequest.Code || resp.Resources[2].ErrorCode != 0 {
		t.Errorf("%+v", resp)
	}
	if h.back.Image().Topic("t").Configs["retention.ms"] != "5000" || len(h.back.Image().ConfiguredGroups()) != 0 {
		t.Errorf("%v %v", h.back.Image().Topic("t").Configs, h.back.Image().ConfiguredGroups())
	}

	lists := func(kinds ...int8) []string {
		t.Helper()
		req := kmsg.NewPtrListConfigResourcesRequest()
		req.Version, req.ResourceTypes = 1, kinds
		resp := ask[*kmsg.ListConfigResourcesResponse](c, req)
		if resp.ErrorCode != 0 {
			return []string{kerr.ErrorForCode(resp.ErrorCode).Error()}
		}
		var out []string
		for _, r := range resp.ConfigResources {
			out = append(out, fmt.Sprintf("%d:%s", r.Type, r.Name))
		}
		return out
	}
	if got := lists(int8(br), int8(topic)); !slices.Equal(got, []string{"4:1", "4:2", "2:__consumer_offsets", "2:t"}) {
		t.Errorf("%v", got)
	}
	if got := lists(3); len(got) != 1 || !strings.Contains(got[0], "UNSUPPORTED_VERSION") {
		t.Errorf("%v", got)
	}
	if got := lists(); len(got) != 6 {
		t.Errorf("%v", got)
	}
	if resp := ask[*kmsg.ListConfigResourcesResponse](c, kmsg.NewPtrListConfigResourcesRequest()); resp.ErrorCode != 0 || len(resp.ConfigResources) != 0 {
		t.Errorf("client metrics: %+v", resp)
	}
}

// What is wrong is said in words that help.
func TestBrokerConfigRefusals(t *testing.T) {
	for _, tc := range []struct{ name, value, want string }{
		{"log.cleaner.threads", "2", "no use for it; leave it at 1"},
		{"node.id", "7", "broker start --help"},
		{"nonsense", "7", "unknown broker config"},
		{"ssl.key.password", "secret", "not supported"},
		{"max.connections", "0", "allowed are 1 to"},
	} {
		err := checkBrokerConfig(tc.name, tc.value)
		if codeOf(err) != kerr.InvalidConfig.Code || !strings.Contains(err.Error(), tc.want) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s=%s: %v", tc.name, tc.value, err)
		}
	}
}

// What has nothing to work on promises nothing, so any value may be set: librdkafka's own tests set the first at a broker, to see whether they can.
func TestKerberosConfigs(t *testing.T) {
	h := newHarness(t, serverOptions{})
	c := h.dial()
	for name, value := range map[string]string{"sasl.kerberos.min.time.before.relogin": "58000", "sasl.kerberos.ticket.renew.jitter": "0.1"} {
		resp := ask[*kmsg.IncrementalAlterConfigsResponse](c, incrementalAlter(1, kmsg.ConfigResourceTypeBroker, "1", setTo(name, value)))
		if r := resp.Resources[0]; r.ErrorCode != 0 {
			t.Fatalf("%s: %d %s", name, r.ErrorCode, deref(r.ErrorMessage))
		}
		if got := describedConfigs(t, c, kmsg.ConfigResourceTypeBroker, "1")[name]; deref(got.Value) != value {
			t.Errorf("%s is %s, want %s", name, deref(got.Value), value)
		}
	}
	if err := checkBrokerConfig("sasl.kerberos.service.name", "kafka"); err == nil { // this would promise Kerberos
		t.Error("sasl.kerberos.service.name is taken")
	}
}

// What a newer broker let in is no negative time here: a ticker would panic of that, and the cleaner never rest.
func TestTimesOfConfigs(t *testing.T) {
	for v, want := range map[string]time.Duration{"15": 15 * time.Millisecond, "0": time.Millisecond, "-1": time.Millisecond, "9223372036854775807": math.MaxInt64, "1e3": math.MaxInt64} {
		if got := millis(v); got != want.Truncate(time.Millisecond) {
			t.Errorf("%s is %v, want %v", v, got, want)
		}
	}
}

func deref(s *string) string {
	if s == nil {
		return "(null)"
	}
	return *s
}

// Lists: what is appended goes to what is in force, once; what is subtracted goes.
func TestAppendAndSubtract(t *testing.T) {
	h := newHarness(t, serverOptions{})
	h.back.addTopic("t", 1, nil)
	c := h.dial()
	const key = "follower.replication.throttled.replicas"
	for _, tc := range []struct {
		op   configOp
		want string
	}{
		{appendOp(key, "0:1"), "0:1"},
		{appendOp(key, "0:1,0:2"), "0:1,0:2"},
		{appendOp(key, "1:1"), "0:1,0:2,1:1"},
		{subtractOp(key, "0:2,7:7"), "0:1,1:1"},
		{subtractOp(key, "0:1,1:1"), ""},
		{appendOp("cleanup.policy", "delete"), "delete"},
		{subtractOp("cleanup.policy", "delete"), ""},
		{appendOp("cleanup.policy", "compact"), "compact"},
		{setTo("cleanup.policy", " "), " "},
	} {
		resp := ask[*kmsg.IncrementalAlterConfigsResponse](c, incrementalAlter(1, kmsg.ConfigResourceTypeTopic, "t", tc.op))
		if resp.Resources[0].ErrorCode != 0 || h.back.Image().Topic("t").Configs[tc.op.name] != tc.want {
			t.Fatalf("%+v: %v %q, want %q", tc.op, deref(resp.Resources[0].ErrorMessage), h.back.Image().Topic("t").Configs[tc.op.name], tc.want)
		}
	}
	// Together from many connections: none is lost.
	const clients = 8
	conns := make([]*kafkaClient, clients)
	for i := range conns {
		conns[i] = h.dial()
	}
	codes := make([]int16, clients)
	var wg sync.WaitGroup
	for i, c := range conns {
		wg.Go(func() {
			codes[i] = ask[*kmsg.IncrementalAlterConfigsResponse](c, incrementalAlter(1, kmsg.ConfigResourceTypeTopic, "t", appendOp(key, fmt.Sprintf("%d:1", i)))).Resources[0].ErrorCode
		})
	}
	wg.Wait()
	have := strings.Split(h.back.Image().Topic("t").Configs[key], ",")
	for i, code := range codes {
		if listed := slices.Contains(have, fmt.Sprintf("%d:1", i)); listed != (code == 0) {
			t.Errorf("client %d got %v, and the list is %v", i, kerr.ErrorForCode(code), have)
		}
	}
}

func TestAlterConfigsReplaces(t *testing.T) {
	h := newHarness(t, serverOptions{})
	h.back.addTopic("t", 1, map[string]string{"retention.ms": "1000", "segment.ms": "1000"})
	c := h.dial()
	for v := int16(0); v <= 2; v++ {
		req := kmsg.NewPtrAlterConfigsRequest()
		req.Version = v
		rr := kmsg.NewAlterConfigsRequestResource()
		rr.ResourceType, rr.ResourceName = kmsg.ConfigResourceTypeTopic, "t"
		rc := kmsg.NewAlterConfigsRequestResourceConfig()
		value := fmt.Sprint(2000 + int(v))
		rc.Name, rc.Value = "retention.ms", &value
		rr.Configs = append(rr.Configs, rc)
		req.Resources = append(req.Resources, rr)
		if resp := ask[*kmsg.AlterConfigsResponse](c, req); resp.Resources[0].ErrorCode != 0 {
			t.Fatalf("%+v", resp)
		}
		if got := h.back.Image().Topic("t").Configs; len(got) != 1 || got["retention.ms"] != value {
			t.Fatalf("v%d: %v", v, got)
		}
		req.Resources[0].ResourceType, req.Resources[0].ResourceName = kmsg.ConfigResourceTypeBrokerLogger, "1"
		if resp := ask[*kmsg.AlterConfigsResponse](c, req); resp.Resources[0].ErrorCode != kerr.InvalidRequest.Code {
			t.Fatalf("%+v", resp)
		}
	}
}

func TestLoggerLevels(t *testing.T) {
	h := newHarness(t, serverOptions{})
	var out bytes.Buffer
	h.back.logs = newLoggers(slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelInfo})))
	raft, part := h.back.logs.named("raft", h.back.logs.base), h.back.logs.named("partition", h.back.logs.base).With("node", 1)
	c := h.dial()
	const loggers = kmsg.ConfigResourceTypeBrokerLogger
	alter := func(name string, ops ...configOp) *kerr.Error {
		t.Helper()
		resp := ask[*kmsg.IncrementalAlterConfigsResponse](c, incrementalAlter(1, loggers, name, ops...))
		if resp.Resources[0].ErrorCode == 0 {
			return nil
		}
		return kerr.TypedErrorForCode(resp.Resources[0].ErrorCode)
	}
	says := func(want string) {
		t.Helper()
		out.Reset()
		raft.Debug("raft-debug")
		raft.Warn("raft-warn")
		part.Debug("part-debug")
		part.Info("part-info")
		var got []string
		for _, w := range []string{"raft-debug", "raft-warn", "part-debug", "part-info"} {
			if strings.Contains(out.String(), w) {
				got = append(got, w)
			}
		}
		if strings.Join(got, " ") != want {
			t.Errorf("said %v, want %s", got, want)
		}
	}
	says("raft-warn part-info")
	if err := alter("1", setTo("raft", "DEBUG")); err != nil {
		t.Fatal(err)
	}
	says("raft-debug raft-warn part-info")
	if err := alter("1", setTo("root", "ERROR")); err != nil {
		t.Fatal(err)
	}
	says("raft-debug raft-warn")
	if v := describedConfigs(t, c, loggers, "1"); deref(v["raft"].Value) != "DEBUG" || v["raft"].Source != kmsg.ConfigSourceDynamicBrokerLoggerConfig || deref(v["partition"].Value) != "ERROR" ||
		v["partition"].Source != kmsg.ConfigSourceDefaultConfig {
		t.Errorf("%+v", v)
	}
	for _, tc := range []struct {
		name string
		op   configOp
		want *kerr.Error
	}{
		{"2", setTo("raft", "DEBUG"), kerr.InvalidRequest},
		{"", setTo("raft", "DEBUG"), kerr.InvalidRequest},
		{"1", setTo("nobody", "DEBUG"), kerr.InvalidConfig},
		{"1", setTo("raft", "LOUD"), kerr.InvalidConfig},
		{"1", appendOp("raft", "DEBUG"), kerr.InvalidRequest},
		{"1", unsetOp("root"), kerr.InvalidRequest},
	} {
		if got := alter(tc.name, tc.op); got != tc.want {
			t.Errorf("%s %+v: %v, want %v", tc.name, tc.op, got, tc.want)
		}
	}
	if err := alter("1", unsetOp("raft"), setTo("root", "INFO")); err != nil {
		t.Fatal(err)
	}
	says("raft-warn part-info")
}

func TestCreatePartitionsInEveryVersion(t *testing.T) {
	h := newHarness(t, serverOptions{})
	h.back.addTopic("t", 1, nil)
	h.back.addTopic(coordinator.ConsumerOffsetsTopic, 1, nil)
	c := h.dial()
	for v := int16(0); v <= 3; v++ {
		req := kmsg.NewPtrCreatePartitionsRequest()
		req.Version, req.TimeoutMillis = v, 5000
		add := func(name string, count int32) {
			rt := kmsg.NewCreatePartitionsRequestTopic()
			rt.Topic, rt.Count = name, count
			req.Topics = append(req.Topics, rt)
		}
		have := int32(len(h.back.Image().Topic("t").Partitions))
		add("t", have+1)
		add("missing", 2)
		add(coordinator.ConsumerOffsetsTopic, 5)
		req.ValidateOnly = true
		for range 2 {
			resp := ask[*kmsg.CreatePartitionsResponse](c, req)
			if len(resp.Topics) != 3 || resp.Topics[0].ErrorCode != 0 || resp.Topics[1].ErrorCode != kerr.UnknownTopicOrPartition.Code ||
				resp.Topics[2].ErrorCode != kerr.InvalidRequest.Code || resp.Topics[0].Topic != "t" {
				t.Fatalf("v%d: %+v", v, resp)
			}
			want := have
			if !req.ValidateOnly {
				want++
			}
			if n := int32(len(h.back.Image().Topic("t").Partitions)); n != want {
				t.Fatalf("v%d: %d partitions, want %d", v, n, want)
			}
			req.ValidateOnly = false
		}
		req.Topics = req.Topics[:0]
		add("t", have+5)
		add("t", have+6)
		if resp := ask[*kmsg.CreatePartitionsResponse](c, req); resp.Topics[0].ErrorCode != kerr.InvalidRequest.Code || resp.Topics[1].ErrorCode != kerr.InvalidRequest.Code {
			t.Fatalf("v%d: named twice: %+v", v, resp)
		}
	}
}

func TestDescribeTopicPartitionsInPages(t *testing.T) {
	h := newHarness(t, serverOptions{})
	for _, name := range []string{"b", "a", "c"} {
		h.back.addTopic(name, 3, nil)
	}
	c := h.dial()
	page := func(limit int32, cursor *kmsg.DescribeTopicPartitionsRequestCursor, names ...string) ([]string, *kmsg.DescribeTopicPartitionsRequestCursor) {
		t.Helper()
		req := kmsg.NewPtrDescribeTopicPartitionsRequest()
		req.ResponsePartitionLimit, req.Cursor = limit, cursor
		for _, n := range names {
			rt := kmsg.NewDescribeTopicPartitionsRequestTopic()
			rt.Topic = n
			req.Topics = append(req.Topics, rt)
		}
		resp := ask[*kmsg.DescribeTopicPartitionsResponse](c, req)
		var out []string
		for _, rt := range resp.Topics {
			if rt.ErrorCode != 0 {
				out = append(out, fmt.Sprintf("%s:%v", *rt.Topic, kerr.ErrorForCode(rt.ErrorCode).(*kerr.Error).Message))
			}
			for _, p := range rt.Partitions {
				if p.LeaderID != 1 || p.ErrorCode != 0 || len(p.Replicas) != 1 || p.EligibleLeaderReplicas == nil {
					t.Errorf("%+v", p)
				}
				out = append(out, fmt.Sprintf("%s-%d", *rt.Topic, p.Partition))
			}
		}
		if resp.NextCursor == nil {
			return out, nil
		}
		next := kmsg.NewDescribeTopicPartitionsRequestCursor()
		next.Topic, next.Partition = resp.NextCursor.Topic, resp.NextCursor.Partition
		return out, &next
	}
	for _, limit := range []int32{1, 2, 3, 4, 8, 9, 2000} {
		var got []string
		var cursor *kmsg.DescribeTopicPartitionsRequestCursor
		for pages := 0; ; pages++ {
			out, next := page(limit, cursor)
			if len(out) > int(limit) || pages > 9 {
				t.Fatalf("limit %d: a page of %v", limit, out)
			}
			got = append(got, out...)
			if cursor = next; next == nil {
				break
			}
		}
		if want := []string{"a-0", "a-1", "a-2", "b-0", "b-1", "b-2", "c-0", "c-1", "c-2"}; !slices.Equal(got, want) {
			t.Errorf("limit %d: %v", limit, got)
		}
	}
	if out, next := page(100, nil, "c", "missing", "a"); fmt.Sprint(out) != "[a-0 a-1 a-2 c-0 c-1 c-2 missing:UNKNOWN_TOPIC_OR_PARTITION]" || next != nil {
		t.Errorf("%v %v", out, next)
	}
	// The topic of the cursor has gone meanwhile, or shrunk: it goes on behind it.
	if out, _ := page(100, &kmsg.DescribeTopicPartitionsRequestCursor{Topic: "aa", Partition: 2}); len(out) != 6 {
		t.Errorf("%v", out)
	}
	if out, _ := page(100, &kmsg.DescribeTopicPartitionsRequestCursor{Topic: "b", Partition: 7}); fmt.Sprint(out) != "[c-0 c-1 c-2]" {
		t.Errorf("%v", out)
	}
	if out, _ := page(100, &kmsg.DescribeTopicPartitionsRequestCursor{Topic: "a", Partition: -1}, "a"); fmt.Sprint(out) != "[a:INVALID_REQUEST]" {
		t.Errorf("%v", out)
	}
}

func TestAlterReplicaLogDirs(t *testing.T) {
	h := newHarness(t, serverOptions{})
	h.back.addTopic("t", 1, nil)
	h.back.set("log.dirs", "/data")
	c := h.dial()
	for v := int16(1); v <= 2; v++ {
		req := kmsg.NewPtrAlterReplicaLogDirsRequest()
		req.Version = v
		for _, dir := range []string{"/data/", "/elsewhere"} {
			d := kmsg.NewAlterReplicaLogDirsRequestDir()
			d.Dir = dir
			rt := kmsg.NewAlterReplicaLogDirsRequestDirTopic()
			rt.Topic, rt.Partitions = "t", []int32{0, 1}
			d.Topics = append(d.Topics, rt)
			req.Dirs = append(req.Dirs, d)
		}
		resp := ask[*kmsg.AlterReplicaLogDirsResponse](c, req)
		var codes []int16
		for _, p := range resp.Topics[0].Partitions {
			codes = append(codes, p.ErrorCode)
		}
		if want := []int16{0, kerr.UnknownTopicOrPartition.Code, kerr.LogDirNotFound.Code, kerr.UnknownTopicOrPartition.Code}; !slices.Equal(codes, want) || len(resp.Topics) != 1 {
			t.Errorf("v%d: %v", v, codes)
		}
	}
}

// A level of metadata.version that has no such command refuses, and says what to do.
func TestAlterConfigsNeedsTheLevel(t *testing.T) {
	h := newHarness(t, serverOptions{})
	h.back.apply(&coordinator.Command{SetFeature: &coordinator.SetFeature{Name: metadataVersion, Level: coordinator.LevelMoves}})
	h.back.addTopic("t", 1, nil)
	body := &coordinator.Command{SetConfigs: &coordinator.SetConfigs{Changes: []coordinator.ConfigChange{{Kind: coordinator.ConfigBroker, Set: map[string]*string{}}}}}
	if err := h.back.apply(body).Err(); codeOf(err) != kerr.UnsupportedVersion.Code || !strings.Contains(err.Error(), "cluster upgrade") {
		t.Error(err)
	}
}

func TestSettingsOfJitterAndThrottle(t *testing.T) {
	topic := &coordinator.Topic{Configs: map[string]string{"segment.jitter.ms": "500", "leader.replication.throttled.replicas": "0:1"}, Partitions: make([]coordinator.Partition, 2)}
	r := &reconciler{}
	r.self.ID = 1
	compacted := &coordinator.Topic{Configs: map[string]string{"cleanup.policy": "compact", "retention.bytes": "0", "retention.ms": "0"}, Partitions: make([]coordinator.Partition, 1)}
	if s := r.settingsOf(compacted, 0, nil); s.RetentionBytes >= 0 || s.RetentionAge >= 0 {
		t.Errorf("records of a topic that is compacted only go by age or size: %+v", s)
	}
	// The empty list of policies keeps all, which is not what the policy that nobody has set does.
	kept := &coordinator.Topic{Configs: map[string]string{"cleanup.policy": "", "retention.bytes": "1", "retention.ms": "1"}, Partitions: make([]coordinator.Partition, 1)}
	if s := r.settingsOf(kept, 0, nil); s.RetentionBytes >= 0 || s.RetentionAge >= 0 || s.Compact {
		t.Errorf("records of a topic without a policy go: %+v", s)
	}
	delete(kept.Configs, "cleanup.policy")
	if s := r.settingsOf(kept, 0, nil); s.RetentionBytes != 1 || s.RetentionAge != time.Millisecond || s.Compact {
		t.Errorf("the default is to delete: %+v", s)
	}
	// No lag is none, not a very short one: that would hold back what bears a time yet to come.
	for v, want := range map[string]time.Duration{"0": 0, "1": time.Millisecond, "9223372036854775807": -1} {
		compacted.Configs["min.compaction.lag.ms"] = v
		if s := r.settingsOf(compacted, 0, nil); s.Compaction.MinLag != want {
			t.Errorf("min.compaction.lag.ms=%s: %v", v, s.Compaction.MinLag)
		}
	}
	if s := r.settingsOf(topic, 0, nil); s.SegmentJitter.Milliseconds() != 500 || !s.Throttled.Leader {
		t.Errorf("%+v", s)
	}
	if s := r.settingsOf(topic, 1, &map[string]string{"retention.ms": "7", "segment.jitter.ms": "9"}); s.Throttled.Leader || s.RetentionAge.Milliseconds() != 7 || s.SegmentJitter.Milliseconds() != 500 {
		t.Errorf("%+v", s)
	}
}

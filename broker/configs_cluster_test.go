package broker

// What is set on a real cluster takes effect on each of its brokers, without a restart, and is there after one.

import (
	"context"
	"errors"
	"net"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/balsamq/balsa/coordinator"
	"github.com/balsamq/balsa/raft"
)

func TestConfigsTakeEffect(t *testing.T) {
	c := newCluster(t, 3, true)
	c.calm()
	c.start(c.nodes...)
	c.awaitVoters(3)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	cl, err := kgo.NewClient(kgo.SeedBrokers(c.nodes[1].KafkaAddr()), kgo.DisableIdempotentWrite(), kgo.ProducerBatchCompression(kgo.NoCompression()), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.MetadataMinAge(10*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	adm := kadm.NewClient(cl)
	if _, err := adm.CreateTopics(ctx, 1, 3, nil, "t"); err != nil {
		t.Fatal(err)
	}
	topicSet := func(op kadm.IncrementalOp, name, value string) {
		t.Helper()
		r, err := adm.AlterTopicConfigs(ctx, []kadm.AlterConfig{{Op: op, Name: name, Value: &value}}, "t")
		if err != nil || r[0].Err != nil {
			t.Fatalf("%s=%s: %v %+v", name, value, err, r)
		}
	}
	brokerSet := func(op kadm.IncrementalOp, name, value string, brokers ...int32) {
		t.Helper()
		r, err := adm.AlterBrokerConfigs(ctx, []kadm.AlterConfig{{Op: op, Name: name, Value: &value}}, brokers...)
		if err != nil || r[0].Err != nil {
			t.Fatalf("%s=%s: %v %+v", name, value, err, r)
		}
	}
	group := func() raft.GroupID { return c.nodes[0].Image().Topic("t").Partitions[0].Group }
	// Every replica obeys, as whoever leads next must.
	every := func(what string, ok func(n *node) bool) {
		t.Helper()
		soon(t, what, func() bool {
			for _, n := range c.running() {
				if !ok(n) {
					return false
				}
			}
			return true
		})
	}
	maxBytes := func(want int) func(n *node) bool {
		return func(n *node) bool {
			r := n.rec.replica(group())
			return r != nil && r.Settings().MaxMessageBytes == want
		}
	}
	every("the topic is known", func(n *node) bool { return n.Image().Topic("t") != nil })
	every("the replicas are open", func(n *node) bool { return n.rec.replica(group()) != nil })
	write := func(bytes int) error {
		return cl.ProduceSync(ctx, &kgo.Record{Topic: "t", Value: make([]byte, bytes)}).FirstErr()
	}
	if err := write(50_000); err != nil {
		t.Fatal(err)
	}

	// A default for all; a topic's own word before that; both taken back.
	brokerSet(kadm.SetConfig, "message.max.bytes", "20000")
	every("the default is obeyed", maxBytes(20000))
	if err := write(50_000); !errors.Is(err, kerr.MessageTooLarge) {
		t.Fatalf("above message.max.bytes: %v", err)
	}
	topicSet(kadm.SetConfig, "max.message.bytes", "60000")
	every("the topic is obeyed", maxBytes(60000))
	if err := write(50_000); err != nil {
		t.Fatal(err)
	}
	topicSet(kadm.DeleteConfig, "max.message.bytes", "")
	every("the default is obeyed again", maxBytes(20000))
	// One broker's own before that of all.
	brokerSet(kadm.SetConfig, "message.max.bytes", "30000", 2)
	soon(t, "broker 2 obeys its own", func() bool {
		for _, n := range c.nodes {
			want := 20000
			if n.NodeID() == 2 {
				want = 30000
			}
			if !maxBytes(want)(n) {
				return false
			}
		}
		return true
	})
	brokerSet(kadm.DeleteConfig, "message.max.bytes", "", 2)
	brokerSet(kadm.DeleteConfig, "message.max.bytes", "")
	every("nothing is set", maxBytes(1<<20+12))

	// The same for all topics, which no topic has a word in.
	brokerSet(kadm.SetConfig, "producer.id.expiration.ms", "5000")
	every("the expiry of producers is obeyed", func(n *node) bool { return n.rec.replica(group()).Settings().ProducerExpiry == 5*time.Second })
	brokerSet(kadm.DeleteConfig, "producer.id.expiration.ms", "")
	every("it is as at first", func(n *node) bool { return n.rec.replica(group()).Settings().ProducerExpiry == 24*time.Hour })

	// Retention, with how often it is looked at: old records go while the broker runs.
	topicSet(kadm.SetConfig, "segment.bytes", "65536")
	for range 8 {
		if err := write(40_000); err != nil {
			t.Fatal(err)
		}
	}
	brokerSet(kadm.SetConfig, "log.retention.check.interval.ms", "50")
	topicSet(kadm.SetConfig, "retention.bytes", "70000")
	soon(t, "old records go", func() bool {
		starts, err := adm.ListStartOffsets(ctx, "t")
		if err != nil {
			return false
		}
		o, ok := starts.Lookup("t", 0)
		return ok && o.Err == nil && o.Offset > 0
	})
	topicSet(kadm.DeleteConfig, "segment.bytes", "")
	every("segments are as large as at first", func(n *node) bool {
		r := n.rec.replica(group())
		return r.Settings().SegmentBytes == 0
	})

	// What is asked for on use.
	brokerSet(kadm.SetConfig, "num.partitions", "5")
	if _, err := adm.CreateTopics(ctx, -1, -1, nil, "five"); err != nil {
		t.Fatal(err)
	}
	every("the topic has five partitions", func(n *node) bool {
		topic := n.Image().Topic("five")
		return topic != nil && len(topic.Partitions) == 5
	})

	// More partitions, which can be written to at once.
	r, err := adm.UpdatePartitions(ctx, 3, "t")
	if err != nil || r["t"].Err != nil {
		t.Fatalf("%v %+v", err, r)
	}
	every("the topic has three partitions", func(n *node) bool { return len(n.Image().Topic("t").Partitions) == 3 })
	soon(t, "the new partition takes records", func() bool { // once the client has heard of it
		cl.ForceMetadataRefresh()
		return cl.ProduceSync(ctx, &kgo.Record{Topic: "t", Partition: 2, Value: []byte("new")}).FirstErr() == nil
	})

	// A restart finds what was set.
	n := c.nodes[2]
	c.stop(n)
	c.start(n)
	soon(t, "the returned broker obeys", func() bool {
		r := n.rec.replica(group())
		return r != nil && r.Settings().RetentionBytes == 70000 && n.rec.interval.Load() == int64(50*time.Millisecond)
	})

	// Connections, of one broker.
	brokerSet(kadm.SetConfig, "max.connections.per.ip.overrides", "127.0.0.1:0", 1)
	var first *node
	for _, n := range c.nodes {
		if n.NodeID() == 1 {
			first = n
		}
	}
	soon(t, "no connection is let in any more", func() bool {
		nc, err := net.Dial("tcp", first.KafkaAddr())
		if err != nil {
			return true
		}
		defer nc.Close()
		_ = nc.SetReadDeadline(time.Now().Add(10 * time.Second))
		_, err = nc.Read(make([]byte, 1))
		ne, timeout := errors.AsType[net.Error](err)
		return !timeout || !ne.Timeout()
	})
}

// What is the default for all topics does not keep the coordinators from writing.
func TestDefaultsSpareTheBrokersOwnTopics(t *testing.T) {
	defaults := map[string]string{"message.timestamp.before.max.ms": "0", "message.timestamp.after.max.ms": "0"}
	for _, tc := range []struct {
		topic string
		want  time.Duration
	}{{"t", 1}, {coordinator.ConsumerOffsetsTopic, -1}, {coordinator.TransactionStateTopic, -1}} {
		s := new(reconciler).settingsOf(&coordinator.Topic{Name: tc.topic, Partitions: make([]coordinator.Partition, 1)}, 0, &defaults)
		if s.TimestampBefore != tc.want || s.TimestampAfter != tc.want {
			t.Errorf("%s: %v before, %v after, want %v", tc.topic, s.TimestampBefore, s.TimestampAfter, tc.want)
		}
	}
}

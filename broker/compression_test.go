// compression.type and the limits on a batch, through a real client on a real broker: what is stored is what the topic says, and a refused
// batch names its records.

package broker

import (
	"bufio"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/balsamq/balsa/protocol"
)

// createWith makes a topic of one partition with configs.
func (n *node) createWith(t *testing.T, name string, rf int, configs map[string]string) {
	t.Helper()
	for k, v := range configs {
		if err := checkTopicConfig(k, v); err != nil {
			t.Fatal(err)
		}
	}
	n.make(t, newTopic{Name: name, Partitions: 1, ReplicationFactor: rf, Configs: configs})
}

func newKafkaClient(t *testing.T, n *node, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	cl, err := kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(n.KafkaAddr()), kgo.MetadataMinAge(50 * time.Millisecond)}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	return cl
}

func dialKafka(t *testing.T, n *node) *kafkaClient {
	t.Helper()
	nc, err := net.Dial("tcp", n.KafkaAddr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	return &kafkaClient{t: t, nc: nc, br: bufio.NewReader(nc), f: kmsg.NewRequestFormatter()}
}

func TestCompressionType(t *testing.T) {
	c := newCluster(t, 1, true)
	c.start(c.nodes...)
	n := c.nodes[0]
	types := []string{"uncompressed", "gzip", "snappy", "lz4", "zstd", "producer"}
	for _, kind := range types {
		n.createWith(t, kind, 1, map[string]string{"compression.type": kind, "compression.gzip.level": "9", "compression.zstd.level": "19", "compression.lz4.level": "17"})
	}
	const records = 20
	value := strings.Repeat("a value that compresses well, ", 20)
	for _, producer := range []kgo.CompressionCodec{kgo.NoCompression(), kgo.GzipCompression(), kgo.SnappyCompression(), kgo.Lz4Compression(), kgo.ZstdCompression()} {
		cl := newKafkaClient(t, n, kgo.ProducerBatchCompression(producer))
		for _, kind := range types {
			for i := range records {
				cl.Produce(t.Context(), &kgo.Record{Topic: kind, Key: []byte(fmt.Sprint(i)), Value: []byte(value)}, func(_ *kgo.Record, err error) {
					if err != nil {
						t.Errorf("%s: %v", kind, err)
					}
				})
			}
		}
		if err := cl.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	raw := dialKafka(t, n)
	for i, kind := range types {
		// As stored …
		resp := ask[*kmsg.FetchResponse](raw, fetchRequest(12, kind, [16]byte{}, 0, 0, 0))
		seen := map[protocol.Codec]bool{}
		for b, err := range protocol.Batches(onlyPartition(t, resp).RecordBatches) {
			if err != nil || b.CheckCRC() != nil {
				t.Fatalf("%s: %v, %v", kind, err, b.CheckCRC())
			}
			seen[b.Codec()] = true
		}
		if kind == "producer" && len(seen) != 5 || kind != "producer" && (len(seen) != 1 || !seen[protocol.Codec(i)]) {
			t.Errorf("%s is stored as %v", kind, seen)
		}
		// … and as read.
		cl := newKafkaClient(t, n, kgo.ConsumeTopics(kind), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
		for got := 0; got < 5*records; {
			fetches := cl.PollFetches(t.Context())
			if err := fetches.Err(); err != nil {
				t.Fatal(err)
			}
			fetches.EachRecord(func(r *kgo.Record) {
				if string(r.Value) != value || string(r.Key) != fmt.Sprint(got%records) || r.Offset != int64(got) {
					t.Errorf("%s: record %d is %q at offset %d", kind, got, r.Key, r.Offset)
				}
				got++
			})
		}
	}
	// KIP-110: a consumer from before zstd is told that it cannot read the topic.
	if p := onlyPartition(t, ask[*kmsg.FetchResponse](raw, fetchRequest(9, "zstd", [16]byte{}, 0, 0, 0))); p.ErrorCode != kerr.UnsupportedCompressionType.Code {
		t.Errorf("fetch v9 of a zstd topic: %d", p.ErrorCode)
	}
}

// KIP-467: INVALID_TIMESTAMP names the records.
func TestRecordErrors(t *testing.T) {
	c := newCluster(t, 1, true)
	c.start(c.nodes...)
	n := c.nodes[0]
	n.createWith(t, "bounded", 1, map[string]string{"message.timestamp.before.max.ms": "60000", "max.message.bytes": "2000"})
	now := time.Now().UnixMilli()
	batch := func(times ...int64) []byte {
		records := make([]protocol.Record, len(times))
		for i, ts := range times {
			records[i] = protocol.Record{Timestamp: ts, Value: []byte("v")}
		}
		return protocol.BuildBatch(records, protocol.NewBatchOptions())
	}
	raw := dialKafka(t, n)
	produce := func(b []byte) kmsg.ProduceResponseTopicPartition {
		return ask[*kmsg.ProduceResponse](raw, produceRequest(9, -1, "bounded", [16]byte{}, 0, b)).Topics[0].Partitions[0]
	}
	p := produce(batch(now, now-100_000, now, now-3_600_000))
	if p.ErrorCode != kerr.InvalidTimestamp.Code || p.BaseOffset != -1 || len(p.ErrorRecords) != 2 || p.ErrorRecords[0].RelativeOffset != 1 ||
		p.ErrorRecords[1].RelativeOffset != 3 || p.ErrorRecords[0].ErrorMessage == nil || !strings.Contains(*p.ErrorRecords[0].ErrorMessage, "out of range") || p.ErrorMessage == nil {
		t.Errorf("%+v", p)
	}
	if p := produce(batch(now+3_700_000, now)); p.ErrorCode != kerr.InvalidTimestamp.Code {
		t.Errorf("from the future: %+v", p)
	}
	if p := produce(batch(make([]int64, 300)...)); p.ErrorCode != kerr.MessageTooLarge.Code {
		t.Errorf("too large: %+v", p)
	}
	if p := produce(batch(now, now-50_000)); p.ErrorCode != 0 || p.BaseOffset != 0 || len(p.ErrorRecords) != 0 {
		t.Errorf("%+v", p)
	}
}

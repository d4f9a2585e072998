// What a produce and a fetch allocate, from the socket to the log and back: one broker that serves one partition, and a client that
// allocates nothing, so that every allocation of the process is the broker's.

package broker

import (
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/balsamq/balsa/protocol"
)

// rawClient sends requests that were encoded once.
type rawClient struct {
	tb   testing.TB
	conn net.Conn
	fmt  *kmsg.RequestFormatter
	in   []byte
}

// startRaw starts a broker with a topic a of one partition, and connects to it. It is on the real file system: the one in memory allocates
// what is written.
func startRaw(tb testing.TB) *rawClient {
	tb.Helper()
	b, err := Start(tb.Context(), Config{DataDir: tb.TempDir(), Listen: "127.0.0.1:0", ListenRPC: "127.0.0.1:0", ElectionTimeout: 300 * time.Millisecond,
		CloseTimeout: -1, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = b.Close() })
	conn, err := net.Dial("tcp", b.KafkaAddr())
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = conn.Close() })
	c := &rawClient{tb: tb, conn: conn, fmt: kmsg.NewRequestFormatter(kmsg.FormatterClientID("raw")), in: make([]byte, 4<<20)}
	create := kmsg.NewPtrCreateTopicsRequest()
	create.Version, create.TimeoutMillis = 5, 30_000
	topic := kmsg.NewCreateTopicsRequestTopic()
	topic.Topic, topic.NumPartitions, topic.ReplicationFactor = "a", 1, 1
	create.Topics = append(create.Topics, topic)
	c.ask(c.encode(create))
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) { // it must elect itself first
		var resp kmsg.ProduceResponse
		resp.Version = 9
		if err := resp.ReadFrom(c.ask(c.encode(produceOf(1)))[5:]); err != nil {
			tb.Fatal(err)
		}
		code := resp.Topics[0].Partitions[0].ErrorCode
		if code == 0 {
			return c
		}
		if time.Now().After(deadline) {
			tb.Fatalf("produce answers %d", code)
		}
	}
}

func (c *rawClient) encode(r kmsg.Request) []byte { return c.fmt.AppendRequest(nil, r, 7) }

// ask returns the response without its length, valid until the next one.
func (c *rawClient) ask(req []byte) []byte {
	if _, err := c.conn.Write(req); err != nil {
		c.tb.Fatal(err)
	}
	if _, err := io.ReadFull(c.conn, c.in[:4]); err != nil {
		c.tb.Fatal(err)
	}
	n := binary.BigEndian.Uint32(c.in)
	if _, err := io.ReadFull(c.conn, c.in[:n]); err != nil {
		c.tb.Fatal(err)
	}
	return c.in[:n]
}

// produceOf is a request with one batch of so many records of 1 KiB.
func produceOf(records int) kmsg.Request {
	var body []byte
	value := make([]byte, 1024)
	for i := range records {
		r := kmsg.Record{OffsetDelta: int32(i), Value: value}
		r.Length = int32(len(r.AppendTo(nil)) - 1)
		if r.Length > 63 { // its own varint takes two bytes
			r.Length = int32(len(r.AppendTo(nil)) - 2)
		}
		body = r.AppendTo(body)
	}
	rb := kmsg.RecordBatch{Magic: 2, LastOffsetDelta: int32(records - 1), ProducerID: -1, ProducerEpoch: -1, FirstSequence: -1, NumRecords: int32(records), Records: body,
		FirstTimestamp: time.Now().UnixMilli(), MaxTimestamp: time.Now().UnixMilli()}
	rb.Length = int32(len(rb.AppendTo(nil)) - 12)
	batch := protocol.Batch(rb.AppendTo(nil))
	batch.UpdateCRC()
	req := kmsg.NewPtrProduceRequest()
	req.Version, req.Acks, req.TimeoutMillis = 9, -1, 30_000
	p := kmsg.NewProduceRequestTopicPartition()
	p.Records = batch
	t := kmsg.NewProduceRequestTopic()
	t.Topic, t.Partitions = "a", append(t.Partitions, p)
	req.Topics = append(req.Topics, t)
	return req
}

// fetchOf is a request for so many bytes from an offset.
func fetchOf(offset int64, bytes int32) kmsg.Request {
	req := kmsg.NewPtrFetchRequest()
	req.Version, req.MaxWaitMillis, req.MinBytes, req.MaxBytes, req.SessionEpoch = 12, 0, 0, 8<<20, -1
	p := kmsg.NewFetchRequestTopicPartition()
	p.FetchOffset, p.PartitionMaxBytes = offset, bytes
	t := kmsg.NewFetchRequestTopic()
	t.Topic, t.Partitions = "a", append(t.Partitions, p)
	req.Topics = append(req.Topics, t)
	return req
}

// produced checks that a batch was taken, fetched that so many came.
func (c *rawClient) produced(answer []byte) {
	var resp kmsg.ProduceResponse
	resp.Version = 9
	if err := resp.ReadFrom(answer[5:]); err != nil || resp.Topics[0].Partitions[0].ErrorCode != 0 {
		c.tb.Fatalf("produce: %v, %+v", err, resp)
	}
}

func (c *rawClient) fetched(answer []byte, records int) {
	var resp kmsg.FetchResponse
	resp.Version = 12
	if err := resp.ReadFrom(answer[5:]); err != nil || resp.ErrorCode != 0 || resp.Topics[0].Partitions[0].ErrorCode != 0 {
		c.tb.Fatalf("fetch: %v, %+v", err, resp)
	}
	n := 0
	for b, err := range protocol.Batches(resp.Topics[0].Partitions[0].RecordBatches) {
		if err != nil {
			c.tb.Fatal(err)
		}
		n += int(b.RecordCount())
	}
	if n < records {
		c.tb.Fatalf("%d records came, want %d at least", n, records)
	}
}

func BenchmarkProduceRequest(b *testing.B) {
	for _, records := range []int{1, 100} {
		b.Run(fmt.Sprint("records=", records), func(b *testing.B) {
			c := startRaw(b)
			req := c.encode(produceOf(records))
			c.produced(c.ask(req))
			b.SetBytes(int64(records) << 10)
			b.ReportAllocs()
			for b.Loop() {
				c.ask(req)
			}
		})
	}
}

func BenchmarkFetchRequest(b *testing.B) {
	for _, records := range []int{1, 100} {
		b.Run(fmt.Sprint("records=", records), func(b *testing.B) {
			c := startRaw(b)
			c.produced(c.ask(c.encode(produceOf(records))))
			req := c.encode(fetchOf(1, int32(records)<<10))
			c.fetched(c.ask(req), records)
			b.SetBytes(int64(records) << 10)
			b.ReportAllocs()
			for b.Loop() {
				c.ask(req)
			}
		})
	}
}

// Allocations of a request are bounded, and a record costs none. The bounds are what was seen when they were set, and a fifth more: a
// broker ticks meanwhile. Lower them with what you save.
func TestRequestAllocations(t *testing.T) {
	if testing.Short() {
		t.Skip("under the race detector, where tests are short, pools forget on purpose")
	}
	c := startRaw(t)
	allocs := func(req []byte) float64 {
		var runs []float64
		for range 5 {
			runs = append(runs, testing.AllocsPerRun(100, func() { c.ask(req) }))
		}
		return slices.Min(runs)
	}
	one, many := c.encode(produceOf(1)), c.encode(produceOf(500))
	c.produced(c.ask(one)) // offset 1
	c.produced(c.ask(many))
	fetchOne, fetchMany := c.encode(fetchOf(1, 1<<10)), c.encode(fetchOf(2, 500<<10))
	c.fetched(c.ask(fetchOne), 1)
	c.fetched(c.ask(fetchMany), 500)
	for _, x := range []struct {
		what     string
		one, all []byte
		most     float64
	}{
		{"fetch", fetchOne, fetchMany, 24},
		{"produce", one, many, 54},
		{"fetch of what has left the cache meanwhile", fetchOne, fetchMany, 48},
	} {
		small, large := allocs(x.one), allocs(x.all)
		t.Logf("%s: %v allocations with one record, %v with 500", x.what, small, large)
		if small > x.most {
			t.Errorf("%s: %v allocations with one record, more than %v", x.what, small, x.most)
		}
		if perRecord := (large - small) / 499; perRecord > 0.02 {
			t.Errorf("%s: %v allocations a record", x.what, perRecord)
		}
	}
}

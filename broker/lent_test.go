// Consumers of what has left the cache: the memory of their answers is lent. All tests of this package have it spoilt when it is given back.

package broker

import (
	"encoding/binary"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/balsamq/balsa/protocol"
)

const (
	lentBatches = 40
	lentRecords = 250 // of 1 KiB in a batch
	lentLimit   = 1 << 20
)

// lentBatch checks an answer, and gives the offset behind it.
func lentBatch(t *testing.T, answer []byte, from int64) (next int64) {
	var resp kmsg.FetchResponse
	resp.Version = 12
	if err := resp.ReadFrom(answer[5:]); err != nil || resp.ErrorCode != 0 || resp.Topics[0].Partitions[0].ErrorCode != 0 {
		t.Errorf("fetch from %d: %v, %+v", from, err, resp)
		return -1
	}
	next = -1
	for b, err := range protocol.Batches(resp.Topics[0].Partitions[0].RecordBatches) {
		if err == nil {
			err = b.CheckCRC()
		}
		if err != nil || next >= 0 && b.BaseOffset() != next || next < 0 && (b.BaseOffset() > from || b.NextOffset() <= from) {
			t.Errorf("fetch from %d: %v, a batch at %d where %d belongs", from, err, b.BaseOffset(), next)
			return -1
		}
		next = b.NextOffset()
	}
	if next < 0 {
		t.Errorf("fetch from %d: nothing", from)
	}
	return next
}

// Consumers that do not take their answers hold no more memory than there is for them and one answer each; others are served meanwhile, and
// what they get is whole, however often memory changes hands. When they have gone, all is given back.
func TestSlowConsumersOfABacklog(t *testing.T) {
	b, err := Start(t.Context(), Config{DataDir: t.TempDir(), Listen: "127.0.0.1:0", ListenRPC: "127.0.0.1:0", ElectionTimeout: 300 * time.Millisecond,
		CloseTimeout: -1, CacheBytes: 1 << 20, SegmentBytes: 4 << 20, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	dial := func() *rawClient {
		conn, err := net.Dial("tcp", b.KafkaAddr())
		if err != nil {
			t.Fatal(err)
		}
		return &rawClient{tb: t, conn: conn, fmt: kmsg.NewRequestFormatter(kmsg.FormatterClientID("raw")), in: make([]byte, 4<<20)}
	}
	c := dial()
	defer c.conn.Close()
	create := kmsg.NewPtrCreateTopicsRequest()
	create.Version, create.TimeoutMillis = 5, 30_000
	topic := kmsg.NewCreateTopicsRequestTopic()
	topic.Topic, topic.NumPartitions, topic.ReplicationFactor = "a", 1, 1
	create.Topics = append(create.Topics, topic)
	c.ask(c.encode(create))
	var resp kmsg.ProduceResponse
	resp.Version = 9
	becomes(t, "it leads", func() bool {
		return resp.ReadFrom(c.ask(c.encode(produceOf(1)))[5:]) == nil && resp.Topics[0].Partitions[0].ErrorCode == 0
	})
	for range lentBatches {
		c.produced(c.ask(c.encode(produceOf(lentRecords))))
	}
	end := int64(1 + lentBatches*lentRecords)

	const slow, inFlight = 6, 60     // more than sockets hold
	b.server.o.FetchMemory = 4 << 20 // before the first fetch
	var conns []net.Conn
	for k := range slow {
		c := dial()
		conns = append(conns, c.conn)
		for i := range inFlight {
			if _, err := c.conn.Write(c.encode(fetchOf(1+int64((k+i)%(lentBatches-4)*lentRecords), lentLimit))); err != nil {
				t.Fatal(err)
			}
		}
	}
	becomes(t, "the memory for answers is used up", func() bool { return b.server.fetchUsed.Load() >= b.server.o.FetchMemory })
	var readers sync.WaitGroup
	for k := range 4 {
		c := dial()
		readers.Go(func() {
			defer c.conn.Close()
			rng := rand.New(rand.NewPCG(uint64(k), 1))
			for range 60 {
				from := rng.Int64N(end)
				if _, err := c.conn.Write(c.encode(fetchOf(from, lentLimit))); err != nil {
					t.Error(err)
					return
				}
				if _, err := io.ReadFull(c.conn, c.in[:4]); err != nil {
					t.Error(err)
					return
				}
				n := binary.BigEndian.Uint32(c.in)
				if _, err := io.ReadFull(c.conn, c.in[:n]); err != nil {
					t.Error(err)
					return
				}
				if lentBatch(t, c.in[:n], from) < 0 {
					return
				}
				// An answer's memory is at most its class's: less than twice its bytes. Each connection's first one may have been begun
				// before any was counted; after that each gets one batch.
				if used := b.server.fetchUsed.Load(); used > b.server.o.FetchMemory+(slow+4)*2*(lentLimit+lentRecords<<10)+slow*inFlight*2*(lentRecords+64)<<10 {
					t.Errorf("%d bytes are held", used)
				}
			}
		})
	}
	readers.Wait()
	// Half of the slow ones take all after all.
	for k, conn := range conns {
		if k%2 == 0 {
			continue
		}
		c := &rawClient{tb: t, conn: conn, in: make([]byte, 4<<20)}
		for i := range inFlight {
			if _, err := io.ReadFull(conn, c.in[:4]); err != nil {
				t.Fatal(err)
			}
			n := binary.BigEndian.Uint32(c.in)
			if _, err := io.ReadFull(conn, c.in[:n]); err != nil {
				t.Fatal(err)
			}
			lentBatch(t, c.in[:n], 1+int64((k+i)%(lentBatches-4)*lentRecords))
		}
	}
	for _, conn := range conns {
		_ = conn.Close()
	}
	becomes(t, "all memory of answers is back", func() bool { return b.server.fetchUsed.Load() == 0 })
}

package broker

// Produce and Fetch: every version, every outcome.

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"reflect"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/balsamq/balsa/coordinator"
	"github.com/balsamq/balsa/partition"
	"github.com/balsamq/balsa/protocol"
)

func fetchRequest(version int16, topic string, id [16]byte, p int32, offset int64, wait time.Duration) *kmsg.FetchRequest {
	req := kmsg.NewPtrFetchRequest()
	req.Version, req.MaxWaitMillis, req.MinBytes, req.MaxBytes = version, int32(wait.Milliseconds()), 1, 50<<20
	req.ReplicaID, req.SessionEpoch = -1, -1
	rt := kmsg.NewFetchRequestTopic()
	rt.Topic, rt.TopicID = topic, id
	rp := kmsg.NewFetchRequestTopicPartition()
	rp.Partition, rp.FetchOffset, rp.PartitionMaxBytes = p, offset, 1<<20
	rt.Partitions = append(rt.Partitions, rp)
	req.Topics = append(req.Topics, rt)
	return req
}

func onlyPartition(t testing.TB, resp *kmsg.FetchResponse) kmsg.FetchResponseTopicPartition {
	t.Helper()
	if resp.ErrorCode != 0 || len(resp.Topics) != 1 || len(resp.Topics[0].Partitions) != 1 {
		t.Fatalf("not one partition: %+v", resp)
	}
	return resp.Topics[0].Partitions[0]
}

func TestProduceAndFetchInEveryVersion(t *testing.T) {
	h := newHarness(t, serverOptions{})
	id := h.back.addTopic("t", 1, nil)
	c := h.dial()
	var want []byte
	offset := int64(0)
	for v := int16(3); v <= 13; v++ {
		for _, acks := range []int16{1, -1} {
			batch := testBatch("a", "b", fmt.Sprint(v))
			resp := ask[*kmsg.ProduceResponse](c, produceRequest(v, acks, "t", id, 0, batch))
			p := resp.Topics[0].Partitions[0]
			if p.ErrorCode != 0 || p.BaseOffset != offset || p.LogAppendTime != -1 || v >= 5 && p.LogStartOffset != 0 {
				t.Fatalf("produce v%d: %+v", v, p)
			}
			if v < 13 && resp.Topics[0].Topic != "t" || v >= 13 && resp.Topics[0].TopicID != id {
				t.Fatalf("produce v%d: topic %+v", v, resp.Topics[0])
			}
			stamped := protocol.Batch(bytes.Clone(batch))
			stamped.SetBaseOffset(offset)
			stamped.SetLeaderEpoch(5)
			want = append(want, stamped...)
			offset += 3
		}
	}
	for v := int16(4); v <= 18; v++ {
		for _, isolation := range []int8{0, 1} {
			req := fetchRequest(v, "t", id, 0, 0, 0)
			req.IsolationLevel = isolation
			p := onlyPartition(t, ask[*kmsg.FetchResponse](c, req))
			if p.ErrorCode != 0 || p.HighWatermark != offset || p.LastStableOffset != offset || !bytes.Equal(p.RecordBatches, want) {
				t.Fatalf("fetch v%d: error %d, high watermark %d, %d bytes, want %d", v, p.ErrorCode, p.HighWatermark, len(p.RecordBatches), len(want))
			}
			// Null for read_uncommitted, empty for read_committed.
			if (p.AbortedTransactions == nil) != (isolation == 0) {
				t.Fatalf("fetch v%d isolation %d: aborted %#v", v, isolation, p.AbortedTransactions)
			}
		}
		// At the end: empty, never null.
		p := onlyPartition(t, ask[*kmsg.FetchResponse](c, fetchRequest(v, "t", id, 0, offset, 0)))
		if p.ErrorCode != 0 || p.RecordBatches == nil || len(p.RecordBatches) != 0 {
			t.Fatalf("fetch v%d at the end: error %d, %#v", v, p.ErrorCode, p.RecordBatches)
		}
	}
	// An offset within a batch returns that whole batch.
	p := onlyPartition(t, ask[*kmsg.FetchResponse](c, fetchRequest(12, "t", id, 0, 4, 0)))
	if b := protocol.Batch(p.RecordBatches); b.BaseOffset() != 3 {
		t.Fatalf("offset 4 gives a batch from %d", b.BaseOffset())
	}
}

func TestProduceRefusals(t *testing.T) {
	h := newHarness(t, serverOptions{})
	id := h.back.addTopic("t", 1, nil)
	offsets := h.back.addTopic(coordinator.ConsumerOffsetsTopic, 1, nil)
	c := h.dial()
	corrupt := testBatch("x")
	corrupt[len(corrupt)-1] ^= 1
	old := testBatch("x")
	old[16] = 1
	zstd := protocol.NewBatchOptions()
	zstd.Codec = protocol.CodecZstd
	compressed := protocol.BuildBatch([]protocol.Record{{Value: []byte("z")}}, zstd)
	noCount := testBatch("x")
	binary.BigEndian.PutUint32(noCount[57:], 0)
	protocol.Batch(noCount).UpdateCRC()
	for name, tc := range map[string]struct {
		version, acks int16
		topic         string
		id            [16]byte
		partition     int32
		records       []byte
		want          *kerr.Error
	}{
		"corrupt CRC":         {9, 1, "t", id, 0, corrupt, kerr.CorruptMessage},
		"truncated batch":     {9, 1, "t", id, 0, testBatch("x")[:50], kerr.CorruptMessage},
		"magic 1":             {9, 1, "t", id, 0, old, kerr.InvalidRecord},
		"two batches":         {9, 1, "t", id, 0, append(testBatch("x"), testBatch("y")...), kerr.InvalidRecord},
		"no batch":            {9, 1, "t", id, 0, []byte{}, kerr.InvalidRecord},
		"null records":        {9, 1, "t", id, 0, nil, kerr.InvalidRecord},
		"no records in batch": {9, 1, "t", id, 0, noCount, kerr.InvalidRecord},
		"acks 2":              {9, 2, "t", id, 0, testBatch("x"), kerr.InvalidRequiredAcks},
		"acks -2":             {9, -2, "t", id, 0, testBatch("x"), kerr.InvalidRequiredAcks},
		"unknown topic":       {9, 1, "nope", id, 0, testBatch("x"), kerr.UnknownTopicOrPartition},
		"unknown partition":   {9, 1, "t", id, 1, testBatch("x"), kerr.UnknownTopicOrPartition},
		"negative partition":  {9, 1, "t", id, -1, testBatch("x"), kerr.UnknownTopicOrPartition},
		"unknown id":          {13, 1, "", [16]byte{9}, 0, testBatch("x"), kerr.UnknownTopicID},
		"zstd before v7":      {6, 1, "t", id, 0, compressed, kerr.UnsupportedCompressionType},
		"zstd in v7":          {7, 1, "t", id, 0, compressed, nil},
		"a brokers' topic":    {9, 1, coordinator.ConsumerOffsetsTopic, offsets, 0, testBatch("x"), kerr.InvalidTopicException},
	} {
		t.Run(name, func(t *testing.T) {
			resp := ask[*kmsg.ProduceResponse](c, produceRequest(tc.version, tc.acks, tc.topic, tc.id, tc.partition, tc.records))
			p := resp.Topics[0].Partitions[0]
			if tc.want == nil {
				if p.ErrorCode != 0 || p.BaseOffset != 0 {
					t.Fatalf("%+v", p)
				}
				return
			}
			if p.ErrorCode != tc.want.Code || p.BaseOffset != -1 || tc.version >= 8 && p.ErrorMessage == nil {
				t.Fatalf("error %d (%v), offset %d, message %v; want %v", p.ErrorCode, kerr.ErrorForCode(p.ErrorCode), p.BaseOffset, p.ErrorMessage, tc.want)
			}
		})
	}
}

func TestProduceWithoutAcks(t *testing.T) {
	h := newHarness(t, serverOptions{})
	id := h.back.addTopic("t", 1, nil)
	c := h.dial()
	for i := range 5 {
		c.send(produceRequest(9, 0, "t", id, 0, testBatch(fmt.Sprint(i))))
	}
	// The next answer is the next request's: acks=0 has none.
	if resp := ask[*kmsg.ApiVersionsResponse](c, apiVersionsRequest(3)); resp.ErrorCode != 0 {
		t.Fatal(resp.ErrorCode)
	}
	if hw, _ := h.back.replica(id, 0).HighWatermark(); hw != 5 {
		t.Fatalf("high watermark %d", hw)
	}
	// An error can only be told by closing.
	c.send(produceRequest(9, 0, "nope", id, 0, testBatch("x")))
	c.closed()
	becomes(t, "all memory is back", func() bool { return h.memory.TryAcquire(h.o.RequestMemory) })
}

func TestProduceTimesOut(t *testing.T) {
	h := newHarness(t, serverOptions{})
	id := h.back.addTopic("t", 1, nil)
	r := h.back.replica(id, 0)
	r.manual = true
	c := h.dial()
	req := produceRequest(9, -1, "t", id, 0, testBatch("late"))
	req.TimeoutMillis = 1
	if p := ask[*kmsg.ProduceResponse](c, req).Topics[0].Partitions[0]; p.ErrorCode != kerr.RequestTimedOut.Code {
		t.Fatalf("%+v", p)
	}
	// The replica still looks into the frame: its memory is held until it is done.
	if h.memory.TryAcquire(h.o.RequestMemory) {
		t.Fatal("the frame's memory was given back while the replica had it")
	}
	r.commit()
	becomes(t, "all memory is back", func() bool { return h.memory.TryAcquire(h.o.RequestMemory) })
	h.memory.Release(h.o.RequestMemory)
	// It was committed all the same.
	if p := ask[*kmsg.ProduceResponse](c, produceRequest(9, 1, "t", id, 5, nil)).Topics[0].Partitions[0]; p.ErrorCode == 0 {
		t.Fatal("no error for a partition that is not there")
	}
	if p := onlyPartition(t, ask[*kmsg.FetchResponse](c, fetchRequest(12, "t", id, 0, 0, 0))); p.HighWatermark != 1 {
		t.Fatalf("%+v", p)
	}
}

// KIP-951: who leads now, and where, comes with the error.
func TestNewLeaderIsNamed(t *testing.T) {
	h := newHarness(t, serverOptions{})
	id := h.back.addTopic("t", 2, nil)
	h.back.moveLeader(id, 0)
	h.back.moveLeader(id, 1)
	c := h.dial()
	for v := int16(3); v <= 13; v++ {
		req := produceRequest(v, 1, "t", id, 0, testBatch("x"))
		req.Topics[0].Partitions = append(req.Topics[0].Partitions, produceRequest(v, 1, "t", id, 1, testBatch("y")).Topics[0].Partitions...)
		resp := ask[*kmsg.ProduceResponse](c, req)
		p := resp.Topics[0].Partitions[0]
		if p.ErrorCode != kerr.NotLeaderForPartition.Code {
			t.Fatalf("v%d: %+v", v, p)
		}
		if v < 10 {
			if len(resp.Brokers) != 0 || p.CurrentLeader.LeaderID != -1 {
				t.Fatalf("v%d names a leader: %+v", v, resp)
			}
			continue
		}
		if p.CurrentLeader.LeaderID != 2 || p.CurrentLeader.LeaderEpoch != 6 || len(resp.Brokers) != 1 || resp.Brokers[0].NodeID != 2 ||
			resp.Brokers[0].Host != "broker-2.example" || resp.Brokers[0].Port != 9092 || *resp.Brokers[0].Rack != "rack-2" {
			t.Fatalf("v%d: %+v", v, resp)
		}
	}
	for v := int16(4); v <= 18; v++ {
		resp := ask[*kmsg.FetchResponse](c, fetchRequest(v, "t", id, 0, 0, time.Hour))
		p := onlyPartition(t, resp)
		if p.ErrorCode != kerr.NotLeaderForPartition.Code {
			t.Fatalf("v%d: %+v", v, p)
		}
		if v < 16 && len(resp.Brokers) != 0 || v >= 16 && (p.CurrentLeader.LeaderID != 2 || p.CurrentLeader.LeaderEpoch != 6 ||
			len(resp.Brokers) != 1 || resp.Brokers[0].Host != "broker-2.example" || resp.Brokers[0].Port != 9092) {
			t.Fatalf("v%d: %+v", v, resp)
		}
	}
}

func TestFetchRefusals(t *testing.T) {
	h := newHarness(t, serverOptions{})
	id := h.back.addTopic("t", 1, nil)
	c := h.dial()
	ask[*kmsg.ProduceResponse](c, produceRequest(9, 1, "t", id, 0, testBatch("a", "b")))
	epoch := func(req *kmsg.FetchRequest, e int32) *kmsg.FetchRequest {
		req.Topics[0].Partitions[0].CurrentLeaderEpoch = e
		return req
	}
	for name, tc := range map[string]struct {
		req  *kmsg.FetchRequest
		want *kerr.Error
	}{
		"unknown topic":     {fetchRequest(12, "nope", id, 0, 0, time.Hour), kerr.UnknownTopicOrPartition},
		"unknown partition": {fetchRequest(12, "t", id, 7, 0, time.Hour), kerr.UnknownTopicOrPartition},
		"unknown id":        {fetchRequest(13, "", [16]byte{7}, 0, 0, time.Hour), kerr.UnknownTopicID},
		"beyond the end":    {fetchRequest(12, "t", id, 0, 3, time.Hour), kerr.OffsetOutOfRange},
		"before the start":  {fetchRequest(12, "t", id, 0, -1, time.Hour), kerr.OffsetOutOfRange},
		"old epoch":         {epoch(fetchRequest(12, "t", id, 0, 0, time.Hour), 4), kerr.FencedLeaderEpoch},
		"new epoch":         {epoch(fetchRequest(12, "t", id, 0, 0, time.Hour), 6), kerr.UnknownLeaderEpoch},
		"this epoch":        {epoch(fetchRequest(12, "t", id, 0, 0, time.Hour), 5), nil},
	} {
		t.Run(name, func(t *testing.T) {
			p := onlyPartition(t, ask[*kmsg.FetchResponse](c, tc.req)) // at once, for all that max_wait is an hour
			if tc.want == nil {
				if p.ErrorCode != 0 || len(p.RecordBatches) == 0 {
					t.Fatalf("%+v", p)
				}
				return
			}
			if p.ErrorCode != tc.want.Code || p.RecordBatches == nil || len(p.RecordBatches) != 0 {
				t.Fatalf("error %d, want %v; records %#v", p.ErrorCode, tc.want, p.RecordBatches)
			}
		})
	}
}

func TestFetchLimitsAreSoft(t *testing.T) {
	h := newHarness(t, serverOptions{})
	id := h.back.addTopic("t", 2, nil)
	c := h.dial()
	batch := testBatch(string(make([]byte, 1000)))
	for p := range int32(2) {
		for range 4 {
			ask[*kmsg.ProduceResponse](c, produceRequest(9, 1, "t", id, p, batch))
		}
	}
	both := func(max, perPartition int32) []int {
		req := fetchRequest(12, "t", id, 0, 0, time.Hour)
		req.Topics[0].Partitions = append(req.Topics[0].Partitions, fetchRequest(12, "t", id, 1, 0, 0).Topics[0].Partitions...)
		req.MaxBytes = max
		var sizes []int
		for i := range req.Topics[0].Partitions {
			req.Topics[0].Partitions[i].PartitionMaxBytes = perPartition
		}
		for _, p := range ask[*kmsg.FetchResponse](c, req).Topics[0].Partitions {
			sizes = append(sizes, len(p.RecordBatches)/len(batch))
		}
		return sizes
	}
	n := int32(len(batch))
	for _, tc := range []struct {
		max, per int32
		want     []int
	}{
		{100 * n, 100 * n, []int{4, 4}},
		{100 * n, 2 * n, []int{2, 2}},
		{1, 1, []int{1, 0}},   // the first batch comes whole
		{0, 0, []int{1, 0}},   // even then
		{-1, -1, []int{1, 0}}, // and from a client that sends nonsense
		{5 * n, 100 * n, []int{4, 1}},
	} {
		if got := both(tc.max, tc.per); !reflect.DeepEqual(got, tc.want) {
			t.Errorf("max %d, per partition %d: batches %v, want %v", tc.max, tc.per, got, tc.want)
		}
	}
	// What all answers together may take is bounded; one batch always gets through. An answer's memory comes back after the
	// client has the answer.
	becomes(t, "memory of written answers is given back", func() bool { return h.fetchUsed.Load() == 0 })
	h.fetchUsed.Store(h.o.FetchMemory)
	if got := both(100*n, 100*n); !reflect.DeepEqual(got, []int{1, 0}) {
		t.Errorf("without memory: %v", got)
	}
	becomes(t, "its one batch is given back", func() bool { return h.fetchUsed.Load() == h.o.FetchMemory })
	h.fetchUsed.Store(0)
}

// A thousand waiting fetches are a thousand entries in lists, not goroutines (beyond the one that reads each connection).
func TestWaitingFetchesCostNoGoroutine(t *testing.T) {
	h := newHarness(t, serverOptions{MaxInflight: 1000})
	id := h.back.addTopic("t", 1, nil)
	r := h.back.replica(id, 0)
	const conns, each = 10, 100
	var cs []*kafkaClient
	for range conns {
		c := h.dial()
		ask[*kmsg.ApiVersionsResponse](c, apiVersionsRequest(3))
		cs = append(cs, c)
	}
	before := runtime.NumGoroutine()
	for _, c := range cs {
		for range each {
			c.send(fetchRequest(12, "t", id, 0, 0, time.Hour))
		}
	}
	becomes(t, "all wait", func() bool { return r.waiting() == conns*each })
	becomes(t, "no goroutine is left", func() bool { return runtime.NumGoroutine() <= before })
	p := h.dial()
	ask[*kmsg.ProduceResponse](p, produceRequest(9, -1, "t", id, 0, testBatch("wake")))
	for _, c := range cs {
		for i := range each {
			got, body := c.receive()
			resp := decodeAnswer[*kmsg.FetchResponse](t, fetchRequest(12, "t", id, 0, 0, 0), body)
			if fp := onlyPartition(t, resp); got != int32(i+2) || len(fp.RecordBatches) == 0 || fp.HighWatermark != 1 {
				t.Fatalf("answer %d: %+v", got, fp)
			}
		}
	}
	if r.waiting() != 0 {
		t.Fatal("waiters are left")
	}
}

func TestFetchWaits(t *testing.T) {
	h := newHarness(t, serverOptions{})
	id := h.back.addTopic("t", 2, nil)
	c, p := h.dial(), h.dial()
	t.Run("until max_wait", func(t *testing.T) {
		if fp := onlyPartition(t, ask[*kmsg.FetchResponse](c, fetchRequest(12, "t", id, 0, 0, 20*time.Millisecond))); fp.ErrorCode != 0 || fp.HighWatermark != 0 {
			t.Fatalf("%+v", fp)
		}
	})
	t.Run("until the leader changes", func(t *testing.T) {
		n := c.send(fetchRequest(12, "t", id, 1, 0, time.Hour))
		becomes(t, "it waits", func() bool { return h.back.replica(id, 1).waiting() == 1 })
		h.back.moveLeader(id, 1)
		got, body := c.receive()
		fp := onlyPartition(t, decodeAnswer[*kmsg.FetchResponse](t, fetchRequest(12, "t", id, 1, 0, 0), body))
		if got != n || fp.ErrorCode != kerr.NotLeaderForPartition.Code {
			t.Fatalf("%+v", fp)
		}
	})
	t.Run("for min_bytes", func(t *testing.T) {
		batch := testBatch("twelve bytes")
		req := fetchRequest(12, "t", id, 0, 0, time.Hour)
		req.MinBytes = int32(3 * len(batch))
		n := c.send(req)
		for i := range 3 {
			becomes(t, "it waits", func() bool { return h.back.replica(id, 0).waiting() == 1 })
			ask[*kmsg.ProduceResponse](p, produceRequest(9, -1, "t", id, 0, batch))
			_ = i
		}
		got, body := c.receive()
		fp := onlyPartition(t, decodeAnswer[*kmsg.FetchResponse](t, req, body))
		if got != n || len(fp.RecordBatches) != 3*len(batch) {
			t.Fatalf("%d bytes, want %d", len(fp.RecordBatches), 3*len(batch))
		}
	})
	t.Run("not for min_bytes that lie behind its limit", func(t *testing.T) {
		batch := testBatch("twelve bytes") // three of them are there
		req := fetchRequest(12, "t", id, 0, 0, time.Hour)
		req.Topics[0].Partitions[0].PartitionMaxBytes = int32(2*len(batch) - 1)
		req.MinBytes = int32(2*len(batch) - 1)
		if fp := onlyPartition(t, ask[*kmsg.FetchResponse](c, req)); len(fp.RecordBatches) != len(batch) {
			t.Fatalf("%d bytes, want %d", len(fp.RecordBatches), len(batch))
		}
	})
	t.Run("and stops with its connection", func(t *testing.T) {
		gone := h.dial()
		gone.send(fetchRequest(12, "t", id, 0, 3, time.Hour))
		becomes(t, "it waits", func() bool { return h.back.replica(id, 0).waiting() == 1 })
		gone.nc.Close()
		becomes(t, "it has gone", func() bool { return h.back.replica(id, 0).waiting() == 0 })
	})
}

// An answer that says where the log ends must be confirmed; records below the high watermark need not be.
func TestEmptyAnswersAreConfirmed(t *testing.T) {
	h := newHarness(t, serverOptions{})
	id := h.back.addTopic("t", 1, nil)
	c := h.dial()
	ask[*kmsg.ProduceResponse](c, produceRequest(9, 1, "t", id, 0, testBatch("a")))
	r := h.back.replica(id, 0)
	var mu sync.Mutex
	var asked []func(error)
	r.mu.Lock()
	r.linear = func(done func(error)) { mu.Lock(); asked = append(asked, done); mu.Unlock() }
	r.mu.Unlock()
	count := func() int { mu.Lock(); defer mu.Unlock(); return len(asked) }

	if fp := onlyPartition(t, ask[*kmsg.FetchResponse](c, fetchRequest(12, "t", id, 0, 0, time.Hour))); len(fp.RecordBatches) == 0 || count() != 0 {
		t.Fatalf("%+v, %d confirmations", fp, count())
	}
	req := fetchRequest(12, "t", id, 0, 1, 0)
	for name, tc := range map[string]struct {
		offset  int64
		wait    time.Duration
		confirm error
		want    int16
	}{
		"confirmed end":             {1, time.Hour / 4, nil, -100}, // waits on: see below
		"no quorum":                 {1, time.Hour, partition.ErrUnavailable, kerr.NotLeaderForPartition.Code},
		"out of range, confirmed":   {9, time.Hour, nil, kerr.OffsetOutOfRange.Code},
		"out of range, not leading": {9, time.Hour, partition.ErrNotLeader, kerr.NotLeaderForPartition.Code},
	} {
		t.Run(name, func(t *testing.T) {
			n := count()
			req := fetchRequest(12, "t", id, 0, tc.offset, tc.wait)
			if tc.want == -100 {
				req.MaxWaitMillis, tc.want = 0, 0 // asks nonetheless
				id := c.send(req)
				becomes(t, "a confirmation is asked for", func() bool { return count() == n+1 })
				asked[n](tc.confirm)
				got, body := c.receive()
				if fp := onlyPartition(t, decodeAnswer[*kmsg.FetchResponse](t, req, body)); got != id || fp.ErrorCode != 0 || len(fp.RecordBatches) != 0 {
					t.Fatalf("%+v", fp)
				}
				return
			}
			c.send(req)
			becomes(t, "a confirmation is asked for", func() bool { return count() == n+1 })
			asked[n](tc.confirm)
			_, body := c.receive()
			if fp := onlyPartition(t, decodeAnswer[*kmsg.FetchResponse](t, req, body)); fp.ErrorCode != tc.want {
				t.Fatalf("error %d, want %d", fp.ErrorCode, tc.want)
			}
		})
	}
	t.Run("none in time", func(t *testing.T) {
		req.MaxWaitMillis = 20
		fp := onlyPartition(t, ask[*kmsg.FetchResponse](c, req))
		if fp.ErrorCode != kerr.NotLeaderForPartition.Code {
			t.Fatalf("an unconfirmed end was shown: %+v", fp)
		}
	})
}

func TestDivergingEpoch(t *testing.T) {
	h := newHarness(t, serverOptions{})
	id := h.back.addTopic("t", 1, nil)
	c := h.dial()
	ask[*kmsg.ProduceResponse](c, produceRequest(9, 1, "t", id, 0, testBatch("a", "b")))
	r := h.back.replica(id, 0)
	r.mu.Lock()
	r.epoch = 8
	r.mu.Unlock()
	ask[*kmsg.ProduceResponse](c, produceRequest(9, 1, "t", id, 0, testBatch("c")))
	req := fetchRequest(12, "t", id, 0, 3, time.Hour)
	req.Topics[0].Partitions[0].LastFetchedEpoch = 6 // the client has read records of epoch 6 up to 3; here epoch 5 ended at 2
	fp := onlyPartition(t, ask[*kmsg.FetchResponse](c, req))
	if fp.ErrorCode != 0 || fp.DivergingEpoch.Epoch != 5 || fp.DivergingEpoch.EndOffset != 2 || len(fp.RecordBatches) != 0 {
		t.Fatalf("%+v", fp)
	}
	req.Topics[0].Partitions[0].LastFetchedEpoch, req.MaxWaitMillis = 8, 0
	if fp := onlyPartition(t, ask[*kmsg.FetchResponse](c, req)); fp.DivergingEpoch.EndOffset != -1 {
		t.Fatalf("%+v", fp)
	}
}

// The hand-written encoder against kmsg, in every version, over what one answer can hold.
func TestFetchEncoderAgreesWithKmsg(t *testing.T) {
	rack := "r"
	res := func(b ...[]byte) partition.ReadResult {
		n := 0
		for _, x := range b {
			n += len(x)
		}
		return partition.ReadResult{Batches: b, Bytes: n, HighWatermark: 9, LastStable: 8, LogStart: 7, LeaderEpoch: 3}
	}
	part := func(topic byte, name string, p int32, r partition.ReadResult, err error) *fetchPart {
		fp := &fetchPart{res: r, err: err, divergeEnd: -1, leader: -1, preferred: -1}
		fp.key = partitionKey{[16]byte{topic}, name, p}
		return fp
	}
	diverged := part(2, "b", 4, res(), nil)
	diverged.divergeEpoch, diverged.divergeEnd = 6, 66
	moved := part(2, "b", 5, nothingRead, partition.ErrNotLeader)
	moved.leader, moved.hintEpoch = 2, 12
	bothTags := part(3, "c", 0, nothingRead, partition.ErrFencedLeaderEpoch)
	bothTags.leader, bothTags.hintEpoch, bothTags.divergeEpoch, bothTags.divergeEnd = 1, 2, 3, 4
	elsewhere := part(1, "a", 3, res(), nil)
	elsewhere.preferred = 2
	for _, tc := range [][]*fetchPart{
		nil,
		{part(1, "a", 0, res([]byte("one"), []byte("two")), nil), elsewhere},
		{part(1, "a", 0, res(), nil), part(1, "a", 1, res(bytes.Repeat([]byte("x"), 300)), nil), diverged, moved, bothTags,
			part(1, "a", 2, res([]byte("again")), nil)},
	} {
		for v := int16(4); v <= 18; v++ {
			for _, committed := range []bool{false, true} {
				brokers := []hintedBroker{{2, "host", 9092, &rack}, {3, "", 1, nil}}
				bufs, n := encodeFetch(v, 77, 0, kerr.FetchSessionIDNotFound.Code, 55, tc, committed, brokers)
				var frame []byte
				for _, b := range bufs {
					frame = append(frame, b...)
				}
				if int(binary.BigEndian.Uint32(frame)) != len(frame)-4 || binary.BigEndian.Uint32(frame[4:]) != 77 {
					t.Fatalf("v%d: length field %d of %d", v, binary.BigEndian.Uint32(frame), len(frame)-4)
				}
				body := frame[8:]
				got := kmsg.NewPtrFetchResponse()
				got.Version = v
				if got.IsFlexible() {
					body = body[1:]
				}
				if err := got.ReadFrom(body); err != nil {
					t.Fatalf("v%d: %v", v, err)
				}
				want := wantFetch(v, tc, committed, brokers)
				if !bytes.Equal(want.AppendTo(nil), body) {
					t.Fatalf("v%d:\n got %+v\nwant %+v", v, got, want)
				}
				if records := len(frame) - headerBytes(bufs, tc); records != n {
					t.Fatalf("v%d: %d bytes of records, said %d", v, records, n)
				}
			}
		}
	}
}

func headerBytes(bufs [][]byte, parts []*fetchPart) int {
	total, records := 0, 0
	for _, b := range bufs {
		total += len(b)
	}
	for _, p := range parts {
		records += p.res.Bytes
	}
	return total - records
}

func wantFetch(v int16, parts []*fetchPart, committed bool, brokers []hintedBroker) *kmsg.FetchResponse {
	want := kmsg.NewPtrFetchResponse()
	want.Version, want.ErrorCode, want.SessionID = v, kerr.FetchSessionIDNotFound.Code, 55
	for i, p := range parts {
		if i == 0 || !p.sameTopic(parts[i-1]) {
			t := kmsg.NewFetchResponseTopic()
			t.Topic, t.TopicID = p.key.name, p.key.id
			want.Topics = append(want.Topics, t)
		}
		fp := kmsg.NewFetchResponseTopicPartition()
		fp.Partition, fp.ErrorCode = p.key.partition, codeOf(p.err)
		fp.HighWatermark, fp.LastStableOffset, fp.LogStartOffset = p.res.HighWatermark, p.res.LastStable, p.res.LogStart
		fp.PreferredReadReplica = -1
		if v >= 11 {
			fp.PreferredReadReplica = p.preferred
		}
		fp.RecordBatches = []byte{}
		for _, b := range p.res.Batches {
			fp.RecordBatches = append(fp.RecordBatches, b...)
		}
		if committed {
			fp.AbortedTransactions = []kmsg.FetchResponseTopicPartitionAbortedTransaction{}
		}
		if p.divergeEnd >= 0 {
			fp.DivergingEpoch.Epoch, fp.DivergingEpoch.EndOffset = p.divergeEpoch, p.divergeEnd
		}
		if p.leader >= 0 {
			fp.CurrentLeader.LeaderID, fp.CurrentLeader.LeaderEpoch = p.leader, p.hintEpoch
		}
		last := &want.Topics[len(want.Topics)-1]
		last.Partitions = append(last.Partitions, fp)
	}
	if v >= 16 {
		for _, b := range brokers {
			n := kmsg.NewFetchResponseBroker()
			n.NodeID, n.Host, n.Port, n.Rack = b.node, b.host, b.port, b.rack
			want.Brokers = append(want.Brokers, n)
		}
	}
	return want
}

func TestErrorsOfEveryPackageHaveACode(t *testing.T) {
	for _, e := range kafkaErrors {
		if got := codeOf(fmt.Errorf("while doing this: %w", e.err)); got != e.code.Code {
			t.Errorf("%v: %d, want %v", e.err, got, e.code)
		}
	}
	if codeOf(nil) != 0 || codeOf(errors.New("?")) != kerr.UnknownServerError.Code || codeOf(kerr.UnknownTopicID) != kerr.UnknownTopicID.Code {
		t.Error("nil, unknown or own code")
	}
	if codeOf(&partition.NotLeaderError{}) != kerr.NotLeaderForPartition.Code || codeOf(&partition.EpochError{Asked: 1, Current: 2}) != kerr.FencedLeaderEpoch.Code ||
		codeOf(&partition.EpochError{Asked: 3, Current: 2}) != kerr.UnknownLeaderEpoch.Code || codeOf(&partition.RangeError{}) != kerr.OffsetOutOfRange.Code {
		t.Error("an error with more to say")
	}
}

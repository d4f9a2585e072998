// DeleteRecords: every version, and what each mistake is answered with.

package broker

import (
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/balsamq/balsa/coordinator"
)

func deleteRecordsRequest(v int16, topic string, offsets ...int64) *kmsg.DeleteRecordsRequest {
	req := kmsg.NewPtrDeleteRecordsRequest()
	req.Version, req.TimeoutMillis = v, 5000
	rt := kmsg.NewDeleteRecordsRequestTopic()
	rt.Topic = topic
	for i, o := range offsets {
		p := kmsg.NewDeleteRecordsRequestTopicPartition()
		p.Partition, p.Offset = int32(i), o
		rt.Partitions = append(rt.Partitions, p)
	}
	req.Topics = append(req.Topics, rt)
	return req
}

func TestDeleteRecordsInEveryVersion(t *testing.T) {
	h := newHarness(t, serverOptions{})
	c := h.dial()
	for v := int16(0); v <= 2; v++ {
		topic := []string{"a", "b", "c"}[v]
		id := h.back.addTopic(topic, 3, nil)
		for p := range int32(3) {
			ask[*kmsg.ProduceResponse](c, produceRequest(9, 1, topic, id, p, testBatch("1", "2", "3")))
		}
		got := ask[*kmsg.DeleteRecordsResponse](c, deleteRecordsRequest(v, topic, 2, -1, 4, 0))
		if got.Topics[0].Topic != topic || len(got.Topics[0].Partitions) != 4 {
			t.Fatalf("v%d: %+v", v, got)
		}
		for i, want := range []struct {
			low  int64
			code int16
		}{{2, 0}, {3, 0}, {-1, kerr.OffsetOutOfRange.Code}, {-1, kerr.UnknownTopicOrPartition.Code}} {
			if p := got.Topics[0].Partitions[i]; p.Partition != int32(i) || p.LowWatermark != want.low || p.ErrorCode != want.code {
				t.Errorf("v%d: %+v, want %+v", v, p, want)
			}
		}
		// Never back, and asking for less is no error.
		if p := ask[*kmsg.DeleteRecordsResponse](c, deleteRecordsRequest(v, topic, 1)).Topics[0].Partitions[0]; p.LowWatermark != 2 || p.ErrorCode != 0 {
			t.Errorf("v%d: %+v", v, p)
		}
		for _, bad := range []int64{-2, -3} {
			if p := ask[*kmsg.DeleteRecordsResponse](c, deleteRecordsRequest(v, topic, bad)).Topics[0].Partitions[0]; p.ErrorCode != kerr.OffsetOutOfRange.Code {
				t.Errorf("v%d: %+v", v, p)
			}
		}
	}
}

func TestDeleteRecordsRefusals(t *testing.T) {
	h := newHarness(t, serverOptions{})
	c := h.dial()
	id := h.back.addTopic("t", 1, nil)
	h.back.addTopic(coordinator.ConsumerOffsetsTopic, 1, nil)
	one := func(req *kmsg.DeleteRecordsRequest) int16 {
		return ask[*kmsg.DeleteRecordsResponse](c, req).Topics[0].Partitions[0].ErrorCode
	}
	if code := one(deleteRecordsRequest(2, coordinator.ConsumerOffsetsTopic, 0)); code != kerr.InvalidTopicException.Code {
		t.Errorf("internal topic: %d", code)
	}
	h.back.addTopic("table", 1, map[string]string{"cleanup.policy": "compact"})
	if code := one(deleteRecordsRequest(2, "table", 0)); code != kerr.PolicyViolation.Code {
		t.Errorf("a compacted topic: %d", code)
	}
	h.back.addTopic("kept", 1, map[string]string{"cleanup.policy": ""})
	if code := one(deleteRecordsRequest(2, "kept", 0)); code != 0 {
		t.Errorf("a topic that keeps all until somebody asks: %d", code)
	}
	if code := one(deleteRecordsRequest(2, "nope", 0)); code != kerr.UnknownTopicOrPartition.Code {
		t.Errorf("unknown topic: %d", code)
	}
	r := h.back.replica(id, 0)
	ask[*kmsg.ProduceResponse](c, produceRequest(9, 1, "t", id, 0, testBatch("1", "2", "3")))
	r.mu.Lock()
	r.manual = true
	r.mu.Unlock()
	req := deleteRecordsRequest(2, "t", 2)
	req.TimeoutMillis = 10
	if code := one(req); code != kerr.RequestTimedOut.Code {
		t.Errorf("nobody commits: %d", code)
	}
	r.mu.Lock()
	r.notLeader = true
	r.mu.Unlock()
	if code := one(deleteRecordsRequest(2, "t", 2)); code != kerr.NotLeaderForPartition.Code {
		t.Errorf("no leader: %d", code)
	}
}

// librdkafka's own tests give the deletion no time, and want it all the same.
func TestDeleteRecordsInNoTime(t *testing.T) {
	c := newCluster(t, 3, false)
	c.start(c.nodes...)
	n := c.nodes[0]
	n.createWith(t, "t", 1, nil)
	cl := newKafkaClient(t, n, kgo.DefaultProduceTopic("t"))
	defer cl.Close()
	for range 10 {
		if err := cl.ProduceSync(t.Context(), kgo.StringRecord("v")).FirstErr(); err != nil {
			t.Fatal(err)
		}
		req := deleteRecordsRequest(2, "t", -1)
		req.TimeoutMillis = 0
		resp, err := req.RequestWith(t.Context(), cl)
		if err != nil {
			t.Fatal(err)
		}
		if p := resp.Topics[0].Partitions[0]; p.ErrorCode != 0 || p.LowWatermark <= 0 {
			t.Fatalf("%+v", p)
		}
	}
}

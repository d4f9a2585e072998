// Ends without a record before them.

package client_test

import (
	"context"
	"errors"
	"io"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/balsamq/balsa/client"
)

// A consumer that shall stop at the end does so where compaction has emptied the last batch: by Poll and by Run, in a group and alone, from the start and from behind the
// last record that is left. The broker is a fake: a real one would have to be waited for. It has two records, ends at 3, and has nothing to give at 2.
func TestStopAtEmptiedEnd(t *testing.T) {
	fake, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, "t"))
	if err != nil {
		t.Fatal(err)
	}
	defer fake.Close()
	ctx := soon(t)
	cfg := client.Config{Brokers: fake.ListenAddrs()}
	p := producer(t, client.ProducerConfig{Config: cfg, Topic: "t"})
	if err := p.Produce(ctx, &kgo.Record{Value: []byte("1")}, &kgo.Record{Value: []byte("2")}); err != nil {
		t.Fatal(err)
	}
	fake.ControlKey(int16(kmsg.ListOffsets), func(r kmsg.Request) (kmsg.Response, error, bool) {
		fake.KeepControl()
		req := r.(*kmsg.ListOffsetsRequest)
		ask := &req.Topics[0].Partitions[0]
		resp := req.ResponseKind().(*kmsg.ListOffsetsResponse)
		rt, rp := kmsg.NewListOffsetsResponseTopic(), kmsg.NewListOffsetsResponseTopicPartition()
		rt.Topic, rp.Partition, rp.Offset = req.Topics[0].Topic, ask.Partition, 0
		if ask.Timestamp == -1 {
			rp.Offset = 3
		}
		rt.Partitions = append(rt.Partitions, rp)
		resp.Topics = append(resp.Topics, rt)
		return resp, nil, true
	})
	fake.ControlKey(int16(kmsg.Fetch), func(r kmsg.Request) (kmsg.Response, error, bool) {
		fake.KeepControl()
		req := r.(*kmsg.FetchRequest)
		if len(req.Topics) == 0 || req.Topics[0].Partitions[0].FetchOffset < 2 {
			return nil, nil, false
		}
		select { // what a broker does with MaxWait
		case <-time.After(min(time.Duration(req.MaxWaitMillis)*time.Millisecond, 20*time.Millisecond)):
		case <-t.Context().Done():
		}
		resp := req.ResponseKind().(*kmsg.FetchResponse)
		rt, rp := kmsg.NewFetchResponseTopic(), kmsg.NewFetchResponseTopicPartition()
		rt.Topic, rt.TopicID = req.Topics[0].Topic, req.Topics[0].TopicID
		rp.HighWatermark, rp.LastStableOffset, rp.LogStartOffset = 3, 3, 0
		rt.Partitions = append(rt.Partitions, rp)
		resp.Topics = append(resp.Topics, rt)
		return resp, nil, true
	})
	for name, c := range map[string]client.ConsumerConfig{
		"alone":             {Topics: []string{"t"}},
		"behind the last":   {Partitions: map[string]map[int32]client.Start{"t": {0: client.FromOffset(2)}}},
		"all transactions":  {Topics: []string{"t"}, ReadUncommitted: true},
		"by Run":            {Topics: []string{"t"}, Run: client.RunConfig{Concurrency: 4}},
		"in a group":        {Topics: []string{"t"}, Group: "g", ClassicGroup: true},
		"in a group by Run": {Topics: []string{"t"}, Group: "h", ClassicGroup: true, Run: client.RunConfig{Concurrency: 4}},
	} {
		t.Run(name, func(t *testing.T) {
			c.Config, c.StopAtEnd, c.MaxWait = cfg, true, 50*time.Millisecond
			cons, err := client.NewConsumer(ctx, c)
			if err != nil {
				t.Fatal(err)
			}
			one, cancel := context.WithTimeout(ctx, 2*time.Minute)
			defer cancel()
			n := 0
			if c.Run.Concurrency > 0 {
				err = cons.Run(one, func(context.Context, *kgo.Record) error { n++; return nil })
			} else {
				for err == nil {
					var rs []*kgo.Record
					rs, err = cons.Poll(one, 0)
					n += len(rs)
				}
				if errors.Is(err, io.EOF) {
					err = nil
				}
			}
			want := 2
			if name == "behind the last" {
				want = 0
			}
			if err != nil || n != want {
				t.Errorf("%d records, %v", n, err)
			}
			if err := cons.Close(ctx); err != nil {
				t.Error(err)
			}
		})
	}
}

// A consumer's start is looked up with as many questions for many partitions as for few.

package client_test

import (
	"errors"
	"io"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/balsamq/balsa/client"
)

func TestStartsAreAskedForTogether(t *testing.T) {
	few, many := questions(t, 4), questions(t, 64)
	if few == 0 || many != few {
		t.Errorf("%d ListOffsets for 4 partitions, %d for 64", few, many)
	}
}

// questions is how many ListOffsets a consumer needs that starts at a time and ends at the end.
func questions(t *testing.T, partitions int32) int64 {
	k, cfg := fake(t, kfake.NumBrokers(1), kfake.SeedTopics(partitions, "t"))
	cl, err := kgo.NewClient(kgo.SeedBrokers(cfg.Brokers...), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	for p := range partitions {
		r := &kgo.Record{Topic: "t", Partition: p, Value: []byte(strconv.Itoa(int(p)))}
		if err := cl.ProduceSync(t.Context(), r).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	var asked atomic.Int64
	k.ControlKey(int16(kmsg.ListOffsets), func(kmsg.Request) (kmsg.Response, error, bool) {
		k.KeepControl()
		asked.Add(1)
		return nil, nil, false
	})
	c, err := client.NewConsumer(t.Context(), client.ConsumerConfig{Config: cfg, Topics: []string{"t"}, From: client.FromTime(time.Now().Add(-time.Hour)), StopAtEnd: true})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(t.Context())
	n := asked.Load()
	read := 0
	for {
		rs, err := c.Poll(t.Context(), 0)
		if read += len(rs); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	if read != int(partitions) {
		t.Errorf("%d records of %d", read, partitions)
	}
	return n
}

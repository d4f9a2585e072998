package broker

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// A stock client writes while each broker in turn goes without a word and comes back, and reads back what was acknowledged.
func TestKafkaClientOverKills(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 3, true)
	c.start(c.nodes...)
	c.awaitVoters(3)
	c.nodes[0].mustCreate(t, "a", 3, 3)
	for _, n := range c.nodes {
		n.cfg.Listen = n.KafkaAddr() // clients must find it again
	}
	seeds := []string{c.nodes[0].KafkaAddr(), c.nodes[1].KafkaAddr(), c.nodes[2].KafkaAddr()}
	cl, err := kgo.NewClient(kgo.SeedBrokers(seeds...), kgo.DefaultProduceTopic("a"), kgo.MetadataMinAge(50*time.Millisecond),
		kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	acked := make(map[string]int64)
	n := 0
	write := func(count int) {
		t.Helper()
		for range count {
			rec := &kgo.Record{Value: []byte(fmt.Sprint(n)), Partition: int32(n % 3)}
			n++
			if err := cl.ProduceSync(ctx, rec).FirstErr(); err != nil {
				t.Fatalf("produce %s: %v", rec.Value, err)
			}
			acked[string(rec.Value)] = rec.Offset
		}
	}
	write(30)
	for _, down := range c.nodes {
		c.stop(down)
		write(30)
		c.start(down)
		write(30)
	}
	c.stop(c.nodes...)
	c.start(c.nodes...)
	write(30)

	rd, err := kgo.NewClient(kgo.SeedBrokers(seeds...), kgo.ConsumeTopics("a"), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		t.Fatal(err)
	}
	defer rd.Close()
	seen, next := 0, map[int32]int64{}
	for seen < len(acked) {
		fs := rd.PollFetches(ctx)
		if err := ctx.Err(); err != nil {
			t.Fatalf("read %d of %d acknowledged records: %v", seen, len(acked), err)
		}
		fs.EachRecord(func(r *kgo.Record) {
			if r.Offset != next[r.Partition] {
				t.Errorf("partition %d: offset %d after %d", r.Partition, r.Offset, next[r.Partition]-1)
			}
			next[r.Partition] = r.Offset + 1
			if at, ok := acked[string(r.Value)]; !ok || at != r.Offset {
				t.Errorf("record %s at %d was acknowledged at %d (%v)", r.Value, r.Offset, at, ok)
			}
			seen++
		})
	}
}

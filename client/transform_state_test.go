// What a transformation's function may remember: OnAssigned and OnRevoked.

package client_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/balsamq/balsa/broker"
	"github.com/balsamq/balsa/brokertest"
	"github.com/balsamq/balsa/client"
)

// memory is what one program remembers of partitions: the offset of the next record, or -1 where it has had none since OnAssigned.
type memory struct {
	t    *testing.T
	mu   sync.Mutex
	next map[int32]int64
}

func (m *memory) assigned(_ context.Context, parts map[string][]int32) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, p := range parts["in"] {
		if _, ok := m.next[p]; ok {
			m.t.Errorf("partition %d is assigned, and has not been revoked", p)
		}
		m.next[p] = -1
	}
	return nil
}

func (m *memory) revoked(parts map[string][]int32) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, p := range parts["in"] {
		if _, ok := m.next[p]; !ok {
			m.t.Errorf("partition %d is revoked, and was not assigned", p)
		}
		delete(m.next, p)
	}
}

func (m *memory) see(r *kgo.Record) {
	m.mu.Lock()
	defer m.mu.Unlock()
	next, ok := m.next[r.Partition]
	if !ok || next >= 0 && next != r.Offset {
		m.t.Errorf("record %d/%d comes where %d was to be next (%v)", r.Partition, r.Offset, next, ok)
	}
	m.next[r.Partition] = r.Offset + 1
}

// A function that remembers sees every record once for what it remembers: transactions that are aborted, as an output is refused or partitions
// move, are forgotten, and so is what has gone to another program.
func TestTransformState(t *testing.T) {
	t.Parallel()
	c := brokertest.Cluster(t, 1, brokertest.Topic("in", 4), brokertest.Topic("out", 1), brokertest.Topic("dead", 1), brokertest.Configure(func(_ int, cfg *broker.Config) {
		cfg.GroupConsumerHeartbeat, cfg.GroupConsumerSession = 100*time.Millisecond, 10*time.Second // partitions move at a heartbeat
	}))
	n := 3000
	if testing.Short() {
		n = 1000
	}
	p := producer(t, client.ProducerConfig{Config: c.Config(), Topic: "in", ManualPartitions: true})
	for i := range n {
		p.ProduceAsync(ctx(t), &kgo.Record{Partition: int32(i % 4), Value: fmt.Append(nil, i)}, nil)
	}
	if err := p.Flush(ctx(t)); err != nil {
		t.Fatal(err)
	}
	all, finished := context.WithCancel(long(t))
	defer finished()
	var calls, refused atomic.Int64
	program := func(ctx context.Context, pace time.Duration) {
		m := &memory{t: t, next: make(map[int32]int64)}
		err := client.Transform(ctx, client.TransformConfig{Config: c.Config(), Topics: []string{"in"}, Topic: "out", Group: "g", MaxRecords: 50,
			Retry: client.RetryPolicy{DeadLetter: "dead"}, StopGrace: time.Nanosecond, OnAssigned: m.assigned, OnRevoked: m.revoked},
			func(ctx context.Context, r *kgo.Record) ([]*kgo.Record, error) {
				m.see(r)
				calls.Add(1)
				select { // the work
				case <-time.After(pace):
				case <-ctx.Done():
				}
				out := copyOf(r)
				if r.Offset%100 == 99 {
					refused.Add(1)
					out.Value = make([]byte, 2<<20)
				}
				return []*kgo.Record{out}, nil
			})
		if err != nil {
			t.Errorf("Transform returned %v", err)
			finished()
		}
		if len(m.next) > 0 {
			t.Errorf("partitions %v are not revoked though Transform has ended", m.next)
		}
	}
	var wg sync.WaitGroup
	wg.Go(func() { program(all, 100*time.Microsecond) })
	wg.Go(func() {
		for all.Err() == nil {
			ctx, leave := context.WithCancel(all)
			var one sync.WaitGroup
			one.Go(func() { program(ctx, time.Millisecond) })
			for from := calls.Load(); all.Err() == nil && calls.Load() < from+int64(n/8); {
				select {
				case <-all.Done():
				case <-time.After(5 * time.Millisecond):
				}
			}
			leave()
			one.Wait()
		}
	})
	reader := must(client.NewConsumer(ctx(t), client.ConsumerConfig{Config: c.Config(), Topics: []string{"out", "dead"}}))
	defer reader.Close(context.Background())
	got := 0
	if err := reader.Each(all, func(*kgo.Record) error {
		if got++; got == n {
			return client.ErrStop
		}
		return nil
	}); err != nil {
		t.Errorf("after %d records of %d: %v", got, n, err)
	}
	finished()
	wg.Wait()
	if refused.Load() == 0 {
		t.Error("no output was refused")
	}
}

// An error of OnAssigned is tried again, and a permanent one is returned.
func TestTransformStateFails(t *testing.T) {
	t.Parallel()
	b := brokertest.Start(t, brokertest.Topic("in", 1))
	p := producer(t, client.ProducerConfig{Config: b.Config(), Topic: "in"})
	if err := p.Produce(ctx(t), &kgo.Record{Value: []byte("v")}); err != nil {
		t.Fatal(err)
	}
	broken := errors.New("the database is away")
	times := 0
	cfg := client.TransformConfig{Config: b.Config(), Topics: []string{"in"}, Group: "g", OnAssigned: func(context.Context, map[string][]int32) error {
		if times++; times == 1 {
			return broken
		}
		return nil
	}}
	seen := 0
	stop := func(context.Context, *kgo.Record) ([]*kgo.Record, error) { seen++; return nil, client.ErrStop }
	if err := client.Transform(long(t), cfg, stop); err != nil || times != 2 || seen != 1 {
		t.Errorf("returned %v after %d assignments and %d records", err, times, seen)
	}
	cfg.Group, cfg.OnAssigned = "h", func(context.Context, map[string][]int32) error { return client.Permanent(broken) }
	if err := client.Transform(long(t), cfg, stop); !errors.Is(err, broken) || seen != 1 {
		t.Errorf("returned %v after %d records", err, seen)
	}
}

// What Run and Transform say when their contexts end.

package client_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/balsamq/balsa/brokertest"
	"github.com/balsamq/balsa/client"
)

// stopped writes records to in and lets work do them until it has begun the one in the middle, which goes by the context that ends: it returns
// what work does.
func stopped(t *testing.T, b *brokertest.Broker, in string, work func(ctx context.Context, h client.Handler) error) error {
	t.Helper()
	const n = 20
	p := producer(t, client.ProducerConfig{Config: b.Config(), Topic: in})
	for i := range n {
		if err := p.Produce(ctx(t), &kgo.Record{Key: []byte("k"), Value: []byte{byte(i)}}); err != nil {
			t.Fatal(err)
		}
	}
	run, stop := context.WithCancel(long(t))
	defer stop()
	var after atomic.Bool
	err := work(run, func(_ context.Context, r *kgo.Record) error {
		if r.Value[0] == n/2 {
			stop()
			return fmt.Errorf("half of it: %w", run.Err())
		}
		if r.Value[0] > n/2 {
			after.Store(true)
		}
		return nil
	})
	if after.Load() {
		t.Error("records were begun after that")
	}
	return err
}

// That the context ends is no failure, neither of Run nor of the record that was being processed; what was processed is committed.
func TestRunIsTold(t *testing.T) {
	t.Parallel()
	b := brokertest.Start(t, brokertest.Topic("dead", 1))
	a := must(client.NewAdmin(ctx(t), b.Config()))
	defer a.Close()
	for _, workers := range []int{1, 4} {
		for _, atEnd := range []bool{false, true} {
			name := fmt.Sprintf("in-%d-%t", workers, atEnd)
			if _, err := a.CreateTopic(ctx(t), client.TopicSpec{Name: name, Partitions: 1}); err != nil {
				t.Fatal(err)
			}
			err := stopped(t, b, name, func(run context.Context, h client.Handler) error {
				c := must(client.NewConsumer(ctx(t), client.ConsumerConfig{Config: b.Config(), Topics: []string{name}, Group: name, StopAtEnd: atEnd,
					Run: client.RunConfig{Concurrency: workers, Retry: client.RetryPolicy{Attempts: 1, DeadLetter: "dead"}}}))
				defer c.Close(context.Background())
				return c.Run(run, h)
			})
			switch {
			case !atEnd && err != nil:
				t.Errorf("%d at a time: told to end, Run returned %v", workers, err)
			case atEnd && !errors.Is(err, context.Canceled):
				t.Errorf("%d at a time: told to end before it was at the end, Run returned %v", workers, err)
			}
			if g, err := a.DescribeGroup(ctx(t), name); err != nil || len(g.Offsets) != 1 || g.Offsets[0].Offset != 10 {
				t.Errorf("%d at a time: committed is %+v, %v, want 10", workers, g.Offsets, err)
			}
		}
	}
	if got := outputs(t, b.Config(), "dead"); len(got) != 0 {
		t.Errorf("%q were put aside", got)
	}
	c := must(client.NewConsumer(ctx(t), client.ConsumerConfig{Config: b.Config(), Topics: []string{"dead"}}))
	defer c.Close(context.Background())
	if err := c.Run(ctx(t), nil); !errors.Is(err, client.ErrInvalid) {
		t.Errorf("without a handler: %v", err)
	}
}

// … and the same of Transform, which takes back what it has not finished.
func TestTransformIsTold(t *testing.T) {
	t.Parallel()
	b := brokertest.Start(t, brokertest.Topic("out", 1), brokertest.Topic("dead", 1))
	a := must(client.NewAdmin(ctx(t), b.Config()))
	defer a.Close()
	for _, workers := range []int{1, 4} {
		for _, atEnd := range []bool{false, true} {
			name := fmt.Sprintf("in-%d-%t", workers, atEnd)
			if _, err := a.CreateTopic(ctx(t), client.TopicSpec{Name: name, Partitions: 1}); err != nil {
				t.Fatal(err)
			}
			err := stopped(t, b, name, func(ctx context.Context, h client.Handler) error {
				return client.Transform(ctx, client.TransformConfig{Config: b.Config(), Topics: []string{name}, Group: name, Topic: "out", StopAtEnd: atEnd,
					Concurrency: workers, Retry: client.RetryPolicy{Attempts: 1, DeadLetter: "dead"}}, func(ctx context.Context, r *kgo.Record) ([]*kgo.Record, error) {
					return []*kgo.Record{copyOf(r)}, h(ctx, r)
				})
			})
			switch {
			case !atEnd && err != nil:
				t.Errorf("%d at a time: told to end, Transform returned %v", workers, err)
			case atEnd && !errors.Is(err, context.Canceled):
				t.Errorf("%d at a time: told to end before it was at the end, Transform returned %v", workers, err)
			}
		}
	}
	if got := outputs(t, b.Config(), "dead"); len(got) != 0 {
		t.Errorf("%q were put aside", got)
	}
	for _, v := range outputs(t, b.Config(), "out") { // of transactions before, if there were any
		if v[0] >= 10 {
			t.Errorf("record %d has an output", v[0])
		}
	}
}

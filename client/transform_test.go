// Transform against real brokers: outputs one to one with inputs, as seen by who reads what is committed.

package client_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/balsamq/balsa/broker"
	"github.com/balsamq/balsa/brokertest"
	"github.com/balsamq/balsa/client"
)

// keyed writes n records with values 0 to n-1 and keys k0 to k(keys-1) in turn.
func keyed(t *testing.T, cfg client.Config, topic string, n, keys int) {
	t.Helper()
	p := producer(t, client.ProducerConfig{Config: cfg, Topic: topic})
	for i := range n {
		p.ProduceAsync(long(t), &kgo.Record{Key: fmt.Append(nil, "k", i%keys), Value: []byte(strconv.Itoa(i))}, nil)
	}
	if err := p.Flush(long(t)); err != nil {
		t.Fatal(err)
	}
}

// byKey reads what is committed of a topic.
func byKey(t *testing.T, cfg client.Config, topic string) map[string][]string {
	t.Helper()
	settled(t, cfg, topic)
	c, err := client.NewConsumer(ctx(t), client.ConsumerConfig{Config: cfg, Topics: []string{topic}, StopAtEnd: true})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(context.Background())
	out := make(map[string][]string)
	if err := c.Each(long(t), func(r *kgo.Record) error {
		out[string(r.Key)] = append(out[string(r.Key)], string(r.Value))
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return out
}

// outputs reads what is committed of a topic.
func outputs(t *testing.T, cfg client.Config, topic string) []string {
	t.Helper()
	settled(t, cfg, topic)
	return drainAll(t, client.ConsumerConfig{Config: cfg, Topics: []string{topic}})
}

func copyOf(r *kgo.Record) *kgo.Record { return &kgo.Record{Key: r.Key, Value: r.Value} }

func TestTransform(t *testing.T) {
	b := brokertest.Start(t, brokertest.Topic("in", 3))
	keyed(t, b.Config(), "in", 3000, 50)
	for _, workers := range []int{1, 8} {
		t.Run(fmt.Sprint(workers, " at a time"), func(t *testing.T) {
			out, dead := fmt.Sprint("out", workers), fmt.Sprint("dead", workers)
			admin := must(client.NewAdmin(ctx(t), b.Config()))
			defer admin.Close()
			for _, topic := range []string{out, dead} {
				if _, err := admin.CreateTopic(ctx(t), client.TopicSpec{Name: topic, Partitions: 2}); err != nil {
					t.Fatal(err)
				}
			}
			var mu sync.Mutex
			tries := make(map[string]int)
			cfg := client.TransformConfig{Config: b.Config(), Topics: []string{"in"}, Topic: out, Group: out, Concurrency: workers, MaxRecords: 700, StopAtEnd: true,
				Retry: client.RetryPolicy{Attempts: 2, Backoff: time.Millisecond, DeadLetter: dead}}
			err := client.Transform(long(t), cfg, func(_ context.Context, r *kgo.Record) ([]*kgo.Record, error) {
				v := string(r.Value)
				mu.Lock()
				defer mu.Unlock()
				tries[v]++
				switch {
				case v == "1000": // never
					return []*kgo.Record{copyOf(r)}, errors.New("bad")
				case v == "2000": // the second time
					if tries[v] == 1 {
						return nil, errors.New("not yet")
					}
				case v == "2500": // no record for the cluster
					return []*kgo.Record{{Key: r.Key, Value: make([]byte, 3<<20)}}, nil
				case strings.HasSuffix(v, "7"): // dropped
					return nil, nil
				case strings.HasSuffix(v, "3"): // two of them
					return []*kgo.Record{copyOf(r), {Key: r.Key, Value: []byte(v + "b")}}, nil
				}
				return []*kgo.Record{copyOf(r)}, nil
			})
			if err != nil {
				t.Fatal(err)
			}
			want := make(map[string][]string)
			for i := range 3000 {
				k, v := fmt.Sprint("k", i%50), strconv.Itoa(i)
				switch {
				case i == 1000, i == 2500, i%10 == 7:
				case i%10 == 3:
					want[k] = append(want[k], v, v+"b")
				default:
					want[k] = append(want[k], v)
				}
			}
			got := byKey(t, b.Config(), out)
			for k, w := range want {
				if !slices.Equal(got[k], w) {
					t.Fatalf("key %s: %q, not %q", k, got[k], w)
				}
			}
			var aside []string
			for _, vs := range byKey(t, b.Config(), dead) {
				aside = append(aside, vs...)
			}
			if slices.Sort(aside); !slices.Equal(aside, []string{"1000", "2500"}) {
				t.Fatalf("the dead-letter topic has %q", aside)
			}
			// All of it is committed: the next one has nothing to do.
			if err := client.Transform(long(t), cfg, func(_ context.Context, r *kgo.Record) ([]*kgo.Record, error) {
				return nil, fmt.Errorf("%s comes again", r.Value)
			}); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// Without a dead-letter topic a record that fails ends the Transform. Of its transaction nothing is visible, and all of it comes again.
func TestTransformFails(t *testing.T) {
	b := brokertest.Start(t, brokertest.Topic("in", 1), brokertest.Topic("out", 1))
	fill(t, b.Config(), "in", 0, 50)
	for _, workers := range []int{1, 4} {
		cfg := client.TransformConfig{Config: b.Config(), Topics: []string{"in"}, Topic: "out", Group: fmt.Sprint("g", workers), Concurrency: workers, MaxRecords: 20,
			Retry: client.RetryPolicy{Attempts: 2, Backoff: time.Millisecond}}
		before := len(outputs(t, b.Config(), "out"))
		err := client.Transform(long(t), cfg, func(_ context.Context, r *kgo.Record) ([]*kgo.Record, error) {
			if string(r.Value) == "30" {
				return nil, errors.New("broken")
			}
			return []*kgo.Record{copyOf(r)}, nil
		})
		failed, ok := errors.AsType[*client.ProcessingError](err)
		if !ok || failed.Attempts != 2 || string(failed.Record.Value) != "30" {
			t.Fatal(err)
		}
		// A poll's records are a transaction, so where the last one begins is up to franz-go: at a multiple of the bound or below.
		got := outputs(t, b.Config(), "out")[before:]
		if len(got) > 30 || !slices.Equal(got, numbers(0, len(got))) {
			t.Fatalf("%q", got)
		}
		again := make(map[string]bool)
		var mu sync.Mutex
		if err := client.Transform(long(t), cfg, func(_ context.Context, r *kgo.Record) ([]*kgo.Record, error) {
			mu.Lock()
			defer mu.Unlock()
			if again[string(r.Value)] = true; len(again) == 50-len(got) {
				return []*kgo.Record{copyOf(r)}, client.ErrStop
			}
			return []*kgo.Record{copyOf(r)}, nil
		}); err != nil {
			t.Fatal(err)
		}
		if all := outputs(t, b.Config(), "out")[before:]; !slices.Equal(all, numbers(0, 50)) {
			t.Fatalf("in the end %q", all)
		}
	}
}

// A record that takes longer than a transaction may is found, and put aside.
func TestTransformTooSlow(t *testing.T) {
	t.Parallel()
	b := brokertest.Start(t, brokertest.Topic("in", 1), brokertest.Topic("out", 1), brokertest.Topic("dead", 1))
	fill(t, b.Config(), "in", 0, 8)
	cfg := client.TransformConfig{Config: b.Config(), Topics: []string{"in"}, Topic: "out", Group: "g", StopAtEnd: true, TransactionTimeout: 3 * time.Second, // the others take less
		Retry: client.RetryPolicy{DeadLetter: "dead"}}
	if err := client.Transform(long(t), cfg, func(ctx context.Context, r *kgo.Record) ([]*kgo.Record, error) {
		if string(r.Value) == "3" {
			<-ctx.Done()
			return nil, ctx.Err()
		}
		return []*kgo.Record{copyOf(r)}, nil
	}); err != nil {
		t.Fatal(err)
	}
	if got := outputs(t, b.Config(), "out"); !slices.Equal(got, slices.Concat(numbers(0, 3), numbers(4, 8))) {
		t.Fatalf("%q", got)
	}
	if got := outputs(t, b.Config(), "dead"); !slices.Equal(got, []string{"3"}) {
		t.Fatalf("the dead-letter topic has %q", got)
	}
}

// Where a group begins holds after an abort, too.
func TestTransformFrom(t *testing.T) {
	t.Parallel()
	b := brokertest.Start(t, brokertest.Topic("in", 1), brokertest.Topic("out", 1), brokertest.Topic("dead", 1))
	fill(t, b.Config(), "in", 0, 100)
	for i, tc := range starts {
		if tc.first == 100 {
			continue
		}
		before := len(outputs(t, b.Config(), "out"))
		err := client.Transform(long(t), client.TransformConfig{Config: b.Config(), Topics: []string{"in"}, Topic: "out", Group: fmt.Sprint("g", i), From: tc.start,
			StopAtEnd: true, Retry: client.RetryPolicy{DeadLetter: "dead"}}, func(_ context.Context, r *kgo.Record) ([]*kgo.Record, error) {
			if string(r.Value) == "99" { // the first transaction is aborted
				return []*kgo.Record{{Value: make([]byte, 3<<20)}}, nil
			}
			return []*kgo.Record{copyOf(r)}, nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if got := outputs(t, b.Config(), "out")[before:]; !slices.Equal(got, numbers(tc.first, 99)) {
			t.Fatalf("from %s: %q", tc.name, got)
		}
	}
}

func TestTransformIsFenced(t *testing.T) {
	b := brokertest.Start(t, brokertest.Topic("in", 2), brokertest.Topic("out", 1))
	fill(t, b.Config(), "in", 0, 10)
	cfg := client.TransformConfig{Config: b.Config(), Topics: []string{"in"}, Topic: "out", Group: "g", TransactionalID: "id"}
	first := make(chan error, 1)
	at, ended := make(chan struct{}, 100), make(chan struct{})
	go func() {
		first <- client.Transform(long(t), cfg, func(ctx context.Context, r *kgo.Record) ([]*kgo.Record, error) {
			at <- struct{}{}
			<-ended
			return []*kgo.Record{copyOf(r)}, nil
		})
	}()
	<-at
	cfg.Group = "another"
	cfg.StopAtEnd = true
	if err := client.Transform(long(t), cfg, func(_ context.Context, r *kgo.Record) ([]*kgo.Record, error) {
		return []*kgo.Record{copyOf(r)}, nil
	}); err != nil {
		t.Fatal(err)
	}
	close(ended)
	if err := <-first; !errors.Is(err, client.ErrFenced) {
		t.Fatal(err)
	}
	if got := outputs(t, b.Config(), "out"); !slices.Equal(got, numbers(0, 10)) {
		t.Fatalf("%q", got)
	}
	none := func(context.Context, *kgo.Record) ([]*kgo.Record, error) { return nil, nil }
	for _, cfg := range []client.TransformConfig{{Group: "g"}, {Topics: []string{"in"}}, {Group: "g", Topics: []string{"in"}, Concurrency: -1},
		{Group: "g", Topics: []string{"in"}, Retry: client.RetryPolicy{DeadLetter: "in"}},
		{Group: "g", Topics: []string{"in"}, Retry: client.RetryPolicy{Delayed: []client.DelayedRetry{{Topic: "later", Delay: time.Second}}}}} {
		cfg.Config = b.Config()
		if err := client.Transform(ctx(t), cfg, none); !errors.Is(err, client.ErrInvalid) {
			t.Errorf("%+v: %v", cfg, err)
		}
	}
	if err := client.Transform(ctx(t), client.TransformConfig{Config: b.Config(), Group: "g", Topics: []string{"in"}}, nil); !errors.Is(err, client.ErrInvalid) {
		t.Errorf("without a function: %v", err)
	}
	if err := client.Transform(ctx(t), client.TransformConfig{Config: b.Config(), Group: "g", Topics: []string{"no"}}, none); !errors.Is(err, client.ErrNotFound) {
		t.Errorf("a topic that is not there: %v", err)
	}
}

// Programs come, go and are torn away in the middle of transactions while brokers die one after the other: each input has one output, in
// order per key.
func TestTransformExactlyOnce(t *testing.T) {
	t.Parallel()
	c := brokertest.Cluster(t, 3, brokertest.Topic("in", 6), brokertest.Topic("out", 3), brokertest.Configure(func(_ int, cfg *broker.Config) {
		cfg.GroupConsumerHeartbeat, cfg.GroupConsumerSession = 200*time.Millisecond, 10*time.Second // partitions move at a heartbeat
	}))
	const keys = 40
	n := 6000
	if testing.Short() {
		n = 2000
	}
	keyed(t, c.Config(), "in", n/2, keys)
	all, finished := context.WithCancel(long(t))
	defer finished()
	var calls atomic.Int64
	program := func(ctx context.Context, grace time.Duration) error {
		return client.Transform(ctx, client.TransformConfig{Config: c.Config(), Topics: []string{"in"}, Topic: "out", Group: "g", Concurrency: 4, MaxRecords: 100,
			TransactionTimeout: 10 * time.Second, StopGrace: grace}, func(_ context.Context, r *kgo.Record) ([]*kgo.Record, error) {
			calls.Add(1)
			return []*kgo.Record{copyOf(r)}, nil
		})
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := program(all, time.Second); err != nil {
			t.Errorf("the program that stays: %v", err)
			finished()
		}
	})
	came := 0
	wg.Go(func() {
		for ; all.Err() == nil; came++ {
			ctx, leave := context.WithCancel(all)
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				if err := program(ctx, time.Nanosecond); err != nil && !errors.Is(err, context.Canceled) { // as it connected
					t.Errorf("a program that comes and goes: %v", err)
					finished()
				}
			}()
			for from := calls.Load(); all.Err() == nil && calls.Load() < from+int64(n/8); {
				select {
				case <-all.Done():
				case <-time.After(5 * time.Millisecond):
				}
			}
			leave()
			<-ended
		}
	})
	for id := 1; id <= 3 && all.Err() == nil; id++ {
		b := c.Broker(id)
		from := calls.Load()
		b.Kill()
		for all.Err() == nil && calls.Load() < from+int64(n/20) && calls.Load() < int64(n/2) {
			select {
			case <-all.Done():
			case <-time.After(5 * time.Millisecond):
			}
		}
		if err := b.Restart(long(t)); err != nil {
			t.Error(err)
			break
		}
	}
	p := producer(t, client.ProducerConfig{Config: c.Config(), Topic: "in"})
	for i := n / 2; i < n; i++ {
		p.ProduceAsync(long(t), &kgo.Record{Key: fmt.Append(nil, "k", i%keys), Value: []byte(strconv.Itoa(i))}, nil)
	}
	if err := p.Flush(long(t)); err != nil {
		t.Error(err)
	}
	// Until all outputs are there: more than one of an input would be there, too.
	out, err := client.NewConsumer(long(t), client.ConsumerConfig{Config: c.Config(), Topics: []string{"out"}})
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close(context.Background())
	seen := make(map[string]bool)
	if err := out.Each(all, func(r *kgo.Record) error {
		if seen[string(r.Value)] = true; len(seen) == n {
			return client.ErrStop
		}
		return nil
	}); err != nil {
		t.Errorf("%d of %d outputs: %v", len(seen), n, err)
	}
	finished()
	wg.Wait()
	got := byKey(t, c.Config(), "out")
	for k := range keys {
		var want []string
		for i := k; i < n; i += keys {
			want = append(want, strconv.Itoa(i))
		}
		if have := got[fmt.Sprint("k", k)]; !slices.Equal(have, want) {
			t.Errorf("key k%d has %q, not %q", k, have, want)
		}
	}
	t.Logf("%d programs came; %d calls for %d records", came, calls.Load(), n)
}

// Run against real brokers: order per key while members come and go, nothing lost, and what happens to records that fail.

package client_test

import (
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/balsamq/balsa/brokertest"
	"github.com/balsamq/balsa/client"
)

var runRecords = flag.Int("run-records", 20_000, "how many records TestRunKeepsOrderUnderRebalances processes; the full figure is 1000000")

func long(t *testing.T) context.Context {
	t.Helper()
	c, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	t.Cleanup(cancel)
	return c
}

// Members come and go while others work, several keys at a time each. Per key, the first time that each record is seen is in order, a record
// that is seen again is one that was in flight when its partition moved, and in the end each was seen.
func TestRunKeepsOrderUnderRebalances(t *testing.T) {
	const keys = 500
	b := brokertest.Start(t, brokertest.Topic("t", 8))
	n := *runRecords
	p := producer(t, client.ProducerConfig{Config: b.Config(), Topic: "t"})
	for i := range n {
		p.ProduceAsync(long(t), &kgo.Record{Key: fmt.Append(nil, i%keys), Value: binary.BigEndian.AppendUint64(nil, uint64(i/keys))}, nil)
	}
	if err := p.Flush(long(t)); err != nil {
		t.Fatal(err)
	}
	var (
		mu      sync.Mutex
		next    = make(map[string]uint64) // of each key: the record that must come next, if it is not an old one again
		busy    = make(map[string]bool)
		seen    int
		repeats int
	)
	all, finished := context.WithCancel(long(t))
	defer finished()
	member := func(ctx context.Context) error {
		c, err := client.NewConsumer(ctx, client.ConsumerConfig{Config: b.Config(), Topics: []string{"t"}, Group: "g", Run: client.RunConfig{Concurrency: 8}})
		if err != nil {
			return err
		}
		defer c.Close(context.Background())
		return c.Run(ctx, func(_ context.Context, r *kgo.Record) error {
			key, at := string(r.Key), binary.BigEndian.Uint64(r.Value)
			mu.Lock()
			defer mu.Unlock()
			if busy[key] {
				t.Errorf("two handlers have key %s at the same time", key)
			}
			busy[key] = true
			mu.Unlock()
			runtime.Gosched() // lets others in, if they can
			mu.Lock()
			busy[key] = false
			switch want := next[key]; {
			case at == want:
				next[key]++
				if seen++; seen == n {
					finished()
				}
			case at < want:
				repeats++
			default:
				t.Errorf("key %s: record %d came before %d", key, at, want)
			}
			return nil
		})
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := member(all); !errors.Is(err, context.Canceled) {
			t.Errorf("the member that stays: %v", err)
		}
	})
	for comes := 1; all.Err() == nil; comes++ {
		mu.Lock()
		from := seen
		mu.Unlock()
		ctx, leave := context.WithCancel(all)
		wg.Go(func() {
			if err := member(ctx); ctx.Err() == nil {
				t.Errorf("a member that comes and goes: %v", err)
				finished()
			}
		})
		for all.Err() == nil { // it leaves when a tenth has been done meanwhile
			mu.Lock()
			now := seen
			mu.Unlock()
			if now-from >= n/10 {
				break
			}
			select {
			case <-all.Done():
			case <-time.After(5 * time.Millisecond):
			}
		}
		leave()
		if all.Err() != nil {
			t.Logf("%d members came; %d records were seen again", comes, repeats)
		}
	}
	wg.Wait()
	mu.Lock()
	defer mu.Unlock()
	if seen != n {
		t.Fatalf("%d of %d records were processed", seen, n)
	}
}

// A record that fails is tried again, then later by way of its retry topic, then put aside; the others are not held up, and a restart sees
// none of them again.
func TestRunRetries(t *testing.T) {
	b := brokertest.Start(t, brokertest.Topic("t", 1), brokertest.Topic("later", 1), brokertest.Topic("dead", 1))
	for _, workers := range []int{1, 4} {
		t.Run(fmt.Sprint(workers, " at a time"), func(t *testing.T) {
			cfg := client.ConsumerConfig{Config: b.Config(), Topics: []string{"t"}, Group: fmt.Sprint("g", workers)}
			p := producer(t, client.ProducerConfig{Config: b.Config(), Topic: "t"})
			prefix := fmt.Sprint("w", workers, "-")
			for _, v := range []string{"good", "bad", "late", "never", "last"} {
				if err := p.Produce(ctx(t), &kgo.Record{Key: []byte(v), Value: []byte(prefix + v)}); err != nil {
					t.Fatal(err)
				}
			}
			cfg.Run = client.RunConfig{Concurrency: workers, Retry: client.RetryPolicy{Attempts: 2, Backoff: time.Millisecond,
				Delayed: []client.DelayedRetry{{Topic: "later", Delay: 20 * time.Millisecond}}, DeadLetter: "dead"}}
			c := must(client.NewConsumer(ctx(t), cfg))
			defer c.Close(context.Background())
			var mu sync.Mutex
			tries := make(map[string]int)
			done := make(map[string]bool)
			runCtx, enough := context.WithCancel(long(t))
			defer enough()
			err := c.Run(runCtx, func(_ context.Context, r *kgo.Record) error {
				mu.Lock()
				defer mu.Unlock()
				v, ours := string(r.Value), false
				for _, name := range []string{"good", "bad", "late", "never", "last"} {
					ours = ours || v == prefix+name
				}
				if !ours {
					return nil // of the other run
				}
				tries[v]++
				defer func() {
					if done[prefix+"good"] && done[prefix+"late"] && done[prefix+"last"] && tries[prefix+"bad"] == 4 {
						enough()
					}
				}()
				switch v {
				case prefix + "bad":
					return errors.New("bad")
				case prefix + "late":
					if r.Topic != "later" {
						return errors.New("not yet")
					}
				case prefix + "never":
					return client.Permanent(errors.New("never"))
				}
				done[v] = true
				return nil
			})
			mu.Lock()
			got := tries
			mu.Unlock()
			want := map[string]int{prefix + "good": 1, prefix + "bad": 4, prefix + "late": 3, prefix + "never": 1, prefix + "last": 1}
			if !errors.Is(err, context.Canceled) {
				t.Fatalf("Run ended with %v after %v", err, got)
			}
			for v, n := range want {
				if got[v] != n {
					t.Errorf("%s: %d attempts, want %d", v, got[v], n)
				}
			}
			dead := drainAll(t, client.ConsumerConfig{Config: b.Config(), Topics: []string{"dead"}})
			for _, v := range []string{"bad", "never"} {
				if !slices.Contains(dead, prefix+v) {
					t.Errorf("the dead-letter topic has %q, not %s", dead, prefix+v)
				}
			}
		})
	}
}

// Without a dead-letter topic a record that fails ends the Run, is named, and is there again afterwards, with all that follow.
func TestRunFailsWithoutLoss(t *testing.T) {
	b := brokertest.Start(t, brokertest.Topic("t", 1))
	fill(t, b.Config(), "t", 0, 50)
	cfg := client.ConsumerConfig{Config: b.Config(), Topics: []string{"t"}, Group: "g", StopAtEnd: true, Run: client.RunConfig{Retry: client.RetryPolicy{Attempts: 2, Backoff: time.Millisecond}}}
	run := func(bad string) (got []string, err error) {
		c := must(client.NewConsumer(ctx(t), cfg))
		err = c.Run(long(t), func(_ context.Context, r *kgo.Record) error {
			if string(r.Value) == bad {
				return errors.New("broken")
			}
			got = append(got, string(r.Value))
			return nil
		})
		if bad != "" {
			if _, err := c.Poll(ctx(t), 1); !errors.Is(err, client.ErrClosed) {
				t.Errorf("a consumer that has skipped records goes on: %v", err)
			}
		}
		if err := c.Close(ctx(t)); err != nil {
			t.Fatal(err)
		}
		return got, err
	}
	got, err := run("20")
	failed, ok := errors.AsType[*client.ProcessingError](err)
	if !ok || failed.Attempts != 2 || string(failed.Record.Value) != "20" || !slices.Equal(got, numbers(0, 20)) {
		t.Fatalf("%v, %v", got, err)
	}
	if got, err = run(""); err != nil || !slices.Equal(got, numbers(20, 50)) {
		t.Fatalf("afterwards: %v, %v", got, err)
	}
}

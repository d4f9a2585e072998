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
	"strings"
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
		if err := member(all); err != nil {
			t.Errorf("the member that stays: %v", err)
		}
	})
	came := 0
	for ; all.Err() == nil; came++ {
		mu.Lock()
		from := seen
		mu.Unlock()
		ctx, leave := context.WithCancel(all)
		wg.Go(func() {
			if err := member(ctx); err != nil && !errors.Is(err, context.Canceled) || ctx.Err() == nil {
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
	}
	wg.Wait() // no handler runs from here on
	t.Logf("%d members came; %d records were seen again", came, repeats)
	if seen != n {
		t.Fatalf("%d of %d records were processed", seen, n)
	}
}

// asideHook has none of franz-go's interfaces.
type asideHook struct {
	ours string // beginning of values

	mu sync.Mutex // guards to
	to map[string]int
}

func (h *asideHook) OnPutAside(r *kgo.Record, to string, _ int, _ error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if strings.HasPrefix(string(r.Value), h.ours) {
		h.to[to]++
	}
}

// A record that fails is tried again, then later by way of its retry topic, then put aside; the others are not held up, and a restart sees
// none of them again.
func TestRunRetries(t *testing.T) {
	b := brokertest.Start(t, brokertest.Topic("t", 1), brokertest.Topic("later", 1), brokertest.Topic("dead", 1))
	for _, workers := range []int{1, 4} {
		t.Run(fmt.Sprint(workers, " at a time"), func(t *testing.T) {
			cfg := client.ConsumerConfig{Config: b.Config(), Topics: []string{"t"}, Group: fmt.Sprint("g", workers)}
			hook := &asideHook{ours: fmt.Sprint("w", workers, "-"), to: make(map[string]int)}
			cfg.Hooks = append(cfg.Hooks, hook)
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
			if err != nil {
				t.Fatalf("Run ended with %v after %v", err, got)
			}
			for v, n := range want {
				if got[v] != n {
					t.Errorf("%s: %d attempts, want %d", v, got[v], n)
				}
			}
			reader := must(client.NewConsumer(ctx(t), client.ConsumerConfig{Config: b.Config(), Topics: []string{"dead"}, StopAtEnd: true}))
			defer reader.Close(context.Background())
			why := make(map[string]client.PutAside)
			if err := reader.Each(long(t), func(r *kgo.Record) error {
				p, ok := client.PutAsideOf(r)
				if !ok {
					t.Errorf("a dead letter says nothing of itself: %v", r.Headers)
				}
				why[string(r.Value)] = p
				return nil
			}); err != nil {
				t.Fatal(err)
			}
			for v, attempts := range map[string]int{"bad": 4, "never": 1} {
				p := why[prefix+v]
				if p.Topic != "t" || p.Partition != 0 || p.Attempts != attempts || p.Error != v || p.Offset < 1 || time.Since(p.Time) > time.Hour {
					t.Errorf("the dead letter %s says %+v", v, p)
				}
			}
			hook.mu.Lock()
			defer hook.mu.Unlock()
			if hook.to["later"] != 2 || hook.to["dead"] != 2 {
				t.Errorf("the hook was told of %v", hook.to)
			}
		})
	}
}

func TestPutAsideOf(t *testing.T) {
	headers := func(change func(map[string]string)) (r kgo.Record) {
		all := map[string]string{client.HeaderTopic: "t", client.HeaderPartition: "3", client.HeaderOffset: "7", client.HeaderTimestamp: "1000", client.HeaderAttempts: "2",
			client.HeaderError: "why", "own": "x"}
		change(all)
		for k, v := range all {
			r.Headers = append(r.Headers, kgo.RecordHeader{Key: k, Value: []byte(v)})
		}
		return r
	}
	r := headers(func(map[string]string) {})
	want := client.PutAside{Topic: "t", Partition: 3, Offset: 7, Time: time.UnixMilli(1000), Attempts: 2, Error: "why"}
	if p, ok := client.PutAsideOf(&r); !ok || p != want {
		t.Errorf("%+v, %v", p, ok)
	}
	for what, change := range map[string]func(map[string]string){
		"nothing":         func(m map[string]string) { clear(m) },
		"one is missing":  func(m map[string]string) { delete(m, client.HeaderError) },
		"no number":       func(m map[string]string) { m[client.HeaderOffset] = "seven" },
		"no such number":  func(m map[string]string) { m[client.HeaderPartition] = "4294967296" },
		"an empty number": func(m map[string]string) { m[client.HeaderTimestamp] = "" },
	} {
		r := headers(change)
		if p, ok := client.PutAsideOf(&r); ok || p != (client.PutAside{}) {
			t.Errorf("%s: %+v, %v", what, p, ok)
		}
	}
	r = headers(func(m map[string]string) { delete(m, client.HeaderError) })
	r.Headers = append(r.Headers, kgo.RecordHeader{Key: client.HeaderTopic, Value: []byte("t")})
	if p, ok := client.PutAsideOf(&r); ok {
		t.Errorf("one twice and one missing: %+v", p)
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

// Callbacks that records carry while they are under way: nobody but franz-go sees that.

package client_test

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/balsamq/balsa/client"
)

type contextKey string

// odd is a context that == would panic for.
type odd struct {
	context.Context
	_ []int
}

// A record has the context in its callback that it was given with, whether many have the same one or none other; its own, if it came with one; and
// those that a hook sees on the way are these, too.
func TestCallbackContexts(t *testing.T) {
	_, cfg := fake(t, kfake.SeedTopics(2, "t"))
	all := context.WithValue(ctx(t), contextKey("of"), "all")
	own := context.WithValue(ctx(t), contextKey("of"), "one")
	var atHook atomic.Int64
	hooked := cfg
	hooked.Hooks = []kgo.Hook{bufferedHook(func(r *kgo.Record) {
		if r.Context.Value(contextKey("of")) != nil {
			atHook.Add(1)
		}
	})}
	for _, cfg := range []client.Config{cfg, hooked} {
		p := producer(t, client.ProducerConfig{Config: cfg, Topic: "t"})
		const n = 300
		var told, wrong atomic.Int64
		for i := range n {
			r, given := &kgo.Record{}, all
			switch i % 4 {
			case 1:
				given = context.WithValue(all, contextKey("n"), i)
			case 2:
				r.Context = own
			case 3:
				given = odd{Context: all}
			}
			want := any("all")
			if r.Context != nil {
				want = "one"
			}
			p.ProduceAsync(given, r, func(back *kgo.Record, err error) {
				told.Add(1)
				_, isOdd := back.Context.(odd)
				if err != nil || back != r || back.Context.Value(contextKey("of")) != want || i%4 == 1 && back.Context.Value(contextKey("n")) != i || isOdd != (i%4 == 3) {
					wrong.Add(1)
				}
			})
		}
		if err := p.Flush(ctx(t)); err != nil {
			t.Fatal(err)
		}
		if told.Load() != n || wrong.Load() > 0 {
			t.Errorf("%d callbacks of %d, %d wrongly", told.Load(), n, wrong.Load())
		}
	}
	if atHook.Load() != 300 {
		t.Errorf("a hook saw the contexts of %d records", atHook.Load())
	}
}

type bufferedHook func(*kgo.Record)

func (h bufferedHook) OnProduceRecordBuffered(r *kgo.Record) { h(r) }

// A callback may hand its record over again, and others; a context that ends is the outcome of those that have it; without one it is nobody's.
func TestCallbackHandsOver(t *testing.T) {
	_, cfg := fake(t, kfake.SeedTopics(1, "t"))
	p := producer(t, client.ProducerConfig{Config: cfg, Topic: "t"})
	bound := ctx(t)
	done := make(chan error, 2)
	var (
		offsets [3]int64
		none    context.Context
	)
	p.ProduceAsync(bound, &kgo.Record{}, func(r *kgo.Record, err error) {
		offsets[0] = r.Offset
		p.ProduceAsync(bound, r, func(r *kgo.Record, again error) {
			offsets[1] = r.Offset
			done <- errors.Join(err, again)
		})
		p.ProduceAsync(none, &kgo.Record{}, func(r *kgo.Record, err error) { // which franz-go takes for Background
			if offsets[2] = r.Offset; r.Context == nil {
				err = errors.Join(err, errors.New("the record has no context"))
			}
			done <- err
		})
	})
	for range 2 {
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	if offsets != [3]int64{0, 1, 2} {
		t.Fatalf("written at %v", offsets)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	p.ProduceAsync(ended, &kgo.Record{Topic: "unknown"}, func(r *kgo.Record, err error) {
		if r.Context != ended {
			err = errors.Join(err, errors.New("another context"))
		}
		done <- err
	})
	if err := <-done; !errors.Is(err, context.Canceled) || strings.Contains(err.Error(), "another") {
		t.Fatalf("with a context that has ended: %v", err)
	}
}

// Who changes a record while it is under way may lose its callback, and is told so.
func TestCallbackLost(t *testing.T) {
	c, cfg := fake(t, kfake.SeedTopics(1, "t"))
	hold, held := make(chan struct{}), make(chan struct{})
	c.ControlKey(int16(kmsg.Produce), func(kmsg.Request) (kmsg.Response, error, bool) {
		close(held)
		<-hold
		return nil, nil, false
	})
	p := producer(t, client.ProducerConfig{Config: cfg, Topic: "t"})
	r := &kgo.Record{}
	p.ProduceAsync(ctx(t), r, func(*kgo.Record, error) { t.Error("the callback was called") })
	select {
	case <-held:
	case <-time.After(time.Minute):
		t.Fatal("nothing was written")
	}
	r.Context = context.Background()
	close(hold)
	if err := p.Flush(ctx(t)); err == nil || !strings.Contains(err.Error(), "was changed") || !errors.Is(err, client.ErrInvalid) {
		t.Fatalf("Flush: %v", err)
	}
}

// The producer adds no allocation to that of a record's callback, where the context is one that many have.
func TestCallbackAllocations(t *testing.T) {
	_, cfg := fake(t, kfake.SeedTopics(1, "t"))
	p := producer(t, client.ProducerConfig{Config: cfg, Topic: "t", Linger: time.Minute})
	p.ProduceAsync(ctx(t), &kgo.Record{}, nil)
	if err := p.Flush(ctx(t)); err != nil { // now it knows the topic
		t.Fatal(err)
	}
	const n = 5000
	var (
		bound   = ctx(t)
		records = make([]kgo.Record, n+1)
		next    = 0
		told    atomic.Int64
	)
	allocations := testing.AllocsPerRun(n, func() {
		r := &records[next]
		next++
		p.ProduceAsync(bound, r, func(back *kgo.Record, err error) {
			if back == r && err == nil {
				told.Add(1)
			}
		})
	})
	if allocations > 1 { // rounded down: franz-go's own are far less than one for each
		t.Errorf("%v allocations for each record, of which one is the callback", allocations)
	}
	if err := p.Flush(bound); err != nil || told.Load() != n+1 {
		t.Fatalf("%d callbacks of %d, %v", told.Load(), n+1, err)
	}
}

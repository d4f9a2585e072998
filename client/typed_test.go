// Typed messages through real brokers, and what becomes of those that are none.

package client_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/balsamq/balsa/brokertest"
	"github.com/balsamq/balsa/client"
	"github.com/balsamq/balsa/client/serde"
)

type order struct {
	Planks int `json:"planks"`
}

var orders = client.Codec[string, order]{Key: serde.String(), Value: serde.JSON[order]()}

func TestTyped(t *testing.T) {
	b := brokertest.Start(t, brokertest.Topic("orders", 1), brokertest.Topic("dead", 1), brokertest.Topic("big", 1))
	raw := producer(t, client.ProducerConfig{Config: b.Config(), Topic: "orders"})
	p := client.NewTypedProducer(raw, orders)
	type message = client.Message[string, order]
	if err := p.Send(ctx(t), message{Key: "a", Value: order{1}}, message{Key: "b", Value: order{2}, Record: &kgo.Record{Headers: []kgo.RecordHeader{{Key: "h"}}}}); err != nil {
		t.Fatal(err)
	}
	if err := raw.Produce(ctx(t), &kgo.Record{Key: []byte("c"), Value: []byte("no JSON")}, &kgo.Record{Key: []byte("d")}); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	if err := p.SendAsync(ctx(t), message{Key: "e", Value: order{30}}, func(_ *kgo.Record, err error) { done <- err }); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}

	// The iterator: what is no order comes with an error, and the next one after it.
	c := client.NewTypedConsumer(consumer(t, client.ConsumerConfig{Config: b.Config(), Topics: []string{"orders"}, StopAtEnd: true}), orders)
	var got []string
	for m, err := range c.Messages(ctx(t)) {
		bad, ok := errors.AsType[*client.DecodeError](err)
		switch {
		case ok && bad.Part == "value" && string(bad.Record.Key) == "c" && m.Record == bad.Record:
			got = append(got, "bad")
		case err != nil:
			t.Fatal(err)
		case m.Record.Value == nil:
			got = append(got, m.Key+" is gone")
		default:
			got = append(got, fmt.Sprint(m.Key, m.Value.Planks, len(m.Record.Headers)))
		}
	}
	want := []string{"a1 0", "b2 1", "bad", "d is gone", "e30 0"}
	for i := range want {
		if i >= len(got) || got[i] != want[i] {
			t.Fatalf("%q, not %q", got, want)
		}
	}

	// Run: it goes to the dead-letter topic, and the handler never sees it.
	c = client.NewTypedConsumer(consumer(t, client.ConsumerConfig{Config: b.Config(), Topics: []string{"orders"}, Group: "g", StopAtEnd: true,
		Run: client.RunConfig{Retry: client.RetryPolicy{Attempts: 3, Backoff: time.Hour, DeadLetter: "dead"}}}), orders)
	got = nil
	if err := c.RunMessages(long(t), func(_ context.Context, m message) error {
		got = append(got, m.Key)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(got, []string{"a", "b", "d", "e"}) {
		t.Fatalf("%q", got)
	}
	if dead := outputs(t, b.Config(), "dead"); !slices.Equal(dead, []string{"no JSON"}) {
		t.Fatalf("%q", dead)
	}

	// Transform: so does it, and other types come out.
	big := client.Codec[string, string]{Key: serde.String(), Value: serde.String()}
	if err := client.Transform(long(t), client.TransformConfig{Config: b.Config(), Topics: []string{"orders"}, Topic: "big", Group: "h", StopAtEnd: true,
		Retry: client.RetryPolicy{Backoff: time.Hour, DeadLetter: "dead"}},
		client.TypedTransform(orders, big, func(_ context.Context, m message) ([]client.Message[string, string], error) {
			if m.Value.Planks < 10 {
				return nil, nil
			}
			return []client.Message[string, string]{{Key: m.Key, Value: fmt.Sprint(m.Value.Planks, " planks")}}, nil
		})); err != nil {
		t.Fatal(err)
	}
	if got := outputs(t, b.Config(), "big"); !slices.Equal(got, []string{"30 planks"}) {
		t.Fatalf("%q", got)
	}
	if dead := outputs(t, b.Config(), "dead"); len(dead) != 2 {
		t.Fatalf("%q", dead)
	}
}

// flaky cannot decode the first time, as with a registry that does not answer.
type flaky struct {
	mu    sync.Mutex
	tries int
}

func (*flaky) Encode(context.Context, string) ([]byte, error) {
	return nil, fmt.Errorf("the registry: %w", serde.ErrUnavailable)
}

func (f *flaky) Decode(_ context.Context, data []byte) (string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.tries++; f.tries == 1 {
		return "", fmt.Errorf("the registry: %w", serde.ErrUnavailable)
	}
	return string(data), nil
}

// A serde that cannot do its work now is tried again: nothing is put aside for that.
func TestTypedUnavailable(t *testing.T) {
	b := brokertest.Start(t, brokertest.Topic("t", 1), brokertest.Topic("dead", 1))
	fill(t, b.Config(), "t", 0, 3)
	codec := client.Codec[[]byte, string]{Value: new(flaky)}
	c := client.NewTypedConsumer(consumer(t, client.ConsumerConfig{Config: b.Config(), Topics: []string{"t"}, Group: "g", StopAtEnd: true,
		Run: client.RunConfig{Retry: client.RetryPolicy{Backoff: time.Millisecond, DeadLetter: "dead"}}}), codec)
	var got []string
	if err := c.RunMessages(long(t), func(_ context.Context, m client.Message[[]byte, string]) error {
		got = append(got, m.Value)
		return nil
	}); err != nil || !slices.Equal(got, numbers(0, 3)) {
		t.Fatalf("%q, %v", got, err)
	}
	p := client.NewTypedProducer(producer(t, client.ProducerConfig{Config: b.Config(), Topic: "t"}), codec)
	if err := p.Send(ctx(t), client.Message[[]byte, string]{Value: "x"}); !errors.Is(err, client.ErrUnreachable) || !errors.Is(err, serde.ErrUnavailable) {
		t.Fatal(err)
	}
}

// A codec that lacks what a message needs is not one that sends empty records.
func TestTypedWithoutSerdes(t *testing.T) {
	_, cfg := fake(t, kfake.SeedTopics(1, "t"))
	raw := producer(t, client.ProducerConfig{Config: cfg, Topic: "t"})
	type (
		codec   = client.Codec[string, int]
		message = client.Message[string, int]
	)
	for _, tc := range []struct {
		codec codec
		m     message
		want  string
	}{
		{codec{}, message{Key: "k", Value: 1}, "neither for keys nor for values"},
		{codec{}, message{}, "neither for keys nor for values"},
		{codec{Key: serde.String()}, message{Key: "k", Value: 1}, "the value of a record"},
		{codec{Value: serde.JSON[int]()}, message{Key: "k", Value: 1}, "the key of a record"},
		{codec{Value: serde.JSON[int]()}, message{Value: 1, Record: &kgo.Record{Key: []byte("own")}}, ""},
		{codec{Key: serde.String()}, message{Key: "gone"}, ""},
	} {
		err := client.NewTypedProducer(raw, tc.codec).Send(ctx(t), tc.m)
		if tc.want == "" && err != nil || tc.want != "" && (!errors.Is(err, client.ErrInvalid) || !strings.Contains(err.Error(), tc.want)) {
			t.Errorf("%+v: %v, want %q", tc, err, tc.want)
		}
	}
	c := client.NewTypedConsumer(consumer(t, client.ConsumerConfig{Config: cfg, Topics: []string{"t"}}), codec{})
	if err := c.RunMessages(ctx(t), func(context.Context, message) error { return nil }); !errors.Is(err, client.ErrInvalid) {
		t.Errorf("RunMessages: %v", err)
	}
	for _, err := range c.Messages(ctx(t)) { // once
		if !errors.Is(err, client.ErrInvalid) {
			t.Errorf("Messages: %v", err)
		}
	}
	for what, made := range map[string]func(){
		"Handler":        func() { codec{}.Handler(nil) },
		"TypedTransform": func() { client.TypedTransform[string, int, string, int](codec{Key: serde.String()}, codec{}, nil) },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s takes a codec without serdes", what)
				}
			}()
			made()
		}()
	}
}

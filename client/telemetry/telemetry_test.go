// Telemetry against a real broker: a trace goes through topics, handlers and dead letters; metrics count what has happened.

package telemetry_test

import (
	"context"
	"errors"
	"maps"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/balsamq/balsa/brokertest"
	"github.com/balsamq/balsa/client"
	"github.com/balsamq/balsa/client/telemetry"
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func TestTraceAndMetrics(t *testing.T) {
	b := brokertest.Start(t, brokertest.Topic("in", 1), brokertest.Topic("out", 1), brokertest.Topic("dead", 1))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	spans := tracetest.NewInMemoryExporter()
	tp := trace.NewTracerProvider(trace.WithSyncer(spans))
	reader := metric.NewManualReader()
	tel := must(telemetry.New(telemetry.Config{TracerProvider: tp, MeterProvider: metric.NewMeterProvider(metric.WithReader(reader)), Group: "g"}))
	cfg := b.Config()
	cfg.Hooks = []kgo.Hook{tel}

	p := must(client.NewProducer(ctx, client.ProducerConfig{Config: cfg, Topic: "in"}))
	defer p.Close(ctx)
	order, root := tp.Tracer("test").Start(ctx, "order")
	if err := p.Produce(order, &kgo.Record{Value: []byte("good")}); err != nil {
		t.Fatal(err)
	}
	root.End()
	if err := p.Produce(ctx, &kgo.Record{Value: []byte("bad")}); err != nil {
		t.Fatal(err)
	}
	if err := client.Transform(ctx, client.TransformConfig{Config: cfg, Topics: []string{"in"}, Topic: "out", Group: "g", StopAtEnd: true,
		Retry: client.RetryPolicy{Attempts: 2, Backoff: time.Millisecond, DeadLetter: "dead"}},
		tel.Transform(func(ctx context.Context, r *kgo.Record) ([]*kgo.Record, error) {
			if string(r.Value) == "bad" {
				return nil, errors.New("bad")
			}
			return []*kgo.Record{{Value: r.Value}}, nil
		})); err != nil {
		t.Fatal(err)
	}
	for _, topic := range []string{"out", "dead"} {
		c := must(client.NewConsumer(ctx, client.ConsumerConfig{Config: cfg, Topics: []string{topic}, Group: topic + "-group"}))
		if err := c.Run(ctx, tel.Handler(func(ctx context.Context, r *kgo.Record) error { return client.ErrStop })); err != nil {
			t.Fatal(err)
		}
		if err := c.Close(ctx); err != nil {
			t.Fatal(err)
		}
	}

	// The path of each trace: from the test's span through both topics.
	all := spans.GetSpans()
	parent := make(map[string]string)
	name := make(map[string]string)
	for _, s := range all {
		name[s.SpanContext.SpanID().String()] = s.Name
		parent[s.SpanContext.SpanID().String()] = s.Parent.SpanID().String()
	}
	paths := make(map[string]int)
	for _, s := range all {
		if s.Name != "process out" && s.Name != "process dead" {
			continue
		}
		path := ""
		for id := s.SpanContext.SpanID().String(); name[id] != ""; id = parent[id] {
			path = name[id] + " > " + path
		}
		paths[path]++
	}
	want := map[string]int{
		"order > send in > process in > send out > process out > ": 1,
		"send in > send dead > process dead > ":                    1,
	}
	if !maps.Equal(paths, want) {
		t.Errorf("traces %v, not %v", paths, want)
	}

	var rm metricdata.ResourceMetrics
	if err := reader.Collect(ctx, &rm); err != nil {
		t.Fatal(err)
	}
	count := func(metric, attr, value string) (n int64) {
		for _, sm := range rm.ScopeMetrics {
			for _, m := range sm.Metrics {
				if m.Name != metric {
					continue
				}
				has := func(s attribute.Set) bool {
					v, ok := s.Value(attribute.Key(attr))
					return attr == "" || ok && v.String() == value
				}
				switch d := m.Data.(type) {
				case metricdata.Sum[int64]:
					for _, p := range d.DataPoints {
						if has(p.Attributes) {
							n += p.Value
						}
					}
				case metricdata.Histogram[float64]:
					for _, p := range d.DataPoints {
						if has(p.Attributes) {
							n += int64(p.Count)
						}
					}
				}
			}
		}
		return n
	}
	for _, tc := range []struct {
		metric, attr, value string
		least, most         int64
	}{
		{"messaging.client.sent.messages", "messaging.destination.name", "in", 2, 2},
		{"messaging.client.sent.messages", "messaging.destination.name", "dead", 1, 1},
		{"messaging.client.consumed.messages", "messaging.destination.name", "in", 2, 10},
		{"messaging.client.operation.duration", "messaging.operation.name", "send", 2, 100},
		{"messaging.client.operation.duration", "messaging.operation.name", "poll", 2, 1000},
		{"messaging.process.duration", "messaging.consumer.group.name", "g", 5, 5},
		{"messaging.process.duration", "error.type", "*errors.errorString", 2, 2},
		{"balsa.client.failed.attempts", "messaging.destination.name", "in", 2, 2},
		{"balsa.client.put.aside", "balsa.put.aside.to", "dead", 1, 1},
		{"balsa.client.transaction.duration", "balsa.transaction.outcome", "committed", 1, 2},
	} {
		if n := count(tc.metric, tc.attr, tc.value); n < tc.least || n > tc.most {
			t.Errorf("%s of %s %s is %d, not %d to %d", tc.metric, tc.attr, tc.value, n, tc.least, tc.most)
		}
	}
}

package telemetry_test

import (
	"context"
	"fmt"
	"log"

	"github.com/twmb/franz-go/pkg/kgo"
	"go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	oteltrace "go.opentelemetry.io/otel/trace"

	"github.com/balsamq/balsa/brokertest"
	"github.com/balsamq/balsa/client"
	"github.com/balsamq/balsa/client/telemetry"
)

// One trace from who writes a record to who processes it.
func ExampleTelemetry() {
	b, err := brokertest.New(context.Background(), 1, brokertest.Topic("orders", 1))
	if err != nil {
		log.Fatal(err)
	}
	defer b.Close()
	ctx := context.Background()
	tp := trace.NewTracerProvider(trace.WithSyncer(tracetest.NewInMemoryExporter()))
	cfg := b.Config()

	tel, err := telemetry.New(telemetry.Config{TracerProvider: tp, Group: "billing"})
	if err != nil {
		log.Fatal(err)
	}
	cfg.Hooks = append(cfg.Hooks, tel)

	p, err := client.NewProducer(ctx, client.ProducerConfig{Config: cfg, Topic: "orders"})
	if err != nil {
		log.Fatal(err)
	}
	defer p.Close(ctx)
	span, order := tp.Tracer("shop").Start(ctx, "order")
	if err := p.Produce(span, &kgo.Record{Value: []byte("two planks")}); err != nil {
		log.Fatal(err)
	}
	c, err := client.NewConsumer(ctx, client.ConsumerConfig{Config: cfg, Topics: []string{"orders"}, Group: "billing"})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close(ctx)
	bill := func(ctx context.Context, r *kgo.Record) error {
		fmt.Println("the same trace:", oteltrace.SpanContextFromContext(ctx).TraceID() == order.SpanContext().TraceID())
		return client.ErrStop
	}

	err = c.Run(ctx, tel.Handler(bill))
	if err != nil {
		log.Fatal(err)
	}
	// Output: the same trace: true
}

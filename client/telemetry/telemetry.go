// Package telemetry is OpenTelemetry for package client: traces that go on from who wrote a record to who processes it, by way of the record's
// headers, and metrics.
//
//	tel, err := telemetry.New(telemetry.Config{TracerProvider: tp, MeterProvider: mp})
//	…
//	cfg.Hooks = append(cfg.Hooks, tel)                  // of producers, consumers, transformations
//	err = consumer.Run(ctx, tel.Handler(bill))
//	err = client.Transform(ctx, tcfg, tel.Transform(enrich))
//
// A span "send TOPIC" begins when a record is handed over and ends with its fate; its context goes into the record's headers. A span "process
// TOPIC" is one call of a handler, whose context carries it: what the handler writes and asks becomes part of the trace. There is no span for
// the fetch of a record: a fetch is of many.
//
// Metrics, by OpenTelemetry's conventions for messaging where they have one:
//
//	messaging.client.sent.messages        records written, or not (error.type), by topic
//	messaging.client.consumed.messages    records fetched, markers of transactions included, by topic
//	messaging.client.operation.duration   seconds of requests to produce and to fetch
//	messaging.process.duration            seconds of handlers, by topic and error.type
//	balsa.client.failed.attempts          calls of handlers that failed, by topic
//	balsa.client.put.aside                records that went to a retry or dead-letter topic, by topic and where to
//	balsa.client.transaction.duration     seconds of transactions, by outcome: committed, aborted, failed
package telemetry

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/balsamq/balsa/client"
)

const (
	scope = "github.com/balsamq/balsa/client"
	// MaxTopics bounds the topics that metrics tell apart. Those beyond it are "other".
	MaxTopics = 1000
)

// Config says where telemetry goes.
type Config struct {
	// TracerProvider and MeterProvider default to OpenTelemetry's global ones.
	TracerProvider trace.TracerProvider
	MeterProvider  metric.MeterProvider
	// Propagator writes the context of a trace into headers and reads it there. Nil: W3C's trace context and baggage.
	Propagator propagation.TextMapPropagator
	// Group is the consumer group, for attributes of what is processed.
	Group string
}

// Telemetry is a hook for client.Config.Hooks, and wraps handlers. It is safe for concurrent use, and may be shared by several clients.
type Telemetry struct {
	tracer trace.Tracer
	prop   propagation.TextMapPropagator
	group  []attribute.KeyValue

	sent, consumed, failed, aside           metric.Int64Counter
	operation, process, transaction         metric.Float64Histogram
	send, fetch                             metric.MeasurementOption
	sentTo, consumedOf, failedOf, processOf perTopic
}

var (
	_ kgo.HookProduceRecordBuffered   = (*Telemetry)(nil)
	_ kgo.HookProduceRecordUnbuffered = (*Telemetry)(nil)
	_ kgo.HookFetchBatchRead          = (*Telemetry)(nil)
	_ kgo.HookBrokerE2E               = (*Telemetry)(nil)
	_ client.HookAttemptFailed        = (*Telemetry)(nil)
	_ client.HookPutAside             = (*Telemetry)(nil)
	_ client.HookTransactionEnd       = (*Telemetry)(nil)
)

// New makes the instruments.
func New(cfg Config) (*Telemetry, error) {
	if cfg.TracerProvider == nil {
		cfg.TracerProvider = otel.GetTracerProvider()
	}
	if cfg.MeterProvider == nil {
		cfg.MeterProvider = otel.GetMeterProvider()
	}
	if cfg.Propagator == nil {
		cfg.Propagator = propagation.NewCompositeTextMapPropagator(propagation.TraceContext{}, propagation.Baggage{})
	}
	t := &Telemetry{tracer: cfg.TracerProvider.Tracer(scope), prop: cfg.Propagator}
	if cfg.Group != "" {
		t.group = []attribute.KeyValue{attribute.String("messaging.consumer.group.name", cfg.Group)}
	}
	m := cfg.MeterProvider.Meter(scope)
	var errs []error
	counter := func(name, unit, what string) metric.Int64Counter {
		c, err := m.Int64Counter(name, metric.WithUnit(unit), metric.WithDescription(what))
		errs = append(errs, err)
		return c
	}
	seconds := func(name, what string) metric.Float64Histogram {
		h, err := m.Float64Histogram(name, metric.WithUnit("s"), metric.WithDescription(what),
			metric.WithExplicitBucketBoundaries(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10))
		errs = append(errs, err)
		return h
	}
	t.sent = counter("messaging.client.sent.messages", "{message}", "Records that were written, or could not be.")
	t.consumed = counter("messaging.client.consumed.messages", "{message}", "Records that were fetched.")
	t.operation = seconds("messaging.client.operation.duration", "How long requests to produce and to fetch took.")
	t.process = seconds("messaging.process.duration", "How long handlers took.")
	t.failed = counter("balsa.client.failed.attempts", "{attempt}", "Calls of handlers that failed.")
	t.aside = counter("balsa.client.put.aside", "{message}", "Records that went to a retry or dead-letter topic.")
	t.transaction = seconds("balsa.client.transaction.duration", "How long transactions took.")
	t.send = metric.WithAttributeSet(t.attributes("", "send", "send"))
	t.fetch = metric.WithAttributeSet(t.attributes("", "poll", "receive"))
	t.sentTo = perTopic{make: func(topic string) attribute.Set { return t.attributes(topic, "send", "send") }}
	t.consumedOf = perTopic{make: func(topic string) attribute.Set { return t.attributes(topic, "poll", "receive", t.group...) }}
	t.failedOf = perTopic{make: func(topic string) attribute.Set { return t.attributes(topic, "process", "process", t.group...) }}
	t.processOf = perTopic{make: func(topic string) attribute.Set { return t.attributes(topic, "process", "process", t.group...) }}
	return t, errors.Join(errs...)
}

func (t *Telemetry) attributes(topic, name, kind string, more ...attribute.KeyValue) attribute.Set {
	kvs := append([]attribute.KeyValue{attribute.String("messaging.system", "kafka"), attribute.String("messaging.operation.name", name),
		attribute.String("messaging.operation.type", kind)}, more...)
	if topic != "" {
		kvs = append(kvs, attribute.String("messaging.destination.name", topic))
	}
	return attribute.NewSet(kvs...)
}

// perTopic is a set of attributes for each topic, made once.
type perTopic struct {
	make  func(topic string) attribute.Set
	n     atomic.Int64
	known sync.Map // topic → metric.MeasurementOption
}

func (p *perTopic) of(topic string) metric.MeasurementOption {
	if o, ok := p.known.Load(topic); ok {
		return o.(metric.MeasurementOption)
	}
	if p.n.Load() >= MaxTopics {
		topic = "other"
	}
	o, loaded := p.known.LoadOrStore(topic, metric.WithAttributeSet(p.make(topic)))
	if !loaded {
		p.n.Add(1)
	}
	return o.(metric.MeasurementOption)
}

// errorType is what kind of error it is, in few words that are always the same.
func errorType(err error) attribute.KeyValue {
	kind := fmt.Sprintf("%T", err)
	if ke, ok := errors.AsType[*kerr.Error](err); ok {
		kind = ke.Message
	} else if errors.Is(err, context.Canceled) {
		kind = "canceled"
	} else if errors.Is(err, context.DeadlineExceeded) {
		kind = "timeout"
	}
	return attribute.String("error.type", kind)
}

// headers carries a trace's context in a record's headers.
type headers struct{ r *kgo.Record }

func (h headers) Get(key string) string {
	for i := len(h.r.Headers) - 1; i >= 0; i-- {
		if h.r.Headers[i].Key == key {
			return string(h.r.Headers[i].Value)
		}
	}
	return ""
}

func (h headers) Set(key, value string) {
	for i := range h.r.Headers {
		if h.r.Headers[i].Key == key {
			h.r.Headers[i].Value = []byte(value)
			return
		}
	}
	h.r.Headers = append(h.r.Headers, kgo.RecordHeader{Key: key, Value: []byte(value)})
}

func (h headers) Keys() []string {
	keys := make([]string, len(h.r.Headers))
	for i := range h.r.Headers {
		keys[i] = h.r.Headers[i].Key
	}
	return keys
}

// OnProduceRecordBuffered begins a record's span.
func (t *Telemetry) OnProduceRecordBuffered(r *kgo.Record) {
	ctx := r.Context
	if ctx == nil {
		ctx = context.Background()
	}
	if !trace.SpanContextFromContext(ctx).IsValid() { // of a record that is put aside, say: it keeps its trace
		ctx = t.prop.Extract(ctx, headers{r})
	}
	ctx, _ = t.tracer.Start(ctx, "send "+r.Topic, trace.WithSpanKind(trace.SpanKindProducer), trace.WithAttributes(
		attribute.String("messaging.system", "kafka"), attribute.String("messaging.operation.name", "send"), attribute.String("messaging.operation.type", "send"),
		attribute.String("messaging.destination.name", r.Topic), attribute.Int("messaging.message.body.size", len(r.Value))))
	t.prop.Inject(ctx, headers{r})
	r.Context = ctx
}

// OnProduceRecordUnbuffered ends it.
func (t *Telemetry) OnProduceRecordUnbuffered(r *kgo.Record, err error) {
	span := trace.SpanFromContext(r.Context)
	if err != nil {
		span.SetStatus(codes.Error, err.Error())
		span.SetAttributes(errorType(err))
		t.sent.Add(r.Context, 1, t.sentTo.of(r.Topic), metric.WithAttributes(errorType(err)))
	} else {
		span.SetAttributes(attribute.Int("messaging.destination.partition.id", int(r.Partition)), attribute.Int64("messaging.kafka.offset", r.Offset))
		t.sent.Add(r.Context, 1, t.sentTo.of(r.Topic))
	}
	span.End()
}

// OnFetchBatchRead counts a batch's records.
func (t *Telemetry) OnFetchBatchRead(_ kgo.BrokerMetadata, topic string, _ int32, m kgo.FetchBatchMetrics) {
	t.consumed.Add(context.Background(), int64(m.NumRecords), t.consumedOf.of(topic))
}

// OnBrokerE2E measures requests to produce and to fetch.
func (t *Telemetry) OnBrokerE2E(_ kgo.BrokerMetadata, key int16, e2e kgo.BrokerE2E) {
	opt := t.send
	switch key {
	case 0:
	case 1:
		opt = t.fetch
	default:
		return
	}
	opts := []metric.RecordOption{opt}
	if err := e2e.Err(); err != nil {
		opts = append(opts, metric.WithAttributes(errorType(err)))
	}
	t.operation.Record(context.Background(), e2e.DurationE2E().Seconds(), opts...)
}

// OnAttemptFailed counts failures of handlers.
func (t *Telemetry) OnAttemptFailed(r *kgo.Record, _ int, _ error) {
	t.failed.Add(context.Background(), 1, t.failedOf.of(r.Topic))
}

// OnPutAside counts records that are put aside.
func (t *Telemetry) OnPutAside(r *kgo.Record, to string, _ int, _ error) {
	t.aside.Add(context.Background(), 1, t.failedOf.of(r.Topic), metric.WithAttributes(attribute.String("balsa.put.aside.to", to)))
}

// OnTransactionEnd measures transactions.
func (t *Telemetry) OnTransactionEnd(committed bool, took time.Duration, err error) {
	outcome := "committed"
	switch {
	case err != nil:
		outcome = "failed"
	case !committed:
		outcome = "aborted"
	}
	t.transaction.Record(context.Background(), took.Seconds(), metric.WithAttributes(attribute.String("balsa.transaction.outcome", outcome)))
}

// Handler makes each call of a handler a span, and measures it.
func (t *Telemetry) Handler(h client.Handler) client.Handler {
	return func(ctx context.Context, r *kgo.Record) error {
		ctx, end := t.begin(ctx, r)
		err := h(ctx, r)
		end(err)
		return err
	}
}

// Transform does the same for [client.Transform]. What the function returns belongs to its span.
func (t *Telemetry) Transform(fn client.TransformFunc) client.TransformFunc {
	return func(ctx context.Context, r *kgo.Record) ([]*kgo.Record, error) {
		ctx, end := t.begin(ctx, r)
		outs, err := fn(ctx, r)
		end(err)
		for _, out := range outs {
			if out.Context == nil {
				out.Context = trace.ContextWithSpanContext(context.Background(), trace.SpanContextFromContext(ctx))
			}
		}
		return outs, err
	}
}

func (t *Telemetry) begin(ctx context.Context, r *kgo.Record) (context.Context, func(error)) {
	began := time.Now()
	ctx = t.prop.Extract(ctx, headers{r})
	ctx, span := t.tracer.Start(ctx, "process "+r.Topic, trace.WithSpanKind(trace.SpanKindConsumer), trace.WithAttributes(t.group...), trace.WithAttributes(
		attribute.String("messaging.system", "kafka"), attribute.String("messaging.operation.name", "process"), attribute.String("messaging.operation.type", "process"),
		attribute.String("messaging.destination.name", r.Topic), attribute.Int("messaging.destination.partition.id", int(r.Partition)),
		attribute.Int64("messaging.kafka.offset", r.Offset), attribute.Int("messaging.message.body.size", len(r.Value))))
	return ctx, func(err error) {
		took := time.Since(began).Seconds()
		if err != nil && !errors.Is(err, client.ErrStop) {
			span.SetStatus(codes.Error, err.Error())
			span.SetAttributes(errorType(err))
			t.process.Record(ctx, took, t.processOf.of(r.Topic), metric.WithAttributes(errorType(err)))
		} else {
			t.process.Record(ctx, took, t.processOf.of(r.Topic))
		}
		span.End()
	}
}

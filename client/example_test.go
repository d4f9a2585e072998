// The examples of the package's documentation and of README.md. Each has a broker of its own, and what it prints is checked.

package client_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sr"
	"github.com/twmb/franz-go/pkg/sr/srfake"

	"github.com/balsamq/balsa/brokertest"
	"github.com/balsamq/balsa/client"
	"github.com/balsamq/balsa/client/serde"
	"github.com/balsamq/balsa/client/serde/avro"
	"github.com/balsamq/balsa/client/serde/registry"
)

// start starts a broker for an example.
func start(topics ...string) (cfg client.Config, stop func()) {
	var opts []brokertest.Option
	for _, t := range topics {
		opts = append(opts, brokertest.Topic(t, 1))
	}
	c, err := brokertest.New(context.Background(), 1, opts...)
	if err != nil {
		log.Fatal(err)
	}
	return c.Config(), func() { _ = c.Close() }
}

// write writes records to a topic, "key=value" each.
func write(cfg client.Config, topic string, records ...string) {
	ctx := context.Background()
	p, err := client.NewProducer(ctx, client.ProducerConfig{Config: cfg, Topic: topic})
	if err != nil {
		log.Fatal(err)
	}
	defer p.Close(ctx)
	for i, r := range records {
		k, v, _ := strings.Cut(r, "=")
		if err := p.Produce(ctx, &kgo.Record{Key: []byte(k), Value: []byte(v), Timestamp: time.Date(2026, 11, 1, 12, i, 0, 0, time.UTC)}); err != nil {
			log.Fatal(err)
		}
	}
}

// show prints the values of n records that are committed in a topic.
func show(cfg client.Config, topic string, n int) {
	ctx := context.Background()
	c, err := client.NewConsumer(ctx, client.ConsumerConfig{Config: cfg, Topics: []string{topic}})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close(ctx)
	for r, err := range c.Records(ctx) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%s: %s\n", topic, r.Value)
		if n--; n == 0 {
			break
		}
	}
}

// A producer with its default settings: every record is on the disks of a majority when Produce returns.
func ExampleProducer() {
	cfg, stop := start("orders")
	defer stop()
	ctx := context.Background()

	p, err := client.NewProducer(ctx, client.ProducerConfig{Config: cfg, Topic: "orders"})
	if err != nil {
		log.Fatal(err)
	}
	defer p.Close(ctx)
	r := &kgo.Record{Key: []byte("customer-7"), Value: []byte("two planks")}
	if err := p.Produce(ctx, r); err != nil {
		log.Fatal(err)
	}
	fmt.Println("written to partition", r.Partition, "at offset", r.Offset)
	// Output: written to partition 0 at offset 0
}

// Many records at a time. The callback learns of each one's fate; without one, Flush and Close return the first failure.
func ExampleProducer_ProduceAsync() {
	cfg, stop := start("orders")
	defer stop()
	ctx := context.Background()

	p, err := client.NewProducer(ctx, client.ProducerConfig{Config: cfg, Topic: "orders", Compression: client.CompressionZstd})
	if err != nil {
		log.Fatal(err)
	}
	for i := range 10_000 {
		p.ProduceAsync(ctx, &kgo.Record{Value: fmt.Appendf(nil, "order %d", i)}, nil)
	}
	if err := p.Close(ctx); err != nil { // waits for all of them
		log.Fatal(err)
	}
	fmt.Println("all are written")
	// Output: all are written
}

// What kind of failure it is, and Kafka's own code for it.
func ExampleError() {
	cfg, stop := start("orders")
	defer stop()
	ctx := context.Background()

	_, err := client.NewConsumer(ctx, client.ConsumerConfig{Config: cfg, Topics: []string{"ordres"}})
	switch {
	case errors.Is(err, client.ErrNotFound):
		fmt.Println("not found:", err)
	case errors.Is(err, client.ErrUnreachable), errors.Is(err, client.ErrTimeout):
		fmt.Println("try again later")
	}
	// Output: not found: look up topic ordres: UNKNOWN_TOPIC_OR_PARTITION: This server does not host this topic-partition.
}

// Work: several records at a time, in order per key, each committed after it was processed. What fails is tried again, and put aside in the
// end.
func ExampleConsumer_Run() {
	cfg, stop := start("orders", "orders-dead")
	defer stop()
	write(cfg, "orders", "customer-7=two planks", "customer-8=no planks", "customer-7=a box")
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	bill := func(r *kgo.Record) error {
		if strings.HasPrefix(string(r.Value), "no ") {
			return client.Permanent(errors.New("nothing to bill"))
		}
		fmt.Printf("bill %s for %s\n", r.Key, r.Value)
		if string(r.Value) == "a box" {
			cancel()
		}
		return nil
	}

	c, err := client.NewConsumer(ctx, client.ConsumerConfig{Config: cfg, Topics: []string{"orders"}, Group: "billing",
		Run: client.RunConfig{
			Concurrency: 8,
			Retry:       client.RetryPolicy{Attempts: 5, DeadLetter: "orders-dead"},
		}})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close(context.Background())
	err = c.Run(ctx, func(ctx context.Context, r *kgo.Record) error {
		return bill(r) // nil: done. Otherwise it is tried again, and in the end goes to orders-dead
	})
	if err != nil { // nil: ctx has ended
		log.Fatal(err)
	}
	show(cfg, "orders-dead", 1)
	// Unordered output:
	// bill customer-7 for two planks
	// bill customer-7 for a box
	// orders-dead: no planks
}

// Scripts: all that is there, and no more.
func ExampleConsumer_Records() {
	cfg, stop := start("orders")
	defer stop()
	write(cfg, "orders", "a=two planks", "b=a box")
	ctx := context.Background()

	c, err := client.NewConsumer(ctx, client.ConsumerConfig{Config: cfg, Topics: []string{"orders"}, StopAtEnd: true})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close(ctx)
	for r, err := range c.Records(ctx) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%s/%d offset %d: %s\n", r.Topic, r.Partition, r.Offset, r.Value)
	}
	// Output:
	// orders/0 offset 0: two planks
	// orders/0 offset 1: a box
}

// Going back to a moment, and how far behind the consumer is then.
func ExampleConsumer_Seek() {
	cfg, stop := start("orders")
	defer stop()
	write(cfg, "orders", "a=at noon", "b=a minute later", "c=two minutes later")
	ctx := context.Background()
	c, err := client.NewConsumer(ctx, client.ConsumerConfig{Config: cfg, Topics: []string{"orders"}})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close(ctx)

	since := time.Date(2026, 11, 1, 12, 0, 30, 0, time.UTC)
	if err := c.Seek(ctx, "orders", 0, client.FromTime(since)); err != nil {
		log.Fatal(err)
	}
	records, err := c.Poll(ctx, 1)
	if err != nil {
		log.Fatal(err)
	}
	lag, err := c.Lag(ctx)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s; %d to come\n", records[0].Value, lag[0].Records())
	// Output: a minute later; 1 to come
}

// Without a group, from where the program wants, until now.
func ExampleConsumer_Poll() {
	cfg, stop := start("orders")
	defer stop()
	write(cfg, "orders", "a=one", "b=two", "c=three")
	ctx := context.Background()
	c, err := client.NewConsumer(ctx, client.ConsumerConfig{Config: cfg, StopAtEnd: true,
		Partitions: map[string]map[int32]client.Start{"orders": {0: client.FromOffset(1)}}})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close(ctx)
	for {
		records, err := c.Poll(ctx, 500)
		if err != nil {
			break // io.EOF at the end
		}
		fmt.Println(len(records), "records")
	}
	// Output: 2 records
}

// Records that become visible together.
func ExampleProducer_Transact() {
	cfg, stop := start("orders", "stock")
	defer stop()
	ctx := context.Background()

	p, err := client.NewProducer(ctx, client.ProducerConfig{Config: cfg, TransactionalID: "shop-1"})
	if err != nil {
		log.Fatal(err)
	}
	defer p.Close(ctx)
	err = p.Transact(ctx, func(tx *client.Tx) error {
		return tx.Produce(
			&kgo.Record{Topic: "orders", Key: []byte("customer-7"), Value: []byte("two planks")},
			&kgo.Record{Topic: "stock", Key: []byte("plank"), Value: []byte("-2")},
		)
	})
	switch {
	case err == nil: // both are written
	case errors.Is(err, client.ErrAborted): // none is: try again
	case errors.Is(err, client.ErrFenced): // none is: another shop-1 runs
	case errors.Is(err, client.ErrUnknownOutcome): // both or none
	default: // none is, and trying again does not help
		log.Fatal(err)
	}
	show(cfg, "orders", 1)
	show(cfg, "stock", 1)
	// Output:
	// orders: two planks
	// stock: -2
}

// From topics to topics, exactly once.
func ExampleTransform() {
	cfg, stop := start("orders", "invoices", "orders-dead")
	defer stop()
	write(cfg, "orders", "customer-7=two planks", "customer-7=a box", "customer-8=end")
	ctx := context.Background()

	err := client.Transform(ctx, client.TransformConfig{Config: cfg,
		Topics: []string{"orders"}, Group: "invoicing", Topic: "invoices",
		Retry: client.RetryPolicy{DeadLetter: "orders-dead"},
	}, func(ctx context.Context, r *kgo.Record) ([]*kgo.Record, error) {
		if string(r.Value) == "end" {
			return nil, client.ErrStop
		}
		return []*kgo.Record{{Key: r.Key, Value: append([]byte("invoice for "), r.Value...)}}, nil
	})
	if err != nil {
		log.Fatal(err)
	}
	show(cfg, "invoices", 2)
	// Output:
	// invoices: invoice for two planks
	// invoices: invoice for a box
}

// Keys and values with types. What cannot be decoded goes to the dead-letter topic at once.
func ExampleCodec() {
	cfg, stop := start("orders", "orders-dead")
	defer stop()
	ctx := context.Background()
	producer, err := client.NewProducer(ctx, client.ProducerConfig{Config: cfg, Topic: "orders"})
	if err != nil {
		log.Fatal(err)
	}
	defer producer.Close(ctx)
	consumer, err := client.NewConsumer(ctx, client.ConsumerConfig{Config: cfg, Topics: []string{"orders"}, Group: "billing"})
	if err != nil {
		log.Fatal(err)
	}
	defer consumer.Close(ctx)

	type Order struct {
		Planks int `json:"planks"`
	}
	type Message = client.Message[string, Order]
	codec := client.Codec[string, Order]{Key: serde.String(), Value: serde.JSON[Order]()}

	p := client.NewTypedProducer(producer, codec)
	if err := p.Send(ctx, Message{Key: "customer-7", Value: Order{Planks: 2}}); err != nil {
		log.Fatal(err)
	}
	c := client.NewTypedConsumer(consumer, codec)
	err = c.RunMessages(ctx, func(ctx context.Context, m Message) error {
		fmt.Println(m.Key, "wants", m.Value.Planks, "planks, says the record at offset", m.Record.Offset)
		return client.ErrStop
	})
	if err != nil {
		log.Fatal(err)
	}
	// Output: customer-7 wants 2 planks, says the record at offset 0
}

// Avro by schemas in a registry: readers with another version of the schema understand the writer's.
func ExampleCodec_registry() {
	fake := srfake.New() // stands for the registry
	defer fake.Close()
	url := fake.URL()
	ctx := context.Background()

	type Order struct {
		Planks int `avro:"planks"`
	}
	reg, err := sr.NewClient(sr.URLs(url))
	if err != nil {
		log.Fatal(err)
	}
	values, err := avro.Registered[Order](registry.Subject{Registry: reg, Name: "orders-value"})
	if err != nil {
		log.Fatal(err)
	}
	codec := client.Codec[string, Order]{Key: serde.String(), Value: values}
	r, err := codec.Encode(ctx, client.Message[string, Order]{Key: "customer-7", Value: Order{Planks: 2}})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%x\n", r.Value)
	// Output: 000000000104
}

// A topic that may be there already, and where a group is.
func ExampleAdmin() {
	cfg, stop := start()
	defer stop()
	ctx := context.Background()

	a, err := client.NewAdmin(ctx, cfg)
	if err != nil {
		log.Fatal(err)
	}
	defer a.Close()
	topic, err := a.CreateTopic(ctx, client.TopicSpec{Name: "orders", Partitions: 6, Configs: map[string]string{"retention.ms": "604800000"}})
	if err != nil && !errors.Is(err, client.ErrExists) {
		log.Fatal(err)
	}
	fmt.Println(topic.Name, "has", len(topic.Partitions), "partitions")
	groups, err := a.ListGroups(ctx, nil, nil)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(len(groups), "groups")
	// Output:
	// orders has 6 partitions
	// 0 groups
}

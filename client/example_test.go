package client_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/balsamq/balsa/client"
)

// A producer with its default settings: every record is on the disks of a majority when Produce returns.
func ExampleProducer() {
	ctx := context.Background()
	p, err := client.NewProducer(ctx, client.ProducerConfig{Topic: "orders"})
	if err != nil {
		log.Fatal(err)
	}
	defer p.Close(ctx)

	r := &kgo.Record{Key: []byte("customer-7"), Value: []byte("two planks")}
	if err := p.Produce(ctx, r); err != nil {
		log.Fatal(err)
	}
	fmt.Println("written to partition", r.Partition, "at offset", r.Offset)
}

// Many records at a time: the callback learns of each one's fate.
func ExampleProducer_ProduceAsync() {
	ctx := context.Background()
	p, err := client.NewProducer(ctx, client.ProducerConfig{
		Config:      client.Config{Brokers: []string{"broker-1:9092", "broker-2:9092"}},
		Topic:       "orders",
		Compression: client.CompressionZstd,
		Linger:      5 * time.Millisecond,
	})
	if err != nil {
		log.Fatal(err)
	}
	for i := range 100_000 {
		p.ProduceAsync(ctx, &kgo.Record{Value: fmt.Appendf(nil, "order %d", i)}, func(r *kgo.Record, err error) {
			if err != nil {
				log.Printf("%s was not written: %v", r.Value, err)
			}
		})
	}
	if err := p.Close(ctx); err != nil { // waits for all of them
		log.Fatal(err)
	}
}

// A member of a group: what one run has processed the next does not see again.
func ExampleConsumer_Each() {
	ctx := context.Background()
	c, err := client.NewConsumer(ctx, client.ConsumerConfig{Topics: []string{"orders"}, Group: "billing"})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close(ctx)

	err = c.Each(ctx, func(r *kgo.Record) error {
		fmt.Printf("%s/%d offset %d: %s\n", r.Topic, r.Partition, r.Offset, r.Value)
		return nil // the record counts as processed
	})
	if err != nil {
		log.Fatal(err)
	}
}

// Without a group: two partitions, each from where the program wants, until now.
func ExampleConsumer_Poll() {
	ctx := context.Background()
	c, err := client.NewConsumer(ctx, client.ConsumerConfig{
		Partitions: map[string]map[int32]client.Start{
			"orders": {0: client.FromOffset(1200), 1: client.FromTime(time.Now().Add(-time.Hour))},
		},
		StopAtEnd: true,
	})
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
}

// A topic that may be there already.
func ExampleAdmin_CreateTopic() {
	ctx := context.Background()
	a, err := client.NewAdmin(ctx, client.Config{})
	if err != nil {
		log.Fatal(err)
	}
	defer a.Close()
	_, err = a.CreateTopic(ctx, client.TopicSpec{Name: "orders", Partitions: 6, Replicas: 3})
	if err != nil && !errors.Is(err, client.ErrExists) {
		log.Fatal(err)
	}
}

// Work: eight records at a time, in order per key, each committed after it was processed. What fails is tried again, and put aside in the end.
func ExampleConsumer_Run() {
	ctx := context.Background()
	c, err := client.NewConsumer(ctx, client.ConsumerConfig{
		Topics: []string{"orders"}, Group: "billing",
		Run: client.RunConfig{Concurrency: 8, Retry: client.RetryPolicy{DeadLetter: "orders-dead"}},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close(ctx)
	err = c.Run(ctx, func(ctx context.Context, r *kgo.Record) error {
		fmt.Printf("bill %s\n", r.Value)
		return nil
	})
	if err != nil {
		log.Fatal(err)
	}
}

// Orders: a pipeline of three programs on two topics.
//
//	shop ──orders──▶ billing ──invoices──▶ shipping
//	                    └──▶ orders-rejected
//
// The shop writes orders with typed keys and values. Billing makes an invoice of each one, exactly once, and puts aside what is no order.
// Shipping packs a parcel for each invoice, several customers at a time, each customer's in the order in which they were placed. On its own
// cluster the example kills a broker in the middle, which nobody should notice.
//
//	go run ./examples/orders
package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"golang.org/x/sync/errgroup"

	"github.com/balsamq/balsa/client"
	"github.com/balsamq/balsa/client/serde"
	"github.com/balsamq/balsa/examples/internal/demo"
)

const (
	orderCount = 600
	customers  = 12
	killAfter  = orderCount / 3 // parcels
)

// Order is what the shop writes, keyed by customer.
type Order struct {
	Number   int    `json:"number"`
	Item     string `json:"item"`
	Quantity int    `json:"quantity"`
	Cents    int    `json:"cents"` // for one
}

// Invoice is what billing makes of it.
type Invoice struct {
	Order int `json:"order"`
	Cents int `json:"cents"`
}

var (
	orderCodec   = client.Codec[string, Order]{Key: serde.String(), Value: serde.JSON[Order]()}
	invoiceCodec = client.Codec[string, Invoice]{Key: serde.String(), Value: serde.JSON[Invoice]()}
)

func main() {
	demo.Main(demo.Example{Name: "orders", What: "An order pipeline: a shop, billing (exactly once) and shipping (in order per customer).", Brokers: 3, Run: run})
}

// order is the nth one. Every 50th asks for nothing, which billing refuses.
func order(n int) client.Message[string, Order] {
	o := Order{Number: n, Item: []string{"plank", "mast", "oar"}[n%3], Quantity: n % 50, Cents: 100 + n}
	return client.Message[string, Order]{Key: fmt.Sprintf("customer-%d", n%customers), Value: o}
}

func run(ctx context.Context, d *demo.Demo) error {
	if err := d.Create(ctx,
		client.TopicSpec{Name: d.Name("orders"), Partitions: 4},
		client.TopicSpec{Name: d.Name("orders-rejected"), Partitions: 1},
		client.TopicSpec{Name: d.Name("invoices"), Partitions: 4},
	); err != nil {
		return err
	}
	parcels := newParcels()
	working, stop := context.WithCancel(ctx) // until all parcels are packed
	defer stop()
	g, working := errgroup.WithContext(working)
	g.Go(func() error { return shop(working, d) })
	g.Go(func() error { return billing(working, d) })
	g.Go(func() error {
		defer stop()
		return shipping(working, d, parcels)
	})
	g.Go(func() error { return killABroker(working, d, parcels) })
	if err := g.Wait(); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return check(ctx, d, parcels)
}

// shop writes the orders, and one record that is none.
func shop(ctx context.Context, d *demo.Demo) error {
	raw, err := client.NewProducer(ctx, client.ProducerConfig{Config: d.Config, Topic: d.Name("orders")})
	if err != nil {
		return err
	}
	defer raw.Close(ctx)
	p := client.NewTypedProducer(raw, orderCodec)
	for n := range orderCount {
		if err := p.SendAsync(ctx, order(n), nil); err != nil {
			return err
		}
		if n == orderCount/2 {
			p.ProduceAsync(ctx, &kgo.Record{Key: []byte("customer-0"), Value: []byte("two planks, please")}, nil)
		}
		if n%20 == 19 {
			if err := p.Flush(ctx); err != nil { // all so far are on the disks of a majority
				return err
			}
		}
	}
	if err := p.Close(ctx); err != nil {
		return err
	}
	d.Say("The shop has taken %d orders of %d customers, and somebody wrote a line that is no order.", orderCount, customers)
	return nil
}

// billing makes invoices. Whatever happens to it or to the brokers, who reads what is committed sees one invoice for each order.
func billing(ctx context.Context, d *demo.Demo) error {
	return client.Transform(ctx, client.TransformConfig{
		Config: d.Config,
		Topics: []string{d.Name("orders")}, Group: d.Name("billing"), Topic: d.Name("invoices"),
		MaxRecords: 50, // small transactions, so that parcels are packed while orders still come in
		Retry:      client.RetryPolicy{DeadLetter: d.Name("orders-rejected")},
	}, client.TypedTransform(orderCodec, invoiceCodec, func(_ context.Context, m client.Message[string, Order]) ([]client.Message[string, Invoice], error) {
		o := m.Value
		if o.Quantity < 1 {
			return nil, client.Permanent(fmt.Errorf("order %d is for %d of %s", o.Number, o.Quantity, o.Item))
		}
		return []client.Message[string, Invoice]{{Key: m.Key, Value: Invoice{Order: o.Number, Cents: o.Quantity * o.Cents}}}, nil
	}))
}

// shipping packs parcels: at least once for each invoice, so that it looks first whether it has packed one.
func shipping(ctx context.Context, d *demo.Demo, parcels *parcels) error {
	raw, err := client.NewConsumer(ctx, client.ConsumerConfig{
		Config: d.Config, Topics: []string{d.Name("invoices")}, Group: d.Name("shipping"),
		Run: client.RunConfig{Concurrency: 8},
	})
	if err != nil {
		return err
	}
	defer raw.Close(context.WithoutCancel(ctx))
	c := client.NewTypedConsumer(raw, invoiceCodec)
	return c.RunMessages(ctx, func(_ context.Context, m client.Message[string, Invoice]) error {
		time.Sleep(time.Millisecond) // the work
		if parcels.pack(m.Key, m.Value) == wanted {
			return client.ErrStop
		}
		return nil
	})
}

// killABroker kills the leader of a partition, as kill -9 does, once a third of the parcels is packed.
func killABroker(ctx context.Context, d *demo.Demo, parcels *parcels) error {
	if d.Own == nil {
		return nil // not on somebody else's cluster
	}
	select {
	case <-parcels.third:
	case <-ctx.Done():
		return nil
	}
	leader, err := d.Own.Leader(ctx, d.Name("invoices"), 0)
	if err != nil {
		return err
	}
	leader.Kill()
	d.Say("Broker %d, which led invoices/0, was killed with %d parcels packed.", leader.ID(), killAfter)
	return nil
}

// parcels is what shipping remembers.
type parcels struct {
	third chan struct{} // closed when a third is packed

	mu         sync.Mutex // guards what follows
	byCustomer map[string][]Invoice
	packed     map[int]bool // by the order's number
	repeated   int
}

func newParcels() *parcels {
	return &parcels{third: make(chan struct{}), byCustomer: make(map[string][]Invoice), packed: make(map[int]bool)}
}

// pack returns how many parcels there are now.
func (p *parcels) pack(customer string, i Invoice) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.packed[i.Order] {
		p.repeated++
		return len(p.packed)
	}
	p.packed[i.Order] = true
	p.byCustomer[customer] = append(p.byCustomer[customer], i)
	if len(p.packed) == killAfter {
		close(p.third)
	}
	return len(p.packed)
}

// wanted is how many orders are for something.
var wanted = func() (n int) {
	for i := range orderCount {
		if order(i).Value.Quantity > 0 {
			n++
		}
	}
	return n
}()

// check compares what was packed and put aside with what was ordered.
func check(ctx context.Context, d *demo.Demo, p *parcels) error {
	cents := 0
	for customer, invoices := range p.byCustomer {
		last := -1
		for _, i := range invoices {
			o := order(i.Order)
			if o.Key != customer || i.Cents != o.Value.Quantity*o.Value.Cents {
				return fmt.Errorf("%s has got an invoice of %d cents for order %d", customer, i.Cents, i.Order)
			}
			if i.Order < last {
				return fmt.Errorf("order %d of %s was packed after order %d", i.Order, customer, last)
			}
			last = i.Order
			cents += i.Cents
		}
	}
	d.Say("Shipping has packed %d parcels worth %d.%02d, each customer's in order (%d came again and were known).", len(p.packed), cents/100, cents%100, p.repeated)

	c, err := client.NewConsumer(ctx, client.ConsumerConfig{Config: d.Config, Topics: []string{d.Name("orders-rejected")}, StopAtEnd: true})
	if err != nil {
		return err
	}
	defer c.Close(ctx)
	rejected, lines := 0, 0
	for m, err := range client.NewTypedConsumer(c, orderCodec).Messages(ctx) {
		if m.Record == nil {
			return err // of the connection, not of a record
		}
		rejected++
		if err != nil {
			lines++
		} else if m.Value.Quantity > 0 {
			return fmt.Errorf("order %d was rejected", m.Value.Number)
		}
		if rejected == 1 || err != nil {
			why, _ := client.PutAsideOf(m.Record)
			d.Say("  put aside: %s, since: %s", m.Record.Value, why.Error)
		}
	}
	if want := orderCount - wanted + 1; rejected != want || lines != 1 {
		return fmt.Errorf("%d records were put aside, %d of them no orders: want %d, and 1", rejected, lines, want)
	}
	d.Say("Right: %d orders became %d parcels and %d rejections; none is missing, none is there twice.", orderCount, len(p.packed), rejected-lines)
	return nil
}

// The shop: it takes orders into its database, and its relay tells the topic.

package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	bolt "go.etcd.io/bbolt"
	"golang.org/x/sync/errgroup"

	"github.com/balsamq/balsa/client"
	"github.com/balsamq/balsa/examples/internal/demo"
)

const (
	customers = 7
	// relayBatch bounds the events of one transaction.
	relayBatch = 16
	// dieAfter is how many transactions of the relay a life sees that ends in a bad way.
	dieAfter = 3
	// progressKey is the key of how far the relay has come, in the topic of that.
	progressKey = "shop"
)

// shop is a life of the service, from its start until it dies or all its orders are taken and told of.
func shop(ctx context.Context, d *demo.Demo, args []string) error {
	if len(args) != 3 {
		return errors.New("the shop takes a file, a number and the moment of its death")
	}
	life, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	db, err := bolt.Open(args[0], 0o600, &bolt.Options{Timeout: 10 * time.Second})
	if err != nil {
		return err
	}
	defer db.Close()
	if err := db.Update(func(tx *bolt.Tx) error {
		_, err := tx.CreateBucketIfNotExists(ordersTable)
		_, err2 := tx.CreateBucketIfNotExists(outboxTable)
		return errors.Join(err, err2)
	}); err != nil {
		return err
	}
	r := &relay{d: d, db: db, death: args[2], more: make(chan struct{}, 1)}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return r.run(ctx) })
	g.Go(func() error {
		defer close(r.more)
		for i := range ordersPerLife {
			if err := takeOrder(db, 1+life*ordersPerLife+i); err != nil && !errors.Is(err, errPayment) {
				return err
			}
			select {
			case r.more <- struct{}{}:
			default: // it knows already
			}
		}
		return nil
	})
	return g.Wait()
}

// errPayment is why an order comes to nothing.
var errPayment = errors.New("the card was refused")

// takeOrder stores an order together with its event. If anything fails, neither is there.
func takeOrder(db *bolt.DB, number int) error {
	return db.Update(func(tx *bolt.Tx) error {
		order := fmt.Appendf(nil, "order %d of customer-%d", number, number%customers)
		if err := tx.Bucket(ordersTable).Put(key(uint64(number)), order); err != nil {
			return err
		}
		outbox := tx.Bucket(outboxTable)
		seq, err := outbox.NextSequence()
		if err != nil {
			return err
		}
		if err := outbox.Put(key(seq), order); err != nil {
			return err
		}
		if number%10 == 0 {
			return errPayment // both are taken back
		}
		return nil
	})
}

// relay carries the outbox to the topic.
type relay struct {
	d     *demo.Demo
	db    *bolt.DB
	death string
	more  chan struct{} // there may be more in the outbox; closed when there will be no more
}

// event is a row of the outbox.
type event struct {
	seq   uint64
	value []byte
}

func (r *relay) run(ctx context.Context) error {
	// To take the transactional id over aborts what an earlier life has left open, and fences it, should it live.
	p, err := client.NewProducer(ctx, client.ProducerConfig{Config: r.d.Config, Topic: r.d.Name("events"), TransactionalID: r.d.Name("shop-relay")})
	if err != nil {
		return err
	}
	defer p.Close(ctx)
	told, err := r.progress(ctx)
	if err != nil {
		return err
	}
	forgotten, err := r.forget(told)
	if err != nil {
		return err
	}
	r.d.Say("A shop begins. The topic has its events up to %d; of these, %d were still in the outbox.", told, forgotten)
	for sent := 0; ; {
		events, err := r.waiting()
		if err != nil {
			return err
		}
		if len(events) == 0 {
			select {
			case _, open := <-r.more:
				if open {
					continue
				}
			case <-ctx.Done():
				return ctx.Err()
			}
			if events, err = r.waiting(); err != nil || len(events) == 0 {
				r.d.Say("The shop has told everything, and ends.")
				return err
			}
		}
		if err := r.tell(ctx, p, events, sent+1 == dieAfter); err != nil {
			return err
		}
		sent++
	}
}

// waiting are the oldest events of the outbox.
func (r *relay) waiting() (events []event, err error) {
	err = r.db.View(func(tx *bolt.Tx) error {
		c := tx.Bucket(outboxTable).Cursor()
		for k, v := c.First(); k != nil && len(events) < relayBatch; k, v = c.Next() {
			events = append(events, event{binary.BigEndian.Uint64(k), append([]byte(nil), v...)})
		}
		return nil
	})
	return events, err
}

// tell writes events, and up to where they go, in one transaction, and then takes them out of the outbox.
func (r *relay) tell(ctx context.Context, p *client.Producer, events []event, last bool) error {
	upTo := events[len(events)-1].seq
	err := p.Transact(ctx, func(tx *client.Tx) error {
		for _, e := range events {
			var number, customer int
			if _, err := fmt.Sscanf(string(e.value), "order %d of customer-%d", &number, &customer); err != nil {
				return err
			}
			if err := tx.Produce(&kgo.Record{Key: fmt.Appendf(nil, "customer-%d", customer), Value: e.value}); err != nil {
				return err
			}
		}
		if err := tx.Produce(&kgo.Record{Topic: r.d.Name("relayed"), Key: []byte(progressKey), Value: strconv.AppendUint(nil, upTo, 10)}); err != nil {
			return err
		}
		if last && r.death == beforeCommit {
			if err := tx.Flush(); err != nil { // the brokers have all of it
				return err
			}
			r.d.Say("The shop dies: %d events are written, their transaction is open.", len(events))
			demo.Die()
		}
		return nil
	})
	if err != nil {
		return err // the outbox has them, and the next life finds out how it went
	}
	if last && r.death == betweenTheTwo {
		r.d.Say("The shop dies: %d events are committed, and still in the outbox.", len(events))
		demo.Die()
	}
	_, err = r.forget(upTo)
	return err
}

// progress is up to where events have been told, as the last committed record says; 0: none.
func (r *relay) progress(ctx context.Context) (told uint64, err error) {
	c, err := client.NewConsumer(ctx, client.ConsumerConfig{Config: r.d.Config, Topics: []string{r.d.Name("relayed")}, StopAtEnd: true})
	if err != nil {
		return 0, err
	}
	defer c.Close(ctx)
	for rec, err := range c.Records(ctx) {
		if err != nil {
			return 0, err
		}
		if told, err = strconv.ParseUint(string(rec.Value), 10, 64); err != nil {
			return 0, err
		}
	}
	return told, nil
}

// forget takes events out of the outbox.
func (r *relay) forget(upTo uint64) (n int, err error) {
	err = r.db.Update(func(tx *bolt.Tx) error {
		c := tx.Bucket(outboxTable).Cursor()
		for k, _ := c.First(); k != nil && binary.BigEndian.Uint64(k) <= upTo; k, _ = c.First() {
			if err := c.Delete(); err != nil {
				return err
			}
			n++
		}
		return nil
	})
	return n, err
}

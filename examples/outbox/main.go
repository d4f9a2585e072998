// Outbox: a service whose orders are rows of a database and events in a topic, never the one without the other.
//
//	shop ──▶ database (orders, outbox) ──relay──▶ events
//
// A service that writes to its database and then to the broker loses an event, or tells of an order that is none, when it dies in between. So an order
// and its event go into the database in one transaction, the event into a table of its own, the outbox, and a relay carries what is there to the
// broker. A relay that dies between the broker's answer and the deletion from the outbox would tell twice. So it writes into the topic, in the same
// transaction as the events, how far it has come, and looks there first when it begins.
//
// The shop is a process of its own, with bbolt for a database. It is killed twice: once between the broker's commit and the database, and once in the
// middle of a transaction with the broker.
//
//	go run ./examples/outbox
package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	bolt "go.etcd.io/bbolt"

	"github.com/balsamq/balsa/client"
	"github.com/balsamq/balsa/examples/internal/demo"
)

// ordersPerLife is how many orders the shop tries to take in each of its lives.
const ordersPerLife = 100

// The moments at which the shop can be told to die.
const (
	never         = "never"
	beforeCommit  = "before-commit"  // the events are written, and not committed
	betweenTheTwo = "between-commit" // they are committed, and the database does not know
)

// The tables.
var (
	ordersTable = []byte("orders") // by number
	outboxTable = []byte("outbox") // by sequence
)

func main() {
	demo.Main(demo.Example{Name: "outbox", What: "A database and a topic that always agree, though the service is killed between the two.", Brokers: 1, Run: run,
		Parts: map[string]func(context.Context, *demo.Demo, []string) error{"shop": shop}})
}

func run(ctx context.Context, d *demo.Demo) (err error) {
	dir, err := os.MkdirTemp("", "outbox-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if err := d.Create(ctx,
		client.TopicSpec{Name: d.Name("events"), Partitions: 3},
		client.TopicSpec{Name: d.Name("relayed"), Partitions: 1, Configs: map[string]string{"cleanup.policy": "compact"}},
	); err != nil {
		return err
	}
	file := filepath.Join(dir, "shop.db")
	for life, end := range []string{betweenTheTwo, beforeCommit, never} {
		cmd, err := d.Start(ctx, "shop", file, strconv.Itoa(life), end)
		if err != nil {
			return err
		}
		err = cmd.Wait()
		if died := cmd.ProcessState.ExitCode() == -1; died != (end != never) || !died && err != nil {
			return fmt.Errorf("the shop's life %d should have ended otherwise: %w", life+1, err)
		}
	}
	return check(ctx, d, file)
}

// check compares the database with the topic.
func check(ctx context.Context, d *demo.Demo, file string) error {
	db, err := bolt.Open(file, 0o600, nil)
	if err != nil {
		return err
	}
	defer db.Close()
	var orders []string
	left := 0
	if err := db.View(func(tx *bolt.Tx) error {
		left = tx.Bucket(outboxTable).Stats().KeyN
		return tx.Bucket(ordersTable).ForEach(func(_, v []byte) error {
			orders = append(orders, string(v))
			return nil
		})
	}); err != nil {
		return err
	}
	c, err := client.NewConsumer(ctx, client.ConsumerConfig{Config: d.Config, Topics: []string{d.Name("events")}, StopAtEnd: true})
	if err != nil {
		return err
	}
	defer c.Close(ctx)
	var events []string
	last := make(map[string]int) // by customer
	for r, err := range c.Records(ctx) {
		if err != nil {
			return err
		}
		event := string(r.Value)
		var number int
		if _, err := fmt.Sscanf(event, "order %d ", &number); err != nil {
			return fmt.Errorf("event %q: %w", event, err)
		}
		if customer := string(r.Key); number <= last[customer] {
			return fmt.Errorf("%s was told of order %d after order %d", customer, number, last[customer])
		} else {
			last[customer] = number
		}
		events = append(events, event)
	}
	slices.Sort(orders)
	slices.Sort(events)
	d.Say("The database has %d orders and %d events that wait; the topic has %d events.", len(orders), left, len(events))
	if left != 0 || !slices.Equal(orders, events) {
		return errors.New("the database and the topic do not agree")
	}
	d.Say("Right: an event for each order, and none for those that came to nothing; in order per customer; none lost, none twice.")
	return nil
}

// key is a number as a key that sorts as numbers do.
func key(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }

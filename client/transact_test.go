// Transactions of a producer against real brokers: all or nothing, whatever ends them.

package client_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/balsamq/balsa/brokertest"
	"github.com/balsamq/balsa/client"
)

// settled waits until no transaction is open in a topic: a commit is durable when it is answered, and told to the partitions after that.
func settled(t *testing.T, cfg client.Config, topic string) {
	t.Helper()
	admin := must(client.NewAdmin(ctx(t), cfg))
	defer admin.Close()
	raw := kadm.NewClient(admin.Client())
	for ctx := long(t); ; {
		ends, err := raw.ListEndOffsets(ctx, topic)
		committed, cerr := raw.ListCommittedOffsets(ctx, topic)
		open := errors.Join(err, cerr, ends.Error(), committed.Error()) != nil // a leader may have gone
		ends.Each(func(o kadm.ListedOffset) {
			c, _ := committed.Lookup(topic, o.Partition)
			open = open || c.Offset != o.Offset
		})
		if !open {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("a transaction is open in %s", topic)
		case <-time.After(2 * time.Millisecond):
		}
	}
}

func value(s string) *kgo.Record { return &kgo.Record{Value: []byte(s)} }

func TestTransact(t *testing.T) {
	b := brokertest.Start(t, brokertest.Topic("t", 1))
	committed := func() []string {
		t.Helper()
		return drainAll(t, client.ConsumerConfig{Config: b.Config(), Topics: []string{"t"}})
	}
	cfg := client.ProducerConfig{Config: b.Config(), Topic: "t", TransactionalID: "id"}
	p := producer(t, cfg)
	broken := errors.New("broken")

	if err := p.Transact(ctx(t), func(tx *client.Tx) error {
		if err := tx.Produce(value("a"), value("b")); err != nil {
			return err
		}
		last := value("c")
		if err := errors.Join(tx.Produce(last), tx.Flush()); err != nil {
			return err
		}
		if last.Offset != 2 {
			t.Errorf("offset %d after Flush", last.Offset)
		}
		if got := committed(); len(got) != 0 {
			t.Errorf("%q is visible before the commit", got)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	want := []string{"a", "b", "c"}
	check := func(what string) {
		t.Helper()
		settled(t, b.Config(), "t")
		if got := committed(); !slices.Equal(got, want) {
			t.Fatalf("after %s: %q, not %q", what, got, want)
		}
	}
	check("a commit")

	// What ends one without a commit, and that the next one is none the worse for it.
	t.Run("an error", func(t *testing.T) {
		if err := p.Transact(ctx(t), func(tx *client.Tx) error {
			return errors.Join(tx.Produce(value("x")), tx.Flush(), broken)
		}); !errors.Is(err, broken) {
			t.Fatal(err)
		}
	})
	check("an error")
	t.Run("an error before anything is written", func(t *testing.T) {
		if err := p.Transact(ctx(t), func(tx *client.Tx) error { return broken }); !errors.Is(err, broken) {
			t.Fatal(err)
		}
	})
	t.Run("a panic", func(t *testing.T) {
		defer func() {
			if r := recover(); r != broken {
				t.Fatal(r)
			}
		}()
		_ = p.Transact(ctx(t), func(tx *client.Tx) error {
			_ = errors.Join(tx.Produce(value("x")), tx.Flush())
			panic(broken)
		})
	})
	check("a panic")
	t.Run("a record that is refused, which nobody looks at", func(t *testing.T) {
		if err := p.Transact(ctx(t), func(tx *client.Tx) error {
			_ = tx.Produce(value("x"), value(strings.Repeat("x", 3<<20)), value("x"))
			return nil
		}); !errors.Is(err, client.ErrInvalid) {
			t.Fatal(err)
		}
	})
	check("a record that is refused")
	t.Run("its context", func(t *testing.T) {
		c, cancel := context.WithCancel(ctx(t))
		if err := p.Transact(c, func(tx *client.Tx) error {
			err := errors.Join(tx.Produce(value("x")), tx.Flush())
			cancel()
			return err
		}); !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
	})
	check("the end of its context")
	var kept *client.Tx
	if err := p.Transact(ctx(t), func(tx *client.Tx) error { kept = tx; return tx.Produce(value("d")) }); err != nil {
		t.Fatal(err)
	}
	want = append(want, "d")
	if err := kept.Produce(value("x")); !errors.Is(err, client.ErrClosed) {
		t.Fatal(err)
	}
	if err := kept.Flush(); !errors.Is(err, client.ErrClosed) {
		t.Fatal(err)
	}
	if err := p.Produce(ctx(t), value("x")); !errors.Is(err, client.ErrInvalid) {
		t.Fatal(err)
	}
	check("what comes outside of one")

	// One at a time.
	first, second := make(chan struct{}), make(chan error, 1)
	if err := p.Transact(ctx(t), func(tx *client.Tx) error {
		go func() {
			close(first)
			second <- p.Transact(ctx(t), func(tx *client.Tx) error { return tx.Produce(value("f")) })
		}()
		<-first
		return tx.Produce(value("e"))
	}); err != nil {
		t.Fatal(err)
	}
	if err := <-second; err != nil {
		t.Fatal(err)
	}
	want = append(want, "e", "f")
	check("two at the same time")

	// Another producer takes the id over: what was open is aborted, and the old one is told.
	var next *client.Producer
	if err := p.Transact(ctx(t), func(tx *client.Tx) error {
		if err := errors.Join(tx.Produce(value("x")), tx.Flush()); err != nil {
			return err
		}
		next = producer(t, cfg)
		return nil
	}); !errors.Is(err, client.ErrFenced) {
		t.Fatal(err)
	}
	if err := p.Transact(ctx(t), func(tx *client.Tx) error { return tx.Produce(value("x")) }); !errors.Is(err, client.ErrFenced) {
		t.Fatal(err)
	}
	if err := next.Transact(ctx(t), func(tx *client.Tx) error { return tx.Produce(value("g")) }); err != nil {
		t.Fatal(err)
	}
	want = append(want, "g")
	check("another producer")

	// An operator aborts it.
	admin := must(client.NewAdmin(ctx(t), b.Config()))
	defer admin.Close()
	if err := next.Transact(ctx(t), func(tx *client.Tx) error {
		err := errors.Join(tx.Produce(value("x")), tx.Flush())
		_, aborted := admin.AbortTransaction(ctx(t), "id")
		return errors.Join(err, aborted)
	}); !errors.Is(err, client.ErrFenced) {
		t.Fatal(err)
	}
	check("an operator's abort")
	if err := next.Close(ctx(t)); err != nil {
		t.Fatal(err)
	}
	if err := next.Transact(ctx(t), func(tx *client.Tx) error { return nil }); !errors.Is(err, client.ErrClosed) {
		t.Fatal(err)
	}
	if err := producer(t, client.ProducerConfig{Config: b.Config()}).Transact(ctx(t), func(*client.Tx) error { return nil }); !errors.Is(err, client.ErrInvalid) {
		t.Fatal(err)
	}
}

// Each transaction writes its number to four partitions while brokers die. What was committed is in all of them, in order; what was aborted in
// none; and what is not known is one or the other.
func TestTransactWhileBrokersDie(t *testing.T) {
	t.Parallel()
	c := brokertest.Cluster(t, 3, brokertest.Topic("t", 4))
	p := producer(t, client.ProducerConfig{Config: c.Config(), Topic: "t", TransactionalID: "id", ManualPartitions: true,
		TransactionTimeout: 3 * time.Minute}) // franz-go may ask a coordinator that has died for most of one
	outcome := make(map[int]string)
	n := 0
	no := errors.New("no")
	transact := func(commits int) { // goes on until so many more are committed
		for ctx := long(t); commits > 0; n++ {
			err := p.Transact(ctx, func(tx *client.Tx) error {
				for part := range int32(4) {
					if err := tx.Produce(&kgo.Record{Partition: part, Value: []byte(strconv.Itoa(n))}); err != nil {
						return err
					}
				}
				if n%5 == 4 {
					return errors.Join(tx.Flush(), no)
				}
				return nil
			})
			switch {
			case err == nil:
				outcome[n] = "committed"
				commits--
			case errors.Is(err, client.ErrUnknownOutcome):
				outcome[n] = "unknown"
			default:
				outcome[n] = "aborted"
			}
			if ctx.Err() != nil || errors.Is(err, client.ErrFenced) { // with the next one it would be the same
				t.Fatalf("after %d transactions: %v", n, err)
			}
		}
	}
	transact(16)
	for id := 1; id <= 3; id++ {
		b := c.Broker(id)
		killed := make(chan struct{})
		go func() {
			defer close(killed)
			b.Kill()
		}()
		transact(12)
		<-killed
		if err := b.Restart(long(t)); err != nil {
			t.Fatal(err)
		}
		transact(12)
	}
	settled(t, c.Config(), "t")
	var all [4][]string
	for part := range all {
		all[part] = drainAll(t, client.ConsumerConfig{Config: c.Config(), Partitions: map[string]map[int32]client.Start{"t": {int32(part): client.FromBeginning()}}})
	}
	var want []string
	count := make(map[string]int)
	for i := range n {
		count[outcome[i]]++
		if v := strconv.Itoa(i); outcome[i] == "committed" || outcome[i] == "unknown" && slices.Contains(all[0], v) {
			want = append(want, v)
		}
	}
	t.Logf("%v", count)
	for part, got := range all {
		if !slices.Equal(got, want) {
			t.Errorf("partition %d has %q, not %q", part, got, want)
		}
	}
	if got := fmt.Sprint(outcome[4]); got != "aborted" {
		t.Errorf("a transaction whose function failed is %s", got)
	}
}

// A transaction's marker in a later epoch than its records is no loss of what a consumer has read, after one more change of leader.
func TestMarkersAreNoLoss(t *testing.T) {
	t.Parallel()
	c := brokertest.Cluster(t, 3, brokertest.Topic("t", 1))
	p := producer(t, client.ProducerConfig{Config: c.Config(), Topic: "t", TransactionalID: "id"})
	moveLeader := func() {
		t.Helper()
		leader := must(c.Leader(ctx(t), "t", 0))
		if err := errors.Join(leader.Stop(), leader.Restart(ctx(t))); err != nil {
			t.Fatal(err)
		}
	}
	cons := consumer(t, client.ConsumerConfig{Config: c.Config(), Topics: []string{"t"}})
	if err := p.Transact(long(t), func(tx *client.Tx) error {
		if err := errors.Join(tx.Produce(value("a")), tx.Flush()); err != nil {
			return err
		}
		moveLeader()
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if got := pollN(t, cons, 1); !slices.Equal(got, []string{"a"}) {
		t.Fatal(got)
	}
	moveLeader()
	if err := p.Transact(long(t), func(tx *client.Tx) error { return tx.Produce(value("b")) }); err != nil {
		t.Fatal(err)
	}
	if got := pollN(t, cons, 1); !slices.Equal(got, []string{"b"}) {
		t.Fatal(got)
	}
}

// A broker that is away for a moment holds up who takes a transactional id over, and is no error.
func TestTakeOverWhileABrokerIsAway(t *testing.T) {
	b := brokertest.Start(t, brokertest.Topic("t", 1))
	cfg := b.Config()
	var away atomic.Bool
	var refused atomic.Int32
	opts := []kgo.Opt{kgo.SeedBrokers(cfg.Brokers...), kgo.TransactionalID("x"), kgo.RequestRetries(0), kgo.Dialer(func(ctx context.Context, network, host string) (net.Conn, error) {
		if away.Load() {
			if refused.Add(1) >= 5 {
				away.Store(false)
			}
			return nil, &net.OpError{Op: "dial", Net: network, Err: syscall.ECONNRESET}
		}
		var d net.Dialer
		return d.DialContext(ctx, network, host)
	})}
	cl := must(kgo.NewClient(opts...))
	defer cl.Close()
	away.Store(true)
	if err := client.TakeOver(ctx(t), cl, "x"); err != nil {
		t.Fatal(err)
	}
	if n := refused.Load(); n < 5 {
		t.Fatalf("%d dials were refused", n)
	}
}

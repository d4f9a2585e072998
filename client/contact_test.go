// The first contact with what does not answer.

package client_test

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/balsamq/balsa/brokertest"
	"github.com/balsamq/balsa/client"
)

// mute is the address of a listener that accepts connections and says nothing; accepted is called with each.
func mute(t *testing.T, accepted func()) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var (
		wg  sync.WaitGroup
		all []net.Conn
	)
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			all = append(all, c)
			accepted()
		}
	})
	t.Cleanup(func() {
		l.Close()
		wg.Wait()
		for _, c := range all {
			c.Close()
		}
	})
	return l.Addr().String()
}

// A DialTimeout of 0 is none, as franz-go has it: TestMuteBroker has others.
func TestNoDialTimeout(t *testing.T) {
	t.Parallel()
	_, cfg := fake(t, kfake.SeedTopics(1, "t"))
	cfg.Options = append(cfg.Options, kgo.DialTimeout(0))
	a, err := client.NewAdmin(ctx(t), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	if _, err := a.Topic(ctx(t), "t"); err != nil {
		t.Error(err)
	}
}

// Who accepts connections and does not answer is named, and the wait for it ends with ConnectTimeout, not with franz-go's patience; that ends the
// context of the caller, too. (That it was not franz-go's shows in the error.)
func TestMuteBroker(t *testing.T) {
	t.Parallel()
	addr := mute(t, func() {})
	_, err := client.NewAdmin(ctx(t), client.Config{Brokers: []string{addr}, ConnectTimeout: time.Second})
	if !errors.Is(err, client.ErrUnreachable) || !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), addr) || !strings.Contains(err.Error(), "not answered within 1s") {
		t.Errorf("a mute broker: %v", err)
	}
	_, err = client.NewAdmin(ctx(t), client.Config{Brokers: []string{addr}, ConnectTimeout: time.Second, Security: client.Security{TLS: true}})
	if !errors.Is(err, client.ErrUnreachable) || !strings.Contains(err.Error(), "not answered within 1s") {
		t.Errorf("a broker that is mute in the handshake: %v", err)
	}
	_, err = client.NewAdmin(ctx(t), client.Config{Brokers: []string{addr}, ConnectTimeout: time.Hour, Security: client.Security{TLS: true}, Options: []kgo.Opt{kgo.DialTimeout(100 * time.Millisecond)}})
	if !errors.Is(err, client.ErrUnreachable) || errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "no answer within 100ms") {
		t.Errorf("the program's own DialTimeout: %v", err)
	}
	run, cancel := context.WithCancel(ctx(t))
	defer cancel()
	addr = mute(t, cancel)
	if _, err = client.NewAdmin(run, client.Config{Brokers: []string{addr}, ConnectTimeout: time.Hour}); !errors.Is(err, context.Canceled) {
		t.Errorf("told to end: %v", err)
	}
}

// A mute broker among those that are named does not keep the others from being asked.
func TestMuteBrokerAmongOthers(t *testing.T) {
	t.Parallel()
	b := brokertest.Start(t)
	cfg := b.Config()
	cfg.Brokers = []string{mute(t, func() {}), mute(t, func() {}), b.Addr(), mute(t, func() {})}
	cfg.ConnectTimeout = 8 * time.Second
	a, err := client.NewAdmin(ctx(t), cfg)
	if err != nil {
		t.Fatal(err)
	}
	a.Close()
}

// TLS that was asked for is spoken, whatever else a program asks of franz-go: some of its options are valid only together with this package's own.
func TestTLSWithOptions(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	first := make(chan byte, 1)
	go func() {
		defer close(first)
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		var b [1]byte
		if _, err := io.ReadFull(c, b[:]); err == nil {
			first <- b[0]
		}
	}()
	cfg := client.Config{Brokers: []string{l.Addr().String()}, ConnectTimeout: 3 * time.Second, Security: client.Security{TLS: true},
		Options: []kgo.Opt{kgo.MaxProduceRequestsInflightPerBroker(5)}} // which franz-go takes without idempotency only
	if _, err := client.NewProducer(ctx(t), client.ProducerConfig{Config: cfg, Acks: client.AcksLeader}); !errors.Is(err, client.ErrUnreachable) {
		t.Errorf("connected to nobody: %v", err)
	}
	l.Close()
	if b, ok := <-first; !ok || b != 0x16 { // a handshake
		t.Errorf("the first byte on the connection is %#x (%t), not one of TLS", b, ok)
	}
}

// The end of the first contact.

package client

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// A connection that is being made when the first contact is over is not cut: it is that of a group, say, and franz-go takes the error of a
// context that has ended for its own, and leaves the group for good.
func TestContactIsOverWhileDialling(t *testing.T) {
	t.Parallel()
	dials := make(chan struct{})
	slow := func(ctx context.Context, _, addr string) (net.Conn, error) {
		if addr != "slow:1" {
			return nil, &net.OpError{Op: "dial", Err: errors.New("nobody is there")}
		}
		close(dials)
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(300 * time.Millisecond):
		}
		c, _ := net.Pipe()
		return c, nil
	}
	c := newContact(t.Context(), slow, []string{"none:1"}, time.Minute)
	cl, err := kgo.NewClient(kgo.SeedBrokers(c.seeds...), kgo.Dialer(c.dial))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	made := make(chan error, 1)
	go func() {
		conn, err := c.dial(context.Background(), "tcp", "slow:1")
		if err == nil {
			conn.Close()
		}
		made <- err
	}()
	<-dials
	if err := c.make(cl); !errors.Is(err, ErrUnreachable) {
		t.Errorf("the contact: %v", err)
	}
	if err := <-made; err != nil {
		t.Errorf("a connection that was being made: %v", err)
	}
}

// Nor is one that takes too long an error of a context, for the same reason.
func TestContactCutsDialling(t *testing.T) {
	t.Parallel()
	hangs := func(ctx context.Context, _, _ string) (net.Conn, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	c := newContact(t.Context(), hangs, []string{"none:1"}, 10*time.Millisecond)
	defer c.cancel()
	if _, err := c.dial(context.Background(), "tcp", "none:1"); err == nil || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a connection that takes too long: %v", err)
	}
}

// A mute broker is named also where franz-go is told of the end before its connection is cut: both wait for the same moment.
func TestMuteBrokerNotCutYet(t *testing.T) {
	here, there := net.Pipe()
	defer here.Close()
	defer there.Close()
	c := newContact(t.Context(), func(context.Context, string, string) (net.Conn, error) { return here, nil }, []string{"a.example:9092"}, time.Hour)
	if _, err := c.dial(t.Context(), "tcp", "a.example:9092"); err != nil {
		t.Fatal(err)
	}
	c.end(context.DeadlineExceeded)
	if err := c.because(context.DeadlineExceeded, nil); !strings.Contains(err.Error(), "accepts connections") {
		t.Error(err)
	}
}

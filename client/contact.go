// The first contact with a cluster, which must end in time. franz-go waits ten seconds for the answer to what it says first on a connection,
// whatever context the caller has, and asks no other broker meanwhile: one that accepts connections and does not answer would hold up everything.

package client

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// dialFunc makes a connection, with the handshake of TLS if there is one.
type dialFunc func(ctx context.Context, network, addr string) (net.Conn, error)

// contact is a first contact. It is the client's dialler.
type contact struct {
	dialer dialFunc
	seeds  []string
	share  time.Duration // of one broker
	ctx    context.Context
	cancel context.CancelFunc

	mu    sync.Mutex // guards what follows
	over  bool       // connections are not its business any more
	until []watched  // connections
	mute  []string   // brokers that took a connection and had not answered when it was cut
	shake []string   // brokers that took a connection, and the handshake is under way
}

// watched is a connection that is cut when the time of its broker is over.
type watched struct {
	addr string
	stop func() bool
}

func newContact(ctx context.Context, dialer dialFunc, seeds []string, timeout time.Duration) *contact {
	c := &contact{dialer: dialer, seeds: seeds, share: timeout / time.Duration(len(seeds))}
	c.ctx, c.cancel = context.WithTimeout(ctx, timeout)
	return c
}

// dial is for franz-go.
func (c *contact) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	c.mu.Lock()
	over, again := c.over, slices.Contains(c.mute, addr)
	c.mu.Unlock()
	switch {
	case over:
		return c.dialer(ctx, network, addr)
	case again: // franz-go tries a connection that broke a second time before it goes on to the next broker
		return nil, errors.New("it has just not answered")
	}
	one, giveUp := context.WithTimeout(c.ctx, c.share) // for the handshake and the first answer
	dialling, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(one, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if !c.over { // else it is another's: franz-go would take it for told to end
			cancel()
		}
	})
	conn, err := c.dialer(context.WithValue(dialling, connectedKey{}, func() { c.shakes(addr, true, nil) }), network, addr)
	stop()
	c.shakes(addr, false, one.Err())
	if err != nil {
		giveUp()
		if dialling.Err() != nil && ctx.Err() == nil { // franz-go has not been told to end, and must not think so
			err = &net.OpError{Op: "dial", Net: network, Err: fmt.Errorf("no connection to %s in its part of %v", addr, c.share)}
		}
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.over {
		giveUp()
		return conn, nil
	}
	c.until = append(c.until, watched{addr, context.AfterFunc(one, func() {
		defer giveUp()
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.over {
			return
		}
		if one.Err() == context.DeadlineExceeded {
			c.mute = append(c.mute, addr)
		}
		conn.Close()
	})})
	return conn, nil
}

// shakes notes that a handshake begins or ends. why is what ended the time that the broker had for it, nil if that goes on.
func (c *contact) shakes(addr string, begins bool, why error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if begins {
		c.shake = append(c.shake, addr)
		return
	}
	i := slices.Index(c.shake, addr)
	if i < 0 {
		return
	}
	c.shake = slices.Delete(c.shake, i, i+1)
	if why == context.DeadlineExceeded && !c.over {
		c.mute = append(c.mute, addr)
	}
}

// make makes it.
func (c *contact) make(cl *kgo.Client) error {
	err := cl.Ping(c.ctx)
	ended := c.ctx.Err()
	c.end(ended)
	if err == nil {
		return nil
	}
	kind := ErrUnreachable
	if kindOf(err) == ErrDenied {
		kind = ErrDenied
	}
	return &Error{Op: "connect to", Subject: strings.Join(c.seeds, ", "), Kind: kind, Err: c.because(ended, err)}
}

// end leaves the connections alone. ended is what has ended the time for all, nil if that was not over.
func (c *contact) end(ended error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.over = true
	if ended == context.DeadlineExceeded { // franz-go does not wait for the end of what it dials
		c.mute = append(c.mute, c.shake...)
	}
	for _, w := range c.until {
		w.stop()
		if ended == context.DeadlineExceeded && !slices.Contains(c.mute, w.addr) { // it was about to be cut
			c.mute = append(c.mute, w.addr)
		}
	}
	c.until = nil
	c.cancel()
}

// because is why there was no contact: what franz-go says of a connection that was cut is not it.
func (c *contact) because(ended, err error) error {
	switch {
	case len(c.mute) > 0:
		who := "it accepts connections and has"
		switch {
		case len(c.mute) > 1:
			who = strings.Join(c.mute, ", ") + " accept connections and have"
		case len(c.seeds) > 1:
			who = c.mute[0] + " accepts connections and has"
		}
		return fmt.Errorf("%s not answered within %v; is that a Kafka listener, and does it speak TLS? (%w)", who, c.share, context.DeadlineExceeded)
	case ended == context.DeadlineExceeded:
		return fmt.Errorf("no answer in time (%w)", ended)
	case ended != nil:
		return ended
	}
	return err
}

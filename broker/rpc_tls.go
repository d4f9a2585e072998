// TLS between brokers, and the way there without stopping the cluster: while RPCTLSOptional is set a broker takes calls with TLS and without,
// and makes its own with TLS where the other side has it. When all brokers have come that far they are started once more, without it.

package broker

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

const (
	// rpcTLSAttempt bounds a handshake after which a connection without TLS is to be tried.
	rpcTLSAttempt = 2 * time.Second
	// tlsHandshake begins every connection with TLS. A broker's hello begins with its length, which is another byte.
	tlsHandshake = 0x16
)

// rpcListener is ln with TLS, if brokers speak it.
func (b *Broker) rpcListener(ln net.Listener) net.Listener {
	switch {
	case b.rpcCerts == nil:
		return ln
	case b.cfg.RPCTLSOptional:
		return &eitherListener{Listener: ln, config: b.rpcCerts.serverConfig(), plain: func(from net.Addr) {
			b.withoutTLS("a broker called without TLS, which is taken for now", "from", from)
		}}
	}
	return tls.NewListener(ln, b.rpcCerts.serverConfig())
}

// rpcDial connects to another broker.
func (b *Broker) rpcDial() func(context.Context, string) (net.Conn, error) {
	if b.rpcCerts == nil {
		return b.cfg.Network.Dial
	}
	secure := func(ctx context.Context, addr string) (net.Conn, error) {
		host, _, err := net.SplitHostPort(addr)
		if err != nil {
			return nil, err
		}
		raw, err := b.cfg.Network.Dial(ctx, addr)
		if err != nil {
			return nil, err
		}
		nc := tls.Client(raw, b.rpcCerts.clientConfig(host))
		if err := nc.HandshakeContext(ctx); err != nil {
			_ = raw.Close()
			return nil, err
		}
		return nc, nil
	}
	if !b.cfg.RPCTLSOptional {
		return secure
	}
	return func(ctx context.Context, addr string) (net.Conn, error) {
		try, cancel := context.WithTimeout(ctx, rpcTLSAttempt)
		c, err := secure(try, addr)
		cancel()
		if op, ok := errors.AsType[*net.OpError](err); err == nil || ctx.Err() != nil || ok && op.Op == "dial" {
			return c, err
		}
		plain, perr := b.cfg.Network.Dial(ctx, addr)
		if perr != nil {
			return nil, fmt.Errorf("with TLS: %w; without: %w", err, perr)
		}
		b.withoutTLS("another broker is called without TLS, since with it there is no connection", "addr", addr, "err", err)
		return plain, nil
	}
}

// withoutTLS logs that brokers talk in the open, now and then.
func (b *Broker) withoutTLS(msg string, args ...any) {
	b.openCalls.mu.Lock()
	defer b.openCalls.mu.Unlock()
	if b.openCalls.limit == nil {
		b.openCalls.limit = rate.NewLimiter(rate.Every(10*time.Second), 10)
	}
	if b.openCalls.limit.Allow() {
		b.log.Warn(msg+" (rpc-tls-optional)", args...)
	}
}

// openCalls bounds what withoutTLS logs.
type openCalls struct {
	mu    sync.Mutex // guards limit
	limit *rate.Limiter
}

// eitherListener takes connections with TLS and without.
type eitherListener struct {
	net.Listener
	config *tls.Config
	plain  func(from net.Addr) // told of each without
}

// Accept implements net.Listener. What the other side speaks shows at the first Read, so that nobody is held up by one that says nothing.
func (l *eitherListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &eitherConn{Conn: c, l: l}, nil
}

// eitherConn is an accepted connection, whose other side speaks first. Deadlines are the raw connection's, as they are with TLS.
type eitherConn struct {
	net.Conn
	l *eitherListener

	mu     sync.Mutex // guards chosen, and is held while the first byte is waited for
	chosen net.Conn
}

func (c *eitherConn) choose() (net.Conn, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.chosen != nil {
		return c.chosen, nil
	}
	var first [1]byte
	if _, err := io.ReadFull(c.Conn, first[:]); err != nil {
		return nil, err
	}
	begun := &begunConn{Conn: c.Conn, begin: first[:]}
	if first[0] == tlsHandshake {
		c.chosen = tls.Server(begun, c.l.config)
	} else {
		c.l.plain(c.RemoteAddr())
		c.chosen = begun
	}
	return c.chosen, nil
}

// Read implements net.Conn.
func (c *eitherConn) Read(p []byte) (int, error) {
	cc, err := c.choose()
	if err != nil {
		return 0, err
	}
	return cc.Read(p)
}

// Write implements net.Conn.
func (c *eitherConn) Write(p []byte) (int, error) {
	cc, err := c.choose()
	if err != nil {
		return 0, err
	}
	return cc.Write(p)
}

// begunConn is a connection of which begin was read already. Only its reader touches begin.
type begunConn struct {
	net.Conn
	begin []byte
}

// Read implements net.Conn.
func (c *begunConn) Read(p []byte) (int, error) {
	if len(c.begin) > 0 {
		n := copy(p, c.begin)
		c.begin = c.begin[n:]
		return n, nil
	}
	return c.Conn.Read(p)
}

// A connection's way to its session: the TLS handshake, and SASL where the listener wants it. Until it has one, little is read
// from it: three kinds of request, small, few, and within a time.

package broker

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
)

const (
	keySaslHandshake    = 17
	keySaslAuthenticate = 36

	// maxHelloRequest bounds the three requests that a connection may send before it has proved who it is.
	maxHelloRequest = 64 << 10
	// maxHelloSmall bounds those two of them that carry names only, from a connection that has not.
	maxHelloSmall = 4 << 10
	// helloMemory bounds the bytes of all of them together.
	helloMemory = 64 << 20
	// helloShare bounds those of one address: a few that send half of what they announce must not keep all others from logging in.
	helloShare = helloMemory / 8
	// maxHellos is how many requests a connection may send before it has proved who it is.
	maxHellos = 100
	// defaultAuthTimeout is AuthTimeout's default.
	defaultAuthTimeout = 10 * time.Second
)

var (
	errAuthTimeout    = errors.New("the client did not prove who it is in time (--auth-timeout)")
	errSessionExpired = errors.New("the client did not authenticate anew in time (connections.max.reauth.ms)")
	errTLS            = errors.New("TLS")
)

// authState is the reader's own.
type authState struct {
	raw    net.Conn // below TLS
	tls    *tls.Conn
	sasl   bool        // the listener wants it
	timer  *time.Timer // closes the connection if it goes off
	hellos int         // requests before the session

	mechanism string       // of the exchange
	exchange  saslExchange // in progress; nil before SaslHandshake
	bare      bool         // its messages come without a request around them
	failed    error        // why the connection is of no more use
}

// beginAuth is newConn's part.
func (c *conn) beginAuth(l Listener) {
	sec := &c.s.o.Security
	c.auth.raw, c.auth.sasl = c.nc, l.sasl()
	if !l.tls() && !l.sasl() {
		c.session.Store(sec.session(anonymous, "", time.Time{}))
		return
	}
	if l.tls() {
		c.auth.tls = tls.Server(c.nc, sec.TLS)
		c.nc = c.auth.tls
	}
	timeout := sec.AuthTimeout
	def(&timeout, defaultAuthTimeout)
	c.auth.timer = time.AfterFunc(timeout, func() { c.close(errAuthTimeout) })
}

// begin gives the connection a session.
func (c *conn) begin(s *session) {
	if t := c.auth.timer; t != nil {
		t.Stop()
	}
	c.session.Store(s)
}

// handshake is what comes before the first request.
func (c *conn) handshake() error {
	tc := c.auth.tls
	if tc == nil {
		return nil
	}
	if err := tc.HandshakeContext(c.ctx); err != nil {
		if rh, ok := errors.AsType[tls.RecordHeaderError](err); ok {
			if hint := stranger(rh.RecordHeader[:]); hint != "" {
				return fmt.Errorf("%w: %s", errTLS, hint)
			}
			return fmt.Errorf("%w: the client does not speak it, and this listener does (security.protocol=SSL or SASL_SSL)", errTLS)
		}
		if errors.Is(err, io.EOF) || c.ctx.Err() != nil {
			return err
		}
		return fmt.Errorf("%w: %v", errTLS, err) // not wrapped: a remote alert is not as quiet as other network errors
	}
	if c.auth.sasl {
		return nil
	}
	cs := tc.ConnectionState()
	principal, err := certPrincipal(&cs, c.s.o.Security.Rules)
	if err != nil {
		return fmt.Errorf("%w: %w", errTLS, err)
	}
	c.begin(c.s.o.Security.session(principal, "", time.Time{}))
	return nil
}

// mayAsk says whether a request of n bytes may come now: before anything of it is read.
func (c *conn) mayAsk(a *api, n int) error {
	hello := a.key == keyApiVersions || a.key == keySaslHandshake || a.key == keySaslAuthenticate
	if s := c.session.Load(); s != nil {
		if !hello && s.expired(time.Now()) {
			return errSessionExpired
		}
		return nil
	}
	limit := maxHelloRequest
	if a.key != keySaslAuthenticate {
		limit = maxHelloSmall
	}
	c.auth.hellos++
	switch {
	case !hello:
		return fmt.Errorf("%w: %s before authentication: this listener wants SASL (security.protocol=SASL_PLAINTEXT or SASL_SSL)", errProtocol, kmsg.NameForKey(a.key))
	case n > limit:
		return fmt.Errorf("%w: a %s request of %d bytes before authentication, at most %d", errProtocol, kmsg.NameForKey(a.key), n, limit)
	case c.auth.hellos > maxHellos:
		return fmt.Errorf("%w: more than %d requests before authentication", errProtocol, maxHellos)
	}
	return nil
}

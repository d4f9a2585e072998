// SaslAuthenticate (key 36), versions 0 to 2: the messages of the mechanism that SaslHandshake has named. v1 tells for how
// long the session lasts, within which the client comes again (KIP-368).
//
// The handler may take its time, on the reader's goroutine: the connection has nothing else to do until it is known whose it is.

package broker

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// errAuthFailed closes a connection whose client did not prove who it is.
var errAuthFailed = errors.New("authentication failed")

func (s *server) saslAuthenticate(r *request) {
	req := r.msg.(*kmsg.SASLAuthenticateRequest)
	resp := kmsg.NewPtrSASLAuthenticateResponse()
	resp.SASLAuthBytes = []byte{}
	c := r.c
	if c.auth.exchange == nil || c.auth.bare {
		resp.ErrorCode = kerr.IllegalSaslState.Code
		m := "SaslHandshake comes first"
		resp.ErrorMessage = &m
		r.respond(resp)
		return
	}
	answer, lifetime, err := c.authenticate(req.SASLAuthBytes)
	if err != nil {
		m := "Authentication failed during authentication due to invalid credentials with SASL mechanism " + c.auth.mechanism
		resp.ErrorCode, resp.ErrorMessage = kerr.SaslAuthenticationFailed.Code, &m
		r.respond(resp)
		return
	}
	resp.SASLAuthBytes, resp.SessionLifetimeMillis = answer, lifetime.Milliseconds()
	r.respond(resp)
}

// authenticate takes the client's next message. At the end of the exchange the connection has a session, for lifetime (0: for
// good); after a failure, which has been waited for, it is of no more use.
func (c *conn) authenticate(token []byte) (answer []byte, lifetime time.Duration, err error) {
	sec := &c.s.o.Security
	answer, p, err := c.auth.exchange.step(c.ctx, token)
	old := c.session.Load()
	if err == nil && p != nil && old != nil && old.principal != userPrefix+p.user {
		err = fmt.Errorf("%w: the connection is %s and cannot become %s", errCredentials, old.principal, userPrefix+p.user)
	}
	if err != nil {
		c.auth.failed = fmt.Errorf("%w: %s: %w", errAuthFailed, c.auth.mechanism, err)
		c.s.met.authentications.WithLabelValues(c.auth.mechanism, "failed").Inc()
		t := time.NewTimer(sec.SASL.delay)
		defer t.Stop()
		select {
		case <-t.C:
		case <-c.ctx.Done():
		}
		return nil, 0, c.auth.failed
	}
	if p == nil {
		return answer, 0, nil
	}
	now := time.Now()
	expires := p.expires
	if limit := sec.SASL.reauth; limit > 0 && (expires.IsZero() || expires.After(now.Add(limit))) {
		expires = now.Add(limit)
	}
	if !expires.IsZero() {
		lifetime = max(expires.Sub(now), time.Millisecond)
	}
	c.auth.exchange = nil
	c.s.met.authentications.WithLabelValues(c.auth.mechanism, "ok").Inc()
	c.begin(sec.session(userPrefix+p.user, c.auth.mechanism, expires))
	return answer, lifetime, nil
}

// bareToken serves one frame of an exchange that SaslHandshake v0 has begun.
func (c *conn) bareToken(frames stallReader) error {
	var size [4]byte
	if _, err := io.ReadFull(frames, size[:]); err != nil {
		return err
	}
	n := int(int32(binary.BigEndian.Uint32(size[:])))
	if n < 0 || n > maxHelloRequest {
		return fmt.Errorf("%w: a message of %d bytes before authentication, at most %d", errProtocol, n, maxHelloRequest)
	}
	if c.auth.hellos++; c.auth.hellos > maxHellos {
		return fmt.Errorf("%w: more than %d messages before authentication", errProtocol, maxHellos)
	}
	if err := c.acquireHello(int64(n)); err != nil {
		return err
	}
	defer c.releaseHello(int64(n))
	token := make([]byte, n)
	if _, err := io.ReadFull(frames, token); err != nil {
		return truncated(err)
	}
	answer, _, err := c.authenticate(token)
	if err != nil {
		return err // a bare frame has no place for an error: the connection closes
	}
	if err := c.nc.SetWriteDeadline(time.Now().Add(c.s.o.StallTimeout)); err != nil {
		return err
	}
	_, err = c.nc.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(answer))), answer...))
	return err
}

// Connecting to NATS: servers, credentials, TLS. Secrets are read from files in one directory when a connection is made, and go
// nowhere else: no error or log has more of them than the name of a file.

package bridge

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	// maxSecretBytes bounds a file with a secret or a certificate.
	maxSecretBytes = 1 << 20
	// natsTimeout bounds one question to a NATS server, and the making of a connection.
	natsTimeout = 5 * time.Second
	// leaderTimeout is how long JetStream is asked: it chooses the leader of a stream, or its own, within nine seconds. What is asked meanwhile is
	// answered never, and so asked again after askEvery, and then after twice as long each time, as an answer may only be slow; askPause is what it
	// waits for where somebody says at once that there is no leader.
	leaderTimeout = 12 * time.Second
	askEvery      = 2 * time.Second
	askPause      = 100 * time.Millisecond
	// natsPing is how often a connection is tried, and natsPings how many answers may be missing before it is given up.
	natsPing  = 5 * time.Second
	natsPings = 2
)

// secrets is the directory.
type secrets string

// read is the content of one of its files. os.Root keeps a link in there from leading out.
func (s secrets) read(name string) ([]byte, error) {
	if s == "" {
		return nil, fmt.Errorf("file %s: this broker has no directory of secrets (--bridge-secrets)", name)
	}
	root, err := os.OpenRoot(string(s))
	if err != nil {
		return nil, fmt.Errorf("the directory of secrets: %w", err)
	}
	defer root.Close()
	f, err := root.Open(name)
	if err != nil {
		return nil, fmt.Errorf("in the directory of secrets %s: %w", string(s), err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxSecretBytes+1))
	if err == nil && len(b) > maxSecretBytes {
		err = fmt.Errorf("%s is larger than %d bytes", name, maxSecretBytes)
	}
	return b, err
}

// line is the first line of a file.
func (s secrets) line(name string) (string, error) {
	b, err := s.read(name)
	if err != nil {
		return "", err
	}
	line, _, _ := strings.Cut(string(b), "\n")
	if line = strings.TrimSuffix(line, "\r"); line == "" {
		return "", fmt.Errorf("file %s in the directory of secrets is empty", name)
	}
	return line, nil
}

// nkey answers the server's challenges with the seed in a file, which is read each time.
func (s secrets) nkey(name string) (nats.Option, error) {
	if _, err := s.read(name); err != nil { // that it is there, and lies where it should
		return nil, err
	}
	opt, err := nats.NkeyOptionFromSeed(filepath.Join(string(s), name))
	if err != nil {
		return nil, fmt.Errorf("file %s in the directory of secrets: %w", name, err)
	}
	return opt, nil
}

// options are those of a connection as a definition wants it.
func (s secrets) options(a *Auth) ([]nats.Option, error) {
	var opts []nats.Option
	switch {
	case a.CredsFile != "":
		b, err := s.read(a.CredsFile)
		if err != nil {
			return nil, err
		}
		opts = append(opts, nats.UserCredentialBytes(b))
	case a.NKeyFile != "":
		opt, err := s.nkey(a.NKeyFile)
		if err != nil {
			return nil, err
		}
		opts = append(opts, opt)
	case a.User != "":
		password, err := s.line(a.PasswordFile)
		if err != nil {
			return nil, err
		}
		opts = append(opts, nats.UserInfo(a.User, password))
	case a.TokenFile != "":
		token, err := s.line(a.TokenFile)
		if err != nil {
			return nil, err
		}
		opts = append(opts, nats.Token(token))
	}
	if !a.TLS && a.CAFile == "" && a.CertFile == "" {
		return opts, nil
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12}
	if a.CAFile != "" {
		pem, err := s.read(a.CAFile)
		if err != nil {
			return nil, err
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("file %s in the directory of secrets holds no certificate in PEM form", a.CAFile)
		}
	}
	if a.CertFile != "" {
		cert, err := s.read(a.CertFile)
		if err != nil {
			return nil, err
		}
		key, err := s.read(a.KeyFile)
		if err != nil {
			return nil, err
		}
		pair, err := tls.X509KeyPair(cert, key)
		if err != nil {
			return nil, fmt.Errorf("%s and %s in the directory of secrets: %w", a.CertFile, a.KeyFile, err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return append(opts, nats.Secure(c)), nil
}

// dialer ends with the context: there may be many servers to try, and somebody who waits for the bridge to stop.
type dialer struct {
	ctx     context.Context
	timeout time.Duration
}

// Dial implements nats.CustomDialer.
func (d dialer) Dial(network, address string) (net.Conn, error) {
	return (&net.Dialer{Timeout: d.timeout}).DialContext(d.ctx, network, address)
}

// connection is one to NATS, and JetStream over it.
type connection struct {
	nc     *nats.Conn
	js     jetstream.JetStream
	denied *denials
	prefix string // of JetStream's API
	ended  *atomic.Bool
}

// connect makes one. It does not come back by itself once it breaks: a bridge begins anew then, from what is committed. closed is called when that
// happens, and not for close.
func connect(ctx context.Context, s *Spec, dir secrets, name string, window int, log *slog.Logger, closed func(error)) (*connection, error) {
	opts, err := dir.options(&s.Auth)
	if err != nil {
		return nil, err
	}
	denied, timeout, ended := newDenials(), natsTimeout, new(atomic.Bool)
	if d, ok := ctx.Deadline(); ok {
		timeout = min(timeout, max(time.Until(d), time.Millisecond))
	}
	opts = append(opts, nats.SetCustomDialer(dialer{ctx, timeout}), nats.Name("balsa bridge "+name), nats.Timeout(timeout), nats.NoReconnect(), nats.PingInterval(natsPing), nats.MaxPingsOutstanding(natsPings),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			denied.note(err)
			if !errors.Is(err, nats.ErrSlowConsumer) { // those are counted
				log.Warn("NATS says", "err", err)
			}
		}),
		nats.ClosedHandler(func(nc *nats.Conn) {
			if ended.Load() {
				return
			}
			err := nc.LastError()
			if err == nil {
				err = nats.ErrConnectionClosed
			}
			closed(err)
		}))
	nc, err := nats.Connect(strings.Join(s.Servers, ","), opts...)
	if err != nil {
		return nil, fmt.Errorf("connect to NATS at %s: %w", strings.Join(s.Servers, ", "), err)
	}
	jsOpts := []jetstream.JetStreamOpt{jetstream.WithPublishAsyncMaxPending(window), jetstream.WithDefaultTimeout(natsTimeout)}
	var js jetstream.JetStream
	prefix := "$JS.API."
	if s.JSDomain != "" {
		prefix = "$JS." + s.JSDomain + ".API."
		js, err = jetstream.NewWithDomain(nc, s.JSDomain, jsOpts...)
	} else {
		js, err = jetstream.New(nc, jsOpts...)
	}
	if err != nil {
		nc.Close()
		return nil, err
	}
	return &connection{nc, js, denied, prefix, ended}, nil
}

// close ends it from this side. It may be called again.
func (c *connection) close() {
	c.ended.Store(true)
	c.nc.Close()
}

// ask asks JetStream something until it answers, for leaderTimeout at most.
func ask[T any](ctx context.Context, question func(context.Context) (T, error)) (T, error) {
	ctx, cancel := context.WithTimeout(ctx, leaderTimeout)
	defer cancel()
	for wait := askEvery; ; {
		one, done := context.WithTimeout(ctx, wait)
		answer, err := question(one)
		done()
		if !leaderless(err) || ctx.Err() != nil {
			return answer, err
		}
		if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, nats.ErrTimeout) { // and not where somebody has answered
			wait *= 2
		}
		t := time.NewTimer(askPause)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return answer, err
		}
	}
}

// leaderless: nobody has answered, or somebody that there is no leader.
func leaderless(err error) bool {
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, nats.ErrTimeout) || errors.Is(err, nats.ErrNoResponders) {
		return true
	}
	var api jetstream.JetStreamError
	if !errors.As(err, &api) || api.APIError() == nil || errors.Is(err, jetstream.ErrJetStreamNotEnabled) || errors.Is(err, jetstream.ErrJetStreamNotEnabledForAccount) {
		return false
	}
	return api.APIError().Code == http.StatusServiceUnavailable
}

// stream asks for a stream, as its leader knows it.
func (c *connection) stream(ctx context.Context, name string) (jetstream.Stream, *jetstream.StreamInfo, error) {
	s, err := ask(ctx, func(ctx context.Context) (jetstream.Stream, error) { return c.js.Stream(ctx, name) })
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil, nil, fmt.Errorf("there is no stream %s: %w", name, err)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("ask for stream %s: %w", name, err)
	}
	return s, s.CachedInfo(), nil
}

// TLS and SASL: how a client proves who it is, and makes sure whom it talks to.

package client

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl"
	"github.com/twmb/franz-go/pkg/sasl/oauth"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"

	"github.com/balsamq/balsa/internal/sock"
)

// SASL mechanisms, for Security.Mechanism.
const (
	MechanismPlain       = "PLAIN"
	MechanismScramSHA256 = "SCRAM-SHA-256"
	MechanismScramSHA512 = "SCRAM-SHA-512"
	MechanismOAuthBearer = "OAUTHBEARER"
)

// maxSecretFile bounds a file that holds a password or a token.
const maxSecretFile = 64 << 10

// Security says how to connect. The zero value is plaintext, and nobody is asked who they are.
type Security struct {
	// TLS encrypts the connection. It is on as well where one of the next four fields is set.
	TLS bool
	// CA is a PEM file of the authorities that brokers' certificates come from. Empty: the system's.
	CA string
	// Cert and Key are PEM files of a certificate of the client's own, for brokers that ask for one.
	Cert, Key string
	// ServerName is the name that brokers' certificates must have. Empty: of the address that is connected to.
	ServerName string

	// Mechanism of SASL; empty: none, or SCRAM-SHA-512 where User is set, or OAUTHBEARER where Token or TokenFile is.
	Mechanism string
	// User and Password, or the file that holds the password on its first line.
	User, Password, PasswordFile string
	// Token is a JSON Web Token; TokenFile a file with one, which is read again each time.
	Token, TokenFile string
}

// UsesTLS says whether connections are encrypted.
func (s *Security) UsesTLS() bool {
	return s.TLS || s.CA != "" || s.Cert != "" || s.Key != "" || s.ServerName != ""
}

// tlsConfig is nil without TLS.
func (s *Security) tlsConfig() (*tls.Config, error) {
	if !s.UsesTLS() {
		return nil, nil
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: s.ServerName}
	if s.CA != "" {
		pem, err := os.ReadFile(s.CA)
		if err != nil {
			return nil, err
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s holds no certificate in PEM form", s.CA)
		}
	}
	if s.Cert != "" || s.Key != "" {
		pair, err := tls.LoadX509KeyPair(s.Cert, s.Key)
		if err != nil {
			return nil, fmt.Errorf("the client's certificate and key: %w", err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c, nil
}

// mechanism is nil without SASL.
func (s *Security) mechanism() (sasl.Mechanism, error) {
	name := s.Mechanism
	switch {
	case name != "":
	case s.User != "":
		name = MechanismScramSHA512
	case s.Token != "" || s.TokenFile != "":
		name = MechanismOAuthBearer
	default:
		return nil, nil
	}
	if name == MechanismOAuthBearer {
		if (s.Token == "") == (s.TokenFile == "") {
			return nil, errors.New("OAUTHBEARER takes a token, or a file with one")
		}
		return oauth.Oauth(func(context.Context) (oauth.Auth, error) {
			token := s.Token
			if s.TokenFile != "" {
				var err error
				if token, err = ReadSecret(s.TokenFile); err != nil {
					return oauth.Auth{}, err
				}
			}
			return oauth.Auth{Token: token}, nil
		}), nil
	}
	if s.User == "" {
		return nil, fmt.Errorf("%s takes a user", name)
	}
	password := s.Password
	if s.PasswordFile != "" {
		if password != "" {
			return nil, errors.New("a password and a file with one: give one of the two")
		}
		var err error
		if password, err = ReadSecret(s.PasswordFile); err != nil {
			return nil, err
		}
	}
	if password == "" {
		return nil, fmt.Errorf("%s takes a password for user %q", name, s.User)
	}
	switch name {
	case MechanismPlain:
		return plain.Auth{User: s.User, Pass: password}.AsMechanism(), nil
	case MechanismScramSHA256:
		return scram.Auth{User: s.User, Pass: password}.AsSha256Mechanism(), nil
	case MechanismScramSHA512:
		return scram.Auth{User: s.User, Pass: password}.AsSha512Mechanism(), nil
	}
	return nil, fmt.Errorf("there is no mechanism %q: %s, %s, %s or %s", name, MechanismPlain, MechanismScramSHA256, MechanismScramSHA512, MechanismOAuthBearer)
}

// ReadSecret is the first line of a file that holds a password or a token.
func ReadSecret(name string) (string, error) {
	raw, err := os.ReadFile(name)
	if err != nil {
		return "", err
	}
	if len(raw) > maxSecretFile {
		return "", fmt.Errorf("%s is %d bytes long, more than a secret can be", name, len(raw))
	}
	line, _, _ := strings.Cut(string(raw), "\n")
	line = strings.TrimSuffix(line, "\r")
	if line == "" {
		return "", fmt.Errorf("%s is empty", name)
	}
	return line, nil
}

// connector makes connections, with the handshake of TLS if there is one.
type connector struct {
	config *tls.Config  // nil: without TLS
	limit  atomic.Int64 // how long a connection may take, a time.Duration; 0: as long as it takes
}

// connectedKey is the context's key of a func() that is called when a connection is made and the handshake begins.
type connectedKey struct{}

func (c *connector) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	limit := time.Duration(c.limit.Load())
	var deadline time.Time // none
	if limit > 0 {
		deadline = time.Now().Add(limit)
	}
	conn, err := (&net.Dialer{Deadline: deadline}).DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	conn = sock.Wrap(conn)
	if c.config == nil {
		return conn, nil
	}
	config := c.config
	if config.ServerName == "" {
		config = config.Clone()
		if config.ServerName, _, err = net.SplitHostPort(addr); err != nil {
			conn.Close()
			return nil, err
		}
	}
	if told, ok := ctx.Value(connectedKey{}).(func()); ok {
		told()
	}
	shake := ctx
	if limit > 0 {
		var cancel context.CancelFunc
		shake, cancel = context.WithDeadline(ctx, deadline)
		defer cancel()
	}
	secure := tls.Client(conn, config)
	if err := secure.HandshakeContext(shake); err != nil {
		conn.Close()
		if shake.Err() != nil && ctx.Err() == nil { // whose context has not ended, should not be told so
			err = &net.OpError{Op: "TLS handshake", Net: network, Addr: conn.RemoteAddr(), Err: fmt.Errorf("no answer within %v", limit)}
		}
		return nil, err
	}
	return secure, nil
}

// options are franz-go's for all this, and what makes connections.
func (s *Security) options() (*connector, []kgo.Opt, error) {
	config, err := s.tlsConfig()
	var m sasl.Mechanism
	if err == nil {
		m, err = s.mechanism()
	}
	if err != nil {
		return nil, nil, &Error{Op: "set up the connection's security", Kind: ErrInvalid, Err: err}
	}
	var opts []kgo.Opt
	if m != nil {
		opts = append(opts, kgo.SASL(m))
	}
	return &connector{config: config}, opts, nil
}

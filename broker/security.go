// What the configuration says about security, made into what listeners, transport and server use.

package broker

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"time"
)

// serverSecurity says who the Kafka server's clients are. The zero value takes everybody for anonymous.
type serverSecurity struct {
	TLS    *tls.Config // of listeners that speak it
	Rules  principalRules
	Supers map[string]struct{} // principals that need no ACL
	// AuthTimeout bounds the time until a connection has proved who it is; 0: 10 s.
	AuthTimeout time.Duration
}

func (s *serverSecurity) session(principal, mechanism string, expires time.Time) *session {
	_, super := s.Supers[principal]
	return &session{principal: principal, super: super, mechanism: mechanism, expires: expires}
}

// checkSecurity says what is wrong with the settings of this file.
func (c *Config) checkSecurity() (errs []error) {
	add := func(err error) {
		if err != nil {
			errs = append(errs, fmt.Errorf("%w: %w", ErrConfig, err))
		}
	}
	add(c.KafkaTLS.check("KafkaTLS"))
	add(c.RPCTLS.check("RPCTLS"))
	add(c.AdminTLS.check("AdminTLS"))
	if c.RPCTLS.enabled() && (c.RPCTLS.CA == "" || c.RPCTLS.clientAuth() != ClientAuthRequired) {
		add(fmt.Errorf("RPCTLS needs the authority of the other brokers' certificates, and asks each for one"))
	}
	if len(c.KafkaTLS.AllowedNames)+len(c.AdminTLS.AllowedNames) > 0 {
		add(fmt.Errorf("AllowedNames are for RPCTLS only"))
	}
	if _, err := parsePrincipalRules(c.PrincipalRules); err != nil {
		add(fmt.Errorf("PrincipalRules: %w", err))
	}
	if c.AuthTimeout < 0 {
		add(fmt.Errorf("AuthTimeout %v is negative", c.AuthTimeout))
	}
	return errs
}

// openSecurity loads what lies in files, before anything listens.
func (b *Broker) openSecurity() error {
	open := func(what string, f TLSFiles) (*certStore, error) {
		if !f.enabled() {
			return nil, nil
		}
		s, err := openCerts(what, f, b.log)
		if err == nil {
			b.certs = append(b.certs, s)
		}
		return s, err
	}
	kafka, err := open("Kafka clients", b.cfg.KafkaTLS)
	if err != nil {
		return err
	}
	if b.rpcCerts, err = open("other brokers", b.cfg.RPCTLS); err != nil {
		return err
	}
	admin, err := open("administration", b.cfg.AdminTLS)
	if err != nil {
		return err
	}
	if admin != nil {
		b.adminTLS = admin.serverConfig()
	}
	rules, err := parsePrincipalRules(b.cfg.PrincipalRules)
	if err != nil {
		return fmt.Errorf("%w: PrincipalRules: %w", ErrConfig, err)
	}
	b.security = serverSecurity{Rules: rules, AuthTimeout: b.cfg.AuthTimeout}
	if kafka != nil {
		b.security.TLS = kafka.serverConfig()
	}
	if len(b.certs) > 0 {
		b.spawn(func() { b.watchCerts(b.ctx) })
	}
	return nil
}

// rpcListener is ln with TLS, if brokers speak it.
func (b *Broker) rpcListener(ln net.Listener) net.Listener {
	if b.rpcCerts == nil {
		return ln
	}
	return tls.NewListener(ln, b.rpcCerts.serverConfig())
}

// rpcDial connects to another broker; nil: as the transport does by itself.
func (b *Broker) rpcDial() func(context.Context, string) (net.Conn, error) {
	if b.rpcCerts == nil {
		return nil
	}
	return func(ctx context.Context, addr string) (net.Conn, error) {
		host, _, err := net.SplitHostPort(addr)
		if err != nil {
			return nil, err
		}
		d := tls.Dialer{Config: b.rpcCerts.clientConfig(host)}
		return d.DialContext(ctx, "tcp", addr)
	}
}

// adminURL is where operators find the admin listener; empty if there is none. Without a scheme it is http.
func (b *Broker) adminURL() string {
	if b.adm != nil && b.adm.secure {
		return "https://" + b.adm.addr
	}
	return b.AdminAddr()
}

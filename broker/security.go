// What the configuration says about security, made into what listeners, transport and server use.

package broker

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/balsamq/balsa/coordinator"
)

// serverSecurity says who the Kafka server's clients are. The zero value takes everybody for anonymous.
type serverSecurity struct {
	TLS    *tls.Config // of listeners that speak it
	Rules  principalRules
	Supers map[string]struct{} // principals that need no ACL
	SASL   *saslServer         // nil: no listener wants it
	// Authorizer decides what they may do; nil: everything.
	Authorizer *authorizer
	// Audit is where decisions and changes are logged. Default: nowhere.
	Audit *slog.Logger
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
	if c.RPCTLSOptional && !c.RPCTLS.enabled() {
		add(errors.New("RPCTLSOptional without RPCTLS: there is no TLS that could be optional"))
	}
	if len(c.KafkaTLS.AllowedNames)+len(c.AdminTLS.AllowedNames) > 0 {
		add(fmt.Errorf("AllowedNames are for RPCTLS only"))
	}
	if _, err := parsePrincipalRules(c.PrincipalRules); err != nil {
		add(fmt.Errorf("PrincipalRules: %w", err))
	}
	add(checkMechanisms(c.SASLMechanisms))
	add(c.OAuth.check())
	if slices.Contains(c.SASLMechanisms, MechanismOAuthBearer) && !c.OAuth.enabled() {
		add(errors.New("SASL mechanism OAUTHBEARER needs OAuth: where the keys of its tokens are"))
	}
	if c.ReauthInterval < 0 || c.ReauthInterval > 0 && c.ReauthInterval < time.Second {
		add(fmt.Errorf("ReauthInterval %v is below a second", c.ReauthInterval))
	}
	for _, p := range c.SuperUsers {
		if !strings.HasPrefix(p, userPrefix) || p == userPrefix || p == coordinator.AnyUser {
			add(fmt.Errorf("super user %q is not User:NAME", p))
		}
	}
	if u := c.BootstrapUser; u != "" && (len(u) > coordinator.MaxUserName || c.BootstrapPassword == "" || len(c.BootstrapPassword) > maxPassword) {
		add(fmt.Errorf("BootstrapUser %.64q needs a BootstrapPassword, and neither can be longer than %d", u, maxPassword))
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
	b.security = serverSecurity{Rules: rules, AuthTimeout: b.cfg.AuthTimeout, Supers: make(map[string]struct{}), Audit: b.log.With("logger", "audit")}
	for _, p := range b.cfg.SuperUsers {
		b.security.Supers[p] = struct{}{}
	}
	if slices.ContainsFunc(b.cfg.listeners(), func(l Listener) bool { return l.sasl() }) {
		mechanisms := slices.Clone(b.cfg.SASLMechanisms)
		var oauth *tokenVerifier
		if len(mechanisms) == 0 {
			mechanisms = []string{MechanismScramSHA512, MechanismScramSHA256}
			if b.cfg.OAuth.enabled() {
				mechanisms = append(mechanisms, MechanismOAuthBearer)
			}
		}
		if slices.Contains(mechanisms, MechanismOAuthBearer) {
			oauth = newTokenVerifier(b.cfg.OAuth, b.log)
			b.spawn(func() { oauth.run(b.ctx) })
		}
		b.security.SASL = newSASLServer(mechanisms, b.Image, oauth, b.cfg.ReauthInterval)
		for _, l := range b.cfg.listeners() {
			if l.Protocol == ProtocolSASLPlaintext && (oauth != nil || slices.Contains(mechanisms, MechanismPlain)) {
				b.log.Warn("passwords or tokens cross the network as they are: PLAIN and OAUTHBEARER belong on a listener with TLS", "listener", l.Name)
			}
		}
	}
	if b.cfg.ACLs {
		b.security.Authorizer = newAuthorizer(b.Image, b.cfg.AllowEveryoneIfNoACL, b.security.Audit)
		if b.rpcCerts == nil || b.cfg.RPCTLSOptional {
			b.log.Warn("ACLs hold for Kafka clients, and whoever reaches the address for other brokers may do everything there: brokers should speak TLS to each other (rpc-tls-cert)", "rpc", b.cfg.ListenRPC, "optional", b.cfg.RPCTLSOptional)
		}
	}
	if kafka != nil {
		b.security.TLS = kafka.serverConfig()
	}
	if len(b.certs) > 0 {
		b.spawn(func() { b.watchCerts(b.ctx) })
	}
	return nil
}

// ensureFirstUser makes the bootstrap user, if the cluster has no user at all.
func (b *Broker) ensureFirstUser(ctx context.Context) error {
	user := b.cfg.BootstrapUser
	if user == "" || b.Image().UserCount() > 0 {
		return nil
	}
	cmd := &coordinator.AlterUsers{First: true, Secret: loginSecret()}
	for _, m := range []string{MechanismScramSHA256, MechanismScramSHA512} {
		c, err := newCredential(user, m, b.cfg.BootstrapPassword)
		if err != nil {
			return err
		}
		cmd.Set = append(cmd.Set, c)
	}
	err := b.change(ctx, &coordinator.Command{AlterUsers: cmd})
	switch {
	case errors.Is(err, coordinator.ErrHasUsers):
		return nil
	case err != nil:
		return fmt.Errorf("make the first user %q: %w", user, err)
	}
	b.log.Info("the cluster has its first user", "user", user)
	return nil
}

// Change implements backend.
func (b *Broker) Change(ctx context.Context, c *coordinator.Command, done func(*coordinator.Result, error)) {
	b.admin(ctx, func(ctx context.Context) {
		r, err := b.ask(ctx, &coordinator.Intent{Request: newRequestID(), Command: c})
		if err == nil {
			err = r.Err()
		}
		if err != nil {
			done(nil, err)
			return
		}
		// It is done. Whoever goes to another broker next finds it there too, or that broker is behind and knows it.
		wait, cancel := context.WithTimeout(ctx, b.cfg.SessionTimeout)
		defer cancel()
		_ = b.awaitCluster(wait, r.Index, nil)
		done(r, nil)
	}, func(err error) { done(nil, err) })
}

// adminURL is where operators find the admin listener; empty if there is none. Without a scheme it is http.
func (b *Broker) adminURL() string {
	if b.adm != nil && b.adm.secure {
		return "https://" + b.adm.addr
	}
	return b.AdminAddr()
}

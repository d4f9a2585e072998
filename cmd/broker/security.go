// Flags for TLS and SASL: how the tools connect, and what `broker start` demands of those who connect to it.

package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/balsamq/balsa/broker"
	"github.com/balsamq/balsa/client"
)

// securityFlags are the global ones: how to connect.
func securityFlags(pf *pflag.FlagSet) {
	pf.Bool("tls", false, "connect with TLS; on as well where one of the next four is given")
	pf.String("tls-ca", "", "`FILE` with the authorities that brokers' certificates come from (PEM); default: the system's")
	pf.String("tls-client-cert", "", "`FILE` with a certificate to show to brokers (PEM)")
	pf.String("tls-client-key", "", "`FILE` with its private key (PEM)")
	pf.String("tls-server-name", "", "the `NAME` that brokers' certificates have; default: of the address")
	pf.Var(newChoice("auto", "auto", client.MechanismPlain, client.MechanismScramSHA256, client.MechanismScramSHA512, client.MechanismOAuthBearer), "sasl",
		"the SASL `MECHANISM`: PLAIN, SCRAM-SHA-256, SCRAM-SHA-512, OAUTHBEARER; auto: SCRAM-SHA-512 with --user, OAUTHBEARER with --token-file, or none")
	pf.StringP("user", "u", "", "the user `NAME` to be")
	pf.String("password", "", "the user's password; others on this machine see it in the list of processes: BALSA_PASSWORD and --password-file are better")
	pf.String("password-file", "", "`FILE` with the password on its first line")
	pf.String("token-file", "", "`FILE` with a token (JWT) on its first line")
	for _, name := range []string{"tls", "tls-ca", "tls-client-cert", "tls-client-key", "tls-server-name", "sasl", "user", "password", "password-file", "token-file"} {
		setting(pf, name, name)
	}
}

func securityOf(cmd *cobra.Command) client.Security {
	text := func(name string) string {
		s, _ := cmd.Flags().GetString(name)
		return s
	}
	s := client.Security{
		CA: text("tls-ca"), Cert: text("tls-client-cert"), Key: text("tls-client-key"), ServerName: text("tls-server-name"),
		User: text("user"), Password: text("password"), PasswordFile: text("password-file"), TokenFile: text("token-file"),
	}
	s.TLS, _ = cmd.Flags().GetBool("tls")
	if m := cmd.Flags().Lookup("sasl"); m != nil && m.Value.String() != "auto" {
		s.Mechanism = m.Value.String()
	}
	return s
}

// startSecurity are the flags of `broker start` that need more than a place in broker.Config.
type startSecurity struct {
	listeners, advertised, protocols []string
	clientAuth                       *choice
	passwordFile                     string
}

func (s *startSecurity) flags(f *pflag.FlagSet, cfg *broker.Config) {
	f.StringSliceVar(&s.listeners, "listeners", nil, "listen for Kafka clients on `NAME://HOST:PORT,...`, instead of --kafka-listen: SASL_SSL://0.0.0.0:9093")
	f.StringSliceVar(&s.advertised, "advertised-listeners", nil, "the addresses that clients are told for them, `NAME://HOST:PORT,...`; default: where they listen")
	f.StringSliceVar(&s.protocols, "listener-protocols", nil, "what they speak, `NAME:PROTOCOL,...`: PLAINTEXT, SSL, SASL_PLAINTEXT, SASL_SSL; not needed where the name says it")
	files := func(prefix, whom, ca string, t *broker.TLSFiles) {
		f.StringVar(&t.Cert, prefix+"-tls-cert", "", "`FILE` with the certificate to show to "+whom+" (PEM, with its chain); read anew every 10 s and at SIGHUP")
		f.StringVar(&t.Key, prefix+"-tls-key", "", "`FILE` with its private key (PEM)")
		f.StringVar(&t.CA, prefix+"-tls-ca", "", "`FILE` with the authorities of "+ca)
	}
	files("kafka", "Kafka clients", "clients' certificates", &cfg.KafkaTLS)
	s.clientAuth = newChoice("auto", "auto", broker.ClientAuthNone, broker.ClientAuthRequested, broker.ClientAuthRequired)
	f.Var(s.clientAuth, "kafka-tls-client-auth", "whether Kafka clients show a certificate: `none|requested|required`; auto: required where --kafka-tls-ca is given")
	files("rpc", "other brokers", "other brokers' certificates, which each must show: all brokers of a cluster, or none", &cfg.RPCTLS)
	f.StringSliceVar(&cfg.RPCTLS.AllowedNames, "rpc-tls-names", nil, "the `NAME,...` (DNS or common name, * for a part) that other brokers' certificates may have; default: any")
	f.BoolVar(&cfg.RPCTLSOptional, "rpc-tls-optional", false, "take other brokers without TLS as well: while a cluster changes to TLS between brokers, one broker after the other")
	files("admin", "operators", "operators' certificates, which each must show then", &cfg.AdminTLS)
	f.StringVar(&cfg.PrincipalRules, "principal-rules", "", "how a client certificate's subject becomes a user's name: `RULE:PATTERN/NAME/[LU],...` (ssl.principal.mapping.rules); default: as it is")
	f.StringSliceVar(&cfg.SASLMechanisms, "sasl-mechanisms", nil, "the `NAME,...` of SASL mechanisms to offer: SCRAM-SHA-512, SCRAM-SHA-256, PLAIN, OAUTHBEARER; default: the first two, and the last if --oauth-jwks is given")
	f.StringVar(&cfg.OAuth.JWKS, "oauth-jwks", "", "`URL` or file with the keys (JWKS) of OAUTHBEARER's tokens")
	f.StringVar(&cfg.OAuth.Issuer, "oauth-issuer", "", "the `NAME` of the tokens' issuer")
	f.StringSliceVar(&cfg.OAuth.Audience, "oauth-audience", nil, "the audiences `NAME,...` of which a token must have one")
	f.StringVar(&cfg.OAuth.PrincipalClaim, "oauth-principal-claim", "sub", "the claim `NAME` that holds the user's name")
	f.DurationVar(&cfg.OAuth.ClockSkew, "oauth-clock-skew", 30*time.Second, "by how much the issuer's clock may differ, at most 5m")
	f.DurationVar(&cfg.OAuth.Refresh, "oauth-refresh", time.Hour, "how often the keys are fetched anew")
	f.DurationVar(&cfg.ReauthInterval, "reauth-interval", 0, "after how long a client must authenticate anew at the latest; 0: never, or when its token expires")
	f.BoolVar(&cfg.ACLs, "acls", false, "allow clients what ACLs allow them, and super users everything; otherwise everybody may do everything")
	f.BoolVar(&cfg.AllowEveryoneIfNoACL, "allow-everyone-if-no-acl", false, "what no ACL is about at all is everybody's")
	f.StringSliceVar(&cfg.SuperUsers, "super-users", nil, "principals `User:NAME,...` that need no ACL")
	f.StringVar(&cfg.BootstrapUser, "bootstrap-user", "", "make the user `NAME` if the cluster has no user at all")
	f.StringVar(&s.passwordFile, "bootstrap-password-file", "", "`FILE` with that user's password on its first line")
	f.IntVar(&cfg.MaxConnections, "max-connections", 10_000, "connections of clients that may be open")
	f.IntVar(&cfg.MaxConnectionsPerIP, "max-connections-per-ip", 0, "those of one address; 0: as many as there may be")
	f.Float64Var(&cfg.ConnectionRate, "connection-rate", 0, "new connections a second, further ones wait; 0: no bound")
	f.Float64Var(&cfg.ConnectionRatePerIP, "connection-rate-per-ip", 0, "those of one address, further ones are closed; 0: no bound")
	sizeVar(f, &cfg.ConnectionMemory, "connection-memory", 0, "bytes that one connection's unanswered produce requests may hold; 0: an eighth of --max-request-memory")
	f.DurationVar(&cfg.AuthTimeout, "auth-timeout", 10*time.Second, "how long a connection may take to prove who it is, with TLS")
}

// apply puts them into the configuration.
func (s *startSecurity) apply(cfg *broker.Config) error {
	if s.clientAuth.String() != "auto" {
		cfg.KafkaTLS.ClientAuth = s.clientAuth.String()
	}
	var err error
	if s.passwordFile != "" {
		if cfg.BootstrapPassword, err = client.ReadSecret(s.passwordFile); err != nil {
			return fmt.Errorf("%w: the first user's password: %w", broker.ErrConfig, err)
		}
	}
	cfg.Listeners, err = broker.ParseListeners(s.listeners, s.advertised, s.protocols)
	return err
}

// TLS: certificates from files, which are read anew while the broker runs. Who loads them gets a [tls.Config] that always
// speaks with the newest; connections that stand already go on with what they have.

package broker

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// tlsReload is how often certificate files are looked at.
	tlsReload = 10 * time.Second
	// maxPEM bounds one of these files.
	maxPEM = 4 << 20
	// expiryNotice is how long before its end a certificate is warned of, at each load.
	expiryNotice = 14 * 24 * time.Hour
)

// TLSFiles are the certificates of one kind of listener, as PEM files. They are read anew every ten seconds and by
// [Broker.ReloadTLS]; a set that does not load leaves the last one in force. The zero value is no TLS.
type TLSFiles struct {
	// Cert is the certificate with the chain to its authority, Key its private key. Both or neither.
	Cert, Key string
	// CA are the authorities whose certificates are accepted from the other side.
	CA string
	// ClientAuth, for Kafka clients, says whether they must show a certificate of CA: [ClientAuthNone], the default without CA,
	// [ClientAuthRequested], or [ClientAuthRequired], the default with one.
	ClientAuth string
	// AllowedNames, between brokers, are the names (DNS names of a certificate, or its common name; "*" within one stands for
	// anything but a dot) that may call themselves a broker. Empty: whoever has a certificate of CA.
	AllowedNames []string
}

// Values of TLSFiles.ClientAuth.
const (
	ClientAuthNone      = "none"
	ClientAuthRequested = "requested"
	ClientAuthRequired  = "required"
)

func (f *TLSFiles) enabled() bool { return f.Cert != "" || f.Key != "" }

func (f *TLSFiles) clientAuth() string {
	switch {
	case f.ClientAuth != "":
		return f.ClientAuth
	case f.CA != "":
		return ClientAuthRequired
	}
	return ClientAuthNone
}

// check says what is wrong with the settings themselves.
func (f *TLSFiles) check(what string) error {
	switch {
	case (f.Cert == "") != (f.Key == ""):
		return fmt.Errorf("%s: a certificate and its key belong together", what)
	case !f.enabled() && (f.CA != "" || f.ClientAuth != "" || len(f.AllowedNames) > 0):
		return fmt.Errorf("%s: authorities or names without a certificate of the broker's own", what)
	case !slices.Contains([]string{"", ClientAuthNone, ClientAuthRequested, ClientAuthRequired}, f.ClientAuth):
		return fmt.Errorf("%s: client authentication %q is not %s, %s or %s", what, f.ClientAuth, ClientAuthNone, ClientAuthRequested, ClientAuthRequired)
	case f.CA == "" && f.clientAuth() != ClientAuthNone:
		return fmt.Errorf("%s: to ask clients for certificates the broker must know their authority", what)
	}
	for _, n := range f.AllowedNames {
		if _, err := path.Match(n, ""); err != nil || n == "" {
			return fmt.Errorf("%s: %q is no name", what, n)
		}
	}
	return nil
}

// certStore holds what the files of one kind of listener said last.
type certStore struct {
	what  string
	files TLSFiles
	log   *slog.Logger
	now   atomic.Pointer[certSet]

	mu     sync.Mutex // held while files are read
	failed string     // the last failure that was logged
}

// certSet is one state of the files.
type certSet struct {
	sum            [sha256.Size]byte
	server, client *tls.Config
}

// openCerts loads the files for the first time, and fails where they are of no use.
func openCerts(what string, files TLSFiles, log *slog.Logger) (*certStore, error) {
	s := &certStore{what: what, files: files, log: log}
	set, err := s.load()
	if err != nil {
		return nil, fmt.Errorf("%w: TLS for %s: %w", ErrConfig, what, err)
	}
	s.now.Store(set)
	return s, nil
}

func readPEM(name string) ([]byte, error) {
	if info, err := os.Stat(name); err == nil && info.Size() > maxPEM {
		return nil, fmt.Errorf("%s is %d bytes long, at most %d", name, info.Size(), maxPEM)
	}
	return os.ReadFile(name)
}

// load reads the files; with the same content as before it returns the same set.
func (s *certStore) load() (*certSet, error) {
	cert, err := readPEM(s.files.Cert)
	if err != nil {
		return nil, err
	}
	key, err := readPEM(s.files.Key)
	if err != nil {
		return nil, err
	}
	var ca []byte
	if s.files.CA != "" {
		if ca, err = readPEM(s.files.CA); err != nil {
			return nil, err
		}
	}
	sum := sha256.Sum256(bytes.Join([][]byte{cert, key, ca}, []byte{0}))
	if now := s.now.Load(); now != nil && now.sum == sum {
		return now, nil
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return nil, fmt.Errorf("%s, %s: %w", s.files.Cert, s.files.Key, err)
	}
	set := &certSet{sum: sum, server: &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{pair}}}
	set.client = set.server.Clone()
	if ca != nil {
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(ca) {
			return nil, fmt.Errorf("%s holds no certificate", s.files.CA)
		}
		set.server.ClientCAs, set.client.RootCAs = pool, pool
	}
	switch s.files.clientAuth() {
	case ClientAuthRequested:
		set.server.ClientAuth = tls.VerifyClientCertIfGiven
	case ClientAuthRequired:
		set.server.ClientAuth = tls.RequireAndVerifyClientCert
	}
	if len(s.files.AllowedNames) > 0 {
		set.server.VerifyConnection, set.client.VerifyConnection = s.verifyName, s.verifyName
	}
	if left := time.Until(pair.Leaf.NotAfter); left < expiryNotice {
		s.log.Warn("a certificate is about to expire, or has", "for", s.what, "file", s.files.Cert, "not_after", pair.Leaf.NotAfter)
	}
	return set, nil
}

// verifyName holds the other side's certificate, which is good, against the allowed names.
func (s *certStore) verifyName(cs tls.ConnectionState) error {
	if len(cs.PeerCertificates) == 0 {
		return errors.New("no certificate")
	}
	cert := cs.PeerCertificates[0]
	for _, have := range append([]string{cert.Subject.CommonName}, cert.DNSNames...) {
		if slices.ContainsFunc(s.files.AllowedNames, func(want string) bool { return nameMatches(want, have) }) {
			return nil
		}
	}
	return fmt.Errorf("the certificate of %q is none of a broker (allowed names: %s)", cert.Subject.CommonName, strings.Join(s.files.AllowedNames, ", "))
}

// nameMatches compares label by label, so that "*" does not reach over a dot.
func nameMatches(pattern, name string) bool {
	p, n := strings.Split(strings.ToLower(pattern), "."), strings.Split(strings.ToLower(name), ".")
	return name != "" && slices.EqualFunc(p, n, func(p, n string) bool {
		ok, err := path.Match(p, n)
		return ok && err == nil
	})
}

// reload takes the files' present content, if it is of use.
func (s *certStore) reload() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	set, err := s.load()
	if err != nil {
		if s.failed != err.Error() {
			s.failed = err.Error()
			s.log.Error("certificates cannot be read; those of before stay in force", "for", s.what, "err", err)
		}
		return fmt.Errorf("TLS for %s: %w", s.what, err)
	}
	s.failed = ""
	if old := s.now.Swap(set); old != set {
		s.log.Info("certificates were read anew", "for", s.what, "file", s.files.Cert, "not_after", set.server.Certificates[0].Leaf.NotAfter)
	}
	return nil
}

// serverConfig is the accepting side's: each handshake takes what is in force then.
func (s *certStore) serverConfig() *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS12, GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return s.now.Load().server, nil }}
}

// clientConfig is the dialing side's, for a broker by that name.
func (s *certStore) clientConfig(host string) *tls.Config {
	c := s.now.Load().client.Clone()
	c.ServerName = host
	return c
}

// ReloadTLS reads all certificate files anew, at once. The error names those that could not be used; what was in force
// before stays so for them.
func (b *Broker) ReloadTLS() error {
	var errs []error
	for _, s := range b.certs {
		errs = append(errs, s.reload())
	}
	return errors.Join(errs...)
}

// watchCerts reloads until ctx ends.
func (b *Broker) watchCerts(ctx context.Context) {
	tick := time.NewTicker(tlsReload)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			_ = b.ReloadTLS() // has been logged
		}
	}
}

// TLS and users for a cluster: certificates that are made at each start, and one user who may do everything.

package brokertest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/balsamq/balsa/broker"
	"github.com/balsamq/balsa/client"
)

const (
	adminUser     = "admin"
	adminPassword = "admin-of-a-test"
)

// secure are the files of a cluster's certificates.
type secure struct{ ca, cert, key string }

func newSecure(dir string) (*secure, error) {
	s := &secure{filepath.Join(dir, "ca.pem"), filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")}
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	ca := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "brokertest"}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	caDER, err := x509.CreateCertificate(rand.Reader, ca, ca, caKey.Public(), caKey)
	if err != nil {
		return nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	leaf := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "broker"}, NotBefore: ca.NotBefore, NotAfter: ca.NotAfter,
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{"localhost"}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	der, err := x509.CreateCertificate(rand.Reader, leaf, ca, key.Public(), caKey)
	if err != nil {
		return nil, err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	for _, f := range []struct {
		name, kind string
		der        []byte
	}{{s.ca, "CERTIFICATE", caDER}, {s.cert, "CERTIFICATE", der}, {s.key, "PRIVATE KEY", keyDER}} {
		if err := os.WriteFile(f.name, pem.EncodeToMemory(&pem.Block{Type: f.kind, Bytes: f.der}), 0o600); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// broker makes a broker secure.
func (s *secure) broker(cfg *broker.Config) {
	cfg.Listeners = []broker.Listener{{Name: broker.ProtocolSASLSSL, Listen: cfg.Listen}}
	cfg.KafkaTLS = broker.TLSFiles{Cert: s.cert, Key: s.key}
	cfg.RPCTLS = broker.TLSFiles{Cert: s.cert, Key: s.key, CA: s.ca}
	cfg.ACLs, cfg.SuperUsers = true, []string{"User:" + adminUser}
	cfg.BootstrapUser, cfg.BootstrapPassword = adminUser, adminPassword
}

func (s *secure) client(user, password string) client.Security {
	return client.Security{CA: s.ca, User: user, Password: password}
}

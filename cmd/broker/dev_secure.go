// broker dev --secure: a cluster of which nothing is open, for trying. Authority, certificates and the password of the user
// admin are made once and lie in DIR/secure, with configuration files for this program and for Kafka's own tools.

package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	crand "crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/balsamq/balsa/client"
)

const (
	devSecureDir = "secure"
	devAdmin     = "admin"
	// devCertLife is how long the certificates are good for, devCertRenew how long before that they are made anew.
	devCertLife  = 365 * 24 * time.Hour
	devCertRenew = 30 * 24 * time.Hour
)

// devSecure are the files.
type devSecure struct{ dir string }

func (s devSecure) file(name string) string { return filepath.Join(s.dir, name) }

// openDevSecure makes what is missing, or about to expire.
func openDevSecure(dataDir string) (*devSecure, error) {
	s := &devSecure{filepath.Join(dataDir, devSecureDir)}
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return nil, err
	}
	if _, err := os.Stat(s.file("admin.password")); err != nil {
		if err := os.WriteFile(s.file("admin.password"), []byte(crand.Text()+"\n"), 0o600); err != nil {
			return nil, err
		}
	}
	if s.certsAreGood() {
		return s, nil
	}
	return s, s.makeCerts()
}

func (s devSecure) certsAreGood() bool {
	for _, name := range []string{"broker", "admin"} {
		pair, err := tls.LoadX509KeyPair(s.file(name+".pem"), s.file(name+".key"))
		if err != nil || time.Until(pair.Leaf.NotAfter) < devCertRenew {
			return false
		}
	}
	_, err := os.Stat(s.file("ca.pem"))
	return err == nil
}

// makeCerts makes an authority, whose key is thrown away, and two certificates.
func (s devSecure) makeCerts() error {
	now := time.Now()
	serial := func() *big.Int { n, _ := crand.Int(crand.Reader, big.NewInt(1<<62)); return n } // never fails
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), crand.Reader)
	if err != nil {
		return err
	}
	ca := &x509.Certificate{SerialNumber: serial(), Subject: pkix.Name{CommonName: "broker dev"}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(devCertLife),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(crand.Reader, ca, ca, &caKey.PublicKey, caKey)
	if err != nil {
		return err
	}
	if err := writePEM(s.file("ca.pem"), "CERTIFICATE", der); err != nil {
		return err
	}
	if ca, err = x509.ParseCertificate(der); err != nil {
		return err
	}
	for name, dns := range map[string][]string{"broker": {"localhost"}, "admin": nil} {
		key, err := ecdsa.GenerateKey(elliptic.P256(), crand.Reader)
		if err != nil {
			return err
		}
		cert := &x509.Certificate{SerialNumber: serial(), Subject: pkix.Name{CommonName: name}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(devCertLife),
			KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
		if dns != nil {
			cert.DNSNames, cert.IPAddresses = dns, []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback}
			cert.ExtKeyUsage = append(cert.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
		}
		if der, err = x509.CreateCertificate(crand.Reader, cert, ca, &key.PublicKey, caKey); err != nil {
			return err
		}
		raw, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			return err
		}
		if err := writePEM(s.file(name+".key"), "PRIVATE KEY", raw); err != nil {
			return err
		}
		if err := writePEM(s.file(name+".pem"), "CERTIFICATE", der); err != nil {
			return err
		}
	}
	return nil
}

func writePEM(file, kind string, der []byte) error {
	return os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600)
}

// flags are what each broker is started with, in place of --kafka-listen.
func (s devSecure) flags(kafka string) []string {
	cert, key, ca := s.file("broker.pem"), s.file("broker.key"), s.file("ca.pem")
	return []string{"--listeners", "SASL_SSL://" + kafka, "--kafka-tls-cert", cert, "--kafka-tls-key", key,
		"--rpc-tls-cert", cert, "--rpc-tls-key", key, "--rpc-tls-ca", ca, "--rpc-tls-names", "broker",
		"--admin-tls-cert", cert, "--admin-tls-key", key, "--admin-tls-ca", ca,
		"--sasl-mechanisms", "SCRAM-SHA-512,SCRAM-SHA-256,PLAIN", "--acls", "--super-users", "User:" + devAdmin,
		"--bootstrap-user", devAdmin, "--bootstrap-password-file", s.file("admin.password"),
		"--bridge-user", devAdmin, "--bridge-password-file", s.file("admin.password"), "--bridge-tls-ca", ca}
}

// client is how to connect as admin.
func (s devSecure) client() client.Security {
	return client.Security{CA: s.file("ca.pem"), Cert: s.file("admin.pem"), Key: s.file("admin.key"), User: devAdmin, PasswordFile: s.file("admin.password")}
}

// writeConfigs writes the configuration files for clients.
func (s devSecure) writeConfigs(brokers []string) error {
	c := s.client()
	raw, err := yaml.Marshal(map[string]any{"brokers": brokers, "user": c.User, "password-file": c.PasswordFile, "tls-ca": c.CA, "tls-client-cert": c.Cert, "tls-client-key": c.Key})
	if err != nil {
		return err
	}
	if err := os.WriteFile(s.file("client.yaml"), raw, 0o600); err != nil {
		return err
	}
	password, err := client.ReadSecret(c.PasswordFile)
	if err != nil {
		return err
	}
	java := fmt.Sprintf(`bootstrap.servers=%s
security.protocol=SASL_SSL
ssl.truststore.type=PEM
ssl.truststore.location=%s
sasl.mechanism=SCRAM-SHA-512
sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required username="%s" password="%s";
`, strings.Join(brokers, ","), c.CA, c.User, password)
	return os.WriteFile(s.file("client.properties"), []byte(java), 0o600)
}

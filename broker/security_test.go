package broker

// Listeners, TLS and principals, with certificates made on the spot.

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/balsamq/balsa/coordinator"
	"github.com/balsamq/balsa/raft"
)

// testCA is an authority with a directory for its files.
type testCA struct {
	t    *testing.T
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	n    int64
}

func newTestCA(t *testing.T) *testCA {
	ca := &testCA{t: t, dir: t.TempDir()}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(30 * 24 * time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	ca.key, ca.n = key, 1
	if ca.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	ca.write("ca.pem", "CERTIFICATE", der)
	return ca
}

func (ca *testCA) write(name, kind string, der []byte) string {
	file := filepath.Join(ca.dir, name)
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		ca.t.Fatal(err)
	}
	return file
}

func (ca *testCA) file() string { return filepath.Join(ca.dir, "ca.pem") }

// issue makes a certificate for 127.0.0.1 and writes NAME.pem and NAME.key.
func (ca *testCA) issue(file string, subject pkix.Name) (cert, keyFile string) {
	ca.t.Helper()
	ca.n++
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		ca.t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(ca.n), Subject: subject, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(20 * 24 * time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, ca.cert, &key.PublicKey, ca.key)
	if err != nil {
		ca.t.Fatal(err)
	}
	raw, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		ca.t.Fatal(err)
	}
	return ca.write(file+".pem", "CERTIFICATE", der), ca.write(file+".key", "EC PRIVATE KEY", raw)
}

func (ca *testCA) files(file string, subject pkix.Name) TLSFiles {
	cert, key := ca.issue(file, subject)
	return TLSFiles{Cert: cert, Key: key, CA: ca.file()}
}

// client is a client's configuration; with a file, with that certificate.
func (ca *testCA) client(file string) *tls.Config {
	ca.t.Helper()
	c := &tls.Config{RootCAs: x509.NewCertPool(), ServerName: "127.0.0.1"}
	c.RootCAs.AddCert(ca.cert)
	if file != "" {
		pair, err := tls.LoadX509KeyPair(filepath.Join(ca.dir, file+".pem"), filepath.Join(ca.dir, file+".key"))
		if err != nil {
			ca.t.Fatal(err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c
}

func TestPrincipalRules(t *testing.T) {
	const name = "CN=Alice,OU=Dev,O=Balsa"
	for _, tc := range []struct{ rules, in, want string }{
		{"", name, name},
		{"DEFAULT", name, name},
		{"RULE:^CN=(.*?),OU=Dev.*$/$1/", name, "Alice"},
		{"RULE:^CN=(.*?),OU=Dev.*$/$1/L", name, "alice"},
		{"RULE:^CN=(.*?),OU=Dev.*$/$1@$1x/U,DEFAULT", name, "ALICE@ALICEX"},
		{"RULE:^CN=(.*?),OU=Ops.*$/$1/L, DEFAULT", name, name},
		{`RULE:^CN=(.*?),OU=a\/b$/$1\/x/`, "CN=q,OU=a/b", "q/x"},
		{"RULE:CN=Alice/never/", name, ""}, // not the whole name
	} {
		rules, err := parsePrincipalRules(tc.rules)
		if err != nil {
			t.Errorf("%q: %v", tc.rules, err)
			continue
		}
		got, err := rules.apply(tc.in)
		if got != tc.want || (err != nil) != (tc.want == "") {
			t.Errorf("%q of %q: %q, %v; want %q", tc.rules, tc.in, got, err, tc.want)
		}
	}
	for _, bad := range []string{"RULE:a", "RULE:a/b", "RULE:(/b/", "x", "DEFAULT DEFAULT", "RULE:a/b/LU", strings.Repeat("x", maxPrincipalRules+1)} {
		if _, err := parsePrincipalRules(bad); err == nil {
			t.Errorf("%.20q was accepted", bad)
		}
	}
}

func TestParseListeners(t *testing.T) {
	got, err := ParseListeners([]string{"in://127.0.0.1:1", "SASL_SSL://[::1]:2"}, []string{"SASL_SSL://b.example:3"}, []string{"IN:plaintext"})
	if err != nil || len(got) != 2 || got[0] != (Listener{Name: "IN", Protocol: ProtocolPlaintext, Listen: "127.0.0.1:1"}) ||
		got[1] != (Listener{Name: "SASL_SSL", Listen: "[::1]:2", Advertise: "b.example:3"}) {
		t.Errorf("%+v, %v", got, err)
	}
	for _, bad := range [][3][]string{{{"127.0.0.1:1"}}, {{"A://x:1"}, {"B://x:1"}}, {{"A://x:1"}, nil, {"A"}}, {{"A://x:1"}, nil, {"B:SSL"}}} {
		if _, err := ParseListeners(bad[0], bad[1], bad[2]); !errors.Is(err, ErrConfig) {
			t.Errorf("%v: %v", bad, err)
		}
	}
	for _, bad := range []Config{
		{Listeners: []Listener{{Name: "IN", Listen: "127.0.0.1:0"}}},
		{Listeners: []Listener{{Name: "SSL", Listen: "127.0.0.1:0"}}},
		{Listeners: []Listener{{Name: "PLAINTEXT", Listen: "127.0.0.1:0"}, {Name: "PLAINTEXT", Listen: "127.0.0.1:0"}}},
		{RPCTLS: TLSFiles{Cert: "x", Key: "y"}},
		{AdminTLS: TLSFiles{Cert: "x"}},
		{KafkaTLS: TLSFiles{Cert: "x", Key: "y", ClientAuth: ClientAuthRequired}},
		{PrincipalRules: "x"},
	} {
		bad.DataDir = "/data"
		if err := bad.Validate(); !errors.Is(err, ErrConfig) {
			t.Errorf("%+v is accepted", bad)
		}
	}
}

// secure makes every broker of the cluster speak TLS everywhere.
func (ca *testCA) secure(c *testCluster, listeners ...string) {
	for i, n := range c.nodes {
		name := "broker-" + string(rune('1'+i))
		files := ca.files(name, pkix.Name{CommonName: name})
		n.cfg.KafkaTLS, n.cfg.RPCTLS = files, files
		n.cfg.KafkaTLS.ClientAuth = ClientAuthRequested
		n.cfg.RPCTLS.AllowedNames = []string{"broker-*"}
		for _, l := range listeners {
			n.cfg.Listeners = append(n.cfg.Listeners, Listener{Name: l, Listen: "127.0.0.1:0"})
		}
	}
}

func (n *node) listenerAddr(t *testing.T, name string) string {
	t.Helper()
	for _, l := range n.kafka {
		if l.Name == name {
			return l.ln.Addr().String()
		}
	}
	t.Fatalf("no listener %s", name)
	return ""
}

// Three brokers speak TLS to each other and to clients, and plaintext beside it; each client is told the addresses of its
// own listener, and who shows a certificate is somebody.
func TestClusterOverTLS(t *testing.T) {
	t.Parallel()
	ca := newTestCA(t)
	c := newCluster(t, 3, true)
	ca.secure(c, ProtocolPlaintext, ProtocolSSL)
	for _, n := range c.nodes {
		n.cfg.PrincipalRules = "RULE:^CN=(.*?),.*$/$1/L"
	}
	c.start(c.nodes...)
	c.awaitVoters(3)
	c.nodes[0].mustCreate(t, "a", 3, 3)
	ca.issue("alice", pkix.Name{CommonName: "Alice", Organization: []string{"Balsa"}})
	for _, tc := range []struct {
		listener, principal string
		opts                []kgo.Opt
	}{
		{ProtocolPlaintext, anonymous, nil},
		{ProtocolSSL, anonymous, []kgo.Opt{kgo.DialTLSConfig(ca.client(""))}},
		{ProtocolSSL, "User:alice", []kgo.Opt{kgo.DialTLSConfig(ca.client("alice"))}},
	} {
		opts := append(tc.opts, kgo.SeedBrokers(c.nodes[0].listenerAddr(t, tc.listener)), kgo.DefaultProduceTopic("a"), kgo.RecordPartitioner(kgo.RoundRobinPartitioner()))
		cl, err := kgo.NewClient(opts...)
		if err != nil {
			t.Fatal(err)
		}
		big := strings.Repeat("x", 100<<10) // more than a TLS record
		for range 6 {
			if err := cl.ProduceSync(t.Context(), kgo.StringRecord(big)).FirstErr(); err != nil {
				t.Fatal(err)
			}
		}
		resp, err := kmsg.NewPtrMetadataRequest().RequestWith(t.Context(), cl)
		if err != nil {
			t.Fatal(err)
		}
		for _, b := range resp.Brokers {
			if want := c.byID(raft.NodeID(b.NodeID)).listenerAddr(t, tc.listener); want != net.JoinHostPort(b.Host, strconv.Itoa(int(b.Port))) {
				t.Errorf("%s: broker %d is said to be at %s:%d, not %s", tc.listener, b.NodeID, b.Host, b.Port, want)
			}
		}
		if !c.hasSession(tc.listener, tc.principal) {
			t.Errorf("%s: nobody is %s", tc.listener, tc.principal)
		}
		cl.Close()
	}
	cl, err := kgo.NewClient(kgo.SeedBrokers(c.nodes[1].listenerAddr(t, ProtocolSSL)), kgo.DialTLSConfig(ca.client("")), kgo.ConsumeTopics("a"))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	for n := 0; n < 18; {
		fs := cl.PollFetches(t.Context())
		if err := fs.Err(); err != nil {
			t.Fatal(err)
		}
		n += fs.NumRecords()
	}

	// Without a certificate of the authority, or with one of another name, nobody is a broker.
	other := newTestCA(t)
	for _, files := range []TLSFiles{{}, other.files("broker-9", pkix.Name{CommonName: "broker-9"}), ca.files("mallory", pkix.Name{CommonName: "mallory"})} {
		cfg := newCluster(t, 1, true).nodes[0].cfg
		cfg.RPCTLS, cfg.Join, cfg.JoinTimeout = files, []string{c.nodes[0].RPCAddr()}, 500*time.Millisecond
		if files.CA != "" {
			cfg.RPCTLS.CA = ca.file()
		}
		if b, err := Start(t.Context(), cfg); err == nil {
			b.Close()
			t.Fatalf("a broker with %+v could join", files)
		}
	}
}

// hasSession reports whether a connection by a listener speaks for a principal.
func (c *testCluster) hasSession(listener, principal string) bool {
	for _, n := range c.nodes {
		n.server.mu.Lock()
		for k := range n.server.conns {
			if s := k.session.Load(); k.listener == listener && s != nil && s.principal == principal {
				n.server.mu.Unlock()
				return true
			}
		}
		n.server.mu.Unlock()
	}
	return false
}

// What a broker has no listener for is not told as another one.
func TestMetadataWithoutTheListener(t *testing.T) {
	h := newHarness(t, serverOptions{})
	id := h.back.addTopic("t", 1, nil)
	h.back.mu.Lock()
	h.back.leaders[replicaKey{id, 0}] = otherNode
	h.back.mu.Unlock()
	h.back.apply(&coordinator.Command{Register: &coordinator.RegisterBroker{Node: otherNode, Incarnation: raft.Incarnation(10 + otherNode),
		Endpoints: []coordinator.Endpoint{{Listener: "OTHER", Host: "b", Port: 1}}, RPC: "x:1"}})
	req := kmsg.NewPtrMetadataRequest()
	req.SetVersion(9)
	c := h.dial()
	resp := ask[*kmsg.MetadataResponse](c, req)
	if len(resp.Brokers) != 1 || resp.Brokers[0].NodeID != int32(selfNode) {
		t.Errorf("brokers %+v", resp.Brokers)
	}
	if p := resp.Topics[0].Partitions[0]; p.ErrorCode != kerr.ListenerNotFound.Code || p.Leader != -1 {
		t.Errorf("partition %+v", p)
	}
}

// New certificates are taken without a restart; bad ones are not, and the old ones stay.
func TestCertificatesAreReloaded(t *testing.T) {
	ca := newTestCA(t)
	c := newCluster(t, 1, true)
	ca.secure(c, ProtocolSSL)
	n := c.nodes[0]
	n.cfg.AdminListen, n.cfg.AdminTLS = "127.0.0.1:0", n.cfg.KafkaTLS
	n.cfg.AdminTLS.ClientAuth = ""
	c.start(n)
	serial := func() int64 {
		nc, err := tls.Dial("tcp", n.listenerAddr(t, ProtocolSSL), ca.client(""))
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		return nc.ConnectionState().PeerCertificates[0].SerialNumber.Int64()
	}
	before := serial()
	ca.issue("broker-1", pkix.Name{CommonName: "broker-1"})
	if err := n.ReloadTLS(); err != nil {
		t.Fatal(err)
	}
	after := serial()
	if after == before {
		t.Errorf("the certificate is still number %d", after)
	}
	if err := os.WriteFile(filepath.Join(ca.dir, "broker-1.key"), []byte("nonsense"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := n.ReloadTLS(); err == nil || !n.log.contains("those of before stay in force") {
		t.Errorf("a bad key was taken: %v", err)
	}
	if got := serial(); got != after {
		t.Errorf("the certificate is number %d, it was %d", got, after)
	}

	// The admin listener: TLS, and with a certificate only.
	ca.issue("op", pkix.Name{CommonName: "op"})
	if got, _ := n.Config("balsa.admin.listener"); !strings.HasPrefix(got, "https://") {
		t.Errorf("the admin listener is at %q", got)
	}
	get := func(config *tls.Config) error {
		hc := http.Client{Transport: &http.Transport{TLSClientConfig: config}}
		defer hc.CloseIdleConnections()
		resp, err := hc.Get("https://" + n.AdminAddr() + "/healthz")
		if err == nil {
			resp.Body.Close()
		}
		return err
	}
	if err := get(ca.client("op")); err != nil {
		t.Error(err)
	}
	if get(ca.client("")) == nil {
		t.Error("the admin listener answers whoever asks")
	}
}

// Who says nothing, or does not speak TLS where it is spoken, is closed; the log says why.
func TestHandshakeIsBounded(t *testing.T) {
	t.Parallel()
	ca := newTestCA(t)
	c := newCluster(t, 1, true)
	ca.secure(c, ProtocolSSL)
	n := c.nodes[0]
	n.cfg.AuthTimeout = 2 * time.Second // by when those that say something have said it
	c.start(n)
	for _, tc := range []struct{ say, log string }{
		{"", "did not prove who it is in time"},
		{"\x16\x03\x01", "did not prove who it is in time"},
		{"GET / HTTP/1.1\r\n\r\n", "speaks HTTP"},
		{"\x00\x00\x00\x10\x00\x12\x00\x03aaaa", "does not speak it"},
	} {
		nc, err := net.Dial("tcp", n.listenerAddr(t, ProtocolSSL))
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		if _, err := io.WriteString(nc, tc.say); err != nil {
			t.Fatal(err)
		}
		nc.SetReadDeadline(time.Now().Add(patience))
		if _, err := io.Copy(io.Discard, nc); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%q: still open", tc.say)
		}
		becomes(t, "the log says "+tc.log, func() bool { return n.log.contains(tc.log) })
	}
	becomes(t, "all are gone", func() bool { return n.server.connections() == 0 })
}

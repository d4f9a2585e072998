// The ways to prove who a bridge is, and who the server is, each with a real nats-server and a bridge each way.

package bridge

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nkeys"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/balsamq/balsa/broker"
	"github.com/balsamq/balsa/brokertest"
)

// newKey makes a key pair.
func newKey(t testing.TB, create func() (nkeys.KeyPair, error)) (kp nkeys.KeyPair, public string, seed []byte) {
	t.Helper()
	kp, err := create()
	if err == nil {
		public, err = kp.PublicKey()
	}
	if err == nil {
		seed, err = kp.Seed()
	}
	if err != nil {
		t.Fatal(err)
	}
	return kp, public, seed
}

// operator is a server's configuration for accounts by JWT, and the creds files of a user of an account that it knows, of one whose time is over, and of one of another account.
func operator(t testing.TB) (conf string, right, expired, other []byte) {
	t.Helper()
	must := func(token string, err error) string {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	op, opPublic, _ := newKey(t, nkeys.CreateOperator)
	account := func(stored bool) (nkeys.KeyPair, string, string) {
		kp, public, _ := newKey(t, nkeys.CreateAccount)
		c := jwt.NewAccountClaims(public)
		if stored {
			c.Limits.JetStreamLimits = jwt.JetStreamLimits{MemoryStorage: jwt.NoLimit, DiskStorage: jwt.NoLimit, Streams: jwt.NoLimit, Consumer: jwt.NoLimit}
		}
		return kp, public, must(c.Encode(op))
	}
	user := func(of nkeys.KeyPair, until time.Time) []byte {
		_, public, seed := newKey(t, nkeys.CreateUser)
		c := jwt.NewUserClaims(public)
		if !until.IsZero() {
			c.Expires = until.Unix()
		}
		creds, err := jwt.FormatUserConfig(must(c.Encode(of)), seed)
		if err != nil {
			t.Fatal(err)
		}
		return creds
	}
	_, system, systemToken := account(false)
	acc, accPublic, accToken := account(true)
	stranger, _, _ := account(true)
	oc := jwt.NewOperatorClaims(opPublic)
	oc.SystemAccount = system
	conf = fmt.Sprintf("operator: %s\nsystem_account: %s\nresolver: MEMORY\nresolver_preload: { %s: %s, %s: %s }", must(oc.Encode(op)), system, system, systemToken, accPublic, accToken)
	return conf, user(acc, time.Time{}), user(acc, time.Now().Add(-time.Hour)), user(stranger, time.Time{})
}

// Every way to prove who one is, with a bridge each way; and that a wrong one is said to be wrong without being shown.
func TestAuth(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, text []byte) {
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	_, public, seed := newKey(t, nkeys.CreateUser)
	_, _, otherSeed := newKey(t, nkeys.CreateUser)
	accounts, right, expired, other := operator(t)
	write("password", []byte("open sesame\n"))
	write("token", []byte("topsecret"))
	write("wrong", []byte("knock knock"))
	write("seed", seed)
	write("otherseed", otherSeed)
	write("right.creds", right)
	write("expired.creds", expired)
	write("other.creds", other)
	certs(t, dir)
	files := fmt.Sprintf("cert_file: %q, key_file: %q, ca_file: %q", filepath.Join(dir, "server.pem"), filepath.Join(dir, "server.key"), filepath.Join(dir, "ca.pem"))
	var (
		oneWay  = "tls { " + files + " }"
		bothWay = "tls { " + files + ", verify: true }"
		mapped  = "tls { " + files + ", verify_and_map: true }\nauthorization { users: [ { user: \"CN=client\" } ] }"
		mutual  = Auth{CAFile: "ca.pem", CertFile: "client.pem", KeyFile: "client.key"}
	)
	for _, tc := range []struct {
		name, conf  string
		right       Auth
		wrong       Auth
		says, never string
	}{
		{"user", `authorization { user: u, password: "open sesame" }`, Auth{User: "u", PasswordFile: "password"}, Auth{User: "u", PasswordFile: "wrong"}, "Authorization", "knock"},
		{"token", `authorization { token: topsecret }`, Auth{TokenFile: "token"}, Auth{TokenFile: "wrong"}, "Authorization", "knock"},
		{"nkey", fmt.Sprintf("authorization { users: [ { nkey: %s } ] }", public), Auth{NKeyFile: "seed"}, Auth{NKeyFile: "otherseed"}, "Authorization", string(otherSeed)},
		{"creds", accounts, Auth{CredsFile: "right.creds"}, Auth{CredsFile: "other.creds"}, "Authorization", "SEED"},
		{"expired creds over TLS", accounts + "\n" + oneWay, Auth{CredsFile: "right.creds", CAFile: "ca.pem"}, Auth{CredsFile: "expired.creds", CAFile: "ca.pem"}, "Authorization", "SEED"},
		{"tls, an unknown authority", oneWay, Auth{CAFile: "ca.pem"}, Auth{TLS: true}, "certificate", "PRIVATE"},
		{"mtls, without a certificate", bothWay, mutual, Auth{CAFile: "ca.pem"}, "certificate", "PRIVATE"},
		{"mtls, an unknown authority", bothWay, mutual, Auth{TLS: true, CertFile: "client.pem", KeyFile: "client.key"}, "certificate", "PRIVATE"},
		{"mtls, a certificate as user", mapped, mutual, Auth{CAFile: "ca.pem", CertFile: "server.pem", KeyFile: "server.key"}, "Authorization", "PRIVATE"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			nc := startNATS(t, 1, tc.conf)
			cl := brokertest.Start(t, brokertest.Topic("t", 1), brokertest.Topic("in", 1))
			in := job(t, cl.Config(), &Spec{Servers: nc.urls(), FromStream: "S", ToTopic: "in", Filters: []string{"s.in"}, Auth: tc.right})
			out := job(t, cl.Config(), &Spec{Servers: nc.urls(), FromTopic: "t", ToStream: "S", Subject: "s.out", Auth: tc.right})
			in.ID, out.ID = "1", "2"
			in.Secrets, out.Secrets = dir, dir
			var c *connection
			soon(t, "it connects", func() (err error) {
				c, err = connect(t.Context(), in.Spec, secrets(dir), "test", 1, in.Logger, func(error) {})
				return err
			})
			defer c.close()
			nc.stream(c.js, jetstream.StreamConfig{Name: "S", Subjects: []string{"s.>"}})
			publishAll(t, c.js, "s.in", "1", "2")
			produce(t, cl.Config(), &kgo.Record{Value: []byte("3")})
			for _, j := range []Job{in, out} {
				b := start(t, j)
				defer b.Close()
				caughtUp(t, b)
			}
			if got := values(records(t, cl.Config(), "in")[0]); strings.Join(got, " ") != "1 2" {
				t.Errorf("into the topic came %q", got)
			}
			if msgs := stored(t, c.js, "S"); len(msgs) != 3 || string(msgs[2].Data()) != "3" {
				t.Errorf("the stream has %d messages", len(msgs))
			}
			spec := *in.Spec
			spec.Auth = tc.wrong
			in.Spec, in.ID = &spec, "3"
			b := start(t, in)
			defer b.Close()
			awaitState(t, b, StateWaiting, tc.says)
			if s := b.Status(); strings.Contains(s.Error, tc.never) {
				t.Errorf("it shows a secret: %s", s.Error)
			}
		})
	}
}

// certs makes an authority and a certificate for each side.
func certs(t testing.TB, dir string) {
	t.Helper()
	now := time.Now()
	key := func() *ecdsa.PrivateKey {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	write := func(name, kind string, der []byte) {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	caKey := key()
	ca := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour), IsCA: true,
		BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, ca, ca, &caKey.PublicKey, caKey)
	if err != nil {
		t.Fatal(err)
	}
	write("ca.pem", "CERTIFICATE", der)
	for i, name := range []string{"server", "client"} {
		k := key()
		c := &x509.Certificate{SerialNumber: big.NewInt(int64(2 + i)), Subject: pkix.Name{CommonName: name}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour),
			IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
		if der, err = x509.CreateCertificate(rand.Reader, c, ca, &k.PublicKey, caKey); err != nil {
			t.Fatal(err)
		}
		write(name+".pem", "CERTIFICATE", der)
		raw, err := x509.MarshalPKCS8PrivateKey(k)
		if err != nil {
			t.Fatal(err)
		}
		write(name+".key", "PRIVATE KEY", raw)
	}
}

// What docs/cli.md says that a bridge's user in NATS must be allowed is enough: to read a stream with messages that are asked for one by one, and to go on in one that is read back.
func TestLeastPermissions(t *testing.T) {
	t.Parallel()
	api := func(stream string, more ...string) string {
		allow := append(more, "$JS.API.STREAM.INFO."+stream, "$JS.API.STREAM.MSG.GET."+stream, "$JS.API.CONSUMER.CREATE."+stream+".>", "$JS.API.CONSUMER.INFO."+stream+".*",
			"$JS.API.CONSUMER.MSG.NEXT."+stream+".*", "$JS.API.CONSUMER.DELETE."+stream+".*")
		return fmt.Sprintf("permissions: { publish: { allow: [ \"%s\" ] }, subscribe: { allow: [ \"_INBOX.>\" ] } }", strings.Join(allow, `", "`))
	}
	nc := startNATS(t, 1, `authorization { users: [
		{ user: all, password: all }
		{ user: in, password: "open sesame", `+api("IN")+` }
		{ user: out, password: "open sesame", `+api("OUT", "out.>")+` }
		{ user: core, password: "open sesame", permissions: { publish: { deny: [ ">" ] }, subscribe: { allow: [ "core.>" ] } } } ] }`)
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "password"), []byte("open sesame"), 0o600); err != nil {
		t.Fatal(err)
	}
	cl := brokertest.Start(t, brokertest.Topic("in", 1), brokertest.Topic("t", 1), brokertest.Topic("core", 1))
	conn, js := nc.dial(nats.UserInfo("all", "all"))
	nc.stream(js, jetstream.StreamConfig{Name: "IN", Subjects: []string{"in.>"}})
	nc.stream(js, jetstream.StreamConfig{Name: "OUT", Subjects: []string{"out.>"}})
	run := func(user, id string, s *Spec) *Bridge {
		s.Servers, s.Auth = nc.urls(), Auth{User: user, PasswordFile: "password"}
		j := job(t, cl.Config(), s)
		j.ID, j.Secrets = id, dir
		if s.FromSubject != "" {
			j.Position = ""
		}
		return start(t, j)
	}
	for _, denied := range []*Spec{{FromStream: "OUT", ToTopic: "in"}, {FromTopic: "t", ToStream: "OUT", Subject: "out.x"}} { // what is not allowed is named before a bridge is made
		denied.Servers, denied.Auth = nc.urls(), Auth{User: "in", PasswordFile: "password"}
		spec, err := json.Marshal(denied)
		if err != nil {
			t.Fatal(err)
		}
		err = (&Runner{Secrets: dir}).Probe(t.Context(), broker.BridgeHost{Kafka: cl.Addr(), Logger: slog.New(slog.DiscardHandler)}, spec)
		if !errors.Is(err, nats.ErrPermissionViolation) || !strings.Contains(err.Error(), "$JS.API.STREAM.INFO.OUT") {
			t.Errorf("%s: %v", denied.Direction(), err)
		}
	}
	for _, m := range []*nats.Msg{nats.NewMsg("in.a"), statusMsg("in.a", "409", "Consumer Deleted"), nats.NewMsg("in.b")} {
		if _, err := js.PublishMsg(t.Context(), m); err != nil {
			t.Fatal(err)
		}
	}
	b := run("in", "1", &Spec{FromStream: "IN", ToTopic: "in"})
	awaitRecords(t, cl.Config(), "in", 3)
	b.Close()
	for n := 1; n <= 2; n++ { // the second time what was planned before is read back
		produce(t, cl.Config(), &kgo.Record{Value: []byte("x")})
		b = run("out", "2", &Spec{FromTopic: "t", ToStream: "OUT", Subject: "out.x"})
		caughtUp(t, b)
		b.Close()
		if got := len(stored(t, js, "OUT")); got != n {
			t.Errorf("the stream has %d messages of %d", got, n)
		}
	}
	b = run("core", "3", &Spec{FromSubject: "core.>", ToTopic: "core"})
	defer b.Close()
	awaitState(t, b, StateRunning, "")
	if err := conn.Publish("core.a", nil); err != nil {
		t.Fatal(err)
	}
	awaitRecords(t, cl.Config(), "core", 1)
}

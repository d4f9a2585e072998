package broker

// SASL over real sockets: each mechanism with franz-go as the client, and what a client may not do before it has proved who
// it is.

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/sasl"
	"github.com/twmb/franz-go/pkg/sasl/oauth"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"
	xscram "github.com/xdg-go/scram"

	"github.com/balsamq/balsa/coordinator"
)

var everyMechanism = []string{MechanismScramSHA512, MechanismScramSHA256, MechanismPlain, MechanismOAuthBearer}

// tokenIssuer signs tokens.
type tokenIssuer struct {
	t    *testing.T
	key  *ecdsa.PrivateKey
	kid  string
	skew time.Duration // of its clock
}

func newTokenIssuer(t *testing.T, kid string) *tokenIssuer {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return &tokenIssuer{t: t, key: key, kid: kid}
}

func (i *tokenIssuer) jwks() []byte {
	b, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: &i.key.PublicKey, KeyID: i.kid, Algorithm: "ES256", Use: "sig"}}})
	if err != nil {
		i.t.Fatal(err)
	}
	return b
}

func (i *tokenIssuer) file() string {
	f := filepath.Join(i.t.TempDir(), "jwks.json")
	if err := os.WriteFile(f, i.jwks(), 0o600); err != nil {
		i.t.Fatal(err)
	}
	return f
}

// token is for a user, with changes to its claims.
func (i *tokenIssuer) token(user string, change ...func(map[string]any)) string {
	now := time.Now().Add(i.skew)
	claims := map[string]any{"iss": "https://issuer.example", "aud": []string{"balsa", "other"}, "sub": user,
		"iat": now.Unix(), "exp": now.Add(time.Minute).Unix()}
	for _, fn := range change {
		fn(claims)
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: i.key}, (&jose.SignerOptions{}).WithHeader("kid", i.kid))
	if err != nil {
		i.t.Fatal(err)
	}
	s, err := jwt.Signed(signer).Claims(claims).Serialize()
	if err != nil {
		i.t.Fatal(err)
	}
	return s
}

// saslHarness is a server with one listener that wants SASL, on which alice has the password "wonder".
type saslHarness struct {
	*kafkaHarness
	issuer *tokenIssuer
	sasl   *saslServer
}

func newSASLHarness(t *testing.T, reauth time.Duration) *saslHarness {
	t.Helper()
	issuer := newTokenIssuer(t, "k1")
	v := newTokenVerifier(OAuth{JWKS: issuer.file(), Issuer: "https://issuer.example", Audience: []string{"balsa"}}, discardLog())
	if err := v.fetch(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	sec := &serverSecurity{Supers: map[string]struct{}{}}
	h := newHarnessOn(t, serverOptions{}, Listener{Name: ProtocolSASLPlaintext, Protocol: ProtocolSASLPlaintext}, func(b *fakeBackend, o *serverOptions) {
		sec.SASL = newSASLServer(everyMechanism, b.Image, v, reauth)
		sec.SASL.delay = time.Millisecond
		o.Security = *sec
	})
	s := &saslHarness{kafkaHarness: h, issuer: issuer, sasl: sec.SASL}
	s.addUser("alice", "wonder")
	return s
}

func (h *saslHarness) addUser(user, password string) {
	h.t.Helper()
	cmd := &coordinator.AlterUsers{Secret: loginSecret()}
	for _, m := range []string{MechanismScramSHA256, MechanismScramSHA512} {
		c, err := newCredential(user, m, password)
		if err != nil {
			h.t.Fatal(err)
		}
		cmd.Set = append(cmd.Set, c)
	}
	if r := h.back.apply(&coordinator.Command{AlterUsers: cmd}); r.Err() != nil {
		h.t.Fatal(r.Err())
	}
}

func (h *saslHarness) try(m sasl.Mechanism) error {
	h.t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(h.addr), kgo.SASL(m), kgo.RequestRetries(0))
	if err != nil {
		h.t.Fatal(err)
	}
	defer cl.Close()
	ctx, cancel := context.WithTimeout(h.t.Context(), patience)
	defer cancel()
	return cl.Ping(ctx)
}

func TestSASLMechanisms(t *testing.T) {
	h := newSASLHarness(t, 0)
	h.addUser("we,ird=näme", "pass\u00e9 wörd")
	token := func(user string, change ...func(map[string]any)) sasl.Mechanism {
		return oauth.Auth{Token: h.issuer.token(user, change...)}.AsMechanism()
	}
	claim := func(name string, value any) func(map[string]any) {
		return func(m map[string]any) {
			if m[name] = value; value == nil {
				delete(m, name)
			}
		}
	}
	other := newTokenIssuer(t, "k1")
	late := *h.issuer
	late.skew = -65 * time.Second // expired 5 s ago, within the skew
	stale := *h.issuer
	stale.skew = -2 * time.Minute
	early := *h.issuer
	early.skew = 2 * time.Minute
	for _, tc := range []struct {
		name string
		m    sasl.Mechanism
		ok   bool
	}{
		{"SCRAM-SHA-256", scram256("alice", "wonder"), true},
		{"SCRAM-SHA-512", scram512("alice", "wonder"), true},
		{"PLAIN", plain.Auth{User: "alice", Pass: "wonder"}.AsMechanism(), true},
		{"PLAIN in one's own name", plain.Auth{User: "alice", Pass: "wonder", Zid: "alice"}.AsMechanism(), true},
		{"OAUTHBEARER", token("alice"), true},
		{"a token a little too old", oauth.Auth{Token: late.token("alice")}.AsMechanism(), true},
		{"an odd name", scram512("we,ird=näme", "pass\u00e9 wörd"), true},
		{"an odd name in PLAIN", plain.Auth{User: "we,ird=näme", Pass: "pass\u00e9 wörd"}.AsMechanism(), true},

		{"a wrong password, 256", scram256("alice", "wander"), false},
		{"a wrong password, 512", scram512("alice", "wander"), false},
		{"nobody, 512", scram512("bob", "wonder"), false},
		{"a wrong password, PLAIN", plain.Auth{User: "alice", Pass: "wander"}.AsMechanism(), false},
		{"nobody, PLAIN", plain.Auth{User: "bob", Pass: "wonder"}.AsMechanism(), false},
		{"in another's name, PLAIN", plain.Auth{User: "alice", Pass: "wonder", Zid: "admin"}.AsMechanism(), false},
		{"in another's name, SCRAM", scram.Auth{User: "alice", Pass: "wonder", Zid: "admin"}.AsSha512Mechanism(), false},
		{"in another's name, OAUTHBEARER", oauth.Auth{Token: h.issuer.token("alice"), Zid: "admin"}.AsMechanism(), false},
		{"another issuer", token("alice", claim("iss", "https://evil.example")), false},
		{"another audience", token("alice", claim("aud", "other")), false},
		{"no audience", token("alice", claim("aud", nil)), false},
		{"an expired token", oauth.Auth{Token: stale.token("alice")}.AsMechanism(), false},
		{"a token of the future", oauth.Auth{Token: early.token("alice")}.AsMechanism(), false},
		{"not valid yet", token("alice", claim("nbf", time.Now().Add(time.Hour).Unix())), false},
		{"a token for ever", token("alice", claim("exp", nil)), false},
		{"a token of nobody", token("alice", claim("sub", nil)), false},
		{"a token with a number for a name", token("alice", claim("sub", 7)), false},
		{"another key", oauth.Auth{Token: other.token("alice")}.AsMechanism(), false},
		{"no signature", oauth.Auth{Token: "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhbGljZSJ9."}.AsMechanism(), false},
		{"no token at all", oauth.Auth{Token: "x"}.AsMechanism(), false},
	} {
		err := h.try(tc.m)
		if tc.ok && err != nil {
			t.Errorf("%s: %v", tc.name, err)
		}
		if !tc.ok && !errors.Is(err, kerr.SaslAuthenticationFailed) && !(tc.m.Name() == MechanismOAuthBearer && err != nil) { // franz-go reads the refusal's JSON itself
			t.Errorf("%s: %v, want SASL_AUTHENTICATION_FAILED", tc.name, err)
		}
	}
	becomes(t, "nobody is left", func() bool { return h.connections() == 0 })
}

func scram256(user, password string) sasl.Mechanism {
	return scram.Auth{User: user, Pass: password}.AsSha256Mechanism()
}
func scram512(user, password string) sasl.Mechanism {
	return scram.Auth{User: user, Pass: password}.AsSha512Mechanism()
}

// All failures say the same, and whoever does not exist is asked the same as whoever does.
func TestSASLFailureSaysNothing(t *testing.T) {
	h := newSASLHarness(t, 0)
	refuse := func(mechanism, user, password string) string {
		c := h.dial()
		ask[*kmsg.SASLHandshakeResponse](c, handshakeRequest(1, mechanism))
		client, err := xscram.SHA512.NewClientUnprepped(user, password, "")
		if err != nil {
			t.Fatal(err)
		}
		conv := client.NewConversation()
		first, err := conv.Step("")
		if err != nil {
			t.Fatal(err)
		}
		resp := ask[*kmsg.SASLAuthenticateResponse](c, authenticateRequest(2, first))
		if resp.ErrorCode != 0 {
			t.Fatalf("%s is refused at once", user)
		}
		next, err := conv.Step(string(resp.SASLAuthBytes))
		if err != nil {
			t.Fatal(err)
		}
		resp = ask[*kmsg.SASLAuthenticateResponse](c, authenticateRequest(2, next))
		c.closed()
		return fmt.Sprint(resp.ErrorCode, *resp.ErrorMessage, resp.SASLAuthBytes)
	}
	if a, b := refuse(MechanismScramSHA512, "alice", "x"), refuse(MechanismScramSHA512, "bob", "x"); a != b {
		t.Errorf("of alice: %s; of bob: %s", a, b)
	}
	a, _ := h.sasl.credential("bob", MechanismScramSHA512)
	again := newSASLServer(everyMechanism, h.back.Image, nil, 0)
	b, real := again.credential("bob", MechanismScramSHA512)
	if real || string(a.Salt) != string(b.Salt) || a.Iterations != b.Iterations {
		t.Error("another broker shows another salt of a user who does not exist")
	}
	c, _ := h.sasl.credential("carol", MechanismScramSHA512)
	alice, _ := h.sasl.credential("alice", MechanismScramSHA512)
	if string(a.Salt) == string(c.Salt) || len(a.Salt) != len(alice.Salt) || a.Iterations != alice.Iterations && a.Iterations != coordinator.MinScramIterations {
		t.Error("a made-up credential does not look like a real one")
	}
}

func handshakeRequest(version int16, mechanism string) *kmsg.SASLHandshakeRequest {
	req := kmsg.NewPtrSASLHandshakeRequest()
	req.SetVersion(version)
	req.Mechanism = mechanism
	return req
}

func authenticateRequest(version int16, token string) *kmsg.SASLAuthenticateRequest {
	req := kmsg.NewPtrSASLAuthenticateRequest()
	req.SetVersion(version)
	req.SASLAuthBytes = []byte(token)
	return req
}

// Before it has proved who it is, a client gets no further than the three requests.
func TestBeforeAuthentication(t *testing.T) {
	h := newSASLHarness(t, 0)
	h.back.addTopic("t", 1, nil)
	for _, a := range apiByKey {
		if a == nil || a.key == keyApiVersions || a.key == keySaslHandshake || a.key == keySaslAuthenticate {
			continue
		}
		req := kmsg.RequestForKey(a.key)
		req.SetVersion(a.max)
		c := h.dial()
		c.send(req)
		c.closed()
		// Nor in the middle of it.
		c = h.dial()
		ask[*kmsg.SASLHandshakeResponse](c, handshakeRequest(1, MechanismScramSHA512))
		ask[*kmsg.SASLAuthenticateResponse](c, authenticateRequest(1, "n,,n=alice,r=abc"))
		c.send(req)
		c.closed()
	}
	// Too large, announced and not sent: refused before anything is read.
	for key, size := range map[uint16]uint32{keyApiVersions: maxHelloSmall + 1, keySaslHandshake: maxHelloSmall + 1, keySaslAuthenticate: maxHelloRequest + 1} {
		c := h.dial()
		b := binary.BigEndian.AppendUint32(nil, size)
		b = binary.BigEndian.AppendUint16(b, key)
		if _, err := c.nc.Write(append(b, 0, 0)); err != nil {
			t.Fatal(err)
		}
		c.closed()
	}
	// Too many.
	c := h.dial()
	for range maxHellos {
		ask[*kmsg.ApiVersionsResponse](c, apiVersionsRequest(3))
	}
	c.send(apiVersionsRequest(3))
	c.closed()
	if used := h.hellos.used.Load(); used != 0 {
		t.Errorf("%d bytes are still held", used)
	}
	// What is out of order is told so.
	c = h.dial()
	if resp := ask[*kmsg.SASLAuthenticateResponse](c, authenticateRequest(2, "x")); resp.ErrorCode != kerr.IllegalSaslState.Code {
		t.Errorf("a message before the handshake: %d", resp.ErrorCode)
	}
	resp := ask[*kmsg.SASLHandshakeResponse](c, handshakeRequest(1, "GSSAPI"))
	if resp.ErrorCode != kerr.UnsupportedSaslMechanism.Code || !slices.Equal(resp.SupportedMechanisms, everyMechanism) {
		t.Errorf("GSSAPI: %+v", resp)
	}
	// A listener without SASL wants none.
	p := newHarness(t, serverOptions{}).dial()
	if resp := ask[*kmsg.SASLHandshakeResponse](p, handshakeRequest(1, MechanismPlain)); resp.ErrorCode != kerr.IllegalSaslState.Code {
		t.Errorf("on a listener without: %+v", resp)
	}
}

// librdkafka before 2.6.1 sends its nonce twice; as Kafka, we take it, and no other than ours.
func TestScramNonce(t *testing.T) {
	h := newSASLHarness(t, 0)
	for _, tc := range []struct {
		name  string
		nonce func(client, all string) string
		ok    bool
	}{
		{"as it should be", func(_, all string) string { return all }, true},
		{"twice", func(client, all string) string { return client + all }, true},
		{"the client's only", func(client, _ string) string { return client }, false},
		{"cut", func(_, all string) string { return all[:len(all)-1] }, false},
	} {
		x := h.sasl.exchange(MechanismScramSHA256)
		first, _, err := x.step(t.Context(), []byte("n,,n=alice,r=abc"))
		if err != nil {
			t.Fatal(err)
		}
		fields := strings.Split(string(first), ",")
		salt, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(fields[1], "s="))
		if err != nil {
			t.Fatal(err)
		}
		salted, err := saltedPassword(MechanismScramSHA256, "wonder", salt, scramIterations)
		if err != nil {
			t.Fatal(err)
		}
		last := "c=biws,r=" + tc.nonce("abc", strings.TrimPrefix(fields[0], "r="))
		hash := scramHash(MechanismScramSHA256)
		clientKey := hmacOf(hash, salted, "Client Key")
		stored, _ := scramKeys(MechanismScramSHA256, salted)
		signature := hmacOf(hash, stored, "n=alice,r=abc,"+string(first)+","+last)
		for i := range clientKey {
			clientKey[i] ^= signature[i]
		}
		_, p, err := x.step(t.Context(), []byte(last+",p="+base64.StdEncoding.EncodeToString(clientKey)))
		if (p != nil) != tc.ok || (err == nil) != tc.ok {
			t.Errorf("%s: %v, %v", tc.name, p, err)
		}
	}
}

// SaslHandshake v0: bare frames (old clients).
func TestSASLBareFrames(t *testing.T) {
	h := newSASLHarness(t, 0)
	bare := func(c *kafkaClient, token string) []byte {
		if _, err := c.nc.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(token))), token...)); err != nil {
			t.Fatal(err)
		}
		c.nc.SetReadDeadline(time.Now().Add(patience))
		var size [4]byte
		if _, err := io.ReadFull(c.br, size[:]); err != nil {
			return nil
		}
		b := make([]byte, binary.BigEndian.Uint32(size[:]))
		if _, err := io.ReadFull(c.br, b); err != nil {
			t.Fatal(err)
		}
		return b
	}
	c := h.dial()
	ask[*kmsg.SASLHandshakeResponse](c, handshakeRequest(0, MechanismPlain))
	if answer := bare(c, "\x00alice\x00wonder"); answer == nil || len(answer) != 0 {
		t.Fatalf("answer %q", answer)
	}
	ask[*kmsg.MetadataResponse](c, kmsg.NewPtrMetadataRequest())
	c = h.dial()
	ask[*kmsg.SASLHandshakeResponse](c, handshakeRequest(0, MechanismPlain))
	if answer := bare(c, "\x00alice\x00wander"); answer != nil {
		t.Fatalf("a wrong password is answered: %q", answer)
	}
	c = h.dial()
	ask[*kmsg.SASLHandshakeResponse](c, handshakeRequest(0, MechanismPlain))
	if _, err := c.nc.Write([]byte{0x7f, 0xff, 0xff, 0xff}); err != nil {
		t.Fatal(err)
	}
	c.closed()
}

// Sessions end, and are renewed by the same user in the same way only (KIP-368).
func TestReauthentication(t *testing.T) {
	h := newSASLHarness(t, time.Hour)
	h.addUser("bob", "builder")
	login := func(c *kafkaClient, mechanism, token string) *kmsg.SASLAuthenticateResponse {
		ask[*kmsg.SASLHandshakeResponse](c, handshakeRequest(1, mechanism))
		return ask[*kmsg.SASLAuthenticateResponse](c, authenticateRequest(2, token))
	}
	c := h.dial()
	if ms := login(c, MechanismPlain, "\x00alice\x00wonder").SessionLifetimeMillis; ms != time.Hour.Milliseconds() {
		t.Errorf("the session lasts %d ms", ms)
	}
	ask[*kmsg.MetadataResponse](c, kmsg.NewPtrMetadataRequest())
	if resp := login(c, MechanismPlain, "\x00alice\x00wonder"); resp.ErrorCode != 0 {
		t.Errorf("again: %+v", resp)
	}
	if resp := ask[*kmsg.SASLHandshakeResponse](c, handshakeRequest(1, MechanismScramSHA512)); resp.ErrorCode != kerr.UnsupportedSaslMechanism.Code {
		t.Errorf("by another mechanism: %+v", resp)
	}
	if resp := login(c, MechanismPlain, "\x00bob\x00builder"); resp.ErrorCode != kerr.SaslAuthenticationFailed.Code {
		t.Errorf("as another user: %+v", resp)
	}
	c.closed()

	// A token's end is the session's.
	c = h.dial()
	token := h.issuer.token("alice", func(m map[string]any) { m["exp"] = time.Now().Add(10 * time.Minute).Unix() })
	ms := login(c, MechanismOAuthBearer, "n,,\x01auth=Bearer "+token+"\x01\x01").SessionLifetimeMillis
	if ms <= 9*60_000 || ms > 11*60_000 {
		t.Errorf("the session lasts %d ms", ms)
	}
	// When it is over, nothing but authentication is left.
	var k *conn
	h.mu.Lock()
	for k = range h.conns {
	}
	h.mu.Unlock()
	s := *k.session.Load()
	s.expires = time.Now().Add(-time.Second)
	k.session.Store(&s)
	ask[*kmsg.ApiVersionsResponse](c, apiVersionsRequest(3))
	if resp := login(c, MechanismOAuthBearer, "n,,\x01auth=Bearer "+h.issuer.token("alice")+"\x01\x01"); resp.ErrorCode != 0 {
		t.Errorf("too late, and refused: %+v", resp)
	}
	ask[*kmsg.MetadataResponse](c, kmsg.NewPtrMetadataRequest())
	k.session.Store(&s)
	c.send(kmsg.NewPtrMetadataRequest())
	c.closed()
}

// The keys come from a URL, are fetched anew for a key that is not known, and not for every token of a stranger.
func TestJWKSIsRefreshed(t *testing.T) {
	first, second := newTokenIssuer(t, "k1"), newTokenIssuer(t, "k2")
	var now atomic.Pointer[tokenIssuer]
	var asked atomic.Int32
	now.Store(first)
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		w.Write(now.Load().jwks())
	}))
	defer web.Close()
	v := newTokenVerifier(OAuth{JWKS: web.URL, Issuer: "https://issuer.example"}, discardLog())
	clock := time.Now()
	v.now = func() time.Time { return clock }
	if err := v.fetch(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	verify := func(token string) error { _, err := v.verify(t.Context(), token); return err }
	if err := verify(first.token("a")); err != nil {
		t.Error(err)
	}
	now.Store(second)
	for range 5 {
		if verify(second.token("a")) == nil || asked.Load() != 1 {
			t.Fatalf("keys were fetched %d times within the pause", asked.Load())
		}
	}
	clock = clock.Add(jwksPause)
	if err := verify(second.token("a")); err != nil || asked.Load() != 2 {
		t.Errorf("after the pause: %v, fetched %d times", err, asked.Load())
	}
	if verify(first.token("a")) == nil {
		t.Error("a key that was withdrawn still does")
	}
	web.Close()
	clock = clock.Add(jwksPause)
	if err := v.fetch(t.Context(), 0); err == nil {
		t.Error("nobody answers, and it is no error")
	}
	if err := verify(second.token("a")); err != nil {
		t.Errorf("the keys of before are gone: %v", err)
	}
}

// Users by Kafka's own requests (KIP-554).
func TestScramCredentials(t *testing.T) {
	h := newHarness(t, serverOptions{})
	c := h.dial()
	salted := make([]byte, 64)
	up := func(user string, mechanism int8, iterations int32, salted []byte) kmsg.AlterUserSCRAMCredentialsRequestUpsertion {
		return kmsg.AlterUserSCRAMCredentialsRequestUpsertion{Name: user, Mechanism: mechanism, Iterations: iterations, Salt: []byte("salt"), SaltedPassword: salted}
	}
	alter := func(req *kmsg.AlterUserSCRAMCredentialsRequest) string {
		out := ""
		for _, r := range ask[*kmsg.AlterUserSCRAMCredentialsResponse](c, req).Results {
			out += fmt.Sprintf("%s:%d ", r.User, r.ErrorCode)
		}
		return strings.TrimSpace(out)
	}
	if got, want := alter(&kmsg.AlterUserSCRAMCredentialsRequest{
		Upsertions: []kmsg.AlterUserSCRAMCredentialsRequestUpsertion{up("a", 1, 4096, salted[:32]), up("a", 2, 8192, salted), up("b", 2, 4095, salted), up("c", 2, 16385, salted),
			up("d", 3, 4096, salted), up("", 1, 4096, salted[:32]), up("e", 1, 4096, salted[:0]), up("h", 2, 15000, salted[:18]), up("f", 1, 4096, salted[:32]), up("f", 1, 4096, salted[:32])},
		Deletions: []kmsg.AlterUserSCRAMCredentialsRequestDeletion{{Name: "g", Mechanism: 1}},
	}), fmt.Sprintf("g:%d a:0 b:%[2]d c:%[2]d d:%[3]d :%[2]d e:%[2]d h:0 f:%[4]d", kerr.ResourceNotFound.Code, kerr.UnacceptableCredential.Code, kerr.UnsupportedSaslMechanism.Code, kerr.DuplicateResource.Code); got != want {
		t.Errorf("altered: %s\nwant     %s", got, want)
	}
	describe := func(users ...string) string {
		req := kmsg.NewPtrDescribeUserSCRAMCredentialsRequest()
		for _, u := range users {
			req.Users = append(req.Users, kmsg.DescribeUserSCRAMCredentialsRequestUser{Name: u})
		}
		out := ""
		for _, r := range ask[*kmsg.DescribeUserSCRAMCredentialsResponse](c, req).Results {
			out += fmt.Sprintf("%s:%d", r.User, r.ErrorCode)
			for _, i := range r.CredentialInfos {
				out += fmt.Sprintf("(%d,%d)", i.Mechanism, i.Iterations)
			}
			out += " "
		}
		return strings.TrimSpace(out)
	}
	if got, want := describe(), "a:0(1,4096)(2,8192) h:0(2,15000)"; got != want {
		t.Errorf("described: %s, want %s", got, want)
	}
	if got, want := describe("a", "x", "y", "y"), fmt.Sprintf("a:0(1,4096)(2,8192) x:%d y:%d", kerr.ResourceNotFound.Code, kerr.DuplicateResource.Code); got != want {
		t.Errorf("described: %s, want %s", got, want)
	}
	if got := alter(&kmsg.AlterUserSCRAMCredentialsRequest{Deletions: []kmsg.AlterUserSCRAMCredentialsRequestDeletion{{Name: "a", Mechanism: 1}, {Name: "h", Mechanism: 2}}}); got != "a:0 h:0" {
		t.Errorf("deleted: %s", got)
	}
	if got := describe(); got != "a:0(2,8192)" {
		t.Errorf("left: %s", got)
	}
}

// FuzzSASL: whatever a stranger sends in an exchange, nobody becomes anybody by it, and nothing panics.
func FuzzSASL(f *testing.F) {
	for _, s := range []string{"n,,n=alice,r=abc", "\x00alice\x00x", "n,,\x01auth=Bearer x.y.z\x01\x01", "n,a=x,\x01auth=Bearer eyJhbGciOiJub25lIn0.e30.\x01\x01", "c=biws,r=abc,p=AAAA", "\x01", ""} {
		for i := range everyMechanism {
			f.Add(i, []byte(s), []byte("c=biws,r=abc,p=AAAA"))
		}
	}
	md := coordinator.NewMetadata()
	v := newTokenVerifier(OAuth{JWKS: "/nowhere", Issuer: "i"}, discardLog())
	v.asked = time.Now().Add(24 * time.Hour)
	s := newSASLServer(everyMechanism, md.Image, v, 0)
	f.Fuzz(func(t *testing.T, i int, first, second []byte) {
		if i < 0 || i >= len(everyMechanism) {
			return
		}
		x := s.exchange(everyMechanism[i])
		for _, m := range [][]byte{first, second} {
			_, p, err := x.step(t.Context(), m)
			if p != nil {
				t.Fatalf("%q and %q make one %q", first, second, p.user)
			}
			if err != nil {
				if !errors.Is(err, errCredentials) {
					t.Fatal(err)
				}
				return
			}
		}
	})
}

// FuzzPrincipalRules: no rules bring the parser down, and what it accepts can be applied.
func FuzzPrincipalRules(f *testing.F) {
	f.Add("RULE:^CN=(.*?),OU=Dev.*$/$1/L,DEFAULT", "CN=a,OU=Dev")
	f.Fuzz(func(t *testing.T, rules, name string) {
		if r, err := parsePrincipalRules(rules); err == nil {
			if out, err := r.apply(name); err == nil && (out == "" || len(out) > maxUserName) {
				t.Fatalf("%d bytes", len(out))
			}
		}
	})
}

// FuzzJWKS: no set of keys brings the parser down.
func FuzzJWKS(f *testing.F) {
	f.Add([]byte(`{"keys":[{"kty":"EC","crv":"P-256","x":"AA","y":"AA"}]}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if set, err := parseJWKS(raw); err == nil && len(set.Keys) == 0 {
			t.Fatal("an empty set")
		}
	})
}

// Failed logins, each of which takes its time, are on nobody's account: all who have not authenticated yet would have it together.
func TestFailedLoginsHoldUpNobody(t *testing.T) {
	h := newSASLHarness(t, 0)
	h.sasl.delay = time.Millisecond
	user, rate := "", 1e-7
	quota := coordinator.QuotaChange{QuotaEntity: coordinator.QuotaEntity{User: &user}, Set: map[string]*float64{quotaRequest: &rate}}
	if r := h.back.apply(&coordinator.Command{AlterQuotas: &coordinator.AlterQuotas{Entries: []coordinator.QuotaChange{quota}}}); r.Err() != nil || r.Items[0].Err() != nil {
		t.Fatal(r)
	}
	c := h.dial()
	ask[*kmsg.SASLHandshakeResponse](c, handshakeRequest(1, MechanismPlain))
	if resp := ask[*kmsg.SASLAuthenticateResponse](c, authenticateRequest(1, "\x00alice\x00wrong")); resp.ErrorCode != kerr.SaslAuthenticationFailed.Code {
		t.Fatalf("%+v", resp)
	}
	c = h.dial()
	if resp := ask[*kmsg.ApiVersionsResponse](c, apiVersionsRequest(3)); resp.ThrottleMillis != 0 {
		t.Errorf("another client is to wait for %d ms", resp.ThrottleMillis)
	}
	ask[*kmsg.SASLHandshakeResponse](c, handshakeRequest(1, MechanismPlain))
	if resp := ask[*kmsg.SASLAuthenticateResponse](c, authenticateRequest(1, "\x00alice\x00wonder")); resp.ErrorCode != 0 {
		t.Errorf("%+v", resp)
	}
	if n := h.server.quotas.size(); n != 0 {
		t.Errorf("%d accounts before anybody has done anything", n)
	}
	// From then on the user's own counts.
	ask[*kmsg.MetadataResponse](c, metadataRequest(9))
	if n := h.server.quotas.size(); n != 1 {
		t.Errorf("%d accounts", n)
	}
}

// What a stranger's token says is not written into the log at length.
func TestTokenFailureIsShort(t *testing.T) {
	h := newSASLHarness(t, 0)
	stranger := newTokenIssuer(t, strings.Repeat("k", 30_000))
	if _, err := h.sasl.oauth.verify(t.Context(), stranger.token("alice")); err == nil || len(err.Error()) > 1000 {
		t.Errorf("%.200v", err)
	}
}

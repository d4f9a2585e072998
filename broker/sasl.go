// SASL: which mechanisms there are, and PLAIN (RFC 4616), which checks against the same credentials in the metadata as SCRAM does
// (sasl_scram.go). OAUTHBEARER is in sasl_oauth.go, the requests in 17_sasl_handshake.go and 36_sasl_authenticate.go.
//
// A failure says nothing about its cause, and takes its time: also of a user that does not exist, who goes through the same
// motions with a credential that is drawn from his name.

package broker

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/pbkdf2"
	crand "crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/subtle"
	"errors"
	"fmt"
	"hash"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/balsamq/balsa/coordinator"
)

// SASL mechanisms, for Config.SASLMechanisms.
const (
	MechanismPlain       = "PLAIN"
	MechanismScramSHA256 = coordinator.ScramSHA256
	MechanismScramSHA512 = coordinator.ScramSHA512
	MechanismOAuthBearer = "OAUTHBEARER"
)

const (
	// failureDelay is what a failed authentication waits before it is told.
	failureDelay = 500 * time.Millisecond
	// maxPassword bounds a password in PLAIN.
	maxPassword = 1024
	// scramIterations is what credentials made here cost, scramSalt how long their salt is.
	scramIterations = 8192
	scramSalt       = 24
)

// errCredentials is what a failed authentication wraps. What it wraps further is for the broker's own log.
var errCredentials = errors.New("invalid credentials")

// saslServer is what all exchanges share.
type saslServer struct {
	mechanisms []string // in the order of preference
	image      func() *coordinator.Image
	oauth      *tokenVerifier // nil: no OAUTHBEARER
	delay      time.Duration
	reauth     time.Duration       // connections.max.reauth.ms; 0: never
	work       *semaphore.Weighted // key derivations at once
	secret     []byte              // where the cluster has none yet
}

func newSASLServer(mechanisms []string, image func() *coordinator.Image, oauth *tokenVerifier, reauth time.Duration) *saslServer {
	s := &saslServer{mechanisms: mechanisms, image: image, oauth: oauth, delay: failureDelay, reauth: reauth,
		work: semaphore.NewWeighted(int64(max(1, runtime.GOMAXPROCS(0)/2))), secret: make([]byte, 32)}
	_, _ = crand.Read(s.secret) // never fails
	return s
}

// proof is the outcome of an exchange.
type proof struct {
	user    string
	expires time.Time // of a token; zero: it does not
}

// saslExchange is one client's proof in progress. step takes its next message and gives the answer; with p the proof is complete.
// An error ends it, and wraps errCredentials.
type saslExchange interface {
	step(ctx context.Context, token []byte) (answer []byte, p *proof, err error)
}

// exchange begins one; nil for a mechanism that is not offered.
func (s *saslServer) exchange(mechanism string) saslExchange {
	if !slices.Contains(s.mechanisms, mechanism) {
		return nil
	}
	switch mechanism {
	case MechanismPlain:
		return &plainExchange{s}
	case MechanismScramSHA256, MechanismScramSHA512:
		return &scramExchange{s: s, mechanism: mechanism}
	case MechanismOAuthBearer:
		return &oauthExchange{v: s.oauth}
	}
	return nil
}

// scramHash is a mechanism's.
func scramHash(mechanism string) func() hash.Hash {
	if mechanism == MechanismScramSHA512 {
		return sha512.New
	}
	return sha256.New
}

func hmacOf(h func() hash.Hash, key []byte, text string) []byte {
	m := hmac.New(h, key)
	m.Write([]byte(text))
	return m.Sum(nil)
}

// scramKeys are what a server keeps of a salted password.
func scramKeys(mechanism string, salted []byte) (stored, server []byte) {
	h := scramHash(mechanism)
	sum := h()
	sum.Write(hmacOf(h, salted, "Client Key"))
	return sum.Sum(nil), hmacOf(h, salted, "Server Key")
}

func saltedPassword(mechanism, password string, salt []byte, iterations int) ([]byte, error) {
	h := scramHash(mechanism)
	return pbkdf2.Key(h, password, salt, iterations, h().Size())
}

// newCredential makes a credential of a password.
func newCredential(user, mechanism, password string) (coordinator.ScramCredential, error) {
	c := coordinator.ScramCredential{UserMechanism: coordinator.UserMechanism{User: user, Mechanism: mechanism}, Salt: make([]byte, scramSalt), Iterations: scramIterations}
	_, _ = crand.Read(c.Salt) // never fails
	salted, err := saltedPassword(mechanism, password, c.Salt, c.Iterations)
	if err != nil {
		return c, err
	}
	c.StoredKey, c.ServerKey = scramKeys(mechanism, salted)
	return c, nil
}

// credential is a user's, or one that looks like it: the same each time, on all brokers, and no password fits it.
func (s *saslServer) credential(user, mechanism string) (c *coordinator.ScramCredential, real bool) {
	im := s.image()
	if c := im.User(user, mechanism); c != nil {
		return c, true
	}
	secret := im.LoginSecret()
	if len(secret) == 0 {
		secret = s.secret
	}
	derive := func(what string) []byte { return hmacOf(sha512.New, secret, what+"\x00"+mechanism+"\x00"+user) }
	n := scramHash(mechanism)().Size()
	iterations := scramIterations
	if derive("iterations")[0]&1 == 0 {
		iterations = coordinator.MinScramIterations // what Kafka's own tools make
	}
	return &coordinator.ScramCredential{UserMechanism: coordinator.UserMechanism{User: user, Mechanism: mechanism}, Salt: derive("salt")[:scramSalt],
		StoredKey: derive("stored")[:n], ServerKey: derive("server")[:n], Iterations: iterations}, false
}

// plainExchange checks a password against a SCRAM credential.
type plainExchange struct{ s *saslServer }

func (x *plainExchange) step(ctx context.Context, token []byte) ([]byte, *proof, error) {
	parts := bytes.Split(token, []byte{0})
	if len(parts) != 3 {
		return nil, nil, fmt.Errorf("%w: a message of %d parts", errCredentials, len(parts))
	}
	id, user, password := string(parts[0]), string(parts[1]), string(parts[2])
	if user == "" || len(user) > coordinator.MaxUserName || password == "" || len(password) > maxPassword || id != "" && id != user {
		return nil, nil, fmt.Errorf("%w: user %.64q, in the name of %.64q", errCredentials, user, id)
	}
	mechanism := MechanismScramSHA512
	c, real := x.s.credential(user, mechanism)
	if !real {
		if other, ok := x.s.credential(user, MechanismScramSHA256); ok {
			c, real, mechanism = other, true, MechanismScramSHA256
		}
	}
	if err := x.s.work.Acquire(ctx, 1); err != nil {
		return nil, nil, fmt.Errorf("%w: %w", errCredentials, err)
	}
	salted, err := saltedPassword(mechanism, password, c.Salt, c.Iterations)
	x.s.work.Release(1)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", errCredentials, err)
	}
	stored, _ := scramKeys(mechanism, salted)
	if subtle.ConstantTimeCompare(stored, c.StoredKey) != 1 || !real {
		return nil, nil, fmt.Errorf("%w: user %q", errCredentials, user)
	}
	return []byte{}, &proof{user: user}, nil
}

// checkMechanisms says what is wrong with a list of mechanisms.
func checkMechanisms(list []string) error {
	all := []string{MechanismScramSHA512, MechanismScramSHA256, MechanismPlain, MechanismOAuthBearer}
	for i, m := range list {
		if !slices.Contains(all, m) {
			return fmt.Errorf("there is no SASL mechanism %q: %s", m, strings.Join(all, ", "))
		}
		if slices.Contains(list[:i], m) {
			return fmt.Errorf("SASL mechanism %s is named twice", m)
		}
	}
	return nil
}

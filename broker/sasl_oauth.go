// OAUTHBEARER (RFC 7628, KIP-255): the client brings a signed token (JWT), of which issuer, audience, times and signature are
// checked. The keys come as a JWKS from a URL or a file, and are fetched anew from time to time, and when a token names a key
// that is not known.

package broker

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/balsamq/balsa/coordinator"
)

const (
	// maxJWKS bounds a set of keys.
	maxJWKS = 1 << 20
	// jwksTimeout bounds one fetch, jwksPause is between two at least: a client with odd tokens must not make us ask for ever.
	jwksTimeout = 5 * time.Second
	jwksPause   = 10 * time.Second
)

// OAuth says which tokens are good. The zero value is no OAUTHBEARER.
type OAuth struct {
	// JWKS is where the keys are: an https (or http) URL, or a file's path.
	JWKS string
	// Issuer and Audience must be those of a token; one of several audiences is enough. Empty: any. One of the two must be given.
	Issuer   string
	Audience []string
	// PrincipalClaim is the claim that holds the user's name. Default "sub".
	PrincipalClaim string
	// ClockSkew is by how much the issuer's clock may differ. Default 30 s; at most 5 min.
	ClockSkew time.Duration
	// Refresh is how often the keys are fetched anew. Default 1 h; a file is read every 10 s.
	Refresh time.Duration
}

func (o *OAuth) enabled() bool { return o.JWKS != "" }

func (o OAuth) withDefaults() OAuth {
	def(&o.PrincipalClaim, "sub")
	def(&o.ClockSkew, 30*time.Second)
	def(&o.Refresh, time.Hour)
	if !o.remote() {
		o.Refresh = min(o.Refresh, jwksPause)
	}
	return o
}

func (o *OAuth) remote() bool {
	return strings.HasPrefix(o.JWKS, "https://") || strings.HasPrefix(o.JWKS, "http://")
}

func (o OAuth) check() error {
	if !o.enabled() {
		if o.Issuer != "" || len(o.Audience) > 0 {
			return errors.New("OAuth: an issuer or audience, but no JWKS with its keys")
		}
		return nil
	}
	d := o.withDefaults()
	switch u, err := url.Parse(o.JWKS); {
	case o.remote() && (err != nil || u.Host == ""):
		return fmt.Errorf("OAuth: JWKS %q is no URL", o.JWKS)
	case o.Issuer == "" && len(o.Audience) == 0:
		return errors.New("OAuth: without an issuer or an audience every token that anybody has of these keys would do")
	case d.ClockSkew < 0 || d.ClockSkew > 5*time.Minute:
		return fmt.Errorf("OAuth: ClockSkew %v is not in [0, 5m]", o.ClockSkew)
	case d.Refresh <= 0:
		return fmt.Errorf("OAuth: Refresh %v is negative", o.Refresh)
	}
	return nil
}

// signatures are the algorithms that a token may be signed by: those with a public key.
var signatures = []jose.SignatureAlgorithm{jose.RS256, jose.RS384, jose.RS512, jose.PS256, jose.PS384, jose.PS512, jose.ES256, jose.ES384, jose.ES512, jose.EdDSA}

// tokenVerifier holds the keys.
type tokenVerifier struct {
	o    OAuth // with defaults
	log  *slog.Logger
	http *http.Client
	now  func() time.Time

	keys  atomic.Pointer[jose.JSONWebKeySet]
	mu    sync.Mutex // held while keys are fetched; guards what follows
	asked time.Time
	said  string // the last failure that was logged
}

func newTokenVerifier(o OAuth, log *slog.Logger) *tokenVerifier {
	return &tokenVerifier{o: o.withDefaults(), log: log, http: &http.Client{Timeout: jwksTimeout}, now: time.Now}
}

// run fetches the keys until ctx ends. A broker starts without them: their issuer may come later than it.
func (v *tokenVerifier) run(ctx context.Context) {
	for {
		err := v.fetch(ctx, 0)
		wait := v.o.Refresh
		if err != nil {
			wait = min(wait, jwksPause)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}

// fetch gets the keys, unless that was tried less than pause ago.
func (v *tokenVerifier) fetch(ctx context.Context, pause time.Duration) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if now := v.now(); pause > 0 && now.Sub(v.asked) < pause {
		return nil
	}
	v.asked = v.now()
	set, err := v.load(ctx)
	if err != nil {
		if v.said != err.Error() && ctx.Err() == nil {
			v.said = err.Error()
			v.log.Error("the keys of OAUTHBEARER cannot be had; those of before stay in force", "jwks", v.o.JWKS, "err", err)
		}
		return err
	}
	v.said = ""
	v.keys.Store(set)
	return nil
}

func (v *tokenVerifier) load(ctx context.Context) (*jose.JSONWebKeySet, error) {
	var in io.ReadCloser
	if v.o.remote() {
		ctx, cancel := context.WithTimeout(ctx, jwksTimeout)
		defer cancel()
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, v.o.JWKS, nil)
		if err != nil {
			return nil, err
		}
		resp, err := v.http.Do(req)
		if err != nil {
			return nil, err
		}
		if resp.StatusCode != http.StatusOK {
			resp.Body.Close()
			return nil, fmt.Errorf("%s answers %s", v.o.JWKS, resp.Status)
		}
		in = resp.Body
	} else {
		f, err := os.Open(v.o.JWKS)
		if err != nil {
			return nil, err
		}
		in = f
	}
	defer in.Close()
	raw, err := io.ReadAll(io.LimitReader(in, maxJWKS+1))
	if err != nil {
		return nil, err
	}
	return parseJWKS(raw)
}

// parseJWKS reads the public keys of a set; those of kinds that we do not know are left out.
func parseJWKS(raw []byte) (*jose.JSONWebKeySet, error) {
	if len(raw) > maxJWKS {
		return nil, fmt.Errorf("a JWKS of more than %d bytes", maxJWKS)
	}
	var list struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(raw, &list); err != nil {
		return nil, fmt.Errorf("no JWKS: %w", err)
	}
	set := new(jose.JSONWebKeySet)
	for _, one := range list.Keys {
		var k jose.JSONWebKey
		if k.UnmarshalJSON(one) == nil && k.IsPublic() && (k.Use == "" || k.Use == "sig") {
			set.Keys = append(set.Keys, k)
		}
	}
	if len(set.Keys) == 0 {
		return nil, errors.New("the JWKS holds no public key for signatures")
	}
	return set, nil
}

// verify checks a token.
func (v *tokenVerifier) verify(ctx context.Context, token string) (*proof, error) {
	t, err := jwt.ParseSigned(token, signatures)
	if err != nil {
		return nil, err
	}
	if len(t.Headers) != 1 {
		return nil, fmt.Errorf("a token with %d signatures", len(t.Headers))
	}
	kid := t.Headers[0].KeyID
	keys := v.candidates(kid)
	if len(keys) == 0 {
		_ = v.fetch(ctx, jwksPause) // has been logged
		if keys = v.candidates(kid); len(keys) == 0 {
			return nil, fmt.Errorf("no key %.64q is known", kid)
		}
	}
	var claims jwt.Claims
	var all map[string]any
	for _, k := range keys {
		if k.Algorithm != "" && k.Algorithm != t.Headers[0].Algorithm {
			err = errors.New("the key is for another algorithm")
			continue
		}
		if err = t.Claims(k.Key, &claims, &all); err == nil {
			break
		}
	}
	if err != nil {
		return nil, err
	}
	if err := claims.ValidateWithLeeway(jwt.Expected{Issuer: v.o.Issuer, AnyAudience: v.o.Audience, Time: v.now()}, v.o.ClockSkew); err != nil {
		return nil, err
	}
	if claims.Expiry == nil {
		return nil, errors.New("the token never expires")
	}
	user, ok := all[v.o.PrincipalClaim].(string)
	if !ok || user == "" || len(user) > coordinator.MaxUserName {
		return nil, fmt.Errorf("the token has no usable claim %q", v.o.PrincipalClaim)
	}
	return &proof{user: user, expires: claims.Expiry.Time().Add(v.o.ClockSkew)}, nil
}

// candidates are the keys of an id; all of them for a token that names none.
func (v *tokenVerifier) candidates(kid string) []jose.JSONWebKey {
	set := v.keys.Load()
	switch {
	case set == nil:
		return nil
	case kid == "":
		return set.Keys
	}
	return set.Key(kid)
}

// oauthExchange is RFC 7628's: the token, and where it is refused one more message in which the client says that it has heard.
type oauthExchange struct {
	v      *tokenVerifier
	failed error
}

var oauthRefusal = []byte(`{"status":"invalid_token"}`)

func (x *oauthExchange) step(ctx context.Context, message []byte) ([]byte, *proof, error) {
	if x.failed != nil {
		return nil, nil, x.failed
	}
	id, token, err := parseOAuth(message)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", errCredentials, err)
	}
	p, err := x.v.verify(ctx, token)
	if err == nil && id != "" && id != p.user {
		err = fmt.Errorf("user %.64q wants to be %.64q", p.user, id)
	}
	if err != nil {
		x.failed = fmt.Errorf("%w: %w", errCredentials, err)
		return oauthRefusal, nil, nil
	}
	return []byte{}, p, nil
}

// parseOAuth reads "n,a=ID,^Aauth=Bearer TOKEN^A…^A^A".
func parseOAuth(m []byte) (id, token string, err error) {
	head, rest, ok := bytes.Cut(m, []byte{1})
	if !ok || !bytes.HasSuffix(rest, []byte{1, 1}) {
		return "", "", errors.New("no message of OAUTHBEARER")
	}
	gs2 := strings.Split(string(head), ",")
	if len(gs2) != 3 || gs2[0] != "n" && gs2[0] != "y" || gs2[2] != "" {
		return "", "", errors.New("no header of OAUTHBEARER")
	}
	if gs2[1] != "" {
		if id, ok = strings.CutPrefix(gs2[1], "a="); !ok {
			return "", "", errors.New("no header of OAUTHBEARER")
		}
		id = strings.NewReplacer("=2C", ",", "=3D", "=").Replace(id)
	}
	for pair := range bytes.SplitSeq(rest[:len(rest)-2], []byte{1}) {
		k, val, _ := strings.Cut(string(pair), "=")
		if k != "auth" {
			continue
		}
		scheme, t, ok := strings.Cut(strings.TrimSpace(val), " ")
		if !ok || !strings.EqualFold(scheme, "bearer") {
			return "", "", errors.New("the client brings no bearer token")
		}
		return id, strings.TrimSpace(t), nil
	}
	return "", "", errors.New("the client brings no token")
}

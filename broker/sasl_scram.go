// SCRAM's server side (RFC 5802, RFC 7677): one client's exchange.
//
// It is our own, small as it is, because of one client: librdkafka before 2.6.1 sends its nonce twice in the last message. Kafka
// does not mind, as it looks at the end of the nonce only; libraries do, and the proof covers the message as it was sent, so that
// it cannot be put right before them. What the nonce is for still holds: the server's part is in it, and new each time.

package broker

import (
	"context"
	"crypto/hmac"
	crand "crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"

	"github.com/balsamq/balsa/coordinator"
)

// maxScramNonce bounds a client's nonce.
const maxScramNonce = 1024

type scramExchange struct {
	s         *saslServer
	mechanism string

	// Set by the first message.
	began  bool
	gs2    string // the header, which the last message repeats
	user   string
	nonce  string // the client's and ours
	first  string // both first messages, without gs2: the beginning of what is signed
	stored *coordinator.ScramCredential
	real   bool
}

func (x *scramExchange) step(_ context.Context, message []byte) ([]byte, *proof, error) {
	answer, p, err := "", (*proof)(nil), error(nil)
	if !x.began {
		x.began = true
		answer, err = x.begin(string(message))
	} else {
		answer, p, err = x.finish(string(message))
	}
	if err != nil {
		return nil, nil, fmt.Errorf("%w: user %q: %w", errCredentials, x.user, err)
	}
	return []byte(answer), p, nil
}

var errScram = errors.New("no message of SCRAM")

// begin reads "n,[a=ID],n=USER,r=NONCE[,…]" and answers "r=NONCE,s=SALT,i=ITERATIONS".
func (x *scramExchange) begin(m string) (string, error) {
	flag, rest, ok1 := strings.Cut(m, ",")
	id, bare, ok2 := strings.Cut(rest, ",")
	fields := strings.Split(bare, ",")
	if !ok1 || !ok2 || flag != "n" && flag != "y" || len(fields) < 2 {
		return "", errScram // also who insists on channel binding (p=), which we did not offer
	}
	name, ok1 := strings.CutPrefix(fields[0], "n=")
	nonce, ok2 := strings.CutPrefix(fields[1], "r=")
	if !ok1 || !ok2 || nonce == "" || len(nonce) > maxScramNonce {
		return "", errScram // also extensions that must be understood (m=)
	}
	user, ok := scramName(name)
	if !ok || user == "" || len(user) > coordinator.MaxUserName {
		return "", errScram
	}
	x.user = user
	if id != "" {
		a, ok := strings.CutPrefix(id, "a=")
		if a, ok2 = scramName(a); !ok || !ok2 || a != user {
			return "", fmt.Errorf("it wants to be %.64q", a)
		}
	}
	x.stored, x.real = x.s.credential(user, x.mechanism)
	x.gs2 = flag + "," + id + ","
	x.nonce = nonce + crand.Text()
	answer := fmt.Sprintf("r=%s,s=%s,i=%d", x.nonce, base64.StdEncoding.EncodeToString(x.stored.Salt), x.stored.Iterations)
	x.first = bare + "," + answer
	return answer, nil
}

// finish reads "c=HEADER,r=NONCE[,…],p=PROOF" and answers "v=SIGNATURE".
func (x *scramExchange) finish(m string) (string, *proof, error) {
	if x.stored == nil {
		return "", nil, errScram
	}
	i := strings.LastIndex(m, ",p=")
	if i < 0 {
		return "", nil, errScram
	}
	signed, sent := m[:i], m[i+len(",p="):]
	fields := strings.Split(signed, ",")
	if len(fields) < 2 || fields[0] != "c="+base64.StdEncoding.EncodeToString([]byte(x.gs2)) {
		return "", nil, errScram
	}
	nonce, ok := strings.CutPrefix(fields[1], "r=")
	if !ok || !strings.HasSuffix(nonce, x.nonce) {
		return "", nil, errors.New("the nonce is another one")
	}
	clientProof, err := base64.StdEncoding.DecodeString(sent)
	h := scramHash(x.mechanism)
	if err != nil || len(clientProof) != h().Size() {
		return "", nil, errScram
	}
	text := x.first + "," + signed
	key := make([]byte, len(clientProof))
	subtle.XORBytes(key, clientProof, hmacOf(h, x.stored.StoredKey, text))
	sum := h()
	sum.Write(key)
	if !hmac.Equal(sum.Sum(nil), x.stored.StoredKey) || !x.real {
		return "", nil, errors.New("the password is wrong, or there is no such user")
	}
	return "v=" + base64.StdEncoding.EncodeToString(hmacOf(h, x.stored.ServerKey, text)), &proof{user: x.user}, nil
}

// scramName undoes the escapes of a name; ok is false for others than those two.
func scramName(s string) (name string, ok bool) {
	for i := 0; i < len(s); i++ {
		if s[i] == '=' && !strings.HasPrefix(s[i:], "=2C") && !strings.HasPrefix(s[i:], "=3D") {
			return "", false
		}
	}
	return strings.NewReplacer("=2C", ",", "=3D", "=").Replace(s), true
}

// Who a connection speaks for. Quotas, authorization and the audit log ask the connection's session, and nothing else.

package broker

import (
	"crypto/tls"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"
)

const (
	// userPrefix begins the principals of users, the only kind there is.
	userPrefix = "User:"
	// anonymous is who has not been asked.
	anonymous = userPrefix + "ANONYMOUS"
	// maxUserName bounds what may stand behind userPrefix.
	maxUserName = 1024
)

// session is who a connection speaks for, and for how long. It is replaced, never changed.
type session struct {
	principal string    // with its type: "User:alice"
	super     bool      // needs no ACL
	mechanism string    // of SASL; empty: none was asked for
	expires   time.Time // the client has to authenticate anew by then (KIP-368); zero: never
}

// user is the principal without its type: what quotas and people call it.
func (s *session) user() string { return strings.TrimPrefix(s.principal, userPrefix) }

func (s *session) expired(now time.Time) bool { return !s.expires.IsZero() && !now.Before(s.expires) }

// certPrincipal is whom a client certificate speaks for; anonymous without one.
func certPrincipal(cs *tls.ConnectionState, rules principalRules) (string, error) {
	if len(cs.PeerCertificates) == 0 {
		return anonymous, nil
	}
	// The order of the certificate itself, not Go's own: it is part of the name (RFC 2253).
	var rdn pkix.RDNSequence
	if _, err := asn1.Unmarshal(cs.PeerCertificates[0].RawSubject, &rdn); err != nil {
		return "", fmt.Errorf("the client certificate's subject: %w", err)
	}
	name, err := rules.apply(rdn.String())
	if err != nil {
		return "", err
	}
	return userPrefix + name, nil
}

// principalRules are ssl.principal.mapping.rules: "RULE:pattern/replacement/[LU]" or "DEFAULT", with commas between. The first
// whose pattern matches the whole of the name decides. Empty: DEFAULT.
type principalRules []principalRule

type principalRule struct {
	pattern *regexp.Regexp // nil: the name as it is
	replace string
	change  func(string) string // nil: none
}

const maxPrincipalRules = 8 << 10

var javaReference = regexp.MustCompile(`\$(\d+)`)

func parsePrincipalRules(s string) (principalRules, error) {
	var out principalRules
	rest := strings.TrimSpace(s)
	if len(rest) > maxPrincipalRules {
		return nil, fmt.Errorf("rules of %d bytes, at most %d", len(rest), maxPrincipalRules)
	}
	// part is what stands before the next slash that is not escaped.
	part := func() (string, bool) {
		var b strings.Builder
		for i := 0; i < len(rest); i++ {
			switch c := rest[i]; {
			case c == '\\' && i+1 < len(rest):
				if rest[i+1] != '/' {
					b.WriteByte(c)
				}
				i++
				b.WriteByte(rest[i])
			case c == '/':
				rest = rest[i+1:]
				return b.String(), true
			default:
				b.WriteByte(c)
			}
		}
		return "", false
	}
	for rest != "" {
		var r principalRule
		switch {
		case strings.HasPrefix(rest, "DEFAULT"):
			rest = strings.TrimPrefix(rest, "DEFAULT")
		case strings.HasPrefix(rest, "RULE:"):
			rest = strings.TrimPrefix(rest, "RULE:")
			pattern, ok := part()
			replace, ok2 := part()
			if !ok || !ok2 {
				return nil, fmt.Errorf("%q is not RULE:pattern/replacement/[LU]", s)
			}
			re, err := regexp.Compile("^(?:" + pattern + ")$")
			if err != nil {
				return nil, fmt.Errorf("the pattern %q: %w", pattern, err)
			}
			r = principalRule{pattern: re, replace: javaReference.ReplaceAllString(replace, "$${$1}")}
			switch {
			case strings.HasPrefix(rest, "L"):
				r.change, rest = strings.ToLower, rest[1:]
			case strings.HasPrefix(rest, "U"):
				r.change, rest = strings.ToUpper, rest[1:]
			}
		default:
			return nil, fmt.Errorf("%q begins with neither RULE: nor DEFAULT", rest)
		}
		out = append(out, r)
		rest = strings.TrimSpace(rest)
		if rest != "" && rest[0] != ',' {
			return nil, fmt.Errorf("%q stands behind a rule where a comma belongs", rest)
		}
		rest = strings.TrimSpace(strings.TrimPrefix(rest, ","))
	}
	return out, nil
}

var errNoRule = errors.New("no rule of ssl.principal.mapping.rules matches the client certificate")

func (rules principalRules) apply(name string) (string, error) {
	if len(rules) == 0 {
		rules = principalRules{{}}
	}
	for _, r := range rules {
		out := name
		if r.pattern != nil {
			m := r.pattern.FindStringSubmatchIndex(name)
			if m == nil {
				continue
			}
			out = string(r.pattern.ExpandString(nil, r.replace, name, m))
		}
		if r.change != nil {
			out = r.change(out)
		}
		if out == "" || len(out) > maxUserName {
			return "", fmt.Errorf("the client certificate gives a name of %d bytes", len(out))
		}
		return out, nil
	}
	return "", fmt.Errorf("%w: %s", errNoRule, name)
}

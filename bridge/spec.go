// Package bridge joins NATS at the edge to the log at the core: JetStream streams and core subjects into topics, and topics into
// JetStream. A bridge is defined by a [Spec], kept in the cluster's metadata, and run by one broker at a time through a [Runner];
// docs/design/0026-nats-bridge.md has what it promises and how.
//
// This file is the definition: what it may say, and what is wrong with one.
package bridge

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"reflect"
	"slices"
	"strings"
)

const (
	// MaxSpecBytes bounds a definition.
	MaxSpecBytes = 16 << 10
	// maxServers, maxFilters and maxSkips bound its lists, maxName its names.
	maxServers = 32
	maxFilters = 64
	maxSkips   = 64
	maxName    = 255
)

// Spec defines a bridge. Exactly one of FromStream, FromSubject and FromTopic is set, and with it ToTopic or, for a topic, ToStream.
type Spec struct {
	// Servers are URLs of NATS servers, without passwords.
	Servers []string `json:"servers"`

	FromStream  string `json:"from_stream,omitempty"`
	FromSubject string `json:"from_subject,omitempty"` // of core NATS, wildcards allowed
	FromTopic   string `json:"from_topic,omitempty"`
	ToTopic     string `json:"to_topic,omitempty"`
	ToStream    string `json:"to_stream,omitempty"`

	// Filters are subjects of FromStream, wildcards allowed; none: all of it.
	Filters []string `json:"filters,omitempty"`
	// Queue is the queue group of FromSubject; empty: the bridge's own.
	Queue string `json:"queue,omitempty"`
	// Key is the template of a record's key: see template.go. Empty: the subject; "none": no key.
	Key string `json:"key,omitempty"`
	// Subject is the template of a message's subject. Required with FromTopic.
	Subject string `json:"subject,omitempty"`
	// DeadLetters is the topic for what cannot be converted. Empty: the bridge stops at it.
	DeadLetters string `json:"dead_letters,omitempty"`
	// Skip names bridges: what has passed one of them is left out. "*": any.
	Skip []string `json:"skip,omitempty"`

	Auth
}

// Auth says how to connect to NATS. All files are names in the brokers' directory of secrets.
type Auth struct {
	// CredsFile holds a JWT and its NKey (a .creds file), NKeyFile the seed of an NKey.
	CredsFile string `json:"creds_file,omitempty"`
	NKeyFile  string `json:"nkey_file,omitempty"`
	// User goes with PasswordFile. TokenFile holds a token.
	User         string `json:"user,omitempty"`
	PasswordFile string `json:"password_file,omitempty"`
	TokenFile    string `json:"token_file,omitempty"`
	// TLS asks for it; so does each of the next three, PEM files: the authorities of the servers' certificates, and one of the client's own.
	TLS      bool   `json:"tls,omitempty"`
	CAFile   string `json:"ca_file,omitempty"`
	CertFile string `json:"cert_file,omitempty"`
	KeyFile  string `json:"key_file,omitempty"`
	// JSDomain is the JetStream domain, such as that of a leaf node.
	JSDomain string `json:"js_domain,omitempty"`
}

// ErrSpec is what every error about a definition wraps.
var ErrSpec = errors.New("the bridge's definition")

func specErrorf(format string, a ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrSpec}, a...)...)
}

// ParseSpec reads a definition and checks it. A name that it does not know is refused: a newer version may mean something by it.
func ParseSpec(raw []byte) (*Spec, error) {
	if len(raw) > MaxSpecBytes {
		return nil, specErrorf("%d bytes, at most %d", len(raw), MaxSpecBytes)
	}
	s := new(Spec)
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	if err := d.Decode(s); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSpec, err)
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, specErrorf("something follows the JSON object")
	}
	return s, s.Check()
}

// Direction is "stream to topic", "subject to topic" or "topic to stream".
func (s *Spec) Direction() string {
	switch {
	case s.FromStream != "":
		return "stream to topic"
	case s.FromSubject != "":
		return "subject to topic"
	}
	return "topic to stream"
}

// Source and Target name both ends, for people.
func (s *Spec) Source() string { return s.FromStream + s.FromSubject + s.FromTopic }

// Target: see Source.
func (s *Spec) Target() string { return s.ToTopic + s.ToStream }

// Check says what is wrong with a definition; nil: nothing that can be known without asking anybody.
func (s *Spec) Check() error {
	if len(s.Servers) == 0 || len(s.Servers) > maxServers {
		return specErrorf("it names %d NATS servers, 1 to %d are allowed", len(s.Servers), maxServers)
	}
	for _, raw := range s.Servers {
		if err := checkServer(raw); err != nil {
			return err
		}
	}
	sources := 0
	for _, from := range [...]string{s.FromStream, s.FromSubject, s.FromTopic} {
		if from != "" {
			sources++
		}
		if len(from) > maxName {
			return specErrorf("a name of %d bytes, at most %d", len(from), maxName)
		}
	}
	switch {
	case sources != 1:
		return specErrorf("it has %d sources, and takes one: a stream, a core subject or a topic", sources)
	case s.FromTopic != "" && (s.ToStream == "" || s.ToTopic != ""):
		return specErrorf("a topic goes to a stream")
	case s.FromTopic == "" && (s.ToTopic == "" || s.ToStream != ""):
		return specErrorf("a stream or subject goes to a topic")
	case s.FromTopic != "" && s.Subject == "":
		return specErrorf("it lacks the template of the subjects, such as orders.{key}")
	case s.FromTopic == "" && s.Subject != "":
		return specErrorf("a template of subjects is for a topic that goes to a stream")
	case s.FromTopic != "" && (s.Key != "" || len(s.Filters) > 0 || s.Queue != ""):
		return specErrorf("key, filters and queue group are for what comes from NATS")
	case s.FromStream == "" && len(s.Filters) > 0:
		return specErrorf("filters are for a stream")
	case s.FromSubject == "" && s.Queue != "":
		return specErrorf("a queue group is for a core subject")
	}
	if len(s.Filters) > maxFilters || len(s.Skip) > maxSkips {
		return specErrorf("%d filters, at most %d; %d bridges to leave out, at most %d", len(s.Filters), maxFilters, len(s.Skip), maxSkips)
	}
	for _, f := range append(slices.Clone(s.Filters), s.FromSubject) {
		if f != "" {
			if err := checkFilter(f); err != nil {
				return err
			}
		}
	}
	for _, name := range [...]string{s.FromStream, s.ToStream} {
		if strings.ContainsAny(name, " \t\r\n.*>/\\") {
			return specErrorf("no stream can be called %q", name)
		}
	}
	for _, name := range [...]string{s.FromTopic, s.ToTopic, s.DeadLetters} {
		if name != "" && !topicName(name) {
			return specErrorf("no topic can be called %q", name)
		}
		if name == LedgerTopic {
			return specErrorf("topic %s is where the bridges keep how far they have come: it is neither source nor target", name)
		}
	}
	if strings.ContainsAny(s.Queue, " \t\r\n") || len(s.Queue) > maxName {
		return specErrorf("no queue group can be called %.64q", s.Queue)
	}
	if s.DeadLetters != "" && (s.DeadLetters == s.ToTopic || s.DeadLetters == s.FromTopic) {
		return specErrorf("dead letters need a topic of their own")
	}
	if s.FromTopic != "" {
		if _, err := parseTemplate(s.Subject, subjectFields); err != nil {
			return err
		}
	} else if _, err := parseTemplate(s.Key, keyFields); err != nil {
		return err
	}
	return s.Auth.check()
}

// checkChange says whether a bridge may go on by another definition: where it was stays what it was, and messages become the same records.
func (s *Spec) checkChange(to *Spec) error {
	was, is := *s, *to
	for _, x := range [...]*Spec{&was, &is} {
		x.Servers, x.DeadLetters, x.Auth = nil, "", Auth{}
	}
	if !reflect.DeepEqual(was, is) {
		return specErrorf("only its servers, its dead letters and how it connects can be changed: for another source or target, or other keys, subjects or filters, make another bridge")
	}
	return nil
}

func checkServer(raw string) error {
	u, err := url.Parse(raw)
	if strings.Contains(raw, "@") && (err != nil || u.User == nil) || strings.Contains(raw, ",") { // not repeated either; and a client would take a comma for the end of a URL
		return specErrorf("a server's URL has no ',' and no '@' in it: give several as several, and name files in the brokers' directory of secrets for users and passwords")
	}
	if err != nil || len(raw) > maxName {
		return specErrorf("server %.64q is no URL such as nats://nats.example:4222", raw)
	}
	if u.User != nil { // the text is not repeated: it has the secret in it
		return specErrorf("the URL of server %s has a user or password in it: name a file in the brokers' directory of secrets instead", u.Host)
	}
	if !slices.Contains([]string{"nats", "tls", "ws", "wss"}, u.Scheme) || u.Host == "" || u.RawQuery != "" {
		return specErrorf("server %q is no URL such as nats://nats.example:4222", raw)
	}
	return nil
}

// checkFilter applies NATS's rules for subjects to subscribe to.
func checkFilter(s string) error {
	tokens := strings.Split(s, ".")
	for i, t := range tokens {
		if t == "" || strings.ContainsAny(t, " \t\r\n") || len(t) > 1 && strings.ContainsAny(t, "*>") || t == ">" && i != len(tokens)-1 {
			return specErrorf("%q is no subject", s)
		}
	}
	if len(s) > maxName {
		return specErrorf("a subject of %d bytes, at most %d", len(s), maxName)
	}
	return nil
}

func topicName(s string) bool {
	if s == "." || s == ".." || len(s) > 249 {
		return false
	}
	for _, c := range []byte(s) {
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '.' || c == '_' || c == '-') {
			return false
		}
	}
	return true
}

func (a *Auth) check() error {
	ways := 0
	for _, set := range [...]bool{a.CredsFile != "", a.NKeyFile != "", a.User != "" || a.PasswordFile != "", a.TokenFile != ""} {
		if set {
			ways++
		}
	}
	switch {
	case ways > 1:
		return specErrorf("it has %d ways to say who it is, and takes one: a creds file, an NKey, user and password, or a token", ways)
	case (a.User == "") != (a.PasswordFile == ""):
		return specErrorf("a user and the file with their password go together")
	case (a.CertFile == "") != (a.KeyFile == ""):
		return specErrorf("a certificate and its key go together")
	case len(a.User) > maxName || len(a.JSDomain) > maxName || strings.ContainsAny(a.JSDomain, ". *>\t\r\n"):
		return specErrorf("the user's name or the JetStream domain cannot be right")
	}
	for _, f := range [...]string{a.CredsFile, a.NKeyFile, a.PasswordFile, a.TokenFile, a.CAFile, a.CertFile, a.KeyFile} {
		if f == "." || f == ".." || strings.ContainsAny(f, "/\\\x00") || len(f) > maxName {
			return specErrorf("%q is no name of a file in the brokers' directory of secrets: give it without a path", f)
		}
	}
	return nil
}

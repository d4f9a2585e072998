package bridge

import (
	"bytes"
	"errors"
	"strings"
	"testing"
)

func headersOf(kv ...string) func(string) (string, bool) {
	return func(name string) (string, bool) {
		for i := 0; i+1 < len(kv); i += 2 {
			if kv[i] == name {
				return kv[i+1], true
			}
		}
		return "", false
	}
}

func TestKeyTemplates(t *testing.T) {
	for _, tc := range []struct{ template, subject, want string }{
		{"{subject}", "a.b", "a.b"},
		{"{subject[1]}", "orders.k%2E1.x", "k.1"},
		{"{token[1]}", "orders.k%2E1.x", "k%2E1"},
		{"{subject[-1]}", "orders.k.x", "x"},
		{"{subject[1]}", "orders.100%.x", "100%"}, // none of ours
		{"{subject[1]}", "orders.%e.x", ""},
		{"p-{subject[0]}/{header:H}", "a.b", "p-a/v"},
		{"fixed", "a", "fixed"},
	} {
		tmpl, err := parseTemplate(tc.template, keyFields)
		if err != nil {
			t.Fatal(err)
		}
		got, err := tmpl.key(tc.subject, headersOf("H", "v"))
		if err != nil || got == nil || string(got) != tc.want {
			t.Errorf("%s of %s: %q, %v", tc.template, tc.subject, got, err)
		}
	}
	one, err := parseTemplate("{subject[1]}", keyFields)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := one.key("orders.%n", headersOf()); got != nil || err != nil {
		t.Errorf("no key: %q, %v", got, err)
	}
	for _, template := range []string{"{subject[3]}", "{token[-4]}", "{header:X}"} {
		tmpl, err := parseTemplate(template, keyFields)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := tmpl.key("a.b.c", headersOf()); err == nil {
			t.Errorf("%s: %q", template, got)
		}
	}
}

func TestSubjectTemplates(t *testing.T) {
	for _, tc := range []struct {
		template string
		key      []byte
		want     string
	}{
		{"orders.{key}", []byte("7"), "orders.7"},
		{"orders.{key}", []byte("a.b c*>%\n\x00\xff"), "orders.a%2Eb%20c%2A%3E%25%0A%00%FF"},
		{"orders.{key}", []byte("straße"), "orders.straße"},
		{"orders.{key}", nil, "orders.%n"},
		{"orders.{key}", []byte{}, "orders.%e"},
		{"{key.*}", []byte("a.b"), "a.b"},
		{"{key.*}", []byte("a..b"), "a.%e.b"},
		{"{topic}.{partition}.{header:H}", nil, "t%2E1.3.v%2Ew"},
		{"x{key}y", []byte("."), "x%2Ey"},
	} {
		tmpl, err := parseTemplate(tc.template, subjectFields)
		if err != nil {
			t.Fatal(err)
		}
		got, err := tmpl.subject(tc.key, "t.1", 3, headersOf("H", "v.w"))
		if err != nil || got != tc.want || !validSubject(got) {
			t.Errorf("%s of %q: %q, %v", tc.template, tc.key, got, err)
		}
	}
	long, err := parseTemplate("{key}", subjectFields)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := long.subject(bytes.Repeat([]byte("x"), maxSubject+1), "t", 0, headersOf()); err == nil {
		t.Error("a subject longer than the bound")
	}
}

func TestTemplatesAreRefused(t *testing.T) {
	for _, s := range []string{"{", "}", "{}", "{key", "{subject}", "a..{key}", "a.*", "a.>", "a b", "{key}.", ".{key}", "{header:}", strings.Repeat("{key}", maxFields+1), strings.Repeat("x", maxTemplate+1)} {
		if _, err := parseTemplate(s, subjectFields); !errors.Is(err, ErrSpec) {
			t.Errorf("subject template %q: %v", s, err)
		}
	}
	for _, s := range []string{"{key}", "{subject[x]}", "{subject[99999999]}", "{token[1}", "{partition}"} {
		if _, err := parseTemplate(s, keyFields); !errors.Is(err, ErrSpec) {
			t.Errorf("key template %q: %v", s, err)
		}
	}
}

// Whatever a key is, it makes a token, and comes back from it.
func FuzzToken(f *testing.F) {
	for _, s := range []string{"", "a", "a.b", "%e", "%n", "%", "%zz", "\xff", "é", "*", ">", "a b"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		token := escapeToken(b)
		if !validSubject(token) || strings.Contains(token, ".") {
			t.Fatalf("%q became %q, which is no token", b, token)
		}
		back, isNil := unescapeToken(token)
		if isNil != (b == nil) || !bytes.Equal(back, b) {
			t.Fatalf("%q became %q and then %q", b, token, back)
		}
	})
}

func FuzzTemplate(f *testing.F) {
	for _, s := range []string{"{key}", "a.{key.*}.{partition}", "{subject[1]}-{token[0]}", "{header:X}"} {
		f.Add(s, "a.b%2E", []byte("k"))
	}
	f.Fuzz(func(t *testing.T, s, subject string, key []byte) {
		if tmpl, err := parseTemplate(s, keyFields); err == nil {
			_, _ = tmpl.key(subject, headersOf("X", "v")) // it may be that it does not fit
		}
		if tmpl, err := parseTemplate(s, subjectFields); err == nil {
			if got, err := tmpl.subject(key, "t", 1, headersOf("X", "v")); err == nil && !validSubject(got) {
				t.Fatalf("%q makes %q of %q", s, got, key)
			}
		}
	})
}

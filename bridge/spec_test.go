package bridge

import (
	"errors"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestSpecsAreChecked(t *testing.T) {
	good := []string{
		`{"servers":["nats://h:4222"],"from_stream":"S","to_topic":"t"}`,
		`{"servers":["nats://h:4222","tls://i"],"from_stream":"S","to_topic":"t","filters":["a.*.>"],"key":"none","dead_letters":"d","skip":["*"],"creds_file":"x.creds"}`,
		`{"servers":["nats://h"],"from_subject":"a.>","to_topic":"t","queue":"q","user":"u","password_file":"p"}`,
		`{"servers":["nats://h"],"from_topic":"t","to_stream":"S","subject":"a.{key}","ca_file":"ca.pem","cert_file":"c","key_file":"k"}`,
	}
	for _, s := range good {
		if _, err := ParseSpec([]byte(s)); err != nil {
			t.Errorf("%s: %v", s, err)
		}
	}
	for _, s := range []string{
		``, `[]`, `{}`, `{"servers":["nats://h"]} x`,
		`{"servers":[],"from_stream":"S","to_topic":"t"}`,
		`{"servers":["h:4222"],"from_stream":"S","to_topic":"t"}`,
		`{"servers":["http://h"],"from_stream":"S","to_topic":"t"}`,
		`{"servers":["nats://u:secret@h"],"from_stream":"S","to_topic":"t"}`,
		`{"servers":["nats://u:se%zzcret@h"],"from_stream":"S","to_topic":"t"}`,
		`{"servers":["nats://h:4222,nats://u:secret@i:4222"],"from_stream":"S","to_topic":"t"}`,
		`{"servers":["nats://h:4222,i:4222"],"from_stream":"S","to_topic":"t"}`,
		`{"servers":["nats://h"],"from_stream":"S","to_topic":"__balsa_bridges"}`,
		`{"servers":["nats://h"],"from_stream":"S","to_topic":"t","dead_letters":"__balsa_bridges"}`,
		`{"servers":["nats://h"],"from_topic":"__balsa_bridges","to_stream":"S","subject":"a"}`,
		`{"servers":["nats://h"],"from_stream":"S","to_topic":"t","new":1}`,
		`{"servers":["nats://h"],"from_stream":"S","from_subject":"a","to_topic":"t"}`,
		`{"servers":["nats://h"],"from_stream":"S","to_stream":"S"}`,
		`{"servers":["nats://h"],"from_topic":"t","to_stream":"S"}`,
		`{"servers":["nats://h"],"from_topic":"t","to_stream":"S","subject":"a","key":"x"}`,
		`{"servers":["nats://h"],"from_stream":"S","to_topic":"t","subject":"a"}`,
		`{"servers":["nats://h"],"from_stream":"S.x","to_topic":"t"}`,
		`{"servers":["nats://h"],"from_stream":"S","to_topic":"t/u"}`,
		`{"servers":["nats://h"],"from_stream":"S","to_topic":"t","dead_letters":"t"}`,
		`{"servers":["nats://h"],"from_stream":"S","to_topic":"t","filters":["a..b"]}`,
		`{"servers":["nats://h"],"from_subject":"a.>.b","to_topic":"t"}`,
		`{"servers":["nats://h"],"from_subject":"a","to_topic":"t","filters":["b"]}`,
		`{"servers":["nats://h"],"from_stream":"S","to_topic":"t","queue":"q"}`,
		`{"servers":["nats://h"],"from_stream":"S","to_topic":"t","creds_file":"../x"}`,
		`{"servers":["nats://h"],"from_stream":"S","to_topic":"t","creds_file":"a/b"}`,
		`{"servers":["nats://h"],"from_stream":"S","to_topic":"t","creds_file":"x","token_file":"y"}`,
		`{"servers":["nats://h"],"from_stream":"S","to_topic":"t","user":"u"}`,
		`{"servers":["nats://h"],"from_stream":"S","to_topic":"t","cert_file":"u"}`,
	} {
		_, err := ParseSpec([]byte(s))
		if !errors.Is(err, ErrSpec) {
			t.Errorf("%s: %v", s, err)
		}
		if err != nil && (strings.Contains(err.Error(), "u:se") || strings.Contains(err.Error(), "cret@")) {
			t.Errorf("an error with a password in it: %v", err)
		}
	}
}

func TestPositions(t *testing.T) {
	stream, topic, core := &Spec{FromStream: "S"}, &Spec{FromTopic: "t"}, &Spec{FromSubject: "a"}
	at := "2026-11-27T08:00:00.5Z"
	for _, tc := range []struct {
		s    *Spec
		to   string
		good bool
	}{
		{stream, "", true}, {stream, "first", true}, {stream, "new", true}, {stream, at, true}, {stream, "17", true}, {stream, "0", false}, {stream, "-1", false}, {stream, "0:5", false}, {stream, "x", false},
		{topic, "", true}, {topic, "new", true}, {topic, at, true}, {topic, "0:5,3:7", true}, {topic, "17", false}, {topic, "0:-5", false}, {topic, "0:5,", false}, {topic, "a:5", false},
		{core, "", true}, {core, "new", true}, {core, "first", false}, {core, at, false},
	} {
		if err := CheckPosition(tc.s, tc.to); (err == nil) != tc.good || err != nil && !errors.Is(err, ErrSpec) {
			t.Errorf("%q of %s: %v", tc.to, tc.s.Direction(), err)
		}
	}
	p, err := parsePosition(topic, "0:5,3:7")
	if err != nil || !maps.Equal(p.offsets, map[int32]int64{0: 5, 3: 7}) || placeText(p.offsets) != "0:5,3:7" {
		t.Errorf("%+v, %v", p, err)
	}
	if p, err = parsePosition(stream, at); err != nil || !p.time.Equal(time.Date(2026, 11, 27, 8, 0, 0, 5e8, time.UTC)) {
		t.Errorf("%+v, %v", p, err)
	}
}

// Names of secrets do not lead out of their directory, not by a link either, and what is in them is not in errors.
func TestSecretsStayInTheirDirectory(t *testing.T) {
	dir, out := t.TempDir(), t.TempDir()
	for name, text := range map[string]string{"token": "hush\nmore", "empty": "", "seed": "hush", "creds": "hush"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(out, "shadow"), []byte("hush"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(out, "shadow"), filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	s := secrets(dir)
	if line, err := s.line("token"); err != nil || line != "hush" {
		t.Fatalf("%q, %v", line, err)
	}
	for _, name := range []string{"link", "../" + filepath.Base(out) + "/shadow", "none", "empty"} {
		if line, err := s.line(name); err == nil {
			t.Errorf("%s: %q", name, line)
		}
	}
	for _, a := range []Auth{{NKeyFile: "seed"}, {NKeyFile: "link"}, {CAFile: "creds"}, {CertFile: "creds", KeyFile: "seed"}, {TokenFile: "none"}} {
		if _, err := s.options(&a); err == nil || strings.Contains(err.Error(), "hush") {
			t.Errorf("%+v: %v", a, err)
		}
	}
	if _, err := secrets("").line("token"); err == nil {
		t.Error("without a directory")
	}
}

func FuzzSpec(f *testing.F) {
	f.Add([]byte(`{"servers":["nats://h:4222"],"from_stream":"S","to_topic":"t","filters":["a.*.>"],"key":"none"}`), "17")
	f.Add([]byte(`{"servers":["nats://h"],"from_topic":"t","to_stream":"S","subject":"a.{key}"}`), "0:5,1:6")
	f.Fuzz(func(t *testing.T, raw []byte, to string) {
		s, err := ParseSpec(raw)
		if err != nil {
			if !errors.Is(err, ErrSpec) {
				t.Fatalf("an error of another kind: %v", err)
			}
			return
		}
		_ = CheckPosition(s, to)
		if _, err := newConverter(s, "c/b"); err != nil {
			t.Fatalf("it was found good, and then: %v", err)
		}
	})
}

func FuzzPlace(f *testing.F) {
	f.Add("t/1/7 id b.1", "t", " id b.1")
	f.Fuzz(func(t *testing.T, id, topic, suffix string) {
		if p, o, ok := placeOf(id, topic, suffix); ok && (p < 0 || o < 0) {
			t.Fatalf("%q is %d/%d", id, p, o)
		}
	})
}

// Tests of profiles: what wins over what, and what is kept where.

package main

import (
	"encoding/json"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// connects says what a command would connect by: flags as they are once the settings are applied.
func (c *cli) connects(args ...string) (map[string]string, error) {
	c.t.Helper()
	a := &app{in: c.in, out: io.Discard, err: io.Discard, workDir: c.dir, lookupEnv: func(k string) (string, bool) { v, ok := c.env[k]; return v, ok }}
	cmd, rest, err := a.root().Find(append([]string{"topic", "list"}, args...))
	if err != nil {
		c.t.Fatal(err)
	}
	if err := cmd.ParseFlags(rest); err != nil {
		c.t.Fatal(err)
	}
	if err := a.applySettings(cmd); err != nil {
		return nil, err
	}
	out := make(map[string]string)
	for _, key := range connectionKeys {
		if f := cmd.Flags().Lookup(key); f != nil && f.Value.String() != f.DefValue {
			out[key] = strings.Trim(f.Value.String(), "[]")
		}
	}
	return out, nil
}

func TestProfilePrecedence(t *testing.T) {
	c := newCLI(t)
	c.must("profile", "add", "prod", "-b", "one:1,two:2", "--tls", "--user", "alice", "--password-file", c.file("secret", "s\n"), "--sasl", "SCRAM-SHA-256")
	c.must("profile", "add", "token", "-b", "token:1", "--token-file", c.file("jwt", "t\n"))
	c.must("profile", "add", "env", "-b", "env:1", "--user", "carol", "--password-env", "CAROL")
	secret := filepath.Join(c.dir, "secret")
	prod := map[string]string{"brokers": "one:1,two:2", "tls": "true", "user": "alice", "password-file": secret, "sasl": "SCRAM-SHA-256"}
	with := func(base map[string]string, changes ...string) map[string]string {
		out := make(map[string]string)
		for k, v := range base {
			out[k] = v
		}
		for i := 0; i < len(changes); i += 2 {
			if out[changes[i]] = changes[i+1]; changes[i+1] == "" {
				delete(out, changes[i])
			}
		}
		return out
	}
	for _, tc := range []struct {
		name, current, file string
		env                 map[string]string
		args                []string
		want                map[string]string
	}{
		{name: "none in use", want: map[string]string{}},
		{name: "in use", current: "prod", want: prod},
		{name: "named by the flag", current: "token", args: []string{"--profile", "prod"}, want: prod},
		{name: "named by the environment", current: "token", env: map[string]string{"BALSA_PROFILE": "prod"}, want: prod},
		{name: "the flag before the environment", env: map[string]string{"BALSA_PROFILE": "token"}, args: []string{"--profile", "prod"}, want: prod},
		{name: "none", current: "prod", args: []string{"--profile", "none"}, want: map[string]string{}},
		{name: "a flag wins", current: "prod", args: []string{"--tls-ca", "ca"}, want: with(prod, "tls-ca", "ca")},
		{name: "a flag wins over the environment, that over the profile", env: map[string]string{"BALSA_BROKERS": "b:1", "BALSA_SASL": "PLAIN"}, args: []string{"--profile", "prod", "-b", "a:1"},
			want: with(prod, "brokers", "a:1", "sasl", "PLAIN")},
		{name: "another cluster has nothing of the one in use", current: "prod", args: []string{"-b", "a:1"}, want: map[string]string{"brokers": "a:1"}},
		{name: "nor by the environment", current: "prod", env: map[string]string{"BALSA_BROKERS": "a:1"}, want: map[string]string{"brokers": "a:1"}},
		{name: "nor by the file", current: "prod", file: "tls-ca: ca\n", want: map[string]string{"tls-ca": "ca"}},
		{name: "a file about something else", current: "prod", file: "output: json\n", want: prod},
		{name: "the file has nothing to say about one that is named", file: "brokers: x:1\ntls-ca: ca\ntoken-file: f\n", args: []string{"--profile", "prod"}, want: prod},
		{name: "another user has another password", current: "prod", args: []string{"--user", "bob"}, want: with(prod, "user", "bob", "password-file", "")},
		{name: "another password", current: "prod", env: map[string]string{"BALSA_PASSWORD": "p"}, want: with(prod, "password", "p", "password-file", "")},
		{name: "a token instead", current: "prod", args: []string{"--token-file", "f"}, want: with(prod, "user", "", "password-file", "", "sasl", "", "token-file", "f")},
		{name: "a user instead of a token", current: "token", args: []string{"--user", "bob", "--password-file", "f"}, want: map[string]string{"brokers": "token:1", "user": "bob", "password-file": "f"}},
		{name: "a variable", env: map[string]string{"CAROL": "secret"}, args: []string{"--profile", "env"}, want: map[string]string{"brokers": "env:1", "user": "carol", "password": "secret"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			base := c.env
			defer func() { c.env = base; os.Remove(filepath.Join(c.dir, "balsa.yaml")) }()
			c.must("profile", "use", cmpOr(tc.current, "none"))
			c.env = with(base)
			for k, v := range tc.env {
				c.env[k] = v
			}
			if tc.file != "" {
				c.file("balsa.yaml", tc.file)
			}
			got, err := c.connects(tc.args...)
			if err != nil {
				t.Fatal(err)
			}
			text := func(m map[string]string) string { b, _ := json.Marshal(m); return string(b) }
			if text(got) != text(tc.want) {
				t.Errorf("got  %s\nwant %s", text(got), text(tc.want))
			}
		})
	}
}

// TestProfileLeftOut: what overrules the profile that is in use is said, -b without brokers goes nowhere, and a link to the file stays one.
func TestProfileLeftOut(t *testing.T) {
	c := newCLI(t)
	c.must("profile", "add", "dev", "-b", "dev:1", "--use")
	for _, args := range [][]string{{"topic", "delete", "x", "-b", ""}, {"profile", "add", "prod", "-b", ""}} {
		if code, _, errText := c.run(args...); code != exitUsage || !strings.Contains(errText, "-b names no broker") {
			t.Errorf("%v: exit code %d, %s", args, code, errText)
		}
	}
	c.file("balsa.yaml", "brokers: [other:1]\n")
	for _, args := range [][]string{{"profile", "list"}, {"profile", "show"}} {
		if _, _, errText := c.run(args...); !strings.Contains(errText, "says how to connect, so that profile dev is left out") {
			t.Errorf("%v: %q", args, errText)
		}
	}
	if err := os.Remove(filepath.Join(c.dir, "balsa.yaml")); err != nil {
		t.Fatal(err)
	}

	file, target := filepath.Join(c.dir, "config", "balsa", "profiles.yaml"), filepath.Join(t.TempDir(), "mine.yaml")
	if err := os.Rename(file, target); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(target, file); err != nil {
		t.Fatal(err)
	}
	c.must("profile", "add", "more", "-b", "more:1")
	if to, err := os.Readlink(file); err != nil || to != target {
		t.Errorf("the link goes to %q, %v", to, err)
	}
	if text, err := os.ReadFile(target); err != nil || !strings.Contains(string(text), "more:1") {
		t.Errorf("%s, %v", text, err)
	}
}

func TestProfileFile(t *testing.T) {
	c := newCLI(t)
	c.file("pw", "secret\n")
	c.file("ca.pem", "no certificate")
	var b strings.Builder
	try := func(wantCode int, args ...string) {
		t.Helper()
		code, out, errText := c.run(args...)
		if code != wantCode {
			t.Errorf("broker %s: exit code %d, want %d", strings.Join(args, " "), code, wantCode)
		}
		b.WriteString("$ broker " + strings.Join(args, " ") + "\n" + strings.ReplaceAll(out+errText, c.dir, "DIR") + "exit code " + string(rune('0'+code)) + "\n\n")
	}
	try(exitOK, "profile", "list")
	try(exitOK, "profile", "list", "-o", "json")
	try(exitNotFound, "profile", "show")
	try(exitUsage, "profile", "add", "Prod", "-b", "one:1")
	try(exitUsage, "profile", "add", "none", "-b", "one:1")
	try(exitUsage, "profile", "add", "prod")
	try(exitUsage, "profile", "add", "prod", "-b", "")
	try(exitUsage, "profile", "add", "prod", "-b", "one:99999")
	try(exitUsage, "profile", "add", "prod", "-b", "one:1", "--user", "alice", "--password", "secret")
	try(exitUsage, "profile", "add", "prod", "-b", "one:1", "--user", "alice")
	try(exitUsage, "profile", "add", "prod", "-b", "one:1", "--password-file", "pw")
	try(exitUsage, "profile", "add", "prod", "-b", "one:1", "--user", "alice", "--password-file", "missing")
	try(exitUsage, "profile", "add", "prod", "-b", "one:1", "--user", "alice", "--password-env", "A-B")
	try(exitUsage, "profile", "add", "prod", "-b", "one:1", "--user", "alice", "--password-file", "pw", "--password-env", "PW")
	try(exitUsage, "profile", "add", "prod", "-b", "one:1", "--tls-ca", "ca.pem")
	try(exitOK, "profile", "add", "prod", "-b", "one:1,two:2", "--user", "alice", "--password-file", "pw", "--tls", "--admin", "one:9292")
	try(exitExists, "profile", "add", "prod", "-b", "one:1")
	try(exitOK, "profile", "add", "prod", "-b", "one:1,two:2", "--user", "alice", "--password-file", "pw", "--tls", "--replace")
	try(exitOK, "profile", "add", "dev", "-b", "localhost", "--use")
	try(exitOK, "profile", "add", "env", "-b", "three:3", "--user", "bob", "--password-env", "BOB_PASSWORD")
	try(exitOK, "profile", "list")
	try(exitOK, "profile", "list", "--profile", "prod")
	try(exitOK, "profile", "show")
	try(exitOK, "profile", "show", "prod")
	try(exitOK, "profile", "show", "prod", "-o", "json")
	try(exitNotFound, "profile", "show", "nowhere")
	try(exitNotFound, "profile", "show", "Prod")
	try(exitUsage, "profile", "show", "")
	try(exitUsage, "profile", "use", "")
	try(exitUsage, "profile", "remove", "")
	try(exitNotFound, "profile", "use", "nowhere")
	try(exitOK, "profile", "use", "prod")
	try(exitOK, "profile", "remove", "prod")
	try(exitNotFound, "profile", "remove", "prod")
	try(exitNotFound, "topic", "list", "--profile", "prod")
	try(exitUsage, "topic", "list", "--profile", "env")
	c.env["BALSA_PROFILE"] = "prod"
	try(exitNotFound, "topic", "list")
	try(exitOK, "profile", "list")
	try(exitNotFound, "profile", "show")
	try(exitOK, "profile", "use", "dev")
	c.must("version") // needs none
	delete(c.env, "BALSA_PROFILE")

	file := filepath.Join(c.dir, "config", "balsa", "profiles.yaml")
	info, err := os.Stat(file)
	if err != nil || info.Mode() != 0o600 {
		t.Fatalf("%v, %v", info, err)
	}
	if dir, err := os.Stat(filepath.Dir(file)); err != nil || dir.Mode() != fs.ModeDir|0o700 {
		t.Errorf("%v, %v", dir, err)
	}
	text, err := os.ReadFile(file)
	if err != nil || strings.Contains(string(text), "secret") {
		t.Errorf("%s, %v", text, err)
	}
	b.WriteString("the file:\n" + string(text) + "\n")
	left, err := os.ReadDir(filepath.Dir(file))
	if err != nil || !slices.EqualFunc(left, []string{"profiles.yaml"}, func(e os.DirEntry, name string) bool { return e.Name() == name }) {
		t.Errorf("the directory has %v, %v", left, err)
	}
	for _, broken := range []string{"profiles: [", "profiles:\n  dev:\n    brokrs: [a]\n", "current: [a]\n",
		"profiles:\n  Prod:\n    brokers: [a:1]\n", "profiles:\n  prod:\n    brokers: [a:1]\n  PROD:\n    brokers: [b:1]\n"} {
		if err := os.WriteFile(file, []byte(broken), 0o600); err != nil {
			t.Fatal(err)
		}
		try(exitUsage, "topic", "list")
		c.must("version")
	}
	// A profile without brokers is no way to those that are the default.
	if err := os.WriteFile(file, []byte("current: dev\nprofiles:\n  dev:\n    tls: true\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	try(exitUsage, "topic", "list")
	try(exitUsage, "topic", "list", "--profile", "dev")
	golden(t, "profiles.txt", b.String())
}

// Users and ACLs by the command line, against a broker that asks who one is; and what `broker dev --secure` makes.

package main

import (
	"context"
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/balsamq/balsa/broker"
	"github.com/balsamq/balsa/client"
)

func TestUsersAndACLs(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	b, err := broker.Start(ctx, broker.Config{DataDir: t.TempDir(), ListenRPC: "127.0.0.1:0", CloseTimeout: -1, Logger: slog.New(slog.DiscardHandler),
		Listeners: []broker.Listener{{Name: broker.ProtocolSASLPlaintext, Listen: "127.0.0.1:0"}},
		ACLs:      true, SuperUsers: []string{"User:admin"}, BootstrapUser: "admin", BootstrapPassword: "root-pw"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	admin, alice := newCLI(t), newCLI(t)
	admin.env = map[string]string{"BALSA_BROKERS": b.KafkaAddr(), "BALSA_USER": "admin", "BALSA_PASSWORD": "root-pw"}
	alice.env = map[string]string{"BALSA_BROKERS": b.KafkaAddr(), "BALSA_USER": "alice", "BALSA_PASSWORD_FILE": alice.file("pw", "wonder\n")}
	denied := func(c *cli, args ...string) {
		t.Helper()
		if code, out, errText := c.run(args...); code != exitDenied {
			t.Errorf("broker %s: exit code %d\n%s%s", strings.Join(args, " "), code, out, errText)
		}
	}
	fails := func(want int, args ...string) {
		t.Helper()
		if code, out, errText := admin.run(args...); code != want {
			t.Errorf("broker %s: exit code %d, want %d\n%s%s", strings.Join(args, " "), code, want, out, errText)
		}
	}
	denied(alice, "topic", "list")
	admin.in = strings.NewReader("wonder\n")
	admin.must("user", "create", "alice")
	fails(exitUsage, "user", "create", "bob")
	admin.in = strings.NewReader("other\n")
	fails(exitExists, "user", "create", "alice")
	fails(exitNotFound, "user", "delete", "bob")
	fails(exitUsage, "acl", "create", "--allow", "alice", "--operation", "read")
	fails(exitUsage, "acl", "create", "--allow", "alice", "--topic", "t")
	fails(exitUsage, "acl", "create", "--allow", "alice", "--topic", "t", "--operation", "fly")
	for _, args := range [][]string{
		{"--topic", "*", "--prefixed"}, {"--group", "*", "--prefixed"}, {"--topic", "ord*"}, {"--topic", "ord*", "--prefixed"}, {"--group", "g*", "--prefixed"},
		{"--topic", "a b"}, {"--topic", ".."}, {"--topic", strings.Repeat("x", 250)}, {"--topic", "ä", "--prefixed"}, {"--cluster", "--prefixed"}, {"--topic", "ok,a/b"},
	} {
		fails(exitUsage, append([]string{"acl", "create", "--allow", "alice", "--operation", "all"}, args...)...)
	}
	fails(exitUsage, "acl", "delete")
	fails(exitNotFound, "acl", "delete", "--principal", "bob")
	users := func() []client.User {
		var out []client.User
		if err := json.Unmarshal([]byte(admin.must("user", "list", "-o", "json")), &out); err != nil {
			t.Fatal(err)
		}
		return out
	}
	if got := users(); len(got) != 2 || got[1].Name != "alice" || len(got[1].Mechanisms) != 2 {
		t.Errorf("%+v", got)
	}

	admin.must("topic", "create", "orders")
	admin.must("topic", "create", "other")
	if out := alice.must("topic", "list", "-o", "json"); strings.Contains(out, "orders") {
		t.Errorf("she sees %s", out)
	}
	denied(alice, "topic", "create", "mine")
	denied(alice, "user", "list")
	denied(alice, "acl", "list")
	admin.must("acl", "create", "--allow", "alice", "--operation", "read,write", "--topic", "ord", "--prefixed", "--host", "127.0.0.0/8")
	admin.must("acl", "create", "--allow", "alice", "--operation", "read", "--group", "g")
	alice.in = strings.NewReader("one\n")
	alice.must("produce", "orders")
	if got := alice.must("consume", "orders", "-n", "1", "--group", "g"); got != "one\n" {
		t.Errorf("she reads %q", got)
	}
	denied(alice, "consume", "other", "-n", "1")
	admin.must("acl", "create", "--deny", "*", "--operation", "write", "--topic", "*")
	alice.in = strings.NewReader("two\n")
	denied(alice, "produce", "orders")
	acls := func(args ...string) []client.ACL {
		t.Helper()
		var out []client.ACL
		if err := json.Unmarshal([]byte(admin.must(append(args, "-o", "json")...)), &out); err != nil {
			t.Fatal(err)
		}
		return out
	}
	if got := acls("acl", "list", "--topic", "orders"); len(got) != 3 {
		t.Errorf("on orders bear %v", got)
	}
	if got := acls("acl", "list"); len(got) != 4 {
		t.Errorf("%v", got)
	}
	if got := acls("acl", "delete", "--topic", "*"); len(got) != 1 || got[0].Permission != "deny" || got[0].Principal != "User:*" {
		t.Errorf("deleted %v", got)
	}
	if got := acls("acl", "delete", "--principal", "alice", "--operation", "write"); len(got) != 1 || got[0].Pattern != "prefixed" {
		t.Errorf("deleted %v", got)
	}

	admin.in = strings.NewReader("changed\n")
	admin.must("user", "passwd", "alice")
	denied(alice, "topic", "list")
	alice.file("pw", "changed\n")
	alice.must("topic", "list")
	alice.env["BALSA_SASL"] = "PLAIN" // not offered
	denied(alice, "topic", "list")
	admin.must("user", "delete", "alice")
	if got := users(); len(got) != 1 {
		t.Errorf("%+v", got)
	}
}

// What --secure makes is made once, and readable by its owner only.
func TestDevSecureFiles(t *testing.T) {
	dir := t.TempDir()
	s, err := openDevSecure(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.writeConfigs([]string{"127.0.0.1:1"}); err != nil {
		t.Fatal(err)
	}
	read := func() map[string]string {
		t.Helper()
		out := make(map[string]string)
		entries, err := os.ReadDir(s.dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			raw, err := os.ReadFile(filepath.Join(s.dir, e.Name()))
			if err != nil {
				t.Fatal(err)
			}
			if info, err := e.Info(); err != nil || info.Mode().Perm()&0o077 != 0 {
				t.Errorf("%s has mode %v (%v)", e.Name(), info.Mode(), err)
			}
			out[e.Name()] = string(raw)
		}
		return out
	}
	first := read()
	for _, name := range []string{"ca.pem", "broker.pem", "broker.key", "admin.pem", "admin.key", "admin.password", "client.yaml", "client.properties"} {
		if first[name] == "" {
			t.Errorf("%s is missing", name)
		}
	}
	if _, err := openDevSecure(dir); err != nil {
		t.Fatal(err)
	}
	for name, text := range read() {
		if first[name] != text {
			t.Errorf("%s was made anew", name)
		}
	}
	// The client's configuration is one that this program reads, and the brokers' flags are such as it has.
	c := newCLI(t)
	var settings map[string]any
	if err := yaml.Unmarshal([]byte(first["client.yaml"]), &settings); err != nil || settings["user"] != devAdmin {
		t.Errorf("%v, %v", settings, err)
	}
	if code, _, errText := c.run("topic", "list", "--config", s.file("client.yaml"), "--timeout", "2s"); code != exitUnreachable {
		t.Errorf("exit code %d: %s", code, errText)
	}
	a := &app{}
	start, _, err := a.root().Find([]string{"start"})
	if err != nil {
		t.Fatal(err)
	}
	if err := start.ParseFlags(s.flags("127.0.0.1:1")); err != nil {
		t.Error(err)
	}
	if !slices.Contains(s.flags("127.0.0.1:1"), "SASL_SSL://127.0.0.1:1") {
		t.Error("no listener")
	}
}

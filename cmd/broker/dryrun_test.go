// Tests of --dry-run: it says what would be done, does nothing, and fails where the command would.

package main

import (
	"context"
	"encoding/json"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"github.com/balsamq/balsa/broker"
	"github.com/balsamq/balsa/client"
)

// readOnly are the commands that change nothing in a cluster.
var readOnly = []string{"dev", "start", "consume", "version", "settings", "topic-configs", "exit-codes", "log dump", "raft describe", "cluster status", "cluster features", "partition status",
	"bench run", "bench suite", "bench report", "bench check", "bench limits", "bridge nats status", "txn describe", "topic describe", "group describe", "config get",
	"profile add", "profile use", "profile remove", "profile show"}

// Whatever changes something can be tried: a new command is either on the list above, or has the flag.
func TestEveryChangeHasADryRun(t *testing.T) {
	var visit func(cmd *cobra.Command, path string)
	visit = func(cmd *cobra.Command, path string) {
		for _, child := range cmd.Commands() {
			visit(child, strings.TrimSpace(path+" "+child.Name()))
		}
		has := cmd.Flags().Lookup("dry-run") != nil
		if harmless := slices.Contains(readOnly, path) || cmd.Name() == "list"; !cmd.HasSubCommands() && has == harmless {
			t.Errorf("broker %s: it changes nothing is %v, and it has --dry-run is %v", path, harmless, has)
		}
	}
	a := &app{in: strings.NewReader(""), lookupEnv: func(string) (string, bool) { return "", false }}
	visit(a.root(), "")
}

// What was tried is there as before, and a dry run fails with the code that the command fails with.
func TestDryRun(t *testing.T) {
	starting, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	b, err := broker.Start(starting, broker.Config{DataDir: t.TempDir(), ListenRPC: "127.0.0.1:0", CloseTimeout: -1, Logger: slog.New(slog.DiscardHandler),
		Listeners: []broker.Listener{{Name: broker.ProtocolSASLPlaintext, Listen: "127.0.0.1:0"}},
		ACLs:      true, SuperUsers: []string{"User:admin"}, BootstrapUser: "admin", BootstrapPassword: "root-pw"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	c := newCLI(t)
	c.env["BALSA_BROKERS"], c.env["BALSA_USER"], c.env["BALSA_PASSWORD"] = b.KafkaAddr(), "admin", "root-pw"
	if got, _ := c.offered("user", "delete", ""); !slices.Equal(got, []string{"admin"}) { // completion is somebody, too
		t.Errorf("offered: %q", got)
	}
	c.must("topic", "create", "orders", "-p", "3")
	c.in = strings.NewReader("a\nb\nc\n")
	c.must("produce", "orders", "-p", "0")
	c.must("user", "create", "alice", "--new-password-file", c.file("pw", "secret\n"))
	c.must("acl", "create", "--allow", "alice", "--operation", "read", "--topic", "orders")
	c.must("quota", "set", "--for-user", "alice", "producer_byte_rate=1000")
	c.must("config", "set", "topic/orders", "retention.ms=5000")
	c.must("topic", "create", "latest", "--set", "cleanup.policy=compact")

	join, leave := context.WithCancel(t.Context())
	defer leave()
	busy, err := client.NewConsumer(join, client.ConsumerConfig{Config: client.Config{Brokers: []string{b.KafkaAddr()}, Security: client.Security{User: "admin", Password: "root-pw"}}, Group: "busy", Topics: []string{"orders"}})
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close(t.Context())
	if _, err := busy.Poll(join, 1); err != nil {
		t.Fatal(err)
	}

	c.must("group", "reset-offsets", "billing", "--topic", "orders/0", "--to-offset", "2", "--execute")

	state := func() string {
		var b strings.Builder
		for _, args := range [][]string{{"topic", "list"}, {"topic", "describe", "orders"}, {"group", "list"}, {"group", "describe", "billing"}, {"user", "list"}, {"acl", "list"}, {"quota", "list"}, {"config", "get", "topic/orders"}} {
			b.WriteString(c.must(append(args, "-o", "json")...))
		}
		return b.String()
	}
	before := state()
	var shown strings.Builder
	for _, line := range []string{
		"topic create new -p 3 -r 1 --set retention.ms=1000",
		"topic delete orders",
		"topic alter orders --set retention.ms=6000 --unset segment.bytes",
		"topic add-partitions orders --total 5",
		"topic trim orders -p 0 --before 2",
		"topic trim orders -p 0 --before end",
		"group delete billing",
		"group delete-offsets billing --topic orders/0",
		"config set topic/orders cleanup.policy=compact",
		"config delete topic/orders retention.ms",
		"quota set --for-user alice producer_byte_rate=2000 consumer_byte_rate=10",
		"quota delete --for-user alice producer_byte_rate",
		"user create bob --new-password-file " + c.dir + "/pw",
		"user passwd alice",
		"user delete alice",
		"acl create --allow alice --operation read,write --topic orders",
		"acl delete --principal alice",
	} {
		code, out, errText := c.run(append(strings.Fields(line), "--dry-run")...)
		if code != exitOK {
			t.Errorf("broker %s --dry-run: exit code %d\n%s%s", line, code, out, errText)
		}
		shown.WriteString("$ broker " + line + " --dry-run\n" + errText + out + "\n")
		if code, out, errText := c.run(append(strings.Fields(line), "--dry-run", "-o", "json")...); code != exitOK || !json.Valid([]byte(out)) {
			t.Errorf("broker %s --dry-run -o json: exit code %d\n%s%s", line, code, out, errText)
		}
	}
	golden(t, "dry-runs.txt", strings.ReplaceAll(shown.String(), c.dir, "DIR"))
	if after := state(); after != before {
		t.Errorf("something changed\nbefore:\n%s\nafter:\n%s", before, after)
	}

	for _, line := range []string{
		"topic create orders", "topic create bad/name", "topic delete nowhere", "topic trim orders -p 7 --before 0", "topic trim nowhere -p 0 --before 0", "topic trim orders -p 0 --before 1000",
		"topic trim latest -p 0 --before 0", "topic trim __consumer_offsets -p 0 --before 0", "topic delete __consumer_offsets",
		"group delete nobody", "group delete busy", "group reset-offsets busy --to-earliest --execute", "group delete-offsets billing --topic nowhere", "group delete-offsets billing --topic orders/9",
		"config set topic/nowhere retention.ms=1", "quota set --for-user alice nonsense=1", "user delete bob", "user create alice --new-password-file " + c.dir + "/pw",
		"user passwd bob --new-password-file " + c.dir + "/pw", "acl delete --principal bob", "acl create --allow alice --operation fly --topic orders", "partition move orders --to 9", "partition move nowhere --to 1",
		"partition move orders/8 --to 1", "cluster remove 9", "topic add-partitions orders --total 2",
	} {
		args := strings.Fields(line)
		dry := append(slices.DeleteFunc(slices.Clone(args), func(s string) bool { return s == "--execute" }), "--dry-run")
		dryCode, _, dryErr := c.run(dry...)
		code, _, errText := c.run(args...)
		if code == exitOK || dryCode != code {
			t.Errorf("broker %s: exit code %d, with --dry-run %d\n%s%s", line, code, dryCode, errText, dryErr)
		}
	}
}

// A dry run of produce knows how large a record may be; and batches are as large as the topic allows, neither larger nor smaller.
func TestDryRunOfLargeRecords(t *testing.T) {
	starting, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	b, err := broker.Start(starting, broker.Config{DataDir: t.TempDir(), Listeners: []broker.Listener{{Name: broker.ProtocolPlaintext, Listen: "127.0.0.1:0"}}, ListenRPC: "127.0.0.1:0", CloseTimeout: -1, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	c := newCLI(t)
	c.env["BALSA_BROKERS"] = b.KafkaAddr()
	c.must("topic", "create", "tiny", "-p", "1", "--set", "max.message.bytes=600")
	c.must("topic", "create", "small", "-p", "1", "--set", "max.message.bytes=2000")
	c.must("topic", "create", "large", "-p", "1", "--set", "max.message.bytes=3000000")
	const overhead = 65 + 10 // of a batch, and of a record of about this size
	for _, tc := range []struct {
		topic, in string
		want      int
	}{
		{"tiny", strings.Repeat(strings.Repeat("x", 300)+"\n", 20), exitOK},
		{"small", strings.Repeat(strings.Repeat("x", 500)+"\n", 20), exitOK},
		{"small", strings.Repeat("x", 2000-overhead) + "\n", exitOK},
		{"small", "one\n" + strings.Repeat("x", 2000) + "\n", exitFailure},
		{"large", strings.Repeat("x", 2<<20) + "\n", exitOK},
		{"large", strings.Repeat("x", 3_000_000) + "\n", exitFailure},
	} {
		for _, args := range [][]string{{"produce", tc.topic, "--dry-run"}, {"produce", tc.topic}} {
			c.in = strings.NewReader(tc.in)
			if code, out, errText := c.run(args...); code != tc.want || code != exitOK && !strings.Contains(errText, "line") {
				t.Errorf("broker %s of %d bytes: exit code %d, want %d\n%s%s", strings.Join(args, " "), len(tc.in), code, tc.want, out, errText)
			}
		}
	}
	c.in = strings.NewReader("one\n" + strings.Repeat("x", 2000) + "\n")
	if _, _, errText := c.run("produce", "small", "--dry-run"); !strings.Contains(errText, "line 2") || !strings.Contains(errText, "max.message.bytes=20") {
		t.Errorf("which line, and what to do: %s", errText)
	}
}

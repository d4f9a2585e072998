// Tests of the command line in-process, against franz-go's fake cluster: settings, mistakes, exit codes, formats.

package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.yaml.in/yaml/v3"

	"github.com/balsamq/balsa/client"
	"github.com/balsamq/balsa/internal/testport"
)

var update = flag.Bool("update", false, "write the golden files anew")

// cli runs command lines.
type cli struct {
	t   *testing.T
	env map[string]string
	dir string
	in  io.Reader
}

func newCLI(t *testing.T) *cli {
	t.Helper()
	dir := t.TempDir()
	return &cli{t: t, env: map[string]string{"XDG_CONFIG_HOME": filepath.Join(dir, "config")}, dir: dir, in: strings.NewReader("")} // the user's own profiles are no part of it
}

// run returns exit code, standard output and standard error.
func (c *cli) run(args ...string) (int, string, string) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), time.Minute)
	defer cancel()
	var out, err bytes.Buffer
	a := &app{in: c.in, out: &out, err: &err, workDir: c.dir, environ: func() []string { return nil },
		lookupEnv: func(k string) (string, bool) { v, ok := c.env[k]; return v, ok }}
	code := a.run(ctx, args)
	return code, out.String(), err.String()
}

// must runs a command line that has to work.
func (c *cli) must(args ...string) string {
	c.t.Helper()
	code, out, err := c.run(args...)
	if code != exitOK {
		c.t.Fatalf("broker %s: exit code %d\n%s%s", strings.Join(args, " "), code, out, err)
	}
	return out
}

func (c *cli) file(name, text string) string {
	c.t.Helper()
	p := filepath.Join(c.dir, name)
	if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
		c.t.Fatal(err)
	}
	return p
}

// fakeCluster is a fake cluster, and a CLI whose environment points to it.
func fakeCluster(t *testing.T, opts ...kfake.Opt) (*cli, []string) {
	t.Helper()
	k, err := kfake.NewCluster(append([]kfake.Opt{kfake.NumBrokers(3), kfake.ClusterID("fake")}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.Close)
	c := newCLI(t)
	c.env["BALSA_BROKERS"] = strings.Join(k.ListenAddrs(), ",")
	return c, k.ListenAddrs()
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s (go test ./cmd/broker -update writes it anew)\ngot:\n%s\nwant:\n%s", file, got, want)
	}
}

// A flag wins over the environment, the environment over the file, the file over the default: for each type of setting.
func TestSettingsPrecedence(t *testing.T) {
	for _, tc := range []struct {
		key, command, flag                  string
		def, file, fileWant, env, arg, want string
	}{
		{key: "output", command: "version", flag: "output", def: "table", file: "yaml", fileWant: "yaml", env: "json", arg: "table", want: "table"},
		{key: "timeout", command: "version", flag: "timeout", def: "30s", file: "1m", fileWant: "1m0s", env: "2m", arg: "3m", want: "3m0s"},
		{key: "brokers", command: "version", flag: "brokers", def: "[localhost:9092]", file: "[a:1, b:2]", fileWant: "[a:1,b:2]", env: "c:3,d:4", arg: "e:5", want: "[e:5]"},
		{key: "dev.nodes", command: "dev", flag: "nodes", def: "3", file: "5", fileWant: "5", env: "7", arg: "9", want: "9"},
		{key: "cache-bytes", command: "start", flag: "cache-bytes", def: "64MiB", file: "1000000", fileWant: "1000000", env: "1536MiB", arg: "2KB", want: "2000"},
		{key: "move-rate", command: "start", flag: "move-rate", def: "64MiB", file: "1MiB/s", fileWant: "1MiB", env: "2GiB", arg: "-1", want: "-1"},
		{key: "produce.acks", command: "produce", flag: "acks", def: "all", file: "1", fileWant: "1", env: "0", arg: "all", want: "all"},
	} {
		t.Run(tc.key, func(t *testing.T) {
			c := newCLI(t)
			value := func(args ...string) string {
				t.Helper()
				a := &app{in: c.in, out: io.Discard, err: io.Discard, workDir: c.dir, lookupEnv: func(k string) (string, bool) { v, ok := c.env[k]; return v, ok }}
				root := a.root()
				cmd, _, err := root.Find([]string{tc.command})
				if err != nil {
					t.Fatal(err)
				}
				if err := cmd.ParseFlags(args); err != nil {
					t.Fatal(err)
				}
				if err := a.applySettings(cmd); err != nil {
					t.Fatal(err)
				}
				return flagString(cmd, tc.flag)
			}
			if got := value(); got != tc.def {
				t.Errorf("default: %s, want %s", got, tc.def)
			}
			text := tc.key + ": " + tc.file + "\n"
			if section, key, ok := strings.Cut(tc.key, "."); ok {
				text = section + ":\n  " + key + ": " + tc.file + "\n"
			}
			c.file("balsa.yaml", text)
			if got := value(); got != tc.fileWant {
				t.Errorf("file: %s, want %s", got, tc.fileWant)
			}
			c.env[envName(tc.key)] = tc.env
			if got := value(); got == tc.fileWant || got == tc.def || !strings.Contains(got, strings.TrimSuffix(tc.env, "m")) {
				t.Errorf("environment: %s, want %s", got, tc.env)
			}
			if got := value("--"+tc.flag, tc.arg); got != tc.want {
				t.Errorf("flag: %s, want %s", got, tc.want)
			}
		})
	}
}

func TestConfigFileChoice(t *testing.T) {
	c := newCLI(t)
	c.file("balsa.yaml", "output: yaml\n")
	other := c.file("other.yaml", "output: json\n")
	isYAML := func(out string) bool { return strings.HasPrefix(out, "version: ") }
	if out := c.must("version"); !isYAML(out) {
		t.Errorf("balsa.yaml in the directory is not read: %s", out)
	}
	if out := c.must("version", "--config", other); !json.Valid([]byte(out)) {
		t.Errorf("--config is not read: %s", out)
	}
	c.env["BALSA_CONFIG"] = other
	if out := c.must("version"); !json.Valid([]byte(out)) {
		t.Errorf("BALSA_CONFIG is not read: %s", out)
	}
	if out := c.must("version", "--config", "none"); isYAML(out) || json.Valid([]byte(out)) {
		t.Errorf("none is not none: %s", out)
	}
}

// The brokers say which config they do not know; which one may have been meant is found here. A way to say who one is gives way to one that is nearer.
func TestNearest(t *testing.T) {
	refused := &client.Error{Op: "change the configs of", Subject: "topic/orders", Kind: client.ErrInvalid, Err: kerr.InvalidConfig}
	a := &app{ran: true}
	for name, want := range map[string]string{
		"retention.mss":   "did you mean retention.ms? 'broker help topic-configs' lists what a topic can be given",
		"no.such.setting": "'broker help topic-configs' lists what a topic can be given",
		"retention.ms":    "'broker help topic-configs' lists what a topic can be given", // it is the value that was refused
	} {
		err := configMistake(refused, client.TopicConfigs, map[string]string{name: "1"})
		e, ok := err.(*cliError)
		if !ok {
			e = a.explain(err, "broker topic alter")
		}
		if e.mend != want || e.code != exitUsage {
			t.Errorf("%s: %q, exit code %d", name, e.mend, e.code)
		}
	}
	value := &client.Error{Op: "change the configs of", Subject: "topic/orders", Kind: client.ErrInvalid, Err: fmt.Errorf("retention.bytes, retention.ms: no number (%w)", kerr.InvalidConfig)}
	for given, want := range map[[2]string]string{{"retention.bytes", "1GiB"}: "retention.bytes=1073741824", {"retention.ms", "2h"}: "retention.ms=7200000"} {
		if e, ok := configMistake(value, client.TopicConfigs, map[string]string{given[0]: given[1]}).(*cliError); !ok || !strings.Contains(e.mend, want) {
			t.Errorf("%v: %+v", given, e)
		}
	}
	still := &client.Error{Op: "change the configs of", Subject: "brokers", Kind: client.ErrInvalid, Err: kerr.InvalidConfig}
	if err := configMistake(still, client.BrokerConfigs, map[string]string{"group.min.session.timeout.ms": "1"}); err != error(still) {
		t.Errorf("another config is meant than one that there is, though it cannot be set while a broker runs: %v", err)
	}
	for _, tc := range []struct {
		key  string
		rank map[string]int
		want bool
	}{
		{"password-file", map[string]int{"password-file": 1, "password": 4}, true},
		{"password-file", map[string]int{"password-file": 4, "password": 4}, false},
		{"password", map[string]int{"password-file": 3, "password": 1}, true},
		{"user", map[string]int{"user": 1, "token-file": 3}, true},
		{"user", map[string]int{"user": 4, "token-file": 3}, false},
		{"token-file", map[string]int{"password-file": 4, "token-file": 3}, true},
		{"tls-ca", map[string]int{"tls-ca": 1, "password": 4}, false},
	} {
		if got := overruled(tc.key, func(key string) int { return tc.rank[key] }); got != tc.want {
			t.Errorf("%s with %v: %v", tc.key, tc.rank, got)
		}
	}
}

// What can be done about TLS that fails is said by the kind of failure.
func TestTLSMends(t *testing.T) {
	for want, err := range map[string]error{
		"--tls-ca":             x509.UnknownAuthorityError{},
		"--tls-server-name":    x509.HostnameError{Certificate: &x509.Certificate{}, Host: "a"},
		"that is valid":        x509.CertificateInvalidError{Cert: &x509.Certificate{}, Reason: x509.Expired},
		"no TLS":               tls.RecordHeaderError{Msg: "x"},
		"--tls-client-cert":    tls.AlertError(42),
		"broker start":         io.ErrUnexpectedEOF,
		"takes addresses for ": io.EOF,
	} {
		e := (&app{ran: true}).explain(&client.Error{Op: "connect", Subject: "a:1", Kind: client.ErrUnreachable, Err: fmt.Errorf("dial: %w", err)}, "broker topic list")
		if !strings.Contains(e.mend, want) || e.code != exitUnreachable {
			t.Errorf("%v: %q, exit code %d", err, e.mend, e.code)
		}
	}
}

// A password on the command line wins over the file with one that balsa.yaml names.
func TestPasswordOverFile(t *testing.T) {
	c := newCLI(t)
	c.file("balsa.yaml", "user: alice\npassword-file: "+c.file("pw", "wrong\n")+"\nbrokers: "+testport.Addr(t)+"\n")
	if code, _, err := c.run("topic", "list", "--password", "right", "--timeout", "5s"); code != exitUnreachable {
		t.Errorf("exit code %d: %s", code, err)
	}
	c.env["BALSA_PASSWORD"] = "right"
	if code, _, err := c.run("topic", "list", "--timeout", "5s"); code != exitUnreachable {
		t.Errorf("from the environment: exit code %d: %s", code, err)
	}
}

// Each mistake gives its exit code and an error that says what, where and how to mend: the golden file is the interface.
func TestMistakes(t *testing.T) {
	c, _ := fakeCluster(t, kfake.SeedTopics(2, "orders"))
	closed := testport.Addr(t)
	var b strings.Builder
	try := func(wantCode int, args ...string) {
		t.Helper()
		code, out, errText := c.run(args...)
		if code != wantCode {
			t.Errorf("broker %s: exit code %d, want %d\n%s%s", strings.Join(args, " "), code, wantCode, out, errText)
		}
		if out != "" {
			t.Errorf("broker %s printed a result: %s", strings.Join(args, " "), out)
		}
		text := "$ broker " + strings.Join(args, " ") + "\n" + errText + "exit code " + string(rune('0'+code)) + "\n\n"
		text = strings.NewReplacer(c.dir, "DIR", closed, "HOST:PORT").Replace(text)
		b.WriteString(text)
	}
	try(exitUsage, "frobnicate")
	try(exitUsage, "topics")
	try(exitUsage, "topic")
	try(exitUsage, "topic", "crate")
	try(exitUsage, "topic", "create")
	try(exitUsage, "topic", "create", "a", "b")
	try(exitUsage, "topic", "create", "a", "--partition", "3")
	try(exitUsage, "topic", "create", "a", "--replication-factor", "3")
	try(exitUsage, "topic", "create", "a", "--replicas", "99999999999")
	try(exitUsage, "topic", "list", "--bootstrap-server", "a:9092")
	try(exitUsage, "help", "topik")
	try(exitUsage, "help", "topic", "crate")
	try(exitUsage, "completion", "tcsh")
	try(exitUsage, "completion")
	try(exitUsage, "--version")
	try(exitUsage, "foo")
	try(exitUsage, "topic", "create", "a", "--partitions", "many")
	try(exitUsage, "topic", "create", "a", "--set", "retention.ms")
	try(exitUsage, "topic", "list", "-o", "xml")
	try(exitUsage, "topic", "list", "--timeout", "5")
	try(exitUsage, "topic", "list", "-b", "localhost:99999")
	try(exitUsage, "topic", "list", "-b", "::1:9092")
	try(exitUsage, "topic", "list", "--user", "alice")
	try(exitUnreachable, "topic", "list", "-b", closed, "--timeout", "5s")
	try(exitNotFound, "topic", "describe", "nowhere")
	try(exitNotFound, "topic", "delete", "nowhere")
	try(exitExists, "topic", "create", "orders")
	try(exitNotFound, "produce", "nowhere")
	try(exitNotFound, "produce", "orders", "--partition", "2")
	try(exitNotFound, "produce", "orders", "--file", "/no/such/file")
	try(exitUsage, "produce", "orders", "--acks", "2")
	try(exitUsage, "produce", "orders", "-H", "novalue")
	try(exitNotFound, "consume", "nowhere")
	try(exitNotFound, "consume", "orders", "--partition", "7")
	try(exitUsage, "consume", "orders", "--from", "yesterday")
	try(exitUsage, "consume", "orders", "--from", "@yesterday")
	try(exitUsage, "consume", "orders", "--format", "%z")
	try(exitUsage, "consume", "orders", "--format", `\xg0`)
	try(exitUsage, "consume", "orders", "--format", "%s", "-o", "json")
	try(exitUsage, "consume", "orders", "--partition", "x")
	try(exitUsage, "consume", "orders", "--partition", "-1")
	try(exitUsage, "consume", "orders", "--group", "g", "--partition", "0")
	try(exitUsage, "config", "get", "broker/x")
	try(exitNotFound, "config", "get", "broker/9")
	try(exitNotFound, "config", "set", "logger/9", "root=DEBUG")
	try(exitNotFound, "config", "get", "topic/nowhere")
	try(exitNotFound, "config", "get", "topic/orders", "nonsense")
	try(exitUsage, "config", "set", "topic/orders", "")
	try(exitUsage, "group", "list", "--state", "Busy")
	try(exitUsage, "group", "describe", "")
	try(exitNotFound, "group", "delete-offsets", "g", "--topic", "orders/7")
	try(exitUsage, "txn", "list", "--older-than", "-5s")
	try(exitUsage, "dev", "--nodes", "10")
	try(exitUsage, "dev", "extra")
	try(exitUsage, "start", "--segment-bytes", "5")
	try(exitUsage, "start", "--segment-bytes", "1K")
	try(exitUsage, "start", "--kafka-listen", "0.0.0.0:9092")
	try(exitUsage, "start", "--clock-drift", "3s")
	try(exitUsage, "start", "--group-min-session-timeout", "1h")
	try(exitUsage, "start", "--offsets-retention", "0", "--txn-partitions", "0") // not taken for the default
	try(exitUsage, "start", "--group-initial-rebalance-delay", "-1s")
	try(exitUsage, "start", "--group-max-size", "99999999999999999999")
	try(exitUsage, "consume", "orders", "--partition", "99999999999")
	try(exitUsage, "help", "topic", "create", "x")
	try(exitUsage, "dev", "--kafka-port", "65535")
	try(exitUsage, "version", "--config", "/no/such/balsa.yaml")
	golden(t, "mistakes.txt", b.String())
}

// What stands wrong in a configuration file, or in the environment, is named with file, line, key and mending.
func TestBrokenConfig(t *testing.T) {
	c := newCLI(t)
	var b strings.Builder
	for _, text := range []string{
		"brokers: localhost:9092\noutptu: json\n",
		"nonsense-entirely: 1\n",
		"dev:\n  nodes: three\n",
		"dev:\n  nodes: [1, 2]\n",
		"dev: 3\n",
		"timeout: 5\n",
		"output: xml\n",
		"output: json\noutput: yaml\n",
		"brokers:\n  - {a: b}\n",
		"- a\n- b\n",
		"output: json\n  timeout: 3\n",
		"dev:\n  node: 3\n",
	} {
		c.file("balsa.yaml", text)
		code, _, errText := c.run("version")
		if code != exitUsage {
			t.Errorf("%q: exit code %d\n%s", text, code, errText)
		}
		b.WriteString("balsa.yaml:\n" + text + "--\n" + strings.ReplaceAll(errText, c.dir, "DIR") + "\n")
	}
	c.file("balsa.yaml", "")
	c.must("version") // an empty file is no mistake
	for name, value := range map[string]string{"BALSA_TIMEOUT": "soon"} {
		c.env[name] = value
		code, _, errText := c.run("version")
		if code != exitUsage {
			t.Errorf("%s=%s: exit code %d\n%s", name, value, code, errText)
		}
		b.WriteString(name + "=" + value + "\n--\n" + errText + "\n")
	}
	golden(t, "broken-config.txt", b.String())
}

func TestTopicsAndStatus(t *testing.T) {
	c, _ := fakeCluster(t)
	if out := c.must("topic", "create", "orders", "-p", "4", "-r", "3", "--set", "retention.ms=1000"); out != "topic orders: 4 partitions, 3 replicas\n" {
		t.Errorf("create: %q", out)
	}
	c.must("topic", "create", "orders", "--if-not-exists")
	if out := c.must("topic", "create", "other", "-p", "1", "--dry-run"); !strings.Contains(out, "topic other would be created") {
		t.Errorf("dry run: %q", out)
	}
	if out := c.must("topic", "list"); !regexp.MustCompile(`^NAME +PARTITIONS +REPLICAS +LEADERLESS\norders +4 +3 +0\n$`).MatchString(out) {
		t.Errorf("list: %q", out)
	}
	var topics []client.Topic
	if err := json.Unmarshal([]byte(c.must("topic", "list", "-o", "json")), &topics); err != nil || len(topics) != 1 || topics[0].Name != "orders" {
		t.Errorf("list as JSON: %+v, %v", topics, err)
	}
	var topic client.Topic
	if err := yaml.Unmarshal([]byte(c.must("topic", "describe", "orders", "-o", "yaml")), &topic); err != nil || len(topic.Partitions) != 4 ||
		!slices.ContainsFunc(topic.Configs, func(c client.TopicConfig) bool { return c.Name == "retention.ms" && c.Value == "1000" && !c.Default }) {
		t.Errorf("describe as YAML: %+v, %v", topic, err)
	}
	if out := c.must("topic", "describe", "orders"); !strings.Contains(out, "retention.ms") || strings.Contains(out, "compression.type") {
		t.Errorf("describe shows other settings than those that were made:\n%s", out)
	}
	if out := c.must("topic", "describe", "orders", "--all"); !strings.Contains(out, "compression.type") {
		t.Errorf("describe --all lacks settings:\n%s", out)
	}
	var st client.Cluster
	if err := json.Unmarshal([]byte(c.must("cluster", "status", "-o", "json")), &st); err != nil || st.ID != "fake" || len(st.Brokers) != 3 || st.Partitions != 4 {
		t.Errorf("status: %+v, %v", st, err)
	}
	if out := c.must("cluster", "status"); !strings.HasPrefix(out, "cluster fake: 3 brokers, 1 topic, 4 partitions, 0 without a leader, 0 under-replicated\n") {
		t.Errorf("status: %s", out)
	}
	if out := c.must("topic", "delete", "orders"); out != "topic orders deleted\n" {
		t.Errorf("delete: %q", out)
	}
	if out := c.must("topic", "delete", "orders", "--if-exists"); out != "topic orders was not there\n" {
		t.Errorf("delete: %q", out)
	}
}

func TestProduceConsume(t *testing.T) {
	c, _ := fakeCluster(t, kfake.SeedTopics(3, "t"), kfake.SeedTopics(1, "one"))
	c.in = strings.NewReader("k1=v1\r\nk2=\n=v3\nnone")
	var res produced
	if err := json.Unmarshal([]byte(c.must("produce", "one", "-K", "=", "-H", "a=b", "-H", "c=", "-z", "zstd", "-o", "json")), &res); err != nil ||
		res.Written != 4 || res.Failed != 0 || res.Partitions[0] != 4 || res.Bytes != 12 {
		t.Errorf("produce: %+v, %v", res, err)
	}
	if out, want := c.must("consume", "one", "-e", "-f", `%t/%p/%o %k(%K)=%s(%S) %h%%\x21\n`), "one/0/0 k1(2)=v1(2) a=b,c=%!\none/0/1 k2(2)=(0) a=b,c=%!\n"+
		"one/0/2 (0)=v3(2) a=b,c=%!\none/0/3 (-1)=none(4) a=b,c=%!\n"; out != want {
		t.Errorf("consume:\n%s\nwant:\n%s", out, want)
	}

	var lines []string
	for i := range 1000 {
		lines = append(lines, strings.Repeat("x", i%50)+string(rune('a'+i%26)))
	}
	input := strings.Join(lines, "\n") + "\n"
	if out := c.must("produce", "t", "-p", "1", "-f", c.file("lines", input)); !strings.HasPrefix(out, "1000 records written to t, ") {
		t.Errorf("produce: %q", out)
	}
	if out := c.must("consume", "t", "-e"); out != input {
		t.Errorf("consume gives back something else: %d bytes instead of %d", len(out), len(input))
	}
	for _, tc := range []struct {
		args []string
		want []string
	}{
		{[]string{"--from", "-3"}, lines[997:]},
		{[]string{"--from", "990"}, lines[990:]},
		{[]string{"--from", "end"}, nil},
		{[]string{"--from", "beginning", "-n", "5"}, lines[:5]},
		{[]string{"--from", "10", "-n", "5", "-p", "1"}, lines[10:15]},
		{[]string{"-p", "0,2"}, nil},
		{[]string{"--from", "@1h"}, lines},
		{[]string{"--from", "@2100-01-01T00:00:00Z"}, nil},
		{[]string{"-g", "g", "-n", "400"}, lines[:400]},
		{[]string{"-g", "g", "-n", "300"}, lines[400:700]},
		{[]string{"-g", "g"}, lines[700:]},
		{[]string{"-g", "g"}, nil},
	} {
		out := c.must(append([]string{"consume", "t", "-e"}, tc.args...)...)
		want := ""
		if len(tc.want) > 0 {
			want = strings.Join(tc.want, "\n") + "\n"
		}
		if out != want {
			t.Errorf("consume %v: %d lines, want %d", tc.args, strings.Count(out, "\n"), len(tc.want))
		}
	}
	// -n ends without -e, too.
	if out := c.must("consume", "t", "-n", "2"); out != strings.Join(lines[:2], "\n")+"\n" {
		t.Errorf("consume -n 2: %q", out)
	}
}

// The formats of a record are an interface: text that is no UTF-8, null and empty are told apart.
func TestRecordFormats(t *testing.T) {
	c, addrs := fakeCluster(t, kfake.SeedTopics(1, "t"))
	p, err := client.NewProducer(t.Context(), client.ProducerConfig{Config: client.Config{Brokers: addrs}, Topic: "t"})
	if err != nil {
		t.Fatal(err)
	}
	at := time.Date(2026, 3, 1, 12, 0, 0, 7e6, time.UTC)
	for _, r := range []*kgo.Record{
		{Key: []byte("key"), Value: []byte("väl<ue>"), Timestamp: at, Headers: []kgo.RecordHeader{{Key: "h", Value: []byte("1")}, {Key: "null"}}},
		{Value: []byte{}, Timestamp: at},
		{Key: []byte{0xff, 0}, Value: nil, Timestamp: at},
	} {
		if err := p.Produce(t.Context(), r); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, args := range [][]string{{"-o", "json"}, {"-o", "yaml"}, {}, {"-f", `%t %p %o %T %D %k %K %s %S %h %% \\\t.\n`}} {
		b.WriteString("$ broker consume t -e " + strings.Join(args, " ") + "\n")
		b.WriteString(c.must(append([]string{"consume", "t", "-e"}, args...)...))
		b.WriteString("\n")
	}
	golden(t, "record-formats.txt", b.String())
}

// An interrupt is no failure of consume, and ends it.
func TestConsumeInterrupted(t *testing.T) {
	c, _ := fakeCluster(t, kfake.SeedTopics(1, "t"))
	ctx, cancel := context.WithCancel(t.Context())
	seen, w := io.Pipe()
	var errText bytes.Buffer
	a := &app{in: c.in, out: w, err: &errText, workDir: c.dir, lookupEnv: func(k string) (string, bool) { v, ok := c.env[k]; return v, ok }}
	done := make(chan int, 1)
	go func() { done <- a.run(ctx, []string{"consume", "t"}) }()
	c.in = strings.NewReader("hello\n")
	c.must("produce", "t")
	buf := make([]byte, 6)
	if _, err := io.ReadFull(seen, buf); err != nil || string(buf) != "hello\n" {
		t.Fatalf("the record did not appear while consume runs: %q, %v", buf, err)
	}
	cancel()
	if code := <-done; code != exitOK || errText.Len() > 0 {
		t.Fatalf("exit code %d, %s", code, &errText)
	}
}

// An interrupt while produce reads: what was read is written.
func TestProduceInterrupted(t *testing.T) {
	c, _ := fakeCluster(t, kfake.SeedTopics(1, "t"))
	ctx, cancel := context.WithCancel(t.Context())
	r, w := io.Pipe()
	defer w.Close()
	var out, errText bytes.Buffer
	a := &app{in: r, out: &out, err: &errText, workDir: c.dir, lookupEnv: func(k string) (string, bool) { v, ok := c.env[k]; return v, ok }}
	done := make(chan int, 1)
	go func() { done <- a.run(ctx, []string{"produce", "t"}) }()
	if _, err := io.WriteString(w, "one\ntwo\n"); err != nil {
		t.Fatal(err)
	}
	if got := c.must("consume", "t", "-n", "2"); got != "one\ntwo\n" {
		t.Fatalf("consumed %q", got)
	}
	cancel()
	if code := <-done; code != exitOK || !strings.HasPrefix(out.String(), "2 records written") {
		t.Fatalf("exit code %d, %s%s", code, &out, &errText)
	}
}

// Help must name every exit code that there is, and docs/cli.md too.
func TestExitCodesAreDocumented(t *testing.T) {
	c := newCLI(t)
	help := c.must("help", "exit-codes")
	page, err := os.ReadFile("../../docs/cli.md")
	if err != nil {
		t.Fatal(err)
	}
	for code := exitOK; code <= exitDenied; code++ {
		if !regexp.MustCompile(`(?m)^` + string(rune('0'+code)) + `  `).MatchString(help) {
			t.Errorf("help exit-codes lacks %d", code)
		}
		if !regexp.MustCompile(`(?m)^\| ` + string(rune('0'+code)) + ` \|`).Match(page) {
			t.Errorf("docs/cli.md lacks exit code %d", code)
		}
	}
}

// Every setting is in docs/cli.md with its environment variable.
func TestSettingsAreDocumented(t *testing.T) {
	page, err := os.ReadFile("../../docs/cli.md")
	if err != nil {
		t.Fatal(err)
	}
	a := &app{in: strings.NewReader(""), out: io.Discard, err: io.Discard, lookupEnv: os.LookupEnv}
	for key := range knownSettings(a.root()) {
		if !strings.Contains(string(page), "`"+key+"`") {
			t.Errorf("docs/cli.md lacks the setting %s", key)
		}
	}
}

// FuzzFormat: no format string brings the compiler down, and what it accepts renders.
func FuzzFormat(f *testing.F) {
	for _, s := range []string{`%s\n`, `%`, `\`, `\x`, `\xff`, `%%`, `%t/%p`, "\xff"} {
		f.Add(s)
	}
	r := &kgo.Record{Topic: "t", Key: []byte("k"), Headers: []kgo.RecordHeader{{Key: "a"}}}
	f.Fuzz(func(t *testing.T, s string) {
		format, err := compileFormat(s)
		if err == nil {
			format(nil, r)
		}
		_, _ = parseStart(s, time.Unix(0, 0))
	})
}

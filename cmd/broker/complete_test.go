// Tests of completion in the shell.

package main

import (
	"net"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kfake"
)

// offered is what completion offers for a command line whose last word is being typed, without descriptions; and cobra's directive.
func (c *cli) offered(line ...string) ([]string, string) {
	c.t.Helper()
	code, out, errText := c.run(append([]string{cobra.ShellCompRequestCmd}, line...)...)
	// The shells' scripts throw the standard error away; ours says nothing there all the same.
	if code != exitOK || strings.Count(errText, "\n") != 1 || !strings.HasPrefix(errText, "Completion ended with directive") {
		c.t.Errorf("%v: exit code %d, %s", line, code, errText)
	}
	lines := strings.Split(strings.TrimSuffix(out, "\n"), "\n")
	for i := range lines {
		lines[i], _, _ = strings.Cut(lines[i], "\t")
	}
	return lines[:len(lines)-1], lines[len(lines)-1]
}

func TestCompletion(t *testing.T) {
	c, _ := fakeCluster(t, kfake.SeedTopics(3, "orders"), kfake.SeedTopics(1, "others", "payments"))
	c.in = strings.NewReader("v\n")
	c.must("produce", "payments")
	c.must("consume", "payments", "-g", "billing", "-n", "1")
	c.must("config", "set", "broker/1", "message.max.bytes=2000000")
	c.must("profile", "add", "prod", "-b", "one:1")
	const done, open = ":4", ":6" // a space behind it, or none: more is to come
	for _, tc := range []struct {
		line      string
		want      string
		directive string
	}{
		{"topic describe ", "orders others payments", done},
		{"topic describe or", "orders", done},
		{"topic describe orders ", "", done},
		{"topic create ", "", done},
		{"produce pay", "payments", done},
		{"consume orders -p ", "0 1 2", open},
		{"consume orders -p 0,2,", "0,2,1", open},
		{"consume orders -g ", "billing", done},
		{"group describe ", "billing", done},
		{"group reset-offsets billing --topic oth", "others", done},
		{"partition move ord", "orders orders/", open},
		{"partition move orders/", "orders/0 orders/1 orders/2", done},
		{"partition transfer-leader ord", "orders/", open},
		{"partition reset-peers m", "metadata", done},
		{"partition move orders --to 1,", "1,0 1,2", open},
		{"cluster remove ", "0 1 2", done},
		{"config get ", "topic/ broker/ brokers group/ logger/", open},
		{"config get topic/o", "topic/orders topic/others", done},
		{"config get group/", "group/billing", done},
		{"config get topic/orders max.m", "max.message.bytes", done},
		{"config set topic/orders max.m", "max.message.bytes=", open},
		{"config set topic/orders retention.ms=1 max.m", "max.message.bytes=", open},
		{"topic alter orders --unset max.m", "max.message.bytes", done},
		{"topic create new --set max.m", "max.message.bytes=", open},
		{"topic list -o ", "table json yaml", done},
		{"produce orders --acks ", "all 1 0", done},
		{"acl create --operation read,wr", "read,write", open},
		{"topic list --profile p", "prod", done},
		{"profile use ", "none prod", done},
		{"bench run T", "T1 T2", done},
		{"produce orders --file ", "", ":0"},
		{"dev --data-dir ", "", ":16"},
		{"log dump ", "", ":0"},
		{"topic list --timeout ", "", done},
		{"topic describe --profile nowhere ", "", done},
	} {
		words := strings.Split(tc.line, " ")
		got, directive := c.offered(words...)
		if strings.Join(got, " ") != tc.want || directive != tc.directive {
			t.Errorf("%q: %q %s, want %q %s", tc.line, got, directive, tc.want, tc.directive)
		}
	}
	c.file("balsa.yaml", "nonsense: 1\n")
	if got, _ := c.offered("topic", "describe", ""); len(got) > 0 {
		t.Errorf("with a broken file: %q", got)
	}
	c.must("completion", "bash")
}

// A cluster that is away, or does not answer, costs a moment, and no text.
func TestCompletionWithoutCluster(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close() // nobody accepts: connections hang
	for _, addr := range []string{"127.0.0.1:1", l.Addr().String()} {
		c := newCLI(t)
		c.env["BALSA_BROKERS"] = addr
		if got, directive := c.offered("topic", "describe", ""); len(got) > 0 || directive != ":4" {
			t.Errorf("%s: %q %s", addr, got, directive)
		}
	}
}

// What a command wants is completed, unless it is a name that is yet to be made, or a file.
func TestEveryArgumentIsCompleted(t *testing.T) {
	table := completions()
	var visit func(cmd *cobra.Command, path string)
	visit = func(cmd *cobra.Command, path string) {
		for _, child := range cmd.Commands() {
			visit(child, strings.TrimSpace(path+" "+child.Name()))
		}
		named := len(strings.Fields(cmd.Use)) > 1
		if cmd.HasSubCommands() || !named || len(table[path].args) > 0 || slices.Contains(takesFiles, path) {
			return
		}
		if !slices.Contains([]string{"topic create", "user create", "profile add", "bridge nats add", "dev", "completion"}, path) {
			t.Errorf("broker %s (%s) is not completed: complete.go has the table", path, cmd.Use)
		}
	}
	a := &app{in: strings.NewReader(""), lookupEnv: func(string) (string, bool) { return "", false }}
	visit(a.root(), "")
}

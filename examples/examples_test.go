// The examples as a user runs them: each one without anything, which judges itself, and once more on a cluster that is there already and is left as it was.

package examples_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/balsamq/balsa/bridge"
	"github.com/balsamq/balsa/broker"
	"github.com/balsamq/balsa/brokertest"
	"github.com/balsamq/balsa/client"
)

// runTimeout bounds one run. It is generous: machines that run tests are busy.
const runTimeout = 3 * time.Minute

// examples builds all that there are, and returns their names and where the programs lie.
func examples(t *testing.T) (names []string, dir string) {
	t.Helper()
	if testing.Short() {
		t.Skip("builds and runs programs")
	}
	mains, err := filepath.Glob("*/main.go")
	if err != nil || len(mains) < 6 {
		t.Fatalf("%q, %v", mains, err)
	}
	for _, m := range mains {
		names = append(names, filepath.Dir(m))
	}
	dir = t.TempDir()
	args := []string{"build", "-o", dir + string(filepath.Separator)}
	for _, name := range names {
		args = append(args, "./"+name)
	}
	if out, err := exec.Command("go", args...).CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return names, dir
}

// run runs a program and returns how it ended and what it said.
func run(t *testing.T, program string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), runTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	if _, ended := errors.AsType[*exec.ExitError](err); err != nil && !ended {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), out.String(), errs.String()
}

// right fails the test unless the example says in the end that all was as promised.
func right(t *testing.T, program string, args ...string) (stdout string) {
	t.Helper()
	code, stdout, stderr := run(t, program, args...)
	lines := strings.Split(strings.TrimSpace(stdout), "\n")
	if last := lines[len(lines)-1]; code != 0 || stderr != "" || !strings.Contains(last, "  Right: ") {
		t.Errorf("it ended with %d and said\n%s\n%s", code, stdout, stderr)
	}
	return stdout
}

func TestExamples(t *testing.T) {
	names, dir := examples(t)
	// A cluster that was not made for them, with a topic and a group of somebody else's.
	cluster := brokertest.Start(t, brokertest.Topic("theirs", 1), brokertest.Configure(func(_ int, cfg *broker.Config) {
		cfg.Bridges, cfg.AdminListen = &bridge.Runner{}, "127.0.0.1:0"
		cfg.GroupConsumerSession = 2 * time.Second // instead of 45: one of them kills a member of a group
	}))
	ctx, cancel := context.WithTimeout(t.Context(), runTimeout)
	defer cancel()
	c, err := client.NewConsumer(ctx, client.ConsumerConfig{Config: cluster.Config(), Topics: []string{"theirs"}, Group: "theirs", StopAtEnd: true})
	if err != nil {
		t.Fatal(err)
	}
	for _, err := range c.Records(ctx) {
		t.Fatalf("an empty topic has a record, or %v", err)
	}
	if err := c.Close(ctx); err != nil {
		t.Fatal(err)
	}

	t.Run("all", func(t *testing.T) {
		t.Run("mistakes", func(t *testing.T) { mistakes(t, filepath.Join(dir, "config")) })
		for _, name := range names {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				program := filepath.Join(dir, name)
				if out := right(t, program); !strings.Contains(out, "in this process: 127.0.0.1:") {
					t.Errorf("it does not say that it has its own cluster:\n%s", out)
				}
				if out := right(t, program, "-b", cluster.Addr()); !strings.Contains(out, "has 1 broker.") {
					t.Errorf("it does not say which cluster it has:\n%s", out)
				}
			})
		}
	})

	adm, err := client.NewAdmin(ctx, cluster.Config())
	if err != nil {
		t.Fatal(err)
	}
	defer adm.Close()
	topics, err := adm.ListTopics(ctx, false)
	if err != nil {
		t.Fatal(err)
	}
	for _, topic := range topics {
		if topic.Name != "theirs" {
			t.Errorf("they have left topic %s", topic.Name)
		}
	}
	if len(topics) == 0 {
		t.Error("they have removed somebody else's topic")
	}
	groups, err := adm.ListGroups(ctx, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(groups) != 1 || groups[0].Name != "theirs" {
		t.Errorf("they have left groups: %+v", groups)
	}
	ctl, err := adm.Control(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer ctl.Close()
	var table struct{ Bridges []struct{ Name string } }
	if err := ctl.Get(ctx, "/v1/bridges", &table); err != nil || len(table.Bridges) != 0 {
		t.Errorf("they have left bridges: %+v, %v", table.Bridges, err)
	}
}

// mistakes is what a user sees who has made one.
func mistakes(t *testing.T, program string) {
	t.Parallel()
	for _, tc := range []struct {
		args []string
		code int
		says []string
	}{
		{[]string{"-b", "127.0.0.1:1"}, 1, []string{"config: ", "127.0.0.1:1", "go run ./cmd/broker dev", "without -b"}},
		{[]string{"-b", "nowhere"}, 1, []string{"config: ", "nowhere"}},
		{[]string{"-b", "127.0.0.1:x"}, 1, []string{"host:port"}},
		{[]string{"-timeout", "1ms"}, 1, []string{"-timeout"}},
		{[]string{"127.0.0.1:9092"}, 2, []string{`"127.0.0.1:9092" is no flag`}},
		{[]string{"-brokre"}, 2, []string{"-brokers", "go run ./examples/config"}},
	} {
		code, stdout, stderr := run(t, program, tc.args...)
		if code != tc.code || stdout != "" {
			t.Errorf("%q: it ended with %d and said\n%s\n%s", tc.args, code, stdout, stderr)
		}
		for _, s := range tc.says {
			if !strings.Contains(stderr, s) {
				t.Errorf("%q: %q is not in %q", tc.args, s, stderr)
			}
		}
	}
}

// README.md has a row for each of them.
func TestReadmeHasAll(t *testing.T) {
	page, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	mains, err := filepath.Glob("*/main.go")
	if err != nil || len(mains) < 6 {
		t.Fatalf("%q, %v", mains, err)
	}
	for _, m := range mains {
		name := filepath.Dir(m)
		for _, want := range []string{"](" + name + "/main.go)", "`go run ./examples/" + name + "`"} {
			if !bytes.Contains(page, []byte(want)) {
				t.Errorf("README.md does not have %q", want)
			}
		}
	}
}

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/balsamq/balsa/client"
)

// waitingNodes are three nodes that run, with an empty log each and the metadata group's voters all there. To be called within
// the bubble.
func waitingNodes(dir string) []*devNode {
	var nodes []*devNode
	for i := range 3 {
		n := &devNode{number: i + 1, ready: make(chan struct{}), voters: make(chan struct{}), exited: make(chan struct{}),
			logPath: filepath.Join(dir, fmt.Sprintf("node-%d.log", i+1))}
		close(n.ready)
		close(n.voters)
		nodes = append(nodes, n)
	}
	return nodes
}

func leadersOf(leaders ...int) client.Cluster {
	c := client.Cluster{}
	for i, l := range leaders {
		c.Brokers = append(c.Brokers, client.Broker{ID: int32(i + 1), Leaders: l, Replicas: 6})
	}
	return c
}

// What has no leader is named after a while, once, and again when it is something else; and it is waited for however long.
func TestDevWaitsForLeaders(t *testing.T) {
	dir := t.TempDir()
	logs := []string{
		"time=1 level=ERROR msg=\"the run before\"\ntime=2 level=ERROR msg=\"the log is damaged\" topic=orders\ntime=3 level=WARN msg=\"a smaller trouble\"\n",
		"{\"time\":\"1\",\"level\":\"WARN\",\"msg\":\"in the other format\"}\n",
		"time=1 level=INFO msg=\"nothing to say\"\n",
	}
	for i, s := range logs {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("node-%d.log", i+1)), []byte(s), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	synctest.Test(t, func(t *testing.T) {
		var out strings.Builder
		nodes := waitingNodes(dir)
		nodes[0].logStart = int64(strings.Index(logs[0], "time=2"))
		began := time.Now()
		ask := func(_ context.Context, n *devNode, _ int) (client.Cluster, error) {
			switch passed := time.Since(began); {
			case passed < devSilence && out.Len() > 0:
				t.Errorf("after %v already it said\n%s", passed, &out)
				fallthrough
			case passed < 20*time.Minute:
				return leadersOf(0, 1, 3), &leaderlessError{partitions: []string{"orders/1", "orders/2"}, total: 6}
			case passed < time.Hour:
				return leadersOf(0, 2, 3), &leaderlessError{partitions: []string{"orders/2"}, total: 6}
			}
			return leadersOf(1, 2, 3), nil
		}
		if err := waitReady(t.Context(), nodes, ask, &out); err != nil {
			t.Fatal(err)
		}
		if passed := time.Since(began); passed < time.Hour {
			t.Errorf("it was content after %v", passed)
		}
		want := `waiting: 2 of 6 partitions have no leader: orders/1, orders/2
  node 1: serves clients, leads 0 of the 6 partitions that it has a replica of
    its log: level=ERROR msg="the log is damaged" topic=orders
  node 2: serves clients, leads 1 of the 6 partitions that it has a replica of
    its log: {"time":"1","level":"WARN","msg":"in the other format"}
  node 3: serves clients, leads 3 of the 6 partitions that it has a replica of
  clients can use the others meanwhile; 'broker partition reset-peers' goes on without replicas that are gone for good
`
		want += strings.NewReplacer("2 of 6 partitions have no leader: orders/1, ", "1 of 6 partitions have no leader: ", "leads 1 of", "leads 2 of").Replace(want)
		if out.String() != want {
			t.Errorf("it said\n%s\nwant\n%s", &out, want)
		}
	})
}

// A cluster that does not come together is given up, with the node that is to blame.
func TestDevGivesUp(t *testing.T) {
	dir := t.TempDir()
	for name, tc := range map[string]struct {
		prepare func([]*devNode)
		err     error // node 2's answer
		want    []string
	}{
		"a node alone": {func([]*devNode) {}, errors.New("it knows of 1 of 3 brokers"),
			[]string{"waiting: node 2: it knows of 1 of 3 brokers\n", "node 2: runs, but: it knows of 1 of 3 brokers\n"}},
		"a node that does not serve": {func(nodes []*devNode) { nodes[1].ready = make(chan struct{}) }, errors.New("asked all the same"),
			[]string{"waiting: node 2: it does not serve clients yet\n", "node 2: runs, but: it does not serve clients yet\n"}},
		"no voters": {func(nodes []*devNode) { nodes[0].voters = make(chan struct{}) }, nil,
			[]string{"waiting: the metadata group does not have its 3 voters\n", "node 2: serves clients, leads 2 of"}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var out strings.Builder
				nodes := waitingNodes(dir)
				tc.prepare(nodes)
				began := time.Now()
				err := waitReady(t.Context(), nodes, func(_ context.Context, n *devNode, _ int) (client.Cluster, error) {
					if n.number == 2 {
						return leadersOf(1, 2, 3), tc.err
					}
					if tc.err != nil { // less to blame
						return leadersOf(1, 2, 3), &leaderlessError{partitions: []string{"t 0"}, total: 6}
					}
					return leadersOf(1, 2, 3), nil
				}, &out)
				e, ok := errors.AsType[*cliError](err)
				if !ok || e.code != exitTimeout || e.where != dir || time.Since(began) < devReadyTimeout {
					t.Fatalf("after %v: %v", time.Since(began), err)
				}
				for _, want := range tc.want {
					if strings.Count(out.String(), want) != 1 {
						t.Errorf("it said\n%s\nwant, once: %s", &out, want)
					}
				}
			})
		})
	}
}

// The first node that is asked may take long to answer: nothing is said of the others before they have been asked.
func TestDevAsksBeforeItSpeaks(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		var out strings.Builder
		asked := 0
		err := waitReady(t.Context(), waitingNodes(dir), func(_ context.Context, n *devNode, _ int) (client.Cluster, error) {
			if asked++; asked > 5 { // twice the first alone, once all of them in between
				return leadersOf(1, 1, 1), nil
			}
			if n.number == 1 {
				time.Sleep(2 * devSilence)
			}
			return client.Cluster{}, fmt.Errorf("node %d answers", n.number)
		}, &out)
		if err != nil {
			t.Fatal(err)
		}
		if s := out.String(); strings.Count(s, "waiting: ") != 1 || !strings.Contains(s, "node 2: runs, but: node 2 answers\n") || !strings.Contains(s, "node 3: runs, but: node 3 answers\n") {
			t.Errorf("it said\n%s", s)
		}
	})
}

// A partition whose log is damaged on two of three nodes gets no leader: the command says so and waits, and the rest works;
// until the partition's peers are reset.
func TestDevSaysWhatItWaitsFor(t *testing.T) {
	dir := t.TempDir()
	d := startDev(t, "--data-dir", dir, "--kafka-port", "0")
	d.broker("", "topic", "create", "orders", "--partitions", "1", "--replicas", "3")
	d.broker(sequence(1000), "produce", "orders")
	// Two of three have acknowledged: the one that is to be left must have it all as well.
	block := regexp.MustCompile(`block: (\d+) frames, \d+ bytes, from index (\d+)`)
	for deadline, said := time.Now().Add(patience), error(nil); ; {
		var ends []int
		for _, node := range []string{"node-1", "node-2", "node-3"} {
			groups, err := filepath.Glob(filepath.Join(dir, node, "groups", "*"))
			if err != nil {
				t.Fatal(err)
			}
			end := 0
			if len(groups) == 2 { // the metadata group and the topic's, which may have no file yet
				var dump string
				if dump, err = d.tryBroker("", "log", "dump", groups[1]); err != nil {
					said = err
				}
				for _, m := range block.FindAllStringSubmatch(dump, -1) {
					frames, _ := strconv.Atoi(m[1])
					from, _ := strconv.Atoi(m[2])
					end = from + frames
				}
			}
			ends = append(ends, end)
		}
		if ends[0] > 2 && ends[0] == ends[1] && ends[1] == ends[2] { // index 1 opened the term
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the replicas' logs end before %v; %v", ends, said)
		}
	}
	if code := d.stop(); code != exitOK {
		t.Fatalf("exit code %d", code)
	}
	for _, node := range []string{"node-1", "node-2"} {
		groups, err := filepath.Glob(filepath.Join(dir, node, "groups", "*", "*.log"))
		if err != nil || len(groups) != 2 { // the metadata group and the topic's
			t.Fatalf("%v, %v", groups, err)
		}
		f, err := os.OpenFile(groups[1], os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt([]byte("damaged"), 1000); err != nil { // amid the records
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
	again := exec.Command(program(t), "dev", "--config", "none", "--data-dir", dir, "--kafka-port", "0")
	stderr, err := again.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := again.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := again.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = again.Process.Kill() })
	stuck := time.AfterFunc(patience, func() { _ = again.Process.Kill() })
	defer stuck.Stop()
	expect := func(lines *bufio.Scanner, want string) {
		t.Helper()
		var said []string
		for lines.Scan() { // on a slow machine it may have had other things to wait for before
			if said = append(said, lines.Text()); strings.Contains(lines.Text(), want) {
				return
			}
		}
		t.Fatalf("not said: %q in\n%s", want, strings.Join(said, "\n"))
	}
	said, printed := bufio.NewScanner(stderr), bufio.NewScanner(stdout)
	for _, want := range []string{
		"waiting: 1 of 1 partitions have no leader: orders/0",
		"node 1: serves clients, leads 0", "its log: ", "node 2: serves clients, leads 0", "its log: ", "node 3: serves clients, leads 0",
	} {
		expect(said, want)
	}
	c := newCLI(t)
	c.env["BALSA_BROKERS"] = strings.Join(d.addrs, ",")
	c.must("topic", "create", "new", "--replicas", "3")
	c.must("partition", "reset-peers", "orders/0", "--yes")
	expect(printed, "ready: ")
	if got := c.must("consume", "orders", "-e"); got != sequence(1000) { // the third replica has them all
		t.Errorf("%d lines of 1000 come back", strings.Count(got, "\n"))
	}
	if err := again.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	for said.Scan() || printed.Scan() {
	}
	if err := again.Wait(); err != nil {
		t.Errorf("interrupted it ends with %v", err)
	}
}

// Many partitions without a leader are not all named.
func TestLeaderlessErrorIsBounded(t *testing.T) {
	e := &leaderlessError{total: 70_000}
	for i := range 60_000 {
		e.partitions = append(e.partitions, fmt.Sprintf("t %d", i))
	}
	want := "60000 of 70000 partitions have no leader: t 0, t 1, t 2, t 3, t 4, t 5, t 6, t 7, t 8, t 9 and 59990 more"
	if e.Error() != want {
		t.Errorf("%s", e)
	}
}

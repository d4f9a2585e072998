// Tests of `broker dev` and `broker start` as programs: the binary is built once and run as users run it.

package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"github.com/balsamq/balsa/client"
)

var binary struct {
	once sync.Once
	path string
	err  error
}

func TestMain(m *testing.M) {
	code := m.Run()
	if binary.path != "" {
		_ = os.RemoveAll(filepath.Dir(binary.path))
	}
	os.Exit(code)
}

// program is the path of the built binary.
func program(t *testing.T) string {
	t.Helper()
	if testing.Short() {
		t.Skip("builds and runs the binary")
	}
	binary.once.Do(func() {
		dir, err := os.MkdirTemp("", "balsa-cli-test")
		if err != nil {
			binary.err = err
			return
		}
		binary.path = filepath.Join(dir, "broker")
		if out, err := exec.Command("go", "build", "-o", binary.path, ".").CombinedOutput(); err != nil {
			binary.err = fmt.Errorf("%w\n%s", err, out)
		}
	})
	if binary.err != nil {
		t.Fatal(binary.err)
	}
	return binary.path
}

// devRun is a running `broker dev`.
type devRun struct {
	t     *testing.T
	cmd   *exec.Cmd
	err   bytes.Buffer // complete once it has ended
	addrs []string
	pids  []int
	lines []string
	done  chan struct{}
}

const patience = 2 * time.Minute

// startDev starts a cluster and waits until it is ready.
func startDev(t *testing.T, args ...string) *devRun {
	t.Helper()
	d := &devRun{t: t, done: make(chan struct{})}
	d.cmd = exec.Command(program(t), append([]string{"dev", "--config", "none"}, args...)...)
	d.cmd.Stderr = &d.err
	out, err := d.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := d.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ready := make(chan struct{})
	go func() {
		defer close(d.done)
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			d.lines = append(d.lines, lines.Text())
			if m := regexp.MustCompile(`^node \d+: pid (\d+), kafka \S+, rpc \S+, admin \S+, log \S+$`).FindStringSubmatch(lines.Text()); m != nil {
				pid, _ := strconv.Atoi(m[1])
				d.pids = append(d.pids, pid)
			}
			if list, ok := strings.CutPrefix(lines.Text(), "ready: "); ok {
				d.addrs = strings.Split(list, ",")
				close(ready)
			}
		}
		_ = d.cmd.Wait()
	}()
	t.Cleanup(func() { d.stop() })
	select {
	case <-ready:
	case <-d.done:
		t.Fatalf("broker dev has ended: %v\n%s\n%s", d.cmd.ProcessState, strings.Join(d.lines, "\n"), &d.err)
	case <-time.After(patience):
		t.Fatalf("broker dev is not ready\n%s", strings.Join(d.lines, "\n"))
	}
	return d
}

// stop ends the cluster as Ctrl-C does, and returns the exit code.
func (d *devRun) stop() int {
	d.t.Helper()
	_ = d.cmd.Process.Signal(os.Interrupt)
	return d.wait()
}

func (d *devRun) wait() int {
	d.t.Helper()
	select {
	case <-d.done:
	case <-time.After(patience):
		_ = d.cmd.Process.Kill()
		d.t.Fatal("broker dev does not end")
	}
	return d.cmd.ProcessState.ExitCode()
}

// broker runs a command line against the cluster.
func (d *devRun) broker(in string, args ...string) string {
	d.t.Helper()
	out, err := d.tryBroker(in, args...)
	if err != nil {
		d.t.Fatal(err)
	}
	return out
}

// tryBroker is broker where it may fail.
func (d *devRun) tryBroker(in string, args ...string) (string, error) {
	cmd := exec.Command(program(d.t), append(args, "--config", "none", "-b", strings.Join(d.addrs, ","))...)
	cmd.Stdin = strings.NewReader(in)
	var errText bytes.Buffer
	cmd.Stderr = &errText
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("broker %s: %w\n%s%s", strings.Join(args, " "), err, out, &errText)
	}
	return string(out), nil
}

// gone waits until no process of these ids is left.
func gone(t *testing.T, pids []int) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; {
		left := 0
		for _, pid := range pids {
			// Not ours to wait for: after the parent's death init, or a subreaper, reaps them in its own time.
			if err := syscall.Kill(pid, 0); err == nil && !zombie(pid) {
				left++
			}
		}
		if left == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d of the processes %v are left", left, pids)
		}
		<-time.After(10 * time.Millisecond)
	}
}

func zombie(pid int) bool {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, rest, _ := bytes.Cut(raw, []byte(") "))
	return bytes.HasPrefix(rest, []byte("Z"))
}

func sequence(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintln(&b, i)
	}
	return b.String()
}

// The first thing that a person does: a cluster, a topic, records; stopped and started again it has them still.
func TestDevKeepsItsData(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	d := startDev(t, "--nodes", "3", "--data-dir", dir, "--kafka-port", "0")
	if len(d.addrs) != 3 || len(d.pids) != 3 {
		t.Fatalf("printed %q", d.lines)
	}
	if out := d.broker("", "topic", "create", "orders", "--partitions", "6", "--replicas", "3"); out != "topic orders: 6 partitions, 3 replicas\n" {
		t.Errorf("create: %q", out)
	}
	want := sequence(5000)
	d.broker(want, "produce", "orders", "--partition", "2")
	// A majority acknowledges; who is not of it may be in sync a moment later.
	for deadline := time.Now().Add(patience); ; {
		status := d.broker("", "cluster", "status", "-o", "json")
		if strings.Contains(status, `"underReplicated": 0`) && strings.Count(status, `"address"`) == 3 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("status: %s", status)
		}
	}
	if code := d.stop(); code != exitOK {
		t.Fatalf("exit code %d\n%s", code, &d.err)
	}
	gone(t, d.pids)

	again := startDev(t, "--data-dir", dir, "--kafka-port", "0")
	if strings.Join(again.addrs, ",") != strings.Join(d.addrs, ",") {
		t.Errorf("other addresses than before: %v, %v", again.addrs, d.addrs)
	}
	if got := again.broker("", "consume", "orders", "-e"); got != want {
		t.Errorf("after a restart %d lines come back of %d", strings.Count(got, "\n"), strings.Count(want, "\n"))
	}
	// The same command line on the same directory while it runs.
	out, err := exec.Command(program(t), "dev", "--config", "none", "--data-dir", dir).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "another 'broker dev' runs on this directory") {
		t.Errorf("a second one on the directory: %v\n%s", err, out)
	}
	out, err = exec.Command(program(t), "dev", "--config", "none", "--data-dir", t.TempDir(), "--kafka-port", portOf(t, again.addrs[0])).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "--kafka-port") || !strings.Contains(string(out), "address already in use") {
		t.Errorf("a second one on the ports: %v\n%s", err, out)
	}
}

// A port that another program takes between the look for free ones and the broker that is to listen there costs another start, by other ports.
func TestDevPortTaken(t *testing.T) {
	t.Parallel()
	program(t) // built before the first look at the file
	dir := t.TempDir()
	taken := make(chan string, 1)
	var l net.Listener
	go func() {
		defer close(taken)
		for range time.Tick(time.Millisecond) { // the second node is started when the first one serves
			var st devState
			if t.Context().Err() != nil {
				return
			}
			raw, err := os.ReadFile(filepath.Join(dir, devStateFile))
			if err != nil || json.Unmarshal(raw, &st) != nil || len(st.KafkaPorts) != 2 {
				continue
			}
			addr := net.JoinHostPort(devHost, strconv.Itoa(st.KafkaPorts[1]))
			if l, err = net.Listen("tcp", addr); err == nil {
				taken <- addr
			}
			return
		}
	}()
	d := startDev(t, "--data-dir", dir, "--nodes", "2", "--kafka-port", "0")
	addr, ok := <-taken
	if !ok {
		t.Skip("the broker was there first")
	}
	defer l.Close()
	if slices.Contains(d.addrs, addr) || len(d.addrs) != 2 {
		t.Errorf("ready at %v, where %s was taken", d.addrs, addr)
	}
	if code := d.stop(); code != exitOK || !strings.Contains(d.err.String(), "started again by other ones") {
		t.Errorf("exit code %d\n%s", code, &d.err)
	}
}

func portOf(t *testing.T, addr string) string {
	t.Helper()
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	return port
}

// A node that is killed is reported with the command that starts it again, and the others go on.
func TestDevSurvivesANode(t *testing.T) {
	t.Parallel()
	d := startDev(t, "--data-dir", t.TempDir(), "--kafka-port", "0")
	d.broker("", "topic", "create", "t", "--partitions", "3", "--replicas", "3")
	d.broker(sequence(300), "produce", "t", "-p", "0")
	if err := syscall.Kill(d.pids[1], syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	gone(t, d.pids[1:2])
	for p := range 3 { // whichever partition it led
		d.broker(sequence(100), "produce", "t", "-p", strconv.Itoa(p))
	}
	if got := d.broker("", "consume", "t", "-e"); strings.Count(got, "\n") != 600 {
		t.Errorf("%d records of 600", strings.Count(got, "\n"))
	}
	if code := d.stop(); code != exitOK {
		t.Errorf("exit code %d", code)
	}
	if s := d.err.String(); !strings.Contains(s, "node 2: pid") || !strings.Contains(s, "start it again: ") || !strings.Contains(s, "--node-id 2") {
		t.Errorf("printed %q", s)
	}
	gone(t, d.pids)
}

// Racks are given once, shown, read from, and remembered.
func TestDevRacks(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	d := startDev(t, "--data-dir", dir, "--kafka-port", "0", "--racks", "a,b,c")
	d.broker("", "topic", "create", "t", "--partitions", "3", "--replicas", "3")
	d.broker(sequence(300), "produce", "t", "-p", "0")
	for _, rack := range []string{"a", "b", "c", "elsewhere"} {
		if got := d.broker("", "consume", "t", "-e", "--rack", rack); got != sequence(300) {
			t.Errorf("from rack %s: %d records of 300", rack, strings.Count(got, "\n"))
		}
	}
	racks := func(d *devRun) (found []string) {
		for _, m := range regexp.MustCompile(`"rack": "(\w+)"`).FindAllStringSubmatch(d.broker("", "cluster", "status", "-o", "json"), -1) {
			found = append(found, m[1])
		}
		return found
	}
	want := []string{"a", "b", "c"}
	if got := racks(d); !slices.Equal(got, want) {
		t.Errorf("racks %v", got)
	}
	if code := d.stop(); code != exitOK {
		t.Fatalf("exit code %d\n%s", code, &d.err)
	}
	d = startDev(t, "--data-dir", dir, "--kafka-port", "0")
	if got := racks(d); !slices.Equal(got, want) {
		t.Errorf("racks after a restart: %v", got)
	}
	d.stop()
	out, err := exec.Command(program(t), "dev", "--config", "none", "--kafka-port", "0", "--data-dir", t.TempDir(), "--racks", "a,b").CombinedOutput()
	if err == nil || !strings.Contains(string(out), "--racks names 2 racks for 3 nodes") {
		t.Errorf("two racks for three nodes: %v\n%s", err, out)
	}
}

// If the parent is killed, so are the brokers.
func TestDevDiesWithItsParent(t *testing.T) {
	t.Parallel()
	if _, err := os.Stat("/proc/self/stat"); err != nil {
		t.Skip("only Linux ties children to their parent")
	}
	d := startDev(t, "--nodes", "2", "--data-dir", t.TempDir(), "--kafka-port", "0")
	if err := d.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	d.wait()
	gone(t, d.pids)
}

// What cannot start leaves nothing running, and says why.
func TestDevRefusals(t *testing.T) {
	exe := program(t)
	run := func(args ...string) (int, string) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		cmd := exec.CommandContext(ctx, exe, append([]string{"dev", "--config", "none", "--kafka-port", "0"}, args...)...)
		out, err := cmd.CombinedOutput()
		var exit *exec.ExitError
		if err != nil && !errors.As(err, &exit) {
			t.Fatal(err)
		}
		return cmd.ProcessState.ExitCode(), string(out)
	}
	t.Run("strange directory", func(t *testing.T) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "letters.txt"), nil, 0o644); err != nil {
			t.Fatal(err)
		}
		if code, out := run("--data-dir", dir); code != exitUsage || !strings.Contains(out, "letters.txt") {
			t.Errorf("exit code %d\n%s", code, out)
		}
	})
	t.Run("fewer nodes, and a node of another cluster", func(t *testing.T) {
		one, other := t.TempDir(), t.TempDir()
		for _, dir := range []string{one, other} {
			d := startDev(t, "--data-dir", dir, "--kafka-port", "0", "--nodes", "2")
			if code := d.stop(); code != exitOK {
				t.Fatalf("exit code %d", code)
			}
		}
		if code, out := run("--data-dir", one, "--nodes", "1"); code != exitUsage || !strings.Contains(out, "has 2 nodes") {
			t.Errorf("exit code %d\n%s", code, out)
		}
		if err := os.RemoveAll(filepath.Join(one, "node-2")); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(filepath.Join(other, "node-2"), filepath.Join(one, "node-2")); err != nil {
			t.Fatal(err)
		}
		code, out := run("--data-dir", one)
		if code != exitFailure || !strings.Contains(out, "node 2: ") || !strings.Contains(out, "cluster") || !strings.Contains(out, "where: ") {
			t.Errorf("exit code %d\n%s", code, out)
		}
		var pids []int
		for _, m := range regexp.MustCompile(`pid (\d+)`).FindAllStringSubmatch(out, -1) {
			pid, _ := strconv.Atoi(m[1])
			pids = append(pids, pid)
		}
		gone(t, pids)
	})
}

// One broker without any configuration: founded, stopped by SIGTERM, started again with its data.
func TestStart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	run := func() (*exec.Cmd, string) {
		t.Helper()
		cmd := exec.Command(program(t), "start", "--kafka-listen", "127.0.0.1:0", "--rpc-listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0")
		cmd.Dir = dir // it keeps its data below the current directory
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		var errText bytes.Buffer
		cmd.Stderr = &errText
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = cmd.Process.Kill() })
		line, err := bufio.NewReader(out).ReadString('\n')
		addr, ok := strings.CutPrefix(strings.TrimSpace(line), "ready: ")
		if !ok {
			_ = cmd.Wait()
			t.Fatalf("printed %q, %v\n%s", line, err, &errText)
		}
		return cmd, addr
	}
	cmd, addr := run()
	c := newCLI(t)
	c.env["BALSA_BROKERS"] = addr
	c.must("topic", "create", "t")
	c.in = strings.NewReader(sequence(100))
	c.must("produce", "t")
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatalf("stopped by SIGTERM it says %v", err)
	}
	cmd, addr = run()
	c.env["BALSA_BROKERS"] = addr
	if got := c.must("consume", "t", "-e"); got != sequence(100) {
		t.Errorf("%d lines of 100 after a restart", strings.Count(got, "\n"))
	}
	// The log's files can be looked into while the broker runs, and hold what was written.
	groups, err := filepath.Glob(filepath.Join(dir, "balsa-data", "groups", "*"))
	if err != nil || len(groups) < 2 {
		t.Fatalf("groups: %v, %v", groups, err)
	}
	found := false
	for _, g := range groups {
		code, out, errText := c.run("log", "dump", g, "--frames")
		if code != exitOK {
			t.Errorf("dump of %s: exit code %d\n%s%s", g, code, out, errText)
		}
		found = found || strings.Contains(out, "records 100")
	}
	if !found {
		t.Error("no log dump shows the batch of 100 records")
	}
	if code, _, errText := c.run("log", "dump", filepath.Join(dir, "nothing")); code != exitNotFound {
		t.Errorf("dump of nothing: exit code %d\n%s", code, errText)
	}
	// Its admin listener is found by way of the Kafka listener, and by --admin without it.
	ask := &cobra.Command{}
	adminFlag(ask)
	ask.Flags().StringSlice("brokers", []string{addr}, "")
	ask.Flags().Duration("timeout", patience, "")
	var state struct{ Admin, Kafka string }
	who := func(ctx context.Context, ctl *client.Control) error { return ctl.Get(ctx, "/v1/broker", &state) }
	ask.SetContext(t.Context())
	if err := withControl(ask, who); err != nil || state.Kafka != addr {
		t.Fatalf("admin listener: %v, it is %+v", err, state)
	}
	if err := errors.Join(ask.Flags().Set("brokers", "127.0.0.1:1"), ask.Flags().Set("admin", state.Admin)); err != nil {
		t.Fatal(err)
	}
	if err := withControl(ask, who); err != nil || state.Kafka != addr {
		t.Fatalf("--admin: %v, it is %+v", err, state)
	}
	// A second broker on the directory, and on the port.
	second := func(args ...string) string {
		t.Helper()
		out, err := exec.Command(program(t), append([]string{"start", "--config", "none", "--rpc-listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"}, args...)...).CombinedOutput()
		if err == nil {
			t.Fatalf("it started: %s", out)
		}
		return string(out)
	}
	if out := second("--data-dir", filepath.Join(dir, "balsa-data"), "--kafka-listen", "127.0.0.1:0"); !strings.Contains(out, "in use by another process") || !strings.Contains(out, "mend:") {
		t.Errorf("on the same directory: %s", out)
	}
	if out := second("--data-dir", t.TempDir(), "--kafka-listen", "127.0.0.1:0", "--admin-listen", state.Admin); !strings.Contains(out, "address already in use") || !strings.Contains(out, "--admin-listen") {
		t.Errorf("on the same admin port: %s", out)
	}
	if out := second("--data-dir", t.TempDir(), "--kafka-listen", addr); !strings.Contains(out, "address already in use") || !strings.Contains(out, "--kafka-listen") {
		t.Errorf("on the same port: %s", out)
	}
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("stopped by an interrupt it says %v", err)
	}
}

// The SDK's exactness against the real broker: what was acknowledged comes back, also through a group.
func TestSDKAgainstBroker(t *testing.T) {
	t.Parallel()
	d := startDev(t, "--data-dir", t.TempDir(), "--kafka-port", "0")
	a, err := client.NewAdmin(t.Context(), client.Config{Brokers: d.addrs})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	if _, err := a.CreateTopic(t.Context(), client.TopicSpec{Name: "t", Partitions: 6, Replicas: 3}); err != nil {
		t.Fatal(err)
	}
	if _, err := a.CreateTopic(t.Context(), client.TopicSpec{Name: "t"}); !errors.Is(err, client.ErrExists) {
		t.Errorf("second creation: %v", err)
	}
	d.broker(sequence(6000), "produce", "t", "-z", "lz4")
	parts, err := a.Offsets(t.Context(), "t")
	if err != nil {
		t.Fatal(err)
	}
	var total int64
	for _, p := range parts {
		if p.Start != 0 || p.Error != "" {
			t.Errorf("partition %d: %+v", p.Partition, p)
		}
		total += p.End
	}
	if total != 6000 {
		t.Errorf("the ends add up to %d", total)
	}
	for _, want := range []int{6000, 0} {
		c, err := client.NewConsumer(t.Context(), client.ConsumerConfig{Config: client.Config{Brokers: d.addrs}, Topics: []string{"t"}, Group: "g", StopAtEnd: true})
		if err != nil {
			t.Fatal(err)
		}
		got := 0
		for {
			rs, err := c.Poll(t.Context(), 0)
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			got += len(rs)
		}
		if err := c.Close(t.Context()); err != nil {
			t.Error(err)
		}
		if got != want {
			t.Errorf("the group got %d records, want %d", got, want)
		}
	}
	// Groups: what the brokers say is what the SDK knows, name by name, and people see it.
	ctl, err := a.Control(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var raw json.RawMessage
	strict := func(path string, out any) {
		t.Helper()
		if err := ctl.Get(t.Context(), path, &raw); err != nil {
			t.Fatal(err)
		}
		d := json.NewDecoder(bytes.NewReader(raw))
		d.DisallowUnknownFields()
		if err := d.Decode(out); err != nil {
			t.Errorf("%s: %v", path, err)
		}
	}
	var table client.RaftTable
	var one client.RaftGroup
	strict("/v1/raft/groups", &table)
	strict("/v1/raft/groups/t/0", &one)
	if len(table.Groups) < 7 || len(one.Replicas) != 3 || one.Topic != "t" || one.Replicas[0].Term == 0 || one.Replicas[0].Commit == 0 {
		t.Errorf("groups %+v\n%+v", table, one)
	}
	if out := d.broker("", "raft", "describe"); !regexp.MustCompile(`(?m)^1 +metadata +[123] .*\n(.*\n)*\d+ +t/5 `).MatchString(out) {
		t.Errorf("raft describe:\n%s", out)
	}
	if out := d.broker("", "raft", "describe", "t/3"); !regexp.MustCompile(`(?m)^group \d+, t/3: led by broker [123] in term \d+\n\n +BROKER 1 +BROKER 2 +BROKER 3\n`).MatchString(out) ||
		!regexp.MustCompile(`(?m)^role +(follower|leader) +(follower|leader) +(follower|leader)$`).MatchString(out) {
		t.Errorf("raft describe t/3:\n%s", out)
	}
	c := newCLI(t)
	c.env["BALSA_BROKERS"] = strings.Join(d.addrs, ",")
	for name, want := range map[string]int{"t": exitUsage, "t/6": exitNotFound, "nope": exitNotFound} {
		if code, _, errText := c.run("raft", "describe", name); code != want || !strings.Contains(errText, "mend:") {
			t.Errorf("raft describe %s: exit code %d\n%s", name, code, errText)
		}
	}
	if err := a.DeleteTopic(t.Context(), "t"); err != nil {
		t.Error(err)
	}
	if _, err := a.Topic(t.Context(), "t"); !errors.Is(err, client.ErrNotFound) {
		t.Errorf("after its deletion: %v", err)
	}
}

//go:build linux

// The brokers: processes that are started, killed, stopped for a while and ended in order, each by the id that it was started with.

package campaign_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	// inOrder bounds how long a broker may take to end on SIGTERM.
	inOrder = time.Minute
	// small segments, so that files are begun and deleted while it runs.
	segmentBytes = 4 << 20
	adminPort    = 9292
	// leftOver is how many goroutines more than before the load a broker may have behind it, and within what time it must have come down to that.
	leftOver, comeDown = 60, time.Minute
)

// warned finds what a broker warns of.
var warned = regexp.MustCompile(`(level=(?:WARN|ERROR) msg=(?:"(?:[^"\\]|\\.)*"|\S+))`)

// cluster is all brokers.
type cluster struct {
	rep    *report
	net    *network
	binary string
	nodes  []*node // by id, from 1
}

// node is one broker.
type node struct {
	id   int
	dir  string // its data
	log  string // the file of what it writes to its standard error
	args []string

	flipped map[string]bool // directories of logs in which a bit was flipped

	mu     sync.Mutex
	cmd    *exec.Cmd     // nil: it does not run, and need not
	ended  chan struct{} // closed when cmd has ended
	lost   string        // incarnation of the data that it has lost; "": none
	joined bool          // it has been ready once
	aged   bool          // its data is an older copy: it is to end by itself
}

func newCluster(rep *report, binary string, n int) *cluster {
	t := rep.t
	t.Helper()
	root := t.TempDir()
	var ids []int
	for id := range n {
		ids = append(ids, id+1)
	}
	c := &cluster{rep: rep, net: newNetwork(t, ids), binary: binary}
	t.Cleanup(func() {
		for _, n := range c.nodes {
			n.signalContinue()
			c.kill(n)
		}
	})
	logs := root
	if *keep != "" {
		logs = *keep
	}
	for _, id := range ids {
		ip := c.net.ip(id)
		c.nodes = append(c.nodes, &node{id: id, flipped: make(map[string]bool), dir: filepath.Join(root, fmt.Sprintf("node-%d", id)), log: filepath.Join(logs, fmt.Sprintf("broker-%d.log", id)), args: []string{
			"netns", "exec", c.net.namespaces[id], binary, "start", "--config", "none", "--data-dir", filepath.Join(root, fmt.Sprintf("node-%d", id)), "--node-id", fmt.Sprint(id),
			"--kafka-listen", ip + ":9092", "--rpc-listen", ip + ":9192", "--admin-listen", fmt.Sprint(ip, ":", adminPort), "--segment-bytes", fmt.Sprint(segmentBytes), "--leader-balance-interval", "20s"}})
	}
	for _, n := range c.nodes {
		if err := <-c.start(n); err != nil {
			t.Fatalf("%v; its log ends with\n%s", err, n.logEnd())
		}
	}
	return c
}

func (c *cluster) seeds() (out []string) {
	for _, n := range c.nodes {
		out = append(out, c.net.ip(n.id)+":9092")
	}
	return out
}

// start starts a broker that does not run. What comes is nil when it is ready, or why it has ended before.
func (c *cluster) start(n *node) <-chan error {
	ready := make(chan error, 1)
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.cmd != nil {
		ready <- nil
		return ready
	}
	args := n.args
	if n.id != 1 || n.joined || n.lost != "" { // the first one founds the cluster, once
		var others []string
		for _, o := range c.nodes {
			if o != n {
				others = append(others, c.net.ip(o.id)+":9192")
			}
		}
		args = append(args[:len(args):len(args)], "--join", strings.Join(others, ","))
	}
	if n.lost != "" {
		args = append(args[:len(args):len(args)], "--replace-disk", n.lost)
	}
	log, err := os.OpenFile(n.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		ready <- err
		return ready
	}
	defer log.Close()
	cmd := exec.Command("ip", args...)
	cmd.Stderr = log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		ready <- err
		return ready
	}
	ended := make(chan struct{})
	n.cmd, n.ended = cmd, ended
	go func() {
		defer close(ended)
		was := false
		for sc := bufio.NewScanner(out); sc.Scan(); {
			if !was && strings.HasPrefix(sc.Text(), "ready: ") {
				was = true
				n.mu.Lock()
				n.joined, n.lost = true, ""
				n.mu.Unlock()
				ready <- nil
			}
		}
		err := cmd.Wait()
		n.mu.Lock()
		own := n.cmd == cmd // nobody has ended it
		if own {
			n.cmd = nil
		}
		own = own && !n.aged
		n.mu.Unlock()
		switch {
		case !was:
			ready <- fmt.Errorf("broker %d has ended before it was ready: %v", n.id, err)
		case own:
			c.rep.violation("broker %d has ended by itself: %v; its log ends with\n%s", n.id, err, n.logEnd())
		}
	}()
	return ready
}

// take makes a broker's process the caller's to end; nil: there is none.
func (n *node) take() (*exec.Cmd, <-chan struct{}) {
	n.mu.Lock()
	defer n.mu.Unlock()
	cmd := n.cmd
	n.cmd = nil
	return cmd, n.ended
}

// kill is kill -9.
func (c *cluster) kill(n *node) {
	if cmd, ended := n.take(); cmd != nil {
		_ = cmd.Process.Kill()
		<-ended
	}
}

// terminate ends a broker in order, and says how long that took.
func (c *cluster) terminate(n *node) (time.Duration, error) {
	cmd, ended := n.take()
	if cmd == nil {
		return 0, nil
	}
	began := time.Now()
	_ = cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-ended:
		return time.Since(began), nil
	case <-time.After(inOrder):
		_ = cmd.Process.Signal(syscall.SIGQUIT) // for its goroutines
		<-ended
		return time.Since(began), fmt.Errorf("broker %d did not end within %v of SIGTERM; its log ends with\n%s", n.id, inOrder, n.logEnd())
	}
}

func (n *node) signal(s syscall.Signal) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.cmd != nil {
		_ = n.cmd.Process.Signal(s)
	}
}

func (n *node) signalStop()     { n.signal(syscall.SIGSTOP) }
func (n *node) signalContinue() { n.signal(syscall.SIGCONT) }

func (n *node) runs() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.cmd != nil
}

// loseDisk removes what a broker that does not run has, and has its next start say so.
func (n *node) loseDisk() error {
	text, err := os.ReadFile(filepath.Join(n.dir, "meta.json"))
	if err != nil {
		return err
	}
	var meta struct {
		Content struct {
			Incarnation uint64 `json:"incarnation"`
		} `json:"content"`
	}
	if err := json.Unmarshal(text, &meta); err != nil {
		return err
	}
	clear(n.flipped)
	n.mu.Lock()
	n.lost = fmt.Sprintf("%016x", meta.Content.Incarnation)
	n.mu.Unlock()
	return os.RemoveAll(n.dir)
}

// refuseCopy starts a broker on an older copy of its data, which is to end by itself, and say why.
func (c *cluster) refuseCopy(n *node) {
	n.mu.Lock()
	n.aged = true
	n.mu.Unlock()
	c.start(n)
	n.mu.Lock()
	ended := n.ended
	n.mu.Unlock()
	select {
	case <-ended:
		if end := n.logEnd(); !strings.Contains(end, "older copy") {
			c.rep.violation("broker %d was started on an older copy of its data, and has ended for another reason:\n%s", n.id, end)
		}
	case <-time.After(recovery):
		c.rep.violation("broker %d works on an older copy of its data", n.id)
	}
	c.kill(n)
	n.mu.Lock()
	n.aged = false
	n.mu.Unlock()
}

func (n *node) logEnd() string {
	text, err := os.ReadFile(n.log)
	if err != nil {
		return err.Error()
	}
	return string(text[max(0, len(text)-2000):])
}

// used is what a broker takes of its machine.
type used struct {
	goroutines, files, resident, heap int64 // bytes
}

func (u used) String() string {
	return fmt.Sprintf("%d goroutines, %d files, %d MiB, %d MiB of them heap", u.goroutines, u.files, u.resident>>20, u.heap>>20)
}

// usage asks all brokers, from the first one on.
func (c *cluster) usage() (out []used) {
	for _, n := range c.nodes {
		u, err := c.usageOf(n)
		if err != nil {
			c.rep.violation("broker %d gives no metrics: %v", n.id, err)
		}
		out = append(out, u)
	}
	return out
}

func (c *cluster) usageOf(n *node) (u used, err error) {
	profile, err := c.get(n, "/debug/pprof/heap?gc=1") // what is left when the garbage is gone
	if err == nil && *keep != "" {
		err = os.WriteFile(filepath.Join(*keep, fmt.Sprintf("heap-%d.pb.gz", n.id)), profile, 0o600)
	}
	if err != nil {
		return u, err
	}
	text, err := c.get(n, "/metrics")
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		to := map[string]*int64{"go_goroutines": &u.goroutines, "process_open_fds": &u.files, "process_resident_memory_bytes": &u.resident, "go_memstats_heap_inuse_bytes": &u.heap}[name]
		if to == nil {
			continue
		}
		f, err := strconv.ParseFloat(value, 64)
		if err != nil {
			return u, err
		}
		*to = int64(f)
	}
	if err == nil && u.goroutines == 0 {
		err = fmt.Errorf("no go_goroutines in %.500s", text)
	}
	return u, err
}

// get asks a broker's admin listener.
func (c *cluster) get(n *node, path string) ([]byte, error) {
	cl := http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := cl.Get(fmt.Sprintf("http://%s:%d%s", c.net.ip(n.id), adminPort, path))
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	return io.ReadAll(resp.Body)
}

// checkUsage looks for goroutines that the load has left behind, and says what the brokers take.
func (c *cluster) checkUsage(before []used) {
	deadline := time.Now().Add(comeDown)
	for i, n := range c.nodes {
		u, err := c.usageOf(n)
		for (err != nil || u.goroutines > before[i].goroutines+leftOver) && time.Now().Before(deadline) {
			pause(context.Background(), 100*time.Millisecond)
			u, err = c.usageOf(n)
		}
		if err != nil {
			c.rep.violation("broker %d gives no metrics: %v", n.id, err)
		} else if u.goroutines > before[i].goroutines+leftOver {
			profile, _ := c.get(n, "/debug/pprof/goroutine?debug=1")
			c.rep.violation("broker %d had %v, and has %v:\n%.8000s", n.id, before[i], u, profile)
		}
		c.rep.say("broker %d: before the load %v, after it %v", n.id, before[i], u)
	}
}

// checkLog looks for what no broker may write, and says what it has warned of.
func (n *node) checkLog(rep *report) {
	text, err := os.ReadFile(n.log)
	if err != nil {
		rep.violation("%v", err)
		return
	}
	for _, bad := range []string{"panic: ", "fatal error: ", "DATA RACE"} {
		if at := bytes.Index(text, []byte(bad)); at >= 0 {
			rep.violation("broker %d: %.2000s", n.id, text[at:])
		}
	}
	times := make(map[string]int)
	for _, m := range warned.FindAllSubmatch(text, -1) {
		times[string(m[1])]++
	}
	for _, what := range slices.Sorted(maps.Keys(times)) {
		rep.say("broker %d, %d times: %s", n.id, times[what], what)
	}
}

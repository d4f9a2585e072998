//go:build linux

// The brokers: processes that are started, killed, stopped for a while and ended in order, each by the id that it was started with.

package campaign_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
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
)

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
	for _, id := range ids {
		ip := c.net.ip(id)
		c.nodes = append(c.nodes, &node{id: id, dir: filepath.Join(root, fmt.Sprintf("node-%d", id)), log: filepath.Join(root, fmt.Sprintf("broker-%d.log", id)), args: []string{
			"netns", "exec", c.net.namespaces[id], binary, "start", "--config", "none", "--data-dir", filepath.Join(root, fmt.Sprintf("node-%d", id)), "--node-id", fmt.Sprint(id),
			"--kafka-listen", ip + ":9092", "--rpc-listen", ip + ":9192", "--admin-listen", "none", "--segment-bytes", fmt.Sprint(segmentBytes), "--leader-balance-interval", "20s"}})
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

// checkLog looks for what no broker may write.
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
}

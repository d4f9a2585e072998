// The processes of a system: started, watched by what they print, killed and stopped by their ids. None outlives the run: they are stopped when a
// turn ends, however it ends, and where the kernel can it kills them when this process dies.

package bench

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	stopLimit = 30 * time.Second
	// maxLine bounds how much of a line of a process's output is looked at.
	maxLine = 64 << 10
)

// program is what is run as a node.
type program struct {
	path string
	args []string
	log  string   // file that its output is appended to
	seen []string // texts: the moments are noted when it first prints them
}

// process is a program that was started.
type process struct {
	cmd   *exec.Cmd
	log   string
	began time.Time
	ended chan struct{} // closed once it has; err says how
	err   error

	mu   sync.Mutex // guards at
	at   map[string]time.Time
	seen []string
}

// starter runs functions on one thread that never ends: the kernel kills a child when the thread that started it does.
var starter = sync.OnceValue(func() chan<- func() {
	work := make(chan func())
	go func() {
		runtime.LockOSThread()
		for fn := range work {
			fn()
		}
	}()
	return work
})

func (p program) start() (*process, error) {
	if err := os.MkdirAll(filepath.Dir(p.log), 0o755); err != nil {
		return nil, err
	}
	log, err := os.OpenFile(p.log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, err
	}
	out, in, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(err, log.Close())
	}
	cmd := exec.Command(p.path, p.args...)
	cmd.Stdout, cmd.Stderr, cmd.SysProcAttr = in, in, procAttr()
	// What is set for this process is not meant for the brokers.
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "BALSA_") {
			cmd.Env = append(cmd.Env, kv)
		}
	}
	x := &process{cmd: cmd, log: p.log, began: time.Now(), ended: make(chan struct{}), at: make(map[string]time.Time), seen: p.seen}
	started := make(chan error)
	starter() <- func() { started <- cmd.Start() }
	err = <-started
	_ = in.Close() // the child has its own
	if err != nil {
		return nil, errors.Join(err, out.Close(), log.Close())
	}
	go func() {
		x.read(out, log)
		x.err = cmd.Wait()
		close(x.ended)
	}()
	return x, nil
}

// read takes what it prints, until it has ended.
func (x *process) read(out, log *os.File) {
	defer out.Close()
	defer log.Close()
	r := bufio.NewReaderSize(out, maxLine)
	for {
		line, err := r.ReadSlice('\n') // of a longer one the rest comes as lines of its own
		if len(line) > 0 {
			now := time.Now()
			_, _ = log.Write(line) // a log that cannot be written must not block the process
			x.mu.Lock()
			for _, s := range x.seen {
				if _, ok := x.at[s]; !ok && strings.Contains(string(line), s) {
					x.at[s] = now
				}
			}
			x.mu.Unlock()
		}
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return
		}
	}
}

// printed says when it first printed one of its texts.
func (x *process) printed(text string) (time.Time, bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	at, ok := x.at[text]
	return at, ok
}

func (x *process) running() bool {
	select {
	case <-x.ended:
		return false
	default:
		return true
	}
}

// nodes are the processes of a cluster; systems embed it. It is not for several goroutines but for Pids.
type nodes struct {
	stopSignal os.Signal // that a program ends in order at
	stopped    []int     // exit codes that it ends with then

	mu    sync.Mutex // guards procs
	procs []*process // nil: does not run
	last  []*process // the one before, which may still be dying
}

// run starts a node; the one before has ended when it does.
func (n *nodes) run(node int, p program) error {
	n.mu.Lock()
	for len(n.procs) <= node {
		n.procs, n.last = append(n.procs, nil), append(n.last, nil)
	}
	last := n.last[node]
	n.mu.Unlock()
	if last != nil {
		<-last.ended
	}
	x, err := p.start()
	if err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.procs[node], n.last[node] = x, x
	return nil
}

// node is the process of a node that should run; nil if it should not. One that has ended by itself is an error.
func (n *nodes) node(i int) (*process, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if i >= len(n.procs) || n.procs[i] == nil {
		return nil, nil
	}
	if x := n.procs[i]; !x.running() {
		return nil, fmt.Errorf("%w: node %d (%v): %s", errEnded, i+1, x.cmd.ProcessState, lastWords(x.log))
	}
	return n.procs[i], nil
}

// Pids implements Cluster.
func (n *nodes) Pids() []int {
	n.mu.Lock()
	defer n.mu.Unlock()
	pids := make([]int, len(n.procs))
	for i, x := range n.procs {
		if x != nil {
			pids[i] = x.cmd.Process.Pid
		}
	}
	return pids
}

// Kill implements Cluster.
func (n *nodes) Kill(node int) error {
	n.mu.Lock()
	x := n.procs[node]
	n.procs[node] = nil
	n.mu.Unlock()
	if x == nil {
		return fmt.Errorf("node %d does not run", node+1)
	}
	return x.cmd.Process.Signal(syscall.SIGKILL)
}

// Stop implements Cluster.
func (n *nodes) Stop() error {
	n.mu.Lock()
	procs, last := n.procs, slices.Clone(n.last)
	n.procs = make([]*process, len(procs))
	n.mu.Unlock()
	errs := make([]error, len(procs))
	var wg sync.WaitGroup
	for i, x := range procs {
		if x == nil {
			continue
		}
		_ = x.cmd.Process.Signal(n.stopSignal) // it may have ended by itself
		wg.Go(func() { errs[i] = n.stopOne(i, x) })
	}
	wg.Wait()
	for _, x := range last { // those that were killed are gone when it returns, too
		if x != nil {
			<-x.ended
		}
	}
	return errors.Join(errs...)
}

// stopOne waits for a process that was asked to end, and insists after a while.
func (n *nodes) stopOne(node int, x *process) error {
	t := time.NewTimer(stopLimit)
	defer t.Stop()
	select {
	case <-t.C:
		_ = x.cmd.Process.Signal(syscall.SIGKILL)
		<-x.ended
		return fmt.Errorf("node %d (process %d) did not stop within %v and was killed", node+1, x.cmd.Process.Pid, stopLimit)
	case <-x.ended:
	}
	if x.err == nil {
		return nil
	}
	if exit, ok := errors.AsType[*exec.ExitError](x.err); ok {
		for _, code := range n.stopped {
			if exit.ExitCode() == code {
				return nil
			}
		}
		if !exit.Exited() && exit.Sys().(syscall.WaitStatus).Signal() == n.stopSignal {
			return nil // it had not come as far as to handle the signal
		}
	}
	return fmt.Errorf("node %d: %w: %s", node+1, x.err, lastWords(x.log))
}

// faults are words by which logs mark what matters: Kafka goes on for a hundred lines after it has said why it stops.
var faults = []string{" FATAL ", " ERROR ", "[FTL]", "[ERR]", "panic:", "level=ERROR"}

// lastWords is the last line of a log that tells of a fault, and else its last line.
func lastWords(file string) string {
	const most = 128 << 10
	f, err := os.Open(file)
	if err != nil {
		return err.Error()
	}
	defer f.Close() // only read
	if info, err := f.Stat(); err == nil && info.Size() > most {
		_, _ = f.Seek(-most, io.SeekEnd) // the beginning does as well
	}
	b, _ := io.ReadAll(io.LimitReader(f, most)) // what there is
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	for _, l := range slices.Backward(lines) {
		if slices.ContainsFunc(faults, func(word string) bool { return strings.Contains(l, word) }) {
			return l
		}
	}
	return lines[len(lines)-1]
}

// keepPorts are free ports outside of the range from which systems take the local ports of connections: what is started again finds
// them free.
func keepPorts(n int) ([]int, error) {
	const first, last, tries = 20_000, 31_999, 1000
	var ports []int
	for range tries {
		p := first + rand.IntN(last-first+1)
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", p))
		if err != nil {
			continue
		}
		defer l.Close()
		if ports = append(ports, p); len(ports) == n {
			return ports, nil
		}
	}
	return nil, fmt.Errorf("fewer than %d free ports from %d to %d", n, first, last)
}

// Balsa in M2: three `broker start` in processes of their own. Not `broker dev`, which would ask them all the while whether they
// are ready.

package bench

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

const manyNodes = 3

// BalsaHerd runs `<Binary> start` three times.
type BalsaHerd struct {
	Binary string
	Args   []string // more flags for each broker

	ports []int // Kafka's, then those between brokers
	nodes [manyNodes]balsaNode
}

type balsaNode struct {
	cmd   *exec.Cmd // nil: does not run
	log   string
	ready atomic.Bool
	ended atomic.Bool // by itself
	cl    *kgo.Client // asks this one only
}

// Name implements Herd.
func (b *BalsaHerd) Name() string { return "balsa" }

// Start implements Herd.
func (b *BalsaHerd) Start(_ context.Context, dir string) (err error) {
	again := b.ports != nil
	if !again {
		if b.ports, err = keepPorts(2 * manyNodes); err != nil {
			return err
		}
	}
	addr := func(i int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(b.ports[i])) }
	for i := range b.nodes {
		data := filepath.Join(dir, fmt.Sprintf("n%d", i+1))
		if err := os.MkdirAll(data, 0o755); err != nil {
			return err
		}
		args := []string{"start", "--config", os.DevNull, "--data-dir", data, "--node-id", strconv.Itoa(i + 1), "--cluster-id", "bench",
			"--kafka-listen", addr(i), "--rpc-listen", addr(manyNodes + i), "--admin-listen", "none"}
		args = append(args, b.Args...)
		if i > 0 || again { // the first one founds the cluster
			var others []string
			for j := range b.nodes {
				if j != i {
					others = append(others, addr(manyNodes+j))
				}
			}
			args = append(args, "--join", strings.Join(others, ","))
		}
		if err := b.nodes[i].start(b.Binary, args, filepath.Join(dir, fmt.Sprintf("n%d.log", i+1))); err != nil {
			return err
		}
		if b.nodes[i].cl, err = kgo.NewClient(kgo.SeedBrokers(addr(i)), kgo.DisableClientMetrics()); err != nil {
			return err
		}
	}
	return nil
}

func (n *balsaNode) start(binary string, args []string, logFile string) error {
	f, err := os.OpenFile(logFile, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	defer f.Close() // the child has its own
	cmd := exec.Command(binary, args...)
	cmd.Stderr = f
	// What is set for this process is not meant for the brokers.
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "BALSA_") {
			cmd.Env = append(cmd.Env, kv)
		}
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	n.cmd, n.log = cmd, logFile
	n.ready.Store(false)
	n.ended.Store(false)
	go func() {
		for sc := bufio.NewScanner(out); sc.Scan(); {
			if strings.HasPrefix(sc.Text(), "ready: ") {
				n.ready.Store(true)
				break
			}
		}
		_, _ = io.Copy(io.Discard, out)
		n.ended.Store(true)
	}()
	return nil
}

// Create implements Herd.
func (b *BalsaHerd) Create(ctx context.Context, n int, made func(int)) error {
	adm := kadm.NewClient(b.nodes[0].cl)
	_, err := adm.CreateTopic(ctx, int32(n), manyNodes, nil, benchTopic)
	if err != nil && !errors.Is(err, kerr.RequestTimedOut) { // the topic is there then, and its leaders on their way
		return err
	}
	made(n)
	return nil
}

// Leaders implements Herd: a broker names itself as soon as it serves.
func (b *BalsaHerd) Leaders(ctx context.Context, n int) ([]int, error) {
	leaders := make([]int, n)
	for i := range leaders {
		leaders[i] = -1
	}
	ctx, cancel := context.WithTimeout(ctx, askAgain)
	defer cancel()
	var mu sync.Mutex
	var wg sync.WaitGroup
	errs := make([]error, len(b.nodes))
	for i := range b.nodes {
		node := &b.nodes[i]
		switch {
		case node.cmd == nil:
			continue
		case node.ended.Load():
			return nil, fmt.Errorf("%w: node %d: %s", errEnded, i+1, lastLine(node.log))
		case !node.ready.Load():
			errs[i] = fmt.Errorf("node %d is not ready", i+1)
			continue
		case n == 0:
			continue
		}
		wg.Go(func() {
			req := kmsg.NewPtrMetadataRequest()
			topic := kmsg.NewMetadataRequestTopic()
			topic.Topic = kmsg.StringPtr(benchTopic)
			req.Topics = append(req.Topics, topic)
			resp, err := req.RequestWith(ctx, node.cl.SeedBrokers()[0])
			if err != nil {
				errs[i] = fmt.Errorf("ask node %d: %w", i+1, err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			for _, t := range resp.Topics {
				for _, p := range t.Partitions {
					if int(p.Leader) == i+1 && int(p.Partition) < n {
						leaders[p.Partition] = i
					}
				}
			}
		})
	}
	wg.Wait()
	return leaders, errors.Join(errs...)
}

// lastLine is the end of a log.
func lastLine(file string) string {
	const most = 4096
	f, err := os.Open(file)
	if err != nil {
		return err.Error()
	}
	defer f.Close() // only read
	if info, err := f.Stat(); err == nil && info.Size() > most {
		_, _ = f.Seek(-most, io.SeekEnd) // the beginning does as well
	}
	b, _ := io.ReadAll(io.LimitReader(f, most)) // what there is
	text := strings.TrimSpace(string(b))
	return text[strings.LastIndexByte(text, '\n')+1:]
}

// Pids implements Herd.
func (b *BalsaHerd) Pids() []int {
	var pids []int
	for i := range b.nodes {
		pids = append(pids, pidOf(b.nodes[i].cmd))
	}
	return pids
}

func pidOf(cmd *exec.Cmd) int {
	if cmd == nil {
		return 0
	}
	return cmd.Process.Pid
}

// Kill implements Herd.
func (b *BalsaHerd) Kill(node int) error { return killProcess(&b.nodes[node].cmd) }

func killProcess(cmd **exec.Cmd) error {
	c := *cmd
	*cmd = nil
	if err := c.Process.Signal(syscall.SIGKILL); err != nil {
		return err
	}
	go func() { _ = c.Wait() }() // it died of the signal that we sent
	return nil
}

// Stop implements Herd.
func (b *BalsaHerd) Stop() error {
	var cmds []*exec.Cmd
	for i := range b.nodes {
		n := &b.nodes[i]
		if n.cmd != nil {
			cmds = append(cmds, n.cmd)
			n.cmd = nil
		}
		if n.cl != nil {
			n.cl.Close()
			n.cl = nil
		}
	}
	return stopAll(cmds, 0)
}

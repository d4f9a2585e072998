// Balsa as a system under test: `broker start` in processes of its own. Not `broker dev`, which would ask them all the while whether
// they are ready.

package bench

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/twmb/franz-go/pkg/kerr"
)

// Balsa runs `<Binary> start` for each node.
type Balsa struct {
	Binary string   // the broker's executable
	Args   []string // more flags for each broker

	kafkaNodes
	ports []int // Kafka's, then those between brokers, then for administration
	dir   string
}

// NewBalsa is a cluster that is yet to be started.
func NewBalsa(binary string, client Client, args ...string) *Balsa {
	return &Balsa{Binary: binary, Args: args, kafkaNodes: kafkaNodes{client: client, nodes: nodes{stopSignal: os.Interrupt}}}
}

// Name implements Cluster.
func (b *Balsa) Name() string { return OurName }

// OurName is Balsa's in results.
const OurName = "balsa"

// Mode implements System.
func (b *Balsa) Mode() string { return "" }

const balsaReady = "ready: "

// balsaOpen is in the line of its log that says that all logs are open, as far as it knows.
const balsaOpen = `msg="logs are open"`

// Start implements Cluster.
func (b *Balsa) Start(ctx context.Context, dir string, c Cell) (err error) {
	n := c.Nodes()
	again := b.ports != nil
	if !again {
		if b.ports, err = keepPorts(3 * n); err != nil {
			return err
		}
		for i := range n {
			b.addrs = append(b.addrs, loopback(b.ports[i]))
		}
	}
	b.cell, b.dir = c, dir
	for i := range n {
		if err := b.start(i, again); err != nil {
			return err
		}
	}
	return b.connect()
}

// StartNode implements System.
func (b *Balsa) StartNode(_ context.Context, node int) error { return b.start(node, true) }

func (b *Balsa) start(i int, again bool) error {
	n := b.cell.Nodes()
	data := filepath.Join(b.dir, fmt.Sprintf("n%d", i+1))
	if err := os.MkdirAll(data, 0o755); err != nil {
		return err
	}
	admin := "none"
	if b.cell.Scenario == "R1" { // which asks whether logs are open
		admin = loopback(b.ports[2*n+i])
	}
	args := []string{"start", "--config", os.DevNull, "--data-dir", data, "--node-id", strconv.Itoa(i + 1), "--cluster-id", "bench",
		"--kafka-listen", b.addrs[i], "--rpc-listen", loopback(b.ports[n+i]), "--admin-listen", admin}
	args = append(args, b.Args...)
	if i > 0 || again { // the first one founds the cluster
		var others []string
		for j := range n {
			if j != i {
				others = append(others, loopback(b.ports[n+j]))
			}
		}
		args = append(args, "--join", strings.Join(others, ","))
	}
	return b.run(i, program{path: b.Binary, args: args, log: filepath.Join(b.dir, fmt.Sprintf("n%d.log", i+1)), seen: []string{balsaReady, balsaOpen}})
}

// Create implements Cluster. Class A asks for what its peers have by default.
func (b *Balsa) Create(ctx context.Context, c Cell, made func(int)) error {
	var configs map[string]*string
	if c.Class == ClassA {
		relaxed := "relaxed"
		configs = map[string]*string{"balsa.durability": &relaxed}
	}
	err := b.create(ctx, c, configs, made)
	if c.Class == ClassA && errors.Is(err, kerr.InvalidConfig) {
		return fmt.Errorf("%w: class A needs balsa.durability=relaxed, which this broker does not have: %w", ErrNotOffered, err)
	}
	return err
}

// Leaders implements Cluster.
func (b *Balsa) Leaders(ctx context.Context, n int) ([]int, error) {
	for i := range b.addrs {
		x, err := b.node(i)
		if err != nil {
			return nil, err
		}
		if x == nil {
			continue
		}
		if _, ready := x.printed(balsaReady); !ready {
			return nil, fmt.Errorf("node %d is not ready", i+1)
		}
	}
	if n == 0 {
		return nil, nil
	}
	return b.kafkaNodes.Leaders(ctx, n)
}

// maxMetricsLine bounds a line of /metrics.
const maxMetricsLine = 64 << 10

// Opened implements System. A broker says it, and then is asked how many there are: to ask all the while would cost it time.
func (b *Balsa) Opened(ctx context.Context, node int) (bool, string, error) {
	const by = "balsa_log_replicas"
	x, err := b.node(node)
	if err != nil || x == nil {
		return false, by, err
	}
	_, open := x.printed(balsaOpen)
	if _, ready := x.printed(balsaReady); !open && !ready {
		return false, by, nil
	}
	ctx, cancel := context.WithTimeout(ctx, askAgain)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+loopback(b.ports[2*b.cell.Nodes()+node])+"/metrics", nil)
	if err != nil {
		return false, by, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return false, by, nil // it does not serve yet
	}
	defer resp.Body.Close()
	sc := bufio.NewScanner(resp.Body)
	sc.Buffer(nil, maxMetricsLine)
	for sc.Scan() {
		if v, ok := strings.CutPrefix(sc.Text(), by+" "); ok {
			open, err := strconv.ParseFloat(v, 64)
			return err == nil && int(open) >= b.cell.Partitions*b.cell.Replicas/b.cell.Nodes(), by, nil
		}
	}
	return false, by, nil
}

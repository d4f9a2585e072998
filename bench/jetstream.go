// NATS JetStream as a peer: nats-servers in processes of their own, one replicated stream for each partition. jetstream_client.go loads it.

package bench

import (
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"text/template"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"
)

// natsServerVersion is what is measured against, fetched as a Go module.
const (
	natsServerModule  = "github.com/nats-io/nats-server/v2"
	natsServerVersion = "v2.15.2"
)

//go:embed peers/nats-node.conf
var natsConf string

const (
	createAtOnce = 16 // streams
	readAtOnce   = 16 // likewise: a consumer of each is made and removed, which is most of the time where they are many
	// maxMonitorBody bounds what is read of one answer of the monitoring port: some 2 KB a stream.
	maxMonitorBody = 256 << 20
	// natsStopped is what nats-server ends with on SIGINT.
	natsStopped = 1
)

// BuildNATSServer builds the pinned nats-server into dir, if it is not there yet, and returns its path.
func BuildNATSServer(ctx context.Context, dir string) (string, error) {
	dir = filepath.Join(dir, "nats-server-"+natsServerVersion)
	path := filepath.Join(dir, "nats-server")
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	cmd := exec.CommandContext(ctx, "go", "install", natsServerModule+"@"+natsServerVersion)
	cmd.Env = append(os.Environ(), "GOBIN="+dir)
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go install %s@%s: %w\n%s", natsServerModule, natsServerVersion, err, out)
	}
	return path, nil
}

// JetStreamPeer is how a report names it.
func JetStreamPeer() Peer {
	return Peer{Name: "jetstream", Version: natsServerVersion, Source: "Go module proxy: " + natsServerModule, Configs: map[string]string{"nats-node.conf": natsConf}}
}

// JetStream is a cluster.
type JetStream struct {
	Server     string // path of nats-server
	ClientMode string

	nodes
	cell  Cell
	ports []int // clients', routes', monitoring
	urls  []string
	dir   string

	mu    sync.Mutex // guards admin
	admin *nats.Conn // made when it is first used
}

// NewJetStream is a cluster that is yet to be started, loaded in a client mode.
func NewJetStream(server, mode string) *JetStream {
	return &JetStream{Server: server, ClientMode: mode, nodes: nodes{stopSignal: os.Interrupt, stopped: []int{natsStopped}}}
}

// Name implements Cluster.
func (j *JetStream) Name() string { return "jetstream" }

// Mode implements System.
func (j *JetStream) Mode() string { return j.ClientMode }

func subject(partition int) string { return fmt.Sprintf("bench.%d", partition) }
func stream(partition int) string  { return fmt.Sprintf("BENCH%d", partition) }
func natsName(node int) string     { return fmt.Sprintf("n%d", node+1) }

// natsNode is what the configuration's template is filled with.
type natsNode struct {
	Name                            string
	ClientPort, RoutePort, HTTPPort int
	StoreDir                        string
	SyncAlways                      bool
	Routes                          []int
}

// Start implements Cluster.
func (j *JetStream) Start(ctx context.Context, dir string, c Cell) (err error) {
	n := c.Nodes()
	j.cell, j.dir = c, dir
	if j.ports == nil {
		if j.ports, err = keepPorts(3 * n); err != nil {
			return err
		}
		for i := range n {
			j.urls = append(j.urls, "nats://"+loopback(j.ports[i]))
			if err := j.configure(i); err != nil {
				return err
			}
		}
	}
	for i := range n {
		if err := j.StartNode(ctx, i); err != nil {
			return err
		}
	}
	return nil
}

func (j *JetStream) config(node int) string {
	return filepath.Join(j.dir, natsName(node), "nats.conf")
}

// configure writes a node's configuration into its directory, where its data will be too.
func (j *JetStream) configure(node int) error {
	tmpl, err := template.New("nats-node.conf").Parse(natsConf)
	if err != nil {
		return err
	}
	path := j.config(node)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	n := j.cell.Nodes()
	return errors.Join(tmpl.Execute(f, natsNode{Name: natsName(node), ClientPort: j.ports[node], RoutePort: j.ports[n+node], HTTPPort: j.ports[2*n+node],
		StoreDir: filepath.Join(filepath.Dir(path), "js"), SyncAlways: j.cell.Class == ClassB, Routes: j.ports[n : 2*n]}), f.Close())
}

// StartNode implements System.
func (j *JetStream) StartNode(_ context.Context, node int) error {
	return j.run(node, program{path: j.Server, args: []string{"-c", j.config(node)}, log: filepath.Join(j.dir, natsName(node), "log")})
}

// context is JetStream's API over a connection that is kept.
func (j *JetStream) context() (*nats.Conn, jetstream.JetStream, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.admin == nil {
		nc, err := j.dial("bench admin")
		if err != nil {
			return nil, nil, err
		}
		j.admin = nc
	}
	js, err := jetstream.New(j.admin)
	return j.admin, js, err
}

// Disconnect implements System.
func (j *JetStream) Disconnect() {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.admin != nil {
		j.admin.Close()
		j.admin = nil
	}
}

// Create implements Cluster. Leaders are spread over the nodes by turns.
func (j *JetStream) Create(ctx context.Context, c Cell, made func(int)) error {
	if c.Scenario == manyScenario { // it is weighed at rest
		defer j.Disconnect()
	}
	var nc *nats.Conn
	var js jetstream.JetStream
	if err := retry(ctx, func() (err error) {
		if err := j.allRun(); err != nil {
			return err
		}
		nc, js, err = j.context()
		return err
	}); err != nil {
		return err
	}
	var count atomic.Int64
	var mu sync.Mutex // made is told one number after the other
	g, group := errgroup.WithContext(ctx)
	g.SetLimit(createAtOnce)
	for p := range c.Partitions {
		if group.Err() != nil {
			break
		}
		g.Go(func() error {
			if err := retry(group, func() error {
				if err := j.allRun(); err != nil {
					return err
				}
				// A request that comes before the cluster has a leader may never be answered: ask again.
				ctx, cancel := context.WithTimeout(group, askAgain)
				defer cancel()
				_, err := js.CreateOrUpdateStream(ctx, jetstream.StreamConfig{Name: stream(p), Subjects: []string{subject(p)}, Replicas: c.Replicas,
					Storage: jetstream.FileStorage, AllowAtomicPublish: true, AllowBatchPublish: true})
				return err
			}); err != nil {
				return fmt.Errorf("create %s: %w", stream(p), err)
			}
			if c.Scenario != manyScenario { // there they stay where the server has put them
				if err := j.lead(group, nc, js, p, c.Nodes()); err != nil {
					return err
				}
			}
			mu.Lock()
			defer mu.Unlock()
			made(int(count.Add(1)))
			return nil
		})
	}
	return errors.Join(g.Wait(), ctx.Err())
}

func (j *JetStream) allRun() error {
	for i := range j.urls {
		if _, err := j.node(i); err != nil {
			return err
		}
	}
	return nil
}

// lead moves a stream's leadership to the node whose turn it is, so that leaders are spread evenly.
func (j *JetStream) lead(ctx context.Context, nc *nats.Conn, js jetstream.JetStream, p, nodes int) error {
	return retry(ctx, func() error {
		ctx, cancel := context.WithTimeout(ctx, askAgain)
		defer cancel()
		s, err := js.Stream(ctx, stream(p))
		if err != nil {
			return err
		}
		info := s.CachedInfo()
		if info.Cluster == nil {
			return nil // one replica only: it is where it is
		}
		want := natsName(p % nodes)
		if info.Cluster.Leader == want || len(info.Cluster.Replicas) == 0 {
			return nil
		}
		holds := false
		for _, r := range info.Cluster.Replicas {
			holds = holds || r.Name == want
		}
		if !holds {
			return nil // it has no replica there
		}
		body, err := json.Marshal(map[string]any{"placement": map[string]string{"preferred": want}})
		if err != nil {
			return err
		}
		if _, err := nc.RequestWithContext(ctx, "$JS.API.STREAM.LEADER.STEPDOWN."+stream(p), body); err != nil {
			return err
		}
		return fmt.Errorf("%s is not led by %s yet", stream(p), want)
	})
}

// jsz is the part of the monitoring port's answer that is looked at.
type jsz struct {
	Meta *struct {
		Leader string `json:"leader"`
		Size   int    `json:"cluster_size"`
	} `json:"meta_cluster"`
	Accounts []struct {
		Streams []struct {
			Name    string `json:"name"`
			Cluster *struct {
				Leader   string `json:"leader"`
				Replicas []struct {
					Name    string `json:"name"`
					Current bool   `json:"current"`
					Offline bool   `json:"offline"`
					Lag     uint64 `json:"lag"`
				} `json:"replicas"`
			} `json:"cluster"`
		} `json:"stream_detail"`
	} `json:"account_details"`
}

// ask asks every node that runs.
func (j *JetStream) ask(ctx context.Context, streams bool, each func(node int, v *jsz)) error {
	ctx, cancel := context.WithTimeout(ctx, 4*askAgain)
	defer cancel()
	var mu sync.Mutex
	var wg sync.WaitGroup
	errs := make([]error, len(j.urls))
	for i := range j.urls {
		x, err := j.node(i)
		if err != nil {
			return err
		}
		if x == nil {
			continue
		}
		wg.Go(func() {
			v, err := j.monitor(ctx, i, streams)
			if err != nil {
				errs[i] = fmt.Errorf("ask node %d: %w", i+1, err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			each(i, v)
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// Leaders implements Cluster: a server names itself for the streams that it leads.
func (j *JetStream) Leaders(ctx context.Context, n int) ([]int, error) {
	leaders := make([]int, n)
	for i := range leaders {
		leaders[i] = -1
	}
	err := j.ask(ctx, n > 0, func(node int, v *jsz) { v.leads(natsName(node), node, leaders) })
	return leaders, err
}

// leads notes which partitions the server of that name says that it leads.
func (v *jsz) leads(name string, node int, leaders []int) {
	for _, a := range v.Accounts {
		for _, s := range a.Streams {
			p, err := strconv.Atoi(strings.TrimPrefix(s.Name, "BENCH"))
			if err == nil && p >= 0 && p < len(leaders) && s.Cluster != nil && s.Cluster.Leader == name {
				leaders[p] = node
			}
		}
	}
}

// behind counts the streams led by the server of that name whose replica on another it says to be behind.
func (v *jsz) behind(name, other string) (n int) {
	for _, a := range v.Accounts {
		for _, s := range a.Streams {
			if s.Cluster == nil || s.Cluster.Leader != name {
				continue
			}
			for _, r := range s.Cluster.Replicas {
				if r.Name == other && (!r.Current || r.Offline) {
					n++
				}
			}
		}
	}
	return n
}

// InSync implements System: each stream's leader says that its replica on the node is current.
func (j *JetStream) InSync(ctx context.Context, node int) (bool, error) {
	leaders := make([]int, j.cell.Partitions)
	for i := range leaders {
		leaders[i] = -1
	}
	behind := 0
	if err := j.ask(ctx, true, func(i int, v *jsz) {
		v.leads(natsName(i), i, leaders)
		behind += v.behind(natsName(i), natsName(node))
	}); err != nil {
		return false, err
	}
	for _, l := range leaders {
		if l < 0 {
			return false, nil
		}
	}
	return behind == 0, nil
}

func (j *JetStream) get(ctx context.Context, node int, path string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+loopback(j.ports[2*j.cell.Nodes()+node])+path, nil)
	if err != nil {
		return nil, err
	}
	return http.DefaultClient.Do(req)
}

func (j *JetStream) monitor(ctx context.Context, node int, streams bool) (*jsz, error) {
	path := "/jsz"
	if streams {
		path += "?streams=true"
	}
	resp, err := j.get(ctx, node, path)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s", path, resp.Status)
	}
	v := new(jsz)
	if err := json.NewDecoder(http.MaxBytesReader(nil, resp.Body, maxMonitorBody)).Decode(v); err != nil {
		return nil, err
	}
	if !streams && (v.Meta == nil || v.Meta.Leader == "" || v.Meta.Size < j.cell.Nodes()) {
		return nil, errors.New("the cluster has no meta leader, or lacks a node")
	}
	return v, nil
}

// Opened implements System: a server is healthy once its streams are recovered and current.
func (j *JetStream) Opened(ctx context.Context, node int) (bool, string, error) {
	const by = "/healthz"
	if _, err := j.node(node); err != nil {
		return false, by, err
	}
	ctx, cancel := context.WithTimeout(ctx, askAgain)
	defer cancel()
	resp, err := j.get(ctx, node, by)
	if err != nil {
		return false, by, nil // it does not serve yet
	}
	defer resp.Body.Close()
	return resp.StatusCode == http.StatusOK, by, nil
}

// dial connects to the cluster, and again for ever.
func (j *JetStream) dial(name string, first ...string) (*nats.Conn, error) {
	opts := []nats.Option{nats.SetCustomDialer(natsDialer{}), nats.Name(name), nats.MaxReconnects(-1), nats.ReconnectWait(pollLeast), nats.ReconnectJitter(0, 0),
		nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {})} // the default prints; what fails is seen by what was asked for
	if len(first) > 0 { // it keeps the order then
		opts = append(opts, nats.DontRandomize())
	}
	return nats.Connect(strings.Join(append(first, j.urls...), ","), opts...)
}

const natsTimeout = 30 * time.Second // of one publication

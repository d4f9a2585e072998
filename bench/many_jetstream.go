// JetStream in M2: three nats-servers, a three-replica stream for each partition, at the server's defaults but for sync_interval:
// always, which is what our brokers promise too.

package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"
)

const (
	createAtOnce = 16 // streams
	// maxMonitorBody bounds what is read of one answer of the monitoring port: some 2 KB a stream.
	maxMonitorBody = 256 << 20
)

// JetStreamHerd runs nats-server three times.
type JetStreamHerd struct {
	Server string // path of nats-server

	ports []int // clients', routes', monitoring
	cmds  [manyNodes]*exec.Cmd
}

// Name implements Herd.
func (j *JetStreamHerd) Name() string { return "jetstream" }

// Start implements Herd.
func (j *JetStreamHerd) Start(_ context.Context, dir string) (err error) {
	if j.ports == nil {
		if j.ports, err = keepPorts(3 * manyNodes); err != nil {
			return err
		}
	}
	for i := range j.cmds {
		node := filepath.Join(dir, fmt.Sprintf("n%d", i+1))
		conf, err := writeNATSConf(node, natsNode{Name: fmt.Sprintf("n%d", i+1), ClientPort: j.ports[i], RoutePort: j.ports[manyNodes+i],
			HTTPPort: j.ports[2*manyNodes+i], SyncAlways: true, Routes: j.ports[manyNodes : 2*manyNodes]})
		if err != nil {
			return err
		}
		cmd := exec.Command(j.Server, "-c", conf, "-l", filepath.Join(node, "log"))
		if err := cmd.Start(); err != nil {
			return err
		}
		j.cmds[i] = cmd
	}
	return nil
}

// Create implements Herd.
func (j *JetStreamHerd) Create(ctx context.Context, n int, made func(int)) error {
	var urls []string
	for _, port := range j.ports[:manyNodes] {
		urls = append(urls, fmt.Sprintf("nats://127.0.0.1:%d", port))
	}
	nc, err := nats.Connect(strings.Join(urls, ","), nats.Name("bench admin"))
	if err != nil {
		return err
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	var count atomic.Int64
	var mu sync.Mutex // made is told one number after the other
	g, group := errgroup.WithContext(ctx)
	g.SetLimit(createAtOnce)
	for p := range n {
		if group.Err() != nil {
			break
		}
		g.Go(func() error {
			err := retry(group, func() error {
				ctx, cancel := context.WithTimeout(group, askAgain)
				defer cancel()
				_, err := js.CreateOrUpdateStream(ctx, jetstream.StreamConfig{Name: stream(p), Subjects: []string{subject(p)}, Replicas: manyNodes, Storage: jetstream.FileStorage})
				return err
			})
			if err != nil {
				return fmt.Errorf("create %s: %w", stream(p), err)
			}
			mu.Lock()
			defer mu.Unlock()
			made(int(count.Add(1)))
			return nil
		})
	}
	return errors.Join(g.Wait(), ctx.Err())
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
				Leader string `json:"leader"`
			} `json:"cluster"`
		} `json:"stream_detail"`
	} `json:"account_details"`
}

// Leaders implements Herd: a server names itself for the streams that it leads.
func (j *JetStreamHerd) Leaders(ctx context.Context, n int) ([]int, error) {
	leaders := make([]int, n)
	for i := range leaders {
		leaders[i] = -1
	}
	ctx, cancel := context.WithTimeout(ctx, 4*askAgain)
	defer cancel()
	var mu sync.Mutex
	var wg sync.WaitGroup
	errs := make([]error, len(j.cmds))
	for i, cmd := range j.cmds {
		if cmd == nil {
			continue
		}
		wg.Go(func() {
			v, err := j.monitor(ctx, i, n > 0)
			if err != nil {
				errs[i] = fmt.Errorf("ask node %d: %w", i+1, err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			v.leads(fmt.Sprintf("n%d", i+1), i, leaders)
		})
	}
	wg.Wait()
	return leaders, errors.Join(errs...)
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

func (j *JetStreamHerd) monitor(ctx context.Context, node int, streams bool) (*jsz, error) {
	url := fmt.Sprintf("http://127.0.0.1:%d/jsz", j.ports[2*manyNodes+node])
	if streams {
		url += "?streams=true"
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s", url, resp.Status)
	}
	v := new(jsz)
	if err := json.NewDecoder(http.MaxBytesReader(nil, resp.Body, maxMonitorBody)).Decode(v); err != nil {
		return nil, err
	}
	if !streams && (v.Meta == nil || v.Meta.Leader == "" || v.Meta.Size < manyNodes) {
		return nil, errors.New("the cluster has no meta leader, or lacks a node")
	}
	return v, nil
}

// Pids implements Herd.
func (j *JetStreamHerd) Pids() []int {
	var pids []int
	for _, cmd := range j.cmds {
		pids = append(pids, pidOf(cmd))
	}
	return pids
}

// Kill implements Herd.
func (j *JetStreamHerd) Kill(node int) error { return killProcess(&j.cmds[node]) }

// Stop implements Herd.
func (j *JetStreamHerd) Stop() error {
	var cmds []*exec.Cmd
	for i, c := range j.cmds {
		if c != nil {
			cmds = append(cmds, c)
			j.cmds[i] = nil
		}
	}
	return stopAll(cmds, natsStopped)
}

// NATS JetStream as a peer: three nats-servers in processes of their own, one replicated stream for each partition,
// loaded through nats.go in each of its client modes.

package bench

import (
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"text/template"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/synadia-io/orbit.go/jetstreamext"
)

// NATSServer is the version that is measured against, fetched as a Go module.
const NATSServer = "github.com/nats-io/nats-server/v2@v2.15.2"

//go:embed peers/nats-node.conf
var natsConf string

// Client modes.
const (
	// JetStreamAsync publishes each message by itself with a window of outstanding acknowledgements.
	JetStreamAsync = "async"
	// JetStreamFast is the server's flow-controlled batch ingest (ADR-50).
	JetStreamFast = "fast"
	// JetStreamSync waits for each message's acknowledgement.
	JetStreamSync = "sync"
)

// BuildNATSServer builds the pinned nats-server into dir, if it is not there yet, and returns its path.
func BuildNATSServer(ctx context.Context, dir string) (string, error) {
	path := filepath.Join(dir, "nats-server")
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	cmd := exec.CommandContext(ctx, "go", "install", NATSServer)
	cmd.Env = append(os.Environ(), "GOBIN="+dir)
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go install %s: %w\n%s", NATSServer, err, out)
	}
	return path, nil
}

// JetStream is a three-node cluster.
type JetStream struct {
	Server     string // path of nats-server
	ClientMode string

	cell  Cell
	cmds  []*exec.Cmd
	urls  []string
	admin *nats.Conn
}

// Name implements System.
func (j *JetStream) Name() string { return "jetstream" }

// Mode implements System.
func (j *JetStream) Mode() string { return j.ClientMode }

func subject(partition int) string { return fmt.Sprintf("bench.%d", partition) }
func stream(partition int) string  { return fmt.Sprintf("BENCH%d", partition) }

// Start implements System.
func (j *JetStream) Start(ctx context.Context, dir string, c Cell) error {
	j.cell = c
	ports, err := freePorts(6)
	if err != nil {
		return err
	}
	for i := range 3 {
		node := filepath.Join(dir, fmt.Sprintf("n%d", i+1))
		conf, err := writeNATSConf(node, natsNode{Name: fmt.Sprintf("n%d", i+1), ClientPort: ports[i], RoutePort: ports[3+i],
			SyncAlways: c.Class == ClassB, Routes: ports[3:]})
		if err != nil {
			return err
		}
		cmd := exec.Command(j.Server, "-c", conf, "-l", filepath.Join(node, "log"))
		if err := cmd.Start(); err != nil {
			return err
		}
		j.cmds = append(j.cmds, cmd)
		j.urls = append(j.urls, fmt.Sprintf("nats://127.0.0.1:%d", ports[i]))
	}
	if err := retry(ctx, func() (err error) {
		j.admin, err = nats.Connect(j.urls[0], nats.Name("bench admin"))
		return err
	}); err != nil {
		return err
	}
	js, err := jetstream.New(j.admin)
	if err != nil {
		return err
	}
	for p := range c.Partitions {
		if err := retry(ctx, func() error {
			// A request that comes before the cluster has a leader may never be answered: ask again.
			ctx, cancel := context.WithTimeout(ctx, askAgain)
			defer cancel()
			_, err := js.CreateOrUpdateStream(ctx, jetstream.StreamConfig{Name: stream(p), Subjects: []string{subject(p)}, Replicas: 3,
				Storage: jetstream.FileStorage, AllowAtomicPublish: true, AllowBatchPublish: true})
			return err
		}); err != nil {
			return fmt.Errorf("create %s: %w", stream(p), err)
		}
	}
	for p := range c.Partitions {
		if err := j.lead(ctx, js, p, fmt.Sprintf("n%d", p%3+1)); err != nil {
			return err
		}
	}
	return nil
}

// natsStopped is what nats-server ends with on SIGINT.
const natsStopped = 1

// natsNode is what the configuration's template is filled with.
type natsNode struct {
	Name                            string
	ClientPort, RoutePort, HTTPPort int // HTTPPort 0: no monitoring
	StoreDir                        string
	SyncAlways                      bool
	Routes                          []int
}

// writeNATSConf writes a node's configuration into its directory, where its data will be too.
func writeNATSConf(dir string, n natsNode) (path string, err error) {
	tmpl, err := template.New("nats-node.conf").Parse(natsConf)
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	n.StoreDir, path = filepath.Join(dir, "js"), filepath.Join(dir, "nats.conf")
	f, err := os.Create(path)
	if err != nil {
		return "", err
	}
	return path, errors.Join(tmpl.Execute(f, n), f.Close())
}

// lead moves a stream's leadership to a node, so that leaders are spread evenly.
func (j *JetStream) lead(ctx context.Context, js jetstream.JetStream, p int, node string) error {
	return retry(ctx, func() error {
		ctx, cancel := context.WithTimeout(ctx, askAgain)
		defer cancel()
		s, err := js.Stream(ctx, stream(p))
		if err != nil {
			return err
		}
		if info := s.CachedInfo(); info.Cluster != nil && info.Cluster.Leader == node {
			return nil
		}
		body, err := json.Marshal(map[string]any{"placement": map[string]string{"preferred": node}})
		if err != nil {
			return err
		}
		if _, err := j.admin.RequestWithContext(ctx, "$JS.API.STREAM.LEADER.STEPDOWN."+stream(p), body); err != nil {
			return err
		}
		return fmt.Errorf("%s is not led by %s yet", stream(p), node)
	})
}

// retry repeats fn until it succeeds or ctx ends.
func retry(ctx context.Context, fn func() error) error {
	for {
		err := fn()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.Join(ctx.Err(), err)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func freePorts(n int) ([]int, error) {
	var ports []int
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer l.Close()
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
	}
	return ports, nil
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

// Pids implements System.
func (j *JetStream) Pids() []int {
	var pids []int
	for _, c := range j.cmds {
		pids = append(pids, c.Process.Pid)
	}
	return pids
}

// Stop implements System.
func (j *JetStream) Stop() error {
	if j.admin != nil {
		j.admin.Close()
	}
	return stopAll(j.cmds, natsStopped)
}

// Producer implements System.
func (j *JetStream) Producer(ctx context.Context, i int) (Producer, error) {
	nc, err := nats.Connect(j.urls[i%3], nats.Name(fmt.Sprintf("bench producer %d", i)))
	if err != nil {
		return nil, err
	}
	window := max(1, j.cell.InflightBytes/j.cell.RecordBytes)
	p := &natsProducer{nc: nc, mode: j.ClientMode}
	p.js, err = jetstream.New(nc, jetstream.WithPublishAsyncMaxPending(window), jetstream.WithPublishAsyncTimeout(30*time.Second))
	if err != nil {
		nc.Close()
		return nil, err
	}
	if j.ClientMode == JetStreamFast {
		p.fast = make([]*fastStream, j.cell.Partitions)
		for s := range p.fast {
			// One flow-controlled session for each stream; the window is shared among them.
			p.fast[s] = &fastStream{window: max(1, window/j.cell.Partitions)}
		}
	}
	return p, nil
}

type natsProducer struct {
	nc   *nats.Conn
	js   jetstream.JetStream
	mode string
	wg   sync.WaitGroup
	fast []*fastStream
}

// fastStream is one session of batch ingest: acknowledgements come for runs of messages.
type fastStream struct {
	window  int
	pub     jetstreamext.FastPublisher
	waiting []func(error) // in order of sending; waiting[0] has sequence first
	first   uint64
	next    uint64
}

// askAgain bounds one administrative request; it is repeated.
const askAgain = 5 * time.Second

func (p *natsProducer) Send(ctx context.Context, partition int, record []byte, done func(error)) {
	switch p.mode {
	case JetStreamSync:
		_, err := p.js.Publish(ctx, subject(partition), record)
		done(err)
	case JetStreamFast:
		p.sendFast(partition, record, done)
	default:
		f, err := p.js.PublishAsync(subject(partition), record, jetstream.WithStallWait(30*time.Second))
		if err != nil {
			done(err)
			return
		}
		p.wg.Go(func() {
			select {
			case <-f.Ok():
				done(nil)
			case err := <-f.Err():
				done(err)
			}
		})
	}
}

func (p *natsProducer) sendFast(partition int, record []byte, done func(error)) {
	s := p.fast[partition]
	if s.pub == nil {
		pub, err := jetstreamext.NewFastPublisher(p.js, jetstreamext.FastPublishFlowControl{
			Flow: uint16(max(1, min(s.window/2, 500))), MaxOutstandingAcks: 2, AckTimeout: 30 * time.Second})
		if err != nil {
			done(err)
			return
		}
		s.pub, s.first = pub, 1
	}
	ack, err := s.pub.Add(subject(partition), record)
	if err != nil {
		done(err)
		return
	}
	s.next = ack.BatchSequence
	s.waiting = append(s.waiting, done)
	s.release(ack.AckSequence)
}

// release reports every message up to the acknowledged sequence.
func (s *fastStream) release(acked uint64) {
	for s.first <= acked && len(s.waiting) > 0 {
		s.waiting[0](nil)
		s.waiting = s.waiting[1:]
		s.first++
	}
}

func (p *natsProducer) Flush(ctx context.Context) error {
	var errs []error
	for _, s := range p.fast {
		if s.pub == nil {
			continue
		}
		ack, err := s.pub.Close(ctx)
		if err != nil {
			errs = append(errs, err)
			for _, done := range s.waiting {
				done(err)
			}
			continue
		}
		_ = ack
		s.release(s.next)
	}
	done := make(chan struct{})
	go func() { p.wg.Wait(); close(done) }()
	select {
	case <-done:
	case <-ctx.Done():
		errs = append(errs, ctx.Err())
	}
	return errors.Join(errs...)
}

func (p *natsProducer) Close() { p.nc.Close() }

// ReadBack implements System.
func (j *JetStream) ReadBack(ctx context.Context, fn func(int, []byte)) error {
	js, err := jetstream.New(j.admin)
	if err != nil {
		return err
	}
	for p := range j.cell.Partitions {
		s, err := js.Stream(ctx, stream(p))
		if err != nil {
			return err
		}
		left := s.CachedInfo().State.Msgs
		if left == 0 {
			continue
		}
		cons, err := s.OrderedConsumer(ctx, jetstream.OrderedConsumerConfig{DeliverPolicy: jetstream.DeliverAllPolicy})
		if err != nil {
			return err
		}
		it, err := cons.Messages()
		if err != nil {
			return err
		}
		for ; left > 0; left-- {
			m, err := it.Next(jetstream.NextContext(ctx))
			if err != nil {
				it.Stop()
				return err
			}
			fn(p, m.Data())
		}
		it.Stop()
	}
	return nil
}

// Package faults_test kills real broker processes under load and checks that nothing acknowledged is lost. `kill -9` keeps
// the page cache, so it proves nothing about syncs: package broker's power-loss test does that.
package faults_test

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/balsamq/balsa/internal/testport"
)

var (
	kills    = flag.Int("kills", 3, "how often TestKillOne kills a broker")
	allKills = flag.Int("all-kills", 1, "how often TestKillAll kills all brokers at once")
)

const (
	nodes      = 3
	partitions = 6
	topic      = "faults"
	// generous bounds everything that is waited for.
	generous = 2 * time.Minute
)

var binary string

func TestMain(m *testing.M) {
	flag.Parse()
	if testing.Short() {
		fmt.Println("skipped: kills processes")
		return
	}
	dir, err := os.MkdirTemp("", "balsa-faults-")
	if err == nil {
		binary = filepath.Join(dir, "broker")
		var out []byte
		if out, err = exec.Command("go", "build", "-o", binary, "github.com/balsamq/balsa/cmd/broker").CombinedOutput(); err != nil {
			err = fmt.Errorf("%w\n%s", err, out)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// process is one broker.
type process struct {
	id    int32
	dir   string
	log   string
	kafka string
	rpc   string
	cmd   *exec.Cmd
}

// cluster is three brokers as processes of their own.
type cluster struct {
	t     *testing.T
	procs []*process
	admin *kadm.Client
}

func newCluster(t *testing.T) *cluster {
	return newClusterAt(t, func(int32) string { return filepath.Join(t.TempDir(), "data") })
}

// newClusterAt starts three brokers with their data where dir says.
func newClusterAt(t *testing.T, dir func(id int32) string) *cluster {
	c := &cluster{t: t}
	addrs, logs := testport.Addrs(t, 2*nodes), t.TempDir()
	for i := range nodes {
		c.procs = append(c.procs, &process{id: int32(i + 1), dir: dir(int32(i + 1)), log: filepath.Join(logs, fmt.Sprintf("broker-%d.log", i+1)), kafka: addrs[2*i], rpc: addrs[2*i+1]})
	}
	t.Cleanup(func() {
		for _, p := range c.procs {
			c.kill(p)
		}
		if t.Failed() {
			for _, p := range c.procs {
				b, _ := os.ReadFile(p.log)
				t.Logf("broker %d's log ends:\n%s", p.id, b[max(0, len(b)-6000):])
			}
		}
	})
	for _, p := range c.procs {
		c.start(p)
	}
	cl := c.client()
	t.Cleanup(cl.Close)
	c.admin = kadm.NewClient(cl)
	c.eventually("the three brokers are there", func() error {
		m, err := c.admin.BrokerMetadata(t.Context())
		if err == nil && len(m.Brokers) != nodes {
			err = fmt.Errorf("%d brokers", len(m.Brokers))
		}
		return err
	})
	return c
}

func (c *cluster) seeds() []string {
	var s []string
	for _, p := range c.procs {
		s = append(s, p.kafka)
	}
	return s
}

func (c *cluster) client(opts ...kgo.Opt) *kgo.Client {
	cl, err := kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(c.seeds()...), kgo.MetadataMinAge(50 * time.Millisecond), kgo.RetryBackoffFn(func(int) time.Duration { return 20 * time.Millisecond })}, opts...)...)
	if err != nil {
		c.t.Fatal(err)
	}
	return cl
}

// start starts a broker's process and waits until it says that it is ready.
func (c *cluster) start(p *process) {
	c.t.Helper()
	if err := c.begin(p)(); err != nil {
		c.t.Fatal(err)
	}
}

// begin starts a broker's process; what it returns waits for it to be ready.
func (c *cluster) begin(p *process) func() error {
	args := []string{"start", "--data-dir", p.dir, "--kafka-listen", p.kafka, "--rpc-listen", p.rpc, "--admin-listen", "127.0.0.1:0", "--node-id", fmt.Sprint(p.id)}
	if p.id != 1 {
		args = append(args, "--join", c.procs[0].rpc)
	}
	p.cmd = exec.Command(binary, args...)
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	logFile, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		c.t.Fatal(err)
	}
	defer logFile.Close()
	p.cmd.Stderr = logFile
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		c.t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	ready := make(chan error, 1)
	go func() {
		sc := bufio.NewScanner(out)
		for sc.Scan() {
			if strings.HasPrefix(sc.Text(), "ready: ") {
				ready <- nil
				return
			}
		}
		ready <- fmt.Errorf("broker %d ended before it was ready", p.id)
	}()
	return func() error {
		select {
		case err := <-ready:
			return err
		case <-time.After(generous):
			return fmt.Errorf("broker %d is not ready after %v", p.id, generous)
		}
	}
}

// kill ends a process as kill -9 does.
func (c *cluster) kill(p *process) {
	if p.cmd == nil || p.cmd.Process == nil {
		return
	}
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait()
	p.cmd = nil
}

// eventually polls until fn has no complaint.
func (c *cluster) eventually(what string, fn func() error) {
	c.t.Helper()
	deadline := time.Now().Add(generous)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := fn()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			c.t.Fatalf("%s: not within %v: %v", what, generous, err)
		}
		<-tick.C
	}
}

// leaders is who leads each partition.
func (c *cluster) leaders(ctx context.Context) ([]int32, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	d, err := c.admin.ListTopics(ctx, topic)
	if err != nil {
		return nil, err
	}
	ls := make([]int32, partitions)
	for i := range ls {
		p, ok := d[topic].Partitions[int32(i)]
		if !ok || p.Err != nil || p.Leader < 0 {
			return nil, fmt.Errorf("partition %d has no leader: %v", i, p.Err)
		}
		ls[i] = p.Leader
	}
	return ls, nil
}

// whole reports whether every partition has all its replicas in sync.
func (c *cluster) whole() error {
	d, err := c.admin.ListTopics(c.t.Context(), topic)
	if err != nil {
		return err
	}
	var errs []error
	for i := range int32(partitions) {
		p := d[topic].Partitions[i]
		if p.Err != nil || p.Leader < 0 || len(p.ISR) != nodes {
			errs = append(errs, fmt.Errorf("partition %d: leader %d, in sync %v, %w", i, p.Leader, p.ISR, errors.Join(p.Err)))
		}
	}
	if len(d[topic].Partitions) != partitions {
		errs = append(errs, fmt.Errorf("%d partitions", len(d[topic].Partitions)))
	}
	return errors.Join(errs...)
}

// stream is an endless, acknowledged write to one partition.
type stream struct {
	mu      sync.Mutex
	acked   []ackedRecord
	refused int
	lastErr error
}

type ackedRecord struct {
	seq    int
	offset int64
	sent   time.Time
	at     time.Time
}

const streamWindow = 16 // records in flight on each partition

// write streams to every partition until ctx ends.
func (c *cluster) write(ctx context.Context) (streams []*stream, wait func()) {
	var wg sync.WaitGroup
	for p := range int32(partitions) {
		s := &stream{}
		streams = append(streams, s)
		wg.Go(func() {
			cl := c.client(kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.DefaultProduceTopic(topic), kgo.RequiredAcks(kgo.AllISRAcks()),
				kgo.RecordDeliveryTimeout(generous), kgo.ProduceRequestTimeout(2*time.Second), kgo.UnknownTopicRetries(-1))
			defer cl.Close()
			window := make(chan struct{}, streamWindow)
			for seq := 0; ctx.Err() == nil; seq++ {
				window <- struct{}{}
				sent := time.Now()
				cl.Produce(context.Background(), &kgo.Record{Partition: p, Value: fmt.Appendf(nil, "%d:%d", p, seq)}, func(r *kgo.Record, err error) {
					s.mu.Lock()
					if err != nil {
						s.refused++
						s.lastErr = err
					} else {
						s.acked = append(s.acked, ackedRecord{seq, r.Offset, sent, time.Now()})
					}
					s.mu.Unlock()
					<-window
				})
			}
			flushCtx, cancel := context.WithTimeout(context.Background(), generous)
			defer cancel()
			if err := cl.Flush(flushCtx); err != nil {
				c.t.Errorf("partition %d: flush: %v", p, err)
			}
		})
	}
	return streams, wg.Wait
}

// ackedAfter is when the first record sent after t was acknowledged.
func (s *stream) ackedAfter(t time.Time) (time.Time, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := len(s.acked)
	for i > 0 && !s.acked[i-1].sent.Before(t) {
		i--
	}
	if i == len(s.acked) {
		return time.Time{}, false
	}
	return s.acked[i].at, true
}

// verify reads everything back: each acknowledged record at its offset, every record once, in order.
func (c *cluster) verify(streams []*stream) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), 2*generous)
	defer cancel()
	ends, err := c.admin.ListEndOffsets(ctx, topic)
	if err != nil {
		c.t.Fatal(err)
	}
	got := make([]map[int64]string, partitions)
	want := int64(0)
	ends.Each(func(o kadm.ListedOffset) {
		got[o.Partition] = map[int64]string{}
		want += o.Offset
	})
	cl := c.client(kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	defer cl.Close()
	for read := int64(0); read < want; {
		f := cl.PollFetches(ctx)
		if err := f.Err0(); err != nil {
			c.t.Fatalf("reading back, %d of %d: %v", read, want, err)
		}
		f.EachRecord(func(r *kgo.Record) {
			got[r.Partition][r.Offset] = string(r.Value)
			read++
		})
	}
	acked, lost, wrong := 0, 0, 0
	for p, s := range streams {
		for _, a := range s.acked {
			acked++
			switch v, ok := got[p][a.offset]; {
			case !ok:
				lost++
			case v != fmt.Sprintf("%d:%d", p, a.seq):
				wrong++
			}
		}
		last, seen := -1, map[int]bool{}
		for off := int64(0); off < int64(len(got[p])); off++ {
			v, ok := got[p][off]
			var part, seq int
			if _, err := fmt.Sscanf(v, "%d:%d", &part, &seq); !ok || err != nil || part != p {
				c.t.Fatalf("partition %d offset %d holds %q", p, off, v)
			}
			if seen[seq] {
				c.t.Errorf("partition %d holds record %d twice, again at offset %d", p, seq, off)
			}
			if seq < last {
				c.t.Errorf("partition %d: record %d after %d at offset %d", p, seq, last, off)
			}
			seen[seq], last = true, max(last, seq)
		}
		if s.refused > 0 {
			c.t.Errorf("partition %d: %d records were refused, last: %v", p, s.refused, s.lastErr)
		}
	}
	if lost+wrong > 0 {
		c.t.Errorf("of %d acknowledged records %d are lost, %d are not where they were acknowledged", acked, lost, wrong)
	}
	c.t.Logf("%d acknowledged records, all there, once, in order", acked)
}

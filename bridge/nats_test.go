// Real nats-servers for the tests, in processes of their own: one, or a cluster of three, which can be killed with -9 and started again on what
// they have on the disk. The binary is the one that the benchmarks build and keep.

package bridge

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/balsamq/balsa/bench"
	"github.com/balsamq/balsa/internal/testport"
)

// natsBinary is where the server is, built once for all.
var natsBinary = sync.OnceValues(func() (string, error) {
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	return bench.BuildNATSServer(context.Background(), filepath.Join(dir, "balsa-bench"))
})

// natsCluster is one server, or several.
type natsCluster struct {
	t     testing.TB
	nodes []*natsNode
}

type natsNode struct {
	dir, config string
	url         string
	mu          sync.Mutex // guards cmd
	cmd         *exec.Cmd  // nil: it does not run
}

// startNATS starts n servers; extra goes into their configuration.
func startNATS(t testing.TB, n int, extra string) *natsCluster {
	t.Helper()
	if testing.Short() {
		t.Skip("runs nats-server")
	}
	if _, err := natsBinary(); err != nil {
		t.Fatal(err)
	}
	c := &natsCluster{t: t}
	addrs := testport.Addrs(t, 2*n)
	var routes []string
	for i := range n {
		routes = append(routes, fmt.Sprintf("\"nats://%s\"", addrs[n+i]))
	}
	for i := range n {
		node := &natsNode{dir: t.TempDir(), url: "nats://" + addrs[i]}
		node.config = filepath.Join(node.dir, "nats.conf")
		conf := fmt.Sprintf("server_name: n%d\nlisten: %s\nmax_pending: 256MB\njetstream { store_dir: %q }\n%s\n", i+1, addrs[i], filepath.Join(node.dir, "js"), extra)
		if n > 1 {
			conf += fmt.Sprintf("cluster { name: test, listen: \"%s\", routes: [%s] }\n", addrs[n+i], strings.Join(routes, ", "))
		}
		if err := os.WriteFile(node.config, []byte(conf), 0o600); err != nil {
			t.Fatal(err)
		}
		c.nodes = append(c.nodes, node)
	}
	t.Cleanup(func() {
		for _, node := range c.nodes {
			node.kill()
			if log, err := os.ReadFile(filepath.Join(node.dir, "log")); err == nil && t.Failed() {
				t.Logf("the end of the log of %s:\n%s", node.url, log[max(0, len(log)-4<<10):])
			}
		}
	})
	for _, node := range c.nodes {
		node.start(t)
	}
	return c
}

func (n *natsNode) start(t testing.TB) {
	t.Helper()
	n.mu.Lock()
	defer n.mu.Unlock()
	binary, err := natsBinary()
	if err != nil {
		t.Fatal(err)
	}
	log, err := os.OpenFile(filepath.Join(n.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	n.cmd = exec.Command(binary, "-c", n.config)
	n.cmd.Stdout, n.cmd.Stderr = log, log
	if err := n.cmd.Start(); err != nil {
		t.Fatal(err)
	}
}

// kill is kill -9.
func (n *natsNode) kill() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.cmd != nil {
		_ = n.cmd.Process.Kill()
		_ = n.cmd.Wait()
		n.cmd = nil
	}
}

func (c *natsCluster) urls() (out []string) {
	for _, n := range c.nodes {
		out = append(out, n.url)
	}
	return out
}

// named is the server of that name, or -1.
func (c *natsCluster) named(name string) int {
	for i := range c.nodes {
		if name == fmt.Sprintf("n%d", i+1) {
			return i
		}
	}
	return -1
}

// dial connects to whoever runs, for as long as the test does.
func (c *natsCluster) dial(opts ...nats.Option) (*nats.Conn, jetstream.JetStream) {
	c.t.Helper()
	var nc *nats.Conn
	soon(c.t, "NATS answers", func() (err error) {
		nc, err = nats.Connect(strings.Join(c.urls(), ","), append([]nats.Option{nats.MaxReconnects(-1), nats.ReconnectWait(50 * time.Millisecond)}, opts...)...)
		return err
	})
	c.t.Cleanup(nc.Close)
	js, err := jetstream.New(nc, jetstream.WithPublishAsyncTimeout(ackTimeout)) // what a leader that is gone has not answered is not in flight for ever
	if err != nil {
		c.t.Fatal(err)
	}
	return nc, js
}

// stream makes a stream of one replica for each server.
func (c *natsCluster) stream(js jetstream.JetStream, cfg jetstream.StreamConfig) jetstream.Stream {
	c.t.Helper()
	cfg.Replicas = len(c.nodes)
	var st jetstream.Stream
	soon(c.t, "stream "+cfg.Name+" is made", func() (err error) {
		ctx, cancel := context.WithTimeout(c.t.Context(), 2*time.Second)
		defer cancel()
		st, err = js.CreateOrUpdateStream(ctx, cfg)
		return err
	})
	return st
}

// soon waits until something works.
func soon(t testing.TB, what string, try func() error) {
	t.Helper()
	deadline := time.Now().Add(2 * time.Minute)
	for {
		err := try()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: %v", what, err)
		}
		select {
		case <-t.Context().Done():
			t.Fatal(t.Context().Err())
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// publish publishes messages in order, with ids so that none is there twice: a window of them is in flight, and after a failure it goes on behind what is acknowledged.
func publish(t testing.TB, js jetstream.JetStream, n int, message func(i int) *nats.Msg) {
	t.Helper()
	const window = 2000
	acked := 0
	for acked < n {
		before := acked
		soon(t, fmt.Sprintf("message %d is published", before), func() error {
			var flights []jetstream.PubAckFuture
			timeout := time.NewTimer(ackTimeout)
			defer timeout.Stop()
			for next := acked; acked < n; {
				for ; next < n && len(flights) < window; next++ {
					m := message(next)
					if m.Header == nil {
						m.Header = nats.Header{}
					}
					m.Header.Set(nats.MsgIdHdr, fmt.Sprint("source-", next))
					ack, err := js.PublishMsgAsync(m)
					if err != nil {
						return err
					}
					flights = append(flights, ack)
				}
				timeout.Reset(ackTimeout)
				select {
				case <-flights[0].Ok():
				case err := <-flights[0].Err():
					if acked > before {
						return nil // with a new deadline
					}
					return err
				case <-timeout.C:
					return errors.New("no answer")
				}
				flights = flights[1:]
				acked++
			}
			return nil
		})
	}
}

// eachStored shows the messages of a stream, in order, up to its end as it is now.
func eachStored(t testing.TB, js jetstream.JetStream, name string, show func(jetstream.Msg, *jetstream.MsgMetadata)) {
	t.Helper()
	var last, seen uint64 // the stream's last sequence, and the last one that was shown
	soon(t, "stream "+name+" says where it ends", func() error {
		st, err := js.Stream(t.Context(), name)
		if err == nil {
			if info := st.CachedInfo(); info.State.Msgs > 0 {
				last = info.State.LastSeq
			}
		}
		return err
	})
	for seen < last {
		before := seen
		soon(t, fmt.Sprintf("stream %s is read behind %d", name, before), func() error {
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			cons, err := js.OrderedConsumer(ctx, name, jetstream.OrderedConsumerConfig{DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: seen + 1})
			if err != nil {
				return err
			}
			it, err := cons.Messages(jetstream.PullMaxMessages(readAhead))
			if err != nil {
				return err
			}
			defer it.Stop()
			for seen < last {
				m, err := it.Next(jetstream.NextContext(ctx))
				if err != nil && seen > before {
					return nil // with a new deadline
				}
				if err != nil {
					return err
				}
				meta, err := m.Metadata()
				if err != nil {
					return err
				}
				show(m, meta)
				if seen = meta.Sequence.Stream; meta.NumPending == 0 {
					seen = max(seen, last) // what is behind it is gone
				}
			}
			return nil
		})
	}
}

// stored are the messages of a stream, in order.
func stored(t testing.TB, js jetstream.JetStream, name string) (out []jetstream.Msg) {
	t.Helper()
	eachStored(t, js, name, func(m jetstream.Msg, _ *jetstream.MsgMetadata) { out = append(out, m) })
	return out
}

func headerText(h nats.Header) string {
	var b bytes.Buffer
	for k, v := range h {
		fmt.Fprintf(&b, "%s=%v ", k, v)
	}
	return b.String()
}

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

// dial connects to whoever runs, for as long as the test does.
func (c *natsCluster) dial(opts ...nats.Option) (*nats.Conn, jetstream.JetStream) {
	c.t.Helper()
	var nc *nats.Conn
	soon(c.t, "NATS answers", func() (err error) {
		nc, err = nats.Connect(strings.Join(c.urls(), ","), append([]nats.Option{nats.MaxReconnects(-1), nats.ReconnectWait(50 * time.Millisecond)}, opts...)...)
		return err
	})
	c.t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
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

// publish publishes messages in order, each until it is acknowledged, with ids so that none is there twice.
func publish(t testing.TB, js jetstream.JetStream, n int, message func(i int) *nats.Msg) {
	t.Helper()
	const window = 500
	for from := 0; from < n; from += window {
		to := min(from+window, n)
		soon(t, "the messages are published", func() error {
			var acks []jetstream.PubAckFuture
			for i := from; i < to; i++ {
				m := message(i)
				if m.Header == nil {
					m.Header = nats.Header{}
				}
				m.Header.Set(nats.MsgIdHdr, fmt.Sprint("source-", i))
				ack, err := js.PublishMsgAsync(m)
				if err != nil {
					return err
				}
				acks = append(acks, ack)
			}
			timeout := time.After(5 * time.Second)
			for _, a := range acks {
				select {
				case <-a.Ok():
				case err := <-a.Err():
					return err
				case <-timeout:
					return errors.New("no answer")
				}
			}
			return nil
		})
	}
}

// stored are the messages of a stream, in order.
func stored(t testing.TB, js jetstream.JetStream, name string) (out []jetstream.Msg) {
	t.Helper()
	soon(t, "stream "+name+" is read", func() error {
		out = nil
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		st, err := js.Stream(ctx, name)
		if err != nil {
			return err
		}
		last := st.CachedInfo().State.LastSeq
		if st.CachedInfo().State.Msgs == 0 {
			return nil
		}
		cons, err := st.OrderedConsumer(ctx, jetstream.OrderedConsumerConfig{})
		if err != nil {
			return err
		}
		it, err := cons.Messages()
		if err != nil {
			return err
		}
		defer it.Stop()
		for {
			m, err := it.Next(jetstream.NextContext(ctx))
			if err != nil {
				return err
			}
			meta, err := m.Metadata()
			if err != nil {
				return err
			}
			out = append(out, m)
			if meta.Sequence.Stream >= last || meta.NumPending == 0 {
				return nil
			}
		}
	})
	return out
}

func headerText(h nats.Header) string {
	var b bytes.Buffer
	for k, v := range h {
		fmt.Fprintf(&b, "%s=%v ", k, v)
	}
	return b.String()
}

// The NATS server: a process of its own, which can be killed.

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/balsamq/balsa/bench"
	"github.com/balsamq/balsa/examples/internal/demo"
)

// natsServer is one with JetStream, on loopback.
type natsServer struct {
	ctx       context.Context // it runs no longer than that
	path, dir string
	url, port string
	cmd       *exec.Cmd
	nc        *nats.Conn
}

// startNATS starts a server on a free port. It is the one that the benchmarks build and keep.
func startNATS(ctx context.Context, d *demo.Demo) (*natsServer, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return nil, err
	}
	built := time.AfterFunc(time.Second, func() { d.Say("nats-server is being built, which is only needed once.") })
	path, err := bench.BuildNATSServer(ctx, filepath.Join(cache, "balsa-bench"))
	built.Stop()
	if err != nil {
		return nil, err
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	_, port, err := net.SplitHostPort(ln.Addr().String())
	if err = errors.Join(err, ln.Close()); err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "edge-")
	if err != nil {
		return nil, err
	}
	s := &natsServer{ctx: ctx, path: path, dir: dir, port: port, url: "nats://127.0.0.1:" + port}
	if err := s.start(); err != nil {
		return nil, errors.Join(err, s.close())
	}
	return s, nil
}

func (s *natsServer) start() error {
	s.cmd = exec.CommandContext(s.ctx, s.path, "-js", "-a", "127.0.0.1", "-p", s.port, "-sd", filepath.Join(s.dir, "js"), "-l", filepath.Join(s.dir, "log"))
	return s.cmd.Start()
}

// connect connects to the server, and again after it was gone.
func (s *natsServer) connect(ctx context.Context) (jetstream.JetStream, error) {
	for {
		nc, err := nats.Connect(s.url, nats.MaxReconnects(-1), nats.ReconnectWait(50*time.Millisecond))
		if err == nil {
			s.nc = nc
			return jetstream.New(nc)
		}
		select { // it has just been started
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return nil, fmt.Errorf("connect to %s: %w", s.url, err)
		}
	}
}

// restart kills the server as kill -9 does, and starts it on what it has on its disk.
func (s *natsServer) restart() error {
	s.kill()
	return s.start()
}

func (s *natsServer) kill() {
	if s.cmd != nil && s.cmd.Process != nil {
		_ = s.cmd.Process.Kill()
		_ = s.cmd.Wait() // that it was killed is no news
	}
}

func (s *natsServer) close() error {
	if s.nc != nil {
		s.nc.Close()
	}
	s.kill()
	return os.RemoveAll(s.dir)
}

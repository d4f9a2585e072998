// What the loopback gives: bandwidth by one connection, and round trips.

package limit

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"time"
)

func netProbes() []probe {
	return []probe{
		stream("loopback bandwidth", func(m *Machine) *Stream { return &m.Loopback }, func(ctx context.Context, e *env) (sample, error) {
			b := make([]byte, 256<<10)
			return send(ctx, func(c *net.TCPConn) (n int64, err error) {
				for end := time.Now().Add(e.each); time.Now().Before(end) && ctx.Err() == nil; n += int64(len(b)) {
					if _, err := c.Write(b); err != nil {
						return n, err
					}
				}
				return n, ctx.Err()
			})
		}),
		stream("sendfile bandwidth", func(m *Machine) *Stream { return &m.SendFile }, sendFile),
		wait("a round trip", func(m *Machine) *Wait { return &m.PingPong }, pingPong),
		wait("the least log, synced", func(m *Machine) *Wait { return &m.LeastSynced }, func(ctx context.Context, e *env) (sample, error) { return leastLog(ctx, e, true) }),
		wait("the least log, cached", func(m *Machine) *Wait { return &m.LeastCached }, func(ctx context.Context, e *env) (sample, error) { return leastLog(ctx, e, false) }),
	}
}

// connect makes a connection to ourselves; the other end is served by fn until it returns. Call closed when done: it
// returns what fn returned.
func connect(ctx context.Context, fn func(net.Conn) error) (c *net.TCPConn, closed func() error, err error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, nil, err
	}
	served := make(chan error, 1)
	go func() {
		peer, err := l.Accept()
		err = errors.Join(err, l.Close())
		if err == nil {
			err = errors.Join(fn(peer), peer.Close())
		}
		served <- err
	}()
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", l.Addr().String())
	if err != nil {
		_ = l.Close() // ends Accept
		<-served
		return nil, nil, err
	}
	return conn.(*net.TCPConn), func() error {
		err := conn.Close()
		return errors.Join(err, <-served)
	}, nil
}

// send times fn, which writes to a connection whose other end reads all of it.
func send(ctx context.Context, fn func(*net.TCPConn) (int64, error)) (sample, error) {
	return flow(func() (int64, error) {
		c, closed, err := connect(ctx, func(peer net.Conn) error {
			b := make([]byte, 256<<10)
			for {
				if _, err := peer.Read(b); err != nil {
					if errors.Is(err, io.EOF) {
						return nil
					}
					return err
				}
			}
		})
		if err != nil {
			return 0, err
		}
		n, err := fn(c)
		return n, errors.Join(err, closed())
	})
}

func sendFile(ctx context.Context, e *env) (_ sample, err error) {
	path := filepath.Join(e.dir, "send")
	size := min(e.bytes, 64<<20)
	if err := laidOut(path, size); err != nil {
		return sample{}, err
	}
	f, err := os.Open(path)
	if err != nil {
		return sample{}, err
	}
	defer func() { err = errors.Join(err, f.Close(), os.Remove(path)) }()
	return send(ctx, func(c *net.TCPConn) (n int64, err error) {
		for end := time.Now().Add(e.each); time.Now().Before(end) && ctx.Err() == nil; {
			if _, err := f.Seek(0, io.SeekStart); err != nil {
				return n, err
			}
			m, err := c.ReadFrom(f) // sendfile, where there is one
			n += m
			if err != nil {
				return n, err
			}
		}
		return n, ctx.Err()
	})
}

// pingPong sends 64 bytes there and back between two threads that block in the kernel, as two processes would: goroutines of
// one process hand over to each other far faster than any broker could answer.
func pingPong(ctx context.Context, e *env) (sample, error) {
	const size = 64
	c, closed, err := connect(ctx, func(peer net.Conn) error {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		f, err := peer.(*net.TCPConn).File() // in blocking mode
		if err != nil {
			return err
		}
		b := make([]byte, size)
		for err == nil {
			if _, err = io.ReadFull(f, b); err == nil {
				_, err = f.Write(b)
			}
		}
		if errors.Is(err, io.EOF) {
			err = nil
		}
		return errors.Join(err, f.Close())
	})
	if err != nil {
		return sample{}, err
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var l latencies
	f, err := c.File()
	if err == nil {
		b := make([]byte, size)
		err = l.fill(ctx, e.each, func(int) error {
			if _, err := f.Write(b); err != nil {
				return err
			}
			_, err := io.ReadFull(f, b)
			return err
		})
		err = errors.Join(err, f.Close())
	}
	if err = errors.Join(err, closed()); err != nil {
		return sample{}, err
	}
	return l.sample(), nil
}

package sock_test

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/nettest"

	"github.com/balsamq/balsa/internal/sock"
)

// pair is a connection, both ends of it wrapped.
func pair(t testing.TB) (a, b net.Conn) {
	t.Helper()
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ln := sock.Listener{Listener: inner}
	defer ln.Close()
	dialled, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	if b, err = ln.Accept(); err != nil {
		t.Fatal(err)
	}
	a = sock.Wrap(dialled)
	t.Cleanup(func() { a.Close(); b.Close() })
	return a, b
}

// What anybody expects of a net.Conn: deadlines, concurrent callers, Close.
func TestConn(t *testing.T) {
	nettest.TestConn(t, func() (a, b net.Conn, stop func(), err error) {
		a, b = pair(t)
		return a, b, func() { a.Close(); b.Close() }, nil
	})
}

// Writes of many buffers, of all sizes, arrive as they were, also where the socket takes a part of them at a time.
func TestWriteBuffers(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for name, buffers := range map[string][]int{
		"none":               {},
		"empty ones":         {0, 0},
		"one":                {100},
		"a large one":        {3 << 20},
		"small around one":   {4, 3 << 20, 4},
		"empty between":      {0, 10, 0, 0, 20, 0},
		"many":               make([]int, 1000),
		"larger than a call": {200 << 10, 200 << 10, 200 << 10, 1},
	} {
		t.Run(name, func(t *testing.T) {
			a, b := pair(t)
			var bufs net.Buffers
			var want []byte
			for _, n := range buffers {
				if name == "many" {
					n = rng.IntN(3000)
				}
				p := make([]byte, n)
				for i := range p {
					p[i] = byte(rng.Uint32())
				}
				bufs, want = append(bufs, p), append(want, p...)
			}
			if !sock.Gathers(a) {
				t.Error("the connection gathers nothing")
			}
			wrote := make(chan error, 1)
			go func() {
				n, err := sock.WriteBuffers(a, &bufs)
				if err == nil && (n != int64(len(want)) || len(bufs) != 0) {
					err = errors.New("not all was written, or buffers are left")
				}
				a.Close()
				wrote <- err
			}()
			got, err := io.ReadAll(b)
			if err != nil {
				t.Fatal(err)
			}
			if err := <-wrote; err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, want) {
				t.Fatalf("%d bytes arrived of %d, or others", len(got), len(want))
			}
		})
	}
}

// A write that the deadline ends says how much was written, and the reader has just that.
func TestWriteUntilDeadline(t *testing.T) {
	a, b := pair(t)
	if err := a.SetWriteDeadline(time.Now().Add(50 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	bufs := net.Buffers{make([]byte, 32<<20), make([]byte, 32<<20)}
	n, err := sock.WriteBuffers(a, &bufs)
	left := int64(0)
	for _, p := range bufs {
		left += int64(len(p))
	}
	if !errors.Is(err, os.ErrDeadlineExceeded) || n+left != 64<<20 {
		t.Fatalf("%d bytes written, %d left, error %v", n, left, err)
	}
	var op *net.OpError
	if !errors.As(err, &op) || op.Op != "write" || !op.Timeout() {
		t.Errorf("the error is %#v", err)
	}
	a.Close()
	got, err := io.Copy(io.Discard, b)
	if err != nil || got != n {
		t.Errorf("%d bytes arrived of %d: %v", got, n, err)
	}
}

// The errors are those of the standard library's connections.
func TestErrors(t *testing.T) {
	t.Run("reset", func(t *testing.T) {
		a, b := pair(t)
		if err := b.(interface{ SetLinger(int) error }).SetLinger(0); err != nil {
			t.Fatal(err)
		}
		b.Close()
		if _, err := a.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("Read says %v", err)
		}
		if _, err := a.Write([]byte("x")); !errors.Is(err, syscall.EPIPE) {
			t.Errorf("Write says %v", err)
		}
	})
	t.Run("end", func(t *testing.T) {
		a, b := pair(t)
		b.Close()
		if n, err := a.Read(make([]byte, 1)); n != 0 || err != io.EOF {
			t.Errorf("Read says %d, %v", n, err)
		}
	})
	t.Run("closed", func(t *testing.T) {
		a, _ := pair(t)
		a.Close()
		if _, err := a.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
			t.Errorf("Read says %v", err)
		}
		if _, err := a.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
			t.Errorf("Write says %v", err)
		}
	})
	t.Run("nothing", func(t *testing.T) {
		a, _ := pair(t)
		if n, err := a.Read(nil); n != 0 || err != nil {
			t.Errorf("Read says %d, %v", n, err)
		}
		if n, err := a.Write(nil); n != 0 || err != nil {
			t.Errorf("Write says %d, %v", n, err)
		}
	})
}

// Somebody has made the socket one that blocks: a Read that waits still holds up nobody, and its deadline holds.
func TestSocketThatBlocks(t *testing.T) {
	a, _ := pair(t)
	f, err := a.(interface{ File() (*os.File, error) }).File()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := syscall.SetNonblock(int(f.Fd()), false); err != nil {
		t.Fatal(err)
	}
	if err := a.SetReadDeadline(time.Now().Add(20 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("Read says %v", err)
	}
}

func TestTryWrite(t *testing.T) {
	a, b := pair(t)
	raw, err := a.(syscall.Conn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	wrote := 0
	for full := 0; full < 3; { // until the socket takes no more
		n := sock.TryWrite(raw, make([]byte, 16<<10))
		if wrote += n; n < 16<<10 {
			full++
		}
	}
	a.Close()
	if got, err := io.Copy(io.Discard, b); err != nil || got != int64(wrote) {
		t.Errorf("%d bytes arrived of %d: %v", got, wrote, err)
	}
	if n := sock.TryWrite(raw, []byte("x")); n != 0 {
		t.Errorf("%d bytes went to a connection that is closed", n)
	}
}

// What is no TCP connection is left alone.
func TestWrapOthers(t *testing.T) {
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	if sock.Wrap(a) != a || sock.Gathers(a) {
		t.Error("a pipe was wrapped")
	}
	go func() {
		bufs := net.Buffers{[]byte("ab"), []byte("c")}
		_, _ = sock.WriteBuffers(a, &bufs)
		a.Close()
	}()
	if got, err := io.ReadAll(b); string(got) != "abc" || err != nil {
		t.Errorf("%q arrived: %v", got, err)
	}
}

// Neither reads nor writes take memory.
func TestAllocations(t *testing.T) {
	a, b := pair(t)
	p, q := make([]byte, 1000), make([]byte, 3000)
	bufs := make(net.Buffers, 2)
	if n := testing.AllocsPerRun(1000, func() {
		rest := append(bufs[:0], p, p)
		if _, err := sock.WriteBuffers(a, &rest); err != nil {
			t.Fatal(err)
		}
		if _, err := a.Write(p); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(b, q); err != nil {
			t.Fatal(err)
		}
	}); n > 1 { // rest is in the heap, as it is for the standard library's
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkPingPong(b *testing.B) {
	for name, wrap := range map[string]func(net.Conn) net.Conn{"standard": func(c net.Conn) net.Conn { return c }, "sock": sock.Wrap} {
		b.Run(name, func(b *testing.B) {
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				b.Fatal(err)
			}
			defer ln.Close()
			go func() {
				c, err := ln.Accept()
				if err != nil {
					return
				}
				c = wrap(c)
				defer c.Close()
				_, _ = io.CopyBuffer(struct{ io.Writer }{c}, struct{ io.Reader }{c}, make([]byte, 1024))
			}()
			c, err := net.Dial("tcp", ln.Addr().String())
			if err != nil {
				b.Fatal(err)
			}
			defer c.Close()
			c = wrap(c)
			p := make([]byte, 1024)
			for b.Loop() {
				if _, err := c.Write(p); err != nil {
					b.Fatal(err)
				}
				if _, err := io.ReadFull(c, p); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

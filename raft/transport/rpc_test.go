// Calls: answers, errors, deadlines, bounds, lost connections.

package transport

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/balsamq/balsa/raft"
)

func TestCalls(t *testing.T) {
	b := newBook()
	n1, n2 := start(t, b, 1, nil), start(t, b, 2, nil)
	n2.Handle(1, func(_ context.Context, c Caller, body []byte) ([]byte, error) {
		if c.Node != 1 || c.Incarnation != 11 || c.Boot != 1 || c.Cluster != testCluster || c.Addr == "" {
			return nil, fmt.Errorf("caller %+v", c)
		}
		return append([]byte("echo "), body...), nil
	})
	n2.Handle(2, func(context.Context, Caller, []byte) ([]byte, error) {
		return nil, &RPCError{Code: CodeUser + 5, Msg: "not leader"}
	})
	n2.Handle(3, func(context.Context, Caller, []byte) ([]byte, error) { return nil, errors.New("plain") })
	n2.Handle(4, func(context.Context, Caller, []byte) ([]byte, error) { return make([]byte, n2.o.MaxFrame), nil })
	n2.Handle(5, func(context.Context, Caller, []byte) ([]byte, error) {
		return nil, fmt.Errorf("wrapped: %w", &RPCError{Code: CodeUser, Msg: "inner"})
	})
	ctx := t.Context()

	var wg sync.WaitGroup
	for g := range 20 { // many at once, answers out of order, bodies of all sizes
		wg.Go(func() {
			for i := range 50 {
				body := bytes.Repeat([]byte{byte(g)}, i*i*10)
				got, err := n1.Call(ctx, 2, 1, body)
				if err != nil || !bytes.Equal(got, append([]byte("echo "), body...)) {
					t.Errorf("%d %d: %v", g, i, err)
				}
			}
		})
	}
	wg.Wait()
	if s := n2.Stats(); s.Accepted != 1 {
		t.Fatalf("%d connections for the calls of one broker", s.Accepted)
	}
	if got, err := n1.CallAddr(ctx, n2.Addr().String(), 1, []byte("x")); err != nil || string(got) != "echo x" {
		t.Fatal(string(got), err)
	}
	for method, want := range map[uint16]uint32{2: CodeUser + 5, 3: CodeInternal, 4: CodeTooLarge, 5: CodeUser, 99: CodeUnknownMethod} {
		_, err := n1.Call(ctx, 2, method, nil)
		if e, ok := errors.AsType[*RPCError](err); !ok || e.Code != want {
			t.Errorf("method %d: %v", method, err)
		}
	}
	if _, err := n1.Call(ctx, 2, 1, make([]byte, n1.o.MaxFrame)); err == nil {
		t.Error("a request beyond MaxFrame went out")
	}
	if _, err := n1.Call(ctx, 7, 1, nil); !errors.Is(err, ErrUnreachable) {
		t.Error(err)
	}
	b.set(8, "127.0.0.1:1")
	if _, err := n1.Call(ctx, 8, 1, nil); !errors.Is(err, ErrUnreachable) {
		t.Error(err)
	}
	if _, err := n1.Call(ctx, 0, 1, nil); !errors.Is(err, ErrUnreachable) {
		t.Error(err)
	}
	n1.Transport.mu.Lock()
	defer n1.Transport.mu.Unlock()
	if len(n1.slots) != 2 {
		t.Fatalf("%d targets are remembered, 2 are alive", len(n1.slots))
	}
}

// waiting is two brokers, of which 2 has a method that waits for its context to end and then says how.
type waiting struct {
	n1, n2       *node
	ended        chan error
	withDeadline atomic.Bool
}

func startWaiting(t *testing.T) *waiting {
	b := newBook()
	w := &waiting{n1: start(t, b, 1, nil), n2: start(t, b, 2, nil), ended: make(chan error, 100)}
	w.n2.Handle(1, func(ctx context.Context, _ Caller, _ []byte) ([]byte, error) {
		_, ok := ctx.Deadline()
		w.withDeadline.Store(ok)
		<-ctx.Done()
		w.ended <- ctx.Err()
		return nil, ctx.Err()
	})
	return w
}

func (w *waiting) wait(t *testing.T) error {
	t.Helper()
	select {
	case err := <-w.ended:
		return err
	case <-time.After(patience):
		t.Fatal("the handler's context did not end")
		return nil
	}
}

func TestCallDeadlineTravels(t *testing.T) {
	w := startWaiting(t)
	for patient := 10 * time.Millisecond; len(w.ended) == 0 && patient < patience; patient *= 2 { // on a slow machine the first may not even be sent
		ctx, cancel := context.WithTimeout(t.Context(), patient)
		_, err := w.n1.Call(ctx, 2, 1, nil)
		cancel()
		if e, ok := errors.AsType[*RPCError](err); !errors.Is(err, context.DeadlineExceeded) && (!ok || (e.Code != CodeDeadline && e.Code != CodeCanceled)) {
			t.Fatal(err)
		}
	}
	_ = w.wait(t) // by the deadline that travelled, or by the cancel, whichever is first
	if !w.withDeadline.Load() {
		t.Fatal("the deadline did not travel")
	}
}

func TestCallCancelTravels(t *testing.T) {
	w := startWaiting(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	answer := make(chan error, 1)
	go func() {
		_, err := w.n1.Call(ctx, 2, 1, nil)
		answer <- err
	}()
	eventually(t, "it runs", func() bool { return w.n2.calls.Load() > 0 })
	cancel()
	if err := <-answer; !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	if err := w.wait(t); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	eventually(t, "nothing runs", func() bool { return w.n2.calls.Load() == 0 })
}

// The caller's broker dies: its calls end at the other one.
func TestCallerDies(t *testing.T) {
	w := startWaiting(t)
	go func() { _, _ = w.n1.Call(context.Background(), 2, 1, nil) }()
	eventually(t, "the call runs", func() bool { return w.n2.calls.Load() == 1 })
	_ = w.n1.Close()
	if err := w.wait(t); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	eventually(t, "nothing runs", func() bool { return w.n2.calls.Load() == 0 })
}

// A call that is given up while its connection is being made says so, and not that a connection was closed.
func TestCallCanceledWhileDialing(t *testing.T) {
	b := newBook()
	ln, err := net.Listen("tcp", "127.0.0.1:0") // accepts in the kernel, never answers
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	b.set(2, ln.Addr().String())
	n1 := start(t, b, 1, func(o *Options) { o.DialTimeout, o.HandshakeTimeout = patience, patience })
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := n1.Call(ctx, 2, 1, nil); !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, ErrUnreachable) {
		t.Fatal(err)
	}
	// The transport's own limit is not the caller's.
	n1 = start(t, b, 1, func(o *Options) { o.DialTimeout = 20 * time.Millisecond })
	if _, err := n1.Call(t.Context(), 2, 1, nil); errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, ErrUnreachable) {
		t.Fatal(err)
	}
}

func TestCallConnectionLost(t *testing.T) {
	b := newBook()
	n1, n2 := start(t, b, 1, nil), start(t, b, 2, nil)
	n2.Handle(1, func(ctx context.Context, _ Caller, _ []byte) ([]byte, error) { <-ctx.Done(); return nil, ctx.Err() })
	errs := make(chan error, 1)
	go func() { _, err := n1.Call(context.Background(), 2, 1, nil); errs <- err }()
	eventually(t, "the call runs", func() bool { return n2.calls.Load() == 1 })
	n2.Transport.mu.Lock()
	for c := range n2.inbound {
		_ = c.conn.Close()
	}
	n2.Transport.mu.Unlock()
	if err := <-errs; !errors.Is(err, ErrConnectionLost) {
		t.Fatal(err)
	}
	n2.Handle(2, func(context.Context, Caller, []byte) ([]byte, error) { return []byte("again"), nil })
	if got, err := n1.Call(t.Context(), 2, 2, nil); err != nil || string(got) != "again" {
		t.Fatal(string(got), err)
	}
}

// The bounds at both ends: what is too much is refused at once, with a code that says so.
func TestCallsAreBounded(t *testing.T) {
	b := newBook()
	n2 := start(t, b, 2, func(o *Options) { o.MaxCallsPerConn, o.MaxCalls = 4, 6 })
	n2.Handle(1, func(ctx context.Context, _ Caller, _ []byte) ([]byte, error) { <-ctx.Done(); return nil, ctx.Err() })
	n2.Handle(2, func(context.Context, Caller, []byte) ([]byte, error) { return nil, nil })
	overloaded := func(err error) bool {
		e, ok := errors.AsType[*RPCError](err)
		return ok && e.Code == CodeOverloaded
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	fill := func(n *node, count int) {
		before := n2.calls.Load()
		for range count {
			wg.Go(func() { _, _ = n.Call(ctx, 2, 1, nil) })
		}
		eventually(t, "the calls run", func() bool { return n2.calls.Load() == before+int64(count) })
	}
	n1 := start(t, b, 1, nil)
	fill(n1, 4)
	if _, err := n1.Call(ctx, 2, 2, nil); !overloaded(err) {
		t.Fatal("beyond the connection's bound at the callee:", err)
	}
	n3 := start(t, b, 3, func(o *Options) { o.MaxCallsPerConn = 2 })
	fill(n3, 2)
	if _, err := n3.Call(ctx, 2, 2, nil); !overloaded(err) {
		t.Fatal("beyond the connection's bound at the caller:", err)
	}
	n4 := start(t, b, 4, nil)
	if _, err := n4.Call(ctx, 2, 2, nil); !overloaded(err) {
		t.Fatal("beyond the broker's bound:", err)
	}
	cancel()
	wg.Wait()
	eventually(t, "room is made", func() bool {
		_, err := n4.Call(t.Context(), 2, 2, nil)
		return err == nil
	})
}

// Connections without calls go away by themselves, and come back with the next call.
func TestCallConnectionsIdleOut(t *testing.T) {
	b := newBook()
	n1 := start(t, b, 1, func(o *Options) { o.CallIdle, o.PingInterval = 10*time.Millisecond, 5*time.Millisecond })
	n2 := start(t, b, 2, nil)
	n2.Handle(1, func(context.Context, Caller, []byte) ([]byte, error) { return nil, nil })
	for range 3 {
		if _, err := n1.Call(t.Context(), 2, 1, nil); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the connection goes", func() bool {
			n1.Transport.mu.Lock()
			defer n1.Transport.mu.Unlock()
			return len(n1.slots) == 0
		})
	}
}

// An answer of 2 GB is not waited for.
func TestCallHugeAnswer(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			if _, err := receiveHello(newFrameReader(c, 100)); err == nil {
				_ = answer(c, &identity{cluster: testCluster, self: raft.Member{ID: 2}}, maxProtocol, accepted, "")
				f := beginFrame(nil, frameResponse)
				binary.LittleEndian.PutUint32(f, 2<<30)
				_, _ = c.Write(f)
			}
		}
	}()
	n1 := start(t, newBook(), 1, nil)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if _, err := n1.CallAddr(ctx, ln.Addr().String(), 1, nil); !errors.Is(err, ErrConnectionLost) && !errors.Is(err, errRetired) {
		t.Fatal(err)
	}
}

func BenchmarkCall(b *testing.B) {
	bk := newBook()
	n1, n2 := start(b, bk, 1, nil), start(b, bk, 2, nil)
	n2.Handle(1, func(_ context.Context, _ Caller, body []byte) ([]byte, error) { return body, nil })
	for b.Loop() {
		if _, err := n1.Call(b.Context(), 2, 1, []byte("x")); err != nil {
			b.Fatal(err)
		}
	}
}

// Calls: the answering side. A connection's calls run side by side, within a bound per connection and one for the whole
// broker; beyond either a call is refused at once, so that a flood of calls costs neither memory nor goroutines.

package transport

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"

	"github.com/balsamq/balsa/raft"
)

// Caller is who makes a call. A joiner has no cluster and no node id yet.
type Caller struct {
	Cluster     ClusterID
	Node        raft.NodeID
	Incarnation raft.Incarnation
	Boot        uint64
	Addr        string // where the connection comes from; not where the caller listens
}

// Handler executes a method. ctx ends with the caller's deadline, with its connection, and with the transport. body is
// the handler's. An error that is no [*RPCError] travels as its text with [CodeInternal].
type Handler func(ctx context.Context, from Caller, body []byte) ([]byte, error)

// Handle registers a method. Registering one twice is a mistake in the program.
func (t *Transport) Handle(method uint16, h Handler) {
	t.hmu.Lock()
	defer t.hmu.Unlock()
	if t.handlers[method] != nil {
		panic(fmt.Sprintf("transport: method %d registered twice", method))
	}
	t.handlers[method] = h
}

// server is the answering end of one connection.
type server struct {
	t      *Transport
	in     *inbound
	caller Caller
	ctx    context.Context
	out    chan []byte

	mu      sync.Mutex // guards running
	running map[uint64]context.CancelFunc
}

// serveCalls reads requests until the connection fails, and returns when all its handlers have.
func (t *Transport) serveCalls(in *inbound, fr *frameReader) error {
	ctx, cancel := context.WithCancel(t.ctx)
	s := &server{
		t: t, in: in, ctx: ctx,
		caller: Caller{Cluster: in.from.cluster, Node: in.from.self.ID, Incarnation: in.from.self.Incarnation,
			Boot: in.from.boot, Addr: in.conn.RemoteAddr().String()},
		out:     make(chan []byte, t.o.MaxCallsPerConn),
		running: make(map[uint64]context.CancelFunc),
	}
	var wg sync.WaitGroup
	wg.Go(s.write)
	err := s.read(fr, &wg)
	cancel()
	_ = in.conn.Close()
	wg.Wait()
	return err
}

func (s *server) read(fr *frameReader, wg *sync.WaitGroup) error {
	pong := beginFrame(nil, framePong)
	endFrame(pong, 0)
	for {
		ft, body, err := fr.next(s.t.o.MaxFrame)
		if err != nil {
			return err
		}
		switch ft {
		case framePing:
			err = s.send(pong)
		case frameCancel:
			if len(body) != 8 {
				return fmt.Errorf("%w: cancel", errDecode)
			}
			s.mu.Lock()
			if cancel := s.running[binary.LittleEndian.Uint64(body)]; cancel != nil {
				cancel()
			}
			s.mu.Unlock()
		case frameRequest:
			r, derr := decodeRequest(body)
			if derr != nil {
				return derr
			}
			err = s.start(&r, wg)
		default:
			err = fmt.Errorf("%w: type %d on the rpc lane", errFrame, ft)
		}
		if err != nil {
			return err
		}
	}
}

// send queues a frame. The reader waits here when the caller does not read its answers: that is its own loss.
func (s *server) send(frame []byte) error {
	select {
	case s.out <- frame:
		return nil
	case <-s.ctx.Done():
		return s.ctx.Err()
	}
}

func (s *server) refuse(id uint64, code uint32, msg string) error {
	return s.send(responseFrame(&response{id: id, err: &RPCError{Code: code, Msg: msg}}))
}

func (s *server) start(r *request, wg *sync.WaitGroup) error {
	s.t.hmu.RLock()
	h := s.t.handlers[r.method]
	s.t.hmu.RUnlock()
	if h == nil {
		return s.refuse(r.id, CodeUnknownMethod, fmt.Sprintf("this broker knows no method %d; it may be older", r.method))
	}
	var ctx context.Context
	var cancel context.CancelFunc
	if r.left > 0 {
		ctx, cancel = context.WithTimeout(s.ctx, r.left)
	} else {
		ctx, cancel = context.WithCancel(s.ctx)
	}
	s.mu.Lock()
	_, twice := s.running[r.id]
	full := len(s.running) >= s.t.o.MaxCallsPerConn
	if !twice && !full {
		s.running[r.id] = cancel
	}
	s.mu.Unlock()
	if twice {
		cancel()
		return fmt.Errorf("%w: call %d twice", errDecode, r.id)
	}
	if full || s.t.calls.Add(1) > int64(s.t.o.MaxCalls) {
		if !full {
			s.t.calls.Add(-1)
			s.done(r.id)
		}
		cancel()
		return s.refuse(r.id, CodeOverloaded, "this broker executes too many calls already")
	}
	req := *r
	wg.Go(func() {
		defer s.t.calls.Add(-1)
		defer cancel()
		body, err := h(ctx, s.caller, req.body)
		s.done(req.id) // before the answer: its sender may use the room at once
		resp := response{id: req.id, body: body}
		if err != nil {
			resp = response{id: req.id, err: asRPCError(err)}
		} else if len(body) > s.t.o.MaxFrame-responseLen {
			resp = response{id: req.id, err: &RPCError{Code: CodeTooLarge, Msg: fmt.Sprintf("answer of %d bytes", len(body))}}
		}
		_ = s.send(responseFrame(&resp)) // fails only with the connection
	})
	return nil
}

func (s *server) done(id uint64) {
	s.mu.Lock()
	delete(s.running, id)
	s.mu.Unlock()
}

func asRPCError(err error) *RPCError {
	if e, ok := errors.AsType[*RPCError](err); ok && e.Code != 0 {
		return e
	}
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return &RPCError{Code: CodeDeadline, Msg: err.Error()}
	case errors.Is(err, context.Canceled):
		return &RPCError{Code: CodeCanceled, Msg: err.Error()}
	}
	return &RPCError{Code: CodeInternal, Msg: err.Error()}
}

func (s *server) write() {
	for {
		select {
		case b := <-s.out:
			bufs := drainFrames(s.out, b)
			if err := writeBuffers(s.in.conn, bufs, s.t.o.WriteTimeout); err != nil {
				_ = s.in.conn.Close() // the reader ends, and everything with it
				return
			}
		case <-s.ctx.Done():
			return
		}
	}
}

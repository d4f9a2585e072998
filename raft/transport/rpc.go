// Calls: the one RPC between brokers, the calling side. Requests and answers are multiplexed over one connection per
// target; each call has its deadline, which travels with it. A body begins with a version byte, which is the method's
// business.

package transport

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/balsamq/balsa/raft"
)

// Codes of RPCError below 100 are the transport's; a handler's own begin at 100.
const (
	CodeInternal      uint32 = 1 // the handler returned an error that is not an *RPCError
	CodeUnknownMethod uint32 = 2
	CodeOverloaded    uint32 = 3 // too many calls; not executed
	CodeDeadline      uint32 = 4 // the deadline passed at the other broker
	CodeCanceled      uint32 = 5
	CodeTooLarge      uint32 = 6 // the request, or the answer, does not fit a frame
	CodeUser          uint32 = 100
)

// RPCError is an error that the other broker answered with. Handlers return one to choose the code.
type RPCError struct {
	Code uint32
	Msg  string
}

func (e *RPCError) Error() string { return fmt.Sprintf("broker answered: %s (code %d)", e.Msg, e.Code) }

const (
	requestLen  = 8 + 2 + 8 // id, method, nanoseconds left (0: no deadline)
	responseLen = 8 + 4 + 4 // id, code (0: ok), length of the message; then message, then body

	// maxErrorMsg bounds the text of an error that travels.
	maxErrorMsg = 4 << 10
	// maxCallBatch bounds the frames of one write on the rpc lane.
	maxCallBatch = 64
)

type request struct {
	id     uint64
	method uint16
	left   time.Duration
	body   []byte
}

func requestFrame(r *request) []byte {
	b := make([]byte, 0, frameHeaderLen+requestLen+len(r.body))
	b = beginFrame(b, frameRequest)
	b = binary.LittleEndian.AppendUint64(b, r.id)
	b = binary.LittleEndian.AppendUint16(b, r.method)
	b = binary.LittleEndian.AppendUint64(b, uint64(r.left))
	b = append(b, r.body...)
	endFrame(b, 0)
	return b
}

func decodeRequest(b []byte) (request, error) {
	if len(b) < requestLen {
		return request{}, fmt.Errorf("%w: request", errDecode)
	}
	r := request{
		id:     binary.LittleEndian.Uint64(b),
		method: binary.LittleEndian.Uint16(b[8:]),
		left:   time.Duration(binary.LittleEndian.Uint64(b[10:])),
		body:   b[requestLen:],
	}
	if r.left < 0 {
		return request{}, fmt.Errorf("%w: request", errDecode)
	}
	return r, nil
}

type response struct {
	id   uint64
	err  *RPCError
	body []byte
}

func responseFrame(r *response) []byte {
	var code uint32
	var msg string
	if r.err != nil {
		code, msg = r.err.Code, r.err.Msg[:min(len(r.err.Msg), maxErrorMsg)]
	}
	b := make([]byte, 0, frameHeaderLen+responseLen+len(msg)+len(r.body))
	b = beginFrame(b, frameResponse)
	b = binary.LittleEndian.AppendUint64(b, r.id)
	b = binary.LittleEndian.AppendUint32(b, code)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(msg)))
	b = append(b, msg...)
	b = append(b, r.body...)
	endFrame(b, 0)
	return b
}

func decodeResponse(b []byte) (response, error) {
	if len(b) < responseLen {
		return response{}, fmt.Errorf("%w: response", errDecode)
	}
	code, n := binary.LittleEndian.Uint32(b[8:]), binary.LittleEndian.Uint32(b[12:])
	if n > maxErrorMsg || int(n) > len(b)-responseLen {
		return response{}, fmt.Errorf("%w: response", errDecode)
	}
	r := response{id: binary.LittleEndian.Uint64(b), body: b[responseLen+int(n):]}
	if code != 0 {
		r.err = &RPCError{Code: code, Msg: string(b[responseLen : responseLen+int(n)])}
	}
	return r, nil
}

// callKey is whom calls go to: a node, wherever it lives, or whoever answers at an address.
type callKey struct {
	node raft.NodeID
	addr string
}

// callSlot holds the connection of one target, and makes one caller at a time dial.
type callSlot struct {
	dialing chan struct{} // capacity 1: a lock that a context can give up waiting for
	mu      sync.Mutex    // guards conn
	conn    *callConn
}

func (s *callSlot) retire() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn != nil {
		s.conn.retire()
	}
}

// Call executes a method on a node. The error is an [*RPCError] if the other broker answered with one; else ctx's,
// [ErrUnreachable], [ErrConnectionLost] or [ErrClosed]. The answer is the caller's.
func (t *Transport) Call(ctx context.Context, node raft.NodeID, method uint16, body []byte) ([]byte, error) {
	if node == 0 {
		return nil, fmt.Errorf("call node 0: %w", ErrUnreachable)
	}
	return t.call(ctx, callKey{node: node}, method, body)
}

// CallAddr executes a method on whichever broker listens at addr. A joiner knows no more than that.
func (t *Transport) CallAddr(ctx context.Context, addr string, method uint16, body []byte) ([]byte, error) {
	return t.call(ctx, callKey{addr: addr}, method, body)
}

func (t *Transport) call(ctx context.Context, key callKey, method uint16, body []byte) ([]byte, error) {
	if len(body) > t.o.MaxFrame-requestLen {
		return nil, &RPCError{Code: CodeTooLarge, Msg: fmt.Sprintf("request of %d bytes", len(body))}
	}
	for attempt := 0; ; attempt++ {
		c, err := t.callConn(ctx, key)
		if err != nil {
			return nil, err
		}
		b, err := c.call(ctx, method, body)
		// A connection that was retired between the two lines above has sent nothing yet.
		if errors.Is(err, errRetired) && attempt < 3 {
			continue
		}
		return b, err
	}
}

// callConn returns a live connection to the target, dialing if there is none.
func (t *Transport) callConn(ctx context.Context, key callKey) (*callConn, error) {
	t.mu.Lock()
	if t.closed {
		t.mu.Unlock()
		return nil, ErrClosed
	}
	s := t.slots[key]
	if s == nil {
		if len(t.slots) >= t.o.MaxPeers {
			t.mu.Unlock()
			return nil, fmt.Errorf("%w: calls to %d brokers already", ErrUnreachable, t.o.MaxPeers)
		}
		s = &callSlot{dialing: make(chan struct{}, 1)}
		t.slots[key] = s
	}
	t.mu.Unlock()
	live := func() *callConn {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.conn != nil && s.conn.usable() {
			return s.conn
		}
		return nil
	}
	if c := live(); c != nil {
		return c, nil
	}
	select {
	case s.dialing <- struct{}{}:
		defer func() { <-s.dialing }()
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: %w", ErrUnreachable, context.Cause(ctx))
	case <-t.ctx.Done():
		return nil, ErrClosed
	}
	if c := live(); c != nil {
		return c, nil
	}
	addr := key.addr
	if key.node != 0 {
		var ok bool
		if addr, ok = t.o.Resolve(key.node); !ok {
			t.dropSlot(key, s)
			return nil, fmt.Errorf("%w: node %d: %w", ErrUnreachable, key.node, errNoAddress)
		}
	}
	// Dialing ends with the transport as well as with the caller's patience.
	dctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(t.ctx, cancel)()
	nc, fr, w, err := t.connect(dctx, addr, laneRPC, key.node)
	if err != nil {
		t.dropSlot(key, s)
		if t.ctx.Err() != nil {
			return nil, ErrClosed
		}
		return nil, fmt.Errorf("%w: %s: %w", ErrUnreachable, addr, err)
	}
	c := &callConn{
		t: t, nc: nc, peer: w.identity,
		out: make(chan []byte, t.o.MaxCallsPerConn), dead: make(chan struct{}),
		pending: make(map[uint64]chan response),
	}
	s.mu.Lock()
	s.conn = c
	s.mu.Unlock()
	t.mu.RLock()
	if t.closed { // Close may be waiting already: add nothing
		t.mu.RUnlock()
		c.fail(ErrClosed)
		return nil, ErrClosed
	}
	t.wg.Go(func() {
		c.read(fr)
		t.dropSlot(key, s)
	})
	t.wg.Go(c.write)
	t.mu.RUnlock()
	return c, nil
}

// dropSlot forgets a target that has no live connection.
func (t *Transport) dropSlot(key callKey, s *callSlot) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s.mu.Lock()
	gone := s.conn == nil || !s.conn.usable()
	s.mu.Unlock()
	if gone && t.slots[key] == s {
		delete(t.slots, key)
	}
}

// callConn is the calling end of one connection.
type callConn struct {
	t    *Transport
	nc   net.Conn
	peer identity
	out  chan []byte
	dead chan struct{} // closed by fail, after err is set

	mu       sync.Mutex // guards the rest
	pending  map[uint64]chan response
	nextID   uint64
	retired  bool // no new calls; closed with its last one
	failed   bool
	err      error
	answered time.Time // when the other side was last heard
	idle     time.Time // since when nothing is pending
}

func (c *callConn) usable() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.failed && !c.retired
}

func (c *callConn) retire() {
	c.mu.Lock()
	c.retired = true
	empty := len(c.pending) == 0
	c.mu.Unlock()
	if empty {
		c.fail(errRetired)
	}
}

func (c *callConn) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.failed {
		return
	}
	c.failed, c.err = true, err
	close(c.dead)
	_ = c.nc.Close()
}

func (c *callConn) call(ctx context.Context, method uint16, body []byte) ([]byte, error) {
	var left time.Duration
	if d, ok := ctx.Deadline(); ok {
		if left = time.Until(d); left <= 0 {
			return nil, fmt.Errorf("%w: %w", ErrUnreachable, context.DeadlineExceeded)
		}
	}
	answer := make(chan response, 1)
	c.mu.Lock()
	switch {
	case c.failed || c.retired:
		c.mu.Unlock()
		return nil, errRetired
	case len(c.pending) >= c.t.o.MaxCallsPerConn:
		c.mu.Unlock()
		return nil, &RPCError{Code: CodeOverloaded, Msg: "too many calls to this broker are waiting for their answer"}
	}
	c.nextID++
	id := c.nextID
	c.pending[id] = answer
	c.mu.Unlock()
	defer c.forget(id)

	select {
	case c.out <- requestFrame(&request{id: id, method: method, left: left, body: body}):
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: %w", ErrUnreachable, context.Cause(ctx))
	case <-c.dead:
		return nil, errRetired
	}
	select {
	case r := <-answer:
		if r.err != nil {
			return nil, r.err
		}
		return r.body, nil
	case <-ctx.Done():
		b := binary.LittleEndian.AppendUint64(beginFrame(nil, frameCancel), id)
		endFrame(b, 0)
		select {
		case c.out <- b:
		default: // busy; the deadline that travelled with the call does the same
		}
		return nil, context.Cause(ctx)
	case <-c.dead:
		select {
		case r := <-answer: // it came just before the end
			if r.err != nil {
				return nil, r.err
			}
			return r.body, nil
		default:
		}
		if errors.Is(c.err, ErrClosed) {
			return nil, ErrClosed
		}
		return nil, fmt.Errorf("%w: node %d: %w", ErrConnectionLost, c.peer.self.ID, c.err)
	}
}

// forget takes a call off the list.
func (c *callConn) forget(id uint64) {
	c.mu.Lock()
	delete(c.pending, id)
	last := len(c.pending) == 0
	if last {
		c.idle = time.Now()
	}
	retired := c.retired
	c.mu.Unlock()
	if last && retired {
		c.fail(errRetired)
	}
}

func (c *callConn) read(fr *frameReader) {
	for {
		ft, body, err := fr.next(c.t.o.MaxFrame)
		if err != nil {
			c.fail(err)
			return
		}
		c.t.stats.receivedBytes.Add(uint64(frameHeaderLen + len(body)))
		c.mu.Lock()
		c.answered = time.Now()
		c.mu.Unlock()
		switch ft {
		case framePong:
		case frameResponse:
			r, err := decodeResponse(body)
			if err != nil {
				c.fail(err)
				return
			}
			c.mu.Lock()
			answer := c.pending[r.id]
			delete(c.pending, r.id) // a second answer finds nobody
			c.mu.Unlock()
			if answer != nil {
				answer <- r
			}
		default:
			c.fail(fmt.Errorf("%w: type %d as an answer", errFrame, ft))
			return
		}
	}
}

// write writes what calls queue, pings, and ends the connection when it is dead or idle.
func (c *callConn) write() {
	defer context.AfterFunc(c.t.ctx, func() { c.fail(ErrClosed) })()
	ping := beginFrame(nil, framePing)
	endFrame(ping, 0)
	ticker := time.NewTicker(c.t.o.PingInterval)
	defer ticker.Stop()
	var unanswered time.Time
	opened := time.Now()
	for {
		var bufs net.Buffers
		select {
		case b := <-c.out:
			bufs = drainFrames(c.out, b)
		case <-ticker.C:
			c.mu.Lock()
			if c.answered.After(unanswered) {
				unanswered = time.Time{}
			}
			idle := len(c.pending) == 0 && time.Since(later(c.idle, opened)) > c.t.o.CallIdle
			if idle {
				c.retired = true
			}
			c.mu.Unlock()
			switch {
			case idle:
				c.fail(errRetired)
				return
			case unanswered.IsZero():
				unanswered = time.Now()
			case time.Since(unanswered) > c.t.o.PingTimeout:
				c.fail(errPingUnsaid)
				return
			}
			bufs = net.Buffers{ping}
		case <-c.dead:
			return
		}
		var n int
		for _, b := range bufs {
			n += len(b)
		}
		if err := writeBuffers(c.nc, bufs, c.t.o.WriteTimeout); err != nil {
			c.fail(err)
			return
		}
		c.t.stats.callBytes.Add(uint64(n))
	}
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// drainFrames adds what else is queued, up to a bound, to the first frame.
func drainFrames(out <-chan []byte, first []byte) net.Buffers {
	bufs := net.Buffers{first}
	for len(bufs) < maxCallBatch {
		select {
		case b := <-out:
			bufs = append(bufs, b)
		default:
			return bufs
		}
	}
	return bufs
}

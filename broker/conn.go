// One client connection: a goroutine that reads requests and hands them to their handlers, and a queue that puts the
// responses back into the requests' order.
//
// Handlers run on the reader's goroutine and must not wait for anything but the disk: what takes time is answered later, by
// whoever completes it, through request.respond. So requests of one connection overlap (at most MaxInflight of them),
// and a thousand waiting fetches are a thousand entries in queues. A connection that waits is one goroutine, blocked in
// read; a second one exists only while there is something to write that the reader does not write itself.

package broker

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/balsamq/balsa/internal/sock"
	"github.com/balsamq/balsa/protocol"
)

const (
	readBuffer = 4 << 10
	// writeChunk is how much is written under one deadline, so that a slow reader is told from a dead one.
	writeChunk = 1 << 20
	// tlsJoin is the size of a TLS record.
	tlsJoin = 16 << 10
)

type conn struct {
	s        *server
	nc       net.Conn
	ip       string
	addr     netip.Addr // ip, for ACLs; not valid if it is none
	listener string
	ctx      context.Context // ends with the connection
	cancel   context.CancelFunc
	slots    chan struct{} // one for each request in flight
	records  *budget       // what its produce requests may hold
	control  *budget       // and all others

	auth    authState               // what it takes to prove who it is; the reader's own
	session atomic.Pointer[session] // who it speaks for; nil until it has proved it
	audited auditLog
	client  atomic.Pointer[string] // software name and version, once told
	sent    redirects              // consumers' partitions that were sent to other replicas
	source  *source                // its address; nil before it is admitted
	muted   atomic.Int64           // until when nothing is read, by its quotas, in nanoseconds; 0: it is

	arrival arrival // of the request that is being read

	mu      sync.Mutex // guards what follows; a leaf
	queue   []*request // in order of arrival, not yet written
	writing bool       // somebody is writing, or about to
	closed  bool
}

// request is one request on its way. A handler ends it by exactly one of respond, write, discard and abort, at any time
// and from any goroutine.
type request struct {
	c      *conn
	header protocol.RequestHeader
	msg    kmsg.Request
	size   int64               // of the frame
	start  time.Time           // when it had been read
	amend  func(kmsg.Response) // completes the answer; nil: nothing to complete
	// throttled is for how long the client shall wait, by its quotas, in nanoseconds.
	throttled atomic.Int64
	// quotaClient is the client id, where there are quotas.
	quotaClient string
	held        atomic.Int32 // why the frame's bytes are still needed; at 0 their memory is given back
	frame       *[]byte      // that memory, if takeFrame gave it

	// Guarded by conn.mu.
	done     bool
	handling bool // the handler has not returned: its reader looks after the writing
	out      net.Buffers
	written  func() // called once out was written, or dropped
	onClose  func() // called if the connection closes first
}

func newConn(s *server, nc net.Conn, ip string, l Listener) *conn {
	ctx, cancel := context.WithCancel(s.ctx)
	c := &conn{s: s, nc: nc, ip: ip, listener: l.Name, ctx: ctx, cancel: cancel, slots: make(chan struct{}, s.o.MaxInflight),
		records: newBudget(s.o.ConnectionMemory), control: newBudget(connectionControl)}
	if a, err := netip.ParseAddr(ip); err == nil {
		c.addr = a.Unmap().WithZone("")
	}
	c.beginAuth(l)
	return c
}

// errIdle closes a connection without a word in the log.
var errIdle = errors.New("idle for too long")

// read is the reader's goroutine.
func (c *conn) read() {
	err := c.handshake()
	if err == nil {
		err = c.readRequests()
	}
	if errors.Is(err, errProtocol) {
		c.s.met.protocolErrors.Inc()
	}
	c.close(err)
	c.s.forget(c)
}

func (c *conn) readRequests() error {
	br := bufio.NewReaderSize(c.nc, readBuffer)
	for {
		if err := c.awaitRequest(br); err != nil {
			return err
		}
		if err := c.awaitUnmuted(); err != nil {
			return err
		}
		if c.auth.bare && c.auth.exchange != nil {
			if err := c.bareToken(stallReader{c: c, br: br}); err != nil {
				return err
			}
			continue
		}
		select {
		case c.slots <- struct{}{}:
		case <-c.ctx.Done():
			return c.ctx.Err()
		}
		start, _ := br.Peek(min(br.Buffered(), strangerBytes))
		hint := stranger(start)
		n, err := protocol.ReadFrameSize(br, c.s.o.MaxRequestBytes)
		if err != nil {
			if hint != "" {
				err = fmt.Errorf("%w: %s", err, hint)
			}
			return err
		}
		a, err := c.admitRequest(br, n)
		if err != nil {
			return err
		}
		in, err := c.acquire(br, a, n)
		if err != nil {
			return err
		}
		r, err := c.readRequest(br, a, in, n)
		if err != nil {
			c.abandon(a, in, n)
			return err
		}
		if err := c.serve(r); err != nil {
			return err
		}
	}
}

// strangerBytes is how much of a request's beginning tells what a peer speaks instead of Kafka.
const strangerBytes = 20

// stranger tells from the first bytes of a request what a peer takes this port for; empty: it may well be Kafka.
func stranger(start []byte) string {
	has := func(prefix string) bool { return bytes.HasPrefix(start, []byte(prefix)) }
	switch {
	case has("\x16\x03"):
		return "the client speaks TLS, and this listener does not (security.protocol=PLAINTEXT)"
	case has("GET ") || has("POST") || has("HEAD") || has("PUT ") || has("OPTI"):
		return "the client speaks HTTP"
	case bytes.Contains(start, []byte("BALSAB2B")):
		return "a broker calls here: its --join must name rpc addresses, not those for Kafka clients"
	}
	return ""
}

// awaitRequest waits for the first bytes of a request, for as long as something is in flight or IdleTimeout allows.
func (c *conn) awaitRequest(br *bufio.Reader) error {
	if br.Buffered() >= 4 {
		return nil
	}
	for {
		if err := c.nc.SetReadDeadline(time.Now().Add(time.Duration(c.s.limits.idle.Load()))); err != nil {
			return err
		}
		_, err := br.Peek(4)
		if err == nil || !errors.Is(err, os.ErrDeadlineExceeded) {
			return err
		}
		if len(c.slots) == 0 || br.Buffered() > 0 {
			return errIdle
		}
	}
}

// admitRequest finds out what kind of request comes next, and whether one of that kind may have n bytes: before
// memory is taken for it.
func (c *conn) admitRequest(br *bufio.Reader, n int) (*api, error) {
	if br.Buffered() < n {
		if err := c.nc.SetReadDeadline(time.Now().Add(c.s.o.StallTimeout)); err != nil {
			return nil, err
		}
	}
	head, err := br.Peek(4)
	if err != nil {
		return nil, truncated(err)
	}
	key, version := int16(binary.BigEndian.Uint16(head)), int16(binary.BigEndian.Uint16(head[2:]))
	a := findAPI(key)
	if a == nil {
		return nil, fmt.Errorf("%w: api key %d (%s) is not served", errProtocol, key, kmsg.NameForKey(key))
	}
	if err := c.mayAsk(a, n); err != nil {
		return nil, err
	}
	if n > a.maxBytes {
		return nil, fmt.Errorf("%w: a %s request of %d bytes, at most %d", errProtocol, kmsg.NameForKey(key), n, a.maxBytes)
	}
	if _, ok := headerVersion(key, version); !ok {
		return nil, fmt.Errorf("%w: %s version %d is not served", errProtocol, kmsg.NameForKey(key), version)
	}
	return a, nil
}

func truncated(err error) error {
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("truncated request: %w", err)
}

// awaitEntry waits until a request of n bytes has so many of them here that it may ask for memory.
func (c *conn) awaitEntry(br *bufio.Reader, n int) error {
	for want := min(n, entryBytes); br.Buffered() < want; {
		if err := c.nc.SetReadDeadline(time.Now().Add(c.s.o.StallTimeout)); err != nil {
			return err
		}
		if _, err := br.Peek(br.Buffered() + 1); err != nil {
			return truncated(err)
		}
	}
	return nil
}

// readRequest reads and decodes a frame of n bytes, for which acquire has got memory, or the first of it; arrival is nil for what anybody may send.
func (c *conn) readRequest(br *bufio.Reader, a *api, arrival *arrival, n int) (*request, error) {
	var frame []byte
	var pooled *[]byte
	var err error
	in := stallReader{c: c, br: br, arrival: arrival}
	switch {
	case arrival != nil && arrival.held < arrival.size:
		frame, pooled, err = c.s.arriving[c.s.memoryOf(a)].readParts(c.ctx, in, arrival, a.key == keyProduce)
	case a.key == keyProduce:
		frame, pooled, err = readPooled(in, n)
	default:
		frame, err = protocol.ReadFrameBody(in, n)
	}
	if arrival != nil { // what follows is not the peer's to hurry
		c.s.arriving[c.s.memoryOf(a)].end(arrival)
	}
	if err != nil {
		return nil, truncated(err)
	}
	h, body, err := protocol.ParseRequestHeader(frame, headerVersion)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errProtocol, err)
	}
	c.s.met.bytesIn.Add(float64(4 + n))
	r := &request{c: c, header: h, size: int64(n), start: time.Now(), frame: pooled}
	r.held.Store(1)
	r.msg = kmsg.RequestForKey(h.Key)
	r.msg.SetVersion(h.Version)
	if h.Version < a.min || h.Version > a.max {
		return r, nil // ApiVersions, whose handler looks at the version first
	}
	if err := c.decode(a, r.msg, body); err != nil {
		return nil, fmt.Errorf("%w: %s version %d: %w", errProtocol, kmsg.NameForKey(h.Key), h.Version, err)
	}
	return r, nil
}

// errProtocol: the peer does not speak Kafka, or not a Kafka that we know. It costs it the connection.
var errProtocol = errors.New("protocol error")

// decode parses a body, of which prescan has found that it is what it claims to be. Produce's elements are few, and its
// records are not copied; in the others a byte may still become dozens, for which a large body waits.
func (c *conn) decode(a *api, msg kmsg.Request, body []byte) (err error) {
	if _, err := prescan(a, msg.GetVersion(), msg.IsFlexible(), body); err != nil {
		return err
	}
	if a.key != keyProduce && len(body) > decodeFree {
		cost := min(int64(len(body))*decodeFactor, decodeMemory)
		if err := c.s.decoding.Acquire(c.ctx, cost); err != nil {
			return err
		}
		defer c.s.decoding.Release(cost)
	}
	// kmsg is not ours, and the bytes are a stranger's: a slip in there must not end the broker.
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic in the decoder: %v", p)
		}
	}()
	if msg.ReadFrom(body) != nil { // its own words speak of responses
		return errMalformed
	}
	return nil
}

// stallReader renews the read deadline while a large frame makes progress.
type stallReader struct {
	c       *conn
	br      *bufio.Reader
	arrival *arrival // what is counted, or nil
}

func (r stallReader) Read(p []byte) (int, error) {
	if r.br.Buffered() == 0 {
		if err := r.c.nc.SetReadDeadline(time.Now().Add(r.c.s.o.StallTimeout)); err != nil {
			return 0, err
		}
	}
	n, err := r.br.Read(p)
	if r.arrival != nil {
		r.arrival.got.Add(int64(n))
	}
	return n, err
}

// serve queues r and runs its handler.
func (c *conn) serve(r *request) error {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		r.release()
		return net.ErrClosed
	}
	r.handling = true
	c.queue = append(c.queue, r)
	c.mu.Unlock()

	if c.session.Load() != nil && c.s.b.Image().HasQuotas() {
		// What the client owes is in this answer; what the request itself costs is known afterwards. Who has not proved yet who it is has
		// no account: all such connections would share one, and a few failed logins would mute them all.
		begun := time.Now()
		r.quotaClient = string(r.header.ClientID)
		r.charge(quotaRequest, 0, false)
		c.s.dispatch(r)
		r.worked(time.Since(begun))
	} else {
		c.s.dispatch(r)
	}

	c.mu.Lock()
	r.handling = false
	write := c.claim()
	c.mu.Unlock()
	if write {
		c.drain(true)
	}
	return c.auth.failed
}

// claim reports that the caller must drain: there is something to write, and nobody is about to. c.mu is held.
func (c *conn) claim() bool {
	if c.writing || len(c.queue) == 0 || !c.queue[0].done {
		return false
	}
	c.writing = true
	return true
}

// finish ends a request with what is to be written, nil for nothing.
func (r *request) finish(out net.Buffers, written func()) {
	c := r.c
	c.mu.Lock()
	if r.done {
		c.mu.Unlock()
		panic(fmt.Sprintf("broker: %s answered twice", kmsg.NameForKey(r.header.Key)))
	}
	r.done, r.out, r.written, r.onClose = true, out, written, nil
	if c.closed {
		c.mu.Unlock()
		r.dropped()
		return
	}
	write := !r.handling && c.claim()
	c.mu.Unlock()
	if write {
		go c.drain(false)
	}
}

// respond ends the request with a message.
func (r *request) respond(resp kmsg.Response) {
	if r.amend != nil {
		r.amend(resp)
	}
	resp.SetVersion(r.header.Version)
	r.respondVersion(resp)
}

// respondVersion is respond for a message that has its version already (ApiVersions may answer in another one).
func (r *request) respondVersion(resp kmsg.Response) {
	if wait := r.throttleMillis(); wait > 0 {
		if t, ok := resp.(kmsg.SetThrottleResponse); ok {
			t.SetThrottle(wait)
		}
	}
	b := make([]byte, 4, 256)
	b = protocol.AppendResponseHeader(b, r.header.Key, r.header.CorrelationID, resp.IsFlexible())
	b = resp.AppendTo(b)
	binary.BigEndian.PutUint32(b, uint32(len(b)-4))
	r.finish(net.Buffers{b}, nil)
}

// write ends the request with a frame, length and header included. The buffers are the connection's until written has
// been called.
func (r *request) write(frame net.Buffers, written func()) { r.finish(frame, written) }

// discard ends a request that has no response (acks=0).
func (r *request) discard() { r.finish(nil, nil) }

// abort ends the request by closing its connection.
func (r *request) abort(err error) {
	r.finish(nil, nil)
	r.c.close(err)
}

// whenClosed sets what is called if the connection closes before the request is done. It is called at once if that has
// happened already, and not at all if the request is done. fn must end the request.
func (r *request) whenClosed(fn func()) {
	r.c.mu.Lock()
	closed := r.c.closed && !r.done
	if !r.done {
		r.onClose = fn
	}
	r.c.mu.Unlock()
	if closed {
		fn()
	}
}

// hold says that the frame's bytes are needed beyond the response; release undoes it.
func (r *request) hold() { r.held.Add(1) }

// surrender gives the frame's memory back before the answer. It is for handlers whose answer waits for other clients'
// requests, and which have copied what they need: a rebalance whose first members held all the memory that the last ones need to join
// would never end. It comes before anybody else can end the request, and after it neither msg's bytes nor header.ClientID may be used.
func (r *request) surrender() {
	r.c.giveBack(findAPI(r.header.Key), r.size)
	r.size, r.header.ClientID = 0, nil
}

func (r *request) release() {
	if r.held.Add(-1) == 0 {
		r.c.giveBack(findAPI(r.header.Key), r.size)
		if r.frame != nil {
			giveFrame(r.frame)
			r.frame = nil
		}
	}
}

// dropped gives back what a finished request holds.
func (r *request) dropped() {
	if r.written != nil {
		r.written()
		r.written = nil
	}
	r.out = nil
	r.release()
	<-r.c.slots
}

// drain writes the responses that are next in order. Only the one who claimed may call it. On the reader's goroutine it
// goes once and leaves the rest to another, so that reading goes on.
func (c *conn) drain(onReader bool) {
	for {
		c.mu.Lock()
		n := 0
		for n < len(c.queue) && c.queue[n].done && n < maxWriteBatch {
			n++
		}
		if n == 0 || c.closed {
			c.writing = false
			c.mu.Unlock()
			return
		}
		batch := append([]*request(nil), c.queue[:n]...)
		k := copy(c.queue, c.queue[n:])
		clear(c.queue[k:])
		c.queue = c.queue[:k]
		c.mu.Unlock()

		err := c.writeOut(batch)
		if err == nil {
			c.s.met.answered(batch)
		}
		for _, r := range batch {
			r.dropped()
		}
		if err != nil {
			c.close(fmt.Errorf("write: %w", err))
		}
		if onReader {
			c.mu.Lock()
			c.writing = false
			more := c.claim()
			c.mu.Unlock()
			if more {
				go c.drain(false)
			}
			return
		}
	}
}

// maxWriteBatch is how many responses go into one write.
const maxWriteBatch = 64

func (c *conn) writeOut(batch []*request) error {
	out := batch[0].out
	for _, r := range batch[1:] {
		out = append(out, r.out...)
	}
	for len(out) > 0 {
		n, size := 0, 0
		for n < len(out) && size < writeChunk {
			if room := writeChunk - size; len(out[n]) > room {
				// Split a large buffer, so that each part has its deadline.
				out = append(out[:n:n], append(net.Buffers{out[n][:room], out[n][room:]}, out[n+1:]...)...)
			}
			size += len(out[n])
			n++
		}
		if err := c.nc.SetWriteDeadline(time.Now().Add(c.s.o.StallTimeout)); err != nil {
			return err
		}
		part := out[:n:n]
		written, err := c.writePart(part)
		c.s.met.bytesOut.Add(float64(written))
		if err != nil {
			return err
		}
		out = out[n:]
	}
	return nil
}

// writePart writes buffers. For TLS, which knows no writev, they are copied together: a record for each small one would cost more.
func (c *conn) writePart(part net.Buffers) (int64, error) {
	if c.auth.tls == nil || len(part) == 1 {
		return sock.WriteBuffers(c.nc, &part)
	}
	w := bufio.NewWriterSize(c.nc, tlsJoin)
	n := int64(0)
	for _, b := range part {
		k, err := w.Write(b)
		n += int64(k)
		if err != nil {
			return n, err
		}
	}
	return n, w.Flush()
}

// close closes the connection, once, and lets go of what its requests wait for.
func (c *conn) close(err error) {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return
	}
	c.closed = true
	queue := c.queue
	c.queue = nil
	var drop []*request
	var calls []func()
	for _, r := range queue {
		switch {
		case r.done:
			drop = append(drop, r)
		case r.onClose != nil:
			calls = append(calls, r.onClose)
		}
	}
	c.mu.Unlock()
	c.cancel()
	c.auth.raw.Close() // not by way of TLS, which would wait for the peer to take its farewell
	if t := c.auth.timer; t != nil {
		t.Stop()
	}
	for _, r := range drop {
		r.dropped()
	}
	for _, fn := range calls {
		fn()
	}
	if !quiet(err) {
		args := []any{"remote", c.nc.RemoteAddr().String(), "listener", c.listener, "reason", err}
		if name := c.client.Load(); name != nil {
			args = append(args, "client", *name)
		}
		c.s.complain("connection closed", args...)
	}
}

// quiet are the ordinary ends of a connection.
func quiet(err error) bool {
	var op *net.OpError
	return err == nil || errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) || errors.Is(err, errIdle) ||
		errors.Is(err, errServerClosed) || errors.Is(err, context.Canceled) || errors.As(err, &op) && !errors.Is(err, errTLS)
}

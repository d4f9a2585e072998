// Package transport carries everything that brokers say to each other, over TCP. It satisfies multi.Transport and has
// the one broker-to-broker RPC.
//
// Four lanes lead from a broker to each other broker, and each is a connection of its own with a writer of its own, so
// that what is small and urgent never waits in a socket behind what is large:
//
//	control  heartbeats, votes, acknowledgements, pair messages, offers of snapshots and requests for their pieces; when its queue is full the oldest is dropped, since
//	         newer ones say more
//	bulk     every MsgApp. Empty ones go here too: they speak of a place in the log, and would be refused if they overtook the
//	         entries before it. When the queue is full the newest is dropped, since what is behind a gap is refused
//	chunk    pieces of snapshots, so that none stands in a socket before entries. Connected only while snapshots are sent
//	rpc      requests and answers, multiplexed
//
// Raft repeats what is lost, so nothing is resent here: when a connection fails, what was queued is dropped, and
// OnUnreachable says so. All but rpc connections carry messages one way, from the broker that dialed.
package transport

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/balsamq/balsa/raft"
	"github.com/balsamq/balsa/raft/multi"
)

var _ multi.Transport = (*Transport)(nil)

var (
	// ErrClosed is returned by calls after Close.
	ErrClosed = errors.New("transport is closed")
	// ErrUnreachable is returned by calls that never left this machine.
	ErrUnreachable = errors.New("broker is unreachable")
	// ErrConnectionLost is returned by calls whose connection failed after they were sent: they may have been executed.
	ErrConnectionLost = errors.New("connection to broker was lost")

	errDialTimeout = errors.New("no answer within the dial timeout")
)

// Options of a transport. Zero values mean the defaults given.
type Options struct {
	ClusterID ClusterID   // zero: a joiner, which can only make and answer calls until SetIdentity
	Self      raft.Member // ID 0 for a joiner
	Boot      uint64      // starts of this process on its data directory

	// Listener, or the address to listen on; neither: nothing is accepted.
	Listener   net.Listener
	ListenAddr string
	// Dial connects to a broker. Default: TCP. A place for TLS.
	Dial func(ctx context.Context, addr string) (net.Conn, error)
	// Resolve says where a node listens at the moment; it is asked before each dial. It must not block.
	Resolve func(raft.NodeID) (addr string, ok bool)

	// Deliver and DeliverPair take what arrives, from many goroutines, and must not block. What comes is theirs, but for the slice of messages,
	// which is the transport's again afterwards; an entry has nothing but its Frame.
	Deliver      func([]raft.Message)
	DeliverPair  func(from raft.NodeID, m *multi.PairMessage)
	DeliverChunk func(from raft.NodeID, m *multi.ChunkMessage)
	// OnUnreachable is told when a control or bulk connection failed or could not be made, and messages were
	// dropped. It must not block.
	OnUnreachable func(raft.NodeID)
	Logger        *slog.Logger

	MaxFrame         int // bytes of a frame on the bulk, chunk and rpc lanes, both ways. 64 MiB
	MaxControlQueued int // messages per peer. 65536
	MaxControlBytes  int // 16 MiB
	MaxBulkQueued    int // messages per peer. 8192
	MaxBulkBytes     int // 64 MiB; a single larger message still passes
	MaxConns         int // accepted connections. 1024
	MaxHandshakes    int // … that have not said who they are. 128
	MaxPeers         int // nodes that are sent to. 4096
	MaxCallsPerConn  int // calls on one connection that wait for their answer, at either end. 256
	MaxCalls         int // calls of others that are executed at once. 1024

	HandshakeTimeout time.Duration // 3 s
	DialTimeout      time.Duration // 2 s
	PingInterval     time.Duration // 1 s
	PingTimeout      time.Duration // 5 s without an answer fail a connection; three times that on the bulk lane
	WriteTimeout     time.Duration // 10 s; three times that on the bulk lane
	IdleTimeout      time.Duration // an accepted connection that says nothing, not even a ping, is closed. 30 s
	BackoffMin       time.Duration // 20 ms
	BackoffMax       time.Duration // 1 s
	CallIdle         time.Duration // rpc connections without calls are closed. 1 min
}

func or[T int | int64 | time.Duration](v *T, def T) {
	if *v == 0 {
		*v = def
	}
}

func (o *Options) setDefaults() error {
	or(&o.MaxFrame, 64<<20)
	or(&o.MaxControlQueued, 1<<16)
	or(&o.MaxControlBytes, 16<<20)
	or(&o.MaxBulkQueued, 8192)
	or(&o.MaxBulkBytes, 64<<20)
	or(&o.MaxConns, 1024)
	or(&o.MaxHandshakes, 128)
	or(&o.MaxPeers, 4096)
	or(&o.MaxCallsPerConn, 256)
	or(&o.MaxCalls, 1024)
	or(&o.HandshakeTimeout, 3*time.Second)
	or(&o.DialTimeout, 2*time.Second)
	or(&o.PingInterval, time.Second)
	or(&o.PingTimeout, 5*time.Second)
	or(&o.WriteTimeout, 10*time.Second)
	or(&o.IdleTimeout, 30*time.Second)
	or(&o.BackoffMin, 20*time.Millisecond)
	or(&o.BackoffMax, time.Second)
	or(&o.CallIdle, time.Minute)
	for _, v := range []int64{int64(o.MaxFrame), int64(o.MaxControlQueued), int64(o.MaxControlBytes), int64(o.MaxBulkQueued),
		int64(o.MaxBulkBytes), int64(o.MaxConns), int64(o.MaxHandshakes), int64(o.MaxPeers), int64(o.MaxCallsPerConn), int64(o.MaxCalls),
		int64(o.HandshakeTimeout), int64(o.DialTimeout), int64(o.PingInterval), int64(o.PingTimeout), int64(o.WriteTimeout),
		int64(o.IdleTimeout), int64(o.BackoffMin), int64(o.BackoffMax), int64(o.CallIdle)} {
		if v < 0 {
			return errors.New("transport: negative option")
		}
	}
	if o.MaxFrame < 64<<10 || o.MaxFrame > 1<<30 {
		return fmt.Errorf("transport: MaxFrame %d is not between 64 KiB and 1 GiB", o.MaxFrame)
	}
	if o.Dial == nil {
		var d net.Dialer
		o.Dial = func(ctx context.Context, addr string) (net.Conn, error) { return d.DialContext(ctx, "tcp", addr) }
	}
	if o.Resolve == nil {
		o.Resolve = func(raft.NodeID) (string, bool) { return "", false }
	}
	if o.Deliver == nil {
		o.Deliver = func([]raft.Message) {}
	}
	if o.DeliverPair == nil {
		o.DeliverPair = func(raft.NodeID, *multi.PairMessage) {}
	}
	if o.DeliverChunk == nil {
		o.DeliverChunk = func(raft.NodeID, *multi.ChunkMessage) {}
	}
	if o.OnUnreachable == nil {
		o.OnUnreachable = func(raft.NodeID) {}
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.NewTextHandler(io.Discard, nil))
	}
	return nil
}

// LaneStats are what became of messages in one kind of lane, to all nodes together.
type LaneStats struct {
	SentMessages, SentBytes uint64
	DroppedFull             uint64 // a queue was full
	DroppedUnreachable      uint64 // the peer could not be reached
}

// Stats are counters since the start. What is not by lane is the sum over all of them, calls included.
type Stats struct {
	Control, Bulk, Chunk                   LaneStats
	SentMessages, SentBytes, ReceivedBytes uint64
	DroppedFull                            uint64 // a queue was full
	DroppedUnreachable                     uint64 // the peer could not be reached
	DroppedInvalid                         uint64 // messages that could not be sent, or were not for this node
	Dials, DialFailures                    uint64
	Accepted, Refused                      uint64
}

type counters struct {
	control, bulk, chunk                   laneCounters
	callBytes, receivedBytes               atomic.Uint64
	droppedInvalid                         atomic.Uint64
	dials, dialFailures, accepted, refused atomic.Uint64
}

type laneCounters struct {
	sentMessages, sentBytes         atomic.Uint64
	droppedFull, droppedUnreachable atomic.Uint64
}

// of are the counters of one kind of lane; calls have none of their own.
func (c *counters) of(k laneKind) *laneCounters {
	switch k {
	case laneControl:
		return &c.control
	case laneBulk:
		return &c.bulk
	}
	return &c.chunk
}

func (c *laneCounters) stats() LaneStats {
	return LaneStats{SentMessages: c.sentMessages.Load(), SentBytes: c.sentBytes.Load(),
		DroppedFull: c.droppedFull.Load(), DroppedUnreachable: c.droppedUnreachable.Load()}
}

// Transport is one broker's end of all connections. Its methods are safe for concurrent use.
type Transport struct {
	o      Options
	log    *slog.Logger
	ident  atomic.Pointer[identity]
	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	wg     sync.WaitGroup
	stats  counters
	ln     net.Listener

	hmu      sync.RWMutex // guards handlers
	handlers map[uint16]Handler

	mu      sync.RWMutex // guards the maps below and started, closed. No other lock is taken under it, nothing waits
	started bool
	closed  bool
	peers   map[raft.NodeID]*peer
	inbound map[*inbound]struct{}
	slots   map[callKey]*callSlot
	logged  map[string]struct{} // what has been logged once

	handshakes atomic.Int64
	calls      atomic.Int64 // of others, being executed
}

type peer struct {
	control, bulk *lane
	chunk         *lane // nil until it is needed; guarded by Transport.mu
}

// each calls fn for the lanes that there are. Transport.mu is held.
func (p *peer) each(fn func(*lane)) {
	fn(p.control)
	fn(p.bulk)
	if p.chunk != nil {
		fn(p.chunk)
	}
}

// maxLogged bounds the memory of what has been logged once; beyond it, it is forgotten and may be logged again.
const maxLogged = 256

// New makes a transport, and listens so that Addr is known; nothing is accepted before Start.
func New(o Options) (*Transport, error) {
	if err := o.setDefaults(); err != nil {
		return nil, err
	}
	t := &Transport{
		o: o, log: o.Logger, ln: o.Listener,
		handlers: make(map[uint16]Handler),
		peers:    make(map[raft.NodeID]*peer),
		inbound:  make(map[*inbound]struct{}),
		slots:    make(map[callKey]*callSlot),
		logged:   make(map[string]struct{}),
	}
	t.ident.Store(&identity{cluster: o.ClusterID, self: o.Self, boot: o.Boot})
	if t.ln == nil && o.ListenAddr != "" {
		ln, err := net.Listen("tcp", o.ListenAddr)
		if err != nil {
			return nil, fmt.Errorf("listen for brokers: %w", err)
		}
		t.ln = ln
	}
	t.ctx, t.cancel = context.WithCancel(context.Background())
	return t, nil
}

// Start begins to accept.
func (t *Transport) Start() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.started || t.closed {
		return
	}
	t.started = true
	if t.ln != nil {
		t.wg.Go(t.accept)
	}
}

// Addr is where the transport listens; nil if it does not.
func (t *Transport) Addr() net.Addr {
	if t.ln == nil {
		return nil
	}
	return t.ln.Addr()
}

// Close closes all connections, drops what is queued and waits for all goroutines, handlers of calls included: their
// contexts end.
func (t *Transport) Close() error {
	t.mu.Lock()
	if t.closed {
		t.mu.Unlock()
		t.wg.Wait()
		return nil
	}
	t.closed = true
	t.mu.Unlock()
	t.cancel() // every connection is closed by a function that waits for this
	var err error
	if t.ln != nil {
		err = t.ln.Close()
	}
	t.wg.Wait()
	return err
}

// SetIdentity tells a joiner who it has become. Connections made under the old identity are closed.
func (t *Transport) SetIdentity(cluster ClusterID, self raft.Member) {
	t.ident.Store(&identity{cluster: cluster, self: self, boot: t.o.Boot})
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, p := range t.peers {
		p.each((*lane).kick)
	}
	for k, s := range t.slots {
		s.retire()
		delete(t.slots, k)
	}
	for c := range t.inbound {
		if c.lane != laneRPC { // a call under way may be the one that led here
			_ = c.conn.Close()
		}
	}
}

// Stats returns a copy of the counters.
func (t *Transport) Stats() Stats {
	c := &t.stats
	s := Stats{
		Control: c.control.stats(), Bulk: c.bulk.stats(), Chunk: c.chunk.stats(), ReceivedBytes: c.receivedBytes.Load(), DroppedInvalid: c.droppedInvalid.Load(),
		Dials: c.dials.Load(), DialFailures: c.dialFailures.Load(), Accepted: c.accepted.Load(), Refused: c.refused.Load(),
	}
	for _, l := range [3]*LaneStats{&s.Control, &s.Bulk, &s.Chunk} {
		s.SentMessages += l.SentMessages
		s.SentBytes += l.SentBytes
		s.DroppedFull += l.DroppedFull
		s.DroppedUnreachable += l.DroppedUnreachable
	}
	s.SentBytes += c.callBytes.Load()
	return s
}

// Send queues messages for a node, in order within a lane. msgs is the caller's again afterwards; the entries of the messages must not
// change any more.
func (t *Transport) Send(to raft.NodeID, msgs []raft.Message) { t.send(to, msgs, false) }

// SendNow is Send by a caller who has nothing else to do: it writes what is small itself, if the connection is idle.
func (t *Transport) SendNow(to raft.NodeID, msgs []raft.Message) { t.send(to, msgs, true) }

func (t *Transport) send(to raft.NodeID, msgs []raft.Message, now bool) {
	p := t.peer(to)
	if p == nil {
		t.stats.droppedInvalid.Add(uint64(len(msgs)))
		return
	}
	for len(msgs) > 0 { // runs of one lane, so that a queue is locked once per run
		bulk := isBulk(&msgs[0])
		n := 1
		for n < len(msgs) && isBulk(&msgs[n]) == bulk {
			n++
		}
		l := p.control
		if bulk {
			l = p.bulk
		}
		if now {
			l.pushNow(msgs[:n])
		} else {
			l.push(msgs[:n])
		}
		msgs = msgs[n:]
	}
}

func isBulk(m *raft.Message) bool { return m.Type == raft.MsgApp }

// SendPair queues a pair message. m is not used after the call.
func (t *Transport) SendPair(to raft.NodeID, m *multi.PairMessage) {
	p := t.peer(to)
	b := appendPair(beginFrame(nil, framePair), m)
	if p == nil || len(b) > maxControlFrame {
		t.stats.droppedInvalid.Add(1)
		return
	}
	endFrame(b, 0)
	p.control.pushUrgent(b)
}

// SendChunk queues a piece of a snapshot, or the request for one. m's data must not change any more.
func (t *Transport) SendChunk(to raft.NodeID, m *multi.ChunkMessage) {
	p := t.peer(to)
	b := appendChunkHead(beginFrame(nil, frameChunk), m)
	if p == nil || len(b)-frameHeaderLen+len(m.Data) > t.o.MaxFrame {
		t.stats.droppedInvalid.Add(1)
		return
	}
	endFrame(b, 0, m.Data)
	l := p.control
	if len(m.Data) > 0 {
		if l = t.chunkLane(to, p); l == nil {
			return
		}
	}
	l.pushFrame(b, m.Data)
}

// chunkLane finds or makes a peer's; nil after Close and Forget.
func (t *Transport) chunkLane(id raft.NodeID, p *peer) *lane {
	t.mu.Lock()
	defer t.mu.Unlock()
	if p.chunk == nil && !t.closed && t.peers[id] == p {
		p.chunk = t.newLane(id, laneChunk)
		t.wg.Go(p.chunk.run)
	}
	return p.chunk
}

// peer finds or makes the lanes to a node; nil if there may be none.
func (t *Transport) peer(id raft.NodeID) *peer {
	t.mu.RLock()
	p, closed := t.peers[id], t.closed
	t.mu.RUnlock()
	if p != nil || closed {
		return p
	}
	if id == 0 || id == t.ident.Load().self.ID {
		t.logOnce("self", slog.LevelError, "message to this node itself, or to none", "to", id)
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if p := t.peers[id]; p != nil || t.closed {
		return p
	}
	if len(t.peers) >= t.o.MaxPeers {
		return nil
	}
	p = &peer{control: t.newLane(id, laneControl), bulk: t.newLane(id, laneBulk)}
	t.peers[id] = p
	t.wg.Go(p.control.run)
	t.wg.Go(p.bulk.run)
	return p
}

// Forget closes the lanes to a node that has left the cluster; sending to it again makes new ones.
func (t *Transport) Forget(id raft.NodeID) {
	t.mu.Lock()
	p := t.peers[id]
	delete(t.peers, id)
	s := t.slots[callKey{node: id}]
	delete(t.slots, callKey{node: id})
	if p != nil {
		p.each(func(l *lane) { l.stop() })
	}
	t.mu.Unlock()
	if s != nil {
		s.retire()
	}
}

// logOnce logs what would otherwise be logged at each attempt.
func (t *Transport) logOnce(key string, level slog.Level, msg string, args ...any) {
	t.mu.Lock()
	_, seen := t.logged[key]
	if !seen {
		if len(t.logged) >= maxLogged {
			clear(t.logged)
		}
		t.logged[key] = struct{}{}
	}
	t.mu.Unlock()
	if !seen {
		t.log.Log(context.Background(), level, msg, args...)
	}
}

// logAgain lets something be logged once more, because it had healed.
func (t *Transport) logAgain(key string) {
	t.mu.RLock()
	_, seen := t.logged[key]
	t.mu.RUnlock()
	if seen {
		t.mu.Lock()
		delete(t.logged, key)
		t.mu.Unlock()
	}
}

// connect dials and greets.
func (t *Transport) connect(ctx context.Context, addr string, lane laneKind, expect raft.NodeID) (net.Conn, *frameReader, welcome, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, t.o.DialTimeout, errDialTimeout)
	defer cancel()
	t.stats.dials.Add(1)
	h := hello{min: minProtocol, max: maxProtocol, lane: lane, identity: *t.ident.Load(), expect: expect}
	c, err := t.o.Dial(ctx, addr)
	if err == nil {
		// Whatever ends ctx also ends the handshake.
		stop := context.AfterFunc(ctx, func() { _ = c.Close() })
		fr := newFrameReader(c, dialedBuffer)
		var w welcome
		w, err = greet(c, fr, addr, &h, t.o.HandshakeTimeout)
		stop()
		if err == nil && ctx.Err() == nil {
			t.logAgain("dial " + addr)
			return c, fr, w, nil
		}
		_ = c.Close()
	}
	if ctx.Err() != nil { // the reason, rather than what it looked like from the socket
		err = context.Cause(ctx)
	}
	t.stats.dialFailures.Add(1)
	if t.ctx.Err() == nil {
		level := slog.LevelInfo
		if permanent(err) {
			level = slog.LevelError
		}
		t.logOnce("dial "+addr, level, "cannot connect to broker", "node", expect, "addr", addr, "lane", lane, "err", err)
	}
	return nil, nil, welcome{}, err
}

// dialedBuffer is what the side of a connection that has dialed reads into: answers to pings, and to calls.
const dialedBuffer = 16 << 10

// readBuffer is what the other side reads into at a time: on the bulk lane memory that the entries of many messages share.
func readBuffer(l laneKind) int {
	switch l {
	case laneControl:
		return 64 << 10
	case laneBulk:
		return 512 << 10
	}
	return 16 << 10
}

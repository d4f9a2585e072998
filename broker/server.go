// The Kafka server: listeners, the connections that they accept, and what all connections share. What it may take from
// the machine is bounded by serverOptions, whoever connects.

package broker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"
	"golang.org/x/time/rate"
)

// serverOptions are the server's bounds. Zero fields take the defaults.
type serverOptions struct {
	// MaxRequestBytes is socket.request.max.bytes: a larger frame closes its connection. Default 100 MiB.
	MaxRequestBytes int
	// RequestMemory bounds the bytes of all produce requests that have been read and not been answered yet; connections
	// wait for it before they read on. At least MaxRequestBytes and a quarter. Default 128 MiB.
	RequestMemory int64
	// FetchMemory bounds the bytes of all fetch answers on their way out. When it is used up, fetches get one batch each.
	// Default 128 MiB.
	FetchMemory int64
	// MaxConnections and MaxConnectionsPerIP: more are closed as they come. Defaults 20,000 and unbounded.
	MaxConnections, MaxConnectionsPerIP int
	// ConnectionRate and ConnectionRatePerIP bound the new connections per second: in all, where they wait, and of one address, where
	// more are closed. 0: unbounded.
	ConnectionRate, ConnectionRatePerIP float64
	// ConnectionMemory bounds the bytes of the produce requests that one connection has not got answers to. Default: a quarter of
	// RequestMemory. A single larger request still passes.
	ConnectionMemory int64
	// MaxInflight bounds the requests of one connection that are not answered yet; further ones stay in the socket. Default 128.
	MaxInflight int
	// IdleTimeout is connections.max.idle.ms. Default 10 minutes.
	IdleTimeout time.Duration
	// StallTimeout is how long a peer may neither take nor send a byte in the middle of a frame. Default 60 s.
	StallTimeout time.Duration
	// FetchSessions is max.incremental.fetch.session.cache.slots. Default 1,000.
	FetchSessions int
	// FetchMaxBytes is fetch.max.bytes, the broker's own bound on one answer. Default 55 MiB.
	FetchMaxBytes int
	// RedirectPause is for how long a consumer is not sent to another replica again. Default 5 s.
	RedirectPause time.Duration
	// Security says who clients are and what they may do. The zero value asks nobody.
	Security serverSecurity
	// Metrics is where requests are counted. Default: nobody sees it.
	Metrics *metrics
}

func (o serverOptions) withDefaults() serverOptions {
	def := func(v *int, d int) {
		if *v <= 0 {
			*v = d
		}
	}
	def(&o.MaxRequestBytes, maxRecordRequest)
	if o.RequestMemory <= 0 {
		o.RequestMemory = 128 << 20
	}
	o.RequestMemory = max(o.RequestMemory, int64(o.MaxRequestBytes)*5/4)
	if o.ConnectionMemory <= 0 {
		o.ConnectionMemory = max(o.RequestMemory/4, minConnectionMemory)
	}
	if o.FetchMemory <= 0 {
		o.FetchMemory = 128 << 20
	}
	def(&o.MaxConnections, 20_000)
	def(&o.MaxConnectionsPerIP, 1<<31-1)
	def(&o.MaxInflight, 128)
	def(&o.FetchSessions, 1000)
	def(&o.FetchMaxBytes, 55<<20)
	if o.RedirectPause <= 0 {
		o.RedirectPause = redirectPause
	}
	if o.Metrics == nil {
		o.Metrics = newMetrics()
	}
	if o.Security.Audit == nil {
		o.Security.Audit = slog.New(slog.DiscardHandler)
	}
	if o.IdleTimeout <= 0 {
		o.IdleTimeout = 10 * time.Minute
	}
	if o.StallTimeout <= 0 {
		o.StallTimeout = time.Minute
	}
	return o
}

const (
	// decodeMemory bounds what all requests being decoded at one moment may make kmsg allocate, decodeFactor is how much
	// that can be per byte of a body, and below decodeFree nobody counts.
	decodeMemory = 256 << 20
	decodeFactor = 64
	decodeFree   = 16 << 10
	// controlMemory bounds the bytes of all requests other than produce and fetch that have not been answered yet,
	// pollMemory those of fetches.
	controlMemory = 32 << 20
	pollMemory    = 64 << 20
	// complaints about clients, per second: a port scanner must not fill the disk with log lines.
	maxComplaints = 5
)

// server serves Kafka clients.
type server struct {
	b    backend
	o    serverOptions
	log  *slog.Logger
	ctx  context.Context // of the server's life
	stop context.CancelFunc

	met       *metrics
	memory    *budget             // RequestMemory
	control   *budget             // controlMemory
	polls     *budget             // pollMemory
	hellos    *budget             // helloMemory
	decoding  *semaphore.Weighted // decodeMemory
	arriving  map[*budget]*arriving
	fetchUsed atomic.Int64 // of FetchMemory
	sessions  *sessionCache
	limits    limits
	quotas    *quotas

	complaints *rate.Limiter
	silenced   atomic.Int64 // complaints not logged since the last one that was

	wg sync.WaitGroup // accept loops and connections' readers

	mu        sync.Mutex // guards what follows
	closed    bool
	listeners map[net.Listener]struct{}
	conns     map[*conn]struct{}
	perIP     map[netip.Prefix]*source
	rates     *connectionRates
}

func newServer(b backend, o serverOptions, log *slog.Logger) *server {
	o = o.withDefaults()
	ctx, stop := context.WithCancel(context.Background())
	s := &server{
		b: b, o: o, log: log, ctx: ctx, stop: stop,
		met:        o.Metrics,
		memory:     newBudget(o.RequestMemory),
		control:    newBudget(controlMemory),
		polls:      newBudget(pollMemory),
		hellos:     newBudget(helloMemory),
		decoding:   semaphore.NewWeighted(decodeMemory),
		sessions:   newSessionCache(o.FetchSessions),
		complaints: rate.NewLimiter(maxComplaints, 4*maxComplaints),
		listeners:  make(map[net.Listener]struct{}),
		conns:      make(map[*conn]struct{}),
		perIP:      make(map[netip.Prefix]*source),
		rates:      newConnectionRates(o.ConnectionRate, o.ConnectionRatePerIP),
		quotas:     newQuotas(o.Metrics),
	}
	s.arriving = map[*budget]*arriving{
		s.memory:  newArriving(s.memory, int64(o.MaxRequestBytes)),
		s.control: newArriving(s.control, maxGroupRequest),
		s.polls:   newArriving(s.polls, maxGroupRequest),
	}
	s.limits.connections.Store(int64(o.MaxConnections))
	s.limits.perIP.Store(int64(o.MaxConnectionsPerIP))
	s.limits.idle.Store(int64(o.IdleTimeout))
	s.limits.fetchMaxBytes.Store(int64(o.FetchMaxBytes))
	return s
}

// limits are those bounds of serverOptions that can be changed while the server runs.
type limits struct {
	connections, perIP, idle, fetchMaxBytes atomic.Int64
	overrides                               atomic.Pointer[map[string]int] // max.connections.per.ip.overrides
}

// perIPOf is how many connections an address may have.
func (l *limits) perIPOf(ip string) int {
	if m := l.overrides.Load(); m != nil {
		if n, ok := (*m)[ip]; ok {
			return n
		}
	}
	return int(l.perIP.Load())
}

// Serve accepts connections from ln, which is bound for l, in a goroutine of its own until Close. The server owns ln from here on.
func (s *server) Serve(ln net.Listener, l Listener) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		ln.Close()
		return
	}
	s.listeners[ln] = struct{}{}
	s.wg.Go(func() { s.accept(ln, l) })
}

// Close stops the listeners, closes all connections and waits for their readers.
func (s *server) Close() {
	s.mu.Lock()
	s.closed = true
	for ln := range s.listeners {
		ln.Close()
	}
	conns := make([]*conn, 0, len(s.conns))
	for c := range s.conns {
		conns = append(conns, c)
	}
	s.mu.Unlock()
	s.stop()
	for _, c := range conns {
		c.close(errServerClosed)
	}
	s.wg.Wait()
}

var errServerClosed = errors.New("the broker is shutting down")

func (s *server) accept(ln net.Listener, l Listener) {
	const minPause, maxPause = 5 * time.Millisecond, time.Second
	pause := minPause
	for {
		if s.rates.wait(s.ctx) != nil {
			return
		}
		nc, err := ln.Accept()
		if err != nil {
			if errors.Is(err, net.ErrClosed) || s.ctx.Err() != nil {
				return
			}
			// Out of descriptors, most likely: those that are open go on, and new ones may come when some have closed.
			s.complain("cannot accept a connection", "listener", l.Name, "error", err)
			select {
			case <-time.After(pause):
			case <-s.ctx.Done():
				return
			}
			pause = min(2*pause, maxPause)
			continue
		}
		pause = minPause
		if !s.admitIP(nc, s.b.Image()) {
			s.met.refused.Inc()
			continue
		}
		c, err := s.admit(nc, l)
		if err != nil {
			s.met.refused.Inc()
			s.complain("connection refused", "remote", nc.RemoteAddr().String(), "listener", l.Name, "reason", err)
			nc.Close()
			continue
		}
		s.met.accepted.Inc()
		s.wg.Go(c.read)
	}
}

// admit registers a connection within the limits.
func (s *server) admit(nc net.Conn, l Listener) (*conn, error) {
	ip := remoteIP(nc)
	from := sourceOf(ip)
	s.mu.Lock()
	defer s.mu.Unlock()
	open := 0
	if src := s.perIP[from]; src != nil {
		open = src.connections
	}
	switch {
	case s.closed:
		return nil, errServerClosed
	case len(s.conns) >= int(s.limits.connections.Load()):
		return nil, fmt.Errorf("%d connections are open (max.connections)", len(s.conns))
	case open >= s.limits.perIPOf(ip):
		return nil, fmt.Errorf("%d connections from %s are open (max.connections.per.ip)", open, ip)
	case !s.rates.allow(from):
		return nil, fmt.Errorf("new connections from %s come faster than %v a second (connection-rate-per-ip)", ip, s.o.ConnectionRatePerIP)
	}
	c := newConn(s, nc, ip, l)
	if s.perIP[from] == nil {
		s.perIP[from] = &source{hellos: newBudget(helloShare)}
	}
	c.source = s.perIP[from]
	c.source.connections++
	s.conns[c] = struct{}{}
	return c, nil
}

// forget is admit's inverse.
func (s *server) forget(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.conns[c]; !ok {
		return
	}
	delete(s.conns, c)
	if c.source.connections--; c.source.connections == 0 {
		delete(s.perIP, sourceOf(c.ip))
	}
}

// memoryOf is what a request's bytes are counted in. Records have a budget of their own: when producers have used it up,
// because a partition has lost its quorum, say, then metadata, fetches and groups still go on. So have fetches, which
// wait for as long as their clients like: heartbeats must not queue behind them. JoinGroup and SyncGroup, which wait for
// other requests of their kind, surrender their share before they wait.
func (s *server) memoryOf(a *api) *budget {
	switch a.key {
	case keyProduce:
		return s.memory
	case keyFetch:
		return s.polls
	case keyApiVersions, keySaslHandshake, keySaslAuthenticate: // anybody may send these
		return s.hellos
	}
	return s.control
}

// connections is how many are open.
func (s *server) connections() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.conns)
}

func remoteIP(nc net.Conn) string {
	host, _, err := net.SplitHostPort(nc.RemoteAddr().String())
	if err != nil {
		return nc.RemoteAddr().String()
	}
	return host
}

// complain logs something that a client did, a few times a second at most.
func (s *server) complain(msg string, args ...any) {
	if !s.complaints.Allow() {
		s.silenced.Add(1)
		return
	}
	if n := s.silenced.Swap(0); n > 0 {
		args = append(args, "more_not_logged", n)
	}
	s.log.Warn(msg, args...)
}

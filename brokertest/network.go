// The network of a cluster: ports that outlive the brokers behind them, and connections that a test can hold and break.

package brokertest

import (
	"context"
	"errors"
	"net"
	"sync"

	"github.com/balsamq/balsa/broker"
)

// maxWaiting bounds the connections of a port that the broker has not accepted yet.
const maxWaiting = 64

// errCut is what dialing across a cut gives.
var errCut = errors.New("the test has cut these brokers off from each other")

// port is a bound address. It stays bound while its broker is down, so that nobody else gets it; who connects then is turned away.
type port struct {
	ln net.Listener
	wg sync.WaitGroup

	mu      sync.Mutex // guards what follows
	now     *listener  // nil: nobody accepts
	refused bool
}

func newPort() (*port, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p := &port{ln: ln}
	p.wg.Go(p.run)
	return p, nil
}

func (p *port) addr() string { return p.ln.Addr().String() }

// run accepts for whoever is behind the port, until it is closed.
func (p *port) run() {
	for {
		nc, err := p.ln.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue
		}
		p.mu.Lock()
		to, refused := p.now, p.refused
		p.mu.Unlock()
		if to == nil || refused || !to.offer(nc) {
			reset(nc)
		}
	}
}

// reset breaks a connection so that the other side notices at once.
func reset(nc net.Conn) {
	if tc, ok := nc.(*net.TCPConn); ok {
		_ = tc.SetLinger(0)
	}
	_ = nc.Close()
}

func (p *port) listen(l *life) *listener {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.now = &listener{port: p, life: l, conns: make(chan *conn, maxWaiting), closed: make(chan struct{})}
	return p.now
}

// refuse turns away who connects, and breaks what is connected.
func (p *port) refuse(on bool) {
	p.mu.Lock()
	p.refused = on
	now := p.now
	p.mu.Unlock()
	if on && now != nil {
		now.life.closeConns(func(c *conn) bool { return c.port == p })
	}
}

func (p *port) close() error {
	err := p.ln.Close()
	p.wg.Wait()
	return err
}

// listener is a port in one life of its broker.
type listener struct {
	port   *port
	life   *life
	conns  chan *conn
	once   sync.Once
	closed chan struct{}
}

func (n *listener) offer(nc net.Conn) bool {
	c, err := n.life.wrap(nc, n.port, 0)
	if err != nil {
		return false
	}
	select {
	case n.conns <- c:
		return true
	case <-n.closed:
	case <-n.life.died:
	default: // the broker does not come to accept
	}
	_ = c.Close()
	return false
}

// Accept implements net.Listener.
func (n *listener) Accept() (net.Conn, error) {
	select {
	case c := <-n.conns:
		return c, nil
	case <-n.closed:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener. The port stays bound.
func (n *listener) Close() error {
	n.once.Do(func() {
		close(n.closed)
		n.port.mu.Lock()
		if n.port.now == n {
			n.port.now = nil
		}
		n.port.mu.Unlock()
	})
	return nil
}

// Addr implements net.Listener.
func (n *listener) Addr() net.Addr { return n.port.ln.Addr() }

// network is how a broker sees the world.
type network struct{ l *life }

var _ broker.Network = network{}

// Listen implements broker.Network.
func (n network) Listen(addr string) (net.Listener, error) {
	for _, p := range []*port{n.l.owner.kafka, n.l.owner.rpc} {
		if p.addr() == addr {
			return p.listen(n.l), nil
		}
	}
	return net.Listen("tcp", addr) // a listener of the test's own configuration
}

// Dial implements broker.Network.
func (n network) Dial(ctx context.Context, addr string) (net.Conn, error) {
	if err := n.l.pass(); err != nil {
		return nil, err
	}
	w, from := &n.l.owner.c.wires, n.l.owner.id
	to := w.at(addr)
	if w.isCut(from, to) {
		return nil, errCut
	}
	var d net.Dialer
	nc, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	c, err := n.l.wrap(nc, nil, to)
	if err != nil {
		_ = nc.Close()
		return nil, err
	}
	if w.isCut(from, to) { // meanwhile
		_ = c.Close()
		return nil, errCut
	}
	return c, nil
}

// conn is a connection of a broker, behind its gate.
type conn struct {
	net.Conn
	life *life
	port *port // that it came by; nil: it was dialed …
	to   int32 // … to this broker
}

func (l *life) wrap(nc net.Conn, p *port, to int32) (*conn, error) {
	c := &conn{Conn: nc, life: l, port: p, to: to}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.dead {
		return nil, errKilled
	}
	l.conns[c] = struct{}{}
	return c, nil
}

// Read implements net.Conn. What has come is held back as well while the broker is paused.
func (c *conn) Read(p []byte) (int, error) {
	if err := c.life.pass(); err != nil {
		return 0, err
	}
	n, err := c.Conn.Read(p)
	if held := c.life.pass(); held != nil {
		return 0, held
	}
	return n, err
}

// Write implements net.Conn.
func (c *conn) Write(p []byte) (int, error) {
	if err := c.life.pass(); err != nil {
		return 0, err
	}
	return c.Conn.Write(p)
}

// Close implements net.Conn.
func (c *conn) Close() error {
	c.life.mu.Lock()
	delete(c.life.conns, c)
	c.life.mu.Unlock()
	return c.Conn.Close()
}

// closeConns breaks those connections of a life that match.
func (l *life) closeConns(match func(*conn) bool) {
	l.mu.Lock()
	var out []*conn
	for c := range l.conns {
		if match(c) {
			out = append(out, c)
		}
	}
	l.mu.Unlock()
	for _, c := range out {
		reset(c.Conn)
		_ = c.Close()
	}
}

// wires are the connections between brokers that may be cut.
type wires struct {
	mu      sync.Mutex // guards what follows
	brokers map[string]int32
	cuts    map[[2]int32]bool // the smaller id first
}

func (w *wires) add(id int32, addr string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.brokers == nil {
		w.brokers, w.cuts = make(map[string]int32), make(map[[2]int32]bool)
	}
	w.brokers[addr] = id
}

// at is the broker at an address; 0: none.
func (w *wires) at(addr string) int32 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.brokers[addr]
}

func (w *wires) isCut(a, b int32) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.cuts[[2]int32{min(a, b), max(a, b)}]
}

func (w *wires) cut(a, b int32) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cuts[[2]int32{min(a, b), max(a, b)}] = true
}

func (w *wires) heal() {
	w.mu.Lock()
	defer w.mu.Unlock()
	clear(w.cuts)
}

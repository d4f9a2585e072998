// The receiving side: accepting, the handshake, and the readers of the control, bulk and chunk lanes.

package transport

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"time"

	"github.com/balsamq/balsa/raft"
)

// inbound is an accepted connection that has said who it is.
type inbound struct {
	conn net.Conn
	lane laneKind
	from identity
}

func (t *Transport) accept() {
	backoff := t.o.BackoffMin
	for {
		c, err := t.ln.Accept()
		if err != nil {
			if t.ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return
			}
			// Out of descriptors, most likely. It passes, or it does not; either way a busy loop helps nobody.
			t.logOnce("accept", slog.LevelError, "cannot accept brokers", "err", err)
			select {
			case <-time.After(backoff):
			case <-t.ctx.Done():
				return
			}
			backoff = min(2*backoff, t.o.BackoffMax)
			continue
		}
		backoff = t.o.BackoffMin
		if t.handshakes.Add(1) > int64(t.o.MaxHandshakes) {
			t.handshakes.Add(-1)
			t.stats.refused.Add(1)
			_ = c.Close()
			continue
		}
		t.wg.Go(func() { t.serve(c) })
	}
}

// errUnanswered: who has said hello is gone, or has a newer connection. A process that was stopped for a while has many of those before it.
var errUnanswered = errors.New("the hello could not be answered")

// serve is an accepted connection's life.
func (t *Transport) serve(c net.Conn) {
	defer c.Close()
	defer context.AfterFunc(t.ctx, func() { _ = c.Close() })()
	in, fr, err := t.welcome(c)
	t.handshakes.Add(-1)
	if err != nil {
		t.stats.refused.Add(1)
		host, _, _ := net.SplitHostPort(c.RemoteAddr().String())
		if h, ok := errors.AsType[*HandshakeError](err); ok {
			t.logOnce(fmt.Sprint("refused ", host, h.Code), slog.LevelWarn, "refused a connection", "from", c.RemoteAddr(), "reason", h.Reason)
		} else if t.ctx.Err() == nil && !errors.Is(err, io.EOF) && !errors.Is(err, errUnanswered) {
			t.logOnce("stranger "+host, slog.LevelInfo, "closed a connection that is not a broker's; Kafka clients have an address of their own", "from", c.RemoteAddr(), "err", err)
		}
		return
	}
	t.stats.accepted.Add(1)
	switch in.lane {
	case laneControl:
		err = t.readControl(in, fr)
	case laneBulk:
		err = t.readBulk(in, fr)
	case laneChunk:
		err = t.readChunks(in, fr)
	case laneRPC:
		err = t.serveCalls(in, fr)
	}
	t.mu.Lock()
	delete(t.inbound, in)
	t.mu.Unlock()
	if errors.Is(err, errFrame) || errors.Is(err, errFrameLarge) || errors.Is(err, errDecode) {
		t.logOnce(fmt.Sprint("broken ", in.from.self.ID, in.lane), slog.LevelError, "closed a connection over a malformed frame",
			"node", in.from.self.ID, "lane", in.lane, "err", err)
	}
}

// welcome does the handshake and registers the connection.
func (t *Transport) welcome(c net.Conn) (*inbound, *frameReader, error) {
	if err := c.SetDeadline(time.Now().Add(t.o.HandshakeTimeout)); err != nil {
		return nil, nil, err
	}
	fr := newFrameReader(c, 4<<10)
	h, err := receiveHello(fr)
	if err != nil {
		return nil, nil, err
	}
	id := t.ident.Load()
	code, reason := id.judge(&h)
	in := &inbound{conn: c, lane: h.lane, from: h.identity}
	if code == accepted && !t.register(in) {
		code, reason = RefusedOverloaded, "has too many connections"
	}
	if err := answer(c, id, h.max, code, reason); err != nil {
		t.unregister(in)
		return nil, nil, fmt.Errorf("%w: %w", errUnanswered, err)
	}
	if code != accepted {
		return nil, nil, &HandshakeError{Addr: c.RemoteAddr().String(), Code: code, Reason: reason}
	}
	if err := c.SetDeadline(time.Time{}); err != nil { // a newer connection has closed it
		t.unregister(in)
		return nil, nil, fmt.Errorf("%w: %w", errUnanswered, err)
	}
	// From here on each read has its own deadline. What the handshake's reader holds already must not be lost.
	rest := fr.ahead()
	tc := &timedConn{Conn: c, timeout: t.o.IdleTimeout, received: &t.stats.receivedBytes}
	return in, newFrameReader(io.MultiReader(bytesReader(rest), tc), readBuffer(h.lane)), nil
}

// bytesReader returns a reader of a copy of b.
func bytesReader(b []byte) io.Reader {
	r := &sliceReader{b: append([]byte(nil), b...)}
	return r
}

type sliceReader struct{ b []byte }

func (r *sliceReader) Read(p []byte) (int, error) {
	if len(r.b) == 0 {
		return 0, io.EOF
	}
	n := copy(p, r.b)
	r.b = r.b[n:]
	return n, nil
}

// register makes room for a connection. A node has one control and one bulk connection to us: a new one means that the
// old one is dead, whether or not this side knows yet.
func (t *Transport) register(in *inbound) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if in.lane != laneRPC {
		for c := range t.inbound {
			if c.lane == in.lane && c.from.self == in.from.self {
				_ = c.conn.Close()
				delete(t.inbound, c)
			}
		}
	}
	if len(t.inbound) >= t.o.MaxConns || t.closed {
		return false
	}
	t.inbound[in] = struct{}{}
	return true
}

func (t *Transport) unregister(in *inbound) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.inbound, in)
}

// pong answers a ping. Nothing else is written to a connection of these lanes by this side.
func (t *Transport) pong(c net.Conn) error {
	b := beginFrame(nil, framePong)
	endFrame(b, 0)
	return writeBuffers(c, net.Buffers{b}, t.o.WriteTimeout)
}

// admissible checks a message against the connection that it came on.
func (t *Transport) admissible(in *inbound, m *raft.Message) (bool, error) {
	if m.From != in.from.self.ID {
		return false, fmt.Errorf("%w: from node %d on the connection of node %d", errDecode, m.From, in.from.self.ID)
	}
	if m.To != t.ident.Load().self.ID {
		t.stats.droppedInvalid.Add(1)
		return false, nil
	}
	return true, nil
}

func (t *Transport) readControl(in *inbound, fr *frameReader) error {
	var small []raft.Message
	for {
		ft, body, err := fr.next(maxControlFrame)
		if err != nil {
			return err
		}
		switch ft {
		case framePing:
			err = t.pong(in.conn)
		case frameMessages:
			small, err = t.deliverSmall(in, small, body)
		case framePair:
			m, derr := decodePair(body)
			if derr != nil {
				return derr
			}
			t.o.DeliverPair(in.from.self.ID, m)
		case frameChunk:
			err = t.deliverChunk(in, body, false)
		default:
			err = fmt.Errorf("%w: type %d on the control lane", errFrame, ft)
		}
		if err != nil {
			return err
		}
	}
}

// keptMessages is how many messages a connection keeps the memory for.
const keptMessages = 64

// deliverSmall hands over messages without entries. into is memory for them, and cleared before and after; what it returns is to be passed next.
func (t *Transport) deliverSmall(in *inbound, into []raft.Message, body []byte) ([]raft.Message, error) {
	msgs, err := decodeMessages(into, body)
	if err != nil {
		return nil, err
	}
	keep := msgs[:0]
	for i := range msgs {
		ok, err := t.admissible(in, &msgs[i])
		if err != nil {
			return nil, err
		}
		if ok {
			keep = append(keep, msgs[i])
		}
	}
	if len(keep) > 0 {
		t.o.Deliver(keep)
	}
	if cap(msgs) > keptMessages {
		return nil, nil
	}
	clear(msgs)
	return msgs, nil
}

func (t *Transport) readBulk(in *inbound, fr *frameReader) error {
	var small []raft.Message
	one := make([]raft.Message, 1)
	for {
		ft, body, err := fr.next(t.o.MaxFrame)
		if err != nil {
			return err
		}
		switch ft {
		case framePing:
			err = t.pong(in.conn)
		case frameMessages:
			small, err = t.deliverSmall(in, small, body)
		case frameApp, frameEntries:
			m, derr := decodeEntries(ft, body)
			if derr != nil {
				return derr
			}
			ok, aerr := t.admissible(in, &m)
			if err = aerr; ok {
				one[0] = m
				t.o.Deliver(one)
				clear(one) // nothing here keeps the memory of entries
			}
		default:
			err = fmt.Errorf("%w: type %d on the bulk lane", errFrame, ft)
		}
		if err != nil {
			return err
		}
	}
}

// readChunks takes in the pieces of snapshots that this broker has asked for.
func (t *Transport) readChunks(in *inbound, fr *frameReader) error {
	for {
		ft, body, err := fr.next(t.o.MaxFrame)
		if err != nil {
			return err
		}
		switch ft {
		case framePing:
			err = t.pong(in.conn)
		case frameChunk:
			err = t.deliverChunk(in, body, true)
		default:
			err = fmt.Errorf("%w: type %d on the chunk lane", errFrame, ft)
		}
		if err != nil {
			return err
		}
	}
}

// deliverChunk takes a piece of a snapshot; without data, a request for one.
func (t *Transport) deliverChunk(in *inbound, body []byte, data bool) error {
	m, err := decodeChunk(body)
	if err != nil {
		return err
	}
	if (m.Data != nil) != data {
		return fmt.Errorf("%w: chunk message on the %s lane", errDecode, in.lane)
	}
	t.o.DeliverChunk(in.from.self.ID, m)
	return nil
}

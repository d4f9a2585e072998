// The sending side of the control, bulk and chunk lanes: a bounded queue, and one goroutine per lane that connects, writes in
// batches, and watches over the connection.

package transport

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"sync"
	"syscall"
	"time"

	"github.com/balsamq/balsa/raft"
)

const (
	// maxBatchMessages bounds the messages of one frame, and of one write.
	maxBatchMessages = 1024
	// maxBatchBytes is about how much one write carries, so that a ping or a stop gets its turn.
	maxBatchBytes = 1 << 20
	// maxChunksQueued bounds the pieces of snapshots that wait on a chunk lane, and maxChunkBytes their bytes.
	maxChunksQueued = 64
	maxChunkBytes   = 16 << 20
	// maxUrgent bounds the pair messages that wait: there are some ten a second.
	maxUrgent = 256
	// keepArena bounds the encoding buffer that a lane keeps.
	keepArena = 1 << 20
	// messageOverhead is what a message counts for in the queues' byte bounds besides its entries.
	messageOverhead = 128
)

var (
	errRetired    = errors.New("connection is no longer wanted")
	errNoAddress  = errors.New("no address is known")
	errPingUnsaid = errors.New("no answer to a ping")
)

// item is a message, or a frame that is already encoded, in one or two parts.
type item struct {
	msg   raft.Message
	frame []byte
	tail  []byte
	size  int
}

type lane struct {
	t    *Transport
	node raft.NodeID
	kind laneKind
	wake chan struct{} // capacity 1
	ctx  context.Context
	stop context.CancelFunc

	stats *laneCounters // of all lanes of the kind

	// mu guards the queue and what others may do to the connection. Nothing waits under it.
	mu     sync.Mutex
	urgent []item // go before all items
	items  []item // from head on
	head   int
	bytes  int
	down   bool // run waits before it dials again: nothing is queued meanwhile
	kicked bool // the connection is to be closed
	// raw is the connection where others may write to it (prompt.go), writing says that somebody does, and rest is what they could not.
	raw     syscall.RawConn
	writing bool
	rest    []byte

	// The rest belongs to who has set writing.
	arena  []byte
	bufs   [][]byte
	frames [][]byte // those of one message
	batch  []item
	small  []raft.Message
	joined []byte // what is written promptly

	version byte // of the protocol, on this connection
}

func (t *Transport) newLane(node raft.NodeID, kind laneKind) *lane {
	l := &lane{t: t, node: node, kind: kind, wake: make(chan struct{}, 1), stats: t.stats.of(kind)}
	l.ctx, l.stop = context.WithCancel(t.ctx)
	return l
}

func (l *lane) poke() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// kick closes the connection, if there is one.
func (l *lane) kick() {
	l.mu.Lock()
	l.kicked = true
	l.mu.Unlock()
	l.poke()
}

func (l *lane) limits() (count, bytes int) {
	switch l.kind {
	case laneControl:
		return l.t.o.MaxControlQueued, l.t.o.MaxControlBytes
	case laneChunk:
		return maxChunksQueued, maxChunkBytes
	}
	return l.t.o.MaxBulkQueued, l.t.o.MaxBulkBytes
}

func (l *lane) push(msgs []raft.Message) {
	l.mu.Lock()
	for i := range msgs {
		m := &msgs[i]
		l.add(item{msg: *m, size: itemSize(m)})
	}
	l.mu.Unlock()
	l.poke()
}

// itemSize is what a message counts for in the queues' byte bounds.
func itemSize(m *raft.Message) int {
	size := messageOverhead
	for k := range m.Entries {
		size += len(m.Entries[k].Frame)
	}
	return size
}

func (l *lane) pushFrame(f, tail []byte) {
	l.mu.Lock()
	l.add(item{frame: f, tail: tail, size: len(f) + len(tail)})
	l.mu.Unlock()
	l.poke()
}

// pushUrgent queues a frame ahead of all that are not urgent: when thousands of groups elect leaders, that two brokers live must
// not be heard after what all those groups have to say.
func (l *lane) pushUrgent(f []byte) {
	l.mu.Lock()
	switch {
	case l.down:
		l.stats.droppedUnreachable.Add(1)
	default:
		if len(l.urgent) == maxUrgent {
			l.stats.droppedFull.Add(1)
			l.urgent = append(l.urgent[:0], l.urgent[1:]...) // the oldest goes: newer ones say more
		}
		l.urgent = append(l.urgent, item{frame: f, size: len(f)})
	}
	l.mu.Unlock()
	l.poke()
}

// add queues one item; mu is held.
func (l *lane) add(it item) bool {
	if l.down {
		l.stats.droppedUnreachable.Add(1)
		return false
	}
	maxCount, maxBytes := l.limits()
	for n := len(l.items) - l.head; n > 0 && (n >= maxCount || l.bytes+it.size > maxBytes); n-- {
		l.stats.droppedFull.Add(1)
		if l.kind != laneControl {
			return false // the newest goes: what is behind a gap in the log, or in a snapshot, is refused anyway
		}
		l.bytes -= l.items[l.head].size // the oldest goes: newer ones say more
		l.items[l.head] = item{}
		l.head++
	}
	if l.head > 1024 && l.head > len(l.items)/2 {
		n := copy(l.items, l.items[l.head:])
		clear(l.items[n:])
		l.items, l.head = l.items[:n], 0
	}
	l.items = append(l.items, it)
	l.bytes += it.size
	return true
}

// take moves the next items for one write into l.batch, if there are any: some. While somebody else writes, there are none: that one pokes.
func (l *lane) take() (some, kicked bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.kicked || l.writing {
		return false, l.kicked
	}
	bytes := 0
	if len(l.rest) > 0 {
		l.batch = append(l.batch, item{frame: l.rest})
		l.rest = nil
	}
	l.batch = append(l.batch, l.urgent...)
	clear(l.urgent)
	l.urgent = l.urgent[:0]
	for l.head < len(l.items) && len(l.batch) < maxBatchMessages {
		it := &l.items[l.head]
		if bytes > 0 && bytes+it.size > maxBatchBytes {
			break
		}
		bytes += it.size
		l.bytes -= it.size
		l.batch = append(l.batch, *it)
		*it = item{}
		l.head++
	}
	if l.head == len(l.items) {
		l.items, l.head = l.items[:0], 0
		if cap(l.items) > 4*maxBatchMessages {
			l.items = nil // a burst is over
		}
	}
	l.writing = len(l.batch) > 0
	return l.writing, false
}

// claim makes the caller the one who writes, if nobody is and nothing has to go first.
func (l *lane) claim() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.writing || len(l.rest) > 0 {
		return false
	}
	l.writing = true
	return true
}

// release is the end of that. After a write that failed nobody writes any more: perhaps a part of it has left, and what follows would be taken for the rest.
func (l *lane) release(err error) {
	l.mu.Lock()
	if l.writing = false; err != nil {
		l.raw = nil
	}
	l.mu.Unlock()
}

// drop empties the queue; down says whether it stays shut.
func (l *lane) drop(down bool) {
	l.mu.Lock()
	n := len(l.items) - l.head + len(l.urgent)
	l.items, l.head, l.bytes, l.urgent, l.rest = nil, 0, 0, nil, nil
	l.down, l.kicked = down, false
	l.mu.Unlock()
	l.stats.droppedUnreachable.Add(uint64(n))
}

func (l *lane) empty() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.head == len(l.items) && len(l.urgent) == 0
}

// run is the lane's life: wait for something to send, connect, send until something fails, tell, back off.
func (l *lane) run() {
	defer l.drop(true)
	var backoff time.Duration
	for {
		for l.empty() {
			select {
			case <-l.wake:
			case <-l.ctx.Done():
				return
			}
		}
		began := time.Now()
		err := l.session()
		if l.ctx.Err() != nil {
			return
		}
		l.drop(true)
		if !errors.Is(err, errRetired) && l.kind != laneChunk { // whoever waits for a chunk asks again
			l.t.o.OnUnreachable(l.node)
		}
		if time.Since(began) > 10*l.t.o.BackoffMax {
			backoff = 0
		}
		backoff = min(max(2*backoff, l.t.o.BackoffMin), l.t.o.BackoffMax)
		wait := backoff/2 + rand.N(backoff)
		if permanent(err) {
			wait = l.t.o.BackoffMax/2 + rand.N(l.t.o.BackoffMax)
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-l.ctx.Done():
			timer.Stop()
			return
		}
		l.drop(false)
	}
}

// session is one connection from dial to failure.
func (l *lane) session() error {
	id := l.t.ident.Load()
	if id.cluster.IsZero() || id.self.ID == 0 {
		return errRetired // a joiner: there is nothing to send yet
	}
	addr, ok := l.t.o.Resolve(l.node)
	if !ok {
		l.t.stats.dialFailures.Add(1)
		l.t.logOnce(fmt.Sprint("resolve ", l.node), slog.LevelInfo, "no address is known of broker", "node", l.node)
		return errNoAddress
	}
	c, fr, w, err := l.t.connect(l.ctx, addr, l.kind, l.node)
	if err != nil {
		return err
	}
	l.version = w.version
	defer c.Close()
	// The reader's one job is to notice pongs and the end.
	pongs, dead := make(chan struct{}, 1), make(chan error, 1)
	l.t.wg.Go(func() {
		for {
			t, _, err := fr.next(0)
			if err == nil && t != framePong {
				err = errFrame
			}
			if err != nil {
				dead <- err
				return
			}
			select {
			case pongs <- struct{}{}:
			default:
			}
		}
	})
	l.open(c)
	err = l.pump(c, pongs, dead)
	l.shut()
	l.t.log.Debug("lane closed", "node", l.node, "lane", l.kind, "err", err)
	return err
}

// pump writes until something fails.
func (l *lane) pump(c net.Conn, pongs <-chan struct{}, dead <-chan error) error {
	pingTimeout, writeTimeout := l.t.o.PingTimeout, l.t.o.WriteTimeout
	if l.kind != laneControl {
		pingTimeout, writeTimeout = 3*pingTimeout, 3*writeTimeout
	}
	ping := beginFrame(nil, framePing)
	endFrame(ping, 0)
	ticker := time.NewTicker(l.t.o.PingInterval)
	defer ticker.Stop()
	// A stop must reach a writer that is stuck in a full socket.
	defer context.AfterFunc(l.ctx, func() { _ = c.Close() })()
	var unanswered time.Time // when the oldest unanswered ping went out
	used := time.Now()
	for {
		some, kicked := l.take()
		if kicked {
			return errRetired
		}
		if some {
			used = time.Now()
			if err := l.write(c, writeTimeout); err != nil {
				return err
			}
			select { // busy: look after the connection without waiting
			case err := <-dead:
				return err
			case <-pongs:
				unanswered = time.Time{}
			case <-ticker.C:
				if err := l.ping(c, ping, &unanswered, pingTimeout, writeTimeout); err != nil {
					return err
				}
			default:
			}
			continue
		}
		select {
		case <-l.wake:
		case err := <-dead:
			return err
		case <-pongs:
			unanswered = time.Time{}
		case <-ticker.C:
			if l.kind == laneChunk && time.Since(used) > l.t.o.CallIdle {
				return errRetired // snapshots are rare
			}
			if err := l.ping(c, ping, &unanswered, pingTimeout, writeTimeout); err != nil {
				return err
			}
		case <-l.ctx.Done():
			return l.ctx.Err()
		}
	}
}

func (l *lane) ping(c net.Conn, frame []byte, unanswered *time.Time, pingTimeout, writeTimeout time.Duration) error {
	if !unanswered.IsZero() && time.Since(*unanswered) > pingTimeout {
		return errPingUnsaid
	}
	if !l.claim() {
		return nil // somebody else writes: at the next tick, then
	}
	if unanswered.IsZero() {
		*unanswered = time.Now()
	}
	err := writeBuffers(c, net.Buffers{frame}, writeTimeout)
	l.release(err)
	return err
}

// write encodes the batch and writes it all at once.
func (l *lane) write(c net.Conn, timeout time.Duration) error {
	messages, n := l.encode()
	bufs := net.Buffers(l.bufs)
	err := writeBuffers(c, bufs, timeout)
	clear(l.bufs)
	l.release(err)
	if err == nil {
		l.count(messages, n)
	}
	return err
}

func (l *lane) count(messages, bytes int) {
	l.stats.sentMessages.Add(uint64(messages))
	l.stats.sentBytes.Add(uint64(bytes))
}

// encode makes l.bufs, of n bytes, from the batch. Entries' frames and chunks stay where they lie.
func (l *lane) encode() (messages, n int) {
	if cap(l.arena) > keepArena {
		l.arena = nil
	}
	l.arena, l.bufs = l.arena[:0], l.bufs[:0]
	for i := range l.batch {
		it := &l.batch[i]
		messages++
		switch m := &it.msg; {
		case it.frame != nil:
			l.flushSmall()
			l.bufs = append(l.bufs, it.frame)
			if len(it.tail) > 0 {
				l.bufs = append(l.bufs, it.tail)
			}
		case len(m.Entries) > 0:
			l.flushSmall()
			l.app(m)
		default:
			l.small = append(l.small, *m)
		}
	}
	l.flushSmall()
	clear(l.batch)
	l.batch = l.batch[:0]
	for _, b := range l.bufs {
		n += len(b)
	}
	return messages, n
}

// finish completes the frame that begins at start of the arena and queues it, with what follows it in place. The arena
// may move later; what was queued then stays where it was.
func (l *lane) finish(start int, tail ...[]byte) {
	endFrame(l.arena, start, tail...)
	l.bufs = append(l.bufs, l.arena[start:len(l.arena):len(l.arena)])
	l.bufs = append(l.bufs, tail...)
}

func (l *lane) flushSmall() {
	if len(l.small) == 0 {
		return
	}
	start := len(l.arena)
	l.arena = appendMessages(beginFrame(l.arena, frameMessages), l.small)
	l.finish(start)
	clear(l.small)
	l.small = l.small[:0]
}

// keptFrames bounds the lists of frames that a lane keeps the memory of.
const keptFrames = 1 << 10

func (l *lane) forgetFrames() {
	if clear(l.frames); cap(l.frames) > keptFrames {
		l.frames = nil
	}
}

func (l *lane) app(m *raft.Message) {
	start, summed := len(l.arena), l.version < protocolEntries
	if summed {
		l.arena = beginFrame(l.arena, frameApp)
	} else {
		l.arena = append(beginFrame(l.arena, frameEntries), make([]byte, headLen)...)
	}
	l.arena = appendMessage(l.arena, m)
	n := len(l.arena) - start - frameHeaderLen
	frames := l.frames[:0]
	for i := range m.Entries {
		f := m.Entries[i].Frame
		frames = append(frames, f)
		n += len(f)
		if len(f) == 0 {
			n = -1
			break
		}
	}
	l.frames = frames
	defer l.forgetFrames()
	if n < 0 || n > l.t.o.MaxFrame || len(frames) > maxEntries {
		l.arena = l.arena[:start]
		l.t.stats.droppedInvalid.Add(1)
		l.t.logOnce(fmt.Sprint("app ", m.Group), slog.LevelError, "entries cannot be sent: unframed or too large",
			"group", m.Group, "index", m.Index, "entries", len(m.Entries), "bytes", n, "MaxFrame", l.t.o.MaxFrame)
		return
	}
	if summed {
		l.finish(start, frames...)
		return
	}
	endEntries(l.arena, start, n-(len(l.arena)-start-frameHeaderLen))
	l.bufs = append(append(l.bufs, l.arena[start:len(l.arena):len(l.arena)]), frames...)
}

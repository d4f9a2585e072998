// Writing what is small without the lane's goroutine. Who hands over a message, and has nothing else to do, has it on its way sooner by
// one system call than by waking another goroutine, for which a machine with idle processors wakes one of them.
//
// The lane's own goroutine connects, and watches over the connection, as ever. It writes as well, whatever is not small, what comes while somebody else
// writes, and what a full socket has not taken. One writes at a time (lane.writing), in the order in which messages were handed over.

package transport

import (
	"bytes"
	"net"
	"syscall"

	"github.com/balsamq/balsa/internal/sock"
	"github.com/balsamq/balsa/raft"
)

// promptBytes bounds what is written promptly: it is copied together.
const promptBytes = 16 << 10

// open: a connection stands, and may be written to. Not every kind can be: one with TLS has to be written through it.
func (l *lane) open(c net.Conn) {
	tcp, ok := c.(syscall.Conn)
	if !ok || !sock.Gathers(c) || l.kind == laneChunk {
		return
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return
	}
	l.mu.Lock()
	l.raw = raw
	l.mu.Unlock()
}

// shut: it stands no more, and nobody writes to it any more. Who does is done with one system call.
func (l *lane) shut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for l.raw = nil; l.writing; {
		l.mu.Unlock()
		<-l.wake
		l.mu.Lock()
	}
}

// pushNow is push by a caller who has nothing else to do.
func (l *lane) pushNow(msgs []raft.Message) {
	size := 0
	for i := range msgs {
		size += itemSize(&msgs[i])
	}
	l.mu.Lock()
	if l.raw == nil || l.writing || l.down || l.kicked || size > promptBytes || l.head < len(l.items) || len(l.urgent) > 0 || len(l.rest) > 0 {
		l.mu.Unlock()
		l.push(msgs)
		return
	}
	l.writing = true
	raw := l.raw
	l.mu.Unlock()

	for i := range msgs {
		l.batch = append(l.batch, item{msg: msgs[i]})
	}
	messages, n := l.encode()
	joined := l.joined[:0]
	for _, b := range l.bufs {
		joined = append(joined, b...)
	}
	clear(l.bufs)
	l.joined = joined
	wrote := sock.TryWrite(raw, joined)

	l.mu.Lock()
	l.writing = false
	if wrote < n && l.raw == raw { // what is left is the lane's, which finds out why
		l.rest = bytes.Clone(joined[wrote:])
	}
	wake := l.raw != raw || len(l.rest) > 0 || l.kicked || l.head < len(l.items) || len(l.urgent) > 0
	l.mu.Unlock()
	if wrote == n {
		l.count(messages, n)
	}
	if wake {
		l.poke()
	}
}

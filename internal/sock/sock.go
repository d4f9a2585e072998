// Package sock has TCP connections whose reads and writes Go's scheduler is not told of.
//
// A system call of the standard library's is announced to the scheduler, since it may block: it wakes the thread that watches over such calls
// (sysmon) if all of the process was idle, and has it take the processor from whoever is in the kernel for longer than 20 µs. A socket
// without blocking never blocks, it computes: there is nobody to take a processor from, and each of these is a futex, a timer and a switch of threads
// for nothing (docs/design/0024-produce-speed.md). Waiting is the runtime's network poller's, as ever, and so are deadlines and Close.
// So that sysmon, which has other work as well, does not sleep for long where there is some, a Read wakes it every 10 ms at most.
package sock

import "net"

// maxCall bounds what one system call copies, in bytes: for as long as that takes, some tens of µs, nothing else runs on its processor, and a
// collection of garbage waits for it.
const maxCall = 256 << 10

// Listener has its connections wrapped.
type Listener struct{ net.Listener }

// Accept implements net.Listener.
func (l Listener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return Wrap(c), nil
}

// buffersWriter is a connection that writes many buffers with one system call.
type buffersWriter interface {
	net.Conn
	writeBuffers(bufs *net.Buffers) (int64, error)
}

// WriteBuffers is bufs.WriteTo(c), whose calls would be announced: with one system call for many of them, where c can. It consumes
// bufs, and returns how many bytes of it were written.
func WriteBuffers(c net.Conn, bufs *net.Buffers) (int64, error) {
	if w, ok := c.(buffersWriter); ok {
		return w.writeBuffers(bufs)
	}
	return bufs.WriteTo(c)
}

// Gathers reports whether WriteBuffers to c is one system call for many buffers.
func Gathers(c net.Conn) bool {
	if _, ok := c.(buffersWriter); ok {
		return true
	}
	_, ok := c.(*net.TCPConn)
	return ok
}

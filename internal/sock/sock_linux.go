//go:build linux && (amd64 || arm64)

// Linux: sendto, recvfrom and sendmsg with MSG_DONTWAIT, by raw system calls.

package sock

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"unsafe"
)

// maxPieces is how many buffers one sendmsg gets.
const maxPieces = 128

// flags: whoever has made the socket block (net.TCPConn.File and Fd do) has not made these calls block. Old kernels' MPTCP, which Go's listeners take, refuses
// to read with a flag that is for writes.
const (
	readFlags  = syscall.MSG_DONTWAIT
	writeFlags = syscall.MSG_DONTWAIT | syscall.MSG_NOSIGNAL
)

// conn is a TCP connection. What it has besides Read and Write is the standard library's.
type conn struct {
	*net.TCPConn
	raw syscall.RawConn
	in  reader
	out writer
}

// Wrap returns a connection with the same socket, if c is one of TCP, else c. The two must not be used side by side.
func Wrap(c net.Conn) net.Conn {
	tcp, ok := c.(*net.TCPConn)
	if !ok {
		return c
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return c
	}
	w := &conn{TCPConn: tcp, raw: raw}
	w.in.try, w.out.try = w.in.receive, w.out.send
	return w
}

// reader is the state of a Read: try is called with the socket until it has an outcome.
type reader struct {
	try func(fd uintptr) bool

	mu    sync.Mutex // one reads at a time; guards what follows
	p     []byte
	n     int
	errno syscall.Errno
}

func (r *reader) receive(fd uintptr) bool {
	for {
		n, _, e := syscall.RawSyscall6(syscall.SYS_RECVFROM, fd, uintptr(unsafe.Pointer(unsafe.SliceData(r.p))), uintptr(len(r.p)), readFlags, 0, 0)
		switch e {
		case syscall.EINTR:
			continue
		case syscall.EAGAIN:
			return false
		case 0:
			r.n, r.errno = int(n), 0
		default:
			r.n, r.errno = 0, e
		}
		return true
	}
}

// Read implements net.Conn.
func (c *conn) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	r := &c.in
	r.mu.Lock()
	r.p = p[:min(len(p), maxCall)]
	err := c.raw.Read(r.try)
	n, errno := r.n, r.errno
	r.p = nil
	r.mu.Unlock()
	watched()
	switch {
	case err != nil:
		return 0, c.waiting("read", err)
	case errno != 0:
		return 0, c.failed("read", "recvfrom", errno)
	case n == 0:
		return 0, io.EOF
	}
	read()
	return n, nil
}

// writer is the state of a Write: try is called with the socket until all is written, or cannot be.
type writer struct {
	try func(fd uintptr) bool

	mu     sync.Mutex  // one writes at a time; guards what follows
	bufs   net.Buffers // what is left
	one    [1][]byte   // memory for bufs, where there is one
	pieces []syscall.Iovec
	header syscall.Msghdr
	n      int64
	errno  syscall.Errno
}

func (w *writer) send(fd uintptr) bool {
	for len(w.bufs) > 0 {
		n, e := w.some(fd)
		switch {
		case e == syscall.EINTR:
		case e == syscall.EAGAIN:
			return false
		case e != 0:
			w.errno = e
			return true
		default:
			w.n += int64(n)
			w.consume(n)
		}
	}
	return true
}

// some writes what is left, as far as one call goes.
func (w *writer) some(fd uintptr) (int, syscall.Errno) {
	if first := w.bufs[0]; len(w.bufs) == 1 || len(first) >= maxCall {
		n, _, e := syscall.RawSyscall6(syscall.SYS_SENDTO, fd, uintptr(unsafe.Pointer(unsafe.SliceData(first))), uintptr(min(len(first), maxCall)), writeFlags, 0, 0)
		return int(n), e
	}
	w.pieces = w.pieces[:0]
	for room, bufs := maxCall, w.bufs; room > 0 && len(bufs) > 0 && len(w.pieces) < maxPieces; bufs = bufs[1:] {
		if n := min(len(bufs[0]), room); n > 0 {
			v := syscall.Iovec{Base: unsafe.SliceData(bufs[0])}
			v.SetLen(n)
			w.pieces = append(w.pieces, v)
			room -= n
		}
	}
	w.header.Iov, w.header.Iovlen = unsafe.SliceData(w.pieces), uint64(len(w.pieces))
	n, _, e := syscall.RawSyscall(syscall.SYS_SENDMSG, fd, uintptr(unsafe.Pointer(&w.header)), writeFlags)
	clear(w.pieces) // which keeps nothing that is long written
	return int(n), e
}

// consume takes n bytes off what is left, and buffers that are empty.
func (w *writer) consume(n int) {
	for len(w.bufs) > 0 {
		if first := len(w.bufs[0]); first > n {
			w.bufs[0] = w.bufs[0][n:]
			return
		} else {
			n -= first
		}
		w.bufs[0] = nil
		w.bufs = w.bufs[1:]
	}
}

// Write implements net.Conn.
func (c *conn) Write(p []byte) (int, error) {
	w := &c.out
	w.mu.Lock()
	defer w.mu.Unlock()
	w.one[0] = p
	w.bufs = w.one[:]
	n, err := c.write()
	w.one[0] = nil
	return int(n), err
}

func (c *conn) writeBuffers(bufs *net.Buffers) (int64, error) {
	w := &c.out
	w.mu.Lock()
	defer w.mu.Unlock()
	w.bufs = *bufs
	n, err := c.write()
	*bufs = w.bufs
	w.bufs = nil
	return n, err
}

// write writes out.bufs, whose lock the caller holds.
func (c *conn) write() (int64, error) {
	w := &c.out
	w.n, w.errno = 0, 0
	w.consume(0) // a call for nothing would be for an empty buffer
	written()
	err := c.raw.Write(w.try)
	switch {
	case err != nil:
		return w.n, c.waiting("write", err)
	case w.errno != 0:
		return w.n, c.failed("write", "sendto", w.errno)
	}
	return w.n, nil
}

// waiting is why the poller gave up: a deadline, or Close.
func (c *conn) waiting(op string, err error) error {
	if o, ok := errors.AsType[*net.OpError](err); ok {
		err = o.Err
	}
	return &net.OpError{Op: op, Net: "tcp", Source: c.LocalAddr(), Addr: c.RemoteAddr(), Err: err}
}

// failed is what the system says.
func (c *conn) failed(op, call string, errno syscall.Errno) error {
	return &net.OpError{Op: op, Net: "tcp", Source: c.LocalAddr(), Addr: c.RemoteAddr(), Err: os.NewSyscallError(call, errno)}
}

// TryWrite writes what the socket takes at once, and returns how many bytes that was.
func TryWrite(raw syscall.RawConn, b []byte) (n int) {
	if len(b) == 0 {
		return 0
	}
	written()
	_ = raw.Control(func(fd uintptr) { // Write would look at deadlines, which are those of writes that wait
		k, _, e := syscall.RawSyscall6(syscall.SYS_SENDTO, fd, uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(min(len(b), maxCall)), writeFlags, 0, 0)
		if e == 0 {
			n = int(k)
		}
	})
	return n
}

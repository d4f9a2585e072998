// Frames: how bytes are cut on a broker-to-broker connection, and checked.
//
//	0  length of the body (4, little endian)
//	4  CRC32C over bytes 0..4, 8..12 and the body (4)
//	8  version (1)
//	9  type
//	10 flags, reserved: 0 (2)
//	12 body
//
// The length is checked against the lane's bound before memory is taken for it. Of a frameEntries' body the checksum covers only the
// head: the entries behind it are frames of a log, each with a checksum of its own that its group verifies in any case, and bytes that
// travel twice for each record that is written need not be summed up four times more.

package transport

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/balsamq/balsa/internal/sock"
)

const (
	frameHeaderLen = 12
	frameVersion   = 1

	// maxHandshakeFrame bounds what a stranger can make us read.
	maxHandshakeFrame = 1 << 10
	// maxControlFrame bounds a frame on the control lane: a pair message that names every group of a large broker.
	maxControlFrame = 16 << 20
	// firstRead is how much memory a frame gets before any of it has come; the rest is taken when that much is here.
	firstRead = 4 << 20
	// maxChunkShare: a body that may be kept and is larger than that part of a frameReader's chunk gets memory of its own. minChunkShare: less
	// than that part of a chunk is not read into.
	maxChunkShare = 4
	minChunkShare = 8
)

type frameType uint8

const (
	frameHello    frameType = 1
	frameWelcome  frameType = 2
	frameMessages frameType = 3 // count, messages without entries
	frameApp      frameType = 4 // one message with entries, whose frames follow verbatim
	frameChunk    frameType = 5 // a piece of a snapshot, or the request for one
	framePair     frameType = 7
	framePing     frameType = 8 // by whoever dialed
	framePong     frameType = 9
	frameRequest  frameType = 10
	frameResponse frameType = 11
	frameCancel   frameType = 12
	frameEntries  frameType = 13 // length of the head (4), the head, which is that of a frameApp, and the entries' frames; since protocol 3

	maxFrameType = frameEntries
	// headLen is the length of the length of a frameEntries' head.
	headLen = 4
)

// owned reports whether what is decoded from the body points into it, so that the body needs memory of its own.
func (t frameType) owned() bool {
	return t == frameApp || t == frameEntries || t == frameChunk || t == frameRequest || t == frameResponse
}

var (
	errFrame      = errors.New("not a frame of this protocol")
	errFrameLarge = errors.New("frame is too large")
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// beginFrame appends a header to be filled in by endFrame.
func beginFrame(dst []byte, t frameType) []byte {
	return append(dst, 0, 0, 0, 0, 0, 0, 0, 0, frameVersion, byte(t), 0, 0)
}

// endEntries completes the frameEntries whose head begins at start of buf, behind the room for its length, and which goes on with n
// bytes of entries.
func endEntries(buf []byte, start, n int) {
	f := buf[start:]
	binary.LittleEndian.PutUint32(f, uint32(len(f)-frameHeaderLen+n))
	binary.LittleEndian.PutUint32(f[frameHeaderLen:], uint32(len(f)-frameHeaderLen-headLen))
	binary.LittleEndian.PutUint32(f[4:], frameCRC(f[:frameHeaderLen], f[frameHeaderLen:]))
}

// summed is the part of a body that its frame's checksum covers.
func (t frameType) summed(body []byte) ([]byte, error) {
	if t != frameEntries {
		return body, nil
	}
	if len(body) < headLen {
		return nil, fmt.Errorf("%w: entries without a head", errFrame)
	}
	n := int64(binary.LittleEndian.Uint32(body))
	if n > int64(len(body)-headLen) {
		return nil, fmt.Errorf("%w: a head of %d bytes in %d", errFrame, n, len(body))
	}
	return body[:headLen+n], nil
}

// endFrame completes the frame that begins at start of buf and goes on with tail.
func endFrame(buf []byte, start int, tail ...[]byte) {
	f := buf[start:]
	n := len(f) - frameHeaderLen
	for _, t := range tail {
		n += len(t)
	}
	binary.LittleEndian.PutUint32(f, uint32(n))
	crc := frameCRC(f[:frameHeaderLen], f[frameHeaderLen:])
	for _, t := range tail {
		crc = crc32.Update(crc, castagnoli, t)
	}
	binary.LittleEndian.PutUint32(f[4:], crc)
}

func frameCRC(header, body []byte) uint32 {
	crc := crc32.Update(0, castagnoli, header[0:4])
	crc = crc32.Update(crc, castagnoli, header[8:12])
	return crc32.Update(crc, castagnoli, body)
}

// frameReader cuts a stream into frames where they lie: it reads as much as has come into a chunk of memory, and hands out parts of that. What
// may be kept (see owned) keeps the chunk, which lives until the last of its frames is forgotten; what is not in a chunk of small
// frames was read, and is dropped, at about the same time as its neighbours.
//
//	chunk  | frames handed out ......... | read ahead ...... | free ........... |
//	                                     ^ at                ^ end
type frameReader struct {
	src     io.Reader
	size    int    // of a chunk
	chunk   []byte // nil: none yet
	at, end int
	kept    bool // the chunk has frames that somebody may keep: it is never written over
}

func newFrameReader(r io.Reader, size int) *frameReader {
	return &frameReader{src: r, size: max(size, 4*frameHeaderLen)}
}

// ahead is what has been read and not been handed out.
func (f *frameReader) ahead() []byte { return f.chunk[f.at:f.end] }

// need sees to it that n bytes are ahead, and that they lie together.
func (f *frameReader) need(n int) error {
	have := f.end - f.at
	if have >= n {
		return nil
	}
	switch room := len(f.chunk) - f.at; {
	case !f.kept && f.at > 0 && n <= len(f.chunk):
		f.at, f.end = 0, copy(f.chunk, f.ahead())
	case room < n || room < f.size/minChunkShare: // a read for less would be one of too many
		next := uncleared(max(n, f.size))
		f.at, f.end, f.chunk, f.kept = 0, copy(next, f.ahead()), next, false
	}
	m, err := io.ReadAtLeast(f.src, f.chunk[f.end:], n-have)
	f.end += m
	if err == io.EOF && have > 0 {
		err = io.ErrUnexpectedEOF
	}
	return err
}

// next reads a frame of at most limit bytes. The body is the caller's if the type says so, else it is good until the
// next call.
func (f *frameReader) next(limit int) (frameType, []byte, error) {
	if err := f.need(frameHeaderLen); err != nil {
		return 0, nil, err
	}
	var h [frameHeaderLen]byte
	copy(h[:], f.ahead())
	if h[8] != frameVersion || h[10] != 0 || h[11] != 0 || h[9] == 0 || h[9] > byte(maxFrameType) {
		return 0, nil, fmt.Errorf("%w: header %x", errFrame, h[8:])
	}
	t := frameType(h[9])
	n := binary.LittleEndian.Uint32(h[:])
	if int64(n) > int64(limit) {
		return 0, nil, fmt.Errorf("%w: %d bytes of type %d, at most %d", errFrameLarge, n, t, limit)
	}
	body, err := f.body(int(n), t.owned())
	if err != nil {
		return 0, nil, noEOF(err)
	}
	summed, err := t.summed(body)
	if err != nil {
		return 0, nil, err
	}
	if frameCRC(h[:], summed) != binary.LittleEndian.Uint32(h[4:]) {
		return 0, nil, fmt.Errorf("%w: checksum", errFrame)
	}
	return t, body, nil
}

func (f *frameReader) body(n int, owned bool) ([]byte, error) {
	most := f.size - frameHeaderLen
	if owned {
		most = f.size / maxChunkShare
	}
	if n > most {
		f.at += frameHeaderLen
		return f.large(n)
	}
	if err := f.need(frameHeaderLen + n); err != nil {
		return nil, err
	}
	from := f.at + frameHeaderLen
	f.at = from + n
	f.kept = f.kept || owned
	return f.chunk[from:f.at:f.at], nil
}

// large reads a body into memory of its own, and what has come of the next header with it: in a stream of such frames a read brings one
// of them, and nothing is copied.
func (f *frameReader) large(n int) ([]byte, error) {
	b := uncleared(min(n, firstRead) + frameHeaderLen)
	k := copy(b[:min(n, firstRead)], f.ahead())
	f.at += k
	if n > firstRead {
		if _, err := io.ReadFull(f.src, b[k:firstRead]); err != nil {
			return nil, err
		}
		k = firstRead
		whole := uncleared(n + frameHeaderLen)
		copy(whole, b[:k])
		b = whole
	}
	if k < n {
		m, err := io.ReadAtLeast(f.src, b[k:], n-k)
		if k += m; err != nil {
			return nil, err
		}
		f.place(b[n:k])
	}
	return b[:n:n], nil
}

// place puts what has been read past a large body where need looks for it. Nothing else is ahead.
func (f *frameReader) place(b []byte) {
	if len(f.chunk)-f.at < len(b) {
		f.chunk, f.kept = uncleared(f.size), false
		f.at = 0
	}
	f.end = f.at + copy(f.chunk[f.at:], b)
}

// unclearedFrom is the size from which clearing memory costs more than a detour.
const unclearedFrom = 4 << 10

// uncleared is make for bytes that are written before they are read: clearing them first took a thirtieth of a busy broker's time.
// Package strings knows memory that is not cleared, and nobody else has the string.
func uncleared(n int) []byte {
	if n < unclearedFrom {
		return make([]byte, n)
	}
	var b strings.Builder
	b.Grow(n)
	_ = b.WriteByte(0) // never fails
	return unsafe.Slice(unsafe.StringData(b.String()), n)
}

func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// timedConn gives each read a fresh deadline, so that a connection whose other end has vanished does not stay. It also
// counts bytes.
type timedConn struct {
	net.Conn
	timeout  time.Duration
	set      time.Time
	received *atomic.Uint64
}

func (c *timedConn) Read(p []byte) (int, error) {
	if now := time.Now(); now.Sub(c.set) > c.timeout/8 {
		c.set = now
		if err := c.SetReadDeadline(now.Add(c.timeout)); err != nil {
			return 0, err
		}
	}
	n, err := c.Conn.Read(p)
	c.received.Add(uint64(n))
	return n, err
}

// joinBelow is the size up to which buffers are copied together for connections that know no writev (TLS): a record
// per small piece would cost more.
const joinBelow = 16 << 10

// writeBuffers writes all buffers within timeout. It clears bufs.
func writeBuffers(c net.Conn, bufs net.Buffers, timeout time.Duration) error {
	if err := c.SetWriteDeadline(time.Now().Add(timeout)); err != nil {
		return err
	}
	if sock.Gathers(c) {
		_, err := sock.WriteBuffers(c, &bufs)
		return err
	}
	w := bufio.NewWriterSize(c, joinBelow)
	for _, b := range bufs {
		if _, err := w.Write(b); err != nil {
			return err
		}
	}
	return w.Flush()
}

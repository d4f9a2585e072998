// Package protocol is the Kafka wire below the messages: length-prefixed frames, request and response headers, and a
// view on record batches (format v2) that reads and stamps them in place. The messages themselves are kmsg's.
//
// Everything here parses bytes that a stranger sent. Each length is checked against what is really there, and against
// a bound given by the caller, before memory is taken for it.
package protocol

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

var (
	// ErrFrameSize is returned by ReadFrame for a length that is negative or above the caller's limit. Nothing was
	// allocated for it; the stream cannot be continued.
	ErrFrameSize = errors.New("frame size out of bounds")
	// ErrHeader is returned by ParseRequestHeader for bytes that are no request header.
	ErrHeader = errors.New("malformed request header")
)

// frameStep is how much of a frame is allocated ahead of the bytes that have arrived: a peer that claims 100 MiB and
// sends nothing costs this much.
const frameStep = 1 << 20

// minFrame is the shortest request: key, version, correlation id.
const minFrame = 8

// ReadFrameSize reads the four bytes before a frame. io.EOF means that the peer closed between two frames.
func ReadFrameSize(r io.Reader, limit int) (int, error) {
	var b [4]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return 0, err
	}
	n := int32(binary.BigEndian.Uint32(b[:]))
	if n < minFrame || int64(n) > int64(limit) {
		return 0, fmt.Errorf("%w: %d bytes announced, allowed are %d to %d", ErrFrameSize, n, minFrame, limit)
	}
	return int(n), nil
}

// ReadFrameBody reads n bytes that ReadFrameSize announced. The returned slice is the caller's. A truncated frame
// gives io.ErrUnexpectedEOF.
func ReadFrameBody(r io.Reader, n int) ([]byte, error) {
	buf := make([]byte, min(n, frameStep))
	read := 0
	for {
		m, err := io.ReadFull(r, buf[read:])
		read += m
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
		if read == n {
			return buf, nil
		}
		// Doubling keeps the copies to one per byte on average, and memory within twice of what has really arrived.
		grown := make([]byte, min(n, 2*len(buf)))
		copy(grown, buf)
		buf = grown
	}
}

// ReadFrame reads one frame of at most limit bytes.
func ReadFrame(r io.Reader, limit int) ([]byte, error) {
	n, err := ReadFrameSize(r, limit)
	if err != nil {
		return nil, err
	}
	return ReadFrameBody(r, n)
}

// RequestHeader precedes every request's body.
type RequestHeader struct {
	Key           int16
	Version       int16
	CorrelationID int32
	// ClientID aliases the frame; nil if null. (Header v0, which has none, also gives nil.)
	ClientID []byte
}

// HeaderVersion says which header form a request uses: 0 without a client id (ControlledShutdown v0 only), 1 with it, 2 with tagged
// fields after it.
type HeaderVersion int8

// ParseRequestHeader splits a frame into header and body; both alias the frame. headerVersion is asked for the form
// once key and version are known; if it reports false (we do not know that request), the frame is refused with
// ErrHeader, and the header's first three fields are still returned for the log.
func ParseRequestHeader(frame []byte, headerVersion func(key, version int16) (HeaderVersion, bool)) (RequestHeader, []byte, error) {
	var h RequestHeader
	if len(frame) < minFrame {
		return h, nil, fmt.Errorf("%w: %d bytes", ErrHeader, len(frame))
	}
	h.Key = int16(binary.BigEndian.Uint16(frame))
	h.Version = int16(binary.BigEndian.Uint16(frame[2:]))
	h.CorrelationID = int32(binary.BigEndian.Uint32(frame[4:]))
	form, ok := headerVersion(h.Key, h.Version)
	if !ok {
		return h, nil, fmt.Errorf("%w: api key %d version %d is not served", ErrHeader, h.Key, h.Version)
	}
	b := frame[8:]
	if form == 0 {
		return h, b, nil
	}
	// Even in the flexible header the client id keeps its old, two-byte length (KIP-482), so that an ApiVersions
	// request of any version can be read by any broker.
	if len(b) < 2 {
		return h, nil, fmt.Errorf("%w: no client id", ErrHeader)
	}
	n := int(int16(binary.BigEndian.Uint16(b)))
	b = b[2:]
	if n > len(b) || n < -1 {
		return h, nil, fmt.Errorf("%w: client id of %d bytes in %d", ErrHeader, n, len(b))
	}
	if n >= 0 {
		h.ClientID, b = b[:n:n], b[n:]
	}
	if form == 2 {
		rest, ok := SkipTags(b)
		if !ok {
			return h, nil, fmt.Errorf("%w: tagged fields", ErrHeader)
		}
		b = rest
	}
	return h, b, nil
}

// SkipTags returns what follows a section of tagged fields (KIP-482).
func SkipTags(b []byte) ([]byte, bool) {
	count, n := Uvarint(b)
	if n <= 0 {
		return nil, false
	}
	b = b[n:]
	// Each field takes two bytes at least, so the loop is bounded by the frame.
	if uint64(count)*2 > uint64(len(b)) {
		return nil, false
	}
	for range count {
		if _, n = Uvarint(b); n <= 0 { // the tag
			return nil, false
		}
		b = b[n:]
		size, n := Uvarint(b)
		if n <= 0 || uint64(size) > uint64(len(b)-n) {
			return nil, false
		}
		b = b[n+int(size):]
	}
	return b, true
}

// AppendResponseHeader appends what stands before a response's body, the frame's length excluded: the correlation id, and for a
// flexible response an empty tag section. The response to ApiVersions (key 18) never has the latter, whatever its
// version: a client must be able to read it before it knows what the broker speaks (KIP-511).
func AppendResponseHeader(dst []byte, key int16, correlationID int32, flexible bool) []byte {
	dst = binary.BigEndian.AppendUint32(dst, uint32(correlationID))
	if flexible && key != 18 {
		dst = append(dst, 0)
	}
	return dst
}

// Uvarint reads an unsigned varint of at most 32 bits; n is the bytes it took, or 0 if b is too short, or negative if
// the value overflows.
func Uvarint(b []byte) (v uint32, n int) {
	for i, c := range b {
		if i == 4 && c > 0x0f {
			return 0, -1
		}
		v |= uint32(c&0x7f) << (7 * i)
		if c < 0x80 {
			return v, i + 1
		}
	}
	return 0, 0
}

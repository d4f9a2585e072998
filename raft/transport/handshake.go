// The handshake: who is calling, which cluster, which lane, and whom the caller expects. Each side says who it is before
// anything else is believed, and a mismatch is answered with its reason, so that a broker that was started on the wrong
// directory or with the wrong addresses says so rather than failing in odd ways.
//
//	hello    magic (8), lowest and highest protocol version, lane, flags (0), cluster id (16), node (4),
//	         incarnation (8), boot (8), expected node (4; 0: whoever answers)
//	welcome  code, chosen version, flags (2), cluster id (16), node (4), incarnation (8), boot (8), reason length (2), reason
//
// The layout of these two frames never changes; later versions may append to them.

package transport

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/balsamq/balsa/raft"
)

// Protocol versions spoken, inclusive.
const (
	minProtocol = 2 // messages carry the group's epoch
	maxProtocol = 3 // entries need not be summed up: frameEntries

	// protocolEntries is the first one with frameEntries.
	protocolEntries = 3
)

const (
	helloMagic = "BALSAB2B"
	helloLen   = 8 + 4 + 16 + 4 + 8 + 8 + 4
	welcomeLen = 4 + 16 + 4 + 8 + 8 + 2
	maxReason  = 512
)

// ClusterID names a cluster; zero: a broker that has not joined one yet.
type ClusterID [16]byte

// IsZero reports whether there is no cluster yet.
func (c ClusterID) IsZero() bool { return c == ClusterID{} }

func (c ClusterID) String() string { return hex.EncodeToString(c[:]) }

type laneKind uint8

const (
	laneControl laneKind = 1
	laneBulk    laneKind = 2
	laneRPC     laneKind = 3
	laneChunk   laneKind = 4
)

func (l laneKind) String() string {
	switch l {
	case laneControl:
		return "control"
	case laneBulk:
		return "bulk"
	case laneRPC:
		return "rpc"
	case laneChunk:
		return "chunk"
	}
	return fmt.Sprintf("lane(%d)", uint8(l))
}

// RefusalCode says why a connection was refused.
type RefusalCode uint8

const (
	accepted           RefusalCode = 0
	RefusedVersion     RefusalCode = 1 // no protocol version in common
	RefusedCluster     RefusalCode = 2 // the two belong to different clusters
	RefusedNode        RefusalCode = 3 // the address belongs to another node than expected
	RefusedLane        RefusalCode = 4 // unknown lane, or one for members only
	RefusedOverloaded  RefusalCode = 5 // too many connections
	RefusedDuplicateID RefusalCode = 6 // caller and callee claim the same node id
)

// HandshakeError is a refused connection. A wrong cluster, node or version does not heal by itself.
type HandshakeError struct {
	Addr   string
	Code   RefusalCode
	Reason string
}

func (e *HandshakeError) Error() string { return fmt.Sprintf("broker at %s: %s", e.Addr, e.Reason) }

// identity is who this side is; replaced as a whole by SetIdentity.
type identity struct {
	cluster ClusterID
	self    raft.Member
	boot    uint64
}

type hello struct {
	min, max byte
	lane     laneKind
	identity
	expect raft.NodeID
}

func appendHello(b []byte, h *hello) []byte {
	b = append(b, helloMagic...)
	b = append(b, h.min, h.max, byte(h.lane), 0)
	b = appendIdentity(b, &h.identity)
	return binary.LittleEndian.AppendUint32(b, uint32(h.expect))
}

func appendIdentity(b []byte, i *identity) []byte {
	b = append(b, i.cluster[:]...)
	b = binary.LittleEndian.AppendUint32(b, uint32(i.self.ID))
	b = binary.LittleEndian.AppendUint64(b, uint64(i.self.Incarnation))
	return binary.LittleEndian.AppendUint64(b, i.boot)
}

func decodeIdentity(b []byte) (i identity) {
	copy(i.cluster[:], b)
	i.self.ID = raft.NodeID(binary.LittleEndian.Uint32(b[16:]))
	i.self.Incarnation = raft.Incarnation(binary.LittleEndian.Uint64(b[20:]))
	i.boot = binary.LittleEndian.Uint64(b[28:])
	return i
}

func decodeHello(b []byte) (hello, error) {
	if len(b) < helloLen || string(b[:8]) != helloMagic {
		return hello{}, fmt.Errorf("%w: hello", errDecode)
	}
	return hello{
		min: b[8], max: b[9], lane: laneKind(b[10]),
		identity: decodeIdentity(b[12:]),
		expect:   raft.NodeID(binary.LittleEndian.Uint32(b[48:])),
	}, nil
}

type welcome struct {
	code    RefusalCode
	version byte
	identity
	reason string
}

func appendWelcome(b []byte, w *welcome) []byte {
	reason := w.reason[:min(len(w.reason), maxReason)]
	b = append(b, byte(w.code), w.version, 0, 0)
	b = appendIdentity(b, &w.identity)
	b = binary.LittleEndian.AppendUint16(b, uint16(len(reason)))
	return append(b, reason...)
}

func decodeWelcome(b []byte) (welcome, error) {
	if len(b) < welcomeLen {
		return welcome{}, fmt.Errorf("%w: welcome", errDecode)
	}
	n := int(binary.LittleEndian.Uint16(b[welcomeLen-2:]))
	if n > maxReason || n > len(b)-welcomeLen {
		return welcome{}, fmt.Errorf("%w: welcome", errDecode)
	}
	return welcome{
		code: RefusalCode(b[0]), version: b[1],
		identity: decodeIdentity(b[4:]),
		reason:   string(b[welcomeLen : welcomeLen+n]),
	}, nil
}

// judge decides about a caller.
func (i *identity) judge(h *hello) (RefusalCode, string) {
	me := fmt.Sprintf("node %d of cluster %v", i.self.ID, i.cluster)
	switch {
	case h.min > maxProtocol || h.max < minProtocol || h.min > h.max:
		return RefusedVersion, fmt.Sprintf("speaks broker protocol %d to %d, you speak %d to %d: upgrade the older broker",
			minProtocol, maxProtocol, h.min, h.max)
	case h.lane != laneControl && h.lane != laneBulk && h.lane != laneRPC && h.lane != laneChunk:
		return RefusedLane, fmt.Sprintf("knows no lane %d", h.lane)
	case !h.cluster.IsZero() && !i.cluster.IsZero() && h.cluster != i.cluster:
		return RefusedCluster, fmt.Sprintf("is %s; you belong to cluster %v: one of the two has the wrong address or data directory", me, h.cluster)
	case h.expect != 0 && h.expect != i.self.ID:
		return RefusedNode, fmt.Sprintf("is %s; you expected node %d: check the advertised addresses", me, h.expect)
	case h.lane == laneRPC:
		return accepted, ""
	case h.cluster.IsZero() || i.cluster.IsZero() || h.self.ID == 0:
		return RefusedLane, fmt.Sprintf("is %s; the %v lane is for members of one cluster", me, h.lane)
	case h.self.ID == i.self.ID:
		return RefusedDuplicateID, fmt.Sprintf("is %s; you claim the same node id", me)
	}
	return accepted, ""
}

// verify decides about a callee that has accepted.
func (h *hello) verify(addr string, w *welcome) error {
	switch {
	case w.code != accepted:
		return &HandshakeError{Addr: addr, Code: w.code, Reason: w.reason}
	case w.version < h.min || w.version > h.max:
		return &HandshakeError{Addr: addr, Code: RefusedVersion, Reason: fmt.Sprintf("chose broker protocol %d out of %d to %d", w.version, h.min, h.max)}
	case !w.cluster.IsZero() && !h.cluster.IsZero() && w.cluster != h.cluster:
		return &HandshakeError{Addr: addr, Code: RefusedCluster, Reason: fmt.Sprintf("belongs to cluster %v, this broker to %v", w.cluster, h.cluster)}
	case h.expect != 0 && w.self.ID != h.expect:
		return &HandshakeError{Addr: addr, Code: RefusedNode, Reason: fmt.Sprintf("is node %d, not %d", w.self.ID, h.expect)}
	}
	return nil
}

// greet is the dialing side.
func greet(c net.Conn, fr *frameReader, addr string, h *hello, timeout time.Duration) (welcome, error) {
	if err := c.SetDeadline(time.Now().Add(timeout)); err != nil {
		return welcome{}, err
	}
	b := beginFrame(nil, frameHello)
	b = appendHello(b, h)
	endFrame(b, 0)
	if _, err := c.Write(b); err != nil {
		return welcome{}, err
	}
	t, body, err := fr.next(maxHandshakeFrame)
	if err != nil {
		if errors.Is(err, io.EOF) || errors.Is(err, errFrame) || errors.Is(err, errFrameLarge) {
			return welcome{}, fmt.Errorf("handshake with %s: %w: is that the rpc address of a broker?", addr, err)
		}
		return welcome{}, fmt.Errorf("handshake with %s: %w", addr, err)
	}
	if t != frameWelcome {
		return welcome{}, fmt.Errorf("handshake with %s: %w", addr, errFrame)
	}
	w, err := decodeWelcome(body)
	if err != nil {
		return welcome{}, fmt.Errorf("handshake with %s: %w", addr, err)
	}
	if err := h.verify(addr, &w); err != nil {
		return w, err
	}
	return w, c.SetDeadline(time.Time{})
}

// receiveHello is the accepting side up to the caller's hello.
func receiveHello(fr *frameReader) (hello, error) {
	t, body, err := fr.next(maxHandshakeFrame)
	if err != nil {
		return hello{}, err
	}
	if t != frameHello {
		return hello{}, errFrame
	}
	return decodeHello(body)
}

// answer sends the accepting side's welcome to who can speak up to version top.
func answer(c net.Conn, i *identity, top byte, code RefusalCode, reason string) error {
	b := beginFrame(nil, frameWelcome)
	b = appendWelcome(b, &welcome{code: code, version: min(top, maxProtocol), identity: *i, reason: reason})
	endFrame(b, 0)
	_, err := c.Write(b)
	return err
}

// permanent reports whether err is a refusal that dialing again soon cannot heal.
func permanent(err error) bool {
	h, ok := errors.AsType[*HandshakeError](err)
	return ok && h.Code != RefusedOverloaded
}

// What brokers say to each other beside Raft: the method table and the encodings of its bodies.
//
// Every body begins with a version byte. Calls that are rare are JSON with named fields, and a reader ignores fields that it
// does not know: a field is added freely, one whose meaning matters is gated by a feature level. The heartbeat, which
// is not rare, is binary.
//
// A heartbeat and its answer have one form (integers are unsigned varints but where stated):
//
//	version 1 | flags 0 | cluster id (length, bytes) | node | incarnation 8 LE | boot | image version | metadata epoch |
//	rpc address (length, bytes) | n | n × (group, leader, epoch)
//
// The leader entries are news: groups that the sender leads and has not yet told this peer, in this life of both.

package broker

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"

	"github.com/balsamq/balsa/coordinator"
	"github.com/balsamq/balsa/raft"
	"github.com/balsamq/balsa/raft/transport"
)

// The methods. The numbers are part of the wire format.
const (
	methodJoin          uint16 = 1  // joinRequest → joinReply
	methodHeartbeat     uint16 = 2  // beat → beat
	methodForward       uint16 = 3  // coordinator.Intent → coordinator.Result
	methodReadIndex     uint16 = 4  // nothing → readReply: of the metadata group
	methodDescribe      uint16 = 5  // describeRequest → describeReply
	methodTransfer      uint16 = 6  // transferRequest → transferReply
	methodReportGroup   uint16 = 7  // groupQuestion → groupReport
	methodResetMetadata uint16 = 8  // resetOrder → resetReply
	methodReadIndexes   uint16 = 9  // groups → read points: see readindex.go
	methodProgress      uint16 = 10 // progressRequest → progressReply
	methodInSync        uint16 = 11 // words → nothing: see insync.go
	methodNamed         uint16 = 12 // groups → those of them without a known leader: see named.go
	methodWriteMarkers  uint16 = 20 // markers → codes: see txn_rpc.go
	methodAddToTxn      uint16 = 21 // txnQuestion → codes
	methodFeatures      uint16 = 35 // nothing → featuresReply
	methodBridges       uint16 = 60 // nothing → bridgesReply
)

const (
	rpcVersion = 1
	// maxRPCBytes bounds a body, whichever way.
	maxRPCBytes = 8 << 20
	// maxBeatLeaders bounds the leader entries of one heartbeat; what is left goes with the next, at once.
	maxBeatLeaders = 8192
	// maxRPCText bounds strings in a heartbeat.
	maxRPCText = 1024
)

// errRPC is what every body wraps that is not what it should be.
var errRPC = errors.New("malformed rpc body")

// joinRequest asks any broker to make a new one known.
type joinRequest struct {
	ClusterID string                     `json:"cluster_id,omitempty"` // empty: whichever you are
	Broker    coordinator.RegisterBroker `json:"broker"`
	// Member: the asker belongs to the cluster, and only exchanges addresses.
	Member bool `json:"member,omitempty"`
	// Boot and Life are this start of a member: see peers.past.
	Boot uint64 `json:"boot,omitempty"`
	Life uint64 `json:"life,omitempty"`
	// Supported: see coordinator.Intent.
	Supported []coordinator.FeatureRange `json:"supported,omitempty"`
}

// joinReply makes a broker of the asker.
type joinReply struct {
	ClusterID string              `json:"cluster_id,omitempty"`
	Node      raft.NodeID         `json:"node,omitempty"`
	Founder   raft.Member         `json:"founder"`
	Peers     []peerAddr          `json:"peers,omitempty"`
	Retry     bool                `json:"retry,omitempty"` // not now: no leader; ask again
	Past      uint64              `json:"past,omitempty"`  // another start of the asker's directory, at or after the asker's, was heard of: this one
	Failure   coordinator.Failure `json:"failure"`
}

// forwardReply answers a forwarded intent.
type forwardReply struct {
	Result *coordinator.Result `json:"result,omitempty"`
	// NotController: nothing was done, ask Leader (0: unknown). Unknown: nobody can say; ask again with the same request id.
	NotController bool        `json:"not_controller,omitempty"`
	Leader        raft.NodeID `json:"leader,omitempty"`
	Error         string      `json:"error,omitempty"`
}

// readReply is an index that holds everything acknowledged before the question.
type readReply struct {
	Index         raft.Index `json:"index,omitempty"`
	NotController bool       `json:"not_controller,omitempty"`
	Error         string     `json:"error,omitempty"`
}

func encodeJSON(v any) ([]byte, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	return append([]byte{rpcVersion}, b...), nil
}

func decodeJSON(b []byte, v any) error {
	if len(b) == 0 || len(b) > maxRPCBytes {
		return fmt.Errorf("%w: %d bytes", errRPC, len(b))
	}
	if b[0] != rpcVersion {
		return fmt.Errorf("%w: version %d, this broker knows %d", errRPC, b[0], rpcVersion)
	}
	if err := json.Unmarshal(b[1:], v); err != nil {
		return fmt.Errorf("%w: %w", errRPC, err)
	}
	return nil
}

// leaderEntry says that leader leads group in epoch, and is ready.
type leaderEntry struct {
	group  raft.GroupID
	leader raft.NodeID
	epoch  raft.Term
}

// beat is a heartbeat or its answer.
type beat struct {
	cluster     string
	node        raft.NodeID
	incarnation raft.Incarnation
	boot        uint64
	image       raft.Index
	epoch       raft.GroupEpoch // of the metadata group, as far as the sender's log has come
	addr        string          // where the sender's RPC listener is
	leaders     []leaderEntry
}

func (h *beat) encode() []byte {
	b := make([]byte, 0, 64+len(h.cluster)+len(h.addr)+10*len(h.leaders))
	b = append(b, rpcVersion, 0)
	b = binary.AppendUvarint(b, uint64(len(h.cluster)))
	b = append(b, h.cluster...)
	b = binary.AppendUvarint(b, uint64(h.node))
	b = binary.LittleEndian.AppendUint64(b, uint64(h.incarnation))
	b = binary.AppendUvarint(b, h.boot)
	b = binary.AppendUvarint(b, uint64(h.image))
	b = binary.AppendUvarint(b, uint64(h.epoch))
	b = binary.AppendUvarint(b, uint64(len(h.addr)))
	b = append(b, h.addr...)
	b = binary.AppendUvarint(b, uint64(len(h.leaders)))
	for _, l := range h.leaders {
		b = binary.AppendUvarint(b, uint64(l.group))
		b = binary.AppendUvarint(b, uint64(l.leader))
		b = binary.AppendUvarint(b, uint64(l.epoch))
	}
	return b
}

// uvarints takes numbers up to a limit off b. One that is not there, or larger, is 0, sets bad, and leaves nothing of b.
func uvarints(b *[]byte, bad *bool) func(limit uint64) uint64 {
	return func(limit uint64) uint64 {
		n, w := binary.Uvarint(*b)
		if w <= 0 || n > limit {
			*bad, *b = true, nil
			return 0
		}
		*b = (*b)[w:]
		return n
	}
}

func decodeBeat(b []byte) (*beat, error) {
	if len(b) < 2 || len(b) > maxRPCBytes {
		return nil, fmt.Errorf("%w: heartbeat of %d bytes", errRPC, len(b))
	}
	if b[0] != rpcVersion || b[1] != 0 {
		return nil, fmt.Errorf("%w: heartbeat version %d, flags %#x; this broker knows version %d", errRPC, b[0], b[1], rpcVersion)
	}
	b = b[2:]
	bad := false
	number := uvarints(&b, &bad)
	text := func() string {
		n := number(maxRPCText)
		if n > uint64(len(b)) {
			bad, b = true, nil
			return ""
		}
		s := string(b[:n])
		b = b[n:]
		return s
	}
	h := new(beat)
	h.cluster = text()
	h.node = raft.NodeID(number(uint64(coordinator.MaxNodeID)))
	if len(b) < 8 {
		return nil, fmt.Errorf("%w: truncated heartbeat", errRPC)
	}
	h.incarnation = raft.Incarnation(binary.LittleEndian.Uint64(b))
	b = b[8:]
	const maxUint = 1<<64 - 1
	h.boot = number(maxUint)
	h.image = raft.Index(number(maxUint))
	h.epoch = raft.GroupEpoch(number(math.MaxUint32))
	h.addr = text()
	n := number(maxBeatLeaders)
	if n*3 > uint64(len(b)) {
		return nil, fmt.Errorf("%w: heartbeat of %d entries in %d bytes", errRPC, n, len(b))
	}
	h.leaders = make([]leaderEntry, n)
	for i := range h.leaders {
		h.leaders[i] = leaderEntry{raft.GroupID(number(maxUint)), raft.NodeID(number(uint64(coordinator.MaxNodeID))), raft.Term(number(uint64(raft.MaxTerm)))}
	}
	if bad || len(b) > 0 || h.node == 0 {
		return nil, fmt.Errorf("%w: heartbeat", errRPC)
	}
	return h, nil
}

// caller is the outgoing side of the broker-to-broker RPC.
type caller interface {
	Call(ctx context.Context, node raft.NodeID, method uint16, body []byte) ([]byte, error)
}

// serveRPC answers one call from another broker. One that belongs to no cluster yet may only ask to join.
func (b *Broker) serveRPC(ctx context.Context, from transport.Caller, method uint16, body []byte) ([]byte, error) {
	if method != methodJoin && from.Cluster != transportCluster(b.store.id.ClusterID) {
		return nil, fmt.Errorf("method %d is for members of cluster %s", method, b.store.id.ClusterID)
	}
	switch method {
	case methodJoin:
		var q joinRequest
		if err := decodeJSON(body, &q); err != nil {
			return nil, err
		}
		return encodeJSON(b.serveJoin(ctx, &q))
	case methodHeartbeat:
		h, err := decodeBeat(body)
		if err != nil {
			return nil, err
		}
		if h.cluster != b.store.id.ClusterID {
			return nil, fmt.Errorf("heartbeat of broker %d in cluster %s: this is cluster %s", h.node, h.cluster, b.store.id.ClusterID)
		}
		return b.peers.heard(h).encode(), nil
	case methodInSync:
		w, err := decodeWords(body)
		if err == nil {
			err = b.peers.heardWords(from, w)
		}
		if err != nil {
			return nil, err
		}
		return []byte{rpcVersion}, nil
	case methodForward:
		var in coordinator.Intent
		if err := decodeJSON(body, &in); err != nil {
			return nil, err
		}
		var reply forwardReply
		r, err := b.ctl.Do(ctx, &in)
		switch {
		case err == nil:
			reply.Result = r
		case notController(err):
			reply.NotController = true
			reply.Leader, _ = b.meta.Leader()
		case errors.Is(err, coordinator.ErrMalformed): // it would not be better the next time
			reply.Result = &coordinator.Result{Failure: coordinator.FailureOf(err)}
		default:
			reply.Error = err.Error()
		}
		return encodeJSON(&reply)
	case methodDescribe:
		var q describeRequest
		if err := decodeJSON(body, &q); err != nil {
			return nil, err
		}
		return encodeJSON(b.serveDescribe(ctx, &q))
	case methodReadIndex:
		var reply readReply
		index, err := b.meta.readIndex(ctx)
		switch {
		case err == nil:
			reply.Index = index
		case notController(err):
			reply.NotController = true
		default:
			reply.Error = err.Error()
		}
		return encodeJSON(&reply)
	case methodReportGroup:
		var q groupQuestion
		if err := decodeJSON(body, &q); err != nil {
			return nil, err
		}
		r := b.report(q.Group)
		return encodeJSON(&r)
	case methodResetMetadata:
		var q resetOrder
		if err := decodeJSON(body, &q); err != nil {
			return nil, err
		}
		r := b.followMetadataReset(ctx, q.Reset)
		return encodeJSON(&r)
	case methodProgress:
		var q progressRequest
		if err := decodeJSON(body, &q); err != nil {
			return nil, err
		}
		reply, err := b.serveProgress(&q)
		if err != nil {
			return nil, err
		}
		return encodeJSON(reply)
	case methodFeatures:
		return encodeJSON(&featuresReply{Supported: coordinator.SupportedFeatures()})
	case methodBridges:
		return encodeJSON(&bridgesReply{Statuses: b.bridges.statuses()})
	case methodWriteMarkers:
		ms, err := decodeMarkers(body)
		if err != nil {
			return nil, err
		}
		return b.serveMarkers(ctx, ms)
	case methodAddToTxn:
		q, err := decodeTxnQuestion(body)
		if err != nil {
			return nil, err
		}
		return encodeCodes([]int16{codeOf(b.addToTxn(ctx, q))}), nil
	case methodTransfer:
		var q transferRequest
		if err := decodeJSON(body, &q); err != nil {
			return nil, err
		}
		return encodeJSON(b.serveTransfer(ctx, &q))
	case methodReadIndexes:
		groups, err := decodeReadAsk(body)
		if err != nil {
			return nil, err
		}
		return encodeReadPoints(serveReadIndexes(ctx, groups, b.rec.replica, b.cfg.ElectionTimeout/4)), nil
	case methodNamed:
		groups, err := decodeReadAsk(body)
		if err != nil {
			return nil, err
		}
		return encodeReadAsk(b.unnamed(ctx, groups)), nil
	}
	return nil, fmt.Errorf("%w: unknown method %d", errRPC, method)
}

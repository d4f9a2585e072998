// What brokers say to each other about transactions: markers, from a transaction's coordinator to the leaders of its partitions, and the
// question of a leader whether a partition belongs to a transaction.
//
// Markers and their answer (integers are unsigned varints; codes are Kafka's, 0 for done, 1024 for -1):
//
//	version 1 | flags 0 | n | n × (group, producer id, producer epoch, coordinator epoch, 1 commit + 2 bumped)
//	version 1 | flags 0 | n | n × code
//
// The question and its answer:
//
//	version 1 | flags 0 | transactional id (length, bytes) | producer id | producer epoch | 1 add | topic (length, bytes) | partition
//	version 1 | flags 0 | code

package broker

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/balsamq/balsa/raft"
)

const (
	// maxMarkers bounds the markers of one call; a transaction of more partitions takes several.
	maxMarkers = 4096
	// maxCode bounds Kafka's error codes, and stands for the only one below 0, UNKNOWN_SERVER_ERROR.
	maxCode = 1 << 10

	markerCommits = 1
	markerBumped  = 2
)

// markerEntry ends a transaction in the partition that is a group.
type markerEntry struct {
	group       raft.GroupID
	producer    int64
	epoch       int16
	coordinator int32
	commit      bool
	bumped      bool
}

// numbers reads a body of unsigned varints and texts. After a fault it stays bad and gives zeros.
type numbers struct {
	b   []byte
	bad bool
}

// rpcNumbers begins to read a body, at what follows its version and flags.
func rpcNumbers(b []byte, what string) (*numbers, error) {
	if len(b) < 2 || len(b) > maxRPCBytes {
		return nil, fmt.Errorf("%w: %s of %d bytes", errRPC, what, len(b))
	}
	if b[0] != rpcVersion || b[1] != 0 {
		return nil, fmt.Errorf("%w: %s version %d, flags %#x; this broker knows version %d", errRPC, what, b[0], b[1], rpcVersion)
	}
	return &numbers{b: b[2:]}, nil
}

func (r *numbers) number(limit uint64) uint64 {
	n, w := binary.Uvarint(r.b)
	if w <= 0 || n > limit {
		r.bad, r.b = true, nil
		return 0
	}
	r.b = r.b[w:]
	return n
}

func (r *numbers) text(limit uint64) string {
	n := r.number(limit)
	if n > uint64(len(r.b)) {
		r.bad, r.b = true, nil
		return ""
	}
	s := string(r.b[:n])
	r.b = r.b[n:]
	return s
}

// end says whether the body was what it should be, and nothing more.
func (r *numbers) end(what string) error {
	if r.bad || len(r.b) > 0 {
		return fmt.Errorf("%w: %s", errRPC, what)
	}
	return nil
}

func encodeMarkers(ms []markerEntry) []byte {
	b := append(make([]byte, 0, 8+16*len(ms)), rpcVersion, 0)
	b = binary.AppendUvarint(b, uint64(len(ms)))
	for i := range ms {
		m := &ms[i]
		b = binary.AppendUvarint(b, uint64(m.group))
		b = binary.AppendUvarint(b, uint64(m.producer))
		b = binary.AppendUvarint(b, uint64(m.epoch))
		b = binary.AppendUvarint(b, uint64(m.coordinator))
		flags := byte(0)
		if m.commit {
			flags |= markerCommits
		}
		if m.bumped {
			flags |= markerBumped
		}
		b = append(b, flags)
	}
	return b
}

func decodeMarkers(body []byte) ([]markerEntry, error) {
	r, err := rpcNumbers(body, "markers")
	if err != nil {
		return nil, err
	}
	n := r.number(maxMarkers)
	if n*5 > uint64(len(r.b)) {
		return nil, fmt.Errorf("%w: %d markers in %d bytes", errRPC, n, len(body))
	}
	ms := make([]markerEntry, n)
	for i := range ms {
		m := &ms[i]
		m.group, m.producer, m.epoch = raft.GroupID(r.number(math.MaxUint64)), int64(r.number(math.MaxInt64)), int16(r.number(math.MaxInt16))
		m.coordinator = int32(r.number(math.MaxInt32))
		flags := r.number(markerCommits | markerBumped)
		m.commit, m.bumped = flags&markerCommits != 0, flags&markerBumped != 0
	}
	return ms, r.end("markers")
}

func encodeCodes(codes []int16) []byte {
	b := append(make([]byte, 0, 8+2*len(codes)), rpcVersion, 0)
	b = binary.AppendUvarint(b, uint64(len(codes)))
	for _, c := range codes {
		if c < 0 {
			c = maxCode
		}
		b = binary.AppendUvarint(b, uint64(c))
	}
	return b
}

func decodeCodes(body []byte, want int) ([]int16, error) {
	r, err := rpcNumbers(body, "answers to markers")
	if err != nil {
		return nil, err
	}
	if n := r.number(maxMarkers); r.bad || n != uint64(want) {
		return nil, fmt.Errorf("%w: %d answers to %d markers", errRPC, n, want)
	}
	codes := make([]int16, want)
	for i := range codes {
		if codes[i] = int16(r.number(maxCode)); codes[i] == maxCode {
			codes[i] = kerr.UnknownServerError.Code
		}
	}
	return codes, r.end("answers to markers")
}

// txnQuestion asks whether a partition belongs to a transaction, or with Add to put it there.
type txnQuestion struct {
	id        string
	producer  int64
	epoch     int16
	add       bool
	topic     string
	partition int32
}

func (q *txnQuestion) encode() []byte {
	b := append(make([]byte, 0, 32+len(q.id)+len(q.topic)), rpcVersion, 0)
	b = binary.AppendUvarint(b, uint64(len(q.id)))
	b = append(b, q.id...)
	b = binary.AppendUvarint(b, uint64(q.producer))
	b = binary.AppendUvarint(b, uint64(q.epoch))
	add := byte(0)
	if q.add {
		add = 1
	}
	b = append(b, add)
	b = binary.AppendUvarint(b, uint64(len(q.topic)))
	b = append(b, q.topic...)
	return binary.AppendUvarint(b, uint64(q.partition))
}

func decodeTxnQuestion(body []byte) (*txnQuestion, error) {
	r, err := rpcNumbers(body, "question about a transaction")
	if err != nil {
		return nil, err
	}
	const maxID = 1<<15 - 1 // of any string in a request
	q := &txnQuestion{id: r.text(maxID), producer: int64(r.number(math.MaxInt64)), epoch: int16(r.number(math.MaxInt16)), add: r.number(1) == 1}
	q.topic, q.partition = r.text(maxRPCText), int32(r.number(math.MaxInt32))
	return q, r.end("question about a transaction")
}

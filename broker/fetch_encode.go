// The Fetch response, encoded by hand for one reason: the records go to the socket from where they lie. kmsg would copy
// them into the response (171 µs per MiB); here a response is a list of buffers, alternately a piece of header and
// somebody else's records. Tests hold every version against kmsg's decoder.

package broker

import (
	"encoding/binary"
	"net"

	"github.com/balsamq/balsa/protocol"
)

// fetchEncoder builds a response frame, its length field included.
type fetchEncoder struct {
	version  int16
	flexible bool
	b        []byte // all that is not records, in one buffer
	cuts     []fetchCut
	records  int // bytes of records
}

// fetchCut says that the batches come after the first at bytes of b.
type fetchCut struct {
	at      int
	batches [][]byte
}

func (e *fetchEncoder) i16(v int16) { e.b = binary.BigEndian.AppendUint16(e.b, uint16(v)) }
func (e *fetchEncoder) i32(v int32) { e.b = binary.BigEndian.AppendUint32(e.b, uint32(v)) }
func (e *fetchEncoder) i64(v int64) { e.b = binary.BigEndian.AppendUint64(e.b, uint64(v)) }

func (e *fetchEncoder) uvarint(v int) { e.b = binary.AppendUvarint(e.b, uint64(v)) }

// array writes a count; -1 is null.
func (e *fetchEncoder) array(n int) {
	if e.flexible {
		e.uvarint(n + 1)
	} else {
		e.i32(int32(n))
	}
}

func (e *fetchEncoder) str(s string) {
	if e.flexible {
		e.uvarint(len(s) + 1)
	} else {
		e.i16(int16(len(s)))
	}
	e.b = append(e.b, s...)
}

// noTags ends a structure that has no tagged fields.
func (e *fetchEncoder) noTags() {
	if e.flexible {
		e.b = append(e.b, 0)
	}
}

// batches writes the records field. Without records it is empty and never null (librdkafka refuses -1).
func (e *fetchEncoder) batches(size int, batches [][]byte) {
	e.array(size)
	if size > 0 {
		e.cuts = append(e.cuts, fetchCut{len(e.b), batches})
		e.records += size
	}
}

// encodeFetch is a whole response frame. parts are grouped by topic as they stand: neighbours of one topic share an
// entry. It returns the number of record bytes that the buffers borrow.
func encodeFetch(version int16, correlationID, throttle int32, code int16, sessionID int32, parts []*fetchPart, readCommitted bool, brokers []hintedBroker) (net.Buffers, int) {
	e := &fetchEncoder{version: version, flexible: version >= 12}
	e.b = make([]byte, 4, 128+64*len(parts))
	e.b = protocol.AppendResponseHeader(e.b, keyFetch, correlationID, e.flexible)
	e.i32(throttle)
	if version >= 7 {
		e.i16(code)
		e.i32(sessionID)
	}
	topics := 0
	for i, p := range parts {
		if i == 0 || !p.sameTopic(parts[i-1]) {
			topics++
		}
	}
	e.array(topics)
	for i := 0; i < len(parts); {
		n := i + 1
		for n < len(parts) && parts[n].sameTopic(parts[i]) {
			n++
		}
		if version >= 13 {
			e.b = append(e.b, parts[i].key.id[:]...)
		} else {
			e.str(parts[i].key.name)
		}
		e.array(n - i)
		for ; i < n; i++ {
			e.partition(parts[i], readCommitted)
		}
		e.noTags()
	}
	e.responseTags(brokers)
	binary.BigEndian.PutUint32(e.b, uint32(len(e.b)-4+e.records))

	out := make(net.Buffers, 0, 2*len(e.cuts)+1)
	from := 0
	for _, c := range e.cuts {
		out = append(out, e.b[from:c.at:c.at])
		out = append(out, c.batches...)
		from = c.at
	}
	if from < len(e.b) {
		out = append(out, e.b[from:])
	}
	return out, e.records
}

func (e *fetchEncoder) partition(p *fetchPart, readCommitted bool) {
	e.i32(p.key.partition)
	e.i16(codeOf(p.err))
	e.i64(p.res.HighWatermark)
	e.i64(p.res.LastStable)
	if e.version >= 5 {
		e.i64(p.res.LogStart)
	}
	if readCommitted {
		e.array(len(p.res.Aborted))
		for _, a := range p.res.Aborted {
			e.i64(a.ProducerID)
			e.i64(a.First)
			e.noTags()
		}
	} else {
		e.array(-1)
	}
	if e.version >= 11 {
		e.i32(p.preferred)
	}
	e.batches(p.res.Bytes, p.res.Batches)
	if e.flexible {
		e.partitionTags(p)
	}
}

// partitionTags writes tag 0, where the logs part, and tag 1, the leader; each a structure of two numbers.
func (e *fetchEncoder) partitionTags(p *fetchPart) {
	diverging, leader := p.divergeEnd >= 0, p.leader >= 0
	n := 0
	for _, b := range []bool{diverging, leader} {
		if b {
			n++
		}
	}
	e.uvarint(n)
	if diverging {
		e.uvarint(0)
		e.uvarint(4 + 8 + 1)
		e.i32(p.divergeEpoch)
		e.i64(p.divergeEnd)
		e.noTags()
	}
	if leader {
		e.uvarint(1)
		e.uvarint(4 + 4 + 1)
		e.i32(p.leader)
		e.i32(p.hintEpoch)
		e.noTags()
	}
}

// responseTags ends the response; tag 0 are the addresses of leaders (v16).
func (e *fetchEncoder) responseTags(brokers []hintedBroker) {
	if !e.flexible {
		return
	}
	if e.version < 16 || len(brokers) == 0 {
		e.noTags()
		return
	}
	e.uvarint(1)
	e.uvarint(0)
	inner := &fetchEncoder{flexible: true}
	inner.array(len(brokers))
	for _, b := range brokers {
		inner.i32(b.node)
		inner.str(b.host)
		inner.i32(b.port)
		if b.rack == nil {
			inner.uvarint(0)
		} else {
			inner.str(*b.rack)
		}
		inner.noTags()
	}
	e.uvarint(len(inner.b))
	e.b = append(e.b, inner.b...)
}

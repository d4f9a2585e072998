// The encoding of raft.Message and multi.PairMessage between brokers: numbers as uvarints, what is random or spread over
// 64 bits as fixed words, entries as the verbatim frames that they are on disk. Every count is checked against the bytes
// that are there before memory is taken for it.
//
//	message   type, flags, group, from, to, from incarnation (8), to incarnation (8), from boot, epoch, term, log term, index,
//	          commit, reject hint, round, sent at (varint)
//	lost      (flag) the boot
//	entries   (flag) count, the length of each frame; the frames are the rest of the transport frame
//	snapshot  (flag) index, term, epoch, size, sum (4), voters, outgoing, learners; each a count and (id, incarnation (8))

package transport

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/balsamq/balsa/raft"
	"github.com/balsamq/balsa/raft/multi"
)

const (
	flagReject   = 1 << 0
	flagForce    = 1 << 1
	flagEntries  = 1 << 2
	flagSnapshot = 1 << 3
	flagLost     = 1 << 4

	// maxEntries bounds the entries of one MsgApp.
	maxEntries = 1 << 16
	// maxMembers bounds each list of a membership.
	maxMembers = 1 << 10
	// minMessageLen is the shortest encoding of a message, for checking counts.
	minMessageLen = 2 + 2*8 + 12
)

var errDecode = errors.New("malformed message")

func appendMessage(b []byte, m *raft.Message) []byte {
	var flags byte
	if m.Reject {
		flags |= flagReject
	}
	if m.Force {
		flags |= flagForce
	}
	if len(m.Entries) > 0 {
		flags |= flagEntries
	}
	if m.Snapshot != nil {
		flags |= flagSnapshot
	}
	if m.Lost != 0 {
		flags |= flagLost
	}
	b = append(b, byte(m.Type), flags)
	b = binary.AppendUvarint(b, uint64(m.Group))
	b = binary.AppendUvarint(b, uint64(m.From))
	b = binary.AppendUvarint(b, uint64(m.To))
	b = binary.LittleEndian.AppendUint64(b, uint64(m.FromIncarnation))
	b = binary.LittleEndian.AppendUint64(b, uint64(m.ToIncarnation))
	b = binary.AppendUvarint(b, m.FromBoot)
	b = binary.AppendUvarint(b, uint64(m.Epoch))
	b = binary.AppendUvarint(b, uint64(m.Term))
	b = binary.AppendUvarint(b, uint64(m.LogTerm))
	b = binary.AppendUvarint(b, uint64(m.Index))
	b = binary.AppendUvarint(b, uint64(m.Commit))
	b = binary.AppendUvarint(b, uint64(m.RejectHint))
	b = binary.AppendUvarint(b, m.Round)
	b = binary.AppendVarint(b, int64(m.SentAt))
	if m.Lost != 0 {
		b = binary.AppendUvarint(b, m.Lost)
	}
	if len(m.Entries) > 0 {
		b = binary.AppendUvarint(b, uint64(len(m.Entries)))
		for i := range m.Entries {
			b = binary.AppendUvarint(b, uint64(len(m.Entries[i].Frame)))
		}
	}
	if s := m.Snapshot; s != nil {
		b = binary.AppendUvarint(b, uint64(s.Meta.Index))
		b = binary.AppendUvarint(b, uint64(s.Meta.Term))
		b = binary.AppendUvarint(b, uint64(s.Meta.Conf.Epoch))
		b = binary.AppendUvarint(b, uint64(s.Size))
		b = binary.LittleEndian.AppendUint32(b, s.Sum)
		for _, ms := range [][]raft.Member{s.Meta.Conf.Voters, s.Meta.Conf.Outgoing, s.Meta.Conf.Learners} {
			b = binary.AppendUvarint(b, uint64(len(ms)))
			for _, x := range ms {
				b = binary.AppendUvarint(b, uint64(x.ID))
				b = binary.LittleEndian.AppendUint64(b, uint64(x.Incarnation))
			}
		}
	}
	return b
}

// decoder reads from b until the first error, and then reads zeros.
type decoder struct {
	b   []byte
	err error
}

func (d *decoder) fail(what string) {
	if d.err == nil {
		d.err = fmt.Errorf("%w: %s", errDecode, what)
	}
	d.b = nil
}

func (d *decoder) uvarint() uint64 {
	v, n := binary.Uvarint(d.b)
	if n <= 0 {
		d.fail("number")
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) varint() int64 {
	v, n := binary.Varint(d.b)
	if n <= 0 {
		d.fail("number")
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) u8() byte {
	if len(d.b) < 1 {
		d.fail("short")
		return 0
	}
	v := d.b[0]
	d.b = d.b[1:]
	return v
}

func (d *decoder) u64() uint64 {
	if len(d.b) < 8 {
		d.fail("short")
		return 0
	}
	v := binary.LittleEndian.Uint64(d.b)
	d.b = d.b[8:]
	return v
}

func (d *decoder) u32() uint32 {
	if len(d.b) < 4 {
		d.fail("short")
		return 0
	}
	v := binary.LittleEndian.Uint32(d.b)
	d.b = d.b[4:]
	return v
}

// length reads a number of bytes, or a place among them.
func (d *decoder) length() int64 {
	v := d.uvarint()
	if v > math.MaxInt64 {
		d.fail("length")
		return 0
	}
	return int64(v)
}

func (d *decoder) node() raft.NodeID {
	v := d.uvarint()
	if v > math.MaxInt32 { // node ids fit Kafka's int32
		d.fail("node id")
		return 0
	}
	return raft.NodeID(v)
}

func (d *decoder) term() raft.Term {
	v := d.uvarint()
	if v > uint64(raft.MaxTerm) {
		d.fail("term")
		return 0
	}
	return raft.Term(v)
}

func (d *decoder) epoch() raft.GroupEpoch {
	v := d.uvarint()
	if v > math.MaxUint32 {
		d.fail("epoch")
		return 0
	}
	return raft.GroupEpoch(v)
}

// count reads a count of things of at least size bytes each.
func (d *decoder) count(size, limit int) int {
	v := d.uvarint()
	if v > uint64(limit) || v > uint64(len(d.b)/size) {
		d.fail("count")
		return 0
	}
	return int(v)
}

// message reads a message; entries get their frames from the rest of d.b, which must be exactly theirs.
func (d *decoder) message(m *raft.Message) {
	m.Type = raft.MessageType(d.u8())
	flags := d.u8()
	if m.Type < raft.MsgPreVote || m.Type > raft.MsgTimeoutNow {
		d.fail("message type")
	}
	if flags&^(flagReject|flagForce|flagEntries|flagSnapshot|flagLost) != 0 {
		d.fail("message flags")
	}
	m.Reject, m.Force = flags&flagReject != 0, flags&flagForce != 0
	m.Group = raft.GroupID(d.uvarint())
	m.From, m.To = d.node(), d.node()
	m.FromIncarnation, m.ToIncarnation = raft.Incarnation(d.u64()), raft.Incarnation(d.u64())
	m.FromBoot = d.uvarint()
	m.Epoch = d.epoch()
	m.Term, m.LogTerm = d.term(), d.term()
	m.Index, m.Commit, m.RejectHint = raft.Index(d.uvarint()), raft.Index(d.uvarint()), raft.Index(d.uvarint())
	m.Round = d.uvarint()
	m.SentAt = raft.Time(d.varint())
	if flags&flagLost != 0 {
		m.Lost = d.uvarint()
		if m.Lost == 0 {
			d.fail("a boot of 0")
		}
	}
	switch {
	case flags&flagEntries != 0 && flags&flagSnapshot != 0,
		flags&flagEntries != 0 && m.Type != raft.MsgApp,
		(flags&flagSnapshot != 0) != (m.Type == raft.MsgSnap):
		d.fail("entries or snapshot in the wrong message")
	case flags&flagEntries != 0:
		d.entries(m)
	case flags&flagSnapshot != 0:
		s := &raft.Snapshot{}
		s.Meta.Index = raft.Index(d.uvarint())
		s.Meta.Term = d.term()
		s.Meta.Conf.Epoch = d.epoch()
		s.Size, s.Sum = d.length(), d.u32()
		s.Meta.Conf.Voters, s.Meta.Conf.Outgoing, s.Meta.Conf.Learners = d.members(), d.members(), d.members()
		m.Snapshot = s
	}
}

func (d *decoder) members() []raft.Member {
	n := d.count(9, maxMembers)
	if n == 0 {
		return nil
	}
	ms := make([]raft.Member, n)
	for i := range ms {
		ms[i] = raft.Member{ID: d.node(), Incarnation: raft.Incarnation(d.u64())}
	}
	return ms
}

func (d *decoder) entries(m *raft.Message) {
	n := d.count(2, maxEntries) // a byte of length, and at least one of frame
	if d.err == nil && n == 0 {
		d.fail("no entries")
	}
	lengths := d.b
	var sum uint64
	for range n {
		l := d.uvarint()
		if l == 0 || l > math.MaxInt32 {
			d.fail("entry length")
		}
		sum += l // n and l are bounded, so this cannot wrap
	}
	if d.err != nil || sum != uint64(len(d.b)) {
		d.fail("entries do not fill the frame")
		return
	}
	frames := d.b[:len(d.b):len(d.b)]
	m.Entries = make([]raft.Entry, n)
	for i := range m.Entries {
		l, k := binary.Uvarint(lengths)
		lengths = lengths[k:]
		m.Entries[i].Frame = frames[:l] // the next one lies behind it, as whoever writes them can see
		frames = frames[l:]
	}
	d.b = nil
}

// end requires that all has been read.
func (d *decoder) end() error {
	if d.err == nil && len(d.b) > 0 {
		d.fail("bytes left over")
	}
	return d.err
}

// appendMessages encodes the body of a frameMessages.
func appendMessages(b []byte, msgs []raft.Message) []byte {
	b = binary.AppendUvarint(b, uint64(len(msgs)))
	for i := range msgs {
		b = appendMessage(b, &msgs[i])
	}
	return b
}

// decodeMessages decodes the body of a frameMessages, into the memory of into if there is enough, which has been cleared.
func decodeMessages(into []raft.Message, b []byte) ([]raft.Message, error) {
	d := decoder{b: b}
	n := d.count(minMessageLen, maxBatchMessages)
	msgs := slices.Grow(into[:0], n)[:n]
	for i := range msgs {
		d.message(&msgs[i])
		if msgs[i].Entries != nil {
			d.fail("entries among messages")
		}
	}
	if err := d.end(); err != nil {
		return nil, err
	}
	return msgs, nil
}

// decodeApp decodes a message with entries, which alias b.
func decodeApp(b []byte) (raft.Message, error) {
	d := decoder{b: b}
	var m raft.Message
	d.message(&m)
	if m.Entries == nil {
		d.fail("no entries")
	}
	return m, d.end()
}

// decodeEntries decodes the body of a frameApp, or of a frameEntries: that has its head where it says.
func decodeEntries(t frameType, b []byte) (raft.Message, error) {
	if t == frameApp {
		return decodeApp(b)
	}
	head, err := t.summed(b)
	if err != nil {
		return raft.Message{}, err
	}
	m, err := decodeApp(b[headLen:])
	entries := 0
	for i := range m.Entries {
		entries += len(m.Entries[i].Frame)
	}
	if err == nil && entries != len(b)-len(head) {
		err = fmt.Errorf("%w: a head of %d bytes before %d of entries in %d", errDecode, len(head), entries, len(b))
	}
	return m, err
}

const (
	chunkResponse = 1 << 0
	chunkGone     = 1 << 1
)

// appendChunkHead encodes all of a chunk message but its data, which is the rest of the frame:
//
//	flags, group, index, term, size, sum (4), offset, crc (4), data
func appendChunkHead(b []byte, m *multi.ChunkMessage) []byte {
	var flags byte
	if m.Response {
		flags |= chunkResponse
	}
	if m.Gone {
		flags |= chunkGone
	}
	b = append(b, flags)
	b = binary.AppendUvarint(b, uint64(m.Group))
	b = binary.AppendUvarint(b, uint64(m.Index))
	b = binary.AppendUvarint(b, uint64(m.Term))
	b = binary.AppendUvarint(b, uint64(m.Size))
	b = binary.LittleEndian.AppendUint32(b, m.Sum)
	b = binary.AppendUvarint(b, uint64(m.Offset))
	return binary.LittleEndian.AppendUint32(b, m.CRC)
}

// decodeChunk decodes a chunk message, whose data aliases b.
func decodeChunk(b []byte) (*multi.ChunkMessage, error) {
	d := decoder{b: b}
	m := &multi.ChunkMessage{}
	flags := d.u8()
	if flags&^(chunkResponse|chunkGone) != 0 {
		d.fail("chunk flags")
	}
	m.Response, m.Gone = flags&chunkResponse != 0, flags&chunkGone != 0
	m.Group, m.Index, m.Term = raft.GroupID(d.uvarint()), raft.Index(d.uvarint()), d.term()
	m.Size, m.Sum, m.Offset, m.CRC = d.length(), d.u32(), d.length(), d.u32()
	if len(d.b) > 0 {
		m.Data, d.b = d.b, nil
	}
	switch {
	case (m.Data != nil) != (m.Response && !m.Gone):
		d.fail("data in the wrong chunk message")
	case m.Offset > m.Size || int64(len(m.Data)) > m.Size-m.Offset:
		d.fail("chunk beyond its snapshot")
	}
	return m, d.end()
}

func appendPair(b []byte, m *multi.PairMessage) []byte {
	var flags byte
	if m.Response {
		flags = 1
	}
	b = append(b, flags)
	b = binary.LittleEndian.AppendUint64(b, m.Session)
	b = binary.AppendUvarint(b, m.Seq)
	b = binary.AppendVarint(b, int64(m.SentAt))
	b = binary.AppendUvarint(b, uint64(len(m.Cover)))
	for _, c := range m.Cover {
		b = binary.AppendUvarint(b, uint64(c.Group))
		b = binary.AppendUvarint(b, uint64(c.Term))
		b = binary.AppendUvarint(b, uint64(c.Commit))
	}
	b = appendGroups(b, m.Uncover)
	return appendGroups(b, m.Except)
}

func appendGroups(b []byte, gs []raft.GroupID) []byte {
	b = binary.AppendUvarint(b, uint64(len(gs)))
	for _, g := range gs {
		b = binary.AppendUvarint(b, uint64(g))
	}
	return b
}

func (d *decoder) groups() []raft.GroupID {
	n := d.count(1, maxControlFrame)
	if n == 0 {
		return nil
	}
	gs := make([]raft.GroupID, n)
	for i := range gs {
		gs[i] = raft.GroupID(d.uvarint())
	}
	return gs
}

func decodePair(b []byte) (*multi.PairMessage, error) {
	d := decoder{b: b}
	m := &multi.PairMessage{}
	flags := d.u8()
	if flags > 1 {
		d.fail("pair flags")
	}
	m.Response = flags == 1
	m.Session = d.u64()
	m.Seq = d.uvarint()
	m.SentAt = raft.Time(d.varint())
	if n := d.count(3, maxControlFrame); n > 0 {
		m.Cover = make([]multi.CoveredGroup, n)
		for i := range m.Cover {
			m.Cover[i] = multi.CoveredGroup{Group: raft.GroupID(d.uvarint()), Term: d.term(), Commit: raft.Index(d.uvarint())}
		}
	}
	m.Uncover, m.Except = d.groups(), d.groups()
	return m, d.end()
}

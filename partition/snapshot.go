// The state machine's part of a snapshot: the fold, in a fixed layout, all numbers big-endian.
//
//	 1  version = 3; 4 with the field behind the aborted transactions; 5 with all (which is 0 there, if the index lacks none)
//	 8  start offset
//	 8  next offset
//	 8  clock, milliseconds
//	 8  largest index of a marker of a forgotten producer
//	 4  number of producers, then each, in order of its last entry:
//	      8  producer id
//	      2  epoch
//	      1  flags: bit 0 touched, bit 1 a transaction is open
//	      8  seen
//	      8  timestamp of its last entry
//	      8  raft index of its last entry
//	      4  epoch of the coordinator that wrote its last marker, or 0
//	      8  raft index of its last marker, or 0
//	      8  first offset of its open transaction, or 0
//	      1  batches, 0 to 5, then each, oldest first:
//	           4  first sequence
//	           4  last sequence
//	           8  base offset
//	           8  log append time, or -1
//	           8  raft index
//	 4  number of aborted transactions, then each, in order of their markers:
//	      8  producer id
//	      8  first offset
//	      8  offset of the marker
//	      8  last stable offset after the marker
//	 8  offset of the marker from which on the index of aborted transactions lacks none
//	 4  number of refusals, then each, in the order of the producers and then of their indexes:
//	      8  producer id
//	      4  first sequence
//	      4  last sequence
//	      4  checksum of the batch
//	      4  which of its records was to blame
//	      8  offset of the last record of that one's key, or -1
//	      8  raft index
//
// The encoding is canonical: equal states have equal bytes, and decoding refuses everything else. Replicas of a log that is not compacted have equal
// states; of one that is, each has forgotten the aborted transactions that it has cleaned away.
//
// What moves the start (raft.EntryPrefix) is: version = 1, 8 bytes offset. A clock command (raft.EntryCommand) is: version = 1, kind = 1, 8 bytes clock, 8 bytes expiry, both milliseconds.
// A refusal is one, too: version = 1, kind = 2, 8 bytes producer id, 2 bytes epoch, the five numbers from the first sequence on as above, 8 bytes time in milliseconds.

package partition

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/balsamq/balsa/raft"
)

const (
	snapshotVersion = 3 // 2: the start offset, 3: transactions
	lostVersion     = 4 // the index of aborted transactions lacks some
	refusedVersion  = 5 // batches were refused
	snapshotHeader  = 1 + 8 + 8 + 8 + 8 + 4
	producerHeader  = 8 + 2 + 1 + 8 + 8 + 8 + 4 + 8 + 8 + 1
	batchSize       = 4 + 4 + 8 + 8 + 8
	abortedSize     = 8 + 8 + 8 + 8
	lostSize        = 8
	refusalRecord   = 8 + refusedSize + 8

	commandVersion = 1
	commandClock   = 1
	commandSize    = 1 + 1 + 8 + 8

	prefixVersion = 1
	prefixSize    = 1 + 8
)

var (
	errSnapshot = errors.New("partition: malformed snapshot")
	errCommand  = errors.New("partition: unknown command")
)

const (
	flagTouched = 1 << iota
	flagOpen
)

// encode is the fold as a snapshot.
func (f *fold) encode() []byte {
	size, refusals := snapshotHeader+4+len(f.aborted)*abortedSize+lostSize+4, 0
	for p := f.oldest; p != nil; p = p.next {
		size += producerHeader + int(p.n)*batchSize + len(p.refused)*refusalRecord
		refusals += len(p.refused)
	}
	be := binary.BigEndian
	out := make([]byte, 0, size)
	version := byte(snapshotVersion)
	switch {
	case refusals > 0:
		version = refusedVersion
	case f.lost > 0:
		version = lostVersion
	}
	out = append(out, version)
	out = be.AppendUint64(out, uint64(f.start))
	out = be.AppendUint64(out, uint64(f.next))
	out = be.AppendUint64(out, uint64(f.clock))
	out = be.AppendUint64(out, uint64(f.forgotten))
	out = be.AppendUint32(out, uint32(len(f.byID)))
	for p := f.oldest; p != nil; p = p.next {
		var flags byte
		if p.touched {
			flags |= flagTouched
		}
		if p.open {
			flags |= flagOpen
		}
		out = be.AppendUint64(out, uint64(p.id))
		out = be.AppendUint16(out, uint16(p.epoch))
		out = append(out, flags)
		out = be.AppendUint64(out, uint64(p.seen))
		out = be.AppendUint64(out, uint64(p.stamp))
		out = be.AppendUint64(out, uint64(p.at))
		out = be.AppendUint32(out, uint32(p.coordinator))
		out = be.AppendUint64(out, uint64(p.marker))
		out = be.AppendUint64(out, uint64(p.first))
		out = append(out, p.n)
		for _, b := range p.batches[:p.n] {
			out = be.AppendUint32(out, uint32(b.first))
			out = be.AppendUint32(out, uint32(b.last))
			out = be.AppendUint64(out, uint64(b.base))
			out = be.AppendUint64(out, uint64(b.time))
			out = be.AppendUint64(out, uint64(b.index))
		}
	}
	out = be.AppendUint32(out, uint32(len(f.aborted)))
	for _, a := range f.aborted {
		out = be.AppendUint64(out, uint64(a.producer))
		out = be.AppendUint64(out, uint64(a.first))
		out = be.AppendUint64(out, uint64(a.last))
		out = be.AppendUint64(out, uint64(a.stable))
	}
	if version >= lostVersion {
		out = be.AppendUint64(out, uint64(f.lost))
	}
	if version < refusedVersion {
		return out
	}
	out = be.AppendUint32(out, uint32(refusals))
	for p := f.oldest; p != nil; p = p.next {
		for i := range p.refused {
			out = be.AppendUint64(out, uint64(p.id))
			out = p.refused[i].append(out)
			out = be.AppendUint64(out, uint64(p.refused[i].index))
		}
	}
	return out
}

// decodeFold reads a snapshot. Memory is taken only for bytes that are there.
func decodeFold(data []byte) (*fold, error) {
	if len(data) < snapshotHeader {
		return nil, fmt.Errorf("%w: %d bytes", errSnapshot, len(data))
	}
	version := data[0]
	if version < snapshotVersion || version > refusedVersion {
		return nil, fmt.Errorf("%w: version %d", errSnapshot, version)
	}
	be := binary.BigEndian
	f := newFold()
	f.start = int64(be.Uint64(data[1:]))
	f.next = int64(be.Uint64(data[9:]))
	f.clock = int64(be.Uint64(data[17:]))
	f.forgotten = raft.Index(be.Uint64(data[25:]))
	count := be.Uint32(data[33:])
	data = data[snapshotHeader:]
	switch {
	case f.start < 0 || f.next < f.start || f.clock < 0:
		return nil, fmt.Errorf("%w: offsets [%d, %d), clock %d", errSnapshot, f.start, f.next, f.clock)
	case uint64(count)*producerHeader > uint64(len(data)):
		return nil, fmt.Errorf("%w: %d producers in %d bytes", errSnapshot, count, len(data))
	}
	for range count {
		p, rest, err := f.decodeProducer(data)
		if err != nil {
			return nil, err
		}
		data = rest
		if f.newest != nil && p.at <= f.newest.at {
			return nil, fmt.Errorf("%w: producer %d is not in order", errSnapshot, p.id)
		}
		f.byID[p.id] = p
		f.link(p)
		if p.open {
			f.open = append(f.open, p)
		}
	}
	slices.SortFunc(f.open, func(a, b *producer) int { return cmp.Compare(a.first, b.first) })
	for i := 1; i < len(f.open); i++ {
		if f.open[i].first == f.open[i-1].first {
			return nil, fmt.Errorf("%w: two transactions begin at %d", errSnapshot, f.open[i].first)
		}
	}
	data, err := f.decodeAborted(data)
	if err != nil {
		return nil, err
	}
	if version >= lostVersion {
		if len(data) < lostSize {
			return nil, fmt.Errorf("%w: cut short", errSnapshot)
		}
		f.lost = int64(be.Uint64(data))
		if (f.lost != 0 || version == lostVersion) && (f.lost <= f.start || f.lost >= f.next) || len(f.aborted) > 0 && f.aborted[0].last < f.lost {
			return nil, fmt.Errorf("%w: aborted transactions are known from %d on", errSnapshot, f.lost)
		}
		data = data[lostSize:]
	}
	if version == refusedVersion {
		if data, err = f.decodeRefusals(data); err != nil {
			return nil, err
		}
	}
	if len(data) > 0 {
		return nil, fmt.Errorf("%w: %d bytes follow it", errSnapshot, len(data))
	}
	return f, nil
}

// decodeRefusals reads the refusals.
func (f *fold) decodeRefusals(data []byte) (rest []byte, err error) {
	if len(data) < 4 {
		return nil, fmt.Errorf("%w: cut short", errSnapshot)
	}
	be := binary.BigEndian
	count := be.Uint32(data)
	if data = data[4:]; count == 0 || uint64(count)*refusalRecord != uint64(len(data)) {
		return nil, fmt.Errorf("%w: %d refusals in %d bytes", errSnapshot, count, len(data))
	}
	at := f.oldest
	for i := range count {
		id, x, ok := int64(be.Uint64(data)), refusal{}, false
		for at != nil && at.id != id {
			at = at.next
		}
		if at != nil {
			x, ok = readRefusal(data[8:], f.next)
			x.index = raft.Index(be.Uint64(data[8+refusedSize:]))
			n := len(at.refused)
			ok = ok && n < maxRefusals && x.index > 0 && x.index <= at.at && (n == 0 || x.index > at.refused[n-1].index)
		}
		if !ok {
			return nil, fmt.Errorf("%w: refusal %d, of producer %d", errSnapshot, i, id)
		}
		at.refused = append(at.refused, x)
		data = data[refusalRecord:]
	}
	return data, nil
}

// decodeProducer reads one producer.
func (f *fold) decodeProducer(data []byte) (p *producer, rest []byte, err error) {
	if len(data) < producerHeader {
		return nil, nil, fmt.Errorf("%w: cut short", errSnapshot)
	}
	be := binary.BigEndian
	p = &producer{id: int64(be.Uint64(data))}
	p.epoch = int16(be.Uint16(data[8:]))
	flags := data[10]
	p.touched, p.open = flags&flagTouched != 0, flags&flagOpen != 0
	p.seen = int64(be.Uint64(data[11:]))
	p.stamp = int64(be.Uint64(data[19:]))
	p.at = raft.Index(be.Uint64(data[27:]))
	p.coordinator = int32(be.Uint32(data[35:]))
	p.marker = raft.Index(be.Uint64(data[39:]))
	p.first = int64(be.Uint64(data[47:]))
	p.n = data[55]
	if p.id < 0 || p.epoch < 0 || flags&^(flagTouched|flagOpen) != 0 || p.seen < 0 || p.n > windowBatches || f.byID[p.id] != nil ||
		p.at == 0 || p.marker > p.at || p.coordinator < 0 || p.marker == 0 && p.coordinator != 0 ||
		p.first < 0 || p.first >= max(f.next, 1) || !p.open && p.first != 0 {
		return nil, nil, fmt.Errorf("%w: producer %d", errSnapshot, p.id)
	}
	data = data[producerHeader:]
	if len(data) < int(p.n)*batchSize {
		return nil, nil, fmt.Errorf("%w: cut short", errSnapshot)
	}
	for i := range p.batches[:p.n] {
		b := &p.batches[i]
		b.first = int32(be.Uint32(data))
		b.last = int32(be.Uint32(data[4:]))
		b.base = int64(be.Uint64(data[8:]))
		b.time = int64(be.Uint64(data[16:]))
		b.index = raft.Index(be.Uint64(data[24:]))
		if b.first < 0 || b.last < 0 || b.base < 0 || b.base >= f.next || b.time < -1 || b.index > p.at ||
			i > 0 && b.index <= p.batches[i-1].index {
			return nil, nil, fmt.Errorf("%w: batch %d of producer %d", errSnapshot, i, p.id)
		}
		data = data[batchSize:]
	}
	return p, data, nil
}

// decodeAborted reads the index of aborted transactions.
func (f *fold) decodeAborted(data []byte) (rest []byte, err error) {
	if len(data) < 4 {
		return nil, fmt.Errorf("%w: cut short", errSnapshot)
	}
	be := binary.BigEndian
	count := be.Uint32(data)
	data = data[4:]
	if uint64(count)*abortedSize > uint64(len(data)) {
		return nil, fmt.Errorf("%w: %d aborted transactions in %d bytes", errSnapshot, count, len(data))
	}
	if count > 0 {
		f.aborted = make([]abortedTxn, count)
	}
	for i := range f.aborted {
		a := &f.aborted[i]
		a.producer = int64(be.Uint64(data))
		a.first = int64(be.Uint64(data[8:]))
		a.last = int64(be.Uint64(data[16:]))
		a.stable = int64(be.Uint64(data[24:]))
		if a.producer < 0 || a.first < 0 || a.last <= a.first || a.last >= f.next || a.stable < 0 || a.stable > a.last+1 ||
			i > 0 && a.last <= f.aborted[i-1].last {
			return nil, fmt.Errorf("%w: aborted transaction %d", errSnapshot, i)
		}
		data = data[abortedSize:]
	}
	return data, nil
}

func encodeClock(clock, expiry int64) []byte {
	out := append(make([]byte, 0, commandSize), commandVersion, commandClock)
	out = binary.BigEndian.AppendUint64(out, uint64(clock))
	return binary.BigEndian.AppendUint64(out, uint64(expiry))
}

// command folds a committed command in. An unknown one is an error, and so fatal: a replica that skipped it would fold to
// another state than its peers.
func (f *fold) command(i raft.Index, p []byte) error {
	if _, ok := refusedProducer(p); ok {
		return f.refusal(i, p)
	}
	if len(p) != commandSize || p[0] != commandVersion || p[1] != commandClock {
		return fmt.Errorf("%w: index %d, %d bytes", errCommand, i, len(p))
	}
	f.tick(int64(binary.BigEndian.Uint64(p[2:])), int64(binary.BigEndian.Uint64(p[10:])))
	return nil
}

func encodePrefix(start int64) []byte {
	return binary.BigEndian.AppendUint64(append(make([]byte, 0, prefixSize), prefixVersion), uint64(start))
}

// prefix folds a move of the start in. Like an unknown command, one that cannot be read is an error.
func (f *fold) prefix(i raft.Index, p []byte) error {
	if len(p) != prefixSize || p[0] != prefixVersion || int64(binary.BigEndian.Uint64(p[1:])) < 0 {
		return fmt.Errorf("%w: start of the log, index %d, %d bytes", errCommand, i, len(p))
	}
	f.start = max(f.start, min(int64(binary.BigEndian.Uint64(p[1:])), f.next))
	f.trim(f.start)
	return nil
}

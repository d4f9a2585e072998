// The state machine's part of a snapshot: the fold, in a fixed layout, all numbers big-endian.
//
//	 1  version = 2
//	 8  start offset
//	 8  next offset
//	 8  clock, milliseconds
//	 4  number of producers, then each, in order of its last batch:
//	      8  producer id
//	      2  epoch
//	      1  flags: bit 0 touched
//	      8  seen
//	      1  batches, 1 to 5, then each, oldest first:
//	           4  first sequence
//	           4  last sequence
//	           8  base offset
//	           8  log append time, or -1
//	           8  raft index
//
// The encoding is canonical: equal states have equal bytes on every replica, and decoding refuses everything else.
//
// What moves the start (raft.EntryPrefix) is: version = 1, 8 bytes offset. A clock command (raft.EntryCommand) is: version = 1, kind = 1, 8 bytes clock, 8 bytes expiry, both milliseconds.

package partition

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/balsamq/balsa/raft"
)

const (
	snapshotVersion = 2 // 2: the start offset
	snapshotHeader  = 1 + 8 + 8 + 8 + 4
	producerHeader  = 8 + 2 + 1 + 8 + 1
	batchSize       = 4 + 4 + 8 + 8 + 8

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

// encode is the fold as a snapshot.
func (f *fold) encode() []byte {
	size := snapshotHeader
	for p := f.oldest; p != nil; p = p.next {
		size += producerHeader + int(p.n)*batchSize
	}
	out := make([]byte, 0, size)
	out = append(out, snapshotVersion)
	out = binary.BigEndian.AppendUint64(out, uint64(f.start))
	out = binary.BigEndian.AppendUint64(out, uint64(f.next))
	out = binary.BigEndian.AppendUint64(out, uint64(f.clock))
	out = binary.BigEndian.AppendUint32(out, uint32(len(f.byID)))
	for p := f.oldest; p != nil; p = p.next {
		var flags byte
		if p.touched {
			flags = 1
		}
		out = binary.BigEndian.AppendUint64(out, uint64(p.id))
		out = binary.BigEndian.AppendUint16(out, uint16(p.epoch))
		out = append(out, flags)
		out = binary.BigEndian.AppendUint64(out, uint64(p.seen))
		out = append(out, p.n)
		for _, b := range p.batches[:p.n] {
			out = binary.BigEndian.AppendUint32(out, uint32(b.first))
			out = binary.BigEndian.AppendUint32(out, uint32(b.last))
			out = binary.BigEndian.AppendUint64(out, uint64(b.base))
			out = binary.BigEndian.AppendUint64(out, uint64(b.time))
			out = binary.BigEndian.AppendUint64(out, uint64(b.index))
		}
	}
	return out
}

// decodeFold reads a snapshot. Memory is taken only for bytes that are there.
func decodeFold(data []byte) (*fold, error) {
	if len(data) < snapshotHeader {
		return nil, fmt.Errorf("%w: %d bytes", errSnapshot, len(data))
	}
	if data[0] != snapshotVersion {
		return nil, fmt.Errorf("%w: version %d", errSnapshot, data[0])
	}
	f := newFold()
	f.start = int64(binary.BigEndian.Uint64(data[1:]))
	f.next = int64(binary.BigEndian.Uint64(data[9:]))
	f.clock = int64(binary.BigEndian.Uint64(data[17:]))
	count := binary.BigEndian.Uint32(data[25:])
	data = data[snapshotHeader:]
	switch {
	case f.start < 0 || f.next < f.start || f.clock < 0:
		return nil, fmt.Errorf("%w: offsets [%d, %d), clock %d", errSnapshot, f.start, f.next, f.clock)
	case count > maxProducers || uint64(count)*(producerHeader+batchSize) > uint64(len(data)):
		return nil, fmt.Errorf("%w: %d producers in %d bytes", errSnapshot, count, len(data))
	}
	for range count {
		if len(data) < producerHeader {
			return nil, fmt.Errorf("%w: cut short", errSnapshot)
		}
		p := &producer{id: int64(binary.BigEndian.Uint64(data))}
		p.epoch = int16(binary.BigEndian.Uint16(data[8:]))
		p.touched = data[10] == 1
		p.seen = int64(binary.BigEndian.Uint64(data[11:]))
		p.n = data[19]
		if p.id < 0 || p.epoch < 0 || data[10] > 1 || p.seen < 0 || p.n == 0 || p.n > windowBatches || f.byID[p.id] != nil {
			return nil, fmt.Errorf("%w: producer %d", errSnapshot, p.id)
		}
		data = data[producerHeader:]
		if len(data) < int(p.n)*batchSize {
			return nil, fmt.Errorf("%w: cut short", errSnapshot)
		}
		for i := range p.batches[:p.n] {
			b := &p.batches[i]
			b.first = int32(binary.BigEndian.Uint32(data))
			b.last = int32(binary.BigEndian.Uint32(data[4:]))
			b.base = int64(binary.BigEndian.Uint64(data[8:]))
			b.time = int64(binary.BigEndian.Uint64(data[16:]))
			b.index = raft.Index(binary.BigEndian.Uint64(data[24:]))
			if b.first < 0 || b.last < 0 || b.base < 0 || b.base >= f.next || b.time < -1 ||
				i > 0 && b.index <= p.batches[i-1].index {
				return nil, fmt.Errorf("%w: batch %d of producer %d", errSnapshot, i, p.id)
			}
			data = data[batchSize:]
		}
		if f.newest != nil && p.last().index <= f.newest.last().index {
			return nil, fmt.Errorf("%w: producer %d is not in order", errSnapshot, p.id)
		}
		f.byID[p.id] = p
		f.link(p)
	}
	if len(data) != 0 {
		return nil, fmt.Errorf("%w: %d bytes too many", errSnapshot, len(data))
	}
	return f, nil
}

func encodeClock(clock, expiry int64) []byte {
	out := append(make([]byte, 0, commandSize), commandVersion, commandClock)
	out = binary.BigEndian.AppendUint64(out, uint64(clock))
	return binary.BigEndian.AppendUint64(out, uint64(expiry))
}

// command folds a committed command in. An unknown one is an error, and so fatal: a replica that skipped it would fold to
// another state than its peers.
func (f *fold) command(i raft.Index, p []byte) error {
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
	return nil
}

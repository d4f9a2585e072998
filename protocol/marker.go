// Markers: the control batches that end a transaction in a partition. One record, and in the batch the control and the transactional
// bit and no sequence.
//
//	key:   2 version = 0 | 2 type: 0 abort, 1 commit
//	value: 2 version = 0 | 4 epoch of the coordinator

package protocol

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// ErrMarker: a control batch that is not the end of a transaction.
var ErrMarker = errors.New("not the marker of a transaction")

// Marker types, in the key.
const (
	markerAbort  = 0
	markerCommit = 1
)

// Marker is how a transaction ended.
type Marker struct {
	Commit           bool
	CoordinatorEpoch int32
}

// Marker reads the marker that b is. Errors wrap ErrMarker.
func (b Batch) Marker() (m Marker, err error) {
	n := 0
	for r, err := range b.Records(nil) {
		switch {
		case err != nil:
			return m, fmt.Errorf("%w: %w", ErrMarker, err)
		case n > 0 || len(r.Key) < 4 || len(r.Value) < 6:
			return m, fmt.Errorf("%w: key of %d bytes, value of %d", ErrMarker, len(r.Key), len(r.Value))
		}
		n++
		switch t := binary.BigEndian.Uint16(r.Key[2:]); t {
		case markerAbort, markerCommit:
			m.Commit = t == markerCommit
		default:
			return m, fmt.Errorf("%w: type %d", ErrMarker, t)
		}
		m.CoordinatorEpoch = int32(binary.BigEndian.Uint32(r.Value[2:]))
	}
	if n == 0 || !b.HasProducer() || !b.Transactional() || !b.Control() || m.CoordinatorEpoch < 0 {
		return m, fmt.Errorf("%w: %d records of producer %d, coordinator's epoch %d", ErrMarker, n, b.ProducerID(), m.CoordinatorEpoch)
	}
	return m, nil
}

// BuildMarker makes the marker of a producer's transaction. now is in milliseconds.
func BuildMarker(producer int64, epoch int16, m Marker, now int64) Batch {
	key, value := make([]byte, 4), make([]byte, 6)
	if m.Commit {
		binary.BigEndian.PutUint16(key[2:], markerCommit)
	}
	binary.BigEndian.PutUint32(value[2:], uint32(m.CoordinatorEpoch))
	o := NewBatchOptions()
	o.ProducerID, o.ProducerEpoch, o.Transactional, o.Control = producer, epoch, true, true
	return BuildBatch([]Record{{Timestamp: now, Key: key, Value: value}}, o)
}

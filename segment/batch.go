// The few fields of a Kafka record batch (magic 2) that the log looks at. Anything that is not such a batch has no
// timestamp, and that is all that follows from it: whether a batch is valid was decided long before.

package segment

import "encoding/binary"

const (
	batchHeaderSize   = 61
	batchMagicAt      = 16
	batchFirstTimeAt  = 27
	batchMaxTimeAt    = 35
	noTimestamp       = int64(-1)
	batchCurrentMagic = 2
)

// batchMaxTimestamp is the largest timestamp in a batch (milliseconds), or noTimestamp.
func batchMaxTimestamp(payload []byte) int64 {
	if len(payload) < batchHeaderSize || payload[batchMagicAt] != batchCurrentMagic {
		return noTimestamp
	}
	return int64(binary.BigEndian.Uint64(payload[batchMaxTimeAt:]))
}

// batchFirstTimestamp is the base timestamp, which is that of the batch's first record under CreateTime.
func batchFirstTimestamp(payload []byte) int64 {
	if len(payload) < batchHeaderSize || payload[batchMagicAt] != batchCurrentMagic {
		return noTimestamp
	}
	return int64(binary.BigEndian.Uint64(payload[batchFirstTimeAt:]))
}

func (r *record) maxTimestamp() int64 {
	if r.records == 0 {
		return noTimestamp
	}
	return batchMaxTimestamp(r.Payload)
}

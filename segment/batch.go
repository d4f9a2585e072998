// What the log wants to know of a Kafka record batch: its timestamps. Anything that is not a batch of magic 2 has none,
// and that is all that follows from it: whether a batch is valid was decided long before it came here.

package segment

import (
	"sync"

	"github.com/balsamq/balsa/protocol"
)

const (
	batchMagicAt = 16
	batchMagic   = 2
	noTimestamp  = int64(-1)
	// maxInflated bounds what a look-up by time takes of a compressed batch.
	maxInflated = 64 << 20
)

// inflater is shared by all look-ups by time.
var inflater = sync.OnceValue(func() *protocol.Inflater { return protocol.NewInflater(maxInflated) })

func batchOf(payload []byte) (protocol.Batch, bool) {
	if len(payload) < protocol.BatchHeaderSize || payload[batchMagicAt] != batchMagic {
		return nil, false
	}
	return protocol.Batch(payload), true
}

// maxTimestamp is the largest timestamp in a record entry (milliseconds), or noTimestamp.
func (r *record) maxTimestamp() int64 {
	if r.records == 0 {
		return noTimestamp
	}
	if b, ok := batchOf(r.Payload); ok {
		return b.MaxTimestamp()
	}
	return noTimestamp
}

// firstSince is the first record of a record entry, from offset from on, with a timestamp at or after ts; false: there is none.
// If the records cannot be read, the batch as a whole answers.
func (r *record) firstSince(from Offset, ts int64) (Offset, int64, bool) {
	if b, ok := batchOf(r.Payload); ok {
		for rec, err := range b.Records(inflater()) {
			if err != nil || rec.Offset < int64(r.base) || rec.Offset >= int64(r.next()) {
				break
			}
			if rec.Timestamp >= ts && Offset(rec.Offset) >= from {
				return Offset(rec.Offset), rec.Timestamp, true
			}
			if Offset(rec.Offset) == r.next()-1 && r.base < from {
				return 0, 0, false // those that are new enough are below
			}
		}
	}
	return max(r.base, from), r.maxTimestamp(), true
}

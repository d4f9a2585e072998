// Looking inside a batch at the produce, for topics that ask for it: a key in every record (cleanup.policy=compact), conditions (keys.go), each
// record's time (message.timestamp.before.max.ms), another codec (compression.type). A topic that asks for none of it pays for
// none: its batches are not inflated, and no record is decoded.
//
// It happens before the batch has a place, on the goroutine that brought it; what is stamped and framed afterwards is the
// result, once, by the leader. Followers write the leader's frames verbatim, so whatever is decided here is decided once.

package partition

import (
	"errors"
	"fmt"
	"runtime"
	"sync"

	"github.com/balsamq/balsa/protocol"
)

// Recompression is compression.type, with the level of its codec. The zero value leaves batches as the producer made them.
type Recompression struct {
	Enabled bool // compression.type is not "producer"
	protocol.Compression
}

// RecordError says what is wrong with one record of a refused batch.
type RecordError struct {
	Index   int32 // in the batch, from 0
	Message string
}

// RecordsError is ErrInvalidRecord, or ErrInvalidTimestamp if that is all that is wrong, with the records to blame (KIP-467).
type RecordsError struct {
	Cause   error
	Records []RecordError // the first maxRecordErrors
	Total   int
}

func (e *RecordsError) Error() string {
	return fmt.Sprintf("%v: %d of its records are refused, the first one (%d): %s", e.Cause, e.Total, e.Records[0].Index, e.Records[0].Message)
}

func (e *RecordsError) Unwrap() error { return e.Cause }

// maxRecordErrors bounds what is said of one batch.
const maxRecordErrors = 1000

// lookers bounds the batches that are inflated at once, and so the memory that clients can make this broker take for it: as
// many as there are processors to do it.
var lookers = sync.OnceValue(func() chan struct{} { return make(chan struct{}, runtime.GOMAXPROCS(0)) })

// looksInside reports that the topic asks for more than a batch's header says. internal batches are written by brokers, and stay as they
// are: a coordinator reads back what it has written, whatever codec its cluster prefers.
func (s *Settings) looksInside(b protocol.Batch, internal bool) bool {
	return !internal && (s.Compact || s.Conditional || s.boundsBefore() || s.recompresses(b))
}

func (s *Settings) boundsBefore() bool {
	return s.TimestampType == CreateTime && s.TimestampBefore >= 0
}

func (s *Settings) recompresses(b protocol.Batch) bool {
	return s.Compression.Enabled && s.Compression.Codec != b.Codec()
}

// lookInside checks the records of a batch that has passed checkBatch, and returns it, or one that takes its place, with the records' keys if the topic
// takes conditional appends. now is in milliseconds.
func lookInside(b protocol.Batch, s *Settings, now int64) (_ protocol.Batch, keys []recordKey, err error) {
	if s.Conditional && b.RecordCount() > maxBatchKeys {
		return nil, nil, fmt.Errorf("%w: %d records, at most %d in a topic with conditional appends", ErrTooLarge, b.RecordCount(), maxBatchKeys)
	}
	slots := lookers()
	slots <- struct{}{}
	defer func() { <-slots }()
	raw, err := b.Inflate(inflater())
	if err != nil {
		// Its checksum holds: this is what the producer sent, and would send again.
		return nil, nil, fmt.Errorf("%w: %w", ErrInvalidRecord, err)
	}
	if s.Conditional {
		keys = make([]recordKey, 0, min(int(b.RecordCount()), 1024))
	}
	var refused RecordsError
	refuse := func(cause error, index int32, message string) {
		if refused.Total++; refused.Total == 1 {
			refused.Cause = cause
		} else if !errors.Is(refused.Cause, cause) {
			refused.Cause = ErrInvalidRecord
		}
		if len(refused.Records) < maxRecordErrors {
			refused.Records = append(refused.Records, RecordError{index, message})
		}
	}
	index, before := int32(0), s.boundsBefore()
	for r, err := range b.RecordsIn(raw) {
		switch {
		case err != nil:
			return nil, nil, fmt.Errorf("%w: %w", ErrInvalidRecord, err)
		case r.Offset != b.BaseOffset()+int64(index):
			return nil, nil, fmt.Errorf("%w: record %d has offset delta %d", ErrInvalidRecord, index, r.Offset-b.BaseOffset())
		case (s.Compact || s.Conditional) && r.Key == nil:
			refuse(ErrInvalidRecord, index, "Compacted topic cannot accept message without key")
		case before && r.Timestamp >= 0 && r.Timestamp < now-s.TimestampBefore.Milliseconds():
			refuse(ErrInvalidTimestamp, index, fmt.Sprintf("Timestamp %d of message with offset %d is out of range: it is more than %v before now", r.Timestamp, index, s.TimestampBefore))
		case s.Conditional:
			k, why := keyOf(r, index)
			if keys = append(keys, k); why != "" {
				refuse(ErrInvalidRecord, index, why)
			}
		}
		index++
	}
	if refused.Total > 0 {
		return nil, nil, &refused
	}
	if !s.recompresses(b) {
		return b, keys, nil
	}
	b = b.WithRecords(raw, s.Compression.Compression)
	if len(b) > s.MaxMessageBytes {
		return nil, nil, fmt.Errorf("%w: %d bytes as compression.type wants it, at most %d", ErrTooLarge, len(b), s.MaxMessageBytes)
	}
	return b, keys, nil
}

// The records of __transaction_state, in Kafka's format: what a transactional id's producer is, and how far its transaction has come,
// under the key (transactional id). A null value deletes. They are written by us alone, yet read as if anybody could have: what
// cannot be decoded is skipped and reported.

package coordinator

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/balsamq/balsa/protocol"
)

const (
	keyTxn   = 0
	txnValue = 1 // 1: tags for what KIP-890 needs
)

// TxnState is how far a transaction has come. The numbers are Kafka's.
type TxnState int8

const (
	TxnEmpty TxnState = iota
	TxnOngoing
	TxnPrepareCommit
	TxnPrepareAbort
	TxnCompleteCommit
	TxnCompleteAbort
)

// txnStates are Kafka's names, by number; of the last two we write none.
var txnStates = [...]string{"Empty", "Ongoing", "PrepareCommit", "PrepareAbort", "CompleteCommit", "CompleteAbort", "Dead", "PrepareEpochFence"}

// String is Kafka's name of the state.
func (s TxnState) String() string { return txnStates[s] }

// KnownTxnState says whether Kafka has a state of that name.
func KnownTxnState(name string) bool { return slices.Contains(txnStates[:], name) }

// preparing: the outcome is decided, and not all markers are known to be written.
func (s TxnState) preparing() bool { return s == TxnPrepareCommit || s == TxnPrepareAbort }

// txnData is what is stored of a transactional id. It is never changed in place; parts is shared.
type txnData struct {
	producer       int64
	epoch          int16 // -1: none yet
	prev           int64 // the producer id before this one, whose epochs were used up; -1: none
	next           int64 // the one that follows when the transaction has ended; -1: this one goes on
	lastEpoch      int16 // the epoch before the last raise, if whoever had it may learn of the raise; -1. It is not stored
	timeout        time.Duration
	state          TxnState
	parts          []TopicPartition // in order
	start, updated int64            // milliseconds; start -1: none
	version        int16            // transaction.version of the client; 2: each end raises the epoch
}

func comparePartitions(a, b TopicPartition) int {
	return cmp.Or(cmp.Compare(a.Topic, b.Topic), cmp.Compare(a.Partition, b.Partition))
}

// has says whether the transaction has the partition.
func (d *txnData) has(p TopicPartition) bool {
	_, ok := slices.BinarySearchFunc(d.parts, p, comparePartitions)
	return ok
}

func (d *txnData) hasAll(parts []TopicPartition) bool {
	return !slices.ContainsFunc(parts, func(p TopicPartition) bool { return !d.has(p) })
}

// with is the sorted union.
func (d *txnData) with(parts []TopicPartition) []TopicPartition {
	out := slices.Concat(d.parts, parts)
	slices.SortFunc(out, comparePartitions)
	return slices.Compact(out)
}

// txnRecord is one record, decoded. data is nil in a tombstone.
type txnRecord struct {
	id   string
	data *txnData
}

func (r *txnRecord) key() []byte {
	k := kmsg.TxnMetadataKey{Version: keyTxn, TransactionalID: r.id}
	return k.AppendTo(nil)
}

func (r *txnRecord) value() []byte {
	if r.data == nil {
		return nil
	}
	d := r.data
	v := kmsg.NewTxnMetadataValue()
	v.Version = txnValue
	v.ProducerID, v.ProducerEpoch, v.PreviousProducerID, v.NextProducerID = d.producer, d.epoch, d.prev, d.next
	v.TimeoutMillis, v.State = int32(d.timeout.Milliseconds()), kmsg.TransactionState(d.state)
	v.LastUpdateTimestamp, v.StartTimestamp, v.ClientTransactionVersion = d.updated, d.start, d.version
	for i, p := range d.parts {
		if i == 0 || p.Topic != d.parts[i-1].Topic {
			t := kmsg.NewTxnMetadataValueTopic()
			t.Topic = p.Topic
			v.Topics = append(v.Topics, t)
		}
		t := &v.Topics[len(v.Topics)-1]
		t.Partitions = append(t.Partitions, p.Partition)
	}
	return v.AppendTo(nil)
}

// txnBatch makes the batch that carries the records. now is in milliseconds.
func txnBatch(records []txnRecord, now int64) protocol.Batch {
	out := make([]protocol.Record, len(records))
	for i := range records {
		out[i] = protocol.Record{Timestamp: now, Key: records[i].key(), Value: records[i].value()}
	}
	return protocol.BuildBatch(out, protocol.NewBatchOptions())
}

// decodeTxnRecord keeps nothing of its arguments' memory.
func decodeTxnRecord(key, value []byte) (r txnRecord, err error) {
	if len(key) < 2 {
		return r, fmt.Errorf("%w: a key of %d bytes", ErrMalformed, len(key))
	}
	if v := int16(binary.BigEndian.Uint16(key)); v != keyTxn {
		return r, fmt.Errorf("%w: key version %d", errForeignRecord, v)
	}
	var k kmsg.TxnMetadataKey
	if err := k.ReadFrom(key); err != nil {
		return r, fmt.Errorf("%w: key of a transaction: %w", ErrMalformed, err)
	}
	r.id = k.TransactionalID
	if value == nil {
		return r, nil
	}
	if len(value) < 2 || int16(binary.BigEndian.Uint16(value)) < 0 || int16(binary.BigEndian.Uint16(value)) > txnValue {
		return r, fmt.Errorf("%w: version of a transaction", ErrMalformed)
	}
	if binary.BigEndian.Uint16(value) >= taggedTxnValue {
		if err := checkTagged(value, skipTxnValue); err != nil {
			return r, err
		}
	}
	v := kmsg.NewTxnMetadataValue()
	if err := v.ReadFrom(value); err != nil {
		return r, fmt.Errorf("%w: transaction: %w", ErrMalformed, err)
	}
	if v.State < 0 || TxnState(v.State) > TxnCompleteAbort || v.ProducerID < 0 || v.ProducerEpoch < -1 || v.TimeoutMillis < 0 {
		return r, fmt.Errorf("%w: transaction in state %d of producer %d, epoch %d, time-out %d", ErrMalformed, v.State, v.ProducerID, v.ProducerEpoch, v.TimeoutMillis)
	}
	d := &txnData{
		producer: v.ProducerID, epoch: v.ProducerEpoch, prev: v.PreviousProducerID, next: v.NextProducerID, lastEpoch: -1,
		timeout: time.Duration(v.TimeoutMillis) * time.Millisecond, state: TxnState(v.State), start: v.StartTimestamp, updated: v.LastUpdateTimestamp,
		version: v.ClientTransactionVersion,
	}
	for i := range v.Topics {
		for _, p := range v.Topics[i].Partitions {
			d.parts = append(d.parts, TopicPartition{Topic: v.Topics[i].Topic, Partition: p})
		}
	}
	d.parts = d.with(nil)
	r.data = d
	return r, nil
}

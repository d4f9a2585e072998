// The records of __consumer_offsets, in Kafka's format: a committed offset under the key (group, topic, partition), and a
// group's generation under the key (group). A null value deletes. Both are written by us alone (clients may not
// produce to internal topics), yet read as if anybody could have: what cannot be decoded is skipped and reported.

package coordinator

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/balsamq/balsa/protocol"
)

const (
	// Versions of keys; the version tells what kind of record it is.
	keyOffsetOld = 0
	keyOffset    = 1
	keyGroup     = 2

	// Versions of values that we write. v1 of an offset is the only one with an explicit expiry, v4 brought the topic id.
	offsetValueExpiring = 1
	offsetValue         = 4
	groupValue          = 3
)

// errForeignRecord is a record of a kind that we have no use for: those of share and streams groups.
var errForeignRecord = errors.New("record of an unknown kind")

// CommittedOffset is what a group has committed for one partition.
type CommittedOffset struct {
	Topic       string
	TopicID     TopicID // zero: not known
	Partition   int32
	Offset      int64
	LeaderEpoch int32 // -1: not known
	Metadata    string
	Committed   int64 // milliseconds
	Expires     int64 // milliseconds; -1: by the broker's retention
	// Unstable, in an answer: a transaction that is open may change it.
	Unstable bool

	order uint64 // in which the shard's records came
}

// groupRecord is one record, decoded. Of offset, meta and consumer one is set, or neither of the first two in a tombstone.
type groupRecord struct {
	name     string // of the group
	isOffset bool
	offset   CommittedOffset // of a tombstone: topic and partition only
	meta     *kmsg.GroupMetadataValue
	consumer *consumerRecord // of the new protocol
	deleted  bool
	at       int64 // milliseconds: when it was appended
}

func offsetRecord(name string, o CommittedOffset) groupRecord {
	return groupRecord{name: name, isOffset: true, offset: o}
}

func offsetTombstone(name, topic string, partition int32) groupRecord {
	return groupRecord{name: name, isOffset: true, offset: CommittedOffset{Topic: topic, Partition: partition}, deleted: true}
}

func (r *groupRecord) key() []byte {
	if r.consumer != nil {
		return r.consumer.key(r.name)
	}
	if r.isOffset {
		k := kmsg.OffsetCommitKey{Version: keyOffset, Group: r.name, Topic: r.offset.Topic, Partition: r.offset.Partition}
		return k.AppendTo(nil)
	}
	k := kmsg.GroupMetadataKey{Version: keyGroup, Group: r.name}
	return k.AppendTo(nil)
}

func (r *groupRecord) value() []byte {
	switch {
	case r.deleted:
		return nil
	case r.consumer != nil:
		return r.consumer.value()
	case r.isOffset:
		o := &r.offset
		v := kmsg.NewOffsetCommitValue()
		v.Version = offsetValue
		if o.Expires >= 0 {
			v.Version = offsetValueExpiring
		}
		v.Offset, v.LeaderEpoch, v.Metadata, v.CommitTimestamp, v.ExpireTimestamp, v.TopicID = o.Offset, o.LeaderEpoch, o.Metadata, o.Committed, o.Expires, o.TopicID
		return v.AppendTo(nil)
	}
	r.meta.Version = groupValue
	return r.meta.AppendTo(nil)
}

// groupBatch makes the batch that carries the records. now is in milliseconds.
func groupBatch(records []groupRecord, now int64) protocol.Batch {
	out := make([]protocol.Record, len(records))
	for i := range records {
		out[i] = protocol.Record{Timestamp: now, Key: records[i].key(), Value: records[i].value()}
	}
	return protocol.BuildBatch(out, protocol.NewBatchOptions())
}

// decodeGroupRecord keeps nothing of its arguments' memory.
func decodeGroupRecord(key, value []byte) (r groupRecord, err error) {
	if len(key) < 2 {
		return r, fmt.Errorf("%w: a key of %d bytes", ErrMalformed, len(key))
	}
	r.deleted = value == nil
	switch version := int16(binary.BigEndian.Uint16(key)); version {
	case keyOffsetOld, keyOffset:
		var k kmsg.OffsetCommitKey
		if err := k.ReadFrom(key); err != nil {
			return r, fmt.Errorf("%w: key of an offset: %w", ErrMalformed, err)
		}
		r.name, r.isOffset = k.Group, true
		r.offset = CommittedOffset{Topic: k.Topic, Partition: k.Partition}
		if r.deleted {
			return r, nil
		}
		v := kmsg.NewOffsetCommitValue()
		if len(value) < 2 || int16(binary.BigEndian.Uint16(value)) > offsetValue {
			return r, fmt.Errorf("%w: version of a committed offset", ErrMalformed)
		}
		if int16(binary.BigEndian.Uint16(value)) >= taggedOffsetValue {
			if err := checkTagged(value, skipOffsetValue); err != nil {
				return r, err
			}
		}
		if err := v.ReadFrom(value); err != nil {
			return r, fmt.Errorf("%w: committed offset: %w", ErrMalformed, err)
		}
		r.offset.TopicID, r.offset.Offset, r.offset.LeaderEpoch, r.offset.Metadata = v.TopicID, v.Offset, v.LeaderEpoch, v.Metadata
		r.offset.Committed, r.offset.Expires = v.CommitTimestamp, v.ExpireTimestamp
		if v.Version != offsetValueExpiring {
			r.offset.Expires = -1
		}
		return r, nil
	case keyGroup:
		var k kmsg.GroupMetadataKey
		if err := k.ReadFrom(key); err != nil {
			return r, fmt.Errorf("%w: key of a group: %w", ErrMalformed, err)
		}
		r.name = k.Group
		if r.deleted {
			return r, nil
		}
		if len(value) < 2 || int16(binary.BigEndian.Uint16(value)) > 4 {
			return r, fmt.Errorf("%w: version of a group's metadata", ErrMalformed)
		}
		if int16(binary.BigEndian.Uint16(value)) >= taggedGroupValue {
			if err := checkTagged(value, skipGroupValue); err != nil {
				return r, err
			}
		}
		v := kmsg.NewGroupMetadataValue()
		if err := v.ReadFrom(bytes.Clone(value)); err != nil {
			return r, fmt.Errorf("%w: group metadata: %w", ErrMalformed, err)
		}
		r.meta = &v
		return r, nil
	case keyConsumerGroup, keyConsumerTopics, keyConsumerMember, keyTargetEpoch, keyTargetMember, keyCurrentMember, keyConsumerRegex:
		r.name, r.consumer, err = decodeConsumerRecord(key, value)
		return r, err
	default:
		return r, fmt.Errorf("%w: key version %d", errForeignRecord, version)
	}
}

// The records of consumer groups of the new protocol (KIP-848) in __consumer_offsets, in Kafka's format. The key's version tells the kind:
//
//	key (version)                value (version 0, flexible)
//	3  group                     group epoch; tag 0: hash of the topics that the group wants
//	4  group                     the topics, in place of the hash: written by Kafka 4.0, and skipped here
//	5  group, member             what the member says of itself; tag 0: the classic protocols of a member that has not migrated
//	6  group                     assignment epoch
//	7  group, member             the member's part of the target assignment
//	8  group, member             the member's epochs and state, what it owns and what it is to give back
//	16 group, regular expression the topics that match
//
// A null value deletes.

package coordinator

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kbin"
)

const (
	keyConsumerGroup  = 3
	keyConsumerTopics = 4
	keyConsumerMember = 5
	keyTargetEpoch    = 6
	keyTargetMember   = 7
	keyCurrentMember  = 8
	keyConsumerRegex  = 16
)

// partID names a partition by its topic's id.
type partID struct {
	topic     TopicID
	partition int32
}

// partSet is a set of partitions. Where a member owns them the value is the epoch in which it got each; elsewhere it is 0.
type partSet map[partID]int32

func comparePartIDs(a, b partID) int {
	return cmp.Or(bytes.Compare(a.topic[:], b.topic[:]), cmp.Compare(a.partition, b.partition))
}

// sorted are the partitions by topic and number: whatever leaves the coordinator is in this order.
func (s partSet) sorted() []partID {
	ids := make([]partID, 0, len(s))
	for id := range s {
		ids = append(ids, id)
	}
	slices.SortFunc(ids, comparePartIDs)
	return ids
}

// TopicPartitions are partitions of one topic.
type TopicPartitions struct {
	Topic      TopicID
	Partitions []int32
}

// byTopic is the set in the form of the wire.
func (s partSet) byTopic() []TopicPartitions {
	var out []TopicPartitions
	for _, id := range s.sorted() {
		if n := len(out); n == 0 || out[n-1].Topic != id.topic {
			out = append(out, TopicPartitions{Topic: id.topic})
		}
		t := &out[len(out)-1]
		t.Partitions = append(t.Partitions, id.partition)
	}
	return out
}

// partsOf is the set of what came over the wire.
func partsOf(topics []TopicPartitions) partSet {
	s := make(partSet)
	for i := range topics {
		for _, p := range topics[i].Partitions {
			s[partID{topics[i].Topic, p}] = 0
		}
	}
	return s
}

// consumerRecord is one of the records above, decoded.
type consumerRecord struct {
	kind   int16
	member string // of 5, 7 and 8; of 16 the expression
	epoch  int32  // of 3 and 6
	hash   int64  // of 3
	says   *memberSays
	parts  partSet // of 7
	holds  *memberHolds
	regex  *resolvedRegex
}

// memberSays is what a member says of itself. It is replaced, never changed.
type memberSays struct {
	instance, rack       *string
	clientID, clientHost string
	topics               []string // sorted
	regex                string   // empty: none
	rebalance            time.Duration
	assignor             string // empty: it does not mind
	classic              *classicSays
}

// classicSays is what a member that speaks the classic protocol says besides.
type classicSays struct {
	session   time.Duration
	protocols []GroupProtocol
}

// memberHolds is where a member stands on its way to the target assignment. It is replaced, never changed.
type memberHolds struct {
	epoch, previous int32
	state           memberState
	owned           partSet // what it was told to consume
	revoking        partSet // what it was told to give back, and has not said that it did
}

// resolvedRegex is a regular expression's topics as of a version of the metadata.
type resolvedRegex struct {
	topics  []string // sorted
	version int64
	at      int64 // milliseconds
}

func (r *consumerRecord) key(group string) []byte {
	b := kbin.AppendString(kbin.AppendInt16(nil, r.kind), group)
	switch r.kind {
	case keyConsumerMember, keyTargetMember, keyCurrentMember, keyConsumerRegex:
		b = kbin.AppendString(b, r.member)
	}
	return b
}

func (r *consumerRecord) value() []byte {
	b := kbin.AppendInt16(nil, 0)
	switch r.kind {
	case keyConsumerGroup:
		b = kbin.AppendInt32(b, r.epoch)
		if r.hash != 0 {
			b = kbin.AppendUvarint(b, 1)
			return appendTag(b, 0, kbin.AppendInt64(nil, r.hash))
		}
	case keyTargetEpoch:
		b = kbin.AppendInt32(b, r.epoch)
	case keyConsumerMember:
		return r.says.appendTo(b)
	case keyTargetMember:
		b = appendParts(b, r.parts, false)
	case keyCurrentMember:
		b = kbin.AppendInt32(b, r.holds.epoch)
		b = kbin.AppendInt32(b, r.holds.previous)
		b = kbin.AppendInt8(b, int8(r.holds.state))
		b = appendParts(b, r.holds.owned, true)
		b = appendParts(b, r.holds.revoking, true)
	case keyConsumerRegex:
		b = appendTexts(b, r.regex.topics)
		b = kbin.AppendInt64(b, r.regex.version)
		b = kbin.AppendInt64(b, r.regex.at)
	}
	return kbin.AppendUvarint(b, 0)
}

func (m *memberSays) appendTo(b []byte) []byte {
	b = kbin.AppendCompactNullableString(b, m.instance)
	b = kbin.AppendCompactNullableString(b, m.rack)
	b = kbin.AppendCompactString(b, m.clientID)
	b = kbin.AppendCompactString(b, m.clientHost)
	b = appendTexts(b, m.topics)
	b = kbin.AppendCompactNullableString(b, nullable(m.regex))
	b = kbin.AppendInt32(b, int32(m.rebalance.Milliseconds()))
	b = kbin.AppendCompactNullableString(b, nullable(m.assignor))
	if m.classic == nil {
		return kbin.AppendUvarint(b, 0)
	}
	c := kbin.AppendInt8(nil, 1) // not null
	c = kbin.AppendInt32(c, int32(m.classic.session.Milliseconds()))
	c = kbin.AppendCompactArrayLen(c, len(m.classic.protocols))
	for _, p := range m.classic.protocols {
		c = kbin.AppendCompactBytes(kbin.AppendCompactString(c, p.Name), p.Metadata)
		c = kbin.AppendUvarint(c, 0)
	}
	c = kbin.AppendUvarint(c, 0)
	return appendTag(kbin.AppendUvarint(b, 1), 0, c)
}

func nullable(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

func appendTag(b []byte, tag uint32, content []byte) []byte {
	b = kbin.AppendUvarint(kbin.AppendUvarint(b, tag), uint32(len(content)))
	return append(b, content...)
}

func appendTexts(b []byte, texts []string) []byte {
	b = kbin.AppendCompactArrayLen(b, len(texts))
	for _, s := range texts {
		b = kbin.AppendCompactString(b, s)
	}
	return b
}

// appendParts appends an array of topics with their partitions; with epochs also the tag of Kafka 4.3 that says since when
// (KIP-1251).
func appendParts(b []byte, s partSet, epochs bool) []byte {
	topics := s.byTopic()
	b = kbin.AppendCompactArrayLen(b, len(topics))
	for i := range topics {
		t := &topics[i]
		b = kbin.AppendUuid(b, t.Topic)
		b = kbin.AppendCompactArrayLen(b, len(t.Partitions))
		for _, p := range t.Partitions {
			b = kbin.AppendInt32(b, p)
		}
		if !epochs {
			b = kbin.AppendUvarint(b, 0)
			continue
		}
		c := kbin.AppendCompactArrayLen(nil, len(t.Partitions))
		for _, p := range t.Partitions {
			c = kbin.AppendInt32(c, s[partID{t.Topic, p}])
		}
		b = appendTag(kbin.AppendUvarint(b, 1), 0, c)
	}
	return b
}

// decodeConsumerRecord keeps nothing of its arguments' memory.
func decodeConsumerRecord(key, value []byte) (group string, r *consumerRecord, err error) {
	k := kbin.Reader{Src: key}
	r = &consumerRecord{kind: k.Int16()}
	group = k.String()
	switch r.kind {
	case keyConsumerMember, keyTargetMember, keyCurrentMember, keyConsumerRegex:
		r.member = k.String()
	}
	if err := k.Complete(); err != nil {
		return "", nil, fmt.Errorf("%w: key of a consumer group's record: %w", ErrMalformed, err)
	}
	if value == nil {
		return group, r, nil
	}
	if len(value) < 2 || binary.BigEndian.Uint16(value) != 0 {
		return "", nil, fmt.Errorf("%w: version of a consumer group's record", ErrMalformed)
	}
	b := kbin.Reader{Src: value[2:]}
	tags := func(uint32, *kbin.Reader) {}
	switch r.kind {
	case keyConsumerGroup:
		r.epoch = b.Int32()
		tags = func(tag uint32, c *kbin.Reader) {
			if tag == 0 {
				r.hash = c.Int64()
			}
		}
	case keyConsumerTopics:
		return group, r, nil
	case keyTargetEpoch:
		r.epoch = b.Int32()
	case keyConsumerMember:
		r.says = &memberSays{instance: b.CompactNullableString(), rack: b.CompactNullableString(), clientID: b.CompactString(), clientHost: b.CompactString(),
			topics: readTexts(&b)}
		r.says.regex = textOrEmpty(b.CompactNullableString())
		r.says.rebalance = time.Duration(b.Int32()) * time.Millisecond
		r.says.assignor = textOrEmpty(b.CompactNullableString())
		tags = func(tag uint32, c *kbin.Reader) {
			if tag == 0 && c.Int8() == 1 {
				r.says.classic = readClassic(c)
			}
		}
	case keyTargetMember:
		r.parts = readParts(&b)
	case keyCurrentMember:
		r.holds = &memberHolds{epoch: b.Int32(), previous: b.Int32(), state: memberState(b.Int8())}
		r.holds.owned, r.holds.revoking = readParts(&b), readParts(&b)
	case keyConsumerRegex:
		r.regex = &resolvedRegex{topics: readTexts(&b), version: b.Int64(), at: b.Int64()}
	}
	readTags(&b, tags)
	if err := b.Complete(); err != nil {
		return "", nil, fmt.Errorf("%w: consumer group's record of kind %d: %w", ErrMalformed, r.kind, err)
	}
	return group, r, nil
}

func textOrEmpty(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

// readTags calls known for each tagged field with its content.
func readTags(b *kbin.Reader, known func(tag uint32, content *kbin.Reader)) {
	for n := b.Uvarint(); n > 0 && b.Ok(); n-- {
		tag, size := b.Uvarint(), b.Uvarint()
		if content := b.Span(int(size)); b.Ok() {
			c := kbin.Reader{Src: content}
			known(tag, &c)
			if !c.Ok() {
				b.Span(-1) // a field that ends too soon spoils the record
			}
		}
	}
}

func noTags(uint32, *kbin.Reader) {}

// readTexts reads an array of strings, sorted. Nothing is allocated for elements that are not there.
func readTexts(b *kbin.Reader) []string {
	var out []string
	for n := b.CompactArrayLen(); n > 0 && b.Ok(); n-- {
		out = append(out, b.CompactString())
	}
	slices.Sort(out)
	return out
}

func readParts(b *kbin.Reader) partSet {
	s := make(partSet)
	for n := b.CompactArrayLen(); n > 0 && b.Ok(); n-- {
		topic := TopicID(b.Uuid())
		var parts []int32
		for k := b.CompactArrayLen(); k > 0 && b.Ok(); k-- {
			parts = append(parts, b.Int32())
		}
		var epochs []int32
		readTags(b, func(tag uint32, c *kbin.Reader) {
			if tag != 0 {
				return
			}
			for k := c.CompactArrayLen(); k > 0 && c.Ok(); k-- {
				epochs = append(epochs, c.Int32())
			}
		})
		for i, p := range parts {
			epoch := int32(0)
			if i < len(epochs) {
				epoch = epochs[i]
			}
			s[partID{topic, p}] = epoch
		}
	}
	return s
}

func readClassic(b *kbin.Reader) *classicSays {
	c := &classicSays{session: time.Duration(b.Int32()) * time.Millisecond}
	for n := b.CompactArrayLen(); n > 0 && b.Ok(); n-- {
		c.protocols = append(c.protocols, GroupProtocol{Name: b.CompactString(), Metadata: bytes.Clone(b.CompactBytes())})
		readTags(b, noTags)
	}
	readTags(b, noTags)
	return c
}

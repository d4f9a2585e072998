// From a NATS message to a record and back: headers, timestamps, tombstones, and the list of bridges passed.
//
// Both sides have headers of several values; a NATS header's names are those of HTTP, and its values one line of text. Names and values
// beyond that are percent-encoded on the way into NATS, and Balsa-Encoded lists the names (as they are written there), so that nothing is
// lost on the way back. A header without a value (null, in Kafka) becomes an empty one, and the order among headers of different names is
// that of their names.

package bridge

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/nats-io/nats.go"
	"github.com/twmb/franz-go/pkg/kgo"
)

// Headers of ours.
const (
	// On records that came from NATS.
	headerStream  = "balsa.nats.stream"
	headerSeq     = "balsa.nats.seq"
	headerSubject = "balsa.nats.subject"
	headerReply   = "balsa.nats.reply"
	// On messages that came from a topic.
	headerKey       = "Balsa-Key" // where the subject does not have it
	headerTimestamp = "Balsa-Timestamp"
	headerTombstone = "Balsa-Tombstone"
	headerEncoded   = "Balsa-Encoded"
	headerPlace     = "Balsa-Place" // topic, partition and offset
	// On both: CLUSTER/NAME of each bridge passed.
	headerBridges = "Balsa-Bridges"
	// On dead letters, beside those above.
	headerReason = "balsa.bridge.reason"

	natsPrefix = "Nats-"
	// kvOperation marks deletions in the stream of a key-value bucket.
	kvOperation = "KV-Operation"
)

// maxHeaders bounds the headers of one message, on either side, and maxPassed the bridges that one may have passed.
const (
	maxHeaders = 1024
	maxPassed  = 64
)

// errSkip: the message is to be left out.
var errSkip = errors.New("the message has passed this bridge, or one whose messages are left out")

// converter turns messages around.
type converter struct {
	self    string // CLUSTER/NAME
	skip    []string
	keyed   bool     // records have keys
	key     template // of a record; empty: the subject
	subject template // of a message
	source  string   // the stream, or empty
}

func newConverter(s *Spec, self string) (*converter, error) {
	c := &converter{self: self, skip: s.Skip, keyed: s.Key != noKey, source: s.FromStream}
	var err error
	if s.FromTopic != "" {
		c.subject, err = parseTemplate(s.Subject, subjectFields)
	} else if c.keyed {
		c.key, err = parseTemplate(s.Key, keyFields)
	}
	return c, err
}

// passes says whether a message that has passed these bridges may pass this one.
func (c *converter) passes(passed []string) error {
	if len(passed) > maxPassed {
		return fmt.Errorf("it has passed %d bridges: that must be a loop", len(passed))
	}
	for _, p := range passed {
		if p == c.self {
			return errSkip
		}
		_, name, _ := strings.Cut(p, "/")
		for _, s := range c.skip {
			if s == "*" || s == p || s == name {
				return errSkip
			}
		}
	}
	return nil
}

// message is what comes from NATS.
type message struct {
	subject, reply string
	header         nats.Header
	data           []byte
	seq            uint64 // in its stream; 0: of none
	time           time.Time
}

// record makes a record of a message, for a topic that it does not name. It fails with errSkip, or because that cannot be done.
func (c *converter) record(m *message) (*kgo.Record, error) {
	if err := c.passes(m.header.Values(headerBridges)); err != nil {
		return nil, err
	}
	headers, err := decodeHeaders(m.header)
	if err != nil {
		return nil, err
	}
	r := &kgo.Record{Value: m.data, Timestamp: m.time, Headers: headers}
	if r.Value == nil {
		r.Value = []byte{}
	}
	if op := m.header.Get(kvOperation); m.header.Get(headerTombstone) != "" || op == "DEL" || op == "PURGE" {
		r.Value = nil
	}
	if v := m.header.Get(headerTimestamp); v != "" {
		// A time that is yet to come the topic might refuse, and the bridge could not go on.
		if ms, err := strconv.ParseInt(v, 10, 64); err == nil && ms >= 0 && !time.UnixMilli(ms).After(m.time) {
			r.Timestamp = time.UnixMilli(ms)
		}
	}
	switch {
	case !c.keyed:
	case len(c.key) == 0:
		r.Key = []byte(m.subject)
	default:
		if r.Key, err = c.key.key(m.subject, func(name string) (string, bool) { return find(headers, name) }); err != nil {
			return nil, err
		}
	}
	r.Headers = append(r.Headers, c.origin(m)...)
	r.Headers = append(r.Headers, kgo.RecordHeader{Key: headerBridges, Value: []byte(c.self)})
	return r, nil
}

// origin says where a message came from.
func (c *converter) origin(m *message) (out []kgo.RecordHeader) {
	if m.seq > 0 {
		out = append(out, kgo.RecordHeader{Key: headerStream, Value: []byte(c.source)},
			kgo.RecordHeader{Key: headerSeq, Value: strconv.AppendUint(nil, m.seq, 10)})
	}
	out = append(out, kgo.RecordHeader{Key: headerSubject, Value: []byte(m.subject)})
	if m.reply != "" {
		out = append(out, kgo.RecordHeader{Key: headerReply, Value: []byte(m.reply)})
	}
	return out
}

// deadMessage is the record for a message that cannot be converted. Of one that is too large the value stays away.
func (c *converter) deadMessage(m *message, reason error, maxBytes int) *kgo.Record {
	r := &kgo.Record{Key: []byte(m.subject), Timestamp: m.time, Headers: append(c.origin(m), kgo.RecordHeader{Key: headerReason, Value: reasonText(reason)})}
	if headers, err := decodeHeaders(m.header); err == nil {
		r.Headers = append(r.Headers, headers...)
	}
	if r.Value = m.data; recordBytes(r) > maxBytes {
		r.Value = nil
		r.Headers = r.Headers[:len(c.origin(m))+1]
	}
	return r
}

// outlet is what a stream takes.
type outlet struct {
	name     string
	subjects []string
	maxBytes int64 // of a message with its headers; 0: not known
}

// takes says whether a subject is one of the stream's.
func (o *outlet) takes(subject string) bool {
	return slices.ContainsFunc(o.subjects, func(f string) bool { return covers(f, subject) })
}

// covers says whether a subject matches a filter with wildcards.
func covers(filter, subject string) bool {
	for {
		f, restF, moreF := strings.Cut(filter, ".")
		s, restS, moreS := strings.Cut(subject, ".")
		switch {
		case f == ">":
			return true
		case f != "*" && f != s || moreF != moreS:
			return false
		case !moreF:
			return true
		}
		filter, subject = restF, restS
	}
}

// message makes a message of a record. It fails with errSkip, or because that cannot be done.
func (c *converter) message(r *kgo.Record, id string, to *outlet) (*nats.Msg, error) {
	var passed []string
	for _, h := range r.Headers {
		if h.Key == headerBridges {
			passed = append(passed, string(h.Value))
		}
	}
	if err := c.passes(passed); err != nil {
		return nil, err
	}
	subject, err := c.subject.subject(r.Key, r.Topic, r.Partition, func(name string) (string, bool) { return find(r.Headers, name) })
	if err != nil {
		return nil, err
	}
	if !validSubject(subject) || !to.takes(subject) {
		return nil, fmt.Errorf("stream %s does not take the subject %.200q: its own are %.200q", to.name, subject, to.subjects)
	}
	m := &nats.Msg{Subject: subject, Data: r.Value, Header: encodeHeaders(r.Headers)}
	if !c.subject.hasKey() && r.Key != nil {
		setText(m.Header, headerKey, string(r.Key))
	}
	if r.Value == nil {
		m.Header.Set(headerTombstone, "1")
	}
	m.Header.Set(headerTimestamp, strconv.FormatInt(r.Timestamp.UnixMilli(), 10))
	m.Header.Set(headerPlace, fmt.Sprintf("%s/%d/%d", r.Topic, r.Partition, r.Offset))
	m.Header.Add(headerBridges, c.self)
	m.Header.Set(nats.MsgIdHdr, id)
	m.Header.Set(nats.ExpectedStreamHdr, to.name)
	size := int64(m.Size()) + chainBytes
	if to.maxBytes > 0 && size > to.maxBytes {
		return nil, fmt.Errorf("the message would have %d bytes, and the stream takes %d", size, to.maxBytes)
	}
	if n := size - int64(len(m.Data)+len(m.Subject)); n > maxHeaderBytes {
		return nil, fmt.Errorf("its headers would have %d bytes, and a stream takes %d", n, maxHeaderBytes)
	}
	return m, nil
}

const (
	// chainBytes is what Nats-Expected-Last-Sequence adds to a message at most.
	chainBytes = 64
	// maxHeaderBytes is what JetStream takes of headers.
	maxHeaderBytes = 1<<16 - 1
)

// deadRecord is the dead letter of a record that cannot be converted. Of one that is too large the value stays away, and then its headers and its key.
func (c *converter) deadRecord(r *kgo.Record, reason error, maxBytes int) *kgo.Record {
	own := []kgo.RecordHeader{{Key: headerReason, Value: reasonText(reason)}, {Key: headerPlace, Value: fmt.Appendf(nil, "%s/%d/%d", r.Topic, r.Partition, r.Offset)}}
	dead := &kgo.Record{Key: r.Key, Value: r.Value, Timestamp: r.Timestamp, Headers: append(slices.Clone(r.Headers), own...)}
	if recordBytes(dead) > maxBytes {
		dead.Value = nil
	}
	if recordBytes(dead) > maxBytes {
		dead.Headers = own
	}
	if recordBytes(dead) > maxBytes {
		dead.Key = nil
	}
	return dead
}

// maxReason bounds the reason that a dead letter gives.
const maxReason = 1 << 10

func reasonText(err error) []byte {
	s := err.Error()
	return []byte(strings.ToValidUTF8(s[:min(len(s), maxReason)], ""))
}

// find is the first value of a header.
func find(headers []kgo.RecordHeader, name string) (string, bool) {
	for _, h := range headers {
		if h.Key == name {
			return string(h.Value), true
		}
	}
	return "", false
}

// decodeHeaders are the headers of a message as those of a record. What JetStream is told by headers stays behind: only the id of a message means something
// to others.
func decodeHeaders(h nats.Header) ([]kgo.RecordHeader, error) {
	encoded := h.Values(headerEncoded)
	names := make([]string, 0, len(h))
	n := 0
	for name, values := range h {
		if skipHeader(name) {
			continue
		}
		names = append(names, name)
		n += len(values)
	}
	if n > maxHeaders {
		return nil, fmt.Errorf("it has %d headers, at most %d are allowed", n, maxHeaders)
	}
	slices.Sort(names)
	out := make([]kgo.RecordHeader, 0, n+5)
	for _, name := range names {
		key := name
		isEncoded := slices.Contains(encoded, name)
		if isEncoded {
			if b, ok := percentDecode(name); ok {
				key = string(b)
			} else if name == emptyName {
				key = ""
			}
		}
		for _, v := range h[name] {
			value := []byte(v)
			if isEncoded {
				if b, ok := percentDecode(v); ok {
					value = b
				}
			}
			out = append(out, kgo.RecordHeader{Key: key, Value: value})
		}
	}
	return out, nil
}

func skipHeader(name string) bool {
	return name == headerEncoded || name == headerTimestamp || name == headerTombstone ||
		strings.HasPrefix(name, natsPrefix) && name != nats.MsgIdHdr
}

// encodeHeaders is the inverse. What would tell JetStream something is left out.
func encodeHeaders(headers []kgo.RecordHeader) nats.Header {
	out := make(nats.Header, len(headers)+5)
	plain := make(map[string]bool, len(headers)) // a name is encoded for all of its values, or for none
	for _, h := range headers {
		p, seen := plain[h.Key]
		plain[h.Key] = (p || !seen) && tokenName(h.Key) && lineValue(h.Value) && h.Key != statusName
	}
	for _, h := range headers {
		switch {
		case strings.HasPrefix(h.Key, natsPrefix), h.Key == headerEncoded, h.Key == headerTimestamp, h.Key == headerTombstone, h.Key == headerPlace, h.Key == headerKey:
		case plain[h.Key]:
			out[h.Key] = append(out[h.Key], string(h.Value))
		default:
			name := encodeName(h.Key)
			if h.Key == statusName {
				name = encodedStatus
			}
			if !slices.Contains(out[headerEncoded], name) {
				out[headerEncoded] = append(out[headerEncoded], name)
			}
			out[name] = append(out[name], percentEncode(h.Value, func(byte) bool { return false }))
		}
	}
	return out
}

// setText sets one of our own headers to any bytes.
func setText(h nats.Header, name, value string) {
	if lineValue([]byte(value)) {
		h.Set(name, value)
		return
	}
	h.Set(name, percentEncode([]byte(value), func(byte) bool { return false }))
	h.Add(headerEncoded, name)
}

// tokenName says whether a name can be written as it is: HTTP's tokens, without '%', which marks what is encoded.
func tokenName(s string) bool {
	for i := range len(s) {
		if !tokenByte(s[i]) || s[i] == '%' {
			return false
		}
	}
	return s != ""
}

func tokenByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0
}

// statusName is what NATS's clients tell a server's word from a message by, if that has no body: under its own name it would never reach a consumer.
const (
	statusName    = "Status"
	encodedStatus = "%53tatus"
)

// emptyName stands for the empty name; it is no encoding of another.
const emptyName = "%"

// encodeName makes a name of any bytes.
func encodeName(s string) string {
	var b strings.Builder
	for i := range len(s) {
		if c := s[i]; tokenByte(c) && c != '%' {
			b.WriteByte(c)
		} else {
			b.WriteByte('%')
			b.WriteByte(hexDigits[c>>4])
			b.WriteByte(hexDigits[c&15])
		}
	}
	if b.Len() == 0 {
		return emptyName
	}
	return b.String()
}

// lineValue says whether a value comes through as it is: one line, no blanks at its ends.
func lineValue(v []byte) bool {
	if !utf8.Valid(v) || len(v) > 0 && (v[0] <= ' ' || v[len(v)-1] <= ' ') {
		return false
	}
	return !slices.ContainsFunc(v, func(c byte) bool { return c < ' ' || c == 0x7f })
}

// payloadBytes are those of a record's key, value and headers.
func payloadBytes(r *kgo.Record) int {
	n := len(r.Key) + len(r.Value)
	for _, h := range r.Headers {
		n += len(h.Key) + len(h.Value)
	}
	return n
}

// recordBytes is an upper bound of what a record takes in a batch of its own, uncompressed.
func recordBytes(r *kgo.Record) int {
	return 61 + 5*7 + payloadBytes(r) + 10*len(r.Headers) // the batch's header, and varints of at most five bytes
}

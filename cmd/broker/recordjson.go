// Records as JSON, one object on a line: what `consume -o json` prints and `produce -i json` reads. A record that goes through both is
// the same to the byte, null and empty told apart:
//
//	{"topic":"t","partition":0,"offset":7,"timestamp":"2026-03-01T12:00:00.007Z","key":"k","value":null,"valueBase64":"/wA=",
//	 "headers":[{"name":"h","value":"1"},{"name":"h","value":null}]}
//
// Text stands as it is. Bytes that are no UTF-8, which JSON cannot hold, stand in the field of the same name with Base64 behind it, and the
// plain one is null. The reader is strict where a mistake would write something else than was meant: a name mistyped, a field given twice, a
// value left out (which would be a tombstone), half a surrogate pair.

package main

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/twmb/franz-go/pkg/kgo"
)

// consumedRecord is a record in JSON and YAML. A key or value that is not UTF-8 is given in base64 instead.
type consumedRecord struct {
	Topic       string           `json:"topic" yaml:"topic"`
	Partition   int32            `json:"partition" yaml:"partition"`
	Offset      int64            `json:"offset" yaml:"offset"`
	Timestamp   string           `json:"timestamp" yaml:"timestamp"`
	Key         *string          `json:"key" yaml:"key"`
	Value       *string          `json:"value" yaml:"value"`
	KeyBase64   string           `json:"keyBase64,omitempty" yaml:"keyBase64,omitempty"`
	ValueBase64 string           `json:"valueBase64,omitempty" yaml:"valueBase64,omitempty"`
	Headers     []consumedHeader `json:"headers,omitempty" yaml:"headers,omitempty"`
}

type consumedHeader struct {
	Name        *string `json:"name" yaml:"name"`
	Value       *string `json:"value" yaml:"value"`
	NameBase64  string  `json:"nameBase64,omitempty" yaml:"nameBase64,omitempty"`
	ValueBase64 string  `json:"valueBase64,omitempty" yaml:"valueBase64,omitempty"`
}

func recordView(r *kgo.Record) consumedRecord {
	v := consumedRecord{Topic: r.Topic, Partition: r.Partition, Offset: r.Offset, Timestamp: r.Timestamp.UTC().Format(rfc3339Milli)}
	v.Key, v.KeyBase64 = textOrBase64(r.Key)
	v.Value, v.ValueBase64 = textOrBase64(r.Value)
	for _, h := range r.Headers {
		var out consumedHeader
		out.Name, out.NameBase64 = textOrBase64([]byte(h.Key))
		out.Value, out.ValueBase64 = textOrBase64(h.Value)
		v.Headers = append(v.Headers, out)
	}
	return v
}

func textOrBase64(b []byte) (*string, string) {
	switch {
	case b == nil:
		return nil, ""
	case utf8.Valid(b):
		s := string(b)
		return &s, ""
	}
	return nil, base64.StdEncoding.EncodeToString(b)
}

// badRecord is what is wrong with a line that is to be a record.
type badRecord struct{ what, mend string }

func (e *badRecord) Error() string { return e.what }

func badLine(mend, format string, a ...any) error { return &badRecord{fmt.Sprintf(format, a...), mend} }

const recordMend = `a record is one line such as {"key":"k","value":"v","headers":[{"name":"h","value":"1"}]}: 'broker produce --help' has the fields`

// readRecord reads a line of JSON. The partition is that which the line names, -1 if it names none; topic and offset are looked at and left out.
func readRecord(line []byte) (r *kgo.Record, partition int32, err error) {
	r, partition = new(kgo.Record), -1
	if err := checkJSON(line); err != nil {
		return nil, 0, err
	}
	var key, value textField
	err = eachField(line, "the line", func(name string, raw json.RawMessage) error {
		switch name {
		case "key", "keyBase64":
			return key.read(name, raw)
		case "value", "valueBase64":
			return value.read(name, raw)
		case "headers":
			r.Headers, err = readHeaders(raw)
			return err
		case "timestamp":
			r.Timestamp, err = readTimestamp(raw)
			return err
		case "partition":
			n, err := readNumber(name, raw, 31)
			partition = int32(n)
			return err
		case "offset":
			_, err := readNumber(name, raw, 63)
			return err
		case "topic":
			var s string
			if json.Unmarshal(raw, &s) != nil {
				return badLine(recordMend, "topic is %s, no text", jsonKind(raw))
			}
			return nil
		}
		return badLine("the fields are key, keyBase64, value, valueBase64, headers, timestamp, partition; topic and offset are not looked at", "there is no field %q", name)
	})
	if err != nil {
		return nil, 0, err
	}
	if !value.given {
		return nil, 0, badLine(`write "value":null for a record without a value (a tombstone), "value":"" for an empty one`, "there is no value")
	}
	r.Key, r.Value = key.bytes, value.bytes
	return r, partition, nil
}

// checkJSON says what keeps a line from being one JSON value of which every text is what it looks like.
func checkJSON(line []byte) error {
	if !utf8.Valid(line) {
		return badLine("write bytes that are no text in base64: keyBase64, valueBase64", "the line is not UTF-8")
	}
	var whole json.RawMessage
	if err := json.Unmarshal(line, &whole); err != nil {
		mend := recordMend
		if syntax, ok := errors.AsType[*json.SyntaxError](err); ok {
			if strings.HasPrefix(err.Error(), "unexpected end") {
				mend = "write each record on one line: 'jq -c .' does that"
			}
			return badLine(mend, "the line is no JSON: %v (byte %d)", err, syntax.Offset)
		}
		return badLine(mend, "the line is no JSON: %v", err)
	}
	if half := halfSurrogate(line); half != "" {
		return badLine("write bytes that are no text in base64: keyBase64, valueBase64", "%s is half a character", half)
	}
	return nil
}

// halfSurrogate finds an escape of UTF-16 that stands without its other half: Go would read another character for it. The line is valid JSON.
func halfSurrogate(line []byte) string {
	unit := func(at int) (n uint64, ok bool) {
		if at+6 > len(line) || line[at] != '\\' || line[at+1] != 'u' {
			return 0, false
		}
		n, err := strconv.ParseUint(string(line[at+2:at+6]), 16, 16)
		return n, err == nil
	}
	for i := 0; ; i += 2 {
		next := bytes.IndexByte(line[i:], '\\')
		if next < 0 {
			return ""
		}
		i += next
		n, ok := unit(i)
		if !ok || n < 0xd800 || n > 0xdfff {
			continue
		}
		if low, ok := unit(i + 6); n >= 0xdc00 || !ok || low < 0xdc00 || low > 0xdfff {
			return string(line[i : i+6])
		}
		i += 6 // the other half, whose two first bytes the loop skips
	}
}

// maxFields bounds the fields of an object that are looked at: there are nine names.
const maxFields = 16

// eachField calls fn with the fields of an object, which is valid JSON. One that stands twice is refused.
func eachField(object []byte, what string, fn func(name string, raw json.RawMessage) error) error {
	dec := json.NewDecoder(bytes.NewReader(object))
	if open, err := dec.Token(); err != nil || open != json.Delim('{') {
		return badLine(recordMend, "%s is %s, no object", what, jsonKind(object))
	}
	seen := make([]string, 0, 9)
	for dec.More() {
		token, err := dec.Token()
		if err != nil {
			return err
		}
		name, _ := token.(string)
		if slices.Contains(seen, name) {
			return badLine("leave one of them out", "the field %q is there twice", name)
		}
		if len(seen) == maxFields {
			return badLine(recordMend, "%s has more than %d fields", what, maxFields)
		}
		seen = append(seen, name)
		var raw json.RawMessage
		if err := dec.Decode(&raw); err != nil {
			return err
		}
		if err := fn(name, raw); err != nil {
			return err
		}
	}
	return nil
}

// textField is a field and its twin in base64.
type textField struct {
	bytes          []byte
	given, nonNull bool
}

// read takes one of the two. Null leaves what the other says.
func (f *textField) read(name string, raw json.RawMessage) error {
	f.given = true
	if string(raw) == "null" {
		return nil
	}
	var s string
	if err := json.Unmarshal(raw, &s); err != nil {
		return badLine(fmt.Sprintf(`write text, as in "%s":"…", or null; 'jq -c ".%s |= tojson"' makes JSON a text`, name, name), "%s is %s, no text", name, jsonKind(raw))
	}
	plain, encoded := strings.CutSuffix(name, "Base64")
	if f.nonNull {
		return badLine("leave one of them out", "%s and %sBase64 are both there", plain, plain)
	}
	f.nonNull = true
	if !encoded {
		f.bytes = []byte(s)
		return nil
	}
	b, err := base64.StdEncoding.Strict().DecodeString(s)
	if err != nil || strings.ContainsAny(s, "\r\n") {
		return badLine("it is the usual alphabet (RFC 4648, section 4), with padding: 'base64 -w0' writes it", "%s is no base64", name)
	}
	f.bytes = b
	return nil
}

func readHeaders(raw json.RawMessage) ([]kgo.RecordHeader, error) {
	const form = `write "headers":[{"name":"h","value":"1"}]`
	var list []json.RawMessage
	if err := json.Unmarshal(raw, &list); err != nil {
		return nil, badLine(form, "headers are %s, no list", jsonKind(raw))
	}
	var out []kgo.RecordHeader
	for i, raw := range list {
		what := fmt.Sprintf("header %d", i+1)
		var name, value textField
		if err := eachField(raw, what, func(field string, raw json.RawMessage) error {
			switch field {
			case "name", "nameBase64":
				return name.read(field, raw)
			case "value", "valueBase64":
				return value.read(field, raw)
			}
			return badLine(form, "there is no field %q", field)
		}); err != nil {
			if bad, ok := errors.AsType[*badRecord](err); ok && !strings.HasPrefix(bad.what, what) {
				return nil, badLine(bad.mend, "%s: %s", what, bad.what)
			}
			return nil, err
		}
		if !name.nonNull {
			return nil, badLine(form, "%s has no name", what)
		}
		if !value.given {
			return nil, badLine(`write "value":null for a header without a value`, "%s has no value", what)
		}
		out = append(out, kgo.RecordHeader{Key: string(name.bytes), Value: value.bytes})
	}
	return out, nil
}

// A timestamp is in milliseconds; franz-go counts in nanoseconds, whose 64 bits these years have in whole.
const firstYear, lastYear = 1678, 2261

// readTimestamp reads RFC 3339, or milliseconds since 1970. Null: now.
func readTimestamp(raw json.RawMessage) (time.Time, error) {
	const mend = `write "timestamp":"2026-03-01T12:00:00.007Z", or milliseconds since 1970`
	if string(raw) == "null" {
		return time.Time{}, nil
	}
	var at time.Time
	var s string
	if json.Unmarshal(raw, &s) == nil {
		var err error
		if at, err = time.Parse(time.RFC3339Nano, s); err != nil {
			return at, badLine(mend, "timestamp %q is no time", s)
		}
	} else {
		ms, err := readNumber("timestamp", raw, 64)
		if err != nil {
			return at, badLine(mend, "timestamp %s is no time", raw)
		}
		at = time.UnixMilli(ms)
	}
	if y := at.UTC().Year(); y < firstYear || y > lastYear {
		return at, badLine(fmt.Sprintf("a record can be from the years %d to %d", firstYear, lastYear), "timestamp %s is out of range", raw)
	}
	return at, nil
}

// readNumber reads a whole number of so many bits; all but 64 are without a sign.
func readNumber(name string, raw json.RawMessage, bits int) (int64, error) {
	n, err := strconv.ParseInt(string(raw), 10, 64)
	if err != nil || bits < 64 && (n < 0 || n>>bits != 0) {
		return 0, badLine(recordMend, "%s is %.40s, not a number that it can be", name, raw)
	}
	return n, nil
}

// jsonKind names what stands where something else belongs.
func jsonKind(raw []byte) string {
	switch raw = bytes.TrimLeft(raw, " \t\r\n"); {
	case len(raw) == 0:
		return "nothing"
	case raw[0] == '{':
		return "an object"
	case raw[0] == '[':
		return "a list"
	case raw[0] == '"':
		return "a text"
	case raw[0] == 'n':
		return "null"
	case raw[0] == 't' || raw[0] == 'f':
		return "a truth value"
	}
	return "a number"
}

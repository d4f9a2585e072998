// The walk over a request's body before kmsg decodes it: every length, count and tag section is held against the bytes
// that are really there, in one pass that allocates nothing.
//
// kmsg trusts its input where a broker cannot: its loop over a tag section runs for as long as the count says, though
// the body has ended (four billion rounds for five bytes, before anybody has proved who they are), and it takes one
// element's memory for each byte that is left. What passes here, kmsg decodes without an error and in proportion to the body.

package broker

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/balsamq/balsa/protocol"
)

const (
	// maxRequestElements bounds what all arrays of one request hold together: the partitions that fill a megabyte of
	// OffsetFetch. Produce has a bound of its own, as its body is large for other reasons.
	maxRequestElements = 1 << 18
	// maxUnknownTags bounds the tagged fields of one request that kmsg keeps in maps, hundreds of bytes for a tag of two.
	// Clients send none: a tag that we do not know is one of a Kafka to come.
	maxUnknownTags = 1000
)

var (
	errMalformed = errors.New("the body is cut short or malformed")
	errTooMany   = errors.New("the body holds too much")
)

type kind uint8

const (
	isFixed    kind = iota // size bytes
	isText                 // a string, never null
	isNullText             // a string or null
	isBlob                 // bytes or null
	isList                 // an array of elem[0], or null
	isRecord               // elem one after the other, then a tag section in flexible versions
	isOption               // a record in elem[0], or null: a byte says which
	isTagged               // within a record: what the tag in size holds, of which kmsg decodes the content
)

// field is one field of a message in the versions from min to max, in the order of the wire.
type field struct {
	kind     kind
	min, max int16
	size     int
	elem     []field
}

const lastVersion = 1<<15 - 1

func bytesOf(n int) field        { return field{kind: isFixed, max: lastVersion, size: n} }
func of(k kind) field            { return field{kind: k, max: lastVersion} }
func listOf(f field) field       { return field{kind: isList, max: lastVersion, elem: []field{f}} }
func structure(f ...field) field { return field{kind: isRecord, max: lastVersion, elem: f} }
func array(f ...field) field     { return listOf(structure(f...)) }
func orNull(f ...field) field {
	return field{kind: isOption, max: lastVersion, elem: []field{structure(f...)}}
}
func tag(n int, f field) field {
	return field{kind: isTagged, max: lastVersion, size: n, elem: []field{f}}
}

func (f field) since(v int16) field { f.min = v; return f }
func (f field) until(v int16) field { f.max = v; return f }

var (
	int8s, int16s, int32s, int64s = bytesOf(1), bytesOf(2), bytesOf(4), bytesOf(8)
	boolean, uuid                 = bytesOf(1), bytesOf(16)
	str, nullStr, data            = of(isText), of(isNullText), of(isBlob)
)

// bodies are the requests in apis, by key, as kmsg reads them; TestPrescanKnowsEveryRequest holds the two together.
var bodies = [lastAPIKey]*field{
	0: body(nullStr.since(3), int16s, int32s,
		array(str.until(12), uuid.since(13), array(int32s, data))),
	1: body(int32s.until(14), int32s, int32s, int32s.since(3), int8s.since(4), int32s.since(7), int32s.since(7),
		array(str.until(12), uuid.since(13), array(
			int32s, int32s.since(9), int64s, int32s.since(12), int64s.since(5), int32s,
			tag(0, uuid), tag(1, int64s))),
		array(str.until(12), uuid.since(13), listOf(int32s)).since(7),
		str.since(11), tag(0, nullStr), tag(1, structure(int32s, int64s))),
	2: body(int32s, int8s.since(2),
		array(str, array(int32s, int32s.since(4), int64s, int32s.until(0))), int32s.since(10)),
	3: body(array(uuid.since(10), str.until(9), nullStr.since(10)),
		boolean.since(4), boolean.since(8).until(10), boolean.since(8)),
	8: body(str, int32s.since(1), str.since(1), nullStr.since(7), int64s.since(2).until(4),
		array(str.until(9), uuid.since(10), array(int32s, int64s, int64s.since(1).until(1), int32s.since(6), nullStr))),
	9: body(str.until(7), array(str, listOf(int32s)).until(7),
		array(str, nullStr.since(9), int32s.since(9), array(str.until(9), uuid.since(10), listOf(int32s))).since(8),
		boolean.since(7)),
	10: body(str.until(3), int8s.since(1), listOf(str).since(4)),
	11: body(str, int32s, int32s.since(1), str, nullStr.since(5), str, array(str, data), nullStr.since(8)),
	12: body(str, int32s, str, nullStr.since(3)),
	13: body(str, str.until(2), array(str, nullStr, nullStr.since(5)).since(3)),
	14: body(str, int32s, str, nullStr.since(3), nullStr.since(5), nullStr.since(5), array(str, data)),
	15: body(listOf(str), boolean.since(3)),
	16: body(listOf(str).since(4), listOf(str).since(5)),
	17: body(str),
	18: body(str.since(3), str.since(3), nullStr.since(5), int32s.since(5)),
	19: body(array(str, int32s, int16s, array(int32s, listOf(int32s)), array(str, nullStr)), int32s, boolean.since(1)),
	20: body(listOf(str).until(5), array(nullStr, uuid).since(6), int32s),
	21: body(array(str, array(int32s, int64s)), int32s),
	22: body(nullStr, int32s, int64s.since(3), int16s.since(3)),
	23: body(int32s.since(3), array(str, array(int32s, int32s.since(2), int32s))),
	24: body(str.until(3), int64s.until(3), int16s.until(3), array(str, listOf(int32s)).until(3),
		array(str, int64s, int16s, boolean, array(str, listOf(int32s))).since(4)),
	25: body(str, int64s, int16s, str),
	26: body(str, int64s, int16s, boolean),
	28: body(str, str, int64s, int16s, int32s.since(3), str.since(3), nullStr.since(3),
		array(str, array(int32s, int64s, int32s.since(2), nullStr))),
	29: body(int8s, nullStr, int8s.since(1), nullStr, nullStr, int8s, int8s),
	30: body(array(int8s, str, int8s.since(1), str, str, int8s, int8s)),
	31: body(array(int8s, nullStr, int8s.since(1), nullStr, nullStr, int8s, int8s)),
	32: body(array(int8s, str, listOf(str)), boolean.since(1), boolean.since(3)),
	33: body(array(int8s, str, array(str, nullStr)), boolean),
	34: body(array(str, array(str, listOf(int32s)))),
	35: body(array(str, listOf(int32s))),
	36: body(data),
	37: body(array(str, int32s, array(listOf(int32s))), int32s, boolean),
	42: body(listOf(str)),
	43: body(int8s.since(1), array(str, listOf(int32s)), int32s),
	44: body(array(int8s, str, array(str, int8s, nullStr)), boolean),
	45: body(int32s, boolean.since(1), array(str, array(int32s, listOf(int32s)))),
	46: body(int32s, array(str, listOf(int32s))),
	47: body(str, array(str, array(int32s))),
	50: body(array(str)),
	51: body(array(str, int8s), array(str, int8s, int32s, data, data)),
	48: body(array(str, int8s, nullStr), boolean),
	49: body(array(array(str, nullStr), array(str, bytesOf(8), boolean)), boolean),
	55: body(array(str, array(int32s))),
	57: body(int32s, array(str, int16s, boolean.until(0), int8s.since(1)), boolean.since(1)),
	60: body(boolean, int8s.since(1), boolean.since(2)),
	61: body(array(str, listOf(int32s))),
	64: body(int32s),
	65: body(listOf(str)),
	66: body(listOf(str), listOf(int64s), int64s.since(1), nullStr.since(2)),
	68: body(str, str, int32s, nullStr, nullStr, int32s, listOf(str), nullStr.since(1), nullStr, array(uuid, listOf(int32s))),
	69: body(listOf(str), boolean),
	74: body(listOf(int8s).since(1)),
	75: body(array(str), int32s, orNull(str, int32s)),
}

func body(f ...field) *field {
	s := structure(f...)
	return &s
}

// prescan walks a body and returns what follows it: kmsg, like Kafka, does not look there.
func prescan(a *api, version int16, flexible bool, body []byte) (rest []byte, err error) {
	w := walk{b: body, version: version, flexible: flexible, elements: a.maxElements, unknown: maxUnknownTags}
	w.field(bodies[a.key])
	switch { // a walk that was given up ends in the wrong place, so bad comes last
	case w.elements < 0:
		return nil, fmt.Errorf("%w: more than %d array elements", errTooMany, a.maxElements)
	case w.unknown < 0:
		return nil, fmt.Errorf("%w: more than %d unknown tagged fields", errTooMany, maxUnknownTags)
	case w.bad:
		return nil, errMalformed
	}
	return w.b, nil
}

// walk steps over Kafka's types.
type walk struct {
	b        []byte
	version  int16
	flexible bool
	bad      bool
	elements int // how many more array elements there may be
	unknown  int // and unknown tags
}

func (w *walk) over() bool { return w.bad || w.elements < 0 || w.unknown < 0 }

func (w *walk) skip(n int) {
	if n < 0 || n > len(w.b) {
		w.bad, w.b = true, nil
		return
	}
	w.b = w.b[n:]
}

func (w *walk) field(f *field) {
	switch f.kind {
	case isFixed:
		w.skip(f.size)
	case isText:
		w.skip(w.length(2))
	case isNullText:
		w.skip(max(w.length(2), 0))
	case isBlob:
		w.skip(max(w.length(4), 0))
	case isList:
		w.list(&f.elem[0])
	case isOption:
		if len(w.b) == 0 {
			w.skip(-1)
			return
		}
		there := int8(w.b[0]) != -1
		w.skip(1)
		if there {
			w.field(&f.elem[0])
		}
	case isRecord:
		for i := range f.elem {
			if e := &f.elem[i]; e.kind != isTagged && w.has(e) {
				w.field(e)
			}
		}
		if w.flexible {
			w.tags(f.elem)
		}
	}
}

func (w *walk) has(f *field) bool { return f.min <= w.version && w.version <= f.max }

// list is an array: a count that the bytes left can hold, and its elements.
func (w *walk) list(elem *field) {
	n := w.length(4)
	if n > len(w.b)/w.least(elem) {
		w.skip(-1)
		return
	}
	n = max(n, 0)
	w.elements -= n
	for ; n > 0 && !w.over(); n-- {
		w.field(elem)
	}
}

// least is how many bytes a field takes at least, one or more. It looks into a record but not into that record's
// arrays, so it costs no more than walking one element.
func (w *walk) least(f *field) int {
	n := 0
	switch f.kind {
	case isFixed:
		return f.size
	case isText, isNullText:
		n = 2
	case isBlob, isList:
		n = 4
	case isOption:
		return 1
	case isRecord:
		for i := range f.elem {
			if e := &f.elem[i]; e.kind != isTagged && w.has(e) {
				n += w.least(e)
			}
		}
		if w.flexible {
			n++
		}
		return n
	}
	if w.flexible {
		return 1
	}
	return n
}

// length is a length or count: compact, or in width bytes; -1 is null.
func (w *walk) length(width int) int {
	n := 0
	switch {
	case w.flexible:
		return int(w.uvarint()) - 1
	case len(w.b) < width:
		w.skip(-1)
		return 0
	case width == 2:
		n = int(int16(binary.BigEndian.Uint16(w.b)))
	default:
		n = int(int32(binary.BigEndian.Uint32(w.b)))
	}
	w.b = w.b[width:]
	if n < -1 {
		w.skip(-1)
	}
	return n
}

// uvarint is 1 after a fault: as a length that is zero, as a count of tags it finds no bytes.
func (w *walk) uvarint() uint32 {
	v, n := protocol.Uvarint(w.b)
	if n <= 0 {
		w.skip(-1)
		return 1
	}
	w.b = w.b[n:]
	return v
}

// tags is a tag section (KIP-482). A known tag's content is decoded by kmsg with its own reader, so it is walked as well.
func (w *walk) tags(known []field) {
	count := w.uvarint()
	// Each takes two bytes at least, the tag and its size.
	if w.over() || uint64(count)*2 > uint64(len(w.b)) {
		w.skip(-1)
		return
	}
	for ; count > 0 && !w.over(); count-- {
		key := w.uvarint()
		size := w.uvarint()
		if w.bad || uint64(size) > uint64(len(w.b)) {
			w.skip(-1)
			return
		}
		after := w.b[size:]
		if f := knownTag(known, key); f != nil {
			w.b = w.b[:size]
			w.field(f)
		} else {
			w.unknown--
		}
		if !w.bad {
			w.b = after
		}
	}
}

func knownTag(known []field, key uint32) *field {
	for i := range known {
		if f := &known[i]; f.kind == isTagged && uint32(f.size) == key {
			return &f.elem[0]
		}
	}
	return nil
}

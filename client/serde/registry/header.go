// The header that says by which schema a value was written: Confluent's wire format, which all registries' clients use.
//
//	0        1                 5
//	┌────────┬─────────────────┬───────────────────────┬────────
//	│ 0      │ schema id       │ Protobuf only: index  │ value
//	│ 1 byte │ 4, big-endian   │ of the message        │
//	└────────┴─────────────────┴───────────────────────┴────────
//
// The index is the way to the message in its file, from the outermost message in: how many steps, then each of them, as zigzag varints. The
// first message of a file, by far the most common one, is a single 0.

package registry

import (
	"encoding/binary"
	"errors"
)

const (
	// HeaderLen is the length of a header without an index.
	HeaderLen = 5
	// MaxIndex bounds how deep a Protobuf message may be nested in others.
	MaxIndex = 32
)

// ErrHeader says that bytes do not begin as a value with a schema does.
var ErrHeader = errors.New("no schema header")

// AppendHeader appends the header of a schema.
func AppendHeader(dst []byte, id uint32) []byte {
	return binary.BigEndian.AppendUint32(append(dst, 0), id)
}

// Header returns the schema's id and what follows. [ErrHeader]: there is none.
func Header(data []byte) (id uint32, rest []byte, err error) {
	if len(data) < HeaderLen || data[0] != 0 {
		return 0, nil, ErrHeader
	}
	return binary.BigEndian.Uint32(data[1:]), data[HeaderLen:], nil
}

// AppendIndex appends the index of a Protobuf message, which is not empty.
func AppendIndex(dst []byte, index []int) []byte {
	if len(index) == 1 && index[0] == 0 {
		return append(dst, 0)
	}
	dst = binary.AppendVarint(dst, int64(len(index)))
	for _, i := range index {
		dst = binary.AppendVarint(dst, int64(i))
	}
	return dst
}

// Index returns the index of a Protobuf message and what follows. [ErrHeader]: there is none, or one that cannot be.
func Index(data []byte) (index []int, rest []byte, err error) {
	steps, n := binary.Varint(data)
	if n <= 0 || steps < 0 || steps > MaxIndex {
		return nil, nil, ErrHeader
	}
	if data = data[n:]; steps == 0 {
		return []int{0}, data, nil
	}
	index = make([]int, steps)
	for i := range index {
		step, n := binary.Varint(data)
		if n <= 0 || step < 0 || step > 1<<31-1 {
			return nil, nil, ErrHeader
		}
		index[i], data = int(step), data[n:]
	}
	return index, data, nil
}

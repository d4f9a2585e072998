// What a cleaning knows of the dirty part: the last offset of each key, in bounded memory.

package segment

import (
	"crypto/sha256"
	"encoding/binary"
)

const (
	// slotSize is what a key takes, whatever its length: half of its SHA-256 and an offset. Two keys that share 128 bits of it would be taken
	// for one, and records lost; that they do is less likely than any damage that this code is there to survive.
	slotSize = 24
	// mapLoad is how many of eight slots are filled.
	mapLoad = 6
)

type slot struct {
	a, b uint64
	next Offset // after the key's last offset; 0: empty
}

// offsetMap is a hash table with linear probing.
type offsetMap struct {
	slots []slot
	room  int
}

// newOffsetMap makes one for so many keys, or for as many as fit into maxBytes.
func newOffsetMap(keys int64, maxBytes int64) *offsetMap {
	n := max(min(keys*8/mapLoad+1, maxBytes/slotSize), 8)
	return &offsetMap{slots: make([]slot, n), room: int(n) * mapLoad / 8}
}

func (m *offsetMap) find(key []byte) *slot {
	sum := sha256.Sum256(key)
	a, b := binary.LittleEndian.Uint64(sum[:]), binary.LittleEndian.Uint64(sum[8:])
	for i := a % uint64(len(m.slots)); ; i++ {
		if i == uint64(len(m.slots)) {
			i = 0
		}
		s := &m.slots[i]
		if s.next == 0 || s.a == a && s.b == b {
			if s.next == 0 {
				s.a, s.b = a, b // of use only once next is set
			}
			return s
		}
	}
}

// put notes that the key is at offset o, which is above all before; false: there is no room.
func (m *offsetMap) put(key []byte, o Offset) bool {
	s := m.find(key)
	if s.next == 0 {
		if m.room == 0 {
			return false
		}
		m.room--
	}
	s.next = o + 1
	return true
}

// last is the key's last offset; false: it is not in the dirty part.
func (m *offsetMap) last(key []byte) (Offset, bool) {
	s := m.find(key)
	return s.next - 1, s.next != 0
}

// What a message becomes on its way, without a connection: the simulator carries messages by means of its own, and must
// not thereby carry what the wire cannot.

package transport

import (
	"fmt"

	"github.com/balsamq/balsa/raft"
	"github.com/balsamq/balsa/raft/multi"
)

// Carry encodes m and decodes it again: the result, which shares nothing with m, is what arrives at the other end. The data of a
// snapshot travels in chunks of its own.
func Carry(m *raft.Message) (raft.Message, error) {
	b := appendMessage(nil, m)
	for i := range m.Entries {
		b = append(b, m.Entries[i].Frame...)
	}
	var c raft.Message
	d := decoder{b: b}
	d.message(&c)
	if err := d.end(); err != nil {
		return raft.Message{}, fmt.Errorf("%v from %d to %d: %w", m.Type, m.From, m.To, err)
	}
	return c, nil
}

// CarryPair is [Carry] for the heartbeat between two brokers.
func CarryPair(m *multi.PairMessage) (*multi.PairMessage, error) {
	c, err := decodePair(appendPair(nil, m))
	if err != nil {
		return nil, fmt.Errorf("pair message: %w", err)
	}
	return c, nil
}

// CarryChunk is [Carry] for a piece of a snapshot, or the request for one.
func CarryChunk(m *multi.ChunkMessage) (*multi.ChunkMessage, error) {
	c, err := decodeChunk(append(appendChunkHead(nil, m), m.Data...))
	if err != nil {
		return nil, fmt.Errorf("chunk message: %w", err)
	}
	return c, nil
}

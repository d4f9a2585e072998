// The replicated state of the simulated groups: a hash chain over every committed entry. It satisfies multi.Stager and
// multi.StateMachine in the way partitions do, Kafka offsets included.

package sim

import (
	"encoding/binary"
	"errors"
	"hash/crc32"

	"github.com/balsamq/balsa/raft"
	"github.com/balsamq/balsa/raft/multi"
	"github.com/balsamq/balsa/segment"
)

type replica struct {
	node  *node
	g     int
	log   *segment.Log
	group *multi.Group
	// failed: it has stopped by itself, and is opened again.
	failed bool

	// Leader: the offset that the next staged entry gets, and the place for which that holds.
	next   segment.Offset
	nextAt raft.Index

	state chain
}

// chain is the state machine: equal chains at an index mean equal histories.
type chain struct {
	applied raft.Index
	hash    uint64
	records segment.Offset // Kafka offset after the last applied entry
	start   segment.Offset // of the records: moved by EntryPrefix, as a partition's is
}

func (c *chain) fold(e *raft.Entry) {
	var b [25]byte
	binary.LittleEndian.PutUint64(b[0:], c.hash)
	binary.LittleEndian.PutUint64(b[8:], uint64(e.Term))
	binary.LittleEndian.PutUint64(b[16:], uint64(e.Index))
	b[24] = byte(e.Type)
	h := crc32.Update(crc32.Checksum(b[:], castagnoli), castagnoli, e.Payload)
	c.hash = c.hash*0x9E3779B97F4A7C15 + uint64(h) + 1
	c.applied = e.Index
	switch e.Type {
	case raft.EntryRecords:
		c.records++
	case raft.EntryPrefix:
		if to := segment.Offset(binary.LittleEndian.Uint64(e.Payload)); to > c.start {
			c.start = min(to, c.records)
		}
	}
}

const chainSize = 32

func (c *chain) encode() []byte {
	b := binary.LittleEndian.AppendUint64(nil, uint64(c.applied))
	b = binary.LittleEndian.AppendUint64(b, c.hash)
	b = binary.LittleEndian.AppendUint64(b, uint64(c.records))
	return binary.LittleEndian.AppendUint64(b, uint64(c.start))
}

func decodeChain(b []byte) (chain, error) {
	if len(b) != chainSize {
		return chain{}, errors.New("sim: snapshot has the wrong size")
	}
	return chain{raft.Index(binary.LittleEndian.Uint64(b)), binary.LittleEndian.Uint64(b[8:]), segment.Offset(binary.LittleEndian.Uint64(b[16:])),
		segment.Offset(binary.LittleEndian.Uint64(b[24:]))}, nil
}

// trimPayload is a client's order to move the start.
func trimPayload(to segment.Offset) []byte { return binary.LittleEndian.AppendUint64(nil, uint64(to)) }

// cut lets the log of a data group drop what is below the start, as a partition does: nothing else of it is ever cut.
func (r *replica) cut() {
	if r.log.Forget(r.state.start); r.state.start == r.state.records {
		r.group.Snapshot()
	} else {
		r.group.Prune()
	}
}

// opBatch is a client's operation dressed as a record batch (the header alone matters here), padded to a size.
func opBatch(op uint64, size int) []byte {
	const header = 61
	b := make([]byte, header+8+size)
	binary.BigEndian.PutUint32(b[8:], uint32(len(b)-12))
	b[16] = 2 // magic
	binary.BigEndian.PutUint64(b[27:], op)
	binary.BigEndian.PutUint64(b[35:], op)
	binary.BigEndian.PutUint64(b[43:], 1<<64-1)
	binary.BigEndian.PutUint16(b[51:], 1<<16-1)
	binary.BigEndian.PutUint32(b[53:], 1<<32-1)
	binary.BigEndian.PutUint32(b[57:], 1)
	binary.BigEndian.PutUint64(b[header:], op)
	binary.BigEndian.PutUint32(b[17:], crc32.Checksum(b[21:], castagnoli))
	return b
}

func opOf(payload []byte) uint64 {
	if len(payload) < 69 {
		return 0
	}
	return binary.BigEndian.Uint64(payload[61:])
}

// nextOffset is the offset for an entry about to take index i.
func (r *replica) nextOffset(i raft.Index) segment.Offset {
	if r.nextAt != i {
		r.next = r.log.NextOffset()
		if want := r.log.LastIndex() + 1; want != i {
			r.node.w.fail(&StagingError{r.node.id, r.g, i, want})
		}
	}
	return r.next
}

func (r *replica) stage(e *raft.Entry, records uint32) {
	base := r.nextOffset(e.Index)
	dst := r.node.w.memory(segment.FrameHeaderSize+len(e.Payload), e.Index)
	e.Frame = segment.AppendFrame(dst[:0], groupID(r.g), e, base, records)
	e.Payload = e.Frame[len(e.Frame)-len(e.Payload):]
	r.next, r.nextAt = base+segment.Offset(records), e.Index+1
}

// Stage implements multi.Stager.
func (r *replica) Stage(p *multi.Proposal, e *raft.Entry) (raft.Index, error) {
	r.node.mayPause()
	records := uint32(0)
	if e.Type == raft.EntryRecords {
		records = 1
	}
	r.stage(e, records)
	return 0, nil
}

// StageInternal implements multi.Stager.
func (r *replica) StageInternal(e *raft.Entry) { r.stage(e, 0) }

// Apply implements multi.StateMachine.
func (r *replica) Apply(entries []raft.Entry) ([]any, error) {
	r.node.mayPause()
	start := r.state.start
	for i := range entries {
		e := &entries[i]
		if e.Index != r.state.applied+1 {
			r.node.w.fail(&ApplyOrderError{r.node.id, r.g, r.state.applied, e.Index})
		}
		r.state.fold(e)
		r.node.w.check.applied(r, e)
	}
	if r.state.start > start {
		r.node.w.rep.reach("log start moved")
		r.cut()
	}
	return nil, nil
}

// Snapshot implements multi.StateMachine.
func (r *replica) Snapshot() ([]byte, error) {
	r.node.w.rep.reach("snapshot taken")
	return r.state.encode(), nil
}

// Restore implements multi.StateMachine.
func (r *replica) Restore(meta raft.SnapshotMeta, state []byte) error {
	c, err := decodeChain(state)
	if err != nil {
		return err
	}
	r.node.w.rep.reach("snapshot restored")
	if c.applied != meta.Index {
		r.node.w.fail(&SnapshotError{r.node.id, r.g, meta.Index, c.applied})
	}
	if r.group != nil { // else it is its own, from before
		r.noteInstalled(c)
	}
	r.state = c
	r.log.Forget(c.start)
	r.node.w.check.restored(r)
	return nil
}

// LeadershipChanged implements multi.StateMachine.
func (r *replica) LeadershipChanged(s multi.Status) {
	r.nextAt = 0
	if s.Role == raft.Leader {
		r.node.w.rep.Elections++
		r.node.w.tracef("n%d leads group %d in term %d, ready %v", r.node.id, r.g, s.Term, s.Ready)
		r.node.w.elected(r.node, r.g, s.Ready)
	}
}

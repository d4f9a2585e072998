// How Metadata stands in its group: what makes it the group's Stager and StateMachine, beside Apply, Snapshot and Restore.

package coordinator

import (
	"fmt"

	"github.com/balsamq/balsa/raft"
	"github.com/balsamq/balsa/raft/multi"
	"github.com/balsamq/balsa/segment"
)

var (
	_ multi.Stager       = (*Metadata)(nil)
	_ multi.StateMachine = (*Metadata)(nil)
)

// Stage implements multi.Stager. Bytes that could not be applied are refused here, before they are in every broker's log.
func (m *Metadata) Stage(p *multi.Proposal, e *raft.Entry) (raft.Index, error) {
	if p.Type != raft.EntryCommand {
		return 0, fmt.Errorf("%w: a %v entry in the metadata log", ErrMalformed, p.Type)
	}
	if _, err := DecodeCommand(e.Payload); err != nil {
		return 0, err
	}
	m.StageInternal(e)
	return 0, nil
}

// StageInternal implements multi.Stager. Nothing in the metadata log takes Kafka offsets.
func (m *Metadata) StageInternal(e *raft.Entry) {
	segment.AppendFrame(make([]byte, 0, segment.FrameHeaderSize+len(e.Payload)), raft.MetadataGroup, e, 0, 0)
}

// LeadershipChanged implements multi.StateMachine.
func (m *Metadata) LeadershipChanged(s multi.Status) {
	m.mu.Lock()
	fns := m.leadership
	m.mu.Unlock()
	for _, fn := range fns {
		fn(s)
	}
}

// OnLeadership registers fn to be called, by the applier, when the group's leader, term or readiness changed: it must not
// block. Call it before the group starts.
func (m *Metadata) OnLeadership(fn func(multi.Status)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.leadership = append(m.leadership, fn)
}

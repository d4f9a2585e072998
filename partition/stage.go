// The leader's side of an append: judging, stamping and framing a batch when it gets its place in the log.
//
// Everything here runs on the worker that holds the group, and so needs no lock.

package partition

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/balsamq/balsa/protocol"
	"github.com/balsamq/balsa/raft"
	"github.com/balsamq/balsa/raft/multi"
	"github.com/balsamq/balsa/segment"
)

// errRepeat is how Stage tells the request's Done that the batch repeats one that is already committed.
var errRepeat = errors.New("partition: repeats a committed batch")

// staging is where the leader's log ends, counted on from what the log said when this node began to lead. It is valid
// for entries of its own term only; the first entry of another term starts it anew.
type staging struct {
	term  raft.Term
	index raft.Index // last staged
	next  int64      // Kafka offset after it
	over  overlay
	keys  keyOverlay
}

// begin makes the staging fit the place of e: nothing to do, except for the first entry of a term.
func (m *machine) begin(e *raft.Entry) {
	s := &m.staging
	if e.Term != s.term {
		// The core hands out what it took as a follower before it leads: the log ends just below e.
		*s = staging{term: e.Term, index: m.log.LastIndex(), next: int64(m.log.NextOffset()), over: overlay{}}
	}
	if e.Index != s.index+1 {
		// A wrong base offset would be in the log of every replica, for ever.
		panic(fmt.Sprintf("partition: group %d stages (%d,%d), and the entry before was %d", m.r.cfg.Group, e.Term, e.Index, s.index))
	}
}

// Stage implements [multi.Stager].
func (m *machine) Stage(p *multi.Proposal, e *raft.Entry) (raft.Index, error) {
	if e.Type != raft.EntryRecords {
		m.StageInternal(e)
		return 0, nil
	}
	m.begin(e)
	s, req, b := &m.staging, p.Tag.(*AppendRequest), protocol.Batch(e.Payload)
	if req.Epoch != 0 && req.Epoch != int32(e.Term) {
		return 0, &EpochError{Asked: req.Epoch, Current: int32(e.Term)}
	}
	if b.HasProducer() {
		if waitFor, err := m.judge(req, b, e.Term); waitFor > 0 || err != nil {
			return waitFor, err
		}
	}
	if len(req.keys) > 0 {
		waitFor, err := m.judgeKeys(req, e.Term)
		switch {
		case req.before != nil:
			return m.refuseAgain(req, waitFor, err, e.Term)
		case req.refusal != nil && b.HasProducer() && b.BaseSequence() >= 0:
			m.stageRefusal(req, b, e) // behind all that it speaks of
			return 0, nil
		case waitFor > 0 || err != nil:
			return waitFor, err
		}
	}
	b.SetBaseOffset(s.next)
	b.SetLeaderEpoch(int32(e.Term))
	// The topic decides the type of timestamps, whatever the client set.
	if req.timestamps == LogAppendTime {
		now := m.r.now().UnixMilli()
		b.SetLogAppendTime(now)
		req.result.LogAppendTime = now
	} else {
		b.SetCreateTime(b.MaxTimestamp())
	}
	req.result.BaseOffset, req.result.LeaderEpoch = s.next, int32(e.Term)
	m.frame(e, uint32(b.LastOffsetDelta())+1)
	if b.HasProducer() {
		s.over.staged(m.fold, b, e.Index)
	}
	if len(req.keys) > 0 {
		s.keys.staged(e.Index, s.next, req.keys)
	}
	s.next, s.index = b.NextOffset(), e.Index
	return 0, nil
}

// judge decides whether a producer's batch may enter the log. One that is in it already is waited for, or errRepeat.
func (m *machine) judge(req *AppendRequest, b protocol.Batch, term raft.Term) (waitFor raft.Index, err error) {
	w := m.staging.over.windowOf(m.fold, b.ProducerID())
	again := func(i raft.Index) (raft.Index, error) {
		req.result.Repeated = true
		if i <= m.applied {
			return 0, errRepeat
		}
		return i, nil
	}
	if req.marker != nil {
		repeat, err := w.judgeMarker(req.marker)
		if repeat > 0 {
			return again(repeat)
		}
		return 0, err
	}
	if b.Transactional() {
		if err := m.judgeTxn(req, w, b, term); err != nil {
			return 0, err
		}
	} else if w.known() && w.open {
		return 0, fmt.Errorf("%w: producer %d has a transaction open and wrote outside of it", ErrInvalidTxnState, b.ProducerID())
	}
	if b.BaseSequence() < 0 {
		return 0, w.fence(b.ProducerEpoch())
	}
	if req.before = w.refusalOf(b, req.crc); req.before != nil {
		return 0, nil
	}
	repeat, err := w.decide(b.ProducerEpoch(), b.BaseSequence(), b.LastSequence())
	if repeat == nil {
		return 0, err
	}
	req.result.BaseOffset, req.result.LogAppendTime = repeat.base, repeat.time
	return again(repeat.index)
}

// StageInternal implements [multi.Stager]: no-ops, memberships and commands take no offset.
func (m *machine) StageInternal(e *raft.Entry) {
	m.begin(e)
	m.frame(e, 0)
	m.staging.index = e.Index
}

// frame makes e's frame: the one copy of the payload on its way from the socket to the log.
func (m *machine) frame(e *raft.Entry, records uint32) {
	var header [segment.FrameHeaderSize]byte
	frame := bytes.Join([][]byte{header[:], e.Payload}, nil) // unlike make, it does not clear first what is written at once
	e.Payload = frame[segment.FrameHeaderSize:]
	segment.AppendFrame(frame[:0], m.r.cfg.Group, e, segment.Offset(m.staging.next), records)
}

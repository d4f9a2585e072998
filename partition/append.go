// Produce: what is checked before a batch is proposed, and how the answer finds its way back.

package partition

import (
	"errors"
	"fmt"
	"time"

	"github.com/balsamq/balsa/protocol"
	"github.com/balsamq/balsa/raft"
	"github.com/balsamq/balsa/raft/multi"
)

// AppendRequest is one batch to append. It belongs to the replica until Done has been called, and so do Batch's bytes: the log has a copy.
type AppendRequest struct {
	// Batch is one record batch of magic 2, as the client sent it. The replica may write to it, and put another in its place
	// (compression.type).
	Batch []byte
	// Acks is Kafka's: 1 and 0 answer after the leader's own sync (and may be lost with the leader), -1 (all) after the
	// quorum's commit.
	Acks int16
	// Epoch, if not 0, is the only leader epoch in which the batch may enter the log; in any other it is refused with
	// ErrFencedLeaderEpoch. It is for whoever keeps state that holds for one epoch (a group coordinator): deposed and
	// elected again, it must not append what it decided before. Such a batch is answered in the order of the log, and so does
	// not wait for min.insync.replicas: a quorum has it.
	Epoch int32
	// TransactionalID is whose transaction a transactional batch belongs to. If the log has none open for it, the transaction's
	// coordinator is asked (Config.Verify), and the batch enters only if the log has taken no marker for the producer since the
	// question: a batch that was late on its way cannot open what nobody would end (KIP-890).
	TransactionalID string
	// AddToTxn: by the question the partition joins the transaction (transaction.version 2); without, it must have joined before.
	AddToTxn bool
	// Done is called exactly once, from a worker or from within Append; it must not block. A request's time-out is the
	// broker's affair: the batch stays proposed.
	Done func(AppendResult)

	r          *Replica
	m          *machine
	timestamps TimestampType
	minInsync  int // waited for after the commit; 0: the quorum is enough
	index      raft.Index
	marker     *MarkerRequest // Batch is this marker
	keys       []recordKey    // of its records, where the topic takes conditional appends
	crc        uint32         // of the batch as it came
	refusal    *RecordsError  // what a failed condition is answered with: see refuse
	blamed     int64          // the current offset of the key of the first record in it
	before     *refusal       // of the batch, when it came before
	arrival    uint64         // of a transactional batch: see gate
	refused    ticket         // where it was refused as unverified
	verified   ticket         // by what it may enter
	tries      int            // that it has entered the gate
	result     AppendResult
	proposal   multi.Proposal
}

// AppendResult is how an append ended.
type AppendResult struct {
	BaseOffset    int64 // of the first record; -1 with an error
	LogAppendTime int64 // milliseconds; -1 under CreateTime
	LogStart      int64
	LeaderEpoch   int32
	// Repeated says that the batch was a repeat, and BaseOffset is the original's.
	Repeated bool
	Err      error
}

// Append checks req and proposes it. It never blocks; every outcome, also an immediate refusal, goes through Done.
func (r *Replica) Append(req *AppendRequest) {
	req.r, req.keys, req.refusal, req.before = r, nil, nil, nil
	req.result = AppendResult{BaseOffset: -1, LogAppendTime: -1, LogStart: -1, LeaderEpoch: -1}
	v, err := r.serving()
	if err != nil && !soonDecided(v, err) {
		req.answer(err)
		return
	}
	req.m = v.m
	req.result.LeaderEpoch = v.lead.Epoch
	s := r.settings.Load()
	if req.Acks < -1 || req.Acks > 1 {
		req.answer(fmt.Errorf("%w: %d", ErrInvalidAcks, req.Acks))
		return
	}
	if err := req.check(s); err != nil {
		req.answer(err)
		return
	}
	if b := protocol.Batch(req.Batch); req.marker == nil && s.looksInside(b, req.internal()) {
		req.crc = b.CRC()
		if req.Batch, req.keys, err = lookInside(b, s, r.now().UnixMilli()); err != nil {
			req.answer(err)
			return
		}
		if !r.cfg.Keys.enter(len(req.keys)) {
			req.keys = nil
			req.answer(fmt.Errorf("%w: the keys of too many records are on their way", ErrOverloaded))
			return
		}
	}
	if v.m.log.Full() {
		// Before the proposal: what is left of the last extent is kept for no-ops, memberships and commands.
		req.answer(ErrStorageFull)
		return
	}
	req.timestamps, req.minInsync = s.TimestampType, 0
	// A quorum is the floor: only more than that has to be looked at.
	if req.Acks == -1 && !req.internal() && s.MinInsync > 1 {
		if l := lookAt(v.group); s.MinInsync > l.quorum() {
			if n := len(l.inSync()); n < s.MinInsync && v.lead.Serving() {
				req.answer(fmt.Errorf("%w: %d in sync, %d asked for", ErrNotEnoughReplicas, n, s.MinInsync))
				return
			}
			req.minInsync = s.MinInsync
		}
	}
	if b := protocol.Batch(req.Batch); b.Transactional() && req.marker == nil && r.waitAtGate(req, b) {
		return
	}
	req.propose(v.group)
}

func (req *AppendRequest) propose(g *multi.Group) {
	req.proposal = multi.Proposal{Type: raft.EntryRecords, Payload: req.Batch, Tag: req, AckLocal: req.Acks != -1, Done: req.done}
	g.Propose(&req.proposal)
}

// internal: the broker itself wrote the batch. It is answered in the order of the log.
func (req *AppendRequest) internal() bool { return req.Epoch != 0 || req.marker != nil }

// check is all that can be said of a batch before it has a place.
func (req *AppendRequest) check(s *Settings) error {
	if req.marker != nil {
		return nil // made here
	}
	if err := checkBatch(req.Batch, s, req.internal(), req.r.now); err != nil {
		return err
	}
	if b := protocol.Batch(req.Batch); b.Transactional() && (req.r.cfg.Verify == nil || req.TransactionalID == "") {
		return fmt.Errorf("%w: producer %d has no transactional id", ErrInvalidTxnState, b.ProducerID())
	} else if b.Transactional() && s.Conditional {
		return fmt.Errorf("%w: a topic with conditional appends takes no transactions: until their end nobody could say which keys exist", ErrInvalidRecord)
	}
	return nil
}

// soonDecided: this node is about to serve, or nobody is known to lead. The group knows whether an answer is near, and if so
// holds the batch back for it; a client that is sent away now would only find that there is no leader yet.
func soonDecided(v view, err error) bool {
	if errors.Is(err, ErrNotReady) {
		return true
	}
	e, ok := errors.AsType[*NotLeaderError](err)
	return ok && e.Leader == 0 && v.group != nil
}

// checkBatch costs one pass over the bytes, for the CRC. A coordinator's own batches need no sequence.
func checkBatch(raw []byte, s *Settings, internal bool, now func() time.Time) error {
	if len(raw) > s.MaxMessageBytes {
		return fmt.Errorf("%w: %d bytes, at most %d", ErrTooLarge, len(raw), s.MaxMessageBytes)
	}
	b, err := protocol.ParseBatch(raw)
	if err != nil {
		if errors.Is(err, protocol.ErrTruncated) {
			return fmt.Errorf("%w: %w", ErrCorrupt, err)
		}
		return fmt.Errorf("%w: %w", ErrInvalidRecord, err) // an old magic, a second batch, an impossible length
	}
	if err := b.CheckCRC(); err != nil {
		return fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	if err := b.Check(); err != nil && !internal {
		if errors.Is(err, protocol.ErrCodec) {
			return fmt.Errorf("%w: %w", ErrUnsupportedCompression, err)
		}
		return fmt.Errorf("%w: %w", ErrInvalidRecord, err)
	}
	if b.DeleteHorizon() {
		return fmt.Errorf("%w: a delete horizon is compaction's to set", ErrInvalidRecord)
	}
	if b.Control() {
		return fmt.Errorf("%w: control batches are the broker's to write", ErrInvalidRecord)
	}
	if s.TimestampType == CreateTime {
		return checkTimestamps(b, s, now().UnixMilli())
	}
	return nil
}

// checkTimestamps judges by the header: the base timestamp (the first record's) and the maximum. A record older than the first
// one of its batch is seen by lookInside, if the topic says how old is too old.
func checkTimestamps(b protocol.Batch, s *Settings, now int64) error {
	if first := b.BaseTimestamp(); s.TimestampBefore >= 0 && first >= 0 && first < now-s.TimestampBefore.Milliseconds() {
		return fmt.Errorf("%w: %d is more than %v before now", ErrInvalidTimestamp, first, s.TimestampBefore)
	}
	if last := max(b.BaseTimestamp(), b.MaxTimestamp()); s.TimestampAfter >= 0 && last > now+s.TimestampAfter.Milliseconds() {
		return fmt.Errorf("%w: %d is more than %v after now", ErrInvalidTimestamp, last, s.TimestampAfter)
	}
	return nil
}

// done is the proposal's outcome.
func (req *AppendRequest) done(o multi.Outcome) {
	switch {
	case errors.Is(o.Err, errRepeat):
		o.Err = nil
	case errors.Is(o.Err, errUnverified):
		req.r.sendToGate(req)
		return
	case errors.Is(o.Err, errRefused), o.Err == nil && req.refusal != nil:
		req.refuse()
		return
	}
	if o.Err == nil && req.minInsync > 0 && !req.result.Repeated {
		req.index = o.Index
		if req.m.park(req) {
			return
		}
		if done, err := req.m.settle(req); !done {
			o.Err = ErrNotEnoughReplicasAfterAppend // no room to wait in
		} else {
			o.Err = err
		}
	}
	req.answer(o.Err)
}

// answer ends the request.
func (req *AppendRequest) answer(err error) {
	if err != nil {
		req.result.Err = req.r.typed(err)
		req.result.BaseOffset, req.result.LogAppendTime = -1, -1
	}
	if r := req.r; errors.Is(req.result.Err, ErrStorageFull) && r.cfg.OnFull != nil {
		r.cfg.OnFull(r)
	}
	if req.m != nil {
		req.result.LogStart = req.r.LogStart()
	}
	req.r.cfg.Keys.leave(len(req.keys))
	req.Done(req.result)
}

// typed turns the runtime's errors into this package's.
func (r *Replica) typed(err error) error {
	switch {
	case errors.Is(err, multi.ErrNotLeader), errors.Is(err, multi.ErrLeadershipLost):
		r.mu.Lock()
		e := &NotLeaderError{Leader: r.lead.Leader, Epoch: r.lead.Epoch, MayCommit: errors.Is(err, multi.ErrLeadershipLost)}
		if r.lead.Self {
			e.Leader = 0 // it was us, a moment ago
		}
		r.mu.Unlock()
		return e
	case errors.Is(err, multi.ErrNotReady):
		return ErrNotReady
	case errors.Is(err, multi.ErrOverloaded):
		return fmt.Errorf("%w: %w", ErrOverloaded, err)
	case errors.Is(err, multi.ErrFull):
		return fmt.Errorf("%w: %w", ErrStorageFull, err)
	case errors.Is(err, multi.ErrNoLease):
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	case errors.Is(err, multi.ErrClosed):
		return ErrClosed
	case errors.Is(err, multi.ErrFailed):
		return fmt.Errorf("%w: %w", ErrFailed, err)
	}
	return err
}

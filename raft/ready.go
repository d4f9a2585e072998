// What comes out of the core.

package raft

// Ready is what the core wants done. It is handed out once. Entries must be in the log (durable or not) before the core
// is called again; all the rest may take its time. Everything in it is immutable.
//
// Entries and Snapshot never come together.
type Ready struct {
	Term      Term       // current: the one to append Entries under
	HardState *HardState // changed: persist, then HardStateSynced; messages that depend on it are held inside until then
	Entries   []Entry    // append to the log now, truncating first if they overlap it; when durable, AppendSynced
	Messages  []Message  // send now
	// Committed is to be applied in order, then AppliedTo. Only entries that are durable here are handed out, so that no
	// snapshot of this replica is ever ahead of its own log.
	Committed    []Entry
	Offer        *Offer      // a snapshot that is needed here: fetch it, then SnapshotReceived. Repeated while it is needed
	Snapshot     *Snapshot   // install, then SnapshotInstalled; until then the core neither appends nor votes
	SendSnapshot []NodeID    // followers that need a snapshot: open one, then StepSnapshot (or SnapshotFailed)
	Reads        []ReadState // answers to ReadIndex
	Changed      bool        // role, term, leader or membership changed since the last Ready
	Err          error       // the log could not be read. The core stays consistent, and tries again when asked
}

// Offer is a leader's snapshot that a follower may have for the asking.
type Offer struct {
	From     NodeID
	Epoch    GroupEpoch // in which it was offered; in a later one it is worth nothing
	Snapshot Snapshot   // without data
}

// ReadState answers a ReadIndex: with Err nil, a state machine that has applied Index may answer the read of Ctx.
type ReadState struct {
	Ctx   uint64
	Index Index
	Err   error
}

// Ready returns what is to be done, or false if there is nothing.
func (r *Raft) Ready() (Ready, bool) {
	rd := Ready{Term: r.term}
	some := false
	if hs := r.hardState(); hs != r.handed {
		r.handed = hs
		changed := hs // the address of hs would have every call allocate it
		rd.HardState = &changed
		some = true
	}
	// Before pending is handed out: the log must not be asked for entries that it does not have yet.
	if upTo := min(r.commit, r.stable, r.handedLast()); upTo > r.handing && r.installed == nil {
		es, err := r.log.Entries(r.handing+1, upTo+1, r.cfg.MaxApplyBytes)
		switch {
		case err != nil:
			rd.Err = err // compacted is an error here too: what is not applied must not be compacted
			some = true
		case len(es) > 0:
			rd.Committed = es
			r.handing = es[len(es)-1].Index
			some = true
		}
	}
	if len(r.pending) > 0 {
		rd.Entries = r.pending
		r.pending = nil
		some = true
	} else if r.install { // only then: entries handed out together with it would belong to the log that it replaces
		rd.Snapshot = r.installed
		r.install = false
		some = true
	}
	if r.offer != nil {
		rd.Offer = r.offer
		r.offer = nil
		some = true
	}
	if len(r.out) > 0 {
		rd.Messages = r.out
		r.out = nil
		some = true
	}
	if len(r.sendSnapshot) > 0 {
		rd.SendSnapshot = r.sendSnapshot
		r.sendSnapshot = nil
		some = true
	}
	if len(r.readStates) > 0 {
		rd.Reads = r.readStates
		r.readStates = nil
		some = true
	}
	if r.changed {
		rd.Changed = true
		r.changed = false
		some = true
	}
	if r.logErr != nil {
		if rd.Err == nil {
			rd.Err = r.logErr
		}
		r.logErr = nil
		some = true
	}
	return rd, some
}

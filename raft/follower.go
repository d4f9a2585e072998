// A follower's side of replication (§5.3, §7).

package raft

func (r *Raft) stepFromLeader(m *Message) error {
	switch {
	case r.role == Leader || r.ledTerm == m.Term:
		return diverged(m, "this node led that term")
	case r.leader != 0 && r.leader != m.From:
		return diverged(m, "node %d leads that term", r.leader)
	case r.leader == m.From && r.leaderInc != 0 && m.FromIncarnation != 0 && r.leaderInc != m.FromIncarnation:
		return diverged(m, "another incarnation leads that term")
	}
	if r.role != Follower || r.leader == 0 {
		r.becomeFollower(r.term, m.From, m.FromIncarnation)
	}
	r.hear(r.now)
	r.leaderSent = max(r.leaderSent, m.SentAt)
	switch m.Type {
	case MsgApp:
		return r.handleAppend(m)
	case MsgHeartbeat:
		// Never beyond what was seen to match: a heartbeat says nothing about this log (etcd bounds it by the leader's
		// Match, which is not enough if this replica has lost something since).
		r.commit = max(r.commit, min(m.Commit, r.matched))
		r.send(Message{Type: MsgHeartbeatResp, To: m.From, ToIncarnation: m.FromIncarnation, Round: m.Round, SentAt: m.SentAt})
	case MsgSnap:
		return r.handleSnapshot(m)
	case MsgTimeoutNow:
		r.campaign(true)
	}
	return nil
}

// HeardFrom reports a sign of life by other means (the heartbeat between two brokers): the leader of the term was alive
// at the time, and has been promised so.
func (r *Raft) HeardFrom(now Time, leader NodeID, term Term, at Time) {
	r.setNow(now)
	if r.role == Follower && term == r.term && leader != 0 && leader == r.leader {
		r.hear(min(at, r.now))
	}
}

// SetResting turns a follower's election timer off, or on again: on, it counts from when the leader was last heard. It
// ends by itself with the leader's term.
func (r *Raft) SetResting(now Time, resting bool) {
	r.setNow(now)
	r.resting = resting && r.role == Follower && r.leader != 0
}

func (r *Raft) handleAppend(m *Message) error {
	r.told(m)
	if r.installed != nil {
		return nil // the log is being replaced; the leader will ask again
	}
	entries, prev, prevTerm := m.Entries, m.Index, m.LogTerm
	end := m.Index + Index(len(m.Entries))
	if prev < r.commit {
		// The part up to commit is here already, and may be compacted. At commit itself it must agree.
		if end < r.commit {
			r.sendAck(m.SentAt)
			return nil
		}
		prevTerm = entries[r.commit-prev-1].Term
		entries = entries[r.commit-prev:]
		prev = r.commit
	}
	if t, ok := r.termAt(prev); !ok || t != prevTerm {
		if !ok && prev <= r.last {
			return nil // unreadable: Ready reports it
		}
		if prev <= r.matched {
			return diverged(m, "entry %d is of term %d here, of term %d there", prev, t, prevTerm)
		}
		hint, hintTerm := r.findConflict(prev, prevTerm, r.commit)
		r.send(Message{Type: MsgAppResp, To: m.From, ToIncarnation: m.FromIncarnation, Reject: true, Index: m.Index,
			RejectHint: hint, LogTerm: hintTerm, SentAt: m.SentAt})
		return nil
	}
	// Only a real conflict cuts: a message that is late or repeated must not shorten what came after it.
	fresh := len(entries)
	for i := range entries {
		t, ok := r.termAt(entries[i].Index)
		if ok && t == entries[i].Term {
			continue
		}
		if !ok && entries[i].Index <= r.last {
			return nil // unreadable: Ready reports it
		}
		if entries[i].Index <= r.matched {
			return diverged(m, "entry %d is of term %d here, of term %d there", entries[i].Index, t, entries[i].Term)
		}
		fresh = i
		break
	}
	if fresh < len(entries) {
		r.appendEntries(entries[fresh:])
	}
	r.matched = max(r.matched, end)
	r.commit = max(r.commit, min(m.Commit, end))
	r.elsewhere = max(r.elsewhere, m.Commit)
	r.liftVoteAfter()
	if fresh == len(entries) {
		r.sendAck(m.SentAt) // nothing to wait for; else AppendSynced answers
	}
	return nil
}

// Behind reports that this follower lacks what is committed: others have it, and nobody waits for this log in particular.
func (r *Raft) Behind() bool { return r.role == Follower && r.last < r.elsewhere }

// sendAck tells the leader how far this log is durable and equal to its own. It is derived at this moment from these two
// facts, never stored with a write: a write may be undone while it is on its way to the disk.
func (r *Raft) sendAck(sentAt Time) {
	i := min(r.stable, r.matched)
	r.acked = max(r.acked, i)
	r.send(Message{Type: MsgAppResp, To: r.leader, ToIncarnation: r.leaderInc, Index: i, SentAt: sentAt})
}

// told takes a leader's word for how far a log went that this replica has lost.
//
// What this replica acknowledged before, and was counted for, is an entry e committed in some term c, not after the term that its
// journal knows; this leader's term is c or later. Later: the leader was elected by voters of whom one had e and is not this
// replica, which votes for nobody now, and had e itself when it voted before; so e is in the leader's log (§5.4.3), below the
// entry of its own term that it has committed. In c itself: the leader counted this replica before it heard of this boot, since
// with that it forgot Match, and drops answers of earlier boots (of members that left and came back, too: Raft.departed); so e is at or below what it had committed by then.
// Either way e is at or below Commit of a message that was sent after the leader had heard of this boot, which Lost proves, and all
// up to there is committed and stays so, whoever leads next.
func (r *Raft) told(m *Message) {
	if r.voteAfter == UntilTold && m.Lost == r.cfg.Boot && m.Commit > 0 {
		r.voteAfter = m.Commit
		r.changed = true
		r.liftVoteAfter()
	}
}

func (r *Raft) liftVoteAfter() {
	if r.voteAfter != 0 && min(r.stable, r.matched) >= r.voteAfter {
		r.voteAfter = 0
	}
}

func (r *Raft) handleSnapshot(m *Message) error {
	meta := &m.Snapshot.Meta
	if r.installed != nil {
		return nil // one at a time
	}
	if meta.Index <= r.commit {
		r.sendAck(m.SentAt)
		return nil
	}
	if t, ok := r.termAt(meta.Index); ok && t == meta.Term {
		// The log has it all (§7: retain the entries that follow).
		r.matched = max(r.matched, meta.Index)
		r.commit = meta.Index
		r.liftVoteAfter()
		r.sendAck(m.SentAt)
		return nil
	}
	if meta.Index <= r.matched {
		return diverged(m, "snapshot of (%d,%d) contradicts what matched", meta.Term, meta.Index)
	}
	// Not installed yet: it is offered, and fetching it takes its time. Nothing here waits for that.
	r.offer = &Offer{From: m.From, Epoch: r.epoch, Snapshot: *m.Snapshot}
	return nil
}

// SnapshotReceived reports that a snapshot which was offered is here, whole and verified. If it is still needed, Ready hands it
// out for installation. What it holds is committed, whoever leads meanwhile: each leader since has it too, unless a [Reset]
// came in between.
func (r *Raft) SnapshotReceived(now Time, o *Offer) {
	r.setNow(now)
	meta := &o.Snapshot.Meta
	if r.role != Follower || r.epoch != o.Epoch || r.installed != nil || meta.Index <= r.commit || meta.Index <= r.matched {
		return
	}
	if t, ok := r.termAt(meta.Index); ok && t == meta.Term {
		return // came as entries meanwhile; the next offer is answered by that
	}
	r.installed, r.install, r.offer = &o.Snapshot, true, nil
}

// SnapshotInstalled reports that the snapshot handed out by Ready is durable in place of the log.
func (r *Raft) SnapshotInstalled(now Time, meta SnapshotMeta) {
	r.setNow(now)
	if r.installed == nil || r.installed.Meta.Index != meta.Index {
		return
	}
	r.confs = []confAt{{meta.Index, r.installed.Meta.Conf}}
	r.installed, r.install = nil, false
	r.pending = nil
	r.last, r.stable, r.matched = meta.Index, meta.Index, meta.Index
	r.lastTerm = meta.Term
	r.commit, r.handing, r.applied = meta.Index, meta.Index, meta.Index
	r.truncTerm = r.term
	r.liftVoteAfter()
	r.restartElectionTimer()
	r.changed = true
	if r.role == Follower && r.leader != 0 {
		r.acked = meta.Index
		r.send(Message{Type: MsgSnapResp, To: r.leader, ToIncarnation: r.leaderInc, Index: meta.Index, SentAt: r.leaderSent})
	}
}

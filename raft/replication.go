// A leader's side of replication (§5.3): each member independently of the others, probing until it is known where the
// logs meet, then pipelined within bounds, and by snapshot where the log does not reach back far enough (§7).
//
// Nothing relies on a message arriving. Answered heartbeats are the clock of repair: each one releases a waiting probe,
// and, when a pipeline stands still, sends an empty message at its head, which is refused if anything before it was lost.

package raft

import (
	"errors"
	"fmt"
)

// behindInflight times MaxMessageBytes is what may be on its way to a learner, or to whoever is behind: enough to keep a link busy, and
// little enough for what other groups have to say to the same broker not to stand in line behind it.
const behindInflight = 4

// behindMessageBytes are the entries of the message that Raft.SendBehind reads by itself, if MaxMessageBytes is not less: a group that
// reads them from its disk serves nobody meanwhile.
const behindMessageBytes = 256 << 10

// snapshotPatience times ElectionTimeout is how long a follower may neither ask for more of a snapshot nor have installed it,
// before it is given up and asked for anew.
const snapshotPatience = 10

func (r *Raft) sendAppends() {
	for _, p := range r.peers {
		r.sendTo(p)
	}
}

// sendTo sends what a member may be sent now.
func (r *Raft) sendTo(p *Progress) {
	switch p.State {
	case Probe:
		if !p.waiting {
			p.waiting = true
			r.sendEntries(p, r.cfg.MaxMessageBytes, nil)
		}
	case Replicate:
		for p.Next <= r.last && r.roomFor(p) {
			if r.paced(p) {
				if !r.throttled(p) {
					r.cfg.Pacer.Ask(p.Member.ID, p.Next, r.commit)
				}
				return
			}
			if !r.sendEntries(p, r.cfg.MaxMessageBytes, nil) {
				return
			}
		}
		if p.Match == r.last && p.sentCommit < r.commit {
			r.tell(p)
		}
	case SnapshotState:
	}
}

// roomFor: more may be on its way to p.
func (r *Raft) roomFor(p *Progress) bool {
	bytes := r.cfg.MaxInflightBytes
	if p.Learner || r.paced(p) {
		bytes = min(bytes, behindInflight*int64(r.cfg.MaxMessageBytes))
	}
	return !p.inflights.full(r.cfg.MaxInflightMsgs, bytes)
}

// paced: what p is to be sent next waits for SendBehind. That is what is committed: without p, then, and whoever proposed it has been
// told. But where the next commits will need p, since others have fallen silent meanwhile, everybody waits for it to catch up.
func (r *Raft) paced(p *Progress) bool {
	return r.cfg.Pacer != nil && p.Next <= r.commit && p.Member.ID != r.transferee && r.commitsWithout(p)
}

// commitsWithout: a quorum that p is not needed for has all that is committed, and seems to be at work.
func (r *Raft) commitsWithout(p *Progress) bool {
	return quorumValue(r.conf(), func(m Member) int {
		if r.isSelf(m) {
			return 1
		}
		if q := r.peer(m.ID); q != nil && q != p && q.State == Replicate && q.Match >= r.commit && q.stalled < stallPatience &&
			(q.covered || q.heardAt >= r.now.add(-r.cfg.ElectionTimeout)) {
			return 1
		}
		return 0
	}) == 1
}

// SendBehind sends a member what it was asked for by [Pacer], and returns how many bytes of entries that has. read is what was asked for, or
// as many of the first of that as the caller likes, read from the log meanwhile; without it one message is read here. If that is no longer
// what the member lacks, it is asked for anew.
func (r *Raft) SendBehind(now Time, to NodeID, read []Entry) (bytes int64) {
	r.setNow(now)
	p := r.peer(to)
	if r.role != Leader || p == nil || p.State != Replicate {
		return 0
	}
	switch {
	case !r.paced(p) || !r.roomFor(p):
	case len(read) == 0:
		n, sent := r.sendPaced(p, min(r.cfg.MaxMessageBytes, behindMessageBytes), nil)
		if !sent {
			return 0 // throttled, say: asked for again when it answers anything, not in one turn after the other
		}
		bytes = n
	case read[0].Index == p.Next && r.committedHere(&read[len(read)-1]):
		for len(read) > 0 { // there is room for the first: there is for all, or they would be read once more
			next := p.Next
			n, sent := r.sendPaced(p, r.cfg.MaxMessageBytes, read)
			if !sent {
				return bytes
			}
			bytes += n
			read = read[p.Next-next:]
		}
	}
	r.sendTo(p)
	return bytes
}

// sendPaced is sendEntries, and notes that it was SendBehind.
func (r *Raft) sendPaced(p *Progress, maxBytes int, read []Entry) (bytes int64, sent bool) {
	before := p.inflights.bytes
	if !r.sendEntries(p, maxBytes, read) {
		return 0, false
	}
	bytes = p.inflights.bytes - before
	p.inflights.pace(bytes)
	return bytes, true
}

// committedHere: e is an entry of this log, and committed. So are then all before it.
func (r *Raft) committedHere(e *Entry) bool {
	t, ok := r.termAt(e.Index)
	return ok && t == e.Term && e.Index <= r.commit
}

// BehindInflight is how many bytes that SendBehind sent to a member are on their way.
func (r *Raft) BehindInflight(to NodeID) int64 {
	if p := r.peer(to); p != nil {
		return p.inflights.paced
	}
	return 0
}

// tell sees to it that a member learns of a commit. The news rides on entries; where none are on their way it gets a message of its
// own, at once or a little later: each such message is answered, so that where one entry at a time is proposed they are half of
// all that is sent. What opens a term, and memberships, do not wait.
func (r *Raft) tell(p *Progress) {
	if r.cfg.CommitDelay == 0 || r.now < r.tellUntil || p.sentCommit < max(r.termStart, r.confIndex()) {
		r.sendAppend(p, p.Match, r.lastTerm, nil)
	} else if r.newsDue == 0 {
		r.newsDue = r.now.add(r.cfg.CommitDelay)
	}
}

// tellNews ends the wait. Whoever has entries on their way hears of it with the answer to those.
func (r *Raft) tellNews() {
	r.newsDue = 0
	for _, p := range r.peers {
		if p.State == Replicate && p.Match == r.last && p.sentCommit < r.commit {
			r.sendAppend(p, p.Match, r.lastTerm, nil)
		}
	}
}

// TellAtOnce does without [Config.CommitDelay] until a time: somebody waits at a follower for what is committed.
func (r *Raft) TellAtOnce(now, until Time) {
	r.setNow(now)
	r.tellUntil = max(r.tellUntil, until)
	if r.newsDue != 0 {
		r.tellNews()
	}
}

// sendEntries sends the next message of entries, of maxBytes or one, possibly empty, and reports whether it did. They are the first of read, if
// that is not empty, and else read from the log.
func (r *Raft) sendEntries(p *Progress, maxBytes int, read []Entry) bool {
	prev := p.Next - 1
	term, ok := r.termAt(prev)
	if !ok {
		if prev+1 < r.log.FirstIndex() {
			r.needSnapshot(p)
		}
		return false
	}
	if r.throttled(p) {
		if p.State == Probe { // to ask where the logs meet costs nothing
			r.sendAppend(p, prev, term, nil)
		}
		return false
	}
	es, err := within(read, maxBytes), error(nil)
	if len(read) == 0 {
		es, err = r.entries(p.Next, maxBytes)
	}
	if errors.Is(err, ErrCompacted) {
		r.needSnapshot(p)
		return false
	}
	if err != nil {
		r.noteLogError(err)
		return false
	}
	r.sendAppend(p, prev, term, es)
	if len(es) == 0 {
		return false
	}
	bytes := int64(0)
	for i := range es {
		bytes += int64(es[i].Size())
	}
	if r.cfg.Throttle != nil && catchingUp(p) {
		r.cfg.Throttle.Sent(p.Member.ID, bytes)
	}
	if p.State == Replicate {
		p.Next += Index(len(es))
		p.inflights.add(p.Next-1, bytes)
	}
	return true
}

// catchingUp: a learner that is still fed from the past. Once it keeps up with the present it is no longer held back, or
// it would never be done where more is written than a throttle lets through.
func catchingUp(p *Progress) bool { return p.Learner && !p.fastRound }

// throttled: no entries for p now. It is asked again when p next answers anything, a heartbeat at the latest.
func (r *Raft) throttled(p *Progress) bool {
	return r.cfg.Throttle != nil && catchingUp(p) && !r.cfg.Throttle.Allow(p.Member.ID, r.now)
}

func (r *Raft) sendAppend(p *Progress, prev Index, prevTerm Term, es []Entry) {
	if p.inflights.n == 0 && p.newsAt == 0 {
		p.movedAt = r.now
	}
	if p.sentCommit = r.commit; len(es) > 0 {
		p.entriesAt = r.now
	} else if p.newsAt >= r.now {
		p.newsAt = r.now + 1 // the answer to the one before, sent in this very instant, does not stand for this one
	} else {
		p.newsAt = r.now
	}
	m := Message{Type: MsgApp, To: p.Member.ID, ToIncarnation: p.Member.Incarnation, Index: prev, LogTerm: prevTerm,
		Entries: es, Commit: r.commit, SentAt: r.now}
	if r.commit >= r.termStart {
		m.Lost = p.lost
	}
	r.send(m)
}

func (r *Raft) needSnapshot(p *Progress) {
	p.becomeSnapshot()
	r.sendSnapshot = append(r.sendSnapshot, p.Member.ID)
}

// stallPatience is how many answered heartbeats a pipeline may stand still before it is asked whether something was lost.
// Heartbeats overtake entries, so that one would be too few on a slow link.
const stallPatience = 2

// stepToLeader takes a member's answer.
func (r *Raft) stepToLeader(m *Message) error {
	p := r.peer(m.From)
	if p == nil {
		return fmt.Errorf("%w: %v from %d", ErrNotMember, m.Type, m.From)
	}
	if m.Index > r.last || m.Round > r.round {
		return fmt.Errorf("%w: %v from %d answers what was never sent", ErrBadMessage, m.Type, m.From)
	}
	if m.FromBoot < p.boot {
		return fmt.Errorf("%w: %v from an earlier start of %d", ErrMisaddressed, m.Type, m.From)
	}
	if m.FromBoot > p.boot {
		if p.boot != 0 {
			// A restart may have lost what was acknowledged before (a replica that runs with relaxed durability, or a
			// disk that was repaired). It must say anew what it has; most likely that is all of it.
			next := p.Match + 1
			p.Match, p.fastRound = 0, false
			p.catchUpFrom(r.last, r.now)
			p.becomeProbe()
			p.Next = next
			if p.covered {
				r.uncover(p)
			}
		}
		p.boot = m.FromBoot
	}
	p.lost = m.Lost
	r.contact(p, m.SentAt, r.now)
	switch m.Type {
	case MsgHeartbeatResp:
		r.handleHeartbeatResp(p, m)
	case MsgAppResp:
		if m.Reject {
			r.handleReject(p, m)
		} else {
			if m.SentAt >= p.newsAt {
				p.newsAt = 0
			}
			r.handleAck(p, m.Index)
		}
	case MsgSnapResp:
		if m.Reject {
			r.snapshotFailed(p)
		} else {
			r.handleAck(p, m.Index)
		}
	}
	return nil
}

func (r *Raft) handleAck(p *Progress, i Index) {
	if i > p.Match {
		p.Match, p.movedAt = i, r.now
		p.stalled = 0
	}
	if p.Learner && p.Match >= p.roundEnd {
		p.fastRound = r.now < p.roundSince.add(r.cfg.ElectionTimeout)
		p.catchUpFrom(r.last, r.now)
	}
	switch p.State {
	case Probe:
		// Match is known to match, so that the pipeline may start from there whichever message this answers.
		p.becomeReplicate()
	case SnapshotState:
		switch {
		case p.snap != nil && p.Match < p.snap.Meta.Index:
		case p.Match+1 >= r.log.FirstIndex():
			p.becomeReplicate()
		case p.snap != nil:
			p.becomeProbe() // it has the snapshot, and the log has been cut beyond that meanwhile
		}
	case Replicate:
		p.Next = max(p.Next, p.Match+1)
		p.inflights.freeTo(p.Match)
	}
	r.maybeCommit()
	if r.role != Leader {
		return // committed its own removal
	}
	r.transferIfReady()
	r.sendTo(p)
}

func (r *Raft) handleReject(p *Progress, m *Message) {
	switch p.State {
	case SnapshotState:
		return
	case Replicate:
		if m.Index <= p.Match {
			return // late: answered since
		}
	case Probe:
		if m.Index != p.Next-1 || m.Index <= p.Match {
			return // late: not the probe that is out
		}
	}
	at := min(m.RejectHint, r.last)
	if m.LogTerm != 0 {
		floor := max(p.Match, r.log.FirstIndex()-1)
		if at > floor {
			at, _ = r.findConflict(at, m.LogTerm, floor)
		}
	}
	p.becomeProbe()
	p.Next = max(p.Match+1, min(m.Index, at+1))
	r.sendTo(p)
}

func (r *Raft) handleHeartbeatResp(p *Progress, m *Message) {
	p.ackedRound = max(p.ackedRound, m.Round)
	if m.SentAt > p.newsAt && m.SentAt > p.movedAt && p.Match >= p.sentCommit {
		p.newsAt = 0 // the heartbeat, which tells of no more than Match was then, told as much
	}
	switch p.State {
	case Probe:
		p.waiting = false
	case Replicate:
		if p.stalled++; p.Match == p.Next-1 {
			p.stalled = 0
		}
		if p.lost != 0 {
			if term, ok := r.termAt(p.Match); ok {
				r.sendAppend(p, p.Match, term, nil) // to tell it: nothing else may be due for long
			}
		}
		if p.stalled >= stallPatience {
			if term, ok := r.termAt(p.Next - 1); ok {
				r.sendAppend(p, p.Next-1, term, nil)
			} else {
				p.becomeProbe() // what is in flight is compacted here; where Match stands, too: a snapshot
			}
		}
	case SnapshotState:
		switch {
		case p.snap == nil: // being opened
		case r.now >= p.snapUntil:
			p.becomeProbe()
		default:
			r.sendOffer(p) // was it lost? Or is it installed, and the answer was lost?
		}
	}
	r.sendTo(p)
	r.answerReads()
}

// StepSnapshot offers a snapshot to a follower that Ready.SendSnapshot named. The offer is repeated until it is taken.
func (r *Raft) StepSnapshot(now Time, to NodeID, s *Snapshot) error {
	r.setNow(now)
	p := r.peer(to)
	switch {
	case r.role != Leader:
		return ErrNotLeader
	case p == nil:
		return ErrNotMember
	case s == nil || s.Meta.Index == 0 || s.Meta.Index > r.commit:
		return fmt.Errorf("%w: snapshot of what is not committed", ErrBadProposal)
	case p.State != SnapshotState:
		return nil // no longer needed
	}
	p.snap = s
	p.snapUntil = r.now.add(snapshotPatience * r.cfg.ElectionTimeout)
	r.sendOffer(p)
	return nil
}

func (r *Raft) sendOffer(p *Progress) {
	r.send(Message{Type: MsgSnap, To: p.Member.ID, ToIncarnation: p.Member.Incarnation, Snapshot: p.snap, SentAt: r.now})
}

// SnapshotProgress reports that a follower has asked for more of its snapshot: the rest is waited for from now on.
func (r *Raft) SnapshotProgress(now Time, to NodeID) {
	r.setNow(now)
	if p := r.peer(to); p != nil && p.State == SnapshotState && p.snap != nil {
		p.snapUntil = r.now.add(snapshotPatience * r.cfg.ElectionTimeout)
	}
}

// SnapshotFailed reports that a snapshot could not be built or sent; it is asked for again once the follower answers a
// heartbeat.
func (r *Raft) SnapshotFailed(now Time, to NodeID) {
	r.setNow(now)
	if p := r.peer(to); p != nil {
		r.snapshotFailed(p)
	}
}

func (r *Raft) snapshotFailed(p *Progress) {
	if p.State == SnapshotState {
		p.becomeProbe()
		p.waiting = true
	}
}

// Unreachable reports that messages to a member were lost: the pipeline stops until it answers a heartbeat.
func (r *Raft) Unreachable(now Time, id NodeID) {
	r.setNow(now)
	if p := r.peer(id); p != nil && p.State == Replicate {
		p.becomeProbe()
		p.waiting = true
		r.heartbeatDue = min(r.heartbeatDue, r.now.add(r.cfg.HeartbeatInterval))
	}
}

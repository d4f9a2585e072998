// Leadership: opening a term, proposals, commit, check-quorum and leases.

package raft

import (
	"fmt"
	"math"
	"slices"
	"time"
)

func (r *Raft) becomeLeader() {
	r.setRole(Leader, r.self.ID, r.self.Incarnation)
	r.ledTerm = r.term
	r.votes = nil
	r.peers, r.departed = nil, nil
	r.quorumSince = r.now
	r.heartbeatDue = r.now.add(r.cfg.HeartbeatInterval)
	r.reads, r.readRound = nil, 0
	r.newsDue = 0
	r.transferee, r.leaseForfeited = 0, false
	r.uncommitted, r.uncommittedBy = 0, nil
	r.confChanged()
	// The no-op that opens the term: only an entry of its own term tells a leader what is committed (§5.4.2, §8).
	r.termStart = r.last + 1
	r.appendInternal(Entry{Type: EntryNoop})
}

// abdicate ends what only a leader has. What waits for an answer gets one.
func (r *Raft) abdicate() {
	for _, rd := range r.reads {
		r.readStates = append(r.readStates, ReadState{Ctx: rd.ctx, Err: ErrNotLeader})
	}
	r.reads, r.readRound = nil, 0
	r.peers, r.departed, r.termStart, r.newsDue = nil, nil, 0, 0
	r.transferee, r.leaseForfeited = 0, false
	r.uncommitted, r.uncommittedBy = 0, nil
	r.sendSnapshot = nil
}

func (r *Raft) peer(id NodeID) *Progress {
	for _, p := range r.peers {
		if p.Member.ID == id {
			return p
		}
	}
	return nil
}

// NextProposal is the place of the next entry.
func (r *Raft) NextProposal() (Term, Index, error) {
	switch {
	case r.role != Leader:
		return 0, 0, ErrNotLeader
	case r.transferee != 0 && r.holding:
		return 0, 0, ErrTransferring
	case r.applied < r.termStart:
		return 0, 0, ErrNotReady
	case r.uncommitted >= r.cfg.MaxUncommitted:
		return 0, 0, ErrOverloaded
	}
	return r.term, r.last + 1, nil
}

// Propose appends entries, framed for exactly the places from NextProposal on: all of them, or none. Together they may
// overshoot MaxUncommitted; nothing further is then taken. The slice is the caller's again afterwards.
func (r *Raft) Propose(now Time, entries []Entry) error {
	r.setNow(now)
	term, next, err := r.NextProposal()
	if err != nil || len(entries) == 0 {
		return err
	}
	for i := range entries {
		e := &entries[i]
		if e.Term != term || e.Index != next+Index(i) || e.Type == EntryConfig || e.Type == EntryNoop {
			return fmt.Errorf("%w: %v (%d,%d), expected (%d,%d)", ErrBadProposal, e.Type, e.Term, e.Index, term, next+Index(i))
		}
	}
	r.appendOwn(slices.Clone(entries))
	return nil
}

func (r *Raft) appendInternal(e Entry) {
	e.Term, e.Index = r.term, r.last+1
	if r.cfg.FrameInternal != nil {
		r.cfg.FrameInternal(&e)
	}
	r.appendOwn([]Entry{e})
}

func (r *Raft) appendOwn(es []Entry) {
	alone := es[0].Type == EntryConfig || es[0].Type == EntryNoop // see appendInternal
	if !alone && r.heartbeatDue <= r.now && r.rests() {
		r.heartbeatDue = r.now.add(r.lookAgain()) // nobody waited for it, nor does now
	}
	r.appendEntries(es)
	bytes := int64(0)
	for i := range es {
		bytes += int64(es[i].Size())
	}
	r.uncommitted += bytes
	r.uncommittedBy = append(r.uncommittedBy, sizedIndex{r.last, bytes})
	if alone {
		r.uncoverAll()
	}
	r.sendAppends()
}

// reached is how far member m's log is durable and equal to this one. The leader counts for itself only what its own
// disk has (etcd #14370), and only if it is a member.
func (r *Raft) reached(m Member) Index {
	if r.isSelf(m) {
		return r.stable
	}
	if p := r.peer(m.ID); p != nil {
		return p.Match
	}
	return 0
}

// maybeCommit advances commit to what a quorum has, if that is of this term: an earlier term's entries are never counted,
// but committed along (§5.4.2, figure 8).
func (r *Raft) maybeCommit() {
	q := quorumValue(r.conf(), r.reached)
	if q <= r.commit || q < r.termStart {
		return
	}
	r.commit = q
	k := 0
	for k < len(r.uncommittedBy) && r.uncommittedBy[k].index <= q {
		r.uncommitted -= r.uncommittedBy[k].bytes
		k++
	}
	r.uncommittedBy = r.uncommittedBy[k:]
	r.sendAppends() // the new commit index
	r.confCommitted()
}

// quorumAckedAt is the latest time such that a quorum has answered a message sent then or later, and has thereby promised
// not to vote for an election timeout from there. MinInt64 if it never did.
func (r *Raft) quorumAckedAt() Time {
	t := quorumValue(r.conf(), func(m Member) Time {
		if r.isSelf(m) {
			return math.MaxInt64 // it promises itself, see promised
		}
		if p := r.peer(m.ID); p != nil {
			return p.ackedAt
		}
		return math.MinInt64
	})
	return min(t, r.now)
}

// quorumUntil is when check-quorum ends this leadership unless a quorum answers meanwhile. It goes by when answers come, not, as
// the lease must, by when what they answer was sent: where thousands of groups keep all processors busy, messages may wait for longer than
// an election timeout on their way through the brokers, and leaders that are heard and answered must not step down for that.
func (r *Raft) quorumUntil() Time {
	heard := quorumValue(r.conf(), func(m Member) Time {
		if r.isSelf(m) {
			return math.MaxInt64
		}
		if p := r.peer(m.ID); p != nil {
			return p.heardAt
		}
		return math.MinInt64
	})
	return max(min(heard, r.now), r.quorumSince).add(r.cfg.ElectionTimeout)
}

// LeaseUntil is until when no other leader can have been elected, and hence until when this one's commit index may be
// taken for the group's; 0: no lease. Compare it with a clock read afterwards. It runs from when a round was sent, by
// this replica's own clock, and needs an entry of this term committed.
func (r *Raft) LeaseUntil() Time {
	if r.role != Leader || r.leaseForfeited || r.commit < r.termStart {
		return 0
	}
	at := r.quorumAckedAt()
	if at == math.MinInt64 {
		return 0
	}
	return max(0, at.add(r.cfg.ElectionTimeout-r.cfg.ClockDrift))
}

func (r *Raft) leaderDeadline() Time {
	d := Forever
	if r.transferee != 0 {
		d = r.transferUntil
	}
	if len(r.reads) > 0 {
		d = min(d, r.heartbeatDue)
	}
	if r.newsDue != 0 {
		d = min(d, r.newsDue)
	}
	for _, p := range r.peers {
		switch {
		case !p.covered:
			return min(d, r.heartbeatDue, r.quorumUntil())
		case r.owes(p) || r.stable < r.last: // the latter to have the runtime look after its own disk
			d = min(d, r.heartbeatDue)
		}
	}
	return d
}

func (r *Raft) tickLeader() {
	if r.now >= r.quorumUntil() {
		// Nobody may hear this leader any more; then clients must not be kept waiting, and whoever can form a quorum must
		// not be kept from it (thesis 6.2).
		r.becomeFollower(r.term, 0, 0)
		return
	}
	if r.transferee != 0 && r.now >= r.transferUntil {
		r.transferee = 0
		if r.removed() {
			r.becomeFollower(r.term, 0, 0) // its successor did not keep up: an election will find another
			return
		}
	}
	if r.newsDue != 0 && r.now >= r.newsDue {
		r.tellNews()
	}
	if r.now >= r.heartbeatDue {
		if until := r.busyUntil(); until > r.now && len(r.reads) == 0 {
			r.heartbeatDue = min(until, r.now.add(r.lookAgain()))
			return
		}
		r.heartbeatDue = r.now.add(r.cfg.HeartbeatInterval)
		r.startRound(false)
		if until := r.busyUntil(); until > r.now { // who needed none yet
			r.heartbeatDue = min(r.heartbeatDue, until)
		}
	}
}

// lookAgain is how long a leader that need not send heartbeats waits before it asks itself again.
func (r *Raft) lookAgain() time.Duration { return max(r.cfg.BusyFor, r.cfg.HeartbeatInterval) }

// busyUntil is until when no member needs a heartbeat; Forever if all hear of this leader by other means, and owe it nothing.
func (r *Raft) busyUntil() Time {
	t := Forever
	for _, p := range r.peers {
		t = min(t, r.busyWith(p))
	}
	return t
}

// busyWith is until when a member needs no heartbeat, because entries go to it and answers come: they are as good a sign of life, for
// either side. With thousands of busy groups heartbeats were more than half of all messages. As answered heartbeats are also the clock
// of repair and of throttles, nobody does without them who is probed, throttled, or does not answer. For a member that is covered they are
// nothing else, so that it may owe an answer for as long as members wait for a leader.
func (r *Raft) busyWith(p *Progress) Time {
	switch {
	case p.covered && !r.owes(p):
		return Forever
	case p.State != Replicate || p.lost != 0 || r.cfg.Throttle != nil && catchingUp(p):
		return math.MinInt64
	case p.covered:
		return p.movedAt.add(r.cfg.ElectionTimeout)
	case r.cfg.BusyFor == 0:
		return math.MinInt64
	}
	return min(p.entriesAt, p.heardAt).add(r.cfg.BusyFor)
}

// owes says whether something was sent to p, or is to be, that it has not answered.
func (r *Raft) owes(p *Progress) bool {
	return !p.parked && (p.Match < r.last || p.newsAt != 0 || p.State != Replicate || p.lost != 0)
}

// rests: all members are covered, nobody owes anything, and this disk has the whole log.
func (r *Raft) rests() bool {
	for _, p := range r.peers {
		if !p.covered || r.owes(p) {
			return false
		}
	}
	return r.stable == r.last
}

// startRound sends heartbeats of a new round: to all members, or to those who hear of this leader by no other means.
// Reads that are not yet assigned to a round wait for this one, if it goes to all.
func (r *Raft) startRound(all bool) {
	r.round++
	if !all && len(r.reads) > 0 {
		all = true // a round in which a covered member does not take part might never have its quorum
	}
	if all {
		r.assignReads()
	}
	for _, p := range r.peers {
		if all || r.busyWith(p) <= r.now {
			r.send(Message{Type: MsgHeartbeat, To: p.Member.ID, ToIncarnation: p.Member.Incarnation,
				Commit: min(p.Match, r.commit), Round: r.round, SentAt: r.now})
		}
	}
}

// PeerAcked reports that a member answered a sign of life of this leader and term, sent at the given time of this
// node's clock, by other means (the heartbeat between two brokers). It counts for the lease and for check-quorum.
func (r *Raft) PeerAcked(now Time, from NodeID, term Term, sentAt Time) {
	r.setNow(now)
	if r.role != Leader || term != r.term {
		return
	}
	if p := r.peer(from); p != nil {
		r.contact(p, sentAt, sentAt) // the report may come long after the answer
	}
}

// lateAnswers times ElectionTimeout is how old a message may be whose answer still says that this leader is heard: one that wakes
// from a long pause finds many that say nothing.
const lateAnswers = 4

// contact notes an answer, which has come at or after the time at, to a message sent at sentAt.
func (r *Raft) contact(p *Progress, sentAt, at Time) {
	if sentAt <= p.ackedAt || sentAt > r.now { // nothing of ours was sent later than now
		return
	}
	p.ackedAt = sentAt
	if r.now < sentAt.add(lateAnswers*r.cfg.ElectionTimeout) {
		p.heardAt = max(p.heardAt, at)
	}
}

// Coverable says whether a follower may begin to do without heartbeats of its own: its log is this log, and all of it is committed (and
// durable here, too: a leader whose disk lags is not at rest), at the returned index, of which it has been told.
func (r *Raft) Coverable(to NodeID) (Index, bool) {
	p := r.peer(to)
	if r.role != Leader || p == nil || r.transferee != 0 || len(r.reads) > 0 || r.conf().Joint() {
		return 0, false
	}
	return r.commit, p.State == Replicate && p.lost == 0 && p.Match == r.last && r.commit == r.last && r.stable == r.last && r.commit >= r.termStart && p.sentCommit == r.commit
}

// SetCovered pauses this leader's own heartbeats to a follower, or resumes them. Entries go to it as before; while it is covered, only one that
// does not answer them is sent heartbeats, after an election timeout. A membership resumes all.
func (r *Raft) SetCovered(now Time, to NodeID, covered bool) { r.setCovered(now, to, covered, false) }

// Park is SetCovered for a follower that is dead: nothing is sent to remind it of what it lacks. The next entry goes to it all the same, and by then it
// must not be parked any more.
func (r *Raft) Park(now Time, to NodeID) { r.setCovered(now, to, true, true) }

func (r *Raft) setCovered(now Time, to NodeID, covered, parked bool) {
	r.setNow(now)
	p := r.peer(to)
	if r.role != Leader || p == nil || p.covered == covered && p.parked == parked {
		return
	}
	if covered {
		p.covered, p.parked = true, parked
	} else {
		r.uncover(p)
	}
}

// uncover makes heartbeats to p due at once.
func (r *Raft) uncover(p *Progress) {
	p.covered, p.parked = false, false
	r.heartbeatDue = min(r.heartbeatDue, r.now)
	r.quorumSince = r.now // reports of covered members come late
}

func (r *Raft) uncoverAll() {
	for _, p := range r.peers {
		if p.covered {
			p.covered, p.parked = false, false
			if r.heartbeatDue < r.now {
				r.heartbeatDue = r.now.add(r.cfg.HeartbeatInterval) // the entries that go out now are a sign of life
			}
			r.quorumSince = r.now
		}
	}
}

// Commit is the commit index.
func (r *Raft) Commit() Index { return r.commit }

// SentAll: every member has been sent all that there is, so that none is to be sent more, or to be ordered to campaign, when it answers.
func (r *Raft) SentAll() bool {
	for _, p := range r.peers {
		if p.State != Replicate || p.Learner || p.Next <= r.last {
			return false
		}
	}
	return r.transferee == 0
}

// Lacks is how many members have to report more, by their answers or, this one, by its sync, before anything can be committed that is not;
// 0: any report may make a difference.
func (r *Raft) Lacks() int {
	if r.role != Leader || r.commit == r.last || r.commit < r.termStart || len(r.reads) > 0 || !r.SentAll() {
		return 0
	}
	lack := func(members []Member) int {
		n := len(members)/2 + 1
		for _, m := range members {
			if r.reached(m) > r.commit {
				n--
			}
		}
		return n
	}
	c := r.conf()
	n := lack(c.Voters)
	if c.Joint() {
		n = max(n, lack(c.Outgoing))
	}
	return max(n, 0)
}

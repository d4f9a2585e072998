// Elections (§5.2, §5.4.1): pre-vote (thesis 9.6), votes, and the promise not to vote that leases rest on (thesis 6.4.1).
//
// The promise: who has heard from a leader answers nobody's request for a vote, real or pre-, for one election timeout,
// whatever became of the leader or the term meanwhile. Only an election that the leader itself ordered is exempt
// (Message.Force); a leader that gave that order has no lease for the rest of its term.

package raft

import (
	"fmt"
	"time"
)

func (r *Raft) drawElectionWait() {
	t := r.cfg.ElectionTimeout
	r.electionWait = t + time.Duration(r.cfg.Rand.Int64N(int64(t)/4+1))
}

func (r *Raft) restartElectionTimer() {
	r.drawElectionWait()
	r.electionDeadline = max(r.now.add(r.electionWait), r.voteFrom)
}

// isSelf: m is this very replica, not an earlier life of this node.
func (r *Raft) isSelf(m Member) bool { return sameMember(m, r.self) }

func sameMember(a, b Member) bool {
	return a.ID == b.ID && (a.Incarnation == b.Incarnation || a.Incarnation == 0 || b.Incarnation == 0)
}

// isVoter: this replica's own weight counts, in either half of a joint configuration.
func (r *Raft) isVoter() bool { return r.conf().hasVoter(r.self) }

// hasVoter: this very replica, not an earlier life of its node, is a voter of either half.
func (c *ConfState) hasVoter(self Member) bool {
	for _, half := range [2][]Member{c.Voters, c.Outgoing} {
		for _, m := range half {
			if sameMember(m, self) {
				return true
			}
		}
	}
	return false
}

// mayLead: this replica is a voter, or was one by a membership that is not known to be replaced for good. Such a one may have to
// lead once more, without its own weight: its log may be the only one with the entry that takes it out, and so longer than
// those of whom it would have to vote for (thesis 4.2.2).
func (r *Raft) mayLead() bool {
	for k := len(r.confs) - 1; k >= 0; k-- {
		if r.confs[k].conf.hasVoter(r.self) {
			return true
		}
		if r.confs[k].index <= r.commit {
			break
		}
	}
	return false
}

func (r *Raft) promotable() bool {
	// By a membership of an earlier epoch a quorum might not be one of the survivors (see reset.go).
	return r.voteAfter == 0 && r.installed == nil && r.term < MaxTerm && r.conf().Epoch == r.epoch && r.mayLead() &&
		r.priorityOf(r.self.ID) != NeverLeads
}

// promised: this replica may not vote now, because somebody may hold a lease on that. A leader keeps the promise to
// itself for as long as a quorum answers it.
func (r *Raft) promised() bool {
	return r.now < r.promiseUntil || r.now < r.voteFrom || r.role == Leader && r.now < r.quorumUntil()
}

// Campaign starts an election out of turn, beginning with pre-votes. It does nothing on a replica that could not win, is
// the leader, or is bound by its promise.
func (r *Raft) Campaign(now Time) {
	r.setNow(now)
	if r.role != Leader && !r.promised() {
		r.restartElectionTimer()
		r.campaign(false)
	}
}

func (r *Raft) campaign(ordered bool) {
	if r.role == Leader || !r.promotable() {
		return
	}
	r.resting = false
	r.campaignedAt = r.now
	if ordered {
		r.becomeCandidate()
		r.askForVotes(Message{Type: MsgVote, Force: true})
		return
	}
	// Pre-votes change nothing on either side, so that a node that cannot win does not drive terms up.
	r.setRole(PreCandidate, 0, 0)
	r.votes, r.rivals = nil, noRival
	r.askForVotes(Message{Type: MsgPreVote, Term: r.term + 1})
	r.recordVote(r.self.ID, true)
}

func (r *Raft) becomeCandidate() {
	r.setTerm(r.term + 1)
	r.vote, r.voteInc = r.self.ID, r.self.Incarnation
	r.setRole(Candidate, 0, 0)
	r.votes, r.rivals = nil, noRival
	r.restartElectionTimer()
	// Its own vote is recorded when it is durable, in HardStateSynced: not even a sole voter leads before.
}

// askForVotes sends m to every other voter of either half.
func (r *Raft) askForVotes(m Message) {
	m.Index, m.LogTerm, m.SentAt = r.last, r.lastTerm, r.now
	c := r.conf()
	for _, v := range c.Voters {
		if v.ID != r.self.ID {
			m.To, m.ToIncarnation = v.ID, v.Incarnation
			r.send(m)
		}
	}
	for _, v := range c.Outgoing {
		if v.ID != r.self.ID && findMember(c.Voters, v.ID) < 0 {
			m.To, m.ToIncarnation = v.ID, v.Incarnation
			r.send(m)
		}
	}
}

func (r *Raft) recordVote(from NodeID, granted bool) {
	if !r.conf().isVoter(from) {
		return
	}
	for _, b := range r.votes {
		if b.id == from {
			return
		}
	}
	r.votes = append(r.votes, ballot{from, granted})
	r.hurry()
	switch tally(r.conf(), r.votes) {
	case voteWon:
		if r.role == Candidate {
			r.becomeLeader()
			return
		}
		r.becomeCandidate()
		r.askForVotes(Message{Type: MsgVote})
	case voteLost:
		r.becomeFollower(r.term, 0, 0)
		r.hurry()
	}
}

// stepVoteRequest answers a candidate. Whether it, or this node, is a voter by the membership known here does not
// matter: this log may not have the entry yet that made it one. The candidate counts by its own.
func (r *Raft) stepVoteRequest(m *Message) error {
	resp := Message{Type: MsgVoteResp, To: m.From, ToIncarnation: m.FromIncarnation, SentAt: m.SentAt}
	if m.Type == MsgPreVote {
		resp.Type = MsgPreVoteResp
	}
	if m.Term < r.term {
		resp.Reject = true
		r.send(resp)
		return nil
	}
	if !m.Force && r.promised() {
		if p := r.peer(m.From); p != nil && p.covered {
			// It has lost sight of this leader, which did not send to it: only a heartbeat of its own brings it back.
			r.uncover(p)
		}
		return nil // not even the term is looked at (thesis 4.2.3)
	}
	myTerm := r.lastTerm
	upToDate := m.LogTerm > myTerm || m.LogTerm == myTerm && m.Index >= r.last
	able := r.voteAfter == 0 && r.installed == nil
	if m.Type == MsgPreVote {
		if !upToDate {
			r.yielding, r.target = true, 0 // who goes first cannot win by this vote: wait for nobody any longer
			r.askAgain()
		} else {
			r.withdraw(m)
		}
		if resp.Reject = !able || !upToDate || m.Term == r.term; !resp.Reject {
			resp.Term = m.Term
		}
		r.send(resp)
		return nil
	}
	if m.Term > r.term {
		r.becomeFollower(m.Term, 0, 0)
	}
	r.meet(m)
	// One vote per term, to one life of one node; repeated if asked again, as the answer may have been lost.
	free := r.vote == 0 && r.leader == 0 || r.vote == m.From && r.voteInc != 0 && r.voteInc == m.FromIncarnation ||
		r.vote == m.From && r.voteInc == 0 && m.FromIncarnation == 0
	if resp.Reject = !able || !upToDate || !free; !resp.Reject {
		r.vote, r.voteInc = m.From, m.FromIncarnation
		r.restartElectionTimer()
	}
	r.send(resp)
	return nil
}

func (r *Raft) stepPreVoteResp(m *Message) error {
	switch {
	case !m.Reject:
		if r.role == PreCandidate && m.Term == r.term+1 {
			r.recordVote(m.From, true)
		}
	case m.Term > r.term:
		r.becomeFollower(m.Term, 0, 0)
	case m.Term == r.term && r.role == PreCandidate:
		r.recordVote(m.From, false)
	}
	return nil
}

// setTerm enters a later term, in which nothing is decided yet. What was held for the earlier one is dropped.
func (r *Raft) setTerm(t Term) {
	r.term, r.vote, r.voteInc = t, 0, 0
	r.resetTo = nil
	r.matched = r.commit // what is committed every later leader has (§5.4)
	r.acked, r.leaderSent = 0, 0
	clear(r.held)
	r.held = r.held[:0]
	r.resting = false
	r.changed = true
}

// setRole changes role and known leader, and ends leadership properly.
func (r *Raft) setRole(role Role, leader NodeID, inc Incarnation) {
	if r.role == role && r.leader == leader && role != Candidate {
		r.leaderInc = inc
		return
	}
	if r.role == Leader {
		r.abdicate()
	}
	switch {
	case leader != 0:
		r.yielding, r.withdrew, r.lost = false, false, 0
	case r.leader != 0:
		r.lost = r.leader
	}
	r.role, r.leader, r.leaderInc = role, leader, inc
	r.resting = false
	r.changed = true
}

func (r *Raft) becomeFollower(term Term, leader NodeID, inc Incarnation) {
	wasLeader := r.role == Leader
	if term > r.term {
		r.setTerm(term)
	}
	r.setRole(Follower, leader, inc)
	if wasLeader || leader == 0 {
		// A candidate that lost, or a node that learnt of a later term, waits a whole draw; so does a former leader.
		r.restartElectionTimer()
	}
}

// hear notes that the leader of this term was alive at the time: the promise, and the election timer, start anew.
func (r *Raft) hear(at Time) {
	r.promiseUntil = max(r.promiseUntil, at.add(r.cfg.ElectionTimeout))
	r.electionDeadline = max(r.electionDeadline, at.add(r.electionWait))
}

// diverged is the error for a contradiction that came from outside.
func diverged(m *Message, format string, args ...any) error {
	return fmt.Errorf("%w: %v from %d in term %d: %s", ErrDiverged, m.Type, m.From, m.Term, fmt.Sprintf(format, args...))
}

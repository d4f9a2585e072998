// Several replicas that stand for election at the same time. Left alone they take each other's votes, and the group waits for another
// election timeout, or several. Nothing here decides whether a vote is given, nor, but once, whether a replica stands: it is about when.
//
//   - Pre-candidates whose requests cross: the one behind withdraws, so that no votes are split (withdraw).
//   - Candidates of one term, none of whom has a majority: the one ahead tries again after as long as the election has taken so far (hurry).
//   - A pre-candidate that nobody answered, since the others had heard the leader later than it, and that has the longer log: when another one
//     asks for its vote in vain, that one is free to vote. So it asks again (askAgain).
//
// Figures, and what else was tried: docs/design/0002-raft-core.md.

package raft

import (
	"slices"
	"time"
)

// rivals is how a candidate stands beside the others of its term that it has met.
type rivals uint8

const (
	noRival rivals = iota
	rivalsBehind
	rivalAhead
)

// aheadOf compares this replica with one that asks for a vote: the better log goes first, of equal ones the lower id. Both sides come to
// the same conclusion, whatever they hold for priorities.
func (r *Raft) aheadOf(m *Message) bool {
	if r.lastTerm != m.LogTerm {
		return r.lastTerm > m.LogTerm
	}
	return r.last > m.Index || r.last == m.Index && r.self.ID < m.From
}

// withdraw ends this replica's own pre-candidacy in favour of one that is ahead. Once, until a leader is heard: that one may be unable to win for
// reasons that are not known here (its disk, its links), and must not keep others from it.
func (r *Raft) withdraw(m *Message) {
	if r.role == PreCandidate && m.Term == r.term+1 && !r.withdrew && r.conf().isVoter(m.From) && !r.aheadOf(m) {
		r.withdrew = true
		r.becomeFollower(r.term, 0, 0)
	}
}

// meet takes note of another candidate of this one's term.
func (r *Raft) meet(m *Message) {
	if r.role != Candidate || m.Term != r.term {
		return
	}
	switch {
	case r.impaired || !r.aheadOf(m):
		r.rivals = rivalAhead
	case r.rivals == noRival:
		r.rivals = rivalsBehind
	}
	r.hurry()
}

// hurry lets a candidate whose votes are split, and that is ahead of all rivals it has met, stand again soon. Not at once: a
// rival may have won by votes that are on their way, and should be heard before it is disturbed; as long as the election has taken
// until now is time enough for that, however slow links and disks are.
func (r *Raft) hurry() {
	refused := func(b ballot) bool { return !b.granted }
	if r.role != PreCandidate && r.rivals == rivalsBehind && slices.ContainsFunc(r.votes, refused) {
		r.electionDeadline = max(r.now.add(min(time.Duration(r.now-r.campaignedAt), r.cfg.ElectionTimeout)), r.voteFrom)
	}
}

// askAgain: a pre-candidate has refused its vote to one with a shorter log. If that one would have voted for it, it has not been asked, or not
// when it was free to. Not at once, since the answers may be on their way, and several may hold the longer log.
func (r *Raft) askAgain() {
	if r.role == PreCandidate {
		q := r.cfg.HeartbeatInterval / 4
		r.electionDeadline = min(r.electionDeadline, r.now.add(q+time.Duration(r.cfg.Rand.Int64N(int64(q)+1))))
	}
}

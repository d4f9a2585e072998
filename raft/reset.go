// Resetting a group's membership when its majority is gone for good: what consensus cannot decide, an operator must.
//
// The survivors go on in a new group epoch, which fences off everybody else: see docs/design/0014-reset-peers.md.

package raft

import (
	"fmt"
	"slices"
)

// Reset is an operator's order to a survivor. All survivors get the same one.
type Reset struct {
	// Epoch is the group's next epoch: above that of every survivor.
	Epoch GroupEpoch
	// Term is above the term of every survivor. Leader leads in it, elected by nobody.
	Term Term
	// Leader is the survivor with the longest intact log, by (last term, last index).
	Leader NodeID
	// Survivors are the voters of the new epoch, sorted by id.
	Survivors []Member
}

// Conf is the membership that a reset leads to.
func (s *Reset) Conf() ConfState { return ConfState{Voters: slices.Clone(s.Survivors), Epoch: s.Epoch} }

// Reset takes this replica into a new epoch of its group: it no longer hears the other epochs', and, if it is the one to
// lead, leads as soon as that is durable, whatever damage was found in its log. What it had not committed is committed thereby; what others
// had acknowledged without it is lost. The others' damage counts for nothing from then on, either: none of them has acknowledged
// anything in the new epoch, whose leaders all have the log that it began with. The same reset again does nothing, unless its leader has not got the new
// membership into its log yet: then it goes on from there, unless its log is damaged.
//
// [ErrHasLeader]: this replica leads, or is bound by its promise to a leader; try again an election timeout later.
// [ErrBadReset]: it makes no sense here.
func (r *Raft) Reset(now Time, s Reset) error {
	r.setNow(now)
	conf := s.Conf()
	self := findMember(conf.Voters, r.self.ID)
	switch err := conf.Check(); {
	case err != nil:
		return fmt.Errorf("%w: %w", ErrBadReset, err)
	case self < 0 || !r.isSelf(conf.Voters[self]) || findMember(conf.Voters, s.Leader) < 0:
		return fmt.Errorf("%w: this replica, or the one to lead, is not among the survivors", ErrBadReset)
	case s.Epoch < r.epoch || s.Epoch == r.epoch && (s.Leader != r.self.ID || r.conf().Epoch == s.Epoch || r.resetTo != nil):
		return nil // it is done, or was overtaken by a later one
	case len(r.conf().Voters) == 0 || s.Epoch == r.epoch && (r.vote != r.self.ID || r.term < s.Term):
		// A new replica, opened in this epoch, that is no survivor whatever its name: it must not lead with what it lacks.
		return fmt.Errorf("%w: this replica was not in the group before", ErrBadReset)
	case s.Epoch == r.epoch && r.voteAfter != 0:
		// What is damaged may be what it has led with in this epoch: the membership, and what was acknowledged by it.
		return fmt.Errorf("%w: this replica's log is damaged, and what it may have acknowledged since it was reset to lead is not known; only another reset goes on without that", ErrBadReset)
	case s.Epoch > r.epoch && s.Term <= r.term:
		return fmt.Errorf("%w: term %d is not above this replica's, %d", ErrBadReset, s.Term, r.term)
	case r.installed != nil:
		return fmt.Errorf("%w: a snapshot is being installed", ErrBadReset)
	case max(s.Term, r.term+1) > MaxTerm:
		return fmt.Errorf("%w: no term is left", ErrBadReset)
	case r.promised():
		return ErrHasLeader
	}
	term := s.Term
	if s.Epoch == r.epoch {
		term = r.term + 1 // in the first one it may have led already, in a life that the disk has forgotten
	}
	r.becomeFollower(term, 0, 0)
	r.epoch, r.pardoned = s.Epoch, true
	r.elsewhere = r.commit // what others had committed in the last epoch is not to be had any more
	if s.Leader != r.self.ID {
		return nil
	}
	r.vote, r.voteInc = r.self.ID, r.self.Incarnation
	r.setRole(Candidate, 0, 0)
	r.votes, r.resetTo = nil, &conf
	return nil
}

// leadReset opens the epoch: its membership, and the no-op of its first term.
func (r *Raft) leadReset() {
	conf := *r.resetTo
	r.resetTo = nil
	r.appendInternal(Entry{Type: EntryConfig, Payload: AppendConfState(nil, &conf)})
	r.becomeLeader()
}

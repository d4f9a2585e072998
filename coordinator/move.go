// How a group gets from the membership that it has to the one that is wanted, one step after the other: the leader of the
// group asks NextMove what to do, does it, and asks again. Nothing is remembered between two steps but what is in the
// group's own log and in the metadata, so that any other leader, or the same after a crash, goes on from there.
//
//	{1,2,3}                    new brokers follow as learners, and what is not wanted and does not vote goes
//	{1,2,3} learners {4}       until they are caught up
//	{2,3,4} and {1,2,3}        all voters change in one joint step, which the group leaves by itself
//	{2,3,4}                    there; reported to the metadata
//
// A joint step to what is not wanted any more is taken back, if it is not committed yet; else it is a move like any other.

package coordinator

import (
	"slices"

	"github.com/balsamq/balsa/raft"
)

// GroupView is a group as its leader sees it.
type GroupView struct {
	Conf      raft.ConfState
	ConfIndex raft.Index // of Conf in the group's log
	Commit    raft.Index
	// Ready are the learners that answer and may be promoted.
	Ready []raft.Member
}

// MoveStep is what a group's leader does next.
type MoveStep struct {
	Change raft.ConfChange
	Why    string // empty: nothing, for now
	Adds   bool   // it brings new learners, which will take data
	Done   bool   // the membership is committed, and it is what is wanted
}

// NextMove is the next step of a group to the wanted members.
func NextMove(want []raft.Member, g GroupView) (s MoveStep) {
	conf := &g.Conf
	wanted := func(m raft.Member) bool { return slices.Contains(want, m) }
	if conf.Joint() {
		if !sameMembers(conf.Voters, want) {
			s.Change, s.Why = raft.ConfChange{Revert: true}, "what the members are changing to is not wanted any more"
		}
		return s // it is left by itself
	}
	if g.ConfIndex > g.Commit || len(conf.Voters) == 0 {
		return s
	}
	// Another life of a wanted broker makes room first: no node can be a member twice. It does not answer any more, so
	// that the group tolerates no less without it.
	for _, m := range conf.Voters {
		if !wanted(m) && len(conf.Voters) > 1 && slices.ContainsFunc(want, func(w raft.Member) bool { return w.ID == m.ID }) {
			s.Change.Steps = []raft.ConfStep{{Op: raft.Remove, Member: m}}
			s.Why = "its disk is another one now"
			return s
		}
	}
	for _, m := range conf.Learners {
		if !wanted(m) {
			s.Change.Steps = append(s.Change.Steps, raft.ConfStep{Op: raft.Remove, Member: m})
			s.Why = "learners that are not wanted"
		}
	}
	if s.Why != "" {
		return s
	}
	isID := func(id raft.NodeID) func(raft.Member) bool { return func(m raft.Member) bool { return m.ID == id } }
	complete := true
	for _, m := range want {
		switch {
		case slices.Contains(conf.Voters, m):
		case slices.Contains(conf.Learners, m):
			complete = complete && slices.Contains(g.Ready, m)
		case slices.ContainsFunc(conf.Voters, isID(m.ID)):
			complete = false // the last voter, in another life: nobody is left to copy from
		default:
			s.Change.Steps = append(s.Change.Steps, raft.ConfStep{Op: raft.AddLearner, Member: m})
			s.Why, s.Adds = "new replicas follow", true
		}
	}
	if s.Why != "" || !complete {
		return s
	}
	if sameMembers(conf.Voters, want) {
		s.Done = true
		return s
	}
	for _, m := range want {
		if slices.Contains(conf.Learners, m) {
			s.Change.Steps = append(s.Change.Steps, raft.ConfStep{Op: raft.Promote, Member: m})
		}
	}
	for _, m := range conf.Voters {
		if !wanted(m) {
			s.Change.Steps = append(s.Change.Steps, raft.ConfStep{Op: raft.Remove, Member: m})
		}
	}
	s.Why = "all new replicas are caught up"
	return s
}

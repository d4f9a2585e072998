// Priorities: which of several replicas that could lead shall (after SOFAJRaft's).
//
// A priority is a preference, never a condition of safety: it decides how long a replica whose election timer has run out
// lets a better one go first, and whether it may lead at all. Votes are given regardless of it. A replica waits half an
// election timeout (twice as much as the waits of two replicas can lie apart) for those of the highest priority, then as long for the
// next ones, and so on down to its own: if nobody better is there, it campaigns. The leader that has just fallen silent
// is not waited for, so that the loss of the preferred leader costs nobody a wait.

package raft

import (
	"math"
	"slices"
	"time"
)

// Priority is a replica's, the higher the better.
type Priority uint8

const (
	// NeverLeads votes, but neither campaigns nor can be handed leadership.
	NeverLeads Priority = 0
	// LastResort leads if nobody else does.
	LastResort Priority = 1
	// NormalPriority is that of a node that was given none.
	NormalPriority Priority = 2
	// PreferredPriority is for the replica that shall lead.
	PreferredPriority Priority = 3
)

// NodePriority is one node's priority in a group.
type NodePriority struct {
	ID       NodeID
	Priority Priority
}

// SetPriorities says who shall lead. The list belongs to the core from here on; a node that is not in it has
// NormalPriority. Replicas may hold different lists for a while: nothing rests on their being equal.
func (r *Raft) SetPriorities(now Time, ps []NodePriority) {
	r.setNow(now)
	was := r.priorityOf(r.self.ID)
	r.priorities = ps
	r.priorityChanged(was)
}

// SetImpaired says that this replica's disk is full or hangs: until it is said to be well again it lets all others go first, and
// waits twice as long for each, since they may be waiting for it.
func (r *Raft) SetImpaired(now Time, impaired bool) {
	r.setNow(now)
	r.impaired = impaired
}

// priorityChanged starts the timer of a replica that may lead from now on: it may have been out for long.
func (r *Raft) priorityChanged(was Priority) {
	if was == NeverLeads && r.priorityOf(r.self.ID) != NeverLeads && r.role != Leader {
		r.restartElectionTimer()
	}
}

func (r *Raft) priorityOf(id NodeID) Priority {
	if i := slices.IndexFunc(r.priorities, func(p NodePriority) bool { return p.ID == id }); i >= 0 {
		return r.priorities[i].Priority
	}
	return NormalPriority
}

// yields: somebody better shall go first. Each call, at yieldWait from the last, lowers what counts as better.
func (r *Raft) yields() bool {
	own := r.priorityOf(r.self.ID)
	if r.impaired {
		own = 0
	}
	if !r.yielding {
		r.yielding, r.target = true, r.bestOther(math.MaxUint8)
	}
	if own >= r.target {
		return false
	}
	r.target = r.bestOther(r.target - 1)
	return true
}

// bestOther is the highest priority up to the limit among the other voters, the leader that was lost excepted; 0: none of them
// would lead.
func (r *Raft) bestOther(limit Priority) (best Priority) {
	c := r.conf()
	for _, half := range [2][]Member{c.Voters, c.Outgoing} {
		for _, m := range half {
			if p := r.priorityOf(m.ID); m.ID != r.self.ID && m.ID != r.lost && p > best && p <= limit {
				best = p
			}
		}
	}
	return best
}

// yieldWait is how long a better replica is waited for.
func (r *Raft) yieldWait() time.Duration {
	if r.impaired {
		return r.cfg.ElectionTimeout
	}
	return r.cfg.ElectionTimeout / 2
}

// Successor is the voter that would be handed leadership now, and how far its log is durable and equal to this one; 0: there is
// none, or this replica does not lead.
func (r *Raft) Successor() (NodeID, Index) {
	if p := r.successor(); p != nil {
		return p.Member.ID, p.Match
	}
	return 0, 0
}

// successor is the voter to be handed leadership without delay: one that answers, with the longest log, then the highest
// priority, then the lowest id. nil: there is none.
func (r *Raft) successor() *Progress {
	var best *Progress
	for _, p := range r.peers {
		pr := r.priorityOf(p.Member.ID)
		if p.Learner || p.State != Replicate || pr == NeverLeads || r.now >= p.heardAt.add(r.cfg.ElectionTimeout) {
			continue
		}
		if best == nil || p.Match > best.Match || p.Match == best.Match && pr > r.priorityOf(best.Member.ID) {
			best = p
		}
	}
	return best
}

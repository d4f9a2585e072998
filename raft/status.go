// What can be asked of a replica.

package raft

// Status is a replica's state. It shares nothing mutable with the core; Conf's lists must not be changed.
type Status struct {
	Group     GroupID
	Self      Member
	Role      Role
	Term      Term
	Vote      NodeID
	Epoch     GroupEpoch // Conf.Epoch is below it on a replica that was fenced and has not got the new membership yet
	Leader    NodeID     // 0: unknown
	Commit    Index
	Applied   Index
	Stable    Index // durable here up to here
	Last      Index
	LastTerm  Term  // of the entry at Last
	TermStart Index // leader: index of the no-op that opened the term. Once Applied reaches it, proposals are taken
	Conf      ConfState
	ConfIndex Index
	VoteAfter Index // see Config; UntilTold until a leader has said how far; 0 once one has caught this replica up
	Priority  Priority
	Impaired  bool // see SetImpaired
	Resting   bool
	// Installing: a snapshot was handed out and is not reported installed.
	Installing  bool
	Transferee  NodeID
	Uncommitted int64 // leader: bytes proposed in this term and not committed
}

// Status returns the replica's state. It allocates nothing.
func (r *Raft) Status() Status {
	return Status{
		Group: r.cfg.Group, Self: r.self, Role: r.role, Term: r.term, Vote: r.vote, Epoch: r.epoch, Leader: r.leader,
		Commit: r.commit, Applied: r.applied, Stable: r.stable, Last: r.last, LastTerm: r.lastTerm, TermStart: r.termStart,
		Conf: *r.conf(), ConfIndex: r.confIndex(), VoteAfter: r.voteAfter, Resting: r.resting,
		Priority: r.priorityOf(r.self.ID), Impaired: r.impaired,
		Installing: r.installed != nil, Transferee: r.transferee, Uncommitted: r.uncommitted,
	}
}

// PeerStatus is what a leader knows of another member.
type PeerStatus struct {
	Member        Member
	Learner       bool
	Match         Index
	Next          Index
	State         ProgressState
	Inflight      int
	InflightBytes int64
	AckedAt       Time // sent time of the latest message that it has answered in this term; negative: none
	HeardAt       Time // when the last such answer came that was not too late to count: see Raft.contact; negative: none
	Covered       bool
	CaughtUp      bool // a learner that may be promoted
}

// Peers lists all other members by node id; it is empty unless this replica leads.
func (r *Raft) Peers() []PeerStatus { return r.AppendPeers(make([]PeerStatus, 0, len(r.peers))) }

// AppendPeers appends what Peers lists to dst.
func (r *Raft) AppendPeers(dst []PeerStatus) []PeerStatus {
	for _, p := range r.peers {
		dst = append(dst, PeerStatus{Member: p.Member, Learner: p.Learner, Match: p.Match, Next: p.Next, State: p.State,
			Inflight: p.inflights.n, InflightBytes: p.inflights.bytes, AckedAt: p.ackedAt, HeardAt: p.heardAt, Covered: p.covered,
			CaughtUp: p.Learner && r.caughtUp(p)})
	}
	return dst
}

// Handing leadership over (thesis 3.10).

package raft

// Transfer hands leadership to another voter: the voter is caught up, proposals stop for the last of the way, and then it is told to
// campaign at once. If it has not taken over within an election timeout, this leader goes on, without a lease if the order
// had gone out. Proposals do not stop for a voter that is far behind: it has the time to come near, and is given up else.
func (r *Raft) Transfer(now Time, to NodeID) error {
	r.setNow(now)
	switch {
	case r.role != Leader:
		return ErrNotLeader
	case to == r.self.ID:
		return nil
	case findMember(r.conf().Voters, to) < 0 || r.peer(to) == nil:
		return ErrNotVoter
	case r.priorityOf(to) == NeverLeads:
		return ErrNeverLeads
	case r.transferee == to:
		return nil
	case r.transferee != 0:
		return ErrTransferring
	}
	r.transferee, r.ordered, r.holding = to, false, false
	r.transferUntil = r.now.add(r.cfg.ElectionTimeout)
	r.uncoverAll()
	p := r.peer(to)
	if p.State == Probe {
		p.waiting = false
	}
	r.sendTo(p)
	r.transferIfReady()
	return nil
}

func (r *Raft) transferIfReady() {
	if r.transferee == 0 {
		return
	}
	p := r.peer(r.transferee)
	if p == nil {
		r.transferee = 0 // removed meanwhile
		return
	}
	removed := r.removed()
	if removed || p.State == Replicate && (p.Next > r.last || p.Match >= r.commit) {
		r.holding = true // all is on its way to it, or it is one of the quorum
	}
	if removed && r.commit < r.last {
		return // who waits for an entry of this log shall hear of it
	}
	if p.Match == r.last && p.State == Replicate && !r.ordered {
		r.ordered = true
		r.orderElection(p)
		if removed {
			r.becomeFollower(r.term, 0, 0) // there is nothing to come back to
		}
	}
}

// removed: a leader that is no voter any more, for good.
func (r *Raft) removed() bool { return r.confIndex() <= r.commit && !r.conf().Joint() && !r.isVoter() }

// Resign ends this leadership at once, with an order to the best follower to campaign: for a leader that cannot go on, as its
// log has failed. The order is in the next Ready.
func (r *Raft) Resign(now Time) {
	r.setNow(now)
	if r.role != Leader {
		return
	}
	if p := r.successor(); p != nil {
		r.orderElection(p)
	}
	r.becomeFollower(r.term, 0, 0)
}

// orderElection tells a member to campaign regardless of promises. From here on this term has no lease: the order may
// arrive at any time, and those who follow it will not wait for a lease to end.
func (r *Raft) orderElection(p *Progress) {
	r.leaseForfeited = true
	r.send(Message{Type: MsgTimeoutNow, To: p.Member.ID, ToIncarnation: p.Member.Incarnation, SentAt: r.now})
}

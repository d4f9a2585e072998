// What a group does about pair heartbeats, on its worker: as a leader it proposes to be covered when it is idle, and stays so when it is not;
// as a follower it accepts, and takes itself out before it may break the promise.

package multi

import (
	"github.com/balsamq/balsa/raft"
)

type coverState uint8

const (
	coverOff coverState = iota
	coverProposed
	coverOn
	coverParked // the peer is dead, see pair_silent.go: neither promised nor asked
)

// leaderCoverage is how one follower of a led group stands.
type leaderCoverage struct {
	peer    raft.NodeID
	state   coverState
	term    raft.Term
	retryAt raft.Time // coverOff: not proposed again before
	heardAt raft.Time // its last message here; 0: none that counts
}

func (g *Group) cover(id raft.NodeID) *leaderCoverage {
	for i := range g.covers {
		if g.covers[i].peer == id {
			return &g.covers[i]
		}
	}
	return nil
}

// proposedAt: there is something to say, and soon more of it.
func (g *Group) proposedAt(now raft.Time) { g.restFrom = now + raft.Time(g.h.o.CoverAfter) }

// coverIdle proposes coverage where a leader has had nothing to do for a while.
func (g *Group) coverIdle(now raft.Time) {
	if !g.ticked || !g.ready || now < g.restFrom {
		return
	}
	g.ticked = false
	s := g.r.Status()
	for _, members := range [2][]raft.Member{s.Conf.Voters, s.Conf.Learners} {
		for _, m := range members {
			if m.ID == g.h.o.Self.ID {
				continue
			}
			c := g.cover(m.ID)
			if c != nil && c.state == coverOn {
				if _, ok := g.r.Coverable(m.ID); ok { // it may have asked for votes, say: the core spoke to it again
					g.r.SetCovered(now, m.ID, true)
				}
				continue
			}
			if c != nil && c.state == coverParked {
				continue
			}
			if c == nil {
				g.covers = append(g.covers, leaderCoverage{peer: m.ID})
				c = &g.covers[len(g.covers)-1]
			}
			if g.h.pairs.silent(m.ID, now) {
				if g.park(now, c) {
					g.h.pairs.uncoverGroup(g, m.ID) // if it was proposed
				}
				continue
			}
			if c.state == coverProposed || now < c.retryAt {
				continue
			}
			commit, ok := g.r.Coverable(m.ID)
			if !ok {
				continue
			}
			c.state, c.term = coverProposed, s.Term
			g.h.pairs.propose(g, m.ID, s.Term, commit, now)
		}
	}
}

// leaderCoverageChanged looks at what became of a proposal, or of coverage.
func (g *Group) leaderCoverageChanged(now raft.Time, id raft.NodeID) {
	c := g.cover(id)
	if c == nil || c.state == coverOff {
		return
	}
	if c.state == coverParked {
		if !g.h.pairs.isParked(g, id) {
			g.unpark(now, c)
		}
		return
	}
	known, on, sentAt := g.h.pairs.outState(g, id, c.term)
	switch {
	case !known && g.park(now, c): // the session was lost because nobody answers
	case !known:
		c.state, c.retryAt = coverOff, now+raft.Time(g.h.o.ElectionTimeout)
		g.r.SetCovered(now, id, false)
		g.unparkUnlessQuorum(now)
	case on && c.state == coverProposed:
		c.state = coverOn
		g.r.PeerAcked(max(now, sentAt), id, c.term, sentAt)
		g.r.SetCovered(now, id, true)
	}
}

// feedAcks gives the core what the pair heartbeats have brought for this group: before leases and check-quorum are
// looked at, so that an idle group need not be touched at every heartbeat.
func (g *Group) feedAcks(now raft.Time) {
	for i := range g.covers {
		if c := &g.covers[i]; c.state == coverOn {
			if _, on, sentAt := g.h.pairs.outState(g, c.peer, c.term); on {
				g.r.PeerAcked(max(now, sentAt), c.peer, c.term, sentAt)
			}
		}
	}
}

// coverEntries does what new entries of a leader ask for, before anybody can hear of them: who is covered stays so, as what he owes for is
// the core's to watch, unless they change who is a member. Who is parked may be needed for them.
func (g *Group) coverEntries(now raft.Time, entries []raft.Entry) {
	if len(g.covers) == 0 {
		return
	}
	for i := range entries {
		if t := entries[i].Type; t == raft.EntryConfig || t == raft.EntryNoop {
			g.uncoverAll(now)
			return
		}
	}
	for i := range g.covers {
		if c := &g.covers[i]; c.state == coverParked {
			g.unpark(now, c)
		}
	}
}

// uncoverAll takes a led group out everywhere: it leads no more, or its members change.
func (g *Group) uncoverAll(now raft.Time) {
	if len(g.covers) == 0 {
		return
	}
	g.feedAcks(now)
	for i := range g.covers {
		switch c := &g.covers[i]; c.state {
		case coverOff:
		case coverParked:
			g.unpark(now, c)
		default:
			g.h.pairs.uncoverGroup(g, c.peer)
			g.r.SetCovered(now, c.peer, false)
		}
	}
	g.covers = g.covers[:0]
}

// feedPromise gives the core the promise that answers have made for this group, so that it refuses votes by it.
func (g *Group) feedPromise(now raft.Time) {
	if !g.followerHint.Load() {
		return
	}
	ps := &g.h.pairs
	ps.mu.Lock()
	f := &g.follower
	leader, term, at := f.leader, f.term, f.at
	if f.entry != nil {
		leader, term, at = f.entry.leader, f.entry.term, f.entry.in.lastHeard
	} else {
		f.unsettled = false
		g.followerHint.Store(f.ask != nil)
	}
	ps.mu.Unlock()
	// The heartbeat may have come after this turn began: the core must not cut the promise to its own idea of now.
	g.r.HeardFrom(max(now, at), leader, term, at)
}

// leaveCoverage takes this follower out before it does what a covered one may not, and makes the core keep the promise
// of the last answer. From here on answers name the group as an exception.
func (g *Group) leaveCoverage(now raft.Time) {
	if !g.followerHint.Load() {
		return
	}
	ps := &g.h.pairs
	ps.mu.Lock()
	if f := &g.follower; f.entry != nil {
		e := f.entry
		f.end(e)
		e.in.except(e)
	}
	ps.mu.Unlock()
	g.feedPromise(now)
	g.wake(now)
}

func (g *Group) wake(now raft.Time) {
	if g.resting {
		g.resting = false
		g.r.SetResting(now, false)
	}
}

// guardPromise looks at a message before the core sees it. A covered follower may not vote, change term or campaign: it
// takes itself out first. Requests for pre-votes change nothing here, but are refused by the promise; on a leader,
// requests for votes are refused by what its followers have answered.
func (g *Group) guardPromise(now raft.Time, m *raft.Message) {
	if len(g.covers) > 0 && (m.Type == raft.MsgPreVote || m.Type == raft.MsgVote) {
		g.feedAcks(now)
	}
	if !g.followerHint.Load() {
		return
	}
	switch m.Type {
	case raft.MsgPreVote:
		g.feedPromise(now)
	case raft.MsgVote, raft.MsgTimeoutNow, raft.MsgSnap:
		g.leaveCoverage(now)
	default:
		if m.Term != g.r.Status().Term {
			g.leaveCoverage(now)
		}
	}
}

// afterStep is the second line: whatever else may have ended this follower's allegiance ends its coverage.
func (g *Group) afterStep(now raft.Time) {
	if !g.followerHint.Load() {
		return
	}
	s := g.r.Status()
	if s.Role == raft.Follower && s.Term == g.restsIn && s.Leader == g.restsWith {
		return
	}
	ps := &g.h.pairs
	ps.mu.Lock()
	e := g.follower.entry
	stays := e == nil || s.Role == raft.Follower && s.Term == e.term && s.Leader == e.leader
	ps.mu.Unlock()
	if !stays {
		g.leaveCoverage(now)
	}
}

// followerCoverageChanged looks at what a session wants of this follower, or no longer wants.
func (g *Group) followerCoverageChanged(now raft.Time) {
	ps := &g.h.pairs
	s := g.r.Status()
	ps.mu.Lock()
	f := &g.follower
	if e := f.ask; e != nil {
		f.ask = nil
		// Complete up to what the leader has committed, and knowing so: nobody will tell it later.
		fit := s.Role == raft.Follower && s.Term == e.term && s.Leader == e.leader && s.Last == e.commit &&
			s.Commit == e.commit && s.Stable == e.commit && !g.full && !g.blocked
		switch {
		case e.state != inPending || e.in.entries[e.id] != e || f.entry != nil:
		case fit:
			e.state = inCovered
			delete(e.in.excepted, e.id)
			f.entry = e
			g.restsIn, g.restsWith = e.term, e.leader
		default:
			e.state = inExcept
		}
	}
	covered := f.entry != nil
	if covered || f.unsettled {
		g.followerHint.Store(true)
	}
	ps.mu.Unlock()
	g.feedPromise(now)
	if !covered {
		g.wake(now)
	} else if !g.resting {
		g.resting = true
		g.r.SetResting(now, true)
	}
}

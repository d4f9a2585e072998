// A dead peer is probed once per pair, not once per group (TiKV #19070): a group at rest but for a follower on a broker that
// answers nothing is parked. Its leader sends nothing to that follower until the pair hears of the broker again, or the
// group has something to say to the others. Parking gives no promise and counts for nothing: it only withholds heartbeats that
// nobody answers. docs/design/pair-heartbeats.md, "A dead peer".

package multi

import (
	"cmp"
	"slices"

	"github.com/balsamq/balsa/raft"
)

// silentOpens is how many openings must have gone unanswered, besides the time, before a peer counts as silent: a
// process that was itself not running has sent none.
const silentOpens = 3

// silentLocked: the peer has not answered this host for as long as ends a session, and was asked all the while.
func (ps *pairs) silentLocked(p *peer, now raft.Time) bool {
	s := &p.out
	return s.active && s.acked == 0 && s.opens >= silentOpens && now-s.opened >= ps.lostAfter()
}

// silent reports whether the peer is silent, and asks it if nobody does.
func (ps *pairs) silent(id raft.NodeID, now raft.Time) bool {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	p := ps.peerLocked(id)
	ps.openLocked(p, now)
	return ps.silentLocked(p, now)
}

// suspectLocked goes on from a session that was lost for want of answers: the heartbeats of that one were openings enough, if
// they were sent.
func (ps *pairs) suspectLocked(p *peer, unanswered uint64, since, now raft.Time) {
	ps.openLocked(p, now)
	if unanswered >= silentOpens {
		p.out.opens, p.out.opened = silentOpens, since
	}
}

// park notes that g has nothing to say to a silent peer until it is heard; false: it is not silent.
func (ps *pairs) park(g *Group, to raft.NodeID, now raft.Time) bool {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	p := ps.peers[to]
	if p == nil || !ps.silentLocked(p, now) {
		return false
	}
	p.out.parked[g.id] = g
	p.out.wanted = now
	return true
}

func (ps *pairs) unpark(g *Group, to raft.NodeID) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	if p := ps.peers[to]; p != nil && p.out.parked[g.id] == g {
		delete(p.out.parked, g.id)
	}
}

// isParked: nobody has heard of the peer since g was parked.
func (ps *pairs) isParked(g *Group, to raft.NodeID) bool {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	p := ps.peers[to]
	return p != nil && p.out.parked[g.id] == g
}

// unparkAll has every parked group look at its follower again. The caller holds mu.
func (ps *pairs) unparkAll(p *peer) {
	s := &p.out
	s.opens = 0
	if len(s.parked) == 0 {
		return
	}
	gs := make([]*Group, 0, len(s.parked))
	for _, g := range s.parked {
		gs = append(gs, g)
	}
	clear(s.parked)
	slices.SortFunc(gs, func(a, b *Group) int { return cmp.Compare(a.id, b.id) })
	for _, g := range gs {
		_ = g.in.pushEvent(ps.h, g, event{kind: evPairOut, peer: p.id}) // refused: the group has stopped
	}
}

// idle: nobody waits for the opening to be answered any more.
func (s *outSession) idle(now, after raft.Time) bool {
	return s.acked == 0 && len(s.entries)+len(s.uncover)+len(s.parked) == 0 && now-s.wanted >= after
}

// ---- the group's part, on its worker

// park stops this leader's heartbeats to a silent follower, if the others make a quorum without it whose heartbeats the pairs
// carry: what keeps the group in order, check-quorum and the lease, must not rest on whoever is parked.
func (g *Group) park(now raft.Time, c *leaderCoverage) bool {
	if c.heardAt != 0 && now-c.heardAt < raft.Time(g.h.o.ElectionTimeout) {
		return false // it lives, though its process may be too slow to answer for all its groups
	}
	if !g.restsWithoutParked() || !g.h.pairs.park(g, c.peer, now) {
		return false
	}
	c.state = coverParked
	g.peersMoved = true
	g.r.Park(now, c.peer)
	return true
}

// unpark takes up heartbeats to a follower again.
func (g *Group) unpark(now raft.Time, c *leaderCoverage) {
	g.h.pairs.unpark(g, c.peer)
	c.state = coverOff
	g.peersMoved = true
	g.r.SetCovered(now, c.peer, false)
}

// restsWithoutParked: all that is in the log is committed, and this leader and the followers that are covered now are a quorum: so there is
// nothing that a parked follower could be needed for.
func (g *Group) restsWithoutParked() bool {
	s := g.r.Status()
	if s.Role != raft.Leader || s.Conf.Joint() || s.Commit != s.Last {
		return false
	}
	n := 0
	for _, m := range s.Conf.Voters {
		if m.ID == s.Self.ID {
			n++
		} else if c := g.cover(m.ID); c != nil && c.state == coverOn {
			if _, on, _ := g.h.pairs.outState(g, m.ID, c.term); on {
				n++
			}
		}
	}
	return n > len(s.Conf.Voters)/2
}

// unparkUnlessQuorum: one that was covered is not any more. If the rest is no quorum, all members must be asked whether they
// still follow, parked ones too.
func (g *Group) unparkUnlessQuorum(now raft.Time) {
	if g.restsWithoutParked() {
		return
	}
	for i := range g.covers {
		if g.covers[i].state == coverParked {
			g.unpark(now, &g.covers[i])
		}
	}
}

// heardFrom notes a follower's message: it is not parked then, nor soon after. Else a broker whose disk hangs, which answers its
// groups' own heartbeats but none of the pair's, would be parked at each answer and asked at once.
func (g *Group) heardFrom(now raft.Time, from raft.NodeID) {
	if c := g.cover(from); c != nil {
		c.heardAt = now
		if c.state == coverParked {
			g.unpark(now, c)
		}
	}
}

// peers appends to ps, which is empty, what the core knows of the other members, with parked ones shown as what they are: not covered.
func (g *Group) peers(ps []raft.PeerStatus) []raft.PeerStatus {
	ps = g.r.AppendPeers(ps)
	for i := range ps {
		if c := g.cover(ps[i].Member.ID); c != nil && c.state == coverParked {
			ps[i].Covered = false
		}
	}
	return ps
}

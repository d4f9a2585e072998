// The follower side of a pair session: which groups this host has promised to leave alone while the peer's heartbeats
// come, and the promise itself.

package multi

import (
	"cmp"
	"slices"

	"github.com/balsamq/balsa/raft"
)

type inState uint8

const (
	inExcept  inState = iota // not promised: named in every answer
	inPending                // the same, and the group's worker has been asked
	inCovered                // promised anew by every answer
)

// inSession is the follower side of a session.
type inSession struct {
	id        uint64
	seq       uint64    // highest heartbeat seen: lower ones are dropped, so that their changes take effect in order
	lastHeard raft.Time // when that was; every covered group's promise runs from here
	entries   map[raft.GroupID]*inEntry
	excepted  map[raft.GroupID]struct{} // entries that are not inCovered
}

type inEntry struct {
	in     *inSession
	leader raft.NodeID
	id     raft.GroupID
	term   raft.Term
	commit raft.Index
	state  inState
	g      *Group // whose Group.follower.entry (inCovered) or .ask (inPending) this may be
}

// followerCoverage is a group's side of it; guarded by pairs.mu.
type followerCoverage struct {
	entry *inEntry // covered
	ask   *inEntry // a leader proposes it
	// promise is what is left of coverage that has ended: it is given to the core before anything else happens.
	leader    raft.NodeID
	term      raft.Term
	at        raft.Time
	unsettled bool // promise not yet given to the core, or the core's election timer not yet switched on again
}

// except takes an entry out: from now on it is named in every answer, until the leader takes it out as well.
func (s *inSession) except(e *inEntry) {
	e.state = inExcept
	if s.entries[e.id] == e {
		s.excepted[e.id] = struct{}{}
	}
}

// end takes the promise over from a covered entry.
func (f *followerCoverage) end(e *inEntry) {
	f.leader, f.term, f.at, f.unsettled = e.leader, e.term, e.in.lastHeard, true
	f.entry = nil
}

// release ends an entry from outside of the group's worker, which is told.
func (ps *pairs) release(e *inEntry) {
	g := e.g
	if g.follower.ask == e {
		g.follower.ask = nil
	}
	if g.follower.entry == e {
		g.follower.end(e)
		_ = g.in.pushEvent(ps.h, g, event{kind: evPairIn}) // refused: the group has stopped
	}
}

// heard takes a heartbeat and makes the answer; nil: none is due.
func (ps *pairs) heard(from raft.NodeID, m *PairMessage) *PairMessage {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	now := ps.h.now() // under the lock: no group can be taken out between this reading and the answer
	p := ps.peerLocked(from)
	s := p.in
	answer := &PairMessage{Response: true, Session: m.Session, Seq: m.Seq, SentAt: m.SentAt}
	switch {
	case m.Seq == 0:
		return nil
	case m.Seq == 1:
		switch {
		case s == nil || m.Session > s.id:
			ps.loseIn(p)
			s = &inSession{id: m.Session, seq: 1,
				entries: make(map[raft.GroupID]*inEntry), excepted: make(map[raft.GroupID]struct{})}
			p.in = s
		case m.Session < s.id || s.seq > 1:
			return nil
		}
		s.lastHeard = now
		ps.armLocked(p)
		return answer
	case s == nil || m.Session != s.id:
		ps.h.stats.pairRefused.Add(1)
		answer.Seq = 0
		return answer
	case m.Seq <= s.seq:
		return nil
	}
	s.seq = m.Seq
	for _, id := range m.Uncover {
		if e := s.entries[id]; e != nil {
			ps.release(e) // keeps the promise made by the last answer; this one makes none
			delete(s.entries, id)
			delete(s.excepted, id)
		}
	}
	s.lastHeard = now
	for _, c := range m.Cover {
		g := ps.h.Group(c.Group)
		e := s.entries[c.Group]
		if e != nil && e.g == g && e.term == c.Term && e.commit == c.Commit && e.state != inExcept {
			continue
		}
		if e != nil {
			ps.release(e)
		}
		if g == nil {
			if e == nil { // nothing was promised, and the leader repeats the question: nothing to remember
				answer.Except = append(answer.Except, c.Group)
			} else {
				s.except(e)
			}
			continue
		}
		e = &inEntry{in: s, leader: from, id: c.Group, term: c.Term, commit: c.Commit, g: g, state: inPending}
		s.entries[c.Group] = e
		s.excepted[c.Group] = struct{}{}
		if ask := g.follower.ask; ask == nil || ask.term <= e.term {
			g.follower.ask = e
			_ = g.in.pushEvent(ps.h, g, event{kind: evPairIn}) // refused: the group has stopped, and stays excepted
		}
	}
	for id := range s.excepted {
		answer.Except = append(answer.Except, id)
	}
	slices.Sort(answer.Except)
	ps.armLocked(p)
	return answer
}

// loseIn ends a session of the follower side: its groups are woken. Their election timers have been running since the
// peer was last heard, each with its own random wait, so that they do not all campaign at once (TiKV #19070).
func (ps *pairs) loseIn(p *peer) {
	if p.in == nil {
		return
	}
	es := make([]*inEntry, 0, len(p.in.entries))
	for _, e := range p.in.entries {
		es = append(es, e)
	}
	slices.SortFunc(es, func(a, b *inEntry) int { return cmp.Compare(a.id, b.id) })
	if len(es) > 0 {
		ps.h.stats.pairLost.Add(1)
	}
	for _, e := range es {
		if e.state == inCovered {
			ps.h.stats.woken.Add(1)
		}
		ps.release(e)
	}
	p.in = nil
}

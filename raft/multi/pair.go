// Heartbeats between two brokers, in place of those of every idle group that they share: sessions and messages.
// The rules, and why no lease can outlive a promise, are in docs/design/pair-heartbeats.md. The leader side of a session
// is in this file, the follower side in pair_follower.go, and what a group does about it in coverage.go.

package multi

import (
	"cmp"
	"slices"
	"sync"

	"github.com/balsamq/balsa/raft"
)

// pairs is the state of all sessions, both sides. One lock for all: a group that is busy has nothing here.
type pairs struct {
	h     *Host
	mu    sync.Mutex // protects all below, and Group.follower
	peers map[raft.NodeID]*peer
	count uint64 // sessions begun
}

// peer is another broker.
type peer struct {
	id    raft.NodeID
	timer timerItem
	out   outSession // this host leads the groups in it
	in    *inSession // this host follows in the groups in it; nil: none
}

// outSession is the leader side. A session begins with Seq 1, which carries nothing and is repeated until it is answered.
type outSession struct {
	active    bool
	id        uint64
	seq       uint64    // of the last heartbeat sent
	acked     uint64    // highest that was answered; 0: not even the opening
	ackedSent raft.Time // when that was sent
	nextSend  raft.Time

	// An opening that nobody answers is how a dead peer is probed, once for all groups: see pair_silent.go.
	opened raft.Time // when the first opening was sent, or the peer was last known to live
	opens  int       // openings sent since
	wanted raft.Time // when a group last had a use for the session
	parked map[raft.GroupID]*Group

	entries map[raft.GroupID]*outEntry
	queue   []*outEntry // wait for their place in a heartbeat, in order
	carried []*outEntry // are in every heartbeat until confirmed; at most maxPairDeltas

	uncover        map[raft.GroupID]uint64 // groups to take out, and the first heartbeat that said so (0: none yet)
	uncoverQueue   []raft.GroupID
	uncoverCarried []raft.GroupID // at most maxPairDeltas
}

// outEntry is a group that this host leads and wants covered, or has covered.
type outEntry struct {
	g      *Group
	term   raft.Term
	commit raft.Index
	first  uint64 // the first heartbeat that carried it: answers to earlier ones say nothing about it
	except uint64 // the last answer in which it was an exception
	tries  int    // answers in which it was
	on     bool   // confirmed
	gone   bool   // no longer in entries
	known  bool   // it replaced an uncover that the follower may not have seen: it may have an older entry
}

func (ps *pairs) init(h *Host) {
	ps.h = h
	ps.peers = make(map[raft.NodeID]*peer)
}

func (ps *pairs) peerLocked(id raft.NodeID) *peer {
	p := ps.peers[id]
	if p == nil {
		p = &peer{id: id}
		p.timer.peer = p
		ps.peers[id] = p
	}
	return p
}

// lostAfter is how long either side of a session does without the other. The follower's election timers have run since
// it last heard from the leader, so waking early costs nothing; the leader's check-quorum begins anew, so it must be early.
func (ps *pairs) lostAfter() raft.Time { return raft.Time(ps.h.o.ElectionTimeout / 2) }

func (ps *pairs) covered() (n int) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	for _, p := range ps.peers {
		n += len(p.out.entries)
		if p.in != nil {
			n += len(p.in.entries)
		}
	}
	return n
}

// stalled: to its peers this process is dead, for nobody knows whether it will ever again write or answer.
func (h *Host) stalled(now raft.Time) bool {
	bound := raft.Time(h.o.StallBound)
	if at := h.runq.oldest(); at != 0 && now-at > bound {
		return true
	}
	at := h.flusher.oldest()
	return at != 0 && now-at > bound
}

// propose wants g, led by this host in term, covered at a peer.
func (ps *pairs) propose(g *Group, to raft.NodeID, term raft.Term, commit raft.Index, now raft.Time) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	p := ps.peerLocked(to)
	s := &p.out
	ps.openLocked(p, now)
	if old := s.entries[g.id]; old != nil {
		old.gone = true
	}
	e := &outEntry{g: g, term: term, commit: commit}
	if _, ok := s.uncover[g.id]; ok {
		delete(s.uncover, g.id) // the follower takes the newer word
		e.known = true
	}
	s.entries[g.id] = e
	s.queue = append(s.queue, e)
}

// openLocked begins a session, unless there is one.
func (ps *pairs) openLocked(p *peer, now raft.Time) {
	if !p.out.active {
		ps.count++
		p.out = outSession{
			active: true, id: ps.h.o.Boot<<32 | ps.count, nextSend: now,
			entries: make(map[raft.GroupID]*outEntry), uncover: make(map[raft.GroupID]uint64), parked: make(map[raft.GroupID]*Group),
		}
		ps.h.timers.arm(&p.timer, now)
	}
	p.out.wanted = now
}

// uncoverGroup takes a group of the leader side out.
func (ps *pairs) uncoverGroup(g *Group, to raft.NodeID) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	if p := ps.peers[to]; p != nil {
		if e := p.out.entries[g.id]; e != nil && e.g == g {
			p.out.remove(e)
		}
	}
}

// remove forgets an entry, and has the follower told so if it may know of it.
func (s *outSession) remove(e *outEntry) {
	id := e.g.id
	e.gone = true
	delete(s.entries, id)
	if e.first != 0 || e.known {
		s.uncover[id] = 0
		s.uncoverQueue = append(s.uncoverQueue, id)
	}
}

// outState says how a group stands at a peer, and when the latest heartbeat that was answered for it had been sent.
func (ps *pairs) outState(g *Group, to raft.NodeID, term raft.Term) (known, on bool, sentAt raft.Time) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	p := ps.peers[to]
	if p == nil {
		return false, false, 0
	}
	e := p.out.entries[g.id]
	if e == nil || e.g != g || e.term != term {
		return false, false, 0
	}
	return true, e.on, p.out.ackedSent
}

// fire does what time has made due for a peer.
func (ps *pairs) fire(p *peer, now raft.Time) {
	h := ps.h
	stalled := h.stalled(now)
	ps.mu.Lock()
	if p.in != nil && now-p.in.lastHeard >= ps.lostAfter() {
		ps.loseIn(p)
	}
	var m *PairMessage
	if s := &p.out; s.active && now >= s.nextSend {
		s.nextSend = now + raft.Time(h.o.HeartbeatInterval)
		unanswered, lastHeard := s.seq-s.acked, s.ackedSent
		switch {
		case s.acked > 0 && now-s.ackedSent >= ps.lostAfter():
			ps.loseOut(p)
			ps.suspectLocked(p, unanswered, lastHeard, now)
		case s.idle(now, raft.Time(h.o.ElectionTimeout)):
			p.out = outSession{}
		case stalled:
			h.stats.pairStalled.Add(1)
		default:
			m = s.heartbeat(now)
		}
	}
	ps.armLocked(p)
	ps.mu.Unlock()
	if m != nil {
		h.stats.pairHeartbeats.Add(1)
		h.o.Transport.SendPair(p.id, m)
	}
}

func (ps *pairs) armLocked(p *peer) {
	at := never
	if p.out.active {
		at = p.out.nextSend
	}
	if p.in != nil {
		at = min(at, p.in.lastHeard+ps.lostAfter())
	}
	ps.h.timers.arm(&p.timer, at)
}

// heartbeat composes the next one.
func (s *outSession) heartbeat(now raft.Time) *PairMessage {
	m := &PairMessage{Session: s.id, SentAt: now}
	if s.acked == 0 {
		s.seq, m.Seq = 1, 1
		if s.opens++; s.opens == 1 {
			s.opened = now
		}
		return m
	}
	s.seq++
	m.Seq = s.seq
	for len(s.queue) > 0 && len(s.carried) < maxPairDeltas {
		if e := s.queue[0]; !e.gone {
			e.first = s.seq
			s.carried = append(s.carried, e)
		}
		s.queue[0] = nil
		s.queue = s.queue[1:]
	}
	for _, e := range s.carried {
		if !e.gone {
			m.Cover = append(m.Cover, CoveredGroup{Group: e.g.id, Term: e.term, Commit: e.commit})
		}
	}
	for len(s.uncoverQueue) > 0 && len(s.uncoverCarried) < maxPairDeltas {
		id := s.uncoverQueue[0]
		s.uncoverQueue = s.uncoverQueue[1:]
		if first, ok := s.uncover[id]; ok && first == 0 {
			s.uncover[id] = s.seq
			s.uncoverCarried = append(s.uncoverCarried, id)
		}
	}
	for _, id := range s.uncoverCarried {
		if first := s.uncover[id]; first != 0 {
			m.Uncover = append(m.Uncover, id)
		}
	}
	return m
}

// loseOut ends a session of the leader side: nothing is covered any more, and check-quorum works again.
func (ps *pairs) loseOut(p *peer) {
	ps.h.stats.pairLost.Add(1)
	es := make([]*outEntry, 0, len(p.out.entries))
	for _, e := range p.out.entries {
		e.gone = true
		es = append(es, e)
	}
	slices.SortFunc(es, func(a, b *outEntry) int { return cmp.Compare(a.g.id, b.g.id) })
	ps.unparkAll(p)
	p.out = outSession{}
	for _, e := range es {
		_ = e.g.in.pushEvent(ps.h, e.g, event{kind: evPairOut, peer: p.id}) // refused: the group has stopped
	}
}

// DeliverPair takes a heartbeat of another broker, or its answer to one of ours. m is the host's from then on.
func (h *Host) DeliverPair(from raft.NodeID, m *PairMessage) {
	if from == 0 || from == h.o.Self.ID || len(m.Cover) > maxPairDeltas || len(m.Uncover) > maxPairDeltas {
		return
	}
	if m.Response {
		h.pairs.answered(from, m)
		return
	}
	now := h.now()
	if h.stalled(now) {
		h.stats.pairStalled.Add(1)
		return
	}
	if answer := h.pairs.heard(from, m); answer != nil {
		h.stats.pairAnswers.Add(1)
		h.o.Transport.SendPair(from, answer)
	}
}

// answered takes an answer. Late, repeated and foreign ones say nothing.
func (ps *pairs) answered(from raft.NodeID, m *PairMessage) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	now := ps.h.now()
	p := ps.peers[from]
	if p == nil || !p.out.active || m.Session != p.out.id {
		return
	}
	s := &p.out
	if m.Seq == 0 { // the follower does not know this session: it restarted, or gave it up
		ps.loseOut(p)
		return
	}
	if m.Seq <= s.acked || m.Seq > s.seq || m.SentAt > now || m.SentAt < s.ackedSent {
		return
	}
	opening := s.acked == 0
	s.acked, s.ackedSent = m.Seq, m.SentAt
	ps.unparkAll(p) // it lives
	if opening {
		s.nextSend = now
		ps.armLocked(p)
		return
	}
	tell := func(e *outEntry) {
		_ = e.g.in.pushEvent(ps.h, e.g, event{kind: evPairOut, peer: from}) // refused: the group has stopped
	}
	for _, id := range m.Except {
		e := s.entries[id]
		if e == nil {
			if _, told := s.uncover[id]; !told {
				s.uncover[id] = 0
				s.uncoverQueue = append(s.uncoverQueue, id)
			}
			continue
		}
		if e.first == 0 || m.Seq < e.first || e.except == m.Seq {
			continue // about an earlier life of this entry
		}
		e.except = m.Seq
		e.tries++
		if e.on || e.tries >= maxPairTries {
			s.remove(e)
			tell(e)
		}
	}
	kept := s.carried[:0]
	for _, e := range s.carried {
		switch {
		case e.gone:
		case m.Seq < e.first || e.except == m.Seq:
			kept = append(kept, e)
		default:
			e.on = true
			tell(e)
		}
	}
	clear(s.carried[len(kept):])
	s.carried = kept
	still := s.uncoverCarried[:0]
	for _, id := range s.uncoverCarried {
		if first := s.uncover[id]; first == 0 {
			continue // covered again meanwhile, or queued once more
		} else if first <= m.Seq {
			delete(s.uncover, id)
		} else {
			still = append(still, id)
		}
	}
	s.uncoverCarried = still
	if len(s.entries) == 0 && len(s.uncover) == 0 {
		p.out = outSession{} // nothing to say; the follower forgets the session by itself
	}
}

// dropGroup takes a group that stops out of everything, both sides.
func (ps *pairs) dropGroup(g *Group) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	ids := make([]raft.NodeID, 0, len(ps.peers))
	for id := range ps.peers {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	for _, id := range ids {
		if e := ps.peers[id].out.entries[g.id]; e != nil && e.g == g {
			ps.peers[id].out.remove(e)
		}
		if ps.peers[id].out.parked[g.id] == g {
			delete(ps.peers[id].out.parked, g.id)
		}
	}
	f := &g.follower
	if f.entry != nil {
		f.entry.in.except(f.entry)
	}
	f.entry, f.ask = nil, nil
	g.followerHint.Store(false)
}

// sendsTo: a message of this leader to a member may have been on its way.
func (g *Group) sendsTo(id raft.NodeID) bool {
	g.statusMu.Lock()
	defer g.statusMu.Unlock()
	s := &g.status
	return s.Role == raft.Leader && s.Err == nil && (s.CoveredPeers == 0 || slices.ContainsFunc(g.members, func(m raft.PeerStatus) bool {
		return m.Member.ID == id && (!m.Covered || m.Match < s.Last)
	}))
}

// PeerUnreachable says that messages to a broker were lost. Groups that are sending to it stop their pipelines until it
// answers. Nothing else is concluded: sessions and terms end by silence, which is what the other side goes by too.
func (h *Host) PeerUnreachable(id raft.NodeID) {
	for _, g := range h.sorted(func(g *Group) bool { return g.sendsTo(id) }) {
		_ = g.in.pushEvent(h, g, event{kind: evUnreachable, peer: id}) // refused: the group has stopped
	}
}

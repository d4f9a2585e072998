// Being looked at: what an Observer is told, what happens to roles over time, and sums over all groups.

package multi

import (
	"errors"
	"time"

	"github.com/balsamq/balsa/raft"
)

// Observer is told how long things took, by the host's clock. It is called by workers and flushers, perhaps several at
// once, in the middle of their work: it must neither block nor call back, and should not allocate.
type Observer interface {
	// Committed: a proposal was staged by this leader so long before it was applied.
	Committed(d time.Duration)
	// Synced: a log's Sync of about so many bytes took so long. Bytes 0: only the mark that says what is synced.
	Synced(g raft.GroupID, d time.Duration, bytes int64, err error)
	// LeaderFound: a replica knows a leader again, in this term, after so long without one. Its first one counts too.
	LeaderFound(g raft.GroupID, leader raft.NodeID, term raft.Term, d time.Duration)
}

// countRefusal counts what was refused at the door for want of room.
func (h *Host) countRefusal(err error) {
	if errors.Is(err, ErrOverloaded) {
		h.stats.overloaded.Add(1)
	}
}

// seenRole is what the last change of role left. Status cannot serve for it: it is published at other times too.
type seenRole struct {
	role   raft.Role
	term   raft.Term
	leader raft.NodeID
	stood  raft.Term // the last term in which this replica stood for election
}

// observeRole counts elections and leaders. Changes within one turn of the core are seen as one.
func (g *Group) observeRole(now raft.Time, s *raft.Status) {
	c, was := &g.h.stats, g.seen
	if s.Role == raft.PreCandidate && was.role != raft.PreCandidate {
		c.preVotes.Add(1)
	}
	if (s.Role == raft.Candidate || s.Role == raft.Leader) && s.Term > was.stood {
		c.elections.Add(1)
		g.elections++
		g.seen.stood = s.Term
	}
	if s.Role == raft.Leader && (was.role != raft.Leader || was.term != s.Term) {
		c.electionsWon.Add(1)
	}
	if was.role == raft.Leader && (s.Role != raft.Leader || was.term != s.Term) {
		c.stepDowns.Add(1)
	}
	if s.Leader != 0 && (was.leader != s.Leader || was.term != s.Term) {
		c.leaderChanges.Add(1)
	}
	g.seen.role, g.seen.term, g.seen.leader = s.Role, s.Term, s.Leader
	switch {
	case s.Leader == 0 && g.leaderless == 0:
		g.leaderless = now
	case s.Leader != 0 && g.leaderless != 0:
		if g.h.o.Observer != nil {
			g.h.o.Observer.LeaderFound(g.id, s.Leader, s.Term, time.Duration(now-g.leaderless))
		}
		g.leaderless = 0
	}
}

// Summary are sums over all groups of a host at one moment, about: each group's last turn counts.
type Summary struct {
	Followers, PreCandidates, Candidates, Leaders int

	Ready      int // leaders that have applied their own no-op
	Leaseless  int // of these: without a lease now
	Leaderless int // groups of which this replica knows no leader
	// Covered and Uncovered are leaders all of whose followers rest under pair heartbeats, and the others.
	Covered, Uncovered int
	Resting            int // followers that rest under a pair heartbeat
	Full, Failed       int
	Damaged            int        // neither vote nor campaign, because something durable is missing
	Joint              int        // leaders with a membership change in progress
	Installing         int        // followers that install a snapshot
	SendingSnapshots   int        // followers that this host's leaders bring up with a snapshot
	CommitLag          raft.Index // entries appended by leaders and not committed, all together
	UncommittedBytes   int64
}

// Summarize looks at every group. It takes no group's time.
func (h *Host) Summarize() (sum Summary) {
	now, acked := h.now(), h.pairs.ackedSent()
	h.mu.RLock()
	defer h.mu.RUnlock()
	for _, g := range h.groups { // only sums: the order does not matter
		g.statusMu.Lock()
		sum.add(h, &g.status, g.members, now, acked)
		g.statusMu.Unlock()
	}
	return sum
}

func (sum *Summary) add(h *Host, s *Status, members []raft.PeerStatus, now raft.Time, acked map[raft.NodeID]raft.Time) {
	if s.Err != nil {
		sum.Failed++
	}
	if s.Full {
		sum.Full++
	}
	if s.VoteAfter != 0 {
		sum.Damaged++
	}
	if s.Leader == 0 {
		sum.Leaderless++
	}
	switch s.Role {
	case raft.Follower:
		sum.Followers++
		if s.Resting {
			sum.Resting++
		}
		if s.Installing {
			sum.Installing++
		}
	case raft.PreCandidate:
		sum.PreCandidates++
	case raft.Candidate:
		sum.Candidates++
	case raft.Leader:
		sum.Leaders++
		if s.CoveredPeers == len(members) {
			sum.Covered++
		} else {
			sum.Uncovered++
		}
		if s.Conf.Joint() {
			sum.Joint++
		}
		for i := range members {
			if members[i].State == raft.SnapshotState {
				sum.SendingSnapshots++
			}
		}
		sum.CommitLag += s.Last - s.Commit
		sum.UncommittedBytes += s.Uncommitted
		if s.Ready {
			sum.Ready++
			if !h.leased(s, members, now, acked) {
				sum.Leaseless++
			}
		}
	}
}

// leased says of a ready leader's published status whether it holds a lease. It is for showing: reads ask the core.
func (h *Host) leased(s *Status, members []raft.PeerStatus, now raft.Time, acked map[raft.NodeID]raft.Time) bool {
	if s.Transferee != 0 {
		return false
	}
	lease := raft.Time(h.o.ElectionTimeout - h.o.ClockDrift)
	for _, half := range [2][]raft.Member{s.Conf.Voters, s.Conf.Outgoing} {
		n := 0
		for _, m := range half {
			if m.ID == s.Self.ID {
				n++
				continue
			}
			for i := range members {
				if p := &members[i]; p.Member.ID == m.ID {
					at := p.AckedAt
					if sent, ok := acked[m.ID]; ok && p.Covered {
						at = max(at, sent)
					}
					if at >= 0 && now-at < lease {
						n++
					}
				}
			}
		}
		if len(half) > 0 && n <= len(half)/2 {
			return false
		}
	}
	return true
}

// ackedSent is, of each peer, when the latest pair heartbeat that it has answered was sent.
func (ps *pairs) ackedSent() map[raft.NodeID]raft.Time {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	out := make(map[raft.NodeID]raft.Time, len(ps.peers))
	for id, p := range ps.peers {
		if p.out.active && p.out.acked > 0 {
			out[id] = p.out.ackedSent
		}
	}
	return out
}

// OldestSync is for how long the longest Sync has been wanted that is not done yet; 0 if there is none. A disk that hangs
// shows here first: it reports nothing.
func (h *Host) OldestSync() time.Duration {
	at := h.flusher.oldest()
	if at == 0 {
		return 0
	}
	return max(0, time.Duration(h.now()-at)) // snapshot work has its time before what waits behind it counts
}

// Inspection is everything about one group, as its worker finds it.
type Inspection struct {
	Status
	Peers []PeerStatus // on a leader, by node id
	// Lease is what is left of a leader's lease; 0: none.
	Lease        time.Duration
	Muted        bool          // a leader whose disk hangs, and which therefore says nothing
	Overloaded   bool          // proposals are held back until something commits
	Blocked      bool          // a snapshot is being installed
	Snapshotting bool          // a snapshot is being taken
	Leaderless   time.Duration // since when no leader is known; 0: one is
	Waiting      int           // proposals in the log that are not applied yet
	Reads        int           // reads that wait for a quorum, or to be applied
	Inbox        int           // messages and proposals that wait for a turn
}

// Inspect has a worker describe the group at its next turn, which costs an idle group a turn. Of one that has stopped done
// learns the last status, and why. done must not block; it is called at once where there will be no turn.
func (g *Group) Inspect(done func(Inspection, error)) {
	if err := g.in.pushEvent(g.h, g, event{kind: evInspect, inspect: done}); err != nil {
		done(Inspection{Status: g.Status()}, err)
	}
}

func (g *Group) inspect(now raft.Time, done func(Inspection, error)) {
	g.feedAcks(now)
	g.publish()
	in := Inspection{Status: g.status, Muted: g.mute, Overloaded: g.heldBack, Blocked: g.blocked, Snapshotting: g.snapshotting}
	if g.leaderless != 0 {
		in.Leaderless = time.Duration(now - g.leaderless)
	}
	if until := g.r.LeaseUntil(); until > now {
		in.Lease = time.Duration(until - now)
	}
	if in.Role == raft.Leader {
		for _, p := range g.peers(nil) {
			in.Peers = append(in.Peers, PeerStatus{PeerStatus: p, Active: p.Covered || p.HeardAt >= 0 && now-p.HeardAt < raft.Time(g.h.o.ElectionTimeout)})
		}
	}
	in.Waiting = len(g.waiting.q) - g.waiting.head + len(g.local.q) - g.local.head + len(g.repeats)
	for i := range g.reads {
		in.Reads += len(g.reads[i].done)
	}
	g.in.mu.Lock()
	in.Inbox = g.in.props
	if g.in.b != nil {
		in.Inbox += len(g.in.b.msgs)
	}
	g.in.mu.Unlock()
	done(in, nil)
}

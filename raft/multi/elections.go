// How many groups of a host stand for election at once. When a broker dies that led thousands of groups, or a whole cluster
// starts, all their election timers end within a quarter of a timeout. If the machine cannot carry that many elections in that
// time, none ends before the candidates' timers do, all try again in a higher term, and the work of failed elections leaves no room
// for one that succeeds: so it stays, for ever (docs/design/0015-many-groups.md). So a group whose timer has ended
// waits for its turn to campaign, and has it until it leads with its no-op applied, follows, or has to try again; and for campaignTurn
// at most, since a leader whose followers' disks hang, or are far behind, may be long in committing its no-op.
//
// Waiting breaks nothing: a group that campaigns late has been a follower for longer. Campaigns by order (transfers, first leaders)
// and those of the metadata group do not wait.

package multi

import (
	"sync"

	"github.com/balsamq/balsa/raft"
)

// campaignTurn times ElectionTimeout is the longest turn.
const campaignTurn = 2

type electState uint8

const (
	electNot     electState = iota
	electWaiting            // stands in a queue
	electGranted            // may campaign: counted in elections.active
)

// elections is the queue. Groups that try again come behind those that have not tried: some may have no quorum, and would
// keep the others from theirs.
type elections struct {
	mu     sync.Mutex // a leaf; protects all below and Group.elect
	active int        // at most Options.Campaigns
	first  []*Group   // each group in one of the two, at most once
	again  []*Group
}

// mayCampaign takes a place for g, or puts it into the queue.
func (h *Host) mayCampaign(g *Group, again bool) bool {
	e := &h.elections
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case g.elect == electGranted:
		return true
	case g.elect == electWaiting:
		return false
	case e.active < h.o.Campaigns && len(e.first)+len(e.again) == 0:
		e.active++
		g.elect = electGranted
		return true
	case again:
		e.again = append(e.again, g)
	default:
		e.first = append(e.first, g)
	}
	g.elect = electWaiting
	return false
}

// endCampaign gives g's place back, or takes it out of the queue. g's worker calls it.
func (h *Host) endCampaign(g *Group) {
	g.campaignUntil, g.awaitsTurn = 0, false
	e := &h.elections
	e.mu.Lock()
	switch g.elect {
	case electGranted:
		e.active--
	case electWaiting:
		e.first, e.again = without(e.first, g), without(e.again, g)
	}
	g.elect = electNot
	var next []*Group
	for e.active < h.o.Campaigns && len(e.first)+len(e.again) > 0 {
		q := &e.first
		if len(*q) == 0 {
			q = &e.again
		}
		n := (*q)[0]
		(*q)[0] = nil
		*q = (*q)[1:]
		n.elect = electGranted
		e.active++
		next = append(next, n)
	}
	e.mu.Unlock()
	for _, n := range next {
		h.schedule(n)
	}
}

func without(q []*Group, g *Group) []*Group {
	for i := range q {
		if q[i] == g {
			return append(q[:i], q[i+1:]...)
		}
	}
	return q
}

func (h *Host) electState(g *Group) electState {
	h.elections.mu.Lock()
	defer h.elections.mu.Unlock()
	return g.elect
}

// ---- the group's part, on its worker

// campaignDue: this replica's election timer has ended. It reports whether the core may be told.
func (g *Group) campaignDue(now raft.Time) bool {
	if g.id == raft.MetadataGroup || g.r.Status().Role == raft.Leader {
		return true
	}
	if g.campaignUntil != 0 && now-g.campaignedAt >= raft.Time(g.h.o.ElectionTimeout) { // a try has failed
		g.h.endCampaign(g)
		g.tried = true
	} // else it has met a rival, and tries again soon: that ends, and is what the turn is for
	if !g.h.mayCampaign(g, g.tried) {
		g.awaitsTurn = true
		return false
	}
	g.awaitsTurn = false
	g.campaignedAt, g.campaignUntil = now, now+raft.Time(g.h.o.ElectionTimeout/5)
	return true
}

// turnEnds is when the turn to campaign is over, whatever has come of it. Nobody may hear a pre-candidate, so that one is not waited
// for until it tries again.
func (g *Group) turnEnds(role raft.Role) raft.Time {
	if role == raft.PreCandidate {
		return g.campaignUntil
	}
	return g.campaignUntil + campaignTurn*raft.Time(g.h.o.ElectionTimeout)
}

// campaignOver gives the turn to campaign back when there is no use for it any more.
func (g *Group) campaignOver(now raft.Time) {
	s := g.r.Status()
	if s.Leader != 0 && (s.Role != raft.Leader || g.ready) {
		g.tried = false
	}
	if g.campaignUntil == 0 {
		if g.awaitsTurn && g.r.Deadline() > now {
			g.h.endCampaign(g) // it has heard a leader, or voted: the timer runs again
		}
		return
	}
	if stands := s.Role != raft.Follower && !(s.Role == raft.Leader && g.ready); stands && now < g.turnEnds(s.Role) {
		return
	}
	g.tried = g.tried || s.Role == raft.PreCandidate || s.Role == raft.Candidate
	g.h.endCampaign(g)
}

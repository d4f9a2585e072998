// What a leader knows of the other members, for callers that must not stop its worker to ask.

package multi

import (
	"slices"
	"sync"

	"github.com/balsamq/balsa/raft"
)

// PeerStatus is what a leader knows of another member.
type PeerStatus struct {
	raft.PeerStatus
	// Active: it has answered, itself or through the pair heartbeat, within an election timeout.
	Active bool
}

// Peers lists the other members by node id, as the last turn of this leader left them; nil on another replica.
func (g *Group) Peers() []PeerStatus {
	_, ps := g.Look(nil)
	return ps
}

// Look is Status, and what Peers lists appended to dst, of one moment.
func (g *Group) Look(dst []PeerStatus) (Status, []PeerStatus) {
	now := g.h.now()
	g.statusMu.Lock()
	defer g.statusMu.Unlock()
	if g.status.Role != raft.Leader {
		return g.status, dst
	}
	dst = slices.Grow(dst, len(g.members))
	for _, p := range g.members {
		// A covered member's answers reach the core only when it asks; coverage ends when the pair falls silent.
		active := p.Covered || p.HeardAt >= 0 && now-p.HeardAt < raft.Time(g.h.o.ElectionTimeout)
		dst = append(dst, PeerStatus{PeerStatus: p, Active: active})
	}
	return g.status, dst
}

// moves are the led groups whose members may stand otherwise than when they were last taken. A group that rests takes no turn,
// and is never among them.
type moves struct {
	mu     sync.Mutex // guards groups; a leaf
	groups []*Group   // at most all that are led: Group.moved
}

// noteMove is called by the worker that has the group, once what it left is published.
func (h *Host) noteMove(g *Group) {
	if h.o.OnPeersMoved == nil || g.moved.Load() || !g.moved.CompareAndSwap(false, true) {
		return
	}
	h.moves.mu.Lock()
	h.moves.groups = append(h.moves.groups, g)
	first := len(h.moves.groups) == 1
	h.moves.mu.Unlock()
	if first {
		h.o.OnPeersMoved()
	}
}

// TakeMoved appends to dst the groups of which [Group.Look] may tell something else than when they were last taken, on the leader, since a
// turn ended. What time alone changes (PeerStatus.Active becomes false) is not among them. See Options.OnPeersMoved.
func (h *Host) TakeMoved(dst []raft.GroupID) []raft.GroupID {
	h.moves.mu.Lock()
	defer h.moves.mu.Unlock()
	for i, g := range h.moves.groups {
		g.moved.Store(false) // before anybody looks: a turn that ends from now on notes it again
		dst = append(dst, g.id)
		h.moves.groups[i] = nil
	}
	h.moves.groups = h.moves.groups[:0]
	return dst
}

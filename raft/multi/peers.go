// What a leader knows of the other members, for callers that must not stop its worker to ask.

package multi

import "github.com/balsamq/balsa/raft"

// PeerStatus is what a leader knows of another member.
type PeerStatus struct {
	raft.PeerStatus
	// Active: it has answered, itself or through the pair heartbeat, within an election timeout.
	Active bool
}

// Peers lists the other members by node id, as the last turn of this leader left them; nil on another replica.
func (g *Group) Peers() []PeerStatus {
	now := g.h.now()
	g.statusMu.Lock()
	defer g.statusMu.Unlock()
	if g.status.Role != raft.Leader {
		return nil
	}
	out := make([]PeerStatus, len(g.members))
	for i, p := range g.members {
		// A covered member's answers reach the core only when it asks; coverage ends when the pair falls silent.
		active := p.Covered || p.HeardAt >= 0 && now-p.HeardAt < raft.Time(g.h.o.ElectionTimeout)
		out[i] = PeerStatus{PeerStatus: p, Active: active}
	}
	return out
}

// Who is in sync: the ISR that Metadata shows (broker/insync.go has other brokers know it), and min.insync.replicas above a quorum.
//
// Raft commits on a quorum, which is the floor of acks=all. A topic may ask for more: then the batch is refused while
// fewer voters are in sync (NOT_ENOUGH_REPLICAS), and after the commit its answer waits until that many voters have it
// on disk. The group tells nobody when a single follower's Match moves, so while such answers are parked (and only
// then) one timer per replica looks every few milliseconds.

package partition

import (
	"cmp"
	"slices"
	"time"

	"github.com/balsamq/balsa/raft"
	"github.com/balsamq/balsa/raft/multi"
)

const (
	// inSyncLag is how many entries behind the commit index a follower may be and still count as in sync: more than
	// what is in flight to it at full speed.
	inSyncLag = 1024
	// parkedCheck is how often parked answers are looked at.
	parkedCheck = 5 * time.Millisecond
	// maxParked bounds them; beyond it an answer is NOT_ENOUGH_REPLICAS_AFTER_APPEND.
	maxParked = 1 << 14
)

// look is the leader's view of its group at one moment.
type look struct {
	multi.Status
	peers []multi.PeerStatus
}

func lookAt(g *multi.Group) look {
	s, ps := g.Look(nil)
	return look{s, ps}
}

// inSync are the voters in sync as this leader sees them, itself included, in order of their ids; nil on a follower.
func (l *look) inSync() []raft.NodeID {
	if l.Role != raft.Leader {
		return nil
	}
	out := []raft.NodeID{l.Self.ID}
	for i := range l.peers {
		if p := &l.peers[i]; l.isInSync(p) {
			out = append(out, p.Member.ID)
		}
	}
	slices.Sort(out)
	return out
}

// isInSync does not ask for State == Replicate: one lost message makes a member Probe for a moment, without its being any
// further behind.
func (l *look) isInSync(p *multi.PeerStatus) bool {
	return !p.Learner && p.Active && p.State != raft.SnapshotState && p.Match+inSyncLag >= l.Commit
}

// quorum is the number of voters that a commit needs: in a joint membership, of the larger half.
func (l *look) quorum() int {
	return max(len(l.Conf.Voters), len(l.Conf.Outgoing))/2 + 1
}

// replicatedTo is how many voters have the entry at i, which is committed, on disk. The leader is one of them: only what
// is durable here is applied.
func (l *look) replicatedTo(i raft.Index) int {
	n := 1
	for j := range l.peers {
		if p := &l.peers[j]; !p.Learner && p.Match >= i {
			n++
		}
	}
	return n
}

// ISR is, on the leader, the voters that are alive and hold everything that is committed (what is in flight does not
// count), itself included, in order of their ids. On another node it is nil.
func (r *Replica) ISR() []raft.NodeID {
	_, g := r.current()
	if g == nil {
		return nil
	}
	l := lookAt(g)
	return l.inSync()
}

// InSync appends to dst, on a leader that serves, the members of [Replica.ISR], and says in which epoch it leads; ok is false on another replica. passing: some
// of them may drop out with time alone, without a turn of the group (multi.Host.TakeMoved) that tells so.
func (r *Replica) InSync(dst []raft.Member) (members []raft.Member, epoch raft.Term, passing, ok bool) {
	_, g := r.current()
	if g == nil {
		return dst, 0, false, false
	}
	var room [4]multi.PeerStatus
	var l look
	if l.Status, l.peers = g.Look(room[:0]); l.Role != raft.Leader || !l.Ready {
		return dst, 0, false, false
	}
	from := len(dst)
	dst = append(dst, l.Self)
	for i := range l.peers {
		p := &l.peers[i]
		passing = passing || p.Active && !p.Covered
		if l.isInSync(p) {
			dst = append(dst, p.Member)
		}
	}
	slices.SortFunc(dst[from:], func(a, b raft.Member) int { return cmp.Compare(a.ID, b.ID) })
	return dst, l.Term, passing, true
}

// parking holds answers that wait for more replicas than the quorum. Guarded by Replica.mu.
type parking struct {
	reqs  []*AppendRequest
	armed bool
}

func (p *parking) take() []*AppendRequest {
	reqs := p.reqs
	p.reqs = nil
	return reqs
}

// park keeps req until enough replicas have it. false: no need, or no room; settle says which.
func (m *machine) park(req *AppendRequest) bool {
	r := m.r
	if done, _ := m.settle(req); done {
		return false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.m != m || r.state != StateOpen || len(r.parked.reqs) >= maxParked {
		return false
	}
	r.parked.reqs = append(r.parked.reqs, req)
	if !r.parked.armed {
		r.parked.armed = true
		time.AfterFunc(parkedCheck, r.checkParked)
	}
	return true
}

// settle says whether there is an answer to req now, and which.
func (m *machine) settle(req *AppendRequest) (done bool, err error) {
	_, g := m.r.current()
	if g == nil {
		return true, ErrNotEnoughReplicasAfterAppend
	}
	l := lookAt(g)
	switch {
	case l.Role != raft.Leader || l.Term != raft.Term(req.result.LeaderEpoch):
		return true, ErrNotEnoughReplicasAfterAppend
	case l.replicatedTo(req.index) >= req.minInsync:
		return true, nil
	case len(l.inSync()) < req.minInsync:
		return true, ErrNotEnoughReplicasAfterAppend
	}
	g.WatchPeers()
	return false, nil
}

// checkParked runs on a timer of its own while anything is parked.
func (r *Replica) checkParked() {
	r.mu.Lock()
	reqs := r.parked.take()
	r.mu.Unlock()
	var keep []*AppendRequest
	for _, req := range reqs {
		if done, err := req.m.settle(req); done {
			req.answer(err)
		} else {
			keep = append(keep, req)
		}
	}
	r.mu.Lock()
	alive := r.state == StateOpen
	if alive {
		r.parked.reqs = append(keep, r.parked.reqs...)
		keep = nil
	}
	if r.parked.armed = len(r.parked.reqs) > 0; r.parked.armed {
		time.AfterFunc(parkedCheck, r.checkParked)
	}
	r.mu.Unlock()
	for _, req := range keep { // closed or failed meanwhile
		req.answer(ErrNotEnoughReplicasAfterAppend)
	}
}

// How fast learners are caught up: one token bucket for all groups of a host that ask for it, and others, whose rates change while
// the host runs, for the leaders and the followers that are throttled beyond that.
//
// A message is let through while there is anything in the bucket, and its size may leave the bucket in debt: so a rate below
// one message a second still moves. What was held back is asked about again at the learner's next answer, a heartbeat
// later at most, and the bucket holds what comes in meanwhile.

package multi

import (
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/balsamq/balsa/raft"
)

type throttle struct {
	heartbeat raft.Time

	mu    sync.Mutex // protects what follows; a leaf, taken inside the core
	rate  float64    // bytes per second; 0: no bound
	burst float64
	left  float64   // not a whole number, or a low rate that is asked for often would never fill the bucket
	at    raft.Time // when left was last brought up to date
}

func newThrottle(rate int64, heartbeat raft.Time) *throttle {
	t := &throttle{heartbeat: heartbeat}
	t.setRate(rate)
	t.left = t.burst
	return t
}

// setRate changes the rate; 0: no bound.
func (t *throttle) setRate(rate int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.rate, t.burst = float64(rate), max(float64(rate)*float64(2*t.heartbeat)/1e9, 1)
	t.left = min(t.left, t.burst)
}

// Allow says whether there is anything in the bucket.
func (t *throttle) Allow(now raft.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.rate == 0 {
		t.left, t.at = t.burst, now
		return true
	}
	if now > t.at {
		t.left = min(t.left+t.rate*float64(now-t.at)/1e9, t.burst)
		t.at = now
	}
	return t.left > 0
}

// Sent takes bytes out of it.
func (t *throttle) Sent(bytes int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.left -= float64(bytes)
}

// replicationRates are the buckets of Host.SetReplicationRates: one for what this host sends as a leader, and one for each follower, since
// what it takes in is bounded for itself.
type replicationRates struct {
	heartbeat raft.Time
	leader    *throttle

	mu        sync.RWMutex // protects the map; above the mutexes of the buckets
	followers map[raft.NodeID]*throttle
}

func newReplicationRates(heartbeat raft.Time) *replicationRates {
	return &replicationRates{heartbeat: heartbeat, leader: newThrottle(0, heartbeat)}
}

func (r *replicationRates) set(leader int64, followers map[raft.NodeID]int64) {
	r.leader.setRate(leader)
	r.mu.Lock()
	defer r.mu.Unlock()
	maps.DeleteFunc(r.followers, func(id raft.NodeID, _ *throttle) bool { _, ok := followers[id]; return !ok })
	for id, rate := range followers {
		if t := r.followers[id]; t != nil {
			t.setRate(rate)
			continue
		}
		if r.followers == nil {
			r.followers = make(map[raft.NodeID]*throttle)
		}
		r.followers[id] = newThrottle(rate, r.heartbeat)
	}
}

func (r *replicationRates) follower(id raft.NodeID) *throttle {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.followers[id]
}

// Throttled says which of a group's replicas are within [Host.SetReplicationRates]. It does not change.
type Throttled struct {
	Leader    bool          // this host's, while it leads
	Followers []raft.NodeID // those that it fills
}

// groupThrottle is a group's: by its host's rate for all, and by those of the replicas that are throttled beyond that.
type groupThrottle struct {
	all    *throttle // nil: no bound
	rates  *replicationRates
	listed atomic.Pointer[Throttled] // nil: none
}

var _ raft.Throttle = (*groupThrottle)(nil)

// each calls f with the buckets from which a message to a learner is taken, until it returns false.
func (t *groupThrottle) each(to raft.NodeID, f func(*throttle) bool) bool {
	if t.all != nil && !f(t.all) {
		return false
	}
	listed := t.listed.Load()
	if listed == nil {
		return true
	}
	if listed.Leader && !f(t.rates.leader) {
		return false
	}
	if slices.Contains(listed.Followers, to) {
		if th := t.rates.follower(to); th != nil {
			return f(th)
		}
	}
	return true
}

// Allow implements raft.Throttle.
func (t *groupThrottle) Allow(to raft.NodeID, now raft.Time) bool {
	return t.each(to, func(th *throttle) bool { return th.Allow(now) })
}

// Sent implements raft.Throttle.
func (t *groupThrottle) Sent(to raft.NodeID, bytes int64) {
	t.each(to, func(th *throttle) bool { th.Sent(bytes); return true })
}

// SetReplicationRates bounds, in bytes per second, what this host sends to learners that are being caught up, beside Options.LearnerRate: as a leader, over
// all groups that Group.SetThrottled says so of; and to each follower, over all groups that name it there. A leader's rate of 0, and a follower that
// has none: no bound of their own.
func (h *Host) SetReplicationRates(leader int64, followers map[raft.NodeID]int64) {
	h.replication.set(leader, followers)
}

// SetThrottled says for which of the group's replicas Host.SetReplicationRates counts. It has GroupConfig.Throttle.
func (g *Group) SetThrottled(t Throttled) { g.throttle.listed.Store(&t) }

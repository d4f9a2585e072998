// Faults that need many things to come together, so that no schedule drawn at random comes by them: they are staged. A run draws
// whether it has any from a stream of its own, so that all others are what they would be without.

package sim

import (
	"math/rand/v2"
	"runtime"
	"strings"
	"time"

	"github.com/balsamq/balsa/raft"
)

const (
	lateVoteShare = 0.5 // of the runs that have a group of five
	lateVotes     = 4   // in each of these
	forgets       = 4   // of each group with relaxed durability, in runs with a weak node
)

// startRareFaults stages what this run has.
func startRareFaults(w *world, d time.Duration) {
	for g, relaxed := range w.shape.relaxed {
		if rng := newRand(w.opts.Seed, 0x666f72676574+uint64(g)); relaxed && w.shape.weak != nil {
			for range forgets {
				w.after(time.Duration(rng.Int64N(int64(d*9/10))), func() { w.faultForget(rng, g) })
			}
		}
	}
	rng := newRand(w.opts.Seed, 0x72617265)
	if rng.Float64() >= lateVoteShare {
		return
	}
	var fives []int
	for g, members := range w.initial {
		if len(members) == 5 {
			fives = append(fives, g)
		}
	}
	if len(fives) == 0 {
		return
	}
	for range lateVotes {
		g := fives[rng.IntN(len(fives))]
		w.after(time.Duration(rng.Int64N(int64(d*9/10))), func() { w.faultLateVotes(rng, g) })
	}
}

// faultForget takes the power from the weak node where that tells: it has acknowledged ahead of its disk what it and the leader alone have, and when it
// is back the leader goes, and who has less returns. All that keeps it from electing that one is that it knows that it may have forgotten something.
func (w *world) faultForget(rng *rand.Rand, g int) {
	n := w.shape.weak
	leader, late := w.besideWeak(g)
	if leader == nil || w.calm {
		return
	}
	between := func(lo, hi time.Duration) time.Duration { return lo + time.Duration(rng.Int64N(int64(hi-lo))) }
	strike := between(200*time.Millisecond, time.Second)
	back := strike + between(time.Millisecond, 150*time.Millisecond)
	gone := back + between(time.Millisecond, 120*time.Millisecond)
	w.isolate(late, gone+between(time.Millisecond, time.Second))
	for range 10 + rng.IntN(10) { // often enough that the logs are busy
		w.after(between(0, strike), func() {
			if leader.leads(g) {
				w.writeTo(leader, g, w.newOp(), 0)
			}
		})
	}
	w.after(strike, func() {
		if r := n.replica(g); r == nil || r.log.Behind() == 0 || n.disks.dead || !n.mayForget() {
			return
		}
		w.rep.reach("power lost ahead of the disk, before an election")
		w.tracef("fault: n%d loses its power ahead of its disk, and n%d, which leads group %d, is to follow it", n.id, leader.id, g)
		n.lose()
		w.after(back-strike, n.start)
		w.after(gone-strike, func() {
			leader.kill()
			leader.startLater(3*time.Second, 6*time.Second)
		})
	})
}

// clockReadByTurn: the clock is being read by a group's turn itself, which holds no lock then.
func clockReadByTurn() bool {
	var pcs [8]uintptr
	frames := runtime.CallersFrames(pcs[:runtime.Callers(2, pcs[:])])
	for {
		f, more := frames.Next()
		switch {
		case strings.HasSuffix(f.Function, "multi.(*Group).process"):
			return true
		case strings.HasPrefix(f.Function[strings.LastIndexByte(f.Function, '/')+1:], "sim."), strings.HasSuffix(f.Function, "multi.(*Host).now"):
		default:
			return false
		}
		if !more {
			return false
		}
	}
}

// lateVote is an election whose votes come when the leader is back. Who is asked for a pre-vote has not heard from the leader for an
// election timeout, as is right, but one after the other: the leader loses one follower, and has another back, so that it never
// lacks a quorum and never lacks a lease. When the candidate asks for real votes, half of those who let it have heard from the
// leader since.
//
//	leader -> candidate   cut ───────────────────────────────────────────────────
//	leader -> early       cut ─────────────── pre-vote ┤ heals
//	leader -> late               cut ───────────────────────── pre-vote ─────────
//	leader -> the fifth   heard all the time
//	all -> leader                                              votes ┤ cut ──────
//
// Only the refusal of real votes while the leader is fresh stands between that and two leaders, one of which has a lease.
type lateVote struct {
	group                   raft.GroupID
	index                   int // of the group
	leader, candidate       *node
	early, late             raft.NodeID
	lateFrom                raft.Time // when late has last heard from the leader; 0: it still does
	rng                     *rand.Rand
	asked, voted            bool
	healEarly, deafenLeader func()
}

const (
	lateVotePatience = 4 * time.Second
	lateCutMin       = 300 * time.Millisecond
	lateCutMax       = 800 * time.Millisecond
)

func (w *world) faultLateVotes(rng *rand.Rand, g int) {
	l := w.check.leader(g)
	if l == nil || w.late != nil || w.calm || !l.leads(g) {
		return
	}
	var others []*node
	for _, id := range w.initial[g] {
		if n := w.nodes[id-1]; n != l && n.replica(g) != nil {
			others = append(others, n)
		}
	}
	if len(others) != 4 {
		return
	}
	rng.Shuffle(len(others), func(i, j int) { others[i], others[j] = others[j], others[i] })
	c, early, late := others[0], others[1], others[2]
	w.rep.Faults++
	w.rep.reach("fault: votes that come late")
	w.tracef("fault: votes that come late: n%d is to campaign against n%d of group %d, with n%d and then n%d", c.id, l.id, g, early.id, late.id)
	v := &lateVote{group: l.replica(g).group.ID(), index: g, leader: l, candidate: c, early: early.id, late: late.id, rng: rng}
	w.late = v
	epoch := w.net.epoch
	var undo []func()
	cut := func(from, to *node) (heal func()) {
		w.cutLink(from, to, true)
		done := false
		heal = func() {
			if !done && w.net.epoch == epoch {
				w.cutLink(from, to, false)
			}
			done = true
		}
		undo = append(undo, heal)
		return heal
	}
	cut(l, c)
	cut(c, l)
	v.healEarly = cut(l, early)
	w.after(lateCutMin+time.Duration(rng.Int64N(int64(lateCutMax-lateCutMin))), func() {
		if w.late == v && w.net.epoch == epoch {
			cut(l, late)
			v.lateFrom = w.now
		}
	})
	v.deafenLeader = func() {
		for _, o := range others {
			if o != c && w.net.epoch == epoch {
				cut(o, l)
			}
		}
	}
	w.after(lateVotePatience, func() {
		for _, heal := range undo {
			heal()
		}
		w.late = nil
	})
}

// delay is for how long a message waits before it is sent.
func (v *lateVote) delay(w *world, from *node, to raft.NodeID, m *raft.Message) time.Duration {
	if v == nil || from != v.candidate || m.Group != v.group {
		return 0
	}
	switch {
	case m.Type == raft.MsgPreVote && !v.voted:
		if !v.asked {
			v.asked = true
			w.after(10*time.Millisecond+time.Duration(v.rng.Int64N(int64(20*time.Millisecond))), v.healEarly)
		}
		if to == v.late && v.lateFrom != 0 {
			over := v.lateFrom + raft.Time(electionTimeout*103/100) + raft.Time(v.rng.Int64N(int64(50*time.Millisecond)))
			return time.Duration(max(0, over-w.now))
		}
	case m.Type == raft.MsgVote && !v.voted:
		v.voted = true
		w.rep.reach("votes asked for that come late")
		v.deafenLeader()
	}
	return 0
}

// quiet: nothing is to be written now, since whoever lacks it would get no votes.
func (v *lateVote) quiet(g int) bool { return v != nil && v.index == g && !v.voted }

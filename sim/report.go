// What a run did: counts, and which states it reached, so that a schedule that reaches nothing is noticed.

package sim

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/balsamq/balsa/raft"
)

// Report is the tally of one run, or of many added up.
type Report struct {
	Seed      uint64
	Runs      int
	Simulated time.Duration

	Events, Messages, Lost, Duplicated uint64
	Faults, Elections                  int
	Ops, Acked, Refused, Reads         int

	Types        [raft.MsgTimeoutNow + 1]uint64 // messages sent, by type
	PairMessages uint64
	Chunks       uint64    // of snapshots: asked for and sent
	Roles        [4][4]int // changes of role: from, to

	// Settled are the times that majorities took to acknowledge something new once faults had stopped among them.
	Settled []time.Duration

	Reached map[string]int
}

func (r *Report) reach(what string) {
	if r.Reached == nil {
		r.Reached = map[string]int{}
	}
	r.Reached[what]++
}

// Add folds another report into r.
func (r *Report) Add(o Report) {
	r.Runs++
	r.Simulated += o.Simulated
	r.Events += o.Events
	r.Messages += o.Messages
	r.Lost += o.Lost
	r.Duplicated += o.Duplicated
	r.Faults += o.Faults
	r.Elections += o.Elections
	r.Ops += o.Ops
	r.Acked += o.Acked
	r.Refused += o.Refused
	r.Reads += o.Reads
	for i, n := range o.Types {
		r.Types[i] += n
	}
	r.PairMessages += o.PairMessages
	r.Chunks += o.Chunks
	r.Settled = append(r.Settled, o.Settled...)
	for i := range o.Roles {
		for j, n := range o.Roles[i] {
			r.Roles[i][j] += n
		}
	}
	for what, n := range o.Reached {
		if r.Reached == nil {
			r.Reached = map[string]int{}
		}
		r.Reached[what] += n
	}
}

// String prints the tally, a line of figures and a line per state reached.
func (r Report) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d seeds, %.0f simulated s, %d events, %d messages (%d lost, %d doubled), %d faults, %d leaderships, %d ops (%d acknowledged, %d refused, %d reads)\n",
		r.Runs, r.Simulated.Seconds(), r.Events, r.Messages, r.Lost, r.Duplicated, r.Faults, r.Elections, r.Ops, r.Acked, r.Refused, r.Reads)
	if n := len(r.Settled); n > 0 {
		s := slices.Sorted(slices.Values(r.Settled))
		fmt.Fprintf(&b, "  progress of a majority beside a broken node, in simulated time: median %v, 99 %% %v, at most %v (%d times)\n",
			s[n/2].Round(time.Millisecond), s[n*99/100].Round(time.Millisecond), s[n-1].Round(time.Millisecond), n)
	}
	for t := raft.MsgPreVote; int(t) < len(r.Types); t++ {
		fmt.Fprintf(&b, "  %9d  message %v\n", r.Types[t], t)
	}
	fmt.Fprintf(&b, "  %9d  pair messages\n  %9d  snapshot chunks\n", r.PairMessages, r.Chunks)
	for i := range r.Roles {
		for j, n := range r.Roles[i] {
			if n > 0 {
				fmt.Fprintf(&b, "  %9d  role %v to %v\n", n, raft.Role(i), raft.Role(j))
			}
		}
	}
	names := make([]string, 0, len(r.Reached))
	for what := range r.Reached {
		names = append(names, what)
	}
	slices.Sort(names)
	for _, what := range names {
		fmt.Fprintf(&b, "  %9d  %s\n", r.Reached[what], what)
	}
	return b.String()
}

// coverageSeeds are enough to reach everything in coverage, every type of message, every fault and every change of role that there
// is; if they no longer do, the schedule has become blind.
const coverageSeeds = 100

var coverage = []string{
	"a leader was deposed", "a leader was removed", "acknowledged after the leader's own sync", "append refused", "burst of writes",
	"clock: new rate", "clock: step", "damage found at recovery", "damage repaired from the leader",
	"failed sync", "failed syncdir", "failed write", "group rests under a pair heartbeat", "joint membership",
	"joint membership inherited by a new leader", "leader struck after its election", "leadership transfer begun", "lease read",
	"log tail truncated", "membership taken back by a truncation", "membership: add-learner", "membership: add-voter",
	"membership: promote", "membership: remove", "power cut after a vote", "power cut inside a disk operation",
	"proposal outcome unknown", "read through ReadIndex", "replica does not vote until it is repaired",
	"replica failed, and was opened again", "resting groups woken by a dead peer", "snapshot installed", "snapshot restored", "snapshot sent",
	"chunk doubled", "chunk lost", "follower behind the start taken in by a checkpoint", "log start moved", "log cut behind the start",
	"snapshot offered after a reset",
	"acknowledged ahead of the disk", "killed in place of a power cut", "may have lost what it acknowledged ahead of a sync", "power lost ahead of the disk, before an election",
	"priorities set", "proposals gathered", "snapshot taken", "suspended inside a turn", "torn tail cut at recovery", "two nodes that believe to lead", "votes asked for that come late",
}

// rare is reached by a few seeds in a hundred at most, so that a change anywhere else moves it: that takes rareSeeds.
const rareSeeds = 1000

var rare = []string{"snapshot resumed"}

// missing lists what should have been reached and was not.
func (r *Report) missing() (out []string) {
	wanted := coverage
	if r.Runs >= rareSeeds {
		wanted = slices.Concat(coverage, rare)
	}
	for _, what := range wanted {
		if r.Reached[what] == 0 {
			out = append(out, what)
		}
	}
	for _, k := range faultKinds {
		if r.Reached["fault: "+k.name] == 0 {
			out = append(out, "fault: "+k.name)
		}
	}
	for t := raft.MsgPreVote; int(t) < len(r.Types); t++ {
		if r.Types[t] == 0 {
			out = append(out, "message "+t.String())
		}
	}
	// A candidate by order of the leader was a follower; nobody becomes a leader but from candidate.
	for _, c := range [][2]raft.Role{
		{raft.Follower, raft.PreCandidate}, {raft.Follower, raft.Candidate}, {raft.PreCandidate, raft.Candidate}, {raft.PreCandidate, raft.Follower},
		{raft.Candidate, raft.Leader}, {raft.Candidate, raft.Follower}, {raft.Leader, raft.Follower},
	} {
		if r.Roles[c[0]][c[1]] == 0 {
			out = append(out, fmt.Sprintf("role %v to %v", c[0], c[1]))
		}
	}
	return out
}

// addCoverage collects what hosts counted; it is called before a host goes away.
func (n *node) addCoverage() {
	if n.host == nil {
		return
	}
	s, r := n.host.Stats(), &n.w.rep
	for _, c := range []struct {
		n    uint64
		what string
	}{
		{s.SnapshotsSent, "snapshot sent"}, {s.SnapshotsResumed, "snapshot resumed"}, {s.SnapshotsBroken, "snapshot could not be taken in"}, {s.SnapshotsInstalled, "snapshot installed"}, {s.LeaseReads, "lease read"}, {s.Gathered, "proposals gathered"},
		{s.Reads - min(s.Reads, s.LeaseReads), "read through ReadIndex"}, {s.GroupsWoken, "resting groups woken by a dead peer"},
	} {
		if c.n > 0 {
			r.reachN(c.what, int(c.n))
		}
	}
}

func (r *Report) reachN(what string, n int) {
	r.reach(what)
	r.Reached[what] += n - 1
}

// noteOffer: an offer after a reset. That one of an earlier epoch comes late does not happen here, as all messages are shorter on their way
// than a reset takes: snapshot_reset.txt has that.
func (n *node) noteOffer(m *raft.Message) {
	if m.Type != raft.MsgSnap {
		return
	}
	if m.Epoch > 0 {
		n.w.rep.reach("snapshot offered after a reset")
	}
}

// noteInstalled: a leader's snapshot is in the log, and its state, c, will be this replica's.
func (r *replica) noteInstalled(c chain) {
	w := r.node.w
	if !w.shape.data[r.g] {
		return
	}
	for _, n := range w.nodes {
		if o := n.replica(r.g); o != nil && o != r && o.log.StartOffset() > r.state.records && o.log.SnapshotIndex() > c.applied {
			w.rep.reach("follower behind the start taken in by a checkpoint")
			return
		}
	}
}

// noteProgress: how long a majority took to make progress.
func (r *Report) noteProgress(d time.Duration) {
	r.Settled = append(r.Settled, d)
}

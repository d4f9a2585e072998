// What must always hold, each as a type of its own, and the checker that watches a run for it.

package sim

import (
	"fmt"
	"strings"
	"time"

	"github.com/balsamq/balsa/raft"
	"github.com/balsamq/balsa/segment"
)

// ElectionSafetyError: two leaders in one term (Raft §5.2).
type ElectionSafetyError struct {
	Group int
	Term  raft.Term
	A, B  raft.NodeID
}

func (e *ElectionSafetyError) Error() string {
	return fmt.Sprintf("one leader per term: group %d term %d is led by n%d and n%d", e.Group, e.Term, e.A, e.B)
}

// VoteDurabilityError: a node voted for two candidates in one term, or spoke of a vote or term that is not on its disk.
type VoteDurabilityError struct {
	Node    raft.NodeID
	Message string
}

func (e *VoteDurabilityError) Error() string {
	return fmt.Sprintf("votes are durable: n%d %s", e.Node, e.Message)
}

// LogMatchingError: two logs agree at an index and differ below it (Raft §5.3).
type LogMatchingError struct {
	Group int
	A, B  raft.NodeID
	Index raft.Index
}

func (e *LogMatchingError) Error() string {
	return fmt.Sprintf("log matching: group %d, n%d and n%d differ at index %d below an index where they agree", e.Group, e.A, e.B, e.Index)
}

// LeaderCompletenessError: a leader's log lacks a committed entry (Raft §5.4).
type LeaderCompletenessError struct {
	Group     int
	Leader    raft.NodeID
	Term      raft.Term
	Index     raft.Index
	Have      raft.Term
	Committed raft.Term
}

func (e *LeaderCompletenessError) Error() string {
	return fmt.Sprintf("leader completeness: group %d, n%d leads term %d with term %d at index %d, committed there is term %d",
		e.Group, e.Leader, e.Term, e.Have, e.Index, e.Committed)
}

// CommitRegressionError: a commit index went back within one life of a node.
type CommitRegressionError struct {
	Node     raft.NodeID
	Group    int
	Was, Now raft.Index
}

func (e *CommitRegressionError) Error() string {
	return fmt.Sprintf("commit never goes back: n%d group %d from %d to %d", e.Node, e.Group, e.Was, e.Now)
}

// StateMachineError: two state machines differ after the same index.
type StateMachineError struct {
	Node  raft.NodeID
	Group int
	Index raft.Index
	What  string
}

func (e *StateMachineError) Error() string {
	return fmt.Sprintf("state machines equal: n%d group %d at index %d: %s", e.Node, e.Group, e.Index, e.What)
}

// AckedLossError: an acknowledged operation is not where it was acknowledged.
type AckedLossError struct {
	Group int
	Op    uint64
	Index raft.Index
	Found uint64
}

func (e *AckedLossError) Error() string {
	return fmt.Sprintf("no acknowledged entry lost: group %d op %x acknowledged at index %d, where op %x is committed", e.Group, e.Op, e.Index, e.Found)
}

// StaleReadError: a read point below what had been acknowledged or read before the read began.
type StaleReadError struct {
	Node        raft.NodeID
	Group       int
	Floor, Read raft.Index
}

func (e *StaleReadError) Error() string {
	return fmt.Sprintf("reads are linearizable: n%d group %d read at index %d, after index %d was acknowledged", e.Node, e.Group, e.Read, e.Floor)
}

// ApplyOrderError: the runtime skipped or repeated an entry.
type ApplyOrderError struct {
	Node      raft.NodeID
	Group     int
	Last, Got raft.Index
}

func (e *ApplyOrderError) Error() string {
	return fmt.Sprintf("applied once, in order: n%d group %d applied %d after %d", e.Node, e.Group, e.Got, e.Last)
}

// SnapshotError: a snapshot's state is not the state as of its index.
type SnapshotError struct {
	Node       raft.NodeID
	Group      int
	Meta, Have raft.Index
}

func (e *SnapshotError) Error() string {
	return fmt.Sprintf("a snapshot holds the state as of its index: n%d group %d, index %d holds %d", e.Node, e.Group, e.Meta, e.Have)
}

// StagingError: an entry was staged for another place than the next of the log.
type StagingError struct {
	Node      raft.NodeID
	Group     int
	Got, Want raft.Index
}

func (e *StagingError) Error() string {
	return fmt.Sprintf("staged in log order: n%d group %d staged %d, the log continues at %d", e.Node, e.Group, e.Got, e.Want)
}

// OffsetError: a log's Kafka offset is not the number of records before it.
type OffsetError struct {
	Node       raft.NodeID
	Group      int
	Index      raft.Index
	Have, Want segment.Offset
}

func (e *OffsetError) Error() string {
	return fmt.Sprintf("offsets are dense: n%d group %d after index %d is offset %d, %d records are applied", e.Node, e.Group, e.Index, e.Have, e.Want)
}

// LivenessError: the healed cluster did not come to agree.
type LivenessError struct{ State string }

func (e *LivenessError) Error() string {
	return "progress once faults stop: no agreement after " + settleLimit.String() + "\n" + e.State
}

type committed struct {
	term raft.Term
	op   uint64
	hash uint64 // of the chain after it
	seen bool
}

type voteKey struct {
	node  raft.NodeID
	group raft.GroupID
	term  raft.Term
}

type ack struct {
	op    uint64
	index raft.Index
}

type checker struct {
	w       *world
	history [][]committed // by group, then index
	top     []raft.Index  // highest committed index known
	floor   []raft.Index  // no later read may be below
	leaders []map[raft.Term]raft.NodeID
	votes   map[voteKey]raft.NodeID
	acks    [][]ack
	// By node and group, in the node's current life.
	commits, lasts [][]raft.Index
	led            [][]bool
}

func newChecker(w *world) *checker {
	c := &checker{w: w, votes: map[voteKey]raft.NodeID{}}
	c.history = make([][]committed, w.opts.Groups)
	c.top = make([]raft.Index, w.opts.Groups)
	c.floor = make([]raft.Index, w.opts.Groups)
	c.acks = make([][]ack, w.opts.Groups)
	for range w.opts.Groups {
		c.leaders = append(c.leaders, map[raft.Term]raft.NodeID{})
	}
	for range w.opts.Nodes {
		c.commits = append(c.commits, make([]raft.Index, w.opts.Groups))
		c.lasts = append(c.lasts, make([]raft.Index, w.opts.Groups))
		c.led = append(c.led, make([]bool, w.opts.Groups))
	}
	return c
}

// sent sees every message that leaves a node.
func (c *checker) sent(n *node, m *raft.Message) {
	durable, _ := n.hard.Load(m.Group)
	vote := func(candidate raft.NodeID) {
		key := voteKey{n.id, m.Group, m.Term}
		if before, ok := c.votes[key]; ok && before != candidate {
			c.w.fail(&VoteDurabilityError{n.id, fmt.Sprintf("group %d voted for n%d and n%d in term %d", m.Group, before, candidate, m.Term)})
		}
		c.votes[key] = candidate
		c.w.voted(n)
		if durable.Term < m.Term || durable.Term == m.Term && durable.Vote != candidate {
			c.w.fail(&VoteDurabilityError{n.id, fmt.Sprintf("group %d told of a vote for n%d in term %d, on disk is term %d, vote n%d", m.Group, candidate, m.Term, durable.Term, durable.Vote)})
		}
	}
	switch m.Type {
	case raft.MsgPreVote, raft.MsgPreVoteResp:
		return
	case raft.MsgVote:
		vote(n.id)
	case raft.MsgVoteResp:
		if !m.Reject {
			vote(m.To)
		}
	}
	if durable.Term < m.Term {
		c.w.fail(&VoteDurabilityError{n.id, fmt.Sprintf("group %d sent %v of term %d, on disk is term %d", m.Group, m.Type, m.Term, durable.Term)})
	}
}

// applied sees every entry that a state machine folds.
func (c *checker) applied(r *replica, e *raft.Entry) {
	h := c.history[r.g]
	for raft.Index(len(h)) <= e.Index {
		h = append(h, committed{})
	}
	c.history[r.g] = h
	c.top[r.g] = max(c.top[r.g], e.Index)
	op := uint64(0)
	if e.Type == raft.EntryRecords {
		op = opOf(e.Payload)
	}
	k := &h[e.Index]
	if !k.seen {
		*k = committed{e.Term, op, r.state.hash, true}
		return
	}
	if k.term != e.Term || k.op != op || k.hash != r.state.hash {
		c.w.fail(&StateMachineError{r.node.id, r.g, e.Index, fmt.Sprintf("term %d op %x, elsewhere term %d op %x", e.Term, op, k.term, k.op)})
	}
}

func (c *checker) restored(r *replica) {
	i := r.state.applied
	if h := c.history[r.g]; i == 0 || int(i) >= len(h) || !h[i].seen || h[i].hash != r.state.hash {
		c.w.fail(&StateMachineError{r.node.id, r.g, i, "a snapshot holds what was never committed"})
	}
}

func (c *checker) acked(n *node, g int, op uint64, term raft.Term, i raft.Index) {
	c.w.tracef("ack group %d op %x at %d/%d by n%d", g, op, i, term, n.id)
	c.acks[g] = append(c.acks[g], ack{op, i})
	c.floor[g] = max(c.floor[g], i)
	c.checkAck(g, op, i)
}

func (c *checker) checkAck(g int, op uint64, i raft.Index) {
	h := c.history[g]
	if int(i) >= len(h) || !h[i].seen {
		c.w.fail(&AckedLossError{g, op, i, 0})
	} else if h[i].op != op {
		c.w.fail(&AckedLossError{g, op, i, h[i].op})
	}
}

func (c *checker) readAt(n *node, g int, floor, i raft.Index) {
	if i < floor || n.replicas[g].state.applied < i {
		c.w.fail(&StaleReadError{n.id, g, floor, i})
	}
	c.floor[g] = max(c.floor[g], i)
}

func (c *checker) lifeEnded(n *node) {
	clear(c.commits[n.id-1])
	clear(c.lasts[n.id-1])
	clear(c.led[n.id-1])
}

// observe looks at a node after it did something.
func (c *checker) observe(n *node) {
	for g, r := range n.replicas {
		s := r.group.Status()
		if was := c.commits[n.id-1][g]; s.Commit < was {
			c.w.fail(&CommitRegressionError{n.id, g, was, s.Commit})
		}
		c.commits[n.id-1][g] = s.Commit
		if s.Resting {
			c.w.rep.reach("group rests under a pair heartbeat")
		}
		if s.Last < c.lasts[n.id-1][g] {
			c.w.rep.reach("log tail truncated")
		}
		c.lasts[n.id-1][g] = s.Last
		if c.led[n.id-1][g] && s.Role != raft.Leader {
			c.w.rep.reach("a leader was deposed")
		}
		c.led[n.id-1][g] = s.Role == raft.Leader
		if s.Role != raft.Leader {
			continue
		}
		if who, ok := c.leaders[g][s.Term]; !ok {
			c.leaders[g][s.Term] = n.id
			c.leaderComplete(r, s.Term)
		} else if who != n.id {
			c.w.fail(&ElectionSafetyError{g, s.Term, who, n.id})
		}
	}
}

// leaderComplete checks a new leader's log against all that is known to be committed. Entries of later terms do not
// bind it: a deposed leader may still learn that it had won.
func (c *checker) leaderComplete(r *replica, term raft.Term) {
	for i := r.log.FirstIndex(); i <= c.top[r.g]; i++ {
		k := c.history[r.g][i]
		if !k.seen || k.term >= term {
			continue
		}
		have, err := r.log.Term(i)
		if err != nil || have != k.term {
			c.w.fail(&LeaderCompletenessError{r.g, r.node.id, term, i, have, k.term})
			return
		}
	}
}

// periodic compares logs pairwise, once a simulated second.
func (c *checker) periodic() {
	for g := range c.w.opts.Groups {
		for i, a := range c.w.nodes {
			for _, b := range c.w.nodes[i+1:] {
				if a.up && b.up && !a.diskDead && !b.diskDead && g < len(a.replicas) && g < len(b.replicas) {
					c.logsMatch(g, a.replicas[g], b.replicas[g])
				}
			}
		}
	}
	c.w.after(time.Second, c.periodic)
}

const matchDepth = 64 // entries compared below the highest agreement

func (c *checker) logsMatch(g int, a, b *replica) {
	lo := max(a.log.FirstIndex(), b.log.FirstIndex())
	agree := raft.Index(0)
	for i := min(a.log.LastIndex(), b.log.LastIndex()); i >= lo && i > 0; i-- {
		ta, errA := a.log.Term(i)
		tb, errB := b.log.Term(i)
		if errA != nil || errB != nil {
			c.w.fail(fmt.Errorf("terms of group %d at %d: %v, %v", g, i, errA, errB))
			return
		}
		if agree == 0 && ta == tb {
			agree = i
		}
		if agree != 0 {
			if ta != tb {
				c.w.fail(&LogMatchingError{g, a.node.id, b.node.id, i})
				return
			}
			if agree-i >= matchDepth {
				return
			}
		}
	}
}

// agreed reports whether every group has one leader and every replica has applied the same, acknowledged ops included.
func (c *checker) agreed() bool {
	for g := range c.w.opts.Groups {
		leaders := 0
		var first *replica
		for _, n := range c.w.nodes {
			if !n.up || n.diskDead || g >= len(n.replicas) {
				return false
			}
			r := n.replicas[g]
			if s := r.group.Status(); s.Role == raft.Leader && s.Ready {
				leaders++
			}
			if first == nil {
				first = r
			}
			if r.state != first.state || r.log.LastIndex() != r.state.applied {
				return false
			}
		}
		if leaders != 1 || first.state.applied < c.top[g] {
			return false
		}
	}
	return true
}

func (c *checker) final() {
	for g := range c.w.opts.Groups {
		for _, a := range c.acks[g] {
			c.checkAck(g, a.op, a.index)
		}
		for _, n := range c.w.nodes {
			r := n.replicas[g]
			c.leaderComplete(r, raft.MaxTerm) // every log holds every committed entry now
			off, err := r.log.OffsetAfter(r.state.applied)
			if err != nil || off != r.state.records {
				c.w.fail(&OffsetError{n.id, g, r.state.applied, off, r.state.records})
			}
		}
	}
	c.periodic()
}

func (c *checker) describe() string {
	var b strings.Builder
	for g := range c.w.opts.Groups {
		for _, n := range c.w.nodes {
			if !n.up || g >= len(n.replicas) {
				fmt.Fprintf(&b, "group %d n%d down\n", g, n.id)
				continue
			}
			r := n.replicas[g]
			fmt.Fprintf(&b, "group %d n%d log [%d,%d] applied %d status %+v\n", g, n.id, r.log.FirstIndex(), r.log.LastIndex(), r.state.applied, r.group.Status())
		}
	}
	return b.String()
}

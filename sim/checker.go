// The checker watches a run: messages, acknowledgements, applied entries and, after each turn of a node, its state.

package sim

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/balsamq/balsa/raft"
	"github.com/balsamq/balsa/segment"
)

type committed struct {
	term raft.Term
	op   uint64
	hash uint64    // of the chain after it
	end  int64     // number of records up to it
	from int64     // where they start
	by   raft.Term // no later than in this term it was committed
	seen bool
}

type voteKey struct {
	node  raft.NodeID
	inc   raft.Incarnation
	group raft.GroupID
	epoch raft.GroupEpoch
	term  raft.Term
}

type ledTerm struct {
	epoch raft.GroupEpoch
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
	// A start that was committed, and that a reset went back behind: replicas may have cut their logs there.
	forgotten []int64
	leaders   []map[ledTerm]raft.NodeID
	votes     map[voteKey]raft.NodeID
	acks      [][]ack
	conf      []*raft.ConfState // the latest that is known to be committed; nil: the first one
	confAt    []raft.Index
	epoch     []raft.GroupEpoch
	opened    []bool      // something was committed in that epoch
	led       []raft.Term // the highest that anybody has led
	// By node and group.
	nodes [][]watched
}

// watched is what was last seen of a replica in its present life; synced outlives it.
type watched struct {
	commit, last raft.Index
	role         raft.Role
	led          bool
	conf         raft.Index
	voteAfter    raft.Index
	synced       raft.Index
}

func newChecker(w *world) *checker {
	c := &checker{w: w, votes: map[voteKey]raft.NodeID{}}
	c.history = make([][]committed, w.opts.Groups)
	c.top = make([]raft.Index, w.opts.Groups)
	c.floor = make([]raft.Index, w.opts.Groups)
	c.forgotten = make([]int64, w.opts.Groups)
	c.acks = make([][]ack, w.opts.Groups)
	c.conf = make([]*raft.ConfState, w.opts.Groups)
	c.opened = make([]bool, w.opts.Groups)
	c.confAt = make([]raft.Index, w.opts.Groups)
	c.epoch = make([]raft.GroupEpoch, w.opts.Groups)
	c.led = make([]raft.Term, w.opts.Groups)
	for range w.opts.Groups {
		c.leaders = append(c.leaders, map[ledTerm]raft.NodeID{})
	}
	for range w.opts.Nodes {
		c.nodes = append(c.nodes, make([]watched, w.opts.Groups))
	}
	return c
}

// sent sees every message that leaves a node.
func (c *checker) sent(n *node, m *raft.Message) {
	durable, _ := n.hard.Load(m.Group)
	vote := func(candidate raft.NodeID) {
		key := voteKey{n.id, n.inc, m.Group, m.Epoch, m.Term}
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
	case raft.MsgAppResp, raft.MsgSnapResp:
		if r := n.replicas[m.Group-2]; !m.Reject && r != nil && r.log.SyncedIndex() < m.Index {
			c.w.fail(&AckDurabilityError{n.id, r.g, m.Index, r.log.SyncedIndex()})
		}
		if m.Reject {
			c.w.rep.reach("append refused")
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
		*k = committed{e.Term, op, r.state.hash, int64(r.state.records), int64(r.state.start), max(e.Term, c.led[r.g]), true}
		if op != 0 {
			c.w.history[r.g].applied(op, int64(r.state.records)-1, c.w.now)
		}
		if e.Type == raft.EntryConfig && e.Index > c.confAt[r.g] {
			if conf, err := raft.DecodeConfState(e.Payload); err == nil {
				c.conf[r.g], c.confAt[r.g] = &conf, e.Index
			}
		}
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

// ackedLocal: an acknowledgement of the leader's own sync.
func (c *checker) ackedLocal(r *replica, i raft.Index) {
	if s := r.log.SyncedIndex(); s < i {
		c.w.fail(&AckDurabilityError{r.node.id, r.g, i, s})
	}
}

func (c *checker) readAt(r *replica, floor, i raft.Index) {
	if i < floor || r.state.applied < i {
		c.w.fail(&StaleReadError{r.node.id, r.g, floor, i})
	}
	c.floor[r.g] = max(c.floor[r.g], i)
}

func (c *checker) lifeEnded(n *node) {
	for g := range c.nodes[n.id-1] {
		c.replicaEnded(n, g)
	}
}

func (c *checker) replicaEnded(n *node, g int) {
	k := &c.nodes[n.id-1][g]
	*k = watched{synced: k.synced}
	if r := n.replicas[g]; r != nil {
		k.synced = r.log.SyncedIndex()
	}
}

// observe looks at a node after it did something.
func (c *checker) observe(n *node) {
	for g, r := range n.replicas {
		if r == nil || r.failed {
			continue
		}
		s := r.group.Status()
		k := &c.nodes[n.id-1][g]
		if s.Commit < k.commit {
			c.w.fail(&CommitRegressionError{n.id, g, k.commit, s.Commit})
		}
		if s.Role == raft.Leader && s.Commit > k.commit && k.led {
			c.commitDurable(n, g, &s.Status)
			if t, err := r.log.Term(s.Commit); err == nil && t != s.Term {
				c.w.fail(&OwnTermError{n.id, g, s.Term, "commits", s.Commit})
			}
		}
		if s.Role == raft.Leader && s.ConfIndex > s.TermStart && s.Commit < s.TermStart {
			c.w.fail(&OwnTermError{n.id, g, s.Term, "changes the membership", s.ConfIndex})
		}
		k.commit = s.Commit
		if s.Resting {
			c.w.rep.reach("group rests under a pair heartbeat")
		}
		if s.Last < k.last {
			c.w.rep.reach("log tail truncated")
		}
		k.last = s.Last
		c.transition(n, g, k, &s.Status)
		k.led = s.Role == raft.Leader
		if s.Role != raft.Leader {
			continue
		}
		key := ledTerm{s.Epoch, s.Term}
		if _, known := c.leaders[g][key]; s.Epoch > c.epoch[g] || s.Epoch > 0 && !c.opened[g] && !known {
			c.reset(r, s.Epoch, s.ConfIndex)
		}
		if s.Epoch == c.epoch[g] && s.Commit >= s.TermStart {
			c.openedEpoch(g)
		}
		if who, ok := c.leaders[g][key]; !ok {
			c.leaders[g][key] = n.id
			c.led[g] = max(c.led[g], s.Term)
			c.leaderComplete(r, s.Term)
			if s.Conf.Joint() {
				c.w.rep.reach("joint membership inherited by a new leader")
			}
		} else if who != n.id {
			c.w.fail(&ElectionSafetyError{g, s.Term, who, n.id})
		}
	}
}

// transition counts which changes of role and membership a run has reached.
func (c *checker) transition(n *node, g int, k *watched, s *raft.Status) {
	if k.role != s.Role {
		c.w.rep.Roles[k.role][s.Role]++
		if k.role == raft.Leader {
			c.w.rep.reach("a leader was deposed")
			if !isVoter(&s.Conf, n) {
				c.w.rep.reach("a leader was removed")
			}
		}
		k.role = s.Role
	}
	if s.ConfIndex != k.conf {
		switch {
		case s.ConfIndex < k.conf:
			c.w.rep.reach("membership taken back by a truncation")
		case s.Conf.Joint():
			c.w.rep.reach("joint membership")
		}
		k.conf = s.ConfIndex
	}
	if k.voteAfter != 0 && s.VoteAfter == 0 {
		c.w.rep.reach("damage repaired from the leader")
		n.sound(g)
	}
	k.voteAfter = s.VoteAfter
}

func isVoter(conf *raft.ConfState, n *node) bool {
	m := raft.Member{ID: n.id, Incarnation: n.inc}
	return slices.Contains(conf.Voters, m) || slices.Contains(conf.Outgoing, m)
}

// commitDurable requires a majority of disks behind a leader's commit index. What was damaged on purpose counts as held; so
// does, of nodes that are down, what they last had.
func (c *checker) commitDurable(n *node, g int, s *raft.Status) {
	if s.ConfIndex > s.Commit {
		return // committed under the membership before
	}
	term, err := n.replicas[g].log.Term(s.Commit)
	if err != nil {
		return
	}
	var holds []raft.NodeID
	half := func(ms []raft.Member) bool {
		have := 0
		for _, m := range ms {
			if c.holds(m, g, s.Commit, term) {
				have++
				holds = append(holds, m.ID)
			}
		}
		return have > len(ms)/2
	}
	if !half(s.Conf.Voters) || s.Conf.Joint() && !half(s.Conf.Outgoing) {
		c.w.fail(&CommitDurabilityError{n.id, g, s.Commit, s.Conf, holds})
	}
}

func (c *checker) holds(m raft.Member, g int, i raft.Index, term raft.Term) bool {
	o := c.w.nodes[m.ID-1]
	if o == c.w.shape.weak && (o.disks.rotten[g] || o.disks.late[g] || o.inc != m.Incarnation) {
		return true
	}
	if o.inc != m.Incarnation {
		return false
	}
	if !o.up || o.replicas[g] == nil {
		return c.nodes[o.id-1][g].synced >= i
	}
	r := o.replicas[g] // failed or not: what it has synced it has
	t, err := r.log.Term(i)
	return r.log.SyncedIndex() >= i && (err != nil || t == term)
}

// leaderComplete checks a new leader's log against all that is known to be committed. What was committed in a later term does not
// bind it: a deposed leader may still learn that it had won.
func (c *checker) leaderComplete(r *replica, term raft.Term) {
	for i := r.log.FirstIndex(); i <= c.top[r.g]; i++ {
		k := c.history[r.g][i]
		if !k.seen || k.by >= term && term != raft.MaxTerm {
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
	c.compareLogs()
	c.w.after(time.Second, c.periodic)
}

func (c *checker) compareLogs() {
	for g := range c.w.opts.Groups {
		for i, a := range c.w.nodes {
			ra := a.replica(g)
			if ra == nil {
				continue
			}
			c.cutWhereAllowed(g, ra)
			for _, b := range c.w.nodes[i+1:] {
				if rb := b.replica(g); rb != nil {
					c.logsMatch(g, ra, rb)
				}
			}
		}
	}
}

// cutWhereAllowed: a data group's log begins at or before the first record that the committed start leaves.
func (c *checker) cutWhereAllowed(g int, r *replica) {
	if !c.w.shape.data[g] || r.group.Status().Epoch != c.epoch[g] {
		return
	}
	have := r.log.StartOffset()
	if have > 0 && r.log.SnapshotIndex() > r.log.FirstIndex() {
		c.w.rep.reach("log cut behind the start")
	}
	start := segment.Offset(0)
	if top := c.top[g]; top > 0 {
		start = segment.Offset(c.history[g][top].from)
	}
	start = max(start, segment.Offset(c.forgotten[g]))
	if have > start {
		c.w.fail(&LostRecordsError{r.node.id, g, have, start, ""})
	}
}

// readBack reads every record from the start on, off the disk as a consumer does.
func (c *checker) readBack(g int, r *replica) {
	if !c.w.shape.data[g] || r.node == c.w.shape.weak { // whose disk may be damaged where nobody has read yet
		return
	}
	h := c.history[g]
	at, i := max(r.state.start, min(r.log.StartOffset(), segment.Offset(c.forgotten[g]))), raft.Index(1)
	for at < r.state.records {
		batches, err := r.log.ReadOffsets(at, r.state.applied, maxReadBack)
		if err != nil || len(batches) == 0 {
			c.w.fail(&LostRecordsError{r.node.id, g, r.log.StartOffset(), r.state.start, fmt.Sprintf("; at %d: %v", at, err)})
			return
		}
		for _, b := range batches {
			for h[i].end != int64(at)+1 {
				i++
			}
			if op := opOf(b); op != h[i].op {
				c.w.fail(&LostRecordsError{r.node.id, g, r.log.StartOffset(), r.state.start, fmt.Sprintf("; at %d is op %x, committed is op %x", at, op, h[i].op)})
				return
			}
			at++
		}
	}
}

const maxReadBack = 64 << 10

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

// leader is who leads g and takes proposals; nil if nobody does, or more than one believes to.
func (c *checker) leader(g int) *node {
	var leader *node
	for _, n := range c.w.nodes {
		if r := n.replica(g); r != nil {
			if s := r.group.Status(); s.Role == raft.Leader && s.Ready {
				if leader != nil {
					return nil
				}
				leader = n
			}
		}
	}
	return leader
}

// agreed reports whether every group has one leader and every member has applied the same, acknowledged ops included.
func (c *checker) agreed() bool {
	for g := range c.w.opts.Groups {
		leader := c.leader(g)
		if leader == nil {
			return false
		}
		first := leader.replicas[g]
		s := first.group.Status()
		if s.Conf.Joint() || first.state.applied < c.top[g] {
			return false
		}
		for _, m := range slices.Concat(s.Conf.Voters, s.Conf.Learners) {
			n := c.w.nodes[m.ID-1]
			r := n.replica(g)
			if n.inc != m.Incarnation || r == nil || r.state != first.state || r.log.LastIndex() != r.state.applied || r.group.Status().VoteAfter != 0 {
				return false
			}
		}
	}
	return true
}

func (c *checker) final() {
	for g := range c.w.opts.Groups {
		for _, a := range c.acks[g] {
			c.checkAck(g, a.op, a.index)
		}
		s := c.leader(g).replicas[g].group.Status()
		for _, m := range slices.Concat(s.Conf.Voters, s.Conf.Learners) {
			r := c.w.nodes[m.ID-1].replicas[g]
			c.leaderComplete(r, raft.MaxTerm) // every log holds every committed entry now
			off, err := r.log.OffsetAfter(r.state.applied)
			if err != nil || off != r.state.records {
				c.w.fail(&OffsetError{r.node.id, g, r.state.applied, off, r.state.records})
			}
			if have := r.log.StartOffset(); c.w.shape.data[g] && have > max(r.state.start, segment.Offset(c.forgotten[g])) {
				c.w.fail(&LostRecordsError{r.node.id, g, have, r.state.start, ""})
			}
			c.readBack(g, r)
		}
	}
	c.compareLogs()
	if c.w.opts.History != nil {
		for g := range c.w.opts.Groups {
			if c.w.history[g].broken {
				continue
			}
			ops := c.w.history[g].export(func(i raft.Index) int64 { return c.history[g][i].end })
			if err := c.w.opts.History(g, ops); err != nil {
				c.w.fail(err)
			}
		}
	}
}

func (c *checker) describe() string {
	var b strings.Builder
	for g := range c.w.opts.Groups {
		for _, n := range c.w.nodes {
			r := n.replica(g)
			if r == nil {
				fmt.Fprintf(&b, "group %d n%d is not open\n", g, n.id)
				continue
			}
			fmt.Fprintf(&b, "group %d n%d log [%d,%d] applied %d status %+v\n", g, n.id, r.log.FirstIndex(), r.log.LastIndex(), r.state.applied, r.group.Status())
		}
	}
	return b.String()
}

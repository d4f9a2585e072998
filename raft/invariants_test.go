// What must hold at every step of a random run. Each rule is a type, which keeps what it must remember; beside each stands
// where it comes from. An observer who sees all disks at once checks them, so that a broken rule shows long before a client
// could notice: the runs are short, and the bugs that matter are rare.

package raft

import (
	"fmt"
	"slices"
)

// invariant is one rule. ready sees what a node wants done: its entries are in the log by then, its messages have not left.
// check sees a node after each event that touched it.
type invariant interface {
	ready(w *world, n *memNode, rd *Ready) error
	check(w *world, n *memNode) error
}

type noReady struct{}

func (noReady) ready(*world, *memNode, *Ready) error { return nil }

type noCheck struct{}

func (noCheck) check(*world, *memNode) error { return nil }

func invariants() []invariant {
	return []invariant{
		&monotonicTerm{disk: map[Member]HardState{}},
		&durableVotes{votes: map[voter]NodeID{}},
		&singleLeader{leaders: map[Term]NodeID{}},
		&leaderCompleteness{},
		&leaderAppendOnly{last: map[NodeID]Ticket{}},
		&logMatching{entries: map[Ticket]logged{}},
		&durableClaims{},
		&durableAcks{},
		&majorityReached{seen: map[NodeID]Index{}, led: map[NodeID]Term{}},
		&ownTermCommit{seen: map[NodeID]Index{}},
		&monotonicCommit{seen: map[NodeID]lifeIndex{}},
		&committedNeverCut{seen: map[NodeID]lifeIndex{}},
		&consistentCommitted{seen: map[NodeID]lifeIndex{}},
		&stateMachineSafety{},
		&openedTermKnowsAll{},
		&leaseSafety{},
		&readSafety{},
		&confFollowsLog{},
		&confSafety{},
		&snapshotAtLogStart{},
		&leaderNeverInstalls{},
	}
}

type lifeIndex struct {
	boot uint64
	i    Index
}

func (im *logImage) last() Index { return im.base.Index + Index(len(im.ents)) }

// term is that of the entry at i on the disk; what is compacted was committed, and counts as there.
func (im *logImage) term(i Index) (Term, bool) {
	switch {
	case i < im.base.Index || i > im.last():
		return 0, false
	case i == im.base.Index:
		return im.base.Term, true
	}
	return im.ents[i-im.base.Index-1].Term, true
}

// monotonicTerm: term and vote on a disk never go back, and no vote changes within a term, over all lives of a replica
// (§5.1, §5.2; KRaft's MonotonicEpoch).
type monotonicTerm struct {
	noReady
	disk map[Member]HardState
}

func (v *monotonicTerm) check(_ *world, n *memNode) error {
	me := Member{n.id, n.inc}
	was := v.disk[me]
	if n.disk.Term < was.Term || n.disk.Term == was.Term && was.Vote != 0 && n.disk.Vote != was.Vote {
		return fmt.Errorf("node %d: %+v on disk after %+v", n.id, n.disk, was)
	}
	v.disk[me] = n.disk
	if !n.down && n.r.term < n.disk.Term {
		return fmt.Errorf("node %d is in term %d, %d is on its disk", n.id, n.r.term, n.disk.Term)
	}
	return nil
}

type voter struct {
	m    Member
	term Term
}

// durableVotes: nothing of a term leaves a machine before the term is on its disk, no vote before the vote is, and no replica
// votes twice in a term (§5.1, §5.2).
type durableVotes struct {
	noCheck
	votes map[voter]NodeID
}

func (v *durableVotes) ready(w *world, n *memNode, rd *Ready) error {
	for i := range rd.Messages {
		m := &rd.Messages[i]
		if m.Type == MsgPreVote || m.Type == MsgPreVoteResp && !m.Reject {
			continue
		}
		if m.Term > n.disk.Term {
			return fmt.Errorf("%s left, on disk is %+v", describe(m), n.disk)
		}
		var to NodeID
		switch {
		case m.Type == MsgVote:
			to = n.id
		case m.Type == MsgVoteResp && !m.Reject:
			to = m.To
		default:
			continue
		}
		if m.Term == n.disk.Term && n.disk.Vote != to {
			return fmt.Errorf("%s left, on disk is %+v", describe(m), n.disk)
		}
		key := voter{Member{n.id, n.inc}, m.Term}
		if was := v.votes[key]; was != 0 && was != to {
			return fmt.Errorf("node %d votes for %d and %d in term %d", n.id, was, to, m.Term)
		}
		v.votes[key] = to
	}
	return nil
}

// singleLeader: one leader per term at most (figure 3, Election Safety; KRaft's SingleLeader).
type singleLeader struct {
	noReady
	leaders map[Term]NodeID
}

func (v *singleLeader) check(w *world, n *memNode) error {
	if n.down || n.r.role != Leader {
		return nil
	}
	other, old := v.leaders[n.r.term]
	if old && other != n.id {
		return fmt.Errorf("%d and %d lead term %d", other, n.id, n.r.term)
	}
	v.leaders[n.r.term] = n.id
	w.terms, w.newest = len(v.leaders), max(w.newest, n.r.term)
	return nil
}

// leaderCompleteness: what is committed in a term is in the log of every leader of a later term (figure 3).
type leaderCompleteness struct{ noReady }

func (v *leaderCompleteness) check(w *world, _ *memNode) error {
	top := w.maxCommit()
	for _, n := range w.c.nodes {
		if n.down || n.r.role != Leader {
			continue
		}
		i := top
		for i > 0 && w.inTerm[i-1] >= n.r.term {
			i-- // committed by this leader, or by a later one that it has not heard of
		}
		if i <= n.log.base.Index {
			continue
		}
		if t, ok := n.r.termAt(i); !ok || t != w.committed[i-1].Term {
			return fmt.Errorf("leader %d of term %d lacks committed (%d,%d)", n.id, n.r.term, w.committed[i-1].Term, i)
		}
	}
	return nil
}

// leaderAppendOnly: "A leader never overwrites or deletes entries in its log" (figure 3).
type leaderAppendOnly struct {
	noCheck
	last map[NodeID]Ticket // of the log's end, by the term that the node leads
}

func (v *leaderAppendOnly) ready(_ *world, n *memNode, rd *Ready) error {
	if n.r.role != Leader {
		delete(v.last, n.id)
		return nil
	}
	was, old := v.last[n.id]
	if old && was.Term == n.r.term && len(rd.Entries) > 0 && rd.Entries[0].Index <= was.Index {
		return fmt.Errorf("leader %d of term %d writes at %d, its log reached %d", n.id, n.r.term, rd.Entries[0].Index, was.Index)
	}
	v.last[n.id] = Ticket{n.r.term, n.r.last}
	return nil
}

type logged struct {
	prev    Term
	payload string
}

// logMatching: two logs with an entry of the same index and term are equal up to there (figure 3). By induction: each
// (term, index) has one payload and one predecessor, wherever it is written.
type logMatching struct {
	noCheck
	entries map[Ticket]logged
}

func (v *logMatching) ready(_ *world, n *memNode, rd *Ready) error {
	for i := range rd.Entries {
		e := &rd.Entries[i]
		prev, err := n.log.Term(e.Index - 1)
		if err != nil {
			return fmt.Errorf("node %d: entry %d has no predecessor: %w", n.id, e.Index, err)
		}
		now := logged{prev, string(e.Payload)}
		key := Ticket{e.Term, e.Index}
		if was, old := v.entries[key]; old && was != now {
			return fmt.Errorf("node %d has another entry (%d,%d) than an earlier one", n.id, e.Term, e.Index)
		}
		v.entries[key] = now
	}
	return nil
}

// durableClaims: what a replica counts as durable is on its disk, and is what its log says (the append race: Ra, Redpanda
// #2937, etcd's async_storage_writes_append_aba_race).
type durableClaims struct{ noReady }

func (v *durableClaims) check(_ *world, n *memNode) error {
	if n.down || n.r.stable <= n.log.base.Index {
		return nil
	}
	i := n.r.stable
	have, ok := n.r.termAt(i)
	if disk, onDisk := n.log.durable.term(i); !ok || !onDisk || disk != have {
		return fmt.Errorf("node %d counts (%d,%d) as durable, on disk is term %d, its end %d", n.id, have, i, disk, n.log.durable.last())
	}
	return nil
}

// durableAcks: an acknowledgement names only what is on the sender's disk and equal to the log of the leader that it goes to.
type durableAcks struct{ noCheck }

func (v *durableAcks) ready(w *world, n *memNode, rd *Ready) error {
	for i := range rd.Messages {
		m := &rd.Messages[i]
		if m.Type != MsgAppResp && m.Type != MsgSnapResp || m.Reject || m.Index <= n.log.base.Index {
			continue
		}
		disk, ok := n.log.durable.term(m.Index)
		if !ok {
			return fmt.Errorf("%s, on disk is all up to %d", describe(m), n.log.durable.last())
		}
		if l := w.c.node(m.To); !l.down && l.r.role == Leader && l.r.term == m.Term && m.Index > l.log.base.Index {
			if t, ok := l.r.termAt(m.Index); !ok || t != disk {
				return fmt.Errorf("%s: of term %d here, of term %d at the leader", describe(m), disk, t)
			}
		}
	}
	return nil
}

// holds: member m has entry (t, i) on its disk. A disk that was damaged or wiped since is believed for what it once had: it
// neither votes nor campaigns until it has that again, or never.
func (w *world) holds(m Member, t Term, i Index) bool {
	n := w.c.node(m.ID)
	if n == nil {
		return false
	}
	if n.inc != m.Incarnation {
		return w.wiped[m] >= i
	}
	if i <= n.log.durable.base.Index || min(n.voteAfter, n.had) >= i && (n.down || n.r.voteAfter != 0) {
		return true
	}
	disk, ok := n.log.durable.term(i)
	return ok && disk == t
}

// majorityReached: what a leader commits is on the disks of a majority of each half of its configuration (§5.3, §6; KRaft's
// MajorityReachedHighWatermark). It is where an acknowledgement before the sync, a leader that counts itself too early or
// although it is removed, or the new half of a joint configuration alone would show.
type majorityReached struct {
	noReady
	seen map[NodeID]Index
	led  map[NodeID]Term
}

func (v *majorityReached) check(w *world, n *memNode) error {
	if n.down {
		delete(v.seen, n.id)
		delete(v.led, n.id)
		return nil
	}
	was, c := v.seen[n.id], n.r.commit
	v.seen[n.id] = c
	leads := n.r.role == Leader || v.led[n.id] == n.r.term // until a moment ago: it has committed its own removal
	v.led[n.id] = 0
	if n.r.role == Leader {
		v.led[n.id] = n.r.term
	}
	if !leads || c <= was {
		return nil
	}
	by := n.r.confs[len(n.r.confs)-1].conf
	for k, at := range n.r.confs {
		if at.index <= was || at.index > c || !at.conf.Joint() {
			continue
		}
		if k+1 < len(n.r.confs) && slices.Equal(n.r.confs[k+1].conf.Voters, at.conf.Outgoing) {
			continue // taken back before
		}
		if err := w.decided(at.index, &at.conf); err != nil { // it was left just now: what follows it is decided by the next
			return fmt.Errorf("leader %d of term %d: %w", n.id, n.r.term, err)
		}
		if at.index == c {
			return nil
		}
	}
	if err := w.decided(c, &by); err != nil {
		return fmt.Errorf("leader %d of term %d: %w", n.id, n.r.term, err)
	}
	return nil
}

func (w *world) decided(i Index, by *ConfState) error {
	for _, half := range [2][]Member{by.Voters, by.Outgoing} {
		have := 0
		for _, m := range half {
			if w.holds(m, w.committed[i-1].Term, i) {
				have++
			}
		}
		if len(half) > 0 && have <= len(half)/2 {
			return fmt.Errorf("commits %d, which %d of %d disks have (%v)", i, have, len(half), by)
		}
	}
	return nil
}

// ownTermCommit: a leader counts replicas only for entries of its own term (§5.4.2, figure 8).
type ownTermCommit struct {
	noReady
	seen map[NodeID]Index
}

func (v *ownTermCommit) check(w *world, n *memNode) error {
	if n.down {
		delete(v.seen, n.id)
		return nil
	}
	was, c := v.seen[n.id], n.r.commit
	v.seen[n.id] = c
	if n.r.role == Leader && c > was && w.committed[c-1].Term != n.r.term {
		return fmt.Errorf("leader %d of term %d commits (%d,%d)", n.id, n.r.term, w.committed[c-1].Term, c)
	}
	return nil
}

// monotonicCommit: a commit index does not go back within one life (KRaft's MonotonicHighWatermark), and stays in bounds.
type monotonicCommit struct {
	noReady
	seen map[NodeID]lifeIndex
}

func (v *monotonicCommit) check(_ *world, n *memNode) error {
	if n.down {
		return nil
	}
	r := n.r
	if was := v.seen[n.id]; was.boot == n.boot && r.commit < was.i {
		return fmt.Errorf("node %d: %d after %d", n.id, r.commit, was.i)
	}
	v.seen[n.id] = lifeIndex{n.boot, r.commit}
	if r.commit > r.last || r.matched > r.last || r.stable > r.last || r.applied > r.commit {
		return fmt.Errorf("node %d: %+v", n.id, r.Status())
	}
	return nil
}

// committedNeverCut: nothing at or below the commit index is overwritten.
type committedNeverCut struct{ seen map[NodeID]lifeIndex }

func (v *committedNeverCut) ready(_ *world, n *memNode, rd *Ready) error {
	if was := v.seen[n.id]; len(rd.Entries) > 0 && was.boot == n.boot && rd.Entries[0].Index <= was.i {
		return fmt.Errorf("node %d writes at %d, %d is committed", n.id, rd.Entries[0].Index, was.i)
	}
	return nil
}

func (v *committedNeverCut) check(_ *world, n *memNode) error {
	if !n.down {
		v.seen[n.id] = lifeIndex{n.boot, n.r.commit}
	}
	return nil
}

// consistentCommitted: the committed part of every log is the committed history (KRaft's ConsistentCommittedData).
type consistentCommitted struct {
	noReady
	seen map[NodeID]lifeIndex
}

func (v *consistentCommitted) check(w *world, n *memNode) error {
	if n.down {
		return nil
	}
	was := v.seen[n.id]
	if was.boot != n.boot {
		was = lifeIndex{boot: n.boot}
	}
	for i := max(n.log.base.Index, was.i) + 1; i <= n.r.commit; i++ {
		e, ok := n.entry(i)
		if c := &w.committed[i-1]; !ok || e.Term != c.Term || string(e.Payload) != string(c.Payload) {
			return fmt.Errorf("node %d has (%d,%d) committed, others (%d,%d)", n.id, e.Term, i, c.Term, i)
		}
	}
	v.seen[n.id] = lifeIndex{n.boot, n.r.commit}
	return nil
}

// stateMachineSafety: two replicas that have applied the same index have applied the same (figure 3).
type stateMachineSafety struct{ noReady }

func (v *stateMachineSafety) check(w *world, n *memNode) error {
	if n.down {
		return nil
	}
	if n.upTo > w.maxCommit() {
		return fmt.Errorf("node %d has applied %d, committed is %d", n.id, n.upTo, w.maxCommit())
	}
	if n.state != w.hashes[n.upTo] {
		return fmt.Errorf("node %d differs at %d", n.id, n.upTo)
	}
	return nil
}

// openedTermKnowsAll: the newest leader, once it has committed an entry of its own term, knows of everything that was ever
// committed (§8): from there on its commit index may be shown as the high watermark.
type openedTermKnowsAll struct{ noReady }

func (v *openedTermKnowsAll) check(w *world, _ *memNode) error {
	l := w.c.leader()
	if l != nil && l.r.term == w.newest && l.r.commit >= l.r.termStart && l.r.commit < w.maxCommit() {
		return fmt.Errorf("leader %d of term %d has opened its term and knows %d, committed is %d", l.id, l.r.term, l.r.commit, w.maxCommit())
	}
	return nil
}

// leaseSafety: who holds a lease knows of everything that is committed at this moment, whatever clocks do within the bound,
// and nobody else holds one (thesis 6.4.1).
type leaseSafety struct{ noReady }

func (v *leaseSafety) check(w *world, _ *memNode) error {
	var holder *memNode
	for _, n := range w.c.nodes {
		if n.down || w.stalled(n) || n.r.role != Leader || n.r.LeaseUntil() <= n.now() {
			continue
		}
		w.did[leaseChecks]++
		if n.r.commit < w.maxCommit() {
			return fmt.Errorf("node %d has a lease in term %d for another %d and knows %d, committed is %d", n.id, n.r.term,
				n.r.LeaseUntil()-n.now(), n.r.commit, w.maxCommit())
		}
		if holder != nil {
			return fmt.Errorf("nodes %d and %d have leases in terms %d and %d", holder.id, n.id, holder.r.term, n.r.term)
		}
		holder = n
	}
	return nil
}

// readSafety: a ReadIndex sees what was committed when it was asked for (§8, thesis 6.4; linearizability).
type readSafety struct{ noReady }

func (v *readSafety) check(w *world, n *memNode) error {
	for _, rs := range n.reads {
		if rs.Err != nil {
			continue
		}
		if rs.Index < w.reads[rs.Ctx] {
			return fmt.Errorf("node %d: read sees %d, %d was committed when it began", n.id, rs.Index, w.reads[rs.Ctx])
		}
		w.did[readsServed]++
	}
	n.reads = nil
	return nil
}

// confFollowsLog: the configuration in effect is the last one in the log, committed or not, and goes when it is cut off (§6).
type confFollowsLog struct{ noCheck }

func (v *confFollowsLog) ready(_ *world, n *memNode, rd *Ready) error {
	if !rd.Changed && len(rd.Entries) == 0 || n.r.installed != nil {
		return nil
	}
	want := n.initial
	if n.snap.Meta.Index > 0 {
		want = n.snap.Meta.Conf
	}
	if e, ok, _ := n.log.LastConfig(n.log.LastIndex()); ok {
		c, err := decodeEntryConf(&e)
		if err != nil {
			return err
		}
		want = c
	}
	if !n.r.conf().Equal(&want) {
		return fmt.Errorf("node %d goes by %v, its log says %v", n.id, *n.r.conf(), want)
	}
	return nil
}

// confSafety: a leader changes the membership only after an entry of its own term is committed, and the membership before it
// (Ongaro 2015); and from one to the next every two majorities meet (§6, thesis 4).
type confSafety struct{ noCheck }

func (v *confSafety) ready(w *world, n *memNode, rd *Ready) error {
	for i := range rd.Entries {
		e := &rd.Entries[i]
		if e.Type != EntryConfig || n.r.role != Leader || e.Term != n.r.term {
			continue
		}
		next, err := decodeEntryConf(e)
		if err != nil {
			return err
		}
		prev := n.initial
		if n.snap.Meta.Index > 0 {
			prev = n.snap.Meta.Conf
		}
		if p, ok, _ := n.log.LastConfig(e.Index - 1); ok {
			if takenBack(&p, &next) {
				continue
			}
			if p.Index > w.maxCommit() {
				return fmt.Errorf("leader %d appends a membership at %d, the one at %d is not committed", n.id, e.Index, p.Index)
			}
			if prev, err = decodeEntryConf(&p); err != nil {
				return err
			}
		}
		if w.maxCommit() == 0 || w.committed[w.maxCommit()-1].Term < n.r.term {
			return fmt.Errorf("leader %d of term %d appends a membership before it has committed in that term", n.id, n.r.term)
		}
		if !adjacent(&prev, &next) {
			return fmt.Errorf("leader %d goes from %v to %v", n.id, prev, next)
		}
	}
	return nil
}

// takenBack: next is what the joint membership p came from.
func takenBack(p *Entry, next *ConfState) bool {
	prev, err := decodeEntryConf(p)
	return err == nil && prev.Joint() && !next.Joint() && slices.Equal(prev.Outgoing, next.Voters)
}

func adjacent(prev, next *ConfState) bool {
	if prev.Joint() {
		return !next.Joint() && slices.Equal(prev.Voters, next.Voters)
	}
	if next.Joint() {
		return slices.Equal(prev.Voters, next.Outgoing)
	}
	d := 0
	for _, m := range prev.Voters {
		if !slices.Contains(next.Voters, m) {
			d++
		}
	}
	for _, m := range next.Voters {
		if !slices.Contains(prev.Voters, m) {
			d++
		}
	}
	return d <= 1
}

// snapshotAtLogStart: where a log does not begin at 1, a snapshot stands for what is missing (KRaft's invariant of this name).
type snapshotAtLogStart struct{ noReady }

func (v *snapshotAtLogStart) check(_ *world, n *memNode) error {
	if b := n.log.base; b.Index > n.snap.Meta.Index || b.Index > 0 && b.Index == n.snap.Meta.Index && b.Term != n.snap.Meta.Term {
		return fmt.Errorf("node %d: log begins after (%d,%d), snapshot is (%d,%d)", n.id, b.Term, b.Index, n.snap.Meta.Term, n.snap.Meta.Index)
	}
	return nil
}

// leaderNeverInstalls: nobody installs a snapshot while it leads (KRaft's LeaderNeverLoadSnapshot).
type leaderNeverInstalls struct{ noCheck }

func (v *leaderNeverInstalls) ready(_ *world, n *memNode, rd *Ready) error {
	if rd.Snapshot != nil && n.r.role != Follower {
		return fmt.Errorf("node %d installs a snapshot as %v", n.id, n.r.role)
	}
	return nil
}

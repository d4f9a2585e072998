// Membership: its encoding, and changes of it by joint consensus (§6, thesis 4).
//
// A configuration is in effect on a replica as soon as it is in its log, and no longer in effect when it is cut off again.
// One change at a time, and none before the leader has committed an entry of its own term (the single-server bug, Ongaro
// 2015). A joint configuration is left by whoever leads when it is committed, so that nobody inherits one for good; before that
// it can be taken back.

package raft

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"
)

// MaxMembers bounds each list of a membership.
const MaxMembers = 64

// confVersion begins an encoded membership.
const confVersion = 2 // 1 had no epoch

type confAt struct {
	index Index
	conf  ConfState
}

// ConfOp is one step of a membership change.
type ConfOp uint8

const (
	// AddVoter adds a node that is no member yet as a voter. Better add a learner, and promote it once it is caught up.
	AddVoter ConfOp = iota + 1
	// AddLearner adds a node that gets entries and does not count.
	AddLearner
	// Promote makes a learner a voter.
	Promote
	// Remove takes a voter or learner out.
	Remove
)

func (o ConfOp) String() string {
	switch o {
	case AddVoter:
		return "add-voter"
	case AddLearner:
		return "add-learner"
	case Promote:
		return "promote"
	case Remove:
		return "remove"
	}
	return fmt.Sprintf("ConfOp(%d)", uint8(o))
}

// ConfStep is one step; all steps of a change take effect together.
type ConfStep struct {
	Op     ConfOp
	Member Member // for Promote and Remove, Incarnation 0 matches any
}

// ConfChange is a change of membership. It goes through a joint configuration if it changes more than one voter, or if
// Joint asks for it.
type ConfChange struct {
	Steps []ConfStep
	Joint bool
	// Revert, without Steps, goes from a joint configuration back to the one that is being left. Voters that only the new
	// half had are then no members.
	Revert bool
}

func findMember(ms []Member, id NodeID) int {
	return slices.IndexFunc(ms, func(m Member) bool { return m.ID == id })
}

func (c *ConfState) isVoter(id NodeID) bool {
	return findMember(c.Voters, id) >= 0 || findMember(c.Outgoing, id) >= 0
}

// Has reports whether m, in that incarnation, is a member.
func (c *ConfState) Has(m Member) bool {
	return slices.Contains(c.Voters, m) || slices.Contains(c.Outgoing, m) || slices.Contains(c.Learners, m)
}

// NodeIDs are those of members, without their incarnations.
func NodeIDs(ms []Member) []NodeID {
	ids := make([]NodeID, len(ms))
	for i, m := range ms {
		ids[i] = m.ID
	}
	return ids
}

// Clone copies a membership.
func (c *ConfState) Clone() ConfState {
	return ConfState{slices.Clone(c.Voters), slices.Clone(c.Outgoing), slices.Clone(c.Learners), c.Epoch}
}

// Equal compares two memberships.
func (c *ConfState) Equal(o *ConfState) bool {
	return c.Epoch == o.Epoch && slices.Equal(c.Voters, o.Voters) && slices.Equal(c.Outgoing, o.Outgoing) && slices.Equal(c.Learners, o.Learners)
}

func (c ConfState) String() string {
	list := func(ms []Member) string {
		s := ""
		for i, m := range ms {
			if i > 0 {
				s += " "
			}
			s += fmt.Sprint(m.ID)
		}
		return s
	}
	s := "voters=(" + list(c.Voters) + ")"
	if c.Joint() {
		s += "&&(" + list(c.Outgoing) + ")"
	}
	if len(c.Learners) > 0 {
		s += " learners=(" + list(c.Learners) + ")"
	}
	if c.Epoch != 0 {
		s += fmt.Sprintf(" epoch=%d", c.Epoch)
	}
	return s
}

// Check tells whether c is a well-formed membership, which the empty one is. Errors are [ErrBadConf].
func (c *ConfState) Check() error {
	for _, ms := range [3][]Member{c.Voters, c.Outgoing, c.Learners} {
		if len(ms) > MaxMembers {
			return fmt.Errorf("%w: %d members", ErrBadConf, len(ms))
		}
		for i, m := range ms {
			if m.ID == 0 || m.ID > math.MaxInt32 {
				return fmt.Errorf("%w: node id %d", ErrBadConf, m.ID)
			}
			if i > 0 && ms[i-1].ID >= m.ID {
				return fmt.Errorf("%w: members out of order at %d", ErrBadConf, m.ID)
			}
		}
	}
	for _, m := range c.Learners {
		if c.isVoter(m.ID) {
			return fmt.Errorf("%w: %d is voter and learner", ErrBadConf, m.ID)
		}
	}
	for _, m := range c.Outgoing {
		if i := findMember(c.Voters, m.ID); i >= 0 && c.Voters[i] != m {
			return fmt.Errorf("%w: two incarnations of %d", ErrBadConf, m.ID)
		}
	}
	if len(c.Voters) == 0 && (len(c.Outgoing) > 0 || len(c.Learners) > 0) {
		return fmt.Errorf("%w: no voters", ErrBadConf)
	}
	return nil
}

// AppendConfState encodes c: a version byte, the epoch, then voters, outgoing voters and learners, each a count and that many pairs of
// node id and incarnation, all as unsigned varints.
func AppendConfState(dst []byte, c *ConfState) []byte {
	dst = append(dst, confVersion)
	dst = binary.AppendUvarint(dst, uint64(c.Epoch))
	for _, ms := range [3][]Member{c.Voters, c.Outgoing, c.Learners} {
		dst = binary.AppendUvarint(dst, uint64(len(ms)))
		for _, m := range ms {
			dst = binary.AppendUvarint(dst, uint64(m.ID))
			dst = binary.AppendUvarint(dst, uint64(m.Incarnation))
		}
	}
	return dst
}

// DecodeConfState is the inverse of [AppendConfState]; b must hold nothing else. Errors are [ErrBadConf].
func DecodeConfState(b []byte) (ConfState, error) {
	if len(b) == 0 || b[0] == 0 || b[0] > confVersion {
		return ConfState{}, fmt.Errorf("%w: unknown encoding", ErrBadConf)
	}
	version := b[0]
	b = b[1:]
	short := false
	next := func() uint64 {
		v, n := binary.Uvarint(b)
		if n <= 0 {
			short = true
			return 0
		}
		b = b[n:]
		return v
	}
	var epoch uint64
	if version >= 2 {
		epoch = next()
	}
	if epoch > math.MaxUint32 {
		return ConfState{}, fmt.Errorf("%w: epoch %d", ErrBadConf, epoch)
	}
	c := ConfState{Epoch: GroupEpoch(epoch)}
	for _, ms := range [3]*[]Member{&c.Voters, &c.Outgoing, &c.Learners} {
		n := next()
		if n > MaxMembers {
			return ConfState{}, fmt.Errorf("%w: %d members", ErrBadConf, n)
		}
		for range n {
			id, inc := next(), next()
			if short || id > math.MaxInt32 {
				return ConfState{}, fmt.Errorf("%w: cut short, or a node id too large", ErrBadConf)
			}
			*ms = append(*ms, Member{NodeID(id), Incarnation(inc)})
		}
	}
	if short || len(b) > 0 {
		return ConfState{}, fmt.Errorf("%w: wrong length", ErrBadConf)
	}
	if err := c.Check(); err != nil {
		return ConfState{}, err
	}
	return c, nil
}

func decodeEntryConf(e *Entry) (ConfState, error) {
	c, err := DecodeConfState(e.Payload)
	if err == nil && len(c.Voters) == 0 {
		err = fmt.Errorf("%w: no voters", ErrBadConf)
	}
	return c, err
}

// Apply returns the configuration that a change leads to next: joint, or final if one voter at most is concerned.
func (c ConfChange) Apply(cur *ConfState) (ConfState, error) {
	bad := func(s ConfStep, why string) (ConfState, error) {
		return ConfState{}, fmt.Errorf("%w: %v %d: %s", ErrBadConf, s.Op, s.Member.ID, why)
	}
	switch {
	case c.Revert && (len(c.Steps) > 0 || !cur.Joint()):
		return ConfState{}, fmt.Errorf("%w: nothing to take back", ErrBadConf)
	case c.Revert:
		return ConfState{Voters: slices.Clone(cur.Outgoing), Learners: slices.Clone(cur.Learners), Epoch: cur.Epoch}, nil
	case cur.Joint():
		return ConfState{}, ErrConfPending
	}
	if len(c.Steps) == 0 || len(c.Steps) > MaxMembers {
		return ConfState{}, fmt.Errorf("%w: a change of %d steps", ErrBadConf, len(c.Steps))
	}
	next := cur.Clone()
	voterChanges := 0
	for i, s := range c.Steps {
		if slices.ContainsFunc(c.Steps[:i], func(o ConfStep) bool { return o.Member.ID == s.Member.ID }) {
			return bad(s, "named twice") // a new incarnation is added only after the old one is out
		}
		v, l := findMember(next.Voters, s.Member.ID), findMember(next.Learners, s.Member.ID)
		matches := func(m Member) bool {
			return m.Incarnation == s.Member.Incarnation || m.Incarnation == 0 || s.Member.Incarnation == 0
		}
		switch s.Op {
		case AddVoter, AddLearner:
			if v >= 0 || l >= 0 {
				return bad(s, "is a member already")
			}
			if s.Op == AddVoter {
				next.Voters = append(next.Voters, s.Member)
				voterChanges++
			} else {
				next.Learners = append(next.Learners, s.Member)
			}
		case Promote:
			if l < 0 || !matches(next.Learners[l]) {
				return bad(s, "is not a learner")
			}
			next.Voters = append(next.Voters, next.Learners[l])
			next.Learners = slices.Delete(next.Learners, l, l+1)
			voterChanges++
		case Remove:
			switch {
			case v >= 0 && matches(next.Voters[v]):
				next.Voters = slices.Delete(next.Voters, v, v+1)
				voterChanges++
			case l >= 0 && matches(next.Learners[l]):
				next.Learners = slices.Delete(next.Learners, l, l+1)
			default:
				return bad(s, "is not a member")
			}
		default:
			return bad(s, "unknown step")
		}
	}
	byID := func(a, b Member) int { return int(int64(a.ID) - int64(b.ID)) }
	slices.SortFunc(next.Voters, byID)
	slices.SortFunc(next.Learners, byID)
	if len(next.Voters) == 0 {
		return ConfState{}, fmt.Errorf("%w: no voters would remain", ErrBadConf)
	}
	if voterChanges > 1 || c.Joint {
		next.Outgoing = slices.Clone(cur.Voters)
	}
	if err := next.Check(); err != nil {
		return ConfState{}, err
	}
	return next, nil
}

// conf is the configuration in effect: the last one in the log.
func (r *Raft) conf() *ConfState { return &r.confs[len(r.confs)-1].conf }

func (r *Raft) confIndex() Index { return r.confs[len(r.confs)-1].index }

// ConfAt is the configuration as of index i, which must be at or above the last applied one: what a snapshot as of i
// carries.
func (r *Raft) ConfAt(i Index) ConfState {
	k := len(r.confs) - 1
	for k > 0 && r.confs[k].index > i {
		k--
	}
	return r.confs[k].conf
}

// loadConfs collects the memberships from the last one applied on.
func (r *Raft) loadConfs(bootstrap ConfState) error {
	for upTo := r.last; ; {
		e, ok, err := r.log.LastConfig(upTo)
		if err != nil {
			return fmt.Errorf("raft: reading membership: %w", err)
		}
		if !ok {
			r.confs = append(r.confs, confAt{0, bootstrap.Clone()})
			break
		}
		if e.Index == 0 || e.Index > upTo {
			return fmt.Errorf("%w: log returned membership %d for %d", ErrBadConfig, e.Index, upTo)
		}
		c, err := decodeEntryConf(&e)
		if err != nil {
			return fmt.Errorf("raft: membership at %d: %w", e.Index, err)
		}
		r.confs = append(r.confs, confAt{e.Index, c})
		if e.Index <= r.applied {
			break
		}
		upTo = e.Index - 1
	}
	slices.Reverse(r.confs)
	return nil
}

// incarnationOf is the incarnation in which a node is a member, 0 if it is none or that is unknown.
func (r *Raft) incarnationOf(id NodeID) Incarnation {
	c := r.conf()
	for _, ms := range [3][]Member{c.Voters, c.Outgoing, c.Learners} {
		if i := findMember(ms, id); i >= 0 {
			return ms[i].Incarnation
		}
	}
	return 0
}

// confChanged brings what a leader knows of the members in line with the configuration in effect.
func (r *Raft) confChanged() {
	r.changed = true
	if r.role != Leader {
		return
	}
	c := r.conf()
	var peers []*Progress
	add := func(ms []Member, learner bool) {
		for _, m := range ms {
			if m.ID == r.self.ID || slices.ContainsFunc(peers, func(p *Progress) bool { return p.Member.ID == m.ID }) {
				continue
			}
			p := r.peer(m.ID)
			if p == nil || p.Member != m {
				p = &Progress{Member: m, Next: r.last + 1, ackedAt: math.MinInt64, heardAt: math.MinInt64, entriesAt: math.MinInt64}
				p.catchUpFrom(r.last, r.now)
				if i := slices.IndexFunc(r.departed, func(d departure) bool { return d.member == m }); i >= 0 {
					p.boot = r.departed[i].boot
				}
			}
			p.Learner = learner
			peers = append(peers, p)
		}
	}
	add(c.Voters, false)
	add(c.Outgoing, false)
	add(c.Learners, true)
	for _, p := range r.peers {
		if p.boot != 0 && !slices.ContainsFunc(peers, func(q *Progress) bool { return q.Member == p.Member }) {
			r.departed = slices.DeleteFunc(r.departed, func(d departure) bool { return d.member == p.Member })
			r.departed = append(r.departed, departure{p.Member, p.boot})
		}
	}
	slices.SortFunc(peers, func(a, b *Progress) int { return int(int64(a.Member.ID) - int64(b.Member.ID)) })
	r.peers = peers
	r.sendSnapshot = slices.DeleteFunc(r.sendSnapshot, func(id NodeID) bool { return r.peer(id) == nil })
	r.quorumSince = r.now // time for new voters to answer
	if r.transferee != 0 && findMember(c.Voters, r.transferee) < 0 {
		r.transferee = 0
	}
}

// ProposeConf starts a membership change, and returns the index of its first configuration.
//
// Reverting is for a joint configuration that cannot be committed, as a majority of its new half is gone; then nothing else
// can be committed either. So it does not wait for that. It is for the leader that appended the joint configuration itself:
// whoever else led it to being committed, in a later term, did so with a majority of the old half, which then takes no
// more entries of this term. A leader that inherited it cannot know but that it was committed and is being left, by an entry
// that a majority of the new half alone may yet elect; it has to commit in its own term first, and thereby leaves it.
func (r *Raft) ProposeConf(now Time, change ConfChange) (Index, error) {
	r.setNow(now)
	switch {
	case r.role != Leader:
		return 0, ErrNotLeader
	case r.transferee != 0:
		return 0, ErrTransferring
	case change.Revert && r.confIndex() >= r.termStart:
	case r.commit < r.termStart:
		return 0, ErrNotReady
	case r.confIndex() > r.commit || r.conf().Joint():
		return 0, ErrConfPending
	}
	next, err := change.Apply(r.conf())
	if err != nil {
		return 0, err
	}
	for _, s := range change.Steps {
		if p := r.peer(s.Member.ID); s.Op == Promote && p != nil && !r.caughtUp(p) {
			return 0, fmt.Errorf("%w: %d", ErrNotCaughtUp, s.Member.ID)
		}
	}
	r.appendConf(&next)
	return r.confIndex(), nil
}

// caughtUp says that a learner would not hold commits up as a voter (thesis 4.2.1): it has everything, or its last round, of
// all that there was when the round began, took less than an election timeout, and this one has not taken longer yet.
// A number of entries would not do: a thousand small ones are nothing, and a thousand of a megabyte are minutes.
func (r *Raft) caughtUp(p *Progress) bool {
	return p.Match == r.last || p.fastRound && r.now < p.roundSince.add(r.cfg.ElectionTimeout)
}

func (r *Raft) appendConf(c *ConfState) {
	r.appendInternal(Entry{Type: EntryConfig, Payload: AppendConfState(nil, c)})
	r.maybeCommit() // the new quorum may be there already
}

// confCommitted does what follows from a configuration being committed: a joint one is left, and a leader that is no
// longer a voter goes, having told a successor.
func (r *Raft) confCommitted() {
	if r.role != Leader || r.confIndex() > r.commit {
		return
	}
	if c := r.conf(); c.Joint() {
		r.appendConf(&ConfState{Voters: c.Voters, Learners: c.Learners, Epoch: c.Epoch})
		return
	}
	if r.isVoter() || r.transferee != 0 {
		return
	}
	// What is in this log is not lost on its way out: the best of those that remain gets all of it before it is told.
	best := r.successor()
	if best == nil {
		r.becomeFollower(r.term, 0, 0)
		return
	}
	r.transferee, r.ordered, r.holding = best.Member.ID, false, true
	r.transferUntil = r.now.add(r.cfg.ElectionTimeout)
	r.sendTo(best)
	r.transferIfReady()
}

// The core itself: its configuration, its state, and where what comes in is sorted out.
//
// Raft is a value that is driven: time, messages and reports from the disk come in, a Ready comes out. It owns no clock,
// goroutine, lock or file, draws its randomness from Config, and the same calls give the same result. One caller at a
// time. Paragraphs (§5.2) are those of "In Search of an Understandable Consensus Algorithm (Extended Version)";
// "thesis" is Ongaro's dissertation.

package raft

import (
	"fmt"
	"math"
	"math/rand/v2"
	"time"
)

// Forever is the deadline of who has nothing to wait for.
const Forever Time = math.MaxInt64

// maxIndex keeps arithmetic on indexes from outside free of overflow.
const maxIndex Index = 1 << 62

// UntilTold, as Config.VoteAfter, is for a replica that has lost its log, or its end, and cannot know how far it went. It asks
// its leader: see Message.Lost.
const UntilTold = maxIndex

// maxHeld bounds the messages that wait for a hard state to become durable. What is beyond it is dropped: peers repeat.
const maxHeld = 1024

func (t Time) add(d time.Duration) Time { return t + Time(d) }

// Config is what a replica is made of. Zero bounds take the defaults named with each.
type Config struct {
	Group GroupID
	Self  Member
	// Boot is larger than at any earlier New of this replica, in this process or before it; it goes out as FromBoot.
	Boot uint64
	// VoteAfter: neither votes nor campaigns before a leader's log matched this one durably up to here, because
	// recovery found damage. 0: none; UntilTold: up to where is not known.
	VoteAfter Index

	ElectionTimeout   time.Duration // minimum; each wait is drawn from [1, 1.25] times this
	HeartbeatInterval time.Duration // less than half of ElectionTimeout
	ClockDrift        time.Duration // taken off every lease

	MaxMessageBytes  int   // entries per MsgApp, at least one entry; 1 MiB
	MaxInflightMsgs  int   // unanswered MsgApps per follower; 128
	MaxInflightBytes int64 // and the bytes in them; 16 MiB
	MaxUncommitted   int64 // bytes in the leader's log above commit, beyond which proposals are refused; 64 MiB
	MaxApplyBytes    int   // committed entries per Ready, at least one entry; 4 MiB

	// BusyFor is for how long entries, and answers to them, do instead of heartbeats to a member; at most a third of ElectionTimeout.
	// 0: there are heartbeats all the time.
	BusyFor time.Duration
	// CommitDelay is how long a leader waits for entries that the news of a commit can ride on, before it sends a message for that alone.
	// 0: not at all. See TellAtOnce.
	CommitDelay time.Duration

	// Log is the replica's log. What it holds when New is called must be durable.
	Log       LogReader
	HardState HardState // from the journal; the larger of its term and the last entry's is used, a raised term clears the vote
	Bootstrap ConfState // membership before any EntryConfig in the log: from the snapshot, or the first assignment
	Applied   Index     // from the snapshot; commit starts here
	// Priorities: see SetPriorities.
	Priorities []NodePriority
	Now        Time // a replica votes, and campaigns, only from Now+ElectionTimeout on, unless Fresh
	Fresh      bool // this replica has never run before: there is no promise to wait out
	Rand       *rand.Rand
	// Throttle, if not nil, holds back what goes to learners that are being caught up.
	Throttle Throttle
	// Pacer, if not nil, says when members that are behind get more.
	Pacer Pacer
	// FrameInternal frames a no-op or a membership when it gets its place in the leader's log: it sets Frame, and
	// Payload as a part of it. It runs inside a call of the core and must not call back.
	FrameInternal func(*Entry)
}

// Throttle bounds the rate at which learners are caught up. It is called inside calls of the core, and must not call back.
type Throttle interface {
	// Allow says whether a message of entries may go out to a learner now.
	Allow(to NodeID, now Time) bool
	// Sent tells how many bytes of entries went out to it.
	Sent(to NodeID, bytes int64)
}

// Pacer spreads out what goes to members that are behind: entries that are committed already, for which nobody waits, and of which
// there may be a disk full. It is called inside calls of the core, and must not call back.
type Pacer interface {
	// Ask says that a member lacks entries from one on up to another, and has room for some. They go out with SendBehind. It is
	// repeated.
	Ask(to NodeID, from, upTo Index)
}

func (c *Config) validate() error {
	bad := func(what string) error { return fmt.Errorf("%w: %s", ErrBadConfig, what) }
	switch {
	case c.Group == 0:
		return bad("no group id")
	case c.Self.ID == 0:
		return bad("no node id")
	case c.Log == nil:
		return bad("no log")
	case c.ElectionTimeout <= 0:
		return bad("election timeout must be positive")
	case c.HeartbeatInterval <= 0 || c.HeartbeatInterval > c.ElectionTimeout/2:
		return bad("heartbeat interval must be positive and at most half the election timeout")
	case c.ClockDrift < 0 || c.ClockDrift >= c.ElectionTimeout:
		return bad("clock drift must be below the election timeout")
	case c.BusyFor < 0 || c.BusyFor > c.ElectionTimeout/3:
		return bad("entries cannot stand for heartbeats for longer than a third of the election timeout")
	case c.CommitDelay < 0:
		return bad("the news of a commit cannot come before it")
	case c.HardState.Term > MaxTerm:
		return bad("hard state beyond the largest term")
	}
	if err := c.Bootstrap.Check(); err != nil {
		return fmt.Errorf("%w: bootstrap: %w", ErrBadConfig, err)
	}
	setDefault(&c.MaxMessageBytes, 1<<20)
	setDefault(&c.MaxInflightMsgs, 128)
	setDefault(&c.MaxInflightBytes, 16<<20)
	setDefault(&c.MaxUncommitted, 64<<20)
	setDefault(&c.MaxApplyBytes, 4<<20)
	if c.Rand == nil {
		c.Rand = rand.New(rand.NewPCG(uint64(c.Group), uint64(c.Self.ID)))
	}
	return nil
}

func setDefault[T int | int64](v *T, d T) {
	if *v <= 0 {
		*v = d
	}
}

// Raft is one replica's consensus state. See the package's Config, and docs/design/0002-raft-core.md.
type Raft struct {
	cfg  Config
	self Member
	log  LogReader
	now  Time

	epoch   GroupEpoch
	term    Term
	vote    NodeID
	voteInc Incarnation // of whom vote went to, if it was given in this life; a restarted voter does not repeat its vote
	handed  HardState   // last handed out by Ready
	synced  HardState   // known to be durable

	role       Role
	leader     NodeID
	leaderInc  Incarnation
	ledTerm    Term // the last term that this replica led in this life
	leaderSent Time // latest SentAt from the leader of this term: what answers that nobody asked for carry

	promiseUntil     Time // no vote, except by a leader's order, before this: what leases rest on
	voteFrom         Time // the same promise of an earlier life, which forgot when it made it
	voteAfter        Index
	electionWait     time.Duration
	electionDeadline Time
	resting          bool
	votes            []ballot
	campaignedAt     Time       // the last time
	rivals           rivals     // a candidate's, in its term
	withdrew         bool       // in favour of a rival, since a leader was last heard
	pardoned         bool       // by a reset: when its epoch is durable, voteAfter, which is of the epoch before, is over
	resetTo          *ConfState // candidate by a reset: leads with this membership once its vote is durable, asking nobody

	priorities []NodePriority
	impaired   bool
	yielding   bool     // the timer has run out since a leader was last heard, and
	target     Priority // those of this priority are let go first
	lost       NodeID   // the leader that fell silent

	pending   []Entry // appended, not yet handed out; may overlap the log, which is then truncated by it
	last      Index   // end of the log, pending included
	lastTerm  Term    // its term
	stable    Index   // durable up to here
	truncTerm Term    // term in which the log was last truncated
	matched   Index   // follower: equal to the log of this term's leader up to here
	acked     Index   // follower: highest index acknowledged to this term's leader
	commit    Index
	elsewhere Index // follower: a leader has said that so much is committed
	handing   Index // committed entries handed out up to here
	applied   Index
	confs     []confAt  // confs[0] is in effect at applied, the last one now
	offer     *Offer    // a leader's, not handed out yet
	installed *Snapshot // being installed, if not nil
	install   bool      // and not yet handed out

	// The leader's.
	peers          []*Progress // all members but self, by id
	departed       []departure
	termStart      Index // index of the no-op that opens the term
	quorumSince    Time  // check-quorum's grace: leadership or membership is this young
	heartbeatDue   Time
	newsDue        Time   // of a commit that members have not been told of; 0: none
	tellUntil      Time   // till then they are told at once; outlives a leadership
	round          uint64 // last heartbeat round; never reused in this life, and an answer counts in its own term only
	reads          []pendingRead
	readRound      uint64 // round that the oldest assigned reads wait for; 0: none
	transferee     NodeID
	transferUntil  Time
	holding        bool // no proposals any more: the transferee has all but what is on its way
	ordered        bool // the transferee has been told
	leaseForfeited bool // TimeoutNow was sent in this term
	uncommitted    int64
	uncommittedBy  []sizedIndex

	out          []Message
	held         []heldMessage
	readStates   []ReadState
	sendSnapshot []NodeID
	changed      bool
	logErr       error
}

type heldMessage struct {
	m    Message
	need HardState
}

type sizedIndex struct {
	index Index
	bytes int64
}

// New makes a replica from what its disk holds. It starts as a follower.
func New(cfg Config) (*Raft, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	r := &Raft{cfg: cfg, self: cfg.Self, log: cfg.Log, now: cfg.Now, promiseUntil: math.MinInt64, voteFrom: math.MinInt64,
		priorities: cfg.Priorities}
	r.last = r.log.LastIndex()
	first := r.log.FirstIndex()
	if first == 0 || first > r.last+1 || r.last > maxIndex {
		return nil, fmt.Errorf("%w: log claims to hold [%d,%d]", ErrBadConfig, first, r.last)
	}
	if cfg.Applied+1 < first || cfg.Applied > r.last {
		return nil, fmt.Errorf("%w: applied index %d is outside the log [%d,%d]", ErrBadConfig, cfg.Applied, first, r.last)
	}
	var err error
	if r.lastTerm, err = r.log.Term(r.last); err != nil {
		return nil, fmt.Errorf("raft: reading term of last entry: %w", err)
	}
	if r.lastTerm > MaxTerm {
		return nil, fmt.Errorf("%w: last entry beyond the largest term", ErrBadConfig)
	}
	r.epoch, r.term, r.vote = cfg.HardState.Epoch, cfg.HardState.Term, cfg.HardState.Vote
	r.handed, r.synced = cfg.HardState, cfg.HardState
	if r.lastTerm > r.term {
		// The log was synced, the journal not: the term was entered, whom it voted for it never said (votes wait for
		// the journal), and the leader of that term exists, so that no vote in it is needed.
		r.term, r.vote = r.lastTerm, 0
	}
	r.stable = r.last
	r.commit, r.handing, r.applied, r.matched = cfg.Applied, cfg.Applied, cfg.Applied, cfg.Applied
	if cfg.VoteAfter > r.commit {
		r.voteAfter = cfg.VoteAfter
	}
	if err := r.loadConfs(cfg.Bootstrap); err != nil {
		return nil, err
	}
	r.epoch = max(r.epoch, r.conf().Epoch)
	if !cfg.Fresh && !r.soleVoter() {
		r.voteFrom = r.now.add(cfg.ElectionTimeout)
	}
	r.drawElectionWait()
	r.electionDeadline = r.now.add(r.electionWait)
	if r.soleVoter() {
		r.electionDeadline = r.now
	}
	r.changed = true
	return r, nil
}

// soleVoter: nobody else can have been promised anything. Only a membership known to be committed counts: a leader that
// has removed itself may still hold a lease on this node's promise until that is committed.
func (r *Raft) soleVoter() bool {
	c := r.conf()
	return len(r.confs) == 1 && !c.Joint() && len(c.Voters) == 1 && r.isSelf(c.Voters[0])
}

func (r *Raft) setNow(now Time) {
	if now > r.now {
		r.now = now
	}
}

func (r *Raft) hardState() HardState { return HardState{Term: r.term, Vote: r.vote, Epoch: r.epoch} }

// Tick does what time has made due. Call it at or after Deadline; earlier is harmless.
func (r *Raft) Tick(now Time) {
	r.setNow(now)
	if r.role == Leader {
		r.tickLeader()
		return
	}
	if !r.resting && r.now >= r.electionDeadline {
		if r.yields() {
			r.electionDeadline = r.now.add(r.yieldWait())
			return
		}
		r.drawElectionWait()
		r.electionDeadline = r.now.add(r.electionWait)
		r.campaign(false)
	}
}

// Deadline is when Tick next has something to do, or [Forever].
func (r *Raft) Deadline() Time {
	if r.role == Leader {
		return r.leaderDeadline()
	}
	if r.resting || !r.promotable() {
		return Forever
	}
	return r.electionDeadline
}

// HardStateSynced reports that hs, and all that Ready handed out before it, is on the disk.
func (r *Raft) HardStateSynced(now Time, hs HardState) {
	r.setNow(now)
	if hs.Term < r.synced.Term || hs.Term == r.synced.Term && hs.Vote == 0 {
		return
	}
	r.synced = hs
	kept := r.held[:0]
	for _, h := range r.held {
		if r.covers(h.need) {
			r.out = append(r.out, h.m)
		} else {
			kept = append(kept, h)
		}
	}
	clear(r.held[len(kept):])
	r.held = kept
	if r.pardoned && r.synced.Epoch == r.epoch {
		r.pardoned = false
		r.changed = r.changed || r.voteAfter != 0
		r.voteAfter = 0
	}
	if r.role == Candidate && r.synced == r.hardState() {
		if r.resetTo != nil {
			r.leadReset()
			return
		}
		r.recordVote(r.self.ID, true)
	}
}

func (r *Raft) covers(need HardState) bool {
	return r.synced.Term > need.Term || r.synced.Term == need.Term && (need.Vote == 0 || need.Vote == r.synced.Vote)
}

// AppendSynced reports that the log is durable up to the ticket. A ticket from before the last truncation speaks of
// entries that are gone, and says nothing (Ra, Redpanda #2937, etcd's async_storage_writes_append_aba_race).
func (r *Raft) AppendSynced(now Time, t Ticket) {
	r.setNow(now)
	if t.Term < r.truncTerm || r.installed != nil {
		return
	}
	upTo := min(t.Index, r.handedLast())
	if upTo <= r.stable {
		return
	}
	r.stable = upTo
	if r.role == Leader {
		r.maybeCommit()
		return
	}
	r.liftVoteAfter()
	if r.role == Follower && r.leader != 0 && min(r.stable, r.matched) > r.acked {
		r.sendAck(r.leaderSent)
	}
}

// AppliedTo reports that committed entries up to i have been applied.
func (r *Raft) AppliedTo(i Index) {
	if i = min(i, r.handing); i <= r.applied {
		return
	}
	r.applied = i
	for len(r.confs) > 1 && r.confs[1].index <= i {
		r.confs = r.confs[1:]
	}
}

// send completes a message and queues it, or holds it until the hard state that it speaks of is durable: nothing of a
// term leaves before the term is on the disk, and no vote before the vote is (§5.1, §5.2).
func (r *Raft) send(m Message) {
	m.Group, m.From, m.FromIncarnation, m.FromBoot, m.Epoch = r.cfg.Group, r.self.ID, r.self.Incarnation, r.cfg.Boot, r.epoch
	if m.Term == 0 {
		m.Term = r.term
	}
	if r.voteAfter == UntilTold && (m.Type == MsgAppResp || m.Type == MsgHeartbeatResp || m.Type == MsgSnapResp) {
		m.Lost = r.cfg.Boot
	}
	if m.ToIncarnation == 0 {
		m.ToIncarnation = r.incarnationOf(m.To)
	}
	need := HardState{Term: r.term}
	if m.Type == MsgVote || m.Type == MsgVoteResp && !m.Reject {
		need.Vote = r.vote
	}
	switch {
	case r.covers(need):
		r.out = append(r.out, m)
	case len(r.held) < maxHeld:
		r.held = append(r.held, heldMessage{m, need})
	}
}

// Step takes a message from a peer. Its entries have been verified (frames decoded), and their slice must not change any more. Whatever it
// contains, it either is a step of the protocol or changes nothing; an error says that it was dropped and why, and needs no reaction.
func (r *Raft) Step(now Time, m *Message) error {
	r.setNow(now)
	if err := r.admit(m); err != nil {
		return err
	}
	switch m.Type {
	case MsgPreVote, MsgVote:
		return r.stepVoteRequest(m)
	case MsgPreVoteResp:
		return r.stepPreVoteResp(m)
	}
	switch {
	case m.Term > r.term:
		if fromLeader(m.Type) {
			r.becomeFollower(m.Term, m.From, m.FromIncarnation)
		} else {
			r.becomeFollower(m.Term, 0, 0)
		}
	case m.Term < r.term:
		if m.Type == MsgApp || m.Type == MsgHeartbeat || m.Type == MsgSnap {
			// A leader that does not know that its term is over. Without this answer a node that got ahead while it was
			// cut off could not rejoin under check-quorum: the leader's messages are beneath it, and its own are refused.
			r.send(Message{Type: MsgAppResp, To: m.From, ToIncarnation: m.FromIncarnation, SentAt: m.SentAt, Reject: true})
		}
		return nil
	}
	switch m.Type {
	case MsgVoteResp:
		if r.role == Candidate {
			r.recordVote(m.From, !m.Reject)
		}
		return nil
	case MsgApp, MsgHeartbeat, MsgSnap, MsgTimeoutNow:
		return r.stepFromLeader(m)
	default:
		if r.role != Leader {
			return nil
		}
		return r.stepToLeader(m)
	}
}

func fromLeader(t MessageType) bool {
	return t == MsgApp || t == MsgHeartbeat || t == MsgSnap || t == MsgTimeoutNow
}

func isResponse(t MessageType) bool {
	switch t {
	case MsgPreVoteResp, MsgVoteResp, MsgAppResp, MsgHeartbeatResp, MsgSnapResp:
		return true
	}
	return false
}

// admit checks everything about a message that can be checked without changing anything.
func (r *Raft) admit(m *Message) error {
	bad := func(what string) error { return fmt.Errorf("%w: %v from %d: %s", ErrBadMessage, m.Type, m.From, what) }
	if m.Group != r.cfg.Group || m.To != r.self.ID || m.From == 0 || m.From == r.self.ID {
		return fmt.Errorf("%w: %v from %d to %d of group %d", ErrMisaddressed, m.Type, m.From, m.To, m.Group)
	}
	if m.Epoch != r.epoch {
		return fmt.Errorf("%w: %v from %d is of epoch %d, this replica of epoch %d", ErrFenced, m.Type, m.From, m.Epoch, r.epoch)
	}
	if m.ToIncarnation != 0 && r.self.Incarnation != 0 && m.ToIncarnation != r.self.Incarnation {
		return fmt.Errorf("%w: %v from %d is for another incarnation of this node", ErrMisaddressed, m.Type, m.From)
	}
	// Answers count only from the incarnation that is the member: a wiped disk must not lend its predecessor's weight.
	// Requests are not held against a membership that may be the older one here: this node's answer is weighed by the
	// receiver, by its own membership (KIP-853: else a half-replicated replacement wedges).
	if known := r.incarnationOf(m.From); isResponse(m.Type) && known != 0 && m.FromIncarnation != 0 && known != m.FromIncarnation {
		return fmt.Errorf("%w: %v from another incarnation of %d", ErrMisaddressed, m.Type, m.From)
	}
	switch {
	case m.Type < MsgPreVote || m.Type > MsgTimeoutNow:
		return bad("unknown type")
	case m.Term > MaxTerm || m.LogTerm > MaxTerm:
		return bad("term too large")
	case m.Term == 0 && !isResponse(m.Type):
		return bad("no term")
	case m.Index > maxIndex || m.Commit > maxIndex || m.RejectHint > maxIndex:
		return bad("index too large")
	}
	switch m.Type {
	case MsgApp:
		if m.LogTerm > m.Term || (m.LogTerm == 0) != (m.Index == 0) {
			return bad("impossible previous entry")
		}
		return r.admitEntries(m)
	case MsgSnap:
		if m.Snapshot == nil {
			return bad("no snapshot")
		}
		meta := &m.Snapshot.Meta
		if meta.Index == 0 || meta.Index > maxIndex || meta.Term == 0 || meta.Term > m.Term {
			return bad("impossible snapshot")
		}
		// An empty one is as good as any: the sender had got the log from its beginning, and no membership as of then.
		if err := meta.Conf.Check(); err != nil {
			return bad("snapshot with an invalid membership")
		}
	}
	return nil
}

func (r *Raft) admitEntries(m *Message) error {
	term := m.LogTerm
	for i := range m.Entries {
		e := &m.Entries[i]
		if e.Index != m.Index+1+Index(i) || e.Term < term || e.Term == 0 || e.Term > m.Term {
			return fmt.Errorf("%w: MsgApp from %d: entry (%d,%d) after (%d,%d)", ErrBadMessage, m.From, e.Term, e.Index, term, m.Index+Index(i))
		}
		term = e.Term
		if e.Type == EntryConfig {
			if _, err := decodeEntryConf(e); err != nil {
				return fmt.Errorf("%w: MsgApp from %d: entry %d: %w", ErrBadMessage, m.From, e.Index, err)
			}
		}
	}
	return nil
}

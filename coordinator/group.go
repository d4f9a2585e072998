// One consumer group: its members and its state, as Kafka's classic protocol has them.
//
//	Empty ──join──▶ PreparingRebalance ──all joined, or time is up──▶ CompletingRebalance ──leader's assignment stored──▶ Stable
//	  ▲                  │  ▲                                                │                                           │
//	  └──nobody joined───┘  └────────────── a member joins, leaves or expires ┴───────────────────────────────────────────┘
//
// The members' requests wait in PreparingRebalance (JoinGroup) and CompletingRebalance (SyncGroup). Only what Stable and Empty have to
// say is stored: a rebalance that is interrupted by the coordinator's end is begun anew by the members.

package coordinator

import (
	"crypto/rand"
	"encoding/hex"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
)

type groupState uint8

const (
	groupEmpty groupState = iota
	groupPreparing
	groupCompleting
	groupStable
	groupDead
)

// String is Kafka's name of the state.
func (s groupState) String() string {
	return [...]string{"Empty", "PreparingRebalance", "CompletingRebalance", "Stable", "Dead"}[s]
}

// GroupProtocol is an assignment strategy that a member knows, with what the member says to it.
type GroupProtocol struct {
	Name     string
	Metadata []byte
}

// member is one member of a group.
type member struct {
	id                   string
	instance             *string // of a static member
	clientID, clientHost string
	session, rebalance   time.Duration
	protocols            []GroupProtocol // in the member's order of preference
	assignment           []byte

	join        func(JoinResult) // it waits in JoinGroup
	sync        func(SyncResult) // it waits in SyncGroup
	skips       bool             // it understands SkipAssignment
	isNew       bool             // it has never been told that it is a member
	pendingSync bool             // it has not come with SyncGroup in this generation
	counted     int              // of group.held
	deadline    time.Time        // its session ends, unless it waits
	timer       timer
}

// size is what the member counts against maxGroupBytes.
func (m *member) size() int {
	n := 256 + len(m.id) + len(m.clientID) + len(m.assignment)
	for i := range m.protocols {
		n += 32 + len(m.protocols[i].Name) + len(m.protocols[i].Metadata)
	}
	return n
}

func (m *member) waits() bool { return m.join != nil || m.sync != nil }

// metadata is what the member says to a protocol.
func (m *member) metadata(protocol string) []byte {
	for i := range m.protocols {
		if m.protocols[i].Name == protocol {
			return m.protocols[i].Metadata
		}
	}
	return nil
}

// pendingMember is an id that was given out and has not come back yet (KIP-394).
type pendingMember struct{ timer timer }

// group is guarded by its shard's mutex.
type group struct {
	s     *shard
	name  string
	state groupState

	generation   int32
	protocolType string // empty: none, a group of simple consumers
	protocol     string
	leader       string
	members      map[string]*member
	order        []*member         // by arrival; the same ones
	static       map[string]string // instance id to member id
	support      map[string]int    // members that know a protocol
	joined       int               // members that wait in JoinGroup
	held         int               // bytes of all members
	pending      map[string]*pendingMember
	emptySince   int64 // milliseconds; 0: it never had members

	initial     bool          // waiting for an empty group's first members (InitialRebalanceDelay)
	initialLeft time.Duration // how much longer that may go on
	newcomer    bool          // somebody joined while it did
	deadline    time.Time     // of the joining
	joinTimer   timer
	syncBy      time.Time // of the syncing
	syncTimer   timer

	// Of the new protocol: nil in a group of the classic one. queue are requests that wait for what is on its way.
	consumer   *consumerGroup
	downgrade  timer // a downgrade that could not be written is tried again
	converting bool  // the records that make it one of the other protocol are on their way
	queue      []func(error)

	// What is in the log.
	stored  bool                     // its metadata is
	writing int                      // records of its metadata on their way
	commits int                      // commits of offsets on their way
	meta    *kmsg.GroupMetadataValue // as last stored
	offsets map[string]map[int32]*CommittedOffset
	count   int // of offsets
	// unstable counts, by partition, the commits of transactions that are not decided yet.
	unstable map[TopicPartition]int
}

func randomID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:4]) + "-" + hex.EncodeToString(b[4:6]) + "-" + hex.EncodeToString(b[6:8]) + "-" +
		hex.EncodeToString(b[8:10]) + "-" + hex.EncodeToString(b[10:])
}

// empty says that the group has no members.
func (g *group) empty() bool {
	if g.consumer != nil {
		return len(g.consumer.members) == 0
	}
	return g.state == groupEmpty
}

// since is when the group became empty, in milliseconds; 0: it never had members.
func (g *group) since() int64 {
	if g.consumer != nil {
		return g.consumer.changedAt
	}
	return g.emptySince
}

func (g *group) now() time.Time { return g.s.c.cfg.Now() }

// touch begins a member's session anew.
func (g *group) touch(m *member) { g.touchFor(m, m.session) }

func (g *group) touchFor(m *member, d time.Duration) {
	m.deadline = g.now().Add(d)
	// A timer that is too early costs one look; one that is too late would keep a dead member.
	g.s.c.timers.by(&m.timer, m.deadline)
}

// add makes m a member.
func (g *group) add(m *member) {
	m.timer.fire = func() { g.s.locked(func() { g.sessionExpired(m) }) }
	g.members[m.id] = m
	g.order = append(g.order, m)
	g.tally(m, 1)
	if m.instance != nil {
		g.static[*m.instance] = m.id
	}
	if g.leader == "" {
		g.leader = m.id
	}
}

// drop takes m out and answers it with err. The caller sees to the rebalance.
func (g *group) drop(m *member, err error) {
	g.s.c.timers.stop(&m.timer)
	g.tally(m, -1)
	delete(g.members, m.id)
	g.order = slices.DeleteFunc(g.order, func(o *member) bool { return o == m })
	if m.instance != nil && g.static[*m.instance] == m.id {
		delete(g.static, *m.instance)
	}
	if g.leader == m.id {
		g.leader = ""
		if len(g.order) > 0 {
			g.leader = g.order[0].id
		}
	}
	g.answerJoin(m, JoinResult{Err: err, MemberID: m.id})
	g.answerSync(m, SyncResult{Err: err})
}

// tally takes what m says of itself into the group's sums (by 1), or out of them (by -1).
func (g *group) tally(m *member, by int) {
	for i := range m.protocols {
		g.support[m.protocols[i].Name] += by
		if g.support[m.protocols[i].Name] == 0 {
			delete(g.support, m.protocols[i].Name)
		}
	}
	if by > 0 {
		m.counted = m.size()
	}
	g.held += by * m.counted
}

// assign gives m its part.
func (g *group) assign(m *member, assignment []byte) {
	g.held += len(assignment) - len(m.assignment)
	m.counted += len(assignment) - len(m.assignment)
	m.assignment = assignment
}

func (g *group) answerJoin(m *member, r JoinResult) {
	if reply := m.join; reply != nil {
		m.join = nil
		g.joined--
		g.s.later(func() { reply(r) })
	}
}

func (g *group) answerSync(m *member, r SyncResult) {
	if reply := m.sync; reply != nil {
		m.sync = nil
		g.s.later(func() { reply(r) })
	}
}

// dissolve stops the group's timers and sends everybody away.
func (g *group) dissolve(err error) {
	g.state = groupDead
	ts := &g.s.c.timers
	ts.stop(&g.joinTimer)
	ts.stop(&g.syncTimer)
	ts.stop(&g.downgrade)
	if c := g.consumer; c != nil {
		for _, m := range c.members {
			g.stopConsumer(m)
		}
	}
	for _, fn := range g.queue {
		fn(err)
	}
	g.queue = nil
	for _, p := range g.pending {
		ts.stop(&p.timer)
	}
	for _, m := range g.order {
		ts.stop(&m.timer)
		g.answerJoin(m, JoinResult{Err: err, MemberID: m.id})
		g.answerSync(m, SyncResult{Err: err})
	}
}

// validate finds the member that speaks.
func (g *group) validate(id string, instance *string) (*member, error) {
	if instance != nil {
		now, ok := g.static[*instance]
		if !ok {
			return nil, ErrUnknownMember
		}
		if now != id {
			return nil, ErrFencedInstance
		}
	}
	if m := g.members[id]; m != nil {
		return m, nil
	}
	return nil, ErrUnknownMember
}

// accepts says whether somebody with these protocols may join.
func (g *group) accepts(protocolType string, protocols []GroupProtocol) bool {
	if g.state == groupEmpty {
		return protocolType != "" && len(protocols) > 0
	}
	return protocolType == g.protocolType && slices.ContainsFunc(protocols, func(p GroupProtocol) bool { return g.allSupport(p.Name) })
}

func (g *group) allSupport(protocol string) bool { return g.support[protocol] == len(g.order) }

// elect chooses the protocol: each member votes for the first one it prefers among those that all know. A draw goes to the one that
// was voted for first.
func (g *group) elect() string {
	votes := make(map[string]int)
	best := ""
	for _, m := range g.order {
		for i := range m.protocols {
			if name := m.protocols[i].Name; g.allSupport(name) {
				votes[name]++
				break
			}
		}
	}
	for _, m := range g.order {
		for i := range m.protocols {
			if name := m.protocols[i].Name; votes[name] > votes[best] {
				best = name
			}
		}
	}
	return best
}

// rebalanceTimeout is the longest of all members'.
func (g *group) rebalanceTimeout() time.Duration {
	var d time.Duration
	for _, m := range g.order {
		d = max(d, m.rebalance)
	}
	return d
}

// record is the group's generation as it is stored, with these assignments.
func (g *group) record(assignments map[string][]byte) groupRecord {
	v := kmsg.NewGroupMetadataValue()
	v.ProtocolType, v.Generation, v.CurrentStateTimestamp = g.protocolType, g.generation, g.now().UnixMilli()
	if len(g.order) > 0 {
		p, l := g.protocol, g.leader
		v.Protocol, v.Leader = &p, &l
	}
	for _, m := range g.order {
		w := kmsg.NewGroupMetadataValueMember()
		w.MemberID, w.InstanceID, w.ClientID, w.ClientHost = m.id, m.instance, m.clientID, m.clientHost
		w.RebalanceTimeoutMillis, w.SessionTimeoutMillis = int32(m.rebalance.Milliseconds()), int32(m.session.Milliseconds())
		w.Subscription, w.Assignment = m.metadata(g.protocol), assignments[m.id]
		v.Members = append(v.Members, w)
	}
	return groupRecord{name: g.name, meta: &v}
}

// store writes the group's generation. then is called under the shard's mutex, also where the coordinator has ended meanwhile: somebody may
// wait for it who is not parked in a member.
func (g *group) store(r groupRecord, then func(error)) {
	g.writing++
	g.s.append([]groupRecord{r}, func(err error) {
		g.writing--
		then(err)
		g.written()
		if !g.s.closed {
			g.s.tidy(g)
		}
	})
}

// restore makes the group what its stored generation says, after a load. All sessions begin now.
func (g *group) restore() {
	v := g.meta
	if v == nil {
		return
	}
	g.protocolType, g.generation = v.ProtocolType, v.Generation
	if len(v.Members) == 0 {
		g.emptySince = v.CurrentStateTimestamp
		return
	}
	g.state = groupStable
	if v.Protocol != nil {
		g.protocol = *v.Protocol
	}
	millis := func(ms int32, least time.Duration) time.Duration {
		return min(max(time.Duration(ms)*time.Millisecond, least), g.s.c.cfg.MaxSession)
	}
	for i := range v.Members {
		w := &v.Members[i]
		if g.members[w.MemberID] != nil {
			continue
		}
		m := &member{id: w.MemberID, instance: w.InstanceID, clientID: w.ClientID, clientHost: w.ClientHost, assignment: w.Assignment,
			session: millis(w.SessionTimeoutMillis, time.Second), rebalance: millis(w.RebalanceTimeoutMillis, time.Second),
			protocols: []GroupProtocol{{Name: g.protocol, Metadata: w.Subscription}}}
		g.add(m)
		g.touch(m)
	}
	if v.Leader != nil && g.members[*v.Leader] != nil {
		g.leader = *v.Leader
	}
}

// JoinGroup, SyncGroup, Heartbeat and LeaveGroup: how a group comes to a generation and loses it again.

package coordinator

import (
	"math"
	"slices"
	"time"
)

// JoinRequest asks to become, or to stay, a member.
type JoinRequest struct {
	Group, MemberID      string
	Instance             *string // a static member (KIP-345)
	ClientID, ClientHost string
	Session, Rebalance   time.Duration
	ProtocolType         string
	Protocols            []GroupProtocol // kept
	Reason               string          // v8: why it joins (KIP-800); for the log
	RequireID            bool            // v4: a new member is first told its id (KIP-394)
	Skips                bool            // v9: understands JoinResult.SkipAssignment
}

// JoinResult is the answer to a JoinRequest. With an error, MemberID is still set.
type JoinResult struct {
	Err                              error
	Generation                       int32
	ProtocolType, Protocol, LeaderID string
	MemberID                         string
	// SkipAssignment tells a leader that the members' assignments stay as they are (KAFKA-13435).
	SkipAssignment bool
	Members        []JoinedMember // for the leader only
}

// JoinedMember is what a group's leader learns of each member.
type JoinedMember struct {
	ID       string
	Instance *string
	Metadata []byte
}

// SyncRequest fetches a member's assignment; the leader's brings everyone's.
type SyncRequest struct {
	Group, MemberID        string
	Instance               *string
	Generation             int32
	ProtocolType, Protocol *string // v5: must be the group's
	Assignments            map[string][]byte
}

// SyncResult is the answer to a SyncRequest.
type SyncResult struct {
	Err                    error
	ProtocolType, Protocol string
	Assignment             []byte
}

// LeavingMember is named by its id, or a static one by its instance id alone.
type LeavingMember struct {
	ID       string
	Instance *string
	Reason   string // v5: for the log
}

// newMemberPatience is how long a new member may wait in its first JoinGroup. It knows no id yet and cannot heartbeat, and when it
// gives up and asks again it comes as another one: Kafka's NewMemberJoinTimeoutMs.
const newMemberPatience = 5 * time.Minute

// maxIDPrefix bounds what a member id has of the client's own name.
const maxIDPrefix = 255

// maxReason bounds what is logged of why a member joins or leaves.
const maxReason = 256

// Join calls reply exactly once, perhaps before it returns; a member that must wait for others is answered by whatever
// ends the wait.
func (c *Groups) Join(r *JoinRequest, reply func(JoinResult)) {
	fail := func(err error) { reply(JoinResult{Err: err, MemberID: r.MemberID}) }
	// In Kafka's order: who has no name for its group is told that, whatever else is wrong.
	if r.Group == "" {
		fail(ErrInvalidGroupID)
		return
	}
	if r.Session < c.cfg.MinSession || r.Session > c.cfg.MaxSession {
		fail(ErrInvalidSessionTimeout)
		return
	}
	for i := range r.Protocols {
		if slices.ContainsFunc(r.Protocols[:i], func(p GroupProtocol) bool { return p.Name == r.Protocols[i].Name }) || i >= maxProtocols {
			fail(ErrInconsistentProtocol)
			return
		}
	}
	s, err := c.enter(r.Group)
	if err != nil {
		fail(err)
		return
	}
	defer s.unlock()
	g := s.group(r.Group)
	if g == nil {
		if r.MemberID != "" {
			err = ErrUnknownMember
		} else {
			g, err = s.obtain(r.Group)
		}
	}
	if err != nil {
		s.later(func() { fail(err) })
		return
	}
	if g.consumer != nil || g.converting {
		g.do(func(err error) {
			if err != nil {
				s.later(func() { fail(err) })
				return
			}
			g.joinAny(r, reply)
		})
		return
	}
	g.joinGroup(r, reply)
	s.tidy(g)
}

func (g *group) joinGroup(r *JoinRequest, reply func(JoinResult)) {
	answer := func(res JoinResult) { g.s.later(func() { reply(res) }) }
	fail := func(err error) { answer(JoinResult{Err: err, MemberID: r.MemberID}) }
	if !g.accepts(r.ProtocolType, r.Protocols) {
		fail(ErrInconsistentProtocol)
		return
	}
	if g.full(r) {
		if p := g.pending[r.MemberID]; p != nil {
			g.unpend(r.MemberID)
			g.tryCompleteJoin()
		}
		answer(JoinResult{Err: ErrGroupFull})
		return
	}
	if r.MemberID == "" {
		g.joinNew(r, reply)
		return
	}
	if g.pending[r.MemberID] != nil {
		if r.Instance != nil {
			fail(ErrUnknownMember) // static members never wait for their id
			return
		}
		g.unpend(r.MemberID)
		g.welcome(r.MemberID, r, reply)
		return
	}
	m, err := g.validate(r.MemberID, r.Instance)
	if err != nil {
		fail(err)
		return
	}
	m.skips = r.Skips
	switch g.state {
	case groupStable, groupCompleting:
		// A member that asks again has lost the answer: it gets the generation once more. A leader that asks again in a
		// stable group wants a rebalance, since it alone sees that the topics have changed.
		if m.says(r.Protocols) && (g.state == groupCompleting || g.leader != m.id) {
			g.touch(m)
			answer(g.generationFor(m))
			return
		}
		g.update(m, r)
		m.joins(g, reply)
		g.prepareRebalance()
	case groupPreparing:
		g.update(m, r)
		m.joins(g, reply)
		g.tryCompleteJoin()
	default:
		fail(ErrUnknownMember)
	}
}

// idPrefix is what a member id begins with. A name of more bytes than a record's string can have must not get there.
func idPrefix(name string) string { return name[:min(len(name), maxIDPrefix)] }

// full says that there is no room for who asks. Those who are in stay in, unless they grow beyond what we have for a group.
func (g *group) full(r *JoinRequest) bool {
	m := g.members[r.MemberID]
	if m == nil && r.Instance != nil && r.MemberID == "" {
		m = g.members[g.static[*r.Instance]]
	}
	grown := member{protocols: r.Protocols, clientID: r.ClientID, id: r.ClientID}
	before := 0
	if m != nil {
		before = m.counted
	}
	if g.held-before+grown.size() > maxGroupBytes || (m == nil && g.pending[r.MemberID] == nil && len(g.pending) >= maxPending) {
		return true
	}
	if g.state == groupPreparing {
		// Who comes first is in; a member that is late for this generation may find its place taken.
		return (m == nil || m.join == nil) && g.joined >= g.s.c.cfg.MaxSize
	}
	return m == nil && g.state != groupEmpty && len(g.members) >= g.s.c.cfg.MaxSize
}

// joinNew takes in who has no member id.
func (g *group) joinNew(r *JoinRequest, reply func(JoinResult)) {
	if r.Instance != nil {
		id := idPrefix(*r.Instance) + "-" + g.s.c.cfg.NewID()
		if old := g.members[g.static[*r.Instance]]; old != nil {
			g.replace(old, id, r, reply)
		} else {
			g.welcome(id, r, reply)
		}
		return
	}
	id := idPrefix(r.ClientID) + "-" + g.s.c.cfg.NewID()
	if !r.RequireID {
		g.welcome(id, r, reply)
		return
	}
	p := &pendingMember{}
	p.timer.fire = func() {
		g.s.locked(func() {
			if g.pending[id] == p {
				g.unpend(id)
				g.tryCompleteJoin()
				g.s.tidy(g)
			}
		})
	}
	g.pending[id] = p
	g.s.c.timers.set(&p.timer, g.now().Add(r.Session))
	g.s.later(func() { reply(JoinResult{Err: ErrMemberIDRequired, MemberID: id}) })
}

func (g *group) unpend(id string) {
	if p := g.pending[id]; p != nil {
		g.s.c.timers.stop(&p.timer)
		delete(g.pending, id)
	}
}

func (g *group) unpendAll() {
	for id := range g.pending {
		g.unpend(id)
	}
}

// welcome adds a member, and so begins a rebalance.
func (g *group) welcome(id string, r *JoinRequest, reply func(JoinResult)) {
	m := &member{id: id, instance: r.Instance, isNew: true, skips: r.Skips}
	if len(g.order) == 0 {
		g.protocolType = r.ProtocolType
	}
	m.tell(r)
	g.add(m)
	g.s.c.cfg.Logger.Debug("a member joins its consumer group", "group", g.name, "member", id, "reason", said(r.Reason))
	m.joins(g, reply)
	if g.state == groupPreparing {
		g.newcomer = true
		g.tryCompleteJoin()
		return
	}
	g.prepareRebalance()
}

// said is a client's own words, cut to what a line of the log can bear.
func said(reason string) string { return reason[:min(len(reason), maxReason)] }

// update takes over what a member says of itself.
func (g *group) update(m *member, r *JoinRequest) {
	g.tally(m, -1)
	m.tell(r)
	g.tally(m, 1)
}

func (m *member) tell(r *JoinRequest) {
	m.protocols, m.session, m.rebalance, m.clientID, m.clientHost = r.Protocols, r.Session, r.Rebalance, r.ClientID, r.ClientHost
}

// joins parks the member until the rebalance is over.
func (m *member) joins(g *group, reply func(JoinResult)) {
	g.answerJoin(m, JoinResult{Err: ErrRebalanceInProgress, MemberID: m.id}) // its connection has most likely gone
	m.join = reply
	g.joined++
	if m.isNew {
		g.touchFor(m, newMemberPatience)
	} else {
		g.touch(m)
	}
}

// says reports whether the member says the same as before.
func (m *member) says(protocols []GroupProtocol) bool {
	if len(protocols) != len(m.protocols) {
		return false
	}
	for i := range protocols {
		if protocols[i].Name != m.protocols[i].Name || string(protocols[i].Metadata) != string(m.protocols[i].Metadata) {
			return false
		}
	}
	return true
}

// replace gives a static member's place to a client that comes with its instance id and no member id: the same one, restarted.
// The old client is fenced. A stable group stays so if the newcomer votes as before.
func (g *group) replace(m *member, id string, r *JoinRequest, reply func(JoinResult)) {
	g.answerJoin(m, JoinResult{Err: ErrFencedInstance, MemberID: m.id})
	g.answerSync(m, SyncResult{Err: ErrFencedInstance})
	oldLeader := g.leader
	delete(g.members, m.id)
	if g.leader == m.id {
		g.leader = id
	}
	m.id, m.skips = id, r.Skips
	g.members[id], g.static[*r.Instance] = m, id
	protocols, session, rebalance := m.protocols, m.session, m.rebalance
	g.update(m, r)
	g.touch(m)
	switch {
	case g.state == groupStable && g.elect() == g.protocol:
		res := g.generationFor(m)
		// The leader must not hand out assignments: nobody would be told, the group is stable. Clients that know the flag are told
		// so; others are given the old leader's id, so that they do not take themselves for the leader.
		if g.leader == m.id {
			if res.SkipAssignment = r.Skips; !r.Skips {
				res.LeaderID, res.Members = oldLeader, nil
			}
		}
		assignments := make(map[string][]byte, len(g.order))
		for _, o := range g.order {
			assignments[o.id] = o.assignment
		}
		g.store(g.record(assignments), func(err error) {
			if err != nil {
				if g.members[id] == m { // it will ask again, and change what it wants to then
					g.tally(m, -1)
					m.protocols, m.session, m.rebalance = protocols, session, rebalance
					g.tally(m, 1)
				}
				res = JoinResult{Err: err, MemberID: r.MemberID}
			}
			g.s.later(func() { reply(res) })
		})
		return
	case g.state == groupPreparing:
		m.joins(g, reply)
		g.tryCompleteJoin()
	default:
		m.joins(g, reply)
		g.prepareRebalance()
	}
}

// generationFor is the current generation, told to a member.
func (g *group) generationFor(m *member) JoinResult {
	r := JoinResult{Generation: g.generation, ProtocolType: g.protocolType, Protocol: g.protocol, LeaderID: g.leader, MemberID: m.id}
	if g.leader == m.id {
		for _, o := range g.order {
			r.Members = append(r.Members, JoinedMember{ID: o.id, Instance: o.instance, Metadata: o.metadata(g.protocol)})
		}
	}
	return r
}

// prepareRebalance begins a rebalance, unless one is on.
func (g *group) prepareRebalance() {
	if g.state == groupPreparing || g.state == groupDead {
		return
	}
	if g.state == groupCompleting {
		for _, m := range g.order {
			g.assign(m, nil)
			if m.sync != nil {
				g.touch(m)
			}
			g.answerSync(m, SyncResult{Err: ErrRebalanceInProgress})
		}
	}
	g.s.c.timers.stop(&g.syncTimer)
	wait := g.rebalanceTimeout()
	g.initial = g.state == groupEmpty && g.s.c.cfg.InitialRebalanceDelay > 0
	if g.initial {
		delay := min(g.s.c.cfg.InitialRebalanceDelay, wait)
		g.initialLeft, g.newcomer = wait-delay, false
		wait = delay
	}
	g.state = groupPreparing
	g.joinUntil(wait)
	g.tryCompleteJoin()
}

func (g *group) joinUntil(d time.Duration) {
	g.deadline = g.now().Add(d)
	g.s.c.timers.set(&g.joinTimer, g.deadline)
}

// joinExpired ends the waiting for those who have not joined.
func (g *group) joinExpired() {
	if g.converting {
		g.s.c.timers.set(&g.joinTimer, g.now().Add(expelRetry))
		return
	}
	if g.state != groupPreparing || g.now().Before(g.deadline) {
		return
	}
	if g.initial && g.newcomer && g.initialLeft > 0 {
		// Somebody came: perhaps more do.
		delay := min(g.s.c.cfg.InitialRebalanceDelay, g.initialLeft)
		g.initialLeft -= delay
		g.newcomer = false
		g.joinUntil(delay)
		return
	}
	g.completeJoin()
	g.s.tidy(g)
}

// tryCompleteJoin ends it when all have joined.
func (g *group) tryCompleteJoin() {
	if g.state != groupPreparing || g.initial || len(g.pending) > 0 {
		return
	}
	if g.joined == len(g.order) {
		g.completeJoin()
	}
}

// completeJoin begins the next generation with those who have joined. Static members stay also if they have not.
func (g *group) completeJoin() {
	g.initial = false
	for i := len(g.order) - 1; i >= 0; i-- {
		if m := g.order[i]; m.join == nil && m.instance == nil {
			g.drop(m, ErrUnknownMember)
		}
	}
	if len(g.order) > 0 && !g.electLeader() {
		g.joinUntil(g.rebalanceTimeout()) // static members only, and none of them is here
		return
	}
	g.s.c.timers.stop(&g.joinTimer)
	if g.generation++; g.generation < 0 || g.generation == math.MaxInt32 {
		g.generation = 1
	}
	if len(g.order) == 0 {
		g.becomeEmpty()
		return
	}
	g.protocol, g.state = g.elect(), groupCompleting
	for _, m := range g.order {
		g.answerJoin(m, g.generationFor(m))
		m.isNew, m.pendingSync = false, true
		g.touch(m)
	}
	wait := g.rebalanceTimeout()
	g.syncBy = g.now().Add(wait)
	g.s.c.timers.set(&g.syncTimer, g.syncBy)
}

// electLeader makes sure that the leader is one who has joined.
func (g *group) electLeader() bool {
	if m := g.members[g.leader]; m != nil && m.join != nil {
		return true
	}
	for _, m := range g.order {
		if m.join != nil {
			g.leader = m.id
			return true
		}
	}
	return false
}

func (g *group) becomeEmpty() {
	g.state, g.protocol, g.leader, g.emptySince = groupEmpty, "", "", g.now().UnixMilli()
	if g.stored || g.writing > 0 {
		g.store(g.record(nil), func(err error) {
			if err != nil {
				// The next coordinator would find the last generation, and wait for its members in vain for a session's time.
				g.s.c.cfg.Logger.Debug("cannot store that a group is empty", "group", g.name, "err", err)
			}
		})
	}
}

// removed sees to the group after members have left it.
func (g *group) removed() {
	switch g.state {
	case groupStable, groupCompleting:
		g.prepareRebalance()
	case groupPreparing:
		g.tryCompleteJoin()
	}
	g.s.tidy(g)
}

// sessionExpired is a member's timer.
func (g *group) sessionExpired(m *member) {
	if g.members[m.id] != m {
		return
	}
	if g.converting { // whether it still is one of this kind is not decided
		g.s.c.timers.set(&m.timer, g.now().Add(expelRetry))
		return
	}
	if m.waits() && !m.isNew {
		g.touch(m) // it is here; what it waits for has a time-out of its own
		return
	}
	if g.now().Before(m.deadline) {
		g.s.c.timers.set(&m.timer, m.deadline)
		return
	}
	g.s.c.cfg.Logger.Info("a consumer group's member was silent for too long", "group", g.name, "member", m.id, "timeout", m.session)
	g.drop(m, ErrUnknownMember)
	g.removed()
}

// syncExpired removes members that have joined and never fetched their assignment.
func (g *group) syncExpired() {
	if g.converting {
		g.s.c.timers.set(&g.syncTimer, g.now().Add(expelRetry))
		return
	}
	if (g.state != groupCompleting && g.state != groupStable) || g.now().Before(g.syncBy) {
		return
	}
	n := len(g.order)
	for i := n - 1; i >= 0; i-- {
		if m := g.order[i]; m.pendingSync {
			g.drop(m, ErrUnknownMember)
		}
	}
	if len(g.order) < n {
		g.removed()
	}
}

// Sync calls reply exactly once, perhaps before it returns.
func (c *Groups) Sync(r *SyncRequest, reply func(SyncResult)) {
	s, err := c.enter(r.Group)
	if err != nil {
		reply(SyncResult{Err: err})
		return
	}
	defer s.unlock()
	if g := s.group(r.Group); g != nil && (g.consumer != nil || g.converting) {
		g.do(func(err error) {
			if err == nil && g.consumer != nil {
				err = g.syncConsumer(r, reply)
			} else if err == nil {
				err = s.syncGroup(r, reply)
			}
			if err != nil {
				s.later(func() { reply(SyncResult{Err: err}) })
			}
		})
		return
	}
	if err := s.syncGroup(r, reply); err != nil {
		s.later(func() { reply(SyncResult{Err: err}) })
	}
}

func (s *shard) syncGroup(r *SyncRequest, reply func(SyncResult)) error {
	g := s.group(r.Group)
	if g == nil {
		return ErrUnknownMember
	}
	m, err := g.validate(r.MemberID, r.Instance)
	switch {
	case err != nil:
		return err
	case r.Generation != g.generation:
		return ErrIllegalGeneration
	case r.ProtocolType != nil && *r.ProtocolType != g.protocolType, r.Protocol != nil && *r.Protocol != g.protocol:
		return ErrInconsistentProtocol
	}
	switch g.state {
	case groupPreparing:
		return ErrRebalanceInProgress
	case groupStable:
		m.pendingSync = false
		g.touch(m)
		res := SyncResult{ProtocolType: g.protocolType, Protocol: g.protocol, Assignment: m.assignment}
		s.later(func() { reply(res) })
		return nil
	case groupCompleting:
	default:
		return ErrUnknownMember
	}
	again := m.sync != nil
	g.answerSync(m, SyncResult{Err: ErrRebalanceInProgress}) // an earlier try, whose connection has most likely gone
	m.sync, m.pendingSync = reply, false
	if m.id != g.leader || again {
		return nil
	}
	// The generation is stored before anybody acts on it. Members that the leader forgot get an empty assignment.
	generation, assignments := g.generation, make(map[string][]byte, len(g.order))
	size := g.held
	for _, o := range g.order {
		assignments[o.id] = r.Assignments[o.id]
		size += len(r.Assignments[o.id])
	}
	finish := func(err error) {
		if g.state != groupCompleting || g.generation != generation {
			return // all were answered when that generation ended
		}
		if err == nil {
			g.state = groupStable
		}
		for _, o := range g.order {
			part := assignments[o.id]
			if err != nil {
				part = nil
			}
			g.assign(o, part)
			if o.sync != nil {
				g.touch(o)
			}
			g.answerSync(o, SyncResult{Err: err, ProtocolType: g.protocolType, Protocol: g.protocol, Assignment: o.assignment})
		}
		if err != nil {
			s.c.cfg.Logger.Warn("cannot store a consumer group's assignment", "group", g.name, "generation", generation, "err", err)
			g.prepareRebalance()
		}
	}
	if size > 2*maxGroupBytes {
		finish(ErrGroupFull)
		return nil
	}
	g.store(g.record(assignments), finish)
	return nil
}

// Heartbeat keeps a member's session, and tells it what to do.
func (c *Groups) Heartbeat(group, memberID string, instance *string, generation int32) error {
	s, err := c.enter(group)
	if err != nil {
		return err
	}
	defer s.unlock()
	g := s.group(group)
	if g == nil {
		return ErrUnknownMember
	}
	if g.consumer != nil {
		return g.heartbeatConsumer(memberID, instance, generation)
	}
	if g.converting {
		return ErrRebalanceInProgress
	}
	m, err := g.validate(memberID, instance)
	if err != nil {
		return err
	}
	if generation != g.generation {
		return ErrIllegalGeneration
	}
	switch g.state {
	case groupPreparing:
		g.touch(m)
		return ErrRebalanceInProgress
	case groupCompleting, groupStable:
		g.touch(m)
		return nil
	}
	return ErrUnknownMember
}

// Leave removes members. reply is called exactly once, with a result for each, or with an error for all.
func (c *Groups) Leave(group string, members []LeavingMember, reply func([]error, error)) {
	s, err := c.enter(group)
	if err != nil {
		reply(nil, err)
		return
	}
	defer s.unlock()
	answer := func(errs []error, err error) { s.later(func() { reply(errs, err) }) }
	g := s.group(group)
	switch {
	case g == nil:
		errs := make([]error, len(members))
		for i := range errs {
			errs[i] = ErrUnknownMember
		}
		answer(errs, nil)
	case g.consumer != nil || g.converting:
		g.do(func(err error) {
			switch {
			case err != nil:
				answer(nil, err)
			case g.consumer != nil:
				g.leaveConsumer(members, answer)
			default:
				answer(g.leave(members), nil)
			}
		})
	default:
		answer(g.leave(members), nil)
	}
}

// leave removes members of a group of the classic protocol.
func (g *group) leave(members []LeavingMember) []error {
	errs := make([]error, len(members))
	gone, unpended := false, false
	for i, l := range members {
		id := l.ID
		if id == "" && l.Instance != nil {
			id = g.static[*l.Instance]
		} else if g.pending[id] != nil && l.Instance == nil {
			g.unpend(id)
			unpended = true
			continue
		}
		m, err := g.validate(id, l.Instance)
		if err != nil {
			errs[i] = err
			continue
		}
		g.s.c.cfg.Logger.Info("a member left its consumer group", "group", g.name, "member", m.id, "reason", said(l.Reason))
		g.drop(m, ErrUnknownMember)
		gone = true
	}
	if gone {
		if len(g.order) == 0 {
			g.initial = false // nobody is left who would wait for more
		}
		g.removed()
	} else if unpended { // who was only told an id was no member: those who are go on
		g.tryCompleteJoin()
		g.s.tidy(g)
	}
	return errs
}

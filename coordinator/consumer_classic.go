// Groups that change their protocol, and those that speak both.
//
// The first member of the new protocol makes a group of the classic one, with members, into one of the new (an upgrade); when its last one
// has gone and others are left, it becomes a classic one again (a downgrade). In between the members of the classic protocol
// are served as members like all: JoinGroup is the heartbeat that says what the member wants and owns, the generation is its
// epoch, SyncGroup fetches its assignment, and Heartbeat tells it to join again when there is something new.

package coordinator

import (
	"maps"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// Migration says which groups may change their protocol while they have members: Kafka's group.consumer.migration.policy.
type Migration string

// Values of Migration.
const (
	MigrateBoth Migration = "bidirectional"
	MigrateUp   Migration = "upgrade"
	MigrateDown Migration = "downgrade"
	MigrateNone Migration = "disabled"
)

const (
	// classicConsumers is the protocol type of consumers, whose metadata this coordinator can read.
	classicConsumers = "consumer"
	// assignmentVersion is the newest version of an assignment's bytes.
	assignmentVersion = 3
)

// subscription reads what a classic consumer says: the first protocol's, all say the same.
func subscription(protocols []GroupProtocol) (*kmsg.ConsumerMemberMetadata, error) {
	if len(protocols) == 0 {
		return nil, ErrInconsistentProtocol
	}
	var v kmsg.ConsumerMemberMetadata
	if err := v.ReadFrom(slices.Clone(protocols[0].Metadata)); err != nil {
		return nil, ErrInconsistentProtocol
	}
	slices.Sort(v.Topics)
	v.Topics = slices.Compact(v.Topics)
	return &v, nil
}

// namedParts are partitions that are named by topics, without those that do not exist.
func namedParts(im *Image, name string, parts []int32, into partSet, epoch int32) {
	t := im.Topic(name)
	if t == nil {
		return
	}
	for _, p := range parts {
		if p >= 0 && int(p) < len(t.Partitions) {
			into[partID{t.ID, p}] = epoch
		}
	}
}

// ownedParts are the partitions that a subscription names as the member's.
func ownedParts(im *Image, v *kmsg.ConsumerMemberMetadata) partSet {
	s := make(partSet)
	for i := range v.OwnedPartitions {
		namedParts(im, v.OwnedPartitions[i].Topic, v.OwnedPartitions[i].Partitions, s, 0)
	}
	return s
}

// encodeAssignment is a member's part as classic clients read it.
func encodeAssignment(im *Image, owned partSet, version int16) []byte {
	v := kmsg.ConsumerMemberAssignment{Version: min(max(version, 0), assignmentVersion)}
	for _, tp := range owned.byTopic() {
		if t := im.TopicByID(tp.Topic); t != nil {
			v.Topics = append(v.Topics, kmsg.ConsumerMemberAssignmentTopic{Topic: t.Name, Partitions: tp.Partitions})
		}
	}
	return v.AppendTo(nil)
}

// upgrade makes a group of the classic protocol, with members, into one of the new protocol. then is called under the shard's mutex.
func (g *group) upgrade(then func(error)) {
	policy := g.s.c.cfg.Migration
	if policy != MigrateBoth && policy != MigrateUp || g.protocolType != classicConsumers || len(g.order) > g.s.c.cfg.ConsumerMaxSize {
		then(ErrGroupNotFound)
		return
	}
	im := g.s.c.cfg.Image()
	epoch := max(g.generation, 1)
	var records []groupRecord
	if g.stored {
		records = append(records, groupRecord{name: g.name, deleted: true})
	}
	put := func(r *consumerRecord) { records = append(records, g.consumerRecord(r, false)) }
	taken, topics := make(partSet), []string(nil)
	for _, m := range g.order {
		v, err := subscription(m.protocols)
		if err != nil {
			then(ErrGroupNotFound)
			return
		}
		owned := make(partSet)
		var a kmsg.ConsumerMemberAssignment
		if len(m.assignment) > 0 && a.ReadFrom(slices.Clone(m.assignment)) == nil {
			for i := range a.Topics {
				namedParts(im, a.Topics[i].Topic, a.Topics[i].Partitions, owned, epoch)
			}
		}
		if g.state != groupStable { // what it was assigned last may not be all that it has
			for id := range ownedParts(im, v) {
				owned[id] = epoch
			}
		}
		for id := range owned {
			if _, ok := taken[id]; ok {
				delete(owned, id)
			}
		}
		maps.Copy(taken, owned)
		topics = append(topics, v.Topics...)
		put(&consumerRecord{kind: keyConsumerMember, member: m.id, says: &memberSays{instance: m.instance, rack: v.Rack, clientID: m.clientID,
			clientHost: m.clientHost, topics: v.Topics, rebalance: m.rebalance, classic: &classicSays{session: m.session, protocols: m.protocols}}})
		put(&consumerRecord{kind: keyTargetMember, member: m.id, parts: owned})
		put(&consumerRecord{kind: keyCurrentMember, member: m.id, holds: &memberHolds{epoch: epoch, previous: epoch, owned: owned}})
	}
	slices.Sort(topics)
	put(&consumerRecord{kind: keyTargetEpoch, epoch: epoch})
	put(&consumerRecord{kind: keyConsumerGroup, epoch: epoch, hash: metadataHash(im, slices.Compact(topics))})
	g.unpendAll() // not before: where it is refused, who was given an id shall find its place
	g.converting = true
	g.storeConsumer(records, func(err error) {
		g.converting = false
		if err != nil {
			g.tryCompleteJoin()
			then(err)
			return
		}
		g.s.c.cfg.Logger.Info("a consumer group speaks the new protocol from now on", "group", g.name, "epoch", epoch, "members", len(g.order))
		g.endClassic()
		for _, m := range g.consumer.members {
			g.touchConsumer(m)
		}
		then(nil)
	})
}

// endClassic forgets the group's members of the classic protocol, who are members of the new one by now.
func (g *group) endClassic() {
	ts := &g.s.c.timers
	ts.stop(&g.joinTimer)
	ts.stop(&g.syncTimer)
	for _, m := range g.order {
		ts.stop(&m.timer)
		g.answerJoin(m, JoinResult{Err: ErrRebalanceInProgress, MemberID: m.id})
		g.answerSync(m, SyncResult{Err: ErrRebalanceInProgress})
	}
	clear(g.members)
	clear(g.static)
	clear(g.support)
	g.order, g.held, g.joined, g.initial = nil, 0, 0, false
	g.state, g.protocol, g.leader = groupEmpty, "", ""
}

// consumerTombstones remove all that the log has of a group of the new protocol.
func (g *group) consumerTombstones() (records []groupRecord) {
	c := g.consumer
	if c == nil {
		return nil
	}
	gone := func(r *consumerRecord) { records = append(records, g.consumerRecord(r, true)) }
	for _, m := range c.sortedMembers() {
		for _, kind := range []int16{keyCurrentMember, keyTargetMember, keyConsumerMember} {
			gone(&consumerRecord{kind: kind, member: m.id})
		}
	}
	for _, expr := range slices.Sorted(maps.Keys(c.regexes)) {
		gone(&consumerRecord{kind: keyConsumerRegex, member: expr})
	}
	gone(&consumerRecord{kind: keyTargetEpoch})
	gone(&consumerRecord{kind: keyConsumerGroup})
	return records
}

// maybeDowngrade makes a group in which only members of the classic protocol are left into one of that protocol, and has it
// rebalance: its members do not know yet who leads them.
func (g *group) maybeDowngrade() {
	policy := g.s.c.cfg.Migration
	c := g.consumer
	if policy != MigrateBoth && policy != MigrateDown || c == nil || !c.classicOnly() || len(c.members) > g.s.c.cfg.MaxSize || g.writing > 0 {
		return
	}
	im, epoch := g.s.c.cfg.Image(), c.epoch
	members := c.sortedMembers()
	// To write the generation as the group of the classic protocol would have, be one for a moment.
	as := group{s: g.s, name: g.name, generation: epoch, protocolType: classicConsumers, support: make(map[string]int), leader: members[0].id}
	assignments, protocols := make(map[string][]byte, len(members)), make(map[string][]GroupProtocol, len(members))
	for _, m := range members {
		cm := &member{id: m.id, instance: m.says.instance, clientID: m.says.clientID, clientHost: m.says.clientHost,
			session: m.says.classic.session, rebalance: m.says.rebalance, protocols: m.says.classic.protocols}
		as.order = append(as.order, cm)
		as.tally(cm, 1)
		version := int16(0)
		if v, err := subscription(cm.protocols); err == nil {
			version = v.Version
		}
		assignments[m.id], protocols[m.id] = encodeAssignment(im, m.at().owned, version), cm.protocols
	}
	as.protocol = as.elect()
	records := append(g.consumerTombstones(), as.record(assignments))
	g.converting = true
	g.storeConsumer(records, func(err error) {
		g.converting = false
		if err != nil {
			g.s.c.cfg.Logger.Warn("a consumer group cannot go back to the classic protocol yet; it goes on with both", "group", g.name, "err", err)
			if !g.s.closed {
				g.s.c.timers.set(&g.downgrade, g.now().Add(expelRetry))
			}
			return
		}
		g.s.c.cfg.Logger.Info("a consumer group speaks the classic protocol from now on", "group", g.name, "generation", epoch, "members", len(members))
		g.restore()
		for _, m := range g.order {
			g.tally(m, -1)
			m.protocols = protocols[m.id]
			g.tally(m, 1)
		}
		g.prepareRebalance()
	})
}

// downgradeAgain is the timer's, after a write that failed; also by the coordinator before this one.
func (g *group) downgradeAgain() {
	g.do(func(err error) {
		if err == nil {
			g.maybeDowngrade()
		} else {
			g.s.c.timers.set(&g.downgrade, g.now().Add(expelRetry))
		}
	})
}

// joinAny is a JoinGroup to a group that was of the new protocol, or about to be, when it came.
func (g *group) joinAny(r *JoinRequest, reply func(JoinResult)) {
	switch {
	case g.consumer == nil:
		g.joinGroup(r, reply)
		g.s.tidy(g)
	case len(g.consumer.members) > 0:
		if err := g.joinConsumer(r, reply); err != nil {
			g.s.later(func() { reply(JoinResult{Err: err, MemberID: r.MemberID}) })
		}
	default:
		// A group that is empty is anybody's. Its epoch is kept as the generation to go on from.
		epoch := max(g.generation, g.consumer.epoch)
		as := group{s: g.s, name: g.name, generation: epoch, protocolType: r.ProtocolType}
		g.converting = true
		g.storeConsumer(append(g.consumerTombstones(), as.record(nil)), func(err error) {
			g.converting = false
			if err != nil {
				g.s.later(func() { reply(JoinResult{Err: err, MemberID: r.MemberID}) })
				return
			}
			g.generation, g.emptySince = epoch, g.now().UnixMilli()
			g.joinGroup(r, reply)
		})
	}
}

// joinConsumer serves a JoinGroup to a group of the new protocol.
func (g *group) joinConsumer(r *JoinRequest, reply func(JoinResult)) error {
	v, err := subscription(r.Protocols)
	if err != nil || r.ProtocolType != classicConsumers || !g.consumer.agrees(r) {
		return ErrInconsistentProtocol
	}
	id := r.MemberID
	if id == "" {
		prefix := r.ClientID
		if r.Instance != nil {
			prefix = *r.Instance
		}
		if id = idPrefix(prefix) + "-" + g.s.c.cfg.NewID(); r.RequireID && r.Instance == nil {
			g.s.later(func() { reply(JoinResult{Err: ErrMemberIDRequired, MemberID: id}) })
			return nil
		}
	}
	if len(id) > maxConsumerMemberID+maxIDPrefix || r.Instance != nil && len(*r.Instance) > maxInstanceID {
		return ErrUnknownMember
	}
	st := g.newStep()
	m, err := st.admitClassic(r, id)
	if err != nil {
		return err
	}
	says := &memberSays{instance: r.Instance, rack: v.Rack, clientID: r.ClientID, clientHost: r.ClientHost, topics: v.Topics, rebalance: r.Rebalance,
		classic: &classicSays{session: r.Session, protocols: r.Protocols}}
	if says.instance == nil && m.says != nil {
		says.instance = m.says.instance
	}
	if err := st.say(m, says); err != nil {
		return err
	}
	st.advance(m, ownedParts(g.s.c.cfg.Image(), v))
	res := JoinResult{Generation: m.holds.epoch, ProtocolType: classicConsumers, Protocol: r.Protocols[0].Name, MemberID: id}
	st.store(func(err error) {
		if err != nil {
			res = JoinResult{Err: err, MemberID: r.MemberID}
		} else if live := g.consumer.members[id]; live != nil {
			g.touchConsumer(live)
			g.expectRejoin(live, g.now().Add(r.Rebalance))
		}
		g.s.later(func() { reply(res) })
		if err == nil && len(st.gone) > 0 {
			g.maybeDowngrade() // the last of the others was this one's place
		}
	})
	return nil
}

// agrees says whether there is a protocol that who joins and all members of the classic protocol know.
func (c *consumerGroup) agrees(r *JoinRequest) bool {
	return slices.ContainsFunc(r.Protocols, func(p GroupProtocol) bool {
		for _, m := range c.members {
			if k := m.says.classic; k != nil && m.id != r.MemberID && !slices.ContainsFunc(k.protocols, func(o GroupProtocol) bool { return o.Name == p.Name }) {
				return false
			}
		}
		return true
	})
}

// admitClassic is admit for JoinGroup.
func (st *step) admitClassic(r *JoinRequest, id string) (*consumerMember, error) {
	c := st.c
	if r.Instance != nil {
		if r.MemberID != "" {
			m, err := c.find(id, r.Instance)
			if err != nil {
				return nil, err
			}
			return &consumerMember{id: id, says: m.says, holds: m.at()}, nil
		}
		if owner := c.members[c.static[*r.Instance]]; owner != nil {
			st.remove(owner.id)
			st.put(&consumerRecord{kind: keyTargetMember, member: id, parts: c.target[owner.id]})
			st.retarget(id, c.target[owner.id])
			return &consumerMember{id: id, says: owner.says, holds: &memberHolds{owned: owner.at().owned}}, nil
		}
	}
	if m := c.members[id]; m != nil {
		return &consumerMember{id: id, says: m.says, holds: m.at()}, nil
	}
	if len(c.members) >= st.g.s.c.cfg.ConsumerMaxSize || c.held > maxGroupBytes {
		return nil, ErrGroupFull
	}
	return &consumerMember{id: id, holds: &memberHolds{}}, nil
}

// findClassic finds a member of the classic protocol that speaks in a generation.
func (c *consumerGroup) findClassic(id string, instance *string, generation int32) (*consumerMember, error) {
	m, err := c.find(id, instance)
	switch {
	case err != nil:
		return nil, err
	case m.says.classic == nil:
		return nil, ErrUnknownMember
	case m.at().epoch != generation:
		return nil, ErrIllegalGeneration
	}
	return m, nil
}

// syncConsumer serves a SyncGroup to a group of the new protocol.
func (g *group) syncConsumer(r *SyncRequest, reply func(SyncResult)) error {
	c := g.consumer
	m, err := c.findClassic(r.MemberID, r.Instance, r.Generation)
	if err != nil {
		return err
	}
	protocol := m.says.classic.protocols[0]
	switch {
	case r.ProtocolType != nil && *r.ProtocolType != classicConsumers, r.Protocol != nil && *r.Protocol != protocol.Name:
		return ErrInconsistentProtocol
	case c.epoch > m.at().epoch && m.at().state != memberUnrevoked:
		g.expectRejoin(m, g.now().Add(m.says.rebalance))
		return ErrRebalanceInProgress
	}
	m.rejoinBy = time.Time{}
	g.s.c.timers.stop(&m.rejoin)
	g.touchConsumer(m)
	version := int16(0)
	if v, err := subscription(m.says.classic.protocols); err == nil {
		version = v.Version
	}
	res := SyncResult{ProtocolType: classicConsumers, Protocol: protocol.Name, Assignment: encodeAssignment(g.s.c.cfg.Image(), m.at().owned, version)}
	g.s.later(func() { reply(res) })
	return nil
}

// heartbeatConsumer serves a classic Heartbeat to a group of the new protocol: the member shall join again if the group has
// moved on, if it has partitions to give back, and if the last of those that it waits for has become free.
func (g *group) heartbeatConsumer(id string, instance *string, generation int32) error {
	c := g.consumer
	m, err := c.findClassic(id, instance, generation)
	if err != nil {
		return err
	}
	g.touchConsumer(m)
	h := m.at()
	if h.epoch < c.epoch || h.state == memberUnrevoked || h.state == memberUnreleased && !c.waits(m) {
		if m.rejoinBy.IsZero() {
			g.expectRejoin(m, g.now().Add(m.says.rebalance))
		}
		return ErrRebalanceInProgress
	}
	return nil
}

// waits says whether partitions of a member's target still belong to others.
func (c *consumerGroup) waits(m *consumerMember) bool {
	for p := range c.target[m.id] {
		if _, ok := m.at().owned[p]; ok {
			continue
		}
		if owner, ok := c.owners[p]; ok && owner != m.id {
			return true
		}
	}
	return false
}

// expectRejoin gives a member of the classic protocol until then to come with its next JoinGroup or SyncGroup.
func (g *group) expectRejoin(m *consumerMember, by time.Time) {
	m.rejoinBy = by
	g.s.c.timers.set(&m.rejoin, by)
}

// consumerRejoinExpired is the timer of a member that was told to join, or has joined and not fetched its assignment.
func (g *group) consumerRejoinExpired(m *consumerMember) {
	g.expel(m, "did not join or synchronise in time", &m.rejoin, true, func(o *consumerMember) bool { return !o.rejoinBy.IsZero() && !g.now().Before(o.rejoinBy) })
}

// leaveConsumer serves a LeaveGroup to a group of the new protocol: of members of the classic protocol, and of an operator who removes members of
// either, static ones by instance. Who is removed and still there learns it at its next heartbeat.
func (g *group) leaveConsumer(members []LeavingMember, answer func([]error, error)) {
	errs := make([]error, len(members))
	var gone []*consumerMember
	for i, l := range members {
		id := l.ID
		if id == "" && l.Instance != nil {
			id = g.consumer.static[*l.Instance]
		}
		m, err := g.consumer.find(id, l.Instance)
		switch {
		case err != nil:
			errs[i] = err
		case !slices.Contains(gone, m):
			g.s.c.cfg.Logger.Info("a member left its consumer group", "group", g.name, "member", m.id, "reason", said(l.Reason))
			gone = append(gone, m)
		}
	}
	if len(gone) == 0 {
		answer(errs, nil)
		return
	}
	g.removeConsumers(gone, func(err error) { answer(errs, err) })
}

// consumerTopics are the topics that members want.
func (g *group) consumerTopics() map[string]bool {
	topics := make(map[string]bool)
	for _, name := range g.newStep().topics() {
		topics[name] = true
	}
	return topics
}

// consumerMayCommit says whether a commit comes from somebody who may.
func (g *group) consumerMayCommit(r *CommitRequest) error {
	if r.Generation < 0 && g.empty() {
		return nil
	}
	m, err := g.consumer.find(r.MemberID, r.Instance)
	switch {
	case err != nil:
		return err
	case m.says.classic != nil && r.Generation != m.at().epoch:
		return ErrIllegalGeneration
	case m.says.classic != nil:
	case !r.Modern:
		return ErrProtocolDisabled
	case r.Generation > m.at().epoch || r.Generation < 0:
		return ErrStaleEpoch
	}
	return nil
}

// stale says whether a commit of a member of the new protocol is of an epoch before it got the partition. An older epoch than the
// member's is no error by itself: the commit may have passed the heartbeat that brought the new one (KIP-1251).
func (c *consumerGroup) stale(r *CommitRequest, id partID) bool {
	m := c.members[r.MemberID]
	if m == nil || m.says.classic != nil || r.Generation == m.at().epoch {
		return false
	}
	since, ok := m.at().owned[id]
	if !ok {
		since, ok = m.at().revoking[id]
	}
	return !ok || r.Generation < since
}

// mayFetch says whether a member may read the group's offsets in an epoch. Who is no member names none, and may.
func (g *group) mayFetch(memberID *string, epoch int32) error {
	if g.consumer == nil || memberID == nil && epoch < 0 {
		return nil
	}
	id := ""
	if memberID != nil {
		id = *memberID
	}
	m := g.consumer.members[id]
	switch {
	case m == nil:
		return ErrUnknownMember
	case m.at().epoch != epoch:
		return ErrStaleEpoch
	}
	return nil
}

// ConsumerGroupHeartbeat: how a member of the new protocol joins, says what it wants and owns, learns what to consume, and leaves.
//
// A decision is a step: what is committed, and what the records that it has collected will make of it. The answer waits for them.

package coordinator

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// ConsumerHeartbeatRequest is a member's heartbeat. What is nil, or negative for Rebalance, is as it was.
type ConsumerHeartbeatRequest struct {
	Group, MemberID      string
	Epoch                int32
	Instance, Rack       *string
	ClientID, ClientHost string
	Rebalance            time.Duration
	Topics               []string
	Regex, Assignor      *string
	Owned                []TopicPartitions
	// OwnID: the version makes members choose their ids themselves.
	OwnID bool
	// MayDescribe says which topics an expression of the member may match; nil: all. It must not block.
	MayDescribe func(topic string) bool
}

// ConsumerHeartbeatResult is the answer. Assignment is nil where the member has to change nothing.
type ConsumerHeartbeatResult struct {
	Err        error
	MemberID   string
	Epoch      int32
	Interval   time.Duration
	Assigned   bool // Assignment holds: also an empty one
	Assignment []TopicPartitions
}

// FeatureGroupVersion is Kafka's feature that says, by level 1, that groups of the new protocol are there. A broker that does not know them
// would coordinate one as if nobody were in it.
const FeatureGroupVersion = "group.version"

// check is what can be said of a heartbeat without knowing the group. It fills in what may be left out.
func (r *ConsumerHeartbeatRequest) check() error {
	bad := func(text string) error { return fmt.Errorf("%w: %s", ErrInvalidRequest, text) }
	empty := func(s *string) bool { return s != nil && *s == "" }
	switch {
	case empty(r.Instance):
		return bad("InstanceId can't be empty.")
	case empty(r.Rack):
		return bad("RackId can't be empty.")
	case len(r.MemberID) > maxConsumerMemberID, r.Instance != nil && len(*r.Instance) > maxInstanceID:
		return bad("MemberId or InstanceId is too long.")
	case r.MemberID == "" && (r.OwnID || r.Epoch != joinEpoch):
		return bad("MemberId can't be empty.")
	case r.Epoch < leaveStaticEpoch:
		return bad("MemberEpoch is invalid.")
	}
	if r.Epoch == joinEpoch {
		switch {
		case r.Rebalance <= 0:
			return bad("RebalanceTimeoutMs must be provided in first request.")
		case r.Owned == nil || len(r.Owned) > 0:
			return bad("TopicPartitions must be empty when (re-)joining.")
		case len(r.Topics) == 0 && (r.Regex == nil || *r.Regex == ""):
			return bad("Either SubscribedTopicNames or SubscribedTopicRegex must be provided when (re-)joining.")
		}
		if r.Regex == nil {
			r.Regex = new(string)
		}
	}
	if r.Assignor != nil && *r.Assignor != "" && assignors[*r.Assignor] == nil {
		return fmt.Errorf("%w: ServerAssignor %s is not supported; supported are %s and %s", ErrUnsupportedAssignor, *r.Assignor, assignorUniform, assignorRange)
	}
	if r.Topics != nil {
		r.Topics = slices.Clone(r.Topics)
		slices.Sort(r.Topics)
		r.Topics = slices.Compact(r.Topics)
	}
	return nil
}

// ConsumerHeartbeat calls reply exactly once. It keeps parts of r.
func (c *Groups) ConsumerHeartbeat(r *ConsumerHeartbeatRequest, reply func(ConsumerHeartbeatResult)) {
	fail := func(err error) { reply(ConsumerHeartbeatResult{Err: err, MemberID: r.MemberID, Epoch: r.Epoch}) }
	s, err := c.enter(r.Group)
	if err != nil {
		fail(err)
		return
	}
	defer s.unlock()
	refuse := func(err error) { s.later(func() { fail(err) }) }
	if c.cfg.Image().Feature(FeatureGroupVersion) < 1 {
		refuse(ErrProtocolDisabled)
		return
	}
	if err := r.check(); err != nil {
		refuse(err)
		return
	}
	g := s.group(r.Group)
	if g == nil {
		if r.Epoch != joinEpoch {
			refuse(ErrGroupNotFound)
			return
		}
		if g, err = s.obtain(r.Group); err != nil {
			refuse(err)
			return
		}
	}
	g.do(func(err error) {
		if err != nil {
			refuse(err)
			return
		}
		g.consumerHeartbeat(r, func(res ConsumerHeartbeatResult, err error) {
			if err != nil {
				refuse(err)
				return
			}
			s.later(func() { reply(res) })
		})
	})
	s.tidy(g)
}

// consumerHeartbeat decides on a heartbeat. No record of the group is on its way.
func (g *group) consumerHeartbeat(r *ConsumerHeartbeatRequest, reply func(ConsumerHeartbeatResult, error)) {
	none := ConsumerHeartbeatResult{}
	if g.consumer == nil {
		if r.Epoch != joinEpoch {
			reply(none, ErrGroupNotFound)
			return
		}
		if g.empty() {
			g.unpendAll()
		} else {
			g.upgrade(func(err error) {
				if err != nil {
					reply(none, err)
					return
				}
				g.consumerHeartbeat(r, reply)
			})
			return
		}
	}
	if r.Epoch < 0 {
		g.consumerLeave(r, reply)
		return
	}
	st := g.newStep()
	if st.may = r.MayDescribe; st.may == nil {
		st.may = func(string) bool { return true }
	}
	m, err := st.admit(r)
	if err != nil {
		reply(none, err)
		return
	}
	before := m.holds
	if err := st.tell(m, r); err != nil {
		reply(none, err)
		return
	}
	var owned partSet
	if r.Owned != nil {
		owned = partsOf(r.Owned)
	}
	st.advance(m, owned)
	full := r.Epoch == joinEpoch || r.Rebalance > 0 && (r.Topics != nil || r.Regex != nil) && r.Owned != nil
	_, interval := g.consumerTiming()
	res := ConsumerHeartbeatResult{MemberID: m.id, Epoch: m.holds.epoch, Interval: interval}
	if full || !sameParts(before.owned, m.holds.owned) {
		res.Assigned, res.Assignment = true, m.holds.owned.byTopic()
	}
	st.store(func(err error) {
		if err == nil {
			if live := g.consumer.members[m.id]; live != nil {
				g.touchConsumer(live)
			}
		}
		reply(res, err)
	})
}

// consumerLeave is a member that goes, for good or, a static one, to come back.
func (g *group) consumerLeave(r *ConsumerHeartbeatRequest, reply func(ConsumerHeartbeatResult, error)) {
	if g.consumer == nil {
		reply(ConsumerHeartbeatResult{}, ErrGroupNotFound)
		return
	}
	m, err := g.consumer.find(r.MemberID, r.Instance)
	if err != nil {
		reply(ConsumerHeartbeatResult{}, err)
		return
	}
	_, interval := g.consumerTiming()
	res := ConsumerHeartbeatResult{MemberID: m.id, Epoch: r.Epoch, Interval: interval}
	// Some clients do not repeat their instance id here: it is the member's that counts.
	if r.Epoch == leaveStaticEpoch && m.says.instance != nil {
		h := *m.at()
		h.epoch, h.revoking = leaveStaticEpoch, nil
		rec := g.consumerRecord(&consumerRecord{kind: keyCurrentMember, member: m.id, holds: &h}, false)
		g.storeConsumer([]groupRecord{rec}, func(err error) {
			g.s.c.timers.stop(&m.revoke)
			reply(res, err)
		})
		return
	}
	g.s.c.cfg.Logger.Info("a member left its consumer group", "group", g.name, "member", m.id)
	g.removeConsumers([]*consumerMember{m}, func(err error) { reply(res, err) })
}

// find finds the member that speaks.
func (c *consumerGroup) find(id string, instance *string) (*consumerMember, error) {
	if instance != nil {
		now, ok := c.static[*instance]
		if !ok {
			return nil, ErrUnknownMember
		}
		if now != id {
			return nil, ErrFencedInstance
		}
	}
	if m := c.members[id]; m != nil {
		return m, nil
	}
	return nil, ErrUnknownMember
}

// removeConsumers takes members out, and so begins a rebalance of those that stay.
func (g *group) removeConsumers(ms []*consumerMember, then func(error)) {
	st := g.newStep()
	for _, m := range ms {
		st.remove(m.id)
	}
	if st.c.checked != nil {
		st.look(st.c.checked, true)
	} else {
		st.bump() // nobody has spoken to this coordinator yet: who does looks
	}
	st.store(func(err error) {
		then(err)
		if err == nil {
			g.maybeDowngrade()
		}
	})
}

// consumerSessionExpired is a member's timer.
func (g *group) consumerSessionExpired(m *consumerMember) {
	if g.consumer == nil || g.consumer.members[m.id] != m {
		return
	}
	if g.now().Before(m.deadline) {
		g.s.c.timers.set(&m.session, m.deadline)
		return
	}
	g.expel(m, "was silent for too long", &m.session, true, func(o *consumerMember) bool { return !g.now().Before(o.deadline) })
}

// consumerRevokeExpired is the timer of a member that has partitions to give back.
func (g *group) consumerRevokeExpired(m *consumerMember) {
	g.expel(m, "did not give back its partitions in time", &m.revoke, false, func(o *consumerMember) bool { return o.at().state == memberUnrevoked })
}

// expel removes a member that is late, unless it comes, or has come, in time after all. With all it takes with it the others that are: where a
// network is gone all members go, in one record and with one rebalance.
func (g *group) expel(m *consumerMember, why string, t *timer, all bool, late func(*consumerMember) bool) {
	retry := func() {
		if !g.s.closed && g.consumer != nil && g.consumer.members[m.id] == m {
			g.s.c.timers.set(t, g.now().Add(expelRetry))
		}
	}
	g.do(func(err error) {
		if err != nil { // there is no room in the queue: the timer has fired, and nobody else sets it again
			retry()
			return
		}
		if g.consumer == nil || g.consumer.members[m.id] != m || !late(m) {
			return
		}
		if g.now().Before(g.consumer.expelAfter) {
			retry()
			return
		}
		gone := []*consumerMember{m}
		for _, o := range g.consumer.sortedMembers() {
			if all && o != m && len(gone) < maxExpelled && late(o) {
				gone = append(gone, o)
			}
		}
		for _, o := range gone {
			g.s.c.cfg.Logger.Info("a consumer group's member "+why, "group", g.name, "member", o.id)
		}
		g.removeConsumers(gone, func(err error) {
			if err == nil {
				return
			}
			if g.consumer != nil {
				g.consumer.expelAfter = g.now().Add(expelRetry)
			}
			retry()
		})
	})
}

const (
	// expelRetry is between attempts to write that members are gone, or that a group is of the classic protocol again.
	expelRetry = time.Second
	// maxExpelled bounds the members that go in one record.
	maxExpelled = maxTombstones / 4
)

// step is a decision on a consumer group: what it will be once the records are committed.
type step struct {
	g       *group
	c       *consumerGroup // as committed
	records []groupRecord

	epoch, assignmentEpoch int32
	bumped                 bool
	regexes                map[string]*resolvedRegex // in place of c.regexes, if not nil
	member                 *consumerMember           // as it will be; nil: none is heard
	gone                   map[string]bool           // members that go
	target                 map[string]partSet        // in place of c.target, if not nil
	checked                *Image
	may                    func(topic string) bool // what expressions may match; nil: nobody speaks for whom they could be resolved
	resolved               bool                    // all of them were
}

func (g *group) newStep() *step {
	c := g.consumer
	if c == nil {
		c = newConsumerGroup()
	}
	st := &step{g: g, c: c, epoch: c.epoch, assignmentEpoch: c.assignmentEpoch, gone: make(map[string]bool)}
	if g.consumer == nil && g.stored { // a group of the classic protocol that is empty makes room
		st.records = append(st.records, groupRecord{name: g.name, deleted: true})
	}
	if g.consumer == nil {
		st.epoch = g.generation // which the epochs go on from, so that they only rise whichever protocol a group speaks
	}
	return st
}

func (st *step) put(r *consumerRecord) {
	st.records = append(st.records, st.g.consumerRecord(r, false))
}
func (st *step) delete(r *consumerRecord) {
	st.records = append(st.records, st.g.consumerRecord(r, true))
}

// remove takes a member out. The order is Kafka's.
func (st *step) remove(id string) {
	st.gone[id] = true
	for _, kind := range []int16{keyCurrentMember, keyTargetMember, keyConsumerMember} {
		st.delete(&consumerRecord{kind: kind, member: id})
	}
}

func (st *step) bump() {
	st.bumped = true
	st.epoch++
}

// admit finds the member that a heartbeat is of, or makes it, as a copy that the step may change. says and holds are set.
func (st *step) admit(r *ConsumerHeartbeatRequest) (*consumerMember, error) {
	c, id := st.c, r.MemberID
	if id == "" {
		id = st.g.s.c.cfg.NewID()
	}
	fresh := func(from *consumerMember) *consumerMember {
		m := &consumerMember{id: id, holds: &memberHolds{}}
		if from != nil {
			m.says = from.says
			m.holds = &memberHolds{owned: from.at().owned}
		}
		return m
	}
	old := c.members[id]
	if r.Epoch != joinEpoch {
		m, err := c.find(id, r.Instance)
		if err != nil {
			return nil, err
		}
		if err := m.at().accepts(r); err != nil {
			return nil, err
		}
		return &consumerMember{id: id, says: m.says, holds: m.at()}, nil
	}
	if r.Instance != nil {
		if owner := c.members[c.static[*r.Instance]]; owner != nil && owner.id != id {
			if owner.at().epoch != leaveStaticEpoch && owner.says.classic == nil {
				return nil, ErrUnreleasedInstance
			}
			// The one who was away comes back under another id.
			m := fresh(owner)
			st.remove(owner.id)
			st.put(&consumerRecord{kind: keyTargetMember, member: id, parts: c.target[owner.id]})
			st.retarget(id, c.target[owner.id])
			return m, nil
		}
	}
	if old == nil {
		if len(c.members) >= st.g.s.c.cfg.ConsumerMaxSize || c.held > maxGroupBytes {
			return nil, ErrGroupFull
		}
		return fresh(nil), nil
	}
	// It has begun anew, or lost the answer to its first heartbeat: it owns nothing, and gets its part again.
	m := &consumerMember{id: id, says: old.says, holds: old.at()}
	if m.holds.epoch == leaveStaticEpoch {
		m.holds = &memberHolds{owned: old.holds.owned}
	}
	return m, nil
}

// retarget makes the step see another part of the target for a member.
func (st *step) retarget(id string, parts partSet) {
	if st.target == nil {
		st.target = maps.Clone(st.c.target)
	}
	for gone := range st.gone {
		delete(st.target, gone)
	}
	st.target[id] = parts
}

// accepts says whether a heartbeat is of the member's present. The last epoch's is taken too if the member owns nothing that it
// was not given: then the answer that brought the new one was lost.
func (h *memberHolds) accepts(r *ConsumerHeartbeatRequest) error {
	if r.Epoch == h.epoch {
		return nil
	}
	if r.Epoch != h.previous || r.Owned == nil {
		return ErrFencedEpoch
	}
	for id := range partsOf(r.Owned) {
		if _, ok := h.owned[id]; !ok {
			return ErrFencedEpoch
		}
	}
	return nil
}

// tell takes over what the member says of itself, and bumps the group's epoch where that, or the topics, have changed.
func (st *step) tell(m *consumerMember, r *ConsumerHeartbeatRequest) error {
	says := memberSays{}
	if m.says != nil {
		says = *m.says
	}
	set := func(to **string, v *string) {
		if v != nil {
			*to = v
		}
	}
	set(&says.instance, r.Instance)
	set(&says.rack, r.Rack)
	says.clientID, says.clientHost, says.classic = r.ClientID, r.ClientHost, nil
	if r.Rebalance > 0 {
		says.rebalance = r.Rebalance
	}
	if r.Topics != nil {
		says.topics = r.Topics
	} else if r.Epoch == joinEpoch {
		says.topics = nil
	}
	if r.Regex != nil {
		says.regex = *r.Regex
	}
	if r.Assignor != nil {
		says.assignor = *r.Assignor
	}
	return st.say(m, &says)
}

// say makes says the member's word.
func (st *step) say(m *consumerMember, says *memberSays) error {
	old := m.says
	st.member = m
	m.says = says
	if says.regex != "" && (old == nil || old.regex != says.regex) {
		if err := st.c.compile(says.regex); err != nil {
			return err
		}
	}
	live := st.c.members[m.id]
	if live == nil || live.says != old || !old.equal(says) {
		if st.c.held+m.size() > 2*maxGroupBytes {
			return ErrGroupFull
		}
		st.put(&consumerRecord{kind: keyConsumerMember, member: m.id, says: says})
	}
	changed := old == nil || !slices.Equal(old.topics, says.topics) || old.regex != says.regex
	im := st.g.s.c.cfg.Image()
	if changed || st.c.checked == nil || st.c.checked.Version() != im.Version() || st.may != nil && st.c.regexDue(im, st.g.now()) {
		st.look(im, changed)
	}
	return nil
}

// compile keeps an expression's compiled form as long as the group has it.
func (c *consumerGroup) compile(expr string) error {
	if c.compiled[expr] != nil {
		return nil
	}
	re, err := compileRegex(expr)
	if err != nil {
		return err
	}
	if len(c.compiled) >= maxRegexes {
		for e := range c.compiled { // of members that never were
			if c.regexes[e] == nil {
				delete(c.compiled, e)
			}
		}
		if len(c.compiled) >= maxRegexes {
			return fmt.Errorf("%w: the group has %d different ones", ErrInvalidRegex, maxRegexes)
		}
	}
	c.compiled[expr] = re
	return nil
}

func (m *memberSays) equal(o *memberSays) bool {
	same := func(a, b *string) bool { return (a == nil) == (b == nil) && (a == nil || *a == *b) }
	if m == nil || o == nil {
		return m == o
	}
	if (m.classic == nil) != (o.classic == nil) || m.classic != nil && (m.classic.session != o.classic.session ||
		!slices.EqualFunc(m.classic.protocols, o.classic.protocols, func(a, b GroupProtocol) bool {
			return a.Name == b.Name && string(a.Metadata) == string(b.Metadata)
		})) {
		return false
	}
	return same(m.instance, o.instance) && same(m.rack, o.rack) && m.clientID == o.clientID && m.clientHost == o.clientHost && m.regex == o.regex &&
		m.rebalance == o.rebalance && m.assignor == o.assignor && slices.Equal(m.topics, o.topics)
}

// look holds the group's expressions and topics against the metadata.
func (st *step) look(im *Image, changed bool) {
	st.checked = im
	used := make(map[string]bool)
	for _, m := range st.members() {
		if m.says.regex != "" {
			used[m.says.regex] = true
		}
	}
	st.regexes = make(map[string]*resolvedRegex, len(used))
	due := st.may != nil && st.c.regexDue(im, st.g.now())
	st.resolved = st.may != nil
	for _, expr := range slices.Sorted(maps.Keys(used)) {
		was := st.c.regexes[expr]
		if was != nil && (!due || was.version > int64(im.Version())) { // later: this coordinator's metadata is behind the last one's
			st.regexes[expr] = was
			st.resolved = st.resolved && due
			continue
		}
		if st.may == nil {
			continue // who has it will speak
		}
		if st.c.compiled[expr] == nil && st.c.compile(expr) != nil {
			continue // of a coordinator that knew more than this one
		}
		topics := resolveRegex(st.c.compiled[expr], im, st.may)
		if was != nil && slices.Equal(was.topics, topics) {
			st.regexes[expr] = was
			continue
		}
		now := &resolvedRegex{topics: topics, version: int64(im.Version()), at: st.g.now().UnixMilli()}
		st.regexes[expr] = now
		changed = true
		st.put(&consumerRecord{kind: keyConsumerRegex, member: expr, regex: now})
	}
	for _, expr := range slices.Sorted(maps.Keys(st.c.regexes)) {
		if !used[expr] {
			st.delete(&consumerRecord{kind: keyConsumerRegex, member: expr})
		}
	}
	if hash := metadataHash(im, st.topics()); changed || hash != st.c.hash {
		st.bump()
	}
}

// members are those that will be, by id.
func (st *step) members() []*consumerMember {
	out := make([]*consumerMember, 0, len(st.c.members)+1)
	for _, m := range st.c.members {
		if !st.gone[m.id] && (st.member == nil || m.id != st.member.id) {
			out = append(out, m)
		}
	}
	if st.member != nil {
		out = append(out, st.member)
	}
	slices.SortFunc(out, func(a, b *consumerMember) int { return strings.Compare(a.id, b.id) })
	return out
}

// wants are the names of the topics that a member wants, sorted, each once.
func (st *step) wants(m *consumerMember) []string {
	if m.says.regex == "" {
		return m.says.topics
	}
	regexes := st.regexes
	if regexes == nil {
		regexes = st.c.regexes
	}
	var matching []string
	if r := regexes[m.says.regex]; r != nil {
		matching = r.topics
	}
	if len(m.says.topics) == 0 {
		return matching
	}
	names := slices.Concat(m.says.topics, matching)
	slices.Sort(names)
	return slices.Compact(names)
}

// topics are the names of all topics that the group wants, sorted, each once.
func (st *step) topics() []string {
	var names, last []string
	for _, m := range st.members() {
		if wants := st.wants(m); !slices.Equal(wants, last) { // thousands of members mostly want the same
			names, last = append(names, wants...), wants
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// store writes what the step has collected, and has it folded in.
func (st *step) store(then func(error)) {
	if st.bumped {
		if st.checked == nil { // a member that left: whoever speaks next looks
			st.put(&consumerRecord{kind: keyConsumerGroup, epoch: st.epoch, hash: st.c.hash})
		} else {
			st.put(&consumerRecord{kind: keyConsumerGroup, epoch: st.epoch, hash: metadataHash(st.checked, st.topics())})
		}
	}
	g := st.g
	var revoking partSet // what the member was told before
	if st.member != nil {
		if m := st.c.members[st.member.id]; m != nil {
			revoking = m.at().revoking
		}
	}
	g.storeConsumer(st.records, func(err error) {
		if err == nil && g.consumer != nil {
			if st.checked != nil {
				g.consumer.checked = st.checked
			}
			if st.resolved {
				g.consumer.resolved, g.consumer.resolvedAt = st.checked.Version(), g.now()
			}
			if st.c != g.consumer { // it is new: what was compiled for it is still good
				g.consumer.compiled = st.c.compiled
			}
			if st.member != nil && g.consumer.members[st.member.id] != nil {
				m := g.consumer.members[st.member.id]
				g.watchRevoking(m, !sameParts(revoking, m.at().revoking))
			}
		}
		then(err)
	})
}

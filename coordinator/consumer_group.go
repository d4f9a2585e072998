// A consumer group of the new protocol (KIP-848): members say what they want in heartbeats, the coordinator assigns, and each member moves to
// its part of the target at its own pace.
//
// Three epochs tell how far things are. The group's rises whenever who is in it or what they want changes; the assignment's
// follows as soon as a target was computed for it; a member's follows when it has given back all that the target takes from it.
//
//	                                   target has more for it that nobody owns
//	             ┌──────────────────────────────────────────────────────────────┐
//	             ▼                                                              │
//	Stable ──new target──▶ gives nothing back ──▶ all free: Stable     some not: Unreleased ──▶ …
//	                  └──▶ Unrevoked: keeps its epoch until a heartbeat no longer names what it is to give back
//
// A partition belongs to a member from the moment that the record that assigns it is committed until the one that frees it is.
// All of it is in the log, and changes in fold alone: a coordinator that takes over in the middle goes on where the other
// one stopped. A decision is made on what is committed. While one is on its way to the log the group's requests wait for
// it (group.do), so that none is made on what may never be.

package coordinator

import (
	"cmp"
	"hash/fnv"
	"maps"
	"regexp"
	"slices"
	"time"

	"github.com/balsamq/balsa/raft"
)

const (
	// maxQueued bounds the requests of one group that wait for a record to be committed.
	maxQueued = 10_000
	// maxConsumerMemberID and maxInstanceID bound what a member may call itself.
	maxConsumerMemberID = 256
	maxInstanceID       = 256
)

// memberState is where a member stands; the numbers are the log's.
type memberState int8

const (
	memberStable     memberState = 0
	memberUnrevoked  memberState = 1 // it has partitions to give back
	memberUnreleased memberState = 2 // partitions of its target still belong to others
)

// Epochs with a meaning of their own.
const (
	joinEpoch        = 0
	leaveEpoch       = -1
	leaveStaticEpoch = -2 // a static member that will be back: its partitions stay its
)

// consumerMember is a member of a consumerGroup. says and holds are replaced as a whole, by fold.
type consumerMember struct {
	id    string
	says  *memberSays  // nil only within a load
	holds *memberHolds // nil: nothing, in epoch 0

	// What is not in the log.
	deadline time.Time // its session ends
	session  timer
	revoke   timer // it must have given back what it was told to
	rejoin   timer // of a member of the classic protocol: it must have joined, or fetched its assignment
	rejoinBy time.Time
	counted  int // of consumerGroup.held
}

func (m *consumerMember) at() *memberHolds {
	if m.holds == nil {
		return &memberHolds{}
	}
	return m.holds
}

// size is what the member counts against maxGroupBytes.
func (m *consumerMember) size() int {
	if m.says == nil {
		return 0
	}
	n := 512 + len(m.id) + len(m.says.clientID) + len(m.says.clientHost) + len(m.says.regex)
	for _, t := range m.says.topics {
		n += 16 + len(t)
	}
	if c := m.says.classic; c != nil {
		for i := range c.protocols {
			n += 32 + len(c.protocols[i].Name) + len(c.protocols[i].Metadata)
		}
	}
	return n
}

// consumerGroup is guarded by its shard's mutex.
type consumerGroup struct {
	epoch, assignmentEpoch int32
	hash                   int64 // of the topics that the group wants, as of epoch
	members                map[string]*consumerMember
	static                 map[string]string // instance id to member id
	target                 map[string]partSet
	owners                 map[partID]string // who owns a partition, or has yet to give it back
	regexes                map[string]*resolvedRegex
	held                   int   // bytes of all members
	changedAt              int64 // milliseconds: of the last epoch, which in an empty group is when it became empty

	// What is not in the log.
	compiled map[string]*regexp.Regexp
	checked  *Image // the metadata that hash was last held against
	// resolved is the version of the metadata that regexes were last held against, and resolvedAt when.
	resolved   raft.Index
	resolvedAt time.Time
	expelAfter time.Time // a write that members are gone has failed: none before this
}

func newConsumerGroup() *consumerGroup {
	return &consumerGroup{members: make(map[string]*consumerMember), static: make(map[string]string), target: make(map[string]partSet),
		owners: make(map[partID]string), regexes: make(map[string]*resolvedRegex), compiled: make(map[string]*regexp.Regexp)}
}

// state is Kafka's name of the group's state.
func (c *consumerGroup) state() string {
	switch {
	case len(c.members) == 0:
		return "Empty"
	case c.epoch > c.assignmentEpoch:
		return "Assigning"
	}
	for _, m := range c.members {
		if h := m.at(); h.epoch != leaveStaticEpoch && (h.state != memberStable || h.epoch != c.assignmentEpoch) {
			return "Reconciling"
		}
	}
	return "Stable"
}

// sortedMembers are the members by id: whatever depends on an order depends on this one.
func (c *consumerGroup) sortedMembers() []*consumerMember {
	out := make([]*consumerMember, 0, len(c.members))
	for _, id := range slices.Sorted(maps.Keys(c.members)) {
		out = append(out, c.members[id])
	}
	return out
}

// classicOnly says that the group has members, and that all of them speak the classic protocol.
func (c *consumerGroup) classicOnly() bool {
	for _, m := range c.members {
		if m.says.classic == nil {
			return false
		}
	}
	return len(c.members) > 0
}

// fold takes one record of the log in. Compaction may have taken away what came before it: a record is understood by itself.
func (g *group) fold(r *consumerRecord, deleted bool, at int64) {
	if g.consumer == nil {
		if deleted || r.kind == keyConsumerTopics {
			return
		}
		g.consumer = newConsumerGroup()
	}
	c := g.consumer
	switch r.kind {
	case keyConsumerGroup:
		if deleted {
			for _, m := range c.members {
				g.stopConsumer(m)
			}
			g.consumer = nil
			return
		}
		c.epoch, c.hash, c.changedAt = r.epoch, r.hash, at
	case keyTargetEpoch:
		c.assignmentEpoch = r.epoch
	case keyTargetMember:
		if delete(c.target, r.member); !deleted {
			c.target[r.member] = r.parts
		}
	case keyConsumerRegex:
		if delete(c.regexes, r.member); !deleted {
			c.regexes[r.member] = r.regex
		} else {
			delete(c.compiled, r.member)
		}
	case keyConsumerMember:
		m := c.members[r.member]
		if deleted {
			if m != nil {
				g.stopConsumer(m)
				c.drop(m)
			}
			return
		}
		m = c.obtain(g, r.member)
		if m.says != nil && m.says.instance != nil && c.static[*m.says.instance] == m.id {
			delete(c.static, *m.says.instance)
		}
		m.says = r.says
		if m.says.instance != nil {
			c.static[*m.says.instance] = m.id
		}
		c.held += m.size() - m.counted
		m.counted = m.size()
	case keyCurrentMember:
		m := c.members[r.member]
		if m == nil {
			if deleted {
				return
			}
			m = c.obtain(g, r.member)
		}
		c.own(m, false)
		if m.holds = r.holds; deleted {
			m.holds = nil
		}
		c.own(m, true)
	}
}

func (c *consumerGroup) obtain(g *group, id string) *consumerMember {
	m := c.members[id]
	if m == nil {
		m = &consumerMember{id: id}
		m.session.fire = func() { g.s.locked(func() { g.consumerSessionExpired(m) }) }
		m.revoke.fire = func() { g.s.locked(func() { g.consumerRevokeExpired(m) }) }
		m.rejoin.fire = func() { g.s.locked(func() { g.consumerRejoinExpired(m) }) }
		c.members[id] = m
	}
	return m
}

func (c *consumerGroup) drop(m *consumerMember) {
	c.own(m, false)
	c.held -= m.counted
	delete(c.members, m.id)
	if m.says != nil && m.says.instance != nil && c.static[*m.says.instance] == m.id {
		delete(c.static, *m.says.instance)
	}
}

// own enters what m holds into the table of owners, or takes it out. Nobody is ever overwritten: while a log is loaded whose front
// was compacted, two members may seem to have a partition for a moment, and restoreConsumer builds the table anew.
func (c *consumerGroup) own(m *consumerMember, owns bool) {
	h := m.at()
	for _, s := range [2]partSet{h.owned, h.revoking} {
		for id := range s {
			if owner, ok := c.owners[id]; owns && !ok {
				c.owners[id] = m.id
			} else if !owns && owner == m.id {
				delete(c.owners, id)
			}
		}
	}
}

// stopConsumer stops a member's timers.
func (g *group) stopConsumer(m *consumerMember) {
	ts := &g.s.c.timers
	ts.stop(&m.session)
	ts.stop(&m.revoke)
	ts.stop(&m.rejoin)
}

// restoreConsumer makes the group fit to serve after a load. All sessions begin now.
func (g *group) restoreConsumer() {
	c := g.consumer
	if c == nil {
		return
	}
	for _, m := range c.sortedMembers() {
		if m.says == nil {
			c.drop(m) // what a member holds, without the member: its removal was cut short by compaction
		}
	}
	clear(c.owners)
	for _, m := range c.sortedMembers() {
		c.own(m, true)
		g.touchConsumer(m)
		g.watchRevoking(m, true)
	}
	if c.classicOnly() {
		g.s.c.timers.set(&g.downgrade, g.now().Add(expelRetry))
	}
}

// consumerTiming is what members of the new protocol are held to.
func (g *group) consumerTiming() (session, heartbeat time.Duration) {
	c := &g.s.c.cfg
	if c.ConsumerTiming != nil {
		session, heartbeat = c.ConsumerTiming(g.name)
	}
	return cmp.Or(session, c.ConsumerSession), cmp.Or(heartbeat, c.ConsumerHeartbeat)
}

// touchConsumer begins a member's session anew.
func (g *group) touchConsumer(m *consumerMember) {
	session, _ := g.consumerTiming()
	if m.says.classic != nil {
		session = m.says.classic.session
	}
	m.deadline = g.now().Add(session)
	g.s.c.timers.by(&m.session, m.deadline)
}

// watchRevoking sees to it that a member gives back what it was told to, or goes. Its time counts from when it was told: anew says that this is now.
func (g *group) watchRevoking(m *consumerMember, anew bool) {
	if m.at().state != memberUnrevoked || m.says.classic != nil {
		g.s.c.timers.stop(&m.revoke)
		return
	}
	by := g.now().Add(m.says.rebalance)
	if anew {
		g.s.c.timers.set(&m.revoke, by)
	} else {
		g.s.c.timers.by(&m.revoke, by)
	}
}

// do runs fn when no record of the group is on its way to the log, now or later, or with the error that ends the wait.
func (g *group) do(fn func(error)) {
	switch {
	case g.writing == 0 && len(g.queue) == 0:
		fn(nil)
	case len(g.queue) >= maxQueued:
		fn(ErrCoordinatorUnavailable)
	default:
		g.queue = append(g.queue, fn)
	}
}

// written lets those run who waited for a record.
func (g *group) written() {
	for len(g.queue) > 0 && g.writing == 0 {
		fn := g.queue[0]
		if g.queue = g.queue[1:]; len(g.queue) == 0 {
			g.queue = nil
		}
		fn(nil)
	}
}

// storeConsumer writes records of the group. then is called under the shard's mutex, after they were folded in, or with the error.
func (g *group) storeConsumer(records []groupRecord, then func(error)) {
	if len(records) == 0 {
		then(nil)
		return
	}
	g.writing++
	g.s.append(records, func(err error) {
		g.writing--
		then(err)
		g.written()
		if !g.s.closed {
			g.s.tidy(g)
		}
	})
}

func (g *group) consumerRecord(r *consumerRecord, deleted bool) groupRecord {
	return groupRecord{name: g.name, consumer: r, deleted: deleted}
}

// metadataHash is a number that changes when any of the topics comes, goes or grows. Zero: none of them exists.
func metadataHash(im *Image, topics []string) int64 {
	h := fnv.New64a()
	found := false
	for _, name := range topics {
		t := im.Topic(name)
		if t == nil {
			continue
		}
		found = true
		_, _ = h.Write(t.ID[:])
		n := len(t.Partitions)
		_, _ = h.Write([]byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)})
	}
	if !found {
		return 0
	}
	return max(int64(h.Sum64()>>1), 1)
}

package coordinator

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// propClient is a client of either protocol whose requests may be on their way, and whose answers may get lost.
type propClient struct {
	consumer
	classic bool
	pending *answer[ConsumerHeartbeatResult]
	join    *answer[JoinResult]
	sync    *answer[SyncResult]
	cid     string // of the classic protocol
	gen     int32
	dead    bool
}

// settleAnswers has clients hear what has come for them.
func (c *propClient) settleAnswers(t fataler, im *Image) {
	if c.pending != nil && !c.pending.waits() {
		_ = c.hear(c.pending.get())
		c.pending = nil
	}
	if c.join != nil && !c.join.waits() {
		r := c.join.get()
		c.join = nil
		switch {
		case r.Err == nil:
			c.cid, c.gen = r.MemberID, r.Generation
			var with map[string][]byte
			if r.LeaderID == r.MemberID {
				// A leader of the classic protocol gives everybody what a range assignor would.
				with = make(map[string][]byte)
				var ms []*assignee
				for _, m := range r.Members {
					v, err := subscription([]GroupProtocol{{Metadata: m.Metadata}})
					if err != nil {
						t.Fatalf("%v", err)
					}
					a := &assignee{id: m.ID}
					for _, name := range v.Topics {
						if topic := im.Topic(name); topic != nil {
							a.topics = append(a.topics, topic)
						}
					}
					ms = append(ms, a)
				}
				for id, parts := range assignRange(ms) {
					with[id] = encodeAssignment(im, parts, 1)
				}
			}
			c.sync = newAnswer[SyncResult](t)
			c.h.c.Sync(&SyncRequest{Group: "g", MemberID: c.cid, Generation: c.gen, Assignments: with}, c.sync.set)
		case errors.Is(r.Err, ErrUnknownMember):
			c.cid, c.gen, c.owned = "", 0, partSet{}
		}
	}
	if c.sync != nil && !c.sync.waits() {
		r := c.sync.get()
		c.sync = nil
		switch {
		case r.Err == nil:
			next := partSet{}
			for f := range strings.FieldsSeq(assigned(t, r.Assignment)) {
				name, p := f[:1], f[1:]
				var n int32
				if _, err := fmt.Sscan(p, &n); err != nil {
					t.Fatalf("%q: %v", f, err)
				}
				if topic := im.Topic(name); topic != nil {
					next[partID{topic.ID, n}] = 0
				}
			}
			lost := false
			for id := range c.owned {
				if _, ok := next[id]; !ok {
					lost = true
				}
			}
			if c.owned = next; lost {
				c.rejoin() // cooperative: what it has given back is said by joining again
			}
		case errors.Is(r.Err, ErrUnknownMember):
			c.cid, c.gen, c.owned = "", 0, partSet{}
		default:
			c.rejoin()
		}
	}
}

func (c *propClient) rejoin() {
	if c.join != nil || c.sync != nil {
		return
	}
	owned := make(map[string][]int32)
	for id := range c.owned {
		name := topicOf(id)
		owned[name] = append(owned[name], id.partition)
	}
	c.join = c.h.joinClassic(c.cid, nil, c.topics, owned)
}

// speak sends the client's next request, unless one is on its way.
func (c *propClient) speak() {
	if c.classic {
		switch {
		case c.join != nil || c.sync != nil:
		case c.cid == "":
			c.rejoin()
		default:
			switch err := c.h.c.Heartbeat("g", c.cid, nil, c.gen); {
			case errors.Is(err, ErrRebalanceInProgress):
				c.rejoin()
			case errors.Is(err, ErrUnknownMember), errors.Is(err, ErrIllegalGeneration):
				c.cid, c.gen, c.owned = "", 0, partSet{}
			}
		}
		return
	}
	if c.pending == nil {
		c.pending = c.h.beat(c.request())
	}
}

// consumerState is what the log determines of a group of the new protocol.
func consumerState(c *Groups) string {
	var out []string
	for _, s := range c.all() {
		s.mu.Lock()
		for _, name := range slices.Sorted(maps.Keys(s.groups)) {
			k := s.groups[name].consumer
			if k == nil {
				continue
			}
			out = append(out, fmt.Sprint(name, k.epoch, k.assignmentEpoch, k.hash, k.changedAt, k.held, k.static, len(k.owners)))
			for _, m := range k.sortedMembers() {
				h := m.at()
				out = append(out, fmt.Sprintf("%s %x %d %d %d %v %v target %v", m.id, m.says.appendTo(nil), h.epoch, h.previous, h.state, h.owned.sorted(), h.revoking.sorted(), k.target[m.id].sorted()))
			}
			for p, owner := range k.owners {
				m := k.members[owner]
				_, owned := m.at().owned[p]
				if _, revoking := m.at().revoking[p]; !owned && !revoking {
					out = append(out, fmt.Sprintf("%v is %s's, who does not know of it", p, owner))
				}
			}
		}
		s.mu.Unlock()
	}
	return strings.Join(out, "\n")
}

// Whatever members, clocks, topics, failing appends and elections do: no partition is consumed by two members of the new protocol at once,
// epochs never go back, what the coordinator has is what its log says, and once the trouble is over every partition is
// consumed by somebody.
func TestConsumerGroupsProperty(t *testing.T) {
	stable := 0
	defer func() {
		t.Logf("%d groups came to rest", stable)
		if stable < 5 && !testing.Short() {
			t.Errorf("only %d groups came to rest: this test tests nothing", stable)
		}
	}()
	rapid.Check(t, func(t *rapid.T) {
		h, topics := newConsumerHarness(t, GroupConfig{ConsumerSession: 10 * time.Second}, "t", "u")
		sizes := map[string]int{"t": 3, "u": 3}
		var clients []*propClient
		for i := range 7 {
			c := &propClient{consumer: *h.consumer(fmt.Sprint("m", i), "t"), classic: i >= 5}
			switch i {
			case 0:
				c.slow = 2
			case 1:
				s := "static"
				c.instance = &s
			case 2:
				c.topics = []string{"t", "u"}
			case 3:
				c.topics, c.regex = nil, "[tu]"
			case 4:
				c.topics, c.assignor = []string{"u"}, assignorRange
			}
			clients = append(clients, c)
		}
		ids := len(clients)
		var epoch, assignmentEpoch int32
		check := func() {
			for _, c := range clients {
				c.settleAnswers(t, topics.im)
			}
			s, err := h.c.enter("g")
			if err != nil {
				t.Fatal(err)
			}
			defer s.unlock()
			g := s.group("g")
			if g == nil || g.consumer == nil {
				return
			}
			k := g.consumer
			if k.epoch < epoch || k.assignmentEpoch < assignmentEpoch && k.assignmentEpoch != 0 || k.assignmentEpoch > k.epoch {
				t.Fatalf("epochs %d and %d after %d and %d", k.epoch, k.assignmentEpoch, epoch, assignmentEpoch)
			}
			epoch, assignmentEpoch = k.epoch, k.assignmentEpoch
			users := make(map[partID]string)
			for _, c := range clients {
				id := c.id
				if c.classic {
					id = c.cid
				}
				// A client that was removed consumes until it hears of it, as everywhere; its next heartbeat is refused.
				m := k.members[id]
				if m == nil || c.dead || (m.says.classic != nil) != c.classic || m.at().epoch == joinEpoch {
					continue
				}
				for p := range c.owned {
					if other, ok := users[p]; ok {
						t.Fatalf("%v is consumed by %s and %s", p, other, id)
					}
					users[p] = id
					_, owned := m.at().owned[p]
					if _, revoking := m.at().revoking[p]; !owned && !revoking && !c.classic {
						t.Fatalf("%s consumes %v, which the coordinator believes to be free", id, p)
					}
				}
			}
		}
		pick := rapid.IntRange(0, len(clients)-1)
		any := func(t *rapid.T) *propClient { return clients[pick.Draw(t, "client")] }
		reset := func(c *propClient) {
			c.pending, c.join, c.sync, c.cid, c.gen = nil, nil, nil, "", 0
			c.epoch, c.owned, c.next, c.told, c.dead = joinEpoch, partSet{}, nil, true, false
		}
		t.Repeat(map[string]func(*rapid.T){
			"speak": func(t *rapid.T) {
				c := any(t)
				if !c.dead {
					c.speak()
				}
			},
			"all speak": func(*rapid.T) {
				for _, c := range clients {
					if !c.dead {
						c.speak()
						check()
					}
				}
			},
			"lose the answer": func(t *rapid.T) {
				if c := any(t); !c.dead && !c.classic {
					c.pending = nil
					h.beat(c.request())
					c.told = true
				}
			},
			"die": func(t *rapid.T) {
				c := any(t)
				c.dead = true
				c.pending, c.join, c.sync = nil, nil, nil
			},
			"restart": func(t *rapid.T) {
				c := any(t)
				if c.instance == nil {
					c.id = fmt.Sprint("m", ids)
					ids++
				}
				reset(c)
			},
			"leave": func(t *rapid.T) {
				c := any(t)
				if c.dead || c.classic || c.epoch <= 0 || c.pending != nil {
					return
				}
				r := &ConsumerHeartbeatRequest{Group: "g", MemberID: c.id, Epoch: leaveEpoch, OwnID: true}
				if c.instance != nil && rapid.Bool().Draw(t, "comes back") {
					r.Epoch = leaveStaticEpoch
				}
				h.beat(r)
				reset(c)
				c.dead = true
			},
			"subscribe": func(t *rapid.T) {
				c := any(t)
				if !c.classic {
					c.topics, c.told = rapid.SampledFrom([][]string{{"t"}, {"u"}, {"t", "u"}, {"nowhere"}}).Draw(t, "to"), true
				}
			},
			"grow": func(t *rapid.T) {
				name := rapid.SampledFrom([]string{"t", "u"}).Draw(t, "topic")
				if sizes[name] < 9 {
					sizes[name]++
					topics.set(name, sizes[name])
				}
			},
			"delete a topic": func(t *rapid.T) {
				name := rapid.SampledFrom([]string{"t", "u"}).Draw(t, "topic")
				topics.set(name, 0)
				if rapid.Bool().Draw(t, "make it anew") {
					sizes[name] = 2
					topics.set(name, 2)
				} else {
					sizes[name] = 0
				}
			},
			"hold":       func(*rapid.T) { h.log.waitForCommit() },
			"commit all": func(*rapid.T) { h.log.commit() },
			"failing": func(t *rapid.T) {
				h.log.fail(rapid.SampledFrom([]error{nil, nil, nil, ErrCoordinatorUnavailable}).Draw(t, "with"))
			},
			"time": func(t *rapid.T) {
				h.advance(time.Duration(rapid.IntRange(1, 4).Draw(t, "seconds")) * time.Second)
			},
			"elect": func(t *rapid.T) {
				if rapid.Bool().Draw(t, "before the commit") {
					old := h.log
					h.move()
					old.commit() // what was on its way is lost
				} else {
					h.log.commit()
					h.move()
				}
			},
			"": func(t *rapid.T) {
				check()
				h.log.mu.Lock()
				held := len(h.log.held)
				h.log.mu.Unlock()
				if held > 0 {
					return
				}
				live := consumerState(h.c)
				for _, log := range []*memoryLog{h.log, h.log.compacted()} {
					other := NewGroups(h.cfg)
					other.Lead(0, log.epoch, &epochLog{log, log.epoch})
					was := h.c
					h.c = other
					h.loaded()
					h.c = was
					if again := consumerState(other); live != again {
						t.Fatalf("what the coordinator has is not what the log says (compacted: %v):\n%s\n\n%s", log != h.log, live, again)
					}
					_ = other.Close()
				}
			},
		})
		// The trouble is over.
		h.log.fail(nil)
		h.log.commit()
		for range 60 {
			h.advance(2 * time.Second)
			for _, c := range clients {
				if !c.dead {
					if c.pending == nil && c.next == nil {
						c.told = true
					}
					c.speak()
					check()
				}
			}
		}
		d, err := h.c.DescribeConsumer("g")
		if err != nil || len(d.Members) == 0 {
			return // all have gone, or only those of the classic protocol are left: TestGroupsProperty's business
		}
		if d.State != "Stable" {
			t.Fatalf("the group does not come to rest: %+v", d)
		}
		used, wanted := partSet{}, map[string]bool{}
		for _, c := range clients {
			if c.dead {
				continue
			}
			for p := range c.owned {
				if topic := topics.im.TopicByID(p.topic); topic != nil {
					used[p] = 0
				}
			}
			for _, name := range c.topics {
				wanted[name] = true
			}
			if c.regex != "" {
				wanted["t"], wanted["u"] = true, true
			}
		}
		total := 0
		for name := range wanted {
			total += sizes[name]
		}
		if len(used) != total {
			t.Fatalf("%d of %d partitions are consumed: %+v", len(used), total, d)
		}
		stable++
	})
}

package coordinator

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
	"pgregory.net/rapid"
)

func TestOffsetsOfMembers(t *testing.T) {
	h := newGroupHarness(t, GroupConfig{})
	h.wantOffsets("g", -1, -1) // an unknown group has none
	ids, gen := h.stable(2)
	h.want(h.commit(commitOf("g", ids[1], gen, 10, 20)).get(), nil)
	h.wantOffsets("g", 10, 20, -1)
	h.want(h.commit(commitOf("g", ids[1], gen-1, 1)).get(), ErrIllegalGeneration)
	h.want(h.commit(commitOf("g", "stranger", gen, 1)).get(), ErrUnknownMember)
	h.want(h.commit(commitOf("g", "", -1, 1)).get(), ErrUnknownMember) // the group has members
	h.want(h.commit(commitOf("new", "x", 3, 1)).get(), ErrIllegalGeneration)
	h.wantOffsets("g", 10, 20)

	// During a rebalance what was done in the old generation may still be committed, until the new one begins.
	h.join(request(""))
	h.want(h.commit(commitOf("g", ids[1], gen, 11)).get(), nil)
	h.join(request(ids[0]))
	h.join(request(ids[1]))
	h.want(h.commit(commitOf("g", ids[1], gen, 12)).get(), ErrIllegalGeneration)
	h.want(h.commit(commitOf("g", ids[1], gen+1, 12)).get(), ErrRebalanceInProgress)
	h.wantOffsets("g", 11, 20)
}

func TestOffsetsOfSimpleConsumers(t *testing.T) {
	h := newGroupHarness(t, GroupConfig{})
	r := commitOf("g", "", -1, 5, 6, 7)
	r.Offsets[1].Metadata = strings.Repeat("x", 4097)
	r.Offsets[2].Metadata = strings.Repeat("x", 4096)
	var errs []error
	h.c.Commit(r, func(e []error, err error) { errs = append(e, err) })
	if !slices.Equal(errs, []error{nil, ErrOffsetMetadataTooLarge, nil, nil}) {
		t.Fatal(errs)
	}
	h.move()
	h.wantOffsets("g", 5, -1, 7)
	var all []CommittedOffset
	h.c.FetchOffsets("g", nil, true, func(o []CommittedOffset, err error) { all = o; h.want(err, nil) })
	slices.SortFunc(all, func(a, b CommittedOffset) int { return int(a.Partition - b.Partition) })
	if len(all) != 2 || all[0].LeaderEpoch != 3 || all[0].Metadata != "note" || len(all[1].Metadata) != 4096 || all[0].TopicID != (TopicID{7}) {
		t.Fatalf("%+v", all)
	}
}

// A commit is visible when it is committed, and not before; a coordinator that was deposed neither commits nor answers.
func TestOffsetsOfDeposedCoordinator(t *testing.T) {
	h := newGroupHarness(t, GroupConfig{})
	ids, gen := h.stable(1)
	h.want(h.commit(commitOf("g", ids[0], gen, 1)).get(), nil)
	h.log.waitForCommit()
	late := h.commit(commitOf("g", ids[0], gen, 2))
	h.wantOffsets("g", 1)
	if !late.waits() {
		t.Fatal("acknowledged before it was committed")
	}
	// Another coordinator takes over and acknowledges something; the first one does not know of it yet.
	old := h.c
	h.log.depose()
	h.log.commit()
	h.want(late.get(), ErrNotCoordinator)
	h.c = NewGroups(h.cfg)
	h.c.Lead(0, h.log.epoch, &epochLog{h.log, h.log.epoch})
	h.loaded()
	h.wantOffsets("g", 1)
	h.want(h.commit(commitOf("g", ids[0], gen, 3)).get(), nil)
	next := h.c
	h.c = old
	h.want(h.commit(commitOf("g", ids[0], gen, 4)).get(), ErrNotCoordinator)
	var err error
	old.FetchOffsets("g", []TopicPartition{{"t", 0}}, false, func(_ []CommittedOffset, e error) { err = e })
	h.want(err, ErrNotCoordinator)
	h.c = next
	h.wantOffsets("g", 3)
	_ = old.Close()
	h.c.TopicsDeleted(map[TopicID]bool{{7}: true})
	h.wantOffsets("g", -1)
}

// A fetch that waits for its confirmation while the coordinator resigns ends with an error.
func TestOffsetsFetchOverResignation(t *testing.T) {
	h := newGroupHarness(t, GroupConfig{})
	h.want(h.commit(commitOf("g", "", -1, 1)).get(), nil)
	h.log.holdLin = true
	a := newAnswer[error](t)
	h.c.FetchOffsets("g", []TopicPartition{{"t", 0}}, false, func(_ []CommittedOffset, err error) { a.set(err) })
	if !a.waits() {
		t.Fatal("answered without a confirmation")
	}
	h.c.Resign(0, h.log.epoch)
	for _, fn := range h.log.linear {
		fn()
	}
	h.want(a.get(), ErrNotCoordinator)
}

func TestGroupMoves(t *testing.T) {
	h := newGroupHarness(t, GroupConfig{})
	ids, gen := h.stable(3)
	h.want(h.commit(commitOf("g", ids[2], gen, 42)).get(), nil)
	joins := h.join(request("")) // waits, and is not stored
	h.log.waitForCommit()
	stuck := h.commit(commitOf("g", ids[2], gen, 43))
	h.log.mu.Lock()
	block := make(chan struct{})
	h.log.block = block
	h.log.mu.Unlock()
	h.log.depose()
	h.c.Lead(0, h.log.epoch, &epochLog{h.log, h.log.epoch}) // the same broker again
	h.want(joins.get().Err, ErrNotCoordinator)
	h.want(h.heartbeat(ids[0], gen), ErrCoordinatorLoading)
	h.want(h.join(request("")).get().Err, ErrCoordinatorLoading)
	h.want(h.sync(ids[0], gen, nil).get().Err, ErrCoordinatorLoading)
	h.want(h.commit(commitOf("g", ids[0], gen, 1)).get(), ErrCoordinatorLoading)
	if _, err := h.c.List(); err != ErrCoordinatorLoading {
		t.Fatal(err)
	}
	h.log.mu.Lock()
	h.log.block = nil
	h.log.mu.Unlock()
	close(block)
	h.loaded()
	h.log.commit()
	h.want(stuck.get(), ErrNotCoordinator)

	// Everything that was acknowledged is there; the members go on as if nothing had been.
	h.wantState("Stable")
	h.wantOffsets("g", 42)
	for _, id := range ids {
		h.want(h.heartbeat(id, gen), nil)
		if s := h.sync(id, gen, nil).get(); string(s.Assignment) != "part of "+id {
			t.Fatalf("%s has %q", id, s.Assignment)
		}
	}
	if r := h.join(request(ids[1])).get(); r.LeaderID != ids[0] || r.Generation != gen {
		t.Fatalf("%+v", r)
	}
	// Sessions began with the load.
	h.advance(9 * time.Second)
	h.want(h.heartbeat(ids[0], gen), nil)
	h.advance(time.Second)
	h.want(h.heartbeat(ids[1], gen), ErrUnknownMember)

	h.c.Resign(0, h.log.epoch-1) // late news of an earlier epoch
	h.want(h.heartbeat(ids[0], gen), ErrRebalanceInProgress)
	h.c.Resign(0, h.log.epoch)
	h.want(h.heartbeat(ids[0], gen), ErrNotCoordinator)
	if n := h.c.timers.count(); n != 0 {
		t.Fatalf("%d timers are left", n)
	}
}

func TestOffsetsExpire(t *testing.T) {
	h := newGroupHarness(t, GroupConfig{})
	day := 24 * time.Hour
	long := commitOf("simple", "", -1, 1)
	h.want(h.commit(long).get(), nil)
	short := commitOf("simple", "", -1, 0, 2)
	short.Offsets = short.Offsets[1:]
	short.Retention = time.Hour
	h.want(h.commit(short).get(), nil)
	h.wantOffsets("simple", 1, 2)
	h.advance(59 * time.Minute)
	h.wantOffsets("simple", 1, 2)
	h.advance(21 * time.Minute)
	h.wantOffsets("simple", 1, -1)

	// While a group has members its offsets stay, however old; then the time runs from when it became empty.
	ids, gen := h.stable(1)
	h.want(h.commit(commitOf("g", ids[0], gen, 9)).get(), nil)
	for range 8 * 24 * 400 {
		h.now = h.now.Add(9 * time.Second)
		h.want(h.heartbeat(ids[0], gen), nil)
	}
	h.advance(0)
	h.wantOffsets("g", 9)
	h.wantOffsets("simple", -1)
	h.want(h.leave(ids[0]), nil)
	h.move()
	h.advance(7*day - time.Minute)
	h.wantOffsets("g", 9)
	h.advance(11 * time.Minute)
	h.wantOffsets("g", -1)
	if list, _ := h.c.List(); len(list) != 0 {
		t.Fatalf("left: %v", list)
	}
	h.move()
	if list, _ := h.c.List(); len(list) != 0 {
		t.Fatalf("came back: %v", list)
	}
}

// A tombstone must not come after a commit that was on its way when it was decided.
func TestOffsetsExpiryBesideCommit(t *testing.T) {
	h := newGroupHarness(t, GroupConfig{})
	h.want(h.commit(commitOf("g", "", -1, 1)).get(), nil)
	h.now = h.now.Add(8 * 24 * time.Hour)
	h.log.waitForCommit()
	a := h.commit(commitOf("g", "", -1, 2))
	h.advance(0)
	h.log.commit()
	h.want(a.get(), nil)
	h.wantOffsets("g", 2)
	h.move()
	h.wantOffsets("g", 2)
}

func TestDeleteGroupsAndOffsets(t *testing.T) {
	h := newGroupHarness(t, GroupConfig{})
	remove := func(group string) error {
		a := newAnswer[error](t)
		h.c.DeleteGroup(group, a.set)
		return a.get()
	}
	h.want(remove("g"), ErrGroupNotFound)
	ids, gen := h.stable(1)
	h.want(h.commit(commitOf("g", ids[0], gen, 1, 2, 3)).get(), nil)
	h.want(remove("g"), ErrGroupNotEmpty)
	drop := func(parts ...TopicPartition) []error {
		var out []error
		h.c.DeleteOffsets("g", parts, func(errs []error, err error) { out = append(errs, err) })
		return out
	}
	if errs := drop(TopicPartition{"t", 0}); errs[0] != ErrGroupNotEmpty { // its subscription cannot be read
		t.Fatal(errs)
	}
	sub := request(ids[0])
	m := kmsg.NewConsumerMemberMetadata()
	m.Topics = []string{"t"}
	sub.Protocols[0].Metadata = m.AppendTo(nil)
	gen = h.join(sub).get().Generation
	h.sync(ids[0], gen, nil).get()
	if errs := drop(TopicPartition{"t", 0}, TopicPartition{"u", 0}); errs[0] != ErrTopicSubscribed || errs[1] != nil || errs[2] != nil {
		t.Fatal(errs)
	}
	h.want(h.leave(ids[0]), nil)
	if errs := drop(TopicPartition{"t", 1}, TopicPartition{"t", 9}); errs[0] != nil || errs[1] != nil || errs[2] != nil {
		t.Fatal(errs)
	}
	h.wantOffsets("g", 1, -1, 3)
	h.move()
	h.wantOffsets("g", 1, -1, 3)
	h.log.waitForCommit()
	late := h.commit(commitOf("g", "", -1, 7, 7, 7, 7))
	h.want(remove("g"), ErrGroupNotEmpty) // or what is on its way would be left
	h.log.commit()
	h.want(late.get(), nil)
	h.want(remove("g"), nil)
	h.wantOffsets("g", -1, -1, -1)
	h.move()
	h.wantOffsets("g", -1, -1, -1)
	if list, _ := h.c.List(); len(list) != 0 {
		t.Fatalf("left: %v", list)
	}
	// More tombstones than one batch has.
	var big CommitRequest
	big.Group, big.Generation, big.Retention = "big", -1, -1
	for p := range maxTombstones + 5 {
		big.Offsets = append(big.Offsets, CommittedOffset{Topic: "t", Partition: int32(p), Offset: 1})
	}
	h.want(h.commit(&big).get(), nil)
	h.want(remove("big"), nil)
	h.move()
	if list, _ := h.c.List(); len(list) != 0 {
		t.Fatalf("left: %v", list)
	}
}

// Whatever members, clocks, failing appends and elections do: what the log says is what the coordinator has, an acknowledged
// commit is never older afterwards, every request is answered once at the most, and generations have one leader.
func TestGroupsProperty(t *testing.T) {
	synced := 0
	defer func() {
		t.Logf("%d members came to a generation", synced)
		// A short run draws a fifth: how far that comes is left to chance.
		if synced < 10 && !testing.Short() {
			t.Errorf("only %d members came as far as a generation: this test tests nothing", synced)
		}
	}()
	rapid.Check(t, func(t *rapid.T) {
		h := newGroupHarness(t, GroupConfig{InitialRebalanceDelay: rapid.SampledFrom([]time.Duration{-1, 3 * time.Second}).Draw(t, "delay")})
		type client struct {
			instance   *string
			id         string
			generation int32
			join       *answer[JoinResult]
			sync       *answer[SyncResult]
			leads      bool
			leader     string
			syncs      int32 // the generation of sync
			members    []JoinedMember
		}
		clients := make([]*client, 4)
		for i := range clients {
			clients[i] = &client{}
			if i == 3 {
				s := "static"
				clients[i].instance = &s
			}
		}
		acked := map[int32]int64{}
		type pendingCommit struct {
			a      *answer[error]
			offset int64
			part   int32
		}
		var commits []pendingCommit
		leaders := map[int32]string{}
		next := int64(0)
		settle := func() {
			for _, c := range clients {
				if c.join != nil && !c.join.waits() {
					r := c.join.get()
					c.join = nil
					c.id = r.MemberID
					switch {
					case r.Err == nil:
						c.generation, c.leads, c.members = r.Generation, r.LeaderID == r.MemberID && !r.SkipAssignment, r.Members
						c.leader = r.LeaderID
					case errors.Is(r.Err, ErrUnknownMember), errors.Is(r.Err, ErrFencedInstance):
						c.id = ""
					}
				}
				if c.sync != nil && !c.sync.waits() {
					// A generation that was stored, and only such a one lets members sync, has one leader for ever (the
					// static one may come back under another id).
					if c.sync.get().Err == nil && !strings.HasPrefix(c.leader, "static") {
						if old := leaders[c.syncs]; old != "" && old != c.leader {
							t.Fatalf("generation %d is led by %s and %s", c.syncs, old, c.leader)
						}
						leaders[c.syncs] = c.leader
						synced++
					}
					c.sync = nil
				}
			}
			commits = slices.DeleteFunc(commits, func(p pendingCommit) bool {
				if p.a.waits() {
					return false
				}
				if p.a.get() == nil {
					acked[p.part] = max(acked[p.part], p.offset)
				}
				return true
			})
		}
		pick := rapid.IntRange(0, len(clients)-1)
		join := func(t *rapid.T, c *client) {
			if c.join != nil {
				return
			}
			r := request(c.id)
			r.Instance, r.RequireID, r.Skips = c.instance, rapid.Bool().Draw(t, "v4"), true
			if rapid.Bool().Draw(t, "other topics") {
				r.Protocols[0].Metadata = []byte("other")
			}
			c.join = h.join(r)
		}
		sync := func(c *client) {
			if c.sync != nil || c.generation == 0 {
				return
			}
			var with map[string]string
			if c.leads {
				with = map[string]string{}
				for _, m := range c.members {
					with[m.ID] = "to " + m.ID
				}
			}
			c.syncs = c.generation
			c.sync = h.sync(c.id, c.generation, with)
		}
		seldom := func(t *rapid.T) bool { return rapid.IntRange(0, 3).Draw(t, "dice") == 0 }
		t.Repeat(map[string]func(*rapid.T){
			"join": func(t *rapid.T) { join(t, clients[pick.Draw(t, "client")]) },
			"sync": func(t *rapid.T) { sync(clients[pick.Draw(t, "client")]) },
			"all join": func(t *rapid.T) {
				for range 2 { // once for an id
					for _, c := range clients {
						join(t, c)
					}
					settle()
				}
				h.advance(10 * time.Second)
				settle()
			},
			"all sync": func(*rapid.T) {
				for _, c := range clients {
					sync(c)
				}
			},
			"restart": func(t *rapid.T) {
				c := clients[pick.Draw(t, "client")]
				c.id, c.join, c.sync, c.generation = "", nil, nil, 0
			},
			"heartbeat": func(t *rapid.T) {
				c := clients[pick.Draw(t, "client")]
				if err := h.heartbeat(c.id, c.generation); errors.Is(err, ErrUnknownMember) {
					c.id = ""
				}
			},
			"leave": func(t *rapid.T) {
				c := clients[pick.Draw(t, "client")]
				_ = h.leave(c.id)
			},
			"commit": func(t *rapid.T) {
				c := clients[pick.Draw(t, "client")]
				next++
				p := rapid.Int32Range(0, 2).Draw(t, "partition")
				r := commitOf("g", c.id, c.generation, next)
				r.Offsets[0].Partition = p
				commits = append(commits, pendingCommit{h.commit(r), next, p})
			},
			"simple commit": func(t *rapid.T) {
				next++
				commits = append(commits, pendingCommit{h.commit(commitOf("g", "", -1, next)), next, 0})
			},
			"hold":       func(*rapid.T) { h.log.waitForCommit() },
			"commit all": func(*rapid.T) { h.log.commit() },
			"failing": func(t *rapid.T) {
				h.log.fail(rapid.SampledFrom([]error{nil, nil, nil, nil, ErrCoordinatorUnavailable}).Draw(t, "with"))
			},
			"time": func(t *rapid.T) {
				h.advance(time.Duration(rapid.IntRange(1, 12).Draw(t, "seconds")) * time.Second)
			},
			"elect": func(t *rapid.T) {
				if !seldom(t) {
					return
				}
				h.log.commit() // or lose: what was held is of the old epoch
				h.move()
			},
			"depose": func(t *rapid.T) {
				if !seldom(t) {
					return
				}
				old := h.log
				h.move()
				old.commit() // what was on its way is lost
			},
			"": func(t *rapid.T) {
				settle()
				h.log.mu.Lock()
				held := len(h.log.held)
				h.log.mu.Unlock()
				if held > 0 {
					return // the log is behind what was decided, and so is what is acknowledged
				}
				for p, o := range h.fetch("g", 3) {
					if last, ok := acked[int32(p)]; ok && o < last {
						t.Fatalf("partition %d: %d was acknowledged, and now it is %d", p, last, o)
					}
				}
				live := storedState(h.c)
				was := h.c
				for _, log := range []*memoryLog{h.log, h.log.compacted()} {
					other := NewGroups(h.cfg)
					other.Lead(0, log.epoch, &epochLog{log, log.epoch})
					h.c = other
					h.loaded()
					h.c = was
					if err := sameStored(live, storedState(other)); err != nil {
						t.Fatalf("what the coordinator has is not what the log says (compacted: %v): %v", log != h.log, err)
					}
					_ = other.Close()
				}
				for _, s := range was.all() {
					for _, g := range s.groups {
						checkGroup(t, g)
					}
				}
			},
		})
	})
}

// checkGroup holds a group's sums against its members.
func checkGroup(t fataler, g *group) {
	held, joined, support := 0, 0, map[string]int{}
	for _, m := range g.order {
		held += m.size()
		if m.join != nil {
			joined++
		}
		for _, p := range m.protocols {
			support[p.Name]++
		}
		if g.members[m.id] != m || m.timer.index == 0 {
			t.Fatalf("member %s is lost or has no timer", m.id)
		}
		if m.instance != nil && g.static[*m.instance] != m.id {
			t.Fatalf("instance %s is %s and %s", *m.instance, m.id, g.static[*m.instance])
		}
	}
	if held != g.held || joined != g.joined || !maps.Equal(support, g.support) || len(g.members) != len(g.order) {
		t.Fatalf("sums are off: held %d %d, joined %d %d, support %v %v", held, g.held, joined, g.joined, support, g.support)
	}
	switch {
	case (g.state == groupEmpty) != (len(g.order) == 0) && g.state != groupPreparing:
		t.Fatalf("a group of %d is %v", len(g.order), g.state)
	case len(g.order) > 0 && g.members[g.leader] == nil:
		t.Fatalf("the leader %s is no member", g.leader)
	case g.state == groupPreparing && g.joinTimer.index == 0, g.state == groupCompleting && g.syncTimer.index == 0:
		t.Fatalf("a group is %v without a time-out", g.state)
	}
}

// The last member leaves while its generation is on its way to the log: the log must end with an empty group.
func TestGroupEmptiedWhileStoring(t *testing.T) {
	h := newGroupHarness(t, GroupConfig{})
	id := h.join(request("")).get().MemberID
	h.log.waitForCommit()
	s := h.sync(id, 1, nil)
	h.want(h.leave(id), nil)
	h.want(s.get().Err, ErrUnknownMember)
	h.wantState("Empty")
	h.log.commit()
	h.wantState("Empty")
	h.move()
	h.wantState("Empty")
	if r := h.join(request("")).get(); r.Generation != 3 {
		t.Fatalf("the generations begin anew: %+v", r)
	}
}

// A commit that comes through after its coordinator resigned: it is in the log, and its client is told to ask around.
func TestCommitAfterResignation(t *testing.T) {
	h := newGroupHarness(t, GroupConfig{})
	h.log.waitForCommit()
	a := h.commit(commitOf("g", "", -1, 7))
	h.c.Resign(0, h.log.epoch)
	h.log.commit()
	h.want(a.get(), ErrNotCoordinator)
	h.move()
	h.wantOffsets("g", 7)
}

// KIP-211: what a stable group committed for a topic that none of its members reads any more expires by the commit's age.
func TestOffsetsOfForsakenTopicsExpire(t *testing.T) {
	h := newGroupHarness(t, GroupConfig{})
	wants := func(topics ...string) []GroupProtocol {
		m := kmsg.NewConsumerMemberMetadata()
		m.Topics = topics
		return []GroupProtocol{{Name: "range", Metadata: m.AppendTo(nil)}}
	}
	r := request("")
	r.Protocols = wants("t", "u")
	id := h.join(r).get().MemberID
	h.sync(id, 1, nil).get()
	both := commitOf("g", id, 1, 1)
	both.Offsets = append(both.Offsets, CommittedOffset{Topic: "u", Offset: 5, LeaderEpoch: -1})
	h.want(h.commit(both).get(), nil)
	r = request(id)
	r.Protocols = wants("t")
	gen := h.join(r).get().Generation
	sweep := func() {
		for _, s := range h.c.all() {
			s.locked(s.expire)
		}
	}
	has := func(topic string) bool {
		s, err := h.c.enter("g")
		h.want(err, nil)
		defer s.unlock()
		return s.groups["g"].offsets[topic][0] != nil
	}
	h.now = h.now.Add(8 * 24 * time.Hour)
	sweep()
	if !has("t") || !has("u") {
		t.Fatal("an offset expired while the group was not stable")
	}
	h.want(h.sync(id, gen, nil).get().Err, nil)
	sweep()
	if !has("t") || has("u") {
		t.Fatalf("subscribed: %v, forsaken: %v", has("t"), has("u"))
	}
	h.move()
	if !has("t") || has("u") {
		t.Fatal("the log says otherwise")
	}
}

// Consumers that are members of nothing may commit under an empty group id; nobody may join it.
func TestGroupWithoutName(t *testing.T) {
	h := newGroupHarness(t, GroupConfig{})
	h.want(h.commit(commitOf("", "", -1, 3)).get(), nil)
	h.move()
	h.wantOffsets("", 3)
	r := request("")
	r.Group = ""
	h.want(h.join(r).get().Err, ErrInvalidGroupID)
	h.want(h.c.Heartbeat("", "x", nil, 1), ErrInvalidGroupID)
	if h.state("") != "Empty" {
		t.Fatal(h.state(""))
	}
	a := newAnswer[error](t)
	h.c.DeleteGroup("", a.set)
	h.want(a.get(), nil)
	h.move()
	h.wantOffsets("", -1)
}

package coordinator

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
)

func TestConsumerGroup(t *testing.T) {
	h, topics := newConsumerHarness(t, GroupConfig{}, "t")
	a, b := h.consumer("a", "t"), h.consumer("b", "t")
	a.mustBeat()
	h.wantOwned(a, "t0 t1 t2")
	if d := h.describe("g"); d.State != "Stable" || d.Epoch != 1 || d.AssignmentEpoch != 1 || d.Assignor != "uniform" || len(d.Members) != 1 {
		t.Fatalf("%+v", d)
	}
	// The second member waits for what the first one has to give back, and the first one keeps it until it is told.
	b.mustBeat()
	h.wantOwned(b, "")
	if b.epoch != 2 || h.describe("g").State != "Reconciling" {
		t.Fatalf("epoch %d, %+v", b.epoch, h.describe("g"))
	}
	b.mustBeat()
	h.wantOwned(b, "")
	a.mustBeat() // is told to give t2 back
	h.wantOwned(a, "t0 t1")
	if a.epoch != 1 {
		t.Fatalf("a is in epoch %d before it has given anything back", a.epoch)
	}
	b.mustBeat()
	h.wantOwned(b, "") // not acknowledged yet
	a.mustBeat()
	if a.epoch != 2 {
		t.Fatalf("a is in epoch %d", a.epoch)
	}
	b.mustBeat()
	h.wantOwned(b, "t2")
	h.settle(a, b)
	if d := h.describe("g"); d.State != "Stable" || d.Members[0].Assignment[0].Partitions[1] != 1 || d.Members[0].Target[0].Partitions[1] != 1 {
		t.Fatalf("%+v", d)
	}
	// Nothing to say, nothing to write.
	h.log.mu.Lock()
	batches := len(h.log.batches)
	h.log.mu.Unlock()
	a.mustBeat()
	b.mustBeat()
	if len(h.log.batches) != batches {
		t.Fatal("a heartbeat without news was written to the log")
	}
	// Another coordinator goes on where this one was.
	h.move()
	a.mustBeat()
	b.mustBeat()
	h.wantShared(3, a, b)

	topics.set("t", 5)
	h.settle(a, b)
	h.wantShared(5, a, b)
	epoch := a.epoch
	r := h.beat(&ConsumerHeartbeatRequest{Group: "g", MemberID: "b", Epoch: leaveEpoch, OwnID: true}).get()
	if r.Err != nil || r.Epoch != leaveEpoch {
		t.Fatalf("%+v", r)
	}
	h.settle(a)
	h.wantOwned(a, "t0 t1 t2 t3 t4")
	if a.epoch != epoch+1 {
		t.Fatalf("epoch %d after %d", a.epoch, epoch)
	}
	// A topic that is deleted is given back, and nobody waits for it.
	topics.set("t", 0)
	h.settle(a)
	h.wantOwned(a, "")
	h.want(h.beat(&ConsumerHeartbeatRequest{Group: "g", MemberID: "a", Epoch: leaveEpoch, OwnID: true}).get().Err, nil)
	if d := h.describe("g"); d.State != "Empty" {
		t.Fatalf("%+v", d)
	}
	if list, _ := h.c.List(); !slices.Equal(list, []GroupSummary{{"g", "consumer", "Empty", true}}) {
		t.Fatalf("%+v", list)
	}
	del := newAnswer[error](t)
	h.c.DeleteGroup("g", del.set)
	h.want(del.get(), nil)
	h.move()
	if list, _ := h.c.List(); len(list) != 0 {
		t.Fatalf("left: %+v", list)
	}
}

func TestConsumerRefusals(t *testing.T) {
	h, _ := newConsumerHarness(t, GroupConfig{ConsumerMaxSize: 2}, "t")
	str := func(s string) *string { return &s }
	for _, tc := range []struct {
		name   string
		change func(*ConsumerHeartbeatRequest)
		want   error
	}{
		{"no group", func(r *ConsumerHeartbeatRequest) { r.Group = "" }, ErrInvalidGroupID},
		{"no id", func(r *ConsumerHeartbeatRequest) { r.MemberID = "" }, ErrInvalidRequest},
		{"long id", func(r *ConsumerHeartbeatRequest) { r.MemberID = strings.Repeat("x", maxConsumerMemberID+1) }, ErrInvalidRequest},
		{"empty instance", func(r *ConsumerHeartbeatRequest) { r.Instance = str("") }, ErrInvalidRequest},
		{"empty rack", func(r *ConsumerHeartbeatRequest) { r.Rack = str("") }, ErrInvalidRequest},
		{"no timeout", func(r *ConsumerHeartbeatRequest) { r.Rebalance = -1 }, ErrInvalidRequest},
		{"owned null", func(r *ConsumerHeartbeatRequest) { r.Owned = nil }, ErrInvalidRequest},
		{"owned", func(r *ConsumerHeartbeatRequest) { r.Owned = []TopicPartitions{{}} }, ErrInvalidRequest},
		{"no topics", func(r *ConsumerHeartbeatRequest) { r.Topics = nil }, ErrInvalidRequest},
		{"strange epoch", func(r *ConsumerHeartbeatRequest) { r.Epoch = -3 }, ErrInvalidRequest},
		{"assignor", func(r *ConsumerHeartbeatRequest) { r.Assignor = str("mine") }, ErrUnsupportedAssignor},
		{"regex", func(r *ConsumerHeartbeatRequest) { r.Regex = str("a)|(b") }, ErrInvalidRegex},
		{"complex regex", func(r *ConsumerHeartbeatRequest) { r.Regex = str("((a{100}){10}){10}") }, ErrInvalidRegex},
		{"long regex", func(r *ConsumerHeartbeatRequest) { r.Regex = str(strings.Repeat("a", maxRegex+1)) }, ErrInvalidRegex},
		{"unknown group", func(r *ConsumerHeartbeatRequest) { r.Epoch = 3 }, ErrGroupNotFound},
		{"leaves an unknown group", func(r *ConsumerHeartbeatRequest) { r.Epoch = leaveEpoch }, ErrGroupNotFound},
	} {
		r := h.consumer("a", "t").request()
		tc.change(r)
		if err := h.beat(r).get().Err; !errors.Is(err, tc.want) {
			t.Errorf("%s: %v, want %v", tc.name, err, tc.want)
		}
	}
	if list, err := h.c.List(); err != nil || len(list) != 0 {
		t.Fatalf("refused heartbeats left groups: %v, %v", list, err)
	}
	a, b, c := h.consumer("a", "t"), h.consumer("b", "t"), h.consumer("c", "t")
	a.mustBeat()
	b.mustBeat()
	h.want(c.beat(), ErrGroupFull)
	h.settle(a, b)
	r := a.request()
	r.Epoch++
	h.want(h.beat(r).get().Err, ErrFencedEpoch)
	r.Epoch, r.MemberID = 1, "stranger"
	h.want(h.beat(r).get().Err, ErrUnknownMember)

	// An old broker may take over a group as long as the feature is not there.
	off := newGroupHarness(t, GroupConfig{})
	h.want(off.beat(a.request()).get().Err, ErrProtocolDisabled)
	// Before v1 the coordinator makes the ids.
	q := h.consumer("", "t").request()
	q.Group, q.OwnID = "old", false
	if r := h.beat(q).get(); r.Err != nil || r.MemberID == "" {
		t.Fatalf("%+v", r)
	}
}

// A heartbeat of which the answer was lost is repeated with the epoch from before.
func TestConsumerLostAnswers(t *testing.T) {
	h, _ := newConsumerHarness(t, GroupConfig{}, "t")
	a, b := h.consumer("a", "t"), h.consumer("b", "t")
	// The first: the member is there, and comes again as new.
	h.beat(a.request()).get()
	a.mustBeat()
	h.wantOwned(a, "t0 t1 t2")
	if len(h.describe("g").Members) != 1 {
		t.Fatalf("%+v", h.describe("g"))
	}
	b.mustBeat()
	a.mustBeat()
	h.wantOwned(a, "t0 t1")
	// The one by which it hears of its new epoch.
	lost := a.request()
	if r := h.beat(lost).get(); r.Err != nil || r.Epoch != 2 {
		t.Fatalf("%+v", r)
	}
	if a.epoch != 1 {
		t.Fatal("the answer was not lost")
	}
	a.told = true
	a.mustBeat()
	if a.epoch != 2 {
		t.Fatalf("epoch %d", a.epoch)
	}
	h.wantOwned(a, "t0 t1")
	h.settle(a, b)
	// A zombie with the last epoch that owns more than it should, or does not say, is fenced.
	for _, owned := range [][]TopicPartitions{nil, {{Topic: h.cfg.Image().Topic("t").ID, Partitions: []int32{0, 2}}}} {
		r := a.request()
		r.Epoch, r.Owned = 1, owned
		h.want(h.beat(r).get().Err, ErrFencedEpoch)
	}
	// The same heartbeat any number of times is answered alike.
	a.told = true
	one, two := h.beat(a.request()).get(), h.beat(a.request()).get()
	if one.Epoch != two.Epoch || !sameParts(partsOf(one.Assignment), partsOf(two.Assignment)) {
		t.Fatalf("%+v and %+v", one, two)
	}
	// A member that begins anew under its old id loses nothing but what it may not have.
	a.epoch, a.owned = joinEpoch, partSet{}
	a.mustBeat()
	h.wantOwned(a, "t0 t1")
	h.settle(a, b)
	h.wantShared(3, a, b)
}

func TestConsumerTimeouts(t *testing.T) {
	h, _ := newConsumerHarness(t, GroupConfig{ConsumerSession: 10 * time.Second}, "t")
	a, b := h.consumer("a", "t"), h.consumer("b", "t")
	a.mustBeat()
	b.mustBeat()
	h.settle(a, b)
	// b falls silent.
	for range 3 {
		h.advance(4 * time.Second)
		a.mustBeat()
	}
	h.settle(a)
	h.wantOwned(a, "t0 t1 t2")
	h.want(b.beat(), ErrUnknownMember)
	// a is told to give something back, and heartbeats without ever doing it.
	b.mustBeat()
	for range 8 {
		r := a.request()
		r.Rebalance, r.Topics, r.Owned = -1, nil, nil
		if res := h.beat(r).get(); res.Err != nil {
			t.Fatal(res.Err)
		}
		b.mustBeat()
		h.wantOwned(b, "")
		h.advance(4 * time.Second)
	}
	h.want(a.beat(), ErrUnknownMember)
	h.settle(b)
	h.wantOwned(b, "t0 t1 t2")
	// A coordinator that begins with members that are gone finds out.
	h.move()
	h.advance(11 * time.Second)
	if d := h.describe("g"); d.State != "Empty" {
		t.Fatalf("%+v", d)
	}
	if n := h.c.timers.count(); n != 1 { // the sweep
		t.Fatalf("%d timers are left of an empty group", n)
	}
}

// A member has its whole rebalance time for each thing that it is to give back, also if it is told of the next when it acknowledges one.
func TestConsumerRevokesTwice(t *testing.T) {
	h, _ := newConsumerHarness(t, GroupConfig{}, "t")
	a, b, c := h.consumer("a", "t"), h.consumer("b", "t"), h.consumer("c", "t")
	a.mustBeat()
	b.mustBeat()
	a.slow = 1
	a.mustBeat() // is told to give t2 back
	h.advance(25 * time.Second)
	c.mustBeat()
	a.mustBeat()
	a.mustBeat() // has done so, and is told to give t1 back
	if h.wantOwned(a, "t0 t1"); a.next == nil {
		t.Fatalf("a is not told to give more back: %+v", h.describe("g"))
	}
	h.advance(10 * time.Second)
	h.settle(b, c, a)
	h.wantShared(3, a, b, c)
}

// Members that fall silent while so much waits for the log that there is no room for anything else are removed all the same.
func TestConsumerExpiresBehindFullQueue(t *testing.T) {
	h, _ := newConsumerHarness(t, GroupConfig{}, "t")
	a, b := h.consumer("a", "t"), h.consumer("b", "t")
	a.mustBeat()
	b.mustBeat()
	h.settle(a, b)
	h.log.waitForCommit()
	c := h.beat(h.consumer("c", "t").request())
	for range maxQueued {
		h.c.ConsumerHeartbeat(&ConsumerHeartbeatRequest{Group: "g", MemberID: "x", Epoch: 1, Rebalance: -1, OwnID: true}, func(ConsumerHeartbeatResult) {})
	}
	h.want(a.beat(), ErrCoordinatorUnavailable)
	h.advance(time.Minute)
	h.log.commit()
	h.want(c.get().Err, nil)
	h.advance(2 * expelRetry)
	if d := h.describe("g"); len(d.Members) != 1 || d.Members[0].ID != "c" {
		t.Fatalf("%+v", d)
	}
}

func TestConsumerStaticMembers(t *testing.T) {
	h, _ := newConsumerHarness(t, GroupConfig{}, "t")
	inst := "A"
	a, b := h.consumer("a", "t"), h.consumer("b", "t")
	a.instance = &inst
	a.mustBeat()
	b.mustBeat()
	h.settle(a, b)
	mine := a.owns()
	other := h.consumer("a2", "t")
	other.instance = &inst
	h.want(other.beat(), ErrUnreleasedInstance)
	r := a.request()
	r.MemberID = "x"
	h.want(h.beat(r).get().Err, ErrFencedInstance)
	// It leaves to come back: nobody gets its partitions, and the one that comes gets them without a rebalance.
	h.want(h.beat(&ConsumerHeartbeatRequest{Group: "g", MemberID: "a", Epoch: leaveStaticEpoch, OwnID: true}).get().Err, nil)
	epoch := b.epoch
	b.mustBeat()
	h.move()
	other.mustBeat()
	if other.owns() != mine || other.epoch != epoch {
		t.Fatalf("it came back in epoch %d with %q, before %q", other.epoch, other.owns(), mine)
	}
	h.settle(other, b)
	h.wantShared(3, other, b)
	h.want(a.beat(), ErrFencedInstance)
	// Under its old id too.
	h.want(h.beat(&ConsumerHeartbeatRequest{Group: "g", MemberID: "a2", Instance: &inst, Epoch: leaveStaticEpoch, OwnID: true}).get().Err, nil)
	other.epoch, other.owned = joinEpoch, partSet{}
	other.mustBeat()
	if other.owns() != mine || b.epoch != epoch {
		t.Fatalf("it came back with %q, before %q", other.owns(), mine)
	}
	// One that does not come back is given up after its session.
	h.want(h.beat(&ConsumerHeartbeatRequest{Group: "g", MemberID: "a2", Instance: &inst, Epoch: leaveStaticEpoch, OwnID: true}).get().Err, nil)
	for range 12 {
		h.advance(4 * time.Second)
		b.mustBeat()
	}
	h.settle(b)
	h.wantOwned(b, "t0 t1 t2")
}

func TestConsumerRegex(t *testing.T) {
	h, topics := newConsumerHarness(t, GroupConfig{}, "a.one", "a.two", "b")
	a, b := h.consumer("a"), h.consumer("b", "b")
	a.regex = "a\\.(one|t.*)"
	a.mustBeat()
	b.mustBeat()
	h.settle(a, b)
	if a.owns() != "a.one0 a.one1 a.one2 a.two0 a.two1 a.two2" || b.owns() != "b0 b1 b2" {
		t.Fatalf("%s | %s", a.owns(), b.owns())
	}
	topics.set("a.three", 1) // matches
	topics.set("xa.one", 1)  // only a part does
	h.settle(a, b)
	if strings.Contains(a.owns(), "a.three0") {
		t.Fatal("all topics are looked at each time that one comes")
	}
	h.advance(regexPause)
	h.settle(a, b)
	if !strings.Contains(a.owns(), "a.three0") || strings.Contains(a.owns(), "xa") {
		t.Fatal(a.owns())
	}
	epoch := a.epoch
	topics.set("c", 1)
	h.advance(regexPause)
	h.settle(a, b)
	if a.epoch != epoch {
		t.Fatal("a topic that nobody wants caused a rebalance")
	}
	// What an expression stands for is stored with the group.
	h.move()
	h.settle(a, b)
	if a.epoch != epoch {
		t.Fatal("another coordinator found other topics")
	}
	a.regex, a.topics, a.told = "b", nil, true
	h.settle(a, b)
	h.wantShared(3, a, b)
	s, err := h.c.enter("g")
	h.want(err, nil)
	if n := len(s.group("g").consumer.regexes); n != 1 {
		t.Errorf("%d expressions are left", n)
	}
	s.unlock()
	if d := h.describe("g"); d.Members[0].Regex != "b" {
		t.Fatalf("%+v", d)
	}
}

// An expression matches what the member may see: at once when it is new, and when that changes, after a while.
func TestConsumerRegexMatchesWhatOneMayDescribe(t *testing.T) {
	h, topics := newConsumerHarness(t, GroupConfig{}, "open", "secret")
	may := map[string]bool{"open": true}
	a, b := h.consumer("a"), h.consumer("b", "open")
	a.regex = ".*"
	a.mayDescribe = func(topic string) bool { return may[topic] }
	h.settle(a)
	h.wantOwned(a, "open0 open1 open2")
	topics.set("more", 1) // it is looked at anew, with the same rights
	h.advance(regexPause)
	h.settle(a, b)
	h.wantShared(3, a, b)
	may["secret"] = true
	for range 30 {
		h.advance(regexRefresh / 30)
		h.settle(a, b)
	}
	h.wantShared(6, a, b)
	// That somebody goes who has no expression of his own shows nobody anything.
	b.epoch = leaveEpoch
	h.beat(b.request()).get()
	h.settle(a)
	h.wantOwned(a, "open0 open1 open2 secret0 secret1 secret2")
}

// Heartbeats that come while a decision is on its way wait for it, and what fails is as if it had never been.
func TestConsumerWaitsForTheLog(t *testing.T) {
	h, _ := newConsumerHarness(t, GroupConfig{}, "t")
	a, b := h.consumer("a", "t"), h.consumer("b", "t")
	h.log.waitForCommit()
	one, two := h.beat(a.request()), h.beat(b.request())
	if !one.waits() || !two.waits() || len(h.log.held) != 1 {
		t.Fatalf("answered %d and %d times, %d appends", one.n, two.n, len(h.log.held))
	}
	h.log.commit()
	h.want(a.hear(one.get()), nil)
	h.want(b.hear(two.get()), nil)
	h.settle(a, b)
	h.wantShared(3, a, b)

	c := h.consumer("c", "t")
	h.log.fail(ErrCoordinatorUnavailable)
	h.want(c.beat(), ErrCoordinatorUnavailable)
	h.log.fail(nil)
	if d := h.describe("g"); len(d.Members) != 2 || d.State != "Stable" {
		t.Fatalf("%+v", d)
	}
	// The coordinator goes while a decision is on its way: everybody is sent away, and what came through counts.
	h.log.waitForCommit()
	three, four := h.beat(c.request()), h.beat(h.consumer("d", "t").request())
	h.c.Resign(0, h.log.epoch)
	h.want(four.get().Err, ErrNotCoordinator)
	h.log.commit()
	h.want(three.get().Err, ErrNotCoordinator)
	h.move()
	h.settle(a, b, c)
	h.wantShared(3, a, b, c)
}

func TestConsumerCommits(t *testing.T) {
	h, _ := newConsumerHarness(t, GroupConfig{}, "t")
	id := h.cfg.Image().Topic("t").ID
	a, b := h.consumer("a", "t"), h.consumer("b", "t")
	a.mustBeat()
	commit := func(member string, epoch int32, modern bool, p int32) error {
		r := commitOf("g", member, epoch, 7)
		r.Modern, r.Offsets[0].Partition, r.Offsets[0].TopicID = modern, p, id
		return h.commit(r).get()
	}
	h.want(commit("a", 1, true, 0), nil)
	h.want(commit("a", 1, false, 0), ErrProtocolDisabled)
	h.want(commit("a", 2, true, 0), ErrStaleEpoch)
	h.want(commit("x", 1, true, 0), ErrUnknownMember)
	h.want(commit("", -1, true, 0), ErrUnknownMember)
	b.mustBeat()
	h.settle(a, b)
	// KIP-1251: what a has had since the first epoch it may commit with that one too; b has had t2 since the second only.
	h.want(commit("a", 1, true, 1), nil)
	h.want(commit("a", 1, true, 2), ErrStaleEpoch)
	h.want(commit("b", 1, true, 2), ErrStaleEpoch)
	h.want(commit("b", 2, true, 2), nil)
	h.move()
	h.want(commit("a", 1, true, 1), nil)
	h.want(commit("b", 1, true, 2), ErrStaleEpoch)
	name := func(s string) *string { return &s }
	h.want(h.c.MayFetch("g", nil, -1), nil)
	h.want(h.c.MayFetch("g", name("a"), 2), nil)
	h.want(h.c.MayFetch("g", name("a"), 1), ErrStaleEpoch)
	h.want(h.c.MayFetch("g", name("x"), 2), ErrUnknownMember)
	h.want(h.c.MayFetch("nowhere", name("x"), 2), nil)
	// Offsets of topics that are wanted do not expire, and cannot be deleted.
	drop := newAnswer[error](t)
	h.c.DeleteOffsets("g", []TopicPartition{{"t", 0}}, func(errs []error, err error) { drop.set(errors.Join(append(errs, err)...)) })
	h.want(drop.get(), ErrTopicSubscribed)
	del := newAnswer[error](t)
	h.c.DeleteGroup("g", del.set)
	h.want(del.get(), ErrGroupNotEmpty)
	h.wantOffsets("g", 7, 7, 7)
	for _, c := range []*consumer{a, b} {
		h.want(h.beat(&ConsumerHeartbeatRequest{Group: "g", MemberID: c.id, Epoch: leaveEpoch, OwnID: true}).get().Err, nil)
	}
	h.want(commit("", -1, false, 0), nil) // an administrator
	h.advance(6 * 24 * time.Hour)
	h.move()
	h.wantOffsets("g", 7, 7, 7)
	h.advance(25 * time.Hour)
	h.wantOffsets("g", -1, -1, -1)
	if list, _ := h.c.List(); len(list) != 0 {
		t.Fatalf("left: %v", list)
	}
	h.move()
	if list, _ := h.c.List(); len(list) != 0 {
		t.Fatalf("came back: %v", list)
	}
}

// joinClassic is a JoinGroup of a client of the classic protocol.
func (h *groupHarness) joinClassic(id string, instance *string, topics []string, owned map[string][]int32) *answer[JoinResult] {
	r := request(id)
	r.Instance, r.Protocols = instance, classicSubscription(1, topics, owned)
	return h.join(r)
}

func TestConsumerUpgradeAndDowngrade(t *testing.T) {
	h, _ := newConsumerHarness(t, GroupConfig{}, "t")
	old := h.joinClassic("", nil, []string{"t"}, nil).get()
	id := old.MemberID
	all := kmsg.ConsumerMemberAssignment{Topics: []kmsg.ConsumerMemberAssignmentTopic{{Topic: "t", Partitions: []int32{0, 1, 2}}}}
	h.want(h.sync(id, 1, map[string]string{id: string(all.AppendTo(nil))}).get().Err, nil)
	h.want(h.commit(commitOf("g", id, 1, 5)).get(), nil)

	// The first member of the new protocol.
	b := h.consumer("b", "t")
	b.mustBeat()
	h.wantOwned(b, "")
	if b.epoch != 2 {
		t.Fatalf("epoch %d does not follow generation 1", b.epoch)
	}
	d := h.describe("g")
	if len(d.Members) != 2 || d.Members[0].Classic == d.Members[1].Classic || d.State != "Reconciling" {
		t.Fatalf("%+v", d)
	}
	h.want(h.heartbeat(id, 1), ErrRebalanceInProgress)
	h.want(h.sync(id, 1, nil).get().Err, ErrRebalanceInProgress)
	h.want(h.commit(commitOf("g", id, 1, 6)).get(), nil)
	h.move() // and the next coordinator goes on with it
	// A cooperative member comes with all that it has, is told what stays, and comes again without the rest.
	j := h.joinClassic(id, nil, []string{"t"}, map[string][]int32{"t": {0, 1, 2}}).get()
	if j.Err != nil || j.Generation != 1 || j.Protocol != "range" || j.LeaderID == id || j.Members != nil {
		t.Fatalf("%+v", j)
	}
	s := h.sync(id, 1, nil).get()
	if got := assigned(t, s.Assignment); s.Err != nil || got != "t0 t1" {
		t.Fatalf("assigned %q, %v", got, s.Err)
	}
	b.mustBeat()
	h.wantOwned(b, "")
	h.want(h.heartbeat(id, 1), ErrRebalanceInProgress)
	j = h.joinClassic(id, nil, []string{"t"}, map[string][]int32{"t": {0, 1}}).get()
	if j.Generation != 2 {
		t.Fatalf("%+v", j)
	}
	if got := assigned(t, h.sync(id, 2, nil).get().Assignment); got != "t0 t1" {
		t.Fatalf("assigned %q", got)
	}
	h.want(h.heartbeat(id, 2), nil)
	b.mustBeat()
	h.wantOwned(b, "t2")
	h.want(h.commit(commitOf("g", id, 1, 6)).get(), ErrIllegalGeneration)
	h.want(h.commit(commitOf("g", id, 2, 8)).get(), nil)
	if r := h.joinClassic("", nil, []string{"t"}, nil).get(); r.Err != nil || r.Generation != 3 {
		t.Fatalf("another classic member: %+v", r)
	} else if errs, err := h.leavesFrom("g", LeavingMember{ID: r.MemberID}, LeavingMember{ID: "who"}); err != nil ||
		!slices.Equal(errs, []error{nil, ErrUnknownMember}) {
		t.Fatal(errs, err)
	}
	other := request("")
	other.Protocols = protocols("sticky")
	h.want(h.join(other).get().Err, ErrInconsistentProtocol)

	// The last member of the new protocol goes: the group is a classic one again, with its offsets.
	h.want(h.beat(&ConsumerHeartbeatRequest{Group: "g", MemberID: "b", Epoch: leaveEpoch, OwnID: true}).get().Err, nil)
	h.wantState("PreparingRebalance")
	h.wantOffsets("g", 8)
	h.move()
	h.wantState("Stable")
	g := h.joinClassic(id, nil, []string{"t"}, map[string][]int32{"t": {0, 1}}).get()
	if g.Err != nil || g.LeaderID != id || len(g.Members) != 1 || g.Generation <= 3 {
		t.Fatalf("%+v", g)
	}
	h.want(h.sync(id, g.Generation, map[string]string{id: string(all.AppendTo(nil))}).get().Err, nil)
	h.wantState("Stable")
	h.want(h.leave(id), nil)
	// An empty group of either kind is anybody's, and its epochs go on.
	c := h.consumer("c", "t")
	c.mustBeat()
	if c.epoch <= g.Generation {
		t.Fatalf("epoch %d after generation %d", c.epoch, g.Generation)
	}
	h.want(h.beat(&ConsumerHeartbeatRequest{Group: "g", MemberID: "c", Epoch: leaveEpoch, OwnID: true}).get().Err, nil)
	last := h.joinClassic("", nil, []string{"t"}, nil).get()
	if last.Err != nil || last.LeaderID != last.MemberID || last.Generation <= c.epoch {
		t.Fatalf("%+v", last)
	}
	h.wantOffsets("g", 8)
	// Also where the coordinator goes before it has stored a generation.
	h.move()
	e := h.consumer("e", "t")
	e.mustBeat()
	if e.epoch <= c.epoch {
		t.Fatalf("epoch %d after %d", e.epoch, c.epoch)
	}
}

// A group of which only members of the classic protocol are left becomes one of that protocol, also where that cannot be written at first.
func TestDowngradeIsTriedAgain(t *testing.T) {
	for _, moved := range []bool{false, true} {
		h, _ := newConsumerHarness(t, GroupConfig{}, "t")
		id := h.joinClassic("", nil, []string{"t"}, nil).get().MemberID
		h.sync(id, 1, nil).get()
		h.consumer("b", "t").mustBeat()
		h.log.waitForCommit()
		left := h.beat(&ConsumerHeartbeatRequest{Group: "g", MemberID: "b", Epoch: leaveEpoch, OwnID: true})
		h.log.fail(ErrCoordinatorUnavailable) // from the next one on, which is the downgrade
		h.log.commit()
		h.want(left.get().Err, nil)
		if d := h.describe("g"); len(d.Members) != 1 || !d.Members[0].Classic {
			t.Fatalf("%+v", d)
		}
		h.log.fail(nil)
		if moved { // to a coordinator that knows nothing of it
			h.move()
		}
		h.advance(expelRetry)
		h.wantState("PreparingRebalance")
	}
}

// Where many members are silent at once they go in one record, and those that come in time stay.
func TestConsumersExpireTogether(t *testing.T) {
	h, _ := newConsumerHarness(t, GroupConfig{}, "t")
	stays := h.consumer("stays", "t")
	stays.mustBeat()
	for i := range 200 {
		h.consumer(fmt.Sprint("m", i), "t").mustBeat()
	}
	h.advance(40 * time.Second)
	stays.told = true
	stays.mustBeat()
	h.log.mu.Lock()
	before := len(h.log.batches)
	h.log.mu.Unlock()
	h.log.fail(ErrCoordinatorUnavailable) // at first not even that is possible
	h.advance(10 * time.Second)
	if n := len(h.describe("g").Members); n != 201 {
		t.Fatalf("%d members", n)
	}
	h.log.fail(nil)
	h.advance(expelRetry)
	if n := len(h.describe("g").Members); n != 1 {
		t.Fatalf("%d members are left", n)
	}
	h.log.mu.Lock()
	defer h.log.mu.Unlock()
	if n := len(h.log.batches) - before; n != 1 {
		t.Errorf("%d batches were written", n)
	}
}

func TestConsumerMigrationPolicy(t *testing.T) {
	h, _ := newConsumerHarness(t, GroupConfig{Migration: MigrateDown}, "t")
	id := h.joinClassic("", nil, []string{"t"}, nil).get().MemberID
	h.sync(id, 1, nil).get()
	h.want(h.consumer("b", "t").beat(), ErrGroupNotFound)
	h.wantState("Stable")

	h, _ = newConsumerHarness(t, GroupConfig{Migration: MigrateUp}, "t")
	id = h.joinClassic("", nil, []string{"t"}, nil).get().MemberID
	b := h.consumer("b", "t")
	b.mustBeat() // while the other one has joined and has no assignment yet
	h.want(h.beat(&ConsumerHeartbeatRequest{Group: "g", MemberID: "b", Epoch: leaveEpoch, OwnID: true}).get().Err, nil)
	if d := h.describe("g"); len(d.Members) != 1 || !d.Members[0].Classic {
		t.Fatalf("%+v", d)
	}
	// A member that is told to join again, and does not, goes after its rebalance timeout.
	for range 9 {
		if err := h.heartbeat(id, 1); !errors.Is(err, ErrRebalanceInProgress) && !errors.Is(err, ErrUnknownMember) {
			t.Fatal(err)
		}
		h.advance(4 * time.Second)
	}
	h.want(h.heartbeat(id, 1), ErrUnknownMember)

	// Groups of other kinds than consumers are left alone.
	h, _ = newConsumerHarness(t, GroupConfig{}, "t")
	r := request("")
	r.ProtocolType = "connect"
	h.join(r).get()
	h.want(h.consumer("b", "t").beat(), ErrGroupNotFound)
	r = request("")
	r.Group = "strange"
	h.join(r).get() // its metadata cannot be read
	q := h.consumer("b", "t")
	q.group = "strange"
	h.want(q.beat(), ErrGroupNotFound)
	// Nor does one that was given an id lose it by somebody else's refused attempt.
	r = request("")
	r.Group, r.RequireID = "strange", true
	r.MemberID = h.join(r).get().MemberID
	h.want(q.beat(), ErrGroupNotFound)
	if a := h.join(r); !a.waits() {
		t.Fatalf("who was given an id is answered %+v", a.get())
	}
}

// Kafka's Admin.removeMembersFromConsumerGroup sends a LeaveGroup, whichever protocol the members are of.
func TestOperatorRemovesMembersOfTheNewProtocol(t *testing.T) {
	h, _ := newConsumerHarness(t, GroupConfig{}, "t")
	inst, nobody := "i", "nobody"
	a, b, c := h.consumer("a", "t"), h.consumer("b", "t"), h.consumer("c", "t")
	a.instance = &inst
	for _, m := range []*consumer{a, b, c} {
		m.mustBeat()
	}
	if errs, err := h.leavesFrom("g", LeavingMember{Instance: &inst}, LeavingMember{ID: "b"}, LeavingMember{ID: "c", Instance: &inst}, LeavingMember{Instance: &nobody}); err != nil ||
		!slices.Equal(errs, []error{nil, nil, ErrFencedInstance, ErrUnknownMember}) {
		t.Fatal(errs, err)
	}
	h.want(a.beat(), ErrUnknownMember)
	h.want(b.beat(), ErrUnknownMember)
	h.settle(c)
	if d := h.describe("g"); len(d.Members) != 1 || d.Members[0].ID != "c" {
		t.Fatalf("%+v", d)
	}
}

// A static member moves from one protocol to the other and back under its instance id.
func TestConsumerStaticMigration(t *testing.T) {
	h, _ := newConsumerHarness(t, GroupConfig{}, "t")
	inst := "A"
	a := h.joinClassic("", &inst, []string{"t"}, nil).get()
	all := kmsg.ConsumerMemberAssignment{Topics: []kmsg.ConsumerMemberAssignmentTopic{{Topic: "t", Partitions: []int32{0, 1, 2}}}}
	s := newAnswer[SyncResult](t)
	h.c.Sync(&SyncRequest{Group: "g", MemberID: a.MemberID, Generation: 1, Assignments: map[string][]byte{a.MemberID: all.AppendTo(nil)}}, s.set)
	h.want(s.get().Err, nil)
	b := h.consumer("b", "t")
	b.instance = &inst
	b.mustBeat()
	h.wantOwned(b, "t0 t1 t2")
	if d := h.describe("g"); len(d.Members) != 1 || d.Members[0].Classic {
		t.Fatalf("%+v", d)
	}
	h.want(h.heartbeat(a.MemberID, 1), ErrUnknownMember)
	back := h.joinClassic("", &inst, []string{"t"}, nil).get()
	if back.Err != nil {
		t.Fatalf("%+v", back)
	}
	h.wantState("PreparingRebalance") // of the classic protocol again
	h.want(b.beat(), ErrGroupNotFound)
}

func FuzzConsumerRecord(f *testing.F) {
	text := func(s string) *string { return &s }
	for _, r := range []*consumerRecord{
		{kind: keyConsumerGroup, epoch: 3, hash: 9},
		{kind: keyConsumerMember, member: "m", says: &memberSays{instance: text("i"), clientID: "c", topics: []string{"t", "u"}, regex: "r", rebalance: time.Second,
			classic: &classicSays{session: time.Second, protocols: protocols("range")}}},
		{kind: keyTargetEpoch, epoch: 3},
		{kind: keyTargetMember, member: "m", parts: partSet{{TopicID{1}, 2}: 0}},
		{kind: keyCurrentMember, member: "m", holds: &memberHolds{epoch: 2, previous: 1, state: memberUnrevoked, owned: partSet{{TopicID{1}, 2}: 5}, revoking: partSet{{TopicID{2}, 2}: 4}}},
		{kind: keyConsumerRegex, member: "r", regex: &resolvedRegex{topics: []string{"t"}, version: 3, at: 4}},
	} {
		f.Add(r.key("g"), r.value())
	}
	f.Add([]byte{0, 4, 0, 1, 'g'}, []byte{0, 0, 1, 0})
	f.Fuzz(func(t *testing.T, key, value []byte) {
		r, err := decodeGroupRecord(key, value)
		if err != nil || r.consumer == nil || r.deleted || r.consumer.kind == keyConsumerTopics {
			return
		}
		h := newGroupHarness(t, GroupConfig{})
		s, err := h.c.enter("x")
		if err != nil {
			t.Fatal(err)
		}
		s.apply(&r)
		s.unlock()
		// What was understood is the same when it is written and read again.
		again, err := decodeGroupRecord(r.key(), r.value())
		if err != nil {
			t.Fatal(err)
		}
		if string(again.value()) != string(r.value()) || again.name != r.name {
			t.Fatalf("%+v became %+v", r.consumer, again.consumer)
		}
	})
}

// A member's record as Kafka 4.0 writes it, byte for byte.
func TestConsumerRecordBytes(t *testing.T) {
	r := consumerRecord{kind: keyConsumerMember, member: "m", says: &memberSays{clientID: "c", clientHost: "/h", topics: []string{"t"}, rebalance: 45 * time.Second}}
	if got := fmt.Sprintf("%x", r.key("g")); got != "0005"+"000167"+"00016d" {
		t.Error(got)
	}
	if got := fmt.Sprintf("%x", r.value()); got != "0000"+"00"+"00"+"0263"+"032f68"+"02"+"0274"+"00"+"0000afc8"+"00"+"00" {
		t.Error(got)
	}
	r = consumerRecord{kind: keyConsumerGroup, epoch: 7, hash: 1}
	if got := fmt.Sprintf("%x", r.value()); got != "0000"+"00000007"+"01"+"00"+"08"+"0000000000000001" {
		t.Error(got)
	}
}

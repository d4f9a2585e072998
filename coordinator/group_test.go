package coordinator

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/balsamq/balsa/protocol"
)

func TestGroupOfThree(t *testing.T) {
	h := newGroupHarness(t, GroupConfig{})
	ids, gen := h.stable(3)
	h.wantState("Stable")
	for _, id := range ids {
		h.want(h.heartbeat(id, gen), nil)
	}
	h.want(h.heartbeat(ids[0], gen-1), ErrIllegalGeneration)
	h.want(h.heartbeat("stranger", gen), ErrUnknownMember)

	// One leaves; the others hear of it, come again and share what there is.
	h.want(h.leave(ids[1]), nil)
	h.want(h.heartbeat(ids[0], gen), ErrRebalanceInProgress)
	h.want(h.sync(ids[0], gen, nil).get().Err, ErrRebalanceInProgress)
	a, c := h.join(request(ids[0])), h.join(request(ids[2]))
	if r := a.get(); r.Err != nil || r.Generation != gen+1 || r.LeaderID != ids[0] || len(r.Members) != 2 || r.Protocol != "range" {
		t.Fatalf("the leader was answered %+v", r)
	}
	if r := c.get(); r.Err != nil || r.Generation != gen+1 || r.LeaderID != ids[0] || r.Members != nil {
		t.Fatalf("the follower was answered %+v", r)
	}
	// A heartbeat between join and sync is fine.
	h.want(h.heartbeat(ids[2], gen+1), nil)
	follower := h.sync(ids[2], gen+1, nil)
	if !follower.waits() {
		t.Fatal("the follower was answered before the leader's assignment came")
	}
	h.log.waitForCommit()
	leader := h.sync(ids[0], gen+1, map[string]string{ids[2]: "all"})
	if !follower.waits() || !leader.waits() {
		t.Fatal("a member was told of a generation that is not stored")
	}
	h.log.commit()
	if f, l := follower.get(), leader.get(); string(f.Assignment) != "all" || f.Err != nil || l.Err != nil || len(l.Assignment) != 0 || f.Protocol != "range" {
		t.Fatalf("assignments %+v and %+v", f, l)
	}
	// Who lost the answer asks again.
	if r := h.sync(ids[2], gen+1, nil).get(); string(r.Assignment) != "all" {
		t.Fatalf("asked again: %+v", r)
	}
	h.want(h.leave(ids[0]), nil)
	h.want(h.leave(ids[2]), nil)
	h.wantState("Empty")
	h.want(h.leave(ids[2]), ErrUnknownMember)
}

func TestGroupRefusals(t *testing.T) {
	h := newGroupHarness(t, GroupConfig{MaxSize: 2})
	for _, tc := range []struct {
		name   string
		change func(*JoinRequest)
		want   error
	}{
		{"no group", func(r *JoinRequest) { r.Group = "" }, ErrInvalidGroupID},
		{"no group, nor a session", func(r *JoinRequest) { r.Group, r.Session = "", 0 }, ErrInvalidGroupID}, // which kafka-go's tests look at
		{"long group", func(r *JoinRequest) { r.Group = strings.Repeat("g", maxGroupID+1) }, ErrInvalidGroupID},
		{"short session", func(r *JoinRequest) { r.Session = 5999 * time.Millisecond }, ErrInvalidSessionTimeout},
		{"long session", func(r *JoinRequest) { r.Session = 31 * time.Minute }, ErrInvalidSessionTimeout},
		{"no protocol", func(r *JoinRequest) { r.Protocols = nil }, ErrInconsistentProtocol},
		{"no type", func(r *JoinRequest) { r.ProtocolType = "" }, ErrInconsistentProtocol},
		{"a protocol twice", func(r *JoinRequest) { r.Protocols = protocols("range", "range") }, ErrInconsistentProtocol},
		{"unknown member", func(r *JoinRequest) { r.MemberID = "stranger" }, ErrUnknownMember},
	} {
		r := request("")
		tc.change(r)
		if err := h.join(r).get().Err; err != tc.want {
			t.Errorf("%s: %v, want %v", tc.name, err, tc.want)
		}
	}
	if list, err := h.c.List(); err != nil || len(list) != 0 {
		t.Fatalf("refused joins left groups: %v, %v", list, err)
	}
	h.want(h.sync("x", 1, nil).get().Err, ErrUnknownMember)
	h.want(h.heartbeat("x", 1), ErrUnknownMember)
	h.want(h.leave("x"), ErrUnknownMember)

	ids, gen := h.stable(2)
	r := request("")
	r.Protocols = protocols("sticky")
	h.want(h.join(r).get().Err, ErrInconsistentProtocol)
	r = request("")
	r.ProtocolType = "connect"
	h.want(h.join(r).get().Err, ErrInconsistentProtocol)
	h.want(h.join(request("")).get().Err, ErrGroupFull)
	q := func(typ, protocol string) *answer[SyncResult] {
		a := newAnswer[SyncResult](t)
		h.c.Sync(&SyncRequest{Group: "g", MemberID: ids[0], Generation: gen, ProtocolType: &typ, Protocol: &protocol}, a.set)
		return a
	}
	h.want(q("connect", "range").get().Err, ErrInconsistentProtocol)
	h.want(q("consumer", "sticky").get().Err, ErrInconsistentProtocol)
	h.want(q("consumer", "range").get().Err, nil)
	h.wantState("Stable")

	big := request(ids[1])
	big.Protocols = []GroupProtocol{{Name: "range", Metadata: make([]byte, maxGroupBytes)}}
	h.want(h.join(big).get().Err, ErrGroupFull)
	h.wantState("Stable")
}

// KIP-394: the first join only gets an id, and the rebalance waits for who was given one.
func TestGroupMemberIDRequired(t *testing.T) {
	h := newGroupHarness(t, GroupConfig{})
	r := request("")
	r.RequireID = true
	first := h.join(r).get()
	h.want(first.Err, ErrMemberIDRequired)
	if first.MemberID == "" {
		t.Fatal("no member id was given")
	}
	h.wantState("Empty")
	r.MemberID = first.MemberID
	if a := h.join(r).get(); a.Err != nil || a.MemberID != first.MemberID || a.Generation != 1 {
		t.Fatalf("joined as %+v", a)
	}
	h.sync(first.MemberID, 1, nil).get()

	other := request("")
	other.RequireID = true
	second := h.join(other).get().MemberID
	h.want(h.heartbeat(first.MemberID, 1), nil) // no rebalance yet
	third := h.join(request(""))                // an old client, which needs no id
	h.want(h.heartbeat(first.MemberID, 1), ErrRebalanceInProgress)
	again := h.join(request(first.MemberID))
	if !again.waits() || !third.waits() {
		t.Fatal("the rebalance did not wait for a member that was given an id")
	}
	h.advance(other.Session) // it never comes
	if again.get().Generation != 2 || third.get().Generation != 2 {
		t.Fatalf("generations %+v, %+v", again.value, third.value)
	}
	h.want(h.join(request(second)).get().Err, ErrUnknownMember)

	// An id that was given out can leave.
	r = request("")
	r.RequireID = true
	r.Group = "h"
	id := h.join(r).get().MemberID
	if errs, err := h.leavesFrom("h", LeavingMember{ID: id}); err != nil || errs[0] != nil {
		t.Fatal(errs, err)
	}
	if h.state("h") != ErrGroupNotFound.Error() {
		t.Fatal("nothing is left of the group, and it is still there")
	}
}

func TestGroupInitialDelay(t *testing.T) {
	h := newGroupHarness(t, GroupConfig{InitialRebalanceDelay: 3 * time.Second})
	a := h.join(request(""))
	h.advance(2 * time.Second)
	b := h.join(request(""))
	h.advance(999 * time.Millisecond)
	if !a.waits() || !b.waits() {
		t.Fatal("the group did not wait")
	}
	h.advance(time.Millisecond) // b came meanwhile: three more seconds
	h.advance(2999 * time.Millisecond)
	if !a.waits() {
		t.Fatal("the group did not wait for more, though somebody had come")
	}
	h.advance(time.Millisecond)
	if a.get().Generation != 1 || b.get().Generation != 1 || len(a.get().Members) != 2 {
		t.Fatalf("%+v, %+v", a.value, b.value)
	}
	// Only an empty group waits.
	h.sync(a.value.MemberID, 1, nil).get()
	c := h.join(request(""))
	h.join(request(a.value.MemberID))
	h.join(request(b.value.MemberID))
	if c.get().Generation != 2 {
		t.Fatal("a rebalance waited like an empty group")
	}

	// The delay is bounded by the rebalance timeout, however many keep coming.
	r := request("")
	r.Group, r.Rebalance = "h", 10*time.Second
	first := h.join(r)
	for range 9 {
		h.advance(time.Second)
		h.join(r)
	}
	if !first.waits() {
		t.Fatal("answered too early")
	}
	h.advance(time.Second)
	if len(first.get().Members) != 10 {
		t.Fatalf("%d members", len(first.value.Members))
	}
}

// The rebalance waits for the longest rebalance timeout of any member, and goes on without who is late.
func TestGroupRebalanceTimeout(t *testing.T) {
	h := newGroupHarness(t, GroupConfig{})
	ids, gen := h.stable(2)
	slow := request("")
	slow.Rebalance, slow.Session = 60*time.Second, 25*time.Minute
	a := h.join(slow)
	for range 5 {
		h.advance(8 * time.Second)
		h.want(h.heartbeat(ids[0], gen), ErrRebalanceInProgress)
		h.want(h.heartbeat(ids[1], gen), ErrRebalanceInProgress)
	}
	b := h.join(request(ids[1]))
	for range 2 {
		h.advance(9 * time.Second)
		h.want(h.heartbeat(ids[0], gen), ErrRebalanceInProgress)
	}
	if !a.waits() {
		t.Fatal("the rebalance ended before the longest timeout")
	}
	h.advance(2 * time.Second)
	if a.get().Generation != gen+1 || b.get().Generation != gen+1 {
		t.Fatalf("%+v %+v", a.value, b.value)
	}
	h.want(h.heartbeat(ids[0], gen), ErrUnknownMember)
	// The leader has gone, so another one leads.
	if a.value.LeaderID == ids[0] || a.value.LeaderID != b.value.LeaderID {
		t.Fatalf("leader %s", a.value.LeaderID)
	}
}

func TestGroupSessionExpiry(t *testing.T) {
	h := newGroupHarness(t, GroupConfig{})
	ids, gen := h.stable(2)
	for range 3 {
		h.advance(9 * time.Second)
		h.want(h.heartbeat(ids[0], gen), nil)
		if h.state("g") == "Stable" {
			h.want(h.heartbeat(ids[1], gen), nil)
		}
	}
	h.advance(9 * time.Second)
	h.want(h.heartbeat(ids[0], gen), nil)
	h.advance(time.Second) // ids[1] was last heard of ten seconds ago
	h.want(h.heartbeat(ids[1], gen), ErrUnknownMember)
	h.want(h.heartbeat(ids[0], gen), ErrRebalanceInProgress)
	// A member that waits in JoinGroup is there, however long that takes.
	a := h.join(request(ids[0]))
	h.want(a.get().Err, nil)
	// One that joins and never syncs is removed after the rebalance timeout, though it heartbeats.
	for range 3 {
		h.want(h.heartbeat(ids[0], gen+1), nil)
		h.advance(9 * time.Second)
	}
	h.want(h.heartbeat(ids[0], gen+1), nil)
	h.advance(4 * time.Second)
	h.want(h.heartbeat(ids[0], gen+1), ErrUnknownMember)
	h.wantState("Empty")
	if n := h.c.timers.count(); n != 1 { // the sweep
		t.Fatalf("%d timers are left of an empty group", n)
	}
}

// A new member that waits in JoinGroup has no session yet, and is given up after five minutes.
func TestGroupNewMemberGivenUp(t *testing.T) {
	h := newGroupHarness(t, GroupConfig{})
	slow := request("")
	slow.Rebalance, slow.Session = 30*time.Minute, 30*time.Minute
	first := h.join(slow).get()
	h.sync(first.MemberID, 1, nil).get()
	r := request("")
	r.Rebalance = 30 * time.Minute
	a := h.join(r)
	h.advance(newMemberPatience - time.Second)
	if !a.waits() {
		t.Fatal("answered early")
	}
	h.advance(time.Second)
	h.want(a.get().Err, ErrUnknownMember)
}

func TestGroupProtocolVotes(t *testing.T) {
	h := newGroupHarness(t, GroupConfig{})
	with := func(id string, names ...string) *JoinRequest {
		r := request(id)
		r.Protocols = protocols(names...)
		return r
	}
	a := h.join(with("", "x", "y", "z")).get().MemberID
	b := h.join(with("", "y", "w", "x"))
	c := h.join(with("", "z", "y", "x"))
	r := h.join(with(a, "w", "y", "x"))
	// All know x and y. a votes for y (w is not everybody's), b for y, c for y.
	if r.get().Protocol != "y" || b.get().Protocol != "y" || c.get().Protocol != "y" {
		t.Fatalf("protocols %q %q %q", r.value.Protocol, b.value.Protocol, c.value.Protocol)
	}
	for _, m := range r.value.Members {
		if string(m.Metadata) != "meta-y" {
			t.Fatalf("the leader was told %q of %s", m.Metadata, m.ID)
		}
	}
}

// A follower that asks again gets its generation once more; a leader, or anybody with news, starts a rebalance.
func TestGroupRejoin(t *testing.T) {
	h := newGroupHarness(t, GroupConfig{})
	ids, gen := h.stable(2)
	if r := h.join(request(ids[1])).get(); r.Err != nil || r.Generation != gen || r.LeaderID != ids[0] {
		t.Fatalf("a follower asked again: %+v", r)
	}
	h.wantState("Stable")
	lead := h.join(request(ids[0]))
	h.wantState("PreparingRebalance")
	h.want(h.heartbeat(ids[1], gen), ErrRebalanceInProgress)
	h.join(request(ids[1])).get()
	if lead.get().Generation != gen+1 {
		t.Fatalf("%+v", lead.value)
	}
	// In CompletingRebalance the same request is answered again, to both.
	if r := h.join(request(ids[0])).get(); r.Generation != gen+1 || len(r.Members) != 2 {
		t.Fatalf("the leader asked again: %+v", r)
	}
	h.sync(ids[0], gen+1, nil).get()
	// A follower with a new subscription.
	r := request(ids[1])
	r.Protocols[0].Metadata = []byte("more topics")
	h.join(r)
	h.wantState("PreparingRebalance")
	back := h.join(request(ids[0])).get()
	if back.Generation != gen+2 || string(back.Members[1].Metadata) != "more topics" {
		t.Fatalf("%+v", back)
	}
	// A member that repeats its join has one answer for each.
	one := h.join(request(""))
	two := h.join(request(ids[1]))
	three := h.join(request(ids[1]))
	h.want(two.get().Err, ErrRebalanceInProgress)
	h.join(request(ids[0])).get()
	if one.get().Generation != gen+3 || three.get().Generation != gen+3 {
		t.Fatalf("%+v %+v", one.value, three.value)
	}
}

func static(instance, member string) *JoinRequest {
	r := request(member)
	r.Instance = &instance
	return r
}

// KIP-345: a static member that restarts takes its place again without a rebalance, and the one before it is fenced.
func TestGroupStaticMembers(t *testing.T) {
	h := newGroupHarness(t, GroupConfig{})
	a := h.join(static("A", "")).get()
	b := h.join(static("B", ""))
	a2 := h.join(static("A", a.MemberID)).get()
	gen := a2.Generation
	bID := b.get().MemberID
	follower := h.sync(bID, gen, nil)
	h.sync(a.MemberID, gen, map[string]string{a.MemberID: "1", bID: "2"}).get()
	follower.get()

	// The follower restarts.
	r := h.join(static("B", "")).get()
	if r.Err != nil || r.Generation != gen || r.MemberID == bID || r.LeaderID != a.MemberID || r.Members != nil {
		t.Fatalf("the follower came back as %+v", r)
	}
	h.wantState("Stable")
	instance := "B"
	h.want(h.c.Heartbeat("g", bID, &instance, gen), ErrFencedInstance)
	h.want(h.commit(&CommitRequest{Group: "g", MemberID: bID, Instance: &instance, Generation: gen, Offsets: commitOf("g", "", 0, 1).Offsets}).get(), ErrFencedInstance)
	h.want(h.join(static("B", bID)).get().Err, ErrFencedInstance)
	h.want(h.heartbeat(bID, gen), ErrUnknownMember)
	if s := h.sync(r.MemberID, gen, nil).get(); string(s.Assignment) != "2" {
		t.Fatalf("the follower came back to %+v", s)
	}

	// The leader restarts: an old client must not take itself for the leader, a new one is told to skip the assignment.
	l := h.join(static("A", "")).get()
	if l.LeaderID != a.MemberID || l.LeaderID == l.MemberID || l.Members != nil || l.SkipAssignment {
		t.Fatalf("the leader came back as %+v", l)
	}
	q := static("A", "")
	q.Skips = true
	l = h.join(q).get()
	if l.LeaderID != l.MemberID || !l.SkipAssignment || len(l.Members) != 2 || l.Generation != gen {
		t.Fatalf("the leader came back as %+v", l)
	}
	h.wantState("Stable")

	// The place is stored under the new id.
	h.move()
	inst := "A"
	h.want(h.c.Heartbeat("g", l.MemberID, &inst, gen), nil)
	h.want(h.c.Heartbeat("g", a.MemberID, &inst, gen), ErrFencedInstance)

	// One that restarts with another protocol moves the group.
	other := static("B", "")
	other.Protocols = protocols("sticky", "range")
	w := h.join(other)
	if h.state("g") != "Stable" && !w.waits() {
		t.Fatal("the same vote caused a rebalance")
	}
	// A static member that is silent for its session goes; static members are not dropped by a rebalance.
	h.want(h.heartbeat(l.MemberID, gen), nil)
	h.join(request(""))
	h.wantState("PreparingRebalance")
	h.join(static("A", l.MemberID))
	h.advance(9 * time.Second)
	d, err := h.c.Describe("g")
	if err != nil || len(d.Members) != 3 {
		t.Fatalf("%+v, %v", d, err)
	}
	// By instance id alone an administrator removes it.
	errs, err := h.leavesFrom("g", LeavingMember{Instance: &instance}, LeavingMember{ID: "nobody"}, LeavingMember{ID: "x", Instance: &inst})
	if err != nil || errs[0] != nil || errs[1] != ErrUnknownMember || errs[2] != ErrFencedInstance {
		t.Fatalf("%v, %v", errs, err)
	}
	h.wantState("CompletingRebalance")
}

// A static member that is replaced while it waits: the one before it is told.
func TestGroupStaticReplacedWhileWaiting(t *testing.T) {
	h := newGroupHarness(t, GroupConfig{InitialRebalanceDelay: 3 * time.Second})
	one := h.join(static("A", ""))
	two := h.join(static("A", ""))
	h.want(one.get().Err, ErrFencedInstance)
	h.advance(3 * time.Second)
	r := two.get()
	if r.Err != nil || len(r.Members) != 1 || r.LeaderID != r.MemberID {
		t.Fatalf("%+v", r)
	}
	s1 := newAnswer[SyncResult](t)
	h.log.waitForCommit()
	h.c.Sync(&SyncRequest{Group: "g", MemberID: r.MemberID, Generation: 1}, s1.set)
	three := h.join(static("A", "")).get()
	h.want(s1.get().Err, ErrFencedInstance)
	if three.Generation != 2 {
		t.Fatalf("%+v", three)
	}
	h.log.commit()
}

// All of a group's static members are away while it rebalances: nobody can lead, and the group waits on.
func TestGroupOnlyAbsentStatics(t *testing.T) {
	h := newGroupHarness(t, GroupConfig{})
	a := static("A", "")
	a.Session = 25 * time.Minute
	id := h.join(a).get().MemberID
	h.sync(id, 1, nil).get()
	dyn := h.join(request("")) // waits for A
	h.advance(newMemberPatience)
	if !dyn.waits() {
		// The rebalance timeout of 30 s has passed long ago: A is still a member, and the newcomer leads.
		if r := dyn.get(); r.Err != nil || r.LeaderID != r.MemberID || len(r.Members) != 2 {
			t.Fatalf("%+v", r)
		}
		return
	}
	t.Fatal("the rebalance never ended")
}

func TestGroupFailedStore(t *testing.T) {
	h := newGroupHarness(t, GroupConfig{})
	a := h.join(request("")).get()
	h.log.fail(ErrCoordinatorUnavailable)
	h.want(h.sync(a.MemberID, 1, nil).get().Err, ErrCoordinatorUnavailable)
	h.wantState("PreparingRebalance")
	h.log.fail(nil)
	b := h.join(request(a.MemberID)).get()
	h.want(h.sync(a.MemberID, b.Generation, map[string]string{a.MemberID: "all"}).get().Err, nil)
	h.wantState("Stable")
	h.want(h.commit(commitOf("g", a.MemberID, b.Generation, 5)).get(), nil)
	h.log.fail(ErrCommitTooLarge)
	h.want(h.commit(commitOf("g", a.MemberID, b.Generation, 6)).get(), ErrCommitTooLarge)
	h.wantOffsets("g", 5)
}

func TestPartitionOf(t *testing.T) {
	// Values of Java's hashCode.
	for id, hash := range map[string]int32{"": 0, "a": 97, "group": 98629247, "polygenelubricants": 0 /* MIN_VALUE */, "ä€": 235 /*0xe4*/ *0 + 0xe4*31 + 0x20ac, "😀": 0xd83d*31 + 0xde00} {
		if got := PartitionOf(id, 1<<30); got != hash%(1<<30) {
			t.Errorf("%q: %d, want %d", id, got, hash)
		}
	}
	if got := PartitionOf("my-group", 50); got < 0 || got >= 50 {
		t.Error(got)
	}
}

func TestGroupDescribeAndList(t *testing.T) {
	h := newGroupHarness(t, GroupConfig{})
	h.want(h.commit(commitOf("simple", "", -1, 4)).get(), nil)
	ids, _ := h.stable(2)
	d, err := h.c.Describe("g")
	if err != nil || d.Protocol != "range" || d.ProtocolType != "consumer" || len(d.Members) != 2 || d.Members[0].ID != ids[0] ||
		string(d.Members[1].Metadata) != "meta-range" || string(d.Members[1].Assignment) != "part of "+ids[1] || d.Members[0].ClientHost != "/h" {
		t.Fatalf("%+v, %v", d, err)
	}
	list, err := h.c.List()
	if want := []GroupSummary{{"g", "consumer", "Stable", false}, {"simple", "", "Empty", false}}; err != nil || !slices.Equal(list, want) {
		t.Fatalf("%v, %v", list, err)
	}
	if _, err := h.c.Describe("nobody"); err != ErrGroupNotFound {
		t.Fatal(err)
	}
}

// Records of a newer coordinator, and rubbish, do not keep a partition from being loaded.
func TestGroupLoadSkipsStrangeRecords(t *testing.T) {
	h := newGroupHarness(t, GroupConfig{})
	h.want(h.commit(commitOf("g", "", -1, 4)).get(), nil)
	h.log.put(protocol.Record{Key: []byte{0, 9, 1}, Value: []byte{1}}, protocol.Record{Key: nil, Value: []byte{1}},
		protocol.Record{Key: []byte{0, 1, 0, 200}, Value: []byte{0, 3}}, protocol.Record{Key: (&groupRecord{name: "g"}).key(), Value: []byte{0, 3, 255}})
	k := kmsg.OffsetCommitKey{Version: 0, Group: "old", Topic: "t", Partition: 0}
	v := kmsg.OffsetCommitValue{Version: 1, Offset: 12, Metadata: "m", CommitTimestamp: h.now.UnixMilli(), ExpireTimestamp: h.now.Add(time.Hour).UnixMilli()}
	h.log.put(protocol.Record{Key: k.AppendTo(nil), Value: v.AppendTo(nil)})
	h.move()
	h.wantOffsets("g", 4)
	h.wantOffsets("old", 12)
}

func FuzzGroupRecord(f *testing.F) {
	o := offsetRecord("g", CommittedOffset{Topic: "t", Partition: 1, Offset: 2, Metadata: "m", Expires: -1})
	f.Add(o.key(), o.value())
	m := groupRecord{name: "g", meta: &kmsg.GroupMetadataValue{ProtocolType: "consumer", Members: []kmsg.GroupMetadataValueMember{{MemberID: "x"}}}}
	f.Add(m.key(), m.value())
	f.Add([]byte{0, 2}, []byte{0, 3})
	f.Fuzz(func(t *testing.T, key, value []byte) {
		r, err := decodeGroupRecord(key, value)
		if err != nil || r.deleted {
			return
		}
		// What was understood is the same when it is written and read again.
		again, err := decodeGroupRecord(r.key(), r.value())
		if err != nil {
			t.Fatal(err)
		}
		if r.isOffset && (again.offset.Offset != r.offset.Offset || again.offset.Metadata != r.offset.Metadata || again.name != r.name) {
			t.Fatalf("%+v became %+v", r, again)
		}
	})
}

// A static member takes its place again, and the coordinator ends while that is on its way to the log: its JoinGroup is answered, else nothing
// behind it on its connection would be.
func TestGroupStaticReplacedAtTheEnd(t *testing.T) {
	h := newGroupHarness(t, GroupConfig{})
	a := h.join(static("A", "")).get()
	h.sync(a.MemberID, a.Generation, nil).get()
	h.log.waitForCommit()
	b := h.join(static("A", ""))
	if !b.waits() {
		t.Fatalf("answered before it is stored: %+v", b.get())
	}
	log := h.log
	h.move()
	log.commit()
	h.want(b.get().Err, ErrNotCoordinator)
}

// Somebody who was only given an id and leaves was no member: the others go on.
func TestGroupPendingMemberLeaves(t *testing.T) {
	h := newGroupHarness(t, GroupConfig{})
	ids, gen := h.stable(1)
	r := request("")
	r.RequireID = true
	id := h.join(r).get().MemberID
	h.want(h.leave(id), nil)
	h.wantState("Stable")
	h.want(h.heartbeat(ids[0], gen), nil)
	// A rebalance that waits for it goes on.
	id = h.join(r).get().MemberID
	a := h.join(request(ids[0]))
	if !a.waits() {
		t.Fatal("the rebalance did not wait for who was given an id")
	}
	h.want(h.leave(id), nil)
	h.want(a.get().Err, nil)
}

// What neither the paper nor a conversation shows well: refusals, restarts, encodings, bounds.

package raft

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"
)

func validConfig() Config {
	return Config{Group: testGroup, Self: Member{1, 101}, ElectionTimeout: testET, HeartbeatInterval: testHB, ClockDrift: testDrift,
		Log: &memLog{}, Bootstrap: ConfState{Voters: members(1, 2, 3)}}
}

func TestNewRefusesNonsense(t *testing.T) {
	for name, change := range map[string]func(*Config){
		"group":           func(c *Config) { c.Group = 0 },
		"self":            func(c *Config) { c.Self.ID = 0 },
		"log":             func(c *Config) { c.Log = nil },
		"timeout":         func(c *Config) { c.ElectionTimeout = 0 },
		"heartbeat":       func(c *Config) { c.HeartbeatInterval = testET },
		"drift":           func(c *Config) { c.ClockDrift = testET },
		"term":            func(c *Config) { c.HardState.Term = MaxTerm + 1 },
		"applied":         func(c *Config) { c.Applied = 3 },
		"unsorted voters": func(c *Config) { c.Bootstrap.Voters = members(2, 1) },
		"double role":     func(c *Config) { c.Bootstrap.Learners = members(1) },
		"behind snapshot": func(c *Config) { c.Log = &memLog{base: Ticket{3, 5}} },
		"membership": func(c *Config) {
			c.Log = &memLog{ents: []Entry{{Term: 1, Index: 1, Type: EntryConfig, Payload: []byte{9}}}}
		},
	} {
		cfg := validConfig()
		change(&cfg)
		if r, err := New(cfg); err == nil || r != nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if _, err := New(validConfig()); err != nil {
		t.Error(err)
	}
}

// The journal lost the last term to a power cut that the log survived: the term is the log's, and the vote of the older term is
// not taken into it.
func TestRestartTakesLaterTermOfLog(t *testing.T) {
	cfg := validConfig()
	cfg.Log = &memLog{ents: []Entry{{Term: 4, Index: 1, Type: EntryNoop}}}
	cfg.HardState = HardState{Term: 3, Vote: 2}
	r, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if r.term != 4 || r.vote != 0 {
		t.Fatalf("%+v", r.Status())
	}
	if rd, ok := r.Ready(); !ok || rd.HardState == nil || *rd.HardState != (HardState{Term: 4}) {
		t.Fatalf("not written down: %+v", rd)
	}
}

func TestMisaddressedMessagesAreDropped(t *testing.T) {
	c := paperCluster(t)
	l := c.elect(t, 1)
	if err := l.propose("x"); err != nil {
		t.Fatal(err)
	}
	l.settle()
	for name, change := range map[string]func(*Message){
		"group":                      func(m *Message) { m.Group++ },
		"node":                       func(m *Message) { m.To = 2 },
		"from itself":                func(m *Message) { m.From = 1 },
		"incarnation of this node":   func(m *Message) { m.ToIncarnation = 55 },
		"incarnation of the sender":  func(m *Message) { m.FromIncarnation = 55 },
		"an earlier start of sender": func(m *Message) { m.FromBoot = 0 },
	} {
		m := msg(MsgAppResp, 2, 1, l.r.term)
		m.Index = l.r.last
		change(&m)
		if err := l.r.Step(l.now(), &m); !errors.Is(err, ErrMisaddressed) || l.r.commit == l.r.last {
			t.Errorf("%s: %v, commit %d", name, err, l.r.commit)
		}
	}
	m := msg(MsgAppResp, 9, 1, l.r.term)
	if err := l.r.Step(l.now(), &m); !errors.Is(err, ErrNotMember) {
		t.Errorf("stranger: %v", err)
	}
	m = msg(MsgAppResp, 2, 1, l.r.term)
	m.Index = l.r.last + 1
	if err := l.r.Step(l.now(), &m); !errors.Is(err, ErrBadMessage) {
		t.Errorf("acknowledges what was never sent: %v", err)
	}
	m = msg(MsgApp, 2, 1, l.r.term)
	if err := l.r.Step(l.now(), &m); !errors.Is(err, ErrDiverged) {
		t.Errorf("a second leader: %v", err)
	}
}

// A wiped disk is a new replica, even with the old name: it must not lend its weight to what its predecessor stood for; but it
// is not kept from hearing, nor is its own request, for the receiver's membership may be the older one.
func TestOtherIncarnationAsksAndIsAnswered(t *testing.T) {
	c := paperCluster(t)
	n := c.node(1)
	m := msg(MsgVote, 3, 1, 1)
	m.FromIncarnation = 55
	if err := n.r.Step(n.now(), &m); err != nil {
		t.Fatal(err)
	}
	n.settle()
	if out := c.sent(MsgVoteResp); len(out) != 1 || out[0].Reject || out[0].ToIncarnation != 55 {
		t.Fatalf("%+v", out)
	}
	// But the vote of this term is the other one's now.
	m.FromIncarnation = 103
	if err := n.r.Step(n.now(), &m); err != nil {
		t.Fatal(err)
	}
	n.settle()
	if out := c.sent(MsgVoteResp); len(out) != 1 || !out[0].Reject {
		t.Fatalf("voted for two lives of a node in one term: %+v", out)
	}
	// Not itself a member under this life: never campaigns.
	cfg := validConfig()
	cfg.Self.Incarnation = 55
	cfg.Fresh = true
	r, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if r.Campaign(Time(testET)); r.role != Follower || r.Deadline() != Forever {
		t.Fatalf("%+v", r.Status())
	}
}

func TestNoTermBeyondKafkasEpoch(t *testing.T) {
	cfg := validConfig()
	cfg.HardState.Term = MaxTerm
	cfg.Fresh = true
	r, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	r.Tick(Forever / 2)
	if r.role != Follower || r.Deadline() != Forever {
		t.Fatalf("%+v", r.Status())
	}
	m := msg(MsgHeartbeat, 2, 1, MaxTerm+1)
	if err := r.Step(Forever/2, &m); !errors.Is(err, ErrBadMessage) {
		t.Fatal(err)
	}
}

// A log that cannot be read stops neither the core nor its other followers, and is said.
func TestUnreadableLogIsReported(t *testing.T) {
	c := paperCluster(t)
	l := c.elect(t, 1)
	broken := errors.New("broken disk")
	if err := l.propose("x"); err != nil {
		t.Fatal(err)
	}
	l.process()
	l.log.readErr = broken
	m := msg(MsgAppResp, 2, 1, l.r.term)
	m.Index = l.r.last
	if err := l.r.Step(l.now(), &m); err != nil {
		t.Fatal(err)
	}
	l.syncLog()
	rd, ok := l.r.Ready()
	if !ok || !errors.Is(rd.Err, broken) {
		t.Fatalf("%+v", rd)
	}
	l.log.readErr = nil
	c.stabilize()
	if l.upTo != l.r.last {
		t.Fatalf("did not go on: applied %d of %d", l.upTo, l.r.last)
	}
}

func TestProposeChecksPlaces(t *testing.T) {
	c := paperCluster(t)
	l := c.elect(t, 1)
	term, next, err := l.r.NextProposal()
	if err != nil {
		t.Fatal(err)
	}
	for name, es := range map[string][]Entry{
		"index": {{Term: term, Index: next + 1, Type: EntryCommand}},
		"term":  {{Term: term + 1, Index: next, Type: EntryCommand}},
		"gap":   {{Term: term, Index: next, Type: EntryCommand}, {Term: term, Index: next + 2, Type: EntryCommand}},
		"conf":  {{Term: term, Index: next, Type: EntryConfig}},
	} {
		if err := l.r.Propose(l.now(), es); !errors.Is(err, ErrBadProposal) || l.r.last != next-1 {
			t.Errorf("%s: %v, last %d", name, err, l.r.last)
		}
	}
	if err := c.node(2).propose("x"); !errors.Is(err, ErrNotLeader) {
		t.Error(err)
	}
}

func TestConfChangeApply(t *testing.T) {
	cur := ConfState{Voters: members(1, 2, 3), Learners: members(4, 5)}
	one := func(op ConfOp, id NodeID) ConfStep { return ConfStep{op, members(id)[0]} }
	for _, tc := range []struct {
		steps []ConfStep
		joint bool
		want  string // "" for an error
	}{
		{[]ConfStep{one(AddVoter, 6)}, false, "voters=(1 2 3 6) learners=(4 5)"},
		{[]ConfStep{one(AddVoter, 6)}, true, "voters=(1 2 3 6)&&(1 2 3) learners=(4 5)"},
		{[]ConfStep{one(AddLearner, 6)}, false, "voters=(1 2 3) learners=(4 5 6)"},
		{[]ConfStep{one(Promote, 4)}, false, "voters=(1 2 3 4) learners=(5)"},
		{[]ConfStep{one(Promote, 4), one(Remove, 1)}, false, "voters=(2 3 4)&&(1 2 3) learners=(5)"},
		{[]ConfStep{one(Remove, 5), one(Remove, 2)}, false, "voters=(1 3) learners=(4)"},
		{[]ConfStep{one(Remove, 1), one(Remove, 2), one(Remove, 3), one(Promote, 4)}, false, "voters=(4)&&(1 2 3) learners=(5)"},
		{[]ConfStep{one(Remove, 1), one(Remove, 2), one(Remove, 3)}, false, ""},
		{[]ConfStep{one(AddVoter, 1)}, false, ""},
		{[]ConfStep{one(AddVoter, 4)}, false, ""},
		{[]ConfStep{one(Promote, 1)}, false, ""},
		{[]ConfStep{one(Promote, 9)}, false, ""},
		{[]ConfStep{one(Remove, 9)}, false, ""},
		{[]ConfStep{one(Remove, 1), {AddVoter, Member{1, 77}}}, false, ""}, // a new life only after the old one is out
		{[]ConfStep{{Remove, Member{1, 77}}}, false, ""},
		{[]ConfStep{{Remove, Member{1, 0}}}, false, "voters=(2 3) learners=(4 5)"},
		{[]ConfStep{{AddVoter, Member{}}}, false, ""},
		{[]ConfStep{{ConfOp(77), Member{ID: 8}}}, false, ""},
		{nil, true, ""},
	} {
		got, err := ConfChange{Steps: tc.steps, Joint: tc.joint}.Apply(&cur)
		if s := got.String(); err == nil && s != tc.want || (err != nil) != (tc.want == "") {
			t.Errorf("%v joint %v: %v, %v; want %q", tc.steps, tc.joint, s, err, tc.want)
		}
	}
	if !cur.Equal(&ConfState{Voters: members(1, 2, 3), Learners: members(4, 5)}) {
		t.Fatal("changed what was passed in")
	}
	joint := ConfState{Voters: members(1), Outgoing: members(2)}
	if _, err := (ConfChange{Steps: []ConfStep{one(AddVoter, 6)}}).Apply(&joint); !errors.Is(err, ErrConfPending) {
		t.Fatal(err)
	}
}

// A snapshot carries the membership as of its index, which may be older than the one in effect.
func TestConfAtAppliedIndex(t *testing.T) {
	c := newCluster(1)
	n := c.add(1, ConfState{Voters: members(1)}, true)
	c.add(2, ConfState{}, true)
	n.tick()
	c.stabilize()
	if _, err := n.r.ProposeConf(n.now(), ConfChange{Steps: []ConfStep{{AddLearner, members(2)[0]}}}); err != nil {
		t.Fatal(err)
	}
	n.process()
	if got := n.r.ConfAt(n.upTo); got.String() != "voters=(1)" || n.r.conf().String() != "voters=(1) learners=(2)" {
		t.Fatalf("at applied %v, in effect %v", got, n.r.conf())
	}
	c.stabilize()
	n.snapshotAndCompact(0)
	n.crash(func(int) int { return 0 })
	n.start(false)
	if got := n.r.ConfAt(n.upTo); got.String() != "voters=(1) learners=(2)" {
		t.Fatalf("after a restart from the snapshot: %v", got)
	}
}

// A new learner of a group whose leader is at rest, a slow follower, a dead one: each has its own pipeline.
func TestSlowFollowerHoldsNobody(t *testing.T) {
	c := paperCluster(t)
	l := c.elect(t, 1)
	c.cut[[2]NodeID{1, 3}] = true
	for range 50 {
		if err := l.propose("x"); err != nil {
			t.Fatal(err)
		}
		if !c.stabilize() {
			t.Fatal("does not come to rest")
		}
	}
	if l.r.commit != l.r.last {
		t.Fatalf("commit %d of %d", l.r.commit, l.r.last)
	}
	for _, p := range l.r.Peers() {
		if p.Member.ID == 3 && p.Inflight != 4 {
			t.Fatalf("in flight to the dead one: %+v", p)
		}
	}
	clear(c.cut)
	if !c.run(10*time.Second, func() bool { return c.node(3).upTo == l.r.commit }) {
		t.Fatal("the follower that came back is not caught up")
	}
}

func TestStrings(t *testing.T) {
	for i := range uint8(12) {
		_ = ProgressState(i % 3).String()
		if strings.Contains(ConfOp(i%4+1).String(), "ConfOp") || i > 0 && strings.Contains(MessageType(i%11+1).String(), "MessageType") {
			t.Errorf("no name for %d", i)
		}
	}
	if ConfOp(9).String() != "ConfOp(9)" {
		t.Error("unknown step")
	}
}

func TestInflights(t *testing.T) {
	var f inflights
	var want []Index
	for i := Index(1); i <= 100; i++ {
		f.add(i, 10)
		want = append(want, i)
		if i%3 == 0 {
			f.freeTo(i - 5)
			want = slices.DeleteFunc(want, func(x Index) bool { return x <= i-5 })
			if f.n != len(want) || f.bytes != int64(10*len(want)) {
				t.Fatalf("%d: %d messages of %d bytes, want %d", i, f.n, f.bytes, len(want))
			}
		}
	}
	if !f.full(f.n, 1<<30) || !f.full(1<<30, f.bytes) || f.full(f.n+1, f.bytes+1) {
		t.Fatal("bounds")
	}
	f.freeTo(1000)
	if f.n != 0 || f.bytes != 0 || f.full(1, 0) {
		t.Fatal("an empty pipeline takes one message, however large")
	}
}

// One change at a time, also where the first needs no joint configuration: two at once could form two majorities.
func TestOneConfChangeAtATime(t *testing.T) {
	c := paperCluster(t)
	l := c.elect(t, 1)
	add := func(id NodeID) error {
		_, err := l.r.ProposeConf(l.now(), ConfChange{Steps: []ConfStep{{AddVoter, members(id)[0]}}})
		return err
	}
	if err := add(4); err != nil {
		t.Fatal(err)
	}
	if err := add(5); !errors.Is(err, ErrConfPending) {
		t.Fatal(err)
	}
	c.stabilize()
	if err := add(5); err != nil {
		t.Fatal(err)
	}
}

// While a snapshot is on its way to a follower, no acknowledgement of less than it has the leader send another.
func TestOneSnapshotAtATime(t *testing.T) {
	c := paperCluster(t)
	l := c.elect(t, 1)
	c.cut[[2]NodeID{1, 3}] = true
	for range 6 {
		if err := l.propose("x"); err != nil {
			t.Fatal(err)
		}
		c.stabilize()
	}
	l.snapshotAndCompact(0)
	asked := 0
	l.autoSnap = false
	l.onReady = func(_ *memNode, rd *Ready) { asked += len(rd.SendSnapshot) }
	p := l.r.peer(3)
	p.becomeProbe()
	l.r.sendTo(p)
	l.process()
	s := l.takeSnapshot()
	if err := l.r.StepSnapshot(l.now(), 3, &s); err != nil {
		t.Fatal(err)
	}
	for i := Index(0); i < 7; i++ {
		for _, typ := range []MessageType{MsgAppResp, MsgHeartbeatResp} {
			m := msg(typ, 3, 1, l.r.term)
			if typ == MsgAppResp {
				m.Index = i
			}
			if err := l.r.Step(l.now(), &m); err != nil {
				t.Fatal(err)
			}
			l.process()
		}
	}
	if asked != 1 || p.State != SnapshotState {
		t.Fatalf("asked for %d snapshots, state %v", asked, p.State)
	}
	l.r.SnapshotFailed(l.now(), 3)
	m := msg(MsgHeartbeatResp, 3, 1, l.r.term)
	if err := l.r.Step(l.now(), &m); err != nil {
		t.Fatal(err)
	}
	l.process()
	if asked != 2 {
		t.Fatalf("after a failure: asked for %d snapshots", asked)
	}
}

// A report of the disk about the log that a snapshot has replaced says nothing about the new one.
func TestReportFromBeforeSnapshot(t *testing.T) {
	c := paperCluster(t)
	n := c.node(1)
	app := func(term Term, prev Index, prevTerm Term, k int) {
		m := msg(MsgApp, NodeID(term%2+2), 1, term)
		m.Index, m.LogTerm = prev, prevTerm
		for i := range k {
			m.Entries = append(m.Entries, Entry{Term: term, Index: prev + 1 + Index(i), Type: EntryCommand})
		}
		if err := n.r.Step(n.now(), &m); err != nil {
			t.Fatal(err)
		}
		n.process()
		n.syncHardState()
	}
	app(1, 0, 0, 6) // a slow disk
	ticket := n.log.syncing[0].ticket
	m := msg(MsgSnap, 2, 1, 4)
	m.Snapshot = &Snapshot{Meta: SnapshotMeta{Index: 3, Term: 2, Conf: ConfState{Voters: members(1, 2, 3)}}, Data: []byte("0")}
	if err := n.r.Step(n.now(), &m); err != nil {
		t.Fatal(err)
	}
	n.process()
	n.syncHardState()
	app(4, 3, 2, 3)
	n.r.AppendSynced(n.now(), ticket)
	if n.r.stable != 3 || n.r.last != 6 {
		t.Fatalf("stable %d, last %d", n.r.stable, n.r.last)
	}
}

// meter is a Throttle that lets a number of bytes through.
type meter struct{ left, sent int64 }

func (m *meter) Allow(to NodeID, _ Time) bool { return to == 3 && m.left > 0 }

func (m *meter) Sent(_ NodeID, n int64) {
	m.left -= n
	m.sent += n
}

// A learner that is far behind gets what the throttle lets through, voters get everything at once, and the learner goes on
// with the next answered heartbeat when there is more room.
func TestThrottle(t *testing.T) {
	m := &meter{}
	c := newCluster(1)
	c.cfg = func(cfg *Config) { cfg.Throttle, cfg.MaxMessageBytes = m, 10 }
	for id := NodeID(1); id <= 2; id++ {
		c.add(id, ConfState{Voters: members(1, 2)}, true).start(true)
	}
	c.add(3, ConfState{}, true).start(true)
	l := c.node(1)
	l.r.Campaign(l.now())
	settle := func(d time.Duration, done func() bool) bool { return c.run(d, done) }
	if !settle(time.Minute, func() bool { return l.r.commit > 0 && l.r.applied == l.r.commit }) {
		t.Fatal("no leader")
	}
	for range 20 {
		if err := l.propose("0123456789"); err != nil {
			t.Fatal(err)
		}
	}
	if !settle(time.Minute, func() bool { return c.node(2).r.commit == l.r.last }) {
		t.Fatal("voters were held back")
	}
	if _, err := l.r.ProposeConf(l.now(), ConfChange{Steps: []ConfStep{{AddLearner, members(3)[0]}}}); err != nil {
		t.Fatal(err)
	}
	if settle(3*time.Second, func() bool { return c.node(3).r.last > 0 }) || m.sent != 0 {
		t.Fatalf("the learner got %d entries, %d bytes", c.node(3).r.last, m.sent)
	}
	if l.r.role != Leader || c.node(2).r.commit != l.r.last {
		t.Fatalf("the leader is hindered: %+v", l.r.Status())
	}
	m.left = 100
	if settle(3*time.Second, func() bool { return c.node(3).r.last == l.r.last }) || m.sent < 100 || m.sent > 120 {
		t.Fatalf("%d bytes went out where 100 were let through", m.sent)
	}
	m.left = 1 << 20
	if !settle(3*time.Second, func() bool { return c.node(3).r.last == l.r.last }) {
		t.Fatalf("the learner does not go on: %+v", l.r.Peers())
	}
	// After a round that did not take long it is no longer held back.
	for range 2 {
		if err := l.propose("more"); err != nil {
			t.Fatal(err)
		}
		if !settle(3*time.Second, func() bool { return c.node(3).r.last == l.r.last }) {
			t.Fatal("a learner that keeps up is held back")
		}
		m.left = 0
	}
}

// asker is a Pacer that only notes who is asked for.
type asker map[NodeID]int

func (a asker) Ask(to NodeID, _, _ Index) { a[to]++ }

// Who survives a reset is not behind for what was committed, and is lost: others wait for its log from then on.
func TestBehindEndsWithReset(t *testing.T) {
	c := newCluster(1)
	for id := NodeID(1); id <= 3; id++ {
		c.add(id, ConfState{Voters: members(1, 2, 3)}, true).start(true)
	}
	l, first, second := c.node(1), c.node(2), c.node(3)
	l.r.Campaign(l.now())
	if !c.run(time.Minute, func() bool { return l.r.commit > 0 && first.r.last == l.r.last && second.r.last == l.r.last }) {
		t.Fatal("no leader")
	}
	err := second.r.Step(second.now(), &Message{Type: MsgApp, Group: testGroup, From: 1, To: 3, Term: l.r.term, Index: l.r.last, LogTerm: l.r.lastTerm, Commit: l.r.last + 100})
	if err != nil || !second.r.Behind() {
		t.Fatalf("it does not know that it is behind: %v", err)
	}
	l.crash(func(int) int { return 0 })
	order := Reset{Epoch: 1, Term: second.r.term + 10, Leader: 2, Survivors: members(2, 3)}
	for _, n := range []*memNode{first, second} {
		if !c.run(time.Minute, func() bool { return n.r.Reset(n.now(), order) == nil }) {
			t.Fatal("the reset is not taken")
		}
		n.process()
	}
	if !c.run(time.Minute, func() bool { return first.r.role == Leader && second.r.commit == first.r.last }) {
		t.Fatalf("%v, %v", first.r.Status(), second.r.Status())
	}
	if second.r.Behind() {
		t.Fatal("it takes itself for behind")
	}
}

// What is committed goes to a member that is behind when SendBehind says so, while the others commit without it; and at once when
// they cannot do without it any more.
func TestPacer(t *testing.T) {
	asked := asker{}
	c := newCluster(1)
	c.cfg = func(cfg *Config) { cfg.Pacer, cfg.MaxMessageBytes = asked, 10 }
	for id := NodeID(1); id <= 3; id++ {
		c.add(id, ConfState{Voters: members(1, 2, 3)}, true).start(true)
	}
	l, away := c.node(1), c.node(3)
	l.r.Campaign(l.now())
	if !c.run(time.Minute, func() bool { return l.r.commit > 0 && l.r.applied == l.r.commit && away.r.last == l.r.last }) {
		t.Fatal("no leader")
	}
	none := func(int) int { return 0 }
	away.crash(none)
	for range 20 {
		if err := l.propose("0123456789"); err != nil {
			t.Fatal(err)
		}
	}
	if !c.run(time.Minute, func() bool { return l.r.commit == l.r.last }) {
		t.Fatal("two of three do not commit")
	}
	had := away.log.LastIndex()
	away.start(false)
	c.run(3*time.Second, func() bool { return false })
	if got := away.log.LastIndex(); got > had+2 { // a probe may carry one
		t.Fatalf("%d entries went out that nobody had let go", got-had)
	}
	if asked[3] == 0 || asked[2] != 0 || l.r.role != Leader {
		t.Fatalf("asked %v, %v", asked, l.r.Status())
	}
	for range 3 {
		had = away.log.LastIndex()
		if n := l.r.SendBehind(l.now(), 3, nil); n == 0 || l.r.BehindInflight(3) != n {
			t.Fatalf("%d bytes, of which %d are on their way", n, l.r.BehindInflight(3))
		}
		l.process()
		if !c.run(3*time.Second, func() bool { return away.log.LastIndex() > had && l.r.BehindInflight(3) == 0 }) {
			t.Fatal("what was let go did not arrive")
		}
	}
	read := func(from, upTo Index) []Entry {
		es, err := l.log.Entries(from, upTo, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		return es
	}
	// What was read meanwhile goes out as it is, in as many messages as it takes; not from another place, nor of another log.
	p := l.r.peer(3)
	foreign := read(p.Next, p.Next+2)
	foreign[1].Term++
	for _, es := range [][]Entry{read(p.Next+1, p.Next+2), read(p.Next-1, p.Next), foreign} {
		before := asked[3]
		if n := l.r.SendBehind(l.now(), 3, es); n != 0 || asked[3] != before+1 {
			t.Fatalf("%d bytes of what does not belong there, asked %d times", n, asked[3]-before)
		}
	}
	had = away.log.LastIndex()
	if n := l.r.SendBehind(l.now(), 3, read(p.Next, p.Next+3)); n != 30 || l.r.BehindInflight(3) != n {
		t.Fatalf("%d of 30 bytes, of which %d are on their way", n, l.r.BehindInflight(3))
	}
	l.process()
	if !c.run(3*time.Second, func() bool { return away.log.LastIndex() == had+3 && l.r.BehindInflight(3) == 0 }) {
		t.Fatal("what was read did not arrive")
	}
	if !away.r.Behind() || l.r.Behind() {
		t.Fatal("who is behind does not know")
	}
	if l.r.SendBehind(l.now(), 2, nil) != 0 || l.r.SendBehind(l.now(), 9, nil) != 0 {
		t.Fatal("sent to whom nothing lacks")
	}
	c.node(2).crash(none)
	if err := l.propose("0123456789"); err != nil {
		t.Fatal(err)
	}
	if !c.run(time.Minute, func() bool { return l.r.commit == l.r.last && l.r.role == Leader || c.node(3).r.role == Leader }) || away.log.LastIndex() < had+10 {
		t.Fatalf("the log that is needed does not catch up: %d, %+v", away.log.LastIndex(), l.r.Peers())
	}
}

// Who answers is at work, and can take over, however late the answers are: catching up yields to proposals, the more so where all are late.
func TestLateAnswersAreAnswers(t *testing.T) {
	c := newCluster(1)
	c.cfg = func(cfg *Config) { cfg.Pacer, cfg.MaxMessageBytes = asker{}, 10 }
	for id := NodeID(1); id <= 3; id++ {
		c.add(id, ConfState{Voters: members(1, 2, 3)}, true).start(true)
	}
	l := c.node(1)
	l.r.Campaign(l.now())
	if !c.run(time.Minute, func() bool { return l.r.commit > 0 && l.r.applied == l.r.commit && l.r.peer(3).Match == l.r.last }) {
		t.Fatal("no leader")
	}
	for id := NodeID(2); id <= 3; id++ {
		p := l.r.peer(id)
		p.ackedAt = l.r.now.add(-2 * l.r.cfg.ElectionTimeout)
		l.r.contact(p, l.r.now.add(-l.r.cfg.ElectionTimeout*3/2), l.r.now)
	}
	if l.r.now >= l.r.quorumUntil() {
		t.Fatal("check-quorum does not count them")
	}
	if id, _ := l.r.Successor(); id != 2 {
		t.Errorf("%d can take over", id)
	}
	l.r.peer(3).Next = l.r.commit
	if !l.r.paced(l.r.peer(3)) {
		t.Error("who is behind is sent everything at once")
	}
}

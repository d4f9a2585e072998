package multi

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/balsamq/balsa/raft"
)

func TestProposeAndRead(t *testing.T) {
	s := newSim(t, 1, 3, 1, nil)
	l := s.waitLeader(1)
	g := s.group(l, 1)
	r := s.propose(g, "a")
	s.until("the proposal's end", r.ended)
	if r.o.Err != nil || r.o.Result != 1 || r.o.Term != g.Status().Term {
		t.Fatalf("outcome %+v", r.o)
	}
	var at raft.Index
	var rerr error
	calls := 0
	g.Read(func(i raft.Index, err error) { at, rerr = i, err; calls++ })
	s.until("the read's end", func() bool { return calls > 0 })
	if calls != 1 || rerr != nil || at < r.o.Index {
		t.Fatalf("read: %d calls, index %d, %v", calls, at, rerr)
	}
	f := (l + 1) % 3
	var fe error
	s.group(f, 1).Read(func(_ raft.Index, err error) { fe = err })
	s.settle()
	nl, ok := errors.AsType[*NotLeaderError](fe)
	if !ok || !errors.Is(fe, ErrNotLeader) || nl.Leader != raft.NodeID(l+1) {
		t.Fatalf("read on a follower: %v", fe)
	}
	r = s.propose(s.group(f, 1), "x")
	s.settle()
	if nl, ok := errors.AsType[*NotLeaderError](r.o.Err); !ok || nl.Leader != raft.NodeID(l+1) {
		t.Fatalf("proposal on a follower: %v", r.o.Err)
	}
	r = s.propose(g, "refuse")
	s.settle()
	if !errors.Is(r.o.Err, errRefused) {
		t.Fatalf("refusal: %v", r.o.Err)
	}
	s.run(2*simET, nil)
	s.checkEqual()
}

// A repeat of an entry that is still on its way ends when the original is applied, and not before.
func TestDuplicateWaits(t *testing.T) {
	s := newSim(t, 2, 3, 1, nil)
	l := s.waitLeader(1)
	g := s.group(l, 1)
	for i := range s.nodes {
		if i != l {
			s.cut[[2]raft.NodeID{raft.NodeID(l + 1), raft.NodeID(i + 1)}] = true
		}
	}
	orig := s.propose(g, "a")
	s.settle()
	at := g.Status().Last
	dup := s.propose(g, fmt.Sprintf("dup %d", at))
	s.settle()
	if orig.ended() || dup.ended() {
		t.Fatal("ended without a quorum")
	}
	clear(s.cut)
	s.until("both ends", func() bool { return orig.ended() && dup.ended() })
	if orig.o.Err != nil || dup.o.Err != nil || dup.o.Index != orig.o.Index || dup.o.Result != orig.o.Result {
		t.Fatalf("original %+v, repeat %+v", orig.o, dup.o)
	}
	late := s.propose(g, fmt.Sprintf("dup %d", at))
	s.settle()
	if !late.ended() || late.o.Err != nil || late.o.Index != at {
		t.Fatalf("late repeat %+v", late.o)
	}
	if got := s.nodes[l].sms[1].records(); !slices.Equal(got, []string{"a"}) {
		t.Fatalf("records %v", got)
	}
}

func TestAckLocal(t *testing.T) {
	s := newSim(t, 3, 3, 1, nil)
	l := s.waitLeader(1)
	g := s.group(l, 1)
	for i := range s.nodes {
		s.cut[[2]raft.NodeID{raft.NodeID(l + 1), raft.NodeID(i + 1)}] = true
	}
	s.nodes[l].slow = true
	local, all := &result{t: t}, &result{t: t}
	g.Propose(&Proposal{Type: raft.EntryRecords, Payload: []byte("l"), AckLocal: true, Done: local.done})
	g.Propose(&Proposal{Type: raft.EntryRecords, Payload: []byte("a"), Done: all.done})
	s.settle()
	if local.ended() {
		t.Fatal("acknowledged before the sync that it depends on")
	}
	s.nodes[l].slow = false
	s.settle()
	if !local.ended() || local.o.Err != nil || all.ended() {
		t.Fatalf("after the sync: local %+v, all ended %v", local.o, all.ended())
	}
	// The cut-off leader steps down, and then nobody can say what became of the other one.
	s.until("the leader to step down", func() bool { return g.Status().Role != raft.Leader })
	s.settle()
	if !all.ended() || !errors.Is(all.o.Err, ErrLeadershipLost) {
		t.Fatalf("after leadership was lost: %+v", all.o)
	}
}

func TestCloseEndsEverythingOnce(t *testing.T) {
	s := newSim(t, 4, 3, 2, nil)
	l := s.waitLeader(1)
	g := s.group(l, 1)
	for i := range s.nodes {
		s.cut[[2]raft.NodeID{raft.NodeID(l + 1), raft.NodeID(i + 1)}] = true
	}
	var rs []*result
	for i := range 5 {
		rs = append(rs, s.propose(g, fmt.Sprint(i)))
	}
	s.settle()
	for i := range 5 {
		rs = append(rs, s.propose(g, fmt.Sprint("inbox", i))) // still in the inbox when it closes
	}
	reads, conf := 0, &result{t: t}
	g.Read(func(raft.Index, error) { reads++ })
	g.ProposeConf(raft.ConfChange{}, conf.done)
	if err := g.Close(); err != nil {
		t.Fatal(err)
	}
	for i, r := range rs {
		if !r.ended() || !errors.Is(r.o.Err, ErrClosed) {
			t.Fatalf("proposal %d after Close: ended %v, %+v", i, r.ended(), r.o)
		}
	}
	if reads != 1 || !conf.ended() {
		t.Fatalf("%d reads ended, membership change ended: %v", reads, conf.ended())
	}
	r := s.propose(g, "late")
	if !r.ended() || !errors.Is(r.o.Err, ErrClosed) {
		t.Fatalf("proposal to a closed group: %+v", r.o)
	}
	if s.group(l, 1) != nil || !s.nodes[l].logs[1].closed {
		t.Fatal("the group is still there, or its log open")
	}
	if err := s.nodes[l].host.Close(); err != nil {
		t.Fatal(err)
	}
	if n := s.nodes[l].host.Stats().Groups; n != 0 {
		t.Fatalf("%d groups after Close", n)
	}
}

func TestLogFailureStopsTheGroup(t *testing.T) {
	var fatal []error
	s := newSim(t, 5, 3, 2, func(_ *Options, c *GroupConfig) { c.OnFatal = func(err error) { fatal = append(fatal, err) } })
	s.waitLeaders()
	l := s.leader(1)
	g := s.group(l, 1)
	boom := errors.New("input/output error")
	s.nodes[l].logs[1].setSyncErr(boom)
	r := s.propose(g, "a")
	s.settle()
	if !r.ended() || !errors.Is(r.o.Err, ErrLeadershipLost) || !errors.Is(r.o.Err, boom) {
		t.Fatalf("proposal on a failing log: %+v", r.o)
	}
	if len(fatal) != 1 || !errors.Is(fatal[0], boom) {
		t.Fatalf("OnFatal: %v", fatal)
	}
	st := g.Status()
	if !errors.Is(st.Err, ErrFailed) || st.Role == raft.Leader || st.Ready {
		t.Fatalf("status of a failed group: %+v", st)
	}
	if r := s.propose(g, "b"); !r.ended() || !errors.Is(r.o.Err, ErrFailed) {
		t.Fatalf("proposal to a failed group: %+v", r.o)
	}
	s.until("another leader", func() bool { n := s.leader(1); return n >= 0 && n != l })
	r = s.propose(s.group(s.leader(1), 1), "c")
	s.until("the next leader's proposal", r.ended)
	if r.o.Err != nil {
		t.Fatalf("%+v", r.o)
	}
	if err := g.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestHardStateFailureStopsTheHost(t *testing.T) {
	var fatal []error
	s := newSim(t, 6, 3, 3, func(o *Options, _ *GroupConfig) { o.OnFatal = func(err error) { fatal = append(fatal, err) } })
	s.waitLeaders()
	l := s.leader(1)
	s.nodes[l].states.fail(errors.New("journal is gone"))
	old := s.nodes[l].states.durable[2]
	s.group(l, 2).Campaign() // makes no difference where it leads; elsewhere a hard state has to be saved
	s.group(l, 3).Campaign()
	s.crash(s.nodes[(l+1)%3])
	s.run(20*simET, nil)
	for _, id := range s.ids {
		if st := s.group(l, id).Status(); len(fatal) > 0 && !errors.Is(st.Err, ErrHostFailed) {
			t.Fatalf("group %d goes on: %+v", id, st)
		}
	}
	if len(fatal) != 1 {
		t.Fatalf("OnFatal was called %d times", len(fatal))
	}
	if s.nodes[l].states.durable[2] != old {
		t.Fatal("a hard state was saved by a failed store")
	}
	if _, err := s.nodes[l].host.CreateGroup(GroupConfig{ID: 99, Log: newMemLog(99), Stager: &memSM{}, StateMachine: &memSM{}}); !errors.Is(err, ErrHostFailed) {
		t.Fatalf("CreateGroup on a failed host: %v", err)
	}
}

func TestNoSpaceIsRetried(t *testing.T) {
	s := newSim(t, 7, 3, 1, nil)
	l := s.waitLeader(1)
	g := s.group(l, 1)
	for _, n := range s.nodes { // all of them: else leadership would go where there is room
		n.logs[1].setSyncErr(errNoSpace)
	}
	r := s.propose(g, "a")
	s.until("the group to be full", func() bool { return g.Status().Full })
	r2 := s.propose(g, "b")
	s.settle()
	if !errors.Is(r2.o.Err, ErrFull) {
		t.Fatalf("produce to a full disk: %+v", r2.o)
	}
	before := s.nodes[l].host.Stats().NoSpace
	s.run(10*simET, nil)
	if n := s.nodes[l].host.Stats().NoSpace - before; n < 2 || n > 12 {
		t.Fatalf("%d retries in ten seconds: no back-off, or none at all", n)
	}
	if s.leader(1) != l {
		t.Fatal("leadership went round, and nobody has room")
	}
	for _, n := range s.nodes {
		n.logs[1].setSyncErr(nil)
	}
	s.until("room again", func() bool { return !g.Status().Full })
	s.until("the first proposal's end", r.ended)
	if r.o.Err != nil {
		t.Fatalf("%+v", r.o)
	}
	r3 := s.propose(s.group(s.waitLeader(1), 1), "c")
	s.until("produce to go on", r3.ended)
	if r3.o.Err != nil {
		t.Fatalf("%+v", r3.o)
	}
}

func TestApplyFailureStopsTheGroup(t *testing.T) {
	s := newSim(t, 8, 3, 1, nil)
	l := s.waitLeader(1)
	f := (l + 1) % 3
	s.nodes[f].sms[1].fail = errors.New("cannot fold this")
	r := s.propose(s.group(l, 1), "a")
	s.until("the proposal's end", r.ended)
	s.until("the follower to fail", func() bool { return s.group(f, 1).Status().Err != nil })
	if r.o.Err != nil {
		t.Fatalf("%+v", r.o)
	}
}

func TestSnapshotsAndInstall(t *testing.T) {
	s := newSim(t, 9, 3, 1, func(_ *Options, c *GroupConfig) { c.SnapshotEvery, c.KeepEntries = 2000, 5 })
	l := s.waitLeader(1)
	f := (l + 1) % 3
	s.crash(s.nodes[f])
	for i := range 200 {
		r := s.propose(s.group(l, 1), fmt.Sprintf("record %d", i))
		s.until("a proposal's end", r.ended)
		if r.o.Err != nil {
			t.Fatal(r.o.Err)
		}
	}
	if s.nodes[l].logs[1].FirstIndex() == 1 {
		t.Fatal("nothing was compacted")
	}
	s.start(s.nodes[f], false)
	s.until("the follower to catch up", func() bool { return len(s.nodes[f].sms[1].records()) == 200 })
	if s.nodes[f].host.Stats().SnapshotsInstalled == 0 {
		t.Fatal("no snapshot was installed")
	}
	s.checkEqual()
	// And a restart finds it.
	s.crash(s.nodes[f])
	s.start(s.nodes[f], false)
	r := s.propose(s.group(s.waitLeader(1), 1), "last")
	s.until("the last proposal's end", r.ended)
	s.until("the follower to have it", func() bool { return len(s.nodes[f].sms[1].records()) == 201 })
	s.checkEqual()
}

func TestBadFramesAreDropped(t *testing.T) {
	s := newSim(t, 10, 3, 1, nil)
	l := s.waitLeader(1)
	f := (l + 1) % 3
	st := s.group(f, 1).Status()
	e := raft.Entry{Term: st.Term, Index: st.Last + 1, Type: raft.EntryRecords, Payload: []byte("evil")}
	memFrame(1, &e)
	whole := e.Frame
	e.Frame = bytes.Clone(whole)
	e.Frame[18] ^= 1
	m := raft.Message{Type: raft.MsgApp, Group: 1, From: raft.NodeID(l + 1), To: raft.NodeID(f + 1),
		Term: st.Term, Index: st.Last, LogTerm: st.Term, Entries: []raft.Entry{e}}
	s.nodes[f].host.Deliver([]raft.Message{m})
	m.Entries = []raft.Entry{{Frame: whole}}
	m.Index--
	s.nodes[f].host.Deliver([]raft.Message{m}) // not the place that the entry is made for
	m.Index, m.Type = st.Last, raft.MsgHeartbeat
	s.nodes[f].host.Deliver([]raft.Message{m}) // no message for entries
	s.settle()
	if n := s.nodes[f].host.Stats().BadFrames; n != 3 {
		t.Fatalf("%d bad frames counted", n)
	}
	if m.Entries[0].Index != 0 {
		t.Fatal("the deliverer's entries were written to")
	}
	if got := s.nodes[f].logs[1].LastIndex(); got != st.Last {
		t.Fatalf("log grew to %d", got)
	}
}

func TestThrottledFollowerCatchesUp(t *testing.T) {
	s := newSim(t, 11, 3, 1, func(o *Options, _ *GroupConfig) { o.MaxUnsynced = 100 })
	l := s.waitLeader(1)
	f := (l + 1) % 3
	s.nodes[f].slow = true
	for i := range 50 {
		r := s.propose(s.group(l, 1), fmt.Sprintf("record %d", i))
		s.until("a proposal's end", r.ended)
	}
	if s.nodes[f].host.Stats().Throttled == 0 {
		t.Fatal("nothing was held back")
	}
	s.nodes[f].slow = false
	s.until("the follower to catch up", func() bool { return len(s.nodes[f].sms[1].records()) == 50 })
	s.checkEqual()
}

func TestOverload(t *testing.T) {
	s := newSim(t, 12, 3, 1, func(o *Options, _ *GroupConfig) { o.MaxInboxProposals, o.MaxUncommitted = 10, 100 })
	l := s.waitLeader(1)
	g := s.group(l, 1)
	var rs []*result
	for round := range 4 {
		for i := range 8 {
			rs = append(rs, s.propose(g, fmt.Sprintf("r%d-%d", round, i)))
		}
		s.nodes[l].host.Run()
	}
	s.until("all to end", func() bool {
		return !slices.ContainsFunc(rs, func(r *result) bool { return !r.ended() })
	})
	ok := 0
	for _, r := range rs {
		switch {
		case r.o.Err == nil:
			ok++
		case !errors.Is(r.o.Err, ErrOverloaded):
			t.Fatalf("%+v", r.o)
		}
	}
	if got := len(s.nodes[l].sms[1].records()); ok == len(rs) || ok < 10 || got != ok {
		t.Fatalf("%d of %d accepted, %d applied", ok, len(rs), got)
	}
}

// A leader whose disk is slower than its followers' does not pile up in memory what they have committed long since.
func TestSlowLeaderDiskIsBounded(t *testing.T) {
	const bound, size = 4 << 10, 1 << 10
	s := newSim(t, 12, 3, 1, func(o *Options, _ *GroupConfig) { o.MaxUnsynced, o.MaxMessageBytes = bound, size })
	l := s.waitLeader(1)
	g, n := s.group(l, 1), s.nodes[l]
	n.slow = true
	var rs []*result
	for i := range 40 {
		rs = append(rs, s.propose(g, fmt.Sprintf("%d%s", i, make([]byte, size))))
		s.run(5*time.Millisecond, nil)
	}
	if st := g.Status(); st.Commit <= st.Stable {
		t.Fatalf("commit %d, durable here %d: the followers committed nothing on their own", st.Commit, st.Stable)
	}
	if held := n.logs[1].Unsynced(); held > bound+2*size {
		t.Fatalf("%d bytes are not durable here, with a bound of %d", held, bound)
	}
	n.slow = false
	s.until("the end of all", func() bool {
		for _, r := range rs {
			if !r.ended() {
				return false
			}
		}
		return true
	})
	for i, r := range rs {
		if r.o.Err != nil {
			t.Fatalf("proposal %d: %v", i, r.o.Err)
		}
	}
}

func TestTransfer(t *testing.T) {
	s := newSim(t, 13, 3, 1, nil)
	l := s.waitLeader(1)
	s.run(5*simET, s.checkLeases) // covered by now
	to := (l + 1) % 3
	err := errors.New("not called")
	s.group(l, 1).Transfer(raft.NodeID(to+1), func(e error) { err = e })
	s.until("the transfer", func() bool { s.checkLeases(); return s.leader(1) == to })
	if err != nil {
		t.Fatal(err)
	}
}

func TestReplayIsTheSame(t *testing.T) {
	trace := func() string {
		s := newSim(t, 99, 3, 8, nil)
		s.loss, s.dup, s.delayMax = 0.05, 0.05, 30*time.Millisecond
		s.waitLeaders()
		for i := range 40 {
			if l := s.leader(raft.GroupID(i%8 + 1)); l >= 0 {
				s.propose(s.group(l, raft.GroupID(i%8+1)), fmt.Sprint(i))
			}
			s.run(simET/4, nil)
		}
		return s.trace.String()
	}
	a, b := trace(), trace()
	if len(a) < 10000 {
		t.Fatalf("trace of %d bytes says little", len(a))
	}
	if a != b {
		t.Fatal("the same seed gave another history")
	}
}

// A snapshot of its own is on its way to the disk when the leader's is installed. What the former cut off the log, and the
// membership as of there, belong to a log that is gone.
func TestInstallOvertakesOwnSnapshot(t *testing.T) {
	s := newSim(t, 11, 4, 1, func(_ *Options, c *GroupConfig) { c.SnapshotEvery, c.KeepEntries = 2000, 5 })
	produce := func(l, n int) {
		for i := range n {
			r := s.propose(s.group(l, 1), fmt.Sprintf("record %d", i))
			s.until("a proposal's end", r.ended)
			if r.o.Err != nil {
				t.Fatal(r.o.Err)
			}
		}
	}
	l := s.waitLeader(1)
	f, x := (l+1)%4, (l+2)%4
	produce(l, 60)
	s.until("the follower to have them", func() bool { return len(s.nodes[f].sms[1].records()) == 60 })
	for i := range s.nodes {
		if i != f {
			s.cut[[2]raft.NodeID{s.nodes[f].id, s.nodes[i].id}], s.cut[[2]raft.NodeID{s.nodes[i].id, s.nodes[f].id}] = true, true
		}
	}
	var removed *Outcome
	s.group(l, 1).ProposeConf(raft.ConfChange{Steps: []raft.ConfStep{{Op: raft.Remove, Member: raft.Member{ID: s.nodes[x].id}}}},
		func(o Outcome) { removed = &o })
	s.until("the removal", func() bool { return removed != nil })
	if removed.Err != nil {
		t.Fatal(removed.Err)
	}
	produce(l, 200)
	s.nodes[f].slow = true
	s.group(f, 1).Snapshot()
	s.settle()
	clear(s.cut)
	s.until("the leader's snapshot to be offered", func() bool { return s.group(f, 1).fetch != nil })
	s.nodes[f].slow = false
	s.until("the follower to catch up", func() bool { return len(s.nodes[f].sms[1].records()) == 260 })
	if s.nodes[f].host.Stats().SnapshotsInstalled == 0 || s.nodes[f].host.Stats().SnapshotsTaken == 0 {
		t.Fatalf("%+v", s.nodes[f].host.Stats())
	}
	s.group(f, 1).Snapshot()
	s.settle()
	snap, _ := s.nodes[f].logs[1].LoadSnapshot()
	if want := s.group(l, 1).Status().Conf; !snap.Meta.Conf.Equal(&want) {
		t.Fatalf("snapshot at %d says %v, the membership is %v", snap.Meta.Index, snap.Meta.Conf, want)
	}
}

// A log that is opened again within the process may hold less than before, and its replica says so. Its leader must
// forget what it was told of the log before, or it never refills it.
func TestReopenedWithLess(t *testing.T) {
	s := newSim(t, 12, 3, 1, nil)
	l := s.waitLeader(1)
	f := s.nodes[(l+1)%3]
	for i := range 20 {
		r := s.propose(s.group(l, 1), fmt.Sprintf("record %d", i))
		s.until("a proposal's end", r.ended)
	}
	s.until("the follower to have them", func() bool { return len(f.sms[1].records()) == 20 })
	s.run(5*simET, nil)
	g := f.host.Group(1)
	conf := g.cfg.Bootstrap
	if err := g.Close(); err != nil {
		t.Fatal(err)
	}
	old := f.logs[1].crash()
	log := newMemLog(1)
	log.entries = old.entries[:10]
	log.durable.entries = log.entries
	sm := &memSM{group: 1}
	f.logs[1], f.sms[1] = log, sm
	if _, err := f.host.CreateGroup(GroupConfig{ID: 1, Log: log, Stager: sm, StateMachine: sm, Bootstrap: conf, KeepEntries: -1,
		VoteAfter: old.last()}); err != nil {
		t.Fatal(err)
	}
	s.until("the follower to be refilled", func() bool { return len(sm.records()) == 20 && f.host.Group(1).Status().VoteAfter == 0 })
	if s.leader(1) != l {
		t.Fatal("the leader has changed: this test says nothing")
	}
	s.checkEqual()
}

// A fresh replica that starts again before it had any hard state to save is still in the epoch in which it was made.
func TestEpochWithoutHardState(t *testing.T) {
	s := newSim(t, 66, 3, 1, func(_ *Options, c *GroupConfig) { c.Epoch = 3 })
	n := s.nodes[0]
	s.crash(n)
	if _, known := n.states.Load(1); known {
		t.Fatal("there is a hard state")
	}
	s.start(n, false)
	if e := s.group(0, 1).Status().Epoch; e != 3 {
		t.Errorf("it is in epoch %d", e)
	}
}

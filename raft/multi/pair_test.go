package multi

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/balsamq/balsa/raft"
)

// allCovered: every leader's followers are under its pair heartbeats.
func (s *sim) allCovered() bool {
	for _, id := range s.ids {
		l := s.leader(id)
		if l < 0 || s.group(l, id).Status().CoveredPeers != len(s.nodes)-1 {
			return false
		}
		for i := range s.nodes {
			if i != l && !s.group(i, id).Status().Resting {
				return false
			}
		}
	}
	return true
}

// Idle groups cost nothing: no turn, no tick, no timer; only the pairs talk.
func TestIdleGroupsCostNothing(t *testing.T) {
	groups := 2000
	if testing.Short() {
		groups = 200
	}
	s := newSim(t, 20, 3, groups, nil)
	s.waitLeaders()
	s.until("all groups to be covered", s.allCovered)
	s.run(2*simET, nil) // timers that were armed before
	before := make([]Stats, 3)
	for i, n := range s.nodes {
		before[i] = n.host.Stats()
	}
	const idle = 30
	s.run(idle*simET, nil)
	for i, n := range s.nodes {
		a, b := n.host.Stats(), before[i]
		if a.Turns != b.Turns || a.Ticks != b.Ticks || a.MsgsOut != b.MsgsOut || a.Syncs != b.Syncs {
			t.Errorf("node %d: %d turns, %d ticks, %d messages, %d syncs while idle", n.id,
				a.Turns-b.Turns, a.Ticks-b.Ticks, a.MsgsOut-b.MsgsOut, a.Syncs-b.Syncs)
		}
		if hb := a.PairHeartbeats - b.PairHeartbeats; hb < idle*5 || hb > idle*25 {
			t.Errorf("node %d: %d pair heartbeats in %d election timeouts", n.id, hb, idle)
		}
	}
	// And still each leader holds its lease: a read is answered at once, without a round.
	for _, id := range s.ids[:50] {
		l := s.leader(id)
		sent, done := s.nodes[l].host.Stats().MsgsOut, false
		s.group(l, id).Read(func(_ raft.Index, err error) { done = err == nil })
		s.nodes[l].host.Run()
		if !done || s.nodes[l].host.Stats().MsgsOut != sent {
			t.Fatalf("group %d: read by lease: %v, messages sent: %d", id, done, s.nodes[l].host.Stats().MsgsOut-sent)
		}
	}
	// A covered group takes a proposal without waiting for anything.
	l := s.leader(1)
	r := s.propose(s.group(l, 1), "awake")
	at := s.clock.now
	s.until("the proposal's end", r.ended)
	if r.o.Err != nil || s.clock.now-at > raft.Time(simET/5) {
		t.Fatalf("%+v after %v", r.o, time.Duration(s.clock.now-at))
	}
	s.until("the group to be covered again", s.allCovered)
}

// A dead broker wakes its groups, and they do not all campaign in the same instant (TiKV #19070).
func TestDeadPeerWakesSpread(t *testing.T) {
	s := newSim(t, 21, 3, 120, nil)
	s.waitLeaders()
	s.until("all groups to be covered", s.allCovered)
	dead := s.leader(1)
	var ids []raft.GroupID
	for _, id := range s.ids {
		if s.leader(id) == dead {
			ids = append(ids, id)
		}
	}
	s.crash(s.nodes[dead])
	died := s.clock.now
	first := make(map[raft.GroupID]raft.Time)
	s.until("new leaders", func() bool {
		s.checkLeases()
		for _, id := range ids {
			if _, ok := first[id]; !ok && s.leader(id) >= 0 {
				first[id] = s.clock.now
			}
		}
		return len(first) == len(ids)
	})
	when := make(map[raft.Time]int)
	var last raft.Time
	for _, at := range first {
		when[(at-died)/raft.Time(simET/20)]++
		last = max(last, at)
	}
	if len(ids) < 20 || len(when) < 5 {
		t.Fatalf("%d groups woke in %d moments: %v", len(ids), len(when), when)
	}
	if last-died > raft.Time(4*simET) {
		t.Fatalf("the last group had a leader after %v", time.Duration(last-died))
	}
	// The other groups of the surviving pair were left alone.
	for _, id := range s.ids {
		if l := s.leader(id); l < 0 {
			t.Fatalf("group %d has no leader", id)
		}
	}
}

// A leader that nobody answers steps down although its groups were covered, and its lease ends in time.
func TestCutOffLeaderStepsDown(t *testing.T) {
	s := newSim(t, 22, 3, 5, nil)
	s.waitLeaders()
	s.until("all groups to be covered", s.allCovered)
	l := s.leader(1)
	for i := range s.nodes { // answers do not come through: the harder half
		s.cut[[2]raft.NodeID{raft.NodeID(i + 1), raft.NodeID(l + 1)}] = true
	}
	g := s.group(l, 1)
	at := s.clock.now
	s.until("the leader to step down", func() bool { s.checkLeases(); return g.Status().Role != raft.Leader })
	if d := time.Duration(s.clock.now - at); d > 3*simET {
		t.Fatalf("stepped down after %v", d)
	}
	s.until("another leader", func() bool { s.checkLeases(); n := s.leader(1); return n >= 0 && n != l })
	clear(s.cut)
	s.until("all groups to be covered again", func() bool { s.checkLeases(); return s.allCovered() })
}

// A follower that restarts has forgotten what it promised: its leader must not take its answers for promises.
func TestRestartedFollowerIsNotCovered(t *testing.T) {
	s := newSim(t, 23, 3, 3, nil)
	s.waitLeaders()
	s.until("all groups to be covered", s.allCovered)
	l := s.leader(1)
	f := (l + 1) % 3
	s.crash(s.nodes[f])
	s.start(s.nodes[f], false)
	s.until("the leader to notice", func() bool {
		s.checkLeases()
		return s.group(l, 1).Status().CoveredPeers < 2
	})
	if n := s.nodes[f].host.Stats().PairRefused; n == 0 {
		t.Fatal("a heartbeat of a session from before the restart was not refused")
	}
	s.until("all groups to be covered again", func() bool { s.checkLeases(); return s.allCovered() })
}

// While syncs stand still, pair heartbeats are withheld, and a leader whose own disk hangs for good, and which found nobody to
// hand leadership to, falls silent: a disk that hangs rather than fails must not keep leadership for ever.
func TestHangingDiskLosesLeadership(t *testing.T) {
	s := newSim(t, 24, 3, 4, func(o *Options, _ *GroupConfig) { o.HandOverAfter = time.Hour })
	s.waitLeaders()
	s.until("all groups to be covered", s.allCovered)
	l := s.leader(1)
	n := s.nodes[l]
	n.slow = true
	r := s.propose(s.group(l, 1), "never synced here") // its followers may well commit it
	s.run(3*simET, s.checkLeases)
	if n.host.Stats().PairStalled == 0 {
		t.Fatal("heartbeats were not withheld")
	}
	if s.leader(1) != l {
		t.Fatal("leadership was given up too early")
	}
	s.until("another leader", func() bool { s.checkLeases(); i := s.leader(1); return i >= 0 && i != l })
	if !r.ended() {
		s.until("the proposal's end", r.ended)
	}
	n.slow = false
	s.until("all groups to be covered again", func() bool { s.checkLeases(); return s.allCovered() })
	s.checkEqual()
}

// ---- coverage by hand: the follower side of a session, message by message

// tape records the pair messages that a node sends, and loses them; everything else goes to inner, if there is one.
type tape struct {
	inner Transport
	pairs []*PairMessage
	to    []raft.NodeID
}

func (tp *tape) Send(to raft.NodeID, msgs []raft.Message) {
	if tp.inner != nil {
		tp.inner.Send(to, msgs)
	}
}

func (tp *tape) SendPair(to raft.NodeID, m *PairMessage) {
	tp.pairs, tp.to = append(tp.pairs, m), append(tp.to, to)
}

func (tp *tape) SendChunk(raft.NodeID, *ChunkMessage) {}

func (tp *tape) last(t *testing.T) *PairMessage {
	t.Helper()
	return tp.pairs[len(tp.pairs)-1]
}

func (s *sim) beat(n *simNode, from int, m PairMessage) {
	n.host.DeliverPair(raft.NodeID(from+1), &m)
	s.settle()
}
func cover(g raft.GroupID, s Status) []CoveredGroup        { return []CoveredGroup{{g, s.Term, s.Commit}} }
func excepts(m *PairMessage, id raft.GroupID) (named bool) { return slices.Contains(m.Except, id) }

// follower gives a node that follows, cut off from all others, whose answers are on a tape.
func follower(t *testing.T) (s *sim, n *simNode, leader int, tp *tape) {
	s = newSim(t, 30, 3, 2, func(o *Options, _ *GroupConfig) { o.CoverAfter = time.Hour })
	s.waitLeaders()
	s.run(simET, nil)
	leader = s.leader(1)
	n = s.nodes[(leader+1)%3]
	tp = &tape{}
	n.host.o.Transport = tp
	for i := range s.nodes {
		s.cut[[2]raft.NodeID{raft.NodeID(i + 1), n.id}] = true
	}
	s.net = nil
	return s, n, leader, tp
}

func TestFollowerSession(t *testing.T) {
	s, n, l, tp := follower(t)
	g := n.host.Group(1)
	st := g.Status()
	s.beat(n, l, PairMessage{Session: 5, Seq: 2, SentAt: 10, Cover: cover(1, st)})
	if a := tp.last(t); a.Seq != 0 || a.Session != 5 {
		t.Fatalf("a session that was never opened: %+v", a)
	}
	s.beat(n, l, PairMessage{Session: 5, Seq: 1, SentAt: 11})
	if a := tp.last(t); a.Seq != 1 || a.SentAt != 11 || !a.Response {
		t.Fatalf("opening: %+v", a)
	}
	s.beat(n, l, PairMessage{Session: 5, Seq: 2, SentAt: 12, Cover: cover(1, st)})
	if a := tp.last(t); a.Seq != 2 || !excepts(a, 1) {
		t.Fatalf("promised before the group was asked: %+v", a)
	}
	s.beat(n, l, PairMessage{Session: 5, Seq: 3, SentAt: 13, Cover: cover(1, st)})
	if a := tp.last(t); a.Seq != 3 || excepts(a, 1) || !g.Status().Resting {
		t.Fatalf("not covered: %+v, %+v", a, g.Status())
	}
	k := len(tp.pairs)
	s.beat(n, l, PairMessage{Session: 5, Seq: 2, SentAt: 12, Uncover: []raft.GroupID{1}}) // late: another order than sent
	s.beat(n, l, PairMessage{Session: 5, Seq: 3, SentAt: 13})
	s.beat(n, l, PairMessage{Session: 5, Seq: 1, SentAt: 11})
	s.beat(n, l, PairMessage{Session: 4, Seq: 1, SentAt: 9})
	if len(tp.pairs) != k || !g.Status().Resting {
		t.Fatalf("late messages were answered or obeyed: %d answers", len(tp.pairs)-k)
	}
	// The wrong commit index, and a group that is not there.
	bad := cover(2, st)
	bad[0].Commit += 7
	s.beat(n, l, PairMessage{Session: 5, Seq: 4, SentAt: 14, Cover: append(bad, CoveredGroup{77, 1, 1})})
	s.beat(n, l, PairMessage{Session: 5, Seq: 5, SentAt: 15, Cover: append(bad, CoveredGroup{77, 1, 1})})
	if a := tp.last(t); !slices.Equal(a.Except, []raft.GroupID{2, 77}) {
		t.Fatalf("exceptions %v", a.Except)
	}
	// Out it goes before it enters another term, and every answer says so until the leader took it out too.
	n.host.Deliver([]raft.Message{{Type: raft.MsgVote, Group: 1, From: raft.NodeID(l + 1), To: n.id, Term: st.Term + 5,
		Index: st.Last, LogTerm: st.Term, Force: true}})
	s.settle()
	if g.Status().Resting || g.Status().Term != st.Term+5 {
		t.Fatalf("after a vote by order: %+v", g.Status())
	}
	for seq := uint64(6); seq < 9; seq++ {
		s.beat(n, l, PairMessage{Session: 5, Seq: seq, SentAt: raft.Time(10 + seq)})
		if a := tp.last(t); !excepts(a, 1) {
			t.Fatalf("answer %d promises for a group that has voted: %+v", seq, a)
		}
	}
	s.beat(n, l, PairMessage{Session: 5, Seq: 9, SentAt: 19, Uncover: []raft.GroupID{1, 2}})
	if a := tp.last(t); len(a.Except) != 0 {
		t.Fatalf("exceptions after they were taken out: %v", a.Except)
	}
	// Of the old term nothing is promised again.
	s.beat(n, l, PairMessage{Session: 5, Seq: 10, SentAt: 20, Cover: cover(1, st)})
	s.beat(n, l, PairMessage{Session: 5, Seq: 11, SentAt: 21, Cover: cover(1, st)})
	if a := tp.last(t); !excepts(a, 1) {
		t.Fatalf("promised for a term that is over: %+v", a)
	}
}

// The promise of the last answer binds the follower for a whole election timeout, whatever ended its coverage.
func TestPromiseOutlivesCoverage(t *testing.T) {
	for _, how := range []string{"covered", "uncovered", "session replaced", "session lost"} {
		t.Run(how, func(t *testing.T) {
			s, n, l, tp := follower(t)
			g := n.host.Group(1)
			st := g.Status()
			s.beat(n, l, PairMessage{Session: 5, Seq: 1})
			seq := uint64(1)
			var heard raft.Time
			for range 30 { // long enough for every direct contact to be forgotten
				seq++
				heard = s.clock.now
				s.beat(n, l, PairMessage{Session: 5, Seq: seq, Cover: cover(1, st)})
				s.run(simET/10, nil)
			}
			if excepts(tp.last(t), 1) {
				t.Fatal("not covered")
			}
			switch how {
			case "uncovered":
				s.beat(n, l, PairMessage{Session: 5, Seq: seq + 1, Uncover: []raft.GroupID{1}})
			case "session replaced":
				s.beat(n, l, PairMessage{Session: 6, Seq: 1})
			case "session lost":
				s.run(simET/2, nil)
				if g.Status().Resting {
					t.Fatal("still resting")
				}
			}
			vote := raft.Message{Type: raft.MsgVote, Group: 1, From: raft.NodeID((l+2)%3 + 1), To: n.id, Term: st.Term + 1,
				Index: st.Last + 100, LogTerm: st.Term, FromIncarnation: 1}
			if how == "covered" { // it takes itself out for the request, and refuses it
				s.clock.now = heard + raft.Time(simET)/2 - 1
				if s.settle(); !g.Status().Resting {
					t.Fatal("not resting")
				}
				n.host.Deliver([]raft.Message{vote})
				s.settle()
				if got := g.Status(); got.Term != st.Term || got.Resting {
					t.Fatalf("covered, it voted: %+v", got)
				}
			}
			s.clock.now = heard + raft.Time(simET) - 1
			n.host.Deliver([]raft.Message{vote})
			s.settle()
			if got := g.Status(); got.Term != st.Term {
				t.Fatalf("one nanosecond before the promise ends it voted: %+v", got)
			}
			s.clock.now = heard + raft.Time(simET)
			n.host.Deliver([]raft.Message{vote})
			s.settle()
			if got := g.Status(); got.Term != st.Term+1 || got.Vote != vote.From {
				t.Fatalf("it does not vote when the promise has ended: %+v", got)
			}
		})
	}
}

// ---- coverage by hand: the leader side

// leaderBench is a leader whose pair messages to one follower are played by hand.
type leaderBench struct {
	*sim
	n  *simNode
	f  raft.NodeID
	g  *Group
	tp *tape
	at int // messages seen by next
}

// next is the next heartbeat to the follower, or nil if none comes within an election timeout.
func (b *leaderBench) next() *PairMessage {
	for limit := b.clock.now + raft.Time(simET); ; {
		for b.at < len(b.tp.pairs) {
			m, to := b.tp.pairs[b.at], b.tp.to[b.at]
			if b.at++; to == b.f && !m.Response {
				return m
			}
		}
		if b.clock.now >= limit {
			return nil
		}
		b.sim.next(min(limit, b.clock.now+raft.Time(simET/50)))
		b.settle()
	}
}

func (b *leaderBench) answer(m *PairMessage, except ...raft.GroupID) {
	b.clock.now += raft.Time(time.Millisecond) // an answer takes its time, which is not the lease's
	b.n.host.DeliverPair(b.f, &PairMessage{Response: true, Session: m.Session, Seq: m.Seq, SentAt: m.SentAt, Except: except})
	b.settle()
}

// on: the pair table has the follower's promise, and since when a lease may run from it (0: it may not).
func (b *leaderBench) on() (bool, raft.Time) {
	_, on, at := b.g.h.pairs.outState(b.g, b.f, b.g.Status().Term)
	if !on {
		at = 0
	}
	return on, at
}

func (b *leaderBench) wantOn(what string, want bool) {
	b.t.Helper()
	if on, _ := b.on(); on != want {
		b.t.Fatalf("%s: covered %v", what, on)
	}
}

func TestLeaderSession(t *testing.T) {
	s := newSim(t, 31, 3, 1, func(o *Options, _ *GroupConfig) { o.CoverAfter = simET / 5 })
	l := s.waitLeader(1)
	b := &leaderBench{sim: s, n: s.nodes[l], f: raft.NodeID((l+1)%3 + 1)}
	b.g = b.n.host.Group(1)
	b.tp = &tape{inner: b.n.host.o.Transport}
	b.n.host.o.Transport = b.tp
	var m *PairMessage
	for m == nil {
		m = b.next()
	}
	if m.Seq != 1 || len(m.Cover)+len(m.Uncover) != 0 {
		t.Fatalf("opening %+v", m)
	}
	b.answer(m)
	m2 := b.next()
	if m2.Seq != 2 || len(m2.Cover) != 1 || m2.Session != m.Session {
		t.Fatalf("first proposal %+v", m2)
	}
	m3 := b.next() // unanswered: repeated
	if m3.Seq != 3 || len(m3.Cover) != 1 {
		t.Fatalf("not repeated: %+v", m3)
	}
	b.answer(m3, 1)
	b.wantOn("the answer that names it as an exception", false)
	b.answer(m2) // overtaken
	b.wantOn("an answer that was overtaken", false)
	m4 := b.next()
	b.answer(&PairMessage{Session: m.Session, Seq: m4.Seq + 5, SentAt: m4.SentAt})
	b.wantOn("an answer to what was never sent", false)
	b.answer(&PairMessage{Session: m.Session + 1, Seq: m4.Seq, SentAt: m4.SentAt})
	b.wantOn("an answer of another session", false)
	b.answer(m4)
	b.wantOn("the answer", true)
	if b.g.Status().CoveredPeers != 1 {
		t.Fatalf("%+v", b.g.Status())
	}
	_, at := b.on()
	if at != m4.SentAt {
		t.Fatalf("the lease would run from %d, not from when the heartbeat was sent, %d", at, m4.SentAt)
	}
	m5 := b.next()
	if len(m5.Cover) != 0 {
		t.Fatalf("still proposed after it was answered: %+v", m5)
	}
	m6 := b.next()
	b.answer(m6)
	b.answer(m5) // late: an older sent time
	if _, at := b.on(); at != m6.SentAt {
		t.Fatalf("a late answer set the time back to %d", at)
	}
	r := s.propose(b.g, "x")
	b.until("the proposal's end", r.ended)
	b.wantOn("after a proposal", true)
	// A transfer takes it out; answers from before, and to what was sent before it is proposed again, say nothing.
	m7 := b.next()
	b.g.Transfer(raft.NodeID(l+1), func(error) {})
	b.until("the end of coverage", func() bool { return b.g.Status().CoveredPeers == 0 })
	b.wantOn("after an order", false)
	m8 := b.next()
	if !slices.Contains(m8.Uncover, 1) {
		t.Fatalf("not taken out: %+v", m8)
	}
	b.answer(m7)
	b.wantOn("the answer to a heartbeat from before", false)
	var m9 *PairMessage
	for m9 == nil || len(m9.Cover) == 0 {
		if m9 != nil && len(m9.Uncover) == 0 {
			t.Fatalf("neither in nor out: %+v", m9)
		}
		if m9 = b.next(); m9 == nil {
			t.Fatal("silence")
		}
	}
	b.answer(m8)
	b.wantOn("an answer to what was sent before it was proposed again", false)
	b.answer(m9)
	b.wantOn("the answer to the new proposal", true)
	// An exception later on takes it out at once.
	m10 := b.next()
	b.answer(m10, 1)
	b.wantOn("an exception", false)
	if b.g.Status().CoveredPeers != 0 {
		t.Fatalf("%+v", b.g.Status())
	}
	// A refusal ends the session, and the next one begins with an empty opening.
	for {
		if m = b.next(); m != nil && len(m.Cover) > 0 {
			break
		}
		if m != nil {
			b.answer(m)
		}
	}
	b.answer(&PairMessage{Session: m.Session})
	old := m.Session
	for m = b.next(); m == nil; m = b.next() {
	}
	if m.Session == old || m.Seq != 1 || len(m.Cover) != 0 {
		t.Fatalf("after a refusal: %+v", m)
	}
	b.answer(&PairMessage{Session: old, Seq: 1, SentAt: m.SentAt})
	if n := b.next(); n == nil || n.Seq != 1 {
		t.Fatalf("an answer of the old session opened the new one: %+v", n)
	}
}

// Faults of every kind, at random, and all the while no lease may reach into another leader's term.
func TestCoverageUnderFaults(t *testing.T) {
	seeds := 12
	if testing.Short() {
		seeds = 3
	}
	base := uint64(1)
	if v := os.Getenv("MULTI_SEED"); v != "" {
		base, _ = strconv.ParseUint(v, 10, 64)
		seeds = 1
	}
	if v := os.Getenv("MULTI_SEEDS"); v != "" {
		seeds, _ = strconv.Atoi(v)
	}
	var covered, led, leases int
	for i := range seeds {
		c, l, v := coverageFaults(t, base+uint64(i))
		covered, led, leases = covered+c, led+l, leases+v
	}
	t.Logf("%d seeds: %d checks found a covered follower, %d changes of leadership, %d leases seen", seeds, covered, led, leases)
	if covered == 0 || led < seeds || leases == 0 {
		t.Fatal("the faults left nothing to check")
	}
}

func coverageFaults(t *testing.T, seed uint64) (covered, led, leases int) {
	defer func() {
		if t.Failed() {
			t.Logf("replay: MULTI_SEED=%d go test ./raft/multi -run TestCoverageUnderFaults", seed)
		}
	}()
	s := newSim(t, seed, 3, 3, func(o *Options, c *GroupConfig) {
		o.CoverAfter = simET / 5
		c.SnapshotEvery, c.KeepEntries = 3000, 10
	})
	rng := rand.New(rand.NewPCG(seed, 99))
	terms := make(map[raft.GroupID]raft.Term)
	var rs []*result
	pending := 0
	check := func() {
		s.checkLeases()
		for _, id := range s.ids {
			for i := range s.nodes {
				g := s.group(i, id)
				if g == nil {
					continue
				}
				st := g.Status()
				if st.Resting {
					covered++
				}
				if st.Role == raft.Leader && st.Term > terms[id] {
					terms[id] = st.Term
					led++
				}
				if st.Role == raft.Leader && g.r.LeaseUntil() > s.clock.now {
					leases++
				}
			}
		}
	}
	for range 60 {
		switch rng.IntN(10) {
		case 0:
			a, b := raft.NodeID(rng.IntN(3)+1), raft.NodeID(rng.IntN(3)+1)
			s.cut[[2]raft.NodeID{a, b}] = true
		case 1:
			a := raft.NodeID(rng.IntN(3) + 1)
			for i := range raft.NodeID(3) {
				s.cut[[2]raft.NodeID{a, i + 1}], s.cut[[2]raft.NodeID{i + 1, a}] = true, true
			}
		case 2, 3:
			clear(s.cut)
		case 4:
			s.loss, s.dup = rng.Float64()*0.3, rng.Float64()*0.3
			s.delayMax = time.Duration(rng.Int64N(int64(simET)))
		case 5:
			s.loss, s.dup, s.delayMax = 0, 0, time.Duration(rng.Int64N(int64(simET/20)))
		case 6:
			if n := s.nodes[rng.IntN(3)]; n.down {
				s.start(n, false)
			} else {
				s.crash(n)
			}
		case 7:
			n := s.nodes[rng.IntN(3)]
			n.slow = !n.slow
		case 8:
			if g := s.group(rng.IntN(3), raft.GroupID(rng.IntN(3)+1)); g != nil {
				g.Transfer(raft.NodeID(rng.IntN(3)+1), func(error) {})
			}
		case 9:
			if g := s.group(rng.IntN(3), raft.GroupID(rng.IntN(3)+1)); g != nil {
				g.Campaign()
			}
		}
		for range rng.IntN(3) {
			if g := s.group(rng.IntN(3), raft.GroupID(rng.IntN(3)+1)); g != nil {
				rs = append(rs, s.propose(g, fmt.Sprint(rng.Uint64())))
			}
		}
		s.run(time.Duration(rng.Int64N(int64(3*simET))), check)
		s.checkEqual()
	}
	clear(s.cut)
	s.loss, s.dup, s.delayMax = 0, 0, 0
	for _, n := range s.nodes {
		n.slow = false
		if n.down {
			s.start(n, false)
		}
	}
	s.until("all groups to be covered after the faults", func() bool { check(); return s.allCovered() })
	s.checkEqual()
	for _, r := range rs {
		if r.calls == 0 {
			pending++
			continue // its node crashed
		}
		if r.o.Err == nil && !slices.Contains(s.nodes[0].sms[r.group].records(), r.payload) {
			t.Fatalf("acknowledged and lost: %s in group %d", r.payload, r.group)
		}
	}
	if pending > len(rs)/2 {
		t.Fatalf("%d of %d proposals never ended", pending, len(rs))
	}
	return covered, led, leases
}

// A group that is proposed anew and taken back before the follower could hear of either is still taken out there: else it
// would rest for a leader that has forgotten it.
func TestUncoverSurvivesProposal(t *testing.T) {
	s := newSim(t, 40, 1, 1, nil)
	n, tp := s.nodes[0], &tape{}
	n.host.o.Transport = tp
	g, ps := n.host.Group(1), &n.host.pairs
	beat := func(answer bool) *PairMessage {
		s.clock.now += raft.Time(simET / 10)
		n.host.fireTimers(s.clock.now)
		m := tp.last(t)
		if answer {
			n.host.DeliverPair(2, &PairMessage{Response: true, Session: m.Session, Seq: m.Seq, SentAt: m.SentAt})
		}
		return m
	}
	ps.propose(g, 2, 1, 1, s.clock.now)
	beat(true)
	if m := beat(true); len(m.Cover) != 1 {
		t.Fatalf("not proposed: %+v", m)
	}
	ps.uncoverGroup(g, 2)
	ps.propose(g, 2, 1, 2, s.clock.now)
	ps.uncoverGroup(g, 2)
	if m := beat(false); !slices.Equal(m.Uncover, []raft.GroupID{1}) || len(m.Cover) != 0 {
		t.Fatalf("not taken out: %+v", m)
	}
	if m := beat(true); !slices.Equal(m.Uncover, []raft.GroupID{1}) {
		t.Fatalf("not repeated: %+v", m)
	}
	sent := len(tp.pairs)
	if beat(false); len(tp.pairs) != sent {
		t.Fatalf("a session with nothing in it goes on: %+v", tp.last(t))
	}
}

// A group that is written to without end is covered as soon as it pauses for CoverAfter, and stays so.
func TestCoveredWhileWrittenTo(t *testing.T) {
	s := newSim(t, 3, 3, 1, func(o *Options, _ *GroupConfig) { o.CoverAfter = 2 * simET })
	l := s.waitLeader(1)
	g := s.group(l, 1)
	write := func(n int) {
		for range n {
			r := s.propose(g, "x")
			s.until("the proposal's end", r.ended)
			s.run(simET/3, nil)
		}
	}
	write(20)
	if n := g.Status().CoveredPeers; n != 0 {
		t.Fatalf("%d followers are covered though the group was written to all the time", n)
	}
	s.until("coverage", func() bool { return g.Status().CoveredPeers == 2 })
	term := g.Status().Term
	beats := 0
	s.message = func(m *raft.Message) bool {
		if m.Type == raft.MsgHeartbeat {
			beats++
		}
		return true
	}
	write(20)
	if st := g.Status(); st.CoveredPeers != 2 || st.Term != term || beats != 0 {
		t.Fatalf("%d followers are covered, term %d, was %d; %d heartbeats of its own", st.CoveredPeers, st.Term, term, beats)
	}
	for i := range 3 {
		if n := len(s.nodes[i].sms[1].records()); n != 40 {
			t.Fatalf("node %d has %d records", i, n)
		}
	}
}

// The news of a commit that is lost is told by a heartbeat, once nothing has been heard for an election timeout; then the group rests again.
func TestLostNewsIsToldAgain(t *testing.T) {
	s := newSim(t, 3, 3, 1, func(_ *Options, c *GroupConfig) { c.CommitDelay = simET / 20 })
	l := s.waitLeader(1)
	g := s.group(l, 1)
	s.until("coverage", func() bool { return g.Status().CoveredPeers == 2 })
	lost, beats := 0, 0
	s.message = func(m *raft.Message) bool {
		switch {
		case m.Type == raft.MsgApp && len(m.Entries) == 0:
			lost++
			return false
		case m.Type == raft.MsgHeartbeat:
			beats++
		}
		return true
	}
	r := s.propose(g, "x")
	s.until("the proposal's end", r.ended)
	s.until("all to have it", func() bool {
		for i := range 3 {
			if len(s.nodes[i].sms[1].records()) != 1 {
				return false
			}
		}
		return true
	})
	if lost == 0 || beats == 0 {
		t.Fatalf("%d messages of the commit were lost, and %d heartbeats told it", lost, beats)
	}
	s.run(simET/4, nil)
	beats = 0
	s.run(10*simET, nil)
	if beats != 0 || g.Status().CoveredPeers != 2 {
		t.Fatalf("%d heartbeats in ten election timeouts of rest, %d followers covered", beats, g.Status().CoveredPeers)
	}
}

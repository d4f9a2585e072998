package multi

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/balsamq/balsa/raft"
)

// A follower that was away catches up at its pace while others propose, what is on its way to it stays accounted for, and in the end
// nothing is left in the account.
func TestPaceOfCatchingUp(t *testing.T) {
	s := newSim(t, 21, 3, 2, func(o *Options, c *GroupConfig) { o.MaxMessageBytes, c.Throttle = 64, true })
	l := s.waitLeader(1)
	s.waitLeader(2)
	away := s.nodes[(l+1)%3]
	s.crash(away)
	l = s.waitLeader(1)
	for i := range 100 {
		r := s.propose(s.group(l, 1), fmt.Sprintf("while it is away %d", i))
		s.until("a proposal's end", r.ended)
	}
	s.start(away, false)
	for i := range 20 {
		r := s.propose(s.group(l, 1), fmt.Sprintf("when it is back %d", i))
		s.until("a proposal's end", r.ended)
	}
	s.until("the follower to catch up", func() bool { return len(away.sms[1].records()) == 120 })
	s.checkEqual()
	h := s.nodes[l].host
	if sent := h.Stats().BehindBytes; sent < 100*16 {
		t.Fatalf("%d bytes went out at the follower's pace", sent)
	}
	s.until("the account to be even", func() bool {
		return len(h.pacer.members) == 0 && h.pacer.grants == 0 && h.pacer.reads == 0 && h.pacer.held == 0
	})
}

// The rate falls while proposals take longer than usual, never below what is proposed, rises again, and there is none where nothing
// is proposed.
func TestPaceFollowsProposals(t *testing.T) {
	h := &Host{}
	h.pacer.init()
	p := &h.pacer
	now := raft.Time(time.Hour)
	spend := func(d, took time.Duration, bytes int64, catching bool) {
		for end := now + raft.Time(d); now < end; now += raft.Time(10 * time.Millisecond) {
			if catching {
				p.sentAt = now
			}
			p.proposed.Add(bytes)
			h.paceLive(now, raft.Time(took))
		}
	}
	if p.limitedLocked(now) {
		t.Fatal("a rate, and nothing was proposed yet")
	}
	spend(10*time.Second, 2*time.Millisecond, 1000, false)
	if p.usual < 1.9e6 || p.usual > 2.1e6 || p.rate != firstPace {
		t.Fatalf("usually %v ns, rate %v", p.usual, p.rate)
	}
	spend(3*time.Second, 2*time.Millisecond, 1000, true)
	if p.rate < 4*firstPace {
		t.Fatalf("rate %v where nobody is hindered", p.rate)
	}
	spend(5*time.Second, 20*time.Millisecond, 1000, true)
	if p.rate != minPace {
		t.Fatalf("rate %v where proposals are slow", p.rate)
	}
	spend(time.Second, 20*time.Millisecond, 1<<20, true)
	if grown := 100 * float64(1<<20); p.rate < paceGain*grown*0.8 {
		t.Fatalf("rate %v where %v bytes a second are proposed", p.rate, grown)
	}
	// What they take though next to nothing is sent becomes the usual, and the rate rises.
	spend(20*time.Second, 20*time.Millisecond, 1000, true)
	if p.rate <= 2*minPace {
		t.Fatalf("rate %v, usually %v ns", p.rate, p.usual)
	}
	if now += paceQuiet; p.limitedLocked(now) {
		t.Fatal("a rate, and nothing is proposed any more")
	}
}

// The rate stays close to what is too much, and is seldom above it.
func TestPaceStaysBelowTooMuch(t *testing.T) {
	h := &Host{}
	h.pacer.init()
	p := &h.pacer
	now := raft.Time(time.Hour)
	const tooMuch = 200e6
	var above, sum, n float64
	for i := range 600 {
		for range 10 {
			took := 2 * time.Millisecond
			if i >= 100 {
				if p.sentAt = now; p.rate > tooMuch {
					took = 20 * time.Millisecond
				}
			}
			h.paceLive(now, raft.Time(took))
			now += raft.Time(10 * time.Millisecond)
		}
		if i >= 200 {
			sum, n = sum+p.rate, n+1
			if p.rate > tooMuch {
				above++
			}
		}
	}
	if above/n > 0.25 || sum/n < 0.85*tooMuch {
		t.Fatalf("above it for %.2f of the time, at %.2f of it on average", above/n, sum/n/tooMuch)
	}
}

// A learner that is held back by its rate is asked for again when it answers, and not in one turn after the other.
func TestPaceOfThrottledLearner(t *testing.T) {
	s := newSim(t, 22, 3, 1, func(o *Options, c *GroupConfig) { o.MaxMessageBytes, o.LearnerRate, c.Throttle = 64, 500, true })
	l := s.waitLeader(1)
	for i := range 100 {
		r := s.propose(s.group(l, 1), fmt.Sprintf("before it comes %d", i))
		s.until("a proposal's end", r.ended)
	}
	n := &simNode{id: 4, states: newMemStates(), logs: make(map[raft.GroupID]*memLog)}
	n.states.lazy = true
	s.nodes = append(s.nodes, n)
	s.start(n, true)
	g := s.group(l, 1)
	r := &result{t: t}
	g.ProposeConf(raft.ConfChange{Steps: []raft.ConfStep{{Op: raft.AddLearner, Member: raft.Member{ID: 4, Incarnation: 1}}}}, r.done)
	turns := s.nodes[l].host.Stats().Turns
	s.until("the learner to catch up", func() bool { return len(n.sms[1].records()) == 100 })
	if turns = s.nodes[l].host.Stats().Turns - turns; turns > 1000 {
		t.Fatalf("%d turns", turns)
	}
}

// Who waits for room gets it from a group that ends, too.
func TestPaceOfGroupThatEnds(t *testing.T) {
	s := newSim(t, 23, 3, 2, func(_ *Options, c *GroupConfig) { c.Throttle = true })
	l := s.waitLeader(1)
	h := s.nodes[l].host
	g1, g2 := h.Group(1), h.Group(2)
	to := s.nodes[(l+1)%3].id
	g1.pace.of(to).way = maxBehindBytes
	h.paceWay(to, maxBehindBytes)
	g2.pace.of(to).lined = true
	h.paceAsk(paceAsk{g: g2, to: to, from: 1, upTo: 1}, s.clock.now)
	if len(h.pacer.members) != 1 || len(h.pacer.members[0].line) != 1 {
		t.Fatal("no room, and it went on")
	}
	g1.Close()
	s.run(5*time.Second, nil)
	if g2.pace.of(to).lined {
		t.Fatal("there is room, and nobody was told")
	}
}

// Where turns are late, as many are granted as the rate allows: who is behind comes nearer.
func TestPaceOfLateTurns(t *testing.T) {
	h := &Host{}
	h.pacer.init()
	h.timers.init()
	p := &h.pacer
	now := raft.Time(time.Hour)
	type turn struct {
		at raft.Time
		g  *Group
	}
	rng := rand.New(rand.NewPCG(1, 2))
	var turns []turn
	m := &paceMember{id: 2}
	p.members = append(p.members, m)
	for range 500 {
		m.line = append(m.line, paceAsk{g: &Group{}})
	}
	take := func() {
		for {
			p.mu.Lock()
			a := p.nextLocked(h, now)
			p.reads = 0
			p.mu.Unlock()
			if a.g == nil {
				return
			}
			at := now + raft.Time(200*time.Millisecond) + raft.Time(rng.Int64N(int64(400*time.Millisecond)))
			turns = append(turns, turn{at, a.g})
			slices.SortFunc(turns, func(a, b turn) int { return int(a.at - b.at) })
		}
	}
	var sent int64
	const seconds, perSecond = 20, 60e6
	for end := now + seconds*raft.Time(time.Second); now < end; now += raft.Time(time.Millisecond) {
		p.proposed.Add(perSecond / 1000)
		h.paceLive(now, raft.Time(450*time.Millisecond))
		take()
		for len(turns) > 0 && turns[0].at <= now {
			g := turns[0].g
			turns = turns[1:]
			p.mu.Lock()
			members := p.members
			p.members = nil // so that paceDone grants nothing by itself
			p.mu.Unlock()
			h.paceDone(piece, 0, now)
			p.members = members
			sent += piece
			m.line = append(m.line, paceAsk{g: g})
			take()
		}
	}
	if sent/seconds < perSecond {
		t.Fatalf("%d MiB a second, the rate is %v MiB", sent/seconds>>20, p.rate/(1<<20))
	}
}

// Entries do not stand for heartbeats to a learner that is throttled: with their answers it is asked for again.
func TestThrottledLearnerGetsItsRate(t *testing.T) {
	const entries, rate = 1000, 100_000
	s := newSim(t, 24, 3, 1, func(o *Options, c *GroupConfig) { o.MaxMessageBytes, o.LearnerRate, c.Throttle = 512, rate, true })
	l := s.waitLeader(1)
	var last *result
	for range entries {
		last = s.propose(s.group(l, 1), strings.Repeat("x", 1000))
	}
	s.until("a proposal's end", last.ended)
	n := &simNode{id: 4, states: newMemStates(), logs: make(map[raft.GroupID]*memLog)}
	n.states.lazy = true
	s.nodes = append(s.nodes, n)
	s.start(n, true)
	g := s.group(l, 1)
	r := &result{t: t}
	began := s.clock.now
	g.ProposeConf(raft.ConfChange{Steps: []raft.ConfStep{{Op: raft.AddLearner, Member: raft.Member{ID: 4, Incarnation: 1}}}}, r.done)
	s.until("the learner to catch up", func() bool { return len(n.sms[1].records()) == entries })
	if took := time.Duration(s.clock.now - began); took > 11*time.Second {
		t.Fatalf("%v for %d bytes at %d a second", took, entries*1000, rate)
	}
}

// Who lacks what others have committed syncs it when there is enough of it, or after a moment, and what is new at once.
func TestWhoIsBehindSyncsSeldom(t *testing.T) {
	const entries = 200
	s := newSim(t, 25, 3, 1, func(o *Options, c *GroupConfig) { o.MaxMessageBytes, c.Throttle = 64, true })
	l := s.waitLeader(1)
	away := s.nodes[(l+1)%3]
	s.crash(away)
	l = s.waitLeader(1)
	for range entries {
		r := s.propose(s.group(l, 1), strings.Repeat("x", 60))
		s.until("a proposal's end", r.ended)
	}
	s.start(away, false)
	g, waited := away.host.Group(1), 0
	s.until("the follower to catch up", func() bool {
		if g.syncAt != 0 {
			waited++
		}
		return len(away.sms[1].records()) == entries
	})
	if waited == 0 {
		t.Fatal("each message was synced at once")
	}
	waited = 0
	for range 20 {
		r := s.propose(s.group(l, 1), "and what is new")
		s.until("its end everywhere", func() bool {
			if g.syncAt != 0 {
				waited++
			}
			return r.ended() && g.Status().Stable == s.group(l, 1).Status().Last
		})
	}
	if waited != 0 || g.lazy != 0 {
		t.Fatalf("what is new waited %d times", waited)
	}
}

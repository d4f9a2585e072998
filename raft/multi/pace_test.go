package multi

import (
	"fmt"
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
	s.until("the account to be even", func() bool { return len(h.pacer.members) == 0 && h.pacer.grants == 0 })
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

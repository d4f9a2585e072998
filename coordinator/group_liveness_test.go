package coordinator

// Whatever members and coordinators do, nobody waits for ever: a model of what clients were told, on a clock that stands still.

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
)

// parked is a request that a client waits for.
type parked struct {
	what     string
	since    time.Time
	answered bool
}

// livenessClient is one client of a group of the classic protocol, with what it was told.
type livenessClient struct {
	name       string
	instance   *string
	id         string
	generation int32
	leads      bool
	members    []JoinedMember
	session    time.Duration
	rebalance  time.Duration
}

// liveness is a run: clients of one group, its coordinators, and what is known of both.
type liveness struct {
	*groupHarness
	rng     *rand.Rand
	clients []*livenessClient
	waiting []*parked
	trail   []string

	life    int                  // of coordinators so far
	last    int32                // the newest generation of this one that was looked at
	told    int32                // and that a client was told
	leaders map[int32]string     // who leads a generation of this one
	given   map[string]string    // what the leader gave, by generation and member
	seen    map[string]time.Time // when a member was last heard of, at the latest
	spans   map[string]time.Duration
	stored  int
}

// The longest time-outs of any client.
const (
	longest        = 40 * time.Second // of a rebalance
	longestSession = 12 * time.Second
)

func (l *liveness) note(format string, args ...any) {
	l.trail = append(l.trail, fmt.Sprintf("%6.1fs ", l.now.Sub(time.UnixMilli(1_700_000_000_000)).Seconds())+fmt.Sprintf(format, args...))
	if len(l.trail) > 60 {
		l.trail = l.trail[1:]
	}
}

func (l *liveness) fail(format string, args ...any) {
	l.t.Helper()
	for _, line := range l.trail {
		l.t.Errorf("%s", line)
	}
	l.t.Fatalf(format, args...)
}

// heard notes that a member is there, whatever the coordinator makes of it.
func (l *liveness) heard(id string, session time.Duration) {
	if id != "" {
		l.seen[id], l.spans[id] = l.now, max(l.spans[id], session)
	}
}

func (l *liveness) wait(what string) *parked {
	p := &parked{what: what, since: l.now}
	l.waiting = append(l.waiting, p)
	return p
}

func (l *liveness) answer(p *parked, with any) {
	if p.answered {
		l.fail("%s is answered a second time: %+v", p.what, with)
	}
	p.answered = true
	l.note("%s is answered: %+v", p.what, with)
}

func (l *liveness) joins(c *livenessClient) {
	r := request(c.id)
	r.Instance, r.RequireID, r.Skips = c.instance, l.rng.IntN(2) == 0, l.rng.IntN(2) == 0
	r.Session, r.Rebalance = c.session, c.rebalance
	if l.rng.IntN(4) == 0 {
		r.Protocols[0].Metadata = fmt.Appendf(nil, "other %d", l.rng.IntN(3))
	}
	life := l.life
	p := l.wait(fmt.Sprintf("JoinGroup of %s as %q", c.name, c.id))
	l.note("%s", p.what)
	l.heard(c.id, c.session)
	asked := c.id
	l.c.Join(r, func(res JoinResult) {
		l.answer(p, res)
		if life == l.life {
			l.heard(res.MemberID, c.session)
		}
		if c.id != asked {
			return // it has begun anew meanwhile
		}
		switch {
		case res.Err == nil:
			c.id, c.generation, c.members = res.MemberID, res.Generation, res.Members
			c.leads = res.LeaderID == res.MemberID && !res.SkipAssignment
			l.joined(c, life, res)
		case errors.Is(res.Err, ErrMemberIDRequired):
			c.id = res.MemberID
		case errors.Is(res.Err, ErrUnknownMember), errors.Is(res.Err, ErrFencedInstance):
			c.id = ""
		}
	})
}

// joined holds a generation that a client was told against what others were told of it.
func (l *liveness) joined(c *livenessClient, life int, res JoinResult) {
	if life != l.life {
		return
	}
	l.told = max(l.told, res.Generation)
	if len(res.Members) == 0 || res.SkipAssignment {
		return
	}
	if old, ok := l.leaders[res.Generation]; ok && old != res.MemberID {
		l.fail("%s and %s are told to lead generation %d", old, res.MemberID, res.Generation)
	}
	l.leaders[res.Generation] = res.MemberID
}

func (l *liveness) syncs(c *livenessClient) {
	q := &SyncRequest{Group: "g", MemberID: c.id, Instance: c.instance, Generation: c.generation, Assignments: map[string][]byte{}}
	life, generation, id := l.life, c.generation, c.id
	key := func(member string) string { return fmt.Sprint(life, generation, member) }
	mark := fmt.Sprint("from ", c.name, " ", len(l.given))
	if c.leads {
		for _, m := range c.members {
			q.Assignments[m.ID] = []byte(mark)
		}
	}
	p := l.wait(fmt.Sprintf("SyncGroup of %s as %q in %d", c.name, id, generation))
	l.note("%s", p.what)
	l.heard(id, c.session)
	l.c.Sync(q, func(res SyncResult) {
		l.answer(p, res)
		if life != l.life {
			return
		}
		l.heard(id, c.session)
		if res.Err == nil {
			l.stored++
			if old, ok := l.given[key("")]; ok && len(res.Assignment) > 0 && old != string(res.Assignment) {
				l.fail("generation %d was given %q and %q", generation, old, res.Assignment)
			}
			if len(res.Assignment) > 0 {
				l.given[key("")] = string(res.Assignment)
			}
		} else if errors.Is(res.Err, ErrUnknownMember) && c.id == id {
			c.id = ""
		}
	})
}

func (l *liveness) beats(c *livenessClient) {
	err := l.c.Heartbeat("g", c.id, c.instance, c.generation)
	l.note("Heartbeat of %s as %q in %d: %v", c.name, c.id, c.generation, err)
	if err == nil || errors.Is(err, ErrRebalanceInProgress) {
		l.heard(c.id, c.session)
	} else if errors.Is(err, ErrUnknownMember) || errors.Is(err, ErrFencedInstance) {
		c.id = ""
	}
}

func (l *liveness) leaves(c *livenessClient) {
	m := LeavingMember{ID: c.id, Instance: c.instance}
	if c.instance != nil && l.rng.IntN(2) == 0 {
		m.ID = "" // by an administrator
	}
	p := l.wait(fmt.Sprintf("LeaveGroup of %s as %q", c.name, c.id))
	l.note("%s", p.what)
	l.c.Leave("g", []LeavingMember{m}, func(errs []error, err error) { l.answer(p, fmt.Sprint(errs, err)) })
}

// settles has all clients join and synchronise, as they would: most of what can go wrong does so on the way out of a stable group.
func (l *liveness) settles() {
	l.log.fail(nil)
	l.log.commit()
	for range 3 { // for an id, for a generation, and for that of who came last
		for _, c := range l.clients {
			l.joins(c)
		}
		l.advance(4 * time.Second)
		l.check()
	}
	for _, c := range l.clients {
		l.syncs(c)
	}
}

// elects begins another coordinator: what is on its way to the log is committed, or lost.
func (l *liveness) elects() {
	if l.rng.IntN(2) == 0 {
		l.log.waitForCommit()
		for range l.rng.IntN(4) {
			if c := l.clients[l.rng.IntN(len(l.clients))]; l.rng.IntN(2) == 0 {
				l.joins(c)
			} else {
				l.syncs(c)
			}
		}
	}
	lost := l.rng.IntN(2) == 0
	l.note("another coordinator, what is on its way lost: %v", lost)
	log := l.log
	if !lost {
		log.commit()
	}
	l.life++
	l.move()
	log.commit()
	log.fail(nil)
	for _, p := range l.waiting {
		if !p.answered {
			l.fail("%s is not answered though its coordinator has ended", p.what)
		}
	}
	l.waiting = nil
	l.last, l.told, l.leaders = 0, 0, make(map[int32]string)
	l.everybodyIsHeard()
}

// everybodyIsHeard: sessions begin anew, as they do with a coordinator and a generation.
func (l *liveness) everybodyIsHeard() {
	for _, s := range l.c.all() {
		if g := s.groups["g"]; g != nil {
			for _, m := range g.order {
				l.heard(m.id, m.session)
			}
		}
	}
}

// check looks at the coordinator, and at who waits.
func (l *liveness) check() {
	keep := l.waiting[:0]
	for _, p := range l.waiting {
		if p.answered {
			continue
		}
		if waited := l.now.Sub(p.since); waited > longest+time.Second {
			l.fail("%s has waited for %v", p.what, waited)
		}
		keep = append(keep, p)
	}
	l.waiting = keep
	for _, s := range l.c.all() {
		g := s.groups["g"]
		if g == nil { // nothing of it was stored: it begins anew
			l.last, l.told, l.leaders = 0, 0, make(map[int32]string)
			l.life++
			continue
		}
		if g.generation < max(l.last, l.told) {
			l.fail("generation %d after %d, and clients were told %d", g.generation, l.last, l.told)
		}
		if g.generation > l.last {
			l.last = g.generation
			l.everybodyIsHeard()
		}
		for _, m := range g.order {
			if m.waits() {
				l.heard(m.id, m.session)
			}
			if _, known := l.seen[m.id]; !known { // it takes another one's place, and waits for the log
				l.heard(m.id, longestSession)
			}
			if silent := l.now.Sub(l.seen[m.id]); silent > l.spans[m.id]+time.Second {
				l.fail("%s is still a member, silent for %v of %v; the group is %v", m.id, silent, l.spans[m.id], g.state)
			}
		}
		checkGroup(l.t, g)
	}
}

func (l *liveness) step() {
	c := l.clients[l.rng.IntN(len(l.clients))]
	switch n := l.rng.IntN(100); {
	case n < 28:
		l.joins(c)
	case n < 50:
		l.syncs(c)
	case n < 62:
		l.beats(c)
	case n < 66:
		l.leaves(c)
	case n < 69:
		l.note("%s begins anew", c.name)
		c.id, c.generation, c.leads = "", 0, false
	case n < 74:
		l.note("the log waits")
		l.log.waitForCommit()
	case n < 78:
		l.note("the log goes on")
		l.log.commit()
	case n < 80:
		l.note("the log refuses")
		l.log.fail(ErrCoordinatorUnavailable)
	case n < 82:
		l.log.fail(nil)
	case n < 84:
		l.settles()
	case n < 86:
		l.elects()
	default:
		l.note("the log goes on, and so does time")
		l.log.fail(nil)
		l.log.commit() // a log that waits for longer has no leader any more
		for range 1 + l.rng.IntN(8) {
			l.advance(time.Duration(l.rng.IntN(2000)) * time.Millisecond)
			l.check()
		}
	}
	l.check()
}

// Each request is answered once, and within the longest rebalance timeout; a generation never goes back and has one leader and one
// assignment; and who falls silent is a member for a session and not longer. TestGroupsProperty has what is stored.
func TestGroupNobodyWaitsForEver(t *testing.T) {
	runs, stored := 300, 0
	if testing.Short() {
		runs = 60
	}
	for seed := range runs {
		l := &liveness{rng: rand.New(rand.NewPCG(uint64(seed), 17)), leaders: make(map[int32]string), given: make(map[string]string),
			seen: make(map[string]time.Time), spans: make(map[string]time.Duration)}
		l.groupHarness = newGroupHarness(seeded{t, seed}, GroupConfig{InitialRebalanceDelay: []time.Duration{-1, 3 * time.Second}[seed%2]})
		for i := range 4 {
			c := &livenessClient{name: fmt.Sprint("client ", i), session: time.Duration(6+l.rng.IntN(6)) * time.Second, rebalance: time.Duration(5+l.rng.IntN(35)) * time.Second}
			if i > 1 {
				s := fmt.Sprint("static", i)
				if i == 3 && l.rng.IntN(2) == 0 {
					s = "static2" // two that take each other's place
				}
				c.instance = &s
			}
			l.clients = append(l.clients, c)
		}
		for range 200 {
			l.step()
		}
		// When all fall silent nobody is left, and nobody waits.
		l.log.fail(nil)
		l.log.commit()
		for range 130 {
			l.advance(time.Second)
			l.check()
		}
		if len(l.waiting) > 0 {
			l.fail("%s is never answered", l.waiting[0].what)
		}
		for _, s := range l.c.all() {
			if g := s.groups["g"]; g != nil && len(g.order)+len(g.pending) > 0 {
				l.fail("%d members and %d ids are left", len(g.order), len(g.pending))
			}
		}
		_ = l.c.Close()
		stored += l.stored
	}
	t.Logf("members synchronised %d times", stored)
	if stored < runs {
		t.Errorf("members synchronised %d times only: this test tests nothing", stored)
	}
}

// seeded names the run that failed.
type seeded struct {
	*testing.T
	seed int
}

func (s seeded) Fatalf(format string, args ...any) {
	s.Helper()
	s.T.Fatalf("seed %d: "+format, append([]any{s.seed}, args...)...)
}

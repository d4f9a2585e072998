// The pace of catching up: what members are sent that are behind yields to what is being proposed.
//
// A member that was away asks for gigabytes that lie on its leaders' disks. Whoever proposes meanwhile has a quorum without it, and
// should not feel it. So a group does not send such entries in the turns in which it serves proposals (raft.Pacer). It stands in
// line, and gets a turn for one piece of them after the other:
//
//	core: Ask ──▶ line of the member ──▶ a grant, when there is room ──▶ a piece is read, beside all turns ──▶ a turn: raft.SendBehind
//	                                        ▲
//	     maxGrants at once; maxBehindBytes on their way to a member; and, while something is proposed, within a rate
//
// The rate follows what proposals meet on this host: how long they take from the turn's beginning to be queued to their application,
// on average over paceInterval. As long as that is about what it was before anybody caught up, the rate grows, more slowly
// where it was last too much, and else it shrinks; so it finds what is left of processors, disks and network, whichever is short, also where others use them. It never
// falls below what members need to come nearer to logs that grow (paceGain times what is proposed, for each), nor below minPace. Where
// nothing is proposed there is no rate.
//
// All of it is measured by the host's clock and in its turns: a simulated host is as deterministic as ever.

package multi

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/balsamq/balsa/raft"
)

const (
	// maxBehindBytes is what may be on its way from this host to a member that is behind, over all groups. Enough to keep its disk
	// busy, and little enough that what comes in is applied there before it leaves the memory again.
	maxBehindBytes = 16 << 20
	// maxGrants is how many groups at once may read what somebody lacks, and take a turn to send it; one while something is proposed.
	maxGrants = 2
	// piece is how much of it is read at once, if pieceMessages times MaxMessageBytes are not less.
	piece         = 2 << 20
	pieceMessages = 2
	// maxHeldBytes bounds what has been read and waits for a turn, over all groups: turns may be late.
	maxHeldBytes = 64 << 20
	// grantPatience is how long a granted turn is waited for: the group may be busy, or have ended. Where turns are late it is what a piece
	// takes at the rate, if that is less, or the next one would wait for the turn and not for the rate.
	grantPatience    = raft.Time(100 * time.Millisecond)
	minGrantPatience = raft.Time(time.Millisecond)
	// behindSyncBytes are appended before who is behind syncs them, if they come within behindSyncDelay: less than a piece, which is rarely full.
	behindSyncBytes = piece * 3 / 4
	behindSyncDelay = raft.Time(5 * time.Millisecond)

	// paceInterval is how often the rate is looked at.
	paceInterval = raft.Time(100 * time.Millisecond)
	// paceBurst is how much of the rate may have gathered while nobody asked.
	paceBurst = raft.Time(10 * time.Millisecond)
	// paceQuiet without a proposal, and there is no rate; and for so long nobody must have caught up for a latency to count as
	// the usual one.
	paceQuiet = raft.Time(time.Second)
	// firstPace, bytes a second, is where the rate begins, minPace its least, and maxPace stands for none.
	firstPace = 64 << 20
	minPace   = 16 << 20
	maxPace   = 8 << 30
	// paceGain times what is proposed here, at least.
	paceGain = 1.5
	// Proposals may take paceStretch times as long as usual, and paceSlack.
	paceStretch = 1.5
	paceSlack   = float64(500 * time.Microsecond)
	// paceClip times the usual is what one proposal counts for at most: a slow sync is not a trend.
	paceClip = 4
	// paceUnknown is taken for usual until something is known.
	paceUnknown = float64(4 * time.Millisecond)
	// paceUp and paceDown are what the rate is multiplied by, and paceNear instead of paceUp from paceShy times the rate on that was last too much.
	paceUp   = 1.1
	paceNear = 1.02
	paceShy  = 0.9
	paceDown = 0.8
)

// pacer is a host's.
type pacer struct {
	proposed atomic.Int64 // bytes, of proposals of this host's leaders

	mu      sync.Mutex // guards all below; a leaf, but for timers.mu
	members []*paceMember
	turn    int   // the member whose line is looked at first
	reads   int   // that run
	held    int64 // bytes that were read, and wait for a turn
	most    int   // members at once, since the rate was last looked at
	grants  int   // given, and not heard of again
	granted raft.Time

	rate  float64 // bytes a second
	much  float64 // the rate that was last too much; 0: none was
	level float64 // of the bucket
	at    raft.Time
	timer timerItem

	usual  float64   // how long proposals take when nobody catches up; 0: not known
	n      int       // proposals since looked
	sum    float64   // and their times
	looked raft.Time // when the rate was last looked at
	bytes  int64     // proposed by then
	live   raft.Time // when something was last proposed
	sentAt raft.Time // when somebody that is behind was last sent something
}

// paceMember is a node that is behind in some group. Members are forgotten when nothing waits for them and nothing is on its way.
type paceMember struct {
	id   raft.NodeID
	line []paceAsk // each group at most once
	way  int64     // bytes on their way
}

// paceAsk is what a group was asked for: entries from one on up to another.
type paceAsk struct {
	g          *Group
	to         raft.NodeID
	from, upTo raft.Index
}

func (p *pacer) init() {
	p.rate = firstPace
	p.timer.pacer = true
}

func (p *pacer) memberLocked(id raft.NodeID) *paceMember {
	for _, m := range p.members {
		if m.id == id {
			return m
		}
	}
	m := &paceMember{id: id}
	p.members = append(p.members, m)
	p.most = max(p.most, len(p.members))
	return m
}

func (p *pacer) forgetLocked() {
	p.members = slices.DeleteFunc(p.members, func(m *paceMember) bool { return len(m.line) == 0 && m.way <= 0 })
}

// paceAsk puts a group in line for a member.
func (h *Host) paceAsk(a paceAsk, now raft.Time) {
	p := &h.pacer
	p.mu.Lock()
	m := p.memberLocked(a.to)
	m.line = append(m.line, a)
	p.mu.Unlock()
	h.paceNext(now)
}

// paceNext gives the grants that there is room for.
func (h *Host) paceNext(now raft.Time) {
	p := &h.pacer
	for {
		p.mu.Lock()
		a := p.nextLocked(h, now)
		p.mu.Unlock()
		switch {
		case a.g == nil:
			return
		case h.manual || !h.started.Load():
			h.paceRead(a)
		default: // at most maxGrants of these
			h.wg.Go(func() {
				h.paceRead(a)
				h.paceNext(h.now())
			})
		}
	}
}

// paceRead reads what a grant is for, beside the group's turns, and gives it to one of them. What cannot be read the core finds out by itself.
func (h *Host) paceRead(a paceAsk) {
	es, err := a.g.log.EntriesBehind(a.from, a.upTo+1, min(piece, pieceMessages*h.o.MaxMessageBytes))
	if err != nil {
		es = nil
	}
	var bytes int64
	for i := range es {
		bytes += int64(es[i].Size())
	}
	p := &h.pacer
	p.mu.Lock()
	p.reads--
	p.held += bytes
	p.mu.Unlock()
	if a.g.in.pushEvent(h, a.g, event{kind: evPaced, peer: a.to, entries: es, bytes: bytes}) != nil {
		h.paceDone(0, bytes, h.now()) // it has stopped
	}
}

func (p *pacer) nextLocked(h *Host, now raft.Time) (none paceAsk) {
	if len(p.members) == 0 || p.reads >= maxGrants || p.held >= maxHeldBytes { // a read that ends, or a turn, looks again
		return none
	}
	p.lookLocked(now)
	most := maxGrants
	if p.limitedLocked(now) {
		most = 1
	}
	if p.grants >= most {
		patience := grantPatience
		if p.limitedLocked(now) {
			patience = min(patience, max(raft.Time(piece/p.rate*1e9), minGrantPatience))
		}
		if now < p.granted+patience {
			h.timers.arm(&p.timer, p.granted+patience)
			return none
		}
		p.grants = 0
	}
	for i := range p.members {
		m := p.members[(p.turn+i)%len(p.members)]
		if len(m.line) == 0 || m.way >= maxBehindBytes {
			continue // an answer makes room
		}
		if p.limitedLocked(now) && p.level <= 0 {
			h.timers.arm(&p.timer, now+max(raft.Time((1-p.level)/p.rate*1e9), raft.Time(100*time.Microsecond)))
			return none
		}
		a := m.line[0]
		m.line[0] = none
		m.line = m.line[1:]
		p.turn = (p.turn + i + 1) % len(p.members)
		p.grants++
		p.reads++
		p.granted = now
		return a
	}
	return none
}

// paceDone ends a grant, with what it sent of what was read for it.
func (h *Host) paceDone(sent, read int64, now raft.Time) {
	p := &h.pacer
	p.mu.Lock()
	p.grants = max(0, p.grants-1)
	p.held -= read
	if sent > 0 {
		p.level -= float64(sent)
		p.sentAt = now
		h.stats.behindBytes.Add(uint64(sent))
	}
	p.mu.Unlock()
	h.paceNext(now)
}

// limitedLocked: there is a rate, for something is being proposed.
func (p *pacer) limitedLocked(now raft.Time) bool { return p.live != 0 && now-p.live < paceQuiet }

// lookLocked fills the bucket, and looks after the rate.
func (p *pacer) lookLocked(now raft.Time) {
	if since := now - p.at; since > 0 {
		p.level = min(p.level+p.rate*float64(min(since, raft.Time(time.Second)))/1e9, p.rate*float64(paceBurst)/1e9)
		p.at = now
	}
	since := now - p.looked
	if since < paceInterval {
		return
	}
	proposed := p.proposed.Load()
	grown := float64(proposed-p.bytes) / float64(since) * 1e9
	n, mean := p.n, p.sum/float64(max(p.n, 1))
	least := max(minPace, paceGain*grown*float64(max(p.most, 1))) // each of them may lack all that is proposed
	p.looked, p.bytes, p.n, p.sum, p.most = now, proposed, 0, 0, len(p.members)
	switch catching := p.sentAt != 0 && now-p.sentAt < paceQuiet; {
	case !catching && n > 0:
		if p.usual == 0 {
			p.usual = mean
		}
		p.usual += (mean - p.usual) / 16
		p.rate, p.much = firstPace, 0
	case n > 0:
		usual := p.usual
		if usual == 0 {
			usual = paceUnknown
		}
		switch slow := mean > paceStretch*usual+paceSlack; {
		case !slow && p.much != 0 && p.rate >= paceShy*p.much:
			p.rate *= paceNear
		case !slow:
			p.rate *= paceUp
		case p.rate > least:
			p.much = p.rate
			p.rate *= paceDown
		default: // it is not for what is sent to those that are behind
			p.usual = usual + (mean-usual)/64
		}
		p.rate = min(max(p.rate, least), maxPace)
	}
}

// paceLive takes the time that a proposal took.
func (h *Host) paceLive(now, took raft.Time) {
	p := &h.pacer
	p.mu.Lock()
	p.n++
	if t := float64(took); p.usual != 0 {
		p.sum += min(t, paceClip*p.usual)
	} else {
		p.sum += t
	}
	p.live = now
	p.lookLocked(now)
	p.mu.Unlock()
}

// groupPace is a group's part: raft.Pacer, and what the host knows of it. It belongs to the worker that has the group.
type groupPace struct {
	members []groupPaced // of this leader, as many as are behind
}

type groupPaced struct {
	id    raft.NodeID
	asks  bool // in this turn, for
	from  raft.Index
	upTo  raft.Index
	lined bool // stands in line, or has a grant
	way   int64
}

// Ask implements raft.Pacer.
func (p *groupPace) Ask(to raft.NodeID, from, upTo raft.Index) {
	m := p.of(to)
	m.asks, m.from, m.upTo = true, from, upTo
}

func (p *groupPace) of(id raft.NodeID) *groupPaced {
	for i := range p.members {
		if p.members[i].id == id {
			return &p.members[i]
		}
	}
	p.members = append(p.members, groupPaced{id: id})
	return &p.members[len(p.members)-1]
}

// paceGranted is the turn that was stood in line for.
func (g *Group) paceGranted(now raft.Time, e *event) {
	g.pace.of(e.peer).lined = false
	g.h.paceDone(g.r.SendBehind(now, e.peer, e.entries), e.bytes, now)
	g.afterStep(now)
}

// paceTurn tells the host, at the end of a turn, what has changed.
func (g *Group) paceTurn(now raft.Time) {
	if len(g.pace.members) == 0 {
		return
	}
	room := false
	for i := range g.pace.members {
		m := &g.pace.members[i]
		if way := g.r.BehindInflight(m.id); way != m.way {
			room = room || way < m.way
			g.h.paceWay(m.id, way-m.way)
			m.way = way
		}
		if m.asks && !m.lined {
			m.lined = true
			g.h.paceAsk(paceAsk{g, m.id, m.from, m.upTo}, now)
		}
		m.asks = false
	}
	g.pace.members = slices.DeleteFunc(g.pace.members, func(m groupPaced) bool { return !m.lined && m.way == 0 })
	if room {
		g.h.paceNext(now)
	}
}

// paceWay changes what is on its way to a member.
func (h *Host) paceWay(to raft.NodeID, by int64) {
	p := &h.pacer
	p.mu.Lock()
	p.memberLocked(to).way += by
	p.forgetLocked()
	p.mu.Unlock()
}

// endPace takes a group that has ended out of the account.
func (g *Group) endPace() {
	for i := range g.pace.members {
		m := &g.pace.members[i]
		g.h.paceWay(m.id, -m.way)
	}
	if len(g.pace.members) == 0 {
		return
	}
	g.pace.members = nil
	p := &g.h.pacer
	p.mu.Lock()
	for _, m := range p.members {
		m.line = slices.DeleteFunc(m.line, func(a paceAsk) bool { return a.g == g })
	}
	p.forgetLocked()
	p.mu.Unlock()
	g.h.paceNext(g.h.now()) // there is room for others
}

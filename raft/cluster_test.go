// A cluster in memory for the tests of this package: logs whose syncs are steps of their own and whose crashes lose what
// was not synced, and replicas driven through Ready exactly as the runtime drives them.

package raft

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"time"
)

const (
	testET    = 1000 * time.Millisecond
	testHB    = 100 * time.Millisecond
	testDrift = 50 * time.Millisecond
	testGroup = GroupID(7)
)

// memLog is a LogReader with an owner's side. base is what was compacted last.
type memLog struct {
	base    Ticket // index and term of the entry before the first
	ents    []Entry
	durable logImage
	syncing []syncJob
	// readErr, if set, fails reads.
	readErr error
}

type logImage struct {
	base Ticket
	ents []Entry
}

type syncJob struct {
	image  logImage
	ticket Ticket
}

func (l *memLog) FirstIndex() Index { return l.base.Index + 1 }
func (l *memLog) LastIndex() Index  { return l.base.Index + Index(len(l.ents)) }

func (l *memLog) Term(i Index) (Term, error) {
	switch {
	case l.readErr != nil:
		return 0, l.readErr
	case i < l.base.Index:
		return 0, ErrCompacted
	case i == l.base.Index:
		return l.base.Term, nil
	case i > l.LastIndex():
		return 0, ErrUnavailable
	}
	return l.ents[i-l.base.Index-1].Term, nil
}

func (l *memLog) Entries(lo, hi Index, maxBytes int) ([]Entry, error) {
	switch {
	case l.readErr != nil:
		return nil, l.readErr
	case lo <= l.base.Index:
		return nil, ErrCompacted
	case hi > l.LastIndex()+1:
		return nil, ErrUnavailable
	}
	var out []Entry
	size := 0
	for i := lo; i < hi; i++ {
		e := l.ents[i-l.base.Index-1]
		if size += e.Size(); len(out) > 0 && size > maxBytes {
			break
		}
		out = append(out, e)
	}
	return out, nil
}

func (l *memLog) LastConfig(upTo Index) (Entry, bool, error) {
	for i := min(upTo, l.LastIndex()); i > l.base.Index; i-- {
		if e := l.ents[i-l.base.Index-1]; e.Type == EntryConfig {
			return e, true, nil
		}
	}
	return Entry{}, false, nil
}

func (l *memLog) append(term Term, es []Entry) {
	if es[0].Index <= l.base.Index || es[0].Index > l.LastIndex()+1 {
		panic(fmt.Sprintf("append at %d to log (%d,%d]", es[0].Index, l.base.Index, l.LastIndex()))
	}
	l.ents = append(l.ents[:es[0].Index-l.base.Index-1:es[0].Index-l.base.Index-1], es...)
	l.syncing = append(l.syncing, syncJob{l.image(), Ticket{term, l.LastIndex()}})
}

func (l *memLog) image() logImage { return logImage{l.base, slices.Clip(l.ents)} }

// compact drops entries up to i, durably.
func (l *memLog) compact(i Index) {
	t, err := l.Term(i)
	if err != nil || i <= l.base.Index {
		return
	}
	cut := func(im logImage) logImage {
		if last := im.base.Index + Index(len(im.ents)); last < i {
			panic("compaction above what is durable")
		}
		return logImage{Ticket{t, i}, im.ents[i-im.base.Index:]}
	}
	now := cut(l.image())
	l.durable = cut(l.durable)
	for k := range l.syncing {
		l.syncing[k].image = cut(l.syncing[k].image)
	}
	l.base, l.ents = now.base, now.ents
}

func (l *memLog) install(m SnapshotMeta) {
	l.base, l.ents = Ticket{m.Term, m.Index}, nil
	l.durable = l.image()
	l.syncing = nil
}

// memNode is one broker's replica, with what its disk holds.
type memNode struct {
	c     *cluster
	id    NodeID
	inc   Incarnation
	r     *Raft
	log   *memLog
	boot  uint64
	disk  HardState   // durable
	saves []HardState // on their way
	snap  Snapshot    // durable; Index 0: none. Data is the state's hash
	state uint64      // hash chain over applied entries
	upTo  Index       // that state's index

	initial   ConfState
	voteAfter Index
	had       Index // what a damaged disk once had
	down      bool
	rate      float64 // of its clock
	skew      Time
	reads     []ReadState
	onReady   func(n *memNode, rd *Ready)
	autoSnap  bool
	holdOffer bool   // offers are kept in offered, and not taken
	offered   *Offer // the last one
}

type cluster struct {
	nodes []*memNode
	net   []Message
	now   Time
	rng   *rand.Rand
	cut   map[[2]NodeID]bool // one direction each
	cfg   func(*Config)
}

func newCluster(seed uint64) *cluster {
	return &cluster{rng: rand.New(rand.NewPCG(seed, 1)), cut: map[[2]NodeID]bool{}, now: Time(time.Second)}
}

func members(ids ...NodeID) []Member {
	var ms []Member
	for _, id := range ids {
		ms = append(ms, Member{ID: id, Incarnation: Incarnation(100 + id)})
	}
	return ms
}

func (c *cluster) add(id NodeID, initial ConfState, fresh bool) *memNode {
	n := &memNode{c: c, id: id, inc: Incarnation(100 + id), log: &memLog{}, initial: initial, rate: 1, autoSnap: true}
	c.nodes = append(c.nodes, n)
	n.start(fresh)
	return n
}

func (c *cluster) node(id NodeID) *memNode {
	for _, n := range c.nodes {
		if n.id == id {
			return n
		}
	}
	return nil
}

func (n *memNode) now() Time { return Time(float64(n.c.now)*n.rate) + n.skew }

func (n *memNode) start(fresh bool) {
	n.boot++
	n.down = false
	boot := n.initial
	if n.snap.Meta.Index > 0 {
		boot = n.snap.Meta.Conf
	}
	n.upTo, n.state = n.snap.Meta.Index, 0
	if n.upTo > 0 {
		n.state = stateOf(n.snap.Data)
	}
	cfg := Config{
		Group: testGroup, Self: Member{n.id, n.inc}, Boot: n.boot, VoteAfter: n.voteAfter,
		ElectionTimeout: testET, HeartbeatInterval: testHB, ClockDrift: testDrift,
		MaxMessageBytes: 64, MaxInflightMsgs: 4, MaxInflightBytes: 1 << 20, MaxUncommitted: 1 << 20, MaxApplyBytes: 128,
		Log: n.log, HardState: n.disk, Bootstrap: boot, Applied: n.snap.Meta.Index, Now: n.now(), Fresh: fresh,
		Rand:          rand.New(rand.NewPCG(n.c.rng.Uint64(), uint64(n.id))),
		FrameInternal: func(e *Entry) { e.Frame = append([]byte{byte(e.Type)}, e.Payload...); e.Payload = e.Frame[1:] },
	}
	if n.c.cfg != nil {
		n.c.cfg(&cfg)
	}
	r, err := New(cfg)
	if err != nil {
		panic(err)
	}
	n.r = r
}

// crash loses whatever was not synced, except that of what was on its way to the disk some of it may have arrived.
func (n *memNode) crash(lucky func(int) int) {
	n.down = true
	for _, hs := range n.saves[:lucky(len(n.saves)+1)] {
		n.disk = hs
	}
	n.saves = nil
	for _, j := range n.log.syncing[:lucky(len(n.log.syncing)+1)] {
		n.log.durable = j.image
	}
	n.log.syncing = nil
	n.log.base, n.log.ents = n.log.durable.base, n.log.durable.ents
	n.reads = nil
}

func hashEntry(state uint64, e *Entry) uint64 {
	h := state*1099511628211 + uint64(e.Index)*31 + uint64(e.Term)
	for _, b := range e.Payload {
		h = h*16777619 + uint64(b)
	}
	return h
}

func stateOf(data []byte) uint64 {
	var v uint64
	fmt.Sscanf(string(data), "%d", &v)
	return v
}

// process does all that Ready asks for, except the syncs.
func (n *memNode) process() {
	for !n.down {
		rd, ok := n.r.Ready()
		if !ok {
			return
		}
		if len(rd.Entries) > 0 {
			n.log.append(rd.Term, rd.Entries)
		}
		if rd.HardState != nil {
			n.saves = append(n.saves, *rd.HardState)
		}
		n.c.net = append(n.c.net, rd.Messages...)
		n.reads = append(n.reads, rd.Reads...)
		for i := range rd.Committed {
			e := &rd.Committed[i]
			if e.Index != n.upTo+1 {
				panic(fmt.Sprintf("node %d applies %d after %d", n.id, e.Index, n.upTo))
			}
			n.state = hashEntry(n.state, e)
			n.upTo = e.Index
		}
		if n.onReady != nil {
			n.onReady(n, &rd)
		}
		if len(rd.Committed) > 0 {
			n.r.AppliedTo(n.upTo)
		}
		if rd.Offer != nil {
			if n.offered = rd.Offer; !n.holdOffer {
				n.r.SnapshotReceived(n.now(), rd.Offer)
			}
		}
		if rd.Snapshot != nil {
			n.snap = *rd.Snapshot
			n.log.install(n.snap.Meta)
			n.upTo, n.state = n.snap.Meta.Index, stateOf(n.snap.Data)
			n.r.SnapshotInstalled(n.now(), n.snap.Meta)
		}
		if n.autoSnap {
			for _, to := range rd.SendSnapshot {
				s := n.takeSnapshot()
				if err := n.r.StepSnapshot(n.now(), to, &s); err != nil {
					panic(err)
				}
			}
		}
	}
}

func (n *memNode) takeSnapshot() Snapshot {
	t, err := n.log.Term(n.upTo)
	if err != nil {
		panic(err)
	}
	return Snapshot{Meta: SnapshotMeta{Index: n.upTo, Term: t, Conf: n.r.ConfAt(n.upTo)}, Data: fmt.Append(nil, n.state)}
}

func (n *memNode) snapshotAndCompact(keep Index) {
	if n.upTo == 0 || n.upTo <= n.snap.Meta.Index {
		return
	}
	n.snap = n.takeSnapshot()
	if n.upTo > keep {
		n.log.compact(n.upTo - keep)
	}
}

func (n *memNode) syncHardState() bool {
	if n.down || len(n.saves) == 0 {
		return false
	}
	hs := n.saves[0]
	n.saves = n.saves[1:]
	n.disk = hs
	n.r.HardStateSynced(n.now(), hs)
	return true
}

func (n *memNode) syncLog() bool {
	if n.down || len(n.log.syncing) == 0 {
		return false
	}
	j := n.log.syncing[0]
	n.log.syncing = n.log.syncing[1:]
	n.log.durable = j.image
	n.r.AppendSynced(n.now(), j.ticket)
	return true
}

func (n *memNode) tick() {
	if !n.down {
		n.r.Tick(n.now())
	}
}

// deliver hands a message over, unless the way is cut or the receiver down.
func (c *cluster) deliver(m Message) error {
	n := c.node(m.To)
	if n == nil || n.down || c.cut[[2]NodeID{m.From, m.To}] {
		return nil
	}
	return n.r.Step(n.now(), &m)
}

// stabilize runs everything that needs no time until nothing moves. It reports false if that does not end.
func (c *cluster) stabilize() bool {
	for range 10000 {
		busy := false
		for _, n := range c.nodes {
			n.process()
			for n.syncHardState() || n.syncLog() {
				busy = true
				n.process()
			}
		}
		if len(c.net) > 0 {
			busy = true
			m := c.net[0]
			c.net = c.net[1:]
			c.deliver(m) // what is refused changes nothing
		}
		if !busy {
			return true
		}
	}
	return false
}

func (c *cluster) advance(d time.Duration) {
	c.now += Time(d)
	for _, n := range c.nodes {
		n.tick()
	}
}

// run lets time pass in small steps until cond holds.
func (c *cluster) run(limit time.Duration, cond func() bool) bool {
	for t := time.Duration(0); t <= limit; t += testHB / 4 {
		if !c.stabilize() {
			return false
		}
		if cond() {
			return true
		}
		c.advance(testHB / 4)
	}
	return false
}

func (c *cluster) leader() *memNode {
	var best *memNode
	for _, n := range c.nodes {
		if !n.down && n.r.role == Leader && (best == nil || n.r.term > best.r.term) {
			best = n
		}
	}
	return best
}

func (n *memNode) propose(payload string) error {
	t, i, err := n.r.NextProposal()
	if err != nil {
		return err
	}
	return n.r.Propose(n.now(), []Entry{{Term: t, Index: i, Type: EntryCommand, Payload: []byte(payload)}})
}

// The test bench: a log in memory that forgets what was not synced, a state machine that can tell whether it saw
// everything, a network that loses, delays, repeats and re-orders, and a cluster of manual hosts over one fake clock.

package multi

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/balsamq/balsa/internal/vfs"
	"github.com/balsamq/balsa/raft"
)

// ---- a log in memory

type memLog struct {
	mu       sync.Mutex
	group    raft.GroupID
	first    raft.Index // of entries[0]
	prevTerm raft.Term  // of the entry at first-1
	entries  []raft.Entry
	ticket   raft.Ticket // of the last append
	snap     *raft.Snapshot
	unsynced int64
	mark     bool

	coming *raft.Snapshot // being received
	part   []byte         // of it; durable

	durable durableLog // what a crash leaves
	syncErr error      // returned by Sync
	syncing bool
	closed  bool

	prune  func(*memLog) (*raft.SnapshotMeta, error) // nil: nothing is ever pruned
	saving func()                                    // called as SaveSnapshot begins, if set
}

type durableLog struct {
	first    raft.Index
	prevTerm raft.Term
	entries  []raft.Entry
	snap     *raft.Snapshot
}

func newMemLog(g raft.GroupID) *memLog {
	return &memLog{group: g, first: 1, durable: durableLog{first: 1}}
}

// crash is the log that a restart finds.
func (l *memLog) crash() *memLog {
	l.mu.Lock()
	defer l.mu.Unlock()
	d := l.durable
	n := &memLog{group: l.group, first: d.first, prevTerm: d.prevTerm, entries: slices.Clone(d.entries), snap: d.snap, durable: d,
		coming: l.coming, part: slices.Clone(l.part)}
	return n
}

func memFrame(g raft.GroupID, e *raft.Entry) {
	b := binary.BigEndian.AppendUint64(nil, uint64(e.Term))
	b = binary.BigEndian.AppendUint64(b, uint64(e.Index))
	b = append(b, byte(e.Type))
	n := len(b)
	b = append(b, e.Payload...)
	b = binary.BigEndian.AppendUint32(b, crc32.ChecksumIEEE(b)^uint32(g))
	e.Frame, e.Payload = b, b[n:len(b)-4]
}

func (l *memLog) DecodeFrame(e *raft.Entry) error {
	b := e.Frame
	if len(b) < 21 || crc32.ChecksumIEEE(b[:len(b)-4])^uint32(l.group) != binary.BigEndian.Uint32(b[len(b)-4:]) {
		return errors.New("bad frame")
	}
	e.Term, e.Index = raft.Term(binary.BigEndian.Uint64(b)), raft.Index(binary.BigEndian.Uint64(b[8:]))
	e.Type, e.Payload = raft.EntryType(b[16]), b[17:len(b)-4]
	return nil
}

func (l *memLog) FirstIndex() raft.Index { l.mu.Lock(); defer l.mu.Unlock(); return l.first }
func (l *memLog) LastIndex() raft.Index  { l.mu.Lock(); defer l.mu.Unlock(); return l.last() }
func (l *memLog) last() raft.Index       { return l.first + raft.Index(len(l.entries)) - 1 }

func (l *memLog) Term(i raft.Index) (raft.Term, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case i+1 < l.first:
		return 0, raft.ErrCompacted
	case i+1 == l.first:
		return l.prevTerm, nil
	case i > l.last():
		return 0, raft.ErrUnavailable
	}
	return l.entries[i-l.first].Term, nil
}

func (l *memLog) Entries(lo, hi raft.Index, maxBytes int) ([]raft.Entry, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if lo < l.first {
		return nil, raft.ErrCompacted
	}
	if hi > l.last()+1 {
		return nil, raft.ErrUnavailable
	}
	var out []raft.Entry
	for i := lo; i < hi; i++ {
		e := l.entries[i-l.first]
		if maxBytes -= e.Size(); maxBytes < 0 && len(out) > 0 {
			break
		}
		out = append(out, e)
	}
	return out, nil
}

func (l *memLog) EntriesBehind(lo, hi raft.Index, maxBytes int) ([]raft.Entry, error) {
	return l.Entries(lo, hi, maxBytes)
}

func (l *memLog) LastConfig(upTo raft.Index) (raft.Entry, bool, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := min(upTo, l.last()); i >= l.first && i > 0; i-- {
		if e := l.entries[i-l.first]; e.Type == raft.EntryConfig {
			return e, true, nil
		}
	}
	return raft.Entry{}, false, nil
}

func (l *memLog) Append(term raft.Term, es []raft.Entry) (raft.Ticket, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return raft.Ticket{}, errors.New("closed")
	}
	at := es[0].Index
	if at < l.first || at > l.last()+1 {
		panic(fmt.Sprintf("append at %d to [%d,%d]", at, l.first, l.last()))
	}
	if at <= l.last() { // what is durable may share the array: never overwritten
		l.entries = l.entries[: at-l.first : at-l.first]
	}
	for i := range es {
		if len(es[i].Frame) == 0 || es[i].Index != at+raft.Index(i) {
			panic("append of an unframed or misplaced entry")
		}
		l.unsynced += int64(es[i].Size())
	}
	l.entries = append(l.entries, es...)
	l.ticket = raft.Ticket{Term: term, Index: l.last()}
	return l.ticket, nil
}

func (l *memLog) Sync() (raft.Ticket, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.syncing {
		panic("Sync beside itself")
	}
	l.syncing = true
	defer func() { l.syncing = false }()
	t, n, d := l.ticket, l.unsynced, durableLog{l.first, l.prevTerm, l.entries[:len(l.entries):len(l.entries)], l.snap}
	err := l.syncErr
	l.mu.Unlock()
	runtime.Gosched() // appends may come in between, and are not covered
	l.mu.Lock()
	if err != nil {
		return raft.Ticket{}, err
	}
	l.mark = n > 0
	l.unsynced -= n
	l.durable = d
	return t, nil
}

func (l *memLog) MarkPending() bool { l.mu.Lock(); defer l.mu.Unlock(); return l.mark }
func (l *memLog) Told(raft.Index)   {}
func (l *memLog) Behind() int64     { return 0 }
func (l *memLog) Settle() error     { return nil }
func (l *memLog) Full() bool        { return false }
func (l *memLog) Unsynced() int64   { l.mu.Lock(); defer l.mu.Unlock(); return l.unsynced }

func (l *memLog) SaveSnapshot(meta raft.SnapshotMeta, data []byte) error {
	if l.saving != nil {
		l.saving()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.snap = &raft.Snapshot{Meta: meta, Data: data}
	l.durable.snap = l.snap
	return nil
}

func (l *memLog) LoadSnapshot() (*raft.Snapshot, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.snap, nil
}

// memSnapshot is an open snapshot of a memLog.
type memSnapshot struct{ snap raft.Snapshot }

func (s *memSnapshot) Snapshot() raft.Snapshot {
	return raft.Snapshot{Meta: s.snap.Meta, Size: int64(len(s.snap.Data)), Sum: crc32.ChecksumIEEE(s.snap.Data)}
}
func (s *memSnapshot) ReadAt(p []byte, off int64) error { copy(p, s.snap.Data[off:]); return nil }
func (s *memSnapshot) Close() error                     { return nil }

func (l *memLog) OpenSnapshot() (raft.SnapshotReader, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.snap == nil {
		return nil, nil
	}
	return &memSnapshot{*l.snap}, nil
}

func (l *memLog) Prune() (*raft.SnapshotMeta, error) {
	if l.prune == nil {
		return nil, nil
	}
	return l.prune(l)
}

func (l *memLog) TruncatePrefix(upTo raft.Index) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.snap == nil || upTo > l.snap.Meta.Index {
		return errors.New("truncation beyond the snapshot")
	}
	if upTo < l.first {
		return nil
	}
	l.prevTerm = l.entries[upTo-l.first].Term
	l.entries = slices.Clone(l.entries[upTo-l.first+1:])
	l.first = upTo + 1
	d := &l.durable
	if n := int(upTo) - int(d.first) + 1; n > 0 {
		d.entries = d.entries[min(n, len(d.entries)):]
		d.first, d.prevTerm = upTo+1, l.prevTerm
	}
	return nil
}

func (l *memLog) ReceiveSnapshot(s *raft.Snapshot) (int64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.coming == nil || !l.coming.Same(s) {
		l.coming, l.part = s, nil
	}
	return int64(len(l.part)), nil
}

func (l *memLog) WriteSnapshot(off int64, data []byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.coming == nil || off != int64(len(l.part)) || off+int64(len(data)) > l.coming.Size {
		panic(fmt.Sprintf("bytes %d to %d where %d belongs", off, off+int64(len(data)), len(l.part)))
	}
	l.part = append(l.part, data...)
	if int64(len(l.part)) == l.coming.Size && crc32.ChecksumIEEE(l.part) != l.coming.Sum {
		l.coming, l.part = nil, nil
		return errors.New("does not match its checksum")
	}
	return nil
}

func (l *memLog) DropReceived() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.coming, l.part = nil, nil
	return nil
}

func (l *memLog) InstallSnapshot(s *raft.Snapshot) ([]byte, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.coming == nil || !l.coming.Same(s) || int64(len(l.part)) != s.Size {
		panic("installation of what was not received")
	}
	s = &raft.Snapshot{Meta: s.Meta, Size: s.Size, Sum: s.Sum, Data: l.part}
	l.coming, l.part = nil, nil
	l.snap, l.entries, l.first, l.prevTerm, l.unsynced = s, nil, s.Meta.Index+1, s.Meta.Term, 0
	l.ticket = raft.Ticket{Term: s.Meta.Term, Index: s.Meta.Index}
	l.durable = durableLog{l.first, l.prevTerm, nil, s}
	return s.Data[8:], nil
}

func (l *memLog) EncodeSnapshot(upTo raft.Index, state []byte) ([]byte, error) {
	return append(binary.BigEndian.AppendUint64(nil, uint64(upTo)), state...), nil
}
func (l *memLog) DecodeSnapshot(data []byte) ([]byte, error) { return data[8:], nil }
func (l *memLog) Close() error                               { l.mu.Lock(); defer l.mu.Unlock(); l.closed = true; return nil }

// setSyncErr makes Sync fail, or work again.
func (l *memLog) setSyncErr(err error) { l.mu.Lock(); l.syncErr = err; l.mu.Unlock() }

// ---- hard states

// memStates makes a Save durable when flush is called, or at once.
type memStates struct {
	mu      sync.Mutex
	durable map[raft.GroupID]raft.HardState
	queue   []func()
	lazy    bool
	err     error
}

func newMemStates() *memStates { return &memStates{durable: make(map[raft.GroupID]raft.HardState)} }

func (s *memStates) Save(g raft.GroupID, hs raft.HardState, done func(error)) {
	s.mu.Lock()
	err := s.err
	save := func() {
		if err == nil {
			s.mu.Lock()
			s.durable[g] = hs
			s.mu.Unlock()
		}
		done(err)
	}
	if s.lazy {
		s.queue = append(s.queue, save)
		s.mu.Unlock()
		return
	}
	s.mu.Unlock()
	save()
}

func (s *memStates) flush() bool {
	s.mu.Lock()
	q := s.queue
	s.queue = nil
	s.mu.Unlock()
	for _, f := range q {
		f()
	}
	return len(q) > 0
}

func (s *memStates) Load(g raft.GroupID) (raft.HardState, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	hs, ok := s.durable[g]
	return hs, ok
}

func (s *memStates) Delete(g raft.GroupID, done func(error)) {
	s.mu.Lock()
	delete(s.durable, g)
	s.mu.Unlock()
	done(nil)
}

func (s *memStates) fail(err error) { s.mu.Lock(); s.err = err; s.mu.Unlock() }

// ---- state machine and stager

// memSM keeps every record in order. A payload "dup N" repeats the entry at index N.
type memSM struct {
	mu      sync.Mutex
	group   raft.GroupID
	State   memState
	seen    []Status
	fail    error
	indexes []raft.Index // applied in this life
}

type memState struct {
	Last    raft.Index
	Records []string
}

func (m *memSM) Apply(es []raft.Entry) ([]any, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fail != nil {
		return nil, m.fail
	}
	res := make([]any, len(es))
	for i := range es {
		if es[i].Index != m.State.Last+1 {
			panic(fmt.Sprintf("applied %d after %d", es[i].Index, m.State.Last))
		}
		m.State.Last = es[i].Index
		m.indexes = append(m.indexes, es[i].Index)
		if es[i].Type == raft.EntryRecords {
			m.State.Records = append(m.State.Records, string(es[i].Payload))
			res[i] = len(m.State.Records)
		}
	}
	return res, nil
}

func (m *memSM) Snapshot() ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return json.Marshal(m.State)
}

func (m *memSM) Restore(meta raft.SnapshotMeta, state []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.State = memState{}
	if err := json.Unmarshal(state, &m.State); err != nil {
		return err
	}
	if m.State.Last != meta.Index {
		return fmt.Errorf("snapshot says %d, its state %d", meta.Index, m.State.Last)
	}
	return nil
}

func (m *memSM) LeadershipChanged(s Status) {
	m.mu.Lock()
	m.seen = append(m.seen, s)
	m.mu.Unlock()
}

func (m *memSM) records() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.State.Records)
}

var errRefused = errors.New("refused by the stager")

func (m *memSM) Stage(p *Proposal, e *raft.Entry) (raft.Index, error) {
	if bytes.Equal(p.Payload, []byte("refuse")) {
		return 0, errRefused
	}
	var at raft.Index
	if n, _ := fmt.Sscanf(string(p.Payload), "dup %d", &at); n == 1 {
		return at, nil
	}
	memFrame(m.group, e)
	return 0, nil
}

func (m *memSM) StageInternal(e *raft.Entry) { memFrame(m.group, e) }

// ---- the cluster in manual mode

type fakeClock struct {
	now   raft.Time
	slept raft.Time // a part of now
}

func (c *fakeClock) Now() raft.Time       { return c.now }
func (c *fakeClock) Monotonic() raft.Time { return c.now - c.slept }

type packet struct {
	at   raft.Time
	seq  int
	from raft.NodeID
	to   raft.NodeID
	msgs []raft.Message
	pair *PairMessage
	bit  *ChunkMessage
}

type simNode struct {
	id     raft.NodeID
	host   *Host
	boot   uint64
	states *memStates
	logs   map[raft.GroupID]*memLog
	sms    map[raft.GroupID]*memSM
	down   bool
	slow   bool // its flushes wait
}

type sim struct {
	t     testing.TB
	clock fakeClock
	rng   *rand.Rand
	nodes []*simNode
	net   []packet
	sent  int
	opts  Options
	gopts GroupConfig
	ids   []raft.GroupID
	trace strings.Builder

	chunk     func(to *simNode, m *ChunkMessage) bool // sees pieces of snapshots that arrive, may change and stop them
	message   func(m *raft.Message) bool              // sees messages of groups that arrive, and may stop them
	loss, dup float64
	delayMax  time.Duration
	cut       map[[2]raft.NodeID]bool // one way
	steps     int
	size      int // nodes that there will be
}

// simPort is a node's Transport.
type simPort struct {
	s    *sim
	from raft.NodeID
}

func (p simPort) Send(to raft.NodeID, msgs []raft.Message) {
	for _, m := range msgs { // one by one, so that each has its own fate
		p.s.enqueue(packet{from: p.from, to: to, msgs: []raft.Message{m}})
	}
}

func (p simPort) SendPair(to raft.NodeID, m *PairMessage) {
	p.s.enqueue(packet{from: p.from, to: to, pair: m})
}

func (p simPort) SendChunk(to raft.NodeID, m *ChunkMessage) {
	p.s.enqueue(packet{from: p.from, to: to, bit: m})
}

func (s *sim) enqueue(p packet) {
	if s.cut[[2]raft.NodeID{p.from, p.to}] {
		return
	}
	n := 1
	if s.loss > 0 && s.rng.Float64() < s.loss {
		n = 0
	}
	if s.dup > 0 && s.rng.Float64() < s.dup {
		n++
	}
	for range n {
		p.at = s.clock.now + raft.Time(time.Millisecond)
		if s.delayMax > 0 {
			p.at += raft.Time(s.rng.Int64N(int64(s.delayMax)))
		}
		s.sent++
		p.seq = s.sent
		s.net = append(s.net, p)
	}
}

const simET = time.Second

func newSim(t testing.TB, seed uint64, nodes, groups int, tweak func(*Options, *GroupConfig)) *sim {
	s := &sim{t: t, rng: rand.New(rand.NewPCG(seed, 7)), cut: make(map[[2]raft.NodeID]bool), size: nodes}
	s.clock.now = 1000
	s.opts = Options{Workers: -1, ElectionTimeout: simET, HeartbeatInterval: simET / 10, ClockDrift: simET / 20, Seed: seed}
	s.gopts = GroupConfig{KeepEntries: -1}
	if tweak != nil {
		tweak(&s.opts, &s.gopts)
	}
	for i := range groups {
		s.ids = append(s.ids, raft.GroupID(i+1))
	}
	for i := range nodes {
		n := &simNode{id: raft.NodeID(i + 1), states: newMemStates(), logs: make(map[raft.GroupID]*memLog)}
		n.states.lazy = true
		s.nodes = append(s.nodes, n)
		s.start(n, true)
	}
	return s
}

func (s *sim) start(n *simNode, fresh bool) {
	n.boot++
	n.down = false
	n.sms = make(map[raft.GroupID]*memSM)
	o := s.opts
	o.Self = raft.Member{ID: n.id, Incarnation: 1}
	o.Boot, o.Clock, o.Transport, o.HardStates = n.boot, &s.clock, simPort{s, n.id}, n.states
	h, err := NewHost(o)
	if err != nil {
		s.t.Fatal(err)
	}
	h.Start()
	n.host = h
	var conf raft.ConfState
	for i := 1; i <= max(s.size, 3); i++ {
		conf.Voters = append(conf.Voters, raft.Member{ID: raft.NodeID(i), Incarnation: 1})
	}
	for _, id := range s.ids {
		if n.logs[id] == nil {
			n.logs[id] = newMemLog(id)
		}
		sm := &memSM{group: id}
		n.sms[id] = sm
		c := s.gopts
		c.ID, c.Log, c.Stager, c.StateMachine, c.Bootstrap, c.Fresh = id, n.logs[id], sm, sm, conf, fresh
		if _, err := h.CreateGroup(c); err != nil {
			s.t.Fatal(err)
		}
	}
}

// crash stops a node without any of the courtesies, and forgets what it had not synced.
func (s *sim) crash(n *simNode) {
	n.down = true
	n.host = nil
	n.states.queue = nil
	for id, l := range n.logs {
		n.logs[id] = l.crash()
	}
}

// settle runs everything that can be done at this instant.
func (s *sim) settle() {
	for again := true; again; {
		again = false
		for _, n := range s.nodes {
			if n.down {
				continue
			}
			if n.host.Run() > 0 {
				again = true
			}
			if n.states.flush() {
				again = true
			}
			for !n.slow && n.host.Flush() {
				again = true
			}
		}
	}
}

// next advances time to the next thing that happens, at most to until; false when until was reached.
func (s *sim) next(until raft.Time) bool {
	s.settle()
	s.steps++
	at := until
	for _, n := range s.nodes {
		if !n.down {
			at = min(at, n.host.Deadline())
		}
	}
	for i := range s.net {
		at = min(at, s.net[i].at)
	}
	if at >= until {
		s.clock.now = until
		return false
	}
	s.clock.now = max(s.clock.now, at)
	due, later := []packet{}, s.net[:0]
	for _, p := range s.net {
		if p.at <= s.clock.now {
			due = append(due, p)
		} else {
			later = append(later, p)
		}
	}
	s.net = later
	slices.SortFunc(due, func(a, b packet) int {
		if a.at != b.at {
			return int(a.at - b.at)
		}
		return a.seq - b.seq
	})
	for _, p := range due {
		n := s.nodes[p.to-1]
		if n.down || s.cut[[2]raft.NodeID{p.from, p.to}] {
			continue
		}
		if p.pair != nil {
			c := *p.pair
			fmt.Fprintf(&s.trace, "%d %d>%d pair %v %d %d %d\n", s.clock.now, p.from, p.to, c.Response, c.Session, c.Seq, len(c.Cover))
			n.host.DeliverPair(p.from, &c)
		} else if p.bit != nil {
			c := *p.bit
			fmt.Fprintf(&s.trace, "%d %d>%d chunk %v g%d i%d at %d, %d bytes\n", s.clock.now, p.from, p.to, c.Response, c.Group, c.Index, c.Offset, len(c.Data))
			if s.chunk != nil && !s.chunk(n, &c) {
				continue
			}
			n.host.DeliverChunk(p.from, &c)
		} else {
			m := p.msgs[0]
			if s.message != nil && !s.message(&m) {
				continue
			}
			fmt.Fprintf(&s.trace, "%d %d>%d %v g%d t%d i%d\n", s.clock.now, p.from, p.to, m.Type, m.Group, m.Term, m.Index)
			n.host.Deliver(slices.Clone(p.msgs))
		}
	}
	return true
}

// run advances the cluster by d, calling check at every step.
func (s *sim) run(d time.Duration, check func()) {
	until := s.clock.now + raft.Time(d)
	for s.next(until) {
		if check != nil {
			check()
		}
	}
	s.settle()
}

// until runs the cluster until cond holds; the bound is fake time, so that a failure is no matter of the machine's speed.
func (s *sim) until(what string, cond func() bool) {
	s.t.Helper()
	limit := s.clock.now + raft.Time(120*simET)
	s.settle()
	for !cond() {
		if s.clock.now >= limit {
			s.t.Fatalf("not within 120 election timeouts: %s", what)
		}
		s.next(min(limit, s.clock.now+raft.Time(simET/20)))
		s.settle()
	}
}

func (s *sim) group(node int, id raft.GroupID) *Group {
	if s.nodes[node].down {
		return nil
	}
	return s.nodes[node].host.Group(id)
}

// leader is the node index of the ready leader with the highest term, or -1.
func (s *sim) leader(id raft.GroupID) int {
	best, term := -1, raft.Term(0)
	for i := range s.nodes {
		if g := s.group(i, id); g != nil {
			if st := g.Status(); st.Role == raft.Leader && st.Ready && st.Term > term {
				best, term = i, st.Term
			}
		}
	}
	return best
}

func (s *sim) waitLeader(id raft.GroupID) int {
	s.t.Helper()
	s.until(fmt.Sprintf("a leader of group %d", id), func() bool { return s.leader(id) >= 0 })
	return s.leader(id)
}

func (s *sim) waitLeaders() {
	s.t.Helper()
	s.until("leaders of all groups", func() bool {
		for _, id := range s.ids {
			if s.leader(id) < 0 {
				return false
			}
		}
		return true
	})
}

// result collects outcomes and insists that each comes once.
type result struct {
	t     testing.TB
	mu    sync.Mutex
	calls int
	o     Outcome

	group   raft.GroupID
	payload string
}

func (r *result) done(o Outcome) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.calls++; r.calls > 1 {
		r.t.Errorf("a proposal ended %d times: %+v then %+v", r.calls, r.o, o)
		return
	}
	r.o = o
}

func (r *result) ended() bool { r.mu.Lock(); defer r.mu.Unlock(); return r.calls > 0 }

func (s *sim) propose(g *Group, payload string) *result {
	r := &result{t: s.t, group: g.id, payload: payload}
	g.Propose(&Proposal{Type: raft.EntryRecords, Payload: []byte(payload), Done: r.done})
	return r
}

// checkLeases: while a leader holds a lease, nobody leads the group in a later term. This is what the lease promises,
// and what every message about coverage could break.
func (s *sim) checkLeases() {
	s.t.Helper()
	for _, id := range s.ids {
		for _, n := range s.nodes {
			if n.down {
				continue
			}
			g := n.host.Group(id)
			if g.failed != nil || g.r.Status().Role != raft.Leader {
				continue
			}
			g.feedAcks(s.clock.now)
			if g.r.LeaseUntil() <= s.clock.now {
				continue
			}
			for _, o := range s.nodes {
				if o == n || o.down {
					continue
				}
				if st := o.host.Group(id).r.Status(); st.Role == raft.Leader && st.Term > g.r.Status().Term {
					s.t.Fatalf("at %d node %d holds a lease of group %d in term %d until %d, and node %d leads in term %d",
						s.clock.now, n.id, id, g.r.Status().Term, g.r.LeaseUntil(), o.id, st.Term)
				}
			}
		}
	}
}

// checkEqual: all state machines hold the same, as far as they have come.
func (s *sim) checkEqual() {
	s.t.Helper()
	for _, id := range s.ids {
		var longest []string
		for _, n := range s.nodes {
			if !n.down {
				if r := n.sms[id].records(); len(r) > len(longest) {
					longest = r
				}
			}
		}
		for _, n := range s.nodes {
			if n.down {
				continue
			}
			if r := n.sms[id].records(); !slices.Equal(r, longest[:len(r)]) {
				s.t.Fatalf("node %d, group %d: records differ", n.id, id)
			}
		}
	}
}

var errNoSpace = fmt.Errorf("write: %w", vfs.ErrNoSpace)

func crcOf(b []byte) uint32 { return crc32.Checksum(b, castagnoli) }

func (l *memLog) hasSnapshot() bool { l.mu.Lock(); defer l.mu.Unlock(); return l.snap != nil }

package partition

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/balsamq/balsa/internal/vfs"
	"github.com/balsamq/balsa/protocol"
	"github.com/balsamq/balsa/raft"
	"github.com/balsamq/balsa/raft/multi"
	"github.com/balsamq/balsa/segment"
)

// cluster is some nodes with one partition each, in one thread: real multi hosts in manual mode, real segment logs on
// crashable file systems, a fake clock, and a network that the test cuts. The same calls give the same run.
type cluster struct {
	t      testing.TB
	clock  atomic.Int64 // read by the timer of parked answers, too
	nodes  []*node
	wires  []packet
	cut    func(from, to raft.NodeID) bool // nil: all is well
	config func(*Config)
	multi  func(*multi.Options)
}

type packet struct {
	from, to raft.NodeID
	msgs     []raft.Message
	pair     *multi.PairMessage
	chunk    *multi.ChunkMessage
}

type node struct {
	c     *cluster
	id    raft.NodeID
	mem   *vfs.Mem
	fs    vfs.FS // mem, or what a test wrapped around it
	hs    *hardStates
	boot  uint64
	host  *multi.Host
	rep   *Replica
	fails []error // OnFailed

	checked published
}

const testGroup raft.GroupID = 7

// hardStates is a HardStateStore whose saves become durable when the cluster says so.
type hardStates struct {
	saved   map[raft.GroupID]raft.HardState
	pending []func()
}

func (h *hardStates) Save(g raft.GroupID, hs raft.HardState, done func(error)) {
	h.pending = append(h.pending, func() { h.saved[g] = hs; done(nil) })
}
func (h *hardStates) Load(g raft.GroupID) (raft.HardState, bool) { hs, ok := h.saved[g]; return hs, ok }
func (h *hardStates) Delete(g raft.GroupID, done func(error)) {
	h.pending = append(h.pending, func() { delete(h.saved, g); done(nil) })
}

func (c *cluster) Now() raft.Time { return raft.Time(c.clock.Load()) }

func (n *node) Send(to raft.NodeID, msgs []raft.Message) {
	n.c.wires = append(n.c.wires, packet{from: n.id, to: to, msgs: slices.Clone(msgs)})
}
func (n *node) SendPair(to raft.NodeID, m *multi.PairMessage) {
	cp := *m
	n.c.wires = append(n.c.wires, packet{from: n.id, to: to, pair: &cp})
}

func (n *node) SendChunk(to raft.NodeID, m *multi.ChunkMessage) {
	n.c.wires = append(n.c.wires, packet{from: n.id, to: to, chunk: m})
}

func (n *node) member() raft.Member {
	return raft.Member{ID: n.id, Incarnation: raft.Incarnation(100 + n.id)}
}

// newCluster starts n nodes; change, if not nil, adjusts every replica's Config.
func newCluster(t testing.TB, n int, change func(*Config)) *cluster {
	t.Helper()
	c := &cluster{t: t, config: change}
	c.clock.Store(1_000_000_000)
	for i := range n {
		mem := vfs.NewMem(uint64(i + 1))
		c.nodes = append(c.nodes, &node{c: c, id: raft.NodeID(i + 1), mem: mem, fs: mem,
			hs: &hardStates{saved: map[raft.GroupID]raft.HardState{}}})
	}
	for _, n := range c.nodes {
		n.start()
	}
	t.Cleanup(func() {
		for _, n := range c.nodes {
			n.stop()
		}
	})
	return c
}

func (c *cluster) conf() raft.ConfState {
	var cs raft.ConfState
	for _, n := range c.nodes {
		cs.Voters = append(cs.Voters, n.member())
	}
	return cs
}

func (n *node) start() {
	n.c.t.Helper()
	n.boot++
	o := multi.Options{Self: n.member(), Boot: n.boot, Workers: -1, ElectionTimeout: time.Second, Clock: n.c, Transport: n,
		HardStates: n.hs, Seed: 11}
	if n.c.multi != nil {
		n.c.multi(&o)
	}
	host, err := multi.NewHost(o)
	if err != nil {
		n.c.t.Fatal(err)
	}
	n.host = host
	_, existing := n.hs.Load(testGroup)
	cfg := Config{Group: testGroup, Topic: "orders", Partition: 0, Host: host, FS: n.fs, Dir: "data/orders-0",
		Segment: segment.Options{}, Bootstrap: n.c.conf(), Campaign: n.id == 1 && n.boot == 1, Existing: existing,
		Now:      func() time.Time { return time.UnixMilli(1_700_000_000_000 + n.c.clock.Load()/1e6) },
		OnFailed: func(_ *Replica, err error) { n.fails = append(n.fails, err) },
	}
	if n.c.config != nil {
		n.c.config(&cfg)
	}
	if n.rep, err = Open(cfg); err != nil {
		n.c.t.Fatalf("node %d: %v", n.id, err)
	}
}

// stop ends a node in good order.
func (n *node) stop() {
	if n.host == nil {
		return
	}
	// On a full disk the log says that what nobody has acknowledged is lost with the close; so it is.
	if err := n.rep.Close(); err != nil && !errors.Is(err, vfs.ErrNoSpace) {
		n.c.t.Errorf("close node %d: %v", n.id, err)
	}
	if err := n.host.Close(); err != nil {
		n.c.t.Errorf("close host %d: %v", n.id, err)
	}
	n.host = nil
}

// crash is a power loss: the process is gone, and what was not synced may be.
func (n *node) crash(rng *rand.Rand) {
	n.mem.Crash(rng)
	n.hs.pending = nil
	n.host = nil
	n.rep = nil
}

// settle runs all that can run without time passing.
func (c *cluster) settle() {
	for range 100_000 {
		busy := false
		for _, n := range c.nodes {
			if n.host == nil {
				continue
			}
			busy = n.host.Run() > 0 || busy
			busy = n.host.Flush() || busy
			pending := n.hs.pending
			n.hs.pending = nil
			for _, f := range pending {
				f()
				busy = true
			}
		}
		wires := c.wires
		c.wires = nil
		for _, p := range wires {
			to := c.nodes[p.to-1]
			if to.host == nil || c.cut != nil && c.cut(p.from, p.to) {
				continue
			}
			busy = true
			if p.pair != nil {
				to.host.DeliverPair(p.from, p.pair)
			} else if p.chunk != nil {
				to.host.DeliverChunk(p.from, p.chunk)
			} else {
				to.host.Deliver(p.msgs)
			}
		}
		c.check()
		if !busy {
			return
		}
	}
	c.t.Fatal("the cluster does not come to rest")
}

// check holds what must always hold: the published high watermark is the offset after the published index, which is
// neither above what is committed nor above what is durable here.
func (c *cluster) check() {
	c.t.Helper()
	for _, n := range c.nodes {
		if n.host == nil {
			continue
		}
		n.rep.mu.Lock()
		m, pub := n.rep.m, n.rep.pub
		n.rep.mu.Unlock()
		if m == nil || m.group == nil || pub == n.checked {
			continue
		}
		n.checked = pub
		s := m.group.Status()
		if off, err := m.log.OffsetAfter(pub.applied); err != nil || int64(off) != pub.hw {
			c.t.Fatalf("node %d: high watermark %d at index %d, the log says %d %v", n.id, pub.hw, pub.applied, off, err)
		}
		if s.Err == nil && (pub.applied > s.Commit || pub.applied > s.Stable) {
			c.t.Fatalf("node %d: applied %d, commit %d, durable %d", n.id, pub.applied, s.Commit, s.Stable)
		}
	}
}

// until lets time pass, in steps of 10 ms up to a minute, until cond holds.
func (c *cluster) until(what string, cond func() bool) {
	c.t.Helper()
	for range 6000 {
		c.settle()
		if cond() {
			return
		}
		c.clock.Add(int64(10 * time.Millisecond))
	}
	for _, n := range c.nodes {
		if n.rep != nil {
			c.t.Logf("node %d: %+v", n.id, n.rep.Describe())
		}
	}
	c.t.Fatalf("never: %s", what)
}

func (c *cluster) pass(d time.Duration) {
	for end := c.clock.Load() + int64(d); c.clock.Load() < end; c.clock.Add(int64(10 * time.Millisecond)) {
		c.settle()
	}
	c.settle()
}

// leader waits for a node that serves, and of which every node that is not excluded knows.
func (c *cluster) leader(except ...raft.NodeID) *node {
	c.t.Helper()
	var l *node
	c.until("a leader", func() bool {
		l = nil
		for _, n := range c.nodes {
			if n.host == nil || contains(except, n.id) {
				continue
			}
			if _, _, ready := n.rep.Leader(); ready {
				l = n
			}
		}
		return l != nil
	})
	return l
}

func contains(ids []raft.NodeID, id raft.NodeID) bool {
	for _, i := range ids {
		if i == id {
			return true
		}
	}
	return false
}

// isolate cuts a node off from all others.
func (c *cluster) isolate(id raft.NodeID) {
	c.cut = func(from, to raft.NodeID) bool { return from == id || to == id }
}

func (c *cluster) heal() { c.cut = nil }

// append proposes a batch and returns where its answer will be; nil until there is one.
func (n *node) append(b protocol.Batch, acks int16) **AppendResult {
	res := new(*AppendResult)
	n.rep.Append(&AppendRequest{Batch: b, Acks: acks, Done: func(r AppendResult) {
		if *res != nil {
			n.c.t.Errorf("Done was called twice: %+v, %+v", **res, r)
		}
		*res = &r
	}})
	return res
}

// produce appends and waits for the answer.
func (n *node) produce(b protocol.Batch, acks int16) AppendResult {
	n.c.t.Helper()
	res := n.append(b, acks)
	n.c.until("an answer to produce", func() bool { return *res != nil })
	return **res
}

func (n *node) mustProduce(b protocol.Batch) int64 {
	n.c.t.Helper()
	r := n.produce(b, -1)
	if r.Err != nil {
		n.c.t.Fatalf("produce: %v", r.Err)
	}
	return r.BaseOffset
}

// linearize waits until the leader may speak of its end.
func (n *node) linearize() error {
	n.c.t.Helper()
	var err error
	done := false
	n.rep.Linearize(func(e error) { err, done = e, true })
	n.c.until("a read point", func() bool { return done })
	return err
}

// values reads the whole partition through Read, in pieces, and checks that offsets are dense.
func (n *node) values() []string {
	n.c.t.Helper()
	if err := n.linearize(); err != nil {
		n.c.t.Fatalf("linearize: %v", err)
	}
	inf := protocol.NewInflater(1 << 20)
	defer inf.Close()
	var out []string
	for next := int64(0); ; {
		r, err := n.rep.Read(ReadQuery{Offset: next, MaxBytes: 300, LeaderEpoch: -1})
		if err != nil {
			n.c.t.Fatalf("read %d: %v", next, err)
		}
		if len(r.Batches) == 0 {
			if next != r.HighWatermark {
				n.c.t.Fatalf("nothing at %d, high watermark %d", next, r.HighWatermark)
			}
			return out
		}
		for _, raw := range r.Batches {
			b, err := protocol.ParseBatch(raw)
			if err == nil {
				err = b.CheckCRC()
			}
			if err != nil {
				n.c.t.Fatal(err)
			}
			for rec, err := range b.Records(inf) {
				if err != nil {
					n.c.t.Fatal(err)
				}
				if rec.Offset != next {
					n.c.t.Fatalf("offset %d follows %d", rec.Offset, next-1)
				}
				next++
				out = append(out, string(rec.Value))
			}
		}
	}
}

// plain is a batch without a producer.
func plain(values ...string) protocol.Batch {
	recs := make([]protocol.Record, len(values))
	for i, v := range values {
		recs[i] = protocol.Record{Timestamp: 1_700_000_000_000 + int64(i), Value: []byte(v)}
	}
	return protocol.BuildBatch(recs, protocol.NewBatchOptions())
}

// seq is a batch of one producer, one record per value.
func seq(id int64, epoch int16, first int32, values ...string) protocol.Batch {
	b := plain(values...)
	b.SetProducer(id, epoch, first)
	return b
}

func wantErr(t testing.TB, what string, got, want error) {
	t.Helper()
	if !errors.Is(got, want) {
		t.Errorf("%s: %v, want %v", what, got, want)
	}
}

func wantValues(t testing.TB, got []string, want ...string) {
	t.Helper()
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("read %v, want %v", got, want)
	}
}

func protocolBatch(t testing.TB, raw []byte) protocol.Batch {
	t.Helper()
	b, err := protocol.ParseBatch(raw)
	if err == nil {
		err = b.CheckCRC()
	}
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// anyLeader is one of those that take themselves for the leader and are ready; nil: nobody does.
func (c *cluster) anyLeader(rng *rand.Rand) *node {
	var ls []*node
	for _, n := range c.nodes {
		if n.host != nil {
			if _, _, ready := n.rep.Leader(); ready {
				ls = append(ls, n)
			}
		}
	}
	if len(ls) == 0 {
		return nil
	}
	return ls[rng.IntN(len(ls))] // of two, one is deposed and does not know it
}

// disturb is a step of a random history: most often nothing, or a crash, a start, a cut, a transfer, a snapshot, a power failure, or a stop in order.
func (c *cluster) disturb(rng *rand.Rand) {
	switch n := c.nodes[rng.IntN(3)]; rng.IntN(30) {
	case 0:
		if n.host != nil {
			n.crash(rng)
		}
	case 1, 2, 3:
		if n.host == nil {
			n.start()
		}
	case 4:
		c.isolate(n.id)
	case 5:
		one := n.id // asymmetric: it hears, and is not heard
		c.cut = func(from, to raft.NodeID) bool { return from == one }
	case 6, 7, 8:
		c.heal()
	case 9:
		if n.host != nil {
			n.rep.Raft().Transfer(c.nodes[rng.IntN(3)].id, func(error) {})
		}
	case 10:
		if n.host != nil {
			n.rep.Raft().Snapshot()
		}
	case 11:
		if rng.IntN(4) == 0 {
			for _, n := range c.nodes {
				if n.host != nil {
					n.crash(rng)
				}
			}
		}
	case 12:
		if n.host != nil {
			n.stop()
		}
	}
}

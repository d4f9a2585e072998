package multi

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/balsamq/balsa/raft"
)

// threadNet carries messages between hosts with threads of their own, one queue per destination, and loses some.
type threadNet struct {
	mu    sync.Mutex
	hosts map[raft.NodeID]*Host
	down  map[raft.NodeID]bool
	loss  float64
	boxes map[raft.NodeID]chan func(*Host)
	wg    sync.WaitGroup
}

type threadPort struct {
	n    *threadNet
	from raft.NodeID
}

func newThreadNet(nodes int, loss float64) *threadNet {
	n := &threadNet{hosts: map[raft.NodeID]*Host{}, down: map[raft.NodeID]bool{}, boxes: map[raft.NodeID]chan func(*Host){}, loss: loss}
	for i := range nodes {
		id := raft.NodeID(i + 1)
		box := make(chan func(*Host), 4096)
		n.boxes[id] = box
		n.wg.Go(func() {
			for f := range box {
				n.mu.Lock()
				h := n.hosts[id]
				n.mu.Unlock()
				if h != nil {
					f(h)
				}
			}
		})
	}
	return n
}

func (n *threadNet) put(from, to raft.NodeID, f func(*Host)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.down[from] || n.down[to] || n.boxes[to] == nil || n.loss > 0 && rand.Float64() < n.loss {
		return
	}
	select {
	case n.boxes[to] <- f:
	default: // a full queue loses, as networks do
	}
}

func (n *threadNet) close() {
	n.mu.Lock()
	for id, b := range n.boxes {
		close(b)
		delete(n.boxes, id)
	}
	n.mu.Unlock()
	n.wg.Wait()
}

// SendNow implements PromptTransport.
func (p threadPort) SendNow(to raft.NodeID, msgs []raft.Message) { p.Send(to, msgs) }

func (p threadPort) Send(to raft.NodeID, msgs []raft.Message) {
	msgs = slices.Clone(msgs)
	p.n.put(p.from, to, func(h *Host) { h.Deliver(msgs) })
}

func (p threadPort) SendPair(to raft.NodeID, m *PairMessage) {
	p.n.put(p.from, to, func(h *Host) { h.DeliverPair(p.from, m) })
}

func (p threadPort) SendChunk(to raft.NodeID, m *ChunkMessage) {
	p.n.put(p.from, to, func(h *Host) { c := *m; h.DeliverChunk(p.from, &c) })
}

// asyncStates answers from a goroutine of its own, as a journal does.
type asyncStates struct {
	*memStates
	c  chan func()
	wg sync.WaitGroup
}

func newAsyncStates() *asyncStates {
	s := &asyncStates{memStates: newMemStates(), c: make(chan func(), 1<<16)}
	s.wg.Go(func() {
		for f := range s.c {
			f()
		}
	})
	return s
}

func (s *asyncStates) Save(g raft.GroupID, hs raft.HardState, done func(error)) {
	s.c <- func() { s.memStates.Save(g, hs, done) }
}

type threadCluster struct {
	t      *testing.T
	net    *threadNet
	hosts  []*Host
	states []*asyncStates
	sms    []map[raft.GroupID]*memSM
	logs   []map[raft.GroupID]*memLog
}

func newThreadCluster(t *testing.T, groups int, loss float64, et time.Duration) *threadCluster {
	c := &threadCluster{t: t, net: newThreadNet(3, loss)}
	var conf raft.ConfState
	for i := range 3 {
		conf.Voters = append(conf.Voters, raft.Member{ID: raft.NodeID(i + 1), Incarnation: 1})
	}
	for i := range 3 {
		id := raft.NodeID(i + 1)
		st := newAsyncStates()
		h, err := NewHost(Options{Self: conf.Voters[i], Boot: 1, Workers: 3, Flushers: 4, ElectionTimeout: et,
			Transport: threadPort{c.net, id}, HardStates: st, Seed: uint64(i), Crowd: []int{1, 3, 0}[i]}) // two of three gather proposals, with few groups
		if err != nil {
			t.Fatal(err)
		}
		h.Start()
		sms, logs := map[raft.GroupID]*memSM{}, map[raft.GroupID]*memLog{}
		for g := range groups {
			gid := raft.GroupID(g + 1)
			sm, l := &memSM{group: gid}, newMemLog(gid)
			sms[gid], logs[gid] = sm, l
			if _, err := h.CreateGroup(GroupConfig{ID: gid, Log: l, Stager: sm, StateMachine: sm, Bootstrap: conf, Fresh: true,
				Campaign: g%3 == i, SnapshotEvery: 20000, KeepEntries: 50, Throttle: true}); err != nil {
				t.Fatal(err)
			}
		}
		c.net.mu.Lock()
		c.net.hosts[id] = h
		c.net.mu.Unlock()
		c.hosts, c.states = append(c.hosts, h), append(c.states, st)
		c.sms, c.logs = append(c.sms, sms), append(c.logs, logs)
	}
	return c
}

func (c *threadCluster) close() {
	for _, h := range c.hosts {
		if err := h.Close(); err != nil {
			c.t.Error(err)
		}
	}
	c.net.close()
	for _, s := range c.states {
		close(s.c)
		s.wg.Wait()
	}
}

// poll waits for cond with a deadline that only a hang reaches.
func poll(t *testing.T, what string, cond func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(2 * time.Minute); !cond(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
	}
}

func (c *threadCluster) leader(id raft.GroupID) *Group {
	var best *Group
	for _, h := range c.hosts {
		if g := h.Group(id); g != nil {
			if s := g.Status(); s.Role == raft.Leader && s.Ready && (best == nil || s.Term > best.Status().Term) {
				best = g
			}
		}
	}
	return best
}

// Many writers and readers on many groups over a lossy network, and a broker that is cut off for a while: everything
// ends exactly once, nothing acknowledged is missing, and a read sees what was acknowledged before it.
func TestThreads(t *testing.T) {
	const groups, writers, each = 12, 6, 60
	c := newThreadCluster(t, groups, 0.01, 300*time.Millisecond)
	for g := range groups {
		poll(t, "a leader", func() bool { return c.leader(raft.GroupID(g+1)) != nil })
	}
	var acked sync.Map
	var ok, unknown, refused, reads atomic.Int64
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				id := raft.GroupID((w*each+i)%groups + 1)
				payload := fmt.Sprintf("w%d-%d", w, i)
				for {
					g := c.leader(id)
					if g == nil {
						runtime.Gosched()
						continue
					}
					end := make(chan Outcome, 2)
					g.Propose(&Proposal{Type: raft.EntryRecords, Payload: []byte(payload), Done: func(o Outcome) { end <- o }})
					o := <-end
					if o.Err == nil {
						ok.Add(1)
						acked.Store(payload, id)
						type point struct {
							i   raft.Index
							err error
						}
						got := make(chan point, 2)
						g.Read(func(i raft.Index, err error) { got <- point{i, err} })
						if p := <-got; p.err == nil {
							if reads.Add(1); p.i < o.Index {
								t.Errorf("read at %d after %d was acknowledged", p.i, o.Index)
							}
						}
						break
					}
					if errors.Is(o.Err, ErrLeadershipLost) {
						unknown.Add(1)
						break
					}
					refused.Add(1)
				}
				if w == 0 && i == each/3 {
					c.net.mu.Lock()
					c.net.down[2] = true
					c.net.mu.Unlock()
				}
				if w == 0 && i == 2*each/3 {
					c.net.mu.Lock()
					c.net.down[2] = false
					c.net.mu.Unlock()
				}
			}
		})
	}
	wg.Wait()
	c.net.mu.Lock()
	c.net.down[2] = false
	c.net.mu.Unlock()
	acked.Range(func(k, v any) bool {
		for i := range c.sms {
			poll(t, fmt.Sprintf("%v on broker %d", k, i+1), func() bool { return slices.Contains(c.sms[i][v.(raft.GroupID)].records(), k.(string)) })
		}
		return true
	})
	t.Logf("%d acknowledged, %d unknown, %d refused, %d reads", ok.Load(), unknown.Load(), refused.Load(), reads.Load())
	if ok.Load() < writers*each/2 || reads.Load() == 0 {
		t.Fatal("too little happened")
	}
	c.close()
	for _, m := range c.sms {
		for id, sm := range m {
			if !slices.Equal(sm.records(), c.sms[0][id].records()[:min(len(sm.records()), len(c.sms[0][id].records()))]) &&
				len(sm.records()) <= len(c.sms[0][id].records()) {
				t.Fatalf("group %d differs", id)
			}
		}
	}
}

// Groups are covered in threaded mode too, and closing in the middle of traffic ends every proposal once.
func TestThreadsCoverAndClose(t *testing.T) {
	const groups = 100
	c := newThreadCluster(t, groups, 0, time.Second)
	poll(t, "all groups to be covered", func() bool {
		for g := range groups {
			if l := c.leader(raft.GroupID(g + 1)); l == nil || l.Status().CoveredPeers != 2 {
				return false
			}
		}
		return true
	})
	if n := runtime.NumGoroutine(); n > 200 {
		t.Fatalf("%d goroutines for %d groups", n, groups)
	}
	var ends [groups * 4]atomic.Int32
	var wg sync.WaitGroup
	for i := range ends {
		wg.Go(func() {
			id := raft.GroupID(i%groups + 1)
			if g := c.leader(id); g != nil {
				g.Propose(&Proposal{Type: raft.EntryRecords, Payload: []byte("x"), Done: func(Outcome) { ends[i].Add(1) }})
			} else {
				ends[i].Add(1)
			}
		})
		if i == len(ends)/2 {
			wg.Go(func() {
				if g := c.hosts[1].Group(5); g != nil {
					if err := g.Close(); err != nil {
						t.Error(err)
					}
				}
			})
		}
	}
	wg.Wait()
	c.close()
	for i := range ends {
		if n := ends[i].Load(); n != 1 {
			t.Fatalf("proposal %d ended %d times", i, n)
		}
	}
}

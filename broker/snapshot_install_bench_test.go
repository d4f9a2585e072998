// What a large snapshot takes, and what it costs those who write meanwhile: real logs on a real disk, real connections.

package broker

import (
	"fmt"
	"math/rand/v2"
	"net"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/balsamq/balsa/internal/vfs"
	"github.com/balsamq/balsa/raft"
	"github.com/balsamq/balsa/raft/multi"
	"github.com/balsamq/balsa/raft/transport"
	"github.com/balsamq/balsa/segment"
)

// modelMachine is a state machine with a state of any size.
type modelMachine struct {
	group raft.GroupID
	log   *segment.Log
	state []byte
	at    atomic.Uint64
}

func (m *modelMachine) Stage(_ *multi.Proposal, e *raft.Entry) (raft.Index, error) {
	m.StageInternal(e)
	return 0, nil
}

func (m *modelMachine) StageInternal(e *raft.Entry) {
	e.Frame = segment.AppendFrame(nil, m.group, e, 0, 0)
	e.Payload = e.Frame[len(e.Frame)-len(e.Payload):]
}

func (m *modelMachine) Apply(es []raft.Entry) ([]any, error) {
	m.at.Store(uint64(es[len(es)-1].Index))
	return nil, nil
}
func (m *modelMachine) Snapshot() ([]byte, error) { return m.state, nil }
func (m *modelMachine) Restore(meta raft.SnapshotMeta, state []byte) error {
	m.state = state
	m.at.Store(uint64(meta.Index))
	return nil
}
func (m *modelMachine) LeadershipChanged(multi.Status) {}

// modelNode is a host with two groups: 2, whose state is large, and 3, which is written to.
type modelNode struct {
	tr    *transport.Transport
	host  *multi.Host
	large *modelMachine
	live  *modelMachine
}

const largeState = 200 << 20

func BenchmarkLargeSnapshot(b *testing.B) {
	for _, rate := range []int64{64 << 20, -1} {
		name := "unlimited"
		if rate > 0 {
			name = fmt.Sprint(rate>>20, "MiB/s")
		}
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				installLarge(b, rate)
			}
		})
	}
}

func installLarge(b *testing.B, rate int64) {
	root := b.TempDir()
	var mu sync.Mutex
	addrs := map[raft.NodeID]string{}
	nodes := make([]*modelNode, 3)
	cluster := transport.ClusterID{1}
	conf := raft.ConfState{Voters: []raft.Member{{ID: 1, Incarnation: 1}, {ID: 2, Incarnation: 1}, {ID: 3, Incarnation: 1}}}
	start := func(id raft.NodeID) *modelNode {
		n := &modelNode{}
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			b.Fatal(err)
		}
		n.tr, err = transport.New(transport.Options{ClusterID: cluster, Self: raft.Member{ID: id, Incarnation: 1}, Boot: 1, Listener: ln,
			Resolve:      func(id raft.NodeID) (string, bool) { mu.Lock(); defer mu.Unlock(); a, ok := addrs[id]; return a, ok },
			Deliver:      func(ms []raft.Message) { n.host.Deliver(ms) },
			DeliverPair:  func(from raft.NodeID, m *multi.PairMessage) { n.host.DeliverPair(from, m) },
			DeliverChunk: func(from raft.NodeID, m *multi.ChunkMessage) { n.host.DeliverChunk(from, m) }})
		if err != nil {
			b.Fatal(err)
		}
		hs := &memStore{m: map[raft.GroupID]raft.HardState{}}
		n.host, err = multi.NewHost(multi.Options{Self: raft.Member{ID: id, Incarnation: 1}, Boot: 1, ElectionTimeout: 2 * time.Second, Transport: n.tr,
			HardStates: hs, SnapshotRate: rate, Seed: rand.Uint64()})
		if err != nil {
			b.Fatal(err)
		}
		n.host.Start()
		open := func(g raft.GroupID) *modelMachine {
			log, err := segment.Open(vfs.OS(), filepath.ToSlash(filepath.Join(root, fmt.Sprintf("n%d-g%d", id, g))), g, segment.Options{})
			if err != nil {
				b.Fatal(err)
			}
			m := &modelMachine{group: g, log: log}
			if _, err := n.host.CreateGroup(multi.GroupConfig{ID: g, Log: log, Stager: m, StateMachine: m, Bootstrap: conf, Fresh: true, Campaign: id == 1}); err != nil {
				b.Fatal(err)
			}
			return m
		}
		n.large, n.live = open(2), open(3)
		mu.Lock()
		addrs[id] = ln.Addr().String()
		mu.Unlock()
		n.tr.Start()
		return n
	}
	nodes[1] = start(2) // first: the other one campaigns at once
	nodes[0] = start(1)
	stop := func() {
		for _, n := range nodes {
			if n != nil {
				_ = n.host.Close()
				_ = n.tr.Close()
			}
		}
	}
	defer stop()
	wait := func(what string, ok func() bool) {
		for deadline := time.Now().Add(2 * time.Minute); !ok(); time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				b.Fatal("never: " + what)
			}
		}
	}
	leads := func(g raft.GroupID) bool { return nodes[0].host.Group(g).Status().Ready }
	wait("a leader", func() bool { return leads(2) && leads(3) })
	propose := func(g raft.GroupID, size int) time.Duration {
		began, done := time.Now(), make(chan error, 1)
		nodes[0].host.Group(g).Propose(&multi.Proposal{Type: raft.EntryCommand, Payload: make([]byte, size), Done: func(o multi.Outcome) { done <- o.Err }})
		if err := <-done; err != nil {
			b.Fatal(err)
		}
		return time.Since(began)
	}
	state := make([]byte, largeState)
	for i := range state {
		state[i] = byte(i * 7 >> 3)
	}
	nodes[0].large.state = state
	for range 10 {
		propose(2, 100)
	}
	nodes[0].host.Group(2).Snapshot()
	wait("a cut log", func() bool { return nodes[0].large.log.FirstIndex() > 5 })
	// Live writes, before and while a third node gets it all.
	measure := func(until func() bool) (out []time.Duration) {
		pace := time.NewTicker(time.Millisecond) // the load is steady, not as much as goes
		defer pace.Stop()
		for !until() {
			out = append(out, propose(3, 1000))
			<-pace.C
		}
		slices.Sort(out)
		return out
	}
	end := time.Now().Add(3 * time.Second)
	before := measure(func() bool { return time.Now().After(end) })
	began := time.Now()
	nodes[2] = start(3)
	var took time.Duration
	during := measure(func() bool {
		if nodes[2].host.Stats().SnapshotsInstalled == 0 {
			return false
		}
		took = time.Since(began)
		return true
	})
	at := func(d []time.Duration, p float64) time.Duration {
		return d[int(float64(len(d)-1)*p)].Round(10 * time.Microsecond)
	}
	b.Logf("%d MiB in %v, %.0f MiB/s; live commits p50 %v p99 %v before, p50 %v p99 %v max %v during (%d)", largeState>>20, took.Round(time.Millisecond),
		float64(largeState>>20)/took.Seconds(), at(before, 0.5), at(before, 0.99), at(during, 0.5), at(during, 0.99), at(during, 1), len(during))
	b.ReportMetric(float64(largeState>>20)/took.Seconds(), "MiB/s")
	b.ReportMetric(float64(at(during, 0.99).Microseconds()), "live-p99-µs")
}

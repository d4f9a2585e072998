package partition

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/balsamq/balsa/internal/vfs"
	"github.com/balsamq/balsa/protocol"
	"github.com/balsamq/balsa/raft"
	"github.com/balsamq/balsa/raft/multi"
)

// liveNode is a node with real workers, for the race detector: what the one-threaded cluster cannot show.
type liveNode struct {
	id   raft.NodeID
	host *multi.Host
	fs   *vfs.Mem
	in   chan packet
	net  *[3]*liveNode
	rep  atomic.Pointer[Replica]
}

func (n *liveNode) Send(to raft.NodeID, msgs []raft.Message) {
	select {
	case n.net[to-1].in <- packet{from: n.id, msgs: slices.Clone(msgs)}:
	default: // full: dropped, as a transport may
	}
}

func (n *liveNode) SendPair(to raft.NodeID, m *multi.PairMessage) {
	cp := *m
	select {
	case n.net[to-1].in <- packet{from: n.id, pair: &cp}:
	default:
	}
}

func (n *liveNode) SendChunk(to raft.NodeID, m *multi.ChunkMessage) {
	select {
	case n.net[to-1].in <- packet{from: n.id, chunk: m}:
	default:
	}
}

// liveStates is durable at once, and reports from another goroutine.
type liveStates struct {
	mu    sync.Mutex
	saved map[raft.GroupID]raft.HardState
	work  chan func()
}

func (h *liveStates) Save(g raft.GroupID, hs raft.HardState, done func(error)) {
	h.mu.Lock()
	h.saved[g] = hs
	h.mu.Unlock()
	h.work <- func() { done(nil) }
}

func (h *liveStates) Load(g raft.GroupID) (raft.HardState, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	hs, ok := h.saved[g]
	return hs, ok
}

func (h *liveStates) Delete(raft.GroupID, func(error)) {}

func (n *liveNode) open(t *testing.T, conf raft.ConfState) {
	r, err := Open(Config{Group: testGroup, Topic: "live", Host: n.host, FS: n.fs, Dir: "data/live-0", Bootstrap: conf,
		Campaign: n.id == 1, SnapshotEvery: 8 << 10})
	if err != nil {
		t.Errorf("open on node %d: %v", n.id, err)
		return
	}
	n.rep.Store(r)
}

// Idempotent producers with retries, a consumer on waiters, leadership handed around and replicas closed and opened
// under their hands: everything acknowledged is there once, in each producer's order.
func TestLive(t *testing.T) {
	var nodes [3]*liveNode
	var conf raft.ConfState
	for i := range nodes {
		conf.Voters = append(conf.Voters, raft.Member{ID: raft.NodeID(i + 1), Incarnation: raft.Incarnation(i + 1)})
	}
	stop := make(chan struct{})
	var pumps sync.WaitGroup
	for i := range nodes {
		n := &liveNode{id: raft.NodeID(i + 1), fs: vfs.NewMem(uint64(i)), in: make(chan packet, 4096), net: &nodes}
		nodes[i] = n
		hs := &liveStates{saved: map[raft.GroupID]raft.HardState{}, work: make(chan func(), 4096)}
		host, err := multi.NewHost(multi.Options{Self: conf.Voters[i], Boot: 1, Workers: 2, Flushers: 2, Transport: n, HardStates: hs,
			ElectionTimeout: 600 * time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		n.host = host
		host.Start()
		pumps.Go(func() {
			for {
				select {
				case f := <-hs.work:
					f()
				case <-stop:
					return
				}
			}
		})
		pumps.Go(func() {
			for {
				select {
				case p := <-n.in:
					if p.pair != nil {
						n.host.DeliverPair(p.from, p.pair)
					} else if p.chunk != nil {
						n.host.DeliverChunk(p.from, p.chunk)
					} else {
						n.host.Deliver(p.msgs)
					}
				case <-stop:
					return
				}
			}
		})
	}
	for _, n := range nodes {
		n.open(t, conf)
	}

	const producers, each = 4, 60
	deadline := time.Now().Add(3 * time.Minute)
	leader := func() *Replica {
		for time.Now().Before(deadline) {
			for _, n := range nodes {
				r := n.rep.Load()
				if _, _, ready := r.Leader(); ready {
					return r
				}
			}
			<-time.After(time.Millisecond)
		}
		return nil
	}

	var done atomic.Int64
	var work sync.WaitGroup
	for p := range producers {
		work.Go(func() {
			for i := range each {
				b := seq(int64(p+1), 0, int32(i), fmt.Sprintf("%d.%d", p, i))
				for {
					r := leader()
					if r == nil {
						t.Errorf("producer %d: no leader before the deadline", p)
						return
					}
					answer := make(chan AppendResult, 1)
					r.Append(&AppendRequest{Batch: bytes.Clone(b), Acks: -1, Done: func(res AppendResult) { answer <- res }})
					res := <-answer
					if res.Err == nil {
						break
					}
					if errors.Is(res.Err, ErrOutOfOrderSequence) || errors.Is(res.Err, ErrInvalidProducerEpoch) || errors.Is(res.Err, ErrCorrupt) {
						t.Errorf("producer %d, record %d: %v", p, i, res.Err)
						return
					}
					<-time.After(time.Millisecond)
				}
				done.Add(1)
			}
		})
	}

	// The consumer: read, and where there is nothing confirm and wait.
	var got []string
	work.Go(func() {
		next := int64(0)
		for len(got) < producers*each {
			r := leader()
			if r == nil || time.Now().After(deadline) {
				t.Errorf("consumer: %d records, then nothing", len(got))
				return
			}
			res, err := r.Read(ReadQuery{Offset: next, MaxBytes: 200, LeaderEpoch: -1})
			if err != nil {
				if errors.Is(err, ErrOffsetOutOfRange) {
					if confirmed := make(chan error, 1); true {
						r.Linearize(func(err error) { confirmed <- err })
						if <-confirmed == nil {
							if _, err = r.Read(ReadQuery{Offset: next, LeaderEpoch: -1}); errors.Is(err, ErrOffsetOutOfRange) {
								t.Errorf("consumer at %d: %v", next, err)
								return
							}
						}
					}
				}
				<-time.After(time.Millisecond)
				continue
			}
			for _, raw := range res.Batches {
				b := protocol.Batch(raw)
				for rec, err := range b.Records(nil) {
					if err != nil || rec.Offset != next {
						t.Errorf("offset %d where %d belongs: %v", rec.Offset, next, err)
						return
					}
					got = append(got, string(rec.Value))
					next++
				}
			}
			if len(res.Batches) == 0 {
				fired := make(chan struct{})
				w := &Waiter{After: res.HighWatermark, Epoch: res.LeaderEpoch, Fire: func() { close(fired) }}
				if r.Subscribe(w) {
					<-fired // also when leadership goes or the replica is closed
				}
			}
		}
	})

	// Trouble, while there is work.
	work.Go(func() {
		for i := 0; done.Load() < producers*each && !t.Failed() && time.Now().Before(deadline); i++ {
			before := done.Load()
			for done.Load() < min(before+producers*each/10, producers*each) && !t.Failed() && time.Now().Before(deadline) {
				<-time.After(time.Millisecond)
			}
			n := nodes[i%3]
			if i%2 == 0 {
				if err := n.rep.Load().Close(); err != nil {
					t.Errorf("close: %v", err)
				}
				n.open(t, conf)
			} else if g := n.rep.Load().Raft(); g != nil {
				g.Transfer(nodes[(i+1)%3].id, func(error) {})
				_ = n.rep.Load().Describe()
				_ = n.rep.Load().ISR()
			}
		}
	})
	work.Wait()
	for _, n := range nodes {
		if err := n.host.Close(); err != nil {
			t.Errorf("close host %d: %v", n.id, err)
		}
	}
	close(stop)
	pumps.Wait()

	last := map[byte]string{}
	seen := map[string]bool{}
	for _, v := range got {
		if seen[v] {
			t.Errorf("%s twice", v)
		}
		seen[v] = true
		var p, i, q, j int
		fmt.Sscanf(v, "%d.%d", &p, &i)
		if prev := last[v[0]]; prev != "" {
			fmt.Sscanf(prev, "%d.%d", &q, &j)
			if i != j+1 {
				t.Errorf("producer %d: %d follows %d", p, i, j)
			}
		}
		last[v[0]] = v
	}
	if len(seen) != producers*each && !t.Failed() {
		t.Errorf("%d records of %d", len(seen), producers*each)
	}
}

package partition

import (
	"errors"
	"testing"
	"time"

	"github.com/balsamq/balsa/raft"
)

// followerCluster is three nodes whose followers ask their leader directly.
func followerCluster(t *testing.T) *cluster {
	var c *cluster
	c = newCluster(t, 3, func(cfg *Config) {
		cfg.ReadIndex = func(leader raft.NodeID, _ raft.GroupID, done func(raft.Index, int32, error)) {
			c.nodes[leader-1].rep.ReadIndex(done)
		}
	})
	return c
}

// point is how a question for a read point ended.
type point struct {
	calls int
	err   error
}

func (n *node) linearizeAny() *point {
	p := new(point)
	n.rep.LinearizeAny(func(err error) { p.calls, p.err = p.calls+1, err })
	return p
}

func (c *cluster) follower(l *node) *node { return c.nodes[int(l.id)%len(c.nodes)] }

func TestLinearizeOnAFollower(t *testing.T) {
	c := followerCluster(t)
	l := c.leader()
	f := c.follower(l)
	l.mustProduce(plain("a"))
	l.mustProduce(plain("b"))
	c.until("a follower that knows its leader", func() bool { id, _, _ := f.rep.Leader(); return id == l.id })
	p := f.linearizeAny()
	c.until("a read point", func() bool { return p.calls > 0 })
	if hw, _ := f.rep.HighWatermark(); p.err != nil || p.calls != 1 || hw != 2 {
		t.Fatalf("%+v, high watermark %d", p, hw)
	}
	if p := l.linearizeAny(); true {
		c.until("a read point", func() bool { return p.calls > 0 })
		if p.err != nil {
			t.Fatal(p.err)
		}
	}
	// A waiter on a follower is called when it learns of more, and of another epoch.
	fired := 0
	w := Waiter{After: 2, Epoch: -1, Fire: func() { fired++ }}
	if f.rep.Subscribe(&w) {
		t.Fatal("a waiter that wants the leader waits on a follower")
	}
	w.AnyReplica = true
	if !f.rep.Subscribe(&w) {
		t.Fatal("nobody can wait on a follower")
	}
	l.mustProduce(plain("c"))
	c.until("the waiter is called", func() bool { return fired == 1 })
	// A client's epoch is held against what the follower knows.
	_, epoch, _ := f.rep.Leader()
	_, err := f.rep.Read(ReadQuery{LeaderEpoch: epoch - 1, AnyReplica: true})
	wantErr(t, "an older epoch", err, ErrFencedLeaderEpoch)
	_, err = f.rep.Read(ReadQuery{LeaderEpoch: epoch + 1, AnyReplica: true})
	wantErr(t, "a newer epoch", err, ErrUnknownLeaderEpoch)
}

// A follower that lags does not say so before it has caught up, and says that it cannot tell when that takes too long.
func TestLaggingFollowerWaits(t *testing.T) {
	c := followerCluster(t)
	l := c.leader()
	f := c.follower(l)
	l.mustProduce(plain("a"))
	c.pass(100 * time.Millisecond)
	c.isolate(f.id)
	l.mustProduce(plain("b"))
	p, late := f.linearizeAny(), f.linearizeAny()
	c.pass(200 * time.Millisecond)
	if p.calls != 0 {
		t.Fatalf("a follower that lags knows the end: %+v", p)
	}
	_, err := f.rep.Read(ReadQuery{Offset: 2, MaxBytes: 100, LeaderEpoch: -1, AnyReplica: true})
	wantErr(t, "what it has not heard of", err, ErrOffsetOutOfRange) // which the caller must not believe before a read point
	f.rep.mu.Lock()
	if n := len(f.rep.catching.waits); n != 2 {
		t.Errorf("%d answers wait", n)
	}
	f.rep.catching.waits[1].until = time.Now().Add(-time.Second)
	f.rep.mu.Unlock()
	f.rep.expireCatching()
	wantErr(t, "after the patience is over", late.err, ErrLagging)
	if p.calls != 0 {
		t.Fatalf("and the other one: %+v", p)
	}
	c.heal()
	c.until("it catches up", func() bool { return p.calls > 0 })
	if r, err := f.rep.Read(ReadQuery{Offset: 1, MaxBytes: 100, LeaderEpoch: -1, AnyReplica: true}); p.err != nil || err != nil || len(r.Batches) != 1 {
		t.Fatalf("%+v, %+v, %v", p, r, err)
	}
	// One that waits is told when the replica closes.
	c.isolate(f.id)
	l.mustProduce(plain("c"))
	p = f.linearizeAny()
	c.settle()
	if err := f.rep.Close(); err != nil {
		t.Fatal(err)
	}
	wantErr(t, "closed", p.err, ErrClosed)
	wantErr(t, "after the close", f.linearizeAny().err, ErrClosed)
}

// A follower cannot make an end of what its leader cannot confirm, and does not take the word of one that has been deposed.
func TestFollowerOfADeposedLeader(t *testing.T) {
	c := followerCluster(t)
	old := c.leader()
	f := c.follower(old)
	old.mustProduce(plain("a"))
	c.pass(100 * time.Millisecond)
	third := c.follower(f)
	// The old leader and this follower are alone; the third and nobody: no quorum answers, and the lease ends.
	c.cut = func(from, to raft.NodeID) bool { return true }
	c.clock.Add(int64(5 * time.Second))
	p := f.linearizeAny()
	c.pass(5 * time.Second)
	if p.calls > 0 && p.err == nil {
		t.Fatal("a follower got a read point from a leader without a quorum")
	}
	c.cut = func(from, to raft.NodeID) bool { return from == old.id || to == old.id }
	l := c.leader(old.id)
	l.mustProduce(plain("b"))
	if l == f {
		f = third
	}
	c.until("the follower's answer", func() bool { return p.calls > 0 })
	if p.err == nil {
		t.Fatal("answered by a deposed leader")
	}
	// It asks the new one as soon as it knows it.
	c.until("the follower knows the new leader", func() bool { id, _, _ := f.rep.Leader(); return id == l.id })
	p = f.linearizeAny()
	c.until("a read point", func() bool { return p.calls > 0 })
	if hw, _ := f.rep.HighWatermark(); p.err != nil || hw != 2 {
		t.Fatalf("%v, high watermark %d", p.err, hw)
	}
}

// An index of another epoch is not waited for: it may be one of another history.
func TestReadIndexOfAnotherEpoch(t *testing.T) {
	off := int32(0)
	var c *cluster
	c = newCluster(t, 3, func(cfg *Config) {
		cfg.ReadIndex = func(leader raft.NodeID, _ raft.GroupID, done func(raft.Index, int32, error)) {
			c.nodes[leader-1].rep.ReadIndex(func(i raft.Index, epoch int32, err error) { done(i, epoch+off, err) })
		}
	})
	l := c.leader()
	f := c.follower(l)
	l.mustProduce(plain("a"))
	c.until("a follower that knows its leader", func() bool { id, _, _ := f.rep.Leader(); return id == l.id })
	for _, off = range []int32{-1, 1, 0} {
		p := f.linearizeAny()
		c.until("an answer", func() bool { return p.calls > 0 })
		if errors.Is(p.err, ErrLagging) != (off != 0) || off == 0 && p.err != nil {
			t.Fatalf("an epoch off by %d: %v", off, p.err)
		}
	}
}

// balsa.read.consistency=quorum asks a quorum although there is a lease, from the next read on.
func TestQuorumReads(t *testing.T) {
	c := newCluster(t, 3, nil)
	l := c.leader()
	l.mustProduce(plain("a"))
	c.pass(50 * time.Millisecond)
	ask := func() *point {
		p := new(point)
		l.rep.Linearize(func(err error) { p.calls, p.err = p.calls+1, err })
		l.host.Run()
		return p
	}
	if p := ask(); p.calls != 1 || p.err != nil {
		t.Fatalf("by lease: %+v", p)
	}
	s := l.rep.Settings()
	s.QuorumReads = true
	if err := l.rep.UpdateSettings(s); err != nil {
		t.Fatal(err)
	}
	p := ask()
	if p.calls != 0 {
		t.Fatalf("nobody was asked: %+v", p)
	}
	c.until("a quorum", func() bool { return p.calls > 0 })
	if p.err != nil {
		t.Fatal(p.err)
	}
	c.isolate(l.id)
	p = ask()
	c.until("the leader gives up", func() bool { return p.calls > 0 })
	if !errors.Is(p.err, ErrNotLeader) && !errors.Is(p.err, ErrUnavailable) {
		t.Fatalf("without a quorum: %v", p.err)
	}
}

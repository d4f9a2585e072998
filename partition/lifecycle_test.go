package partition

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/balsamq/balsa/internal/vfs"
	"github.com/balsamq/balsa/raft"
)

// issues/2: a full disk refuses produce with a clear error, fetch goes on, nothing is lost, and it recovers by itself.
func TestFullDisk(t *testing.T) {
	c := newCluster(t, 1, nil)
	n := c.nodes[0]
	n.stop()
	quota := vfs.Quota(n.mem, 1<<40)
	n.fs = quota
	n.start()
	l := c.leader()
	l.mustProduce(plain("before"))
	quota.SetLimit(quota.Used())
	var full AppendResult
	written := 1
	var hanging []**AppendResult
	c.until("produce is refused", func() bool {
		res := l.append(plain(strings.Repeat("x", 100_000)), -1)
		c.settle()
		if *res == nil {
			hanging = append(hanging, res)
			return false
		}
		if (*res).Err == nil {
			written++
			return false
		}
		full = **res
		return true
	})
	wantErr(t, "on a full disk", full.Err, ErrStorageFull)
	if !l.rep.Describe().Full {
		t.Error("Describe does not say that the disk is full")
	}
	if r, err := l.rep.Read(ReadQuery{MaxBytes: 1000, LeaderEpoch: -1}); err != nil || len(r.Batches) == 0 {
		t.Errorf("reads stop with a full disk: %v", err)
	}
	// PITFALLS.md: "A disk that is full stops recovery as well." A new term's no-op finds room where produce finds none.
	_, epoch, _ := l.rep.Leader()
	for range 20 {
		wantErr(t, "still full", l.produce(plain(strings.Repeat("x", 5000)), -1).Err, ErrStorageFull)
	}
	n.stop()
	for _, h := range hanging {
		if *h == nil {
			t.Error("no answer, though the replica is closed")
		}
	}
	hanging = nil
	n.start()
	l = c.leader()
	if _, e, _ := l.rep.Leader(); e <= epoch {
		t.Errorf("epoch %d after %d", e, epoch)
	}
	if got := l.values(); len(got) < written || got[0] != "before" {
		t.Errorf("after a restart on a full disk: %d records of %d", len(got), written)
	} else {
		written = len(got) // one that was never acknowledged may be there
	}
	hanging = append(hanging, l.append(plain(strings.Repeat("x", 100_000)), -1)) // finds out, and waits for room
	c.settle()
	wantErr(t, "after the restart", l.produce(plain(strings.Repeat("x", 100_000)), -1).Err, ErrStorageFull)
	quota.SetLimit(1 << 40)
	c.until("what hung is answered", func() bool {
		for _, h := range hanging {
			if *h == nil {
				return false
			}
		}
		return true
	})
	for _, h := range hanging {
		if (*h).Err != nil {
			t.Errorf("appended before the disk was full, and lost: %v", (*h).Err)
		}
		written++
	}
	l.mustProduce(plain("after"))
	if got := l.values(); len(got) != written+1 || got[0] != "before" || got[len(got)-1] != "after" {
		t.Errorf("%d records of %d", len(got), written+1)
	}
}

// A failed sync is fatal for the log: the replica says so, is reopened, and catches up.
func TestFailureAndReopen(t *testing.T) {
	c := newCluster(t, 3, nil)
	l := c.leader()
	l.mustProduce(seq(1, 0, 0, "a"))
	bad := c.nodes[l.id%3]
	bad.stop()
	broken := false
	bad.fs = vfs.Inject(bad.mem, func(op vfs.Op, name string) error {
		if broken && op == vfs.OpSync {
			return errors.New("medium error")
		}
		return nil
	})
	bad.start()
	c.pass(2 * time.Second)
	broken = true
	l = c.leader()
	l.mustProduce(seq(1, 0, 1, "b"))
	c.until("the replica has failed", func() bool { s, _ := bad.rep.State(); return s == StateFailed })
	if len(bad.fails) != 1 {
		t.Errorf("OnFailed was called %d times", len(bad.fails))
	}
	_, err := bad.rep.Read(ReadQuery{LeaderEpoch: -1, AnyReplica: true})
	wantErr(t, "read", err, ErrFailed)
	wantErr(t, "produce", bad.produce(plain("x"), -1).Err, ErrFailed)
	if d := bad.rep.Describe(); d.State != StateFailed || d.Err == nil {
		t.Errorf("Describe: %+v", d)
	}
	if err := bad.rep.Reopen(); err == nil { // still broken: what it recovered must be made durable first, or it fails at the next sync
		c.leader().mustProduce(seq(1, 0, 2, "c"))
		c.until("failed again", func() bool { s, _ := bad.rep.State(); return s == StateFailed })
	} else {
		c.leader().mustProduce(seq(1, 0, 2, "c"))
	}
	broken = false
	if err := bad.rep.Reopen(); err != nil {
		t.Fatal(err)
	}
	if err := bad.rep.Reopen(); err != nil {
		t.Errorf("a second Reopen does nothing: %v", err)
	}
	c.until("it has caught up", func() bool { hw, _ := bad.rep.HighWatermark(); return hw == 3 })
	if got, want := bad.rep.m.fold.encode(), c.leader().rep.m.fold.encode(); !bytes.Equal(got, want) {
		t.Errorf("state after reopening %x, leader's %x", got, want)
	}
}

func TestRemove(t *testing.T) {
	c := newCluster(t, 1, nil)
	n := c.nodes[0]
	l := c.leader()
	l.mustProduce(plain("a"))
	if err := n.rep.Remove(); err != nil {
		t.Fatal(err)
	}
	if names, err := n.fs.ReadDir("data"); err != nil || len(names) != 0 {
		t.Errorf("left behind: %v %v", names, err)
	}
	if err := n.rep.Remove(); err != nil {
		t.Errorf("a second Remove: %v", err)
	}
	for seed := range uint64(20) {
		after := n.mem.CrashClone(rand.New(rand.NewPCG(seed, 1)))
		if names, _ := after.ReadDir("data"); len(names) != 0 {
			t.Errorf("after a power loss: %v", names)
		}
	}
	if s, _ := n.rep.State(); s != StateClosed {
		t.Errorf("state %v", s)
	}
	if err := n.fs.MkdirAll("data/orders-1" + RemovedSuffix); err != nil {
		t.Fatal(err)
	}
	if err := n.fs.MkdirAll("data/orders-2"); err != nil {
		t.Fatal(err)
	}
	if err := CleanRemoved(n.fs, "data"); err != nil {
		t.Fatal(err)
	}
	if names, _ := n.fs.ReadDir("data"); len(names) != 1 || names[0] != "orders-2" {
		t.Errorf("cleaned: %v", names)
	}
	// The journal knows the group, its files are gone: that is damage, not a first start.
	cfg := n.rep.cfg
	cfg.Existing = true
	lost, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if s := lost.Raft().Status(); s.VoteAfter != raft.UntilTold {
		t.Errorf("a lost replica votes after %d", s.VoteAfter)
	}
	if err := lost.Close(); err != nil {
		t.Error(err)
	}
}

// PITFALLS.md: one flipped bit on a minority node lost half of the log elsewhere. Here the damaged replica says so,
// does not stand for election, and is repaired by its leader.
func TestDamagedReplicaIsRepaired(t *testing.T) {
	c := newCluster(t, 3, nil)
	l := c.leader()
	for i := range 20 {
		l.mustProduce(seq(1, 0, int32(i), strings.Repeat(fmt.Sprint(i), 200)))
	}
	c.pass(2 * time.Second)
	bad := c.nodes[l.id%3]
	bad.stop()
	names, err := bad.fs.ReadDir("data/orders-0")
	if err != nil {
		t.Fatal(err)
	}
	flipped := false
	for _, name := range names {
		if !strings.HasSuffix(name, ".log") || flipped {
			continue
		}
		f, err := bad.fs.Open("data/orders-0/" + name)
		if err != nil {
			t.Fatal(err)
		}
		var b [1]byte
		if _, err := f.ReadAt(b[:], 1500); err != nil {
			t.Fatal(err)
		}
		b[0] ^= 4
		if _, err := f.WriteAt(b[:], 1500); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(f.Sync(), f.Close()); err != nil {
			t.Fatal(err)
		}
		flipped = true
	}
	if !flipped {
		t.Fatalf("no segment among %v", names)
	}
	c.isolate(bad.id)
	bad.start()
	if d := bad.rep.Describe(); !d.Log.Recovery.Corrupt || d.DamagedUpTo == 0 || d.NextOffset >= 20 {
		t.Fatalf("damage not seen: %+v", d)
	}
	bad.rep.Raft().Campaign()
	c.pass(5 * time.Second)
	if _, epoch, _ := bad.rep.Leader(); epoch > l.rep.Describe().Leadership.Epoch {
		t.Errorf("a damaged replica campaigned: epoch %d", epoch)
	}
	c.heal()
	c.until("it is repaired", func() bool {
		d := bad.rep.Describe()
		return d.DamagedUpTo == 0 && d.HighWatermark == 20
	})
	if got, want := bad.rep.m.fold.encode(), c.leader().rep.m.fold.encode(); !bytes.Equal(got, want) {
		t.Errorf("repaired to %x, the leader has %x", got, want)
	}
	r, err := bad.rep.Read(ReadQuery{MaxBytes: 1 << 20, LeaderEpoch: -1, AnyReplica: true})
	if err != nil || len(r.Batches) != 20 {
		t.Errorf("%d batches after the repair, %v", len(r.Batches), err)
	}
}

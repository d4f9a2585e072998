package partition

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/balsamq/balsa/raft"
)

// small makes segments of a few batches.
func small(c *Config) { c.Segment.SegmentBytes, c.Segment.FirstExtent = 4096, 4096 }

// deleteBefore moves the start and waits for the answer.
func (n *node) deleteBefore(offset int64) (int64, error) {
	n.c.t.Helper()
	done, start, err := false, int64(0), error(nil)
	n.rep.DeleteBefore(offset, func(s int64, e error) { done, start, err = true, s, e })
	n.c.until("an answer to DeleteBefore", func() bool { return done })
	return start, err
}

func (n *node) fill(from, count int) {
	n.c.t.Helper()
	for i := range count {
		n.mustProduce(seq(int64(1+i%3), 0, int32((from+i)/3), fmt.Sprintf("%d %s", from+i, bytes.Repeat([]byte("x"), 150))))
	}
}

// first is the first offset that can be read on a node, and end the one after the last; all between are there.
func (n *node) readable() (first, end int64) {
	n.c.t.Helper()
	first, end = -1, n.rep.LogStart()
	for {
		r, err := n.rep.Read(ReadQuery{Offset: end, MaxBytes: 1000, LeaderEpoch: -1, AnyReplica: true})
		if err != nil {
			n.c.t.Fatalf("node %d: read %d: %v", n.id, end, err)
		}
		if len(r.Batches) == 0 {
			return first, end
		}
		for _, raw := range r.Batches {
			b := protocolBatch(n.c.t, raw)
			if first < 0 {
				first = max(b.BaseOffset(), end)
			} else if b.BaseOffset() != end {
				n.c.t.Fatalf("node %d: a batch at %d, expected %d", n.id, b.BaseOffset(), end)
			}
			end = b.NextOffset()
		}
	}
}

func TestDeleteBefore(t *testing.T) {
	c := newCluster(t, 3, nil)
	l := c.leader()
	for range 5 {
		l.mustProduce(plain("a", "b", "c"))
	}
	fired := 0
	w := Waiter{After: 15, MinBytes: 1, Epoch: -1, Fire: func() { fired++ }}
	if !l.rep.Subscribe(&w) {
		t.Fatal("nothing to wait for")
	}
	if start, err := l.deleteBefore(7); start != 7 || err != nil { // within a batch
		t.Fatal(start, err)
	}
	if fired != 1 {
		t.Errorf("waiters fired %d times: what they wait to read may be gone", fired)
	}
	for _, offset := range []int64{7, 3, 0} {
		if start, err := l.deleteBefore(offset); start != 7 || err != nil {
			t.Errorf("before %d, which is deleted already: %d, %v", offset, start, err)
		}
	}
	for _, offset := range []int64{16, -2} {
		_, err := l.deleteBefore(offset)
		wantErr(t, fmt.Sprint("before ", offset), err, ErrOffsetOutOfRange)
	}
	_, err := l.rep.Read(ReadQuery{Offset: 6, MaxBytes: 1, LeaderEpoch: -1})
	if re, ok := errors.AsType[*RangeError](err); !ok || re.Start != 7 {
		t.Errorf("read below the start: %v", err)
	}
	if r, err := l.rep.Read(ReadQuery{Offset: 7, MaxBytes: 1, LeaderEpoch: -1}); err != nil || len(r.Batches) != 1 || r.LogStart != 7 {
		t.Errorf("read at the start: %+v, %v", r, err)
	}
	for ts, want := range map[int64]int64{EarliestTimestamp: 7, 0: 7, LatestTimestamp: 15} {
		if r, err := l.rep.ListOffset(ts, -1, false); err != nil || r.Offset != want {
			t.Errorf("offset for %d: %+v, %v, want %d", ts, r, err, want)
		}
	}
	follower := c.nodes[l.id%3]
	_, err = follower.deleteBefore(8)
	wantErr(t, "a follower", err, ErrNotLeader)
	c.until("agreement", func() bool { return follower.rep.LogStart() == 7 })
	// Through power losses of all.
	rng := rand.New(rand.NewPCG(1, 2))
	for range 3 {
		for _, n := range c.nodes {
			n.crash(rng)
		}
		for _, n := range c.nodes {
			n.start()
		}
		if l = c.leader(); l.rep.LogStart() != 7 {
			t.Fatalf("the start is at %d after a power loss", l.rep.LogStart())
		}
	}
	if start, err := l.deleteBefore(HighWatermarkOffset); start != 15 || err != nil {
		t.Fatal(start, err)
	}
	l.mustProduce(plain("d"))
	if first, end := l.readable(); first != 15 || end != 16 {
		t.Errorf("readable is [%d, %d)", first, end)
	}
}

// A replica that was away while everything it lacked was deleted goes on from the checkpoint that its leader's log begins
// behind, and then has every record that its leader has.
func TestBehindTheStart(t *testing.T) {
	c := newCluster(t, 3, small)
	l := c.leader()
	l.fill(0, 30)
	away := c.nodes[l.id%3]
	last := away.rep.m.log.LastIndex()
	away.crash(rand.New(rand.NewPCG(3, 4)))
	l.fill(30, 240)
	if start, err := l.deleteBefore(200); start != 200 || err != nil {
		t.Fatal(start, err)
	}
	c.until("dropped files", func() bool { return l.rep.m.log.FirstIndex() > last+1 })
	if start := int64(l.rep.m.log.StartOffset()); start > 200 || start < 150 {
		t.Fatalf("the files begin at offset %d", start)
	}
	l.fill(270, 30)
	away.start()
	c.until("the replica to catch up", func() bool { return away.rep.LogStart() == 200 && away.rep.Describe().HighWatermark == 300 })
	if first, end := away.readable(); first != 200 || end != 300 {
		t.Errorf("readable is [%d, %d)", first, end)
	}
	if a, b := away.rep.m.fold.encode(), l.rep.m.fold.encode(); !bytes.Equal(a, b) {
		t.Error("the replica has folded to another state")
	}
	if s := away.host.Stats(); s.SnapshotsInstalled != 1 {
		t.Errorf("%d snapshots installed", s.SnapshotsInstalled)
	}
	// It leads, and nothing is missing; and it can itself bring up another.
	other := c.nodes[away.id%3]
	other.crash(rand.New(rand.NewPCG(5, 6)))
	if other.id == l.id {
		l = nil
	}
	n := c.leader(other.id)
	n.fill(300, 200)
	if start, err := n.deleteBefore(450); start != 450 || err != nil {
		t.Fatal(start, err)
	}
	other.start()
	c.until("the other to catch up", func() bool { return other.rep.LogStart() == 450 && other.rep.Describe().HighWatermark == 500 })
	for _, n := range c.nodes {
		if first, end := n.readable(); first != 450 || end != 500 {
			t.Errorf("node %d: readable is [%d, %d)", n.id, first, end)
		}
	}
}

func TestRetention(t *testing.T) {
	c := newCluster(t, 3, func(cfg *Config) {
		small(cfg)
		cfg.Settings.RetentionAge, cfg.Settings.RetentionBytes = time.Hour, 10_000
		cfg.Settings.SegmentAge = 30 * time.Minute
	})
	l := c.leader()
	keep := func() {
		for _, n := range c.nodes {
			n.rep.Housekeep()
		}
		c.settle()
	}
	stamped := func(n int, age time.Duration) {
		for range n {
			b := plain(string(bytes.Repeat([]byte("x"), 400)))
			b.SetCreateTime(l.rep.now().Add(-age).UnixMilli())
			l.mustProduce(b)
		}
	}
	stamped(20, 2*time.Minute)
	keep()
	if s := l.rep.LogStart(); s != 0 {
		t.Fatalf("the start is at %d, and nothing is too old or too much", s)
	}
	stamped(40, time.Minute) // more than 10,000 bytes
	keep()
	start := l.rep.LogStart()
	if size := l.rep.Describe().Size; start == 0 || size < 10_000 || size > 10_000+2*4096 {
		t.Errorf("start %d, %d bytes on disk", start, size)
	}
	keep()
	if l.rep.LogStart() != start {
		t.Errorf("a second look moved the start from %d to %d", start, l.rep.LogStart())
	}
	for _, n := range c.nodes {
		c.until("agreement", func() bool { return n.rep.LogStart() == start })
	}
	// Everything becomes too old, the active segment too.
	c.clock.Add(int64(2 * time.Hour))
	l = c.leader()
	keep()
	c.until("an empty log", func() bool { return l.rep.LogStart() == 60 })
	for _, n := range c.nodes {
		c.until("files that are gone", func() bool { return n.rep.LogStart() == 60 && n.rep.Describe().Size < 2000 })
	}
	stamped(3, 0)
	if first, end := l.readable(); first != 60 || end != 63 {
		t.Errorf("readable is [%d, %d)", first, end)
	}
	// An old segment is closed, so that it can go while newer records stay.
	c.clock.Add(int64(40 * time.Minute))
	l = c.leader()
	keep()
	stamped(3, 0)
	c.clock.Add(int64(30 * time.Minute))
	l = c.leader()
	keep()
	if s := l.rep.LogStart(); s != 63 {
		t.Errorf("the start is at %d, where the second segment begins is 63", s)
	}
}

// What was deleted stays deleted, what was not stays, through random histories of deletions and power losses.
func TestStartThroughCrashes(t *testing.T) {
	for seed := range uint64(12) {
		rng := rand.New(rand.NewPCG(seed, 9))
		c := newCluster(t, 3, small)
		var start, end int64
		for range 12 {
			l := c.leader()
			for range rng.IntN(25) {
				l.mustProduce(plain(fmt.Sprint(end), string(bytes.Repeat([]byte("y"), rng.IntN(300)))))
				end += 2
			}
			if rng.IntN(2) == 0 {
				to := start + rng.Int64N(end-start+1)
				if s, err := l.deleteBefore(to); s != max(start, to) || err != nil {
					t.Fatalf("seed %d: start %d, %v, asked for %d", seed, s, err, to)
				}
				start = max(start, to)
			}
			n := c.nodes[rng.IntN(3)]
			n.crash(rng)
			if rng.IntN(2) == 0 {
				c.pass(time.Duration(rng.IntN(3000)) * time.Millisecond)
			}
			n.start()
		}
		l := c.leader()
		for _, n := range c.nodes {
			c.until("agreement", func() bool { return n.rep.LogStart() == start && n.rep.Describe().HighWatermark == end })
			if first, to := n.readable(); to != end || start < end && first != start {
				t.Errorf("seed %d, node %d: readable is [%d, %d), want [%d, %d)", seed, n.id, first, to, start, end)
			}
			if a, b := n.rep.m.fold.encode(), l.rep.m.fold.encode(); !bytes.Equal(a, b) {
				t.Errorf("seed %d: node %d has folded to another state", seed, n.id)
			}
		}
		for _, n := range c.nodes {
			n.stop()
		}
	}
}

func TestPrefixEntries(t *testing.T) {
	f := newFold()
	f.next = 10
	for _, p := range [][]byte{nil, {1}, {2, 0, 0, 0, 0, 0, 0, 0, 1}, {1, 255, 0, 0, 0, 0, 0, 0, 1}, append(encodePrefix(3), 0)} {
		if err := f.prefix(1, p); err == nil {
			t.Errorf("%x was taken", p)
		}
	}
	for _, step := range []struct{ to, want int64 }{{3, 3}, {1, 3}, {10, 10}, {11, 10}} {
		if err := f.prefix(raft.Index(step.to), encodePrefix(step.to)); err != nil || f.start != step.want {
			t.Errorf("start %d after %+v, %v", f.start, step, err)
		}
	}
}

// Each partition's segments roll at an age of its own, within the jitter.
func TestSegmentJitter(t *testing.T) {
	s := Settings{SegmentAge: 1000 * time.Second, SegmentJitter: 400 * time.Second}
	seen := make(map[time.Duration]bool)
	for g := range raft.GroupID(100) {
		age := s.segmentAge(g)
		if age > s.SegmentAge || age < s.SegmentAge-s.SegmentJitter || age != s.segmentAge(g) {
			t.Fatalf("group %d: %v", g, age)
		}
		seen[age] = true
	}
	if len(seen) < 90 {
		t.Errorf("%d ages for 100 groups", len(seen))
	}
	s.SegmentJitter = 5000 * time.Second // more than there is
	for g := range raft.GroupID(100) {
		if age := s.segmentAge(g); age < 0 || age > s.SegmentAge {
			t.Fatalf("group %d: %v", g, age)
		}
	}
	s.SegmentJitter = 0
	if age := s.segmentAge(7); age != s.SegmentAge {
		t.Errorf("without jitter %v", age)
	}
}

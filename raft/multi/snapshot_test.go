package multi

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/balsamq/balsa/raft"
)

// snapSim is a cluster in which a follower is behind what its leader's log begins with, and cut off. Its group is 2: the
// metadata group is not made to wait.
func snapSim(t *testing.T, seed uint64, chunk int, tweak func(*Options)) (s *sim, l, f int) {
	t.Helper()
	s = newSim(t, seed, 3, 2, func(o *Options, c *GroupConfig) {
		o.SnapshotChunk, o.SnapshotRate = chunk, -1
		c.KeepEntries = 0
		if tweak != nil {
			tweak(o)
		}
	})
	l = s.waitLeader(2)
	f = (l + 1) % 3
	s.isolate(f, true)
	s.fill(l, 0, 40)
	s.group(l, 2).Snapshot()
	s.until("a cut log", func() bool { return s.nodes[l].logs[2].FirstIndex() > 40 })
	return s, l, f
}

func (s *sim) isolate(i int, cut bool) {
	for k := range s.nodes {
		if k != i {
			s.cut[[2]raft.NodeID{s.nodes[i].id, s.nodes[k].id}], s.cut[[2]raft.NodeID{s.nodes[k].id, s.nodes[i].id}] = cut, cut
		}
	}
}

func (s *sim) fill(l, from, n int) {
	s.t.Helper()
	for i := range n {
		r := s.propose(s.group(l, 2), fmt.Sprintf("record %d %s", from+i, strings.Repeat("x", 40)))
		s.until("a proposal's end", r.ended)
		if r.o.Err != nil {
			s.t.Fatal(r.o.Err)
		}
	}
}

func (s *sim) have(i, n int) func() bool {
	return func() bool { return !s.nodes[i].down && len(s.nodes[i].sms[2].records()) == n }
}

// The chunks that arrive are counted by where they begin.
func (s *sim) countChunks() map[int64]int {
	seen := map[int64]int{}
	s.chunk = func(_ *simNode, m *ChunkMessage) bool {
		if m.Response {
			seen[m.Offset]++
		}
		return true
	}
	return seen
}

func TestSnapshotInChunks(t *testing.T) {
	s, l, f := snapSim(t, 21, 100, nil)
	seen := s.countChunks()
	s.isolate(f, false)
	s.until("the follower to catch up", s.have(f, 40))
	if n := len(seen); n < 20 {
		t.Errorf("%d chunks of 100 bytes", n)
	}
	for at, n := range seen {
		if n != 1 {
			t.Errorf("the chunk at %d came %d times", at, n)
		}
	}
	st := s.nodes[f].host.Stats()
	if st.SnapshotsInstalled != 1 || st.BadChunks+st.SnapshotsBroken != 0 || s.nodes[l].host.Stats().SnapshotsSent != 1 || st.SnapshotBytesIn == 0 ||
		s.nodes[l].host.Stats().SnapshotBytesOut != st.SnapshotBytesIn {
		t.Errorf("%+v", st)
	}
	s.run(20*simET, nil)
	if g := s.group(l, 2); len(g.sends) != 0 || s.nodes[l].host.snapshotSends != 0 || s.nodes[f].host.fetches.Load() != 0 {
		t.Errorf("%d sends are open, %d and %d places taken", len(g.sends), s.nodes[l].host.snapshotSends, s.nodes[f].host.fetches.Load())
	}
	s.checkEqual()
}

// A link that fails again and again: each time it goes on where it was.
func TestSnapshotResumesAfterCuts(t *testing.T) {
	s, _, f := snapSim(t, 22, 100, nil)
	seen := s.countChunks()
	for !s.have(f, 40)() {
		s.isolate(f, false)
		before := len(seen)
		s.until("some chunks", func() bool { return len(seen) >= before+5 || s.have(f, 40)() })
		s.isolate(f, true)
		s.run(3*simET, nil)
	}
	again := 0
	for _, n := range seen {
		again += n - 1
	}
	if again > 10 {
		t.Errorf("%d of %d chunks came more than once", again, len(seen))
	}
	if st := s.nodes[f].host.Stats(); st.SnapshotsInstalled != 1 {
		t.Errorf("%+v", st)
	}
}

// A receiver that dies at any point goes on with what its disk has, or begins again; it never installs half.
func TestSnapshotResumesAfterCrashes(t *testing.T) {
	s, _, f := snapSim(t, 23, 100, nil)
	seen := s.countChunks()
	s.isolate(f, false)
	resumed, crashes := uint64(0), 0
	for steps := 3; !s.have(f, 40)(); steps += 7 {
		for range steps {
			s.next(s.clock.now + raft.Time(simET))
		}
		if s.have(f, 40)() {
			break
		}
		resumed += s.nodes[f].host.Stats().SnapshotsResumed
		s.crash(s.nodes[f])
		crashes++
		s.run(2*simET, nil)
		s.start(s.nodes[f], false)
	}
	resumed += s.nodes[f].host.Stats().SnapshotsResumed
	again := 0
	for _, n := range seen {
		again += n - 1
	}
	if crashes == 0 || resumed == 0 || again > 2*crashes {
		t.Errorf("%d crashes, %d resumed, %d of %d chunks came more than once", crashes, resumed, again, len(seen))
	}
	s.checkEqual()
}

// A chunk that was damaged is asked for again, and one that is damaged behind its checksum is found by that of the whole.
func TestDamagedChunks(t *testing.T) {
	s, _, f := snapSim(t, 24, 100, nil)
	broken, n := 0, 0
	s.chunk = func(_ *simNode, m *ChunkMessage) bool {
		if n++; m.Response && n%7 == 0 && broken < 3 {
			broken++
			m.Data = append([]byte{m.Data[0] ^ 1}, m.Data[1:]...)
		}
		return true
	}
	s.isolate(f, false)
	s.until("the follower to catch up", s.have(f, 40))
	if st := s.nodes[f].host.Stats(); st.BadChunks != 3 || st.SnapshotsBroken != 0 {
		t.Errorf("%+v", st)
	}

	s, _, f = snapSim(t, 25, 100, nil)
	forged := false
	s.chunk = func(_ *simNode, m *ChunkMessage) bool {
		if m.Response && m.Offset == 500 && !forged {
			forged = true
			m.Data = append([]byte{m.Data[0] ^ 1}, m.Data[1:]...)
			m.CRC = crcOf(m.Data)
		}
		return true
	}
	s.isolate(f, false)
	s.until("the follower to catch up", s.have(f, 40))
	if st := s.nodes[f].host.Stats(); st.BadChunks != 0 || st.SnapshotsBroken != 1 || st.SnapshotsInstalled != 1 {
		t.Errorf("%+v", st)
	}
	s.checkEqual()
}

// While a snapshot is sent its leader takes others and wants to cut its log: the follower still gets the first, and needs no
// second.
func TestSnapshotIsNotOvertaken(t *testing.T) {
	s, l, f := snapSim(t, 26, 50, func(o *Options) { o.SnapshotRate = 2000 })
	n := 40
	s.isolate(f, false)
	s.until("the send to begin", func() bool { return s.nodes[f].host.Stats().SnapshotBytesIn > 200 })
	for range 5 {
		s.fill(l, n, 3)
		n += 3
		s.group(l, 2).Snapshot()
		s.run(20*time.Millisecond, nil)
	}
	if first := s.nodes[l].logs[2].FirstIndex(); s.have(f, n)() || first > 45 {
		t.Fatalf("the log begins at %d; this test says nothing", first)
	}
	s.until("the follower to catch up", s.have(f, n))
	if st := s.nodes[f].host.Stats(); st.SnapshotsInstalled != 1 || s.nodes[l].host.Stats().SnapshotsSent != 1 {
		t.Errorf("%+v", st)
	}
	// With the send over, the next one cuts again.
	s.run(3*simET, nil)
	s.group(l, 2).Snapshot()
	s.until("a cut log", func() bool { return s.nodes[l].logs[2].FirstIndex() > raft.Index(n) })
}

// The leader goes down midway: its successor offers what it has, and a stale half is of no harm.
func TestSnapshotOfAnotherLeader(t *testing.T) {
	s, l, f := snapSim(t, 27, 100, nil)
	other := 3 - l - f
	s.group(other, 2).Snapshot()
	s.until("a cut log", func() bool { return s.nodes[other].logs[2].FirstIndex() > 40 })
	s.isolate(f, false)
	s.until("the send to begin", func() bool { return s.nodes[f].host.Stats().SnapshotBytesIn > 500 })
	s.crash(s.nodes[l])
	s.until("another leader, and the follower to catch up", func() bool { return s.leader(2) == other && s.have(f, 40)() })
	s.start(s.nodes[l], false)
	s.fill(s.waitLeader(2), 40, 5)
	s.until("all to have it", func() bool { return s.have(0, 45)() && s.have(1, 45)() && s.have(2, 45)() })
	s.checkEqual()
}

// At 1,000 bytes a second a snapshot takes as long as it must, proposals commit meanwhile as if nothing were, and the
// follower's leader does not change.
func TestSnapshotPace(t *testing.T) {
	s, l, f := snapSim(t, 28, 100, func(o *Options) { o.SnapshotRate = 1000 })
	s.isolate(f, false)
	s.until("the send to begin", func() bool { return s.nodes[f].host.Stats().SnapshotBytesIn > 0 })
	began, term := s.clock.now, s.group(l, 2).Status().Term
	n, slowest := 40, raft.Time(0)
	for !s.nodes[f].logs[2].hasSnapshot() {
		at := s.clock.now
		s.fill(l, n, 1)
		n++
		slowest = max(slowest, s.clock.now-at)
		s.run(50*time.Millisecond, nil)
	}
	took, size := time.Duration(s.clock.now-began), s.nodes[f].host.Stats().SnapshotBytesIn
	if want := time.Duration(size-300) * time.Millisecond; took < want || took > 2*want {
		t.Errorf("%d bytes in %v", size, took)
	}
	if slowest > raft.Time(50*time.Millisecond) {
		t.Errorf("a proposal took %v beside it", time.Duration(slowest))
	}
	if now := s.group(l, 2).Status().Term; now != term {
		t.Errorf("term %d became %d", term, now)
	}
	s.until("the follower to catch up", s.have(f, n))
}

// Many groups want a snapshot at once: no more than SnapshotSends are under way, and the metadata group is the next.
func TestSnapshotPlaces(t *testing.T) {
	s := newSim(t, 28, 3, 6, func(o *Options, c *GroupConfig) {
		o.SnapshotChunk, o.SnapshotRate, o.SnapshotSends, o.SnapshotFetches = 100, 3000, 1, 2
		c.KeepEntries = 0
	})
	s.waitLeaders()
	// One leads them all, so that they compete.
	for _, id := range s.ids {
		if l := s.leader(id); l != 0 {
			s.group(l, id).Transfer(1, func(error) {})
			s.until("the transfer", func() bool { return s.leader(id) == 0 })
		}
	}
	s.isolate(1, true)
	for _, id := range s.ids {
		for i := range 20 {
			r := s.propose(s.group(0, id), fmt.Sprintf("record %d %s", i, strings.Repeat("x", 40)))
			s.until("a proposal's end", r.ended)
		}
		s.group(0, id).Snapshot()
	}
	s.until("cut logs", func() bool {
		for _, id := range s.ids {
			if s.nodes[0].logs[id].FirstIndex() < 20 {
				return false
			}
		}
		return true
	})
	var order []raft.GroupID
	s.chunk = func(_ *simNode, m *ChunkMessage) bool {
		if m.Response && (len(order) == 0 || order[len(order)-1] != m.Group) {
			order = append(order, m.Group)
		}
		return true
	}
	s.isolate(1, false)
	most := 0
	s.until("all to catch up", func() bool {
		open := 0
		done := true
		for _, id := range s.ids {
			open += len(s.group(0, id).sends)
			done = done && len(s.nodes[1].sms[id].records()) == 20
		}
		most = max(most, open)
		return done
	})
	if most != 1 || len(order) != len(s.ids) {
		t.Errorf("%d at once, in the order %v", most, order)
	}
	if order[0] != raft.MetadataGroup && order[1] != raft.MetadataGroup {
		t.Errorf("the metadata group was not among the first: %v", order)
	}
}

func TestLimiter(t *testing.T) {
	l := NewLimiter(1000) // a burst of 100
	now := raft.Time(5 * time.Second)
	if w := l.Take(now, 400, false); w != 0 {
		t.Fatalf("a full bucket: wait %v", w)
	}
	w := l.Take(now, 1, false)
	if w < 300*time.Millisecond || w > 302*time.Millisecond {
		t.Fatalf("300 overdrawn: wait %v", w)
	}
	if l.Take(now+raft.Time(w)-raft.Time(2*time.Millisecond), 1, false) == 0 {
		t.Error("too early")
	}
	if l.Take(now+raft.Time(w), 1, false) != 0 {
		t.Error("the time was over")
	}
	if l.Take(now+raft.Time(w), 500, true) != 0 {
		t.Error("urgent waits")
	}
	if w := l.Take(now+raft.Time(w), 1, false); w < 500*time.Millisecond {
		t.Errorf("what was urgent does not count: %v", w)
	}
	if w := l.Take(now+raft.Time(time.Hour), 100, false); w != 0 {
		t.Errorf("wait %v after an hour", w)
	}
	if l.Take(now+raft.Time(time.Hour), 1, false) == 0 {
		t.Error("an hour gathered more than the burst")
	}
	if NewLimiter(-1).Take(0, 1<<60, false) != 0 {
		t.Error("no limit, and it waits")
	}
}

// A snapshot that is taken after the log was cut, and before the group has heard of that, carries the membership of then: the
// entry that made it has gone with the cut.
func TestSnapshotBesidePruneKeepsMembership(t *testing.T) {
	s := newSim(t, 61, 3, 2, nil)
	l := s.waitLeader(2)
	n, g := s.nodes[l], s.group(l, 2)
	log := n.logs[2]
	r := &result{t: t}
	g.ProposeConf(raft.ConfChange{Steps: []raft.ConfStep{{Op: raft.Remove, Member: raft.Member{ID: raft.NodeID((l+1)%3 + 1)}}}}, r.done)
	s.until("the membership", r.ended)
	if r.o.Err != nil {
		t.Fatal(r.o.Err)
	}
	s.fill(l, 0, 10)
	g.Snapshot()
	s.until("a snapshot", func() bool { return log.snap != nil })
	checkpoint := log.snap.Meta
	if len(checkpoint.Conf.Voters) != 2 {
		t.Fatalf("the checkpoint has %v", checkpoint.Conf)
	}
	s.fill(l, 10, 10)
	log.prune = func(l *memLog) (*raft.SnapshotMeta, error) { return &checkpoint, l.TruncatePrefix(checkpoint.Index) }
	s.settle()
	g.Prune()
	n.host.Run()
	g.Snapshot() // asked for while the flusher cuts
	if !n.host.FlushGroup(2) || log.FirstIndex() != checkpoint.Index+1 {
		t.Fatal("the log is not cut")
	}
	s.settle()
	if m := log.snap.Meta; m.Index <= checkpoint.Index || len(m.Conf.Voters) != 2 {
		t.Errorf("the snapshot at %d, after the one at %d of %v, has %v; in effect is %v", m.Index, checkpoint.Index, checkpoint.Conf, m.Conf, g.Status().Conf)
	}
	s.crash(n)
	s.start(n, false)
	if conf := s.group(l, 2).Status().Conf; len(conf.Voters) != 2 {
		t.Errorf("after a restart the membership is %v", conf)
	}
}

// A group that stops when the flusher has just opened a snapshot for a follower gives its place back, and closes the file.
func TestStopFreesOpenedSnapshot(t *testing.T) {
	s, l, f := snapSim(t, 62, 100, nil)
	n, g := s.nodes[l], s.group(l, 2)
	n.slow = true
	s.isolate(f, false)
	s.until("a snapshot that is to be sent", func() bool { return len(g.opening) == 1 })
	if !n.host.FlushGroup(2) {
		t.Fatal("nothing to flush")
	}
	if err := g.Close(); err != nil {
		t.Fatal(err)
	}
	if n.host.snapshotSends != 0 {
		t.Errorf("%d places for sends are taken by a group that is closed", n.host.snapshotSends)
	}
}

// A follower that restarts again and again while its snapshot waits for a place stands in line once.
func TestWaitingSendStandsInLineOnce(t *testing.T) {
	s, l, f := snapSim(t, 65, 100, func(o *Options) { o.SnapshotSends = 1 })
	n, g := s.nodes[l], s.group(l, 2)
	fl := &n.host.flusher
	fl.mu.Lock()
	n.host.snapshotSends = 1 // another group has the place
	fl.mu.Unlock()
	s.isolate(f, false)
	s.until("a snapshot that waits for a place", func() bool { return len(g.opening) == 1 })
	for range 5 {
		s.crash(s.nodes[f])
		s.run(simET, nil)
		s.start(s.nodes[f], false)
		s.run(3*simET, nil)
	}
	if s.leader(2) != l {
		t.Fatal("another leads")
	}
	fl.mu.Lock()
	waiting := len(fl.waiting)
	fl.mu.Unlock()
	if waiting != 1 || len(g.opening) != 1 {
		t.Errorf("%d sends of one group to one follower wait; said to be opened are those to %v", waiting, g.opening)
	}
	g.Transfer(s.nodes[3-l-f].id, func(err error) {
		if err != nil {
			t.Error(err)
		}
	})
	s.until("the end of leadership", func() bool { return g.Status().Role != raft.Leader })
	s.settle()
	fl.mu.Lock()
	waiting = len(fl.waiting)
	fl.mu.Unlock()
	if waiting != 0 || len(g.opening) != 0 {
		t.Errorf("%d sends of a group that no longer leads wait; said to be opened are those to %v", waiting, g.opening)
	}
}

// A snapshot that is here, and that the core does not take, keeps its place no longer than one that does not come.
func TestWholeFetchGivesPlaceBack(t *testing.T) {
	s := newSim(t, 67, 3, 2, nil)
	l := s.waitLeader(2)
	s.fill(l, 0, 3)
	s.settle()
	n, g := s.nodes[(l+1)%3], s.group((l+1)%3, 2)
	if !n.host.beginFetch(g) {
		t.Fatal("no place")
	}
	meta := raft.SnapshotMeta{Index: g.Status().Last + 100, Term: g.Status().Term, Conf: g.Status().Conf}
	g.fetch = &fetch{from: s.nodes[l].id, epoch: 9, snap: raft.Snapshot{Meta: meta, Size: 10}, open: true, got: 10, asked: 10, at: never}
	g.advance(s.clock.now)
	n.host.schedule(g)
	s.settle()
	if g.fetch == nil || !g.fetch.whole || g.blocked {
		t.Fatal("it is not one that the core does not take")
	}
	s.until("the place", func() bool { return g.fetch == nil && n.host.fetches.Load() == 0 })
}

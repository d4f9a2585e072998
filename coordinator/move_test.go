package coordinator

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/balsamq/balsa/raft"
)

// diskOf is broker id's disk, the first of which has incarnation 100+id (see log.found).
func diskOf(id raft.NodeID, disk int) raft.Member {
	return raft.Member{ID: id, Incarnation: raft.Incarnation(100*disk + int(id))}
}

func membersOf(ids ...raft.NodeID) (out []raft.Member) {
	for _, id := range ids {
		out = append(out, diskOf(id, 1))
	}
	return out
}

// foundMoves is found in a cluster whose metadata.version allows moves.
func (l *log) foundMoves(brokers int) {
	l.found(brokers)
	l.do(&Command{SetFeature: &SetFeature{Name: MetadataVersion, Level: LevelMoves}})
}

func (l *log) reassign(moves ...Move) *Result {
	l.t.Helper()
	c := &Reassign{Moves: moves}
	for _, b := range l.md.Image().Brokers() {
		c.Brokers = append(c.Brokers, b.Member())
	}
	return l.do(&Command{Reassign: c})
}

func (l *log) settle(g raft.GroupID, index raft.Index, voters ...raft.Member) {
	l.t.Helper()
	if r := l.do(&Command{Settle: &Settle{Groups: []Settled{{Group: g, Voters: voters, Index: index}}}}); r.Err() != nil {
		l.t.Fatal(r.Err())
	}
}

func TestMoveCommands(t *testing.T) {
	l := newLog(t)
	l.found(5)
	l.create("q", "a", topicID(1), []raft.NodeID{1, 2, 3}, []raft.NodeID{2, 3, 1})
	move := func(ids ...raft.NodeID) error {
		return l.reassign(Move{Topic: topicID(1), Replicas: ids}).Moves[0].Err()
	}
	if r := l.reassign(Move{Topic: topicID(1), Replicas: []raft.NodeID{4}}); !errors.Is(r.Err(), ErrFeatureLevel) {
		t.Fatalf("moved in a cluster that may have brokers that do not know moves: %v", r.Err())
	}
	l.do(&Command{SetFeature: &SetFeature{Name: MetadataVersion, Level: LevelMoves}})
	p := func() *Partition { return &l.md.Image().Topic("a").Partitions[0] }
	want := func(what string, nodes, adding, removing []raft.NodeID) {
		t.Helper()
		if q := p(); !slices.Equal(q.Nodes(), nodes) || !slices.Equal(q.Adding(), adding) || !slices.Equal(q.Removing(), removing) {
			t.Fatalf("%s: nodes %v, adding %v, removing %v", what, q.Nodes(), q.Adding(), q.Removing())
		}
	}
	type ids = []raft.NodeID
	for _, bad := range []ids{{1, 1}, {9}, {}} {
		if err := move(bad...); !errors.Is(err, ErrInvalidAssignment) {
			t.Errorf("%v: %v", bad, err)
		}
	}
	if err := l.reassign(Move{Topic: topicID(1), Cancel: true}).Moves[0].Err(); !errors.Is(err, ErrNoMove) {
		t.Errorf("cancelled nothing: %v", err)
	}
	if err := l.reassign(Move{Topic: topicID(1), Replicas: ids{1, 2}, KeepCount: true}).Moves[0].Err(); !errors.Is(err, ErrInvalidReplicationFactor) {
		t.Errorf("another count: %v", err)
	}
	r := l.reassign(Move{Topic: topicID(7), Replicas: ids{1}}, Move{Topic: topicID(1), Partition: 2, Replicas: ids{1}}, Move{Topic: topicID(1), Replicas: ids{4, 2, 3}})
	if !errors.Is(r.Moves[0].Err(), ErrUnknownTopic) || !errors.Is(r.Moves[1].Err(), ErrUnknownTopic) || r.Moves[2].Err() != nil {
		t.Fatalf("each on its own: %+v", r.Moves)
	}
	want("moving", ids{4, 2, 3, 1}, ids{4}, ids{1})
	if !slices.Equal(l.md.Image().Moving(), []raft.GroupID{p().Group}) || !p().Hosts(diskOf(1, 1)) || !p().Hosts(diskOf(4, 1)) || p().Hosts(diskOf(4, 2)) {
		t.Fatalf("moving: %+v", p())
	}
	if err := move(5, 2, 3); err != nil {
		t.Fatal(err)
	}
	want("another target", ids{5, 2, 3, 1, 4}, ids{5}, ids{1, 4}) // 4 may have data, or a vote
	l.settle(p().Group, 10, membersOf(4, 2, 3)...)
	want("settled for a target of before", ids{5, 2, 3, 1, 4}, ids{5}, ids{1, 4})
	if err := l.reassign(Move{Topic: topicID(1), Cancel: true}).Moves[0].Err(); err != nil {
		t.Fatal(err)
	}
	want("cancelled", ids{1, 2, 3, 4, 5}, nil, ids{4, 5})
	l.settle(p().Group, 11, membersOf(3, 2, 1)...)
	want("taken back", ids{1, 2, 3}, nil, nil)
	if p().Settled != 11 || !slices.Equal(p().Founders, membersOf(1, 2, 3)) || len(l.md.Image().Moving()) > 0 {
		t.Fatalf("settled: %+v", p())
	}
	if err := move(4, 5); err != nil {
		t.Fatal(err)
	}
	l.settle(p().Group, 9, membersOf(4, 5)...)
	want("an older report", ids{4, 5, 1, 2, 3}, ids{4, 5}, ids{1, 2, 3})
	l.settle(p().Group, 20, membersOf(5, 4)...)
	want("moved", ids{4, 5}, nil, nil)
	if !slices.Equal(p().Founders, membersOf(1, 2, 3)) {
		t.Fatalf("the log starts from %v", p().Founders)
	}
	if err := move(5, 4); err != nil || p().Moving() || p().Replicas[0].ID != 5 {
		t.Fatalf("the order only: %v %+v", err, p())
	}
	// What was meant is another disk now.
	stale := &Reassign{Brokers: []raft.Member{diskOf(1, 9)}, Moves: []Move{{Topic: topicID(1), Replicas: ids{1}}}}
	if r := l.do(&Command{Reassign: stale}); !errors.Is(r.Err(), ErrStale) {
		t.Fatalf("stale: %v", r.Err())
	}
	again := NewMetadata()
	if err := again.Restore(raft.SnapshotMeta{Index: l.md.Image().Version(), Term: 1}, snapshot(t, l.md)); err != nil {
		t.Fatal(err)
	}
	if a, b := again.Image().Topic("a").Partitions, l.md.Image().Topic("a").Partitions; fmt.Sprint(a) != fmt.Sprint(b) {
		t.Fatalf("restored %+v, not %+v", a, b)
	}
}

func (l *log) fence(id raft.NodeID) {
	l.do(&Command{Fence: &FenceBroker{Node: id, Epoch: l.md.Image().Broker(id).Epoch, Fenced: true}})
}

func TestUnregister(t *testing.T) {
	l := newLog(t)
	l.foundMoves(4)
	l.create("q", "a", topicID(1), []raft.NodeID{1, 2, 3})
	gone := func(id raft.NodeID) error { return l.do(&Command{Unregister: &UnregisterBroker{Node: id}}).Err() }
	if err := gone(9); !errors.Is(err, ErrUnknownBroker) {
		t.Error(err)
	}
	if err := gone(3); !errors.Is(err, ErrBrokerAlive) {
		t.Error(err)
	}
	l.fence(3)
	if err := gone(3); !errors.Is(err, ErrBrokerInUse) {
		t.Error(err)
	}
	l.reassign(Move{Topic: topicID(1), Replicas: []raft.NodeID{1, 2, 4}})
	if err := gone(3); !errors.Is(err, ErrBrokerInUse) {
		t.Errorf("while it moves: %v", err)
	}
	l.settle(l.md.Image().Topic("a").Partitions[0].Group, 5, membersOf(1, 2, 4)...)
	if err := gone(3); err != nil || l.md.Image().Broker(3) != nil {
		t.Fatal(err)
	}
	if r := l.do(register(0, 555, "")); r.Node == 3 {
		t.Fatal("a node id was given out twice")
	}
}

// A wiped disk takes its node's place once the old one is fenced; whoever of the two comes second is refused while the other is alive.
func TestWipedDiskRegisters(t *testing.T) {
	l := newLog(t)
	l.foundMoves(3)
	l.create("q", "a", topicID(1), []raft.NodeID{1, 2, 3})
	if r := l.do(register(3, 999, "")); !errors.Is(r.Err(), ErrBrokerAlive) {
		t.Fatalf("beside a live one: %v", r.Err())
	}
	l.fence(3)
	if r := l.do(register(3, 999, "")); r.Err() != nil || r.Node != 3 || l.md.Image().Broker(3).Incarnation != 999 || l.md.Image().Broker(3).Fenced {
		t.Fatalf("%+v", r)
	}
	if r := l.do(register(3, 103, "")); !errors.Is(r.Err(), ErrBrokerAlive) {
		t.Fatalf("the old one came back: %v", r.Err())
	}
	if p := &l.md.Image().Topic("a").Partitions[0]; p.Hosts(raft.Member{ID: 3, Incarnation: 999}) {
		t.Fatal("the new disk holds what the old one held")
	}
}

func TestRepair(t *testing.T) {
	c, ctl := newControlled(t, 3)
	c.do(&Command{SetFeature: &SetFeature{Name: MetadataVersion, Level: LevelMoves}})
	c.create("q", "a", topicID(1), []raft.NodeID{1, 2, 3}, []raft.NodeID{1, 2})
	c.create("r", ConsumerOffsetsTopic, topicID(2), []raft.NodeID{1})
	tick := func() {
		t.Helper()
		for id := raft.NodeID(2); id <= 3; id++ {
			if b := c.md.Image().Broker(id); b != nil && !b.Fenced {
				ctl.Heard(id, b.Incarnation)
			}
		}
		if err := ctl.Tick(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	tick()
	offsets := func() *Partition { return &c.md.Image().Topic(ConsumerOffsetsTopic).Partitions[0] }
	if !sameMembers(offsets().Target, membersOf(1, 2, 3)) {
		t.Fatalf("the internal topic does not grow: %+v", offsets())
	}
	before := c.md.Image().Version()
	tick()
	if c.md.Image().Version() != before {
		t.Fatal("asked for again")
	}
	c.settle(offsets().Group, 5, membersOf(1, 2, 3)...)
	c.fence(3)
	c.do(register(3, 999, ""))
	tick()
	wiped := raft.Member{ID: 3, Incarnation: 999}
	if p := c.md.Image().Topic("a").Partitions; !slices.Equal(p[0].Target, append(membersOf(1, 2), wiped)) || p[1].Moving() {
		t.Fatalf("a wiped disk is not replaced: %+v", p)
	}
	if !sameMembers(offsets().Target, append(membersOf(1, 2), wiped)) {
		t.Fatalf("nor in the internal topic: %+v", offsets())
	}
	// And wiped again before it has got anything: the target is what is replaced.
	c.fence(3)
	c.do(register(3, 1000, ""))
	tick()
	if p := &c.md.Image().Topic("a").Partitions[0]; p.Target[2].Incarnation != 1000 || !p.Hosts(wiped) {
		t.Fatalf("wiped twice: %+v", p)
	}
}

// The metadata group's members whose brokers are gone, or have another disk, go; a learner that is ready takes over a vote.
func TestMembersThatAreGone(t *testing.T) {
	c, ctl := newControlled(t, 4)
	step := func(ready ...raft.NodeID) raft.ConfState {
		t.Helper()
		c.caughtUp = ready
		if err := ctl.Tick(t.Context()); err != nil {
			t.Fatal(err)
		}
		return c.conf
	}
	step()
	if got := step(2, 3, 4); len(got.Voters) != 3 || len(got.Learners) != 1 {
		t.Fatal(got)
	}
	c.fence(3)
	c.do(register(3, 999, ""))
	if got := step(4); !slices.Equal(got.Voters, membersOf(1, 2, 4)) || len(got.Learners) != 0 {
		t.Fatalf("voter 3 is another disk, 4 is ready: %v", got)
	}
	got := step(4)
	if !slices.Equal(got.Learners, []raft.Member{{ID: 3, Incarnation: 999}}) {
		t.Fatalf("the new disk follows: %v", got)
	}
	c.do(&Command{SetFeature: &SetFeature{Name: MetadataVersion, Level: LevelMoves}})
	c.fence(2)
	c.do(&Command{Unregister: &UnregisterBroker{Node: 2}})
	if got := step(); !slices.Equal(got.Voters, membersOf(1, 4)) {
		t.Fatalf("unregistered, nobody ready: %v", got)
	}
	if got := step(3); len(got.Voters) != 3 {
		t.Fatalf("three are there again: %v", got)
	}
}

// A group of random membership and a random target, which changes on the way: NextMove gets there, through memberships of which
// each follows from the one before, and only ever promotes who is caught up.
func TestNextMove(t *testing.T) {
	for seed := range uint64(2000) {
		rng := rand.New(rand.NewPCG(seed, 1))
		some := func() (out []raft.Member) {
			for _, id := range rng.Perm(6)[:1+rng.IntN(4)] {
				out = append(out, diskOf(raft.NodeID(id+1), 1+rng.IntN(2)))
			}
			return out
		}
		sorted := func(ms []raft.Member) []raft.Member {
			out := slices.Clone(ms)
			sortMembers(out)
			return out
		}
		view := GroupView{Conf: raft.ConfState{Voters: sorted(some())}, ConfIndex: 1, Commit: 1}
		want := some()
		changes := rng.IntN(3)
		steps := 0
		for ; ; steps++ {
			if steps > 60 {
				t.Fatalf("seed %d: from %v to %v: no end at %v", seed, view.Conf, want, view.Conf)
			}
			if changes > 0 && rng.IntN(3) == 0 {
				want = some()
				changes--
			}
			// Some learners are ready, in the end all are.
			view.Ready = nil
			for _, l := range view.Conf.Learners {
				if steps > 20 || rng.IntN(2) == 0 {
					view.Ready = append(view.Ready, l)
				}
			}
			s := NextMove(want, view)
			if s.Done {
				if changes > 0 {
					continue
				}
				break
			}
			if s.Why == "" {
				if view.Conf.Joint() && (changes == 0 || rng.IntN(2) == 0) { // it commits, and is left
					view.Conf.Outgoing = nil
				}
				// The last voter in another life: nothing can be done.
				if len(view.Conf.Voters) == 1 && !slices.Contains(want, view.Conf.Voters[0]) &&
					slices.ContainsFunc(want, func(m raft.Member) bool { return m.ID == view.Conf.Voters[0].ID }) && changes == 0 {
					break
				}
				continue
			}
			for _, c := range s.Change.Steps {
				if c.Op == raft.Promote && !slices.Contains(view.Ready, c.Member) || c.Op == raft.AddVoter {
					t.Fatalf("seed %d: %v of %v, which is not ready", seed, c.Op, c.Member)
				}
			}
			next, err := s.Change.Apply(&view.Conf)
			if err != nil {
				t.Fatalf("seed %d: %v for %v: %v", seed, s.Change, view.Conf, err)
			}
			view.Conf = next
			view.ConfIndex++
			if rng.IntN(3) > 0 {
				// Not committed yet: nothing but taking back a joint step may be done.
				if s := NextMove(want, view); s.Done || s.Why != "" && !s.Change.Revert {
					t.Fatalf("seed %d: %+v before %v is committed", seed, s, view.Conf)
				}
			}
			view.Commit = view.ConfIndex
		}
	}
}

// What a leader of an earlier epoch reports comes too late: its indexes are those of a log that the group has gone on without.
func TestSettleOfAnEarlierEpoch(t *testing.T) {
	l := newLog(t)
	l.found(3)
	l.do(&Command{SetFeature: &SetFeature{Name: MetadataVersion, Level: LevelMoves}})
	id := topicID(1)
	l.create("", "a", id, []raft.NodeID{1, 2, 3})
	p := func() *Partition { return &l.md.Image().Topic("a").Partitions[0] }
	survivor := raft.Member{ID: 1, Incarnation: 101}
	if r := l.do(&Command{ResetPeers: &ResetPeers{Topic: id, GroupReset: GroupReset{Epoch: 1, Term: 9, Leader: 1, Survivors: []raft.Member{survivor}}}}); r.Err() != nil {
		t.Fatal(r.Err())
	}
	settle := func(index raft.Index, epoch raft.GroupEpoch) raft.Index {
		l.do(&Command{Settle: &Settle{Groups: []Settled{{Group: p().Group, Voters: p().Replicas, Index: index, Epoch: epoch}}}})
		return p().Settled
	}
	if got := settle(5000, 0); got != 0 {
		t.Fatalf("the old epoch settled at %d", got)
	}
	if got := settle(20, 1); got != 0 {
		t.Fatalf("settled at %d before the reset is done", got)
	}
	l.do(&Command{ResetDone: &ResetDone{Topic: id, Epoch: 1}})
	if got := settle(20, 1); got != 20 {
		t.Fatalf("settled at %d", got)
	}
}

// An operator's move goes to brokers that are alive, but for those that hold the partition already; and a majority must be, or nobody
// could lead afterwards.
func TestMoveNeedsTheLiving(t *testing.T) {
	l := newLog(t)
	l.foundMoves(4)
	l.create("q", "a", topicID(1), []raft.NodeID{1, 2, 3})
	l.fence(3)
	l.fence(4)
	for _, c := range []struct {
		to []raft.NodeID
		ok bool
	}{
		{[]raft.NodeID{1, 2}, true}, {[]raft.NodeID{2, 1, 3}, true}, {[]raft.NodeID{1}, true},
		{[]raft.NodeID{1, 3}, false}, {[]raft.NodeID{3}, false}, {[]raft.NodeID{1, 2, 4}, false},
	} {
		err := l.md.Image().checkMove(&Move{Topic: topicID(1), Replicas: c.to})
		if c.ok != (err == nil) || err != nil && !errors.Is(err, ErrInvalidAssignment) {
			t.Errorf("to %v: %v", c.to, err)
		}
	}
	if err := l.md.Image().checkMove(&Move{Topic: topicID(1), Cancel: true}); err != nil {
		t.Errorf("a cancel asks for nobody: %v", err)
	}
}

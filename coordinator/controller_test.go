package coordinator

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"testing"
	"time"

	"github.com/balsamq/balsa/raft"
)

// controlled is a metadata log that this process leads (or not), with a membership and a clock of its own.
type controlled struct {
	*log
	leads    bool
	conf     raft.ConfState
	caughtUp []raft.NodeID
	changes  []raft.ConfState
	now      raft.Time
	before   func() // runs before each proposal is applied
}

func (c *controlled) Propose(_ context.Context, b []byte) (*Result, error) {
	if f := c.before; f != nil {
		c.before = nil
		f()
	}
	cmd, err := DecodeCommand(b)
	if err != nil {
		return nil, err
	}
	return c.do(cmd), nil
}

func (c *controlled) Leader() (raft.NodeID, bool)     { return 1, c.leads }
func (c *controlled) Linearize(context.Context) error { return nil }
func (c *controlled) Membership() Membership          { return Membership{c.conf, c.caughtUp} }
func (c *controlled) ChangeMembership(_ context.Context, next raft.ConfState) error {
	c.changes = append(c.changes, next)
	c.conf = next
	return nil
}

func newControlled(t *testing.T, brokers int) (*controlled, *Controller) {
	c := &controlled{log: newLog(t), leads: true, now: 1}
	c.found(brokers)
	c.conf = raft.ConfState{Voters: []raft.Member{{ID: 1, Incarnation: 101}}}
	return c, NewController(ControllerConfig{Self: 1, Session: 5 * time.Second, Doubt: time.Second, Now: func() raft.Time { return c.now }, Logger: slog.New(slog.DiscardHandler)}, c.md, c)
}

func fenced(im *Image) (out []raft.NodeID) {
	for _, b := range im.Brokers() {
		if b.Fenced {
			out = append(out, b.ID)
		}
	}
	return out
}

func TestFencing(t *testing.T) {
	c, ctl := newControlled(t, 3)
	tick := func(after time.Duration, heard ...raft.NodeID) {
		t.Helper()
		c.now += raft.Time(after)
		for _, id := range heard {
			ctl.Heard(id, c.md.Image().Broker(id).Incarnation)
		}
		if err := ctl.Tick(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	tick(0)
	tick(4 * time.Second)
	if f := fenced(c.md.Image()); len(f) != 0 {
		t.Fatalf("fenced %v within a new leader's first session", f)
	}
	tick(time.Second, 2)
	if f := fenced(c.md.Image()); !slices.Equal(f, []raft.NodeID{3}) {
		t.Fatalf("fenced %v, want 3", f)
	}
	ctl.Heard(3, 999)
	tick(0)
	if f := fenced(c.md.Image()); !slices.Equal(f, []raft.NodeID{3}) {
		t.Fatal("another life of the broker unfenced it")
	}
	tick(0, 3)
	if f := fenced(c.md.Image()); len(f) != 0 {
		t.Fatalf("still fenced: %v", f)
	}
	c.leads = false
	tick(time.Hour)
	if f := fenced(c.md.Image()); len(f) != 0 {
		t.Fatal("fenced by one that does not lead")
	}
	c.leads = true
	tick(0)
	if f := fenced(c.md.Image()); len(f) != 0 {
		t.Fatal("a new leader fenced at once")
	}
}

func TestVotersAreNeverTwo(t *testing.T) {
	for n := 1; n <= 7; n++ {
		c, ctl := newControlled(t, n)
		for range 10 {
			c.caughtUp = nil
			for i := range n {
				c.caughtUp = append(c.caughtUp, raft.NodeID(i+1))
			}
			if err := ctl.Tick(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		want := map[int]int{1: 1, 2: 1, 3: 3, 4: 3}[n]
		if n >= 5 {
			want = 5
		}
		if len(c.conf.Voters) != want || len(c.conf.Voters)+len(c.conf.Learners) != n {
			t.Errorf("%d brokers: %d vote, %d follow", n, len(c.conf.Voters), len(c.conf.Learners))
		}
		for _, ch := range c.changes {
			if len(ch.Voters)%2 == 0 {
				t.Errorf("%d brokers: %d voters on the way", n, len(ch.Voters))
			}
		}
	}
}

func TestVotersMustBeCaughtUpAndAlive(t *testing.T) {
	c, ctl := newControlled(t, 3)
	for range 3 {
		c.caughtUp = []raft.NodeID{2}
		if err := ctl.Tick(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if len(c.conf.Voters) != 1 {
		t.Fatalf("%d voters though 3 is behind", len(c.conf.Voters))
	}
	m := Membership{c.conf, []raft.NodeID{2, 3}}
	m.Conf.Outgoing = m.Conf.Voters
	if _, _, ok := NextMembership(c.md.Image(), m); ok {
		t.Fatal("a change within a joint configuration")
	}
}

func TestCreateThroughTheController(t *testing.T) {
	c, ctl := newControlled(t, 3)
	in := &Intent{Request: "q", Create: []TopicSpec{
		{Name: "a", ID: topicID(1), Partitions: 3}, {Name: "bad name", ID: topicID(2), Partitions: 1}, {Name: "b", ID: topicID(3), Partitions: 1, Replication: 9},
		{Name: "c", ID: topicID(4), Assignment: [][]raft.NodeID{{2, 1}}}}}
	check := func(r *Result) {
		t.Helper()
		for i, want := range []error{nil, ErrInvalidTopic, ErrInvalidReplicationFactor, nil} {
			if got := r.Topics[i].Err(); !errors.Is(got, want) || r.Topics[i].Name != in.Create[i].Name {
				t.Fatalf("%s: %v, want %v", r.Topics[i].Name, got, want)
			}
		}
	}
	r, err := ctl.Do(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	check(r)
	if a := c.md.Image().Topic("a"); len(a.Partitions) != 3 || len(a.Partitions[0].Replicas) != 3 {
		t.Fatalf("default replication: %+v", a)
	}
	if r, err = ctl.Do(t.Context(), in); err != nil {
		t.Fatal(err)
	}
	check(r)
	in.Request = "forgotten"
	if r, err = ctl.Do(t.Context(), in); err != nil {
		t.Fatal(err)
	}
	check(r)
	if c.md.Image().TopicCount() != 2 {
		t.Fatal("repeats created more")
	}
	r, err = ctl.Do(t.Context(), &Intent{Request: "other", Create: []TopicSpec{{Name: "a", ID: topicID(9), Partitions: 1}}})
	if err != nil || !errors.Is(r.Topics[0].Err(), ErrTopicExists) {
		t.Fatalf("%v %v", r, err)
	}
	c.leads = false
	if _, err := ctl.Do(t.Context(), in); !errors.Is(err, ErrNotController) {
		t.Fatal(err)
	}
}

func TestNewReplicasAvoidTheSilent(t *testing.T) {
	c, ctl := newControlled(t, 3)
	c.now += raft.Time(10 * time.Second)
	ctl.Heard(3, 103)
	create := func(n, rf int) *Topic {
		r, err := ctl.Do(t.Context(), &Intent{Request: fmt.Sprint(n), Create: []TopicSpec{{Name: fmt.Sprint(n), ID: topicID(n), Partitions: 4, Replication: int16(rf)}}})
		if err != nil || r.Topics[0].Err() != nil {
			t.Fatal(r, err)
		}
		return c.md.Image().TopicByID(topicID(n))
	}
	for _, p := range create(1, 2).Partitions {
		if p.HasReplica(2) {
			t.Fatalf("placed on a broker that is not heard from: %v", p.Replicas)
		}
	}
	for _, p := range create(2, 3).Partitions {
		if len(p.Replicas) != 3 {
			t.Fatalf("a broker that is not fenced was not used where it is needed: %v", p.Replicas)
		}
	}
}

// A broker that is replaced between the placement and its application is placed around, not stumbled over.
func TestCreateIsPlacedAnew(t *testing.T) {
	c, ctl := newControlled(t, 2)
	c.before = func() { // the broker's directory is replaced by another one
		d := c.md.Image().draft()
		d.putBroker(&Broker{ID: 2, Incarnation: 777})
		c.md.image.Store(d.Image)
	}
	r, err := ctl.Do(t.Context(), &Intent{Request: "q", Create: []TopicSpec{{Name: "a", ID: topicID(1), Partitions: 4}}})
	if err != nil || r.Topics[0].Err() != nil {
		t.Fatal(fmt.Sprint(r, err))
	}
	for _, p := range c.md.Image().Topic("a").Partitions {
		for _, m := range p.Replicas {
			if m.ID == 2 && m.Incarnation != 777 {
				t.Fatal("placed on the old life")
			}
		}
	}
}

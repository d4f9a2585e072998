package coordinator

import (
	"bytes"
	"encoding/json"
	"errors"
	"testing"
	"time"

	"github.com/balsamq/balsa/raft"
)

func addBridge(name string, id TopicID) *Command {
	return &Command{AlterBridge: &AlterBridge{Name: name, ID: id, Add: &NewBridge{Kind: "nats", Spec: json.RawMessage(`{"a": 1}`), Position: "first"}}}
}

func TestBridgesInTheImage(t *testing.T) {
	l := newLog(t)
	l.found(1)
	if err := l.do(addBridge("b", topicID(1))).Err(); !errors.Is(err, ErrFeatureLevel) {
		t.Fatalf("a bridge without the level that has them: %v", err)
	}
	l.do(&Command{SetFeature: &SetFeature{Name: MetadataVersion, Level: LevelApps}})
	bridge := func() Bridge { return *l.md.Image().Bridge("b") }
	alter := func(a AlterBridge) error { a.Name = "b"; return l.do(&Command{AlterBridge: &a}).Err() }
	yes, no, to := true, false, "17"
	if err := l.do(addBridge("b", topicID(1))).Err(); err != nil || bridge().Number != 1 || bridge().Position != "first" || bridge().Owner != 0 {
		t.Fatalf("made: %v, %+v", err, bridge())
	}
	if err := l.do(addBridge("b", topicID(1))).Err(); err != nil {
		t.Fatalf("a repeat: %v", err)
	}
	if err := l.do(addBridge("b", topicID(2))).Err(); !errors.Is(err, ErrBridgeExists) {
		t.Fatalf("another one of the name: %v", err)
	}
	if err := alter(AlterBridge{ID: topicID(2), Pause: &yes}); !errors.Is(err, ErrUnknownBridge) {
		t.Fatalf("another one's id: %v", err)
	}
	if err := alter(AlterBridge{ID: topicID(1), Assign: &BridgeHolder{Node: 1, Epoch: 7}}); err != nil || bridge().Owner != 1 || bridge().Term != 1 {
		t.Fatalf("given away: %v, %+v", err, bridge())
	}
	if err := alter(AlterBridge{ID: topicID(1), Assign: &BridgeHolder{Node: 2, Epoch: 7}}); !errors.Is(err, ErrStale) || bridge().Owner != 1 {
		t.Fatalf("given away as of a term that is over: %v, %+v", err, bridge())
	}
	if err := alter(AlterBridge{ID: topicID(1), Seek: &to}); err != nil || bridge().Number != 2 || bridge().Position != to || bridge().Owner != 1 {
		t.Fatalf("seek: %v, %+v", err, bridge())
	}
	if err := alter(AlterBridge{ID: topicID(1), Spec: json.RawMessage(`{"b":2}`)}); !errors.Is(err, ErrFeatureLevel) || string(bridge().Spec) != `{"a":1}` {
		t.Fatalf("a command that brokers of this level do not know: %v, %+v", err, bridge())
	}
	l.do(&Command{SetFeature: &SetFeature{Name: MetadataVersion, Level: LevelRelaxed}})
	if err := alter(AlterBridge{ID: topicID(1), Spec: json.RawMessage(`{"b":2}`)}); err != nil || string(bridge().Spec) != `{"b":2}` || bridge().Owner != 1 || bridge().Term != 2 || bridge().Number != 2 {
		t.Fatalf("another definition: %v, %+v", err, bridge())
	}
	if err := alter(AlterBridge{ID: topicID(1), Spec: json.RawMessage(`{"a":1}`)}); err != nil {
		t.Fatal(err)
	}
	if err := alter(AlterBridge{ID: topicID(1), Pause: &yes}); err != nil || !bridge().Paused || bridge().Owner != 0 {
		t.Fatalf("pause: %v, %+v", err, bridge())
	}
	if err := alter(AlterBridge{ID: topicID(1), Assign: &BridgeHolder{Node: 1, Epoch: 7, Term: 3}}); !errors.Is(err, ErrStale) || bridge().Owner != 0 {
		t.Fatalf("a paused one given away: %v, %+v", err, bridge())
	}
	if err := alter(AlterBridge{ID: topicID(1), Pause: &no}); err != nil || bridge().Paused {
		t.Fatalf("resume: %v, %+v", err, bridge())
	}

	// In use, the level stays; a snapshot has them; and once they are gone, no trace of them.
	lower := &Command{SetFeature: &SetFeature{Name: MetadataVersion, Level: LevelAdmin}}
	if err := l.do(lower).Err(); !errors.Is(err, ErrFeatureUpdate) {
		t.Fatalf("lowered with a bridge there: %v", err)
	}
	m := NewMetadata()
	if err := m.Restore(raft.SnapshotMeta{Index: l.md.Image().Version()}, snapshot(t, l.md)); err != nil {
		t.Fatal(err)
	}
	if got, want := m.Image().Bridge("b"), bridge(); got == nil || got.ID != want.ID || got.Number != want.Number || got.Term != want.Term || !bytes.Equal(got.Spec, []byte(`{"a":1}`)) {
		t.Fatalf("from the snapshot: %+v", got)
	}
	if !bytes.Equal(snapshot(t, m), snapshot(t, l.md)) {
		t.Fatal("the snapshot of what came from a snapshot is another one")
	}
	if err := alter(AlterBridge{ID: topicID(1), Remove: true}); err != nil || l.md.Image().Bridge("b") != nil {
		t.Fatal(err)
	}
	if err := l.do(lower).Err(); err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(snapshot(t, l.md), []byte("bridge")) {
		t.Error("a snapshot of a level without bridges speaks of them")
	}
}

func TestBridgeCommandsAreChecked(t *testing.T) {
	yes, long := true, string(make([]byte, MaxBridgePosition+1))
	for _, a := range []AlterBridge{
		{Name: "b", ID: topicID(1)},
		{Name: "", ID: topicID(1), Remove: true},
		{Name: "a/b", ID: topicID(1), Remove: true},
		{Name: "b", Remove: true},
		{Name: "b", ID: topicID(1), Remove: true, Pause: &yes},
		{Name: "b", ID: topicID(1), Seek: &long},
		{Name: "b", ID: topicID(1), Spec: json.RawMessage(`[1]`)},
		{Name: "b", ID: topicID(1), Spec: json.RawMessage(`{}`), Pause: &yes},
		{Name: "b", ID: topicID(1), Add: &NewBridge{Kind: "nats", Spec: json.RawMessage(`[1]`)}},
		{Name: "b", ID: topicID(1), Add: &NewBridge{Kind: "", Spec: json.RawMessage(`{}`)}},
		{Name: "b", ID: topicID(1), Add: &NewBridge{Kind: "nats", Spec: json.RawMessage(`{"a":"` + string(bytes.Repeat([]byte("x"), MaxBridgeSpec)) + `"}`)}},
	} {
		if _, err := (&Command{AlterBridge: &a}).Encode(); !errors.Is(err, ErrMalformed) {
			t.Errorf("%.200v: %v", a, err)
		}
	}
}

// A bridge has an owner among the live brokers, and another one once that is fenced, or has been started anew.
func TestBridgesAreGivenToLiveBrokers(t *testing.T) {
	c, ctl := newControlled(t, 3)
	c.do(&Command{SetFeature: &SetFeature{Name: MetadataVersion, Level: LevelApps}})
	c.now = raft.Time(time.Minute)
	hear := func(nodes ...raft.NodeID) {
		for _, n := range nodes {
			ctl.Heard(n, raft.Incarnation(100+int(n)))
		}
	}
	owners := func() map[raft.NodeID]int {
		m := make(map[raft.NodeID]int)
		for _, b := range c.md.Image().Bridges() {
			m[b.Owner]++
		}
		return m
	}
	tick := func() {
		t.Helper()
		if err := ctl.Tick(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	for i, name := range []string{"a", "b", "c", "d", "e", "f"} {
		c.do(addBridge(name, topicID(i+1)))
	}
	hear(1, 2, 3)
	tick()
	if m := owners(); m[1] != 2 || m[2] != 2 || m[3] != 2 {
		t.Fatalf("they are not spread: %v", m)
	}
	before := c.md.Image().Version()
	tick()
	if c.md.Image().Version() != before {
		t.Fatal("something was given away that had an owner")
	}
	// Broker 3 falls silent: nothing happens for a session, then the others have its own.
	c.now += raft.Time(4 * time.Second)
	hear(1, 2)
	tick()
	if owners()[3] != 2 {
		t.Fatalf("taken from a broker that may be alive: %v", owners())
	}
	c.now += raft.Time(2 * time.Second)
	hear(1, 2)
	tick() // fences
	tick()
	if m := owners(); m[3] != 0 || m[1] != 3 || m[2] != 3 {
		t.Fatalf("after broker 3 was fenced: %v", m)
	}
	// Broker 1 stops in order, and gives back what it has: it does not get it again.
	back := c.md.Image().Bridges()
	for _, b := range back {
		if b.Owner == 1 {
			c.do(&Command{AlterBridge: &AlterBridge{Name: b.Name, ID: b.ID, Assign: &BridgeHolder{Node: 1, Term: b.Term}}})
		}
	}
	tick()
	if m := owners(); m[1] != 0 || m[2] != 6 {
		t.Fatalf("after broker 1 has given its own back: %v", m)
	}
	// Broker 2 is started anew: what it had is given away again, as of its new registration.
	c.do(register(2, 102, ""))
	hear(1, 2)
	tick()
	for _, b := range c.md.Image().Bridges() {
		if o := c.md.Image().Broker(b.Owner); o == nil || o.Epoch != b.Epoch {
			t.Fatalf("bridge %s is held by an earlier life: %+v", b.Name, b)
		}
	}
}

package coordinator

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/balsamq/balsa/raft"
	"pgregory.net/rapid"
)

// log is a metadata log in memory: it applies what it is given, and remembers it.
type log struct {
	t       testing.TB
	md      *Metadata
	entries []raft.Entry
}

func newLog(t testing.TB) *log { return &log{t: t, md: NewMetadata()} }

func (l *log) do(c *Command) *Result {
	l.t.Helper()
	b, err := c.Encode()
	if err != nil {
		l.t.Fatalf("encode: %v", err)
	}
	e := raft.Entry{Term: 1, Index: raft.Index(len(l.entries) + 1), Type: raft.EntryCommand, Payload: b}
	l.entries = append(l.entries, e)
	res, err := l.md.Apply([]raft.Entry{e})
	if err != nil {
		l.t.Fatalf("apply: %v", err)
	}
	return res[0].(*Result)
}

func (l *log) found(brokers int) {
	l.t.Helper()
	l.do(&Command{Found: &FoundCluster{ClusterID: "c", Founder: raft.Member{ID: 1, Incarnation: 101}}})
	for i := range brokers {
		if r := l.do(register(0, raft.Incarnation(101+i), "")); r.Err() != nil || r.Node != raft.NodeID(i+1) {
			l.t.Fatalf("register %d: %+v", i+1, r)
		}
	}
}

func register(node raft.NodeID, inc raft.Incarnation, rack string) *Command {
	return &Command{Register: &RegisterBroker{Node: node, Incarnation: inc, Rack: rack, RPC: fmt.Sprintf("h:%d", inc),
		Endpoints: []Endpoint{{Listener: "PLAINTEXT", Host: "h", Port: 9092}}}}
}

func topicID(n int) TopicID { return TopicID{0: byte(n), 1: byte(n >> 8), 15: 1} }

func (l *log) create(request, name string, id TopicID, replicas ...[]raft.NodeID) *Result {
	c := &CreateTopics{Topics: []NewTopic{{Name: name, ID: id, Replicas: replicas}}}
	for _, b := range l.md.Image().Brokers() {
		c.Brokers = append(c.Brokers, b.Member())
	}
	return l.do(&Command{Request: request, CreateTopics: c})
}

func snapshot(t testing.TB, m *Metadata) []byte {
	t.Helper()
	b, err := m.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestNothingBeforeFounding(t *testing.T) {
	l := newLog(t)
	if r := l.do(register(1, 5, "")); !errors.Is(r.Err(), ErrNotFounded) {
		t.Fatalf("registered in no cluster: %v", r.Err())
	}
	l.do(&Command{Found: &FoundCluster{ClusterID: "a", Founder: raft.Member{ID: 1}}})
	if r := l.do(&Command{Found: &FoundCluster{ClusterID: "b", Founder: raft.Member{ID: 2}}}); !errors.Is(r.Err(), ErrWrongCluster) {
		t.Fatalf("founded twice: %v", r.Err())
	}
	if im := l.md.Image(); im.ClusterID() != "a" || im.Founder().ID != 1 {
		t.Fatalf("second founding counted: %q", im.ClusterID())
	}
}

func TestRegistration(t *testing.T) {
	l := newLog(t)
	l.found(2)
	if r := l.do(register(0, 102, "r1")); r.Node != 2 || l.md.Image().Broker(2).Rack != "r1" {
		t.Fatalf("same directory got id %d", r.Node)
	}
	if r := l.do(register(1, 999, "")); !errors.Is(r.Err(), ErrBrokerAlive) {
		t.Fatalf("another directory took id 1: %v", r.Err())
	}
	if r := l.do(register(7, 102, "")); !errors.Is(r.Err(), ErrBrokerIDTaken) {
		t.Fatalf("one directory got two ids: %v", r.Err())
	}
	if r := l.do(register(3, 103, "")); r.Node != 3 {
		t.Fatalf("asked for 3, got %d (%v)", r.Node, r.Err())
	}
	if r := l.do(register(0, 104, "")); r.Node != 4 {
		t.Fatalf("allocated %d next to an explicit 3", r.Node)
	}
	b := l.md.Image().Broker(2)
	if r := l.do(&Command{Fence: &FenceBroker{Node: 2, Epoch: b.Epoch - 1, Fenced: true}}); !errors.Is(r.Err(), ErrStale) {
		t.Fatalf("a fence of an older registration hit: %v", r.Err())
	}
	l.do(&Command{Fence: &FenceBroker{Node: 2, Epoch: b.Epoch, Fenced: true}})
	if len(l.md.Image().LiveBrokers()) != 3 || !l.md.Image().Broker(2).Fenced || b.Fenced {
		t.Fatal("fencing changed the wrong image")
	}
	l.do(register(2, 102, ""))
	if l.md.Image().Broker(2).Fenced {
		t.Fatal("registering does not unfence")
	}
}

func TestTopics(t *testing.T) {
	l := newLog(t)
	l.found(3)
	before := l.md.Image()
	r := l.create("", "a.b", topicID(1), []raft.NodeID{1, 2}, []raft.NodeID{2, 3})
	if r.Err() != nil || r.Topics[0].Err() != nil {
		t.Fatal(r)
	}
	top := l.md.Image().Topic("a.b")
	if top == nil || l.md.Image().TopicByID(topicID(1)) != top || top.Partitions[1].Replicas[0] != (raft.Member{ID: 2, Incarnation: 102}) {
		t.Fatalf("topic is %+v", top)
	}
	if g, p, ok := l.md.Image().Group(top.Partitions[1].Group); g != top || p != 1 || !ok {
		t.Fatal("group does not lead back to the partition")
	}
	if before.Topic("a.b") != nil || before.TopicCount() != 0 {
		t.Fatal("an old image changed")
	}
	for name, want := range map[string]error{"a.b": ErrTopicExists, "a_b": ErrInvalidTopic, "": ErrInvalidTopic, ".": ErrInvalidTopic,
		"..": ErrInvalidTopic, "ä": ErrInvalidTopic, "a b": ErrInvalidTopic, strings.Repeat("x", 250): ErrInvalidTopic} {
		if r := l.create("", name, topicID(9), []raft.NodeID{1}); !errors.Is(r.Topics[0].Err(), want) {
			t.Errorf("%q: %v, want %v", name, r.Topics[0].Err(), want)
		}
	}
	if l.md.Image().Topic("a_b") != nil {
		t.Error("a colliding name finds the topic")
	}
	if r := l.create("", strings.Repeat("x", 249), topicID(2), []raft.NodeID{1}); r.Topics[0].Err() != nil {
		t.Error(r.Topics[0].Err())
	}
	if r := l.create("", "c", topicID(3), []raft.NodeID{1, 1}); !errors.Is(r.Topics[0].Err(), ErrInvalidAssignment) {
		t.Error(r.Topics[0].Err())
	}
	if r := l.create("", "c", topicID(3), []raft.NodeID{9}); !errors.Is(r.Topics[0].Err(), ErrInvalidAssignment) {
		t.Error(r.Topics[0].Err())
	}
	next := l.md.Image().NextGroup()
	del := &Command{Request: "d1", DeleteTopics: &DeleteTopics{IDs: []TopicID{topicID(1), topicID(77)}}}
	r = l.do(del)
	if r.Topics[0].Err() != nil || r.Topics[0].Name != "a.b" || !errors.Is(r.Topics[1].Err(), ErrUnknownTopic) {
		t.Fatalf("delete: %+v", r)
	}
	if again := l.do(del); again.Topics[0].Err() != nil || again.Index != r.Index {
		t.Fatalf("a repeated delete got another answer: %+v", again)
	}
	if _, _, ok := l.md.Image().Group(top.Partitions[0].Group); ok || l.md.Image().Topic("a.b") != nil {
		t.Fatal("deleted topic is still there")
	}
	l.create("", "a.b", topicID(4), []raft.NodeID{1})
	if g := l.md.Image().Topic("a.b").Partitions[0].Group; g < next {
		t.Fatalf("group id %d was given out twice", g)
	}
}

func TestRequestIsDoneOnce(t *testing.T) {
	l := newLog(t)
	l.found(1)
	alloc := func(req string) *Result {
		return l.do(&Command{Request: req, AllocateProducerIDs: &AllocateProducerIDs{Count: 1000}})
	}
	a, b, again := alloc("x"), alloc("y"), alloc("x")
	if a.First == b.First || again.First != a.First {
		t.Fatalf("blocks at %d, %d, repeated %d", a.First, b.First, again.First)
	}
	for i := range maxRecentRequests {
		alloc(fmt.Sprint("z", i))
	}
	if len(l.md.recent) != maxRecentRequests {
		t.Fatalf("remembers %d requests", len(l.md.recent))
	}
	if r := alloc("x"); r.First == a.First {
		t.Fatal("a forgotten request was remembered")
	}
}

func TestBrokerGoneSinceThePlacement(t *testing.T) {
	l := newLog(t)
	l.found(2)
	r := l.do(&Command{CreateTopics: &CreateTopics{Brokers: []raft.Member{{ID: 2, Incarnation: 55}}, Topics: []NewTopic{{Name: "a", ID: topicID(1), Replicas: [][]raft.NodeID{{2}}}}}})
	if !errors.Is(r.Err(), ErrStale) || l.md.Image().TopicCount() != 0 {
		t.Fatalf("placed on another life of a broker: %+v", r)
	}
}

// Any history applied in any batches, and from any snapshot on, gives byte for byte the same state.
func TestStateIsAFunctionOfTheLog(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		l := newLog(t)
		l.found(rapid.IntRange(1, 5).Draw(rt, "brokers"))
		l.do(&Command{SetFeature: &SetFeature{Name: MetadataVersion, Level: LevelLatest}})
		for range rapid.IntRange(1, 60).Draw(rt, "commands") {
			im := l.md.Image()
			id := topicID(rapid.IntRange(1, 12).Draw(rt, "id"))
			req := rapid.SampledFrom([]string{"", "", "r1", "r2", "r3"}).Draw(rt, "request")
			switch rapid.IntRange(0, 15).Draw(rt, "kind") {
			case 0, 1:
				name := fmt.Sprintf("t%s%d", rapid.SampledFrom([]string{".", "_"}).Draw(rt, "sep"), rapid.IntRange(1, 8).Draw(rt, "name"))
				if p, err := im.PlaceTopic(rapid.IntRange(1, 4).Draw(rt, "partitions"), 1, 7); err == nil {
					l.create(req, name, id, p...)
				}
			case 2:
				l.do(&Command{Request: req, DeleteTopics: &DeleteTopics{IDs: []TopicID{id}}})
			case 3:
				v := "1"
				set := map[string]*string{"a": &v, "b": nil}
				if rapid.Bool().Draw(rt, "clear") {
					set = map[string]*string{"a": nil, "b": &v}
				}
				l.do(&Command{Request: req, AlterConfigs: &AlterConfigs{Topic: id, Set: set}})
			case 4:
				l.do(&Command{Request: req, AllocateProducerIDs: &AllocateProducerIDs{Count: 10}})
			case 5:
				b := im.Brokers()[0]
				l.do(&Command{Request: req, Fence: &FenceBroker{Node: b.ID, Epoch: b.Epoch, Fenced: rapid.Bool().Draw(rt, "fence")}})
			case 6:
				l.do(register(0, raft.Incarnation(rapid.IntRange(101, 110).Draw(rt, "inc")), "r"))
			case 7:
				l.do(&Command{Request: req, ResetPeers: &ResetPeers{Topic: id, GroupReset: GroupReset{
					Epoch: raft.GroupEpoch(rapid.IntRange(1, 3).Draw(rt, "epoch")), Term: 9, Leader: 1, Survivors: []raft.Member{{ID: 1, Incarnation: 101}}}}})
			case 8:
				l.do(&Command{Request: req, ResetDone: &ResetDone{Topic: id, Epoch: raft.GroupEpoch(rapid.IntRange(1, 3).Draw(rt, "epoch"))}})
			case 9, 10:
				name := rapid.SampledFrom([]string{"", "1", "9"}).Draw(rt, "resource")
				v, w := rapid.SampledFrom([]string{"1", "2"}).Draw(rt, "value"), "1"
				set, was := map[string]*string{"a": &v, "b": nil}, map[string]*string{"a": &w, "b": nil}
				l.do(&Command{Request: req, SetConfigs: &SetConfigs{Changes: []ConfigChange{{Kind: ConfigBroker, Name: name, Set: set}, {Kind: ConfigGroup, Name: "g" + name, Set: set, Was: was},
					{Kind: ConfigTopic, Topic: id, Set: set, Was: was}}}})
			case 11:
				l.do(&Command{Request: req, AddPartitions: &AddPartitions{Brokers: []raft.Member{{ID: 1, Incarnation: 101}},
					Topics: []MorePartitions{{Topic: id, From: int32(rapid.IntRange(1, 3).Draw(rt, "from")), Replicas: [][]raft.NodeID{{1}, {1}}}}}})
			case 12:
				user, limit := rapid.SampledFrom([]string{"", "u"}).Draw(rt, "user"), float64(rapid.IntRange(0, 3).Draw(rt, "limit"))
				set := map[string]*float64{"producer_byte_rate": &limit, "consumer_byte_rate": nil}
				if limit == 0 {
					set["producer_byte_rate"] = nil
				}
				l.do(&Command{Request: req, AlterQuotas: &AlterQuotas{Entries: []QuotaChange{{QuotaEntity: QuotaEntity{User: &user}, Set: set}, {QuotaEntity: QuotaEntity{ClientID: &user, User: &user}, Set: set}}}})
			case 13:
				l.do(&Command{Request: req, SetFeature: &SetFeature{Name: MetadataVersion, Level: int16(rapid.IntRange(LevelMoves, LevelLatest).Draw(rt, "level"))}})
			case 14, 15:
				a := &AlterBridge{Name: fmt.Sprint("b", rapid.IntRange(1, 2).Draw(rt, "bridge")), ID: topicID(rapid.IntRange(1, 2).Draw(rt, "bridge id"))}
				pause, to := rapid.Bool().Draw(rt, "pause"), "new"
				switch rapid.IntRange(0, 5).Draw(rt, "change") {
				case 0:
					a.Add = &NewBridge{Kind: "nats", Spec: json.RawMessage(`{"x": [1,2]}`), Paused: pause}
				case 1:
					a.Remove = true
				case 2:
					a.Pause = &pause
				case 3:
					a.Seek = &to
				case 4:
					a.Assign = &BridgeHolder{Node: 1, Epoch: 2, Term: int64(rapid.IntRange(0, 1).Draw(rt, "term"))}
				case 5:
					a.Spec = json.RawMessage(`{"y":3}`)
				}
				l.do(&Command{Request: req, AlterBridge: a})
			}
		}
		want := snapshot(t, l.md)
		other := NewMetadata()
		for rest := l.entries; len(rest) > 0; {
			n := rapid.IntRange(1, len(rest)).Draw(rt, "batch")
			if _, err := other.Apply(rest[:n]); err != nil {
				rt.Fatal(err)
			}
			rest = rest[n:]
			if rapid.IntRange(0, 3).Draw(rt, "restart") == 0 {
				restored := NewMetadata()
				if err := restored.Restore(raft.SnapshotMeta{Index: other.Image().Version()}, snapshot(t, other)); err != nil {
					rt.Fatal(err)
				}
				other = restored
			}
		}
		if got := snapshot(t, other); !bytes.Equal(got, want) {
			rt.Fatalf("states differ:\n%s\n%s", want, got)
		}
		im := other.Image()
		names, parts := 0, 0
		for _, topic := range im.Topics() {
			names++
			for i, p := range topic.Partitions {
				parts++
				if tt, n, ok := im.Group(p.Group); !ok || tt != topic || n != int32(i) || p.Group >= im.NextGroup() {
					rt.Fatalf("group %d leads to %v/%d", p.Group, tt, n)
				}
			}
		}
		if names != im.TopicCount() || parts != im.PartitionCount() {
			rt.Fatalf("counted %d topics and %d partitions, image says %d and %d", names, parts, im.TopicCount(), im.PartitionCount())
		}
	})
}

func TestCommandOfANewerVersionStops(t *testing.T) {
	l := newLog(t)
	l.found(1)
	before := l.md.Image()
	good, _ := register(0, 200, "").Encode()
	for _, bad := range [][]byte{append([]byte{CommandVersion + 1}, good[1:]...), []byte("\x01{\"teleport\":{}}"), []byte("\x01{}"), {}, append(slices.Clone(good), "{}"...)} {
		_, err := l.md.Apply([]raft.Entry{
			{Index: before.Version() + 1, Type: raft.EntryCommand, Payload: good},
			{Index: before.Version() + 2, Type: raft.EntryCommand, Payload: bad}})
		if !errors.Is(err, ErrMalformed) || l.md.Image() != before {
			t.Fatalf("%q: %v, image changed: %v", bad, err, l.md.Image() != before)
		}
	}
}

func TestReplayAfterReopening(t *testing.T) {
	l := newLog(t)
	l.found(2)
	old := snapshot(t, l.md)
	l.do(&Command{AllocateProducerIDs: &AllocateProducerIDs{Count: 5}})
	im, want := l.md.Image(), snapshot(t, l.md)
	if err := l.md.Restore(raft.SnapshotMeta{Index: im.Version() - 1}, old); err != nil {
		t.Fatal(err)
	}
	if _, err := l.md.Apply(l.entries); err != nil {
		t.Fatal(err)
	}
	if l.md.Image() != im || !bytes.Equal(snapshot(t, l.md), want) {
		t.Fatal("a replay changed the state")
	}
	l.do(&Command{AllocateProducerIDs: &AllocateProducerIDs{Count: 5}})
	if l.md.Image().Version() != im.Version()+1 {
		t.Fatal("nothing is applied after a replay")
	}
}

func TestDamagedSnapshotIsRefused(t *testing.T) {
	l := newLog(t)
	l.found(2)
	l.create("r", "a", topicID(1), []raft.NodeID{1, 2})
	good := snapshot(t, l.md)
	rng := rand.New(rand.NewPCG(1, 2))
	for range 500 {
		bad := slices.Clone(good)
		bad[rng.IntN(len(bad))] ^= 1 << rng.IntN(8)
		if err := NewMetadata().Restore(raft.SnapshotMeta{Index: 100}, bad); !errors.Is(err, ErrMalformed) {
			t.Fatalf("a flipped bit was believed: %v", err)
		}
		if err := NewMetadata().Restore(raft.SnapshotMeta{Index: 100}, good[:rng.IntN(len(good))]); !errors.Is(err, ErrMalformed) {
			t.Fatalf("a cut snapshot was believed: %v", err)
		}
	}
	if err := NewMetadata().Restore(raft.SnapshotMeta{Index: 1}, good); !errors.Is(err, ErrMalformed) {
		t.Fatalf("a snapshot of a later version was believed: %v", err)
	}
}

func TestVersionWaiters(t *testing.T) {
	l := newLog(t)
	l.found(1)
	v := l.md.Image().Version()
	var got []string
	at := func(name string, version raft.Index) func() {
		return l.md.WhenVersion(version, func(im *Image) { got = append(got, fmt.Sprint(name, im.Version()-v)) })
	}
	at("now", v)
	at("b", v+2)
	at("a", v+1)
	at("a", v+1)
	cancel := at("never", v+1)
	cancel()
	changes := 0
	l.md.OnChange(func(old, now *Image) {
		if old.Version() >= now.Version() {
			t.Errorf("image went from %d to %d", old.Version(), now.Version())
		}
		changes++
	})
	l.do(register(0, 300, ""))
	l.do(register(0, 301, ""))
	if want := []string{"now0", "a1", "a1", "b2"}; !slices.Equal(got, want) || changes != 2 || len(l.md.waiters) != 0 {
		t.Fatalf("called %v, want %v; %d changes, %d waiters left", got, want, changes, len(l.md.waiters))
	}
}

func TestFailureKeepsItsSentinel(t *testing.T) {
	for code, sentinel := range errorCodes {
		f := FailureOf(fmt.Errorf("%w: details", sentinel))
		if f.Code != code || !errors.Is(f.Err(), sentinel) || !strings.HasSuffix(f.Err().Error(), "details") {
			t.Errorf("%s became %+v", code, f)
		}
	}
	if FailureOf(nil).Err() != nil {
		t.Error("no failure is an error")
	}
}

func FuzzDecodeCommand(f *testing.F) {
	for _, c := range []*Command{register(1, 2, "r"), {Request: "x", DeleteTopics: &DeleteTopics{IDs: []TopicID{topicID(1)}}},
		{CreateTopics: &CreateTopics{Brokers: []raft.Member{{ID: 1, Incarnation: 1}}, Topics: []NewTopic{{Name: "a", ID: topicID(1), Replicas: [][]raft.NodeID{{1}}}}}},
		{Found: &FoundCluster{ClusterID: "c", Founder: raft.Member{ID: 1}}},
		{SetConfigs: &SetConfigs{Changes: []ConfigChange{{Kind: ConfigTopic, Topic: topicID(1), Set: map[string]*string{"a": nil}, Was: map[string]*string{"a": new(string)}}, {Kind: ConfigGroup, Name: "g", Set: map[string]*string{}}}}},
		{AddPartitions: &AddPartitions{Brokers: []raft.Member{{ID: 1, Incarnation: 1}}, Topics: []MorePartitions{{Topic: topicID(1), From: 1, Replicas: [][]raft.NodeID{{1}}}}}},
		{AlterQuotas: &AlterQuotas{Entries: []QuotaChange{{QuotaEntity{User: new(string)}, map[string]*float64{"r": new(float64)}}}}}, addBridge("b", topicID(1)),
		{AlterBridge: &AlterBridge{Name: "b", ID: topicID(1), Assign: &BridgeHolder{Node: 1, Epoch: 5, Term: 2}}}} {
		b, err := c.Encode()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := DecodeCommand(b)
		if err != nil {
			if !errors.Is(err, ErrMalformed) {
				t.Fatalf("unexpected kind of error: %v", err)
			}
			return
		}
		again, err := c.Encode()
		if err != nil {
			t.Fatalf("decoded but does not encode: %v", err)
		}
		if _, err := DecodeCommand(again); err != nil {
			t.Fatalf("own encoding is refused: %v", err)
		}
		// Whatever decodes can be applied without a panic, founded or not.
		l := newLog(t)
		l.do(c)
		if c.Found == nil {
			l.found(1)
			l.do(c)
		}
		if err := NewMetadata().Restore(raft.SnapshotMeta{Index: l.md.Image().Version()}, snapshot(t, l.md)); err != nil {
			t.Fatalf("own snapshot is refused: %v", err)
		}
	})
}

func FuzzRestore(f *testing.F) {
	l := newLog(f)
	l.found(2)
	l.create("r", "a", topicID(1), []raft.NodeID{1, 2})
	f.Add(snapshot(f, l.md)[snapshotHeader:])
	f.Fuzz(func(t *testing.T, body []byte) {
		// With a right checksum, so that the fuzzer gets past it.
		b := append([]byte{snapshotVersion, 0, 0, 0, 0, 0, 0, 0}, body...)
		crc := snapshotCRC(b)
		b[4], b[5], b[6], b[7] = byte(crc>>24), byte(crc>>16), byte(crc>>8), byte(crc)
		m := NewMetadata()
		if err := m.Restore(raft.SnapshotMeta{Index: 1 << 40}, b); err != nil {
			return
		}
		again := NewMetadata()
		s := snapshot(t, m)
		if err := again.Restore(raft.SnapshotMeta{Index: m.Image().Version()}, s); err != nil {
			t.Fatalf("own snapshot is refused: %v", err)
		}
		if !bytes.Equal(snapshot(t, again), s) {
			t.Fatal("a snapshot of a restored state differs")
		}
	})
}

// A group that is opened again replays into a state that is ahead of it. A snapshot taken meanwhile would say an index
// at which the state never was, and be refused by every Restore: by the next start of this broker, for one.
func TestNoSnapshotDuringReplay(t *testing.T) {
	l := newLog(t)
	l.found(2)
	l.create("r", "a", topicID(1), []raft.NodeID{1, 2})
	v := l.md.Image().Version()
	if _, err := l.md.Apply([]raft.Entry{{Index: v - 1, Term: 1, Type: raft.EntryNoop}}); err != nil {
		t.Fatal(err)
	}
	if _, err := l.md.Snapshot(); err == nil {
		t.Error("the state of a later entry was given for that of an earlier one")
	}
	if _, err := l.md.Apply([]raft.Entry{{Index: v, Term: 1, Type: raft.EntryNoop}}); err != nil {
		t.Fatal(err)
	}
	if err := NewMetadata().Restore(raft.SnapshotMeta{Index: v}, snapshot(t, l.md)); err != nil {
		t.Error(err)
	}
}

func TestResetPeers(t *testing.T) {
	l := newLog(t)
	l.found(3)
	id := topicID(1)
	l.create("", "t", id, []raft.NodeID{1, 2, 3}, []raft.NodeID{2, 3, 1})
	partition := func() Partition { return l.md.Image().TopicByID(id).Partitions[1] }
	reset := func(epoch raft.GroupEpoch, survivors ...raft.Member) *Result {
		return l.do(&Command{ResetPeers: &ResetPeers{Topic: id, Partition: 1, GroupReset: GroupReset{Epoch: epoch, Term: 7, Leader: survivors[0].ID, Survivors: survivors}}})
	}
	two := raft.Member{ID: 2, Incarnation: 102}
	if r := reset(2, two); !errors.Is(r.Err(), ErrStale) {
		t.Fatalf("an epoch was left out: %v", r.Err())
	}
	if r := reset(1, raft.Member{ID: 2, Incarnation: 99}); !errors.Is(r.Err(), ErrUnknownBroker) {
		t.Fatalf("another disk survives: %v", r.Err())
	}
	before := l.md.Image()
	if r := reset(1, two); r.Err() != nil {
		t.Fatal(r.Err())
	}
	if p := partition(); p.Epoch != 1 || p.Reset == nil || p.Reset.Leader != 2 || len(p.Replicas) != 3 {
		t.Fatalf("%+v", p)
	}
	if before.TopicByID(id).Partitions[1].Epoch != 0 || l.md.Image().TopicByID(id).Partitions[0].Epoch != 0 {
		t.Fatal("an older image, or another partition, has changed")
	}
	if r := reset(1, two); !errors.Is(r.Err(), ErrStale) {
		t.Fatalf("reset twice in one epoch: %v", r.Err())
	}
	// A second reset, of a leader that did not survive the first one, counts; what ends the first is then late.
	if r := reset(2, raft.Member{ID: 3, Incarnation: 103}); r.Err() != nil {
		t.Fatal(r.Err())
	}
	l.do(&Command{ResetDone: &ResetDone{Topic: id, Partition: 1, Epoch: 1}})
	if p := partition(); p.Epoch != 2 || p.Reset == nil {
		t.Fatalf("%+v", p)
	}
	l.do(&Command{ResetDone: &ResetDone{Topic: id, Partition: 1, Epoch: 2}})
	if p := partition(); p.Epoch != 2 || p.Reset != nil {
		t.Fatalf("%+v", p)
	}
	if r := l.do(&Command{ResetDone: &ResetDone{Topic: id, Partition: 2, Epoch: 2}}); !errors.Is(r.Err(), ErrUnknownTopic) {
		t.Fatalf("a partition that is not there: %v", r.Err())
	}
	for _, bad := range []GroupReset{
		{Epoch: 3, Term: 1, Leader: 1, Survivors: []raft.Member{two}},
		{Epoch: 3, Leader: 2, Survivors: []raft.Member{two}},
		{Epoch: 3, Term: 1, Leader: 2, Survivors: []raft.Member{two, two}},
		{Term: 1, Leader: 2, Survivors: []raft.Member{two}},
	} {
		if _, err := (&Command{ResetPeers: &ResetPeers{Topic: id, GroupReset: bad}}).Encode(); !errors.Is(err, ErrMalformed) {
			t.Errorf("%+v: %v", bad, err)
		}
	}
}

package broker

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/balsamq/balsa/coordinator"
	"github.com/balsamq/balsa/internal/vfs"
	"github.com/balsamq/balsa/partition"
	"github.com/balsamq/balsa/protocol"
	"github.com/balsamq/balsa/raft"
	"github.com/balsamq/balsa/raft/transport"
)

// setOf are brokers whose disks are numbered as they are, as in wire.start.
func setOf(ids ...raft.NodeID) (b memberSet) {
	var out []byte
	for _, id := range ids {
		out = appendMember(out, raft.Member{ID: id, Incarnation: raft.Incarnation(id)})
	}
	return memberSet(out)
}

func (s memberSet) list() (out []raft.Member) {
	for m := range s.members {
		out = append(out, m)
	}
	return out
}

func TestWordsRoundTrip(t *testing.T) {
	for _, w := range []*words{
		{entries: []wordEntry{}},
		{seq: 1 << 60, entries: []wordEntry{{2, 1, setOf(1, 2, 3)}, {3, raft.MaxTerm, setOf(9)}, {1 << 50, 7, setOf(1, 2, 3)}}},
	} {
		b := w.encode()
		got, err := decodeWords(b)
		if err != nil || !reflect.DeepEqual(got, w) {
			t.Fatalf("%+v became %+v, %v", w, got, err)
		}
		for i := range b {
			if _, err := decodeWords(b[:i]); !errors.Is(err, errRPC) {
				t.Fatalf("cut at %d: %v", i, err)
			}
		}
		if _, err := decodeWords(append(b, 0)); !errors.Is(err, errRPC) {
			t.Fatalf("bytes behind it: %v", err)
		}
	}
	for name, b := range map[string][]byte{
		"another version":         {2, 0, 0, 0},
		"a set of nobody":         {1, 0, 1, 0, 0},
		"members out of order":    slices.Concat([]byte{1, 0, 1, 2, 3}, make([]byte, 8), []byte{2}, make([]byte, 8), []byte{0}),
		"a set that is not there": {1, 0, 0, 1, 2, 1, 0},
		"the group 0":             slices.Concat([]byte{1, 0, 1, 1, 3}, make([]byte, 8), []byte{1, 0, 1, 0}),
		"the epoch 0":             slices.Concat([]byte{1, 0, 1, 1, 3}, make([]byte, 8), []byte{1, 2, 0, 0}),
	} {
		if w, err := decodeWords(b); !errors.Is(err, errRPC) {
			t.Errorf("%s: %+v, %v", name, w, err)
		}
	}
}

// The bytes are those that brokers of other versions write and read.
func TestWordsAreWrittenAsEver(t *testing.T) {
	const want = "01" + "05" + "01" + "02" + "01" + "0100000000000000" + "03" + "0300000000000000" + "02" + "020700" + "ac020800"
	b := (&words{seq: 5, entries: []wordEntry{{2, 7, setOf(1, 3)}, {300, 8, setOf(1, 3)}}}).encode()
	if got := hex.EncodeToString(b); got != want {
		t.Fatalf("written as %s, want %s", got, want)
	}
	// Heartbeats are what they were before there were words, so that brokers of either version read each other's.
	const beats = "01" + "00" + "0163" + "07" + "0900000000000000" + "03" + "04" + "00" + "06686f73743a31" + "01" + "020701"
	h := &beat{cluster: "c", node: 7, incarnation: 9, boot: 3, image: 4, addr: "host:1", leaders: []leaderEntry{{2, 7, 1}}}
	if got := hex.EncodeToString(h.encode()); got != beats {
		t.Fatalf("a heartbeat is written as %s, want %s", got, beats)
	}
	old, err := hex.DecodeString(beats)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := decodeBeat(old); err != nil || !reflect.DeepEqual(got, h) {
		t.Fatalf("%+v, %v", got, err)
	}
}

func FuzzDecodeWords(f *testing.F) {
	f.Add((&words{seq: 5, entries: []wordEntry{{2, 7, setOf(1, 3)}, {300, 8, setOf(1, 3)}, {301, 8, setOf(3)}}}).encode())
	f.Add([]byte{1, 0, 0xff, 0xff, 0x3f, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		w, err := decodeWords(b)
		if err != nil {
			if !errors.Is(err, errRPC) {
				t.Fatalf("unexpected kind of error: %v", err)
			}
			return
		}
		again, err := decodeWords(w.encode())
		if err != nil || !reflect.DeepEqual(again, w) {
			t.Fatalf("%+v became %+v, %v", w, again, err)
		}
	})
}

func TestWordsTravel(t *testing.T) {
	w := &wire{all: make(map[raft.NodeID]*peers), cut: make(map[raft.NodeID]bool), old: make(map[raft.NodeID]bool)}
	set := func(m map[raft.NodeID]bool, id raft.NodeID, is bool) {
		w.mu.Lock()
		defer w.mu.Unlock()
		m[id] = is
	}
	a, b := w.start(t, 1, 1), w.start(t, 2, 1)
	tell := func(ps *peers, g raft.GroupID, epoch raft.Term, ids ...raft.NodeID) {
		ps.inSync(g, epoch, []byte(setOf(ids...)))
	}
	knows := func(ps *peers, g raft.GroupID, epoch raft.Term, ids ...raft.NodeID) func() bool {
		return func() bool {
			last := ps.words.get(g)
			return last.epoch == epoch && last.set.Value() == setOf(ids...)
		}
	}
	tell(a, 5, 1, 1, 2, 3)
	soon(t, "a word reaches a peer", knows(b, 5, 1, 1, 2, 3))
	tell(a, 5, 1, 1)
	soon(t, "and the next one of the same epoch", knows(b, 5, 1, 1))
	tell(b, 5, 2, 1, 2)
	soon(t, "a later leader's word counts", knows(a, 5, 2, 1, 2))
	tell(a, 5, 1, 1, 2, 3)
	if !knows(a, 5, 2, 1, 2)() {
		t.Fatal("an earlier leader's word counted")
	}

	set(w.cut, 2, true)
	soon(t, "a cut peer is absent", func() bool { return !a.present(2) })
	tell(a, 6, 3, 1, 3)
	set(w.cut, 2, false)
	soon(t, "words wait for a peer that was away", knows(b, 6, 3, 1, 3))
	c := w.start(t, 3, 1)
	soon(t, "a newcomer is told everything", func() bool { return knows(c, 5, 2, 1, 2)() && knows(c, 6, 3, 1, 3)() })
	b.close()
	b2 := w.start(t, 2, 2)
	soon(t, "a restarted peer is told what others have to tell", knows(b2, 6, 3, 1, 3))
	if last := b2.words.get(5); last.epoch != 0 {
		t.Fatalf("somebody told what was another's word: %+v", last)
	}

	// One that leads no more, where there may be no other, says so; what was looked at before that does not count.
	soon(t, "both know who leads", func() bool {
		a.leadership(9, partition.Leadership{Leader: 1, Epoch: 4, Self: true, Ready: true})
		return b2.table.get(9).leader == 1 && c.table.get(9).leader == 1
	})
	tell(a, 9, 4, 1, 2, 3)
	soon(t, "and who is in sync", func() bool { return knows(b2, 9, 4, 1, 2, 3)() && knows(c, 9, 4, 1, 2, 3)() })
	a.leadership(9, partition.Leadership{Epoch: 4})
	tell(a, 9, 4, 1, 2, 3)
	for _, ps := range []*peers{a, b2, c} {
		soon(t, "nobody leads, and it is not in sync", func() bool {
			s := ps.words.get(9).set.Value()
			return ps.table.get(9) == leading{epoch: 4, over: true} && !s.has(raft.Member{ID: 1, Incarnation: 1}) && s.has(raft.Member{ID: 2, Incarnation: 2})
		})
	}
	d0 := w.start(t, 4, 1)
	soon(t, "a newcomer hears it, too", func() bool { return d0.words.get(9).epoch == 4 && d0.words.get(9).set.Value().has(raft.Member{ID: 1}) })
	if l := d0.table.get(9); l.leader != 0 {
		t.Fatalf("a newcomer was told that %d leads", l.leader)
	}
	d0.close()

	// What comes late, or is not the sender's to say.
	from := transport.Caller{Node: 1, Incarnation: 1, Boot: 1}
	c.mu.Lock()
	seq := c.byID[1].wordSeq
	c.mu.Unlock()
	for what, late := range map[string]*words{
		"a call that was overtaken": {seq: seq, entries: []wordEntry{{6, 3, setOf(1)}}},
		"a word on others alone":    {seq: 1 << 40, entries: []wordEntry{{6, 4, setOf(2, 3)}}},
		"with another disk":         {seq: 1 << 41, entries: []wordEntry{{6, 4, memberSet(appendMember(nil, raft.Member{ID: 1, Incarnation: 9}))}}},
	} {
		if err := c.heardWords(from, late); err != nil {
			t.Fatal(err)
		}
		if !knows(c, 6, 3, 1, 3)() {
			t.Errorf("%s counted: %+v", what, c.words.get(6).set.Value().list())
		}
	}
	from.Boot = 2
	if err := c.heardWords(from, &words{seq: 1 << 50}); err == nil {
		t.Error("a start that has sent no heartbeat was listened to: the order of its calls cannot be known")
	}

	// A broker of the version before hears heartbeats and nothing else. Its next life is of this version.
	set(w.old, 4, true)
	d := w.start(t, 4, 2)
	a.learn(4, "addr")
	hears := func() (h hearing, waiting int) {
		a.mu.Lock()
		defer a.mu.Unlock()
		if p := a.byID[4]; p != nil {
			return p.hearing, len(p.words)
		}
		return hearingUnknown, 0
	}
	soon(t, "it is known not to listen", func() bool { h, _ := hears(); return h == hearingNothing })
	tell(a, 7, 1, 1, 4)
	if _, waiting := hears(); waiting != 0 || !a.present(4) {
		t.Fatalf("%d words wait for who does not listen", waiting)
	}
	a.leadership(8, partition.Leadership{Leader: 1, Epoch: 1, Self: true, Ready: true})
	soon(t, "it hears who leads", func() bool { return d.table.get(8).leader == 1 })
	d.close()
	set(w.old, 4, false)
	d = w.start(t, 4, 3)
	soon(t, "it is told everything when it listens", func() bool { return knows(d, 6, 3, 1, 3)() && knows(d, 7, 1, 1, 4)() })
}

func TestManyWordsTravelInPieces(t *testing.T) {
	w := &wire{all: make(map[raft.NodeID]*peers), cut: make(map[raft.NodeID]bool)}
	a := w.start(t, 1, 1)
	const n = 2*maxWords + 10
	for g := range raft.GroupID(n) {
		a.inSync(g+2, 1, []byte(setOf(1, raft.NodeID(2+g%5))))
	}
	b := w.start(t, 2, 1)
	soon(t, "all of them arrive", func() bool { return len(b.words.of(1)) == n })
}

// What an earlier disk of a broker answers says nothing of the one that it has now, whose starts are counted anew.
func TestWordsForAnotherDisk(t *testing.T) {
	ps := (&wire{all: make(map[raft.NodeID]*peers), cut: make(map[raft.NodeID]bool)}).start(t, 1, 1)
	ps.close()
	ps.took(&beat{cluster: "c", node: 2, incarnation: 2, boot: 1})
	p := ps.byID[2]
	p.heardAt = time.Now().Add(time.Hour)
	ps.inSync(5, 1, []byte(setOf(1, 2)))
	ps.cfg.caller = callerFunc(func() ([]byte, error) {
		ps.took(&beat{cluster: "c", node: 2, incarnation: 22, boot: 1})
		return nil, &transport.RPCError{Code: transport.CodeUnknownMethod, Msg: "method 11"}
	})
	if more := ps.tell(t.Context(), p); !more || p.hearing != hearingUnknown || len(p.words) != 1 {
		t.Fatalf("more to tell: %v, hearing %d, %d words wait", more, p.hearing, len(p.words))
	}
}

// callerFunc answers any call.
type callerFunc func() ([]byte, error)

func (f callerFunc) Call(context.Context, raft.NodeID, uint16, []byte) ([]byte, error) { return f() }

// What nobody can be told any more does not wait for a broker that is gone for good.
func TestWordsOfDeletedGroupsDoNotWait(t *testing.T) {
	back := newFakeBackend(t)
	ps := (&wire{all: make(map[raft.NodeID]*peers), cut: map[raft.NodeID]bool{1: true}}).start(t, 1, 1)
	ps.close()
	ps.cfg.image = back.Image
	before := back.Image()
	created := back.apply(&coordinator.Command{CreateTopics: &coordinator.CreateTopics{Brokers: []raft.Member{before.Brokers()[0].Member()},
		Topics: []coordinator.NewTopic{{Name: "t", ID: coordinator.TopicID{1}, Replicas: [][]raft.NodeID{{1}}}, {Name: "kept", ID: coordinator.TopicID{2}, Replicas: [][]raft.NodeID{{1}}}}}})
	for _, res := range created.Topics {
		if err := res.Err(); err != nil {
			t.Fatal(err)
		}
	}
	ps.imageChanged(before, back.Image())
	before = back.Image()
	kept := before.Topic("kept").Partitions[0].Group
	for _, g := range []raft.GroupID{before.Topic("t").Partitions[0].Group, kept} {
		ps.leadership(g, partition.Leadership{Leader: 1, Epoch: 1, Self: true, Ready: true})
		ps.inSync(g, 1, []byte(setOf(1)))
	}
	p := ps.byID[2]
	if len(p.news) != 2 || len(p.words) != 2 {
		t.Fatalf("%d news and %d words wait", len(p.news), len(p.words))
	}
	back.apply(&coordinator.Command{DeleteTopics: &coordinator.DeleteTopics{IDs: []coordinator.TopicID{{1}}}})
	ps.imageChanged(before, back.Image())
	is := map[raft.GroupID]struct{}{kept: {}}
	if !maps.Equal(p.news, is) || !maps.Equal(p.words, is) {
		t.Fatalf("news of %v and words on %v wait, where only %d is left", p.news, p.words, kept)
	}
}

// What a broker says of a partition that it does not lead: what it was told, and not more.
func TestInSyncByHearsay(t *testing.T) {
	back := newFakeBackend(t)
	for id := raft.NodeID(1); id <= 4; id++ {
		back.apply(&coordinator.Command{Register: &coordinator.RegisterBroker{Node: id, Incarnation: 10 + raft.Incarnation(id),
			Endpoints: []coordinator.Endpoint{{Listener: "PLAINTEXT", Host: "h", Port: 1}}, RPC: "h:2"}})
	}
	var members []raft.Member
	for _, b := range back.Image().Brokers() {
		members = append(members, b.Member())
	}
	res := back.apply(&coordinator.Command{CreateTopics: &coordinator.CreateTopics{Brokers: members, Topics: []coordinator.NewTopic{{Name: "t", ID: coordinator.TopicID{1}, Replicas: [][]raft.NodeID{{1, 2, 3}}}}}})
	if err := res.Topics[0].Err(); err != nil {
		t.Fatal(err)
	}
	part := &back.Image().Topic("t").Partitions[0]
	g := part.Group
	set := func(ids ...raft.NodeID) []byte {
		var b []byte
		for _, id := range ids {
			b = appendMember(b, back.Image().Broker(id).Member())
		}
		return b
	}
	for _, tc := range []struct {
		name   string
		before func(ps *peers)
		want   []raft.NodeID
	}{
		{"nobody has said anything", func(*peers) {}, nil},
		{"a leader that has not told", func(ps *peers) { ps.table.told(leaderEntry{g, 2, 5}) }, []raft.NodeID{2}},
		{"a leader that has told", func(ps *peers) {
			ps.table.told(leaderEntry{g, 2, 5})
			ps.hear(2, wordEntry{g, 5, memberSet(set(1, 2))})
		}, []raft.NodeID{1, 2}},
		{"no leader is left, and what it told", func(ps *peers) { ps.hear(2, wordEntry{g, 5, memberSet(set(1, 2, 3))}) }, []raft.NodeID{1, 2, 3}},
		{"the next leader has not told yet", func(ps *peers) {
			ps.hear(2, wordEntry{g, 5, memberSet(set(1, 2))})
			ps.table.told(leaderEntry{g, 3, 6})
		}, []raft.NodeID{1, 2, 3}},
		{"a word that an election overtook", func(ps *peers) {
			ps.table.told(leaderEntry{g, 3, 6})
			ps.hear(2, wordEntry{g, 5, memberSet(set(1, 2))})
		}, []raft.NodeID{3}},
		{"one has been silent since", func(ps *peers) {
			ps.hear(2, wordEntry{g, 5, memberSet(set(1, 2, 3))})
			ps.byID[3].heardAt = time.Now().Add(-time.Hour)
		}, []raft.NodeID{1, 2}},
		{"the leader is silent", func(ps *peers) {
			ps.table.told(leaderEntry{g, 2, 6})
			ps.byID[2].heardAt = time.Now().Add(-time.Hour)
		}, nil},
		{"of a disk that has been replaced", func(ps *peers) {
			set := appendMember(nil, raft.Member{ID: 1, Incarnation: 99})
			ps.hear(2, wordEntry{g, 5, memberSet(append(set, set1(back, 2)...))})
		}, []raft.NodeID{2}},
		{"of who has no replica any more", func(ps *peers) { ps.hear(2, wordEntry{g, 5, memberSet(set(2, 4))}) }, []raft.NodeID{2}},
		{"the next leader runs a version that does not tell", func(ps *peers) {
			ps.hear(2, wordEntry{g, 5, memberSet(set(1, 2))})
			ps.table.told(leaderEntry{g, 3, 6})
			ps.byID[3].hearing = hearingNothing
		}, []raft.NodeID{3}},
		{"this broker has led, and nobody else since", func(ps *peers) { ps.inSync(g, 5, set(1, 3)) }, []raft.NodeID{1, 3}},
		{"the leader comes back with another disk", func(ps *peers) {
			ps.table.told(leaderEntry{g, 2, 5})
			ps.byID[2].inc = 77
			ps.took(&beat{node: 2, incarnation: 12, boot: 1})
		}, nil},
		{"the leader answers, and does not come through", func(ps *peers) {
			ps.table.told(leaderEntry{g, 2, 5})
			ps.hear(2, wordEntry{g, 5, memberSet(set(1, 2, 3))})
			ps.byID[2].spokeAt = time.Now().Add(-time.Hour)
		}, []raft.NodeID{2}},
		{"this broker hears nobody", func(ps *peers) {
			ps.table.told(leaderEntry{g, 2, 5})
			ps.hear(2, wordEntry{g, 5, memberSet(set(1, 2, 3))})
			for id := raft.NodeID(2); id <= 4; id++ {
				ps.byID[id].heardAt = time.Now().Add(-time.Hour)
			}
		}, nil},
		{"the leader is gone, and a majority is there", func(ps *peers) {
			ps.table.told(leaderEntry{g, 2, 5})
			ps.hear(2, wordEntry{g, 5, memberSet(set(1, 2, 3))})
			ps.byID[2].heardAt = time.Now().Add(-time.Hour)
		}, []raft.NodeID{1, 3}},
		{"the leader has said that it leads no more", func(ps *peers) {
			ps.table.told(leaderEntry{g, 2, 5})
			ps.hear(2, wordEntry{g, 5, memberSet(set(1, 2))})
			ps.hear(2, wordEntry{g, 5, memberSet(append(set(1), appendMember(nil, raft.Member{ID: 2})...))})
		}, []raft.NodeID{1}},
		{"and another one was elected", func(ps *peers) {
			ps.table.told(leaderEntry{g, 2, 5})
			ps.hear(2, wordEntry{g, 5, memberSet(append(set(1), appendMember(nil, raft.Member{ID: 2})...))})
			ps.table.told(leaderEntry{g, 3, 6})
		}, []raft.NodeID{1, 3}},
	} {
		ps := (&wire{all: make(map[raft.NodeID]*peers), cut: map[raft.NodeID]bool{1: true}}).start(t, 1, 1) // it hears what it is told here
		ps.close()
		ps.cfg.image = back.Image
		for id := raft.NodeID(2); id <= 4; id++ {
			ps.took(&beat{node: id, incarnation: 10 + raft.Incarnation(id), boot: 1})
			ps.byID[id].heardAt = time.Now().Add(time.Hour) // for as long as this takes
		}
		tc.before(ps)
		if got := ps.inSyncOf(back.Image(), part); !slices.Equal(got, tc.want) {
			t.Errorf("%s: %v, want %v", tc.name, got, tc.want)
		}
	}
	// A fenced one is dead to everybody, whatever this broker heard from it.
	ps := (&wire{all: make(map[raft.NodeID]*peers), cut: map[raft.NodeID]bool{1: true}}).start(t, 1, 1)
	ps.close()
	ps.cfg.image = back.Image
	for id := raft.NodeID(2); id <= 3; id++ {
		ps.took(&beat{node: id, incarnation: 10 + raft.Incarnation(id), boot: 1})
		ps.byID[id].heardAt = time.Now().Add(time.Hour)
	}
	ps.hear(2, wordEntry{g, 5, memberSet(set(1, 2, 3))})
	back.apply(&coordinator.Command{Fence: &coordinator.FenceBroker{Node: 3, Epoch: back.Image().Broker(3).Epoch, Fenced: true}})
	if got := ps.inSyncOf(back.Image(), part); !slices.Equal(got, []raft.NodeID{1, 2}) {
		t.Errorf("one is fenced: %v", got)
	}
}

func set1(back *fakeBackend, id raft.NodeID) []byte {
	return appendMember(nil, back.Image().Broker(id).Member())
}

// hear takes a word of a broker's first start.
func (ps *peers) hear(from raft.NodeID, e wordEntry) {
	inc := ps.byID[from].inc
	defer func() { ps.byID[from].spokeAt = time.Now().Add(time.Hour) }()
	if err := ps.heardWords(transport.Caller{Node: from, Incarnation: inc, Boot: 1}, &words{seq: ps.byID[from].wordSeq + 1, entries: []wordEntry{e}}); err != nil {
		panic(err)
	}
}

// asked is what brokers say of a partition's replicas in sync, by Kafka's two ways to ask.
type asked struct {
	t       *testing.T
	clients map[string]*kgo.Client
}

func (a *asked) inSync(n *node, topic string) []int32 {
	a.t.Helper()
	cl := a.clients[n.KafkaAddr()]
	if cl == nil {
		var err error
		if cl, err = kgo.NewClient(kgo.SeedBrokers(n.KafkaAddr()), kgo.DisableClientMetrics()); err != nil {
			a.t.Fatal(err)
		}
		a.t.Cleanup(cl.Close)
		a.clients[n.KafkaAddr()] = cl
	}
	seed := cl.SeedBrokers()[0]
	req := kmsg.NewPtrMetadataRequest()
	rt := kmsg.NewMetadataRequestTopic()
	rt.Topic = &topic
	req.Topics = append(req.Topics, rt)
	resp, err := req.RequestWith(a.t.Context(), seed)
	if err != nil || len(resp.Topics) != 1 || len(resp.Topics[0].Partitions) != 1 {
		return nil // it has just been started
	}
	one := slices.Sorted(slices.Values(resp.Topics[0].Partitions[0].ISR))
	dreq := kmsg.NewPtrDescribeTopicPartitionsRequest()
	dt := kmsg.NewDescribeTopicPartitionsRequestTopic()
	dt.Topic, dreq.ResponsePartitionLimit = topic, 10
	dreq.Topics = append(dreq.Topics, dt)
	dresp, err := dreq.RequestWith(a.t.Context(), seed)
	if err != nil || len(dresp.Topics) != 1 || len(dresp.Topics[0].Partitions) != 1 {
		return nil
	}
	other := slices.Sorted(slices.Values(dresp.Topics[0].Partitions[0].ISR))
	if !slices.Equal(one, other) {
		return nil // it has changed in between
	}
	return one
}

// The only replica's log fails for good, and nobody else can lead: each broker says so, with the last epoch, where only the leader knew.
func TestLeaderWhoseLogHasFailed(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 3, true)
	var failing [3]atomic.Pointer[string] // the directory whose files do not sync
	for i, n := range c.nodes {
		n.cfg.FS = vfs.Inject(n.cfg.FS, func(op vfs.Op, name string) error {
			if dir := failing[i].Load(); dir != nil && op == vfs.OpSync && strings.HasPrefix(name, *dir) {
				return errors.New("the disk has failed")
			}
			return nil
		})
	}
	c.start(c.nodes...)
	c.awaitVoters(3)
	id := c.nodes[0].mustCreate(t, "a", 1, 1)
	everywhere := func(what string, is func(n *node, leader raft.NodeID, epoch int32, isr []raft.NodeID) bool) {
		t.Helper()
		for _, n := range c.nodes {
			soon(t, what, func() bool {
				leader, epoch, _ := n.Leader(id, 0)
				return is(n, leader, epoch, n.InSync(id, 0))
			})
		}
	}
	lead := c.leaderOf("a", 0)
	everywhere("each broker knows the leader", func(_ *node, leader raft.NodeID, _ int32, isr []raft.NodeID) bool {
		return leader == lead.NodeID() && slices.Equal(isr, []raft.NodeID{leader})
	})
	g, _ := lead.group(id, 0)
	dir := lead.store.groupDir(g)
	failing[slices.Index(c.nodes, lead)].Store(&dir)
	lead.rec.replica(g).Append(&partition.AppendRequest{Batch: protocol.BuildBatch([]protocol.Record{{Value: []byte("x")}}, protocol.NewBatchOptions()), Acks: -1,
		Done: func(partition.AppendResult) {}})
	everywhere("each broker says that nobody leads, nor is in sync", func(n *node, leader raft.NodeID, epoch int32, isr []raft.NodeID) bool {
		return leader == 0 && epoch > 0 && (len(isr) == 0 || n == lead) // which leads for a moment each time it is opened
	})
	failing[slices.Index(c.nodes, lead)].Store(nil)
	everywhere("it serves again", func(_ *node, leader raft.NodeID, _ int32, isr []raft.NodeID) bool {
		return leader == lead.NodeID() && slices.Equal(isr, []raft.NodeID{leader})
	})
}

// Each broker, whether it leads or not, says who is in sync: not a broker that is down, nor one with a new disk before it has everything, also
// where there is no leader; and at last all.
func TestInSyncFromAnyBroker(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 3, true)
	for _, n := range c.nodes {
		n.cfg.MoveRate = 1000 // one message of a megabyte, and then nothing for a quarter of an hour
	}
	c.start(c.nodes...)
	c.awaitVoters(3)
	c.fixed()
	wiped := c.nodes[2]
	id := wiped.NodeID()
	var rest []raft.NodeID
	var all, others []int32
	for _, n := range c.nodes {
		if all = append(all, int32(n.NodeID())); n != wiped {
			rest, others = append(rest, n.NodeID()), append(others, int32(n.NodeID()))
		}
	}
	slices.Sort(all)
	slices.Sort(others)
	c.nodes[0].assign(t, "a", append(rest, id))
	a := &asked{t, make(map[string]*kgo.Client)}
	everyone := func(when string, want []int32) {
		t.Helper()
		var last []string
		defer func() {
			if t.Failed() {
				t.Log(last)
			}
		}()
		soon(t, fmt.Sprintf("each broker says that %v are in sync, %s", want, when), func() bool {
			last = last[:0]
			same := true
			for _, n := range c.running() {
				got := a.inSync(n, "a")
				last = append(last, fmt.Sprintf("broker %d says %v", n.NodeID(), got))
				same = same && slices.Equal(got, want)
				if !slices.Contains(want, int32(id)) && n != wiped && slices.Contains(got, int32(id)) && wiped.Broker != nil {
					t.Fatalf("%s: broker %d says that %v are in sync", when, n.NodeID(), got)
				}
			}
			return same
		})
	}
	everyone("when the topic is new", all)
	l := c.startLoad("a")
	l.burst(3 << 20)
	old := wiped.self()
	c.stop(wiped)
	everyone("while one is down", others)
	l.more("while one is down", 50)
	c.dead(old.ID)
	wiped.cfg.FS, wiped.cfg.HardStates, wiped.cfg.NodeID = vfs.NewMem(77), &memStore{m: make(map[raft.GroupID]raft.HardState)}, int32(id)
	wiped.cfg.ReplaceDisk = fmt.Sprintf("%016x", uint64(old.Incarnation))
	c.start(wiped)
	group := wiped.Image().Topic("a").Partitions[0].Group
	soon(t, "the new disk is to be filled", func() bool {
		rep := wiped.rec.replica(group)
		return rep != nil && rep.Raft() != nil && len(c.leaderOf("a", 0).rec.replica(group).Raft().Status().Conf.Learners) > 0
	})
	everyone("while it is being filled", others)
	leader := c.leaderOf("a", 0)
	left := int32(c.nodes[0].NodeID())
	if leader == c.nodes[0] {
		left = int32(c.nodes[1].NodeID())
	}
	c.stop(leader)
	everyone("where nobody leads", []int32{left})
	for _, n := range c.nodes {
		if n != wiped {
			c.stop(n)
			n.cfg.MoveRate = 0
		}
	}
	c.start(c.nodes[:2]...)
	everyone("when it has everything", all)
	l.more("after all", 50)
	l.stop(c)
}

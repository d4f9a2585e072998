package broker

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/balsamq/balsa/coordinator"
	"github.com/balsamq/balsa/internal/vfs"
	"github.com/balsamq/balsa/partition"
	"github.com/balsamq/balsa/raft"
	"github.com/balsamq/balsa/raft/transport"
)

func TestLeaderTableHighestEpochWins(t *testing.T) {
	tab := &leaderTable{self: 1, m: make(map[raft.GroupID]leading)}
	over := false
	is := func(leader raft.NodeID, epoch raft.Term, ready bool) {
		t.Helper()
		if got := tab.get(5); got != (leading{leader: leader, epoch: epoch, ready: ready, over: over}) {
			t.Fatalf("table says %+v, want %d in %d ready %v", got, leader, epoch, ready)
		}
	}
	observe := func(leader raft.NodeID, epoch int32, ready bool) (bool, bool) {
		ready, _, news := tab.observed(5, partition.Leadership{Leader: leader, Epoch: epoch, Self: leader == 1, Ready: ready})
		return ready, news
	}
	tab.told(leaderEntry{5, 2, 7})
	is(2, 7, true)
	if tab.told(leaderEntry{5, 3, 6}) {
		t.Fatal("an older epoch was news")
	}
	is(2, 7, true)
	if _, news := observe(2, 7, false); news {
		t.Fatal("what is known already was news")
	}
	is(2, 7, true)
	observe(0, 8, false) // an election under way: the last known leader is still the best answer
	is(2, 7, true)
	observe(3, 8, false)
	is(3, 8, false)
	tab.told(leaderEntry{5, 3, 8})
	is(3, 8, true)
	observe(1, 9, false) // leads, but not ready
	is(3, 8, true)
	if ready, news := observe(1, 9, true); !ready || !news {
		t.Fatal("becoming ready is no news")
	}
	is(1, 9, true)
	if !slices.Equal(tab.led(), []raft.GroupID{5}) {
		t.Fatalf("led %v", tab.led())
	}
	observe(0, 9, false) // failed or deposed
	over = true
	is(0, 9, false)
	if len(tab.led()) != 0 {
		t.Fatal("leads what it does not lead")
	}
	over = false
	tab.told(leaderEntry{5, 2, 10})
	is(2, 10, true)
	// Who leads no more is not believed in again in that epoch, whoever says so late.
	if !tab.ended(5, 2, 10) || tab.told(leaderEntry{5, 2, 10}) {
		t.Fatal("news of a leader that leads no more")
	}
	observe(2, 10, false)
	over = true
	is(0, 10, false)
	over = false
	observe(3, 11, false)
	is(3, 11, false)
	tab.forget(func(g raft.GroupID) bool { return g == 5 })
	is(0, 0, false)
}

// wire connects peers of several brokers in memory; what is in cut is lost.
type wire struct {
	mu  sync.Mutex
	all map[raft.NodeID]*peers
	cut map[raft.NodeID]bool
	old map[raft.NodeID]bool // they know of heartbeats only
}

type wireCaller struct {
	w    *wire
	from raft.NodeID
}

func (c wireCaller) Call(_ context.Context, to raft.NodeID, method uint16, body []byte) ([]byte, error) {
	c.w.mu.Lock()
	p, self := c.w.all[to], c.w.all[c.from]
	lost := c.w.cut[to] || c.w.cut[c.from] || p == nil
	old := c.w.old[to]
	c.w.mu.Unlock()
	if lost {
		return nil, errors.New("lost")
	}
	if method == methodInSync {
		if old {
			return nil, &transport.RPCError{Code: transport.CodeUnknownMethod, Msg: "method 11"}
		}
		ws, err := decodeWords(body)
		if err != nil {
			return nil, err
		}
		id := self.cfg.self
		return []byte{rpcVersion}, p.heardWords(transport.Caller{Node: id.NodeID, Incarnation: id.Incarnation, Boot: id.Boots}, ws)
	}
	h, err := decodeBeat(body)
	if err != nil {
		return nil, err
	}
	return p.heard(h).encode(), nil
}

func (w *wire) start(t *testing.T, id raft.NodeID, boot uint64) *peers {
	md := coordinator.NewMetadata()
	ps := newPeers(peersConfig{self: &identity{ClusterID: "c", NodeID: id, Incarnation: raft.Incarnation(id), Boots: boot}, addr: "addr",
		interval: 5 * time.Millisecond, timeout: 50 * time.Millisecond, caller: wireCaller{w, id}, setAddr: func(raft.NodeID, string) {},
		image: md.Image, epochs: func() (own, settled raft.GroupEpoch) { return 0, 0 }, heard: func(raft.NodeID, raft.Incarnation) {}, ask: func(context.Context, raft.NodeID) error { return nil }, log: slog.New(slog.DiscardHandler)})
	w.mu.Lock()
	w.all[id] = ps
	w.mu.Unlock()
	t.Cleanup(ps.close)
	for other := range raft.NodeID(4) {
		ps.learn(other, "addr")
	}
	return ps
}

// soon polls; it fails the test after a time that no healthy machine needs, however much else it does.
func soon(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline.C:
			t.Fatalf("%s: not within %v", what, patience)
		case <-tick.C:
		}
	}
}

func TestLeadershipTravels(t *testing.T) {
	w := &wire{all: make(map[raft.NodeID]*peers), cut: make(map[raft.NodeID]bool)}
	a, b := w.start(t, 1, 1), w.start(t, 2, 1)
	lead := func(ps *peers, g raft.GroupID, epoch int32) {
		ps.leadership(g, partition.Leadership{Leader: ps.cfg.self.NodeID, Epoch: epoch, Self: true, Ready: true})
	}
	lead(a, 5, 1)
	soon(t, "news reach a peer", func() bool { return b.table.get(5) == leading{leader: 1, epoch: 1, ready: true} })

	w.mu.Lock()
	w.cut[2] = true
	w.mu.Unlock()
	soon(t, "a cut peer is absent", func() bool { return !a.present(2) })
	lead(a, 6, 3)
	w.mu.Lock()
	w.cut[2] = false
	w.mu.Unlock()
	soon(t, "news wait for a peer that was away", func() bool { return b.table.get(6) == leading{leader: 1, epoch: 3, ready: true} })
	soon(t, "a peer that has answered is present", func() bool { return a.present(2) })

	c := w.start(t, 3, 1)
	soon(t, "a newcomer is told everything", func() bool { return c.table.get(5).leader == 1 && c.table.get(6).leader == 1 })
	b.close()
	b2 := w.start(t, 2, 2)
	soon(t, "a restarted peer is told everything", func() bool { return b2.table.get(5).leader == 1 && b2.table.get(6).leader == 1 })
	// What its earlier life still had on the way does not count.
	a.heard(&beat{cluster: "c", node: 2, incarnation: 2, boot: 1, image: 99})
	if len(a.withImage(99)) != 0 {
		t.Error("an earlier boot's heartbeat counted")
	}
}

func TestManyLeadersTravelInPieces(t *testing.T) {
	w := &wire{all: make(map[raft.NodeID]*peers), cut: make(map[raft.NodeID]bool)}
	a := w.start(t, 1, 1)
	const n = 2*maxBeatLeaders + 10
	for g := range raft.GroupID(n) {
		a.leadership(g+2, partition.Leadership{Leader: 1, Epoch: 1, Self: true, Ready: true})
	}
	b := w.start(t, 2, 1)
	soon(t, "all of them arrive", func() bool {
		b.table.mu.RLock()
		defer b.table.mu.RUnlock()
		return len(b.table.m) == n
	})
}

// The leader that is waited for has been succeeded before anybody looks: that it led is known all the same.
func TestAwaitLeaderThatWasSucceeded(t *testing.T) {
	w := &wire{all: make(map[raft.NodeID]*peers), cut: make(map[raft.NodeID]bool)}
	b := &Broker{peers: w.start(t, 1, 1)}
	b.peers.leadership(5, partition.Leadership{Leader: 1, Epoch: 9, Self: true, Ready: true}) // 2 led in epoch 8
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := b.awaitLeader(ctx, 5, 2, 7); err != nil {
		t.Fatal(err)
	}
}

// A directory that was put back as it had been two starts, or one start, ago is noticed, and stays noticed; its owner's later starts are not refused.
func TestOldCopy(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 3, true)
	c.start(c.nodes...)
	c.awaitVoters(3)
	n := c.node(3)
	if n.cfg.Join == nil {
		n = c.node(2)
	}
	again := func(fs vfs.FS) error {
		t.Helper()
		cfg := n.cfg
		cfg.FS = fs
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		b, err := Start(ctx, cfg)
		if err != nil {
			return err
		}
		defer b.Close()
		select { // it may be up before anybody has answered
		case err = <-b.Fatal():
		case <-ctx.Done():
		}
		return err
	}
	copied := func() *vfs.Mem { return n.cfg.FS.(*vfs.Mem).CrashClone(rand.New(rand.NewPCG(1, 1))) }
	c.stop(n)
	two := copied()
	c.start(n)
	c.stop(n)
	one := copied()
	c.start(n)
	boots := n.store.id.Boots
	heard := func(others ...*node) {
		t.Helper()
		for _, o := range others {
			soon(t, "the start is known", func() bool {
				return slices.ContainsFunc(o.peers.known(), func(k knownPeer) bool { return k.ID == n.NodeID() && k.Boot == boots && k.Life != 0 })
			})
		}
	}
	var others []*node
	for _, o := range c.nodes {
		if o != n {
			others = append(others, o)
		}
	}
	heard(others...)
	c.stop(n)
	for i, fs := range []*vfs.Mem{two, one, one} {
		if err := again(fs); !errors.Is(err, ErrDataDir) || !strings.Contains(err.Error(), "older copy") {
			t.Fatalf("copy %d was taken: %v", i, err)
		}
	}
	c.start(n)
	boots++
	heard(others...)
	c.stop(n)
	// Those who know it remember over their own starts.
	old := copied()
	c.start(n)
	boots++
	heard(others...)
	for _, o := range others {
		soon(t, "it is written down", func() bool {
			return slices.ContainsFunc(o.store.loadPeers(), func(k knownPeer) bool { return k.ID == n.NodeID() && k.Boot == boots && k.Life != 0 })
		})
	}
	c.stop(c.nodes...)
	c.start(others...)
	if err := again(old); !errors.Is(err, ErrDataDir) || !strings.Contains(err.Error(), "older copy") {
		t.Fatalf("the copy was taken by brokers that had started anew: %v", err)
	}
	c.start(n)
	c.awaitVoters(3)
}

// Who asks about a start of its directory is told of another one at or after it, and of no other.
func TestPast(t *testing.T) {
	t.Parallel()
	const inc = 7
	start := func(boot, life uint64) *joinRequest {
		return &joinRequest{Broker: coordinator.RegisterBroker{Node: 2, Incarnation: inc}, Member: true, Boot: boot, Life: life}
	}
	type question struct {
		q    *joinRequest
		want uint64
	}
	for name, tc := range map[string]struct {
		known []knownPeer
		heard []*beat
		asked []question
	}{
		"a question that is asked again":                {asked: []question{{start(3, 1), 0}, {start(3, 1), 0}}},
		"starts that tell nobody else of themselves":    {asked: []question{{start(3, 1), 0}, {start(7, 2), 0}}},
		"the question of an earlier start comes late":   {asked: []question{{start(4, 2), 0}, {start(3, 1), 4}, {start(4, 2), 0}, {start(5, 3), 0}}},
		"the count comes again":                         {asked: []question{{start(4, 1), 0}, {start(4, 2), 4}, {start(5, 3), 0}}},
		"a heartbeat was heard before":                  {heard: []*beat{{node: 2, incarnation: inc, boot: 4}}, asked: []question{{start(4, 1), 0}, {start(3, 2), 4}}},
		"a heartbeat of an earlier start":               {heard: []*beat{{node: 2, incarnation: inc, boot: 3}}, asked: []question{{start(4, 1), 0}}},
		"of another disk":                               {heard: []*beat{{node: 2, incarnation: 8, boot: 9}}, asked: []question{{start(1, 1), 0}}},
		"remembered":                                    {known: []knownPeer{{peerAddr{2, "b"}, inc, 4, 1}}, asked: []question{{start(3, 2), 4}, {start(4, 2), 4}, {start(5, 3), 0}}},
		"remembered by a version that knew no question": {known: []knownPeer{{peerAddr: peerAddr{2, "b"}}}, asked: []question{{start(1, 1), 0}}},
		"remembered of a start that did not ask":        {known: []knownPeer{{peerAddr{2, "b"}, inc, 4, 0}}, asked: []question{{start(4, 1), 0}, {start(3, 1), 4}}},
		"who does not say which start it is":            {known: []knownPeer{{peerAddr{2, "b"}, inc, 4, 1}}, asked: []question{{start(0, 0), 0}}},
		"nobody":                                        {asked: []question{{&joinRequest{Member: true, Boot: 1, Life: 1}, 0}}},
	} {
		ps := (&wire{all: make(map[raft.NodeID]*peers), cut: make(map[raft.NodeID]bool)}).start(t, 1, 1)
		for i := range tc.known {
			ps.remember(&tc.known[i])
		}
		for _, h := range tc.heard {
			ps.took(h)
		}
		for i, a := range tc.asked {
			if got := ps.past(a.q); got != a.want {
				t.Errorf("%s: question %d: start %d is known, want %d", name, i, got, a.want)
			}
		}
		ps.mu.Lock()
		if ps.byID[0] != nil {
			t.Errorf("%s: there is a broker without a number", name)
		}
		ps.mu.Unlock()
	}
}

// Two and more transports on loopback: lanes, order, reconnects, snapshots, refusals, strangers.

package transport

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/balsamq/balsa/raft"
	"github.com/balsamq/balsa/raft/multi"
)

const patience = 2 * time.Minute

// eventually polls; it says nothing about time but that patience is enough.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); {
		if time.Now().After(deadline) {
			t.Fatalf("did not happen: %s", what)
		}
		time.Sleep(time.Millisecond)
	}
}

// book is a cluster's address book.
type book struct {
	mu    sync.Mutex
	addrs map[raft.NodeID]string
}

func (b *book) set(id raft.NodeID, addr string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.addrs[id] = addr
}

func (b *book) resolve(id raft.NodeID) (string, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	a, ok := b.addrs[id]
	return a, ok
}

// node is a transport with a memory of what it got.
type node struct {
	*Transport
	mu          sync.Mutex
	msgs        []raft.Message
	pairs       []*multi.PairMessage
	chunks      []*multi.ChunkMessage
	unreachable atomic.Int64
	logs        *lockedBuffer
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func (n *node) got(t raft.MessageType) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	c := 0
	for i := range n.msgs {
		if n.msgs[i].Type == t {
			c++
		}
	}
	return c
}

var testCluster = ClusterID{1, 2, 3}

func start(t testing.TB, b *book, id raft.NodeID, change func(*Options)) *node {
	t.Helper()
	n := &node{logs: &lockedBuffer{}}
	o := Options{
		ClusterID: testCluster, Self: raft.Member{ID: id, Incarnation: raft.Incarnation(id) * 11}, Boot: 1,
		ListenAddr: "127.0.0.1:0", Resolve: b.resolve,
		Deliver: func(ms []raft.Message) {
			n.mu.Lock()
			defer n.mu.Unlock()
			n.msgs = append(n.msgs, ms...)
		},
		DeliverChunk: func(_ raft.NodeID, m *multi.ChunkMessage) {
			n.mu.Lock()
			defer n.mu.Unlock()
			n.chunks = append(n.chunks, m)
		},
		DeliverPair: func(_ raft.NodeID, m *multi.PairMessage) {
			n.mu.Lock()
			defer n.mu.Unlock()
			n.pairs = append(n.pairs, m)
		},
		OnUnreachable: func(raft.NodeID) { n.unreachable.Add(1) },
		Logger:        slog.New(slog.NewTextHandler(n.logs, &slog.HandlerOptions{Level: slog.LevelDebug})),
		BackoffMin:    time.Millisecond, BackoffMax: 20 * time.Millisecond, PingInterval: 20 * time.Millisecond,
	}
	if change != nil {
		change(&o)
	}
	tr, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	n.Transport = tr
	tr.Start()
	if id != 0 && tr.Addr() != nil {
		b.set(id, tr.Addr().String())
	}
	t.Cleanup(func() { _ = tr.Close() })
	return n
}

func newBook() *book { return &book{addrs: make(map[raft.NodeID]string)} }

func vote(from, to raft.NodeID, round uint64) raft.Message {
	return raft.Message{Type: raft.MsgVote, Group: 1, From: from, To: to, Term: 3, Round: round}
}

func app(from, to raft.NodeID, index int, size int) raft.Message {
	f := bytes.Repeat([]byte{byte(index)}, size)
	return raft.Message{Type: raft.MsgApp, Group: 1, From: from, To: to, Term: 3, Index: raft.Index(index), Entries: []raft.Entry{{Frame: f}}}
}

func TestSendInOrder(t *testing.T) {
	b := newBook()
	n1, n2 := start(t, b, 1, func(o *Options) { o.MaxBulkQueued = 1 << 20 }), start(t, b, 2, nil)
	const count = 5000
	for i := range count {
		msgs := []raft.Message{vote(1, 2, uint64(i)), app(1, 2, i, 1+i%300), {Type: raft.MsgApp, Group: 2, From: 1, To: 2, Index: raft.Index(i)}}
		n1.Send(2, msgs)
		clear(msgs) // they are ours again
		if i%100 == 0 {
			n1.SendPair(2, &multi.PairMessage{Session: 5, Seq: uint64(i), Cover: []multi.CoveredGroup{{Group: 7, Term: 2, Commit: 9}}})
		}
	}
	eventually(t, "all messages arrive", func() bool {
		n2.mu.Lock()
		defer n2.mu.Unlock()
		return len(n2.msgs) == 3*count && len(n2.pairs) == count/100
	})
	var votes, apps, empty int
	for i := range n2.msgs {
		m := &n2.msgs[i]
		switch {
		case m.Type == raft.MsgVote:
			if m.Round != uint64(votes) {
				t.Fatalf("vote %d came as number %d", m.Round, votes)
			}
			votes++
		case m.Group == 1:
			if int(m.Index) != apps || !bytes.Equal(m.Entries[0].Frame, bytes.Repeat([]byte{byte(apps)}, 1+apps%300)) {
				t.Fatalf("MsgApp %d came as number %d, or changed", m.Index, apps)
			}
			apps++
		default:
			if int(m.Index) != empty {
				t.Fatalf("empty MsgApp %d came as number %d", m.Index, empty)
			}
			if empty++; apps < empty {
				t.Fatal("an empty MsgApp overtook entries")
			}
		}
	}
	eventually(t, "all are counted", func() bool { return n1.Stats().SentMessages == 3*count+count/100 })
	if s := n1.Stats(); s.DroppedFull+s.DroppedInvalid+s.DroppedUnreachable > 0 {
		t.Fatalf("%+v", s)
	}
}

// The point of lanes: a receiver that no longer takes bulk data still gets votes and pairs, and answers calls.
func TestVotesPassWhileBulkIsStalled(t *testing.T) {
	b := newBook()
	stall := make(chan struct{})
	var stalled atomic.Bool
	n2 := start(t, b, 2, func(o *Options) {
		deliver := o.Deliver
		o.Deliver = func(ms []raft.Message) {
			if ms[0].Type == raft.MsgApp {
				stalled.Store(true)
				<-stall
			}
			deliver(ms)
		}
	})
	n1 := start(t, b, 1, func(o *Options) { o.MaxBulkBytes = 32 << 20 })
	n2.Handle(1, func(context.Context, Caller, []byte) ([]byte, error) { return []byte("ok"), nil })
	entry := app(1, 2, 1, 1<<20)
	for !stalled.Load() || n1.Stats().DroppedFull == 0 { // until socket and queue are full
		n1.Send(2, []raft.Message{entry})
	}
	for i := range 100 {
		n1.Send(2, []raft.Message{vote(1, 2, uint64(i))})
		n1.SendPair(2, &multi.PairMessage{Seq: uint64(i)})
	}
	eventually(t, "votes and pairs arrive", func() bool {
		n2.mu.Lock()
		defer n2.mu.Unlock()
		return len(n2.pairs) == 100 && len(n2.msgs) == 100
	})
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if got, err := n1.Call(ctx, 2, 1, nil); err != nil || string(got) != "ok" {
		t.Fatal(string(got), err)
	}
	if n2.got(raft.MsgApp) != 0 {
		t.Fatal("bulk was not stalled")
	}
	close(stall)
	eventually(t, "bulk goes on", func() bool { return n2.got(raft.MsgApp) > 5 })
}

// The byte and message bounds of the queues hold while nobody reads, and the right end is dropped.
func TestQueuesAreBounded(t *testing.T) {
	b := newBook()
	n1 := start(t, b, 1, func(o *Options) {
		o.MaxControlQueued, o.MaxControlBytes, o.MaxBulkQueued, o.MaxBulkBytes = 100, 1<<20, 50, 1<<20
		o.Dial = func(ctx context.Context, _ string) (net.Conn, error) { <-ctx.Done(); return nil, ctx.Err() } // a black hole
		o.DialTimeout = patience
	})
	b.set(2, "nowhere")
	p := n1.peer(2)
	for i := range 1000 {
		n1.Send(2, []raft.Message{vote(1, 2, uint64(i)), app(1, 2, i, 100)})
	}
	look := func(l *lane) (first, last raft.Message, count, size int) {
		l.mu.Lock()
		defer l.mu.Unlock()
		its := l.items[l.head:]
		return its[0].msg, its[len(its)-1].msg, len(its), l.bytes
	}
	first, last, count, _ := look(p.control)
	if first.Round != 900 || last.Round != 999 || count != 100 {
		t.Fatalf("control keeps %d to %d, %d messages; want the newest 100", first.Round, last.Round, count)
	}
	first, last, count, _ = look(p.bulk)
	if first.Index != 0 || last.Index != 49 || count != 50 {
		t.Fatalf("bulk keeps %d to %d, %d messages; want the oldest 50", first.Index, last.Index, count)
	}
	p.bulk.drop(false)
	n1.Send(2, []raft.Message{app(1, 2, 1, 5<<20)}) // alone it passes any bound
	for i := range 100 {
		n1.Send(2, []raft.Message{app(1, 2, i, 300<<10)})
	}
	if _, _, count, size := look(p.bulk); count != 1 || size < 5<<20 {
		t.Fatalf("%d messages, %d bytes", count, size)
	}
	p.bulk.drop(false)
	for i := range 100 {
		n1.Send(2, []raft.Message{app(1, 2, i, 300<<10)})
	}
	if _, _, count, size := look(p.bulk); count != 3 || size > 1<<20 {
		t.Fatalf("%d messages, %d bytes", count, size)
	}
}

// Pair messages go before all others, in their order, and are bounded themselves.
func TestPairMessagesGoFirst(t *testing.T) {
	b := newBook()
	n1 := start(t, b, 1, func(o *Options) {
		o.Dial = func(ctx context.Context, _ string) (net.Conn, error) { <-ctx.Done(); return nil, ctx.Err() } // a black hole
		o.DialTimeout = patience
	})
	b.set(2, "nowhere")
	l := n1.peer(2).control
	for i := range 10 {
		n1.Send(2, []raft.Message{vote(1, 2, uint64(i))})
	}
	for i := range maxUrgent + 5 {
		n1.SendPair(2, &multi.PairMessage{Session: 1, Seq: uint64(i)})
	}
	l.take()
	if len(l.batch) != maxUrgent+10 {
		t.Fatalf("%d messages are kept", len(l.batch))
	}
	for i, it := range l.batch[:maxUrgent] {
		m, err := decodePair(it.frame[frameHeaderLen:])
		if err != nil || m.Seq != uint64(i+5) {
			t.Fatalf("place %d has %+v, %v", i, m, err)
		}
	}
	if m := l.batch[maxUrgent].msg; m.Type != raft.MsgVote || m.Round != 0 {
		t.Fatalf("then comes %+v", m)
	}
	if !l.empty() {
		t.Fatal("something is left")
	}
	n1.SendPair(2, &multi.PairMessage{Session: 1, Seq: 1})
	if l.drop(false); !l.empty() {
		t.Fatal("a pair message outlives the connection")
	}
}

func TestReconnectAndNewAddress(t *testing.T) {
	b := newBook()
	n1 := start(t, b, 1, nil)
	n2 := start(t, b, 2, nil)
	n1.Send(2, []raft.Message{vote(1, 2, 1), app(1, 2, 1, 10)})
	eventually(t, "both arrive", func() bool { return n2.got(raft.MsgVote) == 1 && n2.got(raft.MsgApp) == 1 })
	if err := n2.Close(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the failure is told", func() bool {
		n1.Send(2, []raft.Message{vote(1, 2, 2)})
		return n1.unreachable.Load() > 3
	})
	n2 = start(t, b, 2, func(o *Options) { o.Boot = 2 }) // at another port
	eventually(t, "it is found at its new address", func() bool {
		n1.Send(2, []raft.Message{vote(1, 2, 3), app(1, 2, 3, 10)})
		return n2.got(raft.MsgVote) > 0 && n2.got(raft.MsgApp) > 0
	})
	if c := strings.Count(n1.logs.String(), "cannot connect"); c > 2 {
		t.Fatalf("a dead broker is logged %d times:\n%s", c, n1.logs)
	}
}

// A peer that is gone without a word (no FIN, no RST: a pulled cable) is noticed by its silence, on both sides.
func TestSilentPeerIsNoticed(t *testing.T) {
	b := newBook()
	var hole atomic.Bool
	var conns sync.Map
	n2 := start(t, b, 2, func(o *Options) { o.IdleTimeout = 200 * time.Millisecond })
	n1 := start(t, b, 1, func(o *Options) {
		o.PingTimeout = 50 * time.Millisecond
		o.Dial = func(ctx context.Context, addr string) (net.Conn, error) {
			if hole.Load() {
				return nil, errors.New("no route")
			}
			c, err := net.Dial("tcp", addr)
			if err != nil {
				return nil, err
			}
			h := &holeConn{Conn: c, hole: &hole}
			conns.Store(h, nil)
			return h, nil
		}
	})
	n2.Handle(1, func(context.Context, Caller, []byte) ([]byte, error) { return nil, nil })
	// On a slow machine a peer that is there is taken for one that is silent now and then.
	votes, apps := 0, 0
	both := func() bool {
		n1.Send(2, []raft.Message{vote(1, 2, 1), app(1, 2, 1, 10)})
		return n2.got(raft.MsgVote) > votes && n2.got(raft.MsgApp) > apps
	}
	called := func() bool {
		_, err := n1.Call(t.Context(), 2, 1, nil)
		return err == nil
	}
	eventually(t, "both arrive", both)
	eventually(t, "a call is answered", called)
	hole.Store(true)
	eventually(t, "both lanes notice", func() bool { return n1.unreachable.Load() >= 2 })
	eventually(t, "the other side closes its ends", func() bool {
		n2.Transport.mu.Lock()
		defer n2.Transport.mu.Unlock()
		return len(n2.inbound) == 0
	})
	votes, apps = n2.got(raft.MsgVote), n2.got(raft.MsgApp)
	hole.Store(false)
	eventually(t, "it comes back", both)
	eventually(t, "a call is answered", called)
}

// holeConn swallows what is written and hears nothing while the hole is open. Its close stays unheard as well.
type holeConn struct {
	net.Conn
	hole *atomic.Bool
}

func (c *holeConn) Write(p []byte) (int, error) {
	if c.hole.Load() {
		return len(p), nil
	}
	return c.Conn.Write(p)
}

func (c *holeConn) Read(p []byte) (int, error) {
	for {
		n, err := c.Conn.Read(p)
		if err != nil || !c.hole.Load() {
			return n, err
		}
	}
}

// Pieces of snapshots have a lane of their own: what comes late there makes nothing else late.
func TestChunksLetEntriesPass(t *testing.T) {
	b := newBook()
	blocked := make(chan struct{})
	n1 := start(t, b, 1, nil)
	n2 := start(t, b, 2, func(o *Options) {
		take := o.DeliverChunk
		o.DeliverChunk = func(from raft.NodeID, m *multi.ChunkMessage) {
			if m.Response {
				<-blocked // as a socket that is full
			}
			take(from, m)
		}
	})
	const count, size = 30, 1 << 20
	piece := func(i int) []byte { return bytes.Repeat([]byte{byte(i)}, size) }
	for i := range count {
		n1.SendChunk(2, &multi.ChunkMessage{Response: true, Group: 9, Index: 5, Term: 2, Size: count * size, Offset: int64(i) * size, Data: piece(i), CRC: 7})
	}
	n1.SendChunk(2, &multi.ChunkMessage{Group: 9, Index: 5, Term: 2, Size: 8, Offset: 3})
	offer := raft.Message{Type: raft.MsgSnap, Group: 9, From: 1, To: 2, Term: 4, Snapshot: &raft.Snapshot{Size: 77, Sum: 5,
		Meta: raft.SnapshotMeta{Index: 5, Term: 2, Conf: raft.ConfState{Voters: []raft.Member{{ID: 1, Incarnation: 11}}}}}}
	n1.Send(2, []raft.Message{offer})
	for i := range 50 {
		n1.Send(2, []raft.Message{app(1, 2, i, 1000)})
	}
	eventually(t, "all but the pieces arrive", func() bool {
		n2.mu.Lock()
		asked := len(n2.chunks)
		n2.mu.Unlock()
		return n2.got(raft.MsgSnap) == 1 && n2.got(raft.MsgApp) == 50 && asked == 1
	})
	close(blocked)
	// What did not fit the queue is dropped: its receiver would ask for it again.
	eventually(t, "the first pieces arrive", func() bool {
		n2.mu.Lock()
		defer n2.mu.Unlock()
		return len(n2.chunks) >= 1+maxChunkBytes/(size+1)
	})
	n2.mu.Lock()
	defer n2.mu.Unlock()
	if q := n2.chunks[0]; q.Response || q.Offset != 3 || q.Size != 8 {
		t.Errorf("the request came as %+v", q)
	}
	next := int64(0) // or a later one: others may be dropped between two that found room
	for i, m := range n2.chunks[1:] {
		if m.Offset < next || m.Offset%size != 0 || !bytes.Equal(m.Data, piece(int(m.Offset/size))) || m.CRC != 7 {
			t.Errorf("piece %d came wrong: at %d, %d bytes, after [0, %d)", i, m.Offset, len(m.Data), next)
		}
		next = m.Offset + size
	}
	for i := range n2.msgs {
		if m := &n2.msgs[i]; m.Type == raft.MsgSnap && (m.Snapshot.Size != 77 || m.Snapshot.Sum != 5 || m.Snapshot.Meta.Conf.Voters[0].Incarnation != 11) {
			t.Errorf("the offer came as %+v", m.Snapshot)
		}
	}
}

// The lane is there only while it is used.
func TestChunkLaneIsClosedWhenIdle(t *testing.T) {
	b := newBook()
	n1 := start(t, b, 1, func(o *Options) { o.CallIdle, o.PingInterval = 20*time.Millisecond, 5*time.Millisecond })
	n2 := start(t, b, 2, nil)
	lanes := func() (n int) {
		n2.Transport.mu.Lock()
		defer n2.Transport.mu.Unlock()
		for c := range n2.inbound {
			if c.lane == laneChunk {
				n++
			}
		}
		return n
	}
	for round := range 3 {
		eventually(t, "a piece arrives", func() bool {
			n1.SendChunk(2, &multi.ChunkMessage{Response: true, Group: 9, Index: 5, Term: 2, Size: 8, Data: []byte("12345678")})
			n2.mu.Lock()
			defer n2.mu.Unlock()
			return len(n2.chunks) > round
		})
		eventually(t, "the connection is closed", func() bool { return lanes() == 0 })
		n2.mu.Lock()
		n2.chunks = n2.chunks[:min(len(n2.chunks), round+1)]
		n2.mu.Unlock()
	}
}

// Each kind of stranger gets its reason, and it is logged once at each side however often it is tried.
func TestRefusals(t *testing.T) {
	b := newBook()
	n1 := start(t, b, 1, nil)
	other := start(t, newBook(), 1, func(o *Options) { o.ClusterID = ClusterID{9} })
	twin := start(t, newBook(), 2, nil)
	for _, c := range []struct {
		name   string
		target raft.NodeID
		addr   string
		from   *node
		code   RefusalCode
		says   string
	}{
		{"another cluster", 2, other.Addr().String(), n1, RefusedCluster, "belong to cluster 01020300"},
		{"another node", 3, twin.Addr().String(), n1, RefusedNode, "expected node 3"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b.set(c.target, c.addr)
			before := c.from.unreachable.Load()
			eventually(t, "several attempts", func() bool {
				c.from.Send(c.target, []raft.Message{vote(1, c.target, 1)})
				return c.from.unreachable.Load() > before+4
			})
			logs := c.from.logs.String()
			if strings.Count(logs, c.says) != 1 {
				t.Fatalf("want %q once in\n%s", c.says, logs)
			}
			_, err := c.from.Call(t.Context(), c.target, 1, nil)
			h, ok := errors.AsType[*HandshakeError](err)
			if !ok || h.Code != c.code || !errors.Is(err, ErrUnreachable) {
				t.Fatal(err)
			}
		})
	}
	if c := strings.Count(other.logs.String(), "refused a connection"); c != 1 {
		t.Fatalf("the refusing side logs %d times:\n%s", c, other.logs)
	}
	greetRaw := func(h hello) (welcome, error) {
		c, err := net.Dial("tcp", n1.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		return greet(c, newFrameReader(c, 100), "n1", &h, patience)
	}
	member := identity{cluster: testCluster, self: raft.Member{ID: 5, Incarnation: 1}}
	for name, c := range map[string]struct {
		h    hello
		want RefusalCode
	}{
		"newer version":        {hello{min: 7, max: 9, lane: laneControl, identity: member}, RefusedVersion},
		"backward range":       {hello{min: 2, max: 1, lane: laneControl, identity: member}, RefusedVersion},
		"unknown lane":         {hello{min: minProtocol, max: maxProtocol, lane: 9, identity: member}, RefusedLane},
		"joiner on control":    {hello{min: minProtocol, max: maxProtocol, lane: laneControl, identity: identity{self: raft.Member{ID: 5}}}, RefusedLane},
		"nobody on bulk":       {hello{min: minProtocol, max: maxProtocol, lane: laneBulk, identity: identity{cluster: testCluster}}, RefusedLane},
		"same id":              {hello{min: minProtocol, max: maxProtocol, lane: laneBulk, identity: identity{cluster: testCluster, self: raft.Member{ID: 1, Incarnation: 77}}}, RefusedDuplicateID},
		"expects another":      {hello{min: minProtocol, max: maxProtocol, lane: laneRPC, identity: member, expect: 4}, RefusedNode},
		"joiner on rpc":        {hello{min: minProtocol, max: maxProtocol, lane: laneRPC}, accepted},
		"wider range":          {hello{min: 0, max: 200, lane: laneControl, identity: member}, accepted},
		"other cluster on rpc": {hello{min: minProtocol, max: maxProtocol, lane: laneRPC, identity: identity{cluster: ClusterID{8}}}, RefusedCluster},
	} {
		w, err := greetRaw(c.h)
		if w.code != c.want || (err == nil) != (c.want == accepted) {
			t.Errorf("%s: code %d, %v", name, w.code, err)
		}
	}
}

// Random bytes, HTTP, TLS, silence, half a hello, frames that claim 2 GB: each is closed, and the broker serves on.
func TestStrangers(t *testing.T) {
	b := newBook()
	n1 := start(t, b, 1, func(o *Options) { o.HandshakeTimeout = 100 * time.Millisecond })
	n2 := start(t, b, 2, nil)
	two := beginFrame(nil, frameHello)
	binary.LittleEndian.PutUint32(two, 2<<30)
	bad := append(beginFrame(nil, frameHello), make([]byte, helloLen)...)
	endFrame(bad, 0)
	noise := make([]byte, 100_000)
	for i := range noise {
		noise[i] = byte(rand.Uint32())
	}
	for name, data := range map[string][]byte{
		"noise": noise, "http": []byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"), "tls": {22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3, 1, 2, 3, 4},
		"silence": nil, "half a hello": bad[:30], "2 GB": two, "no magic": bad, "kafka": {0, 0, 0, 20, 0, 18, 0, 0, 0, 0, 0, 1, 0, 4, 'k', 'c', 'a', 't', 0, 0, 0, 0, 0, 0},
	} {
		c, err := net.Dial("tcp", n1.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		_, _ = c.Write(data) // may fail: it is closed early
		_ = c.SetReadDeadline(time.Now().Add(patience))
		got, err := io.ReadAll(c)
		if len(got) > 0 || errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: answered %x, %v", name, got, err)
		}
		if ne, ok := errors.AsType[net.Error](err); ok && ne.Timeout() {
			t.Errorf("%s: not closed", name)
		}
		_ = c.Close()
	}
	eventually(t, "a real broker is served", func() bool { // whose first hello may take longer than that, too
		n2.Send(1, []raft.Message{vote(2, 1, 1)})
		return n1.got(raft.MsgVote) > 0
	})
}

// A broker that is gone before its hello is answered, as when this process was stopped meanwhile, is not called a stranger. Nor is one whose newer
// connection closes this one right behind the answer.
func TestUnansweredHello(t *testing.T) {
	for _, answered := range []bool{false, true} {
		n := start(t, newBook(), 1, nil)
		ours, theirs := net.Pipe()
		n.handshakes.Add(1) // as accept does
		served := make(chan struct{})
		go func() {
			n.serve(&closedBehind{ours})
			close(served)
		}()
		hello := appendHello(beginFrame(nil, frameHello), &hello{min: minProtocol, max: maxProtocol, lane: laneControl, identity: identity{cluster: testCluster, self: raft.Member{ID: 2, Incarnation: 22}, boot: 1}, expect: 1})
		endFrame(hello, 0)
		if _, err := theirs.Write(hello); err != nil {
			t.Fatal(err)
		}
		if answered {
			if _, err := io.Copy(io.Discard, theirs); err != nil {
				t.Fatal(err)
			}
		}
		_ = theirs.Close()
		<-served
		if logs := n.logs.String(); strings.Contains(logs, "not a broker's") {
			t.Error(logs)
		}
	}
}

// closedBehind is closed once it has been answered, and nothing has a deadline any more.
type closedBehind struct{ net.Conn }

func (c *closedBehind) SetDeadline(at time.Time) error {
	if at.IsZero() {
		_ = c.Close()
	}
	return c.Conn.SetDeadline(at)
}

// A member that turns mad after its handshake loses the connection, no more: 2 GB claims, lies about who it is, frames
// that do not belong.
func TestMadMember(t *testing.T) {
	b := newBook()
	n1 := start(t, b, 1, nil)
	frame := func(ft frameType, body []byte) []byte {
		f := append(beginFrame(nil, ft), body...)
		endFrame(f, 0)
		return f
	}
	claim := func(ft frameType, n uint32) []byte {
		f := beginFrame(nil, ft)
		binary.LittleEndian.PutUint32(f, n)
		return f
	}
	lie := vote(4, 1, 1)
	ask := appendChunkHead(nil, &multi.ChunkMessage{Size: 9})
	piece := append(appendChunkHead(nil, &multi.ChunkMessage{Response: true, Size: 9}), "123"...)
	appBody := func(m raft.Message) []byte { return encodeApp(&m) }
	for _, c := range []struct {
		name string
		lane laneKind
		data []byte
	}{
		{"2 GB on control", laneControl, claim(frameMessages, 2<<30)},
		{"2 GB on bulk", laneBulk, claim(frameApp, 2<<30)},
		{"2 GB on rpc", laneRPC, claim(frameRequest, 2<<30)},
		{"4 GB", laneBulk, claim(frameApp, 1<<32-1)},
		{"another sender", laneControl, frame(frameMessages, appendMessages(nil, []raft.Message{lie}))},
		{"another sender in bulk", laneBulk, frame(frameApp, appBody(app(4, 1, 1, 10)))},
		{"entries on control", laneControl, frame(frameApp, appBody(app(3, 1, 1, 10)))},
		{"request on control", laneControl, requestFrame(&request{id: 1})},
		{"2 GB piece", laneChunk, claim(frameChunk, 2<<30)},
		{"piece on control", laneControl, frame(frameChunk, piece)},
		{"piece on bulk", laneBulk, frame(frameChunk, piece)},
		{"request on the chunk lane", laneChunk, frame(frameChunk, ask)},
		{"entries on the chunk lane", laneChunk, frame(frameApp, appBody(app(3, 1, 1, 10)))},
		{"malformed piece", laneChunk, frame(frameChunk, []byte{1, 2, 3})},
		{"bad checksum", laneControl, append(claim(framePair, 3), 1, 2, 3)},
		{"malformed messages", laneControl, frame(frameMessages, []byte{200, 1, 2, 3})},
		{"malformed pair", laneControl, frame(framePair, []byte{7})},
		{"malformed request", laneRPC, frame(frameRequest, []byte{7})},
		{"malformed cancel", laneRPC, frame(frameCancel, []byte{7})},
		{"second hello", laneRPC, frame(frameHello, nil)},
		{"the same call twice", laneRPC, append(requestFrame(&request{id: 1, method: 1}), requestFrame(&request{id: 1, method: 1})...)},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.name == "the same call twice" {
				n1.Handle(1, func(ctx context.Context, _ Caller, _ []byte) ([]byte, error) { <-ctx.Done(); return nil, ctx.Err() })
			}
			conn, err := net.Dial("tcp", n1.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			h := hello{min: minProtocol, max: maxProtocol, lane: c.lane, identity: identity{cluster: testCluster, self: raft.Member{ID: 3, Incarnation: 1}}}
			if _, err := greet(conn, newFrameReader(conn, 100), "n1", &h, patience); err != nil {
				t.Fatal(err)
			}
			if _, err := conn.Write(c.data); err != nil {
				t.Fatal(err)
			}
			_ = conn.SetReadDeadline(time.Now().Add(patience))
			_, err = io.ReadAll(conn)
			if ne, ok := errors.AsType[net.Error](err); ok && ne.Timeout() {
				t.Fatal("not closed")
			}
		})
	}
	n1.mu.Lock()
	defer n1.mu.Unlock()
	if len(n1.msgs) > 0 || len(n1.pairs) > 0 {
		t.Fatalf("something was delivered: %+v %+v", n1.msgs, n1.pairs)
	}
}

// Connections are counted, also those that say nothing; a member's new connection replaces its old one.
func TestConnectionsAreBounded(t *testing.T) {
	b := newBook()
	n1 := start(t, b, 1, func(o *Options) { o.MaxConns, o.MaxHandshakes, o.HandshakeTimeout = 3, 5, patience })
	var silent []net.Conn
	for range 5 {
		c, err := net.Dial("tcp", n1.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		silent = append(silent, c)
	}
	eventually(t, "all five are waiting", func() bool { return n1.handshakes.Load() == 5 })
	c, err := net.Dial("tcp", n1.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	_ = c.SetReadDeadline(time.Now().Add(patience))
	if got, err := io.ReadAll(c); len(got) > 0 || errors.Is(err, context.DeadlineExceeded) {
		t.Fatal("the sixth was not closed")
	}
	for _, c := range silent {
		_ = c.Close()
	}
	eventually(t, "room is made", func() bool { return n1.handshakes.Load() == 0 })
	codes := make(map[RefusalCode]int)
	for i := range 6 {
		c, err := net.Dial("tcp", n1.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		h := hello{min: minProtocol, max: maxProtocol, lane: laneControl, identity: identity{cluster: testCluster, self: raft.Member{ID: raft.NodeID(2 + i%4), Incarnation: 1}}}
		w, _ := greet(c, newFrameReader(c, 100), "n1", &h, patience)
		codes[w.code]++
	}
	// Nodes 2, 3, 4 find room, 5 does not, and 2 and 3 replace themselves.
	if codes[accepted] != 5 || codes[RefusedOverloaded] != 1 {
		t.Fatal(codes)
	}
}

// A joiner can make calls and nothing else, until it learns who it is.
func TestSetIdentity(t *testing.T) {
	b := newBook()
	n1 := start(t, b, 1, nil)
	var seen []Caller
	var mu sync.Mutex
	n1.Handle(1, func(_ context.Context, c Caller, _ []byte) ([]byte, error) {
		mu.Lock()
		defer mu.Unlock()
		seen = append(seen, c)
		return []byte("welcome"), nil
	})
	j := start(t, b, 0, func(o *Options) { o.ClusterID, o.Self = ClusterID{}, raft.Member{Incarnation: 5} })
	j.Send(1, []raft.Message{vote(2, 1, 1)})
	if got, err := j.CallAddr(t.Context(), n1.Addr().String(), 1, nil); err != nil || string(got) != "welcome" {
		t.Fatal(string(got), err)
	}
	j.SetIdentity(testCluster, raft.Member{ID: 2, Incarnation: 5})
	b.set(2, j.Addr().String())
	if _, err := j.Call(t.Context(), 1, 1, nil); err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	if len(seen) != 2 || seen[0].Node != 0 || !seen[0].Cluster.IsZero() || seen[0].Incarnation != 5 || seen[1].Node != 2 || seen[1].Cluster != testCluster {
		t.Fatalf("%+v", seen)
	}
	mu.Unlock()
	eventually(t, "it speaks and is spoken to", func() bool {
		j.Send(1, []raft.Message{vote(2, 1, 2)})
		n1.Send(2, []raft.Message{vote(1, 2, 2)})
		return n1.got(raft.MsgVote) > 0 && j.got(raft.MsgVote) > 0
	})
	n1.mu.Lock()
	defer n1.mu.Unlock()
	if n1.msgs[0].Round != 2 {
		t.Fatal("a message from before it was a member arrived")
	}
}

func TestCloseEndsEverything(t *testing.T) {
	b := newBook()
	n1, n2 := start(t, b, 1, nil), start(t, b, 2, nil)
	b.set(3, "127.0.0.1:1")
	n2.Handle(1, func(ctx context.Context, _ Caller, _ []byte) ([]byte, error) { <-ctx.Done(); return nil, ctx.Err() })
	n1.Send(2, []raft.Message{vote(1, 2, 1), app(1, 2, 1, 10)})
	n1.Send(3, []raft.Message{vote(1, 3, 1)})
	errs := make(chan error, 1)
	go func() { _, err := n1.Call(context.Background(), 2, 1, nil); errs <- err }()
	eventually(t, "the call is there", func() bool { return n2.calls.Load() == 1 })
	for _, n := range []*node{n1, n2} {
		done := make(chan error, 1)
		go func() { done <- n.Close() }()
		select {
		case err := <-done:
			if err != nil {
				t.Fatal(err)
			}
		case <-time.After(patience):
			t.Fatal("Close hangs")
		}
	}
	if err := <-errs; !errors.Is(err, ErrClosed) {
		t.Fatal(err)
	}
	if _, err := n1.Call(t.Context(), 2, 1, nil); !errors.Is(err, ErrClosed) {
		t.Fatal(err)
	}
	n1.Send(2, []raft.Message{vote(1, 2, 1)})
	n1.Send(9, []raft.Message{vote(1, 9, 1)})
	n1.SendPair(9, &multi.PairMessage{})
}

func TestForget(t *testing.T) {
	b := newBook()
	n1, n2 := start(t, b, 1, nil), start(t, b, 2, nil)
	n1.Send(2, []raft.Message{vote(1, 2, 1)})
	eventually(t, "it arrives", func() bool { return n2.got(raft.MsgVote) == 1 })
	n1.Forget(2)
	eventually(t, "the connection goes", func() bool {
		n2.Transport.mu.Lock()
		defer n2.Transport.mu.Unlock()
		return len(n2.inbound) == 0
	})
	n1.Send(2, []raft.Message{vote(1, 2, 2)})
	eventually(t, "it can be made again", func() bool { return n2.got(raft.MsgVote) == 2 })
}

// Unframed or too large entries are our own mistakes: dropped and told, and the connection goes on.
func TestUnsendable(t *testing.T) {
	b := newBook()
	n1 := start(t, b, 1, func(o *Options) { o.MaxFrame = 1 << 20 })
	n2 := start(t, b, 2, nil)
	bad := app(1, 2, 1, 10)
	bad.Entries[0].Frame = nil
	n1.Send(2, []raft.Message{bad, app(1, 2, 2, 2<<20), app(1, 2, 3, 1000)})
	n1.Send(1, []raft.Message{vote(1, 1, 1)})
	n1.Send(0, []raft.Message{vote(1, 0, 1)})
	eventually(t, "the good one arrives", func() bool { return n2.got(raft.MsgApp) == 1 })
	if s := n1.Stats(); s.DroppedInvalid != 4 {
		t.Fatalf("%+v", s)
	}
}

func BenchmarkMsgApp(b *testing.B) {
	for _, size := range []int{1 << 10, 64 << 10, 1 << 20} {
		b.Run(fmt.Sprintf("entry=%d", size), func(b *testing.B) {
			bk := newBook()
			var got atomic.Int64
			start(b, bk, 2, func(o *Options) { o.Deliver = func(ms []raft.Message) { got.Add(int64(len(ms))) } })
			n1 := start(b, bk, 1, func(o *Options) { o.PingInterval = time.Second })
			m := app(1, 2, 1, size)
			window := min(4096, int64(8<<20/size)) // well inside the queue's bound, so that nothing is dropped
			b.SetBytes(int64(size))
			sent := int64(0)
			for b.Loop() {
				for sent-got.Load() >= window {
					time.Sleep(20 * time.Microsecond)
				}
				n1.Send(2, []raft.Message{m})
				sent++
			}
			for got.Load() < sent {
				time.Sleep(20 * time.Microsecond)
			}
		})
	}
}

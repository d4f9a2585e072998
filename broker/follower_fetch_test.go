package broker

// KIP-392: consumers that name their rack, and reads from followers.

import (
	"bytes"
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/balsamq/balsa/coordinator"
	"github.com/balsamq/balsa/partition"
	"github.com/balsamq/balsa/raft"
)

func rackFetch(version int16, topic string, id [16]byte, offset int64, rack string, wait time.Duration) *kmsg.FetchRequest {
	req := fetchRequest(version, topic, id, 0, offset, wait)
	req.Rack = rack
	return req
}

// The harness: this broker is in rack-1, the other one in rack-2, and so is a third.
func TestPreferredReplica(t *testing.T) {
	h := newHarness(t, serverOptions{RedirectPause: 1})
	const third raft.NodeID = 3
	r := h.back.apply(&coordinator.Command{Register: &coordinator.RegisterBroker{Node: third, Incarnation: 13,
		Endpoints: []coordinator.Endpoint{{Listener: "PLAINTEXT", Host: "broker-3.example", Port: 9093}}, RPC: "broker-3.example:19092", Rack: "rack-2"}})
	if err := r.Err(); err != nil {
		t.Fatal(err)
	}
	id := h.back.addTopic("t", 1, nil)
	c := h.dial()
	ask[*kmsg.ProduceResponse](c, produceRequest(9, 1, "t", id, 0, testBatch("a")))
	rep := h.back.replica(id, 0)
	fence := func(node raft.NodeID, fenced bool) {
		b := h.back.Image().Broker(node)
		if err := h.back.apply(&coordinator.Command{Fence: &coordinator.FenceBroker{Node: node, Epoch: b.Epoch, Fenced: fenced}}).Err(); err != nil {
			t.Fatal(err)
		}
	}
	cases := []struct {
		name   string
		rack   string
		inSync []partition.Follower
		fenced raft.NodeID
		want   int32
	}{
		{"no rack", "", []partition.Follower{{Node: otherNode, Match: 9}}, 0, -1},
		{"the leader's own rack", "rack-1", []partition.Follower{{Node: otherNode, Match: 9}}, 0, -1},
		{"a rack that has no replica", "rack-9", []partition.Follower{{Node: otherNode, Match: 9}}, 0, -1},
		{"the follower there", "rack-2", []partition.Follower{{Node: otherNode, Match: 9}}, 0, int32(otherNode)},
		{"the one that has come farther", "rack-2", []partition.Follower{{Node: otherNode, Match: 9}, {Node: third, Match: 10}}, 0, int32(third)},
		{"the first of two alike", "rack-2", []partition.Follower{{Node: otherNode, Match: 9}, {Node: third, Match: 9}}, 0, int32(otherNode)},
		{"nobody in sync", "rack-2", nil, 0, -1},
		{"the farthest is fenced", "rack-2", []partition.Follower{{Node: otherNode, Match: 9}, {Node: third, Match: 10}}, third, int32(otherNode)},
		{"the only one is fenced", "rack-2", []partition.Follower{{Node: otherNode, Match: 9}}, otherNode, -1},
		{"a broker that nobody knows", "rack-2", []partition.Follower{{Node: 77, Match: 9}}, 0, -1},
	}
	for _, tc := range cases {
		rep.mu.Lock()
		rep.inSync = tc.inSync
		rep.mu.Unlock()
		if tc.fenced != 0 {
			fence(tc.fenced, true)
		}
		for v := int16(11); v <= 18; v++ {
			// At the end of the log, too, it is named at once, not after max_wait.
			for offset := range int64(2) {
				wait := time.Duration(0)
				if tc.want >= 0 {
					wait = time.Hour
				}
				p := onlyPartition(t, ask[*kmsg.FetchResponse](c, rackFetch(v, "t", id, offset, tc.rack, wait)))
				if p.ErrorCode != 0 || p.PreferredReadReplica != tc.want || (len(p.RecordBatches) > 0) != (tc.want < 0 && offset == 0) {
					t.Fatalf("%s, v%d at %d: error %d, preferred %d, %d bytes", tc.name, v, offset, p.ErrorCode, p.PreferredReadReplica, len(p.RecordBatches))
				}
			}
		}
		if tc.fenced != 0 {
			fence(tc.fenced, false)
		}
	}
	rep.mu.Lock()
	rep.inSync = cases[3].inSync
	rep.mu.Unlock()
	// What is wrong is said here: nobody is sent away with it.
	p := onlyPartition(t, ask[*kmsg.FetchResponse](c, rackFetch(12, "t", id, 99, "rack-2", 0)))
	if p.ErrorCode != kerr.OffsetOutOfRange.Code || p.PreferredReadReplica != -1 {
		t.Fatalf("out of range: %+v", p)
	}
	req := rackFetch(12, "t", id, 0, "rack-2", 0)
	req.Topics[0].Partitions[0].CurrentLeaderEpoch = 4
	if p := onlyPartition(t, ask[*kmsg.FetchResponse](c, req)); p.ErrorCode != kerr.FencedLeaderEpoch.Code || p.PreferredReadReplica != -1 {
		t.Fatalf("fenced epoch: %+v", p)
	}
	// In a session it is named whenever it is asked for, although nothing has changed.
	req = rackFetch(12, "t", id, 1, "rack-2", time.Hour)
	req.SessionEpoch = 0
	resp := ask[*kmsg.FetchResponse](c, req)
	for epoch := int32(1); epoch < 4; epoch++ {
		req = kmsg.NewPtrFetchRequest()
		req.Version, req.MaxWaitMillis, req.MinBytes, req.MaxBytes, req.Rack = 12, 1<<30, 1, 50<<20, "rack-2"
		req.SessionID, req.SessionEpoch = resp.SessionID, epoch
		if p := onlyPartition(t, ask[*kmsg.FetchResponse](c, req)); p.PreferredReadReplica != int32(otherNode) {
			t.Fatalf("epoch %d of the session: %+v", epoch, p)
		}
	}
}

// Who was sent away and is back at once is served here, on this connection and for this partition.
func TestRedirectsEnd(t *testing.T) {
	h := newHarness(t, serverOptions{RedirectPause: time.Hour})
	for _, name := range []string{"t", "u"} {
		id := h.back.addTopic(name, 1, nil)
		rep := h.back.replica(id, 0)
		rep.mu.Lock()
		rep.inSync = []partition.Follower{{Node: otherNode, Match: 9}}
		rep.mu.Unlock()
	}
	c := h.dial()
	ask[*kmsg.ProduceResponse](c, produceRequest(9, 1, "t", [16]byte{}, 0, testBatch("a")))
	preferred := func(c *kafkaClient, topic string) int32 {
		p := onlyPartition(t, ask[*kmsg.FetchResponse](c, rackFetch(12, topic, [16]byte{}, 0, "rack-2", 0)))
		if p.ErrorCode != 0 || topic == "t" && (len(p.RecordBatches) > 0) != (p.PreferredReadReplica < 0) {
			t.Fatalf("%+v", p)
		}
		return p.PreferredReadReplica
	}
	for i, want := range []int32{int32(otherNode), -1, -1} {
		if got := preferred(c, "t"); got != want {
			t.Fatalf("fetch %d: sent to %d, want %d", i, got, want)
		}
	}
	if got := preferred(c, "u"); got != int32(otherNode) {
		t.Fatalf("another partition: sent to %d", got)
	}
	if got := preferred(h.dial(), "t"); got != int32(otherNode) {
		t.Fatalf("another client: sent to %d", got)
	}
	// What is remembered is bounded.
	s := &server{o: serverOptions{RedirectPause: time.Hour}}
	cn := &conn{}
	for i := range 2 * maxRedirects {
		s.redirect(cn, partitionKey{partition: int32(i)}, 2)
	}
	if n := len(cn.sent.at); n > maxRedirects {
		t.Fatalf("%d redirects are remembered", n)
	}
}

// A follower answers who can mean it, and says nothing of the end that its leader has not said.
func TestFetchFromFollower(t *testing.T) {
	h := newHarness(t, serverOptions{})
	id := h.back.addTopic("t", 1, nil)
	c := h.dial()
	ask[*kmsg.ProduceResponse](c, produceRequest(9, 1, "t", id, 0, testBatch("a")))
	rep := h.back.replica(id, 0)
	var mu sync.Mutex
	var asked []func(error)
	rep.mu.Lock()
	rep.follows = true
	rep.linear = func(done func(error)) { mu.Lock(); asked = append(asked, done); mu.Unlock() }
	rep.mu.Unlock()
	next := func(n int) func(error) {
		t.Helper()
		becomes(t, "the leader is asked", func() bool { mu.Lock(); defer mu.Unlock(); return len(asked) == n })
		mu.Lock()
		defer mu.Unlock()
		return asked[n-1]
	}
	for v := int16(4); v <= 18; v++ {
		p := onlyPartition(t, ask[*kmsg.FetchResponse](c, fetchRequest(v, "t", id, 0, 0, 0)))
		want := int16(0)
		if v < 11 {
			want = kerr.NotLeaderForPartition.Code
		}
		if p.ErrorCode != want || (len(p.RecordBatches) > 0) != (want == 0) || p.PreferredReadReplica != -1 && v >= 11 {
			t.Fatalf("v%d: %+v", v, p)
		}
	}
	mu.Lock()
	n := len(asked)
	mu.Unlock()
	if n != 0 {
		t.Fatalf("%d questions to the leader about records that are committed", n)
	}
	// Behind what the client has seen: never out of range, but wait, and read again.
	more := fetchRequest(12, "t", id, 0, 1, time.Hour)
	c.send(more)
	done := next(1)
	rep.mu.Lock()
	rep.follows = false
	rep.mu.Unlock()
	ask2 := h.dial()
	ask[*kmsg.ProduceResponse](ask2, produceRequest(9, 1, "t", id, 0, testBatch("b")))
	rep.mu.Lock()
	rep.follows = true
	rep.mu.Unlock()
	done(nil)
	_, body := c.receive()
	if p := onlyPartition(t, decodeAnswer[*kmsg.FetchResponse](t, more, body)); p.ErrorCode != 0 || len(p.RecordBatches) == 0 {
		t.Fatalf("after catching up: %+v", p)
	}
	for i, tc := range []struct {
		err  error
		want int16
	}{
		{fmt.Errorf("x: %w", partition.ErrLagging), kerr.OffsetNotAvailable.Code},
		{&partition.NotLeaderError{}, kerr.NotLeaderForPartition.Code},
		{nil, kerr.OffsetNotAvailable.Code}, // not even then: the leader is to say it
	} {
		req := fetchRequest(12, "t", id, 0, 50, time.Hour)
		c.send(req)
		next(2 + i)(tc.err)
		_, body := c.receive()
		if p := onlyPartition(t, decodeAnswer[*kmsg.FetchResponse](t, req, body)); p.ErrorCode != tc.want {
			t.Fatalf("%v: %+v", tc.err, p)
		}
	}
	// No word from the leader in time.
	if p := onlyPartition(t, ask[*kmsg.FetchResponse](c, fetchRequest(12, "t", id, 0, 2, 0))); p.ErrorCode != kerr.OffsetNotAvailable.Code {
		t.Fatalf("the leader is silent: %+v", p)
	}
	// A confirmed end is waited at, and what comes wakes it.
	wait := fetchRequest(12, "t", id, 0, 2, time.Hour)
	c.send(wait)
	next(6)(nil)
	becomes(t, "the fetch waits", func() bool { return rep.waiting() == 1 })
	rep.mu.Lock()
	rep.follows = false
	rep.mu.Unlock()
	ask[*kmsg.ProduceResponse](ask2, produceRequest(9, 1, "t", id, 0, testBatch("c")))
	_, body = c.receive()
	if p := onlyPartition(t, decodeAnswer[*kmsg.FetchResponse](t, wait, body)); p.ErrorCode != 0 || len(p.RecordBatches) == 0 {
		t.Fatalf("woken: %+v", p)
	}
	// All that asks for a leader.
	rep.mu.Lock()
	rep.follows = true
	rep.mu.Unlock()
	lo := kmsg.NewPtrListOffsetsRequest()
	lo.Version = 7
	lt, lp := kmsg.NewListOffsetsRequestTopic(), kmsg.NewListOffsetsRequestTopicPartition()
	lt.Topic, lp.Timestamp = "t", -1
	lt.Partitions = append(lt.Partitions, lp)
	lo.Topics = append(lo.Topics, lt)
	if code := ask[*kmsg.ListOffsetsResponse](c, lo).Topics[0].Partitions[0].ErrorCode; code != kerr.NotLeaderForPartition.Code {
		t.Fatalf("ListOffsets on a follower: %d", code)
	}
	oe := kmsg.NewPtrOffsetForLeaderEpochRequest()
	oe.Version = 3
	et, ep := kmsg.NewOffsetForLeaderEpochRequestTopic(), kmsg.NewOffsetForLeaderEpochRequestTopicPartition()
	et.Topic, ep.LeaderEpoch = "t", 5
	et.Partitions = append(et.Partitions, ep)
	oe.Topics = append(oe.Topics, et)
	if code := ask[*kmsg.OffsetForLeaderEpochResponse](c, oe).Topics[0].Partitions[0].ErrorCode; code != kerr.NotLeaderForPartition.Code {
		t.Fatalf("OffsetForLeaderEpoch on a follower: %d", code)
	}
}

// rackCluster is three brokers, each in a rack of its own.
func rackCluster(t *testing.T) *testCluster {
	c := newCluster(t, 3, true)
	c.calm()
	for i, n := range c.nodes {
		n.cfg.Rack = string(rune('a' + i))
	}
	c.start(c.nodes...)
	c.awaitVoters(3)
	return c
}

// byID is the running broker with the id.
func (c *testCluster) byID(id raft.NodeID) *node {
	for _, n := range c.running() {
		if n.NodeID() == id {
			return n
		}
	}
	c.t.Fatalf("broker %d does not run", id)
	return nil
}

func (c *testCluster) seeds() (s []string) {
	for _, n := range c.running() {
		s = append(s, n.KafkaAddr())
	}
	return s
}

// Whatever is acknowledged, a follower that is asked afterwards has it, or says that it cannot tell; it never answers
// that there is nothing, nor that the offset is out of range.
func TestFollowerReadsAreLinearizable(t *testing.T) {
	c := rackCluster(t)
	id := c.nodes[0].mustCreate(t, "a", 1, 3)
	soon(t, "it is served", func() bool { return c.served(id) })
	leader, _, _ := c.nodes[0].Leader(id, 0)
	cl, err := kgo.NewClient(kgo.SeedBrokers(c.seeds()...), kgo.DefaultProduceTopic("a"), kgo.DisableIdempotentWrite(), kgo.RequiredAcks(kgo.AllISRAcks()))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	unsure := 0
	for i := range 400 {
		rec := &kgo.Record{Value: []byte(fmt.Sprint(i))}
		if err := cl.ProduceSync(ctx, rec).FirstErr(); err != nil {
			t.Fatal(err)
		}
		for _, n := range c.nodes {
			if n.NodeID() == leader {
				continue
			}
			soon(t, fmt.Sprintf("broker %d, which follows, has record %d", n.NodeID(), rec.Offset), func() bool {
				resp, err := fetchRequest(13, "", id, 0, rec.Offset, 0).RequestWith(ctx, cl.Broker(int(n.NodeID())))
				if err != nil {
					t.Fatal(err)
				}
				p := onlyPartition(t, resp)
				switch {
				case p.ErrorCode == 0 && bytes.Contains(p.RecordBatches, rec.Value):
					return true
				case p.ErrorCode == kerr.OffsetNotAvailable.Code || p.ErrorCode == kerr.NotLeaderForPartition.Code:
					unsure++
				default:
					t.Fatalf("record %d was acknowledged; broker %d, which follows, says %+v", rec.Offset, n.NodeID(), p)
				}
				return false
			})
		}
	}
	t.Logf("%d answers that it cannot tell", unsure)
}

// fetchedFrom counts a client's fetches by broker.
type fetchedFrom struct {
	mu sync.Mutex
	n  map[int32]int
}

func (f *fetchedFrom) OnBrokerE2E(meta kgo.BrokerMetadata, key int16, e kgo.BrokerE2E) {
	if key == keyFetch && e.Err() == nil {
		f.mu.Lock()
		f.n[meta.NodeID]++
		f.mu.Unlock()
	}
}

func (f *fetchedFrom) count(node int32) int { f.mu.Lock(); defer f.mu.Unlock(); return f.n[node] }

// others counts those from all but one.
func (f *fetchedFrom) others(node int32) (n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for id, k := range f.n {
		if id != node {
			n += k
		}
	}
	return n
}

// A stock client that names its rack reads there; when that broker goes it reads from the leader, and misses nothing.
func TestRackAwareClient(t *testing.T) {
	t.Parallel()
	c := rackCluster(t)
	id := c.nodes[0].mustCreate(t, "a", 1, 3)
	soon(t, "it is served", func() bool { return c.served(id) })
	leader, _, _ := c.nodes[0].Leader(id, 0)
	near := c.nodes[0]
	if near.NodeID() == leader {
		near = c.nodes[1]
	}
	nearID := int32(near.NodeID())
	if b := c.byID(leader).Image().Broker(near.NodeID()); b.Rack != near.cfg.Rack {
		t.Fatalf("the image says rack %q", b.Rack)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	producer, err := kgo.NewClient(kgo.SeedBrokers(c.seeds()...), kgo.DefaultProduceTopic("a"))
	if err != nil {
		t.Fatal(err)
	}
	defer producer.Close()
	written := int64(0)
	write := func(count int) {
		t.Helper()
		for range count {
			if err := producer.ProduceSync(ctx, &kgo.Record{Value: []byte("x")}).FirstErr(); err != nil {
				t.Fatal(err)
			}
			written++
		}
	}
	// consumer reads from the beginning; what it returns reads up to what is written.
	consumer := func(opts ...kgo.Opt) (*fetchedFrom, func()) {
		from := &fetchedFrom{n: make(map[int32]int)}
		cl, err := kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(c.byID(leader).KafkaAddr()), kgo.ConsumeTopics("a"), kgo.Rack(near.cfg.Rack), kgo.WithHooks(from),
			kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.MetadataMinAge(50 * time.Millisecond), kgo.FetchMaxWait(200 * time.Millisecond)}, opts...)...)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(cl.Close)
		got := int64(0)
		return from, func() {
			t.Helper()
			for got < written {
				fs := cl.PollFetches(ctx)
				if ctx.Err() != nil {
					t.Fatalf("read %d of %d", got, written)
				}
				fs.EachRecord(func(r *kgo.Record) {
					if r.Offset != got {
						t.Fatalf("offset %d after %d", r.Offset, got-1)
					}
					got++
				})
			}
		}
	}
	from, read := consumer()
	soon(t, "the broker in the client's rack is read from", func() bool {
		write(20)
		read()
		return from.count(nearID) > 0
	})
	// All it asks of the leader is where to read. On a slow machine the follower is out of sync now and then, and the leader is asked rightly.
	var before int
	soon(t, "nothing is fetched from the leader", func() bool {
		before = from.count(int32(leader))
		for range 50 {
			write(1)
			read()
		}
		return from.count(int32(leader)) == before
	})
	// franz-go goes on trying a broker that is gone until it is time to ask the leader again.
	from, read = consumer(kgo.RecheckPreferredReplicaInterval(time.Second))
	read()
	c.stop(near)
	before = from.others(nearID)
	write(20)
	read()
	if from.others(nearID) == before {
		t.Fatal("nothing was fetched from the leader, whoever that is, after the follower went")
	}
}

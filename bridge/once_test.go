// Exactly once, under kills on either side: what is in the source is in the target, none lost, none twice, in order per subject.
//
//	go test ./bridge -run Once -v -bridge-messages 1000000 -timeout 60m

package bridge

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/balsamq/balsa/brokertest"
	"github.com/balsamq/balsa/client"
)

var (
	onceMessages = flag.Int("bridge-messages", 4000, "messages that the tests of exactly-once send each way")
	onceSeed     = flag.Uint64("bridge-seed", 0, "of the kills; 0: drawn afresh, and printed")
)

// job is one of a bridge that a test runs by itself.
func job(t testing.TB, kafka client.Config, s *Spec) Job {
	return Job{ID: "6f1c", Name: "b", Cluster: "c", Spec: s, Number: 1, Position: PositionFirst, Kafka: kafka, Logger: slog.New(slog.NewTextHandler(t.Output(), nil))}
}

func start(t testing.TB, j Job) *Bridge {
	t.Helper()
	b, err := Start(j)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close) // of a test that fails as well: its log ends with it
	return b
}

// caughtUp waits until a bridge has nothing more to do.
func caughtUp(t testing.TB, b *Bridge) {
	t.Helper()
	for done := false; !done; {
		before := b.Status().Position
		soon(t, "the bridge has caught up", func() error {
			s := b.Status()
			if done = s.State == StateRunning && s.Lag == 0; done || s.Position != before { // with a new deadline
				return nil
			}
			return fmt.Errorf("it is %+v", s)
		})
	}
}

// records are all committed records of a topic, by partition.
func records(t testing.TB, cfg client.Config, topic string) map[int32][]*kgo.Record {
	t.Helper()
	adm, err := client.NewAdmin(t.Context(), withOptions(cfg, kgo.ConsumeTopics(topic), kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.KeepControlRecords(),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart())))
	if err != nil {
		t.Fatal(err)
	}
	defer adm.Close()
	var parts []client.Partition
	soon(t, "the topic says where it ends", func() (err error) { parts, err = adm.Offsets(t.Context(), topic); return err })
	left := make(map[int32]int64)
	for _, p := range parts {
		if p.End > p.Start {
			left[p.Partition] = p.End
		}
	}
	out := make(map[int32][]*kgo.Record)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	for len(left) > 0 {
		fetches := adm.Client().PollRecords(ctx, 10_000)
		if err := fetches.Err(); err != nil {
			t.Fatal(err)
		}
		for r := range fetches.RecordsAll() {
			if !r.Attrs.IsControl() {
				out[r.Partition] = append(out[r.Partition], r)
			}
			if r.Offset+1 >= left[r.Partition] {
				delete(left, r.Partition)
			}
		}
	}
	return out
}

// chaos kills at random until done is closed: brokers, nats-servers, and bridges, of which there may be two for a while.
type chaos struct {
	t     testing.TB
	rnd   *rand.Rand
	cl    *brokertest.Brokers
	nc    *natsCluster
	job   Job
	kills int
	sent  atomic.Int64 // of the messages that the source is to have

	mu     sync.Mutex // guards bridge
	bridge *Bridge
}

func newChaos(t testing.TB, cl *brokertest.Brokers, nc *natsCluster, j Job) *chaos {
	seed := *onceSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("-bridge-seed %d", seed)
	c := &chaos{t: t, rnd: rand.New(rand.NewPCG(seed, 0)), cl: cl, nc: nc, job: j, bridge: start(t, j)}
	t.Cleanup(func() { c.current().Close() })
	return c
}

func (c *chaos) current() *Bridge {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.bridge
}

// run kills so many times while messages are sent, and leaves everything running. wait is between a kill and what follows.
func (c *chaos) run(kills, messages int) {
	for k := range kills {
		c.spread(int64(k * messages / kills))
		wait := time.Duration(100+c.rnd.IntN(900)) * time.Millisecond
		switch what := c.rnd.IntN(4); {
		case what == 0 && len(c.cl.All()) > 1:
			b := c.cl.All()[c.rnd.IntN(len(c.cl.All()))]
			b.Kill()
			c.pause(wait)
			ctx, cancel := context.WithTimeout(c.t.Context(), time.Minute)
			if err := b.Restart(ctx); err != nil {
				c.t.Errorf("restart broker %d: %v", b.ID(), err)
			}
			cancel()
		case what == 1:
			n := c.nc.nodes[c.rnd.IntN(len(c.nc.nodes))]
			n.kill()
			c.pause(wait)
			n.start(c.t)
		case what == 2:
			c.move(wait / 4)
		default:
			c.current().Close()
			b := start(c.t, c.job)
			c.mu.Lock()
			c.bridge = b
			c.mu.Unlock()
		}
		c.kills++
		c.pause(wait)
	}
}

// move gives the bridge another owner, which begins before the old one knows: so much before.
func (c *chaos) move(overlap time.Duration) {
	b := start(c.t, c.job)
	c.pause(overlap)
	c.mu.Lock()
	old := c.bridge
	c.bridge = b
	c.mu.Unlock()
	old.Close()
}

// moveWithoutLeader waits until the bridge is at work, kills the server that leads a stream, and moves the bridge twice before it is started again.
func (c *chaos) moveWithoutLeader(js jetstream.JetStream, stream string) {
	for deadline := time.Now().Add(time.Minute); ; c.pause(time.Millisecond) {
		s := c.current().Status()
		if s.Records > 0 || s.State == StateRunning && s.Lag == 0 && c.sent.Load() > 0 { // the other one has taken all of it
			break
		}
		if time.Now().After(deadline) {
			c.t.Errorf("the bridge does nothing: %+v", s)
			return
		}
	}
	leader := -1
	for deadline := time.Now().Add(time.Minute); leader < 0; c.pause(10 * time.Millisecond) {
		st, err := js.Stream(c.t.Context(), stream)
		if err == nil && st.CachedInfo().Cluster != nil {
			leader = c.nc.named(st.CachedInfo().Cluster.Leader)
		}
		if leader < 0 && time.Now().After(deadline) {
			c.t.Errorf("stream %s has no leader: %v", stream, err)
			return
		}
	}
	n := c.nc.nodes[leader]
	n.kill()
	c.t.Logf("the leader is dead; the bridge is %+v", c.current().Status())
	for range 2 {
		c.pause(200 * time.Millisecond)
		c.move(100 * time.Millisecond)
	}
	n.start(c.t)
}

// message is the i-th one of a source stream.
func (c *chaos) message(i int) *nats.Msg {
	c.sent.Store(int64(i) + 1)
	return &nats.Msg{Subject: fmt.Sprintf("s.%d.x", i%17), Data: strconv.AppendInt(nil, int64(i), 10)}
}

// produce fills the source topic.
func (c *chaos) produce(n int) {
	p, err := client.NewProducer(c.t.Context(), client.ProducerConfig{Config: c.cl.Config(), Topic: "t"})
	if err != nil {
		c.t.Fatal(err)
	}
	for i := range n {
		c.sent.Store(int64(i) + 1)
		p.ProduceAsync(c.t.Context(), &kgo.Record{Key: fmt.Append(nil, "k.", i%17), Value: strconv.AppendInt(nil, int64(i), 10)}, nil)
	}
	if err := p.Close(c.t.Context()); err != nil {
		c.t.Fatal(err)
	}
}

// spread waits until so many are sent, though not for long: then it is slow enough for another kill.
func (c *chaos) spread(sent int64) {
	for began := time.Now(); c.sent.Load() < sent && time.Since(began) < 3*time.Second && c.t.Context().Err() == nil; {
		c.pause(10 * time.Millisecond)
	}
}

func (c *chaos) pause(d time.Duration) {
	select {
	case <-c.t.Context().Done():
	case <-time.After(d):
	}
}

// killsFor is how many kills a run of so many messages gets.
func killsFor(messages int) int { return 6 + messages/25_000 }

func rate(n int, d time.Duration) string {
	return fmt.Sprintf("%d messages in %v: %.0f a second", n, d.Round(time.Millisecond), float64(n)/d.Seconds())
}

// onceIntoTopic holds a topic against the stream that a bridge has taken into it, of which so many messages were acknowledged.
func onceIntoTopic(t testing.TB, js jetstream.JetStream, stream string, cfg client.Config, topic string, acknowledged int) {
	t.Helper()
	bySeq := make(map[uint64]*kgo.Record)
	for p, recs := range records(t, cfg, topic) {
		before := uint64(0)
		for _, r := range recs {
			text, _ := find(r.Headers, headerSeq)
			seq, err := strconv.ParseUint(text, 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			if seq <= before { // a subject goes to one partition, and so keeps its order
				t.Fatalf("partition %d has message %d behind %d", p, seq, before)
			}
			if bySeq[seq] != nil {
				t.Fatalf("message %d is there twice", seq)
			}
			before, bySeq[seq] = seq, r
		}
	}
	n := 0
	eachStored(t, js, stream, func(m jetstream.Msg, meta *jetstream.MsgMetadata) {
		n++
		r := bySeq[meta.Sequence.Stream]
		if r == nil {
			t.Fatalf("message %d is lost", meta.Sequence.Stream)
		}
		if s, _ := find(r.Headers, headerSubject); s != m.Subject() || string(r.Value) != string(m.Data()) {
			t.Fatalf("message %d of %s, %q, has become %q of %s", meta.Sequence.Stream, m.Subject(), m.Data(), r.Value, s)
		}
	})
	if len(bySeq) != n || n < acknowledged {
		t.Fatalf("%d records of %d messages, and %d were acknowledged", len(bySeq), n, acknowledged)
	}
	t.Logf("%d messages are there, none lost, none twice, in order", n)
}

// onceIntoStream holds a stream against the topic that a bridge has taken into it, by the subject "prefix{key}".
func onceIntoStream(t testing.TB, cfg client.Config, topic string, js jetstream.JetStream, stream, prefix string, n int) {
	t.Helper()
	want := make(map[string]*kgo.Record)
	for part, recs := range records(t, cfg, topic) {
		for _, r := range recs {
			want[fmt.Sprintf("%s/%d/%d", topic, part, r.Offset)] = r
		}
	}
	if len(want) != n {
		t.Fatalf("the topic has %d records of %d", len(want), n)
	}
	newest := make(map[string]int64)
	eachStored(t, js, stream, func(m jetstream.Msg, _ *jetstream.MsgMetadata) {
		place := m.Headers().Get(headerPlace)
		r := want[place]
		if r == nil {
			t.Fatalf("%s is there twice, or from nowhere: %s", place, headerText(m.Headers()))
		}
		delete(want, place)
		if subject := prefix + escapeToken(r.Key); m.Subject() != subject || string(m.Data()) != string(r.Value) {
			t.Fatalf("%s, %q of %s, has become %q of %s", place, r.Value, subject, m.Data(), m.Subject())
		}
		if before, ok := newest[m.Subject()]; ok && r.Offset <= before {
			t.Fatalf("subject %s has offset %d behind %d", m.Subject(), r.Offset, before)
		}
		newest[m.Subject()] = r.Offset
	})
	if len(want) > 0 {
		t.Fatalf("%d records are lost", len(want))
	}
	t.Logf("%d records are there, none lost, none twice, in order", n)
}

func TestOnceIntoTopic(t *testing.T) {
	t.Parallel()
	for _, servers := range []int{1, 3} {
		t.Run(fmt.Sprintf("%d servers", servers), func(t *testing.T) {
			t.Parallel()
			nc := startNATS(t, servers, "")
			cl := brokertest.Cluster(t, 3, brokertest.Topic("t", 4))
			_, js := nc.dial()
			nc.stream(js, jetstream.StreamConfig{Name: "S", Subjects: []string{"s.>"}})
			n := *onceMessages
			c := newChaos(t, cl, nc, job(t, cl.Config(), &Spec{Servers: nc.urls(), FromStream: "S", ToTopic: "t", Key: "{subject[1]}"}))
			began := time.Now()
			var wg sync.WaitGroup
			wg.Go(func() { c.run(killsFor(n), n) })
			publish(t, js, n, c.message)
			t.Logf("published: %s", rate(n, time.Since(began)))
			wg.Wait()
			caughtUp(t, c.current())
			t.Logf("with %d kills: %s", c.kills, rate(n, time.Since(began)))

			onceIntoTopic(t, js, "S", cl.Config(), "t", n)
		})
	}
}

func TestOnceIntoStream(t *testing.T) {
	t.Parallel()
	for _, servers := range []int{1, 3} {
		t.Run(fmt.Sprintf("%d servers", servers), func(t *testing.T) {
			t.Parallel()
			nc := startNATS(t, servers, "")
			cl := brokertest.Cluster(t, 3, brokertest.Topic("t", 4))
			_, js := nc.dial()
			// A window of a moment: what is not repeated is not so because JetStream remembers the ids.
			nc.stream(js, jetstream.StreamConfig{Name: "S", Subjects: []string{"s.>"}, Duplicates: 100 * time.Millisecond})
			n := *onceMessages
			c := newChaos(t, cl, nc, job(t, cl.Config(), &Spec{Servers: nc.urls(), FromTopic: "t", ToStream: "S", Subject: "s.{key}"}))
			began := time.Now()
			var wg sync.WaitGroup
			wg.Go(func() { c.run(killsFor(n), n) })
			c.produce(n)
			t.Logf("produced: %s", rate(n, time.Since(began)))
			wg.Wait()
			caughtUp(t, c.current())
			t.Logf("with %d kills: %s", c.kills, rate(n, time.Since(began)))

			onceIntoStream(t, cl.Config(), "t", js, "S", "s.", n)
		})
	}
}

// The leader of a stream dies while messages are in flight, and before there is another one, which takes four seconds at the least, the bridge has another owner, and then
// a third: each begins before the one before it ends.
func TestMovesWithoutLeader(t *testing.T) {
	t.Parallel()
	const n = 24_000
	lead := func(c *chaos, js jetstream.JetStream) func() {
		return func() {
			for k := range 2 {
				c.spread(int64((k + 1) * n / 3))
				c.moveWithoutLeader(js, "S")
			}
		}
	}
	t.Run("into a topic", func(t *testing.T) {
		t.Parallel()
		nc := startNATS(t, 3, "")
		cl := brokertest.Cluster(t, 3, brokertest.Topic("t", 4))
		_, js := nc.dial()
		nc.stream(js, jetstream.StreamConfig{Name: "S", Subjects: []string{"s.>"}})
		c := newChaos(t, cl, nc, job(t, cl.Config(), &Spec{Servers: nc.urls(), FromStream: "S", ToTopic: "t", Key: "{subject[1]}"}))
		var wg sync.WaitGroup
		wg.Go(lead(c, js))
		publish(t, js, n, c.message)
		wg.Wait()
		caughtUp(t, c.current())
		onceIntoTopic(t, js, "S", cl.Config(), "t", n)
	})
	t.Run("into a stream", func(t *testing.T) {
		t.Parallel()
		nc := startNATS(t, 3, "")
		cl := brokertest.Cluster(t, 3, brokertest.Topic("t", 4))
		_, js := nc.dial()
		nc.stream(js, jetstream.StreamConfig{Name: "S", Subjects: []string{"s.>"}, Duplicates: 100 * time.Millisecond})
		c := newChaos(t, cl, nc, job(t, cl.Config(), &Spec{Servers: nc.urls(), FromTopic: "t", ToStream: "S", Subject: "s.{key}"}))
		var wg sync.WaitGroup
		wg.Go(lead(c, js))
		c.produce(n)
		wg.Wait()
		caughtUp(t, c.current())
		onceIntoStream(t, cl.Config(), "t", js, "S", "s.", n)
	})
}

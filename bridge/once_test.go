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
	return b
}

// caughtUp waits until a bridge has nothing more to do.
func caughtUp(t testing.TB, b *Bridge) {
	t.Helper()
	soon(t, "the bridge has caught up", func() error {
		if s := b.Status(); s.State != StateRunning || s.Lag != 0 {
			return fmt.Errorf("it is %+v", s)
		}
		return nil
	})
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

// run kills so many times, and leaves everything running. wait is between a kill and what follows.
func (c *chaos) run(kills int) {
	for range kills {
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
		case what == 2: // moved: the new one begins before the old one knows
			b := start(c.t, c.job)
			c.pause(wait / 4)
			old := c.current()
			c.mu.Lock()
			c.bridge = b
			c.mu.Unlock()
			old.Close()
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
			wg.Go(func() { c.run(killsFor(n)) })
			publish(t, js, n, func(i int) *nats.Msg {
				return &nats.Msg{Subject: fmt.Sprintf("s.%d.x", i%17), Data: strconv.AppendInt(nil, int64(i), 10)}
			})
			wg.Wait()
			caughtUp(t, c.current())
			t.Logf("with %d kills: %s", c.kills, rate(n, time.Since(began)))

			want := stored(t, js, "S")
			if len(want) < n {
				t.Fatalf("the stream has %d messages, of %d that it acknowledged", len(want), n)
			}
			bySeq := make(map[uint64]*kgo.Record)
			for p, recs := range records(t, cl.Config(), "t") {
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
			for _, m := range want {
				meta, err := m.Metadata()
				if err != nil {
					t.Fatal(err)
				}
				r := bySeq[meta.Sequence.Stream]
				if r == nil {
					t.Fatalf("message %d is lost", meta.Sequence.Stream)
				}
				if s, _ := find(r.Headers, headerSubject); s != m.Subject() || string(r.Value) != string(m.Data()) {
					t.Fatalf("message %d of %s, %q, has become %q of %s", meta.Sequence.Stream, m.Subject(), m.Data(), r.Value, s)
				}
			}
			if len(bySeq) != len(want) {
				t.Fatalf("%d records of %d messages", len(bySeq), len(want))
			}
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
			p, err := client.NewProducer(t.Context(), client.ProducerConfig{Config: cl.Config(), Topic: "t"})
			if err != nil {
				t.Fatal(err)
			}
			began := time.Now()
			var wg sync.WaitGroup
			wg.Go(func() { c.run(killsFor(n)) })
			for i := range n {
				p.ProduceAsync(t.Context(), &kgo.Record{Key: fmt.Append(nil, "k.", i%17), Value: strconv.AppendInt(nil, int64(i), 10)}, nil)
			}
			if err := p.Close(t.Context()); err != nil {
				t.Fatal(err)
			}
			wg.Wait()
			caughtUp(t, c.current())
			t.Logf("with %d kills: %s", c.kills, rate(n, time.Since(began)))

			want := make(map[string]*kgo.Record)
			for part, recs := range records(t, cl.Config(), "t") {
				for _, r := range recs {
					want[fmt.Sprintf("t/%d/%d", part, r.Offset)] = r
				}
			}
			if len(want) != n {
				t.Fatalf("the topic has %d records of %d", len(want), n)
			}
			newest := make(map[string]int64)
			for _, m := range stored(t, js, "S") {
				place := m.Headers().Get(headerPlace)
				r := want[place]
				if r == nil {
					t.Fatalf("%s is there twice, or from nowhere: %s", place, headerText(m.Headers()))
				}
				delete(want, place)
				if wantSubject := "s." + escapeToken(r.Key); m.Subject() != wantSubject || string(m.Data()) != string(r.Value) {
					t.Fatalf("%s, %q of %s, has become %q of %s", place, r.Value, wantSubject, m.Data(), m.Subject())
				}
				if before, ok := newest[m.Subject()]; ok && r.Offset <= before {
					t.Fatalf("subject %s has offset %d behind %d", m.Subject(), r.Offset, before)
				}
				newest[m.Subject()] = r.Offset
			}
			if len(want) > 0 {
				t.Fatalf("%d records are lost", len(want))
			}
		})
	}
}

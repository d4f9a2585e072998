package broker

// Reads of the log's end: by lease, through ReadIndex, and from a follower, on a cluster of three in this process, over TCP.
// docs/design/0013-reads.md has the figures and the command.

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/balsamq/balsa/coordinator"
)

// readBench is a cluster with a topic that is read.
type readBench struct {
	c     *testCluster
	topic *coordinator.Topic
}

// quorum switches every replica between the two consistencies.
func (r *readBench) quorum(b *testing.B, on bool) {
	for _, n := range r.c.nodes {
		for _, rep := range n.rec.replicas() {
			s := rep.Settings()
			s.QuorumReads = on
			if err := rep.UpdateSettings(s); err != nil {
				b.Fatal(err)
			}
		}
	}
}

// question is one read, and the broker that is asked.
type question struct {
	at  int // in c.nodes
	req kmsg.Request
}

// place picks a partition, and a broker that leads it or that follows.
func (r *readBench) place(leads bool) (at int, p int32) {
	p = rand.Int32N(int32(len(r.topic.Partitions)))
	leader, _, _ := r.c.nodes[0].Leader(r.topic.ID, p)
	at = max(int(leader)-1, 0) // the id was asked for
	if !leads {
		at = (at + 1 + rand.IntN(len(r.c.nodes)-1)) % len(r.c.nodes)
	}
	return at, p
}

// latest asks the leader, end asks a follower; both wait for a read point, and answer no records.
func (r *readBench) latest() question {
	at, part := r.place(true)
	req := kmsg.NewPtrListOffsetsRequest()
	req.Version = 7
	t, p := kmsg.NewListOffsetsRequestTopic(), kmsg.NewListOffsetsRequestTopicPartition()
	t.Topic, p.Partition, p.Timestamp, p.CurrentLeaderEpoch = r.topic.Name, part, -1, -1
	t.Partitions = append(t.Partitions, p)
	req.Topics = append(req.Topics, t)
	return question{at, req}
}

func (r *readBench) end() question {
	at, p := r.place(false)
	return question{at, fetchRequest(12, r.topic.Name, [16]byte{}, p, 0, 0)}
}

func readError(resp kmsg.Response) int16 {
	switch x := resp.(type) {
	case *kmsg.ListOffsetsResponse:
		return x.Topics[0].Partitions[0].ErrorCode
	case *kmsg.FetchResponse:
		return x.Topics[0].Partitions[0].ErrorCode
	}
	return -1
}

// run makes b.N reads by so many readers, each on connections of its own.
func (r *readBench) run(b *testing.B, readers int, ask func() question) {
	var left, failed atomic.Int64
	left.Store(int64(b.N))
	all := make([][]time.Duration, readers)
	conns := make([][]*kafkaClient, readers)
	for i := range conns {
		for _, n := range r.c.nodes {
			nc, err := net.Dial("tcp", n.KafkaAddr())
			if err != nil {
				b.Fatal(err)
			}
			defer nc.Close()
			conns[i] = append(conns[i], &kafkaClient{t: b, nc: nc, br: bufio.NewReader(nc), f: kmsg.NewRequestFormatter(kmsg.FormatterClientID("bench"))})
		}
	}
	b.ResetTimer()
	var wg sync.WaitGroup
	for i := range conns {
		wg.Go(func() {
			for left.Add(-1) >= 0 {
				q := ask()
				began := time.Now()
				conns[i][q.at].send(q.req)
				_, body := conns[i][q.at].receive()
				all[i] = append(all[i], time.Since(began))
				if readError(decodeAnswer[kmsg.Response](b, q.req, body)) != 0 {
					failed.Add(1)
				}
			}
		})
	}
	wg.Wait()
	b.StopTimer()
	took := slices.Concat(all...)
	slices.Sort(took)
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "reads/s")
	b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-µs")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-µs")
	if n := failed.Load(); n > 0 {
		b.ReportMetric(float64(n), "refused")
	}
}

// writeAll writes to the partitions of a topic in turn, rate records a second, until ctx ends.
func writeAll(ctx context.Context, b *testing.B, c *testCluster, topic string, partitions, rate int) (*atomic.Int64, func()) {
	cl, err := kgo.NewClient(kgo.SeedBrokers(c.seeds()...), kgo.DefaultProduceTopic(topic), kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.ProducerLinger(0))
	if err != nil {
		b.Fatal(err)
	}
	var acked, refused atomic.Int64
	var wg sync.WaitGroup
	value := make([]byte, 100)
	wg.Go(func() {
		const beat = 10 * time.Millisecond
		tick := time.NewTicker(beat)
		defer tick.Stop()
		for next := 0; ctx.Err() == nil; <-tick.C {
			for range max(1, rate*int(beat)/int(time.Second)) {
				cl.Produce(context.Background(), &kgo.Record{Partition: int32(next % partitions), Value: value}, func(_ *kgo.Record, err error) {
					if err == nil {
						acked.Add(1)
					} else {
						refused.Add(1)
					}
				})
				next++
			}
		}
	})
	return &acked, func() {
		wg.Wait()
		if err := cl.Flush(context.Background()); err != nil || refused.Load() > 0 {
			b.Errorf("flush: %v; %d records refused", err, refused.Load())
		}
		cl.Close()
	}
}

func BenchmarkReads(b *testing.B) {
	const (
		written = 1000
		rate    = 1000 // records a second, so that each of them is written once
	)
	c := newCluster(b, 3, false)
	for i, n := range c.nodes {
		n.cfg.ElectionTimeout, n.cfg.NodeID = time.Second, int32(i+1)
	}
	c.start(c.nodes...)
	c.awaitVoters(3)
	id := c.nodes[0].mustCreate(b, "read", 30, 3)
	soon(b, "it is served", func() bool { return c.served(id) })
	r := &readBench{c, c.nodes[0].Image().TopicByID(id)}
	modes := func(b *testing.B, r *readBench, readers ...int) {
		for _, k := range readers {
			for _, m := range []struct {
				name   string
				quorum bool
				ask    func() question
			}{{"lease", false, r.latest}, {"quorum", true, r.latest}, {"follower", false, r.end}, {"follower-quorum", true, r.end}} {
				b.Run(fmt.Sprintf("readers=%d/%s", k, m.name), func(b *testing.B) {
					r.quorum(b, m.quorum)
					defer r.quorum(b, false)
					r.run(b, k, m.ask)
				})
			}
		}
	}
	b.Run("quiet", func(b *testing.B) { modes(b, r, 1, 64) })
	b.Run(fmt.Sprintf("written=%d", written), func(b *testing.B) {
		wid := c.nodes[0].mustCreate(b, "written", written, 3)
		soon(b, "it is served", func() bool { return c.served(wid) })
		ctx, stop := context.WithCancel(b.Context())
		acked, wait := writeAll(ctx, b, c, "written", written, rate)
		began := time.Now()
		modes(b, r, 64)
		n, d := acked.Load(), time.Since(began)
		stop()
		wait()
		b.Logf("meanwhile %d records were written and acknowledged, %.0f a second", n, float64(n)/d.Seconds())
	})
}

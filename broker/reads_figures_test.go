package broker

// Reads of the log's end: by lease, through ReadIndex, and from a follower, on a cluster of three in this process, over TCP.
// docs/design/0013-reads.md has the figures and the command.

import (
	"bufio"
	"context"
	"flag"
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

var readFigures = flag.Duration("read-figures", 0, "how long TestReadFigures reads in each way; 0: it does not run")

// readBench is a cluster with a topic that is read.
type readBench struct {
	c     *testCluster
	topic *coordinator.Topic
}

// quorum switches every replica between the two consistencies.
func (r *readBench) quorum(t *testing.T, on bool) {
	for _, n := range r.c.nodes {
		for _, rep := range n.rec.replicas() {
			s := rep.Settings()
			s.QuorumReads = on
			if err := rep.UpdateSettings(s); err != nil {
				t.Fatal(err)
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

// run has so many readers, each on connections of its own, read for as long as -read-figures says.
func (r *readBench) run(t *testing.T, name string, readers int, ask func() question) {
	took, failed := make([][]time.Duration, readers), make([]int, readers)
	conns := make([][]*kafkaClient, readers)
	for i := range conns {
		for _, n := range r.c.nodes {
			nc, err := net.Dial("tcp", n.KafkaAddr())
			if err != nil {
				t.Fatal(err)
			}
			defer nc.Close()
			conns[i] = append(conns[i], &kafkaClient{t: t, nc: nc, br: bufio.NewReader(nc), f: kmsg.NewRequestFormatter(kmsg.FormatterClientID("figures"))})
		}
	}
	began := time.Now()
	var wg sync.WaitGroup
	for i := range conns {
		wg.Go(func() {
			for time.Since(began) < *readFigures {
				q := ask()
				sent := time.Now()
				conns[i][q.at].send(q.req)
				_, body := conns[i][q.at].receive()
				took[i] = append(took[i], time.Since(sent))
				if readError(decodeAnswer[kmsg.Response](t, q.req, body)) != 0 {
					failed[i]++
				}
			}
		})
	}
	wg.Wait()
	elapsed, all, refused := time.Since(began), slices.Concat(took...), 0
	for _, n := range failed {
		refused += n
	}
	slices.Sort(all)
	t.Logf("%-38s %7.0f reads/s, p50 %6d µs, p99 %7d µs, %d refused", name, float64(len(all))/elapsed.Seconds(),
		all[len(all)/2].Microseconds(), all[len(all)*99/100].Microseconds(), refused)
}

// writeAll writes to the partitions of a topic in turn, rate records a second, until ctx ends.
func writeAll(ctx context.Context, t *testing.T, c *testCluster, topic string, partitions, rate int) (*atomic.Int64, func()) {
	cl, err := kgo.NewClient(kgo.SeedBrokers(c.seeds()...), kgo.DefaultProduceTopic(topic), kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.ProducerLinger(0))
	if err != nil {
		t.Fatal(err)
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
			t.Errorf("flush: %v; %d records refused", err, refused.Load())
		}
		cl.Close()
	}
}

// TestReadFigures measures, and checks nothing but that it is answered.
func TestReadFigures(t *testing.T) {
	const (
		written = 1000
		rate    = 1000 // records a second, so that each of them is written once
	)
	if *readFigures == 0 {
		t.Skip("it measures: -read-figures 5s")
	}
	c := newCluster(t, 3, false)
	for i, n := range c.nodes {
		n.cfg.ElectionTimeout, n.cfg.NodeID = time.Second, int32(i+1)
	}
	c.start(c.nodes...)
	c.awaitVoters(3)
	id := c.nodes[0].mustCreate(t, "read", 30, 3)
	soon(t, "it is served", func() bool { return c.served(id) })
	r := &readBench{c, c.nodes[0].Image().TopicByID(id)}
	modes := func(state string, readers ...int) {
		for _, k := range readers {
			for _, m := range []struct {
				name   string
				quorum bool
				ask    func() question
			}{{"lease", false, r.latest}, {"quorum", true, r.latest}, {"follower, lease", false, r.end}, {"follower, quorum", true, r.end}} {
				r.quorum(t, m.quorum)
				r.run(t, fmt.Sprintf("%s, %d readers, %s:", state, k, m.name), k, m.ask)
			}
		}
		r.quorum(t, false)
	}
	modes("quiet", 1, 64)
	wid := c.nodes[0].mustCreate(t, "written", written, 3)
	soon(t, "it is served", func() bool { return c.served(wid) })
	ctx, stop := context.WithCancel(t.Context())
	acked, wait := writeAll(ctx, t, c, "written", written, rate)
	began := time.Now()
	modes(fmt.Sprintf("%d written", written), 1, 64)
	n, d := acked.Load(), time.Since(began)
	stop()
	wait()
	t.Logf("meanwhile %d records were written and acknowledged, %.0f a second", n, float64(n)/d.Seconds())
}

package faults_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

var txnMinutes = flag.Float64("txn-minutes", 0.25, "how long TestExactlyOnce kills brokers")

const (
	txnIn, txnOut = "exactly-in", "exactly-out"
	txnWorkers    = 3
	// txnAhead bounds how far the feeder is ahead of the workers.
	txnAhead = 3000
)

// attempt is one transaction of a worker: each of its records names it.
type attempt struct {
	id      int64
	outcome string // "commit" or "abort" once acknowledged, else ""
	inputs  int
}

// exactlyOnce is a consume-transform-produce application, with what it knows of itself.
type exactlyOnce struct {
	c *cluster

	fed      atomic.Int64 // acknowledged inputs
	done     atomic.Int64 // inputs of transactions whose commit was acknowledged
	attempts atomic.Int64
	restarts atomic.Int64

	mu   sync.Mutex
	all  map[int64]*attempt
	live [partitions][]*kgo.Record // what a reader that was there all the time has read
}

// feed writes numbered records until ctx ends.
func (x *exactlyOnce) feed(ctx context.Context) {
	cl := x.c.client(kgo.DefaultProduceTopic(txnIn), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.RecordDeliveryTimeout(generous), kgo.UnknownTopicRetries(-1))
	defer cl.Close()
	window := make(chan struct{}, 64)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for seq := 0; ctx.Err() == nil; seq++ {
		if x.fed.Load()-x.done.Load() > txnAhead {
			<-tick.C
			continue
		}
		window <- struct{}{}
		cl.Produce(context.Background(), &kgo.Record{Partition: int32(seq % partitions), Value: fmt.Append(nil, seq)}, func(_ *kgo.Record, err error) {
			if err != nil {
				x.c.t.Errorf("input %d is refused: %v", seq, err)
			} else {
				x.fed.Add(1)
			}
			<-window
		})
	}
	if err := cl.Flush(context.Background()); err != nil {
		x.c.t.Errorf("flush: %v", err)
	}
}

// work runs one worker, which now and then aborts, or dies and is replaced, until ctx ends.
func (x *exactlyOnce) work(ctx context.Context, n int) {
	rng := rand.New(rand.NewPCG(uint64(n), 7))
	for ctx.Err() == nil {
		x.session(ctx, n, rng)
		x.restarts.Add(1)
	}
}

// session is one life of a worker: until something goes wrong that a client cannot mend, or it dies by itself.
func (x *exactlyOnce) session(ctx context.Context, n int, rng *rand.Rand) {
	s, err := kgo.NewGroupTransactSession(kgo.SeedBrokers(x.c.seeds()...), kgo.TransactionalID(fmt.Sprint("worker-", n)), kgo.TransactionTimeout(15*time.Second),
		kgo.ConsumerGroup("exactly"), kgo.ConsumeTopics(txnIn), kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.DefaultProduceTopic(txnOut), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.SessionTimeout(8*time.Second), kgo.HeartbeatInterval(500*time.Millisecond),
		kgo.MetadataMinAge(50*time.Millisecond), kgo.FetchMaxWait(200*time.Millisecond), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		x.c.t.Errorf("worker %d: %v", n, err)
		return
	}
	defer s.Close()
	for {
		fs := s.PollRecords(ctx, 200)
		if ctx.Err() != nil || fs.IsClientClosed() {
			return
		}
		if fs.NumRecords() == 0 {
			continue
		}
		a := &attempt{id: x.attempts.Add(1), inputs: fs.NumRecords()}
		x.mu.Lock()
		x.all[a.id] = a
		x.mu.Unlock()
		if err := s.Begin(); err != nil {
			return
		}
		end, cancel := context.WithTimeout(context.Background(), generous)
		var failed atomic.Bool
		fs.EachRecord(func(r *kgo.Record) {
			s.Produce(end, &kgo.Record{Partition: r.Partition, Value: fmt.Appendf(nil, "%s %d %d", r.Value, r.Offset, a.id)}, func(_ *kgo.Record, err error) {
				if err != nil {
					failed.Store(true)
				}
			})
		})
		if rng.IntN(40) == 0 {
			cancel()
			return // dies in the middle: whoever comes after it fences it
		}
		wish := kgo.TryCommit
		if rng.IntN(10) == 0 || failed.Load() {
			wish = kgo.TryAbort
		}
		committed, err := s.End(end, wish)
		cancel()
		if err != nil {
			return
		}
		x.mu.Lock()
		a.outcome = "abort"
		if committed {
			a.outcome = "commit"
		}
		x.mu.Unlock()
		if committed {
			x.done.Add(int64(a.inputs))
		}
	}
}

// follow reads committed records as they come.
func (x *exactlyOnce) follow(ctx context.Context) {
	cl := x.c.client(kgo.ConsumeTopics(txnOut), kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchMaxWait(200*time.Millisecond))
	defer cl.Close()
	for {
		fs := cl.PollFetches(ctx)
		if ctx.Err() != nil {
			return
		}
		x.mu.Lock()
		fs.EachRecord(func(r *kgo.Record) { x.live[r.Partition] = append(x.live[r.Partition], r) })
		x.mu.Unlock()
	}
}

// readUp reads the committed records of a topic from its start to its end.
func (c *cluster) readUp(topic string) (out [partitions][]*kgo.Record) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), 2*generous)
	defer cancel()
	ends, err := c.admin.ListCommittedOffsets(ctx, topic)
	if err == nil {
		err = ends.Error()
	}
	if err != nil {
		c.t.Fatal(err)
	}
	cl := c.client(kgo.ConsumeTopics(topic), kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchMaxWait(200*time.Millisecond),
		kgo.KeepControlRecords())
	defer cl.Close()
	next := map[int32]int64{}
	for {
		missing := 0
		ends.Each(func(o kadm.ListedOffset) {
			if next[o.Partition] < o.Offset {
				missing++
			}
		})
		if missing == 0 {
			return out
		}
		fs := cl.PollFetches(ctx)
		fs.EachError(func(_ string, _ int32, err error) {
			// The client remembers the epoch of the last record that it returned, and not of a marker behind it, which may be of a later one.
			if _, ok := errors.AsType[*kgo.ErrDataLoss](err); !ok {
				c.t.Fatalf("reading %s: %v", topic, err)
			}
		})
		// A batch of an aborted transaction at the very end shows by its control record only.
		fs.EachRecord(func(r *kgo.Record) {
			next[r.Partition] = r.Offset + 1
			if !r.Attrs.IsControl() {
				out[r.Partition] = append(out[r.Partition], r)
			}
		})
	}
}

// TestExactlyOnce runs a consume-transform-produce application in transactions while brokers are killed at random, and its workers die
// and abort at random. Input and output must match one to one, checked in the manner of Jepsen's Kafka workload: nothing lost, duplicated,
// read though aborted, unseen though committed, out of order, or skipped by a reader.
func TestExactlyOnce(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	for _, name := range []string{topic, txnIn, txnOut} {
		c.eventually("topic "+name+" is made", func() error {
			r, err := c.admin.CreateTopic(t.Context(), partitions, nodes, nil, name)
			if err == nil {
				err = r.Err
			}
			return err
		})
	}
	c.eventually("the topic is whole", c.whole)
	x := &exactlyOnce{c: c, all: map[int64]*attempt{}}
	feeding, stopFeeding := context.WithCancel(t.Context())
	working, stopWorking := context.WithCancel(t.Context())
	defer stopWorking()
	var feeder, workers sync.WaitGroup
	feeder.Go(func() { x.feed(feeding) })
	for n := range txnWorkers {
		workers.Go(func() { x.work(working, n) })
	}
	workers.Go(func() { x.follow(working) })

	rng := rand.New(rand.NewPCG(1, 2))
	kills := 0
	for end := time.Now().Add(time.Duration(*txnMinutes * float64(time.Minute))); time.Now().Before(end); {
		seen := x.done.Load()
		c.eventually("transactions commit", func() error {
			if n := x.done.Load() - seen; n < int64(200+rng.IntN(400)) {
				return fmt.Errorf("%d inputs since the last kill", n)
			}
			return nil
		})
		p := c.procs[rng.IntN(nodes)]
		c.kill(p)
		kills++
		if rng.IntN(2) == 0 { // down for a while, or back at once
			seen := x.done.Load()
			c.eventually("transactions commit without a broker", func() error {
				if x.done.Load() == seen {
					return errors.New("nothing is committed")
				}
				return nil
			})
		}
		c.start(p)
		c.eventually("whole after the kill", c.whole)
	}
	stopFeeding()
	feeder.Wait()
	// The transactions of workers that died end by their successors, or by their time-outs.
	c.eventually("all inputs are done", func() error {
		offsets, err := c.admin.FetchOffsets(t.Context(), "exactly")
		if err != nil {
			return err
		}
		n := int64(0)
		offsets.Each(func(o kadm.OffsetResponse) {
			if o.Topic == txnIn && o.At > 0 {
				n += o.At
			}
		})
		if fed := x.fed.Load(); n < fed {
			return fmt.Errorf("%d of %d", n, fed)
		}
		return nil
	})
	inputs, outputs := c.readUp(txnIn), c.readUp(txnOut)
	x.check(inputs, outputs)
	c.eventually("the reader has come to the end", func() error {
		x.mu.Lock()
		defer x.mu.Unlock()
		for p := range outputs {
			if len(x.live[p]) < len(outputs[p]) {
				return fmt.Errorf("partition %d: %d of %d", p, len(x.live[p]), len(outputs[p]))
			}
		}
		return nil
	})
	stopWorking()
	workers.Wait()
	for p := range outputs {
		for i, r := range x.live[p] {
			if i >= len(outputs[p]) || outputs[p][i].Offset != r.Offset || string(outputs[p][i].Value) != string(r.Value) {
				t.Errorf("poll skip: a reader saw %d/%d (%s) as its record %d, which is not what is there", p, r.Offset, r.Value, i)
				break
			}
		}
	}
	t.Logf("%d inputs, %d transactions, %d workers' lives, %d kills", x.fed.Load(), len(x.all), x.restarts.Load(), kills)
}

// check compares what went in with what came out.
func (x *exactlyOnce) check(inputs, outputs [partitions][]*kgo.Record) {
	t := x.c.t
	x.mu.Lock()
	defer x.mu.Unlock()
	total := 0
	visible := map[int64]int{} // records of each attempt
	for p := range inputs {
		total += len(inputs[p])
		out := map[int64]int{} // by input offset
		last := int64(-1)
		for _, r := range outputs[p] {
			var seq, offset, id int64
			if _, err := fmt.Sscanf(string(r.Value), "%d %d %d", &seq, &offset, &id); err != nil {
				t.Fatalf("output %q: %v", r.Value, err)
			}
			visible[id]++
			if out[offset]++; out[offset] > 1 {
				t.Errorf("duplicated: input %d/%d came out again at %d", p, offset, r.Offset)
			}
			if offset <= last {
				t.Errorf("nonmonotonic: input %d/%d came out after %d", p, offset, last)
			}
			last = offset
			if a := x.all[id]; a == nil {
				t.Errorf("output of a transaction that nobody began: %q", r.Value)
			} else if a.outcome == "abort" {
				t.Errorf("aborted read: %q", r.Value)
			}
		}
		for _, r := range inputs[p] {
			if out[r.Offset] == 0 {
				t.Errorf("lost: input %d/%d (%s)", p, r.Offset, r.Value)
			}
		}
		if len(out) != len(inputs[p]) {
			t.Errorf("partition %d: %d inputs, %d outputs", p, len(inputs[p]), len(out))
		}
	}
	if int64(total) != x.fed.Load() {
		t.Errorf("%d inputs are there, %d were acknowledged", total, x.fed.Load())
	}
	for _, id := range slices.Sorted(maps.Keys(x.all)) {
		if a := x.all[id]; a.outcome == "commit" && visible[id] != a.inputs {
			t.Errorf("unseen: transaction %d was committed with %d records, %d are there", id, a.inputs, visible[id])
		} else if visible[id] != 0 && visible[id] != a.inputs {
			t.Errorf("torn: of transaction %d, %d of %d records are there", id, visible[id], a.inputs)
		}
	}
}

//go:build linux

// The load: producers whose every acknowledgement is written down, readers, and questions to single brokers.

package campaign_test

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/kversion"
)

const (
	plainTopic   = "plain"
	relaxedTopic = "relaxed" // of relaxed durability: kill -9 keeps the page cache
	inputTopic   = "in"      // of transactions
	outputTopic  = "out"

	// window is how many records of a partition may be on their way.
	window = 32
	// gap is between two records of a partition.
	gap, inputGap = 10 * time.Millisecond, 30 * time.Millisecond
	// inputsAhead is how many inputs may wait for their transactions.
	inputsAhead = 3000
	// large is the size of one record in a hundred.
	large = 40000
	// settle bounds what is waited for when the faults are over.
	settle = 4 * time.Minute
)

// ack is an acknowledged record.
type ack struct {
	seq    int
	offset int64
}

// partition is what is known of one.
type partition struct {
	mu       sync.Mutex
	values   []uint64  // by offset: a hash of what somebody has seen there; 0: nobody has
	acks     []ack     // in no order
	end      int64     // behind the last of them
	lastSent time.Time // when the latest record was sent that was acknowledged
}

// work is the load, and what it knows.
type work struct {
	rep    *report
	c      *cluster
	topics map[string]*[parts]partition

	acks, reads, answers, commits, transactions atomic.Int64

	inputs, outputs atomic.Int64 // acknowledged; of transactions that were committed
	txns            txns
	groups          groups
}

func newWork(rep *report, c *cluster) *work {
	w := &work{rep: rep, c: c, topics: make(map[string]*[parts]partition)}
	for _, t := range w.all() {
		w.topics[t] = new([parts]partition)
	}
	w.txns.of = make(map[int64]*txn)
	w.groups.of = make(map[string]*committed)
	return w
}

func (w *work) all() []string { return []string{plainTopic, relaxedTopic, inputTopic, outputTopic} }

// plain are those that are written to by records alone.
func (w *work) plain() []string { return []string{plainTopic, relaxedTopic} }

func (w *work) client(opts ...kgo.Opt) *kgo.Client {
	cl, err := kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(w.c.seeds()...), kgo.MetadataMinAge(100 * time.Millisecond), kgo.RequestTimeoutOverhead(3 * time.Second), kgo.DialTimeout(3 * time.Second),
		kgo.RetryBackoffFn(func(n int) time.Duration { return min(time.Second, time.Duration(20*n+20)*time.Millisecond) })}, opts...)...)
	if err != nil {
		panic(err) // by the options
	}
	return cl
}

// single is a client that asks one broker.
func (w *work) single(id int, opts ...kgo.Opt) *kgo.Client {
	cl, err := kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(w.c.net.ip(id) + ":9092"), kgo.RequestRetries(0), kgo.RequestTimeoutOverhead(3 * time.Second), kgo.DialTimeout(2 * time.Second)}, opts...)...)
	if err != nil {
		panic(err) // by the options
	}
	return cl
}

// start begins the load. What is returned ends it, and checks all that can be checked then.
func (w *work) start() (stop func()) {
	load, stopLoad := context.WithCancel(context.Background())
	read, stopRead := context.WithCancel(context.Background())
	w.rep.t.Cleanup(func() { stopLoad(); stopRead() })
	var producers, others, readers sync.WaitGroup
	for p := range int32(parts) {
		for _, t := range w.plain() {
			producers.Go(func() { w.produce(load, t, p, gap) })
		}
		producers.Go(func() { w.produce(load, inputTopic, p, inputGap) })
	}
	for k := range 3 {
		readers.Go(func() { w.transact(read, k) })
	}
	readers.Go(func() { w.followOutputs(read) })
	levels := []kgo.IsolationLevel{kgo.ReadUncommitted(), kgo.ReadCommitted()}
	ends := make([]map[string]*[parts]int64, len(levels))
	for i, level := range levels {
		readers.Go(func() { ends[i] = w.read(read, fmt.Sprint("reader ", i), level) })
	}
	for k := range 2 {
		others.Go(func() { w.member(load, "classic", k) })
		others.Go(func() { w.member(load, "consumer-protocol", k) })
	}
	others.Go(func() { w.commitAlone(load, "alone") })
	for _, n := range w.c.nodes {
		others.Go(func() { w.ask(load, n.id) })
	}
	return func() {
		stopLoad()
		producers.Wait()
		others.Wait()
		w.awaitTransactions()
		for _, t := range w.plain() {
			w.verify(t)
		}
		w.verifyTransactions()
		w.awaitReaders(read)
		stopRead()
		readers.Wait()
		for i, e := range ends {
			for _, t := range w.plain() {
				for p := range parts {
					if end := w.topics[t][p].ackedEnd(); e[t][p] < end {
						w.rep.violation("reader %d has read %s/%d up to %d, and %d was acknowledged", i, t, p, e[t][p], end)
					}
				}
			}
		}
	}
}

// see takes a value that somebody has seen at an offset: it is the same for all, at all times.
func (w *work) see(who, topic string, p int32, offset int64, value []byte) {
	h := fnv.New64a()
	_, _ = h.Write(value)
	sum := h.Sum64() | 1
	at := &w.topics[topic][p]
	at.mu.Lock()
	for int64(len(at.values)) <= offset {
		at.values = append(at.values, 0)
	}
	old := at.values[offset]
	if old == 0 {
		at.values[offset] = sum
	}
	at.mu.Unlock()
	if old != 0 && old != sum {
		w.rep.violation("%s: %s/%d has %.60q at %d, where another value was seen", who, topic, p, value, offset)
	}
}

func (p *partition) ackedEnd() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.end
}

// produce writes to one partition until ctx ends, and then waits for what is on its way.
func (w *work) produce(ctx context.Context, topic string, p int32, gap time.Duration) {
	cl := w.client(kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.DefaultProduceTopic(topic), kgo.RequiredAcks(kgo.AllISRAcks()),
		kgo.ProduceRequestTimeout(3*time.Second), kgo.UnknownTopicRetries(-1), kgo.RecordRetries(1<<30))
	defer cl.Close()
	rng := rand.New(rand.NewPCG(uint64(p), 3))
	onWay := make(chan struct{}, window)
	pad := strings.Repeat("x", large)
	at := &w.topics[topic][p]
	for seq := 0; ctx.Err() == nil; pause(ctx, gap) {
		size := 0
		switch {
		case topic == inputTopic:
			if w.inputs.Load()-w.outputs.Load() > inputsAhead {
				continue
			}
		case rng.IntN(100) == 0:
			size = rng.IntN(large)
		default:
			size = rng.IntN(100)
		}
		onWay <- struct{}{}
		sent, number := time.Now(), seq
		cl.Produce(context.Background(), &kgo.Record{Partition: p, Value: fmt.Appendf(nil, "%d:%d:%s", p, seq, pad[:size])}, func(r *kgo.Record, err error) {
			defer func() { <-onWay }()
			if err != nil {
				w.rep.violation("%s/%d: record %d is refused: %v", topic, p, number, err)
				return
			}
			w.acks.Add(1)
			if topic == inputTopic {
				w.inputs.Add(1)
			}
			w.see("its producer", topic, p, r.Offset, r.Value)
			at.mu.Lock()
			defer at.mu.Unlock()
			at.acks = append(at.acks, ack{number, r.Offset})
			at.end = max(at.end, r.Offset+1)
			at.lastSent = sent
		})
		seq++
	}
	end, cancel := context.WithTimeout(context.Background(), settle)
	defer cancel()
	if err := cl.Flush(end); err != nil {
		w.rep.violation("%s/%d: what was on its way when the faults ended is not acknowledged: %v", topic, p, err)
	}
}

// silentSince are the partitions that have acknowledged nothing that was sent since then.
func (w *work) silentSince(then time.Time) (out []string) {
	for _, t := range w.plain() {
		for i := range w.topics[t] {
			p := &w.topics[t][i]
			p.mu.Lock()
			if p.lastSent.Before(then) {
				out = append(out, fmt.Sprintf("%s/%d", t, i))
			}
			p.mu.Unlock()
		}
	}
	return out
}

// read follows the plain topics from their start: offsets come without a gap. It returns where it has come to.
func (w *work) read(ctx context.Context, who string, level kgo.IsolationLevel) map[string]*[parts]int64 {
	next := make(map[string]*[parts]int64)
	for _, t := range w.plain() {
		next[t] = new([parts]int64)
	}
	cl := w.client(kgo.ConsumeTopics(w.plain()...), kgo.FetchIsolationLevel(level), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchMaxWait(300*time.Millisecond))
	defer cl.Close()
	for {
		fs := cl.PollFetches(ctx)
		if ctx.Err() != nil {
			return next
		}
		fs.EachError(func(t string, p int32, err error) {
			if _, ok := errors.AsType[*kgo.ErrDataLoss](err); ok {
				w.rep.violation("%s: %s/%d: %v", who, t, p, err)
			}
		})
		fs.EachRecord(func(r *kgo.Record) {
			w.reads.Add(1)
			w.see(who, r.Topic, r.Partition, r.Offset, r.Value)
			n := &next[r.Topic][r.Partition]
			if r.Offset != *n {
				w.rep.violation("%s: %s/%d goes from %d to %d", who, r.Topic, r.Partition, *n, r.Offset)
			}
			*n = r.Offset + 1
			w.groups.reached(who, r.Topic, r.Partition, r.Offset+1)
		})
	}
}

// awaitReaders gives the readers the time to come to the end.
func (w *work) awaitReaders(ctx context.Context) {
	for deadline := time.Now().Add(settle); time.Now().Before(deadline); pause(ctx, 20*time.Millisecond) {
		behind := false
		for _, t := range w.plain() {
			for p := range parts {
				for i := range 2 {
					behind = behind || w.groups.readUpTo(fmt.Sprint("reader ", i), t, int32(p)) < w.topics[t][p].ackedEnd()
				}
			}
		}
		if !behind {
			return
		}
	}
}

// ask asks one broker where logs end, and what is in them: no answer may know less than was acknowledged before the question.
func (w *work) ask(ctx context.Context, id int) {
	cl := w.single(id, kgo.MaxVersions(kversion.V3_0_0())) // whose Fetch names topics
	defer cl.Close()
	rng := rand.New(rand.NewPCG(uint64(id), 9))
	for ; ctx.Err() == nil; pause(ctx, 5*time.Millisecond) {
		topic, p := w.plain()[rng.IntN(len(w.plain()))], int32(rng.IntN(parts))
		least := w.topics[topic][p].ackedEnd()
		limit, cancel := context.WithTimeout(ctx, 10*time.Second)
		if rng.IntN(2) == 0 {
			w.askEnd(limit, cl, id, topic, p, least)
		} else {
			from := least
			if rng.IntN(3) > 0 {
				from = max(0, least-rng.Int64N(200))
			}
			w.askRecords(limit, cl, id, topic, p, from, least)
		}
		cancel()
	}
}

func (w *work) askEnd(ctx context.Context, cl *kgo.Client, id int, topic string, p int32, least int64) {
	req := kmsg.NewPtrListOffsetsRequest()
	rt, rp := kmsg.NewListOffsetsRequestTopic(), kmsg.NewListOffsetsRequestTopicPartition()
	rt.Topic, rp.Partition, rp.Timestamp, rp.CurrentLeaderEpoch = topic, p, -1, -1
	rt.Partitions = append(rt.Partitions, rp)
	req.Topics = append(req.Topics, rt)
	resp, err := cl.SeedBrokers()[0].Request(ctx, req)
	if err != nil {
		return
	}
	for _, t := range resp.(*kmsg.ListOffsetsResponse).Topics {
		for _, x := range t.Partitions {
			if x.ErrorCode != 0 {
				continue
			}
			w.answers.Add(1)
			if x.Offset < least {
				w.rep.violation("broker %d says that %s/%d ends at %d, and %d was acknowledged before", id, topic, p, x.Offset, least)
			}
		}
	}
}

func (w *work) askRecords(ctx context.Context, cl *kgo.Client, id int, topic string, p int32, from, least int64) {
	req := kmsg.NewPtrFetchRequest()
	req.MaxWaitMillis, req.MinBytes, req.MaxBytes, req.ReplicaID, req.SessionEpoch = 0, 1, 1<<20, -1, -1
	rt, rp := kmsg.NewFetchRequestTopic(), kmsg.NewFetchRequestTopicPartition()
	rt.Topic, rp.Partition, rp.FetchOffset, rp.PartitionMaxBytes, rp.CurrentLeaderEpoch = topic, p, from, 1<<20, -1
	rt.Partitions = append(rt.Partitions, rp)
	req.Topics = append(req.Topics, rt)
	resp, err := cl.SeedBrokers()[0].Request(ctx, req)
	if err != nil {
		return
	}
	for _, t := range resp.(*kmsg.FetchResponse).Topics {
		for i := range t.Partitions {
			x := &t.Partitions[i]
			switch x.ErrorCode {
			case kerr.OffsetOutOfRange.Code:
				w.rep.violation("broker %d: %d of %s/%d is out of range, and %d was acknowledged before", id, from, topic, p, least)
			case 0:
				w.answers.Add(1)
				got, _ := kgo.ProcessFetchPartition(kgo.ProcessFetchPartitionOpts{Offset: from, Topic: topic, Partition: p}, x, kgo.DefaultDecompressor(), nil)
				if len(got.Records) == 0 && from < least {
					w.rep.violation("broker %d has nothing at %d of %s/%d, and %d was acknowledged before (high watermark %d)", id, from, topic, p, least, x.HighWatermark)
				}
				for _, r := range got.Records {
					w.see(fmt.Sprint("broker ", id), topic, p, r.Offset, r.Value)
				}
			}
		}
	}
}

// leader of a partition of the plain topic, as some broker says; 0: none that is known.
func (w *work) leader(p int32) int {
	cl := w.client(kgo.RequestRetries(0))
	defer cl.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	resp, err := metadata(ctx, cl)
	if err != nil {
		return 0
	}
	for _, t := range resp.Topics {
		if *t.Topic != plainTopic {
			continue
		}
		for _, x := range t.Partitions {
			if x.Partition == p {
				return int(x.Leader)
			}
		}
	}
	return 0
}

func metadata(ctx context.Context, cl *kgo.Client) (*kmsg.MetadataResponse, error) {
	req := kmsg.NewPtrMetadataRequest()
	req.Topics = nil // all
	return req.RequestWith(ctx, cl)
}

// lacking says what keeps the replicas from being all in sync, as each broker says of each partition, whoever leads. "": nothing does.
func (w *work) lacking() string {
	known := 0
	for i, n := range w.c.nodes {
		cl := w.single(n.id)
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		resp, err := metadata(ctx, cl)
		cancel()
		cl.Close()
		if err != nil {
			return err.Error()
		}
		here := 0
		for _, t := range resp.Topics {
			for _, p := range t.Partitions {
				if here++; p.Leader < 0 || len(p.ISR) != len(p.Replicas) {
					return fmt.Sprintf("broker %d says that %s/%d has leader %d and replicas %v, in sync %v", n.id, *t.Topic, p.Partition, p.Leader, p.Replicas, p.ISR)
				}
			}
		}
		if i > 0 && here != known {
			return fmt.Sprintf("broker %d knows %d partitions, others %d", n.id, here, known)
		}
		known = here
	}
	return ""
}

//go:build linux

// Transactions: workers that take inputs from one topic, write an output for each to another, and commit both at once. Some abort, some are
// given up halfway.

package campaign_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// workers is the group that takes inputs.
const workers = "workers"

type outcome uint8

const (
	unknown outcome = iota // nobody has said
	aborted
	wasCommitted
)

// txn is one transaction.
type txn struct {
	records int
	outcome outcome
}

// txns is what is known of all.
type txns struct {
	mu   sync.Mutex
	last int64
	of   map[int64]*txn
	seen [parts][]*kgo.Record // outputs, by who follows them as they come
}

func (x *txns) begin(records int) (id int64) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.last++
	x.of[x.last] = &txn{records: records}
	return x.last
}

func (x *txns) end(id int64, o outcome) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.of[id].outcome = o
}

// transact is one worker.
func (w *work) transact(ctx context.Context, k int) {
	rng := rand.New(rand.NewPCG(uint64(k), 7))
	for ctx.Err() == nil {
		w.session(ctx, k, rng)
	}
}

// session works until something fails, or is given up.
func (w *work) session(ctx context.Context, k int, rng *rand.Rand) {
	s, err := kgo.NewGroupTransactSession(kgo.SeedBrokers(w.c.seeds()...), kgo.TransactionalID(fmt.Sprint("worker-", k)), kgo.TransactionTimeout(15*time.Second),
		kgo.ConsumerGroup(workers), kgo.ConsumeTopics(inputTopic), kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.RequestTimeoutOverhead(3*time.Second),
		kgo.DefaultProduceTopic(outputTopic), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.SessionTimeout(10*time.Second), kgo.HeartbeatInterval(time.Second),
		kgo.MetadataMinAge(100*time.Millisecond), kgo.FetchMaxWait(300*time.Millisecond), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.RetryTimeout(time.Minute))
	if err != nil {
		panic(err) // by the options
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
		id := w.txns.begin(fs.NumRecords())
		if s.Begin() != nil {
			return
		}
		end, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
		var failed atomic.Bool
		fs.EachRecord(func(r *kgo.Record) {
			s.Produce(end, &kgo.Record{Partition: r.Partition, Value: fmt.Appendf(nil, "%s %d %d", r.Value, r.Offset, id)}, func(_ *kgo.Record, err error) {
				if err != nil {
					failed.Store(true)
				}
			})
		})
		if rng.IntN(40) == 0 { // as if it had died
			cancel()
			return
		}
		wish := kgo.TryCommit
		if rng.IntN(10) == 0 || failed.Load() {
			wish = kgo.TryAbort
		}
		ok, err := s.End(end, wish)
		cancel()
		switch {
		case err != nil:
			return
		case ok:
			w.txns.end(id, wasCommitted)
			w.transactions.Add(1)
			w.outputs.Add(int64(fs.NumRecords()))
		default:
			w.txns.end(id, aborted)
		}
	}
}

// followOutputs reads what is committed, as it comes.
func (w *work) followOutputs(ctx context.Context) {
	cl := w.client(kgo.ConsumeTopics(outputTopic), kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchMaxWait(300*time.Millisecond))
	defer cl.Close()
	for {
		fs := cl.PollFetches(ctx)
		if ctx.Err() != nil {
			return
		}
		w.txns.mu.Lock()
		fs.EachRecord(func(r *kgo.Record) { w.txns.seen[r.Partition] = append(w.txns.seen[r.Partition], r) })
		w.txns.mu.Unlock()
	}
}

// awaitTransactions waits until all inputs are taken.
func (w *work) awaitTransactions() {
	cl := w.client()
	defer cl.Close()
	adm := kadm.NewClient(cl)
	for deadline := time.Now().Add(settle); ; pause(context.Background(), 100*time.Millisecond) {
		var taken, all int64
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		offsets, err := adm.FetchOffsets(ctx, workers)
		cancel()
		for p := range int32(parts) {
			all += w.topics[inputTopic][p].ackedEnd()
			if o, ok := offsets.Lookup(inputTopic, p); ok {
				taken += o.At
			}
		}
		if err == nil && taken >= all {
			return
		}
		if time.Now().After(deadline) {
			w.rep.violation("%v after the faults transactions have taken the inputs up to %d of %d (%v)", settle, taken, all, err)
			return
		}
	}
}

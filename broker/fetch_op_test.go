package broker

// The moments at which a waiting fetch can be woken: confirmations and waiters that come in between two reads.

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/balsamq/balsa/partition"
)

// fetchAll asks for every partition of a topic from the same offset.
func fetchAll(topic string, id [16]byte, partitions int, offset int64, wait time.Duration) *kmsg.FetchRequest {
	req := fetchRequest(12, topic, id, 0, offset, wait)
	for p := 1; p < partitions; p++ {
		req.Topics[0].Partitions = append(req.Topics[0].Partitions, fetchRequest(12, topic, id, int32(p), offset, 0).Topics[0].Partitions...)
	}
	return req
}

// confirmWithinLook makes partition 0's confirmation arrive while the same fetch is at partition 1. The returned function
// says whether that has happened.
func confirmWithinLook(a, b *fakeReplica, outcome error) (happened func() bool) {
	var mu sync.Mutex
	var kept func(error)
	fired := false
	a.mu.Lock()
	a.linear = func(done func(error)) { mu.Lock(); kept = done; mu.Unlock() }
	a.mu.Unlock()
	b.mu.Lock()
	b.onRead = func() {
		mu.Lock()
		done := kept
		kept = nil
		fired = fired || done != nil
		mu.Unlock()
		if done != nil {
			done(outcome)
		}
	}
	b.mu.Unlock()
	return func() bool { mu.Lock(); defer mu.Unlock(); return fired }
}

// A confirmation that arrives after the fetch has passed its partition, and before it links its waiters, must not get the
// waiter linked twice (partition: Waiter subscribed twice, which ended brokers under franz-go's own tests).
func TestConfirmationWithinALook(t *testing.T) {
	h := newHarness(t, serverOptions{})
	id := h.back.addTopic("t", 2, nil)
	a, b := h.back.replica(id, 0), h.back.replica(id, 1)
	happened := confirmWithinLook(a, b, nil)
	c, p := h.dial(), h.dial()
	req := fetchAll("t", id, 2, 0, time.Hour)
	n := c.send(req)
	becomes(t, "it waits for both", func() bool { return a.waiting() == 1 && b.waiting() == 1 })
	if !happened() {
		t.Fatal("partition 0 was confirmed at another moment: this test tests nothing")
	}
	ask[*kmsg.ProduceResponse](p, produceRequest(9, -1, "t", id, 0, testBatch("wake")))
	got, body := c.receive()
	resp := decodeAnswer[*kmsg.FetchResponse](t, req, body)
	if fp := resp.Topics[0].Partitions[0]; got != n || fp.ErrorCode != 0 || fp.HighWatermark != 1 || len(fp.RecordBatches) == 0 {
		t.Fatalf("%+v", resp)
	}
	becomes(t, "no waiter is left", func() bool { return a.waiting()+b.waiting() == 0 })
}

// An outcome that arrives at that moment counts, however ready the rest of the answer is: else a deposed leader's end of
// the log, or its word that the client's log has diverged, is told as the truth.
func TestRefusalWithinALook(t *testing.T) {
	for name, prepare := range map[string]func(*kmsg.FetchRequestTopicPartition){
		"the end of the log": func(p *kmsg.FetchRequestTopicPartition) { p.FetchOffset = 1 },
		"out of range":       func(p *kmsg.FetchRequestTopicPartition) { p.FetchOffset = 9 },
		"diverged":           func(p *kmsg.FetchRequestTopicPartition) { p.FetchOffset, p.LastFetchedEpoch = 1, 9 },
	} {
		t.Run(name, func(t *testing.T) {
			h := newHarness(t, serverOptions{})
			id := h.back.addTopic("t", 2, nil)
			a, b := h.back.replica(id, 0), h.back.replica(id, 1)
			c := h.dial()
			for p := range int32(2) {
				ask[*kmsg.ProduceResponse](c, produceRequest(9, 1, "t", id, p, testBatch("there")))
			}
			happened := confirmWithinLook(a, b, partition.ErrNotLeader)
			req := fetchAll("t", id, 2, 0, time.Hour)
			prepare(&req.Topics[0].Partitions[0])
			resp := ask[*kmsg.FetchResponse](c, req)
			if !happened() {
				t.Fatal("partition 0 was refused at another moment: this test tests nothing")
			}
			fp := resp.Topics[0].Partitions
			if fp[0].ErrorCode != kerr.NotLeaderForPartition.Code || len(fp[0].RecordBatches) != 0 || fp[0].DivergingEpoch.EndOffset != -1 {
				t.Errorf("the refused partition: %+v", fp[0])
			}
			if fp[1].ErrorCode != 0 || len(fp[1].RecordBatches) == 0 {
				t.Errorf("the other one: %+v", fp[1])
			}
		})
	}
}

// What has not been confirmed by the end of max_wait is an error, also where it spoke of a divergence; and a confirmation
// that comes when the answer is written already is nobody's.
func TestLateConfirmation(t *testing.T) {
	h := newHarness(t, serverOptions{})
	id := h.back.addTopic("t", 1, nil)
	c := h.dial()
	ask[*kmsg.ProduceResponse](c, produceRequest(9, 1, "t", id, 0, testBatch("a", "b")))
	r := h.back.replica(id, 0)
	asked := make(chan func(error), 1)
	r.mu.Lock()
	r.linear = func(done func(error)) { asked <- done }
	r.mu.Unlock()
	req := fetchRequest(12, "t", id, 0, 2, time.Millisecond)
	req.Topics[0].Partitions[0].LastFetchedEpoch = 9 // ahead of the replica's: diverged, if it leads
	fp := onlyPartition(t, ask[*kmsg.FetchResponse](c, req))
	if fp.ErrorCode != kerr.NotLeaderForPartition.Code || fp.DivergingEpoch.EndOffset != -1 {
		t.Fatalf("%+v", fp)
	}
	(<-asked)(nil)
	r.mu.Lock()
	r.linear = nil
	r.mu.Unlock()
	if fp := onlyPartition(t, ask[*kmsg.FetchResponse](c, fetchRequest(12, "t", id, 0, 0, time.Hour))); fp.ErrorCode != 0 || len(fp.RecordBatches) == 0 {
		t.Fatalf("the fetch after it: %+v", fp)
	}
}

// Many fetches over many partitions, with confirmations in any order, some of them refusals, while records come in and
// leaders go: every fetch is answered, nothing unconfirmed is told as the end, and no waiter is left behind.
func TestFetchesInAnyOrder(t *testing.T) {
	seed := rand.Uint64()
	defer func() {
		if t.Failed() {
			t.Logf("seed %d (the schedule is the machine's, though)", seed)
		}
	}()
	const partitions, refusing, conns = 12, 3, 8 // the first `refusing` partitions are never confirmed to lead
	fetches := 300
	if testing.Short() {
		fetches = 100
	}
	h := newHarness(t, serverOptions{})
	id := h.back.addTopic("t", partitions, nil)

	var mu sync.Mutex
	var pending []func() // confirmations on their way
	confirmOne := func(rnd *rand.Rand) bool {
		mu.Lock()
		n := len(pending)
		if n == 0 {
			mu.Unlock()
			return false
		}
		i := rnd.IntN(n)
		fn := pending[i]
		pending[i], pending = pending[n-1], pending[:n-1]
		mu.Unlock()
		fn()
		return true
	}
	readers := rand.New(rand.NewPCG(seed, 1))
	for p := range int32(partitions) {
		r := h.back.replica(id, p)
		var outcome error
		if p < refusing {
			outcome = partition.ErrUnavailable
		}
		r.mu.Lock()
		r.linear = func(done func(error)) {
			mu.Lock()
			pending = append(pending, func() { done(outcome) })
			mu.Unlock()
		}
		r.onRead = func() { // the moments within a look
			mu.Lock()
			lucky, rnd := readers.IntN(2) == 0, rand.New(rand.NewPCG(readers.Uint64(), 0))
			mu.Unlock()
			if lucky {
				confirmOne(rnd)
			}
		}
		r.mu.Unlock()
	}

	stop := make(chan struct{})
	var background, clients sync.WaitGroup
	background.Go(func() { // the moments between looks
		rnd := rand.New(rand.NewPCG(seed, 2))
		tick := time.NewTicker(100 * time.Microsecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				for confirmOne(rnd) {
				}
			case <-stop:
				return
			}
		}
	})
	background.Go(func() { // records, and new epochs
		rnd := rand.New(rand.NewPCG(seed, 3))
		tick := time.NewTicker(200 * time.Microsecond)
		defer tick.Stop()
		for n := 0; ; n++ {
			select {
			case <-tick.C:
			case <-stop:
				return
			}
			r := h.back.replica(id, refusing+rnd.Int32N(partitions-refusing))
			if n%20 == 0 {
				r.newEpoch()
				continue
			}
			r.Append(&partition.AppendRequest{Batch: testBatch(fmt.Sprint(n)), Done: func(partition.AppendResult) {}})
		}
	})
	for k := range conns {
		c := h.dial()
		rnd := rand.New(rand.NewPCG(seed, 10+uint64(k)))
		clients.Go(func() {
			var next [partitions]int64
			for range fetches {
				req := fetchAll("t", id, partitions, 0, time.Duration(rnd.IntN(4))*time.Millisecond)
				req.MinBytes = 1 << rnd.IntN(14)
				for p := range next {
					req.Topics[0].Partitions[p].FetchOffset = next[p]
				}
				if rnd.IntN(4) > 0 { // a refusal ends a fetch at once: most do without, and wait
					req.Topics[0].Partitions = req.Topics[0].Partitions[refusing:]
				}
				n := c.send(req)
				got, body := c.receive()
				resp := decodeAnswer[*kmsg.FetchResponse](t, req, body)
				if got != n || len(resp.Topics) != 1 || len(resp.Topics[0].Partitions) != len(req.Topics[0].Partitions) {
					t.Errorf("answer %d to %d: %+v", got, n, resp)
					return
				}
				for i := range resp.Topics[0].Partitions {
					fp := &resp.Topics[0].Partitions[i]
					p := fp.Partition
					switch refused := p < refusing; {
					case refused != (fp.ErrorCode == kerr.NotLeaderForPartition.Code), !refused && fp.ErrorCode != 0:
						t.Errorf("partition %d, refusing %v: error %d, high watermark %d", p, refused, fp.ErrorCode, fp.HighWatermark)
						return
					case !refused && fp.HighWatermark < next[p]:
						t.Errorf("partition %d: the end went from %d to %d", p, next[p], fp.HighWatermark)
						return
					case !refused && (len(fp.RecordBatches) == 0 || rnd.IntN(2) == 0): // now and then from the end
						next[p] = fp.HighWatermark
					}
				}
			}
		})
	}
	clients.Wait()
	close(stop)
	background.Wait()
	for p := range int32(partitions) {
		r := h.back.replica(id, p)
		becomes(t, "no waiter is left", func() bool { return r.waiting() == 0 })
	}
	becomes(t, "all memory of answers is back", func() bool { return h.fetchUsed.Load() == 0 })
}

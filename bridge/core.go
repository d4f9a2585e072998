// A core NATS subject into a topic: at most once. Whoever publishes on a core subject hears nothing of it; what arrives while nobody listens, or faster
// than it can be written, is gone. What the client had to drop is counted. What has been received when the bridge ends in order is written first.

package bridge

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/balsamq/balsa/client"
)

const (
	// corePending and corePendingBytes bound what waits to be written.
	corePending      = 64 << 10
	corePendingBytes = 32 << 20
	// coreTimeout bounds the writing of one record.
	coreTimeout = 30 * time.Second
)

func (b *Bridge) subjectToTopic(ctx context.Context, conn *connection) error {
	ts, err := b.openTargets(ctx)
	if err != nil {
		return err
	}
	defer ts.adm.Close()
	p, err := client.NewAdmin(ctx, withOptions(b.job.Kafka, kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.MaxBufferedRecords(corePending),
		kgo.MaxBufferedBytes(corePendingBytes), kgo.ProducerBatchMaxBytesFn(ts.batchBytes), kgo.ProducerLinger(0)))
	if err != nil {
		return err
	}
	defer p.Close()
	queue := b.job.Spec.Queue
	if queue == "" {
		queue = "balsa." + b.job.ID
	}
	sub, err := conn.nc.QueueSubscribeSync(b.job.Spec.FromSubject, queue)
	if err != nil {
		return fmt.Errorf("subscribe to %s: %w", b.job.Spec.FromSubject, err)
	}
	defer func() { // whoever else is in the queue group has what comes from now on: not this one, whose connection the server may not miss at once
		if sub.Unsubscribe() == nil && conn.nc.IsConnected() {
			_ = conn.nc.FlushTimeout(natsTimeout)
		}
	}()
	if err := sub.SetPendingLimits(corePending, corePendingBytes); err != nil {
		return err
	}
	if err := conn.nc.FlushTimeout(natsTimeout); err != nil { // a subscription that is not allowed fails here
		return err
	}
	if err := conn.nc.LastError(); err != nil {
		return fmt.Errorf("subscribe to %s: %w", b.job.Spec.FromSubject, err)
	}
	b.running()
	b.stats.at(PositionNew)
	r := &coreReader{b: b, ts: ts, p: p, sub: sub, looked: time.Now()}
	// What has been received is not for nothing when the bridge ends: its records have handOver's time.
	var end context.CancelFunc
	r.write, end = context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	defer context.AfterFunc(ctx, func() { // also for who waits for room
		t := time.AfterFunc(endTimeout, end)
		context.AfterFunc(r.write, func() { t.Stop() })
	})()
	err = r.run(ctx)
	r.handOver(conn.nc, end)
	return err
}

// coreReader is a bridge from a core subject at work.
type coreReader struct {
	b       *Bridge
	ts      *targets
	p       *client.Admin // whose client is the producer
	sub     *nats.Subscription
	write   context.Context // of what is written
	dropped int             // by NATS's client, as far as it is counted
	lost    atomic.Uint64   // records that could not be written
	unfit   error           // why the last message that cannot be converted cannot
	looked  time.Time
}

func (r *coreReader) run(ctx context.Context) error {
	for {
		if time.Since(r.looked) > lookEvery {
			r.looked = time.Now()
			if err := r.ts.look(ctx, r.b.job.Spec); err != nil {
				return err
			}
			r.count()
		}
		m, err := nextMsg(ctx, r.sub)
		if errors.Is(err, nats.ErrTimeout) || errors.Is(err, nats.ErrSlowConsumer) || errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
			continue
		}
		if err != nil {
			return err
		}
		r.take(m)
	}
}

// count brings the figures up to date.
func (r *coreReader) count() {
	s := r.b.stats
	if n, err := r.sub.Dropped(); err == nil && n > r.dropped {
		s.dropped.Add(uint64(n - r.dropped))
		r.dropped = n
	}
	s.dropped.Add(r.lost.Swap(0))
	if r.unfit != nil {
		r.b.log.Warn("messages are dropped", "why", r.unfit)
		r.unfit = nil
	}
	if pending, _, err := r.sub.Pending(); err == nil {
		s.lag.Store(int64(pending))
	}
}

// take begins to write a message. Where there is no room it waits.
func (r *coreReader) take(m *nats.Msg) {
	var tally Counts
	rec, err := r.b.take(r.ts, &message{subject: m.Subject, reply: m.Reply, header: m.Header, data: m.Data, time: time.Now()}, &tally)
	if err != nil { // nobody keeps it, so that there is nothing to wait for
		tally.Dropped++
		r.unfit = err
	}
	if rec == nil {
		r.b.stats.add(&tally)
		return
	}
	one, cancel := context.WithTimeout(r.write, coreTimeout)
	r.p.Client().Produce(one, rec, func(_ *kgo.Record, err error) {
		cancel()
		if err != nil {
			r.lost.Add(1)
			return
		}
		r.b.stats.add(&tally)
	})
}

// handOver ends the subscription and writes what has been received, for endTimeout at most. What is left then is counted as dropped.
func (r *coreReader) handOver(nc *nats.Conn, end context.CancelFunc) {
	ctx, cancel := context.WithTimeout(r.write, endTimeout)
	defer cancel()
	if err := r.sub.Drain(); err == nil {
		_ = nc.FlushWithContext(ctx) // behind the answer nothing comes any more; without one there is what there is
	}
	for {
		pending, _, err := r.sub.Pending()
		if err != nil || pending == 0 {
			break
		}
		m, err := r.sub.NextMsgWithContext(ctx)
		if errors.Is(err, nats.ErrSlowConsumer) {
			continue
		}
		if err != nil {
			r.lost.Add(uint64(pending))
			break
		}
		r.take(m)
	}
	if r.p.Client().Flush(ctx) != nil {
		end() // what is not written is counted by its callback
	}
	r.count()
	if n := r.b.stats.dropped.Load(); n > 0 {
		r.b.log.Warn("messages were dropped", "since the bridge was begun here", n)
	}
}

// nextMsg waits for a message, for a moment.
func nextMsg(ctx context.Context, sub *nats.Subscription) (*nats.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, lookEvery)
	defer cancel()
	return sub.NextMsgWithContext(ctx)
}

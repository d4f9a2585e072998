// A core NATS subject into a topic: at most once. Whoever publishes on a core subject hears nothing of it; what arrives while nobody listens, or faster
// than it can be written, is gone. What the client had to drop is counted.

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
		kgo.MaxBufferedBytes(corePendingBytes), kgo.ProducerBatchMaxBytes(int32(ts.maxBytes())), kgo.ProducerLinger(0)))
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
	if err := sub.SetPendingLimits(corePending, corePendingBytes); err != nil {
		return err
	}
	if err := conn.nc.FlushTimeout(natsTimeout); err != nil { // a subscription that is not allowed fails here
		return err
	}
	if err := conn.nc.LastError(); err != nil {
		return fmt.Errorf("subscribe to %s: %w", b.job.Spec.FromSubject, err)
	}
	defer func() { _ = p.Client().Flush(ctx) }()
	b.running()
	b.stats.at(PositionNew)
	dropped := 0
	var lost atomic.Uint64 // records that could not be written
	var unfit error        // why the last one that cannot be converted cannot
	looked := time.Now()
	for {
		if time.Since(looked) > lookEvery {
			looked = time.Now()
			if err := ts.look(ctx, b.job.Spec); err != nil {
				return err
			}
			n, err := sub.Dropped()
			if err == nil && n > dropped {
				b.stats.dropped.Add(uint64(n - dropped))
				dropped = n
			}
			b.stats.dropped.Add(lost.Swap(0))
			if unfit != nil {
				b.log.Warn("messages are dropped", "why", unfit)
				unfit = nil
			}
			if pending, _, err := sub.Pending(); err == nil {
				b.stats.lag.Store(int64(pending))
			}
		}
		m, err := nextMsg(ctx, sub)
		if errors.Is(err, nats.ErrTimeout) || errors.Is(err, nats.ErrSlowConsumer) || errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
			continue
		}
		if err != nil {
			return err
		}
		var tally Counts
		r, err := b.take(ts, &message{subject: m.Subject, reply: m.Reply, header: m.Header, data: m.Data, time: time.Now()}, &tally)
		if err != nil { // nobody keeps it, so that there is nothing to wait for
			tally.Dropped++
			unfit = err
		}
		if r == nil {
			b.stats.add(&tally)
			continue
		}
		one, cancel := context.WithTimeout(ctx, coreTimeout)
		p.Client().Produce(one, r, func(_ *kgo.Record, err error) {
			cancel()
			if err != nil {
				lost.Add(1)
				return
			}
			b.stats.add(&tally)
		})
	}
}

// nextMsg waits for a message, for a moment.
func nextMsg(ctx context.Context, sub *nats.Subscription) (*nats.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, lookEvery)
	defer cancel()
	return sub.NextMsgWithContext(ctx)
}

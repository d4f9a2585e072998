// A JetStream stream into a topic, exactly once: batches of messages, each a transaction together with the place in the stream behind it.

package bridge

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/twmb/franz-go/pkg/kgo"
)

const (
	// readAhead bounds the messages that wait for a transaction, those in nats.go's own buffer aside, which has as many.
	readAhead = maxBatch
	// gather is how long a batch that is not full waits for more.
	gather = 5 * time.Millisecond
	// resetAttempts is how often an ordered consumer tries to be made anew before the bridge begins anew itself, which is sooner than its second try.
	resetAttempts = 1
	// heartbeat is how often a consumer with nothing to say says that it is there. It is gone with its server, and missed after two of them.
	heartbeat = time.Second
)

// sourceStream is a stream that is read.
type sourceStream struct {
	stream  jetstream.Stream
	name    string
	created time.Time
}

// openSource asks for the stream, and refuses those that cannot be read without changing them.
func (c *connection) openSource(ctx context.Context, name string) (*sourceStream, *jetstream.StreamInfo, error) {
	st, info, err := c.stream(ctx, name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil, nil, &stuckError{err}
	}
	if err != nil {
		return nil, nil, err
	}
	if r := info.Config.Retention; r != jetstream.LimitsPolicy {
		return nil, nil, stuck("stream %s deletes messages when they are acknowledged (retention %s), and a bridge acknowledges nothing: make a stream that sources from it, and bridge that", name, r)
	}
	return &sourceStream{st, name, info.Created}, info, nil
}

// same asks whether the stream is still the one that was opened.
func (s *sourceStream) same(ctx context.Context) (*jetstream.StreamInfo, error) {
	info, err := ask(ctx, func(ctx context.Context) (*jetstream.StreamInfo, error) { return s.stream.Info(ctx) })
	if err != nil {
		return nil, fmt.Errorf("ask for stream %s: %w", s.name, err)
	}
	if !info.Created.Equal(s.created) {
		return nil, fmt.Errorf("stream %s was deleted and made anew", s.name)
	}
	return info, nil
}

func (s *sourceStream) consumer(ctx context.Context, cfg jetstream.OrderedConsumerConfig) (jetstream.Consumer, error) {
	return ask(ctx, func(ctx context.Context) (jetstream.Consumer, error) { return s.stream.OrderedConsumer(ctx, cfg) })
}

// place is the next sequence to read, by the progress and the job; moved says that it is another place than the progress has.
func (b *Bridge) place(p *progress, info *jetstream.StreamInfo) (deliver jetstream.OrderedConsumerConfig, moved bool, err error) {
	deliver = jetstream.OrderedConsumerConfig{FilterSubjects: b.job.Spec.Filters, MaxResetAttempts: resetAttempts, InactiveThreshold: time.Minute}
	from := func(seq uint64) {
		deliver.DeliverPolicy, deliver.OptStartSeq = jetstream.DeliverByStartSequencePolicy, max(seq, 1)
		p.Seq = max(seq, 1)
	}
	switch {
	case p.Position < b.job.Number:
		to, err := parsePosition(b.job.Spec, b.job.Position)
		if err != nil {
			return deliver, false, err
		}
		p.Position = b.job.Number
		switch {
		case to.new:
			from(info.State.LastSeq + 1)
		case !to.time.IsZero():
			deliver.DeliverPolicy, deliver.OptStartTime = jetstream.DeliverByStartTimePolicy, &to.time
			p.Seq = 0 // the first message says
		default:
			from(to.seq)
		}
		moved = true
	case p.Stream != info.Config.Name || !p.Created.Equal(info.Created):
		b.log.Warn("the stream was made anew: it is read from its start", "stream", info.Config.Name, "created", info.Created, "before", p.Created)
		from(1)
		moved = true
	case p.Seq > info.State.LastSeq+1:
		return deliver, false, stuck("stream %s ends at %d, and the bridge had come to %d: the stream has lost messages, and will use their numbers again; seek to where the bridge is to go on", info.Config.Name, info.State.LastSeq, p.Seq-1)
	default:
		if first := info.State.FirstSeq; first > p.Seq && info.State.Msgs > 0 {
			b.log.Warn("messages are gone from the stream that had perhaps not been taken over", "stream", info.Config.Name, "next", p.Seq, "first", first)
		}
		from(p.Seq)
	}
	p.Stream, p.Created = info.Config.Name, info.Created
	return deliver, moved, nil
}

func (b *Bridge) streamToTopic(ctx context.Context, conn *connection) error {
	ts, err := b.openTargets(ctx)
	if err != nil {
		return err
	}
	defer ts.adm.Close()
	l, p, err := openLedger(ctx, b.job.Kafka, b.job.ID, ts)
	if err != nil {
		return err
	}
	defer l.close()
	src, info, err := conn.openSource(ctx, b.job.Spec.FromStream)
	if err != nil {
		return err
	}
	deliver, moved, err := b.place(&p, info)
	if err != nil {
		return err
	}
	if p.Seq == 0 { // by time: what that comes to is kept, or the next start would look for it again and find something else
		if p.Seq, err = src.firstOf(ctx, deliver, info); err != nil {
			return fmt.Errorf("look for the first message of that time in stream %s: %w", src.name, err)
		}
		deliver.DeliverPolicy, deliver.OptStartSeq, deliver.OptStartTime = jetstream.DeliverByStartSequencePolicy, p.Seq, nil
	}
	if moved {
		if err := l.commit(ctx, &p); err != nil {
			return err
		}
	}
	for {
		deliver.OptStartSeq = max(p.Seq, 1)
		cons, err := src.consumer(ctx, deliver)
		if err != nil {
			return fmt.Errorf("read stream %s: %w", src.name, err)
		}
		r := &streamReader{b: b, conn: conn, src: src, cons: cons, ts: ts, out: make(chan *incoming, readAhead), p: p}
		if err := r.run(ctx, l); !errors.Is(err, errReadAnew) {
			return err
		}
		p = r.p
	}
}

// errReadAnew: a consumer has to be made behind what it could not have.
var errReadAnew = errors.New("a consumer is made anew")

// firstOf is the sequence of the first message that a consumer would deliver, or the one after the last.
func (s *sourceStream) firstOf(ctx context.Context, deliver jetstream.OrderedConsumerConfig, info *jetstream.StreamInfo) (uint64, error) {
	cons, err := s.consumer(ctx, deliver)
	if err != nil {
		return 0, err
	}
	ci := cons.CachedInfo()
	if ci == nil {
		return 0, errors.New("the consumer says nothing of itself")
	}
	if ci.NumPending == 0 {
		return info.State.LastSeq + 1, nil
	}
	return ci.Delivered.Stream + 1, nil // it stands before the first
}

// streamReader reads ahead on one goroutine, and writes on another.
type streamReader struct {
	b    *Bridge
	conn *connection
	src  *sourceStream
	cons jetstream.Consumer
	ts   *targets
	out  chan *incoming
	p    progress
	seen uint64 // where the progress was when that was looked at last
	// taken is the consumer's number of the last message that was taken over. A consumer that is made anew counts from 1, so that the lag may be too small
	// until the next one.
	taken uint64
}

func (r *streamReader) run(ctx context.Context, l *ledger) (err error) {
	it, err := r.cons.Messages(jetstream.PullMaxMessages(readAhead), jetstream.PullHeartbeat(heartbeat))
	if err != nil {
		return fmt.Errorf("read stream %s: %w", r.src.name, err)
	}
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	stopped := make(chan struct{})
	defer func() { <-stopped }()
	stop := context.AfterFunc(ctx, it.Stop) // also out of a consumer that is being made anew
	defer it.Stop()
	defer func() {
		if !errors.Is(err, errReadAnew) {
			r.conn.close() // it.Stop would wait for the answer to a question that has none while there is no leader
		}
	}()
	defer stop()
	defer fail(nil)
	go func() {
		defer close(stopped)
		for {
			m, err := it.Next(jetstream.NextContext(ctx))
			var in *incoming
			if err == nil {
				in, err = incomingOf(m)
			}
			if err != nil {
				fail(fmt.Errorf("read stream %s: %w", r.src.name, err))
				return
			}
			select {
			case r.out <- in:
			case <-ctx.Done():
				return
			}
		}
	}()
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	r.b.stats.at(strconv.FormatUint(r.p.Seq, 10))
	if err := r.lag(ctx); err != nil {
		return err
	}
	r.b.running()
	var pending uint64
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-look.C:
			if _, err := r.src.same(ctx); err != nil {
				return err
			}
			if err := r.ts.look(ctx, r.b.job.Spec); err != nil {
				return err
			}
			if err := r.lag(ctx); err != nil {
				return err
			}
			if stands := r.seen == r.p.Seq && len(r.out) == 0 && r.b.stats.lag.Load() != 0; stands {
				if read, err := r.single(ctx, l); err != nil {
					return err
				} else if read {
					return errReadAnew
				}
			}
			r.seen = r.p.Seq
		case m := <-r.out:
			full := time.NewTimer(gather)
			err := r.batch(ctx, l, m, func(ctx context.Context) (*incoming, error) {
				select {
				case m := <-r.out:
					return m, nil
				case <-full.C:
					return nil, nil
				case <-ctx.Done():
					return nil, context.Cause(ctx)
				}
			}, func(m *incoming) { r.taken, pending = m.consumer, m.pending })
			full.Stop()
			if err != nil {
				return err
			}
			r.b.stats.lag.Store(int64(pending))
		}
	}
}

// batch takes over a message and those that next has behind it, as long as it has any. Of each that counts for the progress taken is told.
func (r *streamReader) batch(ctx context.Context, l *ledger, m *incoming, next func(context.Context) (*incoming, error), taken func(*incoming)) error {
	var (
		records []*kgo.Record
		tally   Counts
		bytes   int
	)
	var failed error // what has come before it is taken over all the same
	for m != nil {
		if m.seq >= r.p.Seq {
			rec, err := r.b.take(r.ts, &m.message, &tally)
			if err != nil {
				failed = err
				break
			}
			if rec != nil {
				records = append(records, rec)
				bytes += payloadBytes(rec)
			}
			r.p.Seq = m.seq + 1
			taken(m)
		}
		if m = nil; len(records) < r.b.batchLimit() && bytes < maxBatchBytes {
			var err error
			if m, err = next(ctx); err != nil {
				return err
			}
		}
	}
	// All of the batch was read before this answer is asked for, so it is of the stream that the answer is about.
	if _, err := r.src.same(ctx); err != nil {
		return err
	}
	if len(records) > 0 || tally != (Counts{}) {
		if err := l.commit(ctx, &r.p, records...); err != nil {
			return r.b.blameTopic(r.ts, r.p.Seq-1, records, err)
		}
		r.b.committed(r.p.Seq)
		r.b.stats.add(&tally)
		r.b.stats.at(strconv.FormatUint(r.p.Seq, 10))
	}
	return failed
}

// lag asks how much there is to come.
func (r *streamReader) lag(ctx context.Context) error {
	if len(r.out) > 0 {
		return nil // the next batch says it
	}
	one, cancel := context.WithTimeout(ctx, askEvery)
	defer cancel()
	info, err := r.cons.Info(one)
	switch {
	case errors.Is(err, jetstream.ErrConsumerNotFound), errors.Is(err, jetstream.ErrOrderedConsumerNotCreated), leaderless(err) && ctx.Err() == nil:
		return nil // it is being made anew, or will be once its heartbeats are missed
	case err != nil:
		return fmt.Errorf("ask for the lag of stream %s: %w", r.src.name, err)
	}
	// What has been delivered may wait in the client still.
	r.b.stats.lag.Store(int64(info.NumPending) + max(int64(info.Delivered.Consumer)-int64(r.taken), 0))
	return nil
}

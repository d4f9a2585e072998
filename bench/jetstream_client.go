// Loading JetStream, in each of its client's modes.

package bench

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/synadia-io/orbit.go/jetstreamext"
	"golang.org/x/sync/errgroup"
)

// Client modes.
const (
	// JetStreamAsync publishes each message by itself with a window of outstanding acknowledgements.
	JetStreamAsync = "async"
	// JetStreamFast is the server's flow-controlled batch ingest (ADR-50).
	JetStreamFast = "fast"
	// JetStreamAtomic publishes batches that are stored as a whole, and waits for each.
	JetStreamAtomic = "atomic"
	// JetStreamSync waits for each message's acknowledgement.
	JetStreamSync = "sync"
)

const (
	// atomicBatch is how many messages are in a batch at most: the server's bound.
	atomicBatch = 1000
	// idempotentTimeout is after how long a publication without an answer is made again, where they are made until they succeed.
	idempotentTimeout = time.Second
	// memberBatch is how many messages a member of a group acknowledges at once.
	memberBatch = 500
)

// Producer implements System.
func (j *JetStream) Producer(_ context.Context, i int) (Producer, error) {
	nc, err := j.dial(fmt.Sprintf("bench producer %d", i), j.urls[i%len(j.urls)])
	if err != nil {
		return nil, err
	}
	window := max(1, j.cell.InflightBytes/j.cell.RecordBytes)
	p := &natsProducer{nc: nc, mode: j.ClientMode, timeout: natsTimeout, window: make(chan struct{}, window)}
	if j.cell.Faults() {
		p.again, p.timeout, p.name, p.gates = true, idempotentTimeout, strconv.Itoa(i), make([]gate, j.cell.Partitions)
	}
	p.js, err = jetstream.New(nc, jetstream.WithPublishAsyncMaxPending(window), jetstream.WithPublishAsyncTimeout(p.timeout))
	if err != nil {
		nc.Close()
		return nil, err
	}
	switch j.ClientMode {
	case JetStreamFast:
		p.fast = make([]*fastStream, j.cell.Partitions)
		for s := range p.fast {
			// One flow-controlled session for each stream; the window is shared among them.
			p.fast[s] = &fastStream{window: max(1, window/j.cell.Partitions)}
		}
	case JetStreamAtomic:
		p.atomic = make([]*atomicStream, j.cell.Partitions)
		for s := range p.atomic {
			p.atomic[s] = &atomicStream{size: max(1, min(window/j.cell.Partitions, atomicBatch))}
		}
	}
	return p, nil
}

type natsProducer struct {
	nc      *nats.Conn
	js      jetstream.JetStream
	mode    string
	timeout time.Duration
	// again: what is not acknowledged is published again under the same id until it is, so that the server drops what it has already: what
	// idempotence is elsewhere. The order is not kept then.
	again bool
	name  string
	seq   atomic.Uint64

	window chan struct{} // async: one for each message that is out
	gates  []gate        // by partition, if again
	wg     sync.WaitGroup
	fast   []*fastStream
	atomic []*atomicStream
}

// fastStream is one session of batch ingest: acknowledgements come for runs of messages.
type fastStream struct {
	begun   bool // a first message was published by itself: one that is alone in a session has no acknowledgement of its own
	window  int
	pub     jetstreamext.FastPublisher
	waiting []func(error) // in order of sending; waiting[0] has sequence first
	first   uint64
	next    uint64
}

// atomicStream is a batch that is being filled.
type atomicStream struct {
	begun   bool // as in fastStream
	size    int
	pub     jetstreamext.BatchPublisher
	waiting []func(error)
}

func (p *natsProducer) Send(ctx context.Context, partition int, record []byte, done func(error)) {
	switch p.mode {
	case JetStreamSync:
		done(p.alone(ctx, partition, record))
	case JetStreamFast:
		if s := p.fast[partition]; !s.begun {
			s.begun = true
			done(p.alone(ctx, partition, record))
			return
		}
		p.sendFast(partition, record, done)
	case JetStreamAtomic:
		if s := p.atomic[partition]; !s.begun {
			s.begun = true
			done(p.alone(ctx, partition, record))
			return
		}
		p.sendAtomic(ctx, partition, record, done)
	default:
		p.sendAsync(ctx, partition, record, done)
	}
}

// alone publishes a message and waits for its acknowledgement.
func (p *natsProducer) alone(ctx context.Context, partition int, record []byte) error {
	_, err := p.js.Publish(ctx, subject(partition), record)
	return err
}

func (p *natsProducer) sendAsync(ctx context.Context, partition int, record []byte, done func(error)) {
	select {
	case p.window <- struct{}{}:
	case <-ctx.Done():
		done(ctx.Err())
		return
	}
	m := &nats.Msg{Subject: subject(partition), Data: record}
	if p.again {
		m.Header = nats.Header{jetstream.MsgIDHeader: []string{p.name + "-" + strconv.FormatUint(p.seq.Add(1), 10)}}
	}
	var f jetstream.PubAckFuture
	err := errHeld
	if !p.again || p.gates[partition].waiting() == nil {
		f, err = p.js.PublishMsgAsync(m, jetstream.WithStallWait(natsTimeout))
	}
	if err != nil && !p.again {
		<-p.window
		done(err)
		return
	}
	p.wg.Go(func() {
		defer func() { <-p.window }()
		if err == nil {
			err = acked(f)
		}
		if err != nil && p.again {
			err = p.publishUntilAcked(ctx, &p.gates[partition], m)
		}
		done(err)
	})
}

// errHeld is why a message was not sent at once: its stream does not answer.
var errHeld = errors.New("held back")

func acked(f jetstream.PubAckFuture) error {
	select {
	case <-f.Ok():
		return nil
	case err := <-f.Err():
		return err
	}
}

// gate is closed while a stream does not answer. One message tries on; the others wait for it: thousands that try would load servers that
// elect.
type gate struct {
	mu sync.Mutex
	up chan struct{} // closed when the stream answers again; nil: it does
}

// shut closes it, and reports whether the caller is the one that tries.
func (g *gate) shut() (try bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.up == nil {
		g.up = make(chan struct{})
		return true
	}
	return false
}

// waiting is what to wait for; nil: the gate is open.
func (g *gate) waiting() <-chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.up
}

func (g *gate) open() {
	g.mu.Lock()
	defer g.mu.Unlock()
	close(g.up)
	g.up = nil
}

// publishUntilAcked is for a message that was not acknowledged.
func (p *natsProducer) publishUntilAcked(ctx context.Context, g *gate, m *nats.Msg) (err error) {
	publish := func() error {
		f, err := p.js.PublishMsgAsync(m, jetstream.WithStallWait(natsTimeout))
		if err == nil {
			err = acked(f)
		}
		return err
	}
	for {
		if g.shut() {
			for {
				if pause(ctx, retryBackoff); ctx.Err() != nil {
					err = ctx.Err()
				} else if err = publish(); err != nil {
					continue
				}
				g.open()
				return err
			}
		}
		if up := g.waiting(); up != nil {
			select {
			case <-up:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		if err = publish(); err == nil {
			return nil
		}
	}
}

func (p *natsProducer) sendFast(partition int, record []byte, done func(error)) {
	s := p.fast[partition]
	if s.pub == nil {
		pub, err := jetstreamext.NewFastPublisher(p.js, jetstreamext.FastPublishFlowControl{
			Flow: uint16(max(1, min(s.window/2, 500))), MaxOutstandingAcks: 2, AckTimeout: natsTimeout})
		if err != nil {
			done(err)
			return
		}
		s.pub, s.first = pub, 1
	}
	ack, err := s.pub.Add(subject(partition), record)
	if err != nil {
		done(err)
		return
	}
	s.next = ack.BatchSequence
	s.waiting = append(s.waiting, done)
	s.release(ack.AckSequence)
}

// release reports every message up to the acknowledged sequence.
func (s *fastStream) release(acked uint64) {
	for s.first <= acked && len(s.waiting) > 0 {
		s.waiting[0](nil)
		s.waiting = s.waiting[1:]
		s.first++
	}
}

func (p *natsProducer) sendAtomic(ctx context.Context, partition int, record []byte, done func(error)) {
	s := p.atomic[partition]
	if s.pub == nil {
		pub, err := jetstreamext.NewBatchPublisher(p.js)
		if err != nil {
			done(err)
			return
		}
		s.pub = pub
	}
	s.waiting = append(s.waiting, done)
	if len(s.waiting) < s.size {
		if err := s.pub.Add(subject(partition), record); err != nil {
			s.end(err)
		}
		return
	}
	_, err := s.pub.Commit(ctx, subject(partition), record)
	s.end(err)
}

// end reports the fate of a batch.
func (s *atomicStream) end(err error) {
	for _, done := range s.waiting {
		done(err)
	}
	s.waiting, s.pub = s.waiting[:0], nil
}

var errNotCommitted = errors.New("the batch was not full when the load ended")

func (p *natsProducer) Flush(ctx context.Context) error {
	var errs []error
	for _, s := range p.fast {
		if s.pub == nil {
			continue
		}
		if _, err := s.pub.Close(ctx); err != nil {
			errs = append(errs, err)
			for _, done := range s.waiting {
				done(err)
			}
			s.waiting = nil
			continue
		}
		s.release(s.next)
	}
	for _, s := range p.atomic {
		if s.pub != nil {
			_ = s.pub.Discard() // a batch that is not committed is stored nowhere
			s.end(errNotCommitted)
		}
	}
	done := make(chan struct{})
	go func() { p.wg.Wait(); close(done) }()
	select {
	case <-done:
	case <-ctx.Done():
		errs = append(errs, ctx.Err())
	}
	return errors.Join(errs...)
}

func (p *natsProducer) Close() { p.nc.Close() }

// natsConsumer has streams of its own, each with a consumer.
type natsConsumer struct {
	nc      *nats.Conn
	streams map[int]jetstream.Consumer // by partition
	ack     bool
}

// Consumer implements System: an ordered consumer on each stream.
func (j *JetStream) Consumer(ctx context.Context) (Consumer, error) {
	return j.consume("bench consumer", func(js jetstream.JetStream) (map[int]jetstream.Consumer, error) {
		streams := make(map[int]jetstream.Consumer)
		for p := range j.cell.Partitions {
			c, err := js.OrderedConsumer(ctx, stream(p), jetstream.OrderedConsumerConfig{DeliverPolicy: jetstream.DeliverNewPolicy})
			if err != nil {
				return nil, fmt.Errorf("consumer of %s: %w", stream(p), err)
			}
			streams[p] = c
		}
		return streams, nil
	}, false)
}

// Member implements System: a stream's durable consumer, read by one member, which acknowledges up to a message now and then.
func (j *JetStream) Member(ctx context.Context, i int) (Consumer, error) {
	return j.consume(fmt.Sprintf("bench member %d", i), func(js jetstream.JetStream) (map[int]jetstream.Consumer, error) {
		streams := make(map[int]jetstream.Consumer)
		for p := i; p < j.cell.Partitions; p += max(1, j.cell.Consumers) {
			c, err := js.CreateOrUpdateConsumer(ctx, stream(p), jetstream.ConsumerConfig{Durable: benchGroup, DeliverPolicy: jetstream.DeliverAllPolicy,
				AckPolicy: jetstream.AckAllPolicy, MaxAckPending: 100 * memberBatch})
			if err != nil {
				return nil, fmt.Errorf("consumer of %s: %w", stream(p), err)
			}
			streams[p] = c
		}
		return streams, nil
	}, true)
}

func (j *JetStream) consume(name string, open func(jetstream.JetStream) (map[int]jetstream.Consumer, error), ack bool) (Consumer, error) {
	nc, err := j.dial(name)
	if err != nil {
		return nil, err
	}
	js, err := jetstream.New(nc)
	if err == nil {
		c := &natsConsumer{nc: nc, ack: ack}
		if c.streams, err = open(js); err == nil {
			return c, nil
		}
	}
	nc.Close()
	return nil, err
}

func (c *natsConsumer) Run(ctx context.Context, fn func(int, []byte)) error {
	var mu sync.Mutex // fn is called from one goroutine at a time
	for p, s := range c.streams {
		n := 0
		run, err := s.Consume(func(m jetstream.Msg) {
			mu.Lock()
			fn(p, m.Data())
			mu.Unlock()
			if n++; c.ack && n%memberBatch == 0 {
				_ = m.Ack() // one that is lost is made up for by the next
			}
		}, jetstream.PullMaxMessages(2*memberBatch))
		if err != nil {
			return fmt.Errorf("consume %s: %w", stream(p), err)
		}
		defer run.Stop()
	}
	<-ctx.Done()
	return nil
}

func (c *natsConsumer) Close() { c.nc.Close() }

// ReadBack implements System.
func (j *JetStream) ReadBack(ctx context.Context, fn func(int, []byte)) error {
	_, js, err := j.context()
	if err != nil {
		return err
	}
	var mu sync.Mutex // guards fn
	g, group := errgroup.WithContext(ctx)
	g.SetLimit(readAtOnce)
	for p := range j.cell.Partitions {
		g.Go(func() error {
			if err := readStream(group, js, p, func(p int, rec []byte) {
				mu.Lock()
				defer mu.Unlock()
				fn(p, rec)
			}); err != nil {
				return fmt.Errorf("%s: %w", stream(p), err)
			}
			return nil
		})
	}
	return g.Wait()
}

func readStream(ctx context.Context, js jetstream.JetStream, p int, fn func(int, []byte)) error {
	s, err := js.Stream(ctx, stream(p))
	if err != nil {
		return err
	}
	left := s.CachedInfo().State.Msgs
	if left == 0 {
		return nil
	}
	cons, err := s.OrderedConsumer(ctx, jetstream.OrderedConsumerConfig{DeliverPolicy: jetstream.DeliverAllPolicy})
	if err != nil {
		return err
	}
	it, err := cons.Messages(jetstream.PullMaxMessages(2 * memberBatch))
	if err != nil {
		return err
	}
	defer it.Stop()
	for ; left > 0; left-- {
		m, err := it.Next(jetstream.NextContext(ctx))
		if err != nil {
			return err
		}
		fn(p, m.Data())
	}
	return nil
}

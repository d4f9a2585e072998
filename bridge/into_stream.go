// A topic into a JetStream stream, exactly once: a chain of messages in flight, each of which names the sequence that the one before it got.
//
// What is stored is always a prefix of the chain. After a failure the stream's end says how long that is: messages of this bridge behind the place that
// the progress names are read back, and move the offsets on. The broker's own copy of the offsets may so be behind, and never ahead.

package bridge

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/balsamq/balsa/client"
)

const (
	// maxWindow and maxWindowBytes bound the messages in flight.
	maxWindow      = 4096
	maxWindowBytes = 16 << 20
	// ackTimeout is how long one may be without an answer: an election of the stream's leader, and some more.
	ackTimeout = 10 * time.Second
	// keepEvery and keepAfter are how often the progress is kept: after so long, and after so many messages.
	keepEvery = time.Second
	keepAfter = 20_000
	// fetchBytes bounds one fetch.
	fetchBytes = 8 << 20
)

// flight is a message on its way.
type flight struct {
	record *kgo.Record
	ack    jetstream.PubAckFuture
	want   uint64 // the sequence that it is to get
	bytes  int
}

// streamWriter is a bridge into a stream at work.
type streamWriter struct {
	b       *Bridge
	conn    *connection
	stream  jetstream.Stream
	outlet  *outlet
	l       *ledger
	ts      *targets
	p       progress // of what is acknowledged
	last    uint64   // the stream's last sequence, with those in flight
	flights []flight
	bytes   int
	taken   map[int32]int64 // the next offsets to be taken, with those in flight
	dirty   int             // messages since the progress was kept
	kept    time.Time
}

func (b *Bridge) topicToStream(ctx context.Context, conn *connection) error {
	ts, err := b.openTargets(ctx)
	if err != nil {
		return err
	}
	defer ts.adm.Close()
	topic, err := ts.adm.DescribeTopic(ctx, b.job.Spec.FromTopic)
	if errors.Is(err, client.ErrNotFound) {
		return stuck("there is no topic %s: %w", b.job.Spec.FromTopic, err)
	}
	if err != nil {
		return err
	}
	l, p, err := openLedger(ctx, b.job.Kafka, b.job.ID, ts.maxBytes())
	if err != nil {
		return err
	}
	defer l.close()
	st, info, err := conn.stream(ctx, b.job.Spec.ToStream)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return &stuckError{err}
	}
	if err != nil {
		return err
	}
	if p.Offsets == nil {
		p.Offsets = make(map[int32]int64)
	}
	w := &streamWriter{b: b, conn: conn, stream: st, outlet: conn.outlet(info), l: l, ts: ts, p: p, kept: time.Now()}
	if err := w.catchUp(ctx, info); err != nil { // by the ids of before a seek
		return err
	}
	if err := w.place(ctx, &topic); err != nil {
		return err
	}
	if err := l.commit(ctx, &w.p); err != nil {
		return err
	}
	return w.run(ctx, &topic)
}

// outlet is what a stream takes over this connection.
func (c *connection) outlet(info *jetstream.StreamInfo) *outlet {
	o := &outlet{name: info.Config.Name, subjects: info.Config.Subjects, maxBytes: c.nc.MaxPayload()}
	if len(o.subjects) == 0 {
		o.subjects = []string{o.name} // JetStream's default
	}
	if n := int64(info.Config.MaxMsgSize); n > 0 {
		o.maxBytes = min(o.maxBytes, n)
	}
	return o
}

// place finds the offsets to begin at, as far as the topic says.
func (w *streamWriter) place(ctx context.Context, topic *client.Topic) error {
	b, p := w.b, &w.p
	to := position{}
	var err error
	switch {
	case p.Position < b.job.Number:
		if to, err = parsePosition(b.job.Spec, b.job.Position); err != nil {
			return err
		}
		p.Position = b.job.Number
		if to.offsets == nil {
			clear(p.Offsets)
		}
	case p.TopicID != topic.ID:
		b.log.Warn("the topic was made anew: it is read from its start", "topic", topic.Name, "id", topic.ID, "before", p.TopicID)
		clear(p.Offsets)
	}
	p.TopicID = topic.ID
	for _, part := range topic.Partitions {
		n := part.Partition
		if part.End < 0 || part.Start < 0 {
			return fmt.Errorf("partition %s/%d does not say where it begins and ends: %s", topic.Name, n, part.Error)
		}
		if o, ok := to.offsets[n]; ok {
			p.Offsets[n] = o
		}
		if o, ok := p.Offsets[n]; ok {
			switch {
			case o > part.End:
				return stuck("partition %s/%d ends at %d, and the bridge is to go on at %d: seek to where it is to go on", topic.Name, n, part.End, o)
			case o < part.Start:
				b.log.Warn("records are gone that had not been taken over", "topic", topic.Name, "partition", n, "next", o, "start", part.Start)
				p.Offsets[n] = part.Start
			}
			continue
		}
		switch {
		case to.new:
			p.Offsets[n] = part.End
		case !to.time.IsZero():
			if p.Offsets[n], err = w.ts.adm.OffsetAt(ctx, topic.Name, n, to.time); err != nil {
				return err
			}
		default:
			p.Offsets[n] = part.Start
		}
	}
	for n := range to.offsets {
		if int(n) >= len(topic.Partitions) {
			return stuck("topic %s has no partition %d to seek to", topic.Name, n)
		}
	}
	return nil
}

// id is a message's Nats-Msg-Id. The topic's own id and the number of seeks are in it: else what is sent again on purpose, or what has the place of an
// earlier topic's record, would be dropped as a repeat.
func (w *streamWriter) id(r *kgo.Record) string {
	return fmt.Sprintf("%s/%d/%d%s", r.Topic, r.Partition, r.Offset, w.idSuffix())
}

func (w *streamWriter) idSuffix() string {
	return fmt.Sprintf(" %s %s.%d", w.p.TopicID, w.b.job.ID, w.p.Position)
}

// catchUp reads the end of the stream: what is there already of this bridge.
func (w *streamWriter) catchUp(ctx context.Context, info *jetstream.StreamInfo) error {
	p := &w.p
	if p.Stream != info.Config.Name || !p.Created.Equal(info.Created) {
		p.Stream, p.Created, p.Seq = info.Config.Name, info.Created, 0
	}
	w.last = info.State.LastSeq
	if p.Position == 0 { // it has never written
		p.Seq = w.last
		return nil
	}
	if p.Seq > w.last {
		w.b.log.Warn("the stream has lost messages that it had acknowledged; the bridge goes on behind them", "stream", p.Stream, "last", w.last, "acknowledged", p.Seq)
		p.Seq = w.last
	}
	if p.Seq == w.last {
		return nil
	}
	found, err := w.readBack(ctx)
	if err != nil {
		return fmt.Errorf("read back the end of stream %s: %w", p.Stream, err)
	}
	w.b.log.Info("the end of the stream was read back", "stream", p.Stream, "from", p.Seq+1, "to", w.last, "found", found)
	p.Seq = w.last
	return nil
}

// readBack reads from behind p.Seq to the end, and moves the offsets on by what is this bridge's.
func (w *streamWriter) readBack(ctx context.Context) (found int, err error) {
	p := &w.p
	cons, err := w.stream.OrderedConsumer(ctx, jetstream.OrderedConsumerConfig{DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: p.Seq + 1,
		HeadersOnly: true, MaxResetAttempts: resetAttempts})
	if err != nil {
		return 0, err
	}
	if ci := cons.CachedInfo(); ci != nil && ci.NumPending == 0 {
		return 0, nil // all of it is gone from the stream
	}
	it, err := cons.Messages(jetstream.PullMaxMessages(readAhead), jetstream.PullHeartbeat(natsTimeout))
	if err != nil {
		return 0, err
	}
	defer it.Stop()
	defer context.AfterFunc(ctx, it.Stop)()
	topic, suffix := w.b.job.Spec.FromTopic, w.idSuffix()
	for {
		m, err := it.Next(jetstream.NextContext(ctx))
		if err != nil {
			return found, err
		}
		meta, err := m.Metadata()
		if err != nil {
			return found, err
		}
		if n, o, ok := placeOf(m.Headers().Get(nats.MsgIdHdr), topic, suffix); ok {
			p.Offsets[n] = max(p.Offsets[n], o+1)
			found++
		}
		if meta.NumPending == 0 || meta.Sequence.Stream >= w.last {
			w.last = max(w.last, meta.Sequence.Stream)
			return found, nil
		}
	}
}

// placeOf reads partition and offset out of an id.
func placeOf(id, topic, suffix string) (partition int32, offset int64, ok bool) {
	rest, ok := strings.CutSuffix(id, suffix)
	if ok {
		rest, ok = strings.CutPrefix(rest, topic+"/")
	}
	number, at, found := strings.Cut(rest, "/")
	n, err1 := strconv.ParseInt(number, 10, 32)
	o, err2 := strconv.ParseInt(at, 10, 64)
	if !ok || !found || err1 != nil || err2 != nil || n < 0 || o < 0 {
		return 0, 0, false
	}
	return int32(n), o, true
}

func (w *streamWriter) run(ctx context.Context, topic *client.Topic) error {
	b := w.b
	from := make(map[int32]kgo.Offset, len(topic.Partitions))
	w.taken = make(map[int32]int64, len(topic.Partitions))
	for n, o := range w.p.Offsets {
		from[n], w.taken[n] = kgo.NewOffset().At(o), o
	}
	// Transaction markers are records to the offsets: without them the lag would never be 0 behind one.
	reader, err := client.NewAdmin(ctx, withOptions(b.job.Kafka, kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.FetchMaxBytes(fetchBytes), kgo.KeepControlRecords(),
		kgo.ConsumeResetOffset(kgo.NoResetOffset()), kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic.Name: from})))
	if err != nil {
		return err
	}
	defer reader.Close()
	if err := w.look(ctx, topic); err != nil {
		return err
	}
	b.running()
	ticker := time.NewTicker(lookEvery)
	defer ticker.Stop()
	for {
		// With messages in flight their acknowledgements matter as much as new records.
		poll, cancel := context.WithTimeout(ctx, keepEvery/2)
		if len(w.flights) > 0 {
			cancel()
			poll, cancel = context.WithTimeout(ctx, gather)
		}
		fetches := reader.Client().PollRecords(poll, maxWindow)
		cancel()
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		for _, e := range fetches.Errors() {
			if !errors.Is(e.Err, context.DeadlineExceeded) && !errors.Is(e.Err, context.Canceled) {
				return fmt.Errorf("read %s/%d: %w", e.Topic, e.Partition, e.Err)
			}
		}
		for r := range fetches.RecordsAll() {
			if err := w.send(ctx, r); err != nil {
				if _, ok := errors.AsType[*stuckError](err); ok { // what is before it has gone its way
					err = errors.Join(err, w.settle(ctx), w.keep(ctx, true))
				}
				return err
			}
		}
		if err := w.settleSome(ctx, 0, fetches.NumRecords() == 0); err != nil {
			return err
		}
		select {
		case <-ticker.C:
			if err := w.look(ctx, topic); err != nil {
				return err
			}
		default:
		}
		if err := w.keep(ctx, false); err != nil {
			return err
		}
	}
}

// send publishes a record, or writes it to the dead letters.
func (w *streamWriter) send(ctx context.Context, r *kgo.Record) error {
	b := w.b
	if r.Attrs.IsControl() {
		w.taken[r.Partition] = r.Offset + 1
		w.dirty++
		return nil
	}
	m, err := b.conv.message(r, w.id(r), w.outlet)
	switch {
	case errors.Is(err, errSkip):
		// Its place becomes part of the progress with the next one that is acknowledged, or when nothing is in flight.
		b.stats.skipped.Add(1)
		w.taken[r.Partition] = r.Offset + 1
		w.dirty++
		return nil
	case err != nil && w.ts.dead == nil:
		return stuck("record %s/%d/%d cannot be converted: %w; give the bridge a topic for dead letters, or seek beyond it", r.Topic, r.Partition, r.Offset, err)
	case err != nil:
		return w.bury(ctx, r, err)
	}
	size := m.Size()
	if err := w.settleSome(ctx, size, false); err != nil {
		return err
	}
	m.Header.Set(jetstream.ExpectedLastSeqHeader, strconv.FormatUint(w.last, 10))
	ack, err := w.conn.js.PublishMsgAsync(m, jetstream.WithRetryAttempts(0), jetstream.WithStallWait(ackTimeout))
	if err != nil {
		return fmt.Errorf("publish: %w", err)
	}
	w.last++
	w.taken[r.Partition] = r.Offset + 1
	w.flights = append(w.flights, flight{r, ack, w.last, size})
	w.bytes += size
	return nil
}

// bury writes a dead letter, together with the progress that has it behind it: so that the letter is there once.
func (w *streamWriter) bury(ctx context.Context, r *kgo.Record, reason error) error {
	if err := w.settle(ctx); err != nil {
		return err
	}
	w.taken[r.Partition] = r.Offset + 1
	p := w.progressOfAll()
	if err := w.l.commit(ctx, p, w.ts.dead.send(w.b.conv.deadRecord(r, reason), string(r.Key))); err != nil {
		return err
	}
	w.p, w.dirty, w.kept = *p, 0, time.Now()
	w.b.stats.deadLetters.Add(1)
	return nil
}

// progressOfAll is the progress once nothing is in flight.
func (w *streamWriter) progressOfAll() *progress {
	p := w.p.clone()
	for n, o := range w.taken {
		p.Offsets[n] = o
	}
	p.Seq = w.last
	return &p
}

// settle waits for everything that is in flight.
func (w *streamWriter) settle(ctx context.Context) error {
	for len(w.flights) > 0 {
		if err := w.settleOne(ctx); err != nil {
			return err
		}
	}
	return nil
}

// settleSome waits until a message of so many bytes fits into the window, and takes what has been answered already. With idle set it waits a little for
// the rest.
func (w *streamWriter) settleSome(ctx context.Context, size int, idle bool) error {
	for len(w.flights) > 0 {
		full := len(w.flights) >= maxWindow || w.bytes+size > maxWindowBytes
		if !full && !idle {
			select {
			case ack := <-w.flights[0].ack.Ok():
				if err := w.acknowledged(ack); err != nil {
					return err
				}
				continue
			case err := <-w.flights[0].ack.Err():
				return w.refused(err)
			default:
				return nil
			}
		}
		if err := w.settleOne(ctx); err != nil {
			return err
		}
	}
	return nil
}

// settleOne waits for the oldest one in flight.
func (w *streamWriter) settleOne(ctx context.Context) error {
	t := time.NewTimer(ackTimeout)
	defer t.Stop()
	select {
	case ack := <-w.flights[0].ack.Ok():
		return w.acknowledged(ack)
	case err := <-w.flights[0].ack.Err():
		return w.refused(err)
	case <-t.C:
		return w.refused(errors.New("no answer"))
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (w *streamWriter) refused(err error) error {
	f := &w.flights[0]
	return fmt.Errorf("stream %s did not take record %s/%d/%d: %w", w.p.Stream, f.record.Topic, f.record.Partition, f.record.Offset, err)
}

func (w *streamWriter) acknowledged(ack *jetstream.PubAck) error {
	f := w.flights[0]
	// A repeat: what was read back did not have it, so that it must have been removed. The chain has one link less than was thought.
	if ack.Duplicate || ack.Sequence != f.want || ack.Stream != w.p.Stream {
		return fmt.Errorf("stream %s has record %s/%d/%d at %d (repeat: %v), and not at %d: the chain begins anew", ack.Stream, f.record.Topic, f.record.Partition, f.record.Offset,
			ack.Sequence, ack.Duplicate, f.want)
	}
	w.flights[0] = flight{}
	w.flights = w.flights[1:]
	w.bytes -= f.bytes
	w.p.Offsets[f.record.Partition] = f.record.Offset + 1
	w.p.Seq = ack.Sequence
	w.dirty++
	w.b.stats.add(&Counts{Records: 1, Bytes: uint64(payloadBytes(f.record))})
	return nil
}

// keep writes the progress, if that is due.
func (w *streamWriter) keep(ctx context.Context, now bool) error {
	if w.dirty == 0 || !now && w.dirty < keepAfter && time.Since(w.kept) < keepEvery {
		return nil
	}
	if len(w.flights) == 0 {
		w.p = *w.progressOfAll()
	}
	if err := w.l.commit(ctx, &w.p); err != nil {
		return err
	}
	w.dirty, w.kept = 0, time.Now()
	w.b.stats.at(placeText(w.p.Offsets))
	return nil
}

// look asks how much there is to come, and whether both ends are what they were.
func (w *streamWriter) look(ctx context.Context, was *client.Topic) error {
	topic, err := w.ts.adm.DescribeTopic(ctx, was.Name)
	if err != nil {
		return err
	}
	if topic.ID != was.ID || len(topic.Partitions) != len(was.Partitions) {
		return fmt.Errorf("topic %s was made anew, or has more partitions: the bridge begins anew", was.Name)
	}
	next := w.p.Offsets
	if len(w.flights) == 0 {
		next = w.taken
	}
	lag := int64(0)
	for _, p := range topic.Partitions {
		if p.End >= 0 {
			lag += max(p.End-next[p.Partition], 0)
		}
	}
	w.b.stats.lag.Store(lag)
	w.b.stats.at(placeText(w.p.Offsets))
	ctx, cancel := context.WithTimeout(ctx, natsTimeout)
	defer cancel()
	info, err := w.stream.Info(ctx)
	if err != nil {
		return fmt.Errorf("ask for stream %s: %w", w.p.Stream, err)
	}
	if !info.Created.Equal(w.p.Created) {
		return fmt.Errorf("stream %s was deleted and made anew", w.p.Stream)
	}
	w.outlet = w.conn.outlet(info)
	return w.ts.look(ctx, w.b.job.Spec)
}

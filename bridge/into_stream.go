// A topic into a JetStream stream, exactly once: plans, each of which says which records get the stream's next sequences.
//
// A plan is written to the ledger before anything of it is published, and names its records in order. Each message says which sequence it expects before
// it, so a window can be in flight and what is stored is what the plan says, whoever sends it: an owner that was thought dead and its successor publish the
// same message for the same sequence, and one of the two is refused. (Two owners with plans of their own would fill each other's gaps.) After a failure the
// stream's end says how much of the plan is done.

package bridge

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/balsamq/balsa/client"
)

const (
	// maxWindow and maxWindowBytes bound the messages of a plan, all of which may be in flight.
	maxWindow      = 4096
	maxWindowBytes = 16 << 20
	// ackTimeout is how long one may be without an answer. What a leader has not acknowledged before it is gone is answered by nobody: to wait for the next one is
	// for those who ask (leaderTimeout).
	ackTimeout = 5 * time.Second
	// fetchBytes bounds one fetch.
	fetchBytes = 8 << 20
	// maxQueued bounds the records that wait while the rest of a plan is looked for among them, and planTimeout the time that takes.
	maxQueued   = 64 << 10
	planTimeout = time.Minute
)

// run is records of a partition with consecutive places in a plan: those from First to Last that become messages.
type run struct {
	Partition int32 `json:"p"`
	First     int64 `json:"f"`
	Last      int64 `json:"l"`
}

// flight is a message on its way.
type flight struct {
	record  *kgo.Record
	ack     jetstream.PubAckFuture
	want    uint64 // the sequence that it is to get
	subject string
}

func (f *flight) place() recordPlace { return placeIn(f.record) }

func placeIn(r *kgo.Record) recordPlace { return recordPlace{r.Partition, r.Offset} }

// streamWriter is a bridge into a stream at work.
type streamWriter struct {
	b       *Bridge
	conn    *connection
	stream  jetstream.Stream
	outlet  *outlet
	l       *ledger
	ts      *targets
	reader  *client.Admin
	p       progress
	last    uint64 // the stream's last sequence, with those in flight
	flights []flight
	queues  map[int32][]*kgo.Record // read, and not taken yet
	queued  int
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
	l, p, err := openLedger(ctx, b.job.Kafka, b.job.ID, ts)
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
	w := &streamWriter{b: b, conn: conn, stream: st, outlet: conn.outlet(info), l: l, ts: ts, p: p, queues: make(map[int32][]*kgo.Record)}
	rest, err := w.resume(ctx, info)
	if err != nil {
		return err
	}
	number, id := w.p.Position, w.p.TopicID
	if err := w.place(ctx, &topic); err != nil {
		return err
	}
	if len(rest) > 0 && number == w.p.Position && id == w.p.TopicID {
		return w.run(ctx, &topic, rest)
	}
	w.p.Plan, w.p.Next = nil, nil
	if err := l.commit(ctx, &w.p); err != nil {
		return err
	}
	return w.run(ctx, &topic, nil)
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
	if p.Position > 0 && p.TopicID != topic.ID {
		b.log.Warn("the topic was made anew: it is read from its start", "topic", topic.Name, "id", topic.ID, "before", p.TopicID)
		clear(p.Offsets)
		p.Done = nil
	}
	if p.Position < b.job.Number {
		if to, err = parsePosition(b.job.Spec, b.job.Position); err != nil {
			return err
		}
		p.Position = b.job.Number
		p.Done = slices.DeleteFunc(p.Done, func(d run) bool { _, sought := to.offsets[d.Partition]; return sought || to.offsets == nil })
		if to.offsets == nil {
			clear(p.Offsets)
		}
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

// resume finds out how much of the plan is stored, and returns the rest of it. The progress is then that of before the rest.
func (w *streamWriter) resume(ctx context.Context, info *jetstream.StreamInfo) (rest []run, err error) {
	p := &w.p
	w.last = info.State.LastSeq
	same := p.Stream == info.Config.Name && p.Created.Equal(info.Created)
	base := p.Seq
	p.Stream, p.Created, p.Seq = info.Config.Name, info.Created, w.last
	switch {
	case p.Position == 0 || len(p.Plan) == 0:
		return nil, nil
	case !same:
		w.b.log.Warn("the stream was made anew: the bridge goes on where it was", "stream", p.Stream, "created", p.Created)
		return nil, nil
	case w.last < base:
		w.b.log.Warn("the stream has lost messages that it had acknowledged; the bridge goes on behind them", "stream", p.Stream, "last", w.last, "acknowledged", base)
		return nil, nil
	}
	found, err := w.readBack(ctx, base)
	if err != nil {
		return nil, fmt.Errorf("read back the end of stream %s: %w", p.Stream, err)
	}
	w.b.log.Info("the end of the stream was read back", "stream", p.Stream, "from", base+1, "to", w.last, "found", len(found))
	rest = slices.Clone(p.Plan)
	regular := true
	var stored []recordPlace
	for seq := base + 1; seq <= w.last; seq++ {
		at, there := found[seq]
		switch {
		case regular && len(rest) > 0 && (!there || at == rest[0].first()): // what has been removed meanwhile was what the plan says
			at = rest[0].first()
			if rest[0].First++; rest[0].First > rest[0].Last {
				rest = rest[1:]
			}
		case !there:
			regular = false
			continue
		default:
			regular = false
		}
		if at.offset >= 0 {
			stored = append(stored, at)
		}
	}
	if !regular { // a foreign message may have had the place of one that is not stored, and those behind it fitted again
		w.b.log.Warn("others write to the stream: give the bridge one of its own, or records may be there out of order", "stream", p.Stream)
		p.noteDone(stored)
		p.noteBeside(p.Plan)
		return nil, nil
	}
	for _, at := range stored {
		p.Offsets[at.partition] = max(p.Offsets[at.partition], at.offset+1)
	}
	if len(rest) == 0 {
		maps.Copy(p.Offsets, p.Next)
	}
	return rest, nil
}

// recordPlace is a record's place in its topic; an offset below 0 is that of a message of somebody else.
type recordPlace struct {
	partition int32
	offset    int64
}

func (r *run) first() recordPlace { return recordPlace{r.Partition, r.First} }

// noteDone adds records that are stored, those below the offsets aside.
func (p *progress) noteDone(stored []recordPlace) {
	var more []run
	for _, at := range stored {
		if at.offset >= p.Offsets[at.partition] {
			more = append(more, run{at.partition, at.offset, at.offset})
		}
	}
	p.mergeDone(more)
}

// noteBeside adds what the plan has passed without making a message of it, dead letters above all: they were written with the plan. rest is what of the plan is not
// stored, each partition's in order.
func (p *progress) noteBeside(rest []run) {
	var more []run
	for n, end := range p.Next {
		at := p.Offsets[n]
		for _, x := range rest {
			if x.Partition != n {
				continue
			}
			if x.First > at {
				more = append(more, run{n, at, x.First - 1})
			}
			at = max(at, x.Last+1)
		}
		if end > at {
			more = append(more, run{n, at, end - 1})
		}
	}
	p.mergeDone(more)
}

func (p *progress) mergeDone(more []run) {
	all := append(more, p.Done...)
	slices.SortFunc(all, func(a, b run) int {
		return cmp.Or(cmp.Compare(a.Partition, b.Partition), cmp.Compare(a.First, b.First))
	})
	p.Done = nil
	for _, d := range all {
		if k := len(p.Done) - 1; k >= 0 && p.Done[k].Partition == d.Partition && p.Done[k].Last >= d.First-1 {
			p.Done[k].Last = max(p.Done[k].Last, d.Last)
		} else {
			p.Done = append(p.Done, d)
		}
	}
}

// isDone says whether a record is stored although its place is not behind the offsets.
func (p *progress) isDone(r *kgo.Record) bool {
	return slices.ContainsFunc(p.Done, func(d run) bool { return d.Partition == r.Partition && d.First <= r.Offset && r.Offset <= d.Last })
}

// readBack reads from behind base to the end: the records that messages were made of, by sequence.
func (w *streamWriter) readBack(ctx context.Context, base uint64) (map[uint64]recordPlace, error) {
	found := make(map[uint64]recordPlace)
	if base == w.last {
		return found, nil
	}
	if w.stream.CachedInfo().Config.Retention != jetstream.LimitsPolicy { // a consumer would be refused, or hold messages back
		return found, w.readSingly(ctx, base, found)
	}
	cons, err := ask(ctx, func(ctx context.Context) (jetstream.Consumer, error) {
		return w.stream.OrderedConsumer(ctx, jetstream.OrderedConsumerConfig{DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: base + 1,
			HeadersOnly: true, MaxResetAttempts: resetAttempts})
	})
	if err != nil {
		return nil, err
	}
	if ci := cons.CachedInfo(); ci != nil && ci.NumPending == 0 {
		return found, nil // all of it is gone from the stream
	}
	it, err := cons.Messages(jetstream.PullMaxMessages(readAhead), jetstream.PullHeartbeat(heartbeat))
	if err != nil {
		return nil, err
	}
	defer it.Stop()
	defer context.AfterFunc(ctx, it.Stop)()
	topic, suffix := w.b.job.Spec.FromTopic, w.idSuffix()
	for len(found) < maxQueued {
		one, cancel := context.WithTimeout(ctx, natsTimeout)
		m, err := it.Next(jetstream.NextContext(one))
		cancel()
		if err != nil && ctx.Err() == nil { // perhaps one that a consumer cannot have
			w.b.log.Warn("the stream's end is read back one by one", "stream", w.p.Stream, "from", base+1, "err", err)
			return found, w.readSingly(ctx, base, found)
		}
		if err != nil {
			return nil, err
		}
		meta, err := m.Metadata()
		if err != nil {
			return nil, err
		}
		base = meta.Sequence.Stream
		found[base] = placeOfMessage(m.Headers(), topic, suffix)
		if meta.NumPending == 0 || base >= w.last {
			break
		}
	}
	return found, nil // a plan is shorter than what is read at most: what is not read is not this bridge's
}

// readSingly is readBack by a question for each message.
func (w *streamWriter) readSingly(ctx context.Context, base uint64, found map[uint64]recordPlace) error {
	topic, suffix := w.b.job.Spec.FromTopic, w.idSuffix()
	for seq := base + 1; seq <= w.last && len(found) < maxQueued; {
		m, err := w.conn.next(ctx, w.p.Stream, seq, nil)
		if err != nil {
			return err
		}
		if m == nil {
			break // none is left behind it
		}
		found[m.seq] = placeOfMessage(m.header, topic, suffix)
		w.last = max(w.last, m.seq)
		seq = m.seq + 1
	}
	return nil
}

// placeOfMessage is the record that a message was made of.
func placeOfMessage(h nats.Header, topic, suffix string) recordPlace {
	if n, o, ok := placeOf(h.Get(nats.MsgIdHdr), topic, suffix); ok {
		return recordPlace{n, o}
	}
	return recordPlace{-1, -1}
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

// run finishes the rest of a plan, and then makes one after the other.
func (w *streamWriter) run(ctx context.Context, topic *client.Topic, rest []run) (err error) {
	b := w.b
	from := make(map[int32]kgo.Offset, len(topic.Partitions))
	for n, o := range w.p.Offsets {
		from[n] = kgo.NewOffset().At(o)
	}
	// Transaction markers are records to the offsets: without them the lag would never be 0 behind one.
	w.reader, err = client.NewAdmin(ctx, withOptions(b.job.Kafka, kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.FetchMaxBytes(fetchBytes), kgo.KeepControlRecords(),
		kgo.ConsumeResetOffset(kgo.NoResetOffset()), kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic.Name: from})))
	if err != nil {
		return err
	}
	defer w.reader.Close()
	if err := w.finish(ctx, rest); err != nil {
		return err
	}
	if err := w.look(ctx, topic); err != nil {
		return err
	}
	b.running()
	looked := time.Now()
	for {
		if w.queued == 0 {
			if err := w.poll(ctx, lookEvery/2); err != nil {
				return err
			}
		}
		if err := w.batch(ctx); err != nil {
			return err
		}
		if time.Since(looked) > lookEvery {
			looked = time.Now()
			if err := w.look(ctx, topic); err != nil {
				return err
			}
		}
	}
}

// poll waits for records, for so long.
func (w *streamWriter) poll(ctx context.Context, wait time.Duration) error {
	one, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	fetches := w.reader.Client().PollRecords(one, maxWindow)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	for _, e := range fetches.Errors() {
		if !errors.Is(e.Err, context.DeadlineExceeded) && !errors.Is(e.Err, context.Canceled) {
			return fmt.Errorf("read %s/%d: %w", e.Topic, e.Partition, e.Err)
		}
	}
	for r := range fetches.RecordsAll() {
		w.queues[r.Partition] = append(w.queues[r.Partition], r)
		w.queued++
	}
	return nil
}

// finish publishes the rest of a plan that somebody has begun: the same records in the same order.
func (w *streamWriter) finish(ctx context.Context, rest []run) error {
	if len(rest) == 0 {
		return nil
	}
	deadline := time.Now().Add(planTimeout)
	for i, x := range rest {
		left := func(from int64) []run { return append([]run{{x.Partition, from, x.Last}}, rest[i+1:]...) }
		for o := x.First; o <= x.Last; {
			q := w.queues[x.Partition]
			switch {
			case len(q) > 0 && q[0].Offset < o: // it was left out
			case len(q) > 0 && q[0].Offset > o, w.queued >= maxQueued, time.Now().After(deadline):
				return w.abandon(ctx, left(o), fmt.Errorf("record %s/%d/%d of the plan is not to be had any more", w.b.job.Spec.FromTopic, x.Partition, o))
			case len(q) > 0:
				m, err := w.b.conv.message(q[0], w.id(q[0]), w.outlet)
				if err == nil {
					err = w.b.refused.given[placeIn(q[0])]
				}
				if err != nil { // the stream's limits have changed, or it has refused this one
					return w.abandon(ctx, left(o), err)
				}
				if err := w.publish(m, q[0]); err != nil {
					return err
				}
				o++
				w.p.Offsets[x.Partition] = o // kept only once it is settled: see abandon
			default:
				if err := w.poll(ctx, lookEvery/2); err != nil {
					return err
				}
				continue
			}
			w.queues[x.Partition] = q[1:]
			w.queued--
		}
	}
	if err := w.settle(ctx); err != nil {
		return err
	}
	w.done()
	return nil
}

// abandon gives up a plan that cannot be finished, of which the rest is not sent: the next start makes another one.
func (w *streamWriter) abandon(ctx context.Context, rest []run, why error) error {
	if err := w.settle(ctx); err != nil {
		return err
	}
	w.p.noteBeside(rest)
	w.b.log.Warn("a plan cannot be finished; the bridge makes another one", "why", why)
	w.p.Plan, w.p.Next, w.p.Seq = nil, nil, w.last
	return errors.Join(why, w.l.commit(ctx, &w.p))
}

// batch makes a plan of what has been read, writes it to the ledger, and carries it out. Dead letters are written with it.
func (w *streamWriter) batch(ctx context.Context) error {
	var (
		plan  []run
		msgs  []*nats.Msg
		of    []*kgo.Record
		dead  []*kgo.Record
		put   []*kgo.Record // what they were made of
		tally Counts
		bytes int
		stop  error // at a record that cannot be converted
		next  = maps.Clone(w.p.Offsets)
	)
	for _, n := range slices.Sorted(maps.Keys(w.queues)) {
		q := w.queues[n]
		for len(q) > 0 && len(msgs) < maxWindow && len(dead) < maxWindow && bytes < maxWindowBytes && stop == nil {
			r := q[0]
			m, err := (*nats.Msg)(nil), errSkip
			if r.Offset >= next[n] && !r.Attrs.IsControl() && !w.p.isDone(r) { // what is before was in a plan that another one has begun
				m, err = w.b.conv.message(r, w.id(r), w.outlet)
				if err == nil {
					err = w.b.refused.given[placeIn(r)]
				}
				if errors.Is(err, errSkip) {
					tally.Skipped++
				}
			}
			switch {
			case err == nil:
				if k := len(plan) - 1; k >= 0 && plan[k].Partition == n && plan[k].Last == r.Offset-1 {
					plan[k].Last++
				} else {
					plan = append(plan, run{n, r.Offset, r.Offset})
				}
				msgs, of, bytes = append(msgs, m), append(of, r), bytes+m.Size()
			case errors.Is(err, errSkip):
			case w.ts.dead == nil:
				stop = stuck("record %s/%d/%d cannot be taken over: %w; %s", r.Topic, r.Partition, r.Offset, err, w.b.beyond(placeIn(r).behind()))
				continue
			default:
				d := w.ts.dead.letter(w.b.conv.deadRecord(r, err, w.ts.dead.maxBytes), string(r.Key))
				dead, put, bytes = append(dead, d), append(put, r), bytes+payloadBytes(d)
				tally.DeadLetters++
			}
			next[n] = max(next[n], r.Offset+1)
			q = q[1:]
			w.queued--
		}
		if w.queues[n] = q; len(q) == 0 {
			delete(w.queues, n)
		}
	}
	w.p.Plan, w.p.Next, w.p.Seq = plan, next, w.last
	if len(plan) == 0 {
		w.done()
	}
	if len(plan)+len(dead) > 0 {
		if err := w.l.commit(ctx, &w.p, dead...); err != nil {
			return w.b.blameTopic(w.ts, 0, dead, err)
		}
	}
	w.b.stats.add(&tally)
	for _, r := range put {
		w.b.refused.passed(placeIn(r))
	}
	for i, m := range msgs {
		if err := w.publish(m, of[i]); err != nil {
			return err
		}
	}
	if err := w.settle(ctx); err != nil {
		return err
	}
	w.done()
	return stop
}

// done notes that the plan is carried out.
func (w *streamWriter) done() {
	if w.p.Next != nil {
		w.p.Offsets = maps.Clone(w.p.Next)
		w.p.Done = slices.DeleteFunc(w.p.Done, func(d run) bool { return d.Last < w.p.Offsets[d.Partition] })
	}
	w.p.Plan, w.p.Next, w.p.Seq = nil, nil, w.last
}

// publish sends a message, as the next of the chain.
func (w *streamWriter) publish(m *nats.Msg, r *kgo.Record) error {
	m.Header.Set(jetstream.ExpectedLastSeqHeader, strconv.FormatUint(w.last, 10))
	ack, err := w.conn.js.PublishMsgAsync(m, jetstream.WithRetryAttempts(0), jetstream.WithStallWait(ackTimeout))
	if err != nil {
		return fmt.Errorf("publish: %w", err)
	}
	w.last++
	w.flights = append(w.flights, flight{r, ack, w.last, m.Subject})
	return nil
}

// settle waits for everything that is in flight.
func (w *streamWriter) settle(ctx context.Context) error {
	t := time.NewTimer(ackTimeout)
	defer t.Stop()
	for i := range w.flights {
		f := &w.flights[i]
		t.Reset(ackTimeout)
		if err := w.answer(ctx, f, t.C); err != nil {
			return err
		}
	}
	w.flights = w.flights[:0]
	return nil
}

// answer waits for that to one message.
func (w *streamWriter) answer(ctx context.Context, f *flight, late <-chan time.Time) error {
	for {
		err := w.conn.denied.of(f.subject)
		if err == nil {
			select {
			case ack := <-f.ack.Ok():
				return w.acknowledged(f, ack)
			case err = <-f.ack.Err():
			case <-w.conn.denied.news: // of this one, or of one behind it
				continue
			case <-late:
				err = errors.New("no answer")
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
		return w.b.blame(w.p.Stream, f.record.Topic, f.place(), err)
	}
}

func (w *streamWriter) acknowledged(f *flight, ack *jetstream.PubAck) error {
	if ack.Duplicate || ack.Sequence != f.want || ack.Stream != w.p.Stream {
		return fmt.Errorf("stream %s has record %s/%d/%d at %d (repeat: %v), and not at %d: the chain begins anew", ack.Stream, f.record.Topic, f.record.Partition, f.record.Offset,
			ack.Sequence, ack.Duplicate, f.want)
	}
	w.b.refused.passed(f.place())
	w.b.stats.add(&Counts{Records: 1, Bytes: uint64(payloadBytes(f.record))})
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
	lag := int64(0)
	for _, p := range topic.Partitions {
		if p.End >= 0 {
			lag += max(p.End-w.p.Offsets[p.Partition], 0)
		}
	}
	w.b.stats.lag.Store(lag)
	w.b.stats.at(placeText(w.p.Offsets))
	info, err := ask(ctx, func(ctx context.Context) (*jetstream.StreamInfo, error) { return w.stream.Info(ctx) })
	if err != nil {
		return fmt.Errorf("ask for stream %s: %w", w.p.Stream, err)
	}
	if !info.Created.Equal(w.p.Created) {
		return fmt.Errorf("stream %s was deleted and made anew", w.p.Stream)
	}
	w.outlet = w.conn.outlet(info)
	return w.ts.look(ctx, w.b.job.Spec)
}

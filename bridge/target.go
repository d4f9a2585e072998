// The topic that messages go to, and the one for dead letters: how many partitions they have, and which records they take.

package bridge

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/balsamq/balsa/client"
)

const (
	// maxMessage bounds what is believed of a topic's max.message.bytes, and minBatchBytes what the client is told of it: it takes nothing less.
	maxMessage    = 1 << 30
	minBatchBytes = 512
)

// target is a topic to write to.
type target struct {
	name       string
	partitions int
	maxBytes   int // of a record
	choose     kgo.TopicPartitioner

	compacted   bool // each record needs a key
	conditional bool // it takes no transactions
	stamped     bool // by the broker: a record's own time does not matter
	// before and after are how many milliseconds a record's time may be from now; -1: any.
	before, after int64
}

// openTarget asks the cluster about a topic.
func openTarget(ctx context.Context, adm *client.Admin, name string) (*target, error) {
	t, err := adm.DescribeTopic(ctx, name)
	if errors.Is(err, client.ErrNotFound) {
		return nil, stuck("there is no topic %s: %w", name, err)
	}
	if err != nil {
		return nil, fmt.Errorf("ask for topic %s: %w", name, err)
	}
	out := &target{name: name, partitions: len(t.Partitions), maxBytes: defaultMaxMessage, choose: kgo.StickyKeyPartitioner(nil).ForTopic(name), before: -1, after: -1}
	for _, c := range t.Configs {
		n, err := strconv.ParseInt(c.Value, 10, 64)
		switch c.Name {
		case "max.message.bytes":
			if err == nil && n > 0 {
				out.maxBytes = int(min(n, maxMessage))
			}
		case "message.timestamp.before.max.ms":
			if err == nil && n >= 0 {
				out.before = n
			}
		case "message.timestamp.after.max.ms":
			if err == nil && n >= 0 {
				out.after = n
			}
		case "message.timestamp.type":
			out.stamped = c.Value == "LogAppendTime"
		case "cleanup.policy":
			out.compacted = strings.Contains(c.Value, "compact")
		case "balsa.conditional.append":
			out.conditional = c.Value == "true"
		}
	}
	return out, nil
}

// refuses says why the topic would not take a record; nil: it would, as far as can be told from its settings.
func (t *target) refuses(r *kgo.Record) error {
	if n := recordBytes(r); n > t.maxBytes {
		return fmt.Errorf("the record would have %d bytes, and topic %s takes %d (max.message.bytes)", n, t.name, t.maxBytes)
	}
	if t.compacted && r.Key == nil {
		return fmt.Errorf("the record would have no key, and topic %s is compacted (cleanup.policy)", t.name)
	}
	return t.untimely(r)
}

// untimely says why the topic would not take a record's time.
func (t *target) untimely(r *kgo.Record) error {
	late := time.Now().UnixMilli() - r.Timestamp.UnixMilli()
	switch {
	case t.stamped:
	case t.before >= 0 && late > t.before:
		return fmt.Errorf("the record would be of %s, and topic %s takes none of more than %d ms before now (message.timestamp.before.max.ms)", r.Timestamp.UTC().Format(time.RFC3339Nano), t.name, t.before)
	case t.after >= 0 && -late > t.after:
		return fmt.Errorf("the record would be of %s, and topic %s takes none of more than %d ms after now (message.timestamp.after.max.ms)", r.Timestamp.UTC().Format(time.RFC3339Nano), t.name, t.after)
	}
	return nil
}

// letter addresses a dead letter, in a form that the topic takes: what it was is in its headers.
func (t *target) letter(r *kgo.Record, subject string) *kgo.Record {
	if t.compacted && r.Key == nil {
		r.Key = []byte{}
	}
	if t.untimely(r) != nil {
		r.Timestamp = time.Now()
	}
	return t.send(r, subject)
}

// send addresses a record: by its key, as every Kafka client does, or by its subject if it has no key, so that a subject keeps its order.
func (t *target) send(r *kgo.Record, subject string) *kgo.Record {
	by := r
	if r.Key == nil {
		by = &kgo.Record{Key: []byte(subject)}
	}
	r.Topic, r.Partition = t.name, int32(t.choose.Partition(by, t.partitions))
	return r
}

// targets are both topics, and who asks about them.
type targets struct {
	adm  *client.Admin
	main *target
	dead *target // nil: there is none
}

func (b *Bridge) openTargets(ctx context.Context) (_ *targets, err error) {
	t := new(targets)
	if t.adm, err = client.NewAdmin(ctx, b.job.Kafka); err != nil {
		return nil, err
	}
	if err := t.look(ctx, b.job.Spec); err != nil {
		t.adm.Close()
		return nil, err
	}
	for _, x := range [...]*target{t.main, t.dead} {
		if x != nil && x.conditional && b.job.Spec.FromSubject == "" {
			t.adm.Close()
			return nil, stuck("topic %s has conditional appends (balsa.conditional.append) and takes no transactions, without which nothing can be taken over exactly once: it needs another topic", x.name)
		}
	}
	return t, nil
}

// look asks again: a topic may have got more partitions.
func (t *targets) look(ctx context.Context, s *Spec) (err error) {
	if s.ToTopic != "" {
		if t.main, err = openTarget(ctx, t.adm, s.ToTopic); err != nil {
			return err
		}
	}
	if s.DeadLetters != "" {
		t.dead, err = openTarget(ctx, t.adm, s.DeadLetters)
	}
	return err
}

// batchBytes bounds a batch of records for a topic.
func (t *targets) batchBytes(topic string) int32 {
	for _, x := range [...]*target{t.main, t.dead} {
		if x != nil && x.name == topic {
			return int32(max(x.maxBytes, minBatchBytes))
		}
	}
	return defaultMaxMessage
}

// take makes the record for a message, for the topic or for dead letters, and counts it in tally. Nil without an error: the message is left out. An
// error is one that the bridge stops at.
func (b *Bridge) take(t *targets, m *message, tally *Counts) (*kgo.Record, error) {
	r, err := b.conv.record(m)
	if err == nil && !b.job.blind {
		err = t.main.refuses(r)
	}
	if err == nil {
		err = b.refused.given[placeOfSeq(m.seq)]
	}
	switch {
	case errors.Is(err, errSkip):
		tally.Skipped++
		return nil, nil
	case err == nil:
		tally.Records++
		tally.Bytes += uint64(payloadBytes(r))
		return t.main.send(r, m.subject), nil
	case t.dead == nil:
		return nil, stuck("%s cannot be taken over: %w; %s", describeMessage(m), err, b.beyond(strconv.FormatUint(m.seq+1, 10)))
	}
	tally.DeadLetters++
	return t.dead.letter(b.conv.deadMessage(m, err, t.dead.maxBytes), m.subject), nil
}

func describeMessage(m *message) string {
	if m.seq == 0 {
		return fmt.Sprintf("a message of subject %.200q", m.subject)
	}
	return fmt.Sprintf("message %d of subject %.200q", m.seq, m.subject)
}

// The topic that messages go to, and the one for dead letters: how many partitions they have, and how large a record may be.

package bridge

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/balsamq/balsa/client"
)

// target is a topic to write to.
type target struct {
	name       string
	partitions int
	maxBytes   int // of a record
	choose     kgo.TopicPartitioner
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
	out := &target{name: name, partitions: len(t.Partitions), maxBytes: defaultMaxMessage, choose: kgo.StickyKeyPartitioner(nil).ForTopic(name)}
	for _, c := range t.Configs {
		if c.Name == "max.message.bytes" {
			if n, err := strconv.Atoi(c.Value); err == nil && n > 0 {
				out.maxBytes = n
			}
		}
	}
	return out, nil
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

// maxBytes is the larger bound of the two.
func (t *targets) maxBytes() int {
	n := defaultMaxMessage
	for _, x := range [...]*target{t.main, t.dead} {
		if x != nil {
			n = max(n, x.maxBytes)
		}
	}
	return n
}

// take makes the record for a message, for the topic or for dead letters, and counts it in tally. Nil without an error: the message is left out. An
// error is one that the bridge stops at.
func (b *Bridge) take(t *targets, m *message, tally *Counts) (*kgo.Record, error) {
	r, err := b.conv.record(m)
	if err == nil {
		if n := recordBytes(r); n > t.main.maxBytes {
			err = fmt.Errorf("the record would have %d bytes, and topic %s takes %d (max.message.bytes)", n, t.main.name, t.main.maxBytes)
		}
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
		return nil, stuck("%s cannot be converted: %w; give the bridge a topic for dead letters, or seek beyond it", describeMessage(m), err)
	}
	tally.DeadLetters++
	return t.dead.send(b.conv.deadMessage(m, err, t.dead.maxBytes), m.subject), nil
}

func describeMessage(m *message) string {
	if m.seq == 0 {
		return fmt.Sprintf("a message of subject %.200q", m.subject)
	}
	return fmt.Sprintf("message %d of subject %.200q", m.seq, m.subject)
}

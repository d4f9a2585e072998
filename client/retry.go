// What happens to a record that cannot be processed: tried again in place, later by way of a retry topic, and in the end put aside.

package client

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// Defaults of a [RetryPolicy].
const (
	DefaultAttempts   = 3
	DefaultBackoff    = 100 * time.Millisecond
	DefaultMaxBackoff = 10 * time.Second
)

// maxErrorHeader bounds the text of an error in [HeaderError].
const maxErrorHeader = 1 << 10

// Headers of records in retry topics and in the dead-letter topic: where the record was when it failed first, and why it failed last.
// [PutAsideOf] reads them.
const (
	HeaderTopic     = "balsa-original-topic"
	HeaderPartition = "balsa-original-partition"
	HeaderOffset    = "balsa-original-offset"
	HeaderTimestamp = "balsa-original-timestamp" // milliseconds since 1970
	HeaderError     = "balsa-error"              // at most 1 KiB of it
	HeaderAttempts  = "balsa-attempts"           // all that were made so far
)

// RetryPolicy says what happens to a record whose handler fails in [Consumer.Run]. The zero value tries three times, within a second, and
// then ends the Run with the error.
type RetryPolicy struct {
	// Attempts is how often the handler is called for a record before it goes on to Delayed or DeadLetter. Meanwhile records with the same
	// key wait. Zero: [DefaultAttempts].
	Attempts int
	// Backoff is the pause before the second attempt; each further one is twice as long, up to MaxBackoff, all of them give or take a
	// fifth. Zero: [DefaultBackoff], [DefaultMaxBackoff].
	Backoff, MaxBackoff time.Duration
	// Delayed are topics by way of which a record is tried again later, one after the other, Attempts times each. Run consumes them too. What
	// comes meanwhile with the same key overtakes the record. Each topic must exist.
	Delayed []DelayedRetry
	// DeadLetter is the topic for records that failed everywhere. It must exist. Empty: such a record ends the Run.
	DeadLetter string
}

// DelayedRetry is a retry topic.
type DelayedRetry struct {
	Topic string
	// Delay is how long a record stays there before it is tried again.
	Delay time.Duration
}

// topics are those that are consumed beside the consumer's own.
func (p *RetryPolicy) topics() (out []string) {
	for _, d := range p.Delayed {
		out = append(out, d.Topic)
	}
	return out
}

func (p *RetryPolicy) deadLetters() []string {
	if p.DeadLetter == "" {
		return nil
	}
	return []string{p.DeadLetter}
}

func (p *RetryPolicy) check(cfg *ConsumerConfig) error {
	seen := make(map[string]bool)
	for _, t := range cfg.Topics {
		seen[t] = true
	}
	for _, d := range p.Delayed {
		switch {
		case d.Topic == "" || d.Delay <= 0:
			return fmt.Errorf("a delayed retry needs a topic and a delay: %q, %v", d.Topic, d.Delay)
		case seen[d.Topic]:
			return fmt.Errorf("topic %q is consumed or retried already", d.Topic)
		}
		seen[d.Topic] = true
	}
	if seen[p.DeadLetter] {
		return fmt.Errorf("the dead-letter topic %q is consumed, too", p.DeadLetter)
	}
	if len(p.Delayed) > 0 && cfg.Group == "" {
		return errors.New("retry topics need a group: it remembers how far they were tried")
	}
	return nil
}

// backoff is the pause after so many attempts.
func (p *RetryPolicy) backoff(attempts int) time.Duration {
	d, most := p.Backoff, p.MaxBackoff
	if d <= 0 {
		d = DefaultBackoff
	}
	if most <= 0 {
		most = DefaultMaxBackoff
	}
	for range min(attempts-1, 32) {
		if d >= most {
			break
		}
		d *= 2
	}
	return time.Duration(float64(min(d, most)) * (0.8 + 0.4*rand.Float64()))
}

// next is where a record of a topic goes that has used up its attempts; empty: nowhere.
func (p *RetryPolicy) next(topic string) string {
	i := 0
	for j, d := range p.Delayed {
		if d.Topic == topic {
			i = j + 1
		}
	}
	if i < len(p.Delayed) {
		return p.Delayed[i].Topic
	}
	return p.DeadLetter
}

// delay is how long records of a topic have to wait; 0: not at all.
func (p *RetryPolicy) delay(topic string) time.Duration {
	for _, d := range p.Delayed {
		if d.Topic == topic {
			return d.Delay
		}
	}
	return 0
}

// permanent is what Permanent returns.
type permanent struct{ error }

func (p permanent) Unwrap() error { return p.error }

// Permanent marks an error of a handler as one that trying again will not mend, such as that of a record that cannot be decoded: the record
// goes to the dead-letter topic at once.
func Permanent(err error) error {
	if err == nil {
		return nil
	}
	return permanent{err}
}

// ProcessingError ends a [Consumer.Run]: a handler failed for a record as often as it may, and there is no dead-letter topic. The record does
// not count as processed.
type ProcessingError struct {
	Record   *kgo.Record
	Attempts int
	Err      error // the last one
}

// Error names the record.
func (e *ProcessingError) Error() string {
	return fmt.Sprintf("process %s/%d offset %d: attempt %d: %v", e.Record.Topic, e.Record.Partition, e.Record.Offset, e.Attempts, e.Err)
}

// Unwrap is the handler's error.
func (e *ProcessingError) Unwrap() error { return e.Err }

// putAside sends a record on to its next topic. Only then does it count as processed.
func (c *Consumer) putAside(ctx context.Context, r *kgo.Record, to string, attempts int, cause error) error {
	if err := c.cl.ProduceSync(ctx, aside(r, to, attempts, cause)).FirstErr(); err != nil {
		return wrap("put aside to", to, err)
	}
	logAside(c.log, r, to, attempts, cause)
	hooks(c.cfg.Hooks).putAside(r, to, attempts, cause)
	return nil
}

func logAside(log *slog.Logger, r *kgo.Record, to string, attempts int, cause error) {
	log.Warn("a record could not be processed and was put aside", "topic", r.Topic, "partition", r.Partition, "offset", r.Offset, "to", to, "attempts", attempts, "err", cause)
}

// PutAside is what the headers of a record in a retry topic or the dead-letter topic say: see [PutAsideOf].
type PutAside struct {
	// Topic, Partition, Offset and Time are the record's own, where it failed first.
	Topic     string
	Partition int32
	Offset    int64
	Time      time.Time
	// Attempts is how often a handler was called for it so far, and Error what the last one returned, at most 1 KiB of it.
	Attempts int
	Error    string
}

// PutAsideOf reads why a record was put aside by [Consumer.Run] or [Transform], and where it comes from. False: it was not, or its headers are not as they
// were written.
func PutAsideOf(r *kgo.Record) (PutAside, bool) {
	var p PutAside
	found := make(map[string]string, 6)
	for _, h := range r.Headers {
		switch h.Key {
		case HeaderTopic, HeaderPartition, HeaderOffset, HeaderTimestamp, HeaderAttempts, HeaderError:
			found[h.Key] = string(h.Value)
		}
	}
	number := func(header string, bits int) int64 {
		n, err := strconv.ParseInt(found[header], 10, bits)
		if err != nil {
			delete(found, header)
		}
		return n
	}
	p.Topic, p.Error = found[HeaderTopic], found[HeaderError]
	p.Partition, p.Offset = int32(number(HeaderPartition, 32)), number(HeaderOffset, 64)
	p.Time, p.Attempts = time.UnixMilli(number(HeaderTimestamp, 64)), int(number(HeaderAttempts, strconv.IntSize))
	if len(found) < 6 {
		return PutAside{}, false
	}
	return p, true
}

// aside is what a record becomes in its next topic.
func aside(r *kgo.Record, to string, attempts int, cause error) *kgo.Record {
	text := cause.Error()
	out := &kgo.Record{Topic: to, Key: r.Key, Value: r.Value, Headers: make([]kgo.RecordHeader, 0, len(r.Headers)+6), Context: r.Context}
	original := false
	for _, h := range r.Headers {
		switch h.Key {
		case HeaderAttempts:
			n, _ := strconv.Atoi(string(h.Value))
			attempts += max(n, 0)
			continue
		case HeaderError:
			continue
		case HeaderTopic:
			original = true
		}
		out.Headers = append(out.Headers, h)
	}
	add := func(key, value string) {
		out.Headers = append(out.Headers, kgo.RecordHeader{Key: key, Value: []byte(value)})
	}
	if !original {
		add(HeaderTopic, r.Topic)
		add(HeaderPartition, strconv.Itoa(int(r.Partition)))
		add(HeaderOffset, strconv.FormatInt(r.Offset, 10))
		add(HeaderTimestamp, strconv.FormatInt(r.Timestamp.UnixMilli(), 10))
	}
	add(HeaderAttempts, strconv.Itoa(attempts))
	add(HeaderError, text[:min(len(text), maxErrorHeader)])
	return out
}

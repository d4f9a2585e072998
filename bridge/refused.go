// What the target refuses. Of a topic nearly all of that is seen before (targets.go): what is left is looked for among the records of a batch, by smaller and smaller ones.
//
// What the target stream refuses. Most refusals pass: the stream is full, has no leader, or others write to it. Some are the message's own and stay, and whatever
// is behind such a one would wait for ever. It is told from the first kind by the server's answer, for some kinds only by that it stays the same, and then goes to
// the dead letters like what cannot be converted.

package bridge

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

const (
	// refusedTries is how often a record is tried whose refusal may pass: about half a minute, by the pauses between them.
	refusedTries = 10
	// topicTries is how often a record is tried that a topic has refused when it was alone.
	topicTries = 2
	// maxRefused bounds the records whose refusals are remembered, and maxDenied the subjects.
	maxRefused = 1024
	maxDenied  = 1024
)

// Error codes of nats-server that speak of the message itself. A message that has them once has them always.
var hopelessCodes = map[jetstream.ErrorCode]bool{
	jetstream.JSErrCodeStreamMessageExceedsMaximum: true, // larger than the server takes, with what it adds
	10097: true, // headers of more than 64 KiB
	10165: true, // an invalid time to live
	10166: true, // a time to live, where the stream allows none
	10111: true, // a roll-up that the stream does not allow
}

const (
	// storeFailed is nats-server's code for what the store refuses; perSubject is in its text where the message's subject is full, and not the stream.
	storeFailed jetstream.ErrorCode = 10077
	perSubject                      = "per subject"
)

// deniedError: the user may not publish to the subject.
type deniedError struct{ err error }

func (e *deniedError) Error() string { return e.err.Error() }
func (e *deniedError) Unwrap() error { return e.err }

// ownFault says whether a failure to publish is about this message, and whether it can pass.
func ownFault(err error) (own, passes bool) {
	if _, ok := errors.AsType[*deniedError](err); ok {
		return true, true // somebody may allow it
	}
	var api jetstream.JetStreamError
	if !errors.As(err, &api) || api.APIError() == nil {
		return false, true
	}
	switch e := api.APIError(); {
	case hopelessCodes[e.ErrorCode]:
		return true, false
	case e.ErrorCode == storeFailed && strings.Contains(e.Description, perSubject):
		return true, true // somebody may delete what is there
	}
	return false, true
}

// refusals are the records that the target has refused. They are the business of the goroutine that carries the bridge.
type refusals struct {
	tries map[recordPlace]int
	given map[recordPlace]error // given up
	limit int                   // of the records in a transaction, while one that a topic refuses is looked for; 0: none
}

// blame notes that err was the answer to a record. The error that it returns is what the bridge stops with.
func (b *Bridge) blame(stream, topic string, at recordPlace, err error) error {
	out := fmt.Errorf("stream %s did not take record %s/%d/%d: %w", stream, topic, at.partition, at.offset, err)
	own, passes := ownFault(err)
	if !own {
		return out
	}
	r := &b.refused
	r.room()
	r.tries[at]++
	if passes && r.tries[at] < b.job.tries {
		return out
	}
	if b.job.Spec.DeadLetters == "" {
		return stuck("%w; %s", out, b.beyond(at.behind()))
	}
	delete(r.tries, at)
	r.given[at] = fmt.Errorf("stream %s refuses it: %w", stream, err)
	return out
}

// beyond says how to go on where a message stops the bridge. to is the position behind it.
func (b *Bridge) beyond(to string) string {
	return fmt.Sprintf("go on behind it with 'broker bridge nats seek %s --to %s', or give the bridge a topic for dead letters with 'broker bridge nats set %s --dead-letters TOPIC'", b.job.Name, to, b.job.Name)
}

// behind is the position behind a record, as seek takes it.
func (at recordPlace) behind() string { return fmt.Sprintf("%d:%d", at.partition, at.offset+1) }

// placeOfSeq is a message's place among the refusals of a bridge into a topic.
func placeOfSeq(seq uint64) recordPlace { return recordPlace{offset: int64(seq)} }

// topicRefusal is why a transaction failed: a topic refuses a record for good, and with it those that came in the same batch.
type topicRefusal struct {
	topic string
	err   error
}

func (e *topicRefusal) Error() string {
	return fmt.Sprintf("topic %s refuses a record: %v", e.topic, e.err)
}
func (e *topicRefusal) Unwrap() error { return e.err }

// hopelessRecord: the same record would be refused again.
func hopelessRecord(err error) bool {
	for _, code := range [...]*kerr.Error{kerr.MessageTooLarge, kerr.RecordListTooLarge, kerr.InvalidRecord, kerr.InvalidTimestamp, kerr.UnsupportedForMessageFormat, kerr.PolicyViolation} {
		if errors.Is(err, code) {
			return true
		}
	}
	return false
}

// batchLimit is how many records a transaction may have now.
func (b *Bridge) batchLimit() int {
	if b.refused.limit == 0 {
		return maxBatch
	}
	return b.refused.limit
}

// blameTopic looks whose fault a failed transaction was, which had these records, made of messages up to last. The error that it returns is what the bridge stops with.
func (b *Bridge) blameTopic(ts *targets, last uint64, records []*kgo.Record, err error) error {
	refusal, ok := errors.AsType[*topicRefusal](err)
	switch {
	case !ok:
		return err
	case ts.dead != nil && refusal.topic == ts.dead.name && (ts.main == nil || ts.main.name != ts.dead.name):
		return stuck("%w: it is for dead letters, and has to take this one", refusal)
	case ts.main == nil || refusal.topic != ts.main.name:
		return err
	case b.refused.limit != 1: // which of them it was is seen when it is alone, with nothing behind it that is left out
		b.refused.limit = max(len(records)/2, 1)
		return err
	}
	at := placeOfSeq(last)
	b.refused.room()
	if b.refused.tries[at]++; b.refused.tries[at] < topicTries {
		return err // its settings may have changed since they were looked at
	}
	if ts.dead == nil {
		return stuck("message %d cannot be taken over: %w; %s", last, refusal, b.beyond(strconv.FormatUint(last+1, 10)))
	}
	delete(b.refused.tries, at)
	b.refused.given[at] = refusal
	return err
}

// committed: all messages before seq have been taken over.
func (b *Bridge) committed(seq uint64) {
	r := &b.refused
	if r.limit *= 2; r.limit >= maxBatch {
		r.limit = 0
	}
	behind := func(at recordPlace) bool { return at.offset < int64(seq) }
	maps.DeleteFunc(r.tries, func(at recordPlace, _ int) bool { return behind(at) })
	maps.DeleteFunc(r.given, func(at recordPlace, _ error) bool { return behind(at) })
}

// room makes room for another record.
func (r *refusals) room() {
	if len(r.tries) >= maxRefused || len(r.given) >= maxRefused { // of records that have passed meanwhile, or of which others have become the owner
		r.tries, r.given = nil, nil
	}
	if r.tries == nil {
		r.tries, r.given = make(map[recordPlace]int), make(map[recordPlace]error)
	}
}

// passed forgets a record, which is stored or among the dead letters.
func (r *refusals) passed(at recordPlace) {
	delete(r.tries, at)
	delete(r.given, at)
}

// denials are the subjects of a connection that its user may not publish to. The server says so beside everything else, and answers such a message with nothing.
type denials struct {
	news chan struct{} // of capacity 1

	mu       sync.Mutex // guards subjects
	subjects map[string]error
}

func newDenials() *denials {
	return &denials{news: make(chan struct{}, 1), subjects: make(map[string]error)}
}

// note takes an error that the connection reports.
func (d *denials) note(err error) {
	if !errors.Is(err, nats.ErrPermissionViolation) {
		return
	}
	_, rest, ok := strings.Cut(err.Error(), "\"")
	subject, _, closed := strings.Cut(rest, "\"")
	if !ok || !closed {
		return
	}
	d.mu.Lock()
	if len(d.subjects) < maxDenied {
		d.subjects[subject] = err
	}
	d.mu.Unlock()
	select {
	case d.news <- struct{}{}:
	default:
	}
}

// some is why one of the questions that a bridge asks JetStream is denied; nil: none is.
func (d *denials) some() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, subject := range slices.Sorted(maps.Keys(d.subjects)) {
		if strings.HasPrefix(subject, "$JS.") {
			return d.subjects[subject]
		}
	}
	return nil
}

// of is why a subject is denied; nil: it is not, as far as is known.
func (d *denials) of(subject string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.subjects[subject]; err != nil {
		return &deniedError{err}
	}
	return nil
}

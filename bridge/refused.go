// What the target stream refuses. Most refusals pass: the stream is full, has no leader, or others write to it. Some are the message's own and stay, and whatever
// is behind such a one would wait for ever. It is told from the first kind by the server's answer, for some kinds only by that it stays the same, and then goes to
// the dead letters like what cannot be converted.

package bridge

import (
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	// refusedTries is how often a record is tried whose refusal may pass: about half a minute, by the pauses between them.
	refusedTries = 10
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
}

// blame notes that err was the answer to a record. The error that it returns is what the bridge stops with.
func (b *Bridge) blame(stream, topic string, at recordPlace, err error) error {
	out := fmt.Errorf("stream %s did not take record %s/%d/%d: %w", stream, topic, at.partition, at.offset, err)
	own, passes := ownFault(err)
	if !own {
		return out
	}
	r := &b.refused
	if len(r.tries) >= maxRefused || len(r.given) >= maxRefused { // of records that have passed meanwhile, or of which others have become the owner
		*r = refusals{}
	}
	if r.tries == nil {
		r.tries, r.given = make(map[recordPlace]int), make(map[recordPlace]error)
	}
	r.tries[at]++
	if passes && r.tries[at] < b.job.tries {
		return out
	}
	delete(r.tries, at)
	if b.job.Spec.DeadLetters == "" {
		return stuck("%w; give the bridge a topic for dead letters, or seek beyond it", out)
	}
	r.given[at] = fmt.Errorf("stream %s refuses it: %w", stream, err)
	return out
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

// of is why a subject is denied; nil: it is not, as far as is known.
func (d *denials) of(subject string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.subjects[subject]; err != nil {
		return &deniedError{err}
	}
	return nil
}

// Errors of the SDK: one type that says what was being done, and sentinels for the kinds that programs tell apart.

package client

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

// The kinds of failure. Every error of this package that is of such a kind satisfies errors.Is with it.
var (
	// ErrUnreachable: no broker answered. Returned by constructors, and by calls whose retries are used up.
	ErrUnreachable = errors.New("no broker can be reached")
	// ErrNotFound: the topic, partition or group does not exist.
	ErrNotFound = errors.New("not found")
	// ErrExists: a topic of that name exists already.
	ErrExists = errors.New("exists already")
	// ErrInvalid: the request is wrong in itself and will never succeed.
	ErrInvalid = errors.New("invalid")
	// ErrTimeout: no answer in time. What was asked for may still have been done.
	ErrTimeout = errors.New("timed out")
	// ErrDenied: the broker does not believe who this client says it is, or does not allow it what it asked for.
	ErrDenied = errors.New("denied")
	// ErrClosed: the producer, consumer or admin was closed.
	ErrClosed = errors.New("closed")
	// ErrFenced: another producer has taken the transactional id over, or the cluster has ended the transaction because it took too long.
	// Nothing of it is visible to who reads what is committed. The producer is of no more use.
	ErrFenced = errors.New("fenced")
	// ErrAborted: the transaction was aborted by the cluster's or the client's doing. Nothing of it is visible to who reads what is
	// committed, and it can be tried again.
	ErrAborted = errors.New("aborted")
	// ErrUnknownOutcome: the answer to a commit was lost. The transaction is committed as a whole or aborted as a whole.
	ErrUnknownOutcome = errors.New("not known whether it is committed")
)

// Error is what every call of this package returns when it fails.
type Error struct {
	Op      string // what was being done: "create topic"
	Subject string // to what: a topic, "topic/partition", an address; may be empty
	Kind    error  // one of the sentinels above, or nil if it is none of them
	Err     error  // the cause: often one of franz-go's kerr errors
}

// Error reads "op subject: cause".
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.Op)
	if e.Subject != "" {
		b.WriteByte(' ')
		b.WriteString(e.Subject)
	}
	switch {
	case e.Err != nil:
		b.WriteString(": ")
		b.WriteString(e.Err.Error())
	case e.Kind != nil:
		b.WriteString(": ")
		b.WriteString(e.Kind.Error())
	}
	return b.String()
}

// Unwrap gives errors.Is and errors.As both the kind and the cause.
func (e *Error) Unwrap() []error {
	out := make([]error, 0, 2)
	if e.Kind != nil {
		out = append(out, e.Kind)
	}
	if e.Err != nil {
		out = append(out, e.Err)
	}
	return out
}

// NoPartitionError says that a topic is there and a partition of it is not. It is the Err of an [*Error] of kind [ErrNotFound].
type NoPartitionError struct {
	Topic      string
	Partitions int // that the topic has
}

// Error says which partitions there are.
func (e *NoPartitionError) Error() string {
	if e.Partitions == 1 {
		return fmt.Sprintf("topic %s has partition 0 only", e.Topic)
	}
	return fmt.Sprintf("topic %s has partitions 0 to %d", e.Topic, e.Partitions-1)
}

// wrap makes an *Error of err, with the kind that it has; nil stays nil.
func wrap(op, subject string, err error) error {
	if err == nil {
		return nil
	}
	if own, ok := errors.AsType[*Error](err); ok && own.Op == op && own.Subject == subject {
		return err
	}
	return &Error{Op: op, Subject: subject, Kind: kindOf(err), Err: err}
}

// explain is wrap with the broker's own words, which say more than the error code.
func explain(op, subject string, err error, message string) error {
	if err == nil {
		return nil
	}
	kind := kindOf(err)
	if message != "" && !strings.Contains(err.Error(), message) {
		err = &worded{message, err}
	}
	return &Error{Op: op, Subject: subject, Kind: kind, Err: err}
}

// worded is an error in the broker's words. Of a Kafka error they come with the name: the text that goes with it is the same for
// whatever was wrong, and often about something else.
type worded struct {
	message string
	err     error
}

func (w *worded) Error() string {
	if ke, ok := errors.AsType[*kerr.Error](w.err); ok {
		return w.message + " (" + ke.Message + ")"
	}
	return w.message + " (" + w.err.Error() + ")"
}

func (w *worded) Unwrap() error { return w.err }

// kindOf sorts an error of franz-go or of the network into one of the sentinels; nil if it is none of them.
func kindOf(err error) error {
	for _, kind := range []error{ErrNoTopic, ErrUnreachable, ErrNotFound, ErrExists, ErrInvalid, ErrTimeout, ErrDenied, ErrClosed, ErrFenced, ErrAborted, ErrUnknownOutcome} {
		if errors.Is(err, kind) {
			return kind
		}
	}
	if ke, ok := errors.AsType[*kerr.Error](err); ok {
		switch ke {
		case kerr.UnknownTopicOrPartition, kerr.UnknownTopicID, kerr.GroupIDNotFound, kerr.ResourceNotFound, kerr.TransactionalIDNotFound:
			return ErrNotFound
		case kerr.TopicAlreadyExists:
			return ErrExists
		case kerr.SaslAuthenticationFailed, kerr.TopicAuthorizationFailed, kerr.GroupAuthorizationFailed, kerr.ClusterAuthorizationFailed,
			kerr.TransactionalIDAuthorizationFailed, kerr.DelegationTokenAuthorizationFailed, kerr.UnsupportedSaslMechanism, kerr.IllegalSaslState:
			return ErrDenied
		case kerr.RequestTimedOut:
			return ErrTimeout
		case kerr.ProducerFenced, kerr.InvalidProducerEpoch, kerr.TransactionCoordinatorFenced:
			return ErrFenced
		case kerr.TransactionAbortable, kerr.OperationNotAttempted:
			return ErrAborted
		case kerr.InvalidTopicException, kerr.InvalidPartitions, kerr.InvalidReplicationFactor, kerr.InvalidReplicaAssignment,
			kerr.InvalidConfig, kerr.InvalidRequest, kerr.PolicyViolation, kerr.MessageTooLarge, kerr.RecordListTooLarge,
			kerr.InvalidRecord, kerr.InvalidTimestamp, kerr.InvalidGroupID, kerr.UnsupportedVersion, kerr.CorruptMessage,
			kerr.UnsupportedCompressionType, kerr.OffsetOutOfRange, kerr.InvalidUpdateVersion, kerr.InvalidRegularExpression:
			return ErrInvalid
		}
		return nil
	}
	switch {
	case errors.Is(err, kgo.ErrClientClosed), errors.Is(err, kgo.ErrAborting):
		return ErrClosed
	case errors.Is(err, kgo.ErrRecordTimeout), errors.Is(err, kgo.ErrRecordRetries), errors.Is(err, context.DeadlineExceeded):
		return ErrTimeout
	}
	if se, ok := errors.AsType[*kadm.ShardErrors](err); ok && len(se.Errs) > 0 {
		return kindOf(se.Errs[0].Err)
	}
	if _, ok := errors.AsType[*net.OpError](err); ok {
		return ErrUnreachable
	}
	if _, ok := errors.AsType[net.Error](err); ok {
		return ErrUnreachable
	}
	return nil
}

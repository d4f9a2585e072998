// Exit codes, and errors in the form that users see: what was wrong, where, how to mend it.

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/balsamq/balsa/client"
)

// The exit codes are an interface: scripts depend on them. docs/cli.md and `broker help exit-codes` list them.
const (
	exitOK          = 0
	exitFailure     = 1 // anything that has no code of its own
	exitUsage       = 2 // wrong flags, arguments, environment or configuration file; a request that can never succeed
	exitUnreachable = 3 // no broker answered
	exitNotFound    = 4 // what is named does not exist
	exitExists      = 5 // the topic, user, bridge or profile exists already
	exitTimeout     = 6 // no answer in time: it may have happened all the same
	exitDamaged     = 7 // `log dump` found damage
	exitDenied      = 8 // the brokers do not believe who this is, or do not allow it
)

const exitCodesHelp = `0  done
1  failed, for a reason that has no code of its own
2  wrong flags, arguments, environment or configuration file, or a request that the brokers can never grant
3  no broker could be reached
4  what is named does not exist: a topic, partition, group, broker, user, ACL, transactional id, config, bridge, profile or file
5  the topic, user, bridge or profile exists already
6  no answer in time; what was asked for may have happened all the same
7  'log dump' found damage
8  the brokers do not believe who you are, or do not allow it`

// cliError is an error ready to be shown.
type cliError struct {
	code  int
	what  string // one sentence without a full stop
	where string // file and line, flag, address, log file; may be empty
	mend  string // what the user can do; may be empty
	err   error  // the cause, for errors.Is; its text is part of what
}

func (e *cliError) Error() string { return e.what }
func (e *cliError) Unwrap() error { return e.err }

func usageError(mend, format string, a ...any) *cliError {
	return &cliError{code: exitUsage, what: fmt.Sprintf(format, a...), mend: mend}
}

// show prints an error and returns its exit code.
func (a *app) show(err error, commandPath string) int {
	if err == nil {
		return exitOK
	}
	e, ok := errors.AsType[*cliError](err)
	if !ok {
		e = a.explain(err, commandPath)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "error: %s\n", e.what)
	if e.where != "" {
		fmt.Fprintf(&b, "  where: %s\n", e.where)
	}
	if e.mend != "" {
		fmt.Fprintf(&b, "  mend:  %s\n", e.mend)
	}
	_, _ = io.WriteString(a.err, b.String()) // there is nowhere left to report a failure to
	return e.code
}

// explain gives an error that no command has worded itself its code and a way out.
func (a *app) explain(err error, commandPath string) *cliError {
	if !a.ran { // cobra's own complaints: unknown command or flag, missing argument
		return &cliError{code: exitUsage, what: firstLine(err.Error()), mend: fmt.Sprintf("'%s --help' shows what is understood", commandPath), err: err}
	}
	e := &cliError{code: exitFailure, what: err.Error(), err: err}
	subject := ""
	if ce, ok := errors.AsType[*client.Error](err); ok {
		subject = ce.Subject
	}
	switch {
	case errors.Is(err, client.ErrUnreachable):
		e.code, e.where = exitUnreachable, subject
		e.what = "no broker answered: " + innermost(err)
		if strings.Contains(e.what, "HTTP response") { // franz-go has no sentinel for it
			e.what = "no Kafka listener answered, but one that speaks HTTP"
			e.mend = "-b takes addresses for Kafka clients (--kafka-listen of 'broker start'); an admin listener goes with --admin"
			break
		}
		e.mend = "start one with 'broker start' or 'broker dev', or name others with -b HOST:PORT or BALSA_BROKERS"
		if errors.Is(err, context.DeadlineExceeded) {
			e.what = "no broker answered in time"
			e.mend = "what listens there, if anything does, may be no Kafka listener, or be slow (--timeout waits longer); " + e.mend
		}
		if mend := tlsMend(err); mend != "" {
			e.mend = mend
			break
		}
		if errors.Is(err, io.EOF) {
			e.what = "no broker answered: the other side hung up"
			e.mend = "-b takes addresses for Kafka clients (--kafka-listen of 'broker start'), not those for other brokers; a listener with TLS wants --tls or --tls-ca, one without neither, one with users --user"
		}
	case errors.Is(err, client.ErrDenied):
		e.code, e.where = exitDenied, subject
		e.mend = deniedMend(err)
	case errors.Is(err, client.ErrNotFound):
		e.code = exitNotFound
		if np, ok := errors.AsType[*client.NoPartitionError](err); ok {
			e.what = fmt.Sprintf("partition %s does not exist: %v", subject, np)
			e.mend = fmt.Sprintf("'broker topic describe %s' shows its partitions", np.Topic)
			break
		}
		if errors.Is(err, kerr.GroupIDNotFound) {
			e.what = fmt.Sprintf("group %s does not exist (%s)", subject, kerr.GroupIDNotFound.Message)
			e.mend = "'broker group list' shows the groups there are"
			break
		}
		if errors.Is(err, kerr.UnknownTopicOrPartition) {
			e.what = fmt.Sprintf("topic %s does not exist (%s)", strings.TrimPrefix(subject, client.TopicConfigs+"/"), kerr.UnknownTopicOrPartition.Message)
		}
		e.mend = "'broker topic list' shows the topics there are; 'broker topic create NAME' makes one"
	case errors.Is(err, client.ErrExists):
		e.code = exitExists
		e.mend = "choose another name, or go on with the topic that is there: 'broker topic describe NAME'"
	case errors.Is(err, client.ErrTimeout), errors.Is(err, context.DeadlineExceeded):
		e.code = exitTimeout
		e.mend = "'broker cluster status' shows whether brokers or leaders are missing; --timeout waits longer"
	case errors.Is(err, client.ErrInvalid):
		e.code = exitUsage
		e.mend = invalidMend(err, commandPath)
	case errors.Is(err, kerr.NonEmptyGroup), errors.Is(err, kerr.GroupSubscribedToTopic):
		e.mend = "stop its members first: 'broker group describe NAME' shows them"
	case errors.Is(err, context.Canceled):
		e.what = "interrupted"
	}
	return e
}

// innermost is the text of the cause at the bottom, without the layers' prefixes.
func innermost(err error) string {
	for {
		switch u := err.(type) {
		case interface{ Unwrap() error }:
			next := u.Unwrap()
			if next == nil {
				return err.Error()
			}
			// A *net.OpError's own text names the address; what is below it does not.
			if strings.Contains(err.Error(), "dial ") && !strings.Contains(next.Error(), "dial ") {
				return err.Error()
			}
			err = next
		case interface{ Unwrap() []error }:
			all := u.Unwrap()
			if len(all) == 0 {
				return err.Error()
			}
			err = all[len(all)-1]
		default:
			return err.Error()
		}
	}
}

func firstLine(s string) string {
	s, _, _ = strings.Cut(s, "\n")
	return s
}

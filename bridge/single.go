// Messages of a stream one by one, by a question for each. That is slow, and for what a consumer of nats.go cannot have: it takes a message without a body, but with a
// header called Status, for one of the server's own, whoever has written it. Then it either leaves it out, or makes itself anew where it was, and so for ever. The
// client's own questions for a message have the same fault where the stream allows direct ones, so that this asks the way that has none.

package bridge

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	// plainRun is how many messages in a row have to be such as a consumer can have, before one is tried again.
	plainRun = 256
	// maxSingle bounds a transaction of messages that are read one by one.
	maxSingle = 256
)

// incoming is a message of a stream.
type incoming struct {
	message
	consumer uint64 // its number by the consumer; 0: it came without one
	pending  uint64 // how many there are behind it; only by a consumer
}

// incomingOf is a message as a consumer has it.
func incomingOf(m jetstream.Msg) (*incoming, error) {
	meta, err := m.Metadata()
	if err != nil {
		return nil, err
	}
	return &incoming{message: message{subject: m.Subject(), header: m.Headers(), data: m.Data(), seq: meta.Sequence.Stream, time: meta.Timestamp},
		consumer: meta.Sequence.Consumer, pending: meta.NumPending}, nil
}

// disguised: it looks like a message of the server's own.
func (m *incoming) disguised() bool { return len(m.data) == 0 && m.header.Get(statusName) != "" }

// next is the first message of a stream from seq on whose subject a filter matches; nil: there is none.
func (c *connection) next(ctx context.Context, stream string, seq uint64, filters []string) (first *incoming, err error) {
	if len(filters) == 0 {
		filters = []string{">"}
	}
	for _, f := range filters {
		m, err := c.nextBy(ctx, stream, seq, f)
		if err != nil {
			return nil, fmt.Errorf("ask stream %s for a message from %d on: %w", stream, seq, err)
		}
		if m != nil && (first == nil || m.seq < first.seq) {
			first = m
		}
	}
	return first, nil
}

func (c *connection) nextBy(ctx context.Context, stream string, seq uint64, filter string) (*incoming, error) {
	question, err := json.Marshal(map[string]any{"seq": seq, "next_by_subj": filter})
	if err != nil {
		return nil, err
	}
	reply, err := ask(ctx, func(ctx context.Context) (*nats.Msg, error) {
		return c.nc.RequestWithContext(ctx, c.prefix+"STREAM.MSG.GET."+stream, question)
	})
	if err != nil {
		return nil, err
	}
	var answer struct {
		Error   *jetstream.APIError `json:"error"`
		Message *struct {
			Subject string    `json:"subject"`
			Seq     uint64    `json:"seq"`
			Header  []byte    `json:"hdrs"`
			Data    []byte    `json:"data"`
			Time    time.Time `json:"time"`
		} `json:"message"`
	}
	if err := json.Unmarshal(reply.Data, &answer); err != nil {
		return nil, err
	}
	switch m := answer.Message; {
	case answer.Error != nil && answer.Error.ErrorCode == jetstream.JSErrCodeMessageNotFound:
		return nil, nil
	case answer.Error != nil:
		return nil, answer.Error
	case m == nil:
		return nil, fmt.Errorf("an answer without a message: %.200s", reply.Data)
	default:
		var h nats.Header
		if len(m.Header) > 0 {
			if h, err = nats.DecodeHeadersMsg(m.Header); err != nil {
				return nil, err
			}
		}
		return &incoming{message: message{subject: m.Subject, header: h, data: m.Data, seq: m.Seq, time: m.Time}}, nil
	}
}

// single takes over the messages from where the reader is, if a consumer cannot have the first of them. read says that it has, and that a consumer has to begin anew
// behind them.
func (r *streamReader) single(ctx context.Context, l *ledger) (read bool, err error) {
	filters := r.b.job.Spec.Filters
	m, err := r.conn.next(ctx, r.src.name, r.p.Seq, filters)
	if err != nil || m == nil || !m.disguised() {
		return false, err
	}
	r.b.log.Warn("a message has no body and a header called Status, which NATS's clients take for one of the server's own: it is asked for by its number, and so are those behind it",
		"stream", r.src.name, "sequence", m.seq, "subject", m.subject)
	for plain := 0; m != nil && plain < plainRun; {
		n := 0
		err := r.batch(ctx, l, m, func(ctx context.Context) (*incoming, error) {
			if n++; n == maxSingle {
				return nil, nil
			}
			return r.conn.next(ctx, r.src.name, r.p.Seq, filters)
		}, func(m *incoming) {
			if plain++; m.disguised() {
				plain = 0
			}
		})
		if err != nil {
			return true, err
		}
		if m, err = r.conn.next(ctx, r.src.name, r.p.Seq, filters); err != nil {
			return true, err
		}
	}
	return true, nil
}

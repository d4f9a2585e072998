// Typed keys and values: thin layers over the producer, the consumer and Transform. Records stay reachable.

package client

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"reflect"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/balsamq/balsa/client/serde"
)

// Message is a record with a typed key and value.
type Message[K, V any] struct {
	Key   K
	Value V
	// Record is what the message came as: its topic, offset, timestamp, headers. Of one that is produced it may be nil; otherwise its topic,
	// headers and so on are taken, and its key and value set. A consumed record without a key or without a value (a tombstone) leaves the zero
	// value of its type here and nil in Record.
	Record *kgo.Record
}

// DecodeError says that a record's key or value is not what it should be. It is [Permanent]: [Consumer.Run] and [Transform] put the record
// aside without trying again.
type DecodeError struct {
	Record *kgo.Record
	Part   string // "key" or "value"
	Err    error  // the serde's
}

// Error names the record.
func (e *DecodeError) Error() string {
	return fmt.Sprintf("decode the %s of %s/%d offset %d: %v", e.Part, e.Record.Topic, e.Record.Partition, e.Record.Offset, e.Err)
}

// Unwrap is the serde's error.
func (e *DecodeError) Unwrap() error { return e.Err }

// Codec is how keys and values become bytes and back: see package serde. Where there is one for values only, or for keys only, the others are not
// read, and those of a message's Record are written; a message that has another one is an error. A codec without any is an error of kind [ErrInvalid].
type Codec[K, V any] struct {
	Key   serde.Serde[K]
	Value serde.Serde[V]
}

// check says whether the codec is one at all.
func (c Codec[K, V]) check() error {
	if c.Key == nil && c.Value == nil {
		return &Error{Op: "use a codec", Kind: ErrInvalid, Err: errors.New("it has a serde neither for keys nor for values")}
	}
	return nil
}

// Encode makes a record of a message: its own, if it has one.
func (c Codec[K, V]) Encode(ctx context.Context, m Message[K, V]) (r *kgo.Record, err error) {
	if r = m.Record; r == nil {
		r = new(kgo.Record)
	}
	if err := c.check(); err != nil {
		return nil, err
	}
	switch {
	case c.Key == nil && !reflect.ValueOf(&m.Key).Elem().IsZero():
		return nil, c.unencoded("key", r, errNoSerde)
	case c.Value == nil && !reflect.ValueOf(&m.Value).Elem().IsZero():
		return nil, c.unencoded("value", r, errNoSerde)
	}
	if c.Key != nil {
		if r.Key, err = c.Key.Encode(ctx, m.Key); err != nil {
			return nil, c.unencoded("key", r, err)
		}
	}
	if c.Value != nil {
		if r.Value, err = c.Value.Encode(ctx, m.Value); err != nil {
			return nil, c.unencoded("value", r, err)
		}
	}
	return r, nil
}

var errNoSerde = errors.New("the codec has no serde for it")

func (c Codec[K, V]) unencoded(part string, r *kgo.Record, err error) error {
	kind := ErrInvalid
	if errors.Is(err, serde.ErrUnavailable) {
		kind = ErrUnreachable
	}
	return &Error{Op: "encode the " + part + " of a record for", Subject: r.Topic, Kind: kind, Err: err}
}

// Decode makes a message of a record. The error is a [Permanent] [*DecodeError], unless the serde cannot do its work now
// ([serde.ErrUnavailable]), which is worth another attempt.
func (c Codec[K, V]) Decode(ctx context.Context, r *kgo.Record) (Message[K, V], error) {
	m := Message[K, V]{Record: r}
	err := c.check()
	if err != nil {
		return m, err
	}
	if c.Key != nil && r.Key != nil {
		if m.Key, err = c.Key.Decode(ctx, r.Key); err != nil {
			return m, undecoded("key", r, err)
		}
	}
	if c.Value != nil && r.Value != nil {
		if m.Value, err = c.Value.Decode(ctx, r.Value); err != nil {
			return m, undecoded("value", r, err)
		}
	}
	return m, nil
}

func undecoded(part string, r *kgo.Record, err error) error {
	if errors.Is(err, serde.ErrUnavailable) {
		return wrap("decode the "+part+" of", partitionName(r.Topic, r.Partition), err)
	}
	return Permanent(&DecodeError{Record: r, Part: part, Err: err})
}

// Handler makes a handler for [Consumer.Run] of one that takes messages. It panics if the codec has no serde: every record would be put aside.
func (c Codec[K, V]) Handler(fn func(context.Context, Message[K, V]) error) Handler {
	if err := c.check(); err != nil {
		panic(err)
	}
	return func(ctx context.Context, r *kgo.Record) error {
		m, err := c.Decode(ctx, r)
		if err != nil {
			return err
		}
		return fn(ctx, m)
	}
}

// TypedTransform makes a function for [Transform] of one that takes and returns messages. It panics if a codec has no serde.
func TypedTransform[K1, V1, K2, V2 any](in Codec[K1, V1], out Codec[K2, V2], fn func(context.Context, Message[K1, V1]) ([]Message[K2, V2], error)) TransformFunc {
	if err := errors.Join(in.check(), out.check()); err != nil {
		panic(err)
	}
	return func(ctx context.Context, r *kgo.Record) ([]*kgo.Record, error) {
		m, err := in.Decode(ctx, r)
		if err != nil {
			return nil, err
		}
		messages, err := fn(ctx, m)
		if err != nil && !errors.Is(err, ErrStop) {
			return nil, err
		}
		records := make([]*kgo.Record, len(messages))
		for i, m := range messages {
			var cannot error
			if records[i], cannot = out.Encode(ctx, m); cannot != nil {
				return nil, cannot
			}
		}
		return records, err
	}
}

// TypedProducer is a [Producer] of messages.
type TypedProducer[K, V any] struct {
	*Producer
	Codec Codec[K, V]
}

// NewTypedProducer makes a producer one of messages. It is closed as the producer is.
func NewTypedProducer[K, V any](p *Producer, c Codec[K, V]) TypedProducer[K, V] {
	return TypedProducer[K, V]{p, c}
}

// Send writes messages and waits for all of them, as [Producer.Produce] does. If one cannot be encoded, none is written.
func (p TypedProducer[K, V]) Send(ctx context.Context, messages ...Message[K, V]) error {
	records := make([]*kgo.Record, len(messages))
	for i, m := range messages {
		var err error
		if records[i], err = p.Codec.Encode(ctx, m); err != nil {
			return err
		}
	}
	return p.Produce(ctx, records...)
}

// SendAsync hands a message over, as [Producer.ProduceAsync] does. The error is that of encoding it; then done is not called.
func (p TypedProducer[K, V]) SendAsync(ctx context.Context, m Message[K, V], done func(*kgo.Record, error)) error {
	r, err := p.Codec.Encode(ctx, m)
	if err != nil {
		return err
	}
	p.ProduceAsync(ctx, r, done)
	return nil
}

// TypedConsumer is a [Consumer] of messages.
type TypedConsumer[K, V any] struct {
	*Consumer
	Codec Codec[K, V]
}

// NewTypedConsumer makes a consumer one of messages. It is closed as the consumer is.
func NewTypedConsumer[K, V any](c *Consumer, codec Codec[K, V]) TypedConsumer[K, V] {
	return TypedConsumer[K, V]{c, codec}
}

// RunMessages is [Consumer.Run] for messages.
func (c TypedConsumer[K, V]) RunMessages(ctx context.Context, fn func(context.Context, Message[K, V]) error) error {
	if err := c.Codec.check(); err != nil {
		return err
	}
	return c.Run(ctx, c.Codec.Handler(fn))
}

// Messages is [Consumer.Records] for messages. One that cannot be decoded comes with its [*DecodeError]; a loop that goes on gets the next one.
// Any other error is the last one, and comes without a record.
func (c TypedConsumer[K, V]) Messages(ctx context.Context) iter.Seq2[Message[K, V], error] {
	return func(yield func(Message[K, V], error) bool) {
		if err := c.Codec.check(); err != nil {
			yield(Message[K, V]{}, err)
			return
		}
		for r, err := range c.Records(ctx) {
			var m Message[K, V]
			if err == nil {
				m, err = c.Codec.Decode(ctx, r)
			}
			if !yield(m, err) {
				return
			}
		}
	}
}

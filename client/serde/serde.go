// Package serde turns values into the bytes of a record's key or value, and back: as they are, as text, or as JSON. Avro, Protobuf and
// schemas in a registry are packages below this one, so that who does not use them does not link them.
//
// client.Codec takes a serde for keys and one for values, and makes typed producers, consumers and handlers of them.
package serde

import (
	"context"
	"encoding/json"
	"errors"
)

// ErrUnavailable says that what is needed to encode or decode, such as a schema, could not be had now. Any other error of a [Serde] is about
// the value or the bytes, and trying again would not help.
var ErrUnavailable = errors.New("not available now")

// Serde turns values of a type into bytes and back. It is safe for concurrent use. The context bounds what it has to ask others for.
type Serde[T any] interface {
	// Encode returns bytes that are the caller's.
	Encode(ctx context.Context, v T) ([]byte, error)
	// Decode returns a value that may refer to data, which must not be changed afterwards.
	Decode(ctx context.Context, data []byte) (T, error)
}

// Bytes leaves bytes as they are.
func Bytes() Serde[[]byte] { return raw{} }

type raw struct{}

func (raw) Encode(_ context.Context, v []byte) ([]byte, error)    { return v, nil }
func (raw) Decode(_ context.Context, data []byte) ([]byte, error) { return data, nil }

// String is text as its bytes. Whether it is valid UTF-8 is not looked at.
func String() Serde[string] { return text{} }

type text struct{}

func (text) Encode(_ context.Context, v string) ([]byte, error)    { return []byte(v), nil }
func (text) Decode(_ context.Context, data []byte) (string, error) { return string(data), nil }

// JSON is encoding/json's.
func JSON[T any]() Serde[T] { return jsonSerde[T]{} }

type jsonSerde[T any] struct{}

func (jsonSerde[T]) Encode(_ context.Context, v T) ([]byte, error) { return json.Marshal(v) }

func (jsonSerde[T]) Decode(_ context.Context, data []byte) (v T, err error) {
	err = json.Unmarshal(data, &v)
	return v, err
}

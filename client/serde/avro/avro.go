// Package avro is serdes for Avro, on github.com/twmb/avro: values by a schema that both sides know ([New]), or by one that a registry
// knows ([Registered]), which may differ between writer and reader as Avro's rules of schema resolution allow.
package avro

import (
	"context"
	"fmt"

	"github.com/twmb/avro"
	"github.com/twmb/franz-go/pkg/sr"

	"github.com/balsamq/balsa/client/serde"
	"github.com/balsamq/balsa/client/serde/registry"
)

// New is a serde for values by a schema. Empty: the one that follows from T, which is a struct then. Fields are matched by name, or by the tag
// avro:"name".
func New[T any](schema string) (serde.Serde[T], error) {
	s, err := parse[T](schema)
	if err != nil {
		return nil, err
	}
	return plain[T]{s}, nil
}

func parse[T any](schema string) (*avro.Schema, error) {
	if schema == "" {
		s, err := avro.SchemaFor[T]()
		if err != nil {
			return nil, fmt.Errorf("make an Avro schema: %w", err)
		}
		return s, nil
	}
	s, err := avro.Parse(schema)
	if err != nil {
		return nil, fmt.Errorf("read the Avro schema: %w", err)
	}
	return s, nil
}

type plain[T any] struct{ schema *avro.Schema }

func (p plain[T]) Encode(_ context.Context, v T) ([]byte, error) { return p.schema.Encode(&v) }

func (p plain[T]) Decode(_ context.Context, data []byte) (T, error) { return decode[T](p.schema, data) }

func decode[T any](s *avro.Schema, data []byte) (v T, err error) {
	rest, err := s.Decode(data, &v)
	if err == nil && len(rest) > 0 {
		err = fmt.Errorf("%d bytes are left behind the value", len(rest))
	}
	return v, err
}

// Registered is a serde for values whose schemas a registry knows. The subject's schema is the one by which values are written, and as which
// they are read whatever they were written by; empty: the one that follows from T.
func Registered[T any](s registry.Subject) (serde.Serde[T], error) {
	reader, err := parse[T](s.Schema)
	if err != nil {
		return nil, err
	}
	if s.Schema == "" {
		s.Schema = reader.String()
	}
	return registry.New(s, registry.Codec[T]{
		Type:   sr.TypeAvro,
		Append: func(dst []byte, v T) ([]byte, error) { return reader.AppendEncode(dst, &v) },
		Resolve: func(w sr.Schema) (func([]byte) (T, error), error) {
			writer, err := avro.Parse(w.Schema)
			if err != nil {
				return nil, err
			}
			both, err := avro.Resolve(writer, reader)
			if err != nil {
				return nil, err
			}
			return func(data []byte) (T, error) { return decode[T](both, data) }, nil
		},
	}), nil
}

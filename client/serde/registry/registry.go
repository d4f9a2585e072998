// Package registry is for values whose schemas are in a schema registry: a header before each value names the schema that it was written by,
// so that readers with another one understand it.
//
// A [Subject] says where a schema is, franz-go's sr.Client how to reach the registry. [JSON] is here; Avro and Protobuf are in packages avro
// and protobuf beside this one, as Registered.
package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"

	"github.com/twmb/franz-go/pkg/sr"

	"github.com/balsamq/balsa/client/serde"
)

// MaxSchemas bounds the schemas that a serde remembers. Beyond that it asks again.
const MaxSchemas = 1000

// Registry is what a serde needs of a registry. [*sr.Client] has it.
type Registry interface {
	// RegisterSchema returns the id of a schema, which gets one if it has none. The serde leaves id and version to the registry, by -1.
	RegisterSchema(ctx context.Context, subject string, s sr.Schema, id, version int) (int, error)
	// LookupSchema returns the id of a schema that is registered.
	LookupSchema(ctx context.Context, subject string, s sr.Schema) (sr.SubjectSchema, error)
	// SchemaByID returns a schema.
	SchemaByID(ctx context.Context, id int) (sr.Schema, error)
}

// Subject is a schema in a registry.
type Subject struct {
	Registry Registry
	// Name is by convention the topic's with "-key" or "-value" behind it.
	Name string
	// Schema is the text by which values are written, and as which they are read. It is registered when the first value is written.
	Schema string
	// References are schemas that Schema refers to.
	References []sr.SchemaReference
	// LookupOnly never registers: the schema must be there.
	LookupOnly bool
}

// Codec is how values are written by a schema.
type Codec[T any] struct {
	Type sr.SchemaType
	// Append appends a value.
	Append func(dst []byte, v T) ([]byte, error)
	// Decode decodes a value whatever it was written by. Or:
	Decode func(data []byte) (T, error)
	// Resolve makes the decoder for values that were written by a schema.
	Resolve func(writer sr.Schema) (func(data []byte) (T, error), error)
}

// JSON is encoding/json's, with a header. The schema is a JSON schema; values are not held against it.
func JSON[T any](s Subject) serde.Serde[T] {
	return New(s, Codec[T]{
		Type: sr.TypeJSON,
		Append: func(dst []byte, v T) ([]byte, error) {
			b, err := json.Marshal(v)
			return append(dst, b...), err
		},
		Decode: func(data []byte) (v T, err error) {
			err = json.Unmarshal(data, &v)
			return v, err
		},
	})
}

// New makes a serde that writes the header and then what the codec does.
func New[T any](s Subject, c Codec[T]) serde.Serde[T] {
	r := &registered[T]{subject: s, codec: c, decoders: make(map[uint32]func([]byte) (T, error))}
	r.id.Store(-1)
	return r
}

type registered[T any] struct {
	subject Subject
	codec   Codec[T]
	id      atomic.Int64 // of our schema; -1: not known yet
	asking  sync.Mutex   // one question about it at a time

	mu       sync.RWMutex // guards what follows
	decoders map[uint32]func([]byte) (T, error)
}

// Encode implements [serde.Serde].
func (r *registered[T]) Encode(ctx context.Context, v T) ([]byte, error) {
	id := r.id.Load()
	if id < 0 {
		var err error
		if id, err = r.register(ctx); err != nil {
			return nil, err
		}
	}
	return r.codec.Append(AppendHeader(make([]byte, 0, 64), uint32(id)), v)
}

func (r *registered[T]) register(ctx context.Context) (int64, error) {
	r.asking.Lock()
	defer r.asking.Unlock()
	if id := r.id.Load(); id >= 0 {
		return id, nil
	}
	s := &r.subject
	schema := sr.Schema{Schema: s.Schema, Type: r.codec.Type, References: s.References}
	var id int
	var err error
	if s.LookupOnly {
		var found sr.SubjectSchema
		found, err = s.Registry.LookupSchema(ctx, s.Name, schema)
		id = found.ID
	} else {
		id, err = s.Registry.RegisterSchema(ctx, s.Name, schema, -1, -1)
	}
	if err == nil && (id < 0 || int64(id) > 1<<32-1) {
		err = fmt.Errorf("the registry says that its id is %d", id)
	}
	if err != nil {
		return 0, fmt.Errorf("find out the id of the schema of subject %s: %w", s.Name, sort(err))
	}
	r.id.Store(int64(id))
	return int64(id), nil
}

// Decode implements [serde.Serde].
func (r *registered[T]) Decode(ctx context.Context, data []byte) (v T, err error) {
	id, body, err := Header(data)
	if err != nil {
		return v, err
	}
	if r.codec.Decode != nil {
		return r.codec.Decode(body)
	}
	r.mu.RLock()
	decode := r.decoders[id]
	r.mu.RUnlock()
	if decode == nil {
		if decode, err = r.resolve(ctx, id); err != nil {
			return v, err
		}
	}
	return decode(body)
}

func (r *registered[T]) resolve(ctx context.Context, id uint32) (func([]byte) (T, error), error) {
	writer, err := r.subject.Registry.SchemaByID(ctx, int(id))
	if err != nil {
		return nil, fmt.Errorf("read schema %d: %w", id, sort(err))
	}
	if writer.Type != r.codec.Type {
		return nil, fmt.Errorf("schema %d is of type %v, not %v", id, writer.Type, r.codec.Type)
	}
	decode, err := r.codec.Resolve(writer)
	if err != nil {
		return nil, fmt.Errorf("understand schema %d: %w", id, err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.decoders) >= MaxSchemas {
		for old := range r.decoders {
			delete(r.decoders, old)
			break
		}
	}
	r.decoders[id] = decode
	return decode, nil
}

// sort tells what the registry does not know or want from what it cannot do now.
func sort(err error) error {
	if re, ok := errors.AsType[*sr.ResponseError](err); ok {
		switch re.StatusCode {
		case http.StatusNotFound, http.StatusConflict, http.StatusUnprocessableEntity, http.StatusBadRequest:
			return err
		}
	}
	return errors.Join(serde.ErrUnavailable, err)
}

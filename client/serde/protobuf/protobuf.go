// Package protobuf is serdes for Protobuf messages, on google.golang.org/protobuf: as they are ([New]), or with the header of a schema
// registry ([Registered]).
package protobuf

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/twmb/franz-go/pkg/sr"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/balsamq/balsa/client/serde"
	"github.com/balsamq/balsa/client/serde/registry"
)

// Message is a pointer to a generated message.
type Message[T any] interface {
	*T
	proto.Message
}

// New is a serde for messages: New[pb.Order]() is one for *pb.Order.
func New[T any, M Message[T]]() serde.Serde[M] { return plain[T, M]{} }

type plain[T any, M Message[T]] struct{}

func (plain[T, M]) Encode(_ context.Context, v M) ([]byte, error) {
	if v == nil {
		return nil, errNil
	}
	return proto.Marshal(v)
}

func (plain[T, M]) Decode(_ context.Context, data []byte) (M, error) { return decode[T, M](data) }

var errNil = errors.New("a nil message has no bytes")

func decode[T any, M Message[T]](data []byte) (M, error) {
	v := M(new(T))
	if err := proto.Unmarshal(data, v); err != nil {
		return nil, err
	}
	return v, nil
}

// Registered is a serde for messages with the header of a registry, in which the subject's schema is the text of the .proto file that declares
// T. A value that another message of a file was written to is refused.
func Registered[T any, M Message[T]](s registry.Subject) serde.Serde[M] {
	index := indexOf(M(new(T)).ProtoReflect().Descriptor())
	return registry.New(s, registry.Codec[M]{
		Type: sr.TypeProtobuf,
		Append: func(dst []byte, v M) ([]byte, error) {
			if v == nil {
				return nil, errNil
			}
			return proto.MarshalOptions{}.MarshalAppend(registry.AppendIndex(dst, index), v)
		},
		Decode: func(data []byte) (M, error) {
			got, data, err := registry.Index(data)
			if err != nil {
				return nil, err
			}
			if !slices.Equal(got, index) {
				return nil, fmt.Errorf("the message at %v of its file, not the one at %v", got, index)
			}
			return decode[T, M](data)
		},
	})
}

// indexOf is the way to a message in its file.
func indexOf(d protoreflect.Descriptor) []int {
	var index []int
	for ; d != nil; d = d.Parent() {
		if _, ok := d.(protoreflect.MessageDescriptor); !ok {
			break
		}
		index = append(index, d.Index())
	}
	slices.Reverse(index)
	return index
}

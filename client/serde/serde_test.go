// Serdes against a registry in the test's process: what is written is read, by other versions of a schema, too.

package serde_test

import (
	"context"
	"errors"
	"net/http/httptest"
	"reflect"
	"testing"

	"github.com/twmb/franz-go/pkg/sr"
	"github.com/twmb/franz-go/pkg/sr/srfake"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/balsamq/balsa/client/serde"
	"github.com/balsamq/balsa/client/serde/avro"
	"github.com/balsamq/balsa/client/serde/protobuf"
	"github.com/balsamq/balsa/client/serde/registry"
)

type order struct {
	ID     int64    `json:"id" avro:"id"`
	Planks []string `json:"planks" avro:"planks"`
	Note   *string  `json:"note,omitempty" avro:"note"`
}

// order2 has a field more, which has a default, and one less.
type order2 struct {
	ID   int64  `avro:"id"`
	Wood string `avro:"wood"`
}

const order2Schema = `{"type":"record","name":"order","fields":[{"name":"id","type":"long"},{"name":"wood","type":"string","default":"balsa"}]}`

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func fakeRegistry(t *testing.T) (*sr.Client, string) {
	t.Helper()
	fake := srfake.New()
	t.Cleanup(fake.Close)
	return must(sr.NewClient(sr.URLs(fake.URL()))), fake.URL()
}

func roundTrip[T any](t *testing.T, name string, s serde.Serde[T], values ...T) {
	t.Helper()
	for _, v := range values {
		b, err := s.Encode(t.Context(), v)
		if err != nil {
			t.Fatalf("%s: encode %v: %v", name, v, err)
		}
		got, err := s.Decode(t.Context(), b)
		if err != nil {
			t.Fatalf("%s: decode %x: %v", name, b, err)
		}
		if a, ok := any(v).(proto.Message); ok && proto.Equal(a, any(got).(proto.Message)) {
			continue
		}
		if !reflect.DeepEqual(got, v) {
			t.Fatalf("%s: %v became %v", name, v, got)
		}
	}
}

func TestRoundTrips(t *testing.T) {
	reg, _ := fakeRegistry(t)
	note := "soon"
	orders := []order{{}, {ID: -3, Planks: []string{"a", "b"}, Note: &note}}
	orders[0].Planks = []string{}
	roundTrip(t, "bytes", serde.Bytes(), []byte{}, []byte("x"))
	roundTrip(t, "string", serde.String(), "", "x\xff")
	roundTrip(t, "JSON", serde.JSON[order](), orders...)
	roundTrip(t, "Avro", must(avro.New[order]("")), orders...)
	roundTrip(t, "Protobuf", protobuf.New[wrapperspb.StringValue](), wrapperspb.String("x"), &wrapperspb.StringValue{})
	roundTrip(t, "JSON with a schema", registry.JSON[order](registry.Subject{Registry: reg, Name: "json-value", Schema: `{"type":"object"}`}), orders...)
	roundTrip(t, "Avro with a schema", must(avro.Registered[order](registry.Subject{Registry: reg, Name: "avro-value"})), orders...)
	// A message within another one: the third of its file, and the first in that.
	nested := &descriptorpb.DescriptorProto_ExtensionRange{Start: proto.Int32(7)}
	roundTrip(t, "Protobuf with a schema", protobuf.Registered[descriptorpb.DescriptorProto_ExtensionRange](registry.Subject{Registry: reg, Name: "proto-value", Schema: `syntax = "proto2";`}), nested)
	b := must(protobuf.Registered[descriptorpb.DescriptorProto_ExtensionRange](registry.Subject{Registry: reg, Name: "proto-value", Schema: `syntax = "proto2";`}).Encode(t.Context(), nested))
	index, _, err := registry.Index(b[registry.HeaderLen:])
	d := nested.ProtoReflect().Descriptor()
	if want := []int{d.Parent().Index(), d.Index()}; err != nil || !reflect.DeepEqual(index, want) {
		t.Errorf("the index is %v, not %v: %v", index, want, err)
	}
}

// A reader with another version of a schema understands the writer's, by what the registry says of it.
func TestSchemaEvolution(t *testing.T) {
	reg, _ := fakeRegistry(t)
	old := must(avro.Registered[order](registry.Subject{Registry: reg, Name: "orders-value"}))
	b := must(old.Encode(t.Context(), order{ID: 7, Planks: []string{"x"}}))
	reader := must(avro.Registered[order2](registry.Subject{Registry: reg, Name: "orders-value", Schema: order2Schema}))
	if got, err := reader.Decode(t.Context(), b); err != nil || got != (order2{7, "balsa"}) {
		t.Fatal(got, err)
	}
	// A value by a schema that cannot be read as this one.
	stranger := must(avro.Registered[struct {
		Other string `avro:"other"`
	}](registry.Subject{Registry: reg, Name: "strangers-value", Schema: `{"type":"record","name":"stranger","fields":[{"name":"other","type":"string"}]}`}))
	b = must(stranger.Encode(t.Context(), struct {
		Other string `avro:"other"`
	}{"x"}))
	if _, err := reader.Decode(t.Context(), b); err == nil || errors.Is(err, serde.ErrUnavailable) {
		t.Fatal(err)
	}
}

// What is wrong with the bytes is told from what is wrong with the registry.
func TestErrors(t *testing.T) {
	reg, _ := fakeRegistry(t)
	s := must(avro.Registered[order](registry.Subject{Registry: reg, Name: "orders-value"}))
	good := must(s.Encode(t.Context(), order{ID: 7}))
	for name, bad := range map[string][]byte{
		"nothing": {}, "no header": []byte("xxxxxxxx"), "cut short": good[:len(good)-1], "too much": append(good[:len(good):len(good)], 0),
		"an unknown schema": append(registry.AppendHeader(nil, 12345), good[registry.HeaderLen:]...),
	} {
		if _, err := s.Decode(t.Context(), bad); err == nil || errors.Is(err, serde.ErrUnavailable) {
			t.Errorf("%s: %v", name, err)
		}
	}
	pb := protobuf.Registered[wrapperspb.StringValue](registry.Subject{Registry: reg, Name: "p", Schema: "x"})
	if _, err := pb.Decode(t.Context(), append(registry.AppendIndex(registry.AppendHeader(nil, 1), []int{99}), 0)); err == nil {
		t.Error("a message of another kind is taken for ours")
	}
	if _, err := pb.Encode(t.Context(), nil); err == nil {
		t.Error("a nil message has bytes")
	}
	if _, err := avro.New[order]("{"); err == nil {
		t.Error("no schema is one")
	}

	lookup := must(avro.Registered[order](registry.Subject{Registry: reg, Name: "nobody", LookupOnly: true}))
	if _, err := lookup.Encode(t.Context(), order{}); err == nil || errors.Is(err, serde.ErrUnavailable) {
		t.Errorf("a schema that is not registered: %v", err)
	}
	lookup = must(avro.Registered[order](registry.Subject{Registry: reg, Name: "orders-value", LookupOnly: true}))
	if b, err := lookup.Encode(t.Context(), order{ID: 7}); err != nil || !reflect.DeepEqual(b, good) {
		t.Errorf("a schema that is registered: %x, %v", b, err)
	}

	down := httptest.NewServer(nil)
	down.Close()
	gone := must(avro.Registered[order](registry.Subject{Registry: must(sr.NewClient(sr.URLs(down.URL))), Name: "orders-value"}))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	if _, err := gone.Encode(ctx, order{}); !errors.Is(err, serde.ErrUnavailable) {
		t.Errorf("a registry that does not answer: %v", err)
	}
	if _, err := gone.Decode(ctx, good); !errors.Is(err, serde.ErrUnavailable) {
		t.Errorf("a registry that does not answer: %v", err)
	}
}

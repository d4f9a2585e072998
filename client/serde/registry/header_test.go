// The header against franz-go's, which is what everybody else writes.

package registry_test

import (
	"bytes"
	"slices"
	"testing"

	"github.com/twmb/franz-go/pkg/sr"

	"github.com/balsamq/balsa/client/serde/registry"
)

// What is written is read, and as franz-go's registry client reads and writes it.
func TestHeader(t *testing.T) {
	var other sr.ConfluentHeader
	for _, id := range []uint32{0, 1, 77, 1 << 31, 1<<32 - 1} {
		for _, index := range [][]int{{0}, {1}, {0, 0}, {3, 0, 129}} {
			b := append(registry.AppendIndex(registry.AppendHeader(nil, id), index), "value"...)
			want, _ := other.AppendEncode(nil, int(id), index)
			if !bytes.Equal(b, append(want, "value"...)) {
				t.Fatalf("%d %v: %x, not %x", id, index, b, want)
			}
			gotID, rest, err := registry.Header(b)
			if err != nil || gotID != id {
				t.Fatal(gotID, err)
			}
			got, rest, err := registry.Index(rest)
			if err != nil || !slices.Equal(got, index) || string(rest) != "value" {
				t.Fatal(got, rest, err)
			}
		}
	}
	for _, bad := range []string{"", "\x00\x00\x00\x01", "\x01\x00\x00\x00\x01x"} {
		if _, _, err := registry.Header([]byte(bad)); err != registry.ErrHeader {
			t.Errorf("%q: %v", bad, err)
		}
	}
	for _, bad := range []string{"", "\x01", "\x02", "\x04\x00", "\x42", "\x02\x01", "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", "\xfe\xff\xff\xff\xff\xff\xff\xff\x7f"} {
		if _, _, err := registry.Index([]byte(bad)); err != registry.ErrHeader {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// Whatever comes: no panic, no memory beyond the bound, and what is accepted is what franz-go accepts, and is written as the same thing.
func FuzzHeader(f *testing.F) {
	f.Add([]byte{})
	f.Add(registry.AppendHeader(nil, 7))
	f.Add(append(registry.AppendIndex(registry.AppendHeader(nil, 1<<30), []int{2, 0, 300}), 1, 2, 3))
	f.Add([]byte{0, 0, 0, 0, 1, 0xfe, 0xff, 0xff, 0xff, 0x0f})
	f.Fuzz(func(t *testing.T, data []byte) {
		var other sr.ConfluentHeader
		id, rest, err := registry.Header(data)
		wantID, wantRest, wantErr := other.DecodeID(data)
		if (err == nil) != (wantErr == nil) || err == nil && (int(id) != wantID || !bytes.Equal(rest, wantRest)) {
			t.Fatalf("%d %x %v, not %d %x %v", id, rest, err, wantID, wantRest, wantErr)
		}
		if err != nil {
			return
		}
		index, value, err := registry.Index(rest)
		if err != nil {
			return
		}
		if len(index) == 0 || len(index) > registry.MaxIndex {
			t.Fatalf("an index of %d", len(index))
		}
		if want, wantValue, err := other.DecodeIndex(rest, registry.MaxIndex); err != nil || !slices.Equal(index, want) || !bytes.Equal(value, wantValue) {
			t.Fatalf("%v %x, not %v %x %v", index, value, want, wantValue, err)
		}
		again, back, err := registry.Index(registry.AppendIndex(nil, index))
		if err != nil || !slices.Equal(again, index) || len(back) > 0 {
			t.Fatalf("%v becomes %v %x %v", index, again, back, err)
		}
	})
}

package broker

import (
	"errors"
	"reflect"
	"testing"

	"github.com/balsamq/balsa/raft"
)

func TestBeatRoundTrip(t *testing.T) {
	for _, h := range []*beat{
		{node: 1, leaders: []leaderEntry{}},
		{cluster: "c", node: 7, incarnation: 1 << 63, boot: 3, image: 1 << 40, addr: "host:1", leaders: []leaderEntry{{2, 7, 1}, {1 << 50, 7, raft.MaxTerm}}},
	} {
		b := h.encode()
		got, err := decodeBeat(b)
		if err != nil || !reflect.DeepEqual(got, h) {
			t.Fatalf("%+v became %+v, %v", h, got, err)
		}
		for i := range b {
			if _, err := decodeBeat(b[:i]); !errors.Is(err, errRPC) {
				t.Fatalf("cut at %d: %v", i, err)
			}
		}
		if _, err := decodeBeat(append(b, 0)); !errors.Is(err, errRPC) {
			t.Fatalf("bytes behind it: %v", err)
		}
	}
}

func FuzzDecodeBeat(f *testing.F) {
	f.Add((&beat{cluster: "c", node: 7, incarnation: 9, boot: 3, image: 4, addr: "host:1", leaders: []leaderEntry{{2, 7, 1}}}).encode())
	f.Add([]byte{1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0x0f})
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := decodeBeat(b)
		if err != nil {
			if !errors.Is(err, errRPC) {
				t.Fatalf("unexpected kind of error: %v", err)
			}
			return
		}
		again, err := decodeBeat(h.encode())
		if err != nil || !reflect.DeepEqual(again, h) {
			t.Fatalf("%+v became %+v, %v", h, again, err)
		}
	})
}

func FuzzDecodeJoin(f *testing.F) {
	b, _ := encodeJSON(&joinRequest{ClusterID: "c"})
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		var q joinRequest
		if err := decodeJSON(b, &q); err != nil && !errors.Is(err, errRPC) {
			t.Fatalf("unexpected kind of error: %v", err)
		}
	})
}

package broker

// The scan before the decoder: that it knows every request exactly as kmsg does, and refuses what kmsg would choke on.

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// everyRequest calls fn for each API and version that is served.
func everyRequest(fn func(a *api, version int16)) {
	for _, a := range apiByKey {
		if a == nil {
			continue
		}
		for v := a.min; v <= a.max; v++ {
			fn(a, v)
		}
	}
}

func emptyRequest(a *api, version int16) kmsg.Request {
	req := kmsg.RequestForKey(a.key)
	req.SetVersion(version)
	return req
}

// randomRequest is a well-formed body with values, nulls, arrays in arrays and tags nobody knows.
func randomRequest(r *rand.Rand, a *api, version int16) []byte {
	req := emptyRequest(a, version)
	fill(r, reflect.ValueOf(req).Elem(), true)
	req.SetVersion(version)
	return req.AppendTo(nil)
}

func fill(r *rand.Rand, v reflect.Value, nullable bool) {
	if tags, ok := v.Addr().Interface().(*kmsg.Tags); ok {
		for range r.IntN(3) {
			tags.Set(100+r.Uint32N(1<<20), make([]byte, r.IntN(200)))
		}
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			fill(r, v.Field(i), true)
		}
	case reflect.Pointer:
		if nullable && r.IntN(3) == 0 {
			v.SetZero()
			return
		}
		v.Set(reflect.New(v.Type().Elem()))
		fill(r, v.Elem(), true)
	case reflect.Slice:
		n := r.IntN(4)
		if v.Type().Elem().Kind() == reflect.Uint8 {
			n = r.IntN(300)
		} else if nullable && r.IntN(4) == 0 {
			v.SetZero()
			return
		}
		v.Set(reflect.MakeSlice(v.Type(), n, n))
		for i := range n {
			fill(r, v.Index(i), true)
		}
	case reflect.Array:
		for i := range v.Len() {
			fill(r, v.Index(i), true)
		}
	case reflect.String:
		v.SetString(string(make([]byte, r.IntN(200))))
	case reflect.Bool:
		v.SetBool(r.IntN(2) == 0)
	case reflect.Uint8:
		v.SetUint(r.Uint64() & 0xff)
	case reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		v.SetInt(int64(r.Uint64()) >> (64 - v.Type().Bits()))
	case reflect.Float64:
		v.SetFloat(r.Float64())
	default:
		panic("a field of a kind that no request has had: " + v.Type().String())
	}
}

// A schema that is a byte off anywhere leaves bytes over, or misses some.
func TestPrescanKnowsEveryRequest(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	everyRequest(func(a *api, version int16) {
		flexible := emptyRequest(a, version).IsFlexible()
		for range 200 {
			body := randomRequest(r, a, version)
			rest, err := prescan(a, version, flexible, body)
			if err != nil || len(rest) != 0 {
				t.Fatalf("%s v%d: %v, %d of %d bytes left: %x", kmsg.NameForKey(a.key), version, err, len(rest), len(body), body)
			}
			if err := emptyRequest(a, version).ReadFrom(body); err != nil {
				t.Fatalf("%s v%d: kmsg cannot read its own: %v", kmsg.NameForKey(a.key), version, err)
			}
		}
	})
}

func TestPrescanRefusesTruncation(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	everyRequest(func(a *api, version int16) {
		flexible := emptyRequest(a, version).IsFlexible()
		for range 5 {
			body := randomRequest(r, a, version)
			for n := range body {
				if _, err := prescan(a, version, flexible, body[:n:n]); !errors.Is(err, errMalformed) {
					t.Fatalf("%s v%d: %v after %d of %d bytes", kmsg.NameForKey(a.key), version, err, n, len(body))
				}
			}
		}
	})
}

// A huge number in any place is refused, or stands where numbers may be huge: then kmsg reads the body as well.
func TestPrescanRefusesHugeCounts(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	everyRequest(func(a *api, version int16) {
		flexible := emptyRequest(a, version).IsFlexible()
		huge := binary.BigEndian.AppendUint32(nil, math.MaxInt32)
		if flexible {
			huge = binary.AppendUvarint(nil, math.MaxUint32)
		}
		body := randomRequest(r, a, version)
		for i := range body {
			for _, bad := range [][]byte{slices.Concat(body[:i], huge, body[i+1:]), slices.Concat(body[:i], huge)} {
				if _, err := prescan(a, version, flexible, bad); err != nil {
					continue
				}
				if err := emptyRequest(a, version).ReadFrom(bad); err != nil {
					t.Fatalf("%s v%d, byte %d: passed, and kmsg says %v: %x", kmsg.NameForKey(a.key), version, i, err, bad)
				}
			}
		}
		if flexible {
			// The last section of tags, in place of its count.
			empty := emptyRequest(a, version).AppendTo(nil)
			bad := slices.Concat(empty[:len(empty)-1], huge, make([]byte, 100))
			if _, err := prescan(a, version, true, bad); !errors.Is(err, errMalformed) {
				t.Fatalf("%s v%d: four billion tags: %v", kmsg.NameForKey(a.key), version, err)
			}
		}
	})
	for name, c := range map[string]struct {
		key, version int16
		head         []byte
	}{
		"topics of Metadata":           {3, 9, nil},
		"tags of a topic of Metadata":  {3, 9, []byte{2, 2, 'a'}},
		"names in a list of Groups":    {15, 5, nil},
		"partitions of OffsetFetch":    {9, 8, []byte{2, 2, 'g', 2, 2, 't'}},
		"replicas of CreateTopics":     {19, 5, []byte{2, 2, 't', 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0}},
		"configs of DescribeConfigs":   {32, 4, []byte{2, 0, 2, 'n'}},
		"tags in Fetch's ReplicaState": {1, 15, slices.Concat(make([]byte, 21), []byte{1, 1, 1, 1, 1, 18}, make([]byte, 12))},
	} {
		for _, n := range []uint32{math.MaxUint32, math.MaxInt32 + 1, math.MaxInt32, 1 << 20} {
			in := append(binary.AppendUvarint(bytes.Clone(c.head), uint64(n)), make([]byte, 40)...)
			if _, err := prescan(findAPI(c.key), c.version, true, in); !errors.Is(err, errMalformed) {
				t.Errorf("%s: %d: %v", name, n, err)
			}
		}
	}
}

// The known tags have schemas of their own, which a size may cut short.
func TestPrescanLooksIntoKnownTags(t *testing.T) {
	a := findAPI(1)
	fetch := func(tags ...byte) []byte {
		return append(append(make([]byte, 21), 1, 1, 1), tags...) // no topics, none forgotten, no rack
	}
	state := make([]byte, 12)
	for name, c := range map[string]struct {
		tags []byte
		ok   bool
	}{
		"none":                {[]byte{0}, true},
		"cluster id":          {[]byte{1, 0, 3, 3, 'i', 'd'}, true},
		"null cluster id":     {[]byte{1, 0, 1, 0}, true},
		"cluster id cut":      {[]byte{1, 0, 2, 3, 'i', 'd', 0}, false},
		"empty cluster id":    {[]byte{1, 0, 0}, false},
		"replica state":       {slices.Concat([]byte{1, 1, 13}, state, []byte{0}), true},
		"with a tag":          {slices.Concat([]byte{1, 1, 16}, state, []byte{1, 9, 1, 7}), true},
		"tag beyond its end":  {slices.Concat([]byte{1, 1, 16}, state, []byte{1, 9, 2, 7}, make([]byte, 9)), false},
		"without its tags":    {slices.Concat([]byte{1, 1, 12}, state), false},
		"twice":               {slices.Concat([]byte{2, 1, 13}, state, []byte{0, 1, 13}, state, []byte{0}), true},
		"more tags than told": {slices.Concat([]byte{2, 1, 13}, state, []byte{0}), false},
	} {
		body := fetch(c.tags...)
		rest, err := prescan(a, 15, true, body)
		if (err == nil) != c.ok || len(rest) != 0 {
			t.Errorf("%s: %v, %d bytes left", name, err, len(rest))
		}
		if kerr := emptyRequest(a, 15).ReadFrom(body); (kerr == nil) != c.ok {
			t.Errorf("%s: kmsg says %v", name, kerr)
		}
	}
}

func TestPrescanBoundsWhatKmsgAllocates(t *testing.T) {
	names := func(n int) []byte {
		b := binary.AppendUvarint(nil, uint64(n)+1)
		return append(append(b, bytes.Repeat([]byte{2, 'g'}, n)...), 0, 0)
	}
	describe := findAPI(15)
	if rest, err := prescan(describe, 5, true, names(maxRequestElements)); err != nil || len(rest) != 0 {
		t.Error(err)
	}
	if _, err := prescan(describe, 5, true, names(maxRequestElements+1)); !errors.Is(err, errTooMany) {
		t.Error(err)
	}
	tags := func(n int) []byte {
		return append(binary.AppendUvarint([]byte{1, 0}, uint64(n)), bytes.Repeat([]byte{9, 0}, n)...)
	}
	if rest, err := prescan(describe, 5, true, tags(maxUnknownTags)); err != nil || len(rest) != 0 {
		t.Error(err)
	}
	if _, err := prescan(describe, 5, true, tags(maxUnknownTags+1)); !errors.Is(err, errTooMany) {
		t.Error(err)
	}
	// Topics without partitions count as well.
	topics := binary.AppendUvarint([]byte{0, 0, 1, 0, 0, 0, 1}, maxProducePartitions+2)
	topics = append(append(topics, bytes.Repeat([]byte{1, 1, 0}, maxProducePartitions+1)...), 0)
	if _, err := prescan(findAPI(keyProduce), 9, true, topics); !errors.Is(err, errTooMany) {
		t.Error(err)
	}
}

func TestPrescanAllocatesNothing(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 8))
	everyRequest(func(a *api, version int16) {
		flexible := emptyRequest(a, version).IsFlexible()
		body := randomRequest(r, a, version)
		if n := testing.AllocsPerRun(5, func() { _, _ = prescan(a, version, flexible, body) }); n != 0 {
			t.Fatalf("%s v%d: %v allocations", kmsg.NameForKey(a.key), version, n)
		}
	})
}

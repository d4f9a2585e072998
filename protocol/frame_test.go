package protocol

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"testing"
	"testing/iotest"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// served accepts every request that kmsg knows, as the broker's own table does for the ones it serves.
func served(key, version int16) (HeaderVersion, bool) {
	req := kmsg.RequestForKey(key)
	if req == nil || version < 0 || version > req.MaxVersion() {
		return 0, false
	}
	req.SetVersion(version)
	if req.IsFlexible() {
		return 2, true
	}
	if key == 7 && version == 0 {
		return 0, true
	}
	return 1, true
}

func TestReadFrame(t *testing.T) {
	frame := func(n int32, body int) []byte {
		return append(binary.BigEndian.AppendUint32(nil, uint32(n)), bytes.Repeat([]byte{7}, body)...)
	}
	for _, c := range []struct {
		name string
		in   []byte
		want error
	}{
		{"whole", frame(100, 100), nil},
		{"larger than a step", frame(3*frameStep+1, 3*frameStep+1), nil},
		{"at the limit", frame(1<<22, 1<<22), nil},
		{"over the limit", frame(1<<22+1, 0), ErrFrameSize},
		{"two gigabytes", frame(1<<31-1, 10), ErrFrameSize},
		{"negative", frame(-1, 10), ErrFrameSize},
		{"empty", frame(0, 0), ErrFrameSize},
		{"shorter than a header", frame(7, 7), ErrFrameSize},
		{"truncated", frame(100, 99), io.ErrUnexpectedEOF},
		{"nothing after the size", frame(100, 0), io.ErrUnexpectedEOF},
		{"truncated size", []byte{0, 0}, io.ErrUnexpectedEOF},
		{"between frames", nil, io.EOF},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := ReadFrame(iotest.HalfReader(bytes.NewReader(c.in)), 1<<22)
			if !errors.Is(err, c.want) {
				t.Fatalf("error %v, want %v", err, c.want)
			}
			if err == nil && !bytes.Equal(got, c.in[4:]) {
				t.Fatalf("%d bytes of frame differ from what was sent", len(got))
			}
		})
	}
}

// A peer that announces much and sends little must not make us allocate much.
func TestReadFrameAllocatesAsBytesArrive(t *testing.T) {
	in := binary.BigEndian.AppendUint32(nil, 100<<20)
	in = append(in, make([]byte, 1000)...)
	res := testing.Benchmark(func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := ReadFrame(bytes.NewReader(in), 100<<20); !errors.Is(err, io.ErrUnexpectedEOF) {
				b.Fatal(err)
			}
		}
	})
	if n := res.AllocedBytesPerOp(); n > 2*frameStep {
		t.Fatalf("a frame of 1,000 bytes that claims 100 MiB costs %d bytes", n)
	}
}

func TestRequestHeaderOfEveryRequest(t *testing.T) {
	client := "tester"
	f := kmsg.NewRequestFormatter(kmsg.FormatterClientID(client))
	for key := int16(0); key < 100; key++ {
		max := kmsg.RequestForKey(key)
		if max == nil {
			continue
		}
		for v := int16(0); v <= max.MaxVersion(); v++ {
			req := kmsg.RequestForKey(key)
			req.SetVersion(v)
			if key == 7 && v == 0 {
				continue // the formatter writes a client id that this one request has not got
			}
			frame := f.AppendRequest(nil, req, 77)[4:]
			h, body, err := ParseRequestHeader(frame, served)
			if err != nil {
				t.Fatalf("%s v%d: %v", kmsg.NameForKey(key), v, err)
			}
			if h.Key != key || h.Version != v || h.CorrelationID != 77 || string(h.ClientID) != client {
				t.Fatalf("%s v%d: header %+v", kmsg.NameForKey(key), v, h)
			}
			if !bytes.Equal(body, req.AppendTo(nil)) {
				t.Fatalf("%s v%d: the body begins in the wrong place", kmsg.NameForKey(key), v)
			}
		}
	}
}

func TestRequestHeaderRefusals(t *testing.T) {
	for name, in := range map[string][]byte{
		"short":                {0, 18, 0, 0, 0, 0, 0},
		"unknown key":          {0x7f, 0xff, 0, 0, 0, 0, 0, 1, 0, 0},
		"negative key":         {0xff, 0xff, 0, 0, 0, 0, 0, 1, 0, 0},
		"unknown version":      {0, 3, 0, 99, 0, 0, 0, 1, 0, 0},
		"no client id":         {0, 3, 0, 1, 0, 0, 0, 1, 0},
		"client id too long":   {0, 3, 0, 1, 0, 0, 0, 1, 0, 5, 'a'},
		"client id length -2":  {0, 3, 0, 1, 0, 0, 0, 1, 0xff, 0xfe},
		"no tags":              {0, 3, 0, 9, 0, 0, 0, 1, 0xff, 0xff},
		"more tags than bytes": {0, 3, 0, 9, 0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x0f},
		"tag beyond the end":   {0, 3, 0, 9, 0, 0, 0, 1, 0xff, 0xff, 1, 0, 9, 1},
	} {
		if _, _, err := ParseRequestHeader(in, served); !errors.Is(err, ErrHeader) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestResponseHeader(t *testing.T) {
	if got := AppendResponseHeader(nil, 3, 5, false); !bytes.Equal(got, []byte{0, 0, 0, 5}) {
		t.Errorf("v0: % x", got)
	}
	if got := AppendResponseHeader(nil, 3, 5, true); !bytes.Equal(got, []byte{0, 0, 0, 5, 0}) {
		t.Errorf("v1: % x", got)
	}
	// KIP-511: a stray byte here made librdkafka try to allocate 34 GB.
	if got := AppendResponseHeader(nil, 18, 5, true); !bytes.Equal(got, []byte{0, 0, 0, 5}) {
		t.Errorf("ApiVersions: % x", got)
	}
}

func TestUvarint(t *testing.T) {
	for _, v := range []uint32{0, 1, 127, 128, 1 << 20, 1<<32 - 1} {
		b := binary.AppendUvarint(nil, uint64(v))
		if got, n := Uvarint(b); got != v || n != len(b) {
			t.Errorf("%d: %d in %d bytes", v, got, n)
		}
		if _, n := Uvarint(b[:len(b)-1]); n > 0 {
			t.Errorf("%d: truncated, yet %d bytes", v, n)
		}
	}
	if _, n := Uvarint(binary.AppendUvarint(nil, 1<<32)); n > 0 {
		t.Error("33 bits accepted")
	}
}

func FuzzRequestHeader(f *testing.F) {
	fm := kmsg.NewRequestFormatter(kmsg.FormatterClientID("c"))
	for _, key := range []int16{0, 1, 3, 18} {
		req := kmsg.RequestForKey(key)
		req.SetVersion(req.MaxVersion())
		f.Add(fm.AppendRequest(nil, req, 1)[4:])
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		h, body, err := ParseRequestHeader(in, served)
		if err == nil && len(body)+len(h.ClientID) > len(in) {
			t.Fatal("the parts are larger than the whole")
		}
	})
}

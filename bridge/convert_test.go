package bridge

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/twmb/franz-go/pkg/kgo"
)

// anywhere is a stream that takes all there is.
var anywhere = &outlet{name: "S", subjects: []string{">"}}

func converterFor(t testing.TB, s *Spec) *converter {
	t.Helper()
	c, err := newConverter(s, "c/b")
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// carried is what a message is once it has been through a server: names and values as nats.go reads them.
func overTheWire(t testing.TB, m *nats.Msg) nats.Header {
	t.Helper()
	var raw strings.Builder
	raw.WriteString("NATS/1.0\r\n")
	for k, vs := range m.Header {
		for _, v := range vs {
			fmt.Fprintf(&raw, "%s: %s\r\n", k, v)
		}
	}
	raw.WriteString("\r\n")
	h, err := nats.DecodeHeadersMsg([]byte(raw.String()))
	if err != nil {
		t.Fatalf("%v: %q", err, raw.String())
	}
	return h
}

func plainHeaders(hs []kgo.RecordHeader) (out []string) {
	for _, h := range hs {
		if !strings.HasPrefix(h.Key, "balsa.") && h.Key != headerBridges && h.Key != headerPlace && h.Key != headerKey && h.Key != nats.MsgIdHdr {
			out = append(out, fmt.Sprintf("%q=%q", h.Key, h.Value))
		}
	}
	return out
}

// A record that goes into a stream and comes back by another bridge is what it was.
func TestRecordsComeBack(t *testing.T) {
	out := converterFor(t, &Spec{FromTopic: "t", Subject: "s.{key}"})
	back, err := newConverter(&Spec{FromStream: "S", Key: "{subject[1]}"}, "c/other")
	if err != nil {
		t.Fatal(err)
	}
	at := time.UnixMilli(1_700_000_000_123)
	for _, r := range []*kgo.Record{
		{Key: []byte("k.1"), Value: []byte("v"), Headers: []kgo.RecordHeader{{Key: "a", Value: []byte("1")}, {Key: "a", Value: []byte("2")}, {Key: "b", Value: []byte("")}}},
		{Key: nil, Value: nil, Headers: nil},
		{Key: []byte{}, Value: []byte{}, Headers: []kgo.RecordHeader{{Key: "", Value: []byte("x")}, {Key: "%", Value: []byte("y")}}},
		{Key: []byte("\xff\x00"), Value: []byte("v"), Headers: []kgo.RecordHeader{{Key: "two\nlines: ", Value: []byte(" a\r\nb\x00\xff ")}, {Key: "ü", Value: []byte("ü")}, {Key: "mixed", Value: []byte("plain")}, {Key: "mixed", Value: []byte("a\nb%41")}}},
		{Key: []byte("x"), Value: nil, Headers: []kgo.RecordHeader{{Key: "Status", Value: []byte("404")}, {Key: "Description", Value: []byte("gone")}}},
		{Key: []byte("x"), Value: []byte("v"), Headers: []kgo.RecordHeader{{Key: "per%41cent", Value: []byte("100%")}, {Key: "pct", Value: []byte("%41")}}},
	} {
		r.Topic, r.Partition, r.Offset, r.Timestamp = "t", 1, 7, at
		m, err := out.message(r, "t/1/7", anywhere)
		if err != nil {
			t.Fatal(err)
		}
		if m.Header.Get("Status") != "" {
			t.Errorf("clients would take %s for a word of the server's", headerText(m.Header))
		}
		got, err := back.record(&message{subject: m.Subject, header: overTheWire(t, m), data: m.Data, seq: 9, time: time.Now()})
		if err != nil {
			t.Fatal(err)
		}
		if (got.Key == nil) != (r.Key == nil) || string(got.Key) != string(r.Key) || (got.Value == nil) != (r.Value == nil) || string(got.Value) != string(r.Value) || !got.Timestamp.Equal(at) {
			t.Errorf("%q=%q at %v became %q=%q at %v", r.Key, r.Value, r.Timestamp, got.Key, got.Value, got.Timestamp)
		}
		want, have := plainHeaders(r.Headers), plainHeaders(got.Headers)
		slices.SortStableFunc(want, func(a, b string) int {
			x, _, _ := strings.Cut(a, "=")
			y, _, _ := strings.Cut(b, "=")
			return strings.Compare(x, y)
		})
		slices.SortStableFunc(have, func(a, b string) int {
			x, _, _ := strings.Cut(a, "=")
			y, _, _ := strings.Cut(b, "=")
			return strings.Compare(x, y)
		})
		if !slices.Equal(want, have) {
			t.Errorf("headers %q became %q", want, have)
		}
	}
}

func TestMessagesBecomeRecords(t *testing.T) {
	c := converterFor(t, &Spec{FromStream: "S"})
	at := time.UnixMilli(1_700_000_000_000)
	h := nats.Header{"X": {"1", "2"}, nats.MsgIdHdr: {"id"}, "Nats-Expected-Stream": {"S"}, "Nats-TTL": {"5s"}}
	r, err := c.record(&message{subject: "a.b", header: h, data: []byte("v"), seq: 5, time: at, reply: "r"})
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, x := range r.Headers {
		all = append(all, x.Key+"="+string(x.Value))
	}
	want := []string{"Nats-Msg-Id=id", "X=1", "X=2", "balsa.nats.stream=S", "balsa.nats.seq=5", "balsa.nats.subject=a.b", "balsa.nats.reply=r", "Balsa-Bridges=c/b"}
	if !slices.Equal(all, want) || string(r.Key) != "a.b" || !r.Timestamp.Equal(at) {
		t.Errorf("%q, key %q, %v", all, r.Key, r.Timestamp)
	}
	// A deletion in a key-value bucket is a tombstone.
	for _, op := range []string{"DEL", "PURGE"} {
		if r, err = c.record(&message{subject: "$KV.b.k", header: nats.Header{kvOperation: {op}}, data: nil, seq: 5, time: at}); err != nil || r.Value != nil {
			t.Errorf("%s: %q, %v", op, r.Value, err)
		}
	}
	// An empty message is none.
	if r, err = c.record(&message{subject: "a", seq: 5, time: at}); err != nil || r.Value == nil {
		t.Errorf("an empty message has become a tombstone: %v", err)
	}
	keyless := converterFor(t, &Spec{FromStream: "S", Key: noKey})
	if r, err = keyless.record(&message{subject: "a", seq: 5, time: at}); err != nil || r.Key != nil {
		t.Errorf("a key where there is to be none: %q, %v", r.Key, err)
	}
}

func TestLoopsAreCut(t *testing.T) {
	for _, tc := range []struct {
		skip   []string
		passed []string
		drop   bool
	}{
		{nil, nil, false},
		{nil, []string{"c/other"}, false},
		{nil, []string{"c/other", "c/b"}, true},
		{nil, []string{"elsewhere/b"}, false},
		{[]string{"other"}, []string{"c/other"}, true},
		{[]string{"c/other"}, []string{"c/other"}, true},
		{[]string{"*"}, []string{"x/y"}, true},
		{[]string{"*"}, nil, false},
	} {
		c := converterFor(t, &Spec{FromStream: "S", Skip: tc.skip})
		_, err := c.record(&message{subject: "a", header: nats.Header{headerBridges: tc.passed}, seq: 1})
		if errors.Is(err, errSkip) != tc.drop || !tc.drop && err != nil {
			t.Errorf("%v past %v into a stream's reader: %v", tc.passed, tc.skip, err)
		}
		c = converterFor(t, &Spec{FromTopic: "t", Subject: "s", Skip: tc.skip})
		r := &kgo.Record{}
		for _, p := range tc.passed {
			r.Headers = append(r.Headers, kgo.RecordHeader{Key: headerBridges, Value: []byte(p)})
		}
		m, err := c.message(r, "id", anywhere)
		if errors.Is(err, errSkip) != tc.drop || !tc.drop && err != nil {
			t.Errorf("%v past %v into a stream: %v", tc.passed, tc.skip, err)
		}
		if err == nil && !slices.Equal(m.Header[headerBridges], append(slices.Clone(tc.passed), "c/b")) {
			t.Errorf("it has passed %q", m.Header[headerBridges])
		}
	}
}

func TestWhatIsTooLarge(t *testing.T) {
	out := converterFor(t, &Spec{FromTopic: "t", Subject: "s"})
	if _, err := out.message(&kgo.Record{Value: make([]byte, 1000)}, "id", &outlet{subjects: []string{"s"}, maxBytes: 1000}); err == nil {
		t.Error("a message larger than the server takes")
	}
	if _, err := out.message(&kgo.Record{Headers: []kgo.RecordHeader{{Key: "h", Value: bytes.Repeat([]byte("x"), maxHeaderBytes)}}}, "id", anywhere); err == nil {
		t.Error("headers larger than JetStream takes")
	}
	if _, err := out.message(&kgo.Record{}, "id", &outlet{subjects: []string{"a.>", "*.s", "ss"}}); err == nil {
		t.Error("a subject that the stream does not take")
	}
	in := converterFor(t, &Spec{FromStream: "S"})
	m := &message{subject: "a", data: make([]byte, 1000), seq: 3, header: nats.Header{"X": {"1"}}}
	if r := in.deadMessage(m, errors.New("why"), 500); r.Value != nil || recordBytes(r) > 500 {
		t.Errorf("the dead letter has %d bytes", recordBytes(r))
	}
	r := in.deadMessage(m, errors.New("why"), 5000)
	if reason, _ := find(r.Headers, headerReason); len(r.Value) != 1000 || reason != "why" {
		t.Errorf("%d bytes, reason %q", len(r.Value), reason)
	}
}

// A dead letter must fit into its topic, or the bridge could never pass the record: a source may take larger ones.
func TestDeadRecordsFit(t *testing.T) {
	c := converterFor(t, &Spec{FromTopic: "t", Subject: "s"})
	big := bytes.Repeat([]byte("x"), 900)
	for _, r := range []*kgo.Record{
		{Key: []byte("k"), Value: big},
		{Key: []byte("k"), Headers: []kgo.RecordHeader{{Key: "h", Value: big}}},
		{Key: big},
	} {
		r.Topic, r.Offset = "t", 7
		dead := c.deadRecord(r, errors.New("why"), 1000)
		place, _ := find(dead.Headers, headerPlace)
		if n := recordBytes(dead); n > 1000 || place != "t/0/7" {
			t.Errorf("a dead letter of %d bytes, of %q", n, place)
		}
	}
	r := c.deadRecord(&kgo.Record{Key: []byte("k"), Value: []byte("v")}, errors.New(strings.Repeat("ü", 10_000)), 5000)
	if reason, _ := find(r.Headers, headerReason); len(reason) > maxReason || string(r.Value) != "v" || string(r.Key) != "k" {
		t.Errorf("key %q, value %q, a reason of %d bytes", r.Key, r.Value, len(reason))
	}
}

// Whatever a server sends, a record is made of it or not, and what is made can be written.
func FuzzMessage(f *testing.F) {
	f.Add("a.b", []byte("NATS/1.0\r\nA: 1\r\nA: 2\r\nBalsa-Encoded: %41\r\n%41: %0\r\nBalsa-Timestamp: -1\r\n\r\n"), []byte("v"))
	f.Add("", []byte("NATS/1.0\r\n\r\n"), []byte(nil))
	s := &Spec{FromStream: "S", Key: "{subject[1]}{header:A}"}
	f.Fuzz(func(t *testing.T, subject string, raw, data []byte) {
		h, err := nats.DecodeHeadersMsg(raw)
		if err != nil {
			return
		}
		r, err := converterFor(t, s).record(&message{subject: subject, header: h, data: data, seq: 1, time: time.Now()})
		if err != nil {
			return
		}
		if n := len(r.Headers); n > maxHeaders+5 || recordBytes(r) < len(r.Key)+len(r.Value) {
			t.Fatalf("%d headers, %d bytes", n, recordBytes(r))
		}
	})
}

// Whatever headers a record has, they can be written as NATS's, and are read back as they were.
func FuzzHeaders(f *testing.F) {
	f.Add("a", []byte("1"), "b c", []byte("\r\n"))
	f.Add("", []byte(nil), "%", []byte("%"))
	f.Fuzz(func(t *testing.T, k1 string, v1 []byte, k2 string, v2 []byte) {
		in := []kgo.RecordHeader{{Key: k1, Value: v1}, {Key: k2, Value: v2}}
		for _, h := range in {
			if strings.HasPrefix(h.Key, natsPrefix) || strings.HasPrefix(h.Key, "Balsa-") {
				return // ours, or JetStream's
			}
		}
		back, err := decodeHeaders(overTheWire(t, &nats.Msg{Header: encodeHeaders(in)}))
		if err != nil {
			t.Fatal(err)
		}
		want, have := plainHeaders(in), plainHeaders(back)
		slices.Sort(want)
		slices.Sort(have)
		if !slices.Equal(want, have) {
			t.Fatalf("%q became %q", want, have)
		}
	})
}

func TestCovers(t *testing.T) {
	for _, tc := range []struct {
		filter, subject string
		want            bool
	}{
		{"a", "a", true}, {"a", "b", false}, {"a", "a.b", false}, {"a.b", "a", false}, {"a.*", "a.b", true}, {"a.*", "a.b.c", false}, {"a.*", "a", false},
		{"a.>", "a.b.c", true}, {"a.>", "a", false}, {">", "a", true}, {"*.b", "a.b", true}, {"*.b", "a.c", false},
	} {
		if got := covers(tc.filter, tc.subject); got != tc.want {
			t.Errorf("%s covers %s: %v", tc.filter, tc.subject, got)
		}
	}
}

// Tests of records as JSON lines: what `consume -o json` prints, `produce -i json` makes the same record of again.

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/balsamq/balsa/client"
)

// randomBytes are null, empty, text, what looks like an escape, or no text at all.
func randomBytes(r *rand.Rand) []byte {
	switch r.IntN(6) {
	case 0:
		return nil
	case 1:
		return []byte{}
	case 2:
		return []byte([]string{"plain", "\x00\x1f\u2028<&>", "\\ud800 \"quoted\"", "väl\u00fce 🪵", "\ufffd", "null"}[r.IntN(6)])
	case 3:
		return []byte("half \xed\xa0\x80 a surrogate, \xff")
	}
	b := make([]byte, r.IntN(40))
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

func randomRecord(r *rand.Rand) *kgo.Record {
	out := &kgo.Record{Key: randomBytes(r), Value: randomBytes(r), Partition: r.Int32N(3), Timestamp: time.UnixMilli(r.Int64N(2e12) - 1e11)}
	for range r.IntN(4) {
		name := string(randomBytes(r))
		if r.IntN(2) == 0 {
			name = "again"
		}
		out.Headers = append(out.Headers, kgo.RecordHeader{Key: name, Value: randomBytes(r)})
	}
	return out
}

// same says how two records differ in what a line holds; null is not empty.
func same(x, y *kgo.Record) string {
	show := func(r *kgo.Record) string {
		return fmt.Sprintf("partition %d, %d ms, key %#v, value %#v, headers %#v", r.Partition, r.Timestamp.UnixMilli(), r.Key, r.Value, r.Headers)
	}
	if a, b := show(x), show(y); a != b {
		return a + "\nbecame\n" + b
	}
	return ""
}

func TestRecordLines(t *testing.T) {
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 1))
	for range 2000 {
		before := randomRecord(r)
		line, err := json.Marshal(recordView(before))
		if err != nil {
			t.Fatal(err)
		}
		after, partition, err := readRecord(line)
		if err != nil {
			t.Fatalf("seed %d: %s: %v", seed, line, err)
		}
		if after.Partition = partition; same(before, after) != "" {
			t.Fatalf("seed %d: %s\n%s", seed, line, same(before, after))
		}
	}
}

// Out of one topic and into another through the two commands: every record is the same, in order, in its partition.
func TestJSONRoundTrip(t *testing.T) {
	c, addrs := fakeCluster(t, kfake.SeedTopics(3, "from", "to"))
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 2))
	p, err := client.NewProducer(t.Context(), client.ProducerConfig{Config: client.Config{Brokers: addrs}, Topic: "from", ManualPartitions: true})
	if err != nil {
		t.Fatal(err)
	}
	const n = 500
	for range n {
		p.ProduceAsync(t.Context(), randomRecord(r), nil)
	}
	if err := p.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	c.in = strings.NewReader(c.must("consume", "from", "-e", "-o", "json"))
	if out := c.must("produce", "to", "-i", "json", "--keep-partition", "--dry-run"); !strings.HasPrefix(out, "500 records would be written to to, ") {
		t.Errorf("dry run: %q", out)
	}
	c.in = strings.NewReader(c.must("consume", "from", "-e", "-o", "json"))
	if out := c.must("produce", "to", "-i", "json", "--keep-partition"); !strings.HasPrefix(out, "500 records written to to, ") {
		t.Errorf("produce: %q", out)
	}
	read := func(topic string) map[int32][]*kgo.Record {
		out := make(map[int32][]*kgo.Record)
		co, err := client.NewConsumer(t.Context(), client.ConsumerConfig{Config: client.Config{Brokers: addrs}, Topics: []string{topic}, StopAtEnd: true})
		if err != nil {
			t.Fatal(err)
		}
		defer co.Close(t.Context())
		if err := co.Each(t.Context(), func(r *kgo.Record) error {
			out[r.Partition] = append(out[r.Partition], r)
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		return out
	}
	from, to := read("from"), read("to")
	for p, before := range from {
		if len(before) != len(to[p]) {
			t.Fatalf("seed %d: partition %d: %d records became %d", seed, p, len(before), len(to[p]))
		}
		for i := range before {
			if diff := same(before[i], to[p][i]); diff != "" {
				t.Fatalf("seed %d: %s", seed, diff)
			}
		}
	}
	if len(from[0])+len(from[1])+len(from[2]) != n {
		t.Fatalf("%d records were there", len(from))
	}
}

// A line that is no record ends produce with its number, what is wrong and how to mend it; what stands before it is written, and nothing behind it.
func TestBadRecordLines(t *testing.T) {
	c, _ := fakeCluster(t, kfake.SeedTopics(2, "t"))
	var b strings.Builder
	written := 0
	for _, line := range []string{
		`{`, `{"value":"a"}{"value":"b"}`, `value`, `[1]`, `null`, `{}`, `{"key":"k"}`, `{"vlaue":"v"}`, `{"Value":"v"}`, `{"value":"a","value":"b"}`,
		`{"value":{"a":1}}`, `{"value":7}`, `{"value":"v","valueBase64":"dg=="}`, `{"valueBase64":"dg"}`, `{"valueBase64":"dh=="}`, `{"value":"` + "\xff" + `"}`, `{"value":"\ud83e"}`, `{"value":"\udeb5\ud83e"}`,
		`{"value":"v","headers":{"a":"b"}}`, `{"value":"v","headers":["a"]}`, `{"value":"v","headers":[{"value":"1"}]}`, `{"value":"v","headers":[{"name":"a"}]}`, `{"value":"v","headers":[{"name":"a","vale":"1"}]}`,
		`{"value":"v","timestamp":"yesterday"}`, `{"value":"v","timestamp":1.5}`, `{"value":"v","timestamp":"9999-01-01T00:00:00Z"}`,
		`{"value":"v","partition":-1}`, `{"value":"v","partition":"0"}`, `{"value":"v","partition":2}`, `{"value":"v"}`, `{"value":"v","partition":0,"offset":"x"}`, `{"value":"v","topic":1,"partition":0}`,
	} {
		c.in = strings.NewReader(`{"value":"before","partition":1}` + "\n\n" + line + "\n" + `{"value":"behind","partition":1}` + "\n")
		code, out, errText := c.run("produce", "t", "-i", "json", "--keep-partition")
		if written++; code != exitFailure || !strings.HasPrefix(out, "1 record written") {
			t.Errorf("%s: exit code %d\n%s%s", line, code, out, errText)
		}
		b.WriteString(fmt.Sprintf("%q\n", line) + errText + "\n")
	}
	golden(t, "bad-records.txt", b.String())
	if out := c.must("consume", "t", "-e"); out != strings.Repeat("before\n", written) {
		t.Errorf("%d lines were written instead of %d:\n%s", strings.Count(out, "\n"), written, out)
	}
	for _, args := range [][]string{{"--keep-partition"}, {"-i", "json", "-K", "="}, {"-i", "json", "--keep-partition", "-p", "0"}} {
		if code, _, errText := c.run(append([]string{"produce", "t"}, args...)...); code != exitUsage {
			t.Errorf("%v: exit code %d\n%s", args, code, errText)
		}
	}
	// Without a partition to keep, what is missing is filled in; a header of the command's comes behind the line's own.
	c.in = strings.NewReader(`{"value":"last","headers":[{"name":"a","value":null}],"timestamp":1772366400007}` + "\n")
	c.must("produce", "t", "-i", "json", "-p", "0", "-H", "a=2")
	if out := c.must("consume", "t", "-e", "-p", "0", "-f", `%s %h %T %K\n`); out != "last a=,a=2 1772366400007 -1\n" {
		t.Errorf("consume: %q", out)
	}
}

// What a program on Windows puts before a text is no part of the first record. In lines of bytes it may be meant.
func TestByteOrderMark(t *testing.T) {
	c, _ := fakeCluster(t, kfake.SeedTopics(1, "t"))
	c.in = strings.NewReader("\xef\xbb\xbf" + `{"value":"one"}` + "\n" + `{"value":"two"}` + "\n")
	c.must("produce", "t", "-i", "json")
	c.in = strings.NewReader("\xef\xbb\xbfthree\n")
	c.must("produce", "t")
	if out := c.must("consume", "t", "-e"); out != "one\ntwo\n\xef\xbb\xbfthree\n" {
		t.Errorf("consume: %q", out)
	}
	c.in = strings.NewReader(`{"value":"one"}` + "\n\xef\xbb\xbf" + `{"value":"two"}` + "\n")
	if code, _, errText := c.run("produce", "t", "-i", "json"); code != exitFailure || !strings.Contains(errText, "line 2") {
		t.Errorf("in the middle: exit code %d\n%s", code, errText)
	}
}

// FuzzReadRecord: whatever a line is, it is refused, or a record that goes to a line and back.
func FuzzReadRecord(f *testing.F) {
	for _, s := range []string{`{"value":"v","key":null,"headers":[{"name":"a","value":null},{"nameBase64":"/w==","value":""}],"timestamp":"2026-03-01T12:00:00.007Z","partition":3}`,
		`{"valueBase64":"/wA=","value":null,"offset":7,"topic":"t","timestamp":0}`, `{"value":"\ud83e\udeb5\\ud83e"}`, `{`, `[`, `{"value":"\u`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		r, partition, err := readRecord(line)
		if err != nil {
			if r != nil {
				t.Fatal("a record, and an error")
			}
			return
		}
		r.Partition = max(partition, 0)
		again, err := json.Marshal(recordView(r))
		if err != nil {
			t.Fatal(err)
		}
		if r.Timestamp.IsZero() {
			again = bytes.Replace(again, []byte(`"0001-01-01T00:00:00.000Z"`), []byte("null"), 1)
		}
		back, p, err := readRecord(again)
		if err != nil {
			t.Fatalf("%s: %v", again, err)
		}
		back.Partition = p
		if diff := same(r, back); diff != "" || !reflect.DeepEqual(r.Headers, back.Headers) {
			t.Fatalf("%s\n%s", again, diff)
		}
	})
}

// Seek, Pause, Lag and Records against a real broker: by every way of consuming, alone and in a group.

package client_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/balsamq/balsa/brokertest"
	"github.com/balsamq/balsa/client"
)

func consumer(t *testing.T, cfg client.ConsumerConfig) *client.Consumer {
	t.Helper()
	c, err := client.NewConsumer(ctx(t), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(context.Background()) })
	return c
}

// pollN polls until it has n records, or all until io.EOF if n is negative.
func pollN(t *testing.T, c *client.Consumer, n int) (out []string) {
	t.Helper()
	for n < 0 || len(out) < n {
		rs, err := c.Poll(ctx(t), max(n-len(out), 0))
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("after %q: %v", out, err)
		}
		for _, r := range rs {
			out = append(out, string(r.Value))
		}
	}
	return out
}

var starts = []struct {
	name  string
	start client.Start
	first int // of 100
}{
	{"beginning", client.FromBeginning(), 0},
	{"offset", client.FromOffset(70), 70},
	{"an offset that does not exist", client.FromOffset(1 << 40), 100},
	{"tail", client.FromTail(3), 97},
	{"a longer tail than there is", client.FromTail(1000), 0},
	{"time of a record", client.FromTime(time.Unix(1_000_042, 0)), 42},
	{"time between two records", client.FromTime(time.UnixMilli(1_000_042_001)), 43},
	{"time before all", client.FromTime(time.Unix(5, 0)), 0},
	{"time after all", client.FromTime(time.Unix(2_000_000, 0)), 100},
	{"end", client.FromEnd(), 100},
}

// A consumer that is in the middle of a partition goes where Seek says, and on from there.
func TestSeek(t *testing.T) {
	t.Parallel()
	b := brokertest.Start(t, brokertest.Topic("t", 2))
	fill(t, b.Config(), "t", 0, 100)
	for i, tc := range starts {
		for _, group := range []string{"", fmt.Sprint("g", i)} {
			t.Run(tc.name+" "+group, func(t *testing.T) {
				c := consumer(t, client.ConsumerConfig{Config: b.Config(), Topics: []string{"t"}, Group: group})
				if got := pollN(t, c, 10); !slices.Equal(got, numbers(0, 10)) {
					t.Fatalf("%q", got)
				}
				if err := c.Seek(ctx(t), "t", 0, tc.start); err != nil {
					t.Fatal(err)
				}
				if tc.first == 100 { // nothing is left: it waits
					short, cancel := context.WithTimeout(ctx(t), 100*time.Millisecond)
					defer cancel()
					if rs, err := c.Poll(short, 0); !errors.Is(err, context.DeadlineExceeded) {
						t.Fatalf("%d records, %v", len(rs), err)
					}
				} else if got := pollN(t, c, 1); got[0] != strconv.Itoa(tc.first) {
					t.Fatalf("%q", got)
				}
				if group == "" {
					if got := pollN(t, c, max(99-tc.first, 0)); !slices.Equal(got, numbers(tc.first+1, 100)) {
						t.Fatalf("%q", got)
					}
					return
				}
				// What is committed has followed, forwards or backwards: the one record does not count yet.
				if err := c.Close(ctx(t)); err != nil {
					t.Fatal(err)
				}
				cfg := client.ConsumerConfig{Config: b.Config(), Topics: []string{"t"}, Group: group}
				if got := drainAll(t, cfg); !slices.Equal(got, numbers(tc.first, 100)) {
					t.Fatalf("afterwards %q", got)
				}
			})
		}
	}
}

// A seek that comes before the first record counts, wherever franz-go is by then.
func TestSeekBeforeTheFirstRecord(t *testing.T) {
	b := brokertest.Start(t, brokertest.Topic("t", 1))
	fill(t, b.Config(), "t", 0, 100)
	for i, tc := range []struct{ from, to, first int }{{0, 70, 70}, {70, 20, 20}, {100, 0, 0}, {100, 99, 99}} {
		for _, group := range []string{"", fmt.Sprint("g", i)} {
			t.Run(fmt.Sprint(tc.from, " to ", tc.to, group), func(t *testing.T) {
				c := consumer(t, client.ConsumerConfig{Config: b.Config(), Topics: []string{"t"}, Group: group, From: client.FromOffset(int64(tc.from))})
				err := c.Seek(ctx(t), "t", 0, client.FromOffset(int64(tc.to)))
				for group != "" && errors.Is(err, client.ErrInvalid) { // not assigned yet
					soon, cancel := context.WithTimeout(ctx(t), 5*time.Millisecond)
					_, perr := c.Poll(soon, 1)
					cancel()
					if perr == nil && tc.from < 100 {
						t.Skip("it had a record already")
					}
					err = c.Seek(ctx(t), "t", 0, client.FromOffset(int64(tc.to)))
				}
				if err != nil {
					t.Fatal(err)
				}
				if got := pollN(t, c, 100-tc.first); !slices.Equal(got, numbers(tc.first, 100)) {
					t.Fatalf("%q", got)
				}
			})
		}
	}
	if err := consumer(t, client.ConsumerConfig{Config: b.Config(), Partitions: map[string]map[int32]client.Start{"t": {0: client.FromEnd()}}}).
		Seek(ctx(t), "t", 1, client.FromBeginning()); !errors.Is(err, client.ErrInvalid) {
		t.Errorf("a seek in a partition that is not read: %v", err)
	}
}

// Handlers that seek: the record after the one that they have is the one that they asked for, whatever was polled with it.
func TestSeekWhileProcessing(t *testing.T) {
	b := brokertest.Start(t, brokertest.Topic("t", 1))
	fill(t, b.Config(), "t", 0, 100)
	want := slices.Concat(numbers(0, 11), numbers(50, 61), numbers(20, 100))
	seeks := map[int]int64{10: 50, 21: 20} // after so many records
	type handler func(*kgo.Record) error
	for i, way := range []struct {
		name string
		cfg  client.RunConfig
		call func(context.Context, *client.Consumer, handler) error
	}{
		{"Each", client.RunConfig{}, func(ctx context.Context, c *client.Consumer, h handler) error { return c.Each(ctx, h) }},
		{"Records", client.RunConfig{}, func(ctx context.Context, c *client.Consumer, h handler) error {
			for r, err := range c.Records(ctx) {
				if err == nil {
					err = h(r)
				}
				if err != nil {
					return err
				}
			}
			return nil
		}},
		{"Run", client.RunConfig{}, func(ctx context.Context, c *client.Consumer, h handler) error {
			return c.Run(ctx, func(_ context.Context, r *kgo.Record) error { return h(r) })
		}},
		// Two at a time, of which one waits for the other: all records have the same key.
		{"Run with workers", client.RunConfig{Concurrency: 2}, func(ctx context.Context, c *client.Consumer, h handler) error {
			return c.Run(ctx, func(_ context.Context, r *kgo.Record) error { return h(r) })
		}},
	} {
		topic := "t"
		if way.cfg.Concurrency > 1 {
			topic = "keyed"
			if _, err := must(client.NewAdmin(ctx(t), b.Config())).CreateTopic(ctx(t), client.TopicSpec{Name: topic, Partitions: 1}); err != nil {
				t.Fatal(err)
			}
			p := producer(t, client.ProducerConfig{Config: b.Config(), Topic: topic})
			for i := range 100 {
				p.ProduceAsync(ctx(t), &kgo.Record{Key: []byte("k"), Value: []byte(strconv.Itoa(i))}, nil)
			}
			if err := p.Flush(ctx(t)); err != nil {
				t.Fatal(err)
			}
		}
		for _, group := range []string{"", fmt.Sprint("h", i)} {
			t.Run(way.name+" "+group, func(t *testing.T) {
				c := consumer(t, client.ConsumerConfig{Config: b.Config(), Topics: []string{topic}, Group: group, Run: way.cfg})
				var got []string
				var mu sync.Mutex
				ctx := ctx(t)
				err := way.call(ctx, c, func(r *kgo.Record) error {
					mu.Lock()
					defer mu.Unlock()
					if to, ok := seeks[len(got)]; ok {
						if err := c.Seek(ctx, topic, 0, client.FromOffset(to)); err != nil {
							return client.Permanent(err)
						}
					}
					if got = append(got, string(r.Value)); len(got) == len(want) {
						return client.ErrStop
					}
					return nil
				})
				if err != nil && !errors.Is(err, client.ErrStop) || !slices.Equal(got, want) {
					t.Fatalf("%v\n%q", err, got)
				}
			})
		}
	}
}

// With StopAtEnd a seek begins the partition again, up to where it ends now.
func TestSeekWithStopAtEnd(t *testing.T) {
	b := brokertest.Start(t, brokertest.Topic("t", 2))
	fill(t, b.Config(), "t", 0, 20)
	for _, group := range []string{"", "g"} {
		c := consumer(t, client.ConsumerConfig{Config: b.Config(), Topics: []string{"t"}, Group: group, StopAtEnd: true})
		if got := pollN(t, c, -1); len(got) != 20 {
			t.Fatalf("%q", got)
		}
		if err := c.Seek(ctx(t), "t", 0, client.FromTail(5)); err != nil {
			t.Fatal(err)
		}
		if got := pollN(t, c, -1); !slices.Equal(got, numbers(15, 20)) {
			t.Fatalf("group %q: %q", group, got)
		}
	}
}

func TestPause(t *testing.T) {
	b := brokertest.Start(t, brokertest.Topic("t", 2))
	for _, group := range []string{"", "g"} {
		t.Run(group, func(t *testing.T) {
			c := consumer(t, client.ConsumerConfig{Config: b.Config(), Topics: []string{"t"}, Group: group, From: client.FromEnd()})
			p := producer(t, client.ProducerConfig{Config: b.Config(), Topic: "t", ManualPartitions: true})
			write := func(partition int32, value string) {
				t.Helper()
				if err := p.Produce(ctx(t), &kgo.Record{Partition: partition, Value: []byte(value)}); err != nil {
					t.Fatal(err)
				}
			}
			// It has both partitions once a record of each has come.
			for have := map[int32]bool{}; len(have) < 2; {
				write(0, "x")
				write(1, "x")
				soon, cancel := context.WithTimeout(ctx(t), 20*time.Millisecond)
				rs, err := c.Poll(soon, 0)
				cancel()
				if err != nil && !errors.Is(err, context.DeadlineExceeded) {
					t.Fatal(err)
				}
				for _, r := range rs {
					have[r.Partition] = true
				}
			}
			c.Pause("t", 1)
			write(1, "one")
			write(0, "zero")
			next := func() string {
				t.Helper()
				for {
					if got := pollN(t, c, 1); got[0] != "x" {
						return got[0]
					}
				}
			}
			if got := next(); got != "zero" {
				t.Fatalf("%q came though its partition is paused", got)
			}
			write(0, "zero again") // a second fetch brings no more than the first
			if got := next(); got != "zero again" {
				t.Fatalf("%q came though its partition is paused", got)
			}
			c.Pause("t")
			c.Resume("t") // of its partitions as well
			if got := next(); got != "one" {
				t.Fatalf("%q came after the pause", got)
			}
		})
	}
}

func TestLag(t *testing.T) {
	b := brokertest.Start(t, brokertest.Topic("t", 2))
	fill(t, b.Config(), "t", 0, 40)
	fill(t, b.Config(), "t", 1, 10)
	lag := func(c *client.Consumer) string {
		t.Helper()
		all, err := c.Lag(ctx(t))
		if err != nil {
			t.Fatal(err)
		}
		out := ""
		for _, l := range all {
			out += fmt.Sprintf("%s/%d %d to %d: %d; ", l.Topic, l.Partition, l.Next, l.End, l.Records())
		}
		return out
	}
	check := func(c *client.Consumer, want string) {
		t.Helper()
		if got := lag(c); got != want {
			t.Fatalf("lag is %q, not %q", got, want)
		}
	}

	c := consumer(t, client.ConsumerConfig{Config: b.Config(), Topics: []string{"t"}, From: client.FromTail(15)})
	check(c, "t/0 25 to 40: 15; t/1 0 to 10: 10; ")
	pollN(t, c, 25)
	check(c, "t/0 40 to 40: 0; t/1 10 to 10: 0; ")
	if err := c.Seek(ctx(t), "t", 1, client.FromOffset(4)); err != nil {
		t.Fatal(err)
	}
	pollN(t, c, 1)
	check(c, "t/0 40 to 40: 0; t/1 5 to 10: 5; ")

	c = consumer(t, client.ConsumerConfig{Config: b.Config(), Partitions: map[string]map[int32]client.Start{"t": {1: client.FromTime(time.Unix(1_000_007, 0))}}})
	check(c, "t/1 7 to 10: 3; ")

	// In a group: what another member has committed, and only partitions that are ours.
	cfg := client.ConsumerConfig{Config: b.Config(), Topics: []string{"t"}, Group: "g"}
	c = consumer(t, cfg)
	got := lag(c)
	for _, all := range []string{"t/0 0 to 40: 40; ", "t/1 0 to 10: 10; "} { // it may be a member by now, or not
		got = strings.Replace(got, all, "", 1)
	}
	if got != "" {
		t.Fatalf("the lag of what is not read yet is %q", got)
	}
	n := 0
	if err := c.Each(ctx(t), func(*kgo.Record) error {
		if n++; n == 12 {
			return client.ErrStop
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if err := c.Close(ctx(t)); err != nil {
		t.Fatal(err)
	}
	c = consumer(t, cfg)
	pollN(t, c, 38)
	if err := c.Commit(ctx(t)); err != nil {
		t.Fatal(err)
	}
	check(c, "t/0 40 to 40: 0; t/1 10 to 10: 0; ")
}

// The iterator: what a loop has been given counts as processed when it asks for more, or breaks.
func TestRecords(t *testing.T) {
	b := brokertest.Start(t, brokertest.Topic("t", 1))
	fill(t, b.Config(), "t", 0, 30)
	cfg := client.ConsumerConfig{Config: b.Config(), Topics: []string{"t"}, Group: "g", StopAtEnd: true}
	c := consumer(t, cfg)
	var got []string
	take := func(c *client.Consumer, n int) {
		t.Helper()
		for r, err := range c.Records(ctx(t)) {
			if err != nil {
				t.Fatal(err)
			}
			if got = append(got, string(r.Value)); len(got) == n {
				break
			}
		}
	}
	take(c, 5)
	take(c, 12) // goes on where it was left
	if !slices.Equal(got, numbers(0, 12)) {
		t.Fatalf("%q", got)
	}
	if err := c.Close(ctx(t)); err != nil {
		t.Fatal(err)
	}
	c = consumer(t, cfg)
	take(c, -1)
	if !slices.Equal(got, numbers(0, 30)) {
		t.Fatalf("the next member: %q", got)
	}

	cfg.StopAtEnd = false
	c = consumer(t, cfg)
	ended, cancel := context.WithCancel(ctx(t))
	cancel()
	errs := 0
	for r, err := range c.Records(ended) {
		if errs++; r != nil || !errors.Is(err, context.Canceled) {
			t.Fatal(r, err)
		}
	}
	if errs != 1 {
		t.Fatalf("a loop whose context has ended saw %d errors", errs)
	}
}

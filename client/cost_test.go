// What the SDK costs beside plain franz-go, in CPU per record: one and the other in turn, against a broker in a process of its own.
//
//	go test ./client -run '^$' -bench BesideFranzGo -benchtime 9x
//
// makes nine rounds of each kind and prints the medians, and the median of the rounds' ratios.

package client_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/balsamq/balsa/brokertest"
	"github.com/balsamq/balsa/client"
)

const (
	costEnv     = "BALSA_COST_BROKER" // makes the test binary a broker
	costRecords = 1_000_000           // of a round
	costValue   = 100                 // bytes
	costParts   = 4
)

// TestMain is the tests, or the broker that a benchmark has started.
func TestMain(m *testing.M) {
	if os.Getenv(costEnv) == "" {
		os.Exit(m.Run())
	}
	c, err := brokertest.New(context.Background(), 1, brokertest.Topic("in", costParts))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(c.Addrs()[0])
	_, _ = io.Copy(io.Discard, os.Stdin) // until who has started it ends
	_ = c.Close()
}

// otherBroker starts a broker in another process.
func otherBroker(b *testing.B) client.Config {
	b.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), costEnv+"=1")
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		in.Close()
		_ = cmd.Wait()
	})
	addr, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		b.Fatal(err)
	}
	return client.Config{Brokers: []string{strings.TrimSpace(addr)}}
}

// cpu is what this process has used.
func cpu(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// beside makes rounds of plain franz-go and of the SDK in turn. Each returns what it has used for costRecords records.
func beside(b *testing.B, plain, sdk func() time.Duration) {
	var plains, sdks, ratios []float64
	per := func(d time.Duration) float64 { return float64(d.Nanoseconds()) / costRecords }
	for round := range b.N {
		var p, s time.Duration
		runtime.GC()
		if round%2 == 0 {
			p = plain()
			runtime.GC()
			s = sdk()
		} else {
			s = sdk()
			runtime.GC()
			p = plain()
		}
		plains, sdks, ratios = append(plains, per(p)), append(sdks, per(s)), append(ratios, float64(s)/float64(p))
	}
	median := func(v []float64) float64 {
		slices.Sort(v)
		return (v[(len(v)-1)/2] + v[len(v)/2]) / 2
	}
	b.ReportMetric(0, "ns/op") // left out
	b.ReportMetric(median(plains), "franz-go-ns/record")
	b.ReportMetric(median(sdks), "sdk-ns/record")
	b.ReportMetric(median(ratios), "ratio")
}

func BenchmarkBesideFranzGo(b *testing.B) {
	cfg := otherBroker(b)
	ctx := context.Background()
	value := make([]byte, costValue)
	run := 0 // rounds so far: names are taken once
	filled := false
	fill := func(b *testing.B) {
		if filled {
			return
		}
		filled = true
		p, err := client.NewProducer(ctx, client.ProducerConfig{Config: cfg, Topic: "in"})
		if err != nil {
			b.Fatal(err)
		}
		for i := range costRecords {
			p.ProduceAsync(ctx, &kgo.Record{Key: strconv.AppendInt(nil, int64(i%1000), 10), Value: value}, nil)
		}
		if err := p.Close(ctx); err != nil {
			b.Fatal(err)
		}
	}

	// To write records and know whether all of them are: plain franz-go needs a callback for that, the SDK's Flush says it. Then with one that
	// looks at each record: the same for all, or a new closure for each.
	const (
		none = iota
		same
		each
	)
	for callback, name := range []string{none: "produce", same: "produce with a callback", each: "produce with a callback for each"} {
		b.Run(name, func(b *testing.B) {
			admin, err := client.NewAdmin(ctx, cfg)
			if err != nil {
				b.Fatal(err)
			}
			defer admin.Close()
			topic := func() (name string, remove func()) { // for each round: the disk shall not fill
				run++
				name = fmt.Sprint("out", run)
				if _, err := admin.CreateTopic(ctx, client.TopicSpec{Name: name, Partitions: costParts}); err != nil {
					b.Fatal(err)
				}
				return name, func() {
					if err := admin.DeleteTopic(ctx, name); err != nil {
						b.Fatal(err)
					}
				}
			}
			look := func(_ *kgo.Record, err error) {
				if err != nil {
					b.Error(err)
				}
			}
			plain := func() time.Duration {
				out, remove := topic()
				defer remove()
				before := cpu(b)
				cl, err := kgo.NewClient(kgo.SeedBrokers(cfg.Brokers...), kgo.DefaultProduceTopic(out), kgo.ProducerBatchCompression(kgo.NoCompression()), kgo.ProducerLinger(0),
					kgo.MaxBufferedRecords(client.DefaultMaxBufferedRecords), kgo.MaxBufferedBytes(client.DefaultMaxBufferedBytes))
				if err != nil {
					b.Fatal(err)
				}
				defer cl.Close()
				for i := range costRecords {
					done := look
					if callback == each {
						done = func(r *kgo.Record, err error) {
							if look(r, err); i < 0 {
								b.Error("no such record")
							}
						}
					}
					cl.Produce(ctx, &kgo.Record{Value: value}, done)
				}
				if err := cl.Flush(ctx); err != nil {
					b.Fatal(err)
				}
				return cpu(b) - before
			}
			sdk := func() time.Duration {
				out, remove := topic()
				defer remove()
				before := cpu(b)
				p, err := client.NewProducer(ctx, client.ProducerConfig{Config: cfg, Topic: out})
				if err != nil {
					b.Fatal(err)
				}
				defer p.Close(ctx)
				for i := range costRecords {
					var done func(*kgo.Record, error)
					switch callback {
					case same:
						done = look
					case each:
						done = func(r *kgo.Record, err error) {
							if look(r, err); i < 0 {
								b.Error("no such record")
							}
						}
					}
					p.ProduceAsync(ctx, &kgo.Record{Value: value}, done)
				}
				if err := p.Flush(ctx); err != nil {
					b.Fatal(err)
				}
				return cpu(b) - before
			}
			beside(b, plain, sdk)
		})
	}

	// A member of a group that looks at each record, and commits by timer. All that it uses counts, from the connection on: franz-go fetches
	// and decodes ahead.
	plainConsumer := func() time.Duration {
		run++
		before := cpu(b)
		cl, err := kgo.NewClient(kgo.SeedBrokers(cfg.Brokers...), kgo.ConsumeTopics("in"), kgo.ConsumerGroup(fmt.Sprint("plain", run)),
			kgo.ConsumeStartOffset(kgo.NewOffset().AtStart()), kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.FetchMaxBytes(16<<20), kgo.FetchMaxWait(500*time.Millisecond))
		if err != nil {
			b.Fatal(err)
		}
		defer cl.Close()
		for n := 0; n < costRecords; {
			fetches := cl.PollFetches(ctx)
			if err := fetches.Err(); err != nil {
				b.Fatal(err)
			}
			fetches.EachRecord(func(r *kgo.Record) {
				if n++; len(r.Value) != costValue {
					b.Errorf("a value of %d bytes", len(r.Value))
				}
			})
		}
		return cpu(b) - before
	}
	sdkConsumer := func(rc client.RunConfig, consume func(*client.Consumer, func(*kgo.Record) bool)) func() time.Duration {
		return func() time.Duration {
			run++
			before := cpu(b)
			c, err := client.NewConsumer(ctx, client.ConsumerConfig{Config: cfg, Topics: []string{"in"}, Group: fmt.Sprint("sdk", run), Run: rc})
			if err != nil {
				b.Fatal(err)
			}
			defer c.Close(ctx)
			n, after := 0, time.Duration(0)
			consume(c, func(r *kgo.Record) bool {
				if n++; len(r.Value) != costValue {
					b.Errorf("a value of %d bytes", len(r.Value))
				}
				if n == costRecords {
					after = cpu(b)
				}
				return n == costRecords
			})
			if n != costRecords {
				b.Fatalf("%d records", n)
			}
			return after - before
		}
	}
	for _, way := range []struct {
		name    string
		consume func(*client.Consumer, func(*kgo.Record) bool)
	}{
		{"consume by Run", func(c *client.Consumer, look func(*kgo.Record) bool) {
			if err := c.Run(ctx, func(_ context.Context, r *kgo.Record) error {
				if look(r) {
					return client.ErrStop
				}
				return nil
			}); err != nil {
				b.Error(err)
			}
		}},
		{"consume by Poll", func(c *client.Consumer, look func(*kgo.Record) bool) {
			for done := false; !done; {
				rs, err := c.Poll(ctx, 0)
				if err != nil {
					b.Error(err)
					return
				}
				for _, r := range rs {
					done = look(r)
				}
			}
		}},
		{"consume by Records", func(c *client.Consumer, look func(*kgo.Record) bool) {
			for r, err := range c.Records(ctx) {
				if err != nil {
					b.Error(err)
					return
				}
				if look(r) {
					return
				}
			}
		}},
	} {
		b.Run(way.name, func(b *testing.B) {
			fill(b)
			beside(b, plainConsumer, sdkConsumer(client.RunConfig{}, way.consume))
		})
	}
}

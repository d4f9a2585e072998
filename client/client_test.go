// Tests against franz-go's fake cluster: what this package adds to franz-go, not franz-go itself.

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
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/balsamq/balsa/brokertest"
	"github.com/balsamq/balsa/client"
)

func fake(t *testing.T, opts ...kfake.Opt) (*kfake.Cluster, client.Config) {
	t.Helper()
	c, err := kfake.NewCluster(append([]kfake.Opt{kfake.NumBrokers(3)}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c, client.Config{Brokers: c.ListenAddrs()}
}

func ctx(t *testing.T) context.Context {
	t.Helper()
	c, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	return c
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func producer(t *testing.T, cfg client.ProducerConfig) *client.Producer {
	t.Helper()
	p, err := client.NewProducer(ctx(t), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close(context.Background()) })
	return p
}

// fill writes n records with values 0 to n-1 to one partition, a second of timestamp apart from 1,000,000 s on.
func fill(t *testing.T, cfg client.Config, topic string, partition int32, n int) {
	t.Helper()
	p := producer(t, client.ProducerConfig{Config: cfg, ManualPartitions: true})
	rs := make([]*kgo.Record, n)
	for i := range rs {
		rs[i] = &kgo.Record{Topic: topic, Partition: partition, Value: []byte(strconv.Itoa(i)), Timestamp: time.Unix(1_000_000+int64(i), 0)}
	}
	if err := p.Produce(ctx(t), rs...); err != nil {
		t.Fatal(err)
	}
	for i, r := range rs {
		if r.Offset != int64(i) {
			t.Fatalf("record %d is at offset %d", i, r.Offset)
		}
	}
}

// drainAll polls until io.EOF and returns the values.
func drainAll(t *testing.T, cfg client.ConsumerConfig) []string {
	t.Helper()
	cfg.StopAtEnd = true
	c, err := client.NewConsumer(ctx(t), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(context.Background())
	var out []string
	for {
		rs, err := c.Poll(ctx(t), 7)
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		if len(rs) > 7 {
			t.Fatalf("Poll(7) returned %d records", len(rs))
		}
		for _, r := range rs {
			out = append(out, string(r.Value))
		}
	}
}

func numbers(from, to int) []string {
	var out []string
	for i := from; i < to; i++ {
		out = append(out, strconv.Itoa(i))
	}
	return out
}

func TestConsumerStarts(t *testing.T) {
	_, cfg := fake(t, kfake.SeedTopics(2, "t"))
	fill(t, cfg, "t", 0, 100)
	for _, tc := range []struct {
		name  string
		start client.Start
		want  []string
	}{
		{"beginning", client.FromBeginning(), numbers(0, 100)},
		{"end", client.FromEnd(), nil},
		{"offset", client.FromOffset(40), numbers(40, 100)},
		{"offset past the end", client.FromOffset(400), nil},
		{"tail", client.FromTail(3), numbers(97, 100)},
		{"tail longer than the log", client.FromTail(300), numbers(0, 100)},
		{"time", client.FromTime(time.Unix(1_000_050, 0)), numbers(50, 100)},
		{"time after the last", client.FromTime(time.Unix(2_000_000, 0)), nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := drainAll(t, client.ConsumerConfig{Config: cfg, Topics: []string{"t"}, From: tc.start}); !slices.Equal(got, tc.want) {
				t.Errorf("by topic: got %v, want %v", got, tc.want)
			}
			parts := map[string]map[int32]client.Start{"t": {0: tc.start}}
			if got := drainAll(t, client.ConsumerConfig{Config: cfg, Partitions: parts}); !slices.Equal(got, tc.want) {
				t.Errorf("by partition: got %v, want %v", got, tc.want)
			}
		})
	}
}

// Without StopAtEnd the starts go through another path: franz-go resolves them itself.
func TestConsumerFollows(t *testing.T) {
	_, cfg := fake(t, kfake.SeedTopics(1, "t"))
	fill(t, cfg, "t", 0, 10)
	for name, start := range map[string]client.Start{"tail": client.FromTail(2), "offset": client.FromOffset(8), "time": client.FromTime(time.Unix(1_000_008, 0))} {
		t.Run(name, func(t *testing.T) {
			c, err := client.NewConsumer(ctx(t), client.ConsumerConfig{Config: cfg, Topics: []string{"t"}, From: start})
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close(context.Background())
			var got []string
			err = c.Each(ctx(t), func(r *kgo.Record) error {
				if got = append(got, string(r.Value)); len(got) == 2 {
					return client.ErrStop
				}
				return nil
			})
			if err != nil || !slices.Equal(got, []string{"8", "9"}) {
				t.Fatalf("got %v, %v", got, err)
			}
		})
	}
	t.Run("context", func(t *testing.T) {
		c, err := client.NewConsumer(ctx(t), client.ConsumerConfig{Config: cfg, Topics: []string{"t"}, From: client.FromEnd()})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close(context.Background())
		short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		if _, err := c.Poll(short, 0); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("Poll with nothing to read returned %v", err)
		}
	})
}

// A group goes on where it stopped: a record that was processed is not seen again, one that was not is.
func TestGroupResumes(t *testing.T) {
	_, cfg := fake(t, kfake.SeedTopics(2, "t"))
	fill(t, cfg, "t", 0, 20)
	group := client.ConsumerConfig{Config: cfg, Topics: []string{"t"}, Group: "g", StopAtEnd: true}
	errBroken := errors.New("broken")
	run := func(stopAt string, with error) (got []string, err error) {
		c, err := client.NewConsumer(ctx(t), group)
		if err != nil {
			t.Fatal(err)
		}
		err = c.Each(ctx(t), func(r *kgo.Record) error {
			got = append(got, string(r.Value))
			if string(r.Value) == stopAt {
				return with
			}
			return nil
		})
		if err := c.Close(ctx(t)); err != nil {
			t.Fatal(err)
		}
		return got, err
	}
	if got, err := run("4", client.ErrStop); err != nil || !slices.Equal(got, numbers(0, 5)) {
		t.Fatalf("first run: %v, %v", got, err)
	}
	if got, err := run("9", errBroken); !errors.Is(err, errBroken) || !slices.Equal(got, numbers(5, 10)) {
		t.Fatalf("second run: %v, %v", got, err)
	}
	if got, err := run("", nil); err != nil || !slices.Equal(got, numbers(9, 20)) {
		t.Fatalf("third run begins with the record that failed: %v, %v", got, err)
	}
	if got, err := run("", nil); err != nil || len(got) != 0 {
		t.Fatalf("fourth run has nothing left: %v, %v", got, err)
	}
}

// Records that Poll has just returned are not committed by Close: the program may have died over them.
func TestPollCountsWithTheNext(t *testing.T) {
	_, cfg := fake(t, kfake.SeedTopics(1, "t"))
	fill(t, cfg, "t", 0, 10)
	poll := func(commit bool) string {
		c, err := client.NewConsumer(ctx(t), client.ConsumerConfig{Config: cfg, Topics: []string{"t"}, Group: "g"})
		if err != nil {
			t.Fatal(err)
		}
		rs, err := c.Poll(ctx(t), 4)
		if err != nil {
			t.Fatal(err)
		}
		if commit {
			if err := c.Commit(ctx(t)); err != nil {
				t.Fatal(err)
			}
		}
		if err := c.Close(ctx(t)); err != nil {
			t.Fatal(err)
		}
		return string(rs[0].Value)
	}
	if first := poll(false); first != "0" {
		t.Fatalf("first run began with %s", first)
	}
	if second := poll(true); second != "0" {
		t.Fatalf("second run began with %s: the first one's records were not processed", second)
	}
	if third := poll(false); third == "0" {
		t.Fatal("third run began at 0 although the second had committed")
	}
}

func TestProducerCloseLosesNothing(t *testing.T) {
	_, cfg := fake(t, kfake.SeedTopics(3, "t"))
	p := producer(t, client.ProducerConfig{Config: cfg, Topic: "t", Linger: time.Minute, MaxBufferedRecords: 100})
	const n = 1000 // more than the buffer holds
	var acked atomic.Int64
	producing := make(chan struct{})
	go func() {
		defer close(producing)
		for i := range n {
			p.ProduceAsync(context.Background(), &kgo.Record{Value: []byte(strconv.Itoa(i))}, func(_ *kgo.Record, err error) {
				if err == nil {
					acked.Add(1)
				}
			})
		}
	}()
	// The buffer being full is what ends lingering here, so that the goroutine comes to an end.
	<-producing
	if err := p.Close(ctx(t)); err != nil {
		t.Fatal(err)
	}
	if acked.Load() != n {
		t.Fatalf("%d of %d records were acknowledged when Close returned", acked.Load(), n)
	}
	if got := drainAll(t, client.ConsumerConfig{Config: cfg, Topics: []string{"t"}}); len(got) != n {
		t.Fatalf("%d records are there", len(got))
	}
	if err := p.Produce(ctx(t), &kgo.Record{Value: []byte("late")}); !errors.Is(err, client.ErrClosed) {
		t.Fatalf("produce after Close: %v", err)
	}
	if err := p.Close(ctx(t)); err != nil {
		t.Fatalf("second Close: %v", err)
	}
}

// Who reads one partition to its end needs no leader of the others.
func TestConsumePartitionBesideOneWithoutLeader(t *testing.T) {
	k, cfg := fake(t, kfake.SeedTopics(2, "t"))
	fill(t, cfg, "t", 0, 10)
	k.ControlKey(int16(kmsg.ListOffsets), func(kreq kmsg.Request) (kmsg.Response, error, bool) {
		k.KeepControl()
		req := kreq.(*kmsg.ListOffsetsRequest)
		resp := req.ResponseKind().(*kmsg.ListOffsetsResponse)
		for _, rt := range req.Topics {
			topic := kmsg.NewListOffsetsResponseTopic()
			topic.Topic = rt.Topic
			for _, rp := range rt.Partitions {
				p := kmsg.NewListOffsetsResponseTopicPartition()
				p.Partition, p.Timestamp = rp.Partition, -1
				switch {
				case rp.Partition == 1:
					p.ErrorCode, p.Offset = kerr.LeaderNotAvailable.Code, -1
				case rp.Timestamp == -2:
					p.Offset = 0
				default:
					p.Offset = 10
				}
				topic.Partitions = append(topic.Partitions, p)
			}
			resp.Topics = append(resp.Topics, topic)
		}
		return resp, nil, true
	})
	c, err := client.NewConsumer(ctx(t), client.ConsumerConfig{Config: cfg, Partitions: map[string]map[int32]client.Start{"t": {0: client.FromOffset(0)}}, StopAtEnd: true})
	if err != nil {
		t.Fatal(err)
	}
	_ = c.Close(context.Background())
}

// A failure that no callback sees is not lost: Flush reports it, once.
func TestFlushReportsFailures(t *testing.T) {
	c, cfg := fake(t, kfake.SeedTopics(1, "t"))
	p := producer(t, client.ProducerConfig{Config: cfg, Topic: "t"})
	c.ControlKey(int16(kmsg.Produce), func(req kmsg.Request) (kmsg.Response, error, bool) {
		c.DropControl()
		pr := req.(*kmsg.ProduceRequest)
		resp := pr.ResponseKind().(*kmsg.ProduceResponse)
		topic := kmsg.NewProduceResponseTopic()
		topic.Topic, topic.TopicID = pr.Topics[0].Topic, pr.Topics[0].TopicID
		part := kmsg.NewProduceResponseTopicPartition()
		part.ErrorCode = kerr.MessageTooLarge.Code
		topic.Partitions = append(topic.Partitions, part)
		resp.Topics = append(resp.Topics, topic)
		return resp, nil, true
	})
	p.ProduceAsync(ctx(t), &kgo.Record{Value: []byte("x")}, nil)
	err := p.Flush(ctx(t))
	if !errors.Is(err, kerr.MessageTooLarge) || !errors.Is(err, client.ErrInvalid) {
		t.Fatalf("Flush returned %v", err)
	}
	if err := p.Flush(ctx(t)); err != nil {
		t.Fatalf("the failure was reported twice: %v", err)
	}
	if err := p.Produce(ctx(t), &kgo.Record{Value: []byte("y")}); err != nil {
		t.Fatalf("the producer does not go on after a refused batch: %v", err)
	}
}

// Close with a context that ends says that something is left, and returns although no broker answers.
func TestProducerCloseGivesUp(t *testing.T) {
	c, cfg := fake(t, kfake.SeedTopics(1, "t"))
	hang := make(chan struct{})
	t.Cleanup(func() { close(hang) })
	c.ControlKey(int16(kmsg.Produce), func(kmsg.Request) (kmsg.Response, error, bool) {
		<-hang
		return nil, nil, false
	})
	p := producer(t, client.ProducerConfig{Config: cfg, Topic: "t"})
	outcome := make(chan error, 1)
	p.ProduceAsync(context.Background(), &kgo.Record{Value: []byte("x")}, func(_ *kgo.Record, err error) { outcome <- err })
	short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	err := p.Close(short)
	if !errors.Is(err, client.ErrTimeout) {
		t.Fatalf("Close returned %v", err)
	}
	select {
	case err := <-outcome:
		if err == nil {
			t.Fatal("the record was reported as written")
		}
	default:
		t.Fatal("the callback had not run when Close returned")
	}
}

func TestAdmin(t *testing.T) {
	_, cfg := fake(t)
	a, err := client.NewAdmin(ctx(t), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()

	made, err := a.CreateTopic(ctx(t), client.TopicSpec{Name: "t", Partitions: 6, Replicas: 3, Configs: map[string]string{"retention.ms": "60000"}})
	if err != nil {
		t.Fatal(err)
	}
	if len(made.Partitions) != 6 || made.Replicas() != 3 || made.ID == "" {
		t.Fatalf("created %+v", made)
	}
	if _, err := a.CreateTopic(ctx(t), client.TopicSpec{Name: "t", Partitions: 1}); !errors.Is(err, client.ErrExists) || !errors.Is(err, kerr.TopicAlreadyExists) {
		t.Fatalf("second creation: %v", err)
	}
	if _, err := a.CreateTopic(ctx(t), client.TopicSpec{Name: "only-asked", Partitions: 1, Replicas: 1, ValidateOnly: true}); err != nil {
		t.Fatal(err)
	}
	if _, err := a.CreateTopic(ctx(t), client.TopicSpec{}); !errors.Is(err, client.ErrInvalid) {
		t.Fatalf("no name: %v", err)
	}

	fill(t, cfg, "t", 2, 5)
	d, err := a.DescribeTopic(ctx(t), "t")
	if err != nil {
		t.Fatal(err)
	}
	for i, p := range d.Partitions {
		want := int64(0)
		if i == 2 {
			want = 5
		}
		if p.Partition != int32(i) || p.Start != 0 || p.End != want || p.Leader < 0 {
			t.Errorf("partition %d: %+v", i, p)
		}
	}
	if i := slices.IndexFunc(d.Configs, func(c client.TopicConfig) bool { return c.Name == "retention.ms" }); i < 0 ||
		d.Configs[i].Value != "60000" || d.Configs[i].Default {
		t.Errorf("configs: %+v", d.Configs)
	}

	topics, err := a.ListTopics(ctx(t), true)
	if err != nil || len(topics) != 1 || topics[0].Name != "t" {
		t.Fatalf("topics %+v, %v", topics, err)
	}
	st, err := a.ClusterStatus(ctx(t))
	if err != nil {
		t.Fatal(err)
	}
	leaders, replicas := 0, 0
	for _, b := range st.Brokers {
		leaders, replicas = leaders+b.Leaders, replicas+b.Replicas
	}
	if len(st.Brokers) != 3 || st.Topics != 1 || st.Partitions != 6 || leaders != 6 || replicas != 18 || st.Leaderless != 0 || st.UnderReplicated != 0 {
		t.Errorf("status %+v", st)
	}

	if err := a.DeleteTopic(ctx(t), "t"); err != nil {
		t.Fatal(err)
	}
	for what, err := range map[string]error{
		"delete":   a.DeleteTopic(ctx(t), "t"),
		"describe": second(a.DescribeTopic(ctx(t), "t")),
		"offsets":  second(a.Offsets(ctx(t), "t")),
		"consume":  second(client.NewConsumer(ctx(t), client.ConsumerConfig{Config: cfg, Topics: []string{"t"}})),
	} {
		if !errors.Is(err, client.ErrNotFound) {
			t.Errorf("%s of a deleted topic: %v", what, err)
		}
	}
}

func second[T any](_ T, err error) error { return err }

func TestUnreachable(t *testing.T) {
	_, err := client.NewAdmin(ctx(t), client.Config{Brokers: []string{nobody}, ConnectTimeout: time.Second})
	if !errors.Is(err, client.ErrUnreachable) {
		t.Fatalf("got %v", err)
	}
	var e *client.Error
	if !errors.As(err, &e) || e.Subject != nobody {
		t.Fatalf("the error does not name the address: %v", err)
	}
}

func TestWrongConfig(t *testing.T) {
	for name, err := range map[string]error{
		"port":        second(client.NewAdmin(ctx(t), client.Config{Brokers: []string{"localhost:99999"}})),
		"no host":     second(client.NewAdmin(ctx(t), client.Config{Brokers: []string{":9092"}})),
		"colons":      second(client.NewAdmin(ctx(t), client.Config{Brokers: []string{"a:b:c"}})),
		"compression": second(client.NewProducer(ctx(t), client.ProducerConfig{Compression: "lzma"})),
		"acks":        second(client.NewProducer(ctx(t), client.ProducerConfig{Acks: 9})),
		"nothing":     second(client.NewConsumer(ctx(t), client.ConsumerConfig{})),
		"both": second(client.NewConsumer(ctx(t), client.ConsumerConfig{Topics: []string{"t"},
			Partitions: map[string]map[int32]client.Start{"t": {0: client.FromEnd()}}})),
		"group and partitions": second(client.NewConsumer(ctx(t), client.ConsumerConfig{Group: "g",
			Partitions: map[string]map[int32]client.Start{"t": {0: client.FromEnd()}}})),
	} {
		if !errors.Is(err, client.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestCompressionAndAcks(t *testing.T) {
	_, cfg := fake(t, kfake.SeedTopics(1, "t"))
	want := 0
	for _, z := range []client.Compression{"", client.CompressionGzip, client.CompressionSnappy, client.CompressionLz4, client.CompressionZstd} {
		for _, acks := range []client.Acks{client.AcksAll, client.AcksLeader, client.AcksNone} {
			p := producer(t, client.ProducerConfig{Config: cfg, Topic: "t", Compression: z, Acks: acks})
			if err := p.Produce(ctx(t), &kgo.Record{Value: fmt.Appendf(nil, "%s %d", z, acks)}); err != nil {
				t.Fatalf("%q, acks %d: %v", z, acks, err)
			}
			if err := p.Close(ctx(t)); err != nil {
				t.Fatal(err)
			}
			want++
		}
	}
	// With AcksNone nothing says when the record is there: the last one may still be on its way.
	deadline := time.Now().Add(2 * time.Minute)
	for {
		got := drainAll(t, client.ConsumerConfig{Config: cfg, Topics: []string{"t"}})
		if len(got) == want {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d records, want %d: %v", len(got), want, got)
		}
	}
}

// Records that are none, and callbacks that come and go: each is told of its own, once, and Flush and Close wait for all.
func TestCallbacks(t *testing.T) {
	t.Parallel()
	b := brokertest.Start(t, brokertest.Topic("t", 2))
	p := producer(t, client.ProducerConfig{Config: b.Config(), Topic: "t", MaxBufferedRecords: 64})
	const each = 3000
	var (
		wg    sync.WaitGroup
		told  [4][2]atomic.Int64 // by goroutine: by the callback that is the same for all, and by others
		wrong atomic.Int64
	)
	for g := range told {
		wg.Go(func() {
			same := func(r *kgo.Record, err error) {
				if err != nil || r.Headers[0].Key != "same" {
					wrong.Add(1)
				}
				told[g][0].Add(1)
			}
			for i := range each {
				r, done := &kgo.Record{Headers: []kgo.RecordHeader{{Key: "same"}}}, same
				switch i % 3 {
				case 1:
					r.Headers[0].Key = "other"
					done = func(r *kgo.Record, err error) {
						if err != nil || r.Headers[0].Key != "other" || told[g][1].Add(1) > each {
							wrong.Add(1)
						}
					}
				case 2:
					done = nil
				}
				p.ProduceAsync(ctx(t), r, done)
			}
		})
	}
	wg.Wait()
	if err := p.Flush(ctx(t)); err != nil {
		t.Fatal(err)
	}
	for g := range told {
		if same, others := told[g][0].Load(), told[g][1].Load(); same != each/3 || others != each/3 || wrong.Load() > 0 {
			t.Errorf("told %d and %d times, want %d; %d wrongly", same, others, each/3, wrong.Load())
		}
	}
	if err := p.Produce(ctx(t), nil); !errors.Is(err, client.ErrInvalid) {
		t.Errorf("a record that is nil: %v", err)
	}
	none := producer(t, client.ProducerConfig{Config: b.Config()})
	if err := none.Produce(ctx(t), &kgo.Record{}); !errors.Is(err, client.ErrInvalid) || !strings.Contains(err.Error(), "names no topic") {
		t.Errorf("no topic: %v", err)
	}
	before := time.Now().Add(-time.Second)
	r := &kgo.Record{}
	if err := p.Produce(ctx(t), r); err != nil || r.Timestamp.Before(before) || r.Timestamp.After(time.Now().Add(time.Second)) {
		t.Errorf("written at %v, %v", r.Timestamp, err)
	}
	if err := p.Close(ctx(t)); err != nil {
		t.Fatal(err)
	}
}

// What Balsa and Kafka have in common: a client that speaks the Kafka protocol, franz-go, set up the same for both.

package bench

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

const (
	benchTopic = "bench"
	benchGroup = "bench"

	// How often clients look for a leader that they have lost. franz-go's default, five seconds, would be all that F1 measures.
	metadataMinAge = 100 * time.Millisecond
	retryBackoff   = 50 * time.Millisecond

	fetchBytes          = 16 << 20
	fetchPartitionBytes = 4 << 20

	// askAgain bounds one administrative request; it is repeated.
	askAgain = 5 * time.Second
)

// kafkaNodes are nodes that speak the Kafka protocol. Their broker ids are the node's number plus one.
type kafkaNodes struct {
	nodes
	client Client
	cell   Cell
	addrs  []string
	ask    []*kgo.Client // by node: asks this one only
}

func loopback(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

// connect makes the clients that ask single nodes; they connect when they are used.
func (k *kafkaNodes) connect() error {
	for i := len(k.ask); i < len(k.addrs); i++ {
		cl, err := kgo.NewClient(kgo.SeedBrokers(k.addrs[i]), kgo.DisableClientMetrics())
		if err != nil {
			return err
		}
		k.ask = append(k.ask, cl)
	}
	return nil
}

// Disconnect implements System.
func (k *kafkaNodes) Disconnect() {
	for _, cl := range k.ask {
		cl.Close()
	}
	k.ask = nil
}

func (k *kafkaNodes) create(ctx context.Context, c Cell, configs map[string]*string, made func(int)) error {
	err := retry(ctx, func() error {
		for i := range k.addrs {
			if _, err := k.node(i); err != nil {
				return err
			}
		}
		_, err := kadm.NewClient(k.ask[0]).CreateTopic(ctx, int32(c.Partitions), int16(c.Replicas), configs, benchTopic)
		switch {
		case errors.Is(err, kerr.TopicAlreadyExists), errors.Is(err, kerr.RequestTimedOut): // the topic is there then, and its leaders on their way
			return nil
		case errors.Is(err, kerr.InvalidConfig):
			return fmt.Errorf("%w: %w", errEnded, err) // asking again does not help
		}
		return err
	})
	if err == nil {
		made(c.Partitions)
	}
	return err
}

// metadata asks a node about the topic.
func (k *kafkaNodes) metadata(ctx context.Context, node int) (*kmsg.MetadataResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, askAgain)
	defer cancel()
	req := kmsg.NewPtrMetadataRequest()
	topic := kmsg.NewMetadataRequestTopic()
	topic.Topic = kmsg.StringPtr(benchTopic)
	req.Topics = append(req.Topics, topic)
	resp, err := req.RequestWith(ctx, k.ask[node].SeedBrokers()[0])
	if err != nil {
		return nil, fmt.Errorf("ask node %d: %w", node+1, err)
	}
	return resp, nil
}

// leaders asks all nodes that run: one names itself as soon as it serves.
func (k *kafkaNodes) leaders(ctx context.Context, n int) (leaders []int, answers []*kmsg.MetadataResponse, err error) {
	leaders = make([]int, n)
	for i := range leaders {
		leaders[i] = -1
	}
	answers = make([]*kmsg.MetadataResponse, len(k.addrs))
	errs := make([]error, len(k.addrs))
	var wg sync.WaitGroup
	for i := range k.addrs {
		x, err := k.node(i)
		if err != nil {
			return nil, nil, err
		}
		if x != nil {
			wg.Go(func() { answers[i], errs[i] = k.metadata(ctx, i) })
		}
	}
	wg.Wait()
	for i, resp := range answers {
		if resp == nil {
			continue
		}
		for _, t := range resp.Topics {
			for _, p := range t.Partitions {
				if int(p.Leader) == i+1 && int(p.Partition) < n {
					leaders[p.Partition] = i
				}
			}
		}
	}
	return leaders, answers, errors.Join(errs...)
}

// Leaders implements Cluster.
func (k *kafkaNodes) Leaders(ctx context.Context, n int) ([]int, error) {
	l, _, err := k.leaders(ctx, n)
	return l, err
}

// InSync implements System: each partition that has a replica on the node has it in its ISR, by its leader's word.
func (k *kafkaNodes) InSync(ctx context.Context, node int) (bool, error) {
	leaders, answers, err := k.leaders(ctx, k.cell.Partitions)
	if err != nil {
		return false, err
	}
	for p, l := range leaders {
		if l < 0 {
			return false, nil
		}
		for _, t := range answers[l].Topics {
			for _, m := range t.Partitions {
				id := int32(node + 1)
				if int(m.Partition) == p && slices.Contains(m.Replicas, id) && !slices.Contains(m.ISR, id) {
					return false, nil
				}
			}
		}
	}
	return true, nil
}

func (k *kafkaNodes) options(more ...kgo.Opt) []kgo.Opt {
	return append([]kgo.Opt{kgo.SeedBrokers(k.addrs...), kgo.Dialer(dial), kgo.DisableClientMetrics(), kgo.MetadataMinAge(metadataMinAge),
		kgo.RetryBackoffFn(func(int) time.Duration { return retryBackoff })}, more...)
}

// Producer implements System.
func (k *kafkaNodes) Producer(_ context.Context, _ int) (Producer, error) {
	cl, err := kgo.NewClient(k.options(
		kgo.DefaultProduceTopic(benchTopic),
		kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.RequiredAcks(kgo.AllISRAcks()), // idempotence is on
		kgo.ProducerBatchCompression(kgo.NoCompression()),
		kgo.ProducerBatchMaxBytes(int32(k.client.BatchBytes)),
		kgo.ProducerLinger(k.client.Linger),
		kgo.MaxBufferedBytes(max(k.cell.InflightBytes, k.cell.RecordBytes)),
		kgo.MaxBufferedRecords(max(1, k.cell.InflightBytes/k.cell.RecordBytes)))...)
	if err != nil {
		return nil, err
	}
	return &kafkaProducer{cl: cl, sync: k.cell.InflightBytes <= k.cell.RecordBytes}, nil
}

// kafkaProducer is a Producer over the Kafka protocol.
type kafkaProducer struct {
	cl   *kgo.Client
	sync bool // one record at a time: the wait for the one before must not count as this one's latency
}

func (p *kafkaProducer) Send(ctx context.Context, partition int, record []byte, done func(error)) {
	if p.sync {
		done(p.cl.ProduceSync(ctx, &kgo.Record{Partition: int32(partition), Value: record}).FirstErr())
		return
	}
	r, _ := kafkaRecords.Get().(*kafkaRecord)
	if r == nil {
		r = new(kafkaRecord)
		r.answeredBy = r.answered
	}
	r.Record, r.done = kgo.Record{Partition: int32(partition), Value: record}, done
	p.cl.Produce(ctx, &r.Record, r.answeredBy)
}

// kafkaRecord is a record of franz-go's with its promise. Once that has been called franz-go looks at neither again.
type kafkaRecord struct {
	kgo.Record
	done       func(error)
	answeredBy func(*kgo.Record, error) // answered, made once
}

var kafkaRecords sync.Pool

func (r *kafkaRecord) answered(_ *kgo.Record, err error) {
	done := r.done
	r.Record, r.done = kgo.Record{}, nil
	kafkaRecords.Put(r)
	done(err)
}

func (p *kafkaProducer) Flush(ctx context.Context) error { return p.cl.Flush(ctx) }

func (p *kafkaProducer) Close() { p.cl.Close() }

// endOffsets asks where the partitions end, again while a leader is not one yet: a broker's metadata names it a moment before it has its logs
// open as such. What it said before is forgotten, as any client's consumer does.
func endOffsets(ctx context.Context, cl *kgo.Client) (ends kadm.ListedOffsets, err error) {
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	for {
		if ends, err = kadm.NewClient(cl).ListEndOffsets(ctx, benchTopic); err == nil {
			err = ends.Error()
		}
		if !kerr.IsRetriable(err) {
			return ends, err
		}
		cl.ForceMetadataRefresh()
		if pause(ctx, metadataMinAge); ctx.Err() != nil {
			return ends, errors.Join(err, ctx.Err())
		}
	}
}

// Consumer implements System.
func (k *kafkaNodes) Consumer(ctx context.Context) (Consumer, error) {
	cl, err := kgo.NewClient(k.options(kgo.FetchMaxBytes(fetchBytes), kgo.FetchMaxPartitionBytes(fetchPartitionBytes))...)
	if err != nil {
		return nil, err
	}
	ends, err := endOffsets(ctx, cl)
	if err != nil {
		cl.Close()
		return nil, err
	}
	from := make(map[int32]kgo.Offset)
	ends.Each(func(o kadm.ListedOffset) { from[o.Partition] = kgo.NewOffset().At(o.Offset) })
	cl.AddConsumePartitions(map[string]map[int32]kgo.Offset{benchTopic: from})
	return &kafkaConsumer{cl: cl}, nil
}

// Member implements System: offsets are committed every five seconds, franz-go's default.
func (k *kafkaNodes) Member(context.Context, int) (Consumer, error) {
	cl, err := kgo.NewClient(k.options(kgo.ConsumerGroup(benchGroup), kgo.ConsumeTopics(benchTopic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.FetchMaxBytes(fetchBytes), kgo.FetchMaxPartitionBytes(fetchPartitionBytes))...)
	if err != nil {
		return nil, err
	}
	return &kafkaConsumer{cl: cl}, nil
}

type kafkaConsumer struct{ cl *kgo.Client }

func (c *kafkaConsumer) Run(ctx context.Context, fn func(int, []byte)) error {
	for {
		fetches := c.cl.PollFetches(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err := fetchError(fetches); err != nil {
			return err
		}
		fetches.EachRecord(func(r *kgo.Record) { fn(int(r.Partition), r.Value) })
	}
}

func (c *kafkaConsumer) Close() { c.cl.Close() }

// fetchError is what is wrong with fetches. That a member could not join its group is none: the client says so, and tries again, as it has to
// where a coordinator's partition has just been made or has moved.
func fetchError(fetches kgo.Fetches) (failed error) {
	fetches.EachError(func(_ string, p int32, err error) {
		if _, joining := errors.AsType[*kgo.ErrGroupSession](err); !joining {
			failed = errors.Join(failed, fmt.Errorf("partition %d: %w", p, err))
		}
	})
	return failed
}

// ReadBack implements System.
func (k *kafkaNodes) ReadBack(ctx context.Context, fn func(int, []byte)) error {
	cl, err := kgo.NewClient(k.options(kgo.ConsumeTopics(benchTopic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.FetchMaxBytes(fetchBytes), kgo.FetchMaxPartitionBytes(fetchPartitionBytes))...)
	if err != nil {
		return err
	}
	defer cl.Close()
	ends, err := endOffsets(ctx, cl)
	if err != nil {
		return err
	}
	next, left := make(map[int32]int64), 0
	ends.Each(func(o kadm.ListedOffset) {
		if next[o.Partition] = o.Offset; o.Offset > 0 {
			left++
		}
	})
	for left > 0 {
		fetches := cl.PollFetches(ctx)
		if ctx.Err() != nil {
			return fmt.Errorf("%d partitions not read to their end: %w", left, ctx.Err())
		}
		if err := fetchError(fetches); err != nil {
			return err
		}
		fetches.EachRecord(func(r *kgo.Record) {
			end := next[r.Partition]
			if r.Offset >= end {
				return // it came after the reading began
			}
			fn(int(r.Partition), r.Value)
			if r.Offset == end-1 {
				left--
			}
		})
	}
	return nil
}

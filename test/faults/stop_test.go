package faults_test

import (
	"context"
	"errors"
	"flag"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/kversion"
)

var stops = flag.Int("stops", 3, "how often TestStoppedLeader stops a leader")

// direct is a client of one broker that speaks the versions of a release of Kafka.
func (c *cluster) direct(p *process, release *kversion.Versions) *kgo.Client {
	cl, err := kgo.NewClient(kgo.SeedBrokers(p.kafka), kgo.MaxVersions(release), kgo.RequestRetries(0), kgo.RetryTimeout(generous))
	if err != nil {
		c.t.Fatal(err)
	}
	return cl
}

// oneAnswer is what a broker said to one question about an end; refused is an error that a client asks elsewhere after.
type oneAnswer struct {
	refused error
	end     int64
	empty   bool // a fetch found nothing
}

func listLatest() *kmsg.ListOffsetsRequest {
	req := kmsg.NewPtrListOffsetsRequest()
	t, p := kmsg.NewListOffsetsRequestTopic(), kmsg.NewListOffsetsRequestTopicPartition()
	t.Topic, p.Timestamp, p.CurrentLeaderEpoch = topic, -1, -1
	t.Partitions = append(t.Partitions, p)
	req.Topics = append(req.Topics, t)
	return req
}

func (c *cluster) askLatest(ctx context.Context, br *kgo.Broker) (a oneAnswer) {
	resp, err := br.Request(ctx, listLatest())
	if err != nil {
		return oneAnswer{refused: err}
	}
	p := resp.(*kmsg.ListOffsetsResponse).Topics[0].Partitions[0]
	return oneAnswer{refused: kerr.ErrorForCode(p.ErrorCode), end: p.Offset}
}

// askFetch fetches at an offset.
func (c *cluster) askFetch(ctx context.Context, br *kgo.Broker, at int64) (a oneAnswer) {
	req := kmsg.NewPtrFetchRequest()
	req.MaxWaitMillis, req.MinBytes, req.MaxBytes, req.ReplicaID, req.SessionEpoch = 0, 1, 1<<20, -1, -1
	t, p := kmsg.NewFetchRequestTopic(), kmsg.NewFetchRequestTopicPartition()
	t.Topic, p.FetchOffset, p.PartitionMaxBytes, p.CurrentLeaderEpoch = topic, at, 1<<20, -1
	t.Partitions = append(t.Partitions, p)
	req.Topics = append(req.Topics, t)
	resp, err := br.Request(ctx, req)
	if err != nil {
		return oneAnswer{refused: err}
	}
	r := resp.(*kmsg.FetchResponse).Topics[0].Partitions[0]
	return oneAnswer{refused: kerr.ErrorForCode(r.ErrorCode), end: r.HighWatermark, empty: len(r.RecordBatches) == 0}
}

func (c *cluster) askCommitted(ctx context.Context, br *kgo.Broker, group string) (a oneAnswer) {
	req := kmsg.NewPtrOffsetFetchRequest()
	req.Group = group
	t := kmsg.NewOffsetFetchRequestTopic()
	t.Topic, t.Partitions = topic, []int32{0}
	req.Topics = append(req.Topics, t)
	resp, err := br.Request(ctx, req)
	if err != nil {
		return oneAnswer{refused: err}
	}
	r := resp.(*kmsg.OffsetFetchResponse)
	if r.ErrorCode != 0 {
		return oneAnswer{refused: kerr.ErrorForCode(r.ErrorCode)}
	}
	p := r.Topics[0].Partitions[0]
	return oneAnswer{refused: kerr.ErrorForCode(p.ErrorCode), end: p.Offset}
}

// TestStoppedLeader stops (SIGSTOP) the process that leads a partition and coordinates a group, writes and commits through those
// that take over, lets it go on, and asks it at once. Whatever it answers about an end must not be older than what was
// acknowledged before it was asked. A stopped process has no way to know that it was, but by its clock.
func TestStoppedLeader(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	createTopic(c)
	quick := kgo.RequestTimeoutOverhead(time.Second) // a stopped broker's connections stay open
	admin := c.client(quick)
	defer admin.Close()
	c.admin = kadm.NewClient(admin)
	cl := c.client(quick, kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.DefaultProduceTopic(topic), kgo.RequiredAcks(kgo.AllISRAcks()),
		kgo.ProduceRequestTimeout(time.Second), kgo.RecordDeliveryTimeout(generous), kgo.UnknownTopicRetries(-1))
	defer cl.Close()
	written, committed := int64(0), int64(0) // acknowledged: the end of partition 0, and what the group has committed
	write := func() {
		t.Helper()
		if err := cl.ProduceSync(t.Context(), &kgo.Record{Value: []byte("x")}).FirstErr(); err != nil {
			t.Fatal(err)
		}
		written++
	}
	const group = "stopped"
	commit := func() {
		t.Helper()
		var os kadm.Offsets
		os.Add(kadm.Offset{Topic: topic, Partition: 0, At: committed + 1, LeaderEpoch: -1})
		c.eventually("a commit", func() error {
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
			defer cancel()
			resp, err := c.admin.CommitOffsets(ctx, group, os)
			if err == nil {
				err = resp.Error()
			}
			return err
		})
		committed++
	}
	write()
	commit()
	answers, refusals, lost := 0, 0, 0
	for i := range *stops {
		c.eventually("whole before the next stop", c.whole)
		var ls []int32
		c.eventually("leaders known", func() (err error) { ls, err = c.leaders(t.Context()); return err })
		victim := c.procs[ls[0]-1]
		what := "the leader"
		if i%2 == 1 {
			what = "the coordinator"
			c.eventually("a coordinator", func() error {
				ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
				defer cancel()
				r := c.admin.FindGroupCoordinators(ctx, group)[group]
				if r.Err == nil {
					victim = c.procs[r.NodeID-1]
				}
				return r.Err
			})
		}
		// Fetch v10 is for leaders only; from v11 on a follower may answer.
		old, older := c.direct(victim, kversion.V2_3_0()), c.direct(victim, kversion.V2_2_0())
		br, brLeader := old.SeedBrokers()[0], older.SeedBrokers()[0]
		if a := c.askLatest(t.Context(), br); what == "the leader" && a.refused == nil && a.end != written {
			t.Fatalf("before stop %d: end %d, written %d", i, a.end, written)
		}
		if err := victim.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		write() // ends only through those that have taken over, if it led
		commit()
		// Questions that wait in its sockets when it goes on, and others right after.
		ctx, cancel := context.WithTimeout(t.Context(), generous)
		type asked struct {
			what   string
			least  int64
			answer oneAnswer
		}
		got := make(chan asked)
		questions := 0
		ask := func() {
			for _, q := range []struct {
				what  string
				least int64
				ask   func() oneAnswer
			}{
				{"ListOffsets", written, func() oneAnswer { return c.askLatest(ctx, br) }},
				{"Fetch for leaders", written, func() oneAnswer { return c.askFetch(ctx, brLeader, written-1) }},
				{"Fetch", written, func() oneAnswer { return c.askFetch(ctx, br, written-1) }},
				{"OffsetFetch", committed, func() oneAnswer { return c.askCommitted(ctx, br, group) }},
			} {
				questions++
				go func() { got <- asked{q.what, q.least, q.ask()} }()
			}
		}
		ask()
		if err := victim.cmd.Process.Signal(syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
		for range 5 {
			ask()
		}
		for range questions {
			a := <-got
			switch {
			case a.answer.refused != nil:
				if errors.Is(a.answer.refused, kerr.UnknownServerError) {
					t.Errorf("stop %d: %s: %v", i, a.what, a.answer.refused)
				}
				if _, ok := errors.AsType[*kerr.Error](a.answer.refused); ok {
					refusals++
				} else {
					lost++
				}
			case a.answer.empty:
				t.Errorf("stop %d of %s: %s: broker %d found nothing at an offset that was acknowledged: %+v", i, what, a.what, victim.id, a.answer)
			case a.answer.end < a.least:
				t.Errorf("stop %d of %s: %s: broker %d answered %d, and %d had been acknowledged", i, what, a.what, victim.id, a.answer.end, a.least)
			default:
				answers++
			}
		}
		cancel()
		old.Close()
		older.Close()
	}
	t.Logf("%d stops: %d answers, %d refusals, %d connections lost", *stops, answers, refusals, lost)
	if answers == 0 || refusals == 0 {
		t.Error("either nothing was ever answered, or nothing refused: this saw no stopped leader")
	}
}

// Offsets that transactions have committed, while the log that they lie in is compacted: the newest of each group stays in force, whoever coordinates.

package broker

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/balsamq/balsa/coordinator"
	"github.com/balsamq/balsa/partition"
	"github.com/balsamq/balsa/protocol"
)

// offsetsCluster is three brokers that compact the only partition of __consumer_offsets as often as they can, and a topic with records to consume.
type offsetsCluster struct {
	*testCluster
	cl *kgo.Client
	in kadm.TopicDetail
}

func newOffsetsCluster(t *testing.T, records int) *offsetsCluster {
	c := &offsetsCluster{testCluster: newCluster(t, 3, true)}
	for _, n := range c.nodes {
		n.cfg.CleanerPause, n.cfg.CleanerRate, n.cfg.OffsetsPartitions = 20*time.Millisecond, -1, 1
	}
	c.start(c.nodes...)
	c.awaitVoters(3)
	c.cl = c.client(kgo.DefaultProduceTopic("in"))
	adm := kadm.NewClient(c.cl)
	if resps, err := adm.CreateTopics(t.Context(), 1, 3, nil, "in", "out"); err != nil || resps.Error() != nil {
		t.Fatal(err, resps.Error())
	}
	if _, err := c.nodes[0].ensureInternal(t.Context(), coordinator.ConsumerOffsetsTopic, 1); err != nil {
		t.Fatal(err)
	}
	for i := range records {
		c.cl.Produce(t.Context(), kgo.StringRecord(fmt.Sprint(i)), func(_ *kgo.Record, err error) {
			if err != nil {
				t.Errorf("produce: %v", err)
			}
		})
	}
	if err := c.cl.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	topics, err := adm.ListTopics(t.Context(), "in")
	if err != nil {
		t.Fatal(err)
	}
	c.in = topics["in"]
	return c
}

// session is a consume-transform-produce application: one of a group.
func (c *offsetsCluster) session(group string) *kgo.GroupTransactSession {
	c.t.Helper()
	var seeds []string
	for _, n := range c.running() {
		seeds = append(seeds, n.KafkaAddr())
	}
	s, err := kgo.NewGroupTransactSession(kgo.SeedBrokers(seeds...), kgo.TransactionalID("app-"+group), kgo.ConsumerGroup(group), kgo.ConsumeTopics("in"),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.DefaultProduceTopic("out"),
		kgo.FetchMaxWait(100*time.Millisecond), kgo.MetadataMinAge(50*time.Millisecond))
	if err != nil {
		c.t.Fatal(err)
	}
	return s
}

// transact consumes n records, of which the first is to be at offset from, and writes as many, in one transaction, until one ends as it shall.
func (c *offsetsCluster) transact(s *kgo.GroupTransactSession, from int64, n int, commit bool) {
	c.t.Helper()
	for tries := range 20 {
		at := from
		for at < from+int64(n) {
			fetches := s.PollRecords(c.t.Context(), int(from)+n-int(at))
			if err := fetches.Err(); err != nil {
				c.t.Fatal(err)
			}
			fetches.EachRecord(func(r *kgo.Record) {
				if r.Offset != at {
					c.t.Fatalf("consumed offset %d where %d is next", r.Offset, at)
				}
				at++
			})
		}
		if err := s.Begin(); err != nil {
			c.t.Fatal(err)
		}
		for range n {
			s.Produce(c.t.Context(), kgo.StringRecord("out"), nil)
		}
		done, err := s.End(c.t.Context(), kgo.TransactionEndTry(commit))
		switch {
		case err == nil && done == commit:
			return
		case err == nil:
			c.t.Logf("try %d was aborted", tries) // a rebalance, a leader that moved; it begins where it began
		default:
			c.t.Fatal(err)
		}
	}
	c.t.Fatal("no transaction comes to its end")
}

// committed is a group's stable offset.
func (c *offsetsCluster) committed(cl *kgo.Client, group string) (int64, error) {
	req := kmsg.NewPtrOffsetFetchRequest()
	req.RequireStable = true
	g := kmsg.NewOffsetFetchRequestGroup()
	g.Group = group
	gt := kmsg.NewOffsetFetchRequestGroupTopic()
	gt.Topic, gt.TopicID, gt.Partitions = "in", c.in.ID, []int32{0}
	g.Topics = append(g.Topics, gt)
	req.Groups = append(req.Groups, g)
	resp, err := req.RequestWith(c.t.Context(), cl)
	if err != nil {
		return 0, err
	}
	if err := kerr.ErrorForCode(resp.Groups[0].ErrorCode); err != nil {
		return 0, err
	}
	p := resp.Groups[0].Topics[0].Partitions[0]
	return p.Offset, kerr.ErrorForCode(p.ErrorCode)
}

// logs are the replicas of __consumer_offsets, in segments that are filled soon, and whose markers go soon.
func (c *offsetsCluster) logs() (all []*partition.Replica) {
	c.t.Helper()
	for _, n := range c.running() {
		r := n.rec.replica(n.Image().Topic(coordinator.ConsumerOffsetsTopic).Partitions[0].Group)
		if r == nil {
			return nil
		}
		s := r.Settings()
		if !s.Compact {
			c.t.Fatal("__consumer_offsets is not compacted")
		}
		s.SegmentBytes, s.Compaction.DeleteRetention, s.Compaction.MinDirtyRatio = 64<<10, 1, 0.1
		if err := r.UpdateSettings(s); err != nil {
			c.t.Fatal(err)
		}
		all = append(all, r)
	}
	return all
}

// markers are the offsets of the markers that a replica has below an offset.
func markers(r *partition.Replica, below int64) (at []int64, ok bool) {
	for next := int64(0); next < below; {
		res, err := r.Read(partition.ReadQuery{Offset: next, MaxBytes: 1 << 20, LeaderEpoch: -1, AnyReplica: true})
		if err != nil || len(res.Batches) == 0 {
			return nil, false
		}
		for _, raw := range res.Batches {
			b := protocol.Batch(raw)
			if next = b.NextOffset(); b.Control() && b.BaseOffset() < below {
				at = append(at, b.BaseOffset())
			}
		}
	}
	return at, true
}

// fill commits large offsets of another group until every replica has been cleaned so often that the markers of what was aborted have gone.
func (c *offsetsCluster) fill(below int64, most int) {
	c.t.Helper()
	req := kmsg.NewPtrOffsetCommitRequest()
	req.Group, req.Generation = "filler", -1
	ct := kmsg.NewOffsetCommitRequestTopic()
	ct.Topic, ct.TopicID = "in", c.in.ID
	cp := kmsg.NewOffsetCommitRequestTopicPartition()
	meta := fmt.Sprintf("%02000d", 0)
	cp.Metadata = &meta
	ct.Partitions = append(ct.Partitions, cp)
	req.Topics = append(req.Topics, ct)
	soon(c.t, "the markers of what was aborted have gone", func() bool {
		for range 50 {
			resp, err := req.RequestWith(c.t.Context(), c.cl)
			if err != nil || resp.Topics[0].Partitions[0].ErrorCode != 0 {
				return false
			}
		}
		all := c.logs()
		for _, r := range all {
			if left, ok := markers(r, below); !ok || len(left) > most {
				return false
			}
		}
		return len(all) == len(c.running())
	})
}

// A marker that went before the offsets that it has committed would leave them pending, and the group's members waiting, from the next change of coordinators on.
func TestTransactionalOffsetsAreCompacted(t *testing.T) {
	if testing.Short() {
		t.Skip("twenty seconds")
	}
	t.Parallel()
	const groups = 3
	c := newOffsetsCluster(t, 100)
	soon(t, "__consumer_offsets is everywhere", func() bool { return len(c.logs()) == 3 })
	want := map[string]int64{}
	for i := range groups {
		group := fmt.Sprint("g", i)
		s := c.session(group)
		c.transact(s, 0, 3, true)
		c.transact(s, 3, 2+i, true)
		c.transact(s, int64(5+i), 4, false)
		c.transact(s, int64(5+i), 1, i > 0)
		if want[group] = 5 + int64(i); i > 0 {
			want[group]++
		}
		s.Close()
	}
	leader := c.leaderOf(coordinator.ConsumerOffsetsTopic, 0)
	hw, _ := leader.rec.replica(leader.Image().Topic(coordinator.ConsumerOffsetsTopic).Partitions[0].Group).HighWatermark()
	agree := func(when string) {
		t.Helper()
		for group, offset := range want {
			soon(t, fmt.Sprintf("%s, the offset of %s is stable", when, group), func() bool {
				cl := newKafkaClient(t, c.running()[0]) // which has heard of no coordinator yet
				defer cl.Close()
				got, err := c.committed(cl, group)
				if err == nil && got != offset {
					t.Errorf("%s: %s is at %d, it has committed %d", when, group, got, offset)
				}
				if _, ok := errors.AsType[*kerr.Error](err); ok && !errors.Is(err, kerr.UnstableOffsetCommit) && !kerr.IsRetriable(err) {
					t.Errorf("%s: %s: %v", when, group, err)
				}
				return err == nil
			})
		}
	}
	c.fill(hw, groups) // one a group is left
	agree("compacted")

	// Each broker coordinates in turn, of what its own log has.
	topic := leader.Image().Topic(coordinator.ConsumerOffsetsTopic)
	for _, n := range c.nodes {
		c.transfer(n, topic.ID, 0, n.NodeID())
		agree(fmt.Sprint("coordinated by broker ", n.NodeID()))
	}
	c.stop(c.nodes...)
	c.start(c.nodes...)
	agree("after a restart")

	// The applications go on where they were, and so does compaction.
	for i := range groups {
		group := fmt.Sprint("g", i)
		s := c.session(group)
		c.transact(s, want[group], 2, true)
		want[group] += 2
		s.Close()
	}
	leader = c.leaderOf(coordinator.ConsumerOffsetsTopic, 0)
	hw, _ = leader.rec.replica(topic.Partitions[0].Group).HighWatermark()
	c.cl = c.client()
	c.fill(hw, groups)
	agree("compacted again")
	c.stop(leader)
	agree("without the broker that coordinated")
}

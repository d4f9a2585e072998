// Compaction with real brokers and a real client: what is read is the newest value of every key, on each replica, after restarts, on a replica that was
// rebuilt from nothing, and after damage.

package broker

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/balsamq/balsa/coordinator"
	"github.com/balsamq/balsa/internal/vfs"
	"github.com/balsamq/balsa/partition"
	"github.com/balsamq/balsa/protocol"
	"github.com/balsamq/balsa/raft"
)

const compactedTopic = "table"

// compacted is a cluster with a compacted topic, and what a reader of it must see.
type compacted struct {
	*testCluster
	disks map[*node]*sickDisk
	rng   *rand.Rand
	want  map[string]string // the newest value of each key
	sent  int
}

func newCompacted(t *testing.T, configs map[string]string) *compacted {
	c := &compacted{testCluster: newCluster(t, 3, true), disks: map[*node]*sickDisk{}, rng: rand.New(rand.NewPCG(1, 2)), want: map[string]string{}}
	for i, n := range c.nodes {
		d := &sickDisk{Mem: vfs.NewMem(uint64(i))}
		c.disks[n] = d
		n.cfg.FS = d.fs()
		n.cfg.CleanerPause, n.cfg.CleanerRate = 20*time.Millisecond, -1
	}
	c.start(c.nodes...)
	c.awaitVoters(3)
	all := map[string]string{"cleanup.policy": "compact", "segment.bytes": "65536", "min.cleanable.dirty.ratio": "0.1", "segment.ms": "200"}
	maps.Copy(all, configs)
	c.nodes[0].createWith(t, compactedTopic, 3, all)
	return c
}

// write sends n records over so many keys, with tombstones among them.
func (c *compacted) write(n, keys int) {
	c.t.Helper()
	cl := newKafkaClient(c.t, c.running()[0], kgo.DefaultProduceTopic(compactedTopic), kgo.ProducerBatchCompression(kgo.SnappyCompression()), kgo.MaxBufferedRecords(1000),
		kgo.ProducerLinger(time.Millisecond))
	defer cl.Close()
	for range n {
		c.sent++
		key, value := fmt.Sprint("key", c.rng.IntN(keys)), fmt.Sprintf("value %d %0*d", c.sent, 50+c.rng.IntN(100), 7)
		r := &kgo.Record{Key: []byte(key), Value: []byte(value)}
		if c.rng.IntN(10) == 0 {
			r.Value = nil
			delete(c.want, key)
		} else {
			c.want[key] = value
		}
		cl.Produce(c.t.Context(), r, func(_ *kgo.Record, err error) {
			if err != nil {
				c.t.Errorf("produce: %v", err)
			}
		})
	}
	if err := cl.Flush(c.t.Context()); err != nil {
		c.t.Fatal(err)
	}
}

// table reads a replica from its start to offset end: what there is, and how many records it took. false: it has not got so far, or a read failed.
func table(t *testing.T, r *partition.Replica, end int64) (seen map[string]string, records int, ok bool) {
	t.Helper()
	seen = map[string]string{}
	inf := protocol.NewInflater(1 << 20)
	defer inf.Close()
	for at := max(r.LogStart(), 0); at < end; {
		res, err := r.Read(partition.ReadQuery{Offset: at, MaxBytes: 100_000, LeaderEpoch: -1, AnyReplica: true})
		if err != nil || len(res.Batches) == 0 {
			return nil, 0, false
		}
		for _, raw := range res.Batches {
			b := protocol.Batch(raw)
			if b.NextOffset() <= at {
				t.Fatalf("batch of [%d, %d) where %d was read", b.BaseOffset(), b.NextOffset(), at)
			}
			for rec, err := range b.Records(inf) {
				switch {
				case err != nil:
					t.Fatalf("batch at %d: %v", b.BaseOffset(), err)
				case rec.Value == nil:
					delete(seen, string(rec.Key))
				default:
					seen[string(rec.Key)] = string(rec.Value)
				}
				records++
			}
			at = b.NextOffset()
		}
	}
	return seen, records, true
}

// agree waits until each running replica has everything, no more than most records, and shows the newest value of each key.
func (c *compacted) agree(when string, most int) {
	c.t.Helper()
	soon(c.t, "every replica is compacted, "+when, func() bool {
		_, all := c.replicas(compactedTopic)
		if len(all) < len(c.running()) {
			return false
		}
		for _, r := range all {
			seen, records, ok := table(c.t, r, int64(c.sent))
			if !ok {
				return false
			}
			if !maps.Equal(seen, c.want) {
				c.t.Fatalf("%s: a replica shows %d keys in %d records, there are %d, or other values", when, len(seen), records, len(c.want))
			}
			if records > most {
				return false
			}
		}
		return true
	})
}

// consumed is what a consumer sees that reads from the beginning to the end.
func (c *compacted) consumed(when string) {
	c.t.Helper()
	cl := newKafkaClient(c.t, c.running()[0], kgo.ConsumeTopics(compactedTopic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	defer cl.Close()
	// The last record is a mark: the end may be a tombstone that has gone.
	c.sent++
	mark := fmt.Sprint("mark ", c.sent)
	c.want["mark"] = mark
	if err := cl.ProduceSync(c.t.Context(), &kgo.Record{Topic: compactedTopic, Key: []byte("mark"), Value: []byte(mark)}).FirstErr(); err != nil {
		c.t.Fatal(err)
	}
	seen, last := map[string]string{}, int64(-1)
	for seen["mark"] != mark {
		fetches := cl.PollFetches(c.t.Context())
		if err := fetches.Err(); err != nil {
			c.t.Fatal(err)
		}
		fetches.EachRecord(func(r *kgo.Record) {
			if r.Offset <= last {
				c.t.Errorf("%s: offset %d after %d", when, r.Offset, last)
			}
			last = r.Offset
			if r.Value == nil {
				delete(seen, string(r.Key))
			} else {
				seen[string(r.Key)] = string(r.Value)
			}
		})
	}
	if last != int64(c.sent)-1 {
		c.t.Errorf("%s: the last record is at %d, want %d: offsets have moved", when, last, c.sent-1)
	}
	if !maps.Equal(seen, c.want) {
		c.t.Errorf("%s: a consumer sees %d keys, there are %d, or other values", when, len(seen), len(c.want))
	}
}

func TestCompaction(t *testing.T) {
	t.Parallel()
	c := newCompacted(t, nil)
	const keys = 200
	c.write(10_000, keys)
	c.agree("at first", 2000)
	c.consumed("at first")

	// An offset that has gone is answered with what comes next; times are found.
	raw := dialKafka(t, c.node(1))
	for _, n := range c.running() {
		if l, _, _ := n.rec.replica(c.group()).Leader(); l == n.NodeID() {
			raw = dialKafka(t, n)
		}
	}
	p := onlyPartition(t, ask[*kmsg.FetchResponse](raw, fetchRequest(12, compactedTopic, [16]byte{}, 0, 1, 0)))
	if p.ErrorCode != 0 || len(p.RecordBatches) == 0 || protocol.Batch(p.RecordBatches).BaseOffset() == 1 {
		t.Errorf("fetch of offset 1: error %d, %d bytes", p.ErrorCode, len(p.RecordBatches))
	}
	// KIP-467: a record without a key is refused by name.
	null := protocol.BuildBatch([]protocol.Record{{Timestamp: time.Now().UnixMilli(), Key: []byte("k")}, {Timestamp: time.Now().UnixMilli(), Value: []byte("v")}}, protocol.NewBatchOptions())
	if p := ask[*kmsg.ProduceResponse](raw, produceRequest(9, -1, compactedTopic, [16]byte{}, 0, null)).Topics[0].Partitions[0]; p.ErrorCode != kerr.InvalidRecord.Code ||
		len(p.ErrorRecords) != 1 || p.ErrorRecords[0].RelativeOffset != 1 {
		t.Errorf("a record without a key: %+v", p)
	}

	// All brokers start again, and go on.
	c.stop(c.nodes...)
	c.start(c.nodes...)
	c.agree("after a restart", 2000)
	c.write(5_000, keys)
	c.agree("after more", 2000)

	// One comes back without anything.
	wiped := c.nodes[2]
	old := wiped.self()
	c.stop(wiped)
	wiped.cfg.FS, wiped.cfg.HardStates, wiped.cfg.NodeID = vfs.NewMem(77), &memStore{m: make(map[raft.GroupID]raft.HardState)}, int32(old.ID)
	wiped.cfg.ReplaceDisk = fmt.Sprintf("%016x", uint64(old.Incarnation))
	c.write(2_000, keys)
	c.dead(old.ID) // another disk takes nobody's place who may be alive
	c.start(wiped)
	soon(t, "the new disk has a replica", func() bool { return wiped.rec.replica(c.group()) != nil })
	c.agree("rebuilt", 2500)
	if d := wiped.rec.replica(c.group()).Describe(); d.First == 1 || d.LogStart != 0 {
		t.Errorf("the rebuilt replica has entries from %d and offsets from %d: it was not given what is compacted", d.First, d.LogStart)
	}
	c.consumed("at last")
}

func (c *compacted) group() raft.GroupID {
	return c.running()[0].Image().Topic(compactedTopic).Partitions[0].Group
}

// A bit flips in a cleaned file, or it vanishes: the replica is refilled by its leader.
func TestCompactedDamageIsRepaired(t *testing.T) {
	c := newCompacted(t, nil)
	c.write(6_000, 100)
	c.agree("at first", 1500)
	for i, how := range []string{"flipped", "removed"} {
		n := c.nodes[(i+1)%3]
		dir := n.store.groupDir(c.group())
		n.cfg.DisableCleaner = true // what is damaged shall not be cleaned away before it is met
		c.stop(n)
		files := c.disks[n].files(t, dir, ".cln")
		if len(files) == 0 {
			t.Fatal("no cleaned file")
		}
		if how == "flipped" {
			c.disks[n].flip(t, files[0], 200)
		} else {
			c.disks[n].remove(t, files[0])
		}
		c.start(n)
		if how == "flipped" { // nobody knows before somebody reads
			soon(t, "a read meets the damage", func() bool {
				r := n.rec.replica(c.group())
				if r == nil {
					return false
				}
				_, err := r.Read(partition.ReadQuery{Offset: 0, MaxBytes: 1 << 20, LeaderEpoch: -1, AnyReplica: true})
				return err != nil && len(c.disks[n].files(t, dir, ".bad")) > 0 || n.log.contains("the log is damaged")
			})
		}
		soon(t, "the damage is noticed", func() bool { return n.log.contains("the log is damaged") })
		soon(t, "it is repaired", func() bool {
			r := n.rec.replica(c.group())
			if r == nil {
				return false
			}
			state, _ := r.State()
			d := r.Describe()
			return state == partition.StateOpen && d.DamagedUpTo == 0 && d.HighWatermark == int64(c.sent)
		})
		c.agree("after the file was "+how, 6_000)
		n.cfg.DisableCleaner = false
		c.stop(n)
		c.start(n)
	}
	c.write(1_000, 100)
	c.agree("after all", 1500)
}

// compact,delete: what is compacted goes by age as well.
func TestCompactAndDelete(t *testing.T) {
	c := newCompacted(t, map[string]string{"cleanup.policy": "compact,delete", "retention.bytes": "1", "retention.ms": "-1"})
	c.write(4_000, 2_000)
	soon(t, "the start has moved past what was compacted", func() bool {
		leader, all := c.replicas(compactedTopic)
		if leader == nil {
			return false
		}
		for _, r := range all {
			r.Housekeep()
		}
		return leader.LogStart() > 1000
	})
	for key := range c.want {
		delete(c.want, key) // which are left is retention's to say
	}
	c.consumedSome()
}

// consumedSome: a consumer that begins at the start reads on to the end.
func (c *compacted) consumedSome() {
	c.t.Helper()
	cl := newKafkaClient(c.t, c.running()[0], kgo.ConsumeTopics(compactedTopic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err := cl.ProduceSync(c.t.Context(), &kgo.Record{Topic: compactedTopic, Key: []byte("mark"), Value: []byte("mark")}).FirstErr(); err != nil {
		c.t.Fatal(err)
	}
	for marked := false; !marked; {
		fetches := cl.PollFetches(c.t.Context())
		if err := fetches.Err(); err != nil {
			c.t.Fatal(err)
		}
		fetches.EachRecord(func(r *kgo.Record) { marked = marked || string(r.Key) == "mark" })
	}
}

// Committed offsets are compacted: what a new coordinator reads is bounded by how much there is, not by how often it was written.
func TestOffsetsAreCompacted(t *testing.T) {
	c := newCluster(t, 1, true)
	n := c.nodes[0]
	n.cfg.CleanerPause, n.cfg.CleanerRate, n.cfg.OffsetsPartitions = 20*time.Millisecond, -1, 1
	c.start(n)
	n.mustCreate(t, "t", 1, 1)
	commit := kmsg.NewPtrOffsetCommitRequest()
	commit.Version, commit.Group, commit.Generation = 8, "g", -1
	ct := kmsg.NewOffsetCommitRequestTopic()
	ct.Topic = "t"
	cp := kmsg.NewOffsetCommitRequestTopicPartition()
	meta := fmt.Sprintf("%02000d", 0)
	cp.Metadata = &meta
	ct.Partitions = append(ct.Partitions, cp)
	commit.Topics = append(commit.Topics, ct)
	at := int64(0)
	fetch := func(want int64) {
		t.Helper()
		raw := dialKafka(t, n)
		soon(t, "the committed offset is there", func() bool {
			req := kmsg.NewPtrOffsetFetchRequest()
			req.Version = 8
			fg := kmsg.NewOffsetFetchRequestGroup()
			fg.Group = "g"
			req.Groups = append(req.Groups, fg)
			resp := ask[*kmsg.OffsetFetchResponse](raw, req)
			if len(resp.Groups) != 1 || resp.Groups[0].ErrorCode != 0 || len(resp.Groups[0].Topics) != 1 {
				return false
			}
			if got := resp.Groups[0].Topics[0].Partitions[0].Offset; got != want {
				t.Fatalf("committed is %d, want %d", got, want)
			}
			return true
		})
	}
	replica := func() *partition.Replica {
		topic := n.Image().Topic(coordinator.ConsumerOffsetsTopic)
		if topic == nil {
			return nil
		}
		return n.rec.replica(topic.Partitions[0].Group)
	}
	raw := dialKafka(t, n)
	find := kmsg.NewPtrFindCoordinatorRequest()
	find.CoordinatorKey = "g"
	soon(t, "offsets are compacted", func() bool {
		for range 200 {
			at++
			commit.Topics[0].Partitions[0].Offset = at
			if resp := ask[*kmsg.OffsetCommitResponse](raw, commit); resp.Topics[0].Partitions[0].ErrorCode != 0 {
				at--
				ask[*kmsg.FindCoordinatorResponse](raw, find) // which has the topic made
				return false
			}
		}
		r := replica()
		s := r.Settings()
		if s.SegmentBytes != 16<<20 && s.SegmentBytes != 64<<10 || !s.Compact {
			t.Fatalf("__consumer_offsets: compacted %v, segments of %d bytes", s.Compact, s.SegmentBytes)
		}
		s.SegmentBytes = 64 << 10 // segments of 16 MiB would take long to fill here
		if err := r.UpdateSettings(s); err != nil {
			t.Fatal(err)
		}
		return r.Describe().First > 1
	})
	fetch(at)
	c.stop(n)
	c.start(n)
	fetch(at)
}

// log.cleaner.backoff.ms, set while a broker runs, holds at once, however long the rest is that has begun.
func TestCleanerPause(t *testing.T) {
	if err := checkBrokerConfig("log.cleaner.backoff.ms", "15001"); err != nil { // sarama's own tests set it
		t.Fatal(err)
	}
	if appliers["log.cleaner.backoff.ms"] == nil {
		t.Fatal("nothing takes it")
	}
	looked := make(chan struct{}, 1)
	c := &cleaner{repaused: make(chan struct{}, 1), ready: func() bool {
		select {
		case looked <- struct{}{}:
		default:
		}
		return false
	}}
	c.pause.Store(int64(time.Hour))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { c.run(ctx); close(done) }()
	c.setPause(time.Millisecond)
	<-looked
	cancel()
	<-done
}

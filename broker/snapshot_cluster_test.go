// A broker that was away while all that it lacked was written and deleted: it comes back by snapshot, and is in sync.

package broker

import (
	"bytes"
	"sync"
	"testing"
	"time"

	"github.com/balsamq/balsa/partition"
	"github.com/balsamq/balsa/protocol"
)

// leaderOf is the broker that leads partition 0 of a topic with one, and its replica there.
func (c *testCluster) replicas(name string) (leader *partition.Replica, all map[*node]*partition.Replica) {
	all = map[*node]*partition.Replica{}
	for _, n := range c.running() {
		topic := n.Image().Topic(name)
		if topic == nil {
			continue
		}
		if r := n.rec.replica(topic.Partitions[0].Group); r != nil {
			all[n] = r
			if _, _, ready := r.Leader(); ready {
				leader = r
			}
		}
	}
	return leader, all
}

// writeAll appends one batch of each producer, and waits for all to be committed. What a change of leaders interrupts is sent
// again: it is known by its sequence.
func (c *testCluster) writeAll(topic string, producers int, sequence int32, value []byte) {
	c.t.Helper()
	left := make([]int, producers)
	for id := range left {
		left[id] = id
	}
	soon(c.t, "all is committed", func() bool {
		leader, _ := c.replicas(topic)
		if leader == nil {
			return false
		}
		var mu sync.Mutex
		var again []int
		var wg sync.WaitGroup
		for _, id := range left {
			o := protocol.NewBatchOptions()
			o.ProducerID, o.ProducerEpoch, o.BaseSequence = int64(id+1), 0, sequence
			wg.Add(1)
			leader.Append(&partition.AppendRequest{Batch: protocol.BuildBatch([]protocol.Record{{Value: value}}, o), Acks: -1, Done: func(res partition.AppendResult) {
				defer wg.Done()
				if res.Err != nil {
					mu.Lock()
					again = append(again, id)
					mu.Unlock()
				}
			}})
		}
		wg.Wait()
		left = again
		return len(left) == 0
	})
}

func TestBrokerComesBackBehindTheStart(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 3, false)
	for _, n := range c.nodes {
		n.cfg.ElectionTimeout = time.Second
	}
	c.start(c.nodes...)
	id := c.nodes[0].mustCreate(t, "t", 1, 3)
	soon(t, "the topic is served", func() bool { return c.served(id) })
	const producers = 2000
	value := bytes.Repeat([]byte("x"), 1000)
	c.writeAll("t", producers, 0, value)
	var away *node
	leader, all := c.replicas("t")
	for n, r := range all {
		if r != leader {
			away = n
		}
	}
	c.stop(away)
	for i := range int32(6) {
		c.writeAll("t", producers, 1+i, value)
	}
	soon(t, "there is a leader", func() bool { leader, _ = c.replicas("t"); return leader != nil })
	end, _ := leader.HighWatermark()
	start := end - 1234
	low := make(chan int64, 1)
	leader.DeleteBefore(start, func(at int64, err error) {
		if err != nil {
			t.Error(err)
		}
		low <- at
	})
	if got := <-low; got != start {
		t.Fatalf("the log starts at %d, asked for %d", got, start)
	}
	soon(t, "the files are gone", func() bool { return leader.Describe().Size < 6<<20 })
	c.writeAll("t", 500, 7, value)

	began := time.Now()
	c.start(away)
	took := time.Duration(0)
	soon(t, "it is in sync", func() bool {
		l, all := c.replicas("t")
		r := all[away]
		if l == nil || r == nil || len(l.ISR()) != 3 {
			return false
		}
		took = time.Since(began)
		d, want := r.Describe(), l.Describe()
		return d.HighWatermark == want.HighWatermark && d.LogStart == want.LogStart && d.Producers == want.Producers
	})
	soon(t, "there is a leader", func() bool { leader, all = c.replicas("t"); return leader != nil })
	d := all[away].Describe()
	if d.LogStart != start || d.HighWatermark != end+500 || d.Producers != producers {
		t.Errorf("it has [%d, %d) and %d producers, want [%d, %d) and %d", d.LogStart, d.HighWatermark, d.Producers, start, end+500, producers)
	}
	s := away.host.Stats()
	if s.SnapshotsInstalled == 0 {
		t.Error("it took in no snapshot")
	}
	t.Logf("in sync %v after its start: a snapshot of %d bytes, then %d records", took.Round(time.Millisecond), s.SnapshotBytesIn, d.HighWatermark-d.LogStart)
	// Each record that its leader has is there, at its offset.
	for at := start; at < end+500; {
		res, err := all[away].Read(partition.ReadQuery{Offset: at, MaxBytes: 1 << 20, LeaderEpoch: -1, AnyReplica: true})
		if err != nil || len(res.Batches) == 0 {
			t.Fatalf("read %d: %d batches, %v", at, len(res.Batches), err)
		}
		for _, raw := range res.Batches {
			if b := protocol.Batch(raw); b.BaseOffset() != at {
				t.Fatalf("a batch at %d, expected %d", b.BaseOffset(), at)
			} else {
				at = b.NextOffset()
			}
		}
	}
	// A repeat of what it learned from the snapshot is known as one, should it lead.
	if leader.Describe().Producers != d.Producers {
		t.Errorf("%d producers on the leader, %d here", leader.Describe().Producers, d.Producers)
	}
}

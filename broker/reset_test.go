package broker

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/balsamq/balsa/coordinator"
	"github.com/balsamq/balsa/partition"
	"github.com/balsamq/balsa/protocol"
	"github.com/balsamq/balsa/raft"
)

// place creates a topic of one partition on the given brokers.
func (n *node) place(t *testing.T, name string, replicas ...raft.NodeID) *coordinator.Topic {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	done := make(chan []topicResult, 1)
	n.CreateTopics(ctx, []newTopic{{Name: name, Assignment: [][]raft.NodeID{replicas}}}, false, func(r []topicResult) { done <- r })
	if r := (<-done)[0]; r.Err != nil {
		t.Fatal(r.Err)
	}
	return n.Image().Topic(name)
}

// write appends one record through whoever leads, until it is acknowledged.
func (c *testCluster) write(g raft.GroupID, value string) {
	c.t.Helper()
	soon(c.t, "a leader takes "+value, func() bool {
		for _, n := range c.running() {
			r := n.rec.replica(g)
			if r == nil {
				continue
			}
			if _, _, ready := r.Leader(); !ready {
				continue
			}
			done := make(chan partition.AppendResult, 1)
			r.Append(&partition.AppendRequest{Batch: testBatch(value), Acks: -1, Done: func(a partition.AppendResult) { done <- a }})
			if a := <-done; a.Err == nil {
				return true
			}
		}
		return false
	})
}

// values are the records that a broker's replica has below its high watermark.
func (n *node) values(g raft.GroupID) (out []string) {
	r := n.rec.replica(g)
	if r == nil {
		return nil
	}
	res, err := r.Read(partition.ReadQuery{Offset: 0, MaxBytes: 1 << 20, LeaderEpoch: -1, AnyReplica: true})
	if err != nil {
		return nil
	}
	for _, raw := range res.Batches {
		b, err := protocol.ParseBatch(raw)
		if err != nil {
			return nil
		}
		for rec, err := range b.Records(protocol.NewInflater(1 << 20)) {
			if err != nil {
				return nil
			}
			out = append(out, string(rec.Value))
		}
	}
	return out
}

// A partition loses two of its three replicas. The third goes on by an operator's word; when the two come back, they are not
// heard, and begin anew.
func TestResetPeers(t *testing.T) {
	c := newCluster(t, 5, true)
	c.start(c.nodes...)
	c.awaitVoters(5)
	byID := make(map[raft.NodeID]*node)
	for _, n := range c.nodes {
		byID[n.NodeID()] = n
	}
	topic := c.nodes[0].place(t, "t", 3, 4, 5)
	g := topic.Partitions[0].Group
	c.write(g, "a")
	soon(t, "3 has it", func() bool { return slices.Equal(byID[3].values(g), []string{"a"}) })
	// What only the majority has is lost with it.
	three := byID[3]
	c.stop(three)
	c.write(g, "lost")
	lost := []*node{byID[4], byID[5]}
	c.stop(lost...)
	c.start(three)
	_ = c.metaLeader()

	s := three.rec.replica(g).Raft().Status()
	survivor := three.self()
	err := three.change(t.Context(), &coordinator.Command{ResetPeers: &coordinator.ResetPeers{Topic: topic.ID, GroupReset: coordinator.GroupReset{
		Epoch: 1, Term: s.Term + 5, Leader: 3, Survivors: []raft.Member{survivor}}}})
	if err != nil {
		t.Fatal(err)
	}
	c.write(g, "b")
	if got := three.values(g); !slices.Equal(got, []string{"a", "b"}) {
		t.Fatalf("after the reset: %q", got)
	}
	soon(t, "the reset is done", func() bool { return three.Image().TopicByID(topic.ID).Partitions[0].Reset == nil })

	c.start(lost...)
	soon(t, "what came back is set aside", func() bool {
		for _, n := range lost {
			names, err := n.store.fs.ReadDir(n.store.groupsDir())
			if err != nil || !slices.ContainsFunc(names, func(s string) bool { return strings.HasPrefix(s, groupDirName(g)+partition.ResetSuffix) }) {
				return false
			}
			r := n.rec.replica(g)
			if r == nil || r.Raft() == nil || r.Raft().Status().Epoch != 1 {
				return false
			}
		}
		return true
	})
	c.write(g, "c")
	if got := three.values(g); !slices.Equal(got, []string{"a", "b", "c"}) {
		t.Fatalf("after the others came back: %q", got)
	}
	// And all of it is so after a restart of everyone.
	c.stop(c.nodes...)
	c.start(c.nodes...)
	c.write(g, "d")
	if got := three.values(g); !slices.Equal(got, []string{"a", "b", "c", "d"}) {
		t.Fatalf("after a restart: %q", got)
	}
	for _, n := range lost {
		if got := n.values(g); slices.Contains(got, "lost") {
			t.Fatalf("broker %d shows %q", n.NodeID(), got)
		}
	}
}

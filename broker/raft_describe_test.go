// Tests of what is said of Raft groups: by a group's number or name, over all brokers, also while some of them are gone; and
// of DescribeQuorum.

package broker

import (
	"bufio"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/balsamq/balsa/raft"
)

// get asks a broker's admin listener; an error that it answers is returned as such.
func (n *node) get(t *testing.T, path string, out any) error {
	t.Helper()
	resp, err := http.Get("http://" + n.AdminAddr() + path)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	d := json.NewDecoder(resp.Body)
	if resp.StatusCode != http.StatusOK {
		var e struct{ Error *adminError }
		if err := d.Decode(&e); err != nil || e.Error == nil {
			t.Fatalf("%s: status %d, %v", path, resp.StatusCode, err)
		}
		return e.Error
	}
	if err := d.Decode(out); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return nil
}

func TestRaftDescribe(t *testing.T) {
	c := newCluster(t, 3, true)
	for _, n := range c.nodes {
		n.cfg.AdminListen = "127.0.0.1:0"
	}
	c.start(c.nodes...)
	c.awaitVoters(3)
	id := c.nodes[0].mustCreate(t, "t", 2, 3)
	soon(t, "the topic is served", func() bool { return c.served(id) })
	table := func(n *node) (out groupTable) {
		t.Helper()
		if err := n.get(t, "/v1/raft/groups", &out); err != nil {
			t.Fatal(err)
		}
		return out
	}
	for _, n := range c.nodes { // any broker answers for all
		soon(t, "all is well", func() bool {
			got := table(n)
			return len(got.Missing) == 0 && len(got.Groups) == 3 && !slices.ContainsFunc(got.Groups, func(g groupSummary) bool {
				return len(g.Problems) > 0 || g.Leader == 0 || len(g.Replicas) != 3 || g.Lag != 0 || g.Commit == 0
			})
		})
	}
	n := c.nodes[1]
	for name, group := range map[string]raft.GroupID{"metadata": 1, "1": 1, "__cluster_metadata/0": 1, "t/0": n.Image().Topic("t").Partitions[0].Group, "t/1": n.Image().Topic("t").Partitions[1].Group} {
		var g groupState
		soon(t, name+" is at rest", func() bool {
			if err := n.get(t, "/v1/raft/groups/"+name, &g); err != nil {
				t.Fatal(err)
			}
			led := 0
			for _, r := range g.Replicas {
				if r.State != "open" || r.Leader == 0 || r.Term == 0 || r.Commit != r.Last || r.Stable != r.Last || r.First == 0 || r.Bytes == 0 ||
					r.Segments == 0 || r.Boot != 1 || r.Health != "ok" || len(r.Voters) != 3 || r.Error != "" || (r.HighWatermark < 0) != (group == 1) {
					return false
				}
				if r.Role == "leader" {
					if led++; !r.Ready || r.LeaseMillis <= 0 || len(r.Followers) != 2 || r.Followers[0].Match != r.Last || r.Followers[0].State != "replicate" || !r.Followers[0].Active {
						return false
					}
				}
			}
			return led == 1 && len(g.Replicas) == 3
		})
		if g.Group != group {
			t.Errorf("%s is group %d", name, g.Group)
		}
	}
	for name, kind := range map[string]adminKind{"99": adminNotFound, "nope": adminNotFound, "nope/0": adminNotFound, "t": adminInvalid, "t/2": adminNotFound, "t/x": adminNotFound, "t/-1": adminNotFound, "t/0/0": adminNotFound} {
		err := n.get(t, "/v1/raft/groups/"+name, nil)
		if e, ok := errors.AsType[*adminError](err); !ok || e.Kind != kind || e.Mend == "" {
			t.Errorf("%s: %v", name, err)
		}
	}
	// The answer is bounded and goes on where it ended.
	lines, more := n.groupLines(raft.MetadataGroup)
	if len(lines) != 2 || more || lines[0].Group >= lines[1].Group {
		t.Errorf("lines above the metadata group: %+v %v", lines, more)
	}

	// One is gone: it is named, and the others tell what they can.
	gone := c.nodes[2].NodeID()
	c.stop(c.nodes[2])
	soon(t, "the missing broker is named", func() bool {
		got := table(n)
		return len(got.Missing) == 1 && got.Missing[0].Node == gone && got.Missing[0].Error != "" && !slices.ContainsFunc(got.Groups, func(g groupSummary) bool {
			return len(g.Problems) == 0 || len(g.Replicas) != 3 || g.Leader == 0
		})
	})
	soon(t, "the missing replica is named", func() bool {
		var g groupState
		if err := n.get(t, "/v1/raft/groups/t/0", &g); err != nil {
			t.Fatal(err)
		}
		i := slices.IndexFunc(g.Replicas, func(r *replicaState) bool { return r.Node == gone })
		return len(g.Replicas) == 3 && g.Replicas[i].State == "unknown" && g.Replicas[i].Error != ""
	})
	// The last one alone still says what it knows, and that nobody leads.
	c.stop(c.nodes[0])
	soon(t, "nobody leads", func() bool {
		return !slices.ContainsFunc(table(n).Groups, func(g groupSummary) bool {
			return g.Leader != 0 || !slices.Contains(g.Problems, "no leader") || len(g.Replicas) != 3
		})
	})
}

func TestDescribeQuorum(t *testing.T) {
	c := newCluster(t, 4, true) // three voters, one observer
	c.calm()
	c.start(c.nodes...)
	c.awaitVoters(3)
	for _, n := range c.nodes { // whoever is asked
		nc, err := net.Dial("tcp", n.KafkaAddr())
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		cl := &kafkaClient{t: t, nc: nc, br: bufio.NewReader(nc), f: kmsg.NewRequestFormatter(kmsg.FormatterClientID("test"))}
		for v := range int16(3) {
			req := kmsg.NewPtrDescribeQuorumRequest()
			for topic, part := range map[string]int32{metadataTopicName: 0, "t": 0} {
				rt := kmsg.NewDescribeQuorumRequestTopic()
				rt.Topic = topic
				p := kmsg.NewDescribeQuorumRequestTopicPartition()
				p.Partition = part
				rt.Partitions = append(rt.Partitions, p)
				req.Topics = append(req.Topics, rt)
			}
			slices.SortFunc(req.Topics, func(a, b kmsg.DescribeQuorumRequestTopic) int { return len(b.Topic) - len(a.Topic) })
			var p kmsg.DescribeQuorumResponseTopicPartition
			caughtUp := func() bool {
				req.SetVersion(v)
				resp := ask[*kmsg.DescribeQuorumResponse](cl, req)
				if other := resp.Topics[1].Partitions[0]; other.ErrorCode != kerr.UnknownTopicOrPartition.Code || v >= 2 && other.ErrorMessage == nil {
					t.Fatalf("v%d: topic t: %+v", v, other)
				}
				if v >= 2 && (len(resp.Nodes) != 3 || resp.Nodes[0].Listeners[0].Port == 0) {
					t.Fatalf("v%d: nodes %+v", v, resp.Nodes)
				}
				p = resp.Topics[0].Partitions[0]
				return p.ErrorCode == 0 && !slices.ContainsFunc(slices.Concat(p.CurrentVoters, p.Observers), func(s kmsg.DescribeQuorumResponseTopicPartitionReplicaState) bool {
					return s.LogEndOffset != p.HighWatermark || v >= 1 && (s.LastFetchTimestamp < time.Now().Add(-time.Minute).UnixMilli() || s.LastCaughtUpTimestamp != s.LastFetchTimestamp) ||
						v >= 2 && s.ReplicaDirectoryID == [16]byte{}
				})
			}
			soon(t, "the quorum has caught up, under the leader that it has", func() bool {
				return caughtUp() && p.LeaderID == int32(c.metaLeader().NodeID())
			})
			if p.LeaderEpoch < 1 || p.HighWatermark < 2 || len(p.CurrentVoters) != 3 || len(p.Observers) != 1 {
				t.Errorf("v%d of broker %d: %+v", v, n.NodeID(), p)
			}
		}
	}
}

func FuzzDecodeDescribe(f *testing.F) {
	for _, v := range []any{&describeRequest{Group: 7, After: 3}, &describeReply{Replica: &replicaState{Node: 1, Followers: []followerState{{Node: 2}}}, Lines: []groupLine{{Group: 1}}}} {
		b, err := encodeJSON(v)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, v := range []any{new(describeRequest), new(describeReply)} {
			if err := decodeJSON(b, v); err != nil && !errors.Is(err, errRPC) {
				t.Fatalf("unexpected kind of error: %v", err)
			}
		}
	})
}

// A move waits for a learner whose broker is gone: the table says so, though no leader's line and no assignment names that broker.
func TestSummaryNamesSilentLearners(t *testing.T) {
	lines := map[raft.NodeID]groupLine{
		1: {Group: 7, Leader: true, Ready: true, Term: 3, Commit: 9, Learner: []raft.NodeID{4, 5}},
		2: {Group: 7, Term: 3, Commit: 9},
		5: {Group: 7, Term: 3},
	}
	s := summarize(7, "a", 0, []raft.NodeID{1, 2}, lines, map[raft.NodeID]string{4: "unreachable"})
	if want := []string{"4 does not answer"}; !slices.Equal(s.Problems, want) {
		t.Errorf("problems %q, want %q", s.Problems, want)
	}
	delete(lines, 5)
	s = summarize(7, "a", 0, []raft.NodeID{1, 2}, lines, nil)
	if want := []string{"4: not open", "5: not open"}; !slices.Equal(s.Problems, want) {
		t.Errorf("problems %q, want %q", s.Problems, want)
	}
}

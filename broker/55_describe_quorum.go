// DescribeQuorum (key 55), versions 0 to 2: the group that holds the cluster's metadata, under the name that Kafka's has,
// __cluster_metadata-0. Kafka's brokers forward the request to the active controller; here any broker asks the metadata
// leader. v1 adds when each replica was last heard and last had everything, v2 messages, directory ids and endpoints.
//
// Offsets are Raft indexes: LogEndOffset is the one after the last entry on the replica's disk, and the high watermark the one
// after the last committed. A directory id is a replica's incarnation. What is not a voter is an observer.

package broker

import (
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/balsamq/balsa/raft"
)

func (s *server) describeQuorum(r *request) {
	req := r.msg.(*kmsg.DescribeQuorumRequest)
	ctx, cancel := context.WithCancel(r.c.ctx)
	s.b.Quorum(ctx, func(q *replicaState, err error) {
		cancel()
		resp := kmsg.NewPtrDescribeQuorumResponse()
		for i := range req.Topics {
			t := &req.Topics[i]
			rt := kmsg.NewDescribeQuorumResponseTopic()
			rt.Topic = t.Topic
			for k := range t.Partitions {
				p := kmsg.NewDescribeQuorumResponseTopicPartition()
				p.Partition = t.Partitions[k].Partition
				perr := err
				if t.Topic != metadataTopicName || p.Partition != 0 {
					perr = refuse(kerr.UnknownTopicOrPartition, fmt.Sprintf("only %s-0 has a quorum to describe; 'broker raft describe' shows every partition's", metadataTopicName))
				} else if err != nil {
					perr = refuse(kerr.NotLeaderForPartition, err.Error())
				}
				if perr != nil {
					p.LeaderID, p.LeaderEpoch, p.HighWatermark = -1, -1, -1
					p.ErrorCode, p.ErrorMessage = codeOf(perr), messageOf(perr)
				} else {
					s.fillQuorum(&p, q, time.Now().UnixMilli())
				}
				rt.Partitions = append(rt.Partitions, p)
			}
			resp.Topics = append(resp.Topics, rt)
		}
		if err == nil && req.Version >= 2 {
			s.quorumNodes(resp, q)
		}
		r.respond(resp)
	})
}

// fillQuorum is the metadata group as its leader told of it, at now in milliseconds.
func (s *server) fillQuorum(p *kmsg.DescribeQuorumResponseTopicPartition, q *replicaState, now int64) {
	p.LeaderID, p.LeaderEpoch, p.HighWatermark = int32(q.Node), int32(q.Term), int64(q.Commit)+1
	add := func(node raft.NodeID, voter bool) {
		st := kmsg.NewDescribeQuorumResponseTopicPartitionReplicaState()
		st.ReplicaID, st.LogEndOffset = int32(node), -1
		if b := s.b.Image().Broker(node); b != nil {
			binary.BigEndian.PutUint64(st.ReplicaDirectoryID[8:], uint64(b.Incarnation))
		}
		if node == q.Node { // as Kafka has it: a leader is always up to date
			st.LogEndOffset, st.LastFetchTimestamp, st.LastCaughtUpTimestamp = int64(q.Stable)+1, now, now
		}
		if i := slices.IndexFunc(q.Followers, func(f followerState) bool { return f.Node == node }); i >= 0 {
			f := &q.Followers[i]
			st.LogEndOffset = int64(f.Match) + 1
			if f.ContactMillis >= 0 {
				st.LastFetchTimestamp = now - f.ContactMillis
				if f.Lag == 0 {
					st.LastCaughtUpTimestamp = st.LastFetchTimestamp
				}
			}
		}
		if voter {
			p.CurrentVoters = append(p.CurrentVoters, st)
		} else {
			p.Observers = append(p.Observers, st)
		}
	}
	voters := slices.Concat(q.Voters, q.Outgoing)
	slices.Sort(voters)
	for _, node := range slices.Compact(voters) {
		add(node, true)
	}
	for _, node := range q.Learners {
		add(node, false)
	}
}

// quorumNodes names the voters' endpoints.
func (s *server) quorumNodes(resp *kmsg.DescribeQuorumResponse, q *replicaState) {
	for _, node := range q.Voters {
		b := s.b.Image().Broker(node)
		if b == nil {
			continue
		}
		n := kmsg.NewDescribeQuorumResponseNode()
		n.NodeID = int32(node)
		host, port, err := splitAddr(b.RPC)
		if err != nil {
			continue
		}
		l := kmsg.NewDescribeQuorumResponseNodeListener()
		l.Name, l.Host = quorumListener, host
		l.Port = uint16(max(port, 0))
		n.Listeners = append(n.Listeners, l)
		resp.Nodes = append(resp.Nodes, n)
	}
}

// quorumListener is the name of the listener by which voters talk to each other. It does not speak Kafka.
const quorumListener = "RPC"

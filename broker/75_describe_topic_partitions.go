// DescribeTopicPartitions (key 75), version 0: topics and their partitions in pages (KIP-966). Topics come by name, whatever the order of the
// request; a page has at most as many partitions as the client asks for and as we give, and a cursor says where the next one begins.
//
// Replicas that are not in sync and could lead all the same (eligible leader replicas) there are none: who leads has every
// acknowledged record, or nobody does.

package broker

import (
	"cmp"
	"slices"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/balsamq/balsa/coordinator"
)

// maxDescribedPartitions is max.request.partition.size.limit, Kafka's bound on a page.
const maxDescribedPartitions = 2000

func (s *server) describeTopicPartitions(r *request) {
	req := r.msg.(*kmsg.DescribeTopicPartitionsRequest)
	resp := kmsg.NewPtrDescribeTopicPartitionsResponse()
	im := s.b.Image()
	names := make([]string, 0, len(req.Topics))
	for i := range req.Topics {
		names = append(names, req.Topics[i].Topic)
	}
	all := len(names) == 0
	if all {
		for _, t := range im.Topics() {
			names = append(names, t.Name)
		}
	}
	slices.Sort(names)
	names = slices.Compact(names)
	first := int32(0)
	if c := req.Cursor; c != nil {
		if c.Partition < 0 {
			for _, name := range names {
				resp.Topics = append(resp.Topics, topicPartitionsError(name, refuse(kerr.InvalidRequest, "the cursor's partition is negative")))
			}
			r.respond(resp)
			return
		}
		at, found := slices.BinarySearchFunc(names, c.Topic, cmp.Compare[string])
		names = names[at:]
		if found {
			first = c.Partition
		}
	}
	left := int(min(max(req.ResponsePartitionLimit, 1), maxDescribedPartitions))
	for _, name := range names {
		if left == 0 {
			resp.NextCursor = topicCursor(name, 0)
			break
		}
		t, err := findTopic(im, false, name, [16]byte{})
		if err != nil {
			if cerr := coordinator.CheckTopicName(name); cerr != nil {
				err = cerr
			}
			if !all {
				resp.Topics = append(resp.Topics, topicPartitionsError(name, err))
			}
			first = 0
			continue
		}
		rt := kmsg.NewDescribeTopicPartitionsResponseTopic()
		rt.Topic, rt.TopicID, rt.IsInternal, rt.AuthorizedOperations = &t.Name, t.ID, t.Internal(), topicOperations
		p := first
		first = 0
		for ; int(p) < len(t.Partitions) && left > 0; p, left = p+1, left-1 {
			rt.Partitions = append(rt.Partitions, s.describedPartition(im, t, p))
		}
		resp.Topics = append(resp.Topics, rt)
		if int(p) < len(t.Partitions) {
			resp.NextCursor = topicCursor(name, p)
			break
		}
	}
	r.respond(resp)
}

func topicCursor(name string, p int32) *kmsg.DescribeTopicPartitionsResponseNextCursor {
	c := kmsg.NewDescribeTopicPartitionsResponseNextCursor()
	c.Topic, c.Partition = name, p
	return &c
}

func topicPartitionsError(name string, err error) kmsg.DescribeTopicPartitionsResponseTopic {
	rt := kmsg.NewDescribeTopicPartitionsResponseTopic()
	rt.Topic, rt.ErrorCode = &name, codeOf(err)
	return rt
}

func (s *server) describedPartition(im *coordinator.Image, t *coordinator.Topic, i int32) kmsg.DescribeTopicPartitionsResponseTopicPartition {
	p := kmsg.NewDescribeTopicPartitionsResponseTopicPartition()
	p.Partition, p.LeaderID, p.LeaderEpoch = i, -1, -1
	p.Replicas, p.ISR, p.OfflineReplicas = s.replicasOf(im, t, i)
	p.EligibleLeaderReplicas, p.LastKnownELR = []int32{}, []int32{}
	leader, epoch, ok := s.b.Leader(t.ID, i)
	if epoch > 0 { // also where nobody leads: as in Metadata
		p.LeaderEpoch = epoch
	}
	if ok && (leader == s.b.NodeID() || alive(im, leader)) {
		p.LeaderID = int32(leader)
	} else {
		p.ErrorCode = kerr.LeaderNotAvailable.Code
	}
	return p
}

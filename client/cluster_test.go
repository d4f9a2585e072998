// The state of a cluster from what its brokers say, each in its own time.

package client

import (
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"
)

func TestClusterOf(t *testing.T) {
	type part struct {
		leader, epoch int32
		replicas, isr []int32
	}
	look := func(parts ...part) *kmsg.MetadataResponse {
		m := kmsg.NewPtrMetadataResponse()
		topic := kmsg.NewMetadataResponseTopic()
		topic.Topic = kmsg.StringPtr("t")
		for i, p := range parts {
			mp := kmsg.NewMetadataResponseTopicPartition()
			mp.Partition, mp.Leader, mp.LeaderEpoch, mp.Replicas, mp.ISR = int32(i), p.leader, p.epoch, p.replicas, p.isr
			topic.Partitions = append(topic.Partitions, mp)
		}
		m.Topics = append(m.Topics, topic)
		return m
	}
	all, two := []int32{1, 2, 3}, []int32{1, 2}
	for _, tc := range []struct {
		name                   string
		fenced                 int32
		looks                  []*kmsg.MetadataResponse
		state3                 string
		leaderless, under      int
		leaders1, leaders2, r3 int
	}{
		{name: "all is well", looks: []*kmsg.MetadataResponse{look(part{1, 5, all, all}), look(part{1, 5, all, all}), look(part{1, 5, all, all})},
			state3: BrokerLive, leaders1: 1, r3: 1},
		{name: "only the leader knows who is behind", looks: []*kmsg.MetadataResponse{look(part{2, 5, all, all}), look(part{2, 5, all, two}), look(part{2, 5, all, all})},
			state3: BrokerLive, under: 1, leaders2: 1, r3: 1},
		{name: "one has not heard of the election", looks: []*kmsg.MetadataResponse{look(part{1, 4, all, all}), look(part{2, 5, all, all}), look(part{1, 4, all, all})},
			state3: BrokerLive, leaders2: 1, r3: 1},
		{name: "a follower has just died", looks: []*kmsg.MetadataResponse{look(part{1, 5, all, all}), look(part{1, 5, all, all}), nil},
			state3: BrokerSilent, under: 1, leaders1: 1, r3: 1},
		{name: "a leader has just died", looks: []*kmsg.MetadataResponse{look(part{3, 5, all, all}), look(part{3, 5, all, all}), nil},
			state3: BrokerSilent, under: 1, leaderless: 1, r3: 1},
		{name: "a leader has lost its majority", fenced: 3, looks: []*kmsg.MetadataResponse{look(part{-1, -1, []int32{1, 3}, []int32{1}}), look(part{1, 6, []int32{1, 3}, []int32{1, 3}}), nil},
			state3: BrokerFenced, under: 1, leaderless: 1, r3: 1},
		{name: "an earlier leader knows of no other", looks: []*kmsg.MetadataResponse{look(part{-1, -1, all, all}), look(part{2, 6, all, all}), look(part{2, 6, all, all})},
			state3: BrokerLive, leaders2: 1, r3: 1},
		{name: "one is fenced", fenced: 3, looks: []*kmsg.MetadataResponse{look(part{1, 6, all, two}), look(part{1, 6, all, two}), nil},
			state3: BrokerFenced, under: 1, leaders1: 1, r3: 1},
		{name: "nobody leads, and one has not heard who was in sync", looks: []*kmsg.MetadataResponse{look(part{-1, 6, all, all}), look(part{-1, 6, all, two[:1]}), look(part{-1, 6, all, all})},
			state3: BrokerLive, leaderless: 1, under: 1, r3: 1},
		{name: "nobody leads, and others have not heard yet", looks: []*kmsg.MetadataResponse{look(part{-1, -1, all, two[:1]}), look(part{1, 6, all, all}), look(part{1, 6, all, all})},
			state3: BrokerLive, leaderless: 1, under: 1, r3: 1},
		{name: "two partitions", looks: []*kmsg.MetadataResponse{look(part{1, 6, two, two}, part{2, 1, two, two[:1]}), look(part{1, 6, two, two}, part{2, 1, two, two}), look()},
			state3: BrokerLive, leaders1: 1, leaders2: 1},
	} {
		d := kmsg.NewPtrDescribeClusterResponse()
		d.ClusterID = "c"
		for id := int32(1); id <= 3; id++ {
			b := kmsg.NewDescribeClusterResponseBroker()
			b.NodeID, b.IsFenced = id, id == tc.fenced
			d.Brokers = append(d.Brokers, b)
		}
		c := clusterOf(d, tc.looks)
		if len(c.Brokers) != 3 || c.ID != "c" || c.Topics != 1 || c.Brokers[2].State != tc.state3 || c.Leaderless != tc.leaderless || c.UnderReplicated != tc.under ||
			c.Brokers[0].Leaders != tc.leaders1 || c.Brokers[1].Leaders != tc.leaders2 || c.Brokers[2].Replicas != tc.r3 {
			t.Errorf("%s: %+v", tc.name, c)
		}
	}
}

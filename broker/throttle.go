// How fast replicas that do not keep up are filled: Kafka's leader.replication.throttled.rate and follower.replication.throttled.rate, for the
// replicas that the topics' leader. and follower.replication.throttled.replicas name. A leader is bounded in what it sends, all followers together, and a
// follower in what it takes in, from all leaders together. But here leaders send, followers do not fetch: so each leader has a part of a follower's rate.

package broker

import (
	"time"

	"github.com/balsamq/balsa/coordinator"
	"github.com/balsamq/balsa/raft"
	"github.com/balsamq/balsa/raft/multi"
)

const (
	leaderRate        = "leader.replication.throttled.rate"
	followerRate      = "follower.replication.throttled.rate"
	leaderThrottled   = "leader.replication.throttled.replicas"
	followerThrottled = "follower.replication.throttled.replicas"
	// shareInterval is how often a broker looks who else fills the followers that it fills.
	shareInterval = time.Second
)

// throttleReplication sets how fast this broker fills replicas that do not keep up.
func (b *Broker) throttleReplication(im *coordinator.Image) {
	b.host.SetReplicationRates(replicationRates(im, b.NodeID(), func(topic coordinator.TopicID, partition int32) raft.NodeID {
		leader, _, _ := b.Leader(topic, partition)
		return leader
	}))
}

// replicationRates are a broker's own rate as a leader, 0 for none, and its part of each other broker's as a follower. leader is who leads a partition, or 0.
func replicationRates(im *coordinator.Image, self raft.NodeID, leader func(coordinator.TopicID, int32) raft.NodeID) (lead int64, followers map[raft.NodeID]int64) {
	rate := func(id raft.NodeID, name string) int64 {
		v, ok := setForBroker(im, id, name)
		if !ok {
			return 0
		}
		return max(number(v), 1) // a rate of 0 is next to none; here it would stand for no bound
	}
	followers = make(map[raft.NodeID]int64)
	for _, br := range im.Brokers() {
		if r := rate(br.ID, followerRate); r > 0 && br.ID != self {
			followers[br.ID] = r
		}
	}
	if len(followers) > 0 {
		for id, leaders := range fillers(im, leader) {
			if r := followers[id]; r > 0 {
				followers[id] = max(r/int64(len(leaders)), 1)
			}
		}
	}
	return rate(self, leaderRate), followers
}

// fillers are, for each broker that gets replicas whose filling is throttled by its rate as a follower, those that lead these partitions.
func fillers(im *coordinator.Image, leader func(coordinator.TopicID, int32) raft.NodeID) map[raft.NodeID]map[raft.NodeID]struct{} {
	all := make(map[raft.NodeID]map[raft.NodeID]struct{})
	for t := range im.All() {
		list := topicText(t.Configs, followerThrottled)
		if list == "" {
			continue
		}
		for i := range t.Partitions {
			for _, id := range t.Partitions[i].Adding() {
				if !throttles(list, int32(i), brokerName(id)) {
					continue
				}
				if l := leader(t.ID, int32(i)); l != 0 && l != id {
					if all[id] == nil {
						all[id] = make(map[raft.NodeID]struct{})
					}
					all[id][l] = struct{}{}
				}
			}
		}
	}
	return all
}

// throttled are a partition's replicas that are within the rates of throttleReplication, where this broker leads.
func throttled(configs map[string]string, self raft.NodeID, partition int32, p *coordinator.Partition) (t multi.Throttled) {
	if leaders := topicText(configs, leaderThrottled); leaders != "" {
		t.Leader = throttles(leaders, partition, brokerName(self))
	}
	if followers := topicText(configs, followerThrottled); followers != "" {
		for _, id := range p.Nodes() {
			if id != self && throttles(followers, partition, brokerName(id)) {
				t.Followers = append(t.Followers, id)
			}
		}
	}
	return t
}

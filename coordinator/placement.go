// Placement: which brokers hold a new partition's replicas, and which is asked to lead.
//
// Greedy, one partition after another, by what would be least even otherwise. Evenness within the topic comes before
// evenness over the cluster: a topic's load is spread only if its own leaders are, and a broker that has just joined must not
// become the leader of everything that is created from then on. Replicas of one partition avoid sharing a rack
// before anything else.

package coordinator

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/balsamq/balsa/raft"
)

// load counts what a broker holds.
type load struct{ leaders, replicas int }

// PlaceTopic places a new topic's partitions on the image's live brokers. The same image and seed give the same answer.
func (im *Image) PlaceTopic(partitions, replication int, seed uint64) ([][]raft.NodeID, error) {
	return im.place(im.LiveBrokers(), partitions, replication, seed)
}

// place is PlaceTopic on these brokers only.
func (im *Image) place(live []*Broker, partitions, replication int, seed uint64) ([][]raft.NodeID, error) {
	if partitions < 1 || partitions > MaxPartitionsPerTopic {
		return nil, fmt.Errorf("%w: %d, allowed are 1 to %d", ErrInvalidPartitions, partitions, MaxPartitionsPerTopic)
	}
	if replication < 1 || replication > MaxReplicationFactor {
		return nil, fmt.Errorf("%w: %d, allowed are 1 to %d", ErrInvalidReplicationFactor, replication, MaxReplicationFactor)
	}
	if replication > len(live) {
		return nil, fmt.Errorf("%w: %d, but only %d brokers are alive", ErrInvalidReplicationFactor, replication, len(live))
	}
	cluster := im.loads()
	type candidate struct {
		*Broker
		topic, cluster load
		turn           int // breaks ties, starting somewhere else each time
	}
	c := make([]candidate, len(live))
	for i, b := range live {
		c[i] = candidate{Broker: b, cluster: cluster[b.ID], turn: (i + int(seed%uint64(len(live)))) % len(live)}
	}
	out := make([][]raft.NodeID, partitions)
	for p := range out {
		racks := make(map[string]int, replication)
		rackUses := func(x *candidate) int {
			if x.Rack == "" {
				return 0 // no rack is a rack of its own
			}
			return racks[x.Rack]
		}
		for r := range replication {
			best := -1
			for i := range c {
				x := &c[i]
				if slices.Contains(out[p], x.ID) {
					continue
				}
				if best < 0 {
					best = i
					continue
				}
				y := &c[best]
				var o int
				if r == 0 {
					o = cmp.Or(preferable(x.Broker, y.Broker), cmp.Compare(x.topic.leaders, y.topic.leaders), cmp.Compare(x.topic.replicas, y.topic.replicas),
						cmp.Compare(x.cluster.leaders, y.cluster.leaders))
				} else {
					o = cmp.Or(cmp.Compare(rackUses(x), rackUses(y)), cmp.Compare(x.topic.replicas, y.topic.replicas))
				}
				if cmp.Or(o, cmp.Compare(x.cluster.replicas, y.cluster.replicas), cmp.Compare(x.turn, y.turn)) < 0 {
					best = i
				}
			}
			x := &c[best]
			out[p] = append(out[p], x.ID)
			racks[x.Rack]++
			x.topic.replicas++
			x.cluster.replicas++
			if r == 0 {
				x.topic.leaders++
				x.cluster.leaders++
			}
		}
	}
	return out, nil
}

// loads is what each broker holds, or is to hold.
func (im *Image) loads() map[raft.NodeID]load {
	cluster := make(map[raft.NodeID]load, len(im.brokers))
	for _, shard := range im.byGroup {
		for _, place := range shard {
			for i, r := range place.topic.Partitions[place.partition].Wanted() {
				l := cluster[r.ID]
				l.replicas++
				if i == 0 {
					l.leaders++
				}
				cluster[r.ID] = l
			}
		}
	}
	return cluster
}

// extend adds brokers to a partition's until there are n, from those given, which are more than enough: those of other
// racks before all, then those that hold least. load is kept up to date.
func (im *Image) extend(have []raft.NodeID, n int, on []*Broker, cluster map[raft.NodeID]load) []raft.NodeID {
	out := slices.Clone(have)
	racks := make(map[string]int, n)
	for _, id := range out {
		if b := im.Broker(id); b != nil {
			racks[b.Rack]++
		}
	}
	for len(out) < n {
		var best *Broker
		for _, b := range on {
			if slices.Contains(out, b.ID) {
				continue
			}
			uses := func(b *Broker) int {
				if b.Rack == "" {
					return 0 // no rack is a rack of its own
				}
				return racks[b.Rack]
			}
			if best == nil || cmp.Or(cmp.Compare(uses(b), uses(best)), cmp.Compare(cluster[b.ID].replicas, cluster[best.ID].replicas)) < 0 {
				best = b
			}
		}
		if best == nil {
			return out
		}
		out = append(out, best.ID)
		racks[best.Rack]++
		l := cluster[best.ID]
		l.replicas++
		cluster[best.ID] = l
	}
	return out
}

// preferable puts brokers that never lead last where a leader is placed.
func preferable(x, y *Broker) int {
	switch {
	case x.NeverLead == y.NeverLead:
		return 0
	case x.NeverLead:
		return 1
	}
	return -1
}

// CheckAssignment checks a manual assignment against the image: known live brokers, none twice, the same number of replicas
// everywhere. first is the number of the first partition.
func (im *Image) CheckAssignment(first int, replicas [][]raft.NodeID) error {
	if err := checkReplicas(first, replicas); err != nil {
		return err
	}
	for i, r := range replicas {
		if len(r) != len(replicas[0]) {
			return fmt.Errorf("%w: partition %d has %d replicas, partition %d has %d", ErrInvalidAssignment, first+i, len(r), first, len(replicas[0]))
		}
		for _, id := range r {
			if b := im.Broker(id); b == nil || b.Fenced {
				return fmt.Errorf("%w: partition %d names broker %d, which is not alive", ErrInvalidAssignment, first+i, id)
			}
		}
	}
	return nil
}

// Electing preferred leaders on request: the brokers that lead are asked to hand over.

package broker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/balsamq/balsa/coordinator"
	"github.com/balsamq/balsa/raft"
)

// electRounds bounds how often leaders that have moved meanwhile are asked for again.
const electRounds = 3

// HasLeader implements backend. Where the metadata group has no leader either, nobody is fenced: so presence counts, too.
func (b *Broker) HasLeader(topic coordinator.TopicID, partition int32) bool {
	leader, _, ok := b.Leader(topic, partition)
	return ok && b.peers.present(leader)
}

// ElectPreferred implements backend.
func (b *Broker) ElectPreferred(ctx context.Context, parts []topicPartition, done func([]error)) {
	b.admin(ctx, func(ctx context.Context) { done(b.electPreferred(ctx, parts)) }, func(err error) {
		errs := make([]error, len(parts))
		for i := range errs {
			errs[i] = err
		}
		done(errs)
	})
}

func (b *Broker) electPreferred(ctx context.Context, parts []topicPartition) []error {
	errs := make([]error, len(parts))
	todo := make([]int, len(parts))
	for i := range todo {
		todo[i] = i
	}
	for round := 1; len(todo) > 0; round++ {
		byLeader := make(map[raft.NodeID][]int)
		for _, i := range todo {
			leader, err := b.toElect(parts[i])
			if errs[i] = err; err == nil {
				byLeader[leader] = append(byLeader[leader], i)
			}
		}
		var wg sync.WaitGroup
		for leader, some := range byLeader { // one call at a time to each broker
			wg.Go(func() { b.electAt(ctx, leader, parts, some, errs) })
		}
		wg.Wait()
		todo = slices.DeleteFunc(todo, func(i int) bool { return !errors.Is(errs[i], errNotLed) })
		wait := askMin
		if round == electRounds || len(todo) == 0 || pause(ctx, &wait, askMax) != nil {
			break
		}
	}
	for i, err := range errs {
		errs[i] = electError(err)
	}
	return errs
}

// toElect is who must hand a partition over so that its preferred replica leads.
func (b *Broker) toElect(tp topicPartition) (leader raft.NodeID, err error) {
	p := &tp.topic.Partitions[tp.partition]
	im := b.Image()
	preferred, l := im.Preferred(p), b.peers.table.get(p.Group)
	br := im.Broker(preferred)
	switch {
	case l.leader == preferred:
		return 0, refuse(kerr.ElectionNotNeeded, fmt.Sprintf("broker %d leads already", preferred))
	case l.leader == 0:
		return 0, refuse(kerr.PreferredLeaderNotAvailable, "the partition has no leader at the moment that could hand over")
	case br == nil || br.Fenced || !b.peers.present(preferred):
		return 0, refuse(kerr.PreferredLeaderNotAvailable, fmt.Sprintf("broker %d, the preferred leader, is not there", preferred))
	}
	return l.leader, nil
}

// electAt has one broker hand over, and waits until this one's table shows what came of it.
func (b *Broker) electAt(ctx context.Context, leader raft.NodeID, parts []topicPartition, some []int, errs []error) {
	orders, before := make([]transferOrder, len(some)), make([]raft.Term, len(some))
	for k, i := range some {
		p := &parts[i].topic.Partitions[parts[i].partition]
		orders[k], before[k] = transferOrder{Group: p.Group, To: b.Image().Preferred(p)}, b.peers.table.get(p.Group).epoch
	}
	out, err := b.transferAt(ctx, leader, orders)
	for k, i := range some {
		if errs[i] = err; err == nil {
			if errs[i] = out[k].err(); errs[i] == nil {
				errs[i] = b.awaitLeader(ctx, orders[k].Group, orders[k].To, before[k])
			}
		}
	}
}

// electError is what a client is told about a transfer that did not come about.
func electError(err error) error {
	for _, e := range []error{errNotLed, errNoHeir, errHeirUnfit, errNotTakenOver} {
		if errors.Is(err, e) {
			return refuse(kerr.PreferredLeaderNotAvailable, err.Error())
		}
	}
	return err
}

// partitionOf finds a partition by the name of its topic.
func partitionOf(im *coordinator.Image, topic string, partition int32) (*coordinator.Topic, error) {
	t := im.Topic(topic)
	if t == nil {
		return nil, &namedError{fmt.Sprintf("topic %s does not exist", topic), coordinator.ErrUnknownTopic}
	}
	if partition < 0 || int(partition) >= len(t.Partitions) {
		has := fmt.Sprintf("partitions 0 to %d", len(t.Partitions)-1)
		if len(t.Partitions) == 1 {
			has = "partition 0 only"
		}
		return nil, &namedError{fmt.Sprintf("partition %s/%d does not exist: the topic has %s", topic, partition, has), coordinator.ErrUnknownTopic}
	}
	return t, nil
}

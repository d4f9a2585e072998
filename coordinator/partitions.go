// More partitions for a topic that is there. Those that it has stay as they are: records with keys may go elsewhere from then on.

package coordinator

import (
	"context"
	"fmt"
	"slices"

	"github.com/balsamq/balsa/raft"
)

// AddPartitions adds partitions to topics, each on its own. Group ids are given out when applied.
type AddPartitions struct {
	// Brokers are the incarnations that the placements were made for. If one is gone, nothing is added: ErrStale.
	Brokers []raft.Member    `json:"brokers"`
	Topics  []MorePartitions `json:"topics"`
}

// MorePartitions is one topic's part.
type MorePartitions struct {
	Topic TopicID `json:"topic"`
	// From is how many partitions the topic has. If it has another number by now, nothing is added.
	From     int32           `json:"from"`
	Replicas [][]raft.NodeID `json:"replicas"`
}

// GrowTopic asks for a topic to have Count partitions.
type GrowTopic struct {
	Topic TopicID `json:"topic"`
	Count int32   `json:"count"`
	// Assignment, if not empty, places the partitions that are new.
	Assignment [][]raft.NodeID `json:"assignment,omitempty"`
}

// Growth is what CreatePartitions wants.
type Growth struct {
	Topics       []GrowTopic `json:"topics"`
	ValidateOnly bool        `json:"validate_only,omitempty"`
}

func (a *AddPartitions) check() error {
	if len(a.Topics) == 0 || len(a.Topics) > MaxChangesPerCommand {
		return fmt.Errorf("%w: partitions for %d topics", ErrMalformed, len(a.Topics))
	}
	for i := range a.Topics {
		if t := &a.Topics[i]; t.Topic.IsZero() || t.From < 1 {
			return fmt.Errorf("%w: partitions for a topic without id or partitions", ErrMalformed)
		}
	}
	return nil
}

func (d *draft) addPartitions(a *AddPartitions) *Result {
	for _, m := range a.Brokers {
		if b := d.Broker(m.ID); b == nil || b.Incarnation != m.Incarnation {
			return &Result{Failure: FailureOf(fmt.Errorf("%w: broker %d is not there any more", ErrStale, m.ID))}
		}
	}
	r := &Result{Items: make([]Failure, len(a.Topics))}
	for i := range a.Topics {
		r.Items[i] = FailureOf(d.growTopic(&a.Topics[i], a.Brokers))
	}
	return r
}

func (d *draft) growTopic(m *MorePartitions, brokers []raft.Member) error {
	t := d.TopicByID(m.Topic)
	if t == nil {
		return fmt.Errorf("%w: id %s", ErrUnknownTopic, m.Topic)
	}
	if int(m.From) != len(t.Partitions) {
		return fmt.Errorf("%w: topic %s has %d partitions by now", ErrStale, t.Name, len(t.Partitions))
	}
	if n := len(t.Partitions) + len(m.Replicas); n > MaxPartitionsPerTopic {
		return fmt.Errorf("%w: %d, allowed are 1 to %d", ErrInvalidPartitions, n, MaxPartitionsPerTopic)
	}
	if err := checkReplicas(len(t.Partitions), m.Replicas); err != nil {
		return err
	}
	nt := *t
	nt.Partitions = slices.Clone(t.Partitions)
	group := d.nextGroup
	for i, ids := range m.Replicas {
		p := Partition{Group: group, Replicas: make([]raft.Member, len(ids))}
		group++
		for j, id := range ids {
			k := slices.IndexFunc(brokers, func(m raft.Member) bool { return m.ID == id })
			if k < 0 {
				return fmt.Errorf("%w: partition %d names broker %d, which is not known", ErrInvalidAssignment, int(m.From)+i, id)
			}
			p.Replicas[j] = brokers[k]
		}
		nt.Partitions = append(nt.Partitions, p)
	}
	d.nextGroup = group
	d.putTopic(&nt)
	return nil
}

// planGrowth is where the new partitions of a topic go, or why there will be none.
func (c *Controller) planGrowth(im *Image, g *GrowTopic, seed uint64) ([][]raft.NodeID, error) {
	t := im.TopicByID(g.Topic)
	if t == nil {
		return nil, fmt.Errorf("%w: id %s", ErrUnknownTopic, g.Topic)
	}
	have := len(t.Partitions)
	more := int(g.Count) - have
	switch {
	case more == 0:
		return nil, fmt.Errorf("%w: topic %s has %d already", ErrInvalidPartitions, t.Name, have)
	case more < 0:
		return nil, fmt.Errorf("%w: topic %s has %d, of which none can be taken away; %d would not be an increase", ErrInvalidPartitions, t.Name, have, g.Count)
	case int(g.Count) > MaxPartitionsPerTopic:
		return nil, fmt.Errorf("%w: %d, allowed are 1 to %d", ErrInvalidPartitions, g.Count, MaxPartitionsPerTopic)
	}
	replication := len(t.Partitions[0].Wanted())
	if len(g.Assignment) > 0 {
		if len(g.Assignment) != more {
			return nil, fmt.Errorf("%w: topic %s is to get %d more partitions, and %d are assigned", ErrInvalidAssignment, t.Name, more, len(g.Assignment))
		}
		for i, r := range g.Assignment {
			if len(r) != replication {
				return nil, fmt.Errorf("%w: partition %d is to have %d replicas, those of before have %d", ErrInvalidAssignment, have+i, len(r), replication)
			}
		}
		return g.Assignment, im.CheckAssignment(have, g.Assignment)
	}
	live := im.LiveBrokers()
	if trusted := c.trusted(live); len(trusted) >= replication {
		live = trusted
	}
	return im.place(live, more, replication, seed)
}

// grow carries out Growth. Placing is held.
func (c *Controller) grow(ctx context.Context, in *Intent) (*Result, error) {
	im := c.md.Image()
	g := in.Grow
	result := &Result{Index: im.version, Items: make([]Failure, len(g.Topics))}
	cmd := &AddPartitions{}
	var places []int
	used := make(map[raft.NodeID]bool)
	for i := range g.Topics {
		replicas, err := c.planGrowth(im, &g.Topics[i], c.cfg.Seed+uint64(im.nextGroup)+uint64(i))
		if err != nil {
			result.Items[i] = FailureOf(err)
			continue
		}
		for _, r := range replicas {
			for _, id := range r {
				used[id] = true
			}
		}
		t := im.TopicByID(g.Topics[i].Topic)
		cmd.Topics, places = append(cmd.Topics, MorePartitions{Topic: t.ID, From: int32(len(t.Partitions)), Replicas: replicas}), append(places, i)
	}
	if len(cmd.Topics) == 0 || g.ValidateOnly {
		return result, nil
	}
	for _, b := range im.brokers {
		if used[b.ID] {
			cmd.Brokers = append(cmd.Brokers, b.Member())
		}
	}
	r, err := c.propose(ctx, &Command{Request: in.Request, AddPartitions: cmd})
	if err != nil || r.Code != "" {
		return r, err
	}
	result.Index = r.Index
	for k, i := range places {
		result.Items[i] = r.Items[k]
	}
	return result, nil
}

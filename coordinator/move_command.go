// Moving partitions, as metadata: where a partition is to be (Reassign), that its group has got there (Settle), and that a
// broker is gone for good (UnregisterBroker). See docs/design/0011-moves.md.
//
// The metadata holds what is wanted and what came of it. What the group's membership is at any moment only the group's own
// log knows; the group's leader brings the one in line with the other (move.go).

package coordinator

import (
	"errors"
	"fmt"
	"slices"

	"github.com/balsamq/balsa/raft"
)

const (
	// MetadataVersion is the feature that gates commands.
	MetadataVersion = "metadata.version"
	// LevelMoves is the level of MetadataVersion that has the commands of this file.
	LevelMoves = 2
	// MaxMovesPerCommand bounds Reassign and Settle.
	MaxMovesPerCommand = 10_000
)

// Reassign sets where partitions are to be, or takes that back, each on its own.
type Reassign struct {
	// Brokers are the incarnations that are meant. If one is gone, nothing is done: ErrStale.
	Brokers []raft.Member `json:"brokers"`
	Moves   []Move        `json:"moves"`
}

// Move is one partition's part.
type Move struct {
	Topic     TopicID `json:"topic"`
	Partition int32   `json:"partition"`
	// Replicas are the brokers to move to, the preferred leader first.
	Replicas []raft.NodeID `json:"replicas,omitempty"`
	// Cancel, without Replicas, moves back to where the partition was before.
	Cancel bool `json:"cancel,omitempty"`
	// KeepCount refuses a different number of replicas (KIP-860).
	KeepCount bool `json:"keep_count,omitempty"`
}

// Settle is what leaders report: their groups' memberships are committed, and are what was wanted.
type Settle struct {
	Groups []Settled `json:"groups"`
}

// Settled is one group's membership, as of an index of its own log.
type Settled struct {
	Group  raft.GroupID    `json:"group"`
	Voters []raft.Member   `json:"voters"`
	Index  raft.Index      `json:"index"`
	Epoch  raft.GroupEpoch `json:"epoch,omitempty"` // of the group: indexes of an earlier one mean nothing in the next
}

// UnregisterBroker forgets a broker that is fenced and holds nothing. Its node id is not given out again by itself.
type UnregisterBroker struct {
	Node raft.NodeID `json:"node"`
}

func sameMembers(a, b []raft.Member) bool {
	return len(a) == len(b) && !slices.ContainsFunc(a, func(m raft.Member) bool { return !slices.Contains(b, m) })
}

func (d *draft) reassign(r *Reassign) *Result {
	for _, m := range r.Brokers {
		if b := d.Broker(m.ID); b == nil || b.Incarnation != m.Incarnation {
			return &Result{Failure: FailureOf(fmt.Errorf("%w: broker %d is not there any more", ErrStale, m.ID))}
		}
	}
	res := &Result{Moves: make([]Failure, len(r.Moves))}
	batch := d.batch()
	for i := range r.Moves {
		res.Moves[i] = FailureOf(batch.move(&r.Moves[i], r.Brokers))
	}
	batch.put()
	return res
}

// partitionBatch changes many partitions and copies each of their topics once.
type partitionBatch struct {
	d      *draft
	topics []*Topic // copies, in the order in which they were first touched
	byID   map[TopicID]*Topic
}

func (d *draft) batch() *partitionBatch {
	return &partitionBatch{d: d, byID: make(map[TopicID]*Topic)}
}

// at is a partition that may be changed in place.
func (b *partitionBatch) at(id TopicID, partition int32) (*Topic, *Partition, error) {
	t := b.byID[id]
	if t == nil {
		old := b.d.TopicByID(id)
		if old == nil {
			return nil, nil, fmt.Errorf("%w: id %s", ErrUnknownTopic, id)
		}
		c := *old
		c.Partitions = slices.Clone(old.Partitions)
		t = &c
		b.topics = append(b.topics, t)
		b.byID[id] = t
	}
	if partition < 0 || int(partition) >= len(t.Partitions) {
		return nil, nil, fmt.Errorf("%w: %s has no partition %d", ErrUnknownTopic, t.Name, partition)
	}
	return t, &t.Partitions[partition], nil
}

func (b *partitionBatch) put() {
	for _, t := range b.topics {
		b.d.putTopic(t)
	}
}

func (b *partitionBatch) move(m *Move, brokers []raft.Member) error {
	t, p, err := b.at(m.Topic, m.Partition)
	if err != nil {
		return err
	}
	target := p.Replicas
	switch {
	case m.Cancel && !p.Moving():
		return fmt.Errorf("%w: %s-%d", ErrNoMove, t.Name, m.Partition)
	case m.Cancel:
	default:
		switch err := checkReplicas(int(m.Partition), [][]raft.NodeID{m.Replicas}); {
		case errors.Is(err, ErrInvalidAssignment):
			return err
		case err != nil:
			return fmt.Errorf("%w: %v", ErrInvalidAssignment, err) // one sentinel: it becomes one code
		}
		if m.KeepCount && len(m.Replicas) != len(p.Replicas) {
			return fmt.Errorf("%w: %s-%d has %d replicas, not %d", ErrInvalidReplicationFactor, t.Name, m.Partition, len(p.Replicas), len(m.Replicas))
		}
		target = make([]raft.Member, len(m.Replicas))
		for i, id := range m.Replicas {
			k := slices.IndexFunc(brokers, func(b raft.Member) bool { return b.ID == id })
			if k < 0 {
				return fmt.Errorf("%w: broker %d is not known", ErrInvalidAssignment, id)
			}
			target[i] = brokers[k]
		}
	}
	if !p.Moving() && sameMembers(target, p.Replicas) {
		p.Replicas = target // only the order, and so the preferred leader
		return nil
	}
	if p.Founders == nil {
		p.Founders = p.Replicas
	}
	// Who was to get data may have it already, and may even be a voter.
	var leaving []raft.Member
	for _, m := range slices.Concat(p.Leaving, p.Target) {
		if !slices.Contains(p.Replicas, m) && !slices.Contains(target, m) && !slices.Contains(leaving, m) {
			leaving = append(leaving, m)
		}
	}
	p.Target, p.Leaving = target, leaving
	return nil
}

// settle takes what leaders report. A report for another target than the present one came too late, and is no harm.
func (d *draft) settle(s *Settle) error {
	batch := d.batch()
	for i := range s.Groups {
		g := &s.Groups[i]
		old, k, ok := d.Group(g.Group)
		if !ok {
			continue
		}
		_, p, err := batch.at(old.ID, k)
		if err != nil || g.Epoch != p.Epoch || p.Reset != nil || g.Index < p.Settled || !sameMembers(g.Voters, p.Wanted()) {
			continue
		}
		p.Replicas, p.Settled = p.Wanted(), g.Index
		p.Target, p.Leaving = nil, nil
	}
	batch.put()
	return nil
}

func (d *draft) unregister(u *UnregisterBroker) error {
	b := d.Broker(u.Node)
	switch {
	case b == nil:
		return fmt.Errorf("%w: %d", ErrUnknownBroker, u.Node)
	case !b.Fenced:
		return fmt.Errorf("%w: stop broker %d first", ErrBrokerAlive, u.Node)
	}
	held := 0
	for t := range d.All() {
		for i := range t.Partitions {
			if slices.Contains(t.Partitions[i].Nodes(), u.Node) {
				held++
			}
		}
	}
	if held > 0 {
		return fmt.Errorf("%w: broker %d is in %d partitions", ErrBrokerInUse, u.Node, held)
	}
	d.nextNode = max(d.nextNode, u.Node+1)
	d.dropBroker(u.Node)
	if name := fmt.Sprint(u.Node); d.brokerConfigs[name] != nil {
		delete(own(&d.brokerConfigs, &d.ownBrokerConfigs), name)
		d.configVersion = d.version + 1
	}
	return nil
}

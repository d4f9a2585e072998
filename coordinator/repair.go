// What the controller moves by itself, and what it makes of moves that are asked for.

package coordinator

import (
	"context"
	"fmt"
	"slices"

	"github.com/balsamq/balsa/raft"
)

// maxRepairMoves bounds what one round of repair asks for; the next round does the rest.
const maxRepairMoves = 1000

// reassign checks moves against the brokers there are, and proposes those that pass.
func (c *Controller) reassign(ctx context.Context, in *Intent) (*Result, error) {
	im := c.md.Image()
	cmd := &Reassign{}
	failures := make([]Failure, len(in.Moves))
	var places []int
	used := make(map[raft.NodeID]bool)
	for i := range in.Moves {
		m := &in.Moves[i]
		if err := im.checkMove(m); err != nil {
			failures[i] = FailureOf(err)
			continue
		}
		for _, id := range m.Replicas {
			used[id] = true
		}
		cmd.Moves, places = append(cmd.Moves, *m), append(places, i)
	}
	result := &Result{Index: im.version, Moves: failures}
	if len(cmd.Moves) == 0 {
		return result, nil
	}
	for _, b := range im.brokers {
		if used[b.ID] {
			cmd.Brokers = append(cmd.Brokers, b.Member())
		}
	}
	r, err := c.propose(ctx, &Command{Request: in.Request, Reassign: cmd})
	if err != nil || r.Code != "" {
		return r, err
	}
	result.Index = r.Index
	for k, i := range places {
		failures[i] = r.Moves[k]
	}
	return result, nil
}

// checkTakeover: a data directory takes the place of another one under the same node id only if somebody names that one. It may be an
// empty directory that stands where a disk should be mounted; and whoever takes a broker's place is given all that it held, while the
// disk with the data is shut out. (An incarnation, and not a yes: that would be left in a configuration, and say yes the next time.)
func (im *Image) checkTakeover(r *RegisterBroker) error {
	b := im.Broker(r.Node)
	switch {
	case b == nil || b.Incarnation == r.Incarnation:
		return nil
	case !b.Fenced:
		return errOtherAlive(b)
	case r.Replaces != b.Incarnation:
		return fmt.Errorf("%w: broker %d had another one when it was last heard from, at %s (incarnation %016x)", ErrOtherDisk, b.ID, b.RPC, uint64(b.Incarnation))
	}
	return nil
}

// checkMove is what an operator's move must meet and the state machine does not ask for: whoever is to get data is alive.
func (im *Image) checkMove(m *Move) error {
	_, p, err := im.partitionAt(m.Topic, m.Partition)
	if err != nil || m.Cancel {
		return err
	}
	if len(m.Replicas) == 0 {
		return fmt.Errorf("%w: it is empty", ErrInvalidAssignment)
	}
	alive := 0
	for _, id := range m.Replicas {
		b := im.Broker(id)
		if b != nil && !b.Fenced {
			alive++
		}
		switch {
		case b == nil:
			return fmt.Errorf("%w: broker %d is not known", ErrInvalidAssignment, id)
		case b.Fenced && !slices.Contains(p.Wanted(), b.Member()):
			return fmt.Errorf("%w: broker %d is not alive", ErrInvalidAssignment, id)
		}
	}
	if alive <= len(m.Replicas)/2 {
		return fmt.Errorf("%w: of %v only %d are alive, and the partition would have no leader", ErrInvalidAssignment, m.Replicas, alive)
	}
	return nil
}

// repair moves what need not wait to be asked for: replicas whose broker has another disk now, and internal topics that were
// made when there were fewer than three brokers.
func (c *Controller) repair(ctx context.Context) error {
	im := c.md.Image()
	if im.version == c.repaired || im.Feature(MetadataVersion) < LevelMoves {
		return nil
	}
	moves, waits := im.repairs(c.trusted(im.LiveBrokers()))
	if len(moves) == 0 {
		if !waits {
			c.repaired = im.version
		}
		return nil
	}
	cmd := &Reassign{Moves: moves}
	for _, b := range im.brokers {
		cmd.Brokers = append(cmd.Brokers, b.Member())
	}
	r, err := c.propose(ctx, &Command{Reassign: cmd})
	if err == nil && r.Code != "stale" { // then the next round sees what has changed
		err = r.Err()
	}
	if err != nil {
		return fmt.Errorf("repair %d partitions: %w", len(moves), err)
	}
	c.cfg.Logger.Info("partitions are repaired: replicas on disks that are gone are replaced, internal topics grow", "partitions", len(moves))
	return nil
}

// repairs are the moves that repair asks for. waits: there will be more when the brokers are trusted that are not yet.
func (im *Image) repairs(trusted []*Broker) (moves []Move, waits bool) {
	var cluster map[raft.NodeID]load
	for _, t := range im.Topics() {
		for i := range t.Partitions {
			if len(moves) == maxRepairMoves {
				return moves, true
			}
			p := &t.Partitions[i]
			want := p.Wanted()
			replaced := false
			ids := make([]raft.NodeID, len(want))
			for k, m := range want {
				b := im.Broker(m.ID)
				ids[k] = m.ID
				replaced = replaced || b != nil && b.Incarnation != m.Incarnation
			}
			grow := t.Internal() && !p.Moving() && len(want) < DefaultReplication && len(im.LiveBrokers()) >= DefaultReplication
			if grow && len(trusted) < DefaultReplication {
				grow, waits = false, true
			}
			if !replaced && !grow || slices.ContainsFunc(ids, func(id raft.NodeID) bool { return im.Broker(id) == nil }) {
				continue
			}
			if grow {
				if cluster == nil {
					cluster = im.loads()
				}
				ids = im.extend(ids, DefaultReplication, trusted, cluster)
			}
			moves = append(moves, Move{Topic: t.ID, Partition: int32(i), Replicas: ids})
		}
	}
	return moves, waits
}

// Moving partitions to other brokers, watching them, and removing a broker for good.

package client

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// The phases of a move.
const (
	PhaseWaiting   = "waiting"   // the new replicas have nothing yet
	PhaseCopying   = "copying"   // they are being filled
	PhaseSwitching = "switching" // they have everything, and are about to take over
	PhaseRemoving  = "removing"  // nothing is to be copied: replicas are only being removed, or a move taken back
)

// Move is a partition on its way to other brokers.
type Move struct {
	Topic     string  `json:"topic" yaml:"topic"`
	Partition int32   `json:"partition" yaml:"partition"`
	Leader    int32   `json:"leader" yaml:"leader"` // -1: none at the moment
	Replicas  []int32 `json:"replicas" yaml:"replicas"`
	Adding    []int32 `json:"adding" yaml:"adding"`
	Removing  []int32 `json:"removing" yaml:"removing"`
	Phase     string  `json:"phase" yaml:"phase"`
	// Copied and Total are bytes on the disks of all new replicas together: what there is, and what there is to be.
	Copied int64 `json:"copied" yaml:"copied"`
	Total  int64 `json:"total" yaml:"total"`
	// Lag is the number of offsets that the last of the new replicas is behind; -1: not known.
	Lag int64 `json:"lag" yaml:"lag"`
}

// Placement is the brokers that hold a partition, the preferred leader first, and those that would.
type Placement struct {
	Topic     string  `json:"topic" yaml:"topic"`
	Partition int32   `json:"partition" yaml:"partition"`
	Before    []int32 `json:"before" yaml:"before"`
	After     []int32 `json:"after" yaml:"after"`
}

// assignments are what the cluster is asked for.
func assignments(plan []Placement) (req kadm.AlterPartitionAssignmentsReq) {
	for _, p := range plan {
		req.Assign(p.Topic, p.Partition, p.After)
	}
	return req
}

// PlanMove says what MovePartition would ask for, and looks at what can be known beforehand: that partitions and brokers exist.
func (a *Admin) PlanMove(ctx context.Context, topic string, partition int32, to []int32) ([]Placement, error) {
	plan, err := a.planMove(ctx, topic, partition, to)
	if err != nil {
		return nil, err
	}
	all, err := a.members(ctx)
	if err != nil {
		return nil, err
	}
	for i, id := range to {
		if slices.Contains(to[:i], id) {
			return nil, &Error{Op: "move", Subject: topic, Kind: ErrInvalid, Err: fmt.Errorf("broker %d is named twice", id)}
		}
		if !slices.ContainsFunc(all.Brokers, func(b kmsg.DescribeClusterResponseBroker) bool { return b.NodeID == id }) {
			return nil, &Error{Op: "move", Subject: topic, Kind: ErrInvalid, Err: fmt.Errorf("there is no broker %d", id)}
		}
	}
	return plan, nil
}

func (a *Admin) planMove(ctx context.Context, topic string, partition int32, to []int32) ([]Placement, error) {
	if len(to) == 0 {
		return nil, &Error{Op: "move", Subject: topic, Kind: ErrInvalid, Err: errors.New("no brokers are named")}
	}
	partitions, err := a.existing(ctx, topic, partition)
	if err != nil {
		return nil, err
	}
	t, err := a.Topic(ctx, topic)
	if err != nil {
		return nil, err
	}
	plan := make([]Placement, 0, len(partitions))
	for _, p := range partitions {
		k := int(p) % len(to)
		if partition >= 0 {
			k = 0
		}
		m := Placement{Topic: topic, Partition: p, Before: []int32{}, After: slices.Concat(to[k:], to[:k])}
		if i := slices.IndexFunc(t.Partitions, func(x Partition) bool { return x.Partition == p }); i >= 0 {
			m.Before = t.Partitions[i].Replicas
		}
		plan = append(plan, m)
	}
	slices.SortFunc(plan, func(x, y Placement) int { return cmp.Compare(x.Partition, y.Partition) })
	return plan, nil
}

// MovePartition asks for a partition to be on these brokers, the preferred leader first; partition -1 means all of the topic, among
// which the preference goes round. It returns when that is decided: Moves shows how far it is.
func (a *Admin) MovePartition(ctx context.Context, topic string, partition int32, to []int32) (int, error) {
	plan, err := a.planMove(ctx, topic, partition, to)
	if err != nil {
		return 0, err
	}
	return len(plan), a.alter(ctx, "move", assignments(plan))
}

// CancelMove takes a partition back to where it was; partition -1 means all of the topic that are on their way. It returns
// how many those are.
func (a *Admin) CancelMove(ctx context.Context, topic string, partition int32) (int, error) {
	partitions, err := a.existing(ctx, topic, partition)
	if err != nil {
		return 0, err
	}
	if partition < 0 {
		moves, err := a.listMoves(ctx)
		if err != nil {
			return 0, err
		}
		partitions = nil
		for _, m := range moves {
			if m.Topic == topic {
				partitions = append(partitions, m.Partition)
			}
		}
	}
	var req kadm.AlterPartitionAssignmentsReq
	for _, p := range partitions {
		req.CancelAssign(topic, p)
	}
	return len(partitions), a.alter(ctx, "cancel the move of", req)
}

func (a *Admin) alter(ctx context.Context, op string, req kadm.AlterPartitionAssignmentsReq) error {
	resps, err := a.raw.AlterPartitionAssignments(ctx, req)
	if err != nil {
		return a.wrap(op, "", err)
	}
	for _, r := range resps.Sorted() {
		if r.Err != nil {
			return a.explain(op, partitionName(r.Topic, r.Partition), r.Err, r.ErrMessage)
		}
	}
	return nil
}

// listMoves is what is on its way, without its progress.
func (a *Admin) listMoves(ctx context.Context) ([]Move, error) {
	resp, err := kmsg.NewPtrListPartitionReassignmentsRequest().RequestWith(ctx, a.cl) // kadm cannot ask for all
	if err == nil {
		err = kerr.ErrorForCode(resp.ErrorCode)
	}
	if err != nil {
		return nil, a.wrap("list the moves", "", err)
	}
	moves := []Move{}
	for _, t := range resp.Topics {
		for _, p := range t.Partitions {
			moves = append(moves, Move{Topic: t.Topic, Partition: p.Partition, Leader: -1, Replicas: orEmpty(p.Replicas), Adding: orEmpty(p.AddingReplicas),
				Removing: orEmpty(p.RemovingReplicas), Lag: -1})
		}
	}
	slices.SortFunc(moves, func(x, y Move) int {
		return cmp.Or(cmp.Compare(x.Topic, y.Topic), cmp.Compare(x.Partition, y.Partition))
	})
	return moves, nil
}

// Moves are the partitions that are on their way to other brokers, by topic and partition.
func (a *Admin) Moves(ctx context.Context) ([]Move, error) {
	moves, err := a.listMoves(ctx)
	if err != nil || len(moves) == 0 {
		return moves, err
	}
	var set kadm.TopicsSet
	for _, m := range moves {
		set.Add(m.Topic, m.Partition)
	}
	// Each broker is asked by its id, as a partition may have no leader. One that is down is part of the picture, and no reason to
	// show none.
	dirs := make(kadm.DescribedAllLogDirs)
	for _, m := range moves {
		for _, id := range m.Replicas {
			if _, ok := dirs[id]; !ok {
				part, cancel := share(ctx, 4)
				dirs[id], _ = a.raw.DescribeBrokerLogDirs(part, id, set)
				cancel()
			}
		}
	}
	details, err := a.raw.ListTopicsWithInternal(fresh(ctx), set.Topics()...)
	if err != nil {
		return nil, a.wrap("ask who leads the moving partitions", "", err)
	}
	for i := range moves {
		m := &moves[i]
		if p, ok := details[m.Topic].Partitions[m.Partition]; ok && p.Leader >= 0 {
			m.Leader = p.Leader
		}
		m.measure(func(broker int32) (size, lag int64, ok bool) {
			d, ok := dirs[broker].LookupPartition(m.Topic, m.Partition)
			return d.Size, d.OffsetLag, ok
		})
	}
	return moves, nil
}

// measure fills in how far a move is, from what the brokers hold.
func (m *Move) measure(held func(broker int32) (size, lag int64, ok bool)) {
	whole := int64(0)
	for _, id := range m.Replicas {
		if size, _, ok := held(id); ok && (id == m.Leader || !slices.Contains(m.Adding, id)) {
			if whole = max(whole, size); id == m.Leader {
				whole = size
				break
			}
		}
	}
	m.Total, m.Lag = whole*int64(len(m.Adding)), 0
	some := false
	for _, id := range m.Adding {
		size, lag, ok := held(id)
		some = some || ok && size > 0
		m.Copied += min(size, whole)
		if !ok {
			lag = -1
		}
		if lag < 0 || m.Lag < 0 {
			m.Lag = -1
		} else {
			m.Lag = max(m.Lag, lag)
		}
	}
	switch {
	case len(m.Adding) == 0:
		m.Phase = PhaseRemoving
	case !some:
		m.Phase = PhaseWaiting
	case m.Lag == 0:
		m.Phase, m.Copied = PhaseSwitching, m.Total // sizes on disk are not equal to the byte
	default:
		m.Phase = PhaseCopying
	}
}

// Why RemoveBroker went no further.
var (
	// ErrBrokerRuns: all that it held is elsewhere now; it has to be stopped before it can be forgotten.
	ErrBrokerRuns = errors.New("the broker is emptied, and still runs")
	// ErrNoPlace: no other broker is left to take a replica.
	ErrNoPlace = errors.New("there is no other broker to take its place")
)

const (
	removePoll = 500 * time.Millisecond
	// removeStill is how often in a row nothing is on its way before the rest is planned anew: brokers hear of a move one by one.
	removeStill = 3
)

// RemoveBroker removes a broker for good: what it holds moves to other brokers, and then it is forgotten. It may be dead, and must
// be before it can be forgotten, or the error is [ErrBrokerRuns]. progress is called now and then with the number of partitions that it
// still holds. With shrink, partitions for which no other broker is left have a replica less afterwards; else they are an error,
// [ErrNoPlace], and nothing is done.
//
// It may take as long as copying takes; cut off, it can be called again.
func (a *Admin) RemoveBroker(ctx context.Context, id int32, shrink bool, progress func(left int)) error {
	subject := brokerName(id)
	if _, err := a.fenced(ctx, id); err != nil {
		return err
	}
	if err := a.drain(ctx, id, shrink, progress); err != nil {
		return err
	}
	for { // one that has just been stopped is missed after a while only
		fenced, err := a.fenced(ctx, id)
		if err != nil {
			return err
		}
		if fenced {
			break
		}
		if a.look(ctx, id) != nil {
			return &Error{Op: "remove", Subject: subject, Err: ErrBrokerRuns}
		}
		if err := wait(ctx, removePoll, "wait until the cluster has given up", subject); err != nil {
			return err
		}
	}
	unregister := kmsg.NewPtrUnregisterBrokerRequest()
	unregister.BrokerID = id
	resp, err := unregister.RequestWith(ctx, a.cl)
	if err != nil {
		return a.wrap("unregister", subject, err)
	}
	if err := kerr.ErrorForCode(resp.ErrorCode); err != nil {
		message := ""
		if resp.ErrorMessage != nil {
			message = *resp.ErrorMessage
		}
		return a.explain("unregister", subject, err, message)
	}
	return nil
}

// PlanRemoval says what RemoveBroker would move, and whether the broker still runs, so that it could not be forgotten yet.
func (a *Admin) PlanRemoval(ctx context.Context, id int32, shrink bool) (plan []Placement, runs bool, err error) {
	fenced, err := a.fenced(ctx, id)
	if err != nil {
		return nil, false, err
	}
	plan, _, _, err = a.planDrain(ctx, id, shrink)
	return plan, !fenced && a.look(ctx, id) != nil, err
}

func brokerName(id int32) string { return fmt.Sprintf("broker %d", id) }

func wait(ctx context.Context, d time.Duration, op, subject string) error {
	select {
	case <-ctx.Done():
		return wrap(op, subject, ctx.Err())
	case <-time.After(d):
		return nil
	}
}

// fenced reports whether the cluster has given a broker up; a broker that it does not know is an error.
func (a *Admin) fenced(ctx context.Context, id int32) (bool, error) {
	all, err := a.members(ctx)
	if err != nil {
		return false, err
	}
	i := slices.IndexFunc(all.Brokers, func(b kmsg.DescribeClusterResponseBroker) bool { return b.NodeID == id })
	if i < 0 {
		return false, &Error{Op: "look up", Subject: brokerName(id), Kind: ErrNotFound, Err: kerr.BrokerIDNotRegistered}
	}
	return all.Brokers[i].IsFenced, nil
}

// drain moves all away that a broker holds, and waits for it. Topics that are created meanwhile may be placed on the broker, and
// somebody may cancel a move: what is left and does not move is planned again.
func (a *Admin) drain(ctx context.Context, id int32, shrink bool, progress func(left int)) error {
	still := removeStill // the first plan is carried out at once
	for {
		plan, left, moving, err := a.planDrain(ctx, id, shrink)
		if err != nil || left == 0 {
			return err
		}
		if still++; moving > 0 {
			still = 0
		}
		if len(plan) > 0 && still > removeStill {
			if err := a.alter(ctx, "move from "+brokerName(id), assignments(plan)); err != nil {
				return err
			}
			still = 0
		}
		progress(left)
		if err := wait(ctx, removePoll, "wait until nothing is left on", brokerName(id)); err != nil {
			return err
		}
	}
}

// planDrain finds another broker for each replica of one: of those that do not hold the partition the one that holds least, in
// a rack that the partition is not in if there is one. held is how many partitions the broker is in, moving how many of them
// are leaving it already.
func (a *Admin) planDrain(ctx context.Context, id int32, shrink bool) (plan []Placement, held, moving int, err error) {
	plan = []Placement{}
	m, err := a.raw.Metadata(fresh(ctx))
	if err != nil {
		return nil, 0, 0, a.wrap("ask what the brokers hold", "", err)
	}
	load, racks := make(map[int32]int), make(map[int32]string)
	for _, b := range m.Brokers {
		load[b.NodeID] = 0
		if b.Rack != nil {
			racks[b.NodeID] = *b.Rack
		}
	}
	m.Topics.EachPartition(func(p kadm.PartitionDetail) {
		for _, r := range p.Replicas {
			load[r]++
		}
	})
	moves, err := a.listMoves(ctx)
	if err != nil {
		return nil, 0, 0, err
	}
	for _, t := range m.Topics.Sorted() {
		for _, p := range t.Partitions.Sorted() {
			if !slices.Contains(p.Replicas, id) {
				continue
			}
			held++
			replicas := slices.Clone(p.Replicas)
			if i := slices.IndexFunc(moves, func(v Move) bool { return v.Topic == t.Topic && v.Partition == p.Partition }); i >= 0 {
				replicas = slices.DeleteFunc(replicas, func(r int32) bool { return slices.Contains(moves[i].Removing, r) })
				if !slices.Contains(replicas, id) {
					moving++ // it is leaving already
					continue
				}
			}
			at := slices.Index(replicas, id)
			best := int32(-1)
			shares := func(c int32) int {
				n := 0
				for _, r := range replicas {
					if r != id && racks[c] != "" && racks[r] == racks[c] {
						n++
					}
				}
				return n
			}
			for _, b := range m.Brokers {
				c := b.NodeID
				if c != id && !slices.Contains(replicas, c) &&
					(best < 0 || cmp.Or(cmp.Compare(shares(c), shares(best)), cmp.Compare(load[c], load[best]), cmp.Compare(c, best)) < 0) {
					best = c
				}
			}
			switch {
			case best >= 0:
				replicas[at] = best
				load[best]++
			case shrink && len(replicas) > 1:
				replicas = slices.Delete(replicas, at, at+1)
			default:
				return nil, 0, 0, &Error{Op: "remove", Subject: brokerName(id),
					Err: fmt.Errorf("%s is on %d brokers: %w", partitionName(t.Topic, p.Partition), len(p.Replicas), ErrNoPlace)}
			}
			plan = append(plan, Placement{Topic: t.Topic, Partition: p.Partition, Before: slices.Clone(p.Replicas), After: replicas})
		}
	}
	return plan, held, moving, nil
}

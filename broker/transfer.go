// Handing leadership over: of one group, of those that another broker asks for, and of all before this broker stops.
//
// Only a group's leader can hand it over, so whoever wants that asks the leader's broker. A transfer lasts an election timeout
// at most and usually a few milliseconds, in which the group takes no records; so that many of them do not stretch each
// other, at most maxTransfers are under way at once.

package broker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/balsamq/balsa/coordinator"
	"github.com/balsamq/balsa/raft"
	"github.com/balsamq/balsa/raft/multi"
)

const (
	// maxTransfers bounds the transfers that one broker has under way for one purpose.
	maxTransfers = 32
	// maxTransferGroups bounds the groups of one call; more go with further calls.
	maxTransferGroups = 256
	// transferPoll is between two looks at whether a transfer is over.
	transferPoll = 2 * time.Millisecond
	// farewell is how long a broker that has given away what it led goes on answering its clients: each learns the new leader
	// from the answer to its next request. One that finds its connection closed instead may take seconds to ask around.
	farewell = 500 * time.Millisecond
	// heirLag is how many entries behind the commit index a voter may be to be handed leadership: what a transfer
	// makes good for in its time.
	heirLag = 1024
)

// Why a leader did not hand over. The texts go to operators.
var (
	errNotLed       = errors.New("another broker leads the partition")
	errNoHeir       = errors.New("no other replica is there, caught up and allowed to lead")
	errHeirUnfit    = errors.New("the replica that is to lead cannot")
	errNotTakenOver = errors.New("leadership was not taken over in time, and stays where it is")
	// errNoLeader never goes over the wire: whoever is to ask the leader has it.
	errNoLeader = errors.New("the partition has no leader that answers")
)

// transferErrors are part of the wire format.
var transferErrors = map[string]error{"not_led": errNotLed, "no_heir": errNoHeir, "unfit": errHeirUnfit, "not_taken_over": errNotTakenOver}

// transferRequest asks a broker to hand over groups that it leads.
type transferRequest struct {
	Groups []transferOrder `json:"groups"`
	// Probe asks instead whether the receiver's own replicas of the groups are fit to lead.
	Probe bool `json:"probe,omitempty"`
}

type transferOrder struct {
	Group raft.GroupID `json:"group"`
	To    raft.NodeID  `json:"to,omitempty"` // 0: whoever is fit
}

// transferReply has one outcome for each group, in the order of the request.
type transferReply struct {
	Outcomes []transferOutcome `json:"outcomes"`
}

type transferOutcome struct {
	Leader raft.NodeID `json:"leader,omitempty"` // who leads now, as far as known
	Code   string      `json:"code,omitempty"`   // of transferErrors, or "other"; empty: done
	Text   string      `json:"text,omitempty"`
}

func (o *transferOutcome) err() error {
	switch {
	case o.Code == "":
		return nil
	case transferErrors[o.Code] != nil:
		return &namedError{o.Text, transferErrors[o.Code]}
	}
	return errors.New(o.Text)
}

// namedError is one of the sentinels with a text that says all: it has been over the wire, or names what is missing better.
type namedError struct {
	text string
	kind error
}

func (e *namedError) Error() string { return e.text }
func (e *namedError) Unwrap() error { return e.kind }

func outcomeOf(leader raft.NodeID, err error) transferOutcome {
	o := transferOutcome{Leader: leader}
	if err != nil {
		o.Code, o.Text = "other", err.Error()
		for code, sentinel := range transferErrors {
			if errors.Is(err, sentinel) { // none wraps another
				o.Code = code
			}
		}
	}
	return o
}

// serveTransfer carries out another broker's request.
func (b *Broker) serveTransfer(ctx context.Context, q *transferRequest) *transferReply {
	reply := &transferReply{Outcomes: make([]transferOutcome, len(q.Groups))}
	if len(q.Groups) > maxTransferGroups {
		err := fmt.Errorf("%d groups in one call, at most %d", len(q.Groups), maxTransferGroups)
		for i := range reply.Outcomes {
			reply.Outcomes[i] = outcomeOf(0, err)
		}
		return reply
	}
	var g errgroup.Group
	g.SetLimit(maxTransfers)
	for i, o := range q.Groups {
		if q.Probe {
			reply.Outcomes[i] = outcomeOf(0, b.fit(o.Group))
			continue
		}
		g.Go(func() error {
			reply.Outcomes[i] = outcomeOf(b.transferLed(ctx, o.Group, o.To))
			return nil
		})
	}
	_ = g.Wait() // outcomes carry the errors
	return reply
}

// fit says what keeps this broker's replica of a group from leading well.
func (b *Broker) fit(g raft.GroupID) error {
	rep := b.rec.replica(g)
	if rep == nil || b.leaving.Load() {
		return fmt.Errorf("%w: broker %d is stopping, or has not opened it yet", errHeirUnfit, b.NodeID())
	}
	if err := rep.Fit(); err != nil {
		return fmt.Errorf("%w: broker %d: %w", errHeirUnfit, b.NodeID(), err)
	}
	return nil
}

// transferAt has transfers carried out by the broker that leads the groups.
func (b *Broker) transferAt(ctx context.Context, leader raft.NodeID, orders []transferOrder) ([]transferOutcome, error) {
	return b.askTransfers(ctx, leader, orders, false)
}

// probe asks a broker whether its replicas of groups are fit to lead: one error, or nil, for each.
func (b *Broker) probe(ctx context.Context, node raft.NodeID, groups []raft.GroupID) []error {
	orders := make([]transferOrder, len(groups))
	for i, g := range groups {
		orders[i].Group = g
	}
	ctx, cancel := context.WithTimeout(ctx, rpcTimeout)
	defer cancel()
	out, err := b.askTransfers(ctx, node, orders, true)
	errs := make([]error, len(groups))
	for i := range errs {
		if errs[i] = err; err == nil {
			errs[i] = out[i].err()
		}
	}
	return errs
}

func (b *Broker) askTransfers(ctx context.Context, node raft.NodeID, orders []transferOrder, probe bool) ([]transferOutcome, error) {
	out := make([]transferOutcome, 0, len(orders))
	for chunk := range slices.Chunk(orders, maxTransferGroups) {
		q := &transferRequest{Groups: chunk, Probe: probe}
		if node == b.NodeID() {
			out = append(out, b.serveTransfer(ctx, q).Outcomes...)
			continue
		}
		body, err := encodeJSON(q)
		if err != nil {
			return nil, err
		}
		answer, err := b.tr.Call(ctx, node, methodTransfer, body)
		if err != nil {
			return nil, fmt.Errorf("ask broker %d about leadership: %w", node, err)
		}
		var reply transferReply
		if err := decodeJSON(answer, &reply); err != nil {
			return nil, err
		}
		if len(reply.Outcomes) != len(chunk) {
			return nil, fmt.Errorf("%w: %d outcomes for %d transfers", errRPC, len(reply.Outcomes), len(chunk))
		}
		out = append(out, reply.Outcomes...)
	}
	return out, nil
}

// transferLed hands over one group that this broker leads, to a given voter or to whoever is fit (0). It returns when
// another leader is known.
func (b *Broker) transferLed(ctx context.Context, id raft.GroupID, to raft.NodeID) (raft.NodeID, error) {
	g := b.host.Group(id)
	if g == nil {
		return 0, errNotLed
	}
	s := g.Status()
	switch {
	case s.Role != raft.Leader:
		return s.Leader, errNotLed
	case to == b.NodeID():
		return to, nil
	}
	heirs := b.heirs(g, &s)
	switch {
	case to == 0 && len(heirs) == 0:
		return b.NodeID(), errNoHeir
	case to == 0:
		to = heirs[0]
	case !slices.Contains(heirs, to):
		return b.NodeID(), fmt.Errorf("%w: %s", errHeirUnfit, b.whyUnfit(g, &s, to))
	}
	return b.give(ctx, g, to)
}

// give hands a group over, and waits for what comes of it.
func (b *Broker) give(ctx context.Context, g *multi.Group, to raft.NodeID) (raft.NodeID, error) {
	term := g.Status().Term
	begun := make(chan error, 1)
	g.Transfer(to, func(err error) { begun <- err })
	switch err := <-begun; { // at the group's next turn, or at once
	case errors.Is(err, multi.ErrNotLeader):
		return g.Status().Leader, errNotLed
	case err != nil:
		return b.NodeID(), fmt.Errorf("%w: %w", errHeirUnfit, err)
	}
	ticker := time.NewTicker(transferPoll)
	defer ticker.Stop()
	// The group gives up after an election timeout, and says nothing.
	deadline := time.NewTimer(b.cfg.ElectionTimeout + b.cfg.ElectionTimeout/4)
	defer deadline.Stop()
	for {
		switch s := g.Status(); {
		case s.Leader == to && s.Term > term:
			return to, nil
		case s.Leader != 0 && s.Leader != b.NodeID():
			return s.Leader, fmt.Errorf("%w: broker %d leads now", errNotTakenOver, s.Leader)
		case s.Err != nil:
			return 0, s.Err
		}
		select {
		case <-ticker.C:
		case <-deadline.C:
			return g.Status().Leader, fmt.Errorf("%w: broker %d is slow, or does not hear this one", errNotTakenOver, to)
		case <-ctx.Done():
			return g.Status().Leader, ctx.Err()
		}
	}
}

// heirs are the voters fit to lead a group that this broker leads: there, allowed to, and caught up; the best first, which is the
// preferred one, then the order of the assignment.
func (b *Broker) heirs(g *multi.Group, s *multi.Status) []raft.NodeID {
	var fit []raft.NodeID
	im := b.Image()
	t, p, ok := im.Group(g.ID())
	for _, m := range s.Conf.Voters {
		if m.ID != b.NodeID() && b.whyUnfit(g, s, m.ID) == "" {
			fit = append(fit, m.ID)
		}
	}
	if ok {
		place := func(id raft.NodeID) int {
			return slices.IndexFunc(t.Partitions[p].Replicas, func(m raft.Member) bool { return m.ID == id })
		}
		slices.SortFunc(fit, func(x, y raft.NodeID) int { return place(x) - place(y) })
	}
	return fit
}

// whyUnfit says why a node cannot be handed a group that this broker leads; empty: it can.
func (b *Broker) whyUnfit(g *multi.Group, s *multi.Status, id raft.NodeID) string {
	im := b.Image()
	if t, p, ok := im.Group(g.ID()); ok && !im.MayLead(&t.Partitions[p], id) && t.Partitions[p].HasReplica(id) {
		return fmt.Sprintf("broker %d never leads (its setting never-lead)", id)
	}
	peers := g.Peers()
	i := slices.IndexFunc(peers, func(p multi.PeerStatus) bool { return p.Member.ID == id })
	switch {
	case i < 0:
		return fmt.Sprintf("broker %d has no replica of it", id)
	case peers[i].Learner:
		return fmt.Sprintf("the replica on broker %d does not vote yet", id)
	case !peers[i].Active || !b.peers.present(id):
		return fmt.Sprintf("broker %d does not answer", id)
	case peers[i].State == raft.SnapshotState || peers[i].Match+heirLag < s.Commit:
		return fmt.Sprintf("the replica on broker %d is not caught up: it has %d of %d entries", id, peers[i].Match, s.Commit)
	}
	return ""
}

// spread puts those who lead least first, and counts the first one's new group.
func spread(heirs []raft.NodeID, led map[raft.NodeID]int) {
	slices.SortStableFunc(heirs, func(x, y raft.NodeID) int { return led[x] - led[y] })
	led[heirs[0]]++
}

// handOver gives away all that this broker leads, evenly over those who can take it, and takes nothing back: within
// CloseTimeout, or not.
func (b *Broker) handOver() {
	b.leaving.Store(true)
	ctx, cancel := context.WithTimeout(b.ctx, b.cfg.CloseTimeout)
	defer cancel()
	b.bridges.leave(ctx)
	groups := b.peers.table.led()
	if _, leads := b.meta.Leader(); leads {
		groups = append(groups, raft.MetadataGroup)
	}
	led := b.peers.table.counts()
	var todo errgroup.Group
	todo.SetLimit(maxTransfers)
	b.tellPriorities()
	left := 0
	for _, id := range groups {
		g := b.host.Group(id)
		if g == nil {
			continue
		}
		s := g.Status()
		heirs := b.heirs(g, &s)
		if s.Role != raft.Leader || len(heirs) == 0 {
			continue
		}
		spread(heirs, led)
		left++
		todo.Go(func() error {
			i := -1
			return retry(ctx, askMin, askMax, func() (bool, error) {
				i++ // what one does not take is given to the next
				leader, err := b.give(ctx, g, heirs[i%len(heirs)])
				if err == nil || leader != 0 && leader != b.NodeID() || errors.Is(err, errNotLed) {
					return true, nil
				}
				return false, err
			})
		})
	}
	started := time.Now()
	if err := todo.Wait(); err != nil {
		b.log.Warn("not all leadership could be handed over in time", "groups", left, "timeout", b.cfg.CloseTimeout, "err", err)
		return
	}
	if left == 0 {
		return
	}
	b.log.Info("leadership is handed over", "groups", left, "took", time.Since(started))
	if b.server != nil && b.server.connections() > 0 {
		wait := farewell
		_ = pause(ctx, &wait, farewell) // cut short: CloseTimeout says how long all of this may take
	}
}

// TransferLeader makes another replica lead a partition, wherever its leader is: the given one, or whoever is fit (0). It returns
// who leads, once this broker's table has it. A leader that does not answer, as it has died a moment ago, is waited for, or for the
// next one: with errNoLeader none came in time.
func (b *Broker) TransferLeader(ctx context.Context, t *coordinator.Topic, partition int32, to raft.NodeID) (raft.NodeID, error) {
	g := t.Partitions[partition].Group
	var leads, silent raft.NodeID
	err := retry(ctx, askMin, askMax, func() (bool, error) {
		l := b.peers.table.get(g)
		switch {
		case l.leader == 0:
			return false, errNoLeader
		case l.leader == to:
			leads = to
			return true, nil
		case silent != 0 && to == 0 && l.leader != silent: // it has left the one that was to give it away
			leads = l.leader
			return true, b.awaitLeader(ctx, g, leads, 0)
		}
		call, cancel := context.WithTimeout(ctx, rpcTimeout)
		out, err := b.transferAt(call, l.leader, []transferOrder{{g, to}})
		cancel()
		if err != nil {
			silent = l.leader
			return false, fmt.Errorf("%w: %w", errNoLeader, err)
		}
		if err := out[0].err(); err != nil {
			return !errors.Is(err, errNotLed), err // that leadership has moved meanwhile is no answer
		}
		leads = out[0].Leader
		return true, b.awaitLeader(ctx, g, leads, l.epoch)
	})
	if gave, ok := errors.AsType[*gaveUp](err); ok {
		err = gave.last
	}
	return leads, err
}

// awaitLeader waits until this broker's table names a group's leader, ready, or one that has succeeded it already: after is the epoch
// before it was made the leader.
func (b *Broker) awaitLeader(ctx context.Context, g raft.GroupID, leader raft.NodeID, after raft.Term) error {
	for {
		changed := b.peers.wait()
		l := b.peers.table.get(g)
		if l.ready && (l.leader == leader || l.epoch > after) {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("broker %d is to lead, and is not ready yet: %w", leader, ctx.Err())
		}
	}
}

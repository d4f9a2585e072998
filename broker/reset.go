// POST /v1/reset-peers: a group whose majority is gone for good goes on with the replicas that are left. What that would cost
// is shown first; what is then carried out is what was shown, or nothing. See docs/design/0014-reset-peers.md.

package broker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/balsamq/balsa/coordinator"
	"github.com/balsamq/balsa/raft"
)

const (
	// resetAskTimeout bounds one question to one replica's broker: who does not answer by then counts as lost.
	resetAskTimeout = 2 * time.Second
	// resetTermGap is how far above the survivors' terms the first one of the new epoch is: the lost majority may have gone through terms
	// that no survivor has seen, and a client that has heard of one as a leader epoch believes no lower one. The leader's id comes on
	// top: two halves that are reset apart from each other, against all advice, at least do not lead in one term.
	resetTermGap = 1000
	// resetTimeout bounds the whole; most of it is the wait for the lease that a lost leader may still hold.
	resetTimeout = 2 * time.Minute
)

// resetRequest is the body of the route.
type resetRequest struct {
	// Topic and Partition name a partition; without Topic it is the metadata group.
	Topic     string `json:"topic,omitempty"`
	Partition int32  `json:"partition,omitempty"`
	// Epoch, Leader and Survivors are those of a plan that was shown; without them nothing is done but to make one.
	Epoch     raft.GroupEpoch `json:"epoch,omitempty"`
	Leader    raft.NodeID     `json:"leader,omitempty"`
	Survivors []raft.NodeID   `json:"survivors,omitempty"`
}

// resetReplica is what one replica's broker says of it.
type resetReplica struct {
	Node        raft.NodeID      `json:"node"`
	Incarnation raft.Incarnation `json:"-"`
	// Lost says why there is no answer, or no replica that could go on; the rest is then unknown.
	Lost       string          `json:"lost,omitempty"`
	Role       string          `json:"role,omitempty"`
	Epoch      raft.GroupEpoch `json:"epoch,omitempty"`
	Term       raft.Term       `json:"term,omitempty"`
	Commit     raft.Index      `json:"commit,omitempty"`
	Last       raft.Index      `json:"last,omitempty"`
	LastTerm   raft.Term       `json:"lastTerm,omitempty"`
	NextOffset int64           `json:"nextOffset,omitempty"` // of a partition
	Damaged    bool            `json:"damaged,omitempty"`    // recovery found damage that no leader has mended yet
}

// resetPlan is what a reset would do, or has done.
type resetPlan struct {
	Group     raft.GroupID    `json:"group"`
	Topic     string          `json:"topic,omitempty"`
	Partition int32           `json:"partition,omitempty"`
	Voters    []raft.NodeID   `json:"voters"` // so far
	Epoch     raft.GroupEpoch `json:"epoch"`
	Term      raft.Term       `json:"term"`
	Leader    raft.NodeID     `json:"leader"`
	Survivors []raft.NodeID   `json:"survivors"`
	Replicas  []resetReplica  `json:"replicas"`
	// Uncommitted entries of the leader's log become committed, though it is not known that they ever were acknowledged.
	Uncommitted uint64 `json:"uncommitted"`
	Done        bool   `json:"done"`
}

func (p *resetPlan) survivors(replicas []resetReplica) []raft.Member {
	var ms []raft.Member
	for _, r := range replicas {
		if slices.Contains(p.Survivors, r.Node) {
			ms = append(ms, raft.Member{ID: r.Node, Incarnation: r.Incarnation})
		}
	}
	slices.SortFunc(ms, func(a, b raft.Member) int { return cmp.Compare(a.ID, b.ID) })
	return ms
}

func (b *Broker) adminResetPeers(ctx context.Context, q *adminRequest) (any, error) {
	var req resetRequest
	if err := q.decode(&req); err != nil {
		return nil, err
	}
	if b.adm.phase.Load() < int32(adminReady) && req.Topic != "" {
		return nil, adminErrorf(adminUnavailable, "reset the metadata group first, if its majority is lost", "the broker is not ready: %v", b.adm.health())
	}
	return b.resetPeers(ctx, &req)
}

func (b *Broker) resetPeers(ctx context.Context, req *resetRequest) (*resetPlan, error) {
	plan, topic, err := b.planReset(ctx, req)
	if err != nil || req.Epoch == 0 {
		return plan, err
	}
	if plan.Epoch != req.Epoch || plan.Leader != req.Leader || !slices.Equal(plan.Survivors, req.Survivors) {
		return nil, adminErrorf(adminConflict, "look at the new plan", "things have changed: broker %d would now lead %v in epoch %d", plan.Leader, plan.Survivors, plan.Epoch)
	}
	reset := raft.Reset{Epoch: plan.Epoch, Term: plan.Term, Leader: plan.Leader, Survivors: plan.survivors(plan.Replicas)}
	b.log.Warn("resetting a group's peers by an operator's order", "group", uint64(plan.Group), "epoch", plan.Epoch, "leader", plan.Leader, "survivors", plan.Survivors)
	if topic != nil {
		err = b.change(ctx, &coordinator.Command{ResetPeers: &coordinator.ResetPeers{Topic: topic.ID, Partition: req.Partition,
			GroupReset: coordinator.GroupReset{Epoch: reset.Epoch, Term: reset.Term, Leader: reset.Leader, Survivors: reset.Survivors}}})
		if errors.Is(err, coordinator.ErrStale) || errors.Is(err, coordinator.ErrUnknownTopic) {
			return nil, adminErrorf(adminConflict, "look at the new plan", "%v", err)
		}
	} else {
		err = b.resetMetadata(ctx, reset)
	}
	if err == nil {
		err = b.awaitReset(ctx, plan)
	}
	plan.Done = err == nil
	return plan, err
}

// planReset asks every replica, and says what would be done.
func (b *Broker) planReset(ctx context.Context, req *resetRequest) (*resetPlan, *coordinator.Topic, error) {
	plan := &resetPlan{Group: raft.MetadataGroup, Topic: req.Topic, Partition: req.Partition}
	var topic *coordinator.Topic
	var nodes []raft.NodeID
	if req.Topic == "" {
		for _, a := range b.peers.addresses() {
			nodes = append(nodes, a.ID)
		}
		for _, br := range b.Image().Brokers() {
			nodes = append(nodes, br.ID)
		}
		slices.Sort(nodes)
		nodes = slices.Compact(nodes)
	} else {
		if topic = b.Image().Topic(req.Topic); topic == nil || req.Partition < 0 || int(req.Partition) >= len(topic.Partitions) {
			return nil, nil, adminErrorf(adminNotFound, "'broker topic list' shows what there is", "there is no partition %d of a topic %q", req.Partition, req.Topic)
		}
		p := &topic.Partitions[req.Partition]
		plan.Group, plan.Epoch = p.Group, p.Epoch
		nodes = p.Nodes()
	}
	// Whoever answers names members, who may be others than the metadata has: a move may have come further than it was reported.
	var reports []groupReport
	for len(nodes) > 0 {
		answers := b.askReplicas(ctx, plan.Group, nodes)
		reports = append(reports, answers...)
		nodes = nil
		for _, r := range answers {
			for _, m := range slices.Concat(r.Conf.Voters, r.Conf.Outgoing, r.Conf.Learners) {
				asked := slices.ContainsFunc(reports, func(o groupReport) bool { return o.Node == m.ID })
				if !asked && !slices.Contains(nodes, m.ID) {
					nodes = append(nodes, m.ID)
				}
			}
		}
	}
	slices.SortFunc(reports, func(x, y groupReport) int { return cmp.Compare(x.Node, y.Node) })
	return plan, topic, b.fillPlan(plan, reports)
}

// fillPlan decides who goes on. Reports are by node.
func (b *Broker) fillPlan(plan *resetPlan, reports []groupReport) error {
	var best *groupReport
	for i := range reports {
		r := &reports[i]
		plan.Replicas = append(plan.Replicas, r.shown())
		plan.Epoch, plan.Term = max(plan.Epoch, r.Epoch), max(plan.Term, r.Term)
		if r.Error != "" || len(r.Conf.Voters) == 0 {
			continue // it does not answer, or has never been told who is in the group
		}
		if r.Leads {
			return adminErrorf(adminConflict, "'broker raft describe' shows its state", "the group has a leader, broker %d: there is nothing to reset", r.Node)
		}
		if best == nil || cmp.Or(cmp.Compare(r.Conf.Epoch, best.Conf.Epoch), cmp.Compare(r.LastTerm, best.LastTerm), cmp.Compare(r.Last, best.Last)) > 0 {
			best = r
		}
	}
	if best == nil {
		return adminErrorf(adminUnavailable, "start one of the brokers that hold it", "no replica of the group can be reached")
	}
	plan.Voters = raft.NodeIDs(best.Conf.Voters)
	able := func(half []raft.Member) bool { // could elect a leader
		n := 0
		for _, m := range half {
			if slices.ContainsFunc(reports, func(r groupReport) bool {
				return r.Error == "" && r.member() == m && !r.Damaged && r.Epoch == best.Epoch
			}) {
				n++
			}
		}
		return n > len(half)/2
	}
	if able(best.Conf.Voters) && (len(best.Conf.Outgoing) == 0 || able(best.Conf.Outgoing)) && best.Conf.Epoch == best.Epoch {
		return adminErrorf(adminConflict, "wait for the election; 'broker raft describe' shows its state",
			"a majority of the group's voters %v is there and can elect a leader: there is nothing to reset", plan.Voters)
	}
	for i := range reports {
		// Only members, by the newest membership that is left: what a replica has that moved away long ago is nobody's any more.
		if r := &reports[i]; r.Error == "" && len(r.Conf.Voters) > 0 && best.Conf.Has(r.member()) {
			plan.Survivors = append(plan.Survivors, r.Node)
		}
	}
	slices.Sort(plan.Survivors)
	plan.Leader, plan.Uncommitted = best.Node, uint64(best.Last-min(best.Last, best.Commit))
	plan.Epoch++
	plan.Term += resetTermGap + raft.Term(best.Node%resetTermGap)
	return nil
}

// groupReport is what a broker says of its replica of a group. It is no replicaState, which people read: it waits for no worker, as one
// whose disk hangs shall not count as lost, and has the members with their incarnations.
type groupReport struct {
	Node        raft.NodeID      `json:"node"`
	Incarnation raft.Incarnation `json:"incarnation"`
	Error       string           `json:"error,omitempty"` // it has none that runs
	Role        string           `json:"role,omitempty"`
	Leads       bool             `json:"leads,omitempty"`
	Ready       bool             `json:"ready,omitempty"` // it leads, and its own no-op is applied
	Epoch       raft.GroupEpoch  `json:"epoch,omitempty"`
	Term        raft.Term        `json:"term,omitempty"`
	Commit      raft.Index       `json:"commit,omitempty"`
	Last        raft.Index       `json:"last,omitempty"`
	LastTerm    raft.Term        `json:"lastTerm,omitempty"`
	NextOffset  int64            `json:"nextOffset,omitempty"`
	Damaged     bool             `json:"damaged,omitempty"`
	Conf        raft.ConfState   `json:"conf"`
}

func (r *groupReport) member() raft.Member {
	return raft.Member{ID: r.Node, Incarnation: r.Incarnation}
}

func (r *groupReport) shown() resetReplica {
	return resetReplica{Node: r.Node, Incarnation: r.Incarnation, Lost: r.Error, Role: r.Role, Epoch: r.Epoch, Term: r.Term, Commit: r.Commit,
		Last: r.Last, LastTerm: r.LastTerm, NextOffset: r.NextOffset, Damaged: r.Damaged}
}

// report is this broker's.
func (b *Broker) report(id raft.GroupID) groupReport {
	r := groupReport{Node: b.NodeID(), Incarnation: b.self().Incarnation}
	g := b.host.Group(id)
	if g == nil {
		r.Error = "it has no running replica of the group"
		return r
	}
	s := g.Status()
	if s.Err != nil {
		r.Error = s.Err.Error()
		return r
	}
	r.Role, r.Leads, r.Ready = s.Role.String(), s.Role == raft.Leader, s.Ready
	r.Epoch, r.Term, r.Commit, r.Last, r.LastTerm = s.Epoch, s.Term, s.Commit, s.Last, s.LastTerm
	r.Damaged, r.Conf = s.VoteAfter > 0, s.Conf
	if rep := b.rec.replica(id); rep != nil {
		r.NextOffset = rep.Describe().NextOffset
	}
	return r
}

// askReplicas asks the brokers for their replicas of a group, all at once.
func (b *Broker) askReplicas(ctx context.Context, id raft.GroupID, nodes []raft.NodeID) []groupReport {
	ctx, cancel := context.WithTimeout(ctx, resetAskTimeout)
	defer cancel()
	reports := make([]groupReport, len(nodes))
	var wg sync.WaitGroup
	for i, node := range nodes {
		wg.Go(func() { reports[i] = b.askReplica(ctx, id, node) })
	}
	wg.Wait()
	return reports
}

func (b *Broker) askReplica(ctx context.Context, id raft.GroupID, node raft.NodeID) groupReport {
	if node == b.NodeID() {
		return b.report(id)
	}
	r := groupReport{Node: node}
	body, err := encodeJSON(&groupQuestion{Group: id})
	if err == nil {
		body, err = b.tr.Call(ctx, node, methodReportGroup, body)
	}
	if err == nil {
		err = decodeJSON(body, &r)
	}
	if err == nil {
		err = r.Conf.Check()
	}
	if err == nil && r.Node != node {
		err = fmt.Errorf("%w: a report of broker %d", errRPC, r.Node)
	}
	if err != nil {
		return groupReport{Node: node, Error: err.Error()}
	}
	return r
}

// groupQuestion asks for a broker's replica of a group.
type groupQuestion struct {
	Group raft.GroupID `json:"group"`
}

// resetOrder tells a survivor of the metadata group what the metadata itself cannot tell.
type resetOrder struct {
	Reset raft.Reset `json:"reset"`
}

// resetReply answers a resetOrder.
type resetReply struct {
	Retry bool   `json:"retry,omitempty"` // it is bound by its promise to a leader; ask again
	Error string `json:"error,omitempty"`
}

// followMetadataReset takes this broker's replica of the metadata group into a new epoch.
func (b *Broker) followMetadataReset(ctx context.Context, reset raft.Reset) resetReply {
	g := b.meta.group.Load()
	if g == nil {
		return resetReply{Retry: true, Error: errMetaClosed.Error()}
	}
	done := make(chan error, 1)
	g.Reset(reset, func(err error) { done <- err })
	select {
	case err := <-done:
		if err != nil {
			return resetReply{Retry: errors.Is(err, raft.ErrHasLeader), Error: err.Error()}
		}
		b.log.Warn("the metadata group's peers were reset by an operator", "epoch", reset.Epoch, "leader", reset.Leader, "survivors", raft.NodeIDs(reset.Survivors))
		return resetReply{}
	case <-ctx.Done():
		return resetReply{Error: ctx.Err().Error()}
	}
}

// resetMetadata tells the survivors of the metadata group, the one to lead last: as long as it does not lead, nobody is too late.
func (b *Broker) resetMetadata(ctx context.Context, reset raft.Reset) error {
	nodes := raft.NodeIDs(reset.Survivors)
	slices.SortStableFunc(nodes, func(x, y raft.NodeID) int {
		return cmp.Compare(map[bool]int{true: 1}[x == reset.Leader], map[bool]int{true: 1}[y == reset.Leader])
	})
	for _, node := range nodes {
		err := retry(ctx, askMin, askMax, func() (bool, error) {
			reply, err := b.orderReset(ctx, node, reset)
			switch {
			case err != nil:
				return false, err
			case reply.Retry:
				return false, errors.New(reply.Error)
			case reply.Error != "":
				return true, adminErrorf(adminConflict, "look at the new plan", "broker %d refuses the reset: %s", node, reply.Error)
			}
			return true, nil
		})
		if g, ok := errors.AsType[*gaveUp](err); ok {
			return fmt.Errorf("broker %d does not follow the reset: %w", node, g)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (b *Broker) orderReset(ctx context.Context, node raft.NodeID, reset raft.Reset) (reply resetReply, err error) {
	if node == b.NodeID() {
		return b.followMetadataReset(ctx, reset), nil
	}
	ctx, cancel := context.WithTimeout(ctx, rpcTimeout)
	defer cancel()
	body, err := encodeJSON(&resetOrder{Reset: reset})
	if err != nil {
		return reply, err
	}
	if body, err = b.tr.Call(ctx, node, methodResetMetadata, body); err != nil {
		return reply, err
	}
	return reply, decodeJSON(body, &reply)
}

// awaitReset returns when the one to lead leads, with its membership committed.
func (b *Broker) awaitReset(ctx context.Context, plan *resetPlan) error {
	err := retry(ctx, askMin, askMax, func() (bool, error) {
		r := b.askReplicas(ctx, plan.Group, []raft.NodeID{plan.Leader})[0]
		return r.Ready && r.Conf.Epoch == plan.Epoch, errors.New(cmp.Or(r.Error, r.Role))
	})
	if g, ok := errors.AsType[*gaveUp](err); ok {
		return adminErrorf(adminTimedOut, "'broker raft describe' shows its state", "the reset is ordered, but broker %d does not lead yet: %v", plan.Leader, g.last)
	}
	return nil
}

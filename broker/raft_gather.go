// Raft groups over all brokers, for the admin listener: a table of all groups, and one group on all its replicas side by
// side. A broker that does not answer is named, with why; what the others say is shown all the same.

package broker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/balsamq/balsa/coordinator"
	"github.com/balsamq/balsa/raft"
)

// groupSummary is one group in the table of all.
type groupSummary struct {
	Group     raft.GroupID  `json:"group"`
	Topic     string        `json:"topic"`
	Partition int32         `json:"partition"`
	Leader    raft.NodeID   `json:"leader"` // 0: none
	Term      raft.Term     `json:"term"`
	Commit    raft.Index    `json:"commit"`
	Lag       raft.Index    `json:"lag"` // entries that the replica furthest behind lacks; 0 also where nobody leads
	Replicas  []raft.NodeID `json:"replicas"`
	Learners  []raft.NodeID `json:"learners,omitempty"`
	Problems  []string      `json:"problems"` // none: all is well
}

// missingBroker did not answer.
type missingBroker struct {
	Node  raft.NodeID `json:"node"`
	Error string      `json:"error"`
}

type groupTable struct {
	Groups  []groupSummary  `json:"groups"`
	Missing []missingBroker `json:"missing,omitempty"`
}

// groupState is one group on all its replicas.
type groupState struct {
	Group     raft.GroupID    `json:"group"`
	Topic     string          `json:"topic"`
	Partition int32           `json:"partition"`
	Replicas  []*replicaState `json:"replicas"` // by node id
}

// knownBrokers are the cluster's, by id; before there is an Image, those whose addresses are known.
func (b *Broker) knownBrokers() []raft.NodeID {
	ids := []raft.NodeID{b.NodeID()}
	for _, br := range b.Image().Brokers() {
		ids = append(ids, br.ID)
	}
	for _, p := range b.peers.addresses() {
		ids = append(ids, p.ID)
	}
	slices.Sort(ids)
	return slices.Compact(ids)
}

// adminGroups serves GET /v1/raft/groups.
func (b *Broker) adminGroups(ctx context.Context, _ *adminRequest) (any, error) {
	nodes := b.knownBrokers()
	var mu sync.Mutex // guards what follows
	lines := make(map[raft.GroupID]map[raft.NodeID]groupLine)
	silent := make(map[raft.NodeID]string)
	var wg sync.WaitGroup
	for _, node := range nodes {
		wg.Go(func() {
			after := raft.GroupID(0)
			for {
				r, err := b.askDescribe(ctx, node, &describeRequest{After: after})
				mu.Lock()
				if err != nil {
					silent[node] = err.Error()
					mu.Unlock()
					return
				}
				for _, l := range r.Lines {
					if lines[l.Group] == nil {
						lines[l.Group] = make(map[raft.NodeID]groupLine)
					}
					lines[l.Group][node] = l
					after = max(after, l.Group)
				}
				mu.Unlock()
				if !r.More {
					return
				}
			}
		})
	}
	wg.Wait()
	table := &groupTable{Groups: []groupSummary{}}
	for _, node := range nodes {
		if why, ok := silent[node]; ok {
			table.Missing = append(table.Missing, missingBroker{node, why})
		}
	}
	table.Groups = append(table.Groups, summarize(raft.MetadataGroup, metadataTopicName, 0, nil, lines[raft.MetadataGroup], silent))
	for t := range b.Image().All() {
		for p := range t.Partitions {
			id := t.Partitions[p].Group
			table.Groups = append(table.Groups, summarize(id, t.Name, int32(p), raft.NodeIDs(t.Partitions[p].Replicas), lines[id], silent))
		}
	}
	slices.SortFunc(table.Groups, func(x, y groupSummary) int {
		return cmp.Or(cmp.Compare(x.Topic, y.Topic), cmp.Compare(x.Partition, y.Partition))
	})
	return table, nil
}

// summarize puts the replicas' lines of one group together. assigned is nil for the metadata group, whose members only its
// leader knows.
func summarize(id raft.GroupID, topic string, part int32, assigned []raft.NodeID, lines map[raft.NodeID]groupLine, silent map[raft.NodeID]string) groupSummary {
	s := groupSummary{Group: id, Topic: topic, Partition: part, Replicas: slices.Clone(assigned), Problems: []string{}}
	nodes := make([]raft.NodeID, 0, len(lines))
	for node, l := range lines {
		nodes = append(nodes, node)
		s.Commit = max(s.Commit, l.Commit)
		if l.Leader && (s.Leader == 0 || l.Term > s.Term) { // a deposed one may not know it yet
			s.Leader, s.Term, s.Lag, s.Learners = node, l.Term, l.Lag, l.Learner
		}
	}
	newest := raft.Term(0)
	for _, l := range lines {
		if assigned == nil && l.Term >= newest && len(l.Voters) >= len(s.Replicas) {
			s.Replicas, newest = slices.Clone(l.Voters), l.Term
		}
	}
	slices.Sort(nodes)
	if s.Leader == 0 {
		s.Problems = append(s.Problems, "no leader")
		for _, node := range nodes {
			s.Term = max(s.Term, lines[node].Term)
		}
	} else if !lines[s.Leader].Ready {
		s.Problems = append(s.Problems, "the leader is not ready")
	}
	members := slices.Clone(s.Replicas)
	for _, node := range s.Learners { // of a move
		if !slices.Contains(members, node) {
			members = append(members, node)
		}
	}
	for _, node := range members {
		switch _, answered := lines[node]; {
		case silent[node] != "":
			s.Problems = append(s.Problems, fmt.Sprintf("%d does not answer", node))
		case !answered:
			s.Problems = append(s.Problems, fmt.Sprintf("%d: not open", node))
		}
	}
	for _, node := range nodes {
		for _, x := range lines[node].Trouble {
			s.Problems = append(s.Problems, fmt.Sprintf("%d: %s", node, x))
		}
		for _, other := range lines[node].Silent {
			if silent[other] == "" && node == s.Leader {
				s.Problems = append(s.Problems, fmt.Sprintf("%d does not hear from %d", node, other))
			}
		}
	}
	return s
}

// adminGroup serves GET /v1/raft/groups/{group}: a group's id, TOPIC/PARTITION, or metadata.
func (b *Broker) adminGroup(ctx context.Context, q *adminRequest) (any, error) {
	g, assigned, err := b.findGroup(q.PathValue("group"))
	if err != nil {
		return nil, err
	}
	asked := make(map[raft.NodeID]bool)
	for {
		// The members that answers name may be others than those assigned: a leader that is moved, a learner to come.
		var next []raft.NodeID
		for _, node := range assigned {
			if !asked[node] && len(asked) < maxGroupMembers {
				asked[node] = true
				next = append(next, node)
			}
		}
		if len(next) == 0 {
			break
		}
		answers := make([]*replicaState, len(next))
		var wg sync.WaitGroup
		for i, node := range next {
			wg.Go(func() {
				r, err := b.askDescribe(ctx, node, &describeRequest{Group: g.Group})
				if err != nil {
					answers[i] = &replicaState{Node: node, State: "unknown", Error: "no answer: " + err.Error(), LogStart: -1, HighWatermark: -1, NextOffset: -1}
					return
				}
				answers[i] = r.Replica
			})
		}
		wg.Wait()
		for _, s := range answers {
			g.Replicas = append(g.Replicas, s)
			assigned = slices.Concat(assigned, s.Voters, s.Outgoing, s.Learners)
		}
	}
	slices.SortFunc(g.Replicas, func(x, y *replicaState) int { return cmp.Compare(x.Node, y.Node) })
	return g, nil
}

// maxGroupMembers bounds how many brokers are asked for one group.
const maxGroupMembers = 1000

// findGroup finds a group by what people call it, and the brokers that should have it.
func (b *Broker) findGroup(name string) (*groupState, []raft.NodeID, error) {
	const mend = "name a group by its number, as TOPIC/PARTITION, or metadata; 'broker raft describe' lists all"
	im := b.Image()
	if name == "metadata" || name == strconv.Itoa(int(raft.MetadataGroup)) || name == metadataTopicName || name == metadataTopicName+"/0" {
		return &groupState{Group: raft.MetadataGroup, Topic: metadataTopicName}, b.knownBrokers(), nil
	}
	if id, err := strconv.ParseUint(name, 10, 64); err == nil {
		t, p, ok := im.Group(raft.GroupID(id))
		if !ok {
			return nil, nil, adminErrorf(adminNotFound, mend, "there is no group %d", id)
		}
		return named(t, p)
	}
	topic, number, ok := strings.Cut(name, "/")
	t := im.Topic(topic)
	p, err := strconv.ParseInt(number, 10, 32)
	switch {
	case t == nil:
		return nil, nil, adminErrorf(adminNotFound, "'broker topic list' shows the topics there are", "topic %s does not exist", topic)
	case !ok:
		return nil, nil, adminErrorf(adminInvalid, fmt.Sprintf("write %s/0 to %s/%d", topic, topic, len(t.Partitions)-1), "each partition of topic %s is a group of its own", topic)
	case err != nil || p < 0 || int(p) >= len(t.Partitions):
		return nil, nil, adminErrorf(adminNotFound, fmt.Sprintf("its partitions are 0 to %d", len(t.Partitions)-1), "topic %s has no partition %s", topic, number)
	}
	return named(t, int32(p))
}

func named(t *coordinator.Topic, p int32) (*groupState, []raft.NodeID, error) {
	return &groupState{Group: t.Partitions[p].Group, Topic: t.Name, Partition: p}, raft.NodeIDs(t.Partitions[p].Replicas), nil
}

// Quorum implements backend: the metadata group as its leader sees it.
func (b *Broker) Quorum(ctx context.Context, done func(*replicaState, error)) {
	b.admin(ctx, func(ctx context.Context) {
		ctx, cancel := context.WithTimeout(ctx, rpcTimeout)
		defer cancel()
		var found *replicaState
		err := retry(ctx, askMin, askMax, func() (bool, error) {
			leader, _ := b.meta.Leader()
			if leader == 0 {
				return false, errNoMetadataLeader
			}
			r, err := b.askDescribe(ctx, leader, &describeRequest{Group: raft.MetadataGroup})
			switch {
			case err != nil:
				return false, err
			case r.Replica.Role != raft.Leader.String():
				return false, fmt.Errorf("broker %d does not lead: %w", leader, errNoMetadataLeader)
			}
			found = r.Replica
			return true, nil
		})
		if g, ok := errors.AsType[*gaveUp](err); ok {
			err = g.last
		}
		done(found, err)
	}, func(err error) { done(nil, err) })
}

// errNoMetadataLeader: nobody can say how the metadata quorum stands.
var errNoMetadataLeader = errors.New("the metadata group has no leader")

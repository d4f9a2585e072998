// The state of a cluster: who is there, who leads, and what is not as it should be.

package client

import (
	"cmp"
	"context"
	"errors"
	"net"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// The states of a broker.
const (
	BrokerLive   = "live"   // it answers
	BrokerSilent = "silent" // it does not, and the cluster has not given it up yet
	BrokerFenced = "fenced" // the cluster has given it up until it comes back, or has not let it in yet
)

// Cluster is the state of a cluster.
type Cluster struct {
	ID         string   `json:"id" yaml:"id"`
	Controller int32    `json:"controller" yaml:"controller"` // -1: none known, as the metadata has no leader
	Brokers    []Broker `json:"brokers" yaml:"brokers"`       // by id, whatever their state
	Topics     int      `json:"topics" yaml:"topics"`         // without internal ones
	Partitions int      `json:"partitions" yaml:"partitions"` // with those of internal topics
	// Leaderless are partitions without a leader that answers, UnderReplicated those with a replica that is not in sync or not live.
	Leaderless      int `json:"leaderless" yaml:"leaderless"`
	UnderReplicated int `json:"underReplicated" yaml:"underReplicated"`
}

// Broker is one member of a cluster.
type Broker struct {
	ID       int32  `json:"id" yaml:"id"`
	Address  string `json:"address" yaml:"address"`
	Rack     string `json:"rack,omitempty" yaml:"rack,omitempty"`
	State    string `json:"state" yaml:"state"`
	Leaders  int    `json:"leaders" yaml:"leaders"`   // partitions that it leads
	Replicas int    `json:"replicas" yaml:"replicas"` // partitions that it holds
}

const (
	// statusWait bounds the wait for one broker's answer, and that for the metadata's leader.
	statusWait = 3 * time.Second
	// statusAtOnce bounds the brokers that are asked at the same time.
	statusAtOnce = 32
)

// members are all brokers of the cluster, those that are fenced included.
func (a *Admin) members(ctx context.Context) (*kmsg.DescribeClusterResponse, error) {
	req := kmsg.NewPtrDescribeClusterRequest()
	req.IncludeFencedBrokers = true
	resp, err := req.RequestWith(ctx, a.cl)
	if err == nil {
		err = kerr.ErrorForCode(resp.ErrorCode)
	}
	if err != nil {
		return nil, a.wrap("ask for the brokers of the cluster", "", err)
	}
	slices.SortFunc(resp.Brokers, func(x, y kmsg.DescribeClusterResponseBroker) int { return cmp.Compare(x.NodeID, y.NodeID) })
	return resp, nil
}

// Brokers lists the brokers by id, as the cluster knows them: those that it has given up are [BrokerFenced], and all others count as [BrokerLive],
// though none of them is asked. It is one request, where [Admin.ClusterStatus] is one to each of them.
func (a *Admin) Brokers(ctx context.Context) ([]Broker, error) {
	all, err := a.members(ctx)
	if err != nil {
		return nil, err
	}
	out := make([]Broker, len(all.Brokers))
	for i, b := range all.Brokers {
		out[i] = Broker{ID: b.NodeID, Address: net.JoinHostPort(b.Host, strconv.Itoa(int(b.Port))), State: BrokerLive}
		if b.IsFenced {
			out[i].State = BrokerFenced
		}
		if b.Rack != nil {
			out[i].Rack = *b.Rack
		}
	}
	return out, nil
}

// look is what one broker says of all topics; nil: it does not answer.
func (a *Admin) look(ctx context.Context, id int32) *kmsg.MetadataResponse {
	part, cancel := share(ctx, 3)
	defer cancel()
	part, cancel = context.WithTimeout(part, statusWait)
	defer cancel()
	req := kmsg.NewPtrMetadataRequest() // no topics named: all
	resp, err := req.RequestWith(part, a.cl.Broker(int(id)))
	if err != nil {
		return nil
	}
	return resp
}

// ClusterStatus asks every broker, as a partition's leader is the first to know who is in sync, and one that has just died is missed by
// nobody yet. That takes some seconds where brokers do not answer.
func (a *Admin) ClusterStatus(ctx context.Context) (Cluster, error) {
	all, err := a.members(ctx)
	if err != nil {
		return Cluster{}, err
	}
	if _, err := a.raw.BrokerMetadata(fresh(ctx)); err != nil { // from it the client has the brokers' addresses
		return Cluster{}, a.wrap("ask for the state of the cluster", "", err)
	}
	looks := make([]*kmsg.MetadataResponse, len(all.Brokers))
	var wg sync.WaitGroup
	slots := make(chan struct{}, statusAtOnce)
	for i, b := range all.Brokers {
		if b.IsFenced {
			continue
		}
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			looks[i] = a.look(ctx, b.NodeID)
		})
	}
	wg.Wait()
	c := clusterOf(all, looks)
	if c.ID == "" {
		return c, &Error{Op: "ask for the state of the cluster", Kind: ErrUnreachable, Err: errors.New("no broker answers that the cluster knows of")}
	}
	c.Controller = a.controller(ctx, all.ControllerID)
	return c, nil
}

// controller is who leads the metadata. What brokers otherwise call the controller is whom to send orders to, and always somebody;
// it is the answer of those that cannot describe the quorum.
func (a *Admin) controller(ctx context.Context, otherwise int32) int32 {
	part, cancel := share(ctx, 3)
	defer cancel()
	part, cancel = context.WithTimeout(part, statusWait)
	defer cancel()
	req := kmsg.NewPtrDescribeQuorumRequest()
	t := kmsg.NewDescribeQuorumRequestTopic()
	t.Topic, t.Partitions = "__cluster_metadata", []kmsg.DescribeQuorumRequestTopicPartition{kmsg.NewDescribeQuorumRequestTopicPartition()}
	req.Topics = append(req.Topics, t)
	resp, err := req.RequestWith(part, a.cl)
	switch {
	case err == nil && resp.ErrorCode == 0 && len(resp.Topics) == 1 && len(resp.Topics[0].Partitions) == 1:
		if p := &resp.Topics[0].Partitions[0]; p.ErrorCode == 0 {
			return p.LeaderID
		}
		return -1
	case err != nil && (part.Err() != nil || kindOf(err) == ErrUnreachable || kgo.IsRetryableBrokerErr(err)):
		return -1
	}
	return otherwise
}

// clusterOf puts together what the brokers say: of each partition that which has the latest term, the leader's own word before all. Where there is none, who
// shows the fewest in sync: others may not have heard yet what has become of the rest.
func clusterOf(all *kmsg.DescribeClusterResponse, looks []*kmsg.MetadataResponse) Cluster {
	c := Cluster{Controller: -1, Brokers: make([]Broker, len(all.Brokers))}
	byID := make(map[int32]*Broker)
	for i, b := range all.Brokers {
		out := &c.Brokers[i]
		*out = Broker{ID: b.NodeID, Address: net.JoinHostPort(b.Host, strconv.Itoa(int(b.Port))), State: BrokerLive}
		switch {
		case b.IsFenced:
			out.State = BrokerFenced
		case looks[i] == nil:
			out.State = BrokerSilent
		default:
			c.ID = all.ClusterID
		}
		if b.Rack != nil {
			out.Rack = *b.Rack
		}
		byID[b.NodeID] = out
	}
	live := func(id int32) bool { return byID[id] != nil && byID[id].State == BrokerLive }
	type key struct {
		topic     string
		partition int32
	}
	type word struct {
		*kmsg.MetadataResponseTopicPartition
		own bool // its leader's
	}
	words, topics := make(map[key]word), make(map[string]bool)
	fewest := make(map[key][]int32) // in sync, as anybody says: who knows of no leader names no term
	// quit are brokers that say of a partition that nobody leads it: one that has lost its majority tells no other so.
	type quitter struct {
		key
		broker int32
	}
	quit := make(map[quitter]bool)
	for i, m := range looks {
		if m == nil {
			continue
		}
		for _, t := range m.Topics {
			if t.Topic == nil || t.ErrorCode != 0 {
				continue
			}
			topics[*t.Topic] = t.IsInternal
			for k := range t.Partitions {
				p := &t.Partitions[k]
				w, at := word{p, p.Leader == all.Brokers[i].NodeID}, key{*t.Topic, p.Partition}
				if p.Leader < 0 {
					quit[quitter{at, all.Brokers[i].NodeID}] = true
				}
				if isr, ok := fewest[at]; !ok || len(p.ISR) < len(isr) {
					fewest[at] = p.ISR
				}
				old, ok := words[at]
				switch {
				case !ok, p.LeaderEpoch > old.LeaderEpoch:
					words[at] = w
				case p.LeaderEpoch == old.LeaderEpoch && !old.own && (w.own || len(p.ISR) < len(old.ISR)):
					words[at] = w
				}
			}
		}
	}
	for _, internal := range topics {
		if !internal {
			c.Topics++
		}
	}
	for at, p := range words {
		c.Partitions++
		isr := p.ISR
		if live(p.Leader) && !quit[quitter{at, p.Leader}] {
			byID[p.Leader].Leaders++
		} else {
			c.Leaderless++
			isr = fewest[at]
		}
		if slices.ContainsFunc(p.Replicas, func(id int32) bool { return !live(id) || !slices.Contains(isr, id) }) {
			c.UnderReplicated++
		}
		for _, id := range p.Replicas {
			if b := byID[id]; b != nil {
				b.Replicas++
			}
		}
	}
	return c
}

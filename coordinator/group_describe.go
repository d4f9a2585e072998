// What administrators see of groups.

package coordinator

import (
	"slices"
	"strings"
)

// GroupSummary is a line in the list of groups.
type GroupSummary struct {
	Name, ProtocolType, State string
	Consumer                  bool // it speaks the new protocol
}

// GroupDescription is a group with its members.
type GroupDescription struct {
	GroupSummary
	Protocol string
	Members  []MemberDescription
}

// MemberDescription is a member; Metadata and Assignment are set in a stable group only.
type MemberDescription struct {
	ID                   string
	Instance             *string
	ClientID, ClientHost string
	Metadata, Assignment []byte
}

func (g *group) summary() GroupSummary {
	if g.consumer != nil {
		return GroupSummary{Name: g.name, ProtocolType: classicConsumers, State: g.consumer.state(), Consumer: true}
	}
	return GroupSummary{Name: g.name, ProtocolType: g.protocolType, State: g.state.String()}
}

// Describe describes a group of the classic protocol; ErrGroupNotFound if there is none.
func (c *Groups) Describe(name string) (*GroupDescription, error) {
	s, err := c.enterAny(name)
	if err != nil {
		return nil, err
	}
	defer s.unlock()
	g := s.group(name)
	if g == nil || g.consumer != nil {
		return nil, ErrGroupNotFound
	}
	d := &GroupDescription{GroupSummary: g.summary(), Members: make([]MemberDescription, 0, len(g.order))}
	if g.state == groupStable {
		d.Protocol = g.protocol
	}
	for _, m := range g.order {
		e := MemberDescription{ID: m.id, Instance: m.instance, ClientID: m.clientID, ClientHost: m.clientHost}
		if g.state == groupStable {
			e.Metadata, e.Assignment = m.metadata(g.protocol), m.assignment
		}
		d.Members = append(d.Members, e)
	}
	return d, nil
}

// ConsumerGroupDescription is a group of the new protocol with its members.
type ConsumerGroupDescription struct {
	State, Assignor        string
	Epoch, AssignmentEpoch int32
	Members                []ConsumerDescription
}

// ConsumerDescription is one of its members.
type ConsumerDescription struct {
	ID                   string
	Instance, Rack       *string
	Epoch                int32
	ClientID, ClientHost string
	Topics               []string
	Regex                string
	Assignment, Target   []TopicPartitions
	Classic              bool // it speaks the classic protocol
}

// DescribeConsumer describes a group of the new protocol; ErrGroupNotFound if there is none.
func (c *Groups) DescribeConsumer(name string) (*ConsumerGroupDescription, error) {
	s, err := c.enter(name)
	if err != nil {
		return nil, err
	}
	defer s.unlock()
	g := s.group(name)
	if g == nil || g.consumer == nil {
		return nil, ErrGroupNotFound
	}
	k := g.consumer
	d := &ConsumerGroupDescription{State: k.state(), Epoch: k.epoch, AssignmentEpoch: k.assignmentEpoch, Members: make([]ConsumerDescription, 0, len(k.members))}
	votes := make(map[string]int)
	for _, m := range k.sortedMembers() {
		votes[m.says.assignor]++
		d.Members = append(d.Members, ConsumerDescription{ID: m.id, Instance: m.says.instance, Rack: m.says.rack, Epoch: m.at().epoch,
			ClientID: m.says.clientID, ClientHost: m.says.clientHost, Topics: m.says.topics, Regex: m.says.regex,
			Assignment: m.at().owned.byTopic(), Target: k.target[m.id].byTopic(), Classic: m.says.classic != nil})
	}
	delete(votes, "")
	d.Assignor = mostVoted(votes)
	return d, nil
}

// MayFetch says whether a member of the new protocol may read its group's offsets in an epoch: it must be the one that it is in. Others, and
// who is no member, always may.
func (c *Groups) MayFetch(group string, memberID *string, epoch int32) error {
	if memberID == nil && epoch < 0 {
		return nil
	}
	s, err := c.enterAny(group)
	if err != nil {
		return err
	}
	defer s.unlock()
	if g := s.group(group); g != nil {
		return g.mayFetch(memberID, epoch)
	}
	return nil
}

// List is all groups that this node coordinates, sorted by name. With ErrCoordinatorLoading some may be missing.
func (c *Groups) List() (list []GroupSummary, err error) {
	for _, s := range c.all() {
		s.mu.Lock()
		if s.loading && !s.closed {
			err = ErrCoordinatorLoading
		}
		for _, g := range s.groups {
			list = append(list, g.summary())
		}
		s.mu.Unlock()
	}
	slices.SortFunc(list, func(a, b GroupSummary) int { return strings.Compare(a.Name, b.Name) })
	return list, err
}

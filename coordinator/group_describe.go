// What administrators see of groups.

package coordinator

import (
	"slices"
	"strings"
)

// GroupSummary is a line in the list of groups.
type GroupSummary struct{ Name, ProtocolType, State string }

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
	return GroupSummary{Name: g.name, ProtocolType: g.protocolType, State: g.state.String()}
}

// Describe describes a group; ErrGroupNotFound if there is none.
func (c *Groups) Describe(name string) (*GroupDescription, error) {
	s, err := c.enterAny(name)
	if err != nil {
		return nil, err
	}
	defer s.unlock()
	g := s.group(name)
	if g == nil {
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

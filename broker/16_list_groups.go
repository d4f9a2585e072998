// ListGroups (key 16), versions 0 to 5: the groups that this broker coordinates; clients ask every broker. v4 filters by state, v5 by
// type: classic or consumer (KIP-848).

package broker

import (
	"slices"
	"strings"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// Types of groups.
const (
	classicGroup  = "classic"
	consumerGroup = "consumer"
)

func (s *server) listGroups(r *request) {
	req := r.msg.(*kmsg.ListGroupsRequest)
	resp := kmsg.NewPtrListGroupsResponse()
	groups, err := s.b.Groups().List()
	resp.ErrorCode = codeOf(err)
	wanted := func(list []string, s string) bool {
		return len(list) == 0 || slices.ContainsFunc(list, func(f string) bool { return strings.EqualFold(f, s) })
	}
	for _, g := range groups {
		kind := classicGroup
		if g.Consumer {
			kind = consumerGroup
		}
		if !wanted(req.StatesFilter, g.State) || !wanted(req.TypesFilter, kind) {
			continue
		}
		place := kmsg.NewListGroupsResponseGroup()
		place.Group, place.ProtocolType, place.GroupState, place.GroupType = g.Name, g.ProtocolType, g.State, kind
		resp.Groups = append(resp.Groups, place)
	}
	r.respond(resp)
}

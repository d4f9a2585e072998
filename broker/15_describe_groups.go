// DescribeGroups (key 15), versions 0 to 6: state and members of groups. An unknown group is "Dead"; v6 says so as an error.

package broker

import (
	"errors"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/balsamq/balsa/coordinator"
)

// groupOperations is what everybody may do with a group while there are no ACLs: read, delete, describe, describe and
// alter configs (KIP-430's bits).
const groupOperations = 1<<3 | 1<<6 | 1<<8 | 1<<10 | 1<<11

func (s *server) describeGroups(r *request) {
	req := r.msg.(*kmsg.DescribeGroupsRequest)
	resp := kmsg.NewPtrDescribeGroupsResponse()
	resp.Groups = make([]kmsg.DescribeGroupsResponseGroup, len(req.Groups))
	for i, name := range req.Groups {
		place := &resp.Groups[i]
		place.Default()
		place.Group = name
		d, err := s.b.Groups().Describe(name)
		if errors.Is(err, coordinator.ErrGroupNotFound) {
			place.State = "Dead"
			if req.Version < 6 {
				err = nil
			}
		}
		place.ErrorCode, place.ErrorMessage = codeOf(err), messageOf(err)
		if req.IncludeAuthorizedOperations {
			place.AuthorizedOperations = groupOperations
		}
		if d == nil {
			continue
		}
		place.State, place.ProtocolType, place.Protocol = d.State, d.ProtocolType, d.Protocol
		place.Members = make([]kmsg.DescribeGroupsResponseGroupMember, len(d.Members))
		for j := range d.Members {
			m, pm := &d.Members[j], &place.Members[j]
			pm.Default()
			pm.MemberID, pm.InstanceID, pm.ClientID, pm.ClientHost = m.ID, m.Instance, m.ClientID, m.ClientHost
			pm.ProtocolMetadata, pm.MemberAssignment = append([]byte{}, m.Metadata...), append([]byte{}, m.Assignment...)
		}
	}
	r.respond(resp)
}

// LeaveGroup (key 13), versions 0 to 5: members that go. From v3 on many at once, static ones by their instance id.

package broker

import (
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/balsamq/balsa/coordinator"
)

func (s *server) leaveGroup(r *request) {
	req := r.msg.(*kmsg.LeaveGroupRequest)
	resp := kmsg.NewPtrLeaveGroupResponse()
	var members []coordinator.LeavingMember
	if req.Version < 3 {
		members = []coordinator.LeavingMember{{ID: req.MemberID}}
	}
	for i := range req.Members {
		members = append(members, coordinator.LeavingMember{ID: req.Members[i].MemberID, Instance: req.Members[i].InstanceID,
			Reason: textOf(req.Members[i].Reason)})
	}
	s.b.Groups().Leave(req.Group, members, func(errs []error, err error) {
		resp.ErrorCode = codeOf(err)
		switch {
		case err != nil:
		case req.Version < 3:
			resp.ErrorCode = codeOf(errs[0])
		default:
			resp.Members = make([]kmsg.LeaveGroupResponseMember, len(members))
			for i := range members {
				place := &resp.Members[i]
				place.Default()
				place.MemberID, place.InstanceID, place.ErrorCode = members[i].ID, members[i].Instance, codeOf(errs[i])
			}
		}
		r.respond(resp)
	})
}

// JoinGroup (key 11), versions 0 to 9: become a member of a group, and wait for the generation to begin. v1 brought the
// rebalance timeout, v4 MEMBER_ID_REQUIRED (KIP-394), v5 static members (KIP-345), v9 the flag to skip the assignment.
//
// A member that waits is a reply function in its group.

package broker

import (
	"bytes"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/balsamq/balsa/coordinator"
)

func (s *server) joinGroup(r *request) {
	req := r.msg.(*kmsg.JoinGroupRequest)
	q := &coordinator.JoinRequest{
		Group: req.Group, MemberID: req.MemberID, Instance: req.InstanceID, ClientID: string(r.header.ClientID), ClientHost: "/" + r.c.ip,
		Session: time.Duration(req.SessionTimeoutMillis) * time.Millisecond, Rebalance: time.Duration(req.RebalanceTimeoutMillis) * time.Millisecond,
		ProtocolType: req.ProtocolType, RequireID: req.Version >= 4, Skips: req.Version >= 9, Reason: textOf(req.Reason),
	}
	if req.Version < 1 || q.Rebalance <= 0 {
		q.Rebalance = q.Session
	}
	for _, p := range req.Protocols {
		q.Protocols = append(q.Protocols, coordinator.GroupProtocol{Name: p.Name, Metadata: bytes.Clone(p.Metadata)})
	}
	req.Protocols = nil // they look into the frame
	r.surrender()
	s.b.Groups().Join(q, func(res coordinator.JoinResult) {
		resp := kmsg.NewPtrJoinGroupResponse()
		resp.ErrorCode, resp.MemberID, resp.Generation = codeOf(res.Err), res.MemberID, -1
		if res.Err == nil {
			resp.Generation, resp.ProtocolType, resp.Protocol = res.Generation, &res.ProtocolType, &res.Protocol
			resp.LeaderID, resp.SkipAssignment = res.LeaderID, res.SkipAssignment
		}
		resp.Members = make([]kmsg.JoinGroupResponseMember, len(res.Members))
		for i, m := range res.Members {
			place := &resp.Members[i]
			place.Default()
			place.MemberID, place.InstanceID, place.ProtocolMetadata = m.ID, m.Instance, m.Metadata
		}
		if req.Version < 7 && resp.Protocol == nil {
			resp.Protocol = new(string) // null is not possible yet
		}
		r.respond(resp)
	})
}

// SyncGroup (key 14), versions 0 to 5: a member fetches its assignment; the leader brings everyone's. It is answered when
// the generation is stored.

package broker

import (
	"bytes"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/balsamq/balsa/coordinator"
)

func (s *server) syncGroup(r *request) {
	req := r.msg.(*kmsg.SyncGroupRequest)
	if req.Version >= 5 && (req.ProtocolType == nil || req.Protocol == nil) { // nullable on the wire, and mandatory (KIP-559)
		resp := kmsg.NewPtrSyncGroupResponse()
		resp.ErrorCode, resp.MemberAssignment = kerr.InconsistentGroupProtocol.Code, []byte{}
		r.respond(resp)
		return
	}
	q := &coordinator.SyncRequest{Group: req.Group, MemberID: req.MemberID, Instance: req.InstanceID, Generation: req.Generation,
		ProtocolType: req.ProtocolType, Protocol: req.Protocol, Assignments: make(map[string][]byte, len(req.GroupAssignment))}
	for i := range req.GroupAssignment {
		a := &req.GroupAssignment[i]
		q.Assignments[a.MemberID] = bytes.Clone(a.MemberAssignment)
	}
	req.GroupAssignment = nil // they look into the frame
	r.surrender()
	s.b.Groups().Sync(q, func(res coordinator.SyncResult) {
		resp := kmsg.NewPtrSyncGroupResponse()
		resp.ErrorCode, resp.MemberAssignment = codeOf(res.Err), []byte{}
		if res.Err == nil {
			resp.ProtocolType, resp.Protocol = &res.ProtocolType, &res.Protocol
			if res.Assignment != nil {
				resp.MemberAssignment = res.Assignment
			}
		}
		r.respond(resp)
	})
}

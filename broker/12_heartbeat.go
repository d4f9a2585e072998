// Heartbeat (key 12), versions 0 to 4: keeps a member's session and tells it of a rebalance.

package broker

import "github.com/twmb/franz-go/pkg/kmsg"

func (s *server) heartbeat(r *request) {
	req := r.msg.(*kmsg.HeartbeatRequest)
	resp := kmsg.NewPtrHeartbeatResponse()
	resp.ErrorCode = codeOf(s.b.Groups().Heartbeat(req.Group, req.MemberID, req.InstanceID, req.Generation))
	r.respond(resp)
}

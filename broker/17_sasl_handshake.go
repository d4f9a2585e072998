// SaslHandshake (key 17), versions 0 and 1: the client names its mechanism, and is told those that there are. After v0 its
// messages come as bare frames, after v1 in SaslAuthenticate.

package broker

import (
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

func (s *server) saslHandshake(r *request) {
	req := r.msg.(*kmsg.SASLHandshakeRequest)
	resp := kmsg.NewPtrSASLHandshakeResponse()
	a, sasl := &r.c.auth, s.o.Security.SASL
	if !a.sasl || sasl == nil || req.Version == 0 && r.c.session.Load() != nil {
		resp.ErrorCode = kerr.IllegalSaslState.Code
		r.respond(resp)
		return
	}
	resp.SupportedMechanisms = sasl.mechanisms
	x := sasl.exchange(req.Mechanism)
	if now := r.c.session.Load(); now != nil && now.mechanism != req.Mechanism {
		x = nil // whoever authenticates anew does it the same way (KIP-368)
	}
	if x == nil {
		a.exchange = nil
		resp.ErrorCode = kerr.UnsupportedSaslMechanism.Code
		r.respond(resp)
		return
	}
	a.exchange, a.mechanism, a.bare = x, req.Mechanism, req.Version == 0
	r.respond(resp)
}

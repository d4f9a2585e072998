// IncrementalAlterConfigs (key 44), versions 0 and 1: sets configs, takes them back, appends to lists and subtracts from them (KIP-339).
// Resources are topics, brokers (by id, or empty for all), consumer groups, and the loggers of this broker; each is done on its own, and what one
// of its configs has against it is against all of them. It is answered when every broker that is there knows.

package broker

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"
)

func (s *server) incrementalAlterConfigs(r *request) {
	req := r.msg.(*kmsg.IncrementalAlterConfigsRequest)
	alts := make([]alteration, len(req.Resources))
	for i := range req.Resources {
		q := &req.Resources[i]
		alts[i] = alteration{kind: q.ResourceType, name: q.ResourceName}
		for k := range q.Configs {
			alts[i].ops = append(alts[i].ops, configOp{q.Configs[k].Name, q.Configs[k].Op, q.Configs[k].Value})
		}
	}
	ctx, cancel := context.WithTimeout(r.c.ctx, adminTimeout(alterTimeout))
	s.alterConfigs(ctx, alts, req.ValidateOnly, func(errs []error) {
		cancel()
		if !req.ValidateOnly {
			s.auditConfigs(r, alts, errs)
		}
		resp := kmsg.NewPtrIncrementalAlterConfigsResponse()
		for i := range alts {
			rr := kmsg.NewIncrementalAlterConfigsResponseResource()
			rr.ResourceType, rr.ResourceName, rr.ErrorCode, rr.ErrorMessage = alts[i].kind, alts[i].name, codeOf(errs[i]), messageOf(errs[i])
			resp.Resources = append(resp.Resources, rr)
		}
		r.respond(resp)
	})
}

// alterTimeout is for requests that bring no time-out of their own, in milliseconds.
const alterTimeout = 30_000

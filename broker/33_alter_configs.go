// AlterConfigs (key 33), versions 0 to 2: replaces all configs of a resource. What it does not name goes back to its default, which is why
// Kafka has another request by now (key 44).

package broker

import (
	"context"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

func (s *server) replaceConfigs(r *request) {
	req := r.msg.(*kmsg.AlterConfigsRequest)
	alts := make([]alteration, len(req.Resources))
	for i := range req.Resources {
		q := &req.Resources[i]
		alts[i] = alteration{kind: q.ResourceType, name: q.ResourceName, replace: true}
		for k := range q.Configs {
			alts[i].ops = append(alts[i].ops, configOp{q.Configs[k].Name, kmsg.IncrementalAlterConfigOpSet, q.Configs[k].Value})
		}
	}
	ctx, cancel := context.WithTimeout(r.c.ctx, adminTimeout(alterTimeout))
	s.alterConfigs(ctx, alts, req.ValidateOnly, func(errs []error) {
		cancel()
		if !req.ValidateOnly {
			s.auditConfigs(r, alts, errs)
		}
		resp := kmsg.NewPtrAlterConfigsResponse()
		for i := range alts {
			rr := kmsg.NewAlterConfigsResponseResource()
			rr.ResourceType, rr.ResourceName, rr.ErrorCode, rr.ErrorMessage = alts[i].kind, alts[i].name, codeOf(errs[i]), messageOf(errs[i])
			resp.Resources = append(resp.Resources, rr)
		}
		r.respond(resp)
	})
}

// errReplaceLoggers: loggers have no set of configs that could be replaced.
var errReplaceLoggers = refuse(kerr.InvalidRequest, "AlterConfigs does not work on broker loggers; IncrementalAlterConfigs does")

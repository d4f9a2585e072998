// DeleteAcls (key 31), versions 0 to 3: deletes the ACLs that filters choose, and says which those were. v1 brought patterns
// (KIP-290), v3 resources of users.

package broker

import (
	"context"
	"fmt"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/balsamq/balsa/coordinator"
)

func (s *server) deleteACLs(r *request) {
	req := r.msg.(*kmsg.DeleteACLsRequest)
	resp := kmsg.NewPtrDeleteACLsResponse()
	resp.Results = make([]kmsg.DeleteACLsResponseResult, len(req.Filters))
	cmd := &coordinator.AlterACLs{}
	var places []int
	for i := range req.Filters {
		q, place := &req.Filters[i], &resp.Results[i]
		place.Default()
		f, err := aclFilter(req.Version, q.ResourceType, q.ResourceName, q.ResourcePatternType, q.Principal, q.Host, q.Operation, q.PermissionType)
		switch {
		case s.o.Security.Authorizer == nil:
			err = errNoAuthorizer
		case err == nil && len(cmd.Delete) == coordinator.MaxACLChanges:
			err = refuse(kerr.InvalidRequest, fmt.Sprintf("one request has at most %d filters", coordinator.MaxACLChanges))
		}
		if err != nil {
			place.ErrorCode, place.ErrorMessage = codeOf(err), messageOf(err)
			continue
		}
		cmd.Delete, places = append(cmd.Delete, f), append(places, i)
	}
	if len(places) == 0 {
		r.respond(resp)
		return
	}
	ctx, cancel := context.WithTimeout(r.c.ctx, changeTimeout)
	s.b.Change(ctx, &coordinator.Command{AlterACLs: cmd}, func(res *coordinator.Result, err error) {
		cancel()
		var deleted []coordinator.ACL
		for k, i := range places {
			place := &resp.Results[i]
			if err != nil {
				place.ErrorCode, place.ErrorMessage = codeOf(err), messageOf(err)
				continue
			}
			for _, a := range res.ACLs[k] {
				m := kmsg.NewDeleteACLsResponseResultMatchingACL()
				m.ResourceType, m.ResourceName, m.ResourcePatternType = kmsg.ACLResourceType(a.Type), a.Name, kmsg.ACLResourcePatternType(a.Pattern)
				m.Principal, m.Host, m.Operation, m.PermissionType = a.Principal, a.Host, kmsg.ACLOperation(a.Operation), kmsg.ACLPermissionType(a.Permission)
				place.MatchingACLs = append(place.MatchingACLs, m)
			}
			deleted = append(deleted, res.ACLs[k]...)
		}
		s.auditACLs(r, "ACL deleted", deleted)
		r.respond(resp)
	})
}

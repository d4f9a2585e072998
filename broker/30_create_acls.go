// CreateAcls (key 30), versions 0 to 3: adds ACLs, each on its own. One that is there already is no error. v1 brought patterns
// (KIP-290), v3 resources of users.

package broker

import (
	"context"
	"fmt"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/balsamq/balsa/coordinator"
)

func (s *server) createACLs(r *request) {
	req := r.msg.(*kmsg.CreateACLsRequest)
	resp := kmsg.NewPtrCreateACLsResponse()
	resp.Results = make([]kmsg.CreateACLsResponseResult, len(req.Creations))
	cmd := &coordinator.AlterACLs{}
	var places []int
	for i := range req.Creations {
		place := &resp.Results[i]
		place.Default()
		a, err := s.createdACL(req.Version, &req.Creations[i])
		if err == nil && len(cmd.Create) == coordinator.MaxACLChanges {
			err = refuse(kerr.InvalidRequest, fmt.Sprintf("one request makes at most %d ACLs", coordinator.MaxACLChanges))
		}
		if err != nil {
			place.ErrorCode, place.ErrorMessage = codeOf(err), messageOf(err)
			continue
		}
		cmd.Create, places = append(cmd.Create, a), append(places, i)
	}
	if len(places) == 0 {
		r.respond(resp)
		return
	}
	ctx, cancel := context.WithTimeout(r.c.ctx, changeTimeout)
	s.b.Change(ctx, &coordinator.Command{AlterACLs: cmd}, func(_ *coordinator.Result, err error) {
		cancel()
		for _, i := range places {
			resp.Results[i].ErrorCode, resp.Results[i].ErrorMessage = codeOf(err), messageOf(err)
		}
		if err == nil {
			s.auditACLs(r, "ACL created", cmd.Create)
		}
		r.respond(resp)
	})
}

func (s *server) createdACL(version int16, c *kmsg.CreateACLsRequestCreation) (coordinator.ACL, error) {
	a := coordinator.ACL{Type: coordinator.ResourceType(c.ResourceType), Name: c.ResourceName, Pattern: coordinator.PatternType(c.ResourcePatternType),
		Principal: c.Principal, Host: c.Host, Operation: coordinator.Operation(c.Operation), Permission: coordinator.Permission(c.PermissionType)}
	if version == 0 {
		a.Pattern = coordinator.PatternLiteral
	}
	if s.o.Security.Authorizer == nil {
		return a, errNoAuthorizer
	}
	if err := a.Check(); err != nil {
		return a, refuse(kerr.InvalidRequest, err.Error())
	}
	return a, nil
}

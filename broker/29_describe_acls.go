// DescribeAcls (key 29), versions 0 to 3: the ACLs that a filter chooses. v1 brought patterns (KIP-290), v3 resources of users.

package broker

import (
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/balsamq/balsa/coordinator"
)

// errNoAuthorizer answers those who ask about ACLs where nobody looks at them.
var errNoAuthorizer = refuse(kerr.SecurityDisabled, "the broker does not look at ACLs: start all brokers with --acls")

// aclFilter is a filter of a request. Before patterns a filter meant literal ones.
func aclFilter(version int16, t kmsg.ACLResourceType, name *string, pattern kmsg.ACLResourcePatternType, principal, host *string, op kmsg.ACLOperation, perm kmsg.ACLPermissionType) (coordinator.ACLFilter, error) {
	f := coordinator.ACLFilter{Type: coordinator.ResourceType(t), Name: name, Pattern: coordinator.PatternType(pattern), Principal: principal, Host: host,
		Operation: coordinator.Operation(op), Permission: coordinator.Permission(perm)}
	if version == 0 {
		f.Pattern = coordinator.PatternLiteral
	}
	if err := f.Check(); err != nil {
		return f, refuse(kerr.InvalidRequest, err.Error())
	}
	return f, nil
}

func (s *server) describeACLs(r *request) {
	req := r.msg.(*kmsg.DescribeACLsRequest)
	resp := kmsg.NewPtrDescribeACLsResponse()
	var err error
	f := coordinator.ACLFilter{}
	if s.o.Security.Authorizer == nil {
		err = errNoAuthorizer
	} else {
		f, err = aclFilter(req.Version, req.ResourceType, req.ResourceName, req.ResourcePatternType, req.Principal, req.Host, req.Operation, req.PermissionType)
	}
	if err != nil {
		resp.ErrorCode, resp.ErrorMessage = codeOf(err), messageOf(err)
		r.respond(resp)
		return
	}
	var last *kmsg.DescribeACLsResponseResource
	for _, a := range s.b.Image().ACLs().All() { // sorted by resource
		if !f.Matches(&a) || req.Version == 0 && a.Pattern != coordinator.PatternLiteral {
			continue
		}
		if last == nil || last.ResourceName != a.Name || last.ResourceType != kmsg.ACLResourceType(a.Type) || last.ResourcePatternType != kmsg.ACLResourcePatternType(a.Pattern) {
			res := kmsg.NewDescribeACLsResponseResource()
			res.ResourceType, res.ResourceName, res.ResourcePatternType = kmsg.ACLResourceType(a.Type), a.Name, kmsg.ACLResourcePatternType(a.Pattern)
			resp.Resources = append(resp.Resources, res)
			last = &resp.Resources[len(resp.Resources)-1]
		}
		one := kmsg.NewDescribeACLsResponseResourceACL()
		one.Principal, one.Host, one.Operation, one.PermissionType = a.Principal, a.Host, kmsg.ACLOperation(a.Operation), kmsg.ACLPermissionType(a.Permission)
		last.ACLs = append(last.ACLs, one)
	}
	r.respond(resp)
}

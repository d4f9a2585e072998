// ACLs: who may do what to which resource.

package client

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// ACL is one rule. In a filter an empty field is any.
type ACL struct {
	Resource   string `json:"resource" yaml:"resource"`     // topic, group, cluster, transactional_id
	Name       string `json:"name" yaml:"name"`             // of the resource; "*": all
	Pattern    string `json:"pattern" yaml:"pattern"`       // literal, prefixed; in a filter also match: all that bears on Name
	Principal  string `json:"principal" yaml:"principal"`   // User:alice; User:*: everybody
	Host       string `json:"host" yaml:"host"`             // an address, a network (10.0.0.0/8), or *
	Operation  string `json:"operation" yaml:"operation"`   // read, write, create, delete, alter, describe, …; all
	Permission string `json:"permission" yaml:"permission"` // allow, deny
}

// String is how it is shown.
func (a ACL) String() string {
	return fmt.Sprintf("%s %s to %s %s %s (%s) from %s", a.Permission, a.Principal, a.Operation, a.Resource, a.Name, a.Pattern, a.Host)
}

// aclNumbers are an ACL's enumerations by Kafka's numbers.
type aclNumbers struct {
	resource   kmsg.ACLResourceType
	pattern    kmsg.ACLResourcePatternType
	operation  kmsg.ACLOperation
	permission kmsg.ACLPermissionType
}

// numbers reads the enumerations; empty ones are any.
func (a *ACL) numbers() (n aclNumbers, err error) {
	var errs [4]error
	n.resource, errs[0] = kmsg.ParseACLResourceType(cmp.Or(a.Resource, "any"))
	n.pattern, errs[1] = kmsg.ParseACLResourcePatternType(cmp.Or(a.Pattern, "any"))
	n.operation, errs[2] = kmsg.ParseACLOperation(cmp.Or(a.Operation, "any"))
	n.permission, errs[3] = kmsg.ParseACLPermissionType(cmp.Or(a.Permission, "any"))
	if err := errors.Join(errs[:]...); err != nil {
		return n, &Error{Op: "read the ACL", Kind: ErrInvalid, Err: errors.New(strings.ReplaceAll(err.Error(), "\n", "; "))}
	}
	return n, nil
}

func aclOf(n aclNumbers, name, principal, host string) ACL {
	return ACL{Resource: strings.ToLower(n.resource.String()), Name: name, Pattern: strings.ToLower(n.pattern.String()), Principal: principal, Host: host,
		Operation: strings.ToLower(n.operation.String()), Permission: strings.ToLower(n.permission.String())}
}

func (a *ACL) compare(b *ACL) int {
	return cmp.Or(cmp.Compare(a.Resource, b.Resource), cmp.Compare(a.Name, b.Name), cmp.Compare(a.Pattern, b.Pattern), cmp.Compare(a.Principal, b.Principal),
		cmp.Compare(a.Host, b.Host), cmp.Compare(a.Operation, b.Operation), cmp.Compare(a.Permission, b.Permission))
}

func sortACLs(list []ACL) []ACL {
	slices.SortFunc(list, func(a, b ACL) int { return a.compare(&b) })
	return list
}

// CreateACLs adds rules. One that is there already is no error.
func (a *Admin) CreateACLs(ctx context.Context, acls ...ACL) error {
	req := kmsg.NewPtrCreateACLsRequest()
	for i := range acls {
		n, err := acls[i].numbers()
		if err != nil {
			return err
		}
		c := kmsg.NewCreateACLsRequestCreation()
		c.ResourceType, c.ResourceName, c.ResourcePatternType, c.Principal, c.Host, c.Operation, c.PermissionType =
			n.resource, acls[i].Name, n.pattern, acls[i].Principal, acls[i].Host, n.operation, n.permission
		req.Creations = append(req.Creations, c)
	}
	resp, err := req.RequestWith(ctx, a.cl)
	if err != nil {
		return a.wrap("create ACLs", "", err)
	}
	for i := range resp.Results {
		if err := aclError("create ACL", resp.Results[i].ErrorCode, resp.Results[i].ErrorMessage); err != nil {
			return err
		}
	}
	return nil
}

func aclError(op string, code int16, message *string) error {
	err := kerr.ErrorForCode(code)
	if err == nil {
		return nil
	}
	text := ""
	if message != nil {
		text = *message
	}
	return explain(op, "", err, text)
}

func optional(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

// ACLs are the rules that a filter chooses.
func (a *Admin) ACLs(ctx context.Context, filter ACL) ([]ACL, error) {
	n, err := filter.numbers()
	if err != nil {
		return nil, err
	}
	req := kmsg.NewPtrDescribeACLsRequest()
	req.ResourceType, req.ResourceName, req.ResourcePatternType = n.resource, optional(filter.Name), n.pattern
	req.Principal, req.Host, req.Operation, req.PermissionType = optional(filter.Principal), optional(filter.Host), n.operation, n.permission
	resp, err := req.RequestWith(ctx, a.cl)
	if err != nil {
		return nil, a.wrap("list ACLs", "", err)
	}
	if err := aclError("list ACLs", resp.ErrorCode, resp.ErrorMessage); err != nil {
		return nil, err
	}
	out := []ACL{}
	for _, r := range resp.Resources {
		for _, x := range r.ACLs {
			out = append(out, aclOf(aclNumbers{r.ResourceType, r.ResourcePatternType, x.Operation, x.PermissionType}, r.ResourceName, x.Principal, x.Host))
		}
	}
	return sortACLs(out), nil
}

// DeleteACLs deletes the rules that a filter chooses, and returns them.
func (a *Admin) DeleteACLs(ctx context.Context, filter ACL) ([]ACL, error) {
	n, err := filter.numbers()
	if err != nil {
		return nil, err
	}
	req := kmsg.NewPtrDeleteACLsRequest()
	f := kmsg.NewDeleteACLsRequestFilter()
	f.ResourceType, f.ResourceName, f.ResourcePatternType = n.resource, optional(filter.Name), n.pattern
	f.Principal, f.Host, f.Operation, f.PermissionType = optional(filter.Principal), optional(filter.Host), n.operation, n.permission
	req.Filters = append(req.Filters, f)
	resp, err := req.RequestWith(ctx, a.cl)
	if err != nil {
		return nil, a.wrap("delete ACLs", "", err)
	}
	out := []ACL{}
	for _, r := range resp.Results {
		if err := aclError("delete ACLs", r.ErrorCode, r.ErrorMessage); err != nil {
			return nil, err
		}
		for _, m := range r.MatchingACLs {
			out = append(out, aclOf(aclNumbers{m.ResourceType, m.ResourcePatternType, m.Operation, m.PermissionType}, m.ResourceName, m.Principal, m.Host))
		}
	}
	return sortACLs(out), nil
}

// ACLs, as metadata: who may do what to which resource, in Kafka's terms and with its rules. docs/design/0019-security.md.

package coordinator

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

const (
	// MaxACLs bounds the ACLs of a cluster.
	MaxACLs = 20_000
	// MaxACLChanges bounds one AlterACLs.
	MaxACLChanges = 1000
	// maxACLText bounds a principal, a host and a resource's name.
	maxACLText = 1024
)

// ErrTooManyACLs: MaxACLs is reached.
var ErrTooManyACLs = errors.New("too many ACLs")

// The enumerations have Kafka's numbers on the wire, and Kafka's names in the log and for people.
type (
	ResourceType int8
	PatternType  int8
	Operation    int8
	Permission   int8
)

const (
	ResourceAny             ResourceType = 1
	ResourceTopic           ResourceType = 2
	ResourceGroup           ResourceType = 3
	ResourceCluster         ResourceType = 4
	ResourceTransactionalID ResourceType = 5
	ResourceDelegationToken ResourceType = 6
	ResourceUser            ResourceType = 7

	PatternAny      PatternType = 1
	PatternMatch    PatternType = 2
	PatternLiteral  PatternType = 3
	PatternPrefixed PatternType = 4

	OpAny             Operation = 1
	OpAll             Operation = 2
	OpRead            Operation = 3
	OpWrite           Operation = 4
	OpCreate          Operation = 5
	OpDelete          Operation = 6
	OpAlter           Operation = 7
	OpDescribe        Operation = 8
	OpClusterAction   Operation = 9
	OpDescribeConfigs Operation = 10
	OpAlterConfigs    Operation = 11
	OpIdempotentWrite Operation = 12
	OpCreateTokens    Operation = 13
	OpDescribeTokens  Operation = 14
	OpTwoPhaseCommit  Operation = 15

	PermissionAny   Permission = 1
	PermissionDeny  Permission = 2
	PermissionAllow Permission = 3

	// ClusterResource is the name of the one resource of its type.
	ClusterResource = "kafka-cluster"
	// Wildcard, as a literal resource name or a host, is all.
	Wildcard = "*"
	// AnyUser is the principal of everybody.
	AnyUser = "User:*"
)

var (
	resourceNames   = []string{"", "any", "topic", "group", "cluster", "transactional_id", "delegation_token", "user"}
	patternNames    = []string{"", "any", "match", "literal", "prefixed"}
	permissionNames = []string{"", "any", "deny", "allow"}
	operationNames  = []string{"", "any", "all", "read", "write", "create", "delete", "alter", "describe", "cluster_action", "describe_configs",
		"alter_configs", "idempotent_write", "create_tokens", "describe_tokens", "two_phase_commit"}
)

func nameOf[T ~int8](v T, names []string) string {
	if v <= 0 || int(v) >= len(names) {
		return fmt.Sprintf("unknown(%d)", v)
	}
	return names[v]
}

func valueOf[T ~int8](text []byte, names []string, v *T) error {
	i := slices.Index(names, string(text))
	if i <= 0 {
		return fmt.Errorf("%w: %q is none of %s", ErrMalformed, text, strings.Join(names[1:], ", "))
	}
	*v = T(i)
	return nil
}

func (r ResourceType) String() string { return nameOf(r, resourceNames) }
func (p PatternType) String() string  { return nameOf(p, patternNames) }
func (o Operation) String() string    { return nameOf(o, operationNames) }
func (p Permission) String() string   { return nameOf(p, permissionNames) }

// MarshalText and UnmarshalText use the names.
func (r ResourceType) MarshalText() ([]byte, error)     { return []byte(r.String()), nil }
func (p PatternType) MarshalText() ([]byte, error)      { return []byte(p.String()), nil }
func (o Operation) MarshalText() ([]byte, error)        { return []byte(o.String()), nil }
func (p Permission) MarshalText() ([]byte, error)       { return []byte(p.String()), nil }
func (r *ResourceType) UnmarshalText(text []byte) error { return valueOf(text, resourceNames, r) }
func (p *PatternType) UnmarshalText(text []byte) error  { return valueOf(text, patternNames, p) }
func (o *Operation) UnmarshalText(text []byte) error    { return valueOf(text, operationNames, o) }
func (p *Permission) UnmarshalText(text []byte) error   { return valueOf(text, permissionNames, p) }

// ACL is one binding. It is its own identity: there are no two that are equal.
type ACL struct {
	Type       ResourceType `json:"type"`
	Name       string       `json:"name"` // of the resource; Wildcard, with PatternLiteral, is all
	Pattern    PatternType  `json:"pattern"`
	Principal  string       `json:"principal"` // "User:alice"; AnyUser
	Host       string       `json:"host"`      // an address, a network ("10.0.0.0/8"), or Wildcard
	Operation  Operation    `json:"operation"`
	Permission Permission   `json:"permission"`
}

// compare orders ACLs.
func (a *ACL) compare(b *ACL) int {
	return cmp.Or(cmp.Compare(a.Type, b.Type), strings.Compare(a.Name, b.Name), cmp.Compare(a.Pattern, b.Pattern), strings.Compare(a.Principal, b.Principal),
		strings.Compare(a.Host, b.Host), cmp.Compare(a.Operation, b.Operation), cmp.Compare(a.Permission, b.Permission))
}

// operationsOf are those that make sense for a type of resource, beside OpAll.
var operationsOf = map[ResourceType][]Operation{
	ResourceTopic:           {OpRead, OpWrite, OpCreate, OpDelete, OpAlter, OpDescribe, OpDescribeConfigs, OpAlterConfigs},
	ResourceGroup:           {OpRead, OpDelete, OpDescribe, OpDescribeConfigs, OpAlterConfigs},
	ResourceCluster:         {OpCreate, OpAlter, OpDescribe, OpClusterAction, OpDescribeConfigs, OpAlterConfigs, OpIdempotentWrite},
	ResourceTransactionalID: {OpWrite, OpDescribe, OpTwoPhaseCommit},
	ResourceDelegationToken: {OpDescribe},
	ResourceUser:            {OpCreateTokens, OpDescribeTokens},
}

// Operations are those that a type of resource knows, beside OpAll. The slice is shared.
func Operations(t ResourceType) []Operation { return operationsOf[t] }

// Check says what is wrong with an ACL.
func (a *ACL) Check() error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("%w: "+format, append([]any{ErrMalformed}, args...)...)
	}
	switch {
	case operationsOf[a.Type] == nil:
		return bad("there are no ACLs for resource type %s", a.Type)
	case a.Name == "" || len(a.Name) > maxACLText:
		return bad("a resource's name has 1 to %d bytes", maxACLText)
	case a.Pattern != PatternLiteral && a.Pattern != PatternPrefixed:
		return bad("the pattern is %s, not literal or prefixed", a.Pattern)
	case a.Type == ResourceCluster && a.Name != ClusterResource && !(a.Name == Wildcard && a.Pattern == PatternLiteral):
		return bad("the only resource of type cluster is %s", ClusterResource)
	case a.Operation != OpAll && !slices.Contains(operationsOf[a.Type], a.Operation):
		return bad("a %s has no operation %s", a.Type, a.Operation)
	case a.Permission != PermissionAllow && a.Permission != PermissionDeny:
		return bad("the permission is %s, not allow or deny", a.Permission)
	case len(a.Principal) > maxACLText || !strings.HasPrefix(a.Principal, "User:") || a.Principal == "User:":
		return bad("the principal %q is not User:NAME", a.Principal)
	}
	if a.Host != Wildcard {
		if _, err := parseHost(a.Host); err != nil {
			return bad("the host %q is no address, no network and not %s", a.Host, Wildcard)
		}
	}
	return nil
}

// parseHost is an address or a network as a network.
func parseHost(s string) (netip.Prefix, error) {
	if len(s) > maxACLText {
		return netip.Prefix{}, ErrMalformed
	}
	if p, err := netip.ParsePrefix(s); err == nil {
		if a := p.Addr(); a.Is4In6() && p.Bits() >= 96 { // a network of IPv4 in other words: who asks has an address of IPv4
			p = netip.PrefixFrom(a.Unmap(), p.Bits()-96)
		}
		return p.Masked(), nil
	}
	a, err := netip.ParseAddr(s)
	if err != nil {
		return netip.Prefix{}, err
	}
	a = a.Unmap().WithZone("")
	return netip.PrefixFrom(a, a.BitLen()), nil
}

// ACLFilter chooses ACLs. Zero strings and the Any values are no restriction.
type ACLFilter struct {
	Type ResourceType `json:"type"`
	Name *string      `json:"name,omitempty"`
	// Pattern: PatternMatch chooses every ACL that bears on the resource called Name.
	Pattern    PatternType `json:"pattern"`
	Principal  *string     `json:"principal,omitempty"`
	Host       *string     `json:"host,omitempty"`
	Operation  Operation   `json:"operation"`
	Permission Permission  `json:"permission"`
}

// Check says what is wrong with a filter.
func (f *ACLFilter) Check() error {
	for _, s := range []*string{f.Name, f.Principal, f.Host} {
		if s != nil && len(*s) > maxACLText {
			return fmt.Errorf("%w: a filter with a text of %d bytes", ErrMalformed, len(*s))
		}
	}
	if f.Type < ResourceAny || f.Type > ResourceUser || f.Pattern < PatternAny || f.Pattern > PatternPrefixed ||
		f.Operation < OpAny || f.Operation > OpTwoPhaseCommit || f.Permission < PermissionAny || f.Permission > PermissionAllow {
		return fmt.Errorf("%w: a filter for %s, %s, %s, %s", ErrMalformed, f.Type, f.Pattern, f.Operation, f.Permission)
	}
	return nil
}

// Matches reports whether the filter chooses an ACL.
func (f *ACLFilter) Matches(a *ACL) bool {
	if f.Type != ResourceAny && f.Type != a.Type || f.Operation != OpAny && f.Operation != a.Operation || f.Permission != PermissionAny && f.Permission != a.Permission ||
		f.Principal != nil && *f.Principal != a.Principal || f.Host != nil && *f.Host != a.Host {
		return false
	}
	switch f.Pattern {
	case PatternLiteral, PatternPrefixed:
		return f.Pattern == a.Pattern && (f.Name == nil || *f.Name == a.Name)
	case PatternMatch:
		if f.Name == nil {
			return true
		}
		if a.Pattern == PatternPrefixed {
			return strings.HasPrefix(*f.Name, a.Name)
		}
		return a.Name == *f.Name || a.Name == Wildcard
	}
	return f.Name == nil || *f.Name == a.Name
}

// AlterACLs creates ACLs (those that are there stay) and deletes those that filters choose.
type AlterACLs struct {
	Create []ACL       `json:"create,omitempty"`
	Delete []ACLFilter `json:"delete,omitempty"`
}

func (a *AlterACLs) check() error {
	if n := len(a.Create) + len(a.Delete); n == 0 || n > MaxACLChanges {
		return fmt.Errorf("%w: %d changes of ACLs", ErrMalformed, n)
	}
	for i := range a.Create {
		if err := a.Create[i].Check(); err != nil {
			return err
		}
	}
	for i := range a.Delete {
		if err := a.Delete[i].Check(); err != nil {
			return err
		}
	}
	return nil
}

func (d *draft) alterACLs(a *AlterACLs) *Result {
	list := slices.Clone(d.acls.list)
	r := &Result{}
	for i := range a.Delete {
		gone := []ACL{}
		list = slices.DeleteFunc(list, func(x ACL) bool {
			if !a.Delete[i].Matches(&x) {
				return false
			}
			gone = append(gone, x)
			return true
		})
		r.ACLs = append(r.ACLs, gone)
	}
	for _, x := range a.Create {
		if i, there := slices.BinarySearchFunc(list, x, func(a, b ACL) int { return a.compare(&b) }); !there {
			list = slices.Insert(list, i, x)
		}
	}
	if len(list) > MaxACLs {
		return &Result{Failure: FailureOf(fmt.Errorf("%w: at most %d", ErrTooManyACLs, MaxACLs))}
	}
	d.acls = newACLs(list)
	return r
}

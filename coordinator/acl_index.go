// The index by which ACLs are asked: what a decision costs is a few look-ups in maps, and no memory.

package coordinator

import (
	"net/netip"
	"slices"
)

// ACLs are the ACLs of one Image, immutable.
type ACLs struct {
	list  []ACL // sorted
	types [ResourceUser + 1]aclType
}

// aclType are the ACLs for one type of resource.
type aclType struct {
	literal  map[string][]aclEntry // also under Wildcard
	prefixed map[string][]aclEntry
	lengths  []int // of the prefixes, rising, each once
}

// aclEntry is an ACL without its resource.
type aclEntry struct {
	principal  string
	host       netip.Prefix // not valid: every host
	operation  Operation
	permission Permission
}

// Who asks, and from where.
type Requester struct {
	Principal string
	Addr      netip.Addr // not valid: no ACL for a host or a network matches
}

// Decision is what ACLs say.
type Decision int8

const (
	NoACL   Decision = iota // there is none for the resource at all
	Refused                 // there are some, and none allows it
	Denied                  // one denies it
	Allowed                 // one allows it, and none denies it
)

// newACLs indexes a sorted list of checked ACLs.
func newACLs(list []ACL) *ACLs {
	x := &ACLs{list: list}
	for i := range list {
		a := &list[i]
		e := aclEntry{principal: a.Principal, operation: a.Operation, permission: a.Permission}
		if a.Host != Wildcard {
			e.host, _ = parseHost(a.Host) // Check has parsed it
		}
		t := &x.types[a.Type]
		m := &t.literal
		if a.Pattern == PatternPrefixed {
			m = &t.prefixed
			if !slices.Contains(t.lengths, len(a.Name)) {
				t.lengths = append(t.lengths, len(a.Name))
			}
		}
		if *m == nil {
			*m = make(map[string][]aclEntry)
		}
		(*m)[a.Name] = append((*m)[a.Name], e)
	}
	for i := range x.types {
		slices.Sort(x.types[i].lengths)
	}
	return x
}

// noACLs is what an Image has before there is any.
var noACLs = newACLs(nil)

// ACLs are the cluster's.
func (im *Image) ACLs() *ACLs { return im.acls }

// All are all ACLs in order. The slice is shared.
func (x *ACLs) All() []ACL { return x.list }

// concerns reports whether an entry is about a requester.
func (e *aclEntry) concerns(q *Requester) bool {
	return (e.principal == q.Principal || e.principal == AnyUser) && (!e.host.IsValid() || q.Addr.IsValid() && e.host.Contains(q.Addr))
}

// brings says that who may do the one may do the other: an allowing ACL implies it, a denying one does not.
func brings(have, want Operation) bool {
	switch {
	case have == want || have == OpAll:
		return true
	case want == OpDescribe:
		return have == OpRead || have == OpWrite || have == OpDelete || have == OpAlter
	case want == OpDescribeConfigs:
		return have == OpAlterConfigs
	}
	return false
}

// Decide says whether q may do op to a resource.
func (x *ACLs) Decide(q *Requester, op Operation, t ResourceType, name string) Decision {
	if t <= 0 || int(t) >= len(x.types) {
		return NoACL
	}
	d := NoACL
	ty := &x.types[t]
	look := func(entries []aclEntry) bool {
		if len(entries) > 0 && d == NoACL {
			d = Refused
		}
		for i := range entries {
			e := &entries[i]
			if !e.concerns(q) {
				continue
			}
			if e.permission == PermissionDeny {
				if e.operation == op || e.operation == OpAll {
					d = Denied
					return false
				}
			} else if brings(e.operation, op) {
				d = Allowed
			}
		}
		return true
	}
	if !look(ty.literal[name]) || name != Wildcard && !look(ty.literal[Wildcard]) {
		return d
	}
	for _, n := range ty.lengths {
		if n > len(name) {
			break
		}
		if !look(ty.prefixed[name[:n]]) {
			return d
		}
	}
	return d
}

// DecideAny says whether there can be a resource of the type to which q may do op (Kafka's authorizeByResourceType): some pattern
// allows it, and none that covers all of that pattern denies it.
func (x *ACLs) DecideAny(q *Requester, op Operation, t ResourceType) Decision {
	if t <= 0 || int(t) >= len(x.types) {
		return NoACL
	}
	ty := &x.types[t]
	if len(ty.literal) == 0 && len(ty.prefixed) == 0 {
		return NoACL
	}
	denied := func(entries []aclEntry) bool {
		return slices.ContainsFunc(entries, func(e aclEntry) bool {
			return e.permission == PermissionDeny && (e.operation == op || e.operation == OpAll) && e.concerns(q)
		})
	}
	if denied(ty.literal[Wildcard]) {
		return Denied
	}
	// covered: a prefix of the name, or the name itself as a prefix, is denied.
	covered := func(name string) bool {
		return slices.ContainsFunc(ty.lengths, func(n int) bool { return n <= len(name) && denied(ty.prefixed[name[:n]]) })
	}
	allows := func(entries []aclEntry) bool {
		return slices.ContainsFunc(entries, func(e aclEntry) bool {
			return e.permission == PermissionAllow && brings(e.operation, op) && e.concerns(q)
		})
	}
	for name, entries := range ty.literal {
		if allows(entries) && (name == Wildcard || !denied(entries) && !covered(name)) {
			return Allowed
		}
	}
	for name, entries := range ty.prefixed {
		if allows(entries) && !covered(name) {
			return Allowed
		}
	}
	return Refused
}

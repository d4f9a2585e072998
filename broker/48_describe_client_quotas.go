// DescribeClientQuotas (key 48), versions 0 and 1: which quotas were set, for the entities that the request's components match: by name, the default, or
// any. An entity may have more parts than the request names, unless it is strict.

package broker

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/balsamq/balsa/coordinator"
)

// How a component matches.
const (
	matchExact   = 0
	matchDefault = 1
	matchAny     = 2
)

func (s *server) describeClientQuotas(r *request) {
	req := r.msg.(*kmsg.DescribeClientQuotasRequest)
	resp := kmsg.NewPtrDescribeClientQuotasResponse()
	if err := checkComponents(req.Components); err != nil {
		resp.ErrorCode, resp.ErrorMessage = codeOf(err), messageOf(err)
		r.respond(resp)
		return
	}
	resp.Entries = []kmsg.DescribeClientQuotasResponseEntry{} // null is for errors, and Java's client takes it for nothing else
	for e, limits := range s.b.Image().Quotas() {
		parts := partsOf(&e)
		if req.Strict && len(parts) != len(req.Components) || !matches(parts, req.Components) {
			continue
		}
		out := kmsg.NewDescribeClientQuotasResponseEntry()
		for _, p := range parts {
			oe := kmsg.NewDescribeClientQuotasResponseEntryEntity()
			oe.Type = p.kind
			oe.Name = optional(p.name)
			out.Entity = append(out.Entity, oe)
		}
		for _, name := range slices.Sorted(maps.Keys(limits)) {
			v := kmsg.NewDescribeClientQuotasResponseEntryValue()
			v.Key, v.Value = name, limits[name]
			out.Values = append(out.Values, v)
		}
		resp.Entries = append(resp.Entries, out)
	}
	slices.SortFunc(resp.Entries, func(a, b kmsg.DescribeClientQuotasResponseEntry) int {
		return slices.CompareFunc(a.Entity, b.Entity, func(x, y kmsg.DescribeClientQuotasResponseEntryEntity) int {
			return cmp.Or(cmp.Compare(x.Type, y.Type), cmp.Compare(text(x.Name), text(y.Name)))
		})
	})
	r.respond(resp)
}

// text is a nullable string's; null is as empty.
func text(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

// quotaPart is one part of an entity; an empty name is the default.
type quotaPart struct{ kind, name string }

func partsOf(e *coordinator.QuotaEntity) (parts []quotaPart) {
	for _, p := range [...]struct {
		kind string
		name *string
	}{{coordinator.QuotaUser, e.User}, {coordinator.QuotaClientID, e.ClientID}, {coordinator.QuotaIP, e.IP}} {
		if p.name != nil {
			parts = append(parts, quotaPart{p.kind, *p.name})
		}
	}
	return parts
}

func checkComponents(list []kmsg.DescribeClientQuotasRequestComponent) error {
	seen := make(map[string]bool)
	for i := range list {
		c := &list[i]
		switch {
		case c.EntityType == "":
			return refuse(kerr.InvalidRequest, "a component has no entity type")
		case seen[c.EntityType]:
			return refuse(kerr.InvalidRequest, fmt.Sprintf("the entity type %s is named more than once", c.EntityType))
		case c.EntityType != coordinator.QuotaUser && c.EntityType != coordinator.QuotaClientID && c.EntityType != coordinator.QuotaIP:
			return refuse(kerr.UnsupportedVersion, fmt.Sprintf("there are no quotas for an entity of type %q", c.EntityType))
		case c.MatchType < matchExact || c.MatchType > matchAny:
			return refuse(kerr.InvalidRequest, fmt.Sprintf("unknown match type %d", c.MatchType))
		case (c.MatchType == matchExact) != (c.Match != nil):
			return refuse(kerr.InvalidRequest, "a component has a name to match, or is for the default or any, not both")
		}
		seen[c.EntityType] = true
	}
	if seen[coordinator.QuotaIP] && len(list) > 1 {
		return refuse(kerr.InvalidRequest, "an address goes with no user or client id")
	}
	return nil
}

func matches(parts []quotaPart, components []kmsg.DescribeClientQuotasRequestComponent) bool {
	for i := range components {
		c := &components[i]
		k := slices.IndexFunc(parts, func(p quotaPart) bool { return p.kind == c.EntityType })
		if k < 0 {
			return false
		}
		switch name := parts[k].name; c.MatchType {
		case matchExact:
			if name == "" || name != *c.Match {
				return false
			}
		case matchDefault:
			if name != "" {
				return false
			}
		}
	}
	return true
}

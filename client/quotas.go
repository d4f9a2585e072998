// Client quotas: how much users, client ids and addresses may do.

package client

import (
	"context"
	"slices"
	"strings"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// QuotaEntity is for whom a quota holds: the parts that are set, together. An empty name is the default, for all that have none of their own.
type QuotaEntity struct {
	User     *string `json:"user,omitempty" yaml:"user,omitempty"`
	ClientID *string `json:"clientId,omitempty" yaml:"clientId,omitempty"`
	IP       *string `json:"ip,omitempty" yaml:"ip,omitempty"`
}

func (e QuotaEntity) parts() (kinds []string, names []*string) {
	for _, p := range [...]struct {
		kind string
		name *string
	}{{"user", e.User}, {"client-id", e.ClientID}, {"ip", e.IP}} {
		if p.name != nil {
			kinds, names = append(kinds, p.kind), append(names, p.name)
		}
	}
	return kinds, names
}

// String is how it is shown.
func (e QuotaEntity) String() string {
	kinds, names := e.parts()
	out := make([]string, len(kinds))
	for i := range kinds {
		out[i] = kinds[i] + " " + *names[i]
		if *names[i] == "" {
			out[i] = "default " + kinds[i]
		}
	}
	return strings.Join(out, ", ")
}

// Quota is an entity with its limits.
type Quota struct {
	QuotaEntity `yaml:",inline"`
	Limits      map[string]float64 `json:"limits" yaml:"limits"`
}

// Quotas are those that were set, for all entities that have at least the parts of filter, by these names; a part that filter does not have may be anything.
func (a *Admin) Quotas(ctx context.Context, filter QuotaEntity) ([]Quota, error) {
	const op = "show the quotas"
	req := kmsg.NewPtrDescribeClientQuotasRequest()
	kinds, names := filter.parts()
	for i := range kinds {
		c := kmsg.NewDescribeClientQuotasRequestComponent()
		c.EntityType, c.MatchType, c.Match = kinds[i], kmsg.QuotasMatchTypeExact, names[i]
		if *names[i] == "" {
			c.MatchType, c.Match = kmsg.QuotasMatchTypeDefault, nil
		}
		req.Components = append(req.Components, c)
	}
	resp, err := req.RequestWith(ctx, a.cl)
	if err != nil {
		return nil, a.wrap(op, "", err)
	}
	if err := kerr.ErrorForCode(resp.ErrorCode); err != nil {
		return nil, a.explain(op, "", err, text(resp.ErrorMessage))
	}
	out := make([]Quota, 0, len(resp.Entries))
	for _, e := range resp.Entries {
		q := Quota{Limits: make(map[string]float64, len(e.Values))}
		for _, p := range e.Entity {
			name := text(p.Name)
			switch p.Type {
			case "user":
				q.User = &name
			case "client-id":
				q.ClientID = &name
			case "ip":
				q.IP = &name
			}
		}
		for _, v := range e.Values {
			q.Limits[v.Key] = v.Value
		}
		out = append(out, q)
	}
	slices.SortStableFunc(out, func(x, y Quota) int { return strings.Compare(x.String(), y.String()) })
	return out, nil
}

// AlterQuotas sets limits of an entity, and takes away those whose value is nil. With validateOnly it only says whether that could be done.
func (a *Admin) AlterQuotas(ctx context.Context, e QuotaEntity, limits map[string]*float64, validateOnly bool) error {
	const op = "change the quotas of"
	req := kmsg.NewPtrAlterClientQuotasRequest()
	req.ValidateOnly = validateOnly
	entry := kmsg.NewAlterClientQuotasRequestEntry()
	kinds, names := e.parts()
	for i := range kinds {
		ee := kmsg.NewAlterClientQuotasRequestEntryEntity()
		ee.Type = kinds[i]
		if *names[i] != "" {
			ee.Name = names[i]
		}
		entry.Entity = append(entry.Entity, ee)
	}
	for name, v := range limits {
		o := kmsg.NewAlterClientQuotasRequestEntryOp()
		o.Key, o.Remove = name, v == nil
		if v != nil {
			o.Value = *v
		}
		entry.Ops = append(entry.Ops, o)
	}
	req.Entries = append(req.Entries, entry)
	resp, err := req.RequestWith(ctx, a.cl)
	if err != nil {
		return a.wrap(op, e.String(), err)
	}
	for _, r := range resp.Entries {
		if err := kerr.ErrorForCode(r.ErrorCode); err != nil {
			return a.explain(op, e.String(), err, text(r.ErrorMessage))
		}
	}
	return nil
}

// AlterClientQuotas (key 49), versions 0 and 1: sets quotas and takes them away (KIP-546), those of each entity on their own. Answered when every
// broker that is there has them.

package broker

import (
	"context"
	"fmt"
	"math"
	"net"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/balsamq/balsa/coordinator"
)

// quotaLimits are the limits that there are.
var quotaLimits = map[string]struct {
	ip    bool // of addresses; else of users and client ids
	whole bool
	most  float64
}{
	quotaProduce:    {whole: true, most: math.MaxInt64},
	quotaConsume:    {whole: true, most: math.MaxInt64},
	quotaRequest:    {most: math.MaxFloat64},
	quotaMutation:   {most: math.MaxFloat64},
	quotaConnection: {ip: true, whole: true, most: math.MaxInt32},
}

func (s *server) alterClientQuotas(r *request) {
	req := r.msg.(*kmsg.AlterClientQuotasRequest)
	resp := kmsg.NewPtrAlterClientQuotasResponse()
	resp.Entries = make([]kmsg.AlterClientQuotasResponseEntry, len(req.Entries))
	var (
		changes []coordinator.QuotaChange
		places  []int
	)
	fail := func(i int, err error) {
		resp.Entries[i].ErrorCode, resp.Entries[i].ErrorMessage = codeOf(err), messageOf(err)
	}
	for i := range req.Entries {
		q := &req.Entries[i]
		resp.Entries[i].Default()
		for _, e := range q.Entity {
			re := kmsg.NewAlterClientQuotasResponseEntryEntity()
			re.Type, re.Name = e.Type, e.Name
			resp.Entries[i].Entity = append(resp.Entries[i].Entity, re)
		}
		c, err := quotaChange(q)
		if err == nil && len(changes) == coordinator.MaxChangesPerCommand {
			err = refuse(kerr.PolicyViolation, fmt.Sprintf("more than %d entities in one request", coordinator.MaxChangesPerCommand))
		}
		if err != nil {
			fail(i, err)
			continue
		}
		changes, places = append(changes, c), append(places, i)
	}
	if len(changes) == 0 || req.ValidateOnly {
		r.respond(resp)
		return
	}
	ctx, cancel := context.WithTimeout(r.c.ctx, adminTimeout(alterTimeout))
	s.b.AlterQuotas(ctx, changes, func(errs []error) {
		cancel()
		s.auditQuotas(r, changes, errs)
		for k, i := range places {
			if errs[k] != nil {
				fail(i, errs[k])
			}
		}
		r.respond(resp)
	})
}

func quotaChange(q *kmsg.AlterClientQuotasRequestEntry) (c coordinator.QuotaChange, err error) {
	bad := func(format string, args ...any) (coordinator.QuotaChange, error) {
		return c, refuse(kerr.InvalidRequest, fmt.Sprintf(format, args...))
	}
	if len(q.Entity) == 0 {
		return bad("the entity is empty")
	}
	for i := range q.Entity {
		e := &q.Entity[i]
		name := new(string) // the default
		if e.Name != nil {
			if *e.Name == "" {
				return bad("the name of a %s is empty; null is the default", e.Type)
			}
			*name = *e.Name
		}
		var place **string
		switch e.Type {
		case coordinator.QuotaUser:
			place = &c.User
		case coordinator.QuotaClientID:
			place = &c.ClientID
		case coordinator.QuotaIP:
			place = &c.IP
			if ip := net.ParseIP(*name); *name != "" {
				if ip == nil {
					return bad("%q is no address", *name)
				}
				*name = ip.String()
			}
		default:
			return bad("there are no quotas for an entity of type %q", e.Type)
		}
		if *place != nil {
			return bad("the entity type %s is named more than once", e.Type)
		}
		*place = name
	}
	if c.IP != nil && len(q.Entity) > 1 {
		return bad("an address goes with no user or client id")
	}
	c.Set = make(map[string]*float64, len(q.Ops))
	for i := range q.Ops {
		op := &q.Ops[i]
		l, ok := quotaLimits[op.Key]
		if !ok || l.ip != (c.IP != nil) {
			return bad("there is no quota %q for such an entity", op.Key)
		}
		if _, ok := c.Set[op.Key]; ok {
			return bad("%s is named more than once", op.Key)
		}
		if op.Remove {
			c.Set[op.Key] = nil
			continue
		}
		v := op.Value
		switch {
		case math.IsNaN(v) || v <= 0:
			return bad("%s=%v must be above 0", op.Key, v)
		case v > l.most:
			return bad("%s=%v is too large", op.Key, v)
		case l.whole && v != math.Trunc(v):
			return bad("%s=%v must be a whole number", op.Key, v)
		}
		c.Set[op.Key] = &v
	}
	return c, nil
}

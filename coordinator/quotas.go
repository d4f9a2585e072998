// Client quotas as metadata: for whom which limits were set. What the limits do is the broker's (broker/quotas.go).

package coordinator

import (
	"cmp"
	"fmt"
	"iter"
	"maps"
	"math"
	"slices"
)

// The types of a quota entity's parts, as Kafka names them.
const (
	QuotaUser     = "user"
	QuotaClientID = "client-id"
	QuotaIP       = "ip"
)

// MaxQuotaEntities bounds the entities that have quotas.
const MaxQuotaEntities = 10_000

// QuotaEntity is for whom a quota holds: the parts that are set, together. A part of the empty name is the default, for all that have none of
// their own.
type QuotaEntity struct {
	User     *string `json:"user,omitempty"`
	ClientID *string `json:"client_id,omitempty"`
	IP       *string `json:"ip,omitempty"`
}

// quotaKey is a QuotaEntity as a map's key.
type quotaKey struct {
	user, clientID, ip          string
	hasUser, hasClientID, hasIP bool
}

func (e *QuotaEntity) key() (k quotaKey) {
	if e.User != nil {
		k.user, k.hasUser = *e.User, true
	}
	if e.ClientID != nil {
		k.clientID, k.hasClientID = *e.ClientID, true
	}
	if e.IP != nil {
		k.ip, k.hasIP = *e.IP, true
	}
	return k
}

func (k quotaKey) entity() (e QuotaEntity) {
	if k.hasUser {
		e.User = &k.user
	}
	if k.hasClientID {
		e.ClientID = &k.clientID
	}
	if k.hasIP {
		e.IP = &k.ip
	}
	return e
}

func (k quotaKey) compare(o quotaKey) int {
	flag := func(b bool) int {
		if b {
			return 1
		}
		return 0
	}
	return cmp.Or(flag(k.hasUser)-flag(o.hasUser), cmp.Compare(k.user, o.user), flag(k.hasClientID)-flag(o.hasClientID), cmp.Compare(k.clientID, o.clientID),
		flag(k.hasIP)-flag(o.hasIP), cmp.Compare(k.ip, o.ip))
}

// Quota is an entity with its limits.
type Quota struct {
	QuotaEntity
	Limits map[string]float64 `json:"limits"`
}

// AlterQuotas changes limits, those of each entity on their own.
type AlterQuotas struct {
	Entries []QuotaChange `json:"entries"`
}

// QuotaChange is one entity's part. A null takes a limit away.
type QuotaChange struct {
	QuotaEntity
	Set map[string]*float64 `json:"set"`
}

func (e *QuotaEntity) check() error {
	for _, name := range [...]*string{e.User, e.ClientID, e.IP} {
		if name != nil && len(*name) > maxText {
			return fmt.Errorf("%w: a quota's entity with a name of %d bytes", ErrMalformed, len(*name))
		}
	}
	if e.User == nil && e.ClientID == nil && e.IP == nil || e.IP != nil && (e.User != nil || e.ClientID != nil) {
		return fmt.Errorf("%w: a quota is for a user, a client id, both, or an address", ErrMalformed)
	}
	return nil
}

func checkLimit(name string, v float64) error {
	if name == "" || len(name) > maxText || math.IsNaN(v) || math.IsInf(v, 0) {
		return fmt.Errorf("%w: quota %q of %v", ErrMalformed, name, v)
	}
	return nil
}

func (a *AlterQuotas) check() error {
	if len(a.Entries) == 0 || len(a.Entries) > MaxChangesPerCommand {
		return fmt.Errorf("%w: quotas of %d entities", ErrMalformed, len(a.Entries))
	}
	for i := range a.Entries {
		e := &a.Entries[i]
		if err := e.QuotaEntity.check(); err != nil {
			return err
		}
		if len(e.Set) > MaxConfigsPerResource {
			return fmt.Errorf("%w: %d quotas of one entity", ErrMalformed, len(e.Set))
		}
		for name, v := range e.Set {
			if v == nil {
				v = new(float64)
			}
			if err := checkLimit(name, *v); err != nil {
				return err
			}
		}
	}
	return nil
}

func (d *draft) alterQuotas(a *AlterQuotas) *Result {
	r := &Result{Items: make([]Failure, len(a.Entries))}
	all := own(&d.quotas, &d.ownQuotas)
	for i := range a.Entries {
		e := &a.Entries[i]
		k := e.key()
		limits := maps.Clone(all[k])
		if limits == nil {
			if len(all) >= MaxQuotaEntities {
				r.Items[i] = FailureOf(fmt.Errorf("%w: %d entities have quotas, which is the most", ErrTooMany, len(all)))
				continue
			}
			limits = make(map[string]float64, len(e.Set))
		}
		for name, v := range e.Set {
			if v == nil {
				delete(limits, name)
			} else {
				limits[name] = *v
			}
		}
		if len(limits) == 0 {
			delete(all, k)
		} else {
			all[k] = limits
		}
	}
	d.quotaVersion = d.version + 1
	return r
}

// QuotaVersion differs between images whose quotas differ.
func (im *Image) QuotaVersion() uint64 { return uint64(im.quotaVersion) }

// Quotas yields all entities with their limits, in no order. The limits are shared: never change them.
func (im *Image) Quotas() iter.Seq2[QuotaEntity, map[string]float64] {
	return func(yield func(QuotaEntity, map[string]float64) bool) {
		for k, limits := range im.quotas {
			if !yield(k.entity(), limits) {
				return
			}
		}
	}
}

// sortedQuotas are the quotas as a snapshot holds them.
func (im *Image) sortedQuotas() []Quota {
	var out []Quota
	for _, k := range slices.SortedFunc(maps.Keys(im.quotas), quotaKey.compare) {
		out = append(out, Quota{k.entity(), im.quotas[k]})
	}
	return out
}

// restoreQuotas believes nothing.
func (d *draft) restoreQuotas(list []Quota) error {
	if len(list) > MaxQuotaEntities {
		return fmt.Errorf("%w: %d quota entities", ErrMalformed, len(list))
	}
	all := own(&d.quotas, &d.ownQuotas)
	for i := range list {
		q := &list[i]
		if err := q.check(); err != nil {
			return err
		}
		for name, v := range q.Limits {
			if err := checkLimit(name, v); err != nil {
				return err
			}
		}
		all[q.key()] = q.Limits
	}
	return nil
}

// QuotaMatch is the limit that counts for a client, and whom the client shares it with: all of its user's, of its client id's, or only those of both.
type QuotaMatch struct {
	Limit              float64
	ByUser, ByClientID bool
}

// ClientQuota finds the limit of that name for a client, by Kafka's precedence: the user's own before that of all users, and with a user the client
// id's own before that of all, before none; what is for client ids alone comes last.
func (im *Image) ClientQuota(limit, user, clientID string) (QuotaMatch, bool) {
	if len(im.quotas) == 0 {
		return QuotaMatch{}, false
	}
	for _, k := range [...]quotaKey{
		{user: user, clientID: clientID, hasUser: true, hasClientID: true},
		{user: user, hasUser: true, hasClientID: true},
		{user: user, hasUser: true},
		{clientID: clientID, hasUser: true, hasClientID: true},
		{hasUser: true, hasClientID: true},
		{hasUser: true},
		{clientID: clientID, hasClientID: true},
		{hasClientID: true},
	} {
		if v, ok := im.quotas[k][limit]; ok {
			return QuotaMatch{v, k.hasUser, k.hasClientID}, true
		}
	}
	return QuotaMatch{}, false
}

// IPQuota finds the limit of that name for an address: its own, or that of all.
func (im *Image) IPQuota(limit, ip string) (v float64, own, ok bool) {
	if len(im.quotas) == 0 {
		return 0, false, false
	}
	if v, ok := im.quotas[quotaKey{ip: ip, hasIP: true}][limit]; ok {
		return v, true, true
	}
	v, ok = im.quotas[quotaKey{hasIP: true}][limit]
	return v, false, ok
}

// HasQuotas reports whether there is any quota at all.
func (im *Image) HasQuotas() bool { return len(im.quotas) > 0 }

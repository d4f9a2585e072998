// Authorization: what a connection's principal may do, by the cluster's ACLs, and the log of what was decided.
//
// Handlers do not ask, with two exceptions (produce and fetch): authorize_table.go says for each API what it takes, and guards
// stand around the handlers.

package broker

import (
	"context"
	"log/slog"
	"maps"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/balsamq/balsa/coordinator"
)

const (
	// auditRepeat is for how long the same refusal to the same connection is counted instead of logged again.
	auditRepeat = 10 * time.Second
	// maxAuditKeys bounds the refusals that a connection has counted, and so what it can have logged in auditRepeat: one request may name
	// a hundred thousand topics. maxAuditName bounds what is kept of a name.
	maxAuditKeys = 64
	maxAuditName = 256
	// auditSweep is between two looks for refusals that need not be counted any more.
	auditSweep = time.Second
)

// authorizer decides by the ACLs of the newest Image.
type authorizer struct {
	image func() *coordinator.Image
	// everyone may do what no ACL is about at all (allow.everyone.if.no.acl.found).
	everyone bool
	audit    *slog.Logger
}

func newAuthorizer(image func() *coordinator.Image, everyone bool, audit *slog.Logger) *authorizer {
	return &authorizer{image: image, everyone: everyone, audit: audit}
}

// allows decides without a word in the log.
func (a *authorizer) allows(s *session, addr netip.Addr, op coordinator.Operation, t coordinator.ResourceType, name string) bool {
	if s.super {
		return true
	}
	q := coordinator.Requester{Principal: s.principal, Addr: addr}
	switch a.image().ACLs().Decide(&q, op, t, name) {
	case coordinator.Allowed:
		return true
	case coordinator.NoACL:
		return a.everyone
	}
	return false
}

// allowsAny: op on some resource of the type.
func (a *authorizer) allowsAny(s *session, addr netip.Addr, op coordinator.Operation, t coordinator.ResourceType) bool {
	if s.super {
		return true
	}
	q := coordinator.Requester{Principal: s.principal, Addr: addr}
	switch a.image().ACLs().DecideAny(&q, op, t) {
	case coordinator.Allowed:
		return true
	case coordinator.NoACL, coordinator.Refused:
		return a.everyone // what no ACL is about there always is
	}
	return false
}

// nobody is whom a request without a session would be for: none gets this far.
var nobody = &session{principal: userPrefix}

func (c *conn) who() *session {
	if s := c.session.Load(); s != nil {
		return s
	}
	return nobody
}

// may says whether the request's principal may do op to a resource, and logs the decision. Without an authorizer everybody may.
func (r *request) may(op coordinator.Operation, t coordinator.ResourceType, name string) bool {
	a := r.c.s.o.Security.Authorizer
	if a == nil {
		return true
	}
	s := r.c.who()
	ok := a.allows(s, r.c.addr, op, t, name)
	if !ok || a.audit.Enabled(context.Background(), slog.LevelDebug) {
		r.logDecision(a, s, ok, op, t, name)
	}
	return ok
}

// mayQuietly is may where a refusal only leaves something out.
func (r *request) mayQuietly(op coordinator.Operation, t coordinator.ResourceType, name string) bool {
	a := r.c.s.o.Security.Authorizer
	return a == nil || a.allows(r.c.who(), r.c.addr, op, t, name)
}

// mayAny is may for op on some resource of a type.
func (r *request) mayAny(op coordinator.Operation, t coordinator.ResourceType) bool {
	a := r.c.s.o.Security.Authorizer
	return a == nil || a.allowsAny(r.c.who(), r.c.addr, op, t)
}

// mayTopic is may for a topic, as the error for the client; nil: it may. t may be nil.
func (r *request) mayTopic(op coordinator.Operation, t *coordinator.Topic) error {
	if r.c.s.o.Security.Authorizer == nil || t == nil || r.may(op, coordinator.ResourceTopic, t.Name) {
		return nil
	}
	return kerr.TopicAuthorizationFailed
}

// operations are what the principal may do to a resource, as bits by Kafka's numbers (KIP-430).
func (r *request) operations(t coordinator.ResourceType, name string) int32 {
	bits := int32(0)
	for _, op := range coordinator.Operations(t) {
		if r.mayQuietly(op, t, name) {
			bits |= 1 << op
		}
	}
	return bits
}

// auditKey is a decision, for counting the same ones.
type auditKey struct {
	api  int16
	op   coordinator.Operation
	t    coordinator.ResourceType
	name string
}

// auditLog is a connection's part in keeping the log readable: a client that is refused tries again, often many times a second.
type auditLog struct {
	mu    sync.Mutex // guards the rest; a leaf
	keys  map[auditKey]*auditCount
	swept time.Time
	over  int // refusals that were not logged and have no count of their own
}

type auditCount struct {
	logged time.Time
	since  int // refusals that were not logged
}

// note says whether to log a refusal now, and how many like it were not logged before it.
func (l *auditLog) note(k auditKey, now time.Time) (log bool, more int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := l.keys[k]
	switch {
	case c == nil:
		if len(l.keys) >= maxAuditKeys && now.Sub(l.swept) >= auditSweep {
			l.sweep(now)
		}
		if len(l.keys) >= maxAuditKeys {
			l.over++
			return false, 0
		}
		if l.keys == nil {
			l.keys = make(map[auditKey]*auditCount)
		}
		k.name = strings.Clone(k.name)
		l.keys[k] = &auditCount{logged: now}
		more, l.over = l.over, 0
		return true, more
	case now.Sub(c.logged) < auditRepeat:
		c.since++
		return false, 0
	}
	more = c.since
	c.logged, c.since = now, 0
	return true, more
}

// sweep forgets the refusals that would be logged again. l.mu is held.
func (l *auditLog) sweep(now time.Time) {
	l.swept = now
	maps.DeleteFunc(l.keys, func(_ auditKey, c *auditCount) bool {
		old := now.Sub(c.logged) >= auditRepeat
		if old {
			l.over += c.since
		}
		return old
	})
}

func (r *request) logDecision(a *authorizer, s *session, ok bool, op coordinator.Operation, t coordinator.ResourceType, name string) {
	level, word, more := slog.LevelDebug, "allowed", 0
	if !ok {
		level, word = slog.LevelWarn, "denied"
		var log bool
		if log, more = r.c.audited.note(auditKey{r.header.Key, op, t, name[:min(len(name), maxAuditName)]}, time.Now()); !log {
			return
		}
	}
	args := []any{"principal", s.principal, "host", r.c.ip, "listener", r.c.listener, "operation", op.String(), "resource", t.String(), "name", name, "api", apiName(r.header.Key)}
	if more > 0 {
		args = append(args, "more_not_logged", more)
	}
	a.audit.Log(context.Background(), level, word, args...)
}

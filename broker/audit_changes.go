// Changes in the audit log: who has changed users, ACLs, configs and quotas, from where, and how. Of what is secret (passwords, keys, salts)
// it says nothing, and of one request no more than maxAuditLines lines.

package broker

import (
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/balsamq/balsa/coordinator"
)

// maxAuditLines bounds what one request can have logged; what is over is counted.
const maxAuditLines = 100

// change is one line's: what was changed, and how.
type change struct {
	what string
	args []any
}

// auditChanges logs what r has changed.
func (s *server) auditChanges(r *request, changes []change) {
	log := s.o.Security.Audit
	for i, c := range changes {
		args := append([]any{"principal", r.c.who().principal, "host", r.c.ip, "listener", r.c.listener, "api", apiName(r.header.Key)}, c.args...)
		if i == maxAuditLines-1 && len(changes) > maxAuditLines {
			log.Info(c.what, append(args, "more_not_logged", len(changes)-maxAuditLines)...)
			return
		}
		log.Info(c.what, args...)
	}
}

// auditText is a stranger's text for the log.
func auditText(s string) string {
	if len(s) > maxAuditName {
		return strings.Clone(s[:maxAuditName]) + "..."
	}
	return strings.Clone(s)
}

// auditACLs logs ACLs that a request has made or deleted, each in a line of its own.
func (s *server) auditACLs(r *request, what string, acls []coordinator.ACL) {
	changes := make([]change, len(acls))
	for i := range acls {
		a := &acls[i]
		changes[i] = change{what, []any{slog.Group("acl", "type", a.Type.String(), "name", auditText(a.Name), "pattern", a.Pattern.String(), "principal", auditText(a.Principal),
			"host", auditText(a.Host), "operation", a.Operation.String(), "permission", a.Permission.String())}}
	}
	s.auditChanges(r, changes)
}

// auditUsers logs the users of a command that got their new credentials, or lost them.
func (s *server) auditUsers(r *request, cmd *coordinator.AlterUsers, errs map[string]error) {
	var changes []change
	for _, u := range cmd.Delete {
		if errs[u.User] == nil {
			changes = append(changes, change{"user deleted", []any{"user", u.User, "mechanism", u.Mechanism}})
		}
	}
	for i := range cmd.Set {
		if c := &cmd.Set[i]; errs[c.User] == nil {
			changes = append(changes, change{"user set", []any{"user", c.User, "mechanism", c.Mechanism, "iterations", c.Iterations}})
		}
	}
	s.auditChanges(r, changes)
}

// configResources are Kafka's names of what has configs.
var configResources = map[kmsg.ConfigResourceType]string{kmsg.ConfigResourceTypeTopic: "topic", kmsg.ConfigResourceTypeBroker: "broker",
	kmsg.ConfigResourceTypeBrokerLogger: "broker_logger", resourceGroup: "group"}

// auditConfigs logs the alterations that were made.
func (s *server) auditConfigs(r *request, alts []alteration, errs []error) {
	var changes []change
	for i := range alts {
		if errs[i] != nil {
			continue
		}
		a := &alts[i]
		args := []any{"resource", configResources[a.kind], "name", auditText(a.name)}
		if a.replace {
			args = append(args, "replace", true) // what is not named is at its default now
		}
		changes = append(changes, change{"configs altered", append(args, "changes", a.words())})
	}
	s.auditChanges(r, changes)
}

// words are the operations for people to read.
func (a *alteration) words() []string {
	words := make([]string, 0, min(len(a.ops), maxAuditLines))
	for i := range a.ops {
		if len(words) == maxAuditLines {
			return append(words, fmt.Sprintf("and %d more", len(a.ops)-i))
		}
		op := &a.ops[i]
		name, value := auditText(op.name), ""
		if op.value != nil {
			value = auditText(*op.value)
		}
		if d := brokerConfigs()[op.name]; d != nil && sensitive(d) {
			value = "(hidden)"
		}
		switch op.op {
		case kmsg.IncrementalAlterConfigOpDelete:
			words = append(words, "-"+name)
		case kmsg.IncrementalAlterConfigOpAppend:
			words = append(words, name+"+="+value)
		case kmsg.IncrementalAlterConfigOpSubtract:
			words = append(words, name+"-="+value)
		default:
			words = append(words, name+"="+value)
		}
	}
	return words
}

// auditQuotas logs the changes whose place in errs is nil.
func (s *server) auditQuotas(r *request, quotas []coordinator.QuotaChange, errs []error) {
	var changes []change
	for i := range quotas {
		if errs[i] != nil {
			continue
		}
		q := &quotas[i]
		var args []any
		for _, e := range []struct {
			what string
			name *string
		}{{coordinator.QuotaUser, q.User}, {coordinator.QuotaClientID, q.ClientID}, {coordinator.QuotaIP, q.IP}} {
			if e.name == nil {
				continue
			}
			name := auditText(*e.name)
			if name == "" {
				name = "(default)"
			}
			args = append(args, e.what, name)
		}
		for _, key := range slices.Sorted(maps.Keys(q.Set)) {
			if v := q.Set[key]; v != nil {
				args = append(args, key, *v)
			} else {
				args = append(args, key, "(removed)")
			}
		}
		changes = append(changes, change{"quotas altered", args})
	}
	s.auditChanges(r, changes)
}

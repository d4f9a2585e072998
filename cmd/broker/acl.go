// broker acl: create, list, delete.

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/balsamq/balsa/client"
)

func newACLCommand(a *app) *cobra.Command {
	return group("acl", "Create, list and delete ACLs: who may do what", newACLCreate(a), newACLList(a), newACLDelete(a))
}

// aclOperations are what an ACL can be about.
var aclOperations = []string{"read", "write", "create", "delete", "alter", "describe", "cluster_action", "describe_configs", "alter_configs", "idempotent_write", "all"}

// aclFlags name resources.
type aclFlags struct {
	topics, groups, txns []string
	cluster, prefixed    bool
	hosts, operations    []string
}

func (o *aclFlags) resources(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringSliceVar(&o.topics, "topic", nil, "topics `NAME,...`; *: all")
	f.StringSliceVar(&o.groups, "group", nil, "consumer groups `NAME,...`; *: all")
	f.StringSliceVar(&o.txns, "transactional-id", nil, "transactional ids `NAME,...`; *: all")
	f.BoolVar(&o.cluster, "cluster", false, "the cluster itself")
	f.BoolVar(&o.prefixed, "prefixed", false, "the names are what the resources' names begin with")
	f.StringSliceVar(&o.operations, "operation", nil, "`NAME,...`: "+strings.Join(aclOperations, ", "))
}

// clusterResource is the name of the one resource of its type.
const clusterResource = "kafka-cluster"

// named are the resources of the flags.
func (o *aclFlags) named() (out []client.ACL) {
	pattern := "literal"
	if o.prefixed {
		pattern = "prefixed"
	}
	for _, r := range []struct {
		kind  string
		names []string
	}{{"topic", o.topics}, {"group", o.groups}, {"transactional_id", o.txns}} {
		for _, n := range r.names {
			out = append(out, client.ACL{Resource: r.kind, Name: n, Pattern: pattern})
		}
	}
	if o.cluster {
		out = append(out, client.ACL{Resource: "cluster", Name: clusterResource, Pattern: "literal"})
	}
	return out
}

// topicName is what a topic's name, or its beginning, is made of.
var topicName = regexp.MustCompile(`^[a-zA-Z0-9._-]{1,249}$`)

// pointless says which of the names no resource can ever have, or is meant otherwise than it would work: such an ACL would protect nothing,
// and nobody would notice.
func (o *aclFlags) pointless() error {
	for _, r := range []struct {
		what, flag string
		names      []string
	}{{"topic", "--topic", o.topics}, {"group", "--group", o.groups}, {"transactional id", "--transactional-id", o.txns}} {
		for _, n := range r.names {
			stars := strings.HasSuffix(n, "*")
			switch {
			case n == "*" && o.prefixed:
				return usageError("leave --prefixed away: * alone is all of them", "no %s begins with \"*\"", r.what)
			case n != "*" && stars && (o.prefixed || r.what == "topic"):
				return usageError(fmt.Sprintf("write %s %s --prefixed", r.flag, strings.TrimRight(n, "*")), "%s %q: a * stands for others only where it stands alone", r.what, n)
			case n != "*" && r.what == "topic" && (!topicName.MatchString(n) || !o.prefixed && strings.Trim(n, ".") == "" && len(n) < 3):
				return usageError("names of topics have 1 to 249 letters, digits, dots, underscores and hyphens", "no topic can be called %q", n)
			}
		}
	}
	if o.prefixed && len(o.topics)+len(o.groups)+len(o.txns) == 0 {
		return usageError("leave --prefixed away", "the cluster's name is not the beginning of others")
	}
	return nil
}

// principal is a user's, with or without the word before it.
func principal(name string) string {
	if name == "" || strings.HasPrefix(name, "User:") {
		return name
	}
	return "User:" + name
}

// times multiplies filters or rules by the values of one of their fields; none leaves them as they are.
func times(list []client.ACL, values []string, set func(*client.ACL, string)) []client.ACL {
	if len(values) == 0 {
		return list
	}
	var out []client.ACL
	for _, a := range list {
		for _, v := range values {
			x := a
			set(&x, v)
			out = append(out, x)
		}
	}
	return out
}

func setOperation(a *client.ACL, v string) { a.Operation = v }

func newACLCreate(a *app) *cobra.Command {
	o := &aclFlags{}
	var allow, deny []string
	var dry bool
	cmd := &cobra.Command{
		Use:   "create",
		Short: "Allow or deny users something",
		Long: `Allow or deny users operations on resources: one ACL for each user, host, operation and resource that is named. What is denied is
denied whatever is allowed; what no ACL allows is not, except to super users (--super-users of 'broker start'). read, write, delete
and alter bring describe, alter_configs brings describe_configs.

A consumer needs read on its topics and on its group; a producer write on its topics, and on its transactional id if it has one.`,
		Example: `  broker acl create --allow alice --operation read --topic orders --group billing
  broker acl create --allow bob --operation write,create --topic orders- --prefixed
  broker acl create --deny '*' --operation all --topic secret --host 10.1.0.0/16`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			rules := o.named()
			if len(rules) == 0 {
				return usageError("name them with --topic, --group, --transactional-id or --cluster", "no resource is named")
			}
			if len(o.operations) == 0 || len(allow)+len(deny) == 0 {
				return usageError("write for instance --allow alice --operation read", "nobody is named, or no operation")
			}
			var users []string
			for _, u := range allow {
				users = append(users, "allow\x00"+principal(u))
			}
			for _, u := range deny {
				users = append(users, "deny\x00"+principal(u))
			}
			if err := o.pointless(); err != nil {
				return err
			}
			rules = times(rules, o.operations, setOperation)
			rules = times(rules, o.hosts, func(a *client.ACL, v string) { a.Host = v })
			rules = times(rules, users, func(a *client.ACL, v string) { a.Permission, a.Principal, _ = strings.Cut(v, "\x00") })
			return withAdmin(cmd, func(ctx context.Context, adm *client.Admin) error {
				if dry {
					rules, err := newACLs(ctx, adm, rules)
					if err != nil {
						return explainACL(err)
					}
					fmt.Fprintf(a.err, "%s would be created\n", counted(len(rules), "ACL"))
					return a.printACLs(cmd, rules)
				}
				if err := adm.CreateACLs(ctx, rules...); err != nil {
					return explainACL(err)
				}
				return a.printACLs(cmd, rules)
			})
		},
	}
	o.resources(cmd)
	f := cmd.Flags()
	f.StringSliceVar(&allow, "allow", nil, "users `NAME,...` that may; *: everybody")
	f.StringSliceVar(&deny, "deny", nil, "users `NAME,...` that may not; *: nobody may")
	f.StringSliceVar(&o.hosts, "host", []string{"*"}, "from these addresses or networks `HOST,...` only")
	dryRunFlag(cmd, &dry)
	return cmd
}

// newACLs are those rules that there are not yet.
func newACLs(ctx context.Context, adm *client.Admin, rules []client.ACL) ([]client.ACL, error) {
	there, err := adm.ACLs(ctx, client.ACL{})
	if err != nil {
		return nil, err
	}
	out := []client.ACL{}
	for _, rule := range rules {
		if _, err := adm.ACLs(ctx, rule); err != nil { // it is no rule that could be
			return nil, err
		}
		if !slices.Contains(there, rule) && !slices.Contains(out, rule) {
			out = append(out, rule)
		}
	}
	return out, nil
}

// filters are what list and delete choose by: one for each resource and operation that is named.
func (o *aclFlags) filters(who string, matching bool) []client.ACL {
	list := o.named()
	if len(list) == 0 {
		list = []client.ACL{{}}
	}
	list = times(list, o.operations, setOperation)
	list = times(list, o.hosts, func(a *client.ACL, v string) { a.Host = v })
	for i := range list {
		list[i].Principal = principal(who)
		if matching && !o.prefixed && list[i].Name != "" {
			list[i].Pattern = "match"
		}
	}
	return list
}

func newACLList(a *app) *cobra.Command {
	o := &aclFlags{}
	var who string
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List ACLs",
		Long: `List the ACLs, or those that bear on what is named: with --topic orders also those for all topics, and those for names that begin
with "ord".`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return withAdmin(cmd, func(ctx context.Context, adm *client.Admin) error {
				all := []client.ACL{}
				for _, f := range o.filters(who, true) {
					acls, err := adm.ACLs(ctx, f)
					if err != nil {
						return explainACL(err)
					}
					all = append(all, acls...)
				}
				return a.printACLs(cmd, all)
			})
		},
	}
	o.resources(cmd)
	cmd.Flags().StringVar(&who, "principal", "", "those for the user `NAME` only")
	cmd.Flags().StringSliceVar(&o.hosts, "host", nil, "those for `HOST,...` only")
	return cmd
}

func newACLDelete(a *app) *cobra.Command {
	o := &aclFlags{}
	var who string
	var everything, dry bool
	cmd := &cobra.Command{
		Use:   "delete",
		Short: "Delete ACLs",
		Long: `Delete the ACLs that are named, and print them. A name is that of the ACL, not of a resource that it bears on: --topic '*' deletes
those for all topics, not those of every topic.`,
		Example: `  broker acl delete --principal alice
  broker acl delete --principal bob --operation write --topic orders- --prefixed`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if who == "" && len(o.named()) == 0 && len(o.operations) == 0 && len(o.hosts) == 0 && !everything {
				return usageError("say which, or --all", "that would delete every ACL")
			}
			return withAdmin(cmd, func(ctx context.Context, adm *client.Admin) error {
				gone := []client.ACL{}
				for _, f := range o.filters(who, false) {
					del := adm.DeleteACLs
					if dry {
						del = adm.ACLs
					}
					acls, err := del(ctx, f)
					if err != nil {
						return explainACL(err)
					}
					gone = append(gone, acls...)
				}
				if len(gone) == 0 {
					return &cliError{code: exitNotFound, what: "there is no such ACL", mend: "'broker acl list' shows those there are"}
				}
				if dry {
					gone = once(gone)
					fmt.Fprintf(a.err, "%s would be deleted\n", counted(len(gone), "ACL"))
				}
				return a.printACLs(cmd, gone)
			})
		},
	}
	o.resources(cmd)
	f := cmd.Flags()
	f.StringVar(&who, "principal", "", "those for the user `NAME` only")
	f.StringSliceVar(&o.hosts, "host", nil, "those for `HOST,...` only")
	f.BoolVar(&everything, "all", false, "every ACL there is")
	dryRunFlag(cmd, &dry)
	return cmd
}

// once leaves out what several filters have found: it would be deleted by the first of them.
func once(list []client.ACL) []client.ACL {
	out := []client.ACL{}
	for _, x := range list {
		if !slices.Contains(out, x) {
			out = append(out, x)
		}
	}
	return out
}

func (a *app) printACLs(cmd *cobra.Command, acls []client.ACL) error {
	return a.print(cmd, acls, func(w io.Writer) {
		if len(acls) == 0 {
			fmt.Fprintln(w, "no ACLs")
			return
		}
		fmt.Fprintln(w, "PRINCIPAL\tPERMISSION\tOPERATION\tRESOURCE\tNAME\tPATTERN\tHOST")
		for _, x := range acls {
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", x.Principal, x.Permission, x.Operation, x.Resource, x.Name, x.Pattern, x.Host)
		}
	})
}

func explainACL(err error) error {
	if errors.Is(err, kerr.SecurityDisabled) {
		return &cliError{code: exitFailure, what: "the brokers do not look at ACLs", mend: "start all brokers with --acls", err: err}
	}
	return err
}

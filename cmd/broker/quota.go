// broker quota: list, set and delete.

package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/balsamq/balsa/client"
)

// quotaNames are those that there are; the last is for addresses.
var quotaNames = []string{"producer_byte_rate", "consumer_byte_rate", "request_percentage", "controller_mutation_rate", "connection_creation_rate"}

const quotaHelp = `For users and client ids: producer_byte_rate and consumer_byte_rate (bytes a second), request_percentage (of one core's time), and
controller_mutation_rate (partitions created or deleted a second). For addresses: connection_creation_rate (a second). Each broker
counts by itself.`

func newQuotaCommand(a *app) *cobra.Command {
	return group("quota", "Bound what clients may do", newQuotaList(a), newQuotaSet(a), newQuotaDelete(a))
}

// entityFlags are the flags that name an entity.
type entityFlags struct {
	user, clientID, ip                      string
	defaultUser, defaultClientID, defaultIP bool
}

func (e *entityFlags) add(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&e.user, "for-user", "", "the user `NAME`")
	f.StringVar(&e.clientID, "for-client-id", "", "the client id `ID`; with a user: this client id of that user")
	f.StringVar(&e.ip, "for-ip", "", "the `ADDRESS`")
	f.BoolVar(&e.defaultUser, "for-all-users", false, "all users that have none of their own")
	f.BoolVar(&e.defaultClientID, "for-all-client-ids", false, "all client ids that have none of their own")
	f.BoolVar(&e.defaultIP, "for-all-ips", false, "all addresses that have none of their own")
}

func (e *entityFlags) entity() (out client.QuotaEntity, err error) {
	part := func(flag, name string, def bool) *string {
		switch {
		case name != "" && def:
			err = usageError("give one of the two", "--for-%s and --for-all-%ss exclude each other", flag, flag)
		case name != "":
			return &name
		case def:
			return new(string)
		}
		return nil
	}
	out.User, out.ClientID, out.IP = part("user", e.user, e.defaultUser), part("client-id", e.clientID, e.defaultClientID), part("ip", e.ip, e.defaultIP)
	if err == nil && out.IP != nil && (out.User != nil || out.ClientID != nil) {
		err = usageError("leave out either", "an address goes with no user or client id")
	}
	return out, err
}

// needed is entity, of which at least one part is set.
func (e *entityFlags) needed() (client.QuotaEntity, error) {
	out, err := e.entity()
	if err == nil && out == (client.QuotaEntity{}) {
		err = usageError("name whom the quota is for: --for-user, --for-client-id, --for-ip, or --for-all-users, --for-all-client-ids, --for-all-ips", "it is not said for whom")
	}
	return out, err
}

func newQuotaList(a *app) *cobra.Command {
	var e entityFlags
	cmd := &cobra.Command{
		Use:   "list",
		Short: "Show the quotas that are set",
		Long:  `Show the quotas that are set, all or those of a user, client id or address. ` + quotaHelp,
		Args:  exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			filter, err := e.entity()
			if err != nil {
				return err
			}
			return withAdmin(cmd, func(ctx context.Context, adm *client.Admin) error {
				list, err := adm.Quotas(ctx, filter)
				if err != nil {
					return err
				}
				return a.print(cmd, list, func(w io.Writer) { printQuotas(w, list) })
			})
		},
	}
	e.add(cmd)
	return cmd
}

func printQuotas(w io.Writer, list []client.Quota) {
	if len(list) == 0 {
		fmt.Fprintln(w, "no quotas")
		return
	}
	fmt.Fprintln(w, "FOR\tQUOTA\tVALUE")
	for _, q := range list {
		for _, name := range slices.Sorted(maps.Keys(q.Limits)) {
			fmt.Fprintf(w, "%s\t%s\t%s\n", q.QuotaEntity, name, strconv.FormatFloat(q.Limits[name], 'f', -1, 64))
		}
	}
}

func newQuotaSet(a *app) *cobra.Command {
	var (
		e   entityFlags
		dry bool
	)
	cmd := &cobra.Command{
		Use:   "set QUOTA=VALUE...",
		Short: "Set quotas of a user, client id or address",
		Long:  `Set quotas of a user, of a client id, of a client id of a user, or of an address; or of all that have none of their own. ` + quotaHelp,
		Example: `  broker quota set --for-user alice producer_byte_rate=1048576
  broker quota set --for-all-client-ids request_percentage=50
  broker quota set --for-user alice --for-client-id etl consumer_byte_rate=10000000
  broker quota set --for-all-ips connection_creation_rate=10`,
		Args: atLeast("QUOTA=VALUE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			entity, err := e.needed()
			if err != nil {
				return err
			}
			limits := make(map[string]*float64)
			for _, s := range args {
				name, value, ok := strings.Cut(s, "=")
				v, err := quotaValue(name, value)
				if !ok || name == "" || err != nil {
					return usageError("write producer_byte_rate=1048576, or 1MiB", "%q is no QUOTA=VALUE", s)
				}
				limits[name] = &v
			}
			return a.alterQuotas(cmd, entity, limits, dry)
		},
	}
	e.add(cmd)
	dryRunFlag(cmd, &dry)
	return cmd
}

// quotaValue is a number, and for what is bytes a second one with a unit, too.
func quotaValue(name, s string) (float64, error) {
	v, err := strconv.ParseFloat(s, 64)
	if err == nil && (math.IsNaN(v) || math.IsInf(v, 0)) {
		return 0, strconv.ErrRange
	}
	if err != nil && strings.HasSuffix(name, "_byte_rate") {
		n, notSize := parseSize(strings.TrimSuffix(s, "/s"))
		return float64(n), notSize
	}
	return v, err
}

func newQuotaDelete(a *app) *cobra.Command {
	var (
		e   entityFlags
		dry bool
	)
	cmd := &cobra.Command{
		Use:     "delete QUOTA...",
		Short:   "Take quotas of a user, client id or address away",
		Example: `  broker quota delete --for-user alice producer_byte_rate`,
		Args:    atLeast("QUOTA"),
		RunE: func(cmd *cobra.Command, args []string) error {
			entity, err := e.needed()
			if err != nil {
				return err
			}
			limits := make(map[string]*float64)
			for _, name := range args {
				limits[name] = nil
			}
			return a.alterQuotas(cmd, entity, limits, dry)
		},
	}
	e.add(cmd)
	dryRunFlag(cmd, &dry)
	return cmd
}

// alterQuotas changes quotas of an entity, and shows what is set for it then.
func (a *app) alterQuotas(cmd *cobra.Command, entity client.QuotaEntity, limits map[string]*float64, dry bool) error {
	return withAdmin(cmd, func(ctx context.Context, adm *client.Admin) error {
		if err := adm.AlterQuotas(ctx, entity, limits, dry); err != nil {
			return err
		}
		all, err := adm.Quotas(ctx, entity)
		if err != nil {
			return err
		}
		own := []client.Quota{} // an empty list in JSON, not null
		for _, q := range all {
			if q.String() == entity.String() {
				own = append(own, q)
			}
		}
		if dry {
			return a.printQuotaPlan(cmd, entity, own, limits)
		}
		return a.print(cmd, own, func(w io.Writer) {
			switch {
			case len(own) == 0:
				fmt.Fprintf(w, "%s has no quotas\n", entity)
			default:
				printQuotas(w, own)
			}
		})
	})
}

// plannedQuota is an entity with its limits, and those that it would have.
type plannedQuota struct {
	client.Quota `yaml:",inline"`
	After        map[string]float64 `json:"after" yaml:"after"`
}

// printQuotaPlan shows what changes would make of what an entity has: own has one element, or none.
func (a *app) printQuotaPlan(cmd *cobra.Command, entity client.QuotaEntity, own []client.Quota, limits map[string]*float64) error {
	p := plannedQuota{Quota: client.Quota{QuotaEntity: entity, Limits: map[string]float64{}}, After: map[string]float64{}}
	if len(own) > 0 {
		p.Quota = own[0]
		maps.Copy(p.After, p.Limits)
	}
	for name, v := range limits {
		if delete(p.After, name); v != nil {
			p.After[name] = *v
		}
	}
	return a.print(cmd, []plannedQuota{p}, func(w io.Writer) {
		text := func(m map[string]float64, name string) string {
			if v, ok := m[name]; ok {
				return strconv.FormatFloat(v, 'f', -1, 64)
			}
			return "-"
		}
		fmt.Fprintln(w, "FOR\tQUOTA\tVALUE\tWOULD BE")
		for _, name := range slices.Sorted(maps.Keys(limits)) {
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", entity, name, text(p.Limits, name), text(p.After, name))
		}
	})
}

// broker config: get, set, delete and list; and the parts that broker topic alter has in common with it.

package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/balsamq/balsa/client"
)

const resourceHelp = `RESOURCE is topic/NAME, broker/ID, brokers (what holds for all brokers), group/NAME (a consumer group of the newer protocol), or
logger/ID (the levels of a broker's loggers, until it is restarted).`

func newConfigCommand(a *app) *cobra.Command {
	return group("config", "Show and change configs of topics, brokers, groups and loggers, while the brokers run", newConfigGet(a), newConfigSet(a), newConfigDelete(a), newConfigList(a))
}

// resourceArg reads a resource as the command line has it.
func resourceArg(s string) (r client.ConfigResource, err error) {
	if s == "brokers" {
		return client.ConfigResource{Kind: client.BrokerConfigs}, nil
	}
	kind, name, ok := strings.Cut(s, "/")
	switch kind {
	case client.TopicConfigs, client.BrokerConfigs, client.GroupConfigs, client.LoggerConfigs:
	default:
		ok = false
	}
	if !ok || name == "" {
		return r, usageError("write topic/NAME, broker/ID, brokers, group/NAME or logger/ID", "%q is no resource that has configs", s)
	}
	if kind == client.BrokerConfigs || kind == client.LoggerConfigs {
		if _, err := brokerIDs([]string{name}); err != nil {
			return r, err
		}
	}
	return client.ConfigResource{Kind: kind, Name: name}, nil
}

// noBroker words the error of a resource whose broker the cluster does not have.
func noBroker(err error, r client.ConfigResource) error {
	if r.Kind != client.BrokerConfigs && r.Kind != client.LoggerConfigs || !strings.HasSuffix(err.Error(), "unknown broker") { // franz-go has no sentinel for it
		return err
	}
	return &cliError{code: exitNotFound, what: fmt.Sprintf("there is no broker %s in the cluster", r.Name), mend: "'broker cluster status' lists the brokers", err: err}
}

// atLeast wants the named arguments, and any number more of the last one.
func atLeast(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) < len(names) {
			return usageError(fmt.Sprintf("write '%s'", cmd.UseLine()), "%s is missing", names[len(args)])
		}
		return noneEmpty(cmd, names, args)
	}
}

func newConfigGet(a *app) *cobra.Command {
	var all, docs bool
	cmd := &cobra.Command{
		Use:   "get RESOURCE [NAME...]",
		Short: "Show configs, and where each comes from",
		Long: `Show configs with their values and where each comes from: the configs that are named, else those that were set. ` + resourceHelp + `

A config that was not set for a topic has what holds for the broker, that what holds for all brokers, and so on.`,
		Example: `  broker config get topic/orders
  broker config get topic/orders retention.ms
  broker config get broker/1 --all
  broker config get logger/1 --all`,
		Args: atLeast("RESOURCE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := resourceArg(args[0])
			if err != nil {
				return err
			}
			return withAdmin(cmd, func(ctx context.Context, adm *client.Admin) error {
				values, err := adm.Configs(ctx, r, args[1:]...)
				if err != nil {
					return noBroker(err, r)
				}
				if err := haveConfigs(r, values, args[1:]); err != nil {
					return err
				}
				shown := []client.ConfigValue{} // an empty list in JSON, not null
				for _, v := range values {
					if all || len(args) > 1 || !v.Default {
						shown = append(shown, v)
					}
				}
				return a.print(cmd, shown, func(w io.Writer) {
					if len(shown) == 0 {
						fmt.Fprintf(w, "nothing is set for %s\n", r)
						return
					}
					if docs {
						fmt.Fprintln(w, "CONFIG\tVALUE\tSOURCE\tMEANING")
						for _, v := range shown {
							fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", v.Name, configText(&v), v.Source, v.Doc)
						}
						return
					}
					fmt.Fprintln(w, "CONFIG\tVALUE\tSOURCE")
					for _, v := range shown {
						fmt.Fprintf(w, "%s\t%s\t%s\n", v.Name, configText(&v), v.Source)
					}
				})
			})
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "also those that have their default")
	cmd.Flags().BoolVar(&docs, "doc", false, "in the table, what each does")
	return cmd
}

// haveConfigs says which of the names is none of a resource's configs.
func haveConfigs(r client.ConfigResource, values []client.ConfigValue, names []string) error {
	for _, name := range names {
		if !slices.ContainsFunc(values, func(v client.ConfigValue) bool { return v.Name == name }) {
			return &cliError{code: exitNotFound, what: fmt.Sprintf("%s has no config %s", r, name), mend: fmt.Sprintf("'broker config get %s --all' lists them", r)}
		}
	}
	return nil
}

func configText(v *client.ConfigValue) string {
	switch {
	case v.Sensitive:
		return "(hidden)"
	case v.Value == nil:
		return "-"
	}
	return orDash(*v.Value)
}

// configChange reads NAME=VALUE, or for lists NAME+=VALUE and NAME-=VALUE.
func configChange(s string) (c client.ConfigChange, err error) {
	name, value, ok := strings.Cut(s, "=")
	c = client.ConfigChange{Op: client.SetConfig, Name: name, Value: value}
	if n, plus := strings.CutSuffix(name, "+"); plus {
		c.Op, c.Name = client.AppendConfig, n
	} else if n, minus := strings.CutSuffix(name, "-"); minus {
		c.Op, c.Name = client.SubtractConfig, n
	}
	if !ok || c.Name == "" {
		return c, usageError("write retention.ms=60000", "%q has no name and value", s)
	}
	return c, nil
}

func newConfigSet(a *app) *cobra.Command {
	var dry bool
	cmd := &cobra.Command{
		Use:   "set RESOURCE NAME=VALUE...",
		Short: "Set configs; += and -= change lists",
		Long: `Set configs, all of those that are named or none, and return when every broker that is there knows. They take effect at once. With
NAME+=VALUE an element is added to a list, with NAME-=VALUE taken out. ` + resourceHelp + `

A config that Balsa cannot obey is refused, unless it is set to its default.`,
		Example: `  broker config set topic/orders retention.ms=86400000
  broker config set brokers message.max.bytes=2000000
  broker config set logger/1 raft=DEBUG`,
		Args: atLeast("RESOURCE", "NAME=VALUE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := resourceArg(args[0])
			if err != nil {
				return err
			}
			var changes []client.ConfigChange
			for _, s := range args[1:] {
				c, err := configChange(s)
				if err != nil {
					return err
				}
				changes = append(changes, c)
			}
			return a.alterConfigs(cmd, r, changes, dry)
		},
	}
	dryRunFlag(cmd, &dry)
	return cmd
}

func newConfigDelete(a *app) *cobra.Command {
	var dry bool
	cmd := &cobra.Command{
		Use:     "delete RESOURCE NAME...",
		Short:   "Take configs back: they have what they inherit again",
		Long:    `Take configs back, so that they have again what they inherit, or their default. ` + resourceHelp,
		Example: `  broker config delete topic/orders retention.ms`,
		Args:    atLeast("RESOURCE", "NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := resourceArg(args[0])
			if err != nil {
				return err
			}
			var changes []client.ConfigChange
			for _, name := range args[1:] {
				changes = append(changes, client.ConfigChange{Op: client.DeleteConfig, Name: name})
			}
			return a.alterConfigs(cmd, r, changes, dry)
		},
	}
	dryRunFlag(cmd, &dry)
	return cmd
}

// alterConfigs changes configs of a resource and shows what is in force then.
func (a *app) alterConfigs(cmd *cobra.Command, r client.ConfigResource, changes []client.ConfigChange, dry bool) error {
	return withAdmin(cmd, func(ctx context.Context, adm *client.Admin) error {
		var names, gone []string
		given := make(map[string]string)
		for _, c := range changes {
			given[c.Name] = c.Value
			if names = append(names, c.Name); c.Op == client.DeleteConfig {
				gone = append(gone, c.Name)
			}
		}
		if len(gone) > 0 && r.Name != "" { // to take back what does not exist is no error to the brokers; of all brokers they show only what is set
			values, err := adm.Configs(ctx, r, gone...)
			if err == nil {
				err = haveConfigs(r, values, gone)
			}
			if err != nil {
				return noBroker(err, r)
			}
		}
		if err := adm.AlterConfigs(ctx, r, changes, dry); err != nil {
			return configMistake(noBroker(err, r), r.Kind, given)
		}
		values, err := adm.Configs(ctx, r, names...)
		if err != nil {
			return err
		}
		if dry {
			return a.printConfigPlan(cmd, r, values, changes)
		}
		return a.print(cmd, values, func(w io.Writer) {
			fmt.Fprintln(w, "CONFIG\tVALUE\tSOURCE")
			for _, v := range values {
				fmt.Fprintf(w, "%s\t%s\t%s\n", v.Name, configText(&v), v.Source)
			}
		})
	})
}

// plannedConfig is a config as it is, and the value that it would have.
type plannedConfig struct {
	client.ConfigValue `yaml:",inline"`
	After              *string `json:"after" yaml:"after"`
}

// ownSources are where a value comes from that was set for a resource itself, by the resource's kind.
var ownSources = map[string]string{client.TopicConfigs: "DYNAMIC_TOPIC_CONFIG", client.BrokerConfigs: "DYNAMIC_BROKER_CONFIG", client.LoggerConfigs: "DYNAMIC_BROKER_LOGGER_CONFIG",
	client.GroupConfigs: "GROUP_CONFIG"}

// planConfigs are the values that the changes would give. One that is set for all brokers and not set yet is not among the values.
func planConfigs(r client.ConfigResource, values []client.ConfigValue, changes []client.ConfigChange) []plannedConfig {
	own := ownSources[r.Kind]
	if r.Kind == client.BrokerConfigs && r.Name == "" {
		own = "DYNAMIC_DEFAULT_BROKER_CONFIG"
	}
	plan := []plannedConfig{}
	for _, c := range changes {
		p := plannedConfig{ConfigValue: client.ConfigValue{Name: c.Name}}
		if i := slices.IndexFunc(values, func(v client.ConfigValue) bool { return v.Name == c.Name }); i >= 0 {
			p.ConfigValue = values[i]
		}
		if i := slices.IndexFunc(plan, func(before plannedConfig) bool { return before.Name == c.Name }); i >= 0 {
			p = plan[i] // it is changed once more
			plan = slices.Delete(plan, i, i+1)
		} else {
			p.After = p.Value
		}
		var elements []string
		if p.After != nil && *p.After != "" {
			elements = strings.Split(*p.After, ",")
		}
		switch c.Op {
		case client.SetConfig:
			p.After = &c.Value
		case client.AppendConfig:
			if !slices.Contains(elements, c.Value) {
				elements = append(elements, c.Value)
			}
			p.After = new(strings.Join(elements, ","))
		case client.SubtractConfig:
			p.After = new(strings.Join(slices.DeleteFunc(elements, func(e string) bool { return e == c.Value }), ","))
		case client.DeleteConfig:
			if i := slices.IndexFunc(p.Synonyms, func(s client.ConfigSynonym) bool { return s.Source != own }); i >= 0 {
				p.After = p.Synonyms[i].Value
			} else if p.Source == own {
				p.After = nil
			}
		}
		plan = append(plan, p)
	}
	return plan
}

func (a *app) printConfigPlan(cmd *cobra.Command, r client.ConfigResource, values []client.ConfigValue, changes []client.ConfigChange) error {
	plan := planConfigs(r, values, changes)
	return a.print(cmd, plan, func(w io.Writer) {
		fmt.Fprintln(w, "CONFIG\tVALUE\tWOULD BE")
		changed := 0
		for i := range plan {
			v, after := &plan[i].ConfigValue, client.ConfigValue{Value: plan[i].After, Sensitive: plan[i].Sensitive}
			fmt.Fprintf(w, "%s\t%s\t%s\n", v.Name, configText(v), configText(&after))
			if v.Sensitive || (v.Value == nil) != (after.Value == nil) || v.Value != nil && *v.Value != *after.Value {
				changed++
			}
		}
		fmt.Fprintf(w, "\n%s of %s would have another value\n", counted(changed, "config"), r)
	})
}

func newConfigList(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "list [topic|broker|group|logger]",
		Short: "List what has configs",
		Long:  `List what has configs: the topics, the brokers with their loggers, and the groups for which something was set.`,
		Args:  atMostOne,
		RunE: func(cmd *cobra.Command, args []string) error {
			for _, kind := range args {
				switch kind {
				case client.TopicConfigs, client.BrokerConfigs, client.GroupConfigs, client.LoggerConfigs:
				default:
					return usageError("it is topic, broker, group or logger", "%q is no kind of resource", kind)
				}
			}
			return withAdmin(cmd, func(ctx context.Context, adm *client.Admin) error {
				list, err := adm.ConfigResources(ctx, args...)
				if err != nil {
					return err
				}
				return a.print(cmd, list, func(w io.Writer) {
					for _, r := range list {
						fmt.Fprintln(w, r)
					}
				})
			})
		},
	}
}

func newTopicAlter(a *app) *cobra.Command {
	var (
		set, unset []string
		dry        bool
	)
	cmd := &cobra.Command{
		Use:   "alter NAME",
		Short: "Change a topic's settings",
		Long:  `Change a topic's settings, while it is in use: it is 'broker config set' and 'delete' of topic/NAME in one. They take effect at once.`,
		Example: `  broker topic alter orders --set retention.ms=86400000
  broker topic alter orders --unset retention.ms --unset segment.bytes`,
		Args: exactly("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			var changes []client.ConfigChange
			for _, s := range set {
				c, err := configChange(s)
				if err != nil {
					return err
				}
				changes = append(changes, c)
			}
			for _, name := range unset {
				changes = append(changes, client.ConfigChange{Op: client.DeleteConfig, Name: name})
			}
			if len(changes) == 0 {
				return usageError("write --set retention.ms=60000, or --unset retention.ms", "there is nothing to change")
			}
			return a.alterConfigs(cmd, client.ConfigResource{Kind: client.TopicConfigs, Name: args[0]}, changes, dry)
		},
	}
	f := cmd.Flags()
	f.StringArrayVar(&set, "set", nil, "a setting `NAME=VALUE`, or of a list NAME+=VALUE, NAME-=VALUE; may be repeated")
	f.StringArrayVar(&unset, "unset", nil, "a setting `NAME` that is to have its default again; may be repeated")
	dryRunFlag(cmd, &dry)
	return cmd
}

func newTopicAddPartitions(a *app) *cobra.Command {
	var (
		total  int32
		assign []string
		dry    bool
	)
	cmd := &cobra.Command{
		Use:   "add-partitions NAME",
		Short: "Give a topic more partitions",
		Long: `Give a topic more partitions, and return when each of them has a leader. What is in the old ones stays there: records of a key may go
to another partition from then on. Partitions cannot be taken away again.`,
		Example: `  broker topic add-partitions orders --total 12
  broker topic add-partitions orders --total 8 --assign 1,2,3 --assign 2,3,1`,
		Args: exactly("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if total <= 0 {
				return usageError("write --total 12", "--total, how many partitions the topic is to have, must be above 0")
			}
			var assignment [][]int32
			for _, s := range assign {
				ids, err := brokerIDs(strings.Split(s, ","))
				if err != nil {
					return err
				}
				assignment = append(assignment, ids)
			}
			return withAdmin(cmd, func(ctx context.Context, adm *client.Admin) error {
				t, err := adm.AddPartitions(ctx, args[0], total, assignment, dry)
				if err != nil {
					return err
				}
				return a.print(cmd, t, func(w io.Writer) {
					if dry {
						fmt.Fprintf(w, "topic %s would have %s instead of %d\n", t.Name, counted(int(total), "partition"), len(t.Partitions))
						return
					}
					fmt.Fprintf(w, "topic %s: %s, %s\n", t.Name, counted(len(t.Partitions), "partition"), counted(t.Replicas(), "replica"))
				})
			})
		},
	}
	f := cmd.Flags()
	f.Int32Var(&total, "total", 0, "how many partitions the topic is to have")
	f.StringArrayVar(&assign, "assign", nil, "the brokers `ID,...` of a new partition, the preferred leader first; once for each")
	dryRunFlag(cmd, &dry)
	return cmd
}

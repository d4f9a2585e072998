// The command tree, and what all commands share: global flags, settings, connecting.

package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/balsamq/balsa/client"
)

// commands are the children of the root, in the order of the help text. A new command is a file with a constructor and a
// line here.
var commands = []func(*app) *cobra.Command{
	newDevCommand,
	newStartCommand,
	newTopicCommand,
	newPartitionCommand,
	newGroupCommand,
	newProduceCommand,
	newConsumeCommand,
	newConfigCommand,
	newQuotaCommand,
	newClusterCommand,
	newTxnCommand,
	newBridgeCommand,
	newUserCommand,
	newACLCommand,
	newRaftCommand,
	newBenchCommand,
	newLogCommand,
	newProfileCommand,
	newVersionCommand,
}

const rootLong = `Balsa is a replicated message broker that speaks the Kafka protocol. 'broker dev' runs a cluster of three on this
machine; 'broker start' runs one broker; the other commands work with a running cluster.

Every setting can come from a flag, from the environment, or from balsa.yaml in the current directory (or the file named
by --config or BALSA_CONFIG); a flag wins over the environment, and the environment over the file. The environment
variable of a setting is its name in the file in capitals with BALSA_ in front: kafka-listen is BALSA_KAFKA_LISTEN, and
nodes in the section dev is BALSA_DEV_NODES. 'broker help settings' lists them all, 'broker help topic-configs' the settings
of a topic, 'broker help exit-codes' the exit codes.

Where there are several clusters, 'broker profile' keeps how to reach each of them.`

// run executes one command line and returns the exit code.
func (a *app) run(ctx context.Context, args []string) int {
	root := a.root()
	root.SetArgs(args)
	root.SetIn(a.in)
	root.SetOut(a.out)
	root.SetErr(a.err)
	strict(root)
	cmd, err := root.ExecuteContextC(ctx)
	return a.show(err, cmd.CommandPath())
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:           "broker",
		Short:         "Balsa, a replicated message broker that speaks the Kafka protocol",
		Long:          rootLong,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          subcommands,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetFlagErrorFunc(flagMistake)
	pf := root.PersistentFlags()
	pf.StringSliceP("brokers", "b", []string{client.DefaultBroker}, "addresses `HOST:PORT,...` of brokers of the cluster")
	pf.VarP(newChoice("table", "table", "json", "yaml"), "output", "o", "how to print: `table|json|yaml`")
	pf.Duration("timeout", 30*time.Second, "how long to wait for the cluster")
	pf.String("config", "", "read settings from this `FILE` ('none': from no file); default balsa.yaml if it exists")
	pf.String("profile", "", "connect as the profile `NAME` says ('none': as none does); default: BALSA_PROFILE, or that of 'broker profile use'")
	pf.Bool("quiet", false, "show no progress")
	securityFlags(pf)
	setting(pf, "brokers", "brokers")
	setting(pf, "output", "output")
	setting(pf, "timeout", "timeout")
	setting(pf, "quiet", "quiet")
	for _, newCommand := range commands {
		root.AddCommand(newCommand(a))
	}
	root.AddCommand(
		helpTopic("settings", "The settings: names, environment variables, types, defaults", func() string { return settingsHelp(root) }),
		helpTopic("topic-configs", "The settings of a topic: names, defaults, what they do", topicConfigsHelp),
		&cobra.Command{Use: "exit-codes", Short: "The exit codes", Long: exitCodesHelp},
	)
	root.PersistentPreRunE = func(cmd *cobra.Command, _ []string) error {
		if cmd.Name() == cobra.ShellCompRequestCmd || cmd.Name() == cobra.ShellCompNoDescRequestCmd || cmd.HasParent() && cmd.Parent().Name() == "completion" {
			return nil // a shell that starts, or completes, is no place for what is wrong with a file
		}
		if err := a.applySettings(cmd); err != nil {
			return err
		}
		if timeout, err := cmd.Flags().GetDuration("timeout"); err == nil && timeout <= 0 {
			return usageError("give it a duration such as 30s", "--timeout %v is not positive", timeout)
		}
		return nil
	}
	a.wrapHelp(root)
	markRun(a, root)
	a.complete(root)
	return root
}

// helpTopic is a command that only has a help text, which is made when it is asked for.
func helpTopic(use, short string, text func() string) *cobra.Command {
	cmd := &cobra.Command{Use: use, Short: short}
	cmd.SetHelpFunc(func(cmd *cobra.Command, _ []string) {
		_, _ = fmt.Fprintf(cmd.OutOrStdout(), "%s\n\n", text()) // as with other help, there is nowhere to report a failure to
	})
	return cmd
}

// What help texts are wrapped to: the terminal's width within bounds, and where there is none what can be read anywhere.
const (
	helpWidth    = 100
	minHelpWidth = 60
	maxHelpWidth = 140
)

// wrapHelp keeps what is said of flags within the width of what it is written to.
func (a *app) wrapHelp(root *cobra.Command) {
	width := helpWidth
	if f, ok := a.out.(*os.File); ok {
		if w := terminalWidth(f); w > 0 {
			width = min(max(w, minHelpWidth), maxHelpWidth)
		}
	}
	root.SetUsageTemplate(strings.ReplaceAll(root.UsageTemplate(), ".FlagUsages ", fmt.Sprintf(".FlagUsagesWrapped %d ", width)))
}

// markRun makes each command note that its own code has begun: see app.explain.
func markRun(a *app, cmd *cobra.Command) {
	for _, c := range cmd.Commands() {
		markRun(a, c)
	}
	if run := cmd.RunE; run != nil {
		cmd.RunE = func(cmd *cobra.Command, args []string) error {
			a.ran = true
			return run(cmd, args)
		}
	}
}

// group is a command that only has children.
func group(use, short string, children ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{Use: use, Short: short, Args: subcommands, RunE: needsSubcommand}
	cmd.AddCommand(children...)
	return cmd
}

// needsSubcommand is what a command that only has children does.
func needsSubcommand(cmd *cobra.Command, _ []string) error {
	var names []string
	for _, c := range cmd.Commands() {
		names = append(names, c.Name())
	}
	return usageError(fmt.Sprintf("'%s --help' says what each does", cmd.CommandPath()), "'%s' needs one of: %s", cmd.CommandPath(), strings.Join(names, ", "))
}

// subcommands refuses an argument where only the name of a subcommand can stand.
func subcommands(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	mend := fmt.Sprintf("'%s --help' lists the commands", cmd.CommandPath())
	if !cmd.HasSubCommands() {
		mend = fmt.Sprintf("'%s --help' shows what is understood", cmd.CommandPath())
	}
	cmd.SuggestionsMinimumDistance = min(2, len(args[0])/2) // of a short word two letters are nearly all
	if s := cmd.SuggestionsFor(args[0]); len(s) > 0 {
		mend = fmt.Sprintf("did you mean '%s %s'?", cmd.CommandPath(), s[0])
	}
	return usageError(mend, "unknown command %q for %q", args[0], cmd.CommandPath())
}

// exactly wants the named arguments, no more and no fewer.
func exactly(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		usage := fmt.Sprintf("write '%s'", cmd.UseLine())
		if len(args) < len(names) {
			return usageError(usage, "%s is missing", names[len(args)])
		}
		if len(args) > len(names) {
			return usageError(usage, "%q is one argument too many", args[len(names)])
		}
		return noneEmpty(cmd, names, args)
	}
}

// noneEmpty refuses arguments that are there and empty, as an unset variable of a script makes them.
func noneEmpty(cmd *cobra.Command, names, args []string) error {
	for i, arg := range args {
		if arg == "" {
			return usageError(fmt.Sprintf("write '%s'", cmd.UseLine()), "%s is empty", names[min(i, len(names)-1)])
		}
	}
	return nil
}

// atMostOne wants the command's one argument, or none.
func atMostOne(cmd *cobra.Command, args []string) error {
	if len(args) > 1 {
		return usageError(fmt.Sprintf("write '%s'", cmd.UseLine()), "%q is one argument too many", args[1])
	}
	return nil
}

// connection is the client configuration that the global flags give.
func connection(cmd *cobra.Command) client.Config {
	brokers, _ := cmd.Flags().GetStringSlice("brokers")
	timeout, _ := cmd.Flags().GetDuration("timeout")
	return client.Config{Brokers: brokers, ClientID: "balsa-cli", ConnectTimeout: timeout, Security: securityOf(cmd)}
}

// within bounds a command's dealings with the cluster by --timeout.
func within(cmd *cobra.Command) (context.Context, context.CancelFunc) {
	timeout, _ := cmd.Flags().GetDuration("timeout")
	return context.WithTimeout(cmd.Context(), timeout)
}

// withAdmin connects, runs fn within --timeout and disconnects.
func withAdmin(cmd *cobra.Command, fn func(context.Context, *client.Admin) error) error {
	ctx, cancel := within(cmd)
	defer cancel()
	adm, err := client.NewAdmin(ctx, connection(cmd))
	if err != nil {
		return err
	}
	defer adm.Close()
	return fn(ctx, adm)
}

// choice is a flag that takes one of a few words.
type choice struct {
	value   string
	allowed []string
}

func newChoice(def string, allowed ...string) *choice { return &choice{value: def, allowed: allowed} }

var _ pflag.Value = (*choice)(nil)

func (c *choice) String() string { return c.value }
func (c *choice) Type() string   { return "choice" }

func (c *choice) Set(s string) error {
	if !slices.Contains(c.allowed, s) {
		return fmt.Errorf("it must be one of %s", strings.Join(c.allowed, ", "))
	}
	c.value = s
	return nil
}

func flagString(cmd *cobra.Command, name string) string {
	return cmd.Flags().Lookup(name).Value.String()
}

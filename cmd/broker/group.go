// broker group: list, describe, delete, reset-offsets, delete-offsets.

package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/balsamq/balsa/client"
)

func newGroupCommand(a *app) *cobra.Command {
	return group("group", "List, describe and delete consumer groups, and set what they have read",
		newGroupList(a), newGroupDescribe(a), newGroupDelete(a), newGroupReset(a), newGroupDeleteOffsets(a))
}

// groupStates are Kafka's: a broker finds nothing for any other.
var groupStates = []string{"Empty", "PreparingRebalance", "CompletingRebalance", "Assigning", "Reconciling", "Stable", "Dead"}

func newGroupList(a *app) *cobra.Command {
	var types, states []string
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the groups",
		Example: `  broker group list
  broker group list --type consumer --state Stable,Reconciling`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			for _, t := range types {
				if t != client.GroupClassic && t != client.GroupConsumer {
					return usageError("write --type classic, or --type consumer", "--type %q is no type of group", t)
				}
			}
			for _, s := range states {
				if !slices.ContainsFunc(groupStates, func(known string) bool { return strings.EqualFold(s, known) }) {
					return usageError("write one or more of "+strings.Join(groupStates, ","), "--state %q is no state of a group", s)
				}
			}
			return withAdmin(cmd, func(ctx context.Context, adm *client.Admin) error {
				groups, err := adm.ListGroups(ctx, types, states)
				if err != nil {
					return err
				}
				return a.print(cmd, groups, func(w io.Writer) {
					if len(groups) == 0 {
						fmt.Fprintln(w, "no groups")
						return
					}
					fmt.Fprintln(w, "NAME\tTYPE\tSTATE\tPROTOCOL\tCOORDINATOR")
					for _, g := range groups {
						fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d\n", orDash(g.Name), g.Type, g.State, orDash(g.ProtocolType), g.Coordinator)
					}
				})
			})
		},
	}
	f := cmd.Flags()
	f.StringSliceVar(&types, "type", nil, "only groups of these `TYPES`: classic, consumer")
	f.StringSliceVar(&states, "state", nil, "only groups in these `STATES`, such as Stable or Empty")
	return cmd
}

func newGroupDescribe(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "describe NAME",
		Short: "Show a group's members, offsets and lag",
		Args:  exactly("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return withAdmin(cmd, func(ctx context.Context, adm *client.Admin) error {
				g, err := adm.DescribeGroup(ctx, args[0])
				if err != nil {
					return err
				}
				return a.print(cmd, g, func(w io.Writer) { groupTable(w, &g) })
			})
		},
	}
}

func groupTable(w io.Writer, g *client.GroupDetail) {
	fmt.Fprintf(w, "group %s: %s, %s, coordinator %d", g.Name, g.Type, g.State, g.Coordinator)
	if g.Assignor != "" {
		fmt.Fprintf(w, ", assignor %s", g.Assignor)
	}
	if g.Type == client.GroupConsumer {
		fmt.Fprintf(w, ", epoch %d, assignment %d", g.Epoch, g.AssignmentEpoch)
	}
	fmt.Fprintln(w)
	if len(g.Members) > 0 {
		fmt.Fprintln(w, "\nMEMBER\tINSTANCE\tCLIENT\tHOST\tTYPE\tEPOCH\tWANTS\tREADS")
		for _, m := range g.Members {
			wants := strings.Join(m.Topics, ",")
			if m.Regex != "" {
				wants = strings.TrimPrefix(wants+",/"+m.Regex+"/", ",")
			}
			epoch := "-"
			if g.Type == client.GroupConsumer {
				epoch = fmt.Sprint(m.Epoch)
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", m.ID, orDash(m.Instance), orDash(m.ClientID), orDash(m.Host), m.Type, epoch, orDash(wants), orDash(assignedText(m.Assigned)))
		}
	}
	if len(g.Offsets) > 0 {
		fmt.Fprintln(w, "\nTOPIC\tPARTITION\tOFFSET\tEND\tLAG\tMEMBER")
		for _, o := range g.Offsets {
			fmt.Fprintf(w, "%s\t%d\t%s\t%s\t%s\t%s\n", o.Topic, o.Partition, known(o.Offset), known(o.End), known(o.Lag), orDash(o.Member))
		}
	}
}

// assignedText is partitions by topic in one line: orders/0,1 payments/3.
func assignedText(assigned map[string][]int32) string {
	var parts []string
	for _, topic := range slices.Sorted(maps.Keys(assigned)) {
		parts = append(parts, topic+"/"+joinIDs(assigned[topic]))
	}
	return strings.Join(parts, " ")
}

func newGroupDelete(a *app) *cobra.Command {
	return newDelete(a, "group", "Delete a group without members, and all that it has committed", (*client.Admin).DeleteGroup, func(ctx context.Context, adm *client.Admin, name string) (string, error) {
		g, err := withoutMembers(ctx, adm, "delete group", name)
		return counted(committed(&g), "committed offset"), err
	})
}

// withoutMembers describes a group, and refuses one that has members as the brokers would.
func withoutMembers(ctx context.Context, adm *client.Admin, op, name string) (client.GroupDetail, error) {
	g, err := adm.DescribeGroup(ctx, name)
	if err == nil && len(g.Members) > 0 {
		err = &client.Error{Op: op, Subject: name, Err: kerr.NonEmptyGroup}
	}
	return g, err
}

func committed(g *client.GroupDetail) (n int) {
	for _, o := range g.Offsets {
		if o.Offset >= 0 {
			n++
		}
	}
	return n
}

// topicsArg reads TOPIC and TOPIC/PARTITION,...
func topicsArg(args []string) (map[string][]int32, error) {
	topics := make(map[string][]int32)
	whole := make(map[string]bool)
	for _, s := range args {
		topic, list, some := strings.Cut(s, "/")
		if topic == "" {
			return nil, usageError("write orders, orders/0 or orders/0,1,2", "%q names no topic", s)
		}
		if !some {
			whole[topic] = true
		}
		parts := topics[topic]
		for p := range strings.SplitSeq(list, ",") {
			if !some {
				break
			}
			n, err := strconv.ParseInt(p, 10, 32)
			if err != nil || n < 0 {
				return nil, usageError("write orders, orders/0 or orders/0,1,2", "%q is no partition", p)
			}
			if !slices.Contains(parts, int32(n)) {
				parts = append(parts, int32(n))
			}
		}
		topics[topic] = parts
	}
	for topic := range whole {
		topics[topic] = nil
	}
	return topics, nil
}

func newGroupReset(a *app) *cobra.Command {
	var (
		topics                    []string
		earliest, latest, current bool
		offset, shift             int64
		timestamp                 string
		ago                       time.Duration
		execute, dry              bool
	)
	ways := []string{"to-earliest", "to-latest", "to-current", "to-offset", "to-timestamp", "shift-by", "by-duration"}
	cmd := &cobra.Command{
		Use:   "reset-offsets NAME",
		Short: "Set what a group without members has read",
		Long: `Show the offsets that a group would get, and with --execute set them. Without --topic these are the partitions for which it has
committed something; a group that is not there yet needs --topic. Stop its members first: a group that has any is refused.
An offset outside of a partition is brought inside.`,
		Example: `  broker group reset-offsets billing --to-earliest
  broker group reset-offsets billing --topic orders/0,1 --to-offset 1000 --execute
  broker group reset-offsets billing --topic orders --to-timestamp 2026-11-26T00:00:00Z --execute
  broker group reset-offsets billing --shift-by -100 --execute`,
		Args: exactly("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			var given []string
			for _, w := range ways {
				if f := cmd.Flags().Lookup(w); f.Changed && f.Value.String() != "false" {
					given = append(given, "--"+w)
				}
			}
			mend := "say where to, by one of --" + strings.Join(ways, ", --")
			if len(given) == 0 {
				return usageError(mend, "nothing says where to")
			}
			if len(given) > 1 {
				return usageError(mend, "%s cannot be done together", strings.Join(given, " and "))
			}
			if execute && dry {
				return usageError("leave one of them out", "--execute and --dry-run contradict each other")
			}
			named, err := topicsArg(topics)
			if err != nil {
				return err
			}
			r := client.OffsetReset{Group: args[0], Topics: named, Execute: execute}
			switch given[0] {
			case "--to-earliest":
				r.To = client.ToEarliest
			case "--to-latest":
				r.To = client.ToLatest
			case "--to-current":
				r.To = client.ToCurrent
			case "--to-offset":
				if r.To, r.Offset = client.ToOffset, offset; offset < 0 {
					return usageError("write --to-offset 1000, or --to-latest", "--to-offset %d is no offset", offset)
				}
			case "--shift-by":
				r.To, r.Offset = client.ShiftBy, shift
			case "--by-duration":
				if r.To, r.Time = client.ToTimestamp, time.Now().Add(-ago); ago < 0 {
					return usageError("write --by-duration 1h30m", "--by-duration %v is negative", ago)
				}
			case "--to-timestamp":
				at, err := parseStart("@"+timestamp, time.Now())
				if err != nil {
					return usageError("write it as 2026-11-26T12:00:00Z, in milliseconds since 1970, or as a duration ago: 15m", "--to-timestamp %q is no time", timestamp)
				}
				r.To, r.Time = client.ToTimestamp, at.at
			}
			return withAdmin(cmd, func(ctx context.Context, adm *client.Admin) error {
				if dry { // as --execute would; who only looks may look at a group with members
					if _, err := withoutMembers(ctx, adm, "reset the offsets of group", args[0]); err != nil && !isKind(err, client.ErrNotFound) {
						return err
					}
				}
				changes, err := adm.ResetOffsets(ctx, r)
				if err != nil {
					return err
				}
				type result struct {
					Group    string                `json:"group" yaml:"group"`
					Executed bool                  `json:"executed" yaml:"executed"`
					Offsets  []client.OffsetChange `json:"offsets" yaml:"offsets"`
				}
				return a.print(cmd, result{args[0], execute, changes}, func(w io.Writer) {
					fmt.Fprintln(w, "TOPIC\tPARTITION\tBEFORE\tAFTER")
					for _, c := range changes {
						fmt.Fprintf(w, "%s\t%d\t%s\t%d\n", c.Topic, c.Partition, known(c.Before), c.After)
					}
					if execute {
						fmt.Fprintf(w, "\n%s set\n", counted(len(changes), "offset"))
					} else {
						fmt.Fprintf(w, "\n%s would be set: --execute does it\n", counted(len(changes), "offset"))
					}
				})
			})
		},
	}
	f := cmd.Flags()
	f.StringArrayVar(&topics, "topic", nil, "a topic, or some of its partitions: `TOPIC[/PARTITION,...]`; may be repeated")
	f.BoolVar(&earliest, "to-earliest", false, "to the first record that there is")
	f.BoolVar(&latest, "to-latest", false, "to the end")
	f.BoolVar(&current, "to-current", false, "to what it is: shows it, or commits it anew")
	f.Int64Var(&offset, "to-offset", 0, "to this `OFFSET`")
	f.StringVar(&timestamp, "to-timestamp", "", "to the first record that is not older than this `TIME`: RFC 3339, milliseconds since 1970, or a duration ago")
	f.Int64Var(&shift, "shift-by", 0, "by so many `RECORDS` forward, or back if negative")
	f.DurationVar(&ago, "by-duration", 0, "to the first record of the last so much time")
	f.BoolVar(&execute, "execute", false, "do it; without this nothing is changed")
	f.BoolVar(&dry, "dry-run", false, "only show what would be set, which is the default, but fail where --execute would")
	return cmd
}

func newGroupDeleteOffsets(a *app) *cobra.Command {
	var (
		topics []string
		dry    bool
	)
	cmd := &cobra.Command{
		Use:     "delete-offsets NAME",
		Short:   "Make a group forget what it has read of a topic",
		Example: `  broker group delete-offsets billing --topic orders`,
		Args:    exactly("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			named, err := topicsArg(topics)
			if err != nil {
				return err
			}
			if len(named) == 0 {
				return usageError("write --topic orders, or --topic orders/0", "--topic is missing")
			}
			return withAdmin(cmd, func(ctx context.Context, adm *client.Admin) error {
				names := slices.Sorted(maps.Keys(named))
				type result struct {
					Group   string               `json:"group" yaml:"group"`
					Topics  []string             `json:"topics" yaml:"topics"`
					DryRun  bool                 `json:"dryRun,omitempty" yaml:"dryRun,omitempty"`
					Offsets []client.GroupOffset `json:"offsets,omitempty" yaml:"offsets,omitempty"` // that would be deleted
				}
				if dry {
					plan, err := planDeleteOffsets(ctx, adm, args[0], named)
					if err != nil {
						return err
					}
					return a.print(cmd, result{args[0], names, true, plan}, func(w io.Writer) {
						fmt.Fprintln(w, "TOPIC\tPARTITION\tOFFSET")
						for _, o := range plan {
							fmt.Fprintf(w, "%s\t%d\t%d\n", o.Topic, o.Partition, o.Offset)
						}
						fmt.Fprintf(w, "\n%s would be deleted\n", counted(len(plan), "offset"))
					})
				}
				for _, topic := range names {
					if err := adm.DeleteOffsets(ctx, args[0], topic, named[topic]); err != nil {
						return err
					}
				}
				return a.print(cmd, result{args[0], names, false, nil}, func(w io.Writer) {
					fmt.Fprintf(w, "group %s: offsets of %s deleted\n", args[0], strings.Join(topics, ", "))
				})
			})
		},
	}
	cmd.Flags().StringArrayVar(&topics, "topic", nil, "a topic, or some of its partitions: `TOPIC[/PARTITION,...]`; may be repeated")
	dryRunFlag(cmd, &dry)
	return cmd
}

// planDeleteOffsets are the offsets that a group would forget. What the brokers would refuse is refused.
func planDeleteOffsets(ctx context.Context, adm *client.Admin, group string, topics map[string][]int32) ([]client.GroupOffset, error) {
	for _, topic := range slices.Sorted(maps.Keys(topics)) {
		parts := topics[topic]
		if len(parts) == 0 {
			parts = []int32{-1}
		}
		for _, p := range parts {
			if err := adm.PartitionExists(ctx, topic, p); err != nil {
				return nil, err
			}
		}
	}
	g, err := adm.DescribeGroup(ctx, group)
	if err != nil {
		return nil, err
	}
	for _, m := range g.Members {
		for _, topic := range m.Topics {
			if _, named := topics[topic]; named {
				return nil, &client.Error{Op: "delete offsets of group", Subject: group + ", " + topic, Err: kerr.GroupSubscribedToTopic}
			}
		}
	}
	plan := []client.GroupOffset{}
	for _, o := range g.Offsets {
		parts, named := topics[o.Topic]
		if named && o.Offset >= 0 && (len(parts) == 0 || slices.Contains(parts, o.Partition)) {
			plan = append(plan, o)
		}
	}
	return plan, nil
}

// broker partition reset-peers: going on without a majority that is gone for good.

package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/balsamq/balsa/client"
)

func newPartitionReset(a *app) *cobra.Command {
	var yes, dry bool
	cmd := &cobra.Command{
		Use:   "reset-peers TOPIC/PARTITION|metadata",
		Short: "Go on with the replicas that are left, when a majority is gone for good",
		Long: `A partition (or the group that keeps the metadata) that has lost a majority of its replicas cannot elect a leader. If
they will never come back, this lets the survivors go on as the group: the one with the longest log leads.

Records that only the lost replicas had are lost, acknowledged or not. If a lost replica does come back, it is not heard any
more: its log is set aside on its disk, and it begins anew as a copy of what the survivors have.

First it shows what it would do, and what that may cost. Then it asks, unless --yes says so already. While the group has a
leader, or can elect one, it refuses. Where the metadata group is lost, brokers do not serve clients after a restart: name one
of the survivors by its admin listener then, with --admin.`,
		Example: `  broker partition reset-peers orders/3
  broker partition reset-peers metadata --admin 10.0.0.7:9292`,
		Args: exactly("TOPIC/PARTITION"),
		RunE: func(cmd *cobra.Command, args []string) error {
			var topic string
			var partition int32
			if args[0] != metadataWord {
				var err error
				if topic, partition, err = partitionArg(args[0]); err != nil {
					return err
				}
			}
			return withControl(cmd, func(ctx context.Context, ctl *client.Control) error {
				plan, err := ctl.PlanReset(ctx, topic, partition)
				if err != nil {
					return err
				}
				if dry || !yes {
					if err := a.print(cmd, plan, func(w io.Writer) { showResetPlan(w, args[0], plan) }); err != nil {
						return err
					}
				}
				if dry {
					return nil
				}
				if !yes {
					if err := a.confirm(fmt.Sprintf("\nReset the peers of %s? Type 'yes': ", args[0])); err != nil {
						return err
					}
				}
				// The time that somebody took to think is not the cluster's.
				ctx, cancel := within(cmd)
				defer cancel()
				done, err := ctl.ResetPeers(ctx, plan)
				if err != nil {
					return err
				}
				return a.print(cmd, done, func(w io.Writer) {
					fmt.Fprintf(w, "%s: broker %d leads in epoch %d, term %d or later\n", args[0], done.Leader, done.Epoch, done.Term)
				})
			})
		},
	}
	adminFlag(cmd)
	cmd.Flags().BoolVar(&yes, "yes", false, "do it without showing the plan and asking")
	cmd.Flags().BoolVar(&dry, "dry-run", false, "only show the plan")
	return cmd
}

func showResetPlan(w io.Writer, name string, p *client.ResetPlan) {
	fmt.Fprintf(w, "%s (group %d) has no leader and cannot elect one: its voters are %s\n\n", name, p.Group, joinIDs(p.Voters))
	fmt.Fprintln(w, "BROKER\tSTATE\tEPOCH\tLAST\tTERM\tCOMMITTED\tNEXT OFFSET\tAFTERWARDS")
	for _, r := range p.Replicas {
		if r.Lost != "" {
			fmt.Fprintf(w, "%d\tlost\t-\t-\t-\t-\t-\tbegins anew if it comes back\n", r.Node)
			continue
		}
		state, next, then := r.Role, "-", "survives"
		if r.Damaged {
			state += ", damaged"
		}
		if p.Topic != "" {
			next = fmt.Sprint(r.NextOffset)
		}
		if r.Node == p.Leader {
			then = "leads"
		}
		fmt.Fprintf(w, "%d\t%s\t%d\t%d\t%d\t%d\t%s\t%s\n", r.Node, state, r.Epoch, r.Last, r.LastTerm, r.Commit, next, then)
	}
	fmt.Fprintln(w)
	for _, r := range p.Replicas {
		if r.Lost != "" {
			fmt.Fprintf(w, "broker %d: %s\n", r.Node, r.Lost)
		}
	}
	fmt.Fprintf(w, "Lost for good: whatever was acknowledged and is not in broker %d's log. How much that is nobody can know.\n", p.Leader)
	if p.Uncommitted > 0 {
		fmt.Fprintf(w, "Kept: %d entries of broker %d that are not known to be acknowledged.\n", p.Uncommitted, p.Leader)
	}
}

// confirm asks a question on the terminal. Where there is none, nothing is done.
func (a *app) confirm(question string) error {
	const mend = "look at it with --dry-run, then say --yes"
	if !a.isTerminal(a.in) {
		return usageError(mend, "nobody is there to be asked: the standard input is no terminal")
	}
	fmt.Fprint(a.err, question)
	line, err := bufio.NewReader(a.in).ReadString('\n')
	if err == io.EOF && line == "" { // /dev/null is a device as well
		fmt.Fprintln(a.err)
		return usageError(mend, "nobody is there to be asked: the standard input is at its end")
	}
	if err != nil && err != io.EOF {
		return err
	}
	if strings.TrimSpace(line) != "yes" {
		return &cliError{code: exitFailure, what: "nothing was done", mend: mend}
	}
	return nil
}

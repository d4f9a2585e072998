// broker cluster remove: a broker that will not come back.

package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"github.com/balsamq/balsa/client"
)

func newClusterRemove(a *app) *cobra.Command {
	var shrink, dry bool
	cmd := &cobra.Command{
		Use:   "remove BROKER",
		Short: "Remove a broker for good",
		Long: `Remove a broker for good: what it holds moves to other brokers, and then the cluster forgets it. This works for a broker that is
dead, as long as its partitions have a majority without it. One that still runs is emptied; then it has to be stopped, and the command
given again.

It waits as long as copying takes ('broker partition status' shows it). Interrupted, it can be given again.`,
		Args: exactly("BROKER"),
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := strconv.ParseInt(args[0], 10, 32)
			if err != nil || id <= 0 {
				return usageError("'broker cluster status' lists the brokers", "%q is no id of a broker", args[0])
			}
			ctx := cmd.Context()
			adm, err := client.NewAdmin(ctx, connection(cmd))
			if err != nil {
				return err
			}
			defer adm.Close()
			if dry {
				return a.planRemoval(cmd, adm, int32(id), shrink)
			}
			a.warnOfStuck(cmd, adm, int32(id), shrink)
			last := -1
			started, now := time.Now(), new(atomic.Int64)
			stop := a.progress(cmd, func() string {
				if left := now.Load(); left > 0 {
					return fmt.Sprintf("%s left on broker %d, %v", counted(int(left), "partition", "is", "are"), id, time.Since(started).Round(time.Second))
				}
				return ""
			})
			said := a.showsProgress(cmd) || quiet(cmd)
			err = adm.RemoveBroker(ctx, int32(id), shrink, func(left int) {
				now.Store(int64(left))
				if left != last && !said {
					fmt.Fprintf(a.err, "%s left on broker %d\n", counted(left, "partition", "is", "are"), id)
				}
				last = left
			})
			stop()
			if err != nil {
				return explainRemoval(err, int32(id))
			}
			type result struct {
				Removed int32 `json:"removed" yaml:"removed"`
			}
			return a.print(cmd, result{int32(id)}, func(w io.Writer) { fmt.Fprintf(w, "broker %d is removed\n", id) })
		},
	}
	cmd.Flags().BoolVar(&shrink, "shrink", false, "where no other broker is left to take a replica, have one less")
	dryRunFlag(cmd, &dry)
	return cmd
}

func explainRemoval(err error, id int32) error {
	switch {
	case isKind(err, client.ErrBrokerRuns):
		return &cliError{code: exitFailure, what: fmt.Sprintf("broker %d is emptied, and still runs", id), err: err,
			mend: fmt.Sprintf("stop broker %d, then repeat the command", id)}
	case isKind(err, client.ErrNoPlace):
		return &cliError{code: exitFailure, what: err.Error(), err: err,
			mend: "add a broker, or let such partitions have one replica less with --shrink"}
	case isKind(err, client.ErrNotFound):
		return &cliError{code: exitNotFound, what: fmt.Sprintf("there is no broker %d in the cluster", id), err: err, mend: "'broker cluster status' lists the brokers"}
	}
	return err
}

// planRemoval shows what would move. A broker that still runs could not be forgotten after that, which is the same failure.
func (a *app) planRemoval(cmd *cobra.Command, adm *client.Admin, id int32, shrink bool) error {
	ctx, cancel := within(cmd)
	defer cancel()
	plan, runs, err := adm.PlanRemoval(ctx, id, shrink)
	if err != nil {
		return explainRemoval(err, id)
	}
	if err := a.printPlacements(cmd, plan, fmt.Sprintf("%s would move", counted(len(plan), "partition"))); err != nil {
		return err
	}
	if runs {
		return &cliError{code: exitFailure, what: fmt.Sprintf("broker %d would be emptied, and still runs", id), mend: fmt.Sprintf("stop broker %d after that, then repeat the command: it is forgotten then", id)}
	}
	stuck, err := stuckOn(ctx, adm, id, plan)
	if err != nil {
		return err
	}
	if len(stuck) > 0 {
		return &cliError{code: exitFailure, what: stuckText(stuck), mend: stuckMend}
	}
	return nil
}

// stuckOn are the partitions that a plan for a broker's removal, or the moves that an earlier removal has begun, cannot move.
func stuckOn(ctx context.Context, adm *client.Admin, id int32, plan []client.Placement) ([]string, error) {
	c, err := adm.ClusterStatus(ctx)
	if err != nil {
		return nil, err
	}
	moves, err := adm.Moves(ctx)
	if err != nil {
		return nil, err
	}
	return withoutMajority(append(plan, begun(moves, id)...), &c), nil
}

// begun are the moves that have yet to take a partition from a broker, but for those that somebody leads who is at it.
func begun(moves []client.Move, id int32) (plan []client.Placement) {
	for _, m := range moves {
		if slices.Contains(m.Removing, id) && (m.Leader < 0 || m.Leader == id || m.Phase == client.PhaseWaiting) {
			before := slices.DeleteFunc(slices.Clone(m.Replicas), func(r int32) bool { return slices.Contains(m.Adding, r) })
			plan = append(plan, client.Placement{Topic: m.Topic, Partition: m.Partition, Before: before})
		}
	}
	return plan
}

// withoutMajority are the partitions of a plan that have no majority of their replicas on live brokers: nobody can lead them, and so nobody can move them.
func withoutMajority(plan []client.Placement, c *client.Cluster) (names []string) {
	live := make(map[int32]bool)
	for _, b := range c.Brokers {
		live[b.ID] = b.State == client.BrokerLive
	}
	for _, p := range plan {
		n := 0
		for _, id := range p.Before {
			if live[id] {
				n++
			}
		}
		if 2*n <= len(p.Before) {
			names = append(names, partitionName(p.Topic, p.Partition))
		}
	}
	return names
}

const stuckMend = "start brokers that hold them again; where they are gone for good, 'broker partition reset-peers' lets a partition go on with what is left"

func stuckText(names []string) string {
	const most = 5
	text := strings.Join(names[:min(len(names), most)], ", ")
	if len(names) > most {
		text += ", …"
	}
	return fmt.Sprintf("%s no majority on live brokers, and cannot move: %s", counted(len(names), "partition", "has", "have"), text)
}

// warnOfStuck says what the removal of a broker will wait for in vain.
func (a *app) warnOfStuck(cmd *cobra.Command, adm *client.Admin, id int32, shrink bool) {
	ctx, cancel := within(cmd)
	defer cancel()
	plan, _, err := adm.PlanRemoval(ctx, id, shrink)
	if err != nil {
		return // the removal itself says so
	}
	if stuck, err := stuckOn(ctx, adm, id, plan); err == nil && len(stuck) > 0 {
		fmt.Fprintf(a.err, "warning: %s\n  mend:  %s\n", stuckText(stuck), stuckMend)
	}
}

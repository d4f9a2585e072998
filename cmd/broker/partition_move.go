// broker partition move, status and cancel: partitions on their way to other brokers.

package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/balsamq/balsa/client"
)

// topicOrPartitionArg reads TOPIC[/PARTITION]; partition -1: all.
func topicOrPartitionArg(s string) (string, int32, error) {
	if !strings.Contains(s, "/") {
		if s == "" {
			return "", 0, usageError("write TOPIC or TOPIC/PARTITION, as in orders or orders/0", "the name of the topic is empty")
		}
		return s, -1, nil
	}
	return partitionArg(s)
}

func newPartitionMove(a *app) *cobra.Command {
	var (
		to  []string
		dry bool
	)
	cmd := &cobra.Command{
		Use:   "move TOPIC[/PARTITION] --to BROKER,...",
		Short: "Move a partition, or all of a topic, to other brokers",
		Long: `Move a partition, or all partitions of a topic, to these brokers and no others. The first one is the preferred leader; for a
whole topic the preference goes round. More or fewer brokers than before change the number of replicas.

The new replicas are filled first, within --move-rate of their leaders. Then all replicas change at once, and the old ones are
deleted. Reading and writing go on all the time. The command returns when the move is decided: 'broker partition status'
shows how far it is, 'broker partition cancel' takes it back. Whichever broker fails, the move goes on.`,
		Example: `  broker partition move orders/3 --to 2,3,4
  broker partition move orders --to 4,5,6
  broker partition status --watch`,
		Args: exactly("TOPIC[/PARTITION]"),
		RunE: func(cmd *cobra.Command, args []string) error {
			topic, partition, err := topicOrPartitionArg(args[0])
			if err != nil {
				return err
			}
			ids, err := brokerIDs(to)
			if err != nil {
				return err
			}
			return withAdmin(cmd, func(ctx context.Context, adm *client.Admin) error {
				if dry {
					plan, err := adm.PlanMove(ctx, topic, partition, ids)
					if err != nil {
						return err
					}
					return a.printPlacements(cmd, plan, fmt.Sprintf("%s would move", counted(moving(plan), "partition")))
				}
				n, err := adm.MovePartition(ctx, topic, partition, ids)
				if err != nil {
					return err
				}
				type result struct {
					Topic      string  `json:"topic" yaml:"topic"`
					Partitions int     `json:"partitions" yaml:"partitions"`
					To         []int32 `json:"to" yaml:"to"`
				}
				return a.print(cmd, result{topic, n, ids}, func(w io.Writer) {
					fmt.Fprintf(w, "%s: %s to %s %s\n", args[0], counted(n, "partition", "moves", "move"), one(len(ids), "broker", "brokers"), joinIDs(ids))
				})
			})
		},
	}
	cmd.Flags().StringSliceVar(&to, "to", nil, "the `BROKER,...` to move to, by their ids, the preferred leader first")
	dryRunFlag(cmd, &dry)
	return cmd
}

// printPlacements shows where partitions are, and where they would be.
func (a *app) printPlacements(cmd *cobra.Command, plan []client.Placement, sum string) error {
	return a.print(cmd, plan, func(w io.Writer) {
		fmt.Fprintln(w, "PARTITION\tREPLICAS\tWOULD BE")
		for _, p := range plan {
			fmt.Fprintf(w, "%s\t%s\t%s\n", partitionName(p.Topic, p.Partition), orDash(joinIDs(p.Before)), joinIDs(p.After))
		}
		fmt.Fprintf(w, "\n%s\n", sum)
	})
}

// moving counts the partitions that would be elsewhere, or prefer another leader.
func moving(plan []client.Placement) (n int) {
	for _, p := range plan {
		if !slices.Equal(p.Before, p.After) {
			n++
		}
	}
	return n
}

func brokerIDs(list []string) ([]int32, error) {
	if len(list) == 0 {
		return nil, usageError("name them with --to, as in --to 1,2,3; 'broker cluster status' lists them", "no brokers to move to are named")
	}
	var ids []int32
	for _, s := range list {
		n, err := strconv.ParseInt(strings.TrimSpace(s), 10, 32)
		if err != nil || n <= 0 {
			return nil, usageError("'broker cluster status' lists the brokers", "%q is no id of a broker", s)
		}
		ids = append(ids, int32(n))
	}
	return ids, nil
}

func newPartitionCancel(a *app) *cobra.Command {
	var dry bool
	cmd := &cobra.Command{
		Use:   "cancel TOPIC[/PARTITION]",
		Short: "Take a move back",
		Long: `Take the move of a partition, or of all partitions of a topic that are on their way, back: the partition stays where it was, and
what had been copied is deleted. If the replicas had changed already, it moves back.`,
		Args: exactly("TOPIC[/PARTITION]"),
		RunE: func(cmd *cobra.Command, args []string) error {
			topic, partition, err := topicOrPartitionArg(args[0])
			if err != nil {
				return err
			}
			return withAdmin(cmd, func(ctx context.Context, adm *client.Admin) error {
				if dry {
					return a.planCancel(ctx, cmd, adm, topic, partition)
				}
				n, err := adm.CancelMove(ctx, topic, partition)
				if err != nil {
					return err
				}
				type result struct {
					Topic     string `json:"topic" yaml:"topic"`
					Cancelled int    `json:"cancelled" yaml:"cancelled"`
				}
				return a.print(cmd, result{topic, n}, func(w io.Writer) {
					fmt.Fprintf(w, "%s: %s taken back\n", args[0], counted(n, "move", "is", "are"))
				})
			})
		},
	}
	dryRunFlag(cmd, &dry)
	return cmd
}

// planCancel shows the moves that would be taken back; a partition that does not move is refused as the brokers would.
func (a *app) planCancel(ctx context.Context, cmd *cobra.Command, adm *client.Admin, topic string, partition int32) error {
	if err := adm.PartitionExists(ctx, topic, partition); err != nil {
		return err
	}
	moves, err := adm.Moves(ctx)
	if err != nil {
		return err
	}
	moves = slices.DeleteFunc(moves, func(m client.Move) bool { return m.Topic != topic || partition >= 0 && m.Partition != partition })
	if len(moves) == 0 && partition >= 0 {
		return &client.Error{Op: "cancel the move of", Subject: partitionName(topic, partition), Err: kerr.NoReassignmentInProgress}
	}
	plan := []client.Placement{}
	for _, m := range moves {
		back := slices.DeleteFunc(slices.Clone(m.Replicas), func(id int32) bool { return slices.Contains(m.Adding, id) })
		plan = append(plan, client.Placement{Topic: m.Topic, Partition: m.Partition, Before: m.Replicas, After: back})
	}
	return a.printPlacements(cmd, plan, counted(len(plan), "move")+" would be taken back")
}

// moveView is a move with its speed.
type moveView struct {
	client.Move    `yaml:",inline"`
	BytesPerSecond int64 `json:"bytesPerSecond" yaml:"bytesPerSecond"`
	SecondsLeft    int64 `json:"secondsLeft" yaml:"secondsLeft"` // -1: not known
}

// moveViews compares two looks at the moves.
func moveViews(before, now []client.Move, took time.Duration) []moveView {
	views := make([]moveView, len(now))
	for i, m := range now {
		v := &views[i]
		v.Move, v.SecondsLeft = m, -1
		k := slices.IndexFunc(before, func(b client.Move) bool { return b.Topic == m.Topic && b.Partition == m.Partition })
		if k < 0 || took <= 0 {
			continue
		}
		v.BytesPerSecond = max(int64(float64(m.Copied-before[k].Copied)/took.Seconds()), 0)
		if v.BytesPerSecond > 0 {
			v.SecondsLeft = (max(m.Total-m.Copied, 0) + v.BytesPerSecond - 1) / v.BytesPerSecond
		}
	}
	return views
}

func newPartitionStatus(a *app) *cobra.Command {
	var watch bool
	var interval time.Duration
	cmd := &cobra.Command{
		Use:   "status [TOPIC[/PARTITION]]",
		Short: "Show the partitions that are on their way to other brokers",
		Long: `Show the partitions that are on their way to other brokers: what is copied, how fast, and how long it will take at that speed. It
looks twice, an interval apart.

Phases: waiting (the new replicas have nothing yet), copying, switching (they have everything, and are about to take over), removing
(nothing is to be copied: replicas are only being removed, or a move is taken back).`,
		Args: atMostOne,
		RunE: func(cmd *cobra.Command, args []string) error {
			topic, partition := "", int32(-1)
			if len(args) > 0 {
				var err error
				if topic, partition, err = topicOrPartitionArg(args[0]); err != nil {
					return err
				}
			}
			if interval <= 0 {
				return usageError("give it a duration such as 1s", "--interval %v is not positive", interval)
			}
			return a.partitionStatus(cmd, topic, partition, watch, interval)
		},
	}
	cmd.Flags().BoolVar(&watch, "watch", false, "show them again and again until nothing moves any more")
	cmd.Flags().DurationVar(&interval, "interval", time.Second, "between two looks")
	return cmd
}

func (a *app) partitionStatus(cmd *cobra.Command, topic string, partition int32, watch bool, interval time.Duration) error {
	adm, err := client.NewAdmin(cmd.Context(), connection(cmd))
	if err != nil {
		return err
	}
	defer adm.Close()
	if topic != "" {
		ctx, cancel := within(cmd)
		err := adm.PartitionExists(ctx, topic, partition)
		cancel()
		if err != nil {
			return err
		}
	}
	look := func() ([]client.Move, time.Time, error) {
		ctx, cancel := within(cmd)
		defer cancel()
		moves, err := adm.Moves(ctx)
		moves = slices.DeleteFunc(moves, func(m client.Move) bool {
			return topic != "" && (m.Topic != topic || partition >= 0 && m.Partition != partition)
		})
		return moves, time.Now(), err
	}
	before, at, err := look()
	for {
		if err != nil {
			return err
		}
		if len(before) == 0 && !watch { // there is nothing to compare
			return a.printMoves(cmd, nil)
		}
		if len(before) > 0 {
			select {
			case <-cmd.Context().Done():
				return nil
			case <-time.After(interval):
			}
		}
		now, then, err := look()
		if err != nil {
			return err
		}
		if err := a.printMoves(cmd, moveViews(before, now, then.Sub(at))); err != nil {
			return err
		}
		if !watch || len(now) == 0 {
			return nil
		}
		before, at = now, then
	}
}

func (a *app) printMoves(cmd *cobra.Command, views []moveView) error {
	if views == nil {
		views = []moveView{}
	}
	return a.print(cmd, views, func(w io.Writer) {
		if len(views) == 0 {
			fmt.Fprintln(w, "nothing moves")
			return
		}
		fmt.Fprintln(w, "PARTITION\tPHASE\tLEADER\tREPLICAS\tADDING\tREMOVING\tCOPIED\tOF\tRATE\tLEFT")
		for _, v := range views {
			left := "-"
			if v.SecondsLeft >= 0 {
				left = (time.Duration(v.SecondsLeft) * time.Second).String()
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s/s\t%s\n", partitionName(v.Topic, v.Partition), v.Phase, known(int64(v.Leader)), joinIDs(v.Replicas),
				orDash(joinIDs(v.Adding)), orDash(joinIDs(v.Removing)), byteSize(v.Copied), byteSize(v.Total), byteSize(v.BytesPerSecond), left)
		}
	})
}

// byteSize is a number of bytes for people.
func byteSize(n int64) string {
	const unit = 1024
	if n < unit {
		return fmt.Sprintf("%d B", n)
	}
	f, i := float64(n)/unit, 0
	for f >= unit && i < 4 {
		f /= unit
		i++
	}
	return fmt.Sprintf("%.1f %ciB", f, "KMGTP"[i])
}

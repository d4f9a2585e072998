// broker partition transfer-leader, and broker partition elect-preferred.

package main

import (
	"context"
	"fmt"
	"io"
	"slices"

	"github.com/spf13/cobra"

	"github.com/balsamq/balsa/client"
)

func newPartitionTransfer(a *app) *cobra.Command {
	var (
		to  int32
		dry bool
	)
	cmd := &cobra.Command{
		Use:   "transfer-leader TOPIC/PARTITION",
		Short: "Hand a partition's leadership to another replica",
		Long: `Hand a partition's leadership to another replica, and return when that one leads. Nothing is lost, and producers wait a few
milliseconds. Without --to it goes to whoever is fit: there, caught up and allowed to lead.

Unless leader balance is switched off ('broker start --auto-leader-balance=false'), leadership goes back to the
preferred replica after a while.`,
		Example: `  broker partition transfer-leader orders/0
  broker partition transfer-leader orders/0 --to 2`,
		Args: exactly("TOPIC/PARTITION"),
		RunE: func(cmd *cobra.Command, args []string) error {
			topic, partition, err := partitionArg(args[0])
			if err != nil {
				return err
			}
			if to < 0 {
				return usageError("'broker cluster status' shows the brokers' ids", "--to %d is no broker", to)
			}
			return withControl(cmd, func(ctx context.Context, ctl *client.Control) error {
				if dry {
					return a.planTransfer(ctx, cmd, ctl, args[0], to)
				}
				moved, err := ctl.TransferLeader(ctx, topic, partition, to)
				if err != nil {
					return err
				}
				return a.print(cmd, moved, func(w io.Writer) {
					if moved.From == moved.Leader {
						fmt.Fprintf(w, "%s: broker %d led already\n", partitionName(topic, partition), moved.Leader)
						return
					}
					fmt.Fprintf(w, "%s: broker %d leads, before it was %s\n", partitionName(topic, partition), moved.Leader, known(int64(moved.From)))
				})
			})
		},
	}
	cmd.Flags().Int32Var(&to, "to", 0, "the broker that is to lead, `ID`; 0: whoever is fit")
	dryRunFlag(cmd, &dry)
	adminFlag(cmd)
	return cmd
}

// planTransfer says who leads a partition and who would, as far as the leader knows how its followers are. What a follower says of itself, that it never
// leads for instance, shows only when it is asked to.
func (a *app) planTransfer(ctx context.Context, cmd *cobra.Command, ctl *client.Control, name string, to int32) error {
	g, err := ctl.RaftGroup(ctx, name)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(g.Replicas, func(r client.RaftReplica) bool { return r.Role == "leader" })
	if i < 0 {
		return &cliError{code: exitUnreachable, what: "the partition has no leader that answers", mend: "'broker raft describe " + name + "' shows what its replicas are at; ask again when one leads"}
	}
	var fit []int32
	for _, f := range g.Replicas[i].Followers {
		if f.Active && !f.Learner && f.State == "replicate" {
			fit = append(fit, f.Node)
		}
	}
	leader := g.Replicas[i].Node
	if to != leader && (len(fit) == 0 || to != 0 && !slices.Contains(fit, to)) {
		return &cliError{code: exitFailure, what: fmt.Sprintf("%s cannot take %s over from broker %d", orAny(to), name, leader), mend: "'broker raft describe " + name + "' shows how its replicas are"}
	}
	type result struct {
		client.LeaderMoved `yaml:",inline"`
		DryRun             bool    `json:"dryRun" yaml:"dryRun"`
		Fit                []int32 `json:"fit" yaml:"fit"` // who could
	}
	return a.print(cmd, result{client.LeaderMoved{Topic: g.Topic, Partition: g.Partition, From: leader, Leader: to}, true, fit}, func(w io.Writer) {
		switch {
		case to == leader:
			fmt.Fprintf(w, "%s: broker %d leads already\n", name, leader)
		case to == 0:
			fmt.Fprintf(w, "%s: one of brokers %s would lead instead of broker %d\n", name, joinIDs(fit), leader)
		default:
			fmt.Fprintf(w, "%s: broker %d would lead instead of broker %d\n", name, to, leader)
		}
	})
}

func orAny(id int32) string {
	if id == 0 {
		return "no other broker"
	}
	return fmt.Sprintf("broker %d", id)
}

func newPartitionElect(a *app) *cobra.Command {
	var dry bool
	cmd := &cobra.Command{
		Use:   "elect-preferred [TOPIC[/PARTITION]]",
		Short: "Make the preferred replicas lead",
		Long: `Make the preferred replica of a partition, or of each of a topic, lead: the first one of its assignment whose broker may lead. Without
TOPIC, of all partitions of the cluster. It is what the brokers do by themselves some time after a broker came back. The exit code
is 1 if some partition's preferred replica could not be made to lead.`,
		Args: atMostOne,
		RunE: func(cmd *cobra.Command, args []string) error {
			topic, partition := "", int32(-1)
			elect := func(ctx context.Context, adm *client.Admin) ([]client.Election, error) {
				return adm.ElectPreferredLeaders(ctx)
			}
			if len(args) > 0 {
				var err error
				if topic, partition, err = topicOrPartitionArg(args[0]); err != nil {
					return err
				}
				elect = func(ctx context.Context, adm *client.Admin) ([]client.Election, error) {
					return adm.ElectPreferredLeader(ctx, topic, partition)
				}
			}
			return withAdmin(cmd, func(ctx context.Context, adm *client.Admin) error {
				if dry {
					return a.planElection(ctx, cmd, adm, topic, partition)
				}
				elected, err := elect(ctx, adm)
				if err != nil {
					return err
				}
				failed := 0
				for _, e := range elected {
					if e.Error != "" {
						failed++
					}
				}
				err = a.print(cmd, elected, func(w io.Writer) {
					if len(elected) == failed {
						fmt.Fprintln(w, "no leadership moved")
					} else {
						n := len(elected) - failed
						fmt.Fprintf(w, "%s led by %s preferred %s again\n", counted(n, "partition", "is", "are"), one(n, "its", "their"), one(n, "replica", "replicas"))
					}
					if failed > 0 {
						fmt.Fprintln(w, "\nPARTITION\tERROR")
						for _, e := range elected {
							if e.Error != "" {
								fmt.Fprintf(w, "%s\t%s\n", partitionName(e.Topic, e.Partition), e.Error)
							}
						}
					}
				})
				if err == nil && failed > 0 {
					return &cliError{code: exitFailure, what: fmt.Sprintf("%s could not be given to %s preferred %s", counted(failed, "partition"), one(failed, "its", "their"), one(failed, "replica", "replicas")),
						mend: "'broker cluster status' shows which brokers are missing; leaders follow by themselves once they are back"}
				}
				return err
			})
		},
	}
	dryRunFlag(cmd, &dry)
	return cmd
}

// plannedElection is a partition that its preferred replica does not lead.
type plannedElection struct {
	Topic     string `json:"topic" yaml:"topic"`
	Partition int32  `json:"partition" yaml:"partition"`
	Leader    int32  `json:"leader" yaml:"leader"` // -1: none
	Preferred int32  `json:"preferred" yaml:"preferred"`
	InSync    bool   `json:"inSync" yaml:"inSync"` // the preferred replica; it could not lead otherwise
}

// planElection shows which partitions would be led by others.
func (a *app) planElection(ctx context.Context, cmd *cobra.Command, adm *client.Admin, topic string, partition int32) error {
	if topic != "" {
		if err := adm.PartitionExists(ctx, topic, partition); err != nil {
			return err
		}
	}
	all, err := adm.ListTopics(ctx, true)
	if err != nil {
		return err
	}
	plan, behind := []plannedElection{}, 0
	for _, t := range all {
		for _, p := range t.Partitions {
			if topic != "" && t.Name != topic || partition >= 0 && p.Partition != partition || len(p.Replicas) == 0 || p.Leader == p.Replicas[0] {
				continue
			}
			e := plannedElection{t.Name, p.Partition, p.Leader, p.Replicas[0], slices.Contains(p.InSync, p.Replicas[0])}
			if plan = append(plan, e); !e.InSync {
				behind++
			}
		}
	}
	if err := a.print(cmd, plan, func(w io.Writer) {
		fmt.Fprintln(w, "PARTITION\tLEADER\tPREFERRED\tIN SYNC")
		for _, e := range plan {
			fmt.Fprintf(w, "%s\t%s\t%d\t%s\n", partitionName(e.Topic, e.Partition), known(int64(e.Leader)), e.Preferred, yesOrDash(e.InSync))
		}
		fmt.Fprintf(w, "\n%s would be led by another broker\n", counted(len(plan)-behind, "partition"))
	}); err != nil {
		return err
	}
	if behind > 0 {
		return &cliError{code: exitFailure, what: fmt.Sprintf("%s could not be given to %s preferred %s", counted(behind, "partition"), one(behind, "its", "their"), one(behind, "replica", "replicas")),
			mend: "'broker cluster status' shows which brokers are missing; leaders follow by themselves once they are back"}
	}
	return nil
}

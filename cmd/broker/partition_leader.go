// broker partition transfer-leader, and broker partition elect-preferred.

package main

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/balsamq/balsa/client"
)

func newPartitionTransfer(a *app) *cobra.Command {
	var to int32
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
	adminFlag(cmd)
	return cmd
}

func newPartitionElect(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "elect-preferred [TOPIC[/PARTITION]]",
		Short: "Make the preferred replicas lead",
		Long: `Make the preferred replica of a partition, or of each of a topic, lead: the first one of its assignment whose broker may lead. Without
TOPIC, of all partitions of the cluster. It is what the brokers do by themselves some time after a broker came back. The exit code
is 1 if some partition's preferred replica could not be made to lead.`,
		Args: atMostOne,
		RunE: func(cmd *cobra.Command, args []string) error {
			elect := func(ctx context.Context, adm *client.Admin) ([]client.Election, error) {
				return adm.ElectPreferredLeaders(ctx)
			}
			if len(args) > 0 {
				topic, partition, err := topicOrPartitionArg(args[0])
				if err != nil {
					return err
				}
				elect = func(ctx context.Context, adm *client.Admin) ([]client.Election, error) {
					return adm.ElectPreferredLeader(ctx, topic, partition)
				}
			}
			return withAdmin(cmd, func(ctx context.Context, adm *client.Admin) error {
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
}

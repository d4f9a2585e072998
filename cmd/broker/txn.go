// broker txn: the transactions of producers.

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/balsamq/balsa/client"
)

func newTxnCommand(a *app) *cobra.Command {
	return group("txn", "Look at transactions, and end one that hangs", newTxnList(a), newTxnDescribe(a), newTxnAbort(a))
}

func newTxnList(a *app) *cobra.Command {
	var f client.TransactionFilter
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List transactional ids",
		Long: `List the transactional ids that the cluster knows, with the state of their last transaction: Empty (there was none), Ongoing, PrepareCommit and
PrepareAbort (decided, and some partitions are still to be told), CompleteCommit, CompleteAbort. An id is forgotten when it has had no transaction
for a week.`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if f.OlderThan < 0 {
				return usageError("write --older-than 15m", "--older-than %v is negative", f.OlderThan)
			}
			return withAdmin(cmd, func(ctx context.Context, adm *client.Admin) error {
				list, err := adm.Transactions(ctx, f)
				if err != nil {
					return err
				}
				return a.print(cmd, list, func(w io.Writer) {
					if len(list) == 0 {
						fmt.Fprintln(w, "no transactional ids")
						return
					}
					fmt.Fprintln(w, "TRANSACTIONAL ID\tSTATE\tPRODUCER\tCOORDINATOR")
					for _, t := range list {
						fmt.Fprintf(w, "%s\t%s\t%d\t%d\n", t.TransactionalID, t.State, t.ProducerID, t.Coordinator)
					}
				})
			})
		},
	}
	cmd.Flags().StringSliceVar(&f.States, "state", nil, "only those in one of these `STATES`, as in Ongoing,PrepareCommit")
	cmd.Flags().DurationVar(&f.OlderThan, "older-than", 0, "only transactions that have been open for longer than this `DURATION`")
	cmd.Flags().StringVar(&f.Pattern, "match", "", "only ids that match this regular `EXPRESSION` as a whole")
	return cmd
}

func newTxnDescribe(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "describe ID",
		Short: "Show a transactional id's producer and transaction",
		Long:  `Show a transactional id's producer and transaction. Of one that is ending, the partitions are those that have not been told of the outcome yet.`,
		Args:  exactly("ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return withAdmin(cmd, func(ctx context.Context, adm *client.Admin) error {
				t, err := adm.DescribeTransaction(ctx, args[0])
				if err != nil {
					return txnError(err, args[0])
				}
				return a.print(cmd, t, func(w io.Writer) {
					fmt.Fprintf(w, "transactional id\t%s\nstate\t%s\nproducer\t%d, epoch %d\ncoordinator\tbroker %d\ntimeout\t%v\n",
						t.TransactionalID, t.State, t.ProducerID, t.ProducerEpoch, t.Coordinator, time.Duration(t.TimeoutMS)*time.Millisecond)
					if !t.Started.IsZero() {
						fmt.Fprintf(w, "open since\t%s (%v)\n", t.Started.Format(time.RFC3339), time.Since(t.Started).Round(time.Second))
					}
					if len(t.Partitions) > 0 {
						names := make([]string, len(t.Partitions))
						for i, p := range t.Partitions {
							names[i] = partitionName(p.Topic, p.Partition)
						}
						fmt.Fprintf(w, "partitions\t%s\n", strings.Join(names, ", "))
					}
				})
			})
		},
	}
}

// txnAborted is what `broker txn abort` prints.
type txnAborted struct {
	TransactionalID string `json:"transactionalId" yaml:"transactionalId"`
	State           string `json:"state" yaml:"state"`                       // before
	Aborted         bool   `json:"aborted" yaml:"aborted"`                   // or would be
	DryRun          bool   `json:"dryRun,omitempty" yaml:"dryRun,omitempty"` // nothing was done
}

func newTxnAbort(a *app) *cobra.Command {
	var dry bool
	cmd := &cobra.Command{
		Use:   "abort ID",
		Short: "Abort the open transaction of a transactional id, and fence its producer",
		Long: `Abort the open transaction of a transactional id, as a new instance of its producer would. Readers of committed records stand still at the oldest
open transaction of a partition; one whose producer is gone ends by itself at its timeout, and this command ends it now. If the producer is
alive after all, it is fenced: its next call fails, and it must be started anew.

Returns when every partition of the transaction has been told. An id without an open transaction is left as it is.`,
		Args: exactly("ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return withAdmin(cmd, func(ctx context.Context, adm *client.Admin) error {
				end := adm.AbortTransaction
				if dry {
					end = adm.DescribeTransaction
				}
				t, err := end(ctx, args[0])
				if err != nil {
					return txnError(err, args[0])
				}
				r := txnAborted{TransactionalID: t.TransactionalID, State: t.State, Aborted: t.Open(), DryRun: dry}
				return a.print(cmd, r, func(w io.Writer) {
					switch {
					case r.Aborted && dry:
						fmt.Fprintf(w, "the transaction of %s in %s would be aborted, and its producer fenced\n", r.TransactionalID, counted(len(t.Partitions), "partition"))
					case r.Aborted:
						fmt.Fprintf(w, "aborted the transaction of %s in %s\n", r.TransactionalID, counted(len(t.Partitions), "partition"))
					default:
						fmt.Fprintf(w, "%s has no open transaction: its state is %s\n", r.TransactionalID, r.State)
					}
				})
			})
		},
	}
	dryRunFlag(cmd, &dry)
	return cmd
}

// txnError words what commands about one transactional id may fail of.
func txnError(err error, id string) error {
	if errors.Is(err, client.ErrNotFound) {
		return &cliError{code: exitNotFound, what: fmt.Sprintf("there is no transactional id %s", id), mend: "'broker txn list' shows those that there are", err: err}
	}
	return err
}

// broker bench check: is a run slower, beside its peers, than one that was kept?

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/balsamq/balsa/bench"
)

func newBenchCheckCommand(a *app) *cobra.Command {
	var against, keep string
	cmd := &cobra.Command{
		Use:   "check RESULTS.json",
		Short: "Check a run's ratios to its peers against those of an earlier one",
		Long: `Check the ratios to peers of a run ('broker bench run --json') against those that --keep wrote of an earlier one: throughput, and
the median latency where one record is in flight. Each ratio compares two systems in one round; the median of the rounds must
reach half of what was kept, else the exit code is 1.`,
		Example: `  broker bench check run.json --keep ratios.json
  broker bench check run.json --against ratios.json`,
		Args: exactly("RESULTS.json"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if (against == "") == (keep == "") {
				return usageError("give --against a file to check against it, or --keep one to write it", "either --against or --keep is needed")
			}
			runs, err := readRuns(args)
			if err != nil {
				return err
			}
			if keep != "" {
				return a.benchKeep(cmd, runs[0], keep)
			}
			kept, err := bench.ReadKept(against)
			if err != nil {
				return unreadable(against, err, "name a file that 'broker bench check --keep' wrote")
			}
			var lines []string
			failed := kept.Check(runs[0], func(l string) { lines = append(lines, l) })
			if err := a.print(cmd, runs[0].Ratios(), func(w io.Writer) {
				for _, l := range lines {
					fmt.Fprintln(w, l)
				}
			}); err != nil {
				return err
			}
			if errors.Is(failed, bench.ErrSlower) {
				return &cliError{code: exitFailure, what: failed.Error(), err: failed, mend: "if it shall be so, record anew what is expected with --keep, and say why"}
			}
			return failed
		},
	}
	cmd.Flags().StringVar(&against, "against", "", "what --keep wrote to `FILE`")
	cmd.Flags().StringVar(&keep, "keep", "", "write the run's ratios to `FILE`, for later checks")
	return cmd
}

func (a *app) benchKeep(cmd *cobra.Command, r *bench.Report, file string) error {
	k := r.Keep()
	if len(k.Ratios) == 0 {
		return usageError("run with --peer", "the run has no ratios to keep")
	}
	text, err := json.MarshalIndent(k, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(file, append(text, '\n'), 0o644); err != nil {
		return err
	}
	return a.print(cmd, k, func(w io.Writer) {
		for _, x := range k.Ratios {
			fmt.Fprintln(w, x)
		}
	})
}

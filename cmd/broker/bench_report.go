// broker bench report: a page and tables of what runs measured.

package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/balsamq/balsa/bench"
	"github.com/balsamq/balsa/bench/page"
)

func newBenchReportCommand(a *app) *cobra.Command {
	var to, limits string
	var join bool
	cmd := &cobra.Command{
		Use:   "report RESULTS.json...",
		Short: "Make a page of what 'bench run' measured",
		Long: `Make report.html and report.md of results of 'broker bench run --json': goals, tables, plots, how to run it again. The page
needs nothing else, neither network nor scripts. With --limits, what 'broker bench limits --json' wrote on the same machine, it
says how near to the best possible each figure is. Figures of different runs are never compared; --join takes runs of one build on one
machine for the takes of one suite, which 'broker bench suite' does with its own: goals and plots of all of them together, ratios within
each, and README.md with the goals.`,
		Example: `  broker bench run T1 L1 --peer jetstream --json run.json
  broker bench limits --json limits.json
  broker bench report run.json --limits limits.json --to report
  broker bench report docs/benchmarks/runs/*.json --limits docs/benchmarks/limits.json --join --to docs/benchmarks`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usageError(fmt.Sprintf("write '%s'", cmd.UseLine()), "RESULTS.json is missing")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			reports, err := readRuns(args)
			if err != nil {
				return err
			}
			names := make([]string, len(args))
			for i, file := range args {
				names[i] = filepath.Base(file)
			}
			if join {
				one, err := bench.Join(names, reports)
				if err != nil {
					return &cliError{code: exitUsage, what: err.Error(), mend: "leave out --join, or those that are not of one suite", err: err}
				}
				names, reports = []string{""}, []*bench.Report{one}
			}
			return a.benchPages(cmd, names, reports, to, limits)
		},
	}
	f := cmd.Flags()
	f.StringVar(&to, "to", ".", "write report.html and report.md to `DIR`, which is made if it is not there")
	f.StringVar(&limits, "limits", "", "set figures beside the limits that --json of 'bench limits' wrote to `FILE`")
	f.BoolVar(&join, "join", false, "the runs are takes of one suite")
	return cmd
}

// benchPages writes the pages of some runs, and an index if they are one suite.
func (a *app) benchPages(cmd *cobra.Command, names []string, reports []*bench.Report, to, limits string) (err error) {
	runs := make([]page.Run, len(reports))
	for i, r := range reports {
		runs[i] = page.Run{Name: names[i], Report: r}
		if limits != "" {
			if runs[i].Limits, err = readLimits(limits); err != nil {
				return err
			}
		}
	}
	if err := os.MkdirAll(to, 0o755); err != nil {
		return err
	}
	type file struct {
		name  string
		write func(io.Writer, []page.Run) error
	}
	files := []file{{"report.html", page.Write}, {"report.md", page.WriteMarkdown}}
	if len(reports) == 1 && len(reports[0].Parts) > 0 {
		files = append(files, file{"README.md", func(w io.Writer, runs []page.Run) error { return page.WriteIndex(w, runs[0]) }})
	}
	var written []string
	for _, f := range files {
		var b bytes.Buffer
		path := filepath.Join(to, f.name)
		if err := errors.Join(f.write(&b, runs), os.WriteFile(path, b.Bytes(), 0o644)); err != nil {
			return err
		}
		written = append(written, path)
	}
	return a.print(cmd, map[string][]string{"written": written}, func(w io.Writer) {
		for _, path := range written {
			fmt.Fprintln(w, path)
		}
	})
}

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

	"github.com/balsamq/balsa/bench/page"
)

func newBenchReportCommand(a *app) *cobra.Command {
	var to, limits string
	cmd := &cobra.Command{
		Use:   "report RESULTS.json...",
		Short: "Make a page of what 'bench run' measured",
		Long: `Make report.html and report.md of results of 'broker bench run --json': goals, tables, plots, how to run it again. The page
needs nothing else, neither network nor scripts. With --limits, what 'broker bench limits --json' wrote on the same machine, it
says how near to the best possible each figure is. Figures of different runs are never compared.`,
		Example: `  broker bench run T1 L1 --peer jetstream --json run.json
  broker bench limits --json limits.json
  broker bench report run.json --limits limits.json --to report`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usageError(fmt.Sprintf("write '%s'", cmd.UseLine()), "RESULTS.json is missing")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error { return a.benchReport(cmd, args, to, limits) },
	}
	f := cmd.Flags()
	f.StringVar(&to, "to", ".", "write report.html and report.md to `DIR`, which is made if it is not there")
	f.StringVar(&limits, "limits", "", "set figures beside the limits that --json of 'bench limits' wrote to `FILE`")
	return cmd
}

func (a *app) benchReport(cmd *cobra.Command, files []string, to, limits string) error {
	reports, err := readRuns(files)
	if err != nil {
		return err
	}
	runs := make([]page.Run, len(reports))
	for i, r := range reports {
		runs[i] = page.Run{Name: filepath.Base(files[i]), Report: r}
		if limits != "" {
			if runs[i].Limits, err = readLimits(limits); err != nil {
				return err
			}
		}
	}
	if err := os.MkdirAll(to, 0o755); err != nil {
		return err
	}
	var written []string
	for _, f := range []struct {
		name  string
		write func(io.Writer, []page.Run) error
	}{{"report.html", page.Write}, {"report.md", page.WriteMarkdown}} {
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

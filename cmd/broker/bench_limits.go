// broker bench limits: what this machine gives, the best possible figures on it, and how near a run came.

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/balsamq/balsa/bench"
	"github.com/balsamq/balsa/bench/limit"
)

type limitOptions struct {
	rounds  int
	measure time.Duration
	dir     string
	from    string
	json    string
}

func newBenchLimitsCommand(a *app) *cobra.Command {
	o := &limitOptions{}
	cmd := &cobra.Command{
		Use:   "limits [RESULTS.json...]",
		Short: "Measure what the machine gives, and how near to it a run came",
		Long: `Measure syncs, appends, reads, the loopback, checksums, copies and the load generator on this machine, and print the best figure
that each scenario could have on it, and what each byte pays for at the least. Results of 'broker bench run --json' are set beside them: how much of what is possible was reached.

It takes two minutes, and at most 512 MiB below --dir, which is removed again. The machine should have nothing else to do.`,
		Example: `  broker bench limits --json limits.json
  broker bench limits t1.json l1.json --from limits.json`,
		RunE: func(cmd *cobra.Command, args []string) error { return a.benchLimits(cmd, args, o) },
	}
	f := cmd.Flags()
	f.IntVar(&o.rounds, "rounds", 5, "rounds; medians are printed and used")
	f.DurationVar(&o.measure, "measure", 300*time.Millisecond, "length of each measurement in a round")
	f.StringVar(&o.dir, "dir", "", "measure the disk below `DIR`; default: the system's temporary directory")
	f.StringVar(&o.from, "from", "", "measure nothing, but take what --json wrote to `FILE`")
	f.StringVar(&o.json, "json", "", "write what was measured to `FILE` too")
	return cmd
}

func (a *app) benchLimits(cmd *cobra.Command, args []string, o *limitOptions) error {
	if o.rounds <= 0 || o.measure <= 0 {
		return usageError("give positive numbers and times", "%d rounds of %v", o.rounds, o.measure)
	}
	runs, err := readRuns(args)
	if err != nil {
		return err
	}
	var m *limit.Machine
	if o.from != "" {
		m, err = readLimits(o.from)
	} else {
		log := func(format string, args ...any) { fmt.Fprintf(a.err, format+"\n", args...) }
		m, err = limit.Measure(cmd.Context(), limit.Options{Rounds: o.rounds, Each: o.measure, Dir: o.dir, Log: log})
	}
	if err != nil {
		return err
	}
	if o.json != "" {
		text, err := json.MarshalIndent(m, "", "  ")
		if err != nil {
			return err
		}
		if err := os.WriteFile(o.json, append(text, '\n'), 0o644); err != nil {
			return err
		}
	}
	type printed struct {
		Limits *limit.Machine `json:"limits"`
		Near   []limit.Near   `json:"near,omitempty"`
	}
	p := printed{Limits: m}
	for _, r := range runs {
		p.Near = append(p.Near, m.Compare(r)...)
	}
	var tableErr error
	err = a.print(cmd, p, func(w io.Writer) {
		tableErr = m.WriteMachine(w)
		fmt.Fprintln(w)
		tableErr = errors.Join(tableErr, m.WriteModel(w))
		fmt.Fprintln(w)
		tableErr = errors.Join(tableErr, m.WritePrices(w))
		if len(runs) > 0 {
			fmt.Fprintln(w)
			tableErr = errors.Join(tableErr, limit.WriteNear(w, p.Near))
		}
	})
	return errors.Join(err, tableErr)
}

// readRuns reads what `bench run --json` wrote.
func readRuns(files []string) (runs []*bench.Report, err error) {
	for _, file := range files {
		r, err := bench.ReadReport(file)
		if err != nil {
			return nil, unreadable(file, err, "name a file that 'broker bench run --json' wrote")
		}
		runs = append(runs, r)
	}
	return runs, nil
}

// readLimits reads what `bench limits --json` wrote.
func readLimits(file string) (*limit.Machine, error) {
	m, err := limit.Read(file)
	if err != nil {
		return nil, unreadable(file, err, "name a file that 'broker bench limits --json' wrote")
	}
	return m, nil
}

func unreadable(file string, err error, mend string) error {
	code := exitUsage
	if errors.Is(err, fs.ErrNotExist) {
		code = exitNotFound
	}
	return &cliError{code: code, what: err.Error(), where: file, mend: mend, err: err}
}

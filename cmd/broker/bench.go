// broker bench: measures Balsa beside its peers on this machine.

package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/balsamq/balsa/bench"
)

type benchOptions struct {
	peers   []string
	rounds  int
	warmup  time.Duration
	measure time.Duration
	verify  bool
	dir     string
	json    string
	class   string
	parts   int
}

// scenarios by name.
var scenarios = map[string]func() []bench.Cell{"T1": bench.T1, "L1": bench.L1}

func newBenchCommand(a *app) *cobra.Command {
	o := &benchOptions{}
	run := &cobra.Command{
		Use:   "run SCENARIO...",
		Short: "Run scenarios against Balsa and peers, in turns",
		Long: `Run scenarios against Balsa and its peers, in turns on this machine, each system started afresh in processes of its own
for every round. Only ratios within one run mean anything.

Scenarios:
  T1  throughput: 1 KiB records; 1 and 16 partitions, 1 and 8 producers, durability classes A and B
  L1  latency of one synchronous producer

Class A acknowledges from the page cache of a quorum, class B once a quorum has synced to disk. Peers: jetstream (three
nats-servers, built with 'go install', one replicated stream for each partition).`,
		Example: `  broker bench run T1 --peer jetstream --verify
  broker bench run L1 --rounds 3 --measure 5s --json l1.json`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usageError(fmt.Sprintf("write '%s'", cmd.UseLine()), "SCENARIO is missing")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error { return a.benchRun(cmd, args, o) },
	}
	f := run.Flags()
	f.StringSliceVar(&o.peers, "peer", nil, "measure `NAME,...` too: jetstream")
	f.IntVar(&o.rounds, "rounds", 5, "rounds of each cell; medians are printed")
	f.DurationVar(&o.warmup, "warmup", 2*time.Second, "before each measurement")
	f.DurationVar(&o.measure, "measure", 8*time.Second, "length of each measurement")
	f.BoolVar(&o.verify, "verify", false, "read everything back: every acknowledged record once, in order")
	f.StringVar(&o.dir, "dir", "", "put all data below `DIR`; default: the system's temporary directory")
	f.StringVar(&o.json, "json", "", "write the report to `FILE` too")
	f.StringVar(&o.class, "class", "", "only this durability class: A or B")
	f.IntVar(&o.parts, "partitions", 0, "only cells with so many partitions")
	return group("bench", "Measure Balsa beside its peers", run)
}

func (a *app) benchRun(cmd *cobra.Command, names []string, o *benchOptions) error {
	var cells []bench.Cell
	for _, name := range names {
		make, ok := scenarios[strings.ToUpper(name)]
		if !ok {
			return usageError("there are T1 and L1", "unknown scenario %q", name)
		}
		for _, c := range make() {
			if (o.class == "" || strings.EqualFold(o.class, string(c.Class))) && (o.parts == 0 || o.parts == c.Partitions) {
				cells = append(cells, c)
			}
		}
	}
	if len(cells) == 0 {
		return usageError("leave out --class or --partitions", "no cell of %s is of class %q with %d partitions", strings.Join(names, " "), o.class, o.parts)
	}
	if o.rounds < 1 || o.measure <= 0 || o.warmup < 0 {
		return usageError("give --rounds of at least 1, and positive times", "%d rounds of %v after %v", o.rounds, o.measure, o.warmup)
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	server := ""
	for _, p := range o.peers {
		if p != "jetstream" {
			return usageError("there is jetstream", "unknown peer %q", p)
		}
		cache, err := os.UserCacheDir()
		if err != nil {
			cache = os.TempDir()
		}
		if server, err = bench.BuildNATSServer(cmd.Context(), filepath.Join(cache, "balsa-bench")); err != nil {
			return err
		}
	}
	systems := func(c bench.Cell) []bench.System {
		all := []bench.System{&bench.Balsa{Binary: self}}
		if server == "" {
			return all
		}
		modes := []string{bench.JetStreamAsync, bench.JetStreamFast}
		if c.InflightBytes <= c.RecordBytes {
			modes = []string{bench.JetStreamSync}
		}
		for _, m := range modes {
			all = append(all, &bench.JetStream{Server: server, ClientMode: m})
		}
		return all
	}
	report := bench.NewReport(o.peers)
	opts := bench.Options{Rounds: o.rounds, Warmup: o.warmup, Measure: o.measure, Verify: o.verify, Dir: o.dir,
		Log: func(format string, args ...any) { fmt.Fprintf(a.err, format+"\n", args...) }}
	err = bench.Run(cmd.Context(), opts, cells, systems, func(r bench.Result) {
		report.Results = append(report.Results, r)
		if r.Skipped == "" {
			fmt.Fprintf(a.err, "  %.0f records/s, p50 %.2f ms, p99 %.2f ms\n", r.RecordsSec, r.P50, r.P99)
		}
	})
	if err != nil {
		return err
	}
	if o.json != "" {
		f, err := os.Create(o.json)
		if err != nil {
			return err
		}
		if err := report.WriteJSON(f); err != nil {
			_ = f.Close() // the write's error is the one to report
			return err
		}
		if err := f.Close(); err != nil {
			return err
		}
	}
	var tableErr error
	if err := a.print(cmd, report, func(w io.Writer) { tableErr = report.WriteTable(w) }); err != nil {
		return err
	}
	return tableErr
}

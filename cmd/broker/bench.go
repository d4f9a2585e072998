// broker bench: measures Balsa beside its peers on this machine.

package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
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
	parts   []int
	peerMax int
	limit   time.Duration
}

// manyScenario loads nothing, and so has no cells.
const manyScenario = "M2"

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
  M2  partitions that nobody uses, 0, 1,000 and 10,000: CPU and memory at rest, time to start, time until all are led again
      after kill -9 of a broker

Class A acknowledges from the page cache of a quorum, class B once a quorum has synced to disk. Peers: jetstream (three
nats-servers, built with 'go install', one replicated stream for each partition).`,
		Example: `  broker bench run T1 --peer jetstream --verify
  broker bench run L1 --rounds 3 --measure 5s --json l1.json
  broker bench run M2 --partitions 0,1000 --peer jetstream`,
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
	f.IntVar(&o.rounds, "rounds", 0, "rounds of each cell; medians are printed; 0: 5, and 1 of M2")
	f.DurationVar(&o.warmup, "warmup", 2*time.Second, "before each measurement; M2 waits for rest instead")
	f.DurationVar(&o.measure, "measure", 0, "length of each measurement; 0: 8s, and 20s of M2")
	f.BoolVar(&o.verify, "verify", false, "read everything back: every acknowledged record once, in order")
	f.StringVar(&o.dir, "dir", "", "put all data below `DIR`; default: the system's temporary directory")
	f.StringVar(&o.json, "json", "", "write the report to `FILE` too")
	f.StringVar(&o.class, "class", "", "only this durability class: A or B")
	f.IntSliceVar(&o.parts, "partitions", nil, "only cells with `N,...` partitions; M2: with any such numbers")
	f.IntVar(&o.peerMax, "peer-partitions", 0, "M2: the most partitions of a peer; 0: as many as ours")
	f.DurationVar(&o.limit, "limit", 10*time.Minute, "M2: how long one step may take; what a system cannot do in it is said")
	return group("bench", "Measure Balsa beside its peers", run, newBenchLimitsCommand(a))
}

func (a *app) benchRun(cmd *cobra.Command, names []string, o *benchOptions) error {
	var cells []bench.Cell
	many := false
	for _, name := range names {
		name = strings.ToUpper(name)
		if name == manyScenario {
			many = true
			continue
		}
		make, ok := scenarios[name]
		if !ok {
			return usageError("there are T1, L1 and M2", "unknown scenario %q", name)
		}
		for _, c := range make() {
			if (o.class == "" || strings.EqualFold(o.class, string(c.Class))) && (len(o.parts) == 0 || slices.Contains(o.parts, c.Partitions)) {
				cells = append(cells, c)
			}
		}
	}
	if len(cells) == 0 && !many {
		return usageError("leave out --class or --partitions", "no cell of %s is of class %q with %v partitions", strings.Join(names, " "), o.class, o.parts)
	}
	if o.rounds < 0 || o.measure < 0 || o.warmup < 0 || o.limit <= 0 || o.peerMax < 0 || slices.ContainsFunc(o.parts, func(n int) bool { return n < 0 }) {
		return usageError("give positive numbers and times", "%d rounds of %v after %v, %v partitions, at most %d of a peer, %v for a step", o.rounds, o.measure, o.warmup, o.parts, o.peerMax, o.limit)
	}
	if many && strings.EqualFold(o.class, string(bench.ClassA)) {
		return usageError("leave out --class", "M2 is of class B")
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
	report := bench.NewReport(o.dir, os.Args[1:])
	log := func(format string, args ...any) { fmt.Fprintf(a.err, format+"\n", args...) }
	if len(cells) > 0 {
		opts := bench.Options{Rounds: o.rounds, Warmup: o.warmup, Measure: o.measure, Verify: o.verify, Dir: o.dir, Log: log}
		if err := bench.Run(cmd.Context(), opts, cells, systems, func(r bench.Result) {
			report.Results = append(report.Results, r)
			if r.Skipped == "" {
				log("  %.0f records/s, p50 %.2f ms, p99 %.2f ms", r.RecordsSec, r.Latency.P50, r.Latency.P99)
			}
		}); err != nil {
			return err
		}
	}
	if many {
		opts := bench.ManyOptions{Partitions: o.parts, PeerMax: o.peerMax, Rounds: o.rounds, Measure: o.measure, Limit: o.limit, Dir: o.dir, Log: log}
		herds := func() []bench.Herd {
			all := []bench.Herd{&bench.BalsaHerd{Binary: self}}
			if server != "" {
				all = append(all, &bench.JetStreamHerd{Server: server})
			}
			return all
		}
		if err := bench.RunMany(cmd.Context(), opts, herds, func(m bench.Many) { report.Many = append(report.Many, m) }); err != nil {
			return err
		}
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
	if tableErr != nil {
		return tableErr
	}
	for i := range report.Many {
		if m := &report.Many[i]; m.System == (&bench.BalsaHerd{}).Name() && m.Failed != "" {
			return &cliError{code: exitFailure, what: fmt.Sprintf("M2 with %d partitions: %s", m.Partitions, m.Failed), mend: "--limit allows each step more time"}
		}
	}
	return nil
}

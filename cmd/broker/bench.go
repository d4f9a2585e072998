// broker bench: measures Balsa beside its peers on this machine.

package main

import (
	"context"
	"errors"
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
	peers       []string
	rounds      int
	warmup      time.Duration
	measure     time.Duration
	verify      bool
	dir         string
	json        string
	class       string
	parts       []int
	producers   []int
	consumers   []int
	replicas    []int
	record      []int
	rate        int
	backlog     float64
	together    bool
	batch       int64
	linger      time.Duration
	inflight    int64
	modes       []string
	over        []string
	kafkaWarmup time.Duration
	peerMax     int
	limit       time.Duration
	args        []string
}

func newBenchCommand(a *app) *cobra.Command {
	o := &benchOptions{}
	run := &cobra.Command{
		Use:   "run SCENARIO...",
		Short: "Run scenarios against Balsa and peers, in turns",
		Long: `Run scenarios against Balsa and its peers, in turns on this machine, each system started afresh in processes of its own
for every round. Only ratios within one run mean anything.

Scenarios:
` + scenarioHelp() + `
Class A acknowledges from the page cache of a quorum, class B once a quorum has synced to disk. Latency counts from when a
record was due. L2, F1, F2 and C1 send at a fixed rate: --rate, or half of what the slowest system can do, which is found first.

Peers bring themselves up:
  jetstream  three nats-servers, built with 'go install'; one replicated stream for each partition
  kafka      three Apache Kafka processes (KRaft), fetched with 'mvn'; needs Java 17 or later

What --peer, --partitions and so on name replaces the scenario's own. All data of a turn is removed when it ends, and its
processes are stopped, also after an error or an interrupt; what was measured until then is still written.`,
		Example: `  broker bench run T1 --peer jetstream,kafka --json t1.json
  broker bench run T1 --class B --partitions 16 --producers 1,8 --replicas 1,3,5
  broker bench run L1 L2 --rounds 3 --measure 5s
  broker bench run C1 --backlog 2 --peer kafka
  broker bench run G1 --over record-bytes,replicas --peer jetstream
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
	f.StringSliceVar(&o.peers, "peer", nil, "measure `NAME,...` too: jetstream, kafka")
	f.IntVar(&o.rounds, "rounds", 0, "rounds of each cell; medians are printed; 0: 5, and 1 of M2")
	f.DurationVar(&o.warmup, "warmup", 2*time.Second, "before each measurement; M2 waits for rest instead")
	f.DurationVar(&o.measure, "measure", 0, "length of each measurement; 0: 8s, and 20s of M2")
	f.BoolVar(&o.verify, "verify", true, "read everything back: every acknowledged record once, in order")
	f.StringVar(&o.dir, "dir", "", "put all data below `DIR`; default: the system's temporary directory")
	f.StringVar(&o.json, "json", "", "write the report to `FILE` too, anew after each turn")
	f.StringVar(&o.class, "class", "", "only this durability class: A or B")
	f.IntSliceVar(&o.parts, "partitions", nil, "with `N,...` partitions")
	f.IntSliceVar(&o.producers, "producers", nil, "with `N,...` producers")
	f.IntSliceVar(&o.consumers, "consumers", nil, "with `N,...` consumers, where the scenario has any")
	f.IntSliceVar(&o.replicas, "replicas", nil, "with `N,...` replicas, on as many brokers, three at least")
	f.Var(&sizeListFlag{to: &o.record}, "record-bytes", "with records of `N,...` bytes")
	sizeVar(f, &o.inflight, "inflight-bytes", 0, "unacknowledged bytes of each producer; 0: as the scenario has it")
	sizeVar(f, &o.batch, "batch-bytes", 1<<20, "the most bytes of a batch, in clients that batch")
	f.DurationVar(&o.linger, "linger", 0, "how long a batch waits for more records, likewise")
	f.IntVar(&o.rate, "rate", 0, "L2, F1, F2, C1: records a second of all producers; 0: half of what the slowest system can do")
	f.Float64Var(&o.backlog, "backlog", 0, "F2, C1, R1: `GB` of records that are missed, read, or on the disks of all brokers together (R1); 0: as the scenario has it")
	f.BoolVar(&o.together, "together", false, "C1, F2, R1: one after the other on the same data, which is written and read back once; --backlog is what there is in the end, as for R1")
	f.StringSliceVar(&o.modes, "jetstream-modes", []string{bench.JetStreamAsync, bench.JetStreamFast, bench.JetStreamAtomic}, "client modes `NAME,...` of T1, T2 and M1; other scenarios have one that fits")
	f.DurationVar(&o.kafkaWarmup, "kafka-warmup", 20*time.Second, "warm Kafka up for so long at least: its JVM compiles what a load needs while it runs")
	f.StringSliceVar(&o.over, "over", nil, "G1: let only `NAME,...` grow: "+strings.Join(bench.Over(), ", "))
	f.IntVar(&o.peerMax, "peer-partitions", 0, "M2: the most partitions of a peer; 0: as many as ours")
	f.DurationVar(&o.limit, "limit", 10*time.Minute, "how long one step may take; what a system cannot do in it is said")
	f.StringArrayVar(&o.args, "broker-arg", nil, "give each of our brokers this flag, as in --broker-arg=--cache-bytes=16MiB; may be repeated")
	return group("bench", "Measure Balsa beside its peers", run, newBenchSuiteCommand(a), newBenchLimitsCommand(a), newBenchReportCommand(a), newBenchCheckCommand(a))
}

// scenarioHelp has a line for each.
func scenarioHelp() string {
	var b strings.Builder
	for _, s := range bench.Scenarios() {
		var classes []string
		for _, c := range s.Classes {
			classes = append(classes, string(c))
		}
		slices.Sort(classes)
		fmt.Fprintf(&b, "  %s  %s (class %s)\n", s.ID, s.What, strings.Join(classes, ", "))
	}
	return b.String()
}

// benchPlan is what the arguments ask for.
type benchPlan struct {
	cells []bench.Cell
	many  bool
}

func (o *benchOptions) plan(names []string) (p benchPlan, err error) {
	if o.rounds < 0 || o.measure < 0 || o.warmup < 0 || o.limit <= 0 || o.peerMax < 0 || o.rate < 0 || o.backlog < 0 || o.inflight < 0 || o.batch <= 0 || o.linger < 0 ||
		slices.ContainsFunc(o.parts, func(n int) bool { return n < 0 }) {
		return p, usageError("give positive numbers and times", "a number or a time is out of range")
	}
	for what, list := range map[string][]int{"--producers": o.producers, "--consumers": o.consumers, "--replicas": o.replicas, "--record-bytes": o.record} {
		if slices.ContainsFunc(list, func(n int) bool { return n <= 0 }) {
			return p, usageError("give positive numbers", "%s has %v", what, list)
		}
	}
	if o.class != "" && !strings.EqualFold(o.class, string(bench.ClassA)) && !strings.EqualFold(o.class, string(bench.ClassB)) {
		return p, usageError("there are A and B", "unknown class %q", o.class)
	}
	for _, name := range o.over {
		if !slices.Contains(bench.Over(), name) {
			return p, usageError("there are "+strings.Join(bench.Over(), ", "), "nothing called %q can grow", name)
		}
	}
	class := bench.Class(strings.ToUpper(o.class))
	for _, name := range names {
		s, ok := bench.Find(name)
		if !ok {
			var all []string
			for _, s := range bench.Scenarios() {
				all = append(all, s.ID)
			}
			return p, usageError("there are "+strings.Join(all, ", "), "unknown scenario %q", name)
		}
		if s.IsMany() {
			if class == bench.ClassA {
				return p, usageError("leave out --class", "%s is of class B", s.ID)
			}
			p.many = true
			continue
		}
		if class != "" {
			s.Classes = []bench.Class{class}
		}
		for list, given := range map[*[]int][]int{&s.Partitions: o.parts, &s.Producers: o.producers, &s.Replicas: o.replicas, &s.RecordBytes: o.record} {
			if len(given) > 0 {
				*list = given
			}
		}
		if slices.Contains(s.Partitions, 0) {
			return p, usageError("only M2 can have none", "%s loads partitions: 0 are too few", s.ID)
		}
		if len(s.Consumers) > 0 && len(o.consumers) > 0 {
			s.Consumers = o.consumers
		}
		if s.Backlog > 0 && o.backlog > 0 && (!o.together || s.ID == "R1") {
			s.Backlog = int64(o.backlog * 1e9)
			if s.ID == "R1" { // of all brokers together
				s.Backlog /= int64(s.Replicas[0])
			}
		}
		if s.Inflight > 0 && o.inflight > 0 {
			s.Inflight = int(o.inflight)
		}
		if s.Star && len(o.over) > 0 {
			s = s.Only(o.over)
		}
		p.cells = append(p.cells, s.Cells(o.rate)...)
	}
	if o.together {
		if !slices.ContainsFunc(p.cells, func(c bench.Cell) bool { return c.Scenario == "R1" }) {
			return p, usageError("name R1 and C1 or F2", "--together is for what can stand on R1's data")
		}
		p.cells = bench.Together(p.cells)
	}
	return p, nil
}

// peer is another system, brought here.
type benchPeer struct {
	peer    bench.Peer
	systems func(bench.Cell) []bench.System
	cluster func() bench.Cluster // for M2
}

// bringPeers fetches what is asked for.
func (o *benchOptions) bringPeers(ctx context.Context, client bench.Client, log func(string, ...any)) ([]benchPeer, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = os.TempDir()
	}
	cache = filepath.Join(cache, "balsa-bench")
	known := []string{bench.JetStreamAsync, bench.JetStreamFast, bench.JetStreamAtomic, bench.JetStreamSync}
	for _, m := range o.modes {
		if !slices.Contains(known, m) {
			return nil, usageError("there are "+strings.Join(known, ", "), "unknown client mode %q of JetStream", m)
		}
	}
	var peers []benchPeer
	for _, name := range o.peers {
		switch name {
		case "jetstream":
			server, err := bench.BuildNATSServer(ctx, cache)
			if err != nil {
				return nil, err
			}
			peers = append(peers, benchPeer{bench.JetStreamPeer(), func(c bench.Cell) (all []bench.System) {
				for _, m := range jetStreamModes(c, o.modes) {
					all = append(all, bench.NewJetStream(server, m))
				}
				return all
			}, func() bench.Cluster { return bench.NewJetStream(server, bench.JetStreamAsync) }})
		case "kafka":
			log("kafka: making sure that its jars are there")
			program, err := bench.FetchKafka(ctx, cache)
			if err != nil {
				return nil, err
			}
			peers = append(peers, benchPeer{program.Peer(), func(bench.Cell) []bench.System { return []bench.System{bench.NewKafka(program, client, o.kafkaWarmup)} },
				func() bench.Cluster { return bench.NewKafka(program, client, o.kafkaWarmup) }})
		default:
			return nil, usageError("there are jetstream and kafka", "unknown peer %q", name)
		}
	}
	return peers, nil
}

// jetStreamModes are the client modes that make sense for a cell: all of them at full speed, one where latency is what counts.
func jetStreamModes(c bench.Cell, modes []string) []string {
	s, _ := bench.Find(c.Scenario)
	switch {
	case s.Inflight == 0:
		return []string{bench.JetStreamSync}
	case s.Open, s.Backlog > 0:
		return []string{bench.JetStreamAsync}
	}
	return modes
}

func (a *app) benchRun(cmd *cobra.Command, names []string, o *benchOptions) (err error) {
	plan, err := o.plan(names)
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	progress := bench.NewProgress(a.err)
	defer progress.Close()
	client := bench.Client{BatchBytes: int(o.batch), Linger: o.linger}
	peers, err := o.bringPeers(cmd.Context(), client, progress.Log)
	if err != nil {
		return err
	}
	report := bench.NewReport(o.dir, os.Args[1:])
	for _, p := range peers {
		report.Peers = append(report.Peers, p.peer)
	}
	opts := bench.Options{Rounds: o.rounds, Warmup: o.warmup, Measure: o.measure, Verify: o.verify, Together: o.together, Dir: o.dir, Limit: o.limit, Log: progress.Log, Status: progress.Status}
	if opts.Warmup == 0 {
		opts.Warmup = -1 // none; 0 is the default there
	}
	report.Settings = opts.Settings(client)
	// save keeps what there is on the disk: a run takes long.
	save := func() error {
		if o.json == "" {
			return nil
		}
		return report.Save(o.json)
	}
	if err := save(); err != nil { // a file that cannot be written is better known now
		return err
	}
	run := a.benchCells(cmd.Context(), plan, opts, self, client, peers, o, report, save)
	report.Finished = time.Now().UTC().Truncate(time.Second)
	report.Complete = run == nil
	progress.Close()
	if err := save(); err != nil {
		return errors.Join(run, err)
	}
	if run != nil && len(report.Results)+len(report.Many) == 0 {
		return run
	}
	var tableErr error
	if err := a.print(cmd, report, func(w io.Writer) { tableErr = report.WriteTable(w) }); err != nil {
		return errors.Join(run, err)
	}
	if err := errors.Join(run, tableErr); err != nil {
		return err
	}
	return benchFailure(report)
}

// benchCells runs all that the plan asks for.
func (a *app) benchCells(ctx context.Context, plan benchPlan, opts bench.Options, self string, client bench.Client, peers []benchPeer, o *benchOptions, report *bench.Report, save func() error) error {
	systems := func(c bench.Cell) []bench.System {
		all := []bench.System{bench.NewBalsa(self, client, o.args...)}
		for _, p := range peers {
			all = append(all, p.systems(c)...)
		}
		return all
	}
	var saved error
	if len(plan.cells) > 0 {
		if err := bench.Run(ctx, opts, plan.cells, systems, func(r bench.Result) {
			report.Results = append(report.Results, r)
			if line := r.Line(); line != "" {
				opts.Log("  %s", line)
			}
			saved = errors.Join(saved, save())
		}); err != nil {
			return errors.Join(err, saved)
		}
	}
	if plan.many {
		many := bench.ManyOptions{Partitions: o.parts, PeerMax: o.peerMax, Rounds: o.rounds, Measure: o.measure, Limit: o.limit, Dir: o.dir, Log: opts.Log, Status: opts.Status}
		clusters := func() []bench.Cluster {
			all := []bench.Cluster{bench.NewBalsa(self, client, o.args...)}
			for _, p := range peers {
				all = append(all, p.cluster())
			}
			return all
		}
		if err := bench.RunMany(ctx, many, clusters, func(m bench.Many) {
			report.Many = append(report.Many, m)
			saved = errors.Join(saved, save())
		}); err != nil {
			return errors.Join(err, saved)
		}
	}
	return saved
}

// benchFailure is an error if our own brokers could not do what was asked of them; what a peer could not do is in the report.
func benchFailure(report *bench.Report) error {
	for i := range report.Results {
		if r := &report.Results[i]; r.System == bench.OurName && r.Failed != "" {
			return &cliError{code: exitFailure, what: fmt.Sprintf("%s, round %d: %s", r.Cell, r.Round, r.Failed), mend: "the brokers' logs end with the turn; --limit allows each step more time"}
		}
	}
	for i := range report.Many {
		if m := &report.Many[i]; m.System == bench.OurName && m.Failed != "" {
			return &cliError{code: exitFailure, what: fmt.Sprintf("M2 with %d partitions: %s", m.Partitions, m.Failed), mend: "--limit allows each step more time"}
		}
	}
	return nil
}

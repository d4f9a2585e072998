// broker start: one broker, until it is told to end.

package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"reflect"
	"regexp"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/balsamq/balsa/bridge"
	"github.com/balsamq/balsa/broker"
)

type startOptions struct {
	cfg       broker.Config
	logLevel  *choice
	logFormat *choice
	reads     *choice
	autoTopic bool
	balance   bool
	cleaner   bool
	direct    bool
	async     bool
	voters    int
	security  startSecurity
	bridges   bridge.Runner
	bridgeVia *choice // SASL
}

func newStartCommand(a *app) *cobra.Command {
	o := &startOptions{logLevel: newChoice("info", "debug", "info", "warn", "error"), logFormat: newChoice("text", "text", "json"),
		reads: newChoice(broker.ReadLease, broker.ReadLease, broker.ReadQuorum)}
	cmd := &cobra.Command{
		Use:   "start",
		Short: "Run one broker until interrupted",
		Long: `Run one broker until it is interrupted or terminated; it hands leadership over and stops in order then.

Without any configuration it founds a cluster of one in ./balsa-data and listens on this machine only. With --join it
becomes a member of the cluster that the brokers at these addresses belong to. A data directory remembers which broker
of which cluster it is: started again on it, the same command gives the same broker.

The log goes to the standard error. On the standard output it prints one line when clients can come:

  ready: HOST:PORT`,
		Example: `  broker start
  broker start --data-dir /var/lib/balsa --kafka-listen 0.0.0.0:9092 --kafka-advertise broker-1.example:9092 \
      --rpc-listen 0.0.0.0:9192 --rpc-advertise broker-1.example:9192
  broker start --data-dir /var/lib/balsa-2 --kafka-listen 127.0.0.1:9093 --rpc-listen 127.0.0.1:9193 --admin-listen 127.0.0.1:9293 \
      --join 127.0.0.1:9192`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error { return a.start(cmd.Context(), cmd, o) },
	}
	f := cmd.Flags()
	f.StringVar(&o.cfg.DataDir, "data-dir", "balsa-data", "where everything that the broker keeps lives, `DIR`")
	f.StringVar(&o.cfg.Listen, "kafka-listen", "127.0.0.1:9092", "listen for Kafka clients on `HOST:PORT`; port 0: a free one")
	f.StringVar(&o.cfg.Advertise, "kafka-advertise", "", "the `HOST:PORT` that clients are told; default: where it listens")
	f.StringVar(&o.cfg.ListenRPC, "rpc-listen", "127.0.0.1:9192", "listen for other brokers on `HOST:PORT`; port 0: a free one")
	f.StringVar(&o.cfg.AdvertiseRPC, "rpc-advertise", "", "the `HOST:PORT` that other brokers are told; default: where it listens")
	f.StringVar(&o.cfg.AdminListen, "admin-listen", "127.0.0.1:9292", "serve metrics, profiles and administration over HTTP on `HOST:PORT`, to whoever can reach it; port 0: a free one; 'none': do not")
	f.IntVar(&o.cfg.MetricsGroups, "metrics-groups", 0, "serve metrics of single Raft groups for so many of them, those that lag most first; at most 1000")
	sizeVar(f, &o.cfg.FlightRecorderBytes, "flight-recorder-bytes", 0, "keep an execution trace of the last seconds in about so much memory, and write it to DIR/traces when something was slow; 0: do not")
	f.DurationVar(&o.cfg.SlowSync, "slow-sync", 2*time.Second, "a sync of a log that takes so long is logged and traced; negative: never")
	f.DurationVar(&o.cfg.SlowElection, "slow-election", 2*time.Second, "a partition without a leader for so long is logged and traced; negative: never")
	f.StringSliceVar(&o.cfg.Join, "join", nil, "rpc addresses `HOST:PORT,...` of brokers of the cluster to belong to")
	f.Int32Var(&o.cfg.NodeID, "node-id", 0, "the id to ask for; 0: the cluster gives one")
	f.StringVar(&o.cfg.ReplaceDisk, "replace-disk", "", "take the place of the data directory that broker --node-id had and that is gone for good, named by its `INCARNATION`")
	f.StringVar(&o.cfg.ClusterID, "cluster-id", "", "found a cluster of this `NAME`, or belong to no other")
	f.StringVar(&o.cfg.Rack, "rack", "", "where the broker stands, `NAME`; replicas are spread over racks")
	f.BoolVar(&o.cfg.NeverLead, "never-lead", false, "hold replicas and vote, but lead no partition that another broker can lead")
	f.BoolVar(&o.balance, "auto-leader-balance", true, "give leadership back to the preferred replicas")
	f.DurationVar(&o.cfg.LeaderBalanceInterval, "leader-balance-interval", time.Minute, "how often that is looked at, and how long a broker must have been back")
	f.DurationVar(&o.cfg.ElectionTimeout, "election-timeout", time.Second, "how long a partition goes without a leader before it elects another")
	f.DurationVar(&o.cfg.ClockDrift, "clock-drift", 0, "by how much two brokers' clocks may part within an election timeout; 0: a tenth of it")
	f.Var(o.reads, "read-consistency", "what confirms where a log ends, `lease|quorum`; topics may choose for themselves")
	f.Int32Var(&o.cfg.Partitions, "default-partitions", 1, "partitions of a topic whose creator names no number")
	f.Int16Var(&o.cfg.ReplicationFactor, "default-replicas", 0, "replicas likewise; 0: three, or as many as there are brokers")
	f.BoolVar(&o.autoTopic, "auto-create-topics", true, "create topics that clients ask for, if the clients allow it")
	sizeVar(f, &o.cfg.SegmentBytes, "segment-bytes", 128<<20, "size of a segment file")
	f.BoolVar(&o.direct, "direct-io", true, "write segments, and read backlogs, past the page cache, where the file system can")
	f.BoolVar(&o.async, "async-io", true, "write many logs with one system call, where the system can")
	f.DurationVar(&o.cfg.RetentionCheck, "retention-check-interval", 5*time.Minute, "how often records are looked for that are old enough to go")
	f.BoolVar(&o.cleaner, "cleaner", true, "compact the logs of topics with cleanup.policy=compact")
	f.DurationVar(&o.cfg.CleanerPause, "cleaner-interval", 15*time.Second, "how often logs are looked for that need compaction")
	sizeVar(f, &o.cfg.CleanerMemory, "cleaner-memory", 128<<20, "bound of the memory for keys while a log is compacted")
	rateVar(f, &o.cfg.CleanerRate, "cleaner-rate", 64<<20, "bytes a second that compaction reads and writes; -1: no limit")
	sizeVar(f, &o.cfg.KeyMemory, "key-memory", 256<<20, "bound of the memory for the keys of topics with balsa.conditional.append")
	rateVar(f, &o.cfg.SnapshotRate, "snapshot-rate", 64<<20, "bytes a second of snapshots for brokers that were away; -1: no limit")
	f.DurationVar(&o.cfg.ScrubInterval, "scrub-interval", 7*24*time.Hour, "in what time all logs are verified once, in the background")
	rateVar(f, &o.cfg.ScrubRate, "scrub-rate", 16<<20, "bytes a second that this may read at most; -1: do not")
	sizeVar(f, &o.cfg.CacheBytes, "cache-bytes", 64<<20, "bound of the memory that holds the newest records")
	f.IntVar(&o.cfg.MovesParallel, "move-parallel", 10, "partitions whose new replicas a leader fills at once")
	rateVar(f, &o.cfg.MoveRate, "move-rate", 64<<20, "bytes a second that a broker sends to new replicas at most; below 0: no bound")
	sizeVar(f, &o.cfg.MaxMemory, "max-request-memory", 256<<20, "bound of the memory that requests in progress hold")
	groupFlags(f, &o.cfg)
	o.security.flags(f, &o.cfg)
	o.bridgeVia = bridgeFlags(f, &o.bridges)
	f.Var(o.logLevel, "log-level", "`debug|info|warn|error`")
	f.Var(o.logFormat, "log-format", "`text|json`")
	settingsAll(f, "")
	f.IntVar(&o.voters, "report-voters", 0, "print a line when the metadata group has so many voters (for broker dev)")
	_ = f.MarkHidden("report-voters") // the flag exists: it was defined one line above
	return cmd
}

func (a *app) start(ctx context.Context, cmd *cobra.Command, o *startOptions) error {
	cfg := o.cfg
	cfg.DisableAutoCreate, cfg.DisableLeaderBalance, cfg.DisableCleaner = !o.autoTopic, !o.balance, !o.cleaner
	cfg.DisableDirectIO, cfg.DisableAsyncIO = !o.direct, !o.async
	cfg.ReadConsistency = o.reads.String()
	cfg.Logger = newLogger(a.err, o.logLevel.String(), o.logFormat.String())
	a.warnUnknownEnvironment(cmd, cfg.Logger)
	if m := o.bridgeVia.String(); m != "auto" {
		o.bridges.Security.Mechanism = m
	}
	cfg.Bridges = &o.bridges
	if err := errors.Join(unusualGroups(&cfg), o.security.apply(&cfg)); err != nil {
		return o.startError(cmd, err)
	}
	b, err := broker.Start(ctx, cfg)
	if err != nil {
		if ctx.Err() != nil {
			return nil // interrupted before it was ready
		}
		return o.startError(cmd, err)
	}
	fmt.Fprintf(a.out, "%s: %s\n", readyLine, b.KafkaAddr())
	if o.voters > 0 {
		go a.reportVoters(ctx, b, o.voters)
	}
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	defer signal.Stop(hangup)
	go func() {
		for {
			select {
			case <-hangup:
				_ = b.ReloadTLS() // logs what it could not use
			case <-ctx.Done():
				return
			}
		}
	}()
	select {
	case <-ctx.Done():
		return b.Close()
	case fatal := <-b.Fatal():
		if errors.Is(fatal, broker.ErrOutlived) {
			if err := b.Close(); err != nil {
				cfg.Logger.Warn("closing the broker before it starts anew", "err", err)
			}
			return a.start(ctx, cmd, o)
		}
		mend := "see to the disk, then start it again"
		if errors.Is(fatal, broker.ErrDataDir) { // which says what to do
			mend = "started again as it is, it is refused again"
		}
		return &cliError{code: exitFailure, what: "the broker had to stop: " + errors.Join(fatal, b.Close()).Error(), where: cfg.DataDir, mend: mend, err: fatal}
	}
}

// reportVoters is how `broker dev` learns that the metadata group can lose a broker.
func (a *app) reportVoters(ctx context.Context, b *broker.Broker, want int) {
	tick := time.NewTicker(devPollInterval)
	defer tick.Stop()
	for {
		if len(b.MetadataVoters()) == want {
			fmt.Fprintf(a.out, "%s: %d\n", votersLine, want)
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// What the lines on the standard output begin with.
const (
	readyLine  = "ready"
	votersLine = "metadata voters"
)

// exportedName is a word that may be a field of broker.Config: not what a user has given, which stands in quotation marks.
var exportedName = regexp.MustCompile(`"[^"]*"|\b[A-Z][A-Za-z]+\b`)

// fieldFlags are the flags behind the fields of a broker's configuration, which its own errors name: those that write to a field's place, and those
// that pflag or the command keeps in between.
func fieldFlags(cfg *broker.Config, flags *pflag.FlagSet) map[string]string {
	at := make(map[uintptr]string)
	flags.VisitAll(func(f *pflag.Flag) {
		if v := reflect.ValueOf(f.Value); v.Kind() == reflect.Pointer {
			at[v.Pointer()] = "--" + f.Name
		}
	})
	out := map[string]string{"Join": "--join", "ReadConsistency": "--read-consistency"}
	v := reflect.ValueOf(cfg).Elem()
	for i := range v.NumField() {
		if name, ok := at[v.Field(i).Addr().Pointer()]; ok {
			out[v.Type().Field(i).Name] = name
		}
	}
	return out
}

// startError words what a broker said when it did not start. Its own errors name the place and the mending already.
func (o *startOptions) startError(cmd *cobra.Command, err error) error {
	flags := fieldFlags(&o.cfg, cmd.Flags())
	what := exportedName.ReplaceAllStringFunc(err.Error(), func(name string) string { return cmp.Or(flags[name], name) })
	e := &cliError{code: exitFailure, what: what, err: err}
	switch {
	case errors.Is(err, broker.ErrConfig):
		e.code = exitUsage
		e.what = strings.ReplaceAll(e.what, "\n", "; ")
		e.mend = "'broker start --help' lists the flags"
		if strings.Contains(e.what, "advertised") {
			e.mend = "what others are told is --kafka-advertise, --rpc-advertise or, for --listeners, --advertised-listeners"
		}
	case errors.Is(err, syscall.EADDRINUSE):
		e.mend = "stop the program that listens there, or choose another --kafka-listen, --rpc-listen or --admin-listen (port 0: a free one)"
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		e.mend = "--kafka-listen, --rpc-listen and --admin-listen take addresses of this machine; what others are told is --kafka-advertise and --rpc-advertise"
	case errors.Is(err, broker.ErrOtherDisk):
		e.mend = "mount the disk; or, if it is gone for good, name its incarnation with --replace-disk; or leave --node-id out, and join as another broker"
	case errors.Is(err, broker.ErrDataDir):
		e.mend = "nothing was changed; --data-dir names another directory"
	case errors.Is(err, context.DeadlineExceeded):
		e.code = exitTimeout
		e.mend = "check that a majority of the brokers runs and that --join names the rpc address of one"
	}
	return e
}

func newLogger(w io.Writer, level, format string) *slog.Logger {
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		panic(err) // the flag allows only levels that slog knows
	}
	opts := &slog.HandlerOptions{Level: l}
	if format == "json" {
		return slog.New(slog.NewJSONHandler(w, opts))
	}
	return slog.New(slog.NewTextHandler(w, opts))
}

// warnUnknownEnvironment names variables that look like settings and are none: most likely a typing error.
func (a *app) warnUnknownEnvironment(cmd *cobra.Command, log *slog.Logger) {
	names := map[string]bool{envPrefix + "_CONFIG": true, profileEnv: true}
	for key := range knownSettings(cmd.Root()) {
		names[envName(key)] = true
	}
	for _, kv := range a.environ() {
		name, _, _ := strings.Cut(kv, "=")
		if strings.HasPrefix(name, envPrefix+"_") && !names[name] {
			log.Warn("environment variable is no setting and has no effect; 'broker help settings' lists the settings", "name", name)
		}
	}
}

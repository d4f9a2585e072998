// The suite: all that the goals ask for, cut into takes. A take is one round of one piece, a run of its own with a file of its own, so that what
// is cut off costs that round only, and a suite can be finished in another quiet hour.
//
// A piece has all that is compared: both sides of a ratio are in the same takes. The systems take turns in a take; rounds lie as far apart as
// the takes of the others make them.

package bench

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Piece is a part of the suite.
type Piece struct {
	Name string
	What string // one line
	// Args are those of `broker bench run`, without peers, rounds and times.
	Args  []string
	Peers []string // that take part
	// Beside: it is there for the sake of its peers; another piece measures ours alone.
	Beside bool
	Takes  int // how many are wanted
	// Each is about how long a take takes, by system, on two quiet cores of 2026; a take that is there knows better.
	Each map[string]time.Duration
	// Backlog is in GB, as --backlog counts; 0: none. The disk may have room for less.
	Backlog float64
	// copies is how many times the backlog lies on the disk.
	copies float64
	perGB  time.Duration // of the backlog, in addition to Each
	open   bool          // at a rate, the same one in all takes
}

// Systems that can be peers in the suite.
const (
	jetStreamName = "jetstream"
	kafkaName     = "kafka"
)

// Suite are all pieces.
func Suite() []Piece {
	both := []string{jetStreamName, kafkaName}
	each := func(ours, jetstream, kafka int) map[string]time.Duration {
		return map[string]time.Duration{OurName: time.Duration(ours) * time.Second, jetStreamName: time.Duration(jetstream) * time.Second, kafkaName: time.Duration(kafka) * time.Second}
	}
	// JetStream's client has a mode that fits where there is no time for all of them, and one that is the fastest.
	const simple, fastest = JetStreamAsync, JetStreamFast
	jetStream := []string{jetStreamName}
	wide := strconv.Itoa(WideWindow)
	pieces := []Piece{
		{Name: "t1", What: "throughput, both classes, 16 partitions and 8 producers", Args: []string{"T1", "--partitions", "16", "--producers", "8"}, Peers: both, Takes: 5, Each: each(26, 96, 77)}, // it finds the rate of the open loops
		{Name: "l1", What: "latency of one synchronous producer, both classes", Args: []string{"L1"}, Peers: both, Takes: 5, Each: each(15, 25, 70)},
		{Name: "f1", What: "a leader is killed", Args: []string{"F1"}, Peers: both, Takes: 3, Each: each(16, 27, 53), open: true},
		{Name: "m2", What: "10,000 idle partitions; 1,000 of peers", Args: []string{"M2", "--partitions", "10000", "--peer-partitions", "1000", "--measure", "10s"}, Peers: both, Takes: 1, Each: each(95, 95, 77)},
		{Name: "l2", What: "latency to the consumer at a fixed rate, both classes", Args: []string{"L2"}, Peers: both, Takes: 3, Each: each(16, 38, 74), open: true},
		{Name: "m1", What: "16 and 1,024 active partitions", Args: []string{"M1", "--partitions", "16,1024", "--jetstream-modes", simple}, Peers: both, Takes: 3, Each: each(22, 81, 93)},
		{Name: "m1-wide", What: "the same with 16 MiB in flight of each producer, of ours", Args: []string{"M1", "--partitions", "16,1024", "--inflight-bytes", wide}, Takes: 2, Each: each(27, 0, 0)},
		{Name: "backlog", What: "on the same data: a group reads a backlog of ours, a broker returns, all are restarted", Args: []string{"C1", "F2", "R1", "--together"}, Takes: 2, Each: each(195, 0, 0), Backlog: 50, copies: 1, perGB: 2 * time.Second, open: true},
		{Name: "backlog-peers", What: "the same beside peers, smaller", Beside: true, Args: []string{"C1", "F2", "R1", "--together", "--limit", "3m"}, Peers: both, Takes: 1, Each: each(60, 120, 140), Backlog: 1.8, copies: 1, perGB: 30 * time.Second, open: true},
		{Name: "m1-wide-peers", What: "16 MiB in flight of each producer beside peers", Beside: true, Args: []string{"M1", "--partitions", "16,1024", "--inflight-bytes", wide, "--jetstream-modes", simple}, Peers: both, Takes: 1, Each: each(27, 79, 107)},
	}
	for _, over := range Over() {
		s, _ := Find("G1")
		cells := len(s.Only([]string{over}).Cells(0))
		pieces = append(pieces, Piece{Name: "g1-" + over, What: "how throughput and p99 grow with " + over, Args: []string{"G1", "--over", over, "--jetstream-modes", simple}, Peers: jetStream, Takes: 2,
			Each: each(12*cells, 15*cells, 0)}) // Kafka's JVM would take most of the time to warm up
	}
	return append(pieces,
		Piece{Name: "m1-more", What: "1 and 128 active partitions", Args: []string{"M1", "--partitions", "1,128", "--jetstream-modes", simple}, Peers: jetStream, Takes: 2, Each: each(24, 45, 0)},
		Piece{Name: "m2-more", What: "1,000 idle partitions of ours", Args: []string{"M2", "--partitions", "1000", "--measure", "10s"}, Takes: 1, Each: each(70, 0, 0)},
		Piece{Name: "t1-more", What: "throughput, both classes, one partition", Args: []string{"T1", "--partitions", "1", "--jetstream-modes", fastest}, Peers: jetStream, Takes: 2, Each: each(52, 58, 0)},
		Piece{Name: "t1-one", What: "throughput, both classes, 16 partitions and one producer", Args: []string{"T1", "--partitions", "16", "--producers", "1", "--jetstream-modes", fastest}, Peers: jetStream, Takes: 2, Each: each(26, 30, 0)},
		Piece{Name: "t2", What: "throughput with records of 100 B and 16 KiB, both classes", Args: []string{"T2", "--partitions", "16", "--producers", "8", "--jetstream-modes", fastest}, Peers: jetStream, Takes: 2, Each: each(52, 60, 0)},
	)
}

// A take of the suite is measured so, whatever the piece.
const (
	suiteMeasure = 5 * time.Second
	suiteWarmup  = 2 * time.Second
	// suiteReserve is what stays free of the disk.
	suiteReserve = 4 * gigabyte
	// laidOut is how much more than its records a log takes while it grows.
	laidOut = 1.3
)

// Take is one round of a piece.
type Take struct {
	Piece
	N int // from 1
}

// File is its name.
func (t Take) File() string { return fmt.Sprintf("%s-%d.json", t.Name, t.N) }

// Takes are those of the pieces, in the order of their turns: each piece once, in the order of the goals, before any comes twice.
func Takes(pieces []Piece) (all []Take) {
	for _, p := range pieces {
		for n := range p.Takes {
			all = append(all, Take{p, n + 1})
		}
	}
	slices.SortStableFunc(all, func(a, b Take) int { return a.N - b.N })
	return all
}

// Conditions are those of all takes of a suite.
type Conditions struct {
	Peers []string // that are brought up at all
	Rate  int      // of what runs at a rate; 0: none was found yet
	// Disk is what is free, in bytes; 0: not known.
	Disk int64
	Dir  string // where data goes; empty: the system's temporary directory
}

// peers are those that take part.
func (t Take) peers(c Conditions) (names []string) {
	for _, p := range t.Peers {
		if slices.Contains(c.Peers, p) {
			names = append(names, p)
		}
	}
	return names
}

// backlog is what there is room for, in tenths of a GB.
func (t Take) backlog(c Conditions) float64 {
	gb := t.Backlog
	if c.Disk > 0 && gb > 0 {
		room := float64(c.Disk-suiteReserve) / gigabyte / t.copies / laidOut
		gb = max(min(gb, float64(int(room*10))/10), 0.1)
	}
	return gb
}

// Estimate is about how long the take takes, if no other take of the piece is there to tell.
func (t Take) Estimate(c Conditions) time.Duration {
	d := t.Each[OurName]
	for _, p := range t.peers(c) {
		d += t.Each[p]
	}
	return d + time.Duration(t.backlog(c)*float64(t.perGB))
}

// After is how long the take takes if another one of its piece was r, a larger backlog for longer; false: that was beside other systems.
func (t Take) After(r *Report, c Conditions) (time.Duration, bool) {
	took := r.Finished.Sub(r.Taken)
	value := func(flag string) string {
		i := slices.Index(r.Command, flag)
		if i < 0 || i+1 >= len(r.Command) {
			return ""
		}
		return r.Command[i+1]
	}
	if value("--peer") != strings.Join(t.peers(c), ",") {
		return 0, false
	}
	if gb := t.backlog(c); gb > 0 {
		was, err := strconv.ParseFloat(value("--backlog"), 64)
		if err != nil || was <= 0 {
			return 0, false
		}
		took = time.Duration(float64(took) * gb / was)
	}
	return took, true
}

// Command are the arguments of the broker.
func (t Take) Command(c Conditions, file string) []string {
	args := append([]string{"bench", "run"}, t.Args...)
	if peers := t.peers(c); len(peers) > 0 {
		args = append(args, "--peer", strings.Join(peers, ","))
	}
	if gb := t.backlog(c); gb > 0 {
		args = append(args, "--backlog", strconv.FormatFloat(gb, 'g', -1, 64))
	}
	if t.open && c.Rate > 0 {
		args = append(args, "--rate", strconv.Itoa(c.Rate))
	}
	if c.Dir != "" {
		args = append(args, "--dir", c.Dir)
	}
	if t.Args[0] != manyScenario { // which waits for rest, and takes the CPU of a while
		args = append(args, "--warmup", suiteWarmup.String(), "--measure", suiteMeasure.String())
	}
	return append(args, "--rounds", "1", "--verify", "--json", file)
}

// OpenRate is the rate of a run's open loops; 0: it had none.
func (r *Report) OpenRate() int {
	for _, x := range r.Results {
		if x.Rate > 0 {
			return x.Rate
		}
	}
	return 0
}

// RateToTry is the rate for the open loops of other takes that follows from a run of T1, as one would be found otherwise: half of what the slowest
// system did with all in class B, each in its best mode; 0: it is no such run.
func (r *Report) RateToTry() int {
	best := map[string]float64{}
	for _, x := range r.Results {
		if x.Scenario == "T1" && x.Class == ClassB && x.Replicas == 3 && x.Failed == "" && x.Skipped == "" {
			best[x.System] = max(best[x.System], x.RecordsSec)
		}
	}
	if len(best) < 2 {
		return 0 // nobody beside us
	}
	slowest := math.Inf(1)
	for _, v := range best {
		slowest = min(slowest, v)
	}
	return openRate(slowest)
}

// FreeBytes is the space for data below dir (empty: the system's temporary directory); 0 if it is not known.
func FreeBytes(dir string) int64 {
	o := Options{Dir: dir}
	return freeBytes(o.dataDir())
}

// Part is one run of several that are shown as one.
type Part struct {
	Name     string    `json:"name"` // of its file
	Command  []string  `json:"command"`
	Taken    time.Time `json:"taken"`
	Finished time.Time `json:"finished"`
	Load     float64   `json:"load"` // of the machine over a minute, before
	Complete bool      `json:"complete"`
	Settings Settings  `json:"settings"`
}

// ErrUnlike is returned by Join.
var ErrUnlike = errors.New("these runs are not of one suite")

// Unlike says in what another run differs so that both cannot stand on one page; empty: in nothing. What was loaded, and at what rate, is in each
// result, and may differ.
func (r *Report) Unlike(other *Report) string {
	a, b := r.Machine, other.Machine
	switch {
	case r.Balsa != other.Balsa:
		return fmt.Sprintf("different builds, %s and %s", r.Balsa, other.Balsa)
	case a.CPU != b.CPU || a.CPUs != b.CPUs || a.Kernel != b.Kernel || a.FileSystem != b.FileSystem:
		return "different machines"
	}
	// M2 has its own; a page counts its rounds itself, and says whether all was verified.
	if x, y := r.Settings, other.Settings; len(r.Results) > 0 && len(other.Results) > 0 {
		if x.Rounds, x.Verify = y.Rounds, y.Verify; x != y {
			return fmt.Sprintf("different settings, %s and %s", x, y)
		}
	}
	for _, p := range r.Peers {
		for _, q := range other.Peers {
			if p.Name == q.Name && (p.Version != q.Version || p.Runtime != q.Runtime) {
				return fmt.Sprintf("different %ss, %s %s and %s %s", p.Name, p.Version, p.Runtime, q.Version, q.Runtime)
			}
		}
	}
	return ""
}

// String is the commit, as far as it is known.
func (b Build) String() string {
	const short = 12
	switch {
	case b.Commit == "":
		return "commit unknown"
	case b.Dirty:
		return "commit " + b.Commit[:min(short, len(b.Commit))] + " with changes"
	}
	return "commit " + b.Commit[:min(short, len(b.Commit))]
}

func (s Settings) String() string {
	return fmt.Sprintf("%.3g s after %.3g s, batches of %d B, lingering for %.3g ms", s.MeasureSec, s.WarmupSec, s.BatchBytes, s.LingerMs)
}

// Join makes one report of takes of the same build on the same machine. Rounds are counted on from take to take, so that a ratio pairs what was
// measured in the same one.
func Join(names []string, runs []*Report) (*Report, error) {
	if len(runs) == 0 {
		return nil, fmt.Errorf("%w: there are none", ErrUnlike)
	}
	first := runs[0]
	all := &Report{Schema: Schema, Taken: first.Taken, Finished: first.Finished, Complete: true, Machine: first.Machine, Balsa: first.Balsa, Settings: first.Settings, Results: []Result{}}
	rounds := 0
	for i, r := range runs {
		for j, earlier := range runs[:i] { // the peers of the first are not all
			if why := earlier.Unlike(r); why != "" {
				return nil, fmt.Errorf("%w: %s and %s are of %s", ErrUnlike, names[j], names[i], why)
			}
		}
		for _, p := range r.Peers {
			if !slices.ContainsFunc(all.Peers, func(q Peer) bool { return q.Name == p.Name }) {
				all.Peers = append(all.Peers, p)
			}
		}
		all.Parts = append(all.Parts, Part{Name: names[i], Command: r.Command, Taken: r.Taken, Finished: r.Finished, Load: r.Machine.Load, Complete: r.Complete, Settings: r.Settings})
		all.Complete = all.Complete && r.Complete
		all.Settings.Verify = all.Settings.Verify && r.Settings.Verify
		if r.Taken.Before(all.Taken) {
			all.Taken = r.Taken
		}
		if r.Finished.After(all.Finished) {
			all.Finished = r.Finished
		}
		most := 0
		for _, x := range r.Results {
			most = max(most, x.Round)
			x.Round += rounds
			all.Results = append(all.Results, x)
		}
		for _, m := range r.Many {
			most = max(most, m.Round)
			m.Round += rounds
			all.Many = append(all.Many, m)
		}
		rounds += most
	}
	return all, nil
}

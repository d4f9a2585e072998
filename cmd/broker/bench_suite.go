// broker bench suite: all that the goals ask for, take by take, and a page of it.

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/balsamq/balsa/bench"
)

type suiteOptions struct {
	to     string
	within time.Duration
	only   []string
	peers  []string
	dir    string
	takes  int
	plan   bool
	fresh  bool
}

// How files of a suite are called below its directory.
const (
	suiteRuns   = "runs"
	suiteLimits = "limits.json"
)

const (
	// limitsTake is about how long `bench limits` takes.
	limitsTake = 2 * time.Minute
	// suiteOver is how much longer than it was given a suite may take, as a share, before it interrupts what runs.
	suiteOver = 0.1
	// suiteEnds is how long a take has to stop its processes once it is interrupted.
	suiteEnds = time.Minute
)

func newBenchSuiteCommand(a *app) *cobra.Command {
	o := &suiteOptions{}
	cmd := &cobra.Command{
		Use:   "suite",
		Short: "Measure everything, take by take, and make a page of it",
		Long: `Measure all that there are goals for, in takes: one round of one part each, a 'broker bench run' of its own whose results are a file
below --to. The goals come first, and everything once before anything comes twice. It says first what it has the time for,
and how long that takes about, by how long it took when it was measured last; what is there already is not measured again, so that a
suite may be finished another day, by the same build on the same machine. Takes of another build, machine or setting are told, and
refused; with --fresh they are removed. In the end, and after an interrupt, it makes report.html, report.md and README.md of all takes
that are there. The machine should have nothing else to do.

Parts:
` + suiteHelp() + `
C1, F2 and R1 stand on the same data, of which there is as much as the disk has room for, R1's 50 GB at most. Open loops run at half of what the
slowest system did in t1.`,
		Example: `  broker bench suite --plan
  broker bench suite --to docs/benchmarks --time 1h
  broker bench suite --to docs/benchmarks --only t1,l1,f1 --time 20m`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.benchSuite(cmd, o) },
	}
	f := cmd.Flags()
	f.StringVar(&o.to, "to", ".", "keep results and page in `DIR`, which is made if it is not there")
	f.DurationVar(&o.within, "time", 75*time.Minute, "begin only takes that are likely to end within this")
	f.StringSliceVar(&o.only, "only", nil, "only the parts `NAME,...`")
	f.StringSliceVar(&o.peers, "peer", []string{"jetstream", "kafka"}, "beside `NAME,...`")
	f.StringVar(&o.dir, "dir", "", "put all data below `DIR`; default: the system's temporary directory")
	f.IntVar(&o.takes, "takes", 0, "this many takes of each part; 0: as many as it is worth")
	f.BoolVar(&o.plan, "plan", false, "only say what would be done")
	f.BoolVar(&o.fresh, "fresh", false, "remove takes of another build, machine or setting, and begin anew")
	return cmd
}

func suiteHelp() string {
	var b strings.Builder
	for _, p := range bench.Suite() {
		fmt.Fprintf(&b, "  %-16s %s (%s)\n", p.Name, p.What, counted(p.Takes, "take"))
	}
	return b.String()
}

// suite is one that is under way.
type suite struct {
	a     *app
	o     *suiteOptions
	cond  bench.Conditions
	there map[string]*bench.Report // takes that are whole, by file
	// alien are files that cannot stand on a page with what this program measures here, and why.
	alien map[string]string
	last  map[string]*bench.Report // the last whole take of a piece, whoever measured it: it tells how long another one takes
	until time.Time
}

// step is one line of the plan.
type step struct {
	Take     string        `json:"take"`
	What     string        `json:"what"`
	Estimate time.Duration `json:"-"`
	Seconds  float64       `json:"seconds"`
	Do       string        `json:"do"`              // run, there, no time
	Alien    string        `json:"alien,omitempty"` // what there is of it is none of this suite, and why
}

func (a *app) benchSuite(cmd *cobra.Command, o *suiteOptions) error {
	pieces, err := o.pieces()
	if err != nil {
		return err
	}
	s := &suite{a: a, o: o, cond: bench.Conditions{Peers: o.peers, Disk: bench.FreeBytes(o.dir), Dir: o.dir}, there: map[string]*bench.Report{}, alien: map[string]string{}, last: map[string]*bench.Report{}}
	own := bench.NewReport(o.dir, nil)
	if err := s.load(own); err != nil {
		return err
	}
	takes := bench.Takes(pieces)
	steps := s.steps(takes)
	if o.plan {
		return a.print(cmd, steps, func(w io.Writer) {
			s.table(w, steps)
			s.aliens(w)
			if len(s.alien) > 0 && !o.fresh {
				fmt.Fprintln(w, "without --fresh they are refused")
			}
		})
	}
	if len(s.alien) > 0 {
		if !o.fresh {
			s.aliens(a.err)
			return &cliError{code: exitUsage, what: fmt.Sprintf("%s in %s cannot stand on a page with what this program, %s, measures here", counted(len(s.alien), "file"), o.to, own.Balsa), where: o.to,
				mend: fmt.Sprintf("--fresh removes them, another --to leaves them; 'broker bench report %s --join --limits %s --to %s' makes the page of what is there", s.file("*.json"), filepath.Join(o.to, suiteLimits), o.to)}
		}
		if own.Balsa.Commit == "" {
			return errNoCommit()
		}
		if err := s.removeAliens(); err != nil {
			return err
		}
	}
	if slices.ContainsFunc(steps, func(x step) bool { return x.Do == "run" }) && own.Balsa.Commit == "" {
		return errNoCommit()
	}
	w := tableWriter(a.err)
	s.table(w, steps)
	if err := errors.Join(w.Flush(), os.MkdirAll(filepath.Join(o.to, suiteRuns), 0o755)); err != nil {
		return err
	}
	ran := s.run(cmd.Context(), takes)
	return errors.Join(ran, s.page(cmd))
}

func errNoCommit() error {
	return &cliError{code: exitFailure, what: "this program does not know what commit it was built from, and a result is to say so", mend: "build it with 'go build -buildvcs=true' in a clone of the repository; in a further work tree of git's Go does not find it"}
}

// pieces are those that are asked for.
func (o *suiteOptions) pieces() ([]bench.Piece, error) {
	all := bench.Suite()
	if o.within <= 0 || o.takes < 0 {
		return nil, usageError("give positive numbers and times", "--time or --takes is out of range")
	}
	for _, name := range o.peers {
		if name != "jetstream" && name != "kafka" {
			return nil, usageError("there are jetstream and kafka", "unknown peer %q", name)
		}
	}
	for _, name := range o.only {
		if !slices.ContainsFunc(all, func(p bench.Piece) bool { return p.Name == name }) {
			return nil, usageError("'broker bench suite --help' lists them", "there is no part %q", name)
		}
	}
	all = slices.DeleteFunc(all, func(p bench.Piece) bool {
		return p.Beside && len(o.only) == 0 && !slices.ContainsFunc(p.Peers, func(name string) bool { return slices.Contains(o.peers, name) })
	})
	all = slices.DeleteFunc(all, func(p bench.Piece) bool { return len(o.only) > 0 && !slices.Contains(o.only, p.Name) })
	for i := range all {
		if o.takes > 0 {
			all[i].Takes = o.takes
		}
	}
	return all, nil
}

func (s *suite) file(name string) string { return filepath.Join(s.o.to, suiteRuns, name) }

// load reads the takes that are there; one that was cut off is as good as none. Only what can stand on one page with what this program measures here
// is taken for there; a program that does not know its commit measures nothing, and goes by the latest take.
func (s *suite) load(own *bench.Report) error {
	files, err := filepath.Glob(s.file("*.json"))
	if err != nil {
		return err
	}
	all := map[string]*bench.Report{}
	var names []string // the latest first
	for _, file := range files {
		r, err := bench.ReadReport(file)
		if err != nil {
			return unreadable(file, err, "remove what 'broker bench run --json' has not written")
		}
		names = append(names, filepath.Base(file))
		all[filepath.Base(file)] = r
	}
	slices.SortFunc(names, func(a, b string) int { return all[b].Taken.Compare(all[a].Taken) })
	var like []*bench.Report
	if own.Balsa.Commit != "" {
		like = append(like, own)
	}
	for _, name := range names {
		r := all[name]
		if piece := pieceOf(name); r.Complete && s.last[piece] == nil {
			s.last[piece] = r
		}
		for _, other := range like {
			if why := other.Unlike(r); why != "" {
				s.alien[name] = why
				break
			}
		}
		if s.alien[name] != "" {
			continue
		}
		like = append(like, r)
		if r.Complete {
			s.keep(name, r)
		}
	}
	const limits = "../" + suiteLimits
	if m, err := readLimits(s.file(limits)); err == nil && own.Balsa.Commit != "" {
		if why := own.Unlike(&bench.Report{Balsa: own.Balsa, Machine: m.Host}); why != "" {
			s.alien[limits] = why
		}
	}
	return nil
}

// pieceOf is what a take's file is of.
func pieceOf(file string) string {
	piece := strings.TrimSuffix(file, ".json")
	return piece[:max(strings.LastIndexByte(piece, '-'), 0)]
}

// aliens says what of the files is of no use, and why.
func (s *suite) aliens(w io.Writer) {
	by := map[string][]string{}
	for name, why := range s.alien {
		by[why] = append(by[why], filepath.Base(name))
	}
	for _, why := range slices.Sorted(maps.Keys(by)) {
		slices.Sort(by[why])
		fmt.Fprintf(w, "%s of %s: %s\n", counted(len(by[why]), "file"), why, strings.Join(by[why], ", "))
	}
}

func (s *suite) removeAliens() error {
	var errs []error
	for name := range s.alien {
		errs = append(errs, os.Remove(s.file(name)))
	}
	fmt.Fprintf(s.a.err, "removed:\n")
	s.aliens(s.a.err)
	return errors.Join(errs...)
}

// keep takes a take into account.
func (s *suite) keep(name string, r *bench.Report) {
	s.there[name] = r
	if s.cond.Rate == 0 {
		s.cond.Rate = r.OpenRate()
	}
}

// rateToTry is the open loops' rate where no take has one yet: by the earliest take that tells.
func (s *suite) rateToTry() int {
	for n := 1; ; n++ {
		r := s.there[bench.Take{Piece: bench.Piece{Name: "t1"}, N: n}.File()]
		if r == nil {
			return 0
		}
		if rate := r.RateToTry(); rate > 0 {
			return rate
		}
	}
}

// estimate goes by how long the last take of the piece took, and else by what is known of it beforehand.
func (s *suite) estimate(t bench.Take) time.Duration {
	if r := s.last[t.Name]; r != nil {
		if d, ok := t.After(r, s.cond); ok {
			return d
		}
	}
	return t.Estimate(s.cond)
}

// steps are what there is time for from now on.
func (s *suite) steps(takes []bench.Take) (all []step) {
	left := s.o.within
	if !s.limits() && limitsTake <= left {
		left -= limitsTake
	}
	for _, t := range takes {
		d := s.estimate(t)
		x := step{Take: strings.TrimSuffix(t.File(), ".json"), What: t.What, Estimate: d, Seconds: d.Seconds(), Do: "run", Alien: s.alien[t.File()]}
		switch {
		case s.there[t.File()] != nil:
			x.Do = "there"
		case d > left:
			x.Do = "no time"
		default:
			left -= d
		}
		all = append(all, x)
	}
	return all
}

// table has beside each take by when it would be done if nothing were left out: what to give as --time to come as far.
func (s *suite) table(w io.Writer, steps []step) {
	sum, all, runs, rest := time.Duration(0), time.Duration(0), 0, 0
	if !s.limits() {
		all = limitsTake
	}
	fmt.Fprintln(w, "TAKE\tABOUT\tDONE BY\t\tWHAT")
	for _, x := range steps {
		by := "-"
		if x.Do != "there" {
			all += x.Estimate
			by = all.Round(time.Second).String()
		}
		fmt.Fprintf(w, "%s\t%v\t%s\t%s\t%s\n", x.Take, x.Estimate.Round(time.Second), by, x.Do, x.What)
		switch x.Do {
		case "run":
			sum += x.Estimate
			runs++
		case "no time":
			rest++
		}
	}
	fmt.Fprintf(w, "%s, about %v of %v; no time for %d\n", counted(runs, "take"), sum.Round(time.Second), s.o.within, rest)
}

// limits reports whether what the machine gives was measured.
func (s *suite) limits() bool {
	_, err := os.Stat(filepath.Join(s.o.to, suiteLimits))
	return err == nil
}

// run does what there is time for. A take that fails does not end the suite; an interrupt does.
func (s *suite) run(ctx context.Context, takes []bench.Take) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	s.until = time.Now().Add(s.o.within)
	cut, cancel := context.WithDeadline(ctx, s.until.Add(time.Duration(suiteOver*float64(s.o.within))))
	defer cancel()
	log := func(format string, args ...any) { fmt.Fprintf(s.a.err, format+"\n", args...) }
	var errs []error
	if !s.limits() && limitsTake <= s.o.within {
		log("\n=== what the machine gives")
		args := []string{"bench", "limits", "--json", filepath.Join(s.o.to, suiteLimits)}
		if s.o.dir != "" {
			args = append(args, "--dir", s.o.dir)
		}
		if err := s.child(cut, self, args); err != nil {
			return fmt.Errorf("bench limits: %w", err)
		}
	}
	for _, t := range takes {
		if s.there[t.File()] != nil || s.estimate(t) > time.Until(s.until) {
			continue
		}
		if cut.Err() != nil {
			break
		}
		s.cond.Disk = bench.FreeBytes(s.o.dir)
		if s.cond.Rate == 0 {
			s.cond.Rate = s.rateToTry()
		}
		args := t.Command(s.cond, s.file(t.File()))
		log("\n=== %s: %s, about %v; %v are left\nbroker %s", t.File(), t.What, s.estimate(t).Round(time.Second), time.Until(s.until).Round(time.Second), strings.Join(args, " "))
		err := s.child(cut, self, args)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", t.File(), err))
			log("%s: %v", t.File(), err)
		}
		r, err := bench.ReadReport(s.file(t.File()))
		if err == nil && r.Complete {
			s.keep(t.File(), r)
			s.last[t.Name] = r
		} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return errors.Join(errs...)
}

// child runs this program, as a process of its own so that what one take has left in memory does not burden the next. Its lines are shown; its
// tables are on the page.
func (s *suite) child(ctx context.Context, self string, args []string) error {
	cmd := exec.CommandContext(ctx, self, args...)
	cmd.Stderr, cmd.SysProcAttr = s.a.err, procAttr()
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = suiteEnds
	return cmd.Run()
}

// join makes one run of all takes that are there, in the order of their time.
func (s *suite) join() (*bench.Report, error) {
	names := make([]string, 0, len(s.there))
	for name := range s.there {
		names = append(names, name)
	}
	slices.SortFunc(names, func(a, b string) int { return s.there[a].Taken.Compare(s.there[b].Taken) })
	runs := make([]*bench.Report, len(names))
	for i, name := range names {
		runs[i] = s.there[name]
	}
	if len(runs) == 0 {
		return nil, nil
	}
	return bench.Join(names, runs)
}

// page writes what there is.
func (s *suite) page(cmd *cobra.Command) error {
	r, err := s.join()
	if r == nil {
		return err
	}
	limits := ""
	if s.limits() {
		limits = filepath.Join(s.o.to, suiteLimits)
	}
	return s.a.benchPages(cmd, []string{""}, []*bench.Report{r}, s.o.to, limits)
}

// Package page makes what a run of package bench measured readable: one HTML file without scripts or anything from outside, light or dark as
// its reader likes it, and tables in Markdown.
package page

import (
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/balsamq/balsa/bench"
	"github.com/balsamq/balsa/bench/limit"
)

//go:embed page.html
var source string

var layout = template.Must(template.New("page").Parse(source))

// Run is one run and what it is set beside.
type Run struct {
	Name   string // of the file
	Report *bench.Report
	Limits *limit.Machine // nil: not measured
}

// view is what the page shows of a run.
type view struct {
	Name     string
	Report   *bench.Report
	Machine  string
	Commit   string
	Command  string
	Columns  []string // systems: ours, then the peers
	Goals    []goal
	Met      int
	Missed   int
	Open     int // neither: these results do not tell
	Sections []section
	Growth   []figures
	Limits   *limits
	Rule     string // rounds and times
	Parts    cells  // of a suite: its takes; no rows: it is one run
	NoA      bool   // peers have figures of class A, and ours none
	// Speed is the throughput of every load at full speed, a table for each class.
	Speed []cells
}

// section is one scenario.
type section struct {
	ID, What string
	Figures  []figures
	Notes    []string
}

// figures is a drawing or a table, or both, under a title.
type figures struct {
	Title, Text string
	Drawings    []drawn
	Tables      []cells
}

// drawn is a drawing and what stands below it.
type drawn struct {
	SVG     template.HTML
	Caption string
}

// cells is a table of text.
type cells struct {
	Title string
	Head  []string
	Rows  [][]string
	Class []string // of each row: the system's colour; empty: none
}

// limits is what the machine gives.
type limits struct {
	Measured, Model, Prices cells
	Near                    []cells
}

// Write writes the page of some runs. Figures of different runs are never compared.
func Write(w io.Writer, runs []Run) error {
	data := struct {
		Title string
		Runs  []view
	}{Title: "Balsa beside its peers"}
	for _, r := range runs {
		data.Runs = append(data.Runs, r.view())
	}
	return layout.Execute(w, data)
}

func (r Run) view() view {
	rep := r.Report
	v := view{Name: r.Name, Report: rep, Machine: machine(rep.Machine), Commit: rep.Balsa.Commit, Command: "broker " + strings.Join(rep.Command, " "), Columns: []string{proper(ours)}}
	for _, name := range peers(rep) {
		v.Columns = append(v.Columns, proper(name))
	}
	if len(v.Commit) > 12 {
		v.Commit = v.Commit[:12]
	}
	if rep.Balsa.Dirty {
		v.Commit += " with changes"
	}
	v.Rule = fmt.Sprintf("%s of %.3g s after %.3g s of warm-up; medians, with the least and the largest", plural(rep.Settings.Rounds, "round"), rep.Settings.MeasureSec, rep.Settings.WarmupSec)
	ts := tables(rep)
	var near []limit.Near
	if r.Limits != nil {
		near = r.Limits.Compare(rep)
		v.Limits = limitTables(r.Limits, near)
	}
	v.Goals = goals(rep, ts, r.Limits, near, len(rep.Parts) > 0)
	for _, g := range v.Goals {
		switch g.Verdict {
		case metGoal:
			v.Met++
		case missedGoal:
			v.Missed++
		default:
			v.Open++
		}
	}
	v.NoA = onlyB(rep)
	v.Speed = speed(ts, peers(rep))
	if len(rep.Parts) > 0 {
		v.suite()
	}
	p := newPainter()
	var ids []string
	for _, t := range ts {
		if !slices.Contains(ids, t.cell.Scenario) {
			ids = append(ids, t.cell.Scenario)
		}
	}
	for _, s := range bench.Scenarios() { // whatever the order of the takes
		switch {
		case s.IsMany() && len(rep.Many) > 0:
			v.Sections = append(v.Sections, p.many(manyRows(rep.Many)))
		case slices.Contains(ids, s.ID):
			v.Sections = append(v.Sections, p.section(s.ID, ts, r.Limits, near))
		}
	}
	for _, g := range growth(ts) {
		rates, p99 := p.curves(g)
		rest := load(filled(g))
		v.Growth = append(v.Growth, figures{Title: fmt.Sprintf("By %s, class %s", strings.TrimSuffix(g.name, ", bytes"), g.rest.Class), Text: rest, Drawings: []drawn{{rates, ""}, {p99, ""}}})
	}
	return v
}

// speed sums up what was loaded as fast as it went, of each system its best client mode.
func speed(ts []*table, peers []string) (all []cells) {
	for _, class := range []bench.Class{bench.ClassB, bench.ClassA} {
		c := cells{Title: "Class " + string(class) + ", MB/s", Head: []string{"", "load", proper(ours)}}
		for _, s := range peers {
			c.Head = append(c.Head, proper(s))
		}
		for _, s := range bench.Scenarios() { // whatever the order of the takes
			for _, t := range ts {
				if t.cell.Scenario != s.ID || t.cell.Class != class || s.Open || s.Backlog > 0 || s.Inflight == 0 {
					continue
				}
				row := []string{s.ID, load(t.cell)}
				for _, system := range append([]string{ours}, peers...) {
					text := absent
					if best := t.best(system, megabytes, true); best != nil {
						text = figure(best.median(megabytes))
					}
					row = append(row, text)
				}
				c.Rows = append(c.Rows, row)
			}
		}
		if len(c.Rows) > 0 {
			all = append(all, c)
		}
	}
	return all
}

// onlyB reports whether peers have figures of class A and ours none.
func onlyB(r *bench.Report) bool {
	peers := false
	for _, x := range r.Results {
		if x.Class == bench.ClassA && x.Failed == "" && x.Skipped == "" {
			if x.System == ours {
				return false
			}
			peers = true
		}
	}
	return peers
}

// suite is what there is to say of a run that was joined of takes.
func (v *view) suite() {
	rep := v.Report
	rounds := map[string]int{}
	var names []string
	busiest := 0.0
	v.Parts = cells{Head: []string{"take", "begun", "took", "load before", "command"}}
	for _, p := range rep.Parts {
		name := strings.TrimSuffix(p.Name, ".json")
		what := name
		if i := strings.LastIndexByte(name, '-'); i > 0 {
			what = name[:i]
		}
		if rounds[what] == 0 {
			names = append(names, what)
		}
		rounds[what] += p.Settings.Rounds
		busiest = max(busiest, p.Load)
		if !p.Complete {
			name += " (cut off)"
		}
		v.Parts.Rows = append(v.Parts.Rows, []string{name, p.Taken.Format("2006-01-02 15:04"), p.Finished.Sub(p.Taken).String(), fmt.Sprintf("%.1f", p.Load), "broker " + strings.Join(p.Command, " ")})
	}
	var counts []string
	for _, n := range names {
		counts = append(counts, fmt.Sprintf("%s %d", n, rounds[n]))
	}
	v.Command = "broker bench suite"
	v.Rule = fmt.Sprintf("in takes, each a run of its own of one round, %.3g s after %.3g s of warm-up; rounds: %s. Medians, with the least and the largest; a ratio pairs what was measured in the same take",
		rep.Settings.MeasureSec, rep.Settings.WarmupSec, strings.Join(counts, ", "))
	v.Machine = fmt.Sprintf("%s, %.1f at most", v.Machine, busiest)
}

// filled is the load whose dimension grows, with its first value: for its description only.
func filled(g grown) bench.Cell { return g.tables[0].cell }

func machine(m bench.Machine) string {
	parts := []string{fmt.Sprintf("%s, %d processors", m.OS, m.CPUs)}
	if m.CPU != "" {
		parts = append(parts, m.CPU)
	}
	if m.MemoryBytes > 0 {
		parts = append(parts, fmt.Sprintf("%.0f GB of memory", float64(m.MemoryBytes)/1e9))
	}
	if m.FileSystem != "" {
		parts = append(parts, m.FileSystem)
	}
	if m.Kernel != "" {
		parts = append(parts, "Linux "+m.Kernel)
	}
	return strings.Join(append(parts, fmt.Sprintf("load %.1f before", m.Load)), " · ")
}

// section is all that is known of one scenario; classes stand apart.
func (p *painter) section(id string, ts []*table, m *limit.Machine, near []limit.Near) section {
	s := section{ID: id, What: titles[id]}
	for _, class := range []bench.Class{bench.ClassB, bench.ClassA} {
		var mine []*table
		for _, t := range ts {
			if t.cell.Scenario == id && t.cell.Class == class {
				mine = append(mine, t)
			}
		}
		if len(mine) == 0 {
			continue
		}
		f := figures{Title: "Class " + string(class) + ": " + classes[class]}
		open := mine[0].cell.Rate > 0 || mine[0].cell.Backlog > 0
		if !open && mine[0].cell.InflightBytes > mine[0].cell.RecordBytes {
			rates, cpu := p.throughput(mine)
			if id == "G1" {
				rates, cpu = "", "" // the curves of growth show it
			}
			f.Drawings = append(f.Drawings, drawn{rates, "Throughput: medians, the whiskers reach from the worst round to the best."}, drawn{cpu, "What it costs: CPU seconds of all servers for 10⁹ bytes of records; less is better."})
		} else if mine[0].cell.Backlog == 0 {
			for _, t := range mine {
				f.Drawings = append(f.Drawings, drawn{p.latency(t, "latency", func(r bench.Result) *bench.Latency { return &r.Latency }), "Until the producer has its acknowledgement, all rounds together."},
					drawn{p.latency(t, "produce to consume", func(r bench.Result) *bench.Latency { return r.EndToEnd }), "Until a consumer has the record."})
			}
		}
		for _, t := range mine {
			for _, r := range t.rows {
				if id != "F1" && id != "F2" && id != "C1" && id != "R1" {
					break
				}
				f.Drawings = append(f.Drawings, drawn{p.timeline(r), r.name() + ", the first round that was drawn: every tenth of a second."})
			}
			f.Tables = append(f.Tables, p.special(t)...)
			f.Tables = append(f.Tables, p.common(t, m, near))
		}
		f.Drawings = slices.DeleteFunc(f.Drawings, func(d drawn) bool { return d.SVG == "" })
		s.Figures = append(s.Figures, f)
		s.Notes = append(s.Notes, notes(mine)...)
	}
	return s
}

// titles say what a scenario is, in the design's words.
var titles = map[string]string{
	"T1": "Throughput, 1 KiB records",
	"T2": "Throughput, small and large records",
	"L1": "Latency of one synchronous producer",
	"L2": "Latency from producer to consumer at a fixed rate",
	"M1": "Durable throughput as active partitions grow",
	"M2": "What idle partitions cost",
	"F1": "A leader is killed with -9 under load",
	"F2": "A broker returns",
	"C1": "Catching up on a backlog from the disk",
	"R1": "Restart with much on the disk",
	"G1": "How throughput grows, one thing at a time",
}

var classes = map[bench.Class]string{
	bench.ClassA: "acknowledged from the page cache of a quorum",
	bench.ClassB: "on the disks of a quorum before it is acknowledged",
}

// common is the table that all loads have.
func (p *painter) common(t *table, m *limit.Machine, near []limit.Near) cells {
	c := cells{Title: load(t.cell), Head: []string{"", "rounds", "records/s", "min", "max", "MB/s", "ours is", "p50 ms", "p99 ms", "p99.9 ms", "max ms", "CPU s/GB", "memory MB", "verified"}}
	if m != nil {
		c.Head = append(c.Head, "of the limit")
	}
	for _, r := range t.rows {
		c.Class = append(c.Class, p.class(r.system, r.mode))
		if len(r.rounds) == 0 {
			c.Rows = append(c.Rows, []string{r.name(), "none: see below"})
			continue
		}
		lo, hi := r.spread(rate)
		_, worst := r.spread(func(x bench.Result) float64 { return x.Latency.Max })
		line := []string{r.name(), fmt.Sprint(len(r.rounds)), counted(r.median(rate)), counted(lo), counted(hi), figure(r.median(megabytes)), times(ratio(t.ours(), r, rate)),
			figure(r.median(latency50)), figure(r.median(latency99)), figure(r.median(latency999)), figure(worst), figure(r.median(cpuPerGB)),
			figure(r.median(func(x bench.Result) float64 { return x.RSSSum })), r.verified()}
		if m != nil {
			text := ""
			if n, ok := bound(m, near, r, ""); ok {
				text = fmt.Sprintf("%.1f %%", 100*n.Share)
			}
			line = append(line, text)
		}
		c.Rows = append(c.Rows, line)
	}
	return c
}

// special are the tables of what only one scenario has.
func (p *painter) special(t *table) []cells {
	add := func(head []string, line func(*row) []string) []cells {
		c := cells{Title: load(t.cell), Head: append([]string{"", "rounds"}, head...)}
		for _, r := range t.rows {
			if len(r.rounds) > 0 {
				c.Rows = append(c.Rows, append([]string{r.name(), fmt.Sprint(len(r.rounds))}, line(r)...))
				c.Class = append(c.Class, p.class(r.system, r.mode))
			}
		}
		if len(c.Rows) == 0 {
			return nil
		}
		return []cells{c}
	}
	of := func(r *row, fn func(bench.Result) float64) string { return figure(r.median(fn)) }
	switch t.cell.Scenario {
	case "L2":
		return add([]string{"to the consumer, p50 ms", "p99 ms", "p99.9 ms", "max ms"}, func(r *row) []string {
			return []string{of(r, endToEnd(func(l *bench.Latency) float64 { return l.P50 })), of(r, endToEnd(func(l *bench.Latency) float64 { return l.P99 })),
				of(r, endToEnd(func(l *bench.Latency) float64 { return l.P999 })), of(r, endToEnd(func(l *bench.Latency) float64 { return l.Max }))}
		})
	case "F1":
		return add([]string{"partitions without their leader", "gap s", "all acknowledge again s", "gap of the others s"}, func(r *row) []string {
			return []string{of(r, failover(func(f *bench.Failover) float64 { return float64(f.Orphaned) })), of(r, failover(func(f *bench.Failover) float64 { return f.GapSec })),
				of(r, failover(func(f *bench.Failover) float64 { return f.FirstAckSec })), of(r, failover(func(f *bench.Failover) float64 { return f.OthersGapSec }))}
		})
	case "F2":
		return add([]string{"missed GB", "in sync after s", "MB/s", "p99 to before"}, func(r *row) []string {
			return []string{of(r, comeBack(func(x *bench.Return) float64 { return float64(x.MissedBytes) / 1e9 })), of(r, comeBack(func(x *bench.Return) float64 { return x.InSyncSec })),
				of(r, comeBack(func(x *bench.Return) float64 { return x.MissedMBSec })), times(r.median(comeBack(func(x *bench.Return) float64 { return x.P99Ratio })))}
		})
	case "C1":
		return add([]string{"backlog records", "read after s", "records/s", "MB/s", "producers keep %", "page cache"}, func(r *row) []string {
			return []string{of(r, catchUp(func(x *bench.CatchUp) float64 { return float64(x.BacklogRecords) })), of(r, catchUp(func(x *bench.CatchUp) float64 { return x.Seconds })),
				of(r, catchUp(func(x *bench.CatchUp) float64 { return x.RecordsSec })), of(r, catchUp(func(x *bench.CatchUp) float64 { return x.MBSec })),
				of(r, catchUp(func(x *bench.CatchUp) float64 { return 100 * x.Kept })), cacheOf(r)}
		})
	case "R1":
		return add([]string{"on the disks GB", "clean: open s", "led s", "acknowledged s", "unclean: open s", "led s", "acknowledged s", "page cache"}, func(r *row) []string {
			return []string{of(r, restart(func(x *bench.Restart) float64 { return float64(x.DiskBytes) / 1e9 })),
				of(r, restart(func(x *bench.Restart) float64 { return x.Clean.OpenSec })), of(r, restart(func(x *bench.Restart) float64 { return x.Clean.LedSec })), of(r, restart(func(x *bench.Restart) float64 { return x.Clean.AckSec })),
				of(r, restart(func(x *bench.Restart) float64 { return x.Unclean.OpenSec })), of(r, restart(func(x *bench.Restart) float64 { return x.Unclean.LedSec })), of(r, restart(func(x *bench.Restart) float64 { return x.Unclean.AckSec })), cacheOf(r)}
		})
	}
	return nil
}

func cacheOf(r *row) string {
	for _, x := range r.rounds {
		if x.CatchUp != nil {
			return x.CatchUp.Cache
		}
		if x.Restart != nil {
			return x.Restart.Cache
		}
	}
	return ""
}

// notes are what the results say beside their figures, each once, with who says it.
func notes(ts []*table) (all []string) {
	add := func(r *row, text string) {
		if text = r.name() + ": " + text; !slices.Contains(all, text) {
			all = append(all, text)
		}
	}
	for _, t := range ts {
		for _, r := range t.rows {
			switch {
			case r.absent != "" && len(r.rounds) > 0:
				add(r, "a round failed: "+r.absent)
			case r.absent != "":
				add(r, r.absent)
			}
			var errs int64
			for _, x := range r.rounds {
				errs += x.Errors
				for _, n := range x.Notes {
					add(r, n)
				}
			}
			if errs > 0 {
				add(r, fmt.Sprintf("%s, %s refused or timed out after the client's own retries", load(t.cell), plural(int(errs), "record")))
			}
		}
	}
	return all
}

// many is M2.
func (p *painter) many(rows []*manyRow) section {
	s := section{ID: "M2", What: titles["M2"]}
	c := cells{Title: "medians; CPU of one core and memory of a node, in the mean of the nodes",
		Head: []string{"", "rounds", "partitions", "idle CPU %", "memory MB", "KB each", "made in s", "started in s", "led by the one killed", "led again p50 s", "p99 s", "all s", "survivors' CPU %"}}
	for _, r := range rows {
		c.Class = append(c.Class, p.class(r.system, ""))
		if len(r.rounds) == 0 {
			c.Rows = append(c.Rows, []string{r.system, "", counted(float64(r.wanted)), r.absent})
			continue
		}
		of := func(fn func(bench.Many) float64) string { return figure(r.median(fn)) }
		c.Rows = append(c.Rows, []string{r.system, fmt.Sprint(len(r.rounds)), counted(float64(r.rounds[0].Partitions)), of(func(m bench.Many) float64 { return mean(m.IdleCPU) }), of(func(m bench.Many) float64 { return mean(m.RSS) }),
			of(func(m bench.Many) float64 { return m.PerKB }), of(func(m bench.Many) float64 { return m.CreateSec }), of(func(m bench.Many) float64 { return m.StartSec }),
			of(func(m bench.Many) float64 { return float64(m.Orphaned) }), of(func(m bench.Many) float64 { return m.RecoverP50 }), of(func(m bench.Many) float64 { return m.RecoverP99 }),
			of(func(m bench.Many) float64 { return m.RecoverMax }), of(func(m bench.Many) float64 { return mean(m.LeftCPU) })})
		if r.absent != "" {
			s.Notes = append(s.Notes, r.system+": "+r.absent)
		}
		for _, m := range r.rounds {
			for _, n := range m.Notes {
				if text := r.system + ": " + n; !slices.Contains(s.Notes, text) {
					s.Notes = append(s.Notes, text)
				}
			}
		}
	}
	f := figures{Title: "Three replicas each, nobody produces or consumes", Tables: []cells{c}}
	if d := p.recovery(rows); d != "" {
		f.Drawings = append(f.Drawings, drawn{d, "After kill -9 of a broker: how many of its partitions nobody leads yet."})
	}
	s.Figures = append(s.Figures, f)
	return s
}

// limitTables are what `broker bench limits` prints, as tables.
func limitTables(m *limit.Machine, near []limit.Near) *limits {
	l := &limits{
		Measured: cells{Title: fmt.Sprintf("measured %s, median of %d rounds", m.Taken.Format(time.DateOnly), m.Rounds), Head: []string{"", "median", "min", "max"}},
		Model:    cells{Title: "the best possible", Head: []string{"", "best possible", "set by", "of"}},
	}
	for _, x := range m.Figures() {
		l.Measured.Rows = append(l.Measured.Rows, []string{x.What, figure(x.Median) + " " + x.Unit, figure(x.Min), figure(x.Max)})
	}
	for _, x := range m.Model() {
		l.Model.Rows = append(l.Model.Rows, []string{x.What, figure(x.Value) + " " + x.Unit, x.By, strings.Join(x.Parts, ", ")})
	}
	l.Prices = cells{Title: "what a byte costs at the least: the parts", Head: []string{"", "", "CPU s/GB"}}
	for _, x := range m.Prices() {
		for _, part := range x.Parts {
			l.Prices.Rows = append(l.Prices.Rows, []string{x.What, part.What, fmt.Sprintf("%.2f", part.Ns)})
		}
		l.Prices.Rows = append(l.Prices.Rows, []string{x.What, fmt.Sprintf("all of it: %s can do %s MB/s", plural(m.Host.CPUs, "processor"), figure(x.MBSec)), fmt.Sprintf("%.2f", x.Sum)})
	}
	if len(near) > 0 {
		c := cells{Title: "how near", Head: []string{"load", "", "", "measured", "best possible", "of it", "set by"}}
		for _, n := range near {
			c.Rows = append(c.Rows, []string{n.Cell.Scenario + " " + string(n.Cell.Class) + ", " + load(n.Cell), strings.TrimSpace(n.System + " " + n.Mode), n.What, figure(n.Value) + " " + n.Bound.Unit,
				figure(n.Bound.Value), fmt.Sprintf("%.1f %%", 100*n.Share), n.Bound.By})
		}
		l.Near = append(l.Near, c)
	}
	return l
}

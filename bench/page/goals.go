// Where we want to be: each goal beside what was measured. The goals are those of the benchmarks' page in the design, in words; whether one is
// met is computed only where both sides of it stand in one run.

package page

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/balsamq/balsa/bench"
	"github.com/balsamq/balsa/bench/limit"
)

// goal is a row of the first table.
type goal struct {
	ID, What, Goal string
	Figures        []string // by column: ours, then the peers
	Rounds         []int    // by column: how many the figure rests on
	Limit          string   // the best possible, and our share of it
	LimitNote      string   // what else there is to say of it
	Verdict        string   // "met", "missed", or empty: not to be told from this run
	Why            string   // how the verdict came about
}

// peers are the other systems of a run that have figures, in its order.
func peers(r *bench.Report) (names []string) {
	add := func(s string) {
		if s != ours && !slices.Contains(names, s) {
			names = append(names, s)
		}
	}
	for _, x := range r.Results {
		if x.Skipped == "" && x.Failed == "" {
			add(x.System)
		}
	}
	for _, m := range r.Many {
		if m.Skipped == "" {
			add(m.System)
		}
	}
	return names
}

// asked picks the cell that a goal speaks of: the last of the scenario and class with three replicas that ok likes.
func asked(ts []*table, scenario string, class bench.Class, ok func(bench.Cell) bool) *table {
	for _, t := range slices.Backward(ts) {
		if t.cell.Scenario == scenario && t.cell.Class == class && t.cell.Replicas == 3 && (ok == nil || ok(t.cell)) {
			return t
		}
	}
	return nil
}

// largest is the table of a scenario with three replicas in which a system has the most behind it.
func largest(ts []*table, scenario, system string) (found *table) {
	for _, t := range ts {
		if t.cell.Scenario == scenario && t.cell.Replicas == 3 && (found == nil || t.cell.Backlog > found.cell.Backlog) &&
			slices.ContainsFunc(t.rows, func(r *row) bool { return r.system == system && len(r.rounds) > 0 }) {
			found = t
		}
	}
	return found
}

// best is the row of a system's best mode.
func (t *table) best(system string, of func(bench.Result) float64, higher bool) *row {
	var best *row
	if t == nil {
		return nil
	}
	for _, r := range t.rows {
		if r.system != system || len(r.rounds) == 0 || r.median(of) == 0 {
			continue
		}
		if best == nil || (r.median(of) > best.median(of)) == higher {
			best = r
		}
	}
	return best
}

// want is one comparison that a goal asks for.
type want struct {
	ok    bool
	text  string
	open  bool // it could not be made: the other side was not measured
	aside bool // told, but not what the goal asks for
}

// judge makes a verdict of all that is asked for: met if all of it is, missed if any is not, and else not to be told.
func (g *goal) judge(wants ...want) {
	missed, open := false, len(wants) == 0
	var told []string
	for _, w := range wants {
		told = append(told, w.text)
		if w.aside {
			continue
		}
		missed = missed || !w.open && !w.ok
		open = open || w.open
	}
	switch g.Why = strings.Join(told, "; "); {
	case missed:
		g.Verdict = missedGoal
	case !open:
		g.Verdict = metGoal
	}
}

// Verdicts, which are classes of the style sheet, too.
const (
	metGoal    = "met"
	missedGoal = "missed"
)

// share is how much of the best possible was reached.
func share(of float64) string {
	if of < 0.01 {
		return "less than 1 % of it"
	}
	return fmt.Sprintf("%.0f %% of it", 100*of)
}

// absent is what stands where nothing was measured.
const absent = "–"

// goals are all that there are, of those of which the run has no figure of ours only if all is asked for.
func goals(r *bench.Report, ts []*table, m *limit.Machine, near []limit.Near, whole bool) (all []goal) {
	columns := append([]string{ours}, peers(r)...)
	// add adds one figure by system, best modes, each in the table that from has for it; judge is called if there is ours.
	add := func(g goal, from func(system string) *table, of func(bench.Result) float64, higher bool, unit, measure string, judge func(g *goal, our *row)) {
		our := from(ours).best(ours, of, higher)
		if our == nil && !whole {
			return
		}
		for _, s := range columns {
			t := from(s)
			x := t.best(s, of, higher)
			if x == nil {
				g.Figures, g.Rounds = append(g.Figures, absent), append(g.Rounds, 0)
				continue
			}
			g.Rounds = append(g.Rounds, len(x.rounds))
			text := strings.ReplaceAll(figure(x.median(of))+" "+unit, " ×", "×")
			if our != nil && t.cell.Backlog != our.cell.Backlog {
				text += fmt.Sprintf(" (%s)", behind(t.cell))
			}
			g.Figures = append(g.Figures, text)
		}
		if our == nil {
			g.Why = "not measured"
			all = append(all, g)
			return
		}
		if our.cell.Backlog > 0 {
			g.What += ", " + behind(our.cell)
		}
		if n, ok := bound(m, near, our, measure); ok && measure != "" {
			g.Limit = fmt.Sprintf("%s %s; %s", figure(n.Bound.Value), n.Bound.Unit, share(n.Share))
			for suffix, text := range map[string]string{limit.BrokersAlone: "if the clients' work were none", limit.ClientAsItWas: "beside a client that takes what it took"} {
				if x, ok := bound(m, near, our, measure+suffix); ok { // a measure has one of them
					g.LimitNote = fmt.Sprintf("%s: %s %s, %s", text, figure(x.Bound.Value), x.Bound.Unit, share(x.Share))
				}
			}
			if g.ID == "L1" {
				g.LimitNote = fmt.Sprintf("in %s: %s", n.Bound.Unit, strings.Join(n.Bound.Parts, ", "))
			}
		}
		judge(&g, our)
		all = append(all, g)
	}
	one := func(t *table) func(string) *table { return func(string) *table { return t } }
	// against compares with a peer's best mode in a table; least or most is what the ratio has to be.
	against := func(our *row, t *table, system string, of func(bench.Result) float64, higher bool, enough func(float64) bool) want {
		class := bench.ClassA
		if t != nil {
			class = t.cell.Class
		}
		name := fmt.Sprintf("%s's class %s", proper(system), class)
		peer := t.best(system, of, higher)
		got := 0.0
		if peer != nil {
			got = ratio(our, peer, of)
		}
		if got == 0 {
			return want{open: true, text: name + " was not measured"}
		}
		if class != our.cell.Class { // the columns do not have it
			name += fmt.Sprintf(" (%s)", figure(peer.median(of)))
		}
		return want{ok: enough(got), text: times(got) + " " + name}
	}
	least := func(x float64) func(float64) bool { return func(got float64) bool { return got >= x } }
	most := func(x float64) func(float64) bool { return func(got float64) bool { return got <= x } }
	below := func(x float64) func(float64) bool { return func(got float64) bool { return got < x } }
	plain := func(ok bool, text string, args ...any) want { return want{ok: ok, text: fmt.Sprintf(text, args...)} }

	tb, ta := asked(ts, "T1", bench.ClassB, nil), asked(ts, "T1", bench.ClassA, nil)
	add(goal{ID: "T1", What: "throughput, ours of class B", Goal: "10× JetStream's class B, 3× its class A; 2× Kafka's class A"}, one(tb), megabytes, true, "MB/s", "throughput", func(g *goal, our *row) {
		g.judge(against(our, tb, "jetstream", megabytes, true, least(10)), against(our, ta, "jetstream", megabytes, true, least(3)), against(our, ta, "kafka", megabytes, true, least(2)))
	})
	add(goal{ID: "T1", What: "CPU for a GB, class B", Goal: "at most half of Kafka's"}, one(tb), cpuPerGB, false, "s/GB", "", func(g *goal, our *row) {
		other := against(our, ta, "kafka", cpuPerGB, false, most(0.5))
		other.aside = true
		g.judge(against(our, tb, "kafka", cpuPerGB, false, most(0.5)), other)
	})
	lb, la := asked(ts, "L1", bench.ClassB, nil), asked(ts, "L1", bench.ClassA, nil)
	add(goal{ID: "L1", What: "p50, ours of class B", Goal: "below JetStream's class A"}, one(lb), latency50, false, "ms", "p50", func(g *goal, our *row) {
		g.judge(against(our, la, "jetstream", latency50, false, below(1)))
	})
	add(goal{ID: "L1", What: "p99, class B", Goal: "below 3 ms"}, one(lb), latency99, false, "ms", "p99", func(g *goal, our *row) {
		g.judge(plain(our.median(latency99) < 3, "%s ms", figure(our.median(latency99))))
	})
	eb, ea := asked(ts, "L2", bench.ClassB, nil), asked(ts, "L2", bench.ClassA, nil)
	for _, x := range []struct {
		name, measure string
		of            func(bench.Result) float64
	}{{"p99", "p99 to the consumer", endToEnd(func(l *bench.Latency) float64 { return l.P99 })}, {"p99.9", "", endToEnd(func(l *bench.Latency) float64 { return l.P999 })}} {
		add(goal{ID: "L2", What: x.name + " to the consumer, ours of class B", Goal: "the lowest of all, in either class"}, one(eb), x.of, false, "ms", x.measure, func(g *goal, our *row) {
			var wants []want
			for _, s := range columns[1:] {
				wants = append(wants, against(our, eb, s, x.of, false, below(1)), against(our, ea, s, x.of, false, below(1)))
			}
			g.judge(wants...)
		})
	}
	// With the scenario's own window a batch of 1,024 partitions is one record; with the wide one it is as in a client at its defaults.
	for _, wide := range []bool{false, true} {
		with := func(partitions int) *table {
			return asked(ts, "M1", bench.ClassB, func(c bench.Cell) bool {
				return c.Partitions == partitions && (c.InflightBytes >= bench.WideWindow) == wide
			})
		}
		many, few, what := with(1024), with(16), "1,024 active partitions"
		if wide {
			what += fmt.Sprintf(", %d MiB in flight each", bench.WideWindow>>20)
		}
		add(goal{ID: "M1", What: what, Goal: "half the throughput of 16"}, one(many), megabytes, true, "MB/s", "throughput", func(g *goal, our *row) {
			got := ratio(our, few.best(ours, megabytes, true), megabytes)
			if got == 0 {
				g.judge(want{open: true, text: "16 were not measured"})
				return
			}
			g.judge(plain(got >= 0.5, "%.0f %% of 16", 100*got))
		})
	}
	all = append(all, manyGoals(r, columns, near, whole)...)
	f1 := asked(ts, "F1", bench.ClassB, nil)
	gap := failover(func(f *bench.Failover) float64 { return f.GapSec })
	add(goal{ID: "F1", What: "without acknowledgements", Goal: "2× the election timeout; nothing lost or twice"}, one(f1), gap, false, "s", "time without acknowledgements", func(g *goal, our *row) {
		g.judge(plain(our.median(gap) <= 2*limit.Election.Seconds(), "%s s of an election timeout of %v", figure(our.median(gap)), limit.Election), returned(our))
	})
	size := func(id string) func(string) *table { return func(s string) *table { return largest(ts, id, s) } }
	back := comeBack(func(x *bench.Return) float64 { return x.MissedMBSec })
	add(goal{ID: "F2", What: "catching up", Goal: "at disk or network speed: 80 % of the best possible counts"}, size("F2"), back, true, "MB/s", "catching up", func(g *goal, our *row) {
		g.judge(reached(m, near, our, "catching up"))
	})
	worse := comeBack(func(x *bench.Return) float64 { return x.P99Ratio })
	add(goal{ID: "F2", What: "p99 meanwhile, to before", Goal: "within 2×"}, size("F2"), worse, false, "×", "", func(g *goal, our *row) {
		g.judge(plain(our.median(worse) <= 2, "%s", times(our.median(worse))))
	})
	read := catchUp(func(x *bench.CatchUp) float64 { return x.MBSec })
	add(goal{ID: "C1", What: "reading a backlog", Goal: "80 % of what reading and sending costs"}, size("C1"), read, true, "MB/s", "reading the backlog", func(g *goal, our *row) {
		g.judge(reached(m, near, our, "reading the backlog"))
	})
	kept := catchUp(func(x *bench.CatchUp) float64 { return 100 * x.Kept })
	add(goal{ID: "C1", What: "producers keep", Goal: "90 %"}, size("C1"), kept, true, "%", "", func(g *goal, our *row) {
		g.judge(plain(our.median(kept) >= 90, "%.0f %%", our.median(kept)))
	})
	for _, x := range []struct {
		what, measure string
		most          float64
		of            func(bench.Result) float64
	}{{"logs open, clean", "open, clean", 1, restart(func(x *bench.Restart) float64 { return x.Clean.OpenSec })},
		{"logs open, unclean", "open, unclean", 3, restart(func(x *bench.Restart) float64 { return x.Unclean.OpenSec })}} {
		add(goal{ID: "R1", What: x.what, Goal: fmt.Sprintf("under %g s", x.most)}, size("R1"), x.of, false, "s", x.measure, func(g *goal, our *row) {
			g.judge(plain(our.median(x.of) < x.most, "%s s", figure(our.median(x.of))))
		})
	}
	return all
}

// On says how many rounds the figures rest on: one number where they are as many of each, else one for each column.
func (g goal) On() string {
	var texts []string
	same := true
	for _, n := range g.Rounds {
		same = same && (n == 0 || n == g.Rounds[0])
		text := absent
		if n > 0 {
			text = fmt.Sprint(n)
		}
		texts = append(texts, text)
	}
	if same && len(texts) > 0 {
		return texts[0]
	}
	return strings.Join(texts, " / ")
}

// reached is whether it is 80 % of the best possible.
func reached(m *limit.Machine, near []limit.Near, r *row, what string) want {
	n, ok := bound(m, near, r, what)
	if !ok {
		return want{open: true, text: "the best possible was not measured"}
	}
	return want{ok: n.Share >= 0.8, text: fmt.Sprintf("%.0f %% of the best possible, set by %s", 100*n.Share, n.Bound.By)}
}

// returned is whether all rounds gave back what was acknowledged, once.
func returned(r *row) want {
	var lost, twice int64
	for _, x := range r.rounds {
		if x.Verified == nil {
			return want{open: true, text: "not read back"}
		}
		lost += x.Verified.Lost
		twice += x.Verified.Duplicated
	}
	return want{ok: lost == 0 && twice == 0, text: fmt.Sprintf("%d lost, %d twice", lost, twice)}
}

// behind is how much a load has on its disks: of all brokers together where that is what counts.
func behind(c bench.Cell) string {
	n := c.Backlog
	if c.Scenario == "R1" {
		n *= int64(c.Replicas)
	}
	return fmt.Sprintf("%.2g GB", float64(n)/1e9)
}

// proper is how a system writes its name.
func proper(system string) string {
	switch system {
	case ours:
		return "Balsa"
	case "jetstream":
		return "JetStream"
	case "kafka":
		return "Kafka"
	}
	return system
}

// manyWanted are the partitions of which M2's goals speak: with fewer nothing is met or missed.
const manyWanted = 10_000

// manyGoals are those of M2, at the largest number of partitions of ours.
func manyGoals(r *bench.Report, columns []string, near []limit.Near, whole bool) (all []goal) {
	rows := manyRows(r.Many)
	most := 0
	for _, x := range rows {
		if x.system == ours && len(x.rounds) > 0 {
			most = max(most, x.wanted)
		}
	}
	if most == 0 && !whole {
		return nil
	}
	for _, x := range []struct {
		what, goal, unit string
		limit            float64
		of               func(bench.Many) float64
	}{
		{"idle CPU of a broker", "under 5 %", "%", 5, func(m bench.Many) float64 { return mean(m.IdleCPU) }},
		{"memory of a partition", "under 50 KB", "KB", 50, func(m bench.Many) float64 { return m.PerKB }},
		{"all led again", "within 5 s", "s", 5, func(m bench.Many) float64 { return m.RecoverMax }},
	} {
		g := goal{ID: "M2", What: fmt.Sprintf("%s, %s", x.what, plural(cmp.Or(most, manyWanted), "partition")), Goal: x.goal}
		if most == 0 {
			g.Why = "not measured"
		}
		for _, s := range columns {
			// A peer's may be fewer: those nearest to ours.
			var y *manyRow
			for _, z := range rows {
				if z.system == s && len(z.rounds) > 0 && z.median(x.of) > 0 && (y == nil || z.wanted > y.wanted) {
					y = z
				}
			}
			if y == nil {
				g.Figures, g.Rounds = append(g.Figures, absent), append(g.Rounds, 0)
				continue
			}
			g.Rounds = append(g.Rounds, len(y.rounds))
			v := y.median(x.of)
			text := figure(v) + " " + x.unit
			if n := y.rounds[0].Partitions; n != most {
				text += fmt.Sprintf(" (%s)", counted(float64(n)))
			}
			if s == ours && y.wanted == most {
				g.judge(want{ok: v < x.limit, open: most < manyWanted, text: text})
			}
			g.Figures = append(g.Figures, text)
		}
		for _, n := range near {
			if x.unit == "s" && n.Cell.Scenario == "M2" && n.System == ours && n.Cell.Partitions == most {
				g.Limit = fmt.Sprintf("%s s; %s", figure(n.Bound.Value), share(n.Share))
			}
		}
		all = append(all, g)
	}
	return all
}

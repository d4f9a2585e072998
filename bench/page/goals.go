// Where we want to be: each goal beside what was measured. The goals are those of the benchmarks' page in the design, in words; whether one is
// met is computed only where both sides of it stand in one run.

package page

import (
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
	Limit          string   // the best possible, and our share of it
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

// best is the row of a system's best mode.
func (t *table) best(system string, of func(bench.Result) float64, higher bool) *row {
	var best *row
	if t == nil {
		return nil
	}
	for _, r := range t.rows {
		if r.system != system || len(r.rounds) == 0 {
			continue
		}
		if best == nil || (r.median(of) > best.median(of)) == higher {
			best = r
		}
	}
	return best
}

// goals are all for which the run has a figure of ours.
func goals(r *bench.Report, ts []*table, m *limit.Machine, near []limit.Near) (all []goal) {
	columns := append([]string{ours}, peers(r)...)
	// row is one figure of one cell by system, best modes.
	row := func(id, what, text string, t *table, of func(bench.Result) float64, higher bool, unit, measure string) *goal {
		our := t.best(ours, of, higher)
		if our == nil || our.median(of) == 0 {
			return nil
		}
		g := goal{ID: id, What: what, Goal: text}
		for _, s := range columns {
			if x := t.best(s, of, higher); x != nil && x.median(of) > 0 {
				g.Figures = append(g.Figures, figure(x.median(of))+" "+unit)
			} else {
				g.Figures = append(g.Figures, "–")
			}
		}
		if n, ok := bound(m, near, our, measure); ok && measure != "" {
			g.Limit = fmt.Sprintf("%s %s; %.0f %% of it", figure(n.Bound.Value), n.Bound.Unit, 100*n.Share)
		}
		all = append(all, g)
		return &all[len(all)-1]
	}
	verdict := func(g *goal, ok bool, why string, args ...any) {
		if g == nil || strings.Contains(g.Verdict, "missed") {
			return
		}
		g.Verdict = map[bool]string{true: "met", false: "missed"}[ok]
		g.Why = strings.TrimPrefix(g.Why+"; "+fmt.Sprintf(why, args...), "; ")
	}
	p99 := func(l *bench.Latency) float64 { return l.P99 }
	p999 := func(l *bench.Latency) float64 { return l.P999 }

	tb, ta := asked(ts, "T1", bench.ClassB, nil), asked(ts, "T1", bench.ClassA, nil)
	if g := row("T1", "throughput class B", "10× JetStream's class B, 3× its class A; 2× Kafka's class A", tb, megabytes, true, "MB/s", "throughput"); g != nil {
		our := tb.ours()
		for _, x := range []struct {
			t    *table
			name string
			want float64
		}{{tb, "jetstream", 10}, {ta, "jetstream", 3}, {ta, "kafka", 2}} {
			if peer := x.t.best(x.name, megabytes, true); peer != nil {
				if got := our.median(megabytes) / peer.median(megabytes); got > 0 {
					verdict(g, got >= x.want, "%s of %s's class %s", times(got), x.name, x.t.cell.Class)
				}
			}
		}
	}
	row("T1", "throughput class A", "", ta, megabytes, true, "MB/s", "throughput")
	if g := row("T1", "CPU class B", "at most half of Kafka's", tb, cpuPerGB, false, "s/GB", ""); g != nil {
		if peer := tb.best("kafka", cpuPerGB, false); peer != nil {
			got := tb.ours().median(cpuPerGB) / peer.median(cpuPerGB)
			verdict(g, got <= 0.5, "%s of Kafka's in the same class", times(got))
		}
	}
	lb, la := asked(ts, "L1", bench.ClassB, nil), asked(ts, "L1", bench.ClassA, nil)
	if g := row("L1", "p50 class B", "below JetStream's class A", lb, latency50, false, "ms", "p50"); g != nil {
		if peer := la.best("jetstream", latency50, false); peer != nil {
			verdict(g, lb.ours().median(latency50) < peer.median(latency50), "JetStream's class A is %s ms", figure(peer.median(latency50)))
		}
	}
	if g := row("L1", "p99 class B", "below 3 ms", lb, latency99, false, "ms", "p99"); g != nil {
		verdict(g, lb.ours().median(latency99) < 3, "%s ms", figure(lb.ours().median(latency99)))
	}
	for _, class := range []bench.Class{bench.ClassB, bench.ClassA} {
		t := asked(ts, "L2", class, nil)
		for _, x := range []struct {
			name, measure string
			of            func(bench.Result) float64
		}{{"p99", "p99 to the consumer", endToEnd(p99)}, {"p99.9", "", endToEnd(p999)}} {
			g := row("L2", fmt.Sprintf("%s to the consumer, class %s", x.name, class), "the lowest", t, x.of, false, "ms", x.measure)
			if g == nil {
				continue
			}
			for _, s := range columns[1:] {
				if peer := t.best(s, x.of, false); peer != nil && peer.median(x.of) > 0 {
					verdict(g, t.ours().median(x.of) < peer.median(x.of), "%s: %s ms", s, figure(peer.median(x.of)))
				}
			}
		}
	}
	many := asked(ts, "M1", bench.ClassB, func(c bench.Cell) bool { return c.Partitions == 1024 })
	few := asked(ts, "M1", bench.ClassB, func(c bench.Cell) bool { return c.Partitions == 16 })
	if g := row("M1", "1,024 active partitions", "half the throughput of 16", many, megabytes, true, "MB/s", "throughput"); g != nil {
		if base := few.best(ours, megabytes, true); base != nil {
			got := many.ours().median(megabytes) / base.median(megabytes)
			verdict(g, got >= 0.5, "%.0f %% of 16", 100*got)
		}
	}
	all = append(all, manyGoals(r, columns, near)...)
	f1 := asked(ts, "F1", bench.ClassB, nil)
	if g := row("F1", "without acknowledgements", "2× the election timeout; nothing lost or twice", f1, failover(func(f *bench.Failover) float64 { return f.GapSec }), false, "s", "time without acknowledgements"); g != nil {
		gap := f1.ours().median(failover(func(f *bench.Failover) float64 { return f.GapSec }))
		verdict(g, gap <= 2*limit.Election.Seconds(), "%s s of an election timeout of %v", figure(gap), limit.Election)
		for _, x := range f1.ours().rounds {
			if x.Verified != nil {
				verdict(g, x.Verified.OK(), "%d lost, %d twice", x.Verified.Lost, x.Verified.Duplicated)
				break
			}
		}
	}
	f2 := asked(ts, "F2", bench.ClassB, nil)
	row("F2", "catching up", "at disk or network speed", f2, comeBack(func(x *bench.Return) float64 { return x.MissedMBSec }), true, "MB/s", "catching up")
	if g := row("F2", "p99 meanwhile, to before", "within 2×", f2, comeBack(func(x *bench.Return) float64 { return x.P99Ratio }), false, "×", ""); g != nil {
		got := f2.ours().median(comeBack(func(x *bench.Return) float64 { return x.P99Ratio }))
		verdict(g, got <= 2, "%s", times(got))
	}
	c1 := asked(ts, "C1", bench.ClassB, nil)
	if g := row("C1", "reading a backlog", "80 % of what reading and sending costs", c1, catchUp(func(x *bench.CatchUp) float64 { return x.MBSec }), true, "MB/s", "reading the backlog"); g != nil {
		if n, ok := bound(m, near, c1.ours(), "reading the backlog"); ok {
			verdict(g, n.Share >= 0.8, "%.0f %%", 100*n.Share)
		}
	}
	if g := row("C1", "producers keep", "90 %", c1, catchUp(func(x *bench.CatchUp) float64 { return 100 * x.Kept }), true, "%", ""); g != nil {
		got := c1.ours().median(catchUp(func(x *bench.CatchUp) float64 { return x.Kept }))
		verdict(g, got >= 0.9, "%.0f %%", 100*got)
	}
	r1 := asked(ts, "R1", bench.ClassB, nil)
	for _, x := range []struct {
		what, measure string
		most          float64
		of            func(bench.Result) float64
	}{{"logs open, clean", "open, clean", 1, restart(func(x *bench.Restart) float64 { return x.Clean.OpenSec })},
		{"logs open, unclean", "open, unclean", 3, restart(func(x *bench.Restart) float64 { return x.Unclean.OpenSec })}} {
		if g := row("R1", x.what, fmt.Sprintf("under %g s", x.most), r1, x.of, false, "s", x.measure); g != nil {
			verdict(g, r1.ours().median(x.of) < x.most, "%s s", figure(r1.ours().median(x.of)))
		}
	}
	return all
}

// manyGoals are those of M2, at the largest number of partitions of ours.
func manyGoals(r *bench.Report, columns []string, near []limit.Near) (all []goal) {
	rows := manyRows(r.Many)
	most := 0
	for _, x := range rows {
		if x.system == ours && len(x.rounds) > 0 {
			most = max(most, x.wanted)
		}
	}
	if most == 0 {
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
		g := goal{ID: "M2", What: fmt.Sprintf("%s, %s", x.what, plural(most, "partition")), Goal: x.goal}
		for _, s := range columns {
			text := "–"
			for _, y := range rows {
				if y.system != s || y.wanted != most || len(y.rounds) == 0 {
					continue
				}
				if v := y.median(x.of); v > 0 {
					text = figure(v) + " " + x.unit
					if s == ours {
						g.Verdict = map[bool]string{true: "met", false: "missed"}[v < x.limit]
					}
					if n := y.rounds[0].Partitions; n != most {
						text += fmt.Sprintf(" (%s)", counted(float64(n)))
					}
				}
			}
			g.Figures = append(g.Figures, text)
		}
		for _, n := range near {
			if x.unit == "s" && n.Cell.Scenario == "M2" && n.System == ours && n.Cell.Partitions == most {
				g.Limit = fmt.Sprintf("%s s; %.0f %% of it", figure(n.Bound.Value), 100*n.Share)
			}
		}
		all = append(all, g)
	}
	return all
}

// What a run prints: for each cell the median of the rounds of every system, the spread, and how Balsa compares.

package bench

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
)

// row is the rounds of one system under one cell.
type row struct {
	first  Result
	rounds []Result // those that have figures
	others []Result // skipped or failed
}

func (x *row) name() string { return strings.TrimSpace(x.first.System + " " + x.first.Mode) }

func median(rs []Result, of func(Result) float64) float64 {
	v := make([]float64, len(rs))
	for i, r := range rs {
		v[i] = of(r)
	}
	return middle(v)
}

// middle is the median; v is sorted by it.
func middle(v []float64) float64 {
	if len(v) == 0 {
		return 0
	}
	slices.Sort(v)
	if n := len(v); n%2 == 0 {
		return (v[n/2-1] + v[n/2]) / 2
	}
	return v[len(v)/2]
}

func spread(rs []Result, of func(Result) float64) (lo, hi float64) {
	byValue := func(a, b Result) int { return cmp.Compare(of(a), of(b)) }
	return of(slices.MinFunc(rs, byValue)), of(slices.MaxFunc(rs, byValue))
}

// column is a figure of a result.
type column struct {
	head   string
	format string
	of     func(Result) float64
	how    int // medianOnly, withSpread, worst
}

const (
	medianOnly = iota
	withSpread // least and most stand beside it
	worst      // the largest of all rounds
)

// columns are what a scenario's table shows. The first one is what Balsa is compared by; larger is better where it is a rate.
func columns(scenario string) (cols []column, largerIsBetter bool) {
	failover := func(of func(*Failover) float64) func(Result) float64 {
		return func(r Result) float64 { return of(orZero(r.Failover)) }
	}
	back := func(of func(*Return) float64) func(Result) float64 {
		return func(r Result) float64 { return of(orZero(r.Return)) }
	}
	caught := func(of func(*CatchUp) float64) func(Result) float64 {
		return func(r Result) float64 { return of(orZero(r.CatchUp)) }
	}
	again := func(of func(*Restart) float64) func(Result) float64 {
		return func(r Result) float64 { return of(orZero(r.Restart)) }
	}
	p99 := func(phase string) func(Result) float64 {
		return func(r Result) float64 {
			i := slices.IndexFunc(r.Phases, func(p Phase) bool { return p.Name == phase })
			if i < 0 {
				return 0
			}
			return r.Phases[i].Latency.P99
		}
	}
	cpu := []column{{"CPU s/GB", "%.1f", func(r Result) float64 { return r.CPUSecGB }, medianOnly}, {"RSS MB", "%.0f", func(r Result) float64 { return r.RSSSum }, worst}}
	rate := []column{{"records/s", "%.0f", func(r Result) float64 { return r.RecordsSec }, withSpread}, {"MB/s", "%.1f", func(r Result) float64 { return r.MBSec }, medianOnly}}
	latency := []column{{"p50 ms", "%.2f", func(r Result) float64 { return r.Latency.P50 }, medianOnly}, {"p99 ms", "%.2f", func(r Result) float64 { return r.Latency.P99 }, medianOnly},
		{"p99.9 ms", "%.2f", func(r Result) float64 { return r.Latency.P999 }, medianOnly}, {"max ms", "%.1f", func(r Result) float64 { return r.Latency.Max }, worst}}
	switch scenario {
	case "L1":
		latency[0].how = withSpread
		return slices.Concat(latency, rate[:1], cpu), false
	case "L2":
		e := func(of func(*Latency) float64) func(Result) float64 {
			return func(r Result) float64 { return of(orZero(r.EndToEnd)) }
		}
		return slices.Concat([]column{{"read p99 ms", "%.2f", e(func(l *Latency) float64 { return l.P99 }), withSpread}, {"p50", "%.2f", e(func(l *Latency) float64 { return l.P50 }), medianOnly},
			{"p99.9", "%.2f", e(func(l *Latency) float64 { return l.P999 }), medianOnly}, {"max", "%.1f", e(func(l *Latency) float64 { return l.Max }), worst},
			{"ack p50", "%.2f", latency[0].of, medianOnly}, {"p99", "%.2f", latency[1].of, medianOnly}, {"p99.9", "%.2f", latency[2].of, medianOnly}}, rate[:1], cpu), false
	case "F1":
		return []column{{"silent s", "%.2f", failover(func(f *Failover) float64 { return f.GapSec }), withSpread}, {"served s", "%.2f", failover(func(f *Failover) float64 { return f.FirstAckSec }), medianOnly},
			{"others silent s", "%.2f", failover(func(f *Failover) float64 { return f.OthersGapSec }), medianOnly}, {"orphaned", "%.0f", failover(func(f *Failover) float64 { return float64(f.Orphaned) }), medianOnly},
			{"p99 before ms", "%.2f", p99("before"), medianOnly}, {"p99 after ms", "%.1f", p99("after"), medianOnly}}, false
	case "F2":
		return slices.Concat([]column{{"in sync s", "%.2f", back(func(r *Return) float64 { return r.InSyncSec }), withSpread}, {"missed GB", "%.2f", back(func(r *Return) float64 { return float64(r.MissedBytes) / gigabyte }), medianOnly},
			{"MB/s", "%.1f", back(func(r *Return) float64 { return r.MissedMBSec }), medianOnly}, {"p99 away ms", "%.2f", p99("one away, live load"), medianOnly}, {"catching up", "%.2f", p99("catching up"), medianOnly},
			{"back", "%.2f", p99("back"), medianOnly}, {"times", "%.2f", back(func(r *Return) float64 { return r.P99Ratio }), medianOnly}}, cpu[1:]), false
	case "C1":
		return slices.Concat([]column{{"read MB/s", "%.1f", caught(func(c *CatchUp) float64 { return c.MBSec }), withSpread}, {"backlog s", "%.2f", caught(func(c *CatchUp) float64 { return c.Seconds }), medianOnly},
			{"join s", "%.2f", caught(func(c *CatchUp) float64 { return c.JoinSec }), medianOnly}, {"producers keep", "%.2f", caught(func(c *CatchUp) float64 { return c.Kept }), medianOnly},
			{"p99 alone ms", "%.2f", p99("producers alone"), medianOnly}, {"p99 meanwhile", "%.2f", p99("catching up"), medianOnly}}, cpu), true
	case "R1":
		return []column{{"unclean open s", "%.2f", again(func(r *Restart) float64 { return r.Unclean.OpenSec }), withSpread}, {"led", "%.2f", again(func(r *Restart) float64 { return r.Unclean.LedSec }), medianOnly},
			{"acked", "%.2f", again(func(r *Restart) float64 { return r.Unclean.AckSec }), medianOnly}, {"clean open s", "%.2f", again(func(r *Restart) float64 { return r.Clean.OpenSec }), medianOnly},
			{"led", "%.2f", again(func(r *Restart) float64 { return r.Clean.LedSec }), medianOnly}, {"acked", "%.2f", again(func(r *Restart) float64 { return r.Clean.AckSec }), medianOnly},
			{"stop s", "%.2f", again(func(r *Restart) float64 { return r.Clean.StopSec }), medianOnly}, {"disk GB", "%.2f", again(func(r *Restart) float64 { return float64(r.DiskBytes) / gigabyte }), medianOnly}}, false
	}
	return slices.Concat(rate, latency, cpu), true
}

// Line says in short what came out; empty where nothing did.
func (r *Result) Line() string {
	if r.Skipped != "" || r.Failed != "" {
		return ""
	}
	cols, _ := columns(r.Scenario)
	var said []string
	for _, k := range cols {
		said = append(said, k.head+" "+fmt.Sprintf(k.format, k.of(*r)))
	}
	if v := r.Verified; v != nil {
		said = append(said, fmt.Sprintf("%d verified", v.Acked))
	}
	return strings.Join(said, ", ")
}

func orZero[T any](p *T) *T {
	if p == nil {
		return new(T)
	}
	return p
}

// rows groups results by cell, in the order in which they came.
func (r *Report) rows() (cells []Cell, rows map[Cell][]*row) {
	rows = make(map[Cell][]*row)
	for _, res := range r.Results {
		if !slices.Contains(cells, res.Cell) {
			cells = append(cells, res.Cell)
		}
		i := slices.IndexFunc(rows[res.Cell], func(x *row) bool { return x.first.System == res.System && x.first.Mode == res.Mode })
		if i < 0 {
			i = len(rows[res.Cell])
			rows[res.Cell] = append(rows[res.Cell], &row{first: res})
		}
		x := rows[res.Cell][i]
		if res.Skipped != "" || res.Failed != "" {
			x.others = append(x.others, res)
		} else {
			x.rounds = append(x.rounds, res)
		}
	}
	return cells, rows
}

// WriteTable prints the medians. A ratio compares rounds pairwise, as they were run, and is the median of those.
func (r *Report) WriteTable(out io.Writer) error {
	if len(r.Many) > 0 {
		if err := r.writeMany(out); err != nil {
			return err
		}
	}
	cells, rows := r.rows()
	for _, c := range cells {
		if err := writeCell(out, c, rows[c]); err != nil {
			return err
		}
	}
	return nil
}

func writeCell(out io.Writer, c Cell, rows []*row) error {
	rounds := 0
	for _, x := range rows {
		rounds = max(rounds, len(x.rounds))
	}
	fmt.Fprintf(out, "\n%s, %d KiB in flight each, median of %d rounds\n", c, c.InflightBytes>>10, rounds)
	cols, larger := columns(c.Scenario)
	w := tabwriter.NewWriter(out, 2, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprint(w, "system\t")
	for _, k := range cols {
		fmt.Fprint(w, k.head, "\t")
		if k.how == withSpread {
			fmt.Fprint(w, "min\tmax\t")
		}
	}
	fmt.Fprintln(w, "verified\tlost\ttwice\tdisorder\tbalsa is\t")
	var ours *row
	for _, x := range rows {
		if x.first.System == OurName && len(x.rounds) > 0 {
			ours = x
		}
	}
	for _, x := range rows {
		fmt.Fprint(w, x.name(), "\t")
		for _, k := range cols {
			switch {
			case len(x.rounds) == 0:
				fmt.Fprint(w, "-\t")
				if k.how == withSpread {
					fmt.Fprint(w, "\t\t")
				}
			case k.how == worst:
				_, hi := spread(x.rounds, k.of)
				fmt.Fprintf(w, k.format+"\t", hi)
			default:
				fmt.Fprintf(w, k.format+"\t", median(x.rounds, k.of))
				if k.how == withSpread {
					lo, hi := spread(x.rounds, k.of)
					fmt.Fprintf(w, k.format+"\t"+k.format+"\t", lo, hi)
				}
			}
		}
		fmt.Fprintf(w, "%s\t%s\t\n", verified(x.rounds), ratio(ours, x, cols[0].of, larger))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, x := range rows {
		var said []string
		for _, res := range slices.Concat(x.others, x.rounds) {
			notes := res.Notes
			if res.Skipped != "" {
				notes = append(notes, res.Skipped)
			}
			if res.Failed != "" {
				notes = append([]string{"FAILED: " + res.Failed}, notes...)
			}
			for _, n := range notes {
				if !slices.Contains(said, n) {
					said = append(said, n)
					fmt.Fprintf(out, "  %s, round %d: %s\n", x.name(), res.Round, n)
				}
			}
		}
	}
	return nil
}

// verified is how many acknowledged records were checked, and what was wrong with them, in four cells.
func verified(rs []Result) string {
	var sum Verification
	for _, r := range rs {
		if r.Verified == nil {
			return "no\t\t\t"
		}
		sum.Acked += r.Verified.Acked
		sum.Lost += r.Verified.Lost
		sum.Duplicated += r.Verified.Duplicated
		sum.OutOfOrder += r.Verified.OutOfOrder
	}
	if len(rs) == 0 {
		return "\t\t\t"
	}
	return fmt.Sprintf("%d\t%d\t%d\t%d", sum.Acked, sum.Lost, sum.Duplicated, sum.OutOfOrder)
}

// ratio says how many times better or worse Balsa is, round by round.
func ratio(ours, other *row, of func(Result) float64, larger bool) string {
	if ours == nil || ours == other {
		return ""
	}
	var v []float64
	for _, a := range ours.rounds {
		for _, b := range other.rounds {
			x, y := of(a), of(b)
			if !larger {
				x, y = y, x
			}
			if a.Round == b.Round && x > 0 && y > 0 {
				v = append(v, x/y)
			}
		}
	}
	if len(v) == 0 {
		return ""
	}
	return fmt.Sprintf("%.2fx", middle(v))
}

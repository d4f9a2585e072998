// Putting the rounds of a run together: a row is one system under one load, its figures are medians over the rounds.

package page

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/HdrHistogram/hdrhistogram-go"

	"github.com/balsamq/balsa/bench"
	"github.com/balsamq/balsa/bench/limit"
)

// ours is the name of the system that the others are compared with.
const ours = "balsa"

// row is the rounds of one system under one cell.
type row struct {
	cell         bench.Cell
	system, mode string
	rounds       []bench.Result
	absent       string // why there are no rounds
}

func (r *row) name() string { return strings.TrimSpace(r.system + " " + r.mode) }

// table is the rows of one cell, in the order of the run.
type table struct {
	cell bench.Cell
	rows []*row
}

// ours is our row; nil if there is none.
func (t *table) ours() *row {
	for _, r := range t.rows {
		if r.system == ours && len(r.rounds) > 0 {
			return r
		}
	}
	return nil
}

// tables groups the results of one run by cell. Rounds that failed are no figures; a row of nothing else says why.
func tables(r *bench.Report) (all []*table) {
	for _, x := range r.Results {
		i := slices.IndexFunc(all, func(t *table) bool { return t.cell == x.Cell })
		if i < 0 {
			i = len(all)
			all = append(all, &table{cell: x.Cell})
		}
		t := all[i]
		j := slices.IndexFunc(t.rows, func(r *row) bool { return r.system == x.System && r.mode == x.Mode })
		if j < 0 {
			j = len(t.rows)
			t.rows = append(t.rows, &row{cell: x.Cell, system: x.System, mode: x.Mode})
		}
		switch why := cmp.Or(x.Failed, x.Skipped); {
		case why != "":
			t.rows[j].absent = why
		default:
			t.rows[j].rounds = append(t.rows[j].rounds, x)
		}
	}
	return all
}

func (r *row) values(of func(bench.Result) float64) []float64 {
	v := make([]float64, 0, len(r.rounds))
	for _, x := range r.rounds {
		v = append(v, of(x))
	}
	slices.Sort(v)
	return v
}

func (r *row) median(of func(bench.Result) float64) float64 { return middle(r.values(of)) }

// spread is the least and the largest.
func (r *row) spread(of func(bench.Result) float64) (lo, hi float64) {
	v := r.values(of)
	if len(v) == 0 {
		return 0, 0
	}
	return v[0], v[len(v)-1]
}

// middle is the median of what is sorted.
func middle(v []float64) float64 {
	if len(v) == 0 {
		return 0
	}
	return (v[(len(v)-1)/2] + v[len(v)/2]) / 2
}

// ratio is how many times our figure is another's, round by round as they were run, and the median of that; 0 if there is nothing to
// compare.
func ratio(our, other *row, of func(bench.Result) float64) float64 {
	if our == nil || our == other {
		return 0
	}
	var v []float64
	for _, x := range our.rounds {
		for _, y := range other.rounds {
			if a, b := of(x), of(y); x.Round == y.Round && a > 0 && b > 0 {
				v = append(v, a/b)
			}
		}
	}
	slices.Sort(v)
	return middle(v)
}

// histogram merges the latencies of all rounds; nil if there are none.
func (r *row) histogram(of func(bench.Result) *bench.Latency) *hdrhistogram.Histogram {
	var all *hdrhistogram.Histogram
	for _, x := range r.rounds {
		l := of(x)
		if l == nil {
			continue
		}
		h, err := l.Histogram()
		if err != nil || h == nil {
			continue // the figures are there all the same
		}
		if all == nil {
			all = h
		} else {
			all.Merge(h)
		}
	}
	return all
}

// verified says how many acknowledged records were read back once and in order, or what was wrong.
func (r *row) verified() string {
	var n int64
	for _, x := range r.rounds {
		switch v := x.Verified; {
		case v == nil:
			return "no"
		case !v.OK():
			return fmt.Sprintf("%d lost, %d twice, %d out of order", v.Lost, v.Duplicated, v.OutOfOrder)
		default:
			n += v.Acked
		}
	}
	return counted(float64(n))
}

func rate(r bench.Result) float64       { return r.RecordsSec }
func megabytes(r bench.Result) float64  { return r.MBSec }
func cpuPerGB(r bench.Result) float64   { return r.CPUSecGB }
func latency50(r bench.Result) float64  { return r.Latency.P50 }
func latency99(r bench.Result) float64  { return r.Latency.P99 }
func latency999(r bench.Result) float64 { return r.Latency.P999 }

// The figures of one scenario only are 0 in others' results.
func endToEnd(of func(*bench.Latency) float64) func(bench.Result) float64 {
	return func(r bench.Result) float64 {
		if r.EndToEnd == nil {
			return 0
		}
		return of(r.EndToEnd)
	}
}

func failover(of func(*bench.Failover) float64) func(bench.Result) float64 {
	return func(r bench.Result) float64 {
		if r.Failover == nil {
			return 0
		}
		return of(r.Failover)
	}
}

func comeBack(of func(*bench.Return) float64) func(bench.Result) float64 {
	return func(r bench.Result) float64 {
		if r.Return == nil {
			return 0
		}
		return of(r.Return)
	}
}

func catchUp(of func(*bench.CatchUp) float64) func(bench.Result) float64 {
	return func(r bench.Result) float64 {
		if r.CatchUp == nil {
			return 0
		}
		return of(r.CatchUp)
	}
}

func restart(of func(*bench.Restart) float64) func(bench.Result) float64 {
	return func(r bench.Result) float64 {
		if r.Restart == nil {
			return 0
		}
		return of(r.Restart)
	}
}

// counted writes a number of things with thousands apart.
func counted(v float64) string {
	s := fmt.Sprintf("%.0f", v)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// figure writes a value with as many digits as it deserves.
func figure(v float64) string {
	switch {
	case v == 0:
		return "–"
	case v >= 1000 || v <= -1000:
		return counted(v)
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2g", v)
}

func times(v float64) string {
	if v == 0 {
		return ""
	}
	return figure(v) + "×"
}

func size(n int) string {
	if n >= 1024 && n%1024 == 0 {
		return fmt.Sprintf("%d KiB", n>>10)
	}
	return fmt.Sprintf("%d B", n)
}

// load describes a cell without its scenario and class.
func load(c bench.Cell) string {
	parts := []string{plural(c.Partitions, "partition"), plural(c.Producers, "producer")}
	if c.Consumers > 0 {
		parts = append(parts, plural(c.Consumers, "consumer"))
	}
	parts = append(parts, size(c.RecordBytes))
	if c.Replicas != 3 {
		parts = append(parts, plural(c.Replicas, "replica"))
	}
	if c.Rate > 0 {
		parts = append(parts, counted(float64(c.Rate))+" records/s")
	}
	if text := c.Window(); text != "" {
		parts = append(parts, text)
	}
	if c.Backlog > 0 {
		parts = append(parts, fmt.Sprintf("%.3g GB behind", float64(c.Backlog)/1e9))
	}
	return strings.Join(parts, ", ")
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return counted(float64(n)) + " " + what + "s"
}

// manyRow is the rounds of one system with so many partitions.
type manyRow struct {
	wanted int
	system string
	rounds []bench.Many
	absent string
}

func manyRows(all []bench.Many) (rows []*manyRow) {
	for _, m := range all {
		i := slices.IndexFunc(rows, func(r *manyRow) bool { return r.wanted == m.Wanted && r.system == m.System })
		if i < 0 {
			i = len(rows)
			rows = append(rows, &manyRow{wanted: m.Wanted, system: m.System})
		}
		if m.Skipped != "" {
			rows[i].absent = m.Skipped
			continue
		}
		if m.Failed != "" {
			rows[i].absent = m.Failed // what was measured before stands
		}
		rows[i].rounds = append(rows[i].rounds, m)
	}
	return rows
}

// median is that of what was measured: 0 was not.
func (r *manyRow) median(of func(bench.Many) float64) float64 {
	var v []float64
	for _, m := range r.rounds {
		if f := of(m); f > 0 {
			v = append(v, f)
		}
	}
	slices.Sort(v)
	return middle(v)
}

func mean(v []float64) float64 {
	sum := 0.0
	for _, f := range v {
		sum += f
	}
	return sum / float64(max(len(v), 1))
}

// bound is the limit of a figure of a cell; false if none is known.
func bound(m *limit.Machine, near []limit.Near, r *row, what string) (limit.Near, bool) {
	if m == nil {
		return limit.Near{}, false
	}
	i := slices.IndexFunc(near, func(n limit.Near) bool {
		return n.Cell == r.cell && n.System == r.system && n.Mode == r.mode && (what == "" || n.What == what)
	})
	if i < 0 {
		return limit.Near{}, false
	}
	return near[i], true
}

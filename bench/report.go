// What a run prints: for each cell the median of the rounds of every system, the spread, and the ratio to Balsa.

package bench

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
)

// row is the rounds of one system under one cell.
type row struct {
	first  Result
	rounds []Result
}

func median(rs []Result, of func(Result) float64) float64 {
	v := make([]float64, len(rs))
	for i, r := range rs {
		v[i] = of(r)
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

// WriteTable prints the medians. A ratio compares rounds pairwise, as they were run, and is the median of those.
func (r *Report) WriteTable(out io.Writer) error {
	if len(r.Many) > 0 {
		if err := r.writeMany(out); err != nil {
			return err
		}
	}
	var cells []Cell
	rows := map[Cell][]*row{}
	for _, res := range r.Results {
		if !slices.Contains(cells, res.Cell) {
			cells = append(cells, res.Cell)
		}
		i := slices.IndexFunc(rows[res.Cell], func(x *row) bool { return x.first.System == res.System && x.first.Mode == res.Mode })
		if i < 0 {
			rows[res.Cell] = append(rows[res.Cell], &row{first: res, rounds: []Result{res}})
		} else {
			rows[res.Cell][i].rounds = append(rows[res.Cell][i].rounds, res)
		}
	}
	rate := func(x Result) float64 { return x.RecordsSec }
	for _, c := range cells {
		fmt.Fprintf(out, "\n%s, %d KiB in flight each, median of %d rounds\n", c, c.InflightBytes>>10, len(rows[c][0].rounds))
		w := tabwriter.NewWriter(out, 2, 0, 2, ' ', tabwriter.AlignRight)
		fmt.Fprintln(w, "system\trecords/s\tmin\tmax\tMB/s\tp50 ms\tp99 ms\tp99.9 ms\tmax ms\tCPU s/GB\tRSS MB\tverified\tbalsa is\t")
		var ours *row
		for _, x := range rows[c] {
			if x.first.System == "balsa" && x.first.Skipped == "" {
				ours = x
			}
		}
		for _, x := range rows[c] {
			name := x.first.System
			if x.first.Mode != "" {
				name += " " + x.first.Mode
			}
			if x.first.Skipped != "" {
				fmt.Fprintf(w, "%s\t-\t\t\t\t\t\t\t\t\t\t\t\t\n", name)
				continue
			}
			lo, hi := spread(x.rounds, rate)
			_, worst := spread(x.rounds, func(x Result) float64 { return x.Latency.Max })
			fmt.Fprintf(w, "%s\t%.0f\t%.0f\t%.0f\t%.1f\t%.2f\t%.2f\t%.2f\t%.1f\t%.1f\t%.0f\t%s\t%s\t\n", name, median(x.rounds, rate), lo, hi,
				median(x.rounds, func(x Result) float64 { return x.MBSec }),
				median(x.rounds, func(x Result) float64 { return x.Latency.P50 }), median(x.rounds, func(x Result) float64 { return x.Latency.P99 }),
				median(x.rounds, func(x Result) float64 { return x.Latency.P999 }), worst,
				median(x.rounds, func(x Result) float64 { return x.CPUSecGB }), median(x.rounds, func(x Result) float64 { return x.RSSSum }),
				verified(x.rounds), ratio(ours, x))
		}
		if err := w.Flush(); err != nil {
			return err
		}
		for _, x := range rows[c] {
			if x.first.Skipped != "" {
				fmt.Fprintf(out, "  %s: %s\n", x.first.System, x.first.Skipped)
			}
		}
	}
	return nil
}

func verified(rs []Result) string {
	var n int64
	for _, r := range rs {
		if r.Verified == nil {
			return "no"
		}
		n += r.Verified.Acked
	}
	return fmt.Sprintf("%d", n)
}

// ratio says how many times Balsa's rate is another's, round by round.
func ratio(ours, other *row) string {
	if ours == nil || ours == other {
		return ""
	}
	var v []float64
	for i := range min(len(ours.rounds), len(other.rounds)) {
		if other.rounds[i].RecordsSec > 0 {
			v = append(v, ours.rounds[i].RecordsSec/other.rounds[i].RecordsSec)
		}
	}
	if len(v) == 0 {
		return ""
	}
	slices.Sort(v)
	return fmt.Sprintf("%.2fx", v[len(v)/2])
}

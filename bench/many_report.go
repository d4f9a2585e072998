// What M2 prints: one line per number of partitions and system, medians over the rounds; notes below.

package bench

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
)

// writeMany prints the table of M2.
func (r *Report) writeMany(out io.Writer) error {
	type key struct {
		wanted int
		system string
	}
	var order []key
	rows := map[key][]Many{}
	lo, hi := 0.0, 0.0
	for i, m := range r.Many {
		k := key{m.Wanted, m.System}
		if !slices.Contains(order, k) {
			order = append(order, k)
		}
		rows[k] = append(rows[k], m)
		if least := min(m.LoadBefore, m.LoadAfter); m.Skipped == "" && (i == 0 || least < lo) {
			lo = least
		}
		hi = max(hi, m.LoadBefore, m.LoadAfter)
	}
	fmt.Fprintf(out, "\nM2: three-replica partitions that nobody uses, on three brokers; median of %d rounds, machine load %.1f to %.1f on %d CPUs\n",
		slices.MaxFunc(r.Many, func(a, b Many) int { return a.Round - b.Round }).Round, lo, hi, r.Machine.CPUs)
	w := tabwriter.NewWriter(out, 2, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "partitions\tsystem\tidle CPU %\tRSS MB\tKB each\tcreate s\tstart s\tleaderless\tp50 s\tp99 s\tall s\tothers\tleft CPU %\t")
	for _, k := range order {
		ms := rows[k]
		figure := func(format string, of func(Many) float64) string {
			var v []float64
			for _, m := range ms {
				if f := of(m); f > 0 {
					v = append(v, f)
				}
			}
			if len(v) == 0 {
				return "-"
			}
			slices.Sort(v)
			return fmt.Sprintf(format, rank(v, 0.5))
		}
		others := "-" // none disturbed is a figure, too
		if i := slices.IndexFunc(ms, func(m Many) bool { return m.RecoverMax > 0 }); i >= 0 {
			others = figure("%.0f", func(m Many) float64 { return float64(m.Disturbed) })
			if others == "-" {
				others = "0"
			}
		}
		fmt.Fprintf(w, "%d\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t\n", ms[0].Partitions, k.system,
			figure("%.2f", func(m Many) float64 { return mean(m.IdleCPU) }), figure("%.0f", func(m Many) float64 { return mean(m.RSS) }),
			figure("%.1f", func(m Many) float64 { return m.PerKB }), figure("%.2f", func(m Many) float64 { return m.CreateSec }),
			figure("%.2f", func(m Many) float64 { return m.StartSec }), figure("%.0f", func(m Many) float64 { return float64(m.Orphaned) }),
			figure("%.2f", func(m Many) float64 { return m.RecoverP50 }), figure("%.2f", func(m Many) float64 { return m.RecoverP99 }),
			figure("%.2f", func(m Many) float64 { return m.RecoverMax }), others, figure("%.2f", func(m Many) float64 { return mean(m.LeftCPU) }))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	fmt.Fprintln(out, `  idle CPU, RSS: of one broker, mean of the three (CPU in % of one core); KB each: what a broker grew by for each partition;
  start: all brokers, stopped before, until all lead; leaderless: led by the broker that was killed with -9; p50, p99, all: until they are
  led again; others: partitions of the survivors that changed or lost their leader; left CPU: of a survivor, at rest`)
	for _, k := range order {
		for _, m := range rows[k] {
			notes := slices.Clone(m.Notes)
			if m.Skipped != "" {
				notes = append(notes, m.Skipped)
			}
			if m.Failed != "" {
				notes = append(notes, m.Failed)
			}
			if len(notes) > 0 {
				fmt.Fprintf(out, "  %s, %d wanted, round %d: %s\n", k.system, k.wanted, m.Round, strings.Join(notes, "; "))
			}
		}
	}
	return nil
}

func mean(v []float64) float64 {
	if len(v) == 0 {
		return 0
	}
	sum := 0.0
	for _, f := range v {
		sum += f
	}
	return sum / float64(len(v))
}

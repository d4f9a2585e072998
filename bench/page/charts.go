// The drawings of each kind of scenario.

package page

import (
	"cmp"
	"fmt"
	"html/template"
	"math"
	"slices"

	"github.com/HdrHistogram/hdrhistogram-go"

	"github.com/balsamq/balsa/bench"
)

// class is a system's colour, and a further mode's way to differ.
func (p *painter) class(system, mode string) string {
	i := slices.Index(p.systems, system)
	if i < 0 {
		i = len(p.systems)
		p.systems = append(p.systems, system)
		p.modes = append(p.modes, nil)
	}
	j := slices.Index(p.modes[i], mode)
	if j < 0 {
		j = len(p.modes[i])
		p.modes[i] = append(p.modes[i], mode)
	}
	return fmt.Sprintf("c%d m%d", i%colours, j%4)
}

// colours is how many the style sheet has.
const colours = 6

// painter gives each system its colour through the whole page, ours the first.
type painter struct {
	systems []string
	modes   [][]string
}

func newPainter() *painter { return &painter{systems: []string{ours}, modes: [][]string{nil}} }

// throughput are bars of MB/s and of CPU per GB.
func (p *painter) throughput(ts []*table) (rates, cpu template.HTML) {
	draw := func(of func(bench.Result) float64, unit, alt string) template.HTML {
		var groups []group
		for _, t := range ts {
			g := group{title: load(t.cell)}
			for _, r := range t.rows {
				if len(r.rounds) == 0 {
					continue
				}
				v := r.median(of)
				lo, hi := r.spread(of)
				text := figure(v) + " " + unit
				if x := ratio(t.ours(), r, of); x > 0 {
					text += fmt.Sprintf("  (ours: %s)", times(x))
				}
				g.bars = append(g.bars, bar{name: r.name(), class: p.class(r.system, r.mode), value: v, lo: lo, hi: hi, text: text})
			}
			if len(g.bars) > 0 {
				groups = append(groups, g)
			}
		}
		return bars(alt, groups)
	}
	return draw(megabytes, "MB/s", "Throughput in MB/s by load and system"), draw(cpuPerGB, "s/GB", "CPU seconds per GB by load and system")
}

// perDecade is how many points a curve has from one nine to the next.
const perDecade = 12

// latency are the curves of all systems under one cell: latency by percentile, the axis stretched towards the rare.
func (p *painter) latency(t *table, what string, of func(bench.Result) *bench.Latency) template.HTML {
	pl := &plot{alt: what + " by percentile", x: "percentile", y: what + ", ms", logY: true,
		xTicks: []tick{{0, "0"}, {math.Log10(2), "50 %"}, {1, "90 %"}, {2, "99 %"}, {3, "99.9 %"}, {4, "99.99 %"}, {5, "99.999 %"}}}
	for _, r := range t.rows {
		if h := r.histogram(of); h != nil && h.TotalCount() > 0 {
			pl.lines = append(pl.lines, line{name: r.name(), class: p.class(r.system, r.mode), points: percentiles(h)})
		}
	}
	return pl.svg()
}

// percentiles are a histogram's values in ms by -log10(1-q), up to where a single record decides.
func percentiles(h *hdrhistogram.Histogram) (points []point) {
	most := min(math.Log10(float64(h.TotalCount())), 5)
	for i := 0; ; i++ {
		x := min(float64(i)/perDecade, most)
		points = append(points, point{x, float64(h.ValueAtQuantile(100*(1-math.Pow(10, -x)))) / 1e6})
		if x == most {
			return points
		}
	}
}

// timeline follows one system's load: records a second, those consumed, and what happened when.
func (p *painter) timeline(r *row) template.HTML {
	i := slices.IndexFunc(r.rounds, func(x bench.Result) bool { return len(x.Series) > 1 })
	if i < 0 {
		return ""
	}
	x := r.rounds[i]
	step := bench.SeriesStep.Seconds()
	pl := &plot{alt: "Records a second over time, " + r.name(), x: "seconds", y: "records/s", zero: true}
	acked := line{name: r.name() + ", acknowledged", class: p.class(r.system, r.mode)}
	consumed := line{name: "consumed", class: p.class(r.system, r.mode) + " thin"}
	reads := false
	for _, q := range x.Series {
		acked.points = append(acked.points, point{q.Seconds, float64(q.Acked) / step})
		consumed.points = append(consumed.points, point{q.Seconds, float64(q.Consumed) / step})
		reads = reads || q.Consumed > 0
	}
	pl.lines = []line{acked}
	if reads {
		pl.lines = append(pl.lines, consumed)
	}
	for _, m := range x.Marks {
		pl.marks = append(pl.marks, mark{m.Seconds, m.What})
	}
	return pl.svg()
}

// recovery are M2's curves: partitions without a leader after a broker's death.
func (p *painter) recovery(rows []*manyRow) template.HTML {
	pl := &plot{alt: "Partitions without a leader after kill -9 of a broker", x: "seconds after the kill", y: "partitions without a leader", zero: true}
	most := 0
	for _, r := range rows {
		most = max(most, r.wanted)
	}
	for _, r := range rows {
		if r.wanted != most || len(r.rounds) == 0 {
			continue
		}
		l := line{name: fmt.Sprintf("%s, %s", r.system, counted(float64(r.rounds[0].Partitions))), class: p.class(r.system, "")}
		for _, q := range r.rounds[0].Curve {
			l.points = append(l.points, point{q.Seconds, float64(q.Left)})
		}
		if len(l.points) > 1 {
			pl.lines = append(pl.lines, l)
		}
	}
	return pl.svg()
}

// A dimension is something that a load can grow in.
type dimension struct {
	name string
	of   func(bench.Cell) int
	zero func(*bench.Cell) // takes it away: what is equal then differs in it alone
	log  bool
}

var dimensions = []dimension{
	{"record size, bytes", func(c bench.Cell) int { return c.RecordBytes }, func(c *bench.Cell) { c.RecordBytes = 0 }, true},
	{"partitions", func(c bench.Cell) int { return c.Partitions }, func(c *bench.Cell) { c.Partitions = 0 }, true},
	{"producers", func(c bench.Cell) int { return c.Producers }, func(c *bench.Cell) { c.Producers = 0 }, true},
	{"consumers", func(c bench.Cell) int { return c.Consumers }, func(c *bench.Cell) { c.Consumers = 0 }, false},
	{"replicas", func(c bench.Cell) int { return c.Replicas }, func(c *bench.Cell) { c.Replicas = 0 }, false},
}

// leastGrown is how many values make a curve.
const leastGrown = 3

// grown is one dimension in which loads of a class grow while all else stays.
type grown struct {
	dimension
	rest   bench.Cell // of the loads, without the dimension
	tables []*table   // by the dimension, ascending
}

// growth finds what grows among the throughput loads of a class.
func growth(ts []*table) (all []grown) {
	for _, d := range dimensions {
		for _, t := range ts {
			if t.cell.Rate > 0 || t.cell.InflightBytes <= t.cell.RecordBytes || t.cell.Backlog > 0 {
				continue
			}
			rest := t.cell
			d.zero(&rest)
			rest.Scenario = "" // a sweep and a scenario may share loads
			i := slices.IndexFunc(all, func(g grown) bool { return g.name == d.name && g.rest == rest })
			if i < 0 {
				i = len(all)
				all = append(all, grown{dimension: d, rest: rest})
			}
			if !slices.ContainsFunc(all[i].tables, func(o *table) bool { return d.of(o.cell) == d.of(t.cell) }) {
				all[i].tables = append(all[i].tables, t)
			}
		}
	}
	all = slices.DeleteFunc(all, func(g grown) bool { return len(g.tables) < leastGrown })
	for _, g := range all {
		slices.SortFunc(g.tables, func(a, b *table) int { return cmp.Compare(g.of(a.cell), g.of(b.cell)) })
	}
	return all
}

// curves are throughput and p99 over a dimension.
func (p *painter) curves(g grown) (rates, p99 template.HTML) {
	draw := func(y string, log bool, of func(bench.Result) float64) template.HTML {
		pl := &plot{alt: y + " over " + g.name, x: g.name, y: y, logX: g.log, logY: log, zero: !log}
		for _, t := range g.tables {
			pl.xTicks = append(pl.xTicks, tick{float64(g.of(t.cell)), axis(float64(g.of(t.cell)))})
			for _, r := range t.rows {
				if len(r.rounds) == 0 {
					continue
				}
				i := slices.IndexFunc(pl.lines, func(l line) bool { return l.name == r.name() })
				if i < 0 {
					i = len(pl.lines)
					pl.lines = append(pl.lines, line{name: r.name(), class: p.class(r.system, r.mode), dots: true})
				}
				pl.lines[i].points = append(pl.lines[i].points, point{float64(g.of(t.cell)), r.median(of)})
			}
		}
		return pl.svg()
	}
	return draw("MB/s", false, megabytes), draw("p99, ms", true, latency99)
}

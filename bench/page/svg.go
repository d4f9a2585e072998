// Drawing: axes, lines and bars as inline SVG, coloured by the page's style sheet, so that they follow its light and dark.
//
// No library draws such SVG without a script in the page; there is not much to it.

package page

import (
	"fmt"
	"html"
	"html/template"
	"math"
	"strings"
)

// Sizes in SVG units; the page scales drawings to its width.
const (
	width        = 760.0
	plotHeight   = 300.0
	left         = 62.0
	right        = 16.0
	top          = 34.0
	bottom       = 44.0
	barHeight    = 15.0
	barGap       = 4.0
	barLabel     = 150.0
	barValue     = 150.0
	letter       = 6.2 // about the width of a letter at the small size
	maxTicks     = 7
	pointsDrawn  = 1500 // of one line, at most
	smallestLogY = 1e-3
)

type point struct{ x, y float64 }

// line is a curve of one system.
type line struct {
	name   string
	class  string // of the style sheet: the system's colour and the mode's dashes
	points []point
	dots   bool
}

// tick is a label on an axis.
type tick struct {
	at   float64
	text string
}

// mark is a vertical line with a word.
type mark struct {
	at   float64
	text string
}

// plot is lines over axes.
type plot struct {
	alt            string // what it shows, for who cannot see it
	x, y           string // what the axes are
	logX, logY     bool
	xTicks         []tick // nil: as they come out
	zero           bool   // the y axis begins at 0
	lines          []line
	marks          []mark
	unitY          func(float64) string
	minX, maxX     float64 // both 0: as the data is
	least, largest float64 // of y
}

// span fits the axes to the data.
func (p *plot) span() bool {
	first := true
	for _, l := range p.lines {
		for _, q := range l.points {
			if p.logY && q.y <= 0 || p.logX && q.x <= 0 {
				continue
			}
			if first {
				first, p.least, p.largest = false, q.y, q.y
				if p.maxX == 0 {
					p.minX, p.maxX = q.x, q.x
				}
			}
			p.least, p.largest = min(p.least, q.y), max(p.largest, q.y)
			p.minX, p.maxX = min(p.minX, q.x), max(p.maxX, q.x)
		}
	}
	if first {
		return false
	}
	switch {
	case p.logY:
		p.least, p.largest = max(p.least/1.3, smallestLogY), p.largest*1.3
	case p.zero:
		p.least, p.largest = 0, p.largest*1.08
	default:
		pad := (p.largest - p.least) * 0.08
		p.least, p.largest = p.least-pad, p.largest+pad
	}
	if p.largest <= p.least {
		p.largest = p.least + 1
	}
	if p.maxX <= p.minX {
		p.maxX = p.minX + 1
	}
	return true
}

func along(v, lo, hi float64, log bool) float64 {
	if log {
		v, lo, hi = math.Log(v), math.Log(lo), math.Log(hi)
	}
	return (v - lo) / (hi - lo)
}

func (p *plot) px(x float64) float64 {
	return left + along(x, p.minX, p.maxX, p.logX)*(width-left-right)
}

func (p *plot) py(y float64) float64 {
	return top + (1-along(max(y, p.least), p.least, p.largest, p.logY))*(plotHeight-top-bottom)
}

// ticks are round values between two.
func ticks(lo, hi float64, log bool) (at []float64) {
	if log {
		for _, set := range [][]float64{{1, 2, 5}, {1, 3}, {1}} {
			at = at[:0]
			for e := math.Floor(math.Log10(lo)); e <= math.Ceil(math.Log10(hi)); e++ {
				for _, m := range set {
					if v := m * math.Pow(10, e); v >= lo && v <= hi {
						at = append(at, v)
					}
				}
			}
			if len(at) <= maxTicks {
				break
			}
		}
		return at
	}
	step := math.Pow(10, math.Floor(math.Log10((hi-lo)/5)))
	for _, m := range []float64{1, 2, 5, 10} {
		if (hi-lo)/(step*m) <= maxTicks {
			step *= m
			break
		}
	}
	for v := math.Ceil(lo/step) * step; v <= hi+step/1e6; v += step {
		at = append(at, math.Round(v/step)*step)
	}
	return at
}

// axis writes a value short enough for an axis.
func axis(v float64) string {
	switch a := math.Abs(v); {
	case a >= 1e6:
		return trim(fmt.Sprintf("%.1f", v/1e6)) + " M"
	case a >= 1e4:
		return trim(fmt.Sprintf("%.1f", v/1e3)) + " k"
	}
	return trim(fmt.Sprintf("%.3f", v))
}

func trim(s string) string {
	if strings.Contains(s, ".") {
		s = strings.TrimRight(strings.TrimRight(s, "0"), ".")
	}
	return s
}

// drawing collects SVG; text is escaped by its methods.
type drawing struct{ strings.Builder }

func (d *drawing) begin(alt string, height float64) {
	fmt.Fprintf(d, `<svg viewBox="0 0 %g %g" role="img" aria-label="%s">`, width, height, html.EscapeString(alt))
}

func (d *drawing) text(x, y float64, class, text string) {
	fmt.Fprintf(d, `<text x="%.1f" y="%.1f" class="%s">%s</text>`, x, y, class, html.EscapeString(text))
}

func (d *drawing) rule(x1, y1, x2, y2 float64, class string) {
	fmt.Fprintf(d, `<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" class="%s"/>`, x1, y1, x2, y2, class)
}

func (d *drawing) end() template.HTML {
	d.WriteString("</svg>")
	return template.HTML(d.String()) //nolint:gosec // all text went through EscapeString, classes are ours
}

// svg draws the plot; empty if there is nothing to draw.
func (p *plot) svg() template.HTML {
	if !p.span() {
		return ""
	}
	if p.unitY == nil {
		p.unitY = axis
	}
	var d drawing
	d.begin(p.alt, plotHeight)
	for _, y := range ticks(p.least, p.largest, p.logY) {
		d.rule(left, p.py(y), width-right, p.py(y), "grid")
		d.text(left-6, p.py(y)+4, "t end", p.unitY(y))
	}
	xs := p.xTicks
	if xs == nil {
		for _, x := range ticks(p.minX, p.maxX, p.logX) {
			xs = append(xs, tick{x, axis(x)})
		}
	}
	for _, x := range xs {
		if x.at < p.minX || x.at > p.maxX {
			continue
		}
		d.rule(p.px(x.at), plotHeight-bottom, p.px(x.at), plotHeight-bottom+4, "axis")
		d.text(p.px(x.at), plotHeight-bottom+17, "t mid", x.text)
	}
	d.rule(left, plotHeight-bottom, width-right, plotHeight-bottom, "axis")
	d.text((left+width-right)/2, plotHeight-8, "t mid soft", p.x)
	d.text(left-52, top-18, "t soft", p.y)
	for i, m := range p.marks {
		if m.at < p.minX || m.at > p.maxX {
			continue
		}
		d.rule(p.px(m.at), top-4, p.px(m.at), plotHeight-bottom, "mark")
		if x, y := p.px(m.at), top+8+13*float64(i%3); x+letter*float64(len(m.text)) > width-right { // it would be cut off
			d.text(x-4, y, "t soft end", m.text)
		} else {
			d.text(x+4, y, "t soft", m.text)
		}
	}
	x := width - right
	for i := len(p.lines) - 1; i >= 0; i-- { // the legend, from the right
		l := p.lines[i]
		x -= letter * float64(len(l.name))
		d.text(x, top-18, "t", l.name)
		d.rule(x-24, top-22, x-6, top-22, "curve "+l.class)
		x -= 42
	}
	for _, l := range p.lines {
		every := (len(l.points) + pointsDrawn - 1) / pointsDrawn
		var path strings.Builder
		verb := 'M'
		for i, q := range l.points {
			if i%max(every, 1) != 0 || p.logY && q.y <= 0 || p.logX && q.x <= 0 {
				continue
			}
			fmt.Fprintf(&path, "%c%.1f %.1f", verb, p.px(q.x), p.py(q.y))
			verb = 'L'
		}
		fmt.Fprintf(&d, `<path d="%s" class="curve %s"/>`, path.String(), l.class)
		if !l.dots {
			continue
		}
		for _, q := range l.points {
			fmt.Fprintf(&d, `<circle cx="%.1f" cy="%.1f" r="3.5" class="fill %s"><title>%s: %s at %s</title></circle>`, p.px(q.x), p.py(q.y), l.class,
				html.EscapeString(l.name), html.EscapeString(figure(q.y)), html.EscapeString(axis(q.x)))
		}
	}
	return d.end()
}

// bar is one system in a group of bars.
type bar struct {
	name, class string
	value       float64
	lo, hi      float64 // of the rounds; equal: no whisker
	text        string  // behind the bar
}

// group is the bars of one load.
type group struct {
	title string
	bars  []bar
}

// bars draws groups of horizontal bars, all on one scale.
func bars(alt string, groups []group) template.HTML {
	most, height := 0.0, 4.0
	for _, g := range groups {
		height += 24 + float64(len(g.bars))*(barHeight+barGap) + 6
		for _, b := range g.bars {
			most = max(most, b.value, b.hi)
		}
	}
	if most == 0 {
		return ""
	}
	var d drawing
	d.begin(alt, height)
	scale := (width - barLabel - barValue) / most
	y := 4.0
	for _, g := range groups {
		d.text(0, y+13, "t strong", g.title)
		y += 24
		for _, b := range g.bars {
			d.text(barLabel-8, y+barHeight-3.5, "t end", b.name)
			fmt.Fprintf(&d, `<rect x="%g" y="%.1f" width="%.1f" height="%g" rx="2" class="fill %s"><title>%s: %s</title></rect>`,
				barLabel, y, max(b.value*scale, 1), barHeight, b.class, html.EscapeString(b.name), html.EscapeString(b.text))
			end := b.value
			if b.hi > b.lo {
				mid := y + barHeight/2
				d.rule(barLabel+b.lo*scale, mid, barLabel+b.hi*scale, mid, "whisker")
				d.rule(barLabel+b.lo*scale, mid-3, barLabel+b.lo*scale, mid+3, "whisker")
				d.rule(barLabel+b.hi*scale, mid-3, barLabel+b.hi*scale, mid+3, "whisker")
				end = max(end, b.hi)
			}
			d.text(barLabel+end*scale+7, y+barHeight-3.5, "t", b.text)
			y += barHeight + barGap
		}
		y += 6
	}
	return d.end()
}

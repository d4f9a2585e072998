// The tables of the page in Markdown, for where there is no browser: reviews, the design pages.

package page

import (
	"fmt"
	"io"
	"strings"
)

// WriteMarkdown writes all tables of some runs.
func WriteMarkdown(w io.Writer, runs []Run) error {
	var b strings.Builder
	b.WriteString("# Balsa beside its peers\n")
	for _, r := range runs {
		v := r.view()
		fmt.Fprintf(&b, "\n%s, %s. Balsa %s, commit %s, %s.", v.Report.Taken.Format("2006-01-02"), v.Machine, v.Report.Balsa.Version, v.Commit, v.Report.Balsa.Go)
		for _, p := range v.Report.Peers {
			fmt.Fprintf(&b, " %s %s.", p.Name, p.Version)
		}
		fmt.Fprintf(&b, " %s. `%s`\n", v.Rule, v.Command)
		if !v.Report.Complete {
			b.WriteString("\n**This run did not come to its end.**\n")
		}
		if len(v.Goals) > 0 {
			b.WriteString("\n## Where we want to be, where we are\n")
			v.goalTable(&b)
			if v.NoA {
				b.WriteString("\n" + noClassA + "\n")
			}
		}
		for _, s := range v.Sections {
			fmt.Fprintf(&b, "\n## %s: %s\n", s.ID, s.What)
			for _, f := range s.Figures {
				fmt.Fprintf(&b, "\n### %s\n", f.Title)
				for _, c := range f.Tables {
					c.markdown(&b)
				}
			}
			for _, n := range s.Notes {
				fmt.Fprintf(&b, "\n- %s", n)
			}
			if len(s.Notes) > 0 {
				b.WriteByte('\n')
			}
		}
		if v.Limits != nil {
			b.WriteString("\n## What the machine would allow\n")
			for _, c := range append(v.Limits.Near, v.Limits.Prices, v.Limits.Model, v.Limits.Measured) {
				c.markdown(&b)
			}
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// noClassA is what has to be said where peers have a class that we have not.
const noClassA = "**Balsa has no class A here**: it was measured with what it acknowledges on the disks of a quorum (`balsa.durability=quorum`) only. Where a goal names a peer's class A, our class B is held against what that peer does without a sync, as a ratio of figures from the same round."

// goalTable writes the goals.
func (v *view) goalTable(b *strings.Builder) {
	c := cells{Head: append(append([]string{"", "", "goal"}, v.Columns...), "met?", "best possible here", "rounds")}
	for _, g := range v.Goals {
		verdict := strings.Trim(g.Verdict+": "+g.Why, ": ")
		c.Rows = append(c.Rows, append(append([]string{g.ID, g.What, g.Goal}, g.Figures...), verdict, g.Limit, g.On()))
	}
	c.markdown(b)
}

// WriteIndex writes what one looks at first of a suite: the goals, and where everything else is.
func WriteIndex(w io.Writer, r Run) error {
	v := r.view()
	var b strings.Builder
	b.WriteString("# Balsa beside its peers\n\nMade by `broker bench suite` of the results in [runs/](runs/), as everything beside it; nothing here is written by hand.\n")
	fmt.Fprintf(&b, "\nBalsa %s, commit %s, on %s, %s.", v.Report.Balsa.Version, v.Commit, v.Report.Finished.Format("2006-01-02"), v.Machine)
	for _, p := range v.Report.Peers {
		fmt.Fprintf(&b, " %s %s.", proper(p.Name), p.Version)
	}
	b.WriteString(" Three replicas; all brokers and the load share the machine, so that ratios are what counts. Class B is on the disks of a quorum before it is acknowledged, class A in the page caches of one.\n\n## Where we want to be, where we are\n")
	v.goalTable(&b)
	if v.NoA {
		b.WriteString("\n" + noClassA + "\n")
	}
	fmt.Fprintf(&b, "\n%d met, %d missed, %d that these results do not tell. Medians, of a peer its best client mode; *best possible* is what a model makes of this machine's disk, loopback and processor, and how much of it we reach.\n", v.Met, v.Missed, v.Open)
	if len(v.Speed) > 0 {
		b.WriteString("\n## Every load at full speed\n\nLatencies, spreads, CPU and memory of each are in the report.\n")
		for _, c := range v.Speed {
			c.markdown(&b)
		}
	}
	b.WriteString("\n## The rest\n\n- [report.html](report.html): plots, how cost grows, every load, how it was measured; one file without scripts, to be opened in a browser.\n- [report.md](report.md): the same tables for where there is no browser.\n- [runs/](runs/): what the page is made of, one file for each take, with machine, versions, commit, configurations and histograms.\n- [How it is measured, and why so](../design/0023-benchmarks.md).\n")
	fmt.Fprintf(&b, "\nMeasured %s.\n", v.Rule)
	_, err := io.WriteString(w, b.String())
	return err
}

// markdown writes a table; a row may be shorter than the head.
func (c *cells) markdown(b *strings.Builder) {
	if c.Title != "" {
		fmt.Fprintf(b, "\n%s\n", c.Title)
	}
	b.WriteByte('\n')
	row := func(texts []string) {
		b.WriteByte('|')
		for i := range c.Head {
			text := ""
			if i < len(texts) {
				text = strings.ReplaceAll(strings.ReplaceAll(texts[i], "|", `\|`), "\n", " ")
			}
			fmt.Fprintf(b, " %s |", text)
		}
		b.WriteByte('\n')
	}
	row(c.Head)
	b.WriteString(strings.Repeat("|---", len(c.Head)) + "|\n")
	for _, r := range c.Rows {
		row(r)
	}
}

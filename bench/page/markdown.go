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
			c := cells{Head: append(append([]string{"", "", "goal"}, v.Columns...), "best possible here", "")}
			for _, g := range v.Goals {
				c.Rows = append(c.Rows, append(append([]string{g.ID, g.What, g.Goal}, g.Figures...), g.Limit, strings.TrimSpace(g.Verdict+" "+g.Why)))
			}
			b.WriteString("\n## Where we want to be, where we are\n")
			c.markdown(&b)
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
			for _, c := range append(v.Limits.Near, v.Limits.Measured, v.Limits.Model) {
				c.markdown(&b)
			}
		}
	}
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

// Printing results as a table for people, or as JSON or YAML for programs.

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"
)

func tableWriter(w io.Writer) *tabwriter.Writer { return tabwriter.NewWriter(w, 0, 0, 2, ' ', 0) }

// print writes value as -o says; table prints it for people.
func (a *app) print(cmd *cobra.Command, value any, table func(w io.Writer)) error {
	switch flagString(cmd, "output") {
	case "json":
		enc := json.NewEncoder(a.out)
		enc.SetIndent("", "  ")
		return enc.Encode(value)
	case "yaml":
		enc := yaml.NewEncoder(a.out)
		enc.SetIndent(2)
		if err := enc.Encode(value); err != nil {
			return err
		}
		return enc.Close()
	}
	w := tableWriter(a.out)
	table(w)
	return w.Flush()
}

func joinIDs(ids []int32) string {
	parts := make([]string, len(ids))
	for i, id := range ids {
		parts[i] = fmt.Sprint(id)
	}
	return strings.Join(parts, ",")
}

// orDash keeps a column of a table from being empty, which programs that split on spaces would not notice.
func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func known(n int64) string {
	if n < 0 {
		return "-"
	}
	return fmt.Sprint(n)
}

// counted is a number of things: 1 topic, 2 topics; with the two forms of a verb, 1 topic is, 2 topics are.
func counted(n int, thing string, verb ...string) string {
	text := fmt.Sprintf("%d %s", n, one(n, thing, thing+"s"))
	if len(verb) == 2 {
		text += " " + one(n, verb[0], verb[1])
	}
	return text
}

// one chooses between the singular and the plural.
func one(n int, singular, plural string) string {
	if n == 1 {
		return singular
	}
	return plural
}

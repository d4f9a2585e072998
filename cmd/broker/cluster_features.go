// broker cluster features, and broker cluster upgrade.

package main

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/balsamq/balsa/client"
)

func newClusterFeatures(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "features",
		Short: "Show what the brokers support, and which of it the cluster uses",
		Long: `Show what the brokers support, and which of it the cluster uses. The level of a feature is raised by 'broker cluster upgrade' once
all brokers run a version that supports the higher one; after that a broker of an older version is not let in any more.`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return withAdmin(cmd, func(ctx context.Context, adm *client.Admin) error {
				all, err := adm.Features(ctx)
				if err != nil {
					return err
				}
				return a.print(cmd, all, func(w io.Writer) {
					fmt.Fprintln(w, "FEATURE\tLEVEL\tSUPPORTED\tNOTE")
					for _, f := range all {
						fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", f.Name, featureLevel(f.Level), supportedLevels(&f), orDash(featureNote(&f)))
					}
				})
			})
		},
	}
}

func featureLevel(n int16) string {
	if n == 0 {
		return "off"
	}
	return strconv.Itoa(int(n))
}

func supportedLevels(f *client.Feature) string {
	if f.Max < f.Min || f.Max == 0 {
		return "none by all"
	}
	return fmt.Sprintf("%d-%d", f.Min, f.Max)
}

func featureNote(f *client.Feature) string {
	if f.Level < f.Max {
		return "can be upgraded"
	}
	return heldBack(f)
}

// heldBack names the brokers that support less than others do.
func heldBack(f *client.Feature) string {
	var old []string
	for _, b := range f.Brokers {
		highest := true
		for _, o := range f.Brokers {
			highest = highest && b.Max >= o.Max
		}
		if !highest {
			old = append(old, strconv.Itoa(int(b.Broker)))
		}
	}
	if len(old) > 0 {
		return "held back by " + one(len(old), "broker ", "brokers ") + strings.Join(old, ",")
	}
	return ""
}

func newClusterUpgrade(a *app) *cobra.Command {
	var (
		levels            []string
		downgrade, dryRun bool
	)
	cmd := &cobra.Command{
		Use:   "upgrade",
		Short: "Let the cluster use what all its brokers support",
		Long: `Let the cluster use what all its brokers support: each feature, or those named with --feature, gets the highest level that every
live broker supports. Give it once all brokers run the new version; until then the cluster works as before. Afterwards a broker of an older
version is not let in any more.

With --downgrade a lower level is set, if nothing is in use that it does not have.`,
		Example: `  broker cluster upgrade --dry-run
  broker cluster upgrade
  broker cluster upgrade --feature metadata.version=2 --downgrade`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			want, err := featureLevels(levels)
			if err != nil {
				return err
			}
			if downgrade && len(want) == 0 {
				return usageError("'broker cluster features' lists them", "--downgrade needs --feature NAME=LEVEL")
			}
			var held []string
			return withAdmin(cmd, func(ctx context.Context, adm *client.Admin) error {
				if len(want) == 0 {
					all, err := adm.Features(ctx)
					if err != nil {
						return err
					}
					for _, f := range all {
						if f.Max > f.Level {
							want = append(want, client.FeatureLevel{Name: f.Name, Level: f.Max})
						}
						if note := heldBack(&f); note != "" {
							held = append(held, f.Name+" is "+note)
						}
					}
				}
				if len(want) > 0 {
					if err := adm.UpdateFeatures(ctx, want, downgrade, dryRun); err != nil {
						return err
					}
				} else {
					want = []client.FeatureLevel{} // an empty list in JSON, not null
				}
				return a.print(cmd, want, func(w io.Writer) {
					for _, note := range held {
						fmt.Fprintf(w, "%s, which %s to be upgraded first\n", note, one(strings.Count(note, ",")+1, "has", "have"))
					}
					if len(want)+len(held) == 0 {
						fmt.Fprintln(w, "the cluster uses all that its brokers support")
					}
					for _, l := range want {
						verb := "is"
						if dryRun {
							verb = "could be"
						}
						level := "at level " + strconv.Itoa(int(l.Level))
						if l.Level == 0 {
							level = "off"
						}
						fmt.Fprintf(w, "%s %s %s\n", l.Name, verb, level)
					}
				})
			})
		},
	}
	cmd.Flags().StringArrayVar(&levels, "feature", nil, "the feature and its level, `NAME=LEVEL`; 0: off. Can be repeated; without it, all at their highest")
	cmd.Flags().BoolVar(&downgrade, "downgrade", false, "set lower levels")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "only say whether that could be done")
	return cmd
}

func featureLevels(list []string) (out []client.FeatureLevel, err error) {
	for _, s := range list {
		name, level, ok := strings.Cut(s, "=")
		n, err := strconv.ParseInt(level, 10, 16)
		if !ok || name == "" || err != nil || n < 0 {
			return nil, usageError("write --feature metadata.version=3", "--feature %q is not NAME=LEVEL", s)
		}
		out = append(out, client.FeatureLevel{Name: name, Level: int16(n)})
	}
	return out, nil
}

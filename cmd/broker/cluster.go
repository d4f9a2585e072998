// broker cluster, and broker version.

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"

	"github.com/balsamq/balsa/broker"
	"github.com/balsamq/balsa/client"
)

func isKind(err, kind error) bool { return errors.Is(err, kind) }

func newClusterCommand(a *app) *cobra.Command {
	status := &cobra.Command{
		Use:   "status",
		Short: "Show the brokers and what is not as it should be",
		Long: `Show the brokers and what is not as it should be. Every broker is asked: each speaks for what it leads, and a broker that has just
died is missed by nobody yet.

States: live (it answers), silent (it does not, and the cluster has not given it up yet), fenced (the cluster has given it up until it comes
back).`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return withAdmin(cmd, func(ctx context.Context, adm *client.Admin) error {
				c, err := adm.ClusterStatus(ctx)
				if err != nil {
					return err
				}
				return a.print(cmd, c, func(w io.Writer) {
					live := 0
					for _, b := range c.Brokers {
						if b.State == client.BrokerLive {
							live++
						}
					}
					brokers := counted(len(c.Brokers), "broker")
					if live < len(c.Brokers) {
						brokers += fmt.Sprintf(" (%d live)", live)
					}
					fmt.Fprintf(w, "cluster %s: %s, %s, %s, %d without a leader, %d under-replicated\n",
						orDash(c.ID), brokers, counted(c.Topics, "topic"), counted(c.Partitions, "partition"), c.Leaderless, c.UnderReplicated)
					if c.Controller < 0 {
						fmt.Fprintln(w, "the cluster's metadata has no leader: nothing can be changed until most of its voters are back")
					}
					fmt.Fprintln(w, "\nBROKER\tADDRESS\tRACK\tSTATE\tLEADERS\tREPLICAS\tCONTROLLER")
					for _, b := range c.Brokers {
						mark := "-"
						if b.ID == c.Controller {
							mark = "yes"
						}
						fmt.Fprintf(w, "%d\t%s\t%s\t%s\t%d\t%d\t%s\n", b.ID, b.Address, orDash(b.Rack), b.State, b.Leaders, b.Replicas, mark)
					}
				})
			})
		},
	}
	return group("cluster", "Look at the cluster, upgrade it, and remove brokers from it", status, newClusterFeatures(a), newClusterUpgrade(a), newClusterRemove(a))
}

// build is what `broker version` prints.
type build struct {
	Version  string `json:"version" yaml:"version"`
	Commit   string `json:"commit,omitempty" yaml:"commit,omitempty"`
	Go       string `json:"go" yaml:"go"`
	Platform string `json:"platform" yaml:"platform"`
}

func thisBuild() build {
	b := build{Version: broker.Version(), Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return b
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			b.Commit = s.Value
		}
	}
	return b
}

func newVersionCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Show what was built from what",
		Args:  exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			b := thisBuild()
			return a.print(cmd, b, func(w io.Writer) {
				fmt.Fprintf(w, "balsa %s\t%s\t%s\t%s\n", b.Version, orDash(b.Commit), b.Go, b.Platform)
			})
		},
	}
}

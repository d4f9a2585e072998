// broker raft describe: Raft groups, all in a table, or one on all its replicas side by side.

package main

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/balsamq/balsa/client"
)

func newRaftCommand(a *app) *cobra.Command {
	describe := &cobra.Command{
		Use:   "describe [GROUP]",
		Short: "Show all groups, or everything about one",
		Long: `Each partition is a Raft group of its own, and the cluster's metadata another. Without an argument there is a table of all
groups, with what is not as it should be. GROUP is a group's number, TOPIC/PARTITION, or metadata; of it everything is shown,
on all its replicas side by side. A broker that does not answer is named, with the reason.`,
		Example: `  broker raft describe
  broker raft describe orders/0
  broker raft describe metadata -o json
  broker raft describe metadata --admin 127.0.0.1:9292   # where no broker serves Kafka clients`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 1 {
				return usageError(fmt.Sprintf("write '%s'", cmd.UseLine()), "%q is one argument too many", args[1])
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			return withControl(cmd, func(ctx context.Context, ctl *client.Control) error {
				if len(args) == 0 {
					t, err := ctl.RaftGroups(ctx)
					if err != nil {
						return err
					}
					return a.print(cmd, t, func(w io.Writer) { raftTable(w, &t) })
				}
				g, err := ctl.RaftGroup(ctx, args[0])
				if err != nil {
					return err
				}
				return a.print(cmd, g, func(w io.Writer) { raftGroup(w, &g) })
			})
		},
	}
	adminFlag(describe)
	return group("raft", "Look at Raft groups", describe)
}

// groupName is what people call a group.
func groupName(topic string, partition int32) string {
	if topic == "__cluster_metadata" {
		return "metadata"
	}
	return fmt.Sprintf("%s/%d", topic, partition)
}

func raftTable(w io.Writer, t *client.RaftTable) {
	troubled := 0
	fmt.Fprintln(w, "GROUP\tNAME\tLEADER\tTERM\tCOMMIT\tLAG\tREPLICAS\tSTATE")
	for i := range t.Groups {
		g := &t.Groups[i]
		state := "ok"
		if len(g.Problems) > 0 {
			state = strings.Join(g.Problems, "; ")
			troubled++
		}
		members := orDash(joinIDs(g.Replicas))
		if len(g.Learners) > 0 {
			members += "+" + joinIDs(g.Learners)
		}
		fmt.Fprintf(w, "%d\t%s\t%s\t%d\t%d\t%d\t%s\t%s\n", g.Group, groupName(g.Topic, g.Partition), orNone(g.Leader), g.Term, g.Commit, g.Lag, members, state)
	}
	fmt.Fprintf(w, "\n%s, %d not as they should be\n", counted(len(t.Groups), "group"), troubled)
	for _, m := range t.Missing {
		fmt.Fprintf(w, "broker %d does not answer: %s\n", m.Node, m.Error)
	}
}

// orNone is a broker's id, or that there is none.
func orNone(id int32) string {
	if id <= 0 {
		return "-"
	}
	return strconv.Itoa(int(id))
}

// raftRow is one line of the comparison.
type raftRow struct {
	name  string
	value func(*client.RaftReplica) string
}

func count[T int | int32 | int64 | uint32 | uint64](of func(*client.RaftReplica) T) func(*client.RaftReplica) string {
	return func(r *client.RaftReplica) string {
		if v := of(r); v >= 0 {
			return fmt.Sprint(v)
		}
		return "-"
	}
}

func yesNo(of func(*client.RaftReplica) bool) func(*client.RaftReplica) string {
	return func(r *client.RaftReplica) string {
		if of(r) {
			return "yes"
		}
		return "-"
	}
}

// span is a duration that is given in milliseconds; none where there is nothing to show.
func span(ms int64, none string) string {
	if ms <= 0 {
		return none
	}
	return (time.Duration(ms) * time.Millisecond).String()
}

// leaders is a cell that only a leader fills.
func leaders(of func(*client.RaftReplica) string) func(*client.RaftReplica) string {
	return func(r *client.RaftReplica) string {
		if r.Role != "leader" {
			return "-"
		}
		return of(r)
	}
}

// raftRows are the lines that are always shown; raftOdd are shown only if a replica has something to say.
var (
	raftRows = []raftRow{
		{"state", func(r *client.RaftReplica) string { return r.State }},
		{"role", func(r *client.RaftReplica) string {
			if r.Role == "leader" && !r.Ready {
				return "leader, not ready"
			}
			return orDash(r.Role)
		}},
		{"term", count(func(r *client.RaftReplica) uint64 { return r.Term })},
		{"vote", func(r *client.RaftReplica) string { return orNone(r.Vote) }},
		{"leader", func(r *client.RaftReplica) string { return orNone(r.Leader) }},
		{"lease left", leaders(func(r *client.RaftReplica) string { return span(r.LeaseMillis, "none") })},
		{"commit", count(func(r *client.RaftReplica) uint64 { return r.Commit })},
		{"applied", count(func(r *client.RaftReplica) uint64 { return r.Applied })},
		{"stable", count(func(r *client.RaftReplica) uint64 { return r.Stable })},
		{"last", count(func(r *client.RaftReplica) uint64 { return r.Last })},
		{"term of last", count(func(r *client.RaftReplica) uint64 { return r.LastTerm })},
		{"first", count(func(r *client.RaftReplica) uint64 { return r.First })},
		{"snapshot", count(func(r *client.RaftReplica) uint64 { return r.Snapshot })},
		{"log start", count(func(r *client.RaftReplica) int64 { return r.LogStart })},
		{"high watermark", count(func(r *client.RaftReplica) int64 { return r.HighWatermark })},
		{"next offset", count(func(r *client.RaftReplica) int64 { return r.NextOffset })},
		{"bytes", count(func(r *client.RaftReplica) int64 { return r.Bytes })},
		{"segments", count(func(r *client.RaftReplica) int { return r.Segments })},
		{"voters", func(r *client.RaftReplica) string { return orDash(joinIDs(r.Voters)) }},
		{"learners", func(r *client.RaftReplica) string { return orDash(joinIDs(r.Learners)) }},
		{"membership since", count(func(r *client.RaftReplica) uint64 { return r.ConfIndex })},
		{"heartbeats", func(r *client.RaftReplica) string {
			switch {
			case r.Role == "leader":
				return fmt.Sprintf("%d of %d shared", r.CoveredPeers, len(r.Followers))
			case r.Resting:
				return "shared"
			}
			return "own"
		}},
		{"priority", func(r *client.RaftReplica) string { return orDash(r.Priority) }},
		{"elections", count(func(r *client.RaftReplica) uint32 { return r.Elections })},
		{"boot", count(func(r *client.RaftReplica) uint64 { return r.Boot })},
		{"incarnation", func(r *client.RaftReplica) string { return orDash(r.Incarnation) }},
		{"log health", func(r *client.RaftReplica) string { return orDash(r.Health) }},
	}
	raftOdd = []raftRow{
		{"peers reset", count(func(r *client.RaftReplica) uint64 { return r.Epoch })},
		{"leaving voters", func(r *client.RaftReplica) string { return orDash(joinIDs(r.Outgoing)) }},
		{"no leader for", func(r *client.RaftReplica) string { return span(r.LeaderlessMillis, "-") }},
		{"transfers to", func(r *client.RaftReplica) string { return orNone(r.Transferee) }},
		{"uncommitted bytes", count(func(r *client.RaftReplica) int64 { return r.UncommittedBytes })},
		{"proposals waiting", count(func(r *client.RaftReplica) int { return r.Waiting })},
		{"reads waiting", count(func(r *client.RaftReplica) int { return r.Reads })},
		{"inbox", count(func(r *client.RaftReplica) int { return r.Inbox })},
		{"overloaded", yesNo(func(r *client.RaftReplica) bool { return r.Overloaded })},
		{"disk hangs", yesNo(func(r *client.RaftReplica) bool { return r.Muted })},
		{"disk full", yesNo(func(r *client.RaftReplica) bool { return r.Full })},
		{"disk impaired", yesNo(func(r *client.RaftReplica) bool { return r.Impaired })},
		{"damaged up to", count(func(r *client.RaftReplica) uint64 { return r.DamagedUpTo })},
		{"installs snapshot", yesNo(func(r *client.RaftReplica) bool { return r.Installing })},
		{"takes snapshot", yesNo(func(r *client.RaftReplica) bool { return r.Snapshotting })},
	}
)

// told reports that there is anything to compare: a broker that did not answer, or has no replica, has nothing.
func told(r *client.RaftReplica) bool { return r.Role != "" }

func raftGroup(w io.Writer, g *client.RaftGroup) {
	var leader *client.RaftReplica
	for i := range g.Replicas {
		if r := &g.Replicas[i]; r.Role == "leader" && (leader == nil || r.Term > leader.Term) {
			leader = r
		}
	}
	fmt.Fprintf(w, "group %d, %s: ", g.Group, groupName(g.Topic, g.Partition))
	if leader != nil {
		fmt.Fprintf(w, "led by broker %d in term %d\n\n", leader.Node, leader.Term)
	} else {
		fmt.Fprint(w, "no leader\n\n")
	}
	for i := range g.Replicas {
		fmt.Fprintf(w, "\tBROKER %d", g.Replicas[i].Node)
	}
	fmt.Fprintln(w)
	line := func(row *raftRow, always bool) {
		cells, say := make([]string, len(g.Replicas)), always
		for i := range g.Replicas {
			r := &g.Replicas[i]
			cells[i] = "-"
			if told(r) || row.name == "state" {
				cells[i] = row.value(r)
			}
			say = say || cells[i] != "-" && cells[i] != "0"
		}
		if say {
			fmt.Fprintf(w, "%s\t%s\n", row.name, strings.Join(cells, "\t"))
		}
	}
	for i := range raftRows {
		line(&raftRows[i], true)
	}
	for i := range raftOdd {
		line(&raftOdd[i], false)
	}
	if leader != nil && len(leader.Followers) > 0 {
		fmt.Fprintf(w, "\nas broker %d sees the others:\n\n", leader.Node)
		fmt.Fprintln(w, "BROKER\tSTATE\tMATCH\tNEXT\tLAG\tINFLIGHT\tLAST CONTACT\tHEARTBEATS")
		for _, f := range leader.Followers {
			state, contact, beats := f.State, "never", "own"
			if f.Learner {
				state += ", learner"
			}
			if !f.Active {
				state += ", silent"
			}
			if f.ContactMillis >= 0 {
				contact = (time.Duration(f.ContactMillis) * time.Millisecond).String() + " ago"
			}
			if f.Covered {
				beats = "shared"
			}
			fmt.Fprintf(w, "%d\t%s\t%d\t%d\t%d\t%d (%d bytes)\t%s\t%s\n", f.Node, state, f.Match, f.Next, f.Lag, f.Inflight, f.InflightBytes, contact, beats)
		}
	}
	first := true
	for i := range g.Replicas {
		if r := &g.Replicas[i]; r.Error != "" {
			if first {
				fmt.Fprintln(w)
				first = false
			}
			fmt.Fprintf(w, "broker %d: %s\n", r.Node, r.Error)
		}
	}
}

// broker topic: create, list, describe, trim, delete. What changes one is in config.go.

package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/balsamq/balsa/client"
)

func newTopicCommand(a *app) *cobra.Command {
	return group("topic", "Create, list, describe, change, trim and delete topics", newTopicCreate(a), newTopicList(a), newTopicDescribe(a), newTopicAlter(a), newTopicAddPartitions(a),
		newTopicTrim(a), newTopicDelete(a))
}

// topicMade is a topic that was made, or would be.
type topicMade struct {
	client.Topic `yaml:",inline"`
	DryRun       bool `json:"dryRun,omitempty" yaml:"dryRun,omitempty"`
}

func newTopicCreate(a *app) *cobra.Command {
	var (
		partitions, replicas int32
		configs              []string
		ifNotExists, dry     bool
	)
	cmd := &cobra.Command{
		Use:   "create NAME",
		Short: "Create a topic",
		Long: `Create a topic, and return when each of its partitions has a leader. Without --partitions and --replicas the brokers
decide: one partition, and three replicas or as many as there are brokers. With thousands of partitions it says how far it is, and
waits for longer than --timeout as long as there come more leaders. 'broker help topic-configs' lists what --set takes.`,
		Example: `  broker topic create orders --partitions 6 --replicas 3
  broker topic create logs --set retention.ms=86400000 --set cleanup.policy=delete`,
		Args: exactly("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			spec := client.TopicSpec{Name: args[0], Partitions: partitions, Replicas: int16(replicas), ValidateOnly: dry, Configs: map[string]string{}}
			for _, f := range []struct {
				name  string
				value int32
				most  int32
			}{{"partitions", partitions, math.MaxInt32}, {"replicas", replicas, math.MaxInt16}} {
				if cmd.Flags().Changed(f.name) && (f.value <= 0 || f.value > f.most) {
					return usageError("leave it out for the brokers' default", "--%s %d must be from 1 to %d", f.name, f.value, f.most)
				}
			}
			for _, c := range configs {
				k, v, ok := strings.Cut(c, "=")
				if !ok || k == "" {
					return usageError("write --set retention.ms=60000", "--set %q has no name and value", c)
				}
				spec.Configs[k] = v
			}
			return withAdmin(cmd, func(ctx context.Context, adm *client.Admin) error {
				var stop func()
				spec.Progress, stop = a.creationProgress(cmd, spec.Name)
				defer stop()
				t, err := adm.CreateTopic(ctx, spec)
				if isKind(err, client.ErrTimeout) && !dry {
					t, err = a.awaitTopic(cmd, adm, spec, err)
				}
				stop()
				there := ifNotExists && isKind(err, client.ErrExists)
				if there {
					t, err = adm.Topic(ctx, spec.Name)
				}
				if err != nil {
					return configMistake(err, client.TopicConfigs, spec.Configs)
				}
				already := ""
				if there {
					already = " was there already"
				}
				return a.print(cmd, topicMade{t, dry}, func(w io.Writer) {
					if dry && !there {
						fmt.Fprintf(w, "topic %s would be created", t.Name)
						if len(t.Partitions) > 0 {
							fmt.Fprintf(w, ": %s, %s", counted(len(t.Partitions), "partition"), counted(t.Replicas(), "replica"))
						}
						fmt.Fprintln(w)
						for _, name := range slices.Sorted(maps.Keys(spec.Configs)) {
							fmt.Fprintf(w, "with %s=%s\n", name, spec.Configs[name])
						}
						return
					}
					fmt.Fprintf(w, "topic %s%s: %s, %s\n", t.Name, already, counted(len(t.Partitions), "partition"), counted(t.Replicas(), "replica"))
				})
			})
		},
	}
	f := cmd.Flags()
	f.Int32VarP(&partitions, "partitions", "p", 0, "number of partitions")
	f.Int32VarP(&replicas, "replicas", "r", 0, "replicas of each partition")
	f.StringArrayVar(&configs, "set", nil, "a setting `NAME=VALUE` of the topic; may be repeated")
	f.BoolVar(&ifNotExists, "if-not-exists", false, "a topic that is there already is no error")
	dryRunFlag(cmd, &dry)
	return cmd
}

// creationProgress says how many partitions have a leader: on a terminal in one line, elsewhere every few seconds.
func (a *app) creationProgress(cmd *cobra.Command, name string) (tell func(led, partitions int), stop func()) {
	const pause = 3 * time.Second
	told := time.Now()
	var text atomic.Pointer[string]
	stop = a.progress(cmd, func() string {
		if s := text.Load(); s != nil {
			return *s
		}
		return ""
	})
	remarks := !a.showsProgress(cmd) && !quiet(cmd)
	return func(led, partitions int) {
		line := fmt.Sprintf("topic %s is created; %d of %s have a leader", name, led, counted(partitions, "partition"))
		text.Store(&line)
		if remarks && time.Since(told) >= pause {
			told = time.Now()
			fmt.Fprintln(a.err, line)
		}
	}, stop
}

// awaitTopic goes on waiting for a topic that is created, for as long as there are more leaders after --timeout than there were
// before; timedOut is what is said if not.
func (a *app) awaitTopic(cmd *cobra.Command, adm *client.Admin, spec client.TopicSpec, timedOut error) (client.Topic, error) {
	for before := 0; ; {
		ctx, cancel := within(cmd)
		t, err := adm.Topic(ctx, spec.Name)
		led := len(t.Partitions) - leaderless(t)
		if err != nil || led <= before {
			cancel()
			return t, timedOut
		}
		before = led
		t, timedOut = adm.WaitForTopic(ctx, spec.Name, spec.Progress)
		cancel()
		if !isKind(timedOut, client.ErrTimeout) {
			return t, timedOut
		}
	}
}

func newTopicList(a *app) *cobra.Command {
	var internal bool
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the topics",
		Args:  exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return withAdmin(cmd, func(ctx context.Context, adm *client.Admin) error {
				topics, err := adm.ListTopics(ctx, internal)
				if err != nil {
					return err
				}
				return a.print(cmd, topics, func(w io.Writer) {
					if len(topics) == 0 {
						fmt.Fprintln(w, "no topics")
						return
					}
					fmt.Fprintln(w, "NAME\tPARTITIONS\tREPLICAS\tLEADERLESS")
					for _, t := range topics {
						fmt.Fprintf(w, "%s\t%d\t%d\t%d\n", t.Name, len(t.Partitions), t.Replicas(), leaderless(t))
					}
				})
			})
		},
	}
	cmd.Flags().BoolVar(&internal, "internal", false, "also those that the brokers keep for themselves")
	return cmd
}

func leaderless(t client.Topic) int {
	n := 0
	for _, p := range t.Partitions {
		if p.Leader < 0 {
			n++
		}
	}
	return n
}

func newTopicDescribe(a *app) *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use:   "describe NAME",
		Short: "Show a topic's partitions, offsets and settings",
		Args:  exactly("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return withAdmin(cmd, func(ctx context.Context, adm *client.Admin) error {
				t, err := adm.DescribeTopic(ctx, args[0])
				if err != nil {
					return err
				}
				return a.print(cmd, t, func(w io.Writer) {
					fmt.Fprintf(w, "topic %s, id %s\n\n", t.Name, orDash(t.ID))
					fmt.Fprintln(w, "PARTITION\tLEADER\tEPOCH\tREPLICAS\tIN SYNC\tSTART\tEND\tERROR")
					for _, p := range t.Partitions {
						fmt.Fprintf(w, "%d\t%s\t%d\t%s\t%s\t%s\t%s\t%s\n", p.Partition, known(int64(p.Leader)), p.LeaderEpoch, joinIDs(p.Replicas),
							joinIDs(p.InSync), known(p.Start), known(p.End), orDash(p.Error))
					}
					var set []client.TopicConfig
					for _, c := range t.Configs {
						if all || !c.Default {
							set = append(set, c)
						}
					}
					if len(set) > 0 {
						fmt.Fprintln(w, "\nSETTING\tVALUE\tDEFAULT")
						for _, c := range set {
							fmt.Fprintf(w, "%s\t%s\t%v\n", c.Name, orDash(c.Value), c.Default)
						}
					}
				})
			})
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "in the table, also the settings that have their default")
	return cmd
}

func newTopicTrim(a *app) *cobra.Command {
	var (
		partition int32
		before    string
		dry       bool
	)
	cmd := &cobra.Command{
		Use:   "trim NAME",
		Short: "Delete the oldest records of a partition, for good",
		Example: `  broker topic trim orders --partition 0 --before 1000
  broker topic trim orders --partition 0 --before end`,
		Args: exactly("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			offset := client.AtEnd
			if before != "end" {
				n, err := strconv.ParseInt(before, 10, 64)
				if err != nil || n < 0 {
					return usageError("write --before 1000, or --before end", "--before %q is no offset", before)
				}
				offset = n
			}
			if partition < 0 {
				return usageError("write --partition 0", "--partition is missing")
			}
			return withAdmin(cmd, func(ctx context.Context, adm *client.Admin) error {
				type result struct {
					Topic     string `json:"topic" yaml:"topic"`
					Partition int32  `json:"partition" yaml:"partition"`
					Start     int64  `json:"start" yaml:"start"`
					DryRun    bool   `json:"dryRun,omitempty" yaml:"dryRun,omitempty"`
				}
				if dry {
					now, start, err := planTrim(ctx, adm, args[0], partition, offset)
					if err != nil {
						return err
					}
					return a.print(cmd, result{args[0], partition, start, true}, func(w io.Writer) {
						fmt.Fprintf(w, "topic %s, partition %d: would start at offset %d instead of %d, without %s\n", args[0], partition, start, now, counted(int(start-now), "offset"))
					})
				}
				start, err := adm.TrimPartition(ctx, args[0], partition, offset)
				if err != nil {
					return err
				}
				return a.print(cmd, result{args[0], partition, start, false}, func(w io.Writer) {
					fmt.Fprintf(w, "topic %s, partition %d: starts at offset %d\n", args[0], partition, start)
				})
			})
		},
	}
	f := cmd.Flags()
	f.Int32VarP(&partition, "partition", "p", -1, "the partition")
	f.StringVar(&before, "before", "", "the first `OFFSET` to keep, or end")
	dryRunFlag(cmd, &dry)
	return cmd
}

// planTrim is where a partition starts now, and where it would start; before is an offset, or client.AtEnd. What the brokers would refuse is refused.
func planTrim(ctx context.Context, adm *client.Admin, topic string, partition int32, before int64) (now, start int64, err error) {
	if err := adm.PartitionExists(ctx, topic, partition); err != nil {
		return 0, 0, err
	}
	t, err := adm.DescribeTopic(ctx, topic)
	if isKind(err, client.ErrDenied) { // who may trim need not be allowed to see the settings
		t, err = adm.Topic(ctx, topic)
	}
	switch {
	case err != nil:
		return 0, 0, err
	case t.Internal:
		err = kerr.InvalidTopicException
	case slices.ContainsFunc(t.Configs, onlyCompacts):
		err = kerr.PolicyViolation
	}
	if err != nil {
		return 0, 0, &client.Error{Op: "trim", Subject: partitionName(topic, partition), Kind: client.ErrInvalid, Err: err}
	}
	all, err := adm.Offsets(ctx, topic)
	if err != nil {
		return 0, 0, err
	}
	i := slices.IndexFunc(all, func(p client.Partition) bool { return p.Partition == partition })
	if i < 0 || all[i].Error != "" {
		return 0, 0, &client.Error{Op: "trim", Subject: partitionName(topic, partition), Kind: client.ErrTimeout, Err: kerr.LeaderNotAvailable}
	}
	p := &all[i]
	if before > p.End {
		return 0, 0, &client.Error{Op: "trim", Subject: partitionName(topic, partition), Kind: client.ErrInvalid, Err: kerr.OffsetOutOfRange}
	}
	if start = before; before == client.AtEnd {
		start = p.End
	}
	return p.Start, max(start, p.Start), nil
}

// onlyCompacts says that a setting keeps records from being deleted by offset.
func onlyCompacts(c client.TopicConfig) bool {
	return c.Name == "cleanup.policy" && c.Value != "" && !strings.Contains(c.Value, "delete")
}

func newTopicDelete(a *app) *cobra.Command {
	return newDelete(a, "topic", "Delete a topic and its records, for good", (*client.Admin).DeleteTopic, func(ctx context.Context, adm *client.Admin, name string) (string, error) {
		t, err := adm.Topic(ctx, name)
		if err != nil {
			return "", err
		}
		if t.Internal {
			return "", &client.Error{Op: "delete topic", Subject: name, Kind: client.ErrDenied, Err: fmt.Errorf("topic %s belongs to the brokers (%w)", name, kerr.TopicAuthorizationFailed)}
		}
		all, err := adm.Offsets(ctx, name)
		if err != nil { // one without a leader can be deleted all the same
			return counted(len(t.Partitions), "partition") + ", an unknown number of records", nil
		}
		records, known := int64(0), "records"
		for _, p := range all {
			if p.Error != "" {
				known = "records or more"
				continue
			}
			records += p.End - p.Start
		}
		return fmt.Sprintf("%s, %d %s", counted(len(t.Partitions), "partition"), records, known), nil
	})
}

// broker consume: records to lines.

package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.yaml.in/yaml/v3"

	"github.com/balsamq/balsa/client"
)

type consumeOptions struct {
	from, format, group string
	rack                string
	partitions          []int32
	count               int64
	exitAtEnd           bool
	uncommitted         bool
}

func newConsumeCommand(a *app) *cobra.Command {
	o := &consumeOptions{}
	cmd := &cobra.Command{
		Use:   "consume TOPIC",
		Short: "Print records",
		Long: `Print a topic's records, each value on a line of its own, and wait for more until interrupted; -e and -n end earlier.
With -o json each line is one record as a JSON object, with -o yaml each record is a document.

--from says where to begin:
` + startHelp + `
With --group it counts only where the group has not been before.

--format says how to print a record:
` + formatHelp,
		Example: `  broker consume orders -e
  broker consume orders --from -10 --partition 0 -f '%o %k=%s\n'
  broker consume orders --from @15m -n 100 -o json`,
		Args: exactly("TOPIC"),
		RunE: func(cmd *cobra.Command, args []string) error { return a.consume(cmd, args[0], o) },
	}
	f := cmd.Flags()
	f.StringVar(&o.from, "from", "beginning", "where to begin: `beginning|end|N|-N|@TIME`")
	f.StringVarP(&o.format, "format", "f", `%s\n`, "how to print a record")
	f.StringVarP(&o.group, "group", "g", "", "consume as a member of this group")
	f.Int32SliceVarP(&o.partitions, "partition", "p", nil, "only these partitions `N,...`")
	f.Int64VarP(&o.count, "count", "n", 0, "stop after so many records; 0: do not")
	f.BoolVarP(&o.exitAtEnd, "exit", "e", false, "stop at the end that the partitions have now")
	f.StringVar(&o.rack, "rack", "", "read from replicas in this rack, `NAME`, where there are some in sync")
	f.BoolVar(&o.uncommitted, "read-uncommitted", false, "also records of open and aborted transactions")
	return cmd
}

// commitTimeout bounds what is left to do after an interrupt: telling the group how far we came.
const commitTimeout = 5 * time.Second

func (a *app) consume(cmd *cobra.Command, topic string, o *consumeOptions) error {
	at, err := parseStart(o.from, time.Now())
	if err != nil {
		return usageError("write beginning, end, an offset, -N for the last N, or a time as in @2026-03-01T12:00:00Z or @15m: 'broker consume --help'", "--from: %v", err)
	}
	format, err := compileFormat(o.format)
	if err != nil {
		return usageError("'broker consume --help' lists what a format can contain", "--format: %v", err)
	}
	if a.typed["format"] && flagString(cmd, "output") != "table" {
		if a.typed["output"] {
			return usageError("leave one of them out", "--format and -o %s exclude each other", flagString(cmd, "output"))
		}
		_ = cmd.Flags().Set("output", "table") // a flag wins over what environment or file say
	}
	if o.count < 0 {
		return usageError("leave it out for no limit", "--count %d is negative", o.count)
	}
	if i := slices.IndexFunc(o.partitions, func(p int32) bool { return p < 0 }); i >= 0 {
		return usageError("partitions count from 0: 'broker topic describe "+topic+"' shows them", "--partition %d is negative", o.partitions[i])
	}
	if o.group != "" && len(o.partitions) > 0 {
		return usageError("leave one of them out", "--group and --partition exclude each other: a group assigns partitions itself")
	}
	cfg := client.ConsumerConfig{Config: connection(cmd), Group: o.group, From: clientStart(at), StopAtEnd: o.exitAtEnd, ReadUncommitted: o.uncommitted, Rack: o.rack}
	if len(o.partitions) > 0 {
		cfg.Partitions = map[string]map[int32]client.Start{topic: {}}
		for _, p := range o.partitions {
			cfg.Partitions[topic][p] = cfg.From
		}
	} else {
		cfg.Topics = []string{topic}
	}
	ctx := cmd.Context()
	joining, cancel := within(cmd)
	c, err := client.NewConsumer(joining, cfg)
	cancel()
	if err != nil {
		return err
	}
	out := bufio.NewWriterSize(a.out, 64<<10)
	write := recordWriter(cmd, out, format)
	var read atomic.Int64
	stop := a.consumeProgress(cmd, c, o, &read)
	err = consumeAll(ctx, c, o, out, write, &read)
	stop()
	if errors.Is(err, context.Canceled) && ctx.Err() != nil {
		err = nil // an interrupt is the usual way to end
	}
	leaving, cancel := context.WithTimeout(context.WithoutCancel(ctx), commitTimeout)
	defer cancel()
	closeErr := c.Close(leaving)
	return errors.Join(err, closeErr)
}

// consumeAll prints a poll at a time, and flushes after each, so that a record is seen when it comes. What was polled
// is committed by a group only after it was printed.
func consumeAll(ctx context.Context, c *client.Consumer, o *consumeOptions, out *bufio.Writer, write func(*kgo.Record) error, read *atomic.Int64) error {
	for n := int64(0); ; {
		limit := 0
		if o.count > 0 {
			limit = int(min(o.count-n, client.DefaultPollRecords))
		}
		records, err := c.Poll(ctx, limit)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		for _, r := range records {
			if err := write(r); err != nil {
				return err
			}
		}
		if err := out.Flush(); err != nil {
			return err
		}
		read.Add(int64(len(records)))
		if n += int64(len(records)); n == o.count {
			leaving, cancel := context.WithTimeout(context.WithoutCancel(ctx), commitTimeout)
			defer cancel()
			return c.Commit(leaving)
		}
	}
}

// consumeProgress is for a consume that ends by itself, and whose records nobody sees pass by.
func (a *app) consumeProgress(cmd *cobra.Command, c *client.Consumer, o *consumeOptions, read *atomic.Int64) (stop func()) {
	if o.count == 0 && !o.exitAtEnd || !a.showsProgress(cmd) || a.isTerminal(a.out) {
		return func() {}
	}
	total := o.count
	if o.exitAtEnd && o.group == "" { // a group has no partitions yet
		ctx, cancel := within(cmd)
		lags, err := c.Lag(ctx)
		cancel()
		all := int64(0)
		for _, l := range lags {
			all += l.Records()
		}
		if err == nil && (total == 0 || all < total) {
			total = all
		}
	}
	started := time.Now()
	return a.progress(cmd, func() string {
		n := read.Load()
		of := ""
		if total > 0 {
			of = fmt.Sprintf(" of %d", total)
		}
		return fmt.Sprintf("%d%s records read, %d/s, %s", n, of, int64(float64(n)/time.Since(started).Seconds()), pace(started, n, total))
	})
}

func clientStart(s start) client.Start {
	switch s.kind {
	case 'e':
		return client.FromEnd()
	case 'o':
		return client.FromOffset(s.n)
	case 't':
		return client.FromTail(s.n)
	case '@':
		return client.FromTime(s.at)
	}
	return client.FromBeginning()
}

func recordWriter(cmd *cobra.Command, w io.Writer, format formatter) func(*kgo.Record) error {
	switch flagString(cmd, "output") {
	case "json":
		enc := json.NewEncoder(w)
		enc.SetEscapeHTML(false)
		return func(r *kgo.Record) error { return enc.Encode(recordView(r)) }
	case "yaml":
		return func(r *kgo.Record) error {
			doc, err := yaml.Marshal(recordView(r))
			if err == nil {
				_, err = fmt.Fprintf(w, "---\n%s", doc)
			}
			return err
		}
	}
	var buf []byte
	return func(r *kgo.Record) error {
		buf = format(buf[:0], r)
		_, err := w.Write(buf)
		return err
	}
}

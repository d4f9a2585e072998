// Wordcount: exactly once, though a worker is killed in the middle of its work.
//
//	lines ──workers──▶ words
//
// Workers take lines and write, for each word, how often the line has it; who reads the topic of words adds that up. The workers are processes of
// their own, and one of them dies as by kill -9 with a transaction open. The same is done twice: by [client.Transform], where what a worker writes and
// how far it has come are one transaction, and by a worker that writes first and commits afterwards, as most programs do. The first counts right.
//
//	go run ./examples/wordcount
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"golang.org/x/sync/errgroup"

	"github.com/balsamq/balsa/broker"
	"github.com/balsamq/balsa/brokertest"
	"github.com/balsamq/balsa/client"
	"github.com/balsamq/balsa/examples/internal/demo"
)

const (
	lineCount = 3000
	batch     = 100 // lines in one transaction, or between two commits
	dieAt     = 725 // the line of a worker's at which it dies: in the middle of a batch
)

// Shakespeare, The Tempest.
var verses = []string{
	"full fathom five thy father lies",
	"of his bones are coral made",
	"those are pearls that were his eyes",
	"nothing of him that doth fade",
	"but doth suffer a sea change",
	"into something rich and strange",
	"sea nymphs hourly ring his knell",
	"hark now i hear them ding dong bell",
}

func main() {
	demo.Main(demo.Example{Name: "wordcount", What: "Words counted exactly once, though a worker is killed in the middle.", Brokers: 1, Run: run,
		// Kafka's 45 s are for members that may be held up; the example's own cluster does not wait so long for a dead one.
		Options: []brokertest.Option{brokertest.Configure(func(_ int, cfg *broker.Config) { cfg.GroupConsumerSession = 2 * time.Second })},
		Parts:   map[string]func(context.Context, *demo.Demo, []string) error{"exactly-once": exactlyOnce, "at-least-once": atLeastOnce}})
}

func run(ctx context.Context, d *demo.Demo) error {
	if err := d.Create(ctx,
		client.TopicSpec{Name: d.Name("lines"), Partitions: 3},
		client.TopicSpec{Name: d.Name("words-exactly-once"), Partitions: 2},
		client.TopicSpec{Name: d.Name("words-at-least-once"), Partitions: 2},
	); err != nil {
		return err
	}
	truth := make(map[string]int)
	if err := write(ctx, d, truth); err != nil {
		return err
	}
	g, both := errgroup.WithContext(ctx)
	g.Go(func() error { return work(both, d, "exactly-once", "worker-1", "worker-2") })
	g.Go(func() error { return work(both, d, "at-least-once", "worker") })
	if err := g.Wait(); err != nil {
		return err
	}
	exact, err := count(ctx, d, "exactly-once")
	if err != nil {
		return err
	}
	more, err := count(ctx, d, "at-least-once")
	if err != nil {
		return err
	}
	words := slices.SortedFunc(maps.Keys(truth), func(a, b string) int { return cmp.Or(truth[b]-truth[a], strings.Compare(a, b)) })
	d.Say("%-10s %8s %14s %14s", "", "in truth", "exactly once", "at least once")
	for _, w := range words[:5] {
		d.Say("%-10s %8d %14d %14d", w, truth[w], exact[w], more[w])
	}
	d.Say("%-10s %8d %14d %14d", "all words", sum(truth), sum(exact), sum(more))
	if !maps.Equal(exact, truth) {
		return fmt.Errorf("the exactly-once workers have counted %d words, there are %d", sum(exact), sum(truth))
	}
	for w, n := range truth {
		if more[w] < n {
			return fmt.Errorf("the at-least-once worker has lost %q: %d of %d", w, n-more[w], n)
		}
	}
	d.Say("Right: exactly once is exact; at least once has lost nothing, and counted %d words again.", sum(more)-sum(truth))
	return nil
}

// patience is how long a group waits for a member of which it hears nothing.
func patience(ctx context.Context, d *demo.Demo, group string) (string, error) {
	adm, err := client.NewAdmin(ctx, d.Config)
	if err != nil {
		return "", err
	}
	defer adm.Close()
	values, err := adm.Configs(ctx, client.ConfigResource{Kind: client.GroupConfigs, Name: d.Name(group)}, "consumer.session.timeout.ms")
	if err != nil || len(values) == 0 || values[0].Value == nil {
		return "some time", err
	}
	return *values[0].Value + " ms", nil
}

// write writes the lines, and counts their words without ado.
func write(ctx context.Context, d *demo.Demo, truth map[string]int) error {
	p, err := client.NewProducer(ctx, client.ProducerConfig{Config: d.Config, Topic: d.Name("lines")})
	if err != nil {
		return err
	}
	for i := range lineCount {
		line := verses[i%len(verses)]
		for _, w := range strings.Fields(line) {
			truth[w]++
		}
		p.ProduceAsync(ctx, &kgo.Record{Key: []byte(strconv.Itoa(i)), Value: []byte(line)}, nil)
	}
	if err := p.Close(ctx); err != nil {
		return err
	}
	d.Say("%d lines with %d words are written.", lineCount, sum(truth))
	return nil
}

// work lets workers of one kind work until all lines are done. The first one begins alone and dies; it is started again under its name, together
// with the others.
func work(ctx context.Context, d *demo.Demo, kind string, names ...string) error {
	first, err := d.Start(ctx, kind, names[0], strconv.Itoa(dieAt))
	if err != nil {
		return err
	}
	if err := first.Wait(); first.ProcessState.ExitCode() != -1 { // it ended in another way than by a signal
		return fmt.Errorf("%s %s should have died by then: %w", kind, names[0], err)
	}
	after, err := patience(ctx, d, kind)
	if err != nil {
		return err
	}
	d.Say("%s: %s is started again. The group takes the dead one's lines from it after %s.", kind, names[0], after)
	var workers []*exec.Cmd
	for _, name := range names {
		w, err := d.Start(ctx, kind, name)
		if err != nil {
			return err
		}
		workers = append(workers, w)
	}
	if err := done(ctx, d, kind); err != nil {
		return err
	}
	for i, w := range workers {
		if err := errors.Join(w.Process.Signal(os.Interrupt), w.Wait()); err != nil {
			return fmt.Errorf("%s %s: %w", kind, names[i], err)
		}
	}
	return nil
}

// done waits until a group has committed all lines.
func done(ctx context.Context, d *demo.Demo, group string) error {
	adm, err := client.NewAdmin(ctx, d.Config)
	if err != nil {
		return err
	}
	defer adm.Close()
	for {
		detail, err := adm.DescribeGroup(ctx, d.Name(group))
		if err != nil {
			return err
		}
		var committed int64
		for _, o := range detail.Offsets {
			committed += max(o.Offset, 0)
		}
		if committed == lineCount {
			return nil
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("group %s has done %d lines of %d: %w", group, committed, lineCount, ctx.Err())
		}
	}
}

// exactlyOnce is a worker: what it writes for a batch of lines, and that these are done, is one transaction.
func exactlyOnce(ctx context.Context, d *demo.Demo, args []string) error {
	lines := newLines(d, "exactly-once", args)
	err := client.Transform(ctx, client.TransformConfig{
		Config: d.Config,
		Topics: []string{d.Name("lines")}, Group: d.Name("exactly-once"), Topic: d.Name("words-exactly-once"),
		MaxRecords: batch,
		// The same name after a restart: what the dead worker has left open is aborted at once, and not when its time is over.
		TransactionalID: d.Name("exactly-once-" + args[0]),
	}, func(_ context.Context, r *kgo.Record) ([]*kgo.Record, error) {
		lines.next()
		return wordsOf(r), nil
	})
	return interrupted(ctx, err)
}

// atLeastOnce is a worker that commits after its words are written. A crash in between counts them again; the other way round would lose them.
func atLeastOnce(ctx context.Context, d *demo.Demo, args []string) error {
	lines := newLines(d, "at-least-once", args)
	p, err := client.NewProducer(ctx, client.ProducerConfig{Config: d.Config, Topic: d.Name("words-at-least-once")})
	if err != nil {
		return err
	}
	defer p.Close(ctx)
	c, err := client.NewConsumer(ctx, client.ConsumerConfig{Config: d.Config, Topics: []string{d.Name("lines")}, Group: d.Name("at-least-once")})
	if err != nil {
		return err
	}
	defer c.Close(context.WithoutCancel(ctx))
	for {
		records, err := c.Poll(ctx, batch)
		if err != nil {
			return interrupted(ctx, err)
		}
		for _, r := range records {
			if err := p.Produce(ctx, wordsOf(r)...); err != nil {
				return interrupted(ctx, err)
			}
			lines.next()
		}
		if err := c.Commit(ctx); err != nil {
			return interrupted(ctx, err)
		}
	}
}

// interrupted is nil for a worker that was asked to end.
func interrupted(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// lines counts those of a worker.
type lines struct {
	d         *demo.Demo
	name      string
	n, lastOf int // lastOf 0: it lives
}

// newLines takes a worker's arguments: its name, and the line at which it dies.
func newLines(d *demo.Demo, kind string, args []string) *lines {
	l := &lines{d: d, name: kind + ": " + args[0]}
	if len(args) > 1 {
		l.lastOf, _ = strconv.Atoi(args[1])
	}
	return l
}

func (l *lines) next() {
	if l.n++; l.n == l.lastOf {
		l.d.Say("%s dies at its line %d, in the middle of a batch of %d.", l.name, l.n, batch)
		demo.Die()
	}
}

// wordsOf are the words of a line, each with how often it is there.
func wordsOf(r *kgo.Record) (out []*kgo.Record) {
	n := make(map[string]int)
	for _, w := range strings.Fields(string(r.Value)) {
		n[w]++
	}
	for _, w := range slices.Sorted(maps.Keys(n)) {
		out = append(out, &kgo.Record{Key: []byte(w), Value: []byte(strconv.Itoa(n[w]))})
	}
	return out
}

// count adds up what is committed of the words.
func count(ctx context.Context, d *demo.Demo, kind string) (map[string]int, error) {
	c, err := client.NewConsumer(ctx, client.ConsumerConfig{Config: d.Config, Topics: []string{d.Name("words-" + kind)}, StopAtEnd: true})
	if err != nil {
		return nil, err
	}
	defer c.Close(ctx)
	out := make(map[string]int)
	for r, err := range c.Records(ctx) {
		if err != nil {
			return nil, err
		}
		n, err := strconv.Atoi(string(r.Value))
		if err != nil {
			return nil, fmt.Errorf("the count of %q: %w", r.Key, err)
		}
		out[string(r.Key)] += n
	}
	return out, nil
}

func sum(words map[string]int) (n int) {
	for _, v := range words {
		n += v
	}
	return n
}

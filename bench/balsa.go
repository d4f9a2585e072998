// Balsa as a system under test: `broker dev` in processes of its own, loaded through franz-go.

package bench

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

const (
	benchTopic    = "bench"
	batchMaxBytes = 1 << 20 // for every system that batches
	stopLimit     = 20 * time.Second
)

// Balsa runs `<Binary> dev --nodes 3`.
type Balsa struct {
	Binary string // the broker's executable

	cell  Cell
	cmd   *exec.Cmd
	seeds []string
}

// Name implements System.
func (b *Balsa) Name() string { return "balsa" }

// Mode implements System.
func (b *Balsa) Mode() string { return "" }

// Start implements System.
func (b *Balsa) Start(ctx context.Context, dir string, c Cell) error {
	if c.Class == ClassA {
		return fmt.Errorf("%w: class A needs balsa.durability=relaxed, which does not exist yet", ErrNotOffered)
	}
	b.cell = c
	b.cmd = exec.Command(b.Binary, "dev", "--nodes", "3", "--data-dir", dir, "--kafka-port", "0")
	b.cmd.Stderr = os.Stderr
	out, err := b.cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := b.cmd.Start(); err != nil {
		return err
	}
	ready := make(chan []string, 1)
	go func() {
		sc := bufio.NewScanner(out)
		for sc.Scan() {
			if addrs, ok := strings.CutPrefix(sc.Text(), "ready: "); ok {
				ready <- strings.Split(addrs, ",")
				break
			}
		}
		close(ready)
		_, _ = io.Copy(io.Discard, out)
	}()
	select {
	case <-ctx.Done():
		return fmt.Errorf("waiting for `broker dev` to be ready: %w", ctx.Err())
	case addrs, ok := <-ready:
		if !ok {
			return errors.New("`broker dev` ended before it was ready")
		}
		b.seeds = addrs
	}
	cl, err := kgo.NewClient(kgo.SeedBrokers(b.seeds...))
	if err != nil {
		return err
	}
	defer cl.Close()
	_, err = kadm.NewClient(cl).CreateTopic(ctx, int32(c.Partitions), 3, nil, benchTopic)
	return err
}

// Pids implements System.
func (b *Balsa) Pids() []int { return children(b.cmd.Process.Pid) }

// Stop implements System.
func (b *Balsa) Stop() error {
	if b.cmd == nil || b.cmd.Process == nil {
		return nil
	}
	_ = b.cmd.Process.Signal(os.Interrupt)
	return waitOrKill(b.cmd)
}

// stopAll asks processes to end, and waits for each; status is what they end with then.
func stopAll(cmds []*exec.Cmd, status int) error {
	for _, c := range cmds {
		_ = c.Process.Signal(os.Interrupt) // it may have ended by itself
	}
	errs := make([]error, len(cmds))
	var wg sync.WaitGroup
	for i, c := range cmds {
		wg.Go(func() {
			err := waitOrKill(c)
			if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.ExitCode() != status {
				errs[i] = err
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// waitOrKill waits for a process that was asked to end, and insists after a while.
func waitOrKill(cmd *exec.Cmd) error {
	t := time.AfterFunc(stopLimit, func() { _ = cmd.Process.Signal(syscall.SIGKILL) })
	err := cmd.Wait()
	if !t.Stop() {
		return fmt.Errorf("process %d did not stop within %v and was killed", cmd.Process.Pid, stopLimit)
	}
	if exit, ok := errors.AsType[*exec.ExitError](err); ok && !exit.Exited() {
		return nil // it died of the signal that we sent
	}
	return err
}

// Producer implements System.
func (b *Balsa) Producer(_ context.Context, _ int) (Producer, error) {
	opts := []kgo.Opt{
		kgo.SeedBrokers(b.seeds...),
		kgo.DefaultProduceTopic(benchTopic),
		kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.RequiredAcks(kgo.AllISRAcks()),
		kgo.ProducerBatchCompression(kgo.NoCompression()),
		kgo.ProducerBatchMaxBytes(batchMaxBytes),
		kgo.ProducerLinger(0),
		kgo.MaxBufferedBytes(b.cell.InflightBytes),
		kgo.MaxBufferedRecords(max(1, b.cell.InflightBytes/b.cell.RecordBytes)),
	}
	cl, err := kgo.NewClient(opts...)
	if err != nil {
		return nil, err
	}
	return &kafkaProducer{cl: cl, sync: b.cell.InflightBytes <= b.cell.RecordBytes}, nil
}

// kafkaProducer is a Producer over the Kafka protocol.
type kafkaProducer struct {
	cl   *kgo.Client
	sync bool // one record at a time: the wait for the one before must not count as this one's latency
}

func (p *kafkaProducer) Send(ctx context.Context, partition int, record []byte, done func(error)) {
	if p.sync {
		done(p.cl.ProduceSync(ctx, &kgo.Record{Partition: int32(partition), Value: record}).FirstErr())
		return
	}
	p.cl.Produce(ctx, &kgo.Record{Partition: int32(partition), Value: record}, func(_ *kgo.Record, err error) { done(err) })
}

func (p *kafkaProducer) Flush(ctx context.Context) error { return p.cl.Flush(ctx) }

func (p *kafkaProducer) Close() { p.cl.Close() }

// ReadBack implements System.
func (b *Balsa) ReadBack(ctx context.Context, fn func(int, []byte)) error {
	return kafkaReadBack(ctx, b.seeds, fn)
}

func kafkaReadBack(ctx context.Context, seeds []string, fn func(int, []byte)) error {
	cl, err := kgo.NewClient(kgo.SeedBrokers(seeds...), kgo.ConsumeTopics(benchTopic),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchMaxBytes(16<<20), kgo.FetchMaxPartitionBytes(4<<20))
	if err != nil {
		return err
	}
	defer cl.Close()
	ends, err := kadm.NewClient(cl).ListEndOffsets(ctx, benchTopic)
	if err != nil {
		return err
	}
	if err := ends.Error(); err != nil {
		return err
	}
	var left int64
	ends.Each(func(o kadm.ListedOffset) { left += o.Offset })
	for left > 0 {
		fetches := cl.PollFetches(ctx)
		if err := fetches.Err0(); err != nil {
			return fmt.Errorf("%d records before the end: %w", left, err)
		}
		var failed error
		fetches.EachError(func(_ string, p int32, err error) { failed = fmt.Errorf("partition %d: %w", p, err) })
		if failed != nil {
			return failed
		}
		fetches.EachRecord(func(r *kgo.Record) {
			fn(int(r.Partition), r.Value)
			left--
		})
	}
	return nil
}

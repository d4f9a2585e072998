package main

// Relaxed durability against processes: what is acknowledged has been handed to the kernel, so that kill -9 of all brokers costs nothing.

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// All three brokers are killed in the middle of a stream of writes. What was acknowledged by then is there when they are back.
func TestRelaxedSurvivesKill(t *testing.T) {
	t.Parallel()
	if _, err := os.Stat("/proc/self/stat"); err != nil {
		t.Skip("only Linux ties children to their parent")
	}
	dir := t.TempDir()
	d := startDev(t, "--data-dir", dir, "--kafka-port", "0")
	d.broker("", "topic", "create", "r", "--partitions", "3", "--replicas", "3", "--set", "balsa.durability=relaxed")
	cl, err := kgo.NewClient(kgo.SeedBrokers(d.addrs...), kgo.DefaultProduceTopic("r"), kgo.ProducerLinger(0), kgo.ProducerBatchMaxBytes(16<<10), kgo.MaxBufferedRecords(1000))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	const enough = 30_000
	var mu sync.Mutex // guards acked
	acked := map[string]bool{}
	reached := make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var writer sync.WaitGroup
	writer.Go(func() {
		for n := 0; ctx.Err() == nil; n++ {
			cl.Produce(ctx, &kgo.Record{Value: fmt.Appendf(nil, "record %d", n)}, func(r *kgo.Record, err error) {
				if err != nil {
					return
				}
				mu.Lock()
				defer mu.Unlock()
				if acked[string(r.Value)] = true; len(acked) == enough {
					close(reached)
				}
			})
		}
	})
	select {
	case <-reached:
	case <-time.After(patience):
		t.Fatal("the records are not acknowledged")
	}
	noted := 0
	for deadline := time.Now().Add(patience); noted == 0 && time.Now().Before(deadline); { // the writer goes on
		_ = filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
			if err == nil && e.Name() == "relaxed" {
				noted++
			}
			return nil // files come and go
		})
	}
	if err := d.cmd.Process.Kill(); err != nil { // and with it the brokers
		t.Fatal(err)
	}
	d.wait()
	gone(t, d.pids)
	if noted == 0 {
		t.Error("no log acknowledged ahead of its syncs")
	}
	cancel()
	writer.Wait()
	cl.Close() // it would send again what was under way, and have it acknowledged after the look

	d = startDev(t, "--data-dir", dir, "--kafka-port", "0")
	there := map[string]bool{}
	for line := range strings.SplitSeq(d.broker("", "consume", "r", "-e"), "\n") {
		there[line] = true
	}
	mu.Lock()
	defer mu.Unlock()
	var lost []string
	for v := range acked {
		if !there[v] {
			lost = append(lost, v)
		}
	}
	slices.Sort(lost)
	if len(lost) > 0 {
		t.Errorf("%d of %d acknowledged records are gone, %q is the first", len(lost), len(acked), lost[0])
	}
	t.Logf("%d acknowledged, %d logs ran ahead", len(acked), noted)
	if code := d.stop(); code != exitOK {
		t.Errorf("exit code %d\n%s", code, &d.err)
	}
}

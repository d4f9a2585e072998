package faults_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

const (
	smallDisk = 96 << 20
	ballast   = 24 << 20 // what is removed to make room
)

// TestFullDisk fills one broker's disk: produce is refused with a clear error by a partition that it leads, until leadership has gone
// to a broker with room; fetch goes on, nothing is lost, and the full one recovers when room is made.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	mount := filepath.Join(t.TempDir(), "small")
	if err := os.Mkdir(mount, 0o755); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", fmt.Sprintf("size=%d", smallDisk), "tmpfs", mount).CombinedOutput(); err != nil {
		t.Skipf("this machine permits no tmpfs: %v %s", err, out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", mount).CombinedOutput(); err != nil {
			t.Errorf("umount: %v %s", err, out)
		}
	})
	spare := filepath.Join(mount, "ballast")
	if err := os.WriteFile(spare, make([]byte, ballast), 0o644); err != nil {
		t.Fatal(err)
	}
	c := newClusterAt(t, func(id int32) string {
		if id == 2 {
			return filepath.Join(mount, "data")
		}
		return filepath.Join(t.TempDir(), "data")
	})
	createTopic(c)
	var ls []int32
	victim := -1
	c.eventually("broker 2 leads something", func() (err error) {
		if ls, err = c.leaders(t.Context()); err != nil {
			return err
		}
		if victim = slices.Index(ls, 2); victim < 0 { // leadership went elsewhere meanwhile
			_, err = c.admin.ElectLeaders(t.Context(), kadm.ElectPreferredReplica, nil)
			return errors.Join(fmt.Errorf("%v lead", ls), err)
		}
		return nil
	})
	// No retries and no idempotence: what the broker says is what is seen.
	cl := c.client(kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.DefaultProduceTopic(topic), kgo.DisableIdempotentWrite(),
		kgo.RequiredAcks(kgo.AllISRAcks()), kgo.ProducerBatchCompression(kgo.NoCompression()), kgo.RecordRetries(0), kgo.ProduceRequestTimeout(2*time.Second))
	defer cl.Close()
	acked := map[int32][]int64{}
	put := func(p int32) error {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		r := &kgo.Record{Partition: p, Value: make([]byte, 512<<10)}
		err := cl.ProduceSync(ctx, r).FirstErr()
		if err == nil {
			acked[p] = append(acked[p], r.Offset)
		}
		return err
	}
	var refusal error
	for i := 0; refusal == nil || !errors.Is(refusal, kerr.KafkaStorageError); i++ {
		if refusal = put(int32(victim)); refusal != nil {
			t.Logf("after %d MiB: %v", len(acked[int32(victim)])/2, refusal)
		}
		if i > 4*smallDisk/(512<<10) {
			t.Fatalf("a disk of %d bytes took %d acknowledged records, and the last answer was %v", smallDisk, len(acked[int32(victim)]), refusal)
		}
	}
	// Leadership goes where there is room: produce goes on though the disk is full.
	c.eventually("another broker takes what the full one refuses", func() error { return put(int32(victim)) })
	c.eventually("the full broker does not lead it any more, as everyone knows", func() (err error) {
		if ls, err = c.leaders(t.Context()); err == nil && ls[victim] == 2 {
			err = fmt.Errorf("%v lead", ls)
		}
		return err
	})
	// The others have a majority without broker 2's disk.
	for p, l := range ls {
		if l != 2 {
			c.eventually(fmt.Sprintf("partition %d, led by broker %d whose disk has room, takes records", p, l), func() error { return put(int32(p)) })
		}
	}
	// Fetch goes on.
	c.readBack(map[int32][]int64{int32(victim): acked[int32(victim)]})
	if err := os.Remove(spare); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	c.eventually("produce works again once there is room", func() error { return put(int32(victim)) })
	t.Logf("room made; the next acknowledgement came after %v", time.Since(began).Round(time.Millisecond))
	for p := range ls {
		c.eventually(fmt.Sprintf("partition %d takes records", p), func() error { return put(int32(p)) })
	}
	c.eventually("whole again", c.whole)
	c.readBack(acked)
}

// readBack wants every acknowledged record of 512 KiB at its offset.
func (c *cluster) readBack(acked map[int32][]int64) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), generous)
	defer cancel()
	want := map[int32]map[int64]bool{}
	offsets := map[int32]kgo.Offset{}
	left := 0
	for p, offs := range acked {
		want[p] = map[int64]bool{}
		offsets[p] = kgo.NewOffset().AtStart()
		for _, o := range offs {
			want[p][o] = true
			left++
		}
	}
	total := left
	cl := c.client(kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: offsets}))
	defer cl.Close()
	for left > 0 {
		f := cl.PollFetches(ctx)
		if err := f.Err0(); err != nil {
			c.t.Fatalf("%d of %d acknowledged records are missing: %v", left, total, err)
		}
		f.EachRecord(func(r *kgo.Record) {
			if want[r.Partition][r.Offset] && len(r.Value) == 512<<10 {
				delete(want[r.Partition], r.Offset)
				left--
			}
		})
	}
	c.t.Logf("%d acknowledged records read back", total)
}

// F1 and F2: a node dies, a node comes back, both under a load at a fixed rate.

package bench

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// failover is F1. The node that leads partition 0 is killed with -9 after a measurement of how it was before.
//
// What a client sees is what counts: for how long no record of a partition was acknowledged, and until one was that was due after
// the kill. Both contain how long the client takes to find the new leader; all clients look as often (kafkaclient.go,
// jetstream_client.go).
func failover(ctx context.Context, t *turn) error {
	if err := t.begin(ctx, t.cell.Rate); err != nil {
		return err
	}
	if err := t.warmUp(ctx); err != nil {
		return err
	}
	t.spend("measure")
	t.load.next("before")
	if err := t.lasts(ctx); err != nil {
		return err
	}
	before, err := t.sys.Leaders(ctx, t.cell.Partitions)
	if err != nil {
		return err
	}
	node := before[0]
	if node < 0 {
		return errors.New("partition 0 has no leader")
	}
	f := &Failover{Node: node + 1}
	var orphans []int
	for p, l := range before {
		if l == node {
			orphans = append(orphans, p)
		}
	}
	f.Orphaned = len(orphans)
	t.measure()
	g := newGaps(t.cell.Partitions)
	t.load.gaps.Store(g)
	ended, _ := t.load.next("after")
	t.res.Phases = append(t.res.Phases, ended)
	t.load.mark(fmt.Sprintf("kill -9 of node %d", node+1))
	if err := t.sys.Kill(node); err != nil {
		return err
	}
	back := t.await(ctx, "acknowledgements after the leader's death", func() (bool, error) {
		for _, p := range orphans {
			if _, first := g.of(p); first == 0 {
				return false, t.load.failure()
			}
		}
		return true, nil
	})
	if back == nil {
		t.load.mark("acknowledged again")
		pause(ctx, t.o.Measure)
	}
	for p := range t.cell.Partitions {
		longest, first := g.of(p)
		if slices.Contains(orphans, p) {
			f.GapSec = max(f.GapSec, longest.Seconds())
			f.FirstAckSec = max(f.FirstAckSec, first.Seconds())
		} else {
			f.OthersGapSec = max(f.OthersGapSec, longest.Seconds())
		}
	}
	ended, _ = t.load.next("ending")
	t.res.Phases = append(t.res.Phases, ended)
	t.fill(ended, t.bytes(ended.Records))
	t.res.Failover = f
	if back != nil {
		f.FirstAckSec = 0 // never
		return back
	}
	return t.verify(ctx)
}

// comeBack is F2. A node is killed, misses the backlog, which is sent as fast as it goes, and is started again under the live load.
func comeBack(ctx context.Context, t *turn) error {
	if err := t.begin(ctx, t.cell.Rate); err != nil {
		return err
	}
	if err := t.warmUp(ctx); err != nil {
		return err
	}
	leaders, err := t.sys.Leaders(ctx, t.cell.Partitions)
	if err != nil {
		return err
	}
	node := (max(leaders[0], 0) + 1) % t.cell.Nodes() // with one partition a follower of it
	t.load.next("one away, backlog")
	t.load.mark(fmt.Sprintf("kill -9 of node %d", node+1))
	if err := t.sys.Kill(node); err != nil {
		return err
	}
	missedFrom := t.load.totalAck()
	t.spend("backlog")
	if err := t.fillBacklog(ctx, missedFrom); err != nil {
		return err
	}
	t.spend("measure")
	t.load.setPace(t.cell.Rate)
	pause(ctx, t.o.Warmup)
	t.phase("one away, live load")
	if err := t.lasts(ctx); err != nil {
		return err
	}
	// Else it would be taken for one that is in sync already.
	if err := t.await(ctx, fmt.Sprintf("node %d to be missed", node+1), func() (bool, error) {
		in, err := t.sys.InSync(ctx, node)
		return err == nil && !in, err
	}); err != nil {
		return err
	}
	away := t.phase("catching up")
	missed := t.load.totalAck() - missedFrom
	t.measure()
	began := time.Now()
	t.load.mark(fmt.Sprintf("node %d is started", node+1))
	if err := t.sys.StartNode(ctx, node); err != nil {
		return err
	}
	err = t.await(ctx, fmt.Sprintf("node %d to be in sync", node+1), func() (bool, error) { return t.sys.InSync(ctx, node) })
	took := time.Since(began)
	during := t.phase("back")
	t.fill(during, t.bytes(during.Records))
	if err != nil {
		return err
	}
	t.load.mark("in sync")
	if err := t.lasts(ctx); err != nil {
		return err
	}
	t.phase("ending")
	r := &Return{Node: node + 1, MissedBytes: missed * int64(t.cell.RecordBytes), InSyncSec: took.Seconds()}
	r.MissedMBSec = float64(r.MissedBytes) / 1e6 / r.InSyncSec
	if away.Latency.P99 > 0 {
		r.P99Ratio = during.Latency.P99 / away.Latency.P99
	}
	t.res.Return = r
	return t.verify(ctx)
}

// phase ends one, and keeps it.
func (t *turn) phase(next string) Phase {
	ended, _ := t.load.next(next)
	t.res.Phases = append(t.res.Phases, ended)
	return ended
}

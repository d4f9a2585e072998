// What a reset of a partition's peers asks of this broker: a survivor goes into the new epoch, and what comes back from the
// lost majority is set aside and begins anew. See docs/design/0014-reset-peers.md.
//
// The Image says so, and goes on saying it until the leader of the new epoch has all survivors in it: whoever was down, or
// crashed half-way, does the same when it comes back.

package broker

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"github.com/balsamq/balsa/coordinator"
	"github.com/balsamq/balsa/partition"
	"github.com/balsamq/balsa/raft"
	"github.com/balsamq/balsa/raft/multi"
)

// survives reports whether this broker's replica is to go on in the partition's epoch.
func (r *reconciler) survives(p *coordinator.Partition) bool {
	return p.Reset != nil && slices.Contains(p.Reset.Survivors, r.self)
}

// outlived reports that what this broker holds of the group belongs to an earlier epoch than the partition, which goes on without
// it. Nothing in an epoch is acknowledged before the journal has it, so that the journal alone can tell.
func (r *reconciler) outlived(p *coordinator.Partition) bool {
	hs, _ := r.hardState(p.Group)
	return hs.Epoch < p.Epoch && !r.survives(p)
}

// setAside takes what an earlier epoch has left out of the way; the replica is not open.
func (r *reconciler) setAside(p *coordinator.Partition) error {
	// The journal first: a directory without a hard state is set aside again, a hard state without its directory would be damage. And
	// if the directory is gone already, a replica with the hard state of an earlier epoch would stay in that.
	if err := forgetHardState(p.Group, r.hardState, r.forget); err != nil {
		return err
	}
	dir := r.store.groupDir(p.Group)
	if _, err := r.store.fs.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	r.log.Warn("a replica of an earlier epoch is set aside: the group's peers were reset while it was away, and it begins anew",
		"group", uint64(p.Group), "epoch", p.Epoch, "dir", dir)
	return partition.SetAside(r.store.fs, dir, p.Epoch)
}

// followReset takes an open replica into its partition's epoch.
func (r *reconciler) followReset(h *hosted, p *coordinator.Partition) error {
	r.mu.RLock()
	rep := h.replica
	r.mu.RUnlock()
	if r.outlived(p) {
		if err := rep.Close(); err != nil {
			r.log.Warn("closing a replica of an earlier epoch", "group", uint64(p.Group), "err", err)
		}
		r.mu.Lock()
		h.replica, h.failed = nil, false
		r.mu.Unlock()
		return r.setAside(p)
	}
	if r.survives(p) {
		g := rep.Raft()
		if g == nil {
			return partition.ErrFailed
		}
		done := make(chan error, 1)
		g.Reset(raft.Reset{Epoch: p.Reset.Epoch, Term: p.Reset.Term, Leader: p.Reset.Leader, Survivors: p.Reset.Survivors}, func(err error) { done <- err })
		if err := <-done; err != nil {
			return fmt.Errorf("reset the group's peers: %w", err)
		}
		r.log.Warn("the group's peers were reset by an operator", "group", uint64(p.Group), "epoch", p.Epoch, "leader", p.Reset.Leader, "survivors", len(p.Reset.Survivors))
	}
	r.mu.Lock()
	h.epoch = p.Epoch
	r.mu.Unlock()
	return nil
}

// ErrOutlived is the end of a broker whose metadata log is of an earlier epoch than the cluster's. Its Image may show what the
// cluster never had, so that it cannot be mended while it runs: the next Start sets the log aside and follows anew.
var ErrOutlived = errors.New("the cluster's metadata group was reset while this broker was away: start it again, and it follows the cluster anew")

// outlived is told by another broker that the metadata group is in a later epoch.
func (b *Broker) outlived(from raft.NodeID, epoch raft.GroupEpoch) {
	b.outliving.Do(func() {
		b.log.Error("the metadata group's peers were reset, and this broker's metadata log is of an earlier epoch", "epoch", epoch, "told by", from)
		if err := b.store.outlive(epoch); err != nil {
			b.onFatal(errors.Join(ErrOutlived, err))
			return
		}
		b.onFatal(ErrOutlived)
	})
}

// resetFollowed reports that this broker leads the new epoch, and that its membership is on the disk of every survivor.
func (r *reconciler) resetFollowed(rep *partition.Replica, im *coordinator.Image, p *coordinator.Partition) bool {
	g := rep.Raft()
	if g == nil {
		return false
	}
	s := g.Status()
	if !s.Ready || s.Conf.Epoch != p.Epoch || s.Commit < s.ConfIndex {
		return false
	}
	peers := g.Peers()
	for _, m := range p.Reset.Survivors {
		// One that is gone since, or has another disk, will not follow any more.
		if br := im.Broker(m.ID); m == r.self || br == nil || br.Incarnation != m.Incarnation {
			continue
		}
		if !slices.ContainsFunc(peers, func(ps multi.PeerStatus) bool { return ps.Member == m && ps.Match >= s.ConfIndex }) {
			return false
		}
	}
	return true
}

// endReset tells the metadata that the reset is done.
func (r *reconciler) endReset(t *coordinator.Topic, i int32) error {
	ctx, cancel := context.WithTimeout(context.Background(), rpcTimeout)
	defer cancel()
	return r.change(ctx, &coordinator.Command{ResetDone: &coordinator.ResetDone{Topic: t.ID, Partition: i, Epoch: t.Partitions[i].Epoch}})
}

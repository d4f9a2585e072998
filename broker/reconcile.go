// From the Image to replicas: this broker opens the replicas that the metadata assigns to it, and removes those of topics
// that are deleted, or that have moved away. A deleted topic's data is out of reach from the moment in which the Image lacks it,
// since requests find replicas through the Image; its files go soon after.
//
// While a broker starts, its Image passes through all the states that it ever had, and shows it partitions that have moved on
// since. So a replica that has never run is opened, and one that has moved away is removed, only once the Image is not older than
// this start (it has this start's registration).
//
// One goroutine compares; the work itself is done by at most OpenParallel others, and at most one on each group. What fails
// is tried again after a growing pause, while everything else goes on.

package broker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/balsamq/balsa/coordinator"
	"github.com/balsamq/balsa/partition"
	"github.com/balsamq/balsa/raft"
)

// resetPoll is between two looks at whether all survivors have followed a reset.
const resetPoll = 100 * time.Millisecond

// hosted is one group that this broker has, or is about to have or to remove.
type hosted struct {
	group     raft.GroupID
	topic     *coordinator.Topic // as last applied to the replica; nil for an orphan's directory
	defaults  *map[string]string // likewise: reconciler.defaults
	partition int32

	// Guarded by reconciler.mu.
	replica *partition.Replica // nil until opened
	epoch   raft.GroupEpoch    // in which the replica is
	failed  bool               // must be reopened
	busy    bool               // a worker has it
	removed bool               // gone: the entry is about to be dropped
	backoff time.Duration
	retryAt time.Time
}

// reconciler owns the replicas of this broker.
type reconciler struct {
	self      raft.Member
	store     *storage
	image     func() *coordinator.Image
	hardState func(raft.GroupID) (raft.HardState, bool)                     // what the hard-state journal knows of the group
	forget    func(raft.GroupID, func(error))                               // and shall no longer
	change    func(context.Context, *coordinator.Command) error             // of the metadata
	open      func(partition.Config) (*partition.Replica, error)            // partition.Open with the broker's own fields filled in
	leads     func(g raft.GroupID, l partition.Leadership)                  // leadership news
	offsets   func(p int32, rep *partition.Replica, l partition.Leadership) // the same of __consumer_offsets
	txns      func(p int32, rep *partition.Replica, l partition.Leadership) // and of __transaction_state
	opened    func(opening)                                                 // told when no log is left to open, while the broker starts
	log       *slog.Logger
	parallel  int
	quorum    bool // reads ask a quorum where the topic does not say

	defaults atomic.Pointer[map[string]string] // topic configs that were set dynamically for this broker or all
	expiry   atomic.Int64                      // of idle producers (producer.id.expiration.ms)
	interval atomic.Int64                      // between two looks of housekeeping
	retimed  chan struct{}                     // capacity 1: interval has changed

	// current: the Image is not older than this start.
	current atomic.Bool

	kick chan struct{} // capacity 1
	stop chan struct{}
	wg   sync.WaitGroup // the loop, the workers and the timers' kicks
	sem  chan struct{}  // a slot for each worker

	mu     sync.RWMutex // guards groups, opens and what hosted says it guards; never held across I/O
	groups map[raft.GroupID]*hosted
	closed bool
	opens  opening // of this start
}

func (r *reconciler) start() {
	r.kick, r.stop, r.sem = make(chan struct{}, 1), make(chan struct{}), make(chan struct{}, r.parallel)
	r.retimed = make(chan struct{}, 1)
	r.groups = make(map[raft.GroupID]*hosted)
	r.poke()
	r.wg.Go(r.loop)
}

func (r *reconciler) poke() {
	select {
	case r.kick <- struct{}{}:
	default:
	}
}

// replica returns the open replica of a group, or nil.
func (r *reconciler) replica(g raft.GroupID) *partition.Replica {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if h := r.groups[g]; h != nil {
		return h.replica
	}
	return nil
}

// replicas are all open ones.
func (r *reconciler) replicas() []*partition.Replica {
	r.mu.RLock()
	defer r.mu.RUnlock()
	out := make([]*partition.Replica, 0, len(r.groups))
	for _, h := range r.groups {
		if h.replica != nil {
			out = append(out, h.replica)
		}
	}
	return out
}

func (r *reconciler) loop() {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	orphans := false
	for {
		select {
		case <-r.stop:
			return
		case <-r.kick:
		case <-timer.C:
		}
		current := r.current.Load() // before the Image, which is of then or later
		im := r.image()
		if !orphans && current {
			orphans = true
			r.findOrphans(im)
		}
		timer.Reset(r.step(im))
		if current {
			r.endOpening()
		}
	}
}

// endOpening ends the start once the Image is current and all that it shows is open.
func (r *reconciler) endOpening() {
	r.mu.Lock()
	ends := r.opens.pending == 0 && !r.opens.over
	r.opens.over = r.opens.over || ends
	none := ends && r.opens.logs == 0
	r.mu.Unlock()
	if none {
		r.opened(opening{})
	}
}

// findOrphans takes in what is left here of groups that were deleted, or have moved away, while this broker was down: directories,
// and hard states whose removal was interrupted. An id below the counter that no partition has was given out and taken
// back: no later Image will know it again. Every other directory is left alone.
func (r *reconciler) findOrphans(im *coordinator.Image) {
	if err := partition.CleanRemoved(r.store.fs, r.store.groupsDir()); err != nil {
		r.log.Warn("cannot clean up after interrupted deletions", "err", err)
	}
	dirs, err := r.store.groupDirs()
	if err != nil {
		r.log.Error("cannot list the logs in the data directory", "dir", r.store.groupsDir(), "err", err)
		return
	}
	for t := range im.All() {
		for i := range t.Partitions {
			g := t.Partitions[i].Group
			if _, known := r.hardState(g); known && !t.Partitions[i].Hosts(r.self) && !slices.Contains(dirs, g) {
				dirs = append(dirs, g)
			}
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, g := range dirs {
		if g != raft.MetadataGroup && r.groups[g] == nil && (im.Deleted(g) || r.elsewhere(im, g)) {
			r.groups[g] = &hosted{group: g}
		}
	}
}

// elsewhere reports that the partition of the group exists, and is not this broker's.
func (r *reconciler) elsewhere(im *coordinator.Image, g raft.GroupID) bool {
	p := im.Partition(g)
	return p != nil && !p.Hosts(r.self)
}

// step starts what can be started, and returns when it should be called again at the latest.
func (r *reconciler) step(im *coordinator.Image) time.Duration {
	now := time.Now()
	next := time.Hour
	var work []func()
	r.mu.Lock()
	for t := range im.All() {
		for i := range t.Partitions {
			p := &t.Partitions[i]
			if !p.Hosts(r.self) {
				continue
			}
			h := r.groups[p.Group]
			if h == nil {
				if _, ran := r.hardState(p.Group); !ran && !r.current.Load() {
					continue
				}
				h = &hosted{group: p.Group, topic: t, partition: int32(i)}
				r.groups[p.Group] = h
			}
			if h.busy {
				continue
			}
			if now.Before(h.retryAt) {
				next = min(next, h.retryAt.Sub(now))
				continue
			}
			if p.Reset != nil {
				next = min(next, resetPoll)
			}
			switch {
			case h.replica == nil:
				h.topic, h.defaults = t, r.defaults.Load()
				r.opens.pending++
				work = append(work, func() { r.finish(h, "open", r.openReplica(h, t)) })
			case h.failed:
				h.failed = false // it may fail again before Reopen returns
				work = append(work, func() { r.finish(h, "reopen", h.replica.Reopen()) })
			case h.epoch < p.Epoch:
				work = append(work, func() { r.finish(h, "reset", r.followReset(h, p)) })
			case p.Reset != nil && r.resetFollowed(h.replica, im, p):
				work = append(work, func() { r.finish(h, "end the reset of", r.endReset(t, int32(i))) })
			case h.topic != t || h.defaults != r.defaults.Load():
				h.topic, h.defaults = t, r.defaults.Load()
				if err := h.replica.UpdateSettings(r.settingsOf(t, int32(i), h.defaults)); err != nil {
					r.log.Error("cannot apply topic configs", "topic", t.Name, "partition", i, "err", err)
				}
				continue
			default:
				continue
			}
			h.busy = true
		}
	}
	for _, h := range r.groups {
		gone := im.Deleted(h.group)
		moved := r.current.Load() && r.elsewhere(im, h.group)
		if h.busy || h.removed || !gone && !moved {
			continue
		}
		if now.Before(h.retryAt) {
			next = min(next, h.retryAt.Sub(now))
			continue
		}
		h.busy = true
		if gone {
			work = append(work, func() { r.finish(h, "remove", r.removeReplica(h)) })
		} else {
			settled := im.Partition(h.group).Settled
			work = append(work, func() { r.finish(h, "retire", r.retireReplica(h, settled)) })
		}
	}
	r.mu.Unlock()
	for _, fn := range work {
		select {
		case r.sem <- struct{}{}:
		case <-r.stop:
			return next // closing; nothing waits for the rest
		}
		r.wg.Go(func() {
			defer func() { <-r.sem }()
			fn()
		})
	}
	return next
}

// finish takes the outcome of a piece of work on h.
func (r *reconciler) finish(h *hosted, what string, err error) {
	r.mu.Lock()
	h.busy = false
	h.failed = h.failed || (err != nil && what == "reopen")
	switch {
	case err != nil:
		h.backoff = min(max(2*h.backoff, reopenMin), reopenMax)
		h.retryAt = time.Now().Add(h.backoff)
		name := "(deleted)"
		if h.topic != nil {
			name = h.topic.Name
		}
		r.log.Error("cannot "+what+" a replica; it will be tried again", "topic", name, "partition", h.partition, "group", uint64(h.group),
			"in", h.backoff, "err", err)
	case h.removed:
		delete(r.groups, h.group)
	}
	opens, told := opening{}, false
	if what == "open" {
		if r.opens.pending--; err == nil && !r.opens.over {
			r.opens.add(h.replica)
		}
		opens, told = r.opens, r.opens.pending == 0 && !r.opens.over
	}
	r.mu.Unlock()
	if told {
		r.opened(opens)
	}
	r.poke()
}

// coordinates tells a coordinator the leadership news of its partitions.
func (r *reconciler) coordinates(topic string, p int32, rep *partition.Replica, l partition.Leadership) {
	switch topic {
	case coordinator.ConsumerOffsetsTopic:
		r.offsets(p, rep, l)
	case coordinator.TransactionStateTopic:
		r.txns(p, rep, l)
	}
}

func (r *reconciler) openReplica(h *hosted, t *coordinator.Topic) error {
	p := &t.Partitions[h.partition]
	voters := slices.Clone(p.Founders)
	if voters == nil {
		voters = slices.Clone(p.Replicas)
	}
	slices.SortFunc(voters, func(a, b raft.Member) int { return int(a.ID) - int(b.ID) })
	if r.outlived(p) {
		if err := r.setAside(p); err != nil {
			return err
		}
	}
	_, existing := r.hardState(h.group)
	var joinAfter raft.Index
	if p.Founders != nil {
		joinAfter = max(p.Settled, 1)
	}
	// Whoever comes new to a group whose peers were reset learns the membership from its leader. A survivor may have nothing but the
	// founding one in its log.
	if p.Epoch > 0 && !r.survives(p) {
		voters = nil
	}
	var news heldNews
	rep, err := r.open(partition.Config{
		Group: h.group, Topic: t.Name, TopicID: t.ID, Partition: h.partition,
		FS: r.store.fs, Dir: r.store.groupDir(h.group), Existing: existing,
		Bootstrap: raft.ConfState{Voters: voters}, Epoch: p.Epoch, JoinAfter: joinAfter,
		Campaign: !existing && p.Epoch == 0 && p.Founders == nil && r.image().Preferred(p) == r.self.ID,
		Settings: r.settingsOf(t, h.partition, h.defaults),
		OnFailed: func(rep *partition.Replica, err error) {
			_, epoch, _ := rep.Leader()
			news.tell(func() {
				r.leads(h.group, partition.Leadership{Epoch: epoch})
				r.coordinates(t.Name, h.partition, rep, partition.Leadership{Epoch: epoch})
			})
			r.onFailed(h.group, err)
		},
		OnLeadership: func(rep *partition.Replica, l partition.Leadership) {
			news.tell(func() {
				r.leads(h.group, l)
				r.coordinates(t.Name, h.partition, rep, l)
			})
		},
		Logger: r.log,
	})
	if err != nil {
		return err
	}
	r.mu.Lock()
	h.replica, h.epoch = rep, 0 // a survivor goes into the partition's epoch from its own
	if !r.survives(p) {
		h.epoch = p.Epoch
	}
	closed := r.closed
	r.mu.Unlock()
	news.release()
	if closed { // close has passed by already
		return rep.Close()
	}
	return nil
}

// heldNews holds back what a replica says of its leadership until it can be found: a new one may lead before Open has returned, and clients that were told
// so would come in vain. Of what was said by then only the last counts.
type heldNews struct {
	mu   sync.Mutex // guards what follows
	out  bool
	held func()
}

func (n *heldNews) tell(fn func()) {
	n.mu.Lock()
	if !n.out {
		n.held = fn
		n.mu.Unlock()
		return
	}
	n.mu.Unlock()
	fn()
}

func (n *heldNews) release() {
	for {
		n.mu.Lock()
		fn := n.held
		n.held, n.out = nil, fn == nil
		n.mu.Unlock()
		if fn == nil {
			return
		}
		fn() // what is said meanwhile is held, and comes after it
	}
}

// onFailed is called by a worker, or the flush loop.
func (r *reconciler) onFailed(g raft.GroupID, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	h := r.groups[g]
	if h == nil || r.closed || h.failed {
		return
	}
	h.failed = true
	if time.Since(h.retryAt) > reopenMax {
		h.backoff = 0 // it had been well for a while
	}
	h.backoff = min(max(2*h.backoff, reopenMin), reopenMax)
	h.retryAt = time.Now().Add(h.backoff)
	r.log.Error("a replica has failed and will be opened again", "topic", h.topic.Name, "partition", h.partition, "in", h.backoff, "err", err)
	r.poke()
}

// retirePause is between two looks at a replica that the Image says has moved away, while its own log knows of a later membership.
const retirePause = time.Second

// retireReplica removes a replica that has moved away, unless its group has taken it in again meanwhile: then the Image will say so.
func (r *reconciler) retireReplica(h *hosted, settled raft.Index) error {
	r.mu.RLock()
	rep := h.replica
	r.mu.RUnlock()
	if rep != nil {
		retired, err := rep.Retire(settled)
		if err != nil {
			return err
		}
		if !retired {
			r.mu.Lock()
			h.retryAt = time.Now().Add(retirePause)
			r.mu.Unlock()
			return nil
		}
	}
	if err := r.removeReplica(h); err != nil {
		return err
	}
	r.log.Info("a replica has moved away; its files are deleted", "group", uint64(h.group))
	return nil
}

// removeReplica deletes what the journal knows of the group, and then the replica's files. In this order: files without a hard state
// are found and removed at the next start, a hard state without its files would be damage.
func (r *reconciler) removeReplica(h *hosted) error {
	r.mu.RLock()
	rep := h.replica
	r.mu.RUnlock()
	if rep != nil {
		if err := rep.Close(); err != nil {
			r.log.Warn("closing a replica that is to be removed", "group", uint64(h.group), "err", err)
		}
	}
	if err := forgetHardState(h.group, r.hardState, r.forget); err != nil {
		return err
	}
	remove := func() error { return partition.RemoveDir(r.store.fs, r.store.groupDir(h.group)) }
	if rep != nil {
		remove = rep.Remove
	}
	if err := remove(); err != nil {
		return err
	}
	r.mu.Lock()
	h.removed, h.replica = true, nil
	r.mu.Unlock()
	return nil
}

// forgetHardState deletes what the journal knows of a group, durably.
func forgetHardState(g raft.GroupID, load func(raft.GroupID) (raft.HardState, bool), forget func(raft.GroupID, func(error))) error {
	if _, ok := load(g); !ok {
		return nil
	}
	done := make(chan error, 1)
	forget(g, func(err error) { done <- err })
	if err := <-done; err != nil {
		return fmt.Errorf("forget the hard state of group %d: %w", g, err)
	}
	return nil
}

// close stops the comparing and closes all replicas.
func (r *reconciler) close() error {
	close(r.stop)
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	r.wg.Wait()
	var (
		mu   sync.Mutex
		errs []error
		wg   sync.WaitGroup
	)
	for _, rep := range r.replicas() {
		r.sem <- struct{}{}
		wg.Go(func() {
			defer func() { <-r.sem }()
			if err := rep.Close(); err != nil {
				mu.Lock()
				errs = append(errs, err)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

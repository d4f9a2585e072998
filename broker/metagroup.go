// The metadata group on this broker: its log, its Raft group, and what the coordinator sees of it. If the log fails, it is
// closed and opened again, with a growing pause; until then this broker answers from the Image that it has.

package broker

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/balsamq/balsa/coordinator"
	"github.com/balsamq/balsa/internal/vfs"
	"github.com/balsamq/balsa/partition"
	"github.com/balsamq/balsa/raft"
	"github.com/balsamq/balsa/raft/multi"
	"github.com/balsamq/balsa/segment"
)

const (
	// metaSnapshotEvery is the number of bytes of commands between snapshots, and metaKeepEntries how many entries stay
	// behind one, so that a broker that was away for a moment need not take the snapshot.
	metaSnapshotEvery = 4 << 20
	metaKeepEntries   = 1000
	metaSegmentBytes  = 8 << 20
	// metaSnapshotDelay is for how long at most the metadata has changed without a snapshot. A broker that starts knows from it which replicas it
	// has, and opens them at once: what the log holds behind it counts only when there is a leader that says so.
	metaSnapshotDelay = 5 * time.Second
	// caughtUpSlack is how far behind the commit index a learner's Image may be when it becomes a voter.
	caughtUpSlack = 64
	reopenMin     = 100 * time.Millisecond
	reopenMax     = 30 * time.Second
)

// metaGroup implements coordinator.MetadataLog.
type metaGroup struct {
	fs        vfs.FS
	dir       string
	segment   segment.Options
	host      *multi.Host
	md        *coordinator.Metadata
	bootstrap raft.ConfState
	epoch     raft.GroupEpoch // at least; a log of an earlier one is set aside
	hardState func(raft.GroupID) (raft.HardState, bool)
	forget    func(raft.GroupID, func(error))
	campaign  bool // sole voter of a new cluster
	others    bool // there are other brokers, as far as this one remembers
	log       *slog.Logger
	// caughtUp says which brokers have an Image of at least this version.
	caughtUp func(v raft.Index) []raft.NodeID
	quorum   bool // no read by lease
	// remote asks the leader for a read index.
	remote func(ctx context.Context, leader raft.NodeID) (raft.Index, error)

	group    atomic.Pointer[multi.Group] // nil while it is closed
	segments atomic.Pointer[segment.Log] // of the group, which owns it: to look at only

	mu      sync.Mutex // guards what follows
	closed  bool
	backoff time.Duration
	retry   *time.Timer
	due     *time.Timer    // of the next snapshot; nil: there is nothing new
	wg      sync.WaitGroup // reopenings under way
}

var _ coordinator.MetadataLog = (*metaGroup)(nil)

// errMetaClosed: the metadata log of this broker is not open, because the broker is closing or the log has failed.
var errMetaClosed = errors.New("the metadata log is not open")

func (m *metaGroup) open() error {
	hs, existing := m.hardState(raft.MetadataGroup)
	if hs.Epoch < m.epoch {
		if err := m.setAside(); err != nil {
			return fmt.Errorf("set aside the metadata log %s: %w", m.dir, err)
		}
		existing = false
	}
	_, err := m.fs.Stat(m.dir)
	fresh := errors.Is(err, fs.ErrNotExist)
	switch {
	case err != nil && !fresh:
		return err
	case fresh && existing && !m.others:
		return fmt.Errorf("%w: %s is gone, and no other broker is known from which it could be had again: restore the directory", ErrDataDir, m.dir)
	}
	options := m.segment
	options.OnDamage = func(err error) {
		if g := m.group.Load(); g != nil {
			g.Fail(err)
		}
	}
	options.Past = segment.NeverRan
	if existing {
		fresh, options.Past = false, segment.RanBefore
	}
	log, err := segment.Open(m.fs, m.dir, raft.MetadataGroup, options)
	if err != nil {
		return fmt.Errorf("open the metadata log %s: %w", m.dir, err)
	}
	g, err := m.host.CreateGroup(multi.GroupConfig{
		ID: raft.MetadataGroup, Log: log, Stager: m.md, StateMachine: m.md, Bootstrap: m.bootstrap, Fresh: fresh, Epoch: m.epoch, Campaign: m.campaign,
		VoteAfter: log.Health().DamagedUpTo, SnapshotEvery: metaSnapshotEvery, KeepEntries: metaKeepEntries, OnFatal: m.failed,
	})
	if err != nil {
		return errors.Join(fmt.Errorf("start the metadata group: %w", err), log.Close())
	}
	if r := log.Recovery(); r.Corrupt {
		m.log.Error("the metadata log is damaged; it keeps the bytes and is repaired by its leader", "dir", m.dir, "from", uint64(r.CorruptFrom),
			"reason", r.Reason, "setAside", r.SetAside)
	}
	m.campaign = false
	m.segments.Store(log)
	m.group.Store(g)
	return nil
}

// setAside takes the log of an earlier epoch out of the way: this broker follows the metadata group anew.
func (m *metaGroup) setAside() error {
	// Also if the directory is gone: a replica with the hard state of an earlier epoch would stay in that.
	if err := forgetHardState(raft.MetadataGroup, m.hardState, m.forget); err != nil {
		return err
	}
	if _, err := m.fs.Stat(m.dir); errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	m.log.Warn("the metadata log is of an epoch that the cluster has gone on without; it is set aside, and this broker follows anew",
		"dir", m.dir, "epoch", m.epoch)
	return partition.SetAside(m.fs, m.dir, m.epoch)
}

// epochs are the epoch that this broker's replica is in, and that of the membership that its log has come to: once a leader of
// a later epoch has got its membership into its log, who is not in that epoch is too late.
func (m *metaGroup) epochs() (own, settled raft.GroupEpoch) {
	hs, _ := m.hardState(raft.MetadataGroup)
	own = max(m.epoch, hs.Epoch)
	if g := m.group.Load(); g != nil {
		s := g.Status()
		return max(own, s.Epoch), s.Conf.Epoch
	}
	return own, 0
}

// failed schedules a reopening. It is called by a worker, which must not wait for its own group to close.
func (m *metaGroup) failed(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return
	}
	m.backoff = min(max(2*m.backoff, reopenMin), reopenMax)
	m.log.Error("the metadata log has failed and will be opened again", "dir", m.dir, "in", m.backoff, "err", err)
	m.wg.Add(1)
	m.retry = time.AfterFunc(m.backoff, m.reopen)
}

func (m *metaGroup) reopen() {
	defer m.wg.Done()
	if g := m.group.Swap(nil); g != nil {
		_ = g.Close() // what it reports is what it failed of
	}
	m.mu.Lock()
	closed := m.closed
	m.mu.Unlock()
	if closed {
		return
	}
	if err := m.open(); err != nil {
		m.failed(err)
		return
	}
	m.log.Info("the metadata log is open again", "dir", m.dir)
}

// changed has a snapshot taken within metaSnapshotDelay.
func (m *metaGroup) changed() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed || m.due != nil {
		return
	}
	m.due = time.AfterFunc(metaSnapshotDelay, func() {
		m.mu.Lock()
		m.due = nil
		m.mu.Unlock()
		m.snapshot()
	})
}

// snapshot has a snapshot taken soon: from it the next start begins.
func (m *metaGroup) snapshot() {
	if g := m.group.Load(); g != nil {
		g.Snapshot()
	}
}

func (m *metaGroup) close() error {
	m.mu.Lock()
	m.closed = true
	if m.due != nil {
		m.due.Stop()
	}
	if m.retry != nil && m.retry.Stop() {
		m.wg.Done()
	}
	m.mu.Unlock()
	m.wg.Wait()
	if g := m.group.Swap(nil); g != nil {
		return g.Close()
	}
	return nil
}

// notController reports that nothing was done because this broker does not lead the metadata group.
func notController(err error) bool {
	return errors.Is(err, coordinator.ErrNotController) || errors.Is(err, multi.ErrNotLeader) || errors.Is(err, multi.ErrNotReady) || errors.Is(err, errMetaClosed)
}

func (m *metaGroup) Propose(ctx context.Context, command []byte) (*coordinator.Result, error) {
	g := m.group.Load()
	if g == nil {
		return nil, errMetaClosed
	}
	done := make(chan multi.Outcome, 1)
	g.Propose(&multi.Proposal{Type: raft.EntryCommand, Payload: command, Done: func(o multi.Outcome) { done <- o }})
	select {
	case o := <-done:
		if o.Err != nil {
			return nil, fmt.Errorf("propose to the metadata group: %w", o.Err)
		}
		r, ok := o.Result.(*coordinator.Result)
		if !ok {
			return nil, fmt.Errorf("propose to the metadata group: entry %d gave no result: %w", o.Index, multi.ErrLeadershipLost)
		}
		return r, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (m *metaGroup) Leader() (raft.NodeID, bool) {
	g := m.group.Load()
	if g == nil {
		return 0, false
	}
	s := g.Status()
	return s.Leader, s.Ready
}

// readIndex confirms that this broker leads, and returns an index that holds everything acknowledged so far.
func (m *metaGroup) readIndex(ctx context.Context) (raft.Index, error) {
	g := m.group.Load()
	if g == nil {
		return 0, errMetaClosed
	}
	type answer struct {
		index raft.Index
		err   error
	}
	done := make(chan answer, 1)
	read := g.Read
	if m.quorum {
		read = g.ReadIndex
	}
	read(func(i raft.Index, err error) { done <- answer{i, err} })
	select {
	case a := <-done:
		return a.index, a.err
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

func (m *metaGroup) Linearize(ctx context.Context) error {
	index, err := m.readIndex(ctx)
	if notController(err) {
		leader, _ := m.Leader()
		if leader == 0 {
			return fmt.Errorf("the metadata group has no leader: %w", coordinator.ErrNotController)
		}
		index, err = m.remote(ctx, leader)
	}
	if err != nil {
		return err
	}
	return m.await(ctx, index)
}

// await returns when this broker's Image has the version.
func (m *metaGroup) await(ctx context.Context, v raft.Index) error {
	if m.md.Image().Version() >= v {
		return nil
	}
	done := make(chan struct{})
	cancel := m.md.WhenVersion(v, func(*coordinator.Image) { close(done) })
	defer cancel()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (m *metaGroup) Membership() coordinator.Membership {
	g := m.group.Load()
	if g == nil {
		return coordinator.Membership{}
	}
	s := g.Status()
	// By their Images, and by what the group itself would refuse.
	ready := m.caughtUp(s.Commit - min(s.Commit, caughtUpSlack))
	for _, p := range g.Peers() {
		if p.Learner && !p.CaughtUp {
			ready = slices.DeleteFunc(ready, func(id raft.NodeID) bool { return id == p.Member.ID })
		}
	}
	return coordinator.Membership{Conf: s.Conf, CaughtUp: ready}
}

func (m *metaGroup) ChangeMembership(ctx context.Context, next raft.ConfState) error {
	g := m.group.Load()
	if g == nil {
		return errMetaClosed
	}
	done := make(chan multi.Outcome, 1)
	g.ProposeConf(confChange(g.Status().Conf, next), func(o multi.Outcome) { done <- o })
	select {
	case o := <-done:
		return o.Err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// confChange is the steps from one membership to another.
func confChange(from, to raft.ConfState) (c raft.ConfChange) {
	has := func(ms []raft.Member, m raft.Member) bool { return slices.Contains(ms, m) }
	for _, m := range to.Voters {
		switch {
		case has(from.Voters, m):
		case has(from.Learners, m):
			c.Steps = append(c.Steps, raft.ConfStep{Op: raft.Promote, Member: m})
		default:
			c.Steps = append(c.Steps, raft.ConfStep{Op: raft.AddVoter, Member: m})
		}
	}
	for _, m := range to.Learners {
		if !has(from.Learners, m) {
			c.Steps = append(c.Steps, raft.ConfStep{Op: raft.AddLearner, Member: m})
		}
	}
	for _, m := range slices.Concat(from.Voters, from.Learners) {
		if !has(to.Voters, m) && !has(to.Learners, m) {
			c.Steps = append(c.Steps, raft.ConfStep{Op: raft.Remove, Member: m})
		}
	}
	return c
}

// Package partition is a topic partition's replica: Kafka's offsets, high watermark, producer state and errors over a
// Raft group ([multi.Group]) and the group's log ([segment.Log]).
package partition

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/balsamq/balsa/internal/vfs"
	"github.com/balsamq/balsa/raft"
	"github.com/balsamq/balsa/raft/multi"
	"github.com/balsamq/balsa/segment"
)

// Config is what a replica is opened with.
type Config struct {
	Group     raft.GroupID
	Topic     string
	TopicID   [16]byte
	Partition int32

	Host    *multi.Host
	FS      vfs.FS
	Dir     string // of this replica alone; made if it is not there
	Segment segment.Options
	// SnapshotEvery is the number of applied bytes between checkpoints of the producers' state, which bound what is
	// replayed after a restart; default [DefaultSnapshotEvery]. Half a segment, if that is less: the log can be cut only
	// behind one.
	SnapshotEvery int64

	// Existing: this broker's journal already has a hard state for the group. Then a missing or empty directory is a lost log and not a
	// first start: the replica does not vote before a leader has told how far the log went, and has refilled it.
	Existing bool
	// Bootstrap is the membership of the first assignment.
	Bootstrap raft.ConfState
	// Epoch is the group's epoch, until the replica has a hard state of its own: see [raft.Reset].
	Epoch raft.GroupEpoch
	// JoinAfter, if not 0, is for a replica that comes new to a group that has moved before: see joining.go.
	JoinAfter raft.Index
	// Campaign makes this replica stand for election at once: the preferred first leader.
	Campaign bool

	Settings Settings
	// Priorities say who shall lead: see Replica.SetPriorities.
	Priorities []raft.NodePriority

	// Now is the wall clock, for LogAppendTime and timestamp checks; nil: time.Now.
	Now func() time.Time
	// ReadIndex asks the broker that leads a group for an index that holds all that was acknowledged before the call (see
	// [Replica.ReadIndex]), for [Replica.LinearizeAny]. It must not block, and calls done once, from anywhere. nil: followers
	// answer nothing about the log's end.
	ReadIndex func(leader raft.NodeID, g raft.GroupID, done func(index raft.Index, epoch int32, err error))
	// CommitDelay is how long followers may hear of a commit later than its producer does, if nobody reads there: see
	// multi.GroupConfig.
	CommitDelay time.Duration
	// Verify asks the coordinator of a transaction whether a batch belongs to it: see [Verification]. It must not block, and calls done
	// once, from anywhere, after bounded time. nil: transactional batches are refused with ErrInvalidTxnState.
	Verify func(v Verification, done func(error))
	// Keys bounds the tables of keys of topics with Settings.Conditional, of all replicas that share it; nil: one of this replica's own.
	Keys *KeyMemory
	// OnFailed is called once, from a worker or the flush loop, when the replica has failed. It must not block, and must
	// not call the replica's life-cycle methods itself: schedule [Replica.Reopen] with a backoff.
	OnFailed func(r *Replica, err error)
	// OnFull is called for each batch that is refused because the disk is full, with the replica; perhaps by a worker. It must
	// not block.
	OnFull func(r *Replica)
	// OnLeadership is called from a worker when the leader, the epoch or readiness changed, perhaps before Open has
	// returned. It must not block.
	OnLeadership func(r *Replica, l Leadership)

	Logger *slog.Logger

	maxAborted int // a test's, in place of the constant
}

// State is where a replica is in its life.
type State uint8

const (
	StateClosed State = iota
	StateOpen
	StateFailed // until Reopen succeeds
)

func (s State) String() string { return [...]string{"closed", "open", "failed"}[s] }

// Leadership is what this node knows about who leads.
type Leadership struct {
	Leader raft.NodeID // 0: nobody
	Epoch  int32       // the raft term
	Self   bool        // this node leads
	Ready  bool        // it has applied its own no-op: it serves
}

// Serving reports that this node leads and may answer.
func (l Leadership) Serving() bool { return l.Self && l.Ready }

// DefaultSnapshotEvery is about how much of a partition's log is read again at a restart.
const DefaultSnapshotEvery = 64 << 20

// Replica is one partition on this node. All methods are safe for concurrent use.
//
// Lock order: life, then mu. mu is a leaf: nothing outside this package is called while it is held, no callback, no log
// and no group, so that it may be taken under any other lock. life serialises Close, Remove and Reopen only, and must not
// be wanted by a worker: those three wait for the group's last turn.
type Replica struct {
	cfg      Config
	settings atomic.Pointer[Settings]

	life sync.Mutex

	mu    sync.Mutex // guards everything below, and machine.group
	state State
	err   error    // why it failed
	m     *machine // the current life; nil when closed
	lead  Leadership
	pub   published
	// committedBytes counts record bytes applied since Open; Waiter.until is measured by it.
	committedBytes int64
	stableBytes    int64      // the same below the last stable offset
	confIndex      raft.Index // of the newest membership that an earlier life's log had
	producers      int
	openTxns       int
	abortedTxns    int
	gates          map[gateKey]*gate
	arrivals       uint64 // numbers the batches of transactions
	waiters        *Waiter
	waiting        int
	parked         parking
	priorities     []raft.NodePriority
	catching       catching
}

// published is what clients may read: from start up to hw, which is the offset after applied, or to stable, up to which all
// transactions are decided. Always all or nothing.
type published struct {
	applied           raft.Index
	start, stable, hw int64
}

// Open opens or makes the replica's log and joins its group.
func Open(cfg Config) (*Replica, error) {
	settings := cfg.Settings.withDefaults()
	if err := settings.validate(); err != nil {
		return nil, err
	}
	if cfg.Group == 0 || cfg.Host == nil || cfg.FS == nil || cfg.Dir == "" {
		return nil, fmt.Errorf("partition: %s-%d: Config lacks a group, host, file system or directory", cfg.Topic, cfg.Partition)
	}
	if cfg.SnapshotEvery == 0 {
		cfg.SnapshotEvery = DefaultSnapshotEvery
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Keys == nil {
		cfg.Keys = NewKeyMemory(0)
	}
	r := &Replica{cfg: cfg, priorities: cfg.Priorities}
	r.settings.Store(&settings)
	r.life.Lock()
	defer r.life.Unlock()
	if err := r.open(cfg.Existing, cfg.Campaign); err != nil {
		return nil, fmt.Errorf("partition: open %s-%d: %w", cfg.Topic, cfg.Partition, err)
	}
	return r, nil
}

func (r *Replica) now() time.Time { return r.cfg.Now() }

// open starts a life. life is held.
func (r *Replica) open(existing, campaign bool) error {
	c := &r.cfg
	_, err := c.FS.Stat(c.Dir)
	fresh := errors.Is(err, fs.ErrNotExist)
	if err != nil && !fresh {
		return err
	}
	options := c.Segment
	options.Checkpoints = true
	// Damage that somebody's read meets must not wait for the next start.
	var running atomic.Pointer[multi.Group]
	options.OnDamage = func(err error) {
		if g := running.Load(); g != nil {
			g.Fail(err)
		}
	}
	options.Past = segment.NeverRan
	if existing {
		fresh, options.Past = false, segment.RanBefore
	}
	if fresh && c.JoinAfter > 0 {
		if err := markJoining(c.FS, c.Dir, c.JoinAfter); err != nil {
			return err
		}
	}
	log, err := segment.Open(c.FS, c.Dir, c.Group, options)
	if err != nil {
		return err
	}
	s := r.settings.Load()
	if s.SegmentBytes > 0 {
		log.SetSegmentBytes(s.SegmentBytes)
	}
	log.SetRelaxed(s.Relaxed)
	joinAfter, err := joinAfter(c.FS, c.Dir, log.LastIndex())
	if err != nil {
		return errors.Join(err, log.Close())
	}
	r.sayRecovery(log.Health())
	m := &machine{r: r, log: log, fold: newFold(), keys: keyTable{memory: c.Keys}}
	m.fold.most = m.mostAborted()
	r.mu.Lock()
	before := r.state
	// Callbacks may come before CreateGroup returns. Until then the state keeps everybody else out.
	r.m, r.lead, r.pub = m, Leadership{Epoch: r.lead.Epoch}, published{}
	m.fold.count(r.committedBytes)
	priorities := r.priorities
	r.mu.Unlock()
	group, err := c.Host.CreateGroup(multi.GroupConfig{
		ID: c.Group, Log: log, Stager: m, StateMachine: m, Bootstrap: c.Bootstrap, CommitDelay: c.CommitDelay, Throttle: true, Fresh: fresh, Epoch: c.Epoch, Campaign: campaign,
		VoteAfter: max(log.Health().DamagedUpTo, joinAfter), SnapshotEvery: r.snapshotEvery(log), KeepEntries: -1, OnFatal: m.failed, Priorities: priorities,
	})
	if err != nil {
		r.mu.Lock()
		r.m, r.state = nil, before
		r.mu.Unlock()
		return errors.Join(err, log.Close())
	}
	running.Store(group)
	if err := log.Health().ReadErr; err != nil {
		group.Fail(err)
	}
	r.mu.Lock()
	m.group = group
	if !m.dead {
		r.state, r.err = StateOpen, nil
	}
	said := r.priorities
	r.mu.Unlock()
	group.SetThrottled(r.settings.Load().Throttled)
	if !slices.Equal(said, priorities) { // meanwhile
		group.SetPriorities(said)
	}
	return nil
}

// snapshotEvery is Config.SnapshotEvery, or less for small segments.
func (r *Replica) snapshotEvery(log *segment.Log) int64 {
	return min(r.cfg.SnapshotEvery, log.SegmentBytes()/2)
}

// sayRecovery logs what the opening of the log has found.
func (r *Replica) sayRecovery(h segment.Health) {
	l := r.cfg.Logger.With("topic", r.cfg.Topic, "partition", r.cfg.Partition, "group", uint64(r.cfg.Group))
	rec := h.Recovery
	if rec.Torn {
		l.Info("cut the torn tail of the last write", "file", rec.TornFile, "at", rec.TornAt, "index", uint64(rec.TornIndex))
	}
	if rec.Corrupt {
		l.Error("the log is damaged; it keeps the bytes and is repaired by its leader", "from", uint64(rec.CorruptFrom),
			"reason", rec.Reason, "setAside", rec.SetAside)
	}
	if rec.RanAhead != "" {
		l.Error("acknowledged records may be lost here (balsa.durability=relaxed): this replica had acknowledged ahead of its syncs; if a majority of the replicas "+
			"say so, nobody leads until the others are back, or 'broker partition reset-peers' goes on without what is lost", "reason", rec.RanAhead)
	}
	switch {
	case h.DamagedUpTo == raft.UntilTold:
		l.Warn("neither votes nor campaigns until a leader has told how far the lost log went, and has caught it up")
	case h.DamagedUpTo > 0:
		l.Warn("neither votes nor campaigns until a leader has caught it up", "upTo", uint64(h.DamagedUpTo))
	}
}

// current is the life and its group, or nil.
func (r *Replica) current() (*machine, *multi.Group) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.m == nil {
		return nil, nil
	}
	return r.m, r.m.group
}

// Close leaves the group and closes the log; the files stay. Waiters fire, proposals end with ErrClosed. A second Close
// does nothing.
func (r *Replica) Close() error {
	r.life.Lock()
	defer r.life.Unlock()
	return r.close(StateClosed)
}

// close ends the current life, if there is one. life is held.
func (r *Replica) close(as State) error {
	r.mu.Lock()
	m := r.m
	r.m, r.state = nil, as
	r.lead = Leadership{Epoch: r.lead.Epoch}
	fns := r.due(true)
	reqs, waits := r.parked.take(), r.catching.take()
	r.mu.Unlock()
	fire(fns)
	for _, req := range reqs {
		req.answer(ErrClosed)
	}
	for _, w := range waits {
		w.done(ErrClosed)
	}
	if m == nil || m.group == nil {
		return nil
	}
	err := m.group.Close()
	m.keys.lead(false)
	r.mu.Lock()
	r.confIndex = max(r.confIndex, m.group.Status().ConfIndex)
	r.mu.Unlock()
	if err != nil {
		return fmt.Errorf("partition: close %s-%d: %w", r.cfg.Topic, r.cfg.Partition, err)
	}
	return nil
}

// ResetSuffix begins what is appended to the name of a directory that [SetAside] has renamed; the epoch follows.
const ResetSuffix = ".reset-"

// SetAside durably renames the directory of a replica that is not open, and that belongs to an earlier epoch of its group: it holds
// what the group has gone on without. Nobody deletes it but an operator. The hard state in the host's journal must be gone before.
func SetAside(fsys vfs.FS, dir string, epoch raft.GroupEpoch) error {
	for n := 0; ; n++ {
		aside := fmt.Sprintf("%s%s%d", dir, ResetSuffix, epoch)
		if n > 0 {
			aside += fmt.Sprintf(".%d", n)
		}
		_, err := fsys.Stat(aside)
		if err == nil {
			continue // of an earlier time
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err := fsys.Rename(dir, aside); err != nil {
			return err
		}
		return fsys.SyncDir(path.Dir(dir))
	}
}

// RemovedSuffix ends the names of directories whose deletion was begun. Whoever owns the parent directory deletes
// what it finds of them at start: see [CleanRemoved].
const RemovedSuffix = ".removed"

// Remove closes the replica and deletes its files: durably renamed aside first, so that after a crash nobody takes
// half of a log for a log. It may be called after Close, and again after an error. The hard state in the host's journal is the
// caller's to delete, once the replica is closed.
func (r *Replica) Remove() error {
	r.life.Lock()
	defer r.life.Unlock()
	closeErr := r.close(StateClosed) // a log that does not close is deleted all the same
	if err := r.remove(); err != nil {
		return fmt.Errorf("partition: remove %s-%d: %w", r.cfg.Topic, r.cfg.Partition, errors.Join(err, closeErr))
	}
	return nil
}

func (r *Replica) remove() error { return RemoveDir(r.cfg.FS, r.cfg.Dir) }

// RemoveDir deletes a closed replica's directory: durably renamed aside first. No directory is no error.
func RemoveDir(fsys vfs.FS, dir string) error {
	parent, aside := path.Dir(dir), dir+RemovedSuffix
	if _, err := fsys.Stat(dir); err == nil {
		if err := fsys.RemoveAll(aside); err != nil { // of an earlier try
			return err
		}
		if err := fsys.Rename(dir, aside); err != nil {
			return err
		}
		if err := fsys.SyncDir(parent); err != nil {
			return err
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := fsys.RemoveAll(aside); err != nil {
		return err
	}
	if err := unmarkJoining(fsys, dir); err != nil {
		return err
	}
	return fsys.SyncDir(parent)
}

// Retire closes a replica that is no member any more by the membership at index settled of the group's log. It reports false, and
// leaves the replica open, if its own log has a newer one: then it may be a member again, and must lose nothing.
func (r *Replica) Retire(settled raft.Index) (bool, error) {
	r.life.Lock()
	defer r.life.Unlock()
	if r.knownConf() > settled {
		return false, nil
	}
	if err := r.close(StateClosed); err != nil {
		r.cfg.Logger.Warn("closing a replica that is no member any more", "topic", r.cfg.Topic, "partition", r.cfg.Partition, "err", err)
	}
	if r.knownConf() > settled { // it came while the replica was closing
		if err := r.open(true, false); err != nil {
			return false, fmt.Errorf("partition: open %s-%d again: %w", r.cfg.Topic, r.cfg.Partition, err)
		}
		return false, nil
	}
	return true, nil
}

// knownConf is the index of the newest membership in the log.
func (r *Replica) knownConf() raft.Index {
	_, g := r.current()
	r.mu.Lock()
	defer r.mu.Unlock()
	if g == nil {
		return r.confIndex
	}
	return max(r.confIndex, g.Status().ConfIndex)
}

// CleanRemoved deletes what interrupted Removes have left in parent.
func CleanRemoved(fsys vfs.FS, parent string) error {
	names, err := fsys.ReadDir(parent)
	if err != nil {
		return fmt.Errorf("partition: clean %s: %w", parent, err)
	}
	for _, name := range names {
		if path.Ext(name) == RemovedSuffix {
			if err := fsys.RemoveAll(path.Join(parent, name)); err != nil {
				return fmt.Errorf("partition: clean %s: %w", name, err)
			}
		}
		if log, ok := strings.CutSuffix(name, JoiningSuffix); ok && !slices.Contains(names, log) {
			if err := unmarkJoining(fsys, path.Join(parent, log)); err != nil {
				return fmt.Errorf("partition: clean %s: %w", name, err)
			}
		}
	}
	return fsys.SyncDir(parent)
}

// Reopen closes what is left of a failed replica and opens it again, recovery included. Only for StateFailed: in any other
// state it does nothing. With an error the replica stays failed, and Reopen may be called again.
func (r *Replica) Reopen() error {
	r.life.Lock()
	defer r.life.Unlock()
	r.mu.Lock()
	failed := r.state == StateFailed
	r.mu.Unlock()
	if !failed {
		return nil
	}
	// What closing a failed log reports is what it failed of, or its consequence.
	if err := r.close(StateFailed); err != nil {
		r.cfg.Logger.Warn("closing a failed replica", "topic", r.cfg.Topic, "partition", r.cfg.Partition, "err", err)
	}
	if err := r.open(true, false); err != nil {
		return fmt.Errorf("partition: reopen %s-%d: %w", r.cfg.Topic, r.cfg.Partition, err)
	}
	return nil
}

// SetPriorities says who shall lead; see [raft.Raft.SetPriorities]. It lasts over a Reopen. The list must not be changed afterwards.
func (r *Replica) SetPriorities(ps []raft.NodePriority) {
	r.mu.Lock()
	same := slices.Equal(r.priorities, ps)
	r.priorities = ps
	var g *multi.Group
	if r.m != nil {
		g = r.m.group
	}
	r.mu.Unlock()
	if g != nil && !same {
		g.SetPriorities(ps)
	}
}

// UpdateSettings takes effect for the next batch.
func (r *Replica) UpdateSettings(s Settings) error {
	s = s.withDefaults()
	if err := s.validate(); err != nil {
		return err
	}
	r.settings.Store(&s)
	if m, g := r.current(); g != nil {
		m.log.SetSegmentBytes(cmp.Or(s.SegmentBytes, r.cfg.Segment.SegmentBytes))
		m.log.SetRelaxed(s.Relaxed)
		g.SetSnapshotEvery(r.snapshotEvery(m.log))
		g.SetThrottled(s.Throttled)
	}
	return nil
}

// Settings are the ones in force, defaults filled in.
func (r *Replica) Settings() Settings { return *r.settings.Load() }

// State is where the replica is in its life, and why it failed.
func (r *Replica) State() (State, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.state, r.err
}

// GroupID is the replica's raft group.
func (r *Replica) GroupID() raft.GroupID { return r.cfg.Group }

// Raft is the running group, for leadership transfer and membership changes; nil unless the replica is open. A reopened
// replica has another one: do not keep it.
func (r *Replica) Raft() *multi.Group {
	_, g := r.current()
	return g
}

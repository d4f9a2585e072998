// What a host and a group are configured with, what they report, and the errors that callers tell apart.

package multi

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/balsamq/balsa/raft"
)

// Errors of proposals, reads and groups. Test with errors.Is; [NotLeaderError] also with errors.AsType, for its hint.
var (
	// ErrNotLeader: this replica does not lead, so nothing entered the log.
	ErrNotLeader = errors.New("not the leader")
	// ErrNotReady: this replica leads, but its own no-op is not applied yet. Nothing entered the log; ask again.
	ErrNotReady = errors.New("leader is not ready yet")
	// ErrOverloaded: a bound is reached (inbox, or bytes above the commit index). Nothing entered the log; ask later.
	ErrOverloaded = errors.New("group is overloaded")
	// ErrLeadershipLost: the entry is in this replica's log, and nobody can say yet whether it will commit.
	ErrLeadershipLost = errors.New("leadership lost with the entry in flight")
	// ErrClosed: the group or the host was closed. A proposal that had entered the log may still commit.
	ErrClosed = errors.New("group is closed")
	// ErrFailed: the group's log, state machine or hard state failed, and the group has stopped. Wraps the reason.
	ErrFailed = errors.New("group has failed")
	// ErrFull: the disk is full: record entries are refused until there is room. Nothing entered the log.
	ErrFull = errors.New("disk is full")
	// ErrNoLease: there is neither a lease nor a quorum that confirms this leader: the read has no answer.
	ErrNoLease = errors.New("no lease and no quorum for the read")
	// ErrGroupExists and ErrHostFailed come from CreateGroup.
	ErrGroupExists = errors.New("group exists already")
	ErrHostFailed  = errors.New("hard-state store has failed")
)

// NotLeaderError is [ErrNotLeader] with the leader as far as this replica knows it.
type NotLeaderError struct {
	Leader raft.NodeID // 0: unknown
	Term   raft.Term
}

func (e *NotLeaderError) Error() string {
	if e.Leader == 0 {
		return fmt.Sprintf("not the leader in term %d; leader unknown", e.Term)
	}
	return fmt.Sprintf("not the leader in term %d; leader is node %d", e.Term, e.Leader)
}

// Is makes errors.Is(err, ErrNotLeader) hold.
func (e *NotLeaderError) Is(target error) bool { return target == ErrNotLeader }

// Bounds that need no setting of their own.
const (
	maxReadyPerTurn  = 8    // Readys handled in one turn of a group before it goes to the back of the run queue
	maxStageBatch    = 1024 // proposals staged and proposed as one batch, of MaxMessageBytes and one more
	maxStageBatches  = 4    // such batches in one turn of a group
	maxPairDeltas    = 4096 // groups in PairMessage.Cover, and in Uncover
	maxPairTries     = 8    // answers in which a proposed group may be an exception before it is given up for a while
	maxTurnsPerFlush = 16   // turns whose small messages may be collected before they are sent
	maxInboxChunks   = 16   // pieces of snapshots, and requests for them, that wait in an inbox
	maxOutMessages   = 512  // messages collected per destination before they are sent

	markDelay       = 100 * time.Millisecond // an idle log gets its synced mark within this time …
	markPatience    = 2 * time.Second        // or within this one, while more logs wait for a sync than there are flushers
	noSpaceRetryMin = 100 * time.Millisecond // first retry of a sync that found no space; doubles …
	noSpaceRetryMax = 5 * time.Second        // … up to this
)

// Options configure a [Host]. Zero values of bounds and times take the defaults stated.
type Options struct {
	Self raft.Member
	// Boot counts the starts of this process on its data directory, from 1; it must rise with every start.
	Boot uint64
	// Workers process groups; default 4. Below 0: manual mode, single-threaded, driven by Host.Run and Host.FlushGroup.
	Workers int
	// Flushers sync logs; default 16. A sync mostly waits, so there are more of them than cores.
	Flushers int
	// NewSyncBatch makes what a flusher syncs so many logs at once with, those that are a SplitLog; nil: each is synced by itself.
	NewSyncBatch func(logs int) (SyncBatch, error)

	// Campaigns is how many groups stand for election at once because their leader is gone; default 128.
	Campaigns int

	ElectionTimeout   time.Duration // default 1 s; the same on every broker of a cluster
	HeartbeatInterval time.Duration // default ElectionTimeout/10; of groups and of broker pairs
	ClockDrift        time.Duration // default ElectionTimeout/20; taken off every lease
	// CoverAfter is how long a group must have had no proposal, nor an election, before its heartbeats move to the pair, where they stay when
	// something is proposed again. Default ElectionTimeout/10.
	CoverAfter time.Duration
	// StallBound: with the oldest waiting group or the oldest sync older than this, the process counts as dead to its
	// peers and sends no pair heartbeat and no answer; default ElectionTimeout.
	StallBound time.Duration
	// HandOverAfter: a leader whose own sync has been running for longer, and one whose disk is full, hands leadership to a
	// follower that has more on its disk, if there is one. Default ElectionTimeout.
	HandOverAfter time.Duration
	// HangBound: a leader whose own sync has been running for longer falls silent, so that another is elected: a disk
	// that hangs rather than fails must not keep leadership for ever. Default 10 ElectionTimeout.
	HangBound time.Duration

	Clock      Clock          // default: CLOCK_BOOTTIME
	Transport  Transport      // required
	HardStates HardStateStore // required
	Logger     *slog.Logger   // default: discards
	Seed       uint64         // of every random choice
	// OnFatal is called once when the hard-state store fails: no group of this host votes or leads from then on.
	OnFatal func(error)
	// OnPeersMoved is called, by a worker, when there is something for [Host.TakeMoved] after it had been emptied. It must not block. nil: nothing
	// is noted.
	OnPeersMoved func()
	// Observer is told how long things take; nil: nobody is.
	Observer Observer

	MaxInboxMessages  int   // per group, then messages are dropped (Raft repeats them); default 4096
	MaxInboxBytes     int64 // per group: frames in waiting messages, and payloads in waiting proposals; default 64 MiB
	MaxInboxProposals int   // per group, then ErrOverloaded; default 16384
	MaxReads          int   // per group: reads waiting; default 16384
	Crowd             int   // with so many groups waiting for a worker or a sync, each gathers proposals while others of it are on their way; default 48
	MaxUnsynced       int64 // with more unsynced bytes a follower drops further appends, and a leader takes no proposals; default 64 MiB
	MaxSnapshotBytes  int64 // a snapshot larger than this is neither sent nor taken in; default 1 GiB
	SnapshotSends     int   // snapshots being sent at once by this host; default 2
	SnapshotFetches   int   // snapshots being taken in at once, beside the metadata group's; default 4
	SnapshotChunk     int   // bytes of a snapshot in one message; default 1 MiB
	SnapshotRate      int64 // bytes of snapshots per second that this host sends; default 64 MiB; below 0: no limit

	// LearnerRate bounds, in bytes per second, what this host sends to learners that are being caught up, over all groups
	// with GroupConfig.Throttle; 0: no bound.
	LearnerRate int64

	MaxMessageBytes  int   // entries per MsgApp; default 1 MiB
	MaxInflightMsgs  int   // unanswered MsgApps per follower; default 64
	MaxInflightBytes int64 // and their bytes; default 16 MiB
	MaxUncommitted   int64 // bytes above commit in a leader's log; default 64 MiB
	MaxApplyBytes    int   // committed entries applied at once; default 4 MiB
}

func defaultTo[T int | int64 | time.Duration](v *T, d T) {
	if *v == 0 {
		*v = d
	}
}

func (o *Options) setDefaults() error {
	switch {
	case o.Self.ID == 0:
		return errors.New("multi: Options.Self has no node id")
	case o.Transport == nil:
		return errors.New("multi: Options.Transport is missing")
	case o.HardStates == nil:
		return errors.New("multi: Options.HardStates is missing")
	}
	defaultTo(&o.Workers, 4)
	defaultTo(&o.Flushers, 16)
	defaultTo(&o.Campaigns, 128)
	defaultTo(&o.ElectionTimeout, time.Second)
	defaultTo(&o.HeartbeatInterval, o.ElectionTimeout/10)
	defaultTo(&o.ClockDrift, o.ElectionTimeout/20)
	defaultTo(&o.CoverAfter, o.ElectionTimeout/10)
	defaultTo(&o.StallBound, o.ElectionTimeout)
	defaultTo(&o.HandOverAfter, o.ElectionTimeout)
	defaultTo(&o.HangBound, 10*o.ElectionTimeout)
	defaultTo(&o.MaxInboxMessages, 4096)
	defaultTo(&o.MaxInboxBytes, 64<<20)
	defaultTo(&o.MaxInboxProposals, 16384)
	defaultTo(&o.MaxReads, 16384)
	defaultTo(&o.Crowd, 48)
	defaultTo(&o.MaxUnsynced, 64<<20)
	defaultTo(&o.MaxSnapshotBytes, 1<<30)
	defaultTo(&o.SnapshotSends, 2)
	defaultTo(&o.SnapshotFetches, 4)
	defaultTo(&o.SnapshotChunk, 1<<20)
	defaultTo(&o.SnapshotRate, 64<<20)
	defaultTo(&o.MaxMessageBytes, 1<<20)
	defaultTo(&o.MaxInflightMsgs, 64)
	defaultTo(&o.MaxInflightBytes, 16<<20)
	defaultTo(&o.MaxUncommitted, 64<<20)
	defaultTo(&o.MaxApplyBytes, 4<<20)
	if o.HeartbeatInterval*3 > o.ElectionTimeout {
		return fmt.Errorf("multi: heartbeat interval %v is above a third of the election timeout %v",
			o.HeartbeatInterval, o.ElectionTimeout)
	}
	if o.ClockDrift >= o.ElectionTimeout {
		return fmt.Errorf("multi: clock drift bound %v is not below the election timeout %v", o.ClockDrift, o.ElectionTimeout)
	}
	if o.LearnerRate < 0 {
		return fmt.Errorf("multi: learner rate %d", o.LearnerRate)
	}
	if o.Campaigns < 0 {
		return fmt.Errorf("multi: %d campaigns at once", o.Campaigns)
	}
	if o.Flushers < 0 {
		return fmt.Errorf("multi: %d flushers", o.Flushers)
	}
	if o.Clock == nil {
		o.Clock = BootClock{}
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return nil
}

// GroupConfig configures one group of a host. The group owns Log from a successful CreateGroup on, and closes it.
type GroupConfig struct {
	ID           raft.GroupID
	Log          Log
	Stager       Stager
	StateMachine StateMachine
	// Bootstrap is the membership before any EntryConfig in the log; a stored snapshot's takes its place.
	Bootstrap raft.ConfState
	// Fresh: this replica has never run before, so there is no promise to wait out.
	Fresh bool
	// Epoch is the group's epoch, for a replica that the hard-state store knows nothing of: any other has its own. See
	// [raft.Reset].
	Epoch raft.GroupEpoch
	// Campaign: try to lead at once, as the preferred first leader.
	Campaign bool
	// Priorities say who shall lead; see [raft.Raft.SetPriorities] and Group.SetPriorities.
	Priorities []raft.NodePriority
	// VoteAfter, from the log's recovery: neither votes nor campaigns before a leader's log matched up to here. raft.UntilTold: a
	// leader must say how far that is, and [Log].Told passes it on.
	VoteAfter raft.Index
	// SnapshotEvery is the number of bytes applied between snapshots; 0: only when asked.
	SnapshotEvery int64
	// KeepEntries are left behind a snapshot by compaction; below 0: the entries are the data, and are cut where Log.Prune
	// says.
	KeepEntries int64
	// CommitDelay: see raft.Config. Who reads at a follower by the leader's read index waits for nothing: see Group.ReadElsewhere.
	CommitDelay time.Duration
	// Throttle: learners are caught up within Options.LearnerRate, and whoever is behind at a pace that yields to proposals (pace.go).
	Throttle bool
	// OnFatal is called once if the group stops by itself: its log or state machine failed. It must neither block nor
	// close the group, on whose worker it runs.
	OnFatal func(error)
}

// Status is a copy of what a group last knew about itself.
type Status struct {
	raft.Status
	Ready bool  // leader, with its own no-op applied: its state is complete and it takes proposals
	Full  bool  // the last sync found no space; it is tried again
	Err   error // why the group has stopped, if it has
	// CoveredPeers is, on a leader, the number of followers whose heartbeats the pair carries.
	CoveredPeers int
	// Elections is how often this replica has stood for election, pre-votes aside, since it was opened.
	Elections uint32
}

// Stats are counters of a host since its start, and gauges.
type Stats struct {
	Groups      int
	Covered     int // groups that this host leads or follows under a pair heartbeat: proposed or accepted entries
	Turns       uint64
	Ticks       uint64
	TimerFires  uint64
	Syncs       uint64
	SyncErrors  uint64
	NoSpace     uint64
	Proposals   uint64
	Overloaded  uint64 // proposals and reads refused because a bound was reached
	Gathered    uint64 // proposals that waited for others on their way: see Options.Crowd
	Appended    uint64 // entries appended to logs
	AppendBytes uint64 // and the bytes of their frames
	BehindBytes uint64 // of entries sent to members that were behind, at their pace
	Applied     uint64
	Reads       uint64
	LeaseReads  uint64
	ReadRounds  uint64 // batches of reads that asked a quorum
	Suspends    uint64 // times that the machine was seen to have slept
	Pauses      uint64 // times that this process was seen not to have run for longer than an election timeout
	MsgsIn      uint64
	MsgsOut     uint64
	MsgsDropped uint64 // inbox bound or unknown group
	BadFrames   uint64 // entries from a peer that did not verify
	Muted       uint64 // ticks and messages withheld by leaders whose disk hangs
	HandedOver  uint64 // leaderships given away because the disk hung, was full or failed
	Throttled   uint64 // appends dropped because too much is not synced yet

	PairHeartbeats  uint64 // sent
	PairAnswers     uint64 // sent
	PairRefused     uint64 // heartbeats of unknown sessions
	PairStalled     uint64 // heartbeats or answers withheld because workers or syncs have stalled
	PairSessionLost uint64 // sessions given up, either side
	GroupsWoken     uint64 // covered followers woken because their leader's session died

	PreVotes      uint64 // begun
	Elections     uint64 // begun: a term raised and votes asked for
	ElectionsWon  uint64
	LeaderChanges uint64 // a leader became known that was not before, itself included
	StepDowns     uint64 // leaderships that ended, for whatever reason

	SnapshotsTaken     uint64
	SnapshotsSent      uint64 // opened and offered
	SnapshotsInstalled uint64
	SnapshotsResumed   uint64 // fetches that found a part of theirs on the disk
	SnapshotsBroken    uint64 // fetches whose file could not be written or did not match its checksum
	SnapshotBytesOut   uint64
	SnapshotBytesIn    uint64
	BadChunks          uint64
}

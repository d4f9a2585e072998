// What the runtime needs from the outside, declared where it is used. `segment` satisfies Log, `partition` and
// `coordinator` satisfy StateMachine and Stager, `raft/transport` satisfies Transport, the journal in this package
// satisfies HardStateStore, and `broker` wires them together. The simulator brings its own Clock, Transport and
// HardStateStore.

package multi

import (
	"github.com/balsamq/balsa/raft"
)

// Log is one group's log on disk. Append, truncation and reads are called by the worker that holds the group; Sync by
// the flush loop, concurrently with them but never with itself; offset reads by anyone.
type Log interface {
	raft.LogReader

	// EntriesBehind is Entries of what a member lacks that was away, from an index that is committed: nobody else is likely to want them
	// soon. It may be called beside anything, by anyone.
	EntriesBehind(lo, hi raft.Index, maxBytes int) ([]raft.Entry, error)

	// DecodeFrame verifies e.Frame (length, version, CRC seeded with the group id) and sets every other field of e
	// from it. It is called on each entry that a peer sends, before the core sees it, by whoever delivers that: beside anything.
	DecodeFrame(e *raft.Entry) error

	// Append takes entries, all framed, with consecutive indexes; entries[0].Index may be at or below LastIndex, and
	// then the suffix from there on is truncated first. It does not wait for the disk: what it took is readable at
	// once, and durable when a Sync that began later has returned. The log keeps the frames: they must not change.
	Append(term raft.Term, entries []raft.Entry) (raft.Ticket, error)

	// Sync writes and syncs all that was appended before it was called, and returns the latest ticket so covered.
	// [vfs.ErrNoSpace] means that nothing was lost and that it may be called again; any other error is fatal: the log must
	// be closed and opened anew, and refuses all further work.
	Sync() (raft.Ticket, error)

	// MarkPending reports that the last sync is not yet noted on disk by a mark; one more Sync writes it. The runtime
	// does so when the log has been idle for 100 ms, so that recovery can tell damage from a torn tail. A log with relaxed durability
	// then syncs what is behind, too.
	MarkPending() bool

	// Behind is, of a log with relaxed durability, the number of bytes that Sync has vouched for when they were written and not synced yet.
	// Settle syncs them. The runtime calls it, as it does Sync, when there are many, or when they have been there for RelaxedDelay. Its error is as
	// fatal as Sync's.
	Behind() int64
	Settle() error

	// Told says how far the log once went, if recovery could not know (GroupConfig.VoteAfter was raft.UntilTold), or that no more
	// than that matters now (raft.Reset): when it is durable up to there again, what recovery has put on record is obsolete. It does not wait for the disk; MarkPending asks for
	// the Sync that may be needed.
	Told(upTo raft.Index)

	// Full says that there is no room for more records; it becomes false again by itself.
	Full() bool

	// Unsynced is the number of bytes appended and not yet durable.
	Unsynced() int64

	// SaveSnapshot stores data durably as the state after meta.Index, replacing an earlier one. It does not shorten the log.
	// This and what follows (LoadSnapshot only after the group's start) is called by the flush loop: never beside Sync or each
	// other, but beside Append and reads; InstallSnapshot beside nothing at all.
	SaveSnapshot(meta raft.SnapshotMeta, data []byte) error
	// LoadSnapshot returns the stored snapshot, or nil if there is none: the latest, for a restart.
	LoadSnapshot() (*raft.Snapshot, error)
	// OpenSnapshot opens the snapshot that a follower gets who is behind FirstIndex; nil if there is none. For a log whose
	// records are the data it is not the latest one, but the one that the log begins behind. It may be read beside anything.
	OpenSnapshot() (raft.SnapshotReader, error)
	// TruncatePrefix durably drops whole segments that lie entirely at or below upTo (which must be covered by a stored
	// snapshot) and makes upTo+1 the first index.
	TruncatePrefix(upTo raft.Index) error
	// Prune is for a log whose records are the data (GroupConfig.KeepEntries below 0): it durably drops whole segments whose
	// records nobody wants any more, as far as a snapshot of an earlier index covers them, and returns that one's meta; nil
	// if nothing was dropped. Which records are wanted is between the log and its state machine.
	Prune() (*raft.SnapshotMeta, error)
	// InstallSnapshot durably replaces the whole log by s, which was received before: the log is then empty with FirstIndex
	// s.Meta.Index+1. The log's own part of the state (next offset, epoch table) is in the data as EncodeSnapshot put it there;
	// what is returned is the rest, for the state machine. [vfs.ErrNoSpace] leaves the log, and what was received, as they were: the
	// group stops, and its owner opens it anew, as often as it takes, and it votes meanwhile.
	InstallSnapshot(s *raft.Snapshot) (state []byte, err error)
	// ReceiveSnapshot begins to take s in, or goes on with what an earlier connection or process has left of it, and returns how
	// many bytes of its data are here. Whatever there was of another is dropped. WriteSnapshot appends to that, durably; with
	// the last byte it verifies the whole. DropReceived removes it. An error of these leaves the log as good as it was.
	ReceiveSnapshot(s *raft.Snapshot) (got int64, err error)
	WriteSnapshot(off int64, data []byte) error
	DropReceived() error
	// EncodeSnapshot joins the log's own state as of the index with the state machine's into Snapshot.Data.
	EncodeSnapshot(upTo raft.Index, state []byte) ([]byte, error)
	// DecodeSnapshot is the state machine's part of data.
	DecodeSnapshot(data []byte) (state []byte, err error)

	Close() error
}

// Proposal is what a caller wants appended to a group's log. Done is called exactly once and must not block: by a worker,
// or, when the proposal is refused at the door (overload, closed or failed group), by Propose itself before it returns.
// So a caller must not hold, across Propose, a lock that its Done takes.
type Proposal struct {
	Type    raft.EntryType
	Payload []byte // the group takes ownership
	Tag     any    // for the Stager and the StateMachine; the runtime does not look at it
	// AckLocal asks for Done after the leader's own sync (Kafka's acks=1) rather than after commit and apply.
	AckLocal bool
	Done     func(Outcome)
}

// Outcome is how a proposal ended. With Err nil the entry is committed and applied (or, for AckLocal, durable on the
// leader). [ErrNotLeader] and [ErrOverloaded] mean that it never entered the log; [ErrLeadershipLost] that it did, and
// that nobody can say yet whether it will commit.
type Outcome struct {
	Term   raft.Term
	Index  raft.Index
	Result any // what StateMachine.Apply returned for the entry; nil for AckLocal
	Err    error
}

// Stager turns proposals into framed entries, in log order, on the worker that holds the group. e arrives with Term,
// Index, Type and Payload set, and leaves with Frame (and Payload as a part of it).
type Stager interface {
	// Stage frames a proposal on the leader, or refuses it with an error, which becomes its Outcome.Err and leaves no
	// trace in the log. waitFor > 0 says that the proposal repeats the entry at that index: nothing is appended, and
	// Done is called when that entry has been applied. Stage is not called before the no-op of the leader's own term
	// has been applied.
	Stage(p *Proposal, e *raft.Entry) (waitFor raft.Index, err error)
	// StageInternal frames an entry that the core made: a no-op or a membership.
	StageInternal(e *raft.Entry)
}

// StateMachine folds over committed entries, on the worker that holds the group.
type StateMachine interface {
	// Apply is called with every committed entry in order, internal ones included, exactly once per life of the
	// process, from the entry after the restored snapshot on. results has one element per entry, or is nil.
	Apply(entries []raft.Entry) (results []any, err error)
	// Snapshot encodes the state as of the last applied entry.
	Snapshot() ([]byte, error)
	// Restore replaces the state by a snapshot's. meta.Index is the last applied entry from here on.
	Restore(meta raft.SnapshotMeta, state []byte) error
	// LeadershipChanged is called when role, term or known leader changed, and once more when the leader's own no-op
	// has been applied (Status.Ready): from then on the leader's state is complete.
	LeadershipChanged(s Status)
}

// HardStateStore keeps term and vote of every group. Save is asynchronous and group-committed: done is called once the
// state is durable, from the store's goroutine. Saves for one group become durable in order. An error is fatal for the
// store and for the broker's right to vote: every later Save reports it too.
type HardStateStore interface {
	Save(g raft.GroupID, hs raft.HardState, done func(error))
	Load(g raft.GroupID) (raft.HardState, bool)
	// Delete forgets a group whose files are gone. Group ids are never reused.
	Delete(g raft.GroupID, done func(error))
}

// Transport carries messages to other brokers. It never blocks and may drop: Raft repeats what matters. Bulk data
// (MsgApp with entries, MsgSnap) must not delay anything else. msgs is the caller's again afterwards, a pair
// message the transport's; what they point to (entries, frames, snapshots) is shared and immutable.
type Transport interface {
	Send(to raft.NodeID, msgs []raft.Message)
	SendPair(to raft.NodeID, m *PairMessage)
	// SendChunk carries a piece of a snapshot, or the request for one: bulk, but beside MsgApps and never before them. m is the
	// transport's from then on; its data is not changed any more.
	SendChunk(to raft.NodeID, m *ChunkMessage)
}

// PromptTransport is a Transport that can do without another goroutine.
type PromptTransport interface {
	// SendNow is Send by a caller who has nothing else to do. It does not wait for the network.
	SendNow(to raft.NodeID, msgs []raft.Message)
}

// ChunkMessage is a request for a piece of an offered snapshot, or its answer, between the runtimes of two brokers. The core
// does not see them.
type ChunkMessage struct {
	Response bool
	Group    raft.GroupID
	// Which snapshot: see raft.Snapshot.Same.
	Index raft.Index
	Term  raft.Term
	Size  int64
	Sum   uint32

	Offset int64
	Data   []byte // an answer's: at least one byte
	CRC    uint32 // CRC32C of Data
	Gone   bool   // an answer: this broker does not send that snapshot (any more)
}

// Clock is CLOCK_BOOTTIME: it goes on while the machine is suspended, so that a lease cannot outlive a suspend.
type Clock interface{ Now() raft.Time }

// MonotonicClock is a Clock that can also tell the time without what was slept: what lies between the two is suspends.
type MonotonicClock interface {
	Clock
	Monotonic() raft.Time
}

// PairMessage is the heartbeat between two brokers, or its answer. It stands for a heartbeat of every covered group:
// see docs/design/pair-heartbeats.md.
type PairMessage struct {
	Response bool
	// Session is the sender's coverage session of the leader side; a new process or a lost peer starts a new one, and
	// what was covered under the old one is forgotten on both sides.
	Session uint64
	Seq     uint64    // of the heartbeat; an answer repeats it
	SentAt  raft.Time // sender's clock; an answer repeats it
	// Cover are groups that the leader side wants covered from here on, Uncover those that no longer are; both are
	// repeated in every heartbeat until one that carried them has been answered.
	Cover   []CoveredGroup
	Uncover []raft.GroupID
	// Except, in an answer, are groups that the follower side does not (or no longer) promise anything for.
	Except []raft.GroupID
}

// CoveredGroup proposes that a group rest: the follower's log is complete up to Commit under Term.
type CoveredGroup struct {
	Group  raft.GroupID
	Term   raft.Term
	Commit raft.Index
}

// The vocabulary of the consensus core: identifiers, entries, messages, hard state and membership.
//
// Every number that must not be mixed with another has a type of its own. All of these are plain values: they hold
// no lock and no pointer into the core, and are safe to copy. Byte slices are shared, never copied: whoever receives
// one must treat it as immutable.

package raft

import "fmt"

// NodeID names a broker. Node ids are positive and fit Kafka's int32; 0 means "no node".
type NodeID uint32

// GroupID names a Raft group across the cluster. Ids are handed out by the metadata group, never reused; 0 is invalid
// and [MetadataGroup] is the metadata group itself.
type GroupID uint64

// MetadataGroup is the group that replicates the cluster's metadata.
const MetadataGroup GroupID = 1

// Term is a Raft term (§5.1). For a partition it is also the Kafka leader epoch, so it never exceeds [MaxTerm].
type Term uint64

// MaxTerm bounds terms so that each one is a valid Kafka leader epoch (an int32).
const MaxTerm Term = 1<<31 - 1

// Index counts entries of a log, from 1; 0 is "before the first entry". It is not a Kafka offset: see package segment.
type Index uint64

// Incarnation identifies one life of a node's data directory. A wiped disk under an old node id has a new incarnation,
// and is thereby a new replica, which must not vote with a log it no longer has. 0 means "unknown" and matches any.
type Incarnation uint64

// GroupEpoch counts how often a group's membership was reset because its majority was gone for good (see [Reset]). Replicas
// of different epochs do not hear each other. 0: never.
type GroupEpoch uint32

// Time is a reading of the caller's clock in nanoseconds. Only differences matter. The core never reads a clock: time
// comes in with every call, and it must never go backwards.
type Time int64

// EntryType says who interprets an entry's payload. The values are part of the disk and wire formats.
type EntryType uint8

const (
	// EntryRecords is one Kafka record batch of a partition; the only type that takes Kafka offsets.
	EntryRecords EntryType = 1
	// EntryNoop is the entry with which a leader opens its term (§5.4.2, §8). Its payload is empty.
	EntryNoop EntryType = 2
	// EntryConfig is a membership: its payload is an encoded [ConfState], in effect as soon as it is appended (§6).
	EntryConfig EntryType = 3
	// EntryPrefix moves the log's start: its payload is read by the state machine.
	EntryPrefix EntryType = 4
	// EntryCommand is an opaque command for the group's state machine.
	EntryCommand EntryType = 5
)

func (t EntryType) String() string {
	switch t {
	case EntryRecords:
		return "records"
	case EntryNoop:
		return "noop"
	case EntryConfig:
		return "config"
	case EntryPrefix:
		return "prefix"
	case EntryCommand:
		return "command"
	}
	return fmt.Sprintf("EntryType(%d)", uint8(t))
}

// Entry is one element of the replicated log.
type Entry struct {
	Term  Term
	Index Index
	Type  EntryType
	// Payload is what the entry carries: a sub-slice of Frame once the entry is framed.
	Payload []byte
	// Frame is the whole entry as it stands on disk and travels between brokers, made once by the leader's Stager.
	// The core sends and counts it, and never looks inside. It is never changed, nor appended to: the next one may lie behind it.
	Frame []byte
}

// Size is what the entry counts for in every byte bound: the length of its frame, or of its payload before it has one.
func (e *Entry) Size() int {
	if e.Frame != nil {
		return len(e.Frame)
	}
	return len(e.Payload)
}

// Ticket names a point in a log that an append reached, and hides which sync domain makes it durable. Term is the
// raft term under which the entries were appended, not the term of the last entry: a report "durable up to Index"
// that was overtaken by a truncation in a later term is thereby recognised and dropped (the append/truncate ABA race).
type Ticket struct {
	Term  Term
	Index Index
}

// HardState is what must be on disk before any message that depends on it leaves the machine (§5.1, §5.2).
type HardState struct {
	Term Term
	Vote NodeID // candidate that received this node's vote in Term; 0 if none
	// Epoch rises with a reset only, and then Term does too: of two hard states the one of the later term is the later one.
	Epoch GroupEpoch
}

// IsZero reports whether nothing has been decided yet.
func (hs HardState) IsZero() bool { return hs == HardState{} }

// Role is a node's part in its group's current term.
type Role uint8

const (
	Follower Role = iota
	PreCandidate
	Candidate
	Leader
)

func (r Role) String() string {
	switch r {
	case Follower:
		return "follower"
	case PreCandidate:
		return "pre-candidate"
	case Candidate:
		return "candidate"
	case Leader:
		return "leader"
	}
	return fmt.Sprintf("Role(%d)", uint8(r))
}

// Member is one replica of a group: a node in one incarnation.
type Member struct {
	ID          NodeID
	Incarnation Incarnation
}

// ConfState is a membership, in joint form from the first (§6): while Outgoing is not empty, decisions need a majority
// of Voters and a majority of Outgoing. All three slices are sorted by ID, without duplicates; a node is never both a
// voter and a learner.
type ConfState struct {
	Voters   []Member
	Outgoing []Member // the voters of the configuration being left; empty outside a joint configuration
	Learners []Member
	// Epoch is the group's epoch in which this membership was made.
	Epoch GroupEpoch
}

// Joint reports whether the membership is in transition.
func (c *ConfState) Joint() bool { return len(c.Outgoing) > 0 }

// SnapshotMeta names the log prefix that a snapshot stands for (§7).
type SnapshotMeta struct {
	Index Index // last included index
	Term  Term  // its term
	Conf  ConfState
}

// Snapshot is a snapshot: stored, or offered to a follower.
type Snapshot struct {
	Meta SnapshotMeta
	// Size and Sum (CRC32C) are of the data. With Meta they say whether two snapshots are the same.
	Size int64
	Sum  uint32
	// Data is opaque to the core and immutable. It does not travel with the offer: the follower's runtime fetches it.
	Data []byte
}

// Same reports that both are one snapshot, as far as anybody can tell without comparing the data.
func (s *Snapshot) Same(o *Snapshot) bool {
	return s.Meta.Index == o.Meta.Index && s.Meta.Term == o.Meta.Term && s.Size == o.Size && s.Sum == o.Sum
}

// MessageType is part of the wire format between brokers.
type MessageType uint8

const (
	MsgPreVote MessageType = iota + 1
	MsgPreVoteResp
	MsgVote
	MsgVoteResp
	MsgApp
	MsgAppResp
	MsgHeartbeat
	MsgHeartbeatResp
	MsgSnap
	MsgSnapResp
	MsgTimeoutNow
)

func (t MessageType) String() string {
	names := [...]string{"", "MsgPreVote", "MsgPreVoteResp", "MsgVote", "MsgVoteResp", "MsgApp", "MsgAppResp",
		"MsgHeartbeat", "MsgHeartbeatResp", "MsgSnap", "MsgSnapResp", "MsgTimeoutNow"}
	if int(t) < len(names) && t != 0 {
		return names[t]
	}
	return fmt.Sprintf("MessageType(%d)", uint8(t))
}

// Message travels between two replicas of one group. Which fields count depends on Type:
//
//	MsgPreVote, MsgVote          Index, LogTerm: the candidate's last entry; Force: by a leader's order (§3.10 of the thesis)
//	MsgPreVoteResp, MsgVoteResp  Reject
//	MsgApp                       Index, LogTerm: the entry before Entries; Commit
//	MsgAppResp                   Index: all up to here is durable and matches; or Reject with Index: the refused previous
//	                             index, and RejectHint, LogTerm: where the follower thinks that the logs may agree
//	MsgHeartbeat                 Commit, never above what the follower is known to hold; Round
//	MsgHeartbeatResp             Round
//	MsgSnap                      Snapshot: an offer, without data; see [Raft.SnapshotReceived]
//	MsgSnapResp                  Index: installed; or Reject
//	MsgTimeoutNow                -
//
// Every request carries SentAt, a reading of the sender's own clock, and every answer returns it unchanged: a lease
// runs from the time at which a round was sent, never from the time at which its answer came.
type Message struct {
	Type            MessageType
	Group           GroupID
	From, To        NodeID
	FromIncarnation Incarnation
	ToIncarnation   Incarnation // 0: the sender does not know
	// FromBoot rises with every start of the sender, of its process or of this replica alone. A leader that sees a follower's boot
	// rise forgets that follower's Match, and drops answers of earlier boots: a replica may have lost (and must then
	// report anew) what it once acknowledged.
	FromBoot uint64
	// Lost, in an answer, is FromBoot of a replica that has lost its log under this name, and knows not what it once acknowledged
	// (UntilTold). A leader that has committed in its own term repeats it in MsgApp, whose Commit then covers all that: see
	// Raft.told.
	Lost       uint64
	Epoch      GroupEpoch // the sender's; a message of another epoch than the receiver's is dropped
	Term       Term
	LogTerm    Term
	Index      Index
	Commit     Index
	RejectHint Index
	Round      uint64
	SentAt     Time
	Reject     bool
	Force      bool
	Entries    []Entry
	Snapshot   *Snapshot
}

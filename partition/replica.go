// Package partition is a topic partition's replica: Kafka's offsets, high watermark, producer state and errors over a
// Raft group ([multi.Group]) and the group's log ([segment.Log]).
package partition

import (
	"log/slog"
	"sync"
	"time"

	"github.com/balsamq/balsa/internal/vfs"
	"github.com/balsamq/balsa/raft"
)

// Config is what a replica is opened with.
type Config struct {
	Group     raft.GroupID
	Topic     string
	TopicID   [16]byte
	Partition int32

	FS  vfs.FS
	Dir string // of this replica alone; made if it is not there

	// Existing: this broker's journal already has a hard state for the group. Then a missing directory is damage and not a
	// first start, and Open refuses it.
	Existing bool
	// Bootstrap is the membership of the first assignment.
	Bootstrap raft.ConfState
	// Campaign makes this replica stand for election at once: the preferred first leader.
	Campaign bool

	Settings Settings

	// Now is the wall clock, for LogAppendTime and timestamp checks; nil: time.Now.
	Now func() time.Time
	// OnFailed is called once, from a worker or the flush loop, when the replica has failed. It must not block, and must
	// not call the replica's life-cycle methods itself: schedule [Replica.Reopen] with a backoff.
	OnFailed func(r *Replica, err error)
	// OnLeadership is called from a worker when the leader, the epoch or readiness changed. It must not block.
	OnLeadership func(r *Replica, l Leadership)

	Logger *slog.Logger
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

// Replica is one partition on this node. All methods are safe for concurrent use.
//
// Lock order: life, then mu. mu is a leaf: nothing outside this package is called while it is held, no callback, no log and no
// group, so that it may be taken under any other lock. life serialises Close, Remove and Reopen only.
type Replica struct {
	life sync.Mutex

	mu    sync.Mutex // guards everything below
	state State
	lead  Leadership
	pub   published
	// committedBytes counts record bytes applied since Open; Waiter.MinBytes is measured by it.
	committedBytes int64
	waiters        *Waiter
	waiting        int
}

// published is the point up to which clients may read. hw is the offset after applied, always both or neither.
type published struct {
	applied raft.Index
	hw      int64
}

// ReplicaStatus is one voter or learner as the leader sees it.
type ReplicaStatus struct {
	Node    raft.NodeID
	Learner bool
	Match   raft.Index
	InSync  bool
}

// Description is a replica's status for people.
type Description struct {
	Group         raft.GroupID
	Topic         string
	Partition     int32
	State         State
	Err           error // why it failed
	Leadership    Leadership
	Voters        []raft.Member
	Replicas      []ReplicaStatus // on the leader
	LogStart      int64
	HighWatermark int64
	NextOffset    int64
	Commit        raft.Index
	Applied       raft.Index
	Size          int64
	Full          bool
	Producers     int
}

// Open opens or makes the replica's log and joins its group.
func Open(cfg Config) (*Replica, error) {
	if err := cfg.Settings.withDefaults().validate(); err != nil {
		return nil, err
	}
	return nil, ErrClosed
}

// Close leaves the group and closes the log; the files stay. Waiters fire, proposals end with ErrClosed.
func (r *Replica) Close() error { return nil }

// Remove closes the replica and deletes its files. It may be called after Close, and again after a failure.
func (r *Replica) Remove() error { return nil }

// Reopen closes what is left of a failed replica and opens it again. Only for StateFailed; with an error it stays there.
func (r *Replica) Reopen() error { return nil }

// UpdateSettings takes effect for the next batch.
func (r *Replica) UpdateSettings(s Settings) error { return s.withDefaults().validate() }

// Describe is the replica's status.
func (r *Replica) Describe() Description { return Description{} }

// ISR is, on the leader, the voters that are alive and hold everything that is committed (or nearly: what is in flight
// does not count), itself included, in order of their ids. On another node it is nil.
func (r *Replica) ISR() []raft.NodeID { return nil }

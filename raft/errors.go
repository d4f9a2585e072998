// The errors that the core returns. All of them are sentinels, to be tested with errors.Is.

package raft

import "errors"

var (
	// ErrNotLeader is returned by whatever only a leader can do, and is the Err of reads that outlived leadership.
	ErrNotLeader = errors.New("raft: not the leader")
	// ErrNotReady: this leader has not yet committed (for reads and memberships) or applied (for proposals) the no-op
	// that opens its term, so that it does not know yet what it may promise (§8; etcd #7331).
	ErrNotReady = errors.New("raft: leader has not opened its term yet")
	// ErrOverloaded: Config.MaxUncommitted or [MaxPendingReads] is reached; try again when something was committed.
	ErrOverloaded = errors.New("raft: too much is waiting to be committed")
	// ErrTransferring: leadership is being handed over; proposals go to the next leader.
	ErrTransferring = errors.New("raft: leadership is being transferred")
	// ErrNeverLeads: the priority of the node that was to lead forbids it.
	ErrNeverLeads = errors.New("raft: that replica never leads")
	// ErrBadProposal is the caller's mistake: entries that are not at the place that NextProposal named.
	ErrBadProposal = errors.New("raft: proposal does not continue the log")
	// ErrConfPending: an earlier membership change is not committed yet, or is still joint.
	ErrConfPending = errors.New("raft: a membership change is under way")
	// ErrNotCaughtUp: a learner that is too far behind to be promoted; try again when it is not.
	ErrNotCaughtUp = errors.New("raft: learner is not caught up")
	// ErrBadConf: a membership or a change of it that makes no sense.
	ErrBadConf = errors.New("raft: invalid membership")
	// ErrNotVoter: leadership can only be handed to another voter of the newest configuration.
	ErrNotVoter = errors.New("raft: not another voter of this group")
	// ErrNotMember: the node has no place in this group.
	ErrNotMember = errors.New("raft: not a member of this group")
	// ErrBadMessage: a message that no correct peer sends. It was dropped and changed nothing.
	ErrBadMessage = errors.New("raft: malformed message")
	// ErrMisaddressed: a message for another group, node or incarnation, or from an earlier life of its sender. Dropped.
	ErrMisaddressed = errors.New("raft: message for or from another replica")
	// ErrFenced: a message of another epoch of the group than this replica's (see [Reset]). Dropped.
	ErrFenced = errors.New("raft: message of another group epoch")
	// ErrHasLeader: a reset is refused while this replica leads with a quorum, or is bound by its promise to a leader.
	ErrHasLeader = errors.New("raft: the group has, or had a moment ago, a leader")
	// ErrBadReset: a reset that names no sensible membership or term, or comes while a snapshot is being installed.
	ErrBadReset = errors.New("raft: reset refused")
	// ErrDiverged: a peer's message contradicts what is committed here, or there are two leaders in one term. The message
	// was dropped: what is committed is never cut. Somewhere a promise was broken: a disk that lied, or a bug of ours.
	ErrDiverged = errors.New("raft: message contradicts the committed log")
	// ErrBadConfig is returned by New.
	ErrBadConfig = errors.New("raft: invalid configuration")

	// ErrCompacted is returned by a [LogReader] for what lies below its first index.
	ErrCompacted = errors.New("raft: index is compacted away")
	// ErrUnavailable is returned by a [LogReader] for what lies above its last index.
	ErrUnavailable = errors.New("raft: index is above the log's end")
)

// What must always hold, each as a type of its own. checker.go watches a run for it.

package sim

import (
	"fmt"

	"github.com/balsamq/balsa/raft"
	"github.com/balsamq/balsa/segment"
)

// ElectionSafetyError: two leaders in one term (Raft §5.2).
type ElectionSafetyError struct {
	Group int
	Term  raft.Term
	A, B  raft.NodeID
}

func (e *ElectionSafetyError) Error() string {
	return fmt.Sprintf("one leader per term: group %d term %d is led by n%d and n%d", e.Group, e.Term, e.A, e.B)
}

// VoteDurabilityError: a node voted for two candidates in one term, or spoke of a vote or term that is not on its disk.
type VoteDurabilityError struct {
	Node    raft.NodeID
	Message string
}

func (e *VoteDurabilityError) Error() string {
	return fmt.Sprintf("votes are durable: n%d %s", e.Node, e.Message)
}

// AckDurabilityError: a node said that it has entries durably which are not on its disk.
type AckDurabilityError struct {
	Node            raft.NodeID
	Group           int
	Claimed, Synced raft.Index
}

func (e *AckDurabilityError) Error() string {
	return fmt.Sprintf("nothing is acknowledged before its sync: n%d group %d acknowledged up to %d, synced is %d", e.Node, e.Group, e.Claimed, e.Synced)
}

// CommitDurabilityError: a leader takes for committed what is not on the disks of a majority.
type CommitDurabilityError struct {
	Leader raft.NodeID
	Group  int
	Index  raft.Index
	Conf   raft.ConfState
	Holds  []raft.NodeID
}

func (e *CommitDurabilityError) Error() string {
	return fmt.Sprintf("what is committed is on the disks of a majority: n%d group %d commits %d, which only nodes %v of %v have durably",
		e.Leader, e.Group, e.Index, e.Holds, e.Conf)
}

// OwnTermError: a leader counts replicas of an entry of an earlier term (Raft §5.4.2, figure 8), or changes the membership before it
// has committed in its own (Ongaro 2015). What that may cost comes much later, if at all.
type OwnTermError struct {
	Leader raft.NodeID
	Group  int
	Term   raft.Term
	What   string
	Index  raft.Index
}

func (e *OwnTermError) Error() string {
	return fmt.Sprintf("its own term first: n%d leads group %d in term %d and %s at index %d", e.Leader, e.Group, e.Term, e.What, e.Index)
}

// FalseDamageError: a recovery takes for damage what a crash may leave behind.
type FalseDamageError struct {
	Node   raft.NodeID
	Group  int
	Reason string
}

func (e *FalseDamageError) Error() string {
	return fmt.Sprintf("crashes are not damage: n%d group %d: %s", e.Node, e.Group, e.Reason)
}

// LogMatchingError: two logs agree at an index and differ below it (Raft §5.3).
type LogMatchingError struct {
	Group int
	A, B  raft.NodeID
	Index raft.Index
}

func (e *LogMatchingError) Error() string {
	return fmt.Sprintf("log matching: group %d, n%d and n%d differ at index %d below an index where they agree", e.Group, e.A, e.B, e.Index)
}

// LeaderCompletenessError: a leader's log lacks a committed entry (Raft §5.4).
type LeaderCompletenessError struct {
	Group     int
	Leader    raft.NodeID
	Term      raft.Term
	Index     raft.Index
	Have      raft.Term
	Committed raft.Term
}

func (e *LeaderCompletenessError) Error() string {
	return fmt.Sprintf("leader completeness: group %d, n%d leads term %d with term %d at index %d, committed there is term %d",
		e.Group, e.Leader, e.Term, e.Have, e.Index, e.Committed)
}

// CommitRegressionError: a commit index went back within one life of a node.
type CommitRegressionError struct {
	Node     raft.NodeID
	Group    int
	Was, Now raft.Index
}

func (e *CommitRegressionError) Error() string {
	return fmt.Sprintf("commit never goes back: n%d group %d from %d to %d", e.Node, e.Group, e.Was, e.Now)
}

// StateMachineError: two state machines differ after the same index.
type StateMachineError struct {
	Node  raft.NodeID
	Group int
	Index raft.Index
	What  string
}

func (e *StateMachineError) Error() string {
	return fmt.Sprintf("state machines equal: n%d group %d at index %d: %s", e.Node, e.Group, e.Index, e.What)
}

// AckedLossError: an acknowledged operation is not where it was acknowledged.
type AckedLossError struct {
	Group int
	Op    uint64
	Index raft.Index
	Found uint64
}

func (e *AckedLossError) Error() string {
	return fmt.Sprintf("no acknowledged entry lost: group %d op %x acknowledged at index %d, where op %x is committed", e.Group, e.Op, e.Index, e.Found)
}

// StaleReadError: a read point below what had been acknowledged or read before the read began.
type StaleReadError struct {
	Node        raft.NodeID
	Group       int
	Floor, Read raft.Index
}

func (e *StaleReadError) Error() string {
	return fmt.Sprintf("reads are linearizable: n%d group %d read at index %d, after index %d was acknowledged", e.Node, e.Group, e.Read, e.Floor)
}

// ApplyOrderError: the runtime skipped or repeated an entry.
type ApplyOrderError struct {
	Node      raft.NodeID
	Group     int
	Last, Got raft.Index
}

func (e *ApplyOrderError) Error() string {
	return fmt.Sprintf("applied once, in order: n%d group %d applied %d after %d", e.Node, e.Group, e.Got, e.Last)
}

// SnapshotError: a snapshot's state is not the state as of its index.
type SnapshotError struct {
	Node       raft.NodeID
	Group      int
	Meta, Have raft.Index
}

func (e *SnapshotError) Error() string {
	return fmt.Sprintf("a snapshot holds the state as of its index: n%d group %d, index %d holds %d", e.Node, e.Group, e.Meta, e.Have)
}

// StagingError: an entry was staged for another place than the next of the log.
type StagingError struct {
	Node      raft.NodeID
	Group     int
	Got, Want raft.Index
}

func (e *StagingError) Error() string {
	return fmt.Sprintf("staged in log order: n%d group %d staged %d, the log continues at %d", e.Node, e.Group, e.Got, e.Want)
}

// OffsetError: a log's Kafka offset is not the number of records before it.
type OffsetError struct {
	Node       raft.NodeID
	Group      int
	Index      raft.Index
	Have, Want segment.Offset
}

func (e *OffsetError) Error() string {
	return fmt.Sprintf("offsets are dense: n%d group %d after index %d is offset %d, %d records are applied", e.Node, e.Group, e.Index, e.Have, e.Want)
}

// LostRecordsError: a log begins behind the first record that is not deleted, or does not hold one that it must.
type LostRecordsError struct {
	Node        raft.NodeID
	Group       int
	Have, Start segment.Offset
	What        string
}

func (e *LostRecordsError) Error() string {
	return fmt.Sprintf("no record is lost to a cut: n%d group %d begins at offset %d, wanted are those from %d on%s", e.Node, e.Group, e.Have, e.Start, e.What)
}

// LivenessError: a cluster in which a majority can talk did not make progress, or a healed one did not come to agree.
type LivenessError struct {
	What  string
	State string
}

func (e *LivenessError) Error() string {
	return "progress once faults stop: " + e.What + "\n" + e.State
}

// PanicError: the code under test found a contradiction itself.
type PanicError struct {
	Value any
	Stack string
}

func (e *PanicError) Error() string { return fmt.Sprintf("panic: %v\n%s", e.Value, e.Stack) }

// The replica's status for people and for DescribeQuorum, DescribeLogDirs and the like.

package partition

import (
	"cmp"
	"errors"
	"slices"

	"github.com/balsamq/balsa/raft"
	"github.com/balsamq/balsa/raft/multi"
	"github.com/balsamq/balsa/segment"
)

// ReplicaStatus is one member as the leader sees it.
type ReplicaStatus struct {
	Node    raft.NodeID
	Learner bool
	Match   raft.Index // durable there up to here
	InSync  bool
}

// Description is a replica's status.
type Description struct {
	Group         raft.GroupID
	Topic         string
	TopicID       [16]byte
	Partition     int32
	State         State
	Err           error // why it failed
	Leadership    Leadership
	Voters        []raft.Member
	Learners      []raft.Member
	Replicas      []ReplicaStatus // on the leader, in order of their ids
	LogStart      int64
	HighWatermark int64
	NextOffset    int64 // appended here, committed or not
	Commit        raft.Index
	Applied       raft.Index
	First         raft.Index // of the log
	Snapshot      raft.Index // last entry that the stored snapshot stands for; 0: there is none
	Size          int64      // bytes on disk
	Segments      int        // and files
	Full          bool       // the disk is full: produce is refused
	DamagedUpTo   raft.Index // recovery found damage that a leader has not healed yet; it neither votes nor campaigns
	Log           segment.Health
	LastStable    int64
	Producers     int
	OpenTxns      int // transactions without an end yet
	AbortedTxns   int // aborted ones that readers must know of
	Waiters       int
}

// Fit says what keeps this replica's disk from being a good leader's: nil for nothing.
func (r *Replica) Fit() error {
	m, g := r.current()
	switch {
	case g == nil:
		return ErrClosed
	case m.log.Full() || g.Status().Full:
		return ErrStorageFull
	case g.Hangs():
		return errDiskHangs
	}
	return nil
}

var errDiskHangs = errors.New("the disk hangs")

// Name is the topic and the partition that it is a replica of.
func (r *Replica) Name() (topic string, partition int32) { return r.cfg.Topic, r.cfg.Partition }

// LogSize is the number of bytes and of segment files of the log; both 0 while it is closed.
func (r *Replica) LogSize() (bytes int64, segments int) {
	m, _ := r.current()
	if m == nil {
		return 0, 0
	}
	return m.log.Size(), m.log.Segments()
}

// Recovery is what the opening of the log found, and what of it had to be read for that; zero while it is closed.
func (r *Replica) Recovery() (segment.Recovery, segment.Scanned) {
	m, _ := r.current()
	if m == nil {
		return segment.Recovery{}, segment.Scanned{}
	}
	return m.log.Recovery(), m.log.Scanned()
}

// Behind is how many bytes of the log have been vouched for when they were written and are not synced yet: a relaxed one's (Settings.Relaxed).
func (r *Replica) Behind() int64 {
	m, _ := r.current()
	if m == nil {
		return 0
	}
	return m.log.Behind()
}

// Scrub begins to verify what lies in the log, from index from on; nil while it is closed. The walk ends with the log.
func (r *Replica) Scrub(from raft.Index) *segment.Scrub {
	m, _ := r.current()
	if m == nil {
		return nil
	}
	return m.log.Scrub(from)
}

// Describe is the replica's status.
func (r *Replica) Describe() Description {
	c := &r.cfg
	r.mu.Lock()
	d := Description{
		Group: c.Group, Topic: c.Topic, TopicID: c.TopicID, Partition: c.Partition, State: r.state, Err: r.err,
		Leadership: r.lead, LogStart: r.pub.start, HighWatermark: r.pub.hw, Applied: r.pub.applied, LastStable: r.pub.stable,
		Producers: r.producers, OpenTxns: r.openTxns, AbortedTxns: r.abortedTxns, Waiters: r.waiting,
	}
	m := r.m
	var g *multi.Group
	if m != nil {
		g = m.group
	}
	r.mu.Unlock()
	if g == nil {
		return d
	}
	d.NextOffset, d.Size = int64(m.log.NextOffset()), m.log.Size()
	d.First, d.Snapshot, d.Segments = m.log.FirstIndex(), m.log.SnapshotIndex(), m.log.Segments()
	d.Log = m.log.Health()
	l := lookAt(g)
	d.Voters, d.Learners, d.Commit, d.Full, d.DamagedUpTo = l.Conf.Voters, l.Conf.Learners, l.Commit, l.Full || m.log.Full(), l.VoteAfter
	if l.Role == raft.Leader {
		d.Replicas = append(d.Replicas, ReplicaStatus{Node: l.Self.ID, Match: l.Stable, InSync: true})
		for i := range l.peers {
			p := &l.peers[i]
			d.Replicas = append(d.Replicas, ReplicaStatus{Node: p.Member.ID, Learner: p.Learner, Match: p.Match, InSync: l.isInSync(p)})
		}
		slices.SortFunc(d.Replicas, func(a, b ReplicaStatus) int { return cmp.Compare(a.Node, b.Node) })
	}
	return d
}

// Raft groups as the brokers' admin listeners describe them. Each partition is a group, and the cluster's metadata another.

package client

import (
	"context"
	"net/url"
	"strings"
)

// RaftTable is all groups of a cluster.
type RaftTable struct {
	Groups []RaftSummary `json:"groups" yaml:"groups"`
	// Missing are brokers that did not answer; what they know is not in Groups.
	Missing []RaftMissing `json:"missing,omitempty" yaml:"missing,omitempty"`
}

// RaftMissing is a broker that did not answer, and why.
type RaftMissing struct {
	Node  int32  `json:"node" yaml:"node"`
	Error string `json:"error" yaml:"error"`
}

// RaftSummary is one group in short.
type RaftSummary struct {
	Group     uint64 `json:"group" yaml:"group"`
	Topic     string `json:"topic" yaml:"topic"`
	Partition int32  `json:"partition" yaml:"partition"`
	Leader    int32  `json:"leader" yaml:"leader"` // 0: none
	Term      uint64 `json:"term" yaml:"term"`
	Commit    uint64 `json:"commit" yaml:"commit"`
	// Lag is the number of entries that the replica furthest behind lacks.
	Lag      uint64  `json:"lag" yaml:"lag"`
	Replicas []int32 `json:"replicas" yaml:"replicas"`
	Learners []int32 `json:"learners,omitempty" yaml:"learners,omitempty"`
	// Problems are empty where all is well.
	Problems []string `json:"problems" yaml:"problems"`
}

// RaftGroup is one group on all its replicas.
type RaftGroup struct {
	Group     uint64        `json:"group" yaml:"group"`
	Topic     string        `json:"topic" yaml:"topic"`
	Partition int32         `json:"partition" yaml:"partition"`
	Replicas  []RaftReplica `json:"replicas" yaml:"replicas"` // by broker id
}

// RaftReplica is a group's state on one broker. Indexes count log entries; offsets are Kafka's, -1 where there are none.
type RaftReplica struct {
	Node int32 `json:"node" yaml:"node"`
	// State is "open", "failed", "closed", "absent" or "unknown": the broker did not answer. Error says why.
	State string `json:"state" yaml:"state"`
	Error string `json:"error,omitempty" yaml:"error,omitempty"`

	Incarnation string `json:"incarnation,omitempty" yaml:"incarnation,omitempty"` // of the broker's data directory
	Boot        uint64 `json:"boot,omitempty" yaml:"boot,omitempty"`               // starts of the broker on it
	Role        string `json:"role,omitempty" yaml:"role,omitempty"`               // "leader", "follower", "candidate", "pre-candidate"
	Ready       bool   `json:"ready" yaml:"ready"`                                 // leader that serves
	Term        uint64 `json:"term" yaml:"term"`
	Vote        int32  `json:"vote" yaml:"vote"`
	Leader      int32  `json:"leader" yaml:"leader"`
	Epoch       uint64 `json:"epoch" yaml:"epoch"` // how often the group's peers were reset

	Commit    uint64 `json:"commit" yaml:"commit"`
	Applied   uint64 `json:"applied" yaml:"applied"`
	Stable    uint64 `json:"stable" yaml:"stable"` // on the disk here
	First     uint64 `json:"first" yaml:"first"`
	Last      uint64 `json:"last" yaml:"last"`
	LastTerm  uint64 `json:"lastTerm" yaml:"lastTerm"`   // of the entry at Last
	TermStart uint64 `json:"termStart" yaml:"termStart"` // leader: the entry that opened its term
	Snapshot  uint64 `json:"snapshot" yaml:"snapshot"`   // last entry that the stored snapshot stands for; 0: none

	LogStart      int64 `json:"logStart" yaml:"logStart"`
	HighWatermark int64 `json:"highWatermark" yaml:"highWatermark"`
	NextOffset    int64 `json:"nextOffset" yaml:"nextOffset"`
	Bytes         int64 `json:"bytes" yaml:"bytes"`
	Segments      int   `json:"segments" yaml:"segments"`

	Voters    []int32 `json:"voters" yaml:"voters"`
	Outgoing  []int32 `json:"outgoing,omitempty" yaml:"outgoing,omitempty"` // voters that a joint membership leaves
	Learners  []int32 `json:"learners,omitempty" yaml:"learners,omitempty"`
	ConfIndex uint64  `json:"confIndex" yaml:"confIndex"`

	LeaseMillis      int64  `json:"leaseMillis" yaml:"leaseMillis"`               // left of the leader's lease; 0: none
	LeaderlessMillis int64  `json:"leaderlessMillis" yaml:"leaderlessMillis"`     // for how long no leader is known; 0: one is
	Resting          bool   `json:"resting" yaml:"resting"`                       // follower under a heartbeat that brokers share
	CoveredPeers     int    `json:"coveredPeers" yaml:"coveredPeers"`             // leader: followers that rest
	Elections        uint32 `json:"elections" yaml:"elections"`                   // begun by this replica since it was opened
	Priority         string `json:"priority,omitempty" yaml:"priority,omitempty"` // "preferred", "normal", "last resort", "never leads"
	Transferee       int32  `json:"transferee,omitempty" yaml:"transferee,omitempty"`
	UncommittedBytes int64  `json:"uncommittedBytes" yaml:"uncommittedBytes"`
	Waiting          int    `json:"waiting" yaml:"waiting"` // proposals that are not applied
	Reads            int    `json:"reads" yaml:"reads"`     // that wait for a quorum
	Inbox            int    `json:"inbox" yaml:"inbox"`     // messages and proposals that wait for a worker
	Overloaded       bool   `json:"overloaded" yaml:"overloaded"`
	Muted            bool   `json:"muted" yaml:"muted"` // leader that keeps silent because its disk hangs

	Full         bool   `json:"full" yaml:"full"`               // the disk
	Impaired     bool   `json:"impaired" yaml:"impaired"`       // a bad disk: leads only if nobody else can
	DamagedUpTo  uint64 `json:"damagedUpTo" yaml:"damagedUpTo"` // lacks entries that had been durable; 0: none
	Installing   bool   `json:"installing" yaml:"installing"`   // a snapshot of the leader's
	Snapshotting bool   `json:"snapshotting" yaml:"snapshotting"`
	Health       string `json:"health" yaml:"health"` // of the log: "ok"

	Followers []RaftFollower `json:"followers,omitempty" yaml:"followers,omitempty"` // as this leader sees them
}

// RaftFollower is what a leader knows of another member.
type RaftFollower struct {
	Node          int32  `json:"node" yaml:"node"`
	Learner       bool   `json:"learner" yaml:"learner"`
	State         string `json:"state" yaml:"state"` // "probe", "replicate", "snapshot"
	Match         uint64 `json:"match" yaml:"match"` // on its disk
	Next          uint64 `json:"next" yaml:"next"`
	Lag           uint64 `json:"lag" yaml:"lag"`
	Inflight      int    `json:"inflight" yaml:"inflight"` // messages
	InflightBytes int64  `json:"inflightBytes" yaml:"inflightBytes"`
	ContactMillis int64  `json:"contactMillis" yaml:"contactMillis"` // since the latest message that it answered; -1: none in this term
	Active        bool   `json:"active" yaml:"active"`
	Covered       bool   `json:"covered" yaml:"covered"` // rests under a heartbeat that brokers share
}

// RaftGroups lists all groups.
func (c *Control) RaftGroups(ctx context.Context) (t RaftTable, err error) {
	err = c.Get(ctx, "/v1/raft/groups", &t)
	return t, err
}

// RaftGroup describes one group: its number, "topic/partition", or "metadata".
func (c *Control) RaftGroup(ctx context.Context, name string) (g RaftGroup, err error) {
	parts := strings.Split(name, "/")
	for i := range parts {
		parts[i] = url.PathEscape(parts[i])
	}
	err = c.Get(ctx, "/v1/raft/groups/"+strings.Join(parts, "/"), &g)
	return g, err
}

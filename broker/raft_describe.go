// What this broker can say of a Raft group: of its own replica from the group's worker and its log, and of all its groups in
// one line each. raft_gather.go puts the answers of several brokers together.

package broker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/balsamq/balsa/partition"
	"github.com/balsamq/balsa/raft"
	"github.com/balsamq/balsa/raft/multi"
	"github.com/balsamq/balsa/segment"
)

// replicaState is a group's state on one broker. Durations are milliseconds; offsets are -1 where there are none.
type replicaState struct {
	Node  raft.NodeID `json:"node"`
	State string      `json:"state"` // "open", "failed", "closed", "absent", "unknown" (no answer)
	Error string      `json:"error,omitempty"`

	Incarnation string          `json:"incarnation,omitempty"`
	Boot        uint64          `json:"boot,omitempty"` // starts of the broker on its data directory
	Role        string          `json:"role,omitempty"`
	Ready       bool            `json:"ready"` // leader, and its state is complete
	Term        raft.Term       `json:"term"`
	Vote        raft.NodeID     `json:"vote"`
	Leader      raft.NodeID     `json:"leader"`
	Epoch       raft.GroupEpoch `json:"epoch"` // how often the group's peers were reset

	Commit    raft.Index `json:"commit"`
	Applied   raft.Index `json:"applied"`
	Stable    raft.Index `json:"stable"`
	First     raft.Index `json:"first"`
	Last      raft.Index `json:"last"`
	LastTerm  raft.Term  `json:"lastTerm"`
	TermStart raft.Index `json:"termStart"`
	Snapshot  raft.Index `json:"snapshot"` // last entry that the stored snapshot stands for; 0: there is none

	LogStart      int64 `json:"logStart"`
	HighWatermark int64 `json:"highWatermark"`
	NextOffset    int64 `json:"nextOffset"`
	Bytes         int64 `json:"bytes"`
	Segments      int   `json:"segments"`

	Voters    []raft.NodeID `json:"voters"`
	Outgoing  []raft.NodeID `json:"outgoing,omitempty"` // of a joint membership
	Learners  []raft.NodeID `json:"learners,omitempty"`
	ConfIndex raft.Index    `json:"confIndex"`

	LeaseMillis      int64       `json:"leaseMillis"`      // what is left of the leader's lease; 0: none
	LeaderlessMillis int64       `json:"leaderlessMillis"` // for how long no leader is known; 0: one is
	Resting          bool        `json:"resting"`          // follower: under a pair heartbeat
	CoveredPeers     int         `json:"coveredPeers"`     // leader: followers that rest
	Elections        uint32      `json:"elections"`        // that this replica began
	Priority         string      `json:"priority,omitempty"`
	Transferee       raft.NodeID `json:"transferee,omitempty"`
	Uncommitted      int64       `json:"uncommittedBytes"`
	Waiting          int         `json:"waiting"` // proposals that are not applied
	Reads            int         `json:"reads"`   // that wait for a quorum
	Inbox            int         `json:"inbox"`   // messages and proposals that wait for a worker
	Overloaded       bool        `json:"overloaded"`
	Muted            bool        `json:"muted"` // leader whose disk hangs

	Full         bool       `json:"full"`
	Impaired     bool       `json:"impaired"` // its disk is bad: it leads only if nobody else can
	DamagedUpTo  raft.Index `json:"damagedUpTo"`
	Installing   bool       `json:"installing"`
	Snapshotting bool       `json:"snapshotting"`
	Health       string     `json:"health"` // of the log; "ok"

	Followers []followerState `json:"followers,omitempty"` // as this leader sees them
}

// followerState is what a leader knows of another member.
type followerState struct {
	Node          raft.NodeID `json:"node"`
	Learner       bool        `json:"learner"`
	State         string      `json:"state"` // "probe", "replicate", "snapshot"
	Match         raft.Index  `json:"match"`
	Next          raft.Index  `json:"next"`
	Lag           raft.Index  `json:"lag"` // entries that it does not have on its disk
	Inflight      int         `json:"inflight"`
	InflightBytes int64       `json:"inflightBytes"`
	// ContactMillis is how long ago the latest message was sent that it has answered; -1: none in this term.
	ContactMillis int64 `json:"contactMillis"`
	Active        bool  `json:"active"`
	Covered       bool  `json:"covered"`
}

// describeReplica is the group's state here. It waits for the group's worker until ctx ends, and shows its last turn then.
func (b *Broker) describeReplica(ctx context.Context, id raft.GroupID) *replicaState {
	s := &replicaState{Node: b.NodeID(), State: "absent", Incarnation: fmt.Sprintf("%016x", uint64(b.store.id.Incarnation)), Boot: b.store.id.Boots,
		LogStart: -1, HighWatermark: -1, NextOffset: -1, Health: "ok"}
	var g *multi.Group
	if id == raft.MetadataGroup {
		if g = b.meta.group.Load(); g == nil {
			s.State, s.Error = "failed", "the metadata log is not open; the broker's log says why"
			return s
		}
		if log := b.meta.segments.Load(); log != nil {
			s.setLog(log.FirstIndex(), log.SnapshotIndex(), log.Size(), log.Segments(), log.Health())
		}
	} else {
		r := b.rec.replica(id)
		if r == nil {
			s.Error = "this broker has no replica of the group, or has not opened it"
			return s
		}
		d := r.Describe()
		if s.State = d.State.String(); d.Err != nil {
			s.Error = d.Err.Error()
		}
		if g = r.Raft(); g == nil {
			return s
		}
		s.setLog(d.First, d.Snapshot, d.Size, d.Segments, d.Log)
		s.LogStart, s.HighWatermark, s.NextOffset = d.LogStart, d.HighWatermark, d.NextOffset
	}
	in := inspectAll(ctx, []namedGroup{{Group: g}})[0]
	s.set(in, b.clock.Now())
	switch {
	case in.Err == nil && s.State == "absent":
		s.State = "open"
	case in.Err != nil && s.Error == "":
		s.State, s.Error = "failed", in.Err.Error()
	case ctx.Err() != nil && s.Error == "":
		s.Error = "its worker has not answered: this is the state after its last turn"
	}
	return s
}

func (s *replicaState) setLog(first, snapshot raft.Index, bytes int64, segments int, h segment.Health) {
	s.First, s.Snapshot, s.Bytes, s.Segments = first, snapshot, bytes, segments
	var words []string
	if h.Err != nil {
		words = append(words, "failed: "+h.Err.Error())
	}
	if h.ReadErr != nil {
		words = append(words, "a read met damage: "+h.ReadErr.Error())
	}
	if h.Behind > 0 {
		words = append(words, fmt.Sprintf("relaxed: %d bytes are acknowledged and not synced yet", h.Behind))
	}
	if h.DamagedUpTo == raft.UntilTold && h.Recovery.RanAhead != "" {
		words = append(words, "may have lost acknowledged records ("+h.Recovery.RanAhead+"): a leader must tell how far its log went, and refill it")
	} else if h.DamagedUpTo == raft.UntilTold {
		words = append(words, "lost its log: a leader must tell how far it went, and refill it")
	} else if h.DamagedUpTo > 0 {
		words = append(words, fmt.Sprintf("damaged: lacks durable entries up to %d", h.DamagedUpTo))
	} else if h.Recovery.Corrupt {
		words = append(words, fmt.Sprintf("repaired: was corrupt from %d on at the last start", h.Recovery.CorruptFrom))
	}
	if h.Recovery.Torn {
		words = append(words, fmt.Sprintf("cut at %d at the last start, as after a power loss", h.Recovery.TornIndex))
	}
	if h.Recovery.SnapshotLost {
		words = append(words, "its snapshot was lost")
	}
	s.Full = s.Full || h.Full
	if len(words) > 0 {
		s.Health = strings.Join(words, "; ")
	}
}

var priorityNames = [...]string{raft.NeverLeads: "never leads", raft.LastResort: "last resort", raft.NormalPriority: "normal", raft.PreferredPriority: "preferred"}

func (s *replicaState) set(in *multi.Inspection, now raft.Time) {
	s.Role, s.Ready, s.Term, s.Vote, s.Leader, s.Epoch = in.Role.String(), in.Ready, in.Term, in.Vote, in.Leader, in.Epoch
	s.Commit, s.Applied, s.Stable, s.Last, s.LastTerm, s.TermStart = in.Commit, in.Applied, in.Stable, in.Last, in.LastTerm, in.TermStart
	s.Voters, s.Outgoing, s.Learners, s.ConfIndex = raft.NodeIDs(in.Conf.Voters), raft.NodeIDs(in.Conf.Outgoing), raft.NodeIDs(in.Conf.Learners), in.ConfIndex
	s.LeaseMillis, s.LeaderlessMillis = in.Lease.Milliseconds(), in.Leaderless.Milliseconds()
	s.Resting, s.CoveredPeers, s.Elections, s.Transferee, s.Uncommitted = in.Resting, in.CoveredPeers, in.Elections, in.Transferee, in.Uncommitted
	s.Waiting, s.Reads, s.Inbox, s.Overloaded, s.Muted = in.Waiting, in.Reads, in.Inbox, in.Overloaded, in.Muted
	s.Priority, s.Impaired = priorityNames[min(int(in.Priority), len(priorityNames)-1)], in.Impaired
	s.Full, s.DamagedUpTo, s.Installing, s.Snapshotting = s.Full || in.Full, in.VoteAfter, in.Installing || in.Blocked, in.Snapshotting
	for i := range in.Peers {
		p := &in.Peers[i]
		f := followerState{Node: p.Member.ID, Learner: p.Learner, State: p.State.String(), Match: p.Match, Next: p.Next, Inflight: p.Inflight,
			InflightBytes: p.InflightBytes, ContactMillis: -1, Active: p.Active, Covered: p.Covered}
		if p.AckedAt >= 0 {
			f.ContactMillis = max(time.Duration(now-p.AckedAt), 0).Milliseconds()
		}
		if p.Match < in.Last {
			f.Lag = in.Last - p.Match
		}
		s.Followers = append(s.Followers, f)
	}
}

// groupLine is a group's state on one broker, in short.
type groupLine struct {
	Group   raft.GroupID  `json:"g"`
	Leader  bool          `json:"l,omitempty"`
	Ready   bool          `json:"r,omitempty"`
	Term    raft.Term     `json:"t"`
	Commit  raft.Index    `json:"c"`
	Lag     raft.Index    `json:"lag,omitempty"` // leader: of the follower furthest behind
	Learner []raft.NodeID `json:"n,omitempty"`   // leader's
	Voters  []raft.NodeID `json:"v,omitempty"`   // of the metadata group, which has no assignment
	Silent  []raft.NodeID `json:"s,omitempty"`   // members that this leader does not hear from
	Trouble []string      `json:"x,omitempty"`
}

// maxGroupLines bounds one answer; the rest is asked for again.
const maxGroupLines = 4096

// groupLines are this broker's groups with ids above after, in order, and whether there are more.
func (b *Broker) groupLines(after raft.GroupID) (lines []groupLine, more bool) {
	type entry struct {
		id raft.GroupID
		g  *multi.Group
		r  *partition.Replica
	}
	entries := []entry{{id: raft.MetadataGroup, g: b.meta.group.Load()}}
	for _, r := range b.rec.replicas() {
		entries = append(entries, entry{r.GroupID(), r.Raft(), r})
	}
	entries = slices.DeleteFunc(entries, func(e entry) bool { return e.id <= after })
	slices.SortFunc(entries, func(x, y entry) int { return cmp.Compare(x.id, y.id) })
	if more = len(entries) > maxGroupLines; more {
		entries = entries[:maxGroupLines]
	}
	for _, e := range entries {
		l := groupLine{Group: e.id}
		if e.r != nil {
			if _, err := e.r.State(); err != nil {
				l.Trouble = append(l.Trouble, "failed")
			}
		}
		if e.g == nil {
			if len(l.Trouble) == 0 {
				l.Trouble = append(l.Trouble, "closed")
			}
			lines = append(lines, l)
			continue
		}
		s := e.g.Status()
		l.Leader, l.Ready, l.Term, l.Commit = s.Role == raft.Leader, s.Ready, s.Term, s.Commit
		if s.Err != nil && len(l.Trouble) == 0 {
			l.Trouble = append(l.Trouble, "failed")
		}
		if s.Full {
			l.Trouble = append(l.Trouble, "disk full")
		}
		if s.VoteAfter > 0 {
			l.Trouble = append(l.Trouble, "damaged")
		}
		if s.Installing {
			l.Trouble = append(l.Trouble, "installing a snapshot")
		}
		if e.id == raft.MetadataGroup {
			l.Voters = raft.NodeIDs(s.Conf.Voters)
		}
		if l.Leader {
			peers := e.g.Peers()
			l.Lag = behind(s.Last, peers)
			l.Learner = raft.NodeIDs(s.Conf.Learners)
			if s.Conf.Joint() {
				l.Trouble = append(l.Trouble, "membership changes")
			}
			for i := range peers {
				if !peers[i].Active {
					l.Silent = append(l.Silent, peers[i].Member.ID)
				}
			}
		}
		lines = append(lines, l)
	}
	return lines, more
}

// describeRequest asks a broker for its replica of a group, or with Group 0 for a line on each of its groups above After.
type describeRequest struct {
	Group raft.GroupID `json:"group,omitempty"`
	After raft.GroupID `json:"after,omitempty"`
}

type describeReply struct {
	Replica *replicaState `json:"replica,omitempty"`
	Lines   []groupLine   `json:"lines,omitempty"`
	More    bool          `json:"more,omitempty"`
}

// describeTimeout bounds how long a broker looks at its replica; the asker waits a little longer.
const describeTimeout = 2 * time.Second

func (b *Broker) serveDescribe(ctx context.Context, q *describeRequest) *describeReply {
	if q.Group == 0 {
		lines, more := b.groupLines(q.After)
		return &describeReply{Lines: lines, More: more}
	}
	ctx, cancel := context.WithTimeout(ctx, describeTimeout)
	defer cancel()
	return &describeReply{Replica: b.describeReplica(ctx, q.Group)}
}

// askDescribe asks one broker, this one included.
func (b *Broker) askDescribe(ctx context.Context, node raft.NodeID, q *describeRequest) (*describeReply, error) {
	if node == b.NodeID() {
		return b.serveDescribe(ctx, q), nil
	}
	if _, known := b.resolve(node); !known {
		return nil, errors.New("its address is not known")
	}
	ctx, cancel := context.WithTimeout(ctx, 2*describeTimeout)
	defer cancel()
	body, err := encodeJSON(q)
	if err != nil {
		return nil, err
	}
	answer, err := b.tr.Call(ctx, node, methodDescribe, body)
	if err != nil {
		return nil, err
	}
	reply := new(describeReply)
	if err := decodeJSON(answer, reply); err != nil {
		return nil, err
	}
	if q.Group != 0 && (reply.Replica == nil || reply.Replica.Node != node) || q.Group == 0 && reply.More && len(reply.Lines) == 0 {
		return nil, fmt.Errorf("%w: no answer to what was asked", errRPC)
	}
	return reply, nil
}

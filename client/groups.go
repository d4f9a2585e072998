// Administration: consumer groups and what they have committed.

package client

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// Types of groups: which protocol their members speak.
const (
	GroupClassic  = "classic"
	GroupConsumer = "consumer" // KIP-848: the brokers assign
)

// Group is a group in a list.
type Group struct {
	Name         string `json:"name" yaml:"name"`
	Type         string `json:"type" yaml:"type"`
	State        string `json:"state" yaml:"state"` // as Kafka names it
	ProtocolType string `json:"protocolType" yaml:"protocolType"`
	Coordinator  int32  `json:"coordinator" yaml:"coordinator"` // the broker's id
}

// GroupDetail is a group with its members and offsets.
type GroupDetail struct {
	Group    `yaml:",inline"`
	Assignor string `json:"assignor" yaml:"assignor"`
	// Epoch and AssignmentEpoch are those of a group of type consumer; 0 in others.
	Epoch           int32         `json:"epoch" yaml:"epoch"`
	AssignmentEpoch int32         `json:"assignmentEpoch" yaml:"assignmentEpoch"`
	Members         []GroupMember `json:"members" yaml:"members"`
	Offsets         []GroupOffset `json:"offsets" yaml:"offsets"` // by topic and partition
}

// GroupMember is a member of a group.
type GroupMember struct {
	ID       string   `json:"id" yaml:"id"`
	Instance string   `json:"instance,omitempty" yaml:"instance,omitempty"` // of a static member
	ClientID string   `json:"clientId" yaml:"clientId"`
	Host     string   `json:"host" yaml:"host"`
	Type     string   `json:"type" yaml:"type"`   // GroupClassic or GroupConsumer: a group may have both while it migrates
	Epoch    int32    `json:"epoch" yaml:"epoch"` // of a member in a group of type consumer
	Topics   []string `json:"topics" yaml:"topics"`
	Regex    string   `json:"regex,omitempty" yaml:"regex,omitempty"`
	// Assigned are its partitions by topic.
	Assigned map[string][]int32 `json:"assigned" yaml:"assigned"`
}

// GroupOffset is how far a group has read a partition.
type GroupOffset struct {
	Topic     string `json:"topic" yaml:"topic"`
	Partition int32  `json:"partition" yaml:"partition"`
	Offset    int64  `json:"offset" yaml:"offset"` // -1: nothing is committed
	End       int64  `json:"end" yaml:"end"`       // -1: not known
	Lag       int64  `json:"lag" yaml:"lag"`       // -1: not known
	Metadata  string `json:"metadata,omitempty" yaml:"metadata,omitempty"`
	Member    string `json:"member,omitempty" yaml:"member,omitempty"` // who reads it now
}

// ListGroups returns the groups of the whole cluster by name, only those of certain types or in certain states if any are given.
func (a *Admin) ListGroups(ctx context.Context, types, states []string) ([]Group, error) {
	const op = "list groups"
	req := kmsg.NewPtrListGroupsRequest()
	req.TypesFilter, req.StatesFilter = types, states
	out := []Group{}
	for _, shard := range a.cl.RequestSharded(ctx, req) {
		if shard.Err != nil {
			return nil, a.wrap(op, "", shard.Err)
		}
		resp := shard.Resp.(*kmsg.ListGroupsResponse)
		if err := kerr.ErrorForCode(resp.ErrorCode); err != nil {
			return nil, a.wrap(op, "", err)
		}
		for _, g := range resp.Groups {
			out = append(out, Group{Name: g.Group, Type: cmp.Or(g.GroupType, GroupClassic), State: g.GroupState, ProtocolType: g.ProtocolType, Coordinator: shard.Meta.NodeID})
		}
	}
	slices.SortFunc(out, func(x, y Group) int { return strings.Compare(x.Name, y.Name) })
	return out, nil
}

// DescribeGroup returns a group of either type with its members, what it has committed, and how far behind it is.
func (a *Admin) DescribeGroup(ctx context.Context, name string) (GroupDetail, error) {
	d, err := a.group(ctx, name)
	if err != nil {
		return d, err
	}
	readers := make(map[string]string)
	for _, m := range d.Members {
		for topic, parts := range m.Assigned {
			for _, p := range parts {
				readers[partitionName(topic, p)] = m.ID
			}
		}
	}
	d.Offsets, err = a.groupOffsets(ctx, name, readers)
	return d, err
}

// coordinatorPatience is for how long a group's coordinator may be on its way: the first group of a cluster makes the topic that it is in.
const coordinatorPatience = 10 * time.Second

// group is a group's state and members. A coordinator that is not there yet is asked again.
func (a *Admin) group(ctx context.Context, name string) (GroupDetail, error) {
	limit := time.Now().Add(coordinatorPatience)
	for failures := 1; ; failures++ {
		d, err := a.groupOnce(ctx, name)
		away := errors.Is(err, kerr.CoordinatorNotAvailable) || errors.Is(err, kerr.CoordinatorLoadInProgress) || errors.Is(err, kerr.NotCoordinator)
		if !away || time.Now().After(limit) {
			return d, err
		}
		select {
		case <-time.After(retryPause(failures)):
		case <-ctx.Done():
			return d, err
		}
	}
}

func (a *Admin) groupOnce(ctx context.Context, name string) (GroupDetail, error) {
	const op = "describe group"
	d := GroupDetail{Group: Group{Name: name}, Members: []GroupMember{}}
	modern, err := a.raw.DescribeConsumerGroups(ctx, name)
	if g, ok := modern[name]; err == nil && ok && g.Err == nil {
		d.Type, d.State, d.ProtocolType, d.Coordinator = GroupConsumer, g.State, GroupConsumer, g.Coordinator.NodeID
		d.Assignor, d.Epoch, d.AssignmentEpoch = g.AssignorName, g.Epoch, g.AssignmentEpoch
		for _, m := range g.Members {
			out := GroupMember{ID: m.MemberID, ClientID: m.ClientID, Host: m.ClientHost, Type: GroupConsumer, Epoch: m.MemberEpoch,
				Topics: m.SubscribedTopics, Assigned: make(map[string][]int32)}
			if m.MemberType == 0 {
				out.Type = GroupClassic
			}
			if m.InstanceID != nil {
				out.Instance = *m.InstanceID
			}
			if m.SubscribedTopicRegex != nil {
				out.Regex = *m.SubscribedTopicRegex
			}
			for _, t := range m.Assignment.Sorted() {
				if t.Topic != "" { // a topic that the broker knows by its id only
					out.Assigned[t.Topic] = t.Partitions
				}
			}
			d.Members = append(d.Members, out)
		}
		return d, nil
	}
	// It is a classic one, or there is none: brokers that do not know the other kind answer with an error of their own.
	classic, err := a.raw.DescribeGroups(ctx, name)
	if err != nil {
		return d, a.wrap(op, name, err)
	}
	g, ok := classic[name]
	switch {
	case ok && g.Err != nil:
		return d, a.explain(op, name, g.Err, g.ErrMessage)
	case !ok || g.State == "Dead":
		return d, a.wrap(op, name, kerr.GroupIDNotFound)
	}
	d.Type, d.State, d.ProtocolType, d.Assignor, d.Coordinator = GroupClassic, g.State, g.ProtocolType, g.Protocol, g.Coordinator.NodeID
	for _, m := range g.Members {
		out := GroupMember{ID: m.MemberID, ClientID: m.ClientID, Host: m.ClientHost, Type: GroupClassic, Topics: []string{}, Assigned: make(map[string][]int32)}
		if m.InstanceID != nil {
			out.Instance = *m.InstanceID
		}
		if j, ok := m.Join.AsConsumer(); ok {
			out.Topics = append(out.Topics, j.Topics...)
		}
		if c, ok := m.Assigned.AsConsumer(); ok {
			for _, t := range c.Topics {
				slices.Sort(t.Partitions)
				out.Assigned[t.Topic] = t.Partitions
			}
		}
		d.Members = append(d.Members, out)
	}
	return d, nil
}

// groupOffsets are a group's offsets, also of partitions that are read and have none.
func (a *Admin) groupOffsets(ctx context.Context, name string, readers map[string]string) ([]GroupOffset, error) {
	const op = "fetch the offsets of group"
	committed, err := a.raw.FetchOffsets(ctx, name)
	if err != nil {
		return nil, a.wrap(op, name, err)
	}
	out := []GroupOffset{}
	topics := make(map[string]bool)
	seen := make(map[string]bool)
	for _, o := range committed.Sorted() {
		if o.Err != nil {
			return nil, a.wrap(op, name, o.Err)
		}
		key := partitionName(o.Topic, o.Partition)
		topics[o.Topic], seen[key] = true, true
		out = append(out, GroupOffset{Topic: o.Topic, Partition: o.Partition, Offset: o.At, End: -1, Lag: -1, Metadata: o.Metadata, Member: readers[key]})
	}
	for key, member := range readers {
		if i := strings.LastIndexByte(key, '/'); !seen[key] {
			var p int32
			_, _ = fmt.Sscan(key[i+1:], &p)
			topics[key[:i]] = true
			out = append(out, GroupOffset{Topic: key[:i], Partition: p, Offset: -1, End: -1, Lag: -1, Member: member})
		}
	}
	slices.SortFunc(out, func(x, y GroupOffset) int {
		return cmp.Or(strings.Compare(x.Topic, y.Topic), cmp.Compare(x.Partition, y.Partition))
	})
	for topic := range topics {
		begins, ends, err := a.bounds(ctx, topic, false)
		if errors.Is(err, ErrNotFound) {
			continue // it is deleted: there is no end
		}
		if err != nil {
			return nil, err
		}
		for i := range out {
			o := &out[i]
			end, ok := ends[o.Partition]
			if o.Topic != topic || !ok {
				continue
			}
			o.End = end
			if at := max(o.Offset, begins[o.Partition]); o.Offset >= 0 || o.Member != "" {
				o.Lag = max(end-at, 0)
			}
		}
	}
	return out, nil
}

// DeleteGroup deletes a group that has no members, with all that it has committed.
func (a *Admin) DeleteGroup(ctx context.Context, name string) error {
	resp, err := a.raw.DeleteGroup(ctx, name)
	return a.explain("delete group", name, err, resp.ErrMessage)
}

// Places to which ResetOffsets can set offsets.
const (
	ToEarliest  = "earliest"
	ToLatest    = "latest"
	ToCurrent   = "current"   // what is committed: for a look, or to make it anew
	ToOffset    = "offset"    // OffsetReset.Offset
	ToTimestamp = "timestamp" // the first record that is not older than OffsetReset.Time; the end if there is none
	ShiftBy     = "shift"     // OffsetReset.Offset forward of what is committed, or back where it is negative
)

// OffsetReset says which offsets of a group are to be set, and to what.
type OffsetReset struct {
	Group string
	// Topics are those to be reset, with their partitions; none: all of the topic. Empty: whatever the group has committed.
	Topics map[string][]int32
	To     string // one of the constants above
	Offset int64
	Time   time.Time
	// Execute commits the offsets. Without it nothing is changed.
	Execute bool
}

// OffsetChange is one offset that is, or would be, set.
type OffsetChange struct {
	Topic     string `json:"topic" yaml:"topic"`
	Partition int32  `json:"partition" yaml:"partition"`
	Before    int64  `json:"before" yaml:"before"` // -1: nothing was committed
	After     int64  `json:"after" yaml:"after"`
}

// ResetOffsets sets the offsets of a group that has no members. What lies outside of a partition is brought inside. It returns
// what was, or without Execute would be, set, by topic and partition.
func (a *Admin) ResetOffsets(ctx context.Context, r OffsetReset) ([]OffsetChange, error) {
	const op = "reset the offsets of group"
	if !slices.Contains([]string{ToEarliest, ToLatest, ToCurrent, ToOffset, ToTimestamp, ShiftBy}, r.To) {
		return nil, a.wrap(op, r.Group, fmt.Errorf("%w: there is no way to reset to %q", ErrInvalid, r.To))
	}
	if r.Execute {
		switch d, err := a.group(ctx, r.Group); {
		case errors.Is(err, ErrNotFound): // it begins to be with this commit
		case err != nil:
			return nil, err
		case len(d.Members) > 0:
			return nil, a.wrap(op, r.Group, kerr.NonEmptyGroup)
		}
	}
	committed, err := a.raw.FetchOffsets(ctx, r.Group)
	if err != nil && !errors.Is(err, kerr.GroupIDNotFound) { // some brokers say so of a group that is not there
		return nil, a.wrap(op, r.Group, err)
	}
	topics := r.Topics
	if len(topics) == 0 {
		topics = make(map[string][]int32)
		for _, o := range committed.Sorted() {
			topics[o.Topic] = append(topics[o.Topic], o.Partition)
		}
		if len(topics) == 0 {
			return nil, &Error{Op: op, Subject: r.Group, Kind: ErrInvalid, Err: errNothingCommitted}
		}
	}
	changes := []OffsetChange{}
	for topic, parts := range topics {
		begins, ends, err := a.bounds(ctx, topic, false)
		if errors.Is(err, ErrNotFound) && len(r.Topics) == 0 {
			continue // it is deleted, and what was committed for it goes by itself
		}
		if err != nil {
			return nil, err
		}
		var times map[int32]int64
		if r.To == ToTimestamp {
			if times, err = a.offsetsOf(ctx, topic, func(ctx context.Context, topics ...string) (kadm.ListedOffsets, error) {
				return a.raw.ListOffsetsAfterMilli(ctx, r.Time.UnixMilli(), topics...)
			}); err != nil {
				return nil, err
			}
		}
		if len(parts) == 0 {
			for p := range ends {
				parts = append(parts, p)
			}
		}
		for _, p := range parts {
			begin, ok := begins[p]
			if !ok {
				return nil, &Error{Op: op, Subject: partitionName(topic, p), Kind: ErrNotFound, Err: &NoPartitionError{Topic: topic, Partitions: len(ends)}}
			}
			c := OffsetChange{Topic: topic, Partition: p, Before: -1}
			if o, ok := committed.Lookup(topic, p); ok {
				c.Before = o.At
			}
			switch r.To {
			case ToEarliest:
				c.After = begin
			case ToLatest:
				c.After = ends[p]
			case ToOffset:
				c.After = r.Offset
			case ToTimestamp:
				c.After = times[p]
			case ToCurrent, ShiftBy:
				if c.Before < 0 {
					continue // there is nothing to go by
				}
				c.After = c.Before
				if r.To == ShiftBy {
					c.After += r.Offset
				}
			}
			c.After = min(max(c.After, begin), ends[p])
			changes = append(changes, c)
		}
	}
	slices.SortFunc(changes, func(x, y OffsetChange) int {
		return cmp.Or(strings.Compare(x.Topic, y.Topic), cmp.Compare(x.Partition, y.Partition))
	})
	if !r.Execute || len(changes) == 0 {
		return changes, nil
	}
	offsets := make(kadm.Offsets)
	for _, c := range changes {
		offsets.Add(kadm.Offset{Topic: c.Topic, Partition: c.Partition, At: c.After, LeaderEpoch: -1})
	}
	return changes, a.wrap(op, r.Group, a.raw.CommitAllOffsets(ctx, r.Group, offsets))
}

// errNothingCommitted is why a reset that names no topics may have nothing to do.
var errNothingCommitted = errors.New("it has committed nothing: name the topics")

// DeleteOffsets makes a group forget what it has committed for a topic, or for some of its partitions if any are given. A topic that a member
// reads is refused.
func (a *Admin) DeleteOffsets(ctx context.Context, group, topic string, partitions []int32) error {
	const op = "delete offsets of group"
	t, err := a.Topic(ctx, topic)
	if err != nil {
		return err
	}
	for _, p := range partitions {
		if p < 0 || int(p) >= len(t.Partitions) {
			return &Error{Op: op, Subject: partitionName(topic, p), Kind: ErrNotFound, Err: &NoPartitionError{Topic: topic, Partitions: len(t.Partitions)}}
		}
	}
	if len(partitions) == 0 {
		for _, p := range t.Partitions {
			partitions = append(partitions, p.Partition)
		}
	}
	set := make(kadm.TopicsSet)
	set.Add(topic, partitions...)
	resps, err := a.raw.DeleteOffsets(ctx, group, set)
	if err != nil {
		return a.wrap(op, group, err)
	}
	for _, p := range partitions {
		if err, ok := resps[topic][p]; ok && err != nil {
			return a.wrap(op, group+", "+partitionName(topic, p), err)
		}
	}
	return nil
}

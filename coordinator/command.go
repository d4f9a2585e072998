// Commands are what the metadata log holds, and results what applying one says.
//
// On disk and on the wire a command is
//
//	+---------+------------------------------+
//	| version | JSON object, named fields    |
//	|  1 byte |                              |
//	+---------+------------------------------+
//
// JSON, because metadata is small and rarely written, and because a log that can be read with one's eyes has paid for
// itself at the first incident. A field or a kind that a broker does not know makes it stop, never guess: replicas that
// skip what they do not understand diverge. New kinds are therefore gated by a feature level.
//
// Applying is deterministic: time, randomness and placement are put into the command by who proposes it.

package coordinator

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/balsamq/balsa/raft"
)

const (
	// CommandVersion is the first byte of every command that this broker writes; it reads no other.
	CommandVersion = 1
	// MaxCommandBytes bounds one command: 10,000 partitions of five replicas fit four times.
	MaxCommandBytes = 4 << 20
	// MaxPartitionsPerTopic bounds a topic, so that one request cannot exhaust the cluster.
	MaxPartitionsPerTopic = 10_000
	// MaxReplicationFactor bounds the replicas of a partition.
	MaxReplicationFactor = 15
	// MaxTopicsPerCommand bounds one CreateTopics or DeleteTopics.
	MaxTopicsPerCommand = 10_000
	// MaxProducerIDBlock bounds one allocation of producer ids.
	MaxProducerIDBlock = 1_000_000
	// maxRecentRequests is how many answered requests are remembered, so that a repeated one is answered and not done again.
	maxRecentRequests = 1024
	// maxEndpoints, maxText bound what a registration may carry.
	maxEndpoints = 16
	maxText      = 1024
)

// Command is one change of the metadata: exactly one of the pointers is set.
type Command struct {
	// Request, if not empty, makes the command idempotent: a second one with the same id changes nothing and gets the
	// first one's result, as long as it is among the last 1,024.
	Request string `json:"request,omitempty"`

	Found               *FoundCluster        `json:"found,omitempty"`
	Register            *RegisterBroker      `json:"register,omitempty"`
	Fence               *FenceBroker         `json:"fence,omitempty"`
	CreateTopics        *CreateTopics        `json:"create_topics,omitempty"`
	DeleteTopics        *DeleteTopics        `json:"delete_topics,omitempty"`
	AlterConfigs        *AlterConfigs        `json:"alter_configs,omitempty"`
	AllocateProducerIDs *AllocateProducerIDs `json:"allocate_producer_ids,omitempty"`
	SetFeature          *SetFeature          `json:"set_feature,omitempty"`
	ResetPeers          *ResetPeers          `json:"reset_peers,omitempty"`
	ResetDone           *ResetDone           `json:"reset_done,omitempty"`
	Reassign            *Reassign            `json:"reassign,omitempty"`
	Settle              *Settle              `json:"settle,omitempty"`
	Unregister          *UnregisterBroker    `json:"unregister,omitempty"`
	AlterUsers          *AlterUsers          `json:"alter_users,omitempty"`
	AlterACLs           *AlterACLs           `json:"alter_acls,omitempty"`
	SetConfigs          *SetConfigs          `json:"set_configs,omitempty"`
	AddPartitions       *AddPartitions       `json:"add_partitions,omitempty"`
	AlterQuotas         *AlterQuotas         `json:"alter_quotas,omitempty"`
	AlterBridge         *AlterBridge         `json:"alter_bridge,omitempty"`
}

// FoundCluster gives the cluster its identity. The first one counts.
type FoundCluster struct {
	ClusterID string           `json:"cluster_id"`
	Founder   raft.Member      `json:"founder"`
	Features  map[string]int16 `json:"features,omitempty"`
}

// RegisterBroker makes a broker known, or its endpoints new, and unfences it.
type RegisterBroker struct {
	Node        raft.NodeID      `json:"node,omitempty"` // 0: give it one
	Incarnation raft.Incarnation `json:"incarnation"`
	Endpoints   []Endpoint       `json:"endpoints"`
	RPC         string           `json:"rpc"`
	Rack        string           `json:"rack,omitempty"`
	NeverLead   bool             `json:"never_lead,omitempty"`
	// Replaces is the incarnation whose place the broker takes, if its data directory is a new one under an old id: see
	// Image.checkTakeover. It means nothing once it is in the log.
	Replaces raft.Incarnation `json:"replaces,omitempty"`
}

// FenceBroker says that a broker is not (or again) heard from. Epoch must be the broker's registration, so that a late
// fence does not hit a broker that has registered anew.
type FenceBroker struct {
	Node   raft.NodeID `json:"node"`
	Epoch  int64       `json:"epoch"`
	Fenced bool        `json:"fenced"`
}

// CreateTopics creates topics, each on its own: one may fail and the next succeed. Group ids are given out when applied.
type CreateTopics struct {
	// Brokers are the incarnations that the placements were made for. If one is gone, nothing is created: ErrStale.
	Brokers []raft.Member `json:"brokers"`
	Topics  []NewTopic    `json:"topics"`
}

// NewTopic is one topic with its placement.
type NewTopic struct {
	Name     string            `json:"name"`
	ID       TopicID           `json:"id"` // drawn by the proposer
	Replicas [][]raft.NodeID   `json:"replicas"`
	Configs  map[string]string `json:"configs,omitempty"`
}

// DeleteTopics deletes topics by id.
type DeleteTopics struct {
	IDs []TopicID `json:"ids"`
}

// AlterConfigs sets (or, with null, clears) configs of one topic.
type AlterConfigs struct {
	Topic TopicID            `json:"topic"`
	Set   map[string]*string `json:"set"`
}

// AllocateProducerIDs hands out Count ids that nobody else will ever get.
type AllocateProducerIDs struct {
	Count int64 `json:"count"`
}

// SetFeature finalizes a feature's level.
type SetFeature struct {
	Name  string `json:"name"`
	Level int16  `json:"level"`
}

// ResetPeers makes a partition go on with the replicas that are left, because a majority is gone for good. Its epoch must be
// the partition's next one, so that two operators cannot reset it twice without knowing of each other.
type ResetPeers struct {
	Topic     TopicID `json:"topic"`
	Partition int32   `json:"partition"`
	GroupReset
}

// ResetDone says that all survivors of a reset are in the new epoch, on disk: whoever comes later with less comes too late.
type ResetDone struct {
	Topic     TopicID         `json:"topic"`
	Partition int32           `json:"partition"`
	Epoch     raft.GroupEpoch `json:"epoch"`
}

// Result is what applying a command gave. It travels to the broker that asked, so it is plain data.
type Result struct {
	Index  raft.Index    `json:"index"`           // of the command: a broker whose Image has this version has seen it
	Node   raft.NodeID   `json:"node,omitempty"`  // Register: the broker's id
	Epoch  int64         `json:"epoch,omitempty"` // Register: of this registration
	First  int64         `json:"first,omitempty"` // AllocateProducerIDs
	Count  int64         `json:"count,omitempty"`
	Topics []TopicResult `json:"topics,omitempty"` // CreateTopics, DeleteTopics: in the order of the command
	Moves  []Failure     `json:"moves,omitempty"`  // Reassign: in the order of the command
	Users  []Failure     `json:"users,omitempty"`  // AlterUsers: of each deletion
	ACLs   [][]ACL       `json:"acls,omitempty"`   // AlterACLs: what each filter deleted
	// Items are SetConfigs', AddPartitions' and AlterQuotas', in the order of the command.
	Items []Failure `json:"items,omitempty"`
	// Features: of FeatureUpdates, in their order. In no log or snapshot.
	Features []Failure `json:"features,omitempty"`
	Failure
}

// TopicResult is what became of one topic.
type TopicResult struct {
	Name string  `json:"name"`
	ID   TopicID `json:"id"`
	Failure
}

// Failure is an error as data.
type Failure struct {
	Code string `json:"code,omitempty"` // empty: success
	Text string `json:"text,omitempty"`
}

// errorCodes are part of the wire and snapshot formats.
var errorCodes = map[string]error{
	"malformed": ErrMalformed, "invalid_topic": ErrInvalidTopic, "topic_exists": ErrTopicExists, "unknown_topic": ErrUnknownTopic,
	"invalid_partitions": ErrInvalidPartitions, "invalid_replication_factor": ErrInvalidReplicationFactor,
	"invalid_assignment": ErrInvalidAssignment, "unknown_broker": ErrUnknownBroker, "broker_id_taken": ErrBrokerIDTaken,
	"wrong_cluster": ErrWrongCluster, "not_founded": ErrNotFounded, "stale": ErrStale,
	"no_move": ErrNoMove, "feature_level": ErrFeatureLevel, "feature_update": ErrFeatureUpdate, "broker_alive": ErrBrokerAlive, "other_disk": ErrOtherDisk, "broker_in_use": ErrBrokerInUse,
	"unknown_user": ErrUnknownUser, "has_users": ErrHasUsers, "too_many_users": ErrTooManyUsers, "too_many_acls": ErrTooManyACLs,
	"too_many": ErrTooMany, "unknown_bridge": ErrUnknownBridge, "bridge_exists": ErrBridgeExists,
}

// FailureOf is err as data; the zero Failure for nil.
func FailureOf(err error) Failure {
	if err == nil {
		return Failure{}
	}
	for code, sentinel := range errorCodes {
		if errors.Is(err, sentinel) { // sentinels do not wrap one another, so the order does not matter
			return Failure{Code: code, Text: err.Error()}
		}
	}
	return Failure{Code: "other", Text: err.Error()}
}

// Err is the failure as an error that wraps the sentinel it was made from; nil for success.
func (f Failure) Err() error {
	if f.Code == "" {
		return nil
	}
	return &failureError{f}
}

type failureError struct{ f Failure }

func (e *failureError) Error() string { return e.f.Text }
func (e *failureError) Unwrap() error { return errorCodes[e.f.Code] }

// Encode is the command's bytes. It fails with ErrMalformed if the command is not valid: nothing that cannot be applied
// gets into the log.
func (c *Command) Encode() ([]byte, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	b, err := json.Marshal(c)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	if len(b)+1 > MaxCommandBytes {
		return nil, fmt.Errorf("%w: command of %d bytes, at most %d", ErrMalformed, len(b)+1, MaxCommandBytes)
	}
	return append([]byte{CommandVersion}, b...), nil
}

// DecodeCommand reads what Encode wrote, and nothing else.
func DecodeCommand(b []byte) (*Command, error) {
	if len(b) == 0 || len(b) > MaxCommandBytes {
		return nil, fmt.Errorf("%w: command of %d bytes", ErrMalformed, len(b))
	}
	if b[0] != CommandVersion {
		return nil, fmt.Errorf("%w: command of version %d, this broker knows %d: start a newer broker", ErrMalformed, b[0], CommandVersion)
	}
	c := new(Command)
	if err := strictJSON(b[1:], c); err != nil {
		return nil, err
	}
	if err := c.check(); err != nil {
		return nil, err
	}
	return c, nil
}

func strictJSON(b []byte, v any) error {
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		return fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	if dec.InputOffset() != int64(len(b)) {
		return fmt.Errorf("%w: bytes behind the object", ErrMalformed)
	}
	return nil
}

// check is what can be said of a command without knowing the state.
func (c *Command) check() error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("%w: "+format, append([]any{ErrMalformed}, args...)...)
	}
	if len(c.Request) > maxText {
		return bad("request id of %d bytes", len(c.Request))
	}
	kinds := 0
	if f := c.Found; f != nil {
		kinds++
		if f.ClusterID == "" || len(f.ClusterID) > maxText || f.Founder.ID == 0 {
			return bad("founding without cluster id or founder")
		}
	}
	if r := c.Register; r != nil {
		kinds++
		if r.Incarnation == 0 || len(r.Endpoints) == 0 || len(r.Endpoints) > maxEndpoints || r.RPC == "" ||
			len(r.RPC) > maxText || len(r.Rack) > maxText || r.Node > MaxNodeID {
			return bad("registration of node %d is incomplete", r.Node)
		}
		for _, e := range r.Endpoints {
			if e.Host == "" || len(e.Host) > maxText || len(e.Listener) > maxText || e.Port <= 0 || e.Port > 65535 {
				return bad("endpoint %q %s:%d", e.Listener, e.Host, e.Port)
			}
		}
	}
	if c.Fence != nil {
		kinds++
	}
	if t := c.CreateTopics; t != nil {
		kinds++
		if len(t.Topics) == 0 || len(t.Topics) > MaxTopicsPerCommand {
			return bad("%d topics", len(t.Topics))
		}
		for i := range t.Topics {
			if t.Topics[i].ID.IsZero() {
				return bad("topic %q has no id", t.Topics[i].Name)
			}
		}
	}
	if d := c.DeleteTopics; d != nil {
		kinds++
		if len(d.IDs) == 0 || len(d.IDs) > MaxTopicsPerCommand {
			return bad("%d topics", len(d.IDs))
		}
	}
	if a := c.AlterConfigs; a != nil {
		kinds++
	}
	if a := c.AllocateProducerIDs; a != nil {
		kinds++
		if a.Count <= 0 || a.Count > MaxProducerIDBlock {
			return bad("%d producer ids", a.Count)
		}
	}
	if f := c.SetFeature; f != nil {
		kinds++
		if f.Name == "" || len(f.Name) > maxText || f.Level < 0 {
			return bad("feature %q level %d", f.Name, f.Level)
		}
	}
	if r := c.ResetPeers; r != nil {
		kinds++
		leads := slices.ContainsFunc(r.Survivors, func(m raft.Member) bool { return m.ID == r.Leader })
		if r.Epoch == 0 || r.Term == 0 || r.Term > raft.MaxTerm || len(r.Survivors) == 0 || len(r.Survivors) > MaxReplicationFactor || !leads {
			return bad("reset of a partition's peers to epoch %d, term %d, %d survivors", r.Epoch, r.Term, len(r.Survivors))
		}
		conf := (&raft.Reset{Survivors: r.Survivors}).Conf()
		if err := conf.Check(); err != nil {
			return bad("reset of a partition's peers: %v", err)
		}
	}
	if c.ResetDone != nil {
		kinds++
	}
	if r := c.Reassign; r != nil {
		kinds++
		if len(r.Moves) == 0 || len(r.Moves) > MaxMovesPerCommand {
			return bad("%d moves", len(r.Moves))
		}
	}
	if s := c.Settle; s != nil {
		kinds++
		if len(s.Groups) == 0 || len(s.Groups) > MaxMovesPerCommand {
			return bad("%d settled groups", len(s.Groups))
		}
	}
	if u := c.Unregister; u != nil {
		kinds++
	}
	if u := c.AlterUsers; u != nil {
		kinds++
		if err := u.check(); err != nil {
			return err
		}
	}
	if a := c.AlterACLs; a != nil {
		kinds++
		if err := a.check(); err != nil {
			return err
		}
	}
	if c.SetConfigs != nil {
		kinds++
		if err := c.SetConfigs.check(); err != nil {
			return err
		}
	}
	if c.AddPartitions != nil {
		kinds++
		if err := c.AddPartitions.check(); err != nil {
			return err
		}
	}
	if c.AlterQuotas != nil {
		kinds++
		if err := c.AlterQuotas.check(); err != nil {
			return err
		}
	}
	if c.AlterBridge != nil {
		kinds++
		if err := c.AlterBridge.check(); err != nil {
			return err
		}
	}
	if kinds != 1 {
		return bad("%d kinds in one command", kinds)
	}
	return nil
}

// MaxNodeID is the largest node id: it must be a positive int32 for Kafka.
const MaxNodeID = raft.NodeID(1<<31 - 1)

// CheckTopicName applies Kafka's rules: 1 to 249 of [a-zA-Z0-9._-], and neither "." nor "..".
func CheckTopicName(name string) error {
	switch {
	case name == "":
		return fmt.Errorf("%w: the name is empty", ErrInvalidTopic)
	case name == "." || name == "..":
		return fmt.Errorf("%w: the name cannot be %q", ErrInvalidTopic, name)
	case len(name) > 249:
		return fmt.Errorf("%w: the name is %d long, at most 249", ErrInvalidTopic, len(name))
	}
	for i := range len(name) {
		switch c := name[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '.', c == '_', c == '-':
		default:
			return fmt.Errorf("%w: %q has a character other than ASCII letters, digits, '.', '_' and '-'", ErrInvalidTopic, name)
		}
	}
	return nil
}

// CheckNewTopic applies all rules that a new topic must meet in this image: the name's form, that it is free, and that
// it does not collide with another ('.' and '_' are the same in metric names).
func (im *Image) CheckNewTopic(name string) error {
	if err := CheckTopicName(name); err != nil {
		return err
	}
	t := im.colliding(name)
	switch {
	case t == nil:
		return nil
	case t.Name == name:
		return fmt.Errorf("%w: %q", ErrTopicExists, name)
	}
	return fmt.Errorf("%w: %q collides with existing topic %q", ErrInvalidTopic, name, t.Name)
}

// checkReplicas is the part of a placement's check that needs no brokers. first is the number of the first partition.
func checkReplicas(first int, replicas [][]raft.NodeID) error {
	if len(replicas) == 0 || len(replicas) > MaxPartitionsPerTopic {
		return fmt.Errorf("%w: %d, allowed are 1 to %d", ErrInvalidPartitions, len(replicas), MaxPartitionsPerTopic)
	}
	for i, r := range replicas {
		if len(r) == 0 || len(r) > MaxReplicationFactor {
			return fmt.Errorf("%w: %d for partition %d, allowed are 1 to %d", ErrInvalidReplicationFactor, len(r), first+i, MaxReplicationFactor)
		}
		for j, id := range r {
			if slices.Contains(r[:j], id) {
				return fmt.Errorf("%w: partition %d has broker %d twice", ErrInvalidAssignment, first+i, id)
			}
		}
	}
	return nil
}

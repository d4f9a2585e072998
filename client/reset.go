// Letting a group go on whose majority is gone for good.

package client

import (
	"context"
)

// ResetPlan is what resetting a group's peers would do, or has done.
type ResetPlan struct {
	Group     uint64         `json:"group" yaml:"group"`
	Topic     string         `json:"topic,omitempty" yaml:"topic,omitempty"` // empty: the metadata group
	Partition int32          `json:"partition" yaml:"partition"`
	Voters    []int32        `json:"voters" yaml:"voters"` // so far
	Epoch     uint32         `json:"epoch" yaml:"epoch"`   // the group's next one
	Term      uint64         `json:"term" yaml:"term"`
	Leader    int32          `json:"leader" yaml:"leader"` // the survivor with the longest log
	Survivors []int32        `json:"survivors" yaml:"survivors"`
	Replicas  []ResetReplica `json:"replicas" yaml:"replicas"`
	// Uncommitted entries of the leader's log become committed, though it is not known that they ever were acknowledged.
	Uncommitted uint64 `json:"uncommitted" yaml:"uncommitted"`
	Done        bool   `json:"done" yaml:"done"`
}

// ResetReplica is one replica as its broker shows it.
type ResetReplica struct {
	Node       int32  `json:"node" yaml:"node"`
	Lost       string `json:"lost,omitempty" yaml:"lost,omitempty"` // why it cannot go on; the rest is then unknown
	Role       string `json:"role,omitempty" yaml:"role,omitempty"`
	Epoch      uint32 `json:"epoch" yaml:"epoch"`
	Term       uint64 `json:"term" yaml:"term"`
	Commit     uint64 `json:"commit" yaml:"commit"`
	Last       uint64 `json:"last" yaml:"last"`
	LastTerm   uint64 `json:"lastTerm" yaml:"lastTerm"`
	NextOffset int64  `json:"nextOffset" yaml:"nextOffset"`
	Damaged    bool   `json:"damaged" yaml:"damaged"`
}

// resetRequest: without an epoch it only asks for the plan.
type resetRequest struct {
	Topic     string  `json:"topic,omitempty"`
	Partition int32   `json:"partition,omitempty"`
	Epoch     uint32  `json:"epoch,omitempty"`
	Leader    int32   `json:"leader,omitempty"`
	Survivors []int32 `json:"survivors,omitempty"`
}

const resetPath = "/v1/reset-peers"

// PlanReset says what resetting the peers of a partition would do; without a topic, of the metadata group. It changes nothing, and fails while
// the group has a leader or can elect one.
func (c *Control) PlanReset(ctx context.Context, topic string, partition int32) (*ResetPlan, error) {
	plan := new(ResetPlan)
	return plan, c.Post(ctx, resetPath, &resetRequest{Topic: topic, Partition: partition}, plan)
}

// ResetPeers carries out a plan: the survivors go on as the group, and whatever only the others had is lost. It fails if things
// have changed since the plan was made. It returns when the new leader serves.
func (c *Control) ResetPeers(ctx context.Context, plan *ResetPlan) (*ResetPlan, error) {
	done := new(ResetPlan)
	return done, c.Post(ctx, resetPath, &resetRequest{Topic: plan.Topic, Partition: plan.Partition, Epoch: plan.Epoch, Leader: plan.Leader, Survivors: plan.Survivors}, done)
}

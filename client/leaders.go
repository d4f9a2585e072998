// Leadership of partitions: moving it, and putting it where it belongs.

package client

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
)

// Election is what became of one partition in ElectPreferredLeaders.
type Election struct {
	Topic     string `json:"topic" yaml:"topic"`
	Partition int32  `json:"partition" yaml:"partition"`
	Error     string `json:"error,omitempty" yaml:"error,omitempty"` // empty: its preferred replica leads now
}

// ElectPreferredLeaders makes the preferred replica of each partition of these topics (none named: of all) lead, and returns the
// partitions for which something had to be done, by topic and number.
func (a *Admin) ElectPreferredLeaders(ctx context.Context, topics ...string) ([]Election, error) {
	var set kadm.TopicsSet
	for _, name := range topics {
		if err := a.addExisting(ctx, &set, name, -1); err != nil {
			return nil, err
		}
	}
	return a.elect(ctx, strings.Join(topics, ", "), set)
}

// ElectPreferredLeader is [Admin.ElectPreferredLeaders] for one partition; -1: all of the topic.
func (a *Admin) ElectPreferredLeader(ctx context.Context, topic string, partition int32) ([]Election, error) {
	var set kadm.TopicsSet
	if err := a.addExisting(ctx, &set, topic, partition); err != nil {
		return nil, err
	}
	subject := topic
	if partition >= 0 {
		subject = partitionName(topic, partition)
	}
	return a.elect(ctx, subject, set)
}

func (a *Admin) addExisting(ctx context.Context, set *kadm.TopicsSet, topic string, partition int32) error {
	partitions, err := a.existing(ctx, topic, partition)
	set.Add(topic, partitions...)
	return err
}

func (a *Admin) elect(ctx context.Context, subject string, set kadm.TopicsSet) ([]Election, error) {
	const op = "elect the preferred leaders"
	results, err := a.raw.ElectLeaders(fresh(ctx), kadm.ElectPreferredReplica, set)
	if err != nil {
		return nil, a.wrap(op, subject, err)
	}
	out := []Election{}
	for name, parts := range results {
		for p, r := range parts {
			e := Election{Topic: name, Partition: p}
			switch {
			case errors.Is(r.Err, kerr.ElectionNotNeeded):
				continue
			case r.Err != nil && r.ErrMessage != "":
				e.Error = r.ErrMessage
			case r.Err != nil:
				e.Error = r.Err.Error()
			}
			out = append(out, e)
		}
	}
	slices.SortFunc(out, func(x, y Election) int {
		return cmp.Or(cmp.Compare(x.Topic, y.Topic), cmp.Compare(x.Partition, y.Partition))
	})
	return out, nil
}

// LeaderMoved says where a partition's leadership went.
type LeaderMoved struct {
	Topic     string `json:"topic" yaml:"topic"`
	Partition int32  `json:"partition" yaml:"partition"`
	From      int32  `json:"from" yaml:"from"` // -1: nobody was known to lead
	Leader    int32  `json:"leader" yaml:"leader"`
}

// TransferLeader hands a partition's leadership to the replica on the given broker, or to whoever is fit (0), and returns once
// that one leads.
func (c *Control) TransferLeader(ctx context.Context, topic string, partition, to int32) (LeaderMoved, error) {
	var moved LeaderMoved
	path := fmt.Sprintf("/v1/topics/%s/partitions/%d/leader", url.PathEscape(topic), partition)
	err := c.Post(ctx, path, map[string]int32{"to": to}, &moved)
	return moved, err
}

// What is closed says so.

package client_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/balsamq/balsa/client"
)

func TestClosed(t *testing.T) {
	t.Parallel()
	_, cfg := fake(t, kfake.SeedTopics(1, "t"))
	a := must(client.NewAdmin(ctx(t), cfg))
	a.Close()
	a.Close()
	c := must(client.NewConsumer(ctx(t), client.ConsumerConfig{Config: cfg, Topics: []string{"t"}}))
	if err := c.Close(ctx(t)); err != nil {
		t.Fatal(err)
	}
	for what, call := range map[string]func() error{
		"Topic":         func() error { _, err := a.Topic(ctx(t), "t"); return err },
		"ListTopics":    func() error { _, err := a.ListTopics(ctx(t), false); return err },
		"CreateTopic":   func() error { _, err := a.CreateTopic(ctx(t), client.TopicSpec{Name: "u"}); return err },
		"DeleteTopic":   func() error { return a.DeleteTopic(ctx(t), "t") },
		"Offsets":       func() error { _, err := a.Offsets(ctx(t), "t"); return err },
		"Brokers":       func() error { _, err := a.Brokers(ctx(t)); return err },
		"ClusterStatus": func() error { _, err := a.ClusterStatus(ctx(t)); return err },
		"ListGroups":    func() error { _, err := a.ListGroups(ctx(t), nil, nil); return err },
		"Poll":          func() error { _, err := c.Poll(ctx(t), 1); return err },
		"Run":           func() error { return c.Run(ctx(t), func(context.Context, *kgo.Record) error { return nil }) },
		"Lag":           func() error { _, err := c.Lag(ctx(t)); return err },
		"Seek":          func() error { return c.Seek(ctx(t), "t", 0, client.FromTail(1)) },
	} {
		if err := call(); !errors.Is(err, client.ErrClosed) || !strings.Contains(err.Error(), "closed") {
			t.Errorf("%s of what is closed: %v", what, err)
		}
	}
}

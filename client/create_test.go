// Topics whose leaders take longer than the brokers wait for them.

package client_test

import (
	"errors"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/balsamq/balsa/client"
)

// timesOut makes each creation time out, whatever became of it.
func timesOut(c *kfake.Cluster) {
	c.ControlKey(int16(kmsg.CreateTopics), func(req kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		q := req.(*kmsg.CreateTopicsRequest)
		resp := q.ResponseKind().(*kmsg.CreateTopicsResponse)
		for i := range q.Topics {
			topic := kmsg.NewCreateTopicsResponseTopic()
			topic.Topic, topic.ErrorCode = q.Topics[i].Topic, kerr.RequestTimedOut.Code
			resp.Topics = append(resp.Topics, topic)
		}
		return resp, nil, true
	})
}

// A creation that times out at the broker has happened if the topic is there: its leaders are waited for.
func TestCreateTopicOutlivesTheRequest(t *testing.T) {
	c, cfg := fake(t, kfake.SeedTopics(4, "t"))
	a, err := client.NewAdmin(ctx(t), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.Close)
	timesOut(c)
	var leaderless atomic.Int32 // how many answers still lack leaders
	leaderless.Store(3)
	c.ControlKey(int16(kmsg.Metadata), func(req kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		q := req.(*kmsg.MetadataRequest)
		if len(q.Topics) != 1 || leaderless.Add(-1) < 0 {
			return nil, nil, false
		}
		resp := q.ResponseKind().(*kmsg.MetadataResponse)
		topic := kmsg.NewMetadataResponseTopic()
		topic.Topic = q.Topics[0].Topic
		for p := range int32(4) {
			part := kmsg.NewMetadataResponseTopicPartition()
			part.Partition = p
			if p >= 2 {
				part.Leader, part.ErrorCode = -1, kerr.LeaderNotAvailable.Code
			}
			topic.Partitions = append(topic.Partitions, part)
		}
		resp.Topics = append(resp.Topics, topic)
		return resp, nil, true
	})
	var told [][2]int
	topic, err := a.CreateTopic(ctx(t), client.TopicSpec{Name: "t", Partitions: 4, Progress: func(led, partitions int) { told = append(told, [2]int{led, partitions}) }})
	if err != nil || len(topic.Partitions) != 4 {
		t.Fatalf("%+v, %v", topic, err)
	}
	if len(told) == 0 || !slices.Equal(told, slices.Repeat([][2]int{{2, 4}}, len(told))) {
		t.Fatalf("told %v", told)
	}
}

// One that times out and has not happened is not waited for.
func TestCreateTopicTimesOut(t *testing.T) {
	c, cfg := fake(t)
	a, err := client.NewAdmin(ctx(t), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.Close)
	timesOut(c)
	begin := time.Now()
	if _, err := a.CreateTopic(ctx(t), client.TopicSpec{Name: "t"}); !errors.Is(err, client.ErrTimeout) || !errors.Is(err, kerr.RequestTimedOut) {
		t.Fatalf("after %v: %v", time.Since(begin), err)
	}
}

package broker

import (
	"context"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/balsamq/balsa/coordinator"
)

// A topic's own word wins over the broker's, and both are shown.
func TestReadConsistency(t *testing.T) {
	for _, tc := range []struct {
		broker bool
		topic  string
		want   bool
	}{{false, "", false}, {true, "", true}, {false, ReadQuorum, true}, {true, ReadLease, false}} {
		configs := map[string]string{}
		if tc.topic != "" {
			configs[readConsistency] = tc.topic
		}
		if got := (&reconciler{quorum: tc.broker}).settingsOf(&coordinator.Topic{Configs: configs, Partitions: make([]coordinator.Partition, 1)}, 0, nil).QuorumReads; got != tc.want {
			t.Errorf("broker %v, topic %q: %v", tc.broker, tc.topic, got)
		}
	}
	if err := checkTopicConfig(readConsistency, "fast"); err == nil {
		t.Error("a consistency that does not exist is taken")
	}

	c := newCluster(t, 1, true)
	c.nodes[0].cfg.ReadConsistency = ReadQuorum
	c.start(c.nodes...)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cl, err := kgo.NewClient(kgo.SeedBrokers(c.nodes[0].KafkaAddr()))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	admin := kadm.NewClient(cl)
	lease := ReadLease
	for name, configs := range map[string]map[string]*string{"as-the-broker": nil, "by-lease": {readConsistency: &lease}} {
		r, err := admin.CreateTopic(ctx, 1, 1, configs, name)
		if err != nil || r.Err != nil {
			t.Fatal(err, r.Err)
		}
	}
	value := func(rs kadm.ResourceConfigs, err error) string {
		t.Helper()
		if err != nil || len(rs) != 1 || rs[0].Err != nil {
			t.Fatalf("%+v, %v", rs, err)
		}
		for _, cf := range rs[0].Configs {
			if cf.Key == readConsistency {
				return cf.MaybeValue() + " by " + cf.Source.String()
			}
		}
		return "not shown"
	}
	if got := value(admin.DescribeTopicConfigs(ctx, "as-the-broker")); got != "quorum by STATIC_BROKER_CONFIG" {
		t.Error(got)
	}
	if got := value(admin.DescribeTopicConfigs(ctx, "by-lease")); got != "lease by DYNAMIC_TOPIC_CONFIG" {
		t.Error(got)
	}
	if got := value(admin.DescribeBrokerConfigs(ctx, 1)); got != "quorum by STATIC_BROKER_CONFIG" {
		t.Error(got)
	}
	for name, want := range map[string]bool{"as-the-broker": true, "by-lease": false} {
		id := c.nodes[0].Image().Topic(name).ID
		soon(t, "it is served", func() bool { return c.served(id) })
		rep := c.nodes[0].rec.replica(c.nodes[0].Image().TopicByID(id).Partitions[0].Group)
		if got := rep.Settings().QuorumReads; got != want {
			t.Errorf("%s: quorum reads %v", name, got)
		}
	}
}

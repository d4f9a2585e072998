package broker

import (
	"fmt"
	"slices"
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// Once a request that makes partitions is answered, each broker names a leader for each of them, the first time that it is asked: by CreateTopics,
// CreatePartitions and Metadata that creates, whichever broker was asked.
func TestEveryBrokerNamesTheLeadersOfWhatIsNew(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 3, true)
	c.calm() // nobody loses leadership again
	c.start(c.nodes...)
	c.awaitVoters(3)
	var seeds []*kgo.Broker
	for _, n := range c.nodes {
		cl, err := kgo.NewClient(kgo.SeedBrokers(n.KafkaAddr()), kgo.DisableClientMetrics())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(cl.Close)
		seeds = append(seeds, cl.SeedBrokers()[0])
		if _, err := metadataRequest(13, "none").RequestWith(t.Context(), seeds[len(seeds)-1]); err != nil { // connected before it counts
			t.Fatal(err)
		}
	}
	check := func(how string, i, partitions int, names ...string) {
		t.Helper()
		for k, n := range c.nodes { // in the process first: no round trip lends them time
			for _, name := range names {
				topic := n.Image().Topic(name)
				if topic == nil || len(topic.Partitions) != partitions {
					t.Fatalf("%s %d: broker %d does not know %s", how, i, n.NodeID(), name)
				}
				for p := range topic.Partitions {
					if _, _, ok := n.Leader(topic.ID, int32(p)); !ok {
						t.Fatalf("%s %d: broker %d names no leader for %s-%d", how, i, n.NodeID(), name, p)
					}
				}
			}
			resp, err := metadataRequest(13, names...).RequestWith(t.Context(), seeds[k])
			if err != nil {
				t.Fatal(err)
			}
			for _, topic := range resp.Topics {
				for _, p := range topic.Partitions {
					if p.ErrorCode != 0 || p.Leader < 0 {
						t.Fatalf("%s %d: broker %d says of %s-%d: %v, leader %d", how, i, n.NodeID(), *topic.Topic, p.Partition, kerr.ErrorForCode(p.ErrorCode), p.Leader)
					}
				}
			}
		}
	}
	for i := range 8 {
		seed := seeds[i%3]
		name, many := fmt.Sprintf("one-%d", i), 1+i%5
		req := kmsg.NewPtrCreateTopicsRequest()
		req.TimeoutMillis = int32(patience.Milliseconds())
		req.Topics = append(req.Topics, createTopic(name, int32(many), int16(1+i%3)))
		created, err := req.RequestWith(t.Context(), seed)
		if err != nil || created.Topics[0].ErrorCode != 0 {
			t.Fatalf("create: %v %+v", err, created)
		}
		check("CreateTopics", i, many, name)

		grow := kmsg.NewPtrCreatePartitionsRequest()
		grow.TimeoutMillis = req.TimeoutMillis
		gt := kmsg.NewCreatePartitionsRequestTopic()
		gt.Topic, gt.Count = name, int32(many+3)
		grow.Topics = append(grow.Topics, gt)
		grown, err := grow.RequestWith(t.Context(), seed)
		if err != nil || grown.Topics[0].ErrorCode != 0 {
			t.Fatalf("grow: %v %+v", err, grown)
		}
		check("CreatePartitions", i, many+3, name)

		auto := metadataRequest(13, "auto-a-"+name, "auto-b-"+name)
		auto.AllowAutoTopicCreation = true
		if _, err := auto.RequestWith(t.Context(), seed); err != nil {
			t.Fatal(err)
		}
		check("Metadata", i, 1, "auto-a-"+name, "auto-b-"+name)
	}
	req := kmsg.NewPtrCreateTopicsRequest() // more than one question holds
	req.TimeoutMillis = int32(patience.Milliseconds())
	var names []string
	for i := range 50 {
		names = append(names, fmt.Sprint("many-", i))
		req.Topics = append(req.Topics, createTopic(names[i], 30, 1))
	}
	created, err := req.RequestWith(t.Context(), seeds[0])
	if err != nil || slices.ContainsFunc(created.Topics, func(t kmsg.CreateTopicsResponseTopic) bool { return t.ErrorCode != 0 }) {
		t.Fatalf("create: %v %+v", err, created)
	}
	check("CreateTopics of many", 0, 30, names...)
}

// How many producers a map is to its brokers: they remember a bounded number, and a repeat of one that they have forgotten is written again.

package client_test

import (
	"fmt"
	"testing"

	"github.com/twmb/franz-go/pkg/kadm"

	"github.com/balsamq/balsa/brokertest"
	"github.com/balsamq/balsa/client"
)

// As many as there were writes at once, and no more.
func TestKVIsFewProducers(t *testing.T) {
	b := brokertest.Start(t)
	kv := createKV(t, b.Config(), func(c *client.KVConfig) { c.Partitions = 1 })
	ctx := soon(t)
	for i := range 20 {
		if _, err := kv.Put(ctx, fmt.Sprint(i), nil); err != nil {
			t.Fatal(err)
		}
	}
	topic := kadm.TopicsSet{}
	topic.Add("map", 0)
	described, err := kadm.NewClient(kv.Client()).DescribeProducers(ctx, topic)
	if err != nil {
		t.Fatal(err)
	}
	if n := len(described.SortedProducers()); n != 1 {
		t.Errorf("20 writes, one after the other, by %d producers", n)
	}
}
